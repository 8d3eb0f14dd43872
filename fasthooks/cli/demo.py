"""Trains the same small network under TensorFlow's session hooks and under fasthooks', and compares the two.

The network (64-64-10, softmax cross-entropy, Adam) learns scikit-learn's handwritten digits from minibatches that are
fed on each step, first under tf.compat.v1.train.MonitoredTrainingSession with TensorFlow's hooks, then under fasthooks'
with the hooks of the same names and arguments: checkpoints, summaries, step counter, logging, NaN check, stop at step,
final accuracy. Seed, batches and their order are the same, and one intra-op thread keeps float sums in order, so both
must end with the same variables.

How the figures are taken: "µs/step" is the wall time of the whole training loop, all triggers included, divided by its
steps; making and closing the session, the first steps (200 at most) and the progress bar are left out. "unhooked" is the
same loop over the same graph and batches without a hook: for TensorFlow a bare Session.run(train_op, feed_dict), for
fasthooks a fasthooks.MonitoredSession without hooks (it is its own floor: it prepares a step once, which a bare Session
does on each run). It is measured right before and right after the training and averaged. "hooks" is the difference, so a
loaded machine can make it negative.

The exit code is 1, with the reason, if the two end at different steps, with variables that differ by more than a relative
1e-5, or with a test accuracy under 0.95 (fewer than about 500 steps do not reach it).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SEED = 20
BATCH_SIZE = 32
HIDDEN_UNITS = 64
EVERY_STEPS = 100  # summaries, log lines, step counter
WARMUP_STEPS = 200
FLOOR_STEPS = 1000
BAR_UPDATE_SECS = 0.1
MIN_ACCURACY = 0.95
RELATIVE_TOLERANCE = 1e-5


class DemoError(Exception):
    """Ends the demo with exit code 1; the message is the reason."""


@dataclass(frozen=True)
class Digits:
    """Scikit-learn's 8x8 digits: float32 images in [0, 1] of shape [n, 64], int64 labels of shape [n]."""

    train_images: Any
    train_labels: Any
    test_images: Any
    test_labels: Any

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Yields (images, labels) without end, in an order that depends on SEED alone."""
        import numpy as np

        generator = np.random.default_rng(SEED)
        while True:
            order = generator.permutation(len(self.train_images))
            images, labels = self.train_images[order], self.train_labels[order]
            for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
                yield images[start : start + BATCH_SIZE], labels[start : start + BATCH_SIZE]


@dataclass(frozen=True)
class Model:
    images: Any
    labels: Any
    loss: Any
    accuracy: Any
    train_op: Any


@dataclass(frozen=True)
class Result:
    """One training: where it ended and what a step took, in microseconds."""

    name: str
    global_step: int
    test_accuracy: float
    steps_per_sec: float
    step_us: float
    unhooked_us: float
    hooks_us: float
    directory: str
    checkpoint: str


def load_digits() -> Digits:
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    images, labels = load(return_X_y=True)
    images = (images / 16.0).astype("float32")
    split = train_test_split(images, labels.astype("int64"), test_size=0.2, random_state=SEED, stratify=labels)
    train_images, test_images, train_labels, test_labels = split
    return Digits(train_images, train_labels, test_images, test_labels)


def build_model(tf: Any) -> Model:
    """Builds the network in the default graph, which is fresh: its seed then gives the same start each time."""
    v1 = tf.compat.v1
    v1.set_random_seed(SEED)
    v1.train.get_or_create_global_step()
    images = v1.placeholder(tf.float32, [None, 64], name="images")
    labels = v1.placeholder(tf.int64, [None], name="labels")

    def dense(inputs: Any, units: int, name: str) -> Any:
        with v1.variable_scope(name, use_resource=True):
            kernel = v1.get_variable("kernel", [inputs.shape[-1], units], initializer=v1.glorot_uniform_initializer())
            bias = v1.get_variable("bias", [units], initializer=v1.zeros_initializer())
        return tf.nn.bias_add(tf.matmul(inputs, kernel), bias)

    logits = dense(tf.nn.relu(dense(images, HIDDEN_UNITS, "hidden")), 10, "logits")
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits), name="loss")
    accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, axis=1), labels), tf.float32), name="accuracy")
    v1.summary.scalar("loss", loss)
    v1.summary.scalar("batch_accuracy", accuracy)
    train_op = v1.train.AdamOptimizer(1e-3).minimize(loss, global_step=v1.train.get_global_step())
    return Model(images, labels, loss, accuracy, train_op)


def session_config(tf: Any) -> Any:
    # One intra-op thread: float sums then have one order. The inter-op threads stay as they are, since fasthooks reads
    # them as a wish about scheduling.
    return tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, device_count={"GPU": 0})


def unhooked_step_secs(tf: Any, train: Any, digits: Digits, steps: int) -> float:
    """Returns the mean seconds of a step without hooks: the floor that `train` (see `train_once`) stands on."""
    with tf.Graph().as_default():
        model = build_model(tf)
        batches = digits.batches()
        if train is tf.compat.v1.train:
            with tf.compat.v1.Session(config=session_config(tf)) as session:
                session.run(tf.compat.v1.global_variables_initializer())
                for count in range(-min(steps, WARMUP_STEPS), steps):
                    if count == 0:
                        begin = time.perf_counter()
                    images, labels = next(batches)
                    session.run(model.train_op, feed_dict={model.images: images, model.labels: labels})
                return (time.perf_counter() - begin) / steps
        with train.MonitoredSession(session_creator=train.ChiefSessionCreator(config=session_config(tf))) as session:
            count = -min(steps, WARMUP_STEPS)
            while not session.should_stop():
                if count == 0:
                    begin = time.perf_counter()
                if count == steps:
                    break
                images, labels = next(batches)
                session.run(model.train_op, feed_dict={model.images: images, model.labels: labels})
                count += 1
            return (time.perf_counter() - begin) / steps


def train_once(tf: Any, train: Any, digits: Digits, steps: int, directory: Path, bar: Any) -> tuple[float, float]:
    """Builds the network and trains it for `steps` steps with the sessions and hooks of one namespace.

    Args:
        tf: the tensorflow module.
        train: tf.compat.v1.train or fasthooks; nothing else differs between the two.
        digits: the data.
        steps: the global step to stop at.
        directory: receives checkpoints and event files.
        bar: called now and then with the number of steps done.

    Returns:
        The mean seconds of a step (after the warm-up, without the bar) and the accuracy on the test images.
    """
    warmup = min(WARMUP_STEPS, steps // 5)
    with tf.Graph().as_default():
        model = build_model(tf)
        final = train.FinalOpsHook(
            model.accuracy, final_ops_feed_dict={model.images: digits.test_images, model.labels: digits.test_labels}
        )
        hooks = [
            train.StopAtStepHook(last_step=steps),
            train.NanTensorHook(model.loss),
            train.LoggingTensorHook({"loss": model.loss}, every_n_iter=EVERY_STEPS),
            final,
        ]
        batches = digits.batches()
        # With a checkpoint_dir this session adds the step counter, the summary saver and the checkpoint saver (at the
        # start, every 600 s, and at the end).
        with train.MonitoredTrainingSession(
            checkpoint_dir=str(directory),
            hooks=hooks,
            config=session_config(tf),
            save_summaries_steps=EVERY_STEPS,
            log_step_count_steps=EVERY_STEPS,
        ) as session:
            count = 0
            begin = next_update = time.perf_counter()
            while not session.should_stop():
                images, labels = next(batches)
                session.run(model.train_op, feed_dict={model.images: images, model.labels: labels})
                count += 1
                if count == warmup:
                    begin = time.perf_counter()
                elif not count & 31:
                    now = time.perf_counter()
                    if now >= next_update:
                        bar(count)
                        next_update = time.perf_counter() + BAR_UPDATE_SECS
                        begin += time.perf_counter() - now
            step_secs = (time.perf_counter() - begin) / (count - warmup)
            bar(count)
    return step_secs, float(final.final_ops_values)


def measure(tf: Any, name: str, train: Any, digits: Digits, steps: int, directory: Path, bar: Any) -> Result:
    """Trains with one namespace, between two measurements of its floor."""
    floor_steps = min(FLOOR_STEPS, steps)
    with log_to(directory.with_suffix(".log")):
        floors = [unhooked_step_secs(tf, train, digits, floor_steps)]
        step_secs, accuracy = train_once(tf, train, digits, steps, directory, bar)
        floors.append(unhooked_step_secs(tf, train, digits, floor_steps))
    unhooked_secs = sum(floors) / len(floors)
    checkpoint = tf.train.latest_checkpoint(str(directory))
    if checkpoint is None:
        raise DemoError(f"{name} left no checkpoint in {directory}")
    return Result(
        name=name,
        global_step=int(tf.train.load_checkpoint(checkpoint).get_tensor("global_step")),
        test_accuracy=accuracy,
        steps_per_sec=1 / step_secs,
        step_us=step_secs * 1e6,
        unhooked_us=unhooked_secs * 1e6,
        hooks_us=(step_secs - unhooked_secs) * 1e6,
        directory=str(directory),
        checkpoint=checkpoint,
    )


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Sends what TensorFlow and fasthooks log to a file instead of the screen."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("tensorflow", "fasthooks")]
    before = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers[:] = [handler]
    try:
        yield
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers[:] = handlers
        handler.close()


def differences(tf: Any, reference: Result, other: Result) -> list[str]:
    """Compares steps, accuracies and the variables in the final checkpoints; returns what is wrong, if anything."""
    import numpy as np

    found = []
    if reference.global_step != other.global_step:
        found.append(f"{reference.name} ended at step {reference.global_step}, {other.name} at {other.global_step}")
    readers = [tf.train.load_checkpoint(result.checkpoint) for result in (reference, other)]
    names, other_names = (set(reader.get_variable_to_shape_map()) for reader in readers)
    if names != other_names:
        found.append(f"only one checkpoint has the variables {sorted(names ^ other_names)}")
    for name in sorted(names & other_names):
        expected, actual = (np.asarray(reader.get_tensor(name)) for reader in readers)
        if expected.shape != actual.shape or expected.dtype != actual.dtype:
            found.append(f"{name} is {expected.dtype}{expected.shape} and {actual.dtype}{actual.shape}")
            continue
        # A small element may be the difference of large ones: allow one float32 rounding at the largest one's size.
        rounding = np.finfo(np.float32).eps * float(np.max(np.abs(expected), initial=0))
        if not np.allclose(actual, expected, rtol=RELATIVE_TOLERANCE, atol=rounding):
            off_by = float(np.max(np.abs(actual.astype("float64") - expected.astype("float64"))))
            found.append(f"{name} differs by up to {off_by:.3g}")
    for result in (reference, other):
        if not result.test_accuracy >= MIN_ACCURACY:
            found.append(f"{result.name}: test accuracy {result.test_accuracy:.3f} is under {MIN_ACCURACY}")
    return found


def require(module_name: str, extra: str) -> Any:
    """Imports a module, or ends the demo with the extra that brings it."""
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise DemoError(f"cannot import {module_name} ({error}): pip install 'fasthooks[{extra}]'") from error


def results_table(results: list[Result]) -> Any:
    from rich.table import Table

    table = Table(title=f"{results[0].global_step:,} steps of a 64-{HIDDEN_UNITS}-10 network, batches of {BATCH_SIZE}")
    table.add_column("", no_wrap=True)
    for heading in ("steps/s", "µs/step", "unhooked", "hooks", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        microseconds = [f"{value:,.1f}" for value in (result.step_us, result.unhooked_us, result.hooks_us)]
        table.add_row(result.name, f"{result.steps_per_sec:,.0f}", *microseconds, f"{result.test_accuracy:.3f}")
    return table


def positive_int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps", type=positive_int, default=5000, metavar="N", help="training steps of each run (default: %(default)s)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="where checkpoints, event files and logs go (default: a new temporary directory)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")


def main(args: argparse.Namespace) -> int:
    try:
        return compare(args.steps, args.dir, args.json)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def compare(steps: int, directory: Path | None, json_file: Path | None) -> int:
    """Runs both trainings and prints the table; returns the exit code."""
    # TensorFlow's C++ side reads this when it loads: keep its banners out of the output unless the user wants them.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    require("rich", "demo")
    require("sklearn", "demo")
    tf = require("tensorflow", "cpu")
    fasthooks = require("fasthooks", "cpu")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False)
    directory = Path(tempfile.mkdtemp(prefix="fasthooks-demo-")) if directory is None else directory
    runs = [
        ("TensorFlow", tf.compat.v1.train, directory / "tensorflow"),
        ("fasthooks", fasthooks, directory / "fasthooks"),
    ]
    for _, _, subdirectory in runs:
        if tf.train.latest_checkpoint(str(subdirectory)) is not None:
            raise DemoError(f"{subdirectory} holds a checkpoint, and the training would resume from it: use another --dir")
        subdirectory.mkdir(parents=True, exist_ok=True)
    console.print(f"Writing to {directory}", soft_wrap=True)

    digits = load_digits()
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results = []
    # No refresh thread: it would take the interpreter from the loop that is measured.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        for name, train, subdirectory in runs:
            task = progress.add_task(name, total=steps)

            def bar(count: int, task: Any = task) -> None:
                progress.update(task, completed=count, refresh=True)

            results.append(measure(tf, name, train, digits, steps, subdirectory, bar))

    reference, ours = results
    ratio = reference.step_us / ours.step_us
    console.print(results_table(results))
    console.print(f"TensorFlow's step takes {ratio:.2f} times as long as fasthooks'.")
    console.print("Checkpoints and event files:", *(f"  {result.directory}" for result in results), sep="\n", soft_wrap=True)
    wrong = differences(tf, reference, ours)
    if json_file is not None:
        figures = {
            "steps": steps,
            "batch_size": BATCH_SIZE,
            "ratio": ratio,
            "results": [asdict(result) for result in results],
            "differences": wrong,
            "versions": {
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "fasthooks": getattr(fasthooks, "__version__", None),
            },
            "machine": platform.platform(),
        }
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if wrong:
        raise DemoError("; ".join(wrong))
    console.print(f"Both ended at step {ours.global_step:,} with the same variables.")
    return 0
