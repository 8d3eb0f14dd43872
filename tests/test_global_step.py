"""The hooks' read of the global step on the device that holds the step, for those who ask for it."""

import contextlib

import pytest
import tensorflow as tf
from tensorflow.python.training import training_util

import fasthooks

v1 = tf.compat.v1
TWO = v1.ConfigProto(device_count={"CPU": 2})
CREATOR = v1.train.ChiefSessionCreator


def program(make_session, device="/device:CPU:1", before=lambda: None):
    """Trains ten steps under a stop hook; returns where the read of hooks is, what a run gives, and all names of the graph."""
    with tf.Graph().as_default() as graph:
        with v1.device(device):
            step = v1.train.get_or_create_global_step()
        before()
        with v1.device("/device:CPU:0"):
            op = step.assign_add(1)
        with make_session([fasthooks.StopAtStepHook(last_step=10)]) as session:
            steps = []
            while not session.should_stop():
                steps.append(int(session.run(op)))
        read = training_util._get_global_step_read(graph)
        return read.device, steps, [op.name for op in graph.get_operations()]


def ours(hooks, **options):
    return fasthooks.MonitoredSession(CREATOR(config=TWO), hooks, **options)


WAYS = {
    "MonitoredSession": ours,
    "SingularMonitoredSession": lambda hooks, **options: fasthooks.SingularMonitoredSession(hooks, config=TWO, **options),
    "MonitoredTrainingSession": lambda hooks, **options: fasthooks.MonitoredTrainingSession(
        hooks=hooks, config=TWO, log_step_count_steps=None, **options),
}


@contextlib.contextmanager
def patched(hooks, **options):
    with fasthooks.patch(**options), v1.train.MonitoredSession(CREATOR(config=TWO), hooks) as session:
        yield session


@pytest.mark.parametrize("way", [*WAYS.values(), patched], ids=[*WAYS, "patched"])
def test_the_read_is_where_the_step_is_if_asked_for(way):
    plain, steps, names = program(way)
    assert plain == ""
    placed, same_steps, same_names = program(lambda hooks: way(hooks, colocate_global_step_read=True))
    assert placed == "/device:CPU:1"
    assert (same_steps, same_names) == (steps, names)
    assert steps == list(range(1, 11))


def test_a_read_that_is_there_stays():
    def session(hooks):
        return ours(hooks, colocate_global_step_read=True)

    device, *_ = program(session, before=training_util._get_or_create_global_step_read)
    assert device == ""


def test_the_programs_own_device_scope_does_not_count():
    def session(hooks):
        with v1.device("/device:CPU:0"):
            return ours(hooks, colocate_global_step_read=True)

    assert program(session)[0] == "/device:CPU:1"
    assert program(session, device="")[0] == ""


def test_without_a_global_step_or_in_a_finalized_graph_nothing_is_done():
    for prepare in (lambda graph: None, lambda graph: (v1.train.create_global_step(), graph.finalize())):
        with tf.Graph().as_default() as graph:
            prepare(graph)
            fasthooks.global_step.colocate_read()
            assert training_util._get_global_step_read(graph) is None


def test_in_a_cluster_the_read_is_the_parameter_servers():
    cluster = tf.train.ClusterSpec({"ps": ["localhost:1"], "worker": ["localhost:2"]})
    with tf.Graph().as_default() as graph:
        with v1.device(v1.train.replica_device_setter(cluster=cluster, worker_device="/job:worker/task:0")):
            v1.train.get_or_create_global_step()
        fasthooks.global_step.colocate_read()
        assert training_util._get_global_step_read(graph).device == "/job:ps/task:0"


def test_patch_tells_of_it_and_undoes_it():
    name = "tensorflow.python.training.monitored_session._MonitoredSession.__init__"
    with fasthooks.patch(colocate_global_step_read=True):
        assert fasthooks.patched()[name].reason == "fasthooks.patch(colocate_global_step_read=True)"
        with fasthooks.patch():
            assert name in fasthooks.patched()
    assert name not in fasthooks.patched()
    fasthooks.patch(colocate_global_step_read=True)
    fasthooks.unpatch()
    assert name not in fasthooks.patched()
    assert program(lambda hooks: v1.train.MonitoredSession(CREATOR(config=TWO), hooks))[0] == ""
