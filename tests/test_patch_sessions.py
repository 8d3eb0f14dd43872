"""`patch(sessions=True)`: plain sessions are accelerated when they are made, and TensorFlow's again afterwards."""

import gc
import inspect
import threading
import weakref
from unittest import mock

import pytest
import tensorflow as tf
from helpers import captured_logs, describe
from tensorflow.python.client import session as session_lib

import fasthooks
from fasthooks.step import _plan

v1 = tf.compat.v1
CLASSES = (session_lib.Session, session_lib.InteractiveSession)
STOCK = {cls: vars(cls)["__init__"] for cls in CLASSES}
# TensorFlow 2.15 says so of each that is made beside another.
pytestmark = pytest.mark.filterwarnings("ignore:An interactive session is already active:UserWarning")
NAMES = {f"tensorflow.python.client.session.{cls.__name__}.__init__" for cls in CLASSES}


@pytest.fixture(autouse=True)
def _put_back():
    yield
    fasthooks.unpatch()
    assert all(vars(cls)["__init__"] is STOCK[cls] for cls in CLASSES)


@pytest.fixture(params=CLASSES)
def make(request):
    """Makes a session of one class on a graph that holds `one` and `two`."""
    with tf.Graph().as_default():
        tf.constant(1.0, name="one") + tf.constant(1.0, name="other")
        tf.identity(2.0, name="two")
        made = []

        def make_one(*args, **kwargs):
            made.append(request.param(*args, **kwargs))
            return made[-1]

        yield make_one
        for session in reversed(made):
            session.close()


def planned(session):
    before = _plan.totals()["planned_steps"]
    assert session.run(["one:0", "two:0"]) == [1.0, 2.0]
    return _plan.totals()["planned_steps"] > before


def test_sessions_that_are_made_from_then_on(make):
    old = make()
    fasthooks.patch(sessions=True)
    new = make(config=v1.ConfigProto(allow_soft_placement=True))
    assert not planned(old) and planned(new)
    assert isinstance(new, type(old)) and type(new) is not type(old)
    assert fasthooks.report(new)["planned_steps"] == 1
    fasthooks.unpatch()
    assert type(new) is type(old) and not planned(new) and not planned(old) and not planned(make())
    with pytest.raises(TypeError):
        fasthooks.report(new)


def test_what_is_replaced_and_why():
    with fasthooks.patch(sessions=True):
        told = fasthooks.patched()
        assert set(told) > NAMES and {told[name].reason for name in NAMES} == {"fasthooks.patch(sessions=True)"}
        assert all(inspect.signature(cls.__init__) == inspect.signature(STOCK[cls]) for cls in CLASSES)
        with fasthooks.patch():
            pass
        assert set(fasthooks.patched()) > NAMES
    assert not NAMES & set(fasthooks.patched())
    with fasthooks.patch():
        assert not NAMES & set(fasthooks.patched())


def test_blocks_nest(make):
    with fasthooks.patch(sessions=True):
        outer = make()
        with fasthooks.patch(sessions=True):
            inner = make()
        assert planned(outer) and planned(inner)
    assert not planned(outer) and not planned(inner)


def test_sessions_of_other_kinds_are_left_alone():
    class Mine(v1.Session):
        pass

    with tf.Graph().as_default(), fasthooks.patch(sessions=True):
        tf.constant(1.0, name="one"), tf.constant(2.0, name="two")
        with Mine() as session:
            assert type(session) is Mine and not planned(session)


def test_a_constructor_that_fails():
    def error():
        with pytest.raises(TypeError) as raised:
            v1.Session(config="no proto")
        return describe(raised.value)

    with mock.patch("sys.unraisablehook"):  # TensorFlow's `__del__` misses what the constructor did not come to
        with fasthooks.patch(sessions=True):
            ours = error()
        assert ours == error()
        gc.collect()


def test_constructors_of_somebody_elses():
    def init(self, *args, **kwargs):
        made.append(self)
        STOCK[session_lib.Session](self, *args, **kwargs)

    made = []
    with mock.patch.object(session_lib.Session, "__init__", init), captured_logs() as logs:
        with fasthooks.patch(sessions=True), tf.Graph().as_default(), v1.Session() as session:
            assert made == [session] and type(session) is session_lib.Session
        assert session_lib.Session.__init__ is init
    assert [line for _, level, line in logs if level == "WARNING" and "Session.__init__; it stays" in line]


def test_monitored_sessions_over_them():
    """The raw session of a monitored session is a plain one: both behave as they would alone."""
    with tf.Graph().as_default(), fasthooks.patch(sessions=True):
        op = v1.assign_add(v1.train.create_global_step(), 1)
        with v1.train.MonitoredSession(hooks=[v1.train.StopAtStepHook(last_step=7)]) as session:
            steps = []
            while not session.should_stop():
                steps.append(int(session.run(op)))
            assert fasthooks.report(session)["planned_steps"] == 7 and steps == [1, 2, 3, 4, 5, 6, 7]


def test_a_session_that_runs_while_it_is_made_tensorflows(make):
    fasthooks.patch(sessions=True)
    session = make()
    errors, stop = [], threading.Event()

    def run():
        while not stop.is_set():
            try:
                session.run(["one:0", "two:0"])
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        session.run("one:0")
        fasthooks.unpatch()
        session.run("one:0")
        fasthooks.patch(sessions=True)
        fasthooks.accelerate(session)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors


def test_sessions_that_are_dropped_die(make):
    with fasthooks.patch(sessions=True), tf.Graph().as_default():
        tf.constant(1.0, name="one"), tf.constant(2.0, name="two")
        session = v1.Session()
        assert planned(session)
        gone = weakref.ref(session)
        del session
        gc.collect()
        assert gone() is None
