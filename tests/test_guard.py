"""Is the code that a compiled path stands in for still TensorFlow's own? What each guard notices, and what none minds."""

import ctypes
import gc
import sys
from unittest import mock

import pytest
import tensorflow as tf
from helpers import build_model
from tensorflow.python.client import session as session_lib
from tensorflow.python.training import monitored_session

import fasthooks
from fasthooks.triggers import _guard

v1 = tf.compat.v1


class Plain(v1.train.SessionRunHook):
    """A hook of the user's that counts its calls."""

    def __init__(self):
        self.calls = 0

    def after_run(self, run_context, run_values):
        self.calls += 1


class Silent(v1.train.SessionRunHook):
    """A hook of the user's without per-step methods."""


class Running:
    """A session with one hook that has made some steps."""

    def __init__(self, make_hook, session=fasthooks.MonitoredSession):
        with tf.Graph().as_default():
            self.train, self.loss = build_model()
            self.hook = make_hook(self)
            self.session = session(hooks=[self.hook])
        self.steps()

    def steps(self, count=3):
        for _ in range(count):
            self.session.run(self.train)

    def called(self, act):
        """Returns how many calls of the function that `act` puts in some place the next three steps make."""
        calls = []
        act(lambda *args, **kwargs: calls.append(args))
        self.steps()
        return len(calls)


HOOKS = {
    "ours": lambda running: fasthooks.LoggingTensorHook([running.loss], every_n_iter=10**6),
    "tensorflow": lambda running: v1.train.LoggingTensorHook([running.loss], every_n_iter=10**6),
    "silent": lambda running: Silent(),
}


@pytest.fixture(params=HOOKS)
def running(request):
    """A session with a hook of ours, of TensorFlow's, or of the user's without per-step methods."""
    made = Running(HOOKS[request.param])
    yield made
    made.session.close()


@pytest.mark.parametrize("method", ["before_run", "after_run"])
def test_method_set_on_the_object(running, method):
    assert running.called(lambda function: setattr(running.hook, method, function)) == 3
    delattr(running.hook, method)
    running.steps()


@pytest.mark.parametrize("method", ["before_run", "after_run"])
def test_method_set_on_the_class(running, method):
    with mock.patch.object(type(running.hook), method, create=True) as function:
        function.return_value = None
        running.steps()
        assert function.call_count == 3
    running.steps()
    assert function.call_count == 3


@pytest.mark.parametrize("method", ["before_run", "after_run"])
def test_method_set_on_a_base(method):
    running = Running(lambda _: Silent())
    with mock.patch.object(v1.train.SessionRunHook, method, return_value=None) as function:
        running.steps()
        assert function.call_count == 3
    running.steps()
    assert function.call_count == 3
    running.session.close()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="classes are watched")
def test_a_tag_that_no_change_moves():
    """A class whose base gets no tag, since all 2**32 are given out, has one that does not count, and keeps it for ever."""
    class Base(fasthooks.LoggingTensorHook):
        pass

    class Hook(Base):
        pass

    running = Running(lambda running: Hook([running.loss], every_n_iter=10**6))
    Base.other = None   # takes the tags away
    flags = ctypes.c_ulong.from_address(id(Base) + 168)
    assert flags.value == Base.__flags__
    ready = 1 << 12     # a class that is not gets no tag either
    flags.value &= ~ready
    try:
        running.steps()
        assert running.called(lambda function: setattr(Hook, "after_run", function)) == 3
    finally:
        flags.value |= ready
        running.session.close()


@pytest.mark.parametrize("kind", ["tensorflow", "silent"])  # ours have a dict that cannot be exchanged
def test_method_in_another_dict(kind):
    running = Running(HOOKS[kind])
    calls = []
    running.hook.__dict__ = {**vars(running.hook), "after_run": lambda *args: calls.append(args)}
    running.steps()
    assert len(calls) == 3
    for number in range(50):    # a new dict may lie where a former one lay
        calls.clear()
        method = {"after_run": lambda *args: calls.append(args)} if number % 2 else {}
        vars(running.hook).pop("after_run", None)
        running.hook.__dict__ = {**vars(running.hook), **method}
        running.steps(1)
        assert len(calls) == number % 2
    running.session.close()


def test_attributes_keep_their_order():
    """Watching an object leaves its attributes, and the dict that others may hold, as they were."""
    running = Running(lambda _: Plain())
    other = Plain()
    other.first, other.second = 1, 2
    fields = vars(other)
    items = list(fields.items())
    running.session._sess._sess._sess._hooks.append(other)
    running.steps()
    assert vars(other) is fields
    assert [name for name, _ in fields.items()] == [name for name, _ in items]
    assert other.calls == 3
    running.session.close()


def test_another_class(running):
    calls = []

    class Other(type(running.hook)):
        def after_run(self, run_context, run_values):
            calls.append(run_values)

    running.hook.__class__ = Other
    running.steps()
    assert len(calls) == 3


def test_other_bases():
    calls = []

    class Base(v1.train.SessionRunHook):
        pass

    class Noisy(v1.train.SessionRunHook):
        def after_run(self, run_context, run_values):
            calls.append(run_values)

    class Derived(Base):
        pass

    running = Running(lambda _: Derived())
    for bases, expected in (((Noisy,), 3), ((Base,), 3), ((Noisy,), 6), ((Base,), 6)):
        Derived.__bases__ = bases
        running.steps()
        assert len(calls) == expected
    running.session.close()


@pytest.mark.parametrize("name", ["__getattribute__", "__getattr__"])
@pytest.mark.parametrize("kind", ["ours", "tensorflow", "silent"])
def test_attribute_access_of_the_class(kind, name):
    """A class that finds its attributes in its own way may give any method, from the next step on."""
    calls = []

    def noisy(self, attribute):
        if attribute == "after_run":
            return lambda *args: calls.append(args)
        if name == "__getattr__":
            raise AttributeError(attribute)
        return object.__getattribute__(self, attribute)

    def derived(running):
        hook = HOOKS[kind](running)
        hook.__class__ = type("Derived", (type(hook),), {})
        return hook

    running = Running(derived)
    setattr(type(running.hook), name, noisy)
    running.steps()
    # The other one is asked for what is not found only.
    assert len(calls) == (3 if name == "__getattribute__" else 0)
    delattr(type(running.hook), name)
    running.steps()
    assert len(calls) <= 3
    running.session.close()


@pytest.mark.parametrize("kind", ["ours", "tensorflow"])
def test_methods_of_timers(kind):
    api = fasthooks if kind == "ours" else v1.train
    running = Running(lambda running: api.LoggingTensorHook([running.loss], every_n_iter=10**6))
    timer = running.hook._timer
    for target in (timer, type(timer)):
        with mock.patch.object(target, "should_trigger_for_step", return_value=False) as function:
            running.steps()
            assert function.call_count == 3
        running.steps()
        assert function.call_count == 3
    running.session.close()


def test_timers_of_tensorflow_are_read_anew():
    """Their numbers are attributes that change."""
    running = Running(lambda running: v1.train.LoggingTensorHook([running.loss], every_n_iter=10**6))
    with mock.patch.object(type(running.hook), "_log_tensors") as log:
        running.steps()
        assert log.call_count == 0
        running.hook._timer._every_steps = 1
        running.steps()
        assert log.call_count == 3
    running.session.close()


LINKS = {
    "recoverable": (lambda session: session._sess, monitored_session._RecoverableSession),
    "coordinated": (lambda session: session._sess._sess, monitored_session._CoordinatedSession),
    "hooked": (lambda session: session._sess._sess._sess, monitored_session._HookedSession),
    "raw": (lambda session: session.raw_session(), session_lib.BaseSession),
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("on_class", [False, True])
def test_run_of_a_link(running, link, on_class):
    find, cls = LINKS[link]
    target = find(running.session)
    original = cls.run
    calls = []

    def run(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs) if on_class else original(target, *args, **kwargs)

    # Ours defines a `run` of its own, before which TensorFlow's is not asked.
    patched = type(target) if link == "hooked" else cls
    original = patched.run
    with mock.patch.object(patched if on_class else target, "run", run):
        running.steps()
    assert len(calls) == 3
    running.steps()
    assert len(calls) == 3


def test_links_that_are_exchanged(running):
    hooked = running.session._sess._sess._sess
    running.session._sess._sess._sess = replaced = mock.Mock()
    running.steps()
    assert replaced.run.call_count == 3
    running.session._sess._sess._sess = hooked
    running.steps()
    assert replaced.run.call_count == 3


def test_stop_of_the_coordinator(running):
    coordinator = running.session._sess._sess._coord
    with mock.patch.object(coordinator, "should_stop", return_value=True):
        assert running.session.should_stop()
    assert not running.session.should_stop()
    with mock.patch.object(type(coordinator), "should_stop", return_value=True):
        assert running.session.should_stop()
    assert not running.session.should_stop()
    event = coordinator._stop_event
    coordinator._stop_event = mock.Mock(is_set=lambda: True)
    assert running.session.should_stop()
    coordinator._stop_event = event
    assert not running.session.should_stop()


def test_native_session_that_is_gone(running):
    raw = running.session.raw_session()
    native, raw._session = raw._session, None
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        running.steps(1)
    raw._session = native
    running.steps()


# What costs nothing


def test_thousands_of_changes_of_a_class_do_not_end_the_fast_path(running):
    """CPython 3.13 gives a class no version tag any more after 1,000 changes."""
    cls = type(running.hook)
    for number in range(3000):
        with mock.patch.object(cls, "after_run", create=True):
            pass
        cls.unrelated = number
    del cls.unrelated
    running.steps()
    before = _guard.looks()
    running.steps(10)
    assert _guard.looks() == before
    planned = running.session.report()
    assert planned["planned_steps"] == planned["steps"]


def test_attributes_of_their_own_are_no_changes(running):
    """Hooks count and note things in attributes, of objects and of classes, on every step."""
    if sys.version_info < (3, 12):
        pytest.skip("every change of a dict is one, and costs one look")
    running.steps()
    before = _guard.looks()
    for number in range(10):
        running.hook.count = number
        type(running.hook).total = number
        running.session.raw_session().note = number
        running.steps(1)
    assert _guard.looks() == before
    del type(running.hook).total


def test_quiet_steps_look_at_nothing():
    hooks = [lambda running, api=api: api.StopAtStepHook(last_step=10**6) for api in (fasthooks, v1.train)]
    for make_hook in (*HOOKS.values(), *hooks):
        running = Running(make_hook)
        gc.collect()  # sessions that go count
        running.steps(1)
        before = _guard.looks()
        running.steps(20)
        assert _guard.looks() == before
        running.session.close()


def test_classes_and_dicts_that_are_watched_may_go():
    for _ in range(5):
        running = Running(lambda _: type("Passing", (Plain,), {})())
        running.steps()
        assert running.hook.calls == 6
        running.session.close()
        del running
        gc.collect()


@pytest.mark.parametrize("where", ["class", "object"])
@pytest.mark.parametrize("method", ["_run", "_do_run", "_do_call", "_call_tf_sessionrun", "_extend_graph", "_update_with_movers"])
@pytest.mark.parametrize("kind", ["ours", "accelerated"])
def test_method_of_the_raw_session(kind, method, where):
    """All that `Session.run` calls on the way to the native call."""
    with tf.Graph().as_default():
        tensor = tf.constant(1.0)
        session = fasthooks.MonitoredSession() if kind == "ours" else fasthooks.accelerate(v1.Session())
        raw = session.raw_session() if kind == "ours" else session
        for place in (type(raw), raw, session_lib.BaseSession) if where == "class" else (raw,):
            session.run(tensor)
            original = getattr(raw, method)
            with mock.patch.object(place, method, side_effect=original) as function:
                assert [session.run(tensor) for _ in range(3)] == [1.0] * 3
            assert function.call_count == 3
        session.close()


def test_the_native_call():
    with tf.Graph().as_default():
        tensor = tf.constant(1.0)
        with fasthooks.MonitoredSession() as session:
            session.run(tensor)
            native = session_lib.tf_session.TF_SessionRun_wrapper
            with mock.patch.object(session_lib.tf_session, "TF_SessionRun_wrapper", side_effect=native) as function:
                session.run(tensor)
                session.run(tensor)
            assert function.call_count == 2
            session.run(tensor)
            assert function.call_count == 2 and session.report()["planned_steps"] == 2


@pytest.mark.parametrize("kind", ["ours", "accelerated"])
def test_the_class_of_the_raw_session(kind):
    """It is given another one, whose `run` is then called."""
    class Own(v1.Session):
        calls = 0

        def run(self, *args, **kwargs):
            Own.calls += 1
            return super().run(*args, **kwargs)

    with tf.Graph().as_default():
        tensor = tf.constant(1.0)
        session = fasthooks.MonitoredSession() if kind == "ours" else fasthooks.accelerate(v1.Session())
        raw = session.raw_session() if kind == "ours" else session
        session.run(tensor)
        cls = type(raw)
        raw.__class__ = type("Given", (Own, cls), {}) if kind == "accelerated" else Own
        assert [session.run(tensor) for _ in range(3)] == [1.0] * 3 and Own.calls == 3
        raw.__class__ = cls
        session.run(tensor)
        assert Own.calls == 3
        session.close()
