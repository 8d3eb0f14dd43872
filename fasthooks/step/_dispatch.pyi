"""One step: triggers, merged requests, plan, actions, stop flag. What Python can see of it."""

from typing import Any

from typing_extensions import Self

from fasthooks.step._context import RunContextBase
from fasthooks.step._live import Counted
from fasthooks.step._prepared import PreparedRuns
from fasthooks.step._profile import StepTimes

class HookDispatcher(Counted):
    @property
    def runs(self) -> PreparedRuns: ...
    def __new__(cls, runs: PreparedRuns, hooks: Any, subset: bool = False) -> Self: ...

class Step:
    def __new__(
        cls, dispatcher: HookDispatcher, session: Any, fetches: Any, feed_dict: Any, times: StepTimes | None
    ) -> Self: ...

# Context and session in one for TensorFlow's own `after_run` methods.
class ReadingContext:
    def __new__(cls, context: RunContextBase, runs: PreparedRuns) -> Self: ...
    @property
    def session(self) -> ReadingContext: ...
    def run(self, tensor: Any) -> Any: ...
    def request_stop(self) -> None: ...
