# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""TensorFlow's chain of sessions, and the short way through it.

As long as every link of the chain is TensorFlow's own and unchanged, and nothing is to be recovered, stopped or raised,
the links have nothing to do but to pass a call on. Then a step goes from the monitored session straight to the
dispatcher of the hooked one; in every other case the chain itself is called.
"""

import threading

from tensorflow.python.training import coordinator as coordinator_lib
from tensorflow.python.training import monitored_session, session_run_hook

from fasthooks.step import declining, savers
from fasthooks.step._failed_step import FailedSession

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject, PyObject_TypeCheck, PyTypeObject

from fasthooks.step._context cimport protos_for
from fasthooks.step._dispatch cimport HookDispatcher
from fasthooks.step._failed_step cimport meet
from fasthooks.step._plan cimport count_unseen
from fasthooks.step._prepared cimport PreparedRuns
from fasthooks.triggers._guard cimport (
    ClassGuard, check_self, dict_version, new_dict_version, new_own_version, own_version, watch_names)

cdef extern from "Python.h":
    PyObject* Py_False

cdef object _HookedSession = monitored_session._HookedSession
cdef type _RecoverableSession = monitored_session._RecoverableSession
cdef type _CoordinatedSession = monitored_session._CoordinatedSession
cdef type _Coordinator = coordinator_lib.Coordinator
cdef type _Event = threading.Event
cdef object _Lock = type(threading.Lock())

# Methods that the short way goes round.
cdef tuple _link_methods = ("run", "should_stop", "_check_stop", "_call_hook_before_run", "_merge_run_options",
                            "_raise_if_feeds_intersects", "raise_requested_exception")
watch_names((*_link_methods, "_sess", "_coord", "_stop_event"))
cdef ClassGuard _monitored_guard = ClassGuard(
    monitored_session._MonitoredSession, monitored_session, ("run", "should_stop"))
cdef ClassGuard _recoverable_guard = ClassGuard(
    _RecoverableSession, monitored_session, ("run", "should_stop", "_check_stop"))
cdef ClassGuard _coordinated_guard = ClassGuard(
    _CoordinatedSession, monitored_session, ("run", "should_stop", "_check_stop"))
cdef ClassGuard _coordinator_guard = ClassGuard(
    _Coordinator, coordinator_lib, ("should_stop", "raise_requested_exception"))
cdef ClassGuard _event_guard = ClassGuard(_Event, threading, ("is_set",))
cdef tuple _hooked_helpers = ("should_stop", "_check_stop", "_call_hook_before_run", "_merge_run_options",
                              "_raise_if_feeds_intersects")
cdef ClassGuard _helpers_guard = ClassGuard(_HookedSession, monitored_session, _hooked_helpers)
cdef ClassGuard _hooked_guard = ClassGuard(
    _HookedSession, monitored_session, ("run", *_hooked_helpers), (),
    (session_run_hook.SessionRunArgs, session_run_hook.SessionRunContext, session_run_hook.SessionRunValues))
cdef ClassGuard _wrapped_guard = ClassGuard(monitored_session._WrappedSession, monitored_session, ("run",))

cdef class Envelope:
    """Carries what the chain does not know through it, in the place of a run's `fetches`.

    The chain passes its arguments on unread and repeats the call after a recovery. That makes it the one place where a
    choice of hooks can travel.
    """

    cdef object fetches
    cdef object hooks       # as given to `run`

    def __cinit__(self, fetches, hooks):
        self.fetches = fetches
        self.hooks = hooks


cdef int check_may_run(object session) except -1:
    # What TensorFlow's hooked session does before a step, and, to a stop flag that a program wrote, after it.
    if session.should_stop():
        raise RuntimeError("Run called even after should_stop requested.")
    if session._should_stop is not False:
        session._should_stop = False
    return 0


cdef class StepRunner:
    """Runs the steps of one hooked session, ours or TensorFlow's own.

    Args:
      scheduling: As `PlanCache`.
    """

    def __cinit__(self, str scheduling="auto"):
        self.scheduling = scheduling
        self.subsets = {}

    cdef HookDispatcher dispatcher_for(self, object raw, object hooks):
        # Programs replace the wrapped session and the hooks list.
        cdef HookDispatcher dispatcher = self.dispatcher
        cdef PreparedRuns runs
        if dispatcher is not None and dispatcher.runs.raw is raw:
            if dispatcher.hooks is hooks:
                return dispatcher
            runs = dispatcher.runs
        else:
            runs = PreparedRuns(raw, self.scheduling)
        self.subsets = {}
        self.dispatcher = dispatcher = HookDispatcher(runs, hooks)
        return dispatcher

    cdef HookDispatcher dispatcher_of_some(self, PreparedRuns runs, list chosen):
        # The same for a list of some hooks of the session.
        key = tuple([id(hook) for hook in chosen])
        found = self.subsets.get(key)
        if found is None or (<HookDispatcher>found).runs is not runs:
            if len(self.subsets) >= 16:
                self.subsets = {}
            found = self.subsets[key] = HookDispatcher(runs, chosen, True)
        return <HookDispatcher>found

    cdef int drop(self) except -1:
        # Drops all plans: they hold the raw session, and with it its memory.
        self.dispatcher = None
        self.subsets = {}
        return 0

    def report(self):
        """Returns a dict that tells how the steps of the raw session ran; see `fasthooks.report`."""
        cdef HookDispatcher dispatcher = self.dispatcher
        return (PreparedRuns(None) if dispatcher is None else dispatcher.runs).cache.report()

    def __reduce__(self):
        return StepRunner, (self.scheduling,)


cdef class HookedSessionBase:
    """Compiled part of our hooked session: its `run`, and the dispatchers behind it."""

    def __cinit__(self):
        self.steps = StepRunner()

    def __init__(self, sess, hooks, str scheduling):
        """Args as TensorFlow's `_HookedSession`, and `scheduling` as `PlanCache`."""
        _HookedSession.__init__(self, sess, hooks)
        self.steps.scheduling = scheduling

    cdef bint is_patched(self) except -1:
        # Whether a method that a step goes round was set on this object.
        return _sets_method(vars(self)) or not _our_guard.intact()

    cdef HookDispatcher dispatcher(self):
        return self.steps.dispatcher_for(self._sess, self._hooks)

    cdef object step(self, object fetches, object feed_dict):
        # One step with all hooks and no options of the caller's.
        if self._should_stop is not False or self._sess is None:
            check_may_run(self)
        return self.dispatcher().step(self, fetches, feed_dict, None, None)

    @cython.binding(True)
    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        """Runs one step with the hooks; see `tf.compat.v1.Session.run`."""
        cdef Envelope envelope
        cdef HookDispatcher dispatcher
        cdef object hooks = None
        check_self(<PyObject*>self, HookedSessionBase)
        if type(fetches) is Envelope:
            envelope = <Envelope>fetches
            fetches = envelope.fetches
            hooks = self.chosen(envelope.hooks)
        dispatcher = self.dispatcher()
        if self.is_patched():
            if hooks is not None:
                dispatcher = HookDispatcher(dispatcher.runs, hooks, True)
            return dispatcher.declined_step(self, fetches, feed_dict, protos_for(options, run_metadata),
                                            declining.CHAIN_PATCHED if _our_guard.known else declining.CODE_UNKNOWN)
        check_may_run(self)
        if hooks is not None:
            dispatcher = self.steps.dispatcher_of_some(dispatcher.runs, hooks)
        return dispatcher.step(self, fetches, feed_dict, protos_for(options, run_metadata), None)

    def chosen(self, hooks):
        """Returns those of this session's hooks that are to see a run.

        Args:
          hooks: False: no hook; else a list of hooks of this session.

        Raises:
          ValueError: `hooks` names something that is not a hook of this session.
        """
        wanted = hooks or []
        for other in wanted:
            if not any(hook is other for hook in self._hooks):
                raise ValueError(f"hooks must be False or a list of hooks of this session; got {other!r}.")
        return [hook for hook in self._hooks if any(hook is other for other in wanted)]

    def with_hooks(self, hooks):
        """Returns a session like this one, with other hooks, for one run by TensorFlow's own `run`."""
        cdef HookedSessionBase part = type(self).__new__(type(self))
        part._sess, part._hooks, part._should_stop = self._sess, hooks, self._should_stop
        part._wrapped_is_stoppable = self._wrapped_is_stoppable
        vars(part).update(vars(self))
        return part

    def on_first_step(self, tell):
        """Has a function called once, with the global step that the next run returns; None: it returns none."""
        self.dispatcher().runs.on_first_step = tell

    @cython.binding(True)
    def close(self):
        """Closes the raw session and drops all plans."""
        check_self(<PyObject*>self, HookedSessionBase)
        try:
            super(HookedSessionBase, self).close()
        finally:
            # Somebody may hold this object for long.
            self.steps.drop()

    def report(self):
        """Returns a dict that tells how the steps of this raw session ran."""
        return self.steps.report()


class HookedSession(HookedSessionBase, monitored_session._HookedSession):
    """The hooked link of the chain of our sessions: TensorFlow's, with a compiled `run`, and its name."""


HookedSession.__name__ = HookedSession.__qualname__ = "_HookedSession"

cdef type _our_class = HookedSession
cdef Py_ssize_t _our_offset = (<PyTypeObject*>HookedSession).tp_dictoffset
cdef ClassGuard _our_guard = ClassGuard(HookedSession, None, _link_methods[:-1], (_hooked_guard, _wrapped_guard))


def knows_hooked_session():
    """Returns whether this TensorFlow's hooked session has the code that a step is written after."""
    return _our_guard.known


# Where a hooked session of TensorFlow's own keeps its StepRunner: it lives and dies with the session.
cdef str _STEPS = "_fasthooks_steps"


# A monitored session none of whose steps had been run here when it was last looked at: the chain leads to its hooked session.
cdef PyObject* _unserved = NULL


cdef HookDispatcher attached_dispatcher(object session):
    # The dispatcher of a hooked session of TensorFlow's own; None: something of it is not TensorFlow's.
    global _unserved
    cdef dict fields
    cdef StepRunner steps
    if (type(session) is not _HookedSession or not _helpers_guard.intact() or not _wrapped_guard.intact()
            or type(session.__dict__) is not dict):
        return None
    fields = session.__dict__
    found = fields.get(_STEPS)
    if type(found) is StepRunner:
        steps = <StepRunner>found
    else:
        steps = fields[_STEPS] = StepRunner()
        _unserved = NULL
        savers.warn_of_two(session._hooks)
    return steps.dispatcher_for(session._sess, session._hooks) if _is_untouched(fields, &steps.version) else None


cdef bint _is_untouched(dict fields, unsigned long long* known) except -1:
    # Whether no method that a step goes round stands in the `__dict__` of a link. `known`: its version when none did.
    cdef unsigned long long version = dict_version(<PyObject*>fields)
    if not is_version(known[0], version):
        version = new_dict_version(<PyObject*>fields)
        if _sets_method(fields):
            return False
        known[0] = version
    return True


def detach(session):
    """Drops what `run_hooked` attached to a hooked session, and with it the plans, which hold the raw session."""
    getattr(session, "__dict__", {}).pop(_STEPS, None)


def attached_report(session):
    """Returns the report of a hooked session of TensorFlow's own whose steps were run here; None for any other object."""
    found = vars(session).get(_STEPS) if type(session) is _HookedSession else None
    return found.report() if type(found) is StepRunner else None


def holds_instance(session, type cls not None):
    """Returns whether the hooks list of a hooked session of TensorFlow's own holds an instance of a class."""
    cdef PyObject* hooks
    if type(session) is not _HookedSession:
        return False
    hooks = PyDict_GetItemWithError(session.__dict__, "_hooks")
    if hooks is NULL or type(<object>hooks) is not list and type(<object>hooks) is not tuple:
        return False
    for hook in <object>hooks:
        if PyObject_TypeCheck(hook, <PyTypeObject*>cls):
            return True
    return False


def run_hooked(session, fetches, feed_dict, options, run_metadata, original):
    """Runs one step of a hooked session of TensorFlow's own, in the place of `_HookedSession.run`; see `patching.py`.

    Args:
      session: The hooked session.
      fetches: As `tf.compat.v1.Session.run`, and so are the next three.
      original: What to call where something on the way is not as TensorFlow made it.
    """
    cdef HookDispatcher dispatcher = attached_dispatcher(session)
    if dispatcher is None:
        # A session of ours that calls TensorFlow's function has counted its run.
        if not isinstance(session, HookedSessionBase):
            count_unseen(declining.FOREIGN_HOOKED)
        return original(session, fetches, feed_dict, options, run_metadata)
    if not _may_run(session.__dict__):
        check_may_run(session)
    return dispatcher.step(session, fetches, feed_dict, protos_for(options, run_metadata), original)


def run_monitored(session, fetches, feed_dict, options, run_metadata, type hook_class, original, hooked_original):
    """Runs one step of a monitored session of TensorFlow's own, in the place of `_MonitoredSession.run`; see `patching.py`.

    Args:
      session: The monitored session.
      fetches: As `tf.compat.v1.Session.run`, and so are the next three.
      hook_class: What a hook of the session must be an instance of for the steps to be run here; None: that does not matter.
      original: What to call where a link of the chain is not as TensorFlow made it, or where `run_hooked` has not yet run a step.
      hooked_original: As `original` of `run_hooked`.
    """
    cdef Links links = None
    if options is None and run_metadata is None and <PyObject*>session is not _unserved:
        try:
            links = _links_of(session)
        except Exception:   # see below
            pass
    if links is None or hook_class is not None and not holds_instance(links.hooked, hook_class):
        return original(session, fetches, feed_dict, options, run_metadata)
    try:
        if not _may_run(links.hooked_fields):
            check_may_run(links.hooked)
        return links.steps.dispatcher_for(links.hooked._sess, links.hooked._hooks).step(
            links.hooked, fetches, feed_dict, None, hooked_original)
    except Exception as raised:
        failed = FailedSession(raised)
    outer, coordinator, links = links.outer, links.coordinator, None    # which holds the plans, and with them the raw session
    return meet(outer, coordinator, fetches, feed_dict, failed)


def should_stop(session, original):
    """Does what `_MonitoredSession.should_stop` does, in its place; see `patching.py`.

    Args:
      session: The monitored session.
      original: What to call where a link of the chain is not as TensorFlow made it, or may say anything but no.
    """
    cdef Links links
    if <PyObject*>session is _unserved:
        return original(session)
    try:
        links = _links_of(session)
        goes_on = links is not None and links.go_on()
    except Exception:   # the attributes of a link are somebody's own
        goes_on = False
    return False if goes_on else original(session)


@cython.freelist(8)
cdef class Links:
    """The links of a monitored session of TensorFlow's own whose steps are run here, as one call finds them."""

    cdef object outer, hooked       # `outer` is the recoverable one, or the coordinated one
    cdef object coordinator
    cdef dict hooked_fields                     # the `__dict__` of the hooked one
    cdef StepRunner steps

    cdef bint go_on(self) except -1:
        # Whether nothing asks for a stop or has failed.
        cdef dict coordinator = self.coordinator.__dict__
        flag = coordinator.get("_stop_event")
        return (type(flag) is _Event and _coordinator_guard.intact() and _event_guard.intact()
                and _is_untouched(coordinator, &self.steps.coordinator_version) and _may_run(self.hooked_fields)
                and _is_calm(coordinator, (<object>flag).__dict__))


cdef Links _links_of(object session):
    # None: something of them is not TensorFlow's own, or their steps are not run here.
    global _unserved
    cdef dict recoverable = None, coordinated, hooked
    cdef StepRunner steps
    cdef Links links
    link = outer = session._sess
    if type(link) is _RecoverableSession:
        recoverable = link.__dict__
        link = recoverable.get("_sess")
    if type(link) is not _CoordinatedSession:
        return None
    coordinated = link.__dict__
    coordinator, last = coordinated.get("_coord"), coordinated.get("_sess")
    if type(coordinator) is not _Coordinator or type(last) is not _HookedSession:
        return None
    hooked = last.__dict__
    found = hooked.get(_STEPS)
    if found is None:
        _unserved = <PyObject*>session
        return None
    if type(found) is not StepRunner or not (
            _monitored_guard.known and _coordinated_guard.intact() and _helpers_guard.intact() and _wrapped_guard.intact()):
        return None
    steps = <StepRunner>found
    if not (_is_untouched(coordinated, &steps.coordinated_version) and _is_untouched(hooked, &steps.version)):
        return None
    if recoverable is not None and not (
            _recoverable_guard.intact() and _is_untouched(recoverable, &steps.recoverable_version)):
        return None
    links = Links.__new__(Links)
    links.outer, links.hooked, links.coordinator = outer, last, coordinator
    links.hooked_fields, links.steps = hooked, steps
    return links


cdef bint _may_run(dict hooked) except -1:
    # Whether a hooked session is open and nothing asked it to stop; a raw session that can stop by itself is to be asked.
    return (PyDict_GetItemWithError(hooked, "_should_stop") is Py_False and hooked.get("_sess")
            and PyDict_GetItemWithError(hooked, "_wrapped_is_stoppable") is Py_False)


cdef bint _is_calm(dict coordinator, dict event) except -1:
    # Whether no thread has failed or asked for a stop. Other threads set the two flags; one that is telling of its failure,
    # which may take its time, holds the lock.
    lock = coordinator.get("_lock")
    return (PyDict_GetItemWithError(coordinator, "_exc_info_to_raise") is <PyObject*>None
            and type(lock) is _Lock and not lock.locked()
            and PyDict_GetItemWithError(event, "_flag") is Py_False and PyDict_GetItemWithError(event, "is_set") is NULL)


cdef class Chain:
    cdef bint is_as_it_was(self) except -1:
        return (is_version(self.outer_version, dict_version(<PyObject*>self.outer_fields))
                and is_version(self.coordinated_version, dict_version(<PyObject*>self.coordinated_fields))
                and is_version(self.hooked_version, own_version(<PyObject*>self.hooked, _our_offset)))

    cdef bint coordinator_is_as_it_was(self) except -1:
        return is_version(self.coordinator_version, dict_version(<PyObject*>self.coordinator_fields))


cdef inline bint is_version(unsigned long long known, unsigned long long version) noexcept:
    return known == version and version != 0


cdef bint _sets_method(dict fields) except -1:
    # Whether a method that a step goes round stands in the `__dict__` of a link of the chain.
    for name in _link_methods:
        if name in fields:
            return True
    return False


cdef class SessionRunner:
    """Compiled part of our monitored sessions: `run` and `should_stop` by the short way, where it is open."""

    cdef Chain intact_chain(self):
        # The chain, or None if a link may do something of its own.
        cdef Chain chain = self.chain
        if (chain is not None and chain.outer is self._sess and chain.is_as_it_was()
                and type(chain.hooked) is _our_class and _monitored_guard.intact()
                and _recoverable_guard.intact() and _coordinated_guard.intact() and _our_guard.intact()):
            return chain
        return self.look()

    cdef Chain look(self):
        cdef Chain chain = Chain.__new__(Chain)
        self.chain = None
        if not (_monitored_guard.intact() and _recoverable_guard.intact() and _coordinated_guard.intact()
                and _coordinator_guard.known):
            return None
        chain.outer = link = self._sess
        if type(link) is _RecoverableSession:
            link = link._sess
        if type(link) is not _CoordinatedSession:
            return None
        chain.outer_fields = chain.outer.__dict__
        chain.coordinated_fields = link.__dict__
        chain.outer_version = new_dict_version(<PyObject*>chain.outer_fields)
        chain.coordinated_version = new_dict_version(<PyObject*>chain.coordinated_fields)
        if _sets_method(chain.outer_fields) or _sets_method(chain.coordinated_fields):
            return None
        chain.coordinator = coordinator = link._coord
        if type(coordinator) is not _Coordinator or type(link._sess) is not _our_class:
            return None
        chain.coordinator_fields = coordinator.__dict__
        chain.coordinator_version = new_dict_version(<PyObject*>chain.coordinator_fields)
        chain.hooked_version = new_own_version(<PyObject*>link._sess)
        # A raw session that can stop by itself is asked by the chain.
        if (link._sess._wrapped_is_stoppable or (<HookedSessionBase>link._sess).is_patched()
                or type(coordinator._stop_event) is not _Event or _sets_method(chain.coordinator_fields)):
            return None
        chain.hooked = link._sess
        chain.event_fields = coordinator._stop_event.__dict__
        self.chain = chain
        return chain

    @cython.binding(True)
    def run(self, fetches, feed_dict=None, options=None, run_metadata=None, *, hooks=None):
        """Runs one step, with the hooks.

        Args:
          fetches: As `tf.compat.v1.Session.run`, and so are the next three.
          feed_dict: What to feed.
          options: A RunOptions proto. Such a step is scheduled as these say.
          run_metadata: A RunMetadata proto to fill.
          hooks: None: all hooks take part. False: none does. A list of hooks of this session: only those do. Hooks
            that take no part are not told of the run; the stop check and recovery stay.

        Returns:
          Results in the structure of `fetches`, as `tf.compat.v1.Session.run`.

        Raises:
          RuntimeError: A stop was requested before, or the session is closed.
          ValueError: `hooks` names something that is not a hook of this session.
        """
        cdef Chain chain
        check_self(<PyObject*>self, SessionRunner)
        if hooks is not None:
            # A list, because a recovery repeats the call.
            fetches = Envelope(fetches, hooks if hooks is False else list(hooks))
        elif options is None and run_metadata is None:
            chain = self.intact_chain()
            if chain is not None:
                try:
                    return chain.hooked.step(fetches, feed_dict)
                except Exception as raised:
                    failed = FailedSession(raised)
                # Outside of the handler: what the chain does next, a repeated step for example, is not to see the error.
                outer, coordinator, chain = chain.outer, chain.coordinator, None
                self.chain = None
                return meet(outer, coordinator, fetches, feed_dict, failed)
        return super(SessionRunner, self).run(fetches, feed_dict, options, run_metadata)

    @cython.binding(True)
    def run_without_hooks(self, fetches, feed_dict=None, options=None, run_metadata=None):
        """Runs one step that no hook sees; recovery and the stop check stay. Arguments as `run`."""
        check_self(<PyObject*>self, SessionRunner)
        return self.run(fetches, feed_dict, options, run_metadata, hooks=False)

    @cython.binding(True)
    def should_stop(self):
        """Returns whether the loop should end: a hook or a thread of the coordinator's asked for it, or `close` came."""
        check_self(<PyObject*>self, SessionRunner)
        cdef Chain chain = self.intact_chain()
        if (chain is not None and chain.coordinator_is_as_it_was()
                and chain.hooked._should_stop is False and chain.hooked._sess is not None
                and _coordinator_guard.intact() and _event_guard.intact()
                and _is_calm(chain.coordinator_fields, chain.event_fields)):
            return False
        return super(SessionRunner, self).should_stop()
