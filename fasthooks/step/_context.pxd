"""What a hook is handed: the context of a run and its values, made as far as they are looked at."""

from fasthooks.step._live cimport Counted


cdef class RunContextBase(Counted):
    cdef object fetches, feed_dict  # the caller's
    cdef object args                # the SessionRunArgs of these two, once it was looked at
    # TensorFlow's private attributes, live.
    cdef public object _session, _stop_requested


# The RunOptions and RunMetadata of one run, shared by all its hooks.
cdef class RunProtos:
    cdef object run_options, run_metadata   # None: not looked at yet
    cdef bytes data                 # what the run returned as metadata, serialized; None: nothing, or it was read
    cdef bint wanted                # the caller or a hook gave options, or the caller wants metadata
    cdef object options(self)
    cdef object metadata(self)
    # Takes note of the metadata of the run.
    cdef int returned(self, bytes data) except -1


# The protos that a run was given; None: neither.
cdef RunProtos protos_for(object options, object run_metadata)

cdef RunContextBase new_context(object fetches, object feed_dict, object session)

# SessionRunValues of these results.
cdef object new_values(object results, RunProtos protos)
