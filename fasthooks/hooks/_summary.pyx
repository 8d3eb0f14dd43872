# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Serialized summaries, as the wire format of protocol buffers has them: read and packed without making objects of them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

# Keys of the fields, a number and a kind: `Summary.value`, `Summary.Value.tag`, `Event.summary`.
cdef uint64_t _VALUE = 1 << 3 | 2
cdef uint64_t _TAG = 1 << 3 | 2
cdef char _SUMMARY = 5 << 3 | 2
cdef uint64_t _METADATA = 9  # of `Summary.Value`


cdef bint read_varint(const unsigned char** at, const unsigned char* end, uint64_t* value) noexcept:
    cdef int shift = 0
    value[0] = 0
    while at[0] < end and shift < 64:
        value[0] |= <uint64_t>(at[0][0] & 127) << shift
        at[0] += 1
        if at[0][-1] < 128:
            return True
        shift += 7
    return False


cdef bint skip(const unsigned char** at, const unsigned char* end, uint64_t kind) noexcept:
    cdef uint64_t size
    if kind == 0:
        return read_varint(at, end, &size)
    if kind == 2:
        if not read_varint(at, end, &size):
            return False
    elif kind == 1 or kind == 5:
        size = 8 if kind == 1 else 4
    else:
        return False
    if size > <uint64_t>(end - at[0]):
        return False
    at[0] += size
    return True


def plain_tags(bytes summary not None):
    """Returns the tags of a serialized Summary's values, as a list of str; None if one of them has metadata."""
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(summary)
    cdef const unsigned char* end = at + PyBytes_GET_SIZE(summary)
    cdef const unsigned char* last
    cdef const unsigned char* begin
    cdef uint64_t key, size
    cdef list tags = []
    while at < end:
        if not read_varint(&at, end, &key) or key != _VALUE or not read_varint(&at, end, &size):
            return None
        if size > <uint64_t>(end - at):
            return None
        last = at + size
        tag = ""
        while at < last:
            if not read_varint(&at, last, &key) or key >> 3 == _METADATA:
                return None
            begin = at
            if not skip(&at, last, key & 7):
                return None
            if key == _TAG:
                if not read_varint(&begin, last, &size):
                    return None
                tag = PyUnicode_DecodeUTF8(<const char*>begin, at - begin, NULL)
        tags.append(tag)
    return tags


def event_with(bytes event not None, bytes summary not None):
    """Returns a serialized Event, whose last field is `step` or `wall_time`, with a serialized Summary after that."""
    cdef Py_ssize_t before = PyBytes_GET_SIZE(event), size = PyBytes_GET_SIZE(summary)
    cdef unsigned char head[11]
    cdef Py_ssize_t length = 1
    cdef uint64_t rest = size
    head[0] = _SUMMARY
    while rest > 127:
        head[length] = <unsigned char>(rest & 127 | 128)
        rest >>= 7
        length += 1
    head[length] = <unsigned char>rest
    length += 1
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, before + length + size)
    cdef char* at = PyBytes_AS_STRING(packed)
    memcpy(at, PyBytes_AS_STRING(event), before)
    memcpy(at + before, head, length)
    memcpy(at + before + length, PyBytes_AS_STRING(summary), size)
    return packed
