"""What the dispatcher knows of one hook. What Python can see of it."""

from typing import Any

class Slot:
    @property
    def hook(self) -> Any: ...
    def __init__(self, hook: Any) -> None: ...
