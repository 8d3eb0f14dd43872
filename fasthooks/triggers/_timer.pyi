"""`SecondOrStepTimer`, and one look at a timer of any class. What Python can see of it."""

from typing import Any

from typing_extensions import Self

from fasthooks.triggers._guard import Watched

class Timer(Watched):
    # Numbers or None.
    _every_secs: Any
    _every_steps: Any
    _last_triggered_step: Any
    _last_triggered_time: Any
    def should_trigger_for_step(self, step: Any) -> bool: ...

class TimerView:
    # The timer that is looked at.
    @property
    def timer(self) -> Any: ...
    def __new__(cls, timer: Any) -> Self: ...
