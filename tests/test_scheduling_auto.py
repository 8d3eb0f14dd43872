"""What `scheduling="auto"` settles on, seen from the session's report."""

import concurrent.futures
import re
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import fasthooks
from fasthooks.step import _schedule

v1 = tf.compat.v1
SETTLING, BLOCK, BLOCKS = _schedule.SETTLING, _schedule.BLOCK, _schedule.BLOCKS
RUNS = SETTLING + 3 * (2 * BLOCK * BLOCKS + BLOCK)  # more than it takes to decide, where the pool is faster too


def settled(build, config=None, feeds=lambda placeholders: None, scheduling="auto"):
    """Returns the description of the one plan of a session that ran `build()`'s fetches."""
    with tf.Graph().as_default():
        fetches, placeholders = build()
        creator = v1.train.ChiefSessionCreator(config=config)
        with fasthooks.MonitoredSession(creator, scheduling=scheduling) as session:
            for _ in range(RUNS):
                session.run(fetches, feeds(placeholders))
            (plan,) = session.report()["plans"]
            return plan


def tiny():
    """A small step with nothing to do in parallel."""
    weights = v1.get_variable("w", [16], initializer=v1.ones_initializer())
    loss = tf.reduce_sum(tf.square(weights - 3.0))
    return v1.train.GradientDescentOptimizer(0.01).minimize(loss), []


def parallel():
    """Four equal branches of a few milliseconds each, one thread to an op."""
    branches = [tf.sort(tf.random.uniform([120_000], seed=seed)) for seed in range(4)]
    return tf.group(*branches), []


def staged():
    """A step with an op that may wait for another.

    In order: once the executor takes both for cheap, one thread runs them, and an Unstage that comes first waits for ever.
    """
    area = tf.raw_ops.Stage(values=[tf.constant(1.0)], shared_name="area")
    with tf.control_dependencies([area]):
        return [area, tf.raw_ops.Unstage(dtypes=[tf.float32], shared_name="area")], []


@pytest.mark.parametrize("build", [tiny, parallel])
def test_the_faster_way_is_kept(build):
    """Whichever that is: another process may hold a core of a graph that would be faster on the pool."""
    plan = settled(build, v1.ConfigProto(intra_op_parallelism_threads=1))
    verdict, inline, pool = re.fullmatch(r"(.*): inline ([\d.]+) us, pool ([\d.]+) us", plan["reason"]).groups()
    if plan["scheduling"] == "inline":
        assert verdict == "no slower" and float(inline) <= float(pool)
    else:
        assert verdict == "faster" and float(pool) <= float(inline)
    assert plan["ops"] > 5


@pytest.mark.parametrize(("inline_secs", "expected"), [(1.9, "inline"), (2.0, "inline"), (2.1, "pool")])
def test_fastest_run_of_each_kind_decides(inline_secs, expected):
    """The runs before the last block on the pool do not count; and the pool has to be faster three times."""
    pool = [9.0] * BLOCK + [9.0] * (BLOCK - 1) + [2.0]
    inline = [9.0] * BLOCK + [inline_secs] + [9.0] * (BLOCK - 1)
    blocks = pool[:BLOCK] + inline[:BLOCK] + pool[BLOCK:] + inline[BLOCK:]
    durations = [1.0] * (SETTLING - BLOCK) + blocks
    if expected == "pool":
        durations += 2 * ([1.0] * BLOCK + blocks)
    readings = [reading for secs in durations for reading in (100.0, 100.0 + secs)]

    def clock():
        return readings.pop(0) if readings else 0.0

    with mock.patch.object(time, "perf_counter", clock):
        plan = settled(tiny)
    assert not readings
    assert plan["scheduling"] == expected


def test_pool_where_an_op_may_wait():
    plan = settled(staged)
    assert plan["scheduling"] == "pool"
    assert "may wait for another op" in plan["reason"]


@pytest.mark.parametrize("scheduling", ["pool", "inline"])
def test_as_asked_for(scheduling):
    plan = settled(tiny, scheduling=scheduling)
    assert (plan["scheduling"], plan["reason"]) == (scheduling, "asked for")


def test_fed_step():
    """A fed tensor cuts off what is behind it, for the analysis as for the run."""
    def build():
        queue = v1.FIFOQueue(1, [tf.float32], [[2]])
        fed = queue.dequeue()
        return tf.reduce_sum(fed), [fed]

    plan = settled(build, feeds=lambda placeholders: {placeholders[0]: np.ones(2, np.float32)})
    assert "inline " in plan["reason"] and "pool " in plan["reason"], "both were timed"


def test_reads_that_come_out_alike_are_timed():
    def build():
        step = v1.train.create_global_step()
        read = step.read_value()
        with tf.control_dependencies([read]):
            return [read, step.assign_add(1).op], []

    assert settled(build)["reason"].partition(":")[0] in TIMED


def reads(flips, change=1, every=1, runs=RUNS):
    """What a read of the step returns over the runs of a session.

    Args:
      flips: Numbers of runs from which on the read comes out on the other side of the step's update.
      change: By how much the step grows.
      every: In how many runs it grows once.
    """
    values, after = [], False
    for run in range(runs):
        after ^= run in flips
        values.append(change * (run // every + after))
    return values


def decided(values, of_step=True, forms=(lambda fetch, other: [fetch],)):
    """Returns the scheduling and reason of a plan whose one integer result comes out as these values, run for run.

    Args:
      values: What is returned.
      of_step: Whether it is the global step's read.
      forms: What is fetched, in turn: functions of it and of another integer.
    """
    with tf.Graph().as_default():
        with v1.variable_scope("", use_resource=False):
            step = v1.train.create_global_step()
        placeholder = v1.placeholder(tf.int64, [])
        read = next(op.outputs[0] for op in step.op.outputs[0].consumers() if op.type == "Identity")
        fed, fetch = (step, read) if of_step else (placeholder, placeholder + 0)
        other = tf.constant(7)
        with fasthooks.MonitoredSession() as session:
            for number, value in enumerate(values):
                assert value in session.run(forms[number % len(forms)](fetch, other), {fed: value})
            plan = session.report()["plans"][0]
    return plan["scheduling"], plan["reason"].partition(":")[0]


INLINE = range(SETTLING, SETTLING + BLOCK)
WINDOW = 2 * BLOCK  # runs that are made again while the pool has not settled
LONGEST = SETTLING + (_schedule.PATIENCE + 1) * WINDOW + RUNS
TIMED = ("no slower", "faster")
DIFFERS = "pool", "integers among the results come out otherwise inline"


@pytest.mark.parametrize("flips", [
    [],
    [1, 2, 90],  # the executor has not settled before
    [SETTLING - WINDOW, SETTLING - WINDOW + 1],  # once, when the system took a core away
    [INLINE[-1] + 3, INLINE[-1] + 4],
])
@pytest.mark.parametrize("change", [1, 3, -2])
def test_reads_that_keep_their_side_are_timed(flips, change):
    assert decided(reads(flips, change))[1] in TIMED


@pytest.mark.parametrize("inline_run", [INLINE[0], INLINE[-1]])
@pytest.mark.parametrize("change", [1, 3, -2])
def test_reads_that_come_out_otherwise_inline_keep_the_pool(inline_run, change):
    """Every other run would show; after the first that does, all runs take the pool."""
    assert decided(reads([inline_run, inline_run + 1], change, runs=LONGEST)) == DIFFERS


def test_forms_that_alternate_are_one_set():
    """Two structures of the same run: what each fetch returned is compared with what the same one returned before."""
    forms = (lambda fetch, other: [fetch, other], lambda fetch, other: (other, fetch))
    assert decided(reads([INLINE[0], INLINE[0] + 1], runs=LONGEST), forms=forms) == DIFFERS
    assert decided(reads([]), forms=forms)[1] in TIMED


@pytest.mark.parametrize("late", [1, 5])
def test_pool_that_settles_late_is_waited_for(late):
    runs = RUNS + late * WINDOW
    racing = range(SETTLING - WINDOW, SETTLING + (late - 1) * WINDOW, 3)
    assert decided(reads(racing, runs=SETTLING + late * WINDOW))[1] not in TIMED
    assert decided(reads(racing, runs=runs))[1] in TIMED


def test_pool_that_loses_its_order_later_gives_way():
    """As long as it had one, it was kept."""
    with mock.patch.object(_schedule, "REST", 50):
        flips = [INLINE[0], INLINE[0] + 1, *range(LONGEST, 3 * LONGEST, 3)]
        assert decided(reads(flips, runs=LONGEST)) == DIFFERS
        assert decided(reads(flips, runs=3 * LONGEST))[1] in TIMED
        assert decided(reads(flips[:2], runs=3 * LONGEST)) == DIFFERS


def test_pool_without_an_order_gives_way():
    """Inline has one of the orders that TensorFlow has then, so it is as right."""
    assert decided(reads(range(0, LONGEST, 3), runs=LONGEST - RUNS))[1] not in TIMED
    assert decided(reads(range(0, LONGEST, 3), runs=LONGEST))[1] in TIMED


def test_steps_that_do_not_move_are_no_flip():
    """As when gradients of several runs are accumulated."""
    for every in (2, 5, 1000):
        assert decided(reads([], every=every))[1] in TIMED


def test_other_integers_may_come_as_they_like():
    values = np.random.default_rng(0).integers(0, 1000, RUNS).tolist()
    assert decided(values, of_step=False)[1] in TIMED


def test_other_runs_in_between_are_no_flip():
    """A step that another kind of run makes shows as one too many, and is none."""
    with tf.Graph().as_default():
        step = v1.train.create_global_step()
        read = step.read_value()
        with tf.control_dependencies([read]):
            fetches = [read, step.assign_add(1).op]
        with fasthooks.MonitoredSession() as session:
            for run in range(RUNS):
                session.run(fetches)
                if run % 3 == 0:
                    session.run(fetches[1])
            plans = {plan["fetches"][0]: plan for plan in session.report()["plans"] if plan["fetches"]}
            assert plans[fetches[0].name]["reason"].partition(":")[0] in TIMED


def test_pool_until_the_executor_has_settled():
    with tf.Graph().as_default():
        train, _ = tiny()
        with fasthooks.MonitoredSession() as session:
            seen = []
            for _ in range(SETTLING + 2):
                session.run(train)
                seen.append(session.report()["plans"][0]["scheduling"])
    assert seen == ["pool"] * SETTLING + ["trial"] * 2


def test_what_cannot_be_looked_at_keeps_the_pool():
    with mock.patch("fasthooks.step.scheduling.inline_hazard", side_effect=KeyError("odd")):
        plan = settled(tiny)
    assert (plan["scheduling"], plan["reason"]) == ("pool", "KeyError while it was looked at: 'odd'")


def test_threads_that_share_a_set():
    """None goes inline before it was looked whether that may be, and all get their results."""
    with tf.Graph().as_default():
        value = tf.constant(3.0) * v1.placeholder_with_default(2.0, [])
        seen = []

        def hazard(*_):
            seen.append("looked")
            time.sleep(0.05)
            return "an op may wait", 1

        with fasthooks.MonitoredSession() as session, mock.patch("fasthooks.step.scheduling.inline_hazard", hazard):
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                assert set(pool.map(lambda _: session.run(value), range(8 * RUNS))) == {6.0}
            (plan,) = session.report()["plans"]
    assert seen == ["looked"]
    assert plan["reason"] == "an op may wait"
