"""Pool or inline: how the runs of one set of feeds, fetches and targets are scheduled."""


# What TensorFlow keeps one set of executors for, whatever the structure of the fetches.
cdef class Schedule:
    cdef object __weakref__
    cdef object session
    cdef list fetches               # tensors that are fetched and operations that are run
    cdef list feeds                 # tensors that are fed
    cdef str scheduling             # "pool" or "inline"; "trial" while both are timed
    cdef str reason                 # why that one
    cdef int n_ops                  # ops of the pruned graph; -1: not counted
    cdef bint decided
    cdef object options             # once decided: TensorFlow's buffer of the run options; None: the pool
    cdef int runs                   # runs before it was decided
    cdef list pool_secs, inline_secs        # how long the timed runs took, seconds
    cdef list last                  # integers that the last run returned, None for other values
    cdef unsigned long last_step    # number of that run among all of the session
    cdef bint last_inline
    cdef list pool_changes, inline_changes  # for each value: by what it changed from one run to the next, a set
    # Options of the next run, which `note` is then told of.
    cdef object next_options(self)
    # What came of it: `secs` and values; `step` is its number among the runs of the session.
    cdef int note(self, object options, double secs, list values, unsigned long step) except -1
