# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""What a debug build (FASTHOOKS_DEBUG=1) counts: how many objects of each kind live. A release build counts nothing."""

cdef dict _counts = {}


cdef class Counted:
    """An object that is counted by its class as long as it lives."""

    def __cinit__(self):
        if DEBUG:
            count(type(self).__name__, 1)

    def __dealloc__(self):
        if DEBUG:
            count(type(self).__name__, -1)


cdef int count(str kind, int by) except -1:
    if DEBUG:
        _counts[kind] = _counts.get(kind, 0) + by
    return 0


def is_debug_build():
    """Returns whether the compiled modules count, and assert, what they do."""
    return DEBUG


def counts():
    """Returns a dict of kind to how many of it live, without those of which there are none."""
    return {kind: number for kind, number in _counts.items() if number}
