"""The everyday hooks together: same rows, steps, logs and files in TensorFlow's sessions and in ours, and in `tf.estimator`."""

import ast
import csv
import functools
import io
import json
import pathlib
import re
from unittest import mock

import pytest
import tensorflow as tf
from helpers import STOCK, Api, assert_equal_records, assert_same, build_model, messages, record, summaries, v1, without_lines
from tensorflow.python.training import training_util

import fasthooks as fh

# Readable test id -> whose sessions, whether `patch` is in force, whether our hooks bring compiled steps to TensorFlow's.
USES = {
    "patched": (Api(STOCK, fh, patched=True), False),
    "adopted": (Api(STOCK, fh), True),
    "our_session": (Api(fh, fh), True),
}
_stock_records = {}


def run_stock(program, key, tmp_path):
    """The record of a program in TensorFlow's own sessions; made once for all uses."""
    if key not in _stock_records:
        _stock_records[key] = run_with(program, Api(STOCK, fh), False, tmp_path / "stock")
    return _stock_records[key]


def run_with(program, api, adopts, directory):
    """The record of a program whose clocks are both the run's."""
    def clocked(run):
        with mock.patch("time.monotonic", run.clock):
            return program(run)

    fh.adopt(adopts)
    try:
        return record(clocked, api, directory)
    finally:
        fh.adopt(True)


class WandbRun:
    """Stands for a run of wandb's; notes what is logged."""

    def __init__(self, run):
        self.run = run

    def define_metric(self, name, step_metric):
        self.run.note("define", name, step_metric)

    def log(self, row):
        self.run.note("log", row)


def everyday(run, name, loss, evaluate, **progress):
    """Every class once, each with a period of its own; files have this name."""
    path = functools.partial("{}/{}_{}".format, run.dir, name)
    note = functools.partial(run.note, name)
    rows = [fh.CSVSink(path("rows.csv")), fh.JSONLSink(path("rows.jsonl")), fh.EventSink(path("events")),
            fh.WandbSink(WandbRun(run)), note]
    return [
        fh.MetricsHook({"loss": loss}, to=rows, every_n_steps=3, examples_per_step=2),
        fh.MetricsHook({"loss": loss}, to=[fh.CSVSink(path("means.csv")), note], every_n_secs=4, reduce="mean"),
        fh.EvaluationHook(evaluate, every_n_steps=2, at_start=True, to=[
            note, fh.BestCheckpoints(path("best"), "off", mode="min", keep=2),
            fh.EarlyStopping("off", patience=4, mode="min", min_steps=8, state_file=path("state"))]),
        fh.ProgressHook(metrics={"loss": loss}, log_secs=3, file=io.StringIO(), **progress),
    ]


def note_files(run):
    """Notes the text of the files that `describe_files` only measures."""
    for path in sorted(pathlib.Path(run.dir).rglob("*")):
        if path.name.endswith((".csv", ".jsonl", "state")):
            run.note(path.name, path.read_text())


def noted(seen, *begin):
    """What follows these texts in the notes of a record that begin with them."""
    begin = tuple(("str", repr(text)) for text in begin)
    return [note[len(begin):] for note in seen.notes if note[:len(begin)] == begin]


def column(text, name):
    """One column of a file of comma-separated values."""
    return [float(row[name]) for row in csv.DictReader(text.splitlines())]


def texts(seen):
    """Name -> text of what `note_files` noted."""
    files = [note for note in seen.notes if len(note) == 2 and re.match(r"'\w+(\.csv|\.jsonl|_state)'", note[0][1])]
    return {ast.literal_eval(name): ast.literal_eval(text) for (_, name), (_, text) in files}


@pytest.mark.parametrize("use", USES)
def test_in_training_sessions(tmp_path, use):
    pytest.importorskip("wandb")

    def program(run):
        train, loss = build_model()
        hooks = everyday(run, "train", loss, lambda session: {"off": abs(session.run(loss) - 5.0)})
        # Stops early; without what stops early, until the time is up; with it, at once.
        for hooks_now in ([*hooks, fh.StopAtStepHook(last_step=30)], [*hooks[:2], hooks[3], fh.TimeLimitHook(4)],
                          [*hooks, STOCK.StopAtStepHook(num_steps=3)]):
            with run.api.MonitoredTrainingSession(checkpoint_dir=f"{run.dir}/model", hooks=hooks_now, save_checkpoint_steps=4,
                                                  save_summaries_steps=5) as session:
                while not session.should_stop():
                    run.note(session.run([loss, train]))
                    run.clock.tick()
        note_files(run)

    stock = run_stock(program, "session", tmp_path)
    api, adopts = USES[use]
    assert_same(run_with(program, api, adopts, tmp_path / use), stock)
    assert stock.error is None
    files = texts(stock)
    assert column(files["train_rows.csv"], "step") == [0, 3, 6, 9, 12, 13, 16, 18]
    assert column(files["train_rows.csv"], "examples_per_sec")[1:5] == [2, 2, 2, 2]
    assert column(files["train_means.csv"], "loss") == [0, 2.5, 6.5, 10.5, 13, 15.5]
    assert [json.loads(line)["step"] for line in files["train_rows.jsonl"].splitlines()] == [0, 3, 6, 9, 12, 13, 16, 18]
    assert [step for step, tag, _ in summaries(stock) if tag == "loss"] == [0, 3, 6, 9, 12, 13, 16, 18]
    assert len([note for note in stock.notes if note[0] == ("str", "'log'")]) == 8
    assert sorted(name for name in stock.files if name.endswith(".index") and "best" in name) == [
        "train_best/best-2.index", "train_best/best-4.index"]
    told = messages(stock)
    assert [line for line in told if line.startswith("EarlyStopping")] == [
        f"EarlyStopping requests a stop at step {step}: off has not improved in {rows} rows, the best was 0.0 at step 4."
        for step, rows in ((12, 4), (18, 5))]
    assert sum(line.startswith("TimeLimitHook") for line in told) == 1
    assert [line for line in told if line.startswith("step ")] == [
        "step 0 of 30 (0.0 %), loss 0", "step 3 of 30 (10.0 %), 1 steps/s, 27 s left, loss 3",
        "step 6 of 30 (20.0 %), 1 steps/s, 24 s left, loss 6", "step 9 of 30 (30.0 %), 1 steps/s, 21 s left, loss 9",
        "step 12 of 30 (40.0 %), 1 steps/s, 18 s left, loss 12", "step 13, loss 13", "step 16, 1 steps/s, loss 16",
        "step 17, 0.8 steps/s"]


# tf.estimator

needs_estimator = pytest.mark.skipif(
    not hasattr(tf, "estimator"), reason="this TensorFlow has no tf.estimator: 2.15 is the last one that has")


def model_fn(features, labels, mode, params):
    """A weight that grows by 1 a step, and what the loss and the predictions are made of; `params` gives hooks for the spec."""
    step = v1.train.get_global_step()
    weight = v1.get_variable("w", initializer=0.0, use_resource=True)
    loss = tf.add(weight, 0.0, name="loss")
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, {"value": features}, prediction_hooks=params["prediction_hooks"]())
    # All that is read is read before, by the estimator's own hooks too.
    reads = [op for op in v1.get_default_graph().get_operations() if op.type == "ReadVariableOp"]
    with tf.control_dependencies([training_util._get_or_create_global_step_read(), loss, *reads]):
        train = tf.group(step.assign_add(1), weight.assign_add(1.0))
    return tf.estimator.EstimatorSpec(
        mode, loss=loss, train_op=train, eval_metric_ops={"mean": v1.metrics.mean(features)},
        training_hooks=params["training_hooks"](), evaluation_hooks=params["evaluation_hooks"]())


def batches(number=None):
    """This many batches, or ever more."""
    return tf.data.Dataset.from_tensors([1.0, 2.0]).map(lambda x: (x, x)).repeat(number)


def evaluate_loss(session):
    """An evaluation of the training's own loss, by name."""
    return {"off": abs(session.run("loss:0") - 5.0)}


def ticking(run):
    """A hook that lets a second pass in each run."""
    return fh.every(iters=1)(lambda step: run.clock.tick())


def make_estimator(run, **spec_hooks):
    hooks = {name: spec_hooks.get(name, list) for name in ("training_hooks", "evaluation_hooks", "prediction_hooks")}
    config = tf.estimator.RunConfig(f"{run.dir}/model", save_checkpoints_steps=10, save_summary_steps=5, log_step_count_steps=7)
    return tf.estimator.Estimator(model_fn, config=config, params=hooks)


def same_in_estimator(program, use, tmp_path, key):
    """Runs a program in stock sessions and in others, and gives the record of the stock ones."""
    stock = run_stock(program, key, tmp_path)
    api, adopts = USES[use]
    seen = run_with(program, api, adopts, tmp_path / use)
    assert_equal_records(*(without_lines(one, "^(Starting|Finished) evaluation at") for one in (seen, stock)))
    assert stock.error is None, stock.error
    assert seen.planned >= seen.steps - 2 and seen.steps > 20, (seen.planned, seen.steps, seen.declined)
    return stock


every_estimator = pytest.mark.parametrize("use", ["patched", "adopted"])


@needs_estimator
@every_estimator
def test_in_an_estimators_sessions(tmp_path, use):
    """In the lists of `train`, `evaluate` and `predict`, in one session after the other with the same objects."""
    pytest.importorskip("wandb")

    def program(run):
        estimator = make_estimator(run)
        hooks = {name: [*everyday(run, name, "loss:0", evaluate_loss), fh.TimeLimitHook(1000), ticking(run)]
                 for name in ("train", "evaluate")}
        for _ in range(2):
            estimator.train(batches, hooks=hooks["train"], steps=9)
            run.note(estimator.evaluate(lambda: batches(5), hooks=hooks["evaluate"]))
        predict = [fh.MetricsHook(to=functools.partial(run.note, "predict"), every_n_secs=2), ticking(run),
                   fh.ProgressHook(log_secs=2, file=io.StringIO())]
        for _ in range(2):
            run.note("predictions", len(list(estimator.predict(lambda: batches(5), hooks=predict))))
        note_files(run)

    stock = same_in_estimator(program, use, tmp_path, "lists")
    files = texts(stock)
    # The second training stops early: EarlyStopping remembers the first.
    assert column(files["train_rows.csv"], "step") == column(files["train_rows.csv"], "loss") == [0, 3, 6, 9, 9, 12]
    assert column(files["train_means.csv"], "loss") == [0, 2.5, 6.5, 9, 10.5]
    # The step stands still: a row of the first run, one of the end or by the clock.
    assert column(files["evaluate_rows.csv"], "step") == column(files["evaluate_means.csv"], "step") == [9, 9, 12, 12]
    assert [int(step[1]) for step, _ in noted(stock, "predict")] == [12] * 6
    assert noted(stock, "predictions") == [(("int", "10"),)] * 2
    assert fh.best_checkpoint(tmp_path / use / "train_best") == str(tmp_path / use / "train_best" / "best-4")
    assert [line for line in messages(stock) if line.startswith("step ")] == [
        "step 0 of 9 (0.0 %), loss 0", "step 3 of 9 (33.3 %), 1 steps/s, 6 s left, loss 3",
        "step 6 of 9 (66.7 %), 1 steps/s, 3 s left, loss 6", "step 9 of 9 (100.0 %), 1 steps/s",
        "step 9, loss 9", "step 9, loss 9", "step 9 of 18 (50.0 %), loss 9",
        "step 11 of 18 (61.1 %), 0.6667 steps/s, 10 s left", "step 12, loss 12", "step 12, loss 12", *["step 12"] * 6]


@needs_estimator
@every_estimator
def test_in_the_hooks_of_a_spec_and_in_train_and_evaluate(tmp_path, use):
    pytest.importorskip("wandb")

    def program(run):
        estimator = make_estimator(
            run, training_hooks=lambda: [*everyday(run, "training", "loss:0", evaluate_loss, examples_per_step=2), ticking(run)],
            evaluation_hooks=lambda: [*everyday(run, "evaluation", "loss:0", evaluate_loss), ticking(run)])
        hooks = {name: everyday(run, name, "loss:0", evaluate_loss) for name in ("train", "evaluate")}
        train_spec = tf.estimator.TrainSpec(batches, max_steps=14, hooks=[*hooks["train"], fh.TimeLimitHook(1000)])
        eval_spec = tf.estimator.EvalSpec(batches, steps=4, throttle_secs=0, start_delay_secs=0, hooks=hooks["evaluate"])
        run.note(tf.estimator.train_and_evaluate(estimator, train_spec, eval_spec)[0])
        note_files(run)

    stock = same_in_estimator(program, use, tmp_path, "spec")
    files = texts(stock)
    assert [files[f"{name}_rows.csv"] for name in ("training", "evaluation")] == [
        files[f"{name}_rows.csv"] for name in ("train", "evaluate")]
    assert column(files["train_rows.csv"], "step") == [0, 3, 6, 9, 12]
    assert column(files["evaluate_rows.csv"], "step") == [10, 10, 13, 13]
    assert [tag for step, tag, _ in summaries(stock) if step == 3] == ["loss", "steps_per_sec", "examples_per_sec"] * 2
