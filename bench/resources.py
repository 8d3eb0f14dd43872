"""Budgets of memory and of checkpoints: B10 and B11."""

import contextlib
import os
import time

import numpy as np

from bench import common, workers
from bench.table import progress, row


def b10(peer, ours, settings):
    """Resident memory, in MiB. TensorFlow's is measured for the fetch sets only: its steps take too long."""
    begin, end = settings.rss_steps
    steps = workers.call("rss_steps", ours=ours.name, begin=begin, end=end)
    growth = steps["last_mib"] - steps["first_mib"]
    what = f"RSS growth, step {begin:,} to {end:,}, H8 ({steps['last_mib']:.0f} MiB at the end)"
    rows = [row("B10", what, None, None, [growth], 1.0, at_most=True, unit="MiB", **steps)]
    growth = steps["profiled_last_mib"] - steps["profiled_first_mib"]
    what = f"the same over as many more steps, of which a profile is in force ({steps['turns']:,} turns seen)"
    rows.append(row("B10", what, None, None, [growth], 1.0, at_most=True, unit="MiB"))
    sets = [workers.call("rss_fetch_sets", ours=impl.name, count=settings.fetch_sets) for impl in (peer, ours)]
    theirs, mine = (one["all_mib"] - one["half_mib"] for one in sets)
    what = f"RSS growth, second half of {settings.fetch_sets:,} fetch sets: {mine:,.1f} MiB, less TF's own {theirs:,.1f}"
    rows.append(row("B10", what, None, None, [mine - theirs], 1.0, at_most=True, unit="MiB", peer=sets[0], ours=sets[1]))
    return {"rows": rows}


SAVE_STEPS = 20  # steps between two checkpoints of B11; the trigger and the 5 steps after it are timed


class _CheckpointLane:
    """A monitored session that saves a checkpoint every `SAVE_STEPS` steps, and where it saves them."""

    def __init__(self, impl, build, directory, stack):
        def hooks(impl, model, own_directory):
            self.directory = own_directory
            return [impl.checkpoint_hook(own_directory, save_steps=SAVE_STEPS)]

        self.lane = stack.enter_context(common.monitored_lane(impl, build, hooks, directory))

    def longest_step(self):
        """Goes up to the next checkpoint and reads it back; returns the longest of its step and the 5 after it, in µs."""
        self.lane.run(SAVE_STEPS - 1 - self.lane.position % SAVE_STEPS)
        longest = max(self.lane.run(1) for _ in range(6)) / 1000.0
        step = self.lane.position - 5
        path = os.path.join(self.directory, f"model.ckpt-{step}")
        deadline = time.monotonic() + 120
        while common.tf.train.latest_checkpoint(self.directory) != path or not os.path.exists(path + ".meta"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no checkpoint {path}")
            time.sleep(0.01)
        reader = common.tf.train.load_checkpoint(path)
        found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
        if (found["global_step"], found["count"]) != (step, step):
            raise RuntimeError(f"{path} is of step {found['global_step']}, with {found['count']} updates")
        self.lane.run(2)  # what is left to do for this checkpoint belongs to it
        return longest


def b11(peer, ours, settings):
    """Stalls by checkpoints: longest of the step that triggers and the 5 after it, taking turns on the same disk."""
    rows = []
    for what, build in (
        ("embeddings, 64 rows of each updated a step", common.embeddings),
        ("frozen weights, small head trained", common.fine_tuning),
        ("dense, all updated in each step", common.dense_updates),
    ):
        progress(f"  {what}")
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(common.workspace())
            lanes = [
                _CheckpointLane(impl, lambda build=build: build(settings.checkpoint_mb), directory, stack)
                for impl in (peer, ours)
            ]
            for lane in lanes:
                lane.longest_step()
            times = np.zeros([settings.rounds, 2])
            for number in range(settings.rounds):
                for i in (0, 1) if number % 2 else (1, 0):
                    times[number, i] = lanes[i].longest_step()
        theirs, mine = times.T
        name = f"{settings.checkpoint_mb:g} MB checkpoint, {what}: longest step"
        rows.append(row("B11", name, theirs, mine, mine / theirs, 0.2, at_most=True))
    return {"rows": rows}
