"""Lanes for large batches: what feeding 64 MB adds to a step."""

import contextlib
import itertools
import time

import numpy as np
import tensorflow as tf

from bench import common
from bench.common import Lane, v1
from bench.table import row

PREFETCH = 2


def prepared_batches(megabytes, count=4):
    """Batches of float32 as NumPy makes them: their data begin 16 bytes into a page, so TensorFlow copies them."""
    size = megabytes * 2**20 // 4
    memory = [np.zeros(size + 32, np.float32) for _ in range(count)]
    return [array[(-array.ctypes.data % 64 + 16) // 4 :][:size] for array in memory]


def copy_us(batches, repeats=5):
    """µs that one core takes to copy a batch into memory that it has used before: what a producer needs at least."""
    target = np.zeros_like(batches[0])
    times = []
    for batch in itertools.islice(itertools.cycle(batches), repeats):
        begin = time.perf_counter_ns()
        np.copyto(target, batch)
        times.append(time.perf_counter_ns() - begin)
    return float(np.median(times)) / 1000.0


def computes(matmuls):
    """A scalar that takes `matmuls` products of 512x512 matrices."""
    weights = v1.get_variable("w", initializer=np.eye(512, dtype=np.float32))
    product = weights
    for _ in range(matmuls):
        product = tf.matmul(product, weights)
    return product[0, 0]


def waits(secs):
    """A scalar that comes after `secs` in which no core has work, as if another device computed it."""

    def wait():
        time.sleep(secs)
        return np.float32(0.0)

    return v1.py_func(wait, [], tf.float32)


@contextlib.contextmanager
def hook_lane(impl, work, batches=None, prefetch=0):
    """A lane whose step is fed by a FeedFnHook, or not fed at all; its kernels use one core and leave the others.

    Args:
      impl: the implementation of session and hook.
      work: function that makes the scalar tensor that the step computes; the first float of the batch is added to it.
      batches: what the hook's `feed_fn` returns in turn; None: a step without feeds.
      prefetch: for our hook only.
    """
    with tf.Graph().as_default() as graph:
        fetch = work() + 0.0
        hooks = []
        if batches is not None:
            batch = v1.placeholder(tf.float32, [batches[0].size], name="batch")
            fetch += batch[0]
            turns = itertools.cycle(batches)
            extra = {"prefetch": prefetch} if impl.has_scheduling else {}
            hooks.append(impl.train.FeedFnHook(lambda: {batch: next(turns)}, **extra))
        config = v1.ConfigProto(intra_op_parallelism_threads=1)
        session = impl.train.MonitoredSession(impl.train.ChiefSessionCreator(config=config), hooks)

        def loop(steps):
            for _ in range(steps):
                session.run(fetch)

        with session:
            yield Lane(graph, loop, session)


@contextlib.contextmanager
def direct_lane(impl, batches):
    """A lane that feeds batches in turn by hand, to a step that does nearly nothing."""
    with tf.Graph().as_default() as graph:
        batch = v1.placeholder(tf.float32, [batches[0].size], name="batch")
        first = batch[0]
        turns = itertools.cycle(batches)
        session = impl.train.MonitoredSession()

        def loop(steps):
            for _ in range(steps):
                session.run(first, feed_dict={batch: next(turns)})

        with session:
            yield Lane(graph, loop, session)


def interleave_steps(lanes, rounds, steps, idle=PREFETCH + 2):
    """Measures single steps, the lanes in turn.

    A step during which other processes had the core that the producer needs says nothing about a producer that keeps up,
    so a round's figure is the lower quartile of its steps, for all lanes alike.

    The first `idle` steps of each turn are not measured: they use up what a lane's producer made while others had their
    turn, and let the producer of the lane before fill its queue.

    Returns:
      Array [rounds, lanes] of µs.
    """
    times = np.zeros([rounds, len(lanes)])
    for turn in range(rounds):
        for i in range(len(lanes)):
            lane = lanes[(i + turn) % len(lanes)]
            lane.run(idle)
            times[turn, (i + turn) % len(lanes)] = np.percentile([lane.run(1) for _ in range(steps)], 25) / 1000.0
    return times


def feed(peer, ours, settings):
    """Large batches: what a FeedFnHook adds to a step while a core is free for its thread, and feeding by hand."""
    batches = prepared_batches(settings.batch_megabytes)
    size = f"{settings.batch_megabytes} MB"
    copy = copy_us(batches)
    rows = []
    for kind, work in (
        ("computes on one core", lambda: computes(settings.batch_matmuls)),
        ("waits for a device", lambda: waits(settings.batch_wait_secs)),
    ):
        with contextlib.ExitStack() as stack:
            stack.enter_context(common.workspace())
            lanes = [
                stack.enter_context(hook_lane(impl, work, fed, PREFETCH))
                for impl in (peer, ours)
                for fed in (None, batches)
            ]
            unfed, theirs, our_unfed, mine = interleave_steps(lanes, settings.rounds, settings.batch_steps).T
        added, our_added = theirs - unfed, mine - our_unfed
        what = f"{size} from FeedFnHook, step that {kind} ({np.median(unfed):,.0f} µs): added / stock added"
        steps = {"unfed_us": unfed.tolist(), "our_unfed_us": our_unfed.tolist(), "copy_us": copy}
        # Held against the median: on a busy machine what was added in one round may come out near nothing.
        rows.append(row("FEED", what, added, our_added, our_added / np.median(added), 0.1, at_most=True, **steps))
    aligned = [ours.train.aligned_copy(batch) for batch in batches] if ours.has_scheduling else batches
    with contextlib.ExitStack() as stack:
        stack.enter_context(common.workspace())
        lanes = [stack.enter_context(direct_lane(ours, some)) for some in (batches, aligned)]
        theirs, mine = interleave_steps(lanes, settings.rounds, settings.batch_steps).T
    what = f"{size} fed by hand to our session: as NumPy has it / aligned_copy"
    rows.append(row("FEED", what, theirs, mine, theirs / mine, 10))
    return {"rows": rows}
