"""What TensorFlow's classes look like to a type checker. `stubtest` holds it to the TensorFlow that is installed.

Tensors, operations, sessions and what stands for them are `Any`. Attributes with an underscore are those that ours read.
"""

import abc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar

from typing_extensions import Self

_T = TypeVar("_T")

_Path: TypeAlias = str | os.PathLike[str]

class SessionRunArgs(NamedTuple):
    fetches: Any
    feed_dict: Mapping[Any, Any] | None = None
    options: Any = None

class SessionRunContext:
    def __init__(self, original_args: SessionRunArgs, session: Any) -> None: ...
    @property
    def original_args(self) -> SessionRunArgs: ...
    @property
    def session(self) -> Any: ...
    @property
    def stop_requested(self) -> bool: ...
    def request_stop(self) -> None: ...

class SessionRunValues(NamedTuple):
    results: Any
    options: Any
    run_metadata: Any

class SessionRunHook:
    def begin(self) -> None: ...
    def after_create_session(self, session: Any, coord: Any) -> None: ...
    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None: ...
    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None: ...
    def end(self, session: Any) -> None: ...

class SecondOrStepTimer:
    _every_secs: Any
    _every_steps: Any
    def __init__(self, every_secs: float | None = None, every_steps: int | None = None) -> None: ...
    def reset(self) -> None: ...
    def should_trigger_for_step(self, step: int) -> bool: ...
    def update_last_triggered_step(self, step: int) -> tuple[float | None, int | None]: ...
    def last_triggered_step(self) -> int | None: ...

class StopAtStepHook(SessionRunHook):
    def __init__(self, num_steps: int | None = None, last_step: int | None = None) -> None: ...

class StepCounterHook(SessionRunHook):
    _summary_writer: Any
    def __init__(
        self,
        every_n_steps: int | None = 100,
        every_n_secs: float | None = None,
        output_dir: _Path | None = None,
        summary_writer: Any = None,
    ) -> None: ...
    def _log_and_record(self, elapsed_steps: Any, elapsed_time: Any, global_step: Any) -> None: ...

class LoggingTensorHook(SessionRunHook):
    _formatter: Any
    def __init__(
        self,
        tensors: Mapping[str, Any] | Iterable[Any],
        every_n_iter: int | None = None,
        every_n_secs: float | None = None,
        at_end: bool = False,
        formatter: Callable[[dict[Any, Any]], str] | None = None,
    ) -> None: ...
    def _log_tensors(self, tensor_values: Any) -> None: ...

class NanTensorHook(SessionRunHook):
    def __init__(self, loss_tensor: Any, fail_on_nan_loss: bool = True) -> None: ...

class NanLossDuringTrainingError(RuntimeError): ...

class CheckpointSaverListener:
    def begin(self) -> None: ...
    def before_save(self, session: Any, global_step_value: Any) -> None: ...
    def after_save(self, session: Any, global_step_value: Any) -> bool | None: ...
    def end(self, session: Any, global_step_value: Any) -> None: ...

class CheckpointSaverHook(SessionRunHook):
    _checkpoint_dir: Any
    _listeners: Any
    _save_graph_def: Any
    _save_path: Any
    _summary_writer: Any
    def __init__(
        self,
        checkpoint_dir: str,
        save_secs: float | None = None,
        save_steps: int | None = None,
        saver: Any = None,
        checkpoint_basename: str = "model.ckpt",
        scaffold: Scaffold | None = None,
        listeners: Sequence[CheckpointSaverListener] | None = None,
        save_graph_def: bool = True,
    ) -> None: ...
    def _save(self, session: Any, step: Any) -> Any: ...
    def _get_saver(self) -> Any: ...

class SummarySaverHook(SessionRunHook):
    def __init__(
        self,
        save_steps: int | None = None,
        save_secs: float | None = None,
        output_dir: _Path | None = None,
        summary_writer: Any = None,
        scaffold: Scaffold | None = None,
        summary_op: Any = None,
    ) -> None: ...
    def end(self, session: Any = None) -> None: ...
    def _get_summary_op(self) -> Any: ...

class GlobalStepWaiterHook(SessionRunHook):
    def __init__(self, wait_until_step: int) -> None: ...

class FinalOpsHook(SessionRunHook):
    def __init__(self, final_ops: Any, final_ops_feed_dict: Mapping[Any, Any] | None = None) -> None: ...
    @property
    def final_ops_values(self) -> Any: ...

class FeedFnHook(SessionRunHook):
    feed_fn: Callable[[], Mapping[Any, Any]]
    def __init__(self, feed_fn: Callable[[], Mapping[Any, Any]]) -> None: ...

class ProfilerHook(SessionRunHook):
    def __init__(
        self,
        save_steps: int | None = None,
        save_secs: float | None = None,
        output_dir: _Path = "",
        show_dataflow: bool = True,
        show_memory: bool = False,
    ) -> None: ...

class Scaffold:
    def __init__(
        self,
        init_op: Any = None,
        init_feed_dict: Mapping[Any, Any] | None = None,
        init_fn: Callable[[Scaffold, Any], object] | None = None,
        ready_op: Any = None,
        ready_for_local_init_op: Any = None,
        local_init_op: Any = None,
        summary_op: Any = None,
        saver: Any = None,
        copy_from_scaffold: Scaffold | None = None,
        local_init_feed_dict: Mapping[Any, Any] | None = None,
    ) -> None: ...
    def finalize(self) -> Self: ...
    @property
    def init_fn(self) -> Callable[[Any], object] | None: ...
    @property
    def init_op(self) -> Any: ...
    @property
    def ready_op(self) -> Any: ...
    @property
    def ready_for_local_init_op(self) -> Any: ...
    @property
    def local_init_op(self) -> Any: ...
    @property
    def local_init_feed_dict(self) -> Any: ...
    @property
    def summary_op(self) -> Any: ...
    @property
    def saver(self) -> Any: ...
    @property
    def init_feed_dict(self) -> Any: ...
    @staticmethod
    def get_or_default(arg_name: str, collection_key: str, default_constructor: Callable[[], Any]) -> Any: ...
    @staticmethod
    def default_local_init_op() -> Any: ...

class SessionCreator(abc.ABC):
    @abc.abstractmethod
    def create_session(self) -> Any: ...

class ChiefSessionCreator(SessionCreator):
    def __init__(
        self,
        scaffold: Scaffold | None = None,
        master: str = "",
        config: Any = None,
        checkpoint_dir: str | None = None,
        checkpoint_filename_with_path: str | None = None,
    ) -> None: ...
    def create_session(self) -> Any: ...

class WorkerSessionCreator(SessionCreator):
    def __init__(
        self, scaffold: Scaffold | None = None, master: str = "", config: Any = None, max_wait_secs: float = 1800
    ) -> None: ...
    def create_session(self) -> Any: ...

class _HookedSession:
    def __init__(self, sess: Any, hooks: Any) -> None: ...
    def run(self, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None) -> Any: ...

class _MonitoredSession:
    _coordinated_creator: Any
    class StepContext:
        def __init__(self, session: Any, run_with_hooks_fn: Callable[..., Any]) -> None: ...
        @property
        def session(self) -> Any: ...
        def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any: ...
        def request_stop(self) -> NoReturn: ...

    class _CoordinatedSessionCreator(SessionCreator):
        tf_sess: Any
        _hooks: Any
        def __init__(self, session_creator: Any, hooks: Any, stop_grace_period_secs: Any) -> None: ...
        def create_session(self) -> Any: ...

    @property
    def graph(self) -> Any: ...
    def run(self, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None) -> Any: ...
    def run_step_fn(self, step_fn: Callable[[StepContext], _T]) -> _T: ...
    def should_stop(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    # True on the end of the input. Not `bool`: what stands behind a `with` block that returns would count as reached.
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...
    def _tf_sess(self) -> Any: ...

class MonitoredSession(_MonitoredSession):
    def __init__(
        self,
        session_creator: SessionCreator | None = None,
        hooks: Sequence[Any] | None = None,
        stop_grace_period_secs: float = 120,
    ) -> None: ...

class SingularMonitoredSession(_MonitoredSession):
    def __init__(
        self,
        hooks: Sequence[Any] | None = None,
        scaffold: Scaffold | None = None,
        master: str = "",
        config: Any = None,
        checkpoint_dir: str | None = None,
        stop_grace_period_secs: float = 120,
        checkpoint_filename_with_path: str | None = None,
    ) -> None: ...
    def raw_session(self) -> Any: ...
