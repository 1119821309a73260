"""The tables of docs/console.md, written from the binding table as the help is.

    python -m loradeck.tui.reference docs/console.md

rewrites what stands between the two markers; a test fails when it is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from loradeck.tui.gate.key_bindings import BINDINGS, COMMANDS
from loradeck.tui.lines.help_text import FLAGS, READY, TWINS
from loradeck.tui.model.state import Screen

BEGIN = "<!-- keys: written by python -m loradeck.tui.reference -->"
END = "<!-- /keys -->"


def reference() -> str:
    """Markdown: keys with the screens they mean something on, commands, flags."""
    everywhere = frozenset(Screen)
    keys = [
        (f"`{b.shown}`", "all" if b.where == everywhere else ", ".join(s.value for s in Screen if s in b.where), b.help)
        for b in BINDINGS
    ]
    tables = [
        "## Keys",
        _table(("key", "screens", ""), keys),
        "## Commands after `:`",
        _table(("command", ""), [(f"`{name}`", says) for name, says in COMMANDS.items()]),
        "## Screens without the console",
        _table(
            ("screen", ""),
            [
                (f"`{screen.value}`", ", ".join(f"`loradeck {twin} --json`" for twin in TWINS[screen]))
                for screen in TWINS
            ],
        ),
        "## Flags",
        _table(("flag", ""), FLAGS),
        "## READY",
        _table(("", ""), READY),
    ]
    return "\n\n".join(tables)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)


def updated(document: str) -> str:
    """A document with its tables written anew.

    Raises:
        ValueError: it lacks a marker.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{after}"


def main(path: Path) -> None:
    """Bring a file up to date."""
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
