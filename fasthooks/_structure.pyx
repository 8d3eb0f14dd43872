# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Fetch structures: recognised by the identity of their leaves, and filled with results.

Callers build a new list of fetches on each step, or keep one and change it, so containers are compared element by
element; tensors with `is`, since `==` and `hash` on them may build graph ops or raise. TensorFlow's own mappers say
what the leaves are and raise for bad ones.
"""

import collections

from tensorflow.python.client import session as session_lib
from tensorflow.python.framework import dtypes, ops

# Dict keys of a fetch structure that are compared by value; others by identity.
cdef frozenset _value_keys = frozenset({str, int, bool, bytes})
cdef tuple _map_types = (dict, collections.OrderedDict, collections.defaultdict)


class Declined(Exception):
    """Raised while a plan is made for something that has to go TensorFlow's way; the message says why."""


cdef class Template:
    cdef bint matches(self, object fetches) except -1:
        raise NotImplementedError

    cdef object build(self, list values):
        raise NotImplementedError


cdef class TensorTemplate(Template):
    def __init__(self, leaf, int index):
        self.leaf = leaf
        self.index = index

    cdef bint matches(self, object fetches) except -1:
        return fetches is self.leaf or (type(self.leaf) is str and type(fetches) is str and fetches == self.leaf)

    cdef object build(self, list values):
        return values[self.index]


cdef class OperationTemplate(Template):
    cdef object leaf

    def __init__(self, leaf):
        self.leaf = leaf

    cdef bint matches(self, object fetches) except -1:
        return fetches is self.leaf or (type(self.leaf) is str and type(fetches) is str and fetches == self.leaf)

    cdef object build(self, list values):
        return None


cdef class CompositeTemplate(Template):
    # One leaf of several tensors: sparse, ragged, indexed slices. TensorFlow puts the value together.
    cdef object leaf, build_results
    cdef tuple indices

    def __init__(self, leaf, build_results, tuple indices):
        self.leaf = leaf
        self.build_results = build_results
        self.indices = indices

    cdef bint matches(self, object fetches) except -1:
        return fetches is self.leaf

    cdef object build(self, list values):
        return self.build_results([values[i] for i in self.indices])


cdef class SequenceTemplate(Template):
    cdef object kind    # list, tuple, or the namedtuple's class
    cdef tuple items

    def __init__(self, kind, tuple items):
        self.kind = kind
        self.items = items

    cdef bint matches(self, object fetches) except -1:
        cdef Py_ssize_t i, n = len(self.items)
        if type(fetches) is not self.kind:
            return False
        if self.kind is list:
            if len(<list>fetches) != n:
                return False
            for i in range(n):
                if not (<Template>self.items[i]).matches((<list>fetches)[i]):
                    return False
        else:
            if len(<tuple>fetches) != n:
                return False
            for i in range(n):
                if not (<Template>self.items[i]).matches((<tuple>fetches)[i]):
                    return False
        return True

    cdef object build(self, list values):
        cdef Template item
        cdef list results = [item.build(values) for item in self.items]
        if self.kind is list:
            return results
        return tuple(results) if self.kind is tuple else self.kind(*results)


cdef class MappingTemplate(Template):
    def __init__(self, kind, factory, tuple keys, tuple items):
        self.kind = kind
        self.factory = factory
        self.keys = keys
        self.items = items

    cdef bint matches(self, object fetches) except -1:
        cdef Py_ssize_t i = 0
        if (type(fetches) is not self.kind or len(<dict>fetches) != len(self.keys)
                or (self.kind is collections.defaultdict and fetches.default_factory is not self.factory)):
            return False
        for key, value in (<dict>fetches).items() if self.kind is dict else fetches.items():
            expected = self.keys[i]
            if key is not expected and not (type(key) is type(expected) and type(key) in _value_keys
                                            and key == expected):
                return False
            if not (<Template>self.items[i]).matches(value):
                return False
            i += 1
        return True

    cdef object build(self, list values):
        cdef Py_ssize_t i
        cdef dict results
        if self.kind is dict:
            results = {}
            for i in range(len(self.keys)):
                results[self.keys[i]] = (<Template>self.items[i]).build(values)
            return results
        pairs = [(self.keys[i], (<Template>self.items[i]).build(values)) for i in range(len(self.keys))]
        if self.kind is collections.defaultdict:
            return collections.defaultdict(self.factory, pairs)
        return self.kind(pairs)


cdef int sign(object fetches, list key, list alive, int depth) except -1:
    # Appends what tells this structure from all others: `id`s (kept from being reused by `alive`), lengths and keys.
    cdef type kind = type(fetches)
    if depth == 0:
        raise Declined("a fetch structure is nested too deeply")
    if kind is str:
        key.append(fetches)
    elif kind is list or isinstance(fetches, tuple):
        key.append((id(kind), len(fetches)))
        alive.append(kind)
        for item in fetches:
            sign(item, key, alive, depth - 1)
    elif kind in _map_types:
        key.append((id(kind), len(fetches)))
        if kind is collections.defaultdict:
            key.append(id(fetches.default_factory))
            alive.append(fetches.default_factory)
        for name, item in fetches.items():
            if type(name) in _value_keys:
                key.append((type(name).__name__, name))
            elif isinstance(name, (tuple, float)):
                raise Declined(f"a fetch structure has a {type(name).__name__} as a key")
            else:
                key.append(id(name))
                alive.append(name)
            sign(item, key, alive, depth - 1)
    else:
        key.append(id(fetches))
        alive.append(fetches)
    return 0


class Elements:
    """Collects the tensors and operations of all requests of a plan, each once."""

    def __init__(self, graph):
        self.graph = graph
        self.tensors = []
        self.targets = []
        self._index = {}

    def add(self, element):
        """Returns the index of a tensor's value, or None for an operation."""
        known = self._index.get(id(element))
        if known is not None:
            return known[0]
        operation = isinstance(element, ops.Operation)
        op = element if operation else element.op
        if not self.graph.is_fetchable(op):
            raise Declined("an element may not be fetched")
        if operation:
            index = None
            self.targets.append(element)
        else:
            if op.type in ("GetSessionHandle", "GetSessionHandleV2"):
                raise Declined("a session handle is fetched")
            if element.dtype.base_dtype in (dtypes.resource, dtypes.variant):
                raise Declined("a resource or variant is fetched")
            index = len(self.tensors)
            self.tensors.append(element)
        self._index[id(element)] = (index, element)
        return index

    def template(self, fetches):
        """Returns the Template of one fetch structure; raises what TensorFlow raises for a bad one."""
        kind = type(fetches)
        if kind is list or kind is tuple or (isinstance(fetches, tuple) and hasattr(kind, "_fields")):
            return SequenceTemplate(kind, tuple([self.template(item) for item in fetches]))
        if kind in _map_types:
            return MappingTemplate(kind, getattr(fetches, "default_factory", None), tuple(fetches),
                                   tuple([self.template(item) for item in fetches.values()]))
        with self.graph.as_default():
            mapper = session_lib._FetchMapper.for_fetch(fetches)
        # Only what never changes may be recognised by its identity: TensorFlow's own leaves, not its containers.
        if type(mapper) is not session_lib._ElementFetchMapper or not (
                kind is str or f"{kind.__module__}.".startswith("tensorflow.")):
            raise Declined(f"a fetch has the type {kind.__name__}")
        found = mapper.unique_fetches()
        indices = tuple([self.add(element) for element in found])
        if len(found) == 1 and (kind is str or found[0] is fetches or hasattr(fetches, "_as_graph_element")):
            return OperationTemplate(fetches) if indices[0] is None else TensorTemplate(fetches, indices[0])
        return CompositeTemplate(fetches, mapper.build_results, indices)
