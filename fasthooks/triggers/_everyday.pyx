# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Triggers of the everyday hooks: a mean over all runs, a limit of time."""

cimport numpy as cnp
from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from fasthooks.triggers._number cimport new_int64
from fasthooks.triggers._timer cimport ACT, QUIET, Clock, read_clock
from fasthooks.triggers._trigger cimport HookTrigger, PeriodTrigger

cnp.import_array()

# Beyond it float64 does not hold every step, nor NaN any.
cdef double _LARGEST_STEP = 9007199254740992.0


cdef class MeanTrigger(PeriodTrigger):
    """Acts as its base does. On the other runs it adds up what they returned for `_packed`, if there is that."""

    cdef tuple watched_fields(self):
        return *PeriodTrigger.watched_fields(self), "_packed", "_sums", "_added"

    cdef PyObject* quiet_tensor(self, PyObject* fields) noexcept:
        return PeriodTrigger.quiet_tensor(self, fields) if self._packed is None else <PyObject*>self._packed

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef int64_t step = 0
        if self._packed is None or value is NULL:
            return PeriodTrigger.after(self, fields, value, clock)
        if not self.add_packed(<object>value, &step):
            return QUIET    # somebody called the hook by hand
        read = new_int64(step)
        return PeriodTrigger.after(self, fields, <PyObject*>read, clock)

    def take(self, packed=None):
        """Adds what a run returned for `_packed`, if it is given, and begins anew.

        Returns:
          The last step and the sums, a vector, and of how many runs; None if there was none. In one go: other threads add too.
        """
        cdef int64_t step
        if packed is not None:
            self.add_packed(packed, &step)
        sums, self._sums = self._sums, None
        return None if sums is None else (sums, self._added)

    cdef bint add_packed(self, object packed, int64_t* step) except -1:
        # Returns False, and adds nothing, where that is no such vector.
        cdef cnp.npy_intp i, size
        cdef double* values
        cdef double* sums
        if not _is_vector(packed) or not (self._sums is None or _is_vector(self._sums)):
            return False
        size = cnp.PyArray_SIZE(packed)
        values = <double*>cnp.PyArray_DATA(packed)
        if size == 0 or not -_LARGEST_STEP <= values[0] <= _LARGEST_STEP:
            return False
        step[0] = <int64_t>values[0]
        if self._sums is None:
            self._sums = packed.copy()
            self._added = 1
            return True
        if cnp.PyArray_SIZE(self._sums) != size:
            return False
        sums = <double*>cnp.PyArray_DATA(self._sums)
        sums[0] = values[0]
        for i in range(1, size):
            sums[i] += values[i]
        self._added += 1
        return True


cdef inline bint _is_vector(object value) noexcept:
    return (cnp.PyArray_Check(value) and cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_FLOAT64
            and cnp.PyArray_NDIM(<cnp.ndarray>value) == 1 and cnp.PyArray_ISCARRAY(<cnp.ndarray>value))


cdef class TimeLimitTrigger(HookTrigger):
    """Acts when a run has ended and it is `_limit` or later by `time.time`."""

    def __cinit__(self):
        self._limit = INFINITY

    cdef tuple watched_fields(self):
        return ("_limit",)

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        return QUIET if read_clock(clock) and clock.now < self._limit else ACT
