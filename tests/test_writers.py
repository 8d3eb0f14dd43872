"""Event files: failures of TensorFlow's background writer, the last summary, and wandb's view of the files."""

import contextlib
import importlib.util
import os
import pathlib
import re
import shutil
import sys
import textwrap
import threading
from unittest import mock

import apart
import pytest
import tensorflow as tf
from helpers import STOCK, build_model, messages, read_events, record, summaries, train
from tensorflow.python.summary.writer import writer_cache

import fasthooks

v1 = tf.compat.v1
SESSIONS = {"tf_session": STOCK, "our_session": fasthooks}
HOOKS = ("CheckpointSaverHook", "StepCounterHook", "SummarySaverHook")


@pytest.fixture(params=SESSIONS)
def lib(request):
    return SESSIONS[request.param]


@pytest.fixture(autouse=True)
def writers(monkeypatch):
    """A cache of writers for the test alone, in a fresh graph; the writers' threads fail in silence."""
    monkeypatch.setattr(writer_cache.FileWriterCache, "_cache", {})
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)
    with tf.Graph().as_default():
        yield
    for writer in writer_cache.FileWriterCache._cache.values():
        with contextlib.suppress(OSError, tf.errors.NotFoundError):
            writer.close()


def make(name, lib, directory, every=1000):
    """A hook that acts on the first step and then every so many."""
    return {
        "CheckpointSaverHook": lambda: lib.CheckpointSaverHook(directory, save_steps=every, save_graph_def=False),
        "StepCounterHook": lambda: lib.StepCounterHook(every_n_steps=every, output_dir=directory),
        "SummarySaverHook": lambda: lib.SummarySaverHook(
            save_steps=every, output_dir=directory, summary_op=v1.summary.scalar("s", v1.train.get_global_step())),
    }[name]()


def thread_of(hook):
    return hook._summary_writer.event_writer._worker


def break_writer(hook, error):
    """Lets the hook's writer thread fail on the next event, and waits for that."""
    worker = thread_of(hook)
    with mock.patch.object(worker._ev_writer, "_native", mock.Mock(**{"WriteEvent.side_effect": error})):
        hook._summary_writer.event_writer._event_queue.put(tf.compat.v1.Event(step=1))
        worker.join(60)
    assert not worker.is_alive()


@pytest.mark.parametrize("name", HOOKS)
def test_a_failure_surfaces_at_the_next_step(lib, tmp_path, name):
    op, _ = build_model()
    hook = make(name, fasthooks, str(tmp_path))
    error = OSError("disk full")

    def program():
        with lib.MonitoredSession(hooks=[hook]) as session:
            for _ in range(3):
                session.run(op)
            break_writer(hook, error)
            session.run(op)
            pytest.fail("no error")

    with pytest.raises(OSError, match="disk full") as caught:
        program()
    assert caught.value is error


@pytest.mark.parametrize("name", HOOKS)
def test_training_may_go_on_and_its_end_raises_again(lib, tmp_path, name):
    op, _ = build_model()
    hook = make(name, fasthooks, str(tmp_path))
    mine = hook.after_run = mock.Mock(wraps=hook.after_run)
    session = lib.MonitoredSession(hooks=[hook])
    session.run(op)
    break_writer(hook, OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        session.run(op)
    assert hook.after_run is mine
    session.run(op)
    assert mine.call_count == 2
    with pytest.raises(OSError, match="disk full"):
        session.close()
    assert hook.after_run is mine


@pytest.mark.parametrize("name", HOOKS)
def test_a_failure_surfaces_at_the_end(lib, tmp_path, name):
    op, _ = build_model()
    hook = make(name, fasthooks, str(tmp_path))

    def program():
        with lib.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            break_writer(hook, OSError("disk full"))

    with pytest.raises(OSError, match="disk full"):
        program()


@pytest.mark.parametrize("name", HOOKS)
def test_the_end_waits_for_the_file(lib, tmp_path, name):
    op, _ = build_model()
    hook = make(name, fasthooks, str(tmp_path))

    def program():
        with lib.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            thread_of(hook)._ev_writer._native = mock.Mock(**{"Flush.side_effect": OSError("disk full")})

    with pytest.raises(OSError, match="disk full"):
        program()


@pytest.mark.parametrize("name", HOOKS)
def test_all_hooks_of_one_writer_hear_of_it(tmp_path, name):
    op, _ = build_model()
    hooks = [make(one, fasthooks, str(tmp_path)) for one in HOOKS]
    first = next(hook for hook in hooks if type(hook).__name__ == name)
    session = fasthooks.MonitoredSession(hooks=hooks)
    session.run(op)
    break_writer(hooks[0], OSError("disk full"))
    for hook in [first, *(other for other in hooks if other is not first)]:
        with pytest.raises(OSError, match="disk full"):
            session.run(op, hooks=[hook])
    session.run(op)
    with pytest.raises(OSError, match="disk full"):
        session.close()


@pytest.mark.parametrize("name", HOOKS)
def test_a_removed_directory_surfaces(lib, tmp_path, name):
    op, _ = build_model()
    directory = tmp_path / "events"
    hook = make(name, fasthooks, str(directory))
    hook_writes_elsewhere = name == "CheckpointSaverHook"

    def program():
        with lib.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            hook._summary_writer.flush()
            shutil.rmtree(directory)
            if hook_writes_elsewhere:  # its Saver would fail first
                directory.mkdir()

    with pytest.raises(tf.errors.NotFoundError, match="was removed or renamed, and events for it may be lost"):
        program()


@pytest.mark.parametrize("name", HOOKS)
def test_a_directory_that_is_removed_between_sessions(lib, tmp_path, name):
    directory = tmp_path / "events"
    for _ in range(3):
        shutil.rmtree(directory, ignore_errors=True)
        with tf.Graph().as_default():
            op, _ = build_model()
            with lib.MonitoredSession(hooks=[make(name, fasthooks, str(directory), 1)]) as session:
                session.run(op)
                session.run(op)
        assert [len(read_events(path)) > 1 for path in directory.glob("events.*")] == [True]


@pytest.mark.parametrize("ends", [True, False], ids=["end", "error"])
@pytest.mark.parametrize("name", HOOKS)
def test_a_program_may_remove_what_it_wrote(lib, tmp_path, name, ends):
    op, _ = build_model()
    directory = tmp_path / "events"
    hook = make(name, fasthooks, str(directory))
    with contextlib.nullcontext() if ends else pytest.raises(KeyError):
        with lib.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            if not ends:
                raise KeyError
    hook._summary_writer.flush()
    shutil.rmtree(directory)
    hook._summary_writer.add_event(v1.Event(step=1))
    hook._summary_writer.flush()
    writer_cache.FileWriterCache.clear()


def test_a_hook_of_two_sessions_is_told_until_the_last_one_ends(lib, tmp_path):
    op, _ = build_model()
    hook = make("SummarySaverHook", fasthooks, str(tmp_path / "events"), every=1)
    first, second = [lib.MonitoredSession(hooks=[hook]) for _ in range(2)]
    for session in (first, second):
        session.run(op)
    first.close()
    shutil.rmtree(tmp_path / "events")
    hook._summary_writer.flush()
    with pytest.raises(tf.errors.NotFoundError, match="was removed"):
        second.run(op)
    second.close()


def test_a_writer_that_the_program_closes_and_opens_again(lib, tmp_path):
    op, _ = build_model()
    hook = make("SummarySaverHook", fasthooks, str(tmp_path / "events"), every=1)

    def program():
        with lib.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            hook._summary_writer.close()
            hook._summary_writer.reopen()
            hook._summary_writer.flush()
            session.run(op)
            hook._summary_writer.flush()
            shutil.rmtree(tmp_path / "events")

    with pytest.raises(tf.errors.NotFoundError, match="was removed"):
        program()


def test_a_file_that_was_lost_is_made_again_by_the_next_session(lib, tmp_path):
    op, _ = build_model()
    hook = make("SummarySaverHook", fasthooks, str(tmp_path), every=1)
    session = lib.MonitoredSession(hooks=[hook])
    session.run(op)
    hook._summary_writer.flush()
    next(tmp_path.glob("events.*")).unlink()
    hook._summary_writer.flush()
    with pytest.raises(tf.errors.NotFoundError, match="was removed"):
        session.run(op)
    session.run(op)
    session.close()
    with lib.MonitoredSession(hooks=[hook]) as session:
        for _ in range(3):
            session.run(op)
    assert events(tmp_path)[-3:] == [1, 2, 3]


def events(directory):
    """The steps of the summaries in all event files of a directory."""
    return sorted(event.step for path in pathlib.Path(directory).glob("events.*")
                  for event in v1.train.summary_iterator(str(path)) if event.HasField("summary"))


def test_a_writer_that_failed_is_opened_again_by_the_next_session(lib, tmp_path):
    op, _ = build_model()
    hook = make("SummarySaverHook", fasthooks, str(tmp_path), every=1)
    session = lib.MonitoredSession(hooks=[hook])
    session.run(op)
    hook._summary_writer.flush()
    break_writer(hook, OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        session.close()
    with lib.MonitoredSession(hooks=[hook]) as session:
        for _ in range(3):
            session.run(op)
    # A file that is opened in the second of the first one has its name.
    assert events(tmp_path)[-3:] == [1, 2, 3]


def test_a_failure_after_the_end_does_not_reach_the_next_session(lib, tmp_path):
    op, _ = build_model()
    hook = make("StepCounterHook", fasthooks, str(tmp_path))
    with lib.MonitoredSession(hooks=[hook]) as session:
        session.run(op)
    break_writer(hook, OSError("disk full"))
    with lib.MonitoredSession(hooks=[hook]) as session:
        session.run(op)
        session.run(op)


def test_hooks_that_are_gone_are_not_told(lib, tmp_path):
    op, _ = build_model()
    for _ in range(5):
        with lib.MonitoredSession(hooks=[make("StepCounterHook", fasthooks, str(tmp_path))]) as session:
            session.run(op)
    hook = make("StepCounterHook", fasthooks, str(tmp_path))
    with lib.MonitoredSession(hooks=[hook]) as session:
        session.run(op)
        assert len(thread_of(hook)._ev_writer.hooks) <= 2


@pytest.mark.parametrize("name", ["StepCounterHook", "SummarySaverHook"])
def test_a_writer_of_another_kind_is_left_alone(lib, tmp_path, name):
    op, _ = build_model()
    hook = make(name, fasthooks, str(tmp_path), every=1)
    hook._summary_writer = mock.Mock(spec=["add_summary", "add_session_log", "flush"])
    with lib.MonitoredSession(hooks=[hook]) as session:
        for _ in range(3):
            session.run(op)
    assert hook._summary_writer.add_summary.called


def test_a_closed_writer_warns_as_tensorflows(lib, tmp_path):
    op, _ = build_model()
    writer = v1.summary.FileWriter(str(tmp_path))
    hook = fasthooks.StepCounterHook(every_n_steps=1, summary_writer=writer)
    with lib.MonitoredSession(hooks=[hook]) as session:
        session.run(op)
        writer.close()
        with pytest.warns(UserWarning, match="Attempting to use a closed FileWriter"):
            session.run(op)


def test_no_python_runs_on_a_quiet_step(tmp_path):
    op, _ = build_model()
    hooks = [make(name, fasthooks, str(tmp_path)) for name in HOOKS]
    with fasthooks.MonitoredSession(hooks=hooks, scheduling="pool") as session:
        session.run(op)
        session.run(op)
        python = []
        sys.setprofile(lambda frame, event, arg: python.append(frame.f_code.co_name) if event == "call" else None)
        try:
            session.run(op)
        finally:
            sys.setprofile(None)
    assert [name for name in python if name.endswith("_run")] == []


# The disk is full, really: the process may not make files larger than this.

FULL = """
    import resource, sys, time
    import tensorflow.compat.v1 as tf
    from tensorflow.python.training import training_util
    import fasthooks
    lib = {"tf_session": tf.train, "our_session": fasthooks}[sys.argv[1]]
    tf.disable_eager_execution()
    step = tf.train.create_global_step()
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        op = step.assign_add(1)
    summary = tf.summary.tensor_summary("large", tf.zeros([20000]))
    hook = fasthooks.SummarySaverHook(save_steps=3, output_dir=sys.argv[2], summary_op=summary)
    counter = fasthooks.StepCounterHook(every_n_steps=1000, output_dir=sys.argv[2])
    done = 0
    try:
        with lib.MonitoredSession(hooks=[counter, hook]) as session:
            worker = hook._summary_writer.event_writer._worker
            worker._flush_secs = worker._next_event_flush_time = 0
            session.run(op)
            hook._summary_writer.flush()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            for done in range(1, 1000):
                session.run(op)
                while done == 3 and not worker._ev_writer.is_lost:
                    time.sleep(0.01)
    except Exception as error:
        print(done, error)
"""


def test_a_full_disk(lib, tmp_path):
    name = next(name for name, value in SESSIONS.items() if value is lib)
    done = apart.run(textwrap.dedent(FULL), name, tmp_path, timeout=240)
    # Step 4 writes the event for which there is no room; the quiet step after it raises.
    assert re.fullmatch(r"4 .*events.out.tfevents.\S+ has 100000 bytes of \d+ that were written; the disk may be full\n",
                        done.stdout), done.stdout + done.stderr


# The last summary


def last_summary(run, steps=25, save_steps=10, summary_op=None, fetches=None, op=None, **arguments):
    op = op or build_model()[0]
    if summary_op is None:
        summary_op = v1.summary.scalar("seen", v1.get_default_graph().get_tensor_by_name("loss:0"))
    hook = fasthooks.SummarySaverHook(save_steps=save_steps, output_dir=run.dir, summary_op=summary_op, **arguments)
    train(run, [hook], op if fetches is None else [op, fetches], steps=steps)


def warnings(seen):
    return [line for line in messages(seen, "WARNING") if line.startswith("The summary of the last step")]


def seen_of(program, mix, tmp_path):
    seen = record(program, mix, tmp_path / "run")
    assert seen.error is None, seen.error
    return seen


def test_the_last_summary_is_written_at_the_end(mix, tmp_path):
    seen = seen_of(lambda run: last_summary(run, save_at_end=True), mix, tmp_path)
    # Of the state that the last step left; those before it were computed within their steps.
    assert summaries(seen) == [(1, "seen", 0.0), (11, "seen", 10.0), (21, "seen", 20.0), (25, "seen", 25.0)]


@pytest.mark.parametrize("arguments", [{}, {"save_at_end": False}])
def test_without_save_at_end_all_is_as_with_tensorflow(mix, tmp_path, arguments):
    seen = seen_of(lambda run: last_summary(run, **arguments), mix, tmp_path)
    assert summaries(seen) == [(1, "seen", 0.0), (11, "seen", 10.0), (21, "seen", 20.0)]


def test_a_last_step_that_was_written_is_not_written_again(mix, tmp_path):
    seen = seen_of(lambda run: last_summary(run, steps=21, save_at_end=True), mix, tmp_path)
    assert summaries(seen) == [(1, "seen", 0.0), (11, "seen", 10.0), (21, "seen", 20.0)]


def test_a_list_of_summaries_and_a_scaffold(mix, tmp_path):
    def program(run):
        op, loss = build_model()
        both = [v1.summary.scalar(name, loss) for name in "ab"]
        hooks = [
            fasthooks.SummarySaverHook(save_steps=10, output_dir=run.dir, summary_op=both, save_at_end=True),
            fasthooks.SummarySaverHook(save_steps=10, output_dir=run.dir, save_at_end=True,
                                       scaffold=run.api.Scaffold(summary_op=both[1])),
            fasthooks.SummarySaverHook(save_steps=10, output_dir=run.dir, scaffold=run.api.Scaffold(), save_at_end=True),
        ]
        train(run, hooks, op, steps=3)

    seen = seen_of(program, mix, tmp_path)
    assert summaries(seen)[-3:] == [(3, "a", 3.0), (3, "b", 3.0), (3, "b", 3.0)]


def test_no_step_no_summary_and_no_writer_no_summary(mix, tmp_path):
    def program(run):
        last_summary(run, steps=0, save_at_end=True)
        v1.get_default_graph()._unsafe_unfinalize()
        hook = fasthooks.SummarySaverHook(save_steps=10, output_dir="", summary_op=v1.summary.scalar("x", 1.0),
                                          save_at_end=True)
        train(run, [hook], "train", steps=2)

    assert summaries(seen_of(program, mix, tmp_path)) == []


def test_input_that_is_used_up(mix, tmp_path):
    def program(run):
        op, _ = build_model()
        batch = v1.data.make_one_shot_iterator(v1.data.Dataset.range(5)).get_next()
        last_summary(run, save_at_end=True, op=op, fetches=batch, summary_op=v1.summary.scalar("batch", batch))

    seen = record(program, mix, tmp_path / "run")
    assert seen.error is None or seen.error[0] == "OutOfRangeError"
    assert [value for _, _, value in summaries(seen)] == [0.0]
    # The step whose input failed may have moved the global step.
    assert re.fullmatch("The summary of the last step, [56], is not written: the input is used up.", *warnings(seen))


def test_a_summary_that_must_be_fed(mix, tmp_path):
    def program(run):
        op, _ = build_model()
        fed = v1.placeholder(tf.float32, [], name="fed")
        hooks = [fasthooks.SummarySaverHook(save_steps=2, output_dir=run.dir, save_at_end=True,
                                            summary_op=v1.summary.scalar("fed_summary", 2.0 * fed)),
                 run.api.FeedFnHook(lambda: {fed: 3.0})]
        train(run, hooks, op, steps=4)

    seen = seen_of(program, mix, tmp_path)
    assert summaries(seen) == [(1, "fed_summary", 6.0), (3, "fed_summary", 6.0)]
    assert warnings(seen) == ["The summary of the last step, 4, is not written: it needs the placeholder fed."]


def test_a_summary_that_needs_other_workers(mix, tmp_path):
    def program(run):
        _, loss = build_model()
        reduced = tf.raw_ops.CollectiveReduce(input=loss, group_size=1, group_key=1, instance_key=1, merge_op="Add",
                                              final_op="Id", subdiv_offsets=[0])
        hook = fasthooks.SummarySaverHook(save_steps=2, output_dir=run.dir, save_at_end=True,
                                          summary_op=v1.summary.scalar("reduced", reduced))
        # Never computed: a local session has no collectives.
        hook._next_step = 1
        hook._global_step_tensor = v1.train.get_global_step().value()
        hook._summary_writer = mock.Mock()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            hook.end(session)
        assert not hook._summary_writer.add_summary.called

    assert warnings(seen_of(program, mix, tmp_path)) == [
        "The summary of the last step, 0, is not written: CollectiveReduce needs the other workers."]


def test_another_error_of_the_last_summary_is_raised(mix, tmp_path):
    def program(run):
        op, loss = build_model()
        checked = tf.debugging.check_numerics(tf.where(loss > 2.5, tf.math.log(-loss), loss), "bad")
        last_summary(run, steps=3, save_at_end=True, op=op, summary_op=v1.summary.scalar("checked", checked))

    error = record(program, mix, tmp_path / "run").error
    assert error[0] == "InvalidArgumentError" and "bad" in error[1]


# wandb's view

WANDB = """
    import os, sys
    import tensorflow.compat.v1 as tf
    from tensorflow.python.training import training_util
    import wandb
    how, directory = sys.argv[1:]
    tf.disable_eager_execution()
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
    if how == "patch, import":
        wandb.tensorboard.patch(root_logdir=directory)
    import fasthooks
    if how == "import, patch":
        wandb.tensorboard.patch(root_logdir=directory)
    step = tf.train.create_global_step()
    read = training_util._get_or_create_global_step_read()  # the hooks'
    with tf.control_dependencies([read]):
        op = step.assign_add(1)
    summary = tf.summary.scalar("value", tf.cast(read, tf.float32))
    hooks = [fasthooks.SummarySaverHook(save_steps=2, output_dir=directory, summary_op=summary),
             fasthooks.StepCounterHook(every_n_steps=2, output_dir=directory),
             fasthooks.CheckpointSaverHook(directory, save_steps=100)]
    if how == "hooks, patch":
        wandb.tensorboard.patch(root_logdir=directory)
    run = wandb.init(mode="offline", settings=settings, sync_tensorboard=how == "sync_tensorboard")
    with fasthooks.MonitoredSession(hooks=hooks) as session:
        seen = [type(hook._summary_writer.event_writer).__name__ for hook in hooks]
        for _ in range(6):
            session.run(op)
    path = run.settings.sync_file
    tf.summary.FileWriterCache.clear()
    wandb.finish()
    print(seen, path)
"""


@pytest.mark.parametrize("how", ["patch, import", "import, patch", "hooks, patch", "sync_tensorboard"])
def test_wandb_sees_the_event_files(tmp_path, how):
    pytest.importorskip("wandb")
    from test_wandb_hook import read_records

    directory = tmp_path / "events"
    environment = {f"WANDB_{name}": str(tmp_path) for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR")}
    if importlib.util.find_spec("tensorboard") is None:  # wandb asks whether it is there, and does without what is not
        (tmp_path / "tensorboard").mkdir()
        (tmp_path / "tensorboard" / "__init__.py").write_text("")
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = apart.run(
        textwrap.dedent(WANDB), how, directory, timeout=280, env={**os.environ, **environment, "WANDB_SILENT": "true"})
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip().splitlines()[-1]
    path = line.partition("] ")[2]
    assert line.startswith("['TBXEventFileWriter', 'TBXEventFileWriter', 'TBXEventFileWriter']")
    watched = [one.tbrecord.log_dir for one in read_records(path) if one.HasField("tbrecord")]
    assert watched == [str(directory)]
    rows = [item.value_json for one in read_records(path) if one.HasField("history") for item in one.history.item
            if (item.key or "/".join(item.nested_key)).endswith("value")]
    assert [float(row) for row in rows] == [0.0, 2.0, 4.0]


def test_a_relative_directory_may_be_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tf.Graph().as_default():
        op, loss = build_model()
        hook = fasthooks.SummarySaverHook(save_steps=1, output_dir="logs", summary_op=v1.summary.scalar("cost", loss))
        with fasthooks.MonitoredSession(hooks=[hook]) as session:
            session.run(op)
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            session.run(op)
    v1.summary.FileWriterCache.clear()
    assert len(list((tmp_path / "logs").iterdir())) == 1


# Directories that exist and in which nobody, not even the superuser, can make a file.
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("directory", ["/proc/self", "self"], ids=["absolute", "relative"])
@pytest.mark.parametrize("name", ["StepCounterHook", "SummarySaverHook"])
def test_a_file_that_cannot_be_made(lib, monkeypatch, name, directory):
    monkeypatch.chdir("/proc")
    op, _ = build_model()

    def program():
        with lib.MonitoredSession(hooks=[make(name, fasthooks, directory, every=1)]) as session:
            for _ in range(3):
                session.run(op)

    with pytest.raises(tf.errors.NotFoundError, match=f"{directory}/events.* could not be made, and the events for it are lost"):
        program()


def test_a_relative_directory_that_was_left_before(lib, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    op, _ = build_model()
    writer = v1.summary.FileWriter("logs")
    writer.add_event(v1.Event(step=1))
    writer.flush()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    hook = fasthooks.StepCounterHook(every_n_steps=1, summary_writer=writer)
    with lib.MonitoredSession(hooks=[hook]) as session:
        for _ in range(3):
            session.run(op)
    writer.close()
    assert events(tmp_path / "logs") == [2, 3]


@pytest.mark.parametrize("make", [mock.Mock, mock.MagicMock])
def test_a_mocked_writer_sees_what_tensorflow_calls(make):
    calls = {}
    for api in (STOCK, fasthooks):
        writer = make()
        with tf.Graph().as_default():
            op, _ = build_model()
            with api.MonitoredSession(hooks=[api.StepCounterHook(every_n_steps=1, summary_writer=writer)]) as session:
                for _ in range(3):
                    session.run(op)
        calls[api] = [call[0] for call in writer.mock_calls]
    assert calls[fasthooks] == calls[STOCK] != []
