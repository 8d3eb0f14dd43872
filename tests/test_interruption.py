"""SaveOnSignalHook: real signals, to this process where it survives them and to processes of their own where not."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from unittest import mock

import apart
import numpy as np
import pytest
import tensorflow as tf
from helpers import STOCK, build_model

import fasthooks
from fasthooks.hooks import interruption

v1 = tf.compat.v1
SESSIONS = {"tf_session": STOCK, "our_session": fasthooks}
SAVERS = {"tf_saver": STOCK.CheckpointSaverHook, "our_saver": fasthooks.CheckpointSaverHook}
BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(params=SESSIONS)
def lib(request):
    return SESSIONS[request.param]


@pytest.fixture(autouse=True)
def handlers():
    """Python's default handlers, whatever the test's process was started with; nothing may be left behind."""
    before = {number: signal.getsignal(number) for number in BOTH}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threads = set(threading.enumerate())
    with tf.Graph().as_default():
        yield
    left = {number: signal.getsignal(number) for number in BOTH}
    for number in BOTH:
        signal.signal(number, before[number])
    assert left == {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    assert interruption._watches == [] and interruption._waker is None
    assert [thread for thread in set(threading.enumerate()) - threads if thread.name == "SaveOnSignalHook"] == []


@pytest.fixture
def term_handler():
    """A SIGTERM handler of the program's own; calls are noted in the list it gives."""
    calls = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    yield calls
    signal.signal(signal.SIGTERM, handler)


class Calls(v1.train.SessionRunHook):
    """Calls functions, by the name of the method and how often it was called."""

    def __init__(self, **calls):
        self.calls = calls
        self.counts = dict.fromkeys(("after_run", "before_run", "after_create_session"), 0)
        self.ended = False

    def count(self, name):
        self.counts[name] += 1
        function = self.calls.get(f"{name}_{self.counts[name]}")
        if function is not None:
            function()

    def before_run(self, run_context):
        self.count("before_run")

    def after_run(self, run_context, run_values):
        self.count("after_run")

    def after_create_session(self, session, coord):
        self.count("after_create_session")

    def end(self, session):
        self.ended = True


class Listener(v1.train.CheckpointSaverListener):
    """Notes the steps that were saved."""

    def __init__(self):
        self.saved = []

    def after_save(self, session, global_step_value):
        self.saved.append(int(global_step_value))


def send(number=signal.SIGTERM):
    return lambda: signal.raise_signal(number)


def train_until_stop(session, op, steps=20, at=None):
    """Runs at most `steps` times; calls `at[i]()` before run i. Returns the number of runs."""
    for i in range(steps):
        if session.should_stop():
            return i
        if i in (at or {}):
            at[i]()
        session.run(op)
    return steps


def saved_value(directory):
    """(step, value of w) of the latest checkpoint; w grows by one with each run."""
    path = tf.train.latest_checkpoint(str(directory))
    assert os.path.dirname(path) == str(directory) and os.path.basename(path).startswith("model.ckpt-")
    reader = tf.train.load_checkpoint(path)
    return int(reader.get_tensor("global_step")), float(reader.get_tensor("w"))


# One signal


@pytest.mark.parametrize("number", BOTH, ids=lambda number: number.name)
def test_the_step_in_flight_ends_and_is_saved(lib, tmp_path, number):
    op, loss = build_model()
    with tf.control_dependencies([op]):
        at_third = tf.numpy_function(lambda w: send(number)() if w == 2 else None, [loss], [])
    hook, other = fasthooks.SaveOnSignalHook(str(tmp_path)), Calls()
    with lib.MonitoredSession(hooks=[hook, other]) as session:
        assert train_until_stop(session, [op, at_third]) == 3
        assert session.should_stop() and not other.ended
        assert saved_value(tmp_path) == (3, 3.0)
        with pytest.raises(RuntimeError, match="Run called even after should_stop requested"):
            session.run(op)
    assert other.ended
    assert hook.received == number and isinstance(hook.received, int)


def test_between_two_steps_the_next_one_is_the_last(lib, tmp_path):
    op, _ = build_model()
    hook = fasthooks.SaveOnSignalHook(signals=[signal.SIGTERM], checkpoint_saver_or_dir=tmp_path)
    with lib.MonitoredSession(hooks=[hook]) as session:
        assert train_until_stop(session, op, at={4: send()}) == 5
    assert saved_value(tmp_path) == (5, 5.0)


@pytest.mark.parametrize("first", [True, False], ids=["before_the_hook", "after_the_hook"])
def test_while_another_hook_is_called(lib, tmp_path, first):
    op, _ = build_model()
    hooks = [Calls(after_run_3=send()), fasthooks.SaveOnSignalHook(str(tmp_path))]
    with lib.MonitoredSession(hooks=hooks if first else hooks[::-1]) as session:
        assert train_until_stop(session, op) == (3 if first else 4)
    assert saved_value(tmp_path) == ((3, 3.0) if first else (4, 4.0))


@pytest.mark.parametrize("saver_first", [True, False], ids=["saver_first", "saver_last"])
@pytest.mark.parametrize("saver", SAVERS)
def test_a_saver_hook_saves_its_way_and_each_step_once(lib, tmp_path, saver, saver_first):
    op, _ = build_model()
    listener = Listener()
    saver_hook = SAVERS[saver](str(tmp_path), save_steps=3, listeners=[listener], checkpoint_basename="mine",
                               saver=v1.train.Saver(max_to_keep=2))
    hooks = [saver_hook, fasthooks.SaveOnSignalHook(saver_hook)]
    with lib.MonitoredSession(hooks=hooks if saver_first else hooks[::-1]) as session:
        assert train_until_stop(session, op, at={5: send()}) == 6
        assert listener.saved[-1] == 6
    assert listener.saved == sorted(set(listener.saved))
    state = tf.train.get_checkpoint_state(str(tmp_path))
    assert [os.path.basename(path) for path in state.all_model_checkpoint_paths] == [
        f"mine-{step}" for step in listener.saved[-2:]]


def test_a_step_that_the_saver_hook_has_saved_is_not_saved_again(lib, tmp_path):
    op, _ = build_model()
    listener = Listener()
    saver_hook = fasthooks.CheckpointSaverHook(str(tmp_path), save_steps=1, listeners=[listener])
    with lib.MonitoredSession(hooks=[saver_hook, fasthooks.SaveOnSignalHook(saver_hook)]) as session:
        assert train_until_stop(session, op, at={2: send()}) == 3
    assert listener.saved == [0, 1, 2, 3]


def test_after_the_last_step_it_is_saved_at_the_end(lib, tmp_path):
    op, _ = build_model()
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
        train_until_stop(session, op, steps=3)
        signal.raise_signal(signal.SIGTERM)
    assert saved_value(tmp_path) == (3, 3.0)


def test_input_that_ends_on_the_signals_step(lib, tmp_path):
    op, _ = build_model()
    batch = v1.data.make_one_shot_iterator(v1.data.Dataset.range(3)).get_next()
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
        train_until_stop(session, [batch, op], at={3: send()})
    assert saved_value(tmp_path)[0] >= 3


def test_without_a_signal_nothing_is_saved_and_no_python_runs_on_a_step(tmp_path):
    op, _ = build_model()
    hook = fasthooks.SaveOnSignalHook(str(tmp_path))
    with mock.patch.object(interruption._Saving, "_save_step") as save:
        with fasthooks.MonitoredSession(hooks=[hook], scheduling="pool") as session:
            session.run(op)
            python = []
            sys.setprofile(lambda frame, event, arg: python.append(frame.f_code.co_name) if event == "call" else None)
            try:
                session.run(op)
            finally:
                sys.setprofile(None)
            assert session.report()["planned_steps"] == session.report()["steps"] == 2
    assert not {"before_run", "after_run"} & set(python)
    assert save.mock_calls == [] and os.listdir(tmp_path) == [] and hook.received is None


def test_a_failed_save_reaches_the_caller(lib, tmp_path):
    op, _ = build_model()
    (tmp_path / "file").write_text("")
    with pytest.raises((tf.errors.OpError, ValueError, OSError), match="file"):
        with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path / "file"))]) as session:
            train_until_stop(session, op, at={2: send()})


def test_the_next_session_starts_afresh(lib, tmp_path):
    op, _ = build_model()
    hook = fasthooks.SaveOnSignalHook(str(tmp_path))
    for _ in range(2):
        with lib.MonitoredSession(hooks=[hook]) as session:
            assert train_until_stop(session, op, at={3: send()}) == 4
        assert hook.received == signal.SIGTERM
    with lib.MonitoredSession(hooks=[hook]) as session:
        assert train_until_stop(session, op) == 20
    assert hook.received is None


# The second signal


def test_a_second_sigint_raises(lib, tmp_path):
    op, _ = build_model()
    other = Calls()

    def program():
        with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path)), other]) as session:
            session.run(op)
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        program()
    assert not other.ended and os.listdir(tmp_path) == []


def test_a_second_signal_may_be_the_other_one(lib, tmp_path):
    op, _ = build_model()

    def program():
        with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
            session.run(op)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        program()


class Unready(v1.train.SessionRunHook):
    def after_create_session(self, session, coord):
        raise ValueError("not yet")


def test_a_signal_after_a_session_that_did_not_open(lib, tmp_path, term_handler):
    build_model()
    for attempt in range(1, 3):
        hooks = [fasthooks.SaveOnSignalHook(str(tmp_path)), Unready()]
        with pytest.raises(ValueError, match="not yet") as kept:
            lib.MonitoredSession(hooks=hooks)
        # Its error is still there, and with it all that the session was to be made of.
        signal.raise_signal(signal.SIGTERM)
        assert kept.value and len(term_handler) == attempt and hooks[0].received is None


def test_a_signal_before_the_first_step_does_what_it_did_before(lib, tmp_path, term_handler):
    op, _ = build_model()
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
        signal.raise_signal(signal.SIGTERM)
        assert term_handler == [signal.SIGTERM]
        session.run(op)
        assert not session.should_stop()


def test_a_second_signal_calls_the_programs_handler(lib, tmp_path, term_handler):
    op, _ = build_model()
    previous = signal.getsignal(signal.SIGTERM)
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
        session.run(op)
        signal.raise_signal(signal.SIGTERM)
        assert term_handler == []
        signal.raise_signal(signal.SIGTERM)
        assert term_handler == [signal.SIGTERM]
        session.run(op)
        assert session.should_stop()
    assert signal.getsignal(signal.SIGTERM) is previous
    signal.raise_signal(signal.SIGTERM)
    assert term_handler == [signal.SIGTERM] * 2


def test_a_second_sigint_cancels_a_step_that_waits_for_input(lib, tmp_path):
    op, _ = build_model()
    queue = tf.queue.FIFOQueue(1, [tf.int32], shapes=[[]])
    element = queue.dequeue()
    started = threading.Event()
    with tf.control_dependencies([op]):
        step = tf.group(tf.numpy_function(lambda: started.set(), [], []), element)

    def press():
        assert started.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        # The system may merge a second signal with a first that was not delivered yet.
        while not hook.was_interrupted():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    hook = fasthooks.SaveOnSignalHook(str(tmp_path))
    presser = threading.Thread(target=press)

    def program():
        with lib.MonitoredSession(hooks=[hook]) as session:
            presser.start()
            session.run(step)

    with pytest.raises(KeyboardInterrupt):
        program()
    presser.join()


# Handlers


def test_a_library_that_saves_and_restores_handlers(lib, tmp_path):
    op, _ = build_model()

    def save_and_restore():
        signal.signal(signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))

    def program():
        with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
            save_and_restore()
            assert train_until_stop(session, op, at={2: send(signal.SIGINT)}) == 3
            assert saved_value(tmp_path) == (3, 3.0)
            save_and_restore()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        program()


def test_a_handler_set_during_the_session_stays(lib, tmp_path):
    op, _ = build_model()
    calls = []
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
        session.run(op)
        ours = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    theirs = signal.getsignal(signal.SIGTERM)
    assert isinstance(ours, interruption._Handler) and theirs is not ours
    signal.raise_signal(signal.SIGTERM)
    assert calls == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize("nested", [False, True], ids=["one_after_the_other", "nested"])
def test_a_handler_that_calls_the_previous_one(lib, tmp_path, term_handler, nested):
    op, _ = build_model()
    base = signal.getsignal(signal.SIGTERM)
    order = []
    first = lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path), [signal.SIGTERM])])
    ours = signal.getsignal(signal.SIGTERM)

    def over(number, frame):
        order.append("over")
        ours(number, frame)

    signal.signal(signal.SIGTERM, over)
    if not nested:
        first.close()
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path), [signal.SIGTERM])]) as second:
        assert train_until_stop(second, op, at={2: send()}) == 3
        assert (order, term_handler) == ([], [])
        signal.raise_signal(signal.SIGTERM)
        assert (order, term_handler) == (["over"], [signal.SIGTERM])
    if nested:
        first.close()
    assert signal.getsignal(signal.SIGTERM) is over
    signal.raise_signal(signal.SIGTERM)
    assert (order, term_handler) == (["over"] * 2, [signal.SIGTERM] * 2)
    signal.signal(signal.SIGTERM, base)


def test_a_signal_that_c_code_ignores_stays_ignored(lib, tmp_path):
    op, _ = build_model()
    c_signal = ctypes.CDLL(None).signal
    c_signal.argtypes, c_signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    before = c_signal(signal.SIGTERM, int(signal.SIG_IGN))
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path), [signal.SIGTERM])]) as session:
        assert train_until_stop(session, op, steps=4, at={2: send()}) == 4
    signal.raise_signal(signal.SIGTERM)
    assert c_signal(signal.SIGTERM, before) == int(signal.SIG_IGN)


def test_an_ignored_signal_stays_ignored(lib, tmp_path):
    op, _ = build_model()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
        assert train_until_stop(session, op, steps=5, at={2: send()}) == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_handler_that_is_not_pythons_is_refused(lib, tmp_path):
    build_model()
    with mock.patch.object(signal, "getsignal", return_value=None):
        with pytest.raises(ValueError, match="signals: SIGTERM has a handler that was not installed from Python"):
            lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))])


def test_handlers_are_back_after_an_error_in_a_step(lib, tmp_path):
    op, loss = build_model()
    failing = v1.Assert(tf.equal(loss, -1.0), ["no"])

    def program():
        with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
            session.run(op)
            assert isinstance(signal.getsignal(signal.SIGTERM), interruption._Handler)
            session.run(failing)

    with pytest.raises(tf.errors.InvalidArgumentError):
        program()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert os.listdir(tmp_path) == []


def fail():
    raise ArithmeticError("a hook fails")


def test_handlers_are_back_if_the_session_is_never_made(lib, tmp_path):
    build_model()
    try:
        lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path)), Calls(after_create_session_1=fail)])
    except ArithmeticError:
        pass
    else:
        pytest.fail("no error")
    gc.collect()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_handlers_are_back_after_a_session_that_is_dropped(lib, tmp_path):
    op, _ = build_model()
    session = lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))])
    session.run(op)
    del session
    gc.collect()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_closed_in_another_thread(lib, tmp_path, term_handler):
    op, _ = build_model()
    session = lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))])
    session.run(op)
    closer = threading.Thread(target=session.close)
    closer.start()
    closer.join()
    signal.raise_signal(signal.SIGTERM)
    assert term_handler == [signal.SIGTERM]
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
        assert train_until_stop(session, op, at={2: send()}) == 3
    assert term_handler == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)
    assert term_handler == [signal.SIGTERM] * 2


def test_made_in_another_thread(lib, tmp_path):
    graph = tf.Graph()
    errors = []

    def make():
        with graph.as_default():
            build_model()
            try:
                lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))])
            except ValueError as error:
                errors.append(str(error))

    maker = threading.Thread(target=make)
    maker.start()
    maker.join()
    assert errors == ["SaveOnSignalHook can only be used in the main thread: signals are handled there."]


# Recovery, several hooks, several sessions


def abort():
    raise tf.errors.AbortedError(None, None, "aborted by the test")


def test_a_signal_on_a_step_that_is_recovered(lib, tmp_path):
    op, _ = build_model()

    def signal_and_abort():
        signal.raise_signal(signal.SIGTERM)
        abort()

    other = Calls(before_run_4=signal_and_abort)
    hook = fasthooks.SaveOnSignalHook(str(tmp_path))
    with lib.MonitoredSession(hooks=[hook, other]) as session:
        train_until_stop(session, op)
        assert session.should_stop()
        assert saved_value(tmp_path) == (1, 1.0)  # a fresh session begins at 0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert other.counts["after_create_session"] == 2 and hook.received == signal.SIGTERM


def test_a_signal_during_a_recovery_does_what_it_did_before(lib, tmp_path, term_handler):
    op, _ = build_model()
    recovering = Calls(before_run_3=abort, after_create_session_2=send())
    with lib.MonitoredSession(hooks=[recovering, fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
        assert train_until_stop(session, op, steps=6) == 6
        assert isinstance(signal.getsignal(signal.SIGTERM), interruption._Handler)
    assert term_handler == [signal.SIGTERM]


def test_two_hooks_for_one_signal(lib, tmp_path):
    op, _ = build_model()
    hooks = [fasthooks.SaveOnSignalHook(str(tmp_path / name)) for name in "ab"]
    with lib.MonitoredSession(hooks=hooks) as session:
        assert train_until_stop(session, op, at={2: send()}) == 3
    assert saved_value(tmp_path / "a") == saved_value(tmp_path / "b") == (3, 3.0)


def test_nested_sessions_both_stop(lib, tmp_path):
    op, _ = build_model()
    inner_graph = tf.Graph()
    with inner_graph.as_default():
        inner_op, _ = build_model()
    outer_hook = fasthooks.SaveOnSignalHook(str(tmp_path / "outer"))
    with lib.MonitoredSession(hooks=[outer_hook]) as outer:
        outer.run(op)
        with inner_graph.as_default():
            with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path / "inner"))]) as inner:
                assert train_until_stop(inner, inner_op, at={3: send()}) == 4
        assert train_until_stop(outer, op) == 1
    assert saved_value(tmp_path / "inner") == (4, 4.0) and saved_value(tmp_path / "outer") == (2, 2.0)


def test_sessions_that_end_in_the_order_they_began(lib, tmp_path):
    op, _ = build_model()
    first = lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path), [signal.SIGTERM])])
    second = lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path), [signal.SIGTERM])])
    first.close()
    assert train_until_stop(second, op, at={1: send()}) == 2
    second.close()
    assert saved_value(tmp_path) == (2, 2.0)


def test_signals_that_only_the_other_session_watches(lib, tmp_path):
    op, _ = build_model()
    with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path), [signal.SIGINT])]) as session:
        session.run(op)
        with lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path), [signal.SIGTERM])]) as inner:
            inner.run(op)
            signal.raise_signal(signal.SIGTERM)
        assert train_until_stop(session, op, steps=4) == 4


def test_called_by_hand(tmp_path):
    op, _ = build_model()
    v1.add_to_collection(v1.GraphKeys.SAVERS, v1.train.Saver())
    hook = fasthooks.SaveOnSignalHook(str(tmp_path))
    hook.begin()
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        hook.after_create_session(session, None)
        context = v1.train.SessionRunContext(v1.train.SessionRunArgs(op), session)
        assert hook.before_run(context) is None
        hook.after_run(context, v1.train.SessionRunValues(None, None, None))
        assert not context.stop_requested
        session.run(op)
        signal.raise_signal(signal.SIGTERM)
        hook.after_run(context, v1.train.SessionRunValues(None, None, None))
        assert context.stop_requested
        hook.end(session)
    assert saved_value(tmp_path) == (1, 1.0)


# Arguments


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"checkpoint_saver_or_dir": 3}, TypeError, "checkpoint_saver_or_dir must be a CheckpointSaverHook or a directory"),
    ({"checkpoint_saver_or_dir": None}, TypeError, "checkpoint_saver_or_dir must be .*; got None"),
    ({"checkpoint_saver_or_dir": ""}, ValueError, "checkpoint_saver_or_dir must not be empty"),
    ({"signals": ()}, ValueError, "signals must not be empty"),
    ({"signals": 15}, TypeError, "signals must be an iterable of signal numbers; got 15"),
    ({"signals": "SIGTERM"}, TypeError, "signals must be an iterable of signal numbers; got 'SIGTERM'"),
    ({"signals": [15.0]}, TypeError, "signals must hold signal numbers; got 15.0"),
    ({"signals": [True]}, TypeError, "signals must hold signal numbers; got True"),
    ({"signals": [0]}, ValueError, "signals must hold signals that a process can handle; got 0"),
    ({"signals": [signal.SIGKILL]}, ValueError, "a process can handle; got <Signals.SIGKILL"),
])
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fasthooks.SaveOnSignalHook(**{"checkpoint_saver_or_dir": "dir", **arguments})


def test_numpy_numbers_and_iterators_are_signals(lib, tmp_path):
    op, _ = build_model()
    hook = fasthooks.SaveOnSignalHook(str(tmp_path), iter([int(np.int64(signal.SIGUSR1))]))
    with lib.MonitoredSession(hooks=[hook]) as session:
        assert train_until_stop(session, op, at={1: send(signal.SIGUSR1)}) == 2
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_saver_hook_that_is_not_in_the_session(lib, tmp_path):
    build_model()
    hook = fasthooks.SaveOnSignalHook(fasthooks.CheckpointSaverHook(str(tmp_path), save_steps=1))
    with pytest.raises(RuntimeError, match="must be among the session's hooks too"):
        lib.MonitoredSession(hooks=[hook])
    gc.collect()


@pytest.mark.parametrize("savers", [0, 2])
def test_a_graph_without_one_saver(lib, tmp_path, savers):
    build_model()
    made = [v1.train.Saver() for _ in range(max(savers, 1))]
    for saver in made[:savers]:
        v1.add_to_collection(v1.GraphKeys.SAVERS, saver)
    creator = lib.ChiefSessionCreator(lib.Scaffold(saver=made[0]))
    with pytest.raises(RuntimeError, match=f"it has {savers}; give a CheckpointSaverHook in place of the directory"):
        lib.MonitoredSession(creator, [fasthooks.SaveOnSignalHook(str(tmp_path))])
    gc.collect()


def test_a_graph_without_a_global_step(lib, tmp_path):
    v1.get_variable("w", initializer=0.0)
    with pytest.raises(RuntimeError, match="Global step should be created to use SaveOnSignalHook"):
        lib.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))])


# Processes of their own

PROGRAM = """
    import os, signal, sys, threading, time
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import tensorflow.compat.v1 as tf
    import fasthooks
    lib = {"tf_session": tf.train, "our_session": fasthooks}[sys.argv[1]]
    tf.disable_eager_execution()
    step = tf.train.create_global_step()
    op = step.assign_add(1)
    hook = fasthooks.SaveOnSignalHook(sys.argv[2])
"""
# Trains until it is told to stop.
LOOP = """
    with lib.MonitoredSession(hooks=[hook]) as session:
        session.run(op)
        print("running", flush=True)
        while not session.should_stop():
            session.run(op)
    print("saved", tf.train.latest_checkpoint(sys.argv[2]), flush=True)
    sys.exit(128 + hook.received)
"""
# The second step waits for input that never comes.
STARVED = """
    element = tf.queue.FIFOQueue(1, [tf.int32], shapes=[[]]).dequeue()
    with lib.MonitoredSession(hooks=[hook]) as session:
        session.run(op)
        print("running", flush=True)
        session.run([op, element])
"""
# A child of a fork, which has no session, gets the signal; then the parent goes on.
FORK = """
    with lib.MonitoredSession(hooks=[hook]) as session:
        session.run(op)
        for number in (signal.SIGTERM, signal.SIGINT):
            child = os.fork()
            if not child:
                try:
                    os.kill(os.getpid(), number)
                    time.sleep(60)
                except KeyboardInterrupt:
                    os._exit(3)
                os._exit(4)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        session.run(op)
        print(session.should_stop(), hook.received, flush=True)
"""

# faulthandler's handler, in C, shows in no table of Python's.
FAULTHANDLER = """
    import faulthandler
    def dumps(action=None):
        dump.seek(0), dump.truncate()
        signal.raise_signal(number)
        dump.seek(0)
        return dump.read().count("most recent call first")
    def register():
        faulthandler.register(number, file=dump, all_threads=False, chain=chain)
    dump = open(os.path.join(sys.argv[2], "dump"), "w+")
    number, when, chain = signal.Signals[sys.argv[3]], sys.argv[4], sys.argv[5] == "chain"
    hook = fasthooks.SaveOnSignalHook(sys.argv[2], [number])
    called = []
    if chain:
        signal.signal(number, lambda number, frame: called.append(number))
    table = signal.getsignal(number)
    if when == "before":
        register()
    for i in range(3):
        with lib.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            if when == "during" and i == 0:
                register()
                print("over ours", dumps(), bool(session.should_stop()), flush=True)
            else:
                print("first", dumps(), len(called), flush=True)
                session.run(op)
                print(session.should_stop(), hook.received == number, flush=True)
                print("second", dumps(), len(called), flush=True)
        print("after", dumps(), len(called), signal.getsignal(number) is table, flush=True)
    faulthandler.unregister(number)
    signal.signal(number, signal.SIG_IGN)
"""


@pytest.fixture
def start(request, tmp_path):
    """A function that starts a program; ends with the test."""
    processes = []

    def start_program(program, lib, *arguments):
        name = next(name for name, value in SESSIONS.items() if value is lib)
        code = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
        process = apart.Process(code, name, tmp_path, *arguments, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        processes.append(process)
        return process

    yield start_program
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_process_that_gets_sigterm(lib, start, tmp_path):
    process = start(LOOP, lib)
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    path = tf.train.latest_checkpoint(str(tmp_path))
    assert output == f"saved {path}\n"
    assert int(tf.train.load_variable(path, "global_step")) == int(path.rpartition("-")[2]) >= 2


def wait_until_blocked(process):
    """Waits until the main thread sleeps in the kernel for good: no context switch in a second."""
    path = f"/proc/{process.pid}/task/{process.pid}/status"
    before = None
    for _ in range(120):
        with open(path) as file:
            now = [line for line in file if "ctxt_switches" in line]
        if now == before:
            return
        before = now
        threading.Event().wait(1.0)
    pytest.fail("the process is never blocked")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", BOTH, ids=lambda number: number.name)
def test_two_signals_end_a_process_whose_step_never_ends(lib, start, tmp_path, number):
    process = start(STARVED, lib)
    assert process.stdout.readline() == "running\n"
    wait_until_blocked(process)
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -number, errors
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)


def test_a_handler_in_the_midst_of_making_an_error_raises_after_that(tmp_path):
    """C++ has TensorFlow make the error of a step, and has no use for another one meanwhile."""
    op, _ = build_model()
    made = []

    def act():  # called from TensorFlow's constructor of errors, as a handler is that another one interrupts
        signal.raise_signal(signal.SIGINT)
        made.append(True)

    names = {"act": act}
    exec(compile("def make(): act()", interruption._ERRORS, "exec"), names)
    with fasthooks.MonitoredSession(hooks=[fasthooks.SaveOnSignalHook(str(tmp_path))]) as session:
        session.run(op)
        signal.raise_signal(signal.SIGINT)  # noted
        with pytest.raises(KeyboardInterrupt):
            names["make"]()
            for _ in range(10_000):
                time.sleep(0.01)
    assert made == [True]


def test_children_of_a_fork_have_the_previous_handlers(lib, start):
    process = start(FORK, lib)
    output, errors = process.communicate(timeout=240)
    assert output == "-15\n3\nFalse None\n", errors


@pytest.mark.parametrize(("number", "when", "chain"), [
    ("SIGUSR1", "before", "alone"), ("SIGINT", "before", "alone"), ("SIGUSR1", "before", "chain"),
    ("SIGUSR1", "during", "alone"), ("SIGUSR1", "during", "chain"),
])
def test_a_handler_of_c_code_is_back_and_gets_the_second_signal(start, number, when, chain):
    calls = 0
    expected = []
    for i in range(3):
        if when == "during" and i == 0:
            expected.append("over ours 1 False")
        else:
            expected += [f"first 0 {calls}", "True True"]
            calls += chain == "chain"
            expected.append(f"second 1 {calls}")
        calls += chain == "chain"
        expected.append(f"after 1 {calls} True")
    process = start(FAULTHANDLER, fasthooks, number, when, chain)
    output, errors = process.communicate(timeout=240)
    assert (process.returncode, output.splitlines()) == (0, expected), errors
