"""MetricsHook and EvaluationHook: which rows come at which steps, in TensorFlow's sessions and in ours."""

import copy
import math
import pickle
import threading
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from helpers import Fails, build_model, captured_logs, make_train, v1
from tensorflow.core.protobuf import config_pb2

import fasthooks as fh
from fasthooks.triggers import _trigger

REDUCES = ("last", "mean")
SPEEDS = ("steps_per_sec", "examples_per_sec")


class Keeps(fh.Sink):
    """Notes all that it is called for."""

    def __init__(self, stops_at=None, fails_at=None):
        self.notes, self.rows = [], []
        self.stops_at, self.fails_at = stops_at, fails_at

    def begin(self, names):
        self.notes.append(("begin", names))

    def started(self, session, step):
        assert isinstance(session, v1.Session)
        self.notes.append(("started", step))

    def write(self, step, row, session):
        assert type(step) is int and isinstance(session, v1.Session)
        assert all(type(value) is float for value in row.values())
        self.notes.append(("write", step))
        if step == self.fails_at:
            raise ArithmeticError("mine")
        self.rows.append((step, {name: value for name, value in row.items() if name not in SPEEDS}))
        return step == self.stops_at

    def close(self):
        self.notes.append(("close",))


@pytest.fixture
def seconds():
    """Stands in for the clock of durations; each reading is a second later."""
    with mock.patch("time.monotonic", side_effect=iter(range(100, 10000))):
        yield


def checkpointed(tmp_path, every=8):
    """A session creator and a hook that save and restore."""
    saver = v1.train.CheckpointSaverHook(str(tmp_path), save_steps=every)
    return v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path)), saver


def reference_rows(values, steps, reduce, at_end):
    """The rows of a plain loop whose run i returned values[i] and reached step i + 1."""
    rows, last, first = [], None, 0
    for i in range(len(values)):
        if last is None or i >= last + steps:
            rows.append((i, values[i] if reduce == "last" else np.mean(values[first:i + 1])))
            last, first = i, i + 1
    if at_end and first < len(values):
        rows.append((len(values), None) if reduce == "last" else (len(values) - 1, np.mean(values[first:])))
    return rows


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize(("steps", "total"), [(1, 4), (3, 7), (3, 8), (4, 11), (100, 5)])
def test_rows_against_a_plain_loop(way, reduce, steps, total):
    train, loss = build_model()
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        values = [session.run([loss, train])[0] for _ in range(total)]
        values.append(session.run(loss))
    sink = Keeps()
    way.run([fh.MetricsHook({"loss": loss}, to=sink, every_n_steps=steps, reduce=reduce)], train, total)
    expected = [(step, {"loss": float(values[-1] if value is None else value)})
                for step, value in reference_rows(values[:-1], steps, reduce, at_end=True)]
    assert sink.rows == expected


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize(("order", "rows"), [("after", [1, 101, 201]), ("before", [0, 100, 200])])
def test_steps_of_the_rows(way, reduce, order, rows):
    sink = Keeps()
    hook = fh.MetricsHook({}, to=sink, every_n_steps=100, reduce=reduce, at_end=False)
    way.run([hook], make_train(order=order), 250)
    assert [step for step, _ in sink.rows] == rows


@pytest.mark.parametrize("reduce", REDUCES)
def test_rows_by_the_clock(way, clock, reduce):
    train, loss = build_model()
    sink = Keeps()
    hook = fh.MetricsHook({"loss": loss}, to=sink, every_n_secs=3, reduce=reduce)
    with way.session([hook]) as session:
        for _ in range(8):
            session.run(train)
            clock.tick()
        way.check(session, 8)
    assert sink.rows == ([(0, {"loss": 0.0}), (3, {"loss": 3.0}), (6, {"loss": 6.0}), (8, {"loss": 8.0})] if reduce == "last" else
                         [(0, {"loss": 0.0}), (3, {"loss": 2.0}), (6, {"loss": 5.0}), (7, {"loss": 7.0})])


@pytest.mark.parametrize("reduce", REDUCES)
def test_speeds_are_over_the_time_since_the_last_row(way, seconds, reduce):
    rows = []
    hook = fh.MetricsHook(to=lambda step, row: rows.append(dict(row)), every_n_steps=4, examples_per_step=10, reduce=reduce)
    way.run([hook], make_train(2), 6)
    assert [list(row) for row in rows] == [["steps_per_sec", "examples_per_sec"]] * len(rows)
    speeds = [row["steps_per_sec"] for row in rows]
    assert math.isnan(speeds[0]) and speeds[1:] == [4.0, 4.0, 2.0][: len(speeds) - 1] and len(speeds) >= 3
    assert all(row["examples_per_sec"] == 10 * row["steps_per_sec"] for row in rows[1:])


@pytest.mark.parametrize("reduce", REDUCES)
def test_what_is_fetched_on_which_runs(way, reduce):
    count = v1.get_variable("count", initializer=0, use_resource=True)
    metric = tf.cast(count.assign_add(1), tf.float32)
    train = make_train()
    sink = Keeps()
    with way.session([fh.MetricsHook({"metric": metric}, to=sink, every_n_steps=4, reduce=reduce, at_end=False)]) as session:
        runs = mock.Mock(side_effect=session._tf_sess().run)
        with mock.patch.object(session._tf_sess(), "run", runs) if not way.compiled else mock.MagicMock():
            for _ in range(9):
                session.run(train)
        assert way.compiled or runs.call_count == 9
        assert session._tf_sess().run(count) == (3 if reduce == "last" else 9)
    assert [step for step, _ in sink.rows] == [1, 5, 9]


NUMBERS = {"bool": True, "int64": -(1 << 40), "uint8": 200, "uint64": 1 << 40, "float16": 0.25, "bfloat16": 0.5,
           "float64": -1e300}


def test_kinds_of_metrics(way):
    train, loss = build_model()
    variables = [v1.get_variable(f"variable{resource}", initializer=np.float64(2.5), use_resource=resource)
                 for resource in (True, False)]
    fed = v1.placeholder_with_default(7.0, None)  # of unknown shape
    given = {
        "name": "loss:0", "tensor": loss, "variable": variables[0], "reference": variables[1], "by name": "variableFalse:0",
        "fed": fed, "Straße,\r\n\"x\"": tf.constant(1), **{name: tf.constant(value, name) for name, value in NUMBERS.items()}}
    for reduce in REDUCES:
        sinks = [Keeps(), Keeps()]
        hooks = [fh.MetricsHook(metrics, to=sink, every_n_steps=1, reduce=reduce, at_end=False)
                 for metrics, sink in zip((given, lambda: given), sinks)]
        way.run(hooks, train, 2, {fed: 8.0})
        for sink in sinks:
            assert sink.rows[1] == (1, dict(zip(given, [1.0, 1.0, 2.5, 2.5, 2.5, 8.0, 1.0, *map(float, NUMBERS.values())])))
            assert list(sink.rows[0][1]) == list(given)
            assert sink.notes[0] == ("begin", [*given, "steps_per_sec"])


@pytest.mark.parametrize("reduce", REDUCES)
def test_one_hook_for_many_sessions_and_graphs(way, reduce):
    sink = Keeps()
    hook = fh.MetricsHook({"loss": "loss:0"}, to=sink, every_n_steps=3, reduce=reduce, at_end=False)
    for _ in range(2):
        with tf.Graph().as_default():
            train, _ = build_model()
            for _ in range(2):  # the graph is final the second time
                way.run([hook], train, 4)
    one = [("begin", ["loss", "steps_per_sec"]), ("started", 0), ("write", 0), ("write", 3), ("close",)]
    assert sink.notes == one * 4
    assert sink.rows[2:4] == sink.rows[:2]


def test_a_mean_with_a_nan_is_nan_and_the_next_is_not(way):
    train, loss = build_model()
    sink = Keeps()
    bad = tf.where(tf.equal(loss, 2.0), math.nan, loss)
    way.run([fh.MetricsHook({"bad": bad}, to=sink, every_n_steps=3, reduce="mean", at_end=False)], train, 7)
    assert [step for step, _ in sink.rows] == [0, 3, 6]
    assert math.isnan(sink.rows[1][1]["bad"]) and sink.rows[2][1] == {"bad": 5.0}


def test_bad_vectors_are_not_added():
    with tf.Graph().as_default():
        build_model()
        hook = fh.MetricsHook({"loss": "loss:0"}, to=print, every_n_steps=3, reduce="mean")
        hook.begin()
    context = v1.train.SessionRunContext(v1.train.SessionRunArgs(None), None)
    for odd in (0, None, "x", [1.0, 2.0], np.ones(0), np.ones((2, 1)), np.ones(2, np.float32), np.array([np.nan, 1.0]),
                np.array([1e300, 1.0]), np.ones(4)[::2], np.ones(2, ">f8")):
        hook.after_run(context, v1.train.SessionRunValues(odd, None, None))
        assert hook._sums is None
    assert hook.take() is None
    for packed in ([5.0, 2.0], [6.0, 2.0, 3.0], [6.0, 4.0]):
        hook.after_run(context, v1.train.SessionRunValues(np.array(packed), None, None))
    sums, runs = hook.take(np.array([7.0, 0.5]))
    assert (sums.tolist(), runs, hook._sums) == ([7.0, 6.5], 3, None)
    hook._sums = "mine"
    assert hook.take(np.array([6.0, 4.0]))[0] == "mine"


def test_a_mean_at_steps_that_float64_cannot_hold(way):
    step = v1.get_variable("global_step", initializer=tf.constant(2**53 + 10, tf.int64), trainable=False,
                           collections=[v1.GraphKeys.GLOBAL_VARIABLES, v1.GraphKeys.GLOBAL_STEP])
    with pytest.raises(ValueError, match=rf"over 2\*\*53; got {2**53 + 10}\."):
        way.run([fh.MetricsHook({"one": tf.constant(1.0)}, to=print, every_n_steps=4, reduce="mean")], step.assign_add(1), 9)


@pytest.mark.parametrize("reduce", REDUCES)
def test_recovery_to_an_earlier_step(way, tmp_path, reduce):
    train, loss = build_model()
    creator, saver = checkpointed(tmp_path)
    fails = Fails([14], tf.errors.AbortedError(None, None, "lost"))
    sink = Keeps()
    hook = fh.MetricsHook({"loss": loss}, to=sink, every_n_steps=4, reduce=reduce, at_end=False)
    with way.session([hook, saver, fails], creator) as session:
        returned = [int(session.run([loss, train])[0]) for _ in range(24)]
    assert returned == [*range(13), *range(8, 19)]
    assert [note for note in sink.notes if note[0] != "write"] == [
        ("begin", ["loss", "steps_per_sec"]), ("started", 0), ("close",), ("started", 8), ("close",)]
    # 0, 4, 8, 12, then the steps that are made again, of which nothing is told.
    means = [0.0, 2.5, 6.5, 10.5, 12.0]
    assert sink.rows == [(step, {"loss": float(step) if reduce == "last" else mean})
                         for step, mean in zip([0, 4, 8, 12, 16], means)]


@pytest.mark.parametrize("error", [StopIteration(), tf.errors.OutOfRangeError(None, None, "over"), ArithmeticError("mine")],
                         ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("reduce", REDUCES)
def test_how_sessions_end(way, reduce, error):
    train, loss = build_model()
    sink = Keeps()
    hook = fh.MetricsHook({"loss": loss}, to=sink, every_n_steps=10, reduce=reduce)
    is_end = not isinstance(error, ArithmeticError)

    def run():
        with way.session([hook]) as session:
            session.run(train)
            session.run(train)
            raise error

    if is_end:
        run()
    else:
        with pytest.raises(ArithmeticError):
            run()
    # The row of the last step at an end, and in any case the sinks are closed.
    assert [step for step, _ in sink.rows] == ([0, 2 if reduce == "last" else 1] if is_end else [0])
    assert sink.notes[-1] == ("close",) and sink.notes.count(("close",)) == 1


@pytest.mark.parametrize("reduce", REDUCES)
def test_the_last_row_where_it_cannot_be_fetched(way, reduce):
    fed = v1.placeholder(tf.float32, [])
    train = make_train()
    sink = Keeps()
    with captured_logs() as logs:
        way.run([fh.MetricsHook({"fed": fed}, to=sink, every_n_steps=10, reduce=reduce)], train, 3, {fed: 2.0})
    lines = [message for _, level, message in logs if level == "WARNING"]
    if reduce == "last":
        assert [step for step, _ in sink.rows] == [1]
        assert lines == [f"MetricsHook does not act after the last step: it needs the placeholder {fed.op.name}."]
    else:
        assert sink.rows == [(1, {"fed": 2.0}), (3, {"fed": 2.0})] and not lines


def test_sinks_in_order_and_the_first_error_on_its_step(way):
    train, _ = build_model()
    first, failing, last = Keeps(), Keeps(fails_at=3), Keeps()
    with pytest.raises(ArithmeticError, match="mine"):
        with way.session([fh.MetricsHook(to=[first, failing, last], every_n_steps=3)]) as session:
            for i in range(5):
                assert i < 4
                session.run(train)
    assert [[step for step, _ in sink.rows] for sink in (first, failing, last)] == [[0, 3], [0], [0]]
    assert all(sink.notes[-1] == ("close",) for sink in (first, failing, last))


def test_a_sink_or_a_function_that_returns_true_stops(way):
    train, _ = build_model()
    for to in (Keeps(stops_at=3), [lambda step, row: step == 3, Keeps()]):
        steps = []
        with way.session([fh.MetricsHook(to=to, every_n_steps=3), fh.every(steps=1)(steps.append)]) as session:
            while not session.should_stop():
                session.run(train)
        assert steps == [0, 1, 2, 3]
    for truthy in (1, "yes", np.True_, [0]):
        with way.session([fh.MetricsHook(to=lambda step, row, truthy=truthy: truthy, every_n_steps=1)]) as session:
            session.run(train)
            assert not session.should_stop()


def test_all_sinks_are_closed_whatever_one_raises(way):
    train, _ = build_model()
    last = Keeps()
    failing = mock.Mock(spec=fh.Sink, **{"close.side_effect": ArithmeticError("mine"), "write.return_value": None})
    failing.__class__ = fh.Sink
    with pytest.raises(ArithmeticError, match="mine"):
        way.run([fh.MetricsHook(to=[failing, last], every_n_steps=3)], train, 1)
    assert last.notes[-1] == ("close",) and failing.close.call_count == 1
    with captured_logs() as logs, pytest.raises(ZeroDivisionError):
        with way.session([fh.MetricsHook(to=[failing, last], every_n_steps=3)]) as session:
            session.run(train)
            raise ZeroDivisionError
    assert [message for _, level, message in logs if level == "ERROR"] == [
        "What MetricsHook writes to could not be closed: mine"]
    assert last.notes[-1] == ("close",)


@pytest.mark.parametrize("reduce", REDUCES)
def test_inside_every_and_from_threads(way, reduce):
    train, loss = build_model()
    sink = Keeps()
    way.run([fh.Every(fh.MetricsHook({"loss": loss}, to=sink, every_n_steps=1, reduce=reduce, at_end=False), iters=3)], train, 7)
    assert [step for step, _ in sink.rows] == [0, 3, 6]
    sink = Keeps()
    with way.session([fh.MetricsHook({"loss": loss}, to=sink, every_n_steps=5, reduce=reduce)]) as session:
        threads = [threading.Thread(target=lambda: [session.run(train) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # How few rows these made is the scheduler's to say: others go by while one stands still between its decision and its
        # run. No decision is lost: the hook goes on.
        made = len(sink.rows)
        assert 2 <= made <= 42
        for _ in range(10):
            session.run(train)
        assert made + 2 <= len(sink.rows) <= made + 3
    if reduce == "mean":
        assert all(0 <= row["loss"] < 210 for _, row in sink.rows)


def test_means_of_threads_that_act_at_a_time(way):
    # While one makes its row of what was added up, others begin and end whole periods.
    train, loss = build_model()
    rows, inner = [], threading.local()

    def to(step, row):
        rows.append(row["loss"])

    class Between(fh.MetricsHook):
        def _means(self, *args):
            if not hasattr(inner, "is_in"):
                inner.is_in = True
                thread = threading.Thread(target=lambda: (setattr(inner, "is_in", True), session.run(train), session.run(train)))
                thread.start()
                thread.join()
                del inner.is_in
            return super()._means(*args)

    with way.session([Between({"loss": loss}, to=to, every_n_steps=1, reduce="mean")]) as session:
        session.run(train)
        session.run(train)
    assert sorted(rows) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("reduce", REDUCES)
def test_listed_twice_and_beside_another_with_its_sink(way, tmp_path, reduce):
    train, loss = build_model()

    def run(name, make):
        hook, other = (fh.MetricsHook({"loss": loss}, to=make(tmp_path / name), every_n_steps=2, reduce=reduce)
                       for make in (make, make))
        other._sinks = hook._sinks
        with way.session([hook, hook, other]) as session:
            for _ in range(4):
                session.run(train)

    for name, make in (("csv", fh.CSVSink), ("jsonl", fh.JSONLSink), ("events", fh.EventSink),
                       ("state", lambda path: fh.EarlyStopping("loss", patience=99, mode="min", state_file=path))):
        run(name, make)
    assert {line.partition(",")[0] for line in (tmp_path / "csv").read_text().splitlines()} >= {"step", "0", "2"}
    assert (tmp_path / "jsonl").read_text().count("loss") == (tmp_path / "csv").read_text().count("\n") - 1
    v1.summary.FileWriterCache.clear()


def test_sinks_before_the_one_that_cannot_begin_are_closed(way):
    build_model()
    first, second = Keeps(), Keeps()
    second.begin = mock.Mock(side_effect=ArithmeticError("mine"))
    with pytest.raises(ArithmeticError, match="mine"):
        way.session([fh.MetricsHook(to=[first, second], every_n_steps=1)])
    assert first.notes == [("begin", ["steps_per_sec"]), ("close",)]


@pytest.mark.parametrize("reduce", REDUCES)
def test_a_run_inside_the_hook_and_a_clock_that_goes_back(way, clock, reduce):
    train, loss = build_model()
    steps = []

    def to(step, row):
        steps.append(step)
        if len(steps) == 2:
            session.run(train)

    with way.session([fh.MetricsHook({"loss": loss}, to=to, every_n_secs=2, reduce=reduce, at_end=False)]) as session:
        for secs in (0, 2, -100, 101, 1, 2):  # what goes by before each run
            clock.tick(secs)
            session.run(train)
    assert steps == [0, 1, 5, 6]


@pytest.mark.parametrize("reduce", REDUCES)
def test_appended_to_the_list_of_a_living_session(way, reduce):
    train, loss = build_model()
    sink = Keeps()
    hook = fh.MetricsHook({"loss": loss}, to=sink, every_n_steps=3, reduce=reduce, at_end=False)
    evaluation = fh.EvaluationHook(nothing, to=Keeps(), every_n_steps=3)
    hooks = [fh.LambdaHook()]
    if reduce == "mean":
        hook.begin()  # adds an op: before the graph is final
    with way.session(hooks) as session:
        for i in range(7):
            if i == 2:
                hook.begin()
                evaluation.begin()
                hooks.extend([hook, evaluation])
            session.run(train)
    assert [note for note in sink.notes if note[0] != "begin"] == [("started", 2), ("write", 2), ("write", 5), ("close",)]


def nothing(session):
    """An evaluation without results."""
    return {}


@pytest.mark.parametrize("train", [fh, v1.train], ids=["our_session", "adopted"])
def test_no_python_runs_on_a_quiet_step(train):
    with tf.Graph().as_default():
        op, loss = build_model()
        hooks = [fh.MetricsHook({"loss": loss}, to=Keeps(), reduce=reduce, **period)
                 for reduce in REDUCES for period in ({"every_n_steps": 1000}, {"every_n_secs": 1000})]
        hooks += [fh.EvaluationHook(nothing, to=Keeps(), every_n_steps=1000),
                  fh.EvaluationHook(nothing, to=Keeps(), every_n_secs=1000)]
        with train.MonitoredSession(hooks=hooks) as session:
            session.run(op)
            with mock.patch.multiple(_trigger, before_run=mock.DEFAULT, after_run=mock.DEFAULT) as functions:
                for _ in range(5):
                    session.run(op)
            assert not any(function.called for function in functions.values())


@pytest.mark.parametrize("reduce", REDUCES)
def test_a_collective_is_fetched_on_every_run_if_the_clock_decides(way, clock, reduce):
    train, loss = build_model()
    reduced = tf.raw_ops.CollectiveReduce(input=loss, group_size=1, group_key=1, instance_key=1, merge_op="Add", final_op="Id",
                                          subdiv_offsets=[0])
    sink = Keeps()
    with captured_logs() as logs:
        with way.session([fh.MetricsHook({"sum": reduced}, to=sink, every_n_secs=3, reduce=reduce, at_end=False)]) as session:
            for _ in range(5):
                session.run(train)
                clock.tick()
    assert sink.rows == [(0, {"sum": 0.0}), (3, {"sum": 3.0 if reduce == "last" else 2.0})]
    assert sum("needs the other workers" in message for _, _, message in logs) == (reduce == "last")


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda hook: pickle.loads(pickle.dumps(hook))])
def test_copies(how):
    hook = how(fh.MetricsHook({"loss": "loss:0"}, to=fh.CSVSink("x.csv"), every_n_steps=3, reduce="mean"))
    assert (hook._metrics, hook._steps, hook._reduce, type(hook._sinks[0])) == ({"loss": "loss:0"}, 3, "mean", fh.CSVSink)


# Arguments


@pytest.mark.parametrize("make", [
    lambda **period: fh.MetricsHook(to=print, **period), lambda **period: fh.EvaluationHook(dict, to=print, **period)])
@pytest.mark.parametrize(("period", "message"), [
    ({}, "Exactly one of every_n_steps and every_n_secs must be given; got every_n_steps=None, every_n_secs=None."),
    ({"every_n_steps": 1, "every_n_secs": 2},
     "Exactly one of every_n_steps and every_n_secs must be given; got every_n_steps=1, every_n_secs=2."),
    ({"every_n_steps": 2.9}, "every_n_steps must be a positive int; got 2.9."),
    ({"every_n_steps": True}, "every_n_steps must be a positive int; got True."),
    ({"every_n_secs": 0}, "every_n_secs must be a positive number; got 0."),
    ({"every_n_steps": 1, "at_end": 1}, "at_end must be True or False; got 1.")])
def test_periods_are_checked(make, period, message):
    with pytest.raises(ValueError) as raised:
        make(**period)
    assert str(raised.value) == message


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"reduce": "sum"}, ValueError, "reduce must be 'last' or 'mean'; got 'sum'."),
    ({"examples_per_step": 0}, ValueError, "examples_per_step must be a positive int; got 0."),
    ({"to": []}, TypeError, "to must be a Sink, a function, or a list of these; got []."),
    ({"to": "file.csv"}, TypeError, "to must be a Sink, a function, or a list of these; got 'file.csv'."),
    ({"to": Keeps}, TypeError, f"to must be a Sink, a function, or a list of these; got {Keeps!r}."),
    ({"to": [print, None]}, TypeError, f"to must be a Sink, a function, or a list of these; got [{print!r}, None]."),
    ({"metrics": ["loss"]}, TypeError,
     "metrics must be a dict of name to tensor, or a function that returns one; got ['loss'].")])
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error) as raised:
        fh.MetricsHook(**{"to": print, "every_n_steps": 1, **arguments})
    assert str(raised.value) == message


@pytest.mark.parametrize(("metrics", "error", "match"), [
    ({"vector": "vector:0"}, ValueError,
     r"^The metric 'vector' must be a scalar, a number or bool; got vector:0 of shape \(2,\) and int32\.$"),
    ({"text": "text:0"}, ValueError, r"^The metric 'text' must be a scalar.*string"),
    ({"complex": "complex:0"}, ValueError, r"complex64"),
    ({"step": "loss:0"}, ValueError, r"^A metric must not be called step, time, steps_per_sec, examples_per_sec; got 'step'"),
    ({3: "loss:0"}, TypeError, r"^The name of a metric must be a str; got 3"),
    ({"x": "nowhere:0"}, KeyError, r"nowhere"), ({"x": "loss"}, ValueError, r"loss"), ({"x": 1.5}, TypeError, "1.5|float"),
    (lambda: [1], TypeError, r"^metrics must return a dict of name to tensor; got \[1\]")])
def test_metrics_are_checked_at_begin(way, metrics, error, match):
    build_model()
    tf.constant([1, 2], name="vector")
    tf.constant("x", name="text")
    tf.constant(1j, tf.complex64, name="complex")
    for reduce in REDUCES:
        with pytest.raises(error, match=match):
            way.session([fh.MetricsHook(metrics, to=print, every_n_steps=1, reduce=reduce)])


def test_a_metric_that_turns_out_to_be_no_scalar(way):
    train, _ = build_model()
    odd = v1.placeholder_with_default([1.0, 2.0], None)
    with pytest.raises(ValueError, match=r"^The metric 'odd' must be a scalar; got a value of shape \(2,\)\.$"):
        way.run([fh.MetricsHook({"odd": odd}, to=print, every_n_steps=1)], train, 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        way.run([fh.MetricsHook({"odd": odd}, to=print, every_n_steps=1, reduce="mean")], train, 1)


@pytest.mark.parametrize("period", [{"every_n_steps": 1}, {"every_n_secs": 1}])
def test_without_a_global_step(way, period):
    tf.constant(1.0)
    for hook in (fh.MetricsHook(to=print, **period), fh.EvaluationHook(dict, to=print, **period)):
        with pytest.raises(RuntimeError, match=f"^Global step should be created to use {type(hook).__name__}\\.$"):
            way.session([hook])


# Evaluation


@pytest.mark.parametrize(("at_start", "at_end", "steps"), [
    (False, True, [0, 3, 6, 8]), (True, True, [0, 3, 6, 8]), (False, False, [0, 3, 6]), (True, False, [0, 3, 6])])
def test_evaluations(way, at_start, at_end, steps):
    train, loss = build_model()
    sink, seen = Keeps(), []
    watching = mock.Mock(spec=["begin", "after_create_session", "before_run", "after_run", "end"],
                         **{"before_run.return_value": None})

    def evaluate(session):
        assert isinstance(session, v1.Session)
        seen.append(1)
        return {"w": session.run(loss), "one": 1, "yes": np.True_}

    hook = fh.EvaluationHook(evaluate, to=sink, every_n_steps=3, at_start=at_start, at_end=at_end)
    way.run([hook, watching], train, 8)
    # A row tells of the variables after the step that was read before it was made.
    assert [step for step, _ in sink.rows] == steps
    values = [float(step if step == 8 or (at_start and i == 0) else step + 1) for i, step in enumerate(steps)]
    assert [row for _, row in sink.rows] == [{"w": value, "one": 1.0, "yes": 1.0} for value in values]
    assert watching.before_run.call_count == 8
    assert sink.notes[:2] == [("begin", None), ("started", 0)] and sink.notes[-1] == ("close",)


def test_evaluations_by_the_clock(way, clock):
    train, _ = build_model()
    for at_start, steps in ((False, [0, 3]), (True, [0, 2, 5])):
        sink = Keeps()
        with way.session([fh.EvaluationHook(lambda session: {"x": 1}, to=sink, every_n_secs=3, at_start=at_start,
                                            at_end=False)]) as session:
            clock.tick()
            for _ in range(6):
                session.run(train)
                clock.tick()
        assert [step for step, _ in sink.rows] == steps


def test_an_evaluation_after_a_recovery(way, tmp_path):
    train, loss = build_model()
    creator, saver = checkpointed(tmp_path)
    sink = Keeps()
    hook = fh.EvaluationHook(lambda session: {"w": session.run(loss)}, to=sink, every_n_steps=4, at_start=True, at_end=False)
    fails = Fails([14], tf.errors.AbortedError(None, None, "lost"))
    with way.session([hook, saver, fails], creator) as session:
        for _ in range(24):
            session.run(train)
    assert [step for step, _ in sink.rows] == [0, 4, 8, 12, 16]


def test_an_evaluation_that_fails_is_made_again(way, tmp_path):
    train, _ = build_model()
    creator, saver = checkpointed(tmp_path)
    sink = Keeps()
    lost = tf.errors.AbortedError(None, None, "lost")
    evaluate = mock.Mock(__name__="evaluate", side_effect=[lost, *[{"x": 1}] * 3, lost, *[{"x": 1}] * 9])
    hook = fh.EvaluationHook(evaluate, to=sink, every_n_steps=4, at_start=True, at_end=False)
    with way.session([hook, saver], creator) as session:
        for _ in range(28):
            session.run(train)
    # At the start, and at step 12, which comes again after the checkpoint of step 8.
    assert [step for step, _ in sink.rows] == [0, 4, 8, 12, 16, 20]


def test_a_stop_at_the_start(way):
    build_model()
    hook = fh.EvaluationHook(lambda session: {"x": 1}, to=Keeps(stops_at=0), every_n_steps=3, at_start=True)
    with way.session([hook]) as session:
        assert session.should_stop()


def test_every_step_from_the_start(way):
    sink = Keeps()
    way.run([fh.EvaluationHook(lambda session: {"x": 1}, to=sink, every_n_steps=1, at_start=True)], make_train(), 3)
    assert [step for step, _ in sink.rows] == [0, 1, 2, 3]


def test_kinds_of_results(way):
    train, _ = build_model()
    tensors = {name: tf.constant(value, name) for name, value in NUMBERS.items()}
    sink = Keeps()
    hook = fh.EvaluationHook(lambda session: {"int": 3, "bool of Python": True, **session.run(tensors)}, to=sink, every_n_steps=1)
    way.run([hook], train, 1)
    assert sink.rows[0] == (0, {"int": 3.0, "bool of Python": 1.0, **{name: float(value) for name, value in NUMBERS.items()}})


def test_an_evaluation_that_runs_the_session_that_it_is_in(way):
    train, loss = build_model()
    sink = Keeps()
    hook = fh.EvaluationHook(lambda _: {"w": session.run(loss)}, to=sink, every_n_steps=2, at_end=False)
    with way.session([hook, fh.StopAtStepHook(last_step=4)]) as session:
        while not session.should_stop():
            session.run(train)
    # The runs inside count as runs that reach a step, so a period may be one shorter.
    assert sink.rows[0] == (0, {"w": 1.0}) and sink.rows[-1][0] < 4
    assert all(row == {"w": step + 1.0} for step, row in sink.rows) and len(sink.rows) in (2, 3)


@pytest.mark.parametrize("error", [tf.errors.OutOfRangeError(None, None, "over"), StopIteration("over")],
                         ids=lambda error: type(error).__name__)
def test_an_evaluation_without_input_does_not_end_the_training_silently(way, error):
    train, _ = build_model()
    with pytest.raises(RuntimeError, match=r"^The input of the evaluation at step 0 is used up\.$") as raised:
        way.run([fh.EvaluationHook(mock.Mock(side_effect=error), to=print, every_n_steps=1)], train, 1)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(("results", "error", "match"), [
    ([{"x": 1}, {"y": 1}], ValueError, r"^evaluate must return the same names each time; got \['y'\], and before \['x'\]\.$"),
    ([{"x": 1}, {"x": 1, "y": 1}], ValueError, r"the same names"),
    ([{}, {"x": 1}], ValueError, r"got \['x'\], and before \[\]\.$"),
    ([{1: 2}], TypeError, r"^The name of a metric must be a str; got 1\.$"),
    ([{"step": 2}], ValueError, r"^A metric must not be called step, time; got 'step'\.$"),
    ([{"x": np.zeros(1, "V2")[0]}], TypeError, r"for 'x'"), ([{"x": np.str_("1")}], TypeError, r"for 'x'"),
    ([{"x": "1"}], TypeError, r"^evaluate must return numbers; got '1' for 'x'\.$"),
    ([{"x": 1j}], TypeError, r"for 'x'"), ([{"x": np.ones(1)}], TypeError, r"for 'x'"), ([{"x": None}], TypeError, r"for 'x'"),
    ([{"x": np.timedelta64(3, "s")}], TypeError, r"for 'x'"), ([{"x": 10**400}], TypeError, r"for 'x'"),
    ([[1]], TypeError, r"^evaluate must return a dict of name to number; got \[1\]\.$"), ([None], TypeError, r"got None")])
def test_results_of_evaluations_are_checked(way, results, error, match):
    train, _ = build_model()
    with pytest.raises(error, match=match):
        way.run([fh.EvaluationHook(mock.Mock(side_effect=results), to=lambda step, row: None, every_n_steps=1)], train, 3)


def test_names_in_another_order_are_put_in_order(way):
    train, _ = build_model()
    names = []
    results = mock.Mock(side_effect=[{"x": 1, "y": 2}, {"y": 2, "x": 1}])
    hook = fh.EvaluationHook(results, to=lambda step, row: names.append(list(row)), every_n_steps=1, at_end=False)
    way.run([hook], train, 2)
    assert names == [["x", "y"]] * 2


@pytest.mark.parametrize("arguments", [{"evaluate": None}, {"evaluate": {"x": 1}}])
def test_evaluate_is_checked(arguments):
    with pytest.raises(TypeError, match=r"^evaluate must be callable; got "):
        fh.EvaluationHook(**arguments, to=print, every_n_steps=1)
    with pytest.raises(ValueError, match=r"^at_start must be True or False; got 1\.$"):
        fh.EvaluationHook(dict, to=print, every_n_steps=1, at_start=1)


def test_a_sink_must_write():
    with pytest.raises(TypeError, match="abstract"):
        fh.Sink()


def test_options_of_the_caller_stay(way):
    train, loss = build_model()
    metadata = config_pb2.RunMetadata()
    options = config_pb2.RunOptions(trace_level=config_pb2.RunOptions.FULL_TRACE)
    sink = Keeps()
    with way.session([fh.MetricsHook({"loss": loss}, to=sink, every_n_steps=2, reduce="mean", at_end=False)]) as session:
        for _ in range(4):
            session.run(train, options=options, run_metadata=metadata)
    assert metadata.step_stats.dev_stats
    assert sink.rows == [(0, {"loss": 0.0}), (2, {"loss": 1.5})]
