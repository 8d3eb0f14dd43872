"""Kernels that keep state between steps: draws of seeded random ops are TensorFlow's, bit for bit, however steps are run.

A kernel inside a function that is not inlined belongs to the executors of one set of fetches and targets, whatever the
structure in which they are asked for, whoever asks and whether kernels run inline. So a session that has executors of its
own for anything of that draws other numbers than TensorFlow's.
"""

import functools
import random

import pytest
import tensorflow as tf
from helpers import HOOKED_WAYS, OUR_WAYS, build_model, quick_creator, same_in_way, v1
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python.framework import function

STEPS = 260  # the set of `x` alone is run more than 120 times: enough for a switch to inline


def draw(seed, shape=(2,)):
    return tf.random.uniform(list(shape), seed=seed)


# Kernels: each returns a tensor that is another one in each run


def noinline(seed):
    return tf.function(lambda: draw(seed), experimental_attributes={"_noinline": True})()


def defun(seed):
    @function.Defun(noinline=True, func_name=f"draw_{seed}")
    def body():
        return draw(seed)

    return tf.reshape(body(), [2])


def nested(seed):
    return tf.function(lambda: noinline(seed) + draw(seed + 1), experimental_attributes={"_noinline": True})()


def mapped(seed):
    return tf.function(lambda: tf.map_fn(lambda i: i + draw(seed, ()), tf.constant([0.0, 1.0, 2.0]), parallel_iterations=1))()


def looped(seed):
    def body(i, total):
        return i + 1, total + draw(seed)

    return tf.function(lambda: tf.while_loop(lambda i, _: i < 3, body, [0, tf.zeros([2])], parallel_iterations=1)[1])()


def branched(seed):
    return tf.function(lambda: tf.cond(draw(seed, ()) > 0.5, lambda: draw(seed + 1), lambda: -draw(seed + 2)))()


KERNELS = {
    "op": draw, "noinline": noinline, "defun": defun, "nested": nested, "map_fn": mapped, "while_loop": looped,
    "cond": branched,
}


def config_of(name):
    """Returns a ConfigProto whose graph options are those of `name`."""
    config = v1.ConfigProto()
    options = config.graph_options
    if name == "no_meta_optimizer":
        options.rewrite_options.disable_meta_optimizer = True
    elif name == "place_pruned_graph":
        options.place_pruned_graph = True
    elif name == "level_0":
        options.optimizer_options.opt_level = v1.OptimizerOptions.L0
    elif name == "no_function_inlining":
        options.optimizer_options.do_function_inlining = False
        options.rewrite_options.function_optimization = rewriter_config_pb2.RewriterConfig.OFF
    return config


CONFIGS = ("default", "no_meta_optimizer", "place_pruned_graph", "level_0", "no_function_inlining")


# Programs


def shapes(x, y):
    """Forms of fetches; all but the last two are the same set."""
    return [x, [x], {"a": x}, (x, [x]), x.name, [x, y], {"b": (y,), "a": x}]


def order(steps, kinds, seed=0):
    """Which form each step takes: in turn, then long and short runs of each, the first kinds the most often."""
    rng = random.Random(seed)
    forms = list(range(kinds)) * 3
    while len(forms) < steps:
        forms += [min(rng.randrange(kinds), rng.randrange(kinds))] * rng.choice([1, 1, 2, 9])
    return forms[:steps]


def alternate(run, session, x, y, steps):
    wanted = shapes(x, y)
    for form in order(steps, len(wanted)):
        run.note(session.run(wanted[form]))
        run.clock.tick()
    run.keep_report(session)


def alternating(run, kernel, config="default", steps=STEPS):
    """The same fetches in one form after another."""
    x, y = KERNELS[kernel](11), KERNELS[kernel](22)
    with run.api.MonitoredSession(quick_creator(run, config_of(config))) as session:
        alternate(run, session, x, y, steps)


def with_options(run, kernel):
    """Some steps ask for a trace or a long timeout."""
    x, y = KERNELS[kernel](11), KERNELS[kernel](22)
    with run.api.MonitoredSession(quick_creator(run)) as session:
        for step in range(40):
            run.note(session.run([x, (x,), {"x": [x]}][step % 3]))
            if step % 4 == 3:
                options = [v1.RunOptions(), v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE),
                           v1.RunOptions(timeout_in_ms=10_000_000)][step // 4 % 3]
                metadata = v1.RunMetadata()
                run.note(session.run([x, y] if step % 8 == 7 else x, options=options, run_metadata=metadata))
                run.note(bool(metadata.step_stats.dev_stats))
        run.keep_report(session)


def two_sessions(run, kernel, one_graph):
    """Two sessions take turns, each with its own numbers."""
    graphs = [v1.get_default_graph(), v1.get_default_graph() if one_graph else tf.Graph()]
    tensors, sessions = [], []
    for graph in graphs[:2 - one_graph]:
        with graph.as_default():
            tensors.append((KERNELS[kernel](11), KERNELS[kernel](22)))
    tensors *= 1 + one_graph
    creators = []
    for graph in graphs[:2 - one_graph]:
        with graph.as_default():
            creators.append(quick_creator(run))
    creators *= 1 + one_graph
    try:
        for graph, creator in zip(graphs, creators):
            with graph.as_default():
                sessions.append(run.api.MonitoredSession(creator))
        for form in order(60, 7):
            for which in (0, 1, 0):
                run.note(sessions[which].run(shapes(*tensors[which])[form]))
    finally:
        for session in sessions:
            session.close()


class Ask(v1.train.SessionRunHook):
    """Fetches on every `every`th step what it was given, and notes what it gets."""

    def __init__(self, run, fetches, every=1):
        self.run, self.fetches, self.every, self.count = run, fetches, every, 0

    def before_run(self, run_context):
        self.count += 1
        if self.count % self.every == 0:
            return v1.train.SessionRunArgs(self.fetches)
        return None

    def after_run(self, run_context, run_values):
        self.run.note("hook", run_values.results)


class RaiseOnce(v1.train.SessionRunHook):
    """Ends the session with an AbortedError on one step, before or after the run."""

    def __init__(self, at, late):
        self.at, self.late, self.count = at, late, 0

    def before_run(self, run_context):
        self.count += 1
        if not self.late and self.count == self.at:
            raise tf.errors.AbortedError(None, None, "from a hook")

    def after_run(self, run_context, run_values):
        if self.late and self.count == self.at:
            raise tf.errors.AbortedError(None, None, "from a hook")


def hooks_that_fetch(run, kernel):
    """Hooks fetch what the caller fetches, and more on some steps."""
    x, y = KERNELS[kernel](11), KERNELS[kernel](22)
    hooks = [Ask(run, x), Ask(run, {"again": [x]}, 2), Ask(run, [y, x], 5)]
    with run.api.MonitoredSession(quick_creator(run), hooks) as session:
        alternate(run, session, x, y, 120)


def summary_that_draws(run, kernel):
    """A summary draws on trigger steps, from kernels that other steps use too."""
    x, y = KERNELS[kernel](11), KERNELS[kernel](22)
    train, _ = build_model()
    summary = v1.summary.merge([v1.summary.scalar("x", tf.reduce_sum(x)), v1.summary.scalar("y", tf.reduce_sum(y))])
    hooks = [run.api.SummarySaverHook(save_steps=7, output_dir=run.dir, summary_op=summary),
             run.api.LoggingTensorHook({"x": x}, every_n_iter=11)]
    with run.api.MonitoredSession(quick_creator(run), hooks) as session:
        wanted = [[train, x], {"x": x, "train": train}, (x, [train]), train]
        for form in order(160, len(wanted)):
            run.note(session.run(wanted[form]))
            run.clock.tick()
        run.keep_report(session)


def recovery(run, kernel, late=False):
    """A session that was lost is made anew, and so are its kernels."""
    x, y = KERNELS[kernel](11), KERNELS[kernel](22)
    hooks = [Ask(run, x, 3), RaiseOnce(30, late), RaiseOnce(75, not late)]
    with run.api.MonitoredSession(quick_creator(run), hooks) as session:
        alternate(run, session, x, y, 110)


PROGRAMS = {
    "options": with_options,
    "two_sessions": functools.partial(two_sessions, one_graph=False),
    "two_sessions_of_one_graph": functools.partial(two_sessions, one_graph=True),
}
HOOKED_PROGRAMS = {
    "hooks_that_fetch": hooks_that_fetch,
    "summary_that_draws": summary_that_draws,
    "recovery": recovery,
    "recovery_after_the_run": functools.partial(recovery, late=True),
}


# Tests


def assert_as_stock(way, program, key, directory, share=1.0):
    """`same_in_way`, and that at least a share of steps took a plan; returns our record."""
    ours, stock = same_in_way(way, program, ("kernels", key), directory)
    assert len(stock.notes) >= 40
    ours.assert_accelerated(share)
    return ours


def distinct(stock):
    return len({repr(note) for note in stock.notes})


@pytest.mark.parametrize("way", OUR_WAYS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_forms_of_fetches_in_turn(way, kernel, tmp_path):
    program = functools.partial(alternating, kernel=kernel)
    ours = assert_as_stock(way, program, ("forms", kernel), tmp_path)
    assert distinct(ours) > STEPS // 2, "it draws"
    if way in ("ours-pool", "ours-inline"):
        assert set(ours.schedulings()) == {way.removeprefix("ours-")}


@pytest.mark.parametrize("way", ["ours-auto", "accelerated"])
@pytest.mark.parametrize("config", CONFIGS[1:])
@pytest.mark.parametrize("kernel", ["noinline", "map_fn", "while_loop"])
def test_graph_options(way, config, kernel, tmp_path):
    program = functools.partial(alternating, kernel=kernel, config=config, steps=40)
    assert_as_stock(way, program, ("config", config, kernel), tmp_path)


@pytest.mark.parametrize("way", ["ours-auto", "patched", "accelerated"])
@pytest.mark.parametrize("kernel", ["op", "noinline"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_other_runs_in_between(way, kernel, name, tmp_path):
    assert_as_stock(way, functools.partial(PROGRAMS[name], kernel=kernel), (name, kernel), tmp_path,
                    0.75 if name == "options" else 1.0)


@pytest.mark.parametrize("way", HOOKED_WAYS)
@pytest.mark.parametrize("kernel", ["op", "noinline"])
@pytest.mark.parametrize("name", HOOKED_PROGRAMS)
def test_hooks(way, kernel, name, tmp_path):
    assert_as_stock(way, functools.partial(HOOKED_PROGRAMS[name], kernel=kernel), (name, kernel), tmp_path, 0.9)
