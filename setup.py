"""Builds the compiled modules; everything else about the package is in pyproject.toml.

Switches, by environment variable (anything but empty or 0 is on):

    FASTHOOKS_DEBUG     asserts and debug counters in, optimisation off, debug symbols
    FASTHOOKS_TRACE     line tracing, for coverage of the .pyx files
    FASTHOOKS_ANNOTATE  Cython's HTML report beside the generated C

Generated C and objects go to build/<kind of build>/, so switching never picks up another kind's files. Only the traced
build puts its C beside the .pyx files (git ignores it there): that is where coverage's Cython plugin looks.
"""

import os
import shlex
import shutil
import sysconfig
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as setuptools_build_ext
from setuptools.errors import PlatformError


def switch(name: str) -> bool:
    return os.environ.get(f"FASTHOOKS_{name}", "0") not in ("", "0")


DEBUG, TRACE, ANNOTATE = switch("DEBUG"), switch("TRACE"), switch("ANNOTATE")
BUILD_BASE = "build/" + ("-".join(["debug"] * DEBUG + ["trace"] * TRACE) or "release")
JOBS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

MACROS: list[tuple[str, str | None]] = [
    ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_1_22_API_VERSION"),
    ("FASTHOOKS_DEBUG", "1" if DEBUG else "0"),
]
# What only an assertion uses is not used without them.
NO_ASSERTS = ["-Wno-unused-function", "-Wno-unused-variable"]
if not DEBUG:
    MACROS.append(("CYTHON_WITHOUT_ASSERTIONS", "1"))
if TRACE:
    MACROS += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]


def check_tools(include_dirs: list[str]) -> None:
    """Raises PlatformError, whose message is the last line of the build, where nothing can be compiled."""
    compiler = (shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "") or ["cc"])[0]
    if shutil.which(compiler) is None:
        raise PlatformError(f"fasthooks is compiled, and there is no C compiler {compiler!r}: install one (Debian, Ubuntu: apt "
                            "install build-essential; Fedora: dnf install gcc; macOS: xcode-select --install) or set CC")
    if not any(Path(directory, "Python.h").exists() for directory in include_dirs):
        raise PlatformError(f"fasthooks is compiled, and there is no Python.h in {', '.join(include_dirs)}: install Python's "
                            "headers (Debian, Ubuntu: apt install python3-dev; Fedora: dnf install python3-devel)")


class build_ext(setuptools_build_ext):
    """Runs Cython only when extensions are really built: metadata and the sdist see the .pyx files."""

    def run(self) -> None:
        check_tools(self.include_dirs)
        translated = cythonize(
            self.extensions,
            build_dir=None if TRACE else f"{BUILD_BASE}/cython",
            force=TRACE,
            nthreads=JOBS if len(self.extensions) > 1 else 0,
            annotate=ANNOTATE,
            emit_linenums=DEBUG,
            # Methods of compiled classes are then descriptors of CPython's own, which check what they are given as `self`.
            compiler_directives={"language_level": 3, "linetrace": TRACE, "binding": False, "embedsignature.format": "clinic"},
        )
        for extension, in_c in zip(self.extensions, translated, strict=True):
            extension.sources = in_c.sources
        super().run()
        # Python run from the clone finds the package's sources before the installed package: let it find these there.
        if not self.inplace:
            self.copy_extensions_to_source()


if __name__ == "__main__":  # Cython's worker processes may import this file
    setup(
        ext_modules=[
            Extension(
                name=".".join(path.with_suffix("").parts),
                sources=[path.as_posix()],
                include_dirs=[numpy.get_include()],
                define_macros=MACROS,
                extra_compile_args=["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0", *NO_ASSERTS],
            )
            for path in sorted(Path("fasthooks").rglob("_*.pyx"))
        ],
        cmdclass={"build_ext": build_ext},
        options={"build": {"build_base": BUILD_BASE}, "build_ext": {"parallel": JOBS}},
    )
