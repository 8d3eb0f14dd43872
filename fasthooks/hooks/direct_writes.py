"""Events that whoever adds them writes into the file, where TensorFlow's writer thread has nothing left to do.

Waking that thread takes longer than writing a small event into the native writer's buffer, and the thread then takes the
interpreter's lock from the step that follows. Order, bytes and errors are those of TensorFlow: what the thread was given
before is written before, the thread flushes when that is due, and what cannot be written here is left to it.
"""

from typing import Any

import numpy as np
from tensorflow.core.framework.summary_pb2 import Summary
from tensorflow.core.util import event_pb2
from tensorflow.python.summary.writer import event_file_writer, writer
from tensorflow.python.summary.writer.event_file_writer import EventFileWriter
from tensorflow.python.summary.writer.writer import FileWriter, SummaryToEventTransformer

from fasthooks import background, known_tensorflow
from fasthooks.hooks import _summary
from fasthooks.triggers import _guard

_QUEUE: Any = getattr(event_file_writer, "CloseableQueue", None)
_THREAD: Any = getattr(event_file_writer, "_EventLoggerThread", None)


def _skipped():
    # What is not called where a summary is written directly.
    return (FileWriter.add_summary, FileWriter._add_event, SummaryToEventTransformer._add_event, EventFileWriter.add_event,
            EventFileWriter._try_put)


_KNOWN = known_tensorflow.is_known(FileWriter, EventFileWriter, _QUEUE, _THREAD) and all(
    _guard.is_own_method(kind, name, getattr(kind, name), module)
    for module, kind, names in (
        (writer, FileWriter, ("add_summary", "_add_event")), (writer, SummaryToEventTransformer, ("_add_event",)),
        (event_file_writer, EventFileWriter, ("add_event", "_try_put")), (event_file_writer, _QUEUE, ("put",)),
        (event_file_writer, _THREAD, ("run",)))
    for name in names)
_OWN = _skipped() if _KNOWN else None


def prepare(file_writer):
    """Lets a FileWriter's events be written directly, unless it is not TensorFlow's own throughout.

    Args:
      file_writer: A FileWriter. The file of its event writer has `write_now(event)`, which returns whether it has written an
        event, serialized or not; `handed`, a deque of the events that the thread was given and has not written; and
        `begin_to_count`, which is called before that.
    """
    event_writer = file_writer.event_writer
    queue = event_writer._event_queue
    kinds = (type(file_writer), type(event_writer), type(queue), type(event_writer._worker))
    if _KNOWN and kinds == (FileWriter, EventFileWriter, _QUEUE, _THREAD) and "put" not in vars(queue):
        event_writer._ev_writer.begin_to_count()
        queue.put = DirectPut(event_writer)
        if "add_summary" not in vars(file_writer):
            file_writer.add_summary = _AddSummary(file_writer)


class DirectPut:
    """Is called in the place of `put` of a writer's queue, as long as the queue has that thread behind it."""

    def __init__(self, event_writer):
        self._queue = event_writer._event_queue
        self._put = self._queue.put
        self._worker = event_writer._worker
        self._file = event_writer._ev_writer

    def write(self, event):
        """Writes an event, serialized or not. Returns False where the thread must."""
        worker, file = self._worker, self._file
        return (not self._queue._closed and worker._ev_writer is file
                # The thread flushes after the first event and then now and then. A child of a fork has neither it nor a file.
                and event_file_writer.time.time() <= worker._next_event_flush_time and background.is_alive(worker)
                and file.write_now(event))

    def __call__(self, item):
        # Other events are large: graphs.
        if type(item) is event_pb2.Event and item.HasField("summary") and self.write(item):
            return
        if item is not self._worker._flush_sentinel and item is not self._worker._close_sentinel:
            self._file.handed.append(item)
        self._put(item)


class _AddSummary:
    """Is called in the place of a FileWriter's `add_summary`: what the graph serialized goes into the event as it is."""

    def __init__(self, file_writer):
        self._writer = file_writer

    def __call__(self, summary, global_step=None):
        if not self._write(summary, global_step):
            type(self._writer).add_summary(self._writer, summary, global_step)

    def _write(self, summary, global_step):
        # False: TensorFlow's own method does it all, and raises what there is to raise.
        file_writer, event_writer = self._writer, self._writer.event_writer
        put = getattr(getattr(event_writer, "_event_queue", None), "put", None)
        if (type(put) is not DirectPut or _skipped() != _OWN or "_add_event" in vars(file_writer)
                or "add_event" in vars(event_writer) or "_try_put" in vars(event_writer)
                or type(summary) not in (bytes, Summary) or not isinstance(global_step, (int, np.integer))):
            return False
        try:
            serialized = (summary if type(summary) is Summary else Summary.FromString(summary)).SerializeToString()
            event = event_pb2.Event(wall_time=writer.time.time(), step=int(global_step)).SerializeToString()
        except Exception:
            return False
        # TensorFlow takes the metadata out of all values but the first one with a tag. Such are left to it.
        tags = _summary.plain_tags(serialized)
        if tags is None or not put.write(_summary.event_with(event, serialized)):
            return False
        file_writer._seen_summary_tags.update(tags)
        return True
