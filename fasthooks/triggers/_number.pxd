"""Numbers as runs return them and programs set them, read without Python code.

A module that cimports these calls `numpy.import_array()`.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include "numpy/arrayscalars.h"

    /* Far enough from the ends of int64 that no sum of three of them overflows. */
    #define FASTHOOKS_STEP_LIMIT ((npy_int64)1 << 61)

    static CYTHON_INLINE int fasthooks_as_step(PyObject *value, npy_int64 *out) {
        npy_int64 step;
        if (value == NULL) return 0;
        if (Py_TYPE(value) == &PyInt64ArrType_Type) {
            step = PyArrayScalar_VAL(value, Int64);
        } else if (PyLong_CheckExact(value)) {
    #if PY_VERSION_HEX >= 0x030C0000
            if (PyUnstable_Long_IsCompact((PyLongObject *)value)) {
                *out = PyUnstable_Long_CompactValue((PyLongObject *)value);
                return 1;
            }
    #endif
            int overflow;
            step = PyLong_AsLongLongAndOverflow(value, &overflow);
            if (overflow) return 0;
        } else if (Py_TYPE(value) == &PyInt32ArrType_Type) {
            step = PyArrayScalar_VAL(value, Int32);
            /* NumPy's own sums wrap or raise near the end of int32. */
            if (step > ((npy_int64)1 << 30) || step < -((npy_int64)1 << 30)) return 0;
        } else {
            return 0;
        }
        if (step > FASTHOOKS_STEP_LIMIT || step < -FASTHOOKS_STEP_LIMIT) return 0;
        *out = step;
        return 1;
    }

    /* An int, or a float of any class, numpy.float64 among them. */
    static CYTHON_INLINE int fasthooks_as_number(PyObject *value, double *out) {
        npy_int64 integer;
        if (value == NULL) return 0;
        if (PyFloat_Check(value)) {
            *out = PyFloat_AS_DOUBLE(value);
            return 1;
        }
        if (PyLong_CheckExact(value) && fasthooks_as_step(value, &integer)) {
            *out = (double)integer;
            return 1;
        }
        return 0;
    }

    /* 1: NaN, 0: a number that is none, -1: not a scalar this function knows. */
    static CYTHON_INLINE int fasthooks_is_nan(PyObject *value) {
        if (value == NULL) return -1;
        if (Py_TYPE(value) == &PyFloat32ArrType_Type) return npy_isnan(PyArrayScalar_VAL(value, Float32));
        if (Py_TYPE(value) == &PyFloat64ArrType_Type) return npy_isnan(PyArrayScalar_VAL(value, Float64));
        if (Py_TYPE(value) == &PyHalfArrType_Type)
            return (PyArrayScalar_VAL(value, Half) & 0x7fff) > 0x7c00;
        return -1;
    }

    static CYTHON_INLINE PyObject *fasthooks_new_int64(npy_int64 step) {
        PyObject *scalar = PyArrayScalar_New(Int64);
        if (scalar != NULL) PyArrayScalar_ASSIGN(scalar, Int64, step);
        return scalar;
    }

    static CYTHON_INLINE int fasthooks_is_int32(PyObject *value) {
        return Py_TYPE(value) == &PyInt32ArrType_Type;
    }

    static CYTHON_INLINE int fasthooks_is_int64(PyObject *value) {
        return Py_TYPE(value) == &PyInt64ArrType_Type;
    }
    """
    # Reads an int, numpy.int64 or numpy.int32 of moderate size. False: anything else, `out` is not set.
    bint as_step "fasthooks_as_step"(PyObject* value, int64_t* out) noexcept
    bint as_number "fasthooks_as_number"(PyObject* value, double* out) noexcept
    int is_nan "fasthooks_is_nan"(PyObject* value) noexcept
    object new_int64 "fasthooks_new_int64"(int64_t step)
    bint is_int32 "fasthooks_is_int32"(PyObject* value) noexcept
    bint is_int64 "fasthooks_is_int64"(PyObject* value) noexcept
