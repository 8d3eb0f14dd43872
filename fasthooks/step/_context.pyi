"""What a hook is handed: the context of a run and its values. What Python can see of it."""

from typing import Any

from fasthooks import tensorflow_train
from fasthooks.step._live import Counted

class RunContextBase(Counted):
    # TensorFlow's private attributes.
    _original_args: Any
    _session: Any
    _stop_requested: Any

class SessionRunContext(RunContextBase, tensorflow_train.SessionRunContext):
    def __copy__(self) -> tensorflow_train.SessionRunContext: ...

# The options and the metadata of one run.
class RunProtos: ...
