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

class PeriodTrigger(GlobalStepTrigger):
    # The period; one of them, the others are None.
    _steps: int | None
    _iters: int | None
    _secs: float | None
    # Largest global step that a run returned.
    _seen: int | None
    # By how much a run is expected to move it, and whether that is what the graph adds.
    _increment: int
    _is_constant: bool
    # Step, number or time of the last run that acted, and of one that is under way.
    _last: float | None
    _claimed: float | None
    # How many runs have ended, and whether the last of them acted.
    _runs: int
    _acted: bool
    _fetches_always: bool
    def claim(self) -> bool: ...
    def observe(self, results: Any) -> None: ...
    def settle(self, step: Any) -> None: ...
