"""Serialized summaries, as the wire format of protocol buffers has them.

Each function moves `at`, and returns False where the bytes end before `end` or are not of the format.
"""

from libc.stdint cimport uint64_t

cdef bint read_varint(const unsigned char** at, const unsigned char* end, uint64_t* value) noexcept
# `kind`: the wire type of the field, the lower three bits of its key.
cdef bint skip(const unsigned char** at, const unsigned char* end, uint64_t kind) noexcept
