# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""One step: triggers, merged requests, plan, actions, stop flag.

The way of a step is drawn in `session.py`. Nothing of one call is kept in a field: everything a step decides lives in
its own C frame and lists, so that any number of threads, hooks that run the session themselves, and a `close` from
elsewhere behave as with TensorFlow. Slots and prepared steps are replaced, never changed in place, with one exception:
what a slot knows of its hook's class and quiet request, which any thread finds out alike.
"""

import threading

from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import session as session_lib
from tensorflow.python.training import coordinator as coordinator_lib
from tensorflow.python.training import monitored_session
from tensorflow.python.training import session_run_hook

from cpython.dict cimport PyDict_Contains, PyDict_GetItemWithError
from cpython.list cimport PyList_GET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF
from cpython.tuple cimport PyTuple_GET_ITEM

from fasthooks._guard cimport HAVE_DICT_VERSIONS, ClassGuard, definitions_known, dict_version, instance_dict, is_stock, own_version, type_tag
from fasthooks._plan cimport MappingTemplate, Plan, PlanCache, Template, TensorTemplate
from fasthooks._trigger cimport ACT, QUIET, READ, Clock, HookTrigger

cdef extern from "Python.h":
    PyObject* Py_False

cdef object _SessionRunArgs = session_run_hook.SessionRunArgs
cdef object _SessionRunContext = session_run_hook.SessionRunContext
cdef object _SessionRunValues = session_run_hook.SessionRunValues
cdef object _RunOptions = config_pb2.RunOptions
cdef object _RunMetadata = config_pb2.RunMetadata
cdef object _HookedSession = monitored_session._HookedSession
cdef type _RecoverableSession = monitored_session._RecoverableSession
cdef type _CoordinatedSession = monitored_session._CoordinatedSession
cdef type _Session = session_lib.Session
cdef type _Event = threading.Event

# Methods that a step does not call because it does what they do.
cdef ClassGuard _session_guard = ClassGuard(
    _Session, session_lib, ("run", "_run", "_do_run", "_call_tf_sessionrun", "_extend_graph"))
cdef ClassGuard _hooked_guard = ClassGuard(
    _HookedSession, monitored_session,
    ("run", "should_stop", "_check_stop", "_call_hook_before_run", "_merge_run_options", "_raise_if_feeds_intersects"))
cdef ClassGuard _wrapped_guard = ClassGuard(monitored_session._WrappedSession, monitored_session, ("run",))
cdef ClassGuard _recoverable_guard = ClassGuard(
    _RecoverableSession, monitored_session, ("run", "should_stop", "_check_stop"))
cdef ClassGuard _coordinated_guard = ClassGuard(
    _CoordinatedSession, monitored_session, ("run", "should_stop", "_check_stop"))
cdef ClassGuard _coordinator_guard = ClassGuard(
    coordinator_lib.Coordinator, coordinator_lib, ("should_stop", "raise_requested_exception"))
cdef ClassGuard _context_guard = ClassGuard(_SessionRunContext, session_run_hook, ("__init__",))
cdef ClassGuard _event_guard = ClassGuard(_Event, threading, ("is_set",))

# Set by `configure`.
cdef object _trigger_for = None
cdef ClassGuard _our_guard = None
cdef tuple _link_methods = ("run", "should_stop", "_check_stop", "_call_hook_before_run", "_merge_run_options",
                            "_raise_if_feeds_intersects", "raise_requested_exception")
cdef dict _idle_methods = {}
# Prepared steps that are looked through before the cache is: programs alternate between few kinds of step.
cdef int _RECENT = 4


cdef object new_context(object fetches, object feed_dict, object raw):
    # SessionRunContext(SessionRunArgs(fetches, feed_dict), raw), without the interpreter frames of the constructors.
    args = _new_tuple(_SessionRunArgs, (fetches, feed_dict, None))
    if not _context_guard.intact():
        return _SessionRunContext(args, raw)
    context = _new_object(_SessionRunContext)
    context._original_args = args
    context._session = raw
    context._stop_requested = False
    return context


cdef object _new_tuple = tuple.__new__
cdef object _new_object = object.__new__


def configure(trigger_for, hooked_session):
    """Tells this module what stands above it.

    Args:
      trigger_for: Called with a hook that has no trigger in itself; returns one that stands for it, or None.
      hooked_session: The class that our sessions put into TensorFlow's chain.
    """
    global _trigger_for, _our_guard
    _trigger_for = trigger_for
    _our_guard = ClassGuard(hooked_session, None, _link_methods[:-1])


cdef class Slot:
    """What the dispatcher knows of one hook, and whether that is still true."""

    def __init__(self, hook):
        self.hook = hook
        if isinstance(hook, HookTrigger):
            self.trigger = hook
            self.compiled = True
        else:
            self.trigger = _trigger_for(hook)
            self.look()

    cdef int look(self) except -1:
        # The class has changed, or was never looked at.
        cls = type(self.hook)
        self.cls = <PyTypeObject*>cls
        self.has_before = _defines(cls, "before_run")
        self.has_after = _defines(cls, "after_run")
        self.known = self.trigger is not None and definitions_known(self.hook, ("before_run", "after_run"), ())
        self.tag = type_tag(self.cls)
        return 0

    cdef int before(self, HookDispatcher dispatcher, Clock* clock) except -1:
        cdef HookTrigger trigger = self.trigger
        cdef PyObject* fields
        cdef PyObject* tensor
        cdef int decision
        if self.compiled:
            if not is_stock(trigger):
                return ACT
            decision = trigger.before(NULL, clock)
            tensor = trigger.quiet_tensor(NULL)
            if decision == QUIET and tensor is not <PyObject*>self.tensor and not (
                    tensor is NULL and self.tensor is None):
                dispatcher.expect(self, trigger, tensor)
            return decision
        self.changed()
        if self.has_before and not self.known:
            return ACT
        fields = instance_dict(<PyObject*>self.hook)
        if fields is NULL:
            return ACT if self.known else QUIET
        try:
            if self.is_set(fields):
                return ACT
            if not self.known:
                return QUIET
            decision = trigger.before(fields, clock)
            self.version = dict_version(fields)
            if decision == QUIET:
                tensor = trigger.quiet_tensor(fields)
                if tensor is not <PyObject*>self.tensor and not (tensor is NULL and self.tensor is None):
                    dispatcher.expect(self, trigger, tensor)
            return decision
        finally:
            Py_DECREF(<object>fields)

    cdef inline bint changed(self) except -1:
        # Looks at the hook's class again if it was changed. Returns whether it was.
        if (<PyObject*>self.hook).ob_type is self.cls and type_tag(self.cls) == self.tag and self.tag != 0:
            return False
        self.look()
        return True

    cdef int after(self, PyObject* value, Clock* clock, bint look_again) except -1:
        cdef HookTrigger trigger = self.trigger
        cdef PyObject* fields
        cdef int decision
        if self.compiled:
            return ACT if look_again and not is_stock(trigger) else trigger.after(NULL, value, clock)
        if self.known:
            if look_again and self.changed():
                return ACT
            fields = instance_dict(<PyObject*>self.hook)
            if fields is NULL:
                return ACT
            try:
                if look_again and self.is_set(fields):
                    return ACT
                decision = trigger.after(fields, value, clock)
                self.version = dict_version(fields)
                return decision
            finally:
                Py_DECREF(<object>fields)
        if self.has_after or (look_again and self.changed()):
            return ACT
        if look_again:
            fields = instance_dict(<PyObject*>self.hook)
            if fields is not NULL:
                decision = ACT if self.is_set(fields) else QUIET
                Py_DECREF(<object>fields)
                return decision
        return QUIET

    cdef int after_read(self, object value, Clock* clock) except -1:
        cdef PyObject* fields = NULL if self.compiled else instance_dict(<PyObject*>self.hook)
        try:
            return self.trigger.after_read(fields, <PyObject*>value, clock)
        finally:
            if fields is not NULL:
                Py_DECREF(<object>fields)

    cdef bint is_set(self, PyObject* fields) except -1:
        # Whether a method was set on the object itself.
        cdef unsigned long long version = dict_version(fields)
        if version == self.version and version != 0:
            return False
        if (PyDict_GetItemWithError(<object>fields, "before_run") is not NULL
                or PyDict_GetItemWithError(<object>fields, "after_run") is not NULL):
            return True
        self.version = version
        return False


def _defines(cls, name):
    # Whether calling this method can do anything: a hook that overrides nothing is not called.
    if cls.__getattribute__ is not object.__getattribute__ or hasattr(cls, "__getattr__"):
        return True
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name] is not _idle_methods[name]
    return True


_idle_methods = {name: session_run_hook.SessionRunHook.__dict__[name] for name in ("before_run", "after_run")}


cdef class Call:
    """Carries one `run` through TensorFlow's chain of sessions, in the place of its `fetches`.

    The chain passes its arguments on unread and repeats the call after a recovery. That makes it the one place where
    an argument the chain does not know, or an error that the step has already met, can travel.
    """

    cdef object fetches
    cdef object hooks       # as given to `run`; None: all
    cdef object error       # to be raised once, as if the step failed only now

    def __init__(self, fetches, hooks, error):
        self.fetches = fetches
        self.hooks = hooks
        self.error = error


cdef class PreparedStep:
    def __dealloc__(self):
        PyMem_Free(self.indices)

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


cdef class HookDispatcher:
    """Runs steps of one raw session with one list of hooks.

    Args:
      raw: The raw `tf.compat.v1.Session`.
      hooks: The caller's list. Hooks that are appended later take part.
      cache: The PlanCache of the raw session.
      subset: Whether `hooks` are not all hooks of the session.
    """

    def __init__(self, raw, hooks, PlanCache cache not None, bint subset=False):
        self.raw = raw
        self.hooks = hooks
        self.subset = subset
        self.cache = cache
        self.recent_quiet = []
        self.recent_mixed = []
        if type(raw) is _Session:
            self.raw_fields = raw.__dict__
            config = raw._config
            # A prepared run brings nothing back over the network, and not what these options ask for.
            self.needs_metadata = bool(raw._target) or config.graph_options.build_cost_model > 0 or (
                config.experimental.HasField("session_metadata"))

    cdef bint plannable(self) except -1:
        # Whether nothing has been put in the place of what a plan does.
        cdef unsigned long long version
        if (self.raw_fields is None or not _session_guard.intact() or not _hooked_guard.intact()
                or not _wrapped_guard.intact() or not _our_guard.intact()):
            return False
        version = dict_version(<PyObject*>self.raw_fields)
        if version != self.raw_version or version == 0:
            if PyDict_Contains(self.raw_fields, "run"):
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
                return slots if self.regular else None
        elif slots is not None and type(hooks) is tuple:
            return slots if self.regular else None
        if type(hooks) is not list and type(hooks) is not tuple:
            return None
        known = {id(slot.hook): slot for slot in slots or ()}
        slots = tuple([known.get(id(hook)) or Slot(hook) for hook in hooks])
        # TensorFlow keeps requests in a dict keyed by the hook: equal or repeated hooks share one.
        self.regular = len(set([id(hook) for hook in hooks])) == len(hooks)
        for hook in hooks:
            if type(hook).__eq__ is not object.__eq__ or type(hook).__hash__ is not object.__hash__:
                self.regular = False
        self.slots = slots
        self.generation += 1
        return slots if self.regular else None

    cdef int expect(self, Slot slot, HookTrigger trigger, PyObject* tensor) except -1:
        # The hook asks for another tensor than before on its quiet steps.
        wanted = None if tensor is NULL else <object>tensor
        slot.request = None if wanted is None else trigger.quiet_fetches(wanted)
        slot.tensor = wanted
        self.generation += 1
        return 0

    cdef object step(self, object session, object fetches, object feed_dict):
        """Runs one step without options of the caller's; `session` is the hooked session that keeps the stop flag."""
        cdef tuple slots = self.current_slots() if self.plannable() else None
        cdef Py_ssize_t i, n, index
        cdef Clock clock
        cdef PreparedStep prepared
        cdef list values, feeds
        cdef PyObject* value
        self.cache.steps += 1
        if slots is None or fetches is None:
            self.cache.decline("the raw session, the hooks list or the fetches need TensorFlow's own loop")
            return _HookedSession.run(_SubsetSession(session, self.hooks) if self.subset else session, fetches, feed_dict)
        n = len(slots)
        clock.known = False
        for i in range(n):
            if (<Slot>PyTuple_GET_ITEM(slots, i)).before(self, &clock) != QUIET:
                return self.mixed_step(session, slots, i, fetches, feed_dict, &clock)
        prepared = self.prepare_quiet(slots, fetches, feed_dict)
        feeds = None if prepared is None else prepared.plan.feed_values(feed_dict)
        if feeds is None:
            return self.mixed_step(session, slots, n, fetches, feed_dict, &clock)
        values = prepared.plan.call(feeds)
        self.cache.planned += 1
        clock.known = False
        for i in range(n):
            index = prepared.indices[i]
            value = NULL if index < 0 else PyList_GET_ITEM(values, index)
            if (<Slot>PyTuple_GET_ITEM(slots, i)).after(value, &clock, False) != QUIET:
                context = new_context(fetches, feed_dict, self.raw)
                self.finish(session, list(slots), i, [False] * n, prepared, values, context, None, None, &clock)
                break
        return (<Template>prepared.plan.parts[0]).build(values)

    cdef PreparedStep prepare_quiet(self, tuple slots, object fetches, object feed_dict):
        cdef PreparedStep prepared
        cdef Py_ssize_t i
        cdef list recent = self.recent_quiet
        for i in range(len(recent)):
            prepared = <PreparedStep>recent[i]
            if (prepared.generation == self.generation and (<Template>prepared.plan.parts[0]).matches(fetches)
                    and prepared.plan.takes(feed_dict)):
                if i > 0:
                    _to_front(recent, prepared)
                return prepared
        return self.prepare(recent, [fetches] + [(<Slot>slot).request for slot in slots], None, feed_dict)

    cdef PreparedStep prepare(self, list recent, list requests, list acted, object feed_dict):
        # Finds the plan in the cache and remembers it with these requests; None: TensorFlow's way.
        cdef Plan plan = self.cache.find(requests, feed_dict)
        cdef PreparedStep prepared
        cdef unsigned long generation = self.generation
        cdef Py_ssize_t i
        if plan is None:
            return None
        prepared = PreparedStep.__new__(PreparedStep)
        prepared.plan = plan
        prepared.generation = generation
        prepared.requests = requests
        prepared.indices = <Py_ssize_t*>PyMem_Malloc(len(requests) * sizeof(Py_ssize_t))
        if prepared.indices is NULL:
            raise MemoryError
        for i in range(len(requests) - 1):
            prepared.indices[i] = _quiet_index(plan.parts[i + 1])
        _to_front(recent, prepared)
        return prepared

    cdef object mixed_step(self, object session, tuple slots, Py_ssize_t first, object fetches, object feed_dict,
                           Clock* clock):
        # Hook number `first` has something to do before the run; those before it are quiet.
        cdef object context = new_context(fetches, feed_dict, self.raw)
        cdef list active = list(slots[:first])
        cdef list requests = [fetches] + [(<Slot>slot).request for slot in active]
        cdef list acted = [False] * first
        cdef object hooks = self.hooks
        cdef dict hook_feeds = None
        cdef object options = None
        cdef object user_feeds = feed_dict
        cdef PreparedStep prepared = None
        cdef list values, feeds = None
        cdef Slot slot
        cdef Py_ssize_t i = first, place
        cdef bint unplanned = False
        # The list is live: a hook may append others while it is called.
        while i < len(hooks):
            hook = hooks[i]
            place = _place(slots, i, hook)
            slot = <Slot>slots[place] if place >= 0 else Slot(hook)
            active.append(slot)
            i += 1
            if slot.before(self, clock) == QUIET:
                acted.append(False)
                requests.append(slot.request)
                continue
            acted.append(True)
            request = hook.before_run(context)
            if request is None:
                requests.append(None)
                continue
            requests.append(request.fetches)
            if request.feed_dict:
                if hook_feeds is None:
                    hook_feeds = {}
                session._raise_if_feeds_intersects(hook_feeds, request.feed_dict, "Same tensor is fed by two hooks.")
                hook_feeds.update(request.feed_dict)
            if request.options:
                if options is None:
                    options = _RunOptions()
                session._merge_run_options(options, request.options)
            unplanned = unplanned or (self.needs_metadata and slot.has_after and slot.trigger is None)
        if hook_feeds:
            if user_feeds:
                session._raise_if_feeds_intersects(user_feeds, hook_feeds,
                                                   "Same tensor is fed by a SessionRunHook and user.")
                hook_feeds.update(user_feeds)
            user_feeds = hook_feeds
        if options is not None:
            self.cache.decline("a hook asked for run options")
        elif unplanned:
            self.cache.decline("a hook in plain Python may read metadata that a prepared run does not bring back")
        elif fetches is not None:
            for prepared in self.recent_mixed:
                if prepared.serves(requests, acted, user_feeds):
                    break
            else:
                prepared = self.prepare(self.recent_mixed, requests, acted, user_feeds)
            if prepared is not None:
                feeds = prepared.plan.feed_values(user_feeds)
                if feeds is None:
                    self.cache.decline("a fed value needs Session.run's own conversion or error")
        if feeds is None:
            if options is None:
                options = _RunOptions()
            metadata = _RunMetadata()
            wanted = {"caller": fetches}
            for i in range(len(active)):
                if requests[i + 1] is not None:
                    wanted[(<Slot>active[i]).hook] = requests[i + 1]
            values = [self.raw.run(fetches=wanted, feed_dict=user_feeds, options=options, run_metadata=metadata)]
            clock.known = False
            self.finish(session, active, 0, acted, None, values, context, options, metadata, clock)
            return (<dict>values[0])["caller"]
        values = prepared.plan.call(feeds)
        self.cache.planned += 1
        clock.known = False
        self.finish(session, active, 0, acted, prepared, values, context, None, None, clock)
        return (<Template>prepared.plan.parts[0]).build(values)

    cdef object finish(self, object session, list slots, Py_ssize_t first, list acted, PreparedStep prepared,
                       list values, object context, object options, object metadata, Clock* clock):
        # Calls `after_run` where there is something to do, from hook number `first` on. `values` are those of a plan,
        # or, without one, what `Session.run` returned.
        cdef object hooks = self.hooks if self.subset else session._hooks
        cdef object results
        cdef Slot slot
        cdef PyObject* value
        cdef Py_ssize_t i = first, place, index
        cdef int decision
        while i < len(hooks):
            hook = hooks[i]
            place = _place(slots, i, hook)
            i += 1
            results = None
            if place < 0:
                # Appended after the run was prepared: nothing was fetched for it.
                slot = Slot(hook)
                decision = ACT
            else:
                slot = <Slot>slots[place]
                if prepared is None:
                    results = (<dict>values[0]).get(hook)
                if acted[place] and slot.trigger is not None:
                    decision = ACT
                else:
                    value = NULL
                    if prepared is not None:
                        index = prepared.indices[place]
                        if index >= 0:
                            value = PyList_GET_ITEM(values, index)
                    elif slot.trigger is not None:
                        slot.trigger.quiet_value(results, &value)
                    decision = slot.after(value, clock, True)
                    if decision == READ:
                        decision = slot.after_read(self.read(slot.tensor), clock)
                if decision != QUIET and prepared is not None and prepared.plan.parts[place + 1] is not None:
                    results = (<Template>prepared.plan.parts[place + 1]).build(values)
            if decision != QUIET:
                if metadata is None:
                    options = _RunOptions()
                    metadata = _RunMetadata()
                hook.after_run(context, _new_tuple(_SessionRunValues, (results, options, metadata)))
                if slot.trigger is not None:
                    slot.trigger.acted(results)
        session._should_stop = session._should_stop or context.stop_requested

    cdef object read(self, object tensor):
        # The value of one tensor, by a run of its own, as a hook would ask the raw session for it.
        cdef PreparedStep prepared
        cdef list requests = [tensor]
        for prepared in self.recent_mixed:
            if prepared.serves(requests, [], None):
                break
        else:
            prepared = self.prepare(self.recent_mixed, requests, [], None)
        if prepared is None:
            return self.raw.run(tensor)
        return (<Template>prepared.plan.parts[0]).build(prepared.plan.call(prepared.plan.feed_values(None)))


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
    if isinstance(part, TensorTemplate):
        return (<TensorTemplate>part).index
    if isinstance(part, MappingTemplate) and len((<MappingTemplate>part).items) == 1:
        return _quiet_index((<MappingTemplate>part).items[0])
    return -1


cdef class HookedSessionBase:
    """Compiled part of our hooked session: its `run`, and the dispatchers behind it."""

    def __init__(self, sess, hooks, str scheduling):
        """Args as TensorFlow's `_HookedSession`, and `scheduling` as `PlanCache`."""
        _HookedSession.__init__(self, sess, hooks)
        self.scheduling = scheduling
        self.subsets = {}
        self.cache = PlanCache(sess, scheduling)
        self.dispatcher = HookDispatcher(sess, hooks, self.cache)

    cdef HookDispatcher current_dispatcher(self):
        # Programs replace the wrapped session and the hooks list.
        cdef HookDispatcher dispatcher = self.dispatcher
        if dispatcher.raw is not self._sess or dispatcher.hooks is not self._hooks:
            if dispatcher.raw is not self._sess:
                self.cache = PlanCache(self._sess, self.scheduling)
            self.subsets = {}
            dispatcher = self.dispatcher = HookDispatcher(self._sess, self._hooks, self.cache)
        return dispatcher

    cdef bint is_patched(self) except -1:
        # Whether a method that a step goes round was set on this object.
        return _sets_method(vars(self))

    cdef object step(self, object fetches, object feed_dict):
        # One step with all hooks and no options of the caller's.
        if self._should_stop is not False or self._sess is None:
            if self.should_stop():
                raise RuntimeError("Run called even after should_stop requested.")
        return self.current_dispatcher().step(self, fetches, feed_dict)

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        """Runs one step with the hooks; see `tf.compat.v1.Session.run`."""
        cdef Call call
        cdef HookDispatcher dispatcher
        cdef object hooks = None
        if type(fetches) is Call:
            call = <Call>fetches
            if call.error is not None:
                error = call.error
                call.error = None
                raise error
            fetches = call.fetches
            hooks = call.hooks
        if self.should_stop():
            raise RuntimeError("Run called even after should_stop requested.")
        if hooks is not None:
            return self.run_subset(hooks, fetches, feed_dict, options, run_metadata)
        dispatcher = self.current_dispatcher()
        if options is not None or run_metadata is not None or self.is_patched():
            self.cache.steps += 1
            self.cache.decline("the caller gave options or run_metadata, or a method of the session was replaced")
            return super(HookedSessionBase, self).run(fetches, feed_dict, options, run_metadata)
        return dispatcher.step(self, fetches, feed_dict)

    def run_subset(self, hooks, fetches, feed_dict, options, run_metadata):
        """Runs one step that only some of the hooks see.

        Args:
          hooks: False: no hook; else a list of hooks of this session.
          fetches: As `tf.compat.v1.Session.run`, and so are the others.

        Raises:
          ValueError: `hooks` names something that is not a hook of this session.
        """
        wanted = hooks or []
        chosen = [hook for hook in self._hooks if any(hook is other for other in wanted)]
        for other in wanted:
            if not any(hook is other for hook in chosen):
                raise ValueError(f"hooks must be False or a list of hooks of this session; got {other!r}.")
        self.current_dispatcher()
        if options is not None or run_metadata is not None or self.is_patched():
            self.cache.steps += 1
            self.cache.decline("the caller gave options or run_metadata, or a method of the session was replaced")
            part = _SubsetSession(self, chosen)
            return _HookedSession.run(part, fetches, feed_dict, options, run_metadata)
        key = tuple([id(hook) for hook in chosen])
        known = self.subsets.get(key)
        if known is None:
            if len(self.subsets) >= 16:
                self.subsets = {}
            known = self.subsets[key] = HookDispatcher(self._sess, chosen, self.cache, True)
        return (<HookDispatcher>known).step(self, fetches, feed_dict)

    def close(self):
        """Closes the raw session and drops all plans."""
        try:
            super(HookedSessionBase, self).close()
        finally:
            self.cache.clear()
            self.subsets = {}

    def report(self):
        """Returns a dict that tells how the steps of this raw session ran."""
        return {"steps": self.cache.steps, "planned_steps": self.cache.planned,
                "declined": dict(self.cache.declined), "plans_made": self.cache.made,
                "plans_evicted": self.cache.evicted, "plans": self.cache.describe()}


cdef class Chain:
    cdef bint is_as_it_was(self) except -1:
        if HAVE_DICT_VERSIONS:
            return (dict_version(<PyObject*>self.outer_fields) == self.outer_version
                    and dict_version(<PyObject*>self.coordinated_fields) == self.coordinated_version
                    and dict_version(<PyObject*>self.coordinator_fields) == self.coordinator_version
                    and own_version(<PyObject*>self.hooked) == self.hooked_version)
        return (self.outer_fields["_sess"] is (self.hooked if self.outer is self.coordinated else self.coordinated)
                and self.coordinated_fields["_sess"] is self.hooked
                and self.coordinated_fields["_coord"] is self.coordinator
                and not _sets_method(self.outer_fields) and not _sets_method(self.coordinated_fields)
                and not _sets_method(self.coordinator_fields) and not self.hooked.is_patched())


cdef bint _sets_method(dict fields) except -1:
    # Whether a method that a step goes round stands in the `__dict__` of a link of the chain.
    for name in _link_methods:
        if name in fields:
            return True
    return False


cdef class SessionRunner:
    """Compiled part of our monitored sessions: the step path through TensorFlow's chain in one hop.

    As long as every link of the chain is TensorFlow's own and unchanged, and nothing is to be recovered, stopped or
    raised, the links have nothing to do but to pass the call on. In every other case the chain itself is called.
    """

    cdef Chain intact_chain(self):
        # The chain, or None if a link may do something of its own.
        cdef Chain chain = self.chain
        if (chain is not None and chain.outer is self._sess and chain.is_as_it_was()
                and _recoverable_guard.intact() and _coordinated_guard.intact() and _our_guard.intact()):
            return chain
        return self.look()

    cdef Chain look(self):
        cdef Chain chain = Chain.__new__(Chain)
        self.chain = None
        chain.outer = link = self._sess
        if type(link) is _RecoverableSession:
            link = link._sess
        if type(link) is not _CoordinatedSession:
            return None
        chain.coordinated = link
        chain.outer_fields = chain.outer.__dict__
        chain.coordinated_fields = link.__dict__
        if _sets_method(chain.outer_fields) or _sets_method(chain.coordinated_fields):
            return None
        chain.coordinator = coordinator = link._coord
        if (type(link._sess) is not _our_guard.cls or not _our_guard.intact()
                or (<HookedSessionBase>link._sess).is_patched() or type(coordinator) is not _coordinator_guard.cls
                or type(coordinator._stop_event) is not _Event or _sets_method(vars(coordinator))
                or not (_recoverable_guard.intact() and _coordinated_guard.intact())):
            return None
        chain.hooked = link._sess
        chain.coordinator_fields = coordinator.__dict__
        chain.event_fields = coordinator._stop_event.__dict__
        chain.hooked_version = own_version(<PyObject*>chain.hooked)
        chain.coordinator_version = dict_version(<PyObject*>chain.coordinator_fields)
        chain.outer_version = dict_version(<PyObject*>chain.outer_fields)
        chain.coordinated_version = dict_version(<PyObject*>chain.coordinated_fields)
        self.chain = chain
        return chain

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None, *, hooks=None):
        """Runs one step, with the hooks.

        Args:
          fetches: As `tf.compat.v1.Session.run`, and so are the next three.
          feed_dict: What to feed.
          options: A RunOptions proto. A step with one goes through TensorFlow's own `Session.run`.
          run_metadata: A RunMetadata proto to fill; likewise.
          hooks: None: all hooks take part. False: none does. A list of hooks of this session: only those do. Hooks
            that take no part are not told of the run; the stop check and recovery stay.

        Returns:
          Results in the structure of `fetches`, as `tf.compat.v1.Session.run`.

        Raises:
          RuntimeError: A stop was requested before, or the session is closed.
          ValueError: `hooks` names something that is not a hook of this session.
        """
        cdef Chain chain
        if hooks is not None:
            # A list, because a recovery repeats the call.
            fetches = Call(fetches, hooks if hooks is False else list(hooks), None)
        elif options is None and run_metadata is None:
            chain = self.intact_chain()
            if chain is not None:
                try:
                    return chain.hooked.step(fetches, feed_dict)
                except Exception as error:
                    # What an error means (recover, a thread of the coordinator's failed first, pass it on) is for the
                    # chain to say: it gets the same call, and meets the error where it would have met it.
                    fetches = Call(fetches, None, error)
        return self._sess.run(fetches, feed_dict=feed_dict, options=options, run_metadata=run_metadata)

    def run_without_hooks(self, fetches, feed_dict=None, options=None, run_metadata=None):
        """Runs one step that no hook sees; recovery and the stop check stay. Arguments as `run`."""
        return self.run(fetches, feed_dict, options, run_metadata, hooks=False)

    def should_stop(self):
        """Returns whether the loop should end: a hook or a thread of the coordinator's asked for it, or `close` came."""
        cdef Chain chain = self.intact_chain()
        # The coordinator's two flags are set by other threads; it reads them just so.
        if (chain is not None and chain.hooked._should_stop is False and chain.hooked._sess is not None
                and _coordinator_guard.intact() and _event_guard.intact()
                and PyDict_GetItemWithError(chain.coordinator_fields, "_exc_info_to_raise") is <PyObject*>None
                and PyDict_GetItemWithError(chain.event_fields, "_flag") is Py_False):
            return False
        return super(SessionRunner, self).should_stop()


class _SubsetSession:
    # What TensorFlow's `_HookedSession.run` needs to run a step with some of the hooks: its own list, all else shared.

    def __init__(self, hooked, hooks):
        self._hooked = hooked
        self._hooks = hooks

    def __getattr__(self, name):
        return getattr(self._hooked, name)

    @property
    def _should_stop(self):
        return self._hooked._should_stop

    @_should_stop.setter
    def _should_stop(self, value):
        self._hooked._should_stop = value
