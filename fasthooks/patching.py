"""Compiled steps for programs that never heard of fasthooks.

`_HookedSession.run` is replaced: every monitored session, every estimator and every hooked session that a framework
builds by itself runs its steps through it. It is replaced on the class, so names that were imported before and sessions
that exist already take part. What it does is the dispatcher's, as in our own sessions; see `session.py`.
`_WrappedSession.close` is replaced beside it, to drop the plans: a closed session may be held for long.
"""

import functools
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow
from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import monitored_session

from fasthooks import _chain, _guard, hooks, shapes
from fasthooks import session as _session  # noqa: F401  tells the dispatcher how to find the triggers of hooks

_lock = threading.RLock()
_active = False  # our functions do something; else they pass on to the originals
# Calls of `patch` that no `with` has taken over, and `with` blocks that are open.
_standing = 0
_entered = 0
_unpatched = 0  # calls of `unpatch`


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
        current = getattr(self.cls, self.method)
        if _guard.is_own_method(self.cls, self.method, current, monitored_session):
            self.original = current
            functools.update_wrapper(self.function, current)
            _guard.stand_in(self.function, current)
            setattr(self.cls, self.method, self.function)
            self.installed = True
        elif not self.installed:
            logging.warning("fasthooks.patch: another package has put %r in the place of %s; it stays.", current, self.name)

    def restore(self):
        if getattr(self.cls, self.method) is self.function:
            setattr(self.cls, self.method, self.original)
            self.installed = False


def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
    if _active:
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
        hooks.distrust(name)
    finding = "what fasthooks replaces has not changed"
    if changed:
        finding = f"it has changed {', '.join(sorted(changed))}, which fasthooks leaves alone"
    warnings.warn(f"fasthooks is not tested with TensorFlow {version}; {finding}.", RuntimeWarning, stacklevel=4)
    return changed <= shapes.HOOKS


def _install():
    global _active
    if _may_replace(tensorflow.__version__):
        for replacement in _REPLACEMENTS:
            replacement.install()
        _active = _run.installed


def _restore():
    global _active
    _active = False
    for replacement in _REPLACEMENTS:
        replacement.restore()


class Patch:
    """What `patch` returns: as a context manager, undoes it at the end of the block."""

    _stands = True  # counted in `_standing`
    _entries = 0  # blocks of this object that are counted in `_entered`
    _generation = -1  # of these blocks: `unpatch` ends all that are older

    def __enter__(self) -> "Patch":
        global _standing, _entered
        with _lock:
            if self._generation != _unpatched:
                self._entries, self._generation = 0, _unpatched
            if self._stands:
                self._stands = False
                _standing = max(_standing - 1, 0)
            self._entries += 1
            _entered += 1
            _install()
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        global _entered
        with _lock:
            if self._generation == _unpatched and self._entries:
                self._entries -= 1
                _entered -= 1
                if not _standing and not _entered:
                    _restore()


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
        _standing += 1
        _install()
    return Patch()


def unpatch() -> None:
    """Undoes `patch`, open `with` blocks included. What somebody has put over ours since stays, ours then passes on."""
    global _standing, _entered, _unpatched
    with _lock:
        _standing = _entered = 0
        _unpatched += 1
        _restore()


def patched() -> dict[str, Callable[..., Any]]:
    """Returns what is replaced now: a dict of qualified name to TensorFlow's own object; empty if nothing is."""
    with _lock:
        return {one.name: one.original for one in _REPLACEMENTS if one.installed} if _active else {}
