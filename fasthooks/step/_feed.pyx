# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""What is fed: keys resolved once, values checked and converted as `Session.run` does.

An exact array of the placeholder's dtype and a fitting shape goes through as it is; everything else is converted, once, with
the function that TensorFlow converts it with. What `Session.run` refuses for its kind, it is left to refuse.
"""

import collections
import collections.abc

import numpy as np
from tensorflow.python.client import session as session_lib
from tensorflow.python.framework import dtypes, indexed_slices, sparse_tensor
from tensorflow.python.framework import tensor as tensor_lib
from tensorflow.python.ops import session_ops
from tensorflow.python.ops.ragged import ragged_tensor, ragged_tensor_value

from fasthooks.step import declining
from fasthooks.step._structure import Declined

cimport numpy as cnp
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject

from fasthooks.step._structure cimport conversions

cnp.import_array()

# TensorFlow 2.16 and later convert feeds with this helper, which follows NumPy 2's rules; before, with NumPy itself.
try:
    from tensorflow.python.util.numpy_compat import np_asarray as _as_array
except ImportError:
    _as_array = np.asarray

# Keys of several tensors, and the values that may be split more than once: what iterates only once is `Session.run`'s.
cdef tuple _composites = (sparse_tensor.SparseTensor, indexed_slices.IndexedSlices, ragged_tensor.RaggedTensor)
cdef tuple _splittable = (tuple, list, ragged_tensor_value.RaggedTensorValue)
cdef dict _nothing = {}


cdef class FeedSpec:
    def __cinit__(self, tensor):
        if not hasattr(tensor, "_shape_val"):
            raise Declined(declining.CODE_UNKNOWN)
        self.tensor = tensor
        self.output = tensor._as_tf_output()
        self.numpy_type = tensor.dtype.as_numpy_dtype
        # Quantized types have the number of all structured ones.
        self.typenum = -1 if tensor.dtype.is_quantized else np.dtype(self.numpy_type).num
        self.look()

    cdef int look(self) except -1:
        # `set_shape` makes the tensor forget the shape object that it last gave out.
        self.shape = self.tensor.get_shape()
        self.dims = None if self.shape.rank is None else tuple(
            [-1 if size is None else size for size in self.shape.as_list()])
        return 0

    cdef bint fits(self, object value) except -1:
        cdef cnp.ndarray array = value
        cdef Py_ssize_t i, size
        if self.tensor._shape_val is not self.shape:
            self.look()
        if self.dims is None:
            return True
        if len(self.dims) != array.ndim:
            return False
        for i in range(array.ndim):
            size = self.dims[i]
            if size >= 0 and size != array.shape[i]:
                return False
        return True

    cdef bint is_ready(self, object value) except -1:
        return (type(value) is np.ndarray and cnp.PyArray_TYPE(<cnp.ndarray>value) == self.typenum
                and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>value) and self.fits(value))

    cdef bint may_convert(self, object value) except -1:
        if type(value) is np.ndarray:
            return self.fits(value)
        if isinstance(value, (tensor_lib.Tensor, session_ops.TensorHandle)):
            return False
        try:
            # `Session.run` refuses an integer that the dtype cannot hold.
            return not (isinstance(value, int) and session_lib._convert_to_numpy_obj(self.numpy_type, value) != value)
        except Exception:
            return False

    cdef object convert(self, object session, object value):
        if self.is_ready(value):
            return value
        array = _as_array(value, self.numpy_type)
        if not self.fits(array):
            # Runs nothing: says what is wrong with the shape.
            session_lib.BaseSession.run(session, [], {self.tensor: array})
        return array


cdef class FeedKey:
    """One key of a feed dict.

    Args:
      graph: The session's graph; None: the key is to be recognised only.
      key: The key as the caller writes it.

    Raises:
      Declined: It is not known how to feed it.
      Exception: What TensorFlow raises for a bad key.
    """

    def __cinit__(self, graph, key):
        self.key = key
        self.specs = ()
        if graph is None:
            return
        tensors = [key]
        row = conversions(key)
        if isinstance(key, _composites):
            _, _, self.split, parts = row
            tensors = parts(key)
        elif not (isinstance(key, (str, tensor_lib.Tensor)) or hasattr(key, "_as_graph_element")):
            raise Declined(f"a feed key has the type {type(key).__name__}")
        tensors = [graph.as_graph_element(tensor, allow_tensor=True, allow_operation=False) for tensor in tensors]
        for tensor in tensors:
            if not graph.is_feedable(tensor):
                raise Declined("a tensor may not be fed")
            if tensor.dtype.base_dtype in (dtypes.resource, dtypes.variant):
                raise Declined("a handle is fed")
        self.specs = tuple([FeedSpec(tensor) for tensor in tensors])

    cdef bint stands_for(self, object key) except -1:
        return key is self.key or (type(key) is str and type(self.key) is str and key == self.key)

    cdef bint spread(self, object value, list pairs) except -1:
        if self.split is None:
            pairs.append((self.specs[0], value))
            return True
        if not isinstance(value, _splittable):
            return False
        try:
            parts = list(self.split(self.key, value))
        except Exception:
            return False
        if len(parts) != len(self.specs):
            return False
        pairs.extend([(spec, part) for spec, (_, part) in zip(self.specs, parts)])
        return True


cdef tuple feed_keys(object graph, object keys):
    cdef FeedSpec spec
    cdef dict outputs = {}
    known = tuple([FeedKey(graph, key) for key in keys])
    for spec in all_specs(known):
        # Of a tensor that two keys name, the last value is fed, as with TensorFlow.
        spec.output = outputs.setdefault(id(spec.tensor), spec.output)
    return known


cdef list all_specs(tuple known):
    cdef list specs = []
    for key in known:
        specs.extend((<FeedKey>key).specs)
    return specs


cdef dict plain_dict(object feed_dict):
    if not isinstance(feed_dict, collections.abc.Mapping):
        return None
    try:
        if not feed_dict:
            return {}
        if not isinstance(feed_dict, dict):
            return dict(feed_dict.items())
        # TensorFlow asks a dict for its own keys, and then for each value.
        return dict.copy(feed_dict) if type(feed_dict).__getitem__ is dict.__getitem__ else None
    except Exception:
        return None


cdef inline Py_ssize_t position(tuple known, object key, Py_ssize_t expected) except -2:
    # Where `key` is among the known ones, most likely at `expected`; -1: nowhere.
    cdef Py_ssize_t i, n = len(known)
    if expected < n and (<FeedKey>known[expected]).key is key:
        return expected
    for i in range(n):
        if (<FeedKey>known[i]).stands_for(key):
            return i
    return -1


cdef bint same_keys(tuple known, object feed_dict) except -1:
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t at = 0, i = 0
    if not feed_dict:
        return len(known) == 0
    if len(<dict>feed_dict) != len(known):
        return False
    while PyDict_Next(feed_dict, &at, &key, &value):
        if position(known, <object>key, i) < 0:
            return False
        i += 1
    return True


cdef dict feed_values(tuple known, object feed_dict, object session):
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t at = 0, i = 0, where, n = len(known)
    cdef FeedSpec spec
    cdef dict arrays
    if n == 0:
        return _nothing
    arrays = {}
    while PyDict_Next(feed_dict, &at, &key, &value):
        where = position(known, <object>key, i)
        i += 1
        if where < 0 or (<FeedKey>known[where]).split is not None:
            break
        spec = <FeedSpec>(<FeedKey>known[where]).specs[0]
        array = <object>value   # held: another thread may change the dict
        if not spec.is_ready(array):
            break
        arrays[spec.output] = array
    else:
        return arrays if i == n else None
    return converted(known, <dict>feed_dict, session)


cdef dict converted(tuple known, dict feed_dict, object session):
    # As `feed_values`, for values that are not all arrays as they are wanted. Converting one runs code of its class, so all
    # that can be declined is declined before, and each is converted once.
    cdef Py_ssize_t i = 0, where
    cdef list pairs = []
    for key, value in list(feed_dict.items()):
        where = position(known, key, i)
        i += 1
        if where < 0 or not (<FeedKey>known[where]).spread(value, pairs):
            return None
    for spec, value in pairs:
        if not (<FeedSpec>spec).may_convert(value):
            return None
    if i < len(known):
        return None
    return {(<FeedSpec>spec).output: (<FeedSpec>spec).convert(session, value) for spec, value in pairs}
