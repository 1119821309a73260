"""The question before a rewind of many pointers."""

from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.schemas.ids import short
from loradeck.schemas.moves import RewindPlan, RewindRequest
from loradeck.tui.key_checks.verdict import Ask, Verdict, barrier, off
from loradeck.tui.keys.action import Action
from loradeck.tui.model.sent_moves import Move
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import age, plural


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
