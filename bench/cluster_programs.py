"""Training on several machines, as people wrote it for TensorFlow 1: each function is a program that runs as every task.

They know nothing of fasthooks. `Task.train` is where they take sessions and hooks from: `tf.compat.v1.train`, or what
`clusters.py` puts in its place. What a task tells at its end does not depend on which task was faster.

    python bench/cluster_programs.py between_graph '{"cluster": {"ps": [...], "chief": [...]}, "job": "chief", "dir": "..."}'
"""

import dataclasses
import glob
import itertools
import json
import os
import sys
import time

import numpy as np
import tensorflow as tf
from tensorflow.python.training import training_util

v1 = tf.compat.v1


@dataclasses.dataclass
class Task:
    """Which task of which cluster this process is.

    Attributes:
      cluster: addresses by job; empty: there is one process.
      job, index: which task this is.
      dir: where the chief saves, and each task writes its summaries.
      steps: how many steps each trainer makes.
      python_hook: whether a hook in plain Python is listed beside the stock hooks.
      variables: kind of variables, "resource", "reference" or "partitioned".
      train: where sessions and hooks are from.
    """

    cluster: dict = dataclasses.field(default_factory=dict)
    job: str = "chief"
    index: int = 0
    dir: str = ""
    steps: int = 40
    python_hook: bool = True
    variables: str = "resource"
    train: object = v1.train

    @property
    def device(self):
        return f"/job:{self.job}/task:{self.index}" if self.cluster else "/cpu:0"

    @property
    def own_dir(self):
        return os.path.join(self.dir, f"{self.job}{self.index}")

    def trainers(self):
        return len(self.cluster.get("chief", ())) + len(self.cluster.get("worker", ()))

    def serve(self, config=None):
        return tf.distribute.Server(tf.train.ClusterSpec(self.cluster), self.job, self.index, config=config)

    def config(self):
        """Without filters a session waits for all tasks, those that have left included."""
        return v1.ConfigProto(device_filters=["/job:ps", self.device])


class Witness(v1.train.SessionRunHook):
    """A user's hook: fetches something on each step and looks at all it is given."""

    def __init__(self, fetches):
        self._fetches = fetches
        self.calls = []

    def after_create_session(self, session, coord):
        self.calls.append("created")

    def before_run(self, run_context):
        return v1.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context, run_values):
        told = describe(run_values.results)[:2]
        seen = f"{told} {run_values.options!r} {run_values.run_metadata.ByteSize() > 0} {run_context.stop_requested}"
        if self.calls[-1] != seen:
            self.calls.append(seen)

    def end(self, session):
        self.calls.append("end")


def describe(value):
    """Returns type, dtype and numbers of what a run returned."""
    return [type(value).__name__, str(getattr(value, "dtype", None)), np.asarray(value).tolist()]


def counted(tensor, counts, device):
    """The tensor, and a number that tells how often it was computed: so each decision to fetch it can be seen."""
    with tf.device(device):
        count = v1.get_variable(f"times_{len(counts)}", initializer=0, trainable=False, use_resource=True,
                                collections=[v1.GraphKeys.LOCAL_VARIABLES])
        counts.append(count.handle)
        with tf.control_dependencies([count.assign_add(1, read_value=False)]):
            return tf.identity(tensor)


class Hooks:
    """The stock hooks, with a Python hook if the task has one, and what they have seen."""

    def __init__(self, task, loss, last_step=10**9):
        train = task.train
        self.counts = []
        logged = counted(loss, self.counts, task.device)
        summary = v1.summary.scalar("summed", counted(loss, self.counts, task.device), collections=[])
        self.final = train.FinalOpsHook({"loss": loss})
        self.listed = [
            train.StopAtStepHook(last_step=last_step),
            train.NanTensorHook(loss),
            train.StepCounterHook(every_n_steps=7, output_dir=task.own_dir),
            train.LoggingTensorHook({"loss": logged}, every_n_iter=7),
            train.SummarySaverHook(save_steps=7, output_dir=task.own_dir, summary_op=summary),
            train.GlobalStepWaiterHook(0),
            train.ProfilerHook(save_steps=30, output_dir=task.own_dir),
            self.final,
        ]
        self.witness = Witness(loss) if task.python_hook else None
        if self.witness:
            self.listed.append(self.witness)
        # Reads of their own: a session's graph is finalized.
        self._looks = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int32) for handle in self.counts]

    def decisions(self, session):
        """How often each periodic tensor was computed until now."""
        return [int(value) for value in session._tf_sess().run(self._looks)]

    def ends(self):
        """The first and the last of the Python hook's calls, which do not depend on what other tasks did meanwhile."""
        return {"python_hook": self.witness and [self.witness.calls[0], self.witness.calls[-1]]}


def saved(path):
    """Returns what a checkpoint holds, by the names of its variables; a directory stands for its last one."""
    reader = tf.train.load_checkpoint(path)
    return {name: describe(reader.get_tensor(name)) for name in sorted(reader.get_variable_to_shape_map())}


def between_graph(task):
    """Parameter servers, a chief and workers that do not wait for each other."""
    server = task.serve()
    if task.job == "ps":
        server.join()
    with v1.device(v1.train.replica_device_setter(cluster=tf.train.ClusterSpec(task.cluster), worker_device=task.device)):
        step = v1.train.get_or_create_global_step()
        partitioner = v1.fixed_size_partitioner(2) if task.variables == "partitioned" else None
        with v1.variable_scope("", use_resource=task.variables != "reference", partitioner=partitioner):
            weights = v1.get_variable("weights", [4], initializer=v1.zeros_initializer())
        loss = tf.reduce_sum(tf.convert_to_tensor(weights))
        # Each update takes 1 of each weight, whoever makes it.
        train_op = v1.train.GradientDescentOptimizer(1.0, use_locking=True).minimize(loss, global_step=step)
        look = tf.identity(step.read_value() if task.variables != "reference" else step)
    hooks = Hooks(task, loss)
    chief = task.job == "chief"
    results, decisions = [], []
    with task.train.MonitoredTrainingSession(
            server.target, chief, task.dir if chief else None, hooks=hooks.listed, config=task.config(),
            save_checkpoint_steps=25, save_summaries_steps=25, log_step_count_steps=25) as session:
        for _ in range(task.steps):
            results.append(session.run([train_op, loss]))
            decisions.append(hooks.decisions(session)[0])  # by the number of runs; the others go by the global step
        while chief and session.run(look) < task.steps * task.trainers():
            time.sleep(0.02)
    return {**hooks.ends(), "results": sorted({str([describe(value)[:2] for value in one]) for one in results}),
            "falling": all(one[1] >= two[1] for one, two in itertools.pairwise(results)),
            "decisions": decisions, "final": chief and describe(hooks.final.final_ops_values["loss"]),
            "saved": chief and saved(task.dir)}


def sync_replicas(task):
    """Each step takes one gradient of every trainer."""
    server = task.serve()
    if task.job == "ps":
        server.join()
    with v1.device(v1.train.replica_device_setter(cluster=tf.train.ClusterSpec(task.cluster), worker_device=task.device)):
        step = v1.train.get_or_create_global_step()
        weights = v1.get_variable("weights", [4], initializer=v1.zeros_initializer(), use_resource=True)
        loss = tf.reduce_sum(weights.read_value())
        trainers = task.trainers()
        optimizer = v1.train.SyncReplicasOptimizer(v1.train.GradientDescentOptimizer(1.0), trainers, trainers)
        train_op = optimizer.minimize(loss, global_step=step)
    chief = task.job == "chief"
    hooks = Hooks(task, loss, last_step=task.steps)
    listed = [*hooks.listed, optimizer.make_session_run_hook(chief, num_tokens=0)]
    runs = 0
    with task.train.MonitoredTrainingSession(
            server.target, chief, task.dir if chief else None, hooks=listed, config=task.config(), save_checkpoint_steps=25,
            save_summaries_steps=25, log_step_count_steps=25, stop_grace_period_secs=1) as session:
        while not session.should_stop():
            session.run(train_op)
            runs += 1
    return {**hooks.ends(), "runs": runs, "final": chief and describe(hooks.final.final_ops_values["loss"]),
            "saved": chief and saved(task.dir)}


def _train(task, hooks, fetches, target, config, chief=True):
    # Steps of which each gives the same on each machine; returns all that was seen.
    results, decisions = [], []
    with task.train.MonitoredTrainingSession(
            target, chief, task.dir, hooks=hooks.listed, config=config, save_checkpoint_steps=15, save_summaries_steps=6,
            log_step_count_steps=10) as session:
        while not session.should_stop():
            results.append([None if value is None else describe(value) for value in session.run(fetches)])
            decisions.append(hooks.decisions(session))
    return {"results": results, "decisions": decisions, "final": describe(hooks.final.final_ops_values["loss"]),
            "python_hook": hooks.witness and hooks.witness.calls}


def _ordered(loss):
    # What hooks read of the step comes before the step's update.
    return tf.control_dependencies([training_util._get_or_create_global_step_read(), loss])


def in_graph(task):
    """One client, whose graph is on both tasks."""
    server = task.serve()
    if task.index > 0:
        server.join()
    with tf.device("/job:worker/task:0"):
        step = v1.train.create_global_step()
        weights = v1.get_variable("weights", initializer=np.arange(4, dtype=np.float32), use_resource=True)
        value = weights.read_value()
    losses = []
    for index in range(2):
        with tf.device(f"/job:worker/task:{index}"):
            losses.append(tf.reduce_sum((value - index) ** 2))
    loss = tf.add_n(losses) / 2
    gradient, = tf.gradients(loss, value)
    hooks = Hooks(task, loss, last_step=task.steps)
    with _ordered(gradient):
        train_op = v1.train.MomentumOptimizer(0.1, 0.9).apply_gradients([(gradient, weights)], global_step=step)
    return {**_train(task, hooks, [train_op, loss, gradient], server.target, None), "saved": saved(task.dir)}


def _replicated(task, strategy, target="", config=None, chief=True):
    # The loop of a program with a distribution strategy.
    with strategy.scope():
        step = v1.train.get_or_create_global_step()
        weights = v1.get_variable("weights", initializer=np.arange(4, dtype=np.float32), use_resource=True)
        optimizer = v1.train.MomentumOptimizer(0.1, 0.9)
        read = training_util._get_or_create_global_step_read()

        def replica():
            number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
            loss = tf.reduce_sum((weights - number) ** 2)
            (gradient, variable), = optimizer.compute_gradients(loss)
            with tf.control_dependencies([read]):
                gradient = tf.identity(gradient)
            return optimizer.apply_gradients([(gradient, variable)], global_step=step), loss

        train_ops, losses = strategy.run(replica)
        loss = strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)
        train_op = tf.group(strategy.experimental_local_results(train_ops))
    hooks = Hooks(task, loss, last_step=task.steps)
    return _train(task, hooks, [train_op, loss], target, config, chief)


def mirrored(task):
    """MirroredStrategy on two devices of one process."""
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    told = _replicated(task, strategy, config=v1.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=True))
    return {**told, "saved": saved(task.dir)}


def multi_worker(task):
    """MultiWorkerMirroredStrategy: two workers that sum their gradients by collective operations."""
    from tensorflow.python.distribute import distribute_coordinator

    os.environ["TF_CONFIG"] = json.dumps({"cluster": task.cluster, "task": {"type": task.job, "index": task.index}})
    strategy = v1.distribute.experimental.MultiWorkerMirroredStrategy()
    told = distribute_coordinator.run_distribute_coordinator(
        lambda strategy: _replicated(task, strategy, config=v1.ConfigProto(allow_soft_placement=True)), strategy,
        mode=distribute_coordinator.CoordinatorMode.INDEPENDENT_WORKER)
    return {**told, "collective": True, "saved": task.index == 0 and saved(task.dir)}


def estimator(task):
    """`train_and_evaluate` with a parameter server, a chief, a worker and an evaluator."""
    kind = {"type": task.job, "index": task.index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": task.cluster, "task": kind})
    listed = []

    def model_fn(features, labels, mode):
        weights = v1.get_variable("weights", [4], initializer=v1.zeros_initializer(), use_resource=True)
        loss = tf.reduce_sum(weights.read_value() * features[0])
        step = v1.train.get_or_create_global_step()
        hooks, scaffold = [], None
        if mode == tf.estimator.ModeKeys.TRAIN:
            listed.append(Hooks(task, loss))
            hooks = listed[-1].listed
            if task.job == "chief":
                scaffold = v1.train.Scaffold(init_fn=wait_for_worker)
        return tf.estimator.EstimatorSpec(
            mode, loss=loss, training_hooks=hooks, scaffold=scaffold,
            train_op=v1.train.GradientDescentOptimizer(1.0, use_locking=True).minimize(loss, global_step=step))

    def wait_for_worker(scaffold, session):
        # The model is ready by now. A worker that found no step left to make would not even build its hooks.
        while not os.path.isdir(os.path.join(task.dir, "worker0")):
            time.sleep(0.02)

    def input_fn():
        return tf.data.Dataset.from_tensors((tf.ones([1]), tf.zeros([1]))).repeat(3 if task.job == "evaluator" else None)

    config = tf.estimator.RunConfig(
        model_dir=task.dir, save_checkpoints_steps=20, save_summary_steps=10, log_step_count_steps=10,
        experimental_max_worker_delay_secs=0)
    tf.estimator.train_and_evaluate(
        tf.estimator.Estimator(model_fn, config=config),
        tf.estimator.TrainSpec(input_fn, max_steps=task.steps),
        tf.estimator.EvalSpec(input_fn, steps=2, start_delay_secs=0, throttle_secs=0))
    told = listed[0].ends() if listed else {}
    if task.job in ("chief", "evaluator"):
        kept = saved(task.dir)
        step, weights = kept["global_step"][2], kept["weights"][2]
        # It is saved while the worker may be within a step.
        told["saved"] = [sorted(kept), step >= task.steps, len(set(weights)), abs(weights[0] + step) <= 2]
    if task.job == "evaluator":
        losses = {event.step: value.simple_value for path in sorted(glob.glob(os.path.join(task.dir, "eval", "events.*")))
                  for event in v1.train.summary_iterator(path) for value in event.summary.value if value.tag == "loss"}
        # The chief may save once more after what the evaluator took for the last checkpoint.
        last = max(losses)
        kept = [saved(path) for path in tf.train.get_checkpoint_state(task.dir).all_model_checkpoint_paths]
        told["evaluated"] = last >= task.steps and (last, losses[last]) in [
            (one["global_step"][2], sum(one["weights"][2])) for one in kept]
    return told


PROGRAMS = {one.__name__: one for one in (between_graph, sync_replicas, in_graph, mirrored, multi_worker, estimator)}

if __name__ == "__main__":
    v1.disable_eager_execution()
    print(json.dumps(PROGRAMS[sys.argv[1]](Task(**json.loads(sys.argv[2])))))
