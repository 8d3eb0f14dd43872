"""Profiles of programs that do what is rarely done: results, errors and log lines stay theirs, and the rows still add up."""

import contextlib
import gc
import json
import logging
import os
import sys
import threading
import weakref

import pytest
import tensorflow as tf
from helpers import captured_logs, v1
from test_profiling import SESSIONS, Acts, Sleeper, Slotted, Trivial, assert_adds_up, opened, slow_hooks_are_told, warnings

import fasthooks
from fasthooks import profiling
from fasthooks.step import _profile


@contextlib.contextmanager
def timed(collector):
    """Times all steps in a block with a collector of one's own."""
    before = _profile.install(collector)
    try:
        yield collector
    finally:
        _profile.install(before)


def seen_of(profiled):
    return profiled.report()["sessions"][0]


# How steps end, and where they are made


@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.parametrize("method", ["before_run", "after_run"])
def test_stop_iteration_of_a_hook(kind, method):
    class Stops(Trivial):
        ended = False

        def end(self, session):
            self.ended = True

    def stop(self, *args):
        raise StopIteration

    hook = Stops()
    with fasthooks.profile(skip_steps=0) as profiled, opened(kind, [hook]) as (session, op, _):
        session.run(op)
        setattr(Stops, method, stop)
        session.run(op)
    assert hook.ended
    seen = seen_of(profiled)
    assert (seen["turns"], seen["failed"]) == (1, 1)
    assert_adds_up(seen)


@pytest.mark.parametrize("kind", SESSIONS)
def test_steps_in_step_functions(kind):
    def step(step_context):
        return step_context.run_with_hooks(op), step_context.session.run(loss)

    def stop(step_context):
        step_context.run_with_hooks(op)
        step_context.request_stop()

    with opened(kind, [Trivial()]) as (session, op, loss), fasthooks.profile(skip_steps=0) as profiled:
        for _ in range(3):
            assert session.run_step_fn(step)[1] > 0
        with pytest.raises(StopIteration):
            session.run_step_fn(stop)
    seen = seen_of(profiled)
    assert (seen["turns"], seen["failed"], seen["loop"]["calls"], seen["own_runs_us_per_turn"]) == (4, 0, 3, 0.0)
    assert_adds_up(seen)


def test_a_profile_that_begins_and_ends_in_the_midst_of_a_step():
    profiles = [fasthooks.profile(skip_steps=0) for _ in range(2)]
    profiled = []

    def change(context):
        number = len(profiled)
        if number:
            profiles[number - 1].__exit__(None, None, None)
        if number < 2:
            profiled.append(profiles[number].__enter__())
        context.session.run(loss)
        session.run(loss, hooks=False)

    with opened("ours", [Trivial(), Acts(change), Trivial()]) as (session, op, loss):
        for _ in range(3):
            session.run(op)
    # The first one saw the step within the step in which it began, and then the step in which it ended.
    assert [seen_of(one)["turns"] for one in profiled] == [2, 2]
    for one in profiled:
        assert_adds_up(seen_of(one))


def test_a_session_that_is_closed_in_the_midst_of_a_step():
    with contextlib.suppress(RuntimeError), opened("ours", [Acts(lambda _: session.close()), Trivial()]) as opening:
        session, op, _ = opening
        with fasthooks.profile(skip_steps=0) as profiled:
            session.run(op)
    seen = seen_of(profiled)
    assert (seen["turns"], seen["failed"]) == (1, 0)
    assert_adds_up(seen)


def test_declined_runs_of_accelerated_sessions():
    with tf.Graph().as_default():
        fed = v1.placeholder(tf.float32)
        with fasthooks.accelerate(v1.Session()) as session, fasthooks.profile(skip_steps=0) as profiled:
            for _ in range(5):
                assert session.run(fed, {(fed,): (1.0,)}) == 1.0
                assert session.run(fed, {fed: 2.0}) == 2.0
            with pytest.raises(TypeError):
                session.run(object())
        with pytest.raises(RuntimeError, match="closed"):
            session.run(fed, {fed: 2.0})
    seen = seen_of(profiled)
    assert (seen["turns"], seen["failed"], seen["stock"]["calls"], seen["native"]["calls"]) == (10, 1, 5, 5)
    assert "5 of 10 steps took TensorFlow's own way" in profiled.table()
    assert_adds_up(seen)


@pytest.mark.parametrize("kind", SESSIONS)
def test_a_hook_that_is_listed_twice(kind):
    hook = Sleeper(1)
    with opened(kind, [hook, hook]) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        for _ in range(3):
            session.run(op)
    assert hook.runs == 6
    seen = seen_of(profiled)
    assert (seen["turns"], seen["stock"]["calls"], seen["hooks"]) == (3, 3, [])
    assert seen["stock"]["us_per_turn"] + seen["loop"]["us_per_turn"] == pytest.approx(seen["turn"]["us_per_turn"], rel=0.01)


# What is fed and fetched for the global step


def test_what_is_called_global_step_and_is_none():
    """TensorFlow raises when it is asked for such a step, or logs; nobody but the profile asks for it."""

    def float_step():
        return tf.Variable(1.0, name="global_step", trainable=False)

    def two_steps():
        steps = [tf.Variable(number, name=name, dtype=tf.int64) for number, name in enumerate(["one", "another"])]
        for step in steps:
            v1.add_to_collection(v1.GraphKeys.GLOBAL_STEP, step)
        return steps[0]

    def two_reads():
        step = v1.train.create_global_step()
        for _ in range(2):
            v1.add_to_collection("global_step_read_op_cache", tf.identity(step))
        return step

    for make in (float_step, two_steps, two_reads):
        with tf.Graph().as_default():
            step = make()
            with fasthooks.accelerate(v1.Session()) as session, captured_logs() as logs:
                session.run(v1.global_variables_initializer())
                with fasthooks.profile(skip_steps=0) as profiled:
                    for _ in range(3):
                        session.run(step)
        assert seen_of(profiled)["turns"] == 3, make
        assert seen_of(profiled)["turn"]["longest_step"] is None
        assert not logs, make


def test_a_global_step_that_is_fed_with_something_else():
    with tf.Graph().as_default():
        step = v1.placeholder_with_default(tf.constant([1, 2], tf.int64), None, name="global_step")
        with fasthooks.accelerate(v1.Session()) as session, fasthooks.profile(skip_steps=0, trace_steps=10) as profiled:
            assert session.run(step).tolist() == [1, 2]
            assert session.run(step, {step: 7}) == 7
    assert seen_of(profiled)["turns"] == 2


def test_sessions_that_are_counted_together_have_plans_of_their_own():
    with tf.Graph().as_default():
        step = v1.train.create_global_step()
        constants = [tf.constant(1.0)] * 3
        with fasthooks.profile(skip_steps=0) as profiled:
            for number in range(66):
                with fasthooks.accelerate(v1.Session()) as session:
                    session.run(step.initializer)
                    # The first plan of some has the step as its fourth value; that of others has but one value.
                    session.run([*constants, step] if number % 2 else constants[0])
    last = profiled.report()["sessions"][-1]
    assert last["turns"] == 6
    assert_adds_up(last)


# Hooks that are hard to name, to hold and to forget


class Raises(type):
    """A metaclass of classes that tell nothing of themselves."""

    def __getattribute__(cls, name):
        if name in ("__name__", "__mro__", "__dict__"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


class NoDict(Slotted):
    """A hook whose `__dict__` raises, and whose class nobody can name but `type`."""

    __slots__ = ()

    @property
    def __dict__(self):
        raise RuntimeError("__dict__")


def test_names():
    named = [Trivial() for _ in range(3)]
    named[0].name = "x" * 100_000
    named[1].name = "two\nlines \udc80"
    named[2].name = 3
    odd = type("Two\nlines" + "y" * 1000, (Trivial,), {})()
    with opened("ours", [NoDict(), *named, odd]) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        session.run(op)
    found = {row["hook"] for row in seen_of(profiled)["hooks"]}
    assert found == {
        "NoDict (hooks[0])", f"Trivial '{'x' * 57}...' (hooks[1])", "Trivial 'two\\nlines \\udc80' (hooks[2])",
        "Trivial (hooks[3])", f"Two\\nlines{'y' * 48}... (hooks[4])"}
    assert max(map(len, profiled.table().encode("utf-8").splitlines())) < 250
    json.dumps(profiled.report())


def test_the_name_of_a_class_that_tells_none():
    # TensorFlow and the dispatcher ask classes for more than this one tells.
    times = _profile._name(Raises("Odd", (), {"name": "known"})(), 7)
    assert times == "Odd 'known' (hooks[7])"


def test_sessions_and_graphs_are_not_held():
    with fasthooks.profile(skip_steps=0, trace_steps=10) as profiled:
        def train():
            with opened("ours", [Trivial(), Acts(lambda context: None)]) as (session, op, loss):
                for fetches in ([op, loss], {"loss": loss}):
                    session.run(fetches)
                return [weakref.ref(one) for one in (session, session.raw_session(), session.graph)]

        gone = train()
        gc.collect()
        assert [one() for one in gone] == [None] * 3
        assert profiled._collector.expected == {}
    assert seen_of(profiled)["turns"] == 2


def test_nothing_grows_with_the_steps():
    def size(collector):
        # All that the profile itself holds: containers, and objects of its module.
        found, waiting = {}, [collector]
        while waiting:
            one = waiting.pop()
            own = isinstance(one, (list, tuple, dict, str, int)) or type(one).__module__ == _profile.__name__
            if id(one) not in found and own and not isinstance(one, type):
                found[id(one)] = sys.getsizeof(one)
                waiting += gc.get_referents(one)
        return len(found), sum(found.values())

    hooks = [Trivial(), Acts(lambda context: context.session.run(loss)), Sleeper(10**6)]
    with timed(_profile.Collector(0, 5, 0.9, 0.0, lambda *args: None)) as collector, opened("ours", hooks) as opening:
        session, op, loss = opening
        sizes = []
        for _ in range(3):
            for number in range(40):
                session.run(op if number % 2 else [op, loss])
            sizes.append(size(collector))
    assert sizes[0][0] > 20 and len(set(sizes)) == 1
    assert collector.sessions[0].step.count == 120


# Warnings


class Refuses(logging.Filter):
    def filter(self, record):
        raise RuntimeError("no log lines here")


def test_a_log_that_refuses_the_warning():
    log = logging.getLogger("tensorflow")
    refuses = Refuses()
    with opened("ours", [Sleeper(1)]) as (session, op, _), fasthooks.profile(skip_steps=0) as profiled:
        log.addFilter(refuses)
        try:
            for _ in range(40):
                session.run(op)
        finally:
            log.removeFilter(refuses)
    assert seen_of(profiled)["turns"] == 40


def test_one_warning_however_often_a_profile_came_between():
    with slow_hooks_are_told(), captured_logs() as logs, opened("ours", [Sleeper(1)]) as (session, op, _):
        for _ in range(100):
            session.run(op, hooks=False)
        for _ in range(3):
            for _ in range(40):
                session.run(op)
            with fasthooks.profile(slow_hook_share=None):
                session.run(op)
        assert len(warnings(logs)) == 1
        assert len(profiling._watch.sessions) == 1


@pytest.mark.parametrize("kind", SESSIONS)
def test_one_warning_of_a_hook_whose_session_recovers(kind):
    """A session of another graph tells of the hook again."""
    def lose(context):
        runs.append(None)
        if len(runs) == 150:
            raise tf.errors.AbortedError(None, None, "lost")

    slow = Sleeper(1)
    with slow_hooks_are_told(), captured_logs() as logs:
        for expected in (1, 2):
            runs = []
            with opened(kind, [slow, Acts(lose)]) as (session, op, _):
                for _ in range(300):
                    session.run(op)
            assert len(warnings(logs)) == expected
        assert len(profiling._watch.sessions) == 4   # each of the two was lost once


# Threads


def test_it_is_read_while_steps_are_run(tmp_path):
    done = threading.Event()
    failed = []
    with opened("ours", [Trivial()]) as (session, op, _), fasthooks.profile(skip_steps=0, trace_steps=1000) as profiled:
        session.run(op)

        def read():
            try:
                while not done.is_set():
                    for seen in profiled.report()["sessions"]:
                        assert_adds_up(seen)
                    profiled.table()
                    profiled.write_trace(tmp_path / "trace.json")
            except BaseException as error:
                failed.append(error)
                raise

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(60):
            # A thread of its own for each: names come to the trace, too.
            thread = threading.Thread(target=lambda: [session.run([op] * (1 + number % 7)) for _ in range(5)])
            thread.start()
            thread.join()
        done.set()
        reader.join()
    assert not failed
    assert seen_of(profiled)["turns"] == 301


# Traces


def test_a_trace_into_no_directory(tmp_path):
    ran = []
    with pytest.raises(FileNotFoundError, match="nothing"), fasthooks.profile(trace=tmp_path / "nothing" / "trace.json"):
        ran.append(1)
    assert not ran
    with fasthooks.profile():  # none is in force
        pass


def test_a_trace_of_a_program_that_goes_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with fasthooks.profile(trace="trace.json"):
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "trace.json"]


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profiling.json, "dump", full)
    path = tmp_path / "trace.json"
    path.write_text("the one before")
    with pytest.raises(OSError, match="No space left"), fasthooks.profile(trace=path):
        pass
    # The program's own error is what its caller has to see.
    with captured_logs() as logs, pytest.raises(KeyError, match="mine"), fasthooks.profile(trace=path):
        raise KeyError("mine")
    assert [message for message in warnings(logs) if "No space left" in message]
    assert os.listdir(tmp_path) == ["trace.json"] and path.read_text() == "the one before"
    with fasthooks.profile():
        pass


@pytest.mark.parametrize("arguments", [{"skip_steps": 2**64}, {"trace_steps": 10**7}])
def test_numbers_that_are_too_large(arguments):
    with pytest.raises(ValueError, match="must be an int from 0 to"), fasthooks.profile(**arguments):
        pass
