"""The native call of `Session.run`, for arguments that stay the same. What Python can see of it."""

from typing import Any, final

from typing_extensions import Self

from fasthooks.step._live import Counted

@final
class NativeCall(Counted):
    @property
    def outputs(self) -> list[Any]: ...
    @property
    def operations(self) -> list[Any]: ...
    @property
    def is_direct(self) -> bool: ...
    def __new__(cls, outputs: list[Any], operations: list[Any]) -> Self: ...
    def run(self, session: Any, options: Any, feeds: dict[Any, Any], metadata: Any) -> list[Any]: ...

def find(names: Any) -> bool: ...
