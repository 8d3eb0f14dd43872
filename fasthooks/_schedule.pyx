# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""Pool or inline: how the runs of one set of feeds, fetches and targets are scheduled.

TensorFlow's executor takes each of its kernels for expensive at first, and hands it to another thread; its estimate of 1e8
cycles decays by a tenth a run, and a kernel under 8,000 is run in place (`ExecutorImpl::KernelStats` in executor.cc). So
the order of reads and updates that nothing in the graph orders flips once, after 90 runs or a few more, and then
stays. Inline scheduling has that last order from its first run on. Programs see the order: in the global step that their
hooks read, in the steps whose summaries are written. So a set goes through three phases:

- the first `SETTLING` runs take the pool, as in TensorFlow;
- then blocks of `BLOCK` runs take turns, pool and inline, and are timed;
- then the faster way is kept, but the pool where integers among the results, such as the global step, came out otherwise
  inline, or where the pool itself has not settled on an order of the global step.

Both ways run the same executors, so nothing is made twice, and the state of kernels goes on through all phases.
"""

from statistics import median

import numpy as np
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.training import training_util

from fasthooks import scheduling as scheduling_lib

# Runs of a set on the pool alone. A kernel of 5,000 cycles counts as cheap after 99 runs, one of 7,500 after 116.
SETTLING = 120
BLOCK = 8
# Blocks of each kind; the first is the pool's.
BLOCKS = 2

# Shared by all runs; lives as long as the process.
cdef object _inline_options = pywrap_tf_session.TF_NewBufferFromString(
    config_pb2.RunOptions(inter_op_thread_pool=-1).SerializeToString())


cdef class Schedule:
    """Decides how the runs of one set of feeds, fetches and targets of a session are scheduled.

    Args:
      session: The raw session.
      fetches: Tensors that are fetched and operations that are run.
      feeds: Tensors that are fed.
      scheduling: "auto", "pool" or "inline".
    """

    def __init__(self, session, list fetches not None, list feeds not None, str scheduling not None):
        self.session = session
        self.fetches = fetches
        self.feeds = feeds
        self.n_ops = -1
        if scheduling == "auto":
            self.scheduling = "pool"
            self.reason = f"the first {SETTLING} runs of a set of fetches take the pool, as in TensorFlow"
            self.pool_secs, self.inline_secs = [], []
            self.pool_changes, self.inline_changes = [], []     # filled by the first comparison
        else:
            self.settle(scheduling, "asked for")

    def settle(self, str scheduling, str reason):
        """Takes that way for all runs from now on."""
        self.scheduling = scheduling
        self.reason = reason
        self.options = _inline_options if scheduling == "inline" else None
        self.decided = True
        self.session = self.last = None

    cdef object next_options(self):
        cdef int number = self.runs - SETTLING
        if number == 0 and not self.decided:
            self.look()
        if self.decided:
            return self.options
        # Blocks are counted from the pool's first, the last of the settling runs.
        return _inline_options if number >= 0 and number // BLOCK % 2 == 0 else None

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

    cdef int note(self, object options, double secs, list values, unsigned long step) except -1:
        cdef bint inline = options is not None
        if self.decided:    # by another thread meanwhile
            return 0
        self.runs += 1
        # What the executor does before it has settled says nothing.
        if self.runs <= SETTLING - 2 * BLOCK:
            return 0
        self.compare(inline, values, step)
        if self.runs > SETTLING - BLOCK:
            (self.inline_secs if inline else self.pool_secs).append(secs)
        if not self.inline_agrees():
            self.settle("pool", "integers among the results come out otherwise inline")
        elif self.runs >= SETTLING + (2 * BLOCKS - 1) * BLOCK:
            self.decide()
        return 0

    def compare(self, bint inline, list values, unsigned long step):
        """Takes note of how integers have changed since the run before, if that was a run of this set."""
        now = [int(value) if isinstance(value, np.integer) else None for value in values]
        if self.last is None:
            self.pool_changes, self.inline_changes = [set() for _ in now], [set() for _ in now]
        elif self.last_step + 1 == step:
            # A flip shows in the change into an inline run as in that out of one.
            changes = self.inline_changes if inline or self.last_inline else self.pool_changes
            for known, before, after in zip(changes, self.last, now):
                if before is not None and after is not None:
                    known.add(after - before)
        self.last = now
        self.last_step = step
        self.last_inline = inline

    def inline_agrees(self):
        """Returns whether what grew evenly on the pool went on so inline."""
        return all([len(pool) != 1 or 0 in pool or inline <= pool
                    for pool, inline in zip(self.pool_changes, self.inline_changes)])

    def pool_agrees(self):
        """Returns whether the pool always reads the global step on the same side of its update.

        A read that changes sides shows as one step too many or one too few; that no step is made, as when gradients are
        accumulated, is no sign of it.
        """
        return all([len(pool - {0}) < 2 or not _reads_global_step(fetch)
                    for pool, fetch in zip(self.pool_changes, self.fetches)])

    def decide(self):
        """Takes the faster way, if both give the same."""
        pool, inline = median(self.pool_secs), median(self.inline_secs)
        figures = f"inline {inline * 1e6:.1f} us, pool {pool * 1e6:.1f} us"
        if not self.pool_agrees():
            self.settle("pool", "the pool itself reads the global step now before and now after its update")
        elif inline <= pool:
            self.settle("inline", f"no slower: {figures}")
        else:
            self.settle("pool", f"faster: {figures}")


def _reads_global_step(tensor):
    # Whether a tensor is the graph's global step, or the read of it that the stock hooks share.
    graph = tensor.graph
    if tensor is training_util._get_global_step_read(graph):
        return True
    step = training_util.get_global_step(graph)
    if step is None:
        return False
    reads = tensor.op.type in ("ReadVariableOp", "Identity")
    return tensor is graph.as_graph_element(step) or (reads and tensor.op.inputs[0].op is step.op)
