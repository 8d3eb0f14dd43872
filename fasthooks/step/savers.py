"""Two hooks that save checkpoints into one directory: a fault of the program that nothing else tells of."""

import os
from typing import Any

from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training.basic_session_run_hooks import CheckpointSaverHook


def warn_of_two(hooks):
    """Logs a warning for each directory into which more than one hook of a list saves checkpoints."""
    savers: dict[str, dict[Any, str]] = {}
    for number, hook in enumerate(hooks if isinstance(hooks, (list, tuple)) else ()):
        directory = getattr(hook, "_checkpoint_dir", None)
        if isinstance(hook, CheckpointSaverHook) and isinstance(directory, (str, os.PathLike)):
            directory = os.path.abspath(os.fspath(directory))
            savers.setdefault(directory, {})[id(hook)] = f"{type(hook).__name__} (hooks[{number}])"
    for directory, names in savers.items():
        if len(names) > 1:
            logging.warning("%s all save checkpoints into %s; each deletes and overwrites without knowing of the others. "
                            "MonitoredTrainingSession adds one of its own unless save_checkpoint_secs=None and "
                            "save_checkpoint_steps=None.", " and ".join(names.values()), directory)
