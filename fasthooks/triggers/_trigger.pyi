"""When a hook acts: step, seconds, NaN, never, always. What Python can see of it.

The attributes are TensorFlow's private ones; they read as None until they are first set.
"""

from typing import Any

from fasthooks.triggers._guard import Watched

def before_run(hook: Any, run_context: Any) -> Any: ...
def after_run(hook: Any, run_context: Any, run_values: Any) -> None: ...

class HookTrigger(Watched): ...

class GlobalStepTrigger(HookTrigger):
    _global_step_tensor: Any

class StopAtStepTrigger(GlobalStepTrigger):
    _last_step: Any

class StepCounterTrigger(GlobalStepTrigger):
    _timer: Any
    _steps_per_run: Any
    _last_global_step: Any

class LoggingTensorTrigger(HookTrigger):
    _timer: Any
    _iter_count: Any
    _should_trigger: Any

class NanTensorTrigger(HookTrigger):
    _loss_tensor: Any

class ProfilerTrigger(GlobalStepTrigger):
    _timer: Any
    _next_step: Any
    _request_summary: Any

class SummarySaverTrigger(ProfilerTrigger):
    _summary_writer: Any

class CheckpointSaverTrigger(GlobalStepTrigger):
    _timer: Any
    _steps_per_run: Any

class GlobalStepWaiterTrigger(HookTrigger):
    _worker_is_started: Any

class WandbTrigger(GlobalStepTrigger):
    _steps_per_log: Any
    # Global step that the last run in this session returned.
    _seen: Any
    # By how much it grew when it last grew.
    _increment: Any
    # Smallest step whose row is still to be logged.
    _next_row: Any
    def observe(self, step: Any) -> None: ...

class WandbPeerTrigger(WandbTrigger): ...
