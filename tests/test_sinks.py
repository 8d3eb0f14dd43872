"""Sinks: what is written, after kills, full disks, restarts and recoveries too; early stopping; the best checkpoints."""

import contextlib
import copy
import csv
import errno
import json
import math
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from unittest import mock

import apart
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
def test_names_of_all_kinds_and_values_beyond_float32(tmp_path, kind):
    path = tmp_path / "rows"
    row = {name: value for value, name in enumerate(["a,b", 'c"d', "e\nf", "g\rh", "Straße ✓", "", " i "], 1)}
    for _ in range(2):  # the header is known again
        write(FILES[kind](path), [1], row, list(row))
    if kind == "csv":
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [{name: float(value) for name, value in found.items() if name not in ("step", "time")} for found in rows] == [row] * 2
    with tf.Graph().as_default():
        row["huge"] = 1e300
        write(fh.EventSink(tmp_path / "events", prefix="x/"), [1], row, list(row))
    v1.summary.FileWriterCache.clear()
    (step, found), = scalars(tmp_path / "events")
    assert step == 1 and found == {f"x/{name}": value if value < 1e300 else math.inf for name, value in row.items()}


@every_file
@pytest.mark.parametrize("names", [("x",), None])
def test_relative_paths_are_of_the_directory_in_which_they_were_given(tmp_path, monkeypatch, kind, names):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    sinks = [FILES[kind]("rows"), make_best("best", saver=FakeSaver()), make_stopping(state_file="state")]
    monkeypatch.chdir("other")
    for sink in sinks:
        write(sink, [1], {"x": 1.0}, names)
        write(sink, [2], {"x": 0.5}, names)  # a recovery, or another session
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "other", "rows", "state"]
    assert [step for step, _ in read(kind, tmp_path / "rows")] == [1, 2] and on_disk(tmp_path / "best") == [2]
    assert not list((tmp_path / "other").iterdir())


@every_file
def test_paths_of_bytes(tmp_path, kind):
    rows, best, state = [os.fsencode(tmp_path / name) for name in ("rows", "best", "state")]
    for sink in (FILES[kind](rows), make_best(best, saver=FakeSaver()), make_stopping(state_file=state)):
        write(sink, [1], {"x": 1.0}, ("x",))
    assert [step for step, _ in read(kind, tmp_path / "rows")] == [1] and (tmp_path / "state").exists()
    assert fh.best_checkpoint(best) == fh.best_checkpoint(tmp_path / "best") == str(tmp_path / "best" / "best-1")


@pytest.mark.parametrize(("make", "name"), [
    (fh.CSVSink, "path"), (fh.JSONLSink, "path"), (lambda path: make_best(path), "directory"),
    (lambda path: make_stopping(state_file=path), "state_file")])
def test_other_file_systems_are_refused(make, name):
    with pytest.raises(ValueError, match=rf"^{name} must be in a local file system; got 'gs://bucket/x'\.$"):
        make("gs://bucket/x")


@every_file
def test_what_is_no_file(tmp_path, kind):
    write(FILES[kind](os.devnull), [1, 2])
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    write(FILES[kind](tmp_path / "fifo"), [1, 2])
    assert os.read(reader, 1 << 16).count(b"\n") == (3 if kind == "csv" else 2)
    os.close(reader)


@every_file
def test_rows_of_two_hooks_do_not_mix_under_one_header(way, tmp_path, kind):
    train, loss = build_model()
    path = tmp_path / "rows"
    sink = FILES[kind](path)
    hooks = [fh.MetricsHook({"loss": loss}, to=sink, every_n_steps=1, at_end=False),
             fh.EvaluationHook(lambda session: {"x": 1}, to=sink, every_n_steps=1, at_end=False)]
    if kind == "jsonl":
        way.run(hooks, train, 1)
        assert [sorted(row) for _, row in read(kind, path)] == [["loss", "steps_per_sec"], ["x"]]
        return
    with pytest.raises(ValueError, match=r"begins with b'step,time,lo'; rows that begin with b'step,time,x"):
        way.run(hooks, train, 1)
    assert [step for step, _ in read(kind, path)] == [0]


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


@contextlib.contextmanager
def full_disk(limit):
    """Lets no file of this process become larger than so many bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@every_file
def test_a_full_disk_is_an_error_of_that_step(way, tmp_path, kind):
    train, _ = build_model()
    path = tmp_path / "rows"
    with pytest.raises(OSError) as raised, way.session([fh.MetricsHook(to=FILES[kind](path), every_n_steps=1)]) as session:
        for _ in range(3):
            session.run(train)
        with full_disk(path.stat().st_size + 20):
            session.run(train)
            pytest.fail("the row for which there is no room is an error")
    assert raised.value.errno == errno.EFBIG
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


# TensorFlow's thread ends with what it could not write, and tells that; the type is the one that its bindings choose.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("again", [True, False], ids=["next_row", "end"])
def test_a_full_disk_is_an_error_of_the_next_row_or_of_the_end(way, tmp_path, again):
    train, _ = build_model()
    with pytest.raises(Exception, match=r"File too large|the disk may be full"), contextlib.ExitStack() as stack:
        with way.session([fh.MetricsHook(to=fh.EventSink(tmp_path), every_n_steps=1, at_end=False)]) as session:
            session.run(train)
            writer = v1.summary.FileWriterCache.get(str(tmp_path))
            writer.flush()
            path, = tmp_path.glob("events.*")
            stack.enter_context(full_disk(path.stat().st_size + 10))
            session.run(train)
            if again:
                writer.flush()
                session.run(train)
                pytest.fail("the row after the one for which there is no room is an error")
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


GOOD = b'{"monitor": "x", "step": 1, "value": 2.0}\n'


@pytest.mark.parametrize("line", [
    b'{"monitor": "other", "step": 1, "value": 2.0}\n', b"step,time,x\n", b"a log", b"[1, 2]\n", b"5\n", b'"x"\n', b"{}\n",
    b'{"monitor": "x"}\n', b'{"monitor": "x", "step": "1", "value": 2.0}\n', b'{"monitor": "x", "step": 1, "value": "2"}\n',
    b'{"started": null}\n', b"\xff\xfe\n"])
def test_a_state_file_of_something_else(tmp_path, line):
    state = tmp_path / "state"
    state.write_bytes(GOOD + line)
    sink = fh.EarlyStopping("x", patience=1, mode="min", state_file=state)
    sink.begin(["x"])
    with pytest.raises(ValueError) as raised:
        sink.started(None, 0)
    assert str(raised.value).startswith(f"state_file must have rows of 'x'; got {state}, line 2: {line!r}")
    sink.close()
    assert state.read_bytes() == GOOD + line


@pytest.mark.parametrize("cut", [b"{", b'{"sta', GOOD[:-1], GOOD[:-6] + b"\n", b"\n", b"\0\0\0\0"])
def test_a_state_file_that_was_cut(tmp_path, cut):
    state = tmp_path / "state"
    state.write_bytes(GOOD + b'{"monitor": "x", "step": 2, "value": 3.0}\n' + cut)
    sink = fh.EarlyStopping("x", patience=2, mode="min", state_file=state)
    sink.started(None, 5)
    assert sink.write(9, {"x": 4.0}, None) is (cut != GOOD[:-1])
    sink.close()
    sink.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_a_state_file_that_never_ends():
    with pytest.raises(OSError, match="No space left"):
        make_stopping(state_file="/dev/full").started(None, 0)


def test_a_state_file_that_cannot_be_read(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)):
        make_stopping(state_file=tmp_path).started(None, 0)


@pytest.mark.parametrize("has_file", [True, False], ids=["file", "memory"])
def test_a_row_that_is_made_again_counts_once(tmp_path, has_file):
    """A restart at a step whose row tells of the run after it: that run is made again."""
    state = tmp_path / "state"
    sink = make_stopping(patience=4, state_file=state if has_file else None)
    for restart in range(8):
        if has_file:
            sink = make_stopping(patience=4, state_file=state)
        sink.begin(["x"])
        sink.started(None, 8)
        assert not sink.write(8, {"x": 1.0 + restart}, None)
        sink.close()
    sink.started(None, 8)
    assert [sink.write(step, {"x": 9.0}, None) for step in (12, 16, 20, 24)] == [False, False, False, True]
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
    (make_stopping, {"min_delta": 10**400}, ValueError, f"min_delta must be a number of at least 0; got {10**400}."),
    (make_stopping, {"min_delta": -1}, ValueError, "min_delta must be a number of at least 0; got -1."),
    (make_stopping, {"min_delta": math.nan}, ValueError, "min_delta must be a number of at least 0; got nan."),
    (make_stopping, {"min_steps": True}, ValueError, "min_steps must be an int of at least 0; got True."),
    (make_best, {"keep": 0}, ValueError, "keep must be a positive int; got 0."),
    (make_best, {"mode": None}, ValueError, "mode must be 'min' or 'max'; got None.")])
def test_arguments_are_checked(make, arguments, error, message):
    with pytest.raises(error) as raised:
        make(**arguments)
    assert str(raised.value) == message


def test_arguments_of_numpys_kinds():
    assert make_best("best", keep=np.int64(2))._keep == 2
    stopping = make_stopping(patience=np.int64(2), min_delta=np.float32(0.5), min_steps=np.int32(3))
    given = stopping._patience, stopping._min_delta, stopping._min_steps
    assert given == (2, 0.5, 3) and list(map(type, given)) == [int, float, int]


# Best checkpoints


class FakeSaver:
    """Writes files that look like a checkpoint, and what was there when it did."""

    def __init__(self):
        self.saved, self.seen = [], []

    def save(self, session, path, write_meta_graph, write_state):
        assert not write_meta_graph and not write_state
        self.seen.append(fh.best_checkpoint(os.path.dirname(path)))
        self.saved.append(step_of(path))
        for suffix in (".index", ".data-00000-of-00001"):
            pathlib.Path(path + suffix).write_text("")


def step_of(path):
    return int(re.search(r"-(\d+)(-again)?(\.index)?$", str(path))[1])


def on_disk(directory):
    return sorted(map(step_of, pathlib.Path(directory).glob("*.index")))


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
              "remove": (os, "remove")}[fails]
    with mock.patch.object(*target, side_effect=OSError("full")), pytest.raises(OSError, match="full"):
        sink.write(2, {"x": 2.0}, None)
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / ("best-2" if fails == "remove" else "best-1"))
    assert not list(tmp_path.glob("best_checkpoints.json?*"))
    restarted = make_best(tmp_path, saver=saver)
    restarted.begin(["x"])
    restarted.started(None, 0)
    restarted.write(3, {"x": 1.0}, None)
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / "best-3")


def restored(prefix, variables):
    """The values that a checkpoint has."""
    reader = tf.train.load_checkpoint(prefix)
    return {name: reader.get_tensor(name) for name in variables}


@pytest.mark.parametrize("room", [0, 10, 5_000, 100_000])
def test_a_full_disk_leaves_the_best_checkpoints_whole(way, tmp_path, room):
    train, loss = build_model()
    large = v1.get_variable("large", initializer=tf.fill([100_000], 7.0), use_resource=True)
    sink = fh.BestCheckpoints(tmp_path, "w", mode="max", keep=2)
    with pytest.raises((OSError, tf.errors.OpError)), way.session(
            [fh.EvaluationHook(lambda session: {"w": session.run(loss)}, to=sink, every_n_steps=1, at_end=False)]) as session:
        for _ in range(3):
            session.run(train)
        listed = (tmp_path / "best_checkpoints.json").read_bytes()
        with full_disk(room):
            session.run(train)
            pytest.fail("the checkpoint for which there is no room is an error")
    assert (tmp_path / "best_checkpoints.json").read_bytes() == listed
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / "best-2")
    for step in (1, 2):
        values = restored(str(tmp_path / f"best-{step}"), ["large", "w"])
        assert values["w"] == step + 1 and (values["large"] == 7.0).all()
    assert large is not None
    # There is room again.
    way.run([fh.EvaluationHook(lambda session: {"w": 100 + session.run(loss)}, to=sink, every_n_steps=1, at_end=False)], train, 1)
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / "best-0")


def test_no_room_for_the_list(tmp_path):
    saver = FakeSaver()
    sink = make_best(tmp_path, saver=saver)
    sink.begin(["x"])
    sink.started(None, 0)
    sink.write(1, {"x": 3.0}, None)
    listed = (tmp_path / "best_checkpoints.json").read_bytes()
    with full_disk(10), pytest.raises(OSError):
        sink.write(2, {"x": 2.0}, None)
    assert [path.read_bytes() for path in tmp_path.glob("best_checkpoints.json*")] == [listed]
    sink.write(3, {"x": 2.5}, None)
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / "best-3")


KILLED = """
    import os, sys, time
    import tensorflow as tf
    from tensorflow.python.training import training_util
    import fasthooks as fh
    directory = sys.argv[1]
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        step = v1.train.create_global_step()
        large = v1.get_variable("large", initializer=tf.zeros([1_000_000]), use_resource=True)
        with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
            train = tf.group(step.assign_add(1), large.assign_add(tf.ones([1_000_000])))
        rows = [fh.CSVSink(f"{directory}/csv"), fh.JSONLSink(f"{directory}/jsonl"),
                fh.EarlyStopping("steps_per_sec", patience=10 ** 6, mode="min", state_file=f"{directory}/state")]
        best = fh.BestCheckpoints(f"{directory}/best", "now", mode="max", keep=2)
        hooks = [fh.MetricsHook(to=rows, every_n_steps=1),
                 fh.EvaluationHook(lambda session: {"now": time.time()}, to=best, every_n_steps=10)]
        with fh.MonitoredSession(hooks=hooks) as session:
            for number in range(1, 10 ** 9):
                session.run(train)
                if number == 15:
                    print("running", flush=True)
"""


def test_a_kill_while_rows_and_checkpoints_are_written(tmp_path):
    best = tmp_path / "best"
    for _ in range(2):
        with apart.Process(textwrap.dedent(KILLED), tmp_path, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "running\n"
            # In the midst of a save, if that can be seen.
            end = time.time() + 5
            while time.time() < end and not [path for path in best.iterdir() if "temp" in path.name]:
                pass
            process.send_signal(signal.SIGKILL)
        listed = json.loads((best / "best_checkpoints.json").read_text())["checkpoints"]
        assert len(listed) == 2 and fh.best_checkpoint(best) == str(best / listed[0]["path"])
        for one in listed:
            values = restored(str(best / one["path"]), ["large", "global_step"])
            assert values["global_step"] == one["step"] + 1 and (values["large"] == one["step"] + 1).all()
    for kind in FILES:
        steps = [step for step, _ in read(kind, tmp_path / kind)]
        second = steps.index(0, 1)
        assert steps == [*range(second), *range(len(steps) - second)] and second >= 15
    state = make_stopping(monitor="steps_per_sec", state_file=tmp_path / "state")
    state.started(None, 10 ** 6)
    state.close()


def test_what_is_gone_is_dropped_and_other_files_stay(tmp_path):
    saver = FakeSaver()
    sink = make_best(tmp_path, keep=2, saver=saver)
    sink.begin(["x"])
    sink.started(None, 0)
    for step, value in ((1, 1.0), (2, 2.0)):
        sink.write(step, {"x": value}, None)
    FakeSaver().save(None, str(tmp_path / "best-7"), False, False)
    (tmp_path / "best-1.index").unlink()  # the rest of it is of no use
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / "best-2")
    restarted = make_best(tmp_path, keep=2, saver=saver)
    restarted.begin(["x"])
    restarted.started(None, 0)
    for step, value in ((3, 9.0), (4, 0.5), (5, 0.4)):
        restarted.write(step, {"x": value}, None)
    assert on_disk(tmp_path) == [4, 5, 7]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_fewer_are_kept_after_a_restart(tmp_path, mode):
    sign = 1 if mode == "min" else -1
    for keep, rows in ((3, {1: 3.0, 2: 2.0, 3: 2.5}), (2, {4: 9.0, 5: 2.2}), (1, {6: 2.1, 7: 1.0})):
        sink = make_best(tmp_path, keep=keep, mode=mode, saver=FakeSaver())
        sink.begin(["x"])
        sink.started(None, 0)
        for step, value in rows.items():
            sink.write(step, {"x": sign * value}, None)
        assert on_disk(tmp_path) == {3: [1, 2, 3], 2: [2, 5], 1: [7]}[keep]


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", '{"checkpoints": []}', "\0\0",
                                  '{"monitor": "x", "mode": "min", "checkpoints": [{"path": "best-1"}]}',
                                  '{"monitor": "x", "mode": "min", "checkpoints": [{"path": "a", "step": 1, "value": null}]}',
                                  '{"monitor": "x", "mode": "min", "checkpoints": [{"path": "a", "step": 1e400, "value": 1}]}'])
def test_a_list_of_something_else(tmp_path, text):
    path = tmp_path / "best_checkpoints.json"
    path.write_text(text)
    for use in (lambda: fh.best_checkpoint(tmp_path), lambda: make_best(tmp_path).begin(None)):
        with pytest.raises(ValueError) as raised:
            use()
        assert str(raised.value).startswith(f"{path} is no list of the best checkpoints; ")
    assert path.read_text() == text


def test_sinks_that_were_used_can_be_copied(tmp_path):
    wandb = pytest.importorskip("wandb")
    sinks = [fh.CSVSink(tmp_path / "csv"), fh.JSONLSink(tmp_path / "jsonl"), fh.EventSink(tmp_path / "events"),
             fh.EarlyStopping("loss", patience=9, mode="max", state_file=tmp_path / "state"),
             fh.BestCheckpoints(tmp_path / "best", "loss", mode="max"), fh.WandbSink()]
    for how in (copy.copy, copy.deepcopy, lambda sink: pickle.loads(pickle.dumps(sink)), None):
        with mock.patch.object(wandb, "run", mock.MagicMock()), tf.Graph().as_default():
            train, loss = build_model()
            hook = fh.MetricsHook({"loss": loss}, to=sinks, every_n_steps=1, at_end=False)
            with fh.MonitoredSession(hooks=[hook]) as session:
                session.run(train)
                session.run(train)
        sinks = how and [how(sink) for sink in sinks]
    assert [step for step, _ in read("csv", tmp_path / "csv")] == [0, 1] * 4
    v1.summary.FileWriterCache.clear()


def test_rows_of_a_step_that_is_made_again(tmp_path):
    saver = FakeSaver()
    sink = make_best(tmp_path, keep=2, saver=saver)
    sink.begin(["x"])
    sink.started(None, 0)
    for step, value in ((4, 2.0), (8, 1.0), (4, 3.0), (8, 1.0), (8, 0.5), (8, 0.25), (8, 0.125)):
        sink.write(step, {"x": value}, None)
        # What is listed is never written over.
        assert len({saver.saved.count(8) % 2, os.path.exists(tmp_path / "best-8.index")}) == 1
    assert saver.saved == [4, 8, 8, 8, 8] and on_disk(tmp_path) == [4, 8]
    assert fh.best_checkpoint(tmp_path) == str(tmp_path / "best-8-again")


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
