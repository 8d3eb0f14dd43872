"""Drop-in replacement for TensorFlow's monitored sessions and hooks with a compiled step path."""

try:
    import tensorflow as _tensorflow  # noqa: F401  imported first, so that what follows can only fail for other reasons
except ModuleNotFoundError as _error:
    if _error.name != "tensorflow":
        raise
    raise ImportError(
        "fasthooks needs TensorFlow 2.15 to 2.21: pip install 'fasthooks[cpu]' or 'fasthooks[gpu]'") from None

from importlib.metadata import version as _version

from tensorflow.compat.v1.train import (
    CheckpointSaverListener,
    ChiefSessionCreator,
    NanLossDuringTrainingError,
    Scaffold,
    SessionCreator,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
    WorkerSessionCreator,
)

from fasthooks.hooks import (
    CheckpointSaverHook,
    FeedFnHook,
    FinalOpsHook,
    GlobalStepWaiterHook,
    LoggingTensorHook,
    NanTensorHook,
    ProfilerHook,
    SecondOrStepTimer,
    StepCounterHook,
    StopAtStepHook,
    SummarySaverHook,
)
from fasthooks.interruption import SaveOnSignalHook
from fasthooks.session import MonitoredSession, MonitoredTrainingSession, SingularMonitoredSession
from fasthooks.wandb_hook import WandbHook

__version__ = _version("fasthooks")
__all__ = [
    "CheckpointSaverHook",
    "CheckpointSaverListener",
    "ChiefSessionCreator",
    "FeedFnHook",
    "FinalOpsHook",
    "GlobalStepWaiterHook",
    "LoggingTensorHook",
    "MonitoredSession",
    "MonitoredTrainingSession",
    "NanLossDuringTrainingError",
    "NanTensorHook",
    "ProfilerHook",
    "SaveOnSignalHook",
    "Scaffold",
    "SecondOrStepTimer",
    "SessionCreator",
    "SessionRunArgs",
    "SessionRunContext",
    "SessionRunHook",
    "SessionRunValues",
    "SingularMonitoredSession",
    "StepCounterHook",
    "StopAtStepHook",
    "SummarySaverHook",
    "WandbHook",
    "WorkerSessionCreator",
]
