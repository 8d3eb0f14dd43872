"""What a hook has to do after its next step because of something that another thread found out."""

import os
import threading
from typing import Any, TypeVar

from fasthooks.rebinding import class_method
from fasthooks.tensorflow_train import SessionRunContext, SessionRunValues

_Waiting = TypeVar("_Waiting", bound="OnceAfterStep")
_lock = threading.RLock()
# A child of a fork gets no lock that nobody releases.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class OnceAfterStep:
    """Is called once in the place of a hook's `after_run`; derive from it and say in `act` what it does.

    It is set on the hook object, where sessions look `after_run` up anew on each step, so waiting costs other steps nothing.
    A method that somebody set there before (a mock) comes back afterwards. Several may wait for one hook, the last one on top.

    Args:
      hook: Whose next step it is. Not one with slots.
    """

    def __init__(self, hook: Any) -> None:
        self._hook = hook
        self._waits = True
        with _lock:
            self._replaced = vars(hook).get("after_run")
            hook.after_run = self

    @classmethod
    def of(cls: type[_Waiting], hook: Any) -> _Waiting | None:
        """Returns the object of this class that waits for the hook's next step; None: there is none."""
        found = vars(hook).get("after_run")
        while isinstance(found, OnceAfterStep) and not (found._waits and isinstance(found, cls)):
            found = found._replaced
        return found if isinstance(found, cls) else None

    def withdraw(self) -> bool:
        """Ends the waiting. Returns whether it did: if not, this thread or another one has done so before."""
        with _lock:
            waited, self._waits = self._waits, False
            found = top = vars(self._hook).get("after_run")
            while isinstance(found, OnceAfterStep) and not found._waits:
                found = found._replaced
            if found is None and top is not None:
                del self._hook.after_run
            elif found is not top:
                self._hook.after_run = found
        return waited

    def act(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Is called with the arguments of `after_run`, in its place."""
        raise NotImplementedError

    def call_usual(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Calls the `after_run` that this stands in the place of."""
        if self._replaced is not None:
            self._replaced(run_context, run_values)
            return
        # Not `hook.after_run`: that may be a wrapper that was put around this object.
        class_method(self._hook, "after_run")(run_context, run_values)

    def __call__(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        # It does not wait if somebody has put a wrapper around it that is still there, or has put it back.
        (self.act if self.withdraw() else self.call_usual)(run_context, run_values)
