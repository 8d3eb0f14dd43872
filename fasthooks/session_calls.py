"""What a session's beginning and end cost: `begin`, `after_create_session` and `end` of its hooks, for a profile.

TensorFlow calls them in loops of its own, in three methods. While a profile is in force each of these is given another list for
the time of its loop, which hands out the same hooks and reads the clock meanwhile.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from tensorflow.python.training import monitored_session

from fasthooks import patching
from fasthooks.step import _profile

# Of the profile in force; None: nothing is timed.
_collector: _profile.Collector | None = None


class _TimedList(list):
    """A hooks list that takes the time of what the loop of one function does with each hook.

    Args:
      hooks: The list. It is live: what the loop does to it, the loop sees.
      owner: Whose `_hooks` this is until the loop ends; then it is `hooks`.
      function: The function. Others go through `hooks` as ever.
    """

    def __init__(self, hooks, owner, function):
        super().__init__(hooks)
        self.hooks, self.owner, self.code = hooks, owner, function.__code__
        self.calls = []  # (hook, place in the list, ns)

    def __iter__(self):
        return self._times() if sys._getframe(1).f_code is self.code else iter(self.hooks)

    def _times(self):
        try:
            for place, hook in enumerate(self.hooks):
                began = time.perf_counter_ns()
                try:
                    yield hook
                finally:  # the call may have raised
                    self.calls.append((hook, place, time.perf_counter_ns() - began))
        finally:
            self.leave()

    def leave(self):
        if getattr(self.owner, "_hooks", None) is self:
            self.owner._hooks = self.hooks

    def tell(self, collector, raw, method):
        for hook, place, ns in self.calls:
            collector.note_once(raw, hook, place, method, ns)


def _can_be_timed(hooks):
    return type(hooks) is list or type(hooks) is tuple


def _opened(construct, session, session_creator, hooks, *args, **kwargs):
    # In the place of TensorFlow's constructor, `construct`.
    collector = _collector
    if collector is None or not hooks or not _can_be_timed(hooks):
        construct(session, session_creator, hooks, *args, **kwargs)
        return
    timed = _TimedList(hooks, session, construct)
    construct(session, session_creator, timed, *args, **kwargs)
    timed.tell(collector, session._coordinated_creator.tf_sess, "begin")


def create(creator: Any, make: Callable[[Any], Any]) -> Any:
    """Returns `make(creator)`; `make` is TensorFlow's `create_session` of a creator of sessions with hooks, or a copy of it."""
    collector, hooks = _collector, creator._hooks
    if collector is None or not _can_be_timed(hooks):
        return make(creator)
    timed = creator._hooks = _TimedList(hooks, creator, make)
    try:
        session = make(creator)
    finally:
        timed.leave()
    collector.expect(creator.tf_sess)
    timed.tell(collector, creator.tf_sess, "after_create_session")
    return session


def create_session(self):
    return create(self, _create.original)


def _close_internal(self, exception_type=None):
    collector, hooks = _collector, getattr(self, "_hooks", None)
    if collector is None or not _can_be_timed(hooks):
        return _close.original(self, exception_type)
    raw = self._tf_sess()
    timed = self._hooks = _TimedList(hooks, self, _close.original)
    try:
        return _close.original(self, exception_type)
    finally:
        timed.leave()
        timed.tell(collector, raw, "end")


_create = patching.Replacement(monitored_session._MonitoredSession._CoordinatedSessionCreator, "create_session", create_session)
_close = patching.Replacement(monitored_session._MonitoredSession, "_close_internal", _close_internal)


def time_with(collector: _profile.Collector | None) -> None:
    """Has a collector told what these calls cost, of all monitored sessions; None: no one is."""
    global _collector
    _collector = collector
    patching.construct_by(None if collector is None else _opened)
    for replacement in (_create, _close):
        if collector is None:
            replacement.restore()
        else:
            replacement.install()


def forget() -> None:
    """Stops it in the child of a fork, where what is replaced may stay so."""
    global _collector
    _collector = None
