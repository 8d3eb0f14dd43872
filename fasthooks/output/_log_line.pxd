"""Log lines for which no record is made."""

# Writes a line as `tf_logging.info` does; False: nothing is written, and logging must.
cdef bint write(object msg, tuple args) except -1
