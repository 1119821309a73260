"""Guard: what happens by itself when a release that has just gone out, or a node, turns out to be bad.

A release that was good for a day does not turn bad by itself: what changed is around it, and going back may change
nothing. So guard moves only soon after a forward move, and only where the release is worse than what answers beside it.
That comparison decides. Neighbours, the other tenants on the same replicas, can at most explain why it is not worse:
whoever asks beside it, or counts for others, neither stops a move nor makes one.

A node is bad that answers badly for everybody on it, while other nodes answer well with the same releases. It speaks of
its own answers, so that by what one says nobody but itself can be taken out. That it is the node, and not a release or
a base, is the word of others: for each release of two nodes at least, over releases of two tenants at least. How much a
node answers is its own word too, so that one that answers much counts no more than another.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from loradeck.rules.quality.health import ENOUGH, Units, apart, total
from loradeck.rules.quality.move_budgets import GuardMove, spent
from loradeck.rules.quality.neighbours import Neighbours, as_bad
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.log import EventKind
from loradeck.schemas.route import Guard

FORWARD = (EventKind.PROMOTE, EventKind.CANDIDATE_START, EventKind.CANDIDATE_FINISH)
"""Moves after which guard looks at a pointer."""

LATEST_S = 24 * 3600.0
"""Seconds after a forward move in which guard may move the pointer. Later it alerts."""

FEWEST_CALLERS = 3
"""Callers below which guard only holds: one of them may ask for what no release could answer.

Answers of two releases to the same requests need no number of callers: what no release could answer is bad on both.
"""

CONFIDENCE_Z = 3.29
"""Normal quantile (99.9 %) of the intervals that have to lie apart for one release to be worse than another."""


Arms = tuple[Units, Units]
"""The units of a release, and those of what answers beside it."""


class Control(NamedTuple):
    """What answers beside a release: the live release beside a candidate, or the release beneath, which was asked again
    what the release had answered. A shadow was asked again what the live release had answered.

    `given`: the release's own units that are compared with `beside`. `alone`: the node without whose word the release
    would not be worse. It is worse by that node's word only where no other serves it. `by_caller`: one caller alone has
    made it look worse. `is_paired`: both were asked the same requests, so that callers cannot make the difference.
    """

    given: Units
    beside: Units
    worse: bool
    alone: str = ""
    by_caller: bool = False
    is_paired: bool = False


def compared(by_node: Mapping[str, Arms], placed: Iterable[str], *, is_paired: bool = False) -> Control | None:
    """Compares a release with what answers beside it; None: nothing does.

    It is worse where the intervals of both lie apart, and the 95 % intervals also without the word of any one node. One
    node's word counts only for a pointer that is placed there alone.

    Args:
        by_node: node -> its units of both.
        placed: the nodes that the pointer is placed on.
        is_paired: both were asked the same requests.
    """
    said = {node: arms for node, arms in by_node.items() if arms[1][1]}
    if not said:
        return None
    given, beside = (total(arms[i] for arms in by_node.values()) for i in (0, 1))
    equal = Control(given, beside, worse=False, is_paired=is_paired)
    if not apart(given, beside, CONFIDENCE_Z):
        return equal
    if len({*placed, *said}) == 1:
        return equal._replace(worse=True, alone=next(iter(said)))
    for node, ((bad, n), (beside_bad, beside_n)) in by_node.items():
        if not apart((given[0] - bad, given[1] - n), (beside[0] - beside_bad, beside[1] - beside_n)):
            return equal._replace(alone=node)
    return equal._replace(worse=True)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What speaks against a release since its move.

    `figure`: 'bad' or 'errors'. `control`: what answers beside it at the same time; None: nothing does. `callers`: how
    many have got bad answers; None: nobody gets its answers. `nats`: the evidence (`loradeck.rules.quality.detection`).
    `alone`: the node on whose word it rests, if others that serve it say otherwise.
    """

    figure: str
    votes: Units
    control: Control | None
    callers: int | None
    nats: float
    alone: str = ""

    def __str__(self) -> str:
        """Writes it as it stands in the log: `bad 31.0% of 200 votes of 24 callers, beside it 1.0% of 210`."""
        by = f" of {self.callers} callers" if self.callers is not None else ""
        text = f"{self.figure} {share(self.votes)} votes{by}"
        return text + (f", beside it {share(self.control.beside)}" if self.control is not None else "")

    @property
    def rests_on_few_callers(self) -> bool:
        """Whether so few callers speak for it that what they ask may be the fault."""
        paired = self.control is not None and self.control.is_paired
        return not paired and self.callers is not None and self.callers < FEWEST_CALLERS

    def payload(self) -> dict[str, object]:
        """It as an event of the log carries it. `given`: its units that are compared with those of the control."""
        return {
            "figure": self.figure,
            "votes": list(self.votes),
            "given": list(self.control.given) if self.control is not None else None,
            "control": list(self.control.beside) if self.control is not None else None,
            "callers": self.callers,
            "nats": round(self.nats, 2),
        }


def share(votes: Units) -> str:
    """Writes the share of units that are bad, and of how many: `31.0% of 200`."""
    return f"{votes[0] / votes[1]:.1%} of {votes[1]}" if votes[1] else "nothing"


def asked_again_until_ms(guard: Guard, last: EventKind | None, moved_ms: int | None, *, candidate: bool) -> int | None:
    """Until when requests are asked again of the release beneath, in the hub's milliseconds; None: none is.

    A guard that may hold or roll back is the consent to it. With a candidate out there is a control already.

    `last`: the kind of the pointer's last move, which was made at `moved_ms`.
    """
    if guard not in (Guard.HOLD, Guard.ROLLBACK) or last not in FORWARD or candidate or moved_ms is None:
        return None
    return moved_ms + round(1000 * LATEST_S)


@dataclass(frozen=True, kw_only=True)
class Around:
    """What guard looks at besides the evidence.

    `since_move_s`: seconds since the forward move. `heard`: the share (0 to 1) of the placed replicas that are heard.
    `neighbours`: other tenants on the same replicas; none need be given where the control has decided. `shared`: what
    they share with it, if they are as bad (`loradeck.rules.quality.health.shared_cause`). `made`: the moves that guard
    has made in the last hour. `due`: the one that it would make.
    `asks`: why R would ask a person before it moves; '' if it would not.
    """

    since_move_s: float
    settling: bool
    heard: float
    neighbours: Neighbours
    made: Collection[GuardMove]
    due: GuardMove
    asks: str = ""
    shared: str = "their node or their base"


@dataclass(frozen=True)
class Decision:
    """What guard does (`off`: nothing), and in words why it does no more than that."""

    act: Guard
    why: str = ""


NOTHING = Decision(Guard.OFF)


def decide(guard: Guard, evidence: Evidence, around: Around) -> Decision:
    """Decides what guard does about a release against which there is enough evidence since its move."""
    if guard is Guard.OFF or around.settling:
        return NOTHING
    budget = spent(around.made, around.due)
    for only, act, why in (
        (evidence.alone, Guard.ALERT, f"{evidence.alone} alone says so"),
        (around.heard <= 0.5, Guard.ALERT, "half of its replicas are not heard"),
        (around.since_move_s > LATEST_S, Guard.ALERT, "it has been live for a day"),
        (evidence.rests_on_few_callers, Guard.HOLD, f"only {evidence.callers} callers say so"),
        (evidence.control is None or not evidence.control.worse, Guard.HOLD, _not_worse(evidence, around)),
        (budget, Guard.HOLD, budget),
        (around.asks, Guard.HOLD, f"R would ask: {around.asks}"),
    ):
        if only:
            return Decision(min(act, guard, key=_FORCE.index), why)
    return Decision(guard)


def _not_worse(evidence: Evidence, around: Around) -> str:
    """Says why the control does not show a release to be worse than what answers beside it."""
    if as_bad(evidence.votes, around.neighbours):
        return f"its neighbours are as bad: {around.shared}"
    if evidence.control is None:
        return "nothing answers beside it to compare it with"
    by = f" but by the word of {evidence.control.alone}" if evidence.control.alone else ""
    if evidence.control.by_caller:
        by = " without one caller"
    return f"it is not seen to be worse than what answers beside it{by}"


_FORCE = (Guard.OFF, Guard.ALERT, Guard.HOLD, Guard.ROLLBACK)


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
        return {node for node, units in self.elsewhere.items() if units[1] >= ENOUGH and apart(self.here, units)}


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


def why_no_cordon(*, settling: bool, cordoned: Iterable[str], lately: bool, last_of: str) -> str:
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
