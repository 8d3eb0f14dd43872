"""Runs an unmodified TensorFlow program with `fasthooks.patch()` in force, in all else as `python` runs it.

    python -m fasthooks run script.py [args...]
    python -m fasthooks run -m package.module [args...]

TensorFlow is patched as soon as the program has imported it. What stands behind the program's name is the program's.
"""

from __future__ import annotations

import argparse
import atexit
import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import io
import marshal
import os
import pkgutil
import runpy
import sys
import types
from collections.abc import Callable

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument("--report", action="store_true",
                        help="tell on stderr at the end how many steps ran, how many of them took a plan, what fell back "
                             "to TensorFlow's own way and why, steps per second, and what hooks in Python took; warn of "
                             "hooks that make every step slow")
    add_program_arguments(parser)


def add_program_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `run_program` looks at: the program, and what is patched."""
    parser.add_argument("--sessions", action="store_true",
                        help="accelerate plain sessions too, every tf.compat.v1.Session and InteractiveSession")
    # What follows the program is the program's, whatever it looks like.
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE [ARGS ...]",
                        help="run a module, as `python -m`")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGS ...]", help="run a script")
    parser.set_defaults(usage_error=parser.error)


class _PatchingLoader(importlib.abc.Loader):
    # TensorFlow's own loader, and then the patch.

    def __init__(self, loader, finder):
        self._loader = loader
        self._finder = finder

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        try:
            from fasthooks import known_tensorflow

            known_tensorflow.refuse_old()
            from fasthooks import patching

            patching.patch(sessions=self._finder.sessions)
            self._finder.when_patched()
            _hide_our_frames()
        except Exception as error:  # a package of that name that is another, or broken: the program's own affair
            print(f"fasthooks: not patched: {type(error).__name__}: {error}", file=sys.stderr)

    def __getattr__(self, name):
        return getattr(self._loader, name)


class _PatchOnImport(importlib.abc.MetaPathFinder):
    # Patches when the program imports TensorFlow, not before: it may set environment variables that TensorFlow reads.

    def __init__(self, sessions, when_patched):
        self.sessions = sessions
        self.when_patched = when_patched

    def find_spec(self, name, path, target=None):
        if name != "tensorflow":
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, self)
        return spec


def _hide_our_frames():
    # From the stacks that TensorFlow keeps for each op and shows in its errors, of this thread.
    from tensorflow.python.util import tf_stack

    class Filter(tf_stack.StackTraceFilter):
        def get_filtered_filenames(self):
            commands = [os.path.join(_PACKAGE, *name) for name in (["__main__.py"], ["cli", "run.py"], ["cli", "profile.py"])]
            return frozenset([*commands, runpy.run_module.__code__.co_filename])

    Filter().__enter__()


def _run_script(path):
    absolute = os.path.join(os.getcwd(), path)
    loader = importlib.machinery.SourceFileLoader("__main__", absolute)
    main = sys.modules["__main__"]
    vars(main).update(__package__=None, __loader__=loader, __spec__=None, __file__=absolute, __cached__=None)
    try:
        with io.open_code(absolute) as file:
            source = file.read()
    except OSError as error:
        print(f"{sys.executable}: can't open file {absolute!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        sys.exit(2)
    if source.startswith(importlib.util.MAGIC_NUMBER):
        code = marshal.loads(source[16:])
    else:
        code = compile(source, absolute, "exec", dont_inherit=True)
    exec(code, vars(main))


def _run(args):
    # As `python` does it; `__main__` is the program's own from here on, also for what outlives this function.
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __annotations__={})
    if args.module is not None:
        program, *rest = args.module + args.script
        sys.argv = ["-m", *rest]
        runpy._run_module_as_main(program)  # type: ignore[attr-defined]
        return
    sys.argv = args.script
    program = args.script[0]
    importable = pkgutil.get_importer(program) is not None  # a directory or a zip file
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.join(os.getcwd(), program if importable else os.path.dirname(os.path.realpath(program)))
    if importable:
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
    else:
        _run_script(program)


def _is_ours(filename):
    # Compiled modules have the paths of their sources relative to the project.
    return filename.startswith((_PACKAGE + os.sep, os.path.basename(_PACKAGE) + os.sep))


def _without_our_frames(traceback):
    entries: list[types.TracebackType] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code is _run.__code__ or code is _run_script.__code__:
            entries = []  # what stands above the program
        elif not _is_ours(code.co_filename):
            entries.append(traceback)
        traceback = traceback.tb_next
    shown = None
    for entry in reversed(entries):
        shown = types.TracebackType(shown, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shown


def _own(error, name):
    # Not through the error's class, which may have attributes of such names with a mind of their own.
    return vars(BaseException)[name].__get__(error)


def _show_without_our_frames():
    # The interpreter reports the error and ends the process, as it would; it is only to show other tracebacks.
    excepthook = getattr(sys, "excepthook", sys.__excepthook__)

    def show(kind, value, traceback):
        seen = set()
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if one is not None and id(one) not in seen:
                seen.add(id(one))
                BaseException.with_traceback(one, _without_our_frames(_own(one, "__traceback__")))
                waiting += [_own(one, "__cause__"), _own(one, "__context__")]
        excepthook(kind, value, _own(value, "__traceback__"))

    sys.excepthook = show


def _begin_report():
    from fasthooks import profiling
    from fasthooks.step import _plan

    _plan.time_steps()  # for the report the clock is read once a step
    profiling.warn_slow_hooks()


def _print_report():
    if "fasthooks.step._plan" not in sys.modules:
        print("fasthooks: the program did not import TensorFlow", file=sys.stderr)
        return
    totals = sys.modules["fasthooks.step._plan"].totals()
    steps, planned = totals["steps"], totals["planned_steps"]
    speed = totals["steps_per_sec"]
    lines = [
        f"{steps:,} steps, {planned:,} of them ({planned / max(steps, 1):.1%}) by a plan"
        + (f", {speed:,.1f} steps/s" if speed else ""),
        f"{totals['plans_made']:,} plans made, {totals['plans_evicted']:,} dropped",
    ]
    lines += [f"{count:,} took TensorFlow's own way: {reason}" for reason, count in sorted(totals["declined"].items())]
    hooks = sys.modules["fasthooks.profiling"].hooks_in_python() if "fasthooks.profiling" in sys.modules else None
    if hooks is not None:
        lines.append("hooks in Python: {:,.1f} µs of {:,.1f} µs a step".format(*hooks))
    for line in lines:
        print(f"fasthooks: {line}", file=sys.stderr)


def run_program(args: argparse.Namespace, when_patched: Callable[[], object], at_end: Callable[[], object]) -> int:
    """Runs a program as `python` does, but patched; returns the exit code. What the program raises passes through.

    Args:
      args: What `add_program_arguments` declares.
      when_patched: Is called once TensorFlow is imported and patched.
      at_end: Is called at the end of this process, whatever ends the program.
    """
    if args.module is None and args.script[:1] == ["--"]:   # ends the options, as those of `python`
        del args.script[0]
    if not (args.module or args.script):
        args.usage_error("a script, or -m and a module, is required")
    sys.meta_path.insert(0, _PatchOnImport(args.sessions, when_patched))
    process = os.getpid()
    # Registered first, so it is called last; children of a fork have the same list of what to call.
    atexit.register(lambda: at_end() if os.getpid() == process else None)
    try:
        _run(args)
    except BaseException:
        _show_without_our_frames()
        raise
    return 0


def main(args: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    if args.report:
        return run_program(args, _begin_report, _print_report)
    return run_program(args, lambda: None, lambda: None)
