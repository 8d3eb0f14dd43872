# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Fetch structures: recognised by the identity of their leaves, and filled with results.

Callers build a new list of fetches on each step, or keep one and change it, so containers are compared element by
element; tensors with `is`, since `==` and `hash` on them may build graph ops or raise. Keys of mappings are not compared
at all: what they are has no part in a run, and results take those of the caller's own mapping, as with TensorFlow. Its
own mappers say what the leaves are and raise for bad ones.
"""

import collections
import collections.abc

from tensorflow.python.client import session as session_lib
from tensorflow.python.framework import indexed_slices, ops, sparse_tensor
from tensorflow.python.framework import tensor as tensor_lib
from tensorflow.python.ops.ragged import ragged_tensor

from cpython.type cimport PyType_IsSubtype

# Leaves of several tensors: programs make new ones around the same tensors, so their tensors are compared.
cdef tuple _composites = (sparse_tensor.SparseTensor, indexed_slices.IndexedSlices, ragged_tensor.RaggedTensor)
cdef object _Mapping = collections.abc.Mapping
# Live: what `register_session_run_conversion_functions` adds stands first.
cdef list _expansions = session_lib._REGISTERED_EXPANSIONS
# Only as many of them as there were when this was imported are known to leave tensors and operations as they are.
cdef Py_ssize_t _n_expansions = len(_expansions)


class Declined(Exception):
    """Raised while a plan is made for something that has to go TensorFlow's way; the message says why."""


cdef class Template:
    cdef bint matches(self, object fetches) except -1:
        raise NotImplementedError

    cdef int hold(self, object fetches, list mappings) except -1:
        return 0

    cdef object build(self, list values, list mappings, Py_ssize_t* at):
        raise NotImplementedError


cdef class Leaf(Template):
    def __cinit__(self, fetch):
        self.fetch = fetch
        self.items = ()
        self.index = -1
        if type(fetch) in _composites:
            self.expand = _fetch_function(fetch)
            self.components = tuple(self.expand(fetch)[0])

    cdef bint matches(self, object fetches) except -1:
        cdef Py_ssize_t i = 0, n
        if fetches is self.fetch:
            return True
        if type(fetches) is not type(self.fetch):
            return False
        if type(fetches) is str:
            return fetches == self.fetch
        if self.components is None:
            return False
        n = len(self.components)
        for component in self.expand(fetches)[0]:
            if i >= n or component is not self.components[i]:
                return False
            i += 1
        return i == n

    cdef object build(self, list values, list mappings, Py_ssize_t* at):
        if self.indices is not None:
            return self.contract([values[i] for i in self.indices])
        return None if self.index < 0 else values[self.index]


cdef class SequenceTemplate(Template):
    def __cinit__(self, kind, bint direct, tuple items):
        self.kind = kind
        self.direct = direct
        self.items = items
        self.keyed = _any_keyed(items)

    cdef bint matches(self, object fetches) except -1:
        cdef Py_ssize_t i, n = len(self.items)
        if type(fetches) is not self.kind:
            return False
        if not self.direct:
            fetches = list(fetches)
        if isinstance(fetches, list):
            # Its length is asked for each time: an element of a type of somebody's own may run code that changes it.
            for i in range(n):
                if len(<list>fetches) != n or not (<Template>self.items[i]).matches((<list>fetches)[i]):
                    return False
            return len(<list>fetches) == n
        if len(<tuple>fetches) != n:
            return False
        for i in range(n):
            if not (<Template>self.items[i]).matches((<tuple>fetches)[i]):
                return False
        return True

    cdef int hold(self, object fetches, list mappings) except -1:
        cdef Template item
        if self.keyed:
            for item, element in zip(self.items, list(fetches)):
                item.hold(element, mappings)
        return 0

    cdef object build(self, list values, list mappings, Py_ssize_t* at):
        cdef Template item
        cdef list results = [item.build(values, mappings, at) for item in self.items]
        if issubclass(self.kind, list):
            return results
        return tuple(results) if self.kind is tuple else self.kind(*results)


cdef class MappingTemplate(Template):
    def __cinit__(self, kind, tuple items):
        self.kind = kind
        self.items = items
        self.keyed = True

    cdef bint matches(self, object fetches) except -1:
        cdef Py_ssize_t i = 0, n = len(self.items)
        if type(fetches) is not self.kind:
            return False
        if self.kind is dict:
            if len(<dict>fetches) != n:
                return False
            for value in (<dict>fetches).values():
                if not (<Template>self.items[i]).matches(value):
                    return False
                i += 1
            return True
        for value in fetches.values():
            if i >= n or not (<Template>self.items[i]).matches(value):
                return False
            i += 1
        return i == n

    cdef int hold(self, object fetches, list mappings) except -1:
        cdef Template item
        # A dict's keys are live; those of other mappings TensorFlow takes before the run.
        mappings.append((fetches, None if self.kind is dict else fetches.keys()))
        if _any_keyed(self.items):
            for item, element in zip(self.items, list(fetches.values())):
                item.hold(element, mappings)
        return 0

    cdef object build(self, list values, list mappings, Py_ssize_t* at):
        cdef Template item
        mapping, keys = <tuple>mappings[at[0]]
        at[0] += 1
        results = [item.build(values, mappings, at) for item in self.items]
        if keys is None:
            return dict(zip(mapping, results))
        if isinstance(mapping, collections.defaultdict):
            return collections.defaultdict(mapping.default_factory, zip(keys, results))
        return self.kind(_pairs(keys, results))


# A class of somebody's own may look at what it is made from: TensorFlow gives it a generator, one of Python's own.
_pairs = eval("lambda keys, results: (pair for pair in zip(keys, results))")


cdef class AttrsTemplate(Template):
    # An object of a class made with `attrs`.
    cdef object kind
    cdef tuple names

    def __cinit__(self, kind, tuple names, tuple items):
        self.kind = kind
        self.names = names
        self.items = items
        self.keyed = _any_keyed(items)

    cdef bint matches(self, object fetches) except -1:
        cdef Py_ssize_t i
        if type(fetches) is not self.kind:
            return False
        for i in range(len(self.items)):
            if not (<Template>self.items[i]).matches(getattr(fetches, self.names[i])):
                return False
        return True

    cdef int hold(self, object fetches, list mappings) except -1:
        cdef Py_ssize_t i
        if self.keyed:
            for i in range(len(self.items)):
                (<Template>self.items[i]).hold(getattr(fetches, self.names[i]), mappings)
        return 0

    cdef object build(self, list values, list mappings, Py_ssize_t* at):
        cdef Template item
        return self.kind(*[item.build(values, mappings, at) for item in self.items])


cdef bint _any_keyed(tuple items) except -1:
    for item in items:
        if (<Template>item).keyed:
            return True
    return False


def _fetch_function(fetch):
    # What TensorFlow takes a leaf apart with.
    return conversions(fetch)[1]


cdef tuple conversions(object leaf):
    cdef Py_ssize_t i, n_added = len(_expansions) - _n_expansions
    for i, row in enumerate(list(_expansions)):
        if isinstance(leaf, row[0]):
            if i < n_added:
                break
            return row
    raise Declined(f"somebody registered how a {type(leaf).__name__} is fetched and fed")


cdef bint is_lasting(object leaf) except -1:
    cdef type kind = type(leaf)
    return (kind is str or isinstance(leaf, (tensor_lib.Tensor, ops.Operation))
            or f"{kind.__module__}.".startswith("tensorflow."))


cdef Py_ssize_t n_conversions() except -1:
    return len(_expansions)


cdef bint is_plain_list(type kind) except -1:
    # Whether the elements are to be had without running code of the class.
    return kind is list or (PyType_IsSubtype(kind, tuple) and kind.__iter__ is tuple.__iter__)


cdef bint is_sequence(type kind) except -1:
    return PyType_IsSubtype(kind, list) or PyType_IsSubtype(kind, tuple)


cdef tuple attrs_names(object fetches):
    # Names of the attributes of an object of a class made with `attrs`; None for any other.
    attributes = getattr(type(fetches), "__attrs_attrs__", None)
    return None if attributes is None else tuple([attribute.name for attribute in attributes])


cdef Template template(object fetches, int depth):
    cdef type kind = type(fetches)
    cdef bint direct
    if depth == 0:
        raise Declined("a fetch structure is nested too deeply")
    if isinstance(fetches, (str, tensor_lib.Tensor, ops.Operation)):
        return Leaf(fetches)
    if is_sequence(kind):
        direct = is_plain_list(kind)
        return SequenceTemplate(kind, direct, tuple([template(item, depth - 1) for item in fetches]))
    if issubclass(kind, _Mapping):
        return MappingTemplate(kind, tuple([template(item, depth - 1) for item in fetches.values()]))
    names = attrs_names(fetches)
    if names is not None:
        return AttrsTemplate(kind, names, tuple([template(getattr(fetches, name), depth - 1) for name in names]))
    return Leaf(fetches)


cdef list held(Template part, object fetches):
    cdef list mappings
    if not part.keyed:
        return None
    mappings = []
    part.hold(fetches, mappings)
    return mappings


cdef object built(Template part, list values, list mappings):
    cdef Py_ssize_t at = 0
    return part.build(values, mappings, &at)


cdef int sign(object fetches, list key, list alive, int depth) except -1:
    # `id`s are kept from being reused by `alive`.
    cdef type kind = type(fetches)
    if depth == 0:
        raise Declined("a fetch structure is nested too deeply")
    if kind is str:
        key.append(fetches)
    elif isinstance(fetches, (tensor_lib.Tensor, ops.Operation)):
        key.append(id(fetches))
        alive.append(fetches)
    elif is_sequence(kind):
        _sign_all(kind, fetches, key, alive, depth)
    elif issubclass(kind, _Mapping):
        _sign_all(kind, fetches.values(), key, alive, depth)
    elif kind in _composites:
        _sign_all(kind, _fetch_function(fetches)(fetches)[0], key, alive, depth)
    else:
        names = attrs_names(fetches)
        if names is not None:
            _sign_all(kind, [getattr(fetches, name) for name in names], key, alive, depth)
        elif is_lasting(fetches):
            key.append(id(fetches))
            alive.append(fetches)
        else:
            raise Declined(f"a fetch has the type {kind.__name__}")
    return 0


cdef int _sign_all(type kind, object elements, list key, list alive, int depth) except -1:
    elements = list(elements)
    key.append((id(kind), len(elements)))
    alive.append(kind)
    for element in elements:
        sign(element, key, alive, depth - 1)
    return 0


class Elements:
    """Collects the tensors and operations of all requests of a plan, each once, and tells the leaves where they are.

    Args:
      graph: The session's graph.

    Attributes:
      tensors: What is fetched, each tensor once.
      targets: The operations.
    """

    def __init__(self, graph):
        self.graph = graph
        self.tensors = []
        self.targets = []
        self._index = {}
        self._leaves = []

    def resolve(self, Template part not None):
        """Finds the tensors and operations of a structure.

        Raises:
          Declined: Something in it has to go TensorFlow's way.
          Exception: What TensorFlow raises for a bad fetch.
        """
        cdef Leaf leaf
        if isinstance(part, Leaf):
            leaf = <Leaf>part
            found = self.find(leaf)
            indices = tuple([self.add(element) for element in found])
            self._leaves.append(leaf)
            if leaf.contract is None:
                leaf.index = indices[0]
            else:
                leaf.indices = indices
        for item in part.items:
            self.resolve(item)

    def find(self, Leaf leaf not None):
        """Returns the tensors and operations that a leaf stands for; raises as `resolve`."""
        fetch = leaf.fetch
        conversions(fetch)  # raises for one that somebody registered
        if isinstance(fetch, (tensor_lib.Tensor, ops.Operation)) and fetch.graph is self.graph:
            return [fetch]
        kind = type(fetch)
        with self.graph.as_default():
            mapper = session_lib._FetchMapper.for_fetch(fetch)
        # A container of TensorFlow's own, whose elements may change.
        if type(mapper) is not session_lib._ElementFetchMapper:
            raise Declined(f"a fetch has the type {kind.__name__}")
        found = mapper.unique_fetches()
        if len(found) > 1 or not (kind is str or found[0] is fetch or hasattr(fetch, "_as_graph_element")):
            leaf.contract = mapper.build_results
        return found

    def add(self, element):
        """Returns where an element's value is; -1 for an operation. Raises as `resolve`."""
        known = self._index.get(id(element))
        if known is not None:
            return known[0]
        operation = isinstance(element, ops.Operation)
        op = element if operation else element.op
        if not self.graph.is_fetchable(op):
            raise Declined("an element may not be fetched")
        if operation:
            index = -1
            self.targets.append(element)
        else:
            if op.type in ("GetSessionHandle", "GetSessionHandleV2"):
                raise Declined("a session handle is fetched")
            index = len(self.tensors)
            self.tensors.append(element)
        self._index[id(element)] = (index, element)
        return index

    def move_to_end(self, fed):
        """Puts tensors that are fed behind all others; returns how many tensors are left to be fetched.

        Args:
          fed: ids of the tensors that are fed.
        """
        cdef Leaf leaf
        order = sorted(range(len(self.tensors)), key=lambda index: id(self.tensors[index]) in fed)
        place = {index: position for position, index in enumerate(order)}
        place[-1] = -1
        self.tensors = [self.tensors[index] for index in order]
        for leaf in self._leaves:
            leaf.index = place[leaf.index]
            if leaf.indices is not None:
                leaf.indices = tuple([place[index] for index in leaf.indices])
        return sum(id(tensor) not in fed for tensor in self.tensors)
