"""Monitored sessions: TensorFlow's chain of sessions with our step in it.

`session._sess` (recoverable, where the session recovers) `._sess` (coordinated) `._sess` (hooked) `._sess` (raw) are
TensorFlow's own objects, but for the hooked one. What a step does, from `session.run(fetches, feed_dict)` on:

    every link of the chain unchanged, no options given?            no: TensorFlow's chain, link by link, to the same step
    stop requested before?                                          yes: RuntimeError
    for each hook of the live list:
        trigger.before(clock)                                       quiet: its standing request, no Python runs
                                                                    else: request = hook.before_run(context)
    plan = the one for (fetches, feed keys, requests)               new: its arguments are made once, bounded cache
                                                                    refused: Session.run
    feeds checked, converted if need be                             not as Session.run wants them: Session.run
    values = Session.run's own native call, inline or on the pool   options given or asked for: with these, and metadata
    result = the caller's values in the structure of fetches
    for each hook of the live list:
        trigger.after(its value, clock)                             quiet: counters move on, no Python runs
                                                                    a saver whose step may have come: one prepared read of
                                                                        it, then quiet or a save
                                                                    else: hook.after_run(context, run_values)
    stop flag |= context.stop_requested
    an exception anywhere: handed to TensorFlow's chain, which recovers, replaces or passes it on

`context` and `run_values` exist only on steps on which a hook is called.
"""

import functools
import os
import types
from collections.abc import Sequence
from typing import Any, get_args

from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import monitored_session as stock
from tensorflow.python.util import tf_export

from fasthooks import global_step, reporting, session_calls
from fasthooks.hooks import stock as our_hooks
from fasthooks.hooks.async_checkpoint import AsyncCheckpointSaverHook
from fasthooks.rebinding import rebound
from fasthooks.step import _chain, savers
from fasthooks.tensorflow_train import MonitoredSession as _StockMonitoredSession
from fasthooks.tensorflow_train import Scaffold, SessionCreator
from fasthooks.tensorflow_train import SingularMonitoredSession as _StockSingular
from fasthooks.triggers import _guard
from fasthooks.types import Report, Scheduling

_SCHEDULINGS = get_args(Scheduling)


class _MonitoredSession(_chain.SessionRunner):
    """What our monitored sessions add to TensorFlow's."""

    _coordinated_creator: Any
    _tf_sess: Any

    class _CoordinatedSessionCreator(_StockMonitoredSession._CoordinatedSessionCreator):
        """Makes the chain, at the start and after each recovery."""

        scheduling = "auto"
        recoveries = 0
        _created = False

        def __init__(self, session_creator, hooks, stop_grace_period_secs):
            super().__init__(session_creator, hooks, stop_grace_period_secs)
            savers.warn_of_two(hooks)

        def create_session(self):
            make = _guard.original_of(stock._MonitoredSession._CoordinatedSessionCreator.create_session)
            if _guard.is_defined_in(make, stock):
                hooked = functools.partial(_chain.HookedSession, scheduling=self.scheduling)
                sess = session_calls.create(self, rebound(make, _HookedSession=hooked))
            else:  # somebody's own, which may do anything
                sess = super().create_session()
                sess._sess = _chain.HookedSession(self.tf_sess, self._hooks, self.scheduling)
            if self._created:
                self.recoveries += 1
                sess._sess.on_first_step(functools.partial(_log_recovery, self.recoveries))
            self._created = True
            return sess

    def _set_up(self, initialize, scheduling, colocate_global_step_read):
        if scheduling not in _SCHEDULINGS:
            raise ValueError(f"scheduling must be one of {_SCHEDULINGS}; got {scheduling!r}.")
        if colocate_global_step_read:
            global_step.colocate_read()
        # TensorFlow's constructor looks the creator up on the object: give it one that knows the scheduling.
        creator = type(self)._CoordinatedSessionCreator
        vars(self)[creator.__name__] = type(creator.__name__, (creator,), {"scheduling": scheduling})
        initialize()

    @property
    def recoveries(self) -> int:
        """How often the session was recreated after an AbortedError or UnavailableError."""
        return self._coordinated_creator.recoveries

    def raw_session(self) -> Any:
        """Returns the `tf.compat.v1.Session` that runs the steps; None once the session is closed."""
        return self._tf_sess()

    def report(self) -> Report:
        """Returns a dict that tells how the steps since the last recovery went; see `fasthooks.report`.

        Raises:
          RuntimeError: The session is closed, or is being recovered.
        """
        return reporting.report(self)


def _log_recovery(number, global_step):
    if global_step is None:
        logging.info("fasthooks: the session was recovered (recovery %d).", number)
    else:
        logging.info("fasthooks: the session was recovered (recovery %d); its first step returned global step %s.",
                     number, global_step)


class MonitoredSession(_MonitoredSession, _StockMonitoredSession):
    """A session that initializes, recovers and runs hooks; see `tf.compat.v1.train.MonitoredSession`.

    Args:
      session_creator: Makes the raw session; default: a ChiefSessionCreator.
      hooks: A list of SessionRunHooks, ours, TensorFlow's and the user's own in any mix. It stays live: a hook that is
        appended later takes part.
      stop_grace_period_secs: Seconds that threads are given to stop after `close`.
      scheduling: "auto": a step's kernels run in the calling thread where that is known to be safe and measured to be
        no slower, else on TensorFlow's thread pool. "pool": always on the pool. "inline": always in the calling
        thread; a graph whose ops wait for each other within a step then hangs.
      colocate_global_step_read: Whether the hooks' read of the global step is made on the device that holds the step, which
        saves a cluster with parameter servers much of a step. The graph that is saved differs then from TensorFlow's.

    Raises:
      ValueError: `scheduling` is none of these.
    """

    def __init__(self, session_creator: SessionCreator | None = None, hooks: Sequence[Any] | None = None,
                 stop_grace_period_secs: float = 120, *, scheduling: Scheduling = "auto",
                 colocate_global_step_read: bool = False) -> None:
        initialize = rebound(_StockMonitoredSession.__init__, MonitoredSession=_StockMonitoredSession)
        self._set_up(lambda: initialize(self, session_creator, hooks, stop_grace_period_secs), scheduling,
                     colocate_global_step_read)


class SingularMonitoredSession(_MonitoredSession, _StockSingular):
    """A monitored session that does not recover; see `tf.compat.v1.train.SingularMonitoredSession`.

    Args:
      hooks: As MonitoredSession.
      scaffold: A Scaffold for gathering or building supportive ops.
      master: The TensorFlow master to use.
      config: A ConfigProto for the raw session.
      checkpoint_dir: Directory from which variables are restored.
      stop_grace_period_secs: Seconds that threads are given to stop after `close`.
      checkpoint_filename_with_path: A checkpoint file from which variables are restored.
      scheduling: As MonitoredSession.
      colocate_global_step_read: As MonitoredSession.
    """

    def __init__(self, hooks: Sequence[Any] | None = None, scaffold: Scaffold | None = None, master: str = "",
                 config: Any = None, checkpoint_dir: str | None = None, stop_grace_period_secs: float = 120,
                 checkpoint_filename_with_path: str | None = None, *, scheduling: Scheduling = "auto",
                 colocate_global_step_read: bool = False) -> None:
        initialize = rebound(_StockSingular.__init__, SingularMonitoredSession=_StockSingular)
        self._set_up(lambda: initialize(self, hooks, scaffold, master, config, checkpoint_dir, stop_grace_period_secs,
                                        checkpoint_filename_with_path), scheduling, colocate_global_step_read)


# As TensorFlow exports it, whatever a framework has put in its place since.
_stock_factory = tf_export.get_symbol_from_name("compat.v1.train.MonitoredTrainingSession")
_stock_worker_factory = stock._create_monitored_session_with_worker_context


def MonitoredTrainingSession(master: str = "", is_chief: bool = True, checkpoint_dir: str | None = None,
                             scaffold: Scaffold | None = None, hooks: Sequence[Any] | None = None,
                             chief_only_hooks: Sequence[Any] | None = None,
                             save_checkpoint_secs: Any = stock.USE_DEFAULT, save_summaries_steps: Any = stock.USE_DEFAULT,
                             save_summaries_secs: Any = stock.USE_DEFAULT, config: Any = None,
                             stop_grace_period_secs: float = 120, log_step_count_steps: int | None = 100,
                             max_wait_secs: float = 7200, save_checkpoint_steps: Any = stock.USE_DEFAULT,
                             summary_dir: str | os.PathLike[str] | None = None, save_graph_def: bool = True, *,
                             scheduling: Scheduling = "auto", async_checkpoint: bool = False,
                             colocate_global_step_read: bool = False) -> MonitoredSession:
    """Makes a MonitoredSession with the hooks that training usually wants, for a chief or a worker.

    Arguments, defaults and errors are those of `tf.compat.v1.train.MonitoredTrainingSession`; the default hooks are
    ours. `scheduling` and `colocate_global_step_read` are passed on to MonitoredSession. With `async_checkpoint` the default
    hook that saves checkpoints is an AsyncCheckpointSaverHook.
    """
    default_hooks = types.SimpleNamespace(**vars(our_hooks))
    if async_checkpoint:
        default_hooks.CheckpointSaverHook = AsyncCheckpointSaverHook
    ours = {
        "MonitoredSession": functools.partial(
            MonitoredSession, scheduling=scheduling, colocate_global_step_read=colocate_global_step_read),
        "basic_session_run_hooks": default_hooks,
    }
    ours["_create_monitored_session_with_worker_context"] = rebound(_stock_worker_factory, **ours)
    return rebound(_stock_factory, **ours)(
        master, is_chief, checkpoint_dir, scaffold, hooks, chief_only_hooks, save_checkpoint_secs, save_summaries_steps,
        save_summaries_secs, config, stop_grace_period_secs, log_step_count_steps, max_wait_secs, save_checkpoint_steps,
        summary_dir, save_graph_def)
