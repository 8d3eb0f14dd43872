"""What a hook has to do after its next step because of something that another thread found out."""


class OnceAfterStep:
    """Is called once in the place of a hook's `after_run`; derive from it and say in `act` what it does.

    It is set on the hook object, where sessions look `after_run` up anew on each step, so waiting costs other steps nothing.
    A method that somebody set there before (a mock) comes back afterwards. Several may wait for one hook, the last one on top.

    Args:
      hook: Whose next step it is. Not one with slots.
    """

    def __init__(self, hook):
        self._hook = hook
        self._replaced = vars(hook).get("after_run")
        self._waits = True
        hook.after_run = self

    @classmethod
    def of(cls, hook):
        """Returns the object of this class that waits for the hook's next step; None: there is none."""
        found = vars(hook).get("after_run")
        while isinstance(found, OnceAfterStep) and not (found._waits and isinstance(found, cls)):
            found = found._replaced
        return found if isinstance(found, cls) else None

    def withdraw(self):
        """Ends the waiting; `act` is not called any more."""
        self._waits = False
        found = top = vars(self._hook).get("after_run")
        while isinstance(found, OnceAfterStep) and not found._waits:
            found = found._replaced
        if found is None and top is not None:
            del self._hook.after_run
        elif found is not top:
            self._hook.after_run = found

    def act(self, run_context, run_values):
        """Is called with the arguments of `after_run`, in its place."""
        raise NotImplementedError

    def call_usual(self, run_context, run_values):
        """Calls the `after_run` that this stands in the place of."""
        if self._replaced is not None:
            self._replaced(run_context, run_values)
            return
        # Not `hook.after_run`: that may be a wrapper that was put around this object. A mock does not bind.
        method = type(self._hook).after_run
        (method.__get__(self._hook) if hasattr(type(method), "__get__") else method)(run_context, run_values)

    def __call__(self, run_context, run_values):
        # It does not if somebody has put a wrapper around it that is still there, or has put it back.
        waits = self._waits
        self.withdraw()
        (self.act if waits else self.call_usual)(run_context, run_values)
