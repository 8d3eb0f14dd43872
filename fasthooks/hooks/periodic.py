"""Every and every: a hook, or a function, that acts now and then. LambdaHook: functions for what happens once in a session."""

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from tensorflow.python.training import basic_session_run_hooks as stock
from tensorflow.python.training import training_util

from fasthooks import patching
from fasthooks.arguments import check_period
from fasthooks.hooks.acting import Acting
from fasthooks.hooks.base import PerStepMethods
from fasthooks.tensorflow_train import SessionRunHook
from fasthooks.triggers import _trigger, recognition

F = TypeVar("F", bound=Callable[..., Any])
_OfStep = TypeVar("_OfStep", bound=Callable[[int], Any])
_OfValues = TypeVar("_OfValues", bound=Callable[[int, Any], Any])
_METHODS = ("begin", "after_create_session", "before_run", "after_run", "end")


class Every(PerStepMethods, _trigger.PeriodTrigger, Acting):
    """Lets a hook take part in one run of many.

    Args:
      hook: The hook, any object with the five methods of `tf.compat.v1.train.SessionRunHook`.
      steps: Global steps between two runs on which it acts, a positive int.
      iters: Runs of the session between two of them, a positive int: for graphs without a global step, for evaluation,
        where the step stands still, and for graphs with several train ops.
      secs: Seconds between two of them, by `time.time`, a positive number. Exactly one of the three must be given.
      at_end: Whether it acts after the last step too, unless it did on that.

    Raises:
      TypeError: `hook` is not a hook.
      ValueError: A period is not of its kind, none or several are given, or `hook` saves checkpoints.

    steps=3 with a step that grows by 1 from 1: acts at 1, 4, 7, 10; by 2 from 2: at 2, 6, 10, 14. steps=5 with a step that
    grows by 7: on every run. iters=3: on runs 1, 4, 7. secs=60: on the first run, then on the first that begins 60 s or more
    after the last one on which it acted began. A session that goes on at 1234 with steps=1000: at 1235, 2235.

    `begin`, `after_create_session` and `end` of the hook are always called, `before_run` and `after_run` as a pair on the runs
    on which it acts: what it fetches and feeds, and the options that it asks for, are part of those runs only. A run that
    fails is none of them. After a recovery nothing is done for a period for which it was done before. With `at_end`, what the
    hook asks for is run by itself after the last step; where that cannot be (the input is used up, a placeholder is fed by the
    steps only, it needs other workers), it is left out and one line logged. Nothing is done at an end with an error.

    Whether a run acts is decided before it, its step is known after it. With `steps` it is expected to grow by the constant that
    the graph adds to it, else as it last grew. A period is then exact where the graph orders the read of the step and its
    increment; where it does not, it may be a run shorter or longer. Where it must be exact, order the read or use `iters`. While
    the step stands still, `steps` lets the hook act on the first run only (steps=1: on the first two).

    Not sensible for a hook that must see every run: a StopAtStepHook stops late by up to a period, a SaveOnSignalHook heeds the
    signal late, a NanTensorHook checks one run in many. A hook with a period of its own counts the runs that it sees, and so does
    an Every in an Every: iters=2 in iters=3 acts on runs 1, 7, 13. CheckpointSaverHooks are refused: they have their own period,
    and tf.estimator, which would not find them, would add a second saver. Where another hook runs the session in its
    `before_run`, this one may act on both runs.

    On several workers each has a phase of its own. With `secs`, do not wrap a hook that fetches collectives; under TensorFlow's
    collective strategies `begin` raises ValueError.

    Cost: a quiet step costs what another stock hook costs, whatever the hook does (`python bench/budgets.py --only B3`).
    """

    _needs_step = "Every(steps=...)"

    def __init__(self, hook: SessionRunHook, *, steps: int | None = None, iters: int | None = None, secs: float | None = None,
                 at_end: bool = False) -> None:
        if isinstance(hook, type) or not all(callable(getattr(hook, method, None)) for method in _METHODS):
            raise TypeError(f"hook must have the methods {', '.join(_METHODS)}; got {hook!r}.")
        if isinstance(hook, stock.CheckpointSaverHook):
            raise ValueError(f"hook must not save checkpoints; got {hook!r}, which has its own period, and tf.estimator would "
                             "add a second saver.")
        check_period(at_end, steps=steps, iters=iters, secs=secs)
        self._set_period(at_end, steps=steps, iters=iters, secs=secs)
        self._hook = hook

    @property
    def hook(self) -> SessionRunHook:
        """The hook that acts now and then."""
        return self._hook

    def begin(self) -> None:
        """Begins the period and the hook; see `tf.compat.v1.train.SessionRunHook`."""
        self._hook.begin()  # it may make the global step
        super().begin()
        if isinstance(self._hook, _trigger.PeriodTrigger):
            self._hook._is_constant = False  # it sees only some of the runs

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Tells the hook, after a recovery too; see `tf.compat.v1.train.SessionRunHook`."""
        super().after_create_session(session, coord)
        self._hook.after_create_session(session, coord)

    def end(self, session: Any) -> None:
        """Lets the hook act for the last step, if that is asked for, and end."""
        try:
            super().end(session)
        finally:
            self._hook.end(session)

    def _request(self, run_context):
        return self._hook.before_run(run_context)

    def _act(self, run_context, run_values, step):
        self._hook.after_run(run_context, run_values)

    def _title(self):
        return f"Every({type(self._hook).__name__})"


class FunctionHook(PerStepMethods, _trigger.PeriodTrigger, Acting, Generic[F]):
    """A function that is called now and then; what `every` makes. Calling the hook calls the function.

    Args:
      function: Called with the global step, an int, and with the values of `fetches`, if there are any. If it returns True
        itself, a stop is requested.
      steps: As for `Every`; so are `iters`, `secs` and `at_end`.
      fetches: As for `every`.

    Raises:
      TypeError: `function` cannot be called.
      ValueError: A period is not of its kind, or none or several are given.
    """

    __wrapped__: F
    _needs_step = "Every(steps=...)"

    def __init__(self, function: F, *, steps: int | None = None, iters: int | None = None, secs: float | None = None,
                 fetches: Any = None, at_end: bool = False) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable; got {function!r}.")
        check_period(at_end, steps=steps, iters=iters, secs=secs)
        self._set_period(at_end, steps=steps, iters=iters, secs=secs)
        functools.update_wrapper(self, function, updated=())
        self._fetches = fetches

    @property
    def __call__(self) -> F:
        """The function."""
        return self.__wrapped__

    def begin(self) -> None:
        """Finds the fetches in the graph; see `tf.compat.v1.train.SessionRunHook`."""
        super().begin()
        if self._fetches is not None:
            self._want(self._fetches() if callable(self._fetches) else self._fetches)
        self._global_step_tensor = training_util._get_or_create_global_step_read()
        # What the last run returned is known where the period is in steps.
        self._last_step_read = training_util.get_global_step() if self._secs or self._iters or self._fetches is not None else None

    def _act(self, run_context, run_values, step):
        step = self._runs if step is None else int(step)
        if (self(step) if self._fetches is None else self(step, run_values.results)) is True:
            run_context.request_stop()

    def _title(self):
        return f"every({getattr(self, '__qualname__', self.__wrapped__)})"


@overload
def every(*, steps: int | None = None, iters: int | None = None, secs: float | None = None, fetches: None = None,
          at_end: bool = False) -> Callable[[_OfStep], FunctionHook[_OfStep]]: ...
@overload
def every(*, steps: int | None = None, iters: int | None = None, secs: float | None = None, fetches: Any,
          at_end: bool = False) -> Callable[[_OfValues], FunctionHook[_OfValues]]: ...
def every(*, steps: int | None = None, iters: int | None = None, secs: float | None = None, fetches: Any = None,
          at_end: bool = False) -> Callable[[F], FunctionHook[F]]:
    """Makes a function a hook that calls it now and then.

    Args:
      steps: Global steps between two calls, a positive int.
      iters: Runs of the session between two calls, a positive int.
      secs: Seconds between two calls, by `time.time`, a positive number. Exactly one of the three must be given; see `Every`
        for when they act.
      fetches: What the function gets the values of: tensors, names ("loss:0"), any structure of them, or a function without
        arguments that returns such. Names and functions are looked up in the graph of each session, in `begin`, so that the
        hook serves graphs that are built later. Fetched on the runs only after which the function is called.
      at_end: Whether the function is called after the last step too, unless it was called for that. Fetches are run for it
        then, or it is left out, as with `Every`; without them it is called in any case.

    Returns:
      A decorator. What it returns is a hook, and calling that calls the function.

    Raises:
      ValueError: A period is not of its kind, or none or several are given.

    The function is called `function(step)`, with `fetches` `function(step, values)`. `step` is an int, the global step that the
    run returned, or in a graph without one the number of the run from 1. If it returns True itself, and not something that counts
    as true, a stop is requested. Its exceptions reach the caller of `run` unchanged.

    With `secs` and a fetch that needs other workers (Horovod, collective ops), the fetch is made on every run, and the clock
    decides on the call alone; one log line says so. On several workers each calls the function, in a phase of its own. ::

        @fasthooks.every(steps=100, fetches={"loss": "loss:0"}, at_end=True)
        def show(step, values):
            print(step, values["loss"])
    """
    check_period(at_end, steps=steps, iters=iters, secs=secs)
    return functools.partial(FunctionHook, steps=steps, iters=iters, secs=secs, fetches=fetches, at_end=at_end)


class LambdaHook(patching.OurHook):
    """Functions for what happens once in a session. It has no part in a step.

    Args:
      begin: Called without arguments before the session is made, while ops may be added to the graph.
      after_create_session: Called with the session and its coordinator, again after each recovery.
      end: Called with the session at its end; not if that is an error.

    Raises:
      TypeError: An argument can not be called.

    On several workers each calls them.
    """

    def __init__(self, *, begin: Callable[[], Any] | None = None, after_create_session: Callable[[Any, Any], Any] | None = None,
                 end: Callable[[Any], Any] | None = None) -> None:
        self._functions = {"begin": begin, "after_create_session": after_create_session, "end": end}
        for name, function in self._functions.items():
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable; got {function!r}.")

    def _call(self, name, *args):
        function = self._functions[name]
        if function is not None:
            function(*args)

    def begin(self) -> None:
        """Calls its function; see `tf.compat.v1.train.SessionRunHook`."""
        super().begin()
        self._call("begin")

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Calls its function; see `tf.compat.v1.train.SessionRunHook`."""
        self._call("after_create_session", session, coord)

    def end(self, session: Any) -> None:
        """Calls its function; see `tf.compat.v1.train.SessionRunHook`."""
        self._call("end", session)


for _cls in (Every, FunctionHook):
    recognition.know_hook(_cls)
