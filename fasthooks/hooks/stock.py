"""TensorFlow's stock hooks with compiled triggers.

Each class inherits a compiled trigger before TensorFlow's hook of the same name. The trigger answers on every
step whether there is anything to do; what is then done (a checkpoint, a summary, a log line, a stop) is TensorFlow's
own method, so its files, messages and errors are the stock ones. Constructors take TensorFlow's arguments with
TensorFlow's defaults and raise what TensorFlow raises.

Compatibility: attributes that a trigger reads (`_timer`, `_last_step`, `_iter_count`, ...) live in C fields, where
reads and writes from Python are as live as in TensorFlow. Until they are first set they read as None, and they do not
stand in `hook.__dict__`.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import basic_session_run_hooks as stock
from tensorflow.python.training import monitored_session
from tensorflow.python.util import deprecation

from fasthooks import tensorflow_train
from fasthooks.hooks import last_run
from fasthooks.hooks.base import PerStepMethods, WriterMethods
from fasthooks.hooks.closing import Closing
from fasthooks.output import stock_hooks
from fasthooks.rebinding import rebound
from fasthooks.tensorflow_train import SecondOrStepTimer as _StockTimer
from fasthooks.triggers import _guard, _timer, _trigger, recognition


class SecondOrStepTimer(_timer.Timer, _StockTimer):
    """Triggers at most once every `every_secs` seconds or once every `every_steps` steps.

    Args:
      every_secs: Seconds between triggers, int or float.
      every_steps: Steps between triggers. Exactly one of the two must be given.

    Raises:
      ValueError: Neither or both were given.

    every_steps=3, first asked for step 1: triggers at 1, 4, 7. The clock is `time.time`, looked up at each reading.
    """

    def __init__(self, every_secs: float | None = None, every_steps: int | None = None) -> None:
        rebound(_StockTimer.__init__, SecondOrStepTimer=_StockTimer)(self, every_secs, every_steps)


def _compiled(timer):
    # TensorFlow's constructors have checked the arguments and made a timer in plain Python. One that somebody's own constructor
    # made may have been given more. tf.estimator wraps the constructor, since it is deprecated there; that gives it nothing.
    init: Any = _StockTimer.__init__
    while _guard.is_defined_in(init, deprecation):
        init = getattr(init, "__wrapped__", None)
    if type(timer) is _StockTimer and _guard.is_defined_in(init, stock, "SecondOrStepTimer.__init__"):
        return SecondOrStepTimer(every_secs=timer._every_secs, every_steps=timer._every_steps)
    return timer


class StopAtStepHook(PerStepMethods, _trigger.StopAtStepTrigger, tensorflow_train.StopAtStepHook):
    """Requests a stop at a global step.

    Args:
      num_steps: Stop after this many steps, counted from the global step at session creation.
      last_step: Stop when the global step reaches this value. Exactly one of the two must be given.

    Raises:
      ValueError: Neither or both were given.

    last_step=10 with a global step that grows by 3 per run stops at 12.
    """


class StepCounterHook(WriterMethods, _trigger.StepCounterTrigger, tensorflow_train.StepCounterHook):
    """Logs steps per second, and writes them as the summary `<global step>/sec`.

    Args:
      every_n_steps: Global steps between two reports.
      every_n_secs: Seconds between two reports. Exactly one of the two must be given.
      output_dir: Directory of the event file.
      summary_writer: A FileWriter to use in place of one for `output_dir`.

    Raises:
      ValueError: Neither or both of `every_n_steps` and `every_n_secs` were given.
    """

    def __init__(self, every_n_steps: int | None = 100, every_n_secs: float | None = None,
                 output_dir: str | os.PathLike[str] | None = None, summary_writer: Any = None) -> None:
        super().__init__(every_n_steps, every_n_secs, output_dir, summary_writer)
        self._timer = _compiled(self._timer)

    def _log_and_record(self, elapsed_steps, elapsed_time, global_step):
        # Not TensorFlow's where a class of the user's own stands between.
        stock_hooks.log_and_record(super()._log_and_record, self, elapsed_steps, elapsed_time, global_step)


class LoggingTensorHook(PerStepMethods, _trigger.LoggingTensorTrigger, tensorflow_train.LoggingTensorHook):
    """Logs the values of tensors every N runs, every N seconds, or at the end. Fetches them only then.

    Args:
      tensors: Dict of tag to tensor or name, or an iterable of tensors or names.
      every_n_iter: Runs of this session between two log lines.
      every_n_secs: Seconds between two log lines.
      at_end: Whether to log at the end too.
      formatter: Called with the dict of tag to value; returns the line to log.

    Raises:
      ValueError: `every_n_iter` is not positive, or neither `at_end` nor exactly one of the others was given.
    """

    def __init__(self, tensors: Mapping[str, Any] | Iterable[Any], every_n_iter: int | None = None,
                 every_n_secs: float | None = None, at_end: bool = False,
                 formatter: Callable[[dict[Any, Any]], str] | None = None) -> None:
        super().__init__(tensors, every_n_iter, every_n_secs, at_end, formatter)
        self._timer = _compiled(self._timer)

    def _log_tensors(self, tensor_values):
        stock_hooks.log_tensors(super()._log_tensors, self, tensor_values)


class NanTensorHook(PerStepMethods, _trigger.NanTensorTrigger, tensorflow_train.NanTensorHook):
    """Stops when a tensor, the loss, is NaN.

    Args:
      loss_tensor: The tensor, fetched on every run; a scalar of a float dtype.
      fail_on_nan_loss: Whether to raise NanLossDuringTrainingError; else a stop is requested.
    """


class SummarySaverHook(WriterMethods, _trigger.SummarySaverTrigger, tensorflow_train.SummarySaverHook):
    """Writes summaries every N steps or seconds. Computes them only then.

    Args:
      save_steps: Global steps between two summaries.
      save_secs: Seconds between two summaries. Exactly one of the two must be given.
      output_dir: Directory of the event file.
      summary_writer: A FileWriter to use in place of one for `output_dir`.
      scaffold: A Scaffold that has the summary op.
      summary_op: The summary op, a string tensor or a list of them. Exactly one of this and `scaffold` must be given.
      save_at_end: Whether to write a summary at the end too, unless that of the last step was written. It is computed
        then, by a run of its own, from the variables as the last step left them and from the next input. Where that
        cannot be (the input is used up, a placeholder is fed by the steps only, the summary needs other workers), it is
        left out and one line logged.

    Raises:
      ValueError: Arguments that exclude each other were given, or none of them.

    save_steps=10 over 25 steps that begin at 1 writes at 1, 11, 21; with save_at_end also at 25.
    """

    def __init__(self, save_steps: int | None = None, save_secs: float | None = None,
                 output_dir: str | os.PathLike[str] | None = None, summary_writer: Any = None,
                 scaffold: tensorflow_train.Scaffold | None = None, summary_op: Any = None, *,
                 save_at_end: bool = False) -> None:
        super().__init__(save_steps, save_secs, output_dir, summary_writer, scaffold, summary_op)
        self._timer = _compiled(self._timer)
        self._save_at_end = save_at_end

    _save_at_end = False

    def end(self, session: Any = None) -> None:
        """Writes the last summary if that was asked for, and flushes the file."""
        # Without a writer, a summary or a step there is nothing to write.
        if self._save_at_end and self._summary_writer and self._get_summary_op() and self._next_step is not None:
            self._write_last(session)
        super().end(session)

    def _write_last(self, session):
        step = session.run(self._global_step_tensor)
        if step == self._timer.last_triggered_step():
            return
        summaries, obstacle = last_run.attempt(session, self._get_summary_op())
        if obstacle is not None:
            logging.warning("The summary of the last step, %s, is not written: %s.", step, obstacle)
            return
        for summary in summaries:
            self._summary_writer.add_summary(summary, step)
        self._timer.update_last_triggered_step(step)


class CheckpointSaverHook(WriterMethods, _trigger.CheckpointSaverTrigger, tensorflow_train.CheckpointSaverHook):
    """Saves a checkpoint every N steps or seconds, at session creation and at the end.

    Args:
      checkpoint_dir: Directory of the checkpoints.
      save_secs: Seconds between two checkpoints.
      save_steps: Global steps between two checkpoints. Exactly one of the two must be given.
      saver: The Saver to use.
      checkpoint_basename: Base name of the checkpoint files.
      scaffold: A Scaffold that has the saver. At most one of this and `saver` may be given; if neither is, the
        graph's collection of savers must hold exactly one.
      listeners: CheckpointSaverListeners to call before and after each save.
      save_graph_def: Whether to write `graph.pbtxt` and a meta graph with each checkpoint.
      save_on_error: Whether to save too when the session is closed because of an exception: what the variables hold
        then, under the global step they hold, unless that step was saved before. The exception propagates unchanged; a
        save that fails meanwhile is logged. Works in every session that is used in a `with` block, TensorFlow's too;
        without one, nothing closes the session. AbortedError and UnavailableError do not save: sessions recover from
        them to the last checkpoint. Nor does NanLossDuringTrainingError, whose state is not good.

    Raises:
      ValueError: Arguments that exclude each other were given, or none of them.
    """

    # What the current session's coordinator asks when it is closed; None before and after.
    _closing: Any = None
    _save_on_error = False

    def __init__(self, checkpoint_dir: str, save_secs: float | None = None, save_steps: int | None = None,
                 saver: Any = None, checkpoint_basename: str = "model.ckpt",
                 scaffold: tensorflow_train.Scaffold | None = None,
                 listeners: Sequence[tensorflow_train.CheckpointSaverListener] | None = None,
                 save_graph_def: bool = True, *, save_on_error: bool = False) -> None:
        super().__init__(checkpoint_dir, save_secs, save_steps, saver, checkpoint_basename, scaffold, listeners,
                         save_graph_def)
        self._timer = _compiled(self._timer)
        self._save_on_error = save_on_error

    def __getstate__(self) -> dict[str, Any]:
        # Nor in what it does in a session.
        return {name: value for name, value in super().__getstate__().items() if name != "_closing"}

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Writes the graph and the first checkpoint; see `tf.compat.v1.train.SessionRunHook`."""
        if self._save_on_error:
            self._watch_closing(session, coord)
        super().after_create_session(session, coord)

    def end(self, session: Any) -> None:  # type: ignore[override]
        """Saves the last step, if it was not; see `tf.compat.v1.train.SessionRunHook`."""
        super().end(session)
        self._closing = None

    def _watch_closing(self, session, coord):
        self._closing = Closing(coord, lambda: self._session_closes(session))

    def _session_closes(self, session):
        # `end` was not called, or it failed, if there is still somebody to ask.
        error = sys.exc_info()[1]
        closing, self._closing = self._closing, None
        bad = (stock.NanLossDuringTrainingError, *monitored_session._PREEMPTION_ERRORS)
        if closing is None or error is None or not self._save_on_error or isinstance(error, bad):
            return
        try:
            step = session.run(self._global_step_tensor)
            if self._is_unsaved(step):
                logging.info("Saving the state after %s: %s", type(error).__name__, error)
                self._save_now(session, step)
        except Exception as failed:
            logging.error("The state after %s could not be saved into %s: %s", type(error).__name__,
                          self._checkpoint_dir, failed, exc_info=True)

    def _save_now(self, session, step):
        # Returns when the file is written.
        return self._save(session, step)

    def _is_unsaved(self, step):
        return step != self._timer.last_triggered_step()


class GlobalStepWaiterHook(PerStepMethods, _trigger.GlobalStepWaiterTrigger, tensorflow_train.GlobalStepWaiterHook):
    """Holds the first run back until the global step reaches a value; looks twice a second.

    Args:
      wait_until_step: The global step to wait for; at most 0: do not wait.
    """


class ProfilerHook(PerStepMethods, _trigger.ProfilerTrigger, tensorflow_train.ProfilerHook):
    """Writes a `timeline-<step>.json` every N steps or seconds. Such a step runs with a full trace.

    Args:
      save_steps: Global steps between two timelines.
      save_secs: Seconds between two timelines. Exactly one of the two must be given.
      output_dir: Directory of the files.
      show_dataflow: Whether to draw arrows from producers to consumers of tensors.
      show_memory: Whether to show sizes and lifetimes of tensors.

    Raises:
      ValueError: Neither or both of `save_steps` and `save_secs` were given.
    """

    def __init__(self, save_steps: int | None = None, save_secs: float | None = None,
                 output_dir: str | os.PathLike[str] = "", show_dataflow: bool = True, show_memory: bool = False) -> None:
        super().__init__(save_steps, save_secs, output_dir, show_dataflow, show_memory)
        self._timer = _compiled(self._timer)


# Has no part in a step: TensorFlow's class as it is.
FinalOpsHook = tensorflow_train.FinalOpsHook

for _cls in (SecondOrStepTimer, StopAtStepHook, StepCounterHook, LoggingTensorHook, NanTensorHook, SummarySaverHook,
             CheckpointSaverHook, GlobalStepWaiterHook, ProfilerHook):
    recognition.know_hook(_cls)
