"""What a build says that cannot compile. Needs the source tree, of which the tests of an installed package know nothing."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytest.importorskip("Cython")
pytest.importorskip("setuptools", minversion="77")
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists() or not (ROOT / "fasthooks").exists(), reason="no source tree")


def build(before, tmp_path, **environment):
    """Runs setup.py after a statement; returns its last line."""
    program = f"import runpy, setuptools; {before}; runpy.run_path('setup.py', run_name='__main__')"
    command = [sys.executable, "-W", "ignore", "-c", program, "-q", "build_ext", "--build-lib", str(tmp_path / "lib"),
               "--build-temp", str(tmp_path / "temp")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
                          env={**os.environ, **environment})
    assert done.returncode == 1 and not (tmp_path / "temp").exists()
    return done.stderr.splitlines()[-1]


def test_no_compiler(tmp_path):
    told = build("pass", tmp_path, CC="no-such-compiler -pthread")
    assert re.fullmatch(r"error: fasthooks is compiled, and there is no C compiler 'no-such-compiler': .* or set CC", told)


def test_no_headers(tmp_path):
    told = build(f"from distutils import sysconfig; sysconfig.get_python_inc = lambda **_: {str(tmp_path)!r}", tmp_path)
    assert re.fullmatch(rf"error: fasthooks is compiled, and there is no Python\.h in .*{tmp_path}: .*python3-dev.*", told)
