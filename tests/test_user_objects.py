"""Objects of the user's own in fetches, feeds and hooks: their code runs as often as under TensorFlow, and in the same order."""

import collections
import gc
import types
import weakref

import attrs
import numpy as np
import pytest
import tensorflow as tf
from helpers import attempt, build_model, quick_creator, same_in_way, v1
from tensorflow.python.client import session as session_lib
from tensorflow.python.ops import session_ops

import fasthooks

WAYS = ("ours-auto", "patched", "accelerated")
HOOKED_WAYS = ("ours-auto", "patched")


class Batch:
    """A lazy batch: each conversion gives the next one, or fails."""

    def __init__(self, fails_on=()):
        self.count, self.fails_on = 0, fails_on

    def __array__(self, dtype=None, copy=None):
        self.count += 1
        if self.count in self.fails_on:
            raise LookupError(f"batch {self.count}")
        return np.array(self.count, dtype)


class Runs:
    """A program that makes runs of `x + 0, y + 0` with these feeds, which `feeds(graph)` makes anew each time."""

    def __init__(self, feeds):
        self.feeds = feeds

    def __call__(self, run):
        g = types.SimpleNamespace(x=v1.placeholder(tf.int32, [], name="x"), y=v1.placeholder(tf.int32, name="y"))
        g.fetches = [g.x + 0, g.y + 0]
        handle = session_ops.get_session_handle(tf.constant(7))
        g.batch, g.failing = Batch(), Batch(fails_on=(1, 3))
        with run.api.MonitoredSession(quick_creator(run)) as session:
            g.handle = session.run(handle)
            for _ in range(4):
                attempt(run, session, g.fetches, self.feeds(g))
            run.note(g.batch.count, g.failing.count)


FEEDS = {
    "converted": lambda g: {g.x: g.batch, g.y: 3},
    "a handle after it": lambda g: {g.x: g.batch, g.y: g.handle},
    "a handle before it": lambda g: {g.y: g.handle, g.x: g.batch},
    "a tensor after it": lambda g: {g.x: g.batch, g.y: g.fetches[0]},
    "a bad shape after it": lambda g: {g.y: g.batch, g.x: [1, 2]},
    "an array of a bad shape after it": lambda g: {g.y: g.batch, g.x: np.array([1, 2], np.int32)},
    "a bad value after it": lambda g: {g.x: g.batch, g.y: "text"},
    "an integer too large after it": lambda g: {g.x: g.batch, g.y: 2**40},
    "fails": lambda g: {g.x: g.failing, g.y: 3},
    "fails after another": lambda g: {g.y: g.batch, g.x: g.failing},
    "changes the dict": lambda g: changing(g),
}


def changing(g):
    feeds = {}

    class Changes:
        def __array__(self, dtype=None, copy=None):
            feeds.clear()
            return np.array(5, dtype)

    feeds.update({g.x: Changes(), g.y: g.batch})
    return feeds


@pytest.mark.parametrize("feeds", FEEDS)
@pytest.mark.parametrize("way", WAYS)
def test_values_are_converted_once(way, feeds, tmp_path):
    ours, _ = same_in_way(way, Runs(FEEDS[feeds]), f"feeds {feeds}", tmp_path)
    if feeds in ("converted", "changes the dict"):
        assert ours.planned >= 4


class Key:
    """Stands for a tensor, at another time for another one."""

    def __init__(self, tensor):
        self.tensor = tensor

    def _as_graph_element(self):
        return self.tensor


class Falsy(dict):
    def __bool__(self):
        return False


class Raising(dict):
    def __bool__(self):
        raise LookupError("neither true nor false")


@pytest.mark.parametrize("way", WAYS)
def test_keys_and_dicts_of_feeds(way, tmp_path):
    def program(run):
        x, y = [v1.placeholder_with_default(number, [], name=name) for number, name in ((1, "x"), (2, "y"))]
        fetches, key = [x + 0, y + 0], Key(x)
        with run.api.MonitoredSession(quick_creator(run)) as session:
            for tensor in (x, x, y, x, y):
                key.tensor = tensor
                attempt(run, session, fetches, {key: 10})
            for kind in (Falsy, Raising, Falsy, collections.OrderedDict, types.MappingProxyType):
                attempt(run, session, fetches, kind({x: 10}))

    same_in_way(way, program, "keys", tmp_path)


class Registered:
    """A type that the test registers with TensorFlow, which then takes precedence over its `_as_graph_element`."""

    def __init__(self, tensor):
        self.tensor = tensor

    def _as_graph_element(self):
        return self.tensor


@pytest.fixture
def registry():
    before = list(session_lib._REGISTERED_EXPANSIONS)
    yield session_lib.register_session_run_conversion_functions
    session_lib._REGISTERED_EXPANSIONS[:] = before


@pytest.mark.parametrize("way", WAYS)
def test_conversions_that_are_registered(way, tmp_path, registry):
    def program(run):
        x = v1.placeholder_with_default(1, [], name="x")
        z = x + 0
        del session_lib._REGISTERED_EXPANSIONS[:-count]
        with run.api.MonitoredSession(quick_creator(run)) as session:
            attempt(run, session, z, {Registered(x): 3})
            attempt(run, session, z, {x: 3})
            registry(Registered, lambda one: ([one.tensor], lambda values: ("mine", values[0])),
                     lambda one, value: [(one.tensor, value * 100)], lambda one: [one.tensor])
            for key in (Registered(x), x, Registered(x)):
                attempt(run, session, z, {key: 3})
                attempt(run, session, [key, z])
            # From now on of all tensors, those of plans that are made too.
            registry(tf.Tensor, lambda tensor: ([tensor], lambda values: ("tensor's", values[0])))
            attempt(run, session, z, {"x:0": 4})
            attempt(run, session, {"z": [z, x]})

    count = len(session_lib._REGISTERED_EXPANSIONS)
    same_in_way(way, program, "registered", tmp_path)


class Refuses(tuple):
    """TensorFlow fails to make one of these of results: the constructor does not take them one by one."""


@attrs.define(kw_only=True)
class KeywordsOnly:
    one: object


class Told(collections.namedtuple("Told", "one")):
    """Tells when TensorFlow makes one of results."""

    __slots__ = ()
    seen: list = []

    def __new__(cls, one):
        cls.seen.append("made")
        return super().__new__(cls, one)


class Listens(v1.train.SessionRunHook):
    """Notes what it is given, and changes what others were to get."""

    def __init__(self, run, wanted, change=lambda fetches: None):
        self.run, self.wanted, self.change = run, wanted, change

    def before_run(self, run_context):
        return v1.train.SessionRunArgs(self.wanted)

    def after_run(self, run_context, run_values):
        Told.seen.append("after_run")
        self.run.note(run_values.results)
        self.change(run_context.original_args.fetches)


@pytest.mark.parametrize("way", HOOKED_WAYS)
@pytest.mark.parametrize("kind", ["tuple", "attrs", "mapping", "sound"])
@pytest.mark.parametrize("quiet", [False, True])
def test_no_hook_acts_on_results_that_cannot_be_made(way, kind, quiet, tmp_path):
    def program(run):
        train, loss = build_model()
        fetches = {"tuple": Refuses([train, loss]), "attrs": KeywordsOnly(one=train),
                   "mapping": types.MappingProxyType({"t": train}), "sound": [train]}[kind]
        hooks = [run.api.CheckpointSaverHook(run.dir, save_steps=100 if quiet else 2),
                 run.api.StepCounterHook(2, output_dir=run.dir)]
        hooks += [] if quiet else [Listens(run, loss)]
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            for wanted in (train, fetches, train, fetches, train, train):
                attempt(run, session, wanted)

    same_in_way(way, program, f"refused {kind} {quiet}", tmp_path)


@pytest.mark.parametrize("way", HOOKED_WAYS)
def test_results_are_made_before_the_first_hook_acts(way, tmp_path):
    def program(run):
        train, loss = build_model()
        shared = {"v": loss, "w": loss}
        Told.seen.clear()
        hooks = [Listens(run, Told(loss), lambda fetches: (shared.pop("v", None), shared.setdefault("u", loss))),
                 Listens(run, shared, lambda fetches: fetches.pop("y", None)), Listens(run, Told(loss))]
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            for _ in range(3):
                shared.clear()
                shared.update(v=loss, w=loss)
                attempt(run, session, {"x": train, "y": Told(loss)})
        run.note(Told.seen)

    same_in_way(way, program, "order", tmp_path)


class FromGenerator(dict):
    """Notes what it is made from."""

    def __init__(self, pairs=()):
        self.made_from = type(pairs).__name__
        super().__init__(pairs)

    def keys(self):
        keys = list(super().keys())
        Told.seen.append("keys")
        return keys


@pytest.mark.parametrize("way", HOOKED_WAYS)
def test_what_mappings_are_asked_and_made_from(way, tmp_path):
    def program(run):
        train, loss = build_model()
        with run.api.MonitoredSession(quick_creator(run), [Listens(run, None)]) as session:
            for _ in range(3):
                Told.seen.clear()
                made = session.run(FromGenerator({"a": train, "b": loss}))
                run.note(made.made_from, dict(made), [what for what in Told.seen if what != "keys"][-1:],
                         Told.seen.index("keys") < Told.seen.index("after_run"))
        Told.seen.clear()

    same_in_way(way, program, "mapping", tmp_path)


@pytest.mark.parametrize("way", HOOKED_WAYS)
def test_run_values_are_a_plain_tuple(way, tmp_path):
    def program(run):
        train, loss = build_model()

        class Looks(v1.train.SessionRunHook):
            def before_run(self, run_context):
                return v1.train.SessionRunArgs(loss)

            def after_run(self, run_context, run_values):
                kinds = [type(part).__name__ for part in run_values + ()]
                run.note(kinds, "%s|%s|%s" % run_values, run_values.options in run_values,  # noqa: UP031  C code reads the items
                         run_values.count(run_values.run_metadata), run_values.index(run_values.options),
                         type(run_values) is v1.train.SessionRunValues)

        with run.api.MonitoredSession(quick_creator(run), [Looks()]) as session:
            for _ in range(3):
                session.run(train)

    same_in_way(way, program, "values", tmp_path)


@pytest.mark.parametrize("make", [
    lambda tensor: [tensor, np.ones(3)],
    lambda tensor: [tensor, Key(tensor)],
    lambda tensor: FromGenerator({"a": tensor}),
])
@pytest.mark.parametrize("hooked", [False, True])
def test_fetches_are_let_go(make, hooked):
    """Of runs that were refused too."""
    with tf.Graph().as_default():
        tensor = tf.constant(1.0)
        hooks = [v1.train.SessionRunHook(), Listens(types.SimpleNamespace(note=lambda *_: None), None)] if hooked else []
        with fasthooks.MonitoredSession(hooks=hooks) as session:
            alive = []
            for _ in range(20):
                fetches = make(tensor)
                odd = fetches[1] if type(fetches) is list else fetches
                alive.append(weakref.ref(odd))
                try:
                    session.run(fetches)
                except TypeError:
                    pass
                del fetches, odd
            gc.collect()
            assert not any(one() is not None for one in alive)
    Told.seen.clear()


def test_feed_keys_are_let_go():
    with tf.Graph().as_default():
        x = v1.placeholder_with_default(1.0, [])
        y = x + 0.0
        with fasthooks.MonitoredSession() as session:
            alive = []
            for _ in range(20):
                key = Key(x)
                alive.append(weakref.ref(key))
                assert session.run(y, {key: 2.0}) == 2.0
                del key
            gc.collect()
            assert not any(one() is not None for one in alive)
            assert session.report()["declined"] == {"a feed key has the type Key": 20}
