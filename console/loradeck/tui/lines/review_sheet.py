"""A candidate's sampled answers as lines, and the signature under what was found. Nothing is sent here."""

from __future__ import annotations

import textwrap

from loradeck.client.terminal_text import clean
from loradeck.schemas.attestation import GateResult
from loradeck.tui.gate.decide import Action, Ask, Refuse, Verdict, barrier
from loradeck.tui.lines.preview import title
from loradeck.tui.model.own_moves import Signing
from loradeck.tui.model.registry import Gate
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import BLANK, Line, Span, line, plural

LABEL = 9
"""Cells of a label."""


def signing_of(reviewing: Reviewing | None, gate: Gate | None, state: ConsoleState, read_only: str | None) -> Verdict:
    """What becomes of V on the selected gate result: always a question, once every answer has a verdict.

    Args:
        reviewing: what was said of that candidate's answers here; None: nobody looked.
    """
    barred = barrier(Action.SIGN, state, read_only)
    if barred is not None:
        return barred
    if gate is None:
        return Refuse("V off: no gate result is selected")
    if reviewing is None or reviewing.sheet is None:
        return Refuse("V off: look at the sampled answers first: enter")
    if reviewing.left:
        return Refuse(f"V off: {plural(reviewing.left, 'answer')} of {len(reviewing.items)} without a verdict: enter")
    sheet = reviewing.sheet
    tenant, route, digest = reviewing.candidate
    review = reviewing.review
    says = f"V sign {tenant}/{route} {state.name_of(digest)}"
    name = clean(state.me.actor) if state.me is not None else "?"
    found = f"{review.bad} of {plural(len(review.items), 'answer')} bad"
    question = f"{says} as {name}: {found}, at most {sheet.max_bad} may be; your name stays on record"
    listed = tuple(
        f"bad  {clean(item.id)}: {_why(reviewing, item.id)}{clean(item.answer)}"
        for item in sheet.items
        if not reviewing.said[item.id]
    )
    return Ask(question, listed=listed, signing=Signing(tenant, route, review, f"{says}: {found}"))


def _why(reviewing: Reviewing, item: str) -> str:
    note = reviewing.notes.get(item)
    return f'"{clean(note)}" ' if note else ""


def after_signing(result: GateResult | None) -> str:
    """What the gate makes of it, as the hub judged it anew."""
    if result is None:
        return "the gate waits for a report on another suite"
    notes = [clean(check.note) for check in result.checks if check.name == "review"]
    return f"gate {'passed' if result.passed else 'FAILED'}, review: {', '.join(notes) or 'not asked for'}"


# ---- the page ----------------------------------------------------------------------------------------------


def review_head(state: ConsoleState, reviewing: Reviewing, width: int) -> list[Line]:
    """Which candidate, who has signed, and every answer's verdict as one character."""
    tenant, route, digest = reviewing.candidate
    sheet = reviewing.sheet
    lines = [title(f"answers of {tenant}/{route}   {state.name_of(digest)}", width)]
    if sheet is None:
        told = Span(f" {reviewing.trouble}", "bad") if reviewing.trouble else Span(" loading ...", "dim")
        return [*lines, BLANK, *(line(Span(part, told.style)) for part in textwrap.wrap(told.text, max(20, width - 1)))]
    needs = f"{plural(sheet.people, 'person', 'people')} must sign, at most {sheet.max_bad} bad"
    lines.append(line(Span(f" {'GATE':<{LABEL}}", "label"), needs))
    signed = "   ".join(
        f"{clean(one.by)}: {one.bad} of {one.n} bad {state.when(one.at_ms)}"
        f"{'' if one.current else ' (of other answers)'}"
        for one in sheet.signed
    )
    lines.append(line(Span(f" {'SIGNED':<{LABEL}}", "label"), signed or Span("nobody yet", "dim")))
    marks = [_mark(reviewing, n) for n in range(len(sheet.items))]
    room = max(1, width - LABEL - 3)
    start = max(0, min(reviewing.at - room // 2, len(marks) - room))
    lines.append(line(Span(f" {'YOU':<{LABEL}}", "label"), *marks[start : start + room]))
    said = f"{len(reviewing.said)} of {len(sheet.items)} judged, {reviewing.bad} bad"
    lines.append(line(Span(" " * (LABEL + 1)), Span(f"+ good   - bad   . not judged   {said}", "dim")))
    return lines


def _mark(reviewing: Reviewing, n: int) -> Span:
    good = reviewing.said.get(reviewing.items[n].id)
    mark, style = (".", "dim") if good is None else ("+", "good") if good else ("-", "bad")
    return Span(mark, "bar") if n == reviewing.at else Span(mark, style)


def item_lines(reviewing: Reviewing, width: int) -> list[Line]:
    """The answer that is looked at: what was asked and wanted, what the candidate said, and the verdict on it."""
    if not reviewing.items:
        return []
    item = reviewing.items[reviewing.at]
    good = reviewing.said.get(item.id)
    verdict = Span("not judged", "dim") if good is None else Span("good", "good") if good else Span("BAD", "bad")
    scored = Span("scored as right", "dim") if item.exact else Span("scored as wrong", "warn")
    number = f"{reviewing.at + 1} of {len(reviewing.items)}"
    lines = [line(Span(f" {number:<{LABEL}}", "label"), Span(clean(item.id), "bold"), "   ", scored, "   ", verdict)]
    for message in item.prompt:
        lines += _text(message.get("role", "?"), message.get("content", ""), width)
    lines += _text("wanted", item.wanted, width)
    lines += _text("answered", item.answer or "(nothing)", width)
    if note := reviewing.notes.get(item.id):
        lines += _text("wrong", note, width)
    return lines


def _text(label: str, text: str, width: int) -> list[Line]:
    """Text from outside under a label, all of it: its own line breaks are kept, and long lines are folded."""
    room = max(20, width - LABEL - 2)
    parts: list[str] = []
    for own in text.splitlines() or [""]:
        parts += textwrap.wrap(clean(own), room, drop_whitespace=False, replace_whitespace=False) or [""]
    labels = [f" {clean(label)[: LABEL - 1]:<{LABEL}}", *[" " * (LABEL + 1)] * (len(parts) - 1)]
    return [line(Span(mark, "label"), part) for mark, part in zip(labels, parts, strict=True)]
