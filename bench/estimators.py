"""Programs on `tf.estimator`, which TensorFlow has up to 2.15: what a user writes, and nothing in it knows of fasthooks."""

import tempfile
import time

import numpy as np
import tensorflow as tf

from bench import common
from bench.common import v1
from bench.table import progress, row

CLASSES = 3
FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")


def available():
    """Whether this TensorFlow has `tf.estimator`."""
    return hasattr(tf, "estimator")


def iris_like(batch):
    """An `input_fn` as in TensorFlow's guides: four numeric features in a dict and a class, shuffled, in batches."""

    def input_fn():
        rng = np.random.default_rng(0)
        features = {name: rng.normal(size=120).astype(np.float32) for name in FEATURES}
        labels = rng.integers(0, CLASSES, 120).astype(np.int64)
        return tf.data.Dataset.from_tensor_slices((features, labels)).shuffle(1000).repeat().batch(batch)

    return input_fn


def dnn_classifier(directory):
    """The canned classifier of TensorFlow's guide to premade estimators: two hidden layers, Adagrad, all defaults."""
    columns = [tf.feature_column.numeric_column(name) for name in FEATURES]
    return tf.estimator.DNNClassifier([30, 10], columns, n_classes=CLASSES, model_dir=directory)


def _model_fn(features, labels, mode):
    inputs = tf.stack([features[name] for name in FEATURES], axis=1)
    weights = v1.get_variable("weights", [len(FEATURES), CLASSES])
    logits = tf.matmul(inputs, weights) + v1.get_variable("bias", [CLASSES])
    loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
    train_op = v1.train.AdagradOptimizer(0.1).minimize(loss, v1.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def softmax_regression(directory):
    """A `model_fn` of one's own that is as small as they come."""
    return tf.estimator.Estimator(_model_fn, directory)


class StepTimer(v1.train.SessionRunHook):
    """Times the training loop from the end of its first `warm_up` steps on: what comes before is left out."""

    def __init__(self, warm_up):
        self._warm_up = warm_up
        self._steps = 0

    def after_run(self, run_context, run_values):
        self._steps += 1
        self._end = time.perf_counter_ns()
        if self._steps == self._warm_up:
            self._begin = self._end

    def us_per_step(self):
        return (self._end - self._begin) / (self._steps - self._warm_up) / 1000.0


def us_per_step(make, batch, steps, directory):
    """Trains from scratch, `steps` steps to warm up and as many that count; returns the µs that one of these took."""
    timer = StepTimer(steps)
    make(tempfile.mkdtemp(dir=directory)).train(iris_like(batch), hooks=[timer], steps=2 * steps)
    return timer.us_per_step()


ESTIMATORS = (
    ("DNNClassifier, batch 32", dnn_classifier, 32, {"bar": 2.0}),
    ("DNNClassifier, batch 256, as in TensorFlow's guide", dnn_classifier, 256, {"low_end": 0.97}),
    ("smallest model_fn, batch 32", softmax_regression, 32, {"bar": 2.2}),
)


def b8(peer, ours, settings):
    """Estimators, stock and under `fasthooks.patch()`: trainings from scratch that take turns."""
    rows = []
    steps = settings.estimator_steps
    for name, make, batch, bars in ESTIMATORS:
        progress(f"  {name}")
        times = np.zeros([2, settings.rounds])
        with common.workspace() as directory:
            for turn in range(settings.rounds):
                for who in (0, 1) if turn % 2 else (1, 0):
                    with (peer, ours)[who].patch():
                        times[who, turn] = us_per_step(make, batch, steps, directory)
        rows.append(row("B8", f"tf.estimator, patched: {name}", *times, times[0] / times[1], **bars))
    return {"rows": rows}
