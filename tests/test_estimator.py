"""`tf.estimator`: the same program on TensorFlow alone, patched, with our hooks in its lists, and with both."""

import contextlib
import dataclasses
import re
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from helpers import STOCK, Api, assert_equal_records, checkpoints, messages, record, summaries, v1
from tensorflow.python.training import training_util

import fasthooks

if not hasattr(tf, "estimator"):
    pytest.skip("this TensorFlow has no tf.estimator: 2.15 is the last one that has", allow_module_level=True)

from tensorflow_estimator.python.estimator import estimator as estimator_lib

numpy_input_fn = v1.estimator.inputs.numpy_input_fn  # looked up here, where the warning for its name does no harm

FEATURES = {
    name: np.random.default_rng(seed).normal(size=60).astype(np.float32) for seed, name in enumerate(("length", "width"))
}
LABELS = (FEATURES["length"] + 0.3 * FEATURES["width"] > 0).astype(np.int64)

# Readable test id -> (where the program's hooks come from, whether it runs under `fasthooks.patch`).
VARIANTS = {
    "stock": (STOCK, False),
    "patched": (STOCK, True),
    "our_hooks": (fasthooks, False),
    "patched-our_hooks": (fasthooks, True),
}
_stock_records = {}


def train_input(batch=8):
    """Two numeric features and a label of two classes, for ever, in batches and in order."""
    return tf.data.Dataset.from_tensor_slices((dict(FEATURES), LABELS)).repeat().batch(batch)


def eval_input():
    """All examples once."""
    return tf.data.Dataset.from_tensor_slices((dict(FEATURES), LABELS)).batch(20)


def run_config(run, **options):
    """Every trigger at its own small period, and a seed."""
    periods = {"save_checkpoints_steps": 10, "save_summary_steps": 4, "log_step_count_steps": 6}
    return tf.estimator.RunConfig(model_dir=f"{run.dir}/model", tf_random_seed=7, **{**periods, **options})


def reads():
    """What hooks and summaries read of the variables; an update that runs after it leaves them no choice."""
    graph = v1.get_default_graph()
    return [training_util._get_or_create_global_step_read(),
            *(op.outputs[0] for op in graph.get_operations() if op.type == "ReadVariableOp")]


def model_fn(features, labels, mode, params):
    """Logistic regression; `params["more"]` may give more arguments for the spec."""
    inputs = tf.stack([features[name] for name in sorted(features)], axis=1)
    weights = v1.get_variable("weights", [2, 1], initializer=v1.random_normal_initializer())
    logits = tf.matmul(inputs, weights)[:, 0] + v1.get_variable("bias", initializer=0.0)
    if params.get("check"):
        logits = tf.debugging.check_numerics(logits, "bad logits")
    predictions = {"logits": logits, "class": tf.cast(logits > 0, tf.int64)}
    more = params.get("more", lambda *_: {})
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, predictions, **more(mode, None, logits))
    loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(labels, tf.float32), logits=logits))
    loss = tf.identity(loss, name="total_loss")
    metrics = {"accuracy": v1.metrics.accuracy(labels, predictions["class"])}
    with tf.control_dependencies([*reads(), loss]):
        train_op = v1.train.AdagradOptimizer(params.get("rate", 0.3)).minimize(loss, v1.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, predictions, loss, train_op, metrics, **more(mode, loss, logits))


def custom(run, config=None, warm_start_from=None, **params):
    """An estimator of `model_fn`."""
    return tf.estimator.Estimator(model_fn, config=config or run_config(run), params=params, warm_start_from=warm_start_from)


class Witness(v1.train.SessionRunHook):
    """A user's hook that notes every call, with the step it reads."""

    def __init__(self, run, name="witness"):
        self.run, self.name = run, name

    def begin(self):
        self.step = training_util._get_or_create_global_step_read()
        self.run.note(self.name, "begin")

    def after_create_session(self, session, coord):
        self.run.note(self.name, "after_create_session", session.run(v1.train.get_global_step()))

    def before_run(self, run_context):
        self.run.note(self.name, "before_run", run_context.original_args.fetches, run_context.stop_requested)
        return v1.train.SessionRunArgs(self.step)

    def after_run(self, run_context, run_values):
        self.run.note(self.name, "after_run", run_values.results, run_context.stop_requested)

    def end(self, session):
        self.run.note(self.name, "end", session.run(v1.train.get_global_step()))


class Listener(v1.train.CheckpointSaverListener):
    """Notes every call; asks for a stop after the save at `stop_at`."""

    def __init__(self, run, name="listener", stop_at=None):
        self.run, self.name, self.stop_at = run, name, stop_at

    def begin(self):
        self.run.note(self.name, "begin")

    def before_save(self, session, global_step_value):
        self.run.note(self.name, "before_save", global_step_value, session.run(v1.train.get_global_step()))

    def after_save(self, session, global_step_value):
        self.run.note(self.name, "after_save", global_step_value)
        return self.stop_at == global_step_value

    def end(self, session, global_step_value):
        self.run.note(self.name, "end", global_step_value)


def train_hooks(run):
    """A list such as programs pass to `train`."""
    api, loss, weights = run.api, "total_loss:0", "weights/Read/ReadVariableOp:0"
    return [
        api.StepCounterHook(every_n_steps=5, output_dir=f"{run.dir}/counter"),
        api.LoggingTensorHook({"of_hook": loss}, every_n_iter=3),
        api.LoggingTensorHook([weights], every_n_secs=4, at_end=True),
        api.NanTensorHook(loss),
        api.GlobalStepWaiterHook(0),
        api.FinalOpsHook(weights),
    ]


def run_variant(program, hooks, patched, directory):
    """Runs a program that takes one second of its clock per training step; gives its record without the time of day."""

    def ticking(run):
        def trace(*_, **__):  # the estimator opens one around each step of its training loop
            run.clock.tick()
            return contextlib.nullcontext()

        with mock.patch.object(estimator_lib.trace, "Trace", trace):
            return program(run)

    seen = record(ticking, Api(STOCK, hooks, patched), directory)
    assert not seen.declined
    # Our hooks in the list bring compiled steps too; some programs list none.
    assert seen.planned if patched else not seen.planned or hooks is fasthooks
    logs = [(*entry[:2], re.sub(r"\d{4}-\d\d-\d\d[T-]\d\d:\d\d:\d\d", "TIME", entry[2])) for entry in seen.logs]
    return dataclasses.replace(seen, logs=logs)


@pytest.fixture(params=[name for name in VARIANTS if name != "stock"])
def same_as_stock(request, tmp_path):
    """A function that runs a program on TensorFlow alone (once for all variants) and in a variant, compares, gives the record."""
    key = request.node.nodeid.replace(request.param, "")

    def run_both(program):
        records = {}
        for name in ("stock", request.param):
            if name != "stock" or key not in _stock_records:  # one line for both: tracebacks of ops are compared
                records[name] = run_variant(program, *VARIANTS[name], tmp_path / name)
        stock = _stock_records.setdefault(key, records.get("stock"))
        assert_equal_records(records[request.param], stock)
        return records[request.param]

    return run_both


def note_all(run, estimator):
    """Notes what evaluation and prediction make of the last checkpoint."""
    run.note(estimator.evaluate(eval_input, hooks=[Witness(run, "evaluate")]))
    run.note(list(estimator.predict(eval_input, hooks=[Witness(run, "predict")])))


# Canned estimators


class OrderedAdagrad(tf.keras.optimizers.legacy.Adagrad):
    """Lets hooks read the global step before it moves on."""

    def get_updates(self, loss, params):
        with tf.control_dependencies([*reads(), loss]):
            return super().get_updates(loss, params)


def columns():
    return [tf.feature_column.numeric_column(name) for name in FEATURES]


def linear_classifier(run):
    crossed = tf.feature_column.bucketized_column(tf.feature_column.numeric_column("length"), [-1.0, 0.0, 1.0])
    return tf.estimator.LinearClassifier(
        [*columns(), crossed], optimizer=lambda: OrderedAdagrad(0.1), config=run_config(run))


def dnn_classifier(run):
    return tf.estimator.DNNClassifier(
        [6, 4], columns(), optimizer=lambda: OrderedAdagrad(0.1), dropout=0.2, batch_norm=True, config=run_config(run))


def combined_regressor(run):
    return tf.estimator.DNNLinearCombinedRegressor(
        linear_feature_columns=columns(), linear_optimizer=lambda: OrderedAdagrad(0.1), dnn_feature_columns=columns(),
        dnn_optimizer=lambda: OrderedAdagrad(0.1), dnn_hidden_units=[4], config=run_config(run))


@pytest.mark.parametrize("make", [linear_classifier, dnn_classifier, combined_regressor])
def test_canned(same_as_stock, make):
    def program(run):
        estimator = make(run)
        hooks = [run.api.StopAtStepHook(last_step=23), run.api.StepCounterHook(5, output_dir=f"{run.dir}/counter")]
        estimator.train(train_input, hooks=hooks)
        note_all(run, estimator)
        for name in estimator.get_variable_names():
            run.note(name, estimator.get_variable_value(name))

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen) == [0, 10, 20, 23]
    # Evaluation writes its loss too, for the step of the checkpoint.
    assert [step for step, tag, _ in summaries(seen) if tag == "loss"] == [23, 1, 5, 9, 13, 17, 21]
    assert [step for step, tag, _ in summaries(seen) if tag == "global_step/sec"] == [6, 11, 16, 21, 7, 13, 19]


def default_dnn_classifier(config):
    return tf.estimator.DNNClassifier([6, 4], columns(), config=config)


def default_linear_classifier(config):
    return tf.estimator.LinearClassifier(columns(), config=config)


def default_combined_classifier(config):
    return tf.estimator.DNNLinearCombinedClassifier(
        linear_feature_columns=columns(), dnn_feature_columns=columns(), dnn_hidden_units=[4], config=config)


def v1_linear_classifier(config):
    return v1.estimator.LinearClassifier(columns(), config=config)


@pytest.mark.parametrize(
    "make", [default_dnn_classifier, default_linear_classifier, default_combined_classifier, v1_linear_classifier])
def test_canned_with_default_optimizer(same_as_stock, make):
    # Here nothing says whether hooks and summaries read a variable before it is updated: only what is sure is compared.
    def program(run):
        estimator = make(run_config(run, save_summary_steps=0, log_step_count_steps=None))
        estimator.train(train_input, hooks=[run.api.CheckpointSaverHook(f"{run.dir}/own", save_steps=6)], steps=20)
        note_all(run, estimator)

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen) == [0, 6, 12, 18, 20]


# Custom estimators


def test_custom(same_as_stock):
    def program(run):
        estimator = custom(run)
        hooks = [*train_hooks(run), Witness(run)]
        estimator.train(train_input, hooks=hooks, steps=25)
        run.note(hooks[5].final_ops_values)
        note_all(run, estimator)

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen) == [0, 10, 20, 25]
    assert [note[1:2] for note in seen.notes].count(((("str", "'after_run'")),)) == 25 + 3 + 3


def test_hooks_of_the_spec(same_as_stock):
    def program(run):
        def more(mode, loss, logits):
            first = {"first": logits[0]}
            if mode == tf.estimator.ModeKeys.PREDICT:
                return {"prediction_hooks": [Witness(run, "prediction"), run.api.LoggingTensorHook(first, every_n_iter=2)]}
            summary = v1.summary.scalar("loss_of_hook", loss)
            return {
                "training_hooks": [Witness(run, "training"), *train_hooks(run), run.api.SummarySaverHook(
                    save_steps=5, output_dir=f"{run.dir}/summaries", summary_op=summary)],
                "training_chief_hooks": [
                    Witness(run, "chief"),
                    run.api.CheckpointSaverHook(f"{run.dir}/chief", save_steps=7, listeners=[Listener(run)])],
                "evaluation_hooks": [
                    Witness(run, "evaluation"), run.api.LoggingTensorHook({"of_hook": loss}, every_n_iter=2),
                    run.api.SummarySaverHook(save_steps=1, output_dir=f"{run.dir}/eval_summaries", summary_op=summary)],
            }

        estimator = custom(run, more=more)
        estimator.train(train_input, hooks=[Witness(run, "argument")], max_steps=25)
        note_all(run, estimator)

    seen = same_as_stock(program)
    assert seen.error is None
    # The saver of the spec takes the place of the estimator's own.
    assert sorted(name for name in seen.files if name.endswith(".index")) == [
        f"chief/model.ckpt-{step}.index" for step in (0, 14, 21, 25, 7)]


def test_training_goes_on_from_a_checkpoint(same_as_stock):
    def program(run):
        estimator = custom(run)
        estimator.train(train_input, hooks=train_hooks(run), steps=9)
        estimator.train(train_input, hooks=train_hooks(run), steps=9)
        estimator.train(train_input, hooks=[run.api.StopAtStepHook(num_steps=5)])
        estimator.train(train_input, hooks=[Witness(run)], max_steps=20)  # 23 are made: nothing to do
        warm = custom(run, warm_start_from=estimator.model_dir, config=run_config(run).replace(model_dir=f"{run.dir}/warm"))
        warm.train(train_input, hooks=train_hooks(run), steps=7)

    seen = same_as_stock(program)
    assert seen.error is None
    assert "model/model.ckpt-23.index" in seen.files and "warm/model.ckpt-7.index" in seen.files
    assert seen.notes == []


# How a training ends


def test_input_ends(same_as_stock):
    def program(run):
        def input_fn():
            return train_input().take(13)

        custom(run).train(input_fn, hooks=[*train_hooks(run), Witness(run)])

    seen = same_as_stock(program)
    assert checkpoints(seen) == [0, 10, 13]
    assert seen.notes[-1] == (("str", "'witness'"), ("str", "'end'"), ("int64", "13"))


def input_with_nan():
    """Ten batches; the sixth has a NaN."""
    bad = {name: np.where(np.arange(60) == 45, np.float32("nan"), values) for name, values in FEATURES.items()}
    return tf.data.Dataset.from_tensor_slices((bad, LABELS)).batch(8)


def test_loss_becomes_nan(same_as_stock):
    def program(run):
        hooks = [Witness(run), run.api.NanTensorHook("total_loss:0", fail_on_nan_loss=False)]
        custom(run).train(input_with_nan, hooks=hooks)

    seen = same_as_stock(program)
    assert seen.error[:2] == ("NanLossDuringTrainingError", "NaN loss during training.")
    assert checkpoints(seen) == [0]


@pytest.mark.parametrize("where", ["model", "input"])
def test_an_op_fails(same_as_stock, where):
    def program(run):
        def input_fn():
            return input_with_nan().map(lambda features, labels: (
                {name: tf.debugging.check_numerics(values, "bad " + name) for name, values in features.items()}, labels))

        hooks = [*train_hooks(run), Witness(run)]
        custom(run, check=where == "model").train(input_fn if where == "input" else input_with_nan, hooks=hooks)

    seen = same_as_stock(program)
    assert seen.error[0] == "InvalidArgumentError"
    assert checkpoints(seen) == [0]


@pytest.mark.parametrize("where", ["before_run", "after_run"])
def test_a_hook_fails(same_as_stock, where):
    class Failing(Witness):
        pass

    def fail(hook, run_context, *_):
        if run_context.session.run(v1.train.get_global_step()) == 12:
            raise ValueError("no luck")

    setattr(Failing, where, fail)

    def program(run):
        custom(run).train(train_input, hooks=[Witness(run, "other"), Failing(run)], steps=20)

    seen = same_as_stock(program)
    assert seen.error[:2] == ("ValueError", "no luck")
    assert checkpoints(seen) == [0, 10]


# Checkpoint savers and their listeners


@pytest.mark.parametrize("own_saver", [False, True], ids=["estimators_saver", "saver_in_list"])
def test_saving_listeners(same_as_stock, own_saver):
    def program(run):
        saver = run.api.CheckpointSaverHook(f"{run.dir}/own", save_steps=6, listeners=[Listener(run, "of the hook")])
        listeners = [Listener(run, "first"), Listener(run, "second", stop_at=18 if own_saver else 20)]
        custom(run).train(train_input, hooks=[saver] if own_saver else [], saving_listeners=listeners, steps=40)
        run.note(len(saver._listeners), [listener in saver._listeners for listener in listeners])

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen) == ([0, 6, 12, 18] if own_saver else [0, 10, 20])
    assert seen.notes[-1] == (("int", "3" if own_saver else "1"), ("list", [("bool", str(own_saver))] * 2))


def test_savers_by_seconds(same_as_stock):
    def program(run):
        config = run_config(run, save_checkpoints_steps=None, save_checkpoints_secs=7, keep_checkpoint_max=2)
        estimator = custom(run, config)
        estimator.train(train_input, hooks=[run.api.CheckpointSaverHook(f"{run.dir}/own", save_secs=5)], steps=12)
        estimator.train(train_input, hooks=[Witness(run)], steps=17)

    seen = same_as_stock(program)
    assert seen.error is None
    # Each training keeps the last two that it made; the second finds none in the estimator's own directory.
    assert checkpoints(seen) == [10, 12, 14, 17]


# Evaluation beside training


def test_train_and_evaluate(same_as_stock):
    def program(run):
        class Exporter(tf.estimator.Exporter):
            name = "exporter"

            def export(self, estimator, export_path, checkpoint_path, eval_result, is_the_final_export):
                run.note(checkpoint_path, eval_result, is_the_final_export)

        estimator = custom(run)
        train_spec = tf.estimator.TrainSpec(
            train_input, max_steps=25, hooks=[*train_hooks(run), Witness(run)], saving_listeners=[Listener(run)])
        eval_spec = tf.estimator.EvalSpec(
            eval_input, steps=2, throttle_secs=0, start_delay_secs=0, exporters=Exporter(), hooks=[Witness(run, "evaluate")])
        run.note(tf.estimator.train_and_evaluate(estimator, train_spec, eval_spec))

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen) == [0, 10, 20, 25]
    assert [step for step, tag, _ in summaries(seen) if tag == "accuracy"] == [10, 20, 25]


def test_early_stopping_on_a_metric(same_as_stock):
    def program(run):
        estimator = custom(run, run_config(run, save_checkpoints_steps=5), rate=0.0)
        hook = tf.estimator.experimental.stop_if_no_decrease_hook(
            estimator, "loss", max_steps_without_decrease=10, run_every_secs=None, run_every_steps=4)
        train_spec = tf.estimator.TrainSpec(train_input, max_steps=40, hooks=[*train_hooks(run), hook])
        eval_spec = tf.estimator.EvalSpec(eval_input, steps=1, throttle_secs=0, start_delay_secs=0)
        run.note(tf.estimator.train_and_evaluate(estimator, train_spec, eval_spec))

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen)[-1] < 40
    assert "Requesting early stopping at global step" in "".join(messages(seen))


@pytest.mark.parametrize("kind", ["steps", "secs"])
def test_early_stopping_on_a_predicate(same_as_stock, kind):
    def program(run):
        estimator = custom(run)
        asked = []

        def should_stop():
            asked.append(run.clock.now)
            return len(asked) == 4

        every = {"steps": {"run_every_secs": None, "run_every_steps": 5}, "secs": {"run_every_secs": 3}}[kind]
        hook = tf.estimator.experimental.make_early_stopping_hook(estimator, should_stop, **every)
        estimator.train(train_input, hooks=[*train_hooks(run), hook, Witness(run)], max_steps=50)
        run.note(asked)

    seen = same_as_stock(program)
    assert seen.error is None
    assert sum("Requesting early stopping at global step" in message for message in messages(seen)) == 1
    assert checkpoints(seen)[-1] < 50


def test_in_memory_evaluator(same_as_stock):
    def program(run):
        estimator = custom(run)
        evaluator = tf.estimator.experimental.InMemoryEvaluatorHook(
            estimator, eval_input, hooks=[Witness(run, "evaluate"), run.api.StepCounterHook(1, output_dir=run.dir)],
            every_n_iter=5)
        estimator.train(train_input, hooks=[*train_hooks(run), evaluator, Witness(run)], steps=8)

    seen = same_as_stock(program)
    assert seen.error is None
    assert [step for step, tag, _ in summaries(seen) if tag == "accuracy"] == [0, 5, 8]


# Other inputs and other ways to train


def test_queues(same_as_stock):
    def program(run):
        input_fn = numpy_input_fn(dict(FEATURES), LABELS, 8, num_epochs=3, shuffle=False)
        estimator = custom(run, run_config(run, save_summary_steps=0))  # one would tell how full the queue is, which varies
        estimator.train(input_fn, hooks=[*train_hooks(run), Witness(run)])
        note_all(run, estimator)

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen) == [0, 10, 20, 23]


def test_feeds(same_as_stock):
    def program(run):
        fed = {}

        def input_fn():
            for name, kind in (("length", "float32"), ("width", "float32"), ("label", "int64")):
                fed[name] = v1.placeholder(kind, [4], name)
            return {"length": fed["length"], "width": fed["width"]}, fed["label"]

        rng = np.random.default_rng(3)

        def feed_fn():
            length, width = rng.normal(size=[2, 4])
            return {fed["length"]: length.astype(np.float32), fed["width"]: width, fed["label"]: length > 0}

        custom(run).train(input_fn, hooks=[run.api.FeedFnHook(feed_fn), *train_hooks(run), Witness(run)], steps=12)

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen) == [0, 10, 12]


@pytest.mark.filterwarnings("ignore:To make it possible to preserve tf.data options:UserWarning")
def test_mirrored_strategy(same_as_stock):
    def program(run):
        strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
        estimator = custom(run, config=run_config(run, train_distribute=strategy, eval_distribute=strategy))
        estimator.train(train_input, hooks=[*train_hooks(run), Witness(run)], steps=12)
        run.note(estimator.evaluate(eval_input))

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen) == [0, 10, 12]
