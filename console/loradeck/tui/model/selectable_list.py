"""An ordered list of rows with a selection that follows the row, not the line."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class FilterError(ValueError):
    """The filter is no regular expression; the one before it stays."""


@dataclass(frozen=True)
class RowFilter:
    """A regular expression over what a row shows; `!` in front keeps the rows that do not match."""

    text: str = ""
    pattern: re.Pattern[str] | None = None
    inverse: bool = False

    @classmethod
    def parse(cls, text: str) -> RowFilter:
        """Raises: FilterError."""
        text = text.strip()
        body = text.removeprefix("!")
        if not body:
            return cls()
        try:
            pattern = re.compile(body, re.IGNORECASE)
        except re.error as error:
            raise FilterError(f"{body!r} is no regular expression: {error}") from None
        return cls(text, pattern, text.startswith("!"))

    def keeps(self, haystack: str) -> bool:
        """Tells whether a row with this text is shown."""
        if self.pattern is None:
            return True
        return (self.pattern.search(haystack) is None) == self.inverse


@dataclass
class Listing(Generic[K]):
    """What one screen lists. `order` holds the keys of the shown rows from top to bottom."""

    order: list[K] = field(default_factory=list)
    selected: K | None = None
    filter: RowFilter = field(default_factory=RowFilter)
    total: int = 0
    _at: int = 0

    @property
    def index(self) -> int | None:
        """Line of the selected row; None when nothing is selected or it is not shown."""
        if self.selected is None:
            return None
        if self._at < len(self.order) and self.order[self._at] == self.selected:
            return self._at  # where it was the last time
        try:
            self._at = self.order.index(self.selected)
        except ValueError:
            return None
        return self._at

    def arrange(
        self, rows: Iterable[K], *, by: Callable[[K], object], haystack: Callable[[K], str], frozen: bool
    ) -> None:
        """Take in the rows there are now.

        While `frozen` rows stay on their lines, new ones come last and only rows that are gone leave.
        """
        present = list(rows)
        self.total = len(present)
        if self.filter.pattern is not None:
            present = [key for key in present if self.filter.keeps(haystack(key))]
        if frozen and self.order:
            kept = set(present)
            order = [key for key in self.order if key in kept]
            shown = set(order)
            order += sorted((key for key in present if key not in shown), key=by)  # type: ignore[arg-type]
        else:
            order = sorted(present, key=by)  # type: ignore[arg-type]
        before = self.index
        self.order = order
        if self.selected is None or self.index is None:
            self.selected = self.order[min(before or 0, len(order) - 1)] if order else None

    def step(self, by: int) -> None:
        """Move the selection by lines, stopping at the ends."""
        if self.order:
            at = (self.index or 0) + by
            self._at = max(0, min(at, len(self.order) - 1))
            self.selected = self.order[self._at]

    def jump(self, to: int) -> None:
        """Select a line; negative ones count from the end."""
        if self.order:
            self.selected = self.order[to]

    def choose(self, key: K) -> bool:
        """Select a row by its key. Returns False when it is not shown."""
        if key not in self.order:
            return False
        self.selected = key
        return True


def hidden(marks: Iterable[K], shown: Sequence[K]) -> list[K]:
    """Marked rows that a filter hides."""
    visible = set(shown)
    return [key for key in marks if key not in visible]
