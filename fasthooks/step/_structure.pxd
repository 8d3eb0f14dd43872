"""Fetch structures: recognised by the identity of their leaves, and filled with results."""


# One fetch structure, or a part of one.
cdef class Template:
    cdef tuple items                # Templates of its elements
    cdef bint keyed                 # has a mapping in it: results take the keys of the caller's own
    # Whether `fetches` is that structure with those leaves. Leaves are compared with `is`, names as strings; keys are not
    # compared, see `hold`.
    cdef bint matches(self, object fetches) except -1
    # Appends, for each mapping in a structure that matches, outer ones first, it and its keys (None: those of a dict).
    cdef int hold(self, object fetches, list mappings) except -1
    # The structure with its leaves replaced by results. `mappings` as from `hold`; `at`: how many of them are used up.
    cdef object build(self, list values, list mappings, Py_ssize_t* at)


cdef class Leaf(Template):
    cdef object fetch               # a tensor or operation, or what stands for one: a variable, a name
    cdef object expand              # TensorFlow's function that takes it apart, if it is made of several tensors ...
    cdef tuple components           # ... and these tensors
    cdef int index                  # where its value is; -1: an operation, whose result is None
    cdef tuple indices              # of several tensors: where their values are
    cdef object contract            # TensorFlow's function that puts their values together


cdef class SequenceTemplate(Template):
    cdef object kind
    cdef bint direct                # elements are those of the C tuple or list


cdef class MappingTemplate(Template):
    cdef object kind


# The Template of any structure. Raises Declined for one that is nested too deeply.
cdef Template template(object fetches, int depth)

# What `build` needs of a structure that matches beside the values; None: nothing.
cdef list held(Template part, object fetches)

cdef object built(Template part, list values, list mappings)

# Appends to `key` what tells this structure from all others, and to `alive` the objects whose `id` that contains.
# Raises Declined for one that is nested too deeply.
cdef int sign(object fetches, list key, list alive, int depth) except -1

# TensorFlow's row of functions for a leaf or a feed key: (type, for fetches, for feeds, for feeds of partial runs). Raises
# Declined for one that `register_session_run_conversion_functions` has added.
cdef tuple conversions(object leaf)

# How many such rows there are now.
cdef Py_ssize_t n_conversions() except -1

# Whether a leaf or feed key may be recognised by its identity: it is TensorFlow's own, and stands for the same always.
cdef bint is_lasting(object leaf) except -1
