"""The pinned pane: preview, rollback panel or question, and which of its lines have been painted."""

from collections.abc import Sequence

from textual.strip import Strip

from loradeck.tui.key_checks.seen_frames import Shown
from loradeck.tui.text.spans import Line
from loradeck.tui.widgets.lines import Lines

Token = tuple[Shown | None, int | None]


class Pane(Lines):
    """Lines that know which preview and which question they belong to, and which of them were painted."""

    DEFAULT_CSS = """
    Pane { height: 9; dock: none; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._token: Token = (None, None)
        self._painted: dict[int, Token] = {}

    def show_as(self, lines: Sequence[Line], shown: Shown | None, question: int | None) -> None:
        """Show lines that stand for a preview or a question.

        For another one all of them have to be on the terminal: those that differ are painted anew, and those that
        stand there already, painted for the one before, stay.
        """
        before, self._token = self._token, (shown, question)
        changed = self.show(lines)
        if before != self._token:
            for y, painted in self._painted.items():
                if painted == before and y not in changed:
                    self._painted[y] = self._token

    def forget(self) -> None:
        """Something else covered the terminal: nothing counts as painted until it is painted again."""
        self._painted.clear()

    def render_line(self, y: int) -> Strip:
        """Draws one line, and notes which content it shows."""
        self._painted[y] = self._token
        return super().render_line(y)

    @property
    def painted(self) -> Token:
        """The preview and question that all lines of the pane were painted for; (None, None) while they differ."""
        height = self.size.height
        if height and all(self._painted.get(y) == self._token for y in range(height)):
            return self._token
        return (None, None)
