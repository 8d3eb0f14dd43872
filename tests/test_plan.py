"""Everything that `Session.run` takes, through our session and through TensorFlow's: fetches, feeds, aliasing, cache.

A `World` is one graph and one session on it; there is one with TensorFlow's session and one for each scheduling of
ours. A test does the same to all of them, often enough that a plan's trial of pool and inline is over, and compares
every outcome: values, dtypes, Python types, which results are one object, and errors.
"""

import collections
import collections.abc
import concurrent.futures
import dataclasses
import functools
import gc
import random
import re
import weakref
from unittest import mock

import attrs
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.trackable import data_structures

import fasthooks
from fasthooks.step import _schedule

v1 = tf.compat.v1

MODES = ("auto", "pool", "inline")
# More than it takes to decide between pool and inline, with the shortened phases of `short_phases`.
RUNS = 15
CAPACITY = 1024
bfloat16 = tf.bfloat16.as_numpy_dtype


@pytest.fixture(autouse=True, scope="module")
def short_phases():
    """A set of fetches leaves the pool after 5 runs, not 120, and is timed in blocks of 2: 11 runs until it is decided."""
    with mock.patch.multiple(_schedule, SETTLING=5, BLOCK=2):
        yield


class World:
    """One graph, which may grow further, and one session on it.

    Args:
      make_session: Makes the session.
      build: Makes the graph's ops; it may set attributes of the world that it is called with.
    """

    def __init__(self, make_session, build):
        self.graph = tf.Graph()
        with self.graph.as_default():
            build(self)
            self.session = make_session()
        # Deleting a session handle adds ops.
        self.graph._unsafe_unfinalize()

    def run(self, fetches, feed_dict=None, **kwargs):
        return self.session.run(fetches, feed_dict, **kwargs)


def make_worlds(build):
    """Returns a World for TensorFlow ("tf") and for each scheduling of ours."""
    makers = {"tf": v1.train.MonitoredSession}
    makers.update({mode: functools.partial(fasthooks.MonitoredSession, scheduling=mode) for mode in MODES})
    worlds = {}
    # One line makes them all: it shows in the errors of their ops.
    for mode, make_session in makers.items():
        worlds[mode] = World(make_session, build)
    return worlds


def close(worlds):
    for world in worlds.values():
        world.session.close()


# What is compared


# Addresses, and numbers that TensorFlow counts on through all graphs of the process.
NOISE = re.compile(r"0x[0-9a-f]+|(?<=pyfunc_)\d+|(?<=__inference_<lambda>_)\d+|(?<='_)\d+(?=_fifo_queue)")


def named(value):
    """Returns a value's `str` without what is another in each world."""
    return NOISE.sub("", str(value))


def seen(value, known):
    """Returns what tells a result from others; `known` maps ids of results to their order of appearance."""
    if isinstance(value, (np.ndarray, np.generic)):
        contents = repr(value.tolist()) if value.dtype == object else value.tobytes()
        flags = (value.flags.writeable, value.flags.c_contiguous, value.flags.aligned)
        return (type(value).__name__, value.dtype.str, value.dtype.name, value.shape, contents, flags,
                known.setdefault(id(value), len(known)))
    if isinstance(value, dict):
        return (type(value).__name__, getattr(value, "default_factory", None),
                [(type(key).__name__, named(key), seen(item, known)) for key, item in value.items()])
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [seen(item, known) for item in value]
    if isinstance(value, collections.abc.Mapping):
        return type(value).__name__, [(key, seen(value[key], known)) for key in value]
    if attrs.has(type(value)):
        return type(value).__name__, [seen(item, known) for item in attrs.astuple(value, recurse=False)]
    if value is None or isinstance(value, (bytes, str, bool, int, float)):
        return type(value).__name__, repr(value)
    return (type(value).__name__,)


def seen_error(error):
    """Returns all that can be seen of an error, less addresses and what Python says of its own stack."""
    text = named(error)
    if isinstance(error, RecursionError):
        text = text[:32]
    op = getattr(error, "op", None)
    return (type(error).__name__, text, op and op.name, named(getattr(error, "node_def", None)),
            getattr(error, "error_code", None), named(getattr(error, "message", None)),
            type(error.__context__).__name__, type(error.__cause__).__name__, error.__suppress_context__)


def outcome(call, *args):
    """Calls; returns what was seen of the result or the error."""
    try:
        return "result", seen(call(*args), {})
    except Exception as error:
        return "error", seen_error(error)


def assert_same(worlds, step, runs=RUNS):
    """Calls `step(world)` as often in each world; asserts that all outcomes are those of TensorFlow's, returns them."""
    outcomes = {mode: [outcome(step, world) for _ in range(runs)] for mode, world in worlds.items()}
    for mode in MODES:
        for ours, stock in zip(outcomes[mode], outcomes["tf"]):
            assert ours == stock, mode
    return outcomes["tf"]


def planned(worlds):
    """Returns how many steps took a plan so far, for each scheduling."""
    return {mode: worlds[mode].session.report()["planned_steps"] for mode in MODES}


# Fetches

Pair = collections.namedtuple("Pair", "first second")


class Triple(Pair):
    """A namedtuple's subclass with a constructor of its own."""

    def __new__(cls, first, second):
        return super().__new__(cls, second, first)


class OwnList(list):
    pass


class OwnTuple(tuple):
    pass


class OwnDict(dict):
    pass


class OwnMapping(collections.abc.Mapping):
    def __init__(self, items):
        self._items = dict(items)

    def __getitem__(self, key):
        return self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)


@attrs.define
class Attrs:
    first: object
    second: object


@dataclasses.dataclass
class Data:
    first: object


class OwnElement:
    """Stands for a graph element of its choice."""

    def __init__(self, element):
        self.element = element

    def _as_graph_element(self):
        return self.element


DTYPES = [dtype for dtype in sorted({getattr(tf, name) for name in dir(tf) if isinstance(
    getattr(tf, name), tf.DType)}, key=lambda dtype: dtype.name) if dtype not in (tf.resource, tf.variant)]
PLAIN_DTYPES = [dtype for dtype in DTYPES if not dtype.is_quantized and dtype != tf.string]
QUANTIZED = {tf.qint8: tf.int8, tf.quint8: tf.uint8, tf.qint16: tf.int16, tf.quint16: tf.uint16, tf.qint32: tf.int32}


def constant_of(dtype, shape):
    """Makes a constant with a few different values."""
    count = int(np.prod(shape))
    if dtype == tf.string:
        return tf.constant(np.array([b"\xff\0text"] * count, object).reshape(shape))
    if dtype in QUANTIZED:
        return tf.bitcast(tf.constant(np.arange(count).reshape(shape), QUANTIZED[dtype]), dtype)
    return tf.cast(tf.constant((np.arange(count) % 3).reshape(shape), tf.int32), dtype)


def build_fetches(w):
    w.vector = tf.constant([1.0, 2.0, 3.0], name="vector")
    w.scalar = tf.constant(2.5, name="scalar")
    w.empty = tf.constant(np.zeros((0, 3), np.float32))
    w.text = tf.constant(b"long text")
    w.texts = tf.constant([[b"aa", "\u00e9\u00e9"], [b"", b"b\0b"]])
    with v1.variable_scope("resource", use_resource=True):
        w.resource = v1.get_variable("v", initializer=[1.0, 2.0])
    with v1.variable_scope("reference", use_resource=False):
        w.reference = v1.get_variable("v", initializer=[1.0, 2.0])
        w.counter = v1.get_variable("counter", initializer=0)
    w.count = w.counter.assign_add(1)
    w.op = tf.group(w.vector, name="op")
    w.dense_shape = tf.constant([4, 3], tf.int64)
    w.sparse = tf.SparseTensor([[0, 1], [2, 2]], [5.0, 6.0], w.dense_shape)
    w.slices = tf.IndexedSlices(w.vector, tf.constant([0, 2, 4]), tf.constant([5]))
    w.shapeless_slices = tf.IndexedSlices(w.vector, tf.constant([0, 2, 4]))
    w.ragged = tf.ragged.constant([[[1], [2, 3]], [], [[4]]])
    w.handle = v1.get_session_handle(w.vector)
    w.split = tf.split(tf.range(6), 2, name="split")
    w.identity = tf.identity(w.vector)
    w.values = [w.resource.value(), w.reference.value()]
    w.unfetchable = tf.constant(1.0, name="unfetchable")
    w.graph.prevent_fetching(w.unfetchable.op)
    with tf.Graph().as_default():
        w.foreign = tf.constant(1.0, name="vector")
    w.dtypes = [constant_of(dtype, shape) for dtype in DTYPES for shape in ((), (3,), (2, 2), (0,))]
    w.key = object()
    w.many = [tf.constant([float(i)] * 2) for i in range(40)]
    w.wrapped_list = data_structures.ListWrapper([w.vector, w.scalar])
    w.wrapped_dict = data_structures.wrap_or_unwrap({"k": w.vector})
    w.wrapped_tuple = data_structures.wrap_or_unwrap((w.vector, Pair(w.scalar, w.op)))


@pytest.fixture(scope="module")
def fetch_worlds():
    """Worlds with one tensor, variable or composite of every kind."""
    worlds = make_worlds(build_fetches)
    yield worlds
    close(worlds)


def nested(leaf, depth):
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def ring(w):
    fetches = [w.vector]
    fetches.append(fetches)
    return fetches


# Those that our session must have a plan for.
PLANNED = {
    "op": lambda w: w.op,
    "tensor": lambda w: w.vector,
    "scalar": lambda w: w.scalar,
    "empty tensor": lambda w: w.empty,
    "text": lambda w: w.text,
    "texts": lambda w: w.texts,
    "resource variable": lambda w: w.resource,
    "reference variable": lambda w: w.reference,
    "update": lambda w: w.count,
    "name of a tensor": lambda w: "vector:0",
    "name of an op": lambda w: "vector",
    "second output": lambda w: w.split[1],
    "list": lambda w: [w.vector, w.op, w.scalar],
    "tuple": lambda w: (w.vector, w.op),
    "tuple of one": lambda w: (w.vector,),
    "namedtuple": lambda w: Pair(w.vector, w.op),
    "namedtuple of its own": lambda w: Triple(w.vector, [w.op, w.scalar]),
    "SparseTensorValue of tensors": lambda w: v1.SparseTensorValue(w.vector, w.scalar, w.text),
    "dict": lambda w: {"b": w.vector, "a": w.op, 3: w.scalar, True: w.texts, b"k": w.empty},
    "dict with object keys": lambda w: {w.key: w.vector, None: w.op, Pair: w.scalar},
    "OrderedDict": lambda w: collections.OrderedDict([("b", w.vector), ("a", w.op)]),
    "defaultdict": lambda w: collections.defaultdict(list, b=w.vector, a=w.op),
    "defaultdict of none": lambda w: collections.defaultdict(None, b=w.vector),
    "nested": lambda w: {"a": [w.vector, (w.scalar, Pair({"b": w.op}, [w.text]))], "c": ([w.vector],)},
    "empties beside": lambda w: [w.vector, [], (), {}, collections.OrderedDict()],
    "sparse": lambda w: w.sparse,
    "sparse with a part of it": lambda w: [w.sparse, w.dense_shape, w.sparse.values],
    "slices": lambda w: w.slices,
    "shapeless slices": lambda w: [w.shapeless_slices, w.vector],
    "ragged": lambda w: {"r": w.ragged},
    "same tensor again": lambda w: [w.vector, w.vector, {"a": w.vector}, w.scalar, w.scalar, w.text, w.text],
    "tensor and its names": lambda w: [w.vector, "vector:0", "vector", "vector:0"],
    "variable and its value": lambda w: [w.resource, w.reference, w.values],
    "same op again": lambda w: [w.op, "op", w.op],
    "tensor and its identity": lambda w: [w.vector, w.identity],
    "every dtype": lambda w: w.dtypes,
    "many": lambda w: w.many + w.many[:3],
    "deep": lambda w: nested(w.vector, 25),
}
# Those that go TensorFlow's way.
ODD = {
    "empty list": lambda w: [],
    "empty dict": lambda w: {},
    "bytes": lambda w: b"vector:0",
    "nested empties": lambda w: [[], ({},)],
    "list's subclass": lambda w: OwnList([w.vector, w.op]),
    "dict's subclass": lambda w: OwnDict(a=w.vector),
    "Mapping": lambda w: OwnMapping({"a": w.vector, "b": [w.op]}),
    "attrs": lambda w: Attrs(w.vector, [w.op]),
    "attrs class": lambda w: Attrs,
    "own element": lambda w: OwnElement(w.vector),
    "dict with float keys": lambda w: {3.5: w.vector, -0.0: w.scalar},
    "dict with tuple keys": lambda w: {("a", 1): w.vector},
    "session handle": lambda w: w.handle,
    "session handle within": lambda w: [w.vector, w.handle],
    "wrapped list": lambda w: w.wrapped_list,
    "wrapped dict": lambda w: w.wrapped_dict,
    "wrapped tuple": lambda w: w.wrapped_tuple,
    "deeper": lambda w: nested(w.vector, 60),
    "string's subclass": lambda w: np.str_("vector:0"),
}
WRONG = {
    "None": lambda w: None,
    "tuple's subclass": lambda w: OwnTuple([w.vector, w.op]),
    "None within": lambda w: [w.vector, None],
    "None as a value": lambda w: {"a": None},
    "number": lambda w: 3,
    "number within": lambda w: [w.vector, 3.5],
    "array": lambda w: np.zeros(2),
    "object": lambda w: w.key,
    "set": lambda w: {w.op},
    "dataclass": lambda w: Data(w.vector),
    "generator": lambda w: (t for t in [w.vector]),
    "values of a dict": lambda w: {"a": w.vector}.values(),
    "function": lambda w: len,
    "unknown name": lambda w: "nothing",
    "unknown output": lambda w: "vector:1",
    "bad name": lambda w: "vector:0:0",
    "empty name": lambda w: ["", w.vector],
    "foreign tensor": lambda w: w.foreign,
    "foreign within": lambda w: {"a": [w.vector, w.foreign]},
    "foreign op": lambda w: w.foreign.op,
    "unfetchable": lambda w: w.unfetchable,
    "unfetchable op": lambda w: [w.vector, w.unfetchable.op],
    "unfetchable by name": lambda w: "unfetchable:0",
    "structure with itself": ring,
    "far too deep": lambda w: nested(w.vector, 3000),
}


@pytest.mark.parametrize("fetches", PLANNED.values(), ids=PLANNED)
def test_fetches_take_plans(fetch_worlds, fetches):
    before = planned(fetch_worlds)
    outcomes = assert_same(fetch_worlds, lambda world: world.run(fetches(world)))
    assert {kind for kind, _ in outcomes} == {"result"}
    assert planned(fetch_worlds) == {mode: steps + RUNS for mode, steps in before.items()}


@pytest.mark.parametrize("fetches", ODD.values(), ids=ODD)
def test_fetches_of_other_kinds(fetch_worlds, fetches):
    outcomes = assert_same(fetch_worlds, lambda world: world.run(fetches(world)))
    assert {kind for kind, _ in outcomes} == {"result"} or fetches is ODD["attrs class"]


@pytest.mark.parametrize("fetches", WRONG.values(), ids=WRONG)
def test_wrong_fetches(fetch_worlds, fetches):
    outcomes = assert_same(fetch_worlds, lambda world: world.run(fetches(world)), 4)
    assert {kind for kind, _ in outcomes} == {"error"}


def test_resource_handle(fetch_worlds):
    # Its contents are addresses.
    def step(world):
        handle = world.run([world.resource.handle])[0]
        return type(handle).__name__, handle.dtype.name, handle.ndim
    assert_same(fetch_worlds, step)


def test_kept_structures(fetch_worlds):
    # The same container objects on every call, all kinds in turn, so that the cache overflows as well.
    kinds = [*PLANNED.values(), *ODD.values()]
    kept = {mode: [fetches(world) for fetches in kinds] for mode, world in fetch_worlds.items()}
    kept_of = {id(world): kept[mode] for mode, world in fetch_worlds.items()}
    for i in range(len(kinds)):
        assert_same(fetch_worlds, lambda world: world.run(kept_of[id(world)][i]), 3)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,)], ids=str)
def test_fetched_dtypes(fetch_worlds, dtype, shape):
    shapes = [(), (3,), (2, 2), (0,)]
    index = DTYPES.index(dtype) * len(shapes) + shapes.index(shape)
    assert_same(fetch_worlds, lambda world: world.run(world.dtypes[index]))


def test_session_handles_work(fetch_worlds):
    def step(world):
        handle = world.run([world.handle, world.vector])[0]
        assert handle._session is world.session._tf_sess()
        return handle.eval()
    assert_same(fetch_worlds, step)


# Each yields fetches, one after another, that a plan of an earlier one must not be taken for.
def changed_list(w):
    fetches = [w.vector]
    yield fetches
    fetches.append(w.scalar)
    yield fetches
    fetches[0] = w.identity
    yield fetches
    fetches[1] = [w.scalar]
    yield fetches
    del fetches[1:]
    yield fetches
    fetches[0] = "vector:0"
    yield fetches
    fetches[0] = "vector"
    yield fetches


def changed_dict(w):
    fetches = {"a": w.vector, "b": w.scalar}
    yield fetches
    fetches["a"] = w.identity
    yield fetches
    fetches["a"] = fetches.pop("a")
    yield fetches
    fetches["c"] = w.op
    yield fetches
    del fetches["b"]
    yield fetches


def changed_wrappers(w):
    fetches = data_structures.ListWrapper([w.vector])
    yield fetches
    fetches.append(w.scalar)
    yield fetches
    fetches = data_structures.wrap_or_unwrap({"a": w.vector})
    yield fetches
    fetches["a"] = w.scalar
    yield fetches


def changed_elements(w):
    fetches = OwnElement(w.vector)
    yield fetches
    fetches.element = w.scalar
    yield fetches
    fetches = Attrs(w.vector, w.op)
    yield fetches
    fetches.first = w.scalar
    yield fetches


def alike(w):
    yield [w.vector]
    yield (w.vector,)
    yield w.vector
    yield [[w.vector]]
    yield [w.vector, []]
    yield [w.vector, ()]
    yield Pair(w.vector, w.scalar)
    yield Triple(w.vector, w.scalar)
    yield (w.vector, w.scalar)
    yield [[w.vector], w.scalar]
    yield [[w.vector, w.scalar]]
    yield {"a": w.vector, "b": w.scalar}
    yield {"b": w.scalar, "a": w.vector}
    yield collections.OrderedDict(a=w.vector, b=w.scalar)
    yield {1: w.vector}
    yield {1.0: w.vector}
    yield {True: w.vector}
    yield {"1": w.vector}
    yield {b"1": w.vector}
    yield {1: {}, 2: w.vector}
    yield {1: {2: w.vector}}
    yield w.reference
    yield w.values[1]
    yield w.op
    yield "op"
    yield ["op"]


def make_three():
    return 3


def factories(w):
    for factory in (None, list, None, dict, make_three):
        yield collections.defaultdict(factory, a=w.vector)
    yield {"a": w.vector}


def zeros(w):
    yield {0.0: w.vector}
    yield {-0.0: w.vector}
    yield {0: w.vector}


def passing_classes(w):
    # Classes whose ids are free for the next one's.
    for i in range(10):
        yield collections.namedtuple(f"Passing{i}", "first")(w.vector)


def passing_keys(w):
    for _ in range(5):
        yield {float("nan"): w.vector, object(): w.scalar}


SEQUENCES = [changed_list, changed_dict, changed_wrappers, changed_elements, alike, factories, zeros, passing_classes,
             passing_keys]


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: sequence.__name__)
def test_no_structure_is_taken_for_another(fetch_worlds, sequence):
    def step(world):
        return [(kind, what) for _ in range(4) for kind, what in
                [outcome(world.run, fetches) for fetches in sequence(world)]]
    outcomes = {mode: step(world) for mode, world in fetch_worlds.items()}
    for mode in MODES:
        for i, (ours, stock) in enumerate(zip(outcomes[mode], outcomes["tf"])):
            assert ours == stock, (mode, i)


def test_object_keys_are_the_callers(fetch_worlds):
    for world in fetch_worlds.values():
        for _ in range(RUNS):
            key = object()
            assert next(iter(world.run({key: world.vector}))) is key


def test_random_structures(fetch_worlds):
    def structure(w, dice, depth):
        if depth == 0 or dice.random() < 0.3:
            return dice.choice([w.vector, w.scalar, w.op, w.resource, w.reference, "vector:0", w.sparse, w.ragged,
                                w.text, w.texts, *w.many[:4]])
        items = [structure(w, dice, depth - 1) for _ in range(dice.randrange(4))]
        return dice.choice([list, tuple, lambda x: Pair(x, x), lambda x: dict(enumerate(x)), OwnList,
                            lambda x: collections.OrderedDict(zip("abcd", x)), lambda x: Attrs(x, [])])(items)
    for seed in range(60):
        assert_same(fetch_worlds, lambda world: world.run(structure(world, random.Random(seed), 4)), 2)


# Feeds


def build_feeds(w):
    shapes = {
        "f": (tf.float32, [None]), "f3": (tf.float32, [3]), "ff": (tf.float32, [None, 3]), "f0": (tf.float32, []),
        "any": (tf.float32, None), "d": (tf.float64, None), "i": (tf.int32, None), "l": (tf.int64, None),
        "u": (tf.uint8, None), "ul": (tf.uint64, None), "b": (tf.bool, None), "c": (tf.complex64, None),
        "h": (tf.half, None), "bf": (tf.bfloat16, None), "s": (tf.string, [None]), "s0": (tf.string, []),
        "sany": (tf.string, None), "q": (tf.quint8, None),
    }
    w.feed = {name: v1.placeholder(dtype, shape, name=name) for name, (dtype, shape) in shapes.items()}
    w.out = {name: tf.identity(tensor, name=f"{name}_out") for name, tensor in w.feed.items()}
    w.zero = tf.constant(0.0)
    w.sparse = v1.sparse_placeholder(tf.float32, [None, 4])
    w.dense = tf.sparse.to_dense(w.sparse)
    w.slices = tf.IndexedSlices(v1.placeholder(tf.float32, [None]), v1.placeholder(tf.int32, [None]),
                                v1.placeholder(tf.int32, [1]))
    w.slices_out = [tf.identity(w.slices.values), tf.identity(w.slices.indices), tf.identity(w.slices.dense_shape)]
    w.ragged = v1.ragged.placeholder(tf.int32, 1)
    w.ragged_out = [tf.identity(w.ragged.values), tf.identity(w.ragged.row_splits)]
    w.constant = tf.constant([1.0, 2.0, 3.0], name="constant")
    w.doubled = tf.multiply(w.constant, 2.0, name="doubled")
    w.sum = tf.add(w.doubled, w.feed["f3"], name="sum")
    w.default = v1.placeholder_with_default(w.constant, [None], name="default")
    w.default_out = w.default * 2
    w.pair = tf.add(w.feed["f3"], w.feed["f0"])
    w.resource = v1.get_variable("resource", initializer=[1.0, 2.0, 3.0], use_resource=True)
    w.reference = v1.get_variable("reference", initializer=[1.0, 2.0, 3.0], use_resource=False)
    w.values = [w.resource.value(), w.reference.value()]
    w.variables_out = [w.resource + 1, w.reference + 1]
    w.assigns = [w.resource.assign(w.feed["f3"]).op, w.reference.assign(w.feed["f3"]).op]
    w.closed = tf.constant(1.0, name="unfeedable")
    w.closed_out = w.closed + 1
    w.graph.prevent_feeding(w.closed)
    w.handle = v1.get_session_handle(tf.constant([7.0, 8.0]))
    w.handle_holder, w.handle_out = v1.get_session_tensor(
        "GetSessionHandleV2;1;/job:localhost/replica:0/task:0/device:CPU:0", tf.float32)
    with tf.Graph().as_default():
        w.foreign = v1.placeholder(tf.float32, [3], name="f3")


@pytest.fixture(scope="module")
def feed_worlds():
    """Worlds with a placeholder and its identity for many dtypes and shapes."""
    worlds = make_worlds(build_feeds)
    yield worlds
    close(worlds)


class Converts:
    """Turns itself into an array."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.value, Exception):
            raise self.value
        return np.array(self.value, dtype)


class OwnArray(np.ndarray):
    pass


class OwnInt(int):
    pass


class OwnFloat(float):
    pass


def aligned(values, offset=0):
    """Returns a float32 array that begins `offset` bytes after a multiple of 64."""
    values = np.asarray(values, np.float32)
    memory = np.zeros(values.nbytes + 192, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    array = memory[start:start + values.nbytes].view(np.float32).reshape(values.shape)
    array[...] = values
    return array


def memmap(directory):
    array = np.memmap(directory / "fed", np.float32, "w+", shape=(3,))
    array[:] = [1, 2, 3]
    return array


def read_only(values):
    values.setflags(write=False)
    return values


ones = np.ones(3, np.float32)
grid = np.arange(12, dtype=np.float32).reshape(4, 3)
# (placeholder, value), the value made for each run.
VALUES = {
    "exact": ("f", lambda: ones),
    "exact, fixed shape": ("f3", lambda: ones),
    "exact, unknown rank": ("any", lambda: grid),
    "aligned": ("f3", lambda: aligned(ones)),
    "unaligned": ("f3", lambda: aligned(ones, 1)),
    "four bytes aligned": ("f3", lambda: aligned(ones, 4)),
    "empty": ("f", lambda: np.zeros(0, np.float32)),
    "empty of two dims": ("ff", lambda: np.zeros((0, 3), np.float32)),
    "empty list": ("f", list),
    "list": ("f", lambda: [1, 2.5, True]),
    "tuple": ("f", lambda: (1.0, 2.0)),
    "list of arrays": ("ff", lambda: [ones, ones]),
    "list of scalars": ("f", lambda: [np.float64(1), np.int8(2)]),
    "ragged list": ("any", lambda: [[1.0], [2.0, 3.0]]),
    "range": ("f", lambda: range(3)),
    "int": ("f0", lambda: 3),
    "int that float32 rounds": ("f0", lambda: 16777217),
    "huge int": ("f0", lambda: 10**50),
    "int's subclass": ("f0", lambda: OwnInt(3)),
    "float": ("f0", lambda: 2.5),
    "float's subclass": ("f0", lambda: OwnFloat(2.5)),
    "bool": ("f0", lambda: True),
    "text": ("f0", lambda: "2.5"),
    "text that is no number": ("f0", lambda: "x"),
    "None": ("f0", lambda: None),
    "None for a vector": ("f", lambda: None),
    "None in a list": ("f", lambda: [1.0, None]),
    "object": ("f0", object),
    "complex for float": ("f0", lambda: 1 + 2j),
    "generator": ("f", lambda: (x for x in [1.0])),
    "set": ("f", lambda: {1.0}),
    "dict": ("f", lambda: {1.0: 2.0}),
    "0-d array": ("f0", lambda: np.array(2.0, np.float32)),
    "scalar": ("f0", lambda: np.float32(2.0)),
    "float64 scalar": ("f0", lambda: np.float64(2.0)),
    "0-d for a vector": ("f", lambda: np.array(2.0, np.float32)),
    "float64": ("f", lambda: np.ones(3)),
    "float64 too large": ("f", lambda: np.array([1e300])),
    "int64 for float": ("f", lambda: np.arange(3)),
    "bool for float": ("f", lambda: np.array([True, False])),
    "complex array for float": ("f", lambda: np.array([1 + 2j])),
    "object array": ("f", lambda: np.array([1.0, 2], object)),
    "object array of text": ("f", lambda: np.array([1.0, "x"], object)),
    "datetime": ("f", lambda: np.array(["2020-01-01"], "datetime64[D]")),
    "structured": ("f", lambda: np.zeros(2, [("a", "f4")])),
    "float64 for int": ("i", lambda: np.array([1.5, 2.5])),
    "float for int": ("i", lambda: 1.5),
    "too large for int32": ("i", lambda: 2**31),
    "too large for int64": ("l", lambda: 2**63),
    "negative for uint8": ("u", lambda: -1),
    "too large for uint8": ("u", lambda: 256),
    "largest uint8": ("u", lambda: 255),
    "too large in a list": ("u", lambda: [256]),
    "negative in a list": ("u", lambda: [-1]),
    "int64 array too large for uint8": ("u", lambda: np.array([256, -1])),
    "uint64": ("ul", lambda: np.array([2**64 - 1], np.uint64)),
    "large int for uint64": ("ul", lambda: 2**64 - 1),
    "negative for uint64": ("ul", lambda: -1),
    "uint64 for int64": ("l", lambda: np.array([2**63 + 1], np.uint64)),
    "int64 for uint64": ("ul", lambda: np.array([-1])),
    "int 1 for bool": ("b", lambda: 1),
    "int 2 for bool": ("b", lambda: 2),
    "float for bool": ("b", lambda: 0.5),
    "bool array": ("b", lambda: np.array([True, False])),
    "int array for bool": ("b", lambda: np.array([0, 2])),
    "text for bool": ("b", lambda: "False"),
    "complex": ("c", lambda: np.array([1 + 2j], np.complex64)),
    "float for complex": ("c", lambda: 1.5),
    "half": ("h", lambda: np.array([1.5], np.float16)),
    "float32 for half": ("h", lambda: ones),
    "int too large for half": ("h", lambda: 70000),
    "bfloat16": ("bf", lambda: np.array([1.5], bfloat16)),
    "float32 for bfloat16": ("bf", lambda: ones),
    "int for bfloat16": ("bf", lambda: 3),
    "uint16 for bfloat16": ("bf", lambda: np.array([3], np.uint16)),
    "quantized": ("q", lambda: np.array([1, 2], np.uint8)),
    "quantized as it is": ("q", lambda: np.array([1, 2], np.uint8).astype(tf.quint8.as_numpy_dtype)),
    "int for quantized": ("q", lambda: 3),
    "byte-swapped": ("f", lambda: ones.astype(">f4")),
    "byte-swapped int": ("l", lambda: np.arange(3, dtype=">i8")),
    "strided": ("f", lambda: np.arange(10, dtype=np.float32)[::3]),
    "reversed": ("f", lambda: np.arange(10, dtype=np.float32)[::-1]),
    "Fortran order": ("ff", lambda: np.asfortranarray(grid)),
    "transposed": ("any", lambda: grid.T),
    "broadcast": ("ff", lambda: np.broadcast_to(ones, (4, 3))),
    "read-only": ("f3", lambda: read_only(aligned(ones))),
    "read-only bytes": ("f", lambda: np.frombuffer(bytes(8), np.float32)),
    "matrix": ("ff", lambda: np.asmatrix(grid)),
    "masked array": ("f", lambda: np.ma.array([1, 2], np.float32, mask=[True, False])),
    "array's subclass": ("f", lambda: ones.view(OwnArray)),
    "converts": ("f", lambda: Converts([1.0, 2.0])),
    "converts to a wrong shape": ("f", lambda: Converts([[1.0]])),
    "fails to convert": ("f", lambda: Converts(ValueError("no array"))),
    "memoryview": ("f", lambda: memoryview(ones)),
    "wrong size": ("f3", lambda: np.ones(4, np.float32)),
    "wrong rank": ("f", lambda: grid),
    "wrong second size": ("ff", lambda: np.ones((4, 2), np.float32)),
    "list of wrong size": ("f3", lambda: [1.0]),
    "number for a vector": ("f3", lambda: 1.0),
    "bytes in a list": ("s", lambda: [b"one", b"tw\0o"]),
    "text in a list": ("s", lambda: ["one", "\u00e9\U0001f600"]),
    "unicode array": ("s", lambda: np.array(["one", "\u00e9"])),
    "bytes array": ("s", lambda: np.array([b"one", b"four\0"])),
    "array of objects": ("s", lambda: np.array([b"one", "two"], object)),
    "array of other objects": ("s", lambda: np.array([b"one", 2, None], object)),
    "array of lone surrogates": ("s", lambda: np.array(["\ud800"], object)),
    "array of lists": ("sany", lambda: np.array([[b"a"], b"b"], object)),
    "object array of two dims": ("sany", lambda: np.array([[b"aa", b"bb"], [b"cc", b"dd"]], object)),
    "transposed objects": ("sany", lambda: np.array([[b"aa", b"bb"], [b"cc", b"dd"]], object).T),
    "strided objects": ("s", lambda: np.array([b"aa", b"bb", b"cc"], object)[::2]),
    "0-d objects": ("s0", lambda: np.array(b"text", object)),
    "empty objects": ("s", lambda: np.zeros(0, object)),
    "unset objects": ("s", lambda: np.empty(2, object)),
    "str": ("s0", lambda: "text"),
    "bytes": ("s0", lambda: b"text\0"),
    "int for text": ("s0", lambda: 3),
    "float for text": ("s0", lambda: 3.5),
    "None for text": ("s0", lambda: None),
    "str for a vector of text": ("s", lambda: "text"),
    "wrong rank of objects": ("s", lambda: np.array([[b"a"]], object)),
    "numbers for text": ("s", lambda: np.ones(2)),
}


@pytest.mark.parametrize(("name", "value"), VALUES.values(), ids=VALUES)
@pytest.mark.filterwarnings("ignore:.*invalid value encountered in cast:RuntimeWarning",
                            "ignore:.*overflow encountered in cast:RuntimeWarning",
                            "ignore:.*discards the imaginary part")
def test_fed_values(feed_worlds, name, value):
    assert_same(feed_worlds, lambda world: world.run([world.out[name], world.zero], {world.feed[name]: value()}))


def test_fed_memmap(feed_worlds, tmp_path):
    value = memmap(tmp_path)
    assert_same(feed_worlds, lambda world: world.run(world.out["f3"], {world.feed["f3"]: value}))


def test_exact_arrays_take_plans(feed_worlds):
    before = planned(feed_worlds)
    for name in ("exact", "byte-swapped", "strided", "list", "int", "float64", "read-only", "array of objects"):
        placeholder, value = VALUES[name]
        assert_same(feed_worlds, lambda world: world.run(world.out[placeholder], {world.feed[placeholder]: value()}))
    assert planned(feed_worlds) == {mode: steps + 8 * RUNS for mode, steps in before.items()}


def handle_feed(w):
    return w.handle_out, {w.handle_holder: w.session._tf_sess().run(w.handle)}


def handle_fetch(w):
    return [w.out["f"], w.feed["f"]], {w.feed["f"]: w.session._tf_sess().run(w.handle)}


# World -> (fetches, feed_dict).
FEED_DICTS = {
    "empty": lambda w: (w.constant, {}),
    "empty list": lambda w: (w.constant, []),
    "list": lambda w: (w.constant, [(w.constant, ones)]),
    "number": lambda w: (w.constant, 3),
    "OrderedDict": lambda w: (w.pair, collections.OrderedDict([(w.feed["f0"], 1.0), (w.feed["f3"], ones)])),
    "dict's subclass": lambda w: (w.out["f"], OwnDict({w.feed["f"]: ones})),
    "Mapping": lambda w: (w.out["f"], OwnMapping({w.feed["f"]: ones})),
    "name": lambda w: (w.out["f"], {"f:0": ones}),
    "name and tensor": lambda w: (w.pair, {"f0:0": 1.0, w.feed["f3"]: ones}),
    "same by name and tensor": lambda w: (w.out["f"], {"f:0": ones, w.feed["f"]: 2 * ones}),
    "name of an op": lambda w: (w.out["f"], {"f": ones}),
    "unknown name": lambda w: (w.out["f"], {"nothing:0": ones}),
    "op": lambda w: (w.out["f"], {w.feed["f"].op: ones}),
    "number as key": lambda w: (w.out["f"], {3: ones}),
    "None as key": lambda w: (w.out["f"], {None: ones}),
    "tuple keys": lambda w: (w.pair, {(w.feed["f3"], w.feed["f0"]): (ones, 2.0)}),
    "nested tuple keys": lambda w: (w.pair, {((w.feed["f3"],), w.feed["f0"]): ((ones,), 2.0)}),
    "tuple keys of another length": lambda w: (w.pair, {(w.feed["f3"], w.feed["f0"]): (ones,)}),
    "foreign tensor": lambda w: (w.out["f3"], {w.foreign: ones}),
    "foreign beside": lambda w: (w.out["f3"], {w.feed["f3"]: ones, w.foreign: ones}),
    "unfeedable": lambda w: (w.closed_out, {w.closed: 3.0}),
    "tensor as value": lambda w: (w.out["f"], {w.feed["f"]: w.constant}),
    "variable as value": lambda w: (w.out["f"], {w.feed["f"]: w.resource}),
    "tensor in a list as value": lambda w: (w.out["ff"], {w.feed["ff"]: [w.constant]}),
    "not fed": lambda w: (w.out["f"], None),
    "other fed": lambda w: (w.out["f"], {w.feed["f3"]: ones}),
    "unused": lambda w: (w.out["f"], {w.feed["f"]: ones, w.feed["i"]: 3}),
    "only unused": lambda w: (w.constant, {w.feed["f"]: ones}),
    "unused and wrong": lambda w: (w.constant, {w.feed["f3"]: [1.0]}),
    "constant": lambda w: (w.doubled, {w.constant: 2 * ones}),
    "constant of another shape": lambda w: (w.doubled, {w.constant: np.ones(4, np.float32)}),
    "within": lambda w: (w.sum, {w.doubled: 3 * ones, w.feed["f3"]: ones}),
    "within and before": lambda w: (w.sum, {w.doubled: 3 * ones, w.constant: ones, w.feed["f3"]: ones}),
    "default": lambda w: (w.default_out, {w.default: [5.0]}),
    "default not fed": lambda w: (w.default_out, {}),
    "fetched, too": lambda w: ([w.out["f"], w.feed["f"]], {w.feed["f"]: ones}),
    "fetched by name, too": lambda w: ("f:0", {w.feed["f"]: [1.0, 2.0]}),
    "only fetched": lambda w: (w.feed["f"], {w.feed["f"]: ones}),
    "constant, fetched, too": lambda w: ([w.doubled, w.constant], {w.constant: ones}),
    "its op fetched": lambda w: ([w.constant.op, w.doubled], {w.constant: ones}),
    "resource variable": lambda w: (w.variables_out, {w.resource: ones}),
    "reference variable": lambda w: (w.variables_out, {w.reference: ones}),
    "variable fetched, too": lambda w: ([w.reference, w.variables_out], {w.reference: ones}),
    "value of a variable": lambda w: (w.variables_out, dict.fromkeys(w.values, ones)),
    "variable's own output": lambda w: (w.variables_out, {w.reference.op.outputs[0]: ones}),
    "resource handle": lambda w: (w.variables_out, {w.resource.handle: ones}),
    "sparse": lambda w: (w.dense, {w.sparse: v1.SparseTensorValue([[0, 1]], [5.0], [2, 4])}),
    "sparse as a tuple": lambda w: (w.dense, {w.sparse: ([[0, 1]], np.array([5.0], np.float32), [2, 4])}),
    "sparse by its parts": lambda w: (w.dense, {
        w.sparse.indices: np.array([[0, 1]]), w.sparse.values: np.array([5.0], np.float32),
        w.sparse.dense_shape: np.array([2, 4])}),
    "sparse fetched, too": lambda w: (w.sparse, {w.sparse: v1.SparseTensorValue([[0, 1]], [5.0], [2, 4])}),
    "sparse of a wrong rank": lambda w: (w.dense, {w.sparse: v1.SparseTensorValue([[0]], [5.0], [2])}),
    "sparse with an array": lambda w: (w.dense, {w.sparse: ones}),
    "slices": lambda w: (w.slices_out, {w.slices: v1.IndexedSlicesValue([1.0], [2], [3])}),
    "slices as a tuple": lambda w: (w.slices_out, {w.slices: ([1.0], [2], [3])}),
    "ragged": lambda w: (w.ragged_out, {w.ragged: v1.ragged.constant_value([[1, 2], [], [3]], np.int32)}),
    "ragged as a list": lambda w: (w.ragged_out, {w.ragged: [[1, 2], []]}),
    "handle": handle_feed,
    "handle as a value": handle_fetch,
}


@pytest.mark.parametrize("feeds", FEED_DICTS.values(), ids=FEED_DICTS)
def test_feed_dicts(feed_worlds, feeds):
    assert_same(feed_worlds, lambda world: world.run(*feeds(world)))


def test_feed_dict_in_another_order(feed_worlds):
    names = ["f3", "f0", "i", "s0"]
    value = {"f3": ones, "f0": 2.0, "i": [3], "s0": "text"}

    def step(world, dice=random.Random(3)):
        outs = [world.out[name] for name in sorted(names)]
        results = []
        for order in (names, names[::-1], names[2:] + names[:2], dice.sample(names, 4)):
            moved = collections.OrderedDict((world.feed[name], value[name]) for name in order)
            moved.move_to_end(world.feed["f0"])
            results += [world.run(outs, {world.feed[name]: value[name] for name in order}), world.run(outs, moved)]
        return results
    assert_same(feed_worlds, step, 4)


def test_feeds_come_and_go(feed_worlds):
    # The plans of one set of fetches with other feeds are different plans.
    def step(world):
        both = {world.constant: ones, world.doubled: 2 * ones}
        return [world.run(world.sum, {world.feed["f3"]: ones, **more})
                for more in ({}, {world.constant: ones}, {world.doubled: ones}, both, {})]
    assert_same(feed_worlds, step, 5)


def test_fed_values_change_kind(feed_worlds):
    def step(world):
        return [outcome(world.run, world.out["f3"], {world.feed["f3"]: value}) for value in
                (ones, [1, 2, 3], [1, 2], None, ones.astype(np.float64), "x", ones[:2], ones)]
    outcomes = {mode: [step(world) for _ in range(5)] for mode, world in feed_worlds.items()}
    for mode in MODES:
        assert outcomes[mode] == outcomes["tf"], mode


def test_fed_arrays_belong_to_the_caller(feed_worlds):
    # Resource variables may share memory with a fed array, as they do with Session.run.
    def step(world):
        seen_values = []
        for offset in (0, 4):
            array = aligned([1, 2, 3], offset)
            out = world.run([world.out["f3"], *world.assigns], {world.feed["f3"]: array})[0]
            assert not np.shares_memory(out, array)
            out[:] = -1
            assert array.tolist() == [1, 2, 3]
            array[:] = 9
            seen_values += [out.copy(), *world.run([world.resource, world.reference])]
        return seen_values
    assert_same(feed_worlds, step)


def test_feed_dict_that_changes_while_it_is_read(feed_worlds):
    class Meddles:
        def __init__(self, feeds):
            self.feeds = feeds

        def __array__(self, dtype=None, copy=None):
            self.feeds.clear()
            return np.ones((), np.float32)

    def step(world):
        feeds = {}
        feeds.update({world.feed["f0"]: Meddles(feeds), world.feed["f3"]: ones})
        return [outcome(world.run, world.pair, feeds)]
    for world in feed_worlds.values():
        for _ in range(RUNS):
            # What comes out is TensorFlow's business (an error of the dict's iterator); the interpreter must live.
            assert step(world)[0][0] in ("result", "error")
    assert_same(feed_worlds, lambda world: world.run(world.pair, {world.feed["f0"]: 1.0, world.feed["f3"]: ones}))


# Whose memory results are


def build_aliasing(w):
    w.resource = v1.get_variable("resource", initializer=np.zeros(64, np.float32), use_resource=True)
    w.reference = v1.get_variable("reference", initializer=np.zeros(64, np.float32), use_resource=False)
    w.constant = tf.constant(np.arange(64, dtype=np.float32))
    w.quantized = tf.bitcast(tf.constant(np.arange(64), tf.uint8), tf.quint8)
    w.quantized_scalar = tf.bitcast(tf.constant(3, tf.uint8), tf.quint8)
    w.texts = tf.constant([b"one", b"two"])
    w.reshaped = tf.reshape(w.constant, [8, 8])
    w.fed = v1.placeholder(tf.float32, [64])
    w.identity = tf.identity(w.fed)
    w.sparse = tf.SparseTensor(tf.constant([[1]], tf.int64), w.constant[:1], tf.constant([4], tf.int64))
    w.ragged = tf.RaggedTensor.from_row_splits(w.constant, tf.constant([0, 3, 64], tf.int64))
    w.update = tf.group(w.resource.assign_add(tf.ones(64)), w.reference.assign_add(tf.ones(64)))


@pytest.fixture(scope="module")
def aliasing_worlds():
    """Worlds with arrays whose memory TensorFlow keeps."""
    worlds = make_worlds(build_aliasing)
    yield worlds
    close(worlds)


def arrays_in(result):
    if isinstance(result, np.ndarray):
        return [result]
    if isinstance(result, dict):
        result = result.values()
    return [array for item in result for array in arrays_in(item)] if isinstance(result, (list, tuple)) or (hasattr(
        result, "__iter__") and not isinstance(result, (bytes, np.generic))) else []


def everything(w):
    ragged = w.ragged
    return [w.resource, w.reference, w.constant, w.quantized, w.quantized_scalar, w.texts, w.reshaped, w.identity,
            {"same": w.constant}, w.sparse, ragged.flat_values, ragged.row_splits]


def test_results_never_change(aliasing_worlds):
    def step(world):
        fed = aligned(np.arange(64))
        result = world.run(everything(world), {world.fed: fed})
        before = seen(result, {})
        fed[:] = -5
        world.run(world.update)
        world.run([world.resource, world.reference, world.constant])
        assert seen(result, {}) == before
        return result
    assert_same(aliasing_worlds, step)


def test_writing_into_results_corrupts_nothing(aliasing_worlds):
    def step(world):
        fed = aligned(np.arange(64))
        results = [world.run(everything(world), {world.fed: fed}) for _ in range(2)]
        before = seen(results[1], {})
        for array in arrays_in(results[0]):
            array[...] = 99 if array.dtype != object else b"spoilt"
        assert fed.tolist() == list(range(64))
        assert seen(results[1], {}) == before
        return world.run(everything(world), {world.fed: fed})
    assert_same(aliasing_worlds, step)


def test_results_are_owned(aliasing_worlds):
    for mode in MODES:
        world = aliasing_worlds[mode]
        for _ in range(RUNS):
            results = world.run([world.resource, world.reference, world.constant, world.reshaped, world.identity],
                                {world.fed: np.zeros(64, np.float32)})
            for array in results:
                assert array.flags.owndata
                assert array.flags.writeable
                array.resize(3, refcheck=False)


# The cache


def build_many(w):
    w.rows = [tf.constant([float(i)] * 4) for i in range(50)]
    w.columns = [tf.constant(float(i)) for i in range(40)]


def run_sets(world, count, runs=1):
    """Runs that many different sets of fetches, each so often in a row, and checks the results."""
    for i in range(count):
        row, column = i % 50, i // 50
        for _ in range(runs):
            vector, scalar = world.run([world.rows[row], world.columns[column]])
            assert (vector.tolist(), scalar) == ([row] * 4, column)


@pytest.mark.parametrize("mode", MODES)
def test_cache_is_bounded(mode):
    world = World(lambda: fasthooks.MonitoredSession(scheduling=mode), build_many)
    run_sets(world, CAPACITY + 100, 2)
    report = world.session.report()
    assert len(report["plans"]) == CAPACITY
    assert report["plans_made"] == CAPACITY + 100
    assert report["plans_evicted"] == 100
    assert report["planned_steps"] == report["steps"] == 2 * (CAPACITY + 100)
    run_sets(world, 10, RUNS)
    world.session.close()


@pytest.mark.parametrize("runs", [1, RUNS])
def test_closed_session_is_freed(runs):
    for world in make_worlds(build_many).values():
        run_sets(world, 3, runs)
        raw = weakref.ref(world.session._tf_sess())
        world.session.close()
        gc.collect()
        assert raw() is None, world.session


def test_structures_of_one_set_share_its_schedule():
    world = World(fasthooks.MonitoredSession, build_many)
    row, column = world.rows[0], world.columns[0]
    for fetches in ([row, column], {"row": row, "column": column}, [column, (row,)], [row, column, row]):
        for _ in range(RUNS // 4 + 1):
            world.run(fetches)
    plans = world.session.report()["plans"]
    assert len(plans) == 4
    assert len({plan["reason"] for plan in plans}) == 1
    assert "pool " in plans[0]["reason"], "they were timed together"
    world.session.close()


def test_plans_least_recently_used_go_first():
    world = World(lambda: fasthooks.MonitoredSession(scheduling="pool"), build_many)
    for i in range(CAPACITY + 500):
        world.run(world.rows[i % 50], None)
        world.run([world.rows[i % 50], world.columns[i // 50]])
        world.run([world.rows[0], world.rows[1]])
    names = [plan["fetches"] for plan in world.session.report()["plans"]]
    assert [world.rows[0].name, world.rows[1].name] in names
    assert len(names) == CAPACITY
    world.session.close()


def test_declined_requests_are_bounded():
    world = World(lambda: fasthooks.MonitoredSession(scheduling="pool"), build_many)

    class Element(OwnElement):
        pass
    elements = [Element(row) for row in world.rows * 30]
    alive = [weakref.ref(element) for element in elements]
    while elements:
        world.run(elements.pop())
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= CAPACITY
    world.session.close()


# Graphs that grow, options, threads


def test_ops_added_later(fetch_worlds):
    def grow(world):
        before = world.run([world.vector, world.op])
        wrong = outcome(world.run, "later:0")
        world.graph._unsafe_unfinalize()
        with world.graph.as_default():
            later = tf.add(world.vector, 1.0, name="later")
        kinds = ("later:0", later, [later, world.vector], [world.vector, world.op])
        return [before, wrong, [world.run(fetches) for fetches in kinds for _ in range(RUNS)]]
    assert_same(fetch_worlds, grow, 1)
    made = {mode: fetch_worlds[mode].session.report()["plans_made"] for mode in MODES}
    assert_same(fetch_worlds, lambda world: world.run([world.vector, world.op]))
    assert {mode: fetch_worlds[mode].session.report()["plans_made"] for mode in MODES} == made


def test_graph_checks_of_every_run():
    def build(w):
        w.fed = v1.placeholder(tf.float32, [None], name="fed")
        w.out = tf.identity(w.fed, name="out")
        w.other = tf.constant(1.0, name="other")
    worlds = make_worlds(build)

    def step(world):
        world.run([world.out, world.other], {world.fed: ones})

    def narrow(world):
        world.fed.set_shape([3])
        return world.run([world.out, world.other], {world.fed: np.ones(4, np.float32)})

    def forbid_fetch(world):
        world.graph.prevent_fetching(world.other.op)
        return world.run([world.out, world.other], {world.fed: ones})

    def forbid_feed(world):
        world.graph.prevent_feeding(world.fed)
        return world.run(world.out, {world.fed: ones})
    assert_same(worlds, step)
    for change in (narrow, forbid_fetch, forbid_feed):
        assert_same(worlds, lambda world: world.run(world.out, {world.fed: ones}))
        assert assert_same(worlds, change, 1)[0][0] == "error"
    close(worlds)


def test_options_and_metadata_of_the_caller(fetch_worlds):
    def traced(world):
        options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE, output_partition_graphs=True)
        metadata = v1.RunMetadata()
        result = world.run([world.vector, world.op], options=options, run_metadata=metadata)
        return [result, len(metadata.step_stats.dev_stats) > 0, len(metadata.partition_graphs)]

    def partly(world):
        metadata = v1.RunMetadata()
        return [world.session.run(world.vector, None, v1.RunOptions(timeout_in_ms=10_000_000)),
                world.session.run(world.vector, None, None, metadata), metadata.ByteSize()]
    assert_same(fetch_worlds, lambda world: world.run([world.vector, world.op]))
    assert assert_same(fetch_worlds, traced, 3)[0][1][1][1] == ("bool", "True")
    assert_same(fetch_worlds, partly, 3)
    for wrong in ("x", 3, v1.RunMetadata()):
        assert_same(fetch_worlds, lambda world: world.run(world.vector, options=wrong), 2)


@pytest.mark.parametrize("mode", MODES)
def test_eight_threads(mode):
    def build(w):
        build_many(w)
        w.fed = v1.placeholder(tf.float32, [None])
        w.doubled = w.fed * 2
    world = World(lambda: fasthooks.MonitoredSession(scheduling=mode), build)

    def work(number):
        for i in range(60):
            kinds = [world.doubled, world.rows[number], (world.rows[number + i % 30], world.columns[number])]
            fed = np.full(number + 1, number, np.float32)
            got, row, (other, column) = world.run(kinds, {world.fed: fed})
            assert got.tolist() == [2 * number] * (number + 1)
            assert (row.tolist(), other.tolist(), column) == ([number] * 4, [number + i % 30] * 4, number)
            shared = world.run({"shared": world.rows[0]})["shared"]
            assert shared.tolist() == [0] * 4
            shared[:] = number
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))
    report = world.session.report()
    assert report["planned_steps"] == report["steps"] == 8 * 120
    world.session.close()
