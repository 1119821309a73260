"""A node that answers badly for everybody on it, while other nodes answer well with the same releases.

A node speaks of its own answers, so that by what one says nobody but itself can be taken out. That it is the node, and
not a release or a base, is the word of others: for each release of two nodes at least, over releases of two tenants at
least. How much a node answers is its own word too, so that one that answers much counts no more than another.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from loradeck.rules.quality.guard import CONFIDENCE_Z, apart, share, total
from loradeck.rules.quality.health import ENOUGH, Units
from loradeck.rules.quality.statistics import Z95, wilson

FEWEST_TENANTS = 2
"""Tenants whose live releases do worse on a node than elsewhere, below which it is no fault of the node."""

FEWEST_WITNESSES = 2
"""Other nodes that answer better with a release, below which one node's word would stand against another's."""


class Served(NamedTuple):
    """The units of a pointer's live release in the last minute: on the suspected node, and on each other one.

    `limit`: the share above which guard rolls a release of that route back.
    """

    tenant: str
    here: Units
    elsewhere: Mapping[str, Units]
    limit: float

    def witnesses(self) -> set[str]:
        """The other nodes that have enough answers and do better, each by its own (95 % intervals)."""
        return {node for node, units in self.elsewhere.items() if units[1] >= ENOUGH and apart(self.here, units, Z95)}


class NodeEvidence(NamedTuple):
    """What speaks against a node. `figure`: 'bad' or 'errors'. `pointers`: those that do worse there than elsewhere."""

    figure: str
    pointers: int
    tenants: int
    witnesses: int
    here: Units
    elsewhere: Units

    def __str__(self) -> str:
        """Writes it as it stands in the log: `bad 40.0% of 300 there for 3 tenants, 1.0% of 900 on 2 other nodes`."""
        return (
            f"{self.figure} {share(self.here)} there for {self.tenants} tenants, "
            f"{share(self.elsewhere)} on {self.witnesses} other nodes"
        )


def at_fault(figure: str, served: Iterable[Served]) -> NodeEvidence | None:
    """Tells whether a node answers badly for everybody on it; None: it does not, or too little is known.

    Pointers with fewer than `ENOUGH` units on either side say nothing. One that does no worse there than elsewhere says
    that it is not the node. One that does speaks against the node where it is above its limit there, by the lower 95 %
    bound, and has `FEWEST_WITNESSES`.
    """
    found, witnesses = list[Served](), set[str]()
    for one in served:
        others = total(one.elsewhere.values())
        if min(one.here[1], others[1]) < ENOUGH:
            continue
        if not apart(one.here, others, CONFIDENCE_Z):
            return None
        if len(better := one.witnesses()) >= FEWEST_WITNESSES and wilson(*one.here)[0] > one.limit:
            found.append(one)
            witnesses |= better
    tenants = {one.tenant for one in found}
    if len(tenants) < FEWEST_TENANTS:
        return None
    here = total(one.here for one in found)
    elsewhere = total(units for one in found for node, units in one.elsewhere.items() if node in witnesses)
    return NodeEvidence(figure, len(found), len(tenants), len(witnesses), here, elsewhere)


def why_not(*, settling: bool, cordoned: Iterable[str], lately: bool, last_of: str) -> str:
    """Says why guard does not cordon a node that is at fault; '': it does.

    Args:
        settling: the hub waits for its nodes.
        cordoned: the nodes that guard has cordoned and nobody has let in again.
        lately: guard has cordoned this one within the day, and somebody has let it in again.
        last_of: a pointer that no other node in use would answer for; '': there is none.
    """
    if settling:
        return "the hub settles"
    if cordoned := sorted(cordoned):
        return f"guard has cordoned {cordoned[0]}, and nobody has let it in again"
    if lately:
        return "guard has cordoned it within the day, and somebody has let it in again"
    return f"it is the last node in use of {last_of}" if last_of else ""
