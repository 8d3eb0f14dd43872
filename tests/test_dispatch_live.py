"""Hooks and lists of hooks that change while the native run is on: from a kernel in Python, or from another thread."""

import threading

import numpy as np
import pytest
import tensorflow as tf

import fasthooks

v1 = tf.compat.v1
LIBRARIES = [v1.train, fasthooks]


class Counter(v1.train.SessionRunHook):
    """Counts its calls."""

    def __init__(self):
        self.before = self.after = 0

    def before_run(self, run_context):
        self.before += 1

    def after_run(self, run_context, run_values):
        self.after += 1


def run_with_kernel(library, hook, kernel, steps=4):
    """Runs steps whose graph calls `kernel(hooks)` in the second of them; returns the hooks."""
    hooks = [hook]
    calls = []

    def python_kernel():
        calls.append(None)
        if len(calls) == 2:
            kernel(hooks)
        return np.float32(1.0)

    with tf.Graph().as_default():
        v1.train.get_or_create_global_step()
        fetched = v1.py_func(python_kernel, [], tf.float32)
        hooks[0] = hook(tf.constant(1.0))
        with library.MonitoredSession(hooks=hooks) as session:
            for _ in range(steps):
                session.run(fetched)
    return hooks


@pytest.mark.parametrize("place", [0, 1])
def test_hook_enters_the_list_during_a_run(place):
    """Its `after_run` is called in that step already, as TensorFlow's loop over the live list does."""
    counts = []
    for library in LIBRARIES:
        hook = Counter()
        run_with_kernel(library, library.NanTensorHook, lambda hooks, hook=hook: hooks.insert(place, hook))
        counts.append((hook.before, hook.after))
    assert counts == [(2, 3), (2, 3)]


@pytest.mark.parametrize("hook_library", LIBRARIES, ids=["their_hook", "our_hook"])
@pytest.mark.parametrize("library", LIBRARIES, ids=["their_session", "our_session"])
def test_method_is_set_during_a_run(library, hook_library):
    calls = []

    def patch(hooks):
        hooks[0].after_run = lambda run_context, run_values: calls.append(run_values.results)

    run_with_kernel(library, hook_library.NanTensorHook, patch)
    assert calls == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("hooks", [False, []])
@pytest.mark.parametrize("how", ["options", "metadata", "closed set of fetches"])
def test_hooks_left_out_see_nothing_on_tensorflows_way(hooks, how):
    """Also where the step cannot take a plan."""
    given = {"options": {"options": v1.RunOptions()}, "metadata": {"run_metadata": v1.RunMetadata()}}.get(how, {})
    with tf.Graph().as_default():
        constant = tf.constant([1.0])
        fetches = constant if given else {("tuple", "key"): constant}
        counter = Counter()
        with fasthooks.MonitoredSession(hooks=[counter]) as session:
            session.run(fetches, hooks=hooks, **given)
            assert (counter.before, counter.after) == (0, 0)
            session.run(fetches, **given)
            assert (counter.before, counter.after) == (1, 1)


def test_hook_changes_while_another_thread_prepares_a_run(monkeypatch):
    """A run that was prepared for the hook's former tensor is not taken for the new one."""
    is_fetchable = tf.Graph.is_fetchable
    preparing, go_on = threading.Event(), threading.Event()

    def fetchable_slowly(self, op):
        if threading.current_thread().name == "preparing" and not preparing.is_set():
            preparing.set()
            assert go_on.wait(60)
        return is_fetchable(self, op)

    monkeypatch.setattr(tf.Graph, "is_fetchable", fetchable_slowly)
    with tf.Graph().as_default():
        fine, nan = tf.constant(1.0), tf.constant(float("nan"))
        first, second = tf.constant([1.0]), tf.constant([2.0])
        hook = fasthooks.NanTensorHook(fine, fail_on_nan_loss=False)
        session = fasthooks.MonitoredSession(hooks=[hook], scheduling="pool")
        session.run(first)
        thread = threading.Thread(target=lambda: session.run(second), name="preparing")
        thread.start()
        assert preparing.wait(60)
        hook._loss_tensor = nan
        session.run(first)
        hooked = session._sess._sess._sess
        hooked._should_stop = False
        go_on.set()
        thread.join()
        hooked._should_stop = False
        session.run(second)
        assert session.should_stop(), "the hook saw its new tensor"
        session.close()


class Inserts(v1.train.SessionRunHook):
    """Puts a hook before itself while it is asked in its second step, and so is asked twice there.

    Args:
      hooks: The live list.
      answers: What it returns then, first and second.
    """

    def __init__(self, hooks, answers):
        self.hooks, self.answers = hooks, list(answers)
        self.calls = 0
        self.seen = []

    def before_run(self, run_context):
        self.calls += 1
        if self.calls == 2:
            self.hooks.insert(0, Counter())
        return self.answers.pop(0) if self.calls in (2, 3) else None

    def after_run(self, run_context, run_values):
        self.seen.append(run_values.results)


@pytest.mark.parametrize("way", ["patched", "ours", "ours, with TensorFlow's hook"])
@pytest.mark.parametrize("names", [("a", "b"), ("a", None), (None, "b"), ("a", "a"), (None, None)])
@pytest.mark.parametrize("follower", [False, True])
def test_hook_is_asked_twice(way, names, follower):
    """The last request of a hook counts that another was put before."""

    def run(library):
        hooks = []
        with tf.Graph().as_default():
            tensors = {"a": tf.constant([1.0]), "b": tf.constant([2.0, 2.0])}
            inserts = Inserts(hooks, [None if name is None else v1.train.SessionRunArgs(tensors[name]) for name in names])
            last = Counter()
            nan = (v1.train if way.endswith("TensorFlow's hook") else library).NanTensorHook(tf.constant(1.0))
            hooks += [nan, inserts, *[last] * follower]
            with library.MonitoredSession(hooks=hooks) as session:
                results = [session.run(tensors["a"]).tolist() for _ in range(4)]
        return results, [None if one is None else one.tolist() for one in inserts.seen], last.before, last.after

    stock = run(v1.train)
    if way == "patched":
        with fasthooks.patch():
            assert run(v1.train) == stock
    else:
        assert run(fasthooks) == stock


def test_hook_that_stands_where_it_stood_is_asked_twice():
    """Two hooks change places while the first of them is asked, and again while it is asked there."""

    class Moves(Counter):
        def before_run(self, run_context):
            super().before_run(run_context)
            if self.before in (2, 3):
                hooks[1], hooks[2] = hooks[2], hooks[1]
            return v1.train.SessionRunArgs(tensors[self.before])

        def after_run(self, run_context, run_values):
            super().after_run(run_context, run_values)
            seen.append(run_values.results)

    told = []
    for library in LIBRARIES:
        seen = []
        with tf.Graph().as_default():
            tensors = [tf.constant(float(number)) for number in range(9)]
            moves, other = Moves(), Counter()
            hooks = [library.NanTensorHook(tensors[0]), moves, other]
            with library.MonitoredSession(hooks=hooks) as session:
                for _ in range(4):
                    session.run(tensors[1])
        told.append((seen, moves.before, moves.after, other.before, other.after))
    assert told[0] == told[1]
