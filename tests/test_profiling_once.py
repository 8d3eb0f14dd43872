"""What a profile tells of `begin`, `after_create_session` and `end`; hooks, lists and errors are TensorFlow's meanwhile."""

import contextlib
import threading
import time

import pytest
import tensorflow as tf
from helpers import MIXES, STOCK_MIX, assert_same, build_model, quick_creator, record, v1
from test_profiling import SESSIONS, Acts, Equal, Slotted, Trivial, assert_adds_up, opened

import fasthooks
from fasthooks import patching, session_calls

METHODS = {"begin": 0.003, "after_create_session": 0.002, "end": 0.001}


class Slow(v1.train.SessionRunHook):
    """Sleeps at the begin and end of a session."""

    def begin(self):
        time.sleep(METHODS["begin"])

    def after_create_session(self, session, coord):
        time.sleep(METHODS["after_create_session"])

    def end(self, session):
        time.sleep(METHODS["end"])


def calls(profiled, number=0):
    """(class of the hook, method) -> calls."""
    return {(row["hook"].partition(" ")[0], row["method"]): row["calls"] for row in profiled.report()["sessions"][number]["once"]}


def assert_is_as_it_was():
    """Asserts that no method that a profile replaces is replaced."""
    methods = [patching._OPENING[0], session_calls._create, session_calls._close]
    assert [method.installed or method.stands() for method in methods] == [False] * 3


@pytest.mark.parametrize("kind", SESSIONS)
def test_rows(kind):
    hooks = [Trivial(), Slow()]
    with fasthooks.profile(skip_steps=0) as profiled:
        began = time.perf_counter()
        with opened(kind, hooks) as (session, op, _):
            opening = time.perf_counter() - began
            assert session._hooks is session._coordinated_creator._hooks is hooks
            for _ in range(5):
                session.run(op)
            assert type(hooks) is list
            before = profiled.report()["sessions"][0]
            closed = time.perf_counter()
        closing = time.perf_counter() - closed
        assert session._hooks is hooks
    assert_is_as_it_was()
    seen = profiled.report()["sessions"][0]
    assert_adds_up(seen)
    # It is in no turn.
    assert {**seen, "once": 0} == {**before, "once": 0}
    slow = [row for row in seen["once"] if row["hook"] == "Slow (hooks[1])"]
    assert [(row["method"], row["calls"]) for row in slow] == [(method, 1) for method in METHODS]
    assert all(row["ms_per_call"] >= 1000 * METHODS[row["method"]] for row in slow)
    assert sum(row["ms_per_call"] for row in seen["once"]) <= 1000 * (opening + closing)
    assert {row["hook"] for row in seen["once"]} >= {"Slow (hooks[1])", "Trivial (hooks[0])"}
    text = profiled.table()
    assert "\n once a session " in text and "others of under 0.1 ms" in text
    assert text.index("fasthooks (quiet hooks") < text.index("once a session") < text.index("after_create_session")


def test_no_turns_but_a_begin():
    with fasthooks.profile() as profiled, opened("ours", [Slow()]) as (session, op, _):
        session.run(op)
    lines = [line.split() for line in profiled.table().splitlines()]
    assert lines[1] == ["once", "a", "session", "ms/call", "calls"] and lines[2][:3] == ["Slow", "(hooks[0])", "begin"]


@pytest.mark.parametrize("kind", SESSIONS)
def test_a_session_that_exists_when_the_profile_begins(kind):
    with contextlib.ExitStack() as stack:
        session, op, _ = stack.enter_context(opened(kind, [Slow()]))
        session.run(op)
        with fasthooks.profile(skip_steps=0) as profiled:
            session.run(op)
            stack.close()
    assert {method for _, method in calls(profiled)} == {"end"}


def test_a_profile_that_ends_before_the_session():
    with contextlib.ExitStack() as stack:
        with fasthooks.profile(skip_steps=0) as profiled:
            session, op, _ = stack.enter_context(opened("ours", [Slow()]))
            session.run(op)
        stack.close()
    assert {method for _, method in calls(profiled)} == {"begin", "after_create_session"}


def test_a_profile_that_ends_within_begin():
    profile = fasthooks.profile(skip_steps=0)
    hooks = [fasthooks.LambdaHook(begin=lambda: profile.__exit__(None, None, None)), Trivial()]
    profile.__enter__()
    with opened("ours", hooks) as (session, op, _):
        assert_is_as_it_was()
        session.run(op)
        assert session._hooks is session._coordinated_creator._hooks is session._sess._sess._sess._hooks is hooks


@pytest.mark.parametrize("kind", SESSIONS)
def test_a_session_that_recovers(kind):
    lost = [True]

    def lose(context):
        if lost and lost.pop():
            raise tf.errors.AbortedError(None, None, "lost")

    hooks = [Slow(), Acts(lose)]
    with fasthooks.profile(skip_steps=0) as profiled, opened(kind, hooks) as (session, op, _):
        for _ in range(3):
            session.run(op)
        assert session._coordinated_creator._hooks is hooks
    assert {method for hook, method in calls(profiled, 0) if hook == "Slow"} == {"begin", "after_create_session"}
    assert {method for hook, method in calls(profiled, 1) if hook == "Slow"} == {"after_create_session", "end"}
    assert profiled.report()["sessions"][1]["turns"] == 3


def test_a_session_that_a_hook_closes():
    with contextlib.suppress(RuntimeError):  # it is closed twice
        with fasthooks.profile(skip_steps=0) as profiled, opened("ours", [Slow(), Acts(lambda _: session.close())]) as opening:
            session, op, _ = opening
            session.run(op)
    # It is in the midst of a step; the second time there is no raw session any more.
    assert {method for _, method in calls(profiled)} == {"begin", "after_create_session"}


def test_hooks_that_are_called_more_than_once():
    twice = Slow()
    with fasthooks.profile(skip_steps=0) as profiled:
        with tf.Graph().as_default():
            one = tf.constant(1.0)
            for _ in range(64):
                with fasthooks.accelerate(v1.Session()) as session:
                    session.run(one)
            for _ in range(2):
                with fasthooks.MonitoredSession(v1.train.ChiefSessionCreator(), [twice, Equal(), twice]) as session:
                    session.run(one)
    seen = profiled.report()["sessions"]
    assert len(seen) == 64 and seen[-1]["turns"] == 3
    assert {key: number for key, number in calls(profiled, -1).items() if key[0] == "Slow"} == dict.fromkeys(
        [("Slow", method) for method in METHODS], 4)


def test_nothing_is_seen_of_tensorflows_own_sessions():
    with tf.Graph().as_default(), fasthooks.profile() as profiled:
        one = tf.constant(1.0)
        with v1.train.MonitoredSession(hooks=[Slow()]) as session:
            session.run(one)
    assert profiled.report()["sessions"] == []


def test_sessions_in_threads():
    with fasthooks.profile(skip_steps=0) as profiled:
        def work():
            with opened("ours", [Slow(), Slotted()]) as (session, op, _):
                session.run(op)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_is_as_it_was()
    assert len(profiled.report()["sessions"]) == 4
    for number in range(4):
        assert {key[1]: times for key, times in calls(profiled, number).items() if key[0] == "Slow"} == dict.fromkeys(METHODS, 1)


# Nothing else changes


FAILURES = [(None, None), *[(method, error) for method in METHODS for error in (ValueError, StopIteration)], ("run", KeyError),
            ("run", StopIteration)]


@pytest.mark.parametrize(("method", "error"), FAILURES, ids=str)
@pytest.mark.parametrize("mix", [name for name in MIXES if name != STOCK_MIX])
def test_programs_do_the_same(mix, method, error, tmp_path):
    def program(run):
        hooks = []

        class Tells(v1.train.SessionRunHook):
            def __init__(self, name, more=None):
                self.name, self.more = name, more

            def tell(self, called):
                # Lists are live.
                run.note(self.name, called, len(hooks))
                if called == self.more:
                    hooks.append(Tells(f"{self.name} {called}"))
                if (self.name, called) == ("second", method):
                    raise error(called)

            def begin(self):
                self.tell("begin")

            def after_create_session(self, session, coord):
                self.tell("after_create_session")

            def end(self, session):
                self.tell("end")

        hooks += [Tells("first", "begin"), Tells("second", "after_create_session"), Tells("third", "end")]
        hooks.append(run.api.StopAtStepHook(last_step=100))
        op, _ = build_model()
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            session.run(op)
            if method == "run":
                raise error("run")

    stock = record(program, MIXES[STOCK_MIX], tmp_path / "stock")
    with fasthooks.profile(skip_steps=0):
        ours = record(program, MIXES[mix], tmp_path / "ours")
    assert_same(ours, stock)
    assert_is_as_it_was()
