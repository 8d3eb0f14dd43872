"""One step: triggers, merged requests, plan, actions, stop flag."""

from cpython.object cimport PyObject, PyTypeObject

from fasthooks._plan cimport Plan, PlanCache
from fasthooks._trigger cimport Clock, HookTrigger


# What the dispatcher knows of one hook.
cdef class Slot:
    cdef readonly object hook
    cdef HookTrigger trigger        # decides for the hook; None: a hook in plain Python
    cdef bint compiled              # the trigger is the hook itself; else it stands for an object of TensorFlow's own
    cdef PyTypeObject* cls          # class of the hook at the last look; never dereferenced
    cdef unsigned int tag           # its version tag at the last look
    cdef unsigned long long version # version of the hook's `__dict__` when no method was last seen to be set in it
    cdef bint known                 # trigger: the methods it stands for are TensorFlow's own
    cdef bint has_before, has_after     # no trigger: the class overrides the method
    cdef object tensor              # what a quiet step fetches for the hook, or None ...
    cdef object request             # ... as the hook would ask for it
    cdef int look(self) except -1
    cdef int before(self, HookDispatcher dispatcher, Clock* clock) except -1
    # `look_again`: Python code has run since `before`, so the hook may have been changed.
    cdef int after(self, PyObject* value, Clock* clock, bint look_again) except -1
    cdef bint changed(self) except -1
    cdef int after_read(self, object value, Clock* clock) except -1
    cdef bint is_set(self, PyObject* fields) except -1


# A plan together with the requests it was found for.
cdef class PreparedStep:
    cdef Plan plan
    cdef unsigned long generation   # of the dispatcher when this was prepared
    cdef list requests              # the caller's first, then one for each hook
    cdef Py_ssize_t* indices        # for each hook: where its quiet tensor's value is, or -1
    cdef bint serves(self, list requests, list acted, object feed_dict) except -1


cdef class HookDispatcher:
    cdef object raw                 # the raw session
    cdef dict raw_fields            # its `__dict__`; None: not a plain Session
    cdef unsigned long long raw_version     # version of that dict when no `run` was last seen to be set in it
    cdef object hooks               # the caller's list, live
    cdef readonly PlanCache cache
    cdef bint subset                # `hooks` are not all hooks of the session
    cdef bint needs_metadata        # runs of this session have metadata that a plan does not bring back
    cdef tuple slots                # a Slot for each hook of `hooks`; None: not looked at yet
    cdef bint regular               # hooks that the compiled path may call at all
    cdef unsigned long generation   # bumped when `slots` or the quiet request of one changes
    cdef list recent_quiet, recent_mixed    # PreparedSteps, last used first
    cdef tuple current_slots(self)
    cdef bint plannable(self) except -1
    cdef object step(self, object session, object fetches, object feed_dict)
    cdef object mixed_step(self, object session, tuple slots, Py_ssize_t first, object fetches, object feed_dict,
                           Clock* clock)
    cdef object finish(self, object session, list slots, Py_ssize_t first, list acted, PreparedStep prepared,
                       list values, object context, object options, object metadata, Clock* clock)
    cdef int expect(self, Slot slot, HookTrigger trigger, PyObject* tensor) except -1
    cdef object read(self, object tensor)
    cdef PreparedStep prepare_quiet(self, tuple slots, object fetches, object feed_dict)
    cdef PreparedStep prepare(self, list recent, list requests, list acted, object feed_dict)


cdef class HookedSessionBase:
    # TensorFlow's private attributes, live.
    cdef public object _sess, _hooks, _should_stop, _wrapped_is_stoppable
    cdef dict __dict__              # the object's own attributes, at a fixed place: `own_version` relies on it
    cdef readonly HookDispatcher dispatcher
    cdef readonly PlanCache cache
    cdef dict subsets               # ids of the hooks in a `run(hooks=...)` -> (those hooks, their dispatcher)
    cdef readonly str scheduling
    cdef bint is_patched(self) except -1
    cdef HookDispatcher current_dispatcher(self)
    cdef object step(self, object fetches, object feed_dict)


# The links of a session chain when nothing was last seen to be in the way. Never changed once made.
cdef class Chain:
    cdef object coordinator
    cdef object outer, coordinated      # the links; `outer` is the recoverable one, or the coordinated one itself
    cdef dict outer_fields, coordinated_fields      # their `__dict__`s
    cdef unsigned long long outer_version, coordinated_version     # versions of these dicts
    cdef unsigned long long hooked_version, coordinator_version    # likewise
    cdef HookedSessionBase hooked
    cdef dict event_fields              # `__dict__` of the coordinator's stop event
    cdef dict coordinator_fields
    cdef bint is_as_it_was(self) except -1


cdef class SessionRunner:
    cdef public object _sess        # TensorFlow's chain: recoverable (or not), coordinated, hooked, raw
    cdef Chain chain                    # as last looked at
    cdef Chain intact_chain(self)
    cdef Chain look(self)
