"""WandbHook against wandb's own, row by row, as an offline run's file has them."""

import importlib
import json
import struct
import textwrap
import time

import apart
import numpy as np
import pytest
import tensorflow as tf

import fasthooks as fh

wandb = pytest.importorskip("wandb")
from wandb.integration.tensorflow import WandbHook as PeerHook  # noqa: E402
from wandb.proto import wandb_internal_pb2  # noqa: E402

# The package has a function of the same name.
wandb_log = importlib.import_module("wandb.integration.tensorboard.log")
v1 = tf.compat.v1
SESSIONS = {"tf_session": v1.train, "our_session": fh}
HOOKS = {"wandbs_hook": PeerHook, "our_hook": fh.WandbHook}
MIXES = {f"{session}-{hook}": (SESSIONS[session], HOOKS[hook]) for session in SESSIONS for hook in HOOKS}
PEER = MIXES["tf_session-wandbs_hook"]
OURS = MIXES["our_session-our_hook"]
IN_TF = MIXES["tf_session-our_hook"]
# Keys that tell the wall clock.
CLOCKS = ("_timestamp", "_runtime")


@pytest.fixture(params=[name for name in MIXES if MIXES[name] is not PEER])
def mix(request):
    """Each mix of session and hook but wandb's hook in TensorFlow's session: that is what they are compared with."""
    return MIXES[request.param]


@pytest.fixture(params=[IN_TF, OURS], ids=["tf_session", "our_session"])
def our_hook_mix(request):
    """Our hook in both sessions."""
    return request.param


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """Keeps wandb's files in the test's own directory, and ends a run that a test has left open."""
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    if wandb.run is not None:
        wandb.finish()


class OfflineRun:
    """A context with an active offline run; `rows` has what its file holds once it is finished.

    Args:
      directory: Where its file goes.
      is_first: Whether wandb's module is as in a process without an earlier run.
    """

    def __init__(self, directory, is_first=True):
        self.directory = directory
        self.is_first = is_first

    def __enter__(self):
        if self.is_first:
            wandb_log.reset_state()
        # A list of all installed packages takes longer than the rest of the start.
        settings = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, x_disable_meta=True, x_save_requirements=False)
        self.path = wandb.init(mode="offline", dir=str(self.directory), settings=settings).settings.sync_file
        return self

    def __exit__(self, *error):
        wandb.finish()
        # wandb's own process writes the file, and returns from `finish` before it has.
        deadline = time.monotonic() + 30
        while not any(record.HasField("exit") for record in read_records(self.path)) and time.monotonic() < deadline:
            time.sleep(0.005)
        self.rows = list(read_rows(self.path))


def read_records(path):
    """Yields the records of a run's file: LevelDB's log format after a header of 7 bytes."""
    with open(path, "rb") as file:
        data = file.read()
    at, record = 7, b""
    while at + 7 <= len(data):
        left_in_block = 32768 - at % 32768
        if left_in_block < 7:
            at += left_in_block
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + size > len(data):
            return  # still being written
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def read_rows(path):
    """Yields (row number, {key: value}) of a run's file, without the wall clock."""
    for record in read_records(path):
        if record.WhichOneof("record_type") == "history":
            values = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            yield record.history.step.num, {key: value for key, value in values.items() if key not in CLOCKS}


class Program:
    """A graph whose global step grows in a fixed order with its read, and a summary of the step that was read.

    Args:
      increments: What the global step grows by: a number, or a list, which is repeated.
      first: Initial global step.
      read_after: Whether wandb's read of the global step comes after the increment.
      reference: Whether the global step is a reference variable.
      update: How the graph writes the update: "fed", an increment that it does not know; "assign_add" or "assign", by a
        constant, which `increments` must be.
    """

    def __init__(self, increments=1, first=0, read_after=False, reference=False, update="fed"):
        self.graph = tf.Graph()
        with self.graph.as_default():
            step = v1.get_variable(
                "global_step",
                [],
                tf.int64,
                v1.constant_initializer(first),
                trainable=False,
                use_resource=not reference,
                collections=[v1.GraphKeys.GLOBAL_VARIABLES, v1.GraphKeys.GLOBAL_STEP],
            )
            self.count = v1.get_variable(
                "count", [], tf.int64, v1.zeros_initializer(), trainable=False, use_resource=True
            )
            self.increment = v1.placeholder_with_default(tf.constant(0, tf.int64), [])
            read = self.graph.as_graph_element(step)
            before = tf.cast(read, tf.float64)  # a copy: a reference variable's value changes under an identity
            with tf.control_dependencies([] if read_after else [before]):
                self.train = {
                    "fed": lambda: v1.assign_add(step, self.increment),
                    "assign_add": lambda: v1.assign_add(step, increments),
                    "assign": lambda: v1.assign(step, increments + step),
                }[update]().op
            if read_after and not reference:
                read.op._add_control_input(self.train)
            with tf.control_dependencies([self.train] if read_after else []):
                self.seen = tf.cast(read, tf.float64) if read_after else before
            self.seen_summary = v1.summary.scalar("step/seen", tf.cast(self.seen, tf.float32))
            self.count_summary = v1.summary.scalar("computed", v1.assign_add(self.count, 1))
        self.increments = increments if isinstance(increments, list) else [increments]

    def run(self, lib, hook, steps, others=(), close=True):
        """Runs steps and returns how often the summary was computed."""
        with self.graph.as_default():
            with lib.SingularMonitoredSession([hook, *others]) as session:
                for i in range(steps):
                    session.run(self.train, {self.increment: self.increments[i % len(self.increments)]})
                return session.raw_session().run(self.count)


def rows_of(mix, directory, steps=35, period=10, program=None, sessions=1, **arguments):
    """Returns the rows of a run of a program, and how often the summary was computed."""
    lib, hook_class = mix
    program = Program(**(program or {}))
    with OfflineRun(directory) as run:
        hook = hook_class(steps_per_log=period, **arguments)
        for _ in range(sessions):
            computed = program.run(lib, hook, steps)
    return run.rows, computed


_peer_rows = {}


def peer_rows(directory, **arguments):
    """Returns the rows of wandb's hook in TensorFlow's session, from one run for all tests that ask for the same."""
    key = repr(arguments)
    if key not in _peer_rows:
        _peer_rows[key] = rows_of(PEER, directory, **arguments)[0]
    return _peer_rows[key]


def without_count(rows):
    """Returns rows without the number of times that the summary was computed, in which the hooks differ."""
    return [(number, {key: value for key, value in row.items() if key != "computed"}) for number, row in rows]


def seen(rows):
    """Returns the global steps of rows; wandb begins with an empty row where the first step is not 0."""
    return [int(row["step/seen"]) for _, row in rows if "step/seen" in row]


@pytest.mark.parametrize(("period", "steps"), [(1, 12), (10, 35), (1000, 2100)])
def test_rows_are_those_of_wandbs_hook(mix, tmp_path, period, steps):
    expected = peer_rows(tmp_path, steps=steps, period=period)
    rows, _ = rows_of(mix, tmp_path, steps, period)
    assert without_count(rows) == without_count(expected)
    assert seen(rows) == list(range(0, steps, period))


@pytest.mark.parametrize(
    "program",
    [
        {"first": 1234},
        {"first": 20},
        {"first": 19, "read_after": True},
        {"read_after": True},
        {"reference": True},
        {"reference": True, "read_after": True},
    ],
    ids=str,
)
def test_resumed_and_reference_steps(mix, tmp_path, program):
    expected = peer_rows(tmp_path, program=program)
    rows, _ = rows_of(mix, tmp_path, program=program)
    assert without_count(rows) == without_count(expected)
    assert len(seen(rows)) >= 3


@pytest.mark.parametrize("update", ["fed", "assign_add", "assign"])
@pytest.mark.parametrize("reference", [False, True], ids=["resource", "reference"])
@pytest.mark.parametrize(("first", "increment"), [(0, 1), (1, 1), (5, 1), (8, 3), (1, 7), (0, 10)])
def test_summary_is_computed_for_rows_only(our_hook_mix, tmp_path, first, increment, reference, update):
    program = {"first": first, "increments": increment, "update": update, "reference": reference, "read_after": True}
    rows, computed = rows_of(our_hook_mix, tmp_path, steps=45, program=program)
    logged = seen(rows)
    start = first + increment
    assert {step // 10 for step in logged} == {step // 10 for step in range(start, start + 45 * increment, increment)} - (
        {start // 10} if start % 10 else set())
    # The first run's step is not known before it; nor is the second's where the graph does not tell the increment.
    unknown = [start, start + increment] if update == "fed" else [start]
    assert computed == len(logged) + len(set(unknown) - set(logged))


def test_wandbs_hook_in_our_session_computes_less(tmp_path):
    rows, computed = rows_of(MIXES["our_session-wandbs_hook"], tmp_path, steps=2100, period=1000)
    assert seen(rows) == [0, 1000, 2000]
    assert computed < 20


@pytest.mark.parametrize("increment", [3, 7, 10, 25])
def test_row_whenever_a_multiple_is_reached_or_passed(our_hook_mix, tmp_path, increment):
    rows, computed = rows_of(our_hook_mix, tmp_path, steps=40, program={"increments": increment})
    expected, following = [], 0
    for step in range(0, 40 * increment, increment):
        if step >= following:
            expected.append(step)
            following = (step // 10 + 1) * 10
    assert seen(rows) == expected
    assert computed == len(rows) + (increment < 10)  # and on the second run, before the increment is known


@pytest.mark.parametrize(
    "increments", [[1, 1, 1, 14], [0, 1], [5, 1, 1], [1, 1, 1, 1, 1, 1, 1, 23], [30, 1, 1, 1, 1, 1]], ids=str
)
def test_irregular_increments_miss_no_row(our_hook_mix, tmp_path, increments):
    rows, _ = rows_of(our_hook_mix, tmp_path, steps=60, program={"increments": increments})
    steps = [0]
    for i in range(59):
        steps.append(steps[-1] + increments[i % len(increments)])
    logged = seen(rows)
    assert logged == sorted(set(logged))
    for multiple in range(0, steps[-2], 10):
        # The run on which it is reached or passed, or, if that was not to be expected, the next one.
        reached = next(i for i, step in enumerate(steps) if step >= multiple)
        assert set(steps[reached : reached + 2]) & set(logged), (multiple, steps, logged)


def test_rows_with_increments_from_the_start(mix, tmp_path):
    for first, increment in [(5, 5), (0, 10), (10, 10), (0, 5), (20, 20)]:
        program = {"first": first, "increments": increment}
        expected = peer_rows(tmp_path, steps=8, program=program)
        rows, _ = rows_of(mix, tmp_path, steps=8, program=program)
        assert without_count(rows) == without_count(expected), program


def test_list_of_summary_ops(mix, tmp_path):
    def rows(mix):
        program = Program()
        with OfflineRun(tmp_path) as run:
            hook = mix[1](summary_op=[program.seen_summary, program.count_summary], steps_per_log=10)
            program.run(mix[0], hook, 25)
        return [(number, sorted(row), row["step/seen"]) for number, row in run.rows]

    assert rows(mix) == rows(PEER)
    assert len(rows(mix)) == 3


@pytest.mark.parametrize("kind", ["histogram", "image", "text", "tensor"])
def test_other_kinds_of_summaries(mix, tmp_path, kind):
    def rows(mix):
        program = Program()
        with program.graph.as_default():
            value = tf.cast(program.seen, tf.float32) + tf.constant([[0.0, 1.0], [2.0, 4.0]])
            made = {
                "histogram": lambda: v1.summary.histogram("kinds/histogram", value),
                "image": lambda: v1.summary.image("kinds/image", value[None, :, :, None]),
                "text": lambda: v1.summary.text("kinds/text", tf.as_string(program.seen)),
                "tensor": lambda: v1.summary.tensor_summary("kinds/tensor", value),
            }[kind]()
            both = v1.summary.merge([made, program.seen_summary])
        with OfflineRun(tmp_path) as run:
            program.run(mix[0], mix[1](both, 10), 25)
        return run.rows

    expected = rows(PEER)
    assert rows(mix) == expected
    assert len(expected) == 3


class History:
    """Takes rows in place of the run."""

    def __init__(self):
        self.calls = []

    def add(self, row):
        self.calls.append(("add", dict(row)))

    def _row_update(self, row):
        self.calls.append(
            ("update", {key: np.asarray(value).tolist() for key, value in row.items() if key != "computed"})
        )


def test_history_takes_the_rows(mix, tmp_path):
    histories = []
    for one in (PEER, mix):
        histories.append(History())
        assert rows_of(one, tmp_path, history=histories[-1])[0] == []
    expected = histories[0].calls + ([("add", {})] if mix[1] is fh.WandbHook else [])
    assert histories[1].calls == expected
    assert len(expected) >= 7


def test_end_commits_the_last_row(our_hook_mix, tmp_path):
    lib, hook_class = our_hook_mix
    program = Program()
    with OfflineRun(tmp_path) as run:
        program.run(lib, hook_class(steps_per_log=10), 25)
        steps_at_end = wandb.run.step
        wandb.run._log({"later": 1})
    assert steps_at_end == 3
    assert [sorted(set(row) - {"_step"}) for _, row in run.rows] == [["computed", "step/seen"]] * 3 + [["later"]]


def test_end_without_a_new_row_commits_nothing(our_hook_mix, tmp_path):
    lib, hook_class = our_hook_mix
    with OfflineRun(tmp_path) as run:
        program = Program(first=1)
        program.run(lib, hook_class(steps_per_log=1000), 25)
    assert run.rows == []


def test_hook_serves_a_second_session(mix, tmp_path):
    expected = peer_rows(tmp_path, steps=35, sessions=2)
    rows, _ = rows_of(mix, tmp_path, steps=35, sessions=2)
    # wandb's hook takes a step that an earlier session has reached for one that is there.
    assert seen(expected) == [0, 10, 20, 0, 10, 30]
    assert seen(rows) == ([0, 10, 20, 30] * 2 if mix[1] is fh.WandbHook else seen(expected))


def test_second_run_in_a_process(our_hook_mix, tmp_path):
    lib, hook_class = our_hook_mix
    for first in (0, 0, 1234):
        with OfflineRun(tmp_path) as alone:
            Program(first=first).run(*PEER[:1], PEER[1](steps_per_log=10), 35)
        with OfflineRun(tmp_path, is_first=False) as run:
            Program(first=first).run(lib, hook_class(steps_per_log=10), 35)
        assert without_count(run.rows) == without_count(alone.rows)


def test_second_session_that_goes_on(our_hook_mix, tmp_path):
    def rows(mix, name):
        lib, hook_class = mix
        program = Program()
        directory = str(tmp_path / name)
        with OfflineRun(tmp_path) as run, program.graph.as_default():
            hook = hook_class(steps_per_log=10)
            for _ in range(2):
                saver = v1.train.CheckpointSaverHook(directory, save_steps=100)
                creator = v1.train.ChiefSessionCreator(checkpoint_dir=directory)
                with lib.MonitoredSession(creator, [hook, saver]) as session:
                    for _ in range(35):
                        session.run(program.train, {program.increment: 1})
        return without_count(run.rows)

    assert rows(our_hook_mix, "ours") == rows(PEER, "peer")


def test_row_of_a_session_that_failed(our_hook_mix, tmp_path):
    lib, hook_class = our_hook_mix
    program = Program()

    class Failing(v1.train.SessionRunHook):
        def after_run(self, run_context, run_values):
            raise ArithmeticError

    with OfflineRun(tmp_path) as run:
        hook = hook_class(steps_per_log=10)
        with pytest.raises(ArithmeticError):
            program.run(lib, hook, 1, [Failing()])
        program.run(lib, hook, 15)
    assert seen(run.rows) == [0, 0, 10]


def test_two_hooks_commit_their_last_row_once(our_hook_mix, tmp_path):
    lib, hook_class = our_hook_mix
    program = Program()
    hooks = [hook_class(summary, 10) for summary in (program.seen_summary, program.count_summary)]
    with OfflineRun(tmp_path) as run:
        program.run(lib, hooks[0], 25, hooks[1:])
    assert [sorted(set(row) - {"_step"}) for _, row in run.rows] == [["computed", "step/seen"]] * 3


class Abort(v1.train.SessionRunHook):
    """Lets one run fail as a lost worker would."""

    def __init__(self, at):
        self.runs_left = at

    def after_run(self, run_context, run_values):
        self.runs_left -= 1
        if self.runs_left == 0:
            raise tf.errors.AbortedError(None, None, "lost")


def test_rows_never_go_back_after_a_recovery(our_hook_mix, tmp_path):
    lib, hook_class = our_hook_mix
    program = Program()
    with OfflineRun(tmp_path) as run, program.graph.as_default():
        hooks = [hook_class(steps_per_log=5), Abort(at=24), v1.train.CheckpointSaverHook(str(tmp_path), save_steps=8)]
        scaffold = v1.train.Scaffold()
        with lib.MonitoredSession(
            v1.train.ChiefSessionCreator(scaffold, checkpoint_dir=str(tmp_path)), hooks
        ) as session:
            values = [int(session.run([program.seen, program.train], {program.increment: 1})[0]) for _ in range(40)]
    assert values == [*range(23), *range(16, 33)]  # back to the checkpoint
    assert seen(run.rows) == [0, 5, 10, 15, 20, 25, 30]


def test_recovery_computes_no_summary_without_a_row(tmp_path):
    program = Program()
    context = v1.train.SessionRunContext(v1.train.SessionRunArgs(program.train), None)
    asked = []

    def step(value):
        asked.append(sorted(hook.before_run(context).fetches))
        summary = {"summary": b""} if "summary" in asked[-1] else {}
        hook.after_run(context, v1.train.SessionRunValues({"global_step": np.int64(value), **summary}, None, None))

    with OfflineRun(tmp_path), program.graph.as_default():
        hook = fh.WandbHook(steps_per_log=10)
        hook.begin()
        hook.after_create_session(None, None)
        for value in range(17):
            step(value)
        hook.after_create_session(None, None)  # of the recovered session, which went back to 14
        for value in range(14, 22):
            step(value)
    # On the first two runs, as this graph does not tell the increment, and those that come to 10 and 20.
    assert [i for i, keys in enumerate(asked) if "summary" in keys] == [0, 1, 10, 23]


@pytest.mark.parametrize("hook_class", HOOKS.values(), ids=HOOKS)
def test_begin_without_a_run(hook_class):
    hook = hook_class()
    with Program().graph.as_default():
        with pytest.raises(wandb.Error, match=r"^You must call `wandb.init\(\)` before calling `WandbHook`$"):
            hook.begin()


def test_graph_without_summaries(tmp_path):
    with OfflineRun(tmp_path), tf.Graph().as_default():
        v1.train.get_or_create_global_step()
        with pytest.raises(
            ValueError, match=r"^WandbHook has nothing to log: the graph has no summaries and summary_op is None"
        ):
            fh.WandbHook().begin()


def test_graph_without_a_global_step(tmp_path):
    with OfflineRun(tmp_path), tf.Graph().as_default():
        v1.summary.scalar("x", tf.constant(1.0))
        with pytest.raises(RuntimeError, match=r"^Global step should be created to use WandbHook\.$"):
            fh.WandbHook().begin()


@pytest.mark.parametrize("bad", [0, -1, 2.9, 10.0, True, "10", None, np.float32(3)], ids=repr)
def test_steps_per_log_is_checked(bad):
    with pytest.raises(ValueError, match=r"^steps_per_log must be a positive int; got ") as caught:
        fh.WandbHook(steps_per_log=bad)
    assert repr(bad) in str(caught.value)


def test_steps_per_log_of_numpys_kind(tmp_path):
    assert type(fh.WandbHook(steps_per_log=np.int64(7))._steps_per_log) is int


def test_defaults_are_wandbs():
    ours, peers = [vars(hook)["_history"] for hook in (fh.WandbHook(), PeerHook())]
    assert ours is peers is None
    for hook in (fh.WandbHook(), PeerHook()):
        assert (hook._summary_op, hook._steps_per_log) == (None, 1000)


def test_wandb_is_missing():
    program = textwrap.dedent("""
        import sys
        sys.modules["wandb"] = None
        import fasthooks
        try:
            fasthooks.WandbHook()
        except ImportError as error:
            print(error)
    """)
    done = apart.run(program, timeout=120)
    assert done.returncode == 0 and done.stdout == "WandbHook needs the wandb package: pip install 'fasthooks[wandb]'\n"
