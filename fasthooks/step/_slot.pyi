"""What the dispatcher knows of one hook. What Python can see of it."""

from typing import Any

from fasthooks.step._live import Counted

class Slot(Counted):
    @property
    def hook(self) -> Any: ...
    def __init__(self, hook: Any) -> None: ...
