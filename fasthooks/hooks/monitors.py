"""What is done about rows of metrics: EarlyStopping stops the training, BestCheckpoints keeps the best of its states."""

import glob
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow.compat.v1 as tf
from tensorflow.python.framework import errors
from tensorflow.python.platform import tf_logging as logging

from fasthooks.arguments import as_float, as_int, check_count
from fasthooks.hooks.sinks import Lines, Sink, local_path

_BEST_FILE = "best_checkpoints.json"


class _Monitor(Sink):
    """A sink that looks at one value of the rows."""

    def __init__(self, monitor: str, mode: Literal["min", "max"]) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a metric; got {monitor!r}.")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max'; got {mode!r}.")
        self._monitor = monitor
        self._mode = mode

    def _check_names(self, names):
        if self._monitor not in names:
            raise ValueError(f"monitor must be one of the names of the rows, {', '.join(names)}; got {self._monitor!r}.")

    def begin(self, names: Sequence[str] | None) -> None:
        """Looks for the monitored name, if the names are known."""
        if names is not None:
            self._check_names(names)

    def _value(self, row):
        self._check_names(row)
        return row[self._monitor]

    def _improves(self, value, best, min_delta=0.0):
        # NaN and infinities never do.
        return math.isfinite(value) and (best is None or (best - value if self._mode == "min" else value - best) > min_delta)


class EarlyStopping(_Monitor):
    """Requests a stop when a value has not become better for a while.

    Args:
      monitor: Name of the value in the rows.
      patience: Rows in a row without improvement after which a stop is requested, a positive int.
      mode: Whether less ("min") or more ("max") is better.
      min_delta: By how much more than this a value must be better than the best one, at least 0.
      min_steps: Global step of a row before which no stop is requested, an int of at least 0.
      state_file: A file to which step and value of each row are appended, so that patience survives a restart; default: what
        came before is known in this process only.

    Raises:
      TypeError: `monitor` is no str.
      ValueError: Another argument is not of its kind. When a session begins, or at the first row of an evaluation: the rows have
        no value of that name. When it has begun: `state_file` is something else.

    NaN and infinities are never better. A session that begins, or goes on after a recovery, at an earlier step than that of the
    last row forgets the rows after that step: what counts is what led to the state that it has. A row of a step that has one
    takes its place. A hook writes no second row for a period that has one, so after a recovery those that are forgotten do not
    come again, and patience is longer by as many. patience=2 with mode="min" and the values 3, 2, 2.5, 2: a stop after the fourth
    row, and one log line with the best value and its step.

    The stop ends this session only. On a chief with workers add a StopAtStepHook to all of them; with collectives give it to all
    workers, with equal values.
    """

    def __init__(self, monitor: str, *, patience: int, mode: Literal["min", "max"], min_delta: float = 0.0, min_steps: int = 0,
                 state_file: str | os.PathLike[str] | None = None) -> None:
        super().__init__(monitor, mode)
        self._patience = check_count("patience", patience)
        self._min_delta = as_float(min_delta)
        if not 0 <= self._min_delta < math.inf:
            raise ValueError(f"min_delta must be a number of at least 0; got {min_delta!r}.")
        least = as_int(min_steps)
        if least is None or least < 0:
            raise ValueError(f"min_steps must be an int of at least 0; got {min_steps!r}.")
        self._min_steps = least
        self._lines: Any = None if state_file is None else Lines(local_path("state_file", state_file))
        self._rows: list[tuple[int, float]] = []
        self._forget()

    def _forget(self):
        self._best = self._best_step = None
        self._waited = 0

    def started(self, session: Any, step: int) -> None:
        """Looks at the rows up to this step again."""
        if self._lines is not None:
            self._rows = self._read(self._lines.path)
            self._append({"started": step})
        _drop_rows(self._rows, step + 1)
        self._look_again()

    def _read(self, path):
        rows: list[tuple[int, float]] = []
        if not os.path.isfile(path):    # none yet, or one that never ends
            return rows
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                match _parsed(line):
                    case None:  # it was cut
                        pass
                    case {"started": int(step)}:
                        _drop_rows(rows, step + 1)
                    case {"monitor": self._monitor, "step": int(step), "value": int() | float() | None as value}:
                        _drop_rows(rows, step)
                        rows.append((step, math.nan if value is None else value))
                    case _:
                        raise ValueError(f"state_file must have rows of {self._monitor!r}; got {path}, line {number}: {line!r}")
        return rows

    def _append(self, entry):
        if not self._lines.is_open:
            self._lines.open()
        self._lines.write(json.dumps(entry).encode() + b"\n")

    def _look_again(self):
        self._forget()
        for row in self._rows:
            self._look(*row)

    def _look(self, step, value):
        if self._improves(value, self._best, self._min_delta):
            self._best, self._best_step = value, step
            self._waited = 0
        else:
            self._waited += 1

    def write(self, step: int, row: Mapping[str, float], session: Any) -> bool:
        """Looks at a row."""
        value = self._value(row)
        if self._lines is not None:
            self._append({"monitor": self._monitor, "step": step, "value": value if math.isfinite(value) else None})
        if self._rows and self._rows[-1][0] >= step:  # it is made again
            _drop_rows(self._rows, step)
            self._look_again()
        self._rows.append((step, value))
        self._look(step, value)
        if self._waited < self._patience or step < self._min_steps:
            return False
        best = "no finite value came" if self._best is None else f"the best was {self._best} at step {self._best_step}"
        logging.info("EarlyStopping requests a stop at step %s: %s has not improved in %s rows, %s.", step, self._monitor,
                     self._waited, best)
        return True

    def close(self) -> None:
        """Closes the file."""
        if self._lines is not None:
            self._lines.close()


def _drop_rows(rows, step):
    # Takes away those of this step and of later ones; their steps grow.
    while rows and rows[-1][0] >= step:
        rows.pop()


def _parsed(line):
    # What the JSON of a line says; None for one that was cut or is empty.
    try:
        return json.loads(line)
    except ValueError:
        return None if line.startswith(b"{") or not line.strip(b"\0\n") else line


class BestCheckpoints(_Monitor):
    """Saves a checkpoint whenever a row is among the best.

    Args:
      directory: Where they are saved, as `best-<step>`, or `best-<step>-again` beside one of the same step; not that of the
        training's own checkpoints.
      monitor: Name of the value in the rows.
      mode: Whether less ("min") or more ("max") is better.
      keep: How many to keep, a positive int.
      saver: The Saver to use; default: the one in the graph's collection, which the session's Scaffold makes.

    Raises:
      TypeError: `monitor` is no str.
      ValueError: Another argument is not of its kind. When a session begins: the directory has other checkpoints, or those of
        another value; there, or at the first row of an evaluation: the rows have no value of that name.
      RuntimeError: When a session has begun: `saver` is None and the graph's collection has not exactly one.

    The variables are saved as they are after the step of the row; NaN and infinities are never saved. `best_checkpoints.json`
    lists path, step and value, the best one first; `best_checkpoint` reads it. A checkpoint is complete, and in that list, before
    the one that it displaces is deleted, and only files of the list are ever deleted. Of equal ones the older stays. A restart
    reads the list again, so a first row that is worse displaces nothing; after a recovery the checkpoints of later steps stay.
    """

    def __init__(self, directory: str | os.PathLike[str], monitor: str, *, mode: Literal["min", "max"], keep: int = 1,
                 saver: Any = None) -> None:
        super().__init__(monitor, mode)
        self._keep = check_count("keep", keep)
        self._directory = local_path("directory", directory)
        self._given_saver = saver

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_saver"}

    def begin(self, names: Sequence[str] | None) -> None:
        """Reads the list of what was saved before."""
        super().begin(names)
        self._refuse_other_checkpoints()
        listed = _read_list(self._directory)
        kind = {"monitor": self._monitor, "mode": self._mode}
        if listed is not None and {name: listed[name] for name in kind} != kind:
            raise ValueError(f"{self._directory} has the best checkpoints for {listed['monitor']!r} and mode {listed['mode']!r}; "
                             f"got {self._monitor!r} and {self._mode!r}.")
        self._kept = _existing(self._directory, listed)

    def _refuse_other_checkpoints(self):
        if os.path.exists(os.path.join(self._directory, "checkpoint")):
            raise ValueError(f"directory must not have other checkpoints; got {self._directory}, where a Saver saves its own.")

    def started(self, session: Any, step: int) -> None:
        """Finds the saver."""
        savers = [self._given_saver] if self._given_saver else session.graph.get_collection(tf.GraphKeys.SAVERS)
        if len(savers) != 1:
            raise RuntimeError(f"BestCheckpoints needs a saver, and the graph's collection has {len(savers)}: give saver.")
        self._saver = savers[0]

    def write(self, step: int, row: Mapping[str, float], session: Any) -> None:
        """Saves a checkpoint, if the row is among the best."""
        value = self._value(row)
        worst = self._kept[self._keep - 1] if len(self._kept) >= self._keep else None
        rival = next((one for one in self._kept if one["step"] == step), worst)
        if not self._improves(value, rival and rival["value"]):
            return
        self._refuse_other_checkpoints()
        os.makedirs(self._directory, exist_ok=True)
        name = f"best-{step}"
        if any(one["path"] == name for one in self._kept):  # it must stay whole where this save does not end
            name += "-again"
        prefix = os.path.join(self._directory, name)
        try:
            # Neither the `checkpoint` file nor what a Saver deletes is concerned.
            self._saver.save(session, prefix, write_meta_graph=False, write_state=False)
        except errors.OutOfRangeError as error:  # so TensorFlow tells that files have a limit; a session takes it for its end
            raise OSError(f"{prefix} could not be saved: {error.message}") from error
        kept = [one for one in self._kept if one["step"] != step] + [{"path": name, "step": step, "value": value}]
        kept = sorted(kept, key=lambda one: one["value"], reverse=self._mode == "max")[:self._keep]
        _write_list(self._directory, {"monitor": self._monitor, "mode": self._mode, "checkpoints": kept})
        displaced = [one for one in self._kept if one not in kept]
        self._kept = kept
        for one in displaced:
            for path in _files(self._directory, one):
                os.remove(path)


def _read_list(directory):
    path = os.path.join(directory, _BEST_FILE)
    try:
        with open(path, "rb") as file:
            listed = json.load(file)
        # What the others read of it.
        return {"monitor": listed["monitor"], "mode": listed["mode"], "checkpoints": [
            {"path": str(one["path"]), "step": int(one["step"]), "value": float(one["value"])} for one in listed["checkpoints"]]}
    except FileNotFoundError:
        return None
    except (ValueError, OverflowError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no list of the best checkpoints; it can be deleted if none of them is needed.") from error


def _write_list(directory, listed):
    # The old list or the new one is there at any time.
    handle, path = tempfile.mkstemp(prefix=_BEST_FILE, dir=directory)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(listed, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(path, os.path.join(directory, _BEST_FILE))
    except BaseException:
        os.unlink(path)
        raise


def _files(directory, one):
    # What a checkpoint consists of, in either of TensorFlow's formats, what is last written first. TensorFlow's own functions for
    # this log that they are deprecated.
    prefix = glob.escape(os.path.join(directory, one["path"]))
    return [path for suffix in (".index", "", ".data-?????-of-?????") for path in glob.glob(prefix + suffix)]


def _existing(directory, listed):
    return [one for one in (listed["checkpoints"] if listed else ())
            if not all(".data-" in path for path in _files(directory, one))]


def best_checkpoint(directory: str | os.PathLike[str]) -> str | None:
    """Returns the best checkpoint that BestCheckpoints saved.

    Args:
      directory: That of the BestCheckpoints.

    Returns:
      Its path prefix, for `Saver.restore`; None if there is none.

    Raises:
      ValueError: The list of the checkpoints is something else.
    """
    directory = os.fsdecode(directory)
    kept = _existing(directory, _read_list(directory))
    return os.path.join(directory, kept[0]["path"]) if kept else None
