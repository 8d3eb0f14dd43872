"""What waits for a hook's next step: called once, whatever else stands in the place of `after_run`."""

import copy
import pickle
import threading
from unittest import mock

import pytest

import fasthooks
from fasthooks import after_step
from fasthooks.after_step import OnceAfterStep


class Hook:
    def __init__(self):
        self.seen = []

    def after_run(self, run_context, run_values):
        self.seen.append(("usual", run_context, run_values))


class Telling(OnceAfterStep):
    def act(self, run_context, run_values):
        self._hook.seen.append((type(self).__name__, run_context, run_values))
        self.call_usual(run_context, run_values)


class First(Telling):
    pass


class Second(Telling):
    pass


def step(hook, number):
    hook.seen.clear()
    hook.after_run(number, -number)
    assert all(seen[1:] == (number, -number) for seen in hook.seen)
    return [seen[0] for seen in hook.seen]


def test_is_called_once():
    hook = Hook()
    waiting = First(hook)
    assert First.of(hook) is waiting and Second.of(hook) is None
    assert step(hook, 1) == ["First", "usual"]
    assert step(hook, 2) == ["usual"] and "after_run" not in vars(hook) and First.of(hook) is None


def test_two_wait_for_one_step():
    hook = Hook()
    first, second = First(hook), Second(hook)
    assert First.of(hook) is first and Second.of(hook) is second
    # The one on top leaves the one beneath for itself to call.
    assert step(hook, 1) == ["Second", "First", "usual"]
    assert step(hook, 2) == ["usual"] and "after_run" not in vars(hook)


@pytest.mark.parametrize("withdrawn, left", [(First, ["Second", "usual"]), (Second, ["First", "usual"])])
def test_one_of_two_is_withdrawn(withdrawn, left):
    hook = Hook()
    First(hook), Second(hook)
    withdrawn.of(hook).withdraw()
    assert withdrawn.of(hook) is None
    assert step(hook, 1) == left
    assert "after_run" not in vars(hook)


def test_a_method_set_on_the_object_comes_back():
    hook = Hook()
    hook.after_run = mine = mock.Mock()
    waiting = First(hook)
    assert step(hook, 1) == ["First"] and hook.after_run is mine
    mine.assert_called_once_with(1, -1)
    waiting.withdraw()
    assert hook.after_run is mine


@pytest.mark.parametrize("withdraw", [False, True])
def test_a_wrapper_that_stays_around_it(withdraw):
    hook = Hook()
    waiting = First(hook)
    hook.after_run = mock.Mock(side_effect=hook.after_run)
    if withdraw:
        waiting.withdraw()
    assert step(hook, 1) == (["usual"] if withdraw else ["First", "usual"])
    assert step(hook, 2) == ["usual"]
    assert hook.after_run.call_count == 2


def test_one_that_is_put_back():
    hook = Hook()
    with mock.patch.object(hook, "after_run", wraps=First(hook)):
        assert step(hook, 1) == ["First", "usual"]
    assert step(hook, 2) == ["usual"] and "after_run" not in vars(hook)


def test_is_claimed_by_one_thread():
    hook = Hook()
    waiting = First(hook)
    assert waiting.withdraw() and not waiting.withdraw()
    # And while one looks at what stands there, no other puts something on top.
    entered = threading.Event()

    def put():
        entered.set()
        Second(hook)

    with after_step._lock:
        thread = threading.Thread(target=put)
        thread.start()
        entered.wait()
        thread.join(0.1)
        assert Second.of(hook) is None
    thread.join()
    assert step(hook, 1) == ["Second", "usual"]


def test_a_static_method():
    class Static(Hook):
        @staticmethod
        def after_run(run_context, run_values):
            seen.append((run_context, run_values))

    seen = []
    hook = Static()
    First(hook)
    hook.after_run(1, 2)
    assert seen == [(1, 2)] and [one[0] for one in hook.seen] == ["First"]


@pytest.mark.parametrize("name", ["CheckpointSaverHook", "StepCounterHook", "SummarySaverHook"])
def test_a_copy_of_a_hook_waits_for_nothing(name, tmp_path):
    make = {"CheckpointSaverHook": lambda cls: cls(str(tmp_path), save_steps=3), "StepCounterHook": lambda cls: cls(),
            "SummarySaverHook": lambda cls: cls(save_steps=3, output_dir=str(tmp_path), summary_op="s:0")}
    hook = make[name](getattr(fasthooks, name))
    First(hook)
    for copied in (copy.copy(hook), pickle.loads(pickle.dumps(hook))):
        assert "after_run" not in vars(copied) and copied._timer._every_steps == hook._timer._every_steps
    assert First.of(hook)


def test_a_mocked_method_of_the_class():
    hook = Hook()
    First(hook)
    with mock.patch.object(Hook, "after_run") as usual:
        hook.after_run(1, 2)
    usual.assert_called_once_with(1, 2)
