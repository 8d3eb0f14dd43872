"""ProgressHook and TimeLimitHook: what is shown where, and when a training stops, in TensorFlow's sessions and in ours."""

import copy
import datetime
import io
import os
import pickle
import re
import sys
import threading
import types
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from helpers import Fails, build_model, captured_logs, make_train, v1
from tensorflow.python.distribute import distribute_coordinator_context

import fasthooks as fh
from fasthooks.triggers import _trigger


@pytest.fixture
def monotonic():
    """Durations go by the faked clock too."""
    with mock.patch("time.monotonic", side_effect=lambda: __import__("time").time()):
        yield


@pytest.fixture
def terminal():
    """A pseudo-terminal's own end, of 100 columns, and a function that gives back what was written to it."""
    termios, fcntl, pty = (pytest.importorskip(name) for name in ("termios", "fcntl", "pty"))
    import struct

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    os.set_blocking(ours, False)
    with open(theirs, "w") as file:
        def read():
            file.flush()
            found = b""
            while True:
                try:
                    found += os.read(ours, 1 << 16)
                except BlockingIOError:
                    return found.decode()

        yield file, read
    os.close(ours)


def lines(logs):
    return [message for _, level, message in logs if level == "INFO" and message.startswith("step ")]


def run(way, clock, hooks, train, steps, secs=1.0):
    with way.session(hooks) as session:
        for _ in range(steps):
            clock.tick(secs)
            session.run(train)
        way.check(session, steps)


# Log lines


def test_log_lines(way, clock, monotonic):
    train, loss = build_model()
    hook = fh.ProgressHook(12_345, metrics={"loss": loss}, examples_per_step=128, log_secs=3, file=io.StringIO())
    with captured_logs() as logs:
        run(way, clock, [hook], train, 8, secs=0.5)
    assert lines(logs) == [
        "step 0 of 12,345 (0.0 %), loss 0",
        "step 6 of 12,345 (0.0 %), 2 steps/s, 256 examples/s, 1:42:50 left, loss 6",
        # The last step that was fetched is 6, and one run came after it, whose loss is not known.
        "step 7 of 12,345 (0.1 %), 2 steps/s, 256 examples/s, 1:42:49 left"]


def test_without_a_last_step_nothing_is_left(way, clock, monotonic):
    with captured_logs() as logs:
        run(way, clock, [fh.ProgressHook(log_secs=2, file=io.StringIO())], make_train(), 4, secs=0.001)
    assert lines(logs) == ["step 1", "step 4, 1,000 steps/s"]


def run_until_stop(way, clock, hooks, train, creator=None):
    """Runs of a second each until a hook stops; returns the log lines of progress."""
    with captured_logs() as logs, way.session(hooks, creator) as session:
        while not session.should_stop():
            clock.tick()
            session.run(train)
    return lines(logs)


@pytest.mark.parametrize("stop", [fh.StopAtStepHook, v1.train.StopAtStepHook, type("Mine", (v1.train.StopAtStepHook,), {})],
                         ids=["ours", "tensorflow", "subclass"])
@pytest.mark.parametrize("arguments", [{"last_step": 109}, {"num_steps": 9}], ids=["last_step", "num_steps"])
@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_the_last_step_is_that_of_the_hook_that_stops(way, clock, monotonic, stop, arguments, is_first):
    train = make_train(first=100, order="before")
    progress = fh.ProgressHook(log_secs=4, file=io.StringIO())
    hooks = [progress, stop(**arguments)] if is_first else [stop(**arguments), progress]
    assert run_until_stop(way, clock, [*hooks, fh.StopAtStepHook(last_step=1000)], train) == [
        "step 100 of 109 (91.7 %)", "step 104 of 109 (95.4 %), 1 steps/s, 5 s left",
        "step 108 of 109 (99.1 %), 1 steps/s, 1 s left", "step 109 of 109 (100.0 %), 1.125 steps/s"]


def test_a_last_step_that_is_given_is_not_looked_for(way, clock):
    hooks = [fh.ProgressHook(50, log_secs=100, file=io.StringIO()), fh.StopAtStepHook(last_step=3)]
    assert run_until_stop(way, clock, hooks, make_train())[0] == "step 1 of 50 (2.0 %)"


def test_the_last_step_is_looked_up_when_it_is_shown(way, clock):
    train, progress, stop = make_train(), fh.ProgressHook(log_secs=1, file=io.StringIO()), fh.StopAtStepHook(last_step=2)
    hooks = [fh.Every(progress, iters=1)]
    with captured_logs() as logs, way.session(hooks) as session:
        for last_step in (None, 8, 9, 0):
            if last_step == 8:
                stop.begin()
                hooks.append(stop)
            stop._last_step = last_step
            clock.tick()
            session.run(train)
        assert progress._beside is hooks and not copy.copy(progress)._beside
    assert [line.partition(" (")[0].partition(",")[0] for line in lines(logs)] == [
        "step 1", "step 2 of 8", "step 3 of 9", "step 4"]
    assert not progress._beside  # nothing of the session is kept


def test_each_session_has_a_last_step_of_its_own(way, clock, tmp_path):
    train, _ = build_model()
    progress = fh.ProgressHook(log_secs=100, file=io.StringIO())
    for last_step in (5, 9):
        told = run_until_stop(way, clock, [progress, fh.StopAtStepHook(last_step=last_step)], train)
        assert f" of {last_step} " in told[0]
    with way.session([progress]) as session, captured_logs() as logs:
        session.run(train)
    assert lines(logs) == ["step 0"]
    # A recovery makes the session anew.
    creator = v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path))
    hooks = [progress, v1.train.CheckpointSaverHook(str(tmp_path), save_steps=4),
             Fails([6], tf.errors.AbortedError(None, None, "lost")), v1.train.StopAtStepHook(num_steps=9)]
    assert all(" of 9 " in line for line in run_until_stop(way, clock, hooks, train, creator))


def test_called_by_hand_it_finds_no_last_step():
    with tf.Graph().as_default():
        make_train()
        hook = fh.ProgressHook(file=io.StringIO())
        hook.begin()

        def create_session(self):
            hook.after_create_session(None, None)

        create_session([fh.StopAtStepHook(last_step=3)])
        assert hook._get_last_step() is None


@pytest.mark.parametrize(("last_step", "left"), [
    (60, "59 s"), (62, "0:01:01"), (86_400 * 2, "1 day, 23:59:59"), (86_400 * 100 + 1, "100 days"),
    (sys.maxsize, "106,751,991,167,300 days")])
def test_how_long_is_left(way, clock, monotonic, last_step, left):
    with captured_logs() as logs:
        run(way, clock, [fh.ProgressHook(last_step, log_secs=1, file=io.StringIO())], make_train(order="before"), 2)
    assert f", {left} left" in lines(logs)[1]


def test_a_bar_of_a_last_step_that_never_comes(way, clock, terminal):
    pytest.importorskip("tqdm")
    file, read = terminal
    run(way, clock, [fh.ProgressHook(refresh_secs=1, file=file), fh.StopAtStepHook(last_step=sys.maxsize)], make_train(), 3)
    assert f"3/{sys.maxsize}" in read()


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("increment", [1, 3])
def test_the_last_step_is_shown_whatever_the_order_of_the_read(way, clock, order, increment):
    train = make_train(increment, order)
    hooks = [fh.ProgressHook(30, log_secs=1000, file=io.StringIO()), fh.StopAtStepHook(last_step=30)]
    with captured_logs() as logs, way.session(hooks) as session:
        while not session.should_stop():
            session.run(train)
    assert lines(logs)[-1].startswith("step 30 of 30 (100.0 %)")


def test_runs_that_do_not_move_the_step_are_not_counted(way, clock):
    train, still = make_train(order="before"), tf.constant(1)
    with captured_logs() as logs, way.session([fh.ProgressHook(log_secs=10, file=io.StringIO())]) as session:
        for _ in range(12):
            clock.tick()
            session.run(train)
            session.run(still)
    assert lines(logs) == ["step 0", lines(logs)[1]] and lines(logs)[1].startswith("step 10")


@pytest.mark.parametrize(("increment", "shown"), [(None, "step 1"), (1, "step 5")])
def test_a_step_whose_increment_is_not_known_is_not_counted(way, clock, increment, shown):
    fed = v1.placeholder_with_default(tf.constant(1, tf.int64), [])
    train = make_train(fed if increment is None else increment)
    with captured_logs() as logs, way.session([fh.ProgressHook(log_secs=10, file=io.StringIO())]) as session:
        for _ in range(5):
            session.run(train)
    assert lines(logs)[-1].startswith(shown)


def test_what_is_fetched(way, clock):
    count = v1.get_variable("count", initializer=0, use_resource=True)
    hook = fh.ProgressHook(metrics=lambda: {"count": count.assign_add(1)}, log_secs=3, file=io.StringIO())
    train = make_train()
    with way.session([hook]) as session:
        for _ in range(9):
            session.run(train)
            clock.tick()
        way.check(session, 9)
        assert session._tf_sess().run(count) == 3


def test_recovery(way, clock, tmp_path, monotonic):
    train, _ = build_model()
    creator = v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path))
    hooks = [fh.ProgressHook(log_secs=4, file=io.StringIO()), v1.train.CheckpointSaverHook(str(tmp_path), save_steps=8),
             Fails([14], tf.errors.AbortedError(None, None, "lost"))]
    with captured_logs() as logs, way.session(hooks, creator) as session:
        for _ in range(24):
            session.run(train)
            clock.tick()
    # After the recovery to 8 the speed counts anew.
    assert lines(logs) == ["step 0", "step 4, 1 steps/s", "step 8, 1 steps/s", "step 12, 1 steps/s", "step 11",
                           "step 15, 1 steps/s", "step 18, 0.875 steps/s"]


def test_appended_to_the_list_of_a_living_session(way, clock):
    train = make_train()
    hook = fh.ProgressHook(log_secs=1, file=io.StringIO())
    hooks = [fh.LambdaHook()]
    with captured_logs() as logs, way.session(hooks) as session:
        session.run(train)
        hook.begin()
        hooks.append(hook)
        session.run(train)
    assert lines(logs) == ["step 2"]


def test_a_session_without_a_run(way, terminal):
    pytest.importorskip("tqdm")
    file, read = terminal
    make_train()
    with captured_logs() as logs:
        for out in (io.StringIO(), file):
            with way.session([fh.ProgressHook(file=out)]):
                pass
    assert not lines(logs) and read() == ""


# The bar


def test_bar(way, clock, terminal):
    pytest.importorskip("tqdm")
    file, read = terminal
    train, loss = build_model()
    before = threading.enumerate()
    hook = fh.ProgressHook(20, metrics={"loss": loss}, examples_per_step=2, refresh_secs=5, file=file)
    with captured_logs() as logs, way.session([hook, fh.StopAtStepHook(last_step=20)]) as session:
        while not session.should_stop():
            clock.tick()
            session.run(train)
        drawn = read()
        assert threading.enumerate() == before
    frames = [part for part in drawn.split("\r") if "steps" in part]
    assert [re.search(r"(\d+)/20", frame)[1] for frame in frames if "loss" in frame] == ["0", "5", "10", "15"]
    assert "loss 15" in frames[-1]
    last = read()
    assert "20/20" in last and "100%" in last and last.endswith("\n")
    assert not lines(logs)
    assert threading.enumerate() == before


def test_a_bar_until_the_step_of_the_hook_that_stops(way, clock, terminal):
    pytest.importorskip("tqdm")
    file, read = terminal
    run_until_stop(way, clock, [fh.ProgressHook(refresh_secs=1, file=file), fh.StopAtStepHook(num_steps=4)],
                   make_train(order="before"))
    drawn = read()
    assert "1/4" in drawn and "4/4" in drawn and "100%" in drawn


def test_a_bar_stays_after_an_error(way, terminal):
    pytest.importorskip("tqdm")
    file, read = terminal
    train = make_train(order="before")
    with pytest.raises(ArithmeticError), way.session([fh.ProgressHook(20, file=file)]) as session:
        session.run(train)
        raise ArithmeticError
    drawn = read()
    assert "stopped after an error" in drawn and "20/20" not in drawn and drawn.endswith("\n")


def test_each_session_has_a_bar_of_its_own(way, terminal):
    pytest.importorskip("tqdm")
    file, read = terminal
    train = make_train()
    hook = fh.ProgressHook(file=file)
    for _ in range(2):
        way.run([hook], train, 3)
        assert read().count("\n") >= 1
        assert hook._bar is None


def test_no_bar_in_a_pipe(way, clock):
    reader, writer = os.pipe()
    with captured_logs() as logs, open(reader), open(writer, "w") as file:
        run(way, clock, [fh.ProgressHook(file=file)], make_train(), 3)
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    assert lines(logs)[0] == "step 1"


def test_without_tqdm(way, clock, terminal):
    file, read = terminal
    with captured_logs() as logs, mock.patch.dict(sys.modules, {"tqdm": None, "tqdm.auto": None}):
        run(way, clock, [fh.ProgressHook(file=file)], make_train(), 3)
    assert read() == "" and lines(logs)[0] == "step 1"


def test_in_a_notebook(way, clock):
    made = []

    class FakeBar:
        __module__ = "tqdm.notebook"

        def __init__(self, **options):
            self.options, self.shown, self.closed = options, [], False
            made.append(self)

        def set_postfix_str(self, text):
            self.shown.append((self.n, text))

        def close(self):
            self.closed = True

    train, loss = build_model()
    with mock.patch.dict(sys.modules, {"tqdm": mock.Mock(), "tqdm.auto": types.SimpleNamespace(tqdm=FakeBar)}):
        with mock.patch.object(sys, "stderr", io.StringIO()):
            run(way, clock, [fh.ProgressHook(9, metrics={"loss": loss}, refresh_secs=2)], train, 5)
        with captured_logs() as logs:  # a file is none
            run(way, clock, [fh.ProgressHook(9, file=io.StringIO())], train, 1)
    bar, = made
    assert bar.shown == [(0, "loss 0"), (2, "loss 2"), (4, "loss 4"), (4, "loss 4")]
    assert bar.closed and bar.monitor_interval == 0 and bar.options["total"] == 9
    assert lines(logs)


# Arguments


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"last_step": 0}, ValueError, "last_step must be a positive int; got 0."),
    ({"last_step": True}, ValueError, "last_step must be a positive int; got True."),
    ({"examples_per_step": 2.9}, ValueError, "examples_per_step must be a positive int; got 2.9."),
    ({"refresh_secs": 0}, ValueError, "refresh_secs must be a positive number; got 0."),
    ({"log_secs": "1"}, ValueError, "log_secs must be a positive number; got '1'."),
    ({"metrics": 3}, TypeError, "metrics must be a dict of name to tensor, or a function that returns one; got 3.")])
def test_progress_arguments_are_checked(arguments, error, message):
    with pytest.raises(error) as raised:
        fh.ProgressHook(**arguments)
    assert str(raised.value) == message


def test_without_a_global_step(way):
    tf.constant(1)
    with pytest.raises(RuntimeError, match=r"^Global step should be created to use ProgressHook\.$"):
        way.session([fh.ProgressHook()])


NOON = datetime.datetime(2026, 1, 2, 12)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({}, ValueError, "Exactly one of secs and until must be given; got secs=None, until=None."),
    ({"secs": 1, "until": NOON}, ValueError, f"Exactly one of secs and until must be given; got secs=1, until={NOON!r}."),
    ({"secs": 0}, ValueError, "secs must be a positive number; got 0."),
    ({"secs": True}, ValueError, "secs must be a positive number; got True."),
    ({"until": 12}, TypeError, "until must be a datetime.datetime; got 12."),
    ({"until": NOON.date()}, TypeError, f"until must be a datetime.datetime; got {NOON.date()!r}.")])
def test_limits_are_checked(arguments, error, message):
    with pytest.raises(error) as raised:
        fh.TimeLimitHook(**arguments)
    assert str(raised.value) == message


# The time limit


def runs_until_stop(way, clock, hook, train, secs=1.0, most=50):
    """How many runs, of this many seconds each, a session makes."""
    class Takes(v1.train.SessionRunHook):
        def after_run(self, run_context, run_values):
            clock.tick(secs)

    with way.session([Takes(), hook]) as session:
        runs = 0
        while not session.should_stop() and runs < most:
            session.run(train)
            runs += 1
        way.check(session, runs)
    return runs


@pytest.mark.parametrize(("secs", "runs"), [(5, 5), (4.5, 5), (0.1, 1), (1000, 50)])
def test_seconds(way, clock, secs, runs):
    with captured_logs() as logs:
        assert runs_until_stop(way, clock, fh.TimeLimitHook(secs), make_train()) == runs
    told = [message for _, _, message in logs if "TimeLimitHook" in message]
    assert len(told) == (runs < 50)
    if told:
        at = datetime.datetime.fromtimestamp(1000.0 + secs).isoformat(" ", "seconds")
        assert told == [f"TimeLimitHook requests a stop: the time was up at {at}."]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_seconds_of_numpys_kinds(way, clock, kind):
    clock.tick(1.7e9)  # a time of today: the next float32 is 128 s away, and no float16 is as large
    assert runs_until_stop(way, clock, fh.TimeLimitHook(kind(4.5)), make_train()) == 5


@pytest.mark.parametrize("zone", [None, datetime.timezone.utc, datetime.timezone(datetime.timedelta(hours=-7))])
def test_until(way, clock, zone):
    until = datetime.datetime.fromtimestamp(1007.0, zone)
    assert runs_until_stop(way, clock, fh.TimeLimitHook(until=until), make_train()) == 7


def test_until_the_first_of_all_times(way, clock):
    until = datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)
    assert runs_until_stop(way, clock, fh.TimeLimitHook(until=until), make_train()) == 1


def test_the_limit_is_the_jobs(way, clock):
    train = make_train()
    hook = fh.TimeLimitHook(10)
    clock.tick(1000)  # it counts from the first begin
    assert runs_until_stop(way, clock, hook, train, most=4) == 4
    assert runs_until_stop(way, clock, hook, train) == 6
    assert runs_until_stop(way, clock, hook, train) == 1
    assert runs_until_stop(way, clock, pickle.loads(pickle.dumps(hook)), train) == 1


def test_the_limit_over_a_recovery(way, clock, tmp_path):
    train, _ = build_model()
    creator = v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path))
    hooks = [fh.TimeLimitHook(20), v1.train.CheckpointSaverHook(str(tmp_path), save_steps=8),
             Fails([14], tf.errors.AbortedError(None, None, "lost"))]
    runs = 0
    with way.session(hooks, creator) as session:
        while not session.should_stop():
            clock.tick()
            session.run(train)
            runs += 1
    assert runs == 20


@pytest.mark.parametrize("make", [lambda: fh.TimeLimitHook(5), lambda: fh.TimeLimitHook(until=NOON), fh.ProgressHook])
def test_no_clock_where_workers_wait_for_each_other(way, make):
    make_train()
    context = types.SimpleNamespace(_strategy=type("CollectiveAllReduceStrategy", (), {})())
    with mock.patch.object(distribute_coordinator_context, "get_current_worker_context", return_value=context):
        with pytest.raises(ValueError, match=r"Hook should not be used when using CollectiveAllReduceStrategy: "):
            make().begin()


@pytest.mark.parametrize("train", [fh, v1.train], ids=["our_session", "adopted"])
def test_no_python_runs_on_a_quiet_step(train):
    with tf.Graph().as_default():
        op = make_train()
        hooks = [fh.TimeLimitHook(1000), fh.ProgressHook(refresh_secs=1000, log_secs=1000, file=io.StringIO())]
        with train.MonitoredSession(hooks=hooks) as session:
            session.run(op)
            with mock.patch.multiple(_trigger, before_run=mock.DEFAULT, after_run=mock.DEFAULT) as functions:
                for _ in range(5):
                    session.run(op)
            assert not any(function.called for function in functions.values())
