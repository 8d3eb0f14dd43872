"""MetricsHook and EvaluationHook: rows of numbers, of the training's own steps or of an evaluation, for sinks."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import errors
from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import training_util

from fasthooks.arguments import check_count, check_flag, check_period
from fasthooks.hooks.acting import Acting
from fasthooks.hooks.base import PerStepMethods
from fasthooks.hooks.closing import Closing
from fasthooks.hooks.sinks import Row, Sink
from fasthooks.tensorflow_train import SessionRunArgs
from fasthooks.triggers import _everyday, _trigger, recognition
from fasthooks.types import Session, TensorOrName

Metrics = Mapping[str, TensorOrName]
SinkLike = Sink | Callable[[int, Row], Any]
_SPEED, _EXAMPLES_SPEED = "steps_per_sec", "examples_per_sec"
# What every row has in a file, and what a MetricsHook adds.
_IN_FILES = ("step", "time")
_TAKEN = (*_IN_FILES, _SPEED, _EXAMPLES_SPEED)


def check_metrics(metrics: Any) -> None:
    """Raises TypeError for what are not metrics by name, or a function that returns them."""
    if metrics is not None and not callable(metrics) and not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a dict of name to tensor, or a function that returns one; got {metrics!r}.")


def scalars(metrics: Any) -> dict[str, Any]:
    """Returns name -> tensor of the default graph.

    Raises:
      TypeError: What the function returned is no dict, or a name is no text.
      ValueError: A name is taken, a tensor is not in the graph, or it is no number or bool, or no scalar.
    """
    given = (metrics() if callable(metrics) else metrics) or {}
    if not isinstance(given, Mapping):
        raise TypeError(f"metrics must return a dict of name to tensor; got {given!r}.")
    graph = tf.get_default_graph()
    found = {}
    for name, value in given.items():
        _check_name(name, _TAKEN)
        tensor = found[name] = graph.as_graph_element(value, allow_operation=False)
        if not _is_number(tensor.dtype) or not tensor.shape.is_compatible_with([]):
            raise ValueError(f"The metric {name!r} must be a scalar, a number or bool; got {tensor.name} of shape {tensor.shape} "
                             f"and {tensor.dtype.name}.")
    return found


def _check_name(name: Any, taken: Sequence[str]) -> None:
    if not isinstance(name, str):
        raise TypeError(f"The name of a metric must be a str; got {name!r}.")
    if name in taken:
        raise ValueError(f"A metric must not be called {', '.join(taken)}; got {name!r}.")


def _is_number(dtype: Any) -> bool:
    return dtype.is_floating or dtype.is_integer or dtype.is_bool


def _as_float(name: str, value: Any) -> float:
    # NumPy knows bfloat16 and the like by no class but that of all its values.
    is_more = isinstance(value, np.generic) and value.dtype.kind == "V" and not isinstance(value, np.void)
    if isinstance(value, (Real, np.bool_)) or is_more:
        # A time span, or an int that is over all floats.
        with contextlib.suppress(TypeError, OverflowError):
            return float(value)
    raise TypeError(f"evaluate must return numbers; got {value!r} for {name!r}.")


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the values of such tensors as Python's floats."""
    for name, value in values.items():
        if np.ndim(value):  # the graph did not tell
            raise ValueError(f"The metric {name!r} must be a scalar; got a value of shape {np.shape(value)}.")
    return {name: float(value) for name, value in values.items()}


class _FunctionSink(Sink):
    """A sink that calls a function with step and row."""

    def __init__(self, function):
        self._function = function

    def write(self, step, row, session):
        return self._function(step, row)


def _as_sinks(to):
    sinks = list(to) if isinstance(to, Sequence) and not isinstance(to, str) else [to]
    if not sinks or not all(isinstance(sink, Sink) or (callable(sink) and not isinstance(sink, type)) for sink in sinks):
        raise TypeError(f"to must be a Sink, a function, or a list of these; got {to!r}.")
    return [sink if isinstance(sink, Sink) else _FunctionSink(sink) for sink in sinks]


class _Rows(Acting):
    """What a hook does that writes a row when it acts."""

    _clocked = "every_n_secs should not be set"
    # What the current session's coordinator asks when it is closed; None before and after.
    _closing: Any = None

    def _set_rows(self, to, every_n_steps, every_n_secs, at_end):
        check_period(at_end, every_n_steps=every_n_steps, every_n_secs=every_n_secs)
        self._set_period(at_end, steps=every_n_steps, secs=every_n_secs)
        self._sinks = _as_sinks(to)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_closing"}

    def begin(self) -> None:
        super().begin()
        self._read_steps()
        self._last_step_read = training_util.get_global_step()
        self._started = None

    def _begin_sinks(self, names):
        try:
            for sink in self._sinks:
                sink.begin(names)
        except BaseException:  # there will be no session that closes those before it
            self._close()
            raise

    def after_create_session(self, session: Any, coord: Any) -> None:
        super().after_create_session(session, coord)
        self._closing = Closing(coord, self._session_closes)
        self._start(session, int(session.run(self._last_step_read)))

    def _start(self, session, step):
        self._started = step
        for sink in self._sinks:
            sink.started(session, step)

    def _write(self, step, row, session):
        if self._started is None:  # it joined the list of a living session
            self._start(session, step)
        # Returns whether a sink asks for a stop; those after it get the row all the same.
        stops = [sink.write(step, row, session) is True for sink in self._sinks]
        return any(stops)

    def end(self, session: Any) -> None:
        super().end(session)
        self._close()

    def _close(self):
        self._closing = None
        with contextlib.ExitStack() as stack:  # all of them, whatever one raises
            for sink in reversed(self._sinks):
                stack.callback(sink.close)

    def _session_closes(self):
        # `end` was not called, or it failed, if they are still open.
        if self._closing is not None:
            try:
                self._close()
            except Exception as error:
                logging.error("What %s writes to could not be closed: %s", self._title(), error, exc_info=True)


class MetricsHook(PerStepMethods, _everyday.MeanTrigger, _Rows):
    """Writes rows of metrics and of the training's speed now and then.

    Args:
      metrics: Name -> scalar tensor, of a number or bool dtype, or its name ("loss:0"); or a function without arguments that
        returns such a dict. Names and the function are looked up in the graph of each session, in `begin`.
      to: Where the rows go, in this order: a `Sink`, a function, or a list of these. A function is called with the global step,
        an int, and the row, a dict of name to float; if it returns True itself, a stop is requested.
      every_n_steps: Global steps between two rows, a positive int.
      every_n_secs: Seconds between two rows, by `time.time`. Exactly one of the two must be given.
      reduce: "last": the values of the run whose row it is; they are fetched on such runs only. "mean": the mean over all runs
        since the last row; that fetches them on every run, in one vector with the step.
      examples_per_step: Examples of a global step, a positive int; for `examples_per_sec`.
      at_end: Whether to write a row of the last step too, unless it has one.

    Raises:
      TypeError: `metrics` or `to` is of none of these kinds.
      ValueError: Another argument is not of its kind, or none or both of the periods are given. In `begin`: a metric is no
        scalar, or its name is taken. On a step, with "mean": the global step is over 2**53.
      RuntimeError: In `begin`: there is no global step.

    every_n_steps=100 from step 1: rows at 1, 101, 201; see `Every` for the rule, and for what it expects of the graph. A row has
    the metrics in their order, then `steps_per_sec` and, if asked for, `examples_per_sec`: over the time since the last row with
    all that came in it, checkpoints, evaluations and other hooks. They are NaN in the first row of a session, and in the first
    after a recovery.

    At the end "last" makes a run of the metrics alone, and leaves the row out where `Every` would; "mean" has what it needs.
    A mean with a NaN is NaN. After a recovery it begins anew, and no row is written for a period that has one: a row never mixes
    both. The first error of a sink is raised on the step of the row.

    On several workers each writes rows of its own; give it to one, or each its own sinks.

    Cost: a quiet step costs what another stock hook costs; with "mean", what fetching the vector costs
    (`python bench/budgets.py --only C1`).
    """

    _packed_names: list[str] = []
    # Step and time of the last row of the session.
    _last_row: tuple[int, float] | None = None

    def __init__(self, metrics: Metrics | Callable[[], Metrics] | None = None, *, to: SinkLike | Sequence[SinkLike],
                 every_n_steps: int | None = None, every_n_secs: float | None = None, reduce: Literal["last", "mean"] = "last",
                 examples_per_step: int | None = None, at_end: bool = True) -> None:
        check_metrics(metrics)
        self._set_rows(to, every_n_steps, every_n_secs, at_end)
        if reduce not in ("last", "mean"):
            raise ValueError(f"reduce must be 'last' or 'mean'; got {reduce!r}.")
        self._metrics = metrics
        self._reduce = reduce
        self._examples_per_step = None if examples_per_step is None else check_count("examples_per_step", examples_per_step)

    def begin(self) -> None:
        """Finds the metrics in the graph; see `tf.compat.v1.train.SessionRunHook`."""
        super().begin()
        self._last_row = self._sums = None
        found = scalars(self._metrics)
        self._names = list(found)
        if self._reduce == "mean":
            self._pack([self._global_step_tensor, *found.values()])
        else:
            self._want(found)
        self._begin_sinks([*found, _SPEED, *([_EXAMPLES_SPEED] if self._examples_per_step else [])])

    def _pack(self, tensors):
        # The graph is final in a second session.
        names = [tensor.name for tensor in tensors]
        if self._packed is None or self._packed.graph is not tf.get_default_graph() or self._packed_names != names:
            with tf.name_scope("MetricsHook"):
                self._packed = tf.stack([tf.cast(tensor, tf.float64) for tensor in tensors])
            self._packed_names = names
        self._wanted = self._packed

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Tells the sinks, after a recovery too; see `tf.compat.v1.train.SessionRunHook`."""
        super().after_create_session(session, coord)
        self._last_row = self._sums = None

    def _quiet_request(self):
        return super()._quiet_request() if self._packed is None else SessionRunArgs(self._packed)

    def _act(self, run_context, run_values, step):
        step, values = int(step), run_values.results
        if self._packed is not None:
            if abs(step) > 2**53:
                raise ValueError(f'reduce="mean" fetches the global step as a float64, which holds none over 2**53; got {step}.')
            values = self._means(self.take(values))
        if self._write_values(step, values, run_context.session):
            run_context.request_stop()

    def _act_at_end(self, session):
        if self._packed is None:
            super()._act_at_end(session)
        elif (taken := self.take()) is not None:
            self._write_values(int(taken[0][0]), self._means(taken), session)

    def _means(self, taken):
        sums, runs = taken
        return dict(zip(self._names, sums[1:] / runs, strict=True))

    def _write_values(self, step, values, session):
        now, last = time.monotonic(), self._last_row
        self._last_row = step, now
        row = numbers(values)
        row[_SPEED] = (step - last[0]) / (now - last[1]) if last and now > last[1] else float("nan")
        if self._examples_per_step:
            row[_EXAMPLES_SPEED] = row[_SPEED] * self._examples_per_step
        return self._write(step, row, session)


class EvaluationHook(PerStepMethods, _trigger.PeriodTrigger, _Rows):
    """Evaluates now and then in the session that trains, and writes a row of what that gives.

    Args:
      evaluate: Called with the raw session after a step; returns name -> number, of Python's kinds or NumPy scalars, the same
        names each time. No hook sees what it runs. The graph is final: it must have all that this needs.
      to: Where the rows go; see `MetricsHook`.
      every_n_steps: Global steps between two evaluations, a positive int.
      every_n_secs: Seconds between two evaluations, by `time.time`. Exactly one of the two must be given.
      at_start: Whether to evaluate before the first step too; the periods count from there then.
      at_end: Whether to evaluate after the last step too, unless that was done.

    Raises:
      TypeError: `evaluate` cannot be called, or `to` is of none of its kinds. On a step: a value is no number, or a name no str.
      ValueError: A period is not of its kind, or none or both are given. On a step: the names are others than before, or one is
        step or time, which all rows have.
      RuntimeError: In `begin`: there is no global step. On a step: the input of the evaluation is used up (OutOfRangeError, or
        StopIteration), which would end the training without a word.

    every_n_steps=100 from step 0: evaluates after 1, 101, 201, with at_start at 0, 100, 200. Nothing is fetched but the step. The
    names of the rows are not known to the sinks before the first of them.

    On several workers each evaluates; give it to one.

    Cost: a quiet step costs what another stock hook costs (`python bench/budgets.py --only C1`).
    """

    def __init__(self, evaluate: Callable[[Session], Mapping[str, Any]], *, to: SinkLike | Sequence[SinkLike],
                 every_n_steps: int | None = None, every_n_secs: float | None = None, at_start: bool = False,
                 at_end: bool = True) -> None:
        if not callable(evaluate):
            raise TypeError(f"evaluate must be callable; got {evaluate!r}.")
        self._set_rows(to, every_n_steps, every_n_secs, at_end)
        check_flag("at_start", at_start)
        self._evaluate = evaluate
        self._at_start = at_start

    def begin(self) -> None:
        """Begins the period; see `tf.compat.v1.train.SessionRunHook`."""
        super().begin()
        self._names: list[str] | None = None
        self._begin_sinks(None)

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Evaluates, if that is asked for, but not after a recovery; see `tf.compat.v1.train.SessionRunHook`."""
        super().after_create_session(session, coord)
        if self._at_start and self._last is None:
            now = time.time()
            if self._write_evaluation(self._started, session) and coord is not None:
                coord.request_stop()
            self._seen = self._started
            self._last = self._started if self._secs is None else now

    def _act(self, run_context, run_values, step):
        if self._write_evaluation(int(step), run_context.session):
            run_context.request_stop()

    def _write_evaluation(self, step, session):
        try:
            values = self._evaluate(session)
        except (errors.OutOfRangeError, StopIteration) as error:
            raise RuntimeError(f"The input of the evaluation at step {step} is used up.") from error
        if not isinstance(values, Mapping):
            raise TypeError(f"evaluate must return a dict of name to number; got {values!r}.")
        row = {}
        for name, value in values.items():
            _check_name(name, _IN_FILES)
            row[name] = _as_float(name, value)
        if self._names is None:
            self._names = list(values)
        if values.keys() != set(self._names):
            raise ValueError(f"evaluate must return the same names each time; got {list(values)}, and before {self._names}.")
        return self._write(step, {name: row[name] for name in self._names}, session)


for _cls in (MetricsHook, EvaluationHook):
    recognition.know_hook(_cls)
