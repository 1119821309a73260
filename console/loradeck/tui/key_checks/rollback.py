"""Whether R acts at once, asks first, is locked or is refused, on the selected row and on marked rows."""

from loradeck.client.candidate_words import leaves
from loradeck.client.terminal_text import clean
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.log import EventKind
from loradeck.schemas.state import PreviewAction, TenantRow
from loradeck.tui.key_checks.seen_frames import Frame, Shown
from loradeck.tui.key_checks.verdict import Act, Ask, Refuse, Verdict, live_by, off
from loradeck.tui.keys.action import Action
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.lists import hidden
from loradeck.tui.model.sent_moves import Move, Phase, is_preparing
from loradeck.tui.model.state import OVERDUE_S, ConsoleState
from loradeck.tui.text.spans import age, count, percent, plural, release

ARM_S = 0.5
"""How long a preview must have been on the terminal before R acts on it."""

OLD_S = 24 * 3600.0
"""An unflagged pointer that has not moved for this long asks before R."""

PANEL = "panel"
"""`Shown.action` of a frame that shows a row's move under way and not where R goes."""


def shown_of(row: TenantRow, *, panel: bool = False) -> Shown:
    """Returns what a frame with this row's preview, or only its panel, shows that R would act on."""
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


def rollback(state: ConsoleState, row: TenantRow, frame: Frame) -> Verdict:
    """The verdict on R on one row."""
    preview, key = row.preview, state.keys.shown(Action.ROLLBACK)
    if preview.action in (PreviewAction.FALLBACK, PreviewAction.NONE):
        why = clean(preview.refused or "no release to go back to")
        base = f"; {state.keys.shown(Action.FALLBACK)} goes to the base alone"
        return off(state, Action.ROLLBACK, why + (base if preview.action is PreviewAction.FALLBACK else ""))
    locked = lock(state, row)
    if locked is not None:
        return locked
    reason = _asks(state, row)
    if reason is not None:
        line = f"{key} {row.tenant}/{row.route} {_path(row)}{live_by(state, row)}"
        return Ask(f"{line}; asks: {reason}", (_move(state, row, True),))
    shown = frame.shown
    if shown is None or (shown.tenant, shown.route) != row.key:
        return Refuse(f"{key} not armed: this row's preview is not on your screen yet")
    if shown.action == PANEL:
        return Refuse(f"{key} not armed: {state.keys.shown(Action.CLOSE)} closes the panel and shows where {key} goes")
    if shown != shown_of(row):
        return Refuse(f"{key} not armed: the row changed under you (now gen {row.pointer.generation}); look again")
    if frame.seen_at is None:
        return Refuse(f"{key} not armed: your terminal has not shown this preview yet")
    if state.clock() - frame.seen_at < ARM_S:
        return Refuse(f"{key} not armed: this preview has been on your screen for less than half a second")
    return Act((_move(state, row, False),))


def lock(state: ConsoleState, row: TenantRow) -> Refuse | None:
    """While the last move of a pointer is under way, R is locked; at the latest after OVERDUE_S it asks."""
    why = _locked(state, row)
    return Refuse(f"{state.keys.shown(Action.ROLLBACK)} locked: {why}") if why is not None else None


def _locked(state: ConsoleState, row: TenantRow) -> str | None:
    if state.many_open:
        return f"your {state.many_open} is being sent, or its outcome is being looked up"
    own = state.own_move(row)
    if is_preparing(own, row):
        return None  # R names the prepare, and so cancels that or nothing
    if own is not None and own.phase is Phase.SENDING:
        return "your move is being sent"
    if own is not None and own.phase is Phase.UNKNOWN:
        return "the outcome of your last move is unknown; it is being looked up"
    if own is not None and (own.generation or 0) > row.pointer.generation:
        return "your move is committed and its row is not here yet"
    moved = state.age_of(row.pointer.moved_ms)
    if not row.settled and moved is not None and moved < OVERDUE_S:
        return f"still moving: flipped {row.flipped}/{row.placed}, proven {row.proven}/{row.placed}"
    return None


def _asks(state: ConsoleState, row: TenantRow) -> str | None:
    """Why R asks for y on this row, or None where it may act at once."""
    preview = row.preview
    if preview.action is PreviewAction.CANCEL_PREPARE:
        return None
    if preview.asks:
        return clean(preview.asks)
    if not row.settled:
        return f"the last move is not done (flipped {row.flipped}/{row.placed}, proven {row.proven}/{row.placed})"
    last = state.last_move(row)
    if last is not None and last.kind in (EventKind.ROLLBACK, EventKind.FALLBACK, EventKind.REWIND):
        return "this goes one release further back"
    moved = state.age_of(row.pointer.moved_ms)
    if not row.flags and (moved is None or moved > OLD_S):
        return f"nothing is flagged here and it has not moved for {age(moved) if moved is not None else 'long'}"
    if state.link is Link.STALE:
        return f"the hub has been silent for {age(state.silent_s)}"
    return None


def _move(state: ConsoleState, row: TenantRow, confirmed: bool) -> Move:
    key = state.keys.shown(Action.ROLLBACK)
    request = rollback_request(row.preview, key=state.make_key(), confirmed=confirmed)
    says = f"{key} cancel prepare" if request.cancels else f"{key} {_path(row)}"
    return Move(Action.ROLLBACK, row.tenant, row.route, request, says)


def _path(row: TenantRow) -> str:
    """Says what R takes from callers, and what they get: 'v9 > v8'."""
    return f"{release(leaves(row))} > {release(row.preview.target)}"


def rollback_marked(state: ConsoleState) -> Verdict:
    """The frozen list of marked rows: hidden ones first, each with the generation and target it had now."""
    off_screen = hidden(state.marks, state.tenant_list.order)
    away = set(off_screen)
    ordered = off_screen + [key for key in state.marks if key not in away]
    moves: list[Move] = []
    listed: list[str] = []
    well = 0
    for key in ordered:
        row = state.tenants[key]
        where = "  (hidden by the filter)" if key in away else ""
        name = f"{row.tenant}/{row.route}"
        preview, locked = row.preview, _locked(state, row)
        if preview.action is not PreviewAction.ROLLBACK or preview.target is None:
            listed.append(f"stays  {name}: {clean(preview.refused or preview.action.value)}{where}")
        elif locked is not None:
            listed.append(f"stays  {name}: {locked}{where}")
        else:
            moves.append(_move(state, row, True))
            note = f"  ({clean(preview.asks)})" if preview.asks else ""
            well += "BAD" not in row.flags
            listed.append(f"moves  {name}: {_path(row)}  {_does(row)}{note}{where}")
    if not moves:
        clears = f"({state.keys.shown(Action.MARK_ALL)} clears marks with {state.keys.shown(Action.CLOSE)})"
        return off(state, Action.ROLLBACK, f"none of the {plural(len(ordered), 'marked row')} can go back {clears}")
    stays = len(ordered) - len(moves)
    line = f"{state.keys.shown(Action.ROLLBACK)} on {plural(len(moves), 'marked row')}"
    line += f", {len(off_screen)} hidden by the filter" if off_screen else ""
    line += f", {stays} stay" if stays else ""
    line += f"; {well} of them NOT BAD" if well else ""
    return Ask(line, tuple(moves), listed=tuple(listed))


def _does(row: TenantRow) -> str:
    """Says how the live release of a row does, before R leaves it: 'not bad: 0.2% bad of 4,590'."""
    counts = row.cause.live
    share = f"{percent(counts.bad / counts.checked)}% bad of {count(counts.checked)}" if counts.checked else "unchecked"
    failed = f", {count(counts.failed)} failed" if counts.failed else ""
    return f"{'BAD' if 'BAD' in row.flags else 'not bad:'} {share}{failed}"
