"""One decision of `SecondOrStepTimer`: `pytest bench/test_trigger.py`.

This is the call from Python, as a hook of yours makes it. The decisions of the package's own hooks are made inside the
compiled step and cost less than this.
"""

import pytest

pytest.importorskip("fasthooks")

from bench import common

pytestmark = pytest.mark.filterwarnings("default")  # TensorFlow warns of deprecations of its own

TIMERS = {
    "steps, quiet": ({"every_steps": 100}, 50),
    "steps, triggers": ({"every_steps": 100}, 101),
    "seconds, quiet": ({"every_secs": 600.0}, 50),
}


@pytest.mark.parametrize("case", TIMERS)
@pytest.mark.parametrize("name", ["tensorflow", "fasthooks"])
def test_should_trigger_for_step(benchmark, name, case):
    benchmark.group = f"one decision: {case}"
    arguments, step = TIMERS[case]
    timer = common.implementation(name).train.SecondOrStepTimer(**arguments)
    timer.update_last_triggered_step(1)
    triggers = benchmark.pedantic(timer.should_trigger_for_step, args=(step,), rounds=50, iterations=2000, warmup_rounds=5)
    assert triggers == case.endswith("triggers")
