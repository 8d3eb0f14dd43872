"""Compiled steps for programs that never heard of fasthooks.

One function is replaced, `_HookedSession.run`: every monitored session, every estimator and every hooked session that a
framework builds by itself runs its steps through it. It is replaced on the class, so names that were imported before
and sessions that exist already take part. What it does is the dispatcher's, as in our own sessions; see `session.py`.
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

_HookedSession = monitored_session._HookedSession
_NAME = f"{monitored_session.__name__}.{_HookedSession.__name__}.run"

_lock = threading.RLock()
_original: Any = None  # TensorFlow's own function; None: ours was never put in its place
_installed = False  # ours stands on the class, or did until somebody put another there
_active = False  # ours does something; else it passes on to the original
# Calls of `patch` that no `with` has taken over, and `with` blocks that are open.
_standing = 0
_entered = 0


def _run(self, fetches, feed_dict=None, options=None, run_metadata=None):
    if _active:
        return _chain.run_hooked(self, fetches, feed_dict, options, run_metadata, _original)
    return _original(self, fetches, feed_dict, options, run_metadata)


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
    global _original, _installed, _active
    if not _may_replace(tensorflow.__version__):
        return
    current = _HookedSession.run
    if _guard.is_defined_in(current, monitored_session):
        _original = current
        functools.update_wrapper(_run, current)
        _guard.stand_in(_run, current)
        _HookedSession.run = _run
        _installed = True
    elif not _installed:
        logging.warning("fasthooks.patch: another package has put %r in the place of %s; it stays.", current, _NAME)
    _active = _installed


def _restore():
    global _installed, _active
    _active = False
    if _HookedSession.run is _run:
        _HookedSession.run = _original
        _installed = False


class Patch:
    """What `patch` returns: as a context manager, undoes it at the end of the block."""

    def __enter__(self) -> "Patch":
        global _standing, _entered
        with _lock:
            _standing = max(_standing - 1, 0)
            _entered += 1
            _install()
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None,
                 traceback: types.TracebackType | None) -> None:
        global _entered
        with _lock:
            _entered = max(_entered - 1, 0)
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
    global _standing, _entered
    with _lock:
        _standing = _entered = 0
        _restore()


def patched() -> dict[str, Callable[..., Any]]:
    """Returns what is replaced now: a dict of qualified name to TensorFlow's own object; empty if nothing is."""
    with _lock:
        return {_NAME: _original} if _active else {}
