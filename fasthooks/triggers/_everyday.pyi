"""Triggers of the everyday hooks: a mean over all runs, a limit of time. What Python can see of it."""

from typing import Any

from fasthooks.triggers._trigger import HookTrigger, PeriodTrigger

class MeanTrigger(PeriodTrigger):
    # What is fetched on every run: the global step and values, a float64 vector.
    _packed: Any
    # The last step and the sums of the values since the last row, and of how many runs.
    _sums: Any
    _added: int
    def take(self, packed: Any = None) -> tuple[Any, int] | None: ...

class TimeLimitTrigger(HookTrigger):
    # Seconds since the epoch.
    _limit: float
