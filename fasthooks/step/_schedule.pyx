# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Pool or inline: how the runs of one set of feeds, fetches and targets are scheduled.

TensorFlow's executor takes each of its kernels for expensive at first, and hands it to another thread; its estimate of 1e8
cycles decays by a tenth a run, and a kernel under 8,000 is run in place (`ExecutorImpl::KernelStats` in executor.cc). So
the order of reads and updates that nothing in the graph orders flips once, after 90 runs or a few more, and then
stays. Inline scheduling has that last order from its first run on. Programs see the order: in the global step that their
hooks read, in the steps whose summaries are written. So a set goes through three phases:

- the first `SETTLING` runs take the pool, as in TensorFlow;
- then blocks of `BLOCK` runs take turns, pool and inline, and are timed;
- then the faster way is kept (the pool if it was faster three times), but the pool where integers among the results, such as the
  global step, came out otherwise inline; after many runs it is looked whether its order still holds.

The second phase waits, for up to `PATIENCE` times 2 `BLOCK` runs, while the pool has no order of its own: in some sessions
the cost of a kernel lies near the limit and reads of the global step go on changing sides. Where they do so to the end of
that time, there is no order to keep, and inline has one of those that TensorFlow has. A single run with the other order is
no sign of this: it comes now and then in all sessions, when the system takes a thread's core away.

Both ways run the same executors, so nothing is made twice, and the state of kernels goes on through all phases.
"""

import collections

import numpy as np
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import ops
from tensorflow.python.training import training_util

from fasthooks.step import scheduling as scheduling_lib

# Runs of a set on the pool alone. A kernel of 5,000 cycles counts as cheap after 99 runs, one of 7,500 after 116.
SETTLING = 120
BLOCK = 8
# Blocks of each kind; the first is the pool's.
BLOCKS = 2
# How often the runs before the first block are made again.
PATIENCE = 20
# How many runs the pool is then left alone before it is looked at again, at first; twice as many each time.
REST = 200
# Which share of runs may have another order than the one before: in a short look at a pool that has settled, and in all
# looks together at one that has an order to keep. Nothing repeats in two sessions of TensorFlow where there are more.
cdef double _FLIPS_AT_ONCE = 0.15
cdef double _FLIPS = 0.02

# Shared by all runs; lives as long as the process.
cdef object _inline_options = pywrap_tf_session.TF_NewBufferFromString(
    config_pb2.RunOptions(inter_op_thread_pool=-1).SerializeToString())


cdef class Schedule(Counted):
    """Decides how the runs of one set of feeds, fetches and targets of a session are scheduled.

    Args:
      session: The raw session.
      fetches: Tensors that are fetched and operations that are run.
      feeds: Tensors that are fed.
      scheduling: "auto", "pool" or "inline".
    """

    def __cinit__(self, session, list fetches not None, list feeds not None, str scheduling not None):
        self.session = session
        self.fetches = fetches
        self.feeds = feeds
        self.n_ops = -1
        self.rest = REST
        if scheduling == "auto":
            self.scheduling = "pool"
            self.reason = f"the first {SETTLING} runs of a set of fetches take the pool, as in TensorFlow"
            self.pool_secs, self.inline_secs = [], []
            self.row = []
        else:
            self.settle(scheduling, "asked for")

    def settle(self, str scheduling, str reason):
        """Takes that way for all runs from now on."""
        self.scheduling = scheduling
        self.reason = reason
        self.options = _inline_options if scheduling == "inline" else None
        self.decided = True
        self.session = self.row = None

    cdef object next_options(self):
        cdef int number = self.runs - SETTLING
        if self.decided:
            return self.options
        if number >= 0 and not self.reviewed:
            self.attempt(self.review)
            if self.decided:
                return self.options
        # Blocks are counted from the pool's first, the last of the settling runs.
        return _inline_options if self.reviewed and number // BLOCK % 2 == 0 else None

    cdef int note(self, object options, double secs, list values, unsigned long step) except -1:
        self.runs += 1
        # What the executor does before it has settled says nothing.
        if self.runs > SETTLING - 2 * BLOCK:
            self.attempt(lambda: self.observe(options is not None, secs, values, step))
        return 0

    def attempt(self, act):
        """Calls a function, unless another thread is in one of these or it is decided; what fails keeps the pool."""
        if self.busy or self.decided:
            return
        self.busy = True
        try:
            act()
        except Exception as error:
            self.settle("pool", f"{type(error).__name__} while it was looked at: {error}")
        finally:
            self.busy = False

    def review(self):
        """Looks at the last runs, all on the pool: goes on to the blocks, makes such runs again, or keeps the pool."""
        flips, changes = self.count_flips()
        self.flips += flips
        self.changes += changes
        if self.waits < PATIENCE and (self.differs or flips > _FLIPS_AT_ONCE * changes):
            self.waits += 1
            self.go_back(0)
        elif self.differs and self.flips <= _FLIPS * self.changes:
            self.scheduling = "pool"
            self.reason = "integers among the results come out otherwise inline"
            self.waits = 0
            self.go_back(self.rest)
            self.rest = min(2 * self.rest, 1_000_000)
        else:
            self.racing = self.waits == PATIENCE
            if self.n_ops < 0:
                self.look()
            self.reviewed = not self.decided

    def go_back(self, int rest):
        """Goes back to the last runs before the first block, and `rest` further."""
        self.reviewed = False
        self.runs = SETTLING - 2 * BLOCK - rest
        self.row = []
        self.pool_secs, self.inline_secs = [], []

    def look(self):
        """Looks whether the set may run inline at all: once, when it has shown that it is run again and again."""
        hazard = scheduling_lib.session_hazard(self.session)
        if not hazard:
            hazard, self.n_ops = scheduling_lib.inline_hazard(self.session.graph, self.fetches, self.feeds)
        if hazard:
            self.settle("pool", hazard)
        else:
            self.scheduling = "trial"
            self.reason = "blocks of runs are timed on the pool and inline"

    def observe(self, inline, secs, values, step):
        """Takes note of a run and decides, if it was the last one to do so.

        Args:
          inline: Whether it was inline.
          secs: How long it took, seconds.
          values: What it returned.
          step: Its number among the runs of the session.
        """
        if self.last_step + 1 != step:
            self.row = []   # whatever ran in between may have moved what is counted
        self.last_step = step
        self.row.append((inline, [int(value) if isinstance(value, np.integer) else None for value in values]))
        if self.runs > SETTLING - BLOCK:
            (self.inline_secs if inline else self.pool_secs).append(secs)
        if inline and not self.racing and not self.inline_agrees():
            self.differs = True
            self.go_back(0)
        elif self.reviewed and self.runs >= SETTLING + (2 * BLOCKS - 1) * BLOCK and self.inline_secs:
            self.decide()

    def inline_agrees(self):
        """Returns whether what grows evenly on the pool, such as the global step, went on so with the last run, inline."""
        for values in zip(*[values for _, values in self.row]):
            pool = [(number, value) for number, (value, (inline, _)) in enumerate(zip(values, self.row)) if not inline]
            growth = _growth(pool)
            if growth:
                usual, share = _most_common([value - growth * number for number, value in pool])
                if share >= 0.7 and values[-1] - growth * (len(values) - 1) != usual:
                    return False
        return True

    def count_flips(self):
        """Returns how often a read of the global step changed sides from one run to the next, and of how many times.

        That shows as one step too many or one too few. That no step is made, as when gradients are accumulated, is no sign
        of it.
        """
        flips = total = 0
        for values, fetch in zip(zip(*[values for _, values in self.row]), self.fetches):
            if None not in values and reads_global_step(fetch):
                changes = [after - before for before, after in zip(values, values[1:])]
                total += len(changes)
                if len({*changes, 0}) > 2:
                    flips += sum(change != _most_common(changes)[0] for change in changes)
        return flips, total

    def decide(self):
        """Takes the faster way, if both give the same."""
        # The fastest runs: what the machine does beside makes some slower, none faster.
        pool, inline = min(self.pool_secs), min(self.inline_secs)
        figures = f"inline {inline * 1e6:.1f} us, pool {pool * 1e6:.1f} us"
        if inline <= pool:
            self.settle("inline", f"no slower: {figures}")
        elif self.pool_wins == 2:
            self.settle("pool", f"faster: {figures}")
        else:   # may be chance
            self.pool_wins += 1
            self.go_back(0)


def _most_common(values):
    # The value that is there most often, and its share.
    value, count = collections.Counter(values).most_common(1)[0]
    return value, count / len(values)


def _growth(numbered):
    """Returns by how much integers grow from one run to the next; None where they do not mostly grow by the same.

    Args:
      numbered: Pairs of a run's number and its integer, or None in its place, in order.
    """
    changes = [value - other for (number, other), (after, value) in zip(numbered, numbered[1:])
               if after == number + 1 and value is not None and other is not None]
    if len(changes) < 4:
        return None
    growth, share = _most_common(changes)
    return growth if share >= 0.5 and growth else None


def reads_global_step(tensor):
    """Returns whether a tensor is the graph's global step, or the read of it that the stock hooks share."""
    graph = tensor.graph
    try:
        if tensor is training_util._get_global_step_read(graph):
            return True
        # Of several TensorFlow would log that it takes none.
        if len(graph.get_collection(ops.GraphKeys.GLOBAL_STEP)) > 1:
            return False
        step = training_util.get_global_step(graph)
    except (TypeError, ValueError, RuntimeError):   # what bears that name or key is no global step
        return False
    if step is None:
        return False
    reads = tensor.op.type in ("ReadVariableOp", "Identity")
    return tensor is graph.as_graph_element(step) or (reads and tensor.op.inputs[0].op is step.op)
