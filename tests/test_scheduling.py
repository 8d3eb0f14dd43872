"""Which steps may run inline: `fasthooks.step.scheduling`."""

import subprocess
import textwrap
import threading

import apart
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.framework import function as defun_lib
from tensorflow.python.framework import op_def_registry

import fasthooks
from fasthooks.step import scheduling

v1 = tf.compat.v1
raw = tf.raw_ops
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def graph():
    """An empty graph, the default one for the test."""
    with tf.Graph().as_default() as g:
        yield g


def hazard(fetches, feeds=()):
    """Returns the reason alone."""
    fetches = list(fetches) if isinstance(fetches, (list, tuple)) else [fetches]
    return scheduling.inline_hazard(v1.get_default_graph(), fetches, feeds)[0]


def run_inline(graph, fetches, steps=3, initializer=None):
    """Runs the fetches inline a few times, returns the last result."""
    options = config_pb2.CallableOptions()
    for fetch in fetches:
        (options.target if isinstance(fetch, tf.Operation) else options.fetch).append(fetch.name)
    options.run_options.inter_op_thread_pool = -1
    with v1.Session(graph=graph) as session:
        if initializer is not None:
            session.run(initializer)
        step = session._make_callable_from_options(options)
        for _ in range(steps):
            result = step()
        return result


def dequeue():
    queue = v1.FIFOQueue(3, tf.float32, shapes=[[]])
    return queue.dequeue()


def accumulator():
    return v1.ConditionalAccumulator(tf.float32, shape=[]).take_grad(1)


def barrier():
    handle = raw.Barrier(component_types=[tf.float32])
    return raw.BarrierReadySize(handle=handle)


def mutex():
    return raw.MutexLock(mutex=raw.MutexV2())


def stage():
    return raw.Stage(values=[tf.constant(1.0)])


def unstage():
    return raw.Unstage(dtypes=[tf.float32])[0]


def map_stage():
    return raw.MapStage(key=tf.constant(1, tf.int64), indices=[0], values=[tf.constant(1.0)], dtypes=[tf.float32])


def ordered_map_unstage():
    return raw.OrderedMapUnstage(key=tf.constant(1, tf.int64), indices=[0], dtypes=[tf.float32])[0]


def py_func():
    return v1.py_func(lambda x: x, [tf.constant(1.0)], tf.float32)


def py_func_stateless():
    return v1.py_func(lambda x: x, [tf.constant(1.0)], tf.float32, stateful=False)


def eager_py_func():
    return tf.py_function(lambda x: x, [tf.constant(1.0)], tf.float32)


def batch_function():
    return tf.nondifferentiable_batch_function(1, 4, 1000)(lambda x: x + 1.0)(tf.constant([1.0]))


def batch():
    return raw.Batch(
        in_tensors=[tf.constant([1.0])], num_batch_threads=1, max_batch_size=4, batch_timeout_micros=1, grad_timeout_micros=1
    ).id


def collective():
    return raw.CollectiveReduce(
        input=tf.constant(1.0), group_size=2, group_key=1, instance_key=1, merge_op="Add", final_op="Id", subdiv_offsets=[0]
    )


def session_handle():
    return v1.get_session_handle(tf.constant(1.0))


def read_file():
    return tf.io.read_file("x")


def reader():
    return raw.ReaderNumRecordsProducedV2(reader_handle=raw.TFRecordReaderV2())


def restore():
    return raw.RestoreV2(prefix="x", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])[0]


def sync_iterator():
    iterator = v1.data.make_initializable_iterator(tf.data.Dataset.range(3))
    return raw.IteratorGetNextSync(iterator=iterator._iterator_resource, output_types=[tf.int64], output_shapes=[[]])[0]


def multi_device_iterator():
    handle = raw.MultiDeviceIterator(
        devices=["/cpu:0"], shared_name="m", container="", output_types=[tf.int64], output_shapes=[[]]
    )
    return raw.MultiDeviceIteratorToStringHandle(multi_device_iterator=handle)


def debug():
    return raw.DebugIdentity(input=tf.constant(1.0), tensor_name="x")


def abort():
    return raw.Abort()


def symbolic_gradient():
    @defun_lib.Defun(tf.float32)
    def square(x):
        return x * x

    return raw.SymbolicGradient(input=[tf.constant(1.0), tf.constant(1.0)], Tout=[tf.float32], f=square)[0]


FORBIDDEN = {
    dequeue: "QueueDequeueV2",
    accumulator: "AccumulatorTakeGradient",
    barrier: "BarrierReadySize",
    mutex: "MutexLock",
    stage: "Stage",
    unstage: "Unstage",
    map_stage: "MapStage",
    ordered_map_unstage: "OrderedMapUnstage",
    py_func: "PyFunc",
    py_func_stateless: "PyFuncStateless",
    eager_py_func: "EagerPyFunc",
    batch_function: "BatchFunction",
    batch: "Batch",
    collective: "CollectiveReduce",
    session_handle: "GetSessionHandle",
    read_file: "ReadFile",
    reader: "ReaderNumRecordsProducedV2",
    restore: "RestoreV2",
    sync_iterator: "IteratorGetNextSync",
    multi_device_iterator: "MultiDeviceIteratorToStringHandle",
    debug: "DebugIdentity",
    abort: "Abort",
    symbolic_gradient: "SymbolicGradient",
}


@pytest.mark.parametrize("build", FORBIDDEN, ids=lambda f: f.__name__)
def test_kernels_that_may_wait_are_refused(graph, build):
    fetch = build()
    op = fetch if isinstance(fetch, tf.Operation) else fetch.op
    # Some are built as V2 or Resource ops, as the version and its switches have it.
    assert FORBIDDEN[build] in op.type
    assert hazard(fetch) == f"op '{op.name}' ({op.type}) may wait for another op of the step"


def test_found_through_inputs_and_control_inputs(graph):
    assert "QueueDequeueV2" in hazard(dequeue() + 1.0)
    with tf.control_dependencies([unstage()]):
        after = tf.constant(2.0)
    assert "Unstage" in hazard(after)
    assert "Unstage" in hazard(tf.group(after))


def test_a_feed_cuts_off_what_it_replaces(graph):
    value = tf.identity(dequeue())
    loss = value * 2.0
    assert hazard(loss) is not None
    assert hazard(loss, [value]) is None
    assert hazard(loss, [value.op.outputs[0]]) is None
    assert hazard(value, [value]) is None
    # The op behind a fed tensor still runs if something else needs it.
    with tf.control_dependencies([value]):
        after = loss + 1.0
    assert hazard(after, [value]) is not None
    first, second = tf.split(tf.stack([dequeue(), dequeue()]), 2)
    assert hazard(first + second, [first]) is not None
    assert hazard(first + second, [first, second]) is None


def test_hazards_in_functions(graph):
    queue = v1.FIFOQueue(3, tf.float32, shapes=[[]])

    @tf.function(autograph=False)
    def inner():
        return queue.dequeue()

    @tf.function(autograph=False)
    def outer():
        return inner() + 1.0

    @defun_lib.Defun(tf.float32)
    def legacy(x):
        return raw.Unstage(dtypes=[tf.float32])[0] + x

    @tf.function(autograph=False)
    def harmless(x):
        return x * 2.0

    assert "QueueDequeueV2" in hazard(outer())
    # Again: a verdict that is remembered must be the same one.
    assert "QueueDequeueV2" in hazard(outer())
    assert "Unstage" in hazard(legacy(tf.constant(1.0)))
    assert hazard(harmless(tf.constant(1.0))) is None


def test_functions_that_came_with_an_imported_graph():
    with tf.Graph().as_default() as made:
        tf.identity(tf.function(lambda x: raw.Unstage(dtypes=[tf.float32])[0] + x, autograph=False)(1.0), name="bad")
        tf.identity(tf.function(lambda x: x + 1.0, autograph=False)(1.0), name="good")
    with tf.Graph().as_default() as g:
        tf.import_graph_def(made.as_graph_def(), name="")
        assert "Unstage" in hazard(g.get_tensor_by_name("bad:0"))
        assert hazard(g.get_tensor_by_name("good:0")) is None


def while_v2(body=lambda i: i + 1.0):
    return tf.while_loop(lambda i: i < 3.0, lambda i: (body(i),), (tf.constant(0.0),))[0]


@pytest.fixture
def control_flow_v2():
    before = v1.control_flow_v2_enabled()
    v1.enable_control_flow_v2()
    yield
    if not before:
        v1.disable_control_flow_v2()


@pytest.fixture
def control_flow_v1():
    before = v1.control_flow_v2_enabled()
    v1.disable_control_flow_v2()
    yield
    if before:
        v1.enable_control_flow_v2()


def test_lowered_control_flow_is_safe(graph, control_flow_v2):
    p = v1.placeholder_with_default(1.0, [])
    fetches = [
        while_v2(),
        tf.cond(p > 0, lambda: p * 2.0, lambda: p - 1.0),
        tf.switch_case(tf.cast(p, tf.int32), [lambda: p * 2.0, lambda: p - 1.0]),
        tf.gradients(tf.cond(p > 0, lambda: while_v2(lambda i: i + p), lambda: p), p)[0],
        tf.function(lambda: while_v2(), autograph=False)(),
    ]
    kinds = {op.type for op in graph.get_operations()}
    assert kinds & {"StatelessWhile", "While"} and kinds & {"StatelessIf", "If"} and kinds & {"StatelessCase", "Case"}
    for fetch in fetches:
        assert hazard(fetch) is None
    run_inline(graph, fetches)


def test_control_flow_is_lowered_as_assumed(graph, control_flow_v2):
    fetch = while_v2()
    options = config_pb2.CallableOptions(fetch=[fetch.name])
    options.run_options.output_partition_graphs = True
    with v1.Session(graph=graph) as session:
        metadata = v1.RunMetadata()
        session._make_callable_from_options(options)(run_metadata=metadata)
    left = {node.op for part in metadata.partition_graphs for node in part.node}
    assert not left & {"While", "StatelessWhile"}


def clear_lowering(op):
    op._set_attr("_lower_using_switch_merge", tf.compat.v1.AttrValue(b=False))


def test_unlowered_control_flow_is_refused(graph, control_flow_v2):
    p = v1.placeholder_with_default(1.0, [])
    kinds = ("While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase")
    for build in (
        while_v2,
        lambda: tf.cond(p > 0, lambda: p * 2.0, lambda: p - 1.0),
        lambda: tf.switch_case(tf.cast(p, tf.int32), [lambda: p * 2.0, lambda: p - 1.0]),
    ):
        fetch = build()
        assert hazard(fetch) is None
        clear_lowering([op for op in graph.get_operations() if op.type in kinds][-1])
        assert "not lowered" in hazard(fetch)


def test_while_that_dequeues_is_refused_lowered_or_not(graph, control_flow_v2):
    queue = v1.FIFOQueue(9, tf.float32, shapes=[[]])
    fetch = while_v2(lambda i: i + queue.dequeue())
    assert "QueueDequeueV2" in hazard(fetch)
    clear_lowering(next(op for op in graph.get_operations() if op.type == "While"))
    assert "not lowered" in hazard(fetch)


def test_jit_compiled_function_is_refused(graph):
    assert "XLA" in hazard(tf.function(lambda x: x * 2.0, jit_compile=True, autograph=False)(tf.constant(1.0)))


def test_mlp_with_adam_reference_and_resource(graph):
    for resource in (False, True):
        with v1.variable_scope(f"s{resource}", use_resource=resource):
            x = v1.placeholder_with_default(np.ones((4, 8), np.float32), [None, 8])
            w = v1.get_variable("w", [8, 3])
            b = v1.get_variable("b", [3])
            loss = tf.reduce_mean(v1.nn.softmax_cross_entropy_with_logits_v2(tf.one_hot([0, 1, 2, 0], 3), x @ w + b))
            step = v1.train.get_or_create_global_step()
            for optimizer in (
                v1.train.AdamOptimizer(),
                v1.train.GradientDescentOptimizer(0.1),
                v1.train.MomentumOptimizer(0.1, 0.9),
                v1.train.AdagradOptimizer(0.1),
                v1.train.RMSPropOptimizer(0.1),
                v1.train.FtrlOptimizer(0.1),
                v1.train.AdadeltaOptimizer(0.1),
            ):
                assert hazard([optimizer.minimize(loss, global_step=step), loss, graph.as_graph_element(step)]) is None
    assert hazard(v1.global_variables_initializer()) is None
    assert hazard(v1.report_uninitialized_variables()) is None


def test_cnn_embedding_summaries(graph):
    images = tf.random.stateless_uniform([2, 8, 8, 3], [1, 2])
    kernel = v1.get_variable("kernel", [3, 3, 3, 4])
    features = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME")), 2, 2, "SAME")
    scale, offset = v1.get_variable("scale", [4]), v1.get_variable("offset", [4])
    features = v1.nn.fused_batch_norm(features, scale, offset)[0]
    table = v1.get_variable("table", [10, 4])
    ids = tf.SparseTensor([[0, 0], [1, 1]], tf.constant([1, 2], tf.int64), [2, 2])
    embedded = v1.nn.embedding_lookup_sparse(table, ids, None, combiner="mean")
    loss = tf.reduce_mean(tf.nn.dropout(embedded, 0.5)) + tf.reduce_mean(features)
    train = v1.train.AdamOptimizer().minimize(loss, v1.train.get_or_create_global_step())
    v1.summary.scalar("loss", loss)
    v1.summary.histogram("table", table)
    v1.summary.image("images", images)
    fetches = [train, loss, v1.summary.merge_all()]
    assert hazard(fetches) is None
    run_inline(graph, fetches, initializer=v1.global_variables_initializer())


def test_control_flow_v1(graph, control_flow_v1):
    p = v1.placeholder_with_default(1.0, [])
    branch = v1.cond(p > 0, lambda: p * 2.0, lambda: p - 1.0)
    array = tf.TensorArray(tf.float32, 3)
    loop = v1.while_loop(
        lambda i, x, a: i < 3, lambda i, x, a: (i + 1, x + 1.0, a.write(i, x)), (0, p, array), back_prop=False
    )[2].stack()
    fetches = [branch, loop, tf.gradients(branch, p)[0]]
    assert {"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"} <= {op.type for op in graph.get_operations()}
    assert hazard(fetches) is None
    run_inline(graph, fetches)


def test_loops_that_could_exhaust_the_stack_are_refused(graph, control_flow_v1):
    p = v1.placeholder_with_default(1.0, [])
    loop = v1.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, tf.sin(x)), (0, p))[1]
    gradient = tf.gradients(loop, p)[0]
    assert "Stack" in hazard(gradient) and "loop" in hazard(gradient)
    resized = v1.image.crop_and_resize(tf.zeros([1, 4, 4, 1]), [[0.0, 0.0, 1.0, 1.0]], box_indices=[0], crop_size=[2, 2])
    assert hazard(resized) is None
    assert "stack" in hazard([resized, loop])


def datasets():
    return tf.data.Dataset.range(10000).map(lambda x: x * 2, num_parallel_calls=2).shuffle(8).repeat().batch(2).prefetch(1)


def test_dataset_iterators_run_inline_for_thousands_of_steps(graph):
    one_shot = v1.data.make_one_shot_iterator(datasets()).get_next()
    initializable = v1.data.make_initializable_iterator(datasets())
    fetches = [one_shot + 1, initializable.get_next() + 1]
    assert hazard(fetches) is None
    run_inline(graph, fetches, steps=4000, initializer=initializable.initializer)


def test_python_inside_a_one_shot_pipeline_is_found(graph):
    dataset = tf.data.Dataset.range(3).map(lambda x: v1.py_func(lambda y: y, [x], tf.int64, stateful=False))
    assert "PyFuncStateless" in hazard(v1.data.make_one_shot_iterator(dataset).get_next())


def test_size_limit(graph):
    x = v1.placeholder_with_default(1.0, [])  # two ops
    assert scheduling.inline_hazard(graph, [x]) == (None, 2)
    y = x
    while len(graph.get_operations()) < scheduling.INLINE_MAX_OPS:
        y = tf.identity(y)
    assert scheduling.inline_hazard(graph, [y]) == (None, scheduling.INLINE_MAX_OPS)
    reason, n_ops = scheduling.inline_hazard(graph, [tf.identity(y)])
    assert reason == f"the step has more than {scheduling.INLINE_MAX_OPS} ops" and n_ops > scheduling.INLINE_MAX_OPS
    # Ops that the step does not need do not count.
    assert scheduling.inline_hazard(graph, [x])[0] is None


def test_ops_in_functions_count(graph, monkeypatch):
    def body(x):
        for _ in range(300):
            x = tf.identity(x)
        return x

    call = tf.function(body, autograph=False)
    once = call(tf.constant(1.0))
    assert scheduling.inline_hazard(graph, [once])[1] > 300
    monkeypatch.setattr(scheduling, "INLINE_MAX_OPS", 500)
    assert "more than" in scheduling.inline_hazard(graph, [call(once)])[0]


def test_an_op_changed_after_a_first_look(graph):
    y = tf.constant(1.0) + 1.0
    assert hazard(y) is None
    y.op._add_control_input(stage())
    assert "Stage" in hazard(y)


def test_list_is_sane():
    safe = scheduling.INLINE_SAFE_OPS
    assert {"MatMul", "BatchMatMulV2", "FusedBatchNormV3", "ResourceApplyAdam", "IteratorGetNext", "Print"} <= safe
    words = ("Queue", "Barrier", "Mutex", "PyFunc", "Collective", "Nccl", "Infeed", "Outfeed", "MultiDevice", "Rpc", "TPU", "Xla")
    wrong = [name for name in safe if name.startswith("_") or name.endswith("Sync") or any(w in name for w in words)]
    assert wrong == []
    assert not [n for n in safe if ("Accumul" in n and n != "AccumulateNV2") or ("Stage" in n) or n.startswith(("Debug", "Save"))]
    registered = [n for n in safe if op_def_registry.get(n) is not None]
    assert len(registered) > 0.95 * len(safe)
    # The fast way in the walk skips these without a look at their attributes.
    assert not [n for n in scheduling._PLAIN_OPS if scheduling._function_attrs(n)]


@pytest.fixture(autouse=True)
def no_thread_settings(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)


def test_local_session_with_one_device():
    with v1.Session(graph=tf.Graph(), config=v1.ConfigProto(device_count={"CPU": 1, "GPU": 0})) as session:
        assert scheduling.session_hazard(session) is None


def test_environment_that_sets_threads(monkeypatch):
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "2")
    with v1.Session(graph=tf.Graph()) as session:
        assert "TF_NUM_INTEROP_THREADS" in scheduling.session_hazard(session)


@pytest.mark.parametrize(
    "config, word",
    [
        ({"session_inter_op_thread_pool": [config_pb2.ThreadPoolOptionProto(num_threads=2)]}, "session_inter_op_thread_pool"),
        ({"use_per_session_threads": True}, "use_per_session_threads"),
        ({"inter_op_parallelism_threads": 2}, "inter_op_parallelism_threads"),
        ({"inter_op_parallelism_threads": -1}, "inter_op_parallelism_threads"),
        ({"operation_timeout_in_ms": 1000}, "operation_timeout_in_ms"),
        ({"experimental": {"executor_type": "SINGLE_THREADED_EXECUTOR"}}, "executor_type"),
        ({"experimental": {"disable_functional_ops_lowering": True}}, "disable_functional_ops_lowering"),
        ({"graph_options": {"optimizer_options": {"global_jit_level": 1}}}, "XLA"),
    ],
)
def test_session_configs_that_speak_against_it(config, word):
    proto = config_pb2.ConfigProto(**config)
    with v1.Session(graph=tf.Graph(), config=proto) as session:
        assert word in scheduling.session_hazard(session)


class _FakeSession:
    """Stands in for sessions that need a cluster or more devices than there are."""

    def __init__(self, target=b"", devices=("CPU",)):
        self._target = target
        self._config = None
        self._devices = devices

    def list_devices(self):
        return [type("Device", (), {"name": kind, "device_type": kind}) for kind in self._devices]


def test_targets_and_devices():
    assert scheduling.session_hazard(_FakeSession()) is None
    assert scheduling.session_hazard(_FakeSession(b"local")) is None
    assert scheduling.session_hazard(_FakeSession(devices=("CPU", "XLA_CPU"))) is None
    assert "grpc" in scheduling.session_hazard(_FakeSession(b"grpc://localhost:1"))
    assert "2 devices" in scheduling.session_hazard(_FakeSession(devices=("CPU", "GPU")))


_HANG = """
import sys
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
v1, raw = tf.compat.v1, tf.raw_ops
v1.disable_eager_execution()
v1.enable_control_flow_v2()
with tf.Graph().as_default() as graph:
{build}
    from fasthooks.step import scheduling
    print("reason:", scheduling.inline_hazard(graph, fetches)[0], flush=True)
    options = config_pb2.CallableOptions(fetch=[f.name for f in fetches if isinstance(f, tf.Tensor)])
    options.target.extend(f.name for f in fetches if isinstance(f, tf.Operation))
    with v1.Session() as session:
        if sys.argv[1] == "inline":
            options.run_options.inter_op_thread_pool = -1
        step = session._make_callable_from_options(options)
        print("ready", flush=True)
        step()
        print("done", flush=True)
"""

_STAGE = """
put = raw.Stage(values=[tf.constant(1.0)], shared_name="area")
got = raw.Unstage(dtypes=[tf.float32], shared_name="area")[0]
fetches = [put, got]
"""

_WHILE = """
queue = v1.FIFOQueue(9, tf.float32, shapes=[[]])
loop = tf.while_loop(lambda i: i < 1.0, lambda i: (i + queue.dequeue(),), (tf.constant(0.0),))[0]
op = next(o for o in graph.get_operations() if o.type == "While")
op._set_attr("_lower_using_switch_merge", v1.AttrValue(b=False))
# The element comes from the same step, and later than the loop starts.
x = tf.random.uniform([300, 300])
for _ in range(30):
    x = tf.tanh(x @ x)
fetches = [loop, queue.enqueue(tf.reduce_mean(x) * 0.0 + 1.0)]
"""

_STACK = """
v1.disable_control_flow_v2()
p = v1.placeholder_with_default(1.0, [])
loop = v1.while_loop(lambda i, x: i < 20000, lambda i, x: (i + 1, tf.sin(x)), (0, p))[1]
fetches = v1.gradients(loop, p)
"""


def _demonstrate(build, how):
    """Runs one of the programs above for at most a few seconds after it is ready, returns what it printed."""
    program = _HANG.format(build=textwrap.indent(build, "    "))
    # Without a buffer: `communicate` would lose what stands in one, which is all if the program is done at once.
    process = apart.Process(program, how, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line.decode().strip())
            if lines[-1] == "ready":
                break
        try:
            lines += process.communicate(timeout=3 if how == "inline" else 20)[0].decode().split()
            if process.returncode:
                lines.append("crashes")
        except subprocess.TimeoutExpired:
            lines.append("hangs")
        return lines
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "build, inline", [(_STAGE, "hangs"), (_WHILE, "hangs"), (_STACK, "crashes")], ids=["stage", "while", "stack"]
)
@pytest.mark.parametrize("how", ["inline", "pool"])
def test_what_fails_inline_is_refused(build, inline, how):
    reason, *rest = _demonstrate(build, how)
    assert reason.startswith("reason: op '")
    assert rest == ["ready", inline if how == "inline" else "done"]


def test_a_long_chain_of_ops_needs_no_stack():
    """The executor goes from op to op in a loop; only asynchronous kernels call their successors."""
    with tf.Graph().as_default():
        value = v1.placeholder_with_default(1.0, [])
        chain = value
        for _ in range(4000):
            chain = tf.negative(chain)
        results = []
        with fasthooks.MonitoredSession(scheduling="inline") as session:
            size = threading.stack_size(256 * 1024)
            try:
                thread = threading.Thread(target=lambda: results.append(session.run(chain)))
                thread.start()
            finally:
                threading.stack_size(size)
            thread.join()
            assert session.report()["plans"][0]["scheduling"] == "inline"
    assert results == [1.0]
