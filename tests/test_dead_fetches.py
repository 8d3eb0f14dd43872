"""What `Session.run` notices of a fetch on every run: was it computed, may it be fetched, and whose memory is the result?"""

import types

import numpy as np
import pytest
import tensorflow as tf
from helpers import HOOKED_WAYS, OUR_WAYS, attempt, describe_error, quick_creator, same_in_way, v1
from tensorflow.python.framework import function
from tensorflow.python.ops import control_flow_ops
from tensorflow.python.training import training_util

FEW_WAYS = ("ours-auto", "accelerated")  # where the others add nothing


def assert_as_stock(way, program, key, directory, planned=None):
    """`same_in_way`, and that at least a share of steps took a plan; None: any."""
    ours, _ = same_in_way(way, program, ("dead", key), directory)
    if planned is not None:
        ours.assert_accelerated(planned)


# Tensors that are not computed


def build_dead():
    """Returns a namespace of a choice and of tensors that one of its branches alone computes."""
    choice = v1.placeholder(tf.bool, [], name="choice")
    made = {"taken": choice, "wanted": tf.constant([1.0, 2.0]), "dtypes": []}
    made["no"], made["yes"] = control_flow_ops.switch(made["wanted"], choice)
    made["deep_no"], made["deep_yes"] = made["no"] * 2, made["yes"] * 3
    made["merged"] = control_flow_ops.merge([made["deep_no"], made["deep_yes"]])[0]
    made["text"] = control_flow_ops.switch(tf.constant("text"), choice)[1]
    made["whole"] = control_flow_ops.switch(tf.constant(5, tf.int64), choice)[1]
    made["counter"] = v1.get_variable("counter", initializer=0)
    with tf.control_dependencies([made["yes"]]):
        made["count"] = made["counter"].assign_add(1)
    made["op"] = tf.group(made["yes"], name="op")
    made["sparse"] = tf.SparseTensor([[0, 1]], made["yes"][:1], [2, 2])
    return types.SimpleNamespace(**made)


DEAD = {
    "alone": lambda g: g.yes,
    "list": lambda g: [g.yes],
    "other_branch": lambda g: g.no,
    "behind": lambda g: g.deep_yes,
    "merged": lambda g: g.merged,
    "beside_live": lambda g: [g.wanted, g.yes],
    "before_live": lambda g: {"a": g.yes, "b": g.wanted},
    "both_branches": lambda g: (g.no, g.yes),
    "operation": lambda g: g.op,
    "operation_and_live": lambda g: [g.op, g.merged],
    "text": lambda g: g.text,
    "integer": lambda g: [g.whole, g.counter],
    "update": lambda g: [g.count],
    "update_op": lambda g: [g.count.op, g.wanted],
    "sparse": lambda g: g.sparse,
    "name": lambda g: g.yes.name,
    "twice": lambda g: [g.yes, g.yes],
}


@pytest.mark.parametrize("way", ["ours-auto", "patched", "accelerated"])
@pytest.mark.parametrize("kind", DEAD)
def test_branches_not_taken(way, kind, tmp_path):
    """A run whose fetch was not computed raises TensorFlow's error, after runs in which it was and before them."""

    def program(run):
        g = build_dead()
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for choice in (True, False, True, True, False, False, True):
                attempt(run, session, DEAD[kind](g), {g.taken: np.array(choice)})
                attempt(run, session, g.counter)
            run.keep_report(session)

    assert_as_stock(way, program, ("branch", kind), tmp_path, 0.9)


@pytest.mark.parametrize("way", OUR_WAYS)
@pytest.mark.parametrize("kind", ["beside_live", "operation"])
def test_branches_not_taken_late(way, kind, tmp_path):
    """The same when a plan has run 200 times and settled."""

    def program(run):
        g = build_dead()
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for number in range(230):
                attempt(run, session, DEAD[kind](g), {g.taken: np.array(number % 70 < 60)})
            run.keep_report(session)

    assert_as_stock(way, program, ("late", kind), tmp_path, 0.9)


@pytest.mark.parametrize("way", HOOKED_WAYS)
def test_hook_that_fetches_a_branch(way, tmp_path):
    """The error of a hook's fetch comes from the run, and the next run is as before."""

    class Ask(v1.train.SessionRunHook):
        def __init__(self, run, tensor):
            self.run, self.tensor = run, tensor

        def before_run(self, run_context):
            return v1.train.SessionRunArgs({"mine": self.tensor})

        def after_run(self, run_context, run_values):
            self.run.note("hook", run_values.results)

    def program(run):
        g = build_dead()
        with run.api.MonitoredSession(quick_creator(run), [Ask(run, g.deep_yes)]) as session:
            for choice in (True, False, True, False):
                attempt(run, session, g.merged, {g.taken: np.array(choice)})

    assert_as_stock(way, program, "hook", tmp_path, 0.9)


@pytest.mark.parametrize("way", OUR_WAYS)
@pytest.mark.parametrize("imported", [False, True])
def test_summary_inside_a_branch(way, imported, tmp_path):
    """`merge_all` takes summaries that were made in a branch; also those of an imported meta graph."""

    def program(run):
        control_flow_v2 = v1.control_flow_v2_enabled()
        v1.disable_control_flow_v2()
        try:
            choice = v1.placeholder_with_default(True, [], name="choice")

            def branch():
                v1.summary.scalar("inside", tf.constant(3.0))
                return tf.constant(1.0)

            value = v1.cond(choice, branch, lambda: tf.constant(2.0))
            v1.summary.scalar("outside", value)
        finally:
            if control_flow_v2:
                v1.enable_control_flow_v2()
        if imported:
            exported = v1.train.export_meta_graph()
            with tf.Graph().as_default():
                v1.train.import_meta_graph(exported)
                run_all(run)
        else:
            run_all(run)

    def run_all(run):
        merged = v1.summary.merge_all()
        graph = v1.get_default_graph()
        choice = graph.get_tensor_by_name("choice:0")
        inside = graph.get_collection(v1.GraphKeys.SUMMARIES)[0]
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for value in (True, False, True, False, False):
                attempt(run, session, merged, {choice: np.array(value)})
                attempt(run, session, [inside], {choice: np.array(value)})
            attempt(run, session, merged)
            run.keep_report(session)

    # What is inside the branch of a graph of this process may not be fetched, and TensorFlow says so.
    assert_as_stock(way, program, ("summary", imported), tmp_path, 0.9 if imported else 0.5)


@pytest.mark.parametrize("way", HOOKED_WAYS)
def test_summary_hook_on_a_branch(way, tmp_path):
    """A SummarySaverHook whose summary was made in a branch ends the run on a trigger step as in TensorFlow."""

    def program(run):
        g = build_dead()
        step = v1.train.create_global_step()
        with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
            step = step.assign_add(1)
        summary = v1.summary.scalar("inside", tf.reduce_sum(g.yes))
        hook = run.api.SummarySaverHook(save_steps=3, output_dir=run.dir, summary_op=summary)
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            for choice in (True, False, False, False, True, True, True, True):
                attempt(run, session, step, {g.taken: np.array(choice)})

    assert_as_stock(way, program, "summary_hook", tmp_path, 0.9)


# What may be fetched and fed


@pytest.mark.parametrize("way", FEW_WAYS)
@pytest.mark.parametrize("mark", ["fetch", "feed"])
@pytest.mark.parametrize("before", [0, 3, 200])
def test_marks_that_forbid(way, mark, before, tmp_path):
    """A tensor may be forbidden to be fetched or fed before a plan was made, and after."""

    def program(run):
        x = v1.placeholder_with_default([1.0, 2.0], [2], name="x")
        y, z = tf.multiply(x, 2.0, name="y"), tf.add(x, 1.0, name="z")
        graph = v1.get_default_graph()
        feeds = {x: np.ones(2, np.float32)} if mark == "feed" else None
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for _ in range(before):
                attempt(run, session, [y, z], feeds)
            if mark == "fetch":
                graph.prevent_fetching(y.op)
            else:
                graph.prevent_feeding(x)
            for fetches in ([y, z], y, [y, z], {"a": y}, y.name, y.op, z):
                attempt(run, session, fetches, feeds)
                attempt(run, session, fetches)

    assert_as_stock(way, program, (mark, before), tmp_path)


# Kinds of tensors


def build_kinds():
    with v1.variable_scope("", use_resource=False):
        reference = v1.get_variable("reference", initializer=[1.0, 2.0])
    with v1.variable_scope("", use_resource=True):
        resource = v1.get_variable("resource", initializer=[1.0, 2.0])
    text = tf.constant([b"a", b"\xff\0b", b""])

    @function.Defun(tf.float32)
    def double(value):
        return value * 2

    return types.SimpleNamespace(
        text=text, scalar_text=tf.constant("abc"), no_text=tf.constant([], tf.string), joined=tf.strings.reduce_join(text),
        reference=reference, reference_ref=reference._ref() if hasattr(reference, "_ref") else reference,
        reference_value=reference.value(), update=reference.assign_add([1.0, 1.0]),
        resource=resource, handle=resource.handle, resource_value=resource.value(),
        resource_update=resource.assign_add([1.0, 1.0]), initializer=reference.initializer, double=double(resource.value()),
        session_handle=v1.get_session_handle(tf.constant([1.0, 2.0])), empty=tf.zeros([0, 3]), whole=tf.constant(3),
        flag=tf.constant(True), half=tf.constant([1.0], tf.bfloat16), complex=tf.constant(1 + 2j))


@pytest.mark.parametrize("way", FEW_WAYS)
@pytest.mark.parametrize("kind", [
    "text", "scalar_text", "no_text", "joined", "reference", "reference_ref", "reference_value", "update", "resource", "handle",
    "resource_value", "resource_update", "initializer", "double", "session_handle", "empty", "whole", "flag", "half", "complex"])
def test_kinds_of_tensors(way, kind, tmp_path):
    """Strings, handles, references: types, contents, writability and errors, each in several structures."""

    def program(run):
        fetch = getattr(build_kinds(), kind)
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for fetches in [fetch, [fetch], {"a": fetch}] * 3:
                try:
                    result = session.run(fetches)
                except Exception as error:
                    run.note(describe_error(error)[:2])
                    continue
                run.note(type(result).__name__ if kind in ("handle", "session_handle") else result)

    assert_as_stock(way, program, ("kind", kind), tmp_path)


# Whose memory


def build_memory():
    x = v1.placeholder(tf.float32, [3], name="x")
    with v1.variable_scope("", use_resource=False):
        reference = v1.get_variable("reference", initializer=[1.0, 2.0, 3.0])
    with v1.variable_scope("", use_resource=True):
        resource = v1.get_variable("resource", initializer=[1.0, 2.0, 3.0])
    return types.SimpleNamespace(
        x=x, identity=tf.identity(x), reshaped=tf.reshape(x, [1, 3]), constant=tf.constant([1.0, 2.0, 3.0]),
        constant_identity=tf.identity(tf.constant([4.0, 5.0, 6.0])), reference=reference, resource=resource,
        reference_value=reference.value(), resource_value=resource.value(), doubled=x * 2,
        store=resource.assign(x), store_reference=reference.assign(x),
        update=tf.group(resource.assign_add([1.0] * 3), reference.assign_add([1.0] * 3)))


MEMORY = ["x", "identity", "reshaped", "constant", "constant_identity", "reference", "resource", "reference_value",
          "resource_value", "doubled", "store", "store_reference"]


def fed_array(aligned):
    room = np.zeros(64, np.float32)
    start = (-room.ctypes.data // 4) % 16 + (0 if aligned else 1)
    array = room[start:start + 3]
    array[:] = [7.0, 8.0, 9.0]
    return array


@pytest.mark.parametrize("way", FEW_WAYS)
@pytest.mark.parametrize(("fetched", "aligned", "runs"), [
    *[(fetched, aligned, 3) for fetched in MEMORY for aligned in (False, True)],
    *[(fetched, True, 200) for fetched in ("identity", "resource", "reference", "constant")]])
def test_whose_memory(way, fetched, aligned, runs, tmp_path):
    """Writing into a result changes a fed array, a variable, a later result or another result where it does in TensorFlow."""

    def program(run):
        g = build_memory()
        fetch = getattr(g, fetched)
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for number in range(runs):
                fed = fed_array(aligned)
                first, again = session.run([fetch, {"again": fetch}], {g.x: fed})
                alone = session.run(fetch, {g.x: fed})
                again = again["again"]
                run.note(first, again, alone, first is again, np.shares_memory(first, again), np.shares_memory(first, alone),
                         np.shares_memory(first, fed), first.flags.owndata, first.flags.writeable)
                if first.flags.writeable:
                    first[...] = 100.0 + number
                run.note(fed, again, alone)
                fed[:] = -1.0
                run.note(first, again, alone, session.run([g.reference, g.resource, g.constant]))

    assert_as_stock(way, program, ("memory", fetched, aligned, runs), tmp_path, None if fetched == "x" else 0.9)


@pytest.mark.parametrize("way", OUR_WAYS)
def test_kept_results_stay(way, tmp_path):
    """Results that a caller keeps are as they were 200 steps later."""

    def program(run):
        g = build_memory()
        fetches = [g.reference, g.resource, g.identity, g.resource_value, g.update]
        with run.api.MonitoredSession(quick_creator(run)) as session:
            kept, copies = [], []
            for number in range(200):
                results = session.run(fetches, {g.x: np.full(3, number, np.float32)})[:4]
                kept.append(results)
                copies.append([result.copy() for result in results])
            run.note(kept[0][2], kept[150][2], len(kept))
            for results, expected in zip(kept, copies):
                for result, copy in zip(results, expected):
                    np.testing.assert_array_equal(result, copy)

    assert_as_stock(way, program, "kept", tmp_path, 1.0)
