"""What a hook adds to a step: two sessions, with and without it, that take turns.

A step's time differs from second to second by more than most hooks cost, so the two sessions run short pieces one after the
other and only differences between neighbours count. `Measurement` does that; the pytest fixture `hook_cost` stands on it, and
needs nothing of it but rounds.
"""

import contextlib
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import tensorflow.compat.v1 as tf

import fasthooks
from fasthooks.types import Scheduling

_WARM_UP_STEPS = 300  # fasthooks needs 120 runs until it may time how to schedule a step, and some 40 to do it
_BLOCKS = 5
MIN_ROUNDS = 15


@dataclasses.dataclass(frozen=True)
class HookCost:
    """What a hook adds to a step of one model in one session, µs a step.

    A difference of two measurements may be negative, and is then told as it is. `low_us` and `high_us` are about this process:
    the same hook differs by some 0.1 µs between processes.

    Attributes:
      added_us: Wall time that the hook adds: median over the rounds.
      low_us, high_us: 95 % interval of that median, by order statistics.
      with_us, without_us: A step with the hook and one without it: medians over all blocks, so their difference need not be
        `added_us`.
      noise_us: By how much two equal pieces without the hook differ: median over all blocks.
      cpu_us: CPU time of the process, all threads, that the hook adds: median over the rounds. Less than `added_us`: the hook
        waits. More: other threads work for it.
      rounds: Rounds that were measured.
      steps: Steps of a piece; a round is 20 pieces.
    """

    added_us: float
    low_us: float
    high_us: float
    with_us: float
    without_us: float
    noise_us: float
    cpu_us: float
    rounds: int
    steps: int


def tiny_model() -> Any:
    """One float32 variable of 16, squared error ("loss:0"), SGD and a global step: a step that is nearly all overhead."""
    weights = tf.get_variable("weights", initializer=tf.zeros([16]))
    loss = tf.reduce_sum(tf.square(weights - 1.0), name="loss")
    global_step = tf.train.get_or_create_global_step()
    return tf.train.GradientDescentOptimizer(1e-3).minimize(loss, global_step=global_step)


class HookCostFixture(Protocol):
    """The type of the pytest fixture `hook_cost`."""

    def __call__(self, make_hook: Callable[[], Any], *, model: Callable[[], Any] = tiny_model,
                 beside: Callable[[], Sequence[Any]] | None = None, steps: int = 100, max_us: float | None = None,
                 session: Literal["fasthooks", "tensorflow"] = "fasthooks",
                 scheduling: Scheduling | None = None) -> HookCost:
        """Measures a hook; once in a test.

        All functions are called with the graph of their session as the default graph, before the session is made, and anew for
        each session.

        Args:
          make_hook: Returns the hook, or a sequence of hooks, that only one of the two sessions has.
          model: Builds a graph and returns what a step runs, or a tuple of that and the dict that it feeds.
          beside: Returns hooks that both sessions have before that. The first hook in plain Python of a session is dearer
            than the ones after it: it pays for contexts and values. So is the first that reads the global step.
          steps: Steps of a piece. Give a whole period of a hook that acts now and then. Else shorter pieces are better on a
            busy machine: one that takes some ms is seldom left alone.
          max_us: Fails the test if the hook surely adds more µs to a step (`low_us` is more). Not checked where
            benchmarks are disabled.
          session: Whose MonitoredSession is measured. TensorFlow's is as the program has it: with a hook of ours in its list,
            or while `patch` is in force, it runs compiled steps.
          scheduling: As that of `fasthooks.MonitoredSession`. By default "inline" for `tiny_model`, so give "pool" with a hook
            that adds ops which wait for each other; and "auto" for other models, but "pool", with a warning, if the two
            sessions come to different decisions.

        Returns:
          What was measured; where benchmarks are disabled (`--benchmark-disable`, xdist) one round is a smoke test, and all
          figures are NaN.
        """


class StoppedError(RuntimeError):
    """A hook requested a stop, so there are no steps to measure."""


class Measurement:
    """Measures a hook. A context manager: sessions are made on entry, and closed.

    A block is four pieces of `steps` steps: with the hook, without, without, with; its figure is the difference of a step. A
    round is the median of five blocks, so that a piece in which the machine did something else does not count.

    Args:
      make_hook: As all others, see `HookCostFixture`.

    Raises:
      TypeError: `make_hook` is not callable or `steps` not an integer.
      ValueError: `steps` is less than 1, `session` or `scheduling` are none of their values.
    """

    def __init__(self, make_hook: Callable[[], Any], *, model: Callable[[], Any] = tiny_model,
                 beside: Callable[[], Sequence[Any]] | None = None, steps: int = 100,
                 session: Literal["fasthooks", "tensorflow"] = "fasthooks",
                 scheduling: Scheduling | None = None) -> None:
        if not callable(make_hook):
            raise TypeError(f"make_hook must be a function that returns a hook; got {make_hook!r}.")
        if type(steps) is not int:
            raise TypeError(f"steps must be an int; got {steps!r}.")
        if steps < 1:
            raise ValueError(f"steps must be at least 1; got {steps!r}.")
        if session not in ("fasthooks", "tensorflow"):
            raise ValueError(f"session must be 'fasthooks' or 'tensorflow'; got {session!r}.")
        if session == "tensorflow" and scheduling is not None:
            raise ValueError(f"scheduling is for session='fasthooks'; got {scheduling!r}.")
        self._make_hook = make_hook
        self._model = model
        self._beside = beside or tuple
        self.steps = steps
        self._session = session
        self._scheduling: Scheduling = scheduling or ("inline" if model is tiny_model else "auto")
        self._rounds: list[np.ndarray] = []

    def __enter__(self) -> "Measurement":
        self._open()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _open(self):
        with contextlib.ExitStack() as stack:
            self._with = stack.enter_context(_Side(self._model, self._hooks_with, self._make_session))
            self._without = stack.enter_context(_Side(self._model, self._beside, self._make_session))
            self._stack = stack.pop_all()

    def _hooks_with(self):
        made = self._make_hook()
        return [*self._beside(), *(made if isinstance(made, Sequence) else [made])]

    def _make_session(self, hooks):
        if self._session == "tensorflow":
            return tf.train.MonitoredSession(hooks=hooks)
        return fasthooks.MonitoredSession(hooks=hooks, scheduling=self._scheduling)

    def warm_up(self) -> float:
        """Makes steps that do not count; with "auto" until it is decided how they are scheduled.

        Returns:
          About how long a round takes, seconds.

        Raises:
          StoppedError: A hook requested a stop.

        Warns:
          UserWarning: Both sessions were made anew with "pool", since "auto" came to different decisions.
        """
        sides = (self._with, self._without)
        for side in sides:
            side.run(max(_WARM_UP_STEPS, self.steps))
        if self._session == "fasthooks" and self._scheduling == "auto" and self.schedulings not in _DECIDED:
            warnings.warn("hook_cost: scheduling='auto' has {!r} for the steps with the hook and {!r} for those without it; "
                          "both are measured with 'pool'.".format(*self.schedulings), stacklevel=2)
            self._stack.close()
            self._scheduling = "pool"
            self._open()
            return self.warm_up()
        return 2 * _BLOCKS * sum(side.run(self.steps)[0] for side in sides) * 1e-9

    @property
    def schedulings(self) -> tuple[str, str]:
        """How the steps with the hook are scheduled, and those without: "inline", "pool", or "trial" while both are timed."""
        return self._with.scheduling(), self._without.scheduling()

    def run_round(self) -> float:
        """Measures one round and returns its figure, µs that the hook adds to a step.

        Raises:
          StoppedError: A hook requested a stop.
        """
        block = (self._with, self._without, self._without, self._with)
        pieces = np.array([[side.run(self.steps) for side in block] for _ in range(_BLOCKS)]) / (self.steps * 1000.0)
        self._rounds.append(pieces)
        return float(np.median(_added(pieces)[:, 0]))

    def cost(self, rounds: int | None = None) -> HookCost:
        """Returns what was measured, in the first `rounds` rounds or in all."""
        pieces = np.array(self._rounds[:rounds])  # [round, block, piece, clock], µs a step
        added, cpu = np.median(_added(pieces), axis=1).T
        with_us, without_us = (np.median(pieces[:, :, two, 0].mean(axis=2)) for two in ([0, 3], [1, 2]))
        low, high = _interval_of_median(added.tolist())
        noise = np.median(np.abs(pieces[:, :, 2, 0] - pieces[:, :, 1, 0]))
        return HookCost(float(np.median(added)), low, high, float(with_us), float(without_us), float(noise),
                        float(np.median(cpu)), len(pieces), self.steps)


_DECIDED = (("inline", "inline"), ("pool", "pool"))


def _added(pieces):
    # [..., piece, clock] -> [..., clock]
    return (pieces[..., 0, :] - pieces[..., 1, :] - pieces[..., 2, :] + pieces[..., 3, :]) / 2.0


def _interval_of_median(values):
    # How many of n values lie below the median is binomial: each end leaves out as many as it can with 2.5 % or less.
    ordered, n = sorted(values), len(values)
    left_out, ways = 0, 1
    while 40 * (ways + math.comb(n, left_out + 1)) <= 2**n:
        left_out += 1
        ways += math.comb(n, left_out)
    return ordered[left_out], ordered[-1 - left_out]


class _Side:
    """One session, and the loop that users write."""

    def __init__(self, model, make_hooks, make_session):
        with tf.Graph().as_default() as self._graph:
            built = model()
            feeds = isinstance(built, tuple) and len(built) == 2 and isinstance(built[1], Mapping)
            self._fetches: Any
            self._feed: Any
            self._fetches, self._feed = built if feeds else (built, None)
            self._session = make_session(make_hooks())
        self._steps_made = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        # Its own exit would end the block in silence where the input is used up.
        with self._graph.as_default():
            self._session.__exit__(*error)

    def run(self, steps):
        """Makes steps and returns the wall time and the CPU time they took, ns."""
        session, fetches, feed = self._session, self._fetches, self._feed
        with self._graph.as_default():
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            for step in range(steps):
                if session.should_stop():
                    raise StoppedError(f"A hook requested a stop at step {self._steps_made + step}: no cost can be measured.")
                session.run(fetches, feed)
            wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
        self._steps_made += steps
        return wall, cpu

    def scheduling(self):
        """Returns how the steps are scheduled; the sets of fetches that are run too rarely to be inline do not count."""
        try:
            report = fasthooks.report(self._session)
        except TypeError:  # TensorFlow's own steps
            return "pool"
        found = {plan["scheduling"] for plan in report["plans"]}
        return next((one for one in ("inline", "trial") if one in found), "pool")
