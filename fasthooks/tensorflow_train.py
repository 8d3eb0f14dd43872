"""TensorFlow's classes that ours derive from. TensorFlow comes without types: the stub beside this file gives them."""

from tensorflow.python.training.basic_session_run_hooks import (
    CheckpointSaverHook,
    CheckpointSaverListener,
    FeedFnHook,
    FinalOpsHook,
    GlobalStepWaiterHook,
    LoggingTensorHook,
    NanLossDuringTrainingError,
    NanTensorHook,
    ProfilerHook,
    SecondOrStepTimer,
    StepCounterHook,
    StopAtStepHook,
    SummarySaverHook,
)
from tensorflow.python.training.monitored_session import (
    ChiefSessionCreator,
    MonitoredSession,
    Scaffold,
    SessionCreator,
    SingularMonitoredSession,
    WorkerSessionCreator,
    _HookedSession,
)
from tensorflow.python.training.session_run_hook import SessionRunArgs, SessionRunContext, SessionRunHook, SessionRunValues
