"""`accelerate`: a plain session stays what it is, and its runs behave as before."""

import gc
import threading
import weakref
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from helpers import captured_logs, describe, describe_error
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.debug.wrappers import dumping_wrapper

import fasthooks

v1 = tf.compat.v1
KINDS = {"stock": lambda session: session, "accelerated": fasthooks.accelerate}


@pytest.fixture(autouse=True)
def _graph():
    with tf.Graph().as_default():
        yield


def both(program, make=v1.Session):
    """Runs a program of one argument, a session, on a plain and on an accelerated session; compares, returns the report."""
    seen = {}
    for kind, prepare in KINDS.items():
        with tf.Graph().as_default():
            session = prepare(make())
            try:
                with session.as_default():
                    seen[kind] = describe(program(session))
            except Exception as error:
                seen[kind] = describe_error(error)
            finally:
                report = session.report() if kind == "accelerated" else None
                session.close()
    assert seen["accelerated"] == seen["stock"]
    return report


def test_it_is_the_same_session():
    session = v1.Session()
    attributes = dict(vars(session))
    assert fasthooks.accelerate(session) is session
    assert isinstance(session, v1.Session) and session.graph is tf.compat.v1.get_default_graph()
    assert {name: value for name, value in vars(session).items() if name != "_runs"} == attributes
    accelerated = type(session)
    assert fasthooks.accelerate(session) is session and type(session) is accelerated
    session.close()


def test_runs_take_plans():
    def program(session):
        x = v1.placeholder(tf.float32, [2])
        y, z = x * 2, x + 1
        return [session.run([y, {"x": (y, z)}], {x: [value, 1]}) for value in range(20)]

    report = both(program)
    assert (report["steps"], report["planned_steps"], report["plans_made"]) == (20, 20, 1)


@pytest.mark.parametrize("use_resource", [False, True])
def test_training_with_variables_saver_and_default_session(tmp_path, use_resource):
    def program(session):
        with v1.variable_scope("scope", use_resource=use_resource):
            weights = v1.get_variable("w", initializer=np.arange(6, dtype=np.float32).reshape(2, 3))
        x = v1.placeholder(tf.float32, [None, 2])
        loss = tf.reduce_sum(tf.square(x @ weights))
        op = v1.train.AdamOptimizer(0.1).minimize(loss)
        saver = v1.train.Saver()
        session.run(v1.global_variables_initializer())
        losses = [session.run([op, loss], {x: np.full([4, 2], step, np.float32)})[1] for step in range(10)]
        path = saver.save(session, str(tmp_path / type(session).__name__))
        before = weights.eval()
        op.run({x: np.ones([1, 2], np.float32)})
        after = session.run(weights)
        saver.restore(session, path)
        return losses, before, after, session.run(weights), loss.eval({x: [[1.0, 2.0]]}), session.list_devices()[0].name

    report = both(program)
    assert report["planned_steps"] >= 15


@pytest.mark.parametrize("fetches", [
    lambda x: x, lambda x: [x], lambda x: (x,), lambda x: {"a": x, "b": [x, x]}, lambda x: x.name, lambda x: x.op, lambda x: [],
    lambda x: None, lambda x: [None], lambda x: 3, lambda x: "nothing:0", lambda x: tf.sparse.from_dense(x),
    lambda x: v1.SparseTensorValue([[0]], [1], [1]), lambda x: {"op": x.op, "none": []},
])
def test_fetches_of_all_kinds(fetches):
    def program(session):
        wanted = fetches(tf.constant([1.0, 2.0]))
        return [session.run(wanted) for _ in range(3)]

    both(program)


@pytest.mark.parametrize("value", [
    [1, 2], np.array([1.0, 2.0]), np.array([1, 2], np.int8), np.float32([1, 2]), [1], "ab", None, [[1, 2]],
    np.ones([2, 2], np.float32),
    np.array([1, 2], ">f4"), np.asfortranarray(np.float32([1, 2])), [1 + 2j, 0], range(2), [None, 1],
])
def test_feeds_of_all_kinds(value):
    def program(session):
        x = v1.placeholder(tf.float32, [2], name="x")
        y = x + 1
        others = session.run([x, y], {x: [3, 4]}), session.run(y, {"x:0": [5, 6]})
        return others, [session.run(y, {x: value}) for _ in range(3)]

    both(program)


@pytest.mark.parametrize("feed_dict", [{}, None, {3: 4}, {"nothing:0": 1}, []])
def test_odd_feed_dicts(feed_dict):
    both(lambda session: session.run(tf.constant(1), feed_dict))


def test_errors_are_those_of_tensorflow():
    def program(session):
        x = v1.placeholder(tf.float32, [2], name="x")
        checked = v1.check_numerics(tf.math.log(x), "not a number", name="check")
        caught = []
        for value in ([1, 2], [-1, 0]) * 3:
            try:
                session.run(checked, {x: value})
            except tf.errors.InvalidArgumentError as error:
                caught.append((error.op.name, error.message.splitlines()[0], error.node_def.op))
        return caught

    both(program)


def test_results_are_private_copies():
    def program(session):
        variable = v1.Variable([1.0, 2.0], use_resource=False)
        update = v1.assign_add(variable, [1.0, 1.0])
        session.run(variable.initializer)
        for _ in range(5):
            seen = session.run(variable)
            seen[:] = 100
            session.run(update.op)
        constant = tf.constant([5.0, 6.0])
        for _ in range(5):
            session.run(constant)[:] = 0
        return session.run([variable, constant])

    both(program)


def test_options_and_metadata():
    def program(session):
        metadata = config_pb2.RunMetadata()
        y = tf.constant(1.0) + v1.placeholder_with_default(1.0, [])
        for _ in range(3):
            session.run(y, options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE), run_metadata=metadata)
        return len(metadata.step_stats.dev_stats) > 0

    assert both(program)["planned_steps"] == 3


def test_an_interactive_session():
    def program(session):
        x = v1.placeholder(tf.int32, [])
        return [(x * 3).eval({x: value}) for value in range(4)] + [session.run(tf.constant("text")) for _ in range(3)]

    # It makes itself the default session, of this thread's stack.
    assert both(program, v1.InteractiveSession)["planned_steps"] == 7


def test_a_session_on_a_server():
    server = tf.distribute.Server.create_local_server()

    def program(session):
        x = v1.placeholder(tf.float32, [3])
        return [session.run(x * 2, {x: [value, 1, 2]}) for value in range(3)]

    both(program, lambda: v1.Session(server.target))


def test_partial_runs_and_callables_still_work():
    def program(session):
        a, b = v1.placeholder(tf.float32, []), v1.placeholder(tf.float32, [])
        first, second = a + 1, (a + 1) * b
        handle = session.partial_run_setup([first, second], [a, b])
        call = session.make_callable(second, [a, b])
        return session.partial_run(handle, first, {a: 1}), session.partial_run(handle, second, {b: 2}), call(3, 4)

    both(program)


def test_ops_that_are_added_later():
    def program(session):
        x = tf.constant(1)
        results = []
        for _ in range(5):
            x = x + 1
            results.append(session.run(x))
        return results

    both(program)


def test_a_closed_session():
    def program(session):
        x = tf.constant(1)
        session.run(x)
        session.close()
        session.close()
        return session.run(x)

    both(program)


def test_as_a_context_manager():
    x = tf.constant(2)
    with fasthooks.accelerate(v1.Session()) as session:
        assert v1.get_default_session() is session and x.eval() == 2
    with pytest.raises(RuntimeError, match="closed Session"):
        session.run(x)


def test_a_closed_session_is_freed_at_once():
    session = fasthooks.accelerate(v1.Session())
    session.run(tf.constant(1))
    session.close()
    reference = weakref.ref(session)
    gc.disable()
    try:
        del session
        assert reference() is None
    finally:
        gc.enable()


def test_a_forgotten_session_is_collected():
    session = fasthooks.accelerate(v1.Session())
    session.run(tf.constant(1))
    reference = weakref.ref(session)
    del session
    gc.collect()
    assert reference() is None


def test_many_threads():
    x = v1.placeholder(tf.float32, [])
    y = x + 1
    failures = []

    def work(offset):
        try:
            for step in range(200):
                assert session.run(y, {x: offset + step}) == offset + step + 1
        except BaseException as error:
            failures.append(error)

    with fasthooks.accelerate(v1.Session()) as session:
        threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not failures and session.report()["planned_steps"] == 1200


@pytest.mark.parametrize("place", [v1.Session, type(v1.Session()).__mro__[1], "object"])
def test_a_patched_run_is_called(place):
    x = tf.constant(1)
    with fasthooks.accelerate(v1.Session()) as session:
        session.run(x)
        with mock.patch.object(session if place == "object" else place, "run", return_value="mocked") as run:
            assert session.run(x) == "mocked" and run.call_count == 1
        assert session.run(x) == 1


def test_a_raw_session_of_a_monitored_one():
    class Creator(v1.train.ChiefSessionCreator):
        def create_session(self):
            return fasthooks.accelerate(super().create_session())

    step = v1.train.get_or_create_global_step()
    op = v1.assign_add(step, 1)
    for api in (fasthooks, v1.train):
        with fasthooks.patch(), api.MonitoredSession(Creator(), [api.StopAtStepHook(last_step=5)]) as session:
            values = []
            while not session.should_stop():
                values.append(session.run(op))
            assert values == [1, 2, 3, 4, 5]
            assert session._tf_sess().run(step) == 5


def test_sessions_of_another_kind_stay_as_they_are(tmp_path):
    class Mine(v1.Session):
        def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
            return "mine"

    mine = Mine()
    wrapper = dumping_wrapper.DumpingDebugWrapperSession(v1.Session(), str(tmp_path / "dumps"))
    for session in (mine, wrapper):
        kind = type(session)
        with captured_logs() as logs:
            assert fasthooks.accelerate(session) is session
        assert type(session) is kind
        assert [message for _, level, message in logs if level == "WARNING" and kind.__name__ in message]
    assert mine.run(tf.constant(1)) == "mine"
    mine.close()


@pytest.mark.parametrize("value", [None, 3, v1.Session, object()])
def test_what_is_no_session(value):
    with pytest.raises(TypeError) as caught:
        fasthooks.accelerate(value)
    assert str(caught.value) == f"session must be a tf.compat.v1.Session or InteractiveSession; got {value!r}."


@pytest.mark.parametrize(("arguments", "keywords"), [((), {}), ((1, 2, 3, 4, 5), {}), ((1,), {"fetches": 2}),
                                                     ((1,), {"feed": 2})])
def test_a_bad_call_is_tensorflows_error(arguments, keywords):
    told = []
    for session in (v1.Session(), fasthooks.accelerate(v1.Session())):
        with session, pytest.raises(TypeError) as raised:
            session.run(*arguments, **keywords)
        told.append(str(raised.value))
    assert told[0] == told[1]


@pytest.mark.parametrize("api", [v1.train, fasthooks], ids=["tensorflows", "ours"])
def test_a_monitored_session_is_refused(api):
    told = r"^session must be .*; for monitored sessions there is fasthooks\.patch\(\), and ours need neither\.$"
    with api.MonitoredSession() as session, pytest.raises(TypeError, match=told):
        fasthooks.accelerate(session)


def test_more_kinds_of_run_take_turns_than_plans_are_kept():
    x = v1.placeholder_with_default(1.0, [])
    outputs = [x * i for i in range(34)]
    kinds = [(one, other) for one in outputs for other in outputs]
    with fasthooks.accelerate(v1.Session()) as session:
        for _ in range(2):
            assert [session.run(pair) for pair in kinds] == [(i, j) for i in range(34) for j in range(34)]
        report = session.report()
        assert report["planned_steps"] == report["steps"] == 2 * 34 * 34
        assert len(report["plans"]) == 1024


def test_kinds_of_run_that_do_not_come_again():
    x = v1.placeholder_with_default(1.0, [])
    outputs = [x * i for i in range(34)]
    kinds = [(one, other) for one in outputs for other in outputs][:1100]
    with fasthooks.accelerate(v1.Session()) as session:
        assert [session.run(pair) for pair in kinds] == [(i, j) for i in range(34) for j in range(34)][:1100]
        report = session.report()
        assert report["planned_steps"] == report["plans_made"] == 1100 and len(report["plans"]) == 1024
