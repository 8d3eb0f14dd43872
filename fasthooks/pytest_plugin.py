"""The pytest fixture `hook_cost`: what a hook adds to a step, as a row of pytest-benchmark's table.

pytest imports this module wherever fasthooks is installed, for suites that know nothing of it too. So it imports pytest and
the standard library alone, and all else where the fixture is used.
"""

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from fasthooks.arguments import as_float

if TYPE_CHECKING:
    from fasthooks.hook_cost import HookCost, HookCostFixture

_COSTS = pytest.StashKey[dict[str, tuple["HookCost", float | None]]]()  # id of a test -> what it measured, its max_us


class _Clock:
    # Stands still but for what a round adds. So pytest-benchmark, which times rounds by it, has their figures for times.

    __name__ = "hook_cost"  # which the JSON file shows

    def __init__(self) -> None:
        self.now = 0.0
        self.is_read = False

    def __call__(self) -> float:
        self.is_read = True
        return self.now

    def times(self, run_round: Callable[[], float]) -> Callable[[], None]:
        """Returns a function that runs a round, which takes as many µs as its figure says."""
        def timed_round():
            if not self.is_read:
                raise pytest.UsageError("`benchmark` was made before `hook_cost`, which has to choose its clock: let the test, "
                                        "and its fixtures, ask for `hook_cost` first.")
            self.now += run_round() * 1e-6
        return timed_round


@pytest.fixture
def _hook_cost_engine() -> Any:
    # Asked for first: pytest-benchmark warns of a `benchmark` that was made and not used, as where TensorFlow is missing.
    from fasthooks import hook_cost as engine

    return engine


@pytest.fixture
def _hook_cost_clock(request: pytest.FixtureRequest) -> _Clock:
    config, clock = request.config, _Clock()
    # An unknown mark gives a warning, and one of a disabled plugin is read by the plugin that stands in for it.
    disabled = config.getoption("benchmark_disable", False) and not config.getoption("benchmark_enable", False)
    if config.pluginmanager.hasplugin("benchmark") and not disabled:
        options = {"group": "hook cost", **_marked(request), "timer": clock}
        request.node.add_marker(pytest.mark.benchmark(**options), append=False)
    return clock


def _marked(request):
    mark = request.node.get_closest_marker("benchmark")
    return mark.kwargs if mark else {}


if importlib.util.find_spec("pytest_benchmark") is None:

    @pytest.fixture
    def hook_cost() -> None:
        """What a hook adds to a step; needs pytest-benchmark."""
        pytest.fail("hook_cost needs pytest-benchmark: pip install 'fasthooks[bench]'", pytrace=False)

else:

    @pytest.fixture
    def hook_cost(request: pytest.FixtureRequest, _hook_cost_engine: Any, _hook_cost_clock: _Clock,
                  benchmark: Any) -> "HookCostFixture":
        """What a hook adds to a step: `hook_cost(MyHook, max_us=5)`; see `fasthooks.HookCostFixture`."""
        engine = _hook_cost_engine

        def measure(make_hook, *, model=engine.tiny_model, beside=None, steps=100, max_us=None, session="fasthooks",
                    scheduling=None):
            if max_us is not None and math.isnan(as_float(max_us)):
                raise TypeError(f"max_us must be a number of µs; got {max_us!r}.")
            try:
                with engine.Measurement(make_hook, model=model, beside=beside, steps=steps, session=session,
                                        scheduling=scheduling) as measurement:
                    cost = _measure(request, _hook_cost_clock, benchmark, measurement, max_us)
            except engine.StoppedError as error:
                pytest.fail(str(error), pytrace=False)
            if max_us is not None and cost.low_us > max_us:
                pytest.fail(f"The hook adds {cost.added_us:.2f} µs to a step, surely more than {cost.low_us:.2f} (95 % interval: "
                            f"{cost.low_us:.2f} .. {cost.high_us:.2f}); max_us is {max_us:g}.", pytrace=False)
            return cost

        return measure


def _measure(request, clock, benchmark, measurement, max_us):
    import tensorflow

    import fasthooks
    from fasthooks.hook_cost import MIN_ROUNDS

    if getattr(benchmark, "disabled", False):
        benchmark.pedantic(measurement.run_round)
        nan = math.nan
        return fasthooks.HookCost(nan, nan, nan, nan, nan, nan, nan, rounds=0, steps=measurement.steps)
    options, getoption = _marked(request), request.config.getoption
    max_time = float(options.get("max_time", getoption("benchmark_max_time", 1.0)))
    min_rounds = int(options.get("min_rounds", getoption("benchmark_min_rounds", MIN_ROUNDS)))
    rounds = max(MIN_ROUNDS, min_rounds, int(max_time / measurement.warm_up()))
    if hasattr(benchmark, "disabled"):
        benchmark.pedantic(clock.times(measurement.run_round), rounds=rounds)
        cost = measurement.cost(rounds)  # a profile is taken of one round more
        with_hook, without_hook = measurement.schedulings
        benchmark.extra_info.update(dataclasses.asdict(cost), scheduling_with=with_hook, scheduling_without=without_hook,
                                    tensorflow=tensorflow.__version__, fasthooks=fasthooks.__version__)
    else:  # somebody else's fixture of that name, which has its own idea of time
        for _ in range(rounds):
            measurement.run_round()
        cost = measurement.cost()
        benchmark(measurement.run_round)
    request.config.stash.setdefault(_COSTS, {})[request.node.nodeid] = cost, max_us
    return cost


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_benchmark_scale_unit(config: Any, unit: str, benchmarks: Any) -> tuple[str, float] | None:
    """Shows a group in µs that holds figures of `hook_cost` alone: their least, which else chooses, may be negative."""
    ours = all("added_us" in one["extra_info"] for one in benchmarks)
    chosen = config and config.getoption("benchmark_time_unit", None)
    return ("u", 1e6) if unit == "seconds" and ours and chosen in (None, "auto") else None


@pytest.hookimpl(tryfirst=True)  # a regression that pytest-benchmark finds is raised in its summary
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints a line for each test that measured a hook."""
    costs = config.stash.get(_COSTS, {})
    if costs:
        terminalreporter.section("hook cost, added µs per step")
        width = max(map(len, costs))
        terminalreporter.write_line(f"{'':{width}}   median      95 % interval       with    without   noise")
        for test, (cost, max_us) in costs.items():
            interval = f"{cost.low_us:.2f} .. {cost.high_us:.2f}"
            undecided = ""
            if max_us is not None and cost.low_us <= max_us < cost.high_us:
                undecided = f"   not decided: max_us is {max_us:g}"
            terminalreporter.write_line(f"{test:{width}} {cost.added_us:8.2f} {interval:>18} {cost.with_us:10.2f} "
                                        f"{cost.without_us:10.2f} {cost.noise_us:7.2f}{undecided}")
