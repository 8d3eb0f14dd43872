"""Aligned arrays, and feeds that are made ahead of their step."""

import collections
import copy
import gc
import itertools
import pickle
import textwrap
import threading
import traceback
import types

import apart
import numpy as np
import pytest
import tensorflow as tf
from helpers import MIXES, OUR_WAYS, STOCK, STOCK_MIX, quick_creator, record, same_in_way
from tensorflow.python.ops import data_flow_ops

import fasthooks
from fasthooks import aligned_copy, aligned_empty
from fasthooks.hooks import feeds
from fasthooks.step import declining

v1 = tf.compat.v1
SHAPE = [300]
STEPS = 30
bfloat16 = tf.bfloat16.as_numpy_dtype
OUR_HOOKS = [name for name, api in MIXES.items() if api.hooks is fasthooks]
every_session = pytest.mark.parametrize("api", [MIXES[name] for name in OUR_HOOKS], ids=OUR_HOOKS)
every_prefetch = pytest.mark.parametrize("prefetch", [1, 3])


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name == "fasthooks-feed"]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert feed_threads() == []


def feed_hook(run, feed_fn, prefetch):
    """The hook under test, where it is ours with prefetched batches."""
    return run.api.FeedFnHook(feed_fn, **({} if run.api.hooks is STOCK else {"prefetch": prefetch}))


def open_session(api, hooks):
    nothing = tf.constant([], tf.string)
    scaffold = api.Scaffold(ready_op=nothing, ready_for_local_init_op=nothing, local_init_op=tf.no_op())
    return api.MonitoredSession(api.ChiefSessionCreator(scaffold), hooks)


def full(number, dtype=np.float32):
    return np.full(SHAPE, number, dtype)


class Numbers:
    """A feed_fn: arrays full of 0, 1, 2, ...; raises what `errors` has for a call."""

    def __init__(self, key, errors=None, make=full):
        self.key = key
        self.errors = errors or {}
        self.make = make
        self.calls = 0

    def __call__(self):
        number = self.calls
        self.calls += 1
        if number in self.errors:
            raise self.errors[number]
        return {self.key: self.make(number)}


@pytest.fixture
def x():
    """A placeholder in a graph of its own, which is the default graph."""
    with tf.Graph().as_default():
        yield v1.placeholder(tf.float32, SHAPE, name="x")


# Aligned arrays


@pytest.mark.parametrize("shape", [(), 5, [3], (2, 3, 5), (0,), (4, 0, 2), np.int64(7), np.array([2, 2]), range(1, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", np.float64, ">f4", bool, np.uint8, "complex128", bfloat16, tf.qint8.as_numpy_dtype],
                         ids=str)
def test_aligned_empty(shape, dtype):
    array, plain = aligned_empty(shape, dtype), np.empty(shape, dtype)
    assert type(array) is np.ndarray
    assert (array.shape, array.dtype) == (plain.shape, plain.dtype)
    assert array.__array_interface__["data"][0] % 64 == 0
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
    array[...] = np.ones(shape).astype(dtype)
    np.testing.assert_array_equal(array, np.ones(shape).astype(dtype))


@pytest.mark.parametrize(("shape", "dtype", "error", "message"), [
    (3, object, TypeError, r"dtype must be neither strings nor objects.*got dtype\('O'\)"),
    (3, "S5", TypeError, r"dtype.*got dtype\('S5'\)"),
    (3, str, TypeError, r"dtype.*got dtype\('<U"),
    (3, [("a", object)], TypeError, r"dtype.*got dtype\(\[\('a', 'O'\)\]\)"),
    (3, None, TypeError, "dtype must be given; got None"),
    (3, "no such type", TypeError, "no such type"),
    (-1, "f4", ValueError, "shape must not have negative sizes; got -1"),
    ((2, -3), "f4", ValueError, r"shape must not have negative sizes; got \(2, -3\)"),
    (2.0, "f4", TypeError, "shape must be an integer or integers; got 2.0"),
    ((2, None), "f4", TypeError, r"shape must be an integer or integers; got \(2, None\)"),
    (None, "f4", TypeError, "shape must be an integer or integers; got None"),
    ("23", "f4", TypeError, "shape must be an integer or integers; got '23'"),
], ids=str)
def test_aligned_empty_errors(shape, dtype, error, message):
    with pytest.raises(error, match=message):
        aligned_empty(shape, dtype)


class Subclass(np.ndarray):
    """An array of a type of its own."""


def read_only(array):
    array.flags.writeable = False
    return array


GRID = np.arange(12.0).reshape(3, 4)
SOURCES = {
    "list": [[1, 2], [3, 4]], "number": 2.5, "0-d": np.array(3, np.int16), "empty": np.empty((0, 3), np.float32),
    "fortran": np.asfortranarray(GRID), "transposed": GRID.T, "strided": GRID[::2, ::-1], "swapped": GRID.astype(">f8"),
    "subclass": GRID.view(Subclass), "matrix": np.ma.array(GRID), "read-only": read_only(GRID.copy()),
    "bfloat16": GRID.astype(bfloat16), "bool": GRID > 3, "broadcast": np.broadcast_to(np.float32(2), (5, 5)),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_aligned_copy(source):
    array = aligned_copy(source)
    plain = np.asarray(source)
    assert type(array) is np.ndarray
    assert array.dtype == plain.dtype
    np.testing.assert_array_equal(array, plain, strict=True)
    assert array.__array_interface__["data"][0] % 64 == 0
    assert array.flags.c_contiguous and array.flags.writeable
    assert not np.shares_memory(array, plain)


@pytest.mark.parametrize("source", ["text", [b"a"], np.array([None]), ["a", "b"]], ids=repr)
def test_aligned_copy_of_what_tensorflow_always_copies(source):
    with pytest.raises(TypeError, match="dtype must be neither strings nor objects"):
        aligned_copy(source)


def test_views_keep_the_data_alive():
    view = aligned_copy(np.arange(100_000)).reshape(100, 1000)[50:, ::2]
    gc.collect()
    others = [aligned_copy(np.full(100_000, -1)) for _ in range(10)]
    np.testing.assert_array_equal(view, np.arange(100_000).reshape(100, 1000)[50:, ::2])
    assert len(others) == 10


@pytest.mark.parametrize("sessions", [STOCK, fasthooks], ids=["tf_session", "our_session"])
@pytest.mark.parametrize("aligned", [True, False])
def test_tensorflow_takes_aligned_arrays_without_a_copy(x, sessions, aligned):
    """A variable that is assigned from a placeholder lives in the fed array: there one can see which was copied."""
    variable = v1.get_variable("v", SHAPE, use_resource=True)
    assign = variable.assign(x, read_value=False)
    array = aligned_copy(full(1)) if aligned else aligned_empty(1 + SHAPE[0], np.float32)[1:]
    with sessions.MonitoredSession() as session:
        for _ in range(3):
            array[:] = 1
            session.run(assign, {x: array})
        array[:] = 2
        assert session.run(variable)[0] == (2 if aligned else 1)


# The values that are fed


VALUES = {
    "array": (tf.float32, full),
    "float64": (tf.float32, lambda i: full(i, np.float64) / 3),
    "list": (tf.float32, lambda i: [i, 2.5]),
    "list of arrays": (tf.float32, lambda i: [full(i), full(2)]),
    "integers": (tf.float32, lambda i: np.arange(i)),
    "fortran": (tf.float32, lambda i: np.asfortranarray(GRID + i)),
    "strided": (tf.float32, lambda i: (GRID + i)[::-1, ::2]),
    "swapped": (tf.float32, lambda i: (GRID + i).astype(">f4")),
    "read-only": (tf.float32, lambda i: read_only(full(i))),
    "subclass": (tf.float32, lambda i: full(i).view(Subclass)),
    "masked": (tf.float32, lambda i: np.ma.array([1.0, i], mask=[True, False])),
    "0-d": (tf.float32, lambda i: np.array(i / 7)),
    "number": (tf.float32, lambda i: i),
    "numpy number": (tf.float32, lambda i: np.float64(i)),
    "zero size": (tf.float32, lambda i: np.empty([0, i])),
    "buffer": (tf.int32, lambda i: memoryview(bytes([i, 2, 3]))),
    "growing": (tf.float32, lambda i: np.full(10 * i, i)),
    "shrinking": (tf.float32, lambda i: np.full(100 - 10 * i, i)),
    "truncated": (tf.int32, lambda i: full(i) + 0.75),
    "wrapped": (tf.uint8, lambda i: np.full(3, 250 + i, np.int64)),
    "bool": (tf.bool, lambda i: np.arange(4) % (i + 1)),
    "complex": (tf.complex64, full),
    "half": (tf.half, full),
    "bfloat16": (tf.bfloat16, lambda i: GRID + i),
    "bfloat16 as it is": (tf.bfloat16, lambda i: (GRID + i).astype(bfloat16)),
    "strings": (tf.string, lambda i: ["a", f"b{i}"]),
    "byte strings": (tf.string, lambda i: np.array([b"a", b"b%d" % i])),
    "string objects": (tf.string, lambda i: np.array(["a", f"b{i}"], object)),
    "parsed": (tf.float32, lambda i: np.array(["1", str(i)])),
    "quantized": (tf.qint8, lambda i: np.array([(1,), (i,)], tf.qint8.as_numpy_dtype)),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values(same_as_stock, kind):
    dtype, make = VALUES[kind]

    def program(run):
        fed = v1.placeholder(dtype)
        shape, same = tf.shape(fed), tf.bitcast(fed, tf.int8) if dtype == tf.qint8 else tf.identity(fed)
        with run.api.MonitoredSession(quick_creator(run), [feed_hook(run, Numbers(fed, make=make), 2)]) as session:
            for _ in range(6):
                run.note(session.run([same, shape]))

    assert same_as_stock(program).error is None


@pytest.mark.parametrize("value", [
    np.ones([2, 2]), [1, 2], "x", None, [None, 1], ["1"], [1, [2]], {}, object(), 2 ** 70, [2 ** 70], np.array([{}] * 300),
    np.ones(SHAPE, complex), (i for i in range(3)),
])
def test_bad_values(same_as_stock, value):
    def program(run):
        fed = v1.placeholder(tf.float32, SHAPE, name="fed")
        batches = iter([{fed: full(1)}, {fed: value}])
        with run.api.MonitoredSession(quick_creator(run), [feed_hook(run, lambda: next(batches), 2)]) as session:
            for _ in range(2):
                run.note(session.run(fed[0]))

    assert same_as_stock(program).error is not None


@pytest.mark.parametrize("dtype", [tf.int32, tf.uint8, tf.int64])
@pytest.mark.parametrize("value", [2 ** 40, 2 ** 70, -1, [2 ** 40], True], ids=str)
def test_integers_beyond_the_dtype(same_as_stock, dtype, value):
    def program(run):
        fed = v1.placeholder(dtype, name="fed")
        same = fed + 0
        with run.api.MonitoredSession(quick_creator(run), [feed_hook(run, lambda: {fed: value}, 2)]) as session:
            run.note(session.run(same))

    same_as_stock(program, declines=(declining.FED_VALUE,))


class OwnItems(dict):
    def items(self):
        return [(key, [10.0]) for key in self]


class FalseDict(dict):
    def __bool__(self):
        return False


class OwnValues(dict):
    def __getitem__(self, key):
        return [10.0]


KEYS = {
    "name": lambda fed, sparse: {"fed:0": [1.0]},
    "name of the op": lambda fed, sparse: {"fed": [1.0]},
    "no such name": lambda fed, sparse: {"nobody:0": [1.0], fed: [1.0]},
    "number": lambda fed, sparse: {3: [1.0]},
    "foreign": lambda fed, sparse: {FOREIGN: [1.0], fed: [1.0]},
    "operation": lambda fed, sparse: {fed.op: [1.0]},
    "sparse": lambda fed, sparse: {fed: [1.0], sparse: v1.SparseTensorValue([[1]], [2.0], [3])},
    "sparse, a tuple": lambda fed, sparse: {sparse: ([[1]], [2.0], [3]), fed: [1.0]},
    "nested": lambda fed, sparse: {(fed, sparse.values): ([1.0], [2.0]), (sparse.indices, sparse.dense_shape): ([[1]], [3])},
    "value is a tensor": lambda fed, sparse: {fed: fed},
    "ordered": lambda fed, sparse: collections.OrderedDict({fed: [1.0]}),
    "a dict with items of its own": lambda fed, sparse: OwnItems({fed: [1.0]}),
    "a dict with values of its own": lambda fed, sparse: OwnValues({fed: [1.0]}),
    "empty": lambda fed, sparse: {},
    "None": lambda fed, sparse: None,
    "not a dict": lambda fed, sparse: [fed],
}
with tf.Graph().as_default():
    FOREIGN = v1.placeholder(tf.float32)


@pytest.mark.parametrize("kind", KEYS)
def test_keys(same_as_stock, kind):
    def program(run):
        fed, sparse = v1.placeholder(tf.float32, name="fed"), v1.sparse_placeholder(tf.float32)
        fetches = [tf.identity(fed) if kind not in ("empty", "None") else tf.constant(1.0)]
        if "sparse" in kind or kind == "nested":
            fetches.append(sparse.values + 0)
        hook = feed_hook(run, lambda: KEYS[kind](fed, sparse), 2)
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            for _ in range(3):
                run.note(session.run(fetches))

    same_as_stock(program, declines=(declining.FED_VALUE, "ValueError", "KeyError", "a feed key has the type"))


@pytest.mark.parametrize("kind, planned", [
    (OwnItems, True), (OwnValues, False), (FalseDict, True), (collections.OrderedDict, True)])
@pytest.mark.parametrize("way", OUR_WAYS)
def test_the_callers_dict_is_of_its_own_kind(way, kind, planned, tmp_path):
    def program(run):
        fed = v1.placeholder_with_default([7.0], [1])
        doubled = fed * 2
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for number in range(3):
                run.note(session.run(doubled, kind({fed: [float(number)]})))

    ours, _ = same_in_way(way, program, kind.__name__, tmp_path)
    assert ours.planned == (3 if planned else 0) and ours.steps == 3


class HasKeys:
    """As much of a mapping as `dict.update` asks for."""

    def __init__(self, items):
        self.items = dict(items)

    def keys(self):
        return self.items.keys()

    def __getitem__(self, key):
        return self.items[key]


@every_prefetch
@pytest.mark.parametrize("kind", [lambda batch: batch, collections.UserDict, types.MappingProxyType, HasKeys])
def test_feed_fn_may_use_its_arrays_and_dict_again(same_as_stock, prefetch, kind):
    def program(run):
        fed, names = v1.placeholder(tf.float32), v1.placeholder(tf.string)
        same = [tf.identity(fed), tf.identity(names)]
        array, strings, batch = aligned_empty(SHAPE, np.float32), np.array(["", "s"], object), {}
        count = itertools.count()

        def feed_fn():
            array[:] = strings[0] = next(count)
            strings[0] = str(strings[0])
            batch.update({fed: array, names: strings})
            return kind(batch)

        with run.api.MonitoredSession(quick_creator(run), [feed_hook(run, feed_fn, prefetch)]) as session:
            for _ in range(10):
                run.note(session.run(same))

    assert same_as_stock(program).error is None


def test_feeds_of_others_and_conflicts(same_as_stock):
    def program(run):
        fed, other = v1.placeholder(tf.float32), v1.placeholder(tf.float32)
        total = fed + other
        first = total[0]
        hooks = [feed_hook(run, Numbers(fed), 2), run.api.NanTensorHook(first)]
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            run.note(session.run(first, {other: full(3)}))
            run.note(session.run(first, {fed: full(3), other: full(3)}))

    assert same_as_stock(program).error[0] == "RuntimeError"


# Memory: what was fed once does not change


def store_in_variables(x, use_resource):
    variables = [v1.get_variable(f"v{i}", SHAPE, use_resource=use_resource) for i in range(4)]
    targets = [variable.assign(x).op if use_resource else variable.assign(x) for variable in variables]

    def step(session, number):
        session.run(targets[number % 4])
        if number >= 4:
            stored = session._tf_sess().run(variables)
            assert sorted(value[0] for value in stored) == list(range(number - 3, number + 1))
            assert all((value == value[0]).all() for value in stored)

    return step, lambda session: []


def store_in_a_queue(x):
    queue = v1.FIFOQueue(STEPS, [tf.float32], [SHAPE])
    enqueue, dequeue = queue.enqueue([x]), queue.dequeue()
    return (lambda session, number: session.run(enqueue),
            lambda session: [session._tf_sess().run(dequeue) for _ in range(STEPS)])


def store_in_a_staging_area(x):
    area = data_flow_ops.StagingArea([tf.float32], [SHAPE])
    put, (get,) = area.put([x]), area.get()
    return lambda session, number: session.run(put), lambda session: [session._tf_sess().run(get) for _ in range(STEPS)]


def keep_results(fetch):
    kept = []
    return lambda session, number: kept.append(session.run(fetch)), lambda session: kept


def store_in_python(x):
    kept = []
    call = v1.py_func(lambda array: kept.append(array[10:]), [x], [])
    return lambda session, number: session.run(call), lambda session: kept


STORES = {
    "resource variable": lambda x: store_in_variables(x, True),
    "reference variable": lambda x: store_in_variables(x, False),
    "queue": store_in_a_queue,
    "staging area": store_in_a_staging_area,
    "fetched identity": lambda x: keep_results(tf.identity(x)),
    "fetched slice": lambda x: keep_results(x[5:]),
    "fetched placeholder": keep_results,
    "py_func": store_in_python,
}


@every_session
@every_prefetch
@pytest.mark.parametrize("store", STORES)
def test_what_was_fed_never_changes(x, api, prefetch, store):
    step, read = STORES[store](x)
    with open_session(api, [api.FeedFnHook(Numbers(x), prefetch=prefetch)]) as session:
        for number in range(STEPS):
            step(session, number)
        for number, value in enumerate(read(session)):
            assert (value == number).all()


@every_session
@pytest.mark.parametrize("fetch", ["identity", "placeholder"])
def test_fetched_values_are_the_callers_own(x, api, fetch):
    fetches = x if fetch == "placeholder" else tf.identity(x)
    with open_session(api, [api.FeedFnHook(Numbers(x), prefetch=2)]) as session:
        for number in range(STEPS):
            value = session.run(fetches)
            assert (value == number).all()
            value[:] = -1


class Watched(fasthooks.FeedFnHook):
    """Notes where the batches lie."""

    def before_run(self, run_context):
        args = super().before_run(run_context)
        (value,) = args.feed_dict.values()
        self.addresses = [*getattr(self, "addresses", []), value.__array_interface__["data"][0]]
        self.dtype = value.dtype
        return args


@every_session
@every_prefetch
def test_memory_is_aligned_and_used_again(x, api, prefetch):
    hook = Watched(Numbers(x, make=lambda i: full(i, np.float64)), prefetch=prefetch)
    first = x[0]
    with open_session(api, [hook]) as session:
        for number in range(STEPS):
            assert session.run(first) == number
    assert hook.dtype == np.float32
    assert not any(address % 64 for address in hook.addresses)
    # In the queue, in the making, in the step, and not yet given back.
    assert len(set(hook.addresses)) <= prefetch + 4


def test_blocks_that_are_too_small_go():
    with tf.Graph().as_default():
        feed = feeds._Feed(v1.placeholder(tf.float32, [None]), 3)
    addresses = []
    for i in range(12):
        value = feed.own(np.full(1000 if i % 2 else 10 + i, i))
        assert value.dtype == np.float32 and (value == i).all()
        addresses.append(value.ctypes.data)
        del value
    # From the first large one on there is one block for all.
    assert len(set(addresses[1:])) == 1


# Threads and order


def test_without_prefetch_it_is_tensorflows(same_as_stock):
    def program(run):
        fed = v1.placeholder(tf.float32)
        doubled = 2 * fed
        threads, value = [], [1.0]

        def feed_fn():
            threads.append(threading.current_thread() is threading.main_thread())
            return {fed: value}

        hook = feed_hook(run, feed_fn, 0)
        run.note(vars(hook).get("_prefetcher"))
        with run.api.MonitoredSession(quick_creator(run), [hook]) as session:
            for _ in range(3):
                run.note(session.run(doubled), threads)
                value[0] += 1
            run.note(len(feed_threads()))
            assert hook.before_run(None).feed_dict[fed] is value

    assert same_as_stock(program).error is None


@every_session
@every_prefetch
def test_runs_ahead_in_one_thread_and_no_further(x, api, prefetch):
    begun = [0]
    ahead, threads, full_queue = [], set(), threading.Event()

    def feed_fn():
        ahead.append(len(ahead) + 1 - begun[0])
        threads.add(threading.current_thread())
        if ahead[-1] == prefetch:
            full_queue.set()
        return {x: full(len(ahead))}

    first = x[0]
    with open_session(api, [api.FeedFnHook(feed_fn, prefetch=prefetch)]) as session:
        for number in range(STEPS):
            assert full_queue.wait(60)
            full_queue.clear()
            begun[0] += 1
            assert session.run(first) == number + 1
        assert feed_threads() == list(threads)
        assert all(thread.daemon for thread in threads)
    assert max(ahead) == prefetch
    assert len(threads) == 1


@every_session
def test_default_graph_of_feed_fn(x, api):
    graphs = set()

    def feed_fn():
        graphs.add(tf.compat.v1.get_default_graph())
        return {tf.compat.v1.get_default_graph().get_tensor_by_name("x:0"): full(1)}

    total = tf.reduce_sum(x)
    with open_session(api, [api.FeedFnHook(feed_fn, prefetch=2)]) as session:
        assert session.run(total) == SHAPE[0]
    assert graphs == {x.graph}


ERRORS = {
    "ValueError": ValueError("no batch"), "StopIteration": StopIteration("end"), "KeyboardInterrupt": KeyboardInterrupt("key"),
    "OutOfRangeError": tf.errors.OutOfRangeError(None, None, "end"), "SystemExit": SystemExit(3),
    "InternalError": tf.errors.InternalError(None, None, "x"),
}


class Listener(v1.train.SessionRunHook):
    """Notes whether the session ended well."""

    def __init__(self, run):
        self.run = run

    def end(self, session):
        self.run.note("end")


@every_prefetch
@pytest.mark.parametrize("kind", ERRORS)
def test_errors_come_to_the_step_of_their_batch(same_as_stock, kind, prefetch):
    def program(run):
        error = copy.copy(ERRORS[kind])
        fed = v1.placeholder(tf.float32, SHAPE)
        first = fed[0]
        numbers = Numbers(fed, {4: error})
        hooks = [feed_hook(run, numbers, prefetch), Listener(run)]
        try:
            with run.api.MonitoredSession(quick_creator(run), hooks) as session:
                while True:
                    try:
                        run.note(session.run(first))
                    except BaseException as raised:
                        run.note(raised is error, error.__cause__, error.__context__)
                        assert traceback.extract_tb(error.__traceback__)[-1].name == "__call__"
                        raise
        except (KeyboardInterrupt, SystemExit) as raised:
            run.note(raised)
        finally:
            run.note(numbers.calls)

    record = same_as_stock(program)
    ended_well = kind in ("StopIteration", "OutOfRangeError")
    assert (("end" in str(record.notes)), record.error is None) == (ended_well, kind not in ("ValueError", "InternalError"))


@every_prefetch
def test_goes_on_after_an_error_that_the_caller_handles(same_as_stock, prefetch):
    def program(run):
        fed = v1.placeholder(tf.float32, SHAPE)
        first = fed[0]
        numbers = Numbers(fed, {i: ValueError(i) for i in (0, 3, 4, 8)})
        with run.api.MonitoredSession(quick_creator(run), [feed_hook(run, numbers, prefetch)]) as session:
            for _ in range(9):
                try:
                    run.note(session.run(first))
                except ValueError as error:
                    run.note(error)
        run.note(numbers.calls)

    assert same_as_stock(program).error is None


class Fails(v1.train.SessionRunHook):
    """Raises errors on the runs with these numbers."""

    def __init__(self, errors, when):
        self.errors = errors
        self.when = when
        self.runs = -1

    def before_run(self, run_context):
        self.runs += 1
        if self.when == "before_run":
            self.fail()

    def after_run(self, run_context, run_values):
        if self.when == "after_run":
            self.fail()

    def fail(self):
        if self.runs in self.errors:
            raise self.errors[self.runs]


def same_notes(program, directory):
    """Runs a program in all mixes and compares what it noted; a recovery is logged in our sessions only."""
    records = {name: record(program, api, directory / name) for name, api in MIXES.items()}
    for seen in records.values():
        assert (seen.notes, seen.error) == (records[STOCK_MIX].notes, None)


@every_prefetch
@pytest.mark.parametrize("when", ["before_run", "after_run"])
@pytest.mark.parametrize("at", [(0,), (3,), (2, 3, 7)], ids=str)
def test_recovery_neither_loses_nor_repeats_batches(tmp_path, when, prefetch, at):
    def program(run):
        fed = v1.placeholder(tf.float32, SHAPE)
        first = fed[0]
        fails = Fails({i: tf.errors.AbortedError(None, None, "gone") for i in at}, when)
        hooks = [feed_hook(run, Numbers(fed), prefetch), fails]
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            seen = [session.run(first) for _ in range(10)]
        # The batches of the failed runs are gone, as those that `feed_fn` made for them are in TensorFlow.
        assert seen == [i for i in range(10 + len(at)) if i not in at]
        run.note(seen, fails.runs)

    same_notes(program, tmp_path)


def test_recovery_from_an_error_of_feed_fn(tmp_path):
    def program(run):
        fed = v1.placeholder(tf.float32, SHAPE)
        first = fed[0]
        numbers = Numbers(fed, {i: tf.errors.UnavailableError(None, None, "away") for i in (0, 2, 3)})
        with run.api.MonitoredSession(quick_creator(run), [feed_hook(run, numbers, 2)]) as session:
            for _ in range(5):
                run.note(session.run(first))

    same_notes(program, tmp_path)


@every_session
@pytest.mark.parametrize("end", ["normal", "error in a step", "error in the body", "stop requested"])
def test_the_thread_ends_with_the_session(x, api, end):
    """The thread waits on a full queue when the session ends; nobody tells it on errors."""
    full_queue = threading.Event()
    numbers = Numbers(x)

    def feed_fn():
        if numbers.calls == 3:
            full_queue.set()
        return numbers()

    hooks = [api.FeedFnHook(feed_fn, prefetch=3)]
    first = x[0]
    if end == "error in a step":
        hooks.append(Fails({1: ValueError("in a step")}, "after_run"))

    def work():
        with open_session(api, hooks) as session:
            session.run(first)
            assert full_queue.wait(60)
            assert len(feed_threads()) == 1
            if end == "error in a step":
                session.run(first)
            elif end == "error in the body":
                raise ValueError("in the body")
            elif end == "stop requested":
                session._coordinated_creator.coord.request_stop()

    if end.startswith("error"):
        with pytest.raises(ValueError, match=f"^{end[6:]}$"):
            work()
    else:
        work()
    assert feed_threads() == []
    # On an error the second step may leave room for one more.
    assert 4 <= numbers.calls <= 4 + (end == "error in a step")


@every_session
@pytest.mark.parametrize("how", ["not made", "not closed"])
def test_the_thread_ends_with_a_session_that_nobody_can_close(x, api, how):
    class Raises(v1.train.SessionRunHook):
        """Lets the making of a session fail after our hook has been told of it."""

        def after_create_session(self, session, coord):
            if how == "not made":
                raise ValueError("not made")

    first = x[0]

    def work():
        session = open_session(api, [api.FeedFnHook(Numbers(x), prefetch=2), Raises()])
        session.run(first)
        raise ValueError("not closed")

    with pytest.raises(ValueError, match=how):
        work()
    gc.collect()
    for thread in feed_threads():
        thread.join(60)
    assert feed_threads() == []


def test_a_step_waits_for_a_slow_feed_fn_that_is_told_to_stop(x):
    """The coordinator stops while a step waits: the step gets its batch, and those after it are made on the step."""
    entered, go_on = threading.Event(), threading.Event()
    numbers = Numbers(x)
    threads = []

    def feed_fn():
        threads.append(threading.current_thread())
        if numbers.calls == 1:
            entered.set()
            assert go_on.wait(60)
        return numbers()

    def stop_and_go_on(coord):
        assert entered.wait(60)
        coord.request_stop()
        go_on.set()

    hook = fasthooks.FeedFnHook(feed_fn, prefetch=1)
    coord = tf.train.Coordinator()
    with v1.Session() as session:
        hook.after_create_session(session, coord)
        assert hook.before_run(None).feed_dict[x][0] == 0
        stopper = threading.Thread(target=stop_and_go_on, args=[coord])
        stopper.start()
        assert [hook.before_run(None).feed_dict[x][0] for _ in range(3)] == [1, 2, 3]
        stopper.join(60)
    coord.join(stop_grace_period_secs=60)
    assert [thread is threading.current_thread() for thread in threads] == [False, False, True, True]


def test_a_thread_that_is_still_busy_is_taken_over(x):
    """A new session of the hook comes before the last call of `feed_fn` for the old one is over: order is kept."""
    entered, go_on = threading.Event(), threading.Event()
    numbers = Numbers(x)
    threads = set()

    def feed_fn():
        threads.add(threading.current_thread())
        if numbers.calls == 1:
            entered.set()
            assert go_on.wait(60)
        return numbers()

    hook = fasthooks.FeedFnHook(feed_fn, prefetch=2)
    old, new = tf.train.Coordinator(), tf.train.Coordinator()
    with v1.Session() as session:
        hook.after_create_session(session, old)
        assert entered.wait(60)
        hook.end(session)
        old.request_stop()
        hook.after_create_session(session, new)
        go_on.set()
        assert [hook.before_run(None).feed_dict[x][0] for _ in range(6)] == list(range(6))
        hook.end(session)
    new.request_stop()
    new.join(stop_grace_period_secs=60)
    assert len(threads) == 1


def test_a_feed_fn_that_never_returns_does_not_hold_the_interpreter():
    done = apart.run(textwrap.dedent("""
        import itertools, threading
        import tensorflow as tf
        import fasthooks
        calls = itertools.count()

        def feed_fn():
            if next(calls) > 0:
                threading.Event().wait()
            return {"x:0": 1.0}

        with tf.Graph().as_default():
            y = tf.compat.v1.placeholder(tf.float32, [], name="x") + 1
            hook = fasthooks.FeedFnHook(feed_fn, prefetch=2)
            with fasthooks.MonitoredSession(hooks=[hook], stop_grace_period_secs=1) as session:
                print(session.run(y))
        print("closed")
    """), timeout=240)
    assert (done.returncode, done.stdout) == (0, "2.0\nclosed\n"), done.stderr


@every_session
def test_many_threads_get_each_batch_once(x, api):
    first = x[0]
    seen = []
    with open_session(api, [api.FeedFnHook(Numbers(x), prefetch=2)]) as session:
        threads = [threading.Thread(target=lambda: seen.extend(session.run(first) for _ in range(STEPS))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert sorted(seen) == list(range(4 * STEPS))


@every_session
def test_appended_to_a_session_that_runs(x, api):
    """Nobody tells such a hook of the session, so it feeds as TensorFlow's does."""
    first = x[0]
    hooks = [api.NanTensorHook(tf.constant(1.0))]
    with open_session(api, hooks) as session:
        hooks.append(api.FeedFnHook(Numbers(x), prefetch=2))
        assert [session.run(first) for _ in range(5)] == list(range(5))
        assert feed_threads() == []


@every_session
def test_a_second_session_goes_on_where_the_first_ended(x, api):
    first = x[0]
    numbers = Numbers(x)
    hook = api.FeedFnHook(numbers, prefetch=3)
    seen = []
    for _ in range(3):
        with open_session(api, [hook]) as session:
            seen += [session.run(first) for _ in range(5)]
    assert seen == list(range(15))
    assert numbers.calls <= 18


@every_session
def test_feed_fn_may_be_replaced(x, api):
    first = x[0]
    hook = api.FeedFnHook(Numbers(x), prefetch=1)
    with open_session(api, [hook]) as session:
        session.run(first)
        hook.feed_fn = lambda: {x: full(-1)}
        assert session.run([first] * 3)[0] >= 0
        session.run(first)
        assert session.run(first) == -1


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda hook: pickle.loads(pickle.dumps(hook))}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_hook_in_use_makes_batches_of_its_own(x, how):
    first = x[0]
    hook = fasthooks.FeedFnHook(NamedNumbers(), prefetch=2)
    with open_session(fasthooks, [hook]) as session:
        assert [session.run(first) for _ in range(3)] == [0, 1, 2]
        other = COPIES[how](hook)
        assert other.feed_fn is hook.feed_fn if how == "copy" else other.feed_fn is not hook.feed_fn
    other.feed_fn = NamedNumbers()
    with open_session(fasthooks, [other]) as session:
        assert [session.run(first) for _ in range(3)] == [0, 1, 2]


class NamedNumbers(Numbers):
    """`Numbers` that can be pickled."""

    def __init__(self):
        super().__init__("x:0")


class WithoutInit(fasthooks.FeedFnHook):
    """A subclass as TensorFlow's class allows it."""

    def __init__(self, feed_fn):
        self.feed_fn = feed_fn


@every_session
def test_subclass_that_does_not_call_our_constructor(x, api):
    first = x[0]
    with open_session(api, [WithoutInit(Numbers(x))]) as session:
        assert [session.run(first) for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(("prefetch", "error", "message"), [
    (-1, ValueError, "prefetch must be at least 0; got -1"),
    (2.0, TypeError, "prefetch must be an integer; got 2.0"),
    (None, TypeError, "prefetch must be an integer; got None"),
    ("2", TypeError, "prefetch must be an integer; got '2'"),
    ([1], TypeError, r"prefetch must be an integer; got \[1\]"),
], ids=str)
def test_bad_prefetch(prefetch, error, message):
    with pytest.raises(error, match=message):
        fasthooks.FeedFnHook(dict, prefetch=prefetch)


def test_prefetch_can_only_be_given_by_name():
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        fasthooks.FeedFnHook(dict, 2)


def test_another_graph_begins_anew():
    hook = fasthooks.FeedFnHook(lambda: {"x:0": np.array([0.5, 1.5])}, prefetch=2)
    for dtype, expected in ((tf.int32, [0, 1]), (tf.float32, [0.5, 1.5])):
        with tf.Graph().as_default():
            fed = tf.identity(v1.placeholder(dtype, [2], name="x"))
            with fasthooks.MonitoredSession(hooks=[hook]) as session:
                for _ in range(4):
                    assert session.run(fed).tolist() == expected
