# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""What a hook is handed: the context of a run and its values, made as far as they are looked at.

TensorFlow makes a SessionRunArgs, a RunOptions and a RunMetadata for every run. Few hooks read them, and together they
cost more than all else that is done for a hook in plain Python. Here they come into being when a hook asks for them;
all hooks of a run get the same ones, as with TensorFlow.
"""

from tensorflow.core.protobuf import config_pb2
from tensorflow.python.training import session_run_hook

cdef object _SessionRunArgs = session_run_hook.SessionRunArgs
cdef object _RunOptions = config_pb2.RunOptions
cdef object _RunMetadata = config_pb2.RunMetadata
cdef object _new_tuple = tuple.__new__
cdef object _tuple_item = tuple.__getitem__
cdef object _tuple_items = tuple.__iter__


cdef class RunContextBase:
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


cdef RunProtos given_protos(object options, object run_metadata):
    cdef RunProtos protos = RunProtos.__new__(RunProtos)
    protos.run_options = options
    protos.run_metadata = run_metadata
    protos.wanted = True
    return protos


cdef object _resolved(object item, Py_ssize_t index):
    if type(item) is RunProtos:
        return (<RunProtos>item).options() if index == 1 else (<RunProtos>item).metadata()
    return item


class SessionRunValues(session_run_hook.SessionRunValues):
    """TensorFlow's SessionRunValues, whose `options` and `run_metadata` are made when they are read."""

    __slots__ = ()

    @property
    def options(self):
        return _resolved(_tuple_item(self, 1), 1)

    @property
    def run_metadata(self):
        return _resolved(_tuple_item(self, 2), 2)

    def __iter__(self):
        return iter([_resolved(item, index) for index, item in enumerate(_tuple_items(self))])

    def __getitem__(self, index):
        return tuple(self)[index]

    def __eq__(self, other):
        return tuple(self) == (tuple(other) if isinstance(other, tuple) else other)

    def __ne__(self, other):
        return not self == other

    __hash__ = session_run_hook.SessionRunValues.__hash__

    def __repr__(self):
        return repr(session_run_hook.SessionRunValues(*self))


cdef object _SessionRunValues = SessionRunValues


cdef object new_values(object results, RunProtos protos):
    return _new_tuple(_SessionRunValues, (results, protos, protos))
