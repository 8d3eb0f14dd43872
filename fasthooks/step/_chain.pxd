"""TensorFlow's chain of sessions, and the short way through it."""

from fasthooks.step._dispatch cimport HookDispatcher
from fasthooks.step._prepared cimport PreparedRuns


cdef class StepRunner:
    cdef readonly str scheduling
    cdef HookDispatcher dispatcher      # for all hooks, as it was last asked for; None: not yet
    cdef dict subsets               # ids of the hooks in a `run(hooks=...)` -> their dispatcher, which holds them
    # Of a session of TensorFlow's own and of what is above it: versions of their `__dict__`s when no method was last seen to
    # be set in them.
    cdef unsigned long long version, recoverable_version, coordinated_version, coordinator_version
    cdef HookDispatcher dispatcher_for(self, object raw, object hooks)
    cdef HookDispatcher dispatcher_of_some(self, PreparedRuns runs, list chosen)
    cdef int drop(self) except -1


cdef class HookedSessionBase:
    # TensorFlow's private attributes, live.
    cdef public object _sess, _hooks, _should_stop, _wrapped_is_stoppable
    cdef dict __dict__              # the object's own attributes, at a fixed place: `own_version` relies on it
    cdef StepRunner steps
    cdef bint is_patched(self) except -1
    cdef HookDispatcher dispatcher(self)
    cdef object step(self, object fetches, object feed_dict)


# The links of a session chain when nothing was last seen to be in the way. Never changed once made.
cdef class Chain:
    cdef object coordinator
    cdef object outer                   # the recoverable link, or the coordinated one
    cdef dict outer_fields, coordinated_fields      # their `__dict__`s
    cdef unsigned long long outer_version, coordinated_version     # versions of these dicts
    cdef unsigned long long hooked_version, coordinator_version    # likewise
    cdef HookedSessionBase hooked
    cdef dict event_fields              # `__dict__` of the coordinator's stop event
    cdef dict coordinator_fields
    cdef bint is_as_it_was(self) except -1
    cdef bint coordinator_is_as_it_was(self) except -1


cdef class SessionRunner:
    cdef public object _sess        # TensorFlow's chain: recoverable (or not), coordinated, hooked, raw
    cdef Chain chain                    # as last looked at
    cdef Chain intact_chain(self)
    cdef Chain look(self)
