"""Runs one program on TensorFlow's implementation and on ours, and tells what could be seen of it.

A program is a function of one argument, a `Run`. It builds a graph (a fresh one is the default graph), makes sessions
and hooks through `run.api`, writes under `run.dir`, and tells with `run.note` what it sees. `record` runs it with a
clock of its own and captured logs and gives back all there is to compare.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
import re
import threading
from unittest import mock

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.core.util import event_pb2
from tensorflow.python.lib.io import tf_record
from tensorflow.python.platform import tf_logging
from tensorflow.python.summary.writer import writer_cache
from tensorflow.python.training import training_util
from tensorflow.python.util import deprecation

import fasthooks
from fasthooks.patching import OurHook
from fasthooks.step import _plan

v1 = tf.compat.v1
STOCK = v1.train
SESSIONS = ("MonitoredSession", "MonitoredTrainingSession", "SingularMonitoredSession")
LOGGERS = ("absl", "fasthooks", "tensorflow")


class Api:
    """The names of `tf.compat.v1.train`: sessions from one implementation, all else from another.

    Args:
      sessions: Module with the sessions.
      hooks: Module with all else.
      patched: Whether programs run with `fasthooks.patch()` in force.
    """

    def __init__(self, sessions, hooks, patched=False):
        self.sessions = sessions
        self.hooks = hooks
        self.patched = patched
        self.taken = set()

    def serves(self):
        """Whether the sessions that were taken since `taken` was emptied are to run compiled steps."""
        ours = self.sessions is not STOCK or self.patched or any(
            issubclass(one, OurHook) for one in self.taken if isinstance(one, type))
        return ours and any(getattr(self.sessions, name, None) in self.taken for name in SESSIONS)

    def in_force(self):
        """Returns a context manager within which this implementation is to be used."""
        return fasthooks.patch() if self.patched else contextlib.nullcontext()

    def __getattr__(self, name):
        if name == "WandbHook" and self.hooks is STOCK:
            from wandb.integration.tensorflow import WandbHook

            return WandbHook
        if name == "AsyncCheckpointSaverHook" and self.hooks is STOCK:
            name = "CheckpointSaverHook"
        value = getattr(self.sessions if name in SESSIONS else self.hooks, name)
        self.taken.add(value)
        return value


STOCK_MIX = "tf_session-tf_hooks"
# Readable test id -> api.
MIXES = {
    STOCK_MIX: Api(STOCK, STOCK),
    "tf_session-our_hooks": Api(STOCK, fasthooks),
    "our_session-tf_hooks": Api(fasthooks, STOCK),
    "our_session-our_hooks": Api(fasthooks, fasthooks),
    "patched_session-tf_hooks": Api(STOCK, STOCK, patched=True),
}


SCHEDULINGS = ("auto", "pool", "inline")


class _OurSessions:
    # Our monitored sessions with one scheduling.

    def __init__(self, scheduling):
        for name in SESSIONS:
            setattr(self, name, functools.partial(getattr(fasthooks, name), scheduling=scheduling))


class _PlainSessions:
    # Makes plain sessions where programs ask for a monitored one without hooks.

    def __init__(self, prepare):
        self.prepare = prepare

    def MonitoredSession(self, session_creator, hooks=()):
        assert not hooks, "plain sessions have no hooks"
        return self.prepare(session_creator.create_session())


# Ways to run a program's steps, by readable test id; those that start with "tf" are TensorFlow's own.
PLAIN_STOCK = "tf-plain"
WAYS = {
    "tf": Api(STOCK, STOCK),
    PLAIN_STOCK: Api(_PlainSessions(lambda session: session), STOCK),
    **{f"ours-{scheduling}": Api(_OurSessions(scheduling), fasthooks) for scheduling in SCHEDULINGS},
    "patched": Api(STOCK, STOCK, patched=True),
    "accelerated": Api(_PlainSessions(fasthooks.accelerate), STOCK),
}
OUR_WAYS = tuple(way for way in WAYS if not way.startswith("tf"))
HOOKED_WAYS = tuple(way for way in OUR_WAYS if way != "accelerated")


class Clock:
    """Stands in for `time.time`: stands still until told otherwise, counts readings by the thread that made it."""

    def __init__(self, now=1000.0):
        self.now = now
        self.reads = 0
        self.thread = threading.get_ident()

    def __call__(self):
        self.reads += threading.get_ident() == self.thread
        return self.now

    def tick(self, secs=1.0):
        """Moves on by this many seconds."""
        self.now += secs


@dataclasses.dataclass
class Run:
    """What a program gets: the implementation under test, a directory, a clock, and a notebook."""

    api: Api
    dir: str
    clock: Clock
    notes: list
    reports: list = dataclasses.field(default_factory=list)

    def keep_report(self, session):
        """Keeps a session's report, if it gives one; reports are not compared."""
        if hasattr(session, "report"):
            self.reports.append(session.report())

    def note(self, *values):
        """Puts values, with their types, into what is compared."""
        self.notes.append(tuple(describe(value) for value in values))


@dataclasses.dataclass
class Record:
    """All that was seen of one program: what is compared, then how its steps went."""

    notes: list
    result: object
    error: object
    logs: list
    files: dict
    reports: list = dataclasses.field(default_factory=list, compare=False)
    steps: int = dataclasses.field(default=0, compare=False)
    planned: int = dataclasses.field(default=0, compare=False)
    declined: dict = dataclasses.field(default_factory=dict, compare=False)
    served: bool = dataclasses.field(default=False, compare=False)  # `Api.serves`

    def assert_accelerated(self, share=1.0):
        """Asserts that there were steps and that this share of those that ran took a plan."""
        told = self.planned, self.declined, self.reports
        assert self.steps, told
        assert self.planned >= share * (self.planned + sum(self.declined.values())), told

    def unexpected(self, declines):
        """Returns why steps took TensorFlow's own way, but for the reasons that begin with one of `declines`."""
        return {reason: number for reason, number in self.declined.items() if not reason.startswith(tuple(declines))}

    def schedulings(self):
        """Returns how each plan of the reports is scheduled."""
        return [plan["scheduling"] for report in self.reports for plan in report["plans"]]


COMPARED = [field.name for field in dataclasses.fields(Record) if field.compare]


# What is compared


def describe(value):
    """Returns a value that is equal for equal contents, dtypes and Python types, NaN included."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        return kind, str(value.dtype), value.shape, repr(value.tolist()), value.flags.writeable
    if isinstance(value, dict):
        return kind, [(describe(key), describe(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return kind, [describe(item) for item in value]
    if isinstance(value, (tf.Tensor, tf.Operation, tf.Variable)):
        return kind, value.name
    if isinstance(value, BaseException):
        return describe_error(value)
    if value is None or isinstance(value, (str, bytes, bool, int, float, np.generic)):
        return kind, repr(value)
    return (kind,)


def without_chance(text):
    """An error's text without what differs from run to run of TensorFlow itself.

    That is what its process had logged before, of other steps too, and how often it names where an op was made: once for
    each thread that met the error in a function.
    """
    text = re.sub(r"\nRecent warning and error logs:(\n  .*)*", "", text)
    return re.sub(r"(Detected at node (?:.*\n)*?Node: .*\n)\1+", r"\1", text)


def describe_error(error):
    """Returns type, message and, for errors of ops, the op of an exception."""
    op = getattr(error, "op", None)
    cause = error.__cause__
    text = without_chance(str(error))
    return (type(error).__name__, text, op and op.name, getattr(error, "error_code", None), cause and repr(cause))


def nodes(graph_def):
    """Returns names and types of a graph's nodes."""
    return [(node.name, node.op) for node in graph_def.node]


def _nodes_of_text(text):
    # Does not parse it: that takes 50 ms and more, and most sessions of tests write a graph.
    found = re.findall(r'^node \{\n  name: "(.*)"\n  op: "(.*)"$', text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^node \{$", text, re.MULTILINE)), text
    return found


def read_events(path):
    """Returns the events of one file, without their wall times."""
    return [event_pb2.Event.FromString(data) for data in tf_record.tf_record_iterator(str(path))]


def _describe_event(event):
    kind = event.WhichOneof("what")
    if kind == "graph_def":
        return kind, nodes(v1.GraphDef.FromString(event.graph_def))
    if kind == "meta_graph_def":
        return kind, nodes(meta_graph_pb2.MetaGraphDef.FromString(event.meta_graph_def).graph_def)
    if kind == "tagged_run_metadata":
        return kind, event.tagged_run_metadata.tag
    event.ClearField("wall_time")
    return kind, text_format.MessageToString(event)


def _describe_file(path):
    if path.name.startswith("events."):
        return [_describe_event(event) for event in read_events(path)]
    if path.name == "checkpoint":
        return [line for line in path.read_text().splitlines() if "timestamp" not in line]
    if path.suffix == ".index":
        reader = tf.train.load_checkpoint(str(path.with_suffix("")))
        return {name: describe(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}
    if path.suffix == ".meta":
        return nodes(meta_graph_pb2.MetaGraphDef.FromString(path.read_bytes()).graph_def)
    if path.name == "graph.pbtxt":
        return _nodes_of_text(path.read_text())
    if path.suffix == ".json":
        told = json.loads(path.read_text())
        if "traceEvents" not in told:
            return told
        return sorted({event["args"]["name"] for event in told["traceEvents"] if event.get("cat") == "Op"})
    return path.stat().st_size if ".data-" not in path.name else "variables"


def describe_files(directory):
    """Returns relative name -> contents of all files under a directory; event files are numbered in their order."""
    described = {}
    for path in sorted(pathlib.Path(directory).rglob("*")):
        if path.is_file():
            name = path.relative_to(directory)
            if path.name.startswith("events."):
                number = sum(other.startswith(str(name.with_name("events."))) for other in described)
                name = name.with_name(f"events.{number}")
            described[str(name)] = _describe_file(path)
    return described


def summaries(record):
    """Returns (step, tag, value) of all scalars in a record's event files, in order of file and event."""
    found = []
    for name, contents in record.files.items():
        for kind, text in contents if "events." in name else ():
            if kind == "summary":
                event = text_format.Parse(text, event_pb2.Event())
                found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def checkpoints(record):
    """Returns the steps of the checkpoints that a record's program left, in order."""
    return sorted(int(match[1]) for match in (re.search(r"-(\d+)\.index$", name) for name in record.files) if match)


def messages(record, level="INFO"):
    """Returns the text of a record's log lines of one level."""
    return [message for _, name, message in record.logs if name == level]


def without_lines(record, pattern):
    """Returns a record without the log lines in which a regular expression is found."""
    return dataclasses.replace(record, logs=[line for line in record.logs if not re.search(pattern, line[2])])


# Running a program


@contextlib.contextmanager
def captured_logs():
    """Collects (logger, level, message) of TensorFlow's, absl's and our loggers; first-n counters start anew.

    Deprecation warnings are off: they come once in a process, and tf.estimator, whenever a test imports it, deprecates
    the hooks' constructors in place.
    """
    collected = []
    handler = logging.Handler()
    handler.emit = lambda entry: collected.append((entry.name, entry.levelname, entry.getMessage()))
    # What an earlier test did not use is told of when the collector comes.
    handler.addFilter(lambda entry: entry.filename != "tf_should_use.py")
    verbosity = v1.logging.get_verbosity()
    v1.logging.set_verbosity(v1.logging.INFO)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with mock.patch.multiple(tf_logging, _log_counter_per_token={}), \
                mock.patch.multiple(deprecation, _PRINT_DEPRECATION_WARNINGS=False):
            yield collected
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        v1.logging.set_verbosity(verbosity)


def _comparable(value, directory):
    # Takes addresses and the directory of a run out of all strings in a nest of containers.
    if isinstance(value, str):
        return re.sub(r"0x[0-9a-f]+", "0x", value.replace(str(directory), "DIR"))
    if isinstance(value, dict):
        return {_comparable(key, directory): _comparable(item, directory) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_comparable(item, directory) for item in value)
    return value


def record(program, api, directory):
    """Runs a program once and returns its `Record`."""
    directory.mkdir(parents=True)
    run = Run(api, str(directory), Clock(), [])
    result = error = None
    api.taken.clear()
    before = _plan.totals()
    with captured_logs() as logs, mock.patch.object(writer_cache.FileWriterCache, "_cache", {}) as writers:
        with api.in_force(), tf.Graph().as_default(), mock.patch("time.time", run.clock):
            try:
                result = program(run)
            except Exception as raised:
                error = describe_error(raised)
        for writer in writers.values():
            writer.close()
    now = _plan.totals()
    seen = [_comparable(one, directory) for one in (run.notes, describe(result), error, logs, describe_files(directory))]
    declined = {reason: number - before["declined"].get(reason, 0) for reason, number in now["declined"].items()
                if number != before["declined"].get(reason, 0)}
    return Record(*seen, run.reports, now["steps"] - before["steps"], now["planned_steps"] - before["planned_steps"],
                  declined, api.serves())


def assert_equal_records(ours, stock):
    """Asserts that two records tell the same."""
    for name in COMPARED:
        assert getattr(ours, name) == getattr(stock, name), name


def assert_same(ours, stock, declines=(), ignore="never matches"):
    """Asserts that two records tell the same, and that all steps of the first were accelerated.

    Args:
      ours: A Record.
      stock: TensorFlow's.
      declines: How the reasons begin for which steps may take TensorFlow's own way. With None in it, there may be no step
        at all that we see.
      ignore: Log lines in which this regular expression is found are left out.
    """
    assert_equal_records(without_lines(ours, ignore), without_lines(stock, ignore))
    unexpected = ours.unexpected([reason for reason in declines if reason])
    assert not unexpected, unexpected
    assert ours.steps or not ours.served or ours.error or None in declines, "no step was seen"


def compare(program, directory, declines=(), ignore="never matches"):
    """Runs a program on TensorFlow alone and on our session and hooks, and asserts that both tell the same.

    Args:
      program: As for `record`.
      directory: Where both write, a Path.
      declines: As `assert_same`, and so is `ignore`.

    Returns:
      Our record, with all its log lines.
    """
    stock, ours = [record(program, MIXES[name], directory / name) for name in (STOCK_MIX, "our_session-our_hooks")]
    assert_same(ours, stock, declines, ignore)
    return ours


def assert_same_steps(ours, stock):
    """Asserts that two records tell the same, log lines apart: step by step first, which is easier to read."""
    for number, (our_note, stock_note) in enumerate(zip(ours.notes, stock.notes)):
        assert our_note == stock_note, f"note {number}"
    assert_equal_records(dataclasses.replace(ours, logs=[]), dataclasses.replace(stock, logs=[]))


_stock_ways = {}


def same_in_way(way, program, key, directory):
    """Runs a program in one of OUR_WAYS and, once for all of them, on TensorFlow; asserts that both tell the same.

    Args:
      way: One of OUR_WAYS.
      program: A function of a `Run`.
      key: Tells the program from all others.
      directory: A Path under which both write.

    Returns:
      Our record and TensorFlow's.
    """
    stock = PLAIN_STOCK if way == "accelerated" else "tf"
    records = {}
    for name in (stock, way):  # one line runs both: it shows in the errors of their ops
        records[name] = _stock_ways.get((name, key)) or record(program, WAYS[name], directory / name)
    _stock_ways[stock, key] = records[stock]
    assert records[stock].error is None, records[stock].error
    assert records[stock].notes
    assert_same_steps(records[way], records[stock])
    return records[way], records[stock]


# Programs' parts


def attempt(run, session, fetches, feed_dict=None):
    """Notes the result of a run, or what kind of error with which text it raised; a second passes."""
    try:
        run.note(session.run(fetches, feed_dict))
    except Exception as error:
        kind, text, *rest = describe_error(error)
        run.note("error", kind, re.sub(r"\n\s*File .*", "", text.partition("\nOriginal stack trace")[0]), repr(rest))
    run.clock.tick()


def build_model(increment=1, use_resource=True):
    """Makes a global step and a weight w = 0, 1, 2, ... whose reads all come before the update of their run.

    Args:
      increment: By how much a run moves the global step.
      use_resource: False: reference variables.

    Returns:
      (train op, loss): loss is w before the update.
    """
    with v1.variable_scope(v1.get_variable_scope(), use_resource=use_resource):
        step = v1.train.create_global_step()
        weight = v1.get_variable("w", initializer=0.0)
    read = training_util._get_or_create_global_step_read()
    loss = tf.add(weight, 0.0, name="loss")
    with tf.control_dependencies([read, loss]):
        train = tf.group(step.assign_add(increment), weight.assign_add(1.0), name="train")
    return train, loss


def usual_hooks(run, loss, last_step=10):
    """Returns what training programs list: stock hooks, those that are periodic with a period of three steps."""
    summary = v1.summary.scalar("cost", loss)
    return [
        run.api.StopAtStepHook(last_step=last_step),
        run.api.StepCounterHook(every_n_steps=3, output_dir=run.dir),
        run.api.LoggingTensorHook({"loss": loss}, every_n_iter=3),
        run.api.NanTensorHook(loss),
        run.api.SummarySaverHook(save_steps=3, output_dir=run.dir, summary_op=summary),
    ]


def quick_creator(run, config=None):
    """A session creator that leaves out the checks of variables, which take most of a short program's time."""
    nothing = tf.constant([], tf.string)
    return run.api.ChiefSessionCreator(run.api.Scaffold(
        ready_op=nothing, ready_for_local_init_op=nothing, local_init_op=tf.no_op()), config=config)


def train(run, hooks, fetches, steps=100, secs=1.0, session_creator=None):
    """Runs until a hook stops or `steps` runs are over; notes every result. A run takes `secs` on the run's clock."""
    with run.api.MonitoredSession(session_creator or quick_creator(run), hooks) as session:
        for _ in range(steps):
            if session.should_stop():
                break
            run.note(session.run(fetches))
            run.clock.tick(secs)
        run.note("stop", session.should_stop())


# Hooks of ours in sessions that run compiled steps, and in one that does not


@dataclasses.dataclass
class Way:
    """Where hooks are used."""

    train: object  # whose sessions
    compiled: bool

    def session(self, hooks, creator=None):
        return self.train.MonitoredSession(creator, hooks)

    def run(self, hooks, fetches, steps, feed_dict=None, creator=None):
        """Runs steps, all by a plan if they are compiled; returns what each of them gave."""
        with self.session(hooks, creator) as session:
            results = [session.run(fetches, feed_dict) for _ in range(steps)]
            self.check(session, steps)
        return results

    def check(self, session, steps):
        if self.compiled:
            report = fasthooks.report(session)
            assert (report["planned_steps"], report["declined"]) == (steps, {})


USES = {"our_session": (fasthooks, True), "adopted": (v1.train, True), "tf_session": (v1.train, False)}


def make_train(increment=1, order="after", first=0, use_resource=True):
    """A train op that moves the global step; hooks read it before or after. `increment` may be a tensor."""
    with v1.variable_scope("", use_resource=use_resource):
        step = v1.get_variable("global_step", [], tf.int64, v1.constant_initializer(first), trainable=False, collections=[
            v1.GraphKeys.GLOBAL_VARIABLES, v1.GraphKeys.GLOBAL_STEP])
    if order == "before":
        with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
            return step.assign_add(increment).op
    train = step.assign_add(increment).op
    with tf.control_dependencies([train]):
        v1.add_to_collection("global_step_read_op_cache", step.read_value() + 0)
    return train


class Fails(v1.train.SessionRunHook):
    """Lets some runs fail, once they are made."""

    def __init__(self, at, error):
        self.at, self.error, self.number = at, error, 0

    def after_run(self, run_context, run_values):
        self.number += 1
        if self.number in self.at:
            raise self.error
