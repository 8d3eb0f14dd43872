"""AsyncCheckpointSaverHook against TensorFlow's CheckpointSaverHook: files, listeners, errors, threads.

`run.api.AsyncCheckpointSaverHook` is TensorFlow's CheckpointSaverHook where the hooks are TensorFlow's.
"""

import copy
import functools
import multiprocessing
import os
import pickle
import random
import re
import signal
import threading
import time
from unittest import mock

import helpers
import numpy as np
import pytest
import tensorflow as tf
from helpers import MIXES, STOCK, STOCK_MIX, assert_equal_records, build_model, captured_logs, checkpoints, messages, record
from tensorflow.python.client import session as session_lib
from tensorflow.python.framework import op_def_registry

import fasthooks
from fasthooks.hooks import async_checkpoint, feeds, lasting_values
from fasthooks.step import savers

v1 = tf.compat.v1
LIMIT = 60  # seconds after which something that should have happened has not


@pytest.fixture(params=[STOCK, fasthooks], ids=["tf_session", "our_session"])
def sessions(request):
    """TensorFlow's sessions and ours."""
    return request.param


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert [thread for thread in threading.enumerate() if thread.name.startswith("fasthooks")] == []


def is_async(hook):
    return isinstance(hook, fasthooks.AsyncCheckpointSaverHook)


def written(hook):
    """Waits until a write that is under way is complete."""
    write = getattr(hook, "_write", None)
    if write is not None:
        assert write.done.wait(LIMIT)


STOCK_SAVE = v1.train.Saver.save
SAVES = {}  # saver -> what is called in the place of its `save`, which counts as TensorFlow's own


@pytest.fixture(autouse=True)
def saves(monkeypatch):
    def save(saver, *args, **kwargs):
        return SAVES.get(saver, functools.partial(STOCK_SAVE, saver))(*args, **kwargs)

    monkeypatch.setattr(v1.train.Saver, "save", save)
    monkeypatch.setattr(async_checkpoint, "_stock_save", save)
    yield
    SAVES.clear()


class Gate:
    """Holds the writes of a saver back until it is opened."""

    def __init__(self, saver):
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.steps = []

        def save(session, path, global_step, **kwargs):
            self.entered.set()
            assert self.opened.wait(LIMIT)
            self.steps.append(int(global_step))
            return STOCK_SAVE(saver, session, path, global_step=global_step, **kwargs)

        SAVES[saver] = save


def steps_in(directory):
    """Steps of the checkpoints in a directory, in order."""
    return sorted(int(name[:-6].rpartition("-")[2]) for name in os.listdir(directory) if name.endswith(".index"))


def value(directory, step, name="w"):
    return tf.train.load_checkpoint(os.path.join(directory, f"model.ckpt-{step}")).get_tensor(name)


def model():
    """The default graph's train op, and a Saver that keeps everything."""
    op, _ = build_model()
    return op, v1.train.Saver(max_to_keep=None)


def loop(run, hook, op, steps, wait=True):
    """Runs until a stop; with `wait` a file is complete before the next step, as it is with TensorFlow's hook."""
    with run.api.MonitoredSession(hooks=[hook]) as session:
        done = 0
        while not session.should_stop() and done < steps:
            session.run(op)
            done += 1
            if wait:
                written(hook)
            run.clock.tick()
    return done


# What is in a checkpoint


def build_state():
    """Makes variables of every kind; returns an op that changes them all."""
    step = v1.train.create_global_step()
    with v1.variable_scope("ref", use_resource=False):
        reference = v1.get_variable("w", initializer=tf.zeros([300, 3]))
        counter = v1.get_variable("count", initializer=tf.constant(0, tf.int32), trainable=False)
    with v1.variable_scope("resource", use_resource=True):
        resource = v1.get_variable("w", initializer=tf.zeros([300, 3]))
        half = v1.get_variable("half", initializer=tf.zeros([7], tf.bfloat16), trainable=False)
        wide = v1.get_variable("wide", initializer=tf.zeros([2, 0, 3], tf.complex64), trainable=False)
        table = v1.get_variable("embedding", initializer=tf.zeros([50, 4]))
        flag = v1.get_variable("flag", initializer=tf.constant([False, True]), trainable=False)
        text = v1.get_variable("text", initializer=tf.constant(["a", "b\0", ""]), trainable=False)
        word = v1.get_variable("word", initializer=tf.constant("x"), trainable=False)
        parts = v1.get_variable("parts", shape=[10, 3], initializer=v1.zeros_initializer(),
                                partitioner=v1.fixed_size_partitioner(3))
    found = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, default_value=-1)
    loss = (tf.reduce_sum(tf.square(reference - 1)) + tf.reduce_sum(tf.square(resource - 1))
            + tf.reduce_sum(tf.square(tf.convert_to_tensor(parts) - 1))
            + tf.reduce_sum(tf.square(tf.nn.embedding_lookup(table, [1, 3, 3]) - 1)))
    read = tf.identity(step.read_value())
    with tf.control_dependencies([read, loss]):
        train = v1.train.AdamOptimizer(0.1).minimize(loss, global_step=step)
        others = [counter.assign_add(2), half.assign_add(tf.ones([7], tf.bfloat16)), flag.assign(~flag.read_value()),
                  text.assign(tf.strings.join([text.read_value(), "+"])), word.assign(tf.strings.join([word.read_value(), "\0"])),
                  wide.assign(wide.read_value()), found.insert(tf.strings.as_string(read), read)]
    return tf.group(train, *others)


@pytest.mark.parametrize("sharded", [False, True])
def test_everything_in_a_checkpoint_belongs_to_its_step(same_as_stock, sharded):
    def program(run):
        op = build_state()
        saver = v1.train.Saver(max_to_keep=None, sharded=sharded)
        hook = run.api.AsyncCheckpointSaverHook(run.dir, save_steps=3, saver=saver)
        gate = Gate(saver) if is_async(hook) else mock.Mock()
        gate.opened.set()
        with run.api.MonitoredSession(hooks=[hook]) as session:
            for i in range(1, 8):
                if i == 3:
                    written(hook)
                    gate.opened.clear()
                session.run(op)
                if i == 5:
                    # Only now is the file of step 3 written: nothing of steps 4 and 5 may be in it.
                    gate.opened.set()

    seen = same_as_stock(program)
    assert seen.error is None
    assert checkpoints(seen) == [0, 3, 6, 7]
    assert ("model.ckpt-3.data-00000-of-00001" in seen.files, "graph.pbtxt" in seen.files) == (True, True)


def test_a_slow_write_has_nothing_of_later_steps(sessions, tmp_path):
    for use_resource in (True, False):
        directory = str(tmp_path / str(use_resource))
        with tf.Graph().as_default():
            step = v1.train.create_global_step()
            with v1.variable_scope("", use_resource=use_resource):
                weights = v1.get_variable("w", initializer=tf.zeros([1000, 100]))
            op = tf.group(weights.assign_add(tf.ones([1000, 100])), step.assign_add(1))
            saver = v1.train.Saver(max_to_keep=None)
            gate = Gate(saver)
            hook = fasthooks.AsyncCheckpointSaverHook(directory, save_steps=5, saver=saver)
            with sessions.MonitoredSession(hooks=[hook]) as session:
                for _ in range(4):  # beside the write of step 0
                    session.run(op)
                assert gate.steps == []
                gate.opened.set()
                written(hook)
        assert np.all(value(directory, 0) == 0)
        assert np.all(value(directory, 4) == 4)


def draw(handle):
    """An op that updates the state of a random generator in place, whoever holds it."""
    return tf.raw_ops.StatefulRandomBinomial(resource=handle, algorithm=tf.constant(1, tf.int64), shape=[2], counts=[9.0, 9.0],
                                             probs=[0.5, 0.5], dtype=tf.float32)


def draw_through_a_switch(handle):
    v1.disable_control_flow_v2()
    try:
        return v1.cond(tf.random.uniform([]) < 2, lambda: draw(handle), lambda: tf.zeros([2]))
    finally:
        v1.enable_control_flow_v2()


def draw_through_another_handle(handle):
    return draw(tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[3], shared_name=handle.op.get_attr("shared_name").decode()))


DRAWS = {
    "op": draw,
    "switch": draw_through_a_switch,
    "branch": lambda handle: v1.cond(tf.random.uniform([]) < 2, lambda: draw(handle), lambda: tf.zeros([2])),
    "function": lambda handle: tf.function(lambda: draw(handle))(),
    "another handle": draw_through_another_handle,
}


@pytest.mark.parametrize("late", [False, True], ids=["from_the_start", "added_late"])
@pytest.mark.parametrize("how", DRAWS)
def test_a_variable_that_is_updated_in_place(sessions, tmp_path, how, late):
    with tf.Graph().as_default():
        step = v1.train.create_global_step()
        state = v1.get_variable("state", initializer=tf.constant([1, 2, 3], tf.int64), use_resource=True, trainable=False)
        read = state.read_value()
        increment = step.assign_add(1)
        if not late:
            draw_op = DRAWS[how](state.handle)
        saver = v1.train.Saver(max_to_keep=None)
        gate = Gate(saver)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=1, saver=saver)
        states = []
        gate.opened.set()
        with sessions.MonitoredSession(hooks=[hook]) as session:
            written(hook)
            if late:
                graph = state.graph
                graph._unsafe_unfinalize()
                draw_op = DRAWS[how](state.handle)
                graph.finalize()
            raw = session._tf_sess()
            raw.run(draw_op)  # updates the initial value's memory, and not the variable
            for _ in range(4):
                gate.opened.clear()
                session.run(increment)  # begins to save
                states.append(raw.run(read).tolist())
                raw.run(draw_op)
                gate.opened.set()
                written(hook)
    assert len(set(map(tuple, states))) == 4
    assert [value(str(tmp_path), step, "state").tolist() for step in range(1, 5)] == states


def op_arguments(name):
    """Makes an op's inputs: a variable for each handle."""
    is_random = name.startswith(("Rng", "Stateful"))
    rows = any(word in name for word in ("Scatter", "Sparse", "Strided"))
    initial = tf.constant(1 if name == "ResourceCountUpTo" else [1, 2, 3] if is_random else [1.0, 1.0, 1.0],
                          tf.int64 if is_random or name == "ResourceCountUpTo" else tf.float32)
    special = {
        "indices": [[0], [1]] if "Nd" in name else [0, 1], "begin": [0], "end": [2], "strides": [1], "lr_power": -0.5,
        "global_step": tf.constant(1, tf.int64), "algorithm": tf.constant(1, tf.int64), "alg": tf.constant(1), "shape": [5],
        "minval": tf.constant(2), "maxval": tf.constant(9)}
    gradient = tf.fill([2 if rows else 3], 3.0)
    special |= dict.fromkeys(("grad", "gradient_accumulator", "gradient_squared_accumulator", "updates", "value"), gradient)
    if name in ("ResourceApplyGradientDescent", "ResourceApplyProximalGradientDescent"):
        special["delta"] = gradient
    variables, arguments = [], {}
    for argument in op_def_registry.get(name).input_arg:
        if argument.type == tf.resource.as_datatype_enum:
            variable = v1.get_variable(argument.name, initializer=initial, use_resource=True, trainable=False)
            variables.append(variable)
            arguments[argument.name] = variable.handle
        elif argument.name in special:
            arguments[argument.name] = special[argument.name]
        else:
            arguments[argument.name] = tf.constant(1, tf.dtypes.as_dtype(argument.type) if argument.type else tf.float32)
    return variables, arguments


EXTRA = {"ResourceCountUpTo": {"limit": 9, "T": tf.int64}, "StatefulUniformFullInt": {"dtype": tf.int32},
         "ReadVariableOp": {"dtype": tf.float32}, "ResourceGather": {"dtype": tf.float32},
         "ResourceGatherNd": {"dtype": tf.float32}}


@pytest.mark.parametrize("name", sorted(lasting_values.CHECKED_OPS))
def test_checked_ops_leave_a_value_that_was_read_alone(name):
    with tf.Graph().as_default(), v1.Session() as session:
        variables, arguments = op_arguments(name)
        op = getattr(tf.raw_ops, name)(**arguments, **EXTRA.get(name, {}))
        read = session.make_callable([variable.read_value() for variable in variables])
        for _ in range(2):  # the second time after the op has run
            session.run(v1.global_variables_initializer())
            values = read()
            before = copy.deepcopy(values)
            session.run(op)
            np.testing.assert_array_equal(values, before)
    assert variables


def adds_one(array):
    array += 1
    return array


REFILLED = feeds.aligned_copy(np.zeros([2, 2], np.float32))  # TensorFlow takes it as it is


def refilled():
    REFILLED[:] += 1
    return REFILLED


def inplace(x):
    return tf.raw_ops.InplaceAdd(x=x, i=[0], v=tf.ones([1, 2]))


# Ops that are given a variable's value, and may change it where it lies.
WRITERS = {
    "in place": lambda w: inplace(w.read_value()),
    "identity": lambda w: inplace(tf.identity(w)),
    "reshape": lambda w: inplace(tf.reshape(w, [2, 2])),
    "slices": lambda w: inplace(tf.split(w.read_value(), 2)[0]),
    "NumPy": lambda w: tf.numpy_function(adds_one, [w.read_value()], tf.float32),
    "cond": lambda w: tf.cond(tf.reduce_sum(w.read_value()) > -1, lambda: inplace(w.read_value()), lambda: w.read_value()),
    "function": lambda w: tf.function(inplace)(w.read_value()),
    "queue": lambda w: v1.FIFOQueue(9, tf.float32).enqueue(w.read_value()),
    "list": lambda w: tf.raw_ops.TensorListPushBack(
        input_handle=tf.raw_ops.EmptyTensorList(element_shape=[2, 2], max_num_elements=9, element_dtype=tf.float32),
        tensor=w.read_value()),
    "assigned to another": lambda w: v1.get_variable("other", [2, 2], use_resource=True).assign(w),
    # And ops that give a variable memory that others go on writing to.
    "assigned by NumPy": lambda w: w.assign(tf.reshape(tf.numpy_function(refilled, [], tf.float32), [2, 2])),
    "assigned a reference variable": lambda w: w.assign(v1.get_variable("other", [2, 2], use_resource=False)),
    "assigned a feed": lambda w: w.assign(tf.identity(v1.placeholder(tf.float32, [2, 2]))),
    "assigned a default": lambda w: w.assign(v1.placeholder_with_default(tf.zeros([2, 2]), [2, 2])),
    "assigned an element": lambda w: w.assign(tf.ensure_shape(v1.FIFOQueue(9, tf.float32).dequeue(), [2, 2])),
    **{f"assigned by {name}": lambda w, name=name, key=key: w.assign(tf.ensure_shape(
        getattr(tf.raw_ops, name)(dtypes=[tf.float32], **key)[0], [2, 2]))
       for name, key in (("Unstage", {}), ("MapUnstage", {"key": 1, "indices": [0]}),
                         ("OrderedMapUnstage", {"key": 1, "indices": [0]}))},
    "assigned by a function": lambda w: w.assign(tf.function(lambda: tf.zeros([2, 2]))()),
}
READERS = {
    "sum": lambda w: tf.reduce_sum(w.read_value()),
    "product": lambda w: tf.matmul(tf.transpose(w), w),
    "behind a product": lambda w: tf.numpy_function(adds_one, [tf.matmul(w, w)], tf.float32),
    "gradient": lambda w: v1.train.MomentumOptimizer(0.1, 0.9).minimize(tf.reduce_sum(tf.nn.relu(tf.matmul(w, w)[:1]))),
    "assigned": lambda w: w.assign(2 * w + v1.placeholder(tf.float32, [2, 2])),
    "restored": lambda w: w.assign(tf.ensure_shape(tf.raw_ops.RestoreV2(
        prefix="x", tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.float32])[0], [2, 2])),
}


@pytest.mark.parametrize("use", [*WRITERS, *READERS])
def test_values_that_are_given_to_a_writer_are_copied(use):
    with tf.Graph().as_default() as graph:
        variable = v1.get_variable("w", initializer=tf.ones([2, 2]), use_resource=True)
        saved = variable.read_value()
        {**WRITERS, **READERS}[use](variable)
        assert (saved.ref() in lasting_values.with_lasting_values(graph, [saved])) == (use in READERS)


@pytest.mark.parametrize("use", ["in place", "reshape", "NumPy", "assigned by NumPy"])
def test_a_checkpoint_has_its_steps_value_though_that_is_changed_in_place(sessions, tmp_path, use):
    REFILLED[:] = 0
    with tf.Graph().as_default():
        variable = v1.get_variable("w", initializer=tf.zeros([2, 2]), use_resource=True)
        step = v1.train.create_global_step()
        saver = v1.train.Saver(max_to_keep=None)
        with tf.control_dependencies([WRITERS[use](variable)]):
            op = step.assign_add(1).op
        gate = Gate(saver)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=2, saver=saver)
        with sessions.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            gate.opened.set()
            while gate.steps != [0]:
                time.sleep(0.001)
            gate.opened.clear()
            session.run(op)  # its checkpoint is written after the next step
            session.run(op)
            gate.opened.set()
            session.run(op)
    assert [tf.train.load_checkpoint(f"{tmp_path}/model.ckpt-{step}").get_tensor("w").max() for step in (0, 2, 4)] == [0, 2, 4]


def test_usual_training_copies_no_resource_variables(sessions, tmp_path):
    with tf.Graph().as_default():
        step = v1.train.create_global_step()
        with v1.variable_scope("", use_resource=True):
            table = v1.get_variable("table", initializer=tf.zeros([50, 4]))
            weights = v1.get_variable("w", initializer=tf.ones([4, 3]))
        loss = tf.reduce_sum(tf.square(tf.matmul(tf.nn.embedding_lookup(table, [1, 3]), weights) - 1))
        op = v1.train.AdamOptimizer(0.1).minimize(loss, global_step=step)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=1)
        with mock.patch.object(feeds, "aligned_copy", wraps=feeds.aligned_copy) as copied, \
                sessions.MonitoredSession(hooks=[hook]) as session:
            for _ in range(3):
                session.run(op)
        assert copied.call_count == 0


def test_tensorflow_restores_it(sessions, tmp_path):
    with tf.Graph().as_default():
        op, _ = model()
        with sessions.MonitoredSession(hooks=[fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=4)]) as session:
            for _ in range(6):
                session.run(op)
    latest = tf.train.latest_checkpoint(str(tmp_path))
    assert latest.endswith("-6")
    assert tf.train.load_checkpoint(latest).get_tensor("w") == 6
    with tf.Graph().as_default(), v1.Session() as session:
        saver = v1.train.import_meta_graph(latest + ".meta")
        saver.restore(session, latest)
        assert session.run("loss:0") == 6
    with tf.Graph().as_default():
        build_model()
        with STOCK.MonitoredTrainingSession(checkpoint_dir=str(tmp_path)) as session:
            assert session.run("loss:0") == 6


@pytest.mark.parametrize("arguments", [
    {"max_to_keep": 2}, {"max_to_keep": 1}, {"max_to_keep": None}, {"max_to_keep": 0}, {"pad_step_number": True},
    {"max_to_keep": 2, "keep_checkpoint_every_n_hours": 0.001}, {"save_relative_paths": True, "sharded": True},
    {"write_version": v1.train.SaverDef.V1}], ids=str)
def test_what_a_saver_keeps(same_as_stock, arguments):
    def program(run):
        op, _ = build_model()
        loop(run, run.api.AsyncCheckpointSaverHook(run.dir, save_steps=3, saver=v1.train.Saver(**arguments)), op, steps=14)

    seen = same_as_stock(program)
    assert seen.error is None
    assert any("model.ckpt" in name for name in seen.files)


@pytest.mark.parametrize(("arguments", "increment", "steps"), [
    ({"save_steps": 4}, 1, [0, 4, 8, 10]), ({"save_steps": 4}, 3, [0, 6, 12, 18, 24, 30]),
    ({"save_secs": 4}, 1, [0, 5, 9, 10]), ({"save_secs": 600}, 3, [0, 30]),
    ({"save_steps": 5, "save_graph_def": False, "checkpoint_basename": "x"}, 1, [0, 5, 10])], ids=str)
def test_when(same_as_stock, arguments, increment, steps):
    def program(run):
        op, _ = build_model(increment)
        hook = run.api.AsyncCheckpointSaverHook(run.dir, saver=v1.train.Saver(max_to_keep=None), **arguments)
        loop(run, hook, op, steps=10)

    assert checkpoints(same_as_stock(program)) == steps


@pytest.mark.parametrize("arguments", [{"save_steps": 1000}, {"save_secs": 600}], ids=str)
def test_no_run_is_added_to_a_step(arguments, tmp_path):
    def runs(cls, directory):
        with tf.Graph().as_default():
            op, saver = model()
            with STOCK.MonitoredSession(hooks=[cls(str(directory), saver=saver, **arguments)]) as session:
                session.run(op)
                with mock.patch.object(session_lib.BaseSession, "run", autospec=True,
                                       side_effect=session_lib.BaseSession.run) as run:
                    for _ in range(5):
                        session.run(op)
                    return run.call_count

    assert runs(fasthooks.AsyncCheckpointSaverHook, tmp_path / "a") == runs(STOCK.CheckpointSaverHook, tmp_path / "b")


# Listeners


class Listener(v1.train.CheckpointSaverListener):
    def __init__(self, events, directory, stop_at=None, fail_at=None):
        self.events = events
        self.directory = directory
        self.stop_at = stop_at
        self.fail_at = fail_at

    def begin(self):
        self.events.append("begin")

    def note(self, what, session, step):
        latest = tf.train.latest_checkpoint(self.directory)
        self.events.append((what, int(step), session.run("loss:0"), latest and latest.rpartition("-")[2],
                            threading.current_thread() is threading.main_thread()))

    def before_save(self, session, global_step_value):
        self.note("before", session, global_step_value)

    def after_save(self, session, global_step_value):
        self.events.append(("after", int(global_step_value), tf.train.latest_checkpoint(self.directory).rpartition("-")[2],
                            session.run("loss:0") >= global_step_value,
                            threading.current_thread() is threading.main_thread()))
        if global_step_value == self.fail_at:
            raise ValueError("listener")
        return global_step_value == self.stop_at

    def end(self, session, global_step_value):
        self.note("end", session, global_step_value)


@pytest.mark.parametrize("mix_name", [name for name in MIXES if name != STOCK_MIX])
@pytest.mark.parametrize("stop_at", [None, 0, 4])
def test_listeners(tmp_path, mix_name, stop_at):
    def program(run):
        op, saver = model()
        events = []
        hook = run.api.AsyncCheckpointSaverHook(run.dir, save_steps=4, saver=saver,
                                                listeners=[Listener(events, run.dir, stop_at)])
        return loop(run, hook, op, steps=10), events

    results = []

    def kept(run):
        results.append(program(run))

    record(kept, MIXES[STOCK_MIX], tmp_path / "stock")
    seen = record(kept, MIXES[mix_name], tmp_path / "ours")
    assert seen.error is None
    (stock_done, stock_events), (done, events) = results
    late = 1 if stop_at == 4 and mix_name.endswith("our_hooks") else 0
    assert (stock_done, done) == (4 if stop_at == 4 else 10, 4 + late if stop_at == 4 else 10)
    if not late:
        assert events == stock_events
    assert [event[:2] for event in events if event[0] == "after"] == [
        ("after", step) for step in ([0, 4, 5] if late else [0, 4] if stop_at == 4 else [0, 4, 8, 10])]
    assert all(event[4] for event in events if event != "begin")
    assert ("A CheckpointSaverListener requested" in "".join(messages(seen))) == (stop_at is not None)


def test_an_error_in_a_listener_is_the_steps(sessions, tmp_path):
    with tf.Graph().as_default():
        op, saver = model()
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, saver=saver,
                                                  listeners=[Listener([], str(tmp_path), fail_at=3)])
        with pytest.raises(ValueError, match=r"^listener$"), sessions.MonitoredSession(hooks=[hook]) as session:
            for step in range(1, 6):
                session.run(op)
                written(hook)
                assert step < 4


# A write that takes longer than it takes to get to the next


def test_busy_wait(sessions, tmp_path):
    with tf.Graph().as_default():
        op, saver = model()
        gate = Gate(saver)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=2, saver=saver)
        waits = []
        original = async_checkpoint._Write.wait

        def wait(write):
            if not gate.opened.is_set():
                waits.append((int(write.step), step))
                gate.opened.set()
            original(write)

        with mock.patch.object(async_checkpoint._Write, "wait", wait), sessions.MonitoredSession(hooks=[hook]) as session:
            for step in (1, 2, 3, 4, 5):
                session.run(op)
                assert step < 2 or gate.opened.is_set()
    assert waits == [(0, 2)]
    assert steps_in(tmp_path) == [0, 2, 4, 5] == gate.steps
    assert [value(str(tmp_path), step) for step in gate.steps] == gate.steps


@pytest.mark.parametrize("last", [6, 7, 9])
def test_busy_skip(sessions, tmp_path, last):
    with tf.Graph().as_default(), captured_logs() as logs:
        op, saver = model()
        gate = Gate(saver)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, saver=saver, when_busy="skip")
        with sessions.MonitoredSession(hooks=[hook]) as session:
            for step in range(1, last + 1):
                session.run(op)
                if step == 7:
                    gate.opened.set()
                    written(hook)
            gate.opened.set()
    # 3 and 6 come while 0 is being written. Step 8 is the first that finds it written; 9 is no trigger then.
    expected = {6: [0, 6], 7: [0, 7], 9: [0, 8, 9]}[last]
    assert steps_in(tmp_path) == expected
    assert [value(str(tmp_path), step) for step in expected] == expected
    skipped = [line for _, _, line in logs if line.startswith("No checkpoint for")]
    assert [line.split()[3] for line in skipped] == ["3", "6"]


def test_bad_when_busy(tmp_path):
    with pytest.raises(ValueError, match=r"when_busy must be one of .*'wait', 'skip'.*; got 'later'"):
        fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, when_busy="later")


# Failures


def failing_save(error, at):
    def save(session, path, global_step, **kwargs):
        if global_step == at:
            raise error
        return path

    return save


@pytest.mark.parametrize("error", [
    tf.errors.ResourceExhaustedError(None, None, "No space left on device"), OSError(28, "No space left on device"),
    tf.errors.AbortedError(None, None, "aborted"), tf.errors.OutOfRangeError(None, None, "range"), StopIteration("stop")],
    ids=lambda error: type(error).__name__)
def test_a_failed_write_is_the_next_steps_error(sessions, tmp_path, error):
    with tf.Graph().as_default(), captured_logs() as logs:
        op, saver = model()
        SAVES[saver] = failing_save(error, 3)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, saver=saver)
        with pytest.raises(RuntimeError) as raised, sessions.MonitoredSession(hooks=[hook]) as session:
            for step in range(1, 10):
                session.run(op)
                written(hook)
                assert step < 4
    assert f"{tmp_path}/model.ckpt-3" in str(raised.value)
    assert str(error) in str(raised.value)
    assert raised.value.__cause__ is error
    assert sum(level == "ERROR" for _, level, _ in logs) == 1


def test_a_failed_write_is_an_error_of_close(sessions, tmp_path):
    with tf.Graph().as_default():
        op, saver = model()
        SAVES[saver] = failing_save(OSError("full"), 3)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, saver=saver)
        session = sessions.MonitoredSession(hooks=[hook])
        for _ in range(3):
            session.run(op)
        with pytest.raises(RuntimeError, match=f"{tmp_path}/model.ckpt-3 could not be written: full"):
            session.close()


def test_training_goes_on_if_the_caller_likes(sessions, tmp_path):
    with tf.Graph().as_default():
        op, saver = model()
        SAVES[saver] = failing_save(OSError("full"), 3)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, saver=saver)
        with sessions.MonitoredSession(hooks=[hook]) as session:
            for _ in range(3):
                session.run(op)
            written(hook)
            with pytest.raises(RuntimeError, match="could not be written"):
                session.run(op)
            del SAVES[saver]
            for _ in range(3):
                session.run(op)
    assert steps_in(tmp_path) == [6, 7]


def test_the_directory_is_gone(sessions, tmp_path):
    directory = tmp_path / "d"
    with tf.Graph().as_default():
        op, saver = model()
        hook = fasthooks.AsyncCheckpointSaverHook(str(directory), save_steps=3, saver=saver)
        hook._save_path = str(tmp_path / "c" / "model.ckpt")
        (tmp_path / "c").write_text("a file in the place of the directory")
        with pytest.raises(RuntimeError, match=f"{tmp_path}/c/model.ckpt-0 could not be written") as raised:
            with sessions.MonitoredSession(hooks=[hook]) as session:
                written(hook)
                session.run(op)
        assert isinstance(raised.value.__cause__, (ValueError, tf.errors.OpError))


def test_uninitialized_variables_are_tensorflows_error(same_as_stock):
    def program(run):
        build_model()
        creator = run.api.ChiefSessionCreator(run.api.Scaffold(
            init_op=v1.train.get_global_step().initializer, ready_op=(ready := tf.constant([], tf.string)),
            ready_for_local_init_op=ready))
        hook = run.api.AsyncCheckpointSaverHook(run.dir, save_steps=3, saver=v1.train.Saver(), save_graph_def=False)
        with pytest.raises(tf.errors.FailedPreconditionError) as raised:
            run.api.MonitoredSession(creator, [hook])
        return raised.value.op is not None and "variable w" in str(raised.value)

    seen = same_as_stock(program, declines=(None,))
    assert (seen.error, seen.result) == (None, ("bool", "True"))


@pytest.mark.parametrize("when", ["step", "caller", "interrupt"])
def test_an_error_while_a_file_is_written(sessions, tmp_path, when):
    events = []
    with tf.Graph().as_default():
        op, saver = model()
        bad = tf.debugging.assert_equal(v1.train.get_global_step().read_value(), tf.constant(-1, tf.int64))
        gate = Gate(saver)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, saver=saver,
                                                  listeners=[Listener(events, str(tmp_path))])
        kind = {"step": tf.errors.InvalidArgumentError, "caller": KeyError, "interrupt": KeyboardInterrupt}[when]
        with pytest.raises(kind):
            with sessions.MonitoredSession(hooks=[hook], stop_grace_period_secs=0) as session:
                session.run(op)
                assert gate.entered.wait(LIMIT)
                threading.Timer(0.2, gate.opened.set).start()  # while the session is being closed
                if when == "step":
                    session.run(bad)
                raise kind
    assert steps_in(tmp_path) == [0] == gate.steps
    assert [event[:2] for event in events if event[0] == "after"] == [("after", 0)]
    assert "_write" not in vars(hook) and "after_run" not in vars(hook) and hook._known is None


class Aborting(v1.train.SessionRunHook):
    """Raises AbortedError once, after a run."""

    def __init__(self, at):
        self.left = at

    def after_run(self, run_context, run_values):
        self.left -= 1
        if self.left == 0:
            raise tf.errors.AbortedError(None, None, "preempted")


@pytest.mark.parametrize("fails", [False, True])
def test_recovery_while_a_file_is_written(sessions, tmp_path, fails):
    events = []
    with tf.Graph().as_default():
        op, saver = model()
        if fails:
            SAVES[saver] = failing_save(OSError("full"), 3)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, saver=saver,
                                                  listeners=[] if fails else [Listener(events, str(tmp_path))])
        creator = sessions.ChiefSessionCreator(checkpoint_dir=str(tmp_path))
        session = sessions.MonitoredSession(creator, [hook, Aborting(at=3)])
        if fails:
            with pytest.raises(RuntimeError, match=r"model\.ckpt-3 could not be written"), session:
                for _ in range(5):
                    session.run(op)
            return
        with session:
            for _ in range(5):
                session.run(op)
    # The third run was repeated after the recovery to step 3.
    assert steps_in(tmp_path) == [0, 3, 6]
    assert [value(str(tmp_path), step) for step in (0, 3, 6)] == [0, 3, 6]
    assert [event[1] for event in events if event[0] == "after"] == [0, 3, 3, 6]


@pytest.mark.parametrize("how", [copy.copy, lambda hook: pickle.loads(pickle.dumps(hook))], ids=["copy", "pickle"])
def test_a_copy_has_no_part_in_the_write(tmp_path, how):
    hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, save_on_error=True, when_busy="skip")
    hook._write = threading.Lock()
    hook._known = hook._closing = threading.Lock()
    async_checkpoint._Delivery(hook)
    copied = how(hook)
    assert vars(copied).keys().isdisjoint({"_write", "_known", "_closing", "after_run"})
    assert (copied._when_busy, copied._save_on_error, copied._timer._every_steps) == ("skip", True, 3)


@pytest.mark.parametrize("order", ["mock first", "mock last"])
def test_a_mocked_after_run_outlives_a_delivery(sessions, tmp_path, order):
    with tf.Graph().as_default():
        op, saver = model()
        gate = Gate(saver)
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=100, saver=saver)
        with sessions.MonitoredSession(hooks=[hook]) as session:
            if order == "mock last":
                gate.opened.set()
                written(hook)
            with mock.patch.object(hook, "after_run", wraps=hook.after_run) as after_run:
                gate.opened.set()
                written(hook)
                for calls in range(1, 4):
                    session.run(op)
                    assert after_run.call_count == calls
                assert hook._write is None
            session.run(op)
            assert "after_run" not in vars(hook)


# What is saved by the step that triggers


def custom_saver():
    class OwnSaver(v1.train.Saver):
        def save(self, *args, **kwargs):
            return super().save(*args, **kwargs)

    return OwnSaver()


def saver_with_a_save_set():
    saver = v1.train.Saver()
    saver.save = mock.Mock(side_effect=saver.save)
    return saver


def iterator_state():
    iterator = v1.data.make_one_shot_iterator(tf.data.Dataset.range(100))
    v1.add_to_collection(v1.GraphKeys.SAVEABLE_OBJECTS, tf.data.experimental.make_saveable_from_iterator(iterator))
    return v1.train.Saver()


def saver_with_a_side_effect():
    with tf.control_dependencies([tf.print("saving", output_stream="file:///dev/null")]):
        return v1.train.Saver()


REFUSED = {
    "its own save": (custom_saver, "the saver, a OwnSaver, saves in its own way"),
    "a save of the object": (saver_with_a_save_set, "the saver, a Saver, saves in its own way"),
    "variant": (iterator_state, "is a variant"),
    "side effect": (saver_with_a_side_effect, "is not one of TensorFlow's save ops"),
    "empty": (lambda: v1.train.Saver(var_list=[], allow_empty=True), "has nothing to save"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_first(what, tmp_path, monkeypatch):
    make_saver, reason = REFUSED[what]
    if what == "variant":
        # NumPy has no such type.
        monkeypatch.setattr(helpers, "_describe_file", lambda path: path.suffix)

    def program(run):
        op, _ = build_model()
        hook = run.api.AsyncCheckpointSaverHook(run.dir, save_steps=3, saver=make_saver())
        loop(run, hook, op, steps=7)
        assert getattr(hook, "_write", None) is None

    stock = record(program, MIXES[STOCK_MIX], tmp_path / "stock")
    for name in ("tf_session-our_hooks", "our_session-our_hooks"):
        ours = record(program, MIXES[name], tmp_path / name)
        said = [line for line in ours.logs if "saved by the steps that trigger, not in the background" in line[2]]
        assert len(said) == 1
        assert said[0][1] == "WARNING" and reason in said[0][2]
        ours.logs.remove(said[0])
        assert_equal_records(ours, stock)


def test_a_save_that_is_set_later(sessions, tmp_path):
    with tf.Graph().as_default(), captured_logs() as logs:
        op, saver = model()
        threads = []

        def save(*args, **kwargs):
            threads.append(threading.current_thread())
            return STOCK_SAVE(saver, *args, **kwargs)

        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=2, saver=saver)
        with sessions.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            saver.save = save
            for _ in range(3):
                session.run(op)
            del saver.save
            session.run(op)
    assert threads == 2 * [threading.main_thread()] and steps_in(tmp_path) == [0, 2, 4, 5]
    assert sum("saves in its own way" in line for _, _, line in logs) == 1


def test_sessions_on_a_server(sessions, tmp_path):
    server = v1.train.Server.create_local_server()
    with tf.Graph().as_default(), captured_logs() as logs:
        op, saver = model()
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, saver=saver)
        with sessions.MonitoredSession(sessions.ChiefSessionCreator(master=server.target), [hook]) as session:
            for step in range(1, 5):
                session.run(op)
                assert steps_in(tmp_path) == ([0] if step < 3 else [0, 3])
    assert sum("runs on the server" in line for _, _, line in logs) == 1
    assert steps_in(tmp_path) == [0, 3, 4]


# The way a snapshot is made


# Killed at any moment


def train_until_killed(directory, ready):
    # Two large variables that hold the step in every element; a checkpoint every other step.
    with tf.Graph().as_default():
        step = v1.train.create_global_step()
        weights = [v1.get_variable(f"w{i}", initializer=tf.zeros([200_000]), use_resource=bool(i)) for i in range(2)]
        op = tf.group(step.assign_add(1), *[one.assign_add(tf.ones([200_000])) for one in weights])
        scaffold = fasthooks.Scaffold(saver=v1.train.Saver(max_to_keep=3))
        hook = fasthooks.AsyncCheckpointSaverHook(directory, save_steps=2, scaffold=scaffold)
        creator = fasthooks.ChiefSessionCreator(scaffold, checkpoint_dir=directory)
        with fasthooks.MonitoredSession(creator, [hook]) as session:
            for _ in range(5):
                session.run(op)
            # Two checkpoints are complete, the third is under way.
            ready.set()
            while True:
                session.run(op)


def assert_whole(directory):
    """Asserts that every checkpoint that the state file names holds one step; returns the latest step."""
    state = tf.train.get_checkpoint_state(directory)
    for path in state.all_model_checkpoint_paths:
        reader = tf.train.load_checkpoint(path)
        step = reader.get_tensor("global_step")
        assert path.endswith(f"-{step}")
        for name in ("w0", "w1"):
            assert np.all(reader.get_tensor(name) == step), (path, name)
    assert state.model_checkpoint_path == path
    return step


def test_killed_at_random_moments(tmp_path):
    # The server has TensorFlow imported; its children begin at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fasthooks.session"])
    directory = str(tmp_path)
    moments = random.Random(7)
    before = 0
    for _ in range(20):
        ready = context.Event()
        process = context.Process(target=train_until_killed, args=(directory, ready))
        process.start()
        try:
            assert ready.wait(LIMIT)
            process.join(moments.uniform(0, 0.2))
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.join(LIMIT)
        assert process.exitcode == -signal.SIGKILL
        latest = assert_whole(directory)
        assert latest >= before + 2
        before = latest


# The default saver, and tf.estimator


def test_monitored_training_session(tmp_path):
    for asynchronous in (False, True):
        directory = str(tmp_path / str(asynchronous))
        with tf.Graph().as_default():
            op, _ = build_model()
            with fasthooks.MonitoredTrainingSession(
                    checkpoint_dir=directory, save_checkpoint_steps=4, async_checkpoint=asynchronous) as session:
                (hook,) = [hook for hook in session._hooks if isinstance(hook, STOCK.CheckpointSaverHook)]
                for _ in range(5):
                    session.run(op)
        assert is_async(hook) == asynchronous
        assert type(hook).__name__ == ("AsyncCheckpointSaverHook" if asynchronous else "CheckpointSaverHook")
        assert steps_in(directory) == [0, 4, 5]
    with pytest.raises(TypeError):
        fasthooks.MonitoredTrainingSession("", True, None, None, None, None, 600, 100, None, None, 120, 100, 7200, 4, None,
                                           True, "auto", True)


def test_estimator(tmp_path):
    estimator = pytest.importorskip("tensorflow_estimator").estimator

    def model_fn(features, labels, mode):
        loss = tf.add(weight := v1.get_variable("w", initializer=0.0), 0.0, name="loss")
        with tf.control_dependencies([loss]):
            op = tf.group(weight.assign_add(1.0), v1.train.get_global_step().assign_add(1))
        return estimator.EstimatorSpec(mode, loss=loss, train_op=op)

    def input_fn():
        return tf.data.Dataset.from_tensors(({"x": [1.0]}, [1.0])).repeat()

    seen = {}
    for cls in (STOCK.CheckpointSaverHook, fasthooks.AsyncCheckpointSaverHook):
        directory = str(tmp_path / cls.__name__)
        events = []
        trained = estimator.Estimator(model_fn, directory)
        trained.train(input_fn, max_steps=7, hooks=[cls(directory, save_steps=3)],
                      saving_listeners=[Listener(events, directory)])
        seen[cls] = steps_in(directory), [event[:2] for event in events]
    assert seen[STOCK.CheckpointSaverHook] == seen[fasthooks.AsyncCheckpointSaverHook]
    assert seen[STOCK.CheckpointSaverHook][0] == [0, 3, 6, 7]


# save_on_error


@pytest.fixture(params=["CheckpointSaverHook", "AsyncCheckpointSaverHook"])
def saving(request):
    """Makes a hook of either class that saves on errors."""
    def make(directory, **arguments):
        return getattr(fasthooks, request.param)(str(directory), save_on_error=True,
                                                 **{"save_steps": 4, "saver": v1.train.Saver(max_to_keep=None), **arguments})

    return make


class FailingAt(v1.train.SessionRunHook):
    """Raises an error after a run."""

    def __init__(self, runs, error):
        self.left = runs
        self.error = error

    def after_run(self, run_context, run_values):
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("x"), tf.errors.InternalError(None, None, "x"), KeyboardInterrupt(),
                                   SystemExit(3)], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("singular", [False, True])
def test_save_on_error(sessions, saving, tmp_path, error, singular):
    with tf.Graph().as_default():
        op, _ = build_model()
        hook = saving(tmp_path)
        cls = sessions.SingularMonitoredSession if singular else sessions.MonitoredSession
        with pytest.raises(type(error)) as raised, cls(hooks=[hook, FailingAt(6, error)]) as session:
            while True:
                session.run(op)
    assert raised.value is error
    assert error.__cause__ is None and error.__context__ is None
    assert steps_in(tmp_path) == [0, 4, 6]
    assert value(str(tmp_path), 6) == 6
    assert tf.train.latest_checkpoint(str(tmp_path)).endswith("-6")


def test_save_on_error_of_the_caller(sessions, saving, tmp_path):
    with tf.Graph().as_default():
        op, _ = build_model()
        with pytest.raises(KeyError), sessions.MonitoredSession(hooks=[saving(tmp_path)]) as session:
            session.run(op)
            raise KeyError
    assert steps_in(tmp_path) == [0, 1]


def test_no_save_on_error_by_default(sessions, tmp_path):
    for cls in (fasthooks.CheckpointSaverHook, fasthooks.AsyncCheckpointSaverHook):
        directory = tmp_path / cls.__name__
        with tf.Graph().as_default():
            op, _ = build_model()
            with pytest.raises(KeyError), sessions.MonitoredSession(hooks=[cls(str(directory), save_steps=4)]) as session:
                session.run(op)
                raise KeyError
        assert steps_in(directory) == [0]


def test_an_error_of_a_saved_step_saves_nothing(sessions, saving, tmp_path):
    with tf.Graph().as_default():
        op, _ = build_model()
        hook = saving(tmp_path)
        with mock.patch.object(hook, "_save", wraps=hook._save) as save:
            with pytest.raises(KeyError), sessions.MonitoredSession(hooks=[hook, FailingAt(4, KeyError())]) as session:
                while True:
                    session.run(op)
    assert [int(call.args[1]) for call in save.call_args_list] == [0, 4]
    assert steps_in(tmp_path) == [0, 4]


@pytest.mark.parametrize("error", [tf.errors.AbortedError, tf.errors.UnavailableError])
def test_recoveries_do_not_save(sessions, saving, tmp_path, error):
    with tf.Graph().as_default():
        op, _ = build_model()
        failing = FailingAt(6, error(None, None, "x"))
        creator = sessions.ChiefSessionCreator(checkpoint_dir=str(tmp_path))
        with sessions.MonitoredSession(creator, [saving(tmp_path), failing]) as session:
            for _ in range(6):
                session.run(op)
    # Recovered to 4; the sixth run was made again, as the fifth step.
    assert steps_in(tmp_path) == [0, 4, 5]


@pytest.mark.parametrize("error", [tf.errors.OutOfRangeError(None, None, "x"), StopIteration()],
                         ids=lambda error: type(error).__name__)
def test_a_normal_end_saves_once(sessions, saving, tmp_path, error):
    with tf.Graph().as_default():
        op, _ = build_model()
        hook = saving(tmp_path)
        with mock.patch.object(type(hook), "_session_closes", autospec=True,
                               side_effect=type(hook)._session_closes) as closes:
            with sessions.MonitoredSession(hooks=[hook, FailingAt(6, error)]) as session:
                while True:
                    session.run(op)
    assert closes.call_count == 1
    assert steps_in(tmp_path) == [0, 4, 6]


def test_an_error_at_the_end_of_another_hook(sessions, saving, tmp_path):
    class Bad(v1.train.SessionRunHook):
        def end(self, session):
            raise KeyError("end")

    with tf.Graph().as_default():
        op, _ = build_model()
        with pytest.raises(KeyError, match="end"), sessions.MonitoredSession(hooks=[Bad(), saving(tmp_path)]) as session:
            session.run(op)
    assert steps_in(tmp_path) == [0, 1]


def test_a_failed_save_does_not_replace_the_error(sessions, saving, tmp_path):
    with tf.Graph().as_default(), captured_logs() as logs:
        op, _ = build_model()
        saver = v1.train.Saver()
        hook = saving(tmp_path, saver=saver)
        error = KeyError("mine")
        with pytest.raises(KeyError) as raised, sessions.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            written(hook)
            session.run(op)
            SAVES[saver] = failing_save(OSError("full"), 2)
            raise error
    assert raised.value is error
    assert any("could not be saved into" in line and "full" in line for _, level, line in logs if level == "ERROR")


def test_a_failed_write_is_made_up_for_on_the_error(sessions, tmp_path):
    with tf.Graph().as_default():
        op, saver = model()
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3, saver=saver, save_on_error=True)
        with pytest.raises(RuntimeError, match="ckpt-3 could not be written"), sessions.MonitoredSession(hooks=[hook]) as session:
            written(hook)
            SAVES[saver] = failing_save(OSError("full"), 3)
            for _ in range(3):
                session.run(op)
            written(hook)
            del SAVES[saver]
            session.run(op)
    assert steps_in(tmp_path) == [0, 4]


# Two savers for one directory


@pytest.mark.parametrize("other", [STOCK.CheckpointSaverHook, fasthooks.CheckpointSaverHook], ids=["tf", "ours"])
def test_two_savers_for_one_directory(tmp_path, other, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    with tf.Graph().as_default(), captured_logs() as logs:
        build_model()
        third = fasthooks.CheckpointSaverHook(str(tmp_path / "else"), save_steps=3)
        # Of one name, the files that both write at once would be in each other's way.
        hooks = [third, fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3),
                 other(tmp_path.name + "/", save_secs=5, checkpoint_basename="other")]
        with fasthooks.MonitoredSession(hooks=[*hooks, third]):
            pass
    warnings = [line for _, level, line in logs if level == "WARNING"]
    assert len(warnings) == 1
    names = f"AsyncCheckpointSaverHook (hooks[1]) and {other.__name__} (hooks[2])"
    assert f"{names} all save checkpoints into {tmp_path};" in warnings[0]


def test_the_default_saver_and_ones_own(tmp_path):
    with tf.Graph().as_default(), captured_logs() as logs:
        build_model()
        hook = fasthooks.CheckpointSaverHook(str(tmp_path), save_steps=3)
        with fasthooks.MonitoredTrainingSession(checkpoint_dir=str(tmp_path), hooks=[hook]):
            pass
    assert sum("save_checkpoint_secs=None" in line for _, level, line in logs if level == "WARNING") == 1


def test_two_savers_in_a_patched_session(tmp_path):
    with tf.Graph().as_default(), captured_logs() as logs, fasthooks.patch():
        op, _ = build_model()
        hook = v1.train.CheckpointSaverHook(str(tmp_path), save_steps=3)
        with v1.train.MonitoredTrainingSession(checkpoint_dir=str(tmp_path), hooks=[hook]) as session:
            session.run(op)
            session.run(op)
    (line,) = [line for _, level, line in logs if level == "WARNING" and str(tmp_path) in line]
    assert re.match(r"CheckpointSaverHook \(hooks\[\d\]\) and CheckpointSaverHook \(hooks\[\d\]\) all save", line)


UNFINISHED = v1.train.CheckpointSaverHook.__new__(v1.train.CheckpointSaverHook)


@pytest.mark.parametrize("hooks", [(), iter(()), [None], [UNFINISHED, UNFINISHED]])
def test_odd_hooks_are_no_savers(hooks):
    with captured_logs() as logs:
        savers.warn_of_two(hooks)
    assert not logs


@pytest.mark.parametrize("increment", [1, 3])
def test_save_steps_makes_no_second_full_run(tmp_path, increment):
    for name in ("CheckpointSaverHook", "AsyncCheckpointSaverHook"):
        with tf.Graph().as_default():
            op, _ = build_model(increment)
            saver = v1.train.Saver(max_to_keep=None)
            hook = getattr(fasthooks, name)(str(tmp_path / name), save_steps=10, saver=saver)
            with fasthooks.MonitoredSession(hooks=[hook]) as session:
                with mock.patch.object(session_lib.BaseSession, "run", autospec=True,
                                       side_effect=session_lib.BaseSession.run) as run:
                    session.run(op)
                # A patched session takes TensorFlow's way, which makes two. The thread that writes has a session of its own.
                full_runs = sum(call.args[0] is session.raw_session() for call in run.call_args_list)
                for _ in range(40 // increment):
                    session.run(op)
                report = session.report()
        assert full_runs == 2
        # Steps take a plan, and so does the read of the global step alone that comes after each.
        assert (report["steps"], report["planned_steps"]) == (40 // increment + 1, 40 // increment)
        assert [plan["fetches"] for plan in report["plans"] if not plan["targets"]] == [[hook._global_step_tensor.name]]
        assert steps_in(tmp_path / name) == ([0, 10, 20, 30, 40, 41] if increment == 1 else [0, 12, 24, 36, 42])


def test_the_last_step_is_saved_though_the_write_before_it_failed(sessions, tmp_path):
    tries = []

    def save(self, session, path, global_step=None, **more):
        tries.append(int(global_step))
        if global_step == 3:
            raise OSError("for once")
        return STOCK_SAVE(self, session, path, global_step=global_step, **more)

    with tf.Graph().as_default():
        op, _ = build_model()
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=3)
        with mock.patch.object(async_checkpoint, "_Delivery"), mock.patch.object(async_checkpoint, "_stock_save", save), \
                mock.patch.object(v1.train.Saver, "save", save):
            with pytest.raises(RuntimeError, match=r"model\.ckpt-3 could not be written: for once"):
                with sessions.MonitoredSession(hooks=[hook]) as session:
                    for _ in range(5):
                        session.run(op)
    assert tries[-2:] == [3, 5]
    assert tf.train.latest_checkpoint(str(tmp_path)).endswith("model.ckpt-5")


def test_a_value_of_another_shape_than_declared_is_saved(sessions, tmp_path):
    with tf.Graph().as_default():
        step = v1.train.create_global_step()
        variable = v1.get_variable("w", initializer=[1.0, 2.0], use_resource=False)
        op = tf.group(step.assign_add(1), v1.assign(variable, [1.0, 2.0, 3.0], validate_shape=False))
        hook = fasthooks.AsyncCheckpointSaverHook(str(tmp_path), save_steps=1)
        with sessions.MonitoredSession(hooks=[hook]) as session:
            for _ in range(3):
                session.run(op)
    assert tf.train.load_checkpoint(str(tmp_path)).get_tensor("w").tolist() == [1, 2, 3]
