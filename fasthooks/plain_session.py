"""Prepared runs for plain sessions: `accelerate`."""

from typing import Any

from tensorflow.python.client import session as session_lib
from tensorflow.python.platform import tf_logging as logging

from fasthooks import _dispatch, _plan


class Accelerated:
    """What `accelerate` puts before TensorFlow's class of session."""

    _dispatcher: Any

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        """Runs operations and evaluates tensors; see `tf.compat.v1.Session.run`."""
        result = self._dispatcher.run_plain(fetches, feed_dict, options, run_metadata)
        if result is not None:
            return result[0]
        return super().run(fetches, feed_dict, options, run_metadata)  # type: ignore[misc]

    def report(self) -> dict[str, Any]:
        """Returns a dict that tells how the runs since `accelerate` went; see `fasthooks.report`."""
        return self._dispatcher.cache.report()

    def close(self):
        """Closes the session and drops its plans."""
        # They hold the session, and with it its variables.
        self._dispatcher = _new_dispatcher(None)
        super().close()  # type: ignore[misc]


class _AcceleratedSession(Accelerated, session_lib.Session):
    pass


class _AcceleratedInteractiveSession(Accelerated, session_lib.InteractiveSession):
    pass


_CLASSES = {
    session_lib.Session: _AcceleratedSession,
    session_lib.InteractiveSession: _AcceleratedInteractiveSession,
}
for _base, _class in _CLASSES.items():
    _dispatch.know_session_class(_class, _base)


def _new_dispatcher(session):
    return _dispatch.HookDispatcher(session, (), _plan.PlanCache(session))


def accelerate(session: Any) -> Any:
    """Makes a plain session run prepared steps: for programs without hooks.

    The object stays what it is, a `tf.compat.v1.Session` that may be the default session, be given to a Saver and so
    on; only its class becomes a subclass of TensorFlow's, with a `run` that behaves as before. A run that no plan can
    stand for (session handles, a patched `Session.run`) goes TensorFlow's way. Call it
    when the session is made, and `close` the session at the end: until then its plans keep it alive.

    Args:
      session: A `tf.compat.v1.Session` or `InteractiveSession`, local or on a server. A session of another kind that
        derives from or wraps one (tfdbg) is returned as it is, with a log line.

    Returns:
      The same session, which now has a `report` method too.

    Raises:
      TypeError: `session` is no session of TensorFlow's client; for monitored sessions there is `fasthooks.patch`.
    """
    if not isinstance(session, session_lib.SessionInterface):
        raise TypeError(f"session must be a tf.compat.v1.Session or InteractiveSession; got {session!r}.")
    if type(session) in _CLASSES:
        session._dispatcher = _new_dispatcher(session)
        session.__class__ = _CLASSES[type(session)]
    elif not isinstance(session, Accelerated):
        logging.warning("fasthooks.accelerate: a session of type %s keeps its own way to run.", type(session).__name__)
    return session
