"""One step: triggers, merged requests, plan, actions, stop flag."""

from fasthooks._context cimport RunContextBase, RunProtos
from fasthooks._guard cimport ClassGuard
from fasthooks._plan cimport Plan, PlanCache
from fasthooks._timer cimport Clock


# A plan together with the requests it was found for.
cdef class PreparedStep:
    cdef Plan plan
    cdef tuple slots                # of a step on which all hooks were quiet: their slots ...
    cdef list tensors               # ... and what each fetched
    cdef list requests              # one for each hook, from 1 on
    cdef Py_ssize_t* indices        # for each hook: where its quiet tensor's value is, or -1
    cdef bint is_for(self, tuple slots) except -1
    cdef bint serves(self, list requests, list acted, object feed_dict) except -1


cdef class HookDispatcher:
    cdef object raw                 # the raw session
    cdef ClassGuard raw_guard       # watches its class; None: not a kind of session that plans are for
    cdef bint known                 # whether it is one, of code that is known
    cdef dict raw_fields            # its `__dict__`
    cdef unsigned long long raw_version     # version of that dict when no `run` was last seen to be set in it
    cdef object hooks               # the caller's list, live
    cdef readonly PlanCache cache
    cdef bint subset                # `hooks` are not all hooks of the session
    cdef bint needs_metadata        # runs of this session have metadata even if they were given no options ...
    cdef bint reads_metadata        # ... and a hook in plain Python may read it
    cdef tuple slots                # a Slot for each hook of `hooks`; None: not looked at yet
    cdef str irregular              # why only TensorFlow's own loop treats these hooks rightly; None: ours does too
    cdef list recent_quiet, recent_mixed    # PreparedSteps, last used first
    cdef tuple current_slots(self)
    cdef bint plannable(self) except -1
    cdef str obstacle(self, object fetches, RunProtos protos)
    cdef object step(self, object session, object fetches, object feed_dict, RunProtos protos)
    cdef object mixed_step(self, object session, tuple slots, Py_ssize_t first, bint acts, object fetches,
                           object feed_dict, RunProtos protos, Clock* clock)
    cdef object unplanned_step(self, object session, tuple slots, object fetches, object feed_dict, Clock* clock)
    cdef object run_raw(self, object session, object raw, object slots, list acted, list requests, object feed_dict,
                        RunContextBase context, RunProtos protos, Clock* clock)
    cdef object finish(self, object session, object slots, Py_ssize_t first, list acted, PreparedStep prepared,
                       list results, list values, RunContextBase context, RunProtos protos, Clock* clock)
    cdef object read(self, object tensor)
    cdef tuple run_alone(self, object fetches, object feed_dict, RunProtos protos, bint counted)
    cdef dict feeds_for(self, PreparedStep prepared, object feed_dict, object fed)
    cdef PreparedStep prepare_quiet(self, tuple slots, object fetches, object feed_dict)
    cdef PreparedStep prepare_mixed(self, list requests, list acted, object feed_dict)
    cdef PreparedStep prepare(self, list recent, list requests, object feed_dict)
