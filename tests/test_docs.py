"""README and docs: every Python block runs, top to bottom, and the reference has every public name once.

A block that is no program says so in a comment above it: `<!-- excerpt -->`, or `<!-- pytest -->` for tests, which pytest runs.
"""

import ast
import contextlib
import io
import json
import multiprocessing
import pathlib
import re
import runpy
import sys
import traceback

import pytest
import tensorflow as tf

import fasthooks as fh
from fasthooks import __main__, types

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"(?:^<!-- (?P<mark>\w+) -->\n)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in TEXTS if BLOCK.search(page.read_text())]
NEEDS_ESTIMATOR = [DOCS / "guides" / "estimator.md"]

# TensorFlow is imported once, and each page runs in a child of the process that did; no session was ever made in that.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tensorflow.compat.v1", "fasthooks", "wandb"])


def run_page(page, log):
    """Runs in a process of its own. What the page prints, and a traceback, go to the file `log`."""
    text = page.read_text()
    names = {"__name__": "__main__"}
    with open(log, "w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            for block in BLOCK.finditer(text):
                if block["mark"] == "pytest":
                    pathlib.Path("test_page.py").write_text(block["code"])
                    assert pytest.main(["-q", "-p", "no:cacheprovider", "--benchmark-disable", "test_page.py"]) == 0
                elif block["mark"] is None:
                    lines = text.count("\n", 0, block.start("code"))  # so that tracebacks name the page's lines
                    exec(compile("\n" * lines + block["code"], str(page), "exec"), names)
        except BaseException:
            traceback.print_exc(file=out)
            sys.exit(1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    if page in NEEDS_ESTIMATOR and not hasattr(tf.compat.v1, "estimator"):
        pytest.skip("TensorFlow has no tf.estimator any more")
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    process = processes.Process(target=run_page, args=(page, log))
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 0, log.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_all_blocks_are_seen(page):
    text = page.read_text()
    marks = [block["mark"] for block in BLOCK.finditer(text)]
    assert len(marks) == len(re.findall(r"```\s*py", text))
    assert {*marks} <= {None, "excerpt", "pytest"}


def test_the_reference_has_every_public_name_once():
    text = "".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
    found = re.findall(r"^\.\. (?:auto|py:)(?:class|function|exception|data):: fasthooks\.([\w.]+)$", text, re.MULTILINE)
    defined = {getattr(node, "name", None) or node.target.id for node in ast.parse(pathlib.Path(types.__file__).read_text()).body
               if isinstance(node, (ast.ClassDef, ast.AnnAssign))}
    aliases = defined - set(fh.__all__)  # of Any, which have no name of their own
    assert sorted(found) == sorted([*fh.__all__, *(f"types.{name}" for name in aliases)])


def test_the_reference_has_every_option_of_the_commands():
    page = (DOCS / "reference" / "command-line.md").read_text()
    for command in ("run", "profile", "demo"):
        section = page.partition(f"## {command}\n")[2].partition("\n## ")[0]
        told = io.StringIO()
        with contextlib.redirect_stdout(told), pytest.raises(SystemExit):
            __main__.main([command, "--help"])
        options = set(re.findall(r"--[a-z-]+", told.getvalue().partition("usage:")[2])) - {"--help"}
        assert options
        assert options == set(re.findall(r"^\| `(--[a-z-]+)`", section, re.MULTILINE))


def test_the_plot_is_that_of_its_figures():
    draw = runpy.run_path(str(ROOT / "bench" / "plot.py"))["draw"]
    (figures,) = (ROOT / "bench" / "results").glob("*-steps-*.json")
    assert (DOCS / "steps.svg").read_text(encoding="utf-8") == draw(json.loads(figures.read_text()))


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
