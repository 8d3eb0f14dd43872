"""The native call of `Session.run`, for arguments that stay the same."""

cimport cython

from fasthooks.step._live cimport Counted


# What TensorFlow's C API calls TF_Output.
cdef struct Output:
    void* oper                      # TF_Operation
    int index


# The native call for some tensors to fetch and operations to run. Used by any number of threads at once.
@cython.final
cdef class NativeCall(Counted):
    cdef readonly list outputs, operations  # as TensorFlow's own objects
    cdef readonly bint is_direct    # whether the C++ function behind the call is called by itself
    cdef Output* fetched            # the same in C
    cdef void** run_too
    cdef Py_ssize_t n_fetched, n_run_too
    # Copies them there. Returns whether all are what they seem to be.
    cdef bint hold(self) except -1
    # Makes the call; arguments as those of `TF_SessionRun_wrapper`. Returns the values of the tensors.
    cpdef list run(self, object session, object options, dict feeds, object metadata)
    # None: something is fed that is the wrapper's to convert.
    cdef list run_directly(self, void* session, void* options, dict feeds, void* metadata)


# Whether `Session.run` would make TensorFlow's own native call.
cdef bint is_native_call_own() except -1
