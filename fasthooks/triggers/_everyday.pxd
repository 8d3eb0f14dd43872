"""Triggers of the everyday hooks: a mean over all runs, a limit of time."""

from libc.stdint cimport int64_t

from fasthooks.triggers._trigger cimport HookTrigger, PeriodTrigger


cdef class MeanTrigger(PeriodTrigger):
    cdef public object _packed      # a float64 vector, the global step and values, fetched on every run; None: no mean is taken
    cdef public object _sums        # the last step and the sums of the values since the last row; None: no run since
    cdef public int64_t _added      # runs that they are of
    cdef bint add_packed(self, object packed, int64_t* step) except -1


cdef class TimeLimitTrigger(HookTrigger):
    cdef public double _limit       # when to stop, seconds since the epoch
