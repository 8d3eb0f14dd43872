"""Compiled steps for programs that use TensorFlow's sessions: `patch` for all of them, adoption for those with our hooks.

`_HookedSession.run` is replaced: every monitored session, every estimator and every hooked session that a framework
builds by itself runs its steps through it. It is replaced on the class, so names that were imported before and sessions
that exist already take part. What it does is the dispatcher's, as in our own sessions; see `session.py`.
`_WrappedSession.close` is replaced beside it, to drop the plans: a closed session may be held for long. And so are
`_MonitoredSession.run` and `should_stop`, which each turn of a training's loop calls: down the links from there to the hooked
session they take a fifth of the turn.

All are in place while `patch` is in force, for all sessions, and from the first use of a hook of ours on, for sessions whose
hooks list holds one. Other sessions pass through them to TensorFlow's own. `patch` alone replaces methods of the stock hooks too,
those that write a line or an event when the hook acts, and those that open the writer: all hook objects then write by the short
way of ours. `patch(sessions=True)` replaces the constructors of plain sessions too.
"""

import functools
import itertools
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import basic_session_run_hooks as stock
from tensorflow.python.training import monitored_session

from fasthooks import global_step, known_tensorflow, plain_session
from fasthooks.output import stock_hooks, writers
from fasthooks.step import _chain
from fasthooks.tensorflow_train import SessionRunHook
from fasthooks.triggers import _guard

_HookedSession = monitored_session._HookedSession
_lock = threading.RLock()
# A child of a fork gets neither a lock that nobody releases nor a change half made.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_may_adopt = os.environ.get("FASTHOOKS_ADOPT") != "0"
_has_hooks = False  # a hook of ours is in use
# Which sessions our functions serve; for the others they pass on to the originals.
_serves_all = _serves_ours = _serves_plain = False
# Plain sessions that were accelerated when they were made.
_plain_sessions: "weakref.WeakSet[Any]" = weakref.WeakSet()


class _Demand:
    """Who wants something to be in force: calls of `patch` that no `with` has taken over, and `with` blocks that are open."""

    standing = entered = 0

    def __bool__(self):
        return bool(self.standing or self.entered)


_hooked, _plain, _read = _Demand(), _Demand(), _Demand()
_unpatched = 0  # calls of `unpatch`
# Constructs TensorFlow's monitored sessions, given its own constructor and the arguments; None: that alone does.
_construct: Callable[..., None] | None = None


class Replacement:
    """A method of one of TensorFlow's classes and ours for it.

    Args:
      cls: The class.
      method: The method's name.
      function: Ours. It calls `original` of this object, or does what that does.
    """

    original: Any = None  # TensorFlow's own; None: ours was never put in its place
    installed = False  # ours stands on the class, or did until somebody put another there

    def __init__(self, cls: type, method: str, function: Callable[..., Any]) -> None:
        self.cls = cls
        self.method = method
        self.function = function
        self.name = f"{cls.__module__}.{cls.__qualname__}.{method}"

    def install(self) -> None:
        """Puts ours in the place of TensorFlow's own; leaves what another package has put there."""
        current: Any = getattr(self.cls, self.method, None)
        if _guard.is_own_method(self.cls, self.method, current, sys.modules[self.cls.__module__]):
            self.original = current
            functools.update_wrapper(self.function, current)
            _guard.stand_in(self.function, current)
            setattr(self.cls, self.method, self.function)
            self.installed = True

    def stands(self) -> bool:
        """Returns whether ours stands on the class: a program that saved what was there before may have put that back."""
        return getattr(self.cls, self.method, None) is self.function

    def restore(self) -> None:
        """Puts TensorFlow's own back, unless somebody has put another over ours."""
        if self.stands():
            setattr(self.cls, self.method, self.original)
            self.installed = False


def _run_hooked(self: Any, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None) -> Any:
    if _serves_all or (_serves_ours and _chain.holds_instance(self, OurHook)):
        return _chain.run_hooked(self, fetches, feed_dict, options, run_metadata, _run.original)
    return _run.original(self, fetches, feed_dict, options, run_metadata)


def _run_monitored(self: Any, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None) -> Any:
    # Where somebody has put another `run` on the hooked session, over ours, the chain leads to that one.
    if (_serves_all or _serves_ours) and _HookedSession.run is _run_hooked:
        return _chain.run_monitored(self, fetches, feed_dict, options, run_metadata, None if _serves_all else OurHook,
                                    _run_all.original, _run.original)
    return _run_all.original(self, fetches, feed_dict, options, run_metadata)


def _should_stop(self: Any) -> bool:
    return _chain.should_stop(self, _ask_all.original)


def _close_wrapped(self: Any) -> Any:
    try:
        return _close.original(self)
    finally:
        _chain.detach(self)


def _log_and_record(self: Any, elapsed_steps: Any, elapsed_time: Any, global_step: Any) -> None:
    usual = types.MethodType(_record.original, self)
    if _serves_all:
        stock_hooks.log_and_record(usual, self, elapsed_steps, elapsed_time, global_step)
    else:
        usual(elapsed_steps, elapsed_time, global_step)


def _log_tensors(self: Any, tensor_values: Any) -> None:
    usual = types.MethodType(_log.original, self)
    if _serves_all:
        stock_hooks.log_tensors(usual, self, tensor_values)
    else:
        usual(tensor_values)


def _beginning(cls):
    def begin(self):
        replacement.original(self)
        if _serves_all:
            writers.speed_up(self)

    replacement = Replacement(cls, "begin", begin)
    return replacement


def _constructor(cls):
    def __init__(self, *args, **kwargs):
        replacement.original(self, *args, **kwargs)
        if _serves_plain and type(self) is cls:
            plain_session.accelerate(self)
            _plain_sessions.add(self)

    replacement = Replacement(cls, "__init__", __init__)
    return replacement


def _opening():
    def __init__(self, *args, **kwargs):
        if _read:
            global_step.colocate_read()
        construct = _construct
        if construct is None:
            replacement.original(self, *args, **kwargs)
        else:
            construct(replacement.original, self, *args, **kwargs)

    replacement = Replacement(monitored_session._MonitoredSession, "__init__", __init__)
    return replacement


_run = Replacement(_HookedSession, "run", _run_hooked)
_close = Replacement(monitored_session._WrappedSession, "close", _close_wrapped)
_run_all = Replacement(monitored_session._MonitoredSession, "run", _run_monitored)
_ask_all = Replacement(monitored_session._MonitoredSession, "should_stop", _should_stop)
_record = Replacement(stock.StepCounterHook, "_log_and_record", _log_and_record)
_log = Replacement(stock.LoggingTensorHook, "_log_tensors", _log_tensors)
_STEP = (_run, _close, _run_all, _ask_all)
_WRITES = (_record, _log, *map(_beginning, (stock.StepCounterHook, stock.SummarySaverHook)))
_CONSTRUCTORS = tuple(_constructor(cls) for cls in plain_session.CLASSES)
_OPENING = (_opening(),)


def _update():
    """Puts our functions in place or takes them away, as it is wanted now."""
    global _serves_all, _serves_ours, _serves_plain
    adopts = _may_adopt and _has_hooks
    steps = (_hooked or adopts) and _chain.knows_hooked_session()
    for replacements, wanted in ((_STEP, steps), (_WRITES, steps and _hooked), (_CONSTRUCTORS, _plain),
                                 (_OPENING, _read or _construct is not None)):
        for replacement in replacements:
            if wanted:
                replacement.install()
            else:
                replacement.restore()
    _serves_all = bool(steps and _hooked and _run.installed)
    _serves_ours = bool(steps and adopts and _run.installed)
    _serves_plain = bool(_plain)
    if not _serves_plain:
        for session in list(_plain_sessions):
            plain_session.restore(session)
        _plain_sessions.clear()


def construct_by(construct: Callable[..., None] | None) -> None:
    """Has a function construct TensorFlow's monitored sessions, called as `construct(original, session, *args, **kwargs)`.

    None: TensorFlow's own constructor, `original`, does so again.
    """
    global _construct
    with _lock:
        _construct = construct
        _update()


class OurHook(SessionRunHook):
    """Base of all our hooks: a session of TensorFlow's own whose hooks list holds one runs compiled steps."""

    def begin(self) -> None:
        """Called before the session is made; see `tf.compat.v1.train.SessionRunHook`."""
        if _may_adopt and not (_serves_ours and _run.stands()):
            _meet_hook()
        super().begin()


def meet_late_hook() -> None:
    """Is called by our hooks in `before_run`: one that joins the list of a living session is told nothing earlier."""
    if _may_adopt and not _has_hooks:
        _meet_hook()


def _meet_hook():
    global _has_hooks
    with _lock:
        _has_hooks = True
        _update()


def adopt(enable: bool = True) -> None:
    """Says whether our hooks bring compiled steps to sessions of TensorFlow's own; they do unless this says no.

    A `tf.compat.v1.train.MonitoredSession`, a `MonitoredTrainingSession`, an estimator's session or one that a framework
    builds from `_HookedSession` runs compiled steps, with compiled triggers for the stock hooks beside ours, as under
    `patch`, from the first run on which its hooks list holds a hook of ours. All other sessions run as they would.
    The environment variable `FASTHOOKS_ADOPT=0` does what `adopt(False)` does.

    Args:
      enable: False: our hooks are plain hooks in TensorFlow's sessions, at once and in all threads.
    """
    global _may_adopt
    with _lock:
        _may_adopt = enable
        _update()


class Patch:
    """What `patch` returns: as a context manager, undoes it at the end of the block."""

    _stands = True  # counted in the demands' `standing`
    _entries = 0  # blocks of this object that are counted in their `entered`
    _generation = -1  # of these blocks: `unpatch` ends all that are older

    def __init__(self, demands: tuple[_Demand, ...]) -> None:
        self._demands = demands

    def __enter__(self) -> "Patch":
        with _lock:
            if self._generation != _unpatched:
                self._entries, self._generation = 0, _unpatched
            for demand in self._demands:
                if self._stands:
                    demand.standing = max(demand.standing - 1, 0)
                demand.entered += 1
            self._stands = False
            self._entries += 1
            _update()
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        with _lock:
            if self._generation == _unpatched and self._entries:
                self._entries -= 1
                for demand in self._demands:
                    demand.entered -= 1
                _update()


def patch(*, sessions: bool = False, colocate_global_step_read: bool = False) -> Patch:
    """Makes TensorFlow's own sessions run compiled steps, with compiled triggers for the stock hooks.

    Holds for all sessions and threads of the process, those that exist included, until `unpatch`; or, in
    `with fasthooks.patch():`, until the last such block ends. Calling it again changes nothing. A function that another
    package has put in TensorFlow's place before is left there; one that is put over ours later keeps ours beneath it.

    Args:
      sessions: Whether plain sessions, `tf.compat.v1.Session` and `InteractiveSession`, are accelerated too, those that are
        made from now on, as `accelerate` does. At the end they are TensorFlow's again. Sessions of subclasses are left alone.
      colocate_global_step_read: Whether the hooks' read of the global step is made on the device that holds the step, in
        monitored sessions that are made from now on; see `MonitoredSession`.

    Returns:
      A context manager.

    Warns:
      RuntimeWarning: This TensorFlow version is not a tested one, or some of its code is not known. Only steps whose code is
        known are replaced.
    """
    wanted = {_hooked: _STEP, **({_plain: _CONSTRUCTORS} if sessions else {}),
              **({_read: _OPENING} if colocate_global_step_read else {})}
    with _lock:
        # First of all: where warnings are errors, nothing is in force then.
        known_tensorflow.check_version()
        for demand in wanted:
            demand.standing += 1
        _update()
        for replacement in itertools.chain(*wanted.values()):
            if not replacement.installed and (replacement not in _STEP or _chain.knows_hooked_session()):
                logging.warning("fasthooks.patch: another package has put %r in the place of %s; it stays.",
                                getattr(replacement.cls, replacement.method), replacement.name)
    return Patch(tuple(wanted))


def unpatch() -> None:
    """Undoes `patch`, open `with` blocks included. What somebody has put over ours since stays, ours then passes on."""
    global _unpatched
    with _lock:
        for demand in (_hooked, _plain, _read):
            demand.standing = demand.entered = 0
        _unpatched += 1
        _update()


class Replaced(NamedTuple):
    """A method of TensorFlow's that is replaced: its own function, and why it is."""

    original: Callable[..., Any]
    reason: str


def patched() -> dict[str, Replaced]:
    """Returns what is replaced now, and why: a dict of qualified name to Replaced; empty if nothing is."""
    with _lock:
        step_reasons = [*["fasthooks.patch()"] * _serves_all, *["a hook of fasthooks is in use"] * _serves_ours]
        reasons = {_STEP: ", ".join(step_reasons), _WRITES: "fasthooks.patch()" * _serves_all,
                   _CONSTRUCTORS: "fasthooks.patch(sessions=True)" * _serves_plain,
                   _OPENING: "fasthooks.patch(colocate_global_step_read=True)" * bool(_read)}
        return {one.name: Replaced(one.original, reason)
                for replacements, reason in reasons.items() for one in replacements if one.installed and reason}
