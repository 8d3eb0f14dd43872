"""ProgressHook and TimeLimitHook: how far a training is, and a time at which it stops. The only module that imports tqdm."""

import datetime
import sys
import time
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, TextIO

import tensorflow.compat.v1 as tf
from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import monitored_session
from tensorflow.python.training.basic_session_run_hooks import StopAtStepHook

from fasthooks.arguments import check_count, check_one_given, check_secs
from fasthooks.hooks.acting import Acting, refuse_clock
from fasthooks.hooks.base import PerStepMethods
from fasthooks.hooks.closing import Closing
from fasthooks.hooks.metrics import Metrics, check_metrics, numbers, scalars
from fasthooks.tensorflow_train import SessionRunContext, SessionRunHook, SessionRunValues
from fasthooks.triggers import _everyday, _guard, _trigger, recognition


def _bar_class(file):
    # None: there is neither a terminal nor a notebook to draw it in, or no tqdm.
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    in_notebook = file is sys.stderr and any(cls.__module__ == "tqdm.notebook" for cls in tqdm.__mro__)
    if not in_notebook and not (hasattr(file, "isatty") and file.isatty()):
        return None
    # Without the thread that tqdm starts else.
    return type("_Bar", (tqdm,), {"monitor_interval": 0})


def _short(number):
    # 616k, 1.23M; exact below 10,000.
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= max(size, 1e4):
            return f"{number / size:.3g}{unit}"
    return f"{number:,.4g}" if number < 1000 else f"{number:,.0f}"


def _duration(secs):
    secs = round(secs)
    if secs < 60:
        return f"{secs} s"
    days, secs = divmod(secs, 86400)
    # With a last step that is never meant to come it can be more than a timedelta holds.
    return f"{days:,} days" if days > 99 else str(datetime.timedelta(days, secs))


def _hooks_of_session():
    """Returns the hooks list of the session that is made now, live; an empty one where no session of TensorFlow's makes it.

    A hook is told of its session, but not of the hooks beside it. Whoever calls `after_create_session` has them in hand.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "create_session":
            creator = frame.f_locals.get("self")
            if isinstance(creator, monitored_session._MonitoredSession._CoordinatedSessionCreator):
                return creator._hooks
        frame = frame.f_back
    return ()


class ProgressHook(PerStepMethods, _trigger.PeriodTrigger, Acting):
    """Shows how far a training is: a bar on a terminal or in a notebook, elsewhere a log line now and then.

    Args:
      last_step: Global step at which the training ends, a positive int; default: that of a StopAtStepHook in the same session,
        the first to come if there are several. Where there is none, no bar fills and no time left is shown.
      metrics: Name -> scalar tensor or its name, or a function that returns such a dict, to show beside; see `MetricsHook`.
      examples_per_step: Examples of a global step, a positive int, to show how many a second there are.
      refresh_secs: Seconds between two refreshes of the bar.
      log_secs: Seconds between two log lines, where there is no bar.
      file: Where the bar goes, a text file; default: `sys.stderr` when the session begins.

    Raises:
      TypeError: `metrics` is of none of these kinds.
      ValueError: Another argument is not of its kind. In `begin`: a metric is no scalar; the strategy lets no clock decide.
      RuntimeError: In `begin`: there is no global step.

    The bar is tqdm's (`pip install 'fasthooks[progress]'`); without it, or where the file is no terminal, there are log lines:
    "step 12,300 of 100,000 (12.3 %), 4,812 steps/s, 616k examples/s, 18 s left, loss 0.213". Step and metrics are fetched on the
    runs only after which they are shown. Speed and time left count from the first run of this session on. At the end the last
    step is shown: the last one fetched, and what the graph adds in the runs since, whose metrics the log line leaves out; in a
    session shorter than a refresh all runs count so, those of an evaluation too. After an error the bar says so and stays.

    It shows in every session that has it; on several workers give it to one.

    Cost: a quiet step costs what another stock hook with a clock costs (`python bench/budgets.py --only C1`).
    """

    _clocked = "ProgressHook should not be used"
    _bar: Any = None
    _first: Any = None
    _latest: Any = None
    # All hooks of the current session; empty before and after.
    _beside: Sequence[Any] = ()
    # What the current session's coordinator asks when it is closed; None before and after.
    _closing: Any = None

    def __init__(self, last_step: int | None = None, *, metrics: Metrics | Callable[[], Metrics] | None = None,
                 examples_per_step: int | None = None, refresh_secs: float = 0.5, log_secs: float = 60.0,
                 file: TextIO | None = None) -> None:
        check_metrics(metrics)
        self._last_step = None if last_step is None else check_count("last_step", last_step)
        self._metrics = metrics
        self._examples_per_step = None if examples_per_step is None else check_count("examples_per_step", examples_per_step)
        self._refresh_secs = check_secs("refresh_secs", refresh_secs)
        self._log_secs = check_secs("log_secs", log_secs)
        self._file = file
        self._set_period(at_end=False, secs=self._refresh_secs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_bar", "_beside", "_closing")}

    def begin(self) -> None:
        """Finds the metrics, and out how to show them; see `tf.compat.v1.train.SessionRunHook`."""
        super().begin()
        self._read_steps()
        self._adds = recognition.constant_increment(tf.train.get_global_step())
        self._want(scalars(self._metrics))
        self._first = self._latest = None
        self._out = self._file or sys.stderr
        self._bar_class = _bar_class(self._out)
        self._secs = self._log_secs if self._bar_class is None else self._refresh_secs

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Begins to count, after a recovery anew; see `tf.compat.v1.train.SessionRunHook`."""
        super().after_create_session(session, coord)
        self._closing = Closing(coord, self._session_closes)
        self._beside = _hooks_of_session()
        self._first = self._latest = None

    def _get_last_step(self):
        if self._last_step is not None:
            return self._last_step
        # With num_steps it is known when all hooks have been told of the session; a program may change it at any time.
        stops = [hook._last_step for hook in self._beside if isinstance(hook, StopAtStepHook)]
        return min((step for step in (int(step) for step in stops if isinstance(step, Integral)) if step > 0), default=None)

    def _act(self, run_context, run_values, step):
        step, now = int(step), time.monotonic()
        if self._first is None:
            self._first = step, now, self._runs
        # Where all runs so far have moved the step by what the graph adds, so will those after the last refresh.
        moved = step - self._first[0], (self._runs - self._first[2]) * (self._adds or 0)
        self._latest = step, self._runs if moved[0] == moved[1] else None
        self._values = numbers(run_values.results)
        self._show(step, now)

    def _show(self, step, now, ends=False):
        first, begun, _ = self._first
        last_step = self._get_last_step()
        speed = (step - first) / (now - begun) if step > first and now > begun else None
        told = [f"{_short(speed * self._examples_per_step)} examples/s"] if speed and self._examples_per_step else []
        shown = [f"{name} {value:.4g}" for name, value in self._values.items()]
        if self._bar_class is not None:
            if self._bar is None:
                self._bar = self._bar_class(
                    file=self._out, total=last_step, initial=step, unit=" steps", dynamic_ncols=True)
            self._bar.n, self._bar.total = step, last_step
            self._bar.set_postfix_str(", ".join([*told, *shown]))
            return
        line = f"step {step:,}"
        if last_step is not None:
            line += f" of {last_step:,} ({step / last_step:.1%})".replace("%", " %")
        if speed:
            told.insert(0, f"{_short(speed)} steps/s")
            if last_step is not None and step < last_step:
                told.append(f"{_duration((last_step - step) / speed)} left")
        if ends:  # the values are of an earlier step, a minute ago perhaps
            shown = []
        logging.info("%s", ", ".join([line, *told, *shown]))

    def end(self, session: Any) -> None:
        """Shows the last step; see `tf.compat.v1.train.SessionRunHook`."""
        super().end(session)
        if self._latest is not None:
            last_step, (last, runs) = self._get_last_step(), self._latest
            step = last if runs is None else last + (self._runs - runs) * (self._adds or 0)
            # A read that comes before the increment is one behind.
            if last_step is not None and step < last_step <= step + (self._adds or 0):
                step = last_step
            if step != last or self._bar is not None:
                self._show(step, time.monotonic(), ends=True)
        self._close()

    def _close(self):
        bar, self._bar, self._beside, self._closing = self._bar, None, (), None
        if bar is not None:
            bar.close()

    def _session_closes(self):
        # `end` was not called, or it failed, if there is still a bar.
        if self._bar is not None:
            self._bar.set_postfix_str("stopped after an error")
        self._close()


class _Deadline(SessionRunHook):
    """What TimeLimitHook does when the time has come."""

    _limit: float

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        if time.time() >= self._limit:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._limit))
            logging.info("TimeLimitHook requests a stop: the time was up at %s.", at)
            run_context.request_stop()


class TimeLimitHook(PerStepMethods, _everyday.TimeLimitTrigger, _Deadline):
    """Requests a stop after the first run that ends past a time.

    Args:
      secs: Seconds from the first `begin` of this object, by `time.time`, a positive number. It is a limit for the job: it goes
        on over recoveries and through further sessions with the same hook.
      until: The time, a `datetime.datetime`; local time if it has no zone. Exactly one of the two must be given.

    Raises:
      TypeError: `until` is no datetime.
      ValueError: `secs` is no positive number, or none or both are given. In `begin`: the strategy lets no clock decide.

    A session that begins later than that stops after its first run. One log line says so. Not across workers: their clocks
    differ, and each stops at its own.

    Cost: a quiet step costs a reading of the clock, which all hooks share (`python bench/budgets.py --only C1`).
    """

    def __init__(self, secs: float | None = None, *, until: datetime.datetime | None = None) -> None:
        check_one_given(secs=secs, until=until)
        self._time_left: float | None = None
        if until is None:
            self._time_left = check_secs("secs", secs)
        elif not isinstance(until, datetime.datetime):
            raise TypeError(f"until must be a datetime.datetime; got {until!r}.")
        else:
            self._limit = until.timestamp()

    def begin(self) -> None:
        """Begins to count the seconds, the first time; see `tf.compat.v1.train.SessionRunHook`."""
        super().begin()
        refuse_clock("TimeLimitHook should not be used")
        if self._time_left is not None:
            self._limit, self._time_left = time.time() + self._time_left, None


for _cls in (ProgressHook, TimeLimitHook):
    recognition.know_hook(_cls)
_guard.know(_Deadline.after_run)
