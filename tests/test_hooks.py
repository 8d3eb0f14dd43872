"""Every stock hook does in every mix of sessions and hooks what it does in TensorFlow alone.

Each program below runs on TensorFlow alone and in each mix, and `same_as_stock` compares results, types, log lines,
event files, checkpoints and errors. The assertions that follow say what the right outcome is, lest both be wrong.
"""

import itertools
import logging
import os
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from helpers import build_model, checkpoints, messages, quick_creator, summaries, train
from tensorflow.python.training import basic_session_run_hooks, training_util
from tensorflow.python.util import deprecation

import fasthooks
from fasthooks.step import declining

v1 = tf.compat.v1
resource_and_reference = pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "reference"])


def results(record):
    """What the runs of `train` returned, by `repr`."""
    return [note[0][1] for note in record.notes if len(note) == 1]


# StopAtStepHook


@pytest.mark.parametrize(("arguments", "increment", "runs", "use_resource"), [
    ({"num_steps": 7}, 1, 7, True), ({"num_steps": 7}, 3, 3, True), ({"last_step": 10}, 1, 10, True),
    ({"last_step": 10}, 3, 4, True), ({"num_steps": 7}, 3, 3, False), ({"last_step": 10}, 1, 10, False),
], ids=str)
def test_stop_at_step(same_as_stock, arguments, increment, runs, use_resource):
    def program(run):
        op, loss = build_model(increment, use_resource)
        hook = run.api.StopAtStepHook(**arguments)
        train(run, [hook], [op, loss], steps=20)
        run.note(hook._last_step, hook._num_steps)

    assert len(results(same_as_stock(program))) == runs


@pytest.mark.parametrize(("arguments", "runs"), [
    ({"last_step": 1}, 1), ({"last_step": 0}, 1), ({"num_steps": 0}, 1), ({"last_step": 2.5}, 3),
    ({"last_step": np.int32(3)}, 3), ({"last_step": 10**30}, 5),
], ids=str)
def test_stop_at_step_odd_steps(same_as_stock, arguments, runs):
    def program(run):
        op, loss = build_model()
        train(run, [run.api.StopAtStepHook(**arguments)], [op, loss], steps=5)

    assert len(results(same_as_stock(program))) == runs


def test_stop_at_step_counts_from_the_restored_step(same_as_stock):
    def program(run):
        for _ in range(2):
            with tf.Graph().as_default():
                op, loss = build_model()
                hooks = [run.api.StopAtStepHook(num_steps=4)]
                with run.api.MonitoredTrainingSession(checkpoint_dir=run.dir, hooks=hooks, log_step_count_steps=0,
                                                      save_summaries_steps=None, save_summaries_secs=None) as session:
                    while not session.should_stop():
                        run.note(session.run([op, loss])[1])

    record = same_as_stock(program)
    assert results(record) == [repr(np.float32(i)) for i in range(8)]
    assert checkpoints(record) == [0, 4, 8]


def test_stop_at_step_without_a_step_that_moves(same_as_stock):
    def program(run):
        build_model()
        train(run, [run.api.StopAtStepHook(last_step=1)], "loss:0", steps=3)

    assert len(results(same_as_stock(program))) == 3


@pytest.mark.parametrize(("name", "arguments"), [
    ("StopAtStepHook", {"last_step": 3}), ("StepCounterHook", {}), ("GlobalStepWaiterHook", {"wait_until_step": 1}),
    ("SummarySaverHook", {"save_steps": 1, "output_dir": "DIR", "summary_op": "x:0"}),
    ("ProfilerHook", {"save_steps": 1, "output_dir": "DIR"}),
    ("CheckpointSaverHook", {"save_steps": 1, "checkpoint_dir": "DIR"}),
])
def test_no_global_step(same_as_stock, name, arguments):
    def program(run):
        hook = getattr(run.api, name)(**{key: run.dir if value == "DIR" else value
                                         for key, value in arguments.items()})
        train(run, [hook], tf.constant(1.0))

    kind, message = same_as_stock(program).error[:2]
    assert kind == "RuntimeError"
    assert message.startswith("Global step should be created to use ")


# StepCounterHook


def test_step_counter_every_n_steps(same_as_stock):
    def program(run):
        op, _ = build_model()
        train(run, [run.api.StepCounterHook(every_n_steps=10, output_dir=run.dir)], op, steps=35, secs=0.25)

    record = same_as_stock(program)
    assert summaries(record) == [(step, "global_step/sec", 4.0) for step in (11, 21, 31)]
    assert messages(record).count("global_step/sec: 4") == 3


def test_step_counter_every_n_secs(same_as_stock):
    def program(run):
        op, _ = build_model(increment=3)
        train(run, [run.api.StepCounterHook(every_n_steps=None, every_n_secs=5, output_dir=run.dir)], op, steps=20)

    assert summaries(same_as_stock(program)) == [(step, "global_step/sec", 3.0) for step in (18, 33, 48)]


@pytest.mark.parametrize(("every_n_steps", "steps_per_run"), [(10, 5), (10, 1), (7, 3)])
def test_step_counter_steps_per_run(same_as_stock, every_n_steps, steps_per_run):
    def program(run):
        op, _ = build_model(increment=5)
        hook = run.api.StepCounterHook(every_n_steps=every_n_steps, output_dir=run.dir)
        hook._set_steps_per_run(steps_per_run)
        train(run, [hook], op, steps=12)

    assert summaries(same_as_stock(program))


def test_step_counter_with_a_writer(same_as_stock):
    def program(run):
        op, _ = build_model()
        with v1.summary.FileWriter(os.path.join(run.dir, "mine")) as writer:
            train(run, [run.api.StepCounterHook(every_n_steps=2, summary_writer=writer)], op, steps=6)

    assert len(summaries(same_as_stock(program))) == 2


def test_step_counter_warns_when_the_step_stands_still(same_as_stock):
    def program(run):
        _, loss = build_model()
        train(run, [run.api.StepCounterHook(every_n_steps=3, output_dir=run.dir)], loss, steps=12)

    record = same_as_stock(program)
    warnings = messages(record, "WARNING")
    assert len(warnings) == 5
    assert "has not been increased. Current value (could be stable): 0 vs previous value: 0" in warnings[0]


def test_step_counter_warns_on_the_very_step_that_stands_still(same_as_stock):
    def program(run):
        op, loss = build_model()
        hook = run.api.StepCounterHook(every_n_steps=100)
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            for fetches in (op, op, loss, op, op, loss, loss, op):
                session.run(fetches)
                run.note(hook._last_global_step)
                run.clock.tick()

    assert len(messages(same_as_stock(program), "WARNING")) == 3


@pytest.mark.parametrize("timer", [{"every_n_steps": 5}, {"every_n_steps": None, "every_n_secs": 3}], ids=str)
@pytest.mark.parametrize("steps_per_run", [1, 4])
def test_step_counter_reads_the_step_where_it_may_be_time(same_as_stock, timer, steps_per_run):
    def program(run):
        op = v1.train.create_global_step().assign_add(1, read_value=False)
        # The hook's read shows the step after the update, and moves it when it is made alone.
        with tf.control_dependencies([op]):
            training_util._get_or_create_global_step_read()
        hook = run.api.StepCounterHook(**timer, output_dir=run.dir)
        hook._set_steps_per_run(steps_per_run)  # with 4, most reads show that it is not time yet
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            for _ in range(20):
                session.run(op)
                run.note(hook._last_global_step, hook._timer.last_triggered_step())
                run.clock.tick(0.75)

    assert summaries(same_as_stock(program))


def test_step_counter_whose_report_fails(same_as_stock):
    def program(run):
        op, _ = build_model()
        hook = run.api.StepCounterHook(every_n_steps=3)

        def fail(*args):
            raise ValueError("no report")

        hook._log_and_record = fail
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            for _ in range(7):
                try:
                    session.run(op)
                except ValueError as error:
                    run.note(str(error))
                run.note(hook._last_global_step, hook._timer.last_triggered_step())

    same_as_stock(program)


# LoggingTensorHook


@pytest.mark.parametrize("arguments", [
    {"every_n_iter": 1}, {"every_n_iter": 10}, {"every_n_iter": 10, "at_end": True}, {"every_n_iter": 2.5},
    {"every_n_secs": 5}, {"every_n_secs": 0.5, "at_end": True}, {"at_end": True}, {"every_n_secs": 0},
], ids=str)
def test_logging_tensor_when(same_as_stock, arguments):
    def program(run):
        op, loss = build_model()
        train(run, [run.api.LoggingTensorHook([loss], **arguments)], op, steps=25, secs=0.75)

    lines = [line.split(" = ")[1].split(" ")[0] for line in messages(same_as_stock(program)) if " = " in line]
    assert lines
    if arguments == {"every_n_iter": 10}:
        assert lines == ["0.0", "10.0", "20.0"]


@pytest.mark.parametrize("tensors", [
    lambda loss: [loss], lambda loss: ["loss", "w/read:0"], lambda loss: {"z": loss, "a": "loss:0"},
    lambda loss: (loss, "loss"), lambda loss: {}, lambda loss: [], lambda loss: {"op": loss.op},
    lambda loss: "loss", lambda loss: ["nothing"], lambda loss: {"x": 3}, lambda loss: iter([loss]),
])
def test_logging_tensor_what(same_as_stock, tensors):
    def program(run):
        op, loss = build_model()
        tf.identity([1e-9, 2.0], name="w/read")
        train(run, [run.api.LoggingTensorHook(tensors(loss), every_n_iter=2, at_end=True)], op, steps=4)

    same_as_stock(program)


def test_logging_tensor_formatter(same_as_stock):
    def program(run):
        op, loss = build_model()

        def formatter(values):
            run.note("values", values)
            return f"loss is {values['loss']}"

        train(run, [run.api.LoggingTensorHook({"loss": loss}, every_n_iter=3, formatter=formatter)], op, steps=8)

    record = same_as_stock(program)
    assert [line for line in messages(record) if line.startswith("loss is")] == [f"loss is {i}.0" for i in (0, 3, 6)]


def test_logging_tensor_keeps_print_options(same_as_stock):
    def program(run):
        op, _ = build_model()
        small = tf.constant([1e-9, 1.0], name="small")
        with np.printoptions(precision=3, suppress=False):
            train(run, [run.api.LoggingTensorHook([small], every_n_iter=1)], op, steps=2)
            run.note(np.get_printoptions()["precision"], np.get_printoptions()["suppress"])

    same_as_stock(program)


OPTIONS = [{}, {"suppress": True, "precision": 2}, {"legacy": "1.13"}, {"floatmode": "fixed", "sign": "+"}]
INTEGERS, FLOATS = [0, 1], [1e-9, 123456789.0, np.nan]
VALUES = {"bool": INTEGERS, "int8": INTEGERS, "uint16": INTEGERS, "int32": INTEGERS, "int64": INTEGERS, "uint64": INTEGERS,
          "float16": FLOATS, "bfloat16": FLOATS, "float32": FLOATS, "float64": FLOATS, "complex64": FLOATS, "complex128": FLOATS,
          "string": [b"\x00text"]}


@pytest.mark.parametrize("dtype", VALUES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logging_tensor_scalars_of_every_dtype(same_as_stock, dtype, options):
    def program(run):
        op, _ = build_model()
        tensors = [tf.constant(value) if dtype == "string" else tf.cast(value, dtype) for value in VALUES[dtype]]
        with np.printoptions(**options):
            train(run, [run.api.LoggingTensorHook({f"t{i}": one for i, one in enumerate(tensors)}, every_n_iter=1)], op, steps=2)

    assert len([line for line in messages(same_as_stock(program)) if line.startswith("t0 = ")]) == 2


def _watched_options(monkeypatch):
    calls = []

    def watch(name, original):
        def watched(*args, **kwargs):
            calls.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(np, name, watched)

    for name in ("get_printoptions", "set_printoptions"):
        watch(name, getattr(np, name))
    return calls


def _begun(api, **arguments):
    hook = api.LoggingTensorHook([], every_n_iter=1, **arguments)
    hook.begin()
    hook._tag_order = ["a"]
    return hook


def test_logging_tensor_sets_no_print_options_for_scalars(monkeypatch):
    calls = _watched_options(monkeypatch)
    _begun(fasthooks)._log_tensors({"a": np.float32(1)})
    assert calls == []
    _begun(fasthooks)._log_tensors({"a": np.ones(2)})
    assert len(calls) == 3
    _begun(fasthooks, formatter=str)._log_tensors({"a": np.float32(1)})
    assert len(calls) == 6
    with pytest.raises(TypeError, match="list indices"):  # TensorFlow's, for results of a subclass's own
        _begun(fasthooks)._log_tensors([np.float32(1)])


def test_logging_tensor_line_names_its_origin():
    lines = []
    handler = logging.Handler()
    handler.emit = lambda one: lines.append((one.pathname, one.lineno, one.funcName, one.getMessage()))
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with mock.patch.object(logger, "handlers", [handler]):
            for api in (v1.train, fasthooks):
                _begun(api)._log_tensors({"a": np.float32(1)})
    finally:
        logger.setLevel(level)
    assert lines[0] == lines[1]


# Not by a dotted name: TensorFlow takes `python` off its package, and mock of Python 3.10 then does not find it.
@pytest.mark.parametrize(("owner", "name"), [(basic_session_run_hooks.LoggingTensorHook, "_log_tensors"),
                                             (basic_session_run_hooks, "logging")], ids=["method", "logging"])
def test_logging_tensor_sees_what_others_replace(owner, name):
    calls = []
    with mock.patch.object(owner, name) as replaced:
        replaced.side_effect = lambda *args: calls.append(args)
        replaced.info.side_effect = lambda *args: calls.append(args)
        _begun(fasthooks)._log_tensors({"a": np.float32(1)})
    assert len(calls) == 1


def test_a_class_between_ours_and_tensorflows_logs():
    calls = []

    class Mine(v1.train.LoggingTensorHook):
        def _log_tensors(self, tensor_values):
            calls.append(tensor_values)

    class Both(fasthooks.LoggingTensorHook, Mine):
        pass

    Both([], every_n_iter=1)._log_tensors({"a": np.float32(1)})
    assert calls == [{"a": np.float32(1)}]


def test_logging_tensor_error_in_formatter(same_as_stock):
    def program(run):
        op, loss = build_model()
        hook = run.api.LoggingTensorHook({"loss": loss}, every_n_iter=2, formatter=lambda values: values["none"])
        train(run, [hook], op, steps=8)

    assert same_as_stock(program).error[:2] == ("KeyError", "'none'")


# NanTensorHook


@pytest.mark.parametrize(("dtype", "fail"), [("float16", True), ("bfloat16", False), ("float32", True),
                                             ("float32", False), ("float64", True)])
def test_nan_tensor(same_as_stock, fail, dtype):
    def program(run):
        op, loss = build_model()
        loss = tf.cast(tf.where(loss < 3.0, loss, np.nan), dtype)
        train(run, [run.api.NanTensorHook(loss, fail_on_nan_loss=fail)], [op, loss], steps=6)

    record = same_as_stock(program)
    if fail:
        assert record.error[:2] == ("NanLossDuringTrainingError", "NaN loss during training.")
        assert messages(record, "ERROR") == ["Model diverged with loss = NaN."]
        assert len(results(record)) == 3
    else:
        assert messages(record, "WARNING") == ["Model diverged with loss = NaN."]
        assert len(results(record)) == 4


@pytest.mark.parametrize("loss", [
    lambda: tf.constant([1.0, np.nan]), lambda: tf.constant([np.nan]), lambda: tf.constant([1.0]),
    lambda: tf.constant(np.inf), lambda: tf.constant(-np.nan), lambda: tf.constant(3), lambda: tf.constant("x"),
    lambda: tf.constant(complex(0, np.nan)), lambda: tf.constant(True), lambda: "loss:0", lambda: None,
    lambda: tf.constant([], tf.float32), lambda: [tf.constant(1.0)], lambda: tf.no_op(),
])
def test_nan_tensor_odd_losses(same_as_stock, loss):
    def program(run):
        op, _ = build_model()
        train(run, [run.api.NanTensorHook(loss())], op, steps=2)

    same_as_stock(program)


# SummarySaverHook


def test_summary_saver_every_n_steps(same_as_stock):
    def program(run):
        op, loss = build_model()
        hook = run.api.SummarySaverHook(save_steps=10, output_dir=run.dir, summary_op=v1.summary.scalar("cost", loss))
        train(run, [hook], op, steps=25)

    record = same_as_stock(program)
    assert summaries(record) == [(1, "cost", 0.0), (11, "cost", 10.0), (21, "cost", 20.0)]
    assert ("session_log", "step: 1\nsession_log {\n  status: START\n}\n") in record.files["events.0"]


@pytest.mark.parametrize(("when", "increment", "use_resource"), [
    ({"save_secs": 5}, 1, True), ({"save_secs": 0.5}, 3, False), ({"save_steps": 1}, 1, False),
    ({"save_steps": 4}, 3, True), ({"save_steps": 4}, 1, False), ({"save_steps": 4.5}, 1, True)], ids=str)
def test_summary_saver_when(same_as_stock, when, use_resource, increment):
    def program(run):
        op, loss = build_model(increment, use_resource)
        hook = run.api.SummarySaverHook(output_dir=run.dir, summary_op=v1.summary.scalar("cost", loss), **when)
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            for _ in range(12):
                session.run(op)
                run.clock.tick(0.75)
                run.note(hook._next_step, hook._request_summary)

    assert summaries(same_as_stock(program))


def test_summary_saver_scaffold(same_as_stock):
    def program(run):
        op, loss = build_model()
        v1.summary.scalar("cost", loss)
        v1.summary.histogram("many", tf.fill([5], loss))
        scaffold = run.api.Scaffold()
        hook = run.api.SummarySaverHook(save_steps=3, output_dir=run.dir, scaffold=scaffold)
        train(run, [hook], op, steps=7, session_creator=run.api.ChiefSessionCreator(scaffold))

    assert [step for step, tag, _ in summaries(same_as_stock(program)) if tag == "cost"] == [1, 4, 7]


def test_summary_saver_scaffold_without_summaries(same_as_stock):
    def program(run):
        op, _ = build_model()
        scaffold = run.api.Scaffold()
        hook = run.api.SummarySaverHook(save_steps=3, output_dir=run.dir, scaffold=scaffold)
        train(run, [hook], op, steps=7, session_creator=run.api.ChiefSessionCreator(scaffold))

    assert summaries(same_as_stock(program)) == []


def test_summary_saver_list_of_ops(same_as_stock):
    def program(run):
        op, loss = build_model()
        ops = [v1.summary.scalar("one", loss), v1.summary.scalar("two", 2 * loss)]
        train(run, [run.api.SummarySaverHook(save_steps=2, output_dir=run.dir, summary_op=ops)], op, steps=4)

    assert summaries(same_as_stock(program)) == [(1, "one", 0.0), (1, "two", 0.0), (3, "one", 2.0), (3, "two", 4.0)]


def test_summary_saver_without_a_writer(same_as_stock):
    def program(run):
        op, loss = build_model()
        # TensorFlow 2.22 refuses None.
        hook = run.api.SummarySaverHook(save_steps=2, output_dir="", summary_op=v1.summary.scalar("cost", loss))
        train(run, [hook], op, steps=4)
        run.note(hook._next_step, hook._request_summary)

    assert same_as_stock(program).files == {}


@pytest.mark.parametrize("writer", [0, "", False])
def test_summary_saver_with_a_false_writer(same_as_stock, writer):
    def program(run):
        op, loss = build_model()
        hook = run.api.SummarySaverHook(save_steps=2, summary_writer=writer,
                                        summary_op=v1.summary.scalar("cost", loss))
        train(run, [hook], op, steps=4)
        run.note(hook._next_step, hook._request_summary)

    same_as_stock(program)


def test_summary_saver_bad_summary_is_an_error(same_as_stock):
    def program(run):
        op, _ = build_model()
        hook = run.api.SummarySaverHook(save_steps=2, output_dir=run.dir, summary_op=tf.constant("no summary"))
        train(run, [hook], op, steps=4)

    assert same_as_stock(program).error[0] == "DecodeError"


# CheckpointSaverHook


class Listener(v1.train.CheckpointSaverListener):
    """Notes what it is told, and asks for a stop at a step."""

    def __init__(self, run, stop_at=None):
        self.run = run
        self.stop_at = stop_at

    def begin(self):
        self.run.note("begin", len(v1.global_variables()))

    def before_save(self, session, global_step_value):
        self.run.note("before", type(session), global_step_value, session.run("loss:0"))

    def after_save(self, session, global_step_value):
        self.run.note("after", type(session), global_step_value)
        return self.stop_at is not None and global_step_value >= self.stop_at

    def end(self, session, global_step_value):
        self.run.note("end", type(session), global_step_value)


@pytest.mark.parametrize(("arguments", "increment", "steps", "use_resource"), [
    ({"save_steps": 4}, 1, [0, 4, 8, 10], True), ({"save_steps": 4}, 3, [0, 6, 12, 18, 24, 30], False),
    ({"save_secs": 4}, 1, [0, 5, 9, 10], False), ({"save_secs": 3.5}, 3, [0, 15, 27, 30], True),
    ({"save_secs": 600}, 1, [0, 10], True), ({"save_steps": 5, "save_graph_def": False}, 1, [0, 5, 10], True),
    ({"save_steps": 5, "checkpoint_basename": "x"}, 1, [0, 5, 10], True),
], ids=str)
def test_checkpoint_saver_when(same_as_stock, arguments, increment, steps, use_resource):
    def program(run):
        op, _ = build_model(increment, use_resource)
        saver = v1.train.Saver(max_to_keep=None)
        train(run, [run.api.CheckpointSaverHook(run.dir, saver=saver, **arguments)], op, steps=10)

    record = same_as_stock(program)
    assert checkpoints(record) == steps
    assert ("graph.pbtxt" in record.files) == arguments.get("save_graph_def", True)


@pytest.mark.parametrize("stop_at", [None, 0, 4])
def test_checkpoint_saver_listeners(same_as_stock, stop_at):
    def program(run):
        op, loss = build_model()
        listeners = [Listener(run, stop_at), Listener(run)]
        hook = run.api.CheckpointSaverHook(run.dir, save_steps=4, scaffold=(scaffold := run.api.Scaffold()),
                                           listeners=listeners)
        run.note("same list", hook._listeners is listeners)
        train(run, [hook], [op, loss], steps=10, session_creator=run.api.ChiefSessionCreator(scaffold))

    record = same_as_stock(program)
    assert len(results(record)) == (4 if stop_at is not None else 10)
    assert any("A CheckpointSaverListener requested" in line for line in messages(record)) == (stop_at is not None)


@pytest.mark.parametrize(("steps_per_run", "increment"), [(1, 1), (3, 3), (10, 3), (1, 5)])
def test_checkpoint_saver_steps_per_run(same_as_stock, steps_per_run, increment):
    def program(run):
        op, _ = build_model(increment)
        hook = run.api.CheckpointSaverHook(run.dir, save_steps=10, saver=v1.train.Saver(max_to_keep=None))
        hook._set_steps_per_run(steps_per_run)
        train(run, [hook], op, steps=12)

    assert len(checkpoints(same_as_stock(program))) > 2


@pytest.mark.parametrize("savers", [0, 1, 2])
def test_checkpoint_saver_from_the_collection(same_as_stock, savers):
    def program(run):
        op, _ = build_model()
        for _ in range(savers):
            v1.add_to_collection(v1.GraphKeys.SAVERS, v1.train.Saver())
        hook = run.api.CheckpointSaverHook(run.dir, save_steps=2)
        with run.api.SingularMonitoredSession(hooks=[hook]) as session:
            for _ in range(3):
                run.note(session.run(op))
        run.note(hook._saver is hook._get_saver())

    record = same_as_stock(program)
    assert (record.error is None) == (savers < 2)


def test_checkpoint_saver_error_in_listener(same_as_stock):
    class Failing(Listener):
        def before_save(self, session, global_step_value):
            if global_step_value == 4:
                raise ValueError(f"no save at {global_step_value}")

    def program(run):
        op, loss = build_model()
        hook = run.api.CheckpointSaverHook(run.dir, save_steps=4, saver=v1.train.Saver(), listeners=[Failing(run)])
        train(run, [hook], [op, loss], steps=10)

    record = same_as_stock(program)
    assert record.error[:2] == ("ValueError", "no save at 4")
    assert len(results(record)) == 3


def test_checkpoint_saver_unwritable(same_as_stock):
    def program(run):
        op, loss = build_model()
        hook = run.api.CheckpointSaverHook(os.path.join(run.dir, "c"), save_steps=4, saver=v1.train.Saver(),
                                           save_graph_def=False)
        hook._save_path = os.path.join(run.dir, "file", "model.ckpt")
        with open(os.path.join(run.dir, "file"), "w"):
            pass
        train(run, [hook], [op, loss], steps=10)

    assert same_as_stock(program).error is not None


def test_checkpoint_saver_reads_the_tensor_that_it_has_now(same_as_stock):
    def program(run):
        op, _ = build_model()
        other = v1.train.get_global_step() + 1000
        saver = run.api.CheckpointSaverHook(run.dir, save_steps=1)

        class Swaps(v1.train.SessionRunHook):
            def after_run(self, run_context, run_values):
                saver._global_step_tensor = other

        train(run, [Swaps(), saver], op, steps=3)

    assert checkpoints(same_as_stock(program))


# GlobalStepWaiterHook


@pytest.mark.parametrize("wait_until_step", [-1, 0, 4, 2500, 2.5])
def test_global_step_waiter(same_as_stock, wait_until_step):
    def program(run):
        op, loss = build_model(increment=2)
        step = v1.train.get_global_step()
        advance = step.assign_add(1 if wait_until_step < 100 else 1250)
        hook = run.api.GlobalStepWaiterHook(wait_until_step)

        def sleep(secs):
            run.note("sleep", secs)
            raw.run(advance)

        with run.api.SingularMonitoredSession(hooks=[hook]) as session, mock.patch("time.sleep", sleep):
            raw = session.raw_session()
            for _ in range(3):
                run.note(session.run([op, loss]))
                run.note("started", hook._worker_is_started)

    record = same_as_stock(program)
    naps = sum(note[0][1] == "'sleep'" for note in record.notes)
    assert naps == {-1: 0, 0: 0, 4: 4, 2500: 2, 2.5: 3}[wait_until_step]


# FinalOpsHook


@pytest.mark.parametrize("final_ops", [
    lambda loss: loss, lambda loss: [loss, "loss:0"], lambda loss: {"loss": loss, "in": (loss,)}, lambda loss: None,
    lambda loss: loss.op,
])
def test_final_ops(same_as_stock, final_ops):
    def program(run):
        op, loss = build_model()
        hook = run.api.FinalOpsHook(final_ops(loss))
        run.note(hook.final_ops_values)
        train(run, [hook, run.api.StopAtStepHook(last_step=3)], op)
        run.note("final", hook.final_ops_values)

    same_as_stock(program)


def test_final_ops_feeds(same_as_stock):
    def program(run):
        op, loss = build_model()
        fed = v1.placeholder(tf.float32, [2])
        hook = run.api.FinalOpsHook({"sum": fed + loss}, {fed: [1, 2]})
        train(run, [hook], op, steps=3)
        run.note("final", hook.final_ops_values)

    assert "[4.0, 5.0]" in str(same_as_stock(program).notes[-1])


def test_final_ops_out_of_range(same_as_stock):
    def program(run):
        op, _ = build_model()
        element = v1.data.make_one_shot_iterator(tf.data.Dataset.range(3)).get_next()
        train(run, [run.api.FinalOpsHook(element)], [op, element], steps=3)

    record = same_as_stock(program)
    assert len(results(record)) == 3
    assert [line[:60] for line in messages(record, "WARNING")] == [
        "An OutOfRangeError or StopIteration exception is raised by t"]


@pytest.mark.parametrize("failing", [tf.errors.OutOfRangeError(None, None, "over"), StopIteration("over"),
                                     ValueError("no end")], ids=lambda error: type(error).__name__)
def test_end_runs_only_at_an_end(same_as_stock, failing):
    def program(run):
        op, loss = build_model()
        hook = run.api.FinalOpsHook(loss)
        try:
            with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
                session.run(op)
                raise failing
        finally:
            run.note("final", hook.final_ops_values)

    ended = not isinstance(failing, ValueError)
    assert ("float32" in str(same_as_stock(program).notes)) == ended


# FeedFnHook


@pytest.mark.parametrize("feed", [np.float32(2.5), 2, [2.5], np.ones([2]), "x", None], ids=repr)
def test_feed_fn(same_as_stock, feed):
    def program(run):
        op, loss = build_model()
        fed = v1.placeholder(tf.float32, [], name="fed")
        calls = []

        def feed_fn():
            calls.append(None)
            return {fed: feed}

        hook = run.api.FeedFnHook(feed_fn)
        try:
            train(run, [hook, run.api.NanTensorHook(loss)], [op, fed + loss], steps=3)
        finally:
            run.note("calls", len(calls))

    same_as_stock(program, declines=(declining.FED_VALUE,))


@pytest.mark.parametrize("conflict", ["hooks", "user", "none"])
def test_feed_fn_conflicts(same_as_stock, conflict):
    def program(run):
        build_model()
        fed, other = v1.placeholder(tf.float32, [], name="fed"), v1.placeholder(tf.float32, [], name="other")
        hooks = [run.api.FeedFnHook(lambda: {fed: 1.0})]
        if conflict == "hooks":
            hooks.append(run.api.FeedFnHook(lambda: {fed: 1.0}))
        total = fed + other
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            run.note(session.run(total, {other: 3.0}))
            run.note(session.run(total, {fed if conflict == "user" else other: 3.0}))

    record = same_as_stock(program)
    assert (record.error and record.error[0]) == (None if conflict == "none" else "RuntimeError")


def test_feed_fn_error(same_as_stock):
    def program(run):
        op, _ = build_model()
        train(run, [run.api.FeedFnHook(lambda: 1 // 0)], op, steps=3)

    assert same_as_stock(program).error[0] == "ZeroDivisionError"


# ProfilerHook


@pytest.mark.parametrize(("when", "written"), [
    ({"save_steps": 3}, [3, 6, 9]), ({"save_secs": 4}, [5, 9]),
    ({"save_steps": 3, "show_dataflow": False, "show_memory": True}, [3, 6, 9]),
], ids=str)
def test_profiler(same_as_stock, when, written):
    def program(run):
        op, loss = build_model()
        hook = run.api.ProfilerHook(output_dir=run.dir, **when)
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            for _ in range(9):
                run.note(session.run([op, loss]))
                run.note("next", hook._next_step, hook._request_summary)
                run.clock.tick()

    record = same_as_stock(program)
    assert [int(name[9:-5]) for name in sorted(record.files) if name.startswith("timeline-")] == written


# SecondOrStepTimer


@pytest.mark.parametrize("arguments", [{"every_secs": 3}, {"every_secs": 2.5}, {"every_steps": 3}, {"every_steps": 2.5},
                                       {"every_secs": True}, {"every_steps": np.int64(4)}, {"every_steps": "x"},
                                       {"every_secs": np.float32(2)}, {}, {"every_secs": 1, "every_steps": 1}], ids=str)
def test_timer(same_as_stock, arguments):
    def program(run):
        timer = run.api.SecondOrStepTimer(**arguments)
        for step in (1, 1, np.int64(2), np.int32(4), 5, 5.5, 7, 10**30, np.uint64(3), -4, None, 2):
            due = timer.should_trigger_for_step(step)
            run.note(step, due, timer.last_triggered_step())
            if due:
                run.note(timer.update_last_triggered_step(step))
            run.clock.tick()
        timer.reset()
        run.note(timer.should_trigger_for_step(2), timer.last_triggered_step())

    same_as_stock(program)


def test_a_timer_whose_constructor_somebody_replaced(monkeypatch):
    """What it may have been given beyond TensorFlow's arguments is not lost: a hook keeps the timer that was made for it."""
    timer = basic_session_run_hooks.SecondOrStepTimer
    init = timer.__init__

    def make(self, every_secs=None, every_steps=None):
        init(self, every_secs, every_steps)
        self._more = "more"

    with monkeypatch.context() as patch:
        patch.setattr(timer, "__init__", make)
        hook = fasthooks.LoggingTensorHook(["x:0"], every_n_iter=1)
        assert type(hook._timer) is timer and hook._timer._more == "more"
    with monkeypatch.context() as patch:  # as tf.estimator does when it is imported
        patch.setattr(timer, "__init__", deprecation.deprecated(None, "Use another.")(init))
        hook = fasthooks.LoggingTensorHook(["x:0"], every_n_iter=1)
        assert type(hook._timer) is fasthooks.SecondOrStepTimer


# All together


class Composite(v1.train.SessionRunHook):
    """Passes every call on to hooks of its own, as programs do that wrap hooks."""

    def __init__(self, hooks):
        self.hooks = hooks

    def begin(self):
        for hook in self.hooks:
            hook.begin()

    def after_create_session(self, session, coord):
        for hook in self.hooks:
            hook.after_create_session(session, coord)

    def before_run(self, run_context):
        requests = [hook.before_run(run_context) for hook in self.hooks]
        return v1.train.SessionRunArgs([[] if request is None else request.fetches for request in requests])

    def after_run(self, run_context, run_values):
        for hook, results in zip(self.hooks, run_values.results, strict=True):
            hook.after_run(run_context, run_values._replace(results=None if isinstance(results, list) else results))

    def end(self, session):
        for hook in self.hooks:
            hook.end(session)


@pytest.mark.parametrize("order", [1, -1])
def test_hooks_inside_a_hook(same_as_stock, order):
    def program(run):
        op, loss = build_model()
        cost = v1.summary.scalar("cost", loss)

        def hooks():
            return [run.api.StepCounterHook(every_n_steps=5, output_dir=run.dir),
                    run.api.SummarySaverHook(save_steps=4, output_dir=run.dir, summary_op=cost),
                    run.api.NanTensorHook(loss),
                    run.api.LoggingTensorHook([loss], every_n_iter=3),
                    run.api.CheckpointSaverHook(run.dir, save_steps=6),
                    run.api.StopAtStepHook(last_step=15)][::order]

        train(run, hooks() + [Composite(hooks())] + hooks()[:2], op)

    # There are several savers, of which we warn.
    assert len(results(same_as_stock(program, ignore="all save checkpoints into"))) == 15


@pytest.mark.parametrize("first", ["StepCounterHook", "SummarySaverHook", "CheckpointSaverHook", "StopAtStepHook"])
def test_a_hook_leaves_the_list_during_a_run(same_as_stock, first):
    def program(run):
        op, loss = build_model()
        cost = v1.summary.scalar("cost", loss)
        number = itertools.count()
        makers = {
            "StepCounterHook": lambda: run.api.StepCounterHook(every_n_steps=5, output_dir=run.dir),
            "SummarySaverHook": lambda: run.api.SummarySaverHook(save_steps=4, output_dir=run.dir, summary_op=cost),
            "CheckpointSaverHook": lambda: run.api.CheckpointSaverHook(os.path.join(run.dir, str(next(number))), save_steps=6),
            "StopAtStepHook": lambda: run.api.StopAtStepHook(last_step=15),
        }

        class Remover(v1.train.SessionRunHook):
            runs = 0

            def before_run(self, run_context):
                self.runs += 1
                if self.runs == 8:
                    del hooks[0]

        hooks = [makers[first]()] + [make() for make in makers.values()] + [Remover()]
        train(run, hooks, op)

    assert len(results(same_as_stock(program))) == 15


@resource_and_reference
@pytest.mark.parametrize("increment", [1, 3])
def test_all_hooks(same_as_stock, use_resource, increment):
    def program(run):
        op, loss = build_model(increment, use_resource)
        v1.summary.scalar("cost", loss)
        scaffold = run.api.Scaffold(saver=v1.train.Saver(max_to_keep=None))
        final = run.api.FinalOpsHook(loss)
        hooks = [
            run.api.StopAtStepHook(last_step=40),
            run.api.StepCounterHook(every_n_steps=7, output_dir=run.dir),
            run.api.LoggingTensorHook({"loss": loss}, every_n_iter=5),
            run.api.NanTensorHook(loss),
            run.api.SummarySaverHook(save_secs=4, output_dir=run.dir, scaffold=scaffold),
            run.api.CheckpointSaverHook(run.dir, save_steps=12, scaffold=scaffold, listeners=[Listener(run)]),
            run.api.GlobalStepWaiterHook(0),
            run.api.ProfilerHook(save_steps=15, output_dir=run.dir),
            run.api.LoggingTensorHook([loss], every_n_secs=3, at_end=True),
            final,
        ]
        train(run, hooks, {"op": op, "loss": [loss]}, session_creator=run.api.ChiefSessionCreator(scaffold))
        run.note("final", final.final_ops_values)

    record = same_as_stock(program)
    assert len(results(record)) == -(-40 // increment)


def test_default_hooks_of_a_training_session(same_as_stock):
    def program(run):
        op, loss = build_model()
        v1.summary.scalar("cost", loss)
        with run.api.MonitoredTrainingSession(checkpoint_dir=run.dir, save_summaries_steps=4, log_step_count_steps=5,
                                              save_checkpoint_secs=10) as session:
            run.note([type(hook).__name__ for hook in session._hooks])
            for _ in range(23):
                run.note(session.run([op, loss]))
                run.clock.tick()

    record = same_as_stock(program)
    assert [step for step, tag, _ in summaries(record) if tag == "cost"] == [1, 5, 9, 13, 17, 21]
    assert checkpoints(record) == [0, 11, 21, 23]


@pytest.mark.parametrize("every", [{"save_steps": 3}, {"save_secs": 3}], ids=["steps", "secs"])
@pytest.mark.parametrize("kind", ["CheckpointSaverHook", "AsyncCheckpointSaverHook"])
def test_a_checkpoint_reads_the_step_as_often_as_tensorflows(same_as_stock, kind, every):
    def program(run):
        reads = []
        op, loss = build_model()
        step = v1.train.get_global_step()
        with tf.control_dependencies([loss]):
            counted = v1.py_func(lambda value: (reads.append(value), value)[1], [step], tf.int64, stateful=True)
        counted.set_shape([])
        hook = getattr(run.api, kind)(run.dir, **every)
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            hook._global_step_tensor = counted
            for number in range(12):
                reads.clear()
                session.run(loss if number % 4 == 2 else op)
                run.note(number, len(reads), hook._timer.last_triggered_step())
                run.clock.tick()

    assert len(checkpoints(same_as_stock(program))) > 2


class Refuses(v1.train.SecondOrStepTimer):
    """A timer of the program's own."""

    def should_trigger_for_step(self, step):
        return False


def test_a_timer_that_is_replaced_while_the_step_is_read(same_as_stock):
    def program(run):
        op, loss = build_model()
        reads, runs = [], []

        def read(value):
            reads.append(value)
            if len(runs) == 5 and len(reads) == 2:  # after the fifth run
                hook._timer = Refuses(every_steps=1)
            return value

        with tf.control_dependencies([loss]):
            step = v1.py_func(read, [v1.train.get_global_step()], tf.int64, stateful=True)
        step.set_shape([])
        hook = run.api.CheckpointSaverHook(run.dir, save_steps=1)
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            hook._global_step_tensor = step
            for _ in range(8):
                reads.clear()
                runs.append(op)
                session.run(op)
            run.note(type(hook._timer).__name__)

    assert {5, 6, 7}.isdisjoint(checkpoints(same_as_stock(program)))
