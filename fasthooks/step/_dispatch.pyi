"""One step: triggers, merged requests, plan, actions, stop flag. What Python can see of it."""

from typing import Any

from fasthooks.step._context import RunContextBase
from fasthooks.step._live import Counted
from fasthooks.step._prepared import PreparedRuns
from fasthooks.step._profile import StepTimes

class HookDispatcher(Counted):
    @property
    def runs(self) -> PreparedRuns: ...
    def __init__(self, runs: PreparedRuns, hooks: Any, subset: bool = False) -> None: ...

class Step:
    def __init__(
        self, dispatcher: HookDispatcher, session: Any, fetches: Any, feed_dict: Any, times: StepTimes | None
    ) -> None: ...

# Context and session in one for TensorFlow's own `after_run` methods.
class ReadingContext:
    def __init__(self, context: RunContextBase, runs: PreparedRuns) -> None: ...
    @property
    def session(self) -> ReadingContext: ...
    def run(self, tensor: Any) -> Any: ...
    def request_stop(self) -> None: ...
