"""The module map of docs/architecture.md, written from the packages themselves; `scripts.reference` puts it there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT / "console" / "loradeck", ROOT / "agents" / "loradeck_agent")


def rooms() -> Iterator[tuple[str, str]]:
    """Every package below `loradeck` and `loradeck_agent`: its dotted name, and what it says is in it."""
    for source in SOURCES:
        for init in sorted(source.rglob("__init__.py")):
            package = init.parent
            text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
            if package != source:
                yield ".".join(package.relative_to(source.parent).parts), " ".join(text.split("\n\n")[0].split())


def reference() -> str:
    """Markdown: one line a room."""
    return "\n".join(["| room | what is in it |", "|---|---|", *(f"| `{room}` | {text} |" for room, text in rooms())])
