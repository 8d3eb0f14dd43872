# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""The native call of `Session.run`, for arguments that stay the same.

`Session.run` ends in `TF_SessionRun_wrapper`, which pybind11 made of a C++ function of the same name. That function does all that
a run does: feeds become tensors, the interpreter's lock is given up, the runtime runs, results become arrays. What pybind11 puts
before it, the conversion of each tensor and operation by a look into tables of types, takes a good part of a short run. So the
function is called by itself, with vectors made once, where

- TensorFlow is of a version whose source was read: what follows holds in all from 2.15 to 2.22;
- the function is found under its mangled name, which tells the types of all arguments and whose standard library they are of
  (GNU's; so elsewhere than on Linux, the wrapper is called);
- the objects keep their pointers where pybind11 does: that is tried with each tensor, whose parts the object itself tells too.

What pybind11 puts behind it, an exception for a bad status and one that is pending, is made here as there. But a C++ exception
must not come through a function in C: what may throw one where pybind11 would catch it, the conversion of texts and objects that
are fed, is left to the wrapper.
"""

import ctypes
import sys

import tensorflow
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import errors

from fasthooks import known_tensorflow

cimport numpy as cnp
from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t

from fasthooks.triggers._guard cimport dict_version, new_dict_version, watch_names

cnp.import_array()

cdef extern from "Python.h":
    # It steals a reference to the item.
    int PyList_SetItem(object values, Py_ssize_t index, PyObject* item) except -1


# `std::vector` of GNU's standard library.
cdef struct Vector:
    void* begin
    void* end
    void* capacity


# tensorflow::TF_SessionRun_wrapper, which appends to `values`, of capacity enough, one new reference for each of `outputs`; and
# what it takes to handle a status.
cdef void (*_run_directly)(void* session, const void* options, const Vector* inputs, const Vector* arrays, const Vector* outputs,
                           const Vector* targets, void* metadata, void* status, Vector* values) noexcept
cdef void* (*_new_status)() noexcept
cdef void (*_delete_status)(void* status) noexcept
cdef int (*_code)(const void* status) noexcept
cdef const char* (*_message)(const void* status) noexcept

cdef str _FUNCTION = (
    "_ZN10tensorflow21TF_SessionRun_wrapperEP10TF_SessionPK9TF_BufferRKSt6vectorI9TF_OutputSaIS6_EERKS5_IP7_objectSaISC_EESA_"
    "RKS5_IP12TF_OperationSaISI_EEPS2_P10TSL_StatusPSE_")
# Whether all of it was found; -1: nobody has looked yet.
cdef int _found = -1

cdef object _run = pywrap_tf_session.TF_SessionRun_wrapper
cdef object _Session, _Buffer, _Output, _Operation
_Session, _Buffer, _Output, _Operation = [
    getattr(pywrap_tf_session, name, None) for name in ("TF_Session", "TF_Buffer", "TF_Output", "TF_Operation")]
# The names that `Session.run` finds its native call by, and their version when it was last seen to be TensorFlow's.
cdef dict _names = pywrap_tf_session.__dict__
cdef unsigned long long _version = 0
watch_names(("TF_SessionRun_wrapper",))


cdef bint is_native_call_own() except -1:
    global _version
    cdef unsigned long long version = dict_version(<PyObject*>_names)
    if version == _version and version != 0:
        return True
    version = new_dict_version(<PyObject*>_names)
    if _names.get("TF_SessionRun_wrapper") is not _run:
        return False
    _version = version
    return True


def find(names):
    """Looks for all that a direct call needs; see the top of this module.

    Args:
      names: What has TensorFlow's classes, whose objects are to be laid out as pybind11 does it: head, pointer, a holder of two
        words, weak references, flags.

    Returns:
      Whether all of it is there.
    """
    global _run_directly, _new_status, _delete_status, _code, _message
    if not known_tensorflow.is_tested(str(getattr(tensorflow, "__version__", ""))):
        return False
    for name in ("TF_Session", "TF_Buffer", "TF_Output", "TF_Operation"):
        cls = getattr(names, name, None)
        if type(cls).__name__ != "pybind11_type" or cls.__basicsize__ != sizeof(PyObject) + 5 * sizeof(void*):
            return False
    module = sys.modules.get(_Session.__module__)
    # Whoever replaced it before this module was imported is called.
    if type(_run) is not type(len) or _run is not getattr(module, "TF_SessionRun_wrapper", None):
        return False
    try:
        # Loaded already; what it needs is searched too.
        library = ctypes.CDLL(module.__file__)
        address = {name: ctypes.cast(library[name], ctypes.c_void_p).value for name in (
            _FUNCTION, "TF_NewStatus", "TF_DeleteStatus", "TF_GetCode", "TF_Message")}
    except (OSError, AttributeError):
        return False
    (<void**>&_run_directly)[0] = <void*><uintptr_t>address[_FUNCTION]
    (<void**>&_new_status)[0] = <void*><uintptr_t>address["TF_NewStatus"]
    (<void**>&_delete_status)[0] = <void*><uintptr_t>address["TF_DeleteStatus"]
    (<void**>&_code)[0] = <void*><uintptr_t>address["TF_GetCode"]
    (<void**>&_message)[0] = <void*><uintptr_t>address["TF_Message"]
    return True


cdef inline void* _pointer(object held) noexcept:
    # That of an object of pybind11's; NULL: it was made without, or keeps it elsewhere, as its second flag tells.
    cdef void** words = <void**>(<char*><PyObject*>held + sizeof(PyObject))
    return words[0] if (<unsigned char*>&words[4])[0] & 2 else NULL


cdef class NativeCall(Counted):
    """The native call for some tensors to fetch and operations to run.

    Args:
      outputs: The TF_Output of each tensor.
      operations: The TF_Operation of each operation.
    """

    def __cinit__(self, list outputs not None, list operations not None):
        global _found
        self.outputs = outputs
        self.operations = operations
        if _found < 0:
            _found = find(pywrap_tf_session)
        self.is_direct = _found and self.hold()

    def __dealloc__(self):
        PyMem_Free(self.fetched)
        PyMem_Free(self.run_too)

    cdef bint hold(self) except -1:
        cdef Py_ssize_t i
        self.n_fetched, self.n_run_too = len(self.outputs), len(self.operations)
        self.fetched = <Output*>PyMem_Malloc(self.n_fetched * sizeof(Output))
        self.run_too = <void**>PyMem_Malloc(self.n_run_too * sizeof(void*))
        if self.fetched is NULL or self.run_too is NULL:
            raise MemoryError
        for i in range(self.n_fetched):
            output = self.outputs[i]
            if type(output) is not _Output or _pointer(output) is NULL:
                return False
            self.fetched[i] = (<Output*>_pointer(output))[0]
            operation = output.oper
            if (type(operation) is not _Operation or self.fetched[i].oper is not _pointer(operation)
                    or self.fetched[i].index != output.index):
                return False
        for i in range(self.n_run_too):
            operation = self.operations[i]
            if type(operation) is not _Operation:
                return False
            self.run_too[i] = _pointer(operation)
            if self.run_too[i] is NULL:
                return False
        return True

    cpdef list run(self, object session, object options, dict feeds, object metadata):
        """Makes the call; arguments and result as those of `TF_SessionRun_wrapper`."""
        cdef void* pointers[3]
        cdef list values = None
        if (not self.is_direct or feeds is None or type(session) is not _Session
                or (options is not None and type(options) is not _Buffer)
                or (metadata is not None and type(metadata) is not _Buffer)):
            return _run(session, options, feeds, self.outputs, self.operations, metadata)
        pointers[0] = _pointer(session)
        pointers[1] = NULL if options is None else _pointer(options)
        pointers[2] = NULL if metadata is None else _pointer(metadata)
        if pointers[0] is not NULL:
            values = self.run_directly(pointers[0], pointers[1], feeds, pointers[2])
        return _run(session, options, feeds, self.outputs, self.operations, metadata) if values is None else values

    cdef list run_directly(self, void* session, void* options, dict feeds, void* metadata):
        cdef Py_ssize_t n_fed = len(feeds), n = self.n_fetched, i = 0
        cdef Py_ssize_t n_given = 0
        cdef PyObject* value
        cdef Vector inputs, arrays, outputs, targets, values
        cdef Output* fed
        cdef void* status
        cdef list result = [None] * n
        # One block for what this call alone needs.
        cdef char* block = <char*>PyMem_Malloc(n_fed * (sizeof(Output) + sizeof(void*)) + n * sizeof(void*))
        if block is NULL:
            raise MemoryError
        status = _new_status()
        try:
            inputs.begin = block
            inputs.end = inputs.capacity = arrays.begin = block + n_fed * sizeof(Output)
            arrays.end = arrays.capacity = values.begin = values.end = <char*>arrays.begin + n_fed * sizeof(void*)
            values.capacity = <char*>values.begin + n * sizeof(void*)
            outputs.begin = self.fetched
            outputs.end = outputs.capacity = self.fetched + n
            targets.begin = self.run_too
            targets.end = targets.capacity = self.run_too + self.n_run_too
            fed = <Output*>block
            for output, array in feeds.items():
                if type(output) is not _Output or _pointer(output) is NULL:
                    raise TypeError(f"feeds must have TF_Output as keys; got {output!r}")
                if not cnp.PyArray_CheckExact(array) or not cnp.PyTypeNum_ISNUMBER(cnp.PyArray_TYPE(array)):
                    return None
                fed[i] = (<Output*>_pointer(output))[0]
                (<PyObject**>arrays.begin)[i] = <PyObject*>array
                i += 1
            _run_directly(session, options, &inputs, &arrays, &outputs, &targets, metadata, status, &values)
            # Values of a run that failed are given too: `result` holds, and frees, all.
            for i in range(<PyObject**>values.end - <PyObject**>values.begin):
                value = (<PyObject**>values.begin)[i]
                if value is not NULL:
                    PyList_SetItem(result, i, value)
                    n_given += 1
            if _code(status) != 0:
                PyErr_Clear()
                raise _error(status)
            _raise_pending()
            if n_given < n:     # nothing but memory is known to be missing then
                raise MemoryError
            return result
        finally:
            _delete_status(status)
            PyMem_Free(block)


cdef int _raise_pending() except -1:
    # What NumPy raised while an array was made a scalar.
    return -1 if PyErr_Occurred() is not NULL else 0


cdef object _error(const void* status):
    # The exception that pybind11 makes of a status, without its payloads: `Session.run` drops them.
    return errors.exception_type_from_error_code(_code(status))(None, None, _message(status).decode("utf-8"))
