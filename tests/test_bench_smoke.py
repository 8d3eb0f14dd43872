"""The benchmark scripts still run: each budget with a handful of steps. Nothing here asserts on time."""

import glob
import json
import math
import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not os.path.exists(os.path.join(ROOT, "bench", "budgets.py")):
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
if ROOT not in sys.path:
    sys.path.append(ROOT)  # at the end: an installed fasthooks is found first

pytest.importorskip("tensorflow")
budgets = pytest.importorskip("bench.budgets")
compare_programs = pytest.importorskip("bench.compare_programs")
common = budgets.common

# TensorFlow and wandb warn of deprecations of their own.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(120)]

try:
    OURS = common.implementation("fasthooks")
except ImportError:
    OURS = common.implementation("tensorflow")  # keeps the scripts tested where the package is not built
PEER = common.implementation("tensorflow")

ROWS = {
    "B1": 2, "B2": 4, "B3": 7, "B4": 1, "B5": 1, "B6": 4, "B7": 2, "B8": 3, "B9": 1, "B10": 2, "B11": 3, "B12": 1, "B13": 1,
    "FEED": 3,
}
DIFFERENCES = {"B9", "FEED"}  # a ratio of two differences, which may come out negative


def check_row(row):
    assert row["value"]["min"] <= row["value"]["median"] <= row["value"]["max"]
    assert all(math.isfinite(number) for number in row["value"].values())
    if row["unit"] in ("x", "ms") and row["budget"] not in DIFFERENCES:
        assert row["value"]["min"] > 0
    for who in ("peer_us", "ours_us"):
        if row[who] is not None and row["budget"] not in DIFFERENCES:
            assert math.isfinite(row[who])
            assert row[who] > 0
    assert isinstance(row["met"], bool)


def test_every_budget_has_its_row_count():
    assert set(ROWS) == set(budgets.BUDGETS)


@pytest.mark.parametrize("name", ROWS)
def test_budget(name):
    if name in budgets.NEEDS_WANDB:
        pytest.importorskip("wandb")
    if name in budgets.NEEDS_ESTIMATOR and not budgets.estimators.available():
        pytest.skip("no tf.estimator")
    rows = budgets.BUDGETS[name](PEER, OURS, budgets.TINY)["rows"]
    assert len(rows) == ROWS[name]
    for row in rows:
        assert row["budget"] == name
        check_row(row)
    assert len(budgets.format_table(rows).splitlines()) == 2 + len(rows)


def test_table_and_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(budgets, "QUICK", budgets.TINY)
    file = tmp_path / "figures.json"
    only = "b1" if common.has_wandb() else "b9"
    assert budgets.main(["--quick", "--only", only, "--ours", OURS.name, "--json", str(file)]) == 0
    assert "budget" in capsys.readouterr().out
    written = json.loads(file.read_text())
    assert (written["ours"], written["peer"]) == (OURS.name, "tensorflow")
    assert written["environment"]["tensorflow"] == common.tf.__version__
    assert written["rows"]
    assert not any("error" in other for other in written["other"].values())
    for row in written["rows"]:
        check_row(row)


def test_one_failing_budget_does_not_hide_the_others(monkeypatch):
    def broken(peer, ours, settings):
        """Broken."""
        raise RuntimeError("no luck")

    monkeypatch.setitem(budgets.BUDGETS, "B12", broken)
    results = budgets.measure(["B12", "B9"], PEER, OURS, budgets.TINY)
    assert results["B12"]["error"] == "RuntimeError: no luck"
    assert len(results["B9"]["rows"]) == 1


def test_a_budget_that_is_not_available_is_no_failure(monkeypatch, capsys):
    monkeypatch.setattr(budgets.estimators, "available", lambda: False)
    assert budgets.main(["--only", "B8", "--check", "--ours", OURS.name]) == 0
    assert "B8 not available: no tf.estimator" in capsys.readouterr().out


@pytest.mark.parametrize("build", [build for _, build, _ in budgets.SUITE] + [common.tiny, common.tiny_fed])
def test_graphs_train(build):
    with common.bare_lane(build) as lane, lane.graph.as_default():
        lane.run(3)
        feed = lane.model.feeds[0] if lane.model.feeds else None
        assert math.isfinite(lane.session.run(lane.model.loss, feed_dict=feed))
        assert lane.session.run(common.v1.train.get_global_step()) == 3


@pytest.mark.parametrize("impl", [PEER, OURS], ids=["peer", "ours"])
def test_the_hooks_act_while_they_are_measured(impl):
    wandb = pytest.importorskip("wandb")
    with (
        common.workspace(wandb=True) as directory,
        common.monitored_lane(impl, common.tiny, common.hooks_h8, directory) as lane,
    ):
        lane.run(2 * common.LONG_PERIOD + 50)
        assert wandb.run.step >= 1
        with open(os.path.join(directory, "tensorflow.log")) as log:
            assert sum("loss = " in line for line in log) == 21
        (events,) = glob.glob(os.path.join(directory, "*", "events.out.tfevents.*"))
        common.v1.summary.FileWriterCache.get(os.path.dirname(events)).flush()
        tags = [v.tag for e in common.v1.train.summary_iterator(events) for v in e.summary.value]
        assert tags.count("loss") == 21
        assert tags.count("global_step/sec") == 20


def test_large_graph_has_the_asked_size():
    with common.tf.Graph().as_default() as graph:
        common.large(2000)
        assert 1800 <= len(graph.get_operations()) <= 2200


def test_a_session_that_stops_early_is_an_error():
    def hooks(impl, model, directory):
        return [impl.train.StopAtStepHook(last_step=3)]

    with (
        common.workspace() as directory,
        common.monitored_lane(PEER, common.tiny, hooks, directory) as lane,
        pytest.raises(RuntimeError, match="stopped before the benchmark"),
    ):
        lane.run(5)


def test_bad_arguments(capsys):
    with pytest.raises(ValueError, match="'torch'"):
        common.implementation("torch")
    for bad in (["--only", "B99"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            budgets.main([*bad, "--ours", "tensorflow"])
    assert "B99" in capsys.readouterr().err


def test_programs_table_and_json(tmp_path, capsys, monkeypatch):
    broken = tmp_path / "broken.py"
    broken.write_text('"""Ends early."""\nraise SystemExit("no luck")\n')
    monkeypatch.setitem(compare_programs.PROGRAMS, "broken", str(broken))
    file = tmp_path / "figures.json"
    names = ["broken", "plain_session", "rnn_while_loop"]
    arguments = ["--only", ",".join(names), "--rounds", "1", "--steps", "20", "--json", str(file)]
    assert compare_programs.main(arguments) == 1
    output = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in output[2:4]] == ["| `plain_session`", "| `rnn_while_loop`"]
    assert output[2].endswith("| 0% |")
    assert output[4:] == ["broken not measured: ProgramError: exit code 1"]
    written = json.loads(file.read_text())
    assert written["environment"]["tensorflow"] == common.tf.__version__
    rows = {row["program"]: row for row in written["rows"]}
    assert list(rows) == names
    assert "no luck" in rows["broken"]["error"]
    for name in names[1:]:
        for launcher in compare_programs.LAUNCHERS:
            (speed,) = rows[name][launcher]
            assert math.isfinite(speed) and speed > 0
    assert rows["rnn_while_loop"]["planned"] > 0


def test_programs_bad_arguments(capsys):
    for bad in (["--only", "life"], ["--rounds", "0"], ["--steps", "-1"]):
        with pytest.raises(SystemExit):
            compare_programs.main(bad)
    assert "life" in capsys.readouterr().err
