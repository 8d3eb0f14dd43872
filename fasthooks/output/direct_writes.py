"""Events that whoever adds them writes into the file, where TensorFlow's writer thread has nothing left to do.

Waking that thread takes longer than writing a small event into the native writer's buffer, and the thread then takes the
interpreter's lock from the step that follows. Order, bytes and errors are those of TensorFlow: what the thread was given
before is written before, the thread flushes when that is due, and what cannot be written here is left to it.
"""

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
from fasthooks.output import _summary
from fasthooks.rebinding import class_method
from fasthooks.triggers import _guard

_QUEUE: Any = getattr(event_file_writer, "CloseableQueue", None)
_THREAD: Any = getattr(event_file_writer, "_EventLoggerThread", None)
_PUT = getattr(_QUEUE, "put", None)


def _guards():
    # Of what is not called where a summary is written directly; none if it is not TensorFlow's now.
    if not (known_tensorflow.is_known(FileWriter, EventFileWriter, _QUEUE, _THREAD)
            and _guard.is_own_method(_THREAD, "run", _THREAD.run, event_file_writer)):
        return ()
    guards = (
        _guard.ClassGuard(FileWriter, writer, ("add_summary", "_add_event"),
                          (_guard.ClassGuard(SummaryToEventTransformer, writer, ("_add_event",)),)),
        _guard.ClassGuard(EventFileWriter, event_file_writer, ("add_event", "_try_put")),
        _guard.ClassGuard(_QUEUE, event_file_writer, ("put",)))
    return guards if all(guard.is_intact() for guard in guards) else ()


_GUARDS = _guards()


def can_serve(file_writer: Any) -> bool:
    """Returns whether a FileWriter is TensorFlow's own throughout, so that its events may be written directly."""
    event_writer = file_writer.event_writer
    kinds = (type(file_writer), type(event_writer), type(event_writer._event_queue), type(event_writer._worker))
    return bool(_GUARDS) and kinds == (FileWriter, EventFileWriter, _QUEUE, _THREAD)


def prepare(file_writer: Any) -> None:
    """Lets a FileWriter's events be written directly, if that can be.

    Args:
      file_writer: A FileWriter. The file of its event writer has `write_now(event)`, which returns whether it has written an
        event, serialized or not; it is told of all others that the thread is given.
    """
    event_writer = file_writer.event_writer
    queue = event_writer._event_queue
    if can_serve(file_writer) and "put" not in vars(queue):
        event_writer._ev_writer.note_thread()
        queue.put = _DirectPut(event_writer)
        if "add_summary" not in vars(file_writer):
            file_writer.add_summary = AddSummary(file_writer)


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


class Scalar:
    """Stands for a Summary of one number in TensorFlow's own code, for an `add_summary` that is an AddSummary.

    Args:
      value: A list of one `Scalar.Value`.
    """

    __slots__ = ("_number", "_tag")

    @staticmethod
    def Value(tag: Any, simple_value: Any) -> tuple[Any, Any]:
        return tag, simple_value

    def __init__(self, value: list[tuple[Any, Any]]) -> None:
        (self._tag, self._number), = value

    def serialized(self) -> bytes | None:
        """Returns what the Summary is serialized to, None if that is not for us to say."""
        if type(self._tag) is str and isinstance(self._number, float):
            return _summary.scalar_summary(self._tag, self._number)
        return None

    def summary(self) -> Summary:
        """Returns the Summary, or raises what making it raises."""
        return Summary(value=[Summary.Value(tag=self._tag, simple_value=self._number)])


class AddSummary:
    """Is called in the place of a FileWriter's `add_summary`: what the graph serialized goes into the event as it is."""

    def __init__(self, file_writer: Any) -> None:
        self._writer: Any = weakref.ref(file_writer)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        # As TensorFlow's hooks call it, or else TensorFlow's own method does it all, and raises what there is to raise.
        if kwargs or len(args) != 2 or not self._write(*args):
            if args and type(args[0]) is Scalar:
                args = (args[0].summary(), *args[1:])
            class_method(self._writer(), "add_summary")(*args, **kwargs)

    def _write(self, summary, global_step):
        file_writer = self._writer()
        event_writer = file_writer.event_writer
        put = getattr(getattr(event_writer, "_event_queue", None), "put", None)
        if (type(file_writer) is not FileWriter or type(event_writer) is not EventFileWriter
                or type(put) is not _DirectPut or not all(map(_guard.ClassGuard.is_intact, _GUARDS))
                or "_add_event" in vars(file_writer) or "add_event" in vars(event_writer) or "_try_put" in vars(event_writer)
                or not isinstance(global_step, (int, np.integer)) or not -2**63 <= global_step < 2**63):
            return False
        packed = _packed(summary)
        if packed is None:
            return False
        serialized, tags = packed
        if not put.write(_summary.event_with(writer.time.time(), int(global_step), serialized)):
            return False
        file_writer._seen_summary_tags.update(tags)
        return True


def _packed(summary):
    # A summary serialized, and the tags of its values; None: it is TensorFlow's to look at.
    if type(summary) is Scalar:
        summary = summary.serialized()
    if type(summary) is bytes:
        tags = _summary.scalar_tags(summary)
        if tags is not None:
            return summary, tags
        try:
            summary = Summary.FromString(summary)
        except DecodeError:
            return None
    if type(summary) is not Summary:
        return None
    serialized = summary.SerializeToString()
    # TensorFlow takes the metadata out of all values but the first one with a tag. Such are left to it.
    tags = _summary.plain_tags(serialized)
    return None if tags is None else (serialized, tags)
