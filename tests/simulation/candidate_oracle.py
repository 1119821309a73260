"""What the oracle holds of candidates: who was given one, and that nothing but a start ever brings one out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loradeck.schemas.candidate import Candidate
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import MOVES, Event, EventKind
from loradeck.schemas.table import CandidateRef
from loradeck_agent.router.admission import Admitted


@dataclass(eq=False)
class CandidateOracle:
    """Checks commits and answers. It draws no share itself: it compares who was given a candidate, at which share.

    Args:
        fail: ends the run.
    """

    fail: Callable[..., None]
    committed: dict[tuple[PointerKey, int, int], list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    """(pointer, generation, step) -> the candidates that were committed so; copies of the database may differ."""
    given: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """Salt -> user -> the smallest share, in thousandths, at which the candidate answered."""
    passed: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """Salt -> user -> the largest share at which the live release answered, though the candidate could have."""

    def commit(self, event: Event) -> None:
        """An event was committed: only a start brings a candidate out, and every move ends it."""
        pointer = event.pointer
        if pointer is None or pointer.candidate is None:
            return
        out = pointer.candidate
        if event.kind in MOVES and event.kind is not EventKind.CANDIDATE_START:
            self.fail("a candidate outlived a move", event.tenant, event.kind.value, "gen", pointer.generation)
        if out.generation != pointer.generation:
            self.fail("a candidate of another generation", event.tenant, out.generation, "at gen", pointer.generation)
        by_itself = event.kind is EventKind.CANDIDATE_STEP and event.actor == "steps"
        if by_itself and (out.plan is None or out.plan.held or pointer.held or out.permille not in out.plan.steps):
            self.fail("a share was stepped against its plan or a hold", event.tenant, out.permille)
        self.committed[pointer.key, out.generation, out.step].append(out)

    def answered(self, router: Any, key: PointerKey, admitted: Admitted, user: str) -> bool:
        """A user was answered by a router. Returns whether by the candidate of the entry that it holds."""
        entry = router.table.contents.entries[key]
        split, row = entry.candidate, admitted.row
        if split is None or key in router.table.contents.pins:
            return False
        where = f"{row.replica} {'/'.join(key)} gen {row.generation} step {split.step}"
        known = self.committed[key, split.generation, split.step]
        if not any((o.salt, o.permille, o.shadow) == (split.salt, split.permille, split.shadow) for o in known):
            self.fail("a share that nobody committed", where, split.permille)
        if (row.release, row.generation) == (split.release.id, entry.generation):
            if split.shadow:
                self.fail("a shadow answered a caller", where, user)
            self._given(split, admitted, user, where)
            return True
        ready = any(replica.serves(split.release) for replica in router.replicas)
        if ready and not split.shadow and admitted.plan.exact and admitted.stale_s is None:
            self._passed(split, user, where)
        return False

    def _given(self, split: CandidateRef, admitted: Admitted, user: str, where: str) -> None:
        if admitted.stale_s is not None and admitted.stale_s >= split.lease_s:
            self.fail("answered by a candidate whose lease is over", where, f"{admitted.stale_s:.1f} s without a hub")
        if user in split.named:
            return
        if split.permille <= self.passed[split.salt].get(user, 0):
            self.fail("routers divide differently", where, user, "was given at", split.permille)
        known = self.given[split.salt].get(user, split.permille)
        self.given[split.salt][user] = min(known, split.permille)

    def _passed(self, split: CandidateRef, user: str, where: str) -> None:
        if user in split.named:
            self.fail("a named user was passed over", where, user)
        if split.permille >= self.given[split.salt].get(user, 1001):
            self.fail("a share took a user out", where, user, "at", split.permille)
        known = self.passed[split.salt].get(user, split.permille)
        self.passed[split.salt][user] = max(known, split.permille)
