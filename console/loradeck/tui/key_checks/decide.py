"""Decides on a key: whether it acts at once, asks first, or is refused, and with which request.

Everything that moves or stops something of the selection passes through `decide`, whichever screen, key or command
it came from. It reads the state and the last frame that was written, changes nothing and sends nothing. Only R, and
u on a fresh move of one's own, can act without a y; read-only, roles and the link are checked first.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from loradeck.client import capacity_words
from loradeck.client.setting_errors import setting_errors
from loradeck.client.terminal_text import clean
from loradeck.rules.moves.draft import is_guards
from loradeck.schemas.attestation import CheckResult, GateResult
from loradeck.schemas.capacity import CapacityPlan
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import IncidentOpen
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.moves import AnnotateRequest, FallbackRequest, HoldRequest, PromoteRequest
from loradeck.schemas.state import ReleaseView, TenantRow
from loradeck.tui.key_checks.orders import order_of
from loradeck.tui.key_checks.rollback import lock, rollback, rollback_marked
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
    said = {"reason": reason.strip(), "idempotency_key": state.make_key()}
    request: AnnotateRequest | IncidentOpen
    try:
        if incident != "-" and any(one != incident for one in here):
            pointers = [{"tenant": tenant, "route": route} for tenant, route in rows]
            request = IncidentOpen.model_validate({"id": incident, "pointers": pointers, **said})
            at, on = rows[0], plural(len(rows), "row")
        else:
            request = AnnotateRequest(event=event.id, incident=None if incident == "-" else incident, **said)
            at, on = (event.tenant, event.route), f"the {event.kind.value} of {clock(event.at_ms)}"
    except ValidationError as error:
        return off(state, Action.ANNOTATE, clean(setting_errors(error)[0]))
    says = f"{state.keys.shown(Action.ANNOTATE)} {clean(text.strip())} on {on}"
    return Act((Move(Action.ANNOTATE, *at, request, says),))


def _quit(state: ConsoleState) -> Verdict:
    open_moves = state.unfinished
    if not open_moves:
        return Act()
    own = open_moves[-1]
    more = f" and {len(open_moves) - 1} more" if len(open_moves) > 1 else ""
    where = f" on {own.move.tenant}/{own.move.route}" if own.move.tenant else ""
    return Ask(f"quit? {own.move.says}{where}{more} is not finished")


def newest(releases: Sequence[ReleaseView], row: TenantRow) -> ReleaseView | None:
    """The release p offers: the highest version of the tenant's that is not live."""
    known = [view for view in releases if view.adapter is not None and (row.live is None or view.id != row.live.id)]
    return max(known, key=lambda view: (_number(view.label), view.label), default=None)


def _number(label: str) -> int:
    digits = label.lstrip("v")
    return int(digits) if digits.isdecimal() else -1


def offer(
    state: ConsoleState,
    row: TenantRow,
    candidate: ReleaseView,
    gate: GateResult | None,
    asks: str | None = None,
    fits: CapacityPlan | None = None,
    on_demand: bool = False,
    *,
    override: bool,
) -> Verdict:
    """Decide on a promote of `candidate`: it always asks; against its gate it needs `override` and a typed reason.

    Only the reasons known here are checked here; the hub decides.

    `asks`: what the hub says to ask about this promote (`TenantRow.promote_asks`).
    `fits`: whether it fits, and who would be colder for it; None: the hub does not say.
    `on_demand`: it sets the route on demand (`TenantRow.promote_on_demand`).
    """
    barred = barrier(Action.PROMOTE, state)
    if barred is not None:
        return barred
    if row.live is not None and candidate.id == row.live.id:
        return off(state, Action.PROMOTE, f"{release(candidate)} is live already")
    if not row.settled and lock(state, row) is not None:
        return off(
            state, Action.PROMOTE, f"still moving: flipped {row.flipped}/{row.placed}, proven {row.proven}/{row.placed}"
        )
    if any(entry.release == candidate.id for entry in row.pointer.quarantined):
        lift = f"loradeck lift {row.tenant} {row.route} {clean(candidate.label)}"
        return off(
            state,
            Action.PROMOTE,
            f"{clean(candidate.label)} is quarantined here; {lift} ends that; :promote vN names another",
        )
    if row.pointer.held:
        return off(state, Action.PROMOTE, f"the pointer is held; {state.keys.shown(Action.HOLD)} releases the hold")
    trouble = gate_says(gate) if gate is not None and not gate.passed else None
    key = state.keys.shown(Action.PROMOTE)
    says = f"{key} {release(row.live)} > {release(candidate)}"
    request = PromoteRequest(
        release=candidate.id,
        expected_generation=row.pointer.generation,
        override=override,
        idempotency_key=state.make_key(),
        on_demand=on_demand,
    )
    move = Move(Action.PROMOTE, row.tenant, row.route, request, says + (" OVERRIDE" if override else ""))
    line = f"{key} {row.tenant}/{row.route} {release(row.live)} > {release(candidate)}: "
    if trouble and not override:
        return off(state, Action.PROMOTE, f"{trouble}; :promote! {clean(candidate.label)} overrides, with a reason")
    asked = f"; {clean(capacity_words.verdict(fits))}" if fits is not None else ""
    asked += f"; asks: {clean(asks)}" if asks else ""
    colder = tuple(clean(said) for said in capacity_words.lines(fits, 3)) if fits is not None and fits.total else ()
    if override:
        return Ask(f"{line}OVERRIDE, {trouble or gate_says(gate)}{asked}", (move,), wants_reason=True, listed=colder)
    return Ask(f"{line}{gate_says(gate)}{live_by(state, row)}{asked}", (move,), listed=colder)


def gate_says(gate: GateResult | None) -> str:
    """'gate passed', or the failed checks with their figures."""
    if gate is None:
        return "no gate result on record (a route with a gate refuses it)"
    failed = [check for check in gate.checks if not check.passed]
    if gate.passed and not failed:
        return f"gate passed ({plural(len(gate.checks), 'check')})"
    return "gate " + ", ".join(_missed(check) for check in failed)


def _missed(check: CheckResult) -> str:
    """A failed check: 'json 71 < 95', or why it failed although its figure would do."""
    enough = check.value <= check.threshold if check.at_most else check.value >= check.threshold
    if enough:
        return f"{clean(check.name)} failed ({clean(check.note) or f'n {check.n}'})"
    sign = ">" if check.at_most else "<"
    if check.unit != "share":
        return f"{clean(check.name)} {check.in_unit(check.value)} {sign} {check.in_unit(check.threshold)}"
    return f"{clean(check.name)} {_percent(check.value)} {sign} {_percent(check.threshold)}"


def _percent(share: float) -> str:
    """A share as percent: 71, or 2.4 if the decimal is not zero."""
    return f"{share * 100:.1f}".removesuffix(".0")
