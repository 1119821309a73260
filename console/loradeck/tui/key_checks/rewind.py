"""The questions before a rewind of many pointers, and before the undo of one."""

from __future__ import annotations

from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.schemas.ids import short
from loradeck.schemas.log import Event
from loradeck.schemas.moves import RewindPlan, RewindRequest, UndoRequest
from loradeck.tui.key_checks.verdict import Ask, NewKey, Verdict, barrier, off
from loradeck.tui.keys.action import Action
from loradeck.tui.model.sent_moves import Move, MoveKind
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import age, plural


def rewind(
    state: ConsoleState,
    plan: RewindPlan,
    request: RewindRequest,
    *,
    read_only: str | None = None,
) -> Verdict:
    """Decide on a rewind that the hub has planned: it always asks, and lists each pointer that moves or stays.

    The request repeats the plan: its rev, and the generations it was made for.
    """
    barred = barrier(Action.REWIND, state, read_only)
    if barred is not None:
        return barred
    if state.many_open:
        return off(state, Action.REWIND, "your last rewind is being sent, or its outcome is being looked up")
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
    execute = request.model_copy(
        update={
            "to_rev": plan.to_rev,
            "time_ms": None,
            "generations": {f"{step.tenant}/{step.route}": step.generation for step in moving},
        }
    )
    says = f"{key} {plural(len(moving), 'pointer')} > rev {plan.to_rev}"
    return Ask(line, (Move(MoveKind.REWIND, "", "", execute, says),), listed=tuple(listed))


def _called(label: str | None, release: str | None) -> str:
    return clean(label) if label else short(release) if release else "none"


def undo_rewind(state: ConsoleState, event: Event, make_key: NewKey) -> Verdict:
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
    request = UndoRequest(txn=event.txn, idempotency_key=make_key())
    quoted = f' "{clean(event.reason)}"' if event.reason else ""
    return Ask(
        f"{what}: undoes all of it, by {clean(event.actor)}{quoted}",
        (Move(MoveKind.UNDO, "", "", request, what),),
        listed=listed,
    )
