# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""The clock of profiles: intervals in ns on CLOCK_MONOTONIC, read from the processor's counter where that is the same.

A profile reads the clock four times a step, and twice for each call of a hook. `clock_gettime` has the processor wait until all
that stands before is done, lest readings on several cores are out of order; an interval on one thread needs none of that. Where
Linux itself tells the time by the counter of an x86 processor, which then runs at one rate and is the same on all cores, it is
read as it is. Its rate is measured once, over 10 ms or more.
"""

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(__GNUC__)
    #include <x86intrin.h>
    #define fasthooks_counter() ((int64_t)__rdtsc())
    #else
    #define fasthooks_counter() ((int64_t)0)
    #endif
    """
    int64_t counter "fasthooks_counter" () noexcept

cdef double _ns_per_count = 0       # 0: the kernel's clock is read
cdef int64_t _first_count, _first_ns
cdef int64_t _SHORTEST = 10000000   # ns over which the rate is measured


cdef int64_t _kernels() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cpdef int64_t clock() noexcept:
    """Returns the time of now."""
    if _ns_per_count != 0:
        return _first_ns + <int64_t>(<double>(counter() - _first_count) * _ns_per_count)
    return _kernels()


cdef (int64_t, int64_t) _both() noexcept:
    # The counter, and the kernel's clock of the same moment: of five pairs the one in whose midst least time has passed.
    cdef int64_t before, ns, after, count = 0, time = 0, least = -1
    for _ in range(5):
        before = counter()
        ns = _kernels()
        after = counter()
        if least < 0 or after - before < least:
            least = after - before
            count, time = before + least // 2, ns
    return count, time


def use_counter(str source not None="/sys/devices/system/clocksource/clocksource0/current_clocksource"):
    """Has the counter read from now on, where the kernel trusts it. Waits at most 10 ms, and not a second time.

    Args:
      source: The file in which Linux says by what it tells the time.

    Returns:
      Whether it is read.
    """
    global _ns_per_count
    cdef int64_t count = _first_count, ns = _first_ns
    if _ns_per_count == 0 and _is_trusted(source):
        while ns - _first_ns < _SHORTEST:
            count, ns = _both()
        if count > _first_count:
            _ns_per_count = <double>(ns - _first_ns) / <double>(count - _first_count)
    return _ns_per_count != 0


def _is_trusted(source):
    try:
        with open(source) as file:
            return file.read().strip() == "tsc"
    except OSError:
        return False


_first_count, _first_ns = _both()
