"""Prepared runs of one raw session, for the steps of its hooks and for runs without hooks."""

from fasthooks.step._context cimport RunProtos
from fasthooks.step._live cimport Counted
from fasthooks.step._plan cimport Plan, PlanCache
from fasthooks.step._profile cimport Collector, SessionTimes, StepTimes
from fasthooks.triggers._guard cimport ClassGuard


# A plan together with the requests it was found for.
cdef class PreparedStep(Counted):
    cdef Plan plan
    cdef tuple slots                # of a step on which all hooks were quiet: their slots ...
    cdef list tensors               # ... and what each fetched
    cdef list requests              # one for each hook, from 1 on
    cdef Py_ssize_t* indices        # for each hook: where its quiet tensor's value is, or -1
    cdef bint serves(self, list requests, list asked, object feed_dict) except -1


cdef class PreparedRuns(Counted):
    cdef readonly object raw        # the raw session
    cdef readonly PlanCache cache
    cdef bint needs_metadata        # runs of this session have metadata even if they were given no options
    cdef ClassGuard raw_guard       # watches its class; None: not a kind of session that plans are for
    cdef bint known                 # whether it is one, of code that is known
    cdef dict raw_fields            # its `__dict__`
    cdef unsigned long long raw_version     # version of that dict when no `run` was last seen to be set in it
    cdef list recent                # PreparedSteps, last used first
    cdef object stock               # see the constructor
    cdef SessionTimes times         # what its steps cost, of the profile that is or was in force last; None: of none
    cdef SessionTimes other_times   # likewise, of the one before
    # Is called once, with the global step that the first step's run returned, or None; itself None: nobody waits for that.
    cdef public object on_first_step
    # Whether nothing has been put in the place of what a plan does.
    cdef bint plannable(self) except -1
    cdef bint knows_class(self) except -1
    # Begins a step. `session`: the hooked session; None: one without hooks, see `Collector.begin`.
    cdef StepTimes begin(self, Collector collector, object session)
    # Runs a plan, as `values`, and takes note of how long that took. A plan that is not known yet is one for which no hook asked.
    cdef list timed_values(self, StepTimes times, Plan plan, dict feeds, RunProtos protos)
    # Why a run cannot even be looked at; None: nothing speaks against it.
    cdef str obstacle(self, object fetches, RunProtos protos)
    # The prepared step for these requests, the caller's first; None: there is none, and it is counted why. `asked`: for
    # each hook, whether its request is its own; else it is the standing one.
    cdef PreparedStep prepare(self, list requests, list asked, object feed_dict)
    # The same from the cache of plans, remembered in `recent`.
    cdef PreparedStep find(self, list recent, list requests, object feed_dict)
    # What to feed to a prepared step; `fed` is `feed_dict` as a dict. None: TensorFlow's way, and it is counted why.
    cdef dict feeds_for(self, PreparedStep prepared, object feed_dict, object fed)
    # The values of a plan's tensors. `protos`: options to run with, and where the metadata goes; None: neither.
    cdef list values(self, Plan plan, dict feeds, RunProtos protos)
    # The value of one tensor, by a run of its own, as a hook would ask the raw session for it.
    cdef object read(self, object tensor)
    # Calls `on_first_step`.
    cdef int tell_first_step(self, object global_step) except -1
    cdef tuple run_alone(self, object fetches, object feed_dict, RunProtos protos, bint counted, StepTimes times)
    cdef tuple run_counted(self, object fetches, object feed_dict, object options, object run_metadata, StepTimes times)


# Replaces the list's contents in one go, since another thread may be walking it.
cdef int to_front(list recent, PreparedStep prepared) except -1
