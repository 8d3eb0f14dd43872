"""Feeds for large batches: arrays that TensorFlow takes without a copy, and batches made ahead of their step.

TensorFlow uses a fed array in place if its data begin at a multiple of 64 bytes, and else copies it before the step;
nearly no large NumPy array begins there.

What is used in place may be kept: a variable assigned from a placeholder lives in the fed array for as long as it has
that value. So the memory of prefetched batches is used again only when nobody looks into it any more. Each use has an
object of its own, a `_Lease`: the array that is fed keeps it alive, as does all that keeps that array alive, views and
TensorFlow's tensors included. When the lease dies, its memory is free; a batch that finds no free memory takes new.
"""

import collections
import math
import operator
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from tensorflow.python.framework import dtypes
from tensorflow.python.framework import tensor as tensor_lib
from tensorflow.python.ops import session_ops

from fasthooks import background, patching, tensorflow_train
from fasthooks.tensorflow_train import SessionRunArgs, SessionRunContext

# TensorFlow 2.16 and later convert feeds with this helper, which follows NumPy 2's rules; before, with NumPy itself.
try:
    from tensorflow.python.util.numpy_compat import np_asarray as _as_array
except ImportError:
    _as_array = np.asarray

_ALIGNMENT = 64
# An error in a step stops the session without a word to its hooks: a thread that waits looks this often.
_POLL_SECS = 0.05
# Immutable, and converted in no time; or `Session.run` has a judgement of its own on them.
_PASSED_ON = (int, float, complex, str, bytes, np.generic, type(None), tensor_lib.Tensor, session_ops.TensorHandle)


def aligned_empty(shape: Any, dtype: Any) -> np.ndarray:
    """Returns a new array, not initialized, that TensorFlow takes as a feed without a copy.

    Args:
      shape: An integer or integers, as for `numpy.empty`.
      dtype: As for `numpy.empty`; to be fed without a copy it must be the placeholder's.

    Raises:
      TypeError: `shape` is not made of integers; or `dtype` is None, or one of strings or objects, which TensorFlow
        copies wherever they lie.
      ValueError: A size is negative.

    The data begin at a multiple of 64 bytes, rows first. TensorFlow may keep using them after the step: do not write
    into an array that was fed as long as a variable, queue or staging area may hold its value.
    """
    try:
        sizes = tuple(map(operator.index, shape)) if np.iterable(shape) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"shape must be an integer or integers; got {shape!r}.") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape must not have negative sizes; got {shape!r}.")
    if dtype is None:
        raise TypeError("dtype must be given; got None.")
    dtype = np.dtype(dtype)
    if dtype.hasobject or dtype.kind in "SU":
        raise TypeError(f"dtype must be neither strings nor objects, which TensorFlow always copies; got {dtype!r}.")
    memory = np.empty(math.prod(sizes) * dtype.itemsize + _ALIGNMENT, np.uint8)
    return np.ndarray(sizes, dtype, memory, offset=-memory.ctypes.data % _ALIGNMENT)


def aligned_copy(array: Any) -> np.ndarray:
    """Returns a copy of an array that TensorFlow takes as a feed without another one; see `aligned_empty`.

    Args:
      array: An array, or what `numpy.asarray` takes for one. The copy has its shape and dtype, is writable, lies rows
        first, and is a plain `numpy.ndarray` whatever `array` is.

    Raises:
      TypeError: The array holds strings or objects.
    """
    array = np.asarray(array)
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


class _Lease:
    """One use of a block of memory, as the base of an array; gives the block back when nothing looks into it."""

    def __init__(self, block, free):
        self._block = block
        self._free = free
        self.__array_interface__ = block.__array_interface__

    def __del__(self):
        self._free.append(self._block)


class _Feed:
    """One fed tensor, and the memory for its values."""

    def __init__(self, tensor, keep):
        self._dtype = np.dtype(tensor.dtype.as_numpy_dtype)
        self._opaque = tensor.dtype.is_quantized or tensor.dtype.base_dtype in (dtypes.resource, dtypes.variant)
        self._free: collections.deque[np.ndarray] = collections.deque(maxlen=keep)

    def own(self, value):
        """Returns what `Session.run` makes of `value`, in memory of its own; as it is what `Session.run` must judge."""
        if self._opaque or isinstance(value, _PASSED_ON):
            return value
        try:
            if self._dtype.hasobject:
                return np.array(_as_array(value, self._dtype))
            # An array is converted while it is copied.
            array = np.asarray(value) if isinstance(value, np.ndarray) else _as_array(value, self._dtype)
        except Exception:
            return value
        copy = self._empty(array.shape)
        try:
            np.copyto(copy, array, casting="unsafe")
        except Exception:
            return value
        return copy

    def _empty(self, shape):
        nbytes = math.prod(shape) * self._dtype.itemsize
        block = None
        # Blocks that are too small go: after the largest batch, all are as large as that.
        while self._free and (block is None or block.nbytes < nbytes):
            block = self._free.pop()
        if block is None or block.nbytes < nbytes:
            block = aligned_empty(nbytes, np.uint8)
        return np.ndarray(shape, self._dtype, np.asarray(_Lease(block, self._free)))


def _nobody():
    return None


class _Thread(threading.Thread):
    """A thread that the coordinator of a session does not wait for when the interpreter has stopped it."""

    def is_alive(self):
        return super().is_alive() and not sys.is_finalizing()


class _Prefetcher:
    """Batches in the order in which `feed_fn` returned them, made by at most one thread at a time.

    Args:
      feed_fn: Function without arguments that makes a batch.
      limit: How many batches may wait for their step.
    """

    def __init__(self, feed_fn: Callable[[], Any], limit: int):
        self._feed_fn = feed_fn
        self._limit = limit
        self._feeds: dict[Any, _Feed] = {}
        self._batches: collections.deque[tuple[Any, BaseException | None]] = collections.deque()
        self._changed = threading.Condition()  # guards all below, and the batches
        self._graph: Any = None
        self._coord: Callable[[], Any] = _nobody  # weak: a session that was never closed takes its coordinator along
        self._thread: threading.Thread | None = None  # while there is one, it alone calls `feed_fn`
        self._failed = False  # after an exception, `feed_fn` is called when the next step wants it, not ahead
        background.tell_of_forks(self)

    def forget_thread(self):
        """Goes on without the thread, and without the lock that it may hold: it is in the parent, or stopped for good."""
        self._changed = threading.Condition()
        self._thread = None

    def start(self, graph, coord):
        """Makes batches until `coord` or `stop` says to stop; takes a thread over that is still busy."""
        if sys.is_finalizing():
            self.forget_thread()
        with self._changed:
            if graph is not self._graph:
                # What waits was made for the tensors of another graph.
                self._batches.clear()
                self._feeds = {}
                self._failed = False
            self._graph = graph
            self._coord = weakref.ref(coord)
            if self._thread is None:
                thread = _Thread(target=self._work, name="fasthooks-feed", daemon=True)
                if background.start(thread):
                    self._thread = thread
            if self._thread is not None:
                coord.register_thread(self._thread)

    def stop(self):
        """Lets the thread end as soon as `feed_fn` returns."""
        if sys.is_finalizing():
            self.forget_thread()
        with self._changed:
            self._coord = _nobody
            self._changed.notify_all()

    def take(self):
        """Returns the next batch, or raises the exception that `feed_fn` raised in its place.

        With no batch left and no thread, `feed_fn` is called here.
        """
        if sys.is_finalizing():
            self.forget_thread()
        with self._changed:
            while not self._batches and self._thread is not None:
                self._failed = False
                self._changed.notify_all()
                self._changed.wait()
            batch = self._batches.popleft() if self._batches else None
            self._changed.notify_all()
        if batch is None:
            return self._feed_fn()
        feeds, error = batch
        if error is not None:
            try:
                raise error
            finally:
                del batch, error  # the traceback holds this frame
        return feeds

    def _work(self):
        while self._has_room():
            graph = self._graph
            batch = self._make(graph)
            with self._changed:
                if graph is self._graph:
                    self._batches.append(batch)
                    self._failed = batch[1] is not None
                self._changed.notify_all()
            del batch

    def _has_room(self):
        # Waits for room; False: the thread ends, and has been signed off.
        with self._changed:
            while not self._is_stopped():
                if not self._failed and len(self._batches) < self._limit:
                    return True
                self._changed.wait(_POLL_SECS)
            self._thread = None
            self._changed.notify_all()
            return False

    def _is_stopped(self):
        coord = self._coord()
        return coord is None or coord.should_stop()

    def _make(self, graph):
        try:
            with graph.as_default():
                return self._own(self._feed_fn(), graph), None
        except BaseException as error:
            return None, error

    def _own(self, feeds, graph):
        # `feed_fn` may use its arrays again: what is fed later must be a copy.
        if isinstance(feeds, dict):
            items: Any = dict.items(feeds)
        elif hasattr(feeds, "keys"):  # what `dict.update`, which TensorFlow calls with it, takes for a mapping
            items = [(key, feeds[key]) for key in feeds.keys()]  # noqa: SIM118
        else:  # no feeds, or TensorFlow's error
            return feeds
        return {key: self._own_value(key, value, graph) for key, value in items}

    def _own_value(self, key, value, graph):
        try:
            tensor = graph.as_graph_element(key, allow_tensor=True, allow_operation=False)
        except Exception:  # a composite key, or `Session.run` says what is wrong with it
            return value
        feed = self._feeds.get(tensor.ref())
        if feed is None:
            # Besides those that wait: one in the making, one in the step.
            feed = self._feeds[tensor.ref()] = _Feed(tensor, self._limit + 2)
        return feed.own(value)


class FeedFnHook(patching.OurHook, tensorflow_train.FeedFnHook):
    """Feeds what a function returns, a new call for each run; can make the batches ahead, in a thread.

    Args:
      feed_fn: Function without arguments that returns a dict of tensor to value.
      prefetch: How many batches may wait for their step. 0: `feed_fn` is called on the step, in the calling thread, as
        TensorFlow does. Else a background thread calls it, with the session's graph as the default graph, and copies
        arrays, converted as `Session.run` does, to memory that TensorFlow uses in place.

    Raises:
      TypeError: `prefetch` is not an integer.
      ValueError: `prefetch` is negative.

    With `prefetch`: steps get the batches in the order in which `feed_fn` returned them. An exception of `feed_fn` is
    raised on the step that would have had its batch; `feed_fn` is not called again before the next run. After a recovery
    the waiting batches are used; that of the failed run is not repeated, as it is not without `prefetch`. Batches that
    wait when the session ends are kept for the next session with the same hook and graph. The thread ends with the session;
    a call of `feed_fn` that does not return holds up `close` for the session's `stop_grace_period_secs`, and the
    interpreter's exit not at all. `feed_fn` may change arrays that it returned earlier, but not what is in composite values
    (`SparseTensorValue` and the like), which are fed as they are.
    """

    _prefetch = 0
    _prefetcher: _Prefetcher | None = None

    def __init__(self, feed_fn: Any, *, prefetch: int = 0) -> None:
        super().__init__(feed_fn)
        try:
            self._prefetch = operator.index(prefetch)
        except TypeError:
            raise TypeError(f"prefetch must be an integer; got {prefetch!r}.") from None
        if self._prefetch < 0:
            raise ValueError(f"prefetch must be at least 0; got {prefetch!r}.")

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Begins to make batches, or goes on with it; see `tf.compat.v1.train.SessionRunHook`."""
        if self._prefetch and coord is not None:  # None: called by hand
            if self._prefetcher is None:
                self._prefetcher = _Prefetcher(lambda: self.feed_fn(), self._prefetch)
            self._prefetcher.start(session.graph, coord)

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Returns the feeds of the coming run; see `tf.compat.v1.train.SessionRunHook`."""
        patching.meet_late_hook()
        if self._prefetcher is None:
            return super().before_run(run_context)
        return SessionRunArgs(fetches=None, feed_dict=self._prefetcher.take())

    def end(self, session: Any) -> None:
        """Lets the thread end; see `tf.compat.v1.train.SessionRunHook`."""
        if self._prefetcher is not None:
            self._prefetcher.stop()

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes batches of its own.
        return {name: value for name, value in vars(self).items() if name != "_prefetcher"}
