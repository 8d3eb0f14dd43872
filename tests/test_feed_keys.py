"""Keys of `feed_dict` in all their kinds: what they feed, what is refused and with which error, and that they are planned."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from helpers import attempt, quick_creator, same_in_way, v1
from tensorflow.python.framework import indexed_slices

WAYS = ("ours-auto", "ours-inline", "patched", "accelerated")
RUNS = 6
Sparse = v1.SparseTensorValue
Ragged = v1.ragged.RaggedTensorValue
Slices = indexed_slices.IndexedSlicesValue
Triple = collections.namedtuple("Triple", "a b c")
INDICES, VALUES, SHAPE = np.array([[0, 1], [2, 0]], np.int64), np.array([5, 6], np.float32), np.array([3, 2], np.int64)


class Graph:
    """Placeholders of each kind, and what is made of them."""

    def __init__(self):
        self.x = v1.placeholder(tf.float32, [2], name="x")
        self.y = tf.multiply(self.x, 2.0, name="doubled")
        self.any = v1.placeholder(tf.int32, name="any")
        self.text = v1.placeholder(tf.string, [None], name="text")
        self.default = v1.placeholder_with_default([1.0, 2.0], [2], name="default")
        self.sparse = v1.sparse_placeholder(tf.float32, name="sparse")
        self.known = v1.sparse_placeholder(tf.float32, shape=[3, 2], name="known")
        self.slices = tf.IndexedSlices(v1.placeholder(tf.float32, [None, 2], name="rows"),
                                       v1.placeholder(tf.int64, [None], name="numbers"),
                                       v1.placeholder(tf.int64, [2], name="dense_shape"))
        self.shapeless = tf.IndexedSlices(v1.placeholder(tf.float32, [None, 2]), v1.placeholder(tf.int64, [None]))
        self.ragged = v1.ragged.placeholder(tf.float32, 1, name="ragged")
        self.deep = v1.ragged.placeholder(tf.int32, 2, name="deep")
        self.value = tf.sparse.from_dense(tf.constant([[1.0, 0.0]]))
        with v1.variable_scope("", use_resource=True):
            self.variable = v1.get_variable("variable", initializer=[1.0, 2.0])
        self.read = self.variable.value()
        self.total = self.default + self.y
        with tf.Graph().as_default():
            self.foreign = v1.placeholder(tf.float32, [2], name="x")


def ones(number=0):
    return np.array([1.0 + number, 2.0], np.float32)


# Name -> function of a graph and the number of the run that returns (fetches, feed_dict).
VALID = {
    "tensor": lambda g, n: (g.y, {g.x: ones(n)}),
    "name": lambda g, n: (g.y, {"x:0": ones(n)}),
    "name_list": lambda g, n: ([g.y], {"x:0": [1.0, n]}),
    "name_float64": lambda g, n: ([g.y], {"x:0": np.array([1.0, n])}),
    "new_name": lambda g, n: (g.y, {"".join(["x", ":", "0"]): ones(n)}),
    "name_and_tensor": lambda g, n: (g.y, {"x:0": ones(n), g.x: ones(n + 1)}),
    "tensor_and_name": lambda g, n: (g.y, {g.x: ones(n), "x:0": ones(n + 1)}),
    "two_names": lambda g, n: ((g.y, g.any), {"x:0": ones(n), "any:0": n}),
    "name_of_middle": lambda g, n: (g.total, {"doubled:0": ones(n)}),
    "names_and_tensors": lambda g, n: ({"t": g.total}, {"default:0": ones(n), g.x: ones(1)}),
    "name_fed_and_fetched": lambda g, n: ([g.x, g.y], {"x:0": ones(n)}),
    "name_fed_and_fetched_list": lambda g, n: ([g.x, g.y], {"x:0": [1, n]}),
    "name_fed_and_fetched_by_name": lambda g, n: (["x:0", "doubled:0"], {"x:0": ones(n)}),
    "name_fed_tensor_fetched_alone": lambda g, n: (g.x, {"x:0": ones(n)}),
    "tensor_fed_name_fetched": lambda g, n: ("x:0", {g.x: ones(n)}),
    "name_text": lambda g, n: (g.text, {"text:0": [b"a", "\u00e9"]}),
    "text": lambda g, n: (g.text, {g.text: np.array(["a", "b"])}),
    "sparse_value": lambda g, n: (g.sparse, {g.sparse: Sparse(INDICES, VALUES + n, SHAPE)}),
    "sparse_tuple": lambda g, n: (g.sparse, {g.sparse: (INDICES, VALUES + n, SHAPE)}),
    "sparse_list": lambda g, n: (g.sparse, {g.sparse: [INDICES, VALUES + n, SHAPE]}),
    "sparse_nested_lists": lambda g, n: (g.sparse, {g.sparse: ([[0, 1]], [n], [3, 2])}),
    "sparse_namedtuple": lambda g, n: (g.sparse, {g.sparse: Triple(INDICES, VALUES, SHAPE)}),
    "sparse_float64": lambda g, n: (g.sparse, {g.sparse: Sparse(INDICES.astype(np.int32), VALUES.astype(np.float64), SHAPE)}),
    "sparse_values_fetched": lambda g, n: ([g.sparse.values, g.y], {g.sparse: Sparse(INDICES, VALUES, SHAPE), g.x: ones(n)}),
    "sparse_known": lambda g, n: (g.known, {g.known: Sparse(INDICES, VALUES + n, SHAPE)}),
    "sparse_and_name": lambda g, n: ((g.sparse, g.y), {g.sparse: Sparse(INDICES, VALUES, SHAPE), "x:0": ones(n)}),
    "sparse_parts": lambda g, n: (g.sparse, {g.sparse.indices: INDICES, g.sparse.values: VALUES, "sparse/shape:0": SHAPE}),
    "sparse_part_twice": lambda g, n: (g.sparse, {g.sparse: Sparse(INDICES, VALUES, SHAPE), g.sparse.values: VALUES + n}),
    "slices_value": lambda g, n: (g.slices, {g.slices: Slices(np.full([1, 2], n, np.float32), np.array([1]), np.array([3, 2]))}),
    "slices_tuple": lambda g, n: (g.slices, {g.slices: (np.full([1, 2], n, np.float32), [1], [3, 2])}),
    "slices_shapeless": lambda g, n: (g.shapeless, {g.shapeless: Slices(np.full([1, 2], n, np.float32), np.array([1]), None)}),
    "slices_shapeless_tuple": lambda g, n: (g.shapeless, {g.shapeless: (np.full([1, 2], n, np.float32), np.array([1]))}),
    "ragged_value": lambda g, n: (g.ragged, {g.ragged: v1.ragged.constant_value([[1.0, n], []], dtype=np.float32)}),
    "ragged_deep": lambda g, n: (g.deep, {g.deep: v1.ragged.constant_value([[[1], [2, n]], []], dtype=np.int32)}),
    "ragged_by_hand": lambda g, n: (g.ragged, {g.ragged: Ragged(np.float32([1, 2, n]), np.array([0, 2, 3]))}),
    "operation_element": lambda g, n: (g.y, {g.x.op.outputs[0]: ones(n)}),
    "read": lambda g, n: (g.read, {g.read: ones(n)}),
    "nothing": lambda g, n: (g.default, {}),
}
INVALID = {
    "name_shape": lambda g, n: (g.y, {"x:0": [1.0]}),
    "name_dtype": lambda g, n: (g.y, {"x:0": "text"}),
    "name_none": lambda g, n: (g.y, {"x:0": None}),
    "name_tensor_value": lambda g, n: (g.y, {"x:0": g.y}),
    "unknown_name": lambda g, n: (g.y, {"nothing:0": 1}),
    "unknown_output": lambda g, n: (g.y, {"x:1": 1}),
    "name_of_op": lambda g, n: (g.y, {"x": ones()}),
    "op": lambda g, n: (g.y, {g.x.op: ones()}),
    "malformed": lambda g, n: (g.y, {"x:0:0": 1}),
    "empty_name": lambda g, n: (g.y, {"": 1}),
    "bytes": lambda g, n: (g.y, {b"x:0": ones(n)}),
    "number": lambda g, n: (g.y, {3: 1}),
    "none": lambda g, n: (g.y, {None: 1}),
    "tuple": lambda g, n: (g.y, {(g.x.ref(), 1): ones()}),
    "foreign": lambda g, n: (g.y, {g.foreign: ones()}),
    "list_of_pairs": lambda g, n: (g.y, [(g.x, ones())]),
    "sparse_short": lambda g, n: (g.sparse, {g.sparse: (INDICES, VALUES)}),
    "sparse_long": lambda g, n: (g.sparse, {g.sparse: (INDICES, VALUES, SHAPE, SHAPE)}),
    "sparse_array": lambda g, n: (g.sparse, {g.sparse: np.ones([3], np.float32)}),
    "sparse_number": lambda g, n: (g.sparse, {g.sparse: 3.0}),
    "sparse_none": lambda g, n: (g.sparse, {g.sparse: None}),
    "sparse_tensor": lambda g, n: (g.sparse, {g.sparse: g.value}),
    "sparse_dtype": lambda g, n: (g.sparse, {g.sparse: Sparse(INDICES, ["a", "b"], SHAPE)}),
    "sparse_shape": lambda g, n: (g.sparse, {g.sparse: Sparse(VALUES, VALUES, SHAPE)}),
    "sparse_none_inside": lambda g, n: (g.sparse, {g.sparse: (INDICES, None, SHAPE)}),
    "sparse_for_dense": lambda g, n: (g.y, {g.x: Sparse(INDICES, VALUES, SHAPE)}),
    "sparse_tensor_for_dense": lambda g, n: (g.y, {g.x: g.value}),
    "sparse_other_shape": lambda g, n: (g.known, {g.known: Sparse(INDICES, VALUES, [4, 4])}),
    "slices_short": lambda g, n: (g.slices, {g.slices: (np.ones([1, 2]), [1])}),
    "slices_long": lambda g, n: (g.shapeless, {g.shapeless: (np.ones([1, 2]), [1], [3, 2])}),
    "slices_dtype": lambda g, n: (g.slices, {g.slices: Slices(np.ones([1, 2]), ["a"], [3, 2])}),
    "ragged_list": lambda g, n: (g.ragged, {g.ragged: [[1.0], []]}),
    "ragged_ranks": lambda g, n: (g.deep, {g.deep: v1.ragged.constant_value([[1], [2]], dtype=np.int32)}),
    "ragged_array": lambda g, n: (g.ragged, {g.ragged: np.ones([2, 2], np.float32)}),
    "ragged_dtype": lambda g, n: (g.ragged, {g.ragged: v1.ragged.constant_value([["a"]])}),
    "missing": lambda g, n: (g.y, {"any:0": 1}),
    "variable": lambda g, n: (g.read, {g.variable: ones(n)}),
}# Of these, those that TensorFlow takes: it looks no further than to the components that it needs.
ACCEPTED = {"bytes", "sparse_long", "sparse_other_shape", "slices_long", "variable"}


def is_error(note):
    return note[0] == ("str", "'error'")


@pytest.mark.parametrize("way", ["ours-auto", "accelerated"])
@pytest.mark.parametrize("kind", VALID)
def test_what_is_fed(way, kind, tmp_path):
    """Results are TensorFlow's, and all runs take a plan."""

    def program(run):
        g = Graph()
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for number in range(RUNS):
                attempt(run, session, *VALID[kind](g, number))
            run.keep_report(session)

    ours, stock = same_in_way(way, program, ("feed", kind), tmp_path)
    assert not any(map(is_error, stock.notes)), stock.notes[0]
    ours.assert_accelerated()


@pytest.mark.parametrize("way", ["ours-auto"])
@pytest.mark.parametrize("kind", INVALID)
def test_what_is_refused(way, kind, tmp_path):
    """Errors are TensorFlow's, before and after plans were made, and leave later runs as they were."""

    def program(run):
        g = Graph()
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for number in range(3):
                attempt(run, session, *INVALID[kind](g, number))
                attempt(run, session, g.y, {"x:0": ones(number)})
                attempt(run, session, g.sparse, {g.sparse: Sparse(INDICES, VALUES, SHAPE)})

    _, stock = same_in_way(way, program, ("feed", kind), tmp_path)
    assert {is_error(note) for note in stock.notes[::3]} == {kind not in ACCEPTED}
    assert not any(map(is_error, stock.notes[1::3]))


@pytest.mark.parametrize("way", WAYS)
def test_all_kinds_in_turn(way, tmp_path):
    """Keys of all kinds take turns in one session, good and bad ones, and a plan serves none but its own."""

    def program(run):
        g = Graph()
        turns = [*VALID.values(), *INVALID.values()]
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for number in range(3):
                for kind in turns[::-1] if number == 1 else turns:
                    attempt(run, session, *kind(g, number))

    same_in_way(way, program, "all keys", tmp_path)


@pytest.mark.parametrize("way", ["ours-auto", "ours-inline", "patched"])
@pytest.mark.parametrize("same", [False, True])
def test_keys_of_hooks(way, same, tmp_path):
    """Hooks feed by names and composites too; the same tensor fed twice is TensorFlow's error, whatever names it."""

    class Feed(v1.train.SessionRunHook):
        def __init__(self, feeds):
            self.feeds = feeds

        def before_run(self, run_context):
            return v1.train.SessionRunArgs(None, self.feeds)

    def program(run):
        g = Graph()
        hooks = [Feed({"default:0": ones(5)}), Feed({g.sparse: Sparse(INDICES, VALUES, SHAPE)})]
        if same:
            hooks.append(Feed({g.default: ones(6)}))
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            for number in range(RUNS):
                attempt(run, session, [g.total, g.sparse], {"x:0": ones(number)})

    ours, _ = same_in_way(way, program, ("feeding hooks", same), tmp_path)
    if not same:
        ours.assert_accelerated()


@pytest.mark.parametrize("way", WAYS)
def test_many_runs(way, tmp_path):
    """The same when a plan has run 200 times and settled."""

    def program(run):
        g = Graph()
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for number in range(200):
                feeds = {g.sparse: Sparse(INDICES, VALUES + number, SHAPE), "x:0": ones(number)}
                attempt(run, session, [g.sparse, g.y], feeds)
            attempt(run, session, [g.sparse, g.y], {g.sparse: (INDICES, VALUES), "x:0": ones()})
            attempt(run, session, [g.sparse, g.y], {g.sparse: Sparse(INDICES, VALUES, SHAPE), "x:0": [1]})
            attempt(run, session, [g.sparse, g.y], {g.sparse: Sparse(INDICES, VALUES, SHAPE), "x:0": ones()})

    ours, _ = same_in_way(way, program, "many keys", tmp_path)
    ours.assert_accelerated(0.98)
