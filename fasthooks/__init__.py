"""Drop-in replacement for TensorFlow's monitored sessions and hooks with a compiled step path.

Importing it does not import TensorFlow: that happens when a name is first used, so that `python -m fasthooks run` leaves
it to the program when and with which environment TensorFlow is loaded. For the same reason little else is imported.
"""

import importlib as _importlib
import importlib.util as _importlib_util
from typing import Any as _Any

if _importlib_util.find_spec("tensorflow") is None:
    raise ImportError("fasthooks needs TensorFlow 2.15 to 2.22: pip install 'fasthooks[cpu]' or 'fasthooks[gpu]'")

# Module -> public names that it gives. `__init__.pyi` tells the same to type checkers.
_NAMES = {
    "fasthooks.hooks.async_checkpoint": ("AsyncCheckpointSaverHook",),
    "fasthooks.hooks.feeds": ("FeedFnHook", "aligned_copy", "aligned_empty"),
    "fasthooks.hooks.stock": (
        "CheckpointSaverHook",
        "FinalOpsHook",
        "GlobalStepWaiterHook",
        "LoggingTensorHook",
        "NanTensorHook",
        "ProfilerHook",
        "SecondOrStepTimer",
        "StepCounterHook",
        "StopAtStepHook",
        "SummarySaverHook",
    ),
    "fasthooks.hooks.interruption": ("SaveOnSignalHook",),
    "fasthooks.patching": ("adopt", "patch", "patched", "unpatch"),
    "fasthooks.plain_session": ("accelerate",),
    "fasthooks.profiling": ("Profile", "profile", "warn_slow_hooks"),
    "fasthooks.reporting": ("report",),
    "fasthooks.session": ("MonitoredSession", "MonitoredTrainingSession", "SingularMonitoredSession"),
    "fasthooks.types": ("HookRow", "PlanReport", "ProfileReport", "Report", "SessionProfile", "TimeRow"),
    "fasthooks.hooks.wandb_hook": ("WandbHook",),
    "tensorflow.compat.v1.train": (
        "CheckpointSaverListener",
        "ChiefSessionCreator",
        "NanLossDuringTrainingError",
        "Scaffold",
        "SessionCreator",
        "SessionRunArgs",
        "SessionRunContext",
        "SessionRunHook",
        "SessionRunValues",
        "WorkerSessionCreator",
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> _Any:
    if name in _HOMES:
        _importlib.import_module("fasthooks.known_tensorflow").check()
        value = getattr(_importlib.import_module(_HOMES[name]), name)
    elif name == "__version__":
        value = _importlib.import_module("importlib.metadata").version("fasthooks")
    elif f"{__name__}.{name}" in _NAMES:
        value = _importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
