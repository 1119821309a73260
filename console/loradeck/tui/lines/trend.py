"""The TREND line: a row's bad answers and requests over the last hours, whenever the console was opened."""

from collections.abc import Sequence

from loradeck.client.history import Step, in_steps
from loradeck.rules.clocks import MINUTE_MS
from loradeck.schemas.counts import RouteHistory
from loradeck.schemas.state import TenantRow
from loradeck.tui.text.plots import sparkline
from loradeck.tui.text.spans import Line, Span, clock, line, percent

TREND_MINUTES = 180
"""Minutes that the line shows."""

PAST_MINUTES = 14 * 24 * 60
"""Minutes that the line below it shows, by the hour: what is usual on a route is taken from as many."""

_WORDS = 46  # cells of the line that are not bars
_LEAST_HIGH = 0.05  # of the scale of shares: a few bad answers are no tower


def past_line(row: TenantRow, history: RouteHistory, width: int) -> Line:
    """Shares and requests of the last two weeks by the hour, as `trend_line` draws those of minutes."""
    return trend_line(row, history, width, label="       ", over="14 d")


def trend_line(row: TenantRow, history: RouteHistory, width: int, *, label: str = " TREND ", over: str = "3 h") -> Line:
    """Shares of bad answers and requests a second as bars; `|` stands where the live release went live."""
    steps = in_steps(history, max(8, (width - _WORDS) // 2))
    shares = [step.counts.bad_share for step in steps]
    rates = [step.requests_per_s for step in steps]
    high = max([_LEAST_HIGH, *(share for share in shares if share is not None)])
    bad, req = sparkline(shares, 0, high, len(steps)), sparkline(rates, 0, max(rates, default=0) or 1, len(steps))
    now = next((share for share in reversed(shares) if share is not None), None)
    moved_ms = row.pointer.moved_ms
    at = _step_of(steps, moved_ms) if moved_ms is not None else None
    mark = f", | gen {row.pointer.generation} {clock(moved_ms)}" if at is not None and moved_ms is not None else ""
    return line(
        Span(label, "label"),
        "bad ",
        Span(_marked(bad, at), "bad" if now is not None and now > _LEAST_HIGH else "good"),
        f" {percent(now)}%   req " if now is not None else " -   req ",
        Span(_marked(req, at), "good"),
        f" {rates[-1] if rates else 0:.1f}/s   {over}{mark}",
    )


def _step_of(steps: Sequence[Step], at_ms: int) -> int | None:
    """The number of the step in which a time lies; None: in none of them."""
    minute = at_ms // MINUTE_MS
    return next((i for i, step in enumerate(steps) if step.since <= minute < step.since + step.minutes), None)


def _marked(bars: str, at: int | None) -> str:
    return bars if at is None else f"{bars[:at]}|{bars[at:]}"
