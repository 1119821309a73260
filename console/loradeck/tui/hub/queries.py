"""The console's queries to its hub: figures, records, labels, a promote's candidate, a rewind's plan.

Nothing here changes anything at the hub. Answers go into the state; an error is shown as a notice.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from loradeck.client.errors import ClientError
from loradeck.client.lineage import ancestors
from loradeck.client.terminal_text import clean
from loradeck.schemas.attestation import AttestationKind, GateResult
from loradeck.schemas.capacity import CapacityPlan
from loradeck.schemas.counts import RouteHistory
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.responses import ReleaseDetail
from loradeck.schemas.state import ReleaseView
from loradeck.tui.hub.connection import HubConnection
from loradeck.tui.key_checks.decide import newest
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.lines.outcome import error_line
from loradeck.tui.lines.trend import PAST_MINUTES, TREND_MINUTES
from loradeck.tui.model.feed_state import FETCHED, Link
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.registry import Fetch, Registry, readable
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.model.state import ConsoleState

if TYPE_CHECKING:
    from loradeck.client.api import HubApi

T = TypeVar("T")

RELATED_S = 30.0
"""Seconds for which related releases are kept while no pointer moves; their health is on their own rows."""

RELATED_KEPT = 4
"""Rows whose related releases are kept: the selected one and those just left. A batch has hundreds each."""

TREND_S = 30.0
"""Seconds after which the history of the selected row is asked for again."""

PAST_S = 1800.0
"""Seconds after which its hours are asked for again."""

RESTS_S = 0.4
"""Seconds after the last key until the selection rests: rows passed on the way are not asked about."""

MOST_ROWS = 1000
"""Rows whose figures are asked for at once. Marked rows beyond that move all the same: the hub checks generations."""

FOLLOWED = 64
"""Nodes of a fleet that is small."""


HISTORY = 200
"""A pointer's events that are asked for when they are opened."""

ANCESTORS = 4
"""Versions before the selected one whose evaluations are asked for."""


@dataclass(eq=False)
class Queries:
    """Queries of one console. Each puts its answer into the state.

    Args:
        start: runs a coroutine beside the keys.
        changed: called when an answer has changed what is on the screen.
        notice: shows a line, with its style.
    """

    _hub: HubConnection
    _state: ConsoleState
    _start: Callable[[Coroutine[Any, Any, None]], None]
    _changed: Callable[[], None]
    _notice: Callable[[str, str], None]
    _shown: tuple[frozenset[PointerKey], frozenset[str]] | None = field(default=None, init=False)
    _related: tuple[PointerKey, int, float] | None = field(default=None, init=False)
    _histories: dict[int, tuple[PointerKey, float]] = field(default_factory=dict, init=False)
    """Minutes of a history -> the row that it was asked for last, and when."""

    def __post_init__(self) -> None:
        self._labels = Labels(self._hub, self._state)

    @property
    def _api(self) -> HubApi:
        return self._hub.api

    def show(self, rows: Collection[PointerKey], nodes: Collection[str]) -> None:
        """Ask for the figures of these rows and nodes from now on; moves and flags come for every row.

        All nodes of a small fleet are followed, so that there is history of each when a person looks.
        """
        state = self._state
        known = (key for key in rows if key in state.tenants)
        wanted = state.nodes if len(state.nodes) <= FOLLOWED else (name for name in nodes if name in state.nodes)
        shown = (frozenset(itertools.islice(known, MOST_ROWS)), frozenset(wanted))
        if shown != self._shown and state.link is not Link.CONNECTING:
            self._shown = shown
            state.ask_for(*shown)
            self._start(self._hub.show(*shown))

    def labels(self, in_view: Collection[Hashable]) -> None:
        """Ask for the labels of releases that events name and no row has described. `in_view`: revs on the screen."""
        for tenant in self._labels.wanted(in_view):
            self._start(self._learn(tenant))

    async def _learn(self, tenant: str) -> None:
        await self._labels.learn(tenant)
        self._changed()

    def selected(self) -> None:
        """Ask for the related releases and the history of the selected row, once the selection rests on it."""
        state, row = self._state, self._state.row
        if row is None or state.screen is not Screen.TENANTS or state.link is not Link.LIVE:
            return
        asked = self._related
        generation, now = row.pointer.generation, state.clock()
        if state.last_key_at is not None and now - state.last_key_at < RESTS_S:
            return
        for minutes, every, into in ((TREND_MINUTES + 1, TREND_S, state.trends), (PAST_MINUTES, PAST_S, state.pasts)):
            last = self._histories.get(minutes)
            if last is None or last[0] != row.key or now - last[1] > every:
                self._histories[minutes] = (row.key, now)
                self._start(self._learn_history(row.key, minutes, into))
        if asked is None or asked[:2] != (row.key, generation) or now - asked[2] > RELATED_S:
            self._related = (row.key, generation, now)
            self._start(self._learn_related(row.key))

    async def _learn_related(self, key: PointerKey) -> None:
        held = self._state.related
        try:
            found = await self._api.related(*key)
        except ClientError:
            held.pop(key, None)  # the line says that it is not known
            self._related = None
            return
        held.pop(key, None)
        held[key] = found
        while len(held) > RELATED_KEPT:
            del held[next(iter(held))]
        self._changed()

    async def _learn_history(self, key: PointerKey, minutes: int, into: dict[PointerKey, RouteHistory]) -> None:
        try:
            found = await self._api.route_history(*key, minutes=minutes)
        except ClientError:  # there is no line then, as where a hub of the version before keeps none
            into.clear()
        else:
            into.clear()
            into[key] = found
        self._changed()

    async def history(self, key: PointerKey) -> None:
        """A pointer's own newest events: the feed brings the newest of all pointers, which may hold none of its."""
        filter_ = self._state.event_list.filter
        try:
            events = await self._api.events(tenant=key[0], route=key[1], limit=HISTORY)
        except ClientError as error:
            self._notice(f"its older events are not known: {error_line(error)}", "bad")
            return
        if self._state.event_list.filter is filter_:
            self._state.fetched_older(events)
            self._changed()

    # ---- records -------------------------------------------------------------------------------------------

    def records(self) -> None:
        """Fetch the rows of the screen in front when they are missing or old, and the selected adapter's scores."""
        which, state = self._state.screen, self._state
        if which not in FETCHED or state.link not in (Link.LIVE, Link.STALE):
            return
        if state.fetches[which].due(state.clock()):
            state.fetches[which].running = True
            self._start(self._fetch(which))
        version = state.registry.adapters.get(state.adapter_list.selected or "")
        if which is Screen.ADAPTERS and version is not None:
            for one in (version, *ancestors(version, state.registry.adapters)[:ANCESTORS]):
                scores = state.registry.score_fetches.setdefault(one.release, Fetch())
                if scores.due(state.clock()):
                    scores.running = True
                    self._start(self._fetch_scores(one.release, scores))

    async def _fetch(self, which: Screen) -> None:
        state, registry = self._state, self._state.registry
        with state.fetches[which].trying(state.clock):
            if which in (Screen.CAPACITY, Screen.ML, Screen.CAMPAIGNS):
                if which is Screen.CAMPAIGNS:
                    epoch = state.status.epoch if state.status is not None else 0
                    known = registry.campaigns if registry.campaigns_epoch == epoch else {}
                    since = max((one.rev for one in known.values()), default=None)
                    newer = {one.campaign: one for one in await self._api.campaigns(since)}
                    registry.campaigns, registry.campaigns_epoch = known | newer, epoch
                elif which is Screen.CAPACITY:
                    registry.capacity = {row.key: row for row in await self._api.capacity()}
                else:
                    registry.loop = {row.key: row for row in await self._api.loop()}
                state.fetched(which)
                state.arrange()
                self._changed()
                return
            gates = await self._api.attestations(kind=AttestationKind.GATE) if which is not Screen.DATA else None
            # Each of the three screens names what is on the others.
            adapters = await self._api.adapters()
            datasets, suites = await self._api.datasets(), await self._api.suites()
            if gates is not None:
                registry.replace_gates(gates)
                state.fetched(Screen.GATES)
            registry.replace_adapters(adapters)
            registry.replace_data(datasets, suites)
            state.fetched(Screen.ADAPTERS)
            state.fetched(Screen.DATA)
        for tenant in self._labels.of(registry):
            await self._labels.learn(tenant)
        state.arrange()
        self._changed()

    async def _fetch_scores(self, release: str, fetch: Fetch) -> None:
        with fetch.trying(self._state.clock):
            found = await self._api.attestations(kind=AttestationKind.EVALUATION, subject=release)
            self._state.registry.replace_scores(release, found)
        self._changed()

    async def sheet(self, reviewing: Reviewing) -> None:
        """A candidate's sampled answers, as the hub has them now."""
        try:
            reviewing.update(await self._api.review_sheet(*reviewing.candidate))
        except ClientError as error:
            reviewing.trouble = error_line(error)

    async def poll_job(self, job: FollowedJob) -> None:
        """Ask for new events and log lines of a job."""
        line = job.last_line
        attempt, seq = job.last_event
        with job.fetch.trying(self._state.clock):
            events = await self._api.job_events(job.job, attempt=attempt, seq=seq)
            lines = await self._api.job_log(
                job.job, attempt=line.attempt if line else 0, number=line.number if line else 0
            )
            job.add(events, lines)

    # ---- before a question ---------------------------------------------------------------------------------

    async def answer(
        self, action: Action, ask: Callable[[HubApi], Awaitable[T | None]], wanted: Callable[[], bool] = lambda: True
    ) -> T | None:
        """The hub's answer to what an action asks it; None, after a notice that says why, where there is none.

        `wanted`: whether the person still waits for it once it is here.
        """
        try:
            found = await ask(self._api)
        except ClientError as error:
            self._off(action, error_line(error), "bad")
            return None
        if found is not None and not wanted():
            self._notice(f"{self._state.keys.shown(action)} dropped: you have moved on", "dim")
            return None
        if found is not None:
            self._notice("", "")
        return found

    async def candidate(
        self, key: PointerKey, label: str | None
    ) -> tuple[ReleaseView, GateResult | None, str | None, CapacityPlan | None, bool] | None:
        """Finds the release that `p` would offer on a row, its newest gate result, what the hub would ask, whether it
        fits, and whether it sets the route on demand.

        None after a notice that says why there is none.

        `label`: the release that was named; None: the newest that is not live. Raises: ClientError.
        """
        releases = await self._api.releases(key[0])
        row = self._state.tenants.get(key)
        if row is None:
            return None
        named = [view for view in releases if label in (view.label, f"v{view.label}", view.id)]
        found = (named[-1] if named else None) if label else newest(releases, row)
        if found is None:
            known = ", ".join(clean(view.label) for view in releases) or "none"
            what = clean(label) if label else "but the live one"
            self._off(Action.PROMOTE, f"no release {what} (known: {known})", "warn")
            return None
        now = await self._api.row(*key, promote=found.id)
        gate = await self._gate(key, found.id, row.pointer.release)
        return found, gate, now.promote_asks, now.promote_fits, now.promote_on_demand

    def _off(self, action: Action, why: str, style: str) -> None:
        self._notice(f"{self._state.keys.shown(action)} off: {why}", style)

    async def _gate(self, key: PointerKey, release: str, live: str | None) -> GateResult | None:
        """The newest gate result of a release on a row against the live one."""
        tenant, route = key
        found = await self._api.attestations(kind=AttestationKind.GATE, subject=release, tenant=tenant, route=route)
        return next((result for _, result in readable(reversed(found), GateResult) if result.against == live), None)

    async def both(self, left: str, right: str) -> tuple[ReleaseDetail, ReleaseDetail, dict[str, str]]:
        """Two releases with their manifests, and the names of datasets. Raises: ClientError."""
        found = await self._api.release(left), await self._api.release(right)
        datasets = await self._api.datasets()
        return *found, {entry.digest: f"{entry.manifest.tenant}/{entry.manifest.name}" for entry in datasets}


NEWEST = 20
"""Events whose releases should have their labels, also where they are not in view."""

AT_A_TIME = 4
"""Tenants whose labels are asked for in one go."""


class Labels:
    """The labels to ask for. The hub is asked once for each release that nobody has described."""

    def __init__(self, hub: HubConnection, state: ConsoleState) -> None:
        self._hub = hub
        self._state = state
        self._asked: dict[str, str] = {}
        """The releases that were asked about, with their tenants."""

    def wanted(self, in_view: Collection[Hashable]) -> list[str]:
        """Tenants to `learn` now, each named once. `in_view`: the revs of the events on the screen."""
        revs = frozenset(in_view)
        events = list(self._state.events.values())
        row = self._state.row
        here = [event for event in events if row is not None and event.tenant == row.tenant]
        shown = [event for event in events if event.rev in revs]
        moves = self._state.newest_moves(row) if row is not None else []
        unnamed = self._state.unnamed([*moves, *here[-NEWEST:], *events[-NEWEST:], *shown])
        return self._to_ask(unnamed, AT_A_TIME)

    def _to_ask(self, unnamed: Mapping[str, str], most: int | None = None) -> list[str]:
        """The tenants, `most` of them, of releases that were not asked about yet; from now on these were."""
        new = {digest: tenant for digest, tenant in unnamed.items() if digest not in self._asked}
        tenants = list(dict.fromkeys(new.values()))[:most]
        self._asked.update((digest, tenant) for digest, tenant in new.items() if tenant in tenants)
        return tenants

    def of(self, registry: Registry) -> list[str]:
        """Tenants whose gate results name a release that nobody has described, each named once."""
        unknown = {
            digest: gate.tenant
            for gate in registry.gates.values()
            for digest in (gate.result.release, gate.result.against)
            if digest and self._state.view(digest) is None
        }
        return sorted(self._to_ask(unknown))

    async def learn(self, tenant: str) -> None:
        """Fetch the labels of a tenant's releases. If the hub does not answer, ids are shown until the next try."""
        try:
            self._state.learn(tenant, await self._hub.api.releases(tenant))
            again = [digest for digest, of in self._asked.items() if of == tenant and self._state.view(digest)]
        except ClientError:
            again = [digest for digest, of in self._asked.items() if of == tenant]
        for digest in again:
            del self._asked[digest]
