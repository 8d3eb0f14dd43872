"""A process of `apart` shows a program what a new interpreter shows it, and ends as one."""

import os
import signal
import subprocess
import sys

import apart
import pytest

PROGRAM = """
import atexit, os, pickle, signal, sys, threading

class Mine:
    pass

atexit.register(print, "atexit")
thread = threading.Thread(target=lambda: print("thread"))
thread.start()
thread.join()
print(__name__, sys.argv, sys.path[0], os.getcwd(), os.environ["OWN"], "GONE" in os.environ, "fasthooks" in sys.modules)
print("tensorflow" in sys.modules, sys.stdin.read())
print(type(pickle.loads(pickle.dumps(Mine()))) is Mine, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
print("to stderr", file=sys.stderr)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no children")
"""


@pytest.mark.parametrize("end", [
    "", "sys.exit(3)", "1 / 0", "os.kill(os.getpid(), signal.SIGINT)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_it_is_a_new_interpreter(tmp_path, monkeypatch, end):
    monkeypatch.setenv("GONE", "1")
    code, environment = PROGRAM + end, {**os.environ, "OWN": "value"}
    del environment["GONE"]
    command = [sys.executable, "-c", code, "a", "1"]
    (tmp_path / "input").write_text("typed")
    options = {"cwd": tmp_path, "env": environment, "timeout": 60}
    with open(tmp_path / "input") as typed:
        expected = subprocess.run(command, stdin=typed, capture_output=True, text=True, **options)
        typed.seek(0)
        done = apart.run(code, "a", 1, stdin=typed, **options)
    assert (done.args, done.returncode, done.stdout) == (command, expected.returncode, expected.stdout)
    # Its traceback begins in the process that it was forked from.
    assert done.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]


def test_it_is_waited_for_and_killed():
    with apart.Process("print('running', flush=True); import time; time.sleep(60)", stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    with pytest.raises(subprocess.TimeoutExpired):
        apart.run("import time; time.sleep(60)", timeout=0.1)


def test_tensorflow_is_imported_when_the_program_imports_it():
    done = apart.run("""if True:
        import sys
        import tensorflow.compat.v1 as v1
        import tensorflow
        from tensorflow.python.framework import ops
        print(sys.modules["tensorflow"] is tensorflow, tensorflow.compat.v1 is v1, v1.Graph is ops.Graph)
        print(tensorflow.__spec__.name, *(type(one).__name__ for one in (tensorflow.__spec__.loader, tensorflow.__loader__)))
        print("__main__" in [getattr(finder, "__module__", type(finder).__module__) for finder in sys.meta_path])
        """, timeout=60)
    assert done.stdout == "True True True\ntensorflow SourceFileLoader SourceFileLoader\nFalse\n", done.stderr


@pytest.mark.parametrize("name", [["-m", "probe"], ["probe.py"]], ids=["module", "script"])
def test_python_is_stood_in_for(tmp_path, name):
    (tmp_path / "probe.py").write_text("import sys; print(__name__, sys.argv[1:], sys.argv[0][-8:])")
    expected = subprocess.run([sys.executable, *name, "-m", "a"], cwd=tmp_path, capture_output=True, text=True)
    assert apart.run(*apart.python(*name, "-m", "a"), cwd=tmp_path, timeout=60).stdout == expected.stdout != ""
