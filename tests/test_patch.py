"""`patch`, `unpatch`, `patched`: what is replaced, for whom, and how it is undone."""

import copy
import functools
import inspect
import logging
import threading
import warnings
from unittest import mock

import pytest
import tensorflow as tf
from helpers import captured_logs
from tensorflow.python.training import basic_session_run_hooks as stock
from tensorflow.python.training import monitored_session

import fasthooks
from fasthooks import known_tensorflow, patching
from fasthooks.step import _plan

v1 = tf.compat.v1
HookedSession = monitored_session._HookedSession
NAME = "tensorflow.python.training.monitored_session._HookedSession.run"
CLOSE_NAME = "tensorflow.python.training.monitored_session._WrappedSession.close"
ASKING_NAME = "tensorflow.python.training.monitored_session._MonitoredSession.should_stop"
WrappedSession = monitored_session._WrappedSession
STOCK_RUN = vars(HookedSession)["run"]
STOCK_CLOSE = vars(WrappedSession)["close"]
MonitoredSession = monitored_session._MonitoredSession
MONITORED_NAME = "tensorflow.python.training.monitored_session._MonitoredSession.run"
STOCK_ASKING = vars(MonitoredSession)["should_stop"]
STOCK_MONITORED = vars(MonitoredSession)["run"]


@pytest.fixture(autouse=True)
def _put_back():
    """Each test begins and ends with TensorFlow's own function in its place."""
    fasthooks.adopt(False)
    assert not fasthooks.patched() and HookedSession.run is STOCK_RUN and WrappedSession.close is STOCK_CLOSE
    yield
    fasthooks.unpatch()
    HookedSession.run, WrappedSession.close = STOCK_RUN, STOCK_CLOSE
    MonitoredSession.run, MonitoredSession.should_stop = STOCK_MONITORED, STOCK_ASKING
    for replacement in (*patching._STEP, *patching._WRITES, *patching._CONSTRUCTORS, *patching._OPENING):
        replacement.installed = False
    # A version that a test made up was judged for that test alone.
    known_tensorflow._messages.clear()
    fasthooks.adopt()


@pytest.fixture
def session():
    """A monitored session of TensorFlow's own, and what to run in it."""
    with tf.Graph().as_default():
        op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
        with v1.train.MonitoredSession(hooks=[v1.train.StopAtStepHook(last_step=10_000)]) as session:
            yield session, op


def planned_of(session, op, n=5):
    """Runs steps; returns how many of them took a plan, and checks what each returned."""
    before, first = _plan.totals()["planned_steps"], session.run(op)
    assert [session.run(op) for _ in range(n - 1)] == list(range(first + 1, first + n))
    return _plan.totals()["planned_steps"] - before


# Patching and undoing it


def test_what_is_replaced_is_told_and_restored():
    classes = {value for module in (monitored_session, stock) for value in vars(module).values() if isinstance(value, type)}
    before = [dict(vars(cls)) for cls in classes]
    fasthooks.patch()
    changed = {
        f"{cls.__module__}.{cls.__qualname__}.{name}": old[name]
        for cls, old in zip(classes, before) for name, value in vars(cls).items() if old.get(name) is not value
    }
    hooks = f"{stock.StepCounterHook.__module__}."
    assert {name for name in changed if name.startswith(hooks)} == {hooks + name for name in (
        "StepCounterHook.begin", "StepCounterHook._log_and_record", "SummarySaverHook.begin", "LoggingTensorHook._log_tensors")}
    assert {name: original for name, original in changed.items() if not name.startswith(hooks)} == {
        NAME: STOCK_RUN, CLOSE_NAME: STOCK_CLOSE, MONITORED_NAME: STOCK_MONITORED, ASKING_NAME: STOCK_ASKING}
    assert fasthooks.patched() == {name: (original, "fasthooks.patch()") for name, original in changed.items()}
    fasthooks.unpatch()
    assert [dict(vars(cls)) for cls in classes] == before and fasthooks.patched() == {}


def test_the_replacement_looks_like_the_original():


    fasthooks.patch()
    assert HookedSession.run.__name__ == "run" and HookedSession.run.__module__ == monitored_session.__name__
    assert inspect.signature(HookedSession.run) == inspect.signature(STOCK_RUN)
    with mock.patch.object(HookedSession, "run", autospec=True) as run:
        HookedSession(None, []).run("fetches", options=None)
    run.assert_called_once()


def test_patching_twice_is_patching_once(session):
    fasthooks.patch()
    replacement = HookedSession.run
    fasthooks.patch()
    assert HookedSession.run is replacement
    assert planned_of(*session) == 5
    fasthooks.unpatch()
    assert HookedSession.run is STOCK_RUN
    fasthooks.unpatch()
    assert HookedSession.run is STOCK_RUN
    assert planned_of(*session) == 0


def test_a_session_that_exists_already_takes_part(session):
    assert planned_of(*session) == 0
    with fasthooks.patch():
        assert planned_of(*session) == 5
    assert planned_of(*session) == 0
    with fasthooks.patch():
        assert planned_of(*session) == 5


def test_a_method_bound_before_takes_part(session):
    monitored, op = session
    run = monitored.run
    with fasthooks.patch():
        before = _plan.totals()["planned_steps"]
        run(op)
        assert _plan.totals()["planned_steps"] == before + 1


def test_blocks_nest_and_the_outermost_undoes_it():
    with fasthooks.patch():
        with fasthooks.patch():
            pass
        assert fasthooks.patched()
    fasthooks.adopt(False)
    assert not fasthooks.patched() and HookedSession.run is STOCK_RUN


def test_a_block_leaves_a_standing_patch_alone():
    fasthooks.patch()
    with fasthooks.patch():
        pass
    assert fasthooks.patched()


def test_a_block_undoes_the_patch_on_an_error():
    with pytest.raises(KeyError), fasthooks.patch():
        raise KeyError
    assert not fasthooks.patched()


def test_unpatch_within_a_block():
    with fasthooks.patch():
        fasthooks.unpatch()
        assert HookedSession.run is STOCK_RUN
    assert HookedSession.run is STOCK_RUN


def test_a_kept_patch_may_be_entered_again():
    patch = fasthooks.patch()
    fasthooks.unpatch()
    for _ in range(2):
        with patch:
            assert fasthooks.patched()
        assert not fasthooks.patched()


def test_a_patch_object_claims_one_call_only():
    fasthooks.patch()
    patch = fasthooks.patch()
    for _ in range(2):
        with patch:
            pass
        assert fasthooks.patched()


def test_a_block_from_before_unpatch_ends_nothing_later():
    first, second = fasthooks.patch(), fasthooks.patch()
    first.__enter__()
    fasthooks.unpatch()
    second.__enter__()
    first.__exit__(None, None, None)
    assert fasthooks.patched()
    second.__exit__(None, None, None)
    assert not fasthooks.patched()


def test_threads_patch_and_unpatch_while_others_step():
    stop = threading.Event()
    failures = []

    def toggle():
        while not stop.is_set():
            with fasthooks.patch():
                pass
            fasthooks.patch()
            fasthooks.unpatch()

    def step():
        try:
            with tf.Graph().as_default():
                op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
                with v1.train.MonitoredSession(hooks=[v1.train.StopAtStepHook(last_step=300)]) as session:
                    seen = []
                    while not session.should_stop():
                        seen.append(int(session.run(op)))
            assert seen == list(range(1, 301))
        except BaseException as error:
            failures.append(error)

    togglers = [threading.Thread(target=toggle) for _ in range(2)]
    steppers = [threading.Thread(target=step) for _ in range(3)]
    for thread in togglers + steppers:
        thread.start()
    for thread in steppers:
        thread.join(120)
    stop.set()
    for thread in togglers:
        thread.join(120)
    assert not failures
    fasthooks.unpatch()
    assert HookedSession.run is STOCK_RUN


# Other packages in the same place


def wrapper_of(function, calls):
    @functools.wraps(function)
    def run(self, *args, **kwargs):
        calls.append(1)
        return function(self, *args, **kwargs)

    return run


def test_what_others_put_there_before_stays_and_is_called(session):
    calls = []
    HookedSession.run = theirs = wrapper_of(STOCK_RUN, calls)
    with captured_logs() as logs:
        fasthooks.patch()
    assert HookedSession.run is theirs and NAME not in fasthooks.patched()
    assert [message for _, level, message in logs if level == "WARNING" and NAME in message]
    assert planned_of(*session) == 0 and len(calls) == 5
    fasthooks.unpatch()
    assert HookedSession.run is theirs


def test_another_function_of_tensorflows_own_file_is_not_the_original(session):
    HookedSession.run = vars(WrappedSession)["run"]  # a way to leave the hooks out
    fasthooks.patch()
    assert HookedSession.run is vars(WrappedSession)["run"]
    assert planned_of(*session) == 0


def test_what_others_put_over_ours_stays_and_ours_passes_on(session):
    calls = []
    fasthooks.patch()
    ours = HookedSession.run
    HookedSession.run = theirs = wrapper_of(ours, calls)
    assert planned_of(*session) == 5 and len(calls) == 5
    fasthooks.unpatch()
    assert HookedSession.run is theirs and fasthooks.patched() == {}
    assert planned_of(*session) == 0 and len(calls) == 10
    fasthooks.patch()  # ours is still beneath
    assert HookedSession.run is theirs and fasthooks.patched()[NAME].original is STOCK_RUN
    assert planned_of(*session) == 5 and len(calls) == 15
    HookedSession.run = ours  # they undo theirs
    fasthooks.unpatch()
    assert HookedSession.run is STOCK_RUN


def test_ours_comes_back_after_others_restored_tensorflows(session):
    fasthooks.patch()
    HookedSession.run = STOCK_RUN
    fasthooks.patch()
    assert planned_of(*session) == 5
    fasthooks.unpatch()
    assert HookedSession.run is STOCK_RUN


def test_our_sessions_keep_their_short_way_while_tensorflow_is_patched():
    with tf.Graph().as_default(), fasthooks.patch():
        op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
        unused = v1.placeholder(tf.float32, [])
        with fasthooks.MonitoredSession(hooks=[fasthooks.StopAtStepHook(last_step=100)]) as session:
            assert planned_of(session, op) == 5
            # What a plan cannot do goes through TensorFlow's function once, not through ours again and again.
            assert session.run(op, {(unused,): (1.0,)}) == 6
            assert session.run(op, hooks=False) == 7
            assert session.report()["declined"]


def test_a_wrapper_over_ours_is_called_by_our_sessions_too():
    calls = []
    fasthooks.patch()
    HookedSession.run = wrapper_of(HookedSession.run, calls)
    with tf.Graph().as_default():
        op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
        with fasthooks.MonitoredSession() as session:
            assert [session.run(op) for _ in range(3)] == [1, 2, 3]
    assert len(calls) == 3


# Hooked sessions that are not quite TensorFlow's


@pytest.mark.parametrize("name", ["should_stop", "_call_hook_before_run", "_check_stop"])
def test_a_method_set_on_the_object_is_called(session, name):
    hooked = session[0]._sess._sess._sess
    with fasthooks.patch():
        assert planned_of(*session) == 5
        with mock.patch.object(hooked, name, wraps=getattr(hooked, name)) as method:
            assert planned_of(*session) == 0
        assert method.call_count >= 5
        assert planned_of(*session) == 5


@pytest.mark.parametrize("name", ["should_stop", "_call_hook_before_run"])
def test_a_method_replaced_on_the_class_is_called(session, name):
    original, calls = getattr(HookedSession, name), []
    with fasthooks.patch():
        assert planned_of(*session) == 5
        with mock.patch.object(HookedSession, name, wrapper_of(original, calls)):
            assert planned_of(*session) == 0 and len(calls) >= 5
        assert planned_of(*session) == 5


def test_a_subclass_takes_tensorflows_way():
    class Mine(HookedSession):
        def _call_hook_before_run(self, run_context, fetch_dict, user_feed_dict, options):
            seen.append(fetch_dict["caller"])
            return super()._call_hook_before_run(run_context, fetch_dict, user_feed_dict, options)

    seen = []
    with tf.Graph().as_default(), fasthooks.patch(), v1.Session() as raw:
        one = tf.constant(1)
        assert Mine(raw, []).run(one) == 1
        assert seen == [one]


def test_another_raw_session_or_hooks_list_is_taken_at_once(session):
    monitored, op = session
    hooked = monitored._sess._sess._sess
    events = []

    class Hook(v1.train.SessionRunHook):
        def after_run(self, run_context, run_values):
            events.append(run_context.original_args.fetches)

    with fasthooks.patch():
        assert planned_of(*session) == 5
        hooked._hooks = [*hooked._hooks, Hook()]
        assert planned_of(*session, n=2) == 2 and events == [op, op]
        raw = hooked._sess
        hooked._sess = v1.Session(graph=raw.graph)
        try:
            with pytest.raises((tf.errors.FailedPreconditionError, tf.errors.NotFoundError)):
                monitored.run(op)
        finally:
            hooked._sess.close()
            hooked._sess = raw


def test_a_used_hooked_session_may_be_copied():
    class Raw:
        graph = sess_str = None

        def run(self, fetches, **kwargs):
            return {"caller": "result"}

    with fasthooks.patch():
        hooked = HookedSession(Raw(), [])
        hooked.run(None)
        for copied in (copy.copy(hooked), copy.deepcopy(hooked)):
            assert copied.run(None) == "result"
        hooked._fasthooks_steps = 3
        assert hooked.run(None) == "result"


def test_run_after_a_stop_raises_tensorflows_error():
    with tf.Graph().as_default(), fasthooks.patch():
        op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
        session = v1.train.MonitoredSession(hooks=[v1.train.StopAtStepHook(last_step=2)])
        session.run(op)
        session.run(op)
        assert session.should_stop()
        with pytest.raises(RuntimeError, match="Run called even after should_stop requested"):
            session.run(op)
        session.close()


# Versions


def test_no_warning_under_a_tested_version():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fasthooks.patch()
    assert fasthooks.patched()


def test_an_unknown_version_is_named_and_what_has_not_changed_is_replaced(session):
    with mock.patch.object(tf, "__version__", "2.97.1"):
        with pytest.warns(RuntimeWarning, match=r"TensorFlow 2\.97\.1") as warned:
            fasthooks.patch()
        assert warned[0].filename == __file__
        assert planned_of(*session) == 5
        fasthooks.unpatch()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fasthooks.patch()  # said once


def test_the_log_of_a_patched_session_is_tensorflows(session):
    with captured_logs() as logs, fasthooks.patch():
        planned_of(*session)
    assert not [entry for entry in logs if entry[1] != logging.getLevelName(logging.DEBUG)]
