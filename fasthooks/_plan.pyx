# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Prepared runs: feeds in, results out, and the bounded cache that holds them.

`Session.run` parses fetches and feeds on every call. A plan has done that once: it owns a native callable for one
combination of requests and feed keys, and knows where each result belongs. What a native callable does differently
from `Session.run` is made good here:

- array results alias TensorFlow's memory: a plan hands out copies;
- feeds are neither checked nor converted: a plan passes on exact arrays of the right dtype and shape, converts as
  `Session.run` does, and declines what needs `Session.run`'s own judgement or error;
- a tensor both fed and fetched, session handles, structures that cannot be compared cheaply: declined;
- errors lack their op: they are raised again through the session's own `_do_call`;
- calling one on a session whose native half is gone, or releasing it while a thread is inside, kills the interpreter:
  the session is checked before each call, and a callable is released by its owner's reference count, so by the last
  thread that leaves it, whatever evicted the plan meanwhile.

"Declined" means that the step goes through `Session.run`, which then does and says what it always did.
"""

import collections
import time

import numpy as np
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import dtypes, errors
from tensorflow.python.framework import tensor as tensor_lib
from tensorflow.python.ops import session_ops

from fasthooks import scheduling as scheduling_lib
from fasthooks._structure import Declined, Elements

cimport numpy as cnp
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.object cimport PyObject

from fasthooks._guard cimport dict_version
from fasthooks._structure cimport sign

cnp.import_array()

cdef extern from "Python.h":
    PyObject* Py_False

# TensorFlow 2.16 and later convert feeds with this helper, which follows NumPy 2's rules; before, with NumPy itself.
try:
    from tensorflow.python.util.numpy_compat import np_asarray as _as_array
except ImportError:
    _as_array = np.asarray

cdef object _run_callable = pywrap_tf_session.TF_SessionRunCallable
cdef object _OpError = errors.OpError
# NumPy's numbers for types that other libraries register begin here (NPY_USERDEF).
cdef int _USER_TYPES = 256
# Deeper structures, and those that contain themselves, are TensorFlow's to judge.
cdef int _MAX_DEPTH = 32
# Before a plan settles on pool or inline: runs on the pool alone, and timed runs of each kind after that.
cdef int _POOL_FIRST = 3
cdef int _TIMED_RUNS = 5
# How far uses are counted, how many dropped signatures are remembered for each plan kept, and after how many refusals
# for each plan kept all counts are halved.
cdef int _MANY = 15
cdef int _REMEMBERED = 64
cdef int _AGE = 16
# Counts the runs of all plans: the plan with the smallest `used` is the least recently used one.
cdef unsigned long _runs = 0
# What all caches of this process counted together; see `totals`.
cdef unsigned long _steps = 0, _planned = 0, _made = 0, _evicted = 0
cdef dict _declined = {}
cdef bint _timing = False
cdef double _first_began = 0, _last_began = 0


cdef class Refusal:
    """Stands in the cache for requests that were looked at and declined."""

    cdef readonly str reason
    cdef unsigned long used     # as for a plan
    cdef unsigned char uses
    cdef list alive     # keeps the objects alive whose `id` the signature holds

    def __init__(self, str reason, list alive):
        self.reason = reason
        self.alive = alive
        self.used = _runs


# Feeds


cdef class FeedSpec:
    """One fed tensor, and which values for it need no help from `Session.run`."""

    def __init__(self, tensor):
        self.tensor = tensor
        self.numpy_type = tensor.dtype.as_numpy_dtype
        self.typenum = np.dtype(self.numpy_type).num
        self.look()
        if tensor.dtype.base_dtype in (dtypes.resource, dtypes.variant) or tensor.dtype.is_quantized:
            self.typenum = -1

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

    cdef object accept(self, object value):
        if (type(value) is np.ndarray and cnp.PyArray_TYPE(<cnp.ndarray>value) == self.typenum
                and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>value)):
            return value if self.fits(value) else None
        # NumPy's types for bfloat16, int4 and the like come from a library with conversions of its own.
        if self.typenum == -1 or self.typenum >= _USER_TYPES or isinstance(value, (tensor_lib.Tensor, session_ops.TensorHandle)):
            return None
        try:
            array = _as_array(value, self.numpy_type)
            # `Session.run` refuses an integer that the dtype cannot hold.
            if isinstance(value, int) and (array.dtype == object or array.item() != value):
                return None
        except Exception:
            return None
        return array if type(array) is np.ndarray and self.fits(array) else None


cdef Py_ssize_t position(tuple feeds, object tensor, Py_ssize_t expected) noexcept:
    # Where `tensor` is among the feeds, most likely at `expected`; -1: nowhere.
    cdef Py_ssize_t i, n = len(feeds)
    if expected < n and (<FeedSpec>feeds[expected]).tensor is tensor:
        return expected
    for i in range(n):
        if (<FeedSpec>feeds[i]).tensor is tensor:
            return i
    return -1


# Plans


def make_callable(session, feed_names, fetch_names, target_names, inline):
    """Makes a native callable.

    Args:
      session: The raw session.
      feed_names: Names of the tensors that are fed, in the order of the values.
      fetch_names: Names of the tensors that are fetched, in the order of the results.
      target_names: Names of the operations that are run.
      inline: Whether all kernels run in the calling thread.

    Returns:
      TensorFlow's owner of the callable; it releases the callable when it is deleted, if the session is still open.
    """
    options = config_pb2.CallableOptions(feed=feed_names, fetch=fetch_names, target=target_names)
    if inline:
        options.run_options.inter_op_thread_pool = -1
    return session._make_callable_from_options(options)


def _raise(error):
    raise error


cdef class Plan:
    """One prepared run of one raw session. Made by `PlanCache`; used by any number of threads at once."""

    def __init__(self, session, tuple parts, tuple feeds, list fetch_names, list target_names):
        self.session = session
        self.session_fields = session.__dict__
        self.parts = parts
        self.feeds = feeds
        self.fetch_names = fetch_names
        self.target_names = target_names
        self.n_ops = -1
        self.unfetchable = session.graph._unfetchable_ops
        self.unfeedable = session.graph._unfeedable_tensors._storage
        self.n_unfetchable = len(self.unfetchable)
        self.n_unfeedable = len(self.unfeedable)

    def make(self, bint inline):
        """Returns the owner of a new native callable for this plan."""
        return make_callable(self.session, [(<FeedSpec>feed).tensor.name for feed in self.feeds], self.fetch_names,
                             self.target_names, inline)

    def settle(self, str scheduling, str reason, owner):
        """Takes `owner`'s callable for all runs from now on."""
        self.scheduling = scheduling
        self.reason = reason
        self.callable = owner
        self.handle = owner._handle
        self.trial = None

    def try_both(self):
        """Runs on the pool and inline in turn until the faster one is known."""
        cdef Trial trial = Trial.__new__(Trial)
        trial.pool = self.make(False)
        trial.pool_secs = trial.inline_secs = float("inf")
        self.scheduling = "trial"
        self.reason = "the first runs are timed on the pool and inline"
        self.trial = trial

    def describe(self):
        """Returns a dict that tells a person what this plan is."""
        return {"fetches": list(self.fetch_names), "targets": list(self.target_names),
                "feeds": [(<FeedSpec>feed).tensor.name for feed in self.feeds], "ops": self.n_ops,
                "scheduling": self.scheduling, "reason": self.reason}

    cdef bint is_allowed(self) except -1:
        return len(self.unfetchable) == self.n_unfetchable and len(self.unfeedable) == self.n_unfeedable

    cdef bint takes(self, object feed_dict) except -1:
        cdef PyObject *key
        cdef PyObject *value
        cdef Py_ssize_t at = 0, i = 0
        if not self.is_allowed():
            return False
        if not feed_dict:
            return len(self.feeds) == 0
        if type(feed_dict) is not dict and type(feed_dict) is not collections.OrderedDict:
            return False
        if len(<dict>feed_dict) != len(self.feeds):
            return False
        while PyDict_Next(feed_dict, &at, &key, &value):
            if position(self.feeds, <object>key, i) < 0:
                return False
            i += 1
        return True

    cdef list feed_values(self, object feed_dict):
        cdef Py_ssize_t i = 0, where, n = len(self.feeds)
        cdef list arrays, pairs
        if n == 0:
            return _no_feeds
        # Conversion may run Python code that changes the dict: take the values first.
        pairs = list((<dict>feed_dict).items())
        arrays = [None] * n
        for tensor, fed in pairs:
            where = position(self.feeds, tensor, i)
            i += 1
            if where < 0:
                return None
            array = (<FeedSpec>self.feeds[where]).accept(fed)
            if array is None:
                return None
            arrays[where] = array
        return arrays if i == n else None

    cdef int check_open(self) except -1:
        # A missing native session would be a null pointer inside TensorFlow.
        cdef PyObject* native = PyDict_GetItemWithError(self.session_fields, "_session")
        cdef PyObject* closed = PyDict_GetItemWithError(self.session_fields, "_closed")
        if native is NULL or native is <PyObject*>None or closed is not Py_False:
            raise RuntimeError("Attempted to use a closed Session.")
        self.native = <object>native
        self.open_version = dict_version(<PyObject*>self.session_fields)
        return 0

    cdef list native_call(self, object handle, list feeds):
        cdef unsigned long long version = dict_version(<PyObject*>self.session_fields)
        if version != self.open_version or version == 0:
            self.check_open()
        try:
            return _run_callable(self.native, handle, feeds, None)
        except _OpError as error:
            # Adds the op, its definition and where it was made, as for an error of `Session.run`.
            return self.session._do_call(_raise, error)

    cdef list call(self, list feeds):
        cdef list values
        cdef Trial trial = self.trial
        cdef Py_ssize_t i
        cdef object _owner
        global _runs
        _runs += 1
        self.used = _runs
        if self.uses < _MANY:
            self.uses += 1
        if trial is None:
            _owner = self.callable  # keeps the callable alive if the plan settles on another one meanwhile
            values = self.native_call(self.handle, feeds)
        else:
            values = trial.call(self, feeds)
        for i in range(len(values)):
            value = values[i]
            # Numbers arrive as immutable scalars, strings as arrays of objects that are already ours.
            if cnp.PyArray_CheckExact(value) and not cnp.PyArray_CHKFLAGS(<cnp.ndarray>value, cnp.NPY_ARRAY_OWNDATA):
                values[i] = cnp.PyArray_NewCopy(<cnp.ndarray>value, cnp.NPY_CORDER)
        return values


cdef list _no_feeds = []


cdef class Trial:
    cdef list call(self, Plan plan, list feeds):
        # The second callable is made when the plan has shown that it is used again; from then on they take turns.
        cdef int run = self.runs
        cdef double begin, secs
        cdef bint inline = run >= _POOL_FIRST and (run - _POOL_FIRST) % 2 == 0
        cdef object owner
        self.runs = run + 1
        if inline and self.inline is None:
            plan.check_open()
            self.inline = plan.make(True)
        owner = self.inline if inline else self.pool
        begin = time.perf_counter()
        values = plan.native_call(owner._handle, feeds)
        secs = time.perf_counter() - begin
        # The first run of each also builds caches; it does not count.
        if inline and run > _POOL_FIRST:
            self.inline_secs = min(self.inline_secs, secs)
        elif not inline and run > 0:
            self.pool_secs = min(self.pool_secs, secs)
        if run >= _POOL_FIRST + 2 * _TIMED_RUNS and plan.trial is self and self.inline is not None:
            figures = f"inline {self.inline_secs * 1e6:.1f} us, pool {self.pool_secs * 1e6:.1f} us"
            if self.inline_secs <= self.pool_secs:
                plan.settle("inline", f"no slower: {figures}", self.inline)
            else:
                plan.settle("pool", f"faster: {figures}", self.pool)
        return values


cdef int count_in_totals() except -1:
    global _steps, _first_began, _last_began
    _steps += 1
    if _timing:
        _last_began = time.perf_counter()
        if _steps == 1:
            _first_began = _last_began
    return 0


cdef int count_unseen(str reason) except -1:
    count_in_totals()
    _declined[reason] = _declined.get(reason, 0) + 1
    return 0


cdef class PlanCache:
    """The plans of one raw session, at most `capacity` of them; the least recently used one goes first.

    Args:
      session: A `tf.compat.v1.Session`.
      scheduling: "auto": inline where that is safe and measured to be no slower, else the pool. "pool", "inline":
        always that.
      capacity: How many plans, and requests known to be declined, are kept.
    """

    def __init__(self, session, str scheduling="auto", int capacity=64):
        self.session = session
        self.scheduling = scheduling
        self.capacity = capacity
        self.plans = {}
        self.dropped = {}
        self.declined = {}

    def report(self):
        """Returns a dict that tells how the runs of this session went; see `MonitoredSession.report`."""
        plans = [plan.describe() for plan in list(self.plans.values()) if isinstance(plan, Plan)]
        return {"steps": self.steps, "planned_steps": self.planned, "declined": dict(self.declined),
                "plans_made": self.made, "plans_evicted": self.evicted, "plans": plans}

    cdef object decline(self, str reason):
        self.declined[reason] = self.declined.get(reason, 0) + 1
        _declined[reason] = _declined.get(reason, 0) + 1

    cdef int count_run(self) except -1:
        self.steps += 1
        return count_in_totals()

    cdef int count_planned(self) except -1:
        global _planned
        self.planned += 1
        _planned += 1
        return 0

    cdef Plan find(self, list requests, object feed_dict):
        cdef list key = [], alive = []
        cdef object found
        global _made
        try:
            for request in requests:
                key.append(-1)
                if request is not None:
                    sign(request, key, alive, _MAX_DEPTH)
            if feed_dict:
                if type(feed_dict) is not dict and type(feed_dict) is not collections.OrderedDict:
                    raise Declined(f"feed_dict has the type {type(feed_dict).__name__}")
                alive.extend(feed_dict)
                key.append(tuple(sorted([id(tensor) for tensor in feed_dict])))
        except Declined as why:
            self.decline(str(why))
            return None
        signature = tuple(key)
        found = self.plans.get(signature)
        if found is None or (type(found) is Plan and not (<Plan>found).is_allowed()):
            if found is None and not self.admits(signature):
                self.decline("more kinds of run take turns than plans are kept")
                return None
            try:
                found = self.make(requests, list(feed_dict) if feed_dict else [])
                (<Plan>found).used = _runs
                self.made += 1
                _made += 1
            except Declined as why:
                found = Refusal(str(why), alive)
            except Exception as error:
                # Whatever is wrong with the request, `Session.run` says it in TensorFlow's words.
                found = Refusal(f"{type(error).__name__} while the run was prepared", alive)
            self.plans[signature] = found
            # In this order, since dropping a plan may let other threads in, which insert too.
            while len(self.plans) > self.capacity:
                self.evict()
        if type(found) is Refusal:
            (<Refusal>found).used = _runs
            if (<Refusal>found).uses < _MANY:
                (<Refusal>found).uses += 1
            self.decline((<Refusal>found).reason)
            return None
        return found

    def evict(self):
        """Drops the least recently used entry."""
        cdef tuple signature = self.oldest()
        cdef object entry = self.plans.pop(signature, None)
        global _evicted
        if entry is not None:
            self.evicted += 1
            _evicted += 1
            self.dropped[hash(signature)] = (<Plan>entry).uses if type(entry) is Plan else (<Refusal>entry).uses
            while len(self.dropped) > self.capacity * _REMEMBERED:
                self.dropped.pop(next(iter(self.dropped)), None)

    cdef tuple oldest(self):
        cdef PyObject *key
        cdef PyObject *value
        cdef Py_ssize_t at = 0
        cdef unsigned long used, least = 0
        cdef object found = None
        while PyDict_Next(self.plans, &at, &key, &value):
            entry = <object>value
            used = (<Plan>entry).used if type(entry) is Plan else (<Refusal>entry).used
            if found is None or used < least:
                least = used
                found = <object>key
        return found

    cdef bint admits(self, tuple signature) except -1:
        # TensorFlow keeps what it prepared for ever. Where more kinds of run take turns than plans are kept, dropping the
        # oldest each time would mean to prepare every run anew: then a plan that was dropped is made again only when
        # it is wanted more often than the one that would go.
        cdef object key = hash(signature)
        cdef object wanted = self.dropped.get(key)
        cdef object victim
        cdef int uses
        if wanted is None or len(self.plans) < self.capacity:
            return True
        victim = self.plans.get(self.oldest())
        uses = 0 if victim is None else (<Plan>victim).uses if type(victim) is Plan else (<Refusal>victim).uses
        if wanted > uses + 1:
            self.dropped.pop(key, None)
            return True
        self.dropped[key] = min(wanted + 1, _MANY)
        self.turned_away += 1
        if self.turned_away % (_AGE * self.capacity) == 0:
            self.age()
        return False

    def age(self):
        """Halves all counts of uses, so that what was wanted long ago gives way to what is wanted now."""
        for entry in list(self.plans.values()):
            if type(entry) is Plan:
                (<Plan>entry).uses //= 2
            else:
                (<Refusal>entry).uses //= 2
        self.dropped = {key: wanted // 2 for key, wanted in list(self.dropped.items())}

    def make(self, list requests, list feed_keys):
        """Makes a plan.

        Args:
          requests: Fetch structures, the caller's first; None for one that fetches nothing.
          feed_keys: Keys of the feed dict.

        Raises:
          Declined: The run has to go TensorFlow's way.
        """
        graph = self.session.graph
        elements = Elements(graph)
        parts = tuple([None if request is None else elements.template(request) for request in requests])
        for key in feed_keys:
            if not isinstance(key, tensor_lib.Tensor) or key.graph is not graph or not graph.is_feedable(key):
                raise Declined("a feed key is not a tensor of this graph that may be fed")
        names = [key.name for key in feed_keys]
        if not elements.tensors and not elements.targets:
            raise Declined("nothing is fetched")
        if not set(names).isdisjoint([tensor.name for tensor in elements.tensors]):
            raise Declined("a tensor is both fed and fetched")
        if len(set(names)) < len(names):
            raise Declined("a tensor is fed twice")
        cdef Plan plan = Plan(self.session, parts, tuple([FeedSpec(key) for key in feed_keys]),
                              [tensor.name for tensor in elements.tensors], [op.name for op in elements.targets])
        self.schedule(plan, elements, feed_keys)
        return plan

    def schedule(self, Plan plan not None, elements, feed_keys):
        """Decides how the plan's kernels run, or that both ways are timed first."""
        if self.scheduling != "auto":
            plan.settle(self.scheduling, "asked for", plan.make(self.scheduling == "inline"))
            return
        if self.session_hazard is None:
            self.session_hazard = scheduling_lib.session_hazard(self.session) or ""
        hazard = self.session_hazard
        if not hazard:
            hazard, plan.n_ops = scheduling_lib.inline_hazard(graph=self.session.graph,
                                                              fetches=elements.tensors + elements.targets,
                                                              feeds=feed_keys)
        if hazard:
            plan.settle("pool", hazard, plan.make(False))
        else:
            plan.try_both()


def time_steps():
    """Makes `totals` tell steps per second from now on, for one reading of the clock a step."""
    global _timing
    _timing = True


def totals():
    """Returns a dict that tells how all runs of this process went that fasthooks saw, in whatever session.

    Keys: as `PlanCache.report`, without `plans`; and `steps_per_sec`, from the begin of the first step to the begin of
    the last one: None before `time_steps` and with fewer than two steps.
    """
    secs = _last_began - _first_began
    return {"steps": _steps, "planned_steps": _planned, "declined": dict(_declined), "plans_made": _made,
            "plans_evicted": _evicted, "steps_per_sec": (_steps - 1) / secs if secs > 0 else None}
