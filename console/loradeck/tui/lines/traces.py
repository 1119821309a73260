"""The page that `l` opens: who was served by which release on a row, request by request."""

from loradeck.client.terminal_text import clean
from loradeck.client.traces import missing
from loradeck.schemas.trace import Traced
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, clock, fit, fit_right, line, plural, title

SHOWN = 200
"""Requests of each router."""

EXPORTED = 20_000
"""Requests of each router that `x` asks for; routers keep fewer."""


def trace_lines(state: ConsoleState, traced: Traced, width: int) -> list[Line]:
    """The newest first."""
    name = clean(f"{traced.tenant}/{traced.route}")
    at = clock(traced.at_ms, seconds=True)
    lines = [title(f"{name}   {plural(len(traced.rows), 'request')} as the routers knew them at {at}", width)]
    lines += [line(Span(f" not all: {clean(why)}", "warn")) for why in missing(traced)]
    heads = (
        f" {'admitted':<10}{'release':<10}{'gen':>6}  {'replica':<14}{'status':<7}{'took':>8}  {'checked':<8}request"
    )
    lines.append(line(Span(heads, "head")))
    if not traced.rows:
        lines.append(line(Span(" no request on this route in any router's trace", "dim")))
    for row in reversed(traced.rows):
        took = f"{row.finished_ms - row.admitted_ms:,} ms"
        checked = Span(fit("bad" if row.bad else "ok" if row.checked else "-", 8), "bad" if row.bad else "")
        lines.append(
            line(
                f" {clock(row.admitted_ms, seconds=True):<10}{fit(state.name_of(row.release), 10)}"
                f"{row.generation:>6}  {fit(clean(row.replica), 14)}",
                Span(f"{row.status:<7}", "bad" if row.status >= 500 else ""),
                f"{fit_right(took, 8)}  ",
                checked,
                clean(row.request),
            )
        )
    return lines
