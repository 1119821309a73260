"""A candidate's sampled answers as lines, with the verdict on each."""

import textwrap

from loradeck.client.terminal_text import clean
from loradeck.rules.quality.review import in_words
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import BLANK, Line, Span, labelled, line, plural, title

LABEL = 9
"""Cells of a label."""


def review_head(state: ConsoleState, reviewing: Reviewing, width: int) -> list[Line]:
    """Which candidate, who has signed, and every answer's verdict as one character."""
    tenant, route, digest = reviewing.candidate
    sheet = reviewing.sheet
    lines = [title(f"answers of {tenant}/{route}   {state.name_of(digest)}", width)]
    if sheet is None:
        status = Span(f" {reviewing.trouble}", "bad") if reviewing.trouble else Span(" loading ...", "dim")
        return [
            *lines,
            BLANK,
            *(line(Span(part, status.style)) for part in textwrap.wrap(status.text, max(20, width - 1))),
        ]
    needs = f"{plural(sheet.people, 'person', 'people')} must sign, at most {sheet.max_bad} bad"
    lines.append(labelled(f" {'GATE':<{LABEL}}", needs))
    signed = "   ".join(f"{state.when(one.at_ms)} {clean(one.by)}: {in_words(one)}" for one in sheet.signed)
    lines.append(labelled(f" {'SIGNED':<{LABEL}}", signed or Span("nobody yet", "dim")))
    marks = [_mark(reviewing, n) for n in range(len(sheet.items))]
    room = max(1, width - LABEL - 3)
    start = max(0, min(reviewing.at - room // 2, len(marks) - room))
    lines.append(labelled(f" {'YOU':<{LABEL}}", *marks[start : start + room]))
    judged = f"{len(reviewing.verdicts)} of {len(sheet.items)} judged, {reviewing.bad} bad"
    lines.append(line(Span(" " * (LABEL + 1)), Span(f"+ good   - bad   . not judged   {judged}", "dim")))
    return lines


def _mark(reviewing: Reviewing, n: int) -> Span:
    good = reviewing.verdicts.get(reviewing.items[n].id)
    mark, style = (".", "dim") if good is None else ("+", "good") if good else ("-", "bad")
    return Span(mark, "bar") if n == reviewing.at else Span(mark, style)


def item_lines(reviewing: Reviewing, width: int) -> list[Line]:
    """The current answer: its prompt, the expected answer, the candidate's answer, and the verdict on it."""
    if not reviewing.items:
        return []
    item = reviewing.items[reviewing.at]
    good = reviewing.verdicts.get(item.id)
    verdict = Span("not judged", "dim") if good is None else Span("good", "good") if good else Span("BAD", "bad")
    scored = Span("scored as right", "dim") if item.exact else Span("scored as wrong", "warn")
    number = f"{reviewing.at + 1} of {len(reviewing.items)}"
    lines = [labelled(f" {number:<{LABEL}}", Span(clean(item.id), "bold"), "   ", scored, "   ", verdict)]
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
