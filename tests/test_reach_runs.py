"""Programs in the manner of the frameworks that people run: hooks that look into runs, wrap hooks, bring a graph."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers import build_model, checkpoints, quick_creator, train, usual_hooks, v1
from test_dispatch import Args, Probe, hooked, steps

from fasthooks.step import declining

Context = v1.train.SessionRunContext


# Hooks that look at the run


@pytest.mark.parametrize("fed", [False, True])
def test_hook_that_reads_the_arguments_and_fetches_what_it_likes(same_as_stock, fed):
    """sagemaker-debugger's hook: looks at `original_args`, asks for other tensors, in other structures, on each step."""

    def program(run):
        update, loss = build_model()
        x = v1.placeholder_with_default(tf.constant([1.0, 2.0]), [2], name="x")
        double = tf.multiply(x, 2.0, name="double")
        wanted = [None, [loss], {"x": x, "w": "loss:0"}, (double, [loss, loss]), [], double, "loss:0", [update]]

        class Saves(v1.train.SessionRunHook):
            number = 0

            def before_run(self, run_context):
                arguments = run_context.original_args
                run.note(arguments.fetches, arguments.feed_dict, arguments.options, run_context.session)
                self.tensors = wanted[self.number % len(wanted)]
                self.number += 1
                return None if self.tensors is None else Args(self.tensors)

            def after_run(self, run_context, run_values):
                run.note(run_values.results, run_context.original_args.feed_dict, run_values.options is None,
                         run_values.run_metadata is None)

        with run.api.MonitoredSession(quick_creator(run), [Saves(), *usual_hooks(run, loss, 30), Saves()]) as session:
            for number in range(2 * len(wanted)):
                feeds = {x: np.float32([number, 1])} if fed and number % 3 else None
                run.note(session.run([update, double] if number % 2 else {"d": double, "u": update}, feeds))
                run.clock.tick()

    same_as_stock(program)


def test_hook_that_keeps_what_it_was_given(same_as_stock):
    """Contexts, values and results that a hook holds on to stay what they were."""

    def program(run):
        update, loss = build_model()
        grows = v1.get_variable("grows", initializer=[0.0, 0.0], use_resource=False)
        with tf.control_dependencies([update]):
            update = tf.group(grows.assign_add([1.0, 2.0]))
        kept = []
        hook = Probe(run, ask=Args([loss, grows]), then=lambda *given: kept.append(given))
        train(run, [*usual_hooks(run, loss, 6), hook], [update, loss])
        for context, values in kept:
            run.note(values, context.original_args, context.stop_requested, context.session.graph is loss.graph)
        run.note(len({id(context) for context, _ in kept}), len({id(values.results[1]) for _, values in kept}))

    same_as_stock(program)


@pytest.mark.parametrize("shape", ["runner", "decorator", "group"])
def test_hook_that_wraps_other_hooks(same_as_stock, shape):
    """adanet's runners: hooks inside a hook, with a context made anew; a stop in there is passed on or swallowed."""

    def program(run):
        update, loss = build_model()

        class Runner(v1.train.SessionRunHook):
            def __init__(self, hook):
                self.hook = hook
                self.stopped = False

            def begin(self):
                self.hook.begin()

            def after_create_session(self, session, coord):
                self.hook.after_create_session(session, coord)

            def before_run(self, run_context):
                if self.stopped:
                    return None
                context = Context(run_context.original_args, run_context.session)
                return self.hook.before_run(context)

            def after_run(self, run_context, run_values):
                if self.stopped:
                    return
                context = Context(run_context.original_args, run_context.session)
                self.hook.after_run(context, run_values)
                if context.stop_requested:
                    run.note(self.hook, "stops", run_values.results)
                    self.stopped = True

            def end(self, session):
                self.hook.end(session)

        class Decorator(Runner):
            def before_run(self, run_context):
                return self.hook.before_run(run_context)

            def after_run(self, run_context, run_values):
                self.hook.after_run(run_context, run_values)

        class Group(Runner):
            def before_run(self, run_context):
                requests = [one.before_run(run_context) for one in self.hook]
                self.asked = [request is not None for request in requests]
                return Args([request.fetches for request in requests if request is not None])

            def after_run(self, run_context, run_values):
                results = iter(run_values.results)
                for one, asked in zip(self.hook, self.asked, strict=True):
                    one.after_run(run_context, run_values._replace(results=next(results) if asked else None))

            def begin(self):
                for one in self.hook:
                    one.begin()

            def after_create_session(self, session, coord):
                for one in self.hook:
                    one.after_create_session(session, coord)

            def end(self, session):
                for one in self.hook:
                    one.end(session)

        inner = [*usual_hooks(run, loss, 6), run.api.CheckpointSaverHook(run.dir, save_steps=3)]
        if shape == "group":
            hooks = [Group(inner), run.api.NanTensorHook(loss)]
        else:
            hooks = [{"runner": Runner, "decorator": Decorator}[shape](hook) for hook in inner]
        train(run, hooks, [update, loss], 8)

    seen = same_as_stock(program, declines=(None,))
    assert checkpoints(seen) == ([0, 3, 6, 8] if shape == "runner" else [0, 3, 6])


@pytest.mark.parametrize("options", ["new", "kept"])
@pytest.mark.parametrize("blocks", [False, True])
def test_hook_with_a_timeout_on_each_step(same_as_stock, options, blocks):
    """tensorpack's and NVIDIA's hooks: RunOptions on each step; where the step blocks, the timeout ends it."""

    def program(run):
        update, loss = build_model()
        queue = tf.queue.FIFOQueue(2, tf.float32, [[]])
        fill, take = queue.enqueue(loss), queue.dequeue()
        kept = v1.RunOptions(timeout_in_ms=10_000_000)

        class Timeout(v1.train.SessionRunHook):
            def before_run(self, run_context):
                return Args(None, None, kept if options == "kept" else v1.RunOptions(timeout_in_ms=kept.timeout_in_ms))

            def after_run(self, run_context, run_values):
                run.note(run_values.options.timeout_in_ms, run_values.results)

        class ReportsMemory(v1.train.SessionRunHook):
            def before_run(self, run_context):
                return Args(fetches=[], options=v1.RunOptions(report_tensor_allocations_upon_oom=True))

        with run.api.MonitoredSession(quick_creator(run), [*usual_hooks(run, loss), Timeout(), ReportsMemory()]) as session:
            steps(run, session, [update, fill, loss], 2)
            steps(run, session, take, 2)
            if blocks:
                kept.timeout_in_ms = 300
                steps(run, session, take, 1)
                kept.timeout_in_ms = 10_000_000
            steps(run, session, update, 1)
            run.note(session.should_stop(), kept.timeout_in_ms, kept.report_tensor_allocations_upon_oom)

    seen = same_as_stock(program)
    assert ("DeadlineExceededError" in str(seen.notes)) == blocks


# Hooks with a graph of their own


@pytest.mark.parametrize("recovers", [False, True])
def test_broadcast_hook(same_as_stock, recovers):
    """Horovod's hook: adds ops in `begin`, runs them on each new session."""

    def program(run):
        update, loss = build_model()

        class Broadcast(v1.train.SessionRunHook):
            op = None

            def begin(self):
                if self.op is None or self.op.graph is not v1.get_default_graph():
                    self.op = tf.group(*[
                        v1.assign(variable, tf.cast(7 + index, variable.dtype.base_dtype), name=f"broadcast_{index}")
                        for index, variable in enumerate(v1.global_variables())])

            def after_create_session(self, session, coord):
                session.run(self.op)
                run.note("broadcast", session.run([v1.train.get_global_step(), "loss:0"]))

        def lost(context, values):
            if values.results == 9.0 and recovers:
                values_of_loss.append(values.results)
                if len(values_of_loss) == 1:
                    raise tf.errors.UnavailableError(None, None, "lost")

        values_of_loss = []
        hooks = [Broadcast(), *usual_hooks(run, loss, 14), Probe(run, ask=Args(loss), then=lost),
                 run.api.CheckpointSaverHook(run.dir, save_steps=3)]
        train(run, hooks, [update, loss], 12)

    seen = same_as_stock(program, ignore="^fasthooks: the session was recovered")
    assert str(seen.notes).count("'broadcast'") == 1 + recovers


def test_sync_hook_that_runs_in_after_run_and_end(same_as_stock):
    """recommenders-addons' hook: a collective, here an op, run from `after_run` now and then and from `end`."""

    def program(run):
        update, loss = build_model()
        stopped = v1.get_variable("stopped", initializer=0, use_resource=True)

        class Sync(v1.train.SessionRunHook):
            def begin(self):
                self.flag = v1.placeholder(tf.int32, [], name="flag")
                self.joined = stopped.assign_add(self.flag)

            def after_run(self, run_context, run_values):
                if run_context.session.run(self.joined, {self.flag: int(run_context.stop_requested)}):
                    run.note("all stop", run_values.results)
                    run_context.request_stop()

            def end(self, session):
                run.note(session.run(self.joined, {self.flag: 5}))

        train(run, [*usual_hooks(run, loss, 5), Sync(), run.api.CheckpointSaverHook(run.dir, save_steps=3)], update)

    assert checkpoints(same_as_stock(program)) == [0, 3, 5]


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("periodic", [2, 100])
def test_variable_changed_in_end(same_as_stock, position, periodic):
    """What a hook's `end` writes is in the last checkpoint or not, by the order of hooks, and as TensorFlow has it."""

    def program(run):
        update, loss = build_model()
        final = v1.get_variable("final", initializer=0.0, use_resource=True)
        write = final.assign(final + 42.0)

        class Writes(v1.train.SessionRunHook):
            def end(self, session):
                run.note("end", session.run(write))

        hooks = [*usual_hooks(run, loss, 6), run.api.CheckpointSaverHook(run.dir, save_steps=periodic),
                 run.api.FinalOpsHook({"final": final, "w": "loss:0"})]
        hooks.insert(0 if position == "first" else len(hooks), Writes())
        train(run, hooks, [update, loss])
        run.note(hooks[-1 if position == "first" else -2].final_ops_values)

    seen = same_as_stock(program)
    last = dict(seen.files[f"model.ckpt-{checkpoints(seen)[-1]}.index"])["final"]
    assert ("42.0" in str(last)) == (position == "first" and periodic == 100)


@pytest.mark.parametrize("prefilled", [False, True])
def test_staging_hook(same_as_stock, prefilled):
    """NVIDIA's hook that fills staging areas on a new session; every step then stages and unstages."""

    def program(run):
        update, loss = build_model()
        area = tf.raw_ops.Stage, tf.raw_ops.Unstage
        stage = area[0](values=[loss * 10.0], shared_name="area")
        taken = area[1](dtypes=[tf.float32], shared_name="area")[0]

        class Prefill(v1.train.SessionRunHook):
            def after_create_session(self, session, coord):
                if prefilled:
                    session.run([stage, stage])
                    session.run(stage)

        hooks = [Prefill(), *usual_hooks(run, loss, 8), Probe(run, ask=Args(taken))]
        train(run, hooks, [update, stage], 8)

    seen = same_as_stock(program)
    assert "70.0" not in str(seen.notes) if prefilled else "70.0" in str(seen.notes)


@pytest.mark.parametrize("finalized", [False, True])
def test_graph_that_grows_in_mid_training(same_as_stock, finalized):
    """A hook that adds ops in `after_run`, to a graph that it makes changeable first, and fetches them from then on."""

    def program(run):
        update, loss = build_model()

        class Grows(v1.train.SessionRunHook):
            tensors = ()

            def before_run(self, run_context):
                return Args(list(self.tensors))

            def after_run(self, run_context, run_values):
                run.note(run_values.results)
                graph = run_context.session.graph
                if finalized:
                    graph._unsafe_unfinalize()
                with graph.as_default():
                    self.tensors = (*self.tensors, loss * len(run_values.results))
                if finalized:
                    graph.finalize()

        scaffold = quick_creator(run)._scaffold
        if not finalized:
            scaffold.finalize = functools.partial(unfinalized, scaffold.finalize)
        with run.api.MonitoredSession(run.api.ChiefSessionCreator(scaffold), [*usual_hooks(run, loss), Grows()]) as session:
            run.note(session.graph.finalized)
            steps(run, session, [update, loss], 6)

    same_as_stock(program)


def unfinalized(finalize):
    """Finalizes a scaffold, and leaves its graph changeable."""
    scaffold = finalize()
    v1.get_default_graph()._unsafe_unfinalize()
    return scaffold


@pytest.mark.parametrize("use_resource", [False, True])
@pytest.mark.parametrize("callback", ["before_run", "after_run"])
def test_hook_that_loads_a_variable(same_as_stock, use_resource, callback):
    """tensorpack's setters of hyper-parameters: `Variable.load`, which feeds a tensor that is no placeholder."""

    def program(run):
        update, loss = build_model(use_resource=use_resource)
        rate = v1.get_variable("rate", initializer=1.0, use_resource=use_resource)
        used = tf.add(rate, loss, name="used")

        class Sets(v1.train.SessionRunHook):
            number = 0

            def before_run(self, run_context):
                if callback == "before_run":
                    self.set_rate(run_context)
                return Args(used)

            def after_run(self, run_context, run_values):
                run.note(run_values.results)
                if callback == "after_run":
                    self.set_rate(run_context)

            def set_rate(self, run_context):
                self.number += 1
                if self.number % 3 == 0:
                    rate.load(100.0 * self.number, run_context.session)

        train(run, [*usual_hooks(run, loss), Sets()], [update, used])

    same_as_stock(program)


# The list of hooks

CHANGES = {
    "append": lambda session, hooks, new: session._hooks.append(new),
    "insert": lambda session, hooks, new: hooks.insert(0, new),
    "remove": lambda session, hooks, new: hooks.remove(hooks[1]),
    "clear": lambda session, hooks, new: hooks.clear(),
    "reverse": lambda session, hooks, new: hooks.reverse(),
    "twice": lambda session, hooks, new: hooks.append(hooks[2]),
    "replace": lambda session, hooks, new: hooks.__setitem__(3, new),
    "new_list": lambda session, hooks, new: setattr(hooked(session), "_hooks", [new, *hooks]),
    "tuple": lambda session, hooks, new: setattr(hooked(session), "_hooks", (*hooks, new)),
    "hundreds": lambda session, hooks, new: hooks.extend([hooks[0]] * 100),
    "many_stops": lambda session, hooks, new: hooks.extend([new] * 3 + [hooks[0]] * 3),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["between_steps", "before_run", "after_run", "in_a_kernel"])
def test_hooks_list_changed_in_mid_training(same_as_stock, change, where):
    """The list is live: a change counts from where TensorFlow's loop next looks at it, dlrover's hundreds included."""

    def program(run):
        update, loss = build_model()
        new = Probe(run, "new", Args([loss]))
        calls = []

        def change_now():
            calls.append(None)
            if len(calls) == 3:
                CHANGES[change](session, hooks, new)

        class Changes(v1.train.SessionRunHook):
            def before_run(self, run_context):
                if where == "before_run":
                    change_now()

            def after_run(self, run_context, run_values):
                if where == "after_run":
                    change_now()

        def kernel():
            if where == "in_a_kernel":
                change_now()
            return 1.0

        in_kernel = v1.py_func(kernel, [], tf.double)
        hooks = [*usual_hooks(run, loss, 14), Changes(), Probe(run, "last", Args(loss))]
        with run.api.MonitoredSession(quick_creator(run), hooks) as session:
            for _ in range(6):
                if where == "between_steps":
                    change_now()
                steps(run, session, [update, in_kernel, loss], 1)
            run.note(session.should_stop())

    same_as_stock(program, declines=(declining.REPEATED_HOOK,))
