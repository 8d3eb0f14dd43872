"""What the dispatcher knows of one hook. What Python can see of it."""

from collections.abc import Callable
from typing import Any

def configure(trigger_for: Callable[[Any], Any]) -> None: ...

class Slot:
    @property
    def hook(self) -> Any: ...
    def __init__(self, hook: Any) -> None: ...
