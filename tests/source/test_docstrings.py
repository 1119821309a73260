"""Docstrings of both packages stand alone: none leans on the sentence before it, and every module has one.

ruff (D101 to D103) sees to it that every public class, method and function has a docstring. What ruff cannot see is
checked here: strings that document a module, class, function, constant or field must not open with "The same" or "Of",
since a reader meets them in a hover, without what stands above them. A function's says what it does, so that it opens
with a verb ("Tells whether", not "Whether"), or what it returns, but not with a question word or a number of things.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "console" / "loradeck", ROOT / "agents" / "loradeck_agent")
BANNED = ("The same", "Of ")
BANNED_FOR_FUNCTIONS = (
    "What ",
    "How ",
    "Who ",
    "Where ",
    "Whether ",
    "All ",
    "One ",
    "None ",
    "Everything ",
    "Another ",
    "Other ",
    "Nothing ",
)
"""Openings of functions' docstrings, those of properties excepted."""

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields line and text of every string that documents something, those after assignments included."""
    for node in ast.walk(tree):
        before: ast.stmt | None = None
        for statement in getattr(node, "body", ()) if isinstance(getattr(node, "body", None), list) else ():
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
                and (
                    isinstance(before, ast.Assign | ast.AnnAssign) or (before is None and isinstance(node, _Documented))
                )
            ):
                yield statement.lineno, statement.value.value.strip()
            before = statement


def faults(source: str) -> list[str]:
    """Lines of a module whose docstring leans on another, as `line: its opening`; line 1 if the module has none."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["1: no module docstring"]
    found += [f"{line}: {text[:60]!r}" for line, text in docstrings(tree) if text.startswith(BANNED)]
    return found + [
        f"{line}: {text[:60]!r}" for line, text in of_functions(tree) if text.startswith(BANNED_FOR_FUNCTIONS)
    ]


def of_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields line and docstring of every function that is no property."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and not any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
                yield node.body[0].lineno, text


def test_every_docstring_stands_alone() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{fault}"
        for package in PACKAGES
        for path in sorted(package.rglob("*.py"))
        for fault in faults(path.read_text(encoding="utf-8"))
    ]
    assert offenders == [], "\n".join(["say what it is, in a sentence that stands alone:", *offenders])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\n", ["1: no module docstring"]),
        ('"""A module."""\n', []),
        ('"""The same, twice."""\n', ["1: 'The same, twice.'"]),
        ('"""A module."""\nX = 1\n"""Of a thing."""\n', ["3: 'Of a thing.'"]),
        ('"""A module."""\nclass A:\n    x: int = 1\n    """Of it."""\n', ["4: 'Of it.'"]),
        ('"""A module."""\ndef f():\n    """The same for f."""\n', ["3: 'The same for f.'"]),
        ('"""A module."""\ndef f():\n    x = 1\n    """Of x."""\n', ["4: 'Of x.'"]),
        ('"""A module."""\nprint("Of course")\n"Of course"\n', []),
        ('"""A module."""\nX = 1\n"""Often a thing."""\n', []),
        ('"""A module."""\ndef f():\n    """What f gives."""\n', ["3: 'What f gives.'"]),
        ('"""A module."""\ndef f():\n    """Returns what f gives."""\n', []),
        ('"""A module."""\ndef f():\n    """Whether f is."""\n', ["3: 'Whether f is.'"]),
        ('"""A module."""\ndef f():\n    """Tells whether f is."""\n', []),
        ('"""A module."""\nclass A:\n    @property\n    def f(self):\n        """What f is."""\n', []),
        ('"""A module."""\nX = 1\n"""What X is."""\n', []),
    ],
)
def test_a_docstring_that_leans_on_another_is_found(source: str, expected: list[str]) -> None:
    assert faults(source) == expected
