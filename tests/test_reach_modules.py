"""Programs in the manner of the frameworks that people run: patched modules and classes, debuggers, other raw sessions."""

import contextlib
import functools
from unittest import mock

import pytest
import tensorflow as tf
from helpers import (
    MIXES,
    STOCK_MIX,
    assert_equal_records,
    build_model,
    checkpoints,
    quick_creator,
    record,
    usual_hooks,
    v1,
    without_lines,
)
from tensorflow.python.debug.wrappers import dumping_wrapper, local_cli_wrapper
from tensorflow.python.debug.wrappers import hooks as debug_hooks
from tensorflow.python.training import monitored_session, training
from test_dispatch import Args, Probe, steps
from test_reach_sessions import till_the_end

import fasthooks
from fasthooks.step import declining

HookedSession = monitored_session._HookedSession
RECOVERED = "^fasthooks: the session was recovered"


# What counts as a preemption


@pytest.mark.parametrize("when", ["before_the_session", "after_a_step", "in_begin"])
@pytest.mark.parametrize("preempts", ["fewer", "more", "none"])
def test_overwritten_preemption_errors(same_as_stock, when, preempts):
    """monolith overwrites the module's tuple of errors that are recovered from."""
    tuples = {"fewer": (tf.errors.AbortedError,), "none": (),
              "more": (tf.errors.AbortedError, tf.errors.UnavailableError, tf.errors.InvalidArgumentError)}

    def program(run):
        update, loss = build_model()
        x = v1.placeholder_with_default(1.0, [], name="x")
        check = tf.debugging.check_numerics(x, "not finite", name="check")
        errors = [None, None, "op", "unavailable", "aborted", None]

        def overwrite():
            monitored_session._PREEMPTION_ERRORS = tuples[preempts]

        class Fails(v1.train.SessionRunHook):
            def begin(self):
                if when == "in_begin":
                    overwrite()

            def before_run(self, run_context):
                self.kind = errors.pop(0) if errors else None
                return Args(check, {x: float("nan") if self.kind == "op" else 2.0})

            def after_run(self, run_context, run_values):
                if self.kind == "unavailable":
                    raise tf.errors.UnavailableError(None, None, "away")
                if self.kind == "aborted":
                    raise tf.errors.AbortedError(None, None, "lost")

        with mock.patch.object(monitored_session, "_PREEMPTION_ERRORS", monitored_session._PREEMPTION_ERRORS):
            if when == "before_the_session":
                overwrite()
            hooks = [*usual_hooks(run, loss, 20), Probe(run), Fails()]
            with run.api.MonitoredSession(quick_creator(run), hooks) as session:
                steps(run, session, [update, loss], 1)
                overwrite()
                steps(run, session, [update, loss], 7)

    seen = same_as_stock(program, ignore=RECOVERED)
    assert str(seen.notes).count("'created'") == 1 + {"fewer": 1, "more": 3, "none": 0}[preempts]


# Classes and modules changed by a framework

PATCHED = {
    "recoverable_init": (monitored_session._RecoverableSession, "__init__"),
    "recoverable_run": (monitored_session._RecoverableSession, "run"),
    "coordinated_run": (monitored_session._CoordinatedSession, "run"),
    "monitored_run": (monitored_session._MonitoredSession, "run"),
    "monitored_init": (monitored_session._MonitoredSession, "__init__"),
    "monitored_stop": (monitored_session._MonitoredSession, "should_stop"),
    "hooked_init": (HookedSession, "__init__"),
    "hooked_run": (HookedSession, "run"),
    "hooked_requests": (HookedSession, "_call_hook_before_run"),
    "hooked_stop": (HookedSession, "_check_stop"),
    "wrapped_run": (monitored_session._WrappedSession, "run"),
    "raw_run": (v1.Session, "run"),
}


@pytest.mark.parametrize("place", PATCHED)
@pytest.mark.parametrize("when", ["before_the_session", "while_it_runs"])
def test_method_of_a_session_class_replaced(same_as_stock, place, when):
    """dlrover and others replace methods of TensorFlow's session classes; what they see does not depend on us."""
    owner, name = PATCHED[place]

    def program(run):
        update, loss = build_model()
        hooks = [*usual_hooks(run, loss, 20), Probe(run, ask=Args(loss))]
        creator = quick_creator(run)
        original = getattr(owner, name)

        def replacement(self, *args, **kwargs):
            run.note("replaced", name)
            return original(self, *args, **kwargs)

        replaced = mock.patch.object(owner, name, replacement)
        with contextlib.ExitStack() as stack:
            if when == "before_the_session":
                stack.enter_context(replaced)
            session = stack.enter_context(run.api.MonitoredSession(creator, hooks))
            till_the_end(run, session, [update, loss], 2)
            if when == "while_it_runs":
                with replaced:
                    till_the_end(run, session, [update, loss], 3)
            till_the_end(run, session, [update, loss], 2)

    seen = same_as_stock(program, declines=(declining.CHAIN_PATCHED, declining.SESSION_PATCHED, declining.FOREIGN_HOOKED))
    assert ("'replaced'" in str(seen.notes)) == (when == "before_the_session" or "init" not in place)


@pytest.mark.parametrize("order", ["f+ p+ f- p-", "f+ p+ p- f-", "p+ f+ f- p-", "p+ f+ p- f-"])
def test_framework_that_wraps_the_step_too(tmp_path, order):
    """A framework that wraps the hooked step before or after `patch()` sees the same steps, whoever leaves first."""

    def program(run):
        update, loss = build_model()
        saved = []

        def wrap():
            saved.append(HookedSession.run)

            def wrapper(self, *args, **kwargs):
                run.note("wrapper", len(args), sorted(kwargs))
                return saved[0](self, *args, **kwargs)

            HookedSession.run = wrapper

        events = {"f+": wrap, "f-": lambda: setattr(HookedSession, "run", saved[0]), "p+": fasthooks.patch,
                  "p-": fasthooks.unpatch}
        if run.dir.endswith("stock"):
            events.update({"p+": tuple, "p-": tuple})
        with run.api.MonitoredSession(quick_creator(run), usual_hooks(run, loss, 30)) as session:
            for event in order.split():
                events[event]()
                steps(run, session, [update, loss], 4)

    with mock.patch.object(HookedSession, "run", HookedSession.run):
        stock = record(program, MIXES[STOCK_MIX], tmp_path / "stock")
        ours = record(program, MIXES[STOCK_MIX], tmp_path / "ours")
        fasthooks.adopt(False)
        assert not fasthooks.patched()
        fasthooks.adopt()
    assert_equal_records(without_lines(ours, "^fasthooks.patch: another package"), stock)
    assert str(stock.notes).count("'wrapper'") == 4 * (order.split().index("f-") - order.split().index("f+"))


FACTORY_MODULES = (monitored_session, training, v1.train)


def derive(base, run):
    """Returns the class that HybridBackend's factory derives from a session's class."""

    class Derived(base):
        """What the framework adds to a session."""

        def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
            run.note("derived")
            return super().run(fetches, feed_dict, options, run_metadata)

        def make_callable(self, fetches):
            """Reaches down to the raw session."""
            return self._sess._sess._sess._sess.make_callable(fetches)

    return Derived


@pytest.mark.parametrize("how", ["subclass", "own_init"])
def test_rebound_factory_that_subclasses_at_the_call(same_as_stock, how):
    """HybridBackend rebinds the factory in three modules; its own derives a class from MonitoredSession at each call."""

    def program(run):
        update, loss = build_model()
        factory = v1.train.MonitoredTrainingSession
        original = monitored_session.MonitoredSession
        saved = []

        class Listener(v1.train.CheckpointSaverListener):
            def after_save(self, session, global_step_value):
                saved.append(global_step_value)

        def rebound(*args, hooks=(), **kwargs):
            for hook in hooks:
                if isinstance(hook, v1.train.CheckpointSaverHook):
                    hook._listeners += [Listener()]

            def init(self, *args, **kwargs):
                if how == "own_init":
                    monitored_session._MonitoredSession.__init__(self, *args, should_recover=True, **kwargs)
                else:
                    # TensorFlow's constructor looks for its class under this name.
                    with mock.patch.object(monitored_session, "MonitoredSession", original):
                        super(cls, self).__init__(*args, **kwargs)

            cls = derive(run.api.MonitoredSession, run)
            cls.__init__ = init
            with mock.patch.object(monitored_session, "MonitoredSession", cls):
                return factory(*args, hooks=hooks, **kwargs)

        with contextlib.ExitStack() as stack:
            for module in FACTORY_MODULES:
                stack.enter_context(mock.patch.object(module, "MonitoredTrainingSession", rebound))
            hooks = [run.api.StopAtStepHook(last_step=9), run.api.NanTensorHook(loss),
                     run.api.CheckpointSaverHook(run.dir, save_steps=3), Probe(run, ask=Args([loss]))]
            # TensorFlow's lazy `v1.train` may have kept the one it gave out before.
            with training.MonitoredTrainingSession(
                    hooks=hooks, checkpoint_dir=run.dir, save_checkpoint_secs=None, save_summaries_steps=3,
                    log_step_count_steps=3) as session:
                run.note(isinstance(session, v1.train.MonitoredSession), session._sess._sess._sess._sess)
                steps(run, session, [update, loss], 2)
                run.note(session.make_callable(loss)())
                till_the_end(run, session, [update, loss])
            run.note(saved)

    assert checkpoints(same_as_stock(program)) == [0, 3, 6, 9]


class Rebound:
    """A factory that is an object."""

    def __init__(self, original):
        self.original = original

    def __call__(self, *args, **kwargs):
        return self.original(*args, **kwargs)


def rebound_function(original):
    """Returns a factory that is a function."""

    @functools.wraps(original)
    def factory(*args, **kwargs):
        return original(*args, **kwargs)

    return factory


def rebound_with_keyword(original):
    """Returns a factory with an argument of its own, as DeepRec's has."""

    def factory(*args, save_incremental_checkpoint_secs=None, **kwargs):
        assert save_incremental_checkpoint_secs is None
        return original(*args, **kwargs)

    return factory


@pytest.mark.parametrize("rebind", [rebound_function, rebound_with_keyword, Rebound, None])
@pytest.mark.parametrize("swaps_class", [False, True])
def test_factory_rebound_elsewhere(same_as_stock, rebind, swaps_class):
    """Where a framework rebound TensorFlow's factory, the program's own makes the program's sessions all the same."""

    def program(run):
        update, loss = build_model()
        with contextlib.ExitStack() as stack:
            original = monitored_session.MonitoredTrainingSession
            for module in FACTORY_MODULES if rebind is not None else ():
                stack.enter_context(mock.patch.object(module, "MonitoredTrainingSession", rebind(original)))
            with run.api.MonitoredTrainingSession(
                    hooks=[run.api.StopAtStepHook(last_step=5), run.api.NanTensorHook(loss)], checkpoint_dir=run.dir,
                    save_checkpoint_steps=3, log_step_count_steps=2) as session:
                run.note(isinstance(session, run.api.MonitoredSession))
                if swaps_class:
                    steps(run, session, [update, loss], 1)
                    session.__class__ = derive(type(session), run)
                till_the_end(run, session, [update, loss])

    assert checkpoints(same_as_stock(program)) == [0, 3, 5]


# Wrapped raw sessions


class Wrapped(monitored_session._WrappedSession):
    """Counts the runs of the session that it wraps."""

    seen = ()

    def run(self, fetches, **kwargs):
        self.seen = (*self.seen, (sorted(kwargs), kwargs.get("options") is None))
        return super().run(fetches, **kwargs)


class Subclassed(v1.Session):
    """Counts its runs."""

    seen = ()

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        self.seen = (*self.seen, (type(fetches).__name__, options is None))
        return super().run(fetches, feed_dict, options, run_metadata)


RAW_SESSIONS = {
    "wrapped": lambda run, raw: Wrapped(raw),
    "wrapped_twice": lambda run, raw: Wrapped(Wrapped(raw)),
    "subclass": lambda run, raw: Subclassed(),
    "dumping": lambda run, raw: dumping_wrapper.DumpingDebugWrapperSession(raw, f"{run.dir}/dump"),
}


@pytest.mark.parametrize("kind", RAW_SESSIONS)
@pytest.mark.parametrize("holder", ["monitored", "hooked"])
def test_raw_session_that_is_wrapped(same_as_stock, kind, holder):
    """Sessions that stand in for the raw one see each run as TensorFlow makes it, beside runs of the bare one."""

    def program(run):
        update, loss = build_model()
        hooks = [*usual_hooks(run, loss, 6), Probe(run, ask=Args({"a": loss}))]
        init = v1.global_variables_initializer()

        class Creator(v1.train.SessionCreator):
            def create_session(self):
                bare = v1.Session()
                made = RAW_SESSIONS[kind](run, bare)
                made.run(init)
                return made

        if holder == "monitored":
            with run.api.MonitoredSession(Creator(), hooks) as session:
                made = session._tf_sess()
                till_the_end(run, session, [update, loss])
        else:
            for hook in hooks:
                hook.begin()
            made = Creator().create_session()
            session, bare = HookedSession(made, hooks), HookedSession(getattr(made, "_sess", made), [run.api.NanTensorHook(loss)])
            for hook in hooks:
                hook.after_create_session(made, tf.train.Coordinator())
            for _ in range(3):
                steps(run, session, [update, loss], 1)
                steps(run, bare, [update, loss], 1)
            run.note(session.should_stop(), bare.should_stop())
            made.close()
        run.note(getattr(made, "seen", None), getattr(made, "run_call_count", None))
        if kind == "dumping":
            run.note(len(tf.io.gfile.listdir(f"{run.dir}/dump")))
            tf.io.gfile.rmtree(f"{run.dir}/dump")

    same_as_stock(program, declines=(declining.SESSION_KIND,))


def test_debugger_around_a_monitored_session(same_as_stock):
    """tfdbg's wrapper outside: it hands options and metadata to the monitored session's `run`."""

    def program(run):
        update, loss = build_model()
        hooks = [*usual_hooks(run, loss, 5), Probe(run, ask=Args(loss))]
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            debugger = dumping_wrapper.DumpingDebugWrapperSession(session, f"{run.dir}/dump")
            while not debugger.should_stop():
                steps(run, debugger, [update, loss], 1)
                if not session.should_stop():
                    steps(run, session, [update, loss], 1)
            run.note(debugger.run_call_count, len(tf.io.gfile.listdir(f"{run.dir}/dump")))
        tf.io.gfile.rmtree(f"{run.dir}/dump")

    same_as_stock(program, declines=(declining.DEBUGGER,))


def test_dumping_debug_hook(same_as_stock):
    """tfdbg's hook that writes what it watches, for some steps of a training."""

    def program(run):
        update, loss = build_model()
        hooks = usual_hooks(run, loss, 20)
        debugger = debug_hooks.DumpingDebugHook(f"{run.dir}/dump", log_usage=False)
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            steps(run, session, [update, loss], 3)
            hooks.append(debugger)
            steps(run, session, [update, loss], 2)
            hooks.remove(debugger)
            steps(run, session, [update, loss], 3)
        dumps = sorted(tf.io.gfile.listdir(f"{run.dir}/dump"))
        run.note(len(dumps), [any("loss" in name for _, _, names in tf.io.gfile.walk(f"{run.dir}/dump/{dump}") for name in names)
                              for dump in dumps])
        tf.io.gfile.rmtree(f"{run.dir}/dump")

    same_as_stock(program)


def test_command_line_debug_hook(same_as_stock, monkeypatch, tmp_path):
    """tfdbg's command line, typed for: a watched run, its tensor looked at, a plain run, two at once, a profiled one."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def program(run):
        update, loss = build_model()
        typed = iter(["run", "pt loss:0", "run -n", "run -t 2", "run", "run -p", "run"] + ["run -n"] * 20)
        shown = []

        def launch(wrapper):
            shown.append(wrapper._title.split(":")[0])
            command, *arguments = next(typed).split()
            while command != "run":
                output = wrapper._run_cli._command_handler_registry.dispatch_command(command, arguments)
                shown.append([line for line in output.lines if "array" in line or "float" in line])
                command, *arguments = next(typed).split()
            try:
                return wrapper._run_handler(arguments)
            except local_cli_wrapper.debugger_cli_common.CommandLineExit as end:
                return end.exit_token

        hooks = [*usual_hooks(run, loss, 20), debug_hooks.LocalCLIDebugHook(ui_type="readline"), Probe(run, ask=Args(loss))]
        with mock.patch.object(local_cli_wrapper.LocalCLIDebugWrapperSession, "_launch_cli", launch):
            with run.api.MonitoredSession(quick_creator(run), hooks) as session:
                steps(run, session, [update, loss], 9)
        run.note(shown)

    seen = same_as_stock(program, declines=(declining.DEBUGGER,))
    assert "run-end" in str(seen.notes) and "array" in str(seen.notes)
