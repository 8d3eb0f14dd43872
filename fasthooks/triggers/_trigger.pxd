"""When a hook acts: step, seconds, NaN, never, always. Knows nothing of TensorFlow.

Pointers called `fields` are the `__dict__` of a hook object of TensorFlow's own that a trigger stands for (borrowed from
the caller, who holds it through the call), or NULL where the trigger is the hook and its C fields are the truth.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from fasthooks.triggers._guard cimport Watched
from fasthooks.triggers._timer cimport Clock, TimerView

cdef class HookTrigger(Watched):
    cdef TimerView view         # of the timer last found in `_timer`
    # TensorFlow's `after_run` of such a hook uses the run context to read the global step and to request a stop only.
    cdef bint only_reads
    # The tensor that a quiet step fetches, or NULL or None; borrowed. Runs no Python code.
    cdef PyObject* quiet_tensor(self, PyObject* fields) noexcept
    # That tensor in the structure that the hook's own `before_run` asks for.
    cdef object quiet_fetches(self, object tensor)
    # Takes the value of that tensor out of results in that structure. False: they have another one.
    cdef bint quiet_value(self, object results, PyObject** value) noexcept
    cdef int before(self, PyObject* fields, Clock* clock) except -1
    # `value`: what the run returned for the quiet tensor; NULL: the hook asked for nothing.
    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1
    # `value`: the global step read after the run, when `after` said READ.
    cdef int after_read(self, PyObject* fields, PyObject* value, Clock* clock) except -1
    # What the hook's own `after_run` does once it has read the step and its timer has triggered for that.
    cdef int act_on_read(self, object hook, object context, object global_step) except -1
    # The hook's own `after_run` was called with these results.
    cdef int acted(self, object results) except -1
    # Decision of the timer that is in `_timer` now.
    cdef int ask_timer(self, PyObject* timer, int64_t step, Clock* clock) except -1


# Hooks that fetch the global step on every run.
cdef class GlobalStepTrigger(HookTrigger):
    cdef public object _global_step_tensor


cdef class StopAtStepTrigger(GlobalStepTrigger):
    cdef public object _last_step


cdef class StepCounterTrigger(GlobalStepTrigger):
    cdef public object _timer, _steps_per_run, _last_global_step


cdef class CheckpointSaverTrigger(GlobalStepTrigger):
    cdef public object _timer, _steps_per_run


cdef class ProfilerTrigger(GlobalStepTrigger):
    cdef public object _timer, _next_step, _request_summary


cdef class SummarySaverTrigger(ProfilerTrigger):
    cdef public object _summary_writer


cdef class LoggingTensorTrigger(HookTrigger):
    cdef public object _timer, _iter_count, _should_trigger


cdef class NanTensorTrigger(HookTrigger):
    cdef public object _loss_tensor


cdef class GlobalStepWaiterTrigger(HookTrigger):
    cdef public object _worker_is_started


cdef class WandbTrigger(GlobalStepTrigger):
    cdef public object _steps_per_log
    cdef public object _seen        # global step that the last run since `begin` returned; None: no run yet
    cdef public object _increment   # by how much it grew when it last grew; None: not known yet
    cdef public object _next_row    # smallest step whose row is still to be logged; None: not known yet
    cdef void note(self, PyObject* step) noexcept     # takes note of the global step that a run returned


cdef class WandbPeerTrigger(WandbTrigger):
    cdef bint missed            # a row came on a step that nothing announced


cdef class PeriodTrigger(GlobalStepTrigger):
    cdef public object _steps, _iters, _secs    # the period; one of them, the others are None
    cdef public object _seen        # largest global step that a run returned; None: not known in this session yet
    cdef public object _increment   # by how much a run is expected to move the step
    cdef public bint _is_constant   # that is what the graph adds, else what it last grew by
    cdef public object _last        # step, number or time of the last run that acted; None: none has
    cdef public object _claimed     # the same of one that is under way; None: none is
    cdef unsigned long claimer      # the thread that runs it
    cdef public int64_t _runs       # that have ended since `begin`
    cdef public bint _acted         # the last of them acted
    cdef public bint _fetches_always    # what it fetches needs other workers, whose clocks differ: each run is told of
    cdef bint is_due(self, object last, Clock* clock) except -1
    cdef bint may_act(self, Clock* clock) except -1
    cdef int note(self, object step) except -1
