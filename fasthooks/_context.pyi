"""What a hook is handed: the context of a run and its values. What Python can see of it."""

from collections.abc import Iterator
from typing import Any

from tensorflow.python.training import session_run_hook

class RunContextBase:
    # TensorFlow's private attributes.
    _original_args: Any
    _session: Any
    _stop_requested: Any

class SessionRunContext(RunContextBase, session_run_hook.SessionRunContext): ...

# Makes the options and the metadata of one run when they are asked for.
class RunProtos: ...

class SessionRunValues(session_run_hook.SessionRunValues):
    @property
    def options(self) -> Any: ...
    @property
    def run_metadata(self) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, index: Any) -> Any: ...
