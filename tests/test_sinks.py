"""Sinks: what is written, after kills, full disks, restarts and recoveries too; early stopping; the best checkpoints."""

import csv
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from helpers import Fails, build_model, captured_logs, describe_files, read_events, v1

import fasthooks as fh

FILES = {"csv": fh.CSVSink, "jsonl": fh.JSONLSink}
ROW = {"loss": 0.1, "speed": math.nan}
every_file = pytest.mark.parametrize("kind", FILES)


def read(kind, path):
    """(step, {name: value}) of each line; NaN is None in both."""
    lines = path.read_text().splitlines()
    if kind == "jsonl":
        rows = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines]
    else:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]
    for row in rows:
        assert abs(row.pop("time") - time.time()) < 600
    return [(int(row.pop("step")), {name: None if value is None or not math.isfinite(value) else value
                                    for name, value in row.items()}) for row in rows]


def write(sink, steps, row=ROW, names=tuple(ROW)):
    sink.begin(names)
    sink.started(None, 0)
    for step in steps:
        sink.write(step, row, None)
    sink.close()


# Files


@every_file
def test_lines(tmp_path, kind, clock):
    path = tmp_path / "new" / "directory" / "rows"
    sink = FILES[kind](path)
    clock.now = 1000.5
    write(sink, [1, 101], {"a": 0.1, "b, \"c\"": math.inf}, ["a", "b, \"c\""])
    assert path.read_text() == {
        "csv": 'step,time,a,"b, ""c"""\n1,1000.5,0.1,inf\n101,1000.5,0.1,inf\n',
        "jsonl": '{"step": 1, "time": 1000.5, "a": 0.1, "b, \\"c\\"": null}\n'
                 '{"step": 101, "time": 1000.5, "a": 0.1, "b, \\"c\\"": null}\n'}[kind]


@every_file
@pytest.mark.parametrize("names", [tuple(ROW), None])
def test_a_row_is_there_when_its_step_ends(tmp_path, kind, names):
    path = tmp_path / "rows"
    sink = FILES[kind](path)
    sink.begin(names)
    for number in range(1, 4):
        sink.write(number, ROW, None)
        assert [step for step, _ in read(kind, path)] == list(range(1, number + 1))
    sink.close()
    sink.close()


@every_file
@pytest.mark.parametrize("append", [True, False])
@pytest.mark.parametrize("names", [tuple(ROW), None])
def test_appending(tmp_path, kind, append, names):
    path = tmp_path / "rows"
    write(FILES[kind](path), [1, 2])
    sink = FILES[kind](path, append=append)
    for _ in range(2):  # two sessions with one object
        write(sink, [2, 3], names=names)
    assert [step for step, _ in read(kind, path)] == [*([1, 2] if append else []), 2, 3, 2, 3]


@every_file
def test_a_cut_last_line_is_ended(tmp_path, kind):
    path = tmp_path / "rows"
    write(FILES[kind](path), [1, 2])
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    write(FILES[kind](path), [3])
    lines = path.read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:-1]) == whole[:-5] + b"\n" and lines[-1].endswith(b"\n")


@pytest.mark.parametrize("length", range(len("step,time,loss,speed\n") + 1))
def test_a_header_that_was_cut_is_completed(tmp_path, length):
    path = tmp_path / "rows"
    path.write_text("step,time,loss,speed\n"[:length])
    write(fh.CSVSink(path), [7])
    assert [step for step, _ in read("csv", path)] == [7]
    assert path.read_text().splitlines()[0] == "step,time,loss,speed"


@pytest.mark.parametrize("text", ["step,time,loss\n1,2,3\n", "step,time,other,speed\n", "x", "step,time,loss,speed,more\n", "\n"])
@pytest.mark.parametrize("names", [tuple(ROW), None])
def test_another_header_is_refused(tmp_path, text, names):
    path = tmp_path / "rows"
    path.write_text(text)
    sink = fh.CSVSink(path)
    with pytest.raises(ValueError) as raised:
        write(sink, [1], names=names)
    assert str(path) in str(raised.value) and "step,time,loss,speed" in str(raised.value)
    assert repr(text.encode()[:21]) in str(raised.value)
    assert path.read_text() == text


@every_file
def test_append_is_checked(tmp_path, kind):
    with pytest.raises(ValueError, match=r"^append must be True or False; got 1\.$"):
        FILES[kind](tmp_path / "x", append=1)


@every_file
def test_in_a_session(way, tmp_path, kind):
    train, loss = build_model()
    path = tmp_path / "rows"
    hook = fh.MetricsHook({"loss": loss}, to=FILES[kind](path), every_n_steps=4)
    way.run([hook], train, 6)
    rows = read(kind, path)
    assert [(step, row["loss"]) for step, row in rows] == [(0, 0.0), (4, 4.0), (6, 6.0)]
    assert rows[0][1]["steps_per_sec"] is None and rows[1][1]["steps_per_sec"] > 0


@every_file
def test_recovery_and_resume(way, tmp_path, kind):
    train, loss = build_model()
    path = tmp_path / "rows"

    def run(steps, *more):
        hook = fh.MetricsHook({"loss": loss}, to=FILES[kind](path), every_n_steps=4, at_end=False)
        saver = v1.train.CheckpointSaverHook(str(tmp_path / "model"), save_steps=8)
        creator = v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path / "model"))
        with way.session([hook, saver, *more], creator) as session:
            for _ in range(steps):
                session.run(train)

    run(24, Fails([14], tf.errors.AbortedError(None, None, "lost")))
    assert [step for step, _ in read(kind, path)] == [0, 4, 8, 12, 16]
    run(6)
    assert [step for step, _ in read(kind, path)] == [0, 4, 8, 12, 16, 19, 23]


PROGRAM = """
    import os, resource, signal, sys
    import tensorflow as tf
    from tensorflow.python.training import training_util
    import fasthooks as fh
    kind, path, how = sys.argv[1:]
    v1 = tf.compat.v1
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with tf.Graph().as_default():
        step = v1.train.create_global_step()
        with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
            train = step.assign_add(1)
        sink = {"csv": fh.CSVSink, "jsonl": fh.JSONLSink}[kind](path)
        with fh.MonitoredSession(hooks=[fh.MetricsHook(to=sink, every_n_steps=1)]) as session:
            number = 0
            while True:
                number += 1
                try:
                    session.run(train)
                except OSError as error:
                    print("failed", number, type(error).__name__, error.errno, flush=True)
                    raise SystemExit
                if number == 3:
                    if how == "full":
                        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + 20, resource.RLIM_INFINITY))
                    print("running", flush=True)
"""


def start(kind, path, how):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(PROGRAM), kind, str(path), how], stdout=subprocess.PIPE,
                            text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})


@every_file
def test_a_kill_while_rows_are_written(tmp_path, kind):
    path = tmp_path / "rows"
    for _ in range(2):
        with start(kind, path, "kill") as process:
            assert process.stdout.readline() == "running\n"
            time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
    steps = [step for step, _ in read(kind, path)]
    second = steps.index(0, 1)
    assert steps == [*range(second), *range(len(steps) - second)] and second >= 3


@every_file
def test_a_full_disk_is_an_error_of_that_step(tmp_path, kind):
    path = tmp_path / "rows"
    with start(kind, path, "full") as process:
        output = process.communicate()[0].splitlines()
    assert output == ["running", "failed 4 OSError 27"]
    assert path.read_bytes().count(b"\n") == (4 if kind == "csv" else 3)
    write(FILES[kind](path), [9], {"steps_per_sec": 1.0}, ["steps_per_sec"])
    last = path.read_text().splitlines()[-1]
    assert last.startswith(("9,", '{"step": 9,'))


@every_file
def test_what_cannot_be_opened(tmp_path, kind):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        FILES[kind](tmp_path / "file" / "below").begin(["x"])


# TensorBoard


def scalars(directory):
    """(step, {tag: value}) of each summary event under a directory."""
    return [(event.step, {value.tag: value.simple_value for value in event.summary.value})
            for path in sorted(pathlib.Path(directory).glob("events.*")) for event in read_events(path)
            if event.WhichOneof("what") == "summary"]


def test_events(way, tmp_path):
    train, loss = build_model()
    logdir = tmp_path / "log"
    hooks = [fh.MetricsHook({"loss": loss}, to=fh.EventSink(logdir, prefix="train/"), every_n_steps=4),
             fh.EvaluationHook(lambda session: {"w": session.run(loss)}, to=fh.EventSink(logdir), every_n_steps=5)]
    for _ in range(2):
        way.run(hooks, train, 6)
    found = scalars(logdir)
    tags = [(step, sorted(row)) for step, row in found]
    train_tags, one_run = ["train/loss", "train/steps_per_sec"], [0, 4, 6]
    assert [step for step, row in tags if row == train_tags] == one_run * 2
    assert [step for step, row in tags if row == ["w"]] == [0, 5] * 2
    assert [row["train/loss"] for _, row in found if "train/loss" in row] == [0.0, 4.0, 6.0] * 2
    v1.summary.FileWriterCache.clear()


def test_tensorboards_own_reader(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tf.Graph().as_default():
        write(fh.EventSink(tmp_path), [1, 5], {"loss": 0.5})
    v1.summary.FileWriterCache.clear()
    accumulator = reader.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert [(event.step, event.value) for event in accumulator.Scalars("loss")] == [(1, 0.5), (5, 0.5)]


def test_events_that_could_not_be_written(way, tmp_path):
    train, loss = build_model()
    logdir = tmp_path / "log"
    hook = fh.MetricsHook({"loss": loss}, to=fh.EventSink(logdir), every_n_steps=2)
    with pytest.raises(tf.errors.NotFoundError, match="removed or renamed"), way.session([hook]) as session:
        session.run(train)
        writer = v1.summary.FileWriterCache.get(str(logdir))
        writer.flush()
        for path in logdir.glob("events.*"):
            path.unlink()
        session.run(train)
        writer.flush()
        session.run(train)
        pytest.fail("the row after the failure is an error")
    v1.summary.FileWriterCache.clear()


def test_events_after_a_recovery(way, tmp_path):
    train, loss = build_model()
    saver = v1.train.CheckpointSaverHook(str(tmp_path / "model"), save_steps=8)
    hook = fh.MetricsHook({"loss": loss}, to=fh.EventSink(tmp_path / "log"), every_n_steps=4, at_end=False)
    fails = Fails([14], tf.errors.AbortedError(None, None, "lost"))
    with way.session([hook, saver, fails], v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path / "model"))) as session:
        for _ in range(24):
            session.run(train)
    assert [step for step, _ in scalars(tmp_path / "log")] == [0, 4, 8, 12, 16]
    v1.summary.FileWriterCache.clear()


# Weights & Biases


@pytest.fixture
def wandb_here(tmp_path, monkeypatch):
    """wandb, with its files in the test's own directory."""
    wandb = pytest.importorskip("wandb")
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield wandb
    if wandb.run is not None:
        wandb.finish()


@pytest.mark.parametrize("given", [True, False], ids=["given", "active"])
def test_wandb_rows_read_back(way, tmp_path, wandb_here, given):
    from test_wandb_hook import OfflineRun

    train, loss = build_model()
    saver = v1.train.CheckpointSaverHook(str(tmp_path / "model"), save_steps=8)
    fails = Fails([14], tf.errors.AbortedError(None, None, "lost"))
    with OfflineRun(tmp_path) as offline:
        sink = fh.WandbSink(wandb_here.run if given else None, prefix="train/")
        hook = fh.MetricsHook({"loss": loss}, to=sink, every_n_steps=4, at_end=False)
        creator = v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path / "model"))
        with way.session([hook, saver, fails], creator) as session:
            for _ in range(24):
                session.run(train)
    rows = [{name: value for name, value in row.items() if name in ("train/loss", "global_step")} for _, row in offline.rows]
    assert rows == [{"train/loss": float(step), "global_step": step} for step in (0, 4, 8, 12, 16)]
    assert all("train/steps_per_sec" in row for _, row in offline.rows)


def test_wandb_without_a_run(way, wandb_here):
    build_model()
    with pytest.raises(wandb_here.Error, match=r"^You must call `wandb\.init\(\)` before"):
        way.session([fh.MetricsHook(to=fh.WandbSink(), every_n_steps=1)])


def test_wandb_not_installed():
    with mock.patch.dict(sys.modules, wandb=None):
        with pytest.raises(ImportError, match=r"^WandbSink needs the wandb package: pip install 'fasthooks\[wandb\]'$"):
            fh.WandbSink()


# Early stopping


def stops(sink, values, first=1):
    """Numbers of the rows, from `first`, at which a sink asks for a stop; writes all of them."""
    return [step for step, value in enumerate(values, first) if sink.write(step, {"x": value}, None)]


def reference_stops(values, patience, mode, min_delta, min_steps):
    """The rule, slowly: for each row look at all rows up to it."""
    found = []
    for end in range(1, len(values) + 1):
        best, at = None, 0
        for number, value in enumerate(values[:end], 1):
            if math.isfinite(value) and (best is None or (best - value if mode == "min" else value - best) > min_delta):
                best, at = value, number
        if end - at >= patience and end >= min_steps:
            found.append(end)
    return found


@pytest.mark.parametrize("seed", range(200))
def test_early_stopping_against_a_reference(seed):
    rng = np.random.RandomState(seed)
    some = [0.0, 1.0, 1.5, 2.0, 3.0, math.nan, math.inf, -math.inf, *rng.normal(size=4)]
    values = rng.choice(some, size=rng.randint(1, 30)).tolist()
    settings = {"patience": int(rng.randint(1, 6)), "mode": rng.choice(["min", "max"]).item(),
                "min_delta": rng.choice([0.0, 0.5]).item(), "min_steps": int(rng.randint(0, 10))}
    sink = fh.EarlyStopping("x", **settings)
    sink.begin(["x"])
    sink.started(None, 0)
    assert stops(sink, values) == reference_stops(values, **settings)


@pytest.mark.parametrize("has_file", [True, False], ids=["file", "memory"])
@pytest.mark.parametrize("seed", range(20))
def test_patience_goes_on_where_the_state_does(tmp_path, seed, has_file):
    """Restarts and recoveries, some to earlier steps: what counts are the rows that led to the state."""
    rng = np.random.RandomState(seed)

    def make():
        return fh.EarlyStopping("x", patience=3, mode="min", state_file=tmp_path / "state" if has_file else None)

    sink, kept = make(), {}
    sink.begin(["x"])
    sink.started(None, 0)
    for _ in range(60):
        step = max(kept, default=0)
        if rng.rand() < 0.2:
            back = int(rng.randint(0, step + 1))
            sink.close()
            if has_file and rng.rand() < 0.5:
                sink = make()
                sink.begin(["x"])
                if rng.rand() < 0.5:
                    with open(tmp_path / "state", "ab") as file:
                        file.write(b'{"monitor": "x", "st')
            sink.started(None, back)
            kept = {at: value for at, value in kept.items() if at <= back}
        else:
            kept[step + 1] = float(rng.randint(0, 8))
            asked = sink.write(step + 1, {"x": kept[step + 1]}, None)
            values = list(kept.values())
            best = min(values)
            assert asked == (len(values) - 1 - values.index(best) >= 3)
    sink.close()


def test_early_stopping_in_a_session(way, tmp_path):
    train, loss = build_model()
    for patience, expected in ((2, 3), (1, 2)):
        with captured_logs() as logs:
            with way.session([fh.MetricsHook({"loss": loss}, to=fh.EarlyStopping("loss", patience=patience, mode="min"),
                                             every_n_steps=1)]) as session:
                runs = 0
                while not session.should_stop():
                    session.run(train)
                    runs += 1
        assert runs == expected
        assert [message for _, _, message in logs if "EarlyStopping" in message] == [
            f"EarlyStopping requests a stop at step {patience}: loss has not improved in {patience} rows, "
            "the best was 0.0 at step 0."]


def test_a_state_file_of_something_else(tmp_path):
    state = tmp_path / "state"
    state.write_text('{"monitor": "other", "step": 1, "value": 2.0}\n')
    sink = fh.EarlyStopping("x", patience=1, mode="min", state_file=state)
    sink.begin(["x"])
    with pytest.raises(ValueError, match=r"^state_file must have rows of 'x'; got .*, line 1: .*other"):
        sink.started(None, 0)
    sink.close()


def make_best(directory="x", **arguments):
    return fh.BestCheckpoints(directory, **{"monitor": "x", "mode": "min", **arguments})


def make_stopping(**arguments):
    return fh.EarlyStopping(**{"monitor": "x", "patience": 1, "mode": "min", **arguments})


@pytest.mark.parametrize("make", [make_best, make_stopping])
def test_what_is_monitored_must_be_there(way, make):
    train, loss = build_model()
    with pytest.raises(ValueError, match=r"^monitor must be one of the names of the rows, loss, steps_per_sec; got 'x'\.$"):
        way.session([fh.MetricsHook({"loss": loss}, to=make(), every_n_steps=1)])
    with pytest.raises(ValueError, match=r"^monitor must be one of the names of the rows, y; got 'x'\.$"):
        way.run([fh.EvaluationHook(lambda session: {"y": 1}, to=make(), every_n_steps=1)], train, 1)


@pytest.mark.parametrize(("make", "arguments", "error", "message"), [
    (make_stopping, {"monitor": 3}, TypeError, "monitor must be the name of a metric; got 3."),
    (make_stopping, {"mode": "auto"}, ValueError, "mode must be 'min' or 'max'; got 'auto'."),
    (make_stopping, {"patience": 0}, ValueError, "patience must be a positive int; got 0."),
    (make_stopping, {"patience": 2.9}, ValueError, "patience must be a positive int; got 2.9."),
    (make_stopping, {"min_delta": -1}, ValueError, "min_delta must be a number of at least 0; got -1."),
    (make_stopping, {"min_delta": math.nan}, ValueError, "min_delta must be a number of at least 0; got nan."),
    (make_stopping, {"min_steps": True}, ValueError, "min_steps must be an int of at least 0; got True."),
    (make_best, {"keep": 0}, ValueError, "keep must be a positive int; got 0."),
    (make_best, {"mode": None}, ValueError, "mode must be 'min' or 'max'; got None.")])
def test_arguments_are_checked(make, arguments, error, message):
    with pytest.raises(error) as raised:
        make(**arguments)
    assert str(raised.value) == message


# Best checkpoints


class FakeSaver:
    """Writes files that look like a checkpoint, and what was there when it did."""

    def __init__(self):
        self.saved, self.seen = [], []

    def save(self, session, path, write_meta_graph, write_state):
        assert not write_meta_graph and not write_state
        self.seen.append(fh.best_checkpoint(os.path.dirname(path)))
        self.saved.append(int(path.rpartition("-")[2]))
        for suffix in (".index", ".data-00000-of-00001"):
            pathlib.Path(path + suffix).write_text("")


def on_disk(directory):
    return sorted(int(path.stem.rpartition("-")[2]) for path in pathlib.Path(directory).glob("*.index"))


@pytest.mark.parametrize("seed", range(200))
def test_the_best_against_a_reference(tmp_path, seed):
    rng = np.random.RandomState(seed)
    values = rng.choice([0.0, 1.0, 2.0, math.nan, math.inf, *rng.normal(size=4)], size=rng.randint(1, 25)).tolist()
    keep, mode = int(rng.randint(1, 5)), rng.choice(["min", "max"]).item()
    saver, finite = FakeSaver(), []
    sink = make_best(tmp_path, keep=keep, mode=mode, saver=saver)
    sink.begin(["x"])
    sink.started(None, 0)
    for step, value in enumerate(values, 1):
        if rng.rand() < 0.15:  # a restart
            sink = make_best(tmp_path, keep=keep, mode=mode, saver=saver)
            sink.begin(None)
            sink.started(None, 0)
        sink.write(step, {"x": value}, None)
        if math.isfinite(value):
            finite.append((value, step))
        sign = 1 if mode == "min" else -1
        best = sorted(finite, key=lambda one: (sign * one[0], one[1]))[:keep]
        assert on_disk(tmp_path) == sorted(step for _, step in best)
        assert fh.best_checkpoint(tmp_path) == (str(tmp_path / f"best-{best[0][1]}") if best else None)
        listed = json.loads((tmp_path / "best_checkpoints.json").read_text())["checkpoints"] if best else []
        assert [(one["value"], one["step"], one["path"]) for one in listed] == [(*one, f"best-{one[1]}") for one in best]


def test_best_checkpoints_in_a_session(way, tmp_path):
    train, loss = build_model()
    variables = v1.global_variables()
    sink = fh.BestCheckpoints(tmp_path / "best", "off", mode="min", keep=2)
    creator = v1.train.ChiefSessionCreator(checkpoint_dir=str(tmp_path / "model"))
    hooks = [fh.EvaluationHook(lambda session: {"off": abs(session.run(loss) - 5.0)}, to=sink, every_n_steps=1),
             v1.train.CheckpointSaverHook(str(tmp_path / "model"), save_steps=4)]
    way.run(hooks, train, 10, creator=creator)
    # The variables are those after the step, which was read before it.
    assert on_disk(tmp_path / "best") == [3, 4]
    best = fh.best_checkpoint(str(tmp_path / "best"))
    assert best == str(tmp_path / "best" / "best-4")
    with v1.Session() as session:
        v1.train.Saver(variables).restore(session, best)
        assert session.run("loss:0") == 5.0
    assert not (tmp_path / "best" / "checkpoint").exists()
    # The training's own checkpoints are not concerned.
    assert on_disk(tmp_path / "model")[-1] == 10
    assert v1.train.latest_checkpoint(str(tmp_path / "model")).endswith("-10")


def test_a_checkpoint_is_saved_before_another_is_deleted(tmp_path):
    saver = FakeSaver()
    sink = make_best(tmp_path, saver=saver)
    sink.begin(["x"])
    sink.started(None, 0)
    for step, value in ((1, 3.0), (2, 2.0), (3, 2.0), (4, 1.0)):
        sink.write(step, {"x": value}, None)
    assert saver.saved == [1, 2, 4]
    assert saver.seen == [None, str(tmp_path / "best-1"), str(tmp_path / "best-2")]


@pytest.mark.parametrize("fails", ["save", "replace", "remove"])
def test_a_failure_leaves_a_list_that_holds(tmp_path, fails):
    saver = FakeSaver()
    sink = make_best(tmp_path, saver=saver)
    sink.begin(["x"])
    sink.started(None, 0)
    sink.write(1, {"x": 3.0}, None)
    target = {"save": (saver, "save"), "replace": (os, "replace"),
              "remove": (fh.hooks.monitors.checkpoint_management, "remove_checkpoint")}[fails]
    with mock.patch.object(*target, side_effect=OSError("full")), pytest.raises(OSError, match="full"):
        sink.write(2, {"x": 2.0}, None)
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / ("best-2" if fails == "remove" else "best-1"))
    assert not list(tmp_path.glob("best_checkpoints.json?*"))
    restarted = make_best(tmp_path, saver=saver)
    restarted.begin(["x"])
    restarted.started(None, 0)
    restarted.write(3, {"x": 1.0}, None)
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / "best-3")


def test_what_is_gone_is_dropped_and_other_files_stay(tmp_path):
    saver = FakeSaver()
    sink = make_best(tmp_path, keep=2, saver=saver)
    sink.begin(["x"])
    sink.started(None, 0)
    for step, value in ((1, 1.0), (2, 2.0)):
        sink.write(step, {"x": value}, None)
    FakeSaver().save(None, str(tmp_path / "best-7"), False, False)
    for path in tmp_path.glob("best-1.*"):
        path.unlink()
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / "best-2")
    restarted = make_best(tmp_path, keep=2, saver=saver)
    restarted.begin(["x"])
    restarted.started(None, 0)
    for step, value in ((3, 9.0), (4, 0.5), (5, 0.4)):
        restarted.write(step, {"x": value}, None)
    assert on_disk(tmp_path) == [4, 5, 7]


def test_rows_of_a_step_that_is_made_again(tmp_path):
    saver = FakeSaver()
    sink = make_best(tmp_path, keep=2, saver=saver)
    sink.begin(["x"])
    sink.started(None, 0)
    for step, value in ((4, 2.0), (8, 1.0), (4, 3.0), (8, 1.0), (8, 0.5)):
        sink.write(step, {"x": value}, None)
    assert saver.saved == [4, 8, 8] and on_disk(tmp_path) == [4, 8]


def test_directories_that_are_refused(way, tmp_path):
    train, loss = build_model()

    def run(directory):
        hooks = [v1.train.CheckpointSaverHook(str(tmp_path), save_steps=4),
                 fh.MetricsHook({"x": loss}, to=make_best(directory, mode="max"), every_n_steps=1)]
        way.run(hooks, train, 2)

    # At first there is nothing yet that tells: then the first row does.
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^directory must not have other checkpoints; got "):
            run(tmp_path)
    assert not list(tmp_path.glob("best-*"))
    run(tmp_path / "best")
    with pytest.raises(ValueError, match=r"has the best checkpoints for 'x' and mode 'max'; got 'x' and 'min'\.$"):
        make_best(tmp_path / "best").begin(["x"])


def test_without_a_saver(way):
    train, loss = build_model()
    creator = v1.train.ChiefSessionCreator(v1.train.Scaffold(saver=v1.train.Saver()))
    assert train is not None
    with pytest.raises(RuntimeError, match=r"^BestCheckpoints needs a saver, and the graph's collection has 0: give saver\.$"):
        way.session([fh.MetricsHook({"x": loss}, to=make_best(), every_n_steps=1)], creator)


def test_no_best_checkpoint(tmp_path):
    assert fh.best_checkpoint(tmp_path) is None
    assert fh.best_checkpoint(str(tmp_path / "nowhere")) is None
    assert describe_files(tmp_path) == {}
