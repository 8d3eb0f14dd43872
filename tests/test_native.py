"""The native call: TensorFlow's C++ function, called by itself, gives and raises what `TF_SessionRun_wrapper` does."""

import contextlib
import ctypes
import gc
import sys
import threading
import types
import weakref
from unittest import mock

import apart
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import dtypes, errors
from test_plan import seen

from fasthooks import known_tensorflow
from fasthooks.step import _native

v1 = tf.compat.v1
wrapper = pywrap_tf_session.TF_SessionRun_wrapper
# Elsewhere the function has another name, or nobody has read what it does.
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not known_tensorflow.is_tested(tf.__version__), reason="the wrapper is called there")

NUMBERS = (
    tf.float16, tf.float32, tf.float64, tf.bfloat16, tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32,
    tf.uint64, tf.bool, tf.complex64, tf.complex128)


class World:
    """A graph and a session, in which tensors and operations are fetched by both calls."""

    def __init__(self):
        self.graph = tf.Graph()
        self.context = contextlib.ExitStack()
        self.context.enter_context(self.graph.as_default())
        self.session = self.context.enter_context(v1.Session(graph=self.graph))

    def both(self, *fetches, feeds=(), targets=(), options=None):
        """Returns what is seen of the results, or of the errors, of the wrapper and of ours."""
        outputs = [tensor._as_tf_output() for tensor in fetches]
        operations = [operation._c_op for operation in targets]
        call = _native.NativeCall(outputs, operations)
        assert call.is_direct
        self.session._extend_graph()
        fed = {tensor._as_tf_output(): value for tensor, value in feeds}
        native = self.session._session
        return (outcome(wrapper, native, options, fed, outputs, operations, None),
                outcome(call.run, native, options, fed, None))


def outcome(call, *arguments):
    try:
        return seen(call(*arguments), {})
    except Exception as error:
        context = type(error.__context__).__name__
        return type(error), str(error), getattr(error, "error_code", None), getattr(error, "op", None), context


def same(theirs, ours):
    assert theirs == ours
    return theirs


@pytest.fixture
def world():
    made = World()
    with made.context:
        yield made


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 0, 3), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.name)
def test_numbers(world, dtype, shape):
    """Scalars become NumPy's, all else arrays; whether they are copies is seen by their flags."""
    values = tf.cast(tf.reshape(tf.range(int(np.prod(shape))), shape), dtype)
    _, results = same(*world.both(values, tf.identity(values), values))
    assert len(results) == 3


def test_many_tensors_and_operations(world):
    tensors = [tf.constant(float(i)) * 2 for i in range(300)]
    operations = [tf.group(tensor) for tensor in tensors]
    _, results = same(*world.both(*tensors, targets=operations))
    assert len(results) == 300
    assert same(*world.both(targets=operations)) == ("list", [])


@pytest.mark.parametrize("tensor", [
    lambda: tf.constant("one"),
    lambda: tf.constant([b"one", b"", b"\xff\0", b"long" * 1000]),
    lambda: tf.zeros([0], tf.string),
    lambda: tf.fill([2, 2], "same"),
    lambda: tf.quantization.quantize(tf.constant([0.0, 1.0]), 0.0, 1.0, tf.quint8)[0],
    lambda: tf.cast(tf.constant([1.0, 2.0]), dtypes.float8_e5m2),
    lambda: tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="own"),
    lambda: tf.raw_ops.EmptyTensorList(element_shape=[1], max_num_elements=1, element_dtype=tf.float32),
    lambda: tf.reshape(tf.constant(1.0), [1] * 70),
], ids=["text", "texts", "no texts", "equal texts", "quantized", "float8", "resource", "variant", "70 dimensions"])
def test_other_kinds_of_tensor(world, tensor):
    same(*world.both(tensor()))


@pytest.mark.parametrize("fed", [
    np.array(3, np.float32), np.array(True), np.float32(3), 3, [1, 2], np.arange(6.0), np.arange(6, dtype=np.float32),
    np.arange(12.0)[::2], np.zeros([0, 2]), np.asfortranarray(np.ones([3, 2])), "text", ["texts", b"\0"],
    np.array(["texts", None], object),
    np.array([object()], object), np.array(["unicode"]), object(), None,
    np.datetime64("2020-01-01"), np.array([(1, 2)], [("a", "i4"), ("b", "i4")]), 1 << 80, [[1], [1, 2]],
])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.string], ids=lambda dtype: dtype.name)
def test_what_is_fed(world, dtype, fed):
    """Also where the value is of another type than the placeholder, or of none at all."""
    placeholder = v1.placeholder(dtype, None)
    same(*world.both(tf.identity(placeholder), tf.shape(placeholder), feeds=[(placeholder, fed)]))


def test_many_feeds(world):
    placeholders = [v1.placeholder(tf.float32, []) for _ in range(100)]
    feeds = [(placeholder, np.array(i, np.float32)) for i, placeholder in enumerate(placeholders)]
    _, results = same(*world.both(*[tf.negative(placeholder) for placeholder in placeholders], feeds=feeds))
    assert len(results) == 100


class Unwilling:
    """Becomes no array."""

    def __array__(self, *args, **kwargs):
        raise KeyError("of its own")


def test_a_feed_that_becomes_no_array(world):
    """The error is TensorFlow's, and nothing of the feed's own is left."""
    placeholder = v1.placeholder(tf.float32, None)
    cls, *_, context = same(*world.both(tf.identity(placeholder), feeds=[(placeholder, Unwilling())]))
    assert cls is errors.InvalidArgumentError and context == "NoneType"
    assert same(*world.both(tf.constant(1.0)))[0] == "list"


@pytest.mark.parametrize("fails", [
    lambda: tf.gather([1], 2 * tf.random.uniform([], 1, 2, tf.int32)),
    lambda: tf.linalg.inv(tf.zeros([2, 2]) * tf.random.uniform([])),
    lambda: tf.raw_ops.ReadVariableOp(
        resource=tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="unset"), dtype=tf.float32),
    lambda: v1.placeholder(tf.float32, []),
    lambda: v1.data.make_one_shot_iterator(tf.data.Dataset.range(0)).get_next(),
    lambda: tf.io.read_file("/nowhere/at all \u00e9"),
    lambda: tf.io.read_file(b"/nowhere/\xff"),
    lambda: v1.py_func(lambda: 1 / 0, [], tf.int64),
], ids=["index", "inverse", "unset", "unfed", "end", "text", "no text", "python"])
def test_errors(world, fails):
    cls, *_ = same(*world.both(fails()))
    assert issubclass(cls, Exception)


def test_options_and_metadata(world):
    tensor = tf.constant(1.0) * 2
    options = pywrap_tf_session.TF_NewBufferFromString(config_pb2.RunOptions(trace_level=3).SerializeToString())
    call = _native.NativeCall([tensor._as_tf_output()], [])
    world.session._extend_graph()
    metadata = pywrap_tf_session.TF_NewBuffer()
    assert call.run(world.session._session, options, {}, metadata) == [2.0]
    found = config_pb2.RunMetadata.FromString(pywrap_tf_session.TF_GetBuffer(metadata))
    assert found.step_stats.dev_stats
    assert call.run(world.session._session, None, {}, None) == [2.0]
    bad = pywrap_tf_session.TF_NewBufferFromString(b"\xff\xff\xff")
    assert same(*world.both(tensor, options=bad))[0] is errors.InvalidArgumentError


def test_a_closed_session(world):
    tensor = tf.constant(1.0)
    assert same(*world.both(tensor))[0] == "list"
    world.session.close()
    assert issubclass(same(*world.both(tensor))[0], errors.OpError)


def test_nothing_is_kept(world):
    """Neither what was fed nor what was fetched; and a result is the caller's alone."""
    placeholder = v1.placeholder(tf.float32, [None])
    doubled = placeholder * 2
    call = _native.NativeCall([doubled._as_tf_output(), placeholder.graph.get_tensor_by_name(doubled.name)._as_tf_output()], [])
    key = placeholder._as_tf_output()
    world.session._extend_graph()
    fed = np.ones(100, np.float32)
    feeds = {key: fed}
    references = sys.getrefcount(fed)
    for _ in range(50):
        results = call.run(world.session._session, None, feeds, None)
    assert sys.getrefcount(fed) == references
    assert [sys.getrefcount(result) for result in results] == [3, 3]  # the list, the variable `result`, the argument
    seen_alive = weakref.ref(results[0])
    del results
    gc.collect()
    assert seen_alive() is None


def test_threads(world):
    placeholder = v1.placeholder(tf.float32, [])
    call = _native.NativeCall([(placeholder * 2)._as_tf_output()], [])
    key = placeholder._as_tf_output()
    world.session._extend_graph()
    wrong = []

    def run(number):
        for i in range(500):
            value = call.run(world.session._session, None, {key: np.array(number + i, np.float32)}, None)
            if value != [2 * (number + i)]:
                wrong.append((number, i, value))

    threads = [threading.Thread(target=run, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_no_session_or_buffer(world):
    """It is the wrapper's to refuse."""
    tensor = tf.constant(1.0)
    call = _native.NativeCall([tensor._as_tf_output()], [])
    outputs = call.outputs
    native = world.session._session
    for arguments in ((object(), None, {}, None), (native, object(), {}, None), (native, None, {}, object()),
                      (tensor._as_tf_output(), None, {}, None)):
        session, options, feeds, metadata = arguments
        assert outcome(call.run, *arguments) == outcome(wrapper, session, options, feeds, outputs, [], metadata)


@pytest.mark.parametrize("key", [object(), "x:0", pywrap_tf_session.TF_Output.__new__(pywrap_tf_session.TF_Output)])
def test_keys_of_feeds_that_are_none(world, key):
    call = _native.NativeCall([tf.constant(1.0)._as_tf_output()], [])
    world.session._extend_graph()
    with pytest.raises(TypeError, match="TF_Output"):
        call.run(world.session._session, None, {key: np.float32(1)}, None)


@pytest.mark.parametrize("outputs, operations", [
    ([object()], []),
    ([pywrap_tf_session.TF_Output()], []),
    ([pywrap_tf_session.TF_Output.__new__(pywrap_tf_session.TF_Output)], []),
    ([], [object()]),
    ([], [pywrap_tf_session.TF_Operation.__new__(pywrap_tf_session.TF_Operation)]),
], ids=["no tensor", "of no operation", "without a pointer", "no operation", "operation without a pointer"])
def test_objects_that_hold_no_pointer(outputs, operations):
    assert not _native.NativeCall(outputs, operations).is_direct


def test_a_tensor_among_the_operations(world):
    """Each kind of object is asked for its own pointer."""
    output = tf.constant(1.0)._as_tf_output()
    assert not _native.NativeCall([], [output]).is_direct
    assert not _native.NativeCall([tf.no_op()._c_op], []).is_direct


def test_where_a_function_is_not_found():
    assert _native.find(pywrap_tf_session)
    with mock.patch.object(ctypes.CDLL, "__getitem__", side_effect=AttributeError):
        assert not _native.find(pywrap_tf_session)
    with mock.patch.object(ctypes, "CDLL", side_effect=OSError):
        assert not _native.find(pywrap_tf_session)
    with mock.patch.object(tf, "__version__", "2.99.0"):
        assert not _native.find(pywrap_tf_session)
    module = sys.modules[pywrap_tf_session.TF_Session.__module__]
    with mock.patch.object(module, "TF_SessionRun_wrapper", wrapper.__call__):
        assert not _native.find(pywrap_tf_session)
    names = {name: getattr(pywrap_tf_session, name) for name in ("TF_Session", "TF_Buffer", "TF_Output", "TF_Operation")}
    assert _native.find(types.SimpleNamespace(**names))
    for name in names:
        larger = type(names[name])("Larger", (names[name],), {"__slots__": ("more",)})
        for other in (None, type(name, (), {}), larger):
            assert not _native.find(types.SimpleNamespace(**{**names, name: other})), (name, other)


LITTLE_MEMORY = """if True:
    import resource
    import numpy as np
    import tensorflow.compat.v1 as tf
    import fasthooks

    tf.disable_eager_execution()
    x = tf.placeholder(tf.string, [None])
    fed = np.full(20_000_000, b"a", object)
    session = fasthooks.accelerate(tf.Session())
    assert session.run(tf.size(x), {x: fed[:10]}) == 10
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))
    try:
        session.run(tf.size(x), {x: fed})
    except MemoryError:
        print("MemoryError")
    """


def test_texts_for_which_there_is_no_memory():
    """What C++ throws then is caught by the wrapper: 24 bytes a text are missing."""
    done = apart.run(LITTLE_MEMORY, timeout=120)
    assert (done.returncode, done.stdout) == (0, "MemoryError\n"), done.stderr


NO_MEMORY = """if True:
    import _testcapi
    import tensorflow.compat.v1 as tf
    from fasthooks.step import _native

    with tf.Graph().as_default(), tf.Session() as session:
        tensor = tf.constant(1.0) * 2
        call = _native.NativeCall([tensor._as_tf_output()] * 2, [])
        session.run(tensor)
        for first in range(20):
            _testcapi.set_nomemory(first, first + 1)
            try:
                found = call.run(session._session, None, {}, None)
            except Exception as error:
                found = error
            _testcapi.remove_mem_hooks()
            print(f"{type(found).__name__} {found}", flush=True)
    """


def test_memory_that_ends_while_results_are_made():
    """Whatever fails is an error: no result with a hole in it, and no error that is left for others."""
    pytest.importorskip("_testcapi")
    done = apart.run(NO_MEMORY, timeout=60)
    kinds = [line.partition(" ")[0] for line in done.stdout.splitlines()]
    # The array, then the scalar. What TensorFlow itself does not check may end the process later.
    assert "InternalError" in kinds, done.stderr
    assert kinds[kinds.index("InternalError") + 1] == "MemoryError" and set(kinds) <= {"MemoryError", "InternalError", "list"}


def test_lists_that_grow_later(world):
    """They are asked for no numbers once their pointers are held."""
    output, operation = tf.constant(1.0)._as_tf_output(), tf.no_op()._c_op
    call = _native.NativeCall([output], [operation])
    world.session._extend_graph()
    call.outputs.extend([output] * 1000)
    call.operations.extend([operation] * 1000)
    assert call.run(world.session._session, None, {}, None) == [1.0]
