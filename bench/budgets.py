"""Measures the performance budgets and prints one table: what fasthooks costs, what TensorFlow costs, and the bar.

    python bench/budgets.py                      all budgets, 15 rounds each
    python bench/budgets.py --only B1,B3 --quick
    python bench/budgets.py --ours tensorflow    TensorFlow against itself: ratios must be about 1.0

B8 needs a TensorFlow that has tf.estimator, 2.15; B11 wants a quiet disk.
"""

import argparse
import dataclasses
import json
import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.append(ROOT)  # at the end: an installed fasthooks is found first

from bench import common, costs, estimators, everyday, feeds, forms, resources, servers, starts, steps  # noqa: E402
from bench.settings import FULL, QUICK  # noqa: E402
from bench.table import environment, format_environment, format_markdown, format_table, progress  # noqa: E402

# Each is a function of peer, ours and settings that returns {"rows": [...]}.
BUDGETS = {
    "A2": steps.a2,
    "B1": steps.b1,
    "B2": steps.b2,
    "B3": steps.b3,
    "B4": steps.b4,
    "B5": steps.b5,
    "B5a": steps.b5a,
    "B6": steps.b6,
    "B7": servers.b7,
    "B8": estimators.b8,
    "B9": steps.b9,
    "B10": resources.b10,
    "B11": resources.b11,
    "B12": starts.b12,
    "B13": starts.b13,
    "B14": starts.b14,
    "B15": forms.b15,
    "B16": steps.b16,
    "B17": steps.b17,
    "B18": steps.b18,
    "FEED": feeds.feed,
    "COST": costs.cost,
    "C1": everyday.c1,
}
NEEDS_WANDB = {"B1", "B2", "B3", "B4", "B5", "B6", "B7", "B10", "B17", "C1"}
NEEDS_ESTIMATOR = {"B8"}


def measure(names, peer, ours, settings):
    """Runs the budgets called `names`; returns their results by name.

    One that fails is reported and left out; so is one that this TensorFlow has nothing to measure for.
    """
    results = {}
    for name in names:
        begin = time.perf_counter()
        common.devices.forget()
        progress(f"{name}: {BUDGETS[name].__doc__.splitlines()[0]}")
        if name in NEEDS_WANDB and not common.has_wandb():
            results[name] = {"rows": [], "error": "needs wandb"}
        elif name in NEEDS_ESTIMATOR and not estimators.available():
            results[name] = {"rows": [], "not_available": "no tf.estimator"}
        else:
            try:
                results[name] = BUDGETS[name](peer, ours, settings)
            except Exception as error:  # the other budgets are still worth measuring
                results[name] = {"rows": [], "error": f"{type(error).__name__}: {error}"}
        if "error" in results[name]:
            progress(f"{name} not measured: {results[name]['error']}")
        results[name]["wall_secs"] = time.perf_counter() - begin
        progress(f"{name} took {results[name]['wall_secs']:.0f} s")
    return results


def write_json(path, results, found, peer, ours, settings):
    rows = [r for result in results.values() for r in result["rows"]]
    text = json.dumps(
        {
            "environment": found,
            "peer": peer.name,
            "ours": ours.name,
            "settings": dataclasses.asdict(settings),
            "rows": rows,
            "other": {name: {k: v for k, v in result.items() if k != "rows"} for name, result in results.items()},
        },
        indent=1,
    )
    with open(path, "w") as file:
        file.write(text + "\n")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(BUDGETS), help="comma-separated budgets, such as B1,B3")
    parser.add_argument("--rounds", type=int, help="rounds per comparison, 15 if left out")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and steps: a first impression, not a verdict")
    parser.add_argument("--json", metavar="FILE", help="write all figures and versions there")
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/benchmarks.md has it")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a budget is not met or not measured")
    parser.add_argument("--peer", default="tensorflow", choices=("tensorflow", "fasthooks"))
    parser.add_argument("--ours", default="fasthooks", choices=("tensorflow", "fasthooks"))
    args = parser.parse_args(argv)
    by_upper = {name.upper(): name for name in BUDGETS}
    asked = [name.strip().upper() for name in args.only.split(",") if name.strip()]
    unknown = sorted(set(asked) - set(by_upper))
    if unknown:
        parser.error(f"--only: unknown budgets {', '.join(unknown)}; there are {', '.join(BUDGETS)}")
    settings = QUICK if args.quick else FULL
    if args.rounds is not None:
        if args.rounds < 1:
            parser.error(f"--rounds must be at least 1, got {args.rounds}")
        settings = dataclasses.replace(settings, rounds=args.rounds, start_rounds=args.rounds)
    try:
        peer, ours = common.implementation(args.peer), common.implementation(args.ours)
    except ImportError as error:
        parser.error(f"fasthooks cannot be imported ({error}); build it, or pass --ours tensorflow")

    found = environment()  # first: the load is that of others
    results = measure([by_upper[name] for name in asked], peer, ours, settings)
    rows = [r for result in results.values() for r in result["rows"]]
    print(format_environment(found))
    print(format_markdown(rows) if args.markdown else format_table(rows))
    if args.quick:
        print(
            f"--quick: {settings.rounds} rounds; larger graphs {settings.graph_round_steps} steps a round (not "
            f"every round has all triggers); memory over {settings.rss_steps[0]:,} to {settings.rss_steps[1]:,} steps and "
            f"{settings.fetch_sets:,} fetch sets."
        )
    for name, result in results.items():
        if "error" in result:
            print(f"{name} not measured: {result['error'].splitlines()[0]}")
        if "not_available" in result:
            print(f"{name} not available: {result['not_available']}")
    if args.json:
        write_json(args.json, results, found, peer, ours, settings)
    good = all(r["met"] for r in rows) and not any("error" in result for result in results.values())
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
