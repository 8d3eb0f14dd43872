"""`python -m fasthooks run`: an unmodified program runs as under `python`, but patched."""

import argparse
import json
import os
import py_compile
import re
import signal
import subprocess
import sys
import textwrap
import zipfile

import apart
import pytest

import fasthooks
from fasthooks.cli import profile as profile_command

COMMANDS = {"python": [], "fasthooks": ["-m", "fasthooks", "run"]}
STARTS = {**COMMANDS, "profile": ["-m", "fasthooks", "profile"]}

OUR_FRAME = re.compile(r'File "[^"]*fasthooks/(\w+/)?\w+\.pyx?"')

TRAINING = """
import sys
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()
tf.logging.set_verbosity(tf.logging.ERROR)

class Hook(tf.train.SessionRunHook):
    def after_run(self, run_context, run_values):
        if fail_at is not None and run_values.results == fail_at:
            try:
                {}["nothing"]
            except KeyError as error:
                raise ValueError("step %d" % run_values.results) from error

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(step)

fail_at = int(sys.argv[2]) if len(sys.argv) > 2 else None
step = tf.train.get_or_create_global_step()
with tf.control_dependencies([step.read_value()]):
    op = tf.assign_add(step, 1)
with tf.train.MonitoredSession(hooks=[Hook(), tf.train.StopAtStepHook(last_step=int(sys.argv[1]))]) as session:
    while not session.should_stop():
        value = session.run(op)
print("end", value)
"""

PROBE = """
'''The probe.'''
import sys
main = sys.modules["__main__"]
print(__name__, main.__dict__ is globals(), __doc__, __package__, __file__, __cached__)
print(type(__loader__).__name__, __spec__ and (__spec__.name, __spec__.origin), type(__builtins__).__name__)
print(sys.argv, sys.path[0], sys._getframe().f_code.co_filename)
"""


def without_tensorflows_lines(done):
    """A finished process, with TensorFlow's own lines taken out of stderr."""
    done.stderr = "".join(
        line for line in done.stderr.splitlines(keepends=True)
        if not re.match(r"[IWE]\d{4} |WARNING|Instructions for|non-resource variables|\d{4}-\d\d-\d\d|To enable the", line)
    ).strip()
    return done


def environment(**more):
    """That of the tests, in which their modules are found; without Keras, which is a third of an import of TensorFlow."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_USE_LEGACY_KERAS": "1", **more}


def run(command, *args, directory, stdin=None, options=(), **more):
    """Runs a program; returns the finished process, with TensorFlow's own lines taken out of stderr."""
    return without_tensorflows_lines(subprocess.run(
        [sys.executable, *options, *STARTS[command], *args], cwd=directory, capture_output=True, text=True, timeout=240,
        env=environment(**more), input=stdin))


def run_apart(command, *args, directory):
    """As `run`, in a process whose import of TensorFlow takes no time: where neither the start nor the import is looked at."""
    return without_tensorflows_lines(
        apart.run(*apart.python(*STARTS[command], *args), cwd=directory, timeout=240, env=environment()))


def compare(*args, directory, **more):
    """Runs a program both ways and compares all that can be seen; returns the process of ours."""
    stock, ours = (run(command, *args, directory=directory, **more) for command in COMMANDS)
    assert (ours.returncode, ours.stdout, ours.stderr) == (stock.returncode, stock.stdout, stock.stderr)
    return ours


def write(directory, name, source):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


# What the program sees of itself. These programs do not import TensorFlow, so they are quick.


@pytest.mark.parametrize("name", ["probe.py", "sub/probe.py", "./sub/../probe.py", "link.py"])
def test_a_script_sees_what_python_shows_it(tmp_path, name):
    write(tmp_path, "probe.py", PROBE)
    write(tmp_path, "sub/probe.py", PROBE)
    (tmp_path / "link.py").symlink_to(tmp_path / "sub" / "probe.py")
    done = compare(name, "--", "a", "--report", "--", "-m", directory=tmp_path)
    assert "'--', 'a', '--report', '--', '-m'" in done.stdout


def test_options_end_at_two_dashes(tmp_path):
    write(tmp_path, "-m", PROBE)
    assert "['-m', '--']" in compare("--", "-m", "--", directory=tmp_path).stdout


def test_an_absolute_path(tmp_path):
    compare(str(write(tmp_path, "sub/probe.py", PROBE)), directory=tmp_path)


@pytest.mark.parametrize("name", ["package.module", "package", "top"])
def test_a_module_sees_what_python_shows_it(tmp_path, name):
    write(tmp_path, "package/__init__.py", "print('package is imported')")
    for file in ("package/__main__.py", "package/module.py", "top.py"):
        write(tmp_path, file, PROBE)
    done = compare("-m", name, "--", "-x", "--", "--help", directory=tmp_path)
    assert "'--', '-x', '--', '--help'" in done.stdout


def test_a_directory_and_a_zip_file_with_a_main_module(tmp_path):
    write(tmp_path, "program/__main__.py", "import other\n" + PROBE)
    write(tmp_path, "program/other.py", "print('other')")
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        for name in ("__main__.py", "other.py"):
            archive.write(tmp_path / "program" / name, name)
    compare("program", "a", directory=tmp_path)
    compare("program.zip", "a", directory=tmp_path)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 brought -P")
def test_a_safe_path_stays_safe(tmp_path):
    write(tmp_path, "probe.py", "import sys; print(sys.argv, sys.path[0].startswith(sys.prefix), sys.flags.safe_path)")
    assert "True" in compare("probe.py", directory=tmp_path, options=["-P"]).stdout


@pytest.mark.parametrize("args", [["nothing.py"], ["-m", "nothing"], ["-m", "nothing.at.all"], ["-m", "empty"], ["empty"]])
def test_a_program_that_is_not_there(tmp_path, args):
    (tmp_path / "empty").mkdir()
    assert compare(*args, directory=tmp_path).returncode != 0


# How it ends


@pytest.mark.parametrize("statement", [
    "pass", "sys.exit()", "sys.exit(3)", "sys.exit('a message')", "raise SystemExit(0)", "1 / 0", "os._exit(5)", "def broken(:",
    "raise BaseException('bare')", "raise ValueError('outer') from KeyError('inner')", "os.abort()",
    "raise KeyboardInterrupt", "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
    "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "signal.signal(signal.SIGINT, signal.SIG_DFL); signal.raise_signal(2)",
    "raise ExceptionGroup('group', [ValueError('one')])",
    "threading.Thread(target=lambda: (time.sleep(0.2), print('late', __name__))).start()",
    "threading.Thread(target=lambda: 1 / 0).start()",
    "sys.excepthook = lambda *error: print('hook', error[0], error[1], error[2].tb_lineno, error[2].tb_next); 1 / 0",
    "atexit.register(lambda: print('exit', __name__, sys.modules['__main__'].os is os)); 1 / 0",
    "warnings.warn('careful')", "print(open(0).read())", "import inspect; print(inspect.getsource(sys.modules['__main__']))",
    "import pickle; C = type('C', (), {}); print(type(pickle.loads(pickle.dumps(C()))))",
])
def test_it_ends_as_under_python(tmp_path, statement):
    if "ExceptionGroup" in statement and sys.version_info < (3, 11):
        pytest.skip("Python 3.11 brought ExceptionGroup")
    imports = "import atexit, os, signal, sys, threading, time, warnings\nprint('begin', flush=True)\n"
    write(tmp_path, "program.py", imports + statement + "\n")
    compare("program.py", directory=tmp_path, stdin="from stdin\n")


def test_an_interrupt_from_outside(tmp_path):
    program = write(tmp_path, "program.py", """
        import time
        print("ready", flush=True)
        time.sleep(120)
    """)
    codes = []
    for command in COMMANDS.values():
        process = subprocess.Popen([sys.executable, *command, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env=environment())
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        # It may come before the sleep begins.
        codes.append((process.returncode, re.sub(r'line \d, in <module>\n.*\n( *[~^]*\n)?', "", errors)))
    assert codes[0] == codes[1]
    assert codes[0][0] == -signal.SIGINT and codes[0][1].endswith("KeyboardInterrupt\n")


def test_spawned_processes_find_the_programs_main_module(tmp_path):
    write(tmp_path, "program.py", """
        import multiprocessing

        def square(x):
            return x * x

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(square, [1, 2, 3]))
    """)
    assert compare("program.py", directory=tmp_path).stdout == "[1, 4, 9]\n"


# With TensorFlow


def test_a_training_program_runs_patched(tmp_path):
    write(tmp_path, "program.py", TRAINING)
    assert compare("program.py", "30", directory=tmp_path).stdout == "end 30\n"
    done = run_apart("fasthooks", "--report", "program.py", "30", directory=tmp_path)
    assert done.stdout == "end 30\n" and done.returncode == 0
    assert re.search(r"^fasthooks: 30 steps, 30 of them \(100\.0%\) by a plan, [\d,.]+ steps/s$", done.stderr, re.M)
    assert re.search(r"^fasthooks: \d+ plans made, 0 dropped$", done.stderr, re.M)


def test_a_module_runs_patched(tmp_path):
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "package/train.py", TRAINING)
    done = run_apart("fasthooks", "--report", "-m", "package.train", "7", directory=tmp_path)
    assert done.stdout == "end 7\n" and "7 steps, 7 of them" in done.stderr


def test_the_report_tells_what_fell_back_and_why(tmp_path):
    write(tmp_path, "program.py", TRAINING.replace(
        "with tf.train.Mon", "x = tf.placeholder(tf.float32)\nwith tf.train.Mon").replace(
        "session.run(op)", "session.run(op, {(x,): (1,)})"))
    done = run_apart("fasthooks", "--report", "program.py", "5", directory=tmp_path)
    assert "fasthooks: 5 steps, 0 of them (0.0%) by a plan" in done.stderr
    assert re.search(r"^fasthooks: 5 took TensorFlow's own way: a feed key has the type tuple", done.stderr, re.M)


def test_the_clock_is_read_for_the_report_only(tmp_path):
    tail = "\nfrom fasthooks.step import _plan\nprint(_plan.totals()['steps_per_sec'] is None)\n"
    write(tmp_path, "program.py", TRAINING + tail)
    for options, untimed in (([], True), (["--report"], False)):
        assert run_apart("fasthooks", *options, "program.py", "5", directory=tmp_path).stdout == f"end 5\n{untimed}\n"


def test_the_report_counts_steps_of_sessions_that_were_changed(tmp_path):
    write(tmp_path, "program.py", TRAINING.replace("session:\n", """session:
    hooked = session._sess._sess._sess
    hooked._call_hook_before_run = hooked._call_hook_before_run
"""))
    done = run_apart("fasthooks", "--report", "program.py", "5", directory=tmp_path)
    assert done.stdout == "end 5\n" and "fasthooks: 5 steps, 0 of them (0.0%) by a plan" in done.stderr
    assert re.search(r"^fasthooks: 5 took TensorFlow's own way: the hooked session is of a kind", done.stderr, re.M)


def test_the_report_comes_after_an_error_too(tmp_path):
    write(tmp_path, "program.py", TRAINING)
    done = run_apart("fasthooks", "--report", "program.py", "30", "3", directory=tmp_path)
    assert done.returncode == 1 and "ValueError: step 3" in done.stderr
    assert "fasthooks: 3 steps" in done.stderr.splitlines()[-2]


def test_the_report_of_a_program_without_tensorflow(tmp_path):
    write(tmp_path, "program.py", "print(1)")
    done = run("fasthooks", "--report", "program.py", directory=tmp_path)
    assert (done.stdout, done.stderr) == ("1\n", "fasthooks: the program did not import TensorFlow")


def frames(errors):
    """The frames of a stderr's tracebacks, without TensorFlow's."""
    return [frame for frame in re.findall(r'File "(.*)", line (\d+), in (\w+)', errors) if "tensorflow" not in frame[0]]


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A program that fails, and what it does under `python`."""
    path = write(tmp_path_factory.mktemp("failing"), "program.py", TRAINING)
    return path, run("python", "program.py", "30", "3", directory=path.parent)


def test_tracebacks_of_a_step_show_no_frame_of_ours(failing):
    path, stock = failing
    ours = run("fasthooks", "program.py", "30", "3", directory=path.parent)
    assert ours.returncode == stock.returncode == 1
    assert not OUR_FRAME.search(ours.stderr) and "KeyError: 'nothing'" in ours.stderr
    assert frames(ours.stderr) == frames(stock.stderr)


def test_tensorflow_is_loaded_when_the_program_loads_it(tmp_path):
    write(tmp_path, "program.py", """
        import os, sys
        print("tensorflow" in sys.modules, os.environ.get("TF_CPP_MIN_LOG_LEVEL"), [str(f) for f in sys.meta_path[1:]] != [])
        import tensorflow
        from tensorflow.python.training import monitored_session
        import fasthooks
        print(bool(fasthooks.patched()), type(tensorflow.__spec__.loader).__name__, type(tensorflow.__loader__).__name__)
        print([type(finder).__module__ for finder in sys.meta_path if "fasthooks.cli.run" in type(finder).__module__])
    """)
    done = run("fasthooks", "program.py", directory=tmp_path, TF_CPP_MIN_LOG_LEVEL="1")
    assert done.stdout == "False 1 True\nTrue SourceFileLoader SourceFileLoader\n[]\n", done.stderr


def test_a_tensorflow_that_cannot_be_imported_at_first(tmp_path):
    write(tmp_path, "bad/tensorflow.py", "import something_that_is_not_there")
    write(tmp_path, "program.py", """
        import sys
        sys.path.insert(0, "bad")
        try:
            import tensorflow
        except ImportError as error:
            print(error)
        del sys.path[0]
        sys.path_importer_cache.clear()
        import tensorflow, fasthooks
        print(bool(fasthooks.patched()))
    """)
    done = run("fasthooks", "program.py", directory=tmp_path)
    assert done.stdout == "No module named 'something_that_is_not_there'\nTrue\n", done.stderr


def test_another_package_of_tensorflows_name(tmp_path):
    write(tmp_path, "tensorflow/__init__.py", "hello = 'stub'")
    write(tmp_path, "program.py", "import tensorflow; print(tensorflow.hello)")
    done = run("fasthooks", "program.py", directory=tmp_path)
    assert (done.returncode, done.stdout) == (0, "stub\n") and done.stderr.startswith("fasthooks: not patched: ")


def test_an_old_tensorflow(tmp_path):
    write(tmp_path, "tensorflow/__init__.py", "__version__ = '2.11.0'")
    write(tmp_path, "program.py", "import tensorflow; print(tensorflow.__version__)")
    done = run("fasthooks", "program.py", directory=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2.11.0\n")
    assert done.stderr == (
        "fasthooks: not patched: ImportError: fasthooks needs TensorFlow 2.15 to 2.22, and this is 2.11.0: "
        "pip install --upgrade 'tensorflow>=2.15,<2.23', or tensorflow-cpu if you have that.")


def test_a_compiled_script(tmp_path):
    source = write(tmp_path, "program.py", PROBE)
    py_compile.compile(str(source), str(tmp_path / "program.pyc"), dfile="elsewhere.py")
    done = run("fasthooks", "program.pyc", directory=tmp_path)
    assert done.returncode == 0 and "['program.pyc']" in done.stdout and "elsewhere.py" in done.stdout


def test_errors_of_ops_show_no_frame_of_ours(tmp_path):
    write(tmp_path, "program.py", """
        import tensorflow.compat.v1 as tf
        tf.disable_v2_behavior()
        checked = tf.check_numerics(tf.log(tf.constant(-1.0)), "no number")
        try:
            with tf.train.MonitoredSession() as session:
                session.run(checked)
        except tf.errors.InvalidArgumentError as error:
            print(len(error.op.traceback), str(error).replace("MonitoredSession", ""))
    """)
    done = compare("program.py", directory=tmp_path)
    assert "program.py" in done.stdout and not OUR_FRAME.search(done.stdout)


def test_plain_sessions(tmp_path):
    write(tmp_path, "program.py", """
        import tensorflow.compat.v1 as tf
        tf.disable_v2_behavior()
        value = tf.constant(3.0)
        with tf.Session() as session:
            print([session.run(value) for _ in range(5)])
    """)
    stock = run_apart("python", "program.py", directory=tmp_path)
    patched = run_apart("fasthooks", "--report", "program.py", directory=tmp_path)
    ours = run_apart("fasthooks", "--report", "--sessions", "program.py", directory=tmp_path)
    assert stock.stdout == patched.stdout == ours.stdout
    assert "0 steps, 0 of them" in patched.stderr and "5 steps, 5 of them" in ours.stderr


def test_usage_errors(tmp_path):
    done = run("fasthooks", directory=tmp_path)
    assert done.returncode == 2 and "usage: python -m fasthooks run" in done.stderr
    for options in ([], ["--skip-steps", "-1", "x.py"], ["--trace-steps", "1.5", "x.py"], ["--trace-steps", "1000001", "x.py"],
                    ["--skip-steps", str(2**63 + 1), "x.py"], ["--trace", "nothing/x", "x.py"]):
        done = run("profile", *options, directory=tmp_path)
        assert done.returncode == 2 and "usage: python -m fasthooks profile" in done.stderr, options


@pytest.mark.parametrize(("option", "most"), [("--skip-steps", 2**63), ("--trace-steps", 10**6)])
def test_as_many_steps_as_the_function_takes(option, most):
    parser = argparse.ArgumentParser()
    profile_command.add_arguments(parser)
    name = option[2:].replace("-", "_")
    assert getattr(parser.parse_args([option, str(most)]), name) == most
    with pytest.raises(SystemExit):
        parser.parse_args([option, str(most + 1)])
    with pytest.raises(ValueError, match=f"{name} must be an int from 0 to {most:,}"), fasthooks.profile(**{name: most + 1}):
        pass


def test_the_report_tells_what_hooks_take_and_names_slow_ones(tmp_path):
    write(tmp_path, "program.py", TRAINING.replace("tf.logging.ERROR", "tf.logging.WARN").replace(
        "        if fail_at", "        import time; time.sleep(0.002)\n        if fail_at"))
    # TensorFlow's lines are among what is looked at.
    done = apart.run(*apart.python(*STARTS["fasthooks"], "--report", "program.py", "160"), cwd=tmp_path, timeout=240,
                     env=environment())
    assert done.returncode == 0
    hooks, step = re.search(r"^fasthooks: hooks in Python: ([\d,.]+) µs of ([\d,.]+) µs a step$", done.stderr, re.M).groups()
    assert 2000 <= float(hooks.replace(",", "")) < float(step.replace(",", ""))
    assert done.stderr.count("fasthooks: Hook (hooks[0]).after_run takes ") == 1


# `profile`: the same, and a table


NO_TENSORFLOW = "fasthooks: the program did not import TensorFlow"


@pytest.mark.parametrize("statement", [
    "pass", "sys.exit(3)", "sys.exit('a message')", "1 / 0", "def broken(:", "raise ValueError('outer') from KeyError('inner')",
    "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "child = os.fork(); child and os.waitpid(child, 0); sys.exit(4)", "print(sys.argv, sys.path[0], __name__)"])
def test_it_ends_as_under_python_when_profiled(tmp_path, statement):
    imports = "import atexit, os, signal, sys, threading, time, warnings\nprint('begin', flush=True)\n"
    write(tmp_path, "program.py", imports + statement + "\n")
    stock, ours = (run(command, "program.py", "--json", directory=tmp_path) for command in ("python", "profile"))
    told = [] if "SIGTERM" in statement else [NO_TENSORFLOW]
    assert (ours.returncode, ours.stdout, ours.stderr.splitlines()) == (
        stock.returncode, stock.stdout, stock.stderr.splitlines() + told)


def test_a_program_is_profiled(tmp_path):
    write(tmp_path, "program.py", TRAINING + "os = __import__('os'); os.mkdir('elsewhere'); os.chdir('elsewhere')\n")
    done = run("profile", "--skip-steps", "10", "--json", "figures.json", "--trace", "trace.json", "--trace-steps", "5",
               "program.py", "40", directory=tmp_path)
    assert (done.returncode, done.stdout) == (0, "end 40\n")
    assert done.stderr.startswith("session 1: 30 turns of your loop after the first 10; ")
    assert re.search(r"^ +Hook \(hooks\[0\]\) +(before|after)_run ", done.stderr, re.M)
    session, = json.loads((tmp_path / "figures.json").read_text())["sessions"]
    assert session["turns"] == 30
    assert {row["hook"] for row in session["hooks"]} == {"Hook (hooks[0])", "StopAtStepHook (hooks[1])"}
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event["name"] == "step" for event in events) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "figures.json", "program.py", "trace.json"]
    write(tmp_path, "program.py", TRAINING)
    done = run_apart("profile", "--skip-steps", "0", "--json", "-", "program.py", "5", directory=tmp_path)
    assert done.stdout.startswith("end 5\n") and json.loads(done.stdout.partition("\n")[2])["sessions"][0]["turns"] == 5


def test_a_profile_of_a_program_that_closes_its_outputs(tmp_path):
    for closed, json_file in (("stdout", "-"), ("stderr", "figures.json")):
        write(tmp_path, "program.py", TRAINING + f"sys.{closed}.close()\n")
        done = run_apart("profile", "--skip-steps", "0", "--json", json_file, "--trace", f"{closed}.json", "program.py", "5",
                         directory=tmp_path)
        assert done.returncode == 0 and json.loads((tmp_path / f"{closed}.json").read_text())["traceEvents"]
        assert "Traceback" not in done.stderr
        if closed == "stdout":
            assert "session 1: 5 turns" in done.stderr
            assert done.stderr.endswith("\nfasthooks: not written: I/O operation on closed file.")
    assert json.loads((tmp_path / "figures.json").read_text())["sessions"][0]["turns"] == 5


def test_a_module_is_profiled(tmp_path):
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "package/train.py", TRAINING)
    done = run_apart("profile", "-m", "package.train", "7", directory=tmp_path)
    assert done.stdout == "end 7\n" and "session 1: 7 steps, all within the first 100" in done.stderr


def test_the_table_comes_after_an_error_too(failing):
    path, stock = failing
    ours = run("profile", "--skip-steps", "0", "program.py", "30", "3", directory=path.parent)
    assert ours.returncode == stock.returncode == 1
    errors, _, table = ours.stderr.partition("session 1: ")
    assert table.startswith("2 turns of your loop after the first 0") and "1 steps failed" in table
    assert frames(errors) == frames(stock.stderr) and not OUR_FRAME.search(errors)


def test_plain_sessions_are_profiled(tmp_path):
    write(tmp_path, "program.py", """
        import tensorflow.compat.v1 as tf
        tf.disable_v2_behavior()
        value = tf.constant(3.0)
        with tf.Session() as session:
            for _ in range(5):
                session.run(value)
    """)
    done = run_apart("profile", "program.py", directory=tmp_path)
    assert done.stderr == "0 steps: fasthooks.patch() or `python -m fasthooks profile`"
    done = run_apart("profile", "--sessions", "--skip-steps", "1", "program.py", directory=tmp_path)
    assert done.stderr.startswith("session 1: 4 turns of your loop after the first 1")


def test_a_program_that_profiles_itself(tmp_path):
    write(tmp_path, "program.py", """
        import tensorflow, fasthooks
        try:
            with fasthooks.profile():
                pass
        except RuntimeError as error:
            print(error)
    """)
    assert "Another fasthooks.profile is in force" in run_apart("profile", "program.py", directory=tmp_path).stdout
