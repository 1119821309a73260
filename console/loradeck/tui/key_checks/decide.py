"""Decides on a key: whether it acts at once, asks first, or is refused, and with which request.

Everything that moves or stops something of the selection passes through `decide`, whichever screen, key or command
it came from. It reads the state and the last frame that was written, changes nothing and sends nothing. Only R, and
u on a fresh move of one's own, can act without a y; read-only, roles and the link are checked first.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from loradeck.client.setting_errors import setting_errors
from loradeck.client.terminal_text import clean
from loradeck.rules.moves.draft import is_guards
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import IncidentOpen
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.moves import AnnotateRequest, FallbackRequest, HoldRequest
from loradeck.schemas.state import TenantRow
from loradeck.tui.key_checks.orders import order_of
from loradeck.tui.key_checks.rollback import rollback, rollback_marked
from loradeck.tui.key_checks.seen_frames import Frame
from loradeck.tui.key_checks.undo import undo, undo_marked
from loradeck.tui.key_checks.verdict import Act, Ask, Verdict, barrier, live_by, off
from loradeck.tui.keys.action import ORDERS, Action
from loradeck.tui.model.sent_moves import Move
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import clock, plural, release

DECIDED = frozenset({Action.ROLLBACK, Action.UNDO, Action.FALLBACK, Action.HOLD, Action.QUIT, *ORDERS} - {Action.SIGN})
"""Actions that need nothing but the selection: the ones that `decide` takes."""


def decide(action: Action, state: ConsoleState, frame: Frame) -> Verdict:
    """Decide on one of DECIDED for the selected row, node or job.

    `frame`: the last frame handed to the terminal, and since when it is known to be seen.
    """
    if action is Action.QUIT:
        return _quit(state)
    barred = barrier(action, state)
    if barred is not None:
        return barred
    if action in ORDERS:
        return order_of(action, state)
    if state.marks and action in (Action.ROLLBACK, Action.UNDO):
        return (rollback_marked if action is Action.ROLLBACK else undo_marked)(state)
    row = state.row
    if row is None:
        return off(state, action, "no row is selected")
    match action:
        case Action.ROLLBACK:
            return rollback(state, row, frame)
        case Action.UNDO:
            return undo(state, row, frame)
        case Action.FALLBACK:
            return _fallback(state, row)
        case Action.HOLD:
            return _hold(state, row)
        case _:
            raise ValueError(f"{action} needs more than a selection")


def _fallback(state: ConsoleState, row: TenantRow) -> Verdict:
    live = row.live
    if live is None:
        return off(state, Action.FALLBACK, "nothing is served here")
    if live.adapter is None:
        return off(state, Action.FALLBACK, "the base alone is served already")
    request = FallbackRequest(expected_generation=row.pointer.generation, idempotency_key=state.make_key())
    key = state.keys.shown(Action.FALLBACK)
    to = f"base alone/{clean(live.base_label)}"
    move = Move(Action.FALLBACK, row.tenant, row.route, request, f"{key} {release(live)} > {to}")
    return Ask(f"{key} {row.tenant}/{row.route} {release(live)} > {to}{live_by(state, row)}", (move,))


def _hold(state: ConsoleState, row: TenantRow) -> Verdict:
    held = not row.pointer.held
    request = HoldRequest(held=held, expected_generation=row.pointer.generation, idempotency_key=state.make_key())
    says = f"{state.keys.shown(Action.HOLD)} {'hold' if held else 'release hold'}"
    move = Move(Action.HOLD, row.tenant, row.route, request, says)
    effect = "automation cannot promote here until it is released" if held else "automation may promote here again"
    changed = (e for e in reversed(state.events.values()) if (e.tenant, e.route) == row.key)
    set_by = None if held else next((e for e in changed if e.kind in (EventKind.HOLD, EventKind.ROLLBACK)), None)
    asks_why = set_by is not None and is_guards(set_by)
    return Ask(f"{says} of {row.tenant}/{row.route}: {effect}", (move,), wants_reason=asks_why)


def annotate(state: ConsoleState, event: Event | None, text: str, rows: Sequence[PointerKey] = ()) -> Verdict:
    """Add an incident and a reason to an event that has happened, or open an incident over some rows. It moves nothing,
    so enter is enough.

    Args:
        text: 'INC-2210 what happened': the incident's id, '-' for none, and the reason.
        rows: over which one of this id is opened, unless it is open on all of them already.
    """
    barred = barrier(Action.ANNOTATE, state)
    if barred is not None:
        return barred
    if event is None or event.route is None:
        return off(state, Action.ANNOTATE, "no move of a pointer is selected")
    incident, _, reason = text.strip().partition(" ")
    if incident in ("", "-") and not reason.strip():
        return off(state, Action.ANNOTATE, "nothing was typed; INC-2210 what happened, or - what happened")
    here = [row.incident.id if (row := state.tenants.get(key)) and row.incident else None for key in rows]
    if incident != "-" and any(one != incident for one in here):
        return _open_incident(state, rows, incident, reason.strip(), text)
    try:
        request = AnnotateRequest(
            event=event.id,
            incident=None if incident == "-" else incident,
            reason=reason.strip(),
            idempotency_key=state.make_key(),
        )
    except ValidationError as error:
        return off(state, Action.ANNOTATE, clean(setting_errors(error)[0]))
    says = (
        f"{state.keys.shown(Action.ANNOTATE)} {clean(text.strip())} on the {event.kind.value} of {clock(event.at_ms)}"
    )
    return Act((Move(Action.ANNOTATE, event.tenant, event.route, request, says),))


def _open_incident(state: ConsoleState, rows: Sequence[PointerKey], incident: str, reason: str, text: str) -> Verdict:
    pointers = [{"tenant": tenant, "route": route} for tenant, route in rows]
    said = {"id": incident, "pointers": pointers, "reason": reason, "idempotency_key": state.make_key()}
    try:
        request = IncidentOpen.model_validate(said)
    except ValidationError as error:
        return off(state, Action.ANNOTATE, clean(setting_errors(error)[0]))
    says = f"{state.keys.shown(Action.ANNOTATE)} {clean(text.strip())} on {plural(len(rows), 'row')}"
    return Act((Move(Action.ANNOTATE, *rows[0], request, says),))


def _quit(state: ConsoleState) -> Verdict:
    open_moves = state.unfinished
    if not open_moves:
        return Act()
    own = open_moves[-1]
    more = f" and {len(open_moves) - 1} more" if len(open_moves) > 1 else ""
    where = f" on {own.move.tenant}/{own.move.route}" if own.move.tenant else ""
    return Ask(f"quit? {own.move.says}{where}{more} is not finished")
