"""The one gate: whether a key acts at once, asks first, or is refused, and with which request.

Everything that moves or stops something passes through `decide`, whichever screen, key or command it came
from. It reads the state and the last frame that was written, changes nothing and sends nothing. Only `R`, and
`u` on a fresh move of one's own, can act without a `y`; read-only, roles and the link are checked first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError

from loradeck.client.idempotency import new_key
from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.rules.moves.request import rollback_request
from loradeck.schemas.attestation import CheckResult, GateResult
from loradeck.schemas.ids import Role, short
from loradeck.schemas.link import LINK_TTL_S
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.moves import (
    AnnotateRequest,
    FallbackRequest,
    HoldRequest,
    PromoteRequest,
    RewindPlan,
    RewindRequest,
    UndoRequest,
)
from loradeck.schemas.state import PreviewAction, ReleaseView, TenantRow
from loradeck.tui.gate.seen_frames import Frame, Shown
from loradeck.tui.model.own_moves import Move, MoveKind, Order, Phase, Signing
from loradeck.tui.model.selectable_list import hidden
from loradeck.tui.model.state import SETTLING_S, ConsoleState, Link
from loradeck.tui.text.spans import age, clock, plural, release

ARM_S = 0.5
"""How long a preview must have been on the terminal before R acts on it."""

OWN_UNDO_S = 60.0
"""How long u undoes a move of one's own without asking."""

OLD_S = 24 * 3600.0
"""An unflagged pointer that has not moved for this long asks before R."""


class Action(StrEnum):
    """What a person can ask for that moves or stops something, or ends the console."""

    ROLLBACK = "R"
    UNDO = "u"
    FALLBACK = "F"
    HOLD = "h"
    PROMOTE = "p"
    REWIND = "W"
    ANNOTATE = "i"
    DRAIN = "D"
    CORDON = "C"
    UNCORDON = "U"
    CANCEL = "X"
    RESUME = "S"
    SIGN = "V"
    QUIT = "q"


ORDERS = frozenset({Action.DRAIN, Action.CORDON, Action.UNCORDON, Action.CANCEL, Action.RESUME, Action.SIGN})
"""Of nodes and jobs, and a signature. They move no pointer: a hub that refuses moves takes them."""


ROLES = {
    Action.ROLLBACK: Role.OPERATOR,
    Action.UNDO: Role.OPERATOR,
    Action.FALLBACK: Role.OPERATOR,
    Action.HOLD: Role.OPERATOR,
    Action.REWIND: Role.OPERATOR,
    Action.ANNOTATE: Role.OPERATOR,
    Action.PROMOTE: Role.RELEASER,
    **dict.fromkeys(ORDERS, Role.OPERATOR),
}
_REFUSING = {
    "settling": f"the hub has just started and waits for its nodes, {LINK_TTL_S:.0f} s at most",
    "log_behind": "the hub's log lacks what its nodes have seen; loradeck hub recover",
}


@dataclass(frozen=True)
class Act:
    """Do it now. No moves: leave the console."""

    moves: tuple[Move, ...] = ()


@dataclass(frozen=True)
class Ask:
    """Show the line (and the list), then wait for y. With `wants_reason` a reason is typed instead."""

    line: str
    moves: tuple[Move, ...] = ()
    wants_reason: bool = False
    listed: tuple[str, ...] = ()
    order: Order | None = None
    signing: Signing | None = None


@dataclass(frozen=True)
class Refuse:
    """Nothing happens, and the reason is shown."""

    why: str


Verdict = Act | Ask | Refuse
NewKey = Callable[[], str]


PANEL = "panel"
"""`Shown.action` of a frame that shows a row's move under way and not where R goes."""


def shown_of(row: TenantRow, *, panel: bool = False) -> Shown:
    """What a frame with this row's preview, or only its panel, shows that R would act on."""
    preview = row.preview
    if panel:
        return Shown(tenant=row.tenant, route=row.route, generation=row.pointer.generation, action=PANEL)
    return Shown(
        tenant=row.tenant,
        route=row.route,
        generation=preview.generation,
        action=preview.action.value,
        target=preview.target.id if preview.target else None,
        cancels=preview.prepare,
        asks=preview.asks,
    )


def decide(
    action: Action, state: ConsoleState, frame: Frame, *, read_only: str | None = None, make_key: NewKey = new_key
) -> Verdict:
    """What becomes of a key on the selected row.

    Args:
        frame: the last frame handed to the terminal, and since when it is known to be seen.
        read_only: why this console may not change anything; None: it may.
    """
    if action is Action.QUIT:
        return _quit(state)
    barred = barrier(action, state, read_only)
    if barred is not None:
        return barred
    if action is Action.ROLLBACK and state.marks:
        return _rollback_marked(state, make_key)
    row = state.row
    if row is None:
        return Refuse(f"{action.value} off: no row is selected")
    match action:
        case Action.ROLLBACK:
            return _rollback(state, row, frame, make_key)
        case Action.UNDO:
            return _undo(state, row, frame, make_key)
        case Action.FALLBACK:
            return _fallback(state, row, make_key)
        case Action.HOLD:
            return _hold(row, make_key)
        case Action.PROMOTE:
            return Refuse("p offers a release through `offer`")
        case Action.REWIND:
            return Refuse("W shows its plan through `rewind`")
        case Action.ANNOTATE:
            return Refuse("i types its text through `annotate`")
        case _:
            return Refuse(f"{action.value} is of no pointer: `order_of`, `signing_of`")


def barrier(action: Action, state: ConsoleState, read_only: str | None) -> Refuse | None:
    """What bars an action on every row: read-only, the role, the link, a hub that refuses moves."""
    key = action.value
    if read_only:
        return Refuse(f"{key} off: read-only ({read_only})")
    if state.me is None or state.status is None:
        return Refuse(f"{key} off: nothing is loaded yet")
    need = ROLES[action]
    if not state.me.role.covers(need):
        return Refuse(f"{key} off: it needs the role {need.value}; {clean(state.me.actor)} is {state.me.role.value}")
    if state.link is Link.LOST:
        return Refuse(f"{key} off: no link to the hub for {age(state.silent_s)}; on a node: loradeck-agent pin")
    if state.status.refusing and action not in ORDERS:
        why = _REFUSING.get(state.status.refusing, "the hub refuses moves")
        return Refuse(f"{key} off: {why} ({state.status.refusing})")
    return None


# ---- R -----------------------------------------------------------------------------------------------------


def _rollback(state: ConsoleState, row: TenantRow, frame: Frame, make_key: NewKey) -> Verdict:
    preview = row.preview
    if preview.action is PreviewAction.FALLBACK:
        return Refuse(f"R off: {clean(preview.refused or 'no release to go back to')}; F goes to the base alone")
    if preview.action is PreviewAction.NONE:
        return Refuse(f"R off: {clean(preview.refused or 'no release to go back to')}")
    lock = _lock(state, row)
    if lock is not None:
        return lock
    reason = _asks(state, row)
    if reason is not None:
        return Ask(f"{_from_to(state, row, 'R', preview.target)}; asks: {reason}", (_rollback_of(row, True, make_key),))
    shown = frame.shown
    if shown is None or (shown.tenant, shown.route) != row.key:
        return Refuse("R not armed: this row's preview is not on your screen yet")
    if shown.action == PANEL:
        return Refuse("R not armed: esc closes the panel and shows where R goes")
    if shown != shown_of(row):
        return Refuse(f"R not armed: the row changed under you (now gen {row.pointer.generation}); look again")
    if frame.seen_at is None:
        return Refuse("R not armed: your terminal has not shown this preview yet")
    if state.clock() - frame.seen_at < ARM_S:
        return Refuse("R not armed: this preview has been on your screen for less than half a second")
    return Act((_rollback_of(row, False, make_key),))


def _lock(state: ConsoleState, row: TenantRow) -> Refuse | None:
    """While the last move of a pointer is under way, R is locked; at the latest after SETTLING_S it asks."""
    if state.many_open:
        return Refuse("R locked: your rewind is being sent, or its outcome is being looked up")
    own = state.own_move(row)
    if own is not None and own.phase is Phase.SENDING:
        return Refuse("R locked: your move is being sent")
    if own is not None and own.phase is Phase.UNKNOWN:
        return Refuse("R locked: the outcome of your last move is unknown; it is being looked up")
    if own is not None and (own.generation or 0) > row.pointer.generation:
        return Refuse("R locked: your move is committed and its row is not here yet")
    moved = state.age_of(row.pointer.moved_ms)
    if not row.settled and moved is not None and moved < SETTLING_S:
        return Refuse(f"R locked: settling, flipped {row.flipped}/{row.placed}, proven {proven(row)}/{row.placed}")
    return None


def proven(row: TenantRow) -> int:
    """Replicas whose proof holds at either level."""
    return row.proven + row.listed


def _asks(state: ConsoleState, row: TenantRow) -> str | None:
    """Why R asks for y on this row, or None where it may act at once."""
    preview = row.preview
    if preview.action is PreviewAction.CANCEL_PREPARE:
        return None
    if preview.asks:
        return clean(preview.asks)
    if not row.settled:
        return f"the last move is not done (flipped {row.flipped}/{row.placed}, proven {proven(row)}/{row.placed})"
    last = state.last_move(row)
    if last is not None and last.kind in (EventKind.ROLLBACK, EventKind.FALLBACK, EventKind.REWIND):
        return "this goes one release further back"
    moved = state.age_of(row.pointer.moved_ms)
    if not row.flags and (moved is None or moved > OLD_S):
        return f"nothing is flagged here and it has not moved for {age(moved) if moved is not None else 'long'}"
    if state.link is Link.STALE:
        return f"the hub has been silent for {age(state.silent_s)}"
    return None


def _rollback_of(row: TenantRow, confirmed: bool, make_key: NewKey) -> Move:
    preview = row.preview
    request = rollback_request(preview, key=make_key(), confirmed=confirmed)
    says = "R cancel prepare" if request.cancels else f"R {release(row.live)} > {release(preview.target)}"
    return Move(MoveKind.ROLLBACK, row.tenant, row.route, request, says)


def _rollback_marked(state: ConsoleState, make_key: NewKey) -> Verdict:
    """The frozen list of marked rows: hidden ones first, each with the generation and target it had now."""
    off_screen = hidden(state.marks, state.tenant_list.order)
    away = set(off_screen)
    ordered = off_screen + [key for key in state.marks if key not in away]
    moves: list[Move] = []
    listed: list[str] = []
    for key in ordered:
        row = state.tenants[key]
        where = "  (hidden by the filter)" if key in away else ""
        name = f"{row.tenant}/{row.route}"
        preview = row.preview
        lock = _lock(state, row)
        if preview.action is not PreviewAction.ROLLBACK or preview.target is None:
            listed.append(f"stays  {name}: {clean(preview.refused or preview.action.value)}{where}")
        elif lock is not None:
            listed.append(f"stays  {name}: {lock.why.removeprefix('R locked: ')}{where}")
        else:
            moves.append(_rollback_of(row, True, make_key))
            note = f"  ({clean(preview.asks)})" if preview.asks else ""
            listed.append(f"moves  {name}: {release(row.live)} > {release(preview.target)}{note}{where}")
    if not moves:
        return Refuse(f"R off: none of the {plural(len(ordered), 'marked row')} can go back (* clears marks with esc)")
    stays = len(ordered) - len(moves)
    line = f"R on {plural(len(moves), 'marked row')}"
    line += f", {len(off_screen)} hidden by the filter" if off_screen else ""
    line += f", {stays} stay" if stays else ""
    return Ask(line, tuple(moves), listed=tuple(listed))


# ---- u, F, h, p, q -----------------------------------------------------------------------------------------


def _undo(state: ConsoleState, row: TenantRow, frame: Frame, make_key: NewKey) -> Verdict:
    event_id = row.pointer.last_move
    if event_id is None:
        return Refuse("u off: nothing has moved here")
    own = state.own_move(row)
    if own is not None and own.phase in (Phase.SENDING, Phase.UNKNOWN):
        return Refuse("u off: the outcome of your last move is not known yet")
    event = state.last_move(row)
    if event is not None and event.kind is EventKind.REWIND:
        return _undo_rewind(state, event, make_key)
    back = state.name_of(event.from_release) if event else "as before"
    request = UndoRequest(event=event_id, idempotency_key=make_key())
    move = Move(MoveKind.UNDO, row.tenant, row.route, request, f"u {release(row.live)} > {back}")
    mine = own is not None and own.phase is Phase.COMMITTED and own.answered_at is not None
    if mine and own is not None and own.answered_at is not None and state.clock() - own.answered_at < OWN_UNDO_S:
        shown = frame.shown
        if shown is None or (shown.tenant, shown.route, shown.generation) != (*row.key, row.pointer.generation):
            return Refuse("u not armed: this row as it is now is not on your screen yet")
        if frame.seen_at is None:
            return Refuse("u not armed: your terminal has not shown this row as it is now")
        if state.link is not Link.STALE:
            return Act((move,))
    what = "your own move" if mine else f"a move of {clean(event.actor)}" if event else "a move"
    when = state.age_of(row.pointer.moved_ms)
    said = f' "{clean(event.reason)}"' if event and event.reason else ""
    return Ask(
        f"u {row.tenant}/{row.route} {release(row.live)} > {back}: undoes {what}{said}"
        f"{f', {age(when)} old' if when is not None else ''}",
        (move,),
    )


def _undo_rewind(state: ConsoleState, event: Event, make_key: NewKey) -> Verdict:
    """All of a rewind goes back as one, or nothing of it: it was one decision."""
    events = [one for one in state.events.values() if one.txn == event.txn and one.route is not None] or [event]
    for one in events:
        row = state.tenants.get((one.tenant, one.route or ""))
        if row is None or row.pointer.last_move != one.id:
            return Refuse(
                f"u off: {one.tenant}/{one.route} has moved since that rewind of {plural(len(events), 'pointer')}; "
                "R goes back on one row"
            )
    listed = tuple(
        f"{one.tenant}/{one.route}: {state.name_of(one.to_release)} > {state.name_of(one.from_release)}"
        for one in events
    )
    what = f"u {plural(len(listed), 'pointer')} of one rewind"
    request = UndoRequest(txn=event.txn, idempotency_key=make_key())
    said = f' "{clean(event.reason)}"' if event.reason else ""
    return Ask(
        f"{what}: undoes all of it, by {clean(event.actor)}{said}",
        (Move(MoveKind.UNDO, "", "", request, what),),
        listed=listed,
    )


def _fallback(state: ConsoleState, row: TenantRow, make_key: NewKey) -> Verdict:
    live = row.live
    if live is None:
        return Refuse("F off: nothing is served here")
    if live.adapter is None:
        return Refuse("F off: the base alone is served already")
    request = FallbackRequest(expected_generation=row.pointer.generation, idempotency_key=make_key())
    to = f"base alone/{clean(live.base_label)}"
    move = Move(MoveKind.FALLBACK, row.tenant, row.route, request, f"F {release(live)} > {to}")
    return Ask(f"F {row.tenant}/{row.route} {release(live)} > {to}{_author(state, row)}", (move,))


def _hold(row: TenantRow, make_key: NewKey) -> Verdict:
    held = not row.pointer.held
    request = HoldRequest(held=held, expected_generation=row.pointer.generation, idempotency_key=make_key())
    says = "h hold" if held else "h release hold"
    move = Move(MoveKind.HOLD, row.tenant, row.route, request, says)
    effect = "automation cannot promote here until it is released" if held else "automation may promote here again"
    return Ask(f"{says} of {row.tenant}/{row.route}: {effect}", (move,))


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
    *,
    override: bool,
    read_only: str | None = None,
    make_key: NewKey = new_key,
) -> Verdict:
    """A promote of `candidate`: always asks; against its gate it needs `override`, and then a typed reason.

    Only what is known here is refused here; the hub has the last word.
    """
    barred = barrier(Action.PROMOTE, state, read_only)
    if barred is not None:
        return barred
    if row.live is not None and candidate.id == row.live.id:
        return Refuse(f"p off: {release(candidate)} is live already")
    if not row.settled and _lock(state, row) is not None:
        return Refuse("p off: the last move is still settling")
    if any(entry.release == candidate.id for entry in row.pointer.quarantined):
        lift = f"loradeck lift {row.tenant} {row.route} {clean(candidate.label)}"
        return Refuse(
            f"p off: {clean(candidate.label)} is quarantined here; {lift} ends that; :promote vN names another"
        )
    if row.pointer.held:
        return Refuse("p off: the pointer is held; h releases the hold")
    trouble = gate_says(gate) if gate is not None and not gate.passed else None
    says = f"p {release(row.live)} > {release(candidate)}"
    request = PromoteRequest(
        release=candidate.id,
        expected_generation=row.pointer.generation,
        override=override,
        idempotency_key=make_key(),
    )
    move = Move(MoveKind.PROMOTE, row.tenant, row.route, request, says + (" OVERRIDE" if override else ""))
    line = f"p {row.tenant}/{row.route} {release(row.live)} > {release(candidate)}: "
    if trouble and not override:
        return Refuse(f"p off: {trouble}; :promote! {clean(candidate.label)} overrides, with a reason")
    if trouble:
        return Ask(f"{line}OVERRIDE, {trouble}", (move,), wants_reason=True)
    if override:
        return Ask(f"{line}OVERRIDE, {gate_says(gate)}", (move,), wants_reason=True)
    return Ask(f"{line}{gate_says(gate)}{_author(state, row)}", (move,))


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
    """71, or 2.4 where the decimal says something."""
    return f"{share * 100:.1f}".removesuffix(".0")


def rewind(
    state: ConsoleState,
    plan: RewindPlan,
    request: RewindRequest,
    *,
    read_only: str | None = None,
) -> Verdict:
    """A rewind whose plan the hub has made: always asks, with every pointer of the plan and why some stay.

    What is sent is the plan: its own rev, and the generations it saw.
    """
    barred = barrier(Action.REWIND, state, read_only)
    if barred is not None:
        return barred
    if state.many_open:
        return Refuse("W off: your last rewind is being sent, or its outcome is being looked up")
    moving = [step for step in plan.steps if step.skipped is None]
    staying = [step for step in plan.steps if step.skipped is not None]
    then = f"rev {plan.to_rev}"
    if plan.at_ms is not None:
        then += f", committed {stamp(plan.at_ms)} ({age(state.age_of(plan.at_ms) or 0)} ago)"
    if not moving:
        why = f": {clean(staying[0].skipped or '')}" if staying else ""
        return Refuse(f"W off: no pointer would move back to {then}{why}")
    listed = [
        f"moves  {step.tenant}/{step.route}: {_called(step.from_label, step.from_release)} > "
        f"{_called(step.to_label, step.to_release)}"
        for step in moving
    ]
    listed += [f"stays  {step.tenant}/{step.route}: {clean(step.skipped or '')}" for step in staying]
    line = f"W {plural(len(moving), 'pointer')} back to {then}"
    line += f"; {len(staying)} stay" if staying else ""
    if request.time_ms is not None:
        line += f"; asked for {stamp(request.time_ms)} ({age(state.age_of(request.time_ms) or 0)} ago)"
    if request.tenants:
        line += f"; only the {plural(len(request.tenants), 'marked tenant')}"
    execute = request.model_copy(
        update={
            "to_rev": plan.to_rev,
            "time_ms": None,
            "generations": {f"{step.tenant}/{step.route}": step.generation for step in moving},
        }
    )
    says = f"W {plural(len(moving), 'pointer')} > rev {plan.to_rev}"
    return Ask(line, (Move(MoveKind.REWIND, "", "", execute, says),), listed=tuple(listed))


def annotate(
    state: ConsoleState, event: Event | None, text: str, *, read_only: str | None = None, make_key: NewKey = new_key
) -> Verdict:
    """Add an incident and a reason to an event that has happened. It moves nothing, so enter is enough.

    Args:
        text: 'INC-2210 what happened': the incident's id, '-' for none, and the reason.
    """
    barred = barrier(Action.ANNOTATE, state, read_only)
    if barred is not None:
        return barred
    if event is None or event.route is None:
        return Refuse("i off: no move of a pointer is selected")
    incident, _, reason = text.strip().partition(" ")
    if incident in ("", "-") and not reason.strip():
        return Refuse("i off: nothing was typed; INC-2210 what happened, or - what happened")
    try:
        request = AnnotateRequest(
            event=event.id,
            incident=None if incident == "-" else incident,
            reason=reason.strip(),
            idempotency_key=make_key(),
        )
    except ValidationError as error:
        return Refuse(f"i off: {clean(error.errors()[0]['msg'])}")
    says = f"i {clean(text.strip())} on the {event.kind.value} of {clock(event.at_ms)}"
    return Act((Move(MoveKind.ANNOTATE, event.tenant, event.route, request, says),))


def _called(label: str | None, release: str | None) -> str:
    return clean(label) if label else short(release) if release else "none"


def _quit(state: ConsoleState) -> Verdict:
    open_moves = state.unsettled
    if not open_moves:
        return Act()
    own = open_moves[-1]
    more = f" and {len(open_moves) - 1} more" if len(open_moves) > 1 else ""
    where = f" on {own.move.tenant}/{own.move.route}" if own.move.tenant else ""
    return Ask(f"quit? {own.move.says}{where}{more} has not settled")


# ---- wording -----------------------------------------------------------------------------------------------


def _from_to(state: ConsoleState, row: TenantRow, key: str, target: ReleaseView | None) -> str:
    return f"{key} {row.tenant}/{row.route} {release(row.live)} > {release(target)}{_author(state, row)}"


def _author(state: ConsoleState, row: TenantRow) -> str:
    """Who put the live release there, and why."""
    event = state.last_move(row)
    if event is None:
        return ""
    said = f' "{clean(event.reason)}"' if event.reason else ""
    return f" (live by {clean(event.actor)}{said})"
