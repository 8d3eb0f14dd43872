"""Events that the adding thread writes itself: the files are TensorFlow's, and its thread keeps what only it may do."""

import collections
import contextlib
import copy
import functools
import gc
import logging
import os
import pathlib
import threading
import time
import weakref
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from helpers import build_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import summary_pb2
from tensorflow.core.util import event_pb2
from tensorflow.python.summary.writer import event_file_writer, writer, writer_cache
from tensorflow.python.training import basic_session_run_hooks

import fasthooks
from fasthooks.output import _summary, direct_writes, stock_hooks, writers

v1 = tf.compat.v1
Value = summary_pb2.Summary.Value
METADATA = summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="p", content=b"c"))


@pytest.fixture(autouse=True)
def graph(monkeypatch):
    monkeypatch.setattr(writer_cache.FileWriterCache, "_cache", {})
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)
    with tf.Graph().as_default():
        yield


class Events:
    """A FileWriter that a hook of ours has begun with, and what was written by whom."""

    def __init__(self, directory, **options):
        self.directory = str(directory)
        self.writer = v1.summary.FileWriter(self.directory, **options)
        v1.train.get_or_create_global_step()
        self.hook = fasthooks.StepCounterHook(summary_writer=self.writer)
        self.hook.begin()
        self.file = self.writer.event_writer._ev_writer
        # The first event is the thread's, with a flush; then the thread has caught up.
        self.writer.add_summary(scalars(1), 0)
        self.writer.flush()
        native = self.file._native
        self.directly, self.by_thread = [], []
        self.native = mock.Mock(wraps=native)
        self.native.WriteEvent.side_effect = self._write
        self.native._WriteSerializedEvent.side_effect = self._write_serialized
        self.file._native = self.native
        self._real = native

    def _write(self, event):
        self.by_thread.append(event.step)
        self._real.WriteEvent(event)

    def _write_serialized(self, event):
        self.directly.append(event_pb2.Event.FromString(event).step)
        self._real._WriteSerializedEvent(event)

    @property
    def worker(self):
        return self.writer.event_writer._worker

    def steps(self):
        self.writer.flush()
        return [event.step for event in read(self.directory) if event.HasField("summary")][1:]


def scalars(number, value=0.5):
    return summary_pb2.Summary(value=[Value(tag=f"tag/{i}", simple_value=value * i) for i in range(number)])


def read(directory):
    paths = sorted(pathlib.Path(directory).glob("events.*"))
    return [event for path in paths for event in v1.train.summary_iterator(str(path))]


def steps_of(directory, tag):
    return [event.step for event in read(directory) for value in event.summary.value if value.tag == tag]


def raw(directory):
    """The bytes of all events of the files, without their times and the version record."""
    found = []
    for path in sorted(pathlib.Path(directory).glob("events.*")):
        for record in list(v1.io.tf_record_iterator(str(path)))[1:]:
            assert record[:1] == b"\x09"
            found.append(record[9:])
    return found


@pytest.fixture
def events(tmp_path):
    made = Events(tmp_path / "ours")
    yield made
    with contextlib.suppress(Exception):
        made.writer.close()


@pytest.mark.parametrize("serialized", [True, False])
def test_the_files_are_tensorflows_byte_for_byte(tmp_path, events, serialized):
    stock = v1.summary.FileWriter(str(tmp_path / "stock"))
    histogram = summary_pb2.HistogramProto(min=1, max=3, num=2, bucket_limit=[1.5, 4], bucket=[1, 1])
    metas = [summary_pb2.Summary(value=[Value(tag="seen", simple_value=1.0), Value(tag=tag, simple_value=2.0, metadata=METADATA)])
             for tag in ("m", "m", "seen", "m2", "m2")]
    summaries = [scalars(1), summary_pb2.Summary(), scalars(50), scalars(3, float("nan")), *metas,
                 summary_pb2.Summary(value=[Value(tag="h", histo=histogram, node_name="n"), Value(simple_value=3)]),
                 summary_pb2.Summary(value=[Value(tag="tag/1", simple_value=1.0, metadata=METADATA)])]
    # What is known of a tag from a summary that was written directly counts for one that is not.
    for target in (stock, events.writer):
        target.add_summary(scalars(1), 0)
        for step, summary in enumerate(summaries):
            given_bytes = summary.SerializeToString()
            target.add_summary(given_bytes if serialized else summary_pb2.Summary.FromString(given_bytes), step)
        target.add_summary(summaries[0], 2**40)
        target.add_summary(summaries[0], 7)
        target.add_summary(summaries[0])
        target.flush()
    assert raw(tmp_path / "ours")[1:] == raw(tmp_path / "stock")
    assert len(events.directly) > 5


def test_unknown_fields_and_odd_encodings_stay_tensorflows(tmp_path, events):
    plain = scalars(2).SerializeToString()
    odd = [b"\x10\x05" + plain, plain + b"\xfa\x01\x03abc", b"\x0a\x0a\x15\x00\x00\x00\x3f\x0a\x03abc"]  # fields in another order
    stock = v1.summary.FileWriter(str(tmp_path / "stock"))
    for target in (stock, events.writer):
        target.add_summary(scalars(1), 0)
        for step, summary in enumerate(odd):
            target.add_summary(summary, step)
        target.flush()
    assert raw(tmp_path / "ours")[1:] == raw(tmp_path / "stock")


@pytest.mark.parametrize("arguments", [(b"\x0a\x05abc", 1), (b"", "seven"), (scalars(1), 2**70), (None, 1), ("text", 1),
                                       (event_pb2.Event(), 1),
                                       (b"\x0a\x03\x0a\x01\xff", 1)])
def test_what_tensorflow_refuses_is_refused_by_it(tmp_path, events, arguments):
    stock = v1.summary.FileWriter(str(tmp_path / "stock"))
    errors = []
    for target in (stock, events.writer):
        with pytest.raises(Exception) as caught:
            target.add_summary(*arguments)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]
    assert events.steps() == []


def test_steps_of_other_kinds(tmp_path, events):
    class Step:
        def __int__(self):
            calls.append(1)
            return 9

    calls = []
    events.worker._next_event_flush_time = 0  # so it is the thread's
    events.writer.add_summary(scalars(1), Step())
    events.writer.add_summary(scalars(1), 3.7)
    events.writer.add_summary(scalars(1))
    assert events.steps() == [9, 3, 0]
    assert len(calls) == 1


@pytest.mark.parametrize("way", ["ours", "patched"])
def test_hooks_write_directly_and_the_thread_first_and_when_a_flush_is_due(tmp_path, way):
    op, loss = build_model()
    v1.summary.scalar("of_the_loss", loss)
    v1.summary.histogram("h", loss)
    api = fasthooks if way == "ours" else v1.train
    hooks = [api.SummarySaverHook(save_steps=1, output_dir=str(tmp_path), summary_op=v1.summary.merge_all()),
             api.StepCounterHook(every_n_steps=1, output_dir=str(tmp_path))]
    with fasthooks.patch() if way == "patched" else contextlib.nullcontext(), api.MonitoredSession(hooks=hooks) as session:
        file = hooks[0]._summary_writer.event_writer._ev_writer
        with mock.patch.object(file, "WriteEvent", wraps=file.WriteEvent) as thread:
            for _ in range(3):
                session.run(op)
                hooks[0]._summary_writer.flush()
            handed = thread.call_count
            for _ in range(20):
                session.run(op)
            assert thread.call_count == handed
            hooks[0]._summary_writer.event_writer._worker._next_event_flush_time = 0
            session.run(op)
            hooks[0]._summary_writer.flush()
            assert thread.call_count > handed
    assert steps_of(tmp_path, "of_the_loss") == list(range(1, 25))
    assert steps_of(tmp_path, "global_step/sec") == list(range(2, 25))


@pytest.mark.parametrize("tag", ["step/sec", "st\xe4ps/sec", "s" * 200])
def test_the_number_of_a_step_counter_is_tensorflows_byte_for_byte(tmp_path, events, tag):
    stock = v1.train.StepCounterHook(summary_writer=v1.summary.FileWriter(str(tmp_path / "stock")))
    stock.begin()
    lines = []
    handler = logging.Handler()
    handler.emit = lambda one: lines.append((one.pathname, one.lineno, one.funcName, one.getMessage()))
    stock._summary_writer.add_summary(scalars(1), 0)
    elapsed = [(100, 0.3), (np.int64(7), 0.3), (np.float32(7), np.float32(0.3)), (0, 1), (1, 1e-300)]
    logger = tf.get_logger()
    for hook in (stock, events.hook):
        hook._summary_tag = tag
        with mock.patch.object(logger, "handlers", [handler]), mock.patch.object(logger, "level", logging.INFO):
            for step, (steps, secs) in enumerate(elapsed):
                hook._log_and_record(steps, secs, np.int64(step))
            with pytest.raises(TypeError):
                hook._log_and_record(np.ones(2), 0.5, 7)
        hook._summary_writer.flush()
    assert lines[:5] == lines[5:]
    assert raw(tmp_path / "ours") == raw(tmp_path / "stock")
    assert events.directly == list(range(5))


@pytest.mark.parametrize(("owner", "name"), [
    (basic_session_run_hooks.StepCounterHook, "_log_and_record"), (basic_session_run_hooks, "logging"),
    (basic_session_run_hooks, "Summary"), (v1.summary.FileWriter, "add_summary"),
], ids=["method", "logging", "Summary", "add_summary"])
def test_a_step_counter_sees_what_others_replace(events, owner, name):
    with mock.patch.object(owner, name, **({"return_value": scalars(1)} if name == "Summary" else {})) as replaced:
        events.hook._log_and_record(100, 0.5, 7)
    if name == "add_summary":
        replaced.assert_called_once_with(summary_pb2.Summary(value=[Value(tag="global_step/sec", simple_value=200.0)]), 7)
    assert replaced.mock_calls


def test_a_step_counter_gives_other_writers_a_summary():
    other = mock.Mock()
    hook = fasthooks.StepCounterHook(summary_writer=other)
    v1.train.get_or_create_global_step()
    hook.begin()
    hook._log_and_record(1, 0.5, 7)
    summary = summary_pb2.Summary(value=[Value(tag="global_step/sec", simple_value=2.0)])
    assert other.mock_calls == [mock.call.add_summary(summary, 7)]


def test_a_class_between_ours_and_tensorflows_reports(events):
    calls = []

    class Mine(v1.train.StepCounterHook):
        def _log_and_record(self, *args):
            calls.append(args)

    class Both(fasthooks.StepCounterHook, Mine):
        pass

    hook = Both(summary_writer=events.writer)
    hook.begin()
    hook._log_and_record(1, 0.5, 7)
    assert calls == [(1, 0.5, 7)]
    assert events.directly == []


def test_no_summary_is_made_for_a_step_counter(events, monkeypatch):
    monkeypatch.setattr(direct_writes, "Summary", None)
    events.hook._log_and_record(1, 0.5, 7)
    assert events.directly == [7]


def test_nothing_overtakes_what_the_thread_was_given(events):
    gate, reached = threading.Event(), threading.Event()

    def slow(event):
        reached.set()
        assert gate.wait(60)
        events._write(event)

    events.native.WriteEvent.side_effect = slow
    events.worker._next_event_flush_time = 0
    events.writer.add_summary(scalars(1), 1)
    assert reached.wait(60)
    events.worker._next_event_flush_time = float("inf")
    events.writer.add_summary(scalars(1), 2)
    events.writer.add_summary(scalars(1).SerializeToString(), 3)
    assert events.directly == []
    gate.set()
    assert events.steps() == [1, 2, 3]
    events.worker._next_event_flush_time = float("inf")
    events.writer.add_summary(scalars(1), 4)
    assert events.directly == [4]


def test_nobody_waits_for_a_flush(events):
    gate, reached = threading.Event(), threading.Event()

    def flush():
        reached.set()
        assert gate.wait(60)
        events._real.Flush()

    events.native.Flush.side_effect = flush
    flushing = threading.Thread(target=events.writer.event_writer.flush)
    flushing.start()
    assert reached.wait(60)
    events.writer.add_summary(scalars(1), 1)
    events.writer.add_event(event_pb2.Event(step=2, summary=scalars(1)))
    assert events.directly == [1, 2]
    gate.set()
    flushing.join(60)
    assert events.steps() == [1, 2]


def test_many_threads(events):
    def add(first):
        for step in range(first, first + 400):
            if step % 3:
                events.writer.add_summary(scalars(1), step)
            else:
                events.writer.add_event(event_pb2.Event(step=step, summary=scalars(1)))
            if step % 100 == 50:
                events.worker._next_event_flush_time = 0

    threads = [threading.Thread(target=add, args=(number * 1000 + 1,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    by_thread = collections.defaultdict(list)
    for step in events.steps():
        by_thread[step // 1000].append(step)
    assert dict(by_thread) == {number: list(range(number * 1000 + 1, number * 1000 + 401)) for number in range(4)}
    assert events.directly
    assert len(events.by_thread) + len(events.directly) == 1600
    assert events.file._handed == []
    events.worker._next_event_flush_time = float("inf")
    events.writer.add_summary(scalars(1), 9999)
    assert events.directly[-1] == 9999


def test_files_that_may_be_slow_are_the_threads(tmp_path):
    events = Events(f"file://{tmp_path}")
    for step in range(1, 4):
        events.writer.add_summary(scalars(1), step)
    events.writer.flush()
    assert (events.by_thread, events.directly) == ([1, 2, 3], [])


def test_events_of_other_kinds_are_the_threads(events):
    events.writer.add_event(event_pb2.Event(step=1, file_version="v"))
    events.writer.add_graph(v1.get_default_graph(), 2)
    events.writer.add_summary(summary_pb2.Summary(value=[Value(tag="t", simple_value=1.0)] * 10_000), 3)
    assert events.steps() == [3]
    assert events.by_thread == [1, 2, 3]


METHODS = ("FileWriter.add_summary", "FileWriter._add_event", "SummaryToEventTransformer._add_event", "EventFileWriter.add_event",
           "EventFileWriter._try_put", "writer._add_event", "event_writer.add_event", "event_writer._try_put", "queue.put",
           "CloseableQueue.put")


@pytest.mark.parametrize("what", METHODS)
def test_a_replaced_method_sees_all(events, what):
    owner, name = what.split(".")
    event_writer = events.writer.event_writer
    owner = {"FileWriter": v1.summary.FileWriter, "SummaryToEventTransformer": writer.SummaryToEventTransformer,
             "EventFileWriter": event_file_writer.EventFileWriter, "writer": events.writer, "event_writer": event_writer,
             "CloseableQueue": event_file_writer.CloseableQueue, "queue": event_writer._event_queue}[owner]
    original = getattr(owner, name)
    calls = []

    def replaced(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    with mock.patch.object(owner, name, replaced):
        events.writer.add_summary(scalars(1), 1)
        events.writer.add_summary(scalars(1).SerializeToString(), 2)
    assert len(calls) == 2
    events.writer.add_summary(scalars(1), 3)
    assert len(calls) == 2
    assert events.steps() == [1, 2, 3]


def test_a_writer_in_the_place_of_the_threads_sees_all(events):
    seen = []

    class Native:
        def WriteEvent(self, event):
            seen.append(event.step)
            events.file.WriteEvent(event)

        def Flush(self):
            events.file.Flush()

    events.worker._ev_writer = Native()
    events.writer.add_summary(scalars(1), 1)
    assert events.steps() == [1]
    assert seen == [1]


def test_what_interrupts_a_write_reaches_the_caller_and_the_event_is_written_once(events):
    class Alarm(Exception):
        pass

    def write(event):  # as a signal handler right after the native call
        events._write_serialized(event)
        raise Alarm

    events.native._WriteSerializedEvent.side_effect = write
    with pytest.raises(Alarm):
        events.writer.add_summary(scalars(1), 1)
    events.native._WriteSerializedEvent.side_effect = events._write_serialized
    events.writer.add_summary(scalars(1), 2)
    assert events.steps() == [1, 2]


def test_a_flush_that_others_write_into_loses_nothing(events):
    flush, look = events._real.Flush, os.stat
    summary = scalars(200)

    def flush_and_write():
        flush()
        events.writer.add_summary(summary, 1)

    def write_and_look(*args, **kwargs):
        events.writer.add_summary(summary, 2)
        return look(*args, **kwargs)

    events.native.Flush.side_effect = flush_and_write
    with mock.patch.object(os, "stat", write_and_look):
        for _ in range(3):
            events.writer.flush()
    events.native.Flush.side_effect = flush
    for _ in range(3):
        events.writer.flush()
    assert set(events.directly) == {1, 2}
    assert not events.file.is_lost
    assert "after_run" not in vars(events.hook)  # nothing that it would raise


def test_a_new_file_is_the_threads_until_it_is_known_what_it_has(events):
    events.writer.close()
    events.writer.reopen()
    events.hook.begin()
    events.worker._next_event_flush_time = float("inf")
    look, looks = os.stat, []

    def write_and_look(*args, **kwargs):
        looks.append(args)
        if len(looks) == 2:  # after the first, which asks whether the file is there
            events.writer.add_summary(scalars(1000), 2)
        return look(*args, **kwargs)

    with mock.patch.object(os, "stat", write_and_look):
        events.writer.add_summary(scalars(1), 1)
        events.writer.flush()
    events.writer.flush()
    assert (events.by_thread, events.directly) == ([1, 2], [])
    assert not events.file.is_lost


def test_a_shorter_file_is_noticed_after_direct_writes(events):
    events.writer.add_summary(scalars(50), 1)
    path = next(pathlib.Path(events.directory).glob("events.*"))
    events.native.Flush.side_effect = lambda: (events._real.Flush(), os.truncate(path, path.stat().st_size - 1))
    events.writer.flush()
    assert events.directly == [1]
    with pytest.raises(tf.errors.DataLossError, match="the disk may be full"):
        events.hook.after_run(None, None)


def test_a_put_that_is_interrupted(events):
    queue = events.writer.event_writer._event_queue
    with mock.patch.object(type(queue), "put", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        events.writer.add_event(event_pb2.Event(step=1, summary=scalars(1)))
    events.writer.add_summary(scalars(1), 2)  # the thread may have got the first one
    events.writer.flush()
    events.writer.add_summary(scalars(1), 3)
    assert events.steps() == [2, 3]
    assert (events.by_thread, events.directly) == ([2], [3])
    assert events.file._handed == []


def test_the_order_in_which_threads_hand_over_does_not_count(events):
    put, waiting = type(events.writer.event_writer._event_queue).put, []

    def late(self, item):  # the first one is overtaken by the second
        waiting.append(item)
        if len(waiting) == 2:
            for one in reversed(waiting):
                put(self, one)

    with mock.patch.object(event_file_writer.CloseableQueue, "put", autospec=True, side_effect=late):
        events.writer.add_summary(scalars(1), 1)
        events.writer.add_summary(scalars(1), 2)
    events.writer.flush()
    assert events.by_thread == [2, 1]
    assert events.file._handed == []
    events.writer.add_summary(scalars(1), 3)
    assert events.directly == [3]


def test_the_writers_thread_is_not_asked_whether_it_lives(events, monkeypatch):
    # Python 3.11 takes a thread for dead when Ctrl-C comes while it is asked.
    monkeypatch.setattr(threading.Thread, "is_alive", mock.Mock(side_effect=AssertionError))
    events.writer.add_summary(scalars(1), 1)
    assert events.directly == [1]


@pytest.mark.parametrize("call", [
    lambda writer: writer.add_summary(b"", 3), lambda writer: writer.add_summary(b"", global_step=3),
    lambda writer: writer.add_summary(global_step=3, summary=b""), lambda writer: writer.add_summary(b""),
])
def test_a_mock_on_the_class_is_called_as_tensorflows_method(tmp_path, events, call):
    stock = v1.summary.FileWriter(str(tmp_path / "stock"))
    calls = []
    for target in (stock, events.writer):
        with mock.patch.object(v1.summary.FileWriter, "add_summary") as mocked:
            call(target)
        calls.append(mocked.mock_calls)
    assert calls[0] == calls[1]


@pytest.mark.parametrize("arguments", [((), {}), ((1, 2, 3), {}), ((b"",), {"step": 1})])
def test_wrong_arguments_are_told_by_tensorflow(tmp_path, events, arguments):
    args, kwargs = arguments
    messages = []
    for target in (v1.summary.FileWriter(str(tmp_path / "stock")), events.writer):
        with pytest.raises(TypeError) as caught:
            target.add_summary(*args, **kwargs)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_writer_that_nobody_has_any_more_is_freed(events):
    writer, event_writer, queue = (weakref.ref(one) for one in (
        events.writer, events.writer.event_writer, events.writer.event_writer._event_queue))
    gc.disable()
    try:
        events.writer.close()
        events.hook._summary_writer = events.writer = None
        assert writer() is event_writer() is queue() is None
    finally:
        gc.enable()


def test_a_thread_that_has_just_failed_takes_nothing_more(events, monkeypatch):
    gate, reached = threading.Event(), threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda failure: (reached.set(), gate.wait(60)))
    events.native.Flush.side_effect = OSError("disk full")
    events.worker._next_event_flush_time = 0
    events.writer.add_summary(scalars(1), 1)
    assert reached.wait(60)
    events.worker._next_event_flush_time = float("inf")
    errors = []

    def add():
        try:
            events.writer.add_summary(scalars(1), 2)
        except OSError as error:
            errors.append(error)

    adding = threading.Thread(target=add)
    adding.start()
    gate.set()
    adding.join(60)
    assert [str(error) for error in errors] == ["disk full"]


def test_after_a_failure_the_next_file_is_written_directly_too(events):
    events.native.WriteEvent.side_effect = OSError("disk full")
    events.worker._next_event_flush_time = 0
    events.writer.add_summary(scalars(1), 1)
    events.worker.join(60)
    events.native.WriteEvent.side_effect = events._write
    events.hook.begin()
    events.writer.add_summary(scalars(1), 2)
    events.writer.flush()
    events.writer.add_summary(scalars(1), 3)
    assert (events.by_thread, events.directly) == ([2], [3])


def test_a_lost_file_is_the_threads(events):
    next(pathlib.Path(events.directory).glob("events.*")).unlink()
    events.writer.flush()
    events.writer.add_summary(scalars(1), 1)
    events.writer.flush()
    assert events.by_thread == [1]


def test_a_closed_writer_writes_nothing_and_warns(events):
    events.writer.close()
    for _ in range(2):
        with pytest.warns(UserWarning, match="closed FileWriter"):
            events.writer.add_summary(scalars(1), 1)
    assert events.directly == events.by_thread == []
    assert len(list(pathlib.Path(events.directory).glob("events.*"))) == 1


def test_a_writer_that_is_opened_again(events):
    events.writer.close()
    events.writer.reopen()
    events.writer.add_summary(scalars(1), 1)
    events.writer.add_summary(scalars(1), 2)
    events.writer.flush()
    assert events.directly == []
    events.hook.begin()
    events.writer.add_summary(scalars(1), 3)
    events.writer.flush()
    events.writer.add_summary(scalars(1), 4)
    assert events.directly == [4]
    events.writer.flush()
    assert [event.step for event in read(events.directory)][-4:] == [1, 2, 3, 4]


def test_what_came_before_the_hook_is_written_before(tmp_path):
    target = v1.summary.FileWriter(str(tmp_path))
    v1.train.get_or_create_global_step()
    for step in range(8):
        target.add_summary(scalars(1), step)
    fasthooks.StepCounterHook(summary_writer=target).begin()
    for step in range(8, 16):
        target.add_summary(scalars(1), step)
    target.close()
    assert [event.step for event in read(tmp_path) if event.HasField("summary")] == list(range(16))


def test_what_the_thread_was_given_before_it_had_a_hook_is_written_before(events):
    events.writer.close()
    events.writer.reopen()
    events.writer.add_summary(scalars(1), 1)
    events.writer.flush()
    gate, reached = threading.Event(), threading.Event()
    write = events.file.WriteEvent

    def slow(event):
        reached.set()
        assert gate.wait(60)
        write(event)

    with mock.patch.object(events.file, "WriteEvent", slow):
        events.writer.add_summary(scalars(1), 2)
        assert reached.wait(60)
        events.hook.begin()
        events.writer.add_summary(scalars(1), 3)
        gate.set()
        events.writer.flush()
    assert events.by_thread == [1, 2, 3]
    events.writer.add_summary(scalars(1), 4)
    assert events.directly == [4]


def test_the_clock_of_the_thread_decides(events):
    with mock.patch.object(event_file_writer, "time") as clock:
        clock.time.return_value = time.time() + 1000
        events.writer.add_summary(scalars(1), 1)
        events.writer.event_writer.flush()
    assert events.by_thread == [1]


def test_a_child_of_a_fork_does_not_write_into_the_parents_file(events):
    events.writer.add_summary(scalars(1), 1)
    child = os.fork()
    if child == 0:
        try:
            events.writer.add_summary(scalars(1), 2)
            events._real.Flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    events.writer.add_summary(scalars(1), 3)
    # The child's copy of the buffer may reach the file: what was there at the fork, nothing that it added.
    assert 2 not in events.steps()


def test_other_kinds_of_writers_are_left_alone(tmp_path):
    class Mine(v1.summary.FileWriter):
        pass

    class MyEvents(event_file_writer.EventFileWriter):
        pass

    mine, other = Mine(str(tmp_path / "a")), v1.summary.FileWriter(str(tmp_path / "b"))
    other.event_writer = MyEvents(str(tmp_path / "c"))
    v1.train.get_or_create_global_step()
    for target in (mine, other):
        fasthooks.StepCounterHook(summary_writer=target).begin()
        assert "add_summary" not in vars(target)
        assert "put" not in vars(target.event_writer._event_queue)


def test_a_writer_is_prepared_once(events):
    put = events.writer.event_writer._event_queue.put
    direct_writes.prepare(events.writer)
    assert events.writer.event_writer._event_queue.put is put


# TensorFlow's own hooks, under `patch`


@pytest.fixture
def patched():
    with fasthooks.patch():
        v1.train.get_or_create_global_step()
        yield


def begun(api, target):
    hook = api.StepCounterHook(summary_writer=target)
    hook.begin()
    return hook


def test_a_file_is_known_without_a_flush(tmp_path, patched):
    target = v1.summary.FileWriter(str(tmp_path))
    target.add_summary(scalars(1), 0)
    target.flush()
    begun(v1.train, target)
    target.add_summary(scalars(1), 1)  # the next flush is two minutes away
    file = target.event_writer._ev_writer
    deadline = time.monotonic() + 60
    while file._name is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with mock.patch.object(file, "WriteEvent") as thread:
        target.add_summary(scalars(1), 2)
    assert not thread.mock_calls
    target.close()
    assert [event.step for event in read(tmp_path) if event.HasField("summary")] == [0, 1, 2]


@pytest.mark.parametrize("name", ["memory://events", "not/there", None])
def test_only_a_local_file_that_is_there_is_written_directly(tmp_path, patched, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:").mkdir()
    (tmp_path / "memory:" / "events").touch()
    target = v1.summary.FileWriter(str(tmp_path))
    begun(v1.train, target)
    file = target.event_writer._ev_writer
    native = file._native
    with mock.patch.object(file, "_native", mock.Mock(wraps=native)) as seen:
        seen.FileName.side_effect = native.FileName if name is None else lambda: name
        for step in range(2):
            target.add_summary(scalars(1), step)
            target.event_writer.flush()
    assert seen.WriteEvent.call_count == (1 if name is None else 2)
    assert [event.step for event in read(tmp_path) if event.HasField("summary")] == [0, 1]
    target.close()


def test_what_a_file_had_is_known_to_a_hook_of_ours_that_comes_later(tmp_path, patched):
    target = v1.summary.FileWriter(str(tmp_path))
    target.add_summary(scalars(50), 0)
    target.flush()
    begun(v1.train, target)
    target.add_summary(scalars(1), 1)
    target.flush()
    hook = begun(fasthooks, target)
    path, = tmp_path.iterdir()
    os.truncate(path, path.stat().st_size - 1)
    target.flush()
    with pytest.raises(tf.errors.DataLossError, match="the disk may be full"):
        hook.end()
    target.close()


def test_writers_whose_code_is_not_known_are_left_alone(tmp_path, patched, monkeypatch):
    monkeypatch.setattr(writers, "_KNOWN", False)
    target = v1.summary.FileWriter(str(tmp_path))
    begun(v1.train, target)
    assert not isinstance(target.event_writer._ev_writer, writers._WatchedFile)


def test_fakes_and_mocks_have_no_thread(patched):
    class Strict:
        def __getattr__(self, name):
            raise RuntimeError(name)

    for api in (v1.train, fasthooks):
        hook = begun(api, Strict())
        with mock.patch.object(event_file_writer, "EventFileWriter"):
            hook.begin()


def test_other_libraries_find_the_native_writers_methods(events):
    assert events.file.FileName() == events._real.FileName()
    assert not hasattr(events.file, "nothing")
    assert isinstance(copy.copy(events.file), writers._WatchedFile)


def test_a_writer_of_another_kind_since_sees_all(events):
    class Tee:
        def __init__(self, inner):
            self.inner, self.seen = inner, []

        def add_event(self, event):
            self.seen.append(event.step)
            self.inner.add_event(event)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    class Mine(v1.summary.FileWriter):
        def add_summary(self, summary, global_step=None):
            seen.append(global_step)

    seen, own = [], events.writer.event_writer
    events.writer.event_writer = tee = Tee(own)
    events.hook._log_and_record(1, 0.5, 7)
    assert tee.seen == [7]
    events.writer.event_writer = own
    events.writer.__class__ = Mine
    events.hook._log_and_record(1, 0.5, 8)
    assert seen == [8]
    events.writer.__class__ = v1.summary.FileWriter


def test_a_method_that_is_set_before_stays(tmp_path, patched):
    target = v1.summary.FileWriter(str(tmp_path))
    target.add_summary = mine = mock.Mock()
    begun(v1.train, target)
    assert target.add_summary is mine
    target.close()


def test_a_writer_that_wrote_nothing_makes_no_file(tmp_path, patched):
    target = v1.summary.FileWriter(str(tmp_path))
    begun(v1.train, target)
    assert os.listdir(tmp_path) == []
    target.close()


@pytest.mark.parametrize("what", ["closed", "failed", "own class", "own events"])
def test_writers_that_are_tensorflows_affair(tmp_path, patched, what):
    class Mine(v1.summary.FileWriter):
        pass

    class MyEvents(event_file_writer.EventFileWriter):
        pass

    target = (Mine if what == "own class" else v1.summary.FileWriter)(str(tmp_path))
    if what == "own events":
        target.event_writer = MyEvents(str(tmp_path))
    if what == "closed":
        target.close()
    worker = target.event_writer._worker
    native = worker._ev_writer
    if what == "failed":
        worker._ev_writer = mock.Mock(WriteEvent=mock.Mock(side_effect=OSError("full")))
        target.add_summary(scalars(1), 0)
        worker.join(60)
        assert worker.failure_exc_info
        worker._ev_writer = native
    begun(v1.train, target)
    assert worker._ev_writer is native and target.event_writer._ev_writer is native and "add_summary" not in vars(target)


def test_hooks_of_tensorflow_hear_nothing_of_a_lost_file(tmp_path, patched):
    target = v1.summary.FileWriter(str(tmp_path))
    begun(v1.train, target)
    target.add_summary(scalars(1), 0)
    target.flush()
    for path in tmp_path.iterdir():
        path.unlink()
    target.flush()
    target.add_summary(scalars(1), 1)
    target.flush()
    # One of ours that comes later has a file of its own.
    hook = begun(fasthooks, target)
    target.add_summary(scalars(1), 2)
    hook.end()
    assert [event.step for event in read(tmp_path) if event.HasField("summary")] == [2]


def test_a_hook_of_ours_that_comes_later_hears_at_once(tmp_path, patched):
    target = v1.summary.FileWriter(str(tmp_path))
    begun(v1.train, target)
    target.event_writer._ev_writer._native = native = mock.Mock(wraps=target.event_writer._ev_writer._native)
    native.Flush.side_effect = OSError("full")
    with pytest.raises(OSError, match="full"):
        begun(fasthooks, target)


def test_what_is_replaced_on_a_hook_and_its_class_is_called(tmp_path, patched):
    target = v1.summary.FileWriter(str(tmp_path))
    hook = begun(v1.train, target)
    for owner in (hook, v1.train.StepCounterHook):
        with mock.patch.object(owner, "_log_and_record") as replaced:
            hook._log_and_record(1, 0.5, 7)
        replaced.assert_called_once_with(1, 0.5, 7)
    target.close()


def test_after_the_patch_what_somebody_put_over_ours_leads_to_tensorflows(tmp_path, monkeypatch):
    v1.train.get_or_create_global_step()
    short_ways = mock.Mock()
    for module, name in ((stock_hooks, "log_and_record"), (stock_hooks, "log_tensors"), (writers, "speed_up")):
        monkeypatch.setattr(module, name, getattr(short_ways, name))
    methods = [(v1.train.StepCounterHook, "begin"), (v1.train.StepCounterHook, "_log_and_record"),
               (v1.train.LoggingTensorHook, "_log_tensors")]
    for cls, name in methods:
        monkeypatch.setattr(cls, name, getattr(cls, name))  # put back at the end
    logs = v1.train.LoggingTensorHook(["a"], every_n_iter=1)
    logs._timer.reset()
    logs._iter_count = 0
    with fasthooks.patch():
        for cls, name in methods:
            setattr(cls, name, functools.partialmethod(getattr(cls, name)))
        for _ in range(2):
            begun(v1.train, None)._log_and_record(1, 0.5, 7)
            logs._log_tensors({"a": 1})
            assert [call[0] for call in short_ways.mock_calls] == ["speed_up", "log_and_record", "log_tensors"]
            fasthooks.unpatch()


def test_a_method_that_was_replaced_before_stays(tmp_path, caplog):
    calls = []
    v1.train.get_or_create_global_step()
    with mock.patch.object(v1.train.StepCounterHook, "_log_and_record", lambda *args: calls.append(args[1:])):
        with fasthooks.patch():
            begun(v1.train, None)._log_and_record(1, 0.5, 7)
            begun(fasthooks, None)._log_and_record(1, 0.5, 8)
    assert calls == [(1, 0.5, 7), (1, 0.5, 8)] and not caplog.records


names = st.text(max_size=5)
values = st.builds(
    lambda fields, kind: Value(**{name: value for name, value in fields.items() if value is not None}, **kind),
    st.fixed_dictionaries({"tag": st.none() | names, "node_name": st.none() | names, "metadata": st.none() | st.just(METADATA)}),
    st.sampled_from([{}, {"simple_value": 1.5}, {"obsolete_old_style_histogram": b"x" * 200},
                     {"image": summary_pb2.Summary.Image(height=3, encoded_image_string=b"i")}]))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(values, max_size=6))
def test_tags_are_read_from_the_bytes(found):
    summary = summary_pb2.Summary(value=found)
    tags = None if any(value.HasField("metadata") for value in found) else [value.tag for value in found]
    assert _summary.plain_tags(summary.SerializeToString()) == tags


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(values, max_size=6), st.integers(-2**63, 2**63 - 1) | st.just(0), st.floats() | st.sampled_from([0.0, -0.0]))
def test_an_event_is_packed_as_protocol_buffers_do(found, step, wall_time):
    summary = summary_pb2.Summary(value=found)
    whole = event_pb2.Event(step=step, wall_time=wall_time, summary=summary).SerializeToString()
    assert _summary.event_with(wall_time, step, summary.SerializeToString()) == whole


TAGS = st.text(max_size=5) | st.sampled_from(["a" * 120, "a" * 121, "a" * 200, "\ud800", "global_step/sec"])


@given(TAGS, st.floats() | st.sampled_from([1e300, -1e300, float("nan"), 3.4028235677973366e38, 1e-46, -0.0]))
def test_a_scalar_is_packed_as_protocol_buffers_do(tag, number):
    packed = _summary.scalar_summary(tag, number)
    if not tag.isascii() or not 0 < len(tag) < 121:
        assert packed is None
        return
    summary = summary_pb2.Summary(value=[Value(tag=tag, simple_value=number)])
    assert packed == summary.SerializeToString()
    assert _summary.scalar_tags(packed) == [tag]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(values | st.builds(lambda tag: Value(tag=tag, simple_value=2.5), names), max_size=6))
def test_scalars_are_recognised(found):
    data = summary_pb2.Summary(value=found).SerializeToString()
    plain = [value.tag and value == Value(tag=value.tag, simple_value=value.simple_value) and value.HasField("simple_value")
             and value.tag.isascii() for value in found]
    assert _summary.scalar_tags(data) == ([value.tag for value in found] if all(plain) else None)


@given(st.binary(max_size=40) | st.builds(lambda tail: b"\x0a\x0a\x0a\x03abc\x15" + tail, st.binary(max_size=20)))
def test_no_bytes_harm(data):
    try:
        tags = _summary.plain_tags(data)
    except UnicodeDecodeError:
        tags = []
    assert tags is None or all(isinstance(tag, str) for tag in tags)
    # Protocol buffers would give other bytes than they have read in many ways.
    if _summary.scalar_tags(data) is not None:
        assert _summary.scalar_tags(data) == tags
        assert summary_pb2.Summary.FromString(data).SerializeToString() == data
