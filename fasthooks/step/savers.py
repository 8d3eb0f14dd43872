"""Two hooks that save checkpoints into one directory: a fault of the program that nothing else tells of."""

import contextlib
import os
import weakref
from typing import Any

from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training.basic_session_run_hooks import CheckpointSaverHook

# id -> hook that was told of: a session that recovers looks at them again.
_told: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


def warn_of_two(hooks: Any) -> None:
    """Logs a warning, once, for each directory into which more than one hook of a list saves checkpoints."""
    savers: dict[str, dict[int, tuple[Any, str]]] = {}
    for number, hook in enumerate(hooks if isinstance(hooks, (list, tuple)) else ()):
        if issubclass(type(hook), CheckpointSaverHook):
            # A class of somebody's own may have made anything of the attribute; a warning is not worth an error.
            with contextlib.suppress(Exception):
                directory = os.path.abspath(os.fspath(hook._checkpoint_dir))
                savers.setdefault(directory, {})[id(hook)] = hook, f"{type(hook).__name__} (hooks[{number}])"
    for directory, found in savers.items():
        if len(found) > 1 and any(_told.get(key) is not hook for key, (hook, _) in found.items()):
            _told.update((key, hook) for key, (hook, _) in found.items())
            logging.warning("%s all save checkpoints into %s; each deletes and overwrites without knowing of the others. "
                            "MonitoredTrainingSession adds one of its own unless save_checkpoint_secs=None and "
                            "save_checkpoint_steps=None.", " and ".join(name for _, name in found.values()), directory)
