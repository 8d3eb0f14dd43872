"""Is the code that a compiled path stands in for still TensorFlow's own?

Shared by `_trigger` (hooks and timers), `_plan` (the raw session) and `_dispatch` (the session chain).
"""

from cpython.object cimport PyObject, PyTypeObject

cdef extern from *:
    """
    /* A number that changes whenever the type or one of its bases is modified; 0: not known, look slowly. */
    static CYTHON_INLINE unsigned int fasthooks_type_tag(PyTypeObject *type) {
    #if PY_VERSION_HEX < 0x030C0000
        if (!PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG)) return 0;
    #endif
        return type->tp_version_tag;
    }

    /* A number that changes with every change of the dict and that no two dicts ever share; 0: this Python has none. */
    #define FASTHOOKS_DICT_VERSIONS (PY_VERSION_HEX < 0x030D0000)
    static CYTHON_INLINE unsigned long long fasthooks_dict_version(PyObject *dict) {
    #if FASTHOOKS_DICT_VERSIONS
        return ((PyDictObject *)dict)->ma_version_tag;
    #else
        return 0;
    #endif
    }

    /* The same for the dict of an object that has room for a pointer to it; all bits set: it has no dict yet. */
    static CYTHON_INLINE unsigned long long fasthooks_own_version(PyObject *object) {
        PyObject *dict = *(PyObject **)((char *)object + Py_TYPE(object)->tp_dictoffset);
        return dict == NULL ? ~0ULL : fasthooks_dict_version(dict);
    }
    """
    bint HAVE_DICT_VERSIONS "FASTHOOKS_DICT_VERSIONS"
    unsigned long long own_version "fasthooks_own_version"(PyObject *object) noexcept nogil
    unsigned long long dict_version "fasthooks_dict_version"(PyObject *mapping) noexcept nogil
    unsigned int type_tag "fasthooks_type_tag"(PyTypeObject *type) noexcept nogil


# The instance `__dict__` as it is now (a new reference), or NULL without an error set where there is none.
cdef PyObject* instance_dict(PyObject* obj) noexcept

# Whether every definition of the methods in the class and its bases is known code, and none redefines one of the fields.
cdef bint definitions_known(type cls, tuple methods, tuple fields) except -1

# Whether one of these names is in the instance's `__dict__`.
cdef bint is_any_set(object obj, tuple names) except -1


cdef class ClassGuard:
    cdef readonly type cls      # the class that is watched
    cdef dict originals         # name -> the function that TensorFlow defines; None: it was patched before our import
    cdef tuple bases            # guards of base classes: a change of one also changes the tag of `cls`
    cdef unsigned int tag       # version tag of `cls` at the last look
    cdef bint unchanged         # result of the last look
    # True while `cls` and its guarded bases resolve every name to TensorFlow's own function.
    cdef inline bint intact(self) except -1:
        cdef unsigned int tag = type_tag(<PyTypeObject*>self.cls)
        return self.unchanged if tag == self.tag and tag != 0 else self.look()
    cdef bint look(self) except -1


cdef class Watched:
    cdef dict __dict__                      # the object's own attributes, at a fixed place: `own_version` relies on it
    cdef unsigned long long checked_version     # version of that dict at the last look
    cdef unsigned int checked_tag           # the type's tag at the last look
    cdef PyTypeObject* checked_type         # the type at the last look; never dereferenced
    cdef bint classes_known                 # result of the last look at the classes
    cdef bint stock                         # that, and no method was set on the object
    # Whether a method was set on the object.
    cdef bint sets_method(self) except -1
    # Whether all that the compiled path replaces is known code; `is_stock` below asks without a call.
    cdef bint look(self) except -1
    # Methods the compiled path stands in for, and attributes it reads as C fields.
    cdef tuple watched_methods(self)
    cdef tuple watched_fields(self)


cdef inline bint is_stock(Watched watched) except -1:
    # A few compares, unless an attribute was set or a class changed; a few look-ups where dicts have no versions.
    cdef PyTypeObject* cls = (<PyObject*>watched).ob_type
    cdef unsigned int tag = type_tag(cls)
    if cls is watched.checked_type and tag == watched.checked_tag and tag != 0:
        if not HAVE_DICT_VERSIONS:
            return watched.classes_known and not watched.sets_method()
        if own_version(<PyObject*>watched) == watched.checked_version:
            return watched.stock
    return watched.look()
