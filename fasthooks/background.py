"""Threads, where there are none any more: in the child of a fork, and while the interpreter ends."""

import os
import sys
import threading
import weakref
from typing import Any

# What belongs to threads; a child of a fork has none of them.
_owners: "weakref.WeakSet[Any]" = weakref.WeakSet()


def start(thread: threading.Thread) -> bool:
    """Starts a thread. Returns False if none can be started; the caller then does without."""
    # While it ends, Python 3.11 would wait for ever for the thread's first step.
    if not threading.main_thread().is_alive():
        return False
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def is_alive(thread: threading.Thread) -> bool:
    """Returns whether a daemon thread can still be waited for: an interpreter that ends stops it wherever it is."""
    return thread.is_alive() and not sys.is_finalizing()


def tell_of_forks(owner: Any) -> None:
    """Lets `owner.forget_thread()` be called in each child of a fork, as long as the owner lives."""
    _owners.add(owner)


def _after_fork():
    for owner in list(_owners):
        owner.forget_thread()


os.register_at_fork(after_in_child=_after_fork)
