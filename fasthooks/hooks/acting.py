"""What a hook does that acts on some of a session's runs: when a period has gone by, and after the last step."""

from collections.abc import Callable
from typing import Any

from tensorflow.core.protobuf import config_pb2
from tensorflow.python.distribute import distribute_coordinator_context
from tensorflow.python.framework import ops
from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import training_util

from fasthooks.hooks import last_run
from fasthooks.tensorflow_train import SessionRunArgs, SessionRunContext, SessionRunHook, SessionRunValues
from fasthooks.triggers import _guard, recognition

# All workers of these wait for each other in ops, and TensorFlow lets no clock decide there when they are run.
_COLLECTIVE_STRATEGIES = ("CollectiveAllReduceStrategy", "CollectiveAllReduceStrategyV1", "MultiWorkerMirroredStrategy")


def refuse_clock(what: str) -> None:
    """Raises ValueError where all workers wait for each other in ops; `what` should not be done there."""
    strategy = type(getattr(distribute_coordinator_context.get_current_worker_context(), "_strategy", None)).__name__
    if strategy in _COLLECTIVE_STRATEGIES:
        raise ValueError(f"{what} when using {strategy}: workers wait for each other, and their clocks differ.")


class Acting(SessionRunHook):
    """What a periodic hook does on the runs on which it acts. The results of such a run are a dict, of others never.

    A class derived from it, and from `PeriodTrigger` before it, says what it asks for (`_want` or `_request`) and does (`_act`).
    """

    # What cannot be used without a global step, the class if it is not said; and what must not be done with a clock.
    _needs_step: str | None = None
    _clocked = "secs should not be set"
    _wanted: Any = None
    # The step that is read for it after the last one. Not the read of hooks, which the graph may let wait for a train op.
    _last_step_read: Any = None
    # PeriodTrigger's, and what it does.
    _seen: int | None
    _last: float | None
    _claimed: float | None
    claim: Callable[[], bool]
    observe: Callable[[Any], None]
    settle: Callable[[Any], None]
    _act: Callable[[SessionRunContext, SessionRunValues, Any], None]

    def _set_period(self, at_end, steps=None, iters=None, secs=None):
        self._steps = None if steps is None else int(steps)
        self._iters = None if iters is None else int(iters)
        self._secs = None if secs is None else float(secs)
        self._at_end = at_end

    def begin(self) -> None:
        super().begin()
        if self._secs is not None:
            refuse_clock(self._clocked)
        if self._steps is not None:
            self._read_steps()
            constant = recognition.constant_increment(training_util.get_global_step())
            self._is_constant = constant is not None
            self._increment = 1 if constant is None else constant
        self._seen = self._last = self._claimed = None
        self._runs = 0
        self._acted = False

    def _read_steps(self):
        # The stock hooks' read, so that all share one fetch.
        self._global_step_tensor = training_util._get_or_create_global_step_read()
        if self._global_step_tensor is None:
            raise RuntimeError(f"Global step should be created to use {self._needs_step or self._title()}.")

    def _want(self, fetches):
        # Asks for fetches on the runs on which it acts; on all, where others wait for them and the clock decides.
        self._wanted = fetches
        elements = last_run.elements(ops.get_default_graph(), fetches)
        waits = self._secs and next(filter(last_run.is_collective, last_run.ancestors(elements)), None)
        self._fetches_always = bool(waits)
        if waits:
            logging.info("%s fetches on every run, and the clock decides on the call alone: %s needs the other workers.",
                         self._title(), waits.name)

    def after_create_session(self, session: Any, coord: Any) -> None:
        super().after_create_session(session, coord)
        self._seen = self._claimed = None

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        return self._asked(run_context, self._global_step_tensor) if self.claim() else self._quiet_request()

    def _quiet_request(self):
        if self._fetches_always:
            return SessionRunArgs([self._wanted])
        return None if self._steps is None else SessionRunArgs(self._global_step_tensor)

    def _request(self, run_context):
        return SessionRunArgs(self._wanted)

    def _asked(self, run_context, global_step):
        request = self._request(run_context)
        if request is None:
            request = SessionRunArgs(None)
        fetches = {} if global_step is None else {"global_step": global_step}
        if request.fetches is not None:
            fetches["hook"] = request.fetches
        return SessionRunArgs(fetches, request.feed_dict, request.options)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        results = run_values.results
        if type(results) is not dict:
            self.observe(results)
            return
        step, last = results.get("global_step"), self._last
        self.settle(step)
        try:
            self._act(run_context, run_values._replace(results=results.get("hook")), step)
        except BaseException:
            self._last = last  # the run has failed: the next one makes up for it
            raise

    def end(self, session: Any) -> None:
        if self._at_end and self._runs and not self._acted:
            self._act_at_end(session)
        super().end(session)

    def _act_at_end(self, session):
        context = SessionRunContext(SessionRunArgs(None), session)
        fetches, feeds, options = self._asked(context, self._last_step_read)
        options = options or config_pb2.RunOptions()
        metadata = config_pb2.RunMetadata()
        results, obstacle = last_run.attempt(session, fetches, feeds, options, metadata) if fetches else ({}, None)
        if obstacle is not None:
            logging.warning("%s does not act after the last step: %s.", self._title(), obstacle)
            return
        self._act(context, SessionRunValues(results.get("hook"), options, metadata), results.get("global_step", self._seen))

    def _title(self):
        return type(self).__name__


_guard.know(Acting.before_run, Acting.after_run)
