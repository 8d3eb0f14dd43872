# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""What a step that failed means to the chain of sessions: TensorFlow's own code says so, of stand-ins for the links.

Compiled so that the error's traceback holds no objects of ours: a frame of Python's would keep the links, and with them the
raw session.
"""

from tensorflow.python.training import monitored_session

cdef type _RecoverableSession = monitored_session._RecoverableSession
cdef object _run_recoverable = _RecoverableSession.run
cdef object _run_coordinated = monitored_session._CoordinatedSession.run


class FailedSession:
    """The hooked session of a step that has failed.

    Args:
      error: What it raises, as it is.
    """

    def __init__(self, error):
        self.error, self._traceback, self._context = error, error.__traceback__, error.__context__

    def run(self, *args, **kwargs):
        """Raises the error."""
        try:
            raise self.error
        except BaseException:
            self.error.__context__ = self._context  # that was set anew
            raise

    def shorten_traceback(self):
        """Takes the ways out of the error's traceback that it has gone since."""
        self.error.__traceback__ = self._traceback

    def forget(self):
        """Lets go of the error."""
        self.error = self._traceback = self._context = None


class _CoordinatedOfFailed:
    """The coordinated session above that, as TensorFlow's own `run` finds it."""

    def __init__(self, failed, coordinator):
        self._sess, self._coord = failed, coordinator

    def run(self, *args, **kwargs):
        return _run_coordinated(self, *args, **kwargs)


class _RecoverableOfFailed:
    """The recoverable session above that, likewise: the real one, once it has met the failed step."""

    def __init__(self, session, coordinated):
        self._session, self._failing = session, coordinated

    @property
    def _sess(self):
        return self._failing or self._session._sess

    @_sess.setter
    def _sess(self, sess):
        self._session._sess = sess

    def close(self):
        if self._failing is not None:
            # The step is repeated below: nothing of the failed one lives on meanwhile.
            self._failing._sess.forget()
            self._failing = None
        self._session.close()

    def _create_session(self):
        return self._session._create_session()


cdef object meet(object outer, object coordinator, object fetches, object feed_dict, object failed):
    """Does what the chain does with a step that failed: recovers and repeats it, raises another thread's error, or passes it on.

    Args:
      outer: The link below the monitored session, the recoverable or the coordinated one, as it was when the step began; `close`
        may have emptied the real one meanwhile.
      coordinator: The Coordinator, likewise.
      fetches: What the step was asked for, and so is the next.
      feed_dict: What it was fed.
      failed: The FailedSession.
    """
    coordinated = _CoordinatedOfFailed(failed, coordinator)
    try:
        if type(outer) is not _RecoverableSession:
            return coordinated.run(fetches)
        # Recovers and repeats the call, or raises the error.
        recoverable = _RecoverableOfFailed(outer, coordinated)
        coordinated = None
        return _run_recoverable(recoverable, fetches, feed_dict=feed_dict)
    except Exception as raised:
        if raised is not failed.error:
            raise
        failed.shorten_traceback()
        raise raised
