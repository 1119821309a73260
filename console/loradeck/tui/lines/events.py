"""The pane of the selected event."""

import json

from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.schemas.ids import short
from loradeck.schemas.log import Event, EventKind
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, age, labelled, line, title


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
