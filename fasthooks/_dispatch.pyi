"""One step: triggers, merged requests, plan, actions, stop flag. What Python can see of it."""

from typing import Any

from fasthooks._plan import PlanCache

class PreparedStep: ...

class HookDispatcher:
    @property
    def cache(self) -> PlanCache: ...
    def __init__(self, raw: Any, hooks: Any, cache: PlanCache, subset: bool = False) -> None: ...

# Stands for the hooked session in a run with some of its hooks.
class SubsetSession:
    _should_stop: Any
    def __init__(self, hooked: Any, hooks: list[Any]) -> None: ...
