"""Adoption: a session of TensorFlow's own whose hooks list holds one of our hooks runs compiled steps, and no other does."""

import contextlib
import gc
import os
import weakref
from unittest import mock

import apart
import pytest
import tensorflow as tf
from helpers import captured_logs
from tensorflow.python.training import basic_session_run_hooks, monitored_session

import fasthooks
from fasthooks import known_tensorflow, patching
from fasthooks.step import _plan

v1 = tf.compat.v1
HookedSession = monitored_session._HookedSession
NAME = "tensorflow.python.training.monitored_session._HookedSession.run"


@pytest.fixture(autouse=True)
def _begin_anew():
    """As in a process that has not used a hook of ours yet."""
    fasthooks.adopt(False)
    with mock.patch.object(patching, "_has_hooks", False):
        fasthooks.adopt()
        yield
        fasthooks.unpatch()
        fasthooks.adopt(False)
    known_tensorflow._messages.clear()
    fasthooks.adopt()


def training(hooks, directory):
    return v1.train.MonitoredTrainingSession(
        hooks=hooks, checkpoint_dir=directory, save_checkpoint_steps=3, log_step_count_steps=2)


def by_hand(hooks, directory):
    for hook in hooks:
        hook.begin()
    raw = v1.train.ChiefSessionCreator().create_session()
    return HookedSession(raw, hooks)


SESSIONS = {
    "monitored": lambda hooks, directory: v1.train.MonitoredSession(hooks=hooks),
    "singular": lambda hooks, directory: v1.train.SingularMonitoredSession(hooks=hooks),
    "training": training,
    "by_hand": by_hand,
}


def planned(session, op, n=4):
    """Runs steps and returns for each whether it took a plan."""
    taken = []
    for _ in range(n):
        before = _plan.totals()["planned_steps"]
        session.run(op)
        taken.append(_plan.totals()["planned_steps"] > before)
    return taken


@pytest.fixture
def op():
    with tf.Graph().as_default():
        yield v1.assign_add(v1.train.create_global_step(), 1).op


def ours():
    return fasthooks.StopAtStepHook(last_step=1000)


def stock():
    return v1.train.StopAtStepHook(last_step=1000)


@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.parametrize("hook", [ours, lambda: fasthooks.FeedFnHook(dict)])
def test_a_hook_of_ours_brings_compiled_steps(op, kind, hook, tmp_path):
    hooks = [stock(), hook(), v1.train.StepCounterHook(2, output_dir=str(tmp_path))]
    session = SESSIONS[kind](hooks, str(tmp_path))
    assert planned(session, op) == [True] * 4
    # The stock hooks beside it have triggers: none of their methods is called on a quiet step.
    with mock.patch.object(v1.train.StopAtStepHook, "after_run", side_effect=AssertionError) as called:
        with pytest.raises(AssertionError):  # but one that is replaced is
            session.run(op)
    called.assert_called_once()
    session.close()


@pytest.mark.parametrize("kind", SESSIONS)
def test_other_sessions_run_as_they_would(op, kind, tmp_path):
    class User(v1.train.SessionRunHook):
        pass

    SESSIONS["monitored"]([ours()], None).close()
    assert NAME in fasthooks.patched()
    before = _plan.totals()
    with captured_logs() as logs:
        session = SESSIONS[kind]([stock(), User()], str(tmp_path))
        with mock.patch.object(HookedSession, "_call_hook_before_run", autospec=True,
                               side_effect=HookedSession._call_hook_before_run) as stock_way:
            assert planned(session, op) == [False] * 4
        session.close()
    assert stock_way.call_count == 4 and _plan.totals() == before
    assert not [line for line in logs if str(line[2]).startswith("fasthooks")]


def test_a_hook_that_joins_and_leaves_the_live_list(op):
    hooks = [stock()]
    hook = ours()
    hook._global_step_tensor = v1.train.get_global_step()
    with v1.train.MonitoredSession(hooks=hooks) as session:
        live = session._sess._sess._sess._hooks
        assert not fasthooks.patched() and planned(session, op) == [False] * 4
        live.append(hook)
        assert planned(session, op) == [False, True, True, True]
        live.remove(hook)
        assert planned(session, op) == [False] * 4
        live.insert(0, hook)
        assert planned(session, op) == [True] * 4


def test_what_is_replaced_and_why(op):
    assert fasthooks.patched() == {}
    with v1.train.MonitoredSession(hooks=[ours()]):
        assert {told.reason for told in fasthooks.patched().values()} == {"a hook of fasthooks is in use"}
        with fasthooks.patch():
            reasons = {name: told.reason for name, told in fasthooks.patched().items()}
            assert reasons[NAME] == "fasthooks.patch(), a hook of fasthooks is in use"
            # Only sessions are adopted: the stock hooks' methods are TensorFlow's where nobody patched.
            assert {name for name, reason in reasons.items() if reason == "fasthooks.patch()"} == {
                name for name in reasons if "Hook." in name}
        assert fasthooks.patched()[NAME].original is HookedSession.run.__wrapped__


def test_turned_off_before(op):
    fasthooks.adopt(False)
    with v1.train.MonitoredSession(hooks=[ours()]) as session:
        assert planned(session, op) == [False] * 4 and fasthooks.patched() == {}
        fasthooks.adopt()  # the hook is met on the next run
        assert planned(session, op) == [False, True, True, True]


def test_turned_off_after(op):
    with v1.train.MonitoredSession(hooks=[ours()]) as session:
        assert planned(session, op, 1) == [True]
        fasthooks.adopt(False)
        assert fasthooks.patched() == {} and planned(session, op) == [False] * 4
        with fasthooks.patch():
            assert planned(session, op) == [True] * 4
        fasthooks.adopt()
        assert planned(session, op) == [True] * 4


def test_unpatch_leaves_adoption(op):
    with v1.train.MonitoredSession(hooks=[ours()]) as session:
        fasthooks.patch()
        fasthooks.unpatch()
        assert planned(session, op) == [True] * 4
    with v1.train.MonitoredSession(hooks=[stock()]) as session:
        assert planned(session, op) == [False] * 4


def test_turned_off_by_the_environment():
    program = """if True:
        import tensorflow as tf, fasthooks
        v1 = tf.compat.v1
        v1.disable_v2_behavior()
        op = v1.assign_add(v1.train.create_global_step(), 1)
        with v1.train.MonitoredSession(hooks=[fasthooks.StopAtStepHook(last_step=3)]) as session:
            while not session.should_stop():
                print(session.run(op), end=" ")
        print(fasthooks.patched())
    """
    done = apart.run(program, env={**os.environ, "FASTHOOKS_ADOPT": "0"}, timeout=120)
    assert done.stdout == "1 2 3 {}\n", done.stderr


def test_subclasses_and_replaced_methods_are_left_alone(op):
    class Mine(HookedSession):
        pass

    hook = ours()
    hook.begin()
    raw = v1.train.ChiefSessionCreator().create_session()
    assert planned(Mine(raw, [hook]), op) == [False] * 4
    session = HookedSession(raw, [hook])
    assert planned(session, op) == [True] * 4
    session._call_hook_before_run = lambda *args: HookedSession._call_hook_before_run(session, *args)
    assert planned(session, op) == [False] * 4


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_function_of_somebody_elses(op, when):
    """Put there before, it is left in place without a word; put over ours later, it has ours beneath it."""
    def run(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    calls = []
    if when == "after":
        ours().begin()
    original = HookedSession.run
    with captured_logs() as logs, mock.patch.object(HookedSession, "run", run):
        with v1.train.MonitoredSession(hooks=[ours()]) as session:
            assert planned(session, op) == [when == "after"] * 4
            assert HookedSession.run is run and len(calls) == 4
    assert not [line for line in logs if str(line[2]).startswith("fasthooks")]


@pytest.mark.parametrize("how", ["patched", "adopted"])
@pytest.mark.parametrize("declined", ["None fetched", "listed twice", "raw session wrapped"])
def test_a_declined_step_beneath_somebody_elses_function(op, how, declined):
    class User(v1.train.SessionRunHook):
        def before_run(self, run_context):
            asked.append(run_context.original_args.fetches)

    def run(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    calls, asked = [], []
    hooks = [User()] if how == "patched" else [ours(), User()]
    with contextlib.ExitStack() as stack:
        if how == "patched":
            stack.enter_context(fasthooks.patch())
        else:
            ours().begin()
        original = HookedSession.run
        stack.enter_context(mock.patch.object(HookedSession, "run", run))
        if declined == "listed twice":
            hooks.append(hooks[-1])
        if declined == "raw session wrapped":
            raw_run = v1.Session.run
            stack.enter_context(
                mock.patch.object(v1.Session, "run", lambda self, *args, **kwargs: raw_run(self, *args, **kwargs)))
        with v1.train.MonitoredSession(hooks=hooks) as session:
            if declined == "None fetched":
                with pytest.raises(TypeError, match="has invalid type"):
                    session.run(None)
            else:
                assert planned(session, op, 1) == [False]
    assert len(calls) == 1 and len(asked) == len([hook for hook in hooks if isinstance(hook, User)])


class ErringHook(v1.train.SessionRunHook):
    def __getattr__(self, name):
        raise KeyError(name)


class ErringSaver(v1.train.CheckpointSaverHook):
    @property
    def _checkpoint_dir(self):
        raise RuntimeError("not yet")

    @_checkpoint_dir.setter
    def _checkpoint_dir(self, value):
        pass

    def begin(self):
        pass

    before_run = after_run = after_create_session = end = lambda self, *args: None


@pytest.mark.parametrize("make", [
    lambda directory: ErringHook(), lambda directory: ErringSaver(directory, save_steps=1000)], ids=["hook", "saver"])
@pytest.mark.parametrize("sessions", [v1.train, fasthooks], ids=["adopted", "our_session"])
def test_a_hook_with_attributes_that_raise(op, make, sessions, tmp_path):
    with sessions.MonitoredSession(hooks=[ours(), make(str(tmp_path))]) as session:
        assert planned(session, op) == [True] * 4


def test_two_savers_are_told_of_once(op, tmp_path):
    class Aborts(v1.train.SessionRunHook):
        def before_run(self, run_context):
            if aborts:
                raise aborts.pop()

    aborts = []
    hooks = [ours(), Aborts(), *(v1.train.CheckpointSaverHook(str(tmp_path), save_steps=1000) for _ in range(2))]
    with captured_logs() as logs, v1.train.MonitoredSession(hooks=hooks) as session:
        for _ in range(3):
            session.run(op)
            aborts.append(tf.errors.AbortedError(None, None, "once"))
            session.run(op)
            assert not aborts
    assert len([line for line in logs if "all save checkpoints into" in str(line[2])]) == 1


def test_plans_go_with_the_session(op):
    hook = ours()
    session = v1.train.MonitoredSession(hooks=[hook])
    held = session._sess._sess._sess
    raw = weakref.ref(session._tf_sess())
    assert planned(session, op) == [True] * 4
    session.close()
    del session
    gc.collect()
    assert raw() is None and held._hooks == [hook]


def test_the_estimators_own_hook_classes_are_ours():
    assert issubclass(fasthooks.CheckpointSaverHook, basic_session_run_hooks.CheckpointSaverHook)
    assert all(issubclass(getattr(fasthooks, name), patching.OurHook) for name in (
        "AsyncCheckpointSaverHook", "CheckpointSaverHook", "Every", "FeedFnHook", "FunctionHook", "GlobalStepWaiterHook",
        "LambdaHook", "LoggingTensorHook", "NanTensorHook", "ProfilerHook", "SaveOnSignalHook", "StepCounterHook",
        "StopAtStepHook", "SummarySaverHook", "WandbHook"))


def test_a_method_that_was_put_back_does_not_end_it(op):
    """A program saves a method, a session is adopted, and the program puts the method back that it saved."""
    saved = HookedSession.run
    SESSIONS["monitored"]([ours()], None).close()
    HookedSession.run = saved
    with SESSIONS["monitored"]([ours()], None) as session:
        assert planned(session, op) == [True] * 4
