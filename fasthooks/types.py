"""Shapes of what fasthooks tells, and names for what TensorFlow has no types for."""

from typing import Any, TypeAlias, TypedDict

Session: TypeAlias = Any
TensorOrName: TypeAlias = Any


class PlanReport(TypedDict):
    """A prepared run.

    Keys:
      fetches: Names of the tensors that it fetches.
      targets: Names of the operations that it runs.
      feeds: Names of the tensors that are fed.
      ops: Size of the pruned graph, ops; -1: not counted.
      scheduling: "pool", "inline", or "trial" while both are timed.
      reason: Why.
    """

    fetches: list[str]
    targets: list[str]
    feeds: list[str]
    ops: int
    scheduling: str
    reason: str


class Report(TypedDict):
    """How the steps of a raw session went. `planned_steps`, `declined` and `unrun_steps` add up to `steps`.

    Keys:
      steps: Steps that were begun.
      planned_steps: Those that took a prepared run, whatever came of it.
      declined: Reason -> number of those that took TensorFlow's own way for it.
      unrun_steps: Those that ran nothing, because a hook or a bad feed raised before, or because they have just begun.
      plans_made: How many runs were prepared.
      plans_evicted: How many of these were dropped to make room.
      plans: The prepared runs that are kept.
    """

    steps: int
    planned_steps: int
    declined: dict[str, int]
    unrun_steps: int
    plans_made: int
    plans_evicted: int
    plans: list[PlanReport]
