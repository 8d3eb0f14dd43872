"""When hooks act: fasthooks' timer and hook triggers against TensorFlow's, driven by hand with an injected clock."""

import copy
import dataclasses
import math
import pickle
import sys
import types
import warnings
from decimal import Decimal
from fractions import Fraction
from unittest import mock

import apart
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.training import basic_session_run_hooks as stock

import fasthooks as fh

v1 = tf.compat.v1
PAIR = (v1.train, fh)
TIMER_FIELDS = ("_every_secs", "_every_steps", "_last_triggered_step", "_last_triggered_time")
NUMPY_INTS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
NUMPY_FLOATS = (np.float16, np.float32, np.float64, np.longdouble)
fuzz = settings(max_examples=1000, deadline=None, derandomize=True, database=None)


@pytest.fixture
def clock():
    """A stand-in for `time.time`, at 1000 s until `clock.return_value` is set."""
    with mock.patch("time.time", return_value=1000.0) as fake:
        yield fake


@pytest.fixture(params=PAIR, ids=["tensorflow", "fasthooks"])
def lib(request):
    """The implementation under test: each test that takes it states TensorFlow's behaviour too."""
    return request.param


def plain(value):
    """Returns something comparable that tells values and their types apart, NaN and arrays included."""
    if isinstance(value, (tuple, list)):
        return (type(value), [plain(item) for item in value])
    if isinstance(value, dict):
        return (type(value), [(key, plain(item)) for key, item in value.items()])
    return (type(value), repr(value))


def outcome(call, *args):
    """Returns what a call returns or raises, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = "returned", plain(call(*args))
        except Exception as error:
            result = "raised", type(error), str(error)
    return result, [str(warning.message) for warning in caught]


def timer_state(timer):
    """Returns a timer's attributes, comparable."""
    return [plain(getattr(timer, name)) for name in TIMER_FIELDS]


def near(*centers, spread=3):
    """Integers around each center."""
    return st.one_of([st.integers(center - spread, center + spread) for center in centers])


def numpy_ints():
    """NumPy integers of all widths, small ones and those at the ends of their range."""

    def of(kind):
        info = np.iinfo(kind)
        ends = st.integers(info.max - 2, info.max) | st.integers(info.min, info.min + 2)
        return (st.integers(max(info.min, -5), 30) | ends).map(kind)

    return st.sampled_from(NUMPY_INTS).flatmap(of)


small = st.integers(-5, 30)
huge = near(2**31, 2**53, 2**61, 2**62, 2**63, 2**64, -(2**31), -(2**61), -(2**63))
numbers = small | small.map(np.int64) | small.map(np.int32) | huge | numpy_ints() | st.booleans()
floats = st.sampled_from([0.0, 0.5, 1.0, 2.5, -1.0, 1e300, math.inf, -math.inf, math.nan])
odd = st.one_of(
    st.none(),
    floats,
    st.tuples(st.sampled_from(NUMPY_FLOATS), st.sampled_from([0.5, 2.0, math.nan])).map(lambda pair: pair[0](pair[1])),
    small.map(Fraction),
    small.map(Decimal),
    st.sampled_from(["", "3", b"3", 1j, (), [4], np.bool_(True), {}]),
    small.map(np.array),
    st.just(np.array([1, 2])),
    small.map(lambda n: np.array([n])),
)
anything = small | numbers | odd
periods = st.integers(1, 5) | st.sampled_from([0.5, 1.0, 2.5]) | anything


# SecondOrStepTimer


@pytest.mark.parametrize(
    "arguments",
    [{}, {"every_secs": 1, "every_steps": 1}, {"every_secs": 0, "every_steps": 0}, {"every": 1}, {"every_secs": None}],
    ids=str,
)
def test_timer_arguments_are_checked(arguments):
    expected, actual = [outcome(lambda lib=lib: lib.SecondOrStepTimer(**arguments)) for lib in PAIR]
    assert actual == expected
    assert actual[0][0] == "raised"


def test_steps_trigger_at_their_boundary(lib):
    timer = lib.SecondOrStepTimer(every_steps=3)
    triggered = []
    for step in range(1, 12):
        if timer.should_trigger_for_step(step):
            triggered.append(step)
            timer.update_last_triggered_step(step)
    assert triggered == [1, 4, 7, 10]


def test_seconds_trigger_at_their_boundary(lib, clock):
    timer = lib.SecondOrStepTimer(every_secs=2.5)
    assert timer.update_last_triggered_step(7) == (None, None)
    for now, triggers in [(1002.4999, False), (1002.5, True), (999.0, False), (1e9, True)]:
        clock.return_value = now
        assert timer.should_trigger_for_step(8) is triggers
        assert timer.should_trigger_for_step(7) is False  # the step that triggered last
    clock.return_value = 1004.0
    assert timer.update_last_triggered_step(10) == (4.0, 3)
    assert timer.last_triggered_step() == 10


def test_clock_is_read_only_for_seconds(lib, clock):
    timer = lib.SecondOrStepTimer(every_steps=2)
    timer.update_last_triggered_step(0)
    assert clock.call_count == 1
    for step in range(5):
        timer.should_trigger_for_step(step)
    assert clock.call_count == 1


@pytest.mark.parametrize("now", [1001, 1001.0, np.float64(1001), Fraction(1001)], ids=repr)
def test_clock_is_read_once_for_each_decision(lib, clock, now):
    timer = lib.SecondOrStepTimer(every_secs=5)
    timer.update_last_triggered_step(0)
    clock.return_value = now
    assert timer.should_trigger_for_step(1) is False
    assert clock.call_count == 2


actions = st.one_of(
    st.tuples(st.just("should_trigger_for_step"), small | numbers),
    st.tuples(st.just("should_trigger_for_step"), anything),
    st.tuples(st.just("update_last_triggered_step"), anything),
    st.tuples(st.just("reset")),
    st.tuples(st.just("last_triggered_step")),
    st.tuples(st.just("tick"), st.sampled_from([0.0, 0.5, 1.0, 2.5, -3.0, 1])),
    st.tuples(st.sampled_from(TIMER_FIELDS), anything),
)


@fuzz
@given(
    st.tuples(periods, st.none()) | st.tuples(st.none(), periods) | st.tuples(anything, anything),
    st.lists(actions, min_size=3, max_size=25),
)
@example((None, 4), [("_last_triggered_step", 2**53), ("should_trigger_for_step", 2**53 + 3)])
@example((None, 1), [("_last_triggered_step", 0), ("_every_secs", "x"), ("should_trigger_for_step", 1)])
@example(
    (None, 5), [("update_last_triggered_step", np.int32(2**31 - 3)), ("should_trigger_for_step", np.int32(2**31 - 1))]
)
@example((None, 2**40), [("update_last_triggered_step", np.int32(1)), ("should_trigger_for_step", np.int32(2))])
@example((3, None), [("_last_triggered_step", 0), ("_last_triggered_time", 2**53 + 1), ("should_trigger_for_step", 1)])
def test_timer_equals_tensorflows(arguments, script):
    with mock.patch("time.time", return_value=1000.0) as clock:
        try:
            peer = stock.SecondOrStepTimer(*arguments)
        except ValueError:
            return
        ours = fh.SecondOrStepTimer(*arguments)
        for name, *values in script:
            if name == "tick":
                clock.return_value += values[0]
            elif name in TIMER_FIELDS:
                setattr(peer, name, values[0])
                setattr(ours, name, values[0])
            else:
                clock.reset_mock()
                expected = outcome(getattr(peer, name), *values), clock.call_count
                clock.reset_mock()
                assert (outcome(getattr(ours, name), *values), clock.call_count) == expected, (name, values)
            assert timer_state(ours) == timer_state(peer), (name, values)


def test_clock_that_was_replaced_before_the_import():
    """As by tools that freeze time: no error is left behind for some later call, and both clocks are read rightly."""
    program = """if True:
        import time
        real = time.time
        time.time = lambda: now
        now = 1000.0
        import fasthooks
        timer = fasthooks.SecondOrStepTimer(every_secs=10)
        seen = []
        for now in (1000.0, 1005.0, 1010.0, 1019.0, 1020.0):
            seen.append(timer.should_trigger_for_step(len(seen)))
            if seen[-1]:
                timer.update_last_triggered_step(len(seen))
            int("1"), [].copy(), sorted([2, 1])
        time.time = real
        seen.append(timer.should_trigger_for_step(99))
        print(seen)
    """
    done = apart.run(program, timeout=120)
    assert done.stdout == "[True, False, True, False, True, True]\n", done.stderr[-2000:]


def test_no_integer_is_cut_off(lib):
    timer = lib.SecondOrStepTimer(every_steps=2.9)
    timer.update_last_triggered_step(0)
    assert [timer.should_trigger_for_step(step) for step in (1, 2, 3)] == [False, False, True]
    assert timer._every_steps == 2.9
    assert [timer.should_trigger_for_step(step) for step in (2.8, 2.9)] == [False, True]


def test_subclass_of_the_timer_is_called(lib):
    class EvenSteps(lib.SecondOrStepTimer):
        def should_trigger_for_step(self, step):
            return step % 2 == 0 and super().should_trigger_for_step(step)

    timer = EvenSteps(every_steps=3)
    timer.update_last_triggered_step(0)
    assert [step for step in range(8) if timer.should_trigger_for_step(step)] == [4, 6]
    assert isinstance(timer, stock.SecondOrStepTimer)


@pytest.mark.parametrize("field", TIMER_FIELDS)
def test_property_in_a_subclass_is_read(lib, clock, field):
    reads = []

    def read(self):
        reads.append(field)
        return {"_every_steps": 2, "_last_triggered_step": 0, "_last_triggered_time": 0.0}.get(field)

    cls = type("Watched", (lib.SecondOrStepTimer,), {field: property(read, lambda self, value: None)})
    timer = cls(**({"every_secs": 10} if field == "_last_triggered_time" else {"every_steps": 2}))
    timer._last_triggered_step = 0
    reads.clear()
    timer.should_trigger_for_step(0)
    timer.should_trigger_for_step(1)
    assert reads


def test_method_set_on_tensorflows_class_is_found(lib):
    timer = lib.SecondOrStepTimer(every_steps=100)
    timer.update_last_triggered_step(0)
    assert timer.should_trigger_for_step(1) is False
    with mock.patch.object(stock.SecondOrStepTimer, "should_trigger_for_step", lambda self, step: step == 1):
        assert timer.should_trigger_for_step(1) is True
        assert timer.should_trigger_for_step(200) is False
    assert timer.should_trigger_for_step(1) is False
    assert timer.should_trigger_for_step(200) is True


def test_method_set_on_the_object_is_found(lib):
    timer = lib.SecondOrStepTimer(every_steps=100)
    with mock.patch.object(timer, "should_trigger_for_step", return_value="mocked"):
        assert timer.should_trigger_for_step(1) == "mocked"
    assert timer.should_trigger_for_step(1) is True


@pytest.mark.parametrize(
    "make",
    [
        copy.copy,
        copy.deepcopy,
        lambda timer: pickle.loads(pickle.dumps(timer)),
        lambda timer: pickle.loads(pickle.dumps(timer, 0)),
    ],
    ids=["copy", "deepcopy", "pickle", "pickle 0"],
)
def test_timer_is_copied_with_its_state(lib, clock, make):
    timer = lib.SecondOrStepTimer(every_steps=3)
    timer.update_last_triggered_step(np.int64(4))
    timer.note = ["of the user"]
    twin = make(timer)
    assert type(twin) is type(timer)
    assert timer_state(twin) == timer_state(timer)
    assert twin.note == timer.note
    twin.update_last_triggered_step(9)
    assert timer.last_triggered_step() == 4


class Name(str):
    """A name that is not exactly a str."""


@pytest.mark.parametrize("set_attribute", [setattr, object.__setattr__], ids=["setattr", "object.__setattr__"])
@pytest.mark.parametrize(
    "name",
    ["_every_steps", "note", Name("_every_steps"), Name("note")],
    ids=["field", "own", "field by a subclass of str", "own by a subclass of str"],
)
def test_attributes_are_set_any_way(lib, set_attribute, name):
    timer = lib.SecondOrStepTimer(every_steps=3)
    timer._last_triggered_step = 0
    set_attribute(timer, name, 1)
    assert getattr(timer, name) == 1
    assert timer.should_trigger_for_step(1) is (name == "_every_steps")


def test_frozen_dataclass_derives_from_a_hook(lib):
    @dataclasses.dataclass(frozen=True)
    class Frozen(lib.StopAtStepHook):
        _last_step: int

    assert Frozen(3)._last_step == 3


def test_attribute_errors(lib):
    timer = lib.SecondOrStepTimer(every_steps=3)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        timer.nothing_like_it  # noqa: B018
    with pytest.raises(AttributeError, match="nothing_like_it"):
        del timer.nothing_like_it
    with pytest.raises(TypeError):
        setattr(timer, 3, 3)


# Hooks, called by hand: requests, actions, log lines, stop requests and private attributes after every call.


@pytest.fixture(scope="module")
def graph():
    """A graph with a global step and a tensor to watch."""
    with tf.Graph().as_default() as graph:
        v1.train.get_or_create_global_step()
        tf.constant(0.0, name="loss")
    return graph


class Falsy:
    """A summary writer that counts as none, because it has a length of zero."""

    def __len__(self):
        return 0


class Recorder:
    """Stands for a log or a summary writer: any method may be called, and is written down."""

    WARN = "WARN"

    def __init__(self, record):
        self._record = record

    def __getattr__(self, method):
        return lambda *args, **kwargs: self._record.append((method, plain(args), plain(kwargs)))


class RawSession:
    """Stands for the raw session that a hook may ask for the global step."""

    def __init__(self, run):
        self.run = run

    def __repr__(self):
        return "session"


class Driven:
    """A hook of one implementation with everything it does to others recorded."""

    def __init__(self, graph, lib, name, arguments):
        self.record = []
        self.writer = self.fake_log = Recorder(self.record)
        self.session = RawSession(self.read)
        self.real_step = 0
        self.waits = name == "GlobalStepWaiterHook"
        with self.environment(), graph.as_default():
            self.hook = getattr(lib, name)(**arguments)
            if hasattr(self.hook, "_timer") and not isinstance(self.hook._timer, stock.NeverTriggerTimer):
                self.hook._timer.update_last_triggered_step(0)
            self.hook.begin()
        # The documented exception: before the first run these read as None where TensorFlow's do not exist yet.
        for attribute in ("_should_trigger", "_request_summary"):
            if attribute in ATTRIBUTES[name]:
                setattr(self.hook, attribute, False)
        for method in ("_log_and_record", "_log_tensors", "_save"):
            if hasattr(self.hook, method):
                setattr(self.hook, method, self.recorder(method))
        self.attributes = ATTRIBUTES[name]

    def environment(self):
        cache = types.SimpleNamespace(get=lambda directory: self.writer)
        return mock.patch.multiple(stock, logging=self.fake_log, SummaryWriterCache=cache)

    def read(self, *args, **kwargs):
        self.record.append(("run", plain(args), plain(kwargs)))
        self.real_step += self.waits  # others train while a hook waits for them
        return self.real_step

    def recorder(self, method):
        def called(*args):
            self.record.append((method, plain(args)))
            if method == "_log_tensors":
                self.hook._timer.update_last_triggered_step(self.hook._iter_count)
            return method == "_save" and len(self.record) % 5 == 0

        return called

    def step(self, stale, real, wrong):
        """Calls the hook around one imagined run; `wrong`: results that do not answer the request."""
        self.record.clear()
        self.real_step = real
        context = fh.SessionRunContext(fh.SessionRunArgs("train_op"), self.session)
        with self.environment():
            asked = outcome(self.before, context)
            values = fh.SessionRunValues(
                self.results(stale) if wrong is None else wrong[0], config_pb2.RunOptions(), config_pb2.RunMetadata()
            )
            done = outcome(self.hook.after_run, context, values)
        return asked, done, context.stop_requested, list(self.record), self.state()

    def before(self, context):
        self.request = None
        self.request = self.hook.before_run(context)
        return self.request

    def results(self, stale):
        fetches = None if self.request is None else self.request.fetches
        if isinstance(fetches, dict):
            return {key: stale if key == "global_step" else ["summary"] for key in fetches}
        return None if fetches is None else stale

    def state(self):
        found = [(name, plain(getattr(self.hook, name, None))) for name in self.attributes]
        timer = getattr(self.hook, "_timer", None)
        return found + [(name, plain(getattr(timer, name, None))) for name in TIMER_FIELDS]


ATTRIBUTES = {
    "StopAtStepHook": ["_last_step"],
    "StepCounterHook": ["_steps_per_run", "_last_global_step"],
    "LoggingTensorHook": ["_iter_count", "_should_trigger"],
    "NanTensorHook": [],
    "SummarySaverHook": ["_next_step", "_request_summary"],
    "CheckpointSaverHook": ["_steps_per_run"],
    "GlobalStepWaiterHook": ["_worker_is_started"],
    "ProfilerHook": ["_next_step", "_request_summary"],
}
ARGUMENTS = {
    "StopAtStepHook": st.fixed_dictionaries(
        {"last_step": st.integers(5, 30) | anything.filter(lambda n: n is not None)}
    ),
    "StepCounterHook": st.one_of(
        st.fixed_dictionaries({"every_n_steps": st.integers(1, 8)}),
        st.fixed_dictionaries({"every_n_steps": st.none(), "every_n_secs": st.sampled_from([1, 2.5])}),
    ),
    "LoggingTensorHook": st.fixed_dictionaries({"tensors": st.just(["loss:0"])}).flatmap(
        lambda base: st.one_of(
            st.integers(1, 6).map(lambda n: {**base, "every_n_iter": n}),
            st.sampled_from([1, 2.5]).map(lambda n: {**base, "every_n_secs": n}),
            st.just({**base, "at_end": True}),
        )
    ),
    "NanTensorHook": st.fixed_dictionaries({"loss_tensor": st.just("loss:0"), "fail_on_nan_loss": st.booleans()}),
    "SummarySaverHook": st.one_of(
        st.integers(1, 6).map(lambda n: {"save_steps": n}), st.sampled_from([1, 2.5]).map(lambda n: {"save_secs": n})
    ).map(lambda period: {**period, "output_dir": "summaries", "summary_op": "summary:0"}),
    "CheckpointSaverHook": st.one_of(
        st.integers(1, 6).map(lambda n: {"save_steps": n}), st.sampled_from([1, 2.5]).map(lambda n: {"save_secs": n})
    ).map(lambda period: {**period, "checkpoint_dir": "checkpoints"}),
    "GlobalStepWaiterHook": st.fixed_dictionaries({"wait_until_step": st.integers(-1, 3)}),
    "ProfilerHook": st.one_of(
        st.integers(1, 6).map(lambda n: {"save_steps": n}), st.sampled_from([1, 2.5]).map(lambda n: {"save_secs": n})
    ),
}
kinds = st.sampled_from([int, np.int64, np.int64, np.int32, np.array])
moves = st.sampled_from([1, 1, 1, 1, 2, 3, 7, 0, -2, 100])
ticks = st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0, -2.0])
# Results in another structure than the one asked for.
wrong_results = (
    anything | anything.map(lambda value: {"global_step": value}) | anything.map(lambda value: {"other": value})
)
runs = st.tuples(st.just("run"), kinds, moves, ticks, st.integers(0, 2))
wrong_runs = st.tuples(st.just("wrong"), wrong_results)


def assignments(name):
    """Assignments to private attributes; a swapped timer among them."""
    own = [st.tuples(st.just("set"), st.just(attribute), anything) for attribute in ATTRIBUTES[name]]
    if name not in ("StopAtStepHook", "NanTensorHook", "GlobalStepWaiterHook"):
        own += [
            st.tuples(st.just("timer"), st.sampled_from(["stock", "ours", "never", "none"]), st.integers(1, 5)),
            st.tuples(st.just("set timer"), st.sampled_from(TIMER_FIELDS), anything),
        ]
    if name in ("StepCounterHook", "SummarySaverHook"):
        own.append(
            st.tuples(st.just("set"), st.just("_summary_writer"), st.sampled_from([None, Falsy(), Recorder([])]))
        )
    return st.one_of(own) if own else wrong_runs


def new_timer(kind, period, lib):
    """Returns a timer to put into a hook."""
    return {
        "stock": lambda: stock.SecondOrStepTimer(every_steps=period),
        "never": stock.NeverTriggerTimer,
        "ours": lambda: lib.SecondOrStepTimer(every_steps=period),
        "none": lambda: None,
    }[kind]()


def compare(graph, name, arguments, script):
    """Drives a hook of each implementation through the same script and compares after every call."""
    with mock.patch("time.time", return_value=1000.0) as clock, mock.patch("time.sleep"):
        pair = [Driven(graph, lib, name, arguments) for lib in PAIR]
        step = 0
        for action, *values in script:
            if action == "set":
                for one in pair:  # arrays are counted up in place
                    setattr(one.hook, values[0], values[1].copy() if isinstance(values[1], np.ndarray) else values[1])
                continue
            if action == "set timer":
                for one in pair:
                    if isinstance(one.hook._timer, stock.SecondOrStepTimer):
                        setattr(one.hook._timer, *values)
                continue
            if action == "timer":
                for one, lib in zip(pair, PAIR, strict=True):
                    one.hook._timer = new_timer(*values, lib)
                continue
            if action == "run":
                kind, move, tick, lag = values
                clock.return_value += tick
                step = max(step + move, 0)
                expected, actual = [one.step(kind(step), kind(step + lag), None) for one in pair]
            else:
                expected, actual = [one.step(None, step, values) for one in pair]
            assert actual == expected, (action, values, step)


@pytest.mark.parametrize("name", sorted(set(ATTRIBUTES) - {"NanTensorHook"}))
def test_hook_equals_tensorflows(graph, name):
    @settings(fuzz, max_examples=500)
    @given(
        ARGUMENTS[name],
        st.lists(st.one_of(runs, runs, runs, runs, wrong_runs, assignments(name)), min_size=5, max_size=40),
    )
    def check(arguments, script):
        compare(graph, name, arguments, script)

    check()


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.array], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", sorted(set(ATTRIBUTES) - {"NanTensorHook"}))
def test_hook_equals_tensorflows_in_an_ordinary_loop(graph, name, kind):
    @settings(fuzz, max_examples=15)
    @given(ARGUMENTS[name], st.lists(ticks, min_size=30, max_size=30), st.sampled_from([1, 3, 7]))
    def check(arguments, script, increment):
        compare(graph, name, arguments, [("run", kind, increment, tick, increment) for tick in script])

    check()


@pytest.mark.parametrize("name", ["StopAtStepHook", "StepCounterHook", "CheckpointSaverHook", "SummarySaverHook"])
def test_results_of_another_structure_raise_as_tensorflows(graph, name):
    arguments = {
        "StopAtStepHook": {"last_step": 100},
        "StepCounterHook": {"every_n_steps": 100},
        "CheckpointSaverHook": {"save_steps": 100, "checkpoint_dir": "checkpoints"},
        "SummarySaverHook": {"save_steps": 100, "output_dir": "x", "summary_op": "s"},
    }[name]
    usual = [("run", np.int64, 1, 0.0, 1)] * 3 + ([("set", "_steps_per_run", 1)] if "Check" in name else [])
    for wrong in ({"global_step": np.int64(5)}, np.int64(5), {"other": np.int64(5)}, None, [np.int64(5)]):
        compare(graph, name, arguments, usual + [("wrong", wrong), ("run", np.int64, 1, 0.0, 1)])


@pytest.mark.parametrize("kind", [np.int64, np.int32], ids=lambda kind: kind.__name__)
def test_assigned_count_keeps_its_type(graph, kind):
    compare(
        graph,
        "LoggingTensorHook",
        {"tensors": ["loss:0"], "every_n_iter": 100},
        [("run", int, 1, 0.0, 1), ("set", "_iter_count", kind(7))] + [("run", int, 1, 0.0, 1)] * 3,
    )


@pytest.mark.parametrize("writer", [None, Falsy(), 0, []], ids=["None", "falsy", "0", "empty"])
def test_summary_hook_without_a_writer(graph, writer):
    compare(
        graph,
        "SummarySaverHook",
        {"save_steps": 3, "output_dir": "x", "summary_op": "s"},
        [("run", np.int64, 1, 0.0, 1)] * 2 + [("set", "_summary_writer", writer)] + [("run", np.int64, 1, 0.0, 1)] * 4,
    )


@pytest.mark.parametrize("step", [2**31 - 10, 2**31 - 1000003, 2**31 - 1])
@pytest.mark.parametrize("name", ["StepCounterHook", "CheckpointSaverHook", "StopAtStepHook"])
def test_int32_steps_wrap_as_tensorflows(graph, name, step):
    arguments = {
        "StopAtStepHook": {"last_step": 2**31 + 5},
        "StepCounterHook": {"every_n_steps": 7},
        "CheckpointSaverHook": {"save_steps": 7, "checkpoint_dir": "checkpoints"},
    }[name]
    # The second call is the first that fits into int32 no more where the step or the sum is at the end of its range.
    compare(
        graph, name, arguments, [("wrong", np.int32(step)), ("wrong", np.int32(step - 1)), ("wrong", np.int32(step))]
    )


@pytest.mark.parametrize("per_run", [2**31 - 2, 2**31, 2**40, -(2**31) - 1, 2**62])
@pytest.mark.parametrize("name", ["StepCounterHook", "CheckpointSaverHook"])
def test_steps_per_run_beyond_int32(graph, name, per_run):
    arguments = {
        "StepCounterHook": {"every_n_steps": 2**50},
        "CheckpointSaverHook": {"save_steps": 2**50, "checkpoint_dir": "checkpoints"},
    }[name]
    for kind in (int, np.int32, np.int64):
        compare(
            graph,
            name,
            arguments,
            [
                ("run", kind, 1, 0.0, 1),
                ("set", "_steps_per_run", per_run),
                ("run", kind, 1, 0.0, 1),
                ("run", kind, 1, 0.0, 1),
            ],
        )


finite = [0.0, -0.0, 1.5, math.inf, -math.inf]
BFLOAT16 = tf.bfloat16.as_numpy_dtype


@pytest.mark.parametrize("fail", [True, False], ids=["fails", "stops"])
@pytest.mark.parametrize(
    "kind",
    [np.float16, np.float32, np.float64, np.longdouble, BFLOAT16, np.complex64, np.array, float],
    ids=lambda kind: kind.__name__,
)
def test_nan_hook_equals_tensorflows(graph, kind, fail):
    script = [("wrong", kind(value)) for value in [*finite, math.nan, -math.nan, 1.0]]
    script += [
        ("wrong", value)
        for value in (
            np.float32(2),
            np.int64(1),
            3,
            None,
            "x",
            np.array([1.0]),
            np.array([1.0, 2.0]),
            {"global_step": np.float32(1)},
            {"global_step": np.float32("nan")},
            Decimal(1),
        )
    ]
    compare(graph, "NanTensorHook", {"loss_tensor": "loss:0", "fail_on_nan_loss": fail}, script)


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFE00, 0xFFFF, 0x7BFF])
def test_nan_hook_knows_every_half_precision_nan(graph, bits):
    value = np.array([bits], np.uint16).view(np.float16)[0]
    compare(graph, "NanTensorHook", {"loss_tensor": "loss:0", "fail_on_nan_loss": False}, [("wrong", value)])


@pytest.mark.parametrize("name", ["StopAtStepHook", "StepCounterHook", "CheckpointSaverHook", "SummarySaverHook"])
def test_quiet_runs_do_not_reach_tensorflows_methods(graph, name):
    arguments = {
        "StopAtStepHook": {"last_step": 100},
        "StepCounterHook": {"every_n_steps": 100},
        "CheckpointSaverHook": {"save_steps": 100, "checkpoint_dir": "checkpoints"},
        "SummarySaverHook": {"save_steps": 100, "output_dir": "x", "summary_op": "s"},
    }[name]
    driven = Driven(graph, fh, name, arguments)
    driven.hook._steps_per_run = 1
    driven.step(np.int64(1), np.int64(2), None)
    called = []
    sys.setprofile(lambda frame, event, argument: called.append(frame.f_code) if event == "call" else None)
    try:
        driven.step(np.int64(2), np.int64(3), None)
    finally:
        sys.setprofile(None)
    assert called
    assert [code.co_name for code in called if code.co_filename == stock.__file__] == []


@pytest.mark.parametrize("method", ["before_run", "after_run"])
@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_method_set_on_tensorflows_hook_is_called(graph, name, method):
    arguments = {
        "StopAtStepHook": {"last_step": 100},
        "StepCounterHook": {},
        "NanTensorHook": {"loss_tensor": "loss:0"},
        "LoggingTensorHook": {"tensors": ["loss:0"], "every_n_iter": 100},
        "GlobalStepWaiterHook": {"wait_until_step": 0},
        "SummarySaverHook": {"save_steps": 100, "output_dir": "x", "summary_op": "s"},
        "CheckpointSaverHook": {"save_steps": 100, "checkpoint_dir": "x"},
        "ProfilerHook": {"save_steps": 100},
    }[name]
    for lib in PAIR:
        driven = Driven(graph, lib, name, arguments)
        driven.step(np.int64(0), np.int64(1), None)
        with mock.patch.object(getattr(stock, name), method, autospec=True, return_value=None) as patched:
            driven.step(np.int64(1), np.int64(2), [np.float32(1)])
        assert patched.call_count == 1


@pytest.mark.parametrize("name", ["before_run", "after_run"])
def test_method_set_on_the_hook_is_called(graph, lib, name):
    driven = Driven(graph, lib, "StopAtStepHook", {"last_step": 100})
    driven.step(np.int64(0), np.int64(1), None)
    called = []
    setattr(driven.hook, name, types.MethodType(lambda self, *args: called.append(args), driven.hook))
    driven.step(np.int64(1), np.int64(2), [np.int64(1)])
    delattr(driven.hook, name)
    driven.step(np.int64(2), np.int64(3), None)
    assert len(called) == 1


def test_hook_is_copied_with_its_state(graph, lib):
    driven = Driven(graph, lib, "StopAtStepHook", {"last_step": 3})
    twin = copy.copy(driven.hook)
    twin._last_step = 50
    assert (driven.hook._last_step, twin._last_step) == (3, 50)
    assert twin._global_step_tensor is driven.hook._global_step_tensor
    fresh = pickle.loads(pickle.dumps(lib.StopAtStepHook(num_steps=4)))
    assert (type(fresh), fresh._num_steps, fresh._last_step) == (lib.StopAtStepHook, 4, None)
