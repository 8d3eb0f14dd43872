# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Is the code that a compiled path stands in for still TensorFlow's own?

A compiled path may only replace a method whose behaviour it knows. Programs patch TensorFlow's classes, set methods on
objects, subclass and mock, before and after a session was made, and all of that must be found on the next step. Two
cheap facts make the question affordable on every step: CPython's version tag of a type, which changes with every
change of the class or of its bases, and up to Python 3.12 the version of a dict (from 3.13 on the few names are looked
up). Only when one of them moved are the classes walked again.
"""

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF

cdef extern from "Python.h":
    PyObject* PyObject_GenericGetDict(PyObject*, void*)
    void PyErr_Clear() noexcept

# Strong references to the functions whose behaviour the compiled triggers reproduce, by identity: a patched-in
# function may be unhashable or compare equal to anything.
_known = {}
# Classes at which the search for redefined attributes may stop: their own attributes are what the triggers were
# written for.
_known_classes = set()
# id of a function that fasthooks puts in the place of one of TensorFlow's, and does the same -> (it, TensorFlow's).
_stand_ins = {}
# Names that change how every other attribute is found; a class that defines one is never taken for known.
cdef frozenset _lookup_names = frozenset({"__getattribute__", "__getattr__", "__setattr__", "__delattr__"})


def know(*functions):
    """Declares functions whose behaviour a compiled path reproduces."""
    for function in functions:
        _known[id(function)] = function


def know_class(cls):
    """Declares a class whose own attributes a compiled path reads as they are."""
    _known_classes.add(cls)


def stand_in(function, original):
    """Declares that `function` does what `original` does, so that a class is intact with either."""
    _stand_ins[id(function)] = function, original


def original_of(function):
    """Returns the function that `function` stands in for; `function` itself if it is no stand-in."""
    return _stand_ins.get(id(function), (None, function))[1]


def is_defined_in(function, module, name=None):
    """Whether `function` is a plain Python function, or a property with one, whose code stands in `module`'s file.

    If `name` is given, that must be its qualified name.

    `functools.wraps` copies names and `__module__`, never the code, so a wrapper that was installed before fasthooks
    was imported does not pass for the original.
    """
    code = getattr(getattr(function, "fget", function), "__code__", None)
    # Before Python 3.11, code knows the last part of its name only.
    if name is not None and code is not None and getattr(code, "co_qualname", name) != name:
        return False
    return code is not None and code.co_filename.rpartition(".")[0] == module.__file__.rpartition(".")[0]


def is_own_method(cls, name, function, module):
    """Whether `function` is what `module`'s file defines as the method `name` of `cls`, or of the base it has it from."""
    owner = next((base for base in cls.__mro__ if name in base.__dict__), cls)
    return is_defined_in(function, module, f"{owner.__qualname__}.{name}")


cdef PyObject* instance_dict(PyObject* obj) noexcept:
    cdef PyObject* found = PyObject_GenericGetDict(obj, NULL)
    if found is NULL:
        PyErr_Clear()
    return found


cdef bint is_any_set(object obj, tuple names) except -1:
    cdef PyObject* own = instance_dict(<PyObject*>obj)
    if own is NULL:
        return False
    attributes = <object>own
    Py_DECREF(attributes)  # `attributes` holds its own reference
    for name in names:
        if name in attributes:
            return True
    return False


cdef bint definitions_known(type cls, tuple methods, tuple fields) except -1:
    cdef bint inherited = False
    for base in cls.__mro__:
        inherited = inherited or base in _known_classes
        attributes = base.__dict__
        for name in methods:
            if name in attributes and id(attributes[name]) not in _known:
                return False
        if not inherited:
            if not _lookup_names.isdisjoint(attributes):
                return False
            for name in fields:
                if name in attributes:
                    return False
    return inherited


cdef class ClassGuard:
    """Watches methods of one class.

    Args:
      cls: The class.
      module: The module whose file defines the versions that count as intact; None: those that the class has now.
      names: Names of the methods. One that is already patched when the guard is made never counts as intact.
      bases: Guards of base classes that must be intact too.
    """

    def __init__(self, type cls not None, module, tuple names not None, tuple bases=()):
        self.cls = cls
        self.bases = bases
        self.originals = {}
        for name in names:
            function = original_of(getattr(cls, name))
            self.originals[name] = function if module is None or is_own_method(cls, name, function, module) else None

    cdef bint look(self) except -1:
        cdef ClassGuard base
        self.unchanged = True
        for name, original in self.originals.items():
            # The look-up also makes CPython give the changed class a new tag.
            if original is None or original_of(getattr(self.cls, name)) is not original:
                self.unchanged = False
        for base in self.bases:
            if not base.intact():
                self.unchanged = False
        self.tag = type_tag(<PyTypeObject*>self.cls)
        return self.unchanged


cdef class Watched:
    """Base of compiled objects whose methods users may replace at any time."""

    cdef tuple watched_methods(self):
        return ()

    cdef tuple watched_fields(self):
        return ()

    cdef bint sets_method(self) except -1:
        return is_any_set(self, self.watched_methods())

    cdef bint look(self) except -1:
        self.classes_known = definitions_known(type(self), self.watched_methods(), self.watched_fields())
        self.stock = self.classes_known and not self.sets_method()
        # Any look-up on the class gives it a tag again if a change took it away.
        getattr(type(self), "__init__", None)
        self.checked_type = (<PyObject*>self).ob_type
        self.checked_tag = type_tag(self.checked_type)
        self.checked_version = own_version(<PyObject*>self)
        return self.stock

    def __reduce_ex__(self, protocol):
        """Supports `copy` and `pickle`: the C fields travel beside the state that the class itself gives."""
        cls = type(self)
        if cls.__reduce__ is not object.__reduce__:
            return self.__reduce__()
        fields = {name: getattr(self, name) for name in self.watched_fields()}
        # Python 3.10 has no `object.__getstate__`.
        own = getattr(cls, "__getstate__", None)
        state = vars(self) if own is getattr(object, "__getstate__", None) else self.__getstate__()
        return _rebuild, (cls, fields), state


def _rebuild(cls, fields):
    rebuilt = cls.__new__(cls)
    for name, value in fields.items():
        setattr(rebuilt, name, value)
    return rebuilt
