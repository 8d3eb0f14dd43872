"""Prepared runs for plain sessions: `accelerate`."""

from typing import TYPE_CHECKING, Any

from tensorflow.python.client import session as session_lib
from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import monitored_session

from fasthooks.step import _prepared

if TYPE_CHECKING:
    from fasthooks.reporting import Report


class Accelerated:
    """What an accelerated session is, besides one of TensorFlow's."""

    # Until the session has its own, while another thread runs it already.
    _runs: Any = _prepared.PreparedRuns(None)

    def report(self) -> "Report":
        """Returns a dict that tells how the runs since `accelerate` went; see `fasthooks.report`."""
        return self._runs.cache.report()


def _accelerated(stock: Any) -> Any:
    # The class of accelerated sessions that derives from one of TensorFlow's. `stock` is called by its name: `restore` may
    # make an object one of `stock` itself while another thread is in a method of it.

    class AcceleratedSession(Accelerated, stock):
        def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
            """Runs operations and evaluates tensors; see `tf.compat.v1.Session.run`."""
            result = self._runs.run(fetches, feed_dict, options, run_metadata)
            if result is not None:
                return result[0]
            return stock.run(self, fetches, feed_dict, options, run_metadata)

        def close(self):
            """Closes the session and drops its plans."""
            _drop_plans(self)
            stock.close(self)

    AcceleratedSession.__name__ = AcceleratedSession.__qualname__ = f"_Accelerated{stock.__name__}"
    AcceleratedSession.run.__qualname__ = stock.run.__qualname__  # which the errors of bad calls name
    _prepared.know_session_class(AcceleratedSession, stock)
    return AcceleratedSession


# TensorFlow's class -> ours.
CLASSES: dict[Any, Any] = {stock: _accelerated(stock) for stock in (session_lib.Session, session_lib.InteractiveSession)}


def _drop_plans(session):
    # They hold the session, and with it its memory.
    session._runs = _prepared.PreparedRuns(None)


def restore(session: Any) -> None:
    """Makes an accelerated session one of TensorFlow's class again."""
    for stock, accelerated in CLASSES.items():
        if type(session) is accelerated:
            session.__class__ = stock
            _drop_plans(session)


def accelerate(session: Any) -> Any:
    """Makes a plain session run prepared steps: for programs without hooks.

    The object stays what it is, a `tf.compat.v1.Session` that may be the default session, be given to a Saver and so
    on; only its class becomes a subclass of TensorFlow's, with a `run` that behaves as before. A run that no plan can
    stand for (session handles, a patched `Session.run`) goes TensorFlow's way. Call it when the session is made, and
    `close` the session at the end: plans and session hold each other, so that one which is only dropped waits for the
    garbage collector.

    Args:
      session: A `tf.compat.v1.Session` or `InteractiveSession`, local or on a server. A session of another kind that
        derives from or wraps one (tfdbg) is returned as it is, with a log line.

    Returns:
      The same session, which now has a `report` method too.

    Raises:
      TypeError: `session` is no session of TensorFlow's client; for monitored sessions there is `fasthooks.patch`.
    """
    if not isinstance(session, session_lib.SessionInterface):
        monitored = isinstance(session, monitored_session._MonitoredSession)
        why = "; for monitored sessions there is fasthooks.patch(), and ours need neither" if monitored else ""
        raise TypeError(f"session must be a tf.compat.v1.Session or InteractiveSession; got {session!r}{why}.")
    if type(session) in CLASSES:
        stock = type(session)
        session.__class__ = CLASSES[stock]
        session._runs = _prepared.PreparedRuns(session, stock=stock)
    elif not isinstance(session, Accelerated):
        logging.warning("fasthooks.accelerate: a session of type %s keeps its own way to run.", type(session).__name__)
    return session
