"""`profile` and `warn_slow_hooks`: what is counted, where the time of a step is said to go, and that nothing else changes.

No test asserts on speed: where one hook sleeps, its row is the largest.
"""

import contextlib
import gc
import json
import os
import random
import statistics
import textwrap
import threading
import time
import weakref
from unittest import mock

import apart
import pytest
import tensorflow as tf
from helpers import MIXES, STOCK_MIX, assert_same, build_model, captured_logs, messages, record, train, usual_hooks, v1

import fasthooks
from fasthooks import profiling
from fasthooks.step import _profile

SESSIONS = {
    "ours": (fasthooks, False),
    "adopted": (v1.train, False),
    "patched": (v1.train, True),
}


class Quiet(v1.train.SessionRunHook):
    """Has no per-step methods."""


class Trivial(v1.train.SessionRunHook):
    def before_run(self, run_context):
        return None

    def after_run(self, run_context, run_values):
        pass


class Sleeper(v1.train.SessionRunHook):
    """Sleeps on one step in so many, 2 ms or as long as it usually is awake between: half of the time, on any machine."""

    name = "the sleeper"

    def __init__(self, every):
        self.every = every
        self.runs = 0
        self.slept = 0.0

    def after_run(self, run_context, run_values):
        now = time.perf_counter()
        if not self.runs:
            self.began = now
        self.runs += 1
        if self.runs % self.every == 0:
            time.sleep(max(0.002, (now - self.began - self.slept) * self.every / self.runs))
            self.slept += time.perf_counter() - now


class Acts(v1.train.SessionRunHook):
    """Calls a function on each step."""

    def __init__(self, act, fetches=None):
        self.act = act
        self.fetches = fetches

    def before_run(self, run_context):
        return None if self.fetches is None else v1.train.SessionRunArgs(self.fetches)

    def after_run(self, run_context, run_values):
        self.act(run_context)


@contextlib.contextmanager
def opened(kind, hooks):
    """A session of one of SESSIONS on a graph of its own, and what to run."""
    implementation, patched = SESSIONS[kind]
    with fasthooks.patch() if patched else contextlib.nullcontext(), tf.Graph().as_default():
        op, loss = build_model()
        hooks = hooks(loss) if callable(hooks) else hooks
        if kind == "adopted":
            hooks.append(fasthooks.NanTensorHook(loss))
        with implementation.MonitoredSession(v1.train.ChiefSessionCreator(), hooks) as session:
            yield session, op, loss


def warnings(logs):
    """Our lines among those of `captured_logs`."""
    return [message for _, level, message in logs if level == "WARNING" and message.startswith("fasthooks:")]


def rows(profiled, number=0):
    """(hook without place, method) -> row of a session."""
    session = profiled.report()["sessions"][number]
    return {(row["hook"].partition(" ")[0], row["method"]): row for row in session["hooks"]}


def assert_adds_up(session):
    """Asserts that a session's rows are parts of its turns, and apart from each other: none overlaps the rest."""
    parts = [session["loop"], session["native"], session["stock"], *session["hooks"]]
    left = session["fasthooks_us_per_turn"]
    whole = session["turn"]["us_per_turn"]
    assert sum(part["us_per_turn"] for part in parts) + left == pytest.approx(whole, rel=0.01)
    assert 0 < left < whole
    assert session["step"]["us_per_turn"] + session["loop"]["us_per_turn"] == pytest.approx(whole, rel=0.01)
    assert sum(part["share"] for part in parts) + left / whole == pytest.approx(1, rel=0.01)
    assert session["turn"]["calls"] == session["step"]["calls"] == session["turns"]


# Where the time goes


@pytest.mark.parametrize("kind", SESSIONS)
def test_rows_are_the_parts_of_a_turn(kind):
    with opened(kind, [Quiet(), Trivial(), Sleeper(1)]) as (session, op, _):
        with fasthooks.profile(skip_steps=0) as profiled:
            began = time.perf_counter()
            for _ in range(50):
                session.run(op)
                time.sleep(0.001)
            elapsed_us = 1e6 * (time.perf_counter() - began)
        session.run(op)
        seen = profiled.report()["sessions"][0]
    assert_adds_up(seen)
    assert (seen["turns"], seen["left_out"], seen["failed"]) == (50, 0, 0)
    assert (seen["native"]["calls"], seen["loop"]["calls"], seen["stock"]["calls"]) == (50, 49, 0)
    # From the begin of the first step to the end of the last one; one more sleep of the loop follows.
    assert 50 * seen["turn"]["us_per_turn"] + 1000 <= elapsed_us
    assert 50 * seen["turn"]["us_per_turn"] > 0.5 * elapsed_us
    assert rows(profiled)["Sleeper", "after_run"]["us_per_turn"] >= 2000
    assert seen["loop"]["us_per_call"] >= 1000
    assert [rows(profiled)["Trivial", method]["calls"] for method in ("before_run", "after_run")] == [50, 50]
    assert "Quiet (hooks[0])" in seen["quiet"]
    assert seen["turn"]["longest_us"] >= seen["turn"]["us_per_call"]


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("kind", SESSIONS)
def test_a_slow_hook_is_named_first(kind, every, tmp_path):
    def hooks(loss):
        summary = v1.summary.scalar("cost", loss)
        return [
            v1.train.StopAtStepHook(last_step=500), v1.train.StepCounterHook(every_n_steps=10, output_dir=str(tmp_path)),
            v1.train.LoggingTensorHook([loss], every_n_iter=50), v1.train.NanTensorHook(loss), Sleeper(every), Trivial(),
            v1.train.SummarySaverHook(save_steps=50, output_dir=str(tmp_path), summary_op=summary),
            v1.train.CheckpointSaverHook(str(tmp_path), save_secs=600)]

    with captured_logs() as logs, fasthooks.profile(skip_steps=0) as profiled:
        with opened(kind, hooks) as (session, op, _):
            while not session.should_stop():
                session.run(op)
    seen = profiled.report()["sessions"][0]
    assert_adds_up(seen)
    assert seen["turns"] == 500
    # Savers write files, which may take any time; they do so once in a while.
    expensive = [row["hook"] for row in seen["hooks"] if row["calls"] > 100]
    assert expensive[0] == "Sleeper 'the sleeper' (hooks[4])"
    lines = [line for line in profiled.table().splitlines() if line.startswith("   ")]
    assert expensive[0] in "".join(lines[:6])
    warned, = warnings(logs)
    assert warned.startswith("fasthooks: Sleeper 'the sleeper' (hooks[4]).after_run takes ")
    assert ("on every step" in warned) == (every == 1)


def test_what_is_done_now_and_then_is_not_slowness():
    with captured_logs() as logs, fasthooks.profile(skip_steps=0), opened("ours", [Sleeper(100)]) as (session, op, _):
        for _ in range(400):
            session.run(op)
    assert not warnings(logs)


def test_a_saver_that_must_read_the_step_is_not_slow(tmp_path):
    hooks = [v1.train.CheckpointSaverHook(str(tmp_path), save_steps=10**6), Trivial()]
    collector = _profile.Collector(0, 0, 1e-9, 0.0, lambda hook, calls, steps: named.append(hook.name))
    named = []
    with opened("ours", hooks) as (session, op, _):
        _profile.install(collector)
        try:
            for _ in range(64):
                session.run(op)
        finally:
            _profile.install(None)
    assert [hook.after.count for hook in collector.sessions[0].hooks] == [64, 64]
    assert named == ["Trivial (hooks[1])"]


def test_no_warning_where_none_is_wanted():
    with captured_logs() as logs, fasthooks.profile(skip_steps=0, slow_hook_share=None):
        with opened("ours", [Sleeper(1)]) as (session, op, _):
            for _ in range(64):
                session.run(op)
    assert not warnings(logs)


@contextlib.contextmanager
def slow_hooks_are_told():
    """Warns of slow hooks in a block, and neither before nor after it."""
    with mock.patch.object(profiling, "_watch", None):
        try:
            fasthooks.warn_slow_hooks(0.1, min_us=100.0)
            yield
        finally:
            _profile.install(None)


def test_warnings_alone():
    with slow_hooks_are_told():
        with captured_logs() as logs, opened("ours", [Sleeper(1)]) as (session, op, _):
            for _ in range(100):
                session.run(op, hooks=False)
            with fasthooks.profile(skip_steps=0, slow_hook_share=None):
                for _ in range(64):
                    session.run(op)
            # The first hundred were left out, so these are the first that count.
            for _ in range(31):
                session.run(op)
            assert not warnings(logs)
            for _ in range(65):
                session.run(op)
            warned, = warnings(logs)
            assert warned.startswith("fasthooks: Sleeper 'the sleeper' (hooks[0]).after_run takes ")
        hooks, step = profiling.hooks_in_python()
        assert 2000 <= hooks < step


def test_what_fetches_of_a_hook_add(tmp_path):
    def hooks(loss):
        return [v1.train.SummarySaverHook(save_steps=10, output_dir=str(tmp_path), summary_op=v1.summary.scalar("cost", loss)),
                v1.train.LoggingTensorHook([loss + 1.0], every_n_iter=15), Acts(lambda context: None, loss)]

    with opened("ours", hooks) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        for _ in range(61):
            session.run(op)
    found = rows(profiled)
    assert {name: row["calls"] for (name, method), row in found.items() if method.endswith("fetches")} == {
        "SummarySaverHook": 4, "LoggingTensorHook": 2, "several": 3}  # 1, 31 and 61 are of both
    assert found["SummarySaverHook", "after_run"]["calls"] == 7 and found["Acts", "before_run"]["calls"] == 61
    assert_adds_up(profiled.report()["sessions"][0])


# What is counted


@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.parametrize("method", ["before_run", "after_run"])
def test_a_hook_that_raises(kind, method):
    class Fails(Trivial):
        runs = 0

    def fail(self, *args):
        self.runs += 1
        if self.runs == 3:
            raise ValueError("third")

    setattr(Fails, method, fail)
    with opened(kind, [Fails()]) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        for number in range(6):
            with pytest.raises(ValueError, match="third") if number == 2 else contextlib.nullcontext():
                session.run(op)
    seen = profiled.report()["sessions"][0]
    assert (seen["turns"], seen["failed"], seen["native"]["calls"]) == (5, 1, 5)
    # Nothing is known of the loop after a step that failed.
    assert seen["loop"]["calls"] == 3
    assert rows(profiled)["Fails", method]["calls"] == 6
    assert_adds_up(seen)


def test_a_kernel_that_fails():
    with tf.Graph().as_default():
        bad = v1.check_numerics(tf.constant(1.0) / v1.placeholder_with_default(0.0, []), "no number")
        with fasthooks.MonitoredSession(hooks=[Trivial()]) as session, fasthooks.profile(skip_steps=0) as profiled:
            with pytest.raises(tf.errors.InvalidArgumentError):
                session.run(bad)
    seen = profiled.report()["sessions"][0]
    assert (seen["turns"], seen["failed"]) == (0, 1)
    assert rows(profiled)["Trivial", "before_run"]["calls"] == 1
    assert "1 steps failed" in profiled.table()


@pytest.mark.parametrize("kind", SESSIONS)
def test_runs_that_hooks_make(kind):
    with opened(kind, lambda loss: [Acts(lambda context: context.session.run(loss))]) as (session, op, _):
        with fasthooks.profile(skip_steps=0) as profiled:
            for _ in range(10):
                session.run(op)
                session._tf_sess().run(op)  # the program's, not a hook's
    seen = profiled.report()["sessions"][0]
    assert seen["turns"] == 10
    assert 0 < seen["own_runs_us_per_turn"] < rows(profiled)["Acts", "after_run"]["us_per_turn"]
    assert_adds_up(seen)


def test_a_step_within_a_step_is_its_hooks():
    sessions = []

    def run_again(context):
        if len(sessions) == 1:
            sessions.append(None)
            sessions[0].run(step)
            sessions.pop()

    with opened("ours", [Acts(run_again)]) as (session, op, step):
        sessions.append(session)
        with fasthooks.profile(skip_steps=0) as profiled:
            for _ in range(10):
                session.run(op)
    seen = profiled.report()["sessions"][0]
    assert seen["turns"] == rows(profiled)["Acts", "after_run"]["calls"] == 10
    assert 0 < seen["own_runs_us_per_turn"] < rows(profiled)["Acts", "after_run"]["us_per_turn"]
    assert_adds_up(seen)


def test_a_session_within_a_hook_is_a_session():
    with opened("ours", []) as (other, other_op, _):
        with opened("ours", [Acts(lambda context: other.run(other_op))]) as (session, op, _):
            with fasthooks.profile(skip_steps=0) as profiled:
                for _ in range(10):
                    session.run(op)
    outer, inner = profiled.report()["sessions"]
    assert outer["turns"] == inner["turns"] == 10 and inner["own_runs_us_per_turn"] == 0
    assert outer["own_runs_us_per_turn"] >= inner["step"]["us_per_turn"]
    # Between two of its steps another one ran.
    assert inner["loop"]["calls"] == 0 and outer["loop"]["calls"] == 9
    assert_adds_up(outer)


def test_hooks_that_are_appended_later():
    hooks = [Trivial()]
    with opened("ours", hooks) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        session.run(op)
        hooks.append(Sleeper(1))
        session.run(op)
        hooks.append(Quiet())
        # In the middle of a step.
        hooks[0].after_run = lambda run_context, run_values: hooks.append(Acts(lambda context: None))
        session.run(op)
    found = rows(profiled)
    assert found["Sleeper", "after_run"]["calls"] == 2 and found["Sleeper", "after_run"]["hook"].endswith("(hooks[1])")
    assert found["Acts", "after_run"]["calls"] == 1 and found["Acts", "after_run"]["hook"] == "Acts (hooks[3])"
    assert profiled.report()["sessions"][0]["quiet"] == ["Quiet (hooks[2])"]


def test_runs_that_only_some_hooks_see():
    hooks = [Trivial(), Sleeper(1)]
    with opened("ours", hooks) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        session.run(op, hooks=[hooks[1]])
        session.run(op, hooks=False)
        session.run(op)
    found = rows(profiled)
    assert found["Sleeper", "after_run"]["calls"] == 2 and found["Sleeper", "after_run"]["hook"].endswith("(hooks[1])")
    assert found["Trivial", "after_run"]["calls"] == 1
    assert profiled.report()["sessions"][0]["turns"] == 3


class Equal(Trivial):
    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__


@pytest.mark.parametrize("kind", SESSIONS)
def test_steps_that_take_tensorflows_own_way(kind):
    with opened(kind, [Equal()]) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        for _ in range(5):
            session.run(op)
    seen = profiled.report()["sessions"][0]
    assert (seen["turns"], seen["stock"]["calls"], seen["native"]["calls"]) == (5, 5, 0)
    assert "5 of 5 steps took TensorFlow's own way" in profiled.table()
    assert seen["stock"]["us_per_turn"] == pytest.approx(seen["step"]["us_per_turn"])


def test_a_session_with_a_replaced_method():
    with opened("ours", [Trivial()]) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        hooked = session._sess._sess._sess
        hooked._check_stop = lambda: False
        for _ in range(5):
            session.run(op, hooks=False)
            session.run(op)
    assert profiled.report()["sessions"][0]["stock"]["calls"] == 10


def test_a_run_by_tensorflow_itself():
    with tf.Graph().as_default():
        fed = v1.placeholder(tf.float32)
        with fasthooks.MonitoredSession(hooks=[Trivial()]) as session, fasthooks.profile(skip_steps=0) as profiled:
            for _ in range(5):
                assert session.run(fed, {(fed,): (1.0,)}) == 1.0
            assert session.report()["planned_steps"] == 0
    seen = profiled.report()["sessions"][0]
    assert (seen["native"]["calls"], seen["stock"]["calls"]) == (5, 0)
    assert_adds_up(seen)


def test_accelerated_sessions():
    with tf.Graph().as_default():
        op, _ = build_model()
        with fasthooks.accelerate(v1.Session()) as session:
            session.run(v1.global_variables_initializer())
            with fasthooks.profile(skip_steps=3) as profiled:
                for _ in range(10):
                    session.run(op)
    seen = profiled.report()["sessions"][0]
    assert (seen["turns"], seen["left_out"], seen["native"]["calls"]) == (8, 2, 8)
    assert_adds_up(seen)


def test_steps_at_the_begin_are_left_out():
    with opened("ours", [Trivial()]) as (session, op, _):
        with fasthooks.profile() as profiled:
            for _ in range(99):
                session.run(op)
            assert profiled.report()["sessions"][0]["turns"] == 0
            assert "99 steps, all within the first 100" in profiled.table()
            for _ in range(11):
                session.run(op)
        seen = profiled.report()["sessions"][0]
        assert (seen["turns"], seen["left_out"], seen["loop"]["calls"]) == (10, 100, 9)
        assert rows(profiled)["Trivial", "after_run"]["calls"] == 10
        # This session is not new any more.
        with fasthooks.profile() as later:
            session.run(op)
        assert later.report()["sessions"][0]["turns"] == 1
        assert profiled.report()["sessions"][0] == seen


def test_nothing_is_seen_under_tensorflows_own_sessions():
    with tf.Graph().as_default():
        op, _ = build_model()
        with v1.train.MonitoredSession(hooks=[Trivial()]) as session, fasthooks.profile() as profiled:
            session.run(op)
    assert profiled.report()["sessions"] == []
    assert profiled.table() == "0 steps: fasthooks.patch() or `python -m fasthooks profile`"


def test_a_session_that_recovers():
    lost = []

    def lose(context):
        if len(lost) == 2:
            lost.append(None)
            raise tf.errors.AbortedError(None, None, "lost")
        lost.append(None)

    with opened("ours", [Acts(lose)]) as (session, op, _), fasthooks.profile(skip_steps=1) as profiled:
        for _ in range(5):
            session.run(op)
        assert session.recoveries == 1
    seen = profiled.report()["sessions"]
    assert [(one["turns"], one["left_out"], one["failed"]) for one in seen] == [(1, 1, 1), (2, 1, 0)]
    assert seen[1]["hooks"][0]["hook"] == "Acts (hooks[0])"


def test_global_steps_of_the_longest():
    slow = [4]

    def act(context):
        slow[0] -= 1
        if slow[0] == 0:
            time.sleep(0.05)

    with opened("ours", lambda loss: [Acts(act), v1.train.StopAtStepHook(last_step=100)]) as (session, op, _):
        with fasthooks.profile(skip_steps=0) as profiled:
            for _ in range(8):
                session.run(op)
    assert rows(profiled)["Acts", "after_run"]["longest_step"] == 3  # read before the update
    assert "(3)" in profiled.table()


def test_no_global_step_is_fetched_for_it():
    with opened("ours", [Trivial()]) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        session.run(op)
        assert session.report()["plans"][0]["fetches"] == []
    assert profiled.report()["sessions"][0]["turn"]["longest_step"] is None


# Threads, processes, memory


def test_eight_threads():
    with opened("ours", [Trivial(), Acts(lambda context: None)]) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        def work():
            for _ in range(100):
                session.run(op)

        threads = [threading.Thread(target=work, name=f"worker {i}") for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = profiled.report()["sessions"][0]
    assert (seen["turns"], seen["native"]["calls"], seen["failed"]) == (800, 800, 0)
    assert all(row["calls"] == 800 for row in seen["hooks"])
    assert_adds_up(seen)


PROGRAM = """
import os, sys
import tensorflow as tf
import fasthooks
v1 = tf.compat.v1

class Hook(v1.train.SessionRunHook):
    def after_run(self, run_context, run_values):
        {act}

with tf.Graph().as_default():
    op = v1.train.create_global_step().assign_add(1)
    with fasthooks.MonitoredSession(hooks=[Hook()]) as session:
        {rest}
"""


def run_program(act, rest):
    source = PROGRAM.format(act=act, rest=textwrap.indent(textwrap.dedent(rest), " " * 8).strip())
    done = apart.run(source, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_fork_is_the_parents(tmp_path):
    lines = run_program("pass", f"""
        trace = {str(tmp_path / "trace.json")!r}
        with fasthooks.profile(skip_steps=0, trace=trace) as profiled:
            session.run(op)
            child = os.fork()
            if not child:
                with fasthooks.profile(skip_steps=0) as own:
                    pass
                print("child", len(own.report()["sessions"]), profiled.report()["sessions"][0]["turns"], flush=True)
            else:
                os.waitpid(child, 0)
                session.run(op)
        if not child:
            print(os.path.exists(trace), flush=True)
            os._exit(0)
        print("parent", profiled.report()["sessions"][0]["turns"], os.path.exists(trace))
    """)
    assert lines == ["child 0 1", "False", "parent 2 True"]


def test_more_than_is_kept_apart():
    hooks = [Trivial() for _ in range(520)]
    with opened("ours", hooks) as (session, op, _), fasthooks.profile(skip_steps=0, trace_steps=10) as profiled:
        for _ in range(3):
            session.run(op)
    seen = profiled.report()["sessions"][0]
    others = {row["method"]: row["calls"] for row in seen["hooks"] if row["hook"] == "others"}
    assert len({row["hook"] for row in seen["hooks"]}) == 513
    assert others == {"before_run": 24, "after_run": 24}
    assert_adds_up(seen)
    # There is room for 160 events.
    assert profiled._collector.labels[0] == "step" and not list(profiled._collector.trace_events())


def test_more_plans_than_are_kept_apart():
    with tf.Graph().as_default():
        constants = [tf.constant(float(i)) for i in range(70)]
        with fasthooks.MonitoredSession() as session, fasthooks.profile(skip_steps=0) as profiled:
            for _ in range(2):
                for one in constants:
                    session.run(one)
            kept, = profiled._collector.sessions
            assert len(kept.plans) == 64 and kept.other_plans.native.count == 12
    seen = profiled.report()["sessions"][0]
    assert seen["native"]["calls"] == 140
    assert_adds_up(seen)


def test_more_sessions_than_are_kept_apart():
    with tf.Graph().as_default(), fasthooks.profile(skip_steps=0) as profiled:
        one = tf.constant(1.0)
        for _ in range(66):
            session = fasthooks.accelerate(v1.Session())
            session.run(one)
            session.close()
    seen = profiled.report()["sessions"]
    assert [session["turns"] for session in seen] == [1] * 63 + [3]


class Slotted:
    """A hook, by its methods, that has no weak references."""

    __slots__ = ()

    def begin(self):
        pass

    def after_create_session(self, session, coord):
        pass

    def before_run(self, run_context):
        pass

    def after_run(self, run_context, run_values):
        pass

    def end(self, session):
        pass


def test_hooks_are_not_held():
    hooks = [Trivial(), Slotted()]
    gone = weakref.ref(hooks[0])
    with fasthooks.profile(skip_steps=0) as profiled:
        with opened("ours", hooks) as (session, op, _):
            session.run(op)
        del session
        hooks.clear()
        gc.collect()
        assert gone() is None
        assert {name for name, _ in rows(profiled)} == {"Trivial", "Slotted"}


def test_a_hook_whose_name_is_not_to_be_asked_for():
    class Asks(Trivial):
        def __getattr__(self, name):
            raise RuntimeError(name)

        @property
        def name(self):
            raise RuntimeError("name")

    with opened("ours", [Asks()]) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        session.run(op)
    assert profiled.report()["sessions"][0]["hooks"][0]["hook"] == "Asks (hooks[0])"


def test_distributions():
    generator = random.Random(0)
    for scale in (1, 10, 1000, 10**6, 10**9):
        values = [int(scale * generator.lognormvariate(1, 1)) for _ in range(1001)]
        durations = _profile.Durations()
        longest = 0
        for value in values:
            assert durations.add(value) == (value > longest)
            longest = max(value, longest)
        assert (durations.count, durations.total, durations.longest) == (1001, sum(values), max(values))
        assert durations.median() == pytest.approx(statistics.median(values), rel=0.13, abs=1)
        usual = sorted(values)[:1001 - 20]
        assert durations.usual_mean() == pytest.approx(statistics.mean(usual), rel=0.13, abs=1)
        doubled = _profile.Durations()
        for _ in range(2):
            doubled.merge(durations)
        assert (doubled.count, doubled.total, doubled.longest) == (2002, 2 * sum(values), max(values))
        assert doubled.median() == pytest.approx(durations.median(), rel=0.01)
    assert (_profile.Durations().median(), _profile.Durations().usual_mean()) == (0.0, 0.0)


# Nothing else changes


def test_one_profile_at_a_time():
    with opened("ours", []) as (session, op, _):
        with pytest.raises(KeyError), fasthooks.profile() as first:
            with pytest.raises(RuntimeError, match=r"Another .*profile is in force"):
                with fasthooks.profile():
                    pass
            session.run(op)
            raise KeyError
        session.run(op)
        assert first.report()["sessions"][0]["left_out"] == 1
        with fasthooks.profile(skip_steps=0) as second:
            session.run(op)
        assert second.report()["sessions"][0]["turns"] == 1


@pytest.mark.parametrize("arguments", [
    {"skip_steps": -1}, {"skip_steps": 2.9}, {"skip_steps": True}, {"trace_steps": None}, {"slow_hook_share": 0},
    {"slow_hook_share": float("nan")}, {"slow_hook_share": "0.5"}])
def test_arguments_that_are_wrong(arguments):
    value, = arguments.values()
    with pytest.raises(ValueError, match=f"got {value!r}"), fasthooks.profile(**arguments):
        pass
    with pytest.raises(ValueError, match=r"min_us .* got -1"):
        fasthooks.warn_slow_hooks(min_us=-1)


@pytest.mark.parametrize("mix", [name for name in MIXES if name != STOCK_MIX])
def test_programs_do_the_same(mix, tmp_path):
    def program(run):
        op, loss = build_model()
        train(run, [Acts(lambda context: context.session.run(loss)), *usual_hooks(run, loss), Trivial()], op)

    stock = record(program, MIXES[STOCK_MIX], tmp_path / "stock")
    with fasthooks.profile(skip_steps=0, slow_hook_share=None) as profiled:
        ours = record(program, MIXES[mix], tmp_path / "ours")
    assert_same(ours, stock)
    assert messages(ours)
    seen, = profiled.report()["sessions"]
    assert seen["turns"] == 10
    assert_adds_up(seen)


def test_steps_take_plans_while_runs_of_hooks_are_told():
    with opened("ours", [Trivial()]) as (session, op, _):
        before = v1.Session.run
        with fasthooks.profile():
            session.run(op)
            assert v1.Session.run is not before
            assert not session.report()["declined"]
        assert v1.Session.run is before
        session.run(op)
        assert session.report()["planned_steps"] == 2


# Traces


def read_trace(path):
    with open(path) as file:
        events = json.load(file)["traceEvents"]
    return [event for event in events if event["ph"] == "M"], [event for event in events if event["ph"] == "X"]


def assert_nested(events):
    """Asserts that of any two events of one thread either one is within the other or they are apart."""
    for thread in {event["tid"] for event in events}:
        open_ends = []
        mine = [event for event in events if event["tid"] == thread]
        for event in sorted(mine, key=lambda event: (event["ts"], -event["dur"])):
            end = event["ts"] + event["dur"]
            while open_ends and open_ends[-1] <= event["ts"] + 5e-4:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1] + 5e-4
            open_ends.append(end)


def test_a_trace(tmp_path):
    path = tmp_path / "trace.json"
    hooks = [Trivial(), Acts(lambda context: context.session.graph), v1.train.StopAtStepHook(last_step=1000)]
    with opened("ours", hooks) as (session, op, _):
        with pytest.raises(KeyError), fasthooks.profile(skip_steps=0, trace=path, trace_steps=20):
            for _ in range(10):
                session.run(op)
            thread = threading.Thread(target=lambda: [session.run(op) for _ in range(40)], name="another")
            thread.start()
            thread.join()
            raise KeyError
    about, events = read_trace(path)
    names = {event["args"]["name"]: event["tid"] for event in about if event["name"] == "thread_name"}
    assert set(names) == {threading.current_thread().name, "another"}
    assert {event["pid"] for event in about + events} == {os.getpid()}
    assert names[threading.current_thread().name] == threading.get_native_id()
    steps = [event for event in events if event["name"] == "step"]
    assert len(steps) == 20 and {event["tid"] for event in steps} == set(names.values())
    assert [event["args"]["global_step"] for event in steps] == list(range(20))
    assert all(event["args"]["plan"] == 1 for event in steps)
    count = {name: sum(event["name"] == name for event in events) for name in {event["name"] for event in events}}
    assert count == {"step": 20, "native run": 20, "your loop": 18, "Trivial (hooks[0]).before_run": 20,
                     "Trivial (hooks[0]).after_run": 20, "Acts (hooks[1]).before_run": 20, "Acts (hooks[1]).after_run": 20}
    assert_nested(events)
    assert os.listdir(tmp_path) == ["trace.json"]


def test_a_trace_that_cannot_be_written(tmp_path):
    with fasthooks.profile() as profiled:
        pass
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "nothing" / "trace.json", tmp_path / "directory"):
        with pytest.raises(OSError):
            profiled.write_trace(path)
    assert os.listdir(tmp_path) == ["directory"]


def test_a_trace_with_a_path_of_bytes(tmp_path):
    with fasthooks.profile() as profiled:
        pass
    profiled.write_trace(os.fsencode(tmp_path / "trace.json"))
    assert os.listdir(tmp_path) == ["trace.json"]


# tf.estimator


@pytest.mark.skipif(not hasattr(tf, "estimator"), reason="this TensorFlow has no tf.estimator")
@pytest.mark.parametrize("every", [1, 10])
def test_an_estimator(tmp_path, every):
    def model_fn(features, labels, mode):
        loss = v1.get_variable("w", initializer=1.0) + 0.0
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=v1.train.get_global_step().assign_add(1))

    def inputs():
        return tf.data.Dataset.from_tensors((1.0, 1.0)).repeat()

    with fasthooks.patch(), captured_logs() as logs, fasthooks.profile(skip_steps=0) as profiled:
        config = tf.estimator.RunConfig(str(tmp_path), save_checkpoints_secs=600, log_step_count_steps=10)
        tf.estimator.Estimator(model_fn, config=config).train(inputs, [Trivial(), Sleeper(every)], steps=300)
    seen, = profiled.report()["sessions"]
    assert seen["turns"] == 300
    assert_adds_up(seen)
    assert next(row["hook"] for row in seen["hooks"] if row["calls"] > 100).startswith("Sleeper")
    assert len([row for row in seen["once"] if row["hook"].startswith(("Sleeper", "Trivial"))]) == 6
    assert "Sleeper" in warnings(logs)[0] and len(warnings(logs)) == 1
