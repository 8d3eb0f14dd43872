"""`report`: for each kind of session, and with the right words for each cause of a step that took TensorFlow's own way."""

import pytest
import tensorflow as tf
from tensorflow.python.debug.lib import debug_utils
from tensorflow.python.training import monitored_session

import fasthooks
from fasthooks.step import declining

v1 = tf.compat.v1
COUNTS = ("steps", "planned_steps", "unrun_steps")


@pytest.fixture
def op():
    with tf.Graph().as_default():
        v1.placeholder_with_default(1.0, [], name="fed")
        yield v1.assign_add(v1.train.create_global_step(), 1).op


def plain_session():
    return fasthooks.accelerate(v1.train.ChiefSessionCreator().create_session())


SESSIONS = {
    "ours": lambda: fasthooks.MonitoredSession(),
    "ours_singular": lambda: fasthooks.SingularMonitoredSession(),
    "adopted": lambda: v1.train.MonitoredSession(hooks=[fasthooks.StopAtStepHook(last_step=100)]),
    "adopted_singular": lambda: v1.train.SingularMonitoredSession(hooks=[fasthooks.StopAtStepHook(last_step=100)]),
    "patched": lambda: v1.train.MonitoredSession(),
    "accelerated": plain_session,
}


@pytest.mark.parametrize("kind", SESSIONS)
def test_every_kind_of_session(op, kind):
    with fasthooks.patch():
        session = SESSIONS[kind]()
        for _ in range(3):
            session.run(op)
        with pytest.raises((TypeError, ValueError)):
            session.run(object())
        report = fasthooks.report(session)
        assert [report[name] for name in COUNTS] == [4, 3, 0]
        assert report["declined"] == {"a fetch has the type object": 1}
        assert report["plans"][0]["targets"] == [op.name]
        if hasattr(session, "report"):
            assert session.report() == report
        links = [session]
        while hasattr(links[-1], "_sess") and not hasattr(links[-1]._sess, "graph_def"):
            links.append(links[-1]._sess)
        assert all(fasthooks.report(link) == report for link in links)
        session.close()
        if kind != "accelerated":
            with pytest.raises(RuntimeError, match="closed"):
                fasthooks.report(session)


def test_no_session_of_ours(op):
    with v1.train.MonitoredSession() as session:
        session.run(op)
        for other in (session, session._tf_sess(), object(), None.__class__):
            with pytest.raises(TypeError, match="has run no step"):
                fasthooks.report(other)


class Equal(v1.train.SessionRunHook):
    def __eq__(self, other):
        return self is other

    __hash__ = v1.train.SessionRunHook.__hash__


class Replaces(v1.train.SessionRunHook):
    """Puts another raw session in the place of the step's, or patches it."""

    def before_run(self, run_context):
        self.act()


SAME = v1.train.SessionRunHook()


def ask_for_debugger():
    options = v1.RunOptions()
    debug_utils.add_debug_tensor_watch(options, "AssignAdd", debug_urls=["file:///nowhere"])
    return options


def patch_raw(session, hook):
    raw = session.raw_session()
    raw.run = lambda *args, **kwargs: type(raw).run(raw, *args, **kwargs)


def patch_link(session, hook):
    link = session._sess._sess._sess
    link._check_stop = lambda: False


class Wrapped:
    def __init__(self, raw):
        self.raw = raw

    def __getattr__(self, name):
        return getattr(self.raw, name)


def wrap_raw_now(session, hook):
    link = session._sess._sess._sess
    link._sess = Wrapped(session.raw_session())


def wrap_raw(session, hook):
    hook.act = lambda: wrap_raw_now(session, hook)


class ListOfSomebody(list):
    pass


def patch_in_the_step(session, hook):
    hook.act = lambda: patch_raw(session, hook)


CAUSES = {
    declining.SESSION_PATCHED: ([], patch_raw, {}),
    declining.CHAIN_PATCHED: ([], patch_link, {}),
    declining.SESSION_REPLACED: (["replaces"], wrap_raw, {}),
    declining.SESSION_PATCHED + " in the step": (["replaces"], patch_in_the_step, {}),
    declining.EQUAL_HOOKS: ([Equal()], None, {}),
    declining.REPEATED_HOOK: ([SAME, SAME], None, {}),
    declining.DEBUGGER: ([], None, {"options": ask_for_debugger}),
    declining.UNRECOGNISABLE: ([], None, {"fetches": lambda: Valueless()}),
    "a fetch structure is nested too deeply": ([], None, {"fetches": lambda: _endless()}),
    declining.SESSION_KIND: ([], wrap_raw_now, {}),
    declining.HOOKS_LIST: (ListOfSomebody([SAME]), None, {}),
    declining.NO_FETCHES: ([], None, {"fetches": lambda: None}),
    declining.ODD_OPTIONS: ([], None, {"options": lambda: "none"}),
    declining.FED_VALUE: ([], None, {"feed_dict": lambda: {"fed:0": v1.get_default_graph().get_tensor_by_name("fed:0")}}),
    "feed_dict has the type Odd": ([], None, {"feed_dict": lambda: Odd()}),
}


class Odd:
    """Neither dict nor mapping, and TensorFlow takes it."""

    def __bool__(self):
        return True

    def items(self):
        return []

    def __iter__(self):
        return iter(())

    def keys(self):
        return []


class Valueless(dict):
    def values(self):
        raise LookupError


def _endless():
    nested = []
    nested.append(nested)
    return nested


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_has_its_words(op, cause):
    hooks, act, arguments = CAUSES[cause]
    hook = Replaces()
    hooks = type(hooks)([hook if one == "replaces" else one for one in hooks])
    with fasthooks.MonitoredSession(hooks=hooks) as session:
        hook.act = lambda: None
        if act is not None:
            act(session, hook)
        arguments = {"fetches": lambda: op, **arguments}
        try:
            session.run(**{name: make() for name, make in arguments.items()})
        except (AttributeError, RecursionError, LookupError, TypeError, ValueError, tf.errors.OpError):
            pass
        told = session.report()["declined"]
    assert told == {cause.removesuffix(" in the step"): 1}


def test_a_hooked_session_of_its_own_kind(op):
    from fasthooks.step import _plan

    class Mine(monitored_session._HookedSession):
        pass

    before = _plan.totals()["declined"].get(declining.FOREIGN_HOOKED, 0)
    with fasthooks.patch():
        Mine(v1.train.ChiefSessionCreator().create_session(), []).run(op)
    assert _plan.totals()["declined"][declining.FOREIGN_HOOKED] == before + 1


def test_steps_that_ran_nothing_are_told(op):
    hook = Replaces()
    hook.act = lambda: 1 / 0
    with fasthooks.MonitoredSession(hooks=[hook]) as session:
        with pytest.raises(ZeroDivisionError):
            session.run(op)
        assert [session.report()[name] for name in COUNTS] == [1, 0, 1]


def test_a_run_that_fails_took_a_plan(op):
    with tf.Graph().as_default():
        bad = v1.check_numerics(tf.constant(1.0) / v1.placeholder_with_default(0.0, []), "no number")
        with fasthooks.MonitoredSession() as session:
            with pytest.raises(tf.errors.InvalidArgumentError):
                session.run(bad)
            assert [session.report()[name] for name in COUNTS] == [1, 1, 0]
