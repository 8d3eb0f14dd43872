"""Every, every and LambdaHook: on which runs they act and what they cost the others, in TensorFlow's sessions and in ours."""

import collections
import contextlib
import copy
import enum
import inspect
import itertools
import math
import pickle
import textwrap
import threading
import traceback
import types
from unittest import mock

import apart
import numpy as np
import pytest
import tensorflow as tf
from helpers import Clock, Fails, build_model, captured_logs, describe, make_train, v1
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.python.distribute import distribute_coordinator_context
from tensorflow.python.training import training_util

import fasthooks as fh
from fasthooks import patching
from fasthooks.triggers import _trigger

Args = v1.train.SessionRunArgs
fuzz = settings(max_examples=300, deadline=None, derandomize=True, database=None)
UNITS = ("steps", "iters", "secs")
METHODS = ("begin", "after_create_session", "before_run", "after_run", "end")


def counted():
    """A tensor and the variable that counts how often it was computed."""
    count = v1.get_variable("count", initializer=0, use_resource=True)
    return tf.identity(count.assign_add(1), name="counted"), count


class Probe(v1.train.SessionRunHook):
    """Notes all that it is called for, and asks for what it is told."""

    def __init__(self, ask=None, notes=None, name="probe"):
        self.ask, self.name = ask, name
        self.notes = [] if notes is None else notes
        self.results = []

    def begin(self):
        self.notes.append((self.name, "begin"))

    def after_create_session(self, session, coord):
        self.notes.append((self.name, "created", type(coord).__name__))

    def before_run(self, run_context):
        self.notes.append((self.name, "before"))
        return self.ask

    def after_run(self, run_context, run_values):
        self.notes.append((self.name, "after"))
        self.results.append(run_values.results)

    def end(self, session):
        self.notes.append((self.name, "end"))

    def calls(self):
        return [note[1] for note in self.notes]


class Counter(v1.train.SessionRunHook):
    """Tells which run is under way."""

    number = 0

    def before_run(self, run_context):
        self.number += 1


class Acts(v1.train.SessionRunHook):
    """Notes the numbers of the runs on which it acts, from 1, and that its methods come in pairs."""

    def __init__(self, counter=None):
        self.counter = Counter() if counter is None else counter
        self.runs = []
        self.open = False

    def before_run(self, run_context):
        assert not self.open
        self.open = True

    def after_run(self, run_context, run_values):
        assert self.open and run_values.results is None
        self.open = False
        self.runs.append(self.counter.number)


# When it acts


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(("steps", "increment", "first", "expected"), [
    (3, 1, 0, [1, 4, 7, 10]), (3, 2, 0, [2, 6, 10, 14]), (5, 7, 0, [7, 14, 21, 28]), (1, 1, 0, [1, 2, 3, 4]),
    (5, 2, 0, [2, 8, 14, 20]), (1000, 1, 1234, [1235, 2235]), (1000, 7, 1234, [1241, 2242])])
@pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "reference"])
def test_steps(way, steps, increment, first, expected, order, use_resource):
    train = make_train(increment, order, first, use_resource)
    acts, given = Acts(), []
    hooks = [acts.counter, fh.Every(acts, steps=steps), fh.every(steps=steps)(given.append)]
    way.run(hooks, train, (expected[-1] - first) // increment)
    reached = [first + number * increment for number in acts.runs]
    assert reached == expected
    # What the run returned, which is the step before it where the read comes first.
    assert given == [step - (increment if order == "before" else 0) for step in expected]
    assert all(type(step) is int for step in given)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(("increment", "steps", "expected"), [
    (1, 3, [1, 4, 7, 10]), (2, 3, [1, 3, 5, 7, 9]), (7, 5, [1, 3, 4, 5, 6, 7, 8, 9, 10]), (1, 1, list(range(1, 11)))])
def test_steps_where_the_graph_tells_no_increment(way, increment, steps, expected, order):
    """It is expected to grow as it last grew, at first by one."""
    fed = v1.placeholder(tf.int64, [])
    acts = Acts()
    way.run([acts.counter, fh.Every(acts, steps=steps)], make_train(fed, order), 10, {fed: increment})
    assert acts.runs == expected


def test_iters(way):
    acts, given = Acts(), []
    hooks = [acts.counter, fh.Every(acts, iters=3), fh.every(iters=3)(given.append)]
    way.run(hooks, make_train(7), 9)
    assert acts.runs == [1, 4, 7]
    assert given == [7, 28, 49]


def test_secs(way, clock):
    acts, given = Acts(), []
    hooks = [acts.counter, fh.Every(acts, secs=60), fh.every(secs=60.0)(given.append)]
    train = make_train()
    with way.session(hooks) as session:
        for now in (1000, 1001, 1059.99, 1060, 1119, 1200, 1259, 1260, 900, 1319, 1320):
            clock.now = now
            session.run(train)
        way.check(session, 11)
    assert acts.runs == given == [1, 4, 6, 8, 11]


def test_secs_count_from_the_begin_of_the_run(way, clock):
    acts = Acts()

    class Takes(v1.train.SessionRunHook):
        def after_run(self, run_context, run_values):
            clock.tick(50)

    way.run([acts.counter, Takes(), fh.Every(acts, secs=100)], make_train(), 7)
    assert acts.runs == [1, 3, 5, 7]


@pytest.mark.parametrize(("steps", "expected"), [(1, [1, 2]), (2, [1]), (5, [1])])
def test_a_step_that_stands_still(way, steps, expected):
    make_train(order="before")
    acts, always = Acts(), Acts()
    hooks = [acts.counter, fh.Every(acts, steps=steps), always.counter, fh.Every(always, iters=1)]
    way.run(hooks, tf.constant(1), 6)
    assert acts.runs == expected
    assert always.runs == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("unit", ["iters", "secs"])
def test_without_a_global_step_the_function_gets_the_number_of_the_run(way, clock, unit):
    given = []
    one = tf.constant(1)
    hook = fh.every(**{unit: 3}, at_end=True)(given.append)
    for _ in range(2):
        with way.session([hook]) as session:
            for _ in range(8):
                session.run(one)
                clock.tick()
    assert given == [1, 4, 7, 8] * 2


def test_each_session_begins_anew(way):
    train = make_train()
    acts, given = Acts(), []
    hooks = [acts.counter, fh.Every(acts, steps=4), fh.every(iters=4)(given.append)]
    for _ in range(2):
        way.run(hooks, train, 6)
    assert acts.runs == [1, 5, 7, 11]
    assert given == [1, 5, 1, 5]


def test_every_in_every(way):
    train = make_train()
    inner, by_steps, always = Acts(), Acts(), Acts()
    hooks = [
        inner.counter, fh.Every(fh.Every(inner, iters=2), iters=3), by_steps.counter,
        fh.Every(fh.Every(by_steps, steps=6), steps=3), always.counter, fh.Every(fh.Every(always, steps=1), steps=1)]
    way.run(hooks, train, 20)
    assert inner.runs == [1, 7, 13, 19]
    assert by_steps.runs == [1, 7, 13, 19]
    assert always.runs == list(range(1, 21))


def ceil(a, b):
    return -(-a // b)


@pytest.fixture(scope="module")
def graphs():
    """Graphs whose step grows by a constant, by its amount; None: the graph does not tell."""
    made = {}
    for increment in (None, 1, 2, 3, 7):
        made[increment] = tf.Graph()
        with made[increment].as_default():
            make_train(v1.placeholder(tf.int64, []) if increment is None else increment)
    return made


CONTEXT = v1.train.SessionRunContext(Args(None), None)


class ByHand:
    """A periodic hook, called as a session calls it.

    Args:
      graph: In which it begins.
      **period: Of the Every.
    """

    def __init__(self, graph, **period):
        self.probe = Probe()
        self.hook = fh.Every(self.probe, **period)
        with graph.as_default():
            self.hook.begin()
        self.hook.after_create_session(None, None)

    def before(self):
        """Begins a run; returns whether it acts."""
        self.request = self.hook.before_run(CONTEXT)
        return self.request is not None and type(self.request.fetches) is dict

    def after(self, acts, step):
        results = {"global_step": step} if acts else step
        self.hook.after_run(CONTEXT, v1.train.SessionRunValues(results, None, None))

    def run(self, step):
        acts = self.before()
        self.after(acts, step)
        return acts


class Reference:
    """The rule, slowly."""

    def __init__(self, steps, constant):
        self.steps, self.constant = steps, constant
        self.seen = self.growth = self.last = None

    def expected(self):
        return self.seen + (self.constant if self.constant is not None else self.growth or 1)

    def before(self):
        return self.last is None or (self.seen is not None and self.expected() >= self.last + self.steps)

    def after(self, acts, step):
        if acts:
            candidates = [step] if self.seen is None else [step, self.expected()]
            self.last = max([*candidates, *([] if self.last is None else [self.last])])
        if self.seen is not None and step > self.seen:
            self.growth = step - self.seen
        self.seen = step if self.seen is None else max(step, self.seen)


@fuzz
@given(
    steps=st.integers(1, 12), constant=st.sampled_from([None, 1, 2, 3, 7]), dtype=st.sampled_from([int, np.int64, np.int32]),
    first=st.sampled_from([0, 5, 2**31 - 7, 2**53]),
    events=st.lists(st.one_of(st.integers(-2, 9), st.sampled_from(["fails", "recovers"])), max_size=60))
def test_steps_against_the_rule_in_plain_python(graphs, steps, constant, dtype, first, events):
    hook, reference = ByHand(graphs[constant], steps=steps), Reference(steps, constant)
    if dtype is np.int32:
        first = min(first, 2**31 - 600)
    step = first
    acted = []
    for event in events:
        if event == "recovers":
            hook.hook.after_create_session(None, None)
            reference.seen = None
            step = max(first, step - 10)
            continue
        acts = hook.before()
        assert acts == reference.before()
        if event != "fails":
            step += event
            hook.after(acts, dtype(step))
            reference.after(acts, step)
            acted += [step] * acts
    assert hook.probe.calls().count("after") == len(acted)


@fuzz
@given(
    steps=st.integers(1, 40), constant=st.sampled_from([1, 2, 3, 7]), first=st.integers(0, 1000), before=st.booleans())
def test_with_ordered_reads_every_period_is_exact(graphs, steps, constant, first, before):
    hook = ByHand(graphs[constant], steps=steps)
    acted = [number for number in range(120) if hook.run(first + (number + (not before)) * constant)]
    assert acted == list(range(0, 120, ceil(steps, constant)))


@fuzz
@given(steps=st.integers(1, 40), constant=st.sampled_from([1, 2, 3, 7]), late=st.lists(st.booleans(), min_size=120, max_size=120))
def test_where_nothing_orders_the_read_a_period_is_at_most_one_run_longer_or_shorter(graphs, steps, constant, late):
    hook = ByHand(graphs[constant], steps=steps)
    acted = [number for number in range(120) if hook.run((number + late[number]) * constant)]
    exact = ceil(steps, constant)
    assert all(abs(after - before - exact) <= 1 for before, after in itertools.pairwise(acted))


@fuzz
@given(secs=st.floats(0.01, 100), ticks=st.lists(st.floats(-5, 50), max_size=60), iters=st.integers(1, 9))
def test_secs_and_iters_against_the_rule_in_plain_python(graphs, secs, ticks, iters):
    with mock.patch("time.time", Clock()) as fake:
        timed, numbered = ByHand(graphs[1], secs=secs), ByHand(graphs[1], iters=iters)
        last = None
        for number, tick in enumerate(ticks):
            due = last is None or fake.now >= last + secs
            assert timed.run(None) == due
            assert numbered.run(None) == (number % iters == 0)
            last = fake.now if due else last
            fake.tick(tick)


@pytest.mark.parametrize("now", [1000, np.float64(1000.0), np.float32(1000.0), 1000.0], ids=repr)
def test_clocks_of_other_types(graphs, now):
    with mock.patch("time.time", Clock(now)) as fake:
        hook = ByHand(graphs[1], secs=2)
        acted = []
        for _ in range(5):
            acted.append(hook.run(None))
            fake.now += 1
    assert acted == [True, False, True, False, True]


def test_a_clock_that_tells_no_number(graphs):
    with mock.patch("time.time", return_value=None):
        hook = ByHand(graphs[1], secs=2)
        assert [hook.run(None) for _ in range(2)] == [True, True]  # nothing to count from
    with mock.patch("time.time", Clock()) as fake:
        assert hook.run(None)
        with mock.patch("time.time", return_value="now"):
            assert not hook.run(None)
        fake.tick(2)
        assert hook.run(None)


@pytest.mark.parametrize("train", [fh, v1.train], ids=["our_session", "adopted"])
def test_the_clock_is_read_once_for_all_hooks_and_only_for_seconds(train, clock):
    with tf.Graph().as_default():
        op = make_train()
        hooks = [fh.Every(Probe(), **{unit: 10**6}) for unit in UNITS * 2]
        with train.MonitoredSession(hooks=hooks) as session:
            session.run(op)
            reads = clock.reads
            session.run(op)
            assert clock.reads == reads + 1
            hooks[2:] = hooks[3:5]
            reads = clock.reads
            session.run(op)
            assert clock.reads == reads


def test_huge_steps_and_periods(graphs):
    for first in (2**31 - 3, 2**53 - 3, 2**60):
        hook = ByHand(graphs[1], steps=3)
        assert [hook.run(np.int64(first + i)) for i in range(8)] == [True, False, False] * 2 + [True, False]
    for period in ({"steps": 10**30}, {"iters": 10**30}, {"steps": 2**63 - 1}, {"iters": 2**63}):
        hook = ByHand(graphs[1], **period)
        assert [hook.run(np.int64(i)) for i in range(4)] == [True, False, False, False]
    hook = ByHand(graphs[1], steps=3)
    assert [hook.run(np.int32(2**30 + i)) for i in range(8)] == [True, False, False] * 2 + [True, False]


def test_periods_that_are_changed_are_heeded_at_once(way):
    acts = Acts()
    hook = fh.Every(acts, iters=3)
    train = make_train()
    with way.session([acts.counter, hook]) as session:
        for i in range(12):
            if i == 6:
                hook._iters = 2
            session.run(train)
    assert acts.runs == [1, 4, 7, 9, 11]


# What a run asks for


@pytest.mark.parametrize("unit", UNITS)
def test_fetches_are_computed_on_the_runs_that_act_alone(way, unit):
    tensor, count = counted()
    probe, values = Probe(Args(tensor)), []
    hooks = [fh.Every(probe, **{unit: 4}), fh.every(**{unit: 4}, fetches=tensor)(lambda step, value: values.append(value))]
    train = make_train()
    with way.session(hooks) as session:
        for _ in range(10):
            session.run(train)
        raw = session.raw_session() if hasattr(session, "raw_session") else session._tf_sess()
        computed = raw.run(count)
        way.check(session, 10)
    # Both acted on the same runs, and the tensor is part of those once.
    assert computed == len(probe.results) == (1 if unit == "secs" else 3)
    assert probe.results == values == list(range(1, computed + 1))


Pair = collections.namedtuple("Pair", ["first", "second"])


def structures():
    """What hooks ask for, by name."""
    x = tf.constant([1.0, 2.0], name="x")
    v1.get_variable("v", initializer=3.0, use_resource=True)
    return {
        "scalar": tf.constant(1.5), "array": x, "name": "x:0", "dict": {"a": x, "b": tf.constant(2)}, "list": [x, [x]],
        "namedtuple": Pair(x, {"deep": (x,)}), "operation": x.op, "variable": v1.global_variables()[-1],
        "sparse": tf.SparseTensor([[0]], [1.0], [2]), "empty": [], "global_step": {"global_step": x}, "hook": {"hook": x},
        "string": tf.constant("s")}


STRUCTURES = ("scalar", "array", "name", "dict", "list", "namedtuple", "operation", "variable", "sparse", "empty",
              "global_step", "hook", "string")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", STRUCTURES)
def test_results_have_the_structure_that_was_asked_for(way, kind, unit):
    train = make_train()
    asked = structures()[kind]
    peer, probe, values = Probe(Args(asked)), Probe(Args(asked)), []
    way.run([peer, fh.Every(probe, **{unit: 1e-9 if unit == "secs" else 2}),
             fh.every(iters=2, fetches=asked)(lambda step, value: values.append(value))], train, 3)
    expected = [describe(result) for result in peer.results]
    assert [describe(result) for result in probe.results] == (expected if unit == "secs" else expected[::2])
    assert [describe(value) for value in values] == expected[::2]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ask", [None, Args(None)], ids=["None", "no_fetches"])
def test_a_hook_that_asks_for_nothing(way, unit, ask):
    probe = Probe(ask)
    way.run([fh.Every(probe, **{unit: 2})], make_train(), 3)
    assert set(probe.results) == {None}
    assert probe.calls().count("before") == probe.calls().count("after") == (1 if unit == "secs" else 2)


def test_context_and_values(way):
    tensor = tf.constant(1.0)
    seen = []

    class Hook(v1.train.SessionRunHook):
        def before_run(self, run_context):
            seen.append(run_context)
            return Args(tensor, options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE))

        def after_run(self, run_context, run_values):
            seen.extend([run_context, run_values])
            run_context.request_stop()

    train = make_train()
    with way.session([fh.Every(Hook(), steps=10)]) as session:
        session.run([train, tensor], {tensor: 4.0})
        raw = session._tf_sess()
        assert session.should_stop()
    before, after, values = seen
    for context in (before, after):
        assert context.original_args == Args([train, tensor], {tensor: 4.0})
        assert context.session is raw
    assert isinstance(values, v1.train.SessionRunValues)
    assert values.results == 4.0
    assert values.options.trace_level == v1.RunOptions.FULL_TRACE
    assert values.run_metadata.step_stats.dev_stats


@pytest.mark.parametrize("unit", ["steps", "iters"])
def test_feeds_and_options_are_part_of_the_runs_that_act_alone(way, unit):
    fed = v1.placeholder_with_default(0.0, [])
    traced = []

    class Hook(v1.train.SessionRunHook):
        def before_run(self, run_context):
            return Args(None, {fed: 5.0}, v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE))

    class Watch(v1.train.SessionRunHook):
        def after_run(self, run_context, run_values):
            traced.append(bool(run_values.run_metadata.step_stats.dev_stats))

    train = make_train()
    with way.session([fh.Every(Hook(), **{unit: 3}), Watch()]) as session:
        values = [session.run([train, fed])[1] for _ in range(7)]
        assert values == [5, 0, 0, 5, 0, 0, 5]
        assert traced == [True, False, False] * 2 + [True]
        session.run([train, fed], {fed: 1.0})
        session.run([train, fed], {fed: 1.0})
        with pytest.raises(RuntimeError, match="Same tensor is fed by a SessionRunHook and user"):
            session.run([train, fed], {fed: 1.0})


def test_order_of_the_list(way):
    notes = []
    hooks = [Probe(None, notes, "a"), fh.Every(Probe(None, notes, "b"), steps=2), Probe(None, notes, "c"),
             fh.every(steps=2)(lambda step: notes.append(("d", "after")))]
    way.run(hooks, make_train(), 3)
    acting = [("a", "before"), ("b", "before"), ("c", "before"), ("a", "after"), ("b", "after"), ("c", "after"), ("d", "after")]
    quiet = [("a", "before"), ("c", "before"), ("a", "after"), ("c", "after")]
    calls = [note for note in notes if note[1] in ("before", "after")]
    assert calls == acting + quiet + acting
    outer = [note for note in notes if note[1] in ("begin", "end")]
    assert outer == [(name, what) for what in ("begin", "end") for name in "abc"]


@pytest.mark.parametrize("make", [
    lambda: v1.train.LoggingTensorHook({"loss": "loss:0"}, every_n_iter=1),
    lambda: fh.LoggingTensorHook({"loss": "loss:0"}, every_n_iter=1)], ids=["theirs", "ours"])
def test_stock_hooks_in_every(way, make):
    train, _ = build_model()
    with captured_logs() as logs:
        way.run([fh.Every(make(), steps=4)], train, 10)
    assert [message.split()[2].rstrip(",") for _, _, message in logs if message.startswith("loss = ")] == ["0.0", "4.0", "8.0"]


def test_native_runs():
    """One a step, whatever the hooks do; counted where Python hands over to TensorFlow."""
    program = textwrap.dedent("""
        import tensorflow as tf
        from tensorflow.python.client import pywrap_tf_session
        v1 = tf.compat.v1
        native, counts = pywrap_tf_session.TF_SessionRun_wrapper, []

        def count(*args):
            counts[-1] += 1
            return native(*args)

        pywrap_tf_session.TF_SessionRun_wrapper = count
        import fasthooks as fh
        for train, adopts in ((fh, True), (v1.train, True), (v1.train, False)):
            fh.adopt(adopts)
            with tf.Graph().as_default():
                op = v1.train.create_global_step().assign_add(1)
                loss = tf.constant(1.0)
                hooks = [fh.Every(v1.train.LoggingTensorHook([loss], every_n_iter=1), **period)
                         for period in ({"steps": 3}, {"iters": 2}, {"secs": 1e-9}, {"secs": 1e9})]
                hooks += [fh.every(steps=3, fetches=loss)(print), fh.every(iters=2, fetches=loss)(print)]
                counts.append(0)
                with train.MonitoredSession(hooks=hooks) as session:
                    counts[-1] = 0
                    for _ in range(12):
                        session.run(op)
                    steps = counts[-1]
                    planned = fh.report(session)["planned_steps"] if adopts else None
                print("counted", steps, planned, counts[-1] - steps)
    """)
    done = apart.run(program, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("counted")]
    assert lines == ["counted 12 12 0", "counted 12 12 0", "counted 12 None 0"], done.stderr


# How sessions end, fail and recover


def ends(way, hooks, train, error, steps=5):
    """Runs steps, then raises an error in the session's block."""
    try:
        with way.session(hooks) as session:
            for _ in range(steps):
                session.run(train)
            if error is not None:
                raise error
    except ArithmeticError:
        assert isinstance(error, ArithmeticError)


ENDS = [None, StopIteration(), tf.errors.OutOfRangeError(None, None, "over"), ArithmeticError()]


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
def test_ends(way, error):
    calls = []
    probe = Probe(Args(tf.constant(1)))
    hooks = [fh.Every(probe, iters=3, at_end=True), fh.every(iters=3, at_end=True)(calls.append),
             fh.LambdaHook(end=lambda session: calls.append(type(session).__name__))]
    ends(way, hooks, make_train(), error)
    failed = isinstance(error, ArithmeticError)
    created = ["begin", "created"]
    assert probe.calls() == [*created, *["before", "after"] * 2, *([] if failed else ["before", "after", "end"])]
    assert calls == [1, 4] if failed else [1, 4, 5, "Session"]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("steps", [0, 1, 4, 5])
def test_at_end(way, clock, unit, steps, order):
    """It acts for the last step, unless it has, or there was none."""
    tensor, _ = counted()
    train = make_train(order=order)
    probe, alone, valued = Probe(Args(tensor)), [], []
    period = {unit: 3, "at_end": True}
    hooks = [fh.Every(probe, **period), fh.every(**period)(alone.append),
             fh.every(**period, fetches="v:0")(lambda step, value: valued.append((step, value)))]
    tf.constant(2.5, name="v")
    with way.session(hooks) as session:
        for _ in range(steps):
            session.run(train)
            clock.tick()
    number = {0: 0, 1: 1, 4: 2, 5: 3}[steps]
    assert probe.results == list(range(1, number + 1))
    assert probe.calls()[-1] == "end" and probe.calls().count("before") == number
    early = order == "before"
    acting = [step - early for step in (1, 4) if step <= steps]
    # The variable is read at the end, and not through the read of hooks, which here would make one more step.
    last = [steps] if steps == 5 else []
    assert [step for step, _ in valued] == acting + last
    assert {value for _, value in valued} <= {2.5}
    assert alone == acting + ([steps - early] if unit == "steps" and last else last)


@pytest.mark.parametrize(("obstacle", "why"), [
    ("input", "the input is used up"), ("placeholder", "it needs the placeholder fed"),
    ("collective", "CollectiveReduce needs the other workers")])
@pytest.mark.parametrize("kind", ["hook", "function"])
def test_at_end_with_an_obstacle(way, obstacle, why, kind):
    if obstacle == "input":
        tensor = v1.data.make_one_shot_iterator(tf.data.Dataset.range(5)).get_next()
    elif obstacle == "placeholder":
        tensor = 2 * v1.placeholder(tf.float32, [], name="fed")
    else:
        tensor = -tf.raw_ops.CollectiveReduce(input=1.0, group_size=1, group_key=1, instance_key=1, merge_op="Add",
                                              final_op="Id", subdiv_offsets=[0])
    # The run that finds no input moves no step.
    with tf.control_dependencies([tensor] if obstacle == "input" else []):
        train = make_train()
    probe, values, alone = Probe(Args(tensor)), [], []
    hooks = [
        fh.Every(probe, iters=3, at_end=True) if kind == "hook"
        else fh.every(iters=3, at_end=True, fetches=tensor)(lambda step, value: values.append(step)),
        fh.every(iters=3, at_end=True)(alone.append)]
    feed = {"fed:0": 1.0} if obstacle == "placeholder" else None
    with captured_logs() as logs:
        try:
            with way.session(hooks) as session:
                for _ in range(100 if obstacle == "input" else 5):
                    session.run([train, tensor] if obstacle == "input" else train, feed)
        except tf.errors.OutOfRangeError:
            pytest.fail("it ends the session")
    lines = [message for _, level, message in logs if level == "WARNING"]
    assert len(lines) == 1
    assert lines[0].endswith(f" does not act after the last step: {why}.")
    assert lines[0].startswith("Every(Probe)" if kind == "hook" else "every(")
    # The hook is ended all the same, and a function without fetches is called.
    assert alone == [1, 4, 5]
    if kind == "hook":
        assert len(probe.results) == 2 and probe.calls()[-1] == "end"
    else:
        assert values == [1, 4]


def test_at_end_with_what_the_hook_feeds_itself(way):
    fed = v1.placeholder(tf.float32, [], name="fed")
    sparse = v1.sparse_placeholder(tf.float32, [2])
    tensor = 2 * fed + tf.reduce_sum(tf.sparse.to_dense(sparse))
    options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
    value = v1.SparseTensorValue([[0]], [1.0], [2])
    traced = []

    class Hook(Probe):
        def after_run(self, run_context, run_values):
            super().after_run(run_context, run_values)
            traced.append(bool(run_values.run_metadata.step_stats.dev_stats))
            run_context.request_stop()
            assert run_context.session is not None

    probe = Hook(Args(tensor, {"fed:0": 3.0, sparse: value}, options))
    train = make_train()
    with way.session([fh.Every(probe, iters=5, at_end=True)]) as session:
        session.run(train)
    assert len(probe.results) == 1
    train_again = Hook(Args(tensor, {fed: 4.0, sparse: value}, options))
    train_again.after_run = types.MethodType(lambda self, context, values: self.results.append(values.results), train_again)
    way.run([fh.Every(train_again, iters=5, at_end=True)], train, 2)
    assert train_again.results == [9.0, 9.0]
    assert traced == [True]


def test_an_error_of_the_run_after_the_last_step_is_raised(way):
    train = make_train()
    # Good until the variable, which nothing but the train op moves, is 2.
    bad = tf.debugging.check_numerics(1.0 / tf.cast(2 - v1.train.get_global_step(), tf.float32), "bad")
    for hook in (fh.Every(Probe(Args(bad)), iters=10, at_end=True), fh.every(iters=10, at_end=True, fetches=bad)(Probe)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="bad"):
            way.run([hook, fh.LambdaHook(after_create_session=lambda session, coord: None)], [train], 2)


def test_the_hook_ends_where_its_run_after_the_last_step_fails(way):
    class Ends(Probe):
        def before_run(self, run_context):
            if run_context.original_args.fetches is None:
                raise ValueError("no fetches")
            return super().before_run(run_context)

    hook = Ends()
    train = make_train()
    with pytest.raises(ValueError, match="no fetches"), way.session([fh.Every(hook, iters=2, at_end=True)]) as session:
        for _ in range(2):
            session.run(train)
    assert hook.notes[-1][:2] == ("probe", "end")


@pytest.mark.parametrize("unit", ["steps", "iters"])
def test_ints_of_a_class_of_their_own(way, unit):
    class Period(enum.IntEnum):
        THREE = 3

    hook = Acts()
    train = make_train()
    way.run([hook.counter, fh.Every(hook, **{unit: Period.THREE})], train, 7)
    assert hook.runs == [1, 4, 7]


def test_the_hook_may_make_the_global_step(way):
    class Makes(Probe):
        def begin(self):
            v1.train.get_or_create_global_step()
            super().begin()

    hook = Makes()
    way.run([fh.Every(hook, steps=5)], tf.constant(1), 3)
    assert [note[1] for note in hook.notes].count("before") == 1


@pytest.mark.parametrize("unit", UNITS)
def test_a_run_that_fails_is_made_up_for(way, clock, unit):
    fed = v1.placeholder_with_default(0.0, [])
    train = make_train()
    probe, given = Probe(), []
    with way.session([fh.Every(probe, **{unit: 3}), fh.every(**{unit: 3})(given.append)]) as session:
        for i in range(9):
            if i in (3, 4):
                with pytest.raises(ValueError):
                    session.run(train, {fed: "no number"})
            else:
                session.run(train)
            clock.tick()
    # The fourth run and the fifth were due and failed; the next one makes up for them.
    assert given == [1, 4, 7]
    assert probe.calls().count("before") == 5 and len(probe.results) == 3


@pytest.mark.parametrize("unit", UNITS)
def test_a_run_that_fails_in_what_it_acts_for_is_made_up_for(way, clock, unit):
    train, acted = make_train(), []

    def act(step):
        acted.append(step)
        if len(acted) == 2:
            raise ValueError("once")

    with way.session([fh.every(**{unit: 3})(act)]) as session:
        for run in range(1, 10):
            with pytest.raises(ValueError, match="once") if run == 4 else contextlib.nullcontext():
                session.run(train)
            clock.tick()
    assert acted == [1, 4, 5, 8]


@pytest.mark.parametrize("unit", ["steps", "iters"])
def test_recovery_to_an_earlier_step(way, tmp_path, unit):
    train, loss = build_model()
    acted, probe, created = [], Probe(), []
    fails = Fails([14], tf.errors.AbortedError(None, None, "lost"))
    hooks = [
        fh.every(**{unit: 4})(acted.append), fh.Every(probe, **{unit: 4}),
        fh.LambdaHook(after_create_session=lambda session, coord: created.append(type(coord).__name__)),
        v1.train.CheckpointSaverHook(str(tmp_path), save_steps=8), fails]
    with way.session(hooks, v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path))) as session:
        returned = [int(session.run([loss, train])[0]) for _ in range(24)]
    # The fourteenth run fails after it was made, and the session goes back to the checkpoint of step 8.
    assert returned == [*range(13), *range(8, 19)]
    assert created == ["Coordinator"] * 2
    assert probe.calls().count("begin") == 1 and probe.calls().count("created") == 2
    # In steps: nothing for steps that it acted for. In runs: the count goes on, and the hooks before the one that failed were
    # told of its run.
    assert acted == ([0, 4, 8, 12, 16] if unit == "steps" else [0, 4, 8, 12, 10, 14, 18])
    assert len(probe.results) == len(acted)


@pytest.mark.parametrize("unit", UNITS)
def test_the_first_run_after_a_recovery_only_reads_the_step(graphs, clock, unit):
    hook = ByHand(graphs[1], **{unit: 3})
    assert [hook.run(step) for step in (1, 2, 3)] == [True, False, False]
    hook.hook.after_create_session(None, None)
    clock.tick(5)
    assert hook.run(50) == (unit != "steps")
    assert hook.run(51) == (unit == "steps")


def test_recovery_before_anything_was_done(way, tmp_path):
    train = make_train()
    acted = []
    hooks = [Fails([1], tf.errors.AbortedError(None, None, "lost")), fh.every(steps=4)(acted.append)]
    with way.session(hooks, v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path))) as session:
        for _ in range(6):
            session.run(train)
    assert acted == [1, 5]


# Threads


def in_thread(function, *args):
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*args)))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("unit", UNITS)
def test_while_a_run_acts_no_other_thread_acts_in_its_place(graphs, clock, unit):
    hook = ByHand(graphs[1], **{unit: 4})

    def run(step):
        clock.tick()
        return hook.run(np.int64(step))

    assert hook.before()
    # The first run is under way.
    assert not any(in_thread(run, step) for step in range(2, 5))
    hook.after(True, np.int64(1))
    acted = [step for step in range(5, 11) if run(step)]
    # Of the first run's step the others knew only that it could not be past theirs.
    assert acted == ([6, 10] if unit == "steps" else [5, 9])


@pytest.mark.parametrize("unit", UNITS)
def test_a_claim_of_a_run_that_failed_holds_for_one_period_at_most(graphs, clock, unit):
    """The thread that made it acts on its next run; the others do if it makes none."""
    hook = ByHand(graphs[1], **{unit: 4})
    assert hook.run(np.int64(1))
    for step in (2, 3, 4):
        clock.tick()
        assert not hook.run(np.int64(step))
    clock.tick()
    assert in_thread(hook.before)  # and fails
    acted = []
    for step in range(5, 12):
        acted += [step] * hook.run(np.int64(step))
        clock.tick()
    assert acted == [9]
    assert in_thread(hook.before) == hook.before()
    hook = ByHand(graphs[1], **{unit: 4})
    assert in_thread(hook.before)
    assert hook.run(np.int64(1)) is False


def test_threads(way):
    tensor, _ = counted()
    train = make_train()
    results, errors = collections.Counter(), []

    class Hook(v1.train.SessionRunHook):
        def before_run(self, run_context):
            results["before"] += 1
            return Args({"value": tensor})

        def after_run(self, run_context, run_values):
            results["after"] += 1
            results[tuple(run_values.results)] += 1

    note = fh.every(iters=10, fetches="counted:0")(lambda step, value: results.update(["function"]))
    hooks = [fh.Every(Hook(), iters=10), note]
    with way.session(hooks) as session:

        def loop():
            try:
                for _ in range(200):
                    session.run(train)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=loop) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        way.check(session, 400)
    assert not errors
    assert results["before"] == results["after"] == results["value",]
    # Runs that end while another begins may delay the next one that acts; none acts early.
    assert 30 <= results["after"] <= 40
    assert 30 <= results["function"] <= 40


def test_run_inside_the_hook(way):
    """The run that a hook makes in its action is no occasion to act again."""
    train = make_train()
    calls = []

    class Runs(v1.train.SessionRunHook):
        def after_run(self, run_context, run_values):
            calls.append("acts")
            self.session.run(train)

    hook = Runs()
    with way.session([fh.Every(hook, iters=3)]) as session:
        hook.session = session
        for _ in range(4):
            session.run(train)
        assert calls == ["acts"] * 2


def test_two_sessions_at_a_time(way):
    """They share the hook, as with TensorFlow's hooks: the runs of both count."""
    train = make_train()
    acted = []
    hook = fh.every(iters=4)(lambda step: acted.append(step))
    with way.session([hook]) as one, way.session([hook]) as other:
        for _ in range(4):
            one.run(train)
            other.run(train)
        way.check(one, 4)
        way.check(other, 4)
    assert acted == [1, 3]


# Functions


MODULES_CALLS = []


@fh.every(steps=2, fetches={"loss": "loss:0"})
def of_the_module(step, values):
    """Notes the loss."""
    MODULES_CALLS.append((step, values["loss"]))


def test_a_function_of_a_module_serves_graphs_that_are_built_later(way):
    MODULES_CALLS.clear()
    for loss in (1.0, 2.0):
        with tf.Graph().as_default():
            tf.constant(loss, name="loss")
            way.run([of_the_module], make_train(), 3)
    assert MODULES_CALLS == [(1, 1.0), (3, 1.0), (1, 2.0), (3, 2.0)]


def test_fetches_by_a_function(way):
    values = []
    make = mock.Mock(side_effect=lambda: {"twice": 2 * v1.get_default_graph().get_tensor_by_name("loss:0")})
    hook = fh.every(iters=2, fetches=make)(lambda step, value: values.append(value))
    for loss in (1.0, 2.0):
        with tf.Graph().as_default():
            tf.constant(loss, name="loss")
            way.run([hook], make_train(), 3)
    assert values == [{"twice": 2.0}] * 2 + [{"twice": 4.0}] * 2
    assert make.call_count == 2


@pytest.mark.parametrize(("fetches", "error"), [
    ("nowhere:0", ValueError), (["nowhere"], ValueError), ({"a": 1.5}, TypeError), (lambda: None, TypeError)],
    ids=["tensor", "list", "number", "nothing"])
def test_fetches_that_are_none(way, fetches, error):
    make_train()
    with pytest.raises(error, match=r"nowhere|1\.5|None"):
        way.session([fh.every(iters=1, fetches=fetches)(print)])


def test_a_function_that_returns_true_stops(way):
    train = make_train()
    answers = iter([None, 1, "yes", np.True_, np.array(True), np.array([True]), [True], True, None])
    calls = []

    @fh.every(iters=1)
    def stops(step):
        calls.append(step)
        return next(answers)

    with way.session([stops]) as session:
        while not session.should_stop():
            session.run(train)
    assert calls == list(range(1, 9))


def test_calling_the_hook_calls_the_function():
    def add(step: int, more: int = 2) -> int:
        """Adds."""
        return step + more

    add.begin = "not the hook's"
    hook = fh.every(steps=3)(add)
    assert isinstance(hook, fh.FunctionHook) and isinstance(hook, v1.train.SessionRunHook)
    assert (hook(3), hook(3, more=5)) == (5, 8)
    assert (hook.__name__, hook.__doc__, hook.__wrapped__) == ("add", "Adds.", add)
    assert inspect.signature(hook) == inspect.signature(add)
    assert callable(hook.begin)
    assert of_the_module.__doc__ == "Notes the loss."


def test_errors_of_the_users_code_reach_the_caller_unchanged(way):
    train = make_train()
    raised = ArithmeticError("mine")

    def fails(step):
        raise raised

    class Hook(v1.train.SessionRunHook):
        def before_run(self, run_context):
            raise raised

    for hook, function in ((fh.every(steps=1)(fails), "fails"), (fh.Every(Hook(), steps=1), "before_run")):
        with pytest.raises(ArithmeticError) as caught:
            way.run([hook], train, 1)
        assert caught.value is raised
        assert traceback.extract_tb(raised.__traceback__)[-1].name == function
        raised.__traceback__ = None


# Distributed


@pytest.mark.parametrize("strategy", [
    "CollectiveAllReduceStrategy", "CollectiveAllReduceStrategyV1", "MultiWorkerMirroredStrategy", "ParameterServerStrategy"])
@pytest.mark.parametrize("unit", UNITS)
def test_no_clock_where_workers_wait_for_each_other(way, strategy, unit):
    make_train()
    context = types.SimpleNamespace(_strategy=type(strategy, (), {})())
    refused = unit == "secs" and strategy != "ParameterServerStrategy"
    with mock.patch.object(distribute_coordinator_context, "get_current_worker_context", return_value=context):
        for hook in (fh.Every(Probe(), **{unit: 5}), fh.every(**{unit: 5})(print)):
            if refused:
                with pytest.raises(ValueError, match=f"^secs should not be set when using {strategy}"):
                    hook.begin()
            else:
                hook.begin()


@pytest.mark.parametrize("unit", UNITS)
def test_a_collective_is_fetched_on_every_run_if_the_clock_decides(way, clock, unit):
    tensor, count = counted()
    reduced = tf.raw_ops.CollectiveReduce(input=tf.cast(tensor, tf.float32), group_size=1, group_key=1, instance_key=1,
                                          merge_op="Add", final_op="Id", subdiv_offsets=[0])
    values = []

    @fh.every(**{unit: 3}, fetches={"sum": 2 * reduced})
    def show(step, value):
        values.append((step, value))

    train = make_train()
    with captured_logs() as logs, way.session([show]) as session:
        for _ in range(7):
            session.run(train)
            clock.tick()
        computed = session._tf_sess().run(count)
        way.check(session, 7)
    lines = [message for _, _, message in logs if "needs the other workers" in message]
    assert [step for step, _ in values] == [1, 4, 7]
    if unit == "secs":
        assert computed == 7 and len(lines) == 1
        assert values == [(step, {"sum": 2.0 * step}) for step in (1, 4, 7)]
    else:
        assert computed == 3 and not lines


# Constructors


class Four:
    """A hook without `end`."""

    begin = after_create_session = before_run = after_run = print


@pytest.mark.parametrize("period", [
    {}, {"steps": 1, "iters": 1}, {"steps": 1, "secs": 1}, {"iters": 1, "secs": 1}, {"steps": 1, "iters": 1, "secs": 1},
    {"at_end": True}], ids=str)
def test_exactly_one_period(period):
    for make in (lambda: fh.Every(Probe(), **period), lambda: fh.every(**period), lambda: fh.FunctionHook(print, **period)):
        with pytest.raises(ValueError, match=r"^Exactly one of steps, iters and secs must be given; got steps=.*, secs="):
            make()


def test_periods_of_numpys_kinds():
    hook = fh.Every(Probe(), steps=np.int64(3))
    assert type(hook._steps) is int and hook._steps == 3
    assert fh.every(iters=np.uint8(200))(print)._iters == 200 and fh.every(secs=np.float32(0.5))(print)._secs == 0.5


@pytest.mark.parametrize(("name", "value", "kind"), [
    *((name, value, "int") for name in ("steps", "iters")
      for value in (0, -1, 2.9, 3.0, True, False, "3", math.nan, np.float32(3), np.int64(0), [3])),
    *(("secs", value, "number") for value in (0, -1, 0.0, -0.5, True, False, "3", math.nan, math.inf, 10**400, 1j, [3]))],
    ids=repr)
def test_periods_are_checked(name, value, kind):
    for make in (fh.every, lambda **period: fh.Every(Probe(), **period), lambda **period: fh.FunctionHook(print, **period)):
        with pytest.raises(ValueError) as raised:
            make(**{name: value})
        assert str(raised.value) == f"{name} must be a positive {kind}; got {value!r}."


@pytest.mark.parametrize("value", [None, 1, "yes", np.True_], ids=repr)
def test_at_end_is_checked(value):
    for make in (fh.every, lambda **period: fh.Every(Probe(), **period)):
        with pytest.raises(ValueError) as raised:
            make(steps=1, at_end=value)
        assert str(raised.value) == f"at_end must be True or False; got {value!r}."


@pytest.mark.parametrize("value", [None, 3, Probe, Four(), print, fh.every(steps=1)], ids=lambda value: type(value).__name__)
def test_hook_is_checked(value):
    with pytest.raises(TypeError) as raised:
        fh.Every(value, steps=1)
    assert str(raised.value) == f"hook must have the methods {', '.join(METHODS)}; got {value!r}."


def test_any_object_with_the_methods_is_a_hook(way):
    hook = mock.Mock(spec=METHODS)
    hook.before_run.return_value = None
    way.run([fh.Every(hook, iters=2)], make_train(), 3)
    assert [call[0] for call in hook.method_calls] == [
        "begin", "after_create_session", *["before_run", "after_run"] * 2, "end"]


@pytest.mark.parametrize("make", [v1.train.CheckpointSaverHook, fh.CheckpointSaverHook, fh.AsyncCheckpointSaverHook])
def test_savers_are_refused(tmp_path, make):
    with pytest.raises(ValueError, match=r"^hook must not save checkpoints; got <.*which has its own period"):
        fh.Every(make(str(tmp_path), save_steps=1), steps=1)


@pytest.mark.parametrize("value", [None, 3, "print"])
def test_functions_are_checked(value):
    with pytest.raises(TypeError) as raised:
        fh.every(steps=1)(value)
    assert str(raised.value) == f"function must be callable; got {value!r}."
    for name in ("begin", "after_create_session", "end") if value is not None else ():
        with pytest.raises(TypeError) as raised:
            fh.LambdaHook(**{name: value})
        assert str(raised.value) == f"{name} must be callable; got {value!r}."


def test_arguments_are_given_by_name():
    for make in (lambda: fh.Every(Probe(), 3), lambda: fh.every(print), lambda: fh.FunctionHook(print, 3),
                 lambda: fh.LambdaHook(print)):
        with pytest.raises(TypeError, match="positional argument"):
            make()


@pytest.mark.parametrize("make", [lambda: fh.Every(Probe(), steps=1), lambda: fh.every(steps=1)(print)])
def test_steps_without_a_global_step(way, make):
    with pytest.raises(RuntimeError, match=r"^Global step should be created to use Every\(steps=\.\.\.\)\.$"):
        way.session([make()])


def test_the_hook_can_be_read():
    probe = Probe()
    hook = fh.Every(probe, steps=3)
    assert hook.hook is probe
    with pytest.raises(AttributeError):
        hook.hook = Probe()


# Objects


class Kept(v1.train.SessionRunHook):
    """A hook that can be pickled."""

    calls = 0

    def after_run(self, run_context, run_values):
        self.calls += 1


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda hook: pickle.loads(pickle.dumps(hook))}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("unit", ["iters", "secs"])
def test_copies_go_on_where_the_original_is(graphs, clock, how, unit):
    hook = fh.Every(Kept(), **{unit: 3}, at_end=True)
    hook.begin()
    driven = ByHand(graphs[1], iters=1)
    driven.hook = hook
    assert [driven.run(None) for _ in range(2)] == [True, False]
    clock.tick(2)
    driven.hook = copied = COPIES[how](hook)
    assert type(copied) is fh.Every and copied.hook.calls == 1
    assert (copied.hook is hook.hook) == (how == "copy")
    assert [driven.run(None) for _ in range(2)] == [False, unit == "iters"]
    assert (copied._runs, hook._runs) == (4, 2)


def remember(step):
    """A function that can be pickled."""


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_function_hooks(how):
    hook = fh.every(steps=3, fetches=["loss:0"], at_end=True)(remember)
    copied = COPIES[how](hook)
    assert copied.__wrapped__ is remember
    assert (copied._steps, copied._fetches, copied._at_end) == (3, ["loss:0"], True)
    assert copied(1) is None


def test_subclasses_with_methods_of_their_own_act_as_often(way):
    calls = []

    class Louder(fh.Every):
        def before_run(self, run_context):
            calls.append("before")
            return super().before_run(run_context)

        def after_run(self, run_context, run_values):
            calls.append("after")
            super().after_run(run_context, run_values)

        def begin(self):
            calls.append("begin")
            super().begin()

    train = make_train()
    for unit in ("steps", "iters"):
        calls.clear()
        acts = Acts()
        way.run([acts.counter, Louder(acts, **{unit: 3})], train, 7)
        assert calls == ["begin", *["before", "after"] * 7]
        assert acts.runs == [1, 4, 7]


@pytest.mark.parametrize("cls", [fh.Every, fh.FunctionHook])
def test_mocked_methods(way, cls):
    train = make_train()
    acts, given = Acts(), []
    hook = fh.Every(acts, steps=3) if cls is fh.Every else fh.every(steps=3)(given.append)
    with way.session([acts.counter, hook]) as session:
        for _ in range(2):
            session.run(train)
        with mock.patch.object(cls, "before_run", autospec=True, side_effect=cls.before_run) as before:
            for _ in range(5):
                session.run(train)
        session.run(train)
        assert before.call_count == 5
        way.check(session, 8)
    assert (acts.runs if cls is fh.Every else given) == [1, 4, 7]


def test_listed_twice(way):
    train = make_train()
    probe = Probe()
    hook = fh.Every(probe, iters=4)
    with way.session([hook, hook]) as session:
        for _ in range(4):
            session.run(train)
    # As TensorFlow does with each hook: called twice a run.
    assert probe.calls().count("before") == probe.calls().count("after") == 4


def test_appended_to_the_list_of_a_living_session(way):
    train = make_train()
    probe = Probe()
    hook = fh.Every(probe, steps=3)
    hooks = [fh.LambdaHook()]
    training_util._get_or_create_global_step_read()
    with way.session(hooks) as session:
        for i in range(9):
            if i == 2:
                hook.begin()
                hooks.append(hook)
            session.run(train)
        way.check(session, 9)
    assert probe.calls().count("after") == 3


@pytest.mark.parametrize("train", [fh, v1.train], ids=["our_session", "adopted"])
def test_no_python_runs_on_a_quiet_step(train):
    with tf.Graph().as_default():
        op = make_train()
        hooks = [fh.Every(Probe(), **{unit: 1000}) for unit in UNITS]
        hooks += [fh.every(**{unit: 1000})(print) for unit in UNITS]
        with train.MonitoredSession(hooks=hooks) as session, mock.patch("builtins.print"):
            session.run(op)
            fails = mock.patch.multiple(_trigger, before_run=mock.DEFAULT, after_run=mock.DEFAULT)
            with fails as functions:
                for _ in range(5):
                    session.run(op)
            assert not any(function.called for function in functions.values())


# LambdaHook


def test_lambda_hook(way):
    calls = []
    hook = fh.LambdaHook(
        begin=lambda: calls.append(tf.constant(5.0, name="made").name),
        after_create_session=lambda session, coord: calls.append((session.run("made:0"), type(coord).__name__)),
        end=lambda session: calls.append(session.run("made:0")))
    assert isinstance(hook, patching.OurHook)
    way.run([hook], make_train(), 2)
    assert calls == ["made:0", (5.0, "Coordinator"), 5.0]


def test_lambda_hook_without_functions(way):
    way.run([fh.LambdaHook()], make_train(), 2)


def test_lambda_hooks_results_and_errors(way):
    train = make_train()
    way.run([fh.LambdaHook(begin=lambda: True, end=lambda session: True)], train, 2)
    with pytest.raises(ZeroDivisionError):
        way.run([fh.LambdaHook(begin=lambda: 1 // 0)], train, 2)


# tf.estimator


@pytest.mark.skipif(not hasattr(tf, "estimator"), reason="this TensorFlow has no tf.estimator: 2.15 is the last one that has")
@pytest.mark.parametrize("adopts", [True, False], ids=["adopted", "tf_session"])
def test_estimator(tmp_path, adopts):
    def model_fn(features, labels, mode):
        weight = v1.get_variable("weight", initializer=1.0)
        value = weight * features
        loss = tf.reduce_mean(tf.square(value - 2.0), name="the_loss")
        read = training_util._get_or_create_global_step_read()
        with tf.control_dependencies([read, loss]):
            train = v1.train.GradientDescentOptimizer(0.01).minimize(loss, v1.train.get_global_step())
        return tf.estimator.EstimatorSpec(
            mode, {"value": value}, loss, train, training_hooks=[of_spec] if mode == "train" else None)

    def train_input():
        return tf.data.Dataset.from_tensors([3.0]).map(lambda x: (x, x)).repeat()

    def few():
        return train_input().take(7)

    calls = collections.defaultdict(list)
    of_spec = fh.every(steps=4)(calls["spec"].append)

    @fh.every(steps=4, fetches={"loss": "the_loss:0"}, at_end=True)
    def show(step, values):
        calls["show"].append((step, float(values["loss"])))

    probe = Probe()
    once = fh.every(iters=3)(calls["iters"].append)
    by_step = fh.every(steps=3)(calls["still"].append)
    fh.adopt(adopts)
    try:
        estimator = tf.estimator.Estimator(model_fn, str(tmp_path), tf.estimator.RunConfig(tf_random_seed=1))
        for _ in range(2):
            estimator.train(train_input, hooks=[show, fh.Every(probe, steps=5)], steps=10)
        assert [step for step, _ in calls["show"]] == [0, 4, 8, 10, 10, 14, 18, 20]
        assert all(loss > 0 for _, loss in calls["show"])
        assert calls["spec"] == [0, 4, 8, 10, 14, 18]
        assert probe.calls() == ["begin", "created", *["before", "after"] * 2, "end"] * 2
        estimator.evaluate(few, hooks=[once, by_step])
        assert (calls["iters"], calls["still"]) == ([20] * 3, [20])
        assert len(list(estimator.predict(few, hooks=[once]))) == 7
        assert calls["iters"] == [20] * 6
        spec = tf.estimator.EvalSpec(few, hooks=[once], start_delay_secs=0, throttle_secs=0)
        tf.estimator.train_and_evaluate(estimator, tf.estimator.TrainSpec(train_input, max_steps=25, hooks=[show]), spec)
        assert [step for step, _ in calls["show"]][8:] == [20, 24]
        assert calls["iters"][6:] == [25] * 3
    finally:
        fh.adopt(True)
