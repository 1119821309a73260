"""Both arms of a candidate: the keys that its callers are divided by, and the outcomes that routers report by bins."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import add

from loradeck.hub.progress.request_counts import LARGEST, RequestCounts, Stint
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality import arm_comparison, steps
from loradeck.rules.quality.arm_comparison import AT_95, NodeOutcomes, Outcomes, difference, units_of
from loradeck.rules.quality.health import seen
from loradeck.rules.serving.arms import PLACES
from loradeck.schemas.candidate import ArmsCompared, Candidate, Figure
from loradeck.schemas.counts import BINS, ArmOutcomes, Bin, Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState
from loradeck.schemas.table import CohortUnit

_NOTHING: Bin = (0, 0, 0, 0)


@dataclass(slots=True)
class _Said:
    """What one replica has said of one arm in one step: `last` in this life of its router, and `before`."""

    node: str
    boot: str
    step: int
    keys: int = 0
    last: dict[int, Bin] = field(default_factory=dict)
    before: dict[int, Bin] = field(default_factory=dict)

    def says(self, boot: str, said: ArmOutcomes, admitted: int) -> None:
        """Takes what the router says now, unless it cannot be."""
        if said.step < self.step:
            return
        bins, same = dict(said.bins), (boot, said.step) == (self.boot, self.step)
        if len(bins) < len(said.bins) or not 0 <= said.keys <= PLACES or sum(b[0] for b in bins.values()) > admitted:
            return
        last = self.last if same else {}
        if not all(0 <= at < BINS and _grows(last.get(at, _NOTHING), bins[at]) for at in bins) or last.keys() - bins:
            return
        before = {} if said.step > self.step else _sum(self.before, self.last) if boot != self.boot else self.before
        if any(units > LARGEST for units, *_ in before.values()):
            return
        if said.step > self.step:
            self.step, self.keys = said.step, 0
        self.before = before
        self.boot, self.last, self.keys = boot, bins, max(self.keys, said.keys)


def _grows(before: Bin, now: Bin) -> bool:
    units, failed, checked, bad = now
    adds_up = failed <= units <= LARGEST and bad <= checked <= units
    return adds_up and all(0 <= old <= new for old, new in zip(before, now, strict=True))


def _sum(one: dict[int, Bin], other: dict[int, Bin]) -> dict[int, Bin]:
    found = dict(one)
    for at, counts in other.items():
        a, b, c, d = map(add, found.get(at, _NOTHING), counts)
        found[at] = (a, b, c, d)
    return found


class ArmsSaid:
    """Outcomes by pointer, arm and replica. Only the newest generation of a pointer is kept."""

    def __init__(self) -> None:
        self._stints: dict[PointerKey, dict[Stint, dict[str, _Said]]] = {}

    def count(self, node: str, boot: str, row: Traffic) -> None:
        """Takes a row of a node's report that counts."""
        key, stint = (row.tenant, row.route), (row.generation, row.release)
        if any(generation < row.generation for generation, _ in self._stints.get(key, ())):
            del self._stints[key]
        if row.arm is None:
            return
        stints = self._stints.setdefault(key, {})
        said = stints.setdefault(stint, {}).setdefault(row.replica, _Said(node, boot, row.arm.step))
        said.says(boot, row.arm, min(row.admitted, LARGEST))

    def both(self, pointer: PointerState, out: Candidate) -> tuple[Outcomes, Outcomes]:
        """Returns what nodes have said of the candidate's arm and of the other one since the share was changed last."""
        candidate, live = (
            self._of(pointer.key, (out.generation, one or ""), out.step) for one in (out.release, pointer.release)
        )
        return candidate, live

    def is_by_key(self, pointer: PointerState, out: Candidate) -> bool:
        """Tells whether any router counts a candidate's arm by key, also if it has not since its share was changed."""
        return bool(self._stints.get(pointer.key, {}).get((out.generation, out.release)))

    def compared(self, pointer: PointerState, out: Candidate) -> tuple[ArmsCompared, ...]:
        """Both arms figure by figure, where both have something to count.

        The interval is the one that a plan steps by; without a plan, and in an A/B, it is that of 95 %.
        """
        candidate, live = self.both(pointer, out)
        plan, found = out.plan, list[ArmsCompared]()
        level = AT_95 if plan is None or out.comparison is not None else steps.level(plan)
        for figure in Figure:
            one = difference(units_of(candidate, figure), units_of(live, figure), level)
            if one is not None:
                found.append(arm_comparison.compared(figure, candidate, live, one))
        return tuple(found)

    def _of(self, key: PointerKey, stint: Stint, step: int) -> Outcomes:
        found: dict[str, NodeOutcomes] = {}
        for said in self._stints.get(key, {}).get(stint, {}).values():
            if said.step == step:
                total, known = _sum(said.before, said.last) if said.before else said.last, found.get(said.node)
                if known is not None:
                    total = _sum(dict(known.bins), total)
                found[said.node] = NodeOutcomes(max(known.keys if known is not None else 0, said.keys), total)
        return found


@dataclass(eq=False)
class Cohorts:
    """Counts keys and resolves the names of callers."""

    _state: FoldedLog
    _counts: RequestCounts

    def keys(self, key: PointerKey, candidate: Candidate, placed: Iterable[str] | None = None) -> int:
        """Counts the keys that a share is drawn from: the tenant's, or those that routers have seen since the start.

        `placed`: the nodes that the pointer is placed on, so that the number rests on no one node's word (`seen`);
        None: a person decides, and the most that any of them has seen counts.
        """
        if candidate.unit is CohortUnit.CALLER:
            return len(self._state.tenant(key[0]).keys)
        by_node = self._counts.keys(key, candidate.generation, candidate.release)
        return max(by_node.values(), default=0) if placed is None else seen(by_node, placed)

    def named(self, tenant: str, unit: CohortUnit, names: tuple[str, ...]) -> tuple[str, ...]:
        """The keys that routers compare: callers are named by the ids of their keys, and known by their digests.

        Raises: Refused `unknown_caller`.
        """
        if unit is not CohortUnit.CALLER:
            return names
        digests = {known.id: known.sha256 for known in self._state.tenant(tenant).keys}
        unknown = [name for name in names if name not in digests]
        if unknown:
            raise Refused(
                "unknown_caller",
                f"{tenant} has no caller's key {unknown[0]!r}",
                detail=f"it has: {', '.join(sorted(digests)) or 'none'}",
                fix="name callers by the ids of their keys",
            )
        return tuple(digests[name] for name in names)
