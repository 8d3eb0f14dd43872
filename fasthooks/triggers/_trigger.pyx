# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""When a hook acts: step, seconds, NaN, never, always.

A trigger answers, with a few C compares, whether the Python method of its hook would do anything on this step. If it
would, or if anything is not as expected (an odd type, a timer of somebody's own), the answer is ACT and the hook's own
method runs: a trigger never does a hook's work, it only tells when there is none. What that method would have changed
on a step without work (a counter, the next step to expect) the trigger changes in its place.

The rules are those of TensorFlow's `basic_session_run_hooks.py`, attribute names included. All calls happen with the
GIL held; one decision allocates nothing but the counters that TensorFlow keeps as Python objects.
"""

import logging

from tensorflow.python.training.session_run_hook import SessionRunArgs

cimport numpy as cnp
from cpython.dict cimport PyDict_GetItemWithError, PyDict_SetItem
from cpython.object cimport PyObject
from libc.stdint cimport INT32_MAX, int64_t

from fasthooks.triggers._guard cimport Watched, is_stock
from fasthooks.triggers._number cimport as_number, as_step, is_int32, is_int64, is_nan, new_int64
from fasthooks.triggers._timer cimport ACT, ODD, QUIET, READ, Clock, TimerView, read_clock

cnp.import_array()

cdef extern from "Python.h":
    PyObject* Py_False
    PyObject* Py_True
    unsigned long PyThread_get_thread_ident()

cdef inline PyObject* live(PyObject* fields, PyObject* own, object name) noexcept:
    # The value of an attribute, wherever its truth is; borrowed, valid until Python code runs.
    return own if fields is NULL else PyDict_GetItemWithError(<object>fields, name)


cdef class HookTrigger(Watched):
    """Compiled base of a hook, or the stand-in for one of TensorFlow's own hook objects.

    A public hook calls `before_run` and `after_run` of this module from its methods of that name. They serve the hook
    in a session that is not ours, and pass on to TensorFlow's own method whenever there is something to do.
    """

    cdef tuple watched_methods(self):
        return "before_run", "after_run"

    cdef PyObject* quiet_tensor(self, PyObject* fields) noexcept:
        return NULL

    cdef object quiet_fetches(self, object tensor):
        return tensor

    cdef bint quiet_value(self, object results, PyObject** value) noexcept:
        value[0] = NULL if results is None else <PyObject*>results
        return type(results) is not dict

    cdef int before(self, PyObject* fields, Clock* clock) except -1:
        return QUIET

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        return QUIET

    cdef int after_read(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        return ACT

    cdef int act_on_read(self, object hook, object context, object global_step) except -1:
        raise NotImplementedError

    cdef int acted(self, object results) except -1:
        return 0

    cdef int ask_timer(self, PyObject* timer, int64_t step, Clock* clock) except -1:
        cdef TimerView view = self.view
        if timer is NULL:
            return ACT
        if view is None or <PyObject*>view.timer is not timer:
            view = self.view = TimerView(<object>timer)
        return view.decide(step, clock)


def before_run(HookTrigger hook not None, run_context):
    """What a public hook returns from `before_run`: the standing request, or what TensorFlow's own method returns."""
    cdef Clock clock
    cdef PyObject* tensor
    if is_stock(hook):
        clock.known = False
        if hook.before(NULL, &clock) == QUIET:
            tensor = hook.quiet_tensor(NULL)
            if tensor is NULL or tensor is <PyObject*>None:
                return None
            # Made anew each time: whoever calls the hook may add to the request.
            return SessionRunArgs(hook.quiet_fetches(<object>tensor))
    return super(HookTrigger, hook).before_run(run_context)


def after_run(HookTrigger hook not None, run_context, run_values):
    """What a public hook does in `after_run`: nothing, or what TensorFlow's own method does."""
    cdef Clock clock
    cdef PyObject* value
    if is_stock(hook):
        clock.known = False
        if hook.quiet_value(run_values.results, &value):
            # The caller can reach the results, and a clock or a writer in Python may make it let go of them.
            _owned = None if value is NULL else <object>value
            if hook.after(NULL, value, &clock) == QUIET:
                return None
    return super(HookTrigger, hook).after_run(run_context, run_values)


cdef class GlobalStepTrigger(HookTrigger):
    """Base of triggers whose hook fetches the global step on every run."""

    cdef PyObject* quiet_tensor(self, PyObject* fields) noexcept:
        return live(fields, <PyObject*>self._global_step_tensor, "_global_step_tensor")


cdef class StopAtStepTrigger(GlobalStepTrigger):
    """Acts when the step after the one that was read reaches `_last_step`."""

    def __cinit__(self):
        self.only_reads = True

    cdef tuple watched_fields(self):
        return "_global_step_tensor", "_last_step"

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef int64_t step, last
        if (as_step(value, &step) and as_step(live(fields, <PyObject*>self._last_step, "_last_step"), &last)
                and step + 1 < last):
            return QUIET
        return ACT


cdef class StepCounterTrigger(GlobalStepTrigger):
    """Acts when its timer triggers, and when the global step stands still (TensorFlow warns then)."""

    def __cinit__(self):
        self.only_reads = True

    cdef tuple watched_fields(self):
        return "_timer", "_global_step_tensor", "_steps_per_run", "_last_global_step"

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef int64_t step, per_run, previous
        cdef PyObject* last = live(fields, <PyObject*>self._last_global_step, "_last_global_step")
        if (not as_step(value, &step)
                or not as_step(live(fields, <PyObject*>self._steps_per_run, "_steps_per_run"), &per_run)
                or (is_int32(value) and not -(INT32_MAX // 2) < per_run < INT32_MAX // 2)):
            return ACT
        if last is not <PyObject*>None and (not as_step(last, &previous) or previous == step):
            return ACT
        if self.ask_timer(live(fields, <PyObject*>self._timer, "_timer"), step + per_run, clock) != QUIET:
            return ACT
        if fields is NULL:
            self._last_global_step = <object>value
        else:
            PyDict_SetItem(<object>fields, "_last_global_step", <object>value)
        return QUIET


cdef class LoggingTensorTrigger(HookTrigger):
    """Acts when its timer triggers for the number of runs it has seen."""

    cdef tuple watched_fields(self):
        return "_timer", "_iter_count", "_should_trigger"

    cdef int before(self, PyObject* fields, Clock* clock) except -1:
        cdef int64_t count
        if (not as_step(live(fields, <PyObject*>self._iter_count, "_iter_count"), &count)
                or self.ask_timer(live(fields, <PyObject*>self._timer, "_timer"), count, clock) != QUIET):
            return ACT
        if fields is NULL:
            self._should_trigger = False
        else:
            PyDict_SetItem(<object>fields, "_should_trigger", False)
        return QUIET

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef int64_t count
        if (live(fields, <PyObject*>self._should_trigger, "_should_trigger") is not Py_False
                or not as_step(live(fields, <PyObject*>self._iter_count, "_iter_count"), &count)):
            return ACT
        following = <object>live(fields, <PyObject*>self._iter_count, "_iter_count") + 1
        if fields is NULL:
            self._iter_count = following
        else:
            PyDict_SetItem(<object>fields, "_iter_count", following)
        return QUIET


cdef class NanTensorTrigger(HookTrigger):
    """Acts when the loss is NaN."""

    cdef tuple watched_fields(self):
        return ("_loss_tensor",)

    cdef PyObject* quiet_tensor(self, PyObject* fields) noexcept:
        return live(fields, <PyObject*>self._loss_tensor, "_loss_tensor")

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        return QUIET if is_nan(value) == 0 else ACT


cdef bint dict_value(object results, PyObject** value) noexcept:
    # A quiet request has one entry; more were asked for because there is something to do.
    if type(results) is not dict or len(<dict>results) != 1:
        return False
    value[0] = PyDict_GetItemWithError(results, "global_step")
    return True


cdef class ProfilerTrigger(GlobalStepTrigger):
    """Acts after the first run, and when its timer triggers for the step that it expects next."""

    def __cinit__(self):
        self.only_reads = True

    cdef tuple watched_fields(self):
        return "_timer", "_global_step_tensor", "_next_step", "_request_summary"

    cdef object quiet_fetches(self, object tensor):
        return {"global_step": tensor}

    cdef bint quiet_value(self, object results, PyObject** value) noexcept:
        return dict_value(results, value)

    cdef int before(self, PyObject* fields, Clock* clock) except -1:
        cdef int64_t step
        if (not as_step(live(fields, <PyObject*>self._next_step, "_next_step"), &step)
                or self.ask_timer(live(fields, <PyObject*>self._timer, "_timer"), step, clock) != QUIET):
            return ACT
        if fields is NULL:
            self._request_summary = False
        else:
            PyDict_SetItem(<object>fields, "_request_summary", False)
        return QUIET

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef int64_t step, expected
        if (not as_step(value, &step)
                or live(fields, <PyObject*>self._request_summary, "_request_summary") is not Py_False
                or not as_step(live(fields, <PyObject*>self._next_step, "_next_step"), &expected)):
            return ACT
        # One past the step that the run has probably reached, of the type that NumPy's addition gives.
        following = new_int64(step + 2) if is_int64(value) else <object>value + 1 + 1
        if fields is NULL:
            self._next_step = following
        else:
            PyDict_SetItem(<object>fields, "_next_step", following)
        return QUIET


cdef class SummarySaverTrigger(ProfilerTrigger):
    """Acts on the first run, and when its timer triggers for the step that it expects next; never without a writer."""

    cdef tuple watched_fields(self):
        return "_timer", "_global_step_tensor", "_next_step", "_request_summary", "_summary_writer"

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef PyObject* writer = live(fields, <PyObject*>self._summary_writer, "_summary_writer")
        if writer is NULL:
            return ACT
        if not <object>writer:
            return QUIET
        return ProfilerTrigger.after(self, fields, value, clock)


cdef class CheckpointSaverTrigger(GlobalStepTrigger):
    """Acts when its timer triggers, first for the latest step that the run may have reached, then for the real one."""

    cdef tuple watched_fields(self):
        return "_timer", "_global_step_tensor", "_steps_per_run"

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef int64_t step, per_run
        cdef int decision
        if (not as_step(value, &step)
                or not as_step(live(fields, <PyObject*>self._steps_per_run, "_steps_per_run"), &per_run)
                or (is_int32(value) and not -(INT32_MAX // 2) < per_run < INT32_MAX // 2)):
            return ACT
        decision = self.ask_timer(live(fields, <PyObject*>self._timer, "_timer"), step + per_run, clock)
        return READ if decision == ACT else decision

    cdef int after_read(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef int64_t step
        if not as_step(value, &step):
            return ODD
        return self.ask_timer(live(fields, <PyObject*>self._timer, "_timer"), step, clock)

    cdef int act_on_read(self, object hook, object context, object global_step) except -1:
        hook._timer.update_last_triggered_step(global_step)
        if hook._save(context.session, global_step):
            context.request_stop()
        return 0


cdef class GlobalStepWaiterTrigger(HookTrigger):
    """Acts until the wait is over."""

    cdef tuple watched_fields(self):
        return ("_worker_is_started",)

    cdef int before(self, PyObject* fields, Clock* clock) except -1:
        if live(fields, <PyObject*>self._worker_is_started, "_worker_is_started") is Py_True:
            return QUIET
        return ACT


cdef class WandbTrigger(GlobalStepTrigger):
    """Acts on the first run, and on the run that is expected to reach the next multiple of `_steps_per_log`.

    The step of a run is known only after it. It is expected to grow as it last grew, at first as `_increment` was set,
    also where a recovery has let it go back meanwhile; a multiple that is passed without being expected is made up for
    on the next run.
    """

    cdef tuple watched_fields(self):
        return "_global_step_tensor", "_steps_per_log", "_seen", "_increment", "_next_row"

    cdef object quiet_fetches(self, object tensor):
        return {"global_step": tensor}

    cdef bint quiet_value(self, object results, PyObject** value) noexcept:
        return dict_value(results, value)

    cdef int before(self, PyObject* fields, Clock* clock) except -1:
        cdef int64_t seen, increment, next_row
        if (as_step(<PyObject*>self._seen, &seen) and as_step(<PyObject*>self._increment, &increment)
                and as_step(<PyObject*>self._next_row, &next_row) and seen + increment < next_row):
            return QUIET
        return ACT

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef int64_t step
        if not as_step(value, &step):
            return ACT
        self.note(value)
        return QUIET

    def observe(self, step):
        """Takes note of the global step that a run returned."""
        self.note(<PyObject*>step)

    cdef void note(self, PyObject* step) noexcept:
        cdef int64_t now, seen, increment
        if (as_step(step, &now) and as_step(<PyObject*>self._seen, &seen) and now > seen
                and (not as_step(<PyObject*>self._increment, &increment) or increment != now - seen)):
            self._increment = now - seen
        self._seen = <object>step


cdef class WandbPeerTrigger(WandbTrigger):
    """Stands for a hook object of wandb's own, which logs when the step is a multiple of `_steps_per_log`.

    That hook computes the summary on every run. Here it is left out on runs that are not expected to come near a
    multiple: none lies between the last step and two increments after it. Should one come all the same, that row is
    lost, the loss is logged, and from then on the summary is computed on every run.
    """

    cdef PyObject* quiet_tensor(self, PyObject* fields) noexcept:
        return <PyObject*>self._global_step_tensor

    cdef int before(self, PyObject* fields, Clock* clock) except -1:
        cdef int64_t seen, increment, period
        if (not self.missed and as_step(<PyObject*>self._seen, &seen) and seen >= 0
                and as_step(<PyObject*>self._increment, &increment)
                and as_step(live(fields, NULL, "_steps_per_log"), &period) and period > 0
                and seen % period != 0 and seen % period + 2 * increment < period):
            return QUIET
        return ACT

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        cdef int64_t step, period
        if not as_step(value, &step) or not as_step(live(fields, NULL, "_steps_per_log"), &period) or period <= 0:
            return ACT
        if step % period == 0 and not self.missed:
            self.missed = True
            logging.getLogger("fasthooks").warning(
                "The global step jumped from %s to %s: wandb's row for it has no summary. The summary is computed on "
                "every run from now on.", self._seen, step)
        self.note(value)
        return QUIET

    cdef int acted(self, object results) except -1:
        if type(results) is dict:
            self.observe((<dict>results).get("global_step"))
        return 0


cdef class PeriodTrigger(GlobalStepTrigger):
    """Acts on the first run, then on the first that is a period past the last run that acted.

    The period is in global steps, in runs or in seconds. Whether a run acts must be known before it, and its step is known
    only after it. So it is expected to be the largest step seen plus what the graph adds to it, or plus what it last grew by
    where the graph tells nothing. After a recovery nothing is seen, and the first run only reads the step.

    A run that acts is noted when it has ended, so that one that fails is made up for by the next. Until then no run of
    another thread acts in its place, unless a period has gone by.
    """

    def __cinit__(self):
        self._increment = 1

    cdef tuple watched_fields(self):
        return ("_global_step_tensor", "_steps", "_iters", "_secs", "_seen", "_increment", "_is_constant", "_last", "_claimed",
                "_runs", "_acted", "_fetches_always")

    cdef PyObject* quiet_tensor(self, PyObject* fields) noexcept:
        return NULL if self._steps is None else <PyObject*>self._global_step_tensor

    cdef bint is_due(self, object last, Clock* clock) except -1:
        # Whether the run that begins now is a period past `last`.
        cdef int64_t then, period, seen, increment
        cdef double time, secs
        if last is None:
            return True
        if self._secs is not None:
            return (as_number(<PyObject*>last, &time) and as_number(<PyObject*>self._secs, &secs) and read_clock(clock)
                    and clock.now >= time + secs)
        if not as_step(<PyObject*>last, &then):
            return False
        if self._iters is not None:
            return as_step(<PyObject*>self._iters, &period) and self._runs + 1 >= then + period
        return (as_step(<PyObject*>self._steps, &period) and as_step(<PyObject*>self._seen, &seen)
                and as_step(<PyObject*>self._increment, &increment) and seen + increment >= then + period)

    cdef bint may_act(self, Clock* clock) except -1:
        # A thread that has claimed a run and begins another has not ended the first one: that failed.
        return self.is_due(self._last, clock) and (
            self._claimed is None or self.claimer == PyThread_get_thread_ident() or self.is_due(self._claimed, clock))

    cdef int before(self, PyObject* fields, Clock* clock) except -1:
        return ACT if self._fetches_always or self.may_act(clock) else QUIET

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        if self._steps is not None:
            if value is NULL:
                return QUIET    # it came into the list while the run was under way
            self.note(<object>value)
        self._runs += 1
        self._acted = False
        return QUIET

    cdef int note(self, object step) except -1:
        # Takes note of the global step that a run returned.
        cdef int64_t now, seen, increment
        if not as_step(<PyObject*>step, &now):
            step = int(step)
            if not as_step(<PyObject*>step, &now):
                return 0
        if not as_step(<PyObject*>self._seen, &seen):
            self._seen = step
            if self._claimed is not None:
                self._claimed = step    # where the run that began first is, at most
        elif now > seen:
            self._seen = step
            if not self._is_constant and not (as_step(<PyObject*>self._increment, &increment) and increment == now - seen):
                self._increment = now - seen
        return 0

    def claim(self):
        """Returns whether the run that begins now acts; if so, others do not act for the same period until it has ended."""
        cdef Clock clock
        clock.known = False
        if not self.may_act(&clock):
            return False
        if self._secs is not None:
            self._claimed = clock.now if read_clock(&clock) else None
        elif self._iters is not None:
            self._claimed = self._runs + 1
        else:
            self._claimed = (self._seen or 0) + self._increment
        self.claimer = PyThread_get_thread_ident()
        return True

    def observe(self, results):
        """Takes note of a run that did not act, and of what it returned."""
        cdef PyObject* value
        if self.quiet_value(results, &value):
            self.after(NULL, value, NULL)

    def settle(self, step):
        """Takes note that a run acted, and of the global step that it returned; with a period in steps it has to."""
        if self._steps is not None:
            step = int(step)
            self.note(step)
        else:
            step = None
        self._last = max([mark for mark in (self._last, self._claimed, step) if mark is not None], default=None)
        self._claimed = None
        self._runs += 1
        self._acted = True
