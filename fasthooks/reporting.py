"""How the steps of a session went: `report`."""

from typing import Any

from fasthooks import plain_session
from fasthooks.step import _chain, declining
from fasthooks.types import Report


def report(session: Any) -> Report:
    """Tells how the steps of a session went, since its last recovery.

    Args:
      session: One of our monitored sessions; one of TensorFlow's with a hook of ours, or while `patch` is in force; a session
        that was given to `accelerate`; or a link of the chain of one of these.

    Raises:
      RuntimeError: The session is closed, or is being recovered.
      TypeError: No step of it was run by fasthooks, nor will be as things are.
    """
    link = session
    while link is not None:
        if isinstance(link, (_chain.HookedSessionBase, plain_session.Accelerated)):
            return link.report()
        found = _chain.attached_report(link)
        if found is not None:
            return found
        inner = getattr(link, "_sess", link)
        if inner is link:
            why = "" if _chain.knows_hooked_session() else f": {declining.CODE_UNKNOWN}"
            raise TypeError(f"fasthooks has run no step of {session!r}{why}.")
        link = inner
    raise RuntimeError("The session is closed, or is being recovered.")
