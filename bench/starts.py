"""Budgets of starting: imports, sessions, and first runs: B12 to B14."""

import functools
import time

import numpy as np

from bench import common, workers
from bench.table import progress, row


def b12(peer, ours, settings):
    """Import and first access of every public name, TensorFlow being imported already."""
    # The first may have to compile Python files, which is done when a package is installed.
    _, *runs = [workers.call("import_time", module=ours.module) for _ in range(1 + settings.import_repeats)]
    total = [run["total_ms"] for run in runs]
    what = f"import {ours.module} and {runs[0]['names']} public names (slowest: {runs[0]['slowest_name']})"
    ours_us = [1e3 * ms for ms in total]
    return {"rows": [row("B12", what, None, ours_us, total, 50.0, at_most=True, unit="ms", runs=runs)]}


def _take_turns(rounds, peer, ours, measure):
    """Calls `measure(implementation)`, which returns figures, for peer and ours in turn; returns [figures, who, rounds].

    The first turn of each is not measured: what a process does once belongs to neither.
    """
    figures = [[], []]
    for turn in range(-1, rounds):
        for who in (0, 1) if turn % 2 else (1, 0):
            figure = measure((peer, ours)[who])
            if turn >= 0:
                figures[who].append(figure)
    return np.array(figures).transpose(2, 0, 1)


def b13(peer, ours, settings):
    """CPU time from the session's creation to the end of steps 20 and 100 with H7, a fresh graph each time."""
    rows = []
    graphs = [("tiny graph (20 ops a step)", common.tiny, 1.0)]
    for ops, bar in zip(settings.start_ops, (1.1, 1.05), strict=True):
        graphs.append((f"{ops:,} ops", functools.partial(common.large, ops), bar))
    for name, build, bar in graphs:
        progress(f"  {name}")
        with common.workspace() as directory:
            figures = _take_turns(
                settings.start_rounds, peer, ours, functools.partial(_start, build=build, directory=directory)
            )
        bars = {20: 1.1, 100: bar} if build is common.tiny else {100: bar}
        for step, (theirs, mine) in zip((20, 100), figures, strict=True):
            if step in bars:
                what = f"{name}, H7: CPU time, creation to end of step {step}"
                rows.append(row("B13", what, theirs, mine, mine / theirs, bars[step], at_most=True))
    return {"rows": rows}


def _start(impl, build, directory):
    """µs of CPU time from the creation of a session with H7 to the end of step 20, and of step 100."""
    created = []

    def build_and_note():
        model = build()
        created.append(time.process_time_ns())
        return model

    with common.monitored_lane(impl, build_and_note, common.hooks_h7, directory) as lane:
        ends = []
        for steps in (20, 80):
            lane.run(steps)
            ends.append((time.process_time_ns() - created[0]) / 1000.0)
        return ends


FORMS = (
    ("[train, loss]", lambda model: [model.train_op, model.loss]),
    ('{"t": train, "l": loss}', lambda model: {"t": model.train_op, "l": model.loss}),
    ("[loss, train]", lambda model: [model.loss, model.train_op]),
)
SEEN = 3  # runs of `train` before


def b14(peer, ours, settings):
    """CPU time of the first run of other forms of the same fetches, after `train` ran."""

    def hooks(impl, model, directory):
        return [impl.train.NanTensorHook(model.loss)]

    def first_runs(impl):
        with common.monitored_lane(impl, functools.partial(common.large, settings.first_ops), hooks, directory) as lane:
            lane.run(SEEN)
            spent = []
            with lane.graph.as_default():
                for _, form in FORMS:
                    begin = time.process_time_ns()
                    lane.session.run(form(lane.model))
                    spent.append((time.process_time_ns() - begin) / 1000.0)
            return spent

    with common.workspace() as directory:
        figures = _take_turns(settings.start_rounds, peer, ours, first_runs)
    rows = []
    for (name, _), (theirs, mine) in zip(FORMS, figures, strict=True):
        what = f"{settings.first_ops:,} ops, NanTensorHook: CPU time of the first {name} after train"
        rows.append(row("B14", what, theirs, mine, (mine - theirs) / 1000.0, 2.0, at_most=True, unit="ms"))
    return {"rows": rows}
