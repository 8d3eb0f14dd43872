"""Shapes of what fasthooks tells, and names for what TensorFlow has no types for."""

from typing import Any, Literal, TypeAlias, TypedDict

Session: TypeAlias = Any
TensorOrName: TypeAlias = Any
Scheduling: TypeAlias = Literal["auto", "pool", "inline"]


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


class TimeRow(TypedDict):
    """Where time goes, of one kind.

    Keys:
      us_per_turn: µs of an average turn, a step and the program's own code before it. Those of a session's rows add up.
      share: The same as a share of the turn, 0 to 1.
      calls: How often.
      us_per_call: Mean, µs.
      median_us: Median, within 13 %; None: not known.
      longest_us: None: not known.
      longest_step: Global step of the longest; None: no hook fetched it.
    """

    us_per_turn: float
    share: float
    calls: int
    us_per_call: float
    median_us: float | None
    longest_us: float | None
    longest_step: int | None


class HookRow(TimeRow):
    """Where time goes, of one hook.

    Keys:
      hook: Its class, its `name` if it has one, its place in the hooks list.
      method: "before_run" or "after_run", with the runs that the hook makes there; or "its fetches", by which the native run
        takes longer, by the difference of the medians, when only this hook asks for something beyond what is usual. Of several
        that do so on the same steps: "their fetches".
      and those of TimeRow.
    """

    hook: str
    method: str


class OnceRow(TypedDict):
    """What is called once in a session, of one hook.

    Keys:
      hook: As in HookRow.
      method: "begin", "after_create_session" or "end".
      calls: How often: more than once for a hook that is listed twice, and in the last session that is kept apart.
      ms_per_call: Mean, ms, with the runs that the hook makes there.
    """

    hook: str
    method: str
    calls: int
    ms_per_call: float


class SessionProfile(TypedDict):
    """What the steps of one raw session cost.

    Keys:
      session: Its number, from 1 on, in the order of their first steps. One that was recovered is a new one.
      turns: Steps that were counted.
      left_out: Steps that were not, since the session was new.
      failed: Steps that ended in an exception. They are not counted, but the calls of their hooks are.
      turn, step: A step with the program's own code before it, and without.
      loop: That code, between steps of one thread.
      native: The native runs, without what hooks' own fetches add.
      stock: Steps that took TensorFlow's own way through the hooks: their parts are not seen.
      hooks: The most expensive hook first.
      fasthooks_us_per_turn: What is left: quiet hooks, plans, feeds, results.
      own_runs_us_per_turn: Of the hooks' time: in runs that they made themselves.
      quiet: Hooks that were not called on any step, because they had nothing to do.
      once: What was called once and is in no turn, the most expensive hook first. Nothing is known of what was called before the
        profile began, and none of it in sessions that are not built by `MonitoredSession` or `SingularMonitoredSession`.
    """

    session: int
    turns: int
    left_out: int
    failed: int
    turn: TimeRow
    step: TimeRow
    loop: TimeRow
    native: TimeRow
    stock: TimeRow
    hooks: list[HookRow]
    fasthooks_us_per_turn: float
    own_runs_us_per_turn: float
    quiet: list[str]
    once: list[OnceRow]


class ProfileReport(TypedDict):
    """What steps and hooks cost while a profile was in force.

    Keys:
      skip_steps: How many steps at the begin of each session are left out.
      sessions: The first 64; those after them are counted together with the last.
    """

    skip_steps: int
    sessions: list[SessionProfile]
