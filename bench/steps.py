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


@contextlib.contextmanager
def compared(peer, ours, build, hooks, masters=("", ""), config=None, wandb=False, **options):
    """Two lanes: the peer's session with the peer's hooks, and ours, which is made with `options`, with ours.

    Args:
      build, hooks, config: of both lanes.
      masters: the peer's and ours.
      wandb: whether the hooks need a run of wandb; that `hooks_h8` do is known.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace(wandb=wandb or hooks is hooks_h8))
        yield [
            stack.enter_context(
                common.monitored_lane(impl, build, hooks, directory, master=master, config=config, **more)
            )
            for impl, master, more in ((peer, masters[0], {}), (ours, masters[1], options))
        ]


def compare(peer, ours, settings, build, hooks, steps=None, warm_up=None, **others):
    """Measures two lanes that `compared` makes.

    Args:
      steps: per lane and round, if not `settings.round_steps`.
      warm_up: steps before the first round, if not `settings.warm_up`.
      others: as `compared`.

    Returns:
      Two arrays of µs per step, one value per round: peer's and ours'.
    """
    with compared(peer, ours, build, hooks, **others) as lanes:
        common.warm_up(lanes, warm_up or settings.warm_up)
        return common.interleave(lanes, settings.rounds, steps or settings.round_steps).T


def in_stages(lanes, settings):
    """Measures the steps with triggers twice: in a session's first steps, and in a long training.

    What is fetched on a step with triggers takes TensorFlow's pool for the first 120 of such steps in our sessions too, for the
    sake of the order of reads (`fasthooks/step/_schedule.pyx`); a long training is past that.

    Returns:
      A list of words for the stage and an array [lanes, rounds] of µs per step.
    """
    found = []
    for words, steps in stages(settings):
        common.bring_to(lanes, steps)
        found.append((words, common.interleave(lanes, settings.rounds, settings.round_steps).T))
    return found


def stages(settings):
    return (("", settings.warm_up), (f", after {settings.settled_steps:,} steps", settings.settled_steps))


def b1(peer, ours, settings):
    """Tiny graph, all triggers, against the peer's session and hooks."""
    rows = []
    for name, bar in (("H7", 13), ("H8", 15)):
        with compared(peer, ours, common.tiny, HOOKS[name]) as lanes:
            found = in_stages(lanes, settings)
        for words, (theirs, mine) in found:
            rows.append(row("B1", f"tiny graph, {name}, all triggers{words}", theirs, mine, theirs / mine, bar))
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
            whole = in_stages([bare, lane], settings)
        found = [("quiet step", quiet, 0.25), *((f"all triggers{words}", times, 0.3) for words, times in whole)]
        for kind, (floor, mine), bar in found:
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


def in_sets(measure, settings):
    """Measures small differences between sessions in several sets of them.

    The native runs of some sessions are up to a quarter slower than those of others that are made alike, for thousands of steps.
    That is more than hooks cost, so each round has sessions of its own.

    Args:
      measure: function of a number of rounds that makes sessions and returns a dict of arrays of µs per step, one per round.

    Returns:
      The same, for the rounds of all sets.
    """
    found = [measure(-(-settings.rounds // settings.sets)) for _ in range(settings.sets)]
    return {name: np.concatenate([times[name] for times in found]) for name in found[0]}


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

    def measure(rounds):
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(common.workspace(wandb=True))

            def lane(hooks, impl=ours):
                return stack.enter_context(common.monitored_lane(impl, common.tiny, hooks, directory, session_impl=ours))

            floor, direct = [stack.enter_context(common.prepared_lane(common.tiny, direct=how)) for how in (False, True)]
            h8 = lane(hooks_h8)
            lanes = {
                "floor": floor,
                "direct": direct,
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
            return dict(zip(lanes, common.interleave_quiet(list(lanes.values()), rounds, settings.quiet_pieces).T, strict=True))

    us = in_sets(measure, settings)
    own = np.array([own_cost(TrivialHook()) for _ in us["trivial"]])

    def over(what, mine, base, bar=None, each=1, less=0.0):
        values = (us[mine] - us[base]) / each - less
        return row("B3", what, us[base], us[mine], values, bar, at_most=True, unit="µs")

    return {
        "rows": [
            over("bare prepared `Run`, without its wrapper - with it", "direct", "floor"),
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

    def measure(rounds):
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(common.workspace())
            off, python, never = [
                stack.enter_context(common.monitored_lane(ours, common.tiny, hooks, directory))
                for hooks in (hooks_h7, with_python_hook, hooks_h7)
            ]
            lanes = {"off": off, "python": python, "never": never}
            lanes |= {f"{name} on": lanes[name].with_loop(ours.profiled(lanes[name].loop)) for name in ("off", "python")}
            common.warm_up(lanes.values(), settings.warm_up)
            return dict(zip(lanes, common.interleave_quiet(list(lanes.values()), rounds, settings.quiet_pieces).T, strict=True))

    us = in_sets(measure, settings)

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
    with compared(peer, ours, common.tiny_fed, hooks_h8) as lanes:
        found = in_stages(lanes, settings)
    return {
        "rows": [
            row("B5", f"tiny graph fed 16 floats, H8{words}", theirs, mine, theirs / mine, 16)
            for words, (theirs, mine) in found
        ]
    }


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
            common.warm_up([bare, lane], settings.graph_warm_up)
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
        theirs, mine = compare(peer, ours, settings, build, HOOKS[hooks], settings.graph_round_steps, settings.graph_warm_up)
        rows.append(row(budget, f"{name}, {hooks}", theirs, mine, theirs / mine, bar, low_end=LOW_END))
    return {"rows": rows}


def b6(peer, ours, settings):
    """Larger graphs with H8; the lower end of the 95% interval counts too."""
    return _suite("B6", SUITE, "H8", peer, ours, settings)


def b9(peer, ours, settings):
    """The peer's sessions with our hooks, and patched, against the same as they are; and one without a hook of ours."""
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
            found = in_stages(lanes, settings)
        for words, (theirs, mine) in found:
            rows.append(row("B9", f"TF's {name}, its H7 / ours{words}", theirs, mine, theirs / mine, 10))
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace())
        plain = stack.enter_context(common.monitored_lane(peer, common.tiny, hooks_h7, directory))
        with ours.patch():
            patched = stack.enter_context(common.monitored_lane(peer, common.tiny, hooks_h7, directory))
        found = in_stages([plain, _Patched(patched, ours)], settings)
    for words, (theirs, mine) in found:
        rows.append(row("B9", f"TF's MonitoredSession and H7, as it is / patched{words}", theirs, mine, theirs / mine, 10))
    return {"rows": [*rows, _beside_our_hooks(peer, ours, settings)]}


@dataclasses.dataclass
class _Patched:
    """A lane that runs while TensorFlow is patched."""

    lane: common.Lane
    ours: common.Implementation

    @property
    def position(self):
        return self.lane.position

    def run(self, steps):
        with self.ours.patch():
            return self.lane.run(steps)


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
    found = []
    with compared(peer, ours, common.tiny, hooks_h7) as lanes:
        for words, steps in stages(settings):
            common.bring_to(lanes, steps)
            found.append((words, common.interleave_triggers(lanes, settings.rounds, settings.trigger_pieces)))
        # No other session takes turns with a program's own, and empties the caches between two of its triggers.
        found.append((f"{words}, in turns of {settings.trigger_pieces} periods",
                      common.interleave_triggers(lanes, settings.rounds, 1, settings.trigger_pieces)))
    rows = []
    for words, (added, quiet) in found:
        theirs, mine = added.T
        what = f"all triggers of H7 in 100 steps{words}, over quiet steps of {np.median(quiet[:, 1]):.1f} µs"
        rows.append(row("B16", what, theirs, mine, mine, 130, at_most=True, unit="µs"))
        # Held against the median: what was added in one round may come out near nothing.
        rows.append(row("B16", f"{what}: ours / TF's", theirs, mine, mine / np.median(theirs), 0.25, at_most=True))
    return {"rows": rows}


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
    return {"rows": [*rows, *_pool_of_one_thread(ours, settings)]}


def _pool_of_one_thread(ours, settings):
    """What a user may choose for steps of two partitions, with its price: all kernels of a session on one thread of its own."""
    one_thread = v1.ConfigProto(device_count={"CPU": 2})
    one_thread.session_inter_op_thread_pool.add(num_threads=1)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace())
        lanes = [
            stack.enter_context(common.monitored_lane(ours, common.two_devices, hooks_h7, directory, config=config))
            for config in (common.TWO_CPUS, one_thread)
        ]
        common.warm_up(lanes, settings.warm_up)
        single = np.empty([settings.rounds, settings.graph_round_steps, len(lanes)])
        for turn in range(settings.rounds):
            for i in common.order(len(lanes), turn):
                single[turn, :, i] = [lanes[i].run(1) / 1000.0 for _ in range(settings.graph_round_steps)]
    rows = []
    for what, percentile in (("median step", 50), ("99th percentile of steps", 99)):
        default, mine = np.percentile(single, percentile, axis=1).T
        what = f"two CPU devices, H7, {what}: our session with a pool of one thread / with the default pool"
        rows.append(row("B17", what, default, mine, mine / default))
    return rows


def b18(peer, ours, settings):
    """Graphs of many small ops with H7."""
    suite = (
        ("1,000 ops", functools.partial(common.large, 1000), 2.0),
        (f"Adam with {settings.variables} variables", functools.partial(common.many_variables, settings.variables), 1.4),
    )
    return _suite("B18", suite, "H7", peer, ours, settings)
