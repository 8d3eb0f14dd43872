"""A program that uses the public API, for type checkers alone: `test_types.py` runs them over it."""

import datetime
import pathlib
import signal
from collections.abc import Mapping
from typing import Any, Literal

from typing_extensions import assert_type

import fasthooks as fh


class PrintLoss(fh.SessionRunHook):
    """A hook of the user's own."""

    def before_run(self, run_context: fh.SessionRunContext) -> fh.SessionRunArgs:
        return fh.SessionRunArgs("loss:0")

    def after_run(self, run_context: fh.SessionRunContext, run_values: fh.SessionRunValues) -> None:
        print(run_values.results)
        run_context.request_stop()


class EvenSteps(fh.SecondOrStepTimer):
    """A timer of the user's own."""

    def should_trigger_for_step(self, step: int) -> bool:
        return step % 2 == 0 and bool(super().should_trigger_for_step(step))


@fh.every(secs=60)
def show_step(step: int) -> bool:
    """Stops the training."""
    return step > 1000


@fh.every(steps=100, fetches={"loss": "loss:0"}, at_end=True)
def show_loss(step: int, values: Any) -> None:
    print(step, values["loss"])


class Posts(fh.Sink):
    """A sink of the user's own."""

    def write(self, step: int, row: Mapping[str, float], session: Any) -> bool:
        return row["loss"] > 10.0


def accuracy(session: Any) -> dict[str, float]:
    return {"accuracy": session.run("accuracy:0")}


def print_row(step: int, row: Mapping[str, float]) -> None:
    print(step, *row.values())


def everyday_hooks(loss: Any, directory: pathlib.Path) -> list[Any]:
    stopping = fh.EarlyStopping("accuracy", patience=5, mode="max", min_delta=0.001, state_file=directory / "stopping.jsonl")
    best = fh.BestCheckpoints(directory / "best", "accuracy", mode="max", keep=3)
    assert_type(fh.best_checkpoint(directory / "best"), str | None)
    return [
        fh.MetricsHook({"loss": loss}, to=fh.CSVSink(directory / "rows.csv"), every_n_steps=100),
        fh.MetricsHook(lambda: {"loss": "loss:0"}, to=[fh.JSONLSink("rows", append=False), print_row], every_n_secs=60,
                       reduce="mean"),
        fh.MetricsHook(to=Posts(), every_n_steps=100, examples_per_step=32, at_end=False),
        fh.EvaluationHook(accuracy, to=[stopping, best, fh.EventSink(directory), fh.WandbSink(prefix="eval/")],
                          every_n_steps=1000, at_start=True),
        fh.ProgressHook(100_000, metrics={"loss": loss}, examples_per_step=32),
        fh.TimeLimitHook(3600),
        fh.TimeLimitHook(until=datetime.datetime(2030, 1, 1)),
    ]


def call_them() -> bool:
    show_loss(1, {"loss": 0.5})
    assert_type(show_step(3), bool)
    return show_step(3)


def hooks(loss: Any, scaffold: fh.Scaffold) -> list[Any]:
    return [
        fh.StopAtStepHook(last_step=1000),
        fh.StopAtStepHook(num_steps=1000),
        fh.StepCounterHook(every_n_steps=100, output_dir="logs"),
        fh.StepCounterHook(every_n_steps=None, every_n_secs=0.5),
        fh.LoggingTensorHook({"loss": loss}, every_n_iter=100, formatter=str),
        fh.LoggingTensorHook([loss], at_end=True),
        fh.NanTensorHook(loss, fail_on_nan_loss=False),
        fh.SummarySaverHook(save_steps=10, output_dir="logs", summary_op=loss),
        fh.SummarySaverHook(save_secs=1.5, output_dir="logs", scaffold=scaffold),
        fh.CheckpointSaverHook("model", save_secs=600, listeners=[fh.CheckpointSaverListener()]),
        fh.CheckpointSaverHook("model", save_steps=100, save_on_error=True),
        fh.AsyncCheckpointSaverHook("model", save_steps=100, when_busy="skip", save_on_error=True),
        fh.SummarySaverHook(save_steps=10, output_dir="logs", summary_op=loss, save_at_end=True),
        fh.SaveOnSignalHook("model", signals=[signal.SIGTERM]),
        fh.GlobalStepWaiterHook(100),
        fh.FinalOpsHook(loss),
        fh.FeedFnHook(dict),
        fh.FeedFnHook(dict, prefetch=2),
        fh.ProfilerHook(save_steps=1000, output_dir="profile", show_memory=True),
        fh.WandbHook(steps_per_log=100),
        fh.Every(PrintLoss(), steps=100, at_end=True),
        fh.Every(fh.Every(PrintLoss(), iters=2), secs=0.5),
        fh.LambdaHook(begin=lambda: None, after_create_session=lambda session, coord: None, end=print),
        show_step,
        show_loss,
        PrintLoss(),
    ]


def train(loss: Any, train_op: Any, scheduling: Literal["auto", "pool", "inline"] = "auto") -> fh.Report:
    scaffold = fh.Scaffold()
    session = fh.MonitoredTrainingSession(checkpoint_dir="model", hooks=hooks(loss, scaffold), scheduling=scheduling)
    assert_type(session, fh.MonitoredSession)
    with session:
        while not session.should_stop():
            session.run(train_op, feed_dict={"x:0": 1.0})
        session.run(loss, hooks=False)
        session.run([loss], None, hooks=[])
        session.run_step_fn(lambda step_context: step_context.run_with_hooks(loss))
        assert_type(session.report(), fh.Report)
        assert_type(session.recoveries, int)
        return session.report()


def evaluate(loss: Any) -> Any:
    creator = fh.ChiefSessionCreator(fh.Scaffold(), checkpoint_dir="model")
    with fh.MonitoredSession(creator, hooks=[PrintLoss()], stop_grace_period_secs=10, scheduling="pool",
                             colocate_global_step_read=True) as session:
        assert_type(session, fh.MonitoredSession)
        assert_type(session.should_stop(), bool)
        session.run_without_hooks(loss)
    with fh.SingularMonitoredSession([PrintLoss()], checkpoint_dir="model") as single:
        assert_type(single, fh.SingularMonitoredSession)
        single.raw_session().run(loss)
        return single.run(loss)


def time_it() -> bool:
    timer = fh.SecondOrStepTimer(every_steps=3)
    timer.update_last_triggered_step(1)
    assert_type(fh.__version__, str)
    return timer.should_trigger_for_step(4) or EvenSteps(every_secs=1.5).should_trigger_for_step(4)


def profiled(session: fh.MonitoredSession, loss: Any, path: pathlib.Path) -> list[str]:
    fh.warn_slow_hooks(0.5, min_us=100)
    with fh.profile(skip_steps=10, trace=path, slow_hook_share=None) as profile:
        session.run(loss)
    assert_type(profile, fh.Profile)
    assert_type(profile.report(), fh.ProfileReport)
    profile.write_trace("trace.json")
    slow = [row for one in profile.report()["sessions"] for row in one["hooks"] if row["us_per_call"] > 100.0]
    assert_type(slow, list[fh.HookRow])
    assert_type(profile.report()["sessions"][0]["once"], list[fh.OnceRow])
    return [profile.table(), *(f"{row['hook']}: {row['method']}" for row in slow)]


def batch() -> Any:
    return fh.aligned_empty([2, 3], "float32"), fh.aligned_copy([1, 2])


def my_model() -> Any:
    return "train:0", {"x:0": 1.0}


def measure_hook(hook_cost: fh.HookCostFixture) -> None:  # a test, of which the fixture's type is shown
    cost = hook_cost(PrintLoss)
    assert_type(cost, fh.HookCost)
    assert_type(cost.added_us, float)
    assert_type(cost.rounds, int)
    hook_cost(lambda: [PrintLoss(), fh.NanTensorHook("loss:0")], model=my_model, beside=lambda: [PrintLoss()], steps=1000,
              max_us=5, session="fasthooks", scheduling="pool")
    hook_cost(PrintLoss, max_us=None, session="tensorflow")
