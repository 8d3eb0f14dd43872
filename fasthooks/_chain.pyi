"""The compiled links of the chain of sessions. What Python can see of them."""

from collections.abc import Callable
from typing import Any, Literal

from fasthooks._dispatch import HookDispatcher
from fasthooks._plan import PlanCache

def configure(hooked_session: type) -> None: ...

# Travels through TensorFlow's chain in the place of `fetches`.
class Call:
    def __init__(self, fetches: Any, hooks: Any, error: Exception | None) -> None: ...
    def run(self) -> Any: ...

class HookedSessionBase:
    # TensorFlow's private attributes.
    _sess: Any
    _hooks: Any
    _should_stop: Any
    _wrapped_is_stoppable: Any
    @property
    def dispatcher(self) -> HookDispatcher: ...
    @property
    def cache(self) -> PlanCache: ...
    @property
    def scheduling(self) -> str: ...
    def __init__(self, sess: Any, hooks: Any, scheduling: str) -> None: ...
    def run(self, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None) -> Any: ...
    def run_subset(self, hooks: Any, fetches: Any, feed_dict: Any, options: Any, run_metadata: Any) -> Any: ...
    def close(self) -> None: ...
    def report(self) -> dict[str, Any]: ...

# Belongs to one of TensorFlow's own hooked sessions.
class Attached: ...

def run_hooked(
    session: Any, fetches: Any, feed_dict: Any, options: Any, run_metadata: Any, original: Callable[..., Any]
) -> Any: ...

class Chain: ...

class SessionRunner:
    # TensorFlow's chain of sessions.
    _sess: Any
    def run(
        self,
        fetches: Any,
        feed_dict: Any = None,
        options: Any = None,
        run_metadata: Any = None,
        *,
        hooks: list[Any] | Literal[False] | None = None,
    ) -> Any: ...
    def run_without_hooks(
        self, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None
    ) -> Any: ...
    def should_stop(self) -> bool: ...
