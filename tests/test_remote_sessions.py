"""Sessions on a server, in this process and in another: steps of hooks are TensorFlow's own runs there too, only prepared."""

import collections
import hashlib
import re

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from helpers import build_model, quick_creator, usual_hooks, v1, without_chance
from tensorflow.python.framework import function
from tensorflow.python.ops import collective_ops

import fasthooks

pytest.importorskip("bench", reason="the programs are not beside the tests")

from bench import workers

pytestmark = pytest.mark.timeout(120)
Args = v1.train.SessionRunArgs
TWO = v1.ConfigProto(device_count={"CPU": 2})


@pytest.fixture(scope="module")
def targets():
    """Where the servers are: one in this process, before which no network lies, and one in a process of its own."""
    with workers.listening("server") as ask:
        yield {"own": tf.distribute.Server.create_local_server(config=TWO).target, "other": ask()}


@pytest.fixture(params=["own", "other"])
def master(request, targets):
    """A server's target; nothing is left there."""
    yield targets[request.param]
    v1.Session.reset(targets[request.param])


def session(run, master, hooks, config=None):
    """A monitored session, with one hook from where the program's hooks come from."""
    hooks = [run.api.NanTensorHook(tf.constant(0.0)), *hooks]
    return run.api.MonitoredSession(run.api.ChiefSessionCreator(quick_creator(run)._scaffold, master, config), hooks)


class Python(v1.train.SessionRunHook):
    """A hook in plain Python: what it asks for on each step, and what it does with what it gets."""

    def __init__(self, ask, then):
        self.ask, self.then, self.steps = ask, then, 0

    def before_run(self, run_context):
        self.steps += 1
        return self.ask(self.steps)

    def after_run(self, run_context, run_values):
        self.then(run_values)


def digest(array):
    """What tells one array from another, without its millions of numbers."""
    return (type(array).__name__, str(array.dtype), array.shape, array.flags.writeable, array.flags.owndata,
            hashlib.sha256(array).hexdigest())


def test_a_python_hook_switches_nothing_off(same_as_stock, master):
    """Whatever a Python hook could see of a step is the same, and each step takes its plan."""

    def program(run):
        train, loss = build_model()

        def then(values):
            run.note("hook", values.results, text_format.MessageToString(values.options), values.run_metadata.ByteSize())

        hook = Python(lambda step: Args({"loss": loss}) if step % 3 else None, then)
        with session(run, master, [*usual_hooks(run, loss, 12), hook]) as monitored:
            while not monitored.should_stop():
                run.note(monitored.run([train, loss]))
                run.clock.tick()

    seen = same_as_stock(program)
    assert seen.error is None
    assert [note[0] for note in seen.notes].count(("str", "'hook'")) == 12
    assert seen.planned == seen.steps == 12


def test_large_feeds_and_fetches(same_as_stock, master):
    """16 MB in and out, for caller and hook; what a run returns is the caller's own and does not change later."""

    def program(run):
        x = v1.placeholder_with_default(tf.zeros([4_000_000]), [4_000_000])
        doubled = x * 2
        fed = [np.random.default_rng(seed).random(4_000_000, np.float32) for seed in range(2)]
        kept = []
        hook = Python(lambda step: Args(doubled, {x: fed[1]} if step == 3 else None), lambda values: kept.append(values.results))
        with session(run, master, [hook]) as monitored:
            kept.append(monitored.run(doubled, {x: fed[0]}))
            kept[-1][:10] = -1  # nobody else's memory
            kept.append(monitored.run([doubled, x], {x: fed[1]})[0])
            kept.append(monitored.run(doubled))
        run.note([digest(array) for array in (*kept, *fed)])

    seen = same_as_stock(program)
    assert seen.error is None
    assert seen.planned == 3
    assert len(set(map(repr, seen.notes[0][0][1]))) == 4, "one of the first step, one of the others, and two that were fed"


def in_a_function(body, name):
    """What a function returns that stays one, with kernels of its own, and whose name no counter makes."""
    return function.Defun(noinline=True, func_name=name)(body)()


LONG = "word " * 40_000  # 200 kB: more than what the network carries beside an answer
# The op that an error comes to from within a function: the one that calls it, or in few steps one that sends another result.
NEXT_OP = re.compile(r"(?<={{node check_0}}]])\n\t \[\[.*]]")


@pytest.mark.parametrize("failing", [
    lambda: tf.debugging.Assert(False, [LONG, tf.fill([2000], 7)], summarize=2000, name="check"),
    lambda: tf.debugging.check_numerics(tf.constant(np.nan), LONG, name="check"),
    lambda: in_a_function(lambda: tf.debugging.check_numerics(tf.constant(np.nan), LONG, name="check"), "checks"),
], ids=["assert", "check_numerics", "in_a_function"])
def test_long_errors(same_as_stock, master, failing):
    """An op that fails keeps the whole of its text, its op and where that was made."""

    def program(run):
        train, loss = build_model()
        fetched = failing()
        with session(run, master, [Python(lambda step: Args(loss), lambda values: run.note(values.results))]) as monitored:
            for fetches in (train, fetched, [train, fetched], train):
                try:
                    run.note(monitored.run(fetches))
                except tf.errors.OpError as error:
                    text = NEXT_OP.sub("", without_chance(error.message))
                    run.note(type(error).__name__, text, error.op and error.op.name, error.node_def and error.node_def.name)

    seen = same_as_stock(program)
    assert seen.error is None
    assert sum(LONG[:-1] in repr(note) for note in seen.notes) == 2
    assert seen.planned == seen.steps == 4


def described(metadata):
    """What does not depend on time in run metadata."""
    nodes = {device.device: sorted(node.node_name for node in device.node_stats) for device in metadata.step_stats.dev_stats}
    graphs = [sorted((node.name, node.device, sorted(node.input)) for node in graph.node)
              for graph in metadata.partition_graphs]
    return sorted(nodes.items()), sorted(graphs), len(metadata.cost_graph.node)


TRACE = {"trace_level": v1.RunOptions.FULL_TRACE, "output_partition_graphs": True}


def test_metadata_of_traced_runs(same_as_stock, master):
    """A run that the caller traces, one that a hook traces, and those between, which have nothing to tell."""

    def program(run):
        train, loss = build_model()
        tell = Python(lambda step: Args(loss, None, v1.RunOptions(**TRACE) if step == 3 else None),
                      lambda values: run.note(described(values.run_metadata)))
        with session(run, master, [tell]) as monitored:
            for number in range(6):
                given = [{}, {"options": v1.RunOptions(**TRACE), "run_metadata": v1.RunMetadata()}][number % 4 == 1]
                run.note(monitored.run(train, **given))
                run.note(described(given["run_metadata"]) if given else None)

    seen = same_as_stock(program)
    assert seen.error is None
    assert seen.planned == seen.steps == 6
    traced = ["loss" in repr(note) for note in seen.notes]
    # The hook tells first of each step; then come its result and the caller's metadata.
    assert [number for number, told in enumerate(traced) if told] == [3, 5, 6, 15, 17]


def test_no_graph_for_each_plan(same_as_stock, master):
    """A server has one graph for one set of fetches, however they are asked for: the kernels in functions show that."""

    def program(run):
        def draw(seed):
            return tf.reshape(in_a_function(lambda: tf.random.uniform([2], seed=seed), f"draw_{seed}"), [2])

        x, y = draw(3), draw(4)
        Pair = collections.namedtuple("Pair", "a b")
        forms = [[x, y], (y, x), {"x": x, "y": [y]}, Pair(y, [x]), [x.name, y], [[y], x, x]]
        hook = Python(lambda step: Args([y, x]) if step % 4 == 0 else None, lambda values: run.note(values.results))
        with session(run, master, [hook]) as monitored:
            for number in range(24):
                # Every ninth step asks for less: another set, with numbers of its own.
                run.note(monitored.run(x if number % 9 == 8 else forms[number % 6]))

    seen = same_as_stock(program)
    assert seen.error is None
    assert seen.planned == seen.steps == 24


ORDERS = {"collective_deterministic_sequential_execution": "inputs", "collective_nccl": "waits"}


@pytest.mark.parametrize("where", ["local", "server"])
@pytest.mark.parametrize("field", [None, *ORDERS])
def test_order_of_collectives(same_as_stock, targets, where, field):
    """The config's order of collectives holds in planned runs: each waits for another, on both devices in the same order."""
    master = "" if where == "local" else targets["own"]
    config = v1.ConfigProto(device_count=TWO.device_count)
    if field is not None:
        setattr(config.experimental, field, True)

    def program(run):
        sums = []
        for device in range(2):
            with tf.device(f"/device:CPU:{device}"):
                sums += [collective_ops.all_reduce(tf.constant([1.0 + device]) * (key + 1), 2, 1, 10 + key, "Add", "Id")
                         for key in range(3)]
        found = []

        def keep(values):
            for graph in values.run_metadata.partition_graphs:
                found.extend({
                    "keys": node.attr["instance_key"].i,
                    "inputs": [name for name in node.input if name.startswith("^Collective")],
                    "waits": list(node.attr["wait_for"].list.i) if "wait_for" in node.attr else [],
                } for node in graph.node if node.op.startswith("Collective"))

        trace = Python(lambda step: Args(None, None, v1.RunOptions(output_partition_graphs=True) if step == 2 else None), keep)
        with session(run, master, [trace], config) as monitored:
            for _ in range(3):
                run.note(monitored.run(sums))
        run.note(found)
        run.note([sum(bool(node[kind]) for node in found) for kind in ("inputs", "waits")])

    seen = same_as_stock(program)
    assert seen.error is None
    assert seen.planned == seen.steps == 3
    assert seen.notes[-1] == ((("list", [("int", str(4 * (kind == ORDERS.get(field)))) for kind in ("inputs", "waits")])),)


def test_what_is_run_on_a_server_is_not_run_inline(targets):
    """The server's own pool runs the kernels; the report says so."""
    with tf.Graph().as_default():
        train, _ = build_model()
        with fasthooks.MonitoredSession(v1.train.ChiefSessionCreator(master=targets["own"])) as monitored:
            for _ in range(200):
                monitored.run(train)
            plans = monitored.report()["plans"]
    v1.Session.reset(targets["own"])
    assert [(plan["scheduling"], plan["reason"]) for plan in plans] == [
        ("pool", f"the session runs on {targets['own'].encode()!r}, not in this process")]
