"""Command line of fasthooks: `python -m fasthooks <command>`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import fasthooks

# Command -> module that implements it. A command's module has a docstring whose first line is its help, and offers
# `add_arguments(parser)` and `main(args) -> exit code`. It is imported to build the parser, so it imports TensorFlow
# and other heavy packages only inside `main`.
COMMANDS = {
    "demo": "fasthooks.cli.demo",
    "profile": "fasthooks.cli.profile",
    "run": "fasthooks.cli.run",
}


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import platform
        from importlib import metadata

        packages = sorted(set(metadata.packages_distributions().get("tensorflow", [])))
        found = [f"{name} {metadata.version(name)}" for name in packages] or ["no TensorFlow"]
        print(f"fasthooks {fasthooks.__version__}, {', '.join(found)}, Python {platform.python_version()}, {platform.platform()}")
        parser.exit()


def build_parser(names: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fasthooks",
        description="fasthooks runs TensorFlow's MonitoredSession and its hooks at the speed of TensorFlow's own runtime.",
        epilog=" ".join(["`python -m fasthooks COMMAND --help` explains a command.",
                         *[f"{fasthooks._NO_TENSORFLOW}."] * (importlib.util.find_spec("tensorflow") is None)]),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the versions that a report of a bug needs, and exit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name in names:
        module = importlib.import_module(COMMANDS[name])
        description = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=description.partition("\n")[0],
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` names and returns its exit code."""
    if argv is None:
        argv = sys.argv[1:]
    # A program that is run has its own idea of what is imported before it.
    args = build_parser(COMMANDS.keys() & argv[:1] or COMMANDS).parse_args(argv)
    return args.main(args)


if __name__ == "__main__":
    sys.exit(main())
