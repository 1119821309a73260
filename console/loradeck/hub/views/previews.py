"""The preview of R on a pointer: where it goes, how ready that release is, and how long the move may take."""

from dataclasses import dataclass

from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.move_progress import MoveProgress
from loradeck.hub.progress.release_health import ReleaseHealth
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.hub.progress.target_lookup import RollbackTargets
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.rollback_target import liftable
from loradeck.rules.serving import readiness
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState
from loradeck.schemas.state import Preview, PreviewAction, Readiness, ReplicaReadiness, Skipped
from loradeck.schemas.table import RouteResidency


@dataclass(frozen=True, kw_only=True)
class Near:
    """The readiness of a release on a pointer.

    `worst` is its readiness where it is farthest, `ready` counts the placed replicas where it is resident, and `behind`
    lists the others.
    """

    worst: Readiness = Readiness.UNKNOWN
    ready: int = 0
    placed: int = 0
    behind: tuple[ReplicaReadiness, ...] = ()


@dataclass(eq=False, kw_only=True)
class Previews:
    """Builds previews from the rules' target and the state of the fleet."""

    state: FoldedLog
    catalogue: Catalogue
    facts: Facts
    fleet: Fleet
    replicas: PlacedReplicas
    health: ReleaseHealth
    counts: RequestCounts
    progress: MoveProgress
    targets: RollbackTargets

    def of(self, pointer: PointerState) -> Preview:
        """The preview of R on a pointer now."""
        key, catalogue, facts = pointer.key, self.catalogue, self.facts.of(pointer.key)
        target = self.targets.of(pointer)
        skipped = tuple(
            Skipped(release=catalogue.view(r), reason=why, liftable=liftable(r, pointer, facts))
            for r, why in target.skipped
        )
        goal = target.release
        if goal is None and target.action is PreviewAction.FALLBACK:
            goal = self.targets.base_alone(key[0], pointer.release)
        near = self._near(key, goal) if goal else Near()
        seconds, requests = self.health.served(key, goal) if goal else (None, 0)
        asks = target.asks
        if asks is None and target.action is PreviewAction.ROLLBACK:
            asks = readiness.cold_prior(self.state.config(key).residency, near.worst)
        return Preview(
            action=target.action,
            generation=pointer.generation,
            target=catalogue.view(goal, key[0]) if goal else None,
            asks=asks,
            refused=target.refused,
            skipped=skipped,
            prepare=target.prepare,
            readiness=near.worst,
            ready=near.ready,
            placed=near.placed,
            estimate_ms=rounded(self.progress.estimate_ms(key)) if near.worst is Readiness.RESIDENT else None,
            behind=near.behind,
            wait_s=rounded(readiness.wait(near.behind)),
            answer_s=rounded(readiness.wait(near.behind, self.counts.first_token_s)),
            gap=self.state.config(key).gap,
            served_s=rounded(seconds),
            served_requests=requests,
            streams=sum(c.streams for c in self.counts.counters(key) if c.release == pointer.release),
        )

    def cold_prior(self, key: PointerKey, release_id: str) -> str | None:
        """Why a move back to a release asks, as `readiness.cold_prior`."""
        residency = self.state.config(key).residency
        if residency is RouteResidency.ALWAYS:
            return None
        return readiness.cold_prior(residency, self._near(key, release_id).worst)

    def _near(self, key: PointerKey, release_id: str) -> Near:
        """The readiness of a release on every replica that a move to it would concern.

        These are the replicas of its base, and the nodes that serve the pointer now without an engine of that base:
        the move would leave them behind.
        """
        release = self.catalogue.release(release_id, key[0])
        if release is None:
            return Near()
        wanted = readiness.Wanted(id=release.id, form=release.form, adapter=release.adapter)
        placed = self.fleet.placed(self.state.site(key), release.served_base)
        with_engine = {node.name for node, _ in placed}
        behind: list[ReplicaReadiness] = []
        for node, replica in placed:
            unheard = node.lost or not node.linked or replica.replica in node.silent
            how = Readiness.UNKNOWN if unheard else readiness.readiness(wanted, replica, node.stored)
            if how is not Readiness.RESIDENT:
                took = None if unheard else rounded(readiness.seconds(wanted, replica, node.stored))
                behind.append(ReplicaReadiness(node=node.name, replica=replica.replica, readiness=how, seconds=took))
        without = {node.name: node for node, _ in self.replicas.serving(key) if node.name not in with_engine}
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


def rounded(value: float | None) -> float | None:
    """A figure with three decimals; None stays None."""
    return None if value is None else round(value, 3)
