"""Health of a live release: bad answers and errors, when it is breached, when it has soaked, and what is at fault."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from loradeck.rules.quality.statistics import Z95, wilson
from loradeck.schemas.counts import AskedAgain, Counts
from loradeck.schemas.route import BreachLimit, Soak

Units = tuple[int, int]
"""Units of requests that were bad, and all of them."""

ENOUGH = 50
"""Number of answers below which a share is not compared, over all replicas or on one."""


def total(units: Iterable[Units]) -> Units:
    """Adds up units."""
    bad, n = (sum(column) for column in zip((0, 0), *units, strict=True))
    return bad, n


def apart(worse: Units, better: Units, z: float = Z95) -> bool:
    """Tells whether the intervals of two shares lie apart, so that the first is above the second. `z`: their width."""
    return wilson(*worse, z=z)[0] > wilson(*better, z=z)[1]


def units_of(counts: Counts, figure: str) -> Units:
    """Returns the units that a figure speaks of: answers that are checked ('bad'), or requests admitted ('errors')."""
    return (counts.bad, counts.checked) if figure == "bad" else (counts.failed, counts.admitted)


@dataclass(frozen=True, kw_only=True)
class Breach:
    """A breached limit: `what` ('bad' or 'errors') has the share `share` (0 to 1) of `n` answers or requests.

    `node`: the one whose word alone it rests on, since the pointer is placed nowhere else; '' if several agree.
    """

    what: str
    share: float
    n: int
    node: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.share:.1%} of {self.n}" + (f", by {self.node} alone" if self.node else "")


def breached(health: Counts, limit: BreachLimit) -> Breach | None:
    """The limit that a release has passed; None if there is none, or too few answers or requests so far.

    `health` is counted from the move or the last lift of a quarantine on, over the whole generation and not a window.

    Bad answers are a share of those that were checked, errors of the requests that were admitted: what a router refused
    while an engine was away says nothing about the release, and must not hide that it fails all that it is asked.
    """
    for what, limit_share in (("bad", limit.bad), ("errors", limit.errors)):
        part, whole = units_of(health, what)
        if whole >= limit.n and part / whole > limit_share:
            return Breach(what=what, share=part / whole, n=whole)
    return None


class Judged(NamedTuple):
    """What the figures of several nodes say together.

    `breach` counts against the release. `alone`: the node by whose word a share is past its limit; '' if others agree.
    """

    breach: Breach | None = None
    alone: str = ""


def breach_by_node(total: Counts, by_node: Mapping[str, Counts], placed: Iterable[str], limit: BreachLimit) -> Judged:
    """Judges a release whose figures each node counts for itself, where one of them may be wrong or lie.

    They agree if the share is past its limit without any one of them, over enough answers. One node's word counts only
    for a pointer that is placed there alone.

    Args:
        total: what is held against the release, which may be less than all that the nodes have counted.
        placed: the nodes that the pointer is placed on.
    """
    breach = breached(total, limit)
    if breach is None:
        return Judged()
    enough = limit.model_copy(update={"n": min(limit.n, ENOUGH)})
    deciding = [name for name in by_node if breached((total - by_node[name]).clipped(), enough) is None]
    counted = {name: counts.bad + counts.failed for name, counts in by_node.items() if counts}
    return _agreed(breach, deciding, counted, placed)


def breach_of_votes(what: str, by_node: Mapping[str, Units], placed: Iterable[str], limit: float) -> Judged:
    """Judges a release against which there is evidence (`loradeck.rules.quality.detection`), as `breach_by_node` does.

    Args:
        by_node: node -> its bad units of the last minute, and all of them.
        limit: the share that the others' votes have to be above by their 95 % interval, whichever node is left out.
    """
    bad, n = total(by_node.values())
    deciding = [name for name, (k, m) in by_node.items() if wilson(bad - k, n - m)[0] <= limit]
    breach = Breach(what=what, share=bad / n if n else 0.0, n=n)
    return _agreed(breach, deciding, {name: k for name, (k, m) in by_node.items() if m}, placed)


def _agreed(breach: Breach, deciding: Sequence[str], counted: Mapping[str, int], placed: Iterable[str]) -> Judged:
    """Judges a breach that disappears when one of the `deciding` nodes is left out: it counts only where that node
    alone serves the pointer. `counted`: by node, how much is bad."""
    if not deciding:
        return Judged(breach)
    alone = max(deciding, key=lambda name: counted.get(name, 0))
    if {alone} == {*placed, *counted}:
        return Judged(replace(breach, node=alone), alone)
    return Judged(None, alone)


def seen(by_node: Mapping[str, int], placed: Iterable[str]) -> int:
    """Returns how many different callers or keys there were at least, which is the most that one node has seen.

    Where others serve the pointer too, the node that says the most is left out: no number rests on one node's word.

    `placed`: the nodes that the pointer is placed on.
    """
    counted = sorted(by_node.values())
    return max(counted if len({*placed, *by_node}) <= 1 else counted[:-1], default=0)


def since(counted: Counts, lifted: Counts) -> Counts:
    """Counts since a breach was lifted, at which time they stood at `lifted`; never below zero."""
    return (counted - lifted).clipped()


def soaked(seconds: float, requests: int, soak: Soak) -> bool:
    """Tells whether a release has served long enough on a pointer for R to go to it without asking."""
    return seconds >= soak.seconds and requests >= soak.requests


def newly_soaked(
    releases: Iterable[str], known: Container[str], soak: Soak, served: Callable[[str], tuple[float, int]]
) -> tuple[str, ...]:
    """Releases of one pointer that have soaked by its route's present setting and were not known to have.

    `served`: seconds and requests that a release has served there. A release that has soaked once stays so.
    """
    return tuple(r for r in dict.fromkeys(releases) if r not in known and soaked(*served(r), soak))


FIGURES = ("bad", "errors")


class AtFault(NamedTuple):
    """What is at fault for bad answers or errors.

    `verdict`: 'release', 'requests', 'node', 'base', 'fine', 'too_few' or 'unknown'. `figure`: 'bad' or 'errors', the
    counts it was decided by.
    """

    verdict: str
    figure: str


def cause(
    live: Counts,
    prior: Counts | None,
    by_replica: Mapping[str, Counts],
    others: Counts | None,
    base: Counts | None,
    again: AskedAgain | None = None,
) -> AtFault:
    """Finds out what is at fault for the answers of a live release, and by which figure.

    Compares the live release with its prior (while that was live), replica by replica, with other tenants on the same
    replicas and with the base alone; where neither the prior nor the base has enough answers, being worse than those
    other tenants is enough. Two shares differ only where their 95 % intervals do not overlap. A fault in bad
    answers comes before one in errors; without a fault, bad answers give the verdict if any answers were checked.

    `again`: what the prior made of the same requests since the move. Where it is as bad on them as the live release,
    and worse than it was in its time, what is asked has changed, and going back to it mends nothing.
    """
    verdicts = []
    for figure in FIGURES:
        replicas, before = [units_of(h, figure) for h in by_replica.values()], _usable(prior, figure)
        verdict = _verdict(units_of(live, figure), before, replicas, _usable(others, figure), _usable(base, figure))
        if verdict == "release" and _as_bad(again, before, of_bad=figure == "bad"):
            verdict = "requests"
        verdicts.append(verdict)
    faulty = ("release", "requests", "node", "base")
    faults = [AtFault(v, f) for v, f in zip(verdicts, FIGURES, strict=True) if v in faulty]
    if faults:
        return faults[0]
    return AtFault(verdicts[0], "bad") if live.checked else AtFault(verdicts[1], "errors")


def _as_bad(again: AskedAgain | None, before: Units | None, *, of_bad: bool) -> bool:
    """Tells whether the prior is as bad on the same requests as the live release, and worse than it was before."""
    if again is None or before is None:
        return False
    pairs, n = (again.bad, again.checked) if of_bad else (again.failed, again.pairs)
    live, beneath = ((k, n) for k in pairs)
    return n >= ENOUGH and not apart(live, beneath) and apart(beneath, before)


def _usable(health: Counts | None, figure: str) -> Units | None:
    units = units_of(health, figure) if health is not None else (0, 0)
    return units if units[1] >= ENOUGH else None


def _verdict(
    live: Units, prior: Units | None, replicas: Sequence[Units], others: Units | None, base: Units | None
) -> str:
    if live[1] < ENOUGH:
        return "too_few"
    reference = prior if prior is not None else base
    if reference is None and (others is None or not apart(live, others)):
        return "unknown"  # as bad as the neighbours: nothing says whether that is as it should be
    if reference is not None and not apart(live, reference):
        return "fine"
    usable = [r for r in replicas if r[1] >= ENOUGH]
    if any(apart(replica, _rest(usable, i)) for i, replica in enumerate(usable) if len(usable) > 1):
        return "node"
    if others is not None and not apart(live, others):
        # The neighbours are as bad, so it is something they share. If it is equal on several replicas, or the base
        # alone is as bad, it is the base. On one replica, only that comparison distinguishes base and node.
        return "base" if len(usable) > 1 or (base is not None and not apart(live, base)) else "node"
    return "release"


def shared_cause(by_replica: Mapping[str, Counts], figure: str) -> str:
    """Says what a release's neighbours share with it where they are as bad: a replica that stands out, or their base.

    `figure`: 'bad' or 'errors'. On one replica nothing tells the two apart.
    """
    if (name := standing_out(by_replica, figure)) is not None:
        return f"the replica {name}"
    return "their base" if len(_usable_of(by_replica, figure)) > 1 else "their node or their base"


def standing_out(by_replica: Mapping[str, Counts], figure: str) -> str | None:
    """Returns the replica that does worse than all others together; None: none does, or too little is known."""
    shares = _usable_of(by_replica, figure)
    for i, name in enumerate(shares):
        if len(shares) > 1 and apart(shares[name], _rest(list(shares.values()), i)):
            return name
    return None


def _usable_of(by_replica: Mapping[str, Counts], figure: str) -> dict[str, Units]:
    return {name: units for name, counts in by_replica.items() if (units := _usable(counts, figure)) is not None}


def _rest(replicas: Sequence[Units], i: int) -> Units:
    return total(r for j, r in enumerate(replicas) if j != i)
