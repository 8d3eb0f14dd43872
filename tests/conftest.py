"""Fixtures for all tests: the mixes of sessions and hooks."""

import contextlib
import gc
import pathlib
import sys
from unittest import mock

import pytest
import tensorflow as tf
from helpers import MIXES, STOCK_MIX, USES, Clock, Way, assert_same, record
from tensorflow.python.ops import session_ops
from tensorflow.python.summary.writer import writer_cache

import fasthooks
from fasthooks.step import _live

# A handle that is freed may add ops to its graph and make a run, whenever the collector comes: in a thread that holds
# the graph's lock or is inside a run, that waits for ever.
del session_ops.TensorHandle.__del__

_stock_records = {}
# Files that take long, the longest first: one that began last would leave the other process of pytest-xdist with nothing to do.
_LONG_FILES = (
    "test_known_tensorflow", "test_bench_smoke", "test_async_checkpoint", "test_hook_contract", "test_runner",
    "test_programs", "test_clusters", "test_hooks", "test_session", "test_wandb_hook", "test_distributed", "test_writers",
    "test_interruption", "test_periodic", "test_reach_inside", "test_dispatch", "test_hook_cost", "test_plan", "test_sinks",
    "test_reach_modules", "test_types", "test_progress", "test_reach_runs", "test_metrics", "test_trigger", "test_feeds",
    "test_links", "test_reach_sessions", "test_plan_errors", "test_references", "test_profiling", "test_scheduling",
    "test_kernel_state", "test_read_order", "test_remote_sessions", "test_plain_session", "test_dead_fetches",
    "test_random_programs", "test_demo", "test_public_api")
# Files about hooks and the benchmarks' scripts, whatever the graph is: TensorFlow's graph optimizer, which takes a third of the
# time of such a test, is off in them. What is about sessions, runs and plans has it, as programs do.
_NOT_OPTIMIZED = {
    "test_adopt", "test_after_step", "test_async_checkpoint", "test_bench_smoke", "test_direct_writes",
    "test_dispatch_live", "test_global_step", "test_guard", "test_hook_contract", "test_hook_cost", "test_hooks",
    "test_interruption", "test_links", "test_log_line", "test_metrics", "test_patch", "test_periodic", "test_profiling",
    "test_profiling_edges", "test_profiling_once", "test_progress", "test_reach_inside", "test_reach_modules",
    "test_reach_runs", "test_reach_sessions", "test_references", "test_sinks", "test_trigger",
    "test_wandb_hook", "test_writers"}

# For `bench`. At the end: an installed fasthooks is found first.
sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

gc.freeze()  # TensorFlow's own objects are not looked through by each collection


def pytest_collection_modifyitems(items):
    """Puts the files that take longest first; all other tests stay in their order."""
    places = {name: place for place, name in enumerate(_LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """Keeps the collector, which comes often where graphs are made, from looking through all modules, tests and parameters."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _optimizer(request):
    # Sessions without a config have TensorFlow's own for the process.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": request.path.stem in _NOT_OPTIMIZED})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(autouse=True)
def _verbosity():
    # Below a warning, pytest's log handler keeps what is logged, with errors whose frames keep sessions.
    logger = tf.get_logger()
    level = logger.level
    yield
    logger.setLevel(level)


@contextlib.contextmanager
def _gives_back(forget=lambda: None):
    """In a debug build: at the end there are as many plans, slots, contexts, ... as at the begin."""
    if not _live.is_debug_build():
        yield
        return
    before = _live.counts()
    # Errors keep the frames of the steps in which they were raised; failed writers and log lines keep errors.
    with mock.patch.object(writer_cache.FileWriterCache, "_cache", {}):
        yield
    forget()
    if _live.counts() != before:
        gc.collect()
    assert _live.counts() == before


@pytest.fixture(scope="module", autouse=True)
def _modules_objects():
    with _gives_back():
        yield


@pytest.fixture(autouse=True)
def _tests_objects(request, caplog):
    # What a module's tests share is there until the last of them has ended.
    def forget():
        for phase in ("setup", "call"):
            caplog.get_records(phase).clear()
        for parameter in (request.node.callspec.params.values() if hasattr(request.node, "callspec") else ()):
            if isinstance(parameter, BaseException):
                parameter.__traceback__ = parameter.__context__ = None

    shares = any(name.endswith("worlds") for name in request.fixturenames)
    with contextlib.nullcontext() if shares else _gives_back(forget):
        yield


@pytest.fixture(params=MIXES)
def mix(request):
    """Each mix of TensorFlow's, patched or our sessions with TensorFlow's or our hooks, as an `Api`."""
    with MIXES[request.param].in_force():
        yield MIXES[request.param]


@pytest.fixture(params=[name for name in MIXES if name != STOCK_MIX])
def same_as_stock(request, tmp_path):
    """A function that runs a program on TensorFlow alone (once for all mixes) and in a mix, and gives the mix's record.

    What both tell must be the same, and the mix's steps accelerated; see `assert_same`. Call it at most once in a test.
    """
    key = request.node.nodeid.replace(request.param, "")

    def run_both(program, declines=(), ignore="never matches"):
        records = {}
        for name in (STOCK_MIX, request.param):
            if name != STOCK_MIX or key not in _stock_records:
                records[name] = record(program, MIXES[name], tmp_path / name)
        stock = _stock_records.setdefault(key, records.get(STOCK_MIX))
        assert_same(records[request.param], stock, declines, ignore)
        return records[request.param]

    return run_both


@pytest.fixture(params=USES)
def way(request):
    """Our session, TensorFlow's that runs compiled steps because of the hook, and TensorFlow's that does not."""
    train, adopts = USES[request.param]
    fasthooks.adopt(adopts)
    with tf.Graph().as_default():
        yield Way(train, adopts)
    fasthooks.adopt(True)


@pytest.fixture
def clock():
    """Stands in for `time.time`."""
    with mock.patch("time.time", Clock()) as fake:
        yield fake
