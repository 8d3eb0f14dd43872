"""`SecondOrStepTimer`, and one look at a timer of any class."""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int64_t

from fasthooks.triggers._guard cimport Watched

# What a decision says.
cdef enum Decision:
    QUIET = 0   # the hook's own method would do nothing that has not been done here
    ACT = 1     # call the hook's own method
    READ = 2    # read the global step again and ask `after_read`
    ODD = 3     # what the compiled rule does not read: as ACT

# One reading of `time.time`, shared by decisions between which nothing runs that takes time: no run, no hook in Python.
# Starts zeroed.
cdef struct Clock:
    bint known      # `time.time` was called
    bint usable     # it returned a number
    double now      # seconds since the epoch

# Reads it, unless that was done. Returns whether it is usable.
cdef int read_clock(Clock* clock) except -1


# A timer's attributes as numbers.
cdef struct Numbers:
    bint known              # all of the following could be read, those of the seconds aside
    bint first              # it never triggered
    bint in_secs, in_steps  # which period it has
    bint whole              # the period in steps is an int
    bint timed              # the period in seconds and the time of the last trigger could be read
    int64_t last            # step of the last trigger
    int64_t whole_steps     # period in steps
    double steps            # the same, if it is no int
    double secs, then       # period, and time of the last trigger, in seconds


cdef class Timer(Watched):
    # TensorFlow's private attributes: numbers or None, live in both directions.
    cdef public object _every_secs, _every_steps, _last_triggered_step, _last_triggered_time


cdef class TimerView:
    cdef readonly object timer  # the timer that is looked at
    cdef Timer compiled         # the same object, if it is ours
    cdef bint never             # its class never triggers
    cdef PyTypeObject* cls      # its class, if it is one whose methods and attributes are known; never dereferenced
    cdef unsigned long long tag     # `type_tag` of that class
    cdef unsigned long long version     # version of the timer's `__dict__` when it was last looked at
    cdef Numbers numbers
    cdef void read(self, PyObject* fields) noexcept
    cdef int decide(self, int64_t step, Clock* clock) except -1
