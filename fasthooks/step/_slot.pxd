"""What the dispatcher knows of one hook, and whether that is still true."""

from cpython.object cimport PyObject, PyTypeObject

from fasthooks.step._live cimport Counted
from fasthooks.step._profile cimport HookTimes, SessionTimes
from fasthooks.triggers._timer cimport Clock
from fasthooks.triggers._trigger cimport HookTrigger


# What the dispatcher knows of one hook.
cdef class Slot(Counted):
    # What a quiet step touches comes first, to lie in one cache line.
    cdef readonly object hook
    cdef HookTrigger trigger        # decides for the hook; None: a hook in plain Python
    cdef object tensor              # what a quiet step fetches for the hook, or None ...
    cdef bint compiled              # the trigger is the hook itself; else it stands for an object of TensorFlow's own
    cdef bint known                 # trigger: the methods it stands for are TensorFlow's own
    cdef bint odd                   # the tensor is none but a mapping, which is for the hook's own methods
    cdef object request             # ... as the hook would ask for it
    cdef PyTypeObject* cls          # class of the hook at the last look; never dereferenced
    cdef unsigned long long tag     # its `type_tag` at the last look
    cdef unsigned long long version     # of the hook's `__dict__` when no method was last seen to be set in it
    cdef bint has_before, has_after     # no trigger: the class overrides the method
    cdef HookTimes times            # what its calls cost in ...
    cdef SessionTimes timed_in      # ... this session of a profile; None: nobody has asked yet
    cdef int look(self) except -1
    cdef int before(self, Clock* clock) except -1
    cdef int after(self, PyObject* value, Clock* clock) except -1
    # Takes note of the tensor that the hook asks for on its quiet steps. Returns QUIET, or ACT if it is none.
    cdef int expect(self, HookTrigger trigger, PyObject* fields) except -1
    # Looks at the hook's class again if it was changed. Returns whether it was.
    cdef bint changed(self) except -1
    # The tensor that the hook would read the step from now; None: it has none.
    cdef object tensor_now(self)
    cdef int after_read(self, object value, Clock* clock) except -1
    cdef bint is_set(self, PyObject* fields) except -1
    # Whether the hook's `after_run` is TensorFlow's own and uses its context for nothing but reads and a stop request.
    cdef bint only_reads(self) except -1
