"""The pinned preview of the selected pointer: NOW, CAUSE, SHADOW, ALSO, R ->, MOVES, TELL. Lines without a toolkit."""

import re
from collections.abc import Callable
from typing import NamedTuple

from rich.cells import cell_len

from loradeck.client.candidate_words import gets, of_noise, of_pairs, who_goes_where
from loradeck.client.job_words import prepare_progress
from loradeck.client.terminal_text import clean
from loradeck.rules.quality.attention import WORST
from loradeck.rules.quality.cause import of_ten_minutes, whose
from loradeck.rules.quality.health import ENOUGH, OVERDUE
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import short
from loradeck.schemas.incident import SHARED_WORDS, RelatedRelease, Shared
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.route import Soak
from loradeck.schemas.state import Preview, PreviewAction, Readiness, ReleaseView, ReplicaReadiness, TenantRow
from loradeck.tui.key_checks.decide import gate_says
from loradeck.tui.key_checks.verdict import Act, Ask, Refuse, Verdict
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.personal_keys import Keys
from loradeck.tui.lines.trend import past_line, trend_line
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.sent_moves import Tell, reached
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import (
    BLANK,
    Line,
    Span,
    age,
    clock,
    count,
    fit,
    labelled,
    line,
    percent,
    plural,
    span,
    title,
    width_of,
    wrapped,
)
from loradeck.tui.text.why import word

WIDE = 100
"""From this many columns on the wide form of a line is shown."""

_WITH_SHADOW = 11
"""Lines from which on a preview with a shadow in it has room for ALSO as well."""

_DEFAULT_SOAK = (Soak().seconds, Soak().requests)
_MARK = {EventKind.PROMOTE: "", EventKind.ROLLBACK: "R ", EventKind.UNDO: "u ", EventKind.FALLBACK: "F ",
         EventKind.REWIND: "W ", EventKind.RECOVER: "recover ", EventKind.CANDIDATE_START: "start ",
         EventKind.CANDIDATE_FINISH: "finish ", EventKind.CANDIDATE_ABORT: "abort "}  # fmt: skip


def preview_lines(
    state: ConsoleState, row: TenantRow, width: int, height: int, *, rollback: Verdict, undo: Verdict
) -> list[Line]:
    """The preview of R on a row: its target and the reasons, before the key is pressed.

    Args:
        height: lines of the pane; more than the preview needs go to the TELL line.
        rollback: the gate's verdict on R now.
        undo: the gate's verdict on u now.
    """
    wide = width >= WIDE
    head = f"{row.tenant}/{row.route}  gen {row.pointer.generation}"
    head += "  HELD: automation cannot promote" if row.pointer.held else ""
    head += "  SUSPENDED" if row.suspended else ""
    proof = (AckState.PROVEN, AckState.LISTED)
    unproven = [clean(r.replica) for r in row.replicas if r.state not in proof or not r.linked]
    if "UNPRVN" in row.flags and unproven:
        head += f"  NOT PROVEN on {', '.join(unproven[:3])}{' ...' if len(unproven) > 3 else ''}"
    elif reached(row) is Reached.LISTED:
        head += "  LISTED, not proven: " + next(clean(r.detail) for r in row.replicas if r.state is AckState.LISTED)
    if "FAILED" in row.flags:
        failed = state.newest_prepare(row)
        head += f"  LAST PROMOTE FAILED{f': {clean(failed.message)}' if failed is not None and failed.message else ''}"
    for one in row.alone[-1:]:
        head += f"  {clean(one.actor)} ACTED ALONE: {clean(one.reason)}; loradeck event countersign {clean(one.event)}"
    if (found := row.incident) is not None:
        head += f"  INCIDENT {clean(found.id)} {age(state.age_of(found.opened_ms) or 0)}: {clean(found.title)}"
    if row.deprecated is not None:
        head += f"  DEPRECATED, still called with {plural(len(row.deprecated.callers), 'key')}"
    drift = [f"{clean(r.replica)} to {state.label_of(r.pinned)}" for r in row.replicas if r.pinned]
    if drift:
        head += f"  PINNED on {', '.join(drift[:2])}{' ...' if len(drift) > 2 else ''}"
    if state.link is Link.LOST or state.link is Link.STALE:
        head += f"  AS OF {age(state.silent_s)} AGO"
    lines = [title(head, width), _now(state, row, wide)]
    lines += cause_lines(row, wide)
    if (shadow := _shadow(row)) is not None:
        lines.append(shadow)
    if shadow is None or height >= _WITH_SHADOW:
        lines.append(also_line(state, row))
    lines += goes_to(row, wide, _progress(state, row))
    lines.append(armed_line(state.keys, rollback, undo, width))
    lines.append(_moves(state, row))
    if (history := state.trends.get(row.key)) is not None:
        trend, has_room = trend_line(row, history, width), height > len(lines) + 1
        if not has_room and state.tell is None:  # in the place of what would say that there is nothing to tell
            return [*lines, trend]
        lines += [trend] if has_room else []
    if (past := state.pasts.get(row.key)) is not None and past.minutes and height > len(lines) + 1:
        lines.append(past_line(row, past, width))
    return [*lines, *tell_lines(state, state.tell, width, max(1, height - len(lines)))]


def tell_lines(state: ConsoleState, tell: Tell | None, width: int, room: int = 1) -> list[Line]:
    """The last result, until esc or a later move. It takes at most `room` lines; the last one is cut."""
    label, indent = Span(" TELL  ", "label"), Span("       ")
    close = state.keys.shown(Action.CLOSE)
    if tell is None:
        return [line(label, Span(f"(empty: your last result stays here until {close} or your next move)", "dim"))]
    hint = Span(f"  {close}" if tell.closes else "", "dim")
    at = Span(f"{clock(tell.at_ms, seconds=True)} " if tell.at_ms else "", "dim")
    parts = wrapped(f"{at.text}{clean(tell.text)}", width - width_of([indent, hint]))
    if len(parts) > room:
        parts[room - 1 :] = [" ".join(parts[room - 1 :])]
    parts[0] = parts[0].removeprefix(at.text)
    lines = [line(label, at, Span(parts[0], tell.style)), *(line(indent, Span(part, tell.style)) for part in parts[1:])]
    return [*lines[:-1], (*lines[-1], hint)]


def _full(view: ReleaseView | None, wide: bool) -> str:
    """`v9 3fa9c1 on B2 7d10aa`; where it is narrow without the base's digest."""
    if view is None:
        return "nothing"
    base = f" {short(view.base)}" if wide else ""
    return f"{clean(view.label)} {short(view.id)} on {clean(view.base_label)}{base}"


def _now(state: ConsoleState, row: TenantRow, wide: bool) -> Line:
    spans = [Span(" NOW   ", "label"), Span(_full(row.live, wide), "bold")]
    if row.candidate is not None and row.pointer.candidate is not None:
        awaits = f" awaits {clean(row.candidate.waits[0])};" if row.candidate.waits else ""
        spans.append(Span(f"   {clean(row.candidate.release.label)}{awaits} for {gets(row.pointer.candidate)}", "warn"))
    event = state.last_move(row)
    reason: list[Span] = []
    if event is not None:
        spans.append(Span(f"   {state.when(event.at_ms)} {clean(event.actor)} "))
        if event.override:
            spans.append(Span("OVERRIDE ", "warn"))
        if event.reason:
            reason = [Span(f'"{clean(event.reason)}"'), Span("   ")]
    gate = [Span(gate_says(row.gate), "" if row.gate.passed else "warn"), Span("   ")] if row.gate is not None else []
    return (*spans, *reason, *gate) if wide else (*spans, *gate, *reason)


def _shadow(row: TenantRow) -> Line | None:
    """Says how a candidate answers that nobody gets, beside the live release; None: there is none."""
    if row.pointer.candidate is None or not row.pointer.candidate.shadow:
        return None
    if row.again is None:
        return line(Span(" SHADOW", "label"), Span(" no router has asked it yet", "dim"))
    said = (f"{clean(row.again.release.label)} {of_pairs(row.again)}", of_noise(row.again))
    return line(Span(" SHADOW", "label"), f" {' | '.join(filter(None, said))}")


class _Figure(NamedTuple):
    """Bad answers of those that were checked, or errors of admitted requests: `of` gives how many of how many."""

    word: str
    unit: str
    of: Callable[[Counts], tuple[int, int]]


_FIGURES = {
    "bad": _Figure("bad", "checked", lambda health: (health.bad, health.checked)),
    "errors": _Figure("errors", "requests", lambda health: (health.failed, health.admitted)),
}


def _share(health: Counts, figure: _Figure) -> float | None:
    """Returns the share, or None where there are too few to compare."""
    part, whole = figure.of(health)
    return part / whole if whole >= ENOUGH else None


def _said(health: Counts | None, figure: _Figure) -> str:
    """`31.0% of 2,310`, `too few (12 checked)`, `not measured`."""
    if health is None:
        return "not measured"
    share, n = _share(health, figure), figure.of(health)[1]
    return f"too few ({n} {figure.unit})" if share is None else f"{percent(share)}% of {count(n)}"


_STYLES = {"release": "bad", "fine": "good", "too_few": "dim", "unknown": "dim"}
"""The style of a verdict; that of the others, which name somebody else than the release, is 'warn'."""


def cause_lines(row: TenantRow, wide: bool) -> list[Line]:
    """Writes what is at fault for the answers of the live release, and the figures that say so."""
    cause = row.cause
    figure = _FIGURES.get(cause.figure, _FIGURES["bad"])
    live = clean(row.live.label) if row.live else "nothing"
    part = of_ten_minutes(cause) if wide else ""
    # There is no room for both before the others' figures.
    unit = f" {figure.unit}" if wide and not part and _share(cause.live, figure) is not None else ""
    minute = row.minute
    refused = f"refused {count(minute.refused)} of {count(minute.attempted)} requests in the last minute | "
    first_words = [Span(refused, "warn")] if minute.refused else []
    if cause.against:
        first_words.append(Span(f"flagged before: {clean(cause.against)} | ", "warn"))
    if row.slow:
        first_words.append(Span(f"{clean(' and '.join(row.slow))} later than promised | ", "warn"))
    if row.drift:
        first_words.append(Span(f"more than usual: {clean(', '.join(row.drift))} | ", "warn"))
    if row.guard:
        first_words.append(Span(f"guard: {clean(row.guard)} | ", "warn"))
    first = f"{live}: {figure.word} {_said(cause.live, figure)}{unit}"
    if cause.figure == OVERDUE:
        late, n = cause.overdue
        first = f"{live}: overdue {percent(late / n)}% of {count(n)} answers" if n else f"{live}: overdue"
    if cause.bad_since_ms is not None:
        first += f"{part} since {clock(cause.bad_since_ms, seconds=not part)}"
    if cause.figure == "bad" and cause.why:
        first += f" ({clean(cause.why)}{' since its move' if 'BAD' in row.flags else ''})"
    if wide and row.units is not None:
        first += f", {count(row.units)} units of {count(minute.attempted)} requests"
    if cause.by_replica:
        first += f", {_replicas(cause.by_replica, figure)}"
    beside = f"{count(cause.tenants)} others" if cause.tenants else "others"
    first += f" | {beside} {_said(cause.others, figure)}"
    target = row.preview.target if row.preview.action is not PreviewAction.FALLBACK else None
    prior = " on the same" if cause.asked_same else " in its time" if wide else ""
    name = f"{clean(target.label)}{prior} {_said(cause.prior, figure)}" if target else "no prior"
    base = f"base {short(row.live.base) if row.live else ''} alone" if wide else "base"
    second = f"{name} | {base} {_said(cause.base, figure)}   "
    verdict, style = clean(whose(cause.verdict, cause.who)), _STYLES.get(cause.verdict, "warn")
    if not wide and not cause.who:
        verdict = re.split("[;,:]", verdict, maxsplit=1)[0]
    return [labelled(" CAUSE ", *first_words, first), line("       ", second, Span(f"=> {verdict}", style))]


def _replicas(by_replica: dict[str, Counts], figure: _Figure) -> str:
    """Says how the live release does replica by replica: the range, or the one that stands out for want of answers."""
    known = {name: share for name, h in by_replica.items() if (share := _share(h, figure)) is not None}
    if not known:
        return f"too few on each of {plural(len(by_replica), 'replica')}"
    low, high = min(known.values()), max(known.values())
    few = len(by_replica) - len(known)
    rest = f", too few on {few}" if few else ""
    if len(known) == 1:
        return f"on {clean(next(iter(known)))}{rest}"
    if high - low <= max(0.05, high / 4):
        return f"alike on {len(known)}/{len(by_replica)} replicas{rest}"
    worst = max(known, key=lambda name: known[name])
    return f"{percent(low)}-{percent(high)}% by replica, worst {clean(worst)}{rest}"


def also_line(state: ConsoleState, row: TenantRow) -> Line:
    """Live releases that share something with this one, those in trouble first, each under its likeliest tie."""
    label = Span(" ALSO  ", "label")
    related = state.related.get(row.key)
    if related is None or related.generation != row.pointer.generation:
        return line(label, Span("what shares its data, recipe, base move or batch: not looked up yet", "dim"))
    if not related.companions:
        return line(label, Span("no other live release shares its data, recipe, base move or batch", "dim"))
    groups: dict[tuple[Shared, str], list[RelatedRelease]] = {}
    for one in related.companions:
        groups.setdefault((one.ties[0].what, one.ties[0].name), []).append(one)
    fine = {tie: all(health_of(state, one) == "fine" for one in companions) for tie, companions in groups.items()}
    groups_shown = [
        f"{SHARED_WORDS[tie[0]]} {clean(tie[1])}: {_companions(state, groups[tie])}"
        for tie in sorted(groups, key=lambda tie: fine[tie])
    ]
    troubled = not all(fine.values())
    of = f" like {clean(related.about)}" if related.about is not None else ""
    return line(
        label,
        f"{state.keys.shown(Action.MARK_RELATED)} marks {related.total:,}{of}   ",
        Span(" | ".join(groups_shown), "warn" if troubled else ""),
    )


def _companions(state: ConsoleState, companions: list[RelatedRelease]) -> str:
    ordered = sorted(companions, key=lambda one: (health_of(state, one) == "fine", one.tenant, one.route))
    named = ", ".join(
        f"{_place(one.tenant, one.route)} {clean(one.live.label)} ({health_of(state, one)})" for one in ordered[:3]
    )
    return f"{named}, +{len(ordered) - 3}" if len(ordered) > 3 else named


def health_of(state: ConsoleState, one: RelatedRelease) -> str:
    """The worst flag on the row of a related release now, in words, or 'fine'."""
    brief = state.tenants.briefs.get((one.tenant, one.route))  # hundreds of rows need not be opened for it
    flags = brief.flags if brief is not None else one.flags
    return next((word(flag) for flag in WORST if flag in flags), "fine")


def _place(tenant: str, route: str) -> str:
    return clean(tenant if route == "production" else f"{tenant}/{route}")


def _progress(state: ConsoleState, row: TenantRow) -> str:
    """Says how far the pending prepare of a row is: 'prepared 2/3, loading on gpu-05, 12 s'."""
    job, now_ms = state.preparing(row), state.hub_now_ms
    return clean(prepare_progress(job, now_ms)) if job is not None and now_ms is not None else ""


def goes_to(row: TenantRow, wide: bool, progress: str = "") -> list[Line]:
    """The target of R on a row, its readiness, and the releases skipped on the way there.

    `progress`: of the prepare that R would cancel.
    """
    preview = row.preview
    label = Span(" R ->  ", "label")
    if preview.action is PreviewAction.CANCEL_PREPARE:
        return [
            line(
                label,
                Span("cancels the prepare that is under way", "bold"),
                f"   job {clean(preview.prepare or '')[:8]}",
            ),
            line("       ", "; ".join(part for part in (progress, "nothing moves, the live release stays") if part)),
        ]
    if preview.target is None or preview.action is not PreviewAction.ROLLBACK:
        why = clean(preview.refused or "no release to go back to")
        word = "none" if preview.action is PreviewAction.FALLBACK else "refused"
        first = line(label, Span(word, "warn"), f"   {why}")
        return [first, _skipped(row)]
    served = "never served here"
    if preview.served_s is not None:
        served = f"served {age(preview.served_s)}, {count(preview.served_requests)} req"
    style = "good" if preview.readiness is Readiness.RESIDENT else "warn"
    first = line(
        label,
        Span(_full(preview.target, wide), "bold"),
        f"   {served}   ",
        Span(holds(preview), style),
        f"   {takes(preview)}",
    )
    return [first, _skipped(row)]


def holds(preview: Preview) -> str:
    """`resident 4/4`, `warm 3/4`: how near the target is to serving at worst, and on how many replicas it is ready."""
    if preview.readiness is Readiness.UNKNOWN:
        return "no replica is heard from"
    return f"{preview.readiness.value} {preview.ready}/{preview.placed}"


def takes(preview: Preview) -> str:
    """Says how long R would take until every replica answers with the target, from measurements; never a guess.

    Where a load is to be waited for that is the load and the first token after it, once both were measured.
    """
    if preview.readiness is Readiness.RESIDENT:
        return f"est {preview.estimate_ms:.0f} ms" if preview.estimate_ms is not None else "no flip timed yet"
    if preview.readiness is Readiness.UNKNOWN:
        return ""
    late = [one for one in preview.behind if one.engine and one.readiness is not Readiness.UNKNOWN]
    if not late:
        return "no engine of its base there"
    if preview.answer_s is not None:
        return f"first answer in {span(preview.answer_s)}"
    if all(one.readiness is Readiness.WARM for one in late):
        return f"loads in {span(preview.wait_s)}" if preview.wait_s is not None else "its load was never timed"
    return f"cold, {span(preview.wait_s)}" if preview.wait_s is not None else "cold, never timed"


def _behind(preview: Preview) -> str:
    """The replicas that would answer later than the others, and what they do until then."""
    if not preview.behind:
        return ""
    named = ", ".join(_one_behind(one, preview) for one in preview.behind[:2])
    more = f" and {len(preview.behind) - 2} more" if len(preview.behind) > 2 else ""
    return f"not on {named}{more}; gap policy {preview.gap.value}"


def _one_behind(one: ReplicaReadiness, preview: Preview) -> str:
    if not one.engine:
        base = clean(preview.target.base_label) if preview.target else "its base"
        return f"{clean(one.replica)} (no engine of {base})"
    took = f" {span(one.seconds)}" if one.seconds is not None else ""
    how = "unheard" if one.readiness is Readiness.UNKNOWN else one.readiness.value
    return f"{clean(one.replica)} ({how}{took})"


def _skipped(row: TenantRow) -> Line:
    preview = row.preview
    behind = _behind(preview) if preview.action is PreviewAction.ROLLBACK else ""
    parts = [words for words in (who_goes_where(row), behind) if words]
    liftable = next((skipped for skipped in preview.skipped[:2] if skipped.liftable), None)
    for skipped in preview.skipped[:2]:
        label = clean(skipped.release.label)
        way_out = f" (loradeck lift {_pointer(row)} {label})" if skipped is liftable else ""
        parts.append(f"skipped {label} {short(skipped.release.id)}: {clean(skipped.reason)}{way_out}")
    if len(preview.skipped) > 2:
        parts.append(f"{len(preview.skipped) - 2} more skipped")
    if preview.streams and preview.action is PreviewAction.ROLLBACK:
        parts.append(f"{plural(preview.streams, 'stream')} under way")
    if row.soak != _DEFAULT_SOAK:
        parts.append(f"soaks {row.soak[0]:g} s, {row.soak[1]:,} requests here")
    return line("       ", "     ".join(parts)) if parts else BLANK


def _pointer(row: TenantRow) -> str:
    return row.tenant if row.route == "production" else f"{row.tenant} {row.route}"


def armed_line(keys: Keys, rollback: Verdict, undo: Verdict, width: int) -> Line:
    """The verdicts on R and u in one line. A long reason against R is cut so that u has room."""
    r, u = keys.shown(Action.ROLLBACK), keys.shown(Action.UNDO)
    match rollback:
        case Act():
            first = Span(f"{r} ARMED", "armed")
        case Ask():
            first = Span(f"{r} asks {keys.shown(Action.CONFIRM)}: {rollback.line.rpartition('asks: ')[2]}", "warn")
        case Refuse():
            first = Span(rollback.why, "dim" if "not armed" in rollback.why else "warn")
    match undo:
        case Act():
            second = Span(f"{u} undoes your last move", "bold")
        case Ask():
            second = Span(f"{u} asks {keys.shown(Action.CONFIRM)}")
        case Refuse():
            second = Span(f"{u} nothing to undo" if "nothing has moved" in undo.why else f"{u} off", "dim")
    room = width - 7 - 5 - cell_len(second.text)
    first = first if cell_len(first.text) <= room else Span(fit(first.text, room), first.style)
    return line("       ", first, "     ", second)


def _moves(state: ConsoleState, row: TenantRow) -> Line:
    """The newest moves by their releases' labels; `...` until the hub has named one."""
    events = state.newest_moves(row)
    if not events:
        return labelled(" MOVES ", Span("none in the log shown here", "dim"))
    return labelled(" MOVES ", " | ".join(_move(state, event) for event in events))


def _move(state: ConsoleState, event: Event) -> str:
    name = clean(event.tenant if event.route in (None, "production") else f"{event.tenant}/{event.route}")
    override = " overridden" if event.override else ""
    left, to = (
        "..." if digest is not None and state.view(digest) is None else state.label_of(digest) for digest in event.path
    )
    return f"{state.when(event.at_ms)} {name} {_MARK.get(event.kind, '')}{left}>{to} {clean(event.actor)}{override}"
