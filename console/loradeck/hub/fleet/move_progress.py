"""What is seen of moves after their commit: flipped, proven, attested, soaked, breached; and who waits for it.

What rules need for ever is written as an attestation as soon as it is seen, and believed only once it is
durable.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from loradeck.hub.fleet.nodes import AckRecord, Group, Node
from loradeck.hub.fleet.replica_counts import Progress, Tally, share
from loradeck.rules.moves.target import lifted_of
from loradeck.rules.quality import health
from loradeck.rules.serving import proof
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import LINK_TTL_S, Ack, Replica
from loradeck.schemas.log import Event, PointerState
from loradeck.store.interface import StoreError

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub

log = logging.getLogger("loradeck.hub.fleet.move_progress")


Fence = tuple[int, int]
Name = tuple[str, PointerKey, str, int]
"""(kind, pointer, release, generation) of something seen"""

BATCH = 250
"""Attestations of one transaction."""

LEVELS = ("committed", "flipped", "proven")

TOGETHER_S = 0.02
"""Nodes that link, leave or are lost within this time are looked at together."""

_Valid = tuple[Group, int, Fence, int]
"""What a tally was counted of: placed replicas and their version, the pointer's fence, acknowledgements taken back."""


class Wait:
    """Pointers that somebody waits for to reach a level, or to be beyond hope of it."""

    def __init__(self, level: str, fences: dict[PointerKey, Fence]) -> None:
        self.level = level
        self.fences = fences
        self.open: set[PointerKey] = set(fences)
        self.done = asyncio.Event()


class Observer:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.committed: dict[PointerKey, float] = {}
        """When the current generation was committed, if in this life of the hub; monotonic seconds."""
        self.bad_before: dict[PointerKey, float | None] = {}
        self._measured: dict[PointerKey, Fence] = {}
        """The newest move of each pointer whose flip was timed."""
        self._flips: deque[float] = deque(maxlen=50)
        self._flips_of: dict[PointerKey, deque[float]] = defaultdict(lambda: deque(maxlen=10))
        self._unattested: set[PointerKey] = set()
        self._unsoaked: set[PointerKey] = set()
        self._soak_beneath: set[PointerKey] = set()
        """Pointers whose soak setting is still to be held against the releases beneath: it is new, or the hub is."""
        self._writing: set[Name] = set()
        self._seen: list[tuple[Attestation, Name]] = []
        self._waits: dict[PointerKey, set[Wait]] = defaultdict(set)
        self._tallies: dict[PointerKey, tuple[_Valid, Tally]] = {}
        self._again: dict[PointerKey, None] = {}
        self._acknowledged: dict[PointerKey, None] = {}

    # ---- the pointer's state over its replicas -------------------------------------------------------------

    def placed(self, key: PointerKey) -> tuple[tuple[Node, Replica], ...]:
        """Replicas the current release of a pointer is placed on, unreachable ones too; and those it left behind."""
        hub, entry = self._hub, self._hub.steer.entries.get(key)
        if entry is None or entry.current is None:
            return ()
        placement, base = hub.config(key).placement, entry.current.release.served_base
        return (*hub.fleet.placed(placement, base), *hub.fleet.left_behind(key, entry.fence, placement, base))

    def acks(self, key: PointerKey) -> dict[str, AckRecord]:
        entry = self._hub.steer.entries.get(key)
        return self._hub.fleet.acks(key, entry.fence) if entry else {}

    def progress(self, key: PointerKey) -> Progress:
        return self._tally(key).progress()

    def _tally(self, key: PointerKey) -> Tally:
        """The counts of a pointer: kept, as long as nothing but acknowledgements has changed since."""
        kept = self._kept(key)
        if kept is not None:
            return kept
        counted = Tally(self.placed(key), self.acks(key))
        valid = self._valid(key)
        if valid is not None:
            self._tallies[key] = (valid, counted)
        return counted

    def _kept(self, key: PointerKey) -> Tally | None:
        kept = self._tallies.get(key)
        return kept[1] if kept is not None and kept[0] == self._valid(key) else None

    def _valid(self, key: PointerKey) -> _Valid | None:
        """What a count taken now holds for; None where it cannot be kept: who is left behind on another base
        depends on what is acknowledged."""
        entry, fleet = self._hub.steer.entries.get(key), self._hub.fleet
        if entry is None or entry.current is None:
            return None
        base = entry.current.release.served_base
        if not fleet.one_base(base):
            return None
        group = fleet.group(self._hub.config(key).placement, base)
        return group, group.version, entry.fence, fleet.voids

    def estimate_ms(self, key: PointerKey) -> float | None:
        """Median of the last flips, of this pointer or else of any; None: none was measured yet."""
        flips = self._flips_of.get(key) or self._flips
        return statistics.median(flips) if flips else None

    # ---- what happened -------------------------------------------------------------------------------------

    def acknowledged(self, ack: Ack) -> None:
        """Count a replica's acknowledgement. One of another generation than the newest changes nothing."""
        key, fleet = (ack.tenant, ack.route), self._hub.fleet
        entry = self._hub.steer.entries.get(key)
        if entry is None:
            return
        node = fleet.nodes.get(fleet.node_of(ack.replica) or "")
        assert node is not None, "a link takes acknowledgements of its own node's replicas only"
        tally = self._kept(key)
        before = share(node, fleet.ack_of(key, ack.replica, entry.fence))
        record = fleet.ack(ack, entry.fence, entry.current.id if entry.current else None)
        if record is None:
            return
        if tally is None and self._valid(key) is not None:
            # Nodes are coming or going: all of it is counted over, and once for many of them.
            self.look_again((key,))
            self._hub.feeds.now((key,))
            return
        if tally is not None and self._tallies[key][0][0].holds(node, ack.replica):
            tally.change(node, before, record)
        self.check_soon(key)

    def check_soon(self, key: PointerKey) -> None:
        """Check a pointer at the end of this turn of the event loop, once for all that is acknowledged in it."""
        if not self._acknowledged:
            asyncio.get_running_loop().call_soon(self._check_acknowledged)
        self._acknowledged[key] = None

    def _check_acknowledged(self) -> None:
        keys, self._acknowledged = self._acknowledged, {}
        for key in keys:
            self.check(key)
        self._hub.feeds.now(keys)

    def look_again(self, keys: Iterable[PointerKey]) -> None:
        """Something changed about a node: its pointers are checked soon, once for all nodes that change together."""
        if not self._again:
            asyncio.get_running_loop().call_later(TOGETHER_S, self._look_again)
        self._again.update(dict.fromkeys(keys))

    def _look_again(self) -> None:
        keys, self._again = self._again, {}
        for key in keys:
            self.check(key)

    def load(self) -> None:
        """Pointers whose newest generation is still to be attested or soaked."""
        for key, pointer in self._hub.ledger.pointers.items():
            self._watch(key, pointer)
            self._soak_beneath.add(key)

    def _watch(self, key: PointerKey, pointer: PointerState) -> None:
        facts = self._hub.facts
        if pointer.release is None:
            return
        if facts.attested_generation(key, pointer.generation) is None:
            self._unattested.add(key)
        if not facts.is_soaked(key, pointer.release):
            self._unsoaked.add(key)

    def moved(self, key: PointerKey, before: PointerState | None, event: Event) -> None:
        """A move was committed and folded; `before` is the pointer as it was."""
        hub, pointer = self._hub, event.pointer
        assert pointer is not None
        self.committed[key] = hub.fleet.clock()
        left = before.release if before else None
        self.bad_before[key] = None
        if before is not None and left is not None:
            recent = hub.counts.recent(key, before.generation, left, hub.fleet.clock()).counts
            counts = recent if recent.checked else self.total(before, left)
            self.bad_before[key] = counts.bad / counts.checked if counts.checked else None
            hub.counts.left(key, left, (event.at_ms - (before.moved_ms or event.at_ms)) / 1000, before.generation)
        self._unattested.discard(key)
        self._unsoaked.discard(key)
        self._watch(key, pointer)
        self.check(key)

    def check(self, key: PointerKey) -> None:
        """Something about a pointer's replicas changed: write what was seen, wake who waits."""
        entry = self._hub.steer.entries.get(key)
        if entry is None:
            return
        progress = self.progress(key)
        committed = self.committed.get(key)
        if progress.flipped_at is not None and committed is not None and self._measured.get(key) != entry.fence:
            self._measured[key] = entry.fence
            if progress.flipped_at >= committed:
                took = progress.flipped_at - committed
                self._hub.metrics.flipped.observe(took)
                if took < LINK_TTL_S:  # what waited for a lost node tells nothing of the next flip
                    self._flips.append(took * 1000)
                    self._flips_of[key].append(took * 1000)
        if key in self._unattested:
            self._maybe_attest(key, progress)
        if key in self._unsoaked:
            self._maybe_soak_live(key)
        for wait in list(self._waits.get(key, ())):
            self._look(wait, key, progress)

    def _maybe_attest(self, key: PointerKey, progress: Progress) -> None:
        pointer, seen = self._hub.ledger.pointers[key], self._attestable(key, progress)
        if pointer.release is not None and seen is not None:
            level = "listed" if progress.listed else "proven"
            body = {"generation": pointer.generation, "n": seen[0], "m": seen[1], "level": level}
            self._write(AttestationKind.ATTESTED, key, pointer.release, pointer.generation, body)

    def _attestable(self, key: PointerKey, progress: Progress) -> tuple[int, int] | None:
        return proof.attested(
            placed=progress.placed,
            reachable=progress.reachable,
            proven=progress.proven + progress.listed,
            min_replicas=self._hub.config(key).min_replicas,
        )

    def traffic(self, key: PointerKey) -> None:
        """Counters of a pointer grew: is its current release breached, or soaked?"""
        pointer = self._hub.ledger.pointers.get(key)
        if pointer is None or pointer.release is None:
            return
        if not self._hub.facts.is_breached(pointer, pointer.release):
            live = self.live(pointer)
            limit = self._hub.config(key).breach
            breach = health.breached(live, limit)
            if breach is not None:
                body = {"what": breach.what, "share": breach.share, "n": breach.n}
                self._write(AttestationKind.BREACHED, key, pointer.release, pointer.generation, body)
        if key in self._unsoaked:
            self._maybe_soak_live(key)

    def counted(self, pointer: PointerState) -> Counts:
        """All answers of the current release in this generation."""
        assert pointer.release is not None
        return self._hub.counts.live_total(pointer.key, pointer.generation, pointer.release)

    def live(self, pointer: PointerState) -> Counts:
        """Those of them that are held against it: none from before its breach was lifted."""
        assert pointer.release is not None
        lifted = lifted_of(pointer.release, pointer)
        counted = self.counted(pointer)
        here = lifted is not None and lifted.generation == pointer.generation
        return health.since(counted, lifted.live) if lifted is not None and here else counted

    def counted_total(self, key: PointerKey, release: str) -> Counts:
        """All that a release has answered on a pointer, in all the time it was current."""
        return self._hub.counts.total(key, release).counts

    def total(self, pointer: PointerState, release: str) -> Counts:
        """All that a release has answered on a pointer, as far as it is held against it."""
        counted, lifted = self.counted_total(pointer.key, release), lifted_of(release, pointer)
        return health.since(counted, lifted.total) if lifted is not None else counted

    def served(self, key: PointerKey, release: str) -> tuple[float, int]:
        """Seconds and requests that a release has served on a pointer, its current stint included."""
        pointer = self._hub.ledger.pointers.get(key)
        total = self._hub.counts.total(key, release)
        seconds, requests = total.seconds, total.counts.requests
        if pointer is not None and pointer.release == release:
            seconds += max(0, self._hub.now_ms() - (pointer.moved_ms or self._hub.now_ms())) / 1000
            # Totals miss what was answered while the hub was away; the routers' own counters do not.
            requests = max(requests, self.counted(pointer).requests)
        return seconds, requests

    def settings_changed(self, key: PointerKey) -> None:
        """A route's settings were set anew: releases beneath may have soaked by them, though they serve no longer."""
        if key in self._hub.ledger.pointers:
            self._soak_beneath.add(key)
            self._maybe_soak_beneath(key)

    def _maybe_soak_live(self, key: PointerKey) -> None:
        pointer = self._hub.ledger.pointers.get(key)
        if pointer is not None and pointer.release is not None:
            self._maybe_soak(key, pointer, (pointer.release,))

    def _maybe_soak_beneath(self, key: PointerKey) -> None:
        pointer = self._hub.ledger.pointers[key]
        if not self._maybe_soak(key, pointer, pointer.beneath):
            self._soak_beneath.discard(key)

    def _maybe_soak(self, key: PointerKey, pointer: PointerState, releases: Iterable[str]) -> bool:
        """Writes down which of a pointer's releases have soaked and were not known to have; whether there are any."""
        known, soak = self._hub.facts.soaked(key), self._hub.config(key).soak
        new = health.newly_soaked(releases, known, soak, lambda release: self.served(key, release))
        for release in new:
            seconds, requests = self.served(key, release)
            body = {"seconds": round(seconds, 3), "requests": requests}
            self._write(AttestationKind.SOAKED, key, release, pointer.generation, body)
        return bool(new)

    def tick(self) -> None:
        """Once a second: what comes true by time alone."""
        for key in list(self._unattested):
            self.check(key)
        for key in list(self._unsoaked):
            self._maybe_soak_live(key)
        for key in list(self._soak_beneath):
            self._maybe_soak_beneath(key)
        for key in [k for k in self._waits if k not in self._unattested]:
            self.check(key)

    # ---- writing it down -----------------------------------------------------------------------------------

    def _write(
        self, kind: AttestationKind, key: PointerKey, release: str, generation: int, body: dict[str, Any]
    ) -> None:
        name = (kind.value, key, release, generation)
        if name in self._writing:
            return
        self._writing.add(name)
        attestation = Attestation(
            kind=kind, subject=release, tenant=key[0], route=key[1], body=body, by="hub", at_ms=self._hub.now_ms()
        )
        if not self._seen:
            self._hub.spawn(self._write_down())
        self._seen.append((attestation, name))

    async def _write_down(self) -> None:
        """Writes what was seen, many at once: a fleet that is proven all at once must not keep moves waiting."""
        while self._seen:
            batch = self._seen[:BATCH]
            try:
                await self._hub.attest_seen([attestation for attestation, _ in batch])
            except StoreError as error:  # it is seen again with the next tick
                log.error("attestations not written n=%d code=%s %s", len(batch), error.code, error)
                self._seen.clear()
                self._writing.clear()
                return
            del self._seen[: len(batch)]
            for attestation, name in batch:
                self._writing.discard(name)
                self._written(attestation, name)

    def _written(self, attestation: Attestation, name: Name) -> None:
        _, key, release, generation = name
        pointer = self._hub.ledger.pointers.get(key)
        if attestation.kind is AttestationKind.ATTESTED and pointer and pointer.generation == generation:
            self._unattested.discard(key)
        if attestation.kind is AttestationKind.SOAKED and pointer and pointer.release == release:
            self._unsoaked.discard(key)
        self.check(key)

    # ---- waiting -------------------------------------------------------------------------------------------

    async def wait(self, level: str, fences: dict[PointerKey, Fence], timeout: float) -> None:
        """Until every pointer has reached a level, cannot (lost or failed replicas), or has moved on."""
        if level == "committed" or timeout <= 0:
            return
        wait = Wait(level, fences)
        for key in fences:
            self._waits[key].add(wait)
        try:
            for key in fences:
                self._look(wait, key, self.progress(key))
            async with asyncio.timeout(timeout):
                await wait.done.wait()
        except TimeoutError:
            pass  # the answer says how far it got
        finally:
            for key in fences:
                self._waits[key].discard(wait)
                if not self._waits[key]:
                    del self._waits[key]

    def _look(self, wait: Wait, key: PointerKey, progress: Progress) -> None:
        entry = self._hub.steer.entries.get(key)
        gone = entry is None or entry.fence != wait.fences[key]
        # Who has seen 'proven' may move on: by then the attestation, on which the next way back depends, is durable.
        writing = key in self._unattested and self._attestable(key, progress) is not None and not gone
        there = progress.at(wait.level) or progress.hopeless(wait.level)
        if gone or (there and not (wait.level == "proven" and writing)):
            wait.open.discard(key)
        if not wait.open:
            wait.done.set()

    def reached(self, fences: Iterable[tuple[PointerKey, Fence]]) -> tuple[str, float | None, float | None]:
        """(level that all have reached, ms from commit to the last flip, ms to the last proof)."""
        level, flipped_ms, proven_ms = len(LEVELS) - 1, 0.0, 0.0
        for key, fence in fences:
            entry = self._hub.steer.entries.get(key)
            progress = self.progress(key)
            if entry is None or entry.fence != fence or not progress.all_flipped:
                level = 0
                continue
            committed = self.committed.get(key)
            if not progress.all_proven:
                level = min(level, 1)
            if committed is not None:
                flipped_ms = max(flipped_ms, ((progress.flipped_at or committed) - committed) * 1000)
                proven_ms = max(proven_ms, ((progress.proven_at or committed) - committed) * 1000)
        return LEVELS[level], flipped_ms if level >= 1 else None, proven_ms if level >= 2 else None
