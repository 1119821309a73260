"""Rows for consoles: put together when somebody is going to read them, from facts that are in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loradeck.hub.fleet.nodes import AckRecord, Node
from loradeck.hub.fleet.windows import Recent
from loradeck.rules.moves.target import Target, liftable, rollback_target
from loradeck.rules.quality import health
from loradeck.rules.serving import readiness
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Replica
from loradeck.schemas.log import PointerState
from loradeck.schemas.release import Form
from loradeck.schemas.state import (
    Cause,
    NodeReplica,
    NodeRow,
    Preview,
    PreviewAction,
    Readiness,
    ReplicaReadiness,
    ReplicaRow,
    Skipped,
    TenantRow,
)

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub


Placed = tuple[tuple[Node, Replica], ...]


@dataclass(frozen=True, kw_only=True)
class Near:
    """How near a release is to serving on a pointer: at worst, on how many of how many, and where it is not."""

    worst: Readiness = Readiness.UNKNOWN
    ready: int = 0
    placed: int = 0
    behind: tuple[ReplicaReadiness, ...] = ()


class Rows:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def target(self, key: PointerKey, pointer: PointerState) -> Target:
        """What R does on a pointer now. The preview and the rollback itself both ask here."""
        hub = self._hub
        live = hub.catalogue.releases.get(pointer.release) if pointer.release else None
        return rollback_target(
            pointer,
            hub.facts.of(key),
            fallback_allowed=hub.config(key).fallback,
            live_is_base=live is not None and live.form is Form.BASE,
            pending_prepare=hub.promotions.pending(key),
        )

    # ---- tenants -------------------------------------------------------------------------------------------

    def tenant(self, key: PointerKey) -> TenantRow:
        """Raises: KeyError when there is no such pointer."""
        hub = self._hub
        entry = hub.steer.entries[key]
        tenant, config = hub.ledger.tenants[key[0]], hub.config(key)
        pointer = hub.ledger.pointers.get(key) or PointerState(tenant=key[0], route=key[1])
        live = pointer.release
        placed, acks, now = hub.observer.placed(key), hub.observer.acks(key), hub.clock()
        progress = hub.observer.progress(key)
        preview = self._preview(key, pointer)
        recent = hub.counts.recent(key, pointer.generation, live, now) if live else Recent(seconds=1)
        attested = hub.facts.attested_generation(key, pointer.generation)
        last = hub.last_move(pointer)
        left = last.from_release if last else None
        last_left, left_answered = self._left(key, pointer, left)
        pinned = any(pin.tenant == key[0] and pin.route == key[1] for node, _ in placed for pin in node.pins)
        flags = {
            "BAD": live is not None and hub.facts.is_breached(pointer, live),
            "OVR": last is not None and last.override,
            "UNPRVN": live is not None and not progress.all_proven,
            "NOPRIOR": live is not None and preview.action in (PreviewAction.NONE, PreviewAction.FALLBACK),
            "HELD": pointer.held,
            "PIN": pinned,
            "PREP": preview.prepare is not None,
            "SUSP": tenant.suspended,
        }
        bad_before = hub.observer.bad_before.get(key)
        if bad_before is None and left is not None:
            total = hub.observer.total(pointer, left)
            bad_before = total.bad / total.checked if total.checked else None
        return TenantRow(
            tenant=key[0],
            route=key[1],
            pointer=pointer,
            epoch=entry.epoch,
            live=hub.catalogue.view(live) if live else None,
            suspended=tenant.suspended,
            flags=tuple(flag for flag, on in flags.items() if on),
            preview=preview,
            replicas=tuple(self._replica(key, pointer, node, r, acks.get(r.replica)) for node, r in placed),
            flipped=progress.flipped,
            proven=progress.proven,
            listed=progress.listed,
            placed=progress.placed,
            attested=attested,
            settled=progress.settled,
            cause=self._cause(key, pointer, preview, placed),
            requests_per_s=round(recent.counts.requests / recent.seconds, 3),
            error_share=recent.counts.errors / recent.counts.requests if recent.counts.requests else None,
            bad_before=bad_before,
            bad_now=recent.counts.bad / recent.counts.checked if recent.counts.checked else None,
            bad_n=recent.counts.checked,
            ttft95_ms=recent.ttft95_ms,
            last_left_ms=last_left,
            left_answered=left_answered,
            gate=hub.facts.gate(key, live) if live else None,
            last_event=last,
            soak=(config.soak.seconds, config.soak.requests),
        )

    def _left(self, key: PointerKey, pointer: PointerState, left: str | None) -> tuple[int | None, int]:
        """(time of the last token, requests answered) of the release that the last move left, in its last stint."""
        if left is None:
            return None, 0
        counters = [
            c for c in self._hub.counts.counters(key) if c.release == left and c.generation < pointer.generation
        ]
        newest = max((c.generation for c in counters), default=0)
        stint = [c for c in counters if c.generation == newest]
        last = max((c.last_token_ms for c in stint), default=0)
        return last or None, sum(c.counts.requests for c in stint)

    def _replica(
        self, key: PointerKey, pointer: PointerState, node: Node, replica: Replica, ack: AckRecord | None
    ) -> ReplicaRow:
        hub = self._hub
        committed = hub.observer.committed.get(key)

        def after(at: float | None) -> float | None:
            return None if at is None or committed is None or at < committed else round((at - committed) * 1000, 3)

        late = None
        if ack is not None and ack.is_flipped and node.linked:
            late = hub.counts.late(key, pointer.generation, replica.replica, ack.flipped_node_ms)
        pin = next((p for p in node.pins if (p.tenant, p.route) == key), None)
        return ReplicaRow(
            node=node.name,
            replica=replica.replica,
            state=ack.state if ack else None,
            code=ack.code if ack else None,
            detail=ack.detail if ack else "",
            flipped_ms=after(ack.flipped) if ack else None,
            flipped_mono_ns=ack.flipped_mono_ns or None if ack else None,
            proven_ms=after(ack.proven) if ack else None,
            proof_age_s=round(hub.clock() - ack.checked, 3) if ack and ack.checked is not None else None,
            heard_age_s=_rounded(hub.fleet.heard_age(node)),
            linked=node.linked,
            admitted_left=late,
            pinned=pin.release.id if pin else None,
        )

    def _preview(self, key: PointerKey, pointer: PointerState) -> Preview:
        hub = self._hub
        target = self.target(key, pointer)
        skipped = tuple(
            Skipped(release=hub.catalogue.view(r), reason=why, liftable=liftable(r, pointer, hub.facts.of(key)))
            for r, why in target.skipped
        )
        goal = target.release
        if goal is None and target.action is PreviewAction.FALLBACK and pointer.release is not None:
            live = hub.catalogue.releases.get(pointer.release)
            goal = hub.catalogue.base_alone_id(key[0], live.base) if live else None
        near = self.readiness(key, goal) if goal else Near()
        seconds, requests = hub.observer.served(key, goal) if goal else (None, 0)
        return Preview(
            action=target.action,
            generation=pointer.generation,
            target=hub.view(key[0], goal) if goal else None,
            asks=target.asks,
            refused=target.refused,
            skipped=skipped,
            prepare=target.prepare,
            readiness=near.worst,
            ready=near.ready,
            placed=near.placed,
            estimate_ms=_rounded(hub.observer.estimate_ms(key)) if near.worst is Readiness.RESIDENT else None,
            behind=near.behind,
            wait_s=_rounded(readiness.wait(near.behind)),
            gap=hub.config(key).gap,
            served_s=_rounded(seconds),
            served_requests=requests,
            streams=sum(c.streams for c in hub.counts.counters(key) if c.release == pointer.release),
        )

    def readiness(self, key: PointerKey, release_id: str) -> Near:
        """How near a release is to serving, on every replica that a move to it would concern.

        These are the replicas of its base; and of the nodes that serve the pointer now, those without an engine
        of that base: the move would leave them behind.
        """
        hub = self._hub
        release = hub.catalogue.release(release_id, key[0])
        if release is None:
            return Near()
        wanted = readiness.Wanted(id=release.id, form=release.form, adapter=release.adapter)
        placed = hub.fleet.placed(hub.config(key).placement, release.served_base)
        with_engine = {node.name for node, _ in placed}
        behind: list[ReplicaReadiness] = []
        for node, replica in placed:
            unheard = node.lost or not node.linked
            how = Readiness.UNKNOWN if unheard else readiness.readiness(wanted, replica, node.stored)
            if how is not Readiness.RESIDENT:
                took = None if unheard else _rounded(readiness.seconds(wanted, replica, node.stored))
                behind.append(ReplicaReadiness(node=node.name, replica=replica.replica, readiness=how, seconds=took))
        without = {node.name: node for node, _ in hub.observer.placed(key) if node.name not in with_engine}
        for name, node in sorted(without.items()):
            how = Readiness.UNKNOWN if node.lost or not node.linked else Readiness.ABSENT
            behind.append(ReplicaReadiness(node=name, replica=name, readiness=how, engine=False))
        resident = len(placed) + len(without) - len(behind)
        found = [one.readiness for one in behind] + [Readiness.RESIDENT] * bool(resident)
        return Near(
            worst=readiness.worst(found),
            ready=resident,
            placed=len(placed) + len(without),
            behind=readiness.worst_first(behind),
        )

    def _cause(self, key: PointerKey, pointer: PointerState, preview: Preview, placed: Placed) -> Cause:
        hub, live = self._hub, pointer.release
        if live is None:
            return Cause()
        by_replica = hub.counts.live(key, pointer.generation, live)
        total = hub.observer.live(pointer)
        if total != hub.observer.counted(pointer):
            by_replica = {}  # what each replica counted since the lift is not known
        prior_id = preview.target.id if preview.target else next(iter(pointer.beneath), None)
        release = hub.catalogue.releases.get(live)
        base_id = hub.catalogue.base_alone_id(key[0], release.base) if release else None
        prior = _some(hub.observer.total(pointer, prior_id)) if prior_id and prior_id != live else None
        base = _some(hub.observer.total(pointer, base_id)) if base_id and base_id not in (live, prior_id) else None
        others = _some(hub.counts.others(key, (r.replica for _, r in placed), hub.clock()))
        fault = health.cause(total, prior, by_replica, others, base)
        return Cause(
            live=total,
            prior=prior,
            by_replica=by_replica,
            others=others,
            base=base,
            verdict=fault.verdict,
            figure=fault.figure,
        )

    # ---- nodes ---------------------------------------------------------------------------------------------

    def node(self, node: Node) -> NodeRow:
        catalogue = self._hub.catalogue
        return NodeRow(
            node=node.name,
            version=node.version,
            labels=node.labels,
            linked=node.linked,
            heard_age_s=_rounded(self._hub.fleet.heard_age(node)),
            lost=node.lost,
            cordoned=node.cordoned,
            drained=node.drained,
            behind=node.behind,
            replicas=tuple(
                NodeReplica(
                    replica=r.replica,
                    state=r.state,
                    base=r.base,
                    base_label=catalogue.base_label(r.base),
                    build=r.build.key if r.build else "",
                    slots=r.slots,
                    loaded=tuple(catalogue.view(release) for release in r.loaded),
                    gpus=r.gpus,
                    alarm=r.alarm,
                )
                for r in node.replicas
            ),
            host=node.host,
            gpus=node.gpus,
            nvml=node.nvml,
            pins=node.pins,
        )

    def nodes(self) -> tuple[NodeRow, ...]:
        return tuple(self.node(n) for _, n in sorted(self._hub.fleet.nodes.items()))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _some(health_: Counts) -> Counts | None:
    return health_ if health_.requests or health_.checked else None
