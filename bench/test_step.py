"""One step of the tiny graph with 0, 1, 4 and 16 hooks: `pytest bench/test_step.py`.

To profile a hook of your own, copy this file and return it from `make_hook`. The difference between 16 hooks and 0, divided
by 16, is what one of them adds to a step. The figures include the steps on which the hook acts.
"""

import pytest

pytest.importorskip("fasthooks")

from bench import common

pytestmark = pytest.mark.filterwarnings("default")  # TensorFlow warns of deprecations of its own

STEPS = 200  # per round; one figure of pytest-benchmark is the time of one step, averaged over a round


def make_hook(impl, model, directory):
    """The hook under test; called once for each place in the list."""
    return impl.train.NanTensorHook(model.loss)


@pytest.mark.parametrize("count", [0, 1, 4, 16])
@pytest.mark.parametrize("name", ["tensorflow", "fasthooks"])
def test_step(benchmark, name, count):
    benchmark.group = f"one step, {count} hooks"
    impl = common.implementation(name)

    def hooks(impl, model, directory):
        return [make_hook(impl, model, directory) for _ in range(count)]

    with (
        common.workspace() as directory,
        common.monitored_lane(impl, common.tiny, hooks, directory) as lane,
        lane.graph.as_default(),
    ):
        lane.run(1000)  # until then fasthooks tries ways to run the step
        run, train_op = lane.session.run, lane.model.train_op
        benchmark.pedantic(run, args=(train_op,), rounds=15, iterations=STEPS, warmup_rounds=1)
