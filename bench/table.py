"""Rows of the table of budgets: made, and printed as text, as Markdown and with the environment they were measured in."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import time

import numpy as np

from bench import common

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def progress(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def row(budget, what, peer_us, ours_us, values, bar=None, at_most=False, unit="x", within=None, low_end=None, **more):
    """One line of the table.

    Args:
      budget: "B1", ...
      what: what was measured.
      peer_us, ours_us: µs per round, or None where there is no such figure; with other units, say so in `what`.
      values: one figure per round: a ratio (unit "x") or a difference in `unit`.
      bar: what the median of `values` is held against, if anything.
      at_most: the bar is an upper bound, else a lower one.
      within: the bar is neither; the median may be so far from it on either side.
      low_end: what the lower end of the 95% interval is held against, if anything.
      more: further figures for the JSON file.

    Made when its lanes are closed, so that the JSON file says on which devices their graph ran.
    """
    value = common.summarize(values)
    met = low_end is None or value["low95"] >= low_end
    if within is not None:
        met &= abs(value["median"] - bar) <= within
    elif bar is not None:
        met &= value["median"] <= bar if at_most else value["median"] >= bar
    return {
        "budget": budget,
        "what": what,
        "peer_us": None if peer_us is None else float(np.median(peer_us)),
        "ours_us": None if ours_us is None else float(np.median(ours_us)),
        "value": value,
        "unit": unit,
        "bar": bar,
        "at_most": at_most,
        "within": within,
        "low_end": low_end,
        "met": bool(met),
        "devices": common.devices.of_row(),
        "rounds": {
            "peer_us": None if peer_us is None else np.asarray(peer_us, float).tolist(),
            "ours_us": None if ours_us is None else np.asarray(ours_us, float).tolist(),
            "value": np.asarray(values, float).tolist(),
        },
        **more,
    }


# ----------------------------------------------------------------------------------------------------------------------
# Text


def _number(value, places=2):
    return "-" if value is None else f"{value:,.{places}f}" if abs(value) < 1000 else f"{value:,.0f}"


def _unit(row):
    return "" if row["unit"] == "x" else " " + row["unit"]


def _interval(row):
    return f"{_number(row['value']['low95'])} .. {_number(row['value']['high95'])}"


def _bar(row, at_least=">=", at_most="<=", around="+-"):
    bars = []
    if row["within"] is not None:
        bars.append(f"{row['bar']:g} {around} {row['within']:g}")
    elif row["bar"] is not None:
        bars.append(f"{at_most if row['at_most'] else at_least} {row['bar']:g}{_unit(row)}")
    if row["low_end"] is not None:
        bars.append(f"low end {at_least} {row['low_end']:g}")
    return ", ".join(bars)


def format_table(rows):
    """The rows as text, one line each."""
    heads = ("budget", "what", "peer µs", "ours µs", "min", "median", "max", "95% interval", "bar", "met")
    lines = [heads]
    for r in rows:
        value = r["value"]
        lines.append(
            (
                r["budget"],
                r["what"],
                _number(r["peer_us"]),
                _number(r["ours_us"]),
                _number(value["min"]),
                _number(value["median"]) + _unit(r),
                _number(value["max"]),
                _interval(r),
                _bar(r),
                "yes" if r["met"] else "NO",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    left = {0, 1, 9}

    def justify(line):
        cells = [cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        return "  ".join(cells).rstrip()

    text = [justify(line) for line in lines]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def format_markdown(rows):
    """The rows as the table of docs/benchmarks.md."""
    lines = ["| budget | what | peer µs | ours µs | median | 95% interval | bar | met |", "|---|---|---:|---:|---:|---|---|---|"]
    for r in rows:
        cells = (
            r["budget"],
            r["what"],
            "" if r["peer_us"] is None else _number(r["peer_us"], 1),
            "" if r["ours_us"] is None else _number(r["ours_us"], 1),
            _number(r["value"]["median"]) + _unit(r),
            _interval(r),
            _bar(r, "≥", "≤", "±"),
            "yes" if r["met"] else "**no**",
        )
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def format_environment(found):
    """One line of what `environment` found: what figures depend on most."""
    machine = ", ".join([f"{found['cpu']} ({found['cpu_count']} cores, load {found['load_average']:.1f})", *found["gpus"]])
    return f"Python {found['python']}, TensorFlow {found['tensorflow']}, NumPy {found['numpy']}, {machine}, {found['date']}"


def environment():
    """Versions and machine."""

    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return getattr(sys.modules.get(package), "__version__", None)

    def git(*arguments):
        try:
            done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def gpu_name(gpu):
        return common.tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)

    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as info:
        cpu = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "tensorflow": common.tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "fasthooks": version("fasthooks"),
        "wandb": version("wandb"),
        "cpu": cpu,
        "cpu_count": os.cpu_count(),
        "gpus": [gpu_name(gpu) for gpu in common.tf.config.list_physical_devices("GPU")],
        "load_average": os.getloadavg()[0],
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changed is None else bool(changed),
    }
