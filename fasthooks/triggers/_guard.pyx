# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Is the code that a compiled path stands in for still TensorFlow's own?

A compiled path may only replace a method whose behaviour it knows. Programs patch TensorFlow's classes, set methods on
objects, subclass and mock, before and after a session was made, and all of that must be found on the next step. Two
cheap numbers make the question affordable on every step, one for a class with its bases, one for the `__dict__` of an
object. Only when one of them moved are the classes walked again.

Up to Python 3.11 CPython keeps such numbers: the version tag of a type and the version of a dict. Later ones have no
version of dicts, and give a class no new tag after 1,000 changes. They call back when a watched dict changes: ours count
the changes of names that guards look at, in `epoch`, from which the numbers are made. Other names do not count:
hooks set attributes of their own on every step.
"""

from fasthooks import known_tensorflow

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF

cdef extern from "Python.h":
    PyObject* PyObject_GenericGetDict(PyObject*, void*)
    void PyErr_Clear() noexcept
    bint PyUnicode_CheckExact(PyObject*) noexcept
    int PySet_Contains(PyObject*, PyObject*) noexcept
    int PyDict_Watch(int, PyObject*) except -1

cdef extern from *:
    """
    #if FASTHOOKS_WATCHES
    #define fasthooks_add_watcher(callback) PyDict_AddWatcher((PyDict_WatchCallback)(callback))
    #define FASTHOOKS_WHOLE(event) ((event) > PyDict_EVENT_DELETED)
    #define fasthooks_class_dict(type) PyType_GetDict((PyTypeObject *)(type))
    #define fasthooks_is_split(dict) (PY_VERSION_HEX >= 0x030D0000 && ((PyDictObject *)(dict))->ma_values != NULL)
    #else
    #define fasthooks_add_watcher(callback) ((void)(callback), -1)
    #define FASTHOOKS_WHOLE(event) 0
    #define fasthooks_class_dict(type) NULL
    #define fasthooks_is_split(dict) 0
    #endif
    """
    int add_watcher "fasthooks_add_watcher"(void*) noexcept
    bint is_whole "FASTHOOKS_WHOLE"(int event) noexcept
    bint is_split "fasthooks_is_split"(PyObject*) noexcept
    PyObject* class_dict "fasthooks_class_dict"(PyObject*) noexcept
    bint has_flag "PyType_HasFeature"(PyTypeObject*, unsigned long) noexcept
    unsigned long Py_TPFLAGS_HEAPTYPE, Py_TPFLAGS_VALID_VERSION_TAG

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


# Names whose changes count, in the dicts of objects and in those of classes.
cdef set _object_names = set()
cdef set _class_names = set(_lookup_names)

# How often a class was looked at; see `looks`.
cdef unsigned long long _looks = 0

epoch = 1
class_watcher = object_watcher = -1


cdef int count_change(set names, int event, PyObject* key) noexcept:
    # Called by CPython before the dict changes, in the middle of anything: runs no Python code.
    global epoch
    # A dict that goes counts too: another may come to lie in its place.
    if (is_whole(event) or key is NULL or not PyUnicode_CheckExact(key)
            or PySet_Contains(<PyObject*>names, key) != 0):
        epoch += 1
    return 0


cdef int class_changes(int event, PyObject* mapping, PyObject* key, PyObject* value) noexcept:
    return count_change(_class_names, event, key)


cdef int object_changes(int event, PyObject* mapping, PyObject* key, PyObject* value) noexcept:
    return count_change(_object_names, event, key)


if WATCHES:
    class_watcher = add_watcher(<void*>class_changes)
    object_watcher = add_watcher(<void*>object_changes)
    # There are eight in a process: without them every look is a slow one.
    PyErr_Clear()


cdef int watch_names(object names) except -1:
    _object_names.update(names)
    return watch_class_names(names)


cdef int watch_class_names(object names) except -1:
    _class_names.update(names)
    return 0


cdef unsigned long long new_type_tag(PyTypeObject* cls) except? 0:
    cdef PyObject* found
    global _looks
    _looks += 1
    kind = <object>cls
    if class_watcher < 0:
        # Any look-up on the class gives it a tag again if a change took it away.
        getattr(kind, "__init__", None)
        return type_tag(cls) if WATCHES or has_flag(cls, Py_TPFLAGS_VALID_VERSION_TAG) else 0
    for base in kind.__mro__:
        # What C code defines cannot be changed.
        if has_flag(<PyTypeObject*>base, Py_TPFLAGS_HEAPTYPE):
            found = class_dict(<PyObject*>base)
            names = <object>found
            Py_DECREF(names)    # `names` holds its own reference
            PyDict_Watch(class_watcher, found)
    return type_tag(cls)


cdef unsigned long long new_dict_version(PyObject* mapping) except? 0:
    if object_watcher < 0 or type(<object>mapping) is not dict:
        return 0 if WATCHES else dict_version(mapping)
    if is_split(mapping) and <object>mapping:
        # In Python 3.13 such a dict shares its values with the object, and setting an attribute of that calls nobody back.
        # Taking an item out makes it a dict of its own; the last item goes back to where it was.
        fields = <dict><object>mapping
        name, value = fields.popitem()
        fields[name] = value
    if is_split(mapping):
        return 0
    PyDict_Watch(object_watcher, mapping)
    return dict_version(mapping)


cdef unsigned long long new_own_version(PyObject* obj) except? 0:
    cdef PyObject* mapping = _dict_at(obj, obj.ob_type.tp_dictoffset)
    return ~0ULL if mapping is NULL else new_dict_version(mapping)


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
    plain = getattr(function, "fget", function)
    code = getattr(plain, "__code__", None)
    if code is None or code.co_filename.rpartition(".")[0] != module.__file__.rpartition(".")[0]:
        return False
    # Before Python 3.11, code knows the last part of its name only. Then the function is asked for the whole.
    qualified = getattr(code, "co_qualname", getattr(plain, "__qualname__", None))
    return name is None or qualified == name and code.co_name == name.rpartition(".")[2]


def is_own_method(cls, name, function, module):
    """Whether `function` is what `module`'s file defines as the method `name` of `cls`, or of the base it has it from."""
    return is_defined_in(function, module, f"{owner_of(cls, name).__qualname__}.{name}")


cdef object owner_of(cls, name):
    return next((base for base in cls.__mro__ if name in base.__dict__), cls)


def looks():
    """Returns how often a class was looked at slowly so far: for tests, since quiet steps look at none."""
    return _looks


cdef PyObject* instance_dict(PyObject* obj) noexcept:
    cdef PyObject* found = PyObject_GenericGetDict(obj, NULL)
    if found is NULL:
        PyErr_Clear()
    return found


cdef bint has_dict(object obj, PyObject* fields) noexcept:
    cdef PyObject* found = instance_dict(<PyObject*>obj)
    if found is NULL:
        return False
    Py_DECREF(<object>found)
    return found is fields


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
      code: Classes and functions beside the methods whose behaviour is relied on. If the code of any of these or of a
        method is not known, the class never counts as intact.
    """

    def __cinit__(self, type cls not None, module, tuple names not None, tuple bases=(), tuple code=()):
        cdef ClassGuard base
        self.cls = cls
        self.bases = bases
        watch_class_names(names)
        self.originals = {}
        self.known = known_tensorflow.is_known(*code)
        for base in bases:
            self.known = self.known and base.known
        for name in names:
            function = original_of(getattr(cls, name, None))
            self.originals[name] = function if module is None or is_own_method(cls, name, function, module) else None
            owner = owner_of(cls, name)
            if module is not None and not known_tensorflow.is_name_known(owner.__module__, f"{owner.__qualname__}.{name}"):
                self.known = False

    cdef bint look(self) except -1:
        cdef ClassGuard base
        cdef unsigned long long tag = new_type_tag(<PyTypeObject*>self.cls)
        self.unchanged = self.known
        for name, original in self.originals.items():
            if original is None or original_of(getattr(self.cls, name, None)) is not original:
                self.unchanged = False
        for base in self.bases:
            if not base.intact():
                self.unchanged = False
        self.tag = tag
        return self.unchanged

    def is_intact(self):
        """Returns whether the class still resolves every name to TensorFlow's own method, whose code is known."""
        return self.intact()


cdef class Watched:
    """Base of compiled objects whose methods users may replace at any time."""

    cdef tuple watched_methods(self):
        return ()

    cdef tuple watched_fields(self):
        return ()

    cdef bint look(self) except -1:
        cdef PyTypeObject* cls = (<PyObject*>self).ob_type
        cdef unsigned long long tag, version
        cdef tuple methods = self.watched_methods()
        assert cls.tp_dictoffset == dict_offset     # a base with a dict gives its place to all classes
        watch_names(methods)
        watch_class_names(self.watched_fields())
        tag = new_type_tag(cls)
        version = new_own_version(<PyObject*>self)
        self.stock = definitions_known(type(self), methods, self.watched_fields()) and not is_any_set(self, methods)
        self.checked_type = cls
        self.checked_tag = tag
        # The look at the object may have given it its dict.
        self.checked_version = version if version != ~0ULL else new_own_version(<PyObject*>self)
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


dict_offset = (<PyTypeObject*>Watched).tp_dictoffset


def _rebuild(cls, fields):
    rebuilt = cls.__new__(cls)
    for name, value in fields.items():
        setattr(rebuilt, name, value)
    return rebuilt
