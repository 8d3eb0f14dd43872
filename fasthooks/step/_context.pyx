# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""What a hook is handed: the context of a run and its values.

TensorFlow makes a SessionRunArgs, a RunOptions and a RunMetadata for every run. Here the first comes into being when a hook
reads it, the others when a hook is called after the run; all hooks of a run get the same ones, as with TensorFlow.
"""

from tensorflow.core.protobuf import config_pb2
from tensorflow.python.training import session_run_hook

cdef object _SessionRunArgs = session_run_hook.SessionRunArgs
cdef object _RunOptions = config_pb2.RunOptions
cdef object _RunMetadata = config_pb2.RunMetadata
cdef object _SessionRunValues = session_run_hook.SessionRunValues


cdef class RunContextBase(Counted):
    """Compiled part of `SessionRunContext`."""

    @property
    def _original_args(self):
        if self.args is None:
            self.args = _SessionRunArgs(self.fetches, self.feed_dict)
        return self.args

    @_original_args.setter
    def _original_args(self, value):
        self.args = value


class SessionRunContext(RunContextBase, session_run_hook.SessionRunContext):
    """TensorFlow's SessionRunContext, whose `original_args` are made when they are read."""

    def __copy__(self):
        copied = SessionRunContext(self._original_args, self._session)
        copied._stop_requested = self._stop_requested
        vars(copied).update(vars(self))
        return copied


cdef RunContextBase new_context(object fetches, object feed_dict, object session):
    cdef RunContextBase context = SessionRunContext.__new__(SessionRunContext)
    context.fetches = fetches
    context.feed_dict = feed_dict
    context._session = session
    context._stop_requested = False
    return context


cdef class RunProtos:
    cdef object options(self):
        if self.run_options is None:
            self.run_options = _RunOptions()
        return self.run_options

    cdef object metadata(self):
        if self.run_metadata is None:
            self.run_metadata = _RunMetadata()
        if self.data is not None:
            data, self.data = self.data, None
            self.run_metadata.ParseFromString(data)
        return self.run_metadata

    cdef int returned(self, bytes data) except -1:
        self.data = data
        if self.run_metadata is not None:   # the caller's, who looks at it without asking here
            self.metadata()
        return 0


cdef RunProtos protos_for(object options, object run_metadata):
    cdef RunProtos protos
    if options is None and run_metadata is None:
        return None
    protos = RunProtos.__new__(RunProtos)
    protos.run_options = options
    protos.run_metadata = run_metadata
    protos.wanted = True
    return protos


cdef object new_values(object results, RunProtos protos):
    return _SessionRunValues(results, protos.options(), protos.metadata())
