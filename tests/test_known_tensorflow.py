"""A TensorFlow that somebody changed: what stands on the change is TensorFlow's own in every way to run, all else is not.

Each change is one line, planted in a copy of TensorFlow's package that a new interpreter imports. There a program runs in
TensorFlow's session with TensorFlow's hooks and in every way of ours, and all have to do what the changed TensorFlow does.
"""

import functools
import importlib.util
import json
import os
import pathlib
import py_compile
import re
import subprocess
import sys
import tempfile
import types
import warnings
from unittest import mock

import helpers
import pytest
import tensorflow as tf
from tensorflow.python.client import session as session_lib
from tensorflow.python.framework import tensor as tensor_lib
from tensorflow.python.training import basic_session_run_hooks, monitored_session, training_util

import fasthooks
from fasthooks import known_tensorflow
from fasthooks.step import _plan, declining

v1 = tf.compat.v1
PACKAGE = pathlib.Path(tf.__file__).parent
HOOKED = [name for name in helpers.MIXES if name != helpers.STOCK_MIX]
MONITORED = "python/training/monitored_session.py"
HOOKS = "python/training/basic_session_run_hooks.py"
BASE = "python/training/session_run_hook.py"
SESSION = "python/client/session.py"


# The programs, which a new interpreter runs


def hooked(run):
    """Seven hooks of the stock kind and an idle one, and a step that fetches a list."""
    api = run.api
    step = v1.train.create_global_step()
    before = training_util._get_or_create_global_step_read()
    value = v1.get_variable("value", [], initializer=v1.zeros_initializer())
    loss = tf.add(value.read_value(), v1.placeholder_with_default(1.0, [], name="fed"), name="loss")
    # What hooks read is ordered before what the step changes.
    with tf.control_dependencies([before, loss]):
        train = tf.group(v1.assign_add(step, 1), v1.assign_add(value, 1.0))
    v1.summary.scalar("loss", loss)
    hooks = [
        api.StopAtStepHook(last_step=12),
        api.StepCounterHook(every_n_steps=5, output_dir=run.dir),
        api.LoggingTensorHook({"loss": loss}, every_n_iter=3),
        api.NanTensorHook(loss),
        api.SummarySaverHook(save_steps=4, output_dir=run.dir, summary_op=v1.summary.merge_all()),
        api.CheckpointSaverHook(run.dir, save_steps=5),
        api.FinalOpsHook(loss),
    ]
    with api.MonitoredTrainingSession(hooks=hooks, log_step_count_steps=None) as session:
        while not session.should_stop():
            run.note(session.run([train, loss], {"fed:0": 2.0}))
            run.clock.tick()
            if len(run.notes) > 15:
                break


def in_background(run):
    """Checkpoints that `AsyncCheckpointSaverHook` writes."""
    step = v1.train.get_or_create_global_step()
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        train = v1.assign_add(step, 1)
    hook = run.api.AsyncCheckpointSaverHook(run.dir, save_steps=2)
    with run.api.MonitoredSession(hooks=[hook]) as session:
        for _ in range(3):
            session.run(train)


def plain(run):
    """A session without hooks."""
    fed = v1.placeholder(tf.float32, [], name="fed")
    fetches = [fed + 1.0, {"name": fed * 2.0}]
    with run.api.MonitoredSession(v1.train.ChiefSessionCreator()) as session:
        for value in range(4):
            run.note(session.run(fetches, {fed: value}))


def compare(directory):
    """Prints how our ways to run the programs compare to TensorFlow's own."""
    directory = pathlib.Path(directory)
    # What the graph optimizer does to the graphs is not looked at here, and takes a third of the programs' time.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    found = {"unknown": sorted(known_tensorflow.unknown()), "ways": {}}
    stock = {}
    for program, ways in ((hooked, helpers.MIXES), (in_background, helpers.MIXES), (plain, helpers.WAYS)):
        for way, api in ways.items():
            if program is plain and way not in (helpers.PLAIN_STOCK, "accelerated"):
                continue
            before = _plan.totals()
            record = helpers.record(program, api, directory / program.__name__ / way)
            if program is in_background:
                record.logs = []  # those of the background thread come when they do
            after = _plan.totals()
            if program not in stock:
                stock[program] = record
                found[program.__name__] = repr(record)
                continue
            differences = [name for name in helpers.COMPARED if getattr(record, name) != getattr(stock[program], name)]
            found["ways"].setdefault(way, []).append({
                "program": program.__name__, "differences": differences,
                "planned": after["planned_steps"] - before["planned_steps"],
                "declined": {why: count - before["declined"].get(why, 0) for why, count in after["declined"].items()
                             if count > before["declined"].get(why, 0)}})
    print(json.dumps(found))


# Copies of TensorFlow


def copy_of_tensorflow(directory, changes=(), sourceless=()):
    """Makes a package of links to TensorFlow's files, with some of the files changed.

    Args:
      directory: Where to make it.
      changes: (name of a file, its line, the line in its place), more than one.
      sourceless: Names of files of which only the compiled one is there.

    Returns:
      What to put before other directories into PYTHONPATH.
    """
    texts = {name: (PACKAGE / name).read_text() for name in (*(change[0] for change in changes), *sourceless)}
    for name, line, other in changes:
        assert texts[name].count(line) == 1, line
        texts[name] = texts[name].replace(line, other)
    folders = {pathlib.Path("."), *(parent for name in texts for parent in pathlib.Path(name).parents)}
    for folder in folders:
        target = directory / "tensorflow" / folder
        target.mkdir(parents=True, exist_ok=True)
        for path in (PACKAGE / folder).iterdir():
            relative = folder / path.name
            if relative not in folders and str(relative) not in texts and path.name != "__pycache__":
                (target / path.name).symlink_to(path)
                compiled = pathlib.Path(importlib.util.cache_from_source(path))
                if path.suffix == ".py" and compiled.exists():
                    (target / "__pycache__").mkdir(exist_ok=True)
                    (target / "__pycache__" / compiled.name).symlink_to(compiled)
    for name, text in texts.items():
        path = directory / "tensorflow" / name
        path.write_text(text)
        if name in sourceless:
            py_compile.compile(str(path), str(path.with_suffix(".pyc")), dfile=f"/build/tensorflow/{name}", doraise=True)
            path.unlink()
    return str(directory)


def run_apart(code, *first_in_path):
    """Runs code in a new interpreter; returns what it did."""
    # TensorFlow imports no Keras where it is to be the legacy one, which is not installed: that is a fifth of its import.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": "1", "TF_USE_LEGACY_KERAS": "1",
                   "PYTHONPATH": os.pathsep.join(filter(None, [*first_in_path, *sys.path]))}
    command = [sys.executable, "-W", "always", "-c", code]
    with tempfile.TemporaryDirectory() as directory:  # a Saver that is fed no name writes here
        return subprocess.run(command, cwd=directory, env=environment, timeout=240, capture_output=True, text=True, check=False)


@functools.cache
def compared(tmp, changes=(), sourceless=()):
    done = run_apart(f"import test_known_tensorflow as t; t.compare({str(tmp / 'runs')!r})",
                     *[copy_of_tensorflow(tmp, changes, sourceless)] * bool(changes or sourceless))
    assert done.returncode == 0, done.stderr[-4000:]
    warned = [line for line in done.stderr.splitlines() if "RuntimeWarning: fasthooks" in line]
    return {**json.loads(done.stdout.splitlines()[-1]), "warned": warned}


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """What happens in TensorFlow as it is."""
    return compared(tmp_path_factory.mktemp("unchanged"))


def test_nothing_is_unknown(unchanged):
    assert (unchanged["unknown"], unchanged["warned"]) == ([], [])
    for runs in unchanged["ways"].values():
        assert all(run["differences"] == [] and run["planned"] > 0 and run["declined"] == {} for run in runs), runs


# Name -> its change: file, line, line in its place.
CHANGES = {
    "NanTensorHook": (HOOKS, "if np.isnan(run_values.results):", "if run_values.results > 7:"),
    "SecondOrStepTimer": (HOOKS, "if step >= self._last_triggered_step + self._every_steps:",
                          "if step >= self._last_triggered_step + self._every_steps - 1:"),
    "StopAtStepHook": (HOOKS, "self._last_step = last_step\n\n  def begin(self):\n    self._global_step_tensor",
                       "self._last_step = last_step and last_step - 3\n\n  def begin(self):\n    self._global_step_tensor"),
    "StepCounterHook": (HOOKS, "steps_per_sec = elapsed_steps / elapsed_time", "steps_per_sec = elapsed_time"),
    "LoggingTensorHook": (HOOKS, "self._iter_count += 1", "self._iter_count += 2"),
    "SummarySaverHook": (HOOKS,
                         "self._next_step = global_step + 1\n\n  def end(",
                         "self._next_step = global_step + 2\n\n  def end("),
    "CheckpointSaverHook": (HOOKS, "self._get_saver().save(session, self._save_path, global_step=step,",
                            "self._get_saver().save(session, self._save_path, global_step=step + 100,"),
    "SessionRunHook": (BASE, "    pass\n\n  def end(", "    run_context.request_stop()\n\n  def end("),
    "SessionRunContext": (BASE, "self._stop_requested = True", "self._stop_requested = not True"),
    "_HookedSession": (MONITORED, "return outputs['caller']", "return [outputs['caller']]"),
    "_CoordinatedSession": (MONITORED, "      return self._sess.run(*args, **kwargs)\n    except _PREEMPTION_ERRORS:",
                            "      return [self._sess.run(*args, **kwargs)]\n    except _PREEMPTION_ERRORS:"),
    "_MonitoredSession": (MONITORED, "    return self._sess.run(\n        fetches,",
                          "    return self._sess.run(\n        [fetches],"),
    "Coordinator": ("python/training/coordinator.py", "return self._stop_event.is_set()",
                    "self._calls = vars(self).get('_calls', 0) + 1; return self._calls > 7"),
    "MonitoredTrainingSession": (MONITORED, "    save_summaries_steps = 100\n", "    save_summaries_steps = 7\n"),
    "EventFileWriter": ("python/summary/writer/event_file_writer.py", "self._logdir = ", "self._logdir = self._directory = "),
    "BaseSession._run": (SESSION, "feed_dict_tensor[subfeed_t.ref()] = np_val",
                         "feed_dict_tensor[subfeed_t.ref()] = np_val * 2 if np_val.dtype == 'float32' else np_val"),
    "BaseSession._call_tf_sessionrun": (SESSION, "return tf_session.TF_SessionRun_wrapper(self._session, options, feed_dict,",
                                        "return tf_session.TF_SessionRun_wrapper(self._session, options, {},"),
    "_ListFetchMapper": (SESSION, "    if issubclass(self._fetch_type, list):\n      return results",
                         "    if issubclass(self._fetch_type, list):\n      return results[::-1]"),
}
# What is planted together -> the ways that run no prepared step then.
NONE, HOOKED_STEP, EVERY_STEP = (), HOOKED, [*HOOKED, "accelerated"]
PLANTED = {
    ("NanTensorHook",): NONE,
    ("SecondOrStepTimer",): NONE,
    ("StopAtStepHook", "StepCounterHook", "LoggingTensorHook", "SummarySaverHook", "CheckpointSaverHook"): NONE,
    ("SessionRunHook",): NONE,
    ("_CoordinatedSession", "MonitoredTrainingSession", "EventFileWriter"): NONE,
    ("_MonitoredSession",): NONE,
    ("Coordinator",): NONE,
    ("SessionRunContext",): HOOKED_STEP,
    ("_HookedSession",): HOOKED_STEP,
    ("BaseSession._run",): EVERY_STEP,
    ("BaseSession._call_tf_sessionrun",): EVERY_STEP,
    ("_ListFetchMapper",): EVERY_STEP,
}


def test_a_changed_log_function(tmp_path):
    """A line that would be written without it is left to it."""
    line = "get_logger().info(msg, *args, **kwargs)"
    done = run_apart("""if True:
        import io, logging
        import tensorflow as tf
        from fasthooks import known_tensorflow
        from fasthooks.output import _log_line

        logger = tf.get_logger()
        logger.handlers = [logging.StreamHandler(io.StringIO())]
        logger.setLevel(logging.INFO)
        for _ in range(2):
            _log_line.info("steps")
        print(sorted(known_tensorflow.unknown()), logger.handlers[0].stream.getvalue().split())
        """, copy_of_tensorflow(tmp_path, [("python/platform/tf_logging.py", line, line.replace("msg", "msg.upper()"))]))
    assert done.stdout.splitlines() == ["['info'] ['STEPS', 'STEPS']"], done.stderr[-4000:]


def test_a_changed_should_stop(tmp_path):
    """It is asked, under `patch` too."""
    line = "return self._sess is None or self._sess.should_stop()"
    other = "return not (self._sess and self._sess.should_stop())"
    done = run_apart("""if True:
        import fasthooks
        import tensorflow.compat.v1 as v1

        v1.disable_eager_execution()
        with fasthooks.patch():
            op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
            with v1.train.MonitoredSession() as session:
                print([(int(session.run(op)), session.should_stop()) for _ in range(4)])
        """, copy_of_tensorflow(tmp_path, [(MONITORED, line, other)]))
    assert done.stdout.splitlines() == ["[(1, True), (2, True), (3, True), (4, True)]"], done.stderr[-4000:]


@pytest.mark.parametrize("names", PLANTED, ids=lambda names: names[0])
def test_a_changed_line(names, tmp_path, unchanged):
    found = compared(tmp_path, tuple(CHANGES[name] for name in names))
    assert found["unknown"] == sorted(names)
    assert len(found["warned"]) == 1 and all(
        text in found["warned"][0] for text in (*names, tf.__version__, "Releases of TensorFlow 2.15 to 2.22 have none of this"))
    assert any(found[program.__name__] != unchanged[program.__name__] for program in (hooked, in_background, plain))
    for way, runs in found["ways"].items():
        for run in runs:
            assert run["differences"] == [], (way, run)
            if way not in PLANTED[names]:
                assert run["declined"] == {} and run["planned"] > 0, (way, run)
                continue
            # A hooked session of TensorFlow's own that is not known is not touched at all.
            touched = PLANTED[names] is EVERY_STEP or way.startswith("our_session")
            assert run["planned"] == 0 and list(run["declined"]) == [declining.CODE_UNKNOWN] * touched, (way, run)


def test_the_table_names_all_that_guards_ask_for():
    for function in (monitored_session._HookedSession._merge_run_options, monitored_session._RecoverableSession.run,
                     session_lib.Session.run, session_lib.InteractiveSession._call_tf_sessionrun, v1.train.NanTensorHook,
                     basic_session_run_hooks.NeverTriggerTimer, v1.train.Coordinator.should_stop):
        assert known_tensorflow.is_known(function)
    assert not known_tensorflow.is_known(monitored_session.Scaffold)  # nobody asks for it
    assert known_tensorflow.is_known(pathlib.Path, len)
    assert not known_tensorflow.is_known(None)


def test_digests_see_code_and_no_comments():
    source = 'class A(B):\n  """Text."""\n  def f(self):\n    """Text."""\n    return 1  # one\n'
    names = ("A", "A.f", "A.g")
    digests = known_tensorflow.digests(source, names)
    assert digests.keys() == {"A", "A.f"}
    assert known_tensorflow.digests("class A(B):\n    def f(self): return 1", names) == digests
    changed = known_tensorflow.digests(source.replace("1", "True"), names)
    assert changed["A"] != digests["A"] and changed["A.f"] != digests["A.f"]


def test_a_method_replaced_at_the_end_of_its_file_is_not_known(tmp_path):
    change = (HOOKS, "def _as_graph_element(obj):",
              "NanTensorHook.after_run = lambda self, context, values: context.request_stop()\ndef _as_graph_element(obj):")
    done = run_apart("""if True:
        import test_known_tensorflow as t
        assert not t.known_tensorflow.unknown()
        for api in t.helpers.MIXES.values():
            with t.tf.Graph().as_default(), api.in_force():
                op = t.v1.assign_add(t.v1.train.get_or_create_global_step(), 1)
                with api.MonitoredSession(hooks=[api.NanTensorHook(t.tf.constant(1.0))]) as session:
                    session.run(op)
                    assert session.should_stop()
    """, copy_of_tensorflow(tmp_path, (change,)))
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_tensor_without_the_attribute_that_a_plan_reads():
    def missing(tensor):
        raise AttributeError

    with tf.Graph().as_default():
        fed = v1.placeholder(tf.float32, [])
        scalar = fed.shape
        with mock.patch.object(tensor_lib.Tensor, "shape", property(lambda tensor: scalar)), \
                mock.patch.object(type(fed), "_shape_val", property(missing), create=True):
            session = fasthooks.accelerate(v1.Session())
            assert session.run(fed, {fed: 2.0}) == 2
            assert session.report()["declined"] == {declining.CODE_UNKNOWN: 1}


@pytest.mark.parametrize("name", ["_session", "_closed", "_target", "_config"])
def test_an_attribute_that_a_session_has_not(name):
    with tf.Graph().as_default():
        constant = tf.constant(1.0)
        session = v1.Session()
        value = vars(session).pop(name)
        accelerated = fasthooks.accelerate(session)
        setattr(session, name, value)
        assert accelerated.run(constant) == 1
        assert accelerated.report()["declined"] == {declining.CODE_UNKNOWN: 1}


# Versions


@pytest.mark.parametrize("version, tested", [
    ("2.15.0", True), ("2.15.1", True), ("2.18.0-rc1", True), ("2.21.0", True), ("2.22.0rc0", True), ("2.17.0+nv24.8", True),
    ("2.16.1.post2", True), ("2.20.0-dev20250101", True), ("2.15", True), ("2.14.1", False), ("2.23.0", False), ("2.150", False),
    ("3.0", False), ("nightly", False), ("", False),
])
def test_tested_versions(version, tested):
    assert known_tensorflow.is_tested(version) is tested


@pytest.mark.parametrize("version", ["2.14.1", "2.12.0+nv23.4", "1.15.5", "2.9.3.post1"])
def test_a_version_that_is_too_old(version):
    with mock.patch.object(tf, "__version__", version):
        for name in ("MonitoredSession", "patch", "Scaffold"):
            told = f"fasthooks needs TensorFlow 2.15 to 2.22, and this is {re.escape(version)}: pip install"
            with pytest.raises(ImportError, match=told):
                fasthooks.__getattr__(name)


@pytest.mark.parametrize("version", ["2.22.1+vendor.7", "nightly", "", "2.99.0"])
def test_other_versions_are_served(version):
    with mock.patch.object(tf, "__version__", version), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fasthooks.__getattr__("MonitoredSession") is fasthooks.MonitoredSession


def test_where_warnings_are_errors_nothing_is_patched(tmp_path):
    done = run_apart("""if True:
        import warnings
        import fasthooks
        from tensorflow.python.training import monitored_session
        run = monitored_session._HookedSession.run
        for _ in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    fasthooks.patch()
                except RuntimeWarning as warning:
                    assert "NanTensorHook" in str(warning)
                else:
                    raise AssertionError
        assert monitored_session._HookedSession.run is run
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for _ in range(2):
                with fasthooks.patch():
                    assert monitored_session._HookedSession.run is not run
                assert monitored_session._HookedSession.run is run
            fasthooks.NanTensorHook
        assert len(warned) == 1 and warned[0].filename == "<string>", warned
    """, copy_of_tensorflow(tmp_path, (CHANGES["NanTensorHook"],)))
    assert done.returncode == 0, done.stderr[-3000:]


def test_report_says_why_a_session_is_left_alone(tmp_path):
    done = run_apart("""if True:
        import test_known_tensorflow as t
        with t.fasthooks.patch(), t.tf.Graph().as_default():
            session = t.v1.train.MonitoredSession()
            assert t.fasthooks.patched() == {}
            try:
                t.fasthooks.report(session)
            except TypeError as error:
                assert t.declining.CODE_UNKNOWN in str(error)
            else:
                raise AssertionError
    """, copy_of_tensorflow(tmp_path, (CHANGES["_HookedSession"],)))
    assert done.returncode == 0 and "another package" not in done.stderr, done.stderr[-3000:]


def test_without_source_files_nothing_is_verified(tmp_path):
    found = compared(tmp_path, sourceless=(MONITORED,))
    assert found["unknown"] == sorted(known_tensorflow._MODULES["tensorflow.python.training.monitored_session"].code)
    assert len(found["warned"]) == 1 and "no source files" in found["warned"][0] and "changed" not in found["warned"][0]
    for way, runs in found["ways"].items():
        assert all(run["differences"] == [] and (run["planned"] == 0) == (way != "accelerated") for run in runs), (way, runs)


@pytest.mark.parametrize("source", ["class (", "a\0b", "def f():\n return " + "+".join(["1"] * 5000)],
                         ids=["no Python", "NUL", "too deep for a parser in Python"])
def test_a_source_that_cannot_be_parsed_verifies_nothing(source):
    with mock.patch.object(known_tensorflow, "_source", return_value=source):
        changed, unreadable = known_tensorflow._findings.__wrapped__()
    assert changed | unreadable == {name for module in known_tensorflow._MODULES.values() for name in module.code}


class Loader:
    def __init__(self, found):
        self.found = found

    def get_source(self, module):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize("loader", [
    None, object(), Loader(None), Loader(b"bytes"), Loader(NotImplementedError()), Loader(ValueError("no text"))])
def test_any_loader_may_have_loaded_tensorflow(loader):
    module = types.ModuleType("loaded")
    module.__loader__ = loader
    with mock.patch.dict(sys.modules, loaded=module):
        assert known_tensorflow._source("loaded") is None
        del module.__loader__
        assert known_tensorflow._source("loaded") is None


@pytest.mark.parametrize("version", [None, 2.21, b"2.21.0"])
def test_a_version_of_any_type(version):
    with mock.patch.object(tf, "__version__", version):
        assert known_tensorflow._release(known_tensorflow._version()) >= known_tensorflow._OLDEST


def test_a_name_that_tensorflow_has_not_costs_what_stands_on_it():
    done = run_apart("""if True:
        from tensorflow.python.summary.writer import event_file_writer
        from tensorflow.python.training import basic_session_run_hooks
        del basic_session_run_hooks._HookTimer, basic_session_run_hooks.NeverTriggerTimer
        del event_file_writer._EventLoggerThread
        import tensorflow as tf
        import fasthooks
        v1 = tf.compat.v1
        with tf.Graph().as_default():
            op = v1.assign_add(v1.train.create_global_step(), 1)
            with fasthooks.MonitoredSession(hooks=[fasthooks.StopAtStepHook(last_step=3)]) as session:
                while not session.should_stop():
                    session.run(op)
        from fasthooks.step import _plan
        assert _plan.totals()["planned_steps"] == 3
    """)
    assert done.returncode == 0, done.stderr[-3000:]
