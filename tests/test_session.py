"""Monitored sessions: making, ending and recovering them, their chain of links, and programs that reach into it."""

import collections
import functools
import gc
import inspect
import sys
import threading
import types
import weakref
from unittest import mock

import pytest
import tensorflow as tf
from helpers import build_model, compare, messages, v1
from tensorflow.python.client import session as raw_session_lib
from tensorflow.python.debug.wrappers import dumping_wrapper
from tensorflow.python.debug.wrappers import hooks as debug_hooks
from tensorflow.python.distribute import distribute_coordinator_context
from tensorflow.python.training import monitored_session as stock
from tensorflow.python.training import training_util
from test_dispatch import Args, Probe, hooked, steps

import fasthooks
from fasthooks.step import _chain, declining

KINDS = ["MonitoredSession", "SingularMonitoredSession", "MonitoredTrainingSession"]
OUR_LINE = "^fasthooks: the session was recovered"
# Makers of errors: a raised error holds on to the frames that it passed through.
ABORTED = functools.partial(tf.errors.AbortedError, None, None, "lost")
UNAVAILABLE = functools.partial(tf.errors.UnavailableError, None, None, "away")
OUT_OF_RANGE = functools.partial(tf.errors.OutOfRangeError, None, None, "data")
OWN = functools.partial(ValueError, "mine")


@pytest.fixture
def same(tmp_path):
    """`compare` in the test's directory; the one log line that only we write is left out."""
    return functools.partial(compare, directory=tmp_path, ignore=OUR_LINE)


def links(session):
    """Returns the links of a session's chain, outermost first, the raw session last."""
    found = [session]
    while isinstance(found[-1], (stock._MonitoredSession, stock._WrappedSession)):
        found.append(found[-1]._sess)
    return found[1:]


class Fails(v1.train.SessionRunHook):
    """Raises what the next of `errors` makes in one callback, until there are none left; None raises nothing."""

    def __init__(self, callback, *errors):
        self.errors = list(errors)
        original = getattr(self, callback)

        def fails(*args):
            original(*args)
            error = self.errors.pop(0) if self.errors else None
            if error is not None:
                raise error()

        setattr(self, callback, fails)


# Making sessions


@pytest.mark.parametrize("kind", KINDS)
def test_signature(kind):
    """TensorFlow's arguments and defaults, and keywords of ours."""
    ours, theirs = [[(one.name, one.kind, one.default) for one in inspect.signature(getattr(lib, kind)).parameters.values()]
                    for lib in (fasthooks, v1.train)]
    more = {"scheduling": "auto", **({"async_checkpoint": False} if kind == "MonitoredTrainingSession" else {}),
            "colocate_global_step_read": False}
    assert ours == [*theirs, *[(name, inspect.Parameter.KEYWORD_ONLY, value) for name, value in more.items()]]


@pytest.mark.parametrize("kind", KINDS)
def test_chain(same, kind):
    """Types of the links, and what can be asked of them while open and after the end."""

    def program(run):
        train, loss = build_model()
        hooks = [Probe(run)]
        with getattr(run.api, kind)(hooks=hooks) as session:
            raw = session._tf_sess()
            for link in links(session):
                run.note(link, [base.__name__ for base in (
                    stock._RecoverableSession, stock._CoordinatedSession, stock._HookedSession, stock._WrappedSession,
                    v1.Session) if isinstance(link, base)], link.graph is v1.get_default_graph(), link.sess_str)
            run.note(isinstance(session, stock.MonitoredSession), isinstance(session, stock._MonitoredSession),
                     links(session)[-1] is raw, session._coordinated_creator.tf_sess is raw, raw.graph is session.graph,
                     session._coordinated_creator.coord is links(session)[-3]._coord,
                     session._hooks is hooks, hooked(session)._hooks is session._hooks, session._is_closed(),
                     isinstance(session._coordinated_creator, stock._MonitoredSession._CoordinatedSessionCreator))
            run.note([(link._should_stop if hasattr(link, "_should_stop") else None, link._check_stop(),
                       link.should_stop(), link._wrapped_is_stoppable) for link in links(session)[:-1]])
            steps(run, session, [train, loss])
        run.note(session.graph, session._sess, session._tf_sess(), session.should_stop(), session._is_closed(),
                 session._coordinated_creator.coord, raw._closed)

    same(program)


def test_raw_session():
    """Both kinds give it, and it is gone after the end."""
    for make in (fasthooks.MonitoredSession, fasthooks.SingularMonitoredSession):
        with tf.Graph().as_default():
            build_model()
            with make() as session:
                assert type(session.raw_session()) is v1.Session
                assert session.raw_session() is session._tf_sess()
            assert session.raw_session() is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduling", ["", "Auto", None, 1, "pools"])
def test_scheduling_is_checked(kind, scheduling):
    """A wrong word is an error that names it, before any hook is told to begin."""
    hook = mock.Mock(spec=v1.train.SessionRunHook)
    with tf.Graph().as_default():
        build_model()
        with pytest.raises(ValueError, match="scheduling .*" + repr(scheduling)):
            getattr(fasthooks, kind)(hooks=[hook], scheduling=scheduling)
    assert hook.method_calls == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kwargs", [
    {"hooks": [3]}, {"hooks": [None]}, {"hooks": 3}, {"hooks": "ab"}, {"stop_grace_period_secs": None}, {"nothing": 1},
    {"session_creator": 3}, {"session_creator": object()}, {"scaffold": 3}, {"scaffold": v1.train.Scaffold},
    {"checkpoint_dir": "/dev/null/no"}, {"master": "grpc//no"}, {"save_summaries_secs": 1.5},
    {"save_checkpoint_secs": "x"}, {"config": v1.ConfigProto()}],
    ids=lambda kwargs: "-".join(f"{name}_{type(value).__name__}" for name, value in kwargs.items()))
def test_arguments(same, kind, kwargs):
    """Good and bad arguments lead to what they lead to in TensorFlow."""

    def program(run):
        train, loss = build_model()
        with getattr(run.api, kind)(**kwargs) as session:
            steps(run, session, [train, loss])

    same(program)


def test_positional_arguments(same):
    """The order of arguments is TensorFlow's."""

    def program(run):
        train, loss = build_model()
        scaffold = v1.train.Scaffold(init_fn=lambda scaffold, session: run.note("init_fn", session))
        creator = v1.train.ChiefSessionCreator(scaffold, "", v1.ConfigProto(), None)
        with run.api.MonitoredSession(creator, [Probe(run)], 5) as session:
            steps(run, session, [train, loss], 1)
        with run.api.SingularMonitoredSession([Probe(run)], scaffold, "", v1.ConfigProto(), None, 5, None) as session:
            steps(run, session, [train, loss], 1)
        positional = ("", True, run.dir, scaffold, [Probe(run)], None, None, None, None)
        with run.api.MonitoredTrainingSession(*positional) as session:
            run.note(session._hooks, session._coordinated_creator._stop_grace_period_secs)
            steps(run, session, [train, loss], 1)

    same(program)


def test_start_from_a_checkpoint(same):
    """A SingularMonitoredSession begins where a directory, or one file of it, says."""

    def program(run):
        train, loss = build_model()
        with run.api.MonitoredTrainingSession(checkpoint_dir=run.dir, save_checkpoint_steps=2) as session:
            steps(run, session, [train, loss], 5)
        for where in ({"checkpoint_dir": run.dir}, {"checkpoint_filename_with_path": f"{run.dir}/model.ckpt-2"}):
            with run.api.SingularMonitoredSession(**where) as session:
                steps(run, session, [train, loss], 1)

    same(program)


class Many(fasthooks.MonitoredSession):
    """A subclass with a constructor and a `run` of its own."""

    def __init__(self, steps_per_call, hooks):
        super().__init__(hooks=hooks)
        self.steps_per_call = steps_per_call

    def run(self, *args, **kwargs):
        return [super(Many, self).run(*args, **kwargs) for _ in range(self.steps_per_call)]


def test_subclass():
    """Sessions can be subclassed as TensorFlow's can."""
    with tf.Graph().as_default():
        train, loss = build_model()
        with Many(3, [fasthooks.StopAtStepHook(last_step=5)]) as session:
            assert session.run([train, loss]) == [[None, 0.0], [None, 1.0], [None, 2.0]]
            with pytest.raises(RuntimeError, match="Run called even after"):
                session.run(train)


# MonitoredTrainingSession

SAVES = {
    "defaults": {},
    "steps": {"save_checkpoint_steps": 3, "save_summaries_steps": 2},
    "secs": {"save_checkpoint_secs": 4, "save_summaries_secs": 3},
    "both": {"save_checkpoint_steps": 3, "save_checkpoint_secs": None, "save_summaries_secs": None,
             "save_summaries_steps": 4},
    "both_given": {"save_checkpoint_steps": 3, "save_checkpoint_secs": 5},
    "none": {"save_checkpoint_steps": None, "save_checkpoint_secs": None, "save_summaries_steps": None,
             "save_summaries_secs": None, "log_step_count_steps": None},
    "zero": {"save_checkpoint_secs": 0, "save_summaries_steps": 0, "log_step_count_steps": 0},
    "negative": {"save_checkpoint_steps": -1, "save_summaries_secs": -2, "log_step_count_steps": -3},
    "log_steps": {"log_step_count_steps": 2},
    "no_graph_def": {"save_checkpoint_steps": 3, "save_graph_def": False},
}


@pytest.mark.parametrize(
    ("saves", "where"),
    [(name, {"checkpoint_dir": "c"}) for name in SAVES]
    + [(name, where) for name in ("defaults", "secs") for where in ({"checkpoint_dir": "c", "summary_dir": "s"},
                                                                    {"summary_dir": "s"})])
def test_training_session_writes_the_same_files(same, saves, where):
    """All save_* combinations: same hooks, same files, also when a second session goes on from the first one's."""

    def program(run):
        train, loss = build_model()
        v1.summary.scalar("loss", loss)
        kwargs = dict(SAVES[saves], **{name: f"{run.dir}/{part}" for name, part in where.items()})
        for last_step in (5, 9):
            kwargs.update(hooks=[Probe(run, "given"), run.api.StopAtStepHook(last_step=last_step)],
                          chief_only_hooks=[Probe(run, "chief")])
            with run.api.MonitoredTrainingSession(**kwargs) as session:
                run.note([type(hook).__name__ for hook in session._hooks],
                         [isinstance(hook, v1.train.SessionRunHook) for hook in session._hooks])
                while not session.should_stop():
                    steps(run, session, [train, loss], 1)

    same(program)


def test_training_session_uses_our_hooks(tmp_path):
    """The default hooks are the compiled ones."""
    with tf.Graph().as_default():
        _, loss = build_model()
        v1.summary.scalar("loss", loss)
        with fasthooks.MonitoredTrainingSession(checkpoint_dir=str(tmp_path)) as session:
            assert [type(hook) for hook in session._hooks] == [
                fasthooks.StepCounterHook, fasthooks.SummarySaverHook, fasthooks.CheckpointSaverHook]
            assert type(session) is fasthooks.MonitoredSession


@pytest.mark.parametrize("ready", [True, False])
def test_training_session_of_a_worker(same, ready):
    """A worker waits for the chief and gets no default hooks."""

    def program(run):
        build_model()
        result = tf.constant(3.0)
        scaffold = v1.train.Scaffold(
            ready_op=tf.constant([] if ready else ["w"], tf.string), ready_for_local_init_op=tf.constant([], tf.string))
        with run.api.MonitoredTrainingSession(
                is_chief=False, checkpoint_dir=run.dir, scaffold=scaffold, hooks=[Probe(run)],
                chief_only_hooks=[Probe(run, "chief")], max_wait_secs=1) as session:
            run.note(session._hooks)
            steps(run, session, result)

    assert (same(program).error is None) == ready


@pytest.mark.parametrize("chief", [True, False], ids=["chief", "worker"])
@pytest.mark.parametrize("strategy", ["CollectiveAllReduceStrategy", "ParameterServerStrategy"])
@pytest.mark.parametrize("saves", [
    {}, {"save_checkpoint_steps": 2, "save_summaries_steps": 2, "log_step_count_steps": 2},
    {"save_checkpoint_secs": 4, "save_summaries_secs": 3, "summary_dir": "s"}], ids=["defaults", "steps", "secs"])
def test_training_session_in_a_worker_context(tmp_path, strategy, saves, chief):
    """Under the distribute coordinator every worker gets the hooks, in the directories, that TensorFlow gives it."""

    def program(run):
        train, loss = build_model()
        v1.summary.scalar("loss", loss)
        context = types.SimpleNamespace(
            _strategy=type(strategy, (), {})(), task_type="worker", task_id=0 if chief else 1, is_chief=chief,
            should_save_summary=chief, should_checkpoint=chief,
            session_creator=lambda scaffold=None, config=None, checkpoint_dir=None, max_wait_secs=None:
                v1.train.ChiefSessionCreator(scaffold, config=config, checkpoint_dir=checkpoint_dir))
        kwargs = {name: f"{run.dir}/{value}" if name == "summary_dir" else value for name, value in saves.items()}
        with mock.patch.object(distribute_coordinator_context, "get_current_worker_context", return_value=context):
            with run.api.MonitoredTrainingSession(
                    checkpoint_dir=f"{run.dir}/c", hooks=[Probe(run)], chief_only_hooks=[Probe(run, "chief")],
                    **kwargs) as session:
                run.note([type(hook).__name__ for hook in session._hooks])
                steps(run, session, [train, loss], 6)

    # This line names addresses and modules.
    compare(program, tmp_path, ignore="^all_hooks")


def test_worker_context_makes_the_session(same):
    """Without a creator the context's is taken."""

    def program(run):
        train, loss = build_model()
        context = types.SimpleNamespace(session_creator=lambda: run.note("asked") or v1.train.ChiefSessionCreator())
        with mock.patch.object(distribute_coordinator_context, "get_current_worker_context", return_value=context):
            with run.api.MonitoredSession() as session:
                steps(run, session, [train, loss])

    same(program)


def test_session_on_a_server(same):
    """A gRPC server as master."""
    server = v1.train.Server.create_local_server()

    def program(run):
        train, loss = build_model()
        x = v1.placeholder(tf.float32, [2], name="x")
        hooks = [Probe(run, ask=Args(loss)), run.api.StopAtStepHook(last_step=6), run.api.NanTensorHook(loss)]
        with run.api.MonitoredTrainingSession(master=server.target, hooks=hooks) as session:
            while not session.should_stop():
                steps(run, session, [train, x * 2], 1, feed_dict={x: [1.0, 2.0]})
            steps(run, session, train, 1)
        v1.Session.reset(server.target)

    same(program)


# The end


@pytest.mark.parametrize("finalized", [False, True])
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("make", [
    lambda: None, OUT_OF_RANGE, StopIteration, OWN, KeyboardInterrupt, type("Mine", (StopIteration,), {}), ABORTED],
    ids=["none", "out_of_range", "stop_iteration", "value", "keyboard", "subclass", "aborted"])
def test_end_of_a_with_block(same, kind, make, finalized):
    """Whose `end` is called, what comes out, and whether the graph is finalized afterwards."""

    def program(run):
        train, loss = build_model()
        error = make()
        if finalized:
            v1.train.Scaffold().finalize()
        try:
            with getattr(run.api, kind)(hooks=[Probe(run), run.api.FinalOpsHook(loss)]) as session:
                steps(run, session, train, 2)
                run.note(v1.get_default_graph().finalized)
                if error is not None:
                    raise error
        except BaseException as raised:
            run.note(raised, raised is error)
        run.note(v1.get_default_graph().finalized, session.should_stop(), session._is_closed())

    same(program)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_after_close(same, kind):
    """Everything that can be asked of a closed session."""

    def program(run):
        train, _ = build_model()
        session = getattr(run.api, kind)(hooks=[Probe(run)])
        steps(run, session, train, 1)
        chain = links(session)
        session.close()
        steps(run, session, train, 1)
        for call in (session.close, session.should_stop, lambda: session.run_step_fn(lambda step_context: None),
                     lambda: session.graph, lambda: session._is_closed(), session.close,
                     *[functools.partial(link.run, train) for link in chain],
                     *[link.should_stop for link in chain[:-1]], *[link.close for link in chain]):
            try:
                run.note(call())
            except Exception as error:
                run.note(error)
        run.note([link._sess for link in chain[:-1]])

    same(program)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_closed_inside_its_with_block(same, kind):
    """A second close raises, and does not hide that the first one worked."""

    def program(run):
        train, _ = build_model()
        with getattr(run.api, kind)(hooks=[Probe(run)]) as session:
            steps(run, session, train, 1)
            session.close()

    assert same(program).error[:2] == ("RuntimeError", "Session is already closed.")


@pytest.mark.parametrize("error", [ABORTED, UNAVAILABLE, OWN], ids=["aborted", "unavailable", "value"])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_error_while_closing(same, kind, error):
    """A raw session that fails to close: logged or swallowed, and closed all the same."""

    def program(run):
        train, _ = build_model()
        session = getattr(run.api, kind)(hooks=[Probe(run)])
        steps(run, session, train, 1)
        with mock.patch.object(session._tf_sess(), "close", side_effect=error()):
            session.close()
        run.note(session._is_closed(), session.should_stop())

    same(program)


# Step functions


class Stepper:
    """Has a method that is a step function."""

    def __init__(self, fetches):
        self.fetches = fetches

    def step(self, step_context):
        return step_context.run_with_hooks(self.fetches)


STEP_FUNCTIONS = {
    "hooks": lambda g: lambda step_context: step_context.run_with_hooks(g.fetches),
    "feeds": lambda g: lambda step_context: step_context.run_with_hooks(fetches=g.loss, feed_dict={g.loss: 4.0}),
    "options": lambda g: lambda step_context: step_context.run_with_hooks(
        g.fetches, options=v1.RunOptions(trace_level=3), run_metadata=v1.RunMetadata()),
    "twice": lambda g: lambda step_context: [step_context.run_with_hooks(g.fetches) for _ in range(2)],
    "raw": lambda g: lambda step_context: step_context.session.run(g.fetches),
    "types": lambda g: lambda step_context: (step_context, step_context.session),
    "method": lambda g: Stepper(g.fetches).step,
    "stop": lambda g: lambda step_context: step_context.request_stop(),
    "error": lambda g: lambda step_context: {}["missing"],
    "wrong_name": lambda g: lambda context: None,
    "no_argument": lambda g: lambda: None,
    "two_arguments": lambda g: lambda step_context, more: None,
    "default": lambda g: lambda step_context, more=1: None,
    "partial": lambda g: functools.partial(lambda step_context, more: None, more=2),
    "no_function": lambda g: 5,
    "none": lambda g: None,
}


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("function", STEP_FUNCTIONS)
def test_run_step_fn(same, function, kind):
    """What a step function may do, and what is none."""

    def program(run):
        train, loss = build_model()
        step_fn = STEP_FUNCTIONS[function](types.SimpleNamespace(fetches=[train, loss], loss=loss))
        with getattr(run.api, kind)(hooks=[Probe(run, ask=Args(loss)), run.api.StopAtStepHook(last_step=4)]) as session:
            for _ in range(5):
                if not session.should_stop():
                    try:
                        run.note(session.run_step_fn(step_fn))
                    except Exception as error:
                        run.note(error)
            run.note(session.should_stop())

    same(program, declines=(None,))


@pytest.mark.parametrize("where", ["inside", "raw"])
def test_recovery_in_a_step_function(same, where):
    """The whole function is repeated, with the new session."""

    def program(run):
        train, loss = build_model()
        failures = [ABORTED, None, UNAVAILABLE]

        def step_fn(step_context):
            run.note(step_context.session)
            error = failures.pop(0) if failures else None
            if where == "inside" and error:
                raise error()
            result = step_context.run_with_hooks([train, loss])
            if error:
                raise error()
            return result

        with run.api.MonitoredSession(hooks=[Probe(run)]) as session:
            for _ in range(3):
                run.note(session.run_step_fn(step_fn))

    same(program)


# Recovery


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("callback", ["begin", "after_create_session", "before_run", "after_run", "end"])
def test_recovery_from_an_error_in_a_hook(same, kind, callback):
    """Which callbacks are repeated, log lines, and the state after it."""

    def program(run):
        train, loss = build_model()
        errors = (ABORTED,) if callback in ("begin", "end") else (None, UNAVAILABLE, ABORTED)
        kwargs = {"checkpoint_dir": run.dir, "save_checkpoint_steps": 2} if kind == KINDS[2] else {}
        hooks = [Probe(run, "a"), Fails(callback, *errors), Fails("before_run", None, None, None, ABORTED),
                 run.api.LoggingTensorHook([loss], every_n_iter=2), Probe(run, "b", Args(loss))]
        with getattr(run.api, kind)(hooks=hooks, **kwargs) as session:
            steps(run, session, [train, loss], 6)
            run.note(session.should_stop())

    same(program)


def test_recovery_is_logged_and_counted(tmp_path):
    """One line for each recovery, with the step that the next run returns; the report begins anew."""

    def program(run):
        train, loss = build_model()
        hook = Fails("before_run", None, None, None, ABORTED, None, None, None, UNAVAILABLE)
        with run.api.MonitoredTrainingSession(checkpoint_dir=run.dir, save_checkpoint_steps=2, hooks=[hook]) as session:
            steps(run, session, [train, loss], 2)
            if run.api.sessions is fasthooks:
                assert session.recoveries == 0
                assert session.report()["steps"] == 2
            steps(run, session, [train, loss], 5)
            if run.api.sessions is fasthooks:
                assert session.recoveries == 2
                assert session.report()["steps"] == 1

    found = [line for line in messages(compare(program, tmp_path, ignore=OUR_LINE)) if line.startswith("fasthooks")]
    assert found == ["fasthooks: the session was recovered (recovery 1); its first step returned global step 2.",
                     "fasthooks: the session was recovered (recovery 2); its first step returned global step 4."]


@pytest.mark.parametrize("callback", ["before_run", "after_run"])
@pytest.mark.parametrize("then", ["look", "raise", "request_stop"])
def test_repeated_step_is_no_part_of_the_error(same, callback, then):
    """The step after a recovery runs outside of the handler of the error that was recovered from."""

    class Hook(v1.train.SessionRunHook):
        created = 0

        def __init__(self, run):
            self.run = run

        def after_create_session(self, session, coord):
            self.created += 1
            self.coord = coord
            self.run.note("created", sys.exc_info()[1])

        def before_run(self, run_context):
            self.act("before_run")

        def after_run(self, run_context, run_values):
            self.act("after_run")

        def act(self, where):
            self.run.note(where, sys.exc_info()[1])
            if where != callback or self.created < 2:
                return
            if then == "raise":
                raise KeyError("new")
            if then == "request_stop":
                self.coord.request_stop(OSError("never raised"))

    def program(run):
        train, loss = build_model()
        hooks = [Hook(run), Fails("after_run", None, ABORTED)]
        with run.api.MonitoredSession(hooks=hooks) as session:
            steps(run, session, [train, loss], 3)

    same(program, ignore=OUR_LINE)


def test_recovery_makes_no_run_of_its_own(same):
    """Runs of the raw session are those that TensorFlow makes."""

    class Session(v1.Session):
        runs = 0

        def run(self, *args, **kwargs):
            Session.runs += 1
            return super().run(*args, **kwargs)

    class Creator(v1.train.SessionCreator):
        def create_session(self):
            session = Session()
            session.run(v1.global_variables_initializer())
            return session

    def program(run):
        Session.runs = 0
        train, loss = build_model()
        v1.global_variables_initializer()
        with run.api.MonitoredSession(Creator(), [Fails("before_run", None, ABORTED)]) as session:
            steps(run, session, [train, loss], 3)
            run.note(Session.runs)

    same(program, declines=(declining.SESSION_KIND,), ignore=OUR_LINE)


def test_recovery_of_a_graph_without_a_global_step(same):
    """The line tells none, and nothing is added to the graph."""

    def program(run):
        tensor = tf.constant(1.0)
        with run.api.MonitoredSession(hooks=[Fails("before_run", ABORTED)]) as session:
            steps(run, session, tensor, 2)
        run.note([op.name for op in v1.get_default_graph().get_operations()])

    assert "fasthooks: the session was recovered (recovery 1)." in messages(same(program))


@pytest.mark.parametrize("initialized", [True, False])
def test_recovery_with_a_creator_of_the_users(same, initialized):
    """A creator that leaves variables uninitialized recovers too."""

    class Creator(v1.train.SessionCreator):
        def __init__(self, run):
            self.run = run

        def create_session(self):
            self.run.note("create")
            session = v1.Session()
            if initialized:
                session.run(v1.global_variables_initializer())
            return session

    def program(run):
        build_model()
        result = tf.constant(1.0)
        with run.api.MonitoredSession(Creator(run), [Fails("before_run", ABORTED, None, UNAVAILABLE)]) as session:
            steps(run, session, result, 3)

    same(program)


@pytest.mark.parametrize("errors", [[ABORTED], [UNAVAILABLE, ABORTED], [OWN]],
                         ids=["once", "twice", "other_error"])
def test_error_while_a_session_is_created(same, errors):
    """Creation is tried again after a preemption, at the start and in a recovery."""

    def program(run):
        train, loss = build_model()
        creator = v1.train.ChiefSessionCreator()
        failures = [*errors, None, *errors]
        create = creator.create_session

        def create_session():
            error = failures.pop(0) if failures else None
            if error is not None:
                raise error()
            return create()

        creator.create_session = create_session
        with run.api.MonitoredSession(creator, [Probe(run), Fails("before_run", None, ABORTED)]) as session:
            steps(run, session, [train, loss])

    same(program)


@pytest.mark.parametrize("place", ["module", "nothing"])
def test_preemption_errors_of_the_program(same, place):
    """A program may say what counts as a preemption; here an error that comes out of a kernel."""

    def program(run):
        train, loss = build_model()
        x = v1.placeholder_with_default(1.0, [])
        check = tf.debugging.check_numerics(x, "not finite", name="check")
        values = iter([1.0, float("nan"), 2.0, float("nan"), 3.0])
        preempts = (tf.errors.InvalidArgumentError,) if place == "module" else ()
        hook = run.api.FeedFnHook(lambda: {x: next(values)})
        with mock.patch.object(stock, "_PREEMPTION_ERRORS", preempts):
            with run.api.MonitoredSession(hooks=[hook, run.api.NanTensorHook(loss)]) as session:
                steps(run, session, [train, check, loss])

    same(program)


def test_the_dead_session_is_gone_after_a_recovery():
    """Neither plans nor hooks keep the raw session of before the recovery."""
    with tf.Graph().as_default():
        train, loss = build_model()
        hook = Fails("before_run")
        with fasthooks.MonitoredSession(hooks=[hook, fasthooks.NanTensorHook(loss)], scheduling="pool") as session:
            for _ in range(3):
                session.run([train, loss])
            dead = weakref.ref(session.raw_session())
            hook.errors = [ABORTED]
            session.run(train)
            gc.collect()
            assert dead() is None
            assert [plan["fetches"] for plan in session.report()["plans"]] == [["loss:0"]]


# Coordinator


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("how", ["should_stop", "run", "close"])
@pytest.mark.parametrize("error", [None, OWN, ABORTED, OUT_OF_RANGE],
                         ids=["request", "value", "aborted", "out_of_range"])
def test_thread_that_stops_the_coordinator(same, kind, how, error):
    """A stop request or an exception of a coordinated thread shows where TensorFlow shows it."""

    def program(run):
        train, loss = build_model()
        bad = tf.debugging.check_numerics(tf.math.log(-1.0 - loss), "not finite", name="bad")

        def work(coord):
            try:
                if error is not None:
                    raise error()
                coord.request_stop()
            except Exception as raised:
                coord.request_stop(raised)

        try:
            with getattr(run.api, kind)(hooks=[Probe(run)], stop_grace_period_secs=1) as session:
                steps(run, session, train, 2)
                coord = session._coordinated_creator.coord
                thread = threading.Thread(target=work, args=(coord,))
                coord.register_thread(thread)
                thread.start()
                thread.join()
                if how == "should_stop":
                    run.note(session.should_stop())
                    run.note(session.should_stop())
                elif how == "run":
                    steps(run, session, train, 1)
                    steps(run, session, bad, 1)
        except Exception as raised:
            run.note(raised)
        run.note(session.should_stop())

    same(program)


def test_queue_runners(same):
    """A queue that runs dry ends the loop; the runners' threads are joined."""

    def program(run):
        train, loss = build_model()
        numbers = v1.get_variable("numbers", initializer=0, collections=[v1.GraphKeys.LOCAL_VARIABLES])
        queue = tf.queue.FIFOQueue(2, [tf.int32], shapes=[[]], name="queue")
        limited = tf.debugging.assert_less(numbers, 4)
        with tf.control_dependencies([limited]):
            enqueue = queue.enqueue(numbers.assign_add(1))
        v1.train.add_queue_runner(v1.train.QueueRunner(
            queue, [enqueue], queue_closed_exception_types=(tf.errors.InvalidArgumentError,)))
        item = queue.dequeue(name="item")
        with run.api.MonitoredSession(hooks=[Probe(run), run.api.NanTensorHook(loss)]) as session:
            coord = session._coordinated_creator.coord
            while not session.should_stop():
                run.note(session.run([train, item])[1])
        run.note(coord.should_stop(), coord.joined)

    same(program)


# Programs that reach into the session


def noting(run, name, function):
    """Returns `function` that also signs in the notebook."""

    def noted(*args, **kwargs):
        run.note(name)
        return function(*args, **kwargs)

    return noted


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("method", [
    (stock._HookedSession, "run"), (stock._RecoverableSession, "run"), (stock._CoordinatedSession, "run"),
    (stock._WrappedSession, "run"), (stock._WrappedSession, "should_stop"), (stock._WrappedSession, "_check_stop"),
    (stock._HookedSession, "_check_stop"), (stock._HookedSession, "_call_hook_before_run"),
    (stock._HookedSession, "_merge_run_options"), (stock._HookedSession, "_raise_if_feeds_intersects"),
    (stock._RecoverableSession, "_check_stop"), (stock._CoordinatedSession, "_check_stop"),
    (v1.Session, "run"), (v1.Session, "_run"), (v1.Session, "_do_run"), (v1.Session, "_call_tf_sessionrun"),
    (raw_session_lib.BaseSession, "run"), (v1.train.Coordinator, "should_stop"),
    (v1.train.Coordinator, "raise_requested_exception")], ids=lambda method: f"{method[0].__name__}.{method[1]}")
def test_patched_class(same, method, kind):
    """A method of TensorFlow's that is patched while the session runs sees every step, as often as in TensorFlow."""

    def program(run):
        train, loss = build_model()
        owner, name = method
        hooks = [run.api.NanTensorHook(loss), Probe(run, ask=Args(loss))]
        with getattr(run.api, kind)(hooks=hooks) as session:
            steps(run, session, train, 2)
            with mock.patch.object(owner, name, noting(run, name, getattr(owner, name))):
                steps(run, session, train, 2)
                run.note(session.should_stop())
            steps(run, session, train, 1)

    same(program, declines=(declining.CHAIN_PATCHED, declining.SESSION_PATCHED))


@pytest.mark.parametrize("answer", [None, True], ids=["same", "stop"])
@pytest.mark.parametrize("name", ["run", "should_stop", "_check_stop", "_call_hook_before_run", "_run", "_do_run"])
def test_patched_link(same, name, answer):
    """The same for a method set on one of the links, or on the raw session."""

    def program(run):
        train, loss = build_model()
        with run.api.MonitoredSession(hooks=[run.api.NanTensorHook(loss)]) as session:
            steps(run, session, train, 2)
            for link in links(session):
                if hasattr(link, name):
                    function = getattr(link, name)
                    if answer and "stop" in name:
                        function = lambda: answer  # noqa: E731
                    with mock.patch.object(link, name, noting(run, type(link).__name__, function)):
                        run.note(session.should_stop())
                        steps(run, session, train, 1)
            run.note(session.should_stop())
            steps(run, session, train, 1)

    same(program, declines=(declining.CHAIN_PATCHED, declining.SESSION_PATCHED))


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", ["should_stop", "raise_requested_exception"])
def test_patched_coordinator(same, name, kind):
    """A coordinator with a method of somebody else's is asked."""

    def program(run):
        train, _ = build_model()
        with getattr(run.api, kind)() as session:
            steps(run, session, train, 1)
            with mock.patch.object(session._coordinated_creator.coord, name, return_value=True) as patched:
                run.note(session.should_stop(), patched.call_count)
            with mock.patch.object(session._coordinated_creator.coord, "_stop_event") as event:
                event.is_set.return_value = True
                run.note(session.should_stop())
            run.note(session.should_stop())

    same(program)


class OwnSession(v1.Session):
    """A subclass that sees every run."""

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        self.seen.append(type(fetches).__name__)
        return super().run(fetches, feed_dict, options, run_metadata)


class Wrapper(raw_session_lib.SessionInterface):
    """Wraps a session as tfdbg's command line does."""

    def __init__(self, session):
        self._sess = session

    graph = property(lambda self: self._sess.graph)
    sess_str = property(lambda self: self._sess.sess_str)
    graph_def = property(lambda self: self._sess.graph_def)

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None, callable_runner=None):
        self.seen.append((type(fetches).__name__, options is None, run_metadata is None))
        return self._sess.run(fetches, feed_dict, options, run_metadata)

    def partial_run_setup(self, fetches, feeds=None):
        """Not for this wrapper."""
        raise NotImplementedError

    def partial_run(self, handle, fetches, feed_dict=None):
        """Not for this wrapper."""
        raise NotImplementedError

    def close(self):
        self._sess.close()


def interactive(run):
    """Returns an InteractiveSession, silently."""
    session = v1.InteractiveSession()
    session.seen = []
    return session


RAW_SESSIONS = {
    "subclass": lambda run: OwnSession(),
    "interactive": interactive,
    "wrapper": lambda run: Wrapper(v1.Session()),
    "debugger": lambda run: dumping_wrapper.DumpingDebugWrapperSession(v1.Session(), f"{run.dir}/dump"),
    "mock": lambda run: mock.Mock(wraps=v1.Session()),
}


@pytest.mark.parametrize("raw", RAW_SESSIONS)
@pytest.mark.filterwarnings("ignore:An interactive session is already active:UserWarning")
def test_raw_session_of_another_kind(same, raw):
    """Subclassed and wrapped sessions see every run as TensorFlow makes it."""

    def program(run):
        train, loss = build_model()
        init = v1.global_variables_initializer()
        seen = []

        class Creator(v1.train.SessionCreator):
            def create_session(self):
                made = RAW_SESSIONS[raw](run)
                made.seen = seen
                made.run(init)
                return made

        hooks = [Probe(run, ask=Args(loss)), run.api.NanTensorHook(loss)]
        with run.api.MonitoredSession(Creator(), hooks) as session:
            steps(run, session, [train, loss])
            if raw == "debugger":
                run.note(session._tf_sess().run_call_count)
        run.note(seen)
        if raw == "debugger":
            tf.io.gfile.rmtree(f"{run.dir}/dump")

    same(program, declines=(declining.SESSION_KIND,))


def test_debug_hook(same):
    """tfdbg's own hook puts its watches into the run options."""

    def program(run):
        train, loss = build_model()
        hook = debug_hooks.DumpingDebugHook(f"{run.dir}/dump", log_usage=False)
        with run.api.MonitoredSession(hooks=[run.api.NanTensorHook(loss), hook]) as session:
            steps(run, session, train, 2)
        run.note(sorted(name.rpartition("_")[2] == str(2) for name in tf.io.gfile.listdir(f"{run.dir}/dump")))
        tf.io.gfile.rmtree(f"{run.dir}/dump")

    same(program)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_replaced_link(same, depth):
    """A link that somebody wraps in a session of his own is called, and so is what is under it."""

    class Own(stock._WrappedSession):
        def __init__(self, inner, run):
            super().__init__(inner)
            self.notes = run

        def run(self, *args, **kwargs):
            self.notes.note("own", len(args), sorted(kwargs))
            return self._sess.run(*args, **kwargs)

    def program(run):
        train, loss = build_model()
        with run.api.MonitoredSession(hooks=[Probe(run, ask=Args(loss)), run.api.NanTensorHook(loss)]) as session:
            steps(run, session, train, 2)
            owner = [session, *links(session)][depth]
            owner._sess = Own(owner._sess, run)
            steps(run, session, [train, loss], 2)
            run.note(session.should_stop())
            owner._sess = owner._sess._sess
            steps(run, session, [train, loss], 2)

    same(program, declines=(declining.SESSION_KIND,))


def test_replaced_raw_session(same):
    """Another raw session, put under the hooks, runs the next steps."""

    def program(run):
        train, loss = build_model()
        with v1.Session() as other:
            other.run(v1.global_variables_initializer())
            with run.api.MonitoredSession(hooks=[Probe(run, ask=Args(loss)), run.api.NanTensorHook(loss)]) as session:
                steps(run, session, [train, loss])
                first, hooked(session)._sess = hooked(session)._sess, other
                steps(run, session, [train, loss])
                hooked(session)._sess = first
                steps(run, session, [train, loss], 1)

    same(program)


def test_replaced_hooks_list(same):
    """Another hooks list is taken at the next step."""

    def program(run):
        train, loss = build_model()
        with run.api.MonitoredSession(hooks=[Probe(run, "a", Args(loss))]) as session:
            steps(run, session, train, 2)
            hooked(session)._hooks = (Probe(run, "b", Args([loss])), run.api.NanTensorHook(loss))
            steps(run, session, train, 2)
            hooked(session)._hooks = []
            steps(run, session, train, 2)

    same(program)


def test_call_hook_before_run_by_hand(same):
    """TensorFlow's private method works on the hooked link and merges what all hooks ask for."""

    def program(run):
        train, loss = build_model()
        x = v1.placeholder_with_default(1.0, [], name="x")
        hooks = [run.api.NanTensorHook(loss), Probe(run, "b", Args([loss], {x: 2.0}, v1.RunOptions(timeout_in_ms=7)))]
        with run.api.MonitoredSession(hooks=hooks) as session:
            context = v1.train.SessionRunContext(Args(train), session._tf_sess())
            fetches, options = {"caller": train}, v1.RunOptions(timeout_in_ms=3)
            run.note(hooked(session)._call_hook_before_run(context, fetches, None, options), options.timeout_in_ms)
            run.note(list(fetches.values()), [key is hook for key, hook in zip(list(fetches)[1:], hooks, strict=True)])
            run.note(hooked(session)._call_hook_before_run(context, fetches, {loss: 1.0}, options))

    same(program, declines=(None,))


@pytest.mark.parametrize("where", ["ours", "theirs"])
def test_patched_hooked_session_of_ours(where):
    """A subclass or patch of our own hooked link is called on every step."""
    calls = []

    def run(self, *args, **kwargs):
        calls.append(len(args))
        return original(self, *args, **kwargs)

    with tf.Graph().as_default():
        train, _ = build_model()
        with fasthooks.MonitoredSession() as session:
            session.run(train)
            link = hooked(session)
            original = type(link).run
            if where == "ours":
                with mock.patch.object(_chain.HookedSession, "run", run):
                    session.run(train)
                assert len(calls) == 1
            else:
                link.__class__ = type("Mine", (_chain.HookedSession,), {"run": run})
                session.run(train)
                session.run(train)
                assert len(calls) == 2


# What is left


@pytest.mark.parametrize("api", [v1.train, fasthooks], ids=["stock", "ours"])
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("hook_api", [v1.train, fasthooks], ids=["stock_hooks", "our_hooks"])
def test_nothing_is_kept(api, kind, hook_api):
    """Session, chain, raw session, hooks and graph are freed after the end."""

    def run_and_end():
        with tf.Graph().as_default() as graph:
            train, loss = build_model()
            x = v1.placeholder_with_default(1.0, [])
            hooks = [hook_api.NanTensorHook(loss), hook_api.LoggingTensorHook([loss], every_n_iter=2),
                     hook_api.StopAtStepHook(last_step=4), Fails("before_run", None, None, ABORTED)]
            with getattr(api, kind)(hooks=hooks) as session:
                found = [session, *links(session), *hooks, graph, session._coordinated_creator]
                try:
                    while not session.should_stop():
                        session.run([train, loss], {x: 2.0})
                except tf.errors.AbortedError:
                    assert kind == "SingularMonitoredSession"
            return [(type(each).__name__, weakref.ref(each)) for each in found]

    references = run_and_end()
    gc.collect()
    assert [name for name, reference in references if reference() is not None] == []


@pytest.mark.parametrize("kind", KINDS[:2])
def test_raw_session_is_freed_at_close(kind):
    """A closed session that is still at hand holds no memory of the raw one."""
    with tf.Graph().as_default():
        train, loss = build_model()
        with getattr(fasthooks, kind)(hooks=[fasthooks.NanTensorHook(loss)]) as session:
            session.run(train)
            raw = weakref.ref(session.raw_session())
        gc.collect()
        assert raw() is None
        assert session.should_stop()


def test_sessions_leave_no_objects_behind():
    """The sixth session leaves as many objects as the third did."""

    def count():
        with tf.Graph().as_default():
            train, loss = build_model()
            with fasthooks.MonitoredSession(hooks=[fasthooks.StopAtStepHook(last_step=3)]) as session:
                while not session.should_stop():
                    session.run([train, loss])
        del train, loss, session
        gc.collect()
        return collections.Counter(type(each).__name__ for each in gc.get_objects()
                                   if str(type(each).__module__).startswith("fasthooks"))

    counts = [count() for _ in range(6)]
    assert counts[5] == counts[2]


def test_no_thread_outlives_the_session():
    """Threads are those from before the session."""
    before = set(threading.enumerate())
    with tf.Graph().as_default():
        train, loss = build_model()
        with fasthooks.MonitoredSession(hooks=[fasthooks.NanTensorHook(loss)]) as session:
            for _ in range(20):
                session.run(train)
    assert set(threading.enumerate()) <= before


def test_reference_counts_of_a_step():
    """A thousand steps leave the counts of fetches, hooks and None-like singletons where they were."""
    with tf.Graph().as_default():
        train, loss = build_model()
        x = v1.placeholder_with_default(1.0, [])
        ask, fetches = Args(loss), [train, loss]
        hook = Fails("before_run")
        hook.before_run = lambda context: ask
        hooks = [hook, fasthooks.NanTensorHook(loss), v1.train.NanTensorHook(loss)]
        with fasthooks.MonitoredSession(hooks=hooks, scheduling="pool") as session:
            watched = [train, loss, x, ask, fetches, session, session._sess, session._tf_sess(), *hooks]

            def run_many(count):
                for _ in range(count):
                    session.run(fetches)
                    session.run(loss, {x: 2.0})
                    session.run_without_hooks(loss)
                return [sys.getrefcount(each) for each in watched]

            assert run_many(20) == run_many(300)


def test_global_step_reads_are_not_added():
    """A session adds no op to the graph that TensorFlow's would not add."""
    names = []
    for api in (v1.train, fasthooks):
        with tf.Graph().as_default() as graph:
            training_util.create_global_step()
            with api.MonitoredSession(hooks=[Fails("before_run", ABORTED)]) as session:
                session.run(training_util.get_global_step())
            names.append([op.name for op in graph.get_operations()])
    assert names[0] == names[1]
