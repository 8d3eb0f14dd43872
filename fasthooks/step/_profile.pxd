"""What steps and hooks cost, while somebody asks: intervals on the monotonic clock, in memory that does not grow with them."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint64_t

from fasthooks.step._live cimport Counted

cdef enum:
    N_BUCKETS = 256             # 64 powers of two in ns, four parts each
    METHODS = 2                 # `before_run` and `after_run`


# Intervals of one kind.
cdef class Durations(Counted):
    cdef readonly uint64_t count
    cdef readonly int64_t total, longest    # ns
    cdef readonly int64_t longest_step      # global step of the longest; -1: not known
    cdef uint64_t[N_BUCKETS] buckets
    cpdef bint add(self, int64_t ns) noexcept


# The calls of one method of a hook.
@cython.final
cdef class Calls(Durations):
    cdef readonly str method
    cdef readonly int64_t counted   # ns, of those in steps that were counted: a step that failed is not, its calls are
    cdef int32_t label              # its name in traces


# What is known of one hook of a session.
@cython.final
cdef class HookTimes(Counted):
    cdef object reference           # a weak reference; to a hook whose class has none, a function that returns it
    cdef readonly str name
    cdef Py_ssize_t place
    cdef readonly Calls before, after       # None: not called yet
    cdef readonly dict once         # name of a method that is called once a session -> Durations
    cdef bint settled               # no warning: there was one, or it has to look at each step
    cdef Calls calls(self, bint after)
    # Of a method that is called once a session.
    cdef Durations durations(self, str method)


# The native runs of one plan.
@cython.final
cdef class PlanTimes(Counted):
    cdef readonly uint64_t number   # of the plan in its session; 0: several plans, and runs without one
    cdef readonly object caller     # equal for plans for the same fetches of the caller
    cdef readonly tuple acting      # HookTimes of the hooks that asked for something
    cdef Py_ssize_t step_index      # where the global step is among its values; -1: nowhere
    cdef readonly Durations native


# What is known of one raw session.
@cython.final
cdef class SessionTimes(Counted):
    cdef uint64_t serial            # of its collector
    cdef readonly int number        # 0: none of its steps was seen yet
    cdef bint several               # it is of more than one raw session
    cdef readonly Durations turn, step, loop
    cdef readonly Durations stock   # steps that TensorFlow's own loop over the hooks ran: their parts are not seen
    cdef readonly uint64_t left_out, failed
    cdef readonly int64_t own_runs  # ns in runs that hooks made themselves, within their calls
    cdef readonly list hooks        # HookTimes, in the order in which the hooks were met
    cdef readonly HookTimes other_hooks
    cdef readonly dict plans        # number -> PlanTimes
    cdef readonly PlanTimes other_plans
    cdef dict by_id                 # id of a hook -> its HookTimes
    cdef object graph               # a function that returns its graph, or None once that is gone; None: not known
    cdef PlanTimes last_plan
    cdef Py_ssize_t n_hooks         # length of the hooks list when it was last looked at
    # The last step that was counted: when and on which thread it returned, and how many steps had begun by then; 0: what
    # comes next does not follow a counted step.
    cdef int64_t returned
    cdef uint64_t thread, begun
    # Takes note of all hooks of a list.
    cdef int meet(self, object hooks) except -1
    cdef HookTimes of_hook(self, object hook, Py_ssize_t place)
    cdef HookTimes new_hook(self, object hook, Py_ssize_t place)
    # Adds what is known of the hooks of a session that had no step yet.
    cdef int take_over(self, SessionTimes other) except -1
    # None: this plan was not seen yet.
    cdef PlanTimes plan(self, uint64_t number)
    cdef PlanTimes new_plan(self, uint64_t number, object caller, Py_ssize_t step_index, tuple acting)


cdef struct Call:
    void* hook                      # HookTimes, which lives as long as its SessionTimes
    bint after
    int64_t began, ended            # ended 0: it raised


# One step. Belongs to the thread that runs it.
@cython.final
cdef class StepTimes:
    cdef SessionTimes session
    cdef StepTimes below            # begun before it and still running, on any thread
    cdef StepTimes outer            # the one in which this one runs: a hook made the run
    cdef uint64_t thread
    cdef bint silent                # nothing of it is noted: it is part of a hook's call in a step of the same session
    cdef bint left_out
    cdef bint completed             # it returned
    cdef bint stock                 # by TensorFlow's own loop
    cdef bint calling               # a hook is being called
    cdef int64_t began, loop        # loop -1: not known
    cdef int64_t native_began, native_ended, own_runs
    cdef PlanTimes plan
    cdef object global_step         # the value; None: not fetched
    cdef Call* calls
    cdef Py_ssize_t n_calls, capacity
    cdef int begin_call(self, HookTimes hook, bint after) except -1
    cdef int end_call(self) except -1
    cdef int native(self, int64_t began, PlanTimes plan, list values) except -1
    # Makes it ready for another step: to make one anew for each takes as long as two readings of the clock.
    cdef int renew(self) except -1
    cdef int64_t step_number(self) noexcept


cdef struct Event:
    int64_t began, ended, step
    uint64_t thread
    int32_t label, plan


@cython.final
cdef class Collector(Counted):
    cdef readonly uint64_t skip_steps
    cdef readonly list sessions     # SessionTimes
    cdef uint64_t serial
    cdef uint64_t begun             # steps so far
    cdef StepTimes newest           # of the steps that run now
    cdef StepTimes spare            # of a step that has ended, for the next one; None: there is none
    cdef object warn
    cdef double share, min_ns
    cdef Event* events
    cdef Py_ssize_t n_events, event_capacity
    cdef uint64_t traced, trace_steps
    cdef readonly list labels
    cdef readonly dict threads      # thread id in traces -> name
    cdef readonly dict expected              # id of a raw session -> a weak reference to it, and its SessionTimes
    # Times for a raw session with these hooks, whose first step begins.
    cdef SessionTimes new_session(self, object raw, object hooks)
    cdef int remember(self, object raw, SessionTimes times) except -1
    # None: nothing of this raw session was seen.
    cdef SessionTimes times_of(self, object raw)
    # Begins a step of a session that has begun `steps` before. `alone`: a run without hooks, which within another step is none.
    cdef StepTimes begin(self, SessionTimes session, uint64_t steps, bint alone)
    cdef int end(self, StepTimes times) except -1
    # Adds a step that has ended to its session's sums.
    cdef int account(self, StepTimes times, int64_t now) except -1
    cdef int note_calls(self, StepTimes times, int64_t now) except -1
    cdef int look(self, StepTimes times, HookTimes hook, Calls calls) except -1
    # Whether a session of the same graph, as one that was lost before its recovery, has had a warning of this hook.
    cdef bint has_warned(self, SessionTimes session, object hook) except -1
    cdef int trace(self, StepTimes times, int64_t ended) except -1
    cdef int put(self, int64_t began, int64_t ended, int64_t step, uint64_t thread, int32_t label, int32_t plan) except -1
    # The step that this thread runs; None: none.
    cdef StepTimes running(self)
    cdef int note_own_run(self, int64_t ns) except -1


# None: nobody asks, and nothing is timed.
cdef Collector current
