"""Training in a cluster of real processes on TensorFlow's own servers, and what else TensorFlow distributes.

Each test of a cluster runs on TensorFlow's sessions and hooks first of all, so that what it expects is known to be what
TensorFlow does; then on ours, and on TensorFlow's after `fasthooks.patch()`.
"""

import contextlib
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import re
import signal
import socket
import sys
import time
import types

import distributed_worker
import psutil
import pytest
import tensorflow as tf
from helpers import build_model, checkpoints, messages, v1
from tensorflow.python.distribute import distribute_coordinator, distribute_coordinator_context
from tensorflow.python.training import training_util

pytestmark = pytest.mark.timeout(240)

# Seconds until something that takes one or two is taken to have failed; machines are shared.
PATIENCE = 60
TARGET = 300
SAVE_STEPS = 20
NOTHING = {"step": 0, "weight": 0.0}

# Processes that are forked from one that has imported TensorFlow, and has run nothing, start in a tenth of the time.
# Elsewhere than on Linux, system libraries do not take that well.
processes = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


class Task:
    """One process of a cluster, and the events it told of."""

    def __init__(self, name, details):
        self.name = name
        self.stderr = pathlib.Path(details["stderr"])
        self.events = []
        self.connection, theirs = processes.Pipe()
        self.process = processes.Process(target=distributed_worker.main, args=(theirs, details), name=name, daemon=True)
        self.process.start()
        theirs.close()

    def listen(self):
        """Takes in one event; the end of the process closes the connection."""
        try:
            self.events.append(self.connection.recv())
        except (EOFError, ConnectionResetError):
            self.connection.close()

    def find(self, event):
        """Returns the last event of a kind, or None."""
        return next((found for found in reversed(self.events) if found["event"] == event), None)

    def logs(self):
        """Returns the texts of the log lines."""
        return [event["message"] for event in self.events if event["event"] == "log"]

    def kill(self):
        """Ends the process as an operator or a scheduler would who does not ask."""
        self.process.kill()
        self.process.join(PATIENCE)
        assert self.process.exitcode == -signal.SIGKILL
        self.connection.close()

    def __str__(self):
        lines = [*map(str, self.events), f"exit code {self.process.exitcode}", self.stderr.read_text(errors="replace")]
        return f"== {self.name}\n" + "\n".join(lines)


class Cluster:
    """Starts one parameter server, one chief and two workers; use as a context manager."""

    def __init__(self, impl, directory):
        self.impl = impl
        self.dir = directory
        self.tasks = []
        # Holds the ports until the end, so that nobody else is given one while a server is away or yet to come.
        self._ports = [socket.socket() for _ in range(4)]
        for port in self._ports:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port.bind(("0.0.0.0", 0))
        addresses = [f"127.0.0.1:{port.getsockname()[1]}" for port in self._ports]
        self._jobs = {"ps": addresses[:1], "chief": addresses[1:2], "worker": addresses[2:]}

    def start(self, job, index=0, target=TARGET, limit=0, wait_until_step=0, sync=False):
        """Starts a process; see `distributed_worker.main` for the arguments."""
        name = f"{job}{index}-{len(self.tasks)}"
        task = Task(name, {
            "cluster": self._jobs, "job": job, "index": index, "impl": self.impl, "dir": str(self.dir / "checkpoints"),
            "stderr": str(self.dir / f"{name}.stderr"), "target": target, "limit": limit, "save_steps": SAVE_STEPS,
            "sync": sync, "wait_until_step": wait_until_step})
        self.tasks.append(task)
        return task

    def start_all(self, **details):
        """Starts one process for each task; waits until all have made a run. Returns chief and workers."""
        self.server = self.start("ps")
        trainers = [self.start("chief", **details), self.start("worker", 0, **details), self.start("worker", 1, **details)]
        for task in trainers:
            self.wait(task, lambda task: task.find("ran"))
        return trainers

    def wait(self, task, until):
        """Waits until something is true of a task; returns it."""
        limit = time.monotonic() + PATIENCE
        while not (found := until(task)):
            left = limit - time.monotonic()
            open_ones = {other.connection: other for other in self.tasks if not other.connection.closed}
            if left <= 0 or task.connection not in open_ones:
                self.fail(f"waited for {task.name} in vain")
            for connection in multiprocessing.connection.wait(open_ones, left):
                open_ones[connection].listen()
        return found

    def train(self, *tasks, to):
        """Lets tasks train to a step, at which they stay in the loop and only look; infinity: to the end."""
        for task in tasks:
            # Who waits for something of a process that has ended gets to know.
            with contextlib.suppress(OSError):
                task.connection.send(to)

    def fail(self, reason):
        """Fails the test, and shows what all tasks were about."""
        for task in self.tasks:
            if task.process.is_alive():
                os.kill(task.process.pid, signal.SIGUSR1)
                time.sleep(0.5)  # it writes its stacks
        pytest.fail("\n".join([reason, *map(str, self.tasks)]))

    def finish(self, *tasks):
        """Lets tasks train to the end, waits for it, and returns the events with what they saw there."""
        self.train(*tasks, to=math.inf)
        ends = [self.wait(task, lambda task: task.find("end")) for task in tasks]
        for task in tasks:
            task.process.join(PATIENCE)
            assert task.process.exitcode == 0, str(task)
        assert not any(end["metadata_bytes"] for end in ends)
        if self.impl != "stock":
            # Tests nothing if the steps do not take the way that is tested.
            for end in ends:
                assert end["runs"]["planned_steps"] >= end["updates"] > 0
                assert not end["runs"]["declined"] or end["created"] > 1
        return ends

    def saved(self):
        """Returns step and weight in the last checkpoint."""
        return distributed_worker.saved(str(self.dir / "checkpoints"))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for task in self.tasks:
            task.connection.close()
        # That alone ends a task, should the process of the test be killed.
        for task in self.tasks:
            task.process.join(PATIENCE)
        stayed = [task.name for task in self.tasks if task.process.is_alive()]
        for task in self.tasks:
            task.process.kill()
            task.process.join(PATIENCE)
        for port in self._ports:
            port.close()
        assert not stayed


def saved_twice(task):
    """Tells whether a chief has saved another checkpoint than that of the beginning."""
    return sum("after saving checkpoint" in line for line in task.logs()) >= 2


def descendants():
    """Returns the processes that this one and its children started."""
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(scope="module", autouse=True)
def first_process():
    """Starts the process that the others are forked from."""
    if processes.get_start_method() == "forkserver":
        processes.set_forkserver_preload(["tensorflow"])
    process = processes.Process(target=time.time)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0


IMPLS = ["stock", "ours", "patched"]
with_adopted = pytest.mark.parametrize("cluster", [*IMPLS, "adopted"], indirect=True)


@pytest.fixture(params=IMPLS)
def cluster(request, tmp_path):
    """A Cluster of each implementation. No process of it is left afterwards."""
    before = descendants()
    with Cluster(request.param, tmp_path) as made:
        yield made
    assert not descendants() - before


def assert_trained(ends, begin=None):
    """Asserts that all have seen the target step, and that each update counts once in the step and in the weight.

    Args:
      ends: What the tasks told at their ends.
      begin: Step and weight before the first of the updates that the tasks counted; None: not all were counted.
    """
    last = max(ends, key=lambda end: end["step"])
    # When the target step is reached, each may be in a run that has read the step before, and make one more.
    assert all(TARGET <= end["step"] < TARGET + 2 * len(ends) for end in ends)
    if begin:
        updates = sum(end["updates"] for end in ends)
        assert begin["step"] + updates == last["step"]
        assert begin["weight"] - updates == last["weight"]
    else:
        assert last["weight"] == -last["step"]


def test_asynchronous_training(cluster):
    """All reach the target step, nobody's update is lost or made twice, and the chief saves the end."""
    tasks = cluster.start_all()
    ends = cluster.finish(*tasks)
    assert_trained(ends, NOTHING)
    assert all(end["created"] == 1 for end in ends)
    assert TARGET <= cluster.saved()["step"] <= ends[0]["step"]


def test_synchronous_training(cluster):
    """With SyncReplicasOptimizer, a step takes one gradient of each; all stop at the same step."""
    target = 40
    tasks = cluster.start_all(sync=True, target=target)
    ends = cluster.finish(*tasks)
    assert [(end["step"], end["weight"], end["created"]) for end in ends] == [(target, -target, 1)] * 3
    assert sum(end["updates"] for end in ends) == 3 * target
    assert cluster.saved() == {"step": target, "weight": -target}


def test_global_step_waiter(cluster):
    """A worker that waits for a step starts training no earlier."""
    wait_until_step = TARGET // 2
    cluster.start("ps")
    early = [cluster.start("chief"), cluster.start("worker")]
    late = cluster.start("worker", 1, limit=math.inf, wait_until_step=wait_until_step)
    waiting = f"Waiting for global step {wait_until_step} before starting training."
    cluster.wait(late, lambda task: waiting in task.logs())
    for task in early:
        cluster.wait(task, lambda task: task.find("ran"))
    assert not late.find("ran")
    ends = cluster.finish(*early, late)
    assert_trained(ends, NOTHING)
    assert late.find("ran")["step"] > wait_until_step
    assert late.logs().count(waiting) == 1


@with_adopted
def test_parameter_server_is_killed(cluster):
    """All recover from the last checkpoint, to the very values in it, and go on to the target step."""
    tasks = chief, *_ = cluster.start_all()
    cluster.train(*tasks, to=TARGET // 2)
    cluster.wait(chief, saved_twice)
    cluster.server.kill()
    cluster.start("ps")
    # The workers do nothing before they are told to go on.
    cluster.wait(chief, lambda task: task.find("ran")["created"] > 1)
    restored = chief.find("created")
    assert restored["saved"]["step"] >= SAVE_STEPS
    assert {name: restored[name] for name in restored["saved"]} == restored["saved"]
    ends = cluster.finish(*tasks)
    # Saving while others train, TensorFlow may catch a step without its weight, or the other way round.
    assert_trained(ends, restored)
    for task, end in zip(tasks, ends):
        assert end["created"] > 1
        assert any(line.startswith("An error was raised") for line in task.logs())
        if cluster.impl == "ours":
            assert end["recoveries"] == end["created"] - 1
            lines = [line for line in task.logs() if line.startswith("fasthooks: the session was recovered")]
            pattern = r".* \(recovery \d+\); its first step returned global step (\d+)\."
            steps = [int(re.fullmatch(pattern, line)[1]) for line in lines]
            assert len(steps) == end["recoveries"]
            assert restored["step"] <= steps[-1] <= end["step"]


@with_adopted
def test_worker_is_killed_and_replaced(cluster):
    """The others do not notice; the new one joins them."""
    chief, other, lost = cluster.start_all()
    cluster.train(chief, other, lost, to=TARGET // 2)
    cluster.wait(chief, saved_twice)
    lost.kill()
    new = cluster.start("worker", 1)
    cluster.wait(new, lambda task: task.find("ran"))
    ends = cluster.finish(chief, other, new)
    # What was lost had made updates that it could not tell of.
    assert_trained(ends)
    assert all(end["created"] == 1 for end in ends)
    if cluster.impl == "ours":
        assert all(end["recoveries"] == 0 for end in ends)


@with_adopted
def test_chief_is_killed_and_restarted(cluster):
    """The new one restores the last checkpoint, which takes back what the workers did since; all go on from there."""
    chief, *workers = tasks = cluster.start_all()
    cluster.train(*tasks, to=TARGET // 2)
    for task in tasks:
        cluster.wait(task, lambda task: task.find("held")["limit"] == TARGET // 2)
    # Nor do they train when the step has gone back.
    cluster.train(*workers, to=0)
    for task in workers:
        cluster.wait(task, lambda task: task.find("held")["limit"] == 0)
    chief.kill()
    new = cluster.start("chief")
    cluster.wait(new, lambda task: task.find("ran"))
    restored = new.find("created")
    assert restored["saved"]["step"] >= TARGET // 2 - SAVE_STEPS
    assert {name: restored[name] for name in restored["saved"]} == restored["saved"]
    ends = cluster.finish(new, *workers)
    assert all(end["created"] == 1 for end in ends)
    # Saving while others train, TensorFlow may catch a step without its weight, or the other way round.
    last = max(ends, key=lambda end: end["step"])
    assert last["step"] - restored["step"] == restored["weight"] - last["weight"]
    assert TARGET <= cluster.saved()["step"] <= ends[0]["step"]


def test_chief_leaves_first(cluster):
    """The workers go on without it, to their own target step; the last checkpoint is the chief's."""
    middle = TARGET // 2
    cluster.start("ps")
    chief = cluster.start("chief", target=middle)
    workers = [cluster.start("worker", index) for index in range(2)]
    for task in (chief, *workers):
        cluster.wait(task, lambda task: task.find("ran"))
    cluster.train(*workers, to=TARGET - SAVE_STEPS)
    (first,) = cluster.finish(chief)
    saved = cluster.saved()
    assert middle <= saved["step"] <= first["step"]
    ends = cluster.finish(*workers)
    assert_trained(ends, {"step": first["updates"], "weight": -first["updates"]})
    assert all(end["created"] == 1 for end in ends)
    assert cluster.saved() == saved


# Within one process


def test_replicas_on_two_devices(same_as_stock):
    """In-graph replication: gradients of two towers, each on a CPU device of its own, are averaged."""
    config = v1.ConfigProto(device_count={"CPU": 2})

    def program(run):
        step = v1.train.create_global_step()
        read = training_util._get_or_create_global_step_read()
        weight = v1.get_variable("w", initializer=[1.0, 2.0, 3.0], use_resource=True)
        optimizer = v1.train.MomentumOptimizer(0.1, 0.9)
        losses, gradients = [], []
        for number in range(2):
            with tf.device(f"/device:CPU:{number}"):
                losses.append(tf.reduce_sum((weight - number) ** 2, name=f"tower_{number}"))
                gradients += tf.gradients(losses[-1], weight)
        loss = tf.add_n(losses) / 2
        v1.summary.scalar("loss", loss)
        with tf.control_dependencies([read, loss]):
            train = optimizer.apply_gradients([(tf.add_n(gradients) / 2, weight)], global_step=step)
        hooks = [run.api.StopAtStepHook(last_step=12), run.api.NanTensorHook(loss),
                 run.api.LoggingTensorHook({"loss": loss}, every_n_iter=5)]
        with run.api.MonitoredTrainingSession(
                checkpoint_dir=run.dir, hooks=hooks, config=config, save_checkpoint_steps=5, save_summaries_steps=4,
                log_step_count_steps=3) as session:
            raw = session._tf_sess()
            run.note([device.name for device in raw.list_devices()])
            while not session.should_stop():
                run.note(session.run([train, loss, losses]))
                run.clock.tick()
            metadata = v1.RunMetadata()
            raw.run(losses, options=v1.RunOptions(output_partition_graphs=True), run_metadata=metadata)
            placed = {node.name: node.device for graph in metadata.partition_graphs for node in graph.node}
            return [placed[loss.op.name] for loss in losses]

    seen = same_as_stock(program)
    assert len(seen.notes) == 13
    assert re.findall(r"CPU:\d", str(seen.result)) == ["CPU:0", "CPU:1"]


@contextlib.contextmanager
def without_line(start):
    """Leaves out log lines that begin like this."""
    logger = logging.getLogger("tensorflow")

    def keep(entry):
        return not entry.getMessage().startswith(start)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def describe_hook(hook):
    """Returns what decides where a hook writes, and when."""
    timer = getattr(hook, "_timer", None)
    return (type(hook).__name__, getattr(hook, "_output_dir", None), getattr(hook, "_checkpoint_dir", None),
            timer and (timer._every_secs, timer._every_steps))


def train_in_context(run, **saves):
    """Trains for some steps in the current worker context; notes what the context made of the arguments."""
    train, loss = build_model()
    v1.summary.scalar("loss", loss)
    context = distribute_coordinator_context.get_current_worker_context()
    if not context.experimental_should_init:
        with v1.Session(context.master_target) as chief:
            chief.run(v1.global_variables_initializer())
    extra = run.api.LoggingTensorHook([loss], every_n_iter=2)
    # The line that lists all hooks has their modules and addresses.
    with without_line("all_hooks"), run.api.MonitoredTrainingSession(
            checkpoint_dir=f"{run.dir}/saved", hooks=[run.api.StopAtStepHook(last_step=5)], chief_only_hooks=[extra],
            max_wait_secs=60, **saves) as session:
        run.note(type(session._coordinated_creator._session_creator).__name__, session._tf_sess().sess_str[:7])
        run.note([describe_hook(hook) for hook in session._hooks])
        while not session.should_stop():
            run.note(session.run([train, loss]))
            run.clock.tick()


SECS = {"save_checkpoint_secs": 2, "save_summaries_secs": 3}
STEPS = {"save_checkpoint_steps": 2, "save_summaries_steps": 2, "log_step_count_steps": 2}


@pytest.mark.parametrize(("strategy", "task_id", "initializes", "saves"), [
    ("CollectiveAllReduceStrategy", 0, True, SECS),
    ("CollectiveAllReduceStrategy", 1, True, SECS),
    ("CollectiveAllReduceStrategy", 1, True, STEPS),
    ("ParameterServerStrategy", 0, True, SECS),
    ("ParameterServerStrategy", 1, False, STEPS),
])
def test_worker_context(same_as_stock, strategy, task_id, initializes, saves):
    """In a worker context of TensorFlow's own: the master, who initializes, which hooks there are and where they write."""

    def program(run):
        server = v1.train.Server.create_local_server()
        address = tf.compat.as_str(server.target).removeprefix("grpc://")
        extended = types.SimpleNamespace(
            experimental_should_init=initializes, should_checkpoint=task_id == 0, should_save_summary=task_id == 0)
        cluster = tf.train.ClusterSpec({"worker": [address, address]})
        context = distribute_coordinator._WorkerContext(
            type(strategy, (), {"extended": extended})(), cluster, "worker", task_id, v1.ConfigProto())
        with context:
            train_in_context(run, **saves)

    seen = same_as_stock(program)
    assert seen.error is None
    collective = strategy.startswith("Collective")
    assert any("may deadlock" in line for line in messages(seen, "WARNING")) == (collective and saves is SECS)
    wrote = {name.rsplit("/", 1)[0] for name in seen.files}
    assert wrote == ({"saved"} if task_id == 0 else {"saved/tmp_worker_1"} if collective else set())


def test_local_coordinator(same_as_stock):
    """A function that TensorFlow's coordinator calls with a strategy for one device."""

    def program(run):
        def worker(strategy):
            train_in_context(run, **STEPS)

        distribute_coordinator.run_distribute_coordinator(
            worker, v1.distribute.OneDeviceStrategy("/cpu:0"), session_config=v1.ConfigProto())
        run.note(distribute_coordinator_context.get_current_worker_context())

    seen = same_as_stock(program)
    assert seen.error is None
    assert "Running local Distribute Coordinator." in messages(seen)
    assert checkpoints(seen) == [0, 2, 4, 5]
