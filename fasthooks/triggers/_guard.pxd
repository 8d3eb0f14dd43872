"""Is the code that a compiled path stands in for still TensorFlow's own?

Shared by `_trigger` (hooks and timers), `_plan` (the raw session) and `_dispatch` (the session chain).
"""

from cpython.object cimport PyObject, PyObject_TypeCheck, PyTypeObject

cdef extern from *:
    """
    /* Python 3.12 and later tell of changes of a dict that is watched; before, each dict has a version. */
    #define FASTHOOKS_WATCHES (PY_VERSION_HEX >= 0x030C0000)

    #if !FASTHOOKS_WATCHES
    #define PyDict_AddWatcher(callback) (-1)
    #define PyDict_Watch(watcher, dict) 0
    #endif

    /* Counts of one place: `epoch` and the object's address. */
    static CYTHON_INLINE unsigned long long fasthooks_stamp(unsigned long long epoch, void *object) {
        return (epoch << 44) ^ (epoch << 20) ^ ((unsigned long long)(size_t)object >> 4) ^ (1ULL << 63);
    }

    /* Asked twice a step and hook, of objects that TensorFlow's run pushes out of the first cache: each reads one field. */
    static CYTHON_INLINE unsigned long long fasthooks_type_tag(PyTypeObject *type, unsigned long long epoch, int watcher) {
    #if FASTHOOKS_WATCHES
        /* Bases that were exchanged give the class another tuple. */
        if (watcher >= 0) return fasthooks_stamp(epoch, type->tp_mro);
    #endif
        return type->tp_version_tag;    /* 0 once the class or a base has changed */
    }

    static CYTHON_INLINE unsigned long long fasthooks_dict_version(PyObject *dict, unsigned long long epoch, int watcher) {
    #if FASTHOOKS_WATCHES
        return watcher >= 0 ? fasthooks_stamp(epoch, dict) : 0;
    #else
        return ((PyDictObject *)dict)->ma_version_tag;
    #endif
    }

    static CYTHON_INLINE PyObject *fasthooks_dict_at(PyObject *object, Py_ssize_t offset) {
        return *(PyObject **)((char *)object + offset);
    }
    """
    bint WATCHES "FASTHOOKS_WATCHES"
    unsigned long long _type_tag "fasthooks_type_tag"(PyTypeObject*, unsigned long long, int) noexcept nogil
    unsigned long long _dict_version "fasthooks_dict_version"(PyObject*, unsigned long long, int) noexcept nogil
    PyObject* _dict_at "fasthooks_dict_at"(PyObject*, Py_ssize_t) noexcept nogil

# Counts the changes of watched dicts that concern any guard.
cdef unsigned long long epoch
# CPython's numbers of our watchers of classes' dicts and of objects' dicts; -1: there is none.
cdef int class_watcher, object_watcher
# Where a `Watched` has its pointer to its dict.
cdef Py_ssize_t dict_offset

# A number that changes whenever the class or one of its bases is modified in what guards look at; 0: not known, look
# slowly. To be compared with what `new_type_tag` gave.
cdef inline unsigned long long type_tag(PyTypeObject* cls) noexcept:
    return _type_tag(cls, epoch, class_watcher)

# A number that changes with every change of the dict that concerns a guard, and that no other dict has meanwhile; 0: not
# known, look slowly. To be compared with what `new_dict_version` gave. Up to Python 3.11 every change changes it.
cdef inline unsigned long long dict_version(PyObject* mapping) noexcept:
    return _dict_version(mapping, epoch, object_watcher)

# The same for the dict of an object that has a pointer to it at a place of its own; all bits set: it has no dict yet.
cdef inline unsigned long long own_version(PyObject* obj, Py_ssize_t offset) noexcept:
    cdef PyObject* mapping = _dict_at(obj, offset)
    return ~0ULL if mapping is NULL else dict_version(mapping)

# The numbers of now, of classes and dicts that are watched from now on; 0: they cannot be watched. To be asked for before
# the look that they stand for.
cdef unsigned long long new_type_tag(PyTypeObject* cls) except? 0
cdef unsigned long long new_dict_version(PyObject* mapping) except? 0
cdef unsigned long long new_own_version(PyObject* obj) except? 0

# Declares attributes of objects, or of classes, whose changes concern a guard.
cdef int watch_names(object names) except -1
cdef int watch_class_names(object names) except -1

# The instance `__dict__` as it is now (a new reference), or NULL without an error set where there is none.
cdef PyObject* instance_dict(PyObject* obj) noexcept

# Whether that is the object's `__dict__` still.
cdef bint has_dict(object obj, PyObject* fields) noexcept

# Whether every definition of the methods in the class and its bases is known code, and none redefines one of the fields.
cdef bint definitions_known(type cls, tuple methods, tuple fields) except -1

# For methods that are bound methods of Python's, as TensorFlow's own are (`binding`): these are given anything as `self`.
cdef inline int check_self(PyObject* obj, type cls) except -1:
    if not PyObject_TypeCheck(<object>obj, <PyTypeObject*>cls):
        raise TypeError(f"self must be a {cls.__name__}; got {<object>obj!r}.")
    return 0

# Whether one of these names is in the instance's `__dict__`.
cdef bint is_any_set(object obj, tuple names) except -1


cdef class ClassGuard:
    cdef readonly type cls      # the class that is watched
    cdef dict originals         # name -> the function that TensorFlow defines; None: it was patched before our import
    cdef tuple bases            # guards of base classes: a change of one also changes the tag of `cls`
    cdef readonly bint known    # whether the code that stands behind these names is known
    cdef unsigned long long tag     # `type_tag` of `cls` at the last look
    cdef bint unchanged         # result of the last look
    # True while `cls` and its guarded bases resolve every name to TensorFlow's own function.
    cdef inline bint intact(self) except -1:
        cdef unsigned long long tag = type_tag(<PyTypeObject*>self.cls)
        return self.unchanged if tag == self.tag and tag != 0 else self.look()
    cdef bint look(self) except -1


cdef class Watched:
    cdef dict __dict__                      # the object's own attributes, at a fixed place: `own_version` relies on it
    cdef unsigned long long checked_version     # version of that dict at the last look
    cdef unsigned long long checked_tag     # the type's tag at the last look
    cdef PyTypeObject* checked_type         # the type at the last look; never dereferenced
    cdef bint stock                         # result of the last look
    # Whether all that the compiled path replaces is known code; `is_stock` below asks without a call.
    cdef bint look(self) except -1
    # Methods the compiled path stands in for, and attributes it reads as C fields.
    cdef tuple watched_methods(self)
    cdef tuple watched_fields(self)


cdef inline bint is_stock(Watched watched) except -1:
    # A few compares, unless an attribute was set or a class changed.
    cdef PyTypeObject* cls = (<PyObject*>watched).ob_type
    cdef unsigned long long tag = type_tag(cls), version
    if cls is watched.checked_type and tag == watched.checked_tag and tag != 0:
        version = own_version(<PyObject*>watched, dict_offset)
        if version == watched.checked_version and version != 0:
            return watched.stock
    return watched.look()
