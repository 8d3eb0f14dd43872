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
    expected = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    done = apart.run(code, "a", 1, cwd=tmp_path, env=environment, timeout=60)
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
