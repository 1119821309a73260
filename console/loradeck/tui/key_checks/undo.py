"""Whether u acts at once, asks first or is refused, and what W asks before a rewind of many pointers."""

from collections.abc import Iterable

from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.rules.moves.draft import is_guards
from loradeck.schemas.ids import PointerKey, short
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.moves import MOST_UNDONE, RewindPlan, RewindRequest, UndoRequest
from loradeck.schemas.state import TenantRow
from loradeck.tui.key_checks.seen_frames import Frame
from loradeck.tui.key_checks.verdict import Act, Ask, Refuse, Verdict, barrier, off
from loradeck.tui.keys.action import Action
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.sent_moves import Move, OwnMove, Phase
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import age, plural, release

OWN_UNDO_S = 60.0
"""How long u undoes a move of one's own without asking."""


def undo(state: ConsoleState, row: TenantRow, frame: Frame) -> Verdict:
    """The verdict on u on one row: with it, whatever one key of this console moved together with it."""
    event_id, key = row.pointer.last_move, state.keys.shown(Action.UNDO)
    if event_id is None:
        return off(state, Action.UNDO, "nothing has moved here")
    own = state.own_move(row)
    if own is not None and own.phase in (Phase.SENDING, Phase.UNKNOWN):
        return off(state, Action.UNDO, "the outcome of your last move is not known yet")
    event = state.last_move(row)
    if event is not None and event.kind is EventKind.REWIND:
        return _undo_rewind(state, event)
    if own is not None and own.together:
        return _undo_together(state, row, own)
    back = state.name_of(event.from_release) if event else "as before"
    risk, asks = row.undo_asks, f"; {back} is {clean(row.undo_asks)}" if row.undo_asks else ""
    request = UndoRequest(event=event_id, confirmed=risk is not None, idempotency_key=state.make_key())
    move = Move(Action.UNDO, row.tenant, row.route, request, f"{key} {release(row.live)} > {back}")
    mine = own is not None and own.phase is Phase.COMMITTED and own.answered_at is not None
    fresh = own is not None and own.answered_at is not None and state.clock() - own.answered_at < OWN_UNDO_S
    if mine and fresh and risk is None:
        shown = frame.shown
        if shown is None or (shown.tenant, shown.route, shown.generation) != (*row.key, row.pointer.generation):
            return Refuse(f"{key} not armed: this row as it is now is not on your screen yet")
        if frame.seen_at is None:
            return Refuse(f"{key} not armed: your terminal has not shown this row as it is now")
        if state.link is not Link.STALE:
            return Act((move,))
    what = "your own move" if mine else f"a move of {clean(event.actor)}" if event else "a move"
    when = state.age_of(row.pointer.moved_ms)
    quoted = f' "{clean(event.reason)}"' if event and event.reason else ""
    old = f", {age(when)} old" if when is not None else ""
    line = f"{key} {row.tenant}/{row.route} {release(row.live)} > {back}: undoes {what}{quoted}{old}"
    return Ask(f"{line}{asks}", (move,), wants_reason=event is not None and is_guards(event))


def undo_marked(state: ConsoleState) -> Verdict:
    """The undo of the last moves of all marked rows, in one transaction."""
    return _undo_many(state, state.marks, f"the last moves of {plural(len(state.marks), 'marked row')}")


def _undo_together(state: ConsoleState, row: TenantRow, own: OwnMove) -> Verdict:
    """The undo of what one key moved together: one transaction, as it was one decision."""
    if any(one.phase in (Phase.SENDING, Phase.UNKNOWN) for one in own.together):
        return off(state, Action.UNDO, "the outcome of your last move is not known yet on every row of it")
    moved = {one.move.row: one.event.id for one in own.together if one.event is not None}
    here = {key: state.tenants.get(key) for key in moved}
    keys = [key for key, at in here.items() if at is not None and at.pointer.last_move == moved[key]]
    mark, key = state.keys.shown(Action.MARK), state.keys.shown(Action.UNDO)
    what = f"your {own.move.says.partition(' ')[0]} on {plural(len(own.together), 'row')}"
    alone = f"; {row.tenant} alone: {mark}, then {key}"
    return _undo_many(state, keys, what, after=alone, stayed=len(own.together) - len(keys))


def _undo_many(
    state: ConsoleState, keys: Iterable[PointerKey], what: str, *, after: str = "", stayed: int = 0
) -> Verdict:
    key = state.keys.shown(Action.UNDO)
    events: list[str] = []
    listed: list[str] = []
    risks = 0
    for row in (state.tenants[one] for one in keys):
        last = row.pointer.last_move
        if last is None:
            stayed += 1
            listed.append(f"stays  {row.tenant}/{row.route}: nothing has moved here")
            continue
        event = state.last_move(row)
        back = state.name_of(event.from_release) if event else "as before"
        risks += row.undo_asks is not None
        note = f"  ({back} is {clean(row.undo_asks)})" if row.undo_asks else ""
        events.append(last)
        listed.append(f"moves  {row.tenant}/{row.route}: {release(row.live)} > {back}{note}")
    if not events:
        return off(state, Action.UNDO, "each of these rows has moved since")
    if len(events) > MOST_UNDONE:
        return off(state, Action.UNDO, f"one undo takes {MOST_UNDONE:,} rows at most; these are {len(events):,}")
    line = f"{key} {plural(len(events), 'row')} in one transaction: undoes {what}"
    line += f", {stayed} stay" if stayed else ""
    line += f"; {risks} would serve again what is quarantined, breached, left by R or cold" if risks else ""
    request = UndoRequest(events=tuple(events), confirmed=True, idempotency_key=state.make_key())
    move = Move(Action.UNDO, "", "", request, f"{key} {plural(len(events), 'row')}")
    return Ask(line + after, (move,), listed=tuple(listed))


def _undo_rewind(state: ConsoleState, event: Event) -> Verdict:
    """Decide on the undo of a rewind: all its pointers go back together, or none: it was one decision."""
    events = [one for one in state.events.values() if one.txn == event.txn and one.route is not None] or [event]
    for one in events:
        row = state.tenants.get((one.tenant, one.route or ""))
        if row is None or row.pointer.last_move != one.id:
            return off(
                state,
                Action.UNDO,
                f"{one.tenant}/{one.route} has moved since that rewind of {plural(len(events), 'pointer')}; "
                f"{state.keys.shown(Action.ROLLBACK)} goes back on one row",
            )
    listed = tuple(
        f"{one.tenant}/{one.route}: {state.name_of(one.to_release)} > {state.name_of(one.from_release)}"
        for one in events
    )
    what = f"{state.keys.shown(Action.UNDO)} {plural(len(listed), 'pointer')} of one rewind"
    request = UndoRequest(txn=event.txn, confirmed=True, idempotency_key=state.make_key())
    quoted = f' "{clean(event.reason)}"' if event.reason else ""
    return Ask(
        f"{what}: undoes all of it, by {clean(event.actor)}{quoted}",
        (Move(Action.UNDO, "", "", request, what),),
        listed=listed,
    )


def rewind(state: ConsoleState, plan: RewindPlan, request: RewindRequest) -> Verdict:
    """Decide on a rewind that the hub has planned: it always asks, and lists each pointer that moves or stays.

    The request repeats the plan: its rev, and the generations it was made for.
    """
    barred = barrier(Action.REWIND, state)
    if barred is not None:
        return barred
    if state.many_open:
        return off(
            state, Action.REWIND, f"your last {state.many_open} is being sent, or its outcome is being looked up"
        )
    moving = [step for step in plan.steps if step.skipped is None]
    staying = [step for step in plan.steps if step.skipped is not None]
    then = f"rev {plan.to_rev}"
    if plan.at_ms is not None:
        then += f", committed {stamp(plan.at_ms)} ({age(state.age_of(plan.at_ms) or 0)} ago)"
    if not moving:
        why = f": {clean(staying[0].skipped or '')}" if staying else ""
        return off(state, Action.REWIND, f"no pointer would move back to {then}{why}")
    listed = [
        f"moves  {step.tenant}/{step.route}: {_called(step.from_label, step.from_release)} > "
        f"{_called(step.to_label, step.to_release)}"
        for step in moving
    ]
    listed += [f"stays  {step.tenant}/{step.route}: {clean(step.skipped or '')}" for step in staying]
    key = state.keys.shown(Action.REWIND)
    line = f"{key} {plural(len(moving), 'pointer')} back to {then}"
    line += f"; {len(staying)} stay" if staying else ""
    if request.time_ms is not None:
        line += f"; asked for {stamp(request.time_ms)} ({age(state.age_of(request.time_ms) or 0)} ago)"
    if request.tenants:
        line += f"; only the {plural(len(request.tenants), 'marked tenant')}"
    says = f"{key} {plural(len(moving), 'pointer')} > rev {plan.to_rev}"
    return Ask(line, (Move(Action.REWIND, "", "", plan.carried_out(request), says),), listed=tuple(listed))


def _called(label: str | None, release: str | None) -> str:
    return clean(label) if label else short(release) if release else "none"
