"""Prepared runs of one raw session. What Python can see of them."""

from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from fasthooks.step._live import Counted
from fasthooks.step._plan import PlanCache

def know_session_class(cls: type, base: type) -> None: ...

class PreparedStep(Counted): ...

class PreparedRuns(Counted):
    on_first_step: Callable[[Any], None] | None
    @property
    def raw(self) -> Any: ...
    @property
    def cache(self) -> PlanCache: ...
    def __new__(cls, raw: Any, scheduling: str = "auto", stock: type | None = None) -> Self: ...
    def run(self, fetches: Any, feed_dict: Any, options: Any, run_metadata: Any) -> tuple[Any] | None: ...
