"""Threads of ours in the child of a fork, and while the interpreter ends: nothing waits for one that is not there."""

import os
import textwrap

import apart
import pytest

PROGRAM = """
    import atexit, gc, os, signal, sys, threading, warnings
    import tensorflow.compat.v1 as tf
    import fasthooks
    from fasthooks import patching
    lib = {"tf_session": tf.train, "our_session": fasthooks}[sys.argv[1]]
    directory, what = sys.argv[2:4]
    warnings.simplefilter("ignore")  # Python 3.12 and later warn of forks
    tf.disable_eager_execution()
    step = tf.train.create_global_step()
    x = tf.placeholder_with_default(tf.zeros([], tf.int64), [])
    op = step.assign_add(1 + 0 * x)
    saver = tf.train.Saver(max_to_keep=None)
    calls = []

    def feed_fn():
        calls.append(os.getpid())
        return {x: len(calls)}

    hook = {
        "checkpoint": lambda: fasthooks.AsyncCheckpointSaverHook(directory, save_steps=2, saver=saver),
        "feed": lambda: fasthooks.FeedFnHook(feed_fn, prefetch=2),
        "counter": lambda: fasthooks.StepCounterHook(every_n_steps=2, output_dir=directory),
        "signal": lambda: fasthooks.SaveOnSignalHook(directory),
    }[what]()

    def session():
        return lib.MonitoredSession(hooks=[hook])

    # TensorFlow's threads are missing in a child too: what is run there must not run a step.
    def in_child(body):
        child = os.fork()
        if not child:
            signal.alarm(60)
            code = 4
            try:
                body()
                code = 0
            except SystemExit as error:
                code = error.code
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(params=["tf_session", "our_session"])
def run(request, tmp_path):
    """A function that runs a program to its end, and returns what it printed."""

    def run_program(program, what):
        code = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
        done = apart.run(code, request.param, tmp_path, what, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr

    return run_program


def steps_in(directory):
    return sorted(int(name[:-6].rpartition("-")[2]) for name in os.listdir(directory) if name.endswith(".index"))


# One child is made while a file is written, another before its listeners are called; both leave the session's block.
FORK_WHILE_SAVING = """
    from fasthooks.hooks import async_checkpoint

    opened = threading.Event()
    parent = os.getpid()
    saved = []

    class Listener(tf.train.CheckpointSaverListener):
        def after_save(self, session, step):
            saved.append(int(step))

    hook._listeners.append(Listener())

    stock_save = tf.train.Saver.save

    def save(*args, **kwargs):
        assert os.getpid() != parent or opened.wait(60)
        return stock_save(*args, **kwargs)

    def leave():
        with open_session:
            sys.exit(3 + len(saved))

    with session() as open_session:
        open_session.run(op)
        tf.train.Saver.save = async_checkpoint._stock_save = save  # which counts as TensorFlow's own
        open_session.run(op)
        open_session.run(op)
        in_child(leave)
        opened.set()
        hook._write.done.wait(60)
        # Complete, and not delivered yet.
        in_child(leave)
    print(saved)
"""


def test_a_fork_while_a_checkpoint_is_written(run, tmp_path):
    lines, errors = run(FORK_WHILE_SAVING, "checkpoint")
    # Step 0 was delivered before; what listeners are owed for step 2 is the parent's.
    assert lines == ["4", "4", "[0, 2, 3]"], errors
    assert steps_in(tmp_path) == [0, 2, 3]


# The thread holds its lock when the child is made.
FORK_WHILE_FEEDING = """
    def leave():
        with open_session:
            pass

    def go_on():
        feeds = [hook.before_run(None).feed_dict[x] for _ in range(5)]
        assert feeds == sorted(feeds)
        leave()

    with session() as open_session:
        open_session.run(op)
        held, release = threading.Event(), threading.Event()

        def hold():
            with hook._prefetcher._changed:
                held.set()
                release.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(60)
        in_child(leave)
        in_child(go_on)
        release.set()
        holder.join()
        open_session.run(op)
    print(set(calls) == {os.getpid()})
"""


def test_a_fork_while_batches_are_made(run):
    assert run(FORK_WHILE_FEEDING, "feed")[0] == ["0", "0", "True"]


FORK = """
    def leave():
        with open_session:
            pass

    with session() as open_session:
        open_session.run(op)
        in_child(leave)
        open_session.run(op)
    print("end")
"""


def test_a_child_does_not_wait_for_the_event_file(run):
    assert run(FORK, "counter")[0] == ["0", "end"]


FORK_WHILE_PATCHING = """
    held, release = threading.Event(), threading.Event()

    def hold():
        with patching._lock:
            held.set()
            release.wait(60)

    threading.Thread(target=hold).start()
    held.wait(60)
    threading.Timer(1, release.set).start()
    in_child(fasthooks.patch)
"""


def test_a_fork_while_another_thread_patches(run):
    assert run(FORK_WHILE_PATCHING, "counter")[0] == ["0"]


LAST_TRAINING = """
    def train(open_session):
        with tf.get_default_graph().as_default(), open_session() as last:
            for _ in range(5):
                last.run(op)
        print("trained", flush=True)
"""
# No thread can be started any more.
AT_EXIT = LAST_TRAINING + """
    atexit.register(train, session)
"""
# The threads that there were have stopped too. Found by the interpreter's last collection, while all modules are whole.
FINALIZING = LAST_TRAINING + """
    class Last:
        def __init__(self, session):
            self.session = session
            self.itself = self

        def __del__(self):
            assert sys.is_finalizing()
            signal.alarm(60)
            train(lambda: self.session)

    gc.set_threshold(0)
    open_session = session()
    open_session.run(op)
    Last(open_session)
"""


@pytest.mark.parametrize("what", ["checkpoint", "counter", "feed", "signal"])
@pytest.mark.parametrize("when", [AT_EXIT, FINALIZING], ids=["atexit", "finalizing"])
def test_training_while_the_interpreter_ends(run, tmp_path, what, when):
    lines, errors = run(when, what)
    assert lines == ["trained"], errors
    if what == "checkpoint":
        assert steps_in(tmp_path) == ([0, 2, 4, 5] if when == AT_EXIT else [0, 2, 4, 6])
