"""Pool or inline: how the runs of one set of feeds, fetches and targets are scheduled."""

from fasthooks.step._live cimport Counted


# What TensorFlow keeps one set of executors for, whatever the structure of the fetches.
cdef class Schedule(Counted):
    cdef object __weakref__
    cdef object session
    cdef list fetches               # tensors that are fetched and operations that are run
    cdef list feeds                 # tensors that are fed
    cdef str scheduling             # "pool" or "inline"; "trial" while both are timed
    cdef str reason                 # why that one
    cdef int n_ops                  # ops of the pruned graph; -1: not counted
    cdef bint decided
    cdef object options             # once decided: TensorFlow's buffer of the run options; None: the pool
    cdef int runs                   # runs before it was decided; set back where there is more to wait for
    cdef bint reviewed              # blocks take turns
    cdef bint busy                  # a thread looks at what came of a run
    cdef int rest                   # for how many runs a pool whose order differs is left alone next time
    cdef int waits                  # how often the last runs before the first block were made again
    cdef bint differs               # inline gave other integers than the pool
    cdef int pool_wins              # how often the pool was faster when both were timed
    cdef bint racing                # the pool has no order that inline could differ from
    cdef int flips, changes         # how often a read of the global step changed sides on the pool, and of how many times
    cdef list pool_secs, inline_secs        # how long the timed runs took, seconds
    cdef list row                   # (inline?, values) of the last runs; integers, None for other values
    cdef unsigned long last_step    # number of the last of them among the runs of the session
    # Options of the next run, which `note` is then told of.
    cdef object next_options(self)
    # What came of it: `secs` and values; `step` is its number among the runs of the session.
    cdef int note(self, object options, double secs, list values, unsigned long step) except -1
