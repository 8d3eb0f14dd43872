"""Programs on several machines, as processes of this one: the same on TensorFlow alone, and on fasthooks in each way.

`bench/clusters.py` runs more of them, with and without a hook in plain Python; here are those that take a second or two.
"""

import copy

import psutil
import pytest
import tensorflow as tf

pytest.importorskip("bench", reason="the programs are not beside the tests")

from bench import clusters

pytestmark = pytest.mark.timeout(240)
_stock = {}


@pytest.fixture(autouse=True)
def _no_orphans():
    # The server that processes are forked from, and what keeps track of its resources, stay.
    process = clusters.processes.Process(target=int)
    process.start()
    process.join()
    before = set(psutil.Process().children(recursive=True))
    yield
    assert not set(psutil.Process().children(recursive=True)) - before


def stock(name, case, directory):
    """What a case's tasks tell on TensorFlow alone."""
    if name not in _stock:
        _stock[name] = clusters.run(case, "stock", directory / "stock")
    return copy.deepcopy(_stock[name])


@pytest.mark.parametrize("way", ["ours", "adopted", "patched"])
@pytest.mark.parametrize("name", ["in_graph", "mirrored", "multi_worker", "estimator"])
def test_steps_item_by_item(name, way, tmp_path):
    """Results, fetch decisions, what a Python hook sees, and what is saved; each step takes its plan."""
    case = clusters.CASES[name]
    if case.needs and not hasattr(tf, case.needs):
        pytest.skip(f"no tf.{case.needs}")
    expected = stock(name, case, tmp_path)
    clusters.check(clusters.run(case, way, tmp_path / way), expected)
    for task, told in expected.items():
        if name == "estimator":
            assert task == "worker0" or told["told"]["saved"][1:] == [True, 1, True]
            assert task != "evaluator0" or told["told"]["evaluated"]
        else:
            assert len(told["told"]["results"]) == 40
            assert told["told"]["decisions"][-1] == [6, 6]
            assert told["told"]["python_hook"][-1] == "end"


@pytest.mark.parametrize(("name", "way"), [("reference_variables", "ours"), ("partitioned_variables", "patched")])
def test_two_parameter_servers(name, way, tmp_path):
    """A chief and two workers that do not wait for each other make all their steps, and the last checkpoint has them all."""
    case = clusters.CASES[name]
    expected = stock(name, case, tmp_path)
    clusters.check(clusters.run(case, way, tmp_path / way), expected)
    chief = expected["chief0"]["told"]
    assert chief["falling"]
    assert chief["saved"]["global_step"][2] == 120
    assert chief["saved"]["weights"][2] == [-120.0] * 4
    assert set(expected) == {"chief0", "worker0", "worker1"}


def test_the_command_on_every_task(tmp_path):
    """A program that knows nothing of fasthooks, run by its command on parameter server, chief and worker, saves the same."""
    case = clusters.Case("between_graph", {"ps": 1, "chief": 1, "worker": 1}, ("ps",), {"steps": 20})
    expected = stock("command", case, tmp_path)
    clusters.check(clusters.run(case, "command", tmp_path / "command"), expected)
    assert expected["chief0"]["told"]["saved"] == {
        "global_step": ["int64", "int64", 40], "weights": ["ndarray", "float32", [-40.0] * 4]}


# What the comparison itself is worth


def told(decisions=(1,), runs=2, declined=None, planned=3, **more):
    return {"told": {"decisions": list(decisions), "runs": runs, **more},
            "runs": {"steps": 3, "planned_steps": planned, "declined": declined or {}}}


@pytest.mark.parametrize(("ours", "says"), [
    ([told(), told(saved=2)], "tells of saved"),
    ([told(), told(runs=3)], "runs were made"),
    ([told(), told(declined={"why": 1})], "not every step"),
    ([told(), told(planned=2)], "not every step"),
    ([told(), told([2])], "tells of decisions"),
])
def test_differences_are_found(ours, says):
    stock = [told(), told(saved=1) if "saved" in ours[1]["told"] else told()]
    with pytest.raises(clusters.Different, match=says):
        clusters.check(*[{f"worker{i}": one for i, one in enumerate(all_told)} for all_told in (ours, stock)])
    clusters.check(*[{f"worker{i}": one for i, one in enumerate(stock)}] * 2)


def test_workers_that_decide_otherwise_are_found():
    """Even where TensorFlow's do: such a program hangs sooner or later."""
    tasks = {"worker0": told([1], collective=True), "worker1": told([2], collective=True)}
    with pytest.raises(clusters.Different, match="fetched otherwise"):
        clusters.check(tasks, tasks)


def test_what_takes_too_long_is_ended(tmp_path):
    with pytest.raises(clusters.Different, match="no end of worker0"):
        clusters.run(clusters.CASES["in_graph"], "stock", tmp_path / "run", limit_secs=0)


def test_what_fails_is_told_with_its_log(tmp_path):
    case = clusters.Case("in_graph", {"worker": 1}, options={"steps": "many"})
    with pytest.raises(clusters.Different, match=r"(?s)without telling.*== worker0\n.*Error"):
        clusters.run(case, "stock", tmp_path / "run")
