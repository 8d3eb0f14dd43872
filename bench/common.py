"""Graphs, hook lists and measuring helpers that every benchmark here shares.

Nothing in this file imports fasthooks unless asked to: each helper takes an `Implementation`, so TensorFlow can be measured
against itself, which must give a ratio of about 1.0.

Words used below:
  lane   one session (or bare native call) that makes steps in its own graph; several lanes are open at once and take turns.
  piece  the steps one lane makes before the next lane has its turn.
  round  pieces of every lane, together one full period of every trigger (1,000 steps); it gives one figure per lane.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import itertools
import logging
import os
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from tensorflow.python.client import pywrap_tf_session as tf_session
from tensorflow.python.training import training_util

v1 = tf.compat.v1

FAR_STEP = 10**9  # a last_step that no benchmark reaches
PERIOD = 100  # steps between triggers of the short-period hooks; the long period (wandb) is a multiple of it
LONG_PERIOD = 1000
QUIET_MARGIN = 15  # steps kept free on both sides of a trigger when only quiet steps are measured


# ----------------------------------------------------------------------------------------------------------------------
# Implementations


@dataclasses.dataclass(frozen=True)
class Implementation:
    """Where the classes under test come from.

    Attributes:
      name: shown in tables.
      train: namespace with `MonitoredSession`, `StopAtStepHook`, ... as `tf.compat.v1.train` has them.
      module: importable name of the package, for the import-time budget.
      has_scheduling: whether its sessions take our keywords, such as `scheduling`.
    """

    name: str
    train: object
    module: str
    has_scheduling: bool

    def checkpoint_hook(self, *args, **kwargs):
        """The hook of this implementation that saves checkpoints with the shortest stall."""
        return getattr(self.train, "AsyncCheckpointSaverHook", self.train.CheckpointSaverHook)(*args, **kwargs)

    def wandb_hook(self, **kwargs):
        if self.has_scheduling:
            return self.train.WandbHook(**kwargs)
        from wandb.integration.tensorflow import WandbHook

        return WandbHook(**kwargs)

    def every(self, hook, **period):
        """The hook, acting now and then if this implementation has that."""
        return self.train.Every(hook, **period) if self.has_scheduling else hook

    def patch(self):
        """A context in which programs that know only TensorFlow run on this implementation."""
        return self.train.patch() if self.has_scheduling else contextlib.nullcontext()

    def adopt(self, enable):
        """Says whether sessions that are not this implementation's run compiled steps if they have hooks of it."""
        if self.has_scheduling:
            self.train.adopt(enable)

    def profiled(self, loop):
        """A loop that does the same while steps are timed, in one profile however often it is called."""
        if not self.has_scheduling:
            return loop
        compiled = importlib.import_module("fasthooks.step._profile")
        collector = compiled.Collector(0, 0, 0.0, 0.0, None)

        def timed(steps):
            compiled.install(collector)
            try:
                loop(steps)
            finally:
                compiled.install(None)

        return timed

    def profile(self):
        """A context in which all steps are profiled."""
        return self.train.profile() if self.has_scheduling else contextlib.nullcontext()

    def accelerate(self, session):
        """A plain session as this implementation has it."""
        return self.train.accelerate(session) if self.has_scheduling else session

    def session(self, hooks, master="", config=None, training=False, **ours):
        """Opens a `MonitoredSession` on the default graph, or by `MonitoredTrainingSession` if `training`.

        `ours`: keywords that only our sessions have, such as `scheduling`; those that are None are left out.
        """
        options = {name: value for name, value in ours.items() if value is not None} if self.has_scheduling else {}
        if training:
            return self.train.MonitoredTrainingSession(master, hooks=hooks, config=config, **options)
        creator = self.train.ChiefSessionCreator(master=master, config=config)
        return self.train.MonitoredSession(session_creator=creator, hooks=hooks, **options)


def implementation(name):
    """Returns the implementation called "tensorflow" or "fasthooks".

    Raises:
      ValueError: `name` is neither.
      ImportError: fasthooks was asked for and is not installed or not built.
    """
    if name == "tensorflow":
        return Implementation(name, v1.train, "tensorflow.compat.v1", has_scheduling=False)
    if name == "fasthooks":
        package = importlib.import_module(name)
        if not hasattr(package, "MonitoredSession"):
            raise ImportError("it has no MonitoredSession: found the sources, not a build")
        return Implementation(name, package, name, has_scheduling=True)
    raise ValueError(f"name must be 'tensorflow' or 'fasthooks', got {name!r}")


def has_wandb():
    return importlib.util.find_spec("wandb") is not None


# ----------------------------------------------------------------------------------------------------------------------
# Graphs


@dataclasses.dataclass
class Model:
    """What the loop and the hooks need of a graph.

    Attributes:
      train_op: fetched by the loop on each step; also increments the global step.
      loss: scalar float32 tensor.
      summary: merged summaries, a scalar string tensor.
      feeds: feed dictionaries (placeholder to array) that the loop takes in turn; empty if nothing is fed.
    """

    train_op: object
    loss: object
    summary: object
    feeds: list = dataclasses.field(default_factory=list)


def _variable(name, shape, stddev=0.1):
    initial = np.random.default_rng(0).normal(0.0, stddev, shape).astype(np.float32)
    return v1.get_variable(name, initializer=initial)


def _dense(inputs, width, name, activation=None):
    weights = _variable(name + "_weights", [inputs.shape[-1], width])
    outputs = tf.matmul(inputs, weights) + _variable(name + "_bias", [width])
    return activation(outputs) if activation else outputs


def _finish(loss, optimizer, feeds=()):
    global_step = v1.train.get_or_create_global_step()
    v1.summary.scalar("loss", loss)
    train_op = optimizer.minimize(loss, global_step=global_step)
    return Model(train_op, loss, v1.summary.merge_all(), list(feeds))


def _class_loss(logits, labels):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def tiny():
    """One variable of 16 floats, squared error, SGD: a step that is nearly all overhead."""
    w = _variable("w", [16])
    return _finish(tf.reduce_sum(tf.square(w - 1.0)), v1.train.GradientDescentOptimizer(1e-3))


_lanes = itertools.count()


def on_parameter_servers(build, cluster):
    """A graph whose variables are on the parameter servers of a cluster, apart from those of other sessions there."""
    setter = v1.train.replica_device_setter(cluster=cluster, worker_device="/job:chief/task:0")
    with v1.device(setter), v1.container(f"lane{next(_lanes)}"):
        return build()


def tiny_fed():
    """`tiny` with its 16 targets fed."""
    target = v1.placeholder(tf.float32, [16], name="target")
    w = _variable("w", [16])
    loss = tf.reduce_sum(tf.square(w - target))
    rng = np.random.default_rng(1)
    feeds = [{target: rng.normal(size=16).astype(np.float32)} for _ in range(4)]
    return _finish(loss, v1.train.GradientDescentOptimizer(1e-3), feeds)


def _image_feeds(images, labels, batch):
    rng = np.random.default_rng(1)
    shape = [batch, *images.shape[1:]]
    return [
        {images: rng.normal(size=shape).astype(np.float32), labels: rng.integers(0, 10, batch).astype(np.int32)}
        for _ in range(4)
    ]


def mlp(hidden, batch):
    """784-hidden-hidden-10 with Adam, images and labels fed."""
    images = v1.placeholder(tf.float32, [None, 784], name="images")
    labels = v1.placeholder(tf.int32, [None], name="labels")
    x = _dense(images, hidden, "layer1", tf.nn.relu)
    x = _dense(x, hidden, "layer2", tf.nn.relu)
    loss = _class_loss(_dense(x, 10, "logits"), labels)
    return _finish(loss, v1.train.AdamOptimizer(1e-3), _image_feeds(images, labels, batch))


def mlp_small():
    return mlp(128, 32)


def mlp_large():
    return mlp(256, 128)


def small_cnn():
    """Two convolutions and a dense layer on 28x28 images, batch 32, fed, Adam."""
    images = v1.placeholder(tf.float32, [None, 28, 28, 1], name="images")
    labels = v1.placeholder(tf.int32, [None], name="labels")
    x = tf.nn.relu(tf.nn.conv2d(images, _variable("kernel1", [3, 3, 1, 8]), 1, "SAME"))
    x = tf.nn.max_pool2d(x, 2, 2, "SAME")
    x = tf.nn.relu(tf.nn.conv2d(x, _variable("kernel2", [3, 3, 8, 16]), 1, "SAME"))
    x = tf.reshape(tf.nn.max_pool2d(x, 2, 2, "SAME"), [-1, 7 * 7 * 16])
    loss = _class_loss(_dense(x, 10, "logits"), labels)
    return _finish(loss, v1.train.AdamOptimizer(1e-3), _image_feeds(images, labels, 32))


def _count_steps(train_op, loss):
    # "count" tells, in a checkpoint, how many of the updates are in it.
    with tf.control_dependencies([train_op]):
        counted = v1.get_variable("count", initializer=0.0).assign_add(1.0)
    return Model(tf.group(train_op, counted), loss, v1.summary.scalar("loss", loss))


def embeddings(megabytes):
    """Four embedding tables, SGD on 64 rows of each a step: short steps beside many variables."""
    rows = int(megabytes * 1e6 / 4 / 16 / 4)
    tables = [v1.get_variable(f"table{i}", initializer=tf.zeros([rows, 16])) for i in range(4)]
    ids = tf.constant(np.random.default_rng(0).integers(0, rows, 64))
    loss = tf.add_n([tf.reduce_sum(tf.square(tf.nn.embedding_lookup(table, ids) - 1.0)) for table in tables])
    step = v1.train.get_or_create_global_step()
    return _count_steps(v1.train.GradientDescentOptimizer(0.1).minimize(loss, global_step=step), loss)


def fine_tuning(megabytes):
    """Frozen weights, of which a step reads a few, and a head of 16 floats that is trained."""
    rows = int(megabytes * 1e6 / 4 / 1024 / 4)
    frozen = [v1.get_variable(f"frozen{i}", initializer=tf.ones([rows, 1024]), trainable=False) for i in range(4)]
    head = _variable("head", [16])
    loss = tf.reduce_sum(tf.square(head - tf.add_n([weights[0, :16] for weights in frozen])))
    step = v1.train.get_or_create_global_step()
    return _count_steps(v1.train.GradientDescentOptimizer(0.1).minimize(loss, global_step=step), loss)


def dense_updates(megabytes):
    """Four dense variables, every element updated in every step: the update alone moves all of the memory."""
    rows = int(megabytes * 1e6 / 4 / 1024 / 4)
    weights = [v1.get_variable(f"weights{i}", initializer=tf.zeros([rows, 1024])) for i in range(4)]
    step = v1.train.get_or_create_global_step()
    updates = [one.assign_add(tf.fill([rows, 1024], 0.5), read_value=False) for one in weights]
    return _count_steps(tf.group(*updates, step.assign_add(1)), weights[0][0, 0])


def two_towers():
    """Recommender: two embeddings, a dense tower each, dot product; batches of 64 from a tf.data one-shot iterator."""
    rng = np.random.default_rng(1)
    users, items = (rng.integers(0, 10_000, 4096).astype(np.int32) for _ in range(2))
    clicks = rng.integers(0, 2, 4096).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((users, items, clicks)).repeat().batch(64, drop_remainder=True)
    user, item, click = v1.data.make_one_shot_iterator(dataset.prefetch(2)).get_next()

    def tower(ids, name):
        embedded = tf.nn.embedding_lookup(_variable(name + "_embedding", [10_000, 16]), ids)
        return _dense(_dense(embedded, 32, name + "_hidden", tf.nn.relu), 16, name + "_out")

    score = tf.reduce_sum(tower(user, "user") * tower(item, "item"), axis=1)
    loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=click, logits=score))
    return _finish(loss, v1.train.AdagradOptimizer(0.05))


def large(ops=8000):
    """About `ops` ops, nearly all of them in the train step: 40 chains of tanh and their gradients."""
    w = _variable("w", [16])
    chains = [w + float(i) for i in range(40)]
    while v1.get_default_graph().version < ops // 2 - 100:
        chains = [tf.tanh(chain) for chain in chains]
    return _finish(tf.reduce_sum(tf.add_n(chains)), v1.train.GradientDescentOptimizer(1e-3))


TWO_CPUS = v1.ConfigProto(device_count={"CPU": 2})


def two_devices():
    """`tiny` with its variables on the second CPU of a session with `TWO_CPUS`, so that a step has two partitions."""
    with tf.device("/cpu:1"):
        w = _variable("w", [16])
        v1.train.get_or_create_global_step()
    with tf.device("/cpu:0"):
        loss = tf.reduce_sum(tf.square(w - 1.0))
    return _finish(loss, v1.train.GradientDescentOptimizer(1e-3))


def many_variables(count):
    """`count` variables of 16 floats, squared error, Adam: many small updates a step."""
    variables = [_variable(f"w{i}", [16]) for i in range(count)]
    return _finish(tf.add_n([tf.reduce_sum(tf.square(w - 1.0)) for w in variables]), v1.train.AdamOptimizer(1e-3))


def exchanged(megabytes, device=""):
    """A step that is fed an array of so many megabytes, which the loop fetches again from `device`; `tiny` beside it."""
    model = tiny()
    array = np.random.default_rng(1).random(int(megabytes * 1e6 / 4), np.float32)
    x = v1.placeholder(tf.float32, array.shape)
    with v1.device(device):
        there = x * 2.0
    return dataclasses.replace(model, train_op=[there, model.train_op], feeds=[{x: array}])


def fetched(megabytes):
    """A step that computes an array of so many megabytes, which the loop fetches."""
    array = v1.get_variable("array", initializer=tf.ones([int(megabytes * 1e6 / 4)])) * 2.0
    return Model(array, loss=None, summary=None)


# ----------------------------------------------------------------------------------------------------------------------
# Hook lists


def hooks_h7(impl, model, directory):
    """The seven stock hooks at usual cadence; all but the stop, the NaN check and the final ops write to `directory`."""
    train = impl.train
    return [
        train.StopAtStepHook(last_step=FAR_STEP),
        train.StepCounterHook(every_n_steps=PERIOD, output_dir=directory),
        train.LoggingTensorHook({"loss": model.loss}, every_n_iter=PERIOD),
        train.NanTensorHook(model.loss),
        train.SummarySaverHook(save_steps=PERIOD, output_dir=directory, summary_op=model.summary),
        train.CheckpointSaverHook(directory, save_secs=600),
        train.FinalOpsHook(model.loss, final_ops_feed_dict=model.feeds[0] if model.feeds else None),
    ]


def hooks_h8(impl, model, directory):
    """`hooks_h7` and wandb's hook, which needs a run: see `wandb_offline`."""
    return [*hooks_h7(impl, model, directory), impl.wandb_hook(summary_op=model.summary, steps_per_log=LONG_PERIOD)]


def no_hooks(impl, model, directory):
    return []


# ----------------------------------------------------------------------------------------------------------------------
# Surroundings: logs, wandb, temporary directories


@contextlib.contextmanager
def logging_to_file(path):
    """Sends TensorFlow's log, INFO and above, to the file `path` and nowhere else."""
    logger = logging.getLogger("tensorflow")
    tf.get_logger()  # makes TensorFlow install its own handler now, not later beside ours
    saved = logger.handlers[:], logger.level, logger.propagate
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(levelname)s:%(name)s:%(message)s"))
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers[:], level, logger.propagate = saved
        logger.setLevel(level)
        handler.close()


@contextlib.contextmanager
def wandb_offline(directory):
    """An offline wandb run that keeps its files under `directory` and prints nothing."""
    import wandb

    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True, x_save_requirements=False,
                              disable_git=True)
    run = wandb.init(mode="offline", dir=directory, project="bench", settings=settings)
    try:
        yield run
    finally:
        run.finish()
        wandb.teardown()


@contextlib.contextmanager
def workspace(wandb=False):
    """A temporary directory with TensorFlow's log in it and, if asked for, a wandb run; removed at the end."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fasthooks-bench-", ignore_cleanup_errors=True))
        stack.enter_context(logging_to_file(os.path.join(directory, "tensorflow.log")))
        if wandb:
            stack.enter_context(wandb_offline(directory))
        stack.callback(v1.summary.FileWriterCache.clear)
        yield directory


# ----------------------------------------------------------------------------------------------------------------------
# Lanes


class _WandbSteps:
    """Keeps wandb's process-wide memory of steps apart per lane.

    `wandb.tensorboard._log` commits a row only when the step is new in the process. With two sessions side by side the one
    that gets to a step second would be spared the commit.
    """

    def __init__(self):
        self._steps = {"": {"step": 0}, "global": {"step": 0, "last_log": None}}

    @contextlib.contextmanager
    def installed(self):
        log = sys.modules.get("wandb.integration.tensorboard.log")
        if log is None:
            yield
            return
        others, log.STEPS = log.STEPS, self._steps
        try:
            yield
        finally:
            log.STEPS = others


class Lane:
    """One session and its loop.

    Args:
      graph: the default graph while the loop runs (stock hooks look things up in it).
      loop: function of a number of steps that makes them.
      session: kept for those who need it.
      model: its `Model`.

    Attributes:
      position: steps made so far in this session; shared with lanes made by `with_loop`.
    """

    def __init__(self, graph, loop, session=None, model=None):
        self.graph, self.loop, self.session, self.model = graph, loop, session, model
        self._position = [0]
        self._wandb_steps = _WandbSteps()

    def with_loop(self, loop):
        """Another lane that drives the same session by another loop."""
        other = Lane(self.graph, loop, self.session, self.model)
        other._position, other._wandb_steps = self._position, self._wandb_steps
        return other

    @property
    def position(self):
        return self._position[0]

    def run(self, steps):
        """Makes `steps` steps and returns how long they took, in ns."""
        with self.graph.as_default(), self._wandb_steps.installed():
            begin = time.perf_counter_ns()
            self.loop(steps)
            end = time.perf_counter_ns()
        self._position[0] += steps
        return end - begin

    def run_quiet(self, steps):
        """Like `run`, all steps in a stretch in which no trigger falls; the way there is not measured."""
        if steps > PERIOD - 2 * QUIET_MARGIN:
            raise ValueError(f"steps must be at most {PERIOD - 2 * QUIET_MARGIN}, got {steps}")
        self.run((QUIET_MARGIN - self.position) % PERIOD)
        return self.run(steps)


def user_loop(session, model, check_stop=True):
    """The loop users write, `while not sess.should_stop(): sess.run(...)`, cut after a number of steps.

    Args:
      session: any session with `run`, and `should_stop` if `check_stop`.
      model: its `train_op` is fetched; with `feeds`, a new dictionary is fed on each step.
      check_stop: False leaves `should_stop` out.
    """
    train_op = model.train_op
    batches = itertools.cycle(model.feeds)

    def stopped():
        raise RuntimeError("the session stopped before the benchmark did")

    def loop(steps):
        for _ in itertools.repeat(None, steps):
            if session.should_stop():
                stopped()
            session.run(train_op)

    def loop_fed(steps):
        for _ in itertools.repeat(None, steps):
            if session.should_stop():
                stopped()
            session.run(train_op, feed_dict={**next(batches)})

    def run_only(steps):
        for _ in itertools.repeat(None, steps):
            session.run(train_op)

    def run_only_fed(steps):
        for _ in itertools.repeat(None, steps):
            session.run(train_op, feed_dict={**next(batches)})

    if check_stop:
        return loop_fed if model.feeds else loop
    return run_only_fed if model.feeds else run_only


@contextlib.contextmanager
def monitored_lane(impl, build, hooks, directory, session_impl=None, **options):
    """A lane that drives a `MonitoredSession`.

    Args:
      impl: the implementation whose hooks are used, and whose session unless `session_impl` is given.
      build: function without arguments that fills the default graph and returns a `Model`.
      hooks: function (impl, model, directory) that returns the hooks list.
      directory: parent of the lane's own directory.
      session_impl: the implementation of the session, where it is not the hooks' one.
      options: of `Implementation.session`.
    """
    own_directory = tempfile.mkdtemp(dir=directory)
    graph = tf.Graph()
    with graph.as_default():
        model = build()
        hook_list = hooks(impl, model, own_directory)
        session = (session_impl or impl).session(hook_list, **options)
    lane = Lane(graph, user_loop(session, model), session, model)
    try:
        yield lane
        devices.note(lane)
    finally:
        with graph.as_default():
            session.close()


@contextlib.contextmanager
def bare_lane(build):
    """A lane of plain `tf.compat.v1.Session.run(train_op)`: no monitored session, no hooks, no stop check."""
    graph = tf.Graph()
    with graph.as_default():
        model = build()
        initialize = v1.global_variables_initializer()
        graph.finalize()
        session = v1.Session()
        session.run(initialize)
    with session:
        lane = Lane(graph, user_loop(session, model, check_stop=False), session, model)
        yield lane
        devices.note(lane)


@contextlib.contextmanager
def prepared_lane(build, inline=True, wandb=True, config=None, direct=False):
    """A lane that makes the native call of `Session.run` directly, with its lists made once.

    It runs the train op and fetches what the hooks of `hooks_h7` read on every step, the stock hooks' global step and the
    loss, and with `wandb` what those of `hooks_h8` read, wandb's global step too.

    Args:
      build: function without arguments that fills the default graph and returns a `Model`.
      inline: kernels run in the calling thread, else on TensorFlow's pool.
      wandb: see above.
      config: of the session.
      direct: the call is made as fasthooks makes it, without its wrapper.
    """
    graph = tf.Graph()
    with graph.as_default():
        model = build()
        tensors = [training_util._get_or_create_global_step_read(), model.loss]
        if wandb:
            tensors.append(graph.as_graph_element(v1.train.get_global_step()))
        initialize = v1.global_variables_initializer()
        graph.finalize()
        session = v1.Session(config=config)
        session.run(initialize)
    options = None
    if inline:
        options = tf_session.TF_NewBufferFromString(v1.RunOptions(inter_op_thread_pool=-1).SerializeToString())
    feeds = [{t._as_tf_output(): array for t, array in feed.items()} for feed in model.feeds] or [{}]
    fetches, targets = [tensor._as_tf_output() for tensor in tensors], [model.train_op._c_op]
    native_session, call = session._session, tf_session.TF_SessionRun_wrapper

    def loop(steps):
        for feed in itertools.islice(itertools.cycle(feeds), steps):
            call(native_session, options, feed, fetches, targets, None)

    if direct:
        call = importlib.import_module("fasthooks.step._native").NativeCall(fetches, targets).run

        def loop(steps):
            for feed in itertools.islice(itertools.cycle(feeds), steps):
                call(native_session, options, feed, None)

    try:
        with session:
            yield Lane(graph, loop, session, model)
    finally:
        if inline:
            tf_session.TF_DeleteBuffer(options)


# ----------------------------------------------------------------------------------------------------------------------
# On which devices the graphs ran


class _Devices:
    """The devices that graphs ran on; lanes that are compared run the same graph, so the first one speaks for the row."""

    def __init__(self):
        self._names = None
        self._told = False

    def forget(self):
        self._names = None

    def note(self, lane):
        """Asks TensorFlow where it placed what a lane's step needs; called when all is measured, for it takes a run."""
        if self._names is not None and not self._told:
            return
        session = getattr(lane.session, "_tf_sess", lambda: lane.session)()
        fetch = lane.model.train_op if lane.model.loss is None else lane.model.loss
        feed = lane.model.feeds[0] if lane.model.feeds else None
        metadata = v1.RunMetadata()
        session.run(fetch, feed, v1.RunOptions(output_partition_graphs=True), metadata)
        nodes = (node for partition in metadata.partition_graphs for node in partition.node)
        self._names, self._told = sorted({node.device for node in nodes}), False

    def of_row(self):
        """The names for a row that is made now: those noted last; None if none were since `forget`."""
        self._told = True
        return self._names


devices = _Devices()


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


def interleave(lanes, rounds, steps, pieces=10):
    """Measures the lanes in turn, triggers and all.

    Args:
      lanes: list of `Lane`.
      rounds: rounds to make.
      steps: steps per lane and round; a multiple of `LONG_PERIOD` gives each round the same triggers.
      pieces: turns per round; which lane goes first moves on by one each turn.

    Returns:
      Array [rounds, lanes] of µs per step.
    """
    piece = max(steps // pieces, 1)
    times = np.zeros([rounds, len(lanes)])
    for turn in range(rounds * pieces):
        for i in order(len(lanes), turn):
            times[turn // pieces, i] += lanes[i].run(piece)
    return times / (piece * pieces * 1000.0)


def interleave_quiet(lanes, rounds, pieces=10, piece=PERIOD - 2 * QUIET_MARGIN):
    """Measures the lanes in turn, only on steps on which no trigger falls.

    Returns:
      Array [rounds, lanes] of µs per step, each the median over the pieces of the round.
    """
    times = np.zeros([rounds * pieces, len(lanes)])
    for turn in range(rounds * pieces):
        for i in order(len(lanes), turn):
            times[turn, i] = lanes[i].run_quiet(piece)
    return np.median(times.reshape(rounds, pieces, len(lanes)), axis=1) / (piece * 1000.0)


def interleave_triggers(lanes, rounds, pieces=10, periods=1):
    """Measures, the lanes in turn, what the steps with triggers cost beyond quiet ones, and the quiet ones.

    Args:
      lanes: The lanes.
      rounds: How many rounds.
      pieces: Turns of each lane in a round.
      periods: Periods in a turn. Before the first of them another lane has filled the processor's caches.

    Returns:
      Two arrays [rounds, lanes]: µs that all triggers of a period add, and µs per quiet step, means of all periods.
    """
    quiet_steps = PERIOD - 2 * QUIET_MARGIN
    added, quiet = np.zeros([2, rounds, len(lanes)])
    for lane in lanes:
        lane.run((QUIET_MARGIN - lane.position) % PERIOD)
    for turn in range(rounds * pieces):
        for i in order(len(lanes), turn):
            for _ in range(periods):
                one = lanes[i].run(quiet_steps) / quiet_steps
                added[turn // pieces, i] += lanes[i].run(2 * QUIET_MARGIN) - 2 * QUIET_MARGIN * one
                quiet[turn // pieces, i] += one
    return added / (pieces * periods * 1000.0), quiet / (pieces * periods * 1000.0)


def order(count, turn):
    """In which order so many lanes have their turns: another one first each time."""
    return [(i + turn) % count for i in range(count)]


def warm_up(lanes, steps):
    for lane in lanes:
        lane.run(steps)


def bring_to(lanes, steps):
    """Makes steps until each lane has made `steps` of them."""
    for lane in lanes:
        lane.run(max(steps - lane.position, 0))


def summarize(values, resamples=2000):
    """Returns min, median and max of one figure per round, and the 95% bootstrap interval of the median."""
    values = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(0, len(values), [resamples, len(values)])
    low, high = np.percentile(np.median(values[picks], axis=1), [2.5, 97.5])
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
        "low95": float(low),
        "high95": float(high),
    }
