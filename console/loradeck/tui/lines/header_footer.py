"""The header, the summary and the footer: one line each."""

from datetime import UTC, datetime
from functools import lru_cache

from rich.cells import cell_len

from loradeck.client.terminal_text import clean
from loradeck.schemas.campaign import CampaignState
from loradeck.schemas.jobs import JobState
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.keys.default_bindings import Binding
from loradeck.tui.keys.personal_keys import Keys
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.registry import REFRESH_S
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, age, clock, fit, fit_line, plural, spread, width_of


def header_line(state: ConsoleState, width: int) -> Line:
    """The header: the hub, its time, the link, whatever is refused here, nodes, and the person's name and role.

    On a narrow terminal parts are dropped whole: the local time first, then the person, then the nodes.
    """
    status, help_key = state.status, state.keys.shown(Action.HELP)
    name = clean(status.hub if status else state.context)
    name = fit(name, width // 4) if cell_len(name) > width // 4 else name
    prod = state.production or (status.production if status else False)
    spans = [Span(f" PROD {name} " if prod else f" {name} ", "production" if prod else "bar"), Span("  ")]
    local: list[Span] = []
    if state.hub_now_ms is not None:
        utc = datetime.fromtimestamp(state.hub_now_ms / 1000, UTC)
        spans.append(Span(utc.strftime("%H:%M:%SZ")))
        if utc.astimezone().utcoffset():
            local.append(Span(utc.astimezone().strftime(" (%H:%M local)"), "dim"))
    bound = [Span("  "), link_span(state)]
    if state.read_only:
        bound.append(Span("  READ-ONLY", "warn"))
    if status is not None and status.refusing:
        bound.append(Span(f"  REFUSING MOVES: {clean(status.refusing)}", "bad"))
    elif status is not None and status.waiting:
        bound.append(Span(f"  FORWARD MOVES WAIT: {clean(status.waiting)}", "bad"))
        bound += [Span(f" ({clean(lost.short)})", "bad") for lost in status.lost[:1]]
    if status is not None and status.backup_late:
        bound.append(Span("  BACKUP LATE", "bad"))
    left = " ONLY R F HOLD: SIGN-IN PROVIDER SILENT" if state.me is not None and state.me.backward else ""
    me = Span(f"  {clean(state.me.actor)} {state.me.role.value}{left}") if state.me is not None else Span("")
    for more in ([_nodes_up(state)], [me]):
        if width_of([*spans, *bound, *more]) <= width:
            bound += more
    if width_of([*spans, *local, *bound]) + len(f"  {help_key} keys ") <= width:
        spans += local
    return spread([*spans, *bound], [Span(f"{help_key} keys ", "dim")], width)


def _nodes_up(state: ConsoleState) -> Span:
    if not state.nodes:
        return Span("")
    up = state.nodes.counts.up
    live = state.link is Link.LIVE
    words = f"  nodes {up}/{len(state.nodes)} up" if live else f"  nodes were {up}/{len(state.nodes)} up"
    return Span(words, "dim" if not live else "" if up == len(state.nodes) else "bad")


def link_span(state: ConsoleState) -> Span:
    """Shows the state of the link, in words that cannot be taken for one another."""
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
    """The summary: totals of the list in front; while the link is down, the age of its figures."""
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
        Screen.CAPACITY: _capacity,
        Screen.ML: _loop,
        Screen.CAMPAIGNS: _campaigns,
    }[state.screen](state)
    spans += _fetched(state)
    if state.link is Link.LOST:
        as_of_ms = (state.hub_now_ms or 0) - int(state.silent_s * 1000)
        spans = [Span(f" figures are from {clock(as_of_ms, seconds=True)}: {clean(state.link_trouble)}", "bad")]
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
    need = f" {counts.need} need{'s' if counts.need == 1 else ''} you" if counts.need else " none needs you"
    parts = (
        (counts.bad, plural(counts.bad, "bad release"), "bad"),
        (counts.unproven, f"{counts.unproven} unproven", "warn"),
        (counts.failed, plural(counts.failed, "failed promote"), "warn"),
        (counts.no_way_back, f"{counts.no_way_back} no way back", "dim"),
        (counts.empty, f"{plural(counts.empty, 'pointer')} without a release", "dim"),
    )
    return [
        Span(need, "bold" if counts.need else "good"),
        Span("  "),
        *(Span(f" {words} ", style) for number, words, style in parts if number),
        Span(f" {counts.fine:,} fine  "),
        Span(f" marks {len(state.marks)}", "bold" if state.marks else "dim"),
    ]


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
    if not state.listed_events:
        return [Span(" no events", "dim")]
    revs = list(state.events)
    span = f"rev {revs[0]} to {revs[-1]}"
    older = f"; {len(state.older)} older ones of this pointer" if state.older else ""
    return [Span(f" {plural(len(revs), 'event')} held here, {span}: chain recomputed, intact{older}", "good")]


def _gates(state: ConsoleState) -> list[Span]:
    gates = state.registry.gates.values()
    failed = sum(not gate.result.passed for gate in gates)
    spans = [Span(f" {plural(len(gates), 'gate result')}")]
    if failed:
        spans.append(Span(f"   {failed} failed", "warn"))
    if state.registry.unreadable:
        spans.append(Span(f"   {state.registry.unreadable} not readable by this console", "warn"))
    return spans


def _adapters(state: ConsoleState) -> list[Span]:
    versions = state.registry.adapters.values()
    names = {(version.manifest.tenant, version.manifest.name) for version in versions}
    return [Span(f" {plural(len(versions), 'version')} of {plural(len(names), 'adapter')}")]


def _data(state: ConsoleState) -> list[Span]:
    kinds = [entry.kind for entry in state.registry.data.values()]
    return [Span(f" {plural(kinds.count('dataset'), 'dataset')}   {plural(kinds.count('suite'), 'suite')}")]


def _capacity(state: ConsoleState) -> list[Span]:
    nodes = [row for row in state.registry.capacity.values() if not row.pool]
    waiting = [row.waiting for row in nodes if row.waiting is not None]
    spans = [Span(f" {plural(len(state.registry.capacity) - len(nodes), 'pool')}   {plural(len(nodes), 'node')}")]
    if waiting:
        spans.append(Span(f"   {sum(waiting)} waiting for a load", "warn" if any(waiting) else "dim"))
    return spans


def _loop(state: ConsoleState) -> list[Span]:
    rows = state.registry.loop.values()
    signals, frozen = sum(bool(row.signals) for row in rows), sum(bool(row.frozen) for row in rows)
    spans = [Span(f" {plural(len(rows), 'route')}"), Span(f"   {signals} with a signal", "warn" if signals else "dim")]
    return [*spans, Span(f"   {frozen} frozen", "warn" if frozen else "dim")]


def _campaigns(state: ConsoleState) -> list[Span]:
    rows = state.registry.campaigns.values()
    open_ = sum(one.state in (CampaignState.RUNNING, CampaignState.PAUSED) for one in rows)
    stopped = sum(one.state is CampaignState.STOPPED for one in rows)
    spans = [Span(f" {plural(len(rows), 'campaign')}   {open_} open")]
    return [*spans, Span(f"   {stopped} stopped", "bad" if stopped else "dim")]


def _fetched(state: ConsoleState) -> list[Span]:
    """The age of fetched rows once they are old, and the error that keeps newer ones away; nothing of the feed's."""
    fetch = state.fetches.get(state.screen)
    if fetch is None or fetch.at is None:
        return []
    old = state.clock() - fetch.at
    if fetch.trouble:
        return [Span(f"   as of {age(old)} ago: {clean(fetch.trouble)}", "bad")]
    return [Span(f"   as of {age(old)} ago", "dim")] if old > 2 * REFRESH_S else []


_TO_SCREENS = frozenset(Action(screen.value) for screen in Screen)

SCREENS_HINT = 2
"""How soon the footer names the keys of the screens, among the hints of `keys`."""

EACH_SCREEN_HINT = 11
"""How soon it names each of them."""


def footer_line(keys: Keys, screen: Screen, width: int, *, in_view: tuple[int, int], total: int) -> Line:
    """The footer: keys that mean something here, and the numbers of the rows in view."""
    first, last = in_view
    right = [Span(f"{first}-{last}/{total:,} ", "dim")] if total else []
    return spread(_hints_in(keys, screen, width - width_of(right) - 2), right, width)


@lru_cache(maxsize=64)
def _hints_in(keys: Keys, screen: Screen, room: int) -> Line:
    """Help, always, and as many other hints as fit into so many cells: those that matter most."""
    named = keys.hints(screen)
    offers: list[tuple[int, float, Line]] = [(one.hint, at, _hint(one)) for at, one in enumerate(named)]
    others = [
        binding for binding in keys.bindings if binding.action in _TO_SCREENS - {screen.value} and not binding.hint
    ]
    before_the_last = len(named) - 1.5  # which is the way out
    offers.append((SCREENS_HINT, before_the_last, (Span(keys.screens(), "key"), Span(" screens  ", "dim"))))
    offers.append((EACH_SCREEN_HINT, before_the_last, tuple(span for binding in others for span in _hint(binding))))
    help_ = (Span(keys.shown(Action.HELP), "key"), Span(" help", "dim"))
    kept: dict[float, Line] = {}
    for _, at, spans in sorted(offers, key=lambda offer: offer[0]):
        more = {**kept, at: spans}
        if 1 + sum(map(width_of, more.values())) + width_of(help_) <= room:
            kept = more
    return (Span(" "), *(span for _, spans in sorted(kept.items()) for span in spans), *help_)


def _hint(binding: Binding) -> Line:
    return (Span(binding.shown, "key"), Span(f" {binding.label}  ", "dim"))
