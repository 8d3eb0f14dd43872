"""SaveOnSignalHook: a signal ends the training after the step in flight, with a checkpoint of that step.

Two handlers work together while a session with such a hook is open. The compiled one of `_interrupt` notes the first
signal and lets a second one end the process even where TensorFlow does not return. A `_Handler`, installed through
Python's `signal` module, makes the handler visible there, takes what the compiled one passes on, and does its work
alone where another library has saved and restored Python's handlers meanwhile.
"""

import _thread
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

from tensorflow.python.framework import errors, ops
from tensorflow.python.lib.io import file_io
from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import training_util
from tensorflow.python.training.basic_session_run_hooks import CheckpointSaverHook

from fasthooks import background
from fasthooks.hooks.base import PerStepMethods
from fasthooks.tensorflow_train import SessionRunContext, SessionRunHook, SessionRunValues
from fasthooks.triggers import _guard, _interrupt, recognition

_ERRORS = errors.OpError.__init__.__code__.co_filename
# In the number of a signal: it is to be handled once more.
_AGAIN = 128
# Those of the open sessions, and the thread that serves them.
_watches: list["_Watch"] = []
_waker: Any = None


class _Handler:
    """Stands in Python's table for one signal, once installed, and knows what stood there before.

    One for each installation: a handler of the program's own that was put over this one may pass signals on to it for
    ever, also from below the next one.
    """

    def __init__(self, number):
        self.number = number
        self.previous = signal.getsignal(number)
        self.action = _interrupt.Action(number)

    def __call__(self, number, frame):
        if _interrupt.note(number):
            return
        waker = _waker
        if waker is not None:
            waker.is_handled = True
        if waker is not None and _makes_error(frame):
            # C++ has TensorFlow make the error of the cancelled step, and would lose the handler's exception.
            os.write(waker.pipe, bytes([_AGAIN | number]))
        elif callable(self.previous) and (self.action.is_pythons or _interrupt.is_overridden(number)):
            # If overridden, the handler in C has passed the signal on.
            self.previous(number, frame)
        else:
            self.action.put_back()
            signal.raise_signal(number)

    def put_back(self):
        # A handler that C code installed meanwhile stays.
        action = _interrupt.Action(self.number) if _interrupt.is_overridden(self.number) else self.action
        signal.signal(self.number, self.previous)
        action.put_back()


def _makes_error(frame):
    # Whether TensorFlow is making an error: also where a handler that was called in there is interrupted itself.
    while frame is not None and frame.f_code.co_filename != _ERRORS:
        frame = frame.f_back
    return frame is not None


def _watch_all():
    # Tells the compiled handler.
    watched = {number for watch in _watches for number in watch.numbers}
    _interrupt.watch(watched)
    return watched


class _Waker(threading.Thread):
    """Makes a step return for a KeyboardInterrupt that was asked for while the main thread is inside TensorFlow.

    Closing the session is the one way to cancel a blocked step. The KeyboardInterrupt takes the place of the error that
    the step returns with.
    """

    def __init__(self):
        super().__init__(name="SaveOnSignalHook", daemon=True)
        self.is_handled = False     # the main thread has called the `_Handler`
        self.passed_on, self.pipe = os.pipe()
        os.set_blocking(self.pipe, False)

    def run(self):
        while number := os.read(self.passed_on, 1)[0]:
            handler = signal.getsignal(number & ~_AGAIN)
            if number & _AGAIN:
                time.sleep(0.001)
                _thread.interrupt_main(signal.Signals(number & ~_AGAIN))
            elif isinstance(handler, _Handler) and handler.previous is signal.default_int_handler:
                # Python code is interrupted without that, and may go on to use its sessions.
                time.sleep(0.2)
                if not self.is_handled:
                    for watch in list(_watches):
                        watch.cancel()
            self.is_handled = False

    def stop(self):
        _interrupt.wake_through(-1)
        os.write(self.pipe, b"\0")
        if threading.current_thread() is not self and background.is_alive(self):
            self.join()
        self.close()

    def close(self):
        os.close(self.pipe)
        os.close(self.passed_on)


class _Watch:
    """The signals of one hook in one session, from its first step until it is closed or recovered.

    It stands among the coordinator's threads, never alive: the coordinator asks for them when the session closes, also
    after an error, of which hooks hear nothing.
    """

    name = "SaveOnSignalHook"

    def __init__(self, hook, session, numbers):
        self.hook = hook
        self.session = weakref.ref(session)
        self.numbers = numbers

    def start(self):
        """Begins to watch. Python lets only the main thread install a handler that is not there yet."""
        global _waker
        if _waker is None:
            waker = _Waker()
            if background.start(waker):
                _waker = waker
                _interrupt.wake_through(waker.pipe)
            else:
                waker.close()
        for number in self.numbers:
            handler = signal.getsignal(number)
            if not isinstance(handler, _Handler) or _interrupt.is_overridden(number):
                handler = _Handler(number)
                signal.signal(number, handler)
            _interrupt.take(number, handler.action)
        _watches.append(self)
        _watch_all()

    def stop(self):
        """Ends it. The previous handler of a signal that no other session watches is put back."""
        global _waker
        if self not in _watches:
            return
        self.hook.was_interrupted()
        _watches.remove(self)
        watched = _watch_all()
        # In another thread the handlers stay, and pass every signal on.
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                handler = signal.getsignal(number)
                if number not in watched and isinstance(handler, _Handler):
                    handler.put_back()
        if not _watches and _waker is not None:
            # Last: a KeyboardInterrupt that it was asked for may come here.
            _waker, waker = None, _waker
            waker.stop()

    def is_alive(self):
        self.stop()
        return False

    def cancel(self):
        session = self.session()
        if session is not None:
            session.close()


def _after_fork():
    # A child has none of the sessions, no such thread, and shares the pipe with its parent.
    if _waker is not None:
        _interrupt.wake_through(-1)
        _waker.stop = _waker.close
    for watch in list(_watches):
        watch.stop()


os.register_at_fork(after_in_child=_after_fork)


class _Saving(SessionRunHook):
    """What SaveOnSignalHook does; on a step, only once a signal was noted."""

    _signals: Any
    _saver_hook: Any
    _checkpoint_dir: Any
    received: Any
    look_for: Any
    opening: Any
    was_interrupted: Any

    def begin(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("SaveOnSignalHook can only be used in the main thread: signals are handled there.")
        for number in self._signals:
            if signal.getsignal(number) is None:
                raise ValueError(f"signals: {number.name} has a handler that was not installed from Python, which "
                                 "could not be put back; leave it out.")
        self._global_step_tensor = training_util._get_or_create_global_step_read()
        if self._global_step_tensor is None:
            raise RuntimeError("Global step should be created to use SaveOnSignalHook.")
        self.received = None
        self._saved_step = None

    def after_create_session(self, session: Any, coord: Any) -> None:
        self._check_saver(session.graph)
        ignored = [number for number in self._signals if _interrupt.Action(number).is_ignored]
        if ignored:
            logging.info("SaveOnSignalHook: this process ignores %s, and goes on doing so.",
                         ", ".join(number.name for number in ignored))
        numbers = {number for number in self._signals if number not in ignored}
        self.look_for(numbers)
        # From the first step on: there is nothing to save before, and another hook may keep the session from opening.
        self.opening = watch = _Watch(self, session, numbers)
        self._watch = watch if coord is None else None
        if coord is not None:
            coord.register_thread(watch)
            # For a session that is merely dropped, never closed.
            weakref.finalize(coord, watch.stop).atexit = False

    def before_run(self, run_context: SessionRunContext) -> Any:
        watch, self.opening = self.opening, None
        if watch is not None:
            watch.start()
            if self.received is not None:  # it was noted on a step that had to be recovered
                _interrupt.note(self.received)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        if self.was_interrupted():
            logging.info("SaveOnSignalHook: %s was received; saving and stopping.", signal.Signals(self.received).name)
            self._save_step(run_context.session)
            run_context.request_stop()

    def end(self, session: Any) -> None:
        # A CheckpointSaverHook saves at the end by itself.
        if self.was_interrupted() and self._saver_hook is None:
            self._save_step(session)
        if self._watch is not None:
            self._watch.stop()

    def _check_saver(self, graph):
        hook = self._saver_hook
        if hook is None:
            savers = graph.get_collection(ops.GraphKeys.SAVERS)
            if len(savers) != 1:
                raise RuntimeError(f"SaveOnSignalHook needs the graph to have one Saver in the collection "
                                   f"{ops.GraphKeys.SAVERS!r}, and it has {len(savers)}; give a CheckpointSaverHook in "
                                   "place of the directory.")
            self._saver = savers[0]
        elif getattr(getattr(hook, "_global_step_tensor", None), "graph", None) is not graph:
            raise RuntimeError("The CheckpointSaverHook given to SaveOnSignalHook must be among the session's hooks too.")

    def _save_step(self, session):
        step = session.run(self._global_step_tensor)
        hook = self._saver_hook
        if hook is not None:
            if step != hook._timer.last_triggered_step():
                hook._timer.update_last_triggered_step(step)
                hook._save(session, step)
        elif step != self._saved_step:
            self._saved_step = step
            path = os.path.join(self._checkpoint_dir, "model.ckpt")
            logging.info("Saving checkpoints for %d into %s.", step, path)
            file_io.recursive_create_dir(self._checkpoint_dir)
            self._saver.save(session, path, global_step=step)


class SaveOnSignalHook(PerStepMethods, _interrupt.InterruptTrigger, _Saving):
    """Saves a checkpoint and stops when the process is told to end.

    Args:
      checkpoint_saver_or_dir: A CheckpointSaverHook (TensorFlow's, ours or a subclass) among the session's hooks, whose
        directory, Saver and listeners are used and which does not save the step again; or a directory, into which the
        graph's Saver saves `model.ckpt-<step>`.
      signals: The signals, an iterable of numbers.

    Raises:
      TypeError: `checkpoint_saver_or_dir` is neither, or `signals` is not an iterable of numbers.
      ValueError: A signal does not exist or cannot be handled, none is given, or the directory's name is empty.

    The step that the signal comes in, or the one after it if it comes between two, is run to its end and saved; a stop
    is requested, so that the session ends as with any hook. `received` is the signal then, else None: a program that
    goes on after training can look at it. A second signal does at once what it did before the session: by default,
    SIGTERM ends the process and SIGINT raises KeyboardInterrupt, also while TensorFlow waits for input that does not
    come; the session is closed for that then. Signals that the process ignores stay ignored.

    Signals are watched from the session's first step on. The previous handlers are back when the session is closed, after
    an error too, also those that C code installed, as `faulthandler.register` does; `begin` refuses those older than the
    interpreter, which Python cannot put back. While a session is opened or recovered there is nothing to save, and a signal
    does what it did before. Children of a fork have the previous handlers. Of several hooks, in one session or nested ones,
    all that watch the signal save and stop. The hook stops its own session only: in a training with several workers each
    worker has to get the signal.

    Only for sessions in the main thread; elsewhere `begin` raises ValueError.
    """

    def __init__(self, checkpoint_saver_or_dir: Any,
                 signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT)) -> None:
        self._saver_hook = self._checkpoint_dir = None
        if isinstance(checkpoint_saver_or_dir, CheckpointSaverHook):
            self._saver_hook = checkpoint_saver_or_dir
        elif isinstance(checkpoint_saver_or_dir, (str, os.PathLike)):
            self._checkpoint_dir = os.fspath(checkpoint_saver_or_dir)
            if not self._checkpoint_dir:
                raise ValueError("checkpoint_saver_or_dir must not be empty.")
        else:
            raise TypeError("checkpoint_saver_or_dir must be a CheckpointSaverHook or a directory; got "
                            f"{checkpoint_saver_or_dir!r}.")
        self._signals = _checked(signals)


def _checked(signals):
    if isinstance(signals, (str, bytes)) or not isinstance(signals, Iterable):
        raise TypeError(f"signals must be an iterable of signal numbers; got {signals!r}.")
    checked = []
    for number in signals:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"signals must hold signal numbers; got {number!r}.")
        if number not in signal.valid_signals() or number in (signal.SIGKILL, signal.SIGSTOP):
            raise ValueError(f"signals must hold signals that a process can handle; got {number!r}.")
        checked.append(signal.Signals(number))
    if not checked:
        raise ValueError("signals must not be empty.")
    return tuple(checked)


recognition.know_hook(SaveOnSignalHook)
_guard.know(_Saving.before_run, _Saving.after_run)
