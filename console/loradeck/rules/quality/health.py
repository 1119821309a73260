"""Health of a live release: bad answers and errors, when it is breached, when it has soaked, and what is at fault."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from loradeck.rules.quality.statistics import Z95, wilson
from loradeck.schemas.counts import AskedAgain, Counts
from loradeck.schemas.route import Soak

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


class Judged(NamedTuple):
    """What the figures of several nodes say together.

    `breach` counts against the release. `alone`: the node by whose word a share is past its limit; '' if others agree.
    """

    breach: Breach | None = None
    alone: str = ""


def breach_of_votes(what: str, by_node: Mapping[str, Units], placed: Iterable[str], limit: float) -> Judged:
    """Judges a release against which there is evidence (`loradeck.rules.quality.detection`), by what each node says.

    They agree if the share is past its limit without any one of them. One node's word counts only for a pointer that is
    placed there alone.

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
"""The figures by which guard rolls a release back."""

OVERDUE = "overdue"
"""The figure of answers that take much longer than those of their route do; it flags a release and moves nothing."""


def figure_counts(figure: str, units: Units | None) -> Counts | None:
    """Writes the units of one figure as counts, which have nothing else in them; None: there are no units."""
    if units is None:
        return None
    bad, n = units
    return Counts.over(finished=n, checked=n, bad=bad) if figure == "bad" else Counts.over(failed=bad, finished=n - bad)


def beneath_counts(pairs: AskedAgain) -> Counts:
    """Counts what the release beneath has made of the requests that it was asked again."""
    failed = min(pairs.failed[1], pairs.pairs)
    finished = pairs.pairs - failed
    checked = min(pairs.checked, finished)
    return Counts.over(failed=failed, finished=finished, checked=checked, bad=min(pairs.bad[1], checked))


def unflagged(live: Counts) -> str:
    """Says of a release that is not flagged whether it is 'fine', or has 'too_few' answers to tell."""
    return "fine" if max(live.checked, live.admitted) >= ENOUGH else "too_few"


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


def _usable(counts: Counts, figure: str) -> Units | None:
    units = units_of(counts, figure)
    return units if units[1] >= ENOUGH else None


def _usable_of(by_replica: Mapping[str, Counts], figure: str) -> dict[str, Units]:
    return {name: units for name, counts in by_replica.items() if (units := _usable(counts, figure)) is not None}


def _rest(replicas: Sequence[Units], i: int) -> Units:
    return total(r for j, r in enumerate(replicas) if j != i)
