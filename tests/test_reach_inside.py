"""Programs in the manner of the frameworks that people run: hooks that derive from stock hooks, and class patches.

Every program of the `test_reach_*` files runs on TensorFlow alone and in every mix, and all that can be seen is compared.
"""

import collections
import threading
import types
from unittest import mock

import pytest
import tensorflow as tf
from helpers import STOCK, build_model, checkpoints, messages, quick_creator, summaries, train, usual_hooks, v1
from tensorflow.python.training import basic_session_run_hooks, training_util
from test_dispatch import Args, Probe, steps

Context = v1.train.SessionRunContext
Values = v1.train.SessionRunValues


class Listener(v1.train.CheckpointSaverListener):
    """Notes what it is told; asks for the end after the save of one step."""

    def __init__(self, run, last=None):
        self.run = run
        self.last = last

    def begin(self):
        self.run.note("listener begins")

    def before_save(self, session, global_step_value):
        self.run.note("before", session, global_step_value)

    def after_save(self, session, global_step_value):
        self.run.note("after", session, global_step_value)
        return global_step_value == self.last

    def end(self, session, global_step_value):
        self.run.note("listener ends", session, global_step_value)


# Subclasses of the saver


@pytest.mark.parametrize("own_request", [False, True])
@pytest.mark.parametrize("period", [{"save_steps": 3}, {"save_secs": 4}])
@pytest.mark.parametrize("steps_per_run", [None, 1])
def test_saver_that_reads_its_result_as_a_number(same_as_stock, own_request, period, steps_per_run):
    """EasyRec's saver: calls TensorFlow's `after_run`, then takes `run_values.results` for the global step."""

    def program(run):
        update, loss = build_model()

        class Saver(run.api.CheckpointSaverHook):
            def after_create_session(self, session, coord):
                step = session.run(self._global_step_tensor)
                self._summary_writer.add_graph(v1.get_default_graph())
                self._save(session, step)
                self._timer.update_last_triggered_step(step)

            def after_run(self, run_context, run_values):
                super().after_run(run_context, run_values)
                stale = run_values.results
                run.note(stale, stale + self._steps_per_run, self._timer.last_triggered_step())
                if stale % 5 == 4 and self._save(run_context.session, run_context.session.run(self._global_step_tensor)):
                    run_context.request_stop()

            def _save(self, session, step):
                run.note("save", step, self._save_path)
                for listener in self._listeners:
                    listener.before_save(session, step)
                self._get_saver().save(session, self._save_path, global_step=step, write_meta_graph=False)
                self._summary_writer.add_session_log(v1.SessionLog(
                    status=v1.SessionLog.CHECKPOINT, checkpoint_path=self._save_path), step)
                return any(listener.after_save(session, step) for listener in self._listeners)

        if own_request:
            Saver.before_run = lambda self, run_context: Args(self._global_step_tensor)
        saver = Saver(run.dir, **period, listeners=[Listener(run, 10)])
        if steps_per_run is not None:
            saver._set_steps_per_run(steps_per_run)
        train(run, [*usual_hooks(run, loss, 12), saver], [update, loss])

    seen = same_as_stock(program)
    assert 10 in checkpoints(seen) and 11 not in checkpoints(seen)


class DuckTimer:
    """A timer that derives from nothing, which triggers at every fourth step and when forced."""

    def __init__(self):
        self.forced = False
        self.last = None

    def reset(self):
        self.last = None

    def should_trigger_for_step(self, step):
        return self.forced or (step % 4 == 0 and step != self.last)

    def update_last_triggered_step(self, step):
        self.forced = False
        self.last = step
        return None, None

    def last_triggered_step(self):
        return self.last


class HookTimer(DuckTimer, basic_session_run_hooks._HookTimer):
    """The same on TensorFlow's private base class."""


def stock_timer(api):
    """Returns a timer that derives from the library's own."""

    class Timer(api.SecondOrStepTimer):
        forced = False

        def should_trigger_for_step(self, step):
            return self.forced or super().should_trigger_for_step(step)

        def update_last_triggered_step(self, step):
            self.forced = False
            return super().update_last_triggered_step(step)

    return Timer(every_steps=4)


TIMERS = {"derived": stock_timer, "private_base": lambda api: HookTimer(), "duck": lambda api: DuckTimer()}


@pytest.mark.parametrize("timer, locked", [("derived", False), ("private_base", True), ("duck", False)])
@pytest.mark.parametrize("where", ["between_steps", "within_a_step"])
def test_saver_with_its_own_timer_called_by_hand(same_as_stock, timer, locked, where):
    """monolith's saver: a timer of its own, no first save, and saves asked for by another thread."""

    def program(run):
        update, loss = build_model()

        class Saver(run.api.CheckpointSaverHook):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self._timer = TIMERS[timer](run.api)
                self._is_first = True

            def after_create_session(self, session, coord):
                self.session = session
                super().after_create_session(session, coord)

            def _save(self, session, step):
                if self._is_first:
                    self._is_first = False
                    return False
                run.note("save", session, step)
                return super()._save(session, step)

            def trigger_save(self):
                self._timer.forced = True
                context = Context((), self.session)
                with self.session.graph.as_default():
                    self.after_run(context, Values(0, None, None))
                run.note("by hand", context.stop_requested)

        class LockedSaver(Saver):
            lock = threading.Lock()

            def after_run(self, run_context, run_values):
                with self.lock:
                    super().after_run(run_context, run_values)

        saver = (LockedSaver if locked else Saver)(run.dir, save_steps=1000, listeners=[Listener(run, 9)])

        def save_now():
            thread = threading.Thread(target=saver.trigger_save)
            thread.start()
            thread.join()

        def now_and_then(context, values):
            if values.results % 3 == 2:
                save_now()

        hooks = [*usual_hooks(run, loss, 14), saver]
        if where == "within_a_step":
            hooks.append(Probe(run, ask=Args(training_util._get_or_create_global_step_read()), then=now_and_then))
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            for number in range(20):
                if session.should_stop():
                    break
                steps(run, session, [update, loss], 1)
                if where == "between_steps" and number in (1, 4):
                    save_now()

    seen = same_as_stock(program)
    assert len(checkpoints(seen)) >= 3 and 0 not in checkpoints(seen)


@pytest.mark.parametrize("timer", TIMERS)
@pytest.mark.parametrize("index", [1, 2, 4])
def test_own_timer_in_a_stock_hook(same_as_stock, timer, index):
    """A timer of the program's in hooks that are otherwise TensorFlow's or ours, put in before or in mid-training."""

    def program(run):
        update, loss = build_model()
        hooks = usual_hooks(run, loss, 30)
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            steps(run, session, [update, loss], 4)
            hooks[index]._timer = TIMERS[timer](run.api)
            steps(run, session, [update, loss], 6)
            hooks[index]._timer.forced = True
            steps(run, session, [update, loss], 5)

    same_as_stock(program)


def test_saver_that_skips_the_first_save_and_feeds_in_a_listener(same_as_stock):
    """fedlearner's saver and listener: `_save` looks at the timer, `before_save` runs a fed op on the raw session."""

    def program(run):
        update, loss = build_model()
        x = v1.placeholder(tf.float32, [], name="x")
        kept = v1.get_variable("kept", initializer=0.0, use_resource=True)
        keep = kept.assign(x)

        class Saver(run.api.CheckpointSaverHook):
            def _save(self, session, step):
                if self._timer.last_triggered_step() is None:
                    return False
                return super()._save(session, step)

        class Feeds(Listener):
            def before_save(self, session, global_step_value):
                self.run.note(session.run(keep, {x: float(global_step_value)}))

        hooks = usual_hooks(run, loss, 8)
        hooks.insert(0, Saver(run.dir, save_steps=3))
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            hooks[0]._listeners.append(Feeds(run))
            steps(run, session, [update, loss], 7)

    assert checkpoints(same_as_stock(program)) == [3, 6, 7]


# Subclasses of other stock hooks


@pytest.mark.parametrize("overridden", ["before_run", "after_run", "_log_tensors", "all"])
def test_logging_subclass(same_as_stock, overridden):
    """Ascend's and NVIDIA's hooks: subclasses of LoggingTensorHook that use its timer, counter and flags."""

    def program(run):
        update, loss = build_model()

        class Logger(run.api.LoggingTensorHook):
            def before_run(self, run_context):
                request = super().before_run(run_context)
                run.note("before", self._should_trigger, self._iter_count, request and request.fetches)
                return request

            def after_run(self, run_context, run_values):
                run.note("after", run_values.results, self._should_trigger)
                super().after_run(run_context, run_values)
                if self._iter_count == 5:
                    self._timer.reset()
                    self._iter_count = 0

            def _log_tensors(self, tensor_values):
                run.note("log", tensor_values, self._tag_order, self._iter_count)
                super()._log_tensors(tensor_values)

        for name in ("before_run", "after_run", "_log_tensors"):
            if overridden not in (name, "all"):
                delattr(Logger, name)
        train(run, [*usual_hooks(run, loss), Logger({"b": loss, "a": "loss:0"}, every_n_iter=4)], update)

    assert any("b = " in line for line in messages(same_as_stock(program)))


def test_summary_subclass(same_as_stock):
    """A SummarySaverHook that makes its own summary op and moves the next step."""

    def program(run):
        update, loss = build_model()

        class Saver(run.api.SummarySaverHook):
            def _get_summary_op(self):
                return [v1.get_default_graph().get_tensor_by_name("cost:0"),
                        v1.get_default_graph().get_tensor_by_name("twice:0")]

            def after_run(self, run_context, run_values):
                run.note(self._request_summary, self._next_step, run_values.results)
                super().after_run(run_context, run_values)
                if self._next_step == 5:
                    self._next_step = None
                    self._timer.reset()

        v1.summary.scalar("twice", loss * 2)
        train(run, [*usual_hooks(run, loss), Saver(save_steps=4, output_dir=f"{run.dir}/own", summary_op="unused")], update)

    seen = same_as_stock(program)
    assert {tag for _, tag, _ in summaries(seen)} >= {"cost", "twice", "global_step/sec"}


def test_metrics_based_hook(same_as_stock):
    """tensor2tensor's hooks: run an op in `before_run`, read a neighbour's writer, stop by what events tell."""

    def program(run):
        update, loss = build_model()
        slower = v1.get_variable("rate", initializer=1.0, use_resource=True).assign(0.5)
        hooks = usual_hooks(run, loss, 20)

        class Plateau(v1.train.SessionRunHook):
            def begin(self):
                self._step = training_util._get_or_create_global_step_read()

            def before_run(self, run_context):
                del run_context
                return Args(self._step)

            def after_run(self, run_context, run_values):
                step = run_context.session.run(self._step)
                run.note(run_values.results, step)
                writer = hooks[1]._summary_writer
                if step % 4 == 0:
                    run.note(run_context.session.run(slower))
                    writer.add_summary(v1.Summary(value=[v1.Summary.Value(tag="plateau", simple_value=1.0)]), step)
                if step > 12:
                    run_context.request_stop()

        hooks.append(Plateau())
        train(run, hooks, [update, loss])

    seen = same_as_stock(program)
    assert [step for step, tag, _ in summaries(seen) if tag == "plateau"] == [4, 8, 12]


# Methods replaced on classes

REPLACED = {
    "StopAtStepHook": ["after_run"],
    "CheckpointSaverHook": ["after_run", "_save"],
    "LoggingTensorHook": ["before_run", "after_run"],
    "NanTensorHook": ["after_run"],
    "StepCounterHook": ["after_run", "_log_and_record"],
    "SummarySaverHook": ["before_run", "after_run"],
}


@pytest.mark.parametrize("name, method", [(name, method) for name, methods in REPLACED.items() for method in methods])
@pytest.mark.parametrize("owner", ["theirs", "named"])
def test_method_replaced_on_the_class_of_living_hooks(same_as_stock, name, method, owner):
    """dlrover's patches: a method of a stock class is replaced while sessions run, on TensorFlow's class or ours."""

    def program(run):
        update, loss = build_model()
        hooks = [*usual_hooks(run, loss, 20), run.api.CheckpointSaverHook(run.dir, save_steps=3)]
        cls = getattr(STOCK if owner == "theirs" else run.api, name)
        original = getattr(cls, method)

        def replacement(self, *args, **kwargs):
            answer = original(self, *args, **kwargs)
            run.note(name, method, type(self).__name__, len(args), answer)
            return answer

        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            steps(run, session, [update, loss], 4)
            with mock.patch.object(cls, method, replacement):
                steps(run, session, [update, loss], 5)
            steps(run, session, [update, loss], 5)

    seen = same_as_stock(program)
    assert any(method in str(note) for note in seen.notes)


@pytest.mark.parametrize("when", ["before_the_hook", "before_the_session", "after_the_session"])
def test_stop_hook_replaced_for_good(same_as_stock, when):
    """dlrover's own `after_run` of StopAtStepHook, which does not call TensorFlow's and reads the step anew."""

    def program(run):
        update, loss = build_model()

        def after_run(self, run_context, run_values):
            step = run_context.session.run(self._global_step_tensor)
            run.note("dlrover", run_values.results, step, self._last_step)
            if step >= self._last_step + 2:
                run_context.request_stop()

        with mock.patch.object(STOCK.StopAtStepHook, "after_run", STOCK.StopAtStepHook.after_run):
            if when == "before_the_hook":
                STOCK.StopAtStepHook.after_run = after_run
            hooks = usual_hooks(run, loss, 6)
            if when == "before_the_session":
                STOCK.StopAtStepHook.after_run = after_run
            with run.api.MonitoredSession(quick_creator(run), hooks) as session:
                steps(run, session, [update, loss], 1)
                STOCK.StopAtStepHook.after_run = after_run
                while not session.should_stop():
                    steps(run, session, [update, loss], 1)

    seen = same_as_stock(program)
    assert sum("dlrover" in str(note) for note in seen.notes) == (7 if when == "after_the_session" else 8)


@pytest.mark.parametrize("wrap", [lambda tensor: {"a": tensor}, lambda tensor: collections.OrderedDict(global_step=tensor),
                                  lambda tensor: types.MappingProxyType({"a": {"b": tensor}})], ids=["dict", "ordered", "nested"])
@pytest.mark.parametrize("name", ["StopAtStepHook", "StepCounterHook", "NanTensorHook", "SummarySaverHook", "CheckpointSaverHook",
                                  "ProfilerHook"])
def test_mapping_in_the_place_of_the_tensor(same_as_stock, name, wrap):
    """What it is fetched as is the hook's own to look at, as a dict around the tensor that the hook itself makes is not."""

    def program(run):
        update, loss = build_model()
        hooks = [run.api.ProfilerHook(save_steps=100, output_dir=run.dir), run.api.CheckpointSaverHook(run.dir, save_steps=100),
                 *usual_hooks(run, loss, 50)]
        hook = next(hook for hook in hooks if isinstance(hook, getattr(run.api, name)))
        attribute = "_loss_tensor" if name == "NanTensorHook" else "_global_step_tensor"
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            steps(run, session, [update, loss], 4)
            setattr(hook, attribute, wrap(getattr(hook, attribute)))
            steps(run, session, [update, loss], 4)

    seen = same_as_stock(program)
    assert any("TypeError" in str(note) for note in seen.notes)
