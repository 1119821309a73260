"""Freshness of live releases: the days that the meters judge, gathered from what the hub and its nodes count."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from loradeck.hub.data.counted_days import Replays
from loradeck.hub.jobs.job_records import JobRecords
from loradeck.hub.log.attestations import Attestations, Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.incidents import Incidents
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.clocks import DAY_MS, utc
from loradeck.rules.data.backlog import step_of
from loradeck.rules.data.feedback import corrects
from loradeck.rules.data.policy import DatedEntry, freezes_of_training
from loradeck.rules.quality.freshness import (
    LEAST_SAID,
    Day,
    Histogram,
    distance,
    figure,
    items_to_see,
    largest_rise,
    of_histograms,
    of_share,
    recommend,
)
from loradeck.rules.quality.reference_days import Stay, Window, answered, asked
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.backlog import SOURCE
from loradeck.schemas.counts import NO_COUNTS, Counts, InputCounts
from loradeck.schemas.decision import Worksheet
from loradeck.schemas.feedback import FeedbackKind
from loradeck.schemas.freshness import (
    Figure,
    Freshness,
    Loop,
    LoopRow,
    Meter,
    MeterKind,
    ReplayedDay,
    RouteFreshness,
    Sizing,
)
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import JobQuery, JobState, TrainSpec
from loradeck.schemas.manifest import AdapterVersion, Release
from loradeck.schemas.tenant import TenantState
from loradeck.store.sql_tenant_data import DaysFeedback

SOON_DAYS = 30
"""Days before the end of a retention from which on it is a signal: a refresh takes weeks."""

LEAST_KEPT_MS, MOST_OF_A_CORE = 60_000, 20
"""How long rows of the loop are shown at least, and how many times as long as it took to make those of all tenants."""


class _Made(NamedTuple):
    """Rows of a tenant, when they were made, and how long that took."""

    rows: tuple[LoopRow, ...]
    at_ms: int
    took_ms: int


@dataclass(eq=False, kw_only=True)
class FreshnessView:
    """Gathers what is counted of a tenant's live releases, and has the rules judge it."""

    log: Log
    store: StoreThread
    catalogue: Catalogue
    facts: Facts
    attestations: Attestations
    jobs: JobRecords
    incidents: Incidents
    clock: Clock
    replays: Replays
    _made: dict[str, _Made] = field(default_factory=dict, init=False)
    """What was made of each tenant last."""
    _took_ms: int = field(default=0, init=False)
    """How long those of all tenants took."""

    async def of(self, tenant: str) -> Freshness:
        """Judges all routes of a tenant that have a live release. Raises: Refused `unknown_tenant`."""
        state, now_ms = self.log.state.tenant(tenant), self.clock.now_ms()
        frozen = next(freezes_of_training(state, (), self.incidents.on(tenant), now_ms), None)
        said = await self.store(lambda s: s.feedback_by_day(tenant), background=True)
        routes = [await self._route(state, route, said, now_ms) for route in sorted(state.routes)]
        return Freshness(
            tenant=tenant,
            at_ms=now_ms,
            frozen=f"{frozen.title}: {frozen.detail}" if frozen is not None else "",
            routes=tuple(one for one in routes if one is not None),
        )

    async def loop(self, tenant: str, *, now: bool) -> tuple[LoopRow, ...]:
        """Says where a tenant's routes stand between a signal and new weights, as of some minutes ago at most.

        `now`: make the rows anew. Else those of before are good for MOST_OF_A_CORE times what those of all tenants
        took, so that a list of many tenants that is asked for again and again takes no more than that.

        Raises: Refused `unknown_tenant`.
        """
        began = self.clock.now_ms()
        good_ms = max(LEAST_KEPT_MS, MOST_OF_A_CORE * self._took_ms)
        if not now and (made := self._made.get(tenant)) is not None and began - made.at_ms < good_ms:
            return made.rows
        found = await self.of(tenant)
        rows = tuple(self._row(found, one) for one in found.routes)
        before, took_ms = self._made.get(tenant), max(0, self.clock.now_ms() - began)
        self._took_ms += took_ms - (before.took_ms if before is not None else 0)
        self._made[tenant] = _Made(rows, began, took_ms)
        return rows

    def _row(self, found: Freshness, one: RouteFreshness) -> LoopRow:
        out = self.log.state.pointers[(found.tenant, one.route)].candidate
        return LoopRow(
            tenant=found.tenant,
            route=one.route,
            label=one.label,
            at_ms=found.at_ms,
            signals=tuple(meter.kind for meter in one.meters if meter.signal),
            replayed=one.replayed.days if one.replayed is not None else 0,
            remedy=one.recommendation.remedy,
            wrong=one.wrong,
            loop=one.loop,
            candidate=self.catalogue.view(out.release, found.tenant).label if out is not None else "",
            permille=out.permille if out is not None else 0,
            frozen=found.frozen,
        )

    async def _route(
        self, tenant: TenantState, route: str, said: Sequence[DaysFeedback], now_ms: int
    ) -> RouteFreshness | None:
        key = (tenant.name, route)
        pointer = self.log.state.pointers[key]
        since_ms = await self.log.live_since(pointer)
        release = self.catalogue.release(pointer.release, tenant.name) if pointer.release is not None else None
        if since_ms is None or release is None:
            return None
        stays = self.facts.stays(pointer, since_ms)
        on_route = asked(stays, self._rows_ms(stays, tenant.name), now_ms)
        by_release = answered(stays, now_ms)
        told, replayed = await self.replays.of(key, release.id, since_ms // DAY_MS + 1)
        since = min(span.start for span in on_route.spans) * 24
        hours, inputs = await self.store(lambda s: (s.hours(*key, since=since), s.inputs(*key)), background=True)
        version = self.catalogue.version_of(release)
        rows = self._dated(version)
        meters = (
            *_of_rows(rows, tenant, now_ms),
            *_of_base(release, self.catalogue),
            _corrected([one for one in said if one.route == route], replayed, on_route, by_release),
            *_of_counts(hours, replayed, on_route, by_release),
            *await asyncio.to_thread(lambda: list(_of_inputs(inputs, on_route, by_release))),
        )
        newest_ms = max((entry.at_ms for _, entry in rows), default=since_ms)
        signals = any(meter.signal for meter in meters)
        sizing = await self._sizing(key, version, newest_ms) if signals else None
        built = self._built(tenant.name)
        built_ms = self.facts.ledger[built].at_ms if built in self.facts.ledger else 0
        return RouteFreshness(
            route=route,
            release=pointer.release,
            label=self.catalogue.view(release.id, tenant.name).label,
            since_ms=since_ms,
            meters=meters,
            sizing=sizing,
            recommendation=recommend(meters, sizing),
            wrong=(await self._called_wrong(key, built_ms))[1],
            loop=await self._loop(key, version, built) if built is not None else None,
            replayed=told,
        )

    def _rows_ms(self, stays: Sequence[Stay], tenant: str) -> int | None:
        """When the newest rows came in that the live release was trained on; None: not known.

        Where nothing is known of its rows, as of a base alone, those of what was live before it count.
        """
        for name in dict.fromkeys(stay.release for stay in reversed(stays)):
            release = self.catalogue.release(name, tenant)
            rows = self._dated(self.catalogue.version_of(release)) if release is not None else []
            if rows:
                return max(entry.at_ms for _, entry in rows)
        return None

    def _built(self, tenant: str) -> str | None:
        """Returns the newest dataset that was built of a tenant's backlog, and of which no row was erased."""
        known, erased, elsewhere = self.catalogue.datasets, self.facts.erased, self.facts.erased_elsewhere
        own = (d for d in reversed(known) if known[d].tenant == tenant and known[d].provenance.source == SOURCE)
        return next((d for d in own if d not in erased and d not in elsewhere), None)

    async def _loop(self, key: PointerKey, live: AdapterVersion | None, built: str) -> Loop:
        """Tells how far a dataset of the tenant's backlog has come on a route."""
        manifest, pointer = self.catalogue.datasets[built], self.log.state.pointers[key]
        out = self.catalogue.release(pointer.candidate.release, key[0]) if pointer.candidate is not None else None
        candidate = self.catalogue.version_of(out) if out is not None else None
        jobs = await self.jobs.find(JobQuery(tenant=key[0], kind="train"), lambda tenant: tenant == key[0])
        come = step_of(
            built,
            [one for one in self.catalogue.adapters.values() if one.manifest.tenant == key[0]],
            [(j.id, j.state) for j in jobs if isinstance(j.spec, TrainSpec) and built in j.spec.datasets],
            live=live.digest if live is not None else None,
            candidate=candidate.digest if candidate is not None else None,
        )
        judged = self.facts.gate(key, come.version.release) if come.version is not None else None
        gate = judged.passed if judged is not None else None
        return Loop(dataset=built, name=manifest.name, rows=manifest.rows, step=come.step, by=come.by, gate=gate)

    def _dated(self, version: AdapterVersion | None) -> list[tuple[str, DatedEntry]]:
        """The ledger entries of what an adapter was trained on, with the names of the datasets."""
        digests = version.manifest.datasets if version is not None else ()
        named = {one: self.catalogue.datasets[one].name for one in digests if one in self.catalogue.datasets}
        return [(name, self.facts.ledger[digest]) for digest, name in named.items() if digest in self.facts.ledger]

    async def _sizing(self, key: PointerKey, version: AdapterVersion | None, newest_ms: int) -> Sizing:
        """Sizes a refresh of a route's live adapter. `newest_ms`: when its newest rows came."""
        gain = self._gain(key)
        query = JobQuery(tenant=key[0], state=JobState.DONE, kind="train")
        specs = [
            (job.spec, job.gpu_hours)
            for job in await self.jobs.find(query, lambda tenant: tenant == key[0])
            if isinstance(job.spec, TrainSpec) and job.gpu_hours is not None
        ]
        hours: list[float] = []
        if version is not None:
            alike = [(spec, took) for spec, took in specs if spec.base == version.manifest.base]
            recipe = next((spec for spec, _ in alike if spec.name == version.manifest.name), None)
            if recipe is not None:
                rows = recipe.steps * recipe.batch
                hours = [took * rows / (spec.steps * spec.batch) for spec, took in alike]
        return Sizing(
            rows=_figure(list(map(float, self._added(version)))),
            items=items_to_see(gain),
            corrections=(await self._called_wrong(key, newest_ms))[0],
            gpu_hours=_figure(hours),
            gain=gain,
            prompt=await self._prompt(key),
        )

    async def _called_wrong(self, key: PointerKey, after_ms: int) -> tuple[int, int]:
        return await self.store(lambda s: s.called_wrong(*key, after_ms=after_ms), background=True)

    async def _prompt(self, key: PointerKey) -> Figure | None:
        """Looks up what the best prompt wins over the live release, by the newest worksheet that has both."""
        live = self.log.state.pointers[key].release
        stated = await self.attestations.find(kind=AttestationKind.DECISION, tenant=key[0])
        sheets = (Worksheet.model_validate(one.body) for one in reversed(stated))
        found = (arm.prompt_gain for sheet in sheets for arm in sheet.arms if arm.release == live)
        return next((gain for gain in found if gain is not None), None)

    def _added(self, version: AdapterVersion | None) -> list[int]:
        """Counts for each version of an adapter the rows that it was trained on and the version before it was not."""
        if version is None:
            return []
        named = (version.manifest.tenant, version.manifest.name)
        every = [one for one in self.catalogue.adapters.values() if (one.manifest.tenant, one.manifest.name) == named]
        every.sort(key=lambda one: one.version)
        found = []
        for before, after in pairwise(every):
            new = set(after.manifest.datasets) - set(before.manifest.datasets)
            found.append(sum(self.facts.ledger[one].entry.rows for one in new if one in self.facts.ledger))
        return [rows for rows in found if rows]

    def _gain(self, key: PointerKey) -> Figure | None:
        """Averages what releases that became live won over the one before them on their gate's suite."""
        gains, items, last = list[float](), 0, None
        for release in self.facts.of(key).attested:
            result = self.facts.gate(key, release)
            check = next((one for one in result.checks if one.lost is not None), None) if result is not None else None
            if result is not None and result.against is not None and check is not None and check.n:
                gains.append(-check.value)
                items, last = items + check.n, last or check
        if len(gains) == 1 and last is not None:
            return Figure(mean=gains[0], low=-last.high, high=-last.low, n=1, of=items)
        return _figure(gains, items)


def _figure(values: Sequence[float], of: int = 0) -> Figure | None:
    """Returns the mean of values and its interval, of fewer than three the lowest and highest; None without values."""
    if not values:
        return None
    return figure(values, of) or Figure(mean=fmean(values), low=min(values), high=max(values), n=len(values), of=of)


def _of_rows(rows: Sequence[tuple[str, DatedEntry]], tenant: TenantState, now_ms: int) -> Iterator[Meter]:
    newest_ms = max((entry.at_ms for _, entry in rows), default=0)
    if rows:
        many, age = sum(entry.entry.rows for _, entry in rows), (now_ms - newest_ms) // DAY_MS
        yield Meter(kind=MeterKind.LABELS, says=f"its {many:,} rows came in {age} days ago and before")
    ends = [
        (kept.at_ms + kept.entry.retention_days * DAY_MS, name)
        for name, kept in rows
        if kept.entry.retention_days is not None
    ]
    if ends:
        end, name = min(ends)
        soon = end - now_ms <= SOON_DAYS * DAY_MS
        yield Meter(kind=MeterKind.RETENTION, signal=soon, says=f"rows of {name} may be kept until {utc(end)}")
    for change in tenant.data.expected_changes:
        past = newest_ms < change.at_ms <= now_ms
        yield Meter(kind=MeterKind.EXPECTED, signal=past, says=f"{change.what}, from {utc(change.at_ms)}")


def _of_base(release: Release, catalogue: Catalogue) -> Iterator[Meter]:
    own = catalogue.bases.get(release.served_base)
    if own is None or catalogue.base_tenants.get(own.digest) is not None:
        return
    order = list(catalogue.bases)
    later = [catalogue.bases[one] for one in order[order.index(own.digest) + 1 :]]
    newer = [one for one in later if one.model_id == own.model_id and one.digest not in catalogue.base_tenants]
    if newer:
        same = {file.path: file.sha256 for file in own.files}
        changed = [file.path for file in newer[-1].files if same.get(file.path) != file.sha256]
        template = " and another chat template" if any("template" in path for path in changed) else ""
        says = f"{catalogue.base_label(newer[-1].digest)} is another revision of {own.model_id}{template}"
        yield Meter(kind=MeterKind.BASE, signal=True, says=says)


def _corrected(
    said: Sequence[DaysFeedback], replayed: Sequence[ReplayedDay], on_route: Window, by_release: Window
) -> Meter:
    by_day: dict[int, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for one in said:
        if (corrected := corrects(FeedbackKind(one.kind), one.value)) is not None:
            by_day[one.day][one.who] += [corrected] * one.times
    found = [Day(at, fmean(map(fmean, who.values())), len(who)) for at, who in sorted(by_day.items())]
    what = "callers who correct, of those who say anything"
    before = _days((one.number, one.corrected, one.said) for one in replayed)
    windows = (on_route, by_release)
    return of_share(MeterKind.CORRECTED, found, what, windows=windows, replayed=before, least=LEAST_SAID)


def _of_counts(
    hours: dict[int, Counts], replayed: Sequence[ReplayedDay], on_route: Window, by_release: Window
) -> Iterator[Meter]:
    by_day: dict[int, Counts] = defaultdict(lambda: NO_COUNTS)
    for hour, counts in hours.items():
        by_day[hour // 24] += counts
    counted = sorted(by_day.items())
    bad = [Day(day, counts.bad_share or 0.0, counts.checked) for day, counts in counted]
    refused = [Day(day, counts.refused_share or 0.0, counts.attempted) for day, counts in counted]
    bad_before = _days((one.number, one.bad, one.checked) for one in replayed)
    refused_before = _days((one.number, one.refused, one.attempted) for one in replayed)
    windows, what = (on_route, by_release), "checked answers that are bad"
    yield of_share(MeterKind.BAD, bad, what, windows=windows, replayed=bad_before)
    what = "requests that no engine was given"
    yield of_share(MeterKind.REFUSED, refused, what, windows=(on_route,), replayed=refused_before)


def _days(counted: Iterable[tuple[int, int, int]]) -> list[Day]:
    return [Day(day, part / of, of) for day, part, of in counted if of]


def _of_inputs(days: Sequence[InputCounts], on_route: Window, by_release: Window) -> Iterator[Meter]:
    inputs = [Histogram(one.day, (*one.words, *one.lengths), one.requests) for one in days]
    words = [Histogram(one.day, one.words, one.requests) for one in days]
    classes = [Histogram(one.day, one.classes, sum(one.classes)) for one in days]
    apart, risen = "squared distance of words and lengths", "the word that has risen most, in standard errors"
    yield of_histograms(MeterKind.INPUTS, inputs, distance, apart, window=on_route)
    yield of_histograms(MeterKind.TERMS, words, largest_rise, risen, window=on_route)
    said = "squared distance of the shares of short answers"
    yield of_histograms(MeterKind.CLASSES, classes, distance, said, window=by_release)
