"""Programs and frameworks that put our classes, or their own, into TensorFlow's modules."""

import contextlib
import functools
from unittest import mock

import pytest
from helpers import MIXES, STOCK_MIX, assert_equal_records, build_model, quick_creator, record, v1
from tensorflow.python.training import basic_session_run_hooks, monitored_session, session_run_hook

import fasthooks
from fasthooks.rebinding import rebound

MODULES = (basic_session_run_hooks, monitored_session, session_run_hook)


@contextlib.contextmanager
def replaced(class_for):
    """Puts `class_for(name)` in the place of each public name of TensorFlow's modules that fasthooks has too."""
    with contextlib.ExitStack() as stack:
        for module in MODULES:
            for name in fasthooks.__all__:
                if isinstance(vars(module).get(name), type):
                    stack.enter_context(mock.patch.object(module, name, class_for(name)))
        yield


def subclass(name):
    """A framework's own class of that name."""
    base = getattr(fasthooks, name)
    # TensorFlow's own SessionRunArgs would not do with a class in its place that derives from it.
    return base if base is fasthooks.SessionRunArgs else type(base)(name, (base,), {})


def train(run):
    update, loss = build_model()
    v1.summary.scalar("cost", loss)
    module = basic_session_run_hooks
    hooks = [
        module.StopAtStepHook(last_step=7), module.StepCounterHook(3, output_dir=run.dir), module.NanTensorHook(loss),
        module.LoggingTensorHook({"loss": loss}, every_n_iter=2), module.FeedFnHook(dict),
        module.SummarySaverHook(save_steps=2, output_dir=run.dir, summary_op=v1.summary.merge_all()),
        module.CheckpointSaverHook(run.dir, save_steps=3), module.ProfilerHook(save_steps=100, output_dir=run.dir)]
    kinds = [lambda: monitored_session.MonitoredSession(quick_creator(run), hooks),
             lambda: monitored_session.SingularMonitoredSession(hooks=hooks, checkpoint_dir=run.dir)]
    for make in kinds:
        with make() as session:
            while not session.should_stop():
                run.note(session.run([update, loss])[1])
                run.clock.tick()
    with monitored_session.MonitoredTrainingSession(
            checkpoint_dir=run.dir, save_checkpoint_steps=4, save_summaries_steps=2, log_step_count_steps=2) as session:
        run.note(session.run(loss))


@pytest.mark.parametrize("class_for", [lambda name: getattr(fasthooks, name), subclass])
def test_everything_works_under_tensorflows_names(class_for, tmp_path):
    stock = record(train, MIXES[STOCK_MIX], tmp_path / "stock")
    assert stock.error is None
    with replaced(class_for):
        assert issubclass(monitored_session.MonitoredSession, fasthooks.MonitoredSession)
        assert_equal_records(record(train, MIXES[STOCK_MIX], tmp_path / "ours"), stock)


def test_timers_under_tensorflows_name():
    with replaced(lambda name: getattr(fasthooks, name)):
        hook = v1.train.StepCounterHook(every_n_steps=3)
        assert (hook._timer._every_steps, hook._timer._every_secs) == (3, None)
        with pytest.raises(ValueError, match="both every_secs and every_steps"):
            fasthooks.SecondOrStepTimer(every_steps=1, every_secs=1)


def test_wrapped_functions_keep_their_wrapper_unless_they_must_not():
    @functools.wraps(inner)
    def wrapper():
        return "wrapped", inner()

    assert rebound(wrapper, MODULES=MODULES) is wrapper
    assert rebound(wrapper, MODULES="other")() == "other"


def inner():
    return MODULES


def test_a_mock_is_called_as_it_is():
    with mock.patch.object(basic_session_run_hooks.SecondOrStepTimer, "__init__", return_value=None) as init:
        fasthooks.SecondOrStepTimer(every_steps=3)
    assert init.call_count == 1
    assert rebound(init, x=1) is init

