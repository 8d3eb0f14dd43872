"""Whole programs, in processes of their own: `python -m fasthooks run script.py` does what `python script.py` does.

The programs are those of `bench/programs`, unchanged; `test_runner.py` starts the commands as users do. Compared are stdout,
TensorFlow's log lines, checkpoints (every variable of every one, bitwise), event files, graphs and exit codes; durations and what
follows from them are masked first.
"""

import contextlib
import json
import pathlib
import re
import subprocess

import apart
import pytest
from helpers import _comparable, describe_files

pytest.importorskip("bench", reason="the programs are not beside the tests")

from bench import compare_programs
from bench.compare_programs import EVERYDAY, PROGRAMS

ROOT = pathlib.Path(compare_programs.__file__).parents[1]
# TensorFlow warns of its deprecated reader of event files.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]

LIMIT_SECS = 280  # for one program
STEPS = 600  # past the checkpoint that most programs write at 500
# Its loop runs a plain session: there is nothing that `run` could speed up.
WITHOUT_HOOKS = {"plain_session"}
# Summaries that tell how fast the program was, or how far its input threads were ahead.
TIMED_TAGS = ("global_step/sec", "fraction_of_")


def start(program, directory, *command):
    """Starts a program as `python program` does, or, with a command, `python -m fasthooks command program`."""
    command = ["-m", "fasthooks", *command] if command else []
    return apart.Process(*apart.python(*command, program, "--dir", directory, "--steps", STEPS), stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, cwd=ROOT)


def masked_event(event):
    """An event of `describe_files`, without values that depend on time."""
    kind, contents = event
    if kind == "summary" and any(tag in contents for tag in TIMED_TAGS):
        values = re.split(r"(?=  value \{)", contents)
        contents = "".join(re.sub(r"simple_value: .*", "", v) if any(tag in v for tag in TIMED_TAGS) else v for v in values)
    return kind, contents


def outcome(process, directory):
    """What can be seen of a program after its end, and its stderr."""
    output, errors = compare_programs.finish(process, LIMIT_SECS)
    lines = output.splitlines()
    told = json.loads(lines[-1])
    assert told.pop("seconds") > 0
    files = describe_files(directory)
    for name, contents in files.items():
        if "events." in name:
            files[name] = [masked_event(event) for event in contents]
    # Whether a read of the global step comes before its increment is the graph's to say, on each run anew, where nothing orders
    # the two; a run of each kind in turn looks like a step that stands still.
    # Our own lines tell of hooks that are slow on this machine.
    logs = [line for line in errors.splitlines()
            if re.match("(INFO|WARNING|ERROR):tensorflow:(?!It seems that global step|fasthooks: )", line)]
    logs = [re.sub(r"[\d.]+ sec\b", "SECS", re.sub(r"(global_step/sec: ).*", r"\1", line)) for line in logs]
    return _comparable({"stdout": lines[:-1], "told": told, "logs": logs, "files": files}, directory), errors


def assert_profiled(name, stock, directory):
    """Asserts that a program does the same under `profile` too, and that the rows of its sessions add up to their turns."""
    process = start(PROGRAMS[name], directory / "profiled", "profile", "--json", directory / "figures.json")
    profiled, errors = outcome(process, directory / "profiled")
    for seen in stock:
        assert profiled[seen] == stock[seen], seen
    sessions = json.loads((directory / "figures.json").read_text())["sessions"]
    assert bool(sessions) == (name not in WITHOUT_HOOKS)
    assert sum(session["turns"] for session in sessions) >= (STEPS - 100) * bool(sessions)
    for session in sessions:
        rows = [session["loop"], session["native"], session["stock"], *session["hooks"]]
        whole = sum(row["us_per_turn"] for row in rows) + session["fasthooks_us_per_turn"]
        assert whole == pytest.approx(session["turn"]["us_per_turn"], rel=0.01)
        assert session["fasthooks_us_per_turn"] > 0
        assert session["native"]["calls"] + session["stock"]["calls"] == session["turns"]
        assert f"session {session['session']}: {session['turns']:,} turns" in errors


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_does_the_same_under_run(name, tmp_path):
    path = pathlib.Path(PROGRAMS[name])
    if "sklearn" in path.read_text():
        pytest.importorskip("sklearn")
    with contextlib.ExitStack() as stack:
        processes = start(path, tmp_path / "stock"), start(path, tmp_path / "patched", "run", "--report")
        for process in processes:  # both at once
            stack.enter_context(process)
            stack.callback(process.kill)
        stock, _ = outcome(processes[0], tmp_path / "stock")
        ours, errors = outcome(processes[1], tmp_path / "patched")
    for seen in stock:
        assert ours[seen] == stock[seen], seen
    assert_profiled(name, stock, tmp_path)

    assert stock["told"]["steps"] >= STEPS
    assert sum(file.endswith(".index") for file in stock["files"]) >= 2
    assert any(kind == "summary" for file, events in stock["files"].items() if "events." in file for kind, _ in events)
    steps, planned = compare_programs.reported_steps(errors)
    if name in WITHOUT_HOOKS:
        assert steps == 0
    else:
        assert steps >= STEPS
        assert planned > 0.9 * steps


@pytest.mark.parametrize("name", EVERYDAY)
def test_program_with_everyday_hooks_ends_where_the_old_one_does(name, tmp_path):
    pytest.importorskip("sklearn")
    with contextlib.ExitStack() as stack:
        processes = {}
        for version, programs in (("old", PROGRAMS), ("new", EVERYDAY)):
            process = stack.enter_context(start(programs[name], tmp_path / version))
            stack.callback(process.kill)
            processes[version] = process
        (old, _), (new, errors) = (outcome(processes[version], tmp_path / version) for version in ("old", "new"))
    # The old program evaluates at other steps: where the read of the step that it makes is a multiple.
    assert (len(new["stdout"]), new["told"]) == (len(old["stdout"]), old["told"])
    last = f"model.ckpt-{STEPS}.index"
    assert new["files"][last] == old["files"][last]
    if name == "mlp_feed":
        rows = (tmp_path / "new" / "metrics.csv").read_text().splitlines()
        assert rows[0] == "step,time,loss,accuracy,steps_per_sec,examples_per_sec"
        assert [int(row.partition(",")[0]) for row in rows[1:]] == list(range(0, STEPS, 100))
        assert f"step {STEPS} of {STEPS} (100.0 %)" in errors
    else:
        best = json.loads((tmp_path / "new" / "best" / "best_checkpoints.json").read_text())["checkpoints"]
        shown = [float(line.split()[1]) for line in new["stdout"] if line.startswith("accuracy")]
        assert len(shown) == STEPS / 100 and round(best[0]["value"], 4) == max(shown)


def test_programs_know_nothing_of_fasthooks():
    assert len(PROGRAMS) >= 8
    for path in PROGRAMS.values():
        assert "fasthooks" not in pathlib.Path(path).read_text()
