"""Programs in the manner of the frameworks that people run: sessions taken apart and built by hand."""

import collections
import contextlib
import copy
import functools
import gc
import threading
import weakref

import pytest
import tensorflow as tf
from helpers import MIXES, STOCK_MIX, build_model, checkpoints, quick_creator, usual_hooks, v1
from tensorflow.python.training import monitored_session
from test_dispatch import Args, Probe, hooked, steps

import fasthooks
from fasthooks.step import declining

HookedSession = monitored_session._HookedSession
Fetches = collections.namedtuple("Fetches", ["update", "loss"])


@contextlib.contextmanager
def raw_session(hooks=()):
    """A plain session of the default graph with initialized variables; tells `hooks` of it, and of its end."""
    for hook in hooks:
        hook.begin()
    init = v1.global_variables_initializer()
    v1.get_default_graph().finalize()
    with v1.Session() as session:
        session.run(init)
        for hook in hooks:
            hook.after_create_session(session, tf.train.Coordinator())
        yield session
        for hook in hooks:
            hook.end(session)


def till_the_end(run, session, fetches, limit=20, **kwargs):
    """Runs until the session is to stop, `limit` steps at most."""
    for _ in range(limit):
        if session.should_stop():
            run.note("stops")
            break
        steps(run, session, fetches, 1, **kwargs)


# The hooked session taken out of the chain


@pytest.mark.parametrize("structure", ["tensor", "list", "dict"])
def test_step_by_hand_on_the_hooked_session(same_as_stock, structure):
    """HybridBackend's Keras glue: does by hand what the hooked session does, and writes its flags."""

    def program(run):
        update, loss = build_model()
        x = v1.placeholder_with_default(1.0, [], name="x")
        with tf.control_dependencies([update]):
            updated = tf.identity(loss)
        fetches = {"tensor": updated, "list": [update, loss], "dict": {"loss": loss, "update": update}}[structure]

        class Stops(v1.train.SessionRunHook):
            number = 0

            def before_run(self, run_context):
                self.number += 1
                return Args([x], {x: float(self.number)})

            def after_run(self, run_context, run_values):
                run.note(run_values.results, run_context.stop_requested, run_context.original_args)
                if self.number % 2:
                    run_context.request_stop()
                if self.number == 3:
                    run_context._stop_requested = False
                if self.number == 4:
                    run_context._stop_requested = True

        def step_by_hand(link):
            context = v1.train.SessionRunContext(Args(fetches, None), link._sess)
            context._stop_requested = False
            options, metadata, wanted = v1.RunOptions(), v1.RunMetadata(), {"caller": fetches}
            feeds = link._call_hook_before_run(context, wanted, None, options)
            results = link._sess.run(wanted, feed_dict=feeds, options=options, run_metadata=metadata)
            for hook in link._hooks:
                hook.after_run(context, v1.train.SessionRunValues(results.get(hook), options, metadata))
            link._should_stop = link._should_stop or context.stop_requested
            run.note("by hand", results["caller"], link._should_stop, link.should_stop())

        hooks = [*usual_hooks(run, loss, 14), Stops(), run.api.CheckpointSaverHook(run.dir, save_steps=3)]
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            link = session._sess._sess._sess
            run.note(isinstance(link, HookedSession), link._hooks is session._hooks, link._sess is session._tf_sess())
            for number in range(12):
                if number % 3 == 1:
                    run.note(link.run(fetches), link._should_stop)
                elif number % 3:
                    step_by_hand(link)
                else:
                    steps(run, session, [update, loss], 1)
                run.note(session.should_stop(), session._sess._check_stop(), link._should_stop)
                if link._should_stop:
                    steps(run, session, loss, 1)
                    link._should_stop = False
            link._should_stop = True
            run.note(session.should_stop())

    same_as_stock(program)


@pytest.mark.parametrize("value", [True, 1, [], None, 0])
def test_stop_flag_written_by_hand(same_as_stock, value):
    """Anything may stand in the hooked session's flag; `run` and `should_stop` ask for its truth."""

    def program(run):
        update, loss = build_model()
        with run.api.MonitoredSession(quick_creator(run), usual_hooks(run, loss)) as session:
            steps(run, session, [update, loss], 2)
            hooked(session)._should_stop = value
            run.note(session.should_stop())
            steps(run, session, [update, loss], 2)
            run.note(hooked(session)._should_stop)
            hooked(session)._should_stop = False
            steps(run, session, [update, loss], 9)
            run.note(hooked(session)._should_stop)

    same_as_stock(program)


# Hooked sessions made by the program


@pytest.mark.parametrize("filled", ["before", "in_the_step"])
def test_hooked_session_made_by_hand_stages_in_every_step(same_as_stock, filled):
    """tensorpack's: a hooked session on a plain one; a staging area is filled and emptied in each step."""

    def program(run):
        update, loss = build_model()
        stage = tf.raw_ops.Stage(values=[loss * 10.0], shared_name="area")
        taken = tf.raw_ops.Unstage(dtypes=[tf.float32], shared_name="area")[0]
        hooks = [*usual_hooks(run, loss, 12), run.api.CheckpointSaverHook(run.dir, save_steps=3, saver=v1.train.Saver()),
                 Probe(run, ask=Args(taken))]
        with raw_session(hooks) as raw:
            session = HookedSession(raw, hooks)
            if filled == "before":
                raw.run(stage)
            till_the_end(run, session, [update, stage])
            run.note(session._should_stop, raw.run("loss:0"))

    assert checkpoints(same_as_stock(program)) == [0, 3, 6, 9, 12]


def test_several_hooked_sessions_on_one_raw_session(same_as_stock):
    """A GAN: each train op has a hooked session with hooks of its own; one hook is in both, inference in a third."""

    def program(run):
        update, loss = build_model()
        with v1.variable_scope("other", use_resource=True):
            other = v1.get_variable("v", initializer=5.0)
        read = tf.add(other, 0.0, name="other_loss")
        with tf.control_dependencies([read]):
            second = tf.group(other.assign_sub(1.0))
        shared = Probe(run, "shared", Args(loss))
        first_hooks = [*usual_hooks(run, loss, 8), shared]
        second_hooks = [run.api.LoggingTensorHook({"other": read}, every_n_iter=2), run.api.NanTensorHook(read), shared]
        every_hook = list(dict.fromkeys([*first_hooks, *second_hooks]))
        with raw_session(every_hook) as raw:
            first, generator = HookedSession(raw, first_hooks), HookedSession(raw, second_hooks)
            infer = HookedSession(raw, [Probe(run, "infer", Args(read))])

            def infers(context, values):
                if values.results == 4.0:
                    run.note("inferred", infer.run(fetches=[]), infer.run([loss, {"read": read}]))

            shared.then = infers
            till_the_end(run, generator, [second, read], 3)
            while not first.should_stop():
                steps(run, first, [update, loss], 1)
                steps(run, generator, second, 2)
            run.note(first.should_stop(), generator.should_stop())
            steps(run, first, update, 1)
            steps(run, generator, second, 1)

    same_as_stock(program)


@pytest.mark.parametrize("outer", ["hooked", "monitored"])
def test_hooked_session_on_a_hooked_session(same_as_stock, outer):
    """Hooks below hooks: what the outer ones ask for are the inner ones' caller's fetches."""

    def program(run):
        update, loss = build_model()
        inner_hooks = [run.api.NanTensorHook(loss), Probe(run, "inner", Args([loss]))]
        outer_hooks = [*usual_hooks(run, loss, 6), Probe(run, "outer", Args({"a": loss}))]
        if outer == "hooked":
            with raw_session([*inner_hooks, *outer_hooks]) as raw:
                till_the_end(run, HookedSession(HookedSession(raw, inner_hooks), outer_hooks), [update, loss])
            return
        creator = quick_creator(run)
        create = creator.create_session
        creator.create_session = lambda: HookedSession(create(), inner_hooks)
        with run.api.MonitoredSession(creator, outer_hooks) as session:
            run.note(session._tf_sess())
            till_the_end(run, session, [update, loss])

    same_as_stock(program, declines=(declining.SESSION_KIND,))


class Counts(HookedSession):
    """Counts its calls and passes them on, each at its own place."""

    def __init__(self, sess, hooks, *overridden):
        super().__init__(sess, hooks)
        self.calls = []
        for name in overridden:
            setattr(self, name, functools.partial(self.counted, name, getattr(self, name)))

    def counted(self, name, method, *args, **kwargs):
        """Notes the call and makes it."""
        self.calls.append((name, len(args), sorted(kwargs)))
        return method(*args, **kwargs)


class OwnRun(Counts):
    """Overrides the step."""

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        self.calls.append("run")
        return super().run(fetches, feed_dict, options, run_metadata)


class OwnRequests(Counts):
    """Overrides the call of `before_run`: leaves out the last hook, adds a feed."""

    def _call_hook_before_run(self, run_context, fetch_dict, user_feed_dict, options):
        self.calls.append(len(fetch_dict))
        all_hooks, self._hooks = self._hooks, self._hooks[:-1]
        feeds = super()._call_hook_before_run(run_context, fetch_dict, user_feed_dict, options)
        self._hooks = all_hooks
        return {**(feeds or {}), "x:0": 7.0}


class OwnStop(Counts):
    """Overrides the stop check: goes on for ever."""

    def _check_stop(self):
        self.calls.append("stop?")
        return False


class OwnOptions(Counts):
    """Overrides the merge of options."""

    def _merge_run_options(self, options, incoming_options):
        self.calls.append("merge")
        super()._merge_run_options(options, incoming_options)
        options.timeout_in_ms += 1


SUBCLASSES = {
    "plain": Counts, "run": OwnRun, "requests": OwnRequests, "stop": OwnStop, "options": OwnOptions,
    "set_run": lambda sess, hooks: Counts(sess, hooks, "run"),
    "set_requests": lambda sess, hooks: Counts(sess, hooks, "_call_hook_before_run"),
    "set_stop": lambda sess, hooks: Counts(sess, hooks, "_check_stop", "should_stop"),
}


@pytest.mark.parametrize("kind", SUBCLASSES)
@pytest.mark.parametrize("where", ["alone", "in_the_chain"])
def test_subclass_of_the_hooked_session(same_as_stock, kind, where):
    """A subclass, or methods set on the object, see every step that TensorFlow shows them."""

    def program(run):
        update, loss = build_model()
        x = v1.placeholder_with_default(1.0, [], name="x")
        hooks = [*usual_hooks(run, loss, 6), Probe(run, "a", Args(x, None, v1.RunOptions(timeout_in_ms=10_000_000))),
                 Probe(run, "b", Args([loss]))]
        if where == "alone":
            with raw_session(hooks) as raw:
                link = SUBCLASSES[kind](raw, hooks)
                till_the_end(run, link, [update, loss, x], 8)
        else:
            with run.api.MonitoredSession(quick_creator(run), hooks) as session:
                steps(run, session, [update, loss, x], 1)
                link = SUBCLASSES[kind](session._tf_sess(), session._hooks)
                session._sess._sess._sess = link
                till_the_end(run, session, [update, loss, x], 8)
        run.note(link.calls, link._should_stop)

    same_as_stock(program, declines=(declining.FOREIGN_HOOKED,))


@pytest.mark.parametrize("kind", [OwnRun, OwnRequests, OwnStop, OwnOptions])
def test_class_of_a_hooked_session_swapped(same_as_stock, kind):
    """Another class on a hooked session that has run, and TensorFlow's again."""

    def program(run):
        update, loss = build_model()
        x = v1.placeholder_with_default(1.0, [], name="x")
        hooks = [*usual_hooks(run, loss, 20), Probe(run, "a", Args(x, None, v1.RunOptions(timeout_in_ms=10_000_000)))]
        with raw_session(hooks) as raw:
            link = HookedSession(raw, hooks)
            link.calls = []
            for cls in (HookedSession, kind, HookedSession):
                link.__class__ = cls
                steps(run, link, [update, loss, x], 4)
                run.note(link.calls)

    same_as_stock(program, declines=(declining.FOREIGN_HOOKED,))


def test_copy_of_a_hooked_session(same_as_stock):
    """A shallow copy goes its own way: other hooks, its own stop."""

    def program(run):
        update, loss = build_model()
        hooks = usual_hooks(run, loss, 8)
        other_hooks = [run.api.NanTensorHook(loss), Probe(run, ask=Args(loss))]
        with raw_session([*hooks, *other_hooks]) as raw:
            first = HookedSession(raw, hooks)
            steps(run, first, [update, loss])
            second = copy.copy(first)
            second._hooks = other_hooks
            for _ in range(3):
                steps(run, first, [update, loss], 1)
                steps(run, second, {"loss": loss, "update": update}, 1)
            run.note(first.should_stop(), second.should_stop())
            steps(run, second, update, 1)

    same_as_stock(program)


@pytest.mark.parametrize("holds", ["hooked", "coordinated", "recoverable", "context"])
def test_raw_session_is_freed_though_a_link_is_held(same_as_stock, holds):
    """Who keeps a link of a closed chain does not keep the raw session, and with it the variables."""

    def program(run):
        update, loss = build_model()
        hooks = usual_hooks(run, loss, 20)
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            steps(run, session, [update, loss], 5)
            held = {"hooked": hooked(session), "coordinated": session._sess._sess, "recoverable": session._sess,
                    "context": session}[holds]
            raw = weakref.ref(session._tf_sess())
        gc.collect()
        run.note(held, raw() is None)

    assert "True" in str(same_as_stock(program).notes[-1])


@pytest.mark.parametrize("count", [2, 4])
def test_threads_with_hooked_sessions_of_their_own(same_as_stock, count):
    """A3C's workers: threads that share a raw session, each with hooks and variables of its own."""

    def program(run):
        workers = []
        for index in range(count):
            own = v1.get_variable(f"own_{index}", initializer=float(index), use_resource=True)
            read = tf.add(own, 0.0)
            with tf.control_dependencies([read]):
                workers.append((read, tf.group(own.assign_add(1.0))))
        noted = [[] for _ in workers]

        class Notes(v1.train.SessionRunHook):
            def __init__(self, index):
                self.index = index

            def before_run(self, run_context):
                return Args({"own": workers[self.index][0]})

            def after_run(self, run_context, run_values):
                noted[self.index].append(run_values.results["own"])
                if len(noted[self.index]) >= 40:
                    run_context.request_stop()

        def work(index, session):
            while not session.should_stop():
                noted[index].append(session.run([*workers[index]])[0])

        with raw_session() as raw:
            lists = [[Notes(index), run.api.NanTensorHook(read)] for index, (read, _) in enumerate(workers)]
            sessions = [HookedSession(raw, hooks) for hooks in lists]
            threads = [threading.Thread(target=work, args=one) for one in enumerate(sessions)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for index, values in enumerate(noted):
            run.note(index, values)

    same_as_stock(program)


@pytest.mark.parametrize("holder", ["hooked", "monitored"])
def test_accelerated_raw_session_under_hooks(same_as_stock, holder):
    """`accelerate` on the raw session of hooked ones, between steps; hooks and the loop run it too."""

    def program(run):
        update, loss = build_model()

        class Reads(v1.train.SessionRunHook):
            def after_run(self, run_context, run_values):
                run.note(run_context.session.run([loss, {"a": loss}]))

        hooks = [*usual_hooks(run, loss, 8), run.api.CheckpointSaverHook(run.dir, save_steps=3, saver=v1.train.Saver()), Reads()]
        with contextlib.ExitStack() as stack:
            if holder == "hooked":
                raw = stack.enter_context(raw_session(hooks))
                session = HookedSession(raw, hooks)
            else:
                session = stack.enter_context(run.api.MonitoredSession(quick_creator(run), hooks))
                raw = session._tf_sess()
            for number in range(7):
                if number == 3 and run.api is not MIXES[STOCK_MIX]:
                    fasthooks.accelerate(raw)
                steps(run, session, [update, loss], 1)
                run.note(raw.run(loss), isinstance(raw, v1.Session))

    assert checkpoints(same_as_stock(program)) == [0, 3, 6, 7]


# Sessions that end or run from within


@pytest.mark.parametrize("what", ["raw", "session", "coordinator", "coordinator_error"])
@pytest.mark.parametrize("callback", ["before_run", "after_run"])
def test_hook_that_ends_the_session(same_as_stock, what, callback):
    """A hook closes the raw session or the monitored one, or stops the coordinator, in its third step."""

    def program(run):
        update, loss = build_model()

        class Ends(v1.train.SessionRunHook):
            number = 0

            def after_create_session(self, session, coord):
                self.session, self.coord = session, coord

            def before_run(self, run_context):
                self.number += 1
                if callback == "before_run":
                    self.act()

            def after_run(self, run_context, run_values):
                if callback == "after_run":
                    self.act()

            def act(self):
                if self.number != 3:
                    return
                if what == "raw":
                    self.session.close()
                elif what == "session":
                    session.close()
                elif what == "coordinator":
                    self.coord.request_stop()
                else:
                    self.coord.request_stop(ValueError("from the hook"))

        hooks = [run.api.NanTensorHook(loss), Ends(), *usual_hooks(run, loss, 20), Probe(run, ask=Args(loss))]
        session = run.api.MonitoredSession(quick_creator(run), hooks)
        steps(run, session, [update, loss], 5)
        run.note(session.should_stop(), session._sess)
        session.close()

    same_as_stock(program, declines=(declining.SESSION_REPLACED,))


@pytest.mark.parametrize("runs", ["raw", "monitored", "hooked"])
def test_kernel_that_runs_the_session(same_as_stock, runs):
    """A `py_func` that runs the session it runs in, with hooks and without."""

    def program(run):
        update, loss = build_model()
        opened = []
        depth = []

        def kernel(value):
            if depth or not opened:
                return value
            depth.append(None)
            session = {"raw": session_of_hooks, "monitored": opened[0], "hooked": hooked(opened[0])}[runs]
            try:
                return session.run(constant) + value
            finally:
                depth.pop()

        constant = tf.constant(10.0)
        inner = v1.py_func(kernel, [loss], tf.float32)
        inner.set_shape([])
        hooks = [*usual_hooks(run, loss, 14), Probe(run, ask=Args([inner]))]
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            session_of_hooks = session._tf_sess()
            opened.append(session)
            with tf.control_dependencies([]):
                till_the_end(run, session, [update, inner], 6)

    same_as_stock(program)


@pytest.mark.parametrize("reads", ["raw_session", "step_function"])
def test_loop_that_goes_to_the_raw_session(same_as_stock, reads):
    """graph-learn's and DeepMind's loops: evaluate or stage on the raw session between and within hooked steps."""

    def program(run):
        update, loss = build_model()
        stage = tf.raw_ops.Stage(values=[loss], shared_name="area")
        taken = tf.raw_ops.Unstage(dtypes=[tf.float32], shared_name="area")[0]
        hooks = [*usual_hooks(run, loss, 6), run.api.CheckpointSaverHook(run.dir, save_steps=4)]
        with run.api.SingularMonitoredSession(hooks=hooks) as session:
            session.run_step_fn(lambda step_context: step_context.session.run(stage))
            while not session.should_stop():
                if reads == "raw_session":
                    run.note(session._tf_sess().run(loss), session.raw_session().run({"loss": [loss]}))
                    steps(run, session, Fetches((update, stage), taken), 1)
                else:
                    def step(step_context):
                        run.note(step_context.session.run(loss))
                        return step_context.run_with_hooks(Fetches((update, stage), taken))

                    run.note(session.run_step_fn(step))
                    run.clock.tick()

    assert checkpoints(same_as_stock(program)) == [0, 4, 6]
