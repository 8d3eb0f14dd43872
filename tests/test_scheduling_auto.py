"""What `scheduling="auto"` settles on, seen from the session's report."""

import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import fasthooks

v1 = tf.compat.v1
RUNS = 16  # more than the timed runs of both kinds


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
    """Four equal branches of some milliseconds each, one thread to an op."""
    branches = [tf.sort(tf.random.uniform([300_000], seed=seed)) for seed in range(4)]
    return tf.group(*branches), []


def staged():
    """A step in which one op waits for another."""
    area = tf.raw_ops.Stage(values=[tf.constant(1.0)], shared_name="area")
    return [area, tf.raw_ops.Unstage(dtypes=[tf.float32], shared_name="area")], []


def test_inline_where_it_is_no_slower():
    plan = settled(tiny)
    assert plan["scheduling"] == "inline"
    assert plan["reason"].startswith("no slower: inline ")
    assert plan["ops"] > 5


def test_pool_where_inline_is_slower():
    """Each of two cores has two of four branches to sort on the pool, one core has all four of them inline.

    Another process may hold the second core for a while: the decision is then right to be another one.
    """
    for _ in range(6):
        plan = settled(parallel, v1.ConfigProto(intra_op_parallelism_threads=1))
        if plan["scheduling"] == "pool":
            break
    assert (plan["scheduling"], plan["reason"].partition(":")[0]) == ("pool", "faster")


@pytest.mark.parametrize(("inline_secs", "expected"), [(1.9, "inline"), (2.0, "inline"), (2.1, "pool")])
def test_fastest_run_of_each_decides(inline_secs, expected):
    """Of the timed runs the fastest counts, and the first run of each kind does not."""
    pool, inline = [0.1, 9.0, 2.0, 9.0, 3.0, 3.0, 3.0, 3.0], [0.1, 9.0, inline_secs, 3.0, 3.0, 3.0]
    kinds = "pppipipipipipi"
    durations = [(pool if kind == "p" else inline).pop(0) for kind in kinds]
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
