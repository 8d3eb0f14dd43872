"""What is fed: keys resolved once, values checked and converted. What Python can see of it."""

from typing import Any

from typing_extensions import Self

class FeedSpec:
    def __new__(cls, tensor: Any) -> Self: ...

class FeedKey:
    def __new__(cls, graph: Any, key: Any) -> Self: ...
