"""What the dispatcher knows of one hook. What Python can see of it."""

from typing import Any

from typing_extensions import Self

from fasthooks.step._live import Counted

class Slot(Counted):
    @property
    def hook(self) -> Any: ...
    def __new__(cls, hook: Any) -> Self: ...
