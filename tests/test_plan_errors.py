"""Errors of planned runs, closed and lost sessions, and what could kill the interpreter: always as TensorFlow's."""

import contextlib
import functools
import gc
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import traceback
import weakref
from unittest import mock

import apart
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.client import pywrap_tf_session
from test_plan import CAPACITY, MODES, RUNS, World, assert_same, build_many, close, make_worlds, outcome, run_sets, seen

import fasthooks

v1 = tf.compat.v1


# Errors of ops


def build_errors(w):
    w.index = v1.placeholder(tf.int32, [], name="index")
    w.gather = tf.gather(tf.constant([1, 2, 3]), w.index, name="gather")
    w.after = tf.add(w.gather, 1, name="after")
    w.any = v1.placeholder(tf.float32, None, name="any")
    w.product = tf.matmul(w.any, w.any, name="product")
    w.inverse = tf.linalg.inv(w.any, name="inverse")
    w.fine = tf.constant([1.0, 2.0], name="fine")
    w.assertion = v1.Assert(w.index < 3, ["index is", w.index, w.fine], name="assertion")
    w.numeric = v1.check_numerics(tf.math.log(w.any), "no number \u00e9", name="numeric")
    w.reshaped = tf.reshape(w.any, [3, 3], name="reshaped")
    w.fixed = v1.placeholder(tf.float32, [2], name="fixed")
    w.next = v1.data.make_one_shot_iterator(numbers(RUNS + 5)).get_next(name="next")
    w.doubled_next = w.next * 2
    w.fresh = v1.data.make_initializable_iterator(numbers(3))
    w.fresh_next = w.fresh.get_next(name="fresh_next")
    w.set = v1.get_variable("set", initializer=1.0)
    w.unset = v1.get_variable("unset", initializer=1.0, use_resource=True, collections=["own"])
    w.unset_reference = v1.get_variable("unset_reference", initializer=1.0, use_resource=False, collections=["own"])
    queue = v1.FIFOQueue(3, tf.int32, shapes=[[]])
    w.close_queue = queue.close()
    w.dequeue = queue.dequeue(name="dequeue")
    w.calls = v1.py_func(fails, [w.index], tf.int32, name="calls")
    w.parsed = tf.io.decode_csv(v1.placeholder_with_default("x", [], name="line"), [[0]], name="parsed")[0]
    w.missing = tf.io.read_file("/nowhere/at all", name="missing")
    w.function = tf.function(lambda x: tf.gather(tf.constant([1, 2]), x, name="inner"))(w.index)
    w.branch = tf.cond(w.index > 2, lambda: tf.gather([1], w.index, name="in_branch"), lambda: w.index)


def numbers(count):
    """Returns a dataset without the thread that tunes it: a session that closes waits for it, up to a minute."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.range(count).with_options(options)


def fails(index):
    if index > 2:
        raise ValueError(f"failed at {index}")
    return index


@pytest.fixture(scope="module")
def worlds():
    """Worlds whose ops fail in many ways."""
    made = make_worlds(build_errors)
    yield made
    close(made)


FAILING = {
    "in the op": lambda w: (w.gather, {w.index: 7}),
    "before the op": lambda w: ([w.fine, w.after], {w.index: 7}),
    "in a target": lambda w: (w.after.op, {w.index: 7}),
    "assert": lambda w: (w.assertion, {w.index: 7}),
    "product": lambda w: (w.product, {w.any: np.ones(3, np.float32)}),
    "inverse": lambda w: (w.inverse, {w.any: np.zeros((2, 2), np.float32)}),
    "numeric": lambda w: (w.numeric, {w.any: np.array([1, -1], np.float32)}),
    "reshape": lambda w: (w.reshaped, {w.any: np.ones(3, np.float32)}),
    "not fed": lambda w: (w.after, None),
    "not fed, with a shape": lambda w: (w.fixed, None),
    "unset variable": lambda w: (w.unset, None),
    "unset reference variable": lambda w: (w.unset_reference, None),
    "iterator not initialized": lambda w: (w.fresh_next, None),
    "Python function": lambda w: (w.calls, {w.index: 7}),
    "parsing": lambda w: (w.parsed, None),
    "file": lambda w: (w.missing, None),
    "in a function": lambda w: (w.function, {w.index: 7}),
    "in a branch": lambda w: (w.branch, {w.index: 7}),
}


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
def test_errors_of_ops(worlds, failing):
    outcomes = assert_same(worlds, lambda world: world.run(*failing(world)))
    assert {kind for kind, _ in outcomes} == {"error"}
    # The session goes on.
    assert assert_same(worlds, lambda world: world.run(world.fine), 2)[0][0] == "result"


def test_errors_between_results(worlds):
    def step(world):
        return [outcome(world.run, [world.gather, world.fine], {world.index: index}) for index in (0, 7, 2, -1, 1)]
    results = {mode: [step(world) for _ in range(RUNS)] for mode, world in worlds.items()}
    for mode in MODES:
        assert results[mode] == results["tf"], mode
    assert worlds["auto"].session.report()["planned_steps"] >= 5 * RUNS


def test_errors_tell_where_the_op_was_made(worlds):
    def step(world):
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            world.run(world.after, {world.index: 7})
        error = raised.value
        assert "build_errors" in error.message
        assert "test_plan_errors.py" in error.message
        assert error.op is world.graph.get_operation_by_name("gather")
        assert error.node_def == error.op.node_def
        # The caller's line comes first, the error that the native run raised is its context.
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert frames[0] == "step"
        return [type(error.__context__).__name__, str(error.__context__), error.error_code]
    assert_same(worlds, step)


def test_out_of_range(worlds):
    outcomes = assert_same(worlds, lambda world: world.run([world.doubled_next, world.fine]), RUNS + 10)
    assert [kind for kind, _ in outcomes] == ["result"] * (RUNS + 5) + ["error"] * 5
    assert outcomes[-1][1][0] == "OutOfRangeError"
    assert_same(worlds, lambda world: world.run(world.close_queue), 1)
    assert assert_same(worlds, lambda world: world.run(world.dequeue))[0][1][0] == "OutOfRangeError"


def test_iterator_initialized_later(worlds):
    def step(world):
        return [outcome(world.run, world.fresh.initializer)] + [outcome(world.run, world.fresh_next) for _ in range(5)]
    results = {mode: [step(world) for _ in range(5)] for mode, world in worlds.items()}
    for mode in MODES:
        assert results[mode] == results["tf"], mode


# Closed sessions


def test_error_while_the_session_is_closed(worlds):
    def step(world):
        # A close from another thread comes just as the error goes out.
        session = worlds["tf"].session.__class__ if world is worlds["tf"] else fasthooks.MonitoredSession
        made = []

        class Creator(v1.train.ChiefSessionCreator):
            def create_session(self):
                made.append(super().create_session())
                return made[-1]
        with world.graph.as_default():
            world.graph._unsafe_unfinalize()
            closed = session(Creator(v1.train.Scaffold(local_init_op=tf.no_op(), ready_op=tf.constant([]))))
        closed.run(world.gather, {world.index: 1})
        raw = closed._tf_sess()
        do_call = raw._do_call

        def close_on_error(*args):
            try:
                return do_call(*args)
            except tf.errors.OpError:
                closed.close()
                raise
        raw._do_call = close_on_error
        return [outcome(closed.run, world.gather, {world.index: 7}), len(made)]
    results = {mode: step(world) for mode, world in worlds.items()}
    for mode in MODES:
        assert results[mode] == results["tf"], mode

@pytest.mark.parametrize("runs", [0, 1, 2, RUNS])
@pytest.mark.parametrize("how", ["session", "raw", "stop"])
def test_use_after_close(how, runs):
    def build(w):
        w.vector = tf.constant([1.0, 2.0])
        w.fed = v1.placeholder(tf.float32, [None])
        w.out = tf.identity(w.fed)
    worlds = make_worlds(build)

    def end(world):
        for _ in range(runs):
            world.run([world.vector, world.out], {world.fed: [1.0]})
        if how == "session":
            world.session.close()
        elif how == "raw":
            world.session._tf_sess().close()
        else:
            world.session._coordinated_creator.coord.request_stop()
        return [outcome(world.run, [world.vector, world.out], {world.fed: [1.0]}), outcome(world.run, world.vector),
                outcome(world.run, "nothing"), outcome(world.run, world.out, {world.fed: "x"}),
                outcome(world.session.should_stop), outcome(world.session.run, world.vector, None, v1.RunOptions())]
    ends = {mode: end(world) for mode, world in worlds.items()}
    for mode in MODES:
        assert ends[mode] == ends["tf"], mode
    if how != "session":
        close(worlds)


# What could kill or hang the interpreter: each scenario is a function that a fresh interpreter calls.


def run_apart(scenario, *args):
    """Runs a function of this module in a new interpreter; returns what it printed."""
    code = ("import faulthandler; faulthandler.enable()\n"
            f"import test_plan_errors; test_plan_errors.{scenario.__name__}(*{args!r})")
    done = apart.run(code, cwd=pathlib.Path(__file__).parent, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


class Blocker:
    """An op that waits, with the thread that runs it."""

    def __init__(self, longest=60):
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.longest = longest

    def call(self, value):
        self.entered.set()
        self.leave.wait(self.longest)
        return value + 1

    def build(self, w):
        build_many(w)
        w.fed = v1.placeholder(tf.float32, [None], name="fed")
        w.blocked = v1.py_func(self.call, [w.fed], tf.float32, name="blocked")
        w.out = [tf.add(w.blocked, 1.0), w.rows[3]]

    def start(self, world):
        """Starts a thread that enters the op; returns it and the list that will hold its outcome."""
        outcomes = []
        self.entered.clear()
        self.leave.clear()
        thread = threading.Thread(target=lambda: outcomes.append(
            outcome(world.run, world.out, {world.fed: np.ones(2, np.float32)})), daemon=True)
        thread.start()
        assert self.entered.wait(60)
        return thread, outcomes

    def finish(self, thread):
        self.leave.set()
        thread.join(60)
        assert not thread.is_alive()


def evict_inside():
    for mode, first_runs in (("pool", 0), ("inline", 1), ("auto", RUNS)):
        blocker = Blocker()
        world = World(lambda mode=mode: fasthooks.MonitoredSession(scheduling=mode), blocker.build)
        blocker.leave.set()
        for _ in range(first_runs):
            world.run(world.out, {world.fed: np.ones(2, np.float32)})
        thread, outcomes = blocker.start(world)
        # Twice: one that has run since it was looked up is kept once.
        for _ in range(2):
            run_sets(world, CAPACITY + 10)
        assert "blocked" not in repr(world.session.report()["plans"])
        gc.collect()
        blocker.finish(thread)
        (kind, result), = outcomes
        assert (kind, result) == ("result", seen([np.full(2, 3, np.float32), np.full(4, 3, np.float32)], {}))
        run_sets(world, 10)
        world.session.close()


@contextlib.contextmanager
def closing(blocker):
    """Lets the blocked op go on once a native session is being closed: closing waits for the steps that run."""
    close_session = pywrap_tf_session.TF_CloseSession

    def release_and_close(session):
        blocker.leave.set()
        close_session(session)
    with mock.patch.object(pywrap_tf_session, "TF_CloseSession", release_and_close):
        yield


def close_inside():
    for raw in (False, True):
        blocker = Blocker()
        for mode, world in make_worlds(blocker.build).items():
            blocker.leave.set()
            for _ in range(RUNS):
                world.run(world.out, {world.fed: np.ones(2, np.float32)})
            thread, outcomes = blocker.start(world)
            with closing(blocker):
                if raw:
                    world.session._tf_sess().close()
                else:
                    world.session.close()
            kind, error = outcome(world.run, world.rows[0])
            assert (kind, error[0]) == ("error", "RuntimeError" if raw else "AttributeError"), mode
            world.session = None
            gc.collect()
            blocker.finish(thread)
            (kind, error), = outcomes
            assert kind == "result" or error[0] == "CancelledError", (mode, error)


class Abort(v1.train.SessionRunHook):
    """Aborts once, when certain fetches are run."""

    fetches = None

    def before_run(self, run_context):
        if self.fetches is not None and run_context.original_args.fetches is self.fetches:
            self.fetches = None
            raise tf.errors.AbortedError(None, None, "told to")


def recover_inside():
    for mode in MODES:
        blocker = Blocker()
        abort = Abort()
        world = World(lambda: fasthooks.MonitoredSession(hooks=[abort], scheduling=mode), blocker.build)
        blocker.leave.set()
        for _ in range(RUNS):
            world.run(world.out, {world.fed: np.ones(2, np.float32)})
        thread, outcomes = blocker.start(world)
        first = weakref.ref(world.session.raw_session())
        abort.fetches = world.rows[2]
        with closing(blocker), world.graph.as_default():
            assert world.run(world.rows[2]).tolist() == [2] * 4
        assert world.session.recoveries == 1
        blocker.finish(thread)
        (kind, error), = outcomes
        assert kind == "result" or error[0] == "CancelledError", (mode, error)
        gc.collect()
        assert first() is None
        for _ in range(RUNS):
            assert world.run(world.rows[1]).tolist() == [1] * 4
        assert outcome(world.run, world.out, {world.fed: np.ones(2, np.float32)})[0] == "result"
        world.session.close()


def threads_inside():
    evict_inside()
    close_inside()
    recover_inside()


def closed_error(raw):
    """Returns type and message of the error that TensorFlow has for a session without a native one."""
    if not raw._closed and hasattr(raw, "_assert_session_available"):  # TensorFlow 2.22
        return outcome(raw._assert_session_available)[1][:2]
    return "RuntimeError", "Attempted to use a closed Session."


def lose_native_session():
    ways = {
        "deleted": lambda raw: raw.__del__(),
        "taken": lambda raw: vars(raw).update(_session=None),
        "gone": lambda raw: vars(raw).pop("_session"),
        "closed": lambda raw: tf.compat.v1.Session.close(raw),
        "deleted, in another dict": lambda raw: (setattr(raw, "__dict__", dict(raw.__dict__)), raw.__del__()),
    }
    for mode in MODES:
        for way in ways.values():
            for runs in (1, RUNS):
                def build(w):
                    w.vector = tf.constant([1.0, 2.0])
                    w.other = tf.constant(1.0)
                world = World(lambda mode=mode: fasthooks.MonitoredSession(scheduling=mode), build)
                for _ in range(runs):
                    world.run(world.vector)
                raw = world.session.raw_session()
                native = raw._session
                way(raw)
                # Of fetches with and without a plan.
                for fetches in (world.vector, world.vector, world.other, world.other, [world.vector]):
                    kind, error = outcome(world.run, fetches)
                    assert (kind, error[:2]) == ("error", closed_error(raw))
                if raw.__dict__.get("_session", 0) is not None:
                    raw._session = native
                world.session = None
                gc.collect()


def run_in_a_finalizer():
    # The collector may have finalized the raw session before.
    class Trainer:
        def __init__(self, make):
            self.tensors = [tf.constant(1.0), tf.constant(2.0)]
            self.session, self.me = make(), self
            self.session.run(self.tensors[0])

        def __del__(self):
            for tensor in self.tensors:
                seen.append(outcome(self.session.run, tensor))

    seen = []
    for make in (lambda: fasthooks.MonitoredSession(), lambda: fasthooks.accelerate(tf.compat.v1.Session())):
        with tf.Graph().as_default():
            trainer = Trainer(make)
            del trainer
        gc.collect()
    assert len(seen) == 4 and all(
        kind == "result" or told[:2] == ("RuntimeError", "Attempted to use a closed Session.") for kind, told in seen), seen


def child_work():
    np.ones(10).sum()


def fork():
    worlds = [World(lambda mode=mode: fasthooks.MonitoredSession(scheduling=mode), build_many) for mode in MODES]
    for world in worlds:
        run_sets(world, 3, RUNS)
        run_sets(world, 5)
    pid = os.fork()
    if pid == 0:
        for world in worlds:
            world.session.report()
            world.session.raw_session()
        run_sets(worlds[2], 3)  # inline: needs no threads
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    child = multiprocessing.get_context("fork").Process(target=child_work)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    for world in worlds:
        run_sets(world, 3, RUNS)
        world.session.close()


def leave_open():
    # The interpreter ends with sessions open, and with a daemon thread inside each of three.
    worlds = make_worlds(build_many)
    for mode in MODES:
        run_sets(worlds[mode], 3, RUNS)
    for mode in MODES:
        blocker = Blocker(1)
        world = World(functools.partial(fasthooks.MonitoredSession, scheduling=mode), blocker.build)
        sys.modules[f"kept by {mode}"] = world, *blocker.start(world)


@pytest.mark.parametrize("scenario", [threads_inside, lose_native_session, run_in_a_finalizer, fork, leave_open],
                         ids=lambda scenario: scenario.__name__)
def test_apart(scenario):
    run_apart(scenario)


# Signals


@pytest.mark.parametrize("kind", ["tf", "ours"])
def test_a_signal_whose_handler_raises_while_kernels_run(kind):
    """The run ends with what it raises: no hook hears of the step."""
    class Alarm(Exception):
        pass

    def handle(number, frame):
        raise Alarm

    def kernel(rings):
        if rings:
            os.kill(os.getpid(), signal.SIGUSR1)
        return np.float32(1)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with tf.Graph().as_default():
            rings = v1.placeholder(tf.bool, [])
            value = v1.py_func(kernel, [rings], tf.float32)
            hook = v1.train.LoggingTensorHook({"value": value}, every_n_iter=100)
            session = (v1.train.MonitoredSession(hooks=[hook]) if kind == "tf"
                       else fasthooks.MonitoredSession(hooks=[hook], scheduling="pool"))
            with contextlib.closing(session):
                for rung in (False, False, True, False):
                    with pytest.raises(Alarm) if rung else contextlib.nullcontext():
                        session.run(value, {rings: rung})
                assert hook._iter_count == 3
    finally:
        signal.signal(signal.SIGUSR1, before)
