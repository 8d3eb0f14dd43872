"""The clock of profiles."""

from libc.stdint cimport int64_t

# ns since some moment; for intervals on one thread.
cpdef int64_t clock() noexcept
