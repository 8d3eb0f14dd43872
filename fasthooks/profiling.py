"""What hooks cost: `profile`, and a warning for those that are slow on every step.

The dispatcher times its steps (`step/_profile.pyx`); here what was collected is made into rows, a table and a trace.
"""

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from tensorflow.python.client import session as session_lib
from tensorflow.python.platform import tf_logging as logging

from fasthooks import patching, session_calls, step_limits
from fasthooks.arguments import as_float, as_int
from fasthooks.step import _profile
from fasthooks.types import HookRow, OnceRow, ProfileReport, SessionProfile, TimeRow

_lock = threading.Lock()
_profile_in_force: "Profile | None" = None
_watch: _profile.Collector | None = None  # of `warn_slow_hooks`


def _stop_in_child():
    # What is under way in a fork is the parent's.
    global _lock, _profile_in_force, _watch
    _lock, _profile_in_force, _watch = threading.Lock(), None, None
    _profile.install(None)
    session_calls.forget()


os.register_at_fork(after_in_child=_stop_in_child)


def run(self: Any, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None) -> Any:
    began = time.perf_counter_ns()
    try:
        return _run.original(self, fetches, feed_dict, options, run_metadata)
    finally:
        _profile.note_own_run(time.perf_counter_ns() - began)


# Tells the runs that hooks make themselves.
_run = patching.Replacement(session_lib.BaseSession, "run", run)


def _warn(hook, calls, steps):
    # That a hook is slow: see `_profile.Collector`.
    always = calls.median() > 0.5 * calls.usual_mean()
    mine, all_ = (calls.median(), steps.median()) if always else (calls.usual_mean(), steps.usual_mean())
    logging.warning(
        "fasthooks: %s.%s takes %s µs of a %s µs step (%.0f %%), %s. Wrap it in fasthooks.Every, or see what it costs: "
        "python -m fasthooks profile", hook.name, calls.method, _us(mine / 1000), _us(all_ / 1000), 100 * mine / all_,
        "on every step" if always else "on average")


def _collector(skip_steps, trace_steps, share, min_us):
    for name, value in (("skip_steps", skip_steps), ("trace_steps", trace_steps)):
        most, number = step_limits.MOST_STEPS[name], as_int(value)
        if number is None or not 0 <= number <= most:
            raise ValueError(f"{name} must be an int from 0 to {most:,}; got {value!r}.")
    if share is None:
        return _profile.Collector(skip_steps, trace_steps, 0.0, 0.0, None)
    if not 0 < as_float(share) <= 1:
        raise ValueError(f"The share of a slow hook must be a number over 0, at most 1; got {share!r}.")
    if not as_float(min_us) >= 0:
        raise ValueError(f"min_us must be a number of at least 0; got {min_us!r}.")
    return _profile.Collector(skip_steps, trace_steps, share, 1000.0 * as_float(min_us), _warn)


class Profile:
    """What steps and hooks cost, as far as is known by now; see `profile`."""

    def __init__(self, collector: _profile.Collector) -> None:
        self._collector = collector
        self._process = os.getpid()

    def report(self) -> ProfileReport:
        """Returns all figures. It may be called while the profile runs, and after."""
        sessions = [_session_profile(session) for session in self._collector.sessions]
        return {"skip_steps": self._collector.skip_steps, "sessions": sessions}

    def table(self) -> str:
        """Returns a text with the same figures, a block for each session, in which the most expensive hook comes first."""
        report = self.report()
        if not report["sessions"]:
            return "0 steps: fasthooks.patch() or `python -m fasthooks profile`"
        return "\n\n".join(_block(session, report["skip_steps"]) for session in report["sessions"])

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes the steps that were traced as Chrome trace events (JSON), for Perfetto and chrome://tracing.

        Args:
          path: Of the file, which is replaced once it is whole.
        """
        process = os.getpid()
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": process, "tid": process, "args": {"name": "fasthooks"}}]
        events += [{"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": name}}
                   for thread, name in list(self._collector.threads.items())]
        for label, thread, began, ns, step, plan in self._collector.trace_events():
            known = {"global_step": step, "plan": plan}
            args = {name: value for name, value in known.items() if value != {"global_step": -1, "plan": 0}[name]}
            events.append({"ph": "X", "name": label, "pid": process, "tid": thread, "ts": began / 1000, "dur": ns / 1000,
                           "args": args})
        unfinished = f"{os.fsdecode(path)}.{process}.unfinished"
        try:
            with open(unfinished, "w") as file:
                json.dump({"traceEvents": events, "displayTimeUnit": "ns"}, file)
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            raise


@contextlib.contextmanager
def profile(*, skip_steps: int = 100, trace: str | os.PathLike[str] | None = None, trace_steps: int = 2000,
            slow_hook_share: float | None = 0.25) -> Iterator[Profile]:
    """Finds out what hooks cost, in `with fasthooks.profile() as profile:`, for all steps that fasthooks runs meanwhile.

    These are the steps of our sessions and, with a hook of ours or while `patch` is in force, of TensorFlow's, on all threads,
    of sessions that exist already too. A step lasts from the dispatcher's entry to its return; what comes before it on the
    same thread, back to the return of the step before, is the program's loop (for TensorFlow's own sessions with what their
    chain does), unless another step ran meanwhile. Hooks that have nothing to do are not timed one by one. `begin`,
    `after_create_session` and `end` of hooks are timed too, apart from the turns, of monitored sessions that make a step. A child
    of a fork is not profiled.

    Args:
      skip_steps: So many steps at the begin of each session are left out: plans are prepared, kernels warm up.
      trace: Path of a Chrome trace that is written at the end of the block; None: none is. If the block ends with an error, one
        of writing is only logged.
      trace_steps: So many steps are kept for traces, as far as there is room for 16 events a step, of 40 bytes each.
      slow_hook_share: As `share` of `warn_slow_hooks`; None: no hook is warned of.

    Yields:
      A Profile. `print(profile.table())` shows where the time goes.

    Raises:
      RuntimeError: Another profile is in force in this process.
      ValueError: A number is out of its range.
      FileNotFoundError: There is no directory for the trace.

    Cost: 0.2 to 0.4 µs a step and 0.1 to 0.2 µs a call of a hook while it is in force, as fast as the machine reads its clock;
      none after (`bench/budgets.py`, A2).
    """
    global _profile_in_force
    collector = _collector(skip_steps, trace_steps, slow_hook_share, 20.0)
    if trace is not None:
        # The program may go elsewhere; and what has gone wrong is better known before it has run.
        trace = os.path.abspath(trace)
        if not os.path.isdir(os.path.dirname(trace)):
            raise FileNotFoundError(errno.ENOENT, "There is no directory for the trace", trace)
    with _lock:
        if _profile_in_force is not None:
            raise RuntimeError("Another fasthooks.profile is in force in this process.")
        profiled = _profile_in_force = Profile(collector)
    try:
        with _lock:
            _run.install()
            session_calls.time_with(collector)
            _profile.install(collector)
        yield profiled
    except BaseException:
        if _end(profiled) and trace is not None:
            try:
                profiled.write_trace(trace)
            except OSError as error:  # what has to be seen is the program's own error
                logging.warning("fasthooks: the trace is not written: %s", error)
        raise
    if _end(profiled) and trace is not None:
        profiled.write_trace(trace)


def _end(profiled):
    # Returns whether the profile is of this process: in the child of a fork it ended with the fork.
    global _profile_in_force
    if os.getpid() != profiled._process:
        return False
    with _lock:
        _profile_in_force = None
        _profile.install(_watch)
        session_calls.time_with(None)
        _run.restore()
    return True


def warn_slow_hooks(share: float = 0.25, *, min_us: float = 20.0) -> None:
    """Logs a warning, until the process ends, for each hook that makes every step slow.

    Looked at are hooks that are called on more than half of the steps, after 32 calls and then again and again, the first 100
    steps of a session left out. The slowest calls and steps, one in 50, do not count: what is done now and then is not slowness.
    There is one line for a hook and a graph, also where the session recovers.

    Args:
      share: A hook is slow if its call takes more than this share of a step ...
      min_us: ... and so many µs.

    Raises:
      ValueError: A number is out of its range.
    """
    global _watch
    collector = _collector(100, 0, share, min_us)
    with _lock:
        _watch = collector
        if _profile_in_force is None:
            _profile.install(collector)


def hooks_in_python() -> tuple[float, float] | None:
    """Returns µs of an average step in hooks, and all of it, as seen since `warn_slow_hooks`; None: no step was."""
    sessions = [] if _watch is None else _watch.sessions
    steps = sum(session.step.count for session in sessions)
    if not steps:
        return None
    hooks = sum(calls.counted for session in sessions for _, calls in _calls(session))
    return hooks / steps / 1000, sum(session.step.total for session in sessions) / steps / 1000


# Rows


def _calls(session):
    # The methods of hooks that were called, each with its hook.
    hooks = [*session.hooks, session.other_hooks]
    return [(hook, calls) for hook in hooks for calls in (hook.before, hook.after) if calls is not None]


def _row(durations: _profile.Durations, ns: float, turn_ns: int, turns: int) -> TimeRow:
    # `ns`: those within the turns that were counted.
    seen = durations.count > 0
    return {
        "us_per_turn": ns / 1000 / max(turns, 1),
        "share": ns / turn_ns if turn_ns else 0.0,
        "calls": durations.count,
        "us_per_call": durations.total / 1000 / max(durations.count, 1),
        "median_us": durations.median() / 1000 if seen else None,
        "longest_us": durations.longest / 1000 if seen else None,
        "longest_step": durations.longest_step if durations.longest_step >= 0 else None,
    }


def _once(session):
    # Calls of what is called once a session, the most expensive hook first.
    rows: list[tuple[int, OnceRow]] = []
    for hook in [*session.hooks, session.other_hooks]:
        calls = [(method, hook.once[method]) for method in ("begin", "after_create_session", "end") if method in hook.once]
        whole = sum(durations.total for _, durations in calls)
        rows += [(whole, {"hook": hook.name, "method": method, "calls": durations.count,
                          "ms_per_call": durations.total / 1e6 / durations.count}) for method, durations in calls]
    return [row for _, row in sorted(rows, key=lambda row: -row[0])]


def _fetches(session):
    """Returns what the fetches of hooks add to native runs: a dict of (hook's name, what is told of it) -> (runs, ns).

    Compared are plans for the same fetches of the caller, by their medians: the one that ran most often, and those on which
    further hooks asked for something.
    """
    added: dict[tuple[str, str], tuple[int, float]] = {}
    by_caller: dict[Any, list[_profile.PlanTimes]] = {}
    for plan in list(session.plans.values()):
        by_caller.setdefault(plan.caller, []).append(plan)
    for plans in by_caller.values():
        usual = max(plans, key=lambda plan: plan.native.count)
        for plan in plans:
            names = [hook.name for hook in plan.acting if hook not in usual.acting]
            if names and plan.native.count:
                key = (names[0], "its fetches") if len(names) == 1 else ("several hooks together", "their fetches")
                runs, ns = added.get(key, (0, 0.0))
                more = (plan.native.median() - usual.native.median()) * plan.native.count
                added[key] = runs + plan.native.count, ns + more
    return added


def _session_profile(session: _profile.SessionTimes) -> SessionProfile:
    turn_ns, turns = session.turn.total, session.turn.count
    native = _profile.Durations()
    for plan in (*list(session.plans.values()), session.other_plans):
        native.merge(plan.native)
    hooks: list[HookRow] = []
    hooks_ns = fetches_ns = 0.0
    for hook, calls in _calls(session):
        hooks.append({"hook": hook.name, "method": calls.method, **_row(calls, calls.counted, turn_ns, turns)})
        hooks_ns += calls.counted
    for (name, method), (runs, ns) in _fetches(session).items():
        fetches = _row(_profile.Durations(), ns, turn_ns, turns)
        fetches["calls"], fetches["us_per_call"] = runs, ns / 1000 / runs
        hooks.append({"hook": name, "method": method, **fetches})
        fetches_ns += ns
    whole: dict[str, float] = {}
    for row in hooks:
        whole[row["hook"]] = whole.get(row["hook"], 0.0) + row["us_per_turn"]
    hooks.sort(key=lambda row: (-whole[row["hook"]], row["hook"], -row["us_per_turn"]))
    left_ns = session.step.total - native.total - session.stock.total - hooks_ns
    return {
        "session": session.number,
        "turns": turns,
        "left_out": session.left_out,
        "failed": session.failed,
        "turn": _row(session.turn, turn_ns, turn_ns, turns),
        "step": _row(session.step, session.step.total, turn_ns, turns),
        "loop": _row(session.loop, session.loop.total, turn_ns, turns),
        "native": _row(native, native.total - fetches_ns, turn_ns, turns),
        "stock": _row(session.stock, session.stock.total, turn_ns, turns),
        "hooks": hooks,
        "fasthooks_us_per_turn": left_ns / 1000 / max(turns, 1),
        "own_runs_us_per_turn": session.own_runs / 1000 / max(turns, 1),
        "quiet": [hook.name for hook in session.hooks if hook.before is None and hook.after is None],
        "once": _once(session),
    }


# The table


def _us(value):
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def _longest(row):
    if row["longest_us"] is None:
        return ""
    step = "" if row["longest_step"] is None else f" ({row['longest_step']:,})"
    return _us(row["longest_us"]) + step


def _line(name, row):
    median = "" if row["median_us"] is None else _us(row["median_us"])
    return (name, _us(row["us_per_turn"]), f"{row['share']:.1%}", f"{row['calls']:,}", _us(row["us_per_call"]), median,
            _longest(row))


def _columns(lines):
    # The first on the left, the others on the right.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [" " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]


def _grouped(rows):
    # Each with the name of its hook, which is shown in the first of its rows.
    width = max((len(row["hook"]) for row in rows), default=0)
    shown = None
    for row in rows:
        yield f"  {'' if row['hook'] == shown else row['hook']:{width}} {row['method']}", row
        shown = row["hook"]


def _once_block(rows):
    shown = [row for row in rows if row["ms_per_call"] >= 0.05]
    if not shown:
        return []
    lines = [("once a session", "ms/call", "calls")]
    lines += [(name, f"{row['ms_per_call']:,.1f}", f"{row['calls']:,}") for name, row in _grouped(shown)]
    others = len(rows) - len(shown)
    return [*_columns(lines), *([f"   {others} others of under 0.1 ms"] if others else [])]


def _block(session: SessionProfile, skip_steps: int) -> str:
    turn, turns = session["turn"], session["turns"]
    name = f"session {session['session']}"
    failed = f"; {session['failed']:,} steps failed and are not counted" if session["failed"] else ""
    once = _once_block(session["once"])
    if not turns:
        return "\n".join([
            f"{name}: {session['left_out']:,} steps, all within the first {skip_steps:,}, which are left out{failed}", *once])
    lines = [
        ("", "µs/turn", "share", "calls", "µs/call", "median", "longest (step)"),
        _line("native run", session["native"]),
        _line("your loop between the steps (input, feeds)", session["loop"]),
    ]
    if session["stock"]["calls"]:
        lines.append(_line("steps by TensorFlow's own way, hooks included", session["stock"]))
    hooks_us = sum(row["us_per_turn"] for row in session["hooks"])
    turn_us = turn["us_per_turn"]
    lines.append(("hooks", _us(hooks_us), f"{hooks_us / turn_us:.1%}", "", "", "", ""))
    lines += [_line(shown, row) for shown, row in _grouped(session["hooks"])]
    left = session["fasthooks_us_per_turn"]
    lines.append(("fasthooks (quiet hooks, plans, feeds, results)", _us(left), f"{left / turn_us:.1%}", "", "", "", ""))
    at = "" if turn["longest_step"] is None else f" (step {turn['longest_step']:,})"
    text = [
        f"{name}: {turns:,} turns of your loop after the first {session['left_out']:,}; {_us(turn_us)} µs mean, "
        f"{_us(turn['median_us'] or 0)} median, longest {(turn['longest_us'] or 0) / 1000:,.1f} ms{at}{failed}",
        *_columns(lines),
        f" of the hooks' time, runs that they made themselves: {_us(session['own_runs_us_per_turn'])} µs."
        + (f" Quiet throughout: {', '.join(session['quiet'])}" if session["quiet"] else ""),
        f" {session['stock']['calls']:,} of {turns:,} steps took TensorFlow's own way: fasthooks.report(session) says why"
        if session["stock"]["calls"] else " all steps by a plan",
        *once,
    ]
    return "\n".join(text)
