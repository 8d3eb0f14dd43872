"""Budgets of the step, in the loop users write: A2, B1 to B6, B9, B16 to B18."""

import contextlib
import dataclasses
import functools
import time

import numpy as np

from bench import common
from bench.common import hooks_h7, hooks_h8, no_hooks, v1
from bench.table import progress, row

HOOKS = {"H7": hooks_h7, "H8": hooks_h8}


def compare(peer, ours, settings, build, hooks, steps=None, masters=("", ""), config=None, wandb=False, warm_up=None, **options):
    """Measures the peer's session with the peer's hooks against ours, which is made with `options`, with ours.

    Args:
      peer, ours, settings: as of every budget.
      build, hooks, config: of both lanes.
      steps: per lane and round, if not `settings.round_steps`.
      masters: the peer's and ours.
      wandb: whether the hooks need a run of wandb; that `hooks_h8` do is known.
      warm_up: steps before the first round, if not `settings.warm_up`.
      options: of our session.

    Returns:
      Two arrays of µs per step, one value per round: peer's and ours'.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace(wandb=wandb or hooks is hooks_h8))
        lanes = [
            stack.enter_context(
                common.monitored_lane(impl, build, hooks, directory, master=master, config=config, **more)
            )
            for impl, master, more in ((peer, masters[0], {}), (ours, masters[1], options))
        ]
        common.warm_up(lanes, warm_up or settings.warm_up)
        return common.interleave(lanes, settings.rounds, steps or settings.round_steps).T


def b1(peer, ours, settings):
    """Tiny graph, all triggers, against the peer's session and hooks."""
    rows = []
    for name, bar in (("H7", 13), ("H8", 15)):
        theirs, mine = compare(peer, ours, settings, common.tiny, HOOKS[name])
        rows.append(row("B1", f"tiny graph, {name}, all triggers", theirs, mine, theirs / mine, bar))
    return {"rows": rows}


def b2(peer, ours, settings):
    """Tiny graph against a bare `Session.run(train_op)`; the peer's figure is the bare run's."""
    rows = []
    for name, hooks in HOOKS.items():
        with (
            common.workspace(wandb=hooks is hooks_h8) as directory,
            common.bare_lane(common.tiny) as bare,
            common.monitored_lane(ours, common.tiny, hooks, directory) as lane,
        ):
            common.warm_up([bare, lane], settings.warm_up)
            quiet = common.interleave_quiet([bare, lane], settings.rounds, settings.quiet_pieces).T
            whole = common.interleave([bare, lane], settings.rounds, settings.round_steps).T
        for kind, (floor, mine), bar in (("quiet step", quiet, 0.25), ("all triggers", whole, 0.3)):
            what = f"{name} {kind} / bare Session.run"
            rows.append(row("B2", what, floor, mine, mine / floor, bar, at_most=True))
    return {"rows": rows}


class UntouchedHook(v1.train.SessionRunHook):
    """A user's hook without per-step methods."""

    def end(self, session):
        del session


class TrivialHook(v1.train.SessionRunHook):
    """A user's hook with both per-step methods, which do nothing."""

    def before_run(self, run_context):
        return None

    def after_run(self, run_context, run_values):
        pass


def own_cost(hook, calls=2000):
    """µs that one call of `before_run` and one of `after_run` take by themselves."""
    steps = range(calls)
    begin = time.perf_counter_ns()
    for _ in steps:
        hook.before_run(None)
        hook.after_run(None, None)
    both = time.perf_counter_ns()
    for _ in steps:
        pass
    return ((both - begin) - (time.perf_counter_ns() - both)) / calls / 1000.0


MORE_HOOKS = 8  # added to H8 to find what one more costs


def b3(peer, ours, settings):
    """Quiet step of H8: µs over the bare prepared `Run`, and what one more hook adds."""

    def h8_and(extra):
        def hooks(impl, model, directory):
            return [*hooks_h8(impl, model, directory), *(extra(impl, model, directory) for _ in range(MORE_HOOKS))]

        return hooks

    def nan_hook(impl, model, directory):
        return impl.train.NanTensorHook(model.loss)

    def step_counter(impl, model, directory):
        return impl.train.StepCounterHook(every_n_steps=common.PERIOD, output_dir=directory)

    def every(**period):
        return h8_and(lambda impl, model, directory: impl.every(TrivialHook(), **period))

    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace(wandb=True))

        def lane(hooks, impl=ours):
            return stack.enter_context(common.monitored_lane(impl, common.tiny, hooks, directory, session_impl=ours))

        floor = stack.enter_context(common.prepared_lane(common.tiny))
        h8 = lane(hooks_h8)
        lanes = {
            "floor": floor,
            "run": h8.with_loop(common.user_loop(h8.session, h8.model, check_stop=False)),
            "h8": h8,
            "nan": lane(h8_and(nan_hook)),
            "counter": lane(h8_and(step_counter)),
            "steps": lane(every(steps=common.PERIOD)),
            "iters": lane(every(iters=common.PERIOD)),
            "secs": lane(every(secs=3600)),
            "stock": lane(hooks_h8, peer),
            "untouched": lane(h8_and(lambda *_: UntouchedHook())),
            "trivial": lane(h8_and(lambda *_: TrivialHook())),
        }
        common.warm_up(lanes.values(), settings.warm_up)
        times = common.interleave_quiet(list(lanes.values()), settings.rounds, settings.quiet_pieces)
        own = np.array([own_cost(TrivialHook()) for _ in range(settings.rounds)])
    us = dict(zip(lanes, times.T, strict=True))

    def over(what, mine, base, bar, each=1, less=0.0):
        values = (us[mine] - us[base]) / each - less
        return row("B3", what, us[base], us[mine], values, bar, at_most=True, unit="µs")

    return {
        "rows": [
            over("quiet H8 `run` - bare prepared `Run`", "run", "floor", 0.8),
            over("quiet H8 loop with should_stop - bare prepared `Run`", "h8", "floor", 1.0),
            over("one more NanTensorHook", "nan", "h8", 0.05, MORE_HOOKS),
            over("one more StepCounterHook", "counter", "h8", 0.05, MORE_HOOKS),
            over("one more Every(steps)", "steps", "h8", 0.05, MORE_HOOKS),
            over("one more Every(iters)", "iters", "h8", 0.05, MORE_HOOKS),
            over("one more Every(secs)", "secs", "h8", 0.1, MORE_HOOKS),
            over("TF's eight hook objects - ours", "stock", "h8", 0.4),
            over("Python hook without per-step methods", "untouched", "h8", 0.03, MORE_HOOKS),
            over("Python hook with both, less its own code", "trivial", "h8", 1.0, MORE_HOOKS, less=own),
        ],
        "own_code_us": common.summarize(own),
    }


def a2(peer, ours, settings):
    """What a profile adds to a quiet step, while it is in force and after; the peer's figure is the step without."""

    def with_python_hook(impl, model, directory):
        return [*hooks_h7(impl, model, directory), TrivialHook()]

    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace())
        off, python, never = [
            stack.enter_context(common.monitored_lane(ours, common.tiny, hooks, directory))
            for hooks in (hooks_h7, with_python_hook, hooks_h7)
        ]
        lanes = {"off": off, "python": python, "never": never}
        lanes |= {f"{name} on": lanes[name].with_loop(ours.profiled(lanes[name].loop)) for name in ("off", "python")}
        common.warm_up(lanes.values(), settings.warm_up)
        times = common.interleave_quiet(list(lanes.values()), settings.rounds, settings.quiet_pieces)
    us = dict(zip(lanes, times.T, strict=True))

    def over(what, mine, base, **bar):
        return row("A2", what, us[base], us[mine], us[mine] - us[base], unit="µs", **bar)

    return {
        "rows": [
            over("quiet H7 step that is profiled - one that is not", "off on", "off", bar=0.3, at_most=True),
            over("the same with a Python hook that has both methods", "python on", "python", bar=0.3, at_most=True),
            over("quiet H7 step of a session that was profiled - of one that never was", "off", "never", bar=0.0, within=0.05),
        ]
    }


def b4(peer, ours, settings):
    """B1 with H8, thread-pool scheduling only."""
    theirs, mine = compare(peer, ours, settings, common.tiny, hooks_h8, scheduling="pool")
    return {"rows": [row("B4", "tiny graph, H8, pool scheduling only", theirs, mine, theirs / mine, 6)]}


def b5(peer, ours, settings):
    """Tiny graph with 16 floats fed."""
    theirs, mine = compare(peer, ours, settings, common.tiny_fed, hooks_h8)
    return {"rows": [row("B5", "tiny graph fed 16 floats, H8", theirs, mine, theirs / mine, 16)]}


FETCHED = ((0.4, 3), (4, 1), (16, 1))  # megabytes and bar


def b5a(peer, ours, settings):
    """A step that fetches a large array, in our session without hooks, against a bare `Session.run` of the same."""
    rows = []
    for megabytes, bar in FETCHED:
        build = functools.partial(common.fetched, megabytes)
        with (
            common.workspace() as directory,
            common.bare_lane(build) as bare,
            common.monitored_lane(ours, build, no_hooks, directory) as lane,
        ):
            common.warm_up([bare, lane], settings.warm_up)
            theirs, mine = common.interleave([bare, lane], settings.rounds, settings.graph_round_steps).T
        what = f"bare Session.run / MonitoredSession without hooks, {megabytes:g} MB fetched"
        rows.append(row("B5a", what, theirs, mine, theirs / mine, bar))
    return {"rows": rows}


SUITE = (
    ("MLP 784-128-128-10, batch 32", common.mlp_small, 1.5),
    ("MLP 784-256-256-10, batch 128", common.mlp_large, 1.2),
    ("small CNN, batch 32", common.small_cnn, 1.2),
    ("two-tower recommender, dataset", common.two_towers, 1.8),
)


LOW_END = 0.97  # no graph is slower than this, by the lower end of the interval


def _suite(budget, suite, hooks, peer, ours, settings):
    rows = []
    for name, build, bar in suite:
        progress(f"  {name}")
        theirs, mine = compare(peer, ours, settings, build, HOOKS[hooks], settings.graph_round_steps)
        rows.append(row(budget, f"{name}, {hooks}", theirs, mine, theirs / mine, bar, low_end=LOW_END))
    return {"rows": rows}


def b6(peer, ours, settings):
    """Larger graphs with H8; the lower end of the 95% interval counts too."""
    return _suite("B6", SUITE, "H8", peer, ours, settings)


def b9(peer, ours, settings):
    """The peer's sessions with our hooks against the same with its own, and one without a hook of ours."""
    rows = []
    for name, training in (("MonitoredSession", False), ("MonitoredTrainingSession", True)):
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(common.workspace())
            lanes = [
                stack.enter_context(
                    common.monitored_lane(impl, common.tiny, hooks_h7, directory, session_impl=peer, training=training)
                )
                for impl in (peer, ours)
            ]
            common.warm_up(lanes, settings.warm_up)
            theirs, mine = common.interleave(lanes, settings.rounds, settings.round_steps).T
        rows.append(row("B9", f"TF's {name}, its H7 / ours", theirs, mine, theirs / mine, 10))
    return {"rows": [*rows, _beside_our_hooks(peer, ours, settings)]}


@dataclasses.dataclass
class _Adopting:
    """A lane that runs while sessions with our hooks are adopted, or are not."""

    lane: common.Lane
    ours: common.Implementation
    enable: bool

    def run(self, steps):
        self.ours.adopt(self.enable)
        return self.lane.run(steps)


def _beside_our_hooks(peer, ours, settings):
    """The peer's session without hooks, in a process that has a session with ours: while such sessions are adopted, and not."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace())
        stack.enter_context(common.monitored_lane(ours, common.tiny, hooks_h7, directory, session_impl=peer)).run(1000)
        lane = stack.enter_context(common.monitored_lane(peer, common.tiny, common.no_hooks, directory))
        lanes = [_Adopting(lane, ours, enable) for enable in (False, True)]
        stack.callback(ours.adopt, True)
        common.warm_up(lanes, settings.warm_up)
        without, beside = common.interleave(lanes, settings.rounds, settings.round_steps).T
    what = "TF's session without hooks beside one with our H7, which is adopted / which is not"
    return row("B9", what, without, beside, beside / without, 1.0, within=0.03)


def b16(peer, ours, settings):
    """What the triggers of H7 add to one step in 100."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace())
        lanes = [stack.enter_context(common.monitored_lane(impl, common.tiny, hooks_h7, directory)) for impl in (peer, ours)]
        common.warm_up(lanes, settings.warm_up)
        added, quiet = common.interleave_triggers(lanes, settings.rounds, settings.trigger_pieces)
    theirs, mine = added.T
    what = f"all triggers of H7 in 100 steps, over quiet steps of {np.median(quiet[:, 1]):.1f} µs"
    # Held against the median: what was added in one round may come out near nothing.
    return {
        "rows": [
            row("B16", what, theirs, mine, mine, 130, at_most=True, unit="µs"),
            row("B16", f"{what}: ours / TF's", theirs, mine, mine / np.median(theirs), 0.25, at_most=True),
        ]
    }


def b17(peer, ours, settings):
    """Two devices: steps of two partitions, which TensorFlow never runs inline."""
    rows = []
    config = common.TWO_CPUS
    for name, hooks in HOOKS.items():
        theirs, mine = compare(peer, ours, settings, common.two_devices, hooks, config=config)
        rows.append(row("B17", f"two CPU devices, {name}, all triggers", theirs, mine, theirs / mine, 6))
        with (
            common.workspace(wandb=name == "H8") as directory,
            common.prepared_lane(common.two_devices, inline=False, wandb=name == "H8", config=config) as floor,
            common.monitored_lane(ours, common.two_devices, hooks, directory, config=config) as lane,
        ):
            common.warm_up([floor, lane], settings.warm_up)
            bare, mine = common.interleave_quiet([floor, lane], settings.rounds, settings.quiet_pieces).T
        what = f"two CPU devices, quiet {name} loop - bare prepared `Run`"
        rows.append(row("B17", what, bare, mine, mine - bare, 5, at_most=True, unit="µs"))
    return {"rows": rows}


def b18(peer, ours, settings):
    """Graphs of many small ops with H7."""
    suite = (
        ("1,000 ops", functools.partial(common.large, 1000), 2.0),
        (f"Adam with {settings.variables} variables", functools.partial(common.many_variables, settings.variables), 1.4),
    )
    return _suite("B18", suite, "H7", peer, ours, settings)
