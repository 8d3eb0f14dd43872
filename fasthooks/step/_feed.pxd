"""What is fed: keys resolved once, values checked and converted as `Session.run` does."""


# One fed tensor, and which values for it need no help from `Session.run`.
cdef class FeedSpec:
    cdef object tensor
    cdef object output              # TensorFlow's handle of it
    cdef object numpy_type          # NumPy type that `Session.run` converts to
    cdef int typenum                # NumPy's number of that type; -1: arrays of it need a closer look
    cdef object shape               # the tensor's shape at the last look
    cdef tuple dims                 # its sizes, -1 where any; None: any rank
    cdef int look(self) except -1
    # Whether an array has a shape that may be fed.
    cdef bint fits(self, object array) except -1
    # Whether a value is an array that may be fed as it is.
    cdef bint is_ready(self, object value) except -1
    # False: `Session.run` refuses this value, or has a way of its own for it. Runs no code of the value's class.
    cdef bint may_convert(self, object value) except -1
    # The array to feed. Raises what `Session.run` raises.
    cdef object convert(self, object session, object value)


# One key of a feed dict: a tensor, what stands for one, or what is made of several.
cdef class FeedKey:
    cdef object key
    cdef object split               # TensorFlow's function that splits key and value; None: one tensor
    cdef tuple specs
    cdef bint stands_for(self, object key) except -1
    # Adds pairs of FeedSpec and value for this key. False: `Session.run` has to judge the value.
    cdef bint spread(self, object value, list pairs) except -1


# The FeedKeys of these keys. Raises Declined, or what TensorFlow raises, for a key that it is not known how to feed.
cdef tuple feed_keys(object graph, object keys)

# Their FeedSpecs, one for each tensor.
cdef list all_specs(tuple known)

# A dict with the items of a mapping of whatever class; None: `Session.run` has to judge it.
cdef dict plain_dict(object feed_dict)

# Whether the keys of `feed_dict` are these.
cdef bint same_keys(tuple known, object feed_dict) except -1

# Arrays to feed, keyed as the native call wants them; None: `Session.run` has to judge a value. Keys must be these. Raises
# what `Session.run` raises for values that cannot be converted.
cdef dict feed_values(tuple known, object feed_dict, object session)
cdef dict converted(tuple known, dict feed_dict, object session)
