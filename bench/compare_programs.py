"""Runs the programs of `bench/programs` under `python` and under `python -m fasthooks run`, and prints both speeds.

    python bench/compare_programs.py                     all programs, 5 rounds
    python bench/compare_programs.py --only gan,mlp_feed --rounds 3 --steps 1000
    python bench/compare_programs.py --json figures.json

Every run is a process of its own with a directory of its own. A program tells its steps and the seconds of its training loop
in a line of JSON, the last of its output.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.append(ROOT)  # at the end: an installed fasthooks is found first

import numpy as np  # noqa: E402

from bench.table import environment, progress  # noqa: E402

_DIRECTORY = os.path.join(ROOT, "bench", "programs")
# Name of a program -> its path.
PROGRAMS = {name[:-3]: os.path.join(_DIRECTORY, name) for name in sorted(os.listdir(_DIRECTORY)) if name.endswith(".py")}
# Two of them as one writes them with the everyday hooks of fasthooks.
_EVERYDAY = os.path.join(_DIRECTORY, "everyday")
EVERYDAY = {name[:-3]: os.path.join(_EVERYDAY, name) for name in sorted(os.listdir(_EVERYDAY)) if name.endswith(".py")}
LIMIT_SECS = 600  # for one run of one program

STOCK, PATCHED = "python", "fasthooks run"
LAUNCHERS = {
    STOCK: [sys.executable],
    PATCHED: [sys.executable, "-m", "fasthooks", "run", "--report"],
}


class ProgramError(Exception):
    """A program ended with another exit code than 0; the message has the end of its stderr."""


def start(launcher, path, directory, steps=None):
    """Starts a program under one of `LAUNCHERS`; `steps` is the program's own default if left out."""
    command = [*LAUNCHERS[launcher], path, "--dir", directory]
    if steps:
        command += ["--steps", str(steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})


def finish(process, limit_secs=LIMIT_SECS):
    """Waits for a program's end; returns its stdout and stderr.

    Raises:
      ProgramError: the exit code is not 0.
      subprocess.TimeoutExpired: it took too long and was killed.
    """
    try:
        output, errors = process.communicate(timeout=limit_secs)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if process.returncode:
        raise ProgramError(f"exit code {process.returncode}\n{errors[-3000:]}")
    return output, errors


def reported_steps(errors):
    """Returns (steps of hooked sessions, how many of them took a plan) as `--report` wrote them to stderr."""
    steps, planned = re.search(r"^fasthooks: ([\d,]+) steps, ([\d,]+) of them", errors, re.MULTILINE).groups()
    return int(steps.replace(",", "")), int(planned.replace(",", ""))


def measure(path, launcher, steps=None):
    """Runs a program once; returns steps per second and, where there is a report, the share of the steps that took a plan."""
    with tempfile.TemporaryDirectory() as directory:
        output, errors = finish(start(launcher, path, directory, steps))
    told = json.loads(output.splitlines()[-1])
    share = None
    if launcher == PATCHED:
        every, planned = reported_steps(errors)
        share = planned / every if every else 0.0
    return told["steps"] / told["seconds"], share


def compare(names, rounds, steps=None):
    """Runs each program stock and patched in turn, `rounds` times over.

    Returns:
      One row per program: a dict with the figures of each round, and "error" where the program failed.
    """
    rows = {name: {"program": name, "what": describe(PROGRAMS[name]), STOCK: [], PATCHED: [], "planned": None} for name in names}
    for number in range(rounds):
        for name, row in rows.items():
            if "error" in row:
                continue
            try:
                for launcher in (STOCK, PATCHED) if number % 2 else (PATCHED, STOCK):
                    speed, share = measure(PROGRAMS[name], launcher, steps)
                    row[launcher].append(speed)
                    row["planned"] = row["planned"] if share is None else share
            except (ProgramError, subprocess.TimeoutExpired) as error:
                row["error"] = f"{type(error).__name__}: {error}"
                progress(f"{name} not measured: {row['error']}")
            else:
                progress(f"round {number + 1} of {rounds}: {name}: {row[STOCK][-1]:,.0f} -> {row[PATCHED][-1]:,.0f} steps/s")
    return list(rows.values())


def describe(path):
    """What a program shows: the first line of its docstring."""
    with open(path) as file:
        return ast.get_docstring(ast.parse(file.read())).splitlines()[0].rstrip(".")


def format_table(rows):
    """The rows as a Markdown table; a program that failed is left out."""
    lines = [
        f"| program | what it is | steps/s, `{STOCK}` | steps/s, `{PATCHED}` | ratio | min .. max | planned steps |",
        "|---|---|---:|---:|---:|---|---:|",
    ]
    for row in rows:
        if "error" in row:
            continue
        ratio = np.array(row[PATCHED]) / np.array(row[STOCK])
        lines.append(
            f"| `{row['program']}` | {row['what']} | {np.median(row[STOCK]):,.0f} | {np.median(row[PATCHED]):,.0f} "
            f"| {np.median(ratio):.2f} | {ratio.min():.2f} .. {ratio.max():.2f} | {row['planned']:.0%} |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PROGRAMS), help="comma-separated programs, such as gan,mlp_feed")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program each way (5)")
    parser.add_argument("--steps", type=int, help="steps of each run; each program has its own default")
    parser.add_argument("--json", metavar="FILE", help="write all figures and versions there")
    args = parser.parse_args(argv)
    names = [name.strip() for name in args.only.split(",") if name.strip()]
    unknown = sorted(set(names) - set(PROGRAMS))
    if unknown:
        parser.error(f"--only: unknown programs {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    for option in ("rounds", "steps"):
        value = getattr(args, option)
        if value is not None and value < 1:
            parser.error(f"--{option} must be at least 1, got {value}")

    rows = compare(names, args.rounds, args.steps)
    print(format_table(rows))
    failed = [row for row in rows if "error" in row]
    for row in failed:
        print(f"{row['program']} not measured: {row['error'].splitlines()[0]}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"environment": environment(), "rounds": args.rounds, "steps": args.steps, "rows": rows}, file, indent=1)
            file.write("\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
