"""Prepared runs: feeds in, results out, and the bounded cache that holds them."""


cdef class FeedSpec:
    cdef readonly object tensor     # the tensor that is fed
    cdef object numpy_type          # NumPy type that `Session.run` converts to
    cdef int typenum                # NumPy's number of that type; -1: values need `Session.run`'s own way
    cdef object shape               # the tensor's shape at the last look
    cdef tuple dims                 # its sizes, -1 where any; None: any rank
    cdef int look(self) except -1
    # Whether an array has a shape that may be fed.
    cdef bint fits(self, object array) except -1
    # The array to feed; None: `Session.run` has to judge this value.
    cdef object accept(self, object value)


cdef class Plan:
    cdef readonly object session    # the raw session; strong: its native half lives while a plan does
    cdef dict session_fields        # its `__dict__`
    cdef unsigned long long open_version    # version of that dict when the session was last seen to be open
    cdef object native              # its native session then
    cdef readonly tuple parts       # a Template for each request (the caller's first); None: fetches nothing
    cdef readonly tuple feeds       # a FeedSpec for each fed tensor
    cdef list fetch_names           # what the native callable returns, each once
    cdef list target_names
    cdef object callable            # owner of the native callable: releases it when its last user is gone
    cdef object handle              # the callable's number, an int
    cdef readonly str scheduling    # "pool" or "inline"; "trial" while both are timed
    cdef readonly str reason        # why that one
    cdef readonly int n_ops         # ops of the pruned graph; -1: not counted
    cdef Trial trial                # None once decided
    cdef unsigned long used         # number of the last run, among the runs of all plans
    cdef unsigned char uses         # runs, counted to _MANY and halved now and then; see `PlanCache.admits`
    # Ops and tensors that the graph keeps from being fetched and fed, and how many there were when this was made.
    cdef set unfetchable, unfeedable
    cdef Py_ssize_t n_unfetchable, n_unfeedable
    cdef bint is_allowed(self) except -1
    # Whether the keys of `feed_dict` are those of this plan, and it may still be run.
    cdef bint takes(self, object feed_dict) except -1
    # Arrays to feed, in the callable's order; None: `Session.run` has to judge a value. Keys must be this plan's.
    cdef list feed_values(self, object feed_dict)
    # Runs. Returns the value of each unique fetch; arrays among them are private copies.
    cdef list call(self, list feeds)
    cdef int check_open(self) except -1
    cdef list native_call(self, object handle, list feeds)


# Both native callables of a plan while they are timed against each other.
cdef class Trial:
    cdef object pool, inline        # owners of the callables; `inline` is None at first
    cdef double pool_secs, inline_secs      # fastest run so far, seconds
    cdef int runs                   # runs so far
    cdef list call(self, Plan plan, list feeds)


# Counts, in the totals of the process alone, a run that no cache saw.
cdef int count_unseen(str reason) except -1


cdef class PlanCache:
    cdef readonly object session
    cdef readonly str scheduling    # as the user asked: "auto", "pool" or "inline"
    cdef readonly int capacity
    cdef dict plans                 # signature -> Plan or Refusal
    cdef dict dropped               # hash of a signature whose entry was dropped -> how often it was wanted, as `uses`
    cdef unsigned long turned_away  # how often a plan was wanted again and not made
    cdef str session_hazard         # why no plan of this session may run inline; "": nothing
    cdef readonly unsigned long made, evicted   # plans made and dropped so far
    cdef readonly unsigned long steps, planned      # runs of the session so far, and those of them that took a plan
    cdef readonly dict declined     # reason -> number of steps that went TensorFlow's way for it
    # A plan for these requests (the caller's first; None: fetches nothing), or None: take TensorFlow's way.
    cdef Plan find(self, list requests, object feed_dict)
    # Whether a plan for this signature, which has no entry, should be made.
    cdef bint admits(self, tuple signature) except -1
    # The signature of the least recently used entry.
    cdef tuple oldest(self)
    cdef object decline(self, str reason)
    # Each run of the session is counted once, here and in the totals of the process, and again if it takes a plan.
    cdef int count_run(self) except -1
    cdef int count_planned(self) except -1
