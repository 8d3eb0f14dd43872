"""The plot of the README: µs a step of TensorFlow and of fasthooks with no hooks, seven and eight.

    python bench/plot.py measure bench/results/steps.json     some two minutes
    python bench/plot.py draw bench/results/steps.json docs/steps.svg

All seven lanes are open in one process and take turns, as in `budgets.py`; the graph is the tiny one, triggers are all in. A
bar is the median of the rounds. Drawing needs the standard library alone.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys

ROUNDS, STEPS, WARM_UP = 15, 1000, 1000
GROUPS = {"no hooks": "no hooks", "H7": "7 stock hooks", "H8": "the same and wandb's"}
BARE, PEER, OURS = "Session.run", "tensorflow", "fasthooks"

# Both kinds of background show these.
TEXT, FIRST, SECOND = "#7d8590", "#d9822b", "#2f81f7"
WIDTH, LEFT, RIGHT, BAR, TOP = 720, 190, 80, 18, 46


def measure():
    """Returns µs a step of each lane, and what they were measured with."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from bench import common, table

    hooks = {"no hooks": common.no_hooks, "H7": common.hooks_h7, "H8": common.hooks_h8}
    names = [(BARE, "no hooks"), *((session, group) for group in GROUPS for session in (PEER, OURS))]
    with common.workspace(wandb=True) as directory, contextlib.ExitStack() as stack:
        lanes = [stack.enter_context(common.bare_lane(common.tiny))]
        lanes += [
            stack.enter_context(common.monitored_lane(common.implementation(session), common.tiny, hooks[group], directory))
            for session, group in names[1:]
        ]
        common.warm_up(lanes, WARM_UP)
        times = common.interleave(lanes, ROUNDS, STEPS).T
    bars = [{"session": session, "hooks": group, "rounds_us": us.tolist()}
            for (session, group), us in zip(names, times, strict=True)]
    return {"environment": table.environment(), "bars": bars}


def draw(figures):
    """Returns the plot as SVG."""
    us = {(bar["session"], bar["hooks"]): statistics.median(bar["rounds_us"]) for bar in figures["bars"]}
    bare = us.pop((BARE, "no hooks"))
    scale = (WIDTH - LEFT - RIGHT) / max(us.values())
    height = TOP + len(GROUPS) * (2 * BAR + 20) + 40
    found = figures["environment"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{TEXT}">',
        "<title>Microseconds a step</title>",
        f'<rect x="{LEFT}" y="12" width="12" height="12" fill="{FIRST}"/><text x="{LEFT + 18}" y="23">TensorFlow</text>',
        f'<rect x="{LEFT + 110}" y="12" width="12" height="12" fill="{SECOND}"/><text x="{LEFT + 128}" y="23">fasthooks</text>',
        f'<text x="{WIDTH - 10}" y="23" text-anchor="end">µs a step, less is better</text>',
    ]
    y = TOP
    for group, words in GROUPS.items():
        parts.append(f'<text x="{LEFT - 12}" y="{y + BAR + 5}" text-anchor="end">{words}</text>')
        for session, colour in ((PEER, FIRST), (OURS, SECOND)):
            value = us[session, group]
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{value * scale:.1f}" height="{BAR - 2}" fill="{colour}"/>'
                         f'<text x="{LEFT + value * scale + 6:.1f}" y="{y + BAR - 5}">{value:.0f}</text>')
            y += BAR
        y += 20
    x = LEFT + bare * scale
    parts += [
        f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{y - 8}" stroke="{TEXT}" stroke-dasharray="4 3"/>',
        f'<text x="{x:.1f}" y="{y + 6}" text-anchor="middle">bare Session.run, {bare:.0f}</text>',
        f'<text x="{WIDTH - 10}" y="{height - 6}" text-anchor="end" font-size="11">tiny graph, all triggers; TensorFlow '
        f'{found["tensorflow"]}, Python {found["python"]}, {found["date"][:10]}; bench/plot.py</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("measure").add_argument("json", type=pathlib.Path)
    drawing = commands.add_parser("draw")
    drawing.add_argument("json", type=pathlib.Path)
    drawing.add_argument("svg", type=pathlib.Path)
    args = parser.parse_args()
    if args.command == "measure":
        args.json.write_text(json.dumps(measure(), indent=1) + "\n")
    else:
        args.svg.write_text(draw(json.loads(args.json.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
