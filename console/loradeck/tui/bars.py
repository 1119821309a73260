"""The header, the summary and the footer: one line each."""

from __future__ import annotations

from datetime import UTC, datetime

from loradeck.schemas.jobs import JobState
from loradeck.tui.keys import hints
from loradeck.tui.registry import REFRESH_S
from loradeck.tui.state import ConsoleState, Link, Screen
from loradeck.tui.text import Line, Span, age, clean, clock, fit_line, plural, spread, width_of


def header_line(state: ConsoleState, width: int, *, context: str, production: bool, read_only: str | None) -> Line:
    """Where this console looks, the hub's time, how the link is, and who one is there."""
    status = state.status
    name = clean(status.hub if status else context)
    prod = production or (status.production if status else False)
    spans = [Span(f" PROD {name} " if prod else f" {name} ", "production" if prod else "bar"), Span("  ")]
    now_ms = state.hub_now_ms
    if now_ms is not None:
        utc = datetime.fromtimestamp(now_ms / 1000, UTC)
        local = utc.astimezone()
        spans.append(Span(utc.strftime("%H:%M:%SZ")))
        if local.utcoffset() and width >= 100:
            spans.append(Span(local.strftime(" (%H:%M local)"), "dim"))
        spans.append(Span("  "))
    spans.append(link_span(state))
    if state.nodes:
        up = state.nodes.counts.up
        whole = up == len(state.nodes)
        live = state.link is Link.LIVE
        words = f"  nodes {up}/{len(state.nodes)} up" if live else f"  nodes were {up}/{len(state.nodes)} up"
        spans.append(Span(words, "dim" if not live else "" if whole else "bad"))
    if status is not None and status.refusing:
        spans.append(Span(f"  REFUSING MOVES: {clean(status.refusing)}", "bad"))
    if state.me is not None:
        spans.append(Span(f"  {clean(state.me.actor)} {state.me.role.value}"))
    if read_only:
        spans.append(Span("  READ-ONLY", "warn"))
    return spread(spans, [Span("? keys ", "dim")], width)


def link_span(state: ConsoleState) -> Span:
    """How the link is, in words that cannot be taken for one another."""
    match state.link:
        case Link.CONNECTING:
            return Span("CONNECTING", "warn")
        case Link.LIVE:
            return Span(f"hub ok {int(state.silent_s)}s", "good")
        case Link.STALE:
            return Span(f"hub STALE {int(state.silent_s)}s", "warn")
        case Link.LOST:
            return Span(f"LINK LOST {age(state.silent_s)}", "bad")


def summary_line(state: ConsoleState, width: int) -> Line:
    """What the list in front adds up to. While the link is down: from when the figures are."""
    if state.link is Link.CONNECTING:
        return fit_line(
            [Span(f" {clean(state.link_trouble) or 'loading'}", "warn" if state.link_trouble else "dim")], width
        )
    spans = {
        Screen.TENANTS: _tenants,
        Screen.NODES: _nodes,
        Screen.JOBS: _jobs,
        Screen.EVENTS: _events,
        Screen.GATES: _gates,
        Screen.ADAPTERS: _adapters,
        Screen.DATA: _data,
    }[state.screen](state)
    if state.link is Link.LOST:
        said = (state.hub_now_ms or 0) - int(state.silent_s * 1000)
        spans = [Span(f" figures are from {clock(said, seconds=True)}: {clean(state.link_trouble)}", "bad")]
    listing = state.listing
    right: list[Span] = []
    if listing.filter.pattern is not None:
        right.append(Span(f"filter {clean(listing.filter.text)}: {len(listing.order)} of {listing.total:,} ", "warn"))
    elif state.screen is Screen.TENANTS and width >= 100:
        right.append(Span(f"sort {state.sort.value} ", "dim"))
    return (
        spread(spans, right, width)
        if width_of(spans) + width_of(right) + 2 <= width
        else fit_line([*right, Span(" "), *spans] if right and listing.filter.pattern else spans, width)
    )


def _tenants(state: ConsoleState) -> list[Span]:
    counts = state.tenants.counts
    spans = [Span(f" {counts.need} need you" if counts.need else " none needs you", "bold" if counts.need else "good")]
    spans.append(Span("  "))
    if counts.bad:
        spans.append(Span(f" {plural(counts.bad, 'bad release')} ", "bad"))
    if counts.unproven:
        spans.append(Span(f" {counts.unproven} unproven ", "warn"))
    if counts.no_way_back:
        spans.append(Span(f" {counts.no_way_back} no way back ", "warn"))
    spans.append(Span(f" {counts.fine:,} fine  "))
    spans.append(Span(f" marks {len(state.marks)}", "bold" if state.marks else "dim"))
    return spans


def _nodes(state: ConsoleState) -> list[Span]:
    counts = state.nodes.counts
    spans = [Span(f" {plural(counts.nodes, 'node')}   {plural(counts.gpus, 'GPU')}")]
    if counts.lost:
        spans.append(Span(f"   {counts.lost} LOST", "bad"))
    if counts.pins:
        spans.append(Span(f"   {plural(counts.pins, 'pin')} set on nodes, against the hub", "warn"))
    return spans


def _jobs(state: ConsoleState) -> list[Span]:
    by_state = {kind: sum(job.state is kind for job in state.jobs.values()) for kind in JobState}
    words = "   ".join(f"{n} {kind.value}" for kind, n in by_state.items() if n)
    return [Span(f" {words or 'no jobs'}")]


def _events(state: ConsoleState) -> list[Span]:
    if state.chain.broken:
        return [Span(f" chain BROKEN {state.chain.broken}", "bad")]
    if not state.events:
        return [Span(" no events", "dim")]
    revs = list(state.events)
    span = f"rev {revs[0]} to {revs[-1]}"
    return [Span(f" {plural(len(revs), 'event')} held here, {span}: chain recomputed, intact", "good")]


def _gates(state: ConsoleState) -> list[Span]:
    gates = state.registry.gates.values()
    failed = sum(not gate.result.passed for gate in gates)
    spans = [Span(f" {plural(len(gates), 'gate result')}")]
    if failed:
        spans.append(Span(f"   {failed} failed", "warn"))
    if state.registry.unreadable:
        spans.append(Span(f"   {state.registry.unreadable} not readable by this console", "warn"))
    return [*spans, *_fetched(state, Screen.GATES)]


def _adapters(state: ConsoleState) -> list[Span]:
    versions = state.registry.adapters.values()
    names = {(version.manifest.tenant, version.manifest.name) for version in versions}
    spans = [Span(f" {plural(len(versions), 'version')} of {plural(len(names), 'adapter')}")]
    return [*spans, *_fetched(state, Screen.ADAPTERS)]


def _data(state: ConsoleState) -> list[Span]:
    kinds = [entry.kind for entry in state.registry.data.values()]
    spans = [Span(f" {plural(kinds.count('dataset'), 'dataset')}   {plural(kinds.count('suite'), 'suite')}")]
    return [*spans, *_fetched(state, Screen.DATA)]


def _fetched(state: ConsoleState, which: Screen) -> list[Span]:
    """How old fetched rows are, once that is worth saying, and what stands in the way of newer ones."""
    fetch = state.fetches[which]
    if fetch.at is None:
        return []
    old = state.clock() - fetch.at
    if fetch.trouble:
        return [Span(f"   as of {age(old)} ago: {clean(fetch.trouble)}", "bad")]
    return [Span(f"   as of {age(old)} ago", "dim")] if old > 2 * REFRESH_S else []


def footer_line(screen: Screen, width: int, *, in_view: tuple[int, int], total: int) -> Line:
    """Keys that mean something here, and which rows are in view."""
    spans: list[Span] = [Span(" ")]
    for binding in hints(screen):
        if binding.does == screen.value:
            continue
        spans += [Span(binding.shown, "key"), Span(f" {binding.label}  ", "dim")]
    first, last = in_view
    right = [Span(f"{first}-{last}/{total:,} ", "dim")] if total else []
    room = width - width_of(right) - 2
    while width_of(spans) > room and len(spans) > 3:
        del spans[-2:]
    return spread(spans, right, width)
