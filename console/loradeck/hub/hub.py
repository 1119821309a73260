"""The wiring of one hub: builds every part from the parts it uses, and runs what happens again and again.

Everything runs on one event loop. Only this module, its neighbours `process`, `server`, `listeners` and `app`, and the
calls in `api/` know the whole hub; every other part takes the few others it works with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nacl.signing import SigningKey
from starlette.websockets import WebSocket

from loradeck.artifacts import Blobs
from loradeck.artifacts.blobs.keyed import KeyedBlobs
from loradeck.hub.access.auth import Tokens
from loradeck.hub.access.people import SIGN_INS, people
from loradeck.hub.access.sign_ins import KnownCallers, SignIns
from loradeck.hub.automation.campaigns import Campaigns
from loradeck.hub.automation.comparisons import Comparisons
from loradeck.hub.automation.guard import BadNodes, GuardedPointers
from loradeck.hub.automation.pooled_routes import PooledRoutes
from loradeck.hub.automation.steps import SteppedCandidates
from loradeck.hub.data.answer_ledger import KEEP_S, AnswerLedger
from loradeck.hub.data.counted_days import KEEP_S as INPUTS_KEEP_S
from loradeck.hub.data.counted_days import InputDays, Replays
from loradeck.hub.data.datasets import Datasets
from loradeck.hub.data.erasure import Erasures
from loradeck.hub.data.erasure_list import ErasureList
from loradeck.hub.data.feedback import TIE_S, FeedbackBook
from loradeck.hub.data.garbage import Garbage
from loradeck.hub.data.lineage import Lineage
from loradeck.hub.fleet.node import Node, NodeLink
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.pools import Pools
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.jobs.decisions import Decisions
from loradeck.hub.jobs.gates import Gates
from loradeck.hub.jobs.generation import Generation
from loradeck.hub.jobs.job_records import JobRecords, Uploads
from loradeck.hub.jobs.job_specs import JobSpecs
from loradeck.hub.jobs.merging import Merging
from loradeck.hub.jobs.promote_check import PromoteCheck
from loradeck.hub.jobs.promotion import Promotions
from loradeck.hub.jobs.queue import Queue
from loradeck.hub.jobs.results import Results
from loradeck.hub.links import gateways
from loradeck.hub.links.all_links import Links
from loradeck.hub.links.capacity import Capacity
from loradeck.hub.links.challenges import Challenges
from loradeck.hub.links.cosigners import Cosigners
from loradeck.hub.links.gateways import Gateways
from loradeck.hub.links.gc_tuning import GcTuning
from loradeck.hub.links.node_events import Greeting, NodeEvents
from loradeck.hub.links.node_link import PARTS, Uplink
from loradeck.hub.links.pins import Pins
from loradeck.hub.links.saved_nodes import FLUSH_S, SavedState
from loradeck.hub.links.table_sender import TableSender
from loradeck.hub.log import audit
from loradeck.hub.log.attestations import Attestations, Facts
from loradeck.hub.log.audit import AuditTrail
from loradeck.hub.log.background import Background
from loradeck.hub.log.catalogue import Catalogue, Registry
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock, StepWatch
from loradeck.hub.log.incidents import Incidents, Relatives
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.log.takeover import TakenLease
from loradeck.hub.log.two_people import BrokenGlass, Proposals
from loradeck.hub.notices.channels import Channels
from loradeck.hub.notices.notifier import DatedThings, Notifier
from loradeck.hub.notices.outbox import Outbox
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.arm_outcomes import ArmsSaid, Cohorts
from loradeck.hub.progress.deprecated_callers import DeprecatedCallers
from loradeck.hub.progress.flags import Flags
from loradeck.hub.progress.move_progress import MoveProgress
from loradeck.hub.progress.release_health import ReleaseAttestations, ReleaseHealth
from loradeck.hub.progress.target_lookup import Prepares, RollbackTargets
from loradeck.hub.progress.usual_shares import UsualShares
from loradeck.hub.progress.votes import Votes
from loradeck.hub.recovery.backups import Backups
from loradeck.hub.recovery.lost_files import LostFiles
from loradeck.hub.recovery.lost_tails import LostTails
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.hub.recovery.recover import Recovery, Witnesses
from loradeck.hub.recovery.revocations import Revocations
from loradeck.hub.recovery.startup import Startup
from loradeck.hub.views import feed
from loradeck.hub.views.asked_of_nodes import CanarySuggestions, Samples, Traces
from loradeck.hub.views.explained import Explanations
from loradeck.hub.views.feed import Feed, Seen
from loradeck.hub.views.freshness import FreshnessView
from loradeck.hub.views.incident_reports import IncidentReports, RelatedIndex
from loradeck.hub.views.metrics import Metrics
from loradeck.hub.views.placements import Capacities, Placements
from loradeck.hub.views.previews import Previews
from loradeck.hub.views.rows import Rows
from loradeck.hub.views.status import Status
from loradeck.rules.moves.lease import RENEW_S
from loradeck.schemas.audit import AuditDraft
from loradeck.schemas.link import (
    Ack,
    CanaryAnswers,
    Countersigned,
    Hello,
    JobEvent,
    JobLog,
    Report,
    SampleRows,
    TableState,
    TraceRows,
    TrustRoots,
)
from loradeck.schemas.replica_state import HEARTBEAT_S
from loradeck.schemas.sign_in import OidcSettings
from loradeck.store.interface import StoreError
from loradeck.strangers.failed_logins import FailedLogins
from loradeck.strangers.minute_log import MinuteLog

if TYPE_CHECKING:
    from loradeck.hub.access.membership import Membership
    from loradeck.hub.access.provider import Provider

log = logging.getLogger("loradeck.hub")

ERASED_S = 60.0
"""Seconds between attempts to remove files with erased rows that were not removed at once."""

LIST_S, ARRIVED_S = 2.0, 3600.0
"""Seconds between attempts to make erasures' list and log agree, and between looks for rows that nobody registers."""

TICK_S = 1.0
"""Seconds between two looks at what comes true by time alone."""


class Hub:
    """The active hub over one store. Building it reads the store: blocking, before anybody is served.

    `hold` is the lease as it was taken; `key` signs the positions of the log.

    Serve it while `run` runs, and `stop` it at the end.

    Raises: StoreError.
    """

    changes: Changes
    table_sender: TableSender
    releases: ReleaseAttestations
    provider: Provider | None
    sign_ins: SignIns | None

    def __init__(
        self,
        store: StoreThread,
        blobs: Blobs,
        *,
        hold: TakenLease,
        name: str,
        key: SigningKey,
        production: bool = False,
        sqlite: str = "",
        clock: Clock | None = None,
        oidc: OidcSettings | None = None,
    ) -> None:
        self.store = store
        self.blobs = blobs
        self.clock = clock or Clock()
        self._clock_steps = StepWatch(self.clock)
        self._allowed: tuple[str | None, str | None] = (None, None)
        self.membership: Membership | None = None
        self.backups: Backups | None = None
        self.notifier: Notifier | None = None
        self.metrics = Metrics()
        self.failed_logins = FailedLogins(self.clock.monotonic, self._login_failed)
        self.refusals = MinuteLog(self.clock.monotonic, log.warning)
        self.background = Background()
        self.gc_tuning = GcTuning()
        self.succeeded = asyncio.Event()
        """Set when this hub does not hold the lease any more."""
        self._load_log(hold, key)
        self._load_people(oidc)
        self._build_fleet(hold)
        self._build_jobs()
        self._build_views(name=name, production=production, sqlite=sqlite)
        self._subscribe()
        self.metrics.watch(self.log, self.fleet, self.changes, self.moves_allowed, self.clock)
        self.table_sender.load()
        self.releases.load()
        self.flags.load()

    # ---- building ------------------------------------------------------------------------------------------

    def _load_log(self, hold: TakenLease, key: SigningKey) -> None:
        store = self.store
        timed, lost = self.metrics.commit.observe, self._succeeded
        self.log = Log(store, hold, key, clock=self.clock.monotonic, timed=timed, lease_lost=lost)
        self.changes = Changes(self.log.state)
        self.tokens = Tokens(store.now(lambda s: s.tokens()), self.clock.now_ms)
        self.audit = AuditTrail(self.log, store, lambda: self.moves_allowed.forward)
        self.audit.begin([token.id for token in self.tokens.all()])
        self.broken_glass = BrokenGlass(self.log, store, self.changes, self.audit.note)
        self.catalogue = store.now(Catalogue.load)
        self.facts = store.now(Facts.load)
        self.registry = Registry(store, self.catalogue)
        self.attestations = Attestations(store, self.facts, self.log.state, self.clock)
        self.incidents = Incidents(self.log, store, self.changes)
        self.relatives = Relatives(self.log, self.catalogue, self.facts, self.incidents)

    def _load_people(self, oidc: OidcSettings | None) -> None:
        saved = self.store.now(lambda s: s.meta(SIGN_INS))
        self.provider, self.sign_ins = people(oidc, saved, lambda: self.clock.now_ms())
        self.known = KnownCallers(self.tokens, self.sign_ins)
        self.proposals = Proposals(self.clock, self.sign_ins is not None)

    def _build_fleet(self, hold: TakenLease) -> None:
        log_, state, store, changes, clock = self.log, self.log.state, self.store, self.changes, self.clock
        self.saved_state = saved = SavedState(store, clock)
        self.fleet = fleet = Fleet(clock.monotonic, saved.nodes())
        self.cosigners = Cosigners(store, log_.signing, fleet, lambda: self.audit.anchored)
        self.counts = counts = saved.counts(clock.monotonic())
        self.tables = tables = NodeTables(self.catalogue, self.facts, log_.signing)
        self.challenges = Challenges(lambda: fleet.clock(), lambda *given: self.node_events.contested(*given))
        self.links = Links(fleet, self.gc_tuning, self.challenges)
        self.prepares = prepares = Prepares()
        self.withdrawals = withdrawals = Withdrawals(state, fleet, store.now(lambda s: s.withdrawals()))
        self.table_sender = TableSender(
            log=log_,
            catalogue=self.catalogue,
            tables=tables,
            withdrawals=withdrawals,
            fleet=fleet,
            links=self.links,
            prepares=prepares,
            changes=changes,
        )
        log_.changes_fleet = self.table_sender.changes_fleet
        self.targets = RollbackTargets(state, self.catalogue, self.facts, prepares)
        self.replicas = replicas = PlacedReplicas(state, fleet, tables, withdrawals)
        self.gateways = Gateways(fleet, tables, replicas, changes, self.tokens)
        tables.elsewhere = self.gateways.elsewhere
        self.capacity = Capacity(state, fleet, tables, replicas)
        now, timed = (lambda: fleet.clock()), self.metrics.flipped.observe
        self.usual_shares = usual = UsualShares(state, store, clock, self.background)
        self.votes = votes = Votes(usual.of, now)
        self.health = health = ReleaseHealth(state, counts, votes, replicas, usual, log_.last_move, clock)
        self.releases = releases = ReleaseAttestations(state, health, self.attestations, self.background)
        self.flags = Flags(state, health, self.facts, changes, clock, releases.record_flag)
        self.progress = MoveProgress(tables, replicas, health, releases, self.flags, changes, now, timed)
        linked = {node.name for node in fleet.nodes.values() if hold.settles and not node.was_lost}
        self.startup = startup = Startup(linked, clock.monotonic, changes.status)
        self.lost = lost = LostTails(store, self.catalogue, self.facts, log_.signing, hold.lost)
        self.witnesses = Witnesses(store, log_, fleet, tables, startup, changes, self.background, lost)
        self.recovery = Recovery(store, log_, self.registry, fleet, startup, changes, self.witnesses)
        self.moves_allowed = allowed = MovesAllowed(log_, self.witnesses, startup, store.reserve)
        self.pins = Pins(log_, fleet, allowed, self.background, clock.monotonic, saved.ended_pins())
        self.arms = arms = ArmsSaid()
        self.pools = pools = Pools(state, fleet, self.catalogue)
        self.pooled_routes = PooledRoutes(
            log=log_,
            fleet=fleet,
            tables=tables,
            pools=pools,
            replicas=replicas,
            usual=usual,
            allowed=allowed,
            background=self.background,
            clock=clock,
        )
        self.deprecated_callers = called = DeprecatedCallers(state, store, clock.now_ms)
        self.node_events = NodeEvents(
            fleet=fleet,
            tables=tables,
            withdrawals=withdrawals,
            counts=counts,
            votes=votes,
            arms=arms,
            deprecated=called,
            progress=self.progress,
            changes=changes,
        )

    def _build_jobs(self) -> None:
        log_, state, registry, attestations = self.log, self.log.state, self.registry, self.attestations
        fleet, capacity, background, clock, blobs = self.fleet, self.capacity, self.background, self.clock, self.blobs
        catalogue, facts, changes, prepares = self.catalogue, self.facts, self.changes, self.prepares
        self.lineage = lineage = Lineage(catalogue, attestations)
        keys, allowed = blobs.keys if isinstance(blobs, KeyedBlobs) else None, self.moves_allowed
        self.erasure_list = listed = ErasureList(keys, log_, self.store, attestations, allowed)
        self.revocations = Revocations(keys, self.tokens, self.store, self.token_ended)
        self.datasets = datasets = Datasets(state, registry, attestations, lineage, blobs, clock, listed)
        self.jobs = jobs = JobRecords(self.store, blobs, catalogue, changes, background, clock)
        self.gates = gates = Gates(
            log=log_,
            state=state,
            catalogue=catalogue,
            attestations=attestations,
            jobs=jobs,
            blobs=blobs,
            background=background,
            clock=clock,
            people_sign_in=self.sign_ins is not None,
        )
        self.merging = merging = Merging(state, registry, attestations, lineage, gates)
        self.cohorts = cohorts = Cohorts(state, self.counts)
        self.promote_check = check = PromoteCheck(
            state=state,
            catalogue=catalogue,
            facts=facts,
            capacity=capacity,
            datasets=datasets,
            lineage=lineage,
            gates=gates,
            cohorts=cohorts,
            proposals=self.proposals,
            relatives=self.relatives,
            clock=clock,
        )
        self.promotions = Promotions(
            log=log_,
            registry=registry,
            fleet=fleet,
            capacity=capacity,
            check=check,
            jobs=jobs,
            prepares=prepares,
            table_sender=self.table_sender,
            moves_allowed=allowed,
            changes=changes,
            background=background,
            clock=clock,
        )
        generation = Generation(state, catalogue, attestations, datasets, lineage, clock)
        specs = JobSpecs(
            state=state,
            catalogue=catalogue,
            datasets=datasets,
            lineage=lineage,
            merging=merging,
            generation=generation,
            incidents=self.incidents,
            facts=facts,
            clock=clock,
        )
        self.decisions = Decisions(catalogue, attestations, jobs, gates)
        results = Results(
            catalogue=catalogue,
            attestations=attestations,
            gates=gates,
            lineage=lineage,
            merging=merging,
            generation=generation,
            fleet=fleet,
            clock=clock,
        )
        self.uploads = Uploads()
        self.queue = queue = Queue(fleet, jobs, specs, self.promotions, results, background, clock)
        self.campaigns = Campaigns(
            log=log_,
            store=self.store,
            catalogue=catalogue,
            facts=facts,
            gates=gates,
            jobs=jobs,
            queue=queue,
            promotions=self.promotions,
            fleet=fleet,
            tables=self.tables,
            replicas=self.replicas,
            pools=self.pools,
            ordered=self.node_events.ordered,
            allowed=allowed,
            background=background,
            clock=clock,
        )
        self.lost_files = LostFiles(fleet, self.tables, registry, blobs, self.witnesses)
        self.garbage = Garbage(
            log=log_,
            store=self.store,
            catalogue=catalogue,
            attestations=attestations,
            fleet=fleet,
            prepares=prepares,
            blobs=blobs,
            clock=clock,
            jobs=jobs.newest,
            erasure_list=listed,
        )
        self.ledger = AnswerLedger(log_, self.store, blobs, self.audit, clock)
        self.feedback = FeedbackBook(
            log=log_,
            store=self.store,
            ledger=self.ledger,
            attestations=attestations,
            votes=self.votes,
            clock=clock,
            keys=keys,
            erasure_list=listed,
        )
        self.input_days = InputDays(log_, self.store, clock)
        self.erasures = Erasures(
            log=log_,
            catalogue=catalogue,
            attestations=attestations,
            datasets=datasets,
            lineage=lineage,
            blobs=blobs,
            fleet=fleet,
            jobs=jobs.every,
            cancel=queue.cancel,
            drop_erased=self.garbage.drop_erased,
        )

    def _build_views(self, *, name: str, production: bool, sqlite: str) -> None:
        log_, state, catalogue, facts, fleet = self.log, self.log.state, self.catalogue, self.facts, self.fleet
        replicas, health, counts, progress, clock = self.replicas, self.health, self.counts, self.progress, self.clock
        tables, changes = self.tables, self.changes
        bad_nodes = BadNodes(
            log=log_,
            fleet=fleet,
            tables=tables,
            votes=self.votes,
            allowed=self.moves_allowed,
            ordered=self.node_events.ordered,
            background=self.background,
            clock=clock,
        )
        self.guard = guard = GuardedPointers(
            log=log_,
            votes=self.votes,
            counts=counts,
            arms=self.arms,
            replicas=replicas,
            tables=tables,
            targets=self.targets,
            allowed=self.moves_allowed,
            incidents=self.incidents,
            bad_nodes=bad_nodes,
            changes=changes,
            background=self.background,
            clock=clock,
        )
        self.steps = steps = SteppedCandidates(
            log=log_,
            arms=self.arms,
            cohorts=self.cohorts,
            replicas=replicas,
            check=self.promotions.check,
            relatives=self.relatives,
            comparisons=Comparisons(self.arms, self.attestations, self.background, clock),
            guard_said=guard.said,
            allowed=self.moves_allowed,
            changes=changes,
            background=self.background,
            clock=clock,
        )
        self.status = status = Status(
            state=state,
            moves_allowed=self.moves_allowed,
            lost=self.lost,
            changes=changes,
            clock=clock,
            name=name,
            production=production,
            sqlite=sqlite,
            started_ms=clock.now_ms(),
        )
        previews = Previews(
            state=state,
            catalogue=catalogue,
            facts=facts,
            fleet=fleet,
            replicas=replicas,
            health=health,
            counts=counts,
            progress=progress,
            targets=self.targets,
        )
        self.rows = rows = Rows(
            log=log_,
            catalogue=catalogue,
            facts=facts,
            fleet=fleet,
            tables=tables,
            replicas=replicas,
            health=health,
            flags=self.flags,
            counts=counts,
            progress=progress,
            previews=previews,
            promotions=self.promotions,
            cohorts=self.cohorts,
            witnesses=self.witnesses,
            guard_said=guard.said,
            broken_glass=self.broken_glass,
            incidents=self.incidents,
            arms=self.arms,
            steps_said=steps.said,
            callers=self.deprecated_callers,
            clock=clock,
        )
        self.placements = Placements(state, fleet, tables, self.pools, self.pooled_routes, self.usual_shares, clock)
        self.capacities = Capacities(state, fleet, self.pools, self.capacity, self.placements)
        self.dated = DatedThings(state, catalogue, facts, fleet, clock)
        self.related = RelatedIndex(log_, catalogue, rows, self.incidents, self.relatives)
        self.traces = Traces(fleet, replicas, counts, clock)
        self.samples = Samples(state, replicas, self.audit, clock)
        minutes = self.saved_state.minutes
        self.incident_reports = IncidentReports(log_, self.store, catalogue, minutes, self.samples, clock)
        self.explanations = Explanations(self.ledger, log_, self.store, catalogue, facts, self.traces, clock)
        self.replays = Replays(log_, catalogue, self.attestations, clock)
        self.freshness = FreshnessView(
            log=log_,
            store=self.store,
            catalogue=catalogue,
            facts=facts,
            attestations=self.attestations,
            jobs=self.jobs,
            incidents=self.incidents,
            clock=clock,
            replays=self.replays,
        )
        self.canary_suggestions = CanarySuggestions(state, catalogue, self.datasets, fleet)
        self.seen = seen = Seen(catalogue, self.attestations, self.lineage, fleet, tables, replicas, rows)
        self.feed = Feed(
            log=log_,
            changes=changes,
            tables=tables,
            fleet=fleet,
            jobs=self.jobs,
            rows=rows,
            seen=seen,
            status=status.now,
        )

    def _subscribe(self) -> None:
        # Nodes come first: they wait for a move. Progress counts against the entries that the nodes were sent. Consoles
        # come last: a row is computed from all of it.
        self.log.followers += [self.table_sender.committed, self.progress.committed, self.pins.committed]
        self.log.followers += [self.promotions.committed, self.metrics.committed, self.guard.committed]
        self.log.followers += [self.steps.committed, self.pooled_routes.committed, self.broken_glass.committed]
        self.log.followers += [self.incidents.committed, self.campaigns.committed, self.changes.committed]
        parts = (self.audit, self.table_sender, self.gates, self.progress, self.steps, self.changes)
        self.attestations.followers += [part.attested for part in parts]
        self.node_events.followers += [self.promotions.nodes_changed, self.steps.nodes_changed]
        save = partial(self.saved_state.save_fleet, self.fleet, self.withdrawals)
        greeting = Greeting(self.fleet, self.node_events, self.recovery, self.startup, self.pins, self._joined, save)
        self.uplink = Uplink(
            log=self.log,
            tables=self.tables,
            withdrawals=self.withdrawals,
            fleet=self.fleet,
            greeting=greeting,
            challenges=self.challenges,
            gateways=self.gateways,
            handlers={
                Ack: self.progress.acknowledged,
                Report: self.reported,
                JobEvent: self.queue.event,
                JobLog: self.queue.printed,
                TraceRows: self.traces.questions.answered,
                SampleRows: self.samples.questions.answered,
                CanaryAnswers: self.canary_suggestions.questions.answered,
                Countersigned: self.cosigners.answered,
                TableState: self.witnesses.table,
            },
            outbox=self.links.outbox,
        )

    # ---- running -------------------------------------------------------------------------------------------

    async def settle_lists(self) -> None:
        """Makes the lists beside the keys of rows and the database agree, unless they do."""
        await self.erasure_list.settle()
        await self.revocations.settle()

    async def run(self) -> None:
        """Heartbeats, ticks and flushes until cancelled."""
        self.queue.fail_interrupted()
        self.promotions.load()
        self.guard.load()
        self.steps.load()
        async with asyncio.TaskGroup() as group:
            # The hub may have ended between an erasure and this, or an object store did not answer.
            group.create_task(_every(LIST_S, self.settle_lists))
            group.create_task(_every(ERASED_S, self.garbage.drop_erased, first=0))
            group.create_task(_every(ERASED_S, self.datasets.seal_all, first=0))
            group.create_task(_every(ERASED_S, self.feedback.seal_all, first=0))
            group.create_task(_every(ARRIVED_S, self.garbage.drop_arrived))
            group.create_task(_every(KEEP_S, self.ledger.keep))
            group.create_task(_every(TIE_S, self.feedback.keep))
            group.create_task(_every(INPUTS_KEEP_S, self.input_days.keep))
            group.create_task(_every(HEARTBEAT_S / PARTS, self.links.beat))
            group.create_task(_every(TICK_S, self._tick))
            group.create_task(_every(gateways.TICK_S, self.gateways.tick))
            group.create_task(_every(TICK_S, self._keep_reserve))
            group.create_task(_every(RENEW_S, self.log.keep_lease))
            group.create_task(_every(FLUSH_S, self.flush))
            group.create_task(_every(feed.TICK_S, self.changes.tick))
            group.create_task(_every(audit.FLUSH_S, self.audit.flush))
            group.create_task(_every(audit.ANCHOR_S, self.anchor))
            if self.backups is not None:
                group.create_task(self.backups.run())
            if self.notifier is not None:
                group.create_task(_every(TICK_S, self.notifier.tick))
            if self.provider is not None:
                group.create_task(self.provider.run(self._provider_asked))

    async def anchor(self) -> None:
        """Anchors the head of the audit trail in the log, and asks nodes to sign it."""
        await self.audit.anchor()
        await self.broken_glass.save()
        await self.incidents.save()
        await self.campaigns.save()
        await self.cosigners.ask()

    def keep_backups(self, folder: Path, every_s: float) -> None:
        """Has `run` make a backup in a folder every `every_s` seconds, and status and metrics tell of it."""
        self.backups = Backups(self.store, self.blobs, self.clock, folder, every_s)
        self.status.backups = self.metrics.backups = self.backups

    def keep_notices(self, file: Path) -> None:
        """Has `run` tell people what they have to know, on the channels of a file (`schemas.notice.ChannelFile`)."""
        outbox = Outbox(self.store, Channels(file), self.clock, self.background, f"loradeck/{self.status.now().hub}")
        self.metrics.given_up = outbox.dead
        self.notifier = Notifier(
            state=self.log.state,
            store=self.store,
            fleet=self.fleet,
            changes=self.changes,
            rows=self.rows,
            usual=self.usual_shares,
            clock=self.clock,
            dated=self.dated,
            facts=self.facts,
            unread=self.promote_check.unread,
            outbox=outbox,
        )
        self.promote_check.on_unread = self.notifier.card_awaits
        self.log.followers.insert(-1, self.notifier.committed)  # before the consoles
        self.attestations.followers.append(self.notifier.attested)
        self.jobs.follower = self.notifier.job_changed

    async def stop(self) -> None:
        """Writes what is only in memory, if the lease is still this hub's. The store is closed by its owner."""
        await self.background.stop()
        if self.log.lease_lost:
            return
        await self.audit.flush()
        await self.flush()
        await self.saved_state.write_minutes(all_of_them=True)

    def _succeeded(self) -> None:
        """The lease is another hub's, or over: consoles are told, and nodes are to link to whoever has it."""
        log.error("this hub does not hold the lease any more: nothing is moved here, and nodes are let go")
        self.succeeded.set()
        self.changes.status()
        self.links.succeeded()

    async def _keep_reserve(self) -> None:
        """Takes the disk's reserve back once there is room, and says so when the disk has become full."""
        if (reserve := self.store.reserve) is not None and reserve.in_use:
            await self.store(lambda s: reserve.make(), background=True)
        allowed = self.moves_allowed.refusing, self.moves_allowed.waiting
        if allowed != self._allowed:
            self._allowed = allowed
            self.changes.status()

    async def _tick(self) -> None:
        self.node_events.tick()
        self.startup.tick()
        self.gc_tuning.tick(len(self.links))
        self.progress.tick()
        self.guard.tick()
        self.steps.tick()
        self.pooled_routes.tick()
        self.campaigns.tick()
        self.usual_shares.tick()
        self.jobs.forget_checkpoints()
        self.queue.assign()
        if step := self._clock_steps.step_ms():
            way, seconds = "forward" if step > 0 else "back", round(abs(step) / 1000)
            what = f"the clock of the hub's host was set {way} by {seconds} s"
            log.error("%s", what)
            self.audit.note(AuditDraft(actor=audit.HUB, call="clock", detail=what))
        for token_id in (*self.tokens.take_expired(), *(self.sign_ins.take_ended() if self.sign_ins else ())):
            self.token_ended(token_id)

    async def flush(self) -> None:
        """Writes the part of the fleet's state that outlives the hub."""
        await self.saved_state.flush(self.fleet, self.withdrawals, self.counts, self.pins, self.tokens.take_used())
        await self.saved_state.write_minutes()
        for what, save in (
            ("sign-ins", self.save_sign_ins),
            ("callers of deprecated releases", self.deprecated_callers.save),
        ):
            try:
                await save()
            except StoreError as error:
                log.error("%s are not written yet code=%s %s", what, error.code, error)

    async def save_sign_ins(self) -> None:
        """Writes the sign-ins that have changed. Raises: StoreError: they are kept for the next time."""
        if self.sign_ins is None or not self.sign_ins.unsaved:
            return
        text = self.sign_ins.take_unsaved().model_dump_json()
        try:
            await self.store(lambda s: s.set_meta(SIGN_INS, text))
        except StoreError:
            self.sign_ins.unsaved = True
            raise

    def token_ended(self, token_id: str) -> None:
        """Ends the feeds and the links that were opened with a token which was withdrawn or has expired."""
        self.changes.revoked(token_id)
        self.links.revoked(token_id)

    async def accept_link(self, socket: WebSocket) -> None:
        """Serves a node's connection from its handshake to its end."""
        await self.links.accept(socket, self.uplink, self.node_events.unlinked)

    def _joined(self, node: Node, hello: Hello) -> None:
        self.queue.joined(node, hello)
        self.cosigners.linked(node.name, hello.cosigned)
        if node.link is not None:
            self.tell_roots([node.link])

    def tell_roots(self, links: Iterable[NodeLink]) -> None:
        """Tells nodes which authorities the hub's certificates rest on; who was given others renews its own."""
        if self.membership is not None:
            for link in links:
                link.put_message(TrustRoots(roots=self.membership.authority.roots))

    def _provider_asked(self, answered: bool, why: str) -> None:
        assert self.sign_ins is not None
        if self.sign_ins.asked(answered):
            what = "the sign-in provider answers" if answered else f"the sign-in provider does not answer: {why}"
            log.log(logging.INFO if answered else logging.ERROR, "%s", what)
            self.audit.note(AuditDraft(actor=audit.HUB, call="provider", detail=what))

    def _login_failed(self, line: str) -> None:
        log.warning(line)
        self.audit.note(AuditDraft(actor="", call="login", status=401, detail=line))

    def reported(self, node: Node, report: Report) -> None:
        """Handles a node's report."""
        self.node_events.reported(node, report)
        self.pins.reported(node)
        self.queue.scheduled(node, report)


async def _every(seconds: float, work: Callable[[], Coroutine[Any, Any, None]], *, first: float | None = None) -> None:
    """Runs something every so many seconds, and first after `first`. A failure is logged and costs one turn."""
    await asyncio.sleep(seconds if first is None else first)
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s failed", work.__qualname__)
        await asyncio.sleep(seconds)
