"""Counts the lines of code of the programs that exist in a second version, with fasthooks' everyday hooks.

    python bench/count_lines.py

A line of code has something on it that is neither a comment nor a docstring. Lines for hooks are those of the statements that
define a hook, make one or import fasthooks: outermost ones, and those of functions.
"""

import ast
import io
import os
import tokenize

_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
_LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def _code_lines(source, tree):
    # Numbers of the lines of code.
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def _is_for_hooks(node):
    names = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    names |= {alias.name for part in ast.walk(node) if isinstance(part, ast.Import) for alias in part.names}
    return bool(names & {"SessionRunHook", "fh", "fasthooks"}) or any(name.endswith("Hook") for name in names)


def count(path):
    """Returns how many lines of code a program has, and how many of them are for hooks."""
    with open(path, encoding="utf-8") as file:
        source = file.read()
    tree = ast.parse(source)
    lines = _code_lines(source, tree)
    statements = [part for node in tree.body for part in (node.body if isinstance(node, ast.FunctionDef) else [node])]
    for_hooks = [range(node.lineno, node.end_lineno + 1) for node in statements if _is_for_hooks(node)]
    return len(lines), len(lines.intersection(set().union(*for_hooks)))


def main():
    print("| program | lines of code, before | after | for hooks, before | after |")
    print("|---|---:|---:|---:|---:|")
    for name in sorted(os.listdir(os.path.join(_DIRECTORY, "everyday"))):
        before, after = count(os.path.join(_DIRECTORY, name)), count(os.path.join(_DIRECTORY, "everyday", name))
        print(f"| `{name}` | {before[0]} | {after[0]} | {before[1]} | {after[1]} |")


if __name__ == "__main__":
    main()
