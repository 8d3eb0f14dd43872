"""The benchmark scripts still run: each budget with a handful of steps. Nothing here asserts on time."""

import functools
import glob
import json
import math
import os
import platform
import subprocess
import types

import apart
import pytest

pytest.importorskip("bench", reason="the benchmarks are not beside the tests")

from bench import budgets, compare_programs, forms, settings, table, workers

common, steps = budgets.common, budgets.steps

# TensorFlow and wandb warn of deprecations of their own.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(120)]

try:
    OURS = common.implementation("fasthooks")
except ImportError:
    OURS = common.implementation("tensorflow")  # keeps the scripts tested where the package is not built
PEER = common.implementation("tensorflow")

ROWS = {
    "A2": 3, "B1": 4, "B2": 6, "B3": 11, "B4": 1, "B5": 2, "B5a": 3, "B6": 4, "B7": 10, "B8": 3, "B9": 7, "B10": 3, "B11": 3,
    "B12": 1,
    "B13": 4, "B14": 3, "B15": len(forms.FORMS) + len(forms.HOOKED), "B16": 6, "B17": 6, "B18": 2, "FEED": 3, "COST": 2, "C1": 10,
}
DIFFERENCES = {"A2", "B14", "B16", "FEED", "COST"}  # made of differences, which may come out negative
# Their workers are started in processes that have TensorFlow imported; B12's as it comes.
STARTED_APART = {"B7", "B10"}
ON_LANES = {name for name in ROWS if name not in {"B8", "B10", "B12", "FEED", "COST"}}


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
    if row["budget"] in ON_LANES:
        assert row["devices"]
        assert all("/device:CPU:" in device for device in row["devices"]) or common.tf.config.list_physical_devices("GPU")
    if row["budget"] == "B17":
        assert len(row["devices"]) >= 2


def test_every_budget_has_its_row_count():
    assert set(ROWS) == set(budgets.BUDGETS)


def start_apart(name, arguments=None, **options):
    """Stands in for `workers.start`."""
    return apart.Process(*apart.python(workers.__file__, name, json.dumps(arguments or {})), stdout=subprocess.PIPE, text=True,
                         **options)


@pytest.mark.parametrize("name", ROWS)
def test_budget(name, monkeypatch):
    if name in STARTED_APART:
        monkeypatch.setattr(workers, "start", start_apart)
    if name in budgets.NEEDS_WANDB:
        pytest.importorskip("wandb")
    if name in budgets.NEEDS_ESTIMATOR and not budgets.estimators.available():
        pytest.skip("no tf.estimator")
    rows = budgets.BUDGETS[name](PEER, OURS, settings.TINY)["rows"]
    assert len(rows) == ROWS[name]
    for row in rows:
        assert row["budget"] == name
        check_row(row)
    for format_rows in (budgets.format_table, budgets.format_markdown):
        assert len(format_rows(rows).splitlines()) == 2 + len(rows)


def test_table_and_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(budgets, "QUICK", settings.TINY)
    file = tmp_path / "figures.json"
    only = "b1,b5a" if common.has_wandb() else "b5a"
    assert budgets.main(["--quick", "--only", only, "--ours", OURS.name, "--json", str(file)]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"Python {platform.python_version()}, TensorFlow {common.tf.__version__}")
    assert "budget" in output
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
    results = budgets.measure(["B12", "B5a"], PEER, OURS, settings.TINY)
    assert results["B12"]["error"] == "RuntimeError: no luck"
    assert len(results["B5a"]["rows"]) == 3


def test_a_budget_that_is_not_available_is_no_failure(monkeypatch, capsys):
    monkeypatch.setattr(budgets.estimators, "available", lambda: False)
    assert budgets.main(["--only", "B8", "--check", "--ours", OURS.name]) == 0
    assert "B8 not available: no tf.estimator" in capsys.readouterr().out


@pytest.mark.parametrize("build", [build for _, build, _ in steps.SUITE] + [common.tiny, common.tiny_fed])
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


@pytest.mark.parametrize("ops", [1000, 2000])
def test_large_graph_has_the_asked_size(ops):
    with common.tf.Graph().as_default() as graph:
        common.large(ops)
        assert 0.9 * ops <= len(graph.get_operations()) <= 1.1 * ops


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("build", [common.tiny, common.tiny_fed, common.two_devices])
def test_a_prepared_lane_makes_steps(build, inline):
    config = common.TWO_CPUS if build is common.two_devices else None
    with common.prepared_lane(build, inline, config=config) as lane, lane.graph.as_default():
        lane.run(3)
        assert lane.session.run(common.v1.train.get_global_step()) == 3


def test_two_devices_has_two_partitions():
    with common.tf.Graph().as_default():
        model = common.two_devices()
        metadata = common.v1.RunMetadata()
        with common.v1.Session(config=common.TWO_CPUS) as session:
            session.run(common.v1.global_variables_initializer())
            options = common.v1.RunOptions(output_partition_graphs=True)
            session.run(model.train_op, options=options, run_metadata=metadata)
    assert len(metadata.partition_graphs) == 2


def test_what_a_row_is_held_against():
    make = functools.partial(table.row, "B1", "what", None, None, [0.9, 1.0, 1.1])
    assert not make(1.5)["met"]
    assert make(1.5, at_most=True)["met"]
    assert make(1.02, within=0.03)["met"]
    assert not make(1.04, within=0.03)["met"]
    assert make(low_end=0.8)["met"]
    assert not make(0.5, low_end=0.95)["met"]


def test_no_two_numbers_have_the_same_structure():
    structures = [forms.nesting(list("abcd"), number) for number in range(2000)]
    assert len({repr(structure) for structure in structures}) == 2000


@pytest.mark.parametrize("name", forms.FORMS)
def test_a_form_gives_the_same_from_both(name):
    def results(impl):
        with forms.plain_lane(impl, None) as lane, lane.graph.as_default():
            step = forms.FORMS[name](lane.model, lane.session.run)
            return [step() for _ in range(5)]

    assert repr(results(OURS)) == repr(results(PEER))


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
    def popen(command, **options):  # of a process that has TensorFlow imported, for the command that is really made
        return apart.Process(*apart.python(*command[1:]), **options)

    monkeypatch.setattr(compare_programs, "subprocess", types.SimpleNamespace(**{**vars(subprocess), "Popen": popen}))
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
