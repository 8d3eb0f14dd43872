"""Measures the performance budgets and prints one table: what fasthooks costs, what TensorFlow costs, and the bar.

    python bench/budgets.py                      all budgets, 15 rounds each
    python bench/budgets.py --only B1,B3 --quick
    python bench/budgets.py --ours tensorflow    TensorFlow against itself: ratios must be about 1.0

B8 needs a TensorFlow that has tf.estimator, 2.15; B11 wants a quiet disk.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.append(ROOT)  # at the end: an installed fasthooks is found first

import numpy as np  # noqa: E402

from bench import common, estimators, feeds  # noqa: E402
from bench.common import hooks_h7, hooks_h8, no_hooks, v1  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes:
      rounds: rounds per comparison.
      round_steps: steps per lane and round; 1,000 holds one full period of every trigger.
      warm_up: steps per lane before the first round.
      quiet_pieces: stretches of 70 quiet steps per lane and round.
      graph_round_steps: `round_steps` for the larger graphs of B6 and for gRPC.
      estimator_steps: steps of B8 in each training, after as many that are not measured.
      rss_steps: the two steps between which memory is compared.
      fetch_sets: distinct fetch sets of the memory budget.
      import_repeats: processes started to time the import.
      checkpoint_mb: size of the checkpoints whose stalls are measured.
      large_ops, large_rounds: size of the large graph, and how often a fresh one is started.
      batch_megabytes, batch_steps: size of a large batch, and steps per lane and round.
      batch_matmuls, batch_wait_secs: what a step does meanwhile: products of 512x512 matrices, or nothing.
    """

    rounds: int = 15
    round_steps: int = 1000
    warm_up: int = 1000
    quiet_pieces: int = 10
    graph_round_steps: int = 1000
    estimator_steps: int = 1000
    rss_steps: tuple = (100_000, 1_000_000)
    fetch_sets: int = 10_000
    import_repeats: int = 5
    checkpoint_mb: float = 200
    large_ops: int = 8000
    large_rounds: int = 15
    batch_megabytes: int = 64
    batch_steps: int = 15
    batch_matmuls: int = 10
    batch_wait_secs: float = 0.03


FULL = Settings()
QUICK = Settings(
    rounds=5,
    quiet_pieces=5,
    graph_round_steps=200,
    rss_steps=(20_000, 100_000),
    fetch_sets=1000,
    import_repeats=3,
    large_rounds=3,
)
TINY = Settings(
    rounds=2,
    round_steps=20,
    warm_up=5,
    quiet_pieces=1,
    graph_round_steps=10,
    estimator_steps=10,
    rss_steps=(50, 100),
    fetch_sets=16,
    import_repeats=1,
    checkpoint_mb=1,
    large_ops=400,
    large_rounds=1,
    batch_megabytes=1,
    batch_steps=2,
    batch_matmuls=1,
    batch_wait_secs=0.001,
)


def progress(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def row(budget, what, peer_us, ours_us, values, bar, at_most=False, unit="x", extra_met=True, **more):
    """One line of the table.

    Args:
      budget: "B1", ...
      what: what was measured.
      peer_us, ours_us: µs per round, or None where there is no such figure; with other units, say so in `what`.
      values: one figure per round: a ratio (unit "x") or a difference in `unit`.
      bar: what the median of `values` is held against.
      at_most: the bar is an upper bound, else a lower one.
      extra_met: a further condition of the budget.
      more: further figures for the JSON file.
    """
    value = common.summarize(values)
    met = value["median"] <= bar if at_most else value["median"] >= bar
    return {
        "budget": budget,
        "what": what,
        "peer_us": None if peer_us is None else float(np.median(peer_us)),
        "ours_us": None if ours_us is None else float(np.median(ours_us)),
        "value": value,
        "unit": unit,
        "bar": bar,
        "at_most": at_most,
        "met": bool(met and extra_met),
        "rounds": {
            "peer_us": None if peer_us is None else np.asarray(peer_us, float).tolist(),
            "ours_us": None if ours_us is None else np.asarray(ours_us, float).tolist(),
            "value": np.asarray(values, float).tolist(),
        },
        **more,
    }


def compare(peer, ours, settings, build, hooks, steps=None, scheduling=None, masters=("", "")):
    """Measures the peer's session with the peer's hooks against ours with ours.

    Returns:
      Two arrays of µs per step, one value per round: peer's and ours'.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace(wandb=hooks is hooks_h8))
        lanes = [
            stack.enter_context(common.monitored_lane(impl, build, hooks, directory, way, master))
            for impl, way, master in ((peer, None, masters[0]), (ours, scheduling, masters[1]))
        ]
        steps = steps or settings.round_steps
        common.warm_up(lanes, min(settings.warm_up, steps))
        return common.interleave(lanes, settings.rounds, steps).T


# ----------------------------------------------------------------------------------------------------------------------
# Budgets: each function returns {"rows": [...]}


def b1(peer, ours, settings):
    """Tiny graph, all triggers, against the peer's session and hooks."""
    rows = []
    for name, hooks, bar in (("H7", hooks_h7, 12), ("H8", hooks_h8, 15)):
        theirs, mine = compare(peer, ours, settings, common.tiny, hooks)
        rows.append(row("B1", f"tiny graph, {name}, all triggers", theirs, mine, theirs / mine, bar))
    return {"rows": rows}


def b2(peer, ours, settings):
    """Tiny graph against a bare `Session.run(train_op)`; the peer's figure is the bare run's."""
    rows = []
    for name, hooks in (("H7", hooks_h7), ("H8", hooks_h8)):
        with (
            common.workspace(wandb=hooks is hooks_h8) as directory,
            common.bare_lane(common.tiny) as bare,
            common.monitored_lane(ours, common.tiny, hooks, directory) as lane,
        ):
            common.warm_up([bare, lane], settings.warm_up)
            quiet = common.interleave_quiet([bare, lane], settings.rounds, settings.quiet_pieces).T
            whole = common.interleave([bare, lane], settings.rounds, settings.round_steps).T
        for kind, (floor, mine), bar in (("quiet step", quiet, 0.2), ("all triggers", whole, 0.25)):
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
    """Quiet step of H8: µs over the bare callable, and what one more hook adds."""

    def h8_and(extra):
        def hooks(impl, model, directory):
            return [*hooks_h8(impl, model, directory), *(extra(impl, model, directory) for _ in range(MORE_HOOKS))]

        return hooks

    def nan_hook(impl, model, directory):
        return impl.train.NanTensorHook(model.loss)

    def step_counter(impl, model, directory):
        return impl.train.StepCounterHook(every_n_steps=common.PERIOD, output_dir=directory)

    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace(wandb=True))

        def lane(hooks, impl=ours):
            return stack.enter_context(common.monitored_lane(impl, common.tiny, hooks, directory, session_impl=ours))

        floor = stack.enter_context(common.callable_lane(common.tiny))
        h8 = lane(hooks_h8)
        lanes = {
            "floor": floor,
            "run": h8.with_loop(common.user_loop(h8.session, h8.model, check_stop=False)),
            "h8": h8,
            "nan": lane(h8_and(nan_hook)),
            "counter": lane(h8_and(step_counter)),
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
            over("quiet H8 `run` - bare callable", "run", "floor", 1.0),
            over("quiet H8 loop with should_stop - bare callable", "h8", "floor", 1.5),
            over("one more NanTensorHook", "nan", "h8", 0.05, MORE_HOOKS),
            over("one more StepCounterHook", "counter", "h8", 0.05, MORE_HOOKS),
            over("TF's eight hook objects - ours", "stock", "h8", 0.6),
            over("Python hook without per-step methods", "untouched", "h8", 0.03, MORE_HOOKS),
            over("Python hook with both, less its own code", "trivial", "h8", 1.0, MORE_HOOKS, less=own),
        ],
        "own_code_us": common.summarize(own),
    }


def b4(peer, ours, settings):
    """B1 with H8, thread-pool scheduling only."""
    theirs, mine = compare(peer, ours, settings, common.tiny, hooks_h8, scheduling="pool")
    return {"rows": [row("B4", "tiny graph, H8, pool scheduling only", theirs, mine, theirs / mine, 5)]}


def b5(peer, ours, settings):
    """Tiny graph with 16 floats fed."""
    theirs, mine = compare(peer, ours, settings, common.tiny_fed, hooks_h8)
    return {"rows": [row("B5", "tiny graph fed 16 floats, H8", theirs, mine, theirs / mine, 12)]}


SUITE = (
    ("MLP 784-128-128-10, batch 32", common.mlp_small, 1.5),
    ("MLP 784-256-256-10, batch 128", common.mlp_large, 1.05),
    ("small CNN, batch 32", common.small_cnn, 1.0),
    ("two-tower recommender, dataset", common.two_towers, 1.5),
)


def b6(peer, ours, settings):
    """Larger graphs with H8; the lower end of the 95% interval counts too."""
    rows = []
    for name, build, bar in SUITE:
        progress(f"  {name}")
        theirs, mine = compare(peer, ours, settings, build, hooks_h8, settings.graph_round_steps)
        ratio = theirs / mine
        low_enough = common.summarize(ratio)["low95"] >= 0.97
        rows.append(row("B6", f"{name}, H8", theirs, mine, ratio, bar, extra_met=low_enough))
    return {"rows": rows}


@contextlib.contextmanager
def grpc_server():
    """A gRPC server in another process: within one, gRPC is bypassed. Yields a function that waits for its target."""
    process = _start_worker("server", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def target():
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError("the gRPC server did not start; run `python bench/workers.py server` to see why")
        return line

    try:
        yield target
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def b7(peer, ours, settings):
    """Sessions on servers of this process and of others; one server each, so that their variables are apart."""
    rows = []
    local = [common.tf.distribute.Server.create_local_server() for _ in range(2)]
    with grpc_server() as one, grpc_server() as other:
        for where, masters in (
            ("in this process, which no network lies before", [server.target for server in local]),
            ("in a process of its own", (one(), other())),
        ):
            theirs, mine = compare(peer, ours, settings, common.tiny, hooks_h7, settings.graph_round_steps, masters=masters)
            rows.append(row("B7", f"tiny graph on a server {where}, H7", theirs, mine, theirs / mine, 1.7))
    return {"rows": rows}


ESTIMATORS = (
    ("DNNClassifier, batch 32", estimators.dnn_classifier, 32),
    ("DNNClassifier, batch 256, as in TensorFlow's guide", estimators.dnn_classifier, 256),
    ("smallest model_fn, batch 32", estimators.softmax_regression, 32),
)


def b8(peer, ours, settings):
    """Estimators, stock and under `fasthooks.patch()`: trainings from scratch that take turns."""
    rows = []
    steps = settings.estimator_steps
    for name, make, batch in ESTIMATORS:
        progress(f"  {name}")
        times = np.zeros([2, settings.rounds])
        with common.workspace() as directory:
            for turn in range(settings.rounds):
                for who in (0, 1) if turn % 2 else (1, 0):
                    with (peer, ours)[who].patch():
                        times[who, turn] = estimators.us_per_step(make, batch, steps, directory)
        rows.append(row("B8", f"tf.estimator, patched: {name}", *times, times[0] / times[1], 1.8))
    return {"rows": rows}


def b9(peer, ours, settings):
    """The peer's session with our hooks: what they add over no hooks, against what the peer's add."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace())
        lanes = [
            stack.enter_context(common.monitored_lane(impl, common.tiny, hooks, directory, session_impl=peer))
            for impl, hooks in ((peer, no_hooks), (peer, hooks_h7), (ours, hooks_h7))
        ]
        common.warm_up(lanes, settings.warm_up)
        none, theirs, mine = common.interleave(lanes, settings.rounds, settings.round_steps).T
    added, our_added = theirs - none, mine - none
    what = f"our H7 in TF's session: added / stock added (no hooks: {np.median(none):.1f} µs)"
    return {
        "rows": [row("B9", what, added, our_added, our_added / added, 0.6, at_most=True)],
        "no_hooks_us": common.summarize(none),
    }


def _start_worker(name, arguments=None, **options):
    command = [sys.executable, os.path.join(ROOT, "bench", "workers.py"), name, json.dumps(arguments or {})]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def _worker(name, **arguments):
    """Runs a worker to its end and returns the object it printed."""
    process = _start_worker(name, arguments, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"worker {name} failed with {process.returncode}:\n{errors[-3000:]}")
    return json.loads(output.strip().splitlines()[-1])


def b10(peer, ours, settings):
    """Resident memory, in MiB. TensorFlow's is measured for the fetch sets only: its steps take too long."""
    begin, end = settings.rss_steps
    steps = _worker("rss_steps", ours=ours.name, begin=begin, end=end)
    growth = steps["last_mib"] - steps["first_mib"]
    what = f"RSS growth, step {begin:,} to {end:,}, H8 ({steps['last_mib']:.0f} MiB at the end)"
    rows = [row("B10", what, None, None, [growth], 1.0, at_most=True, unit="MiB", **steps)]
    # TensorFlow keeps an executor per fetch set for ever, so a part of the sets tells what it takes.
    few = max(settings.fetch_sets // 10, 8)
    theirs = _worker("rss_fetch_sets", ours=peer.name, count=few)
    mine = _worker("rss_fetch_sets", ours=ours.name, count=settings.fetch_sets)
    growth = mine["all_mib"] - mine["half_mib"]
    per_set = (theirs["all_mib"] - theirs["half_mib"]) / (few - few // 2)
    what = f"RSS growth, second half of {settings.fetch_sets:,} fetch sets (TF's own: {1024 * per_set:.0f} KiB a set)"
    rows.append(row("B10", what, None, None, [growth], 1.0, at_most=True, unit="MiB", peer=theirs, ours=mine))
    return {"rows": rows}


SAVE_STEPS = 20  # steps between two checkpoints of B11; the trigger and the 5 steps after it are timed


class _CheckpointLane:
    """A monitored session that saves a checkpoint every `SAVE_STEPS` steps, and where it saves them."""

    def __init__(self, impl, build, directory, stack):
        def hooks(impl, model, own_directory):
            self.directory = own_directory
            return [impl.checkpoint_hook(own_directory, save_steps=SAVE_STEPS)]

        self.lane = stack.enter_context(common.monitored_lane(impl, build, hooks, directory))

    def longest_step(self):
        """Goes up to the next checkpoint and reads it back; returns the longest of its step and the 5 after it, in µs."""
        self.lane.run(SAVE_STEPS - 1 - self.lane.position % SAVE_STEPS)
        longest = max(self.lane.run(1) for _ in range(6)) / 1000.0
        step = self.lane.position - 5
        path = os.path.join(self.directory, f"model.ckpt-{step}")
        deadline = time.monotonic() + 120
        while common.tf.train.latest_checkpoint(self.directory) != path or not os.path.exists(path + ".meta"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no checkpoint {path}")
            time.sleep(0.01)
        reader = common.tf.train.load_checkpoint(path)
        found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
        if (found["global_step"], found["count"]) != (step, step):
            raise RuntimeError(f"{path} is of step {found['global_step']}, with {found['count']} updates")
        self.lane.run(2)  # what is left to do for this checkpoint belongs to it
        return longest


def b11(peer, ours, settings):
    """Stalls by checkpoints: longest of the step that triggers and the 5 after it, taking turns on the same disk."""
    rows = []
    for what, build in (
        ("embeddings, 64 rows of each updated a step", common.embeddings),
        ("frozen weights, small head trained", common.fine_tuning),
        ("dense, all updated in each step", common.dense_updates),
    ):
        progress(f"  {what}")
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(common.workspace())
            lanes = [
                _CheckpointLane(impl, lambda build=build: build(settings.checkpoint_mb), directory, stack)
                for impl in (peer, ours)
            ]
            for lane in lanes:
                lane.longest_step()
            times = np.zeros([settings.rounds, 2])
            for number in range(settings.rounds):
                for i in (0, 1) if number % 2 else (1, 0):
                    times[number, i] = lanes[i].longest_step()
        theirs, mine = times.T
        name = f"{settings.checkpoint_mb:g} MB checkpoint, {what}: longest step"
        rows.append(row("B11", name, theirs, mine, mine / theirs, 0.2, at_most=True))
    return {"rows": rows}


def b12(peer, ours, settings):
    """Import and first access of every public name, TensorFlow being imported already."""
    runs = [_worker("import_time", module=ours.module) for _ in range(settings.import_repeats)]
    total = [run["total_ms"] for run in runs]
    what = f"import {ours.module} and {runs[0]['names']} public names (slowest: {runs[0]['slowest_name']})"
    ours_us = [1e3 * ms for ms in total]
    return {"rows": [row("B12", what, None, ours_us, total, 50.0, at_most=True, unit="ms", runs=runs)]}


def b13(peer, ours, settings):
    """Large graph with H7: from session creation to the end of step 100, alternating, a fresh graph each time."""
    times = {"peer": [], "ours": []}
    with common.workspace() as directory:
        for number in range(settings.large_rounds):
            progress(f"  graph {number + 1} of {settings.large_rounds}")
            for who in ("peer", "ours") if number % 2 else ("ours", "peer"):
                impl = peer if who == "peer" else ours
                times[who].append(_time_to_step_100(impl, settings.large_ops, directory))
    theirs, mine = np.array(times["peer"]), np.array(times["ours"])
    what = f"{settings.large_ops:,} ops, H7: creation to end of step 100"
    return {"rows": [row("B13", what, theirs, mine, mine / theirs, 1.3, at_most=True)]}


def _time_to_step_100(impl, ops, directory):
    """µs from session creation to the end of step 100."""
    created = []

    def build():
        model = common.large(ops)
        created.append(time.perf_counter_ns())
        return model

    with common.monitored_lane(impl, build, hooks_h7, directory) as lane:
        lane.run(100)
        return (time.perf_counter_ns() - created[0]) / 1000.0


def feed(peer, ours, settings):
    """Large batches: what a FeedFnHook adds to a step while a core is free for its thread, and feeding by hand."""
    batches = feeds.prepared_batches(settings.batch_megabytes)
    size = f"{settings.batch_megabytes} MB"
    copy = feeds.copy_us(batches)
    rows = []
    for kind, work in (
        ("computes on one core", lambda: feeds.computes(settings.batch_matmuls)),
        ("waits for a device", lambda: feeds.waits(settings.batch_wait_secs)),
    ):
        with contextlib.ExitStack() as stack:
            stack.enter_context(common.workspace())
            lanes = [
                stack.enter_context(feeds.hook_lane(impl, work, fed, feeds.PREFETCH))
                for impl in (peer, ours)
                for fed in (None, batches)
            ]
            unfed, theirs, our_unfed, mine = feeds.interleave_steps(lanes, settings.rounds, settings.batch_steps).T
        added, our_added = theirs - unfed, mine - our_unfed
        what = f"{size} from FeedFnHook, step that {kind} ({np.median(unfed):,.0f} µs): added / stock added"
        steps = {"unfed_us": unfed.tolist(), "our_unfed_us": our_unfed.tolist(), "copy_us": copy}
        # Held against the median: on a busy machine what was added in one round may come out near nothing.
        rows.append(row("FEED", what, added, our_added, our_added / np.median(added), 0.1, at_most=True, **steps))
    aligned = [ours.train.aligned_copy(batch) for batch in batches] if ours.has_scheduling else batches
    with contextlib.ExitStack() as stack:
        stack.enter_context(common.workspace())
        lanes = [stack.enter_context(feeds.direct_lane(ours, some)) for some in (batches, aligned)]
        theirs, mine = feeds.interleave_steps(lanes, settings.rounds, settings.batch_steps).T
    what = f"{size} fed by hand to our session: as NumPy has it / aligned_copy"
    rows.append(row("FEED", what, theirs, mine, theirs / mine, 10))
    return {"rows": rows}


BUDGETS = {
    "B1": b1,
    "B2": b2,
    "B3": b3,
    "B4": b4,
    "B5": b5,
    "B6": b6,
    "B7": b7,
    "B8": b8,
    "B9": b9,
    "B10": b10,
    "B11": b11,
    "B12": b12,
    "B13": b13,
    "FEED": feed,
}
NEEDS_WANDB = {"B1", "B2", "B3", "B4", "B5", "B6", "B10"}
NEEDS_ESTIMATOR = {"B8"}


# ----------------------------------------------------------------------------------------------------------------------
# Output


def format_table(rows):
    """The rows as text, one line each."""

    def number(value):
        return "-" if value is None else f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"

    heads = ("budget", "what", "peer µs", "ours µs", "min", "median", "max", "95% interval", "bar", "met")
    lines = [heads]
    for r in rows:
        value, unit = r["value"], "" if r["unit"] == "x" else " " + r["unit"]
        lines.append(
            (
                r["budget"],
                r["what"],
                number(r["peer_us"]),
                number(r["ours_us"]),
                number(value["min"]),
                number(value["median"]) + unit,
                number(value["max"]),
                f"{number(value['low95'])} .. {number(value['high95'])}",
                f"{'<=' if r['at_most'] else '>='} {r['bar']:g}{unit}",
                "yes" if r["met"] else "NO",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    left = {0, 1, 9}

    def justify(line):
        cells = [cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        return "  ".join(cells).rstrip()

    text = [justify(line) for line in lines]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def environment():
    """Versions and machine, for the JSON file."""
    import importlib.metadata

    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return getattr(sys.modules.get(package), "__version__", None)

    def git(*arguments):
        try:
            done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as info:
        cpu = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "tensorflow": common.tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "fasthooks": version("fasthooks"),
        "wandb": version("wandb"),
        "cpu": cpu,
        "cpu_count": os.cpu_count(),
        "gpus": len(common.tf.config.list_physical_devices("GPU")),
        "load_average": os.getloadavg()[0],
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changed is None else bool(changed),
    }


def measure(names, peer, ours, settings):
    """Runs the budgets called `names`; returns their results by name.

    One that fails is reported and left out; so is one that this TensorFlow has nothing to measure for.
    """
    results = {}
    for name in names:
        begin = time.perf_counter()
        progress(f"{name}: {BUDGETS[name].__doc__.splitlines()[0]}")
        if name in NEEDS_WANDB and not common.has_wandb():
            results[name] = {"rows": [], "error": "needs wandb"}
        elif name in NEEDS_ESTIMATOR and not estimators.available():
            results[name] = {"rows": [], "not_available": "no tf.estimator"}
        else:
            try:
                results[name] = BUDGETS[name](peer, ours, settings)
            except Exception as error:  # the other budgets are still worth measuring
                results[name] = {"rows": [], "error": f"{type(error).__name__}: {error}"}
        if "error" in results[name]:
            progress(f"{name} not measured: {results[name]['error']}")
        results[name]["wall_secs"] = time.perf_counter() - begin
        progress(f"{name} took {results[name]['wall_secs']:.0f} s")
    return results


def write_json(path, results, peer, ours, settings):
    rows = [r for result in results.values() for r in result["rows"]]
    text = json.dumps(
        {
            "environment": environment(),
            "peer": peer.name,
            "ours": ours.name,
            "settings": dataclasses.asdict(settings),
            "rows": rows,
            "other": {name: {k: v for k, v in result.items() if k != "rows"} for name, result in results.items()},
        },
        indent=1,
    )
    with open(path, "w") as file:
        file.write(text + "\n")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(BUDGETS), help="comma-separated budgets, such as B1,B3")
    parser.add_argument("--rounds", type=int, help="rounds per comparison, 15 if left out")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and steps: a first impression, not a verdict")
    parser.add_argument("--json", metavar="FILE", help="write all figures and versions there")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a budget is not met or not measured")
    parser.add_argument("--peer", default="tensorflow", choices=("tensorflow", "fasthooks"))
    parser.add_argument("--ours", default="fasthooks", choices=("tensorflow", "fasthooks"))
    args = parser.parse_args(argv)
    names = [name.strip().upper() for name in args.only.split(",") if name.strip()]
    unknown = sorted(set(names) - set(BUDGETS))
    if unknown:
        parser.error(f"--only: unknown budgets {', '.join(unknown)}; there are {', '.join(BUDGETS)}")
    settings = QUICK if args.quick else FULL
    if args.rounds is not None:
        if args.rounds < 1:
            parser.error(f"--rounds must be at least 1, got {args.rounds}")
        settings = dataclasses.replace(settings, rounds=args.rounds, large_rounds=args.rounds)
    try:
        peer, ours = common.implementation(args.peer), common.implementation(args.ours)
    except ImportError as error:
        parser.error(f"fasthooks cannot be imported ({error}); build it, or pass --ours tensorflow")

    results = measure(names, peer, ours, settings)
    rows = [r for result in results.values() for r in result["rows"]]
    print(format_table(rows))
    if args.quick:
        print(
            f"--quick: {settings.rounds} rounds; larger graphs and gRPC {settings.graph_round_steps} steps a round (not "
            f"every round has all triggers); memory over {settings.rss_steps[0]:,} to {settings.rss_steps[1]:,} steps and "
            f"{settings.fetch_sets:,} fetch sets."
        )
    for name, result in results.items():
        if "error" in result:
            print(f"{name} not measured: {result['error'].splitlines()[0]}")
        if "not_available" in result:
            print(f"{name} not available: {result['not_available']}")
    if args.json:
        write_json(args.json, results, peer, ours, settings)
    good = all(r["met"] for r in rows) and not any("error" in result for result in results.values())
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
