"""Attests what this hub sees of releases on pointers: attested, soaked and breached.

Each is written as soon as it is seen, and believed only once it is durable.
"""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.background import Background
from loradeck.hub.progress.release_health import ReleaseHealth
from loradeck.hub.progress.replica_counts import Progress
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality import health
from loradeck.rules.serving import proof
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.progress.release_attestations")

Name = tuple[str, PointerKey, str, int]
"""(kind, pointer, release, generation) of an attestation."""

BATCH = 250
"""Attestations of one transaction."""


@dataclass(eq=False)
class ReleaseAttestations:
    """Which pointers are still to be attested or soaked, and the attestations on their way to the store."""

    _state: FoldedLog
    _health: ReleaseHealth
    _attestations: Attestations
    _background: Background
    unattested: set[PointerKey] = field(default_factory=set, init=False)
    """Pointers whose current generation is not attested yet."""
    _unsoaked: set[PointerKey] = field(default_factory=set, init=False)
    _soak_beneath: set[PointerKey] = field(default_factory=set, init=False)
    """Pointers whose soak setting is still to be applied to the releases beneath: it is new, or the hub is."""
    _by_one_node: set[PointerKey] = field(default_factory=set, init=False)
    """Pointers whose release is past a limit by the word of one node, while others serve it too."""
    _writing: set[Name] = field(default_factory=set, init=False)
    _seen: list[tuple[Attestation, Name]] = field(default_factory=list, init=False)

    def load(self) -> None:
        """Begins with all pointers as the log has them."""
        for key, pointer in self._state.pointers.items():
            self.moved(pointer)
            self._soak_beneath.add(key)

    def moved(self, pointer: PointerState) -> None:
        """Begins anew for a pointer that has moved."""
        key, facts = pointer.key, self._attestations.facts
        self.unattested.discard(key)
        self._unsoaked.discard(key)
        if pointer.release is None:
            return
        if facts.attested_generation(key, pointer.generation) is None:
            self.unattested.add(key)
        if not facts.is_soaked(key, pointer.release):
            self._unsoaked.add(key)

    # ---- what is seen --------------------------------------------------------------------------------------

    def check(self, key: PointerKey, progress: Progress) -> None:
        """Attests a pointer's release, or that it has soaked, where that has come true."""
        if key in self.unattested:
            pointer, seen = self._state.pointers[key], self._attestable(key, progress)
            if pointer.release is not None and seen is not None:
                level = "listed" if progress.listed else "proven"
                body = {"generation": pointer.generation, "n": seen[0], "m": seen[1], "level": level}
                self._write(AttestationKind.ATTESTED, pointer, pointer.release, body)
        if key in self._unsoaked:
            self._maybe_soak_live(key)

    def is_due(self, key: PointerKey, progress: Progress) -> bool:
        """Tells whether a release is proven or listed on enough replicas, and the attestation is not durable yet."""
        return key in self.unattested and self._attestable(key, progress) is not None

    def _attestable(self, key: PointerKey, progress: Progress) -> tuple[int, int] | None:
        return proof.attested(
            placed=progress.placed,
            reachable=progress.reachable,
            checked=progress.proven + progress.listed,
            min_replicas=self._state.config(key).min_replicas,
        )

    def traffic(self, key: PointerKey) -> None:
        """Attests a breach, or that the release has soaked, after the counters of a pointer grew."""
        pointer = self._state.pointers.get(key)
        if pointer is None or pointer.release is None:
            return
        if key not in self._by_one_node:
            self._maybe_breached(key)
        if key in self._unsoaked:
            self._maybe_soak_live(key)

    def _maybe_breached(self, key: PointerKey) -> None:
        """Attests a breach. Where one node alone speaks of it, it is looked at again with the next tick."""
        pointer = self._state.pointers[key]
        self._by_one_node.discard(key)
        if pointer.release is None or self._attestations.facts.is_breached(pointer, pointer.release):
            return
        breach, alone = self._health.judged(pointer)
        if breach is not None:
            self._write(AttestationKind.BREACHED, pointer, pointer.release, asdict(breach))
        elif alone:
            self._by_one_node.add(key)

    def settings_changed(self, key: PointerKey) -> None:
        """Applies a route's new settings to the releases beneath: they may have soaked by these."""
        if key in self._state.pointers:
            self._soak_beneath.add(key)
            self._maybe_soak_beneath(key)

    def tick(self) -> None:
        """Attests what has soaked by time alone; called once a second."""
        for key in list(self._unsoaked):
            self._maybe_soak_live(key)
        for key in list(self._soak_beneath):
            self._maybe_soak_beneath(key)
        for key in list(self._by_one_node):
            self._maybe_breached(key)

    def _maybe_soak_live(self, key: PointerKey) -> None:
        pointer = self._state.pointers.get(key)
        if pointer is not None and pointer.release is not None:
            self._maybe_soak(pointer, (pointer.release,))

    def _maybe_soak_beneath(self, key: PointerKey) -> None:
        pointer = self._state.pointers[key]
        if not self._maybe_soak(pointer, pointer.beneath):
            self._soak_beneath.discard(key)

    def _maybe_soak(self, pointer: PointerState, releases: Iterable[str]) -> bool:
        """Attests those of a pointer's releases that have soaked since. Returns whether there are any."""
        key = pointer.key
        known, soak = self._attestations.facts.soaked(key), self._state.config(key).soak
        new = health.newly_soaked(releases, known, soak, lambda release: self._health.served(key, release))
        for release in new:
            seconds, requests = self._health.served(key, release)
            self._write(AttestationKind.SOAKED, pointer, release, {"seconds": round(seconds, 3), "requests": requests})
        return bool(new)

    # ---- writing -------------------------------------------------------------------------------------------

    def _write(self, kind: AttestationKind, pointer: PointerState, release: str, body: dict[str, Any]) -> None:
        name = (kind.value, pointer.key, release, pointer.generation)
        if name in self._writing:
            return
        self._writing.add(name)
        tenant, route = pointer.key
        attestation = self._attestations.draft(kind, release, tenant, body, "hub", route)
        if not self._seen:
            self._background.spawn(self._write_all())
        self._seen.append((attestation, name))

    async def _write_all(self) -> None:
        """Writes many at once: a fleet that is proven all at once must not keep moves waiting."""
        while self._seen:
            batch = self._seen[:BATCH]
            try:
                await self._attestations.add_all([attestation for attestation, _ in batch], background=True)
            except StoreError as error:  # each is seen again with the next tick
                log.error("attestations not written n=%d code=%s %s", len(batch), error.code, error)
                self._seen.clear()
                self._writing.clear()
                return
            del self._seen[: len(batch)]
            self._writing.difference_update(name for _, name in batch)

    def written(self, key: PointerKey, attestation: Attestation) -> None:
        """Handles an attestation on a pointer that has become durable."""
        pointer = self._state.pointers.get(key)
        if pointer is None:
            return
        generation = attestation.body.get("generation")
        if attestation.kind is AttestationKind.ATTESTED and pointer.generation == generation:
            self.unattested.discard(key)
        if attestation.kind is AttestationKind.SOAKED and pointer.release == attestation.subject:
            self._unsoaked.discard(key)
