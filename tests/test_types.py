"""What type checkers make of programs that use the package, and whether the stubs tell what is there.

Those that need pyright, and stubtest, run where the extra `types` is installed: `pip install -e ".[types]"`. With
FASTHOOKS_TYPES_PYTHON=/path/of/python, the fasthooks that is installed there is looked at, as a user's type checker finds it.
"""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

import fasthooks as fh

HERE = pathlib.Path(__file__).resolve().parent
SOURCES = ["typing_examples.py", "typing_errors.py"]
INSTALLED = os.environ.get("FASTHOOKS_TYPES_PYTHON")
# Without it, in a clone that is not installed, type checkers are told where the package is.
SEARCH_PATH = [] if INSTALLED or "site-packages" in fh.__file__ else [str(pathlib.Path(fh.__file__).resolve().parents[1])]
needs_types_extra = pytest.mark.skipif(
    importlib.util.find_spec("pyright") is None, reason="needs the extra `types`: pyright"
)


def run(tmp_path, *command):
    """Runs a tool in an empty directory with the programs; returns the finished process."""
    for name in SOURCES:
        shutil.copy(HERE / name, tmp_path)
    env = {**os.environ, "MYPYPATH": os.pathsep.join(SEARCH_PATH)}
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=250, cwd=tmp_path, env=env)


def expected(which):
    """Returns (file, line, error) for each line that says so: mypy's code or pyright's rule."""
    return sorted(
        ("typing_errors.py", number, found.group(which))
        for number, line in enumerate((HERE / "typing_errors.py").read_text().splitlines(), 1)
        if (found := re.search(r"  # ([a-z-]+), (report\w+)$", line))
    )


def test_mypy(tmp_path):
    # As of a user who has no types for TensorFlow.
    (tmp_path / "mypy.ini").write_text(
        textwrap.dedent("""
        [mypy]
        strict = True
        disable_error_code = import-untyped
        [mypy-fasthooks.*]
        follow_imports = silent
    """)
    )
    options = ["--python-executable", INSTALLED] if INSTALLED else []
    done = run(tmp_path, "mypy", "--config-file=mypy.ini", "--no-error-summary", "--hide-error-context", *options, *SOURCES)
    found = [line for line in done.stdout.splitlines() if ": note: " not in line]
    errors = [re.fullmatch(r"(\w+\.py):(\d+): error: .*\[([\w-]+)\]", line) for line in found]
    assert all(errors), done.stdout + done.stderr
    assert sorted((file, int(line), code) for file, line, code in map(re.Match.groups, errors)) == expected(1)


@needs_types_extra
def test_pyright(tmp_path):
    settings = {"extraPaths": SEARCH_PATH, "typeCheckingMode": "standard", "reportUnusedExpression": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = run(tmp_path, "pyright", "--outputjson", "--pythonpath", INSTALLED or sys.executable, *SOURCES)
    errors = [one for one in json.loads(done.stdout)["generalDiagnostics"] if one["severity"] == "error"]
    found = [(pathlib.Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["rule"]) for one in errors]
    assert sorted(found) == expected(2), done.stdout


@needs_types_extra
def test_completeness(tmp_path):
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": SEARCH_PATH}))
    python = INSTALLED or sys.executable
    done = run(tmp_path, "pyright", "--outputjson", "--pythonpath", python, "--verifytypes", "fasthooks", "--ignoreexternal")
    found = json.loads(done.stdout)["typeCompleteness"]
    assert found["exportedSymbolCounts"]["withKnownType"] > 500
    assert found["completenessScore"] >= 0.95, [one["name"] for one in found["symbols"] if not one["isTypeKnown"]]


@needs_types_extra
def test_stubs_agree_with_the_runtime(tmp_path):
    config = HERE.parent / "pyproject.toml"
    done = run(tmp_path, "mypy.stubtest", "fasthooks", "--concise", "--ignore-disjoint-bases", "--mypy-config-file", str(config),
               "--allowlist", str(HERE / "stubtest_allowlist.txt"))
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
