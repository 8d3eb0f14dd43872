"""B15: every form that fetches and feeds can have, in plain and in monitored sessions.

To add a form, write a function (model, run) that returns a function without arguments, which makes one step, and list it in
`FORMS`. What the step makes anew in each call belongs to the form, and is timed in both sessions alike.
"""

import collections
import collections.abc
import contextlib
import importlib.util
import itertools
import typing

import numpy as np
import tensorflow as tf

from bench import common
from bench.common import v1
from bench.table import progress, row

NEVER_SLOWER = 0.95
KEYS = 6  # names and sparse placeholders as feed keys
COMPOSITES = 2  # structures with composites made anew


def build():
    """The fed tiny graph, and tensors of all kinds to fetch and to feed."""
    model = common.tiny_fed()
    model.feed = model.feeds[0]
    ((model.target, model.array),) = model.feed.items()
    model.square = tf.square(model.loss)
    model.half = model.loss / 2.0
    model.leaves = [model.train_op, model.loss, model.square, model.half]
    indices = tf.constant([[0], [1]], tf.int64)
    values = tf.stack([model.loss, model.half])
    model.sparse = tf.SparseTensor(indices, values, tf.constant([2], tf.int64))
    model.slices = tf.IndexedSlices(values, indices[:, 0], tf.constant([2]))
    model.ragged = tf.RaggedTensor.from_row_splits(values, tf.constant([0, 1, 2]), validate=False)
    model.sparse_in = v1.sparse_placeholder(tf.float32)
    model.sparse_sum = tf.reduce_sum(model.sparse_in.values)
    model.sparse_value = v1.SparseTensorValue(np.array([[0], [1]]), np.ones(2, np.float32), np.array([2]))
    model.rate = v1.placeholder_with_default(1.0, [])
    model.scaled = model.loss * model.rate
    model.make_handle = v1.get_session_handle(model.loss)
    return model


# ----------------------------------------------------------------------------------------------------------------------
# Forms of fetches


class Key:
    """A key that is equal to itself only."""

    def __repr__(self):
        return "Key()"


class Pair(typing.NamedTuple):
    train: object
    loss: object


class Batch(collections.abc.Mapping):
    """A user's own mapping."""

    def __init__(self, items):
        self._items = dict(items)

    def __getitem__(self, key):
        return self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)

    def __repr__(self):
        return f"Batch({self._items})"


class Bag(list):
    """A user's own list."""


def fetching(make):
    """The form whose fetches `make(model)` returns on each step."""
    return lambda model, run: lambda: run(make(model), model.feed)


def kept(make):
    """The form whose fetches `make(model)` returns once."""

    def form(model, run):
        fetches = make(model)
        return lambda: run(fetches, model.feed)

    return form


def changed_in_place(model, run):
    fetches, others = [model.train_op, model.loss], itertools.cycle([model.loss, model.half])

    def step():
        fetches[1] = next(others)
        return run(fetches, model.feed)

    return step


def nesting(leaves, number):
    """A structure of these leaves, in their order, which no other number has."""
    structure = leaves[0]
    rest = itertools.cycle(leaves[1:])
    while number:
        number, digit = divmod(number, 4)
        if digit == 0:
            structure = [structure]
        elif digit == 1:
            structure = (structure, next(rest))
        elif digit == 2:
            structure = {"inner": structure}
        else:
            structure = [structure, next(rest)]
    return structure


def ever_new(model, run):
    numbers = itertools.count()
    return lambda: run(nesting(model.leaves, next(numbers)), model.feed)


def taking_turns(model, run):
    structures = itertools.cycle([nesting(model.leaves, number) for number in range(200)])
    return lambda: run(next(structures), model.feed)


def attrs_class():
    """A form with an attrs class, if the package attrs is there."""
    if importlib.util.find_spec("attr") is None:
        return {}
    import attr

    results = attr.make_class("Results", ["train", "loss"])
    return {"attrs class": fetching(lambda m: results(m.train_op, m.loss))}


def anew(composite):
    """The form that fetches, on each step, a composite made from tensors that are kept."""
    return fetching(lambda model: [model.train_op, composite(model)])


FETCHES = {
    "one operation": fetching(lambda m: m.train_op),
    "one tensor": fetching(lambda m: m.loss),
    "list made anew": fetching(lambda m: [m.train_op, m.loss]),
    "list changed in place": changed_in_place,
    "dict": fetching(lambda m: {"train": m.train_op, "loss": m.loss}),
    "nested dict": fetching(lambda m: {"train": m.train_op, "losses": {"one": m.loss, "others": [m.square, m.half]}}),
    "OrderedDict": fetching(lambda m: collections.OrderedDict(train=m.train_op, loss=m.loss)),
    "defaultdict": fetching(lambda m: collections.defaultdict(list, train=m.train_op, loss=m.loss)),
    "namedtuple": fetching(lambda m: Pair(m.train_op, m.loss)),
    **attrs_class(),
    "user's Mapping": fetching(lambda m: Batch([("train", m.train_op), ("loss", m.loss)])),
    "user's list": fetching(lambda m: Bag([m.train_op, m.loss])),
    "names": fetching(lambda m: [m.train_op.name, m.loss.name]),
    "keys that are new objects": fetching(lambda m: {Key(): m.train_op, Key(): m.loss}),
    "keys that are tuples": fetching(lambda m: {("a", 1): m.train_op, ("b", 2): m.loss}),
    "keys that are floats": fetching(lambda m: {0.5: m.train_op, 1.5: m.loss}),
    "SparseTensor, kept": kept(lambda m: [m.train_op, m.sparse]),
    "RaggedTensor, kept": kept(lambda m: [m.train_op, m.ragged]),
    "SparseTensor, made anew": anew(lambda m: tf.SparseTensor(m.sparse.indices, m.sparse.values, m.sparse.dense_shape)),
    "IndexedSlices, made anew": anew(lambda m: tf.IndexedSlices(m.slices.values, m.slices.indices, m.slices.dense_shape)),
    "a structure that is new on each step": ever_new,
    "200 structures taking turns": taking_turns,
    "fed tensor": fetching(lambda m: [m.train_op, m.target]),
}


# ----------------------------------------------------------------------------------------------------------------------
# Forms of feeds


def feeding(make, fetch=lambda model: model.train_op):
    """The form that feeds what `make(model)` returns on each step."""
    return lambda model, run: lambda: run(fetch(model), make(model))


def feeding_sparse(value):
    """The form that feeds `value(model)` to the sparse placeholder, beside the target."""
    return feeding(lambda m: {m.target: m.array, m.sparse_in: value(m)}, lambda m: [m.train_op, m.sparse_sum])


def by_handle(model, run):
    handle = run(model.make_handle, model.feed)
    return lambda: run([model.train_op, model.scaled], {model.target: model.array, model.rate: handle})


def with_options(model, run):
    options = v1.RunOptions(trace_level=v1.RunOptions.NO_TRACE, timeout_in_ms=60_000)
    return lambda: run(model.train_op, model.feed, options=options)


def with_metadata(model, run):
    metadata = v1.RunMetadata()
    return lambda: run(model.train_op, model.feed, run_metadata=metadata)


FEEDS = {
    "fed by tensor": feeding(lambda m: {m.target: m.array}),
    "fed by name": feeding(lambda m: {"target:0": m.array}),
    "fed a SparseTensorValue": feeding_sparse(lambda m: m.sparse_value),
    "fed a tuple as sparse": feeding_sparse(lambda m: tuple(m.sparse_value)),
    "fed a list": feeding(lambda m: {m.target: [0.5] * 16}),
    "fed a scalar": feeding(lambda m: {m.target: m.array, m.rate: 0.5}, lambda m: [m.train_op, m.scaled]),
    "fed float64 as float32": feeding(lambda m: {m.target: m.array.astype(np.float64)}),
    "fed by nested tuples": feeding(lambda m: {(m.target, (m.rate,)): (m.array, (0.5,))}, lambda m: [m.train_op, m.scaled]),
    "fed a session handle": by_handle,
    "options": with_options,
    "run_metadata": with_metadata,
}

FORMS = {**FETCHES, **FEEDS}
BARS = {
    "SparseTensor, made anew": COMPOSITES,
    "IndexedSlices, made anew": COMPOSITES,
    "fed by name": KEYS,
    "fed a SparseTensorValue": KEYS,
    "fed a tuple as sparse": KEYS,
}
HOOKED = (
    "one operation",
    "list made anew",
    "list changed in place",
    "nested dict",
    "names",
    "keys that are new objects",
    "keys that are floats",
    "SparseTensor, made anew",
    "a structure that is new on each step",
    "200 structures taking turns",
    "fed by name",
    "fed a SparseTensorValue",
    "fed a list",
    "fed float64 as float32",
    "fed by nested tuples",
    "options",
)


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


@contextlib.contextmanager
def plain_lane(impl, directory):
    """A lane of a plain session, accelerated if `impl` can."""
    del directory
    with common.bare_lane(build) as lane:
        impl.accelerate(lane.session)
        yield lane


def hooked_lane(impl, directory):
    """A lane of a monitored session with one hook that fetches on every step."""
    return common.monitored_lane(impl, build, lambda impl, model, _: [impl.train.NanTensorHook(model.loss)], directory)


def in_form(lane, form):
    """The lane, making steps of this form."""
    with lane.graph.as_default():
        step = form(lane.model, lane.session.run)

    def loop(steps):
        for _ in itertools.repeat(None, steps):
            step()

    return lane.with_loop(loop)


def b15(peer, ours, settings):
    """Any form of fetches and feeds, in plain sessions and, of some, in hooked ones."""
    rows = []
    cases = [("plain", plain_lane, name) for name in FORMS] + [("hooked", hooked_lane, name) for name in HOOKED]
    for kind, make_lane, name in cases:
        progress(f"  {kind}: {name}")
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(common.workspace())
            lanes = [in_form(stack.enter_context(make_lane(impl, directory)), FORMS[name]) for impl in (peer, ours)]
            common.warm_up(lanes, settings.warm_up)
            theirs, mine = common.interleave(lanes, settings.rounds, settings.form_steps).T
        bar = BARS.get(name, NEVER_SLOWER)
        rows.append(row("B15", f"{kind}: {name}", theirs, mine, theirs / mine, bar))
    return {"rows": rows}
