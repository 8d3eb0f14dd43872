# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""What the dispatcher knows of one hook, and whether that is still true."""

from collections.abc import Mapping

from tensorflow.python.training import session_run_hook

from fasthooks import known_tensorflow
from fasthooks.triggers import recognition

from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

from fasthooks.triggers._guard cimport (
    definitions_known, dict_version, instance_dict, is_stock, new_dict_version, new_type_tag, type_tag, watch_names)
from fasthooks.triggers._timer cimport ACT, QUIET, Clock
from fasthooks.triggers._trigger cimport HookTrigger

# Methods of TensorFlow's base class, which do nothing as far as is known.
_idle_methods = {}
if known_tensorflow.is_known(session_run_hook.SessionRunHook):
    _idle_methods = {name: session_run_hook.SessionRunHook.__dict__[name] for name in ("before_run", "after_run")}
watch_names(("before_run", "after_run"))

cdef class Slot(Counted):
    """What the dispatcher knows of one hook, and whether that is still true."""

    def __cinit__(self, hook):
        self.hook = hook
        if isinstance(hook, HookTrigger):
            self.trigger = hook
            self.compiled = True
        else:
            self.trigger = recognition.trigger_for(hook)
            self.look()

    cdef int look(self) except -1:
        # The class has changed, or was never looked at.
        cdef unsigned long long tag
        cls = type(self.hook)
        self.cls = <PyTypeObject*>cls
        tag = new_type_tag(self.cls)
        self.has_before = _defines(cls, "before_run")
        self.has_after = _defines(cls, "after_run")
        self.known = self.trigger is not None and definitions_known(cls, ("before_run", "after_run"), ())
        self.tag = tag
        return 0

    cdef int before(self, Clock* clock) except -1:
        cdef HookTrigger trigger = self.trigger
        cdef PyObject* fields
        cdef int decision
        if self.compiled:
            if not is_stock(trigger):
                return ACT
            decision = trigger.before(NULL, clock)
            return self.expect(trigger, NULL) if decision == QUIET else decision
        self.changed()
        if self.has_before and not self.known:
            return ACT
        fields = instance_dict(<PyObject*>self.hook)
        if fields is NULL:
            return ACT if self.known else QUIET
        try:
            if self.is_set(fields):
                return ACT
            if not self.known:
                return QUIET
            decision = trigger.before(fields, clock)
            return self.expect(trigger, fields) if decision == QUIET else decision
        finally:
            Py_DECREF(<object>fields)

    cdef int expect(self, HookTrigger trigger, PyObject* fields) except -1:
        cdef PyObject* tensor = trigger.quiet_tensor(fields)
        wanted = None if tensor is NULL else <object>tensor
        if wanted is not self.tensor:
            self.request = None if wanted is None else trigger.quiet_fetches(wanted)
            self.tensor = wanted
            # Its result would be taken for that of the dict around a tensor for which some triggers ask.
            self.odd = isinstance(wanted, Mapping)
        return ACT if self.odd else QUIET

    cdef bint changed(self) except -1:
        if (<PyObject*>self.hook).ob_type is self.cls and type_tag(self.cls) == self.tag and self.tag != 0:
            return False
        self.look()
        return True

    cdef int after(self, PyObject* value, Clock* clock) except -1:
        cdef HookTrigger trigger = self.trigger
        cdef PyObject* fields
        if self.compiled:
            return trigger.after(NULL, value, clock) if is_stock(trigger) else ACT
        if self.changed():
            return ACT
        if self.has_after and not self.known:
            return ACT
        fields = instance_dict(<PyObject*>self.hook)
        if fields is NULL:
            return ACT if self.known else QUIET
        try:
            if self.is_set(fields):
                return ACT
            return trigger.after(fields, value, clock) if self.known else QUIET
        finally:
            Py_DECREF(<object>fields)

    cdef bint only_reads(self) except -1:
        cdef PyObject* fields
        cdef bint found
        if self.trigger is None or not self.trigger.only_reads:
            return False
        if self.compiled:
            return is_stock(self.trigger)
        self.changed()
        fields = instance_dict(<PyObject*>self.hook)
        if fields is NULL:
            return False
        found = self.is_set(fields)
        Py_DECREF(<object>fields)
        return self.known and not found

    cdef object tensor_now(self):
        # An earlier hook, or the step itself, may have given the hook another one.
        cdef PyObject* fields = NULL if self.compiled else instance_dict(<PyObject*>self.hook)
        cdef PyObject* tensor
        try:
            tensor = self.trigger.quiet_tensor(fields)
            return None if tensor is NULL else <object>tensor
        finally:
            if fields is not NULL:
                Py_DECREF(<object>fields)

    cdef int after_read(self, object value, Clock* clock) except -1:
        cdef PyObject* fields = NULL if self.compiled else instance_dict(<PyObject*>self.hook)
        try:
            return self.trigger.after_read(fields, <PyObject*>value, clock)
        finally:
            if fields is not NULL:
                Py_DECREF(<object>fields)

    cdef bint is_set(self, PyObject* fields) except -1:
        # Whether a method was set on the object itself.
        cdef unsigned long long version = dict_version(fields)
        if version == self.version and version != 0:
            return False
        version = new_dict_version(fields)
        if (PyDict_GetItemWithError(<object>fields, "before_run") is not NULL
                or PyDict_GetItemWithError(<object>fields, "after_run") is not NULL):
            return True
        self.version = version
        return False


def _defines(cls, name):
    # Whether calling this method can do anything: a hook that overrides nothing is not called.
    if cls.__getattribute__ is not object.__getattribute__ or hasattr(cls, "__getattr__"):
        return True
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name] is not _idle_methods.get(name)
    return True
