"""Tests assert order and counts and no seconds: those are the benchmarks', which measure in pairs.

What is looked for is a comparison with the difference of two readings of a clock, or with a name that was given one.
A deadline that guards against a hang (`time.monotonic() < deadline`) is no such thing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CLOCKS = frozenset({"monotonic", "perf_counter", "process_time", "thread_time", "time"})

ALLOWED = {
    "tests/detection/__main__.py::main": "no test: the minutes that a long run may take",
    "tests/unit/artifacts/test_sensitive.py::test_no_text_takes_long_to_redact": (
        "CPU seconds, eight times what it takes: an expression that grows with the square of a text takes more, and no "
        "text is long enough for it to hang"
    ),
    "tests/unit/artifacts/test_sensitive.py::"
    "test_secrets_are_found_anywhere_in_a_long_line_and_a_hostile_one_takes_no_minutes": (
        "CPU seconds, twenty times what it takes, of a library that is not ours"
    ),
}
"""Functions that compare with such a difference all the same, and why."""


def is_reading(node: ast.expr, known: frozenset[str] = frozenset()) -> bool:
    """Tells whether an expression reads a clock, or is a name among those that were given a reading."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv):
        return is_reading(node.left, known) or is_reading(node.right, known)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr.removesuffix("_ns") in CLOCKS and not node.args
    return named(node) in known


def named(node: ast.expr) -> str:
    """The name or attribute that an expression is; '' where it is neither."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def assigned(function: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names and attributes with what they are given, those of tuples one by one."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = (
                    zip(target.elts, node.value.elts, strict=False)
                    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                    else [(target, node.value)]
                )
                yield from ((named(to), value) for to, value in pairs if named(to))
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None and named(node.target):
            yield named(node.target), node.value


def has_duration(node: ast.expr, readings: frozenset[str], durations: frozenset[str] = frozenset()) -> bool:
    """Tells whether a reading is subtracted anywhere in an expression, or a name of such a difference is in it."""
    return any(
        (isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) and is_reading(part.right, readings))
        or (isinstance(part, ast.expr) and named(part) in durations)
        for part in ast.walk(node)
    )


def faults(source: str) -> list[tuple[str, int]]:
    """Functions that compare with seconds that were measured, each with the line."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = list(assigned(function))
        readings = frozenset(name for name, value in given if is_reading(value))
        durations = frozenset(name for name, value in given if has_duration(value, readings))
        found += [
            (function.name, node.lineno)
            for node in ast.walk(function)
            if isinstance(node, ast.Compare) and has_duration(node, readings, durations)
        ]
    return found


def test_no_test_compares_seconds_that_it_measured() -> None:
    found = {
        f"{file.relative_to(TESTS.parent)}::{function}": line
        for file in sorted(TESTS.rglob("*.py"))
        if TESTS / "bench" not in file.parents
        for function, line in faults(file.read_text())
    }
    assert {name: line for name, line in found.items() if name not in ALLOWED} == {}
    assert set(ALLOWED) <= set(found), "what is allowed is still there"


@pytest.mark.parametrize(
    "lines",
    [
        ["began = time.monotonic()", "work()", "assert time.monotonic() - began < 3"],
        ["began, other = time.perf_counter(), 1", "took = time.perf_counter() - began", "assert 1 < took < 3"],
        ["began = loop.time()", "assert loop.time() - began >= PAUSE_S"],
        ["assert abs(at_ms - time.time() * 1000) < 60_000"],
        ["self.began = time.process_time_ns()", "assert time.process_time_ns() - self.began < 10**9"],
    ],
)
def test_each_way_of_it_is_found(lines: list[str]) -> None:
    assert faults("async def f():\n" + "\n".join(f"    {line}" for line in lines)) == [("f", 1 + len(lines))]


@pytest.mark.parametrize(
    "lines",
    [
        ["deadline = time.monotonic() + 60", "while not done():", "    assert time.monotonic() < deadline"],
        ["before = time.monotonic_ns()", "assert before <= ack.mono_ns <= time.monotonic_ns()"],
        ["hour_ago = time.time() - 3600", "assert path.stat().st_mtime > hour_ago"],
        ["began = time.monotonic()", "print(time.monotonic() - began)"],
    ],
)
def test_deadlines_order_and_what_is_only_printed_are_none(lines: list[str]) -> None:
    assert faults("def f():\n" + "\n".join(f"    {line}" for line in lines)) == []
