"""What a step that failed means to the chain of sessions."""

cdef object meet(object outer, object coordinator, object fetches, object feed_dict, object failed)
