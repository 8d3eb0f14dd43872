"""What our hooks have in common: the methods that a session calls on every step, and those of hooks that write events."""

from typing import Any

from fasthooks import patching
from fasthooks.after_step import OnceAfterStep
from fasthooks.output import writers
from fasthooks.tensorflow_train import SessionRunArgs, SessionRunContext, SessionRunHook, SessionRunValues
from fasthooks.triggers import _guard, _trigger


class PerStepMethods(patching.OurHook):
    """What a session calls on every step, as plain functions: `mock` and `inspect` treat them as TensorFlow's."""

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Returns what this hook fetches on the coming run; see `tf.compat.v1.train.SessionRunHook`."""
        patching.meet_late_hook()
        return _trigger.before_run(self, run_context)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Acts on the results of the run, if it is time; see `tf.compat.v1.train.SessionRunHook`."""
        return _trigger.after_run(self, run_context, run_values)


class WriterMethods(PerStepMethods, SessionRunHook):
    """Those of the hooks that write event files, whose writer's failures surface in them."""

    def __getstate__(self) -> dict[str, Any]:
        # A copy takes no part in what the original waits for.
        return {name: value for name, value in vars(self).items() if not isinstance(value, OnceAfterStep)}

    def begin(self) -> None:
        """Opens the writer; see `tf.compat.v1.train.SessionRunHook`."""
        super().begin()  # type: ignore[misc]
        writers.watch(self)

    def end(self, session: Any = None) -> None:
        """Ends as TensorFlow's hook does, and raises what writing the events failed with."""
        super().end(session)  # type: ignore[misc]
        writers.settle(self)


_guard.know(PerStepMethods.before_run, PerStepMethods.after_run)
