"""The public names; `__init__.py` says where they come from at run time."""

from tensorflow.compat.v1.train import CheckpointSaverListener as CheckpointSaverListener
from tensorflow.compat.v1.train import ChiefSessionCreator as ChiefSessionCreator
from tensorflow.compat.v1.train import NanLossDuringTrainingError as NanLossDuringTrainingError
from tensorflow.compat.v1.train import Scaffold as Scaffold
from tensorflow.compat.v1.train import SessionCreator as SessionCreator
from tensorflow.compat.v1.train import SessionRunArgs as SessionRunArgs
from tensorflow.compat.v1.train import SessionRunContext as SessionRunContext
from tensorflow.compat.v1.train import SessionRunHook as SessionRunHook
from tensorflow.compat.v1.train import SessionRunValues as SessionRunValues
from tensorflow.compat.v1.train import WorkerSessionCreator as WorkerSessionCreator

from fasthooks.async_checkpoint import AsyncCheckpointSaverHook as AsyncCheckpointSaverHook
from fasthooks.feeds import FeedFnHook as FeedFnHook
from fasthooks.feeds import aligned_copy as aligned_copy
from fasthooks.feeds import aligned_empty as aligned_empty
from fasthooks.hooks import CheckpointSaverHook as CheckpointSaverHook
from fasthooks.hooks import FinalOpsHook as FinalOpsHook
from fasthooks.hooks import GlobalStepWaiterHook as GlobalStepWaiterHook
from fasthooks.hooks import LoggingTensorHook as LoggingTensorHook
from fasthooks.hooks import NanTensorHook as NanTensorHook
from fasthooks.hooks import ProfilerHook as ProfilerHook
from fasthooks.hooks import SecondOrStepTimer as SecondOrStepTimer
from fasthooks.hooks import StepCounterHook as StepCounterHook
from fasthooks.hooks import StopAtStepHook as StopAtStepHook
from fasthooks.hooks import SummarySaverHook as SummarySaverHook
from fasthooks.interruption import SaveOnSignalHook as SaveOnSignalHook
from fasthooks.patching import adopt as adopt
from fasthooks.patching import patch as patch
from fasthooks.patching import patched as patched
from fasthooks.patching import unpatch as unpatch
from fasthooks.plain_session import accelerate as accelerate
from fasthooks.reporting import PlanReport as PlanReport
from fasthooks.reporting import Report as Report
from fasthooks.reporting import report as report
from fasthooks.session import MonitoredSession as MonitoredSession
from fasthooks.session import MonitoredTrainingSession as MonitoredTrainingSession
from fasthooks.session import SingularMonitoredSession as SingularMonitoredSession
from fasthooks.wandb_hook import WandbHook as WandbHook

__all__: list[str]
__version__: str
