"""What a type checker must object to: each line with a comment is an error, of mypy's code and pyright's rule, and no other."""

from typing import Any

import fasthooks as fh

# Names.
fh.MonitoredSesion()  # attr-defined, reportAttributeAccessIssue
fh.StopAtStephook(last_step=3)  # attr-defined, reportAttributeAccessIssue

# Arguments of hooks, ours and those of TensorFlow's that are handed on.
fh.StopAtStepHook(last_stepp=3)  # call-arg, reportCallIssue
fh.StopAtStepHook(last_step="3")  # arg-type, reportArgumentType
fh.StepCounterHook(every_steps=3)  # call-arg, reportCallIssue
fh.LoggingTensorHook()  # call-arg, reportCallIssue
fh.NanTensorHook()  # call-arg, reportCallIssue
fh.SummarySaverHook(save_step=3)  # call-arg, reportCallIssue
fh.CheckpointSaverHook("model", save_minutes=3)  # call-arg, reportCallIssue
fh.AsyncCheckpointSaverHook("model", save_steps=3, when_busy="drop")  # arg-type, reportArgumentType
fh.FinalOpsHook()  # call-arg, reportCallIssue
fh.GlobalStepWaiterHook("soon")  # arg-type, reportArgumentType
fh.WandbHook(steps_per_row=3)  # call-arg, reportCallIssue
fh.Scaffold(savers=None)  # call-arg, reportCallIssue
fh.ChiefSessionCreator(directory="model")  # call-arg, reportCallIssue
fh.SessionRunArgs("loss:0", feeds={})  # call-arg, reportCallIssue
fh.Every(fh.SessionRunHook(), step=3)  # call-arg, reportCallIssue
fh.Every(fh.SessionRunHook, steps=3)  # arg-type, reportArgumentType
fh.MetricsHook(to=print, every_n_steps=3, reduce="median")  # arg-type, reportArgumentType
fh.EarlyStopping("loss", patience=3, mode="less")  # arg-type, reportArgumentType
fh.BestCheckpoints("best", "loss", mode="less")  # arg-type, reportArgumentType
fh.TimeLimitHook(minutes=3)  # call-arg, reportCallIssue

# Arguments of sessions.
fh.MonitoredSession(scheduling="fast")  # arg-type, reportArgumentType
fh.SingularMonitoredSession(scheduling="fast")  # arg-type, reportArgumentType
fh.MonitoredTrainingSession(scheduling="fast")  # arg-type, reportArgumentType
fh.MonitoredTrainingSession(checkpoint_directory="model")  # call-arg, reportCallIssue
fh.MonitoredSession(hooks=fh.StopAtStepHook(last_step=3))  # arg-type, reportArgumentType

# What sessions, hooks and reports have.
with fh.MonitoredSession() as session:
    session.reprot()  # attr-defined, reportAttributeAccessIssue
    session.run_witout_hooks("train")  # attr-defined, reportAttributeAccessIssue
    session.run("train", feeds={})  # call-arg, reportCallIssue
    print(session.report()["step"])  # typeddict-item, reportGeneralTypeIssues
fh.SingularMonitoredSession().raw_sesion()  # attr-defined, reportAttributeAccessIssue
fh.MonitoredTrainingSession().reprot()  # attr-defined, reportAttributeAccessIssue
print(fh.Every(fh.SessionRunHook(), steps=3).hok)  # attr-defined, reportAttributeAccessIssue
fh.patch(session=True)  # call-arg, reportCallIssue


class Mine(fh.SessionRunHook):
    def after_run(self, run_context: fh.SessionRunContext, run_values: fh.SessionRunValues) -> None:
        run_context.request_stopp()  # attr-defined, reportAttributeAccessIssue
        print(run_values.result)  # attr-defined, reportAttributeAccessIssue


def measure(hook_cost: fh.HookCostFixture) -> Any:
    hook_cost(Mine, session="keras")  # arg-type, reportArgumentType
    return hook_cost(Mine).added_ms  # attr-defined, reportAttributeAccessIssue
