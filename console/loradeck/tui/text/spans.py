"""Styled text without a toolkit: spans, lines, and figures as people read them.

Everything that came from outside (names, reasons, errors, log lines) goes through `clean` before it is put
into a span: it is data, never markup, and never a control sequence of the terminal it is shown on.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from rich.cells import cell_len, chop_cells, set_cell_size

from loradeck.client.terminal_text import clean
from loradeck.schemas.state import NodeReplica, ReleaseView

ELLIPSIS = "…"


class Span(NamedTuple):
    """A piece of a line. `style` names an entry of the theme; the text alone must carry the meaning."""

    text: str
    style: str = ""


Line = tuple[Span, ...]
BLANK: Line = ()


def line(*parts: str | Span) -> Line:
    """A line of spans; plain strings have no style."""
    return tuple(part if isinstance(part, Span) else Span(part) for part in parts if part)


def labelled(label: str, *parts: str | Span) -> Line:
    """A line that begins with a label, which has its spaces with it."""
    return line(Span(label, "label"), *parts)


def width_of(spans: Iterable[Span]) -> int:
    """Terminal cells that spans take."""
    return sum(cell_len(span.text) for span in spans)


def fit(text: str, width: int) -> str:
    """Text in exactly `width` cells, cut with an ellipsis or padded with spaces."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    if width <= 0:
        return ""
    return set_cell_size(set_cell_size(text, width - 1).rstrip() + ELLIPSIS, width)


def fit_right(text: str, width: int) -> str:
    """Like `fit`, with the text at the right-hand end."""
    size = cell_len(text)
    return fit(text, width) if size >= width else " " * (width - size) + text


def fit_line(spans: Sequence[Span], width: int) -> Line:
    """Spans in exactly `width` cells."""
    fitted: list[Span] = []
    left = width
    for span in spans:
        size = cell_len(span.text)
        if size <= left:
            fitted.append(span)
            left -= size
            continue
        if left:
            fitted.append(Span(fit(span.text, left), span.style))
        elif fitted:
            last = fitted.pop()
            fitted.append(Span(fit(last.text + " ", cell_len(last.text)), last.style))
        left = 0
        break
    if left:
        fitted.append(Span(" " * left))
    return tuple(fitted)


def wrapped(text: str, width: int) -> list[str]:
    """Text in lines of at most so many cells, broken between words, or within one that is longer than a line."""
    lines: list[str] = []
    for word in text.split():
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
            continue
        *full, rest = chop_cells(word, max(2, width)) or [""]
        lines += [*full, rest]
    return lines


def spread(left: Sequence[Span], right: Sequence[Span], width: int) -> Line:
    """`left` at one end, `right` at the other; the right one is dropped where both do not fit."""
    gap = width - width_of(left) - width_of(right)
    if gap < 2:
        return fit_line(left, width)
    return (*left, Span(" " * gap), *right)


def title(text: str, width: int, style: str = "rule") -> Line:
    """A heading with a rule: `-- text -----` across the width."""
    body = f"-- {text} "
    return line(Span(body + "-" * max(0, width - len(body)), style))


# ---- figures -----------------------------------------------------------------------------------------------


def age(seconds: float) -> str:
    """A short age: 0.4s, 14s, 6m, 3h20, 2d11."""
    if seconds < 0:
        seconds = 0
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}m"
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}"
    return f"{minutes // 1440}d{minutes // 60 % 24:02d}"


def span(seconds: float) -> str:
    """A measured time: 80 ms, 0.4 s, 41 s, 3 min."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


def coarse_age(seconds: float) -> str:
    """An age that changes once a minute at most, for columns: 14 min, 5 h, 2 d 11 h, 41 d."""
    minutes = max(0, int(seconds // 60))
    hours, days = minutes // 60, minutes // 1440
    if not days:
        return f"{hours} h" if hours else f"{minutes} min"
    return f"{days} d {hours % 24} h" if days < 10 else f"{days} d"


def percent(share: float | None) -> str:
    """A share between 0 and 1 as percent with one decimal, without the sign; all of it is 100."""
    return "-" if share is None else "100" if share >= 0.9995 else f"{share * 100:.1f}"


def count(n: int) -> str:
    """1,204; from ten thousand on 35k, 4.1M."""
    if n < 10_000:
        return f"{n:,}"
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if n >= size:
            figure = n / size
            return f"{figure:.1f}{letter}" if figure < 10 else f"{figure:.0f}{letter}"
    return str(n)


def latency(ms: float | None) -> str:
    """180 ms, 1.8 s."""
    if ms is None:
        return "-"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def plural(n: int, one: str, many: str | None = None) -> str:
    """'1 node', '3 nodes'."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def clock(ms: int | None, *, seconds: bool = False) -> str:
    """Hub milliseconds as 02:58Z, or 02:58:07Z."""
    if ms is None:
        return "-"
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M:%SZ" if seconds else "%H:%MZ")


def dated(ms: int) -> str:
    """Hub milliseconds with the day: 03-02 22:12Z."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%m-%d %H:%MZ")


def release(view: ReleaseView | None, missing: str = "none") -> str:
    """`v7/B2`: a release as columns show it."""
    if view is None:
        return missing
    return f"{clean(view.label)}/{clean(view.base_label)}"


def on_gpus(replica: NodeReplica) -> str:
    """The GPUs on which the driver sees an engine's processes, and the MIG instances; nothing where it sees none."""
    inside = f" (MIG {clean(', '.join(replica.instances))})" if replica.instances else ""
    return f" on {', '.join(f'gpu{index}' for index in replica.gpus)}{inside}" if replica.gpus else ""
