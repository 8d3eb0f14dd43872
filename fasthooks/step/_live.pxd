"""What a debug build counts: how many objects of each kind live."""

cdef extern from *:
    const bint DEBUG "FASTHOOKS_DEBUG"


# A debug build counts the objects of each class derived from this, as long as they live.
cdef class Counted:
    pass


# Counts what is no object, in a debug build.
cdef int count(str kind, int by) except -1
