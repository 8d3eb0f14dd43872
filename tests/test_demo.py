"""The demo: what it refuses, what it says, and that a short run of it ends with equal variables."""

import json
import os
import subprocess
import sys

import apart
import pytest

from fasthooks.cli import demo


def run(*arguments, directory):
    return subprocess.run([sys.executable, "-m", "fasthooks", "demo", *arguments], cwd=directory, text=True, capture_output=True,
                          timeout=280, env={**os.environ, "COLUMNS": "80"})


def run_apart(*arguments, directory):
    """As `run`, in a process that need not import TensorFlow for it."""
    return apart.run(*apart.python("-m", "fasthooks", "demo", *arguments), cwd=directory, timeout=280)


def test_both_trainings_end_with_the_same_variables(tmp_path):
    pytest.importorskip("sklearn")
    done = run("--steps", "700", "--dir", str(tmp_path / "out"), "--json", "figures.json", directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Both ended at step 700 with the same variables." in done.stdout and "…" not in done.stdout
    assert "times as long as fasthooks'" in " ".join(done.stdout.split())
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["differences"] == [] and figures["ratio"]["low"] <= figures["ratio"]["median"] <= figures["ratio"]["high"]
    for result in figures["results"]:
        assert result["global_step"] == 700 and result["test_accuracy"] > 0.95
        assert min(result["step_us"].values()) > 0 and min(result["unhooked_us"].values()) > 0
    for name in ("tensorflow", "fasthooks"):
        log = (tmp_path / "out" / f"{name}.log").read_text()
        # Each training logs into its own file, and no step into the other's.
        assert log.count("loss = ") == 7 and log.count("Saving checkpoints for") == 2
        # Where there is no terminal, progress goes there too.
        assert ("step 700 of 700 (100.0 %)" in log) == (name == "fasthooks")
    rows = (tmp_path / "out" / "fasthooks" / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,time,loss,steps_per_sec,examples_per_sec" and len(rows) >= 7


@pytest.mark.parametrize("option", ["--json", "--dir"])
def test_what_cannot_be_written_is_refused_before_the_training(tmp_path, option):
    (tmp_path / "file").write_text("")
    done = run_apart("--dir", str(tmp_path / "out"), option, str(tmp_path / "file" / "below"), directory=tmp_path)
    assert done.returncode == 1 and "Writing to" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith(f"demo: {option} cannot be written: ")


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_apart("--dir", "file", directory=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "demo: --dir must be a directory; file is a file"


def test_a_file_that_was_there_is_kept(tmp_path):
    kept, new = tmp_path / "kept", tmp_path / "a" / "new"
    kept.write_text("text")
    demo.refuse_unwritable(kept, "--json")
    demo.refuse_unwritable(new, "--json")
    assert kept.read_text() == "text" and new.parent.is_dir() and not new.exists()


def test_the_sentence():
    assert demo.verdict(demo.Figure(5.0, 4.0, 6.0)) == "TensorFlow's step takes 5.0 times as long as fasthooks' (4.0..6.0)."
    assert demo.verdict(demo.Figure(5.0, 4.0, 6.6)).startswith("The machine was too busy for a figure: ")


def test_a_figure_is_the_median_and_the_middle_half():
    assert demo.figure([1.0, 2.0, 3.0, 4.0, 100.0]) == demo.Figure(3.0, 2.0, 4.0)
    assert str(demo.Figure(1234.56, 1.0, 2.25)) == "1,234.6\n1.0..2.2"


@pytest.mark.parametrize("steps, timed", [(1000, 8), (450, 3), (100, 1), (5, 1), (1, 1)])
def test_blocks(steps, timed):
    """Every step is run once in every lane, the first are not timed, and shorter blocks only where there is no other."""
    class Lane:
        def __init__(self):
            self.blocks, self.block_us = [], []

        def run(self, steps, is_timed):
            self.blocks.append(steps)
            if is_timed:
                self.block_us.append(float(steps))

    class Training:
        def __init__(self):
            self.lanes = [Lane(), Lane()]

    trainings = [Training(), Training()]
    assert list(demo.take_turns(trainings, steps)) == [1.0] * timed
    for training in trainings:
        for lane in training.lanes:
            assert sum(lane.blocks) == steps and len(lane.block_us) == timed
