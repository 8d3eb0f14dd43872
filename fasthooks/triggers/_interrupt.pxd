"""The signal that asked for a stop: noted by the process's signal handler, read by the triggers. Knows nothing of TensorFlow.

The handler has to be compiled: Python's own only raises a flag, which nobody looks at while TensorFlow does not return.
"""

from libc.stdint cimport uint64_t

from fasthooks.triggers._trigger cimport HookTrigger


cdef class InterruptTrigger(HookTrigger):
    cdef uint64_t mask              # bits of the signals that the hook watches, 1 << (number - 1)
    cdef public object received     # the signal that stopped the hook's session, as an int; None: none did
    cdef public object opening      # what the hook does before its session's first step, or None
