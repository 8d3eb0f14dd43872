"""Fetch structures: recognised by the identity of their leaves, and filled with results."""


# Where the results of one fetch structure come from.
cdef class Template:
    # Whether `fetches` is that structure with those leaves. Leaves are compared with `is`, names as strings.
    cdef bint matches(self, object fetches) except -1
    # The structure with its leaves replaced by results.
    cdef object build(self, list values)


cdef class TensorTemplate(Template):
    cdef object leaf                # a tensor, or what stands for one: a variable, a name
    cdef readonly int index         # where its value is


cdef class MappingTemplate(Template):
    cdef object kind                # the dict's class
    cdef object factory             # default factory of a defaultdict
    cdef readonly tuple keys, items


# Appends to `key` what tells this structure from all others, and to `alive` the objects whose `id` that contains.
# Raises Declined for one that cannot be told apart cheaply.
cdef int sign(object fetches, list key, list alive, int depth) except -1
