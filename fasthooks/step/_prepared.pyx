# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Prepared runs of one raw session: may this be planned, the plan for it, its feeds, its values.

The steps of hooks stand on it (`_dispatch`), and so do runs without hooks: those of accelerated sessions, and the reads of
TensorFlow's own hooks.
"""

from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import session as session_lib

from fasthooks.step import declining

from cpython.dict cimport PyDict_Contains
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from fasthooks.step._clock cimport clock
from fasthooks.step._context cimport RunProtos, protos_for
from fasthooks.step._feed cimport feed_values, plain_dict
from fasthooks.step._native cimport is_native_call_own
from fasthooks.step._plan cimport Plan, PlanCache
from fasthooks.step._profile cimport Collector, PlanTimes, StepTimes, current
from fasthooks.step._structure cimport Leaf, MappingTemplate, Template, built, held
from fasthooks.triggers._guard cimport ClassGuard, dict_version, new_dict_version, watch_names

cdef object _RunOptions = config_pb2.RunOptions
cdef object _RunMetadata = config_pb2.RunMetadata

# Methods that a plan does not call because it does what they do.
cdef tuple _session_methods = ("run", "_run", "_do_run", "_do_call", "_call_tf_sessionrun", "_extend_graph",
                               "_update_with_movers")
watch_names(_session_methods)
# Attributes that a plan asks a raw session and its graph for.
cdef frozenset _session_attributes = frozenset({"_session", "_closed", "_target", "_config"})
cdef tuple _graph_attributes = ("_unfetchable_ops", "_unfeedable_tensors")
# How a plan reads fetches and builds results.
cdef tuple _fetching = tuple([
    getattr(session_lib, name, None) for name in (
        "_FetchMapper", "_ElementFetchMapper", "_ListFetchMapper", "_DictFetchMapper", "_AttrsFetchMapper", "_FetchHandler",
        "_uniquify_fetches", "_is_attrs_instance", "_get_attrs_values")])
# Kinds of raw session -> guard of what a plan stands in for. Any other kind takes TensorFlow's way.
cdef dict _session_guards = {
    cls: ClassGuard(cls, session_lib, _session_methods, (), _fetching)
    for cls in (session_lib.Session, session_lib.InteractiveSession)}
# Prepared steps that are looked through before the cache is: programs alternate between few kinds of step.
cdef int _RECENT = 4


def know_session_class(cls, base):
    """Declares a class of raw sessions that differs from `base`, one of TensorFlow's, in nothing that a plan replaces."""
    _session_guards[cls] = ClassGuard(cls, None, _session_methods, (_session_guards[base],))


cdef class PreparedStep(Counted):
    def __dealloc__(self):
        PyMem_Free(self.indices)

    cdef bint serves(self, list requests, list asked, object feed_dict) except -1:
        # The quiet hooks' requests are our own objects and compared as such; the caller's and those of hooks that were
        # called are compared element by element.
        cdef Py_ssize_t i
        cdef Py_ssize_t n = len(self.requests)
        if len(requests) != n:
            return False
        for i in range(n):
            request = requests[i]
            part = self.plan.parts[i]
            if request is None or part is None:
                if request is not part:
                    return False
            elif i > 0 and request is self.requests[i] and not asked[i - 1]:
                pass
            elif not (<Template>part).matches(request):
                return False
        return self.plan.takes(feed_dict)


cdef class PreparedRuns(Counted):
    """The prepared runs of one raw session.

    Args:
      raw: The raw `tf.compat.v1.Session`; None: one that is closed.
      scheduling: As `PlanCache`.
      stock: The class of TensorFlow's whose `run` serves the runs without hooks that no plan is for; None: there are none.
    """

    def __cinit__(self, raw, str scheduling="auto", stock=None):
        self.raw = raw
        self.stock = stock
        self.cache = PlanCache(raw, scheduling)
        self.recent = []
        self.raw_guard = _session_guards.get(type(raw))
        if self.raw_guard is not None:
            self.raw_fields = raw.__dict__
            self.known = self.raw_guard.known and self.raw_fields.keys() >= _session_attributes and (
                all([hasattr(raw.graph, name) for name in _graph_attributes]))
        if self.known:
            config = raw._config
            # Elsewhere a run without options has none.
            self.needs_metadata = bool(raw._target) or config.graph_options.build_cost_model > 0 or (
                config.experimental.HasField("session_metadata"))

    cdef bint plannable(self) except -1:
        cdef unsigned long long version
        if not self.known or not self.knows_class() or not self.raw_guard.intact() or not is_native_call_own():
            return False
        version = dict_version(<PyObject*>self.raw_fields)
        if version != self.raw_version or version == 0:
            version = new_dict_version(<PyObject*>self.raw_fields)
            for name in _session_methods:
                if PyDict_Contains(self.raw_fields, name):
                    return False
            self.raw_version = version
        return True

    cdef bint knows_class(self) except -1:
        # `accelerate`, or anybody, may have given the session another class.
        cdef ClassGuard guard
        if type(self.raw) is not self.raw_guard.cls:
            guard = _session_guards.get(type(self.raw))
            if guard is None:
                return False
            self.raw_guard = guard
        return True

    cdef StepTimes begin(self, Collector collector, object session):
        if self.times is None or self.times.serial != collector.serial:
            self.times, self.other_times = self.other_times, self.times
        if self.times is None or self.times.serial != collector.serial:
            self.times = collector.new_session(self.raw, () if session is None else session._hooks)
        return collector.begin(self.times, self.cache.steps, session is None)

    cdef list timed_values(self, StepTimes times, Plan plan, dict feeds, RunProtos protos):
        cdef int64_t began = clock()
        cdef list values = plan.call(feeds, self.cache.steps) if protos is None else self.values(plan, feeds, protos)
        cdef PlanTimes known = times.session.plan(plan.number)
        if known is None:
            known = times.session.new_plan(plan.number, plan.caller, plan.step_index(), ())
        times.native(began, known, values)
        return values

    cdef str obstacle(self, object fetches, RunProtos protos):
        if self.raw_guard is None:
            return declining.SESSION_KIND
        if not self.known:
            return declining.CODE_UNKNOWN
        if not self.plannable():
            return declining.SESSION_PATCHED
        if fetches is None:
            return declining.NO_FETCHES
        if protos is not None and not _known_types(protos):
            return declining.ODD_OPTIONS
        return None

    cdef PreparedStep prepare(self, list requests, list asked, object feed_dict):
        cdef PreparedStep prepared
        for prepared in self.recent:
            if prepared.serves(requests, asked, feed_dict):
                return prepared
        return self.find(self.recent, requests, feed_dict)

    cdef PreparedStep find(self, list recent, list requests, object feed_dict):
        cdef Plan plan = self.cache.find(requests, feed_dict)
        cdef PreparedStep prepared
        cdef Py_ssize_t i
        if plan is None:
            return None
        prepared = PreparedStep.__new__(PreparedStep)
        prepared.plan = plan
        # The caller's own is not held: it is the plan's to recognise.
        prepared.requests = [None] + requests[1:]
        prepared.indices = <Py_ssize_t*>PyMem_Malloc(len(requests) * sizeof(Py_ssize_t))
        if prepared.indices is NULL:
            raise MemoryError
        for i in range(len(requests) - 1):
            prepared.indices[i] = _quiet_index(plan.parts[i + 1])
        to_front(recent, prepared)
        return prepared

    cdef dict feeds_for(self, PreparedStep prepared, object feed_dict, object fed):
        cdef dict feeds
        if prepared is None:
            return None
        if prepared.plan.refusal is not None:
            self.cache.decline(prepared.plan.refusal)
        elif fed is None and feed_dict is not None:
            self.cache.decline(declining.feed_dict_type(feed_dict))
        else:
            feeds = feed_values(prepared.plan.feeds, fed, self.raw)
            if feeds is not None:
                return feeds
            self.cache.decline(declining.FED_VALUE)
        return None

    cdef list values(self, Plan plan, dict feeds, RunProtos protos):
        if protos is None:
            return plan.call(feeds, self.cache.steps)
        options = protos.run_options
        values, data = plan.call_with(feeds, None if options is None else options.SerializeToString())
        protos.returned(data)
        return values

    cdef int tell_first_step(self, object global_step) except -1:
        tell, self.on_first_step = self.on_first_step, None
        if tell is not None:
            tell(global_step)
        return 0

    cdef object read(self, object tensor):
        cdef Collector collector = current
        cdef int64_t began = 0 if collector is None else clock()
        cdef tuple result = self.run_alone(tensor, None, None, False, None) if self.plannable() else None
        if result is None:
            return self.raw.run(tensor)
        if collector is not None:
            collector.note_own_run(clock() - began)
        return result[0]

    cdef tuple run_alone(self, object fetches, object feed_dict, RunProtos protos, bint counted, StepTimes times):
        # A run that no hook has a part in; its result in a tuple, or None: there is no plan for this. `counted`: it is a
        # step of the session.
        cdef PreparedStep prepared
        cdef dict feeds
        fed = feed_dict if feed_dict is None or type(feed_dict) is dict else plain_dict(feed_dict)
        prepared = self.prepare([fetches], [], fed)
        feeds = self.feeds_for(prepared, feed_dict, fed)
        if feeds is None:
            return None
        if counted:
            self.cache.count_planned()
        part = <Template>prepared.plan.parts[0]
        mappings = held(part, fetches)
        if times is None:
            return (built(part, self.values(prepared.plan, feeds, protos), mappings),)
        return (built(part, self.timed_values(times, prepared.plan, feeds, protos), mappings),)

    def run(self, fetches, feed_dict, options, run_metadata):
        """Runs a step of a session that has no hooks; arguments as `tf.compat.v1.Session.run`.

        Returns:
          A tuple with the result; None if nothing was run, because this run has to go TensorFlow's way.
        """
        cdef Collector collector = current
        cdef StepTimes times
        if collector is None:
            return self.run_counted(fetches, feed_dict, options, run_metadata, None)
        times = self.begin(collector, None)
        try:
            result = self.run_counted(fetches, feed_dict, options, run_metadata, times)
            if result is None and self.raw is not None:
                times.stock = True
                result = (self.stock.run(self.raw, fetches, feed_dict, options, run_metadata),)
            times.completed = result is not None
            return result
        finally:
            collector.end(times)

    cdef tuple run_counted(self, object fetches, object feed_dict, object options, object run_metadata, StepTimes times):
        cdef RunProtos protos = protos_for(options, run_metadata)
        self.cache.count_run()
        reason = self.obstacle(fetches, protos)
        if reason is None and options is not None and options.debug_options.debug_tensor_watch_opts:
            reason = declining.DEBUGGER
        if reason is not None:
            self.cache.decline(reason)
            return None
        return self.run_alone(fetches, feed_dict, protos, True, times)


cdef int to_front(list recent, PreparedStep prepared) except -1:
    recent[:] = ([prepared] + [other for other in recent if other is not prepared])[:_RECENT]
    return 0


cdef bint _known_types(RunProtos protos) except -1:
    # Whether what the caller gave are the protos that a run takes.
    return ((protos.run_options is None or type(protos.run_options) is _RunOptions)
            and (protos.run_metadata is None or type(protos.run_metadata) is _RunMetadata))


cdef Py_ssize_t _quiet_index(object part) except -2:
    # Where the value of the one tensor in a quiet request is: the request itself, or in a dict.
    if isinstance(part, MappingTemplate) and len((<MappingTemplate>part).items) == 1:
        part = (<MappingTemplate>part).items[0]
    if isinstance(part, Leaf) and (<Leaf>part).indices is None:
        return (<Leaf>part).index
    return -1
