"""Planted mistakes: each takes one safeguard out of the product, and the simulation has to notice it.

A safeguard matters only where something goes wrong that it is against, so each mistake names the faults, and the
requests of people, that its plans are drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tests.fleets.in_process.simulated import node_process
from tests.fleets.in_process.simulated.disk import System

from loradeck.hub.automation import guard
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.pools import Pools
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.links import challenges
from loradeck.hub.log.log import Log
from loradeck.hub.progress import release_health
from loradeck.hub.recovery import moves_allowed, recover
from loradeck.hub.recovery.recover import Witnesses
from loradeck.rules.moves import rollback_target, rollbacks
from loradeck.rules.moves import witness as rules
from loradeck.rules.quality import cause
from loradeck.rules.quality.cause import Verdict
from loradeck.rules.serving import arms, gateway
from loradeck.rules.serving.router_handover import Stage
from loradeck.schemas.flag import FlagCause
from loradeck.schemas.log import EventKind
from loradeck.schemas.position import Position
from loradeck.schemas.table import TableEntry
from loradeck.store import sql_records
from loradeck.store.lease import read_head
from loradeck_agent.router import table
from loradeck_agent.router.admission import Admission
from loradeck_agent.router.switch import Switch
from loradeck_agent.uplink import link
from loradeck_agent.uplink.desired_table import DesiredTable, DirectiveVerdict

Patch = tuple[Any, str, Any]


def _forward_with_one_copy() -> list[Patch]:
    """Without a standby the hub moves forward as well."""
    return [(moves_allowed, "waits_for_standby", lambda kind, one_copy: False)]


def _fleet_fence() -> list[Patch]:
    """The hub counts an acknowledgement for the newest generation, whichever it was of."""
    real = Fleet.ack

    def ack(self: Fleet, message: Any, current: Any, wanted: Any) -> Any:
        renamed = message.model_copy(update={"epoch": current[0], "generation": current[1], "release": wanted})
        return real(self, renamed, current, wanted)

    return [(Fleet, "ack", ack)]


def _switch_fence() -> list[Patch]:
    """The router takes any entry for newer than the one that it holds, and what it holds for what is in force."""

    def add_flips(self: Any, draft: Any, keys: Any) -> None:
        for key in draft.entries:
            self._held.in_force.pop(key, None)
        real(self, draft, keys)

    real = Switch._add_flips
    return [(Switch, "_is_stale", lambda *unused: False), (Switch, "_add_flips", add_flips)]


class _NoSync(System):
    def fdatasync(self, fd: int) -> None: ...


def _early_acknowledgement() -> list[Patch]:
    """The router acknowledges what its disk does not have yet."""
    return [(table, "os", _NoSync())]


def _one_word() -> list[Patch]:
    """Whatever flags a release is the release's doing, whoever else serves the pointer."""
    return [(release_health, "decide", lambda window: Verdict(FlagCause.RELEASE, cause.node_alone(window)))]


def _guard_by_one_word() -> list[Patch]:
    """Guard believes one node against the others, and takes what it says beside for a comparison."""

    def decide(of: Any, evidence: Any, around: Any) -> Any:
        sure = evidence.control and evidence.control._replace(worse=True)
        return real(of, replace(evidence, alone="", control=sure), around)

    real = guard.decide
    return [(guard, "decide", decide)]


def _guard_goes_on() -> list[Patch]:
    """Guard looks at a pointer after each move, also one that went back."""
    return [(guard, "FORWARD", (*guard.FORWARD, EventKind.ROLLBACK, EventKind.UNDO))]


def _newest_link() -> list[Patch]:
    """The newest link of a name counts, and those before it are closed."""
    return [(challenges, "who_counts", lambda links, present, now: (len(links) - 1, frozenset(range(len(links) - 1))))]


def _two_leases() -> list[Patch]:
    """A hub writes without looking whether it still holds the lease."""
    return [(sql_records, "hold_lease", lambda connection, held: read_head(connection))]


def _forgotten_tombstone() -> list[Patch]:
    """The agent leaves at its router what a whole table no longer names."""
    return [(DesiredTable, "withdrawn", lambda self, message: ())]


def _ignored_gap() -> list[Patch]:
    """The agent applies a directive although one before it was missed."""

    def judge(self: Any, message: Any) -> Any:
        verdict = real(self, message)
        return DirectiveVerdict.APPLY if verdict is DirectiveVerdict.GAP else verdict

    real = DesiredTable.judge
    return [(DesiredTable, "judge", judge)]


def _overlooked_witness() -> list[Patch]:
    """The hub moves pointers that a node has seen moved farther."""
    return [(Witnesses, "holding", lambda self, key: [])]


def _everything_held() -> list[Patch]:
    """A node that is ahead of the log holds back every pointer that it has an entry of."""
    return [(recover.witness_rules, "_is_ahead", lambda entry, own, known: True)]


def _believed_hello() -> list[Patch]:
    """The hub believes what a node says that it has seen, without a signature and without a bound."""

    def judge(**said: Any) -> Any:
        position = {"log": said["log"], "incarnation": "", "epoch": said["epoch"], "rev": said["rev"], "hash": "0" * 64}
        return real(**{**said, "witnessed": Position(**position), "incarnations": {}})

    real = rules.judge
    return [(rules, "judge", judge), (rules, "MOST_EPOCH", 2**53)]


def _unread_hello() -> list[Patch]:
    """The hub steers every node, whatever its hello says that it has seen."""
    return [(rules, "judge", lambda **said: rules.LogStanding.FOLLOWS)]


def _widening_moves_people() -> list[Patch]:
    """The router draws the share anew whenever it changes."""

    def arm(split: Any, *args: Any, **how: Any) -> Any:
        salted = split.model_copy(update={"salt": f"{split.salt}{split.permille}"}) if split is not None else None
        return real(salted, *args, **how)

    real = arms.arm
    return [(arms, "arm", arm)]


def _endless_lease() -> list[Patch]:
    """The router gives a candidate to its share however long it has heard no hub."""
    return [(arms, "lease_is_over", lambda split, hub_lost_s: False)]


def _answering_shadow() -> list[Patch]:
    """The router gives a shadow to its share of the callers."""

    def compiled(self: Any, entry: Any, *args: Any) -> Any:
        if entry.candidate is not None:
            entry = entry.model_copy(update={"candidate": entry.candidate.model_copy(update={"shadow": False})})
        return real(self, entry, *args)

    real = Admission.compile
    return [(Admission, "compile", compiled)]


def _kept_candidate() -> list[Patch]:
    """A move back leaves the candidate out."""

    def kept(pointer: Any, **update: Any) -> Any:
        return real(pointer, **{"candidate": pointer.candidate, **update})

    real = rollbacks.moved
    return [(rollbacks, "moved", kept)]


def _left_count() -> list[Patch]:
    """A replica leaves the count at once when its labels or its route's placement change."""
    return [
        (Withdrawals, "labelled_otherwise", lambda self, node, left, entered: None),
        (Withdrawals, "caused", lambda self, key, before, after, rev: []),
    ]


def _unnoticed_successor() -> list[Patch]:
    """A hub notices only at its next commit that another one has taken its lease."""

    async def keep_lease(self: Log) -> None: ...

    return [(Log, "keep_lease", keep_lease)]


def _first_hub_stays() -> list[Patch]:
    """An agent stays with the hub that it follows for as long as it has a link to it."""
    real = link.steering
    return [(link, "steering", lambda offers, present: present if present in offers else real(offers, present))]


def _unread_fence() -> list[Patch]:
    """The router answers whoever comes through a gateway, whichever move the gateway has seen."""

    async def behind(self: Admission, key: Any, seen: str | None) -> None: ...

    return [(Admission, "behind", behind)]


def _unshown_fence() -> list[Patch]:
    """A gateway sends what its own table says, whatever routers have shown."""
    return [(gateway, "highest", lambda told, told_epoch, shown: told)]


def _second_answer() -> list[Patch]:
    """A gateway asks another node, though one has begun to answer."""

    def next_node(nodes: Any, tried: Any, *, refusal: Any, begun: bool) -> Any:
        return real(nodes, tried, refusal=refusal, begun=False)

    real = gateway.next_node
    return [(gateway, "next_node", next_node)]


def _no_way_but_a_good_one() -> list[Patch]:
    """R goes only to a release that nothing speaks against, or that has merely not soaked."""

    def way(release: Any, pointer: Any, facts: Any) -> Any:
        found = real(release, pointer, facts)
        able = found.fitness <= rollback_target.Fitness.UNSOAKED
        return found if able else found._replace(fitness=rollback_target.Fitness.NEVER)

    real = rollback_target.way
    return [(rollback_target, "way", way)]


def _unread_features() -> list[Patch]:
    """The hub gives every router the entry as it is, whatever that router acts on."""
    return [(TableEntry, "for_router", lambda self, features: self)]


def _admitting_drainer() -> list[Patch]:
    """A router that has handed over goes on admitting what comes over callers' connections that it has kept."""
    return [(node_process, "may_admit", lambda now: now is not Stage.WARM)]


def _uncut() -> list[Patch]:
    """A router cuts nothing, on a route that cuts streams too."""
    return [(Admission, "cut", lambda self, key, stays: None)]


def _unnoticed_loss() -> list[Patch]:
    """Routes of pools stay on a node that is lost."""
    return [(Pools, "trouble", lambda self, name: "")]


@dataclass(frozen=True)
class Mistake:
    """A planted mistake.

    Attributes:
        seed: the first one that noticed it; docs/simulation.md says how.
        faults, asks: of what its plans are drawn; empty: of everything.
    """

    patches: Callable[[], list[Patch]]
    seed: int = 0
    faults: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()


MUTATIONS: dict[str, Mistake] = {
    "fleet-fence": Mistake(_fleet_fence, 1),
    "switch-fence": Mistake(_switch_fence, 23, ("slow router", "pause"), ("rollback", "undo")),
    "early-acknowledgement": Mistake(_early_acknowledgement, 1, ("power cut",), ("promote", "rollback")),
    "two-leases": Mistake(_two_leases, 14, ("second hub",)),
    "ignored-gap": Mistake(_ignored_gap, 2, ("lose directives",), ("promote", "rollback")),
    "forgotten-tombstone": Mistake(_forgotten_tombstone, 29, ("restore hub",), ("place",)),
    "widening-moves-people": Mistake(_widening_moves_people, 10),
    "endless-lease": Mistake(_endless_lease, 16, ("cut both",), ("candidate",)),
    "answering-shadow": Mistake(_answering_shadow, 1, (), ("candidate",)),
    "kept-candidate": Mistake(_kept_candidate, 3),
    "overlooked-witness": Mistake(_overlooked_witness, 15, ("restore hub",)),
    "everything-held": Mistake(_everything_held, 1, ("restore hub",)),
    "believed-hello": Mistake(_believed_hello, 3, ("hostile hello",)),
    "unread-hello": Mistake(_unread_hello, 2, ("restore hub",)),
    "unnoticed-successor": Mistake(_unnoticed_successor, 12, ("second hub",)),
    "first-hub-stays": Mistake(_first_hub_stays, 5, ("other hub",)),
    "unread-fence": Mistake(_unread_fence, 2, ("cut both",), ("promote", "rollback")),
    "unshown-fence": Mistake(_unshown_fence, 59, ("cut gateway", "cut both"), ("promote", "rollback")),
    "second-answer": Mistake(_second_answer, 1, ("kill router", "cut gateway")),
    "no-way-but-a-good-one": Mistake(_no_way_but_a_good_one, 32),
    "unread-features": Mistake(_unread_features, 0, ("old node",), ("candidate",)),
    "left-count": Mistake(_left_count, 12, ("cut both",), ("place", "promote")),
    "one-word": Mistake(_one_word, 1, ("lying figures",), ("promote", "rollback")),
    "guard-by-one-word": Mistake(_guard_by_one_word, 2, ("bad releases",), ("promote", "candidate")),
    "guard-goes-on": Mistake(_guard_goes_on, 1, ("bad releases",), ("promote", "rollback", "lift")),
    "uncut": Mistake(_uncut, 12, (), ("promote", "rollback")),
    "admitting-drainer": Mistake(_admitting_drainer, 2, ("hand over",), ("promote", "rollback")),
    "newest-link": Mistake(_newest_link, 1, ("copy node",)),
    "unnoticed-loss": Mistake(_unnoticed_loss, 4, ("pool routes", "cut both"), ("promote", "rollback")),
    "forward-with-one-copy": Mistake(_forward_with_one_copy, 0, ("one copy",), ("promote", "rollback")),
}
AS_IT_IS = Mistake(list)
"""No mistake."""


@contextmanager
def planted(mistake: Mistake) -> Iterator[None]:
    """Runs the block with a mistake in the product."""
    patches = mistake.patches()
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in patches]
    for owner, attribute, value in patches:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)
