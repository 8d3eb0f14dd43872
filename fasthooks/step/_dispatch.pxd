"""One step: triggers, merged requests, plan, actions, stop flag."""

from fasthooks.step._context cimport RunContextBase, RunProtos
from fasthooks.step._live cimport Counted
from fasthooks.step._plan cimport Plan
from fasthooks.step._prepared cimport PreparedRuns, PreparedStep
from fasthooks.step._profile cimport HookTimes, StepTimes
from fasthooks.step._slot cimport Slot
from fasthooks.triggers._timer cimport Clock


cdef class HookDispatcher(Counted):
    cdef readonly PreparedRuns runs
    cdef object hooks               # the caller's list, live
    cdef bint subset                # `hooks` are not all hooks of the session
    cdef bint reads_metadata        # runs have metadata without being given options, and a hook in plain Python may read it
    cdef tuple slots                # a Slot for each hook of `hooks`; None: not looked at yet
    cdef str irregular              # why only TensorFlow's own loop treats these hooks rightly; None: ours does too
    cdef list recent                # PreparedSteps of steps on which all hooks were quiet, last used first
    cdef tuple current_slots(self)
    cdef str obstacle(self, tuple slots, object fetches, RunProtos protos)
    # Runs one step. `session`: the hooked session that keeps the stop flag. `protos`: those that the caller gave; None: neither.
    # `stock_run`: TensorFlow's `_HookedSession.run`, for a step that goes its way; None: what the class has now.
    cdef object step(self, object session, object fetches, object feed_dict, RunProtos protos, object stock_run)
    # Runs a step that is to go TensorFlow's way.
    cdef object declined_step(self, object session, object fetches, object feed_dict, RunProtos protos, str reason)
    # Runs a step while a profile is in force. `reason`: why it is to go TensorFlow's way; None: that is found out.
    cdef object timed_step(self, object session, object fetches, object feed_dict, RunProtos protos, object stock_run,
                           str reason)
    # `times`: where it is noted what the step costs; None: nowhere.
    cdef object take_step(self, object session, object fetches, object feed_dict, RunProtos protos, object stock_run,
                          StepTimes times)
    cdef object stock_step(self, object session, object fetches, object feed_dict, RunProtos protos, object stock_run,
                           StepTimes times)
    cdef PreparedStep prepare_quiet(self, tuple slots, object fetches, object feed_dict)


# A step on which a hook is called, or that `Session.run` runs: what is known of it, as it goes on.
cdef class Step:
    cdef HookDispatcher dispatcher
    cdef object session             # the hooked session
    cdef RunContextBase context
    cdef StepTimes times            # where it is noted what it costs; None: nowhere
    cdef RunProtos protos           # given, asked for, or read by a hook; None: nobody cared yet
    cdef Clock clock
    cdef list slots                 # of the hooks that were asked, in order
    cdef list asked                 # for each: whether its `before_run` was called; else it was quiet
    cdef list requests              # the caller's fetches, and then those of each hook
    cdef object feed_dict           # the caller's, and with it those of the hooks
    cdef PreparedStep prepared      # None: `Session.run` itself made the run
    cdef list values                # of its tensors
    cdef list results               # the caller's, and those of each hook; None: made of the values when they are wanted
    cdef dict outputs               # what `Session.run` returned
    cdef int ask(self, tuple known, Py_ssize_t first, bint acts) except -1
    # `listed`: where the hook is in the list.
    cdef object ask_hook(self, Slot slot, Py_ssize_t listed, dict feeds)
    cdef int add(self, Slot slot, bint asked, object request) except -1
    cdef object run(self)
    cdef object run_stock(self, object raw)
    cdef int tell(self, Py_ssize_t first) except -1
    cdef int decision(self, Py_ssize_t place, Slot slot) except -1
    cdef int act_on_read(self, Py_ssize_t place, Py_ssize_t listed, Slot slot) except -1
    cdef int act(self, Slot slot, Py_ssize_t listed, object result) except -1
    cdef int introduce(self, Plan plan) except -1
    cdef HookTimes times_of(self, Slot slot, Py_ssize_t listed)
    cdef object result_for(self, Py_ssize_t place, Slot slot)
