"""The public names; `__init__.py` says where they come from at run time."""

from fasthooks.hook_cost import HookCost as HookCost
from fasthooks.hook_cost import HookCostFixture as HookCostFixture
from fasthooks.hooks.async_checkpoint import AsyncCheckpointSaverHook as AsyncCheckpointSaverHook
from fasthooks.hooks.feeds import FeedFnHook as FeedFnHook
from fasthooks.hooks.feeds import aligned_copy as aligned_copy
from fasthooks.hooks.feeds import aligned_empty as aligned_empty
from fasthooks.hooks.interruption import SaveOnSignalHook as SaveOnSignalHook
from fasthooks.hooks.metrics import EvaluationHook as EvaluationHook
from fasthooks.hooks.metrics import MetricsHook as MetricsHook
from fasthooks.hooks.monitors import BestCheckpoints as BestCheckpoints
from fasthooks.hooks.monitors import EarlyStopping as EarlyStopping
from fasthooks.hooks.monitors import best_checkpoint as best_checkpoint
from fasthooks.hooks.periodic import Every as Every
from fasthooks.hooks.periodic import FunctionHook as FunctionHook
from fasthooks.hooks.periodic import LambdaHook as LambdaHook
from fasthooks.hooks.periodic import every as every
from fasthooks.hooks.progress import ProgressHook as ProgressHook
from fasthooks.hooks.progress import TimeLimitHook as TimeLimitHook
from fasthooks.hooks.sinks import CSVSink as CSVSink
from fasthooks.hooks.sinks import EventSink as EventSink
from fasthooks.hooks.sinks import JSONLSink as JSONLSink
from fasthooks.hooks.sinks import Sink as Sink
from fasthooks.hooks.sinks import WandbSink as WandbSink
from fasthooks.hooks.stock import CheckpointSaverHook as CheckpointSaverHook
from fasthooks.hooks.stock import FinalOpsHook as FinalOpsHook
from fasthooks.hooks.stock import GlobalStepWaiterHook as GlobalStepWaiterHook
from fasthooks.hooks.stock import LoggingTensorHook as LoggingTensorHook
from fasthooks.hooks.stock import NanTensorHook as NanTensorHook
from fasthooks.hooks.stock import ProfilerHook as ProfilerHook
from fasthooks.hooks.stock import SecondOrStepTimer as SecondOrStepTimer
from fasthooks.hooks.stock import StepCounterHook as StepCounterHook
from fasthooks.hooks.stock import StopAtStepHook as StopAtStepHook
from fasthooks.hooks.stock import SummarySaverHook as SummarySaverHook
from fasthooks.hooks.wandb_hook import WandbHook as WandbHook
from fasthooks.patching import adopt as adopt
from fasthooks.patching import patch as patch
from fasthooks.patching import patched as patched
from fasthooks.patching import unpatch as unpatch
from fasthooks.plain_session import accelerate as accelerate
from fasthooks.profiling import Profile as Profile
from fasthooks.profiling import profile as profile
from fasthooks.profiling import warn_slow_hooks as warn_slow_hooks
from fasthooks.reporting import report as report
from fasthooks.session import MonitoredSession as MonitoredSession
from fasthooks.session import MonitoredTrainingSession as MonitoredTrainingSession
from fasthooks.session import SingularMonitoredSession as SingularMonitoredSession
from fasthooks.tensorflow_train import CheckpointSaverListener as CheckpointSaverListener
from fasthooks.tensorflow_train import ChiefSessionCreator as ChiefSessionCreator
from fasthooks.tensorflow_train import NanLossDuringTrainingError as NanLossDuringTrainingError
from fasthooks.tensorflow_train import Scaffold as Scaffold
from fasthooks.tensorflow_train import SessionCreator as SessionCreator
from fasthooks.tensorflow_train import SessionRunArgs as SessionRunArgs
from fasthooks.tensorflow_train import SessionRunContext as SessionRunContext
from fasthooks.tensorflow_train import SessionRunHook as SessionRunHook
from fasthooks.tensorflow_train import SessionRunValues as SessionRunValues
from fasthooks.tensorflow_train import WorkerSessionCreator as WorkerSessionCreator
from fasthooks.types import HookRow as HookRow
from fasthooks.types import OnceRow as OnceRow
from fasthooks.types import PlanReport as PlanReport
from fasthooks.types import ProfileReport as ProfileReport
from fasthooks.types import Report as Report
from fasthooks.types import SessionProfile as SessionProfile
from fasthooks.types import TimeRow as TimeRow

__version__: str
_NO_TENSORFLOW: str

__all__ = [
    "AsyncCheckpointSaverHook",
    "BestCheckpoints",
    "CSVSink",
    "CheckpointSaverHook",
    "CheckpointSaverListener",
    "ChiefSessionCreator",
    "EarlyStopping",
    "EvaluationHook",
    "EventSink",
    "Every",
    "FeedFnHook",
    "FinalOpsHook",
    "FunctionHook",
    "GlobalStepWaiterHook",
    "HookCost",
    "HookCostFixture",
    "HookRow",
    "JSONLSink",
    "LambdaHook",
    "LoggingTensorHook",
    "MetricsHook",
    "MonitoredSession",
    "MonitoredTrainingSession",
    "NanLossDuringTrainingError",
    "NanTensorHook",
    "OnceRow",
    "PlanReport",
    "Profile",
    "ProfileReport",
    "ProfilerHook",
    "ProgressHook",
    "Report",
    "SaveOnSignalHook",
    "Scaffold",
    "SecondOrStepTimer",
    "SessionCreator",
    "SessionProfile",
    "SessionRunArgs",
    "SessionRunContext",
    "SessionRunHook",
    "SessionRunValues",
    "SingularMonitoredSession",
    "Sink",
    "StepCounterHook",
    "StopAtStepHook",
    "SummarySaverHook",
    "TimeLimitHook",
    "TimeRow",
    "WandbHook",
    "WandbSink",
    "WorkerSessionCreator",
    "accelerate",
    "adopt",
    "aligned_copy",
    "aligned_empty",
    "best_checkpoint",
    "every",
    "patch",
    "patched",
    "profile",
    "report",
    "unpatch",
    "warn_slow_hooks",
]
