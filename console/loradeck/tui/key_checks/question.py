"""The question that waits for y: frozen when it was asked, dropped when its subject changes."""

import itertools
import textwrap
from dataclasses import dataclass, field

from loradeck.schemas.incident import IncidentOpen
from loradeck.schemas.moves import AnnotateRequest, RewindRequest, UndoRequest
from loradeck.tui.key_checks.orders import outdated
from loradeck.tui.key_checks.verdict import Ask
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.personal_keys import Keys
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, line, plural, title

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Question:
    """An `Ask` on the screen. `number` distinguishes it from other questions, also on the terminal."""

    action: Action
    ask: Ask
    number: int = field(default_factory=lambda: next(_numbers))

    def height(self, keys: Keys, width: int) -> int:
        """The number of lines that the whole question takes."""
        return len(self._head(keys, width)) + len(self.ask.listed) + 1

    def _head(self, keys: Keys, width: int) -> list[Line]:
        lines = [title(f"{keys.shown(Action.CONFIRM)} or {keys.shown(Action.CLOSE)}?", width, "question")]
        return lines + [line(Span(f" {part}", "bold")) for part in textwrap.wrap(self.ask.line, max(20, width - 2))]

    def last_top(self, keys: Keys, width: int, height: int) -> int:
        """The entry of the list that is on top when its end is in view."""
        room = height - len(self._head(keys, width)) - 1
        return max(0, len(self.ask.listed) - room + 1) if len(self.ask.listed) > room else 0

    def lines(self, keys: Keys, width: int, height: int, top: int = 0) -> list[Line]:
        """The question in the pane: from, to, author and reason first, then the frozen list, then the keys.

        `top`: the first entry of a list that is longer than the pane.
        """
        lines = self._head(keys, width)
        room = height - len(lines) - 1
        listed = list(self.ask.listed)
        down, up = (keys.shown(action).partition("/")[0] for action in (Action.DOWN, Action.UP))
        if len(listed) > room > 0:
            shown = listed[top : top + room - 1]
            listed = [*shown, f"{top + 1}-{top + len(shown)} of {plural(len(listed), 'row')}: {down} and {up} scroll"]
        lines += [line(f"   {entry}") for entry in listed]
        answers = f"{keys.shown(Action.CONFIRM)} does it, {keys.shown(Action.CLOSE)} leaves"
        if self.ask.wants_reason:
            answers = "type the reason below, enter sends, esc leaves"
        lines.append(line(Span(f" {answers}; nothing has been sent", "question")))
        return lines

    def outdated(self, state: ConsoleState) -> str | None:
        """Why the question is out of date, as when a pointer has moved since; None while it still holds."""
        if self.ask.order is not None:
            return outdated(self.ask.order, state)
        if (signing := self.ask.signing) is not None:
            reviewing = state.reviews.get((signing.tenant, signing.route, signing.review.release))
            if reviewing is None or reviewing.left or reviewing.review != signing.review:
                return "the answers or the verdicts are others by now"
            return None
        for move in self.ask.moves:
            if isinstance(move.request, RewindRequest | AnnotateRequest | IncidentOpen) or not move.tenant:
                continue  # of many pointers the hub skips or refuses what has moved since, and says so
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
