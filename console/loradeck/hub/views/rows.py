"""Rows for consoles: built from memory, and only when somebody is going to read them."""

from collections.abc import Mapping
from dataclasses import dataclass

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import AckRecord, Fleet
from loradeck.hub.jobs.promotion import Promotions
from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.incidents import Incidents
from loradeck.hub.log.log import Log
from loradeck.hub.log.two_people import BrokenGlass
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.arm_outcomes import ArmsSaid, Cohorts
from loradeck.hub.progress.deprecated_callers import DeprecatedCallers
from loradeck.hub.progress.flags import Flags
from loradeck.hub.progress.move_progress import MoveProgress
from loradeck.hub.progress.release_health import ReleaseHealth
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.hub.progress.windows import Recent
from loradeck.hub.recovery.recover import Witnesses
from loradeck.hub.views.previews import Previews, rounded
from loradeck.rules.moves.rollbacks import undo_asks
from loradeck.rules.quality import health
from loradeck.rules.quality.cause import median_tenant
from loradeck.rules.quality.neighbours import merged
from loradeck.rules.serving.counting import is_cold, sources
from loradeck.rules.serving.training_proof import standing
from loradeck.schemas.counts import NO_COUNTS
from loradeck.schemas.flag import FlagCause
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Replica
from loradeck.schemas.log import Event, PointerState
from loradeck.schemas.protocol import Feature, unknown_features
from loradeck.schemas.state import (
    AskedAgainRow,
    CandidateRow,
    Cause,
    DeprecationRow,
    NodeReplica,
    NodeRow,
    OpenIncident,
    Preview,
    PreviewAction,
    ReplicaRow,
    ShadowLoad,
    TenantRow,
)
from loradeck.schemas.table import TableEntry

Placed = tuple[tuple[Node, Replica], ...]


@dataclass(eq=False, kw_only=True)
class Rows:
    """Builds rows. The state of a row is read in one turn of the event loop."""

    log: Log
    catalogue: Catalogue
    facts: Facts
    fleet: Fleet
    tables: NodeTables
    replicas: PlacedReplicas
    health: ReleaseHealth
    flags: Flags
    counts: RequestCounts
    progress: MoveProgress
    previews: Previews
    promotions: Promotions
    cohorts: Cohorts
    witnesses: Witnesses
    guard_said: Mapping[PointerKey, str]
    broken_glass: BrokenGlass
    incidents: Incidents
    arms: ArmsSaid
    steps_said: Mapping[PointerKey, tuple[str, ...]]
    callers: DeprecatedCallers
    clock: Clock

    # ---- tenants -------------------------------------------------------------------------------------------

    def tenant(self, key: PointerKey) -> TenantRow:
        """The row of a pointer. Raises: KeyError when there is no such pointer."""
        entry, state = self.tables.entries[key], self.log.state
        tenant, config, pointer = state.tenants[key[0]], state.config(key), state.pointer(key)
        live = pointer.release
        withdrawn, acks, now = self.replicas.withdrawn(key), self.replicas.acks(key), self.fleet.clock()
        placed = self.replicas.placed(key)
        progress = self.replicas.progress(key)
        held_back = tuple(self.witnesses.holding(key))
        preview = _waiting(self.previews.of(pointer), held_back)
        recent = self.counts.recent(key, pointer.generation, live, now) if live else Recent(seconds=1)
        attested = self.facts.attested_generation(key, pointer.generation)
        last = self.log.last_move(pointer)
        left = last.left if last else None
        last_left, left_answered = self._left(key, pointer, left)
        pinned = any(pin.tenant == key[0] and pin.route == key[1] for node, _ in placed for pin in node.pins)
        again = self._again(pointer, entry)
        cause, alone = self._cause(key, pointer, preview, placed, again), self.broken_glass.on(key)
        slow, drift = (self.health.slow(pointer), self.health.drift(pointer)) if live else ((), ())
        flags = {
            "BAD": key in self.flags.now,
            "OVR": last is not None and last.override,
            "UNPRVN": live is not None and progress.is_unproven,
            "FAILED": key in self.promotions.failed,
            "SLOW": bool(slow),
            "GLASS": bool(alone),
            "AHEAD": bool(held_back),
            "NOPRIOR": live is not None
            and not held_back
            and preview.action in (PreviewAction.NONE, PreviewAction.FALLBACK),
            "DRIFT": bool(drift),
            "HELD": pointer.held,
            "PIN": pinned,
            "PREP": preview.prepare is not None,
            "CAND": pointer.candidate is not None,
            "SUSP": tenant.suspended,
        }
        before = self.progress.bad_before.get(key) or NO_COUNTS
        if not before.checked and left is not None:
            before = self.health.total(pointer, left)
        replicas = tuple(
            self._replica(key, pointer, node, r, acks.get(r.replica), withdrawn=(node, r) in withdrawn)
            for node, r in placed
        )
        return TenantRow(
            tenant=key[0],
            route=key[1],
            pointer=pointer,
            epoch=entry.epoch,
            live=self.catalogue.view(live) if live else None,
            candidate=self._candidate(pointer, now),
            suspended=tenant.suspended,
            held_back=held_back,
            flags=tuple(flag for flag, on in flags.items() if on),
            preview=preview,
            replicas=replicas,
            sources=sources(replicas),
            flipped=progress.flipped,
            proven=progress.proven,
            listed=progress.listed,
            placed=progress.placed,
            attested=attested,
            settled=progress.settled,
            cause=cause,
            minute=recent.counts,
            units=self.health.units(pointer) if live else None,
            requests_per_s=round(recent.counts.attempted / recent.seconds, 3),
            error_share=recent.counts.failed_share,
            bad_before=before.bad_share,
            bad_before_n=before.checked,
            bad_now=recent.counts.bad_share,
            bad_n=recent.counts.checked,
            ttft95_ms=recent.ttft95_ms,
            last_left_ms=last_left,
            left_answered=left_answered,
            gate=self.facts.gate(key, live) if live else None,
            last_event=last,
            undo_asks=self._undo_asks(last, pointer) if last else None,
            soak=(config.soak.seconds, config.soak.requests),
            guard=self.guard_said.get(key, ""),
            alone=alone,
            incident=self._incident(key),
            again=again,
            slow=slow,
            drift=drift,
            burning=self.health.burning(key) if live else (),
            refusals_promised=config.objectives.refusals,
            deprecated=self._deprecated(key, live) if live else None,
        )

    def _deprecated(self, key: PointerKey, live: str) -> DeprecationRow | None:
        release = self.catalogue.release(live, key[0]) if self.facts.deprecated else None
        said = self.facts.deprecation(release) if release is not None else None
        if said is None:
            return None
        return DeprecationRow(**said.model_dump(), callers=self.callers.of(key, live))

    def _incident(self, key: PointerKey) -> OpenIncident | None:
        found = self.incidents.open_on(key)
        if found is None:
            return None
        return OpenIncident(id=found.id, title=found.title, by=found.by, opened_ms=found.opened_ms)

    def _undo_asks(self, last: Event, pointer: PointerState) -> str | None:
        """Says what speaks against the release that an undo of the last move would serve, or that it is cold."""
        why, target = undo_asks(last, pointer, self.facts.of(pointer.key)), last.from_release
        if why is None and target is not None and target != pointer.release:
            return "cold" if self.previews.cold_prior(pointer.key, target) else None
        return why

    def _again(self, pointer: PointerState, entry: TableEntry) -> AskedAgainRow | None:
        out, noise = pointer.candidate, None
        if out is not None and out.shadow and pointer.release is not None:
            other, noise = out.release, self.health.asked_again(pointer, pointer.release)
        elif entry.asked_again_until_ms is not None and entry.beneath:
            other = entry.beneath[0].id
        else:
            return None
        counts = self.health.asked_again(pointer, other)
        return AskedAgainRow(release=self.catalogue.view(other), counts=counts, noise=noise) if counts else None

    def shadow_load(self, row: TenantRow, permille: int) -> ShadowLoad:
        """Says what a shadow of this share, in thousandths, would cost, by the counts of the last minute."""
        key, live, requests = row.key, row.pointer.release, row.requests_per_s * permille / 1000
        tokens = self.counts.tokens_a_request(key, row.pointer.generation, live) if live is not None else None
        engines = {replica.replica for replica in row.replicas if not replica.withdrawn}
        others = self.counts.others(key, engines, self.fleet.clock())
        return ShadowLoad(
            requests_per_s=round(requests, 3),
            tokens_per_s=round(requests * tokens, 1) if tokens is not None else None,
            under_way=row.minute.in_flight + others.in_flight,
            engines=len(engines),
        )

    def _candidate(self, pointer: PointerState, now: float) -> CandidateRow | None:
        out = pointer.candidate
        if out is None:
            return None
        recent = self.counts.recent(pointer.key, pointer.generation, out.release, now)
        return CandidateRow(
            release=self.catalogue.view(out.release),
            minute=recent.counts,
            keys=self.cohorts.keys(pointer.key, out),
            arms=self.arms.compared(pointer, out),
            waits=self.steps_said.get(pointer.key, ()),
        )

    def _left(self, key: PointerKey, pointer: PointerState, left: str | None) -> tuple[int | None, int]:
        """(ms of the last token, requests answered) of the release that the last move left, in its last stint."""
        if left is None:
            return None, 0
        counters = [c for c in self.counts.counters(key) if c.release == left and c.generation < pointer.generation]
        newest = max((c.generation for c in counters), default=0)
        stint = [c for c in counters if c.generation == newest]
        last = max((c.last_token_ms for c in stint), default=0)
        return last or None, sum(c.counts.finished for c in stint)

    def _replica(
        self,
        key: PointerKey,
        pointer: PointerState,
        node: Node,
        replica: Replica,
        ack: AckRecord | None,
        *,
        withdrawn: bool,
    ) -> ReplicaRow:
        committed = self.progress.committed_at.get(key)

        def after(at: float | None) -> float | None:
            return None if at is None or committed is None or at < committed else round((at - committed) * 1000, 3)

        late = None
        if ack is not None and ack.is_flipped and node.linked:
            late = self.counts.late(key, pointer.generation, replica.replica, ack.flipped_node_ms)
        pin = next((p for p in node.pins if (p.tenant, p.route) == key), None)
        lacking = unknown_features(self.tables.entries[key].needs, node.features)
        silent = replica.replica in node.silent
        detail = "; ".join(_WITHOUT.get(feature, f"its router lacks {feature}") for feature in lacking)
        code = (ack.code if ack else None) or ("unknown_feature" if lacking else None)
        if node.contested:
            code, detail = "contested", f"agents at {' and '.join(node.contested)} are linked as {node.name}"
        elif silent:
            code, detail = "not_answering", replica.alarm
        elif ack is not None and ack.detail:
            detail = ack.detail
        return ReplicaRow(
            node=node.name,
            replica=replica.replica,
            state=ack.state if ack else None,
            code=code,
            detail=detail,
            flipped_ms=after(ack.first_flipped) if ack and ack.is_flipped else None,
            flipped_mono_ns=ack.flipped_mono_ns or None if ack else None,
            level=ack.level if ack else None,
            cold=ack is not None and ack.is_flipped and is_cold(ack.level),
            boot=ack.boot if ack else "",
            load=ack.load if ack else None,
            proven_ms=after(ack.first_proven) if ack and ack.proven is not None else None,
            proof_age_s=round(self.fleet.clock() - ack.checked, 3) if ack and ack.checked is not None else None,
            heard_age_s=rounded(self.fleet.heard_age(node)),
            linked=node.linked,
            lost=node.lost or silent,
            withdrawn=withdrawn,
            admitted_left=late,
            pinned=pin.release.id if pin else None,
        )

    def _cause(
        self, key: PointerKey, pointer: PointerState, preview: Preview, placed: Placed, again: AskedAgainRow | None
    ) -> Cause:
        live = pointer.release
        if live is None:
            return Cause()
        flag = self.flags.now.get(key)
        window = self.health.window(pointer, flag.raised.since if flag is not None else None)
        total = sum(window.by_replica.values(), NO_COUNTS)
        figure = flag.raised.figure if flag is not None else "bad" if total.checked else "errors"
        others: dict[str, health.Units] = {}
        if flag is not None and figure != health.OVERDUE:
            others = merged(self.health.neighbours(pointer, flag.raised))
        prior_id = preview.target.id if preview.target else next(iter(pointer.beneath), None)
        release = self.catalogue.releases.get(live)
        base_id = self.catalogue.base_alone_id(key[0], release.base) if release else None
        prior = (self.health.total(pointer, prior_id) or None) if prior_id and prior_id != live else None
        base = (self.health.total(pointer, base_id) or None) if base_id and base_id not in (live, prior_id) else None
        pairs = again.counts if again is not None and again.release.id == prior_id else None
        asked_same = pairs is not None and pairs.pairs > 0
        figures = self.counts.faults(key, pointer.generation, live)
        verdict = flag.verdict if flag is not None else None
        return Cause(
            live=total,
            prior=health.beneath_counts(pairs) if pairs is not None and asked_same else prior,
            by_replica=window.by_replica,
            others=health.figure_counts(figure, median_tenant(others, worst=False)) if others else None,
            base=base,
            verdict=verdict.cause.value if verdict is not None else health.unflagged(total),
            figure=figure,
            who=verdict.who if verdict is not None else "",
            overdue=window.overdue,
            since_ms=window.since_ms,
            bad_since_ms=self.health.ms_of(flag.raised.since) if flag is not None else None,
            asked_same=asked_same,
            tenants=len(others),
            against=self.flags.against(pointer) if flag is None else "",
            faults=figures.faults,
            noticed=figures.noticed,
            judged=figures.judged,
            asked=figures.asked,
            alone=verdict.who if verdict is not None and verdict.cause is FlagCause.NODE else "",
        )

    # ---- nodes ---------------------------------------------------------------------------------------------

    def node(self, node: Node) -> NodeRow:
        """The row of a node."""
        catalogue, held_back = self.catalogue, self.counts.fault(node.name)
        return NodeRow(
            node=node.name,
            version=node.version,
            labels=node.labels,
            says=node.said if node.said != node.labels else None,
            linked=node.linked,
            heard_age_s=rounded(self.fleet.heard_age(node)),
            lost=node.lost,
            cordoned=node.cordoned,
            drained=node.drained,
            cordoned_for=(*sorted(node.cordoned_for), *([f"guard: {node.blamed}"] if node.blamed else [])),
            behind=node.behind,
            contested=node.contested,
            gateway=node.gateway,
            jobs_as_agent=node.jobs_as_agent,
            backend=node.backend,
            room=node.room,
            training=standing(node.proof, node.training, {gpu.name for gpu in node.gpus}, self.clock.now_ms()),
            proof=node.proof,
            replicas=tuple(
                NodeReplica(
                    replica=r.replica,
                    state=r.state,
                    base=r.base,
                    base_label=catalogue.base_label(r.base),
                    build=r.build.key if r.build else "",
                    slots=r.slots,
                    loaded=tuple(catalogue.view(release) for release in r.loaded),
                    batch_slots=r.batch_slots,
                    on_device=r.on_device,
                    evictions=r.evictions,
                    load_s=r.load_s,
                    gpus=r.gpus,
                    instances=r.instances,
                    alarm="; ".join(filter(None, (r.alarm, held_back))),
                    levels_known=r.levels_known,
                )
                for r in node.replicas
            ),
            cold=node.cold,
            host=node.host,
            gpus=node.gpus,
            nvml=node.nvml,
            pins=node.pins,
        )


_WITHOUT: dict[str, str] = {
    Feature.CANDIDATE: "its router lacks candidate: all its callers get the live release",
    Feature.ON_DEMAND: "its router lacks on_demand: it loads a release before it flips",
}


def _waiting(preview: Preview, nodes: tuple[str, ...]) -> Preview:
    """The preview of a pointer that nodes hold back: R waits for a recover."""
    if not nodes:
        return preview
    why = f"the log lacks moves that {', '.join(nodes)} has seen; loradeck hub recover, on the hub's host"
    return preview.model_copy(update={"action": PreviewAction.NONE, "refused": why, "asks": None})
