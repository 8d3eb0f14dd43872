# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""`SecondOrStepTimer`, and one look at a timer of any class.

The rule is that of TensorFlow's `SecondOrStepTimer`, attribute names included. For numbers that do not occur on every
step (a float step, a Decimal period) the compiled rule does not answer, and the Python method does.
"""

import time
from numbers import Real
from types import BuiltinFunctionType

from tensorflow.python.training import basic_session_run_hooks as stock

cimport cython
cimport numpy as cnp
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport INT32_MAX, int64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fasthooks.triggers._guard cimport (
    WATCHES, Watched, check_self, definitions_known, dict_version, instance_dict, is_stock, new_dict_version, new_type_tag,
    type_tag, watch_names)
from fasthooks.triggers._number cimport as_number, as_step, is_int32

cnp.import_array()

cdef extern from "Python.h":
    void* PyCFunction_GetFunction(PyObject*) noexcept

# Timer classes in plain Python whose attributes a view may read: those with the rule of `Timer` (value False) and those
# that never trigger (value True).
cdef dict _plain_timers = {getattr(stock, "SecondOrStepTimer", None): False, getattr(stock, "NeverTriggerTimer", None): True}

cdef dict _time_names = time.__dict__
cdef object _builtin_clock_object = time.time
cdef PyObject* _builtin_clock = <PyObject*>_builtin_clock_object
# NULL: a test tool had replaced the clock already. A function in Python has none in C: to ask for it sets an error.
cdef void* _builtin_function = (
    PyCFunction_GetFunction(_builtin_clock) if type(_builtin_clock_object) is BuiltinFunctionType else NULL)


cdef int read_clock(Clock* clock) except -1:
    cdef timespec wall
    cdef PyObject* reader
    # `time.time` is looked up each time: programs and tests replace it.
    if not clock.known:
        clock.known = True
        reader = PyDict_GetItemWithError(_time_names, "time")
        if (_builtin_function is not NULL and reader is _builtin_clock
                and PyCFunction_GetFunction(reader) == _builtin_function):
            # What `time.time` itself does, without the call. Some test tools exchange the function inside the object.
            clock_gettime(CLOCK_REALTIME, &wall)
            clock.now = <double>(<int64_t>wall.tv_sec * 1000000000 + wall.tv_nsec) / 1e9
            clock.usable = True
            return True
        now = time.time()
        clock.usable = as_number(<PyObject*>now, &clock.now)
        if not clock.usable and isinstance(now, Real):
            clock.now = float(now)
            clock.usable = True
    return clock.usable


cdef void read_timer(Numbers* numbers, PyObject* every_secs, PyObject* every_steps, PyObject* last_step,
                     PyObject* last_time) noexcept:
    # In one go, before the clock is read: that call may run any Python code and free the objects.
    numbers.first = last_step is <PyObject*>None
    numbers.in_secs = every_secs is not NULL and every_secs is not <PyObject*>None
    numbers.in_steps = every_steps is not NULL and every_steps is not <PyObject*>None
    numbers.whole = numbers.in_steps and as_step(every_steps, &numbers.whole_steps)
    numbers.known = (
        (numbers.first or as_step(last_step, &numbers.last))
        and (numbers.whole or not numbers.in_steps or as_number(every_steps, &numbers.steps))
        # NumPy's own sum would wrap or raise.
        and not (numbers.whole and numbers.whole_steps > INT32_MAX and not numbers.first and is_int32(last_step)))
    # Not looked at until the steps have been compared: TensorFlow does not either.
    numbers.timed = numbers.in_secs and as_number(every_secs, &numbers.secs) and as_number(last_time, &numbers.then)


cdef int timer_rule(Numbers* numbers, int64_t step, Clock* clock) except -1:
    if numbers.first:
        return ACT
    if not numbers.known:
        return ODD
    if numbers.last == step:
        return QUIET
    if numbers.in_secs:
        if not numbers.timed or not read_clock(clock):
            return ODD
        if clock.now >= numbers.then + numbers.secs:
            return ACT
    if numbers.whole:
        return ACT if step >= numbers.last + numbers.whole_steps else QUIET
    return ACT if numbers.in_steps and step >= numbers.last + numbers.steps else QUIET


cdef class Timer(Watched):
    """Compiled part of `SecondOrStepTimer`: the same decisions for the numbers that occur on every step."""

    cdef tuple watched_methods(self):
        return "should_trigger_for_step", "update_last_triggered_step", "last_triggered_step", "reset"

    cdef tuple watched_fields(self):
        return "_every_secs", "_every_steps", "_last_triggered_step", "_last_triggered_time"

    @cython.binding(True)
    def should_trigger_for_step(self, step):
        """Returns whether the timer triggers for `step`.

        Args:
          step: Global step or iteration number, an integer.

        Returns:
          True on the first call; False for the step that triggered last; else whether `every_steps` steps or
          `every_secs` seconds have passed since the last trigger. every_steps=3, first trigger at 1: true at 4, 7, 10.
        """
        cdef int64_t number
        cdef Clock clock
        cdef Numbers numbers
        cdef int decision
        check_self(<PyObject*>self, Timer)
        if as_step(<PyObject*>step, &number) and is_stock(self):
            clock.known = False
            read_timer(&numbers, <PyObject*>self._every_secs, <PyObject*>self._every_steps,
                       <PyObject*>self._last_triggered_step, <PyObject*>self._last_triggered_time)
            decision = timer_rule(&numbers, number, &clock)
            if decision != ODD:
                return decision == ACT
        return super(Timer, self).should_trigger_for_step(step)


cdef class TimerView:
    """One look at a timer of any class: ours, TensorFlow's, or somebody's own (which always means ODD)."""

    def __cinit__(self, timer):
        cdef unsigned long long tag
        self.timer = timer
        if isinstance(timer, Timer):
            self.compiled = timer
        elif type(timer) in _plain_timers:
            self.never = _plain_timers[type(timer)]
            watch_names(("should_trigger_for_step",))
            tag = new_type_tag((<PyObject*>timer).ob_type)
            if definitions_known(type(timer), ("should_trigger_for_step",), ()):
                self.cls = (<PyObject*>timer).ob_type
                self.tag = tag

    cdef void read(self, PyObject* fields) noexcept:
        read_timer(&self.numbers, PyDict_GetItemWithError(<object>fields, "_every_secs"),
                   PyDict_GetItemWithError(<object>fields, "_every_steps"),
                   PyDict_GetItemWithError(<object>fields, "_last_triggered_step"),
                   PyDict_GetItemWithError(<object>fields, "_last_triggered_time"))

    cdef int decide(self, int64_t step, Clock* clock) except -1:
        cdef Timer compiled = self.compiled
        cdef Numbers numbers
        cdef PyObject* fields
        cdef unsigned long long version
        if compiled is not None:
            if not is_stock(compiled):
                return ODD
            read_timer(&numbers, <PyObject*>compiled._every_secs, <PyObject*>compiled._every_steps,
                       <PyObject*>compiled._last_triggered_step, <PyObject*>compiled._last_triggered_time)
            return timer_rule(&numbers, step, clock)
        if self.tag == 0 or (<PyObject*>self.timer).ob_type is not self.cls or type_tag(self.cls) != self.tag:
            return ODD
        fields = instance_dict(<PyObject*>self.timer)
        if fields is NULL:
            return ODD
        try:
            version = dict_version(fields)
            if version == 0 or version != self.version:
                version = new_dict_version(fields)
                if PyDict_GetItemWithError(<object>fields, "should_trigger_for_step") is not NULL:
                    return ODD
                self.read(fields)
                self.version = version
            elif WATCHES:   # the version does not tell of numbers
                self.read(fields)
        finally:
            Py_DECREF(<object>fields)
        if self.never:
            return QUIET
        numbers = self.numbers
        return timer_rule(&numbers, step, clock)
