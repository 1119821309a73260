"""The page that `d` opens: what differs between the live release and the one that R goes to."""

import textwrap
from collections.abc import Mapping

from loradeck.client.release_difference import parts
from loradeck.client.terminal_text import clean
from loradeck.schemas.responses import ReleaseDetail
from loradeck.tui.text.spans import BLANK, Line, Span, labelled, line, title

_LABEL = 10


def difference_lines(
    name: str,
    left: ReleaseDetail,
    right: ReleaseDetail,
    datasets: Mapping[str, str],
    width: int,
    *,
    sides: tuple[str, str] = ("live", "R goes to"),
) -> list[Line]:
    """Two releases beside each other: differences first and marked `!`, then the parts that are alike, once.

    `sides`: the roles of the two, shown before their labels.
    """
    found = parts(left, right, datasets=datasets)
    column = max(16, (width - _LABEL - 8) // 2)
    labels = [clean(one.release.label) or one.release.id[:6] for one in (left, right)]
    head = f"   {'':<{_LABEL}} {f'{sides[0]} {labels[0]}':<{column}}  {sides[1]} {labels[1]}"
    lines = [title(f"{clean(name)}   {labels[0]} against {labels[1]}", width), line(Span(head, "head"))]
    for part in found:
        if part.differs:
            lines += _beside(part.name, clean(part.left), clean(part.right), column)
    if not any(part.differs for part in found):
        lines.append(line(Span(" nothing differs in what is on record of them", "dim")))
    lines += [BLANK, line(Span(" alike in both", "head"))]
    for part in found:
        if not part.differs:
            lines.append(labelled(f"   {part.name:<{_LABEL}} ", clean(part.left)))
    return lines


def _beside(name: str, left: str, right: str, column: int) -> list[Line]:
    sides = [textwrap.wrap(side, column) or ["-"] for side in (left, right)]
    made = []
    for row in range(max(len(side) for side in sides)):
        one, other = (side[row] if row < len(side) else "" for side in sides)
        lead = Span(f" ! {name:<{_LABEL}} " if row == 0 else " " * (_LABEL + 4), "warn")
        made.append(line(lead, f"{one:<{column}}  {other}"))
    return made
