"""What every public hook owes to programs that treat it as TensorFlow's: types, attributes, overrides, clocks.

Hooks are found through `fasthooks.__all__`; a new one joins by an entry in `ARGUMENTS`.
"""

import contextlib
import copy
import dataclasses
import functools
import gc
import inspect
import pickle
import threading
import weakref
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from helpers import MIXES, STOCK, build_model, describe, quick_creator, record

import fasthooks
from fasthooks.step import declining

v1 = tf.compat.v1


def feed():
    """What FeedFnHook feeds."""
    return {"fed:0": 2.0}


@dataclasses.dataclass
class History:
    """What WandbHook writes its rows to."""

    rows: list

    def add(self, row):
        self.rows.append(row)

    _row_update = add


def nothing(*args):
    """What FunctionHook, LambdaHook, MetricsHook and EvaluationHook call."""


# Name -> constructor arguments; every hook with a timer triggers every 3 steps.
ARGUMENTS = {
    "AsyncCheckpointSaverHook": lambda run: {"checkpoint_dir": run.dir, "save_steps": 3},
    "CheckpointSaverHook": lambda run: {"checkpoint_dir": run.dir, "save_steps": 3},
    "EvaluationHook": lambda run: {"evaluate": nothing, "to": nothing, "every_n_steps": 3},
    "Every": lambda run: {"hook": fasthooks.FeedFnHook(feed), "steps": 3},
    "FeedFnHook": lambda run: {"feed_fn": feed},
    "FinalOpsHook": lambda run: {"final_ops": "loss:0"},
    "FunctionHook": lambda run: {"function": nothing, "steps": 3},
    "GlobalStepWaiterHook": lambda run: {"wait_until_step": 0},
    "LambdaHook": lambda run: {"begin": nothing},
    "LoggingTensorHook": lambda run: {"tensors": {"loss": "loss:0"}, "every_n_iter": 3},
    "MetricsHook": lambda run: {"metrics": {"loss": "loss:0"}, "to": nothing, "every_n_steps": 3},
    "NanTensorHook": lambda run: {"loss_tensor": "loss:0"},
    "ProfilerHook": lambda run: {"save_steps": 3, "output_dir": run.dir},
    "ProgressHook": lambda run: {"last_step": 7},
    "SaveOnSignalHook": lambda run: {"checkpoint_saver_or_dir": run.dir},
    "StepCounterHook": lambda run: {"every_n_steps": 3, "output_dir": run.dir},
    "StopAtStepHook": lambda run: {"last_step": 7},
    "SummarySaverHook": lambda run: {"save_steps": 3, "output_dir": run.dir, "summary_op": "cost:0"},
    "TimeLimitHook": lambda run: {"secs": 1000},
    "WandbHook": lambda run: {"summary_op": "cost:0", "steps_per_log": 3, "history": History([])},
}
# Attributes that programs read and write, and a value to write after the third run.
ATTRIBUTES = {
    "CheckpointSaverHook": {"_steps_per_run": 1, "_save_path": None, "_listeners": None, "_timer": None,
                            "_summary_writer": None, "_global_step_tensor": None, "_saver": None,
                            "_checkpoint_dir": None, "_scaffold": None, "_save_graph_def": False},
    "EvaluationHook": {"_steps": 5, "_last": 3, "_increment": 2, "_runs": 4},
    "Every": {"_steps": 5, "_last": 3, "_increment": 2, "_runs": 4},
    "FinalOpsHook": {"_final_ops": "w_read:0", "_final_ops_values": 3, "_final_ops_feed_dict": {"fed:0": 1.0}},
    "FeedFnHook": {"feed_fn": lambda: {"fed:0": 3.0}},
    "FunctionHook": {"_steps": 5, "_last": 3, "_increment": 2, "_runs": 4},
    "GlobalStepWaiterHook": {"_wait_until_step": 9, "_worker_is_started": False, "_global_step_tensor": None},
    "LambdaHook": {},
    "LoggingTensorHook": {"_iter_count": 0, "_should_trigger": False, "_tag_order": [], "_formatter": str,
                          "_current_tensors": {"x": "fed_read:0"}, "_log_at_end": True, "_tensors": {}, "_timer": None},
    "MetricsHook": {"_steps": 5, "_last": 3, "_increment": 2, "_runs": 4, "_sums": None, "_added": 2},
    "NanTensorHook": {"_loss_tensor": "nan:0", "_fail_on_nan_loss": False},
    "ProfilerHook": {"_next_step": 100, "_request_summary": True, "_global_step_tensor": None, "_timer": None,
                     "_show_memory": True, "_file_writer": None},
    "ProgressHook": {"_secs": 5.0, "_last": 3.0, "_runs": 4},
    "SaveOnSignalHook": {"received": None},
    "StepCounterHook": {"_steps_per_run": 5, "_last_global_step": 3, "_summary_tag": "tag", "_summary_writer": None,
                        "_global_step_tensor": None, "_timer": None, "_output_dir": "x"},
    "StopAtStepHook": {"_last_step": 5, "_num_steps": 2, "_global_step_tensor": None},
    "SummarySaverHook": {"_next_step": None, "_request_summary": True, "_summary_op": "other:0",
                         "_summary_writer": None, "_global_step_tensor": None, "_scaffold": None, "_timer": None},
    "TimeLimitHook": {"_limit": 5.0},
    "WandbHook": {"_steps_per_log": 2},
}
ATTRIBUTES["AsyncCheckpointSaverHook"] = ATTRIBUTES["CheckpointSaverHook"]
HOOKS = [name for name in fasthooks.__all__ if name != "SessionRunHook" and isinstance(getattr(fasthooks, name), type)
         and issubclass(getattr(fasthooks, name), v1.train.SessionRunHook)]
# Those whose peer is TensorFlow's own class of the same name; wandb's hook asks for its summary on every run.
WITH_PEER = [name for name in HOOKS if hasattr(STOCK, name)]
WITH_ANY_PEER = [*WITH_PEER, "WandbHook"]
WITH_TIMER = [name for name in HOOKS if "_timer" in ATTRIBUTES.get(name, ())]
every_hook = pytest.mark.parametrize("name", HOOKS)
every_peer = pytest.mark.parametrize("name", WITH_PEER)
every_timer = pytest.mark.parametrize("name", WITH_TIMER)


@pytest.fixture(autouse=True)
def wandb_run():
    """A wandb run that takes no part."""
    import wandb

    with mock.patch.object(wandb, "run", mock.Mock()), mock.patch.object(wandb.tensorboard, "_log"):
        yield


@pytest.fixture
def here(tmp_path):
    """A stand-in for a `Run`, for hooks that are made but not run."""
    with tf.Graph().as_default():
        yield mock.Mock(dir=str(tmp_path))


def arguments(run, name):
    return ARGUMENTS[name](run)


def make(run, name, cls=None):
    """A hook with the arguments above."""
    return (cls or getattr(run.api, name))(**arguments(run, name))


def model():
    """The model for all hooks here: loss, a summary of it, and something to feed."""
    op, loss = build_model()
    tf.identity(v1.summary.scalar("loss_summary", loss), name="cost")
    tf.identity(v1.summary.scalar("other_summary", 2 * loss), name="other")
    tf.identity(v1.placeholder_with_default(1.0, [], name="fed"), name="fed_read")
    tf.identity(loss, name="w_read")
    tf.constant(np.nan, name="nan")
    return op


def session(run, hooks):
    return run.api.MonitoredSession(quick_creator(run), hooks)


def loop(run, sess, op, steps=8, at=None):
    """Runs `steps` times or until a stop; calls `at[i]()` before run i."""
    for i in range(steps):
        if i in (at or {}):
            at[i]()
        if sess.should_stop():
            run.note("stopped")
            break
        run.note(sess.run([op, "loss:0", "fed_read:0"]))
        run.clock.tick()


def state(hook, name):
    """The attributes that programs touch, with their types."""
    return {attribute: describe(getattr(hook, attribute, "missing")) for attribute in ATTRIBUTES[name]}


def test_the_tables_name_every_hook():
    assert set(ARGUMENTS) == set(ATTRIBUTES) == set(HOOKS)


# Classes and constructors


@every_hook
def test_is_an_instance_of_tensorflows_class(name, here):
    hook = make(here, name, getattr(fasthooks, name))
    assert isinstance(hook, getattr(STOCK, name, STOCK.SessionRunHook))
    assert type(hook).__name__ == name


def stock_class(name):
    """The class that a public hook stands for."""
    if name in WITH_PEER:
        return getattr(STOCK, name)
    from wandb.integration.tensorflow import WandbHook

    return {"AsyncCheckpointSaverHook": STOCK.CheckpointSaverHook, "WandbHook": WandbHook}[name]


@pytest.mark.parametrize("name", WITH_ANY_PEER)
def test_signature(name):
    ours, theirs = [inspect.signature(cls) for cls in (getattr(fasthooks, name), stock_class(name))]
    # What is ours alone can only be given by name, and need not be.
    extra = [p for p in ours.parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert all(p.default is not p.empty for p in extra)
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values() if p not in extra] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()]


BAD = [
    ("StopAtStepHook", {}), ("StopAtStepHook", {"num_steps": 1, "last_step": 2}), ("StopAtStepHook", {"steps": 1}),
    ("StepCounterHook", {"every_n_steps": None}), ("StepCounterHook", {"every_n_steps": 1, "every_n_secs": 1}),
    ("LoggingTensorHook", {}), ("LoggingTensorHook", {"tensors": []}),
    ("LoggingTensorHook", {"tensors": [], "every_n_iter": 0}), ("LoggingTensorHook", {"tensors": 1, "every_n_iter": 1}),
    ("LoggingTensorHook", {"tensors": [], "every_n_iter": "1"}),
    ("LoggingTensorHook", {"tensors": [], "every_n_iter": -1}),
    ("LoggingTensorHook", {"tensors": [], "every_n_iter": 1, "every_n_secs": 1}),
    ("LoggingTensorHook", {"tensors": [], "every_n_iter": 1, "every_n_secs": 1, "at_end": True}),
    ("NanTensorHook", {}), ("SummarySaverHook", {}), ("SummarySaverHook", {"save_steps": 1}),
    ("SummarySaverHook", {"summary_op": "x"}),
    ("SummarySaverHook", {"summary_op": "x", "scaffold": 1, "save_steps": 1}),
    ("SummarySaverHook", {"summary_op": "x", "save_secs": 1, "save_steps": 1}),
    ("CheckpointSaverHook", {}), ("CheckpointSaverHook", {"checkpoint_dir": "x"}),
    ("CheckpointSaverHook", {"checkpoint_dir": None, "save_steps": 1}),
    ("CheckpointSaverHook", {"checkpoint_dir": "x", "save_steps": 1, "save_secs": 1}),
    ("CheckpointSaverHook", {"checkpoint_dir": "x", "save_steps": 1, "saver": 1, "scaffold": 1}),
    ("GlobalStepWaiterHook", {}), ("FinalOpsHook", {}), ("FeedFnHook", {}),
    ("ProfilerHook", {"output_dir": "{dir}"}),
    ("ProfilerHook", {"output_dir": "{dir}", "save_steps": 1, "save_secs": 1}),
    ("ProfilerHook", {"output_dir": None}),
]


@pytest.mark.parametrize(("name", "bad"), BAD, ids=lambda value: str(value))
def test_constructor_errors(same_as_stock, name, bad):
    def program(run):
        getattr(run.api, name)(**{key: run.dir if value == "{dir}" else value for key, value in bad.items()})

    assert same_as_stock(program).error is not None


@every_peer
def test_the_last_argument_too_many(name, here):
    errors = []
    for cls in (getattr(fasthooks, name), getattr(STOCK, name)):
        with pytest.raises(TypeError) as raised:
            cls(*[1] * 12)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]


# Copies


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy} | {
    f"pickle{protocol}": (lambda hook, protocol=protocol: pickle.loads(pickle.dumps(hook, protocol)))
    for protocol in (0, 2, pickle.HIGHEST_PROTOCOL)}


@pytest.mark.parametrize("how", ["copy", "pickle0"])
@every_peer
def test_a_new_hooks_copy_works_as_the_hook(same_as_stock, name, how):
    def program(run):
        op = model()
        original = make(run, name)
        original.mine = [1]
        if name == "ProfilerHook" and how != "copy":
            original._file_writer = None
        hook = COPIES[how](original)
        run.note(type(hook) is type(original), hook is original, hook.mine, hook.mine is original.mine)
        if hasattr(hook, "_timer"):
            run.note(hook._timer is original._timer)
        if name == "ProfilerHook":
            hook._file_writer = mock.Mock()
        with session(run, [hook]) as sess:
            loop(run, sess, op)
        run.note(state(hook, name), hook.mine)

    assert same_as_stock(program).error is None


@pytest.mark.parametrize("how", COPIES)
@every_hook
def test_a_copy_keeps_the_state(name, how, here):
    hook = make(here, name, getattr(fasthooks, name))
    hook.mine = "x"
    if name == "ProfilerHook":
        hook._file_writer = None  # holds a thread, which TensorFlow cannot copy either
    for attribute in ("_last_step", "_next_step", "_iter_count", "_last_global_step", "_global_step_tensor", "_seen"):
        if hasattr(hook, attribute):
            setattr(hook, attribute, 5)
    if hasattr(hook, "_timer"):
        hook._timer.update_last_triggered_step(np.int64(41))
    other = COPIES[how](hook)
    names = set(ATTRIBUTES[name]) | {"mine", "_seen", "_next_row", "_last_step", "_iter_count"}
    missing = object()
    for attribute in names - {"_timer"}:
        before, after = getattr(hook, attribute, missing), getattr(other, attribute, missing)
        assert before is after or before == after, attribute
    if hasattr(hook, "_timer"):
        assert type(other._timer) is type(hook._timer)
        assert (other._timer.last_triggered_step(), type(other._timer.last_triggered_step())) == (41, np.int64)
        assert other._timer._last_triggered_time == hook._timer._last_triggered_time
        assert other._timer._every_steps == 3


@every_hook
def test_weak_reference(name, here):
    hook = make(here, name, getattr(fasthooks, name))
    reference = weakref.ref(hook)
    assert reference() is hook
    assert weakref.WeakKeyDictionary({hook: 1})[hook] == 1
    del hook
    assert reference() is None


@every_hook
def test_a_cycle_through_a_hook_is_collected(name, here):
    hook = make(here, name, getattr(fasthooks, name))
    hook.mine = hook
    reference = weakref.ref(hook)
    del hook
    gc.collect()
    assert reference() is None


@every_peer
def test_hash_and_equality_are_those_of_objects(name, here):
    hook, other = make(here, name, getattr(fasthooks, name)), make(here, name, getattr(fasthooks, name))
    assert hook == hook
    assert hook != other
    assert len({hook, other}) == 2
    assert hash(hook) == object.__hash__(hook)


# Sessions


@every_peer
def test_subclass_with_its_own_constructor(same_as_stock, name):
    def program(run):
        base = getattr(run.api, name)

        class Mixin:
            def end(self, session):
                run.note("mixin end")
                super().end(session)

        class Sub(Mixin, base):
            def __init__(self, run):
                self.before = 1
                super().__init__(**arguments(run, name))
                base.__init__(self, **arguments(run, name))
                self.after = 2

        op = model()
        hook = Sub(run)
        with session(run, [hook]) as sess:
            loop(run, sess, op)
        run.note(hook.before, hook.after, state(hook, name))

    assert same_as_stock(program).error is None


@every_peer
def test_second_session_and_one_end_each(same_as_stock, name):
    def program(run):
        op = model()
        hook = make(run, name)
        with mock.patch.object(hook, "end", wraps=hook.end) as end:
            for _ in range(2):
                with session(run, [hook]) as sess:
                    loop(run, sess, op, steps=5)
                run.note("ends", end.call_count, state(hook, name))

    ends = [note[1][1] for note in same_as_stock(program).notes if note[0][1] == "'ends'"]
    # The profiler's writer takes the same step's trace only once.
    assert ends == (["1"] if name == "ProfilerHook" else ["1", "2"])


@every_peer
def test_second_session_of_another_graph(same_as_stock, name):
    def program(run):
        hook = make(run, name)
        for _ in range(2):
            with tf.Graph().as_default():
                op = model()
                with session(run, [hook]) as sess:
                    loop(run, sess, op, steps=5)
                run.note(state(hook, name))

    assert (same_as_stock(program).error is None) == (name != "ProfilerHook")


@every_peer
def test_two_sessions_at_a_time(same_as_stock, name):
    def program(run):
        op = model()
        hook = make(run, name)
        with session(run, [hook]) as one, run.api.SingularMonitoredSession(hooks=[hook]) as other:
            for _ in range(3):
                loop(run, one, op, steps=1)
                loop(run, other, op, steps=2)
                run.note(state(hook, name))

    same_as_stock(program)


@every_peer
def test_listed_twice_is_called_twice(same_as_stock, name):
    def program(run):
        op = model()
        hook = make(run, name)
        with session(run, [hook, hook]) as sess:
            loop(run, sess, op)
        run.note(state(hook, name))

    same_as_stock(program, declines=(declining.REPEATED_HOOK,))


@every_peer
def test_appended_and_removed_while_the_session_runs(same_as_stock, name):
    def program(run):
        op = model()
        hook = make(run, name)
        hooks = [run.api.NanTensorHook("loss:0")]

        def append():
            hook.begin()
            hooks.append(hook)

        with session(run, hooks) as sess:
            if name not in ("FeedFnHook", "FinalOpsHook", "NanTensorHook", "LoggingTensorHook"):
                hook._global_step_tensor = v1.get_collection("global_step_read_op_cache")[0]
            loop(run, sess, op, steps=12, at={2: append, 9: hooks.pop})
            run.note(state(hook, name))

    same_as_stock(program)


# Attributes


@pytest.mark.parametrize(("name", "attribute"), [
    (name, attribute) for name in WITH_PEER for attribute, value in ATTRIBUTES[name].items()
    if value is not None or attribute in ("_next_step", "_timer", "_summary_writer")])
def test_written_attributes_are_honoured_at_once(same_as_stock, name, attribute):
    def program(run):
        op = model()
        hook = make(run, name)

        def write():
            value = ATTRIBUTES[name][attribute]
            setattr(hook, attribute, run.api.SecondOrStepTimer(every_steps=1) if attribute == "_timer" else value)

        try:
            with session(run, [hook]) as sess, mock.patch("time.sleep", side_effect=KeyError("slept")):
                for i in range(9):
                    loop(run, sess, op, steps=1, at={0: write} if i == 4 else None)
                    run.note(state(hook, name))
        finally:
            run.note(state(hook, name))

    same_as_stock(program)


class ForeignTimer:
    """A timer of somebody's own: every odd step, whoever asks."""

    def __init__(self, run):
        self.run = run
        self.last = None

    def should_trigger_for_step(self, step):
        self.run.note("asked", step)
        return step % 2 == 1

    def update_last_triggered_step(self, step):
        self.run.note("updated", step)
        self.last, last = step, self.last
        return (None, None) if last is None else (2.0, step - last)

    def last_triggered_step(self):
        return self.last

    def reset(self):
        self.run.note("reset")


@every_timer
@pytest.mark.parametrize("when", ["before", "after"])
def test_swapped_timer(same_as_stock, name, when):
    def program(run):
        op = model()
        hook = make(run, name)

        def swap():
            hook._timer = ForeignTimer(run)

        if when == "before":
            swap()
        with session(run, [hook]) as sess:
            loop(run, sess, op, at={4: swap} if when == "after" else None)

    assert any(note[0][1] == "'asked'" for note in same_as_stock(program).notes)


# Overrides


def spy(run, original, note):
    """A function that notes its call and does what `original` does."""
    def method(*args):
        run.note(note)
        return original(*args)

    return method


def override(run, hook, name, way, method):
    """Replaces a method of a hook in one of many ways; returns a function that takes it back."""
    if way == "object":
        setattr(hook, method, spy(run, getattr(hook, method), way))
        return lambda: delattr(hook, method)
    cls = getattr(STOCK, name, type(hook)) if way == "tensorflow's class" else type(hook)
    patch = {
        "mock on object": lambda: mock.patch.object(hook, method, side_effect=spy(run, getattr(hook, method), way)),
        "mock on class": lambda: mock.patch.object(
            cls, method, side_effect=spy(run, functools.partial(getattr(cls, method), hook), way)),
    }.get(way, lambda: mock.patch.object(cls, method, spy(run, getattr(cls, method), way)))()
    patch.start()
    return patch.stop


WAYS = ["object", "mock on object", "class", "mock on class", "tensorflow's class"]


@pytest.mark.parametrize("name", WITH_ANY_PEER)
@pytest.mark.parametrize("method", ["before_run", "after_run"])
def test_overridden_methods_are_called(same_as_stock, name, method):
    def program(run):
        op = model()
        hook = make(run, name)
        with session(run, [hook]) as sess, contextlib.ExitStack() as undo:
            for way in WAYS:
                loop(run, sess, op, steps=2)
                undo.callback(override(run, hook, name, way, method))
                loop(run, sess, op, steps=2)
                undo.close()
            run.note(state(hook, name))

    notes = [note[0][1] for note in same_as_stock(program).notes]
    for way in WAYS[:1] if name == "StopAtStepHook" else WAYS:
        assert notes.count(repr(way)) == 2, way


@pytest.mark.parametrize("name", ["LoggingTensorHook", "StopAtStepHook"])
def test_autospec_mock_of_a_class(same_as_stock, name):
    def program(run):
        op = model()
        hook = make(run, name)
        cls = type(hook)
        with mock.patch.object(cls, "before_run", autospec=True, side_effect=spy(run, cls.before_run, "before")):
            with session(run, [hook]) as sess:
                loop(run, sess, op, steps=3)

    assert [note[0][1] for note in same_as_stock(program).notes].count("'before'") == 3


@every_peer
def test_overrides_in_a_subclass(same_as_stock, name):
    def program(run):
        base = getattr(run.api, name)

        class Sub(base):
            def before_run(self, run_context):
                run.note("before", run_context.original_args.fetches, run_context.stop_requested)
                return super().before_run(run_context)

            def after_run(self, run_context, run_values):
                run.note("after", run_values.results if name != "ProfilerHook" else None, type(run_values.options))
                return super().after_run(run_context, run_values)

        op = model()
        hook = make(run, name, Sub)
        with session(run, [hook]) as sess:
            loop(run, sess, op)
            run.note(state(hook, name))

    seen = same_as_stock(program)
    assert seen.error is None
    assert sum(note[0][1] == "'before'" for note in seen.notes) >= 7


@every_timer
@pytest.mark.parametrize("method", ["should_trigger_for_step", "update_last_triggered_step"])
def test_overridden_timer_methods(same_as_stock, name, method):
    def program(run):
        op = model()
        hook = make(run, name)
        with session(run, [hook]) as sess:
            for target in (type(hook._timer), hook._timer, STOCK.SecondOrStepTimer):
                loop(run, sess, op, steps=2)
                with mock.patch.object(target, method, spy(run, getattr(target, method), method)):
                    loop(run, sess, op, steps=4)

    notes = [note[0][1] for note in same_as_stock(program).notes]
    assert notes.count(f"'{method}'") >= (12 if method == "should_trigger_for_step" else 3)


@every_timer
def test_subclassed_timer(same_as_stock, name):
    def program(run):
        class Timer(run.api.SecondOrStepTimer):
            def should_trigger_for_step(self, step):
                run.note("asked", step)
                return super().should_trigger_for_step(step)

        op = model()
        hook = make(run, name)
        hook._timer = Timer(every_steps=2)
        with session(run, [hook]) as sess:
            loop(run, sess, op)

    same_as_stock(program)


@every_peer
def test_class_swapped_while_the_session_runs(same_as_stock, name):
    def program(run):
        class Sub(getattr(run.api, name)):
            def after_run(self, run_context, run_values):
                run.note("after")
                return super().after_run(run_context, run_values)

        class Plain(getattr(run.api, name)):
            pass

        op = model()
        hook = make(run, name, Plain)
        with session(run, [hook]) as sess:
            loop(run, sess, op, steps=6, at={3: lambda: setattr(hook, "__class__", Sub)})

    notes = [note[0][1] for note in same_as_stock(program).notes]
    assert notes.count("'after'") >= 3


# By hand


RESULTS = ({"global_step": 4}, {"global_step": 4}, np.int64(4), 0, None, {}, {"other": 1}, {"global_step": 6, "x": 1},
           {"global_step": 7}, np.int64(8), np.float32(1), np.float32(np.nan), "x", 10**30, True, [3], np.int32(11))


@every_peer
def test_called_by_hand_from_another_thread(same_as_stock, name):
    def program(run):
        model()
        hook = make(run, name)
        hook.begin()
        raw = mock.Mock(run=lambda fetches: (run.note("run", fetches), np.int64(5))[1])

        def call():
            for results in RESULTS:
                run.note("results", results)
                context = v1.train.SessionRunContext(v1.train.SessionRunArgs("loss:0"), raw)
                try:
                    request = hook.before_run(context)
                    run.note("request", request and request.fetches, request and request.options is not None)
                    hook.after_run(context, v1.train.SessionRunValues(results, None, None))
                except Exception as error:
                    run.note(error)
                run.note("stop", context.stop_requested, state(hook, name))
                run.clock.tick()

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    same_as_stock(program)


# Clocks


def timed_hooks(run, secs):
    """All hooks whose timer counts in seconds, or in steps."""
    when = {"save_secs": 1e6} if secs else {"save_steps": 10**6}
    return [
        run.api.StepCounterHook(every_n_steps=None if secs else 10**6, every_n_secs=1e6 if secs else None),
        run.api.LoggingTensorHook(["loss:0"], **({"every_n_secs": 1e6} if secs else {"every_n_iter": 10**6})),
        run.api.SummarySaverHook(summary_op="cost:0", output_dir=run.dir, **when),
        run.api.CheckpointSaverHook(run.dir, **(when if secs else {"save_steps": 10**7})),
        run.api.ProfilerHook(output_dir=run.dir, **when),
        run.api.StopAtStepHook(last_step=10**6),
        run.api.NanTensorHook("loss:0"),
    ]


def clock_reads(run, hooks):
    """Clock readings of three quiet steps, and how many of them came before the run."""
    op = model()
    reads = []

    class Watcher(v1.train.SessionRunHook):
        def before_run(self, run_context):
            reads.append(run.clock.reads)

    watcher = Watcher()
    with session(run, [*hooks(run), watcher]) as sess:
        loop(run, sess, op, steps=3)
        counts = []
        for _ in range(3):
            reads.append(run.clock.reads)
            loop(run, sess, op, steps=1)
            start, before = reads[-2:]
            counts.append((before - start, run.clock.reads - before))
        sess._hooks.remove(watcher)
        loop(run, sess, op, steps=2)
        start = run.clock.reads
        loop(run, sess, op, steps=1)
        return counts, run.clock.reads - start


@pytest.mark.parametrize("hooks", ["ours", "theirs"])
def test_clock_is_read_at_most_once_before_and_once_after_a_quiet_run(tmp_path, hooks):
    api = MIXES[f"our_session-{'our' if hooks == 'ours' else 'tf'}_hooks"]

    def program(run):
        return clock_reads(run, lambda run: timed_hooks(run, secs=True))

    seen = record(program, api, tmp_path / "run")
    assert seen.error is None
    assert seen.result == describe(([(1, 1)] * 3, 2))


@pytest.mark.parametrize("hooks", ["ours", "theirs"])
def test_clock_is_not_read_without_a_timer_in_seconds(tmp_path, hooks):
    api = MIXES[f"our_session-{'our' if hooks == 'ours' else 'tf'}_hooks"]

    def program(run):
        return clock_reads(run, lambda run: timed_hooks(run, secs=False))

    seen = record(program, api, tmp_path / "run")
    assert seen.error is None
    assert seen.result == describe(([(0, 0)] * 3, 0))
