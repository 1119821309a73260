"""The question before a signature under the review of a candidate, and the gate as judged with it."""

from loradeck.client.terminal_text import clean
from loradeck.schemas.attestation import GateResult
from loradeck.tui.key_checks.verdict import Ask, Verdict, barrier, off
from loradeck.tui.keys.action import Action
from loradeck.tui.model.registry import Gate
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.model.sent_moves import Signing
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import plural


def signing_of(reviewing: Reviewing | None, gate: Gate | None, state: ConsoleState) -> Verdict:
    """Decide on V for the selected gate result: always a question, once every answer has a verdict.

    `reviewing`: the verdicts on that candidate's answers; None if nobody has looked at them here.
    """
    barred = barrier(Action.SIGN, state)
    if barred is not None:
        return barred
    look = state.keys.shown(Action.OPEN)
    if gate is None:
        return off(state, Action.SIGN, "no gate result is selected")
    if reviewing is None or reviewing.sheet is None:
        return off(state, Action.SIGN, f"look at the sampled answers first: {look}")
    if reviewing.left:
        return off(
            state,
            Action.SIGN,
            f"{plural(reviewing.left, 'answer')} of {len(reviewing.items)} without a verdict: {look}",
        )
    sheet = reviewing.sheet
    tenant, route, digest = reviewing.candidate
    review = reviewing.review
    says = f"{state.keys.shown(Action.SIGN)} sign {tenant}/{route} {state.name_of(digest)}"
    name = clean(state.me.actor) if state.me is not None else "?"
    found = f"{review.bad} of {plural(len(review.items), 'answer')} bad"
    question = f"{says} as {name}: {found}, at most {sheet.max_bad} may be; your name stays on record"
    listed = tuple(
        f"bad  {clean(item.id)}: {_why(reviewing, item.id)}{clean(item.answer)}"
        for item in sheet.items
        if not reviewing.verdicts[item.id]
    )
    return Ask(question, listed=listed, signing=Signing(tenant, route, review, f"{says}: {found}"))


def _why(reviewing: Reviewing, item: str) -> str:
    note = reviewing.notes.get(item)
    return f'"{clean(note)}" ' if note else ""


def after_signing(result: GateResult | None) -> str:
    """The gate's result with a new signature, in words, as the hub has judged it."""
    if result is None:
        return "the gate waits for a report on another suite"
    notes = [clean(check.note) for check in result.checks if check.name == "review"]
    return f"gate {'passed' if result.passed else 'FAILED'}, review: {', '.join(notes) or 'not asked for'}"
