# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""One step: triggers, merged requests, plan, actions, stop flag.

The way of a step is drawn in `session.py`. Nothing of one call is kept in a field: everything a step decides lives in
its own C frame and lists, so that any number of threads, hooks that run the session themselves, and a `close` from
elsewhere behave as with TensorFlow. A prepared step names the slots and the tensors it was made for. What changes in
place is what a slot knows of its hook's class and quiet request, which any thread finds out alike.
"""

from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import session as session_lib
from tensorflow.python.training import monitored_session

from fasthooks import declining
from fasthooks._guard import original_of

from cpython.dict cimport PyDict_Contains
from cpython.list cimport PyList_GET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM

from fasthooks._context cimport RunContextBase, RunProtos, given_protos, new_context, new_values
from fasthooks._feed cimport feed_values, plain_dict
from fasthooks._guard cimport ClassGuard, dict_version, new_dict_version, watch_names
from fasthooks._plan cimport Plan, PlanCache, is_native_call_own
from fasthooks._slot cimport Slot
from fasthooks._structure cimport Leaf, MappingTemplate, Template, built, held
from fasthooks._timer cimport ACT, QUIET, READ, Clock

cdef object _RunOptions = config_pb2.RunOptions
cdef object _RunMetadata = config_pb2.RunMetadata
cdef object _HookedSession = monitored_session._HookedSession

# Methods that a step does not call because it does what they do. Those of the hooked session are `_chain`'s to watch.
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


cdef class PreparedStep:
    def __dealloc__(self):
        PyMem_Free(self.indices)

    cdef bint is_for(self, tuple slots) except -1:
        # Whether these hooks still ask for what they asked for then.
        cdef Py_ssize_t i
        if slots is not self.slots:
            return False
        for i in range(len(slots)):
            if (<Slot>PyTuple_GET_ITEM(slots, i)).tensor is not <object>PyList_GET_ITEM(self.tensors, i):
                return False
        return True

    cdef bint serves(self, list requests, list acted, object feed_dict) except -1:
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
            elif i > 0 and request is self.requests[i] and not acted[i - 1]:
                pass
            elif not (<Template>part).matches(request):
                return False
        return self.plan.takes(feed_dict)


cdef class ReadingContext:
    """Context and session in one for TensorFlow's own `after_run` methods, whose reads then take a plan too.

    No code but theirs ever sees it.
    """

    cdef RunContextBase context
    cdef HookDispatcher dispatcher

    def __cinit__(self, RunContextBase context not None, HookDispatcher dispatcher not None):
        self.context = context
        self.dispatcher = dispatcher

    @property
    def session(self):
        return self

    def run(self, tensor):
        """Returns the value of a tensor, as the raw session's `run` does."""
        return self.dispatcher.read(tensor)

    def request_stop(self):
        """Passes the request on to the run's context."""
        self.context.request_stop()


cdef class HookDispatcher:
    """Runs steps of one raw session with one list of hooks.

    Args:
      raw: The raw `tf.compat.v1.Session`.
      hooks: The caller's list. Hooks that are appended later take part.
      cache: The PlanCache of the raw session.
      subset: Whether `hooks` are not all hooks of the session.
    """

    def __cinit__(self, raw, hooks, PlanCache cache not None, bint subset=False):
        self.raw = raw
        self.hooks = hooks
        self.subset = subset
        self.cache = cache
        self.recent_quiet = []
        self.recent_mixed = []
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
        # Whether nothing has been put in the place of what a plan does.
        cdef unsigned long long version
        if not self.known or not self.raw_guard.intact() or not is_native_call_own():
            return False
        version = dict_version(<PyObject*>self.raw_fields)
        if version != self.raw_version or version == 0:
            version = new_dict_version(<PyObject*>self.raw_fields)
            for name in _session_methods:
                if PyDict_Contains(self.raw_fields, name):
                    return False
            self.raw_version = version
        return True

    cdef tuple current_slots(self):
        # A Slot for each hook now in the list; None: a list that only TensorFlow's own loop treats rightly.
        cdef tuple slots = self.slots
        cdef object hooks = self.hooks
        cdef Py_ssize_t i, n
        if slots is not None and type(hooks) is list and len(<list>hooks) == len(slots):
            n = len(slots)
            for i in range(n):
                if (<Slot>PyTuple_GET_ITEM(slots, i)).hook is not <object>PyList_GET_ITEM(hooks, i):
                    break
            else:
                return slots if self.irregular is None else None
        elif slots is not None and type(hooks) is tuple:
            return slots if self.irregular is None else None
        if type(hooks) is not list and type(hooks) is not tuple:
            return None
        known = {id(slot.hook): slot for slot in slots or ()}
        slots = tuple([known.get(id(hook)) or Slot(hook) for hook in hooks])
        # TensorFlow keeps requests in a dict keyed by the hook: equal or repeated hooks share one.
        self.irregular = None if len({id(hook) for hook in hooks}) == len(hooks) else declining.REPEATED_HOOK
        self.reads_metadata = False
        for slot in slots:
            cls = type(slot.hook)
            if cls.__eq__ is not object.__eq__ or cls.__hash__ is not object.__hash__:
                self.irregular = declining.EQUAL_HOOKS
            # A hook in plain Python may read the metadata of the run.
            if self.needs_metadata and (<Slot>slot).trigger is None and (<Slot>slot).has_after:
                self.reads_metadata = True
        self.slots = slots
        return slots if self.irregular is None else None

    cdef str obstacle(self, object fetches, RunProtos protos):
        # Why a step cannot even be looked at; None: nothing speaks against it.
        if self.raw_guard is None:
            return declining.SESSION_KIND
        if not self.known:
            return declining.CODE_UNKNOWN
        if not self.plannable():
            return declining.SESSION_PATCHED
        if type(self.hooks) is not list and type(self.hooks) is not tuple:
            return declining.HOOKS_LIST
        if fetches is None:
            return declining.NO_FETCHES
        if protos is not None and not _known_types(protos):
            return declining.ODD_OPTIONS
        return self.irregular

    cdef object step(self, object session, object fetches, object feed_dict, RunProtos protos):
        """Runs one step.

        Args:
          session: The hooked session that keeps the stop flag.
          fetches: As `tf.compat.v1.Session.run`.
          feed_dict: Likewise.
          protos: The RunOptions and RunMetadata that the caller gave; None: neither.
        """
        cdef tuple slots = self.current_slots() if self.plannable() else None
        cdef Py_ssize_t i, n, index
        cdef Clock clock
        cdef PreparedStep prepared
        cdef list values, mappings
        cdef dict feeds
        cdef PyObject* value
        cdef str reason = None
        self.cache.count_run()
        if slots is None or fetches is None or protos is not None:
            reason = self.obstacle(fetches, protos)
            if reason is None and slots is None:
                reason = declining.HOOKS_CHANGED
        if reason is not None:
            self.cache.decline(reason)
            run = original_of(_HookedSession.run)
            if protos is None:
                protos = RunProtos.__new__(RunProtos)
            return run(SubsetSession(session, self.hooks) if self.subset else session, fetches, feed_dict,
                       protos.run_options, protos.run_metadata)
        n = len(slots)
        clock.known = False
        if protos is not None or self.reads_metadata:
            return self.mixed_step(session, slots, 0, False, fetches, feed_dict, protos, &clock)
        for i in range(n):
            if (<Slot>PyTuple_GET_ITEM(slots, i)).before(&clock) != QUIET:
                return self.mixed_step(session, slots, i, True, fetches, feed_dict, None, &clock)
        fed = feed_dict if feed_dict is None or type(feed_dict) is dict else plain_dict(feed_dict)
        prepared = self.prepare_quiet(slots, fetches, fed)
        feeds = self.feeds_for(prepared, feed_dict, fed)
        if feeds is None:
            return self.unplanned_step(session, slots, fetches, feed_dict, &clock)
        part = <Template>prepared.plan.parts[0]
        mappings = held(part, fetches)
        self.cache.count_planned()
        values = prepared.plan.call(feeds, self.cache.steps)
        # Before any hook acts: a class of somebody's own in the structure may refuse its results.
        result = built(part, values, mappings)
        clock.known = False
        i = 0
        # A kernel in Python, or another thread, may have changed the list or a hook meanwhile.
        if self.current_slots() is slots:
            while i < n:
                index = prepared.indices[i]
                value = NULL if index < 0 else PyList_GET_ITEM(values, index)
                if (<Slot>PyTuple_GET_ITEM(slots, i)).after(value, &clock) != QUIET:
                    break
                i += 1
            else:
                return result
        context = new_context(fetches, feed_dict, self.raw)
        self.finish(session, slots, i, [False] * n, prepared, None, values, context, None, &clock)
        return result

    cdef dict feeds_for(self, PreparedStep prepared, object feed_dict, object fed):
        # What to feed to a prepared step; `fed` is `feed_dict` as a dict. None: TensorFlow's way, and it is counted why.
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

    cdef PreparedStep prepare_quiet(self, tuple slots, object fetches, object feed_dict):
        cdef PreparedStep prepared
        cdef Py_ssize_t i
        cdef list recent = self.recent_quiet
        for i in range(len(recent)):
            prepared = <PreparedStep>recent[i]
            if (prepared.is_for(slots) and (<Template>prepared.plan.parts[0]).matches(fetches)
                    and prepared.plan.takes(feed_dict)):
                if i > 0:
                    _to_front(recent, prepared)
                return prepared
        requests = [fetches]
        tensors = []
        for i in range(len(slots)):
            requests.append((<Slot>slots[i]).request)
            tensors.append((<Slot>slots[i]).tensor)
        prepared = self.prepare(recent, requests, feed_dict)
        if prepared is not None:
            prepared.slots = slots
            prepared.tensors = tensors
        return prepared

    cdef PreparedStep prepare_mixed(self, list requests, list acted, object feed_dict):
        cdef PreparedStep prepared
        for prepared in self.recent_mixed:
            if prepared.serves(requests, acted, feed_dict):
                return prepared
        return self.prepare(self.recent_mixed, requests, feed_dict)

    cdef PreparedStep prepare(self, list recent, list requests, object feed_dict):
        # Finds the plan in the cache and remembers it with these requests; None: there is none, and it is counted why.
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
        _to_front(recent, prepared)
        return prepared

    cdef object mixed_step(self, object session, tuple slots, Py_ssize_t first, bint acts, object fetches,
                           object feed_dict, RunProtos protos, Clock* clock):
        # The hooks before number `first` are quiet; `acts`: that one has something to do before the run.
        cdef RunContextBase context = new_context(fetches, feed_dict, self.raw)
        cdef Py_ssize_t i, place
        cdef list requests = [fetches]
        cdef list acted = [False] * first
        cdef object hooks = self.hooks
        cdef object active = slots
        cdef dict hook_feeds = None
        cdef dict feeds = None
        cdef object user_feeds = feed_dict
        cdef PreparedStep prepared = None
        cdef list values, mappings, results
        cdef Slot slot
        for i in range(first):
            requests.append((<Slot>PyTuple_GET_ITEM(slots, i)).request)
        i = first
        # The list is live: a hook may append others while it is called.
        while i < len(hooks):
            hook = hooks[i]
            if active is slots and i < len(slots) and (<Slot>PyTuple_GET_ITEM(slots, i)).hook is hook:
                slot = <Slot>PyTuple_GET_ITEM(slots, i)
            else:
                place = _place(slots, i, hook)
                slot = <Slot>slots[place] if place >= 0 else Slot(hook)
                if active is slots:
                    active = list(slots[:i])
                (<list>active).append(slot)
            i += 1
            if not (acts and i - 1 == first) and slot.before(clock) == QUIET:
                acted.append(False)
                requests.append(slot.request)
                continue
            acted.append(True)
            request = hook.before_run(context)
            if request is None:
                requests.append(None)
                continue
            requests.append(request.fetches)
            feed = request.feed_dict
            if feed:
                if hook_feeds is None:
                    hook_feeds = {}
                session._raise_if_feeds_intersects(hook_feeds, feed, "Same tensor is fed by two hooks.")
                hook_feeds.update(feed)
            asked = request.options
            if asked:
                if protos is None:
                    protos = RunProtos.__new__(RunProtos)
                session._merge_run_options(protos.options(), asked)
                protos.wanted = True
        if active is slots and len(acted) < len(slots):
            active = list(slots[:len(acted)])
        if hook_feeds:
            if user_feeds:
                session._raise_if_feeds_intersects(user_feeds, hook_feeds,
                                                   "Same tensor is fed by a SessionRunHook and user.")
                hook_feeds.update(user_feeds)
            user_feeds = hook_feeds
        # A hook may have closed the session, or put another in its place.
        raw = session._sess
        if raw is not self.raw or not self.plannable():
            self.cache.decline(declining.SESSION_REPLACED if raw is not self.raw else declining.SESSION_PATCHED)
        elif protos is not None and protos.wanted and protos.options().debug_options.debug_tensor_watch_opts:
            self.cache.decline(declining.DEBUGGER)
        else:
            fed = user_feeds if user_feeds is None or type(user_feeds) is dict else plain_dict(user_feeds)
            prepared = self.prepare_mixed(requests, acted, fed)
            feeds = self.feeds_for(prepared, user_feeds, fed)
        if feeds is None:
            return self.run_raw(session, raw, active, acted, requests, user_feeds, context, protos, clock)
        mappings = [None if part is None else held(part, request)
                    for part, request in zip(prepared.plan.parts, requests)]
        self.cache.count_planned()
        if protos is None and not self.needs_metadata:
            values = prepared.plan.call(feeds, self.cache.steps)
        else:
            if protos is None:
                protos = RunProtos.__new__(RunProtos)
            values = _call_with(prepared.plan, feeds, protos)
        results = [None if part is None else built(part, values, mapping)
                   for part, mapping in zip(prepared.plan.parts, mappings)]
        clock.known = False
        self.finish(session, active, 0, acted, prepared, results, values, context, protos, clock)
        return results[0]

    cdef object unplanned_step(self, object session, tuple slots, object fetches, object feed_dict, Clock* clock):
        # A step on which all hooks are quiet and for which there is no plan.
        cdef list requests = [fetches]
        cdef Slot slot
        for slot in slots:
            requests.append(slot.request)
        return self.run_raw(session, self.raw, slots, [False] * len(slots), requests, feed_dict,
                            new_context(fetches, feed_dict, self.raw), None, clock)

    cdef object run_raw(self, object session, object raw, object slots, list acted, list requests, object feed_dict,
                        RunContextBase context, RunProtos protos, Clock* clock):
        # The run of a step by `Session.run` itself, and what follows it.
        cdef Py_ssize_t i
        cdef dict wanted = {"caller": requests[0]}
        for i in range(len(slots)):
            if requests[i + 1] is not None:
                wanted[(<Slot>slots[i]).hook] = requests[i + 1]
        if protos is None:
            protos = RunProtos.__new__(RunProtos)
        outputs = raw.run(fetches=wanted, feed_dict=feed_dict, options=protos.options(),
                          run_metadata=protos.metadata())
        clock.known = False
        self.finish(session, slots, 0, acted, None, None, [outputs], context, protos, clock)
        return outputs["caller"]

    cdef object finish(self, object session, object slots, Py_ssize_t first, list acted, PreparedStep prepared,
                       list results, list values, RunContextBase context, RunProtos protos, Clock* clock):
        # Calls `after_run` where there is something to do, from hook number `first` on. `values` are those of a plan,
        # or, without one, what `Session.run` returned. `results`: what a plan gives to the caller and to each hook; None:
        # only standing requests were made.
        cdef object hooks = self.hooks if self.subset else session._hooks
        cdef object result
        cdef Slot slot
        cdef PyObject* value
        cdef Py_ssize_t i = first, place, index
        cdef int decision
        while i < len(hooks):
            hook = hooks[i]
            place = _place(slots, i, hook)
            i += 1
            result = None
            if place < 0:
                # Appended after the run was prepared: nothing was fetched for it.
                slot = Slot(hook)
                decision = ACT
            else:
                slot = <Slot>slots[place]
                if prepared is None:
                    result = (<dict>values[0]).get(hook)
                if acted[place] and slot.trigger is not None:
                    decision = ACT
                else:
                    value = NULL
                    if prepared is not None:
                        index = prepared.indices[place]
                        if index >= 0:
                            value = PyList_GET_ITEM(values, index)
                    elif slot.trigger is not None:
                        slot.trigger.quiet_value(result, &value)
                    decision = slot.after(value, clock)
                    if decision == READ:
                        decision = slot.after_read(self.read(slot.tensor), clock)
                if decision != QUIET and prepared is not None:
                    if results is not None:
                        result = results[place + 1]
                    elif prepared.plan.parts[place + 1] is not None:
                        part = <Template>prepared.plan.parts[place + 1]
                        result = built(part, values, held(part, prepared.requests[place + 1]))
            if decision != QUIET:
                if protos is None:
                    protos = RunProtos.__new__(RunProtos)
                if slot.only_reads():
                    hook.after_run(ReadingContext(context, self), new_values(result, protos))
                else:
                    hook.after_run(context, new_values(result, protos))
                if slot.trigger is not None:
                    slot.trigger.acted(result)
        if context._stop_requested:
            session._should_stop = session._should_stop or context.stop_requested

    cdef object read(self, object tensor):
        # The value of one tensor, by a run of its own, as a hook would ask the raw session for it.
        cdef tuple result = self.run_alone(tensor, None, None, False) if self.plannable() else None
        return self.raw.run(tensor) if result is None else result[0]

    cdef tuple run_alone(self, object fetches, object feed_dict, RunProtos protos, bint counted):
        # A run that no hook has a part in; its result in a tuple, or None: there is no plan for this. `counted`: it is a
        # step of the session.
        cdef PreparedStep prepared
        cdef dict feeds
        cdef list values, mappings
        fed = feed_dict if feed_dict is None or type(feed_dict) is dict else plain_dict(feed_dict)
        prepared = self.prepare_mixed([fetches], [], fed)
        feeds = self.feeds_for(prepared, feed_dict, fed)
        if feeds is None:
            return None
        if counted:
            self.cache.count_planned()
        part = <Template>prepared.plan.parts[0]
        mappings = held(part, fetches)
        if protos is None:
            values = prepared.plan.call(feeds, self.cache.steps)
        else:
            values = _call_with(prepared.plan, feeds, protos)
        return (built(part, values, mappings),)

    def run_plain(self, fetches, feed_dict, options, run_metadata):
        """Runs a session that has no hooks.

        Returns:
          A tuple with the result; None if nothing was run, because this run has to go TensorFlow's way.
        """
        cdef RunProtos protos = None
        self.cache.count_run()
        if options is not None or run_metadata is not None:
            protos = given_protos(options, run_metadata)
        reason = self.obstacle(fetches, protos)
        if reason is None and options is not None and options.debug_options.debug_tensor_watch_opts:
            reason = declining.DEBUGGER
        if reason is not None:
            self.cache.decline(reason)
            return None
        return self.run_alone(fetches, feed_dict, protos, True)


cdef bint _known_types(RunProtos protos) except -1:
    # Whether what the caller gave are the protos that a run takes.
    return ((protos.run_options is None or type(protos.run_options) is _RunOptions)
            and (protos.run_metadata is None or type(protos.run_metadata) is _RunMetadata))


cdef list _call_with(Plan plan, dict feeds, RunProtos protos):
    # A run with the options that were given or asked for, whose metadata the hooks or the caller may read.
    options = protos.run_options
    values, data = plan.call_with(feeds, None if options is None else options.SerializeToString())
    protos.returned(data)
    return values


cdef int _to_front(list recent, PreparedStep prepared) except -1:
    # Replaces the list's contents in one go: another thread may be walking it.
    recent[:] = ([prepared] + [other for other in recent if other is not prepared])[:_RECENT]
    return 0


cdef Py_ssize_t _place(object slots, Py_ssize_t expected, object hook) except -2:
    # Where the slot of `hook` is, most likely at `expected`; -1: nowhere.
    cdef Py_ssize_t i, n = len(slots)
    if expected < n and (<Slot>slots[expected]).hook is hook:
        return expected
    for i in range(n):
        if (<Slot>slots[i]).hook is hook:
            return i
    return -1


cdef Py_ssize_t _quiet_index(object part) except -2:
    # Where the value of the one tensor in a quiet request is.
    if isinstance(part, Leaf):
        return -1 if (<Leaf>part).indices is not None else (<Leaf>part).index
    if isinstance(part, MappingTemplate) and len((<MappingTemplate>part).items) == 1:
        return _quiet_index((<MappingTemplate>part).items[0])
    return -1


class SubsetSession:
    # What TensorFlow's `_HookedSession.run` needs to run a step with some of the hooks: its own list, all else shared.

    def __init__(self, hooked, hooks):
        self._hooked = hooked
        self._hooks = hooks

    def __getattr__(self, name):
        # Of an object that was made without its constructor, `self._hooked` would come here again, without end.
        return getattr(object.__getattribute__(self, "_hooked"), name)

    def _call_hook_before_run(self, *args):
        return type(self._hooked)._call_hook_before_run(self, *args)

    @property
    def _should_stop(self):
        return self._hooked._should_stop

    @_should_stop.setter
    def _should_stop(self, value):
        self._hooked._should_stop = value
