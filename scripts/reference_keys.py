"""The tables of docs/console.md, written from the key bindings, as the help is; `scripts.reference` puts them there."""

from __future__ import annotations

from collections.abc import Sequence

from loradeck.tui.keys.action import Screen
from loradeck.tui.keys.default_bindings import BINDINGS, COMMANDS
from loradeck.tui.keys.personal_keys import DEFAULT
from loradeck.tui.lines.help_text import FIGURES, FLAGS, TWINS, WAY_BACK


def reference() -> str:
    """Markdown: keys with their actions and the screens they mean something on, commands, words of the tenants."""
    everywhere = frozenset(Screen)
    keys = [
        (
            f"`{b.shown}`",
            f"`{b.action}`",
            "all" if b.where == everywhere else ", ".join(s.value for s in Screen if s in b.where),
            DEFAULT.text(b.help),
        )
        for b in BINDINGS
    ]
    tables = [
        "## Keys",
        _table(("key", "action", "screens", ""), keys),
        "## Commands after `:`",
        _table(("command", ""), [(f"`{name}`", DEFAULT.text(says)) for name, says in COMMANDS.items()]),
        "## Screens without the console",
        _table(
            ("screen", ""),
            [
                (f"`{screen.value}`", ", ".join(f"`loradeck {twin} --json`" for twin in TWINS[screen]))
                for screen in TWINS
            ],
        ),
        "## What stands in the columns of the tenants",
        _table(("column", ""), FIGURES),
        "## WHY",
        _table(("words", "flag", ""), [(words, flag, says) for flag, words, says in FLAGS]),
        "## R GOES TO",
        _table(("", ""), WAY_BACK),
    ]
    return "\n\n".join(tables)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)
