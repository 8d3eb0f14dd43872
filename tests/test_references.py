"""No reference is lost or kept: counts, memory, and sessions that end."""

import contextlib
import gc
import sys
import tracemalloc
import weakref

import numpy as np
import psutil
import pytest
import tensorflow as tf

import fasthooks as fh

v1 = tf.compat.v1
MIB = 1 << 20
# Runs before the first count: plans are made, timed on the pool and inline, and settled on, those of every third step too.
WARM_UP = 600


class Noop(fh.SessionRunHook):
    """A hook that is called on every run and wants something on each."""

    def __init__(self, tensor):
        self.tensor = tensor

    def before_run(self, run_context):
        return fh.SessionRunArgs({"value": self.tensor})

    def after_run(self, run_context, run_values):
        assert run_values.results["value"].shape == (4,)


class Program:
    """A fed training step with hooks of all kinds.

    Args:
      directory: Where the hooks write.
      often: Whether the hooks act on every second or third run; else on hardly any.
      mixed: Whether TensorFlow's own hook objects and a hook in plain Python take part too.
    """

    def __init__(self, directory, often=False, mixed=False):
        self.graph = tf.Graph()
        with self.graph.as_default():
            step = v1.train.get_or_create_global_step()
            self.x = v1.placeholder(tf.float32, [4], name="x")
            weights = v1.get_variable("weights", [4], use_resource=True)
            self.loss = tf.reduce_sum(weights * self.x)
            self.rows = weights + self.x
            self.train = v1.train.GradientDescentOptimizer(1e-6).minimize(self.loss, step)
            v1.summary.scalar("loss", self.loss)
            period = 3 if often else 10**6
            libs = [fh, v1.train] if mixed else [fh]
            self.hooks = [
                hook
                for lib in libs
                for hook in (
                    lib.StopAtStepHook(10**9),
                    lib.NanTensorHook(self.loss),
                    lib.StepCounterHook(period, output_dir=str(directory)),
                    lib.LoggingTensorHook([self.loss], every_n_iter=period),
                    lib.SummarySaverHook(period, output_dir=str(directory), summary_op=v1.summary.merge_all()),
                )
            ]
            if mixed:
                self.hooks.append(Noop(self.rows))
        self.fetches = [self.train, {"loss": self.loss, "rows": self.rows}]
        self.value = np.ones(4, np.float32)
        self.feed = {self.x: self.value}

    def session(self, lib=fh):
        """Returns a new session; the program's graph is the default one while it is made."""
        with self.graph.as_default():
            return lib.SingularMonitoredSession(self.hooks)

    def step(self, session, runs):
        """Runs some steps and keeps nothing of them."""
        for _ in range(runs):
            session.should_stop()
            session.run(self.fetches, self.feed)


@pytest.fixture(params=[{}, {"often": True}, {"often": True, "mixed": True}], ids=["quiet", "acting", "mixed"])
def program(request, tmp_path):
    """A program whose hooks act rarely, often, or are of all kinds."""
    v1.logging.set_verbosity(v1.logging.ERROR)
    return Program(tmp_path, **request.param)


def counts(objects):
    """Returns the reference counts of objects; immortal ones keep theirs."""
    gc.collect()
    return [sys.getrefcount(one) for one in objects]


def test_counts_stay_over_thousands_of_steps(program):
    with program.session() as session:
        program.step(session, WARM_UP)
        result = session.run(program.fetches, program.feed)
        watched = [
            *program.hooks,
            *[hook._timer for hook in program.hooks if hasattr(hook, "_timer")],
            program.x,
            program.loss,
            program.rows,
            program.train,
            program.fetches,
            program.fetches[1],
            program.feed,
            program.value,
            session,
            session.raw_session(),
            session.raw_session().graph,
            result,
            result[1]["rows"],
            type(program.hooks[0]),
            fh.SecondOrStepTimer,
            10**6,
            "global_step",
            np.float32,
            np.int64,
            fh.SessionRunArgs,
            (),
            Noop,
        ]
        # The interpreter itself uses these all over; they may come and go by a few.
        common = [None, True, False]
        before, common_before = counts(watched), counts(common)
        program.step(session, 3000)
        after, common_after = counts(watched), counts(common)
        changed = [(type(one), b, a) for one, b, a in zip(watched, before, after, strict=True) if abs(a - b) > 3]
        assert changed == []
        assert all(abs(a - b) < 300 for a, b in zip(common_after, common_before, strict=True))


def test_results_and_feeds_are_let_go(program):
    with program.session() as session:
        program.step(session, WARM_UP)
        rows = session.run(program.fetches, program.feed)[1]["rows"]
        fed = np.ones(4, np.float32)
        expected = counts([fed])
        session.run(program.fetches, {program.x: fed})
        assert counts([fed, rows]) == expected * 2
        alive = weakref.ref(rows)
        del rows
        assert alive() is None


@pytest.mark.parametrize(
    "value",
    [
        [1.0, 2.0, 3.0, 4.0],
        np.ones(4),
        np.float32([1, 2, 3, 4])[::-1],
        np.ones(4, ">f4"),
        np.ones(5, np.float32),
        ["a", "b", "c", "d"],
        "x",
        object(),
    ],
    ids=["list", "float64", "strided", "swapped", "shape", "strings", "string", "object"],
)
def test_fed_values_that_are_converted_or_refused_are_let_go(tmp_path, value):
    program = Program(tmp_path)
    with program.session() as session:
        program.step(session, WARM_UP)
        before = counts([value, *program.hooks])
        for _ in range(10):
            try:
                session.run(program.fetches, {program.x: value})
            except (TypeError, ValueError):
                pass
        assert counts([value, *program.hooks]) == before


def test_global_step_scalars_are_let_go(program):
    hooks = [hook for hook in program.hooks if isinstance(hook, fh.StepCounterHook)]
    with program.session() as session:
        program.step(session, WARM_UP)
        for hook in hooks:
            # Held by the hook (and by another that remembers the same step) and by the argument of this call.
            assert sys.getrefcount(hook._last_global_step) <= 1 + 1 + len(program.hooks)


def traced_memory():
    """Returns the bytes of Python memory in use, but for what writing events takes: their queues, protobuf's tables."""
    gc.collect()
    others = [tracemalloc.Filter(False, pattern) for pattern in ("*/summary/writer/*", "*/fasthooks/output/writers.py")]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(others).traces)


def traced_growth(act):
    """Returns by how many bytes of Python memory the second half of `act(runs)` grew it."""
    act(500)
    tracemalloc.start()
    try:
        act(500)
        before = traced_memory()
        act(2000)
        return traced_memory() - before
    finally:
        tracemalloc.stop()


def test_python_memory_does_not_grow(program):
    with program.session() as session:
        program.step(session, WARM_UP)
        # One object of the smallest size kept on every run would be 32 KiB or more.
        assert traced_growth(lambda runs: program.step(session, runs)) < 24 * 1024


def test_resident_memory_does_not_grow_over_quiet_steps(tmp_path):
    program = Program(tmp_path)
    with program.session() as session:
        program.step(session, 4000)
        resident = []
        for _ in range(4):
            gc.collect()
            resident.append(psutil.Process().memory_info().rss)
            program.step(session, 20000)
        # 64 bytes on each run would be 1.2 MiB each time. What threads of earlier tests do meanwhile comes once.
        assert np.diff(resident).min() < MIB, resident


def test_memory_is_bounded_by_the_plans_that_are_kept(tmp_path):
    program = Program(tmp_path)
    with program.graph.as_default():
        tensors = [program.loss + i for i in range(100)]
        session = fh.SingularMonitoredSession(program.hooks, scheduling="pool")
    with session:

        def run_all():
            for i in range(1100):
                session.run([tensors[i % 100], tensors[(7 * i + i // 100) % 100]], program.feed)

        run_all()
        kept = session.report()
        assert len(kept["plans"]) == 1024
        assert kept["plans_evicted"] >= 70
        tracemalloc.start()
        try:
            run_all()
            before = traced_memory()
            run_all()
            grown = traced_memory() - before
        finally:
            tracemalloc.stop()
    # 1,100 plans take more than ten times as much.
    assert grown < 128 * 1024


def test_errors_keep_nothing_alive(program):
    class Fails(fh.SessionRunHook):
        """Fails on every second run."""

        runs = 0

        def after_run(self, run_context, run_values):
            self.runs += 1
            if self.runs % 2:
                raise ValueError("of the hook")

    failing = Fails()
    program.hooks.append(failing)
    with program.session() as session:

        def fail(runs):
            for _ in range(runs // 2):
                with contextlib.suppress(ValueError):
                    session.run(program.fetches, program.feed)

        fail(200)
        # An exception with its traceback and frames takes a kilobyte; there are 500 of them.
        assert traced_growth(fail) < 64 * 1024
    assert failing.runs == 100 + 250 + 250 + 1000


@pytest.mark.parametrize("lib", [v1.train, fh], ids=["tensorflow", "fasthooks"])
def test_closed_sessions_and_hooks_die(lib, program):
    class Marked(fh.SessionRunHook):
        """A hook that nobody else refers to."""

    program.hooks.append(Marked())
    hook = weakref.ref(program.hooks[-1])
    with program.session(lib) as session:
        program.step(session, WARM_UP)
        chain = [weakref.ref(session), weakref.ref(session._sess), weakref.ref(session.raw_session())]
        array = weakref.ref(session.run(program.rows, program.feed))
    del session
    program.hooks.clear()
    gc.collect()
    assert [one() for one in chain] == [None] * 3
    assert hook() is None
    assert array() is None


def test_unclosed_session_dies(program):
    session = program.session()
    program.step(session, WARM_UP)
    chain = [weakref.ref(session), weakref.ref(session.raw_session())]
    del session
    gc.collect()
    assert [one() for one in chain] == [None, None]


def test_graph_dies_with_its_session(program):
    graph = weakref.ref(program.graph)
    with program.session() as session:
        program.step(session, WARM_UP)
    del session
    for name in ("graph", "x", "loss", "rows", "train", "hooks", "fetches", "feed"):
        delattr(program, name)
    v1.summary.FileWriterCache.clear()
    gc.collect()
    assert graph() is None


@pytest.mark.parametrize(
    "make", [lambda: fh.SecondOrStepTimer(every_steps=3), lambda: fh.StopAtStepHook(last_step=3)], ids=["timer", "hook"]
)
def test_objects_in_cycles_die(make):
    one = make()
    one.note = one._last_step = [one]
    alive = weakref.ref(one)
    del one
    gc.collect()
    assert alive() is None


def test_setting_attributes_keeps_no_value():
    timer, value = fh.SecondOrStepTimer(every_steps=3), []
    before = counts([value])
    for field in ("_every_secs", "_last_triggered_step", "note"):
        for _ in range(100):
            setattr(timer, field, value)
        setattr(timer, field, None)
        delattr(timer, field)
    assert counts([value]) == before
