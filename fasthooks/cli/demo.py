"""Trains the same small network under TensorFlow's session hooks and under fasthooks', and compares the two.

The network (64-64-10, softmax cross-entropy, Adam) learns scikit-learn's handwritten digits from minibatches that are
fed on each step, once under tf.compat.v1.train.MonitoredTrainingSession with TensorFlow's hooks, once under fasthooks'
with the hooks of the same names and arguments: checkpoints, summaries, step counter, logging, NaN check, stop at step,
final accuracy. Seed, batches and their order are the same, and one intra-op thread keeps float sums in order, so both
must end with the same variables. fasthooks' training has two hooks more, of which TensorFlow has no like: ProgressHook shows
how far it is, on a terminal as a bar if tqdm is there, and MetricsHook writes loss and speed to metrics.csv.

How the figures are taken: the two trainings take turns, and with them the same two loops without a hook (for TensorFlow a
bare Session.run(train_op, feed_dict), for fasthooks a fasthooks.MonitoredSession without hooks). All are open at once; each
runs 100 steps, in which every trigger comes once, then it is the next one's turn. "µs/step" is the wall time of such a block,
divided by its steps, "unhooked" that of the loop without hooks right beside it, "hooks" the difference. Shown are medians of
all blocks but the first (200 steps at most), and below them the range in which the middle half of the blocks lies. Where
that range is wide, other programs kept the machine busy, and the last line says so.

The exit code is 1, with the reason, if the two end at different steps, with variables that differ by more than a relative
1e-5, or with a test accuracy under 0.95 (fewer than about 500 steps do not reach it).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SEED = 20
BATCH_SIZE = 32
HIDDEN_UNITS = 64
EVERY_STEPS = 100  # summaries, log lines, step counter; and the steps of a block
WARMUP_STEPS = 200
# The middle half of the blocks' ratios, over their median: with more, the machine was too busy for a figure.
MAX_SPREAD = 0.5
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
class Figure:
    """What was seen of blocks: their median and the quartiles beside it, in microseconds a step unless it is a ratio."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        # On a busy machine figures may be wide, and a decimal says nothing then.
        places = 1 if self.high < 1000 else 0
        return f"{self.median:,.{places}f}\n{self.low:,.{places}f}..{self.high:,.{places}f}"


@dataclass(frozen=True)
class Result:
    """One training: where it ended and what its steps took."""

    name: str
    global_step: int
    test_accuracy: float
    step_us: Figure
    unhooked_us: Figure
    hooks_us: Figure
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


class Lane:
    """A session and its loop, of which a block of steps can be run at a time.

    Args:
        tf: the tensorflow module.
        make: called in a fresh graph with the model in it; returns the session.
        digits: the data.
        log: where what TensorFlow and fasthooks log goes.
    """

    def __init__(self, tf: Any, make: Callable[[Model], Any], digits: Digits, log: Path) -> None:
        self._log = log
        self._graph = tf.Graph()
        self._batches = digits.batches()
        self.block_us: list[float] = []
        with self._entered():
            self._model = build_model(tf)
            self._session = make(self._model)

    def run(self, steps: int, timed: bool) -> None:
        """Runs up to so many steps; keeps how long one of them took, in microseconds, if `timed`."""
        session, model, batches = self._session, self._model, self._batches
        # A plain session has none.
        should_stop = getattr(session, "should_stop", lambda: False)
        with self._entered():
            begin = time.perf_counter()
            for _ in range(steps):
                if should_stop():
                    break
                images, labels = next(batches)
                session.run(model.train_op, feed_dict={model.images: images, model.labels: labels})
            secs = time.perf_counter() - begin
        if timed:
            self.block_us.append(secs / steps * 1e6)

    def close(self) -> None:
        with self._entered():
            self._session.close()

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        with log_to(self._log), self._graph.as_default():
            yield


class Training:
    """The training with the sessions and hooks of one namespace, and the same loop without hooks.

    Args:
        tf: the tensorflow module.
        name: what to call it.
        train: tf.compat.v1.train or fasthooks, whose training gets two hooks more; nothing else differs between the two.
        digits: the data.
        steps: the global step to stop at.
        directory: receives checkpoints and event files.
    """

    def __init__(self, tf: Any, name: str, train: Any, digits: Digits, steps: int, directory: Path) -> None:
        self._tf = tf
        self._name = name
        self._directory = directory
        log = directory.with_suffix(".log")

        def hooked(model: Model) -> Any:
            test = {model.images: digits.test_images, model.labels: digits.test_labels}
            self._final = train.FinalOpsHook(model.accuracy, final_ops_feed_dict=test)
            hooks = [
                train.StopAtStepHook(last_step=steps),
                train.NanTensorHook(model.loss),
                train.LoggingTensorHook({"loss": model.loss}, every_n_iter=EVERY_STEPS),
                self._final,
            ]
            if train is not tf.compat.v1.train:
                hooks += [
                    train.ProgressHook(steps, metrics={"loss": model.loss}, examples_per_step=BATCH_SIZE),
                    train.MetricsHook(
                        {"loss": model.loss}, to=train.CSVSink(directory / "metrics.csv"), every_n_steps=EVERY_STEPS,
                        examples_per_step=BATCH_SIZE, at_end=False),
                ]
            # With a checkpoint_dir this session adds the step counter, the summary saver and the checkpoint saver (at the
            # start, every 600 s, and at the end).
            return train.MonitoredTrainingSession(
                checkpoint_dir=str(directory),
                hooks=hooks,
                config=session_config(tf),
                save_summaries_steps=EVERY_STEPS,
                log_step_count_steps=EVERY_STEPS,
            )

        def unhooked(model: Model) -> Any:
            if train is not tf.compat.v1.train:
                return train.MonitoredSession(session_creator=train.ChiefSessionCreator(config=session_config(tf)))
            session = tf.compat.v1.Session(config=session_config(tf))
            session.run(tf.compat.v1.global_variables_initializer())
            return session

        self.lanes = [Lane(tf, make, digits, log) for make in (hooked, unhooked)]

    def end(self) -> Result:
        """Closes the sessions and returns what came of the training."""
        import numpy as np

        for lane in self.lanes:
            lane.close()
        checkpoint = self._tf.train.latest_checkpoint(str(self._directory))
        if checkpoint is None:
            raise DemoError(f"{self._name} left no checkpoint in {self._directory}")
        hooked, unhooked = (np.array(lane.block_us) for lane in self.lanes)
        return Result(
            name=self._name,
            global_step=int(self._tf.train.load_checkpoint(checkpoint).get_tensor("global_step")),
            test_accuracy=float(self._final.final_ops_values),
            step_us=figure(hooked),
            unhooked_us=figure(unhooked),
            hooks_us=figure(hooked - unhooked),
            directory=str(self._directory),
            checkpoint=checkpoint,
        )


def take_turns(trainings: list[Training], steps: int) -> Any:
    """Runs all trainings, block by block; returns by how much the first one's block took longer than the second one's."""
    import numpy as np

    lanes = [lane for training in trainings for lane in training.lanes]
    warmup = min(WARMUP_STEPS, steps // 5)
    count = 0
    while count < steps:
        # The last step's checkpoint is no part of a block; nor is a shorter block at the end, if there are others.
        block = min(EVERY_STEPS, warmup - count if count < warmup else steps - count)
        timed = count >= warmup and (block == EVERY_STEPS or not lanes[0].block_us)
        for lane in lanes if count // EVERY_STEPS % 2 else reversed(lanes):
            lane.run(block, timed)
        count += block
    first, second = (np.array(training.lanes[0].block_us) for training in trainings)
    return first / second


def figure(blocks: Any) -> Figure:
    import numpy as np

    low, median, high = np.percentile(blocks, [25, 50, 75])
    return Figure(float(median), float(low), float(high))


def verdict(ratio: Figure) -> str:
    """Returns the sentence about the two trainings' steps."""
    if ratio.high - ratio.low > MAX_SPREAD * ratio.median:
        return (f"The machine was too busy for a figure: TensorFlow's step took {ratio.low:.1f} to {ratio.high:.1f} times as "
                "long as fasthooks' in the middle half of the blocks.")
    return f"TensorFlow's step takes {ratio.median:.1f} times as long as fasthooks' ({ratio.low:.1f}..{ratio.high:.1f})."


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


def refuse_unwritable(path: Path, option: str) -> None:
    """Ends the demo if a file cannot be written; makes the directories above it."""
    existed = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise DemoError(f"{option} cannot be written: {error}") from error


def require(module_name: str) -> Any:
    """Imports a module, or ends the demo with the extras that bring what it needs."""
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        extras = "demo" if importlib.util.find_spec("tensorflow") else "cpu,demo"
        raise DemoError(f"cannot import {module_name} ({error}): pip install 'fasthooks[{extras}]'") from error


def results_table(results: list[Result]) -> Any:
    from rich.table import Table

    title = f"{results[0].global_step:,} steps of a 64-{HIDDEN_UNITS}-10 network, batches of {BATCH_SIZE}"
    table = Table(title=title, show_lines=True)
    table.add_column("", no_wrap=True, overflow="fold")
    for heading in ("steps/s", "µs/step", "unhooked", "hooks", "accuracy"):
        table.add_column(heading, justify="right", overflow="fold")
    for result in results:
        microseconds = [str(one) for one in (result.step_us, result.unhooked_us, result.hooks_us)]
        table.add_row(result.name, f"{1e6 / result.step_us.median:,.0f}", *microseconds, f"{result.test_accuracy:.3f}")
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
        "--steps", type=positive_int, default=5000, metavar="N",
        help="training steps of each run; some 500 are needed for the accuracy that is asked for (default: %(default)s)"
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
    require("rich")
    require("sklearn")
    tf = require("tensorflow")
    fasthooks = require("fasthooks")
    try:
        require("fasthooks.known_tensorflow").check()
    except ImportError as error:
        raise DemoError(str(error)) from error
    from rich.console import Console

    console = Console(highlight=False)
    directory = Path(tempfile.mkdtemp(prefix="fasthooks-demo-")) if directory is None else directory
    if directory.exists() and not directory.is_dir():
        raise DemoError(f"--dir must be a directory; {directory} is a file")
    runs = [
        ("TensorFlow", tf.compat.v1.train, directory / "tensorflow"),
        ("fasthooks", fasthooks, directory / "fasthooks"),
    ]
    for _, _, subdirectory in runs:
        if tf.train.latest_checkpoint(str(subdirectory)) is not None:
            raise DemoError(f"{subdirectory} holds a checkpoint, and the training would resume from it: use another --dir")
        refuse_unwritable(subdirectory / "demo", "--dir")
    if json_file is not None:
        refuse_unwritable(json_file, "--json")
    console.print(f"Writing to {directory}", soft_wrap=True)

    digits = load_digits()
    trainings = [Training(tf, name, train, digits, steps, subdirectory) for name, train, subdirectory in runs]
    ratios = take_turns(trainings, steps)
    results = [training.end() for training in trainings]

    reference, ours = results
    ratio = figure(ratios)
    console.print(results_table(results))
    console.print(verdict(ratio), soft_wrap=True)
    console.print("Checkpoints and event files:", *(f"  {result.directory}" for result in results), sep="\n", soft_wrap=True)
    wrong = differences(tf, reference, ours)
    if json_file is not None:
        figures = {
            "steps": steps,
            "batch_size": BATCH_SIZE,
            "ratio": asdict(ratio),
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
