"""What is fed: keys resolved once, values checked and converted. What Python can see of it."""

from typing import Any

class FeedSpec:
    def __init__(self, tensor: Any) -> None: ...

class FeedKey:
    def __init__(self, graph: Any, key: Any) -> None: ...
