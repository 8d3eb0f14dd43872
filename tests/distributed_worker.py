"""One process of a cluster: a parameter server, or a chief or worker that trains. `test_distributed.py` starts them."""

import faulthandler
import functools
import logging
import math
import os
import pathlib
import signal
import threading
import types
from unittest import mock

import tensorflow as tf
from tensorflow.python.training import session_manager

v1 = tf.compat.v1


class Link:
    """The line to the test: events go out, steps to which to train come in.

    The process ends when the other end is closed.

    Args:
      connection: A `multiprocessing` connection.
      limit: Global step to which to train at first; infinity: to the end.
    """

    def __init__(self, connection, limit):
        self._connection = connection
        self._lock = threading.Lock()
        self.limit = limit
        self.to_the_end = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, event, **details):
        """Sends one event."""
        with self._lock:
            self._connection.send({"event": event, **details})

    def _listen(self):
        try:
            while True:
                self.limit = self._connection.recv()
                if math.isinf(self.limit):
                    self.to_the_end.set()
        finally:
            # Whoever started this process has gone, or wants it to go. Nothing less ends a server.
            os._exit(0)


class LogEvents(logging.Handler):
    """Tells log lines as events."""

    def __init__(self, link):
        super().__init__()
        self._link = link

    def emit(self, entry):
        self._link.tell("log", level=entry.levelname, message=entry.getMessage())


class Watch(v1.train.SessionRunHook):
    """Tells when a session is created, and what the parameter server and the last checkpoint then hold.

    It is in plain Python, and looks at every step. After a recovery workers wait until they are to train to the end, so that
    nobody changes what the chief restored before it is seen.
    """

    def __init__(self, link, model, task):
        self._link = link
        self._model = model
        self._task = task
        self.created = 0
        self.updates = 0  # since the last creation
        self.metadata_bytes = 0

    def after_create_session(self, session, coord):
        self.created += 1
        self.updates = 0
        values = session.run({"step": self._model.step, "weight": self._model.weight})
        found = {"number": self.created, **_numbers(values)}
        if self._task["job"] == "chief":
            found["saved"] = saved(self._task["dir"])
        self._link.tell("created", **found)
        if self.created > 1 and self._task["job"] == "worker":
            self._link.to_the_end.wait()

    def after_run(self, run_context, run_values):
        self.metadata_bytes += run_values.run_metadata.ByteSize()


def _numbers(values):
    return {"step": int(values["step"]), "weight": float(values["weight"])}


def saved(directory):
    """Returns step and weight in the last checkpoint of a directory; None: there is none."""
    path = tf.train.latest_checkpoint(directory)
    if path is None:
        return None
    reader = tf.train.load_checkpoint(path)
    return _numbers({"step": reader.get_tensor("global_step"), "weight": reader.get_tensor("w")})


class Model:
    """A weight that each step of gradient descent lowers by 1, and a global step, both on the parameter server."""

    def __init__(self, task, cluster):
        device = f"/job:{task['job']}/task:{task['index']}"
        with v1.device(v1.train.replica_device_setter(cluster=cluster, worker_device=device)):
            self.step = v1.train.get_or_create_global_step()
            self.weight = v1.get_variable("w", initializer=0.0, use_resource=True)
            self.loss = tf.identity(self.weight, name="loss")
            self.look = self.step.read_value()
            with tf.control_dependencies([self.look]):
                # With all the updates that this step counts.
                self.final = {"step": self.look, "weight": self.weight.read_value()}
            optimizer = v1.train.GradientDescentOptimizer(1.0, use_locking=True)
            self.hooks = []
            if task["sync"]:
                workers = cluster.num_tasks("worker") + cluster.num_tasks("chief")
                optimizer = v1.train.SyncReplicasOptimizer(optimizer, workers, workers)
            with tf.control_dependencies([optimizer.minimize(self.loss, global_step=self.step)]):
                self.train = self.step.read_value()
            if task["sync"]:
                # No tokens to run ahead with: all go in step.
                self.hooks.append(optimizer.make_session_run_hook(task["job"] == "chief", num_tokens=0))


def implementation(name):
    """Returns what has the sessions and hooks of "stock", "ours", "adopted" or "patched"."""
    if name == "stock":
        return v1.train
    import fasthooks

    if name == "ours":
        return fasthooks
    if name == "adopted":
        ours = {hook: getattr(fasthooks, hook) for hook in ("NanTensorHook", "StopAtStepHook", "GlobalStepWaiterHook")}
        return types.SimpleNamespace(**{**vars(v1.train), **ours})
    fasthooks.patch()
    assert fasthooks.patched()
    return v1.train


def train(link, task, cluster, server):
    """Trains to the target step."""
    api = implementation(task["impl"])
    is_chief = task["job"] == "chief"
    model = Model(task, cluster)
    watch = Watch(link, model, task)
    hooks = [*model.hooks, api.NanTensorHook(model.loss), api.StopAtStepHook(last_step=task["target"])]
    final = api.FinalOpsHook(model.final)
    hooks.append(final)
    if task["wait_until_step"]:
        hooks.append(api.GlobalStepWaiterHook(task["wait_until_step"]))
    if not is_chief:
        hooks.insert(0, watch)
    # Without a filter a new session waits for all tasks of the cluster, also for those that have left.
    config = v1.ConfigProto(device_filters=["/job:ps", f"/job:{task['job']}/task:{task['index']}"])
    step = told = 0
    held = None
    with api.MonitoredTrainingSession(
            server.target, is_chief, task["dir"] if is_chief else None, hooks=hooks,
            # The first of all hooks: it sees what was restored before the saver hook saves it again.
            chief_only_hooks=[watch],
            config=config, save_checkpoint_steps=task["save_steps"], max_wait_secs=60,
            # For the threads of SyncReplicasOptimizer, which wait for gradients until the session is closed.
            stop_grace_period_secs=1) as session:
        while not session.should_stop():
            # At the limit it only looks at the step: what the test does meanwhile happens during a run, and before the
            # end, however fast the machine is.
            limit = link.limit
            if step < limit:
                step = int(session.run(model.train))
                watch.updates += 1
            else:
                step = int(session.run(model.look))
                if held != limit:
                    held = limit
                    link.tell("held", limit=limit)
            if told < watch.created:
                told = watch.created
                link.tell("ran", created=told, step=step)
        ours = {"recoveries": session.recoveries} if task["impl"] == "ours" else {}
    if task["impl"] != "stock":
        from fasthooks.step import _plan

        ours["runs"] = _plan.totals()
    link.tell("end", updates=watch.updates, created=watch.created, metadata_bytes=watch.metadata_bytes,
              **_numbers(final.final_ops_values), **ours)


def main(connection, task):
    """Runs one task.

    Args:
      connection: A `multiprocessing` connection to the test.
      task: A dict with
        cluster: Dict of job to list of addresses.
        job, index: Which task of the cluster this is.
        impl: As `implementation`.
        dir: Directory of the checkpoints.
        stderr: File that gets what TensorFlow's runtime writes to standard error.
        target: Global step at which to stop.
        limit: As Link.
        save_steps: Global steps between two checkpoints.
        sync: Whether to use SyncReplicasOptimizer.
        wait_until_step: For a GlobalStepWaiterHook; 0: none.
    """
    with pathlib.Path(task["stderr"]).open("ab") as stderr:
        os.dup2(stderr.fileno(), 2)
    faulthandler.register(signal.SIGUSR1)
    link = Link(connection, task["limit"])
    v1.logging.set_verbosity(v1.logging.INFO)
    logging.getLogger("tensorflow").addHandler(LogEvents(link))
    # The test holds the port, so that nobody else gets it.
    os.environ["TF_GRPC_REUSE_PORT"] = "1"
    cluster = tf.train.ClusterSpec(task["cluster"])
    server = tf.distribute.Server(cluster, task["job"], task["index"])
    link.tell("started")
    if task["job"] == "ps":
        server.join()
    # TensorFlow looks only every 30 seconds whether the chief has got the model ready.
    often = functools.partial(session_manager.SessionManager, recovery_wait_secs=0.2)
    with mock.patch.object(session_manager, "SessionManager", often), tf.Graph().as_default():
        train(link, task, cluster, server)
