"""A post-mortem of an incident: one HTML file that needs nothing else, with figures, charts and who did what.

Charts are SVG. All that people and nodes have said is escaped.
"""

from collections.abc import Callable, Iterable, Sequence
from html import escape

from loradeck.client.times import stamp
from loradeck.rules.clocks import MINUTE_MS
from loradeck.rules.moves.incidents import note_of
from loradeck.rules.quality.figures import share
from loradeck.schemas.counts import NO_COUNTS, RouteHistory
from loradeck.schemas.ids import short
from loradeck.schemas.incident import IncidentPointer, IncidentReport, RelatedReleases
from loradeck.schemas.log import MOVES, Event
from loradeck.schemas.trace import Traced

SAMPLES = 50
"""Bad answers that are listed."""

WIDTH, HEIGHT, LEFT, TOP = 900, 180, 60, 30
"""Pixels of a chart's plot, and of what stands left of it and above it."""

_STYLE = """body{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}
td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}
td.n{text-align:right}svg text{font:11px sans-serif;fill:#555}.move{stroke:#555;stroke-dasharray:4 3}
.requests{fill:#dfe6ee}.bad{stroke:#c0392b;fill:none;stroke-width:2}.errors{stroke:#d68910;fill:none;stroke-width:2}"""


def as_html(report: IncidentReport, related: RelatedReleases | None = None, traced: Traced | None = None) -> str:
    """The post-mortem of an incident.

    Args:
        related: the releases related to that which it is about, as they are now.
        traced: what routers still hold of the requests that this release has answered.
    """
    incident = report.incident
    closed = f"closed {stamp(incident.closed_ms)} by {incident.closed_by}" if incident.closed_ms is not None else "open"
    parts = [
        f"<h1>{escape(incident.id)}: {escape(incident.title)}</h1>",
        f"<p>Opened {stamp(incident.opened_ms)} by {escape(incident.by)}; {escape(closed)}. "
        f"Written {stamp(report.at_ms)}.</p>",
        f"<p>{escape(incident.outcome)}</p>" if incident.outcome else "",
        "<h2>What it is about</h2>",
        _table(("tenant/route", "release", "since"), [_pointer(report, at) for at in incident.pointers]),
    ]
    for history in report.histories:
        moves = _moves(report, history)
        parts += [
            f"<h2>{escape(history.tenant)}/{escape(history.route)}</h2>",
            _chart(history, moves),
            _table(("from", "until", "live release", "requests", "failed", "bad"), _figures(report, history, moves)),
        ]
    if related is not None:
        where = f"{related.tenant}/{related.route} {related.about or ''}"
        parts += [f"<h2>Related to {escape(where)}</h2>", _related(related)]
    if traced is not None:
        parts += [f"<h2>Bad answers of {escape(name_of(report, traced.release))}</h2>", _samples(traced)]
    if report.samples is not None:
        how = "with question and answer: <code>loradeck route samples</code>"
        parts.append(f"<p>Samples that nodes keep, {how}: {report.samples:,}.</p>")
    parts += [
        "<h2>Who did what</h2>",
        f"<p>{report.more:,} earlier events are left out.</p>" if report.more else "",
        _table(
            ("time (UTC)", "rev", "what", "where", "from &gt; to", "by", "why"),
            [_event(report, event) for event in report.events],
        ),
        "<h2>Notes</h2>",
        _table(
            ("time (UTC)", "by", "note"),
            [
                (stamp(event.at_ms), escape(event.actor), escape(text))
                for event in report.events
                if (text := note_of(event)) is not None and event.incident == incident.id
            ],
        ),
        "<h2>Who was told</h2>",
        _table(
            ("time (UTC)", "severity", "notice"),
            [(stamp(one.at_ms), one.severity.value, escape(one.title)) for one in report.notices],
        ),
    ]
    body = "\n".join(part for part in parts if part)
    head = f'<meta charset="utf-8"><title>{escape(incident.id)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def name_of(report: IncidentReport, release: str | None) -> str:
    """A release as people name it: `v9 3fa9c1`."""
    view = report.releases.get(release or "")
    return f"{view.label} {short(release)}" if view is not None else "nothing" if release is None else short(release)


def said(report: IncidentReport, event: Event) -> tuple[str, str]:
    """Says what an event did, and between which releases: `rollback`, `v9 3fa9c1 > v7 b81e07`."""
    left, to = event.path
    what = event.kind.value.replace("_", " ")
    if event.kind.value == "annotate":
        does = event.payload.get("incident")
        what = f"incident: {does['does']}" if isinstance(does, dict) and "does" in does else "note"
    return what, f"{name_of(report, left)} > {name_of(report, to)}" if left != to and to is not None else ""


def _event(report: IncidentReport, event: Event) -> tuple[str, ...]:
    what, path = said(report, event)
    override = " <b>OVERRIDE</b>" if event.override else ""
    shown = (event.where, path, event.actor, event.reason)
    return (stamp(event.at_ms), str(event.rev), f"{escape(what)}{override}", *map(escape, shown))


def _pointer(report: IncidentReport, one: IncidentPointer) -> tuple[str, ...]:
    about = one.suspect
    when = stamp(about.at_ms) if about is not None and about.at_ms is not None else "-"
    return (
        f"{escape(one.tenant)}/{escape(one.route)}",
        escape(name_of(report, about.release if about else None)),
        when,
    )


def _moves(report: IncidentReport, history: RouteHistory) -> list[Event]:
    key = (history.tenant, history.route)
    return [event for event in report.events if event.kind in MOVES and (event.tenant, event.route) == key]


def _figures(report: IncidentReport, history: RouteHistory, moves: Sequence[Event]) -> list[tuple[str, ...]]:
    """The counts between the moves; the minute of a move counts for what was live before it."""
    ends = [*(event.at_ms // MINUTE_MS + 1 for event in moves), history.at_ms // MINUTE_MS + 1]
    rows: list[tuple[str, ...]] = []
    since = history.since
    for number, until in enumerate(ends):
        counts = sum((c for minute, c in history.minutes.items() if since <= minute < until), NO_COUNTS)
        live = moves[number - 1].to_release if number else moves[0].from_release if moves else None
        name = escape(name_of(report, live)) if moves else "-"
        times = (stamp(since * MINUTE_MS), stamp(until * MINUTE_MS))
        rows.append(
            (
                *times,
                name,
                f"{counts.attempted:,}",
                share(counts.failed, counts.admitted),
                share(counts.bad, counts.checked),
            )
        )
        since = max(since, until)
    return rows


def _related(found: RelatedReleases) -> str:
    rows = [
        (
            f"{escape(one.tenant)}/{escape(one.route)}",
            escape(one.live.label),
            escape(", ".join(f"{tie.what.value.replace('_', ' ')} {tie.name}" for tie in one.ties)),
            share(round(one.bad_now * one.bad_n), one.bad_n) if one.bad_now is not None else "none checked",
            escape(" ".join(one.flags) or "fine"),
        )
        for one in found.companions
    ]
    more = f"<p>{len(rows)} of {found.total:,} are listed.</p>" if found.total > len(rows) else ""
    return _table(("tenant/route", "live", "shares", "bad in the last minute", "flags"), rows) + more


def _samples(traced: Traced) -> str:
    """The newest bad answers, by the ids that their callers were given."""
    bad = [row for row in traced.rows if row.bad]
    shown = [
        (stamp(row.admitted_ms), escape(row.request), escape(row.fault or "-"), escape(row.replica))
        for row in bad[-SAMPLES:]
    ]
    checked = sum(row.checked for row in traced.rows)
    of = f"<p>{len(bad):,} of {checked:,} checked answers that its routers still hold; the newest are listed.</p>"
    return of + _table(("time (UTC)", "request", "check that it failed", "replica"), shown)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are HTML already."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    if not lines:
        return "<p>None.</p>"
    titles = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><tr>{titles}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


# ---- the chart -----------------------------------------------------------------------------------------------


def _chart(history: RouteHistory, moves: Sequence[Event]) -> str:
    """Requests as an area, shares of bad and failed ones as lines, by the minute, with the moves drawn in."""
    until = max(history.since + 1, history.at_ms // MINUTE_MS)
    minutes = range(history.since, until)
    counts = [history.minutes.get(minute, NO_COUNTS) for minute in minutes]
    most = max((one.attempted for one in counts), default=0)
    if not most:
        return "<p>No requests in this time.</p>"
    step = WIDTH / len(minutes)

    def across(minute: float) -> float:
        return LEFT + (minute - history.since) * step

    bars = "".join(
        f'<rect class="requests" x="{across(minute):.1f}" y="{_up(one.attempted / most):.1f}" width="{step:.1f}" '
        f'height="{HEIGHT * one.attempted / most:.1f}"/>'
        for minute, one in zip(minutes, counts, strict=True)
        if one.attempted
    )
    marks = "".join(
        f'<line class="move" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + HEIGHT}"/>'
        f'<text x="{x + 3:.1f}" y="{TOP - 14 + 11 * (number % 2)}">{escape(event.kind.value)}</text>'
        for number, event in enumerate(moves)
        if LEFT <= (x := across(event.at_ms / MINUTE_MS)) <= LEFT + WIDTH
    )
    lines = "".join(
        f'<polyline class="{name}" points="{points}"/>'
        for name, parts in (
            ("bad", [(one.bad, one.checked) for one in counts]),
            ("errors", [(one.failed, one.admitted) for one in counts]),
        )
        for points in _runs(minutes, parts, across)
    )
    middle = (history.since + until) // 2
    axis = "".join(
        f'<text x="{across(minute):.1f}" y="{TOP + HEIGHT + 14}" text-anchor="middle">'
        f"{stamp(minute * MINUTE_MS)}</text>"
        for minute in (history.since, middle, until)
    )
    scale = "".join(
        f'<text x="{LEFT - 4}" y="{_up(part) + 4:.1f}" text-anchor="end">{part:.0%}</text>' for part in (0, 0.5, 1)
    )
    size = f'viewBox="0 0 {LEFT + WIDTH + 70} {TOP + HEIGHT + 20}"'
    key = (
        f"<p>Grey: requests a minute, at most {most:,}. Red: share of checked answers that were bad. "
        "Orange: share of admitted requests that failed. Dashed: moves.</p>"
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{bars}{lines}{marks}{axis}{scale}</svg>{key}'


def _up(part: float) -> float:
    return TOP + HEIGHT * (1 - part)


def _runs(minutes: Iterable[int], parts: Iterable[tuple[int, int]], across: Callable[[float], float]) -> list[str]:
    """The points of each run of minutes whose share is known. `parts`: of each minute, so many of so many."""
    runs: list[list[str]] = [[]]
    for minute, (part, whole) in zip(minutes, parts, strict=True):
        if whole:
            runs[-1].append(f"{across(minute + 0.5):.1f},{_up(part / whole):.1f}")
        else:
            runs.append([])
    return [" ".join(run if len(run) > 1 else [*run, run[0]]) for run in runs if run]
