"""A step with hooks of all kinds: requests, results, order, errors, odd hooks, changes in mid-step, threads."""

import collections
import functools
import itertools
import pathlib
import threading
import time
import traceback
import types
from unittest import mock

import apart
import pytest
import tensorflow as tf
from google.protobuf import text_format
from helpers import build_model, compare, v1
from tensorflow.python.training import monitored_session, training_util

import fasthooks
from fasthooks.step import _chain, declining

Args = v1.train.SessionRunArgs
Pair = collections.namedtuple("Pair", ["first", "second"])


@pytest.fixture
def same(tmp_path):
    """`compare` in the test's directory."""
    return functools.partial(compare, directory=tmp_path)


class Probe(v1.train.SessionRunHook):
    """Notes all its callbacks and what it is given.

    Args:
      run: The Run whose notebook is written.
      name: How the hook signs.
      ask: What `before_run` returns, or a function of the context that returns it.
      then: A function of context and values that `after_run` calls last.
    """

    def __init__(self, run, name="probe", ask=None, then=None):
        self.run = run
        self.name = name
        self.ask = ask
        self.then = then

    def begin(self):
        self.run.note(self.name, "begin")

    def after_create_session(self, session, coord):
        self.run.note(self.name, "created", session, coord)

    def before_run(self, run_context):
        self.run.note(self.name, "before", run_context.stop_requested)
        return self.ask(run_context) if isinstance(self.ask, types.FunctionType) else self.ask

    def after_run(self, run_context, run_values):
        self.run.note(self.name, "after", run_values, run_context.stop_requested)
        if self.then is not None:
            self.then(run_context, run_values)

    def end(self, session):
        self.run.note(self.name, "end", session)


def steps(run, session, fetches, count=3, **kwargs):
    """Runs `count` steps; notes results, or the error that a step raised."""
    for _ in range(count):
        try:
            run.note("result", session.run(fetches, **kwargs))
        except Exception as error:
            run.note("error", error, error.__context__)
        run.clock.tick()


def hooked(session):
    """Returns the hooked link of a monitored session's chain."""
    link = session._sess
    while not isinstance(link, monitored_session._HookedSession):
        link = link._sess
    return link


# What hooks ask for

ANSWERS = {
    "none": lambda g: None,
    "no_fetches": lambda g: Args(None),
    "tensor": lambda g: Args(g.loss),
    "operation": lambda g: Args(g.train),
    "variable": lambda g: Args(g.variable),
    "name": lambda g: Args("loss:0"),
    "operation_name": lambda g: Args("train"),
    "list": lambda g: Args([g.loss, g.train, [g.loss]]),
    "tuple": lambda g: Args((g.loss, (g.step,))),
    "namedtuple": lambda g: Args(Pair(g.loss, g.step)),
    "dict": lambda g: Args({"b": g.loss, "a": [g.step, {1: g.loss}]}),
    "ordered": lambda g: Args(collections.OrderedDict(z=g.loss, a=g.step)),
    "sparse": lambda g: Args(g.sparse),
    "vector": lambda g: Args(g.vector),
    "string": lambda g: Args(g.text),
    "empty_list": lambda g: Args([]),
    "empty_dict": lambda g: Args({}),
    "fed": lambda g: Args(g.double, {g.x: 4.0}),
    "fed_only": lambda g: Args(None, {g.x: 4.0}),
    "fed_and_fetched": lambda g: Args(g.x, {g.x: 4.0}),
    "fed_by_nothing": lambda g: Args(g.double, {}),
    "options": lambda g: Args(g.loss, None, v1.RunOptions()),
    "subclass": lambda g: type("Mine", (Args,), {"extra": 1})(g.loss),
    "duck": lambda g: types.SimpleNamespace(fetches=g.loss, feed_dict=None, options=None),
    # Errors
    "bare_tensor": lambda g: g.loss,
    "bare_list": lambda g: [g.loss],
    "false": lambda g: False,
    "number": lambda g: 3,
    "class": lambda g: Args,
    "duck_without_feeds": lambda g: types.SimpleNamespace(fetches=g.loss),
    "unknown_name": lambda g: Args("nothing:0"),
    "malformed_name": lambda g: Args("loss:x:0"),
    "not_fetchable": lambda g: Args(object()),
    "none_inside": lambda g: Args([None]),
    "number_inside": lambda g: Args({"a": 1}),
    "feeds_list": lambda g: Args(g.loss, [1]),
    "feed_unknown": lambda g: Args(g.loss, {"nothing:0": 1}),
    "feed_none": lambda g: Args(g.double, {g.x: None}),
    "feed_shape": lambda g: Args(g.double, {g.x: [1.0, 2.0]}),
    "feed_type": lambda g: Args(g.double, {g.x: "text"}),
    "feed_tensor": lambda g: Args(g.double, {g.x: g.loss}),
    "options_text": lambda g: Args(g.loss, None, "trace"),
    "other_graph": lambda g: Args(g.foreign),
}


def build_graph():
    """Returns a namespace of `build_model`'s tensors and some of other kinds."""
    train, loss = build_model()
    with tf.Graph().as_default():
        foreign = tf.constant(1.0, name="elsewhere")
    x = v1.placeholder_with_default(1.5, [], name="x")
    return types.SimpleNamespace(
        train=train, loss=loss, step=training_util._get_global_step_read(), x=x, double=x * 2,
        variable=v1.get_variable("v", initializer=[1.0, 2.0]),
        sparse=tf.SparseTensor([[0, 1]], [loss], [2, 2]), vector=tf.stack([loss, 2.0]), text=tf.constant("text"),
        foreign=foreign)


@pytest.mark.parametrize("answer", ANSWERS)
def test_request(same, answer):
    """Whatever `before_run` returns, results, their structure and errors are TensorFlow's, step after step."""

    def program(run):
        graph = build_graph()
        hooks = [Probe(run, ask=ANSWERS[answer](graph)), run.api.NanTensorHook(graph.loss),
                 run.api.LoggingTensorHook({"l": graph.loss}, every_n_iter=2), Probe(run, "second", Args(graph.loss)),
                 run.api.StopAtStepHook(last_step=50)]
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, [graph.train, graph.loss])
            steps(run, session, None, 1)
            steps(run, session, graph.double, 1, feed_dict={graph.x: 2.0})
            run.note(session.should_stop())

    bad = list(ANSWERS).index(answer) >= list(ANSWERS).index("bare_tensor")
    same(program, declines=(declining.NO_FETCHES, *[declining.FED_VALUE, "a fetch has", "KeyError", "ValueError"] * bad))


def test_another_request_on_each_step(same):
    """A hook that never asks for the same thing twice in a row is served as by TensorFlow."""
    good = list(ANSWERS)[:list(ANSWERS).index("bare_tensor")]

    def program(run):
        graph = build_graph()
        answers = iter([ANSWERS[name](graph) for name in good + good[::-2]])
        hook = Probe(run, ask=lambda context: next(answers))
        with run.api.MonitoredSession(hooks=[run.api.NanTensorHook(graph.loss), hook]) as session:
            steps(run, session, graph.train, len(good) + len(good[::-2]))

    same(program)


def test_a_kept_list_that_changes_is_read_anew(same):
    """Hooks may return one SessionRunArgs whose list they change between steps."""

    def program(run):
        graph = build_graph()
        wanted, feeds = [graph.loss], {}
        hook = Probe(run, ask=Args(wanted, feeds))
        with run.api.MonitoredSession(hooks=[hook]) as session:
            steps(run, session, graph.train, 1)
            wanted.append(graph.double)
            steps(run, session, graph.train, 1)
            feeds[graph.x] = 8.0
            steps(run, session, graph.train, 2)
            wanted[:] = [graph.step]
            feeds.clear()
            steps(run, session, graph.train, 1)

    same(program)


# Feeds


@pytest.mark.parametrize("feeds", [
    ["x", None, None], ["x", "y", None], ["x", "x", None], ["x", None, "x"], ["x", "y", "y"], [None, "y", "x"],
    ["xy", "xy", "xy"], ["", "x", ""], ["xy", "", "xy"]])
def test_feeds_of_hooks_and_caller(same, feeds):
    """Feeds are merged; a tensor that is fed twice raises TensorFlow's error; nobody's dict is changed."""

    def program(run):
        train, _ = build_model()
        tensors = {name: v1.placeholder_with_default(0.0, [], name=name) for name in "xy"}
        first, second, caller = [
            None if names is None else {tensors[name]: float(i + 1) for name in names} for i, names in enumerate(feeds)]
        total = tensors["x"] + 10 * tensors["y"]
        hooks = [Probe(run, "first", Args(total, first)), Probe(run, "second", Args(None, second))]
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, [train, total], feed_dict=caller)
            steps(run, session, train, 1)
        run.note(first, second, caller)

    same(program)


def test_feed_fn_and_changing_feeds(same):
    """FeedFnHook and a hook that feeds on every second step only."""

    def program(run):
        train, _ = build_model()
        x = v1.placeholder_with_default(0.0, [], name="x")
        y = v1.placeholder(tf.float32, [None], name="y")
        counter = iter(range(100))
        hooks = [run.api.FeedFnHook(lambda: {y: [float(next(counter))] * 3}),
                 Probe(run, ask=lambda context: Args(None, {x: 5.0}) if next(counter) % 4 else None)]
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, [train, x + y], 6)

    same(program)


# Options


OPTIONS = {
    "trace": {"trace_level": v1.RunOptions.FULL_TRACE},
    "software_trace": {"trace_level": v1.RunOptions.SOFTWARE_TRACE},
    "timeout": {"timeout_in_ms": 20_000_000},
    "pool": {"inter_op_thread_pool": 0},
    "partition_graphs": {"output_partition_graphs": True},
    "oom": {"report_tensor_allocations_upon_oom": True},
    "empty": {},
}


@pytest.mark.parametrize(("first", "second"),
                         [(name, "timeout") for name in OPTIONS] + [("timeout", "trace"), ("trace", None)])
@pytest.mark.parametrize("caller", [None, {"timeout_in_ms": 10_000_000, "trace_level": v1.RunOptions.HARDWARE_TRACE}],
                         ids=["no_caller", "caller"])
def test_options_are_merged(same, first, second, caller):
    """Hooks' and the caller's options are merged into the caller's own object; all hooks see the same ones."""

    def program(run):
        train, loss = build_model()
        seen = []

        def look(context, values):
            seen.append(values)
            run.note(text_format.MessageToString(values.options), bool(values.run_metadata.step_stats.dev_stats),
                     bool(values.run_metadata.partition_graphs))

        hooks = [Probe(run, "first", Args(loss, None, v1.RunOptions(**OPTIONS[first])), look),
                 Probe(run, "second", second and Args(None, None, v1.RunOptions(**OPTIONS[second])), look)]
        given = {} if caller is None else {"options": v1.RunOptions(**caller), "run_metadata": v1.RunMetadata()}
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, train, 2, **given)
        run.note(seen[0].options is seen[1].options, seen[0].run_metadata is seen[1].run_metadata,
                 seen[0].options is seen[2].options, seen[0].options is given.get("options"))
        run.note({name: text_format.MessageToString(value) if name == "options" else len(value.step_stats.dev_stats) > 0
                  for name, value in given.items()})

    same(program)


def test_timeout_asked_for_by_a_hook(same):
    """A hook's timeout ends a step that waits for ever."""

    def program(run):
        train, _ = build_model()
        item = tf.queue.FIFOQueue(1, [tf.float32], name="queue").dequeue(name="wait")
        # The other steps are given all the time that a busy machine takes.
        hook = Probe(run, ask=lambda context: Args(None, None, v1.RunOptions(
            timeout_in_ms=30 if context.original_args.fetches is item else 10_000_000)))
        with run.api.MonitoredSession(hooks=[hook]) as session:
            steps(run, session, train, 1)
            steps(run, session, item, 1)

    same(program)


def test_values_without_options(same):
    """On a plain step hooks get a RunOptions and a RunMetadata, both empty and shared, new on each step."""

    def program(run):
        train, loss = build_model()
        seen = []
        hooks = [Probe(run, name, Args(loss), lambda context, values: seen.append(values)) for name in "ab"]
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, train, 2)
        for values in seen:
            run.note(values.options, text_format.MessageToString(values.options), values.run_metadata,
                     text_format.MessageToString(values.run_metadata))
        run.note([one.options is other.options for one in seen for other in seen],
                 [one.run_metadata is other.run_metadata for one in seen for other in seen])

    same(program)


def test_metadata_that_the_session_config_asks_for(same):
    """What a config puts into every step's metadata reaches the hooks."""

    def program(run):
        train, _ = build_model()
        config = v1.ConfigProto()
        config.experimental.session_metadata.name = "model"
        config.graph_options.build_cost_model = 1
        hook = Probe(run, then=lambda context, values: run.note(
            values.run_metadata.session_metadata.name, len(values.run_metadata.cost_graph.node) > 0))
        with run.api.SingularMonitoredSession(hooks=[hook], config=config) as session:
            steps(run, session, train)

    same(program)


# Context


def test_context(same):
    """One context per step, with the caller's own objects and the raw session."""

    def program(run):
        graph = build_graph()
        contexts = []

        def look(context, values=None):
            contexts.append(context)
            run.note(context, context.original_args, context.original_args.fetches is fetches,
                     context.original_args.feed_dict is feeds, context.session is session._tf_sess(), context.session)

        fetches, feeds = [graph.train, graph.double], {graph.x: 1.0}
        session = run.api.MonitoredSession(hooks=[Probe(run, name, look, look) for name in "ab"])
        with session:
            steps(run, session, fetches, 2, feed_dict=feeds)
            fetches, feeds = graph.train, None
            steps(run, session, fetches, 1)
        run.note([one is other for one in contexts for other in contexts])

    same(program)


@pytest.mark.parametrize("way", ["request_stop", "_stop_requested", "_should_stop"])
@pytest.mark.parametrize("place", ["ask", "then"])
@pytest.mark.parametrize("position", [0, 2])
def test_stop(same, way, place, position):
    """A stop asked for by any hook, before or after the run, ends the loop after the step; later runs are refused."""

    def program(run):
        train, loss = build_model()

        def stop(context, values=None):
            if v1.train.get_global_step() is not None and len(run.notes) > 14:
                if way == "request_stop":
                    context.request_stop()
                elif way == "_stop_requested":
                    context._stop_requested = 7
                else:
                    hooked(session)._should_stop = True

        hooks = [Probe(run, str(i), Args(loss)) for i in range(3)]
        setattr(hooks[position], place, stop)
        session = run.api.MonitoredSession(hooks=hooks + [run.api.NanTensorHook(loss)])
        with session:
            while not session.should_stop():
                steps(run, session, train, 1)
            run.note(hooked(session)._should_stop)
            steps(run, session, train, 1)

    same(program)


def test_order_among_hooks_of_all_kinds(same_as_stock):
    """Callbacks come in the order of the list, whosever the hooks are."""

    def program(run):
        train, loss = build_model()
        listener = mock.Mock(spec=v1.train.CheckpointSaverListener)
        listener.after_save.side_effect = lambda session, step: run.note("saved", step)
        hooks = [
            Probe(run, "first"),
            run.api.CheckpointSaverHook(run.dir, save_steps=3, listeners=[listener]),
            Probe(run, "second", Args(loss), lambda context, values: values.results < 7 or context.request_stop()),
            run.api.LoggingTensorHook([loss], every_n_iter=2, formatter=lambda values: run.note("logged") or "line"),
            run.api.StopAtStepHook(last_step=20),
            Probe(run, "third", Args(None)),
            run.api.FinalOpsHook(loss),
        ]
        with run.api.MonitoredSession(hooks=hooks) as session:
            while not session.should_stop():
                steps(run, session, train, 1)
        run.note(hooks[-1].final_ops_values)

    assert ("str", "'logged'") in [note[0] for note in same_as_stock(program).notes]


# Errors in hooks


def frames(error):
    """Returns the names of this file's functions in an error's traceback, outermost first."""
    return [frame.name for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]


class Failing(Probe):
    """Raises `error` in one callback from the second time on."""

    def __init__(self, run, callback, error, late=True):
        super().__init__(run, "failing")
        self.seen = 0
        original = getattr(self, callback)

        def fails(*args):
            original(*args)
            self.seen += 1
            if self.seen > late:
                raise error

        setattr(self, callback, fails)


@pytest.mark.parametrize("callback", ["begin", "after_create_session", "before_run", "after_run", "end"])
@pytest.mark.parametrize("error", [
    ValueError("mine"), StopIteration("done"), tf.errors.OutOfRangeError(None, None, "data"), KeyboardInterrupt("key"),
    GeneratorExit()],
    ids=lambda error: type(error).__name__)
def test_error_in_a_hook(same, callback, error):
    """The error itself reaches the caller, with the hook's frame; who is still called then is as in TensorFlow."""

    def program(run):
        error.__traceback__ = error.__context__ = None
        train, loss = build_model()
        hooks = [Probe(run, "a", Args(loss)), Failing(run, callback, error, late=callback.endswith("_run")),
                 run.api.NanTensorHook(loss), Probe(run, "b")]
        session = None
        try:
            with run.api.MonitoredSession(hooks=hooks) as session:
                steps_left = 4
                while steps_left and not session.should_stop():
                    run.note(session.run([train, loss]))
                    steps_left -= 1
        except BaseException as raised:
            run.note(raised is error, raised, frames(raised), raised.__context__, raised.__cause__)
        run.note(v1.get_default_graph().finalized, session is None or session.should_stop())

    same(program, declines=(None,))


def test_training_goes_on_after_a_caught_error(same):
    """A step that failed in a hook leaves nothing behind."""

    def program(run):
        train, loss = build_model()
        failures = iter([True, False, True, True, False, False])

        def ask(context):
            if next(failures):
                context.request_stop()
                raise ValueError("before")
            return Args(loss)

        hooks = [run.api.LoggingTensorHook([loss], every_n_iter=2), Probe(run, ask=ask), run.api.StepCounterHook(2)]
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, train, 6)
            run.note(session.should_stop())

    same(program)


def test_error_of_an_op(same):
    """An op's error has its op and message; no hook's `after_run` is called."""

    def program(run):
        train, loss = build_model()
        check = tf.debugging.check_numerics(tf.math.log(-1.0 - loss), "not a number", name="check")
        with run.api.MonitoredSession(hooks=[Probe(run, ask=Args(loss)), run.api.NanTensorHook(loss)]) as session:
            steps(run, session, train, 2)
            steps(run, session, check, 2)
            steps(run, session, train, 1)

    same(program)


# Hooks that are not what one expects


class Slotted:
    """Has no instance dict and no base."""

    __slots__ = ("run", "tensor")

    def __init__(self, run, tensor):
        self.run = run
        self.tensor = tensor

    def begin(self):
        self.run.note("begin")

    def after_create_session(self, session, coord):
        self.run.note("created")

    def before_run(self, run_context):
        return Args(self.tensor)

    def after_run(self, run_context, run_values):
        self.run.note(run_values)

    def end(self, session):
        self.run.note("end")


class MethodSlots(v1.train.SessionRunHook):
    """Keeps its methods in slots."""

    __slots__ = ("after_run", "before_run")

    def __init__(self, run, tensor):
        self.before_run = lambda context: Args(tensor)
        self.after_run = lambda context, values: run.note(values)


class Unhashable(Slotted):
    """Can not be a key of a dict."""

    __slots__ = ()
    __hash__ = None


class Equal(Slotted):
    """Equal to all others of its kind: they share one request."""

    __slots__ = ()

    def __eq__(self, other):
        return type(other) is Equal

    def __hash__(self):
        return 1


class Delegate:
    """Finds its methods through `__getattr__`."""

    def __init__(self, run, tensor):
        self.target = Slotted(run, tensor)

    def __getattr__(self, name):
        return getattr(self.target, name)


class Interceptor(v1.train.SessionRunHook):
    """Finds its methods through `__getattribute__`, past those it inherits."""

    def __init__(self, run, tensor):
        self.target = Slotted(run, tensor)

    def __getattribute__(self, name):
        return getattr(object.__getattribute__(self, "target"), name)


class Properties(v1.train.SessionRunHook):
    """Its methods are properties, made anew at each look."""

    def __init__(self, run, tensor):
        self.target = Slotted(run, tensor)
        self.looks = 0

    @property
    def before_run(self):
        return self.target.before_run

    @property
    def after_run(self):
        self.looks += 1
        return functools.partial(self.target.after_run) if self.looks % 2 else lambda context, values: None


def as_class(run, tensor):
    """Returns a class, to be used as the hook itself."""
    return type("Hook", (v1.train.SessionRunHook,), {
        "begin": staticmethod(lambda: run.note("begin")),
        "after_create_session": staticmethod(lambda session, coord: None),
        "before_run": staticmethod(lambda context: Args(tensor)),
        "after_run": classmethod(lambda cls, context, values: run.note(values)),
        "end": staticmethod(lambda session: run.note("end")),
    })


def mocked(kind, **kwargs):
    """Returns a maker of mock hooks that answers with a request and notes the calls."""

    def make(run, tensor):
        hook = kind(**kwargs)
        hook.before_run.side_effect = lambda context: Args(tensor)
        hook.after_run.side_effect = lambda context, run_values: run.note(run_values)
        return hook

    return make


KINDS = {
    "slots": Slotted,
    "method_slots": MethodSlots,
    "unhashable": Unhashable,
    "equal": Equal,
    "getattr": Delegate,
    "getattribute": Interceptor,
    "properties": Properties,
    "class": as_class,
    "namespace": lambda run, tensor: types.SimpleNamespace(
        begin=lambda: None, after_create_session=lambda session, coord: None, before_run=lambda context: Args(tensor),
        after_run=lambda context, run_values: run.note(run_values), end=lambda session: run.note("end")),
    "mock": mocked(mock.Mock),
    "magic_mock": mocked(mock.MagicMock),
    "mock_of_ours": mocked(mock.Mock, spec=fasthooks.StopAtStepHook),
    "autospec_of_ours": lambda run, tensor: mocked(
        functools.partial(mock.create_autospec, fasthooks.LoggingTensorHook, instance=True))(run, tensor),
    "magic_mock_of_stock": mocked(mock.MagicMock, spec=v1.train.NanTensorHook),
    "bare_mock": lambda run, tensor: mock.Mock(),
    "null_methods": lambda run, tensor: type("Null", (v1.train.SessionRunHook,), {"before_run": None})(),
    "wrong_signature": lambda run, tensor: type("Bad", (v1.train.SessionRunHook,), {"after_run": lambda self: None})(),
    "none": lambda run, tensor: None,
    "number": lambda run, tensor: 5,
    "text": lambda run, tensor: "hook",
    "tensor": lambda run, tensor: tensor,
    "list": lambda run, tensor: [],
    "class_of_ours": lambda run, tensor: fasthooks.StopAtStepHook,
    "class_of_stock": lambda run, tensor: v1.train.NanTensorHook,
}


@pytest.mark.parametrize("when", ["given", "appended"])
@pytest.mark.parametrize("kind", KINDS)
def test_odd_hook(same, kind, when):
    """Hooks of any make are called as TensorFlow calls them, or fail as they fail there."""

    def program(run):
        train, loss = build_model()
        hooks = [run.api.NanTensorHook(loss)]
        odd = [KINDS[kind](run, loss), KINDS[kind](run, train)]
        if when == "given":
            hooks += odd
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, train, 2)
            if when == "appended":
                hooks += odd
            steps(run, session, train, 3)
            run.note(session.should_stop())
            if when == "appended":
                del hooks[1:]

    same(program, declines=(declining.EQUAL_HOOKS, declining.REPEATED_HOOK))


# The hooks list


class Backwards(list):
    """A list that is walked from its end."""

    def __iter__(self):
        return reversed(self)


@pytest.mark.parametrize("container", [
    tuple, collections.deque, iter, Backwards, lambda hooks: dict.fromkeys(hooks),
    lambda hooks: dict.fromkeys(hooks).keys(), lambda hooks: (hook for hook in hooks), lambda hooks: []],
    ids=["tuple", "deque", "iterator", "list_subclass", "dict", "keys", "generator", "empty"])
def test_hooks_in_another_container(same, container):
    """Any iterable does, as far as it does with TensorFlow."""

    def program(run):
        train, loss = build_model()
        hooks = container([Probe(run, "a", Args(loss)), run.api.StopAtStepHook(last_step=3), Probe(run, "b")])
        with run.api.MonitoredSession(hooks=hooks) as session:
            for _ in range(4):
                if not session.should_stop():
                    steps(run, session, train, 1)

    same(program, declines=(declining.HOOKS_LIST,))


@pytest.mark.parametrize("hooks", [5, True, object()], ids=["number", "true", "object"])
def test_hooks_that_are_no_iterable(same, hooks):
    """Something else fails at once, as in TensorFlow."""

    def program(run):
        build_model()
        run.api.MonitoredSession(hooks=hooks)

    assert same(program).error[0] == "TypeError"


def test_the_same_hook_twice(same_as_stock):
    """A hook that is listed twice is called twice."""

    def program(run):
        train, loss = build_model()
        hook = Probe(run, ask=Args(loss))
        logger = run.api.LoggingTensorHook([loss], every_n_iter=3)
        with run.api.MonitoredSession(hooks=[hook, logger, hook, logger]) as session:
            steps(run, session, train, 5)

    same_as_stock(program, declines=(declining.REPEATED_HOOK,))


CHANGES = {
    "remove_self": lambda hooks, me, new: hooks.remove(me) if me in hooks else None,
    "remove_first": lambda hooks, me, new: hooks.pop(0) if len(hooks) > 3 else None,
    "remove_last": lambda hooks, me, new: hooks.pop() if len(hooks) > 3 else None,
    "remove_all": lambda hooks, me, new: hooks.clear(),
    "append": lambda hooks, me, new: hooks.append(new) if new not in hooks else None,
    "insert": lambda hooks, me, new: hooks.insert(0, new) if new not in hooks else None,
    "reverse": lambda hooks, me, new: hooks.reverse(),
    "replace_others": lambda hooks, me, new: hooks.__setitem__(slice(None), [me, new]),
}


@pytest.mark.parametrize("place", ["ask", "then"])
@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.timeout(60)
def test_list_changes_within_a_step(same, change, position, place):
    """The list is live within the step too: who is called, and with which results, is as in TensorFlow."""

    def program(run):
        train, loss = build_model()
        new = Probe(run, "new", Args(loss))
        budget = iter(range(8))  # a hook that moves the list on may be called for ever

        def apply(context, values=None):
            if next(budget, None) is not None and len(run.notes) > 12:
                CHANGES[change](hooks, me, new)
            return Args([loss])

        me = Probe(run, "me", Args(loss))
        setattr(me, place, apply)
        hooks = [Probe(run, "a", Args(loss)), run.api.NanTensorHook(loss), Probe(run, "b", Args([loss])),
                 run.api.StopAtStepHook(last_step=30)]
        hooks.insert(position, me)
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, [train, loss], 5)
            run.note([getattr(hook, "name", None) for hook in hooks], session.should_stop())

    same(program)


def test_list_replaced_within_a_step(same):
    """A hook that gives the session another list is not called again, not even in this step."""

    def program(run):
        train, loss = build_model()

        def swap(context):
            hooked(session)._hooks = [Probe(run, "new", Args(loss))]

        session = run.api.MonitoredSession(hooks=[Probe(run, "old", swap)])
        with session:
            steps(run, session, train)

    same(program)


@pytest.mark.parametrize("place", ["between", "before", "after"])
def test_list_grows(same_as_stock, place):
    """Stock hooks that are appended late take part from then on."""

    def program(run):
        train, loss = build_model()
        hooks = [Probe(run, "a", Args(loss))]
        late = run.api.StopAtStepHook(last_step=6)

        def append(context, values=None):
            if late not in hooks and len(run.notes) > 5:
                late.begin()
                late.after_create_session(session._tf_sess(), None)
                hooks.append(late)

        if place != "between":
            setattr(hooks[0], "ask" if place == "before" else "then", append)
        with run.api.MonitoredSession(hooks=hooks) as session:
            for _ in range(8):
                if not session.should_stop():
                    steps(run, session, [train, loss], 1)
                    if place == "between":
                        append(None)

    same_as_stock(program)


# Hooks that change while the session runs


def swap_class(hook, run):
    """Gives the hook a class with another `before_run`."""
    hook.__class__ = type("Other", (type(hook),), {"before_run": lambda self, context: run.note("other")})


METHOD_CHANGES = {
    "on_object": lambda hook, run: setattr(hook, "before_run", lambda context: run.note("object")),
    "after_on_object": lambda hook, run: setattr(hook, "after_run", lambda context, run_values: run.note(run_values)),
    "wrapped": lambda hook, run: setattr(hook, "after_run", mock.Mock(wraps=hook.after_run)),
    "on_class": lambda hook, run: setattr(type(hook), "after_run", lambda self, context, run_values: run.note("class")),
    "class": swap_class,
}


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("place", ["ask", "then"])
@pytest.mark.parametrize("change", METHOD_CHANGES)
def test_hook_changes_another_in_the_same_step(same, change, place, position):
    """A method that another hook replaces within the step is called from that moment on."""

    def program(run):
        train, loss = build_model()
        mine = type("Mine", (run.api.NanTensorHook,), {})
        hooks = [mine(loss), run.api.LoggingTensorHook([loss], every_n_iter=2)]
        targets = hooks[:1] if "class" in change else list(hooks)
        done = []

        def apply(context, values=None):
            if not done and len(run.notes) > 6:
                done.append(True)
                for target in targets:
                    METHOD_CHANGES[change](target, run)
            return Args(loss)

        changer = Probe(run, "changer", Args(loss))
        setattr(changer, place, apply)
        hooks.insert(position, changer)
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, train, 5)

    same(program)


def test_hook_patched_in_a_step_with_options(same):
    """The hook that came before and was quiet is not asked a second time, nor by its new method."""

    def program(run):
        train, loss = build_model()
        nan = run.api.NanTensorHook(loss)

        def ask(context):
            nan.before_run = lambda context: run.note("patched")
            return Args(None, None, v1.RunOptions(timeout_in_ms=10_000_000))

        with run.api.MonitoredSession(hooks=[nan, Probe(run, ask=ask)]) as session:
            steps(run, session, train, 1)
            del nan.before_run

    same(program)


def test_class_that_changes_on_each_step(same):
    """Class attributes, methods that come and go: each step sees the class as it is."""

    def program(run):
        train, loss = build_model()
        cls = type("Changing", (run.api.NanTensorHook,), {})
        hook = cls(loss)
        with run.api.MonitoredSession(hooks=[hook, Probe(run, "b")]) as session:
            for i in range(12):
                cls.count = i
                if i % 4 == 1:
                    cls.before_run = lambda self, context: run.note("before", self.count) or Args(loss)
                elif i % 4 == 2:
                    cls.after_run = lambda self, context, run_values: run.note(run_values)
                elif i % 4 == 3:
                    del cls.before_run, cls.after_run
                steps(run, session, train, 1)

    same(program)


def test_hook_whose_kind_changes(same):
    """A plain hook turns from idle to active, to a stock class and back."""

    def program(run):
        train, loss = build_model()
        hook = v1.train.SessionRunHook()
        hook._loss_tensor, hook._fail_on_nan_loss = loss, True
        with run.api.MonitoredSession(hooks=[hook]) as session:
            steps(run, session, train, 2)
            hook.after_run = lambda context, run_values: run.note(run_values)
            steps(run, session, train, 2)
            del hook.after_run
            steps(run, session, train, 2)
            hook.__class__ = v1.train.NanTensorHook
            steps(run, session, train, 2)
            hook.__class__ = v1.train.SessionRunHook
            steps(run, session, train, 1)

    same(program)


def test_patched_base_class(same):
    """Patching SessionRunHook itself reaches hooks that override nothing."""

    def program(run):
        train, _ = build_model()
        with run.api.MonitoredSession(hooks=[v1.train.SessionRunHook()]) as session:
            steps(run, session, train, 1)
            with mock.patch.object(v1.train.SessionRunHook, "after_run",
                                   lambda self, run_context, run_values: run.note(run_values)):
                steps(run, session, train, 2)
            steps(run, session, train, 1)

    same(program)


# Hooks that use the session


@pytest.mark.parametrize("place", ["ask", "then"])
@pytest.mark.parametrize("how", ["raw", "monitored", "step_fn"])
def test_hook_runs_the_session(same, how, place):
    """A run within a callback is a step of its own."""

    def program(run):
        train, loss = build_model()
        depth = []

        def nested(context, values=None):
            if len(depth) < 2:
                depth.append(1)
                if how == "raw":
                    run.note("inner", context.session.run([train, loss]))
                elif how == "monitored":
                    run.note("inner", session.run([train, loss]))
                else:
                    run.note("inner", session.run_step_fn(
                        lambda step_context: step_context.run_with_hooks([train, loss])))
                depth.pop()
            return Args(loss)

        hook = Probe(run)
        setattr(hook, place, nested)
        session = run.api.MonitoredSession(hooks=[run.api.LoggingTensorHook([loss], every_n_iter=2), hook,
                                                  Probe(run, "last", Args(loss)), run.api.StopAtStepHook(last_step=40)])
        with session:
            steps(run, session, train, 3)

    same(program)


@pytest.mark.parametrize("place", ["ask", "then"])
@pytest.mark.parametrize("kind", ["MonitoredSession", "SingularMonitoredSession"])
@pytest.mark.parametrize("what", ["session", "raw"])
def test_hook_closes_the_session(same, kind, place, what):
    """Closing within a callback: this step and the next behave as in TensorFlow."""

    def program(run):
        train, loss = build_model()

        def close(context, values=None):
            if len(run.notes) > 8:
                (session if what == "session" else context.session).close()

        hook = Probe(run)
        setattr(hook, place, close)
        session = getattr(run.api, kind)(hooks=[hook, Probe(run, "b", Args(loss)), run.api.NanTensorHook(loss)])
        steps(run, session, train, 4)
        run.note(session.should_stop(), session._is_closed())

    same(program, declines=(declining.SESSION_REPLACED,))


# Steps that only some hooks see


@pytest.fixture
def watched():
    """(session, train op, loss, hooks a and b, list of hooks' names in order of calls), open."""
    calls = []

    class Named(v1.train.SessionRunHook):
        def __init__(self, name, ask):
            self.name = name
            self.ask = ask

        def before_run(self, run_context):
            return self.ask

        def after_run(self, run_context, run_values):
            calls.append((self.name, run_values.results))

    with tf.Graph().as_default():
        train, loss = build_model()
        hooks = [Named("a", None), fasthooks.NanTensorHook(loss), Named("b", Args([loss]))]
        with fasthooks.MonitoredSession(hooks=hooks) as session:
            yield types.SimpleNamespace(session=session, train=train, loss=loss, a=hooks[0], b=hooks[2], hooks=hooks,
                                        calls=calls)


def test_run_without_hooks(watched):
    """No hook sees such a step; results, options and metadata are those of any run."""
    session, train, loss = watched.session, watched.train, watched.loss
    metadata = v1.RunMetadata()
    assert session.run([train, loss], hooks=False) == [None, 0.0]
    assert session.run_without_hooks(loss) == 1.0
    assert session.run(loss, hooks=[]) == 1.0
    assert session.run(loss, options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE), run_metadata=metadata,
                       hooks=False) == 1.0
    assert session.run_without_hooks(loss, {loss: 5.0}, v1.RunOptions(), None) == 5.0
    assert metadata.step_stats.dev_stats
    assert watched.calls == []
    session.run(train)
    assert watched.calls == [("a", None), ("b", [1.0])]


@pytest.mark.parametrize("options", [None, v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)],
                         ids=["plain", "options"])
@pytest.mark.parametrize("pick", [
    lambda w: [w.a], lambda w: (w.a,), lambda w: iter([w.a]), lambda w: {w.a}, lambda w: [w.a, w.a]],
    ids=["list", "tuple", "iterator", "set", "twice"])
def test_run_with_some_hooks(watched, pick, options):
    """Only the chosen hooks are called, whatever they come in."""
    watched.session.run(watched.train, options=options, hooks=pick(watched))
    assert watched.calls == [("a", None)]


def test_chosen_hooks_keep_the_order_of_the_session(watched):
    """The order of the argument does not count."""
    watched.session.run(watched.train, hooks=[watched.b, watched.hooks[1], watched.a])
    assert watched.calls == [("a", None), ("b", [0.0])]


@pytest.mark.parametrize("hooks", [[v1.train.SessionRunHook()], [None], ["a"], [1]],
                         ids=["hook", "None", "str", "int"])
def test_foreign_hook_is_refused(watched, hooks):
    """A hook that is not the session's raises, and nothing runs."""
    with pytest.raises(ValueError, match="hooks of this session"):
        watched.session.run(watched.train, hooks=hooks)
    assert watched.session.run_without_hooks(watched.loss) == 0.0
    assert watched.calls == []


@pytest.mark.parametrize("hooks", [True, 0, 1.5, object()], ids=["true", "zero", "float", "object"])
def test_hooks_argument_of_a_wrong_type(watched, hooks):
    """Something that is no list raises, and nothing runs."""
    with pytest.raises((TypeError, ValueError)):
        watched.session.run(watched.train, hooks=hooks)
    assert watched.session.run_without_hooks(watched.loss) == 0.0


def test_hooks_argument_is_keyword_only(watched):
    """TensorFlow's positional arguments stay as they are."""
    with pytest.raises(TypeError):
        watched.session.run(watched.train, None, None, None, False)


@pytest.mark.parametrize("hooks", [False, "first"])
def test_subset_on_tensorflows_own_path(watched, hooks):
    """Hooks that were left out stay out also when the step can not be planned."""
    chosen = [watched.a] if hooks == "first" else hooks
    with mock.patch.object(v1.Session, "run", autospec=True, side_effect=v1.Session.run) as run:
        watched.session.run(watched.train, hooks=chosen)
    assert run.call_count == 1
    assert watched.calls == ([("a", None)] if hooks == "first" else [])


def test_subset_with_a_hook_that_defines_equality(watched):
    """A subset that only TensorFlow's loop treats rightly is still that subset."""
    equal = Equal(mock.Mock(), watched.loss)
    watched.hooks.append(equal)
    watched.session.run(watched.train, hooks=[equal])
    equal.run.note.assert_called_once()
    assert watched.calls == []


def test_appended_hook_can_be_chosen(watched):
    """The list is live for `hooks` too."""
    watched.hooks.append(type(watched.a)("late", Args(watched.loss)))
    watched.session.run(watched.train, hooks=watched.hooks[-1:])
    assert watched.calls == [("late", 0.0)]


def test_stop_check_stays_without_hooks(watched):
    """A stop that was requested ends steps without hooks too; a chosen hook may request it."""
    watched.a.ask = None
    watched.a.after_run = lambda context, values: context.request_stop()
    watched.session.run(watched.train, hooks=[watched.a], options=v1.RunOptions())
    assert watched.session.should_stop()
    with pytest.raises(RuntimeError, match="Run called even after should_stop requested"):
        watched.session.run_without_hooks(watched.loss)


@pytest.mark.parametrize("pick", [lambda hook: [hook], lambda hook: iter([hook])], ids=["list", "iterator"])
def test_recovery_keeps_the_subset(pick):
    """The step that is repeated after a recovery is seen by the same hooks."""
    calls = []

    class Aborts(v1.train.SessionRunHook):
        def before_run(self, run_context):
            calls.append("aborts")
            if len(calls) == 1:
                raise tf.errors.AbortedError(None, None, "lost")

    with tf.Graph().as_default():
        train, loss = build_model()
        others = mock.Mock(spec=v1.train.SessionRunHook)
        hook = Aborts()
        with fasthooks.MonitoredSession(hooks=[others, hook]) as session:
            assert session.run([train, loss], hooks=pick(hook)) == [None, 0.0]
            assert session.recoveries == 1
    assert calls == ["aborts", "aborts"]
    others.before_run.assert_not_called()


def test_many_subsets(watched):
    """Every one of many subsets is right, and all steps are counted."""
    watched.hooks[:] = [type(watched.a)(i, Args(watched.loss)) for i in range(20)]
    for _ in range(2):
        for hook in list(watched.hooks):
            watched.session.run(watched.train, hooks=[hook])
    assert watched.calls == [(i % 20, float(i)) for i in range(40)]
    assert watched.session.report()["steps"] == 40


# Threads


class Counting(v1.train.SessionRunHook):
    """Counts its callbacks."""

    def __init__(self, tensor):
        self.tensor = tensor
        self.before = self.after = 0
        self.lock = threading.Lock()
        self.wrong = []

    def before_run(self, run_context):
        with self.lock:
            self.before += 1
        return Args({"x": self.tensor, "fed": run_context.original_args.fetches}) if self.tensor is not None else None

    def after_run(self, run_context, run_values):
        with self.lock:
            self.after += 1
        expected = None if self.tensor is None else run_context.original_args.feed_dict
        if expected and run_values.results["fed"] != next(iter(expected.values())) * 2:
            self.wrong.append(run_values)


def in_threads(count, work):
    """Calls `work(number)` in `count` threads at once; raises what one of them raised."""
    errors = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("scheduling", ["auto", "pool", "inline"])
def test_many_threads(scheduling):
    """Eight threads run, each with its own feeds and fetches: results are theirs, and each hook sees each step once."""
    with tf.Graph().as_default():
        train, loss = build_model()
        x = v1.placeholder_with_default(1.0, [])
        fetches = [x * 2 for _ in range(8)]
        counting, silent = Counting(loss), Counting(None)
        stop = fasthooks.StopAtStepHook(last_step=10 ** 6)
        hooks = [counting, fasthooks.NanTensorHook(loss), silent, fasthooks.StepCounterHook(10 ** 6), stop]
        with fasthooks.MonitoredSession(hooks=hooks, scheduling=scheduling) as session:
            def work(number):
                for i in range(40):
                    assert session.run(fetches[number], {x: number * 100.0 + i}) == 2 * (number * 100.0 + i)
                    session.run_without_hooks(train)
                    if i % 10 == 0:
                        hooks.append(v1.train.SessionRunHook())

            in_threads(8, work)
            assert session.run_without_hooks(loss) == 320.0
            assert session.report()["steps"] == 641
    assert (counting.before, counting.after, silent.before, silent.after) == (320, 320, 320, 320)
    assert counting.wrong == []


def close_while_others_run(kind, waits):
    """Closes a session while three threads run steps, busy ones or (`waits`) such as wait for ever."""
    with tf.Graph().as_default():
        train, loss = build_model()
        item = tf.queue.FIFOQueue(1, [tf.float32]).dequeue()
        session = getattr(fasthooks, kind)(hooks=[Counting(loss), fasthooks.NanTensorHook(loss)])
        started = threading.Event()
        errors = []

        def work(number):
            if number == 0:
                started.wait(30)
                session.close()
                return
            try:
                while True:
                    session.run(item if waits and started.is_set() else train)
                    started.set()
            except (RuntimeError, AttributeError, tf.errors.CancelledError) as error:
                errors.append(error)

        in_threads(4, work)
        assert len(errors) == 3
        assert session._is_closed()


def test_close_from_another_thread():
    """A close while steps run ends them with an error that TensorFlow could have raised; nothing crashes or hangs."""
    program = """
import test_dispatch
for kind in "MonitoredSession", "SingularMonitoredSession":
    for waits in [False, True] * 2:
        test_dispatch.close_while_others_run(kind, waits)
"""
    done = apart.run(program, cwd=pathlib.Path(__file__).parent, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


# Report


def test_report():
    """Tells what was planned, what was declined and why."""
    with tf.Graph().as_default():
        train, loss = build_model()
        with fasthooks.MonitoredSession(hooks=[fasthooks.NanTensorHook(loss)], scheduling="pool") as session:
            for _ in range(3):
                session.run(train)
            session.run(train, options=v1.RunOptions())
            session.run_without_hooks(train, options=v1.RunOptions())
            session.run_without_hooks(loss)
            report = session.report()
            assert [report[name] for name in ("steps", "planned_steps", "plans_made", "plans_evicted")] == [6, 6, 3, 0]
            assert report["declined"] == {}
            assert report["plans"][0] == {"fetches": ["loss:0"], "targets": ["train"], "feeds": [], "ops": -1,
                                          "scheduling": "pool", "reason": "asked for"}
        with pytest.raises(RuntimeError, match="closed"):
            session.report()


@pytest.mark.parametrize("container", [list, tuple])
def test_steps_with_hooks_in_plain_python_are_planned(container):
    """Hooks that ask for the same or something else on each step do not force TensorFlow's own way."""
    with tf.Graph().as_default():
        train, loss = build_model()
        x = v1.placeholder_with_default(1.0, [])
        asks = itertools.cycle([None, Args(loss), Args([loss], {x: 2.0})])
        hook = mock.Mock(spec=v1.train.SessionRunHook, before_run=lambda context: next(asks))
        with fasthooks.MonitoredSession(hooks=container([hook, Counting(loss)])) as session:
            for _ in range(9):
                session.run(train)
            report = session.report()
            assert (report["planned_steps"], report["plans_made"]) == (9, 3)


def test_hooked_session_is_ours():
    """The chain's third link is TensorFlow's class and ours."""
    with tf.Graph().as_default():
        build_model()
        with fasthooks.MonitoredSession() as session:
            assert type(hooked(session)) is _chain.HookedSession


# Time that passes within a step


SESSIONS = {"tf": v1.train.MonitoredSession, "ours": fasthooks.MonitoredSession}
PERIOD, LONGER = 0.05, 0.06     # seconds


class Slow(v1.train.SessionRunHook):
    """Takes longer than the period in one of its methods."""

    def __init__(self, method):
        setattr(self, method, lambda *_: time.sleep(LONGER))


class SlowListener(v1.train.CheckpointSaverListener):
    """Makes a checkpoint take longer than the period."""

    def after_save(self, session, global_step_value):
        time.sleep(LONGER)


@pytest.mark.parametrize("kind", SESSIONS)
def test_a_slow_before_run_between_two_periods_in_seconds(kind):
    """The second hook asks for the time after the first: with each step its period is over."""
    lines = []
    with tf.Graph().as_default():
        op, loss = build_model()
        first, second = [
            v1.train.LoggingTensorHook({"loss": loss}, every_n_secs=PERIOD, formatter=formatter)
            for formatter in (str, lambda values: lines.append(values) or "")]
        with SESSIONS[kind](hooks=[first, Slow("before_run"), second]) as session:
            for _ in range(6):
                session.run(op)
    assert len(lines) == 6


@pytest.mark.parametrize("slow", ["hook", "checkpoint"])
@pytest.mark.parametrize("kind", SESSIONS)
def test_what_is_slow_after_the_run_between_two_periods_in_seconds(kind, slow, tmp_path):
    """Whether it is a hook in Python, or what a saver does after its read of the global step."""
    writer = mock.Mock()
    with tf.Graph().as_default():
        op, _ = build_model()
        hooks = [v1.train.StepCounterHook(every_n_steps=None, every_n_secs=1000, summary_writer=mock.Mock())]
        if slow == "hook":
            hooks.append(Slow("after_run"))
        else:
            hooks.append(v1.train.CheckpointSaverHook(str(tmp_path), save_steps=1, listeners=[SlowListener()]))
        hooks.append(v1.train.StepCounterHook(every_n_steps=None, every_n_secs=PERIOD, summary_writer=writer))
        with SESSIONS[kind](hooks=hooks) as session:
            for _ in range(6):
                session.run(op)
    # The first time is that to count from.
    assert writer.add_summary.call_count == 5
