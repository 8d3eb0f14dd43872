"""Where rows of metrics go: files, TensorBoard, a Weights & Biases run."""

import abc
import csv
import io
import json
import math
import os
import stat
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow.compat.v1 as tf

from fasthooks.arguments import check_flag
from fasthooks.hooks.wandb_hook import import_wandb
from fasthooks.output import writers
from fasthooks.types import Session

Row = Mapping[str, float]


class Sink(abc.ABC):
    """Where a `MetricsHook` or an `EvaluationHook` writes its rows. Derive from it for one of your own.

    A session calls `begin`; `started`, rows by `write`, and `close`, these three again after each recovery. Where one sink serves
    several hooks, each of them calls all of these. An exception of `begin`, `started` or `write` reaches the caller of the
    session, and so does that of `close` after a normal end; after an error it is logged.
    """

    def begin(self, names: Sequence[str] | None) -> None:  # noqa: B027
        """Is called before the session is made.

        Args:
          names: Of what the rows will have, in order; None: not known before the first row, which an evaluation gives.
        """

    def started(self, session: Session, step: int) -> None:  # noqa: B027
        """Is called when the session is made or recovered.

        Args:
          session: The raw session.
          step: Its global step.
        """

    @abc.abstractmethod
    def write(self, step: int, row: Row, session: Session) -> bool | None:
        """Takes a row.

        Args:
          step: Its global step, less than before where the session recovered to an earlier one.
          row: Name -> float, always with the same names in the same order.
          session: The raw session.

        Returns:
          True to request a stop.
        """

    def close(self) -> None:  # noqa: B027
        """Is called when the session ends or is closed, on errors too."""


def local_path(name, path):
    """Returns a path, as it is from the directory that is the current one now.

    Raises:
      ValueError: It is in a file system of TensorFlow's; `name` is that of the argument.
    """
    found = os.fsdecode(path)
    if "://" in found:
        raise ValueError(f"{name} must be in a local file system; got {path!r}.")
    return os.path.abspath(found)


class Lines:
    """A file to which whole lines are appended, each by one write: what it holds is there for others, and after a kill.

    Args:
      path: The file; its directory is made if need be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._file: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None}

    @property
    def is_open(self):
        return self._file is not None

    def open(self, first: bytes = b"", is_new: bool = False) -> None:
        """Opens the file, and completes a line that was cut.

        Args:
          first: The line that it must begin with.
          is_new: Whether to empty it.

        Raises:
          ValueError: It begins with another line.
        """
        self.close()
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        file = open(self.path, "wb" if is_new else "ab", buffering=0)  # noqa: SIM115
        try:
            # Terminals and pipes have no begin to be looked at.
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            found, size, is_cut = self._look(len(first)) if is_file else (b"", 0, False)
            if found != first and not (size < len(first) and first.startswith(found)):
                raise ValueError(f"{self.path} begins with {found!r}; rows that begin with {first!r} cannot be appended to it.")
        except BaseException:
            file.close()
            raise
        self._file = file
        if found != first:
            self.write(first[size:])
        elif is_cut:
            self.write(b"\n")

    def _look(self, length):
        # What the file begins with, how many bytes it has, and whether its last line has no end.
        with open(self.path, "rb") as file:
            found = file.read(length)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            return found, size, file.read() not in (b"", b"\n")

    def write(self, line: bytes) -> None:
        """Appends a line; on an error the file is closed, and the line may be cut."""
        try:
            while line:
                line = line[self._file.write(line):]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file, if it is open."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class _FileSink(Sink):
    """A sink that writes a line for a row."""

    def __init__(self, path: str | os.PathLike[str], *, append: bool = True) -> None:
        check_flag("append", append)
        self._lines = Lines(local_path("path", path))
        self._append = append
        self._names: list[str] | None = None

    def _first_line(self, names):
        raise NotImplementedError

    def _line(self, step, row):
        raise NotImplementedError

    def _open(self, names):
        self._lines.open(self._first_line(names), is_new=not self._append)
        self._append, self._names = True, names

    def begin(self, names: Sequence[str] | None) -> None:
        """Opens the file, if the names are known."""
        self._lines.close()
        if names is not None:
            self._open(list(names))

    def write(self, step: int, row: Mapping[str, float], session: Any) -> None:
        """Appends a line."""
        names = list(row)
        if names != self._names or not self._lines.is_open:  # or another hook writes other rows
            self._open(names)
        self._lines.write(self._line(step, row))

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


def _csv_line(values):
    line = io.StringIO()
    # Both characters are quoted then.
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n").encode() + b"\n"


class CSVSink(_FileSink):
    """Appends rows to a file of comma-separated values, UTF-8.

    Args:
      path: The file.
      append: Whether to go on with a file that is there, which must have the same header; else the first session empties it.

    Raises:
      ValueError: `append` is no bool, or `path` is not local. When a session begins, or at the first row of an evaluation: the
        file has another header.

    The header is step,time and the names; `time` is in seconds since the epoch. A row is in the file when its step ends, and an
    error of writing it is raised on that step. What was written is never changed: after a recovery there may be rows of the same
    step, with another time. A last line that was cut by a kill is ended first.

    Cost: a row takes some 10 µs (`python bench/budgets.py --only C1`).
    """

    def _first_line(self, names):
        return _csv_line(["step", "time", *names])

    def _line(self, step, row):
        return _csv_line([step, time.time(), *row.values()])


class JSONLSink(_FileSink):
    """Appends rows to a file, one JSON object a line: step, time, and the values by name.

    Args:
      path: The file.
      append: Whether to go on with a file that is there; else the first session empties it.

    Raises:
      ValueError: `append` is no bool, or `path` is not local.

    Strict JSON: NaN and infinities are null. All else is as for `CSVSink`.
    """

    def _first_line(self, names):
        return b""

    def _line(self, step, row):
        values = {name: value if math.isfinite(value) else None for name, value in row.items()}
        return json.dumps({"step": step, "time": time.time(), **values}, allow_nan=False).encode() + b"\n"


class EventSink(Sink):
    """Writes rows for TensorBoard, as scalars of one event.

    Args:
      logdir: Directory of the event file. The file is the one that TensorFlow's hooks with the same directory write to.
      prefix: Goes before each name, to make the tag.

    TensorFlow's writer puts events into the file up to two minutes later; what it fails with is raised with the next row, or at
    the end.
    """

    _summary_writer: Any = None

    def __init__(self, logdir: str | os.PathLike[str], *, prefix: str = "") -> None:
        self._logdir = os.fspath(logdir)
        self._prefix = prefix

    def __getstate__(self) -> dict[str, Any]:
        return {"_logdir": self._logdir, "_prefix": self._prefix}

    def started(self, session: Any, step: int) -> None:
        """Opens the writer."""
        self._summary_writer = tf.summary.FileWriterCache.get(self._logdir)
        writers.watch(self)

    def write(self, step: int, row: Mapping[str, float], session: Any) -> None:
        """Adds an event, and raises what the writer failed with before."""
        if self._summary_writer is None:  # another hook that has this sink was the first to end
            self.started(session, step)
        writers.raise_failure(self)
        values = [tf.Summary.Value(tag=self._prefix + name, simple_value=value) for name, value in row.items()]
        self._summary_writer.add_summary(tf.Summary(value=values), step)

    def close(self) -> None:
        """Waits until all is in the file."""
        if self._summary_writer is not None:
            self._summary_writer.flush()
        writers.settle(self)
        self._summary_writer = None


class WandbSink(Sink):
    """Logs rows to a Weights & Biases run.

    Args:
      run: The run; default: the active one when the session begins.
      prefix: Goes before each name.

    Raises:
      ImportError: wandb is not installed.
      wandb.Error: When a session begins: `run` is None and there is no active run.

    A row has its global step as `global_step`, which is the x-axis of its charts, and not as the row number of wandb, which drops
    rows of steps that it had, as after a recovery.
    """

    def __init__(self, run: Any = None, *, prefix: str = "") -> None:
        import_wandb("WandbSink")
        self._run = run
        self._prefix = prefix

    def __getstate__(self) -> dict[str, Any]:
        return {"_run": self._run, "_prefix": self._prefix}

    def begin(self, names: Sequence[str] | None) -> None:
        """Finds the run."""
        wandb = import_wandb("WandbSink")
        self._active = self._run or wandb.run
        if self._active is None:
            raise wandb.Error("You must call `wandb.init()` before a session with WandbSink begins")
        self._has_axis = False

    def write(self, step: int, row: Mapping[str, float], session: Any) -> None:
        """Logs a row."""
        values = {self._prefix + name: value for name, value in row.items()}
        if not self._has_axis:
            for name in values:
                self._active.define_metric(name, step_metric="global_step")
            self._has_axis = True
        self._active.log({**values, "global_step": step})
