"""Failures of TensorFlow's background event writer, brought to the hooks that write through it.

A FileWriter hands events to a thread, which flushes them at first and then every two minutes. TensorFlow itself raises
what that thread fails with when the next event is added or the file is flushed; a hook that does neither again hears
nothing, and a writer that failed drops the events of all later sessions without a word. A disk that is full may not even
make the thread fail, nor does a file that was removed: the native writer ignores errors of single writes. Here the
thread looks at the file after each flush and tells the hooks, whose next `after_run` or `end` raises. That costs a step
nothing.
"""

import contextlib
import os
import weakref
from typing import Any

from tensorflow.python.framework import errors
from tensorflow.python.summary.writer import event_file_writer

from fasthooks import background, known_tensorflow
from fasthooks.after_step import OnceAfterStep
from fasthooks.output import direct_writes

_EventFileWriter = event_file_writer.EventFileWriter
_KNOWN = known_tensorflow.is_known(_EventFileWriter, getattr(event_file_writer, "_EventLoggerThread", None))
# What a record has around an event: its length and two checksums.
_FRAME = 16
# Bytes of an event above which writing may take longer than waking the thread.
_SMALL = 1 << 16


class _WatchedFile:
    """Stands for the native events writer in TensorFlow's writer thread."""

    def __init__(self, native):
        self._native = native
        self._handed = []  # what the thread was given through DirectPut and has not written yet
        self._has_caught_up = False
        self.hooks = []  # references to those that began with it, as often as they did
        self.was_watched = False  # there were such; before, nobody is told of anything
        # The file at the last flush, or once it was there, and where that is; None: not known.
        self._name = None
        self._path = ""
        self._written = 0  # bytes of the events that were written
        self._others = 0  # bytes that the file has beside these
        self.is_closed = False  # there will be another file, with the next event
        self.is_lost = False  # the file is not what it must be

    def __getattr__(self, name):
        # What other libraries ask of the native writer, that is behind no copy of this object.
        if name == "_native":
            raise AttributeError(name)
        return getattr(self._native, name)

    def WriteEvent(self, event):
        with self._told():
            self._native.WriteEvent(event)
            self._written += event.ByteSize() + _FRAME
            self.is_closed = False
        if self._handed:
            with contextlib.suppress(ValueError):  # it was given to the thread before
                self._handed.remove(event)
                self._has_caught_up = True
        if self._name is None and not self.was_watched:
            self._meet_file()

    def note_handed(self, event):
        """Takes note that the thread is given something to write."""
        self._handed.append(event)

    def note_not_handed(self, event):
        """Takes note that this failed: whether the thread got it is not known."""
        with contextlib.suppress(ValueError):
            self._handed.remove(event)
        self._has_caught_up = False

    def note_thread(self):
        """Takes note of a new thread, which may have been given something already."""
        self._handed.clear()
        self._has_caught_up = False

    def write_now(self, event):
        """Writes an event, serialized or not, on the thread that has it. Returns False where the writer's thread must."""
        # Only into local files that are there: others may keep a step waiting.
        if self._handed or self.is_lost or self._name is None or not self._has_caught_up:
            return False
        record = event if type(event) is bytes else event.SerializeToString()
        if len(record) > _SMALL:
            return False
        # The native writer is for one thread at a time, and keeps the interpreter's lock through each of its calls.
        self._native._WriteSerializedEvent(record)
        self._written += len(record) + _FRAME
        return True

    def Close(self):
        self._native.Close()
        self._name = None
        self.is_closed = True
        self.is_lost = False

    def Flush(self):
        written = self._written  # others may write more meanwhile
        with self._told():
            self._native.Flush()
        # Raises nothing here: a program may remove what it wrote, and close the writer then.
        if self.was_watched and not (self.is_lost or self.is_closed):
            try:
                self._look(written)
            except Exception as error:
                self.is_lost = True
                self._tell(error)

    def _meet_file(self):
        # What a direct write needs: the file is local, and there.
        name = self._native.FileName()
        if "://" not in name and os.path.exists(name):
            self._name, self._path = name, os.path.abspath(name)

    def _look(self, written):
        name, path = self._native.FileName(), self._path
        if name != self._name:
            self._name = None  # nobody but this thread writes into it until it is known what it has
            if "://" in name:  # other file systems show files when they like
                return
            # The directory that a relative name begins at may change later, or have changed.
            path = os.path.abspath(name)
            if not os.path.exists(path):
                if not os.path.isabs(name) and not os.path.isdir(os.path.dirname(path)):
                    return
                raise errors.NotFoundError(None, None, f"{name} could not be made, and the events for it are lost")
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            raise errors.NotFoundError(
                None, None, f"{name} was removed or renamed, and events for it may be lost") from None
        if self._name is None:
            self._name, self._path, self._others = name, path, size - written
        elif size < self._others + written:
            raise errors.DataLossError(
                None, None, f"{name} has {size} bytes of {self._others + written} that were written; the disk may be full")

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except Exception as error:
            self._tell(error)
            raise

    def _tell(self, error):
        for hook in {id(hook): hook for hook in self._living()}.values():
            _Failure(hook, error)

    def _living(self):
        return [hook for hook in [reference() for reference in self.hooks] if hook is not None]

    def left_directory(self):
        """Returns the file's directory if the file was removed when no hook was told of it any more, else None."""
        is_left = self._name is not None and not self._living() and not os.path.exists(self._path)
        return os.path.dirname(self._path) if is_left else None

    def add(self, hook):
        """Tells the hook of failures from now on."""
        if not self.was_watched:
            self.was_watched = True
            self._name = None  # the next flush looks at what the file has
        self.hooks[:] = [weakref.ref(other) for other in [*self._living(), hook]]

    def remove(self, hook):
        """Undoes one `add`. Returns whether the hook is still told, for another session."""
        living = self._living()
        place = next((number for number, other in enumerate(living) if other is hook), None)
        if place is not None:
            del living[place]
        self.hooks[:] = [weakref.ref(other) for other in living]
        return any(other is hook for other in living)


class _Failure(OnceAfterStep):
    """Raises what the writer thread failed with."""

    def __init__(self, hook, error):
        self.error = error
        super().__init__(hook)

    def act(self, run_context, run_values):
        raise self.error


def watch(hook: Any) -> None:
    """Lets failures of the thread behind `hook._summary_writer` surface in the hook, from its `begin` on.

    Writers without such a thread, and all if TensorFlow's code for them is not known, are left alone. One that failed before
    is opened again, with a new file; so is one whose file was removed since the last session that used it.
    """
    failure = _Failure.of(hook)
    if failure is not None:
        failure.withdraw()
    writer, event_writer = _writers_of(hook)
    if not _KNOWN or event_writer is None:
        return
    worker = event_writer._worker
    watched = worker._ev_writer if isinstance(worker._ev_writer, _WatchedFile) else None
    is_first = False
    left = None if watched is None else watched.left_directory()
    if worker.failure_exc_info or left is not None or (watched is not None and watched.is_lost):
        if watched is not None:
            watched.hooks.clear()
        with contextlib.suppress(Exception):  # those who wait for it have heard of it
            event_writer.close()
        if left is not None:
            with contextlib.suppress(OSError):  # there will be no file then, of which the hook is told
                os.makedirs(left, exist_ok=True)
        writer.reopen()
    elif event_writer._closed or _is_forsaken(worker):  # closed by the caller, who is warned of that with each event
        return
    else:
        is_first = watched is None or not watched.was_watched
    if watched is None:
        watched = _put_between(event_writer)
        watched.is_closed = not is_first
    watched.add(hook)
    direct_writes.prepare(writer)
    if is_first:
        event_writer.flush()
        raise_failure(hook)


def _writers_of(hook):
    # The hook's writer and the one that has a thread; None for that of other libraries, and of mocks.
    writer: Any = getattr(hook, "_summary_writer", None)
    try:
        event_writer: Any = getattr(writer, "event_writer", None)
    except Exception:  # writers are anybody's
        event_writer = None
    return writer, event_writer if isinstance(event_writer, _EventFileWriter) else None


def _put_between(event_writer):
    # The writer's own, for the threads of files to come, too.
    watched = event_writer._ev_writer = event_writer._worker._ev_writer = _WatchedFile(event_writer._ev_writer)
    return watched


def speed_up(hook: Any) -> None:
    """Lets summaries for `hook._summary_writer` be written directly, for a hook that is not told of failures."""
    writer, event_writer = _writers_of(hook)
    if not _KNOWN or event_writer is None or not direct_writes.can_serve(writer):
        return
    worker = event_writer._worker
    if event_writer._closed or worker.failure_exc_info or _is_forsaken(worker):
        return
    if not isinstance(worker._ev_writer, _WatchedFile):
        _put_between(event_writer)
    direct_writes.prepare(writer)


def settle(hook: Any) -> None:
    """Raises the failure that the hook has not raised yet, after all events were written; for its `end`."""
    _, event_writer = _writers_of(hook)
    worker = getattr(event_writer, "_worker", None)
    watched = getattr(worker, "_ev_writer", None)
    if not isinstance(watched, _WatchedFile):
        return
    try:
        raise_failure(hook)
        if not _is_forsaken(worker):
            event_writer.flush()
            raise_failure(hook)
    finally:
        # What becomes of the file after the hook's last session is the program's business.
        failure = _Failure.of(hook)
        if not watched.remove(hook) and failure is not None:
            failure.withdraw()


def raise_failure(hook: Any) -> None:
    """Raises what the thread failed with, if the hook has not done so before."""
    failure = _Failure.of(hook)
    if failure is not None and failure.withdraw():
        raise failure.error


def _is_forsaken(worker):
    # The queue has no thread behind it, and a flush would wait for ever.
    return not background.is_alive(worker) and not worker.failure_exc_info
