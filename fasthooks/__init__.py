"""Drop-in replacement for TensorFlow's monitored sessions and hooks with a compiled step path.

Importing it does not import TensorFlow: that happens when a name is first used, so that `python -m fasthooks run` leaves
it to the program when and with which environment TensorFlow is loaded. For the same reason little else is imported, and
where TensorFlow is missing nothing fails before a name is used: pytest imports this package for its plugin.

PYTEST_DONT_REWRITE: nothing here asserts, and a package that is imported before pytest would give a warning.
"""

import importlib as _importlib
import importlib.util as _importlib_util
from typing import Any as _Any

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
    "fasthooks.hook_cost": ("HookCost", "HookCostFixture"),
    "fasthooks.hooks.interruption": ("SaveOnSignalHook",),
    "fasthooks.hooks.metrics": ("EvaluationHook", "MetricsHook"),
    "fasthooks.hooks.monitors": ("BestCheckpoints", "EarlyStopping", "best_checkpoint"),
    "fasthooks.hooks.periodic": ("Every", "FunctionHook", "LambdaHook", "every"),
    "fasthooks.hooks.progress": ("ProgressHook", "TimeLimitHook"),
    "fasthooks.hooks.sinks": ("CSVSink", "EventSink", "JSONLSink", "Sink", "WandbSink"),
    "fasthooks.patching": ("adopt", "patch", "patched", "unpatch"),
    "fasthooks.plain_session": ("accelerate",),
    "fasthooks.profiling": ("Profile", "profile", "warn_slow_hooks"),
    "fasthooks.reporting": ("report",),
    "fasthooks.session": ("MonitoredSession", "MonitoredTrainingSession", "SingularMonitoredSession"),
    "fasthooks.types": ("HookRow", "OnceRow", "PlanReport", "ProfileReport", "Report", "SessionProfile", "TimeRow"),
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
_NO_TENSORFLOW = "fasthooks needs TensorFlow 2.15 to 2.22: pip install 'fasthooks[cpu]' or 'fasthooks[gpu]'"


def __getattr__(name: str) -> _Any:
    module = f"{__name__}.{name}"
    if name == "__version__":
        value = _importlib.import_module("importlib.metadata").version("fasthooks")
    elif name not in _HOMES and module not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elif _importlib_util.find_spec("tensorflow") is None:
        raise ImportError(_NO_TENSORFLOW)
    elif name in _HOMES:
        _importlib.import_module("fasthooks.known_tensorflow").check()
        value = getattr(_importlib.import_module(_HOMES[name]), name)
    else:
        value = _importlib.import_module(module)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
