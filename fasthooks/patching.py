"""Compiled steps for programs that use TensorFlow's sessions: `patch` for all of them, adoption for those with our hooks.

`_HookedSession.run` is replaced: every monitored session, every estimator and every hooked session that a framework
builds by itself runs its steps through it. It is replaced on the class, so names that were imported before and sessions
that exist already take part. What it does is the dispatcher's, as in our own sessions; see `session.py`.
`_WrappedSession.close` is replaced beside it, to drop the plans: a closed session may be held for long.

Both are in place while `patch` is in force, for all sessions, and from the first use of a hook of ours on, for sessions whose
hooks list holds one. Other sessions pass through them to TensorFlow's own.
"""

import functools
import os
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow
from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import monitored_session
from tensorflow.python.training.session_run_hook import SessionRunHook

from fasthooks import _chain, _guard, recognition, shapes

_lock = threading.RLock()
# Calls of `patch` that no `with` has taken over, and `with` blocks that are open.
_standing = 0
_entered = 0
_unpatched = 0  # calls of `unpatch`
_may_adopt = os.environ.get("FASTHOOKS_ADOPT") != "0"
_has_hooks = False  # a hook of ours is in use
# Which sessions our functions serve; for the others they pass on to the originals.
_serves_all = _serves_ours = False


class _Replacement:
    """A method of one of TensorFlow's classes and ours for it.

    Args:
      cls: The class.
      function: Ours. It has the method's name and calls `original` of this object, or does what that does.
    """

    original: Any = None  # TensorFlow's own; None: ours was never put in its place
    installed = False  # ours stands on the class, or did until somebody put another there

    def __init__(self, cls, function):
        self.cls = cls
        self.function = function
        self.method = function.__name__
        self.name = f"{cls.__module__}.{cls.__qualname__}.{self.method}"

    def install(self):
        """Puts ours in the place of TensorFlow's own; leaves what another package has put there."""
        current = getattr(self.cls, self.method)
        if _guard.is_own_method(self.cls, self.method, current, monitored_session):
            self.original = current
            functools.update_wrapper(self.function, current)
            _guard.stand_in(self.function, current)
            setattr(self.cls, self.method, self.function)
            self.installed = True

    def restore(self):
        """Puts TensorFlow's own back, unless somebody has put another over ours."""
        if getattr(self.cls, self.method) is self.function:
            setattr(self.cls, self.method, self.original)
            self.installed = False


def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
    if _serves_all or (_serves_ours and _chain.holds_instance(self, OurHook)):
        return _chain.run_hooked(self, fetches, feed_dict, options, run_metadata, _run.original)
    return _run.original(self, fetches, feed_dict, options, run_metadata)


def close(self):
    try:
        return _close.original(self)
    finally:
        _chain.detach(self)


_run = _Replacement(monitored_session._HookedSession, run)
_close = _Replacement(monitored_session._WrappedSession, close)
_REPLACEMENTS = (_run, _close)


@functools.cache
def _may_replace(version):
    """Tells whether the hooked step may be replaced under this TensorFlow; hooks that changed lose their triggers."""
    if shapes.is_tested(version):
        return True
    changed = shapes.changed()
    for name in changed & shapes.HOOKS:
        recognition.distrust(name)
    finding = "what fasthooks replaces has not changed"
    if changed:
        finding = f"it has changed {', '.join(sorted(changed))}, which fasthooks leaves alone"
    warnings.warn(f"fasthooks is not tested with TensorFlow {version}; {finding}.", RuntimeWarning, stacklevel=5)
    return changed <= shapes.HOOKS


def _update(patches, adopts):
    """Puts our functions in place or takes them away, as these two want it: `patch`, and a hook of ours."""
    global _serves_all, _serves_ours
    wanted = (patches or adopts) and _may_replace(tensorflow.__version__)
    for replacement in _REPLACEMENTS:
        if wanted:
            replacement.install()
        else:
            replacement.restore()
    _serves_all = wanted and patches and _run.installed
    _serves_ours = wanted and adopts and _run.installed


def _patches():
    return bool(_standing or _entered)


def _adopts():
    return _may_adopt and _has_hooks


def _install_patch():
    _update(True, _adopts())
    for replacement in _REPLACEMENTS:
        if not replacement.installed:
            logging.warning("fasthooks.patch: another package has put %r in the place of %s; it stays.",
                            getattr(replacement.cls, replacement.method), replacement.name)


class OurHook(SessionRunHook):
    """Base of all our hooks: a session of TensorFlow's own whose hooks list holds one runs compiled steps."""

    def begin(self):
        """Called before the session is made; see `tf.compat.v1.train.SessionRunHook`."""
        if _may_adopt and not _serves_ours:
            _meet_hook()
        super().begin()


def meet_late_hook():
    """Is called by our hooks in `before_run`: one that joins the list of a living session is told nothing earlier."""
    if _may_adopt and not _has_hooks:
        _meet_hook()


def _meet_hook():
    global _has_hooks
    with _lock:
        _has_hooks = True
        _update(_patches(), True)


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
        _update(_patches(), _adopts())


class Patch:
    """What `patch` returns: as a context manager, undoes it at the end of the block."""

    _stands = True  # counted in `_standing`
    _entries = 0  # blocks of this object that are counted in `_entered`
    _generation = -1  # of these blocks: `unpatch` ends all that are older

    def __enter__(self) -> "Patch":
        global _standing, _entered
        with _lock:
            _install_patch()
            if self._generation != _unpatched:
                self._entries, self._generation = 0, _unpatched
            if self._stands:
                self._stands = False
                _standing = max(_standing - 1, 0)
            self._entries += 1
            _entered += 1
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        global _entered
        with _lock:
            if self._generation == _unpatched and self._entries:
                self._entries -= 1
                _entered -= 1
                _update(_patches(), _adopts())


def patch() -> Patch:
    """Makes TensorFlow's own sessions run compiled steps, with compiled triggers for the stock hooks.

    Holds for all sessions and threads of the process, those that exist included, until `unpatch`; or, in
    `with fasthooks.patch():`, until the last such block ends. Calling it again changes nothing. A function that another
    package has put in TensorFlow's place before is left there; one that is put over ours later keeps ours beneath it.

    Returns:
      A context manager.

    Warns:
      RuntimeWarning: This TensorFlow version is not a tested one. Only what is unchanged in it is replaced.
    """
    global _standing
    with _lock:
        _install_patch()
        _standing += 1
    return Patch()


def unpatch() -> None:
    """Undoes `patch`, open `with` blocks included. What somebody has put over ours since stays, ours then passes on."""
    global _standing, _entered, _unpatched
    with _lock:
        _standing = _entered = 0
        _unpatched += 1
        _update(False, _adopts())


class Replaced(NamedTuple):
    """A method of TensorFlow's that is replaced: its own function, and why it is."""

    original: Callable[..., Any]
    reason: str


def patched() -> dict[str, Replaced]:
    """Returns what is replaced now, and why: a dict of qualified name to Replaced; empty if nothing is."""
    with _lock:
        reasons = [*["fasthooks.patch()"] * _serves_all, *["a hook of fasthooks is in use"] * _serves_ours]
        return {one.name: Replaced(one.original, ", ".join(reasons)) for one in _REPLACEMENTS if one.installed and reasons}
