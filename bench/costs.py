"""What `fasthooks.hook_cost` says of hooks whose cost is known: COST."""

import time

import numpy as np

from bench.steps import TrivialHook, UntouchedHook
from bench.table import row
from fasthooks import hook_cost

BURNT_US = 20


class BurningHook(TrivialHook):
    """A user's hook that computes for a while after each step.

    Args:
      size: how much it computes.
    """

    def __init__(self, size):
        self._numbers = range(size)

    def after_run(self, run_context, run_values):
        sum(self._numbers)


def _own_us(hook, calls=20):
    times = []
    for _ in range(25):
        begin = time.perf_counter_ns()
        for _ in range(calls):
            hook.after_run(None, None)
        times.append(time.perf_counter_ns() - begin)
    return np.median(times) / calls / 1000.0


def _measure(make_hook, ours, settings, before_round=lambda: None, **options):
    session = "fasthooks" if ours.has_scheduling else "tensorflow"
    steps = max(settings.round_steps // 50, 1)
    with hook_cost.Measurement(make_hook, steps=steps, session=session, **options) as measurement:
        measurement.warm_up()
        rounds = [(before_round(), measurement.run_round()) for _ in range(4 * settings.rounds)]  # of 400 steps each
        return np.array(rounds, float).T, measurement.cost()


def cost(peer, ours, settings):
    """A hook that does nothing, and one that computes for 20 µs, which the first hook in Python of a list stands before."""
    untouched = _measure(UntouchedHook, ours, settings)[1]
    size = int(1000 * BURNT_US / _own_us(BurningHook(1000)))
    hook = BurningHook(size)
    (own, added), _ = _measure(lambda: hook, ours, settings, before_round=lambda: _own_us(hook), beside=lambda: [TrivialHook()])
    nothing = "hook_cost of a hook without per-step methods: upper end of the interval"
    computing = f"hook_cost of a hook that computes for {BURNT_US} µs / its own time"
    return {
        "rows": [
            row("COST", nothing, untouched.without_us, untouched.with_us, [untouched.high_us], 1, at_most=True, unit="µs"),
            row("COST", computing, own, added, added / np.median(own), 1, within=0.2),
        ]
    }
