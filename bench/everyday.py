"""Budgets of the everyday hooks: C1."""

import contextlib
import dataclasses
import io
import os
import time

import numpy as np

from bench import common
from bench.common import hooks_h8, tf, v1
from bench.steps import MORE_HOOKS
from bench.table import row

FAR_SECS = 3600
ROW = {"loss": 0.12345678901234567, "accuracy": 0.9876543210987654, "steps_per_sec": 4812.345678901234}
CALLS = 200


class _Terminal(io.StringIO):
    """Takes what a bar draws."""

    def isatty(self):
        return True


def _no_row(step, row):
    pass


def _evaluate(session):
    return {}


def _packed(model):
    """What a mean of the loss fetches on every run."""
    step = v1.train.get_global_step()
    return tf.stack([tf.cast(step, tf.float64), tf.cast(model.loss, tf.float64)])


def _with_packed():
    model = common.tiny()
    return dataclasses.replace(model, train_op=[model.train_op, _packed(model)])


def _each_us(act, calls=CALLS):
    """µs that one call of a function of its number takes, median of `calls`."""
    took = []
    for number in range(calls):
        begin = time.perf_counter_ns()
        act(number)
        took.append(time.perf_counter_ns() - begin)
    return np.median(took) / 1000.0


def _row_us(sink):
    """µs that a sink takes for a row."""
    sink.begin(list(ROW))
    sink.started(None, 0)
    took = _each_us(lambda number: sink.write(number, ROW, None))
    sink.close()
    return took


def _refresh_us(hook):
    """µs that a ProgressHook takes to show a step: on a bar, or as a log line where tqdm is not installed."""
    with tf.Graph().as_default():
        v1.train.get_or_create_global_step()
        hook.begin()
    hook.after_create_session(None, None)
    values = v1.train.SessionRunValues({"loss": 0.25}, None, None)
    took = _each_us(lambda number: hook._act(None, values, number))
    hook._close()
    return took


def c1(peer, ours, settings):
    """Quiet step: what one more everyday hook adds to H8. Acting: what a row, or a refresh of the bar, takes."""
    train = ours.train
    quiet = {
        "MetricsHook(every_n_steps)": (0.05, lambda model: train.MetricsHook(
            {"loss": model.loss}, to=_no_row, every_n_steps=common.PERIOD)),
        "MetricsHook(every_n_secs)": (0.1, lambda model: train.MetricsHook(
            {"loss": model.loss}, to=_no_row, every_n_secs=FAR_SECS)),
        "EvaluationHook(every_n_steps)": (0.05, lambda model: train.EvaluationHook(
            _evaluate, to=_no_row, every_n_steps=common.PERIOD)),
        "ProgressHook": (0.1, lambda model: train.ProgressHook(log_secs=FAR_SECS, file=io.StringIO())),
        "TimeLimitHook": (0.1, lambda model: train.TimeLimitHook(1000 * FAR_SECS)),
    }
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(common.workspace(wandb=True))

        def lane(make=None, count=1, build=common.tiny):
            def hooks(impl, model, own_directory):
                return [*hooks_h8(impl, model, own_directory), *(make(model) for _ in range(count if make else 0))]

            return stack.enter_context(common.monitored_lane(ours, build, hooks, directory))

        def mean(model):
            return train.MetricsHook({"loss": model.loss}, to=_no_row, every_n_steps=common.PERIOD, reduce="mean")

        lanes = {"h8": lane(), "fetched": lane(build=_with_packed), "mean": lane(mean)}
        lanes.update({name: lane(make, MORE_HOOKS) for name, (_, make) in quiet.items()})
        common.warm_up(lanes.values(), settings.warm_up)
        times = common.interleave_quiet(list(lanes.values()), settings.rounds, settings.quiet_pieces)
        us = dict(zip(lanes, times.T, strict=True))
        rows = []
        for name, (bar, _) in quiet.items():
            added = (us[name] - us["h8"]) / MORE_HOOKS
            rows.append(row("C1", f"one more {name}", us["h8"], us[name], added, bar, at_most=True, unit="µs"))
        what = 'MetricsHook(reduce="mean") - the same fetched by the caller'
        rows.append(row("C1", what, us["fetched"], us["mean"], us["mean"] - us["fetched"], 0.3, at_most=True, unit="µs"))
        for what, bar, act in (
            ("row of a CSVSink", 40, lambda: _row_us(train.CSVSink(os.path.join(directory, "rows.csv")))),
            ("row of a JSONLSink", 40, lambda: _row_us(train.JSONLSink(os.path.join(directory, "rows.jsonl")))),
            ("row of an EventSink", 150, lambda: _event_us(train, directory)),
            ("refresh of a ProgressHook", 150, lambda: _refresh_us(
                train.ProgressHook(1000, file=_Terminal()))),
        ):
            took = np.array([act() for _ in range(settings.rounds)])
            rows.append(row("C1", what, None, took, took, bar, at_most=True, unit="µs"))
    return {"rows": rows}


def _event_us(train, directory):
    with tf.Graph().as_default():
        return _row_us(train.EventSink(os.path.join(directory, "events")))
