"""Events that whoever adds them writes into the file, where TensorFlow's writer thread has nothing left to do.

Waking that thread takes longer than writing a small event into the native writer's buffer, and the thread then takes the
interpreter's lock from the step that follows. Order, bytes and errors are those of TensorFlow: what the thread was given
before is written before, the thread flushes when that is due, and what cannot be written here is left to it.
"""

import operator
import os
import sys
import weakref
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.framework.summary_pb2 import Summary
from tensorflow.core.util import event_pb2
from tensorflow.python.summary.writer import event_file_writer, writer
from tensorflow.python.summary.writer.event_file_writer import EventFileWriter
from tensorflow.python.summary.writer.writer import FileWriter, SummaryToEventTransformer

from fasthooks import known_tensorflow
from fasthooks.hooks import _summary
from fasthooks.rebinding import class_method
from fasthooks.triggers import _guard

_QUEUE: Any = getattr(event_file_writer, "CloseableQueue", None)
_THREAD: Any = getattr(event_file_writer, "_EventLoggerThread", None)


def _skipped():
    # What is not called where a summary is written directly.
    return (FileWriter.add_summary, FileWriter._add_event, SummaryToEventTransformer._add_event, EventFileWriter.add_event,
            EventFileWriter._try_put, _QUEUE.put)


_KNOWN = known_tensorflow.is_known(FileWriter, EventFileWriter, _QUEUE, _THREAD) and all(
    _guard.is_own_method(kind, name, getattr(kind, name), module)
    for module, kind, names in (
        (writer, FileWriter, ("add_summary", "_add_event")), (writer, SummaryToEventTransformer, ("_add_event",)),
        (event_file_writer, EventFileWriter, ("add_event", "_try_put")), (event_file_writer, _QUEUE, ("put",)),
        (event_file_writer, _THREAD, ("run",)))
    for name in names)
_OWN = _skipped() if _KNOWN else ()
_PUT = getattr(_QUEUE, "put", None)


def prepare(file_writer: Any) -> None:
    """Lets a FileWriter's events be written directly, unless it is not TensorFlow's own throughout.

    Args:
      file_writer: A FileWriter. The file of its event writer has `write_now(event)`, which returns whether it has written an
        event, serialized or not; it is told of all others that the thread is given.
    """
    event_writer = file_writer.event_writer
    queue = event_writer._event_queue
    kinds = (type(file_writer), type(event_writer), type(queue), type(event_writer._worker))
    if _KNOWN and kinds == (FileWriter, EventFileWriter, _QUEUE, _THREAD) and "put" not in vars(queue):
        event_writer._ev_writer.note_thread()
        queue.put = _DirectPut(event_writer)
        if "add_summary" not in vars(file_writer):
            file_writer.add_summary = _AddSummary(file_writer)


class _DirectPut:
    """Is called in the place of `put` of a writer's queue, as long as the queue has that thread behind it."""

    def __init__(self, event_writer):
        # Of what holds the queue, and so this object, only references: a writer that nobody has any more goes at once.
        self._queue: Any = weakref.ref(event_writer._event_queue)
        self._worker: Any = weakref.ref(event_writer._worker)
        self._file = event_writer._ev_writer
        self._process = os.getpid()

    def write(self, event):
        """Writes an event, serialized or not. Returns False where the thread must."""
        queue, worker, file = self._queue(), self._worker(), self._file
        return (not queue._closed and worker._ev_writer is file
                # The thread flushes after the first event and then now and then.
                and event_file_writer.time.time() <= worker._next_event_flush_time
                # A child of a fork has no thread, and the file is not its own; at the end the interpreter stops all threads.
                and os.getpid() == self._process and not sys.is_finalizing()
                and file.write_now(event))

    def __call__(self, item):
        # Other events are large: graphs.
        if type(item) is event_pb2.Event and item.HasField("summary") and _QUEUE.put is _PUT and self.write(item):
            return
        worker, file = self._worker(), self._file
        is_event = item is not worker._flush_sentinel and item is not worker._close_sentinel
        try:
            if is_event:
                file.note_handed(item)
            class_method(self._queue(), "put")(item)
        except BaseException:
            if is_event:
                file.note_not_handed(item)
            raise


class _AddSummary:
    """Is called in the place of a FileWriter's `add_summary`: what the graph serialized goes into the event as it is."""

    def __init__(self, file_writer):
        self._writer: Any = weakref.ref(file_writer)

    def __call__(self, *args, **kwargs):
        # As TensorFlow's hooks call it, or else TensorFlow's own method does it all, and raises what there is to raise.
        if kwargs or len(args) != 2 or not self._write(*args):
            class_method(self._writer(), "add_summary")(*args, **kwargs)

    def _write(self, summary, global_step):
        file_writer = self._writer()
        event_writer = file_writer.event_writer
        put = getattr(getattr(event_writer, "_event_queue", None), "put", None)
        if (type(put) is not _DirectPut or not all(map(operator.is_, _skipped(), _OWN)) or "_add_event" in vars(file_writer)
                or "add_event" in vars(event_writer) or "_try_put" in vars(event_writer)
                or not isinstance(global_step, (int, np.integer)) or not -2**63 <= global_step < 2**63):
            return False
        if type(summary) is bytes:
            try:
                summary = Summary.FromString(summary)
            except DecodeError:
                return False
        elif type(summary) is not Summary:
            return False
        serialized = summary.SerializeToString()
        # TensorFlow takes the metadata out of all values but the first one with a tag. Such are left to it.
        tags = _summary.plain_tags(serialized)
        if tags is None:
            return False
        event = event_pb2.Event(wall_time=writer.time.time(), step=int(global_step)).SerializeToString()
        if not put.write(_summary.event_with(event, serialized)):
            return False
        file_writer._seen_summary_tags.update(tags)
        return True
