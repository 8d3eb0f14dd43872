"""Checkpoints that are written in the background while training goes on.

    training thread                                       background thread
    the trigger acts: _save
      wait for (or skip) a write under way, deliver it
      listeners' before_save
      one run fetches what the save ops read
      start                                          -->  saver.save, TensorFlow's own, in a session
    next steps                                            that feeds the save ops what was fetched
                                                     <--  `hook.after_run` is set on the object
    after_run of the step in flight or the next one:
      deliver: raise, or listeners' after_save

Nothing of this is on the way of other steps: their trigger is the compiled one of `CheckpointSaverHook`, and only while a
finished write waits to be delivered does an `after_run` of the object's own make sessions call the hook on every step.

What was fetched is not copied where TensorFlow sees to it that it does not change; see `lasting_values.py`. Everything else
(reference variables above all, which are updated in place) is copied, aligned so that feeding does not copy it again.
"""

import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.util.event_pb2 import SessionLog
from tensorflow.python.client import session as session_lib
from tensorflow.python.framework import dtypes, errors
from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import basic_session_run_hooks as stock
from tensorflow.python.training import saver as saver_lib

from fasthooks import background, known_tensorflow, tensorflow_train
from fasthooks.after_step import OnceAfterStep
from fasthooks.hooks import feeds, lasting_values
from fasthooks.hooks.stock import CheckpointSaverHook
from fasthooks.output import writers
from fasthooks.step import _live

_WHEN_BUSY = ("wait", "skip")
# Ops that write a checkpoint, and how many of their inputs come before the tensors to save.
_SAVE_OPS = {"SaveV2": 3, "SaveSlices": 3, "Save": 2}
_MERGE_OPS = ("MergeV2Checkpoints",)
_stock_save = saver_lib.Saver.save
# Whether TensorFlow's hook is the one whose parts are taken apart here.
_KNOWN = known_tensorflow.is_known(stock.CheckpointSaverHook)


class AsyncCheckpointSaverHook(CheckpointSaverHook):
    """Saves checkpoints as CheckpointSaverHook does, but writes the files in the background.

    Args:
      checkpoint_dir: Directory of the checkpoints.
      save_secs: Seconds between two checkpoints.
      save_steps: Global steps between two checkpoints. Exactly one of the two must be given.
      saver: The Saver to use.
      checkpoint_basename: Base name of the checkpoint files.
      scaffold: A Scaffold that has the saver. At most one of this and `saver` may be given; if neither is, the
        graph's collection of savers must hold exactly one.
      listeners: CheckpointSaverListeners. `before_save` is called before the variables are read. `after_save` is called
        when the file is written: on the thread that runs the steps, after the next step, or at the end; what it returns
        is heeded then.
      save_graph_def: Whether to write `graph.pbtxt` and a meta graph with each checkpoint.
      save_on_error: As CheckpointSaverHook.
      when_busy: What to do when it is time for a checkpoint and the last one is still being written. "wait": wait for
        it. "skip": go on, and save after the step in which that write is found to be complete.

    Raises:
      ValueError: Arguments that exclude each other were given, or none of them; `when_busy` is neither.

    A step that triggers reads the variables and goes on. The file is TensorFlow's own, written by the Saver, and so are the
    `checkpoint` file, which names a checkpoint only once it is complete, and the deletion of old ones. A write that failed
    is a RuntimeError of the next step, or of `close`, with the path in its message and the reason in its `__cause__`. The
    last step is saved before the session is closed. While a file is written, one copy of the variables is held.

    What cannot be read first and written later is saved by the step that triggers; a log line says why: sessions on a
    server, savers with a `save` of their own, save ops or variables of kinds that TensorFlow does not feed.
    """

    # The write that is under way, or complete and not delivered yet. Set by `dict.setdefault`, so by one thread.
    _write: Any = None
    _when_busy = "wait"
    # Whether a checkpoint that was due was skipped, or could not be written, and no other was saved since.
    _due = False
    # Whether a listener asked for a stop when nobody could be told.
    _stop = False
    # How to read what a saver of a session saves, as (session, saver, _Reader); None: not looked at yet.
    _known: Any = None

    def __init__(self, checkpoint_dir: str, save_secs: float | None = None, save_steps: int | None = None,
                 saver: Any = None, checkpoint_basename: str = "model.ckpt",
                 scaffold: tensorflow_train.Scaffold | None = None,
                 listeners: Sequence[tensorflow_train.CheckpointSaverListener] | None = None,
                 save_graph_def: bool = True, *, save_on_error: bool = False,
                 when_busy: Literal["wait", "skip"] = "wait") -> None:
        if when_busy not in _WHEN_BUSY:
            raise ValueError(f"when_busy must be one of {_WHEN_BUSY}; got {when_busy!r}.")
        super().__init__(checkpoint_dir, save_secs, save_steps, saver, checkpoint_basename, scaffold, listeners,
                         save_graph_def, save_on_error=save_on_error)
        self._when_busy = when_busy

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_write", "_known")}

    def begin(self) -> None:
        """Opens the writer; see `tf.compat.v1.train.SessionRunHook`."""
        # A session before this one told in the log what could not be written; this one has its own checkpoints.
        write = self.__dict__.pop("_write", None)
        if write is not None:
            write.wait()
        _Delivery.remove(self)
        self._due = self._stop = False
        super().begin()

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Writes the graph and begins the first checkpoint; see `tf.compat.v1.train.SessionRunHook`."""
        if not self._save_on_error:
            self._watch_closing(session, coord)
        stop = self._stop
        super().after_create_session(session, coord)
        self._stop = stop
        write = self._write
        if write is not None:
            # TensorFlow does not listen to what listeners say of the first checkpoint.
            write.heeds_listeners = False

    def end(self, session: Any) -> None:  # type: ignore[override]
        """Waits for the checkpoint under way and saves the last step, if it was not."""
        if not _KNOWN:
            super().end(session)
            return
        try:
            self._deliver()
        except Exception:
            # The last step is to be saved whatever became of the checkpoint before it.
            try:
                self._save_last(session)
            except Exception as error:
                logging.error("The last checkpoint in %s could not be written either: %s", self._checkpoint_dir, error)
            raise
        step = self._save_last(session)
        for listener in self._listeners:
            listener.end(session, step)
        self._closing = self._known = None
        writers.settle(self)

    def _save_last(self, session):
        step = session.run(self._global_step_tensor)
        if self._is_unsaved(step):
            self._save_now(session, step)
        return step

    def _session_closes(self, session):
        # In order: the file, what listeners are owed for it, the state after an error. The session is open until then.
        write = self._write
        if write is not None:
            write.wait()
            # A failure was logged; if the session recovers, its next step raises it.
            if write.error is not None:
                write.session = None
            else:
                try:
                    self._stop = self._deliver()
                except Exception as error:
                    logging.error("A CheckpointSaverListener failed after checkpoint %s: %s", write.path, error, exc_info=True)
        super()._session_closes(session)
        self._known = None

    def _is_unsaved(self, step):
        return self._due or super()._is_unsaved(step)

    def _save_now(self, session, step):
        should_stop = super()._save(session, step)
        self._due = False
        return should_stop

    def _save(self, session, step):
        """Begins a checkpoint; returns should_stop."""
        write = self._write
        if write is not None and self._when_busy == "skip" and not write.done.is_set():
            logging.info("No checkpoint for %d yet: %s is still being written.", step, write.path)
            self._due = True
            return False
        should_stop = self._deliver()
        reader = self._reader(session)
        if reader.refusal is not None:
            return self._save_now(session, step) or should_stop
        logging.info("Calling checkpoint listeners before saving checkpoint %d...", step)
        for listener in self._listeners:
            listener.before_save(session, step)
        logging.info("Saving checkpoints for %d into %s.", step, self._save_path)
        write = _Write(self, session, step, f"{self._save_path}-{step}")
        while self.__dict__.setdefault("_write", write) is not write:
            should_stop = self._deliver() or should_stop
        try:
            snapshot = reader.read()
            saver, path, with_graph = self._get_saver(), self._save_path, self._save_graph_def
            part = session if snapshot is None else _SnapshotSession(session, snapshot)
            begin = write.run if snapshot is None else write.start
            begin(lambda: saver.save(part, path, global_step=step, write_meta_graph=with_graph),
                  lambda: _Delivery(self))
        except BaseException:
            self.__dict__.pop("_write", None)
            write.done.set()
            raise
        self._due = False
        return should_stop

    def _reader(self, session):
        saver = self._get_saver()
        is_stock = _has_stock_save(saver)  # it may be given another at any time
        if self._known is None or self._known[0] is not session or self._known[1] is not saver or self._known[2] != is_stock:
            reader = _Reader(session, saver)
            if reader.refusal is not None:
                logging.warning("Checkpoints in %s are saved by the steps that trigger, not in the background: %s.",
                                self._checkpoint_dir, reader.refusal)
            self._known = session, saver, is_stock, reader
        return self._known[3]

    def _deliver(self):
        # Waits for the write, if there is one, and does what is left to do on this thread; returns should_stop.
        should_stop, self._stop = self._stop, False
        write = self._write
        if write is None:
            return should_stop
        write.wait()
        # In this order: as long as there is this write, no other can be announced.
        _Delivery.remove(self)
        if self.__dict__.pop("_write", None) is not write:
            return should_stop  # another thread delivers it
        if write.error is not None:
            self._due = True
            raise RuntimeError(f"The checkpoint {write.path} could not be written: {write.error}") from write.error
        self._summary_writer.add_session_log(
            SessionLog(status=SessionLog.CHECKPOINT, checkpoint_path=self._save_path), write.step)
        logging.info("Calling checkpoint listeners after saving checkpoint %d...", write.step)
        for listener in self._listeners:
            if listener.after_save(write.session, write.step):
                logging.info("A CheckpointSaverListener requested that training be stopped. listener: %s", listener)
                should_stop = should_stop or write.heeds_listeners
        return should_stop


class _Write:
    """One checkpoint on its way to the disk.

    Args:
      hook: Whose checkpoint it is.
      session: The raw session whose variables are saved.
      step: Their global step.
      path: What to call the checkpoint in messages.
    """

    def __init__(self, hook, session, step, path):
        self._hook = hook
        self.session = session
        self.step = step
        self.path = path
        self.error = None
        self.heeds_listeners = True
        self.done = threading.Event()
        self._thread = None
        background.tell_of_forks(self)

    def forget_thread(self):
        """Leaves the file, and what listeners are owed for it, to the parent; in a child of a fork."""
        if self._hook._write is self:
            self._hook.__dict__.pop("_write")
            _Delivery.remove(self._hook)

    def start(self, save, announce):
        # Not a daemon: an interpreter that exits waits for the file.
        thread = threading.Thread(target=self.run, args=(save, announce), name="fasthooks-checkpoint", daemon=False)
        if background.start(thread):
            self._thread = thread
        else:
            self.run(save, announce)

    def wait(self):
        self.done.wait()
        if self._thread is not None:
            self._thread.join()

    def run(self, save, announce):
        try:
            # The default graph is one per thread; without one the Saver takes this for an eager program.
            with self.session.graph.as_default():
                save()
        except BaseException as error:
            self.error = error
            logging.error("The checkpoint %s could not be written: %s", self.path, error)
        try:
            announce()
        finally:
            self.done.set()


class _Delivery(OnceAfterStep):
    """Does what is left to do for a write that is complete."""

    def act(self, run_context, run_values):
        hook = self._hook
        if hook._deliver():
            run_context.request_stop()
        self.call_usual(run_context, run_values)
        if hook._due:
            session = run_context.session
            step = session.run(hook._global_step_tensor)
            hook._timer.update_last_triggered_step(step)
            if hook._save(session, step):
                run_context.request_stop()

    @classmethod
    def remove(cls, hook):
        delivery = cls.of(hook)
        if delivery is not None:
            delivery.withdraw()


class _SnapshotSession(_live.Counted, session_lib.SessionInterface):
    """A session whose save ops see values that were fetched before."""

    # Kernels run in the background thread itself: the session's pool is for the steps.
    _OPTIONS = config_pb2.RunOptions(inter_op_thread_pool=-1)

    def __init__(self, session, snapshot):
        self._session = session
        self._snapshot = snapshot

    @property
    def graph(self):
        return self._session.graph

    @property
    def sess_str(self):
        return self._session.sess_str

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        return self._session.run(fetches, {**(feed_dict or {}), **self._snapshot}, options or self._OPTIONS, run_metadata)


def _has_stock_save(saver):
    return isinstance(saver, saver_lib.Saver) and type(saver).save is _stock_save and "save" not in vars(saver)


class _Reader:
    """Reads what the save ops of one Saver read.

    Attributes:
      refusal: Why that cannot be done; None: it can.
    """

    def __init__(self, session, saver):
        self._session = session
        self._tensors: list[Any] = []
        # The tensors whose fetched values do not change, and the version of the graph in which that was found.
        self._lasting: set[Any] = set()
        self._version = None
        self.refusal = self._look(session, saver)
        if self.refusal is None:
            self._fetch = session._make_callable_from_options(
                config_pb2.CallableOptions(fetch=[tensor.name for tensor in self._tensors]))

    def _look(self, session, saver):
        if not _KNOWN:
            return "the code of TensorFlow's CheckpointSaverHook is not known"
        if not isinstance(session, session_lib.BaseSession):
            return f"the session is a {type(session).__name__}"
        if session.sess_str:
            return f"the session runs on the server {session.sess_str!r}"
        if not _has_stock_save(saver) or saver.saver_def is None:
            return f"the saver, a {type(saver).__name__}, saves in its own way, or has nothing to save"
        graph = session.graph
        ops = [graph.get_tensor_by_name(saver.saver_def.save_tensor_name).op]
        seen = set(ops)
        tensors = {}
        for op in ops:  # grows meanwhile
            first = _SAVE_OPS.get(op.type)
            if first is None and op.type not in _MERGE_OPS and (op.op_def is None or op.op_def.is_stateful):
                return f"{op.name} ({op.type}) is not one of TensorFlow's save ops"
            for tensor in op.inputs[first:] if first else ():
                if tensor.dtype.base_dtype in (dtypes.variant, dtypes.resource):
                    return f"{tensor.name} is a {tensor.dtype.base_dtype.name}"
                if not graph.is_feedable(tensor) or not graph.is_fetchable(tensor):
                    return f"{tensor.name} cannot be fed or fetched"
                tensors[tensor.ref()] = tensor
            for other in [tensor.op for tensor in op.inputs[:first]] + list(op.control_inputs):
                if other not in seen:
                    seen.add(other)
                    ops.append(other)
        self._tensors = list(tensors.values())
        return None

    def read(self):
        """Returns a dict of tensor to value, all read in one run; None: a value could not be fed."""
        try:
            values = self._fetch()
        except errors.OpError:
            # Says which op it was.
            values = self._session.run(self._tensors)
        graph = self._session.graph
        if graph.version != self._version:
            self._version = graph.version
            self._lasting = lasting_values.with_lasting_values(graph, self._tensors)
        snapshot = {}
        for i, tensor in enumerate(self._tensors):
            value = values[i]
            # Strings are Python objects of the fetched array's own; scalars are NumPy's.
            if isinstance(value, np.ndarray) and not value.dtype.hasobject and tensor.ref() not in self._lasting:
                value = feeds.aligned_copy(value)
            if not tensor.shape.is_compatible_with(np.shape(value)):  # a variable assigned without validate_shape
                return None
            snapshot[tensor] = value
            values[i] = None
        return snapshot
