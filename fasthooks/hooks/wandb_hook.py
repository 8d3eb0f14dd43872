"""WandbHook: rows of TensorFlow summaries in a Weights & Biases run. The only module that imports wandb."""

import importlib
import math
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow.compat.v1 as tf

from fasthooks.arguments import check_count
from fasthooks.hooks.base import PerStepMethods
from fasthooks.tensorflow_train import SessionRunArgs, SessionRunContext, SessionRunHook, SessionRunValues
from fasthooks.triggers import _guard, _trigger, recognition

# The run that a hook began with last. wandb's module keeps its steps when the run is finished.
_last_run: Any = None


def _is_new(run):
    global _last_run
    if _last_run is not None and _last_run() is run:
        return False
    _last_run = weakref.ref(run)
    return True


def _logged():
    # wandb's module with the steps of what was logged; the package has a function of the same name.
    return importlib.import_module("wandb.integration.tensorboard.log")


def import_wandb(user: str = "WandbHook") -> Any:
    """Returns the package; ImportError says what needs it and how to get it."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"{user} needs the wandb package: pip install 'fasthooks[wandb]'") from error
    return wandb


class _Rows(SessionRunHook):
    """What WandbHook does on the runs on which there is something to do."""

    # WandbTrigger's and WandbHook's.
    _global_step_tensor: Any
    _next_row: Any
    _steps_per_log: Any
    _summary_op: Any
    _history: Any
    observe: Callable[[Any], None]

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        return SessionRunArgs({"summary": self._summary_op, "global_step": self._global_step_tensor})

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        step = run_values.results["global_step"]
        summary = run_values.results.get("summary")
        period = self._steps_per_log
        self.observe(step)
        if self._next_row is None:
            self._next_row = int(-(-step // period) * period)
        if summary is not None and step >= self._next_row:
            import_wandb().tensorboard._log(summary, history=self._history, step=step)
            self._next_row = int((step // period + 1) * period)
            self._uncommitted = True

    def end(self, session: Any) -> None:
        logged = _logged()
        # Another hook may have committed the row that both have written.
        if self._uncommitted and logged.STEPS["global"]["last_log"] is not None:
            run = import_wandb().run
            if self._history is not None:
                self._history.add({})
            elif run is not None:
                run._log({})
            # So that no row of the next session is taken for one that is there, nor an empty one committed before it.
            logged.reset_state()
            logged.STEPS[""]["step"] = math.inf
        self._uncommitted = False


class WandbHook(PerStepMethods, _trigger.WandbTrigger, _Rows):
    """Logs a summary to the active wandb run each time the global step reaches or passes a multiple of N.

    Args:
      summary_op: A string tensor with a serialized Summary, or a list of them; default: all summaries of the graph,
        merged.
      steps_per_log: N, a positive int.
      history: An object with `add` and `_row_update` that takes the rows in place of the run.

    Raises:
      ImportError: wandb is not installed.
      ValueError: `steps_per_log` is not a positive int.

    steps_per_log=1000 and a step that grows by one logs rows at 0, 1000, 2000: those of wandb's own hook, with its
    keys and steps. With a step that grows by 7 from 0 it logs 0, 1001, 2002, where wandb's hook, which wants a multiple
    exactly, logs 0, 7000.

    Compatibility: wandb's own hook computes the summary on every run; this one on the first run after `begin`, whose
    step nobody knows before, and on those whose row is logged. It expects the step to grow as it last grew, at first by
    the constant that the graph adds to it; if the graph shows none, the summary is computed on the second run too. A
    multiple that is passed against this expectation is logged on the next run. At the end the last row is committed,
    which wandb's hook leaves to `run.finish()`. wandb keeps the steps of rows beyond a session and a run, and loses rows
    where a later one repeats them; this hook begins anew. After a recovery to an earlier step no row is logged until
    the step is past the last row's.
    """

    def __init__(self, summary_op: Any = None, steps_per_log: int = 1000, history: Any = None) -> None:
        import_wandb()
        from wandb.sdk.lib import telemetry

        self._summary_op = summary_op
        self._steps_per_log = check_count("steps_per_log", steps_per_log)
        self._history = history
        self._uncommitted = False
        with telemetry.context() as tel:
            tel.feature.estimator_hook = True

    def begin(self) -> None:
        super().begin()
        wandb = import_wandb()
        if wandb.run is None:
            raise wandb.Error("You must call `wandb.init()` before calling `WandbHook`")
        if self._summary_op is None:
            self._summary_op = tf.summary.merge_all()
            if self._summary_op is None:
                raise ValueError("WandbHook has nothing to log: the graph has no summaries and summary_op is None. "
                                 "Add one, for example with tf.compat.v1.summary.scalar, or give summary_op.")
        self._global_step_tensor = tf.train.get_global_step()
        if self._global_step_tensor is None:
            raise RuntimeError("Global step should be created to use WandbHook.")
        if _is_new(wandb.run):
            _logged().reset_state()
            self._uncommitted = False
        else:
            self.end(None)  # the row of a session that ended with an error
        self._seen = self._next_row = None
        self._increment = recognition.constant_increment(self._global_step_tensor)


recognition.know_hook(WandbHook)
_guard.know(_Rows.before_run, _Rows.after_run)
