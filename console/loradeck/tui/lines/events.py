"""The pane of the selected event, and the page that `l` opens: who was served by which release, request by request."""

import json

from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.client.traces import missing
from loradeck.schemas.ids import short
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.trace import Traced
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, age, clock, fit, fit_right, labelled, line, plural, title


def event_lines(state: ConsoleState, event: Event, width: int) -> list[Line]:
    """An event: who, what, why, and its place in the chain."""
    lines = [title(f"rev {event.rev}   {event.kind.value.replace('_', ' ')}   {clean(event.where)}", width)]
    old = state.age_of(event.at_ms)
    when = stamp(event.at_ms) + (f"   {age(old)} ago" if old is not None else "")
    by = f"by {clean(event.actor)} ({event.role.value}){'   OVERRIDE' if event.override else ''}"
    lines.append(labelled(" WHEN  ", f"{when}   {by}"))
    path = " > ".join(map(state.name_of, event.path))
    if event.pointer is not None:
        beneath = "  ".join(state.name_of(digest) for digest in event.pointer.beneath[:6]) or "nothing"
        held = "   held" if event.pointer.held else ""
        lines.append(labelled(" MOVED ", f"{path}   gen {event.generation}   beneath: {beneath}{held}"))
    if event.kind is EventKind.PIN:
        made = stamp(int(event.payload.get("at_ms", 0)))
        on = f"on {clean(str(event.payload.get('node', '-')))} alone, {made} by its clock"
        lines.append(line(Span(" PINNED", "warn"), f" {path}   {on}"))
    lines.append(labelled(" WHY   ", clean(event.reason) or Span("no reason given", "dim")))
    lines.append(labelled(" CASE  ", clean(event.incident or "") or Span("no incident attached", "dim")))
    if event.undoes:
        lines.append(labelled(" UNDOES", f" {', '.join(short(undone) for undone in event.undoes)}"))
    if event.payload:
        lines.append(labelled(" DATA  ", clean(json.dumps(event.payload, sort_keys=True))))
    chain = f"epoch {event.epoch}   hash {event.hash[:8]} after {event.prev_hash[:8]}"
    return [*lines, labelled(" CHAIN ", f"event {short(event.id)}   txn {short(event.txn)}   {chain}")]


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
