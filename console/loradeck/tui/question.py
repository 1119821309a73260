"""The question that waits for y: frozen when it was asked, dropped when what it is about changes."""

from __future__ import annotations

import itertools
import textwrap
from dataclasses import dataclass, field

from loradeck.schemas.moves import UndoRequest
from loradeck.tui.dispatch import Action, Ask
from loradeck.tui.preview import title
from loradeck.tui.state import ConsoleState
from loradeck.tui.text import Line, Span, line, plural

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Question:
    """An `Ask` on the screen. `number` tells one question from the next, also on the terminal."""

    action: Action
    ask: Ask
    number: int = field(default_factory=lambda: next(_numbers))

    def lines(self, width: int, height: int) -> list[Line]:
        """The question in the pane: from, to, author and reason first, then the frozen list, then the keys."""
        lines = [title("y or esc?", width, "question")]
        lines += [line(Span(f" {part}", "bold")) for part in textwrap.wrap(self.ask.line, max(20, width - 2))]
        room = height - len(lines) - 1
        listed = list(self.ask.listed)
        if len(listed) > room > 0:
            rest = len(listed) - room + 1
            listed = [*listed[: room - 1], f"and {plural(rest, 'more row')}"]
        lines += [line(f"   {entry}") for entry in listed]
        keys = "type the reason below, enter sends, esc leaves" if self.ask.wants_reason else "y does it, esc leaves"
        lines.append(line(Span(f" {keys}; nothing has been sent", "question")))
        return lines

    def outdated(self, state: ConsoleState) -> str | None:
        """Why it no longer asks about what is: a pointer has moved since. None: it still holds."""
        for move in self.ask.moves:
            row = state.tenants.get(move.row)
            name = f"{move.tenant}/{move.route}"
            if row is None:
                return f"{name} is gone"
            if isinstance(move.request, UndoRequest):
                if row.pointer.last_move != move.request.event:
                    return f"{name} has moved since"
            elif row.pointer.generation != move.request.expected_generation:
                return f"{name} has moved since (now gen {row.pointer.generation})"
        return None
