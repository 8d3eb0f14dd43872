# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Prepared runs: feeds in, results out, and the bounded cache that holds them.

`Session.run` parses fetches and feeds on every call, and then makes one native call. A plan has parsed them once: it makes
that same native call (`_native`), and knows where each result belongs. So everything the runtime does
(executors, the state of kernels, errors, memory of results) is `Session.run`'s own. What is left of its Python half:

- feeds are checked and converted as there (`_feed`);
- errors get their op: they are raised again through the session's own `_do_call`;
- a native call on a session whose native half is gone kills the interpreter: the session is checked before each call.

A form of run that has to go through `Session.run` itself gets a plan that says so, its refusal.
"""

import time
import weakref

from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import errors

from fasthooks.step import declining
from fasthooks.step._schedule import reads_global_step
from fasthooks.step._structure import Declined, Elements

from cpython.dict cimport PyDict_GetItemWithError
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject

from fasthooks.step._feed cimport FeedKey, FeedSpec, all_specs, feed_keys, same_keys
from fasthooks.step._live cimport count
from fasthooks.step._native cimport NativeCall
from fasthooks.step._schedule cimport Schedule
from fasthooks.step._structure cimport is_lasting, n_conversions, sign, template
from fasthooks.triggers._guard cimport dict_version, has_dict, new_dict_version, watch_names

cdef extern from "Python.h":
    PyObject* Py_False

cdef object _new_buffer = pywrap_tf_session.TF_NewBuffer
cdef object _new_buffer_of = pywrap_tf_session.TF_NewBufferFromString
cdef object _read_buffer = pywrap_tf_session.TF_GetBuffer
cdef object _delete_buffer = pywrap_tf_session.TF_DeleteBuffer
cdef object _OpError = errors.OpError
watch_names(("_session", "_closed"))
# Deeper structures, and those that contain themselves, are TensorFlow's to judge.
cdef int _MAX_DEPTH = 32
# What all caches of this process counted together; see `totals`.
cdef unsigned long _steps = 0, _planned = 0, _made = 0, _evicted = 0
cdef dict _declined = {}
cdef bint _timing = False
cdef double _first_began = 0, _last_began = 0


def _raise(error):
    raise error


cdef object native_session(object session, dict fields):
    # What a session with this `__dict__` makes its calls with. A missing one would be a null pointer inside TensorFlow, whose
    # 2.22 has words of its own for one of an open session.
    cdef PyObject* native = PyDict_GetItemWithError(fields, "_session")
    cdef PyObject* closed = PyDict_GetItemWithError(fields, "_closed")
    if native is NULL or native is <PyObject*>None or closed is not Py_False:
        if closed is Py_False and hasattr(session, "_assert_session_available"):
            session._assert_session_available()
        raise RuntimeError("Attempted to use a closed Session.")
    return <object>native


cdef class Plan(Counted):
    """What is known of one form of run: it is prepared, or refused. Used by any number of threads at once.

    Args:
      session: The raw session.
      parts: A Template for each request.
      feeds: A FeedKey for each key of the feed dict.
    """

    def __cinit__(self, session, tuple parts, tuple feeds):
        self.session = session
        self.session_fields = session.__dict__
        self.parts = parts
        self.feeds = feeds
        self.unfetchable = session.graph._unfetchable_ops
        self.unfeedable = session.graph._unfeedable_tensors._storage
        self.n_unfetchable = len(self.unfetchable)
        self.n_unfeedable = len(self.unfeedable)
        self.n_conversions = n_conversions()

    def describe(self):
        """Returns a dict that tells a person what this plan is."""
        cdef Schedule schedule = self.schedule
        names = [fetch.name for fetch in schedule.fetches]
        return {"fetches": names[:len(self.prepared_call.outputs)], "targets": names[len(self.prepared_call.outputs):],
                "feeds": [tensor.name for tensor in schedule.feeds], "ops": schedule.n_ops, "scheduling": schedule.scheduling,
                "reason": schedule.reason}

    cdef bint is_allowed(self) except -1:
        return (len(self.unfetchable) == self.n_unfetchable and len(self.unfeedable) == self.n_unfeedable
                and n_conversions() == self.n_conversions)

    cdef bint takes(self, object feed_dict) except -1:
        return self.is_allowed() and same_keys(self.feeds, feed_dict)

    cdef int check_open(self) except -1:
        self.session_fields = self.session.__dict__
        cdef unsigned long long version = new_dict_version(<PyObject*>self.session_fields)
        self.native = native_session(self.session, self.session_fields)
        self.open_version = version
        return 0

    cdef list native_call(self, dict feeds, object options, object metadata):
        cdef unsigned long long version = dict_version(<PyObject*>self.session_fields)
        if version != self.open_version or version == 0 or not has_dict(self.session, <PyObject*>self.session_fields):
            self.check_open()
        if not self.prepared_call.outputs and not self.prepared_call.operations:
            return []       # nor does TensorFlow make a run then
        try:
            values = self.prepared_call.run(self.native, options, feeds, metadata)
            # What came while kernels ran ends the run, as in Python code, and not the first hook in Python after it.
            PyErr_CheckSignals()
            return values
        except _OpError as error:
            # Adds the op, its definition and where it was made, as for an error of `Session.run`.
            return self.session._do_call(_raise, error)

    cdef list call(self, dict feeds, unsigned long step):
        cdef Schedule schedule = self.schedule
        cdef list values
        cdef double begin
        assert self.refusal is None
        self.used = True
        if schedule.decided:
            values = self.native_call(feeds, schedule.options, None)
        else:
            options = schedule.next_options()
            begin = time.perf_counter()
            values = self.native_call(feeds, options, None)
            secs = time.perf_counter() - begin
            schedule.note(options, secs, values if self.order is None else [values[i] for i in self.order], step)
        if self.fed is not None:
            values.extend([feeds[output] for output in self.fed])
        return values

    cdef tuple call_with(self, dict feeds, bytes options):
        cdef list values
        self.used = True
        given = None if options is None else _new_buffer_of(options)
        metadata = _new_buffer()
        count("buffer", 1 if given is None else 2)
        try:
            values = self.native_call(feeds, given, metadata)
            data = _read_buffer(metadata)
        finally:
            _delete_buffer(metadata)
            if given is not None:
                _delete_buffer(given)
            count("buffer", -1 if given is None else -2)
        if self.fed is not None:
            values.extend([feeds[output] for output in self.fed])
        return values, data

    cdef Py_ssize_t step_index(self) except -2:
        cdef Schedule schedule = self.schedule
        order = range(len(self.prepared_call.outputs)) if self.order is None else self.order
        return next((i for i, tensor in zip(order, schedule.fetches) if reads_global_step(tensor)), -1)

    cdef object global_step(self, list values):
        cdef Py_ssize_t index = self.step_index()
        return None if index < 0 else values[index]


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


cdef class PlanCache(Counted):
    """The plans of one raw session, at most `capacity` of them; the one longest not looked up goes first.

    A plan is made in the time in which `Session.run` parses its arguments once, so a form that was dropped costs no
    more than it does there.

    Args:
      session: A `tf.compat.v1.Session`.
      scheduling: "auto": inline where that is safe, gives the same and was measured to be no slower, else the pool.
        "pool", "inline": always that.
      capacity: How many plans are kept.
    """

    def __cinit__(self, session, str scheduling="auto", int capacity=1024):
        self.session = session
        self.scheduling = scheduling
        self.capacity = capacity
        self.plans = {}
        self.schedules = weakref.WeakValueDictionary()
        self.declined = {}

    def report(self):
        """Returns a dict that tells how the runs of this session went; see `fasthooks.report`."""
        cdef Plan plan
        plans = [plan.describe() for plan in list(self.plans.values()) if plan.refusal is None]
        return {**_counts(self.steps, self.planned, dict(self.declined), self.made, self.evicted), "plans": plans}

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
        # Objects of somebody's own are not remembered, since that would keep them alive: such a run is declined anew.
        cdef list key = [], alive = []
        cdef Py_ssize_t n_callers = 0
        cdef Plan plan
        native_session(self.session, self.session.__dict__)
        try:
            for request in requests:
                key.append(-1)
                if request is not None:
                    sign(request, key, alive, _MAX_DEPTH)
                n_callers = n_callers or len(key)
            for name in feed_dict or ():
                if not is_lasting(name):
                    self.decline(f"a feed key has the type {type(name).__name__}")
                    return None
                alive.append(name)
                key.append(name if type(name) is str else id(name))
            signature = tuple(key)
            plan = self.plans.pop(signature, None)
            if plan is None or not plan.is_allowed():
                plan = self.make(requests, list(feed_dict or ()), alive)
                plan.caller = signature[:n_callers]
        except Declined as why:
            self.decline(str(why))
            return None
        except Exception:
            # A mapping of somebody's own: `Session.run` meets it too, and says what is wrong.
            self.decline(declining.UNRECOGNISABLE)
            return None
        self.plans[signature] = plan
        while len(self.plans) > self.capacity:
            self.evict()
        return plan

    def evict(self):
        """Drops the plan longest not looked up, unless it has run since; then it counts as looked up now."""
        cdef Plan plan
        global _evicted
        signature = next(iter(self.plans))
        plan = self.plans.pop(signature, None)
        if plan is None:    # another thread's work
            return
        if plan.used:
            plan.used = False
            self.plans[signature] = plan
        elif plan.refusal is None:
            self.evicted += 1
            _evicted += 1

    def make(self, list requests, list keys, list alive):
        """Makes a plan, or a refusal.

        Args:
          requests: Fetch structures, the caller's first; None for one that fetches nothing.
          keys: Keys of the feed dict.
          alive: What the plan's signature names by `id`.
        """
        global _made
        cdef Plan plan
        parts = tuple([None if request is None else template(request, _MAX_DEPTH) for request in requests])
        try:
            plan = Plan(self.session, parts, feed_keys(self.session.graph, keys))
            self.prepare(plan)
            self.made += 1
            plan.number = self.made
            _made += 1
        except Exception as why:
            # Whatever is wrong with the request, `Session.run` says it in TensorFlow's words.
            plan = Plan(self.session, parts, tuple([FeedKey(None, key) for key in keys]))
            plan.refusal = str(why) if isinstance(why, Declined) else f"{type(why).__name__} while the run was prepared"
            plan.alive = alive
        return plan

    def prepare(self, Plan plan not None):
        """Makes the arguments of the native call.

        Raises:
          Declined: The run has to go TensorFlow's way.
          Exception: What TensorFlow raises for a bad request.
        """
        cdef Py_ssize_t n_fetched
        cdef FeedSpec spec
        cdef dict fed = {}
        graph = self.session.graph
        if graph.version == 0:
            raise Declined("the graph is empty")
        elements = Elements(graph)
        for part in plan.parts:
            if part is not None:
                elements.resolve(part)
        for spec in all_specs(plan.feeds):
            fed[id(spec.tensor)] = spec
        feeds = [(<FeedSpec>one).tensor for one in fed.values()]
        n_fetched = elements.move_to_end(fed)
        fetches = elements.tensors[:n_fetched]
        if n_fetched < len(elements.tensors):
            plan.fed = [(<FeedSpec>fed[id(tensor)]).output for tensor in elements.tensors[n_fetched:]]
        plan.prepared_call = NativeCall([tensor._as_tf_output() for tensor in fetches], [op._c_op for op in elements.targets])
        # Ops that were added since the last run are not known to the native session yet.
        self.session._extend_graph()
        names = tuple([tuple(sorted([item.name for item in items])) for items in (feeds, fetches, elements.targets)])
        plan.schedule = self.schedules.get(names)
        if plan.schedule is None:
            plan.schedule = Schedule(self.session, fetches + elements.targets, feeds, self.scheduling)
            self.schedules[names] = plan.schedule
        # Another form of the same run may have its tensors in another order, by which the schedule knows them.
        place = {tensor.name: index for index, tensor in enumerate(fetches)}
        order = [place[tensor.name] for tensor in (<Schedule>plan.schedule).fetches[:n_fetched]]
        plan.order = None if order == list(range(n_fetched)) else order


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
    return {**_counts(_steps, _planned, dict(_declined), _made, _evicted),
            "steps_per_sec": (_steps - 1) / secs if secs > 0 else None}


cdef dict _counts(unsigned long steps, unsigned long planned, dict declined, unsigned long made, unsigned long evicted):
    assert planned + sum(declined.values()) <= steps
    # What is neither planned nor declined has ended before anything was run, or has just begun.
    return {"steps": steps, "planned_steps": planned, "declined": declined,
            "unrun_steps": steps - planned - sum(declined.values()), "plans_made": made, "plans_evicted": evicted}
