"""What the budgets measure, on pytest-benchmark: `pytest bench/test_budgets.py --benchmark-group-by=group`.

One figure is one step (B1 to B7, B9), or one whole measurement (B10, B12 to B14), in the group of its budget, so that ours
and its peer stand together. `budgets.py` interleaves them, knows the bars and prints the ratios.
"""

import contextlib

import pytest

pytest.importorskip("fasthooks")

from bench import budgets, common, settings, workers
from bench.steps import SUITE

pytestmark = pytest.mark.filterwarnings("default")  # TensorFlow warns of deprecations of its own

STEPS = 1000  # per round: one full period of every trigger
ROUNDS = 15
IMPLEMENTATIONS = ["tensorflow", "fasthooks"]

# Budget and graph -> (graph, hooks, scheduling of ours, iterations per round)
STEPPED = {
    "B1 tiny graph, H7": (common.tiny, common.hooks_h7, None, STEPS),
    "B1 tiny graph, H8": (common.tiny, common.hooks_h8, None, STEPS),
    "B4 tiny graph, H8, pool only": (common.tiny, common.hooks_h8, "pool", STEPS),
    "B5 tiny graph fed 16 floats, H8": (common.tiny_fed, common.hooks_h8, None, STEPS),
    **{f"B6 {name}, H8": (build, common.hooks_h8, None, 100) for name, build, _ in SUITE},
}


def time_steps(benchmark, lane, steps):
    """Times `steps` steps of the user's loop a round; the figure is the time of all of them."""
    common.warm_up([lane], 1000)
    benchmark.extra_info["steps"] = steps
    benchmark.pedantic(lane.run, args=(steps,), rounds=ROUNDS, iterations=1, warmup_rounds=1)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", STEPPED)
def test_steps(benchmark, case, name):
    benchmark.group = case
    build, hooks, scheduling, steps = STEPPED[case]
    impl = common.implementation(name)
    with (
        common.workspace(wandb=hooks is common.hooks_h8) as directory,
        common.monitored_lane(
            impl, build, hooks, directory, scheduling=scheduling if name == "fasthooks" else None
        ) as lane,
    ):
        time_steps(benchmark, lane, steps)


@pytest.mark.parametrize("floor", ["bare Session.run", "bare prepared Run"])
def test_floor(benchmark, floor):
    """What B2 and B3 compare a hooked step with."""
    benchmark.group = "B2, B3 floors"
    with contextlib.ExitStack() as stack:
        lane = (common.bare_lane if floor == "bare Session.run" else common.prepared_lane)(common.tiny)
        time_steps(benchmark, stack.enter_context(lane), STEPS)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_remote_steps(benchmark, name):
    benchmark.group = "B7 tiny graph on a gRPC server, H7"
    with (
        common.workspace() as directory,
        workers.listening("server") as server,
        common.monitored_lane(
            common.implementation(name), common.tiny, common.hooks_h7, directory, master=server()
        ) as lane,
    ):
        time_steps(benchmark, lane, 100)


@pytest.mark.parametrize("hooks", ["none", *IMPLEMENTATIONS])
def test_hooks_in_tensorflows_session(benchmark, hooks):
    benchmark.group = "B9 TensorFlow's session, H7"
    tensorflow = common.implementation("tensorflow")
    impl = tensorflow if hooks == "none" else common.implementation(hooks)
    make = common.no_hooks if hooks == "none" else common.hooks_h7
    with (
        common.workspace() as directory,
        common.monitored_lane(impl, common.tiny, make, directory, session_impl=tensorflow) as lane,
    ):
        time_steps(benchmark, lane, STEPS)


@pytest.mark.parametrize("budget", ["B10", "B12", "B13", "B14"])
def test_whole_measurement(benchmark, budget):
    """Memory, import time and start-up: `extra_info` holds the rows, in the units they name."""
    benchmark.group = f"{budget}, measured once"
    peer, ours = (common.implementation(name) for name in IMPLEMENTATIONS)
    measured = benchmark.pedantic(budgets.BUDGETS[budget], args=(peer, ours, settings.QUICK), rounds=1, iterations=1)
    benchmark.extra_info["rows"] = [{key: row[key] for key in ("what", "value", "unit")} for row in measured["rows"]]
