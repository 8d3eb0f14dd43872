# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Serialized summaries, as the wire format of protocol buffers has them: read and packed without making objects of them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsASCIIString, PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

# Keys of the fields, a number and a kind.
cdef uint64_t _VALUE = 1 << 3 | 2               # of `Summary`
cdef uint64_t _TAG = 1 << 3 | 2                 # of `Summary.Value`
cdef unsigned char _SIMPLE_VALUE = 2 << 3 | 5   # likewise
cdef unsigned char _WALL_TIME = 1 << 3 | 1      # of `Event`
cdef unsigned char _STEP = 2 << 3 | 0           # likewise
cdef unsigned char _SUMMARY = 5 << 3 | 2        # likewise
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


def scalar_tags(bytes summary not None):
    """Returns the tags of a serialized Summary's values, as a list of str; None unless they are in the usual form of scalars.

    Each is then an ASCII tag and a `simple_value`, in that order and of less than 128 bytes: protocol buffers give just these
    bytes again when they have read them, so nobody has to have them read.
    """
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(summary)
    cdef const unsigned char* end = at + PyBytes_GET_SIZE(summary)
    cdef Py_ssize_t size, i
    cdef list tags = []
    while at < end:
        size = at[3] if end - at > 4 else 0
        if size == 0 or at[0] != _VALUE or at[1] > 127 or at[1] != size + 7 or at[2] != _TAG or end - at < size + 9:
            return None
        if at[4 + size] != _SIMPLE_VALUE:   # only now is it known to be there
            return None
        for i in range(4, 4 + size):
            if at[i] > 127:
                return None
        tags.append(PyUnicode_DecodeASCII(<const char*>at + 4, size, NULL))
        at += size + 9
    return tags


def scalar_summary(str tag not None, double value):
    """Returns a serialized Summary of one `simple_value`; None for a tag that is not short, or not ASCII."""
    if not 0 < len(tag) < 121 or not tag.isascii():
        return None
    cdef float number = <float>value
    cdef bytes name = PyUnicode_AsASCIIString(tag)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, size + 9)
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(packed)
    at[0] = <unsigned char>_VALUE
    at[1] = <unsigned char>(size + 7)
    at[2] = <unsigned char>_TAG
    at[3] = <unsigned char>size
    memcpy(at + 4, PyBytes_AS_STRING(name), size)
    at[4 + size] = _SIMPLE_VALUE
    memcpy(at + 5 + size, &number, 4)
    return packed


cdef Py_ssize_t put_varint(unsigned char* at, uint64_t value) noexcept:
    # Returns how many bytes it took.
    cdef Py_ssize_t length = 0
    while value > 127:
        at[length] = <unsigned char>(value & 127 | 128)
        value >>= 7
        length += 1
    at[length] = <unsigned char>value
    return length + 1


def event_with(double wall_time, int64_t step, bytes summary not None):
    """Returns a serialized Event with these fields, the last of them a serialized Summary."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(summary), length = 0
    cdef unsigned char head[9 + 11 + 11]
    cdef uint64_t bits
    memcpy(&bits, &wall_time, 8)
    # What is zero is left out.
    if bits != 0:
        head[0] = _WALL_TIME
        memcpy(head + 1, &wall_time, 8)
        length = 9
    if step != 0:
        head[length] = _STEP
        length += 1 + put_varint(head + length + 1, <uint64_t>step)
    head[length] = _SUMMARY
    length += 1 + put_varint(head + length + 1, size)
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, length + size)
    cdef char* at = PyBytes_AS_STRING(packed)
    memcpy(at, head, length)
    memcpy(at + length, PyBytes_AS_STRING(summary), size)
    return packed
