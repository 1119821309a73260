"""docs/architecture.md opens with a map of the rooms that is complete, and every name in it exists."""

from __future__ import annotations

import ast
import re

from scripts.reference import DOCS, documents
from scripts.reference_rooms import SOURCES, rooms

PAGE = DOCS / "architecture.md"
NAME = re.compile(r"`(loradeck(?:_agent)?(?:\.\w+)+)`")
"""A dotted name of a package, a module, or something in a module."""


def test_the_map_lists_every_room_with_what_its_package_says_is_in_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == documents()[PAGE], "run: python -m scripts.reference"
    assert all(text for _, text in rooms()), "every room says what is in it"


def test_every_module_and_function_that_the_map_names_exists() -> None:
    head = PAGE.read_text(encoding="utf-8").partition("\n## The hub\n")[0]
    names = set(NAME.findall(head))
    assert [name for name in sorted(names) if not exists(name)] == []
    assert len(names) > len(list(rooms())), "R's path is named, too"


def test_a_name_that_does_not_exist_is_found() -> None:
    assert exists("loradeck.rules.moves.rollback_target.rollback_target")
    assert exists("loradeck_agent.router.table.Table.append")
    assert not exists("loradeck.rules.moves.rollback_target.no_such_rule")
    assert not exists("loradeck.rules.no_such_room")


def exists(name: str) -> bool:
    """Whether a dotted name leads to a package, a module, or a class or function in one."""
    parts = name.split(".")
    place = next(source for source in SOURCES if source.name == parts[0])
    for n, part in enumerate(parts[1:], start=1):
        if (place / part).is_dir():
            place /= part
        elif (place / f"{part}.py").is_file():
            return _defines(ast.parse((place / f"{part}.py").read_text(encoding="utf-8")).body, parts[n + 1 :])
        else:
            return False
    return True


def _defines(body: list[ast.stmt], names: list[str]) -> bool:
    if not names:
        return True
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and statement.name == names[0]:
            return _defines(statement.body if isinstance(statement, ast.ClassDef) else [], names[1:])
    return False
