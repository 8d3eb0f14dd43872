"""Runs an unmodified TensorFlow program as `run` does, and tells at the end what its hooks cost.

    python -m fasthooks profile script.py [args...]
    python -m fasthooks profile -m package.module [args...]

A table on stderr shows for each session where the time of a step goes, after an error or Ctrl-C too. See `fasthooks.profile`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from fasthooks import step_limits
from fasthooks.cli import run

if TYPE_CHECKING:
    from fasthooks.profiling import Profile


def _steps(name):
    most = step_limits.MOST_STEPS[name]

    def count(text):
        if not text.isdecimal() or int(text) > most:
            raise argparse.ArgumentTypeError(f"an integer from 0 to {most:,} is expected, got {text!r}")
        return int(text)

    return count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument("--skip-steps", type=_steps("skip_steps"), default=100, metavar="N",
                        help="leave out so many steps at the begin of each session (default: 100)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there; -: to stdout, after what the program prints")
    parser.add_argument("--trace", metavar="FILE", help="write a Chrome trace there, for Perfetto or chrome://tracing")
    parser.add_argument("--trace-steps", type=_steps("trace_steps"), default=2000, metavar="N",
                        help="how many steps the trace has (default: 2000)")
    run.add_program_arguments(parser)


class _Profiled:
    # The profile of a whole program.

    profile: Profile | None = None  # None: the program has not imported TensorFlow

    def __init__(self, args):
        self.args = args
        # The program may go elsewhere.
        self.paths = {}
        for name in ("json", "trace"):
            path = getattr(args, name)
            if path and path != "-":
                self.paths[name] = os.path.abspath(path)
                if not os.path.isdir(os.path.dirname(self.paths[name])):
                    args.usage_error(f"--{name}: there is no directory for {path}")
        self.in_force = contextlib.ExitStack()

    def begin(self):
        from fasthooks import profiling

        args = self.args
        self.profile = self.in_force.enter_context(
            profiling.profile(skip_steps=args.skip_steps, trace_steps=args.trace_steps if args.trace else 0))

    def tell(self):
        if self.profile is None:
            print("fasthooks: the program did not import TensorFlow", file=sys.stderr)
            return
        self.in_force.close()
        figures = json.dumps(self.profile.report(), indent=1)
        self._write(_print, self.profile.table(), sys.stderr)
        if self.args.json == "-":
            self._write(_print, figures, sys.stdout)
        if "json" in self.paths:
            self._write(pathlib.Path(self.paths["json"]).write_text, figures)
        if "trace" in self.paths:
            self._write(self.profile.write_trace, self.paths["trace"])

    def _write(self, write, *args):
        # What else is asked for is written all the same.
        try:
            write(*args)
        except OSError as error:
            with contextlib.suppress(OSError):
                _print(f"fasthooks: not written: {error}", sys.stderr)


def _print(text, file):
    try:
        print(text, file=file)
    except ValueError as error:  # the program closed it, or its encoding has not all of the text
        raise OSError(str(error)) from error


def main(args: argparse.Namespace) -> int:
    """Runs the command and returns the program's exit code."""
    profiled = _Profiled(args)
    return run.run_program(args, profiled.begin, profiled.tell)
