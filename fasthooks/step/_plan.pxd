"""Prepared runs: feeds in, results out, and the bounded cache that holds them."""

from fasthooks.step._live cimport Counted
from fasthooks.step._native cimport NativeCall
from fasthooks.step._schedule cimport Schedule


cdef class Plan(Counted):
    cdef object session             # the raw session; strong: its native half lives while a plan does
    cdef dict session_fields        # its `__dict__`
    cdef unsigned long long open_version    # version of that dict when the session was last seen to be open
    cdef object native              # its native session then
    cdef tuple parts                # a Template for each request (the caller's first); None: fetches nothing
    cdef tuple feeds                # a FeedKey for each key of the feed dict
    cdef str refusal                # why runs of this form go TensorFlow's way; None: they are prepared
    cdef list alive                 # of a refused form: the objects whose `id` its signature holds
    cdef NativeCall prepared_call   # for the tensors to fetch and the operations to run
    cdef list fed                   # fetched tensors that are fed: their values stand behind those fetched
    cdef Schedule schedule
    cdef list order                 # where the values of the schedule's fetches are; None: in the same order
    cdef unsigned long number       # among those that its cache made, from 1 on
    cdef tuple caller               # the part of its signature that tells what the caller fetches
    cdef bint used                  # it has run since its cache last looked for one to drop
    # Ops and tensors that the graph keeps from being fetched and fed, and how many there were when this was made.
    cdef set unfetchable, unfeedable
    cdef Py_ssize_t n_unfetchable, n_unfeedable
    cdef Py_ssize_t n_conversions   # how many conversions of fetches and feeds TensorFlow knew then
    cdef bint is_allowed(self) except -1
    # Whether the keys of `feed_dict`, a dict, are those of this plan, and it may still be run.
    cdef bint takes(self, object feed_dict) except -1
    # Runs. `feeds` as from `feed_values`; `step` is the run's number among those of the session. Returns the value of
    # each fetched tensor, the caller's own.
    cdef list call(self, dict feeds, unsigned long step)
    # Runs with these serialized RunOptions (None: the default ones); returns the values and the serialized RunMetadata.
    cdef tuple call_with(self, dict feeds, bytes options)
    # Where the global step is among the values that a run returns; -1: it is not fetched.
    cdef Py_ssize_t step_index(self) except -2
    # The global step among the values that a run returned; None: it was not fetched.
    cdef object global_step(self, list values)
    cdef int check_open(self) except -1
    cdef list native_call(self, dict feeds, object options, object metadata)


# Counts, in the totals of the process alone, a run that no cache saw.
cdef int count_unseen(str reason) except -1


cdef class PlanCache(Counted):
    cdef object session
    cdef str scheduling             # as the user asked: "auto", "pool" or "inline"
    cdef int capacity
    cdef dict plans                 # signature -> Plan, the one longest not looked up first
    cdef object schedules           # names of feeds, fetches and targets -> Schedule, while a plan has it
    cdef readonly unsigned long made, evicted   # plans made and dropped so far
    cdef readonly unsigned long steps, planned      # runs of the session so far, and those of them that took a plan
    cdef readonly dict declined     # reason -> number of steps that went TensorFlow's way for it
    # The plan for these requests (the caller's first; None: fetches nothing) and keys of a dict. It may be a refusal;
    # None: nothing that could be recognised again, and it is counted why.
    cdef Plan find(self, list requests, object feed_dict)
    cdef object decline(self, str reason)
    # Each run of the session is counted once, here and in the totals of the process, and again if it takes a plan.
    cdef int count_run(self) except -1
    cdef int count_planned(self) except -1
