"""Gateways before nodes that die, return, stall, refuse and move on: whatever happens, in whatever order.

The choice of a node, its rest and its health are the product's rules; nodes, time and the pointer's moves are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from loradeck.rules.serving.gateway import (
    LONGEST_REST_S,
    RETRIED,
    TRIES,
    FenceVerdict,
    NodeHealth,
    followed,
    highest,
    next_node,
    ranked,
    standing,
    told_ahead,
)
from loradeck.schemas.ids import Fence
from loradeck.schemas.replica_state import AckLevel

NODES = tuple(f"n{number}" for number in range(6))
GATEWAYS = 2
names, gateways = st.sampled_from(NODES), st.integers(0, GATEWAYS - 1)


@dataclass
class Node:
    """A node's router. `held`: the generation of the entry that it holds."""

    held: int = 1
    up: bool = True
    hangs: bool = False
    refusal: str | None = None
    serves: bool = True


@dataclass
class Gateway:
    """A gateway. `told`: the generation of its own table; `serving`: where that says that the pointer is served."""

    told: int = 1
    serving: tuple[str, ...] = NODES
    shown: set[Fence] = field(default_factory=set)
    health: dict[str, NodeHealth] = field(default_factory=lambda: {name: NodeHealth() for name in NODES})
    sent: Fence = (1, 0)
    """The highest fence that it was told or shown."""
    owed: list[str] = field(default_factory=list)
    """The nodes that it waits for in vain."""


class Choices(RuleBasedStateMachine):
    """One pointer on six nodes, behind two gateways of which either may hear of nothing for as long as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.live = 1
        self.flipped = 1
        """The newest generation that the hub has counted as flipped: every node that counts has acknowledged it."""
        self.nodes = {name: Node() for name in NODES}
        self.gateways = [Gateway() for _ in range(GATEWAYS)]

    # ---- what happens ------------------------------------------------------------------------------------------

    @initialize(levels=st.fixed_dictionaries({name: st.sampled_from(AckLevel) for name in NODES}))
    def placed(self, levels: dict[str, AckLevel]) -> None:
        self.levels = levels

    @rule(name=names, up=st.booleans(), hangs=st.booleans())
    def dies_or_returns(self, name: str, up: bool, hangs: bool) -> None:
        self.nodes[name].up, self.nodes[name].hangs = up, hangs

    @rule(stays=names)
    def all_others_die(self, stays: str) -> None:
        for name, node in self.nodes.items():
            node.up, node.hangs = name == stays, False

    @rule(number=gateways, name=names, times=st.integers(1, 20))
    def fails_often(self, number: int, name: str, times: int) -> None:
        for _ in range(times):
            self.gateways[number].health[name].failed(self.now)

    @rule(name=names, refusal=st.none() | st.sampled_from([*sorted(RETRIED - {"behind", "not_here"}), "suspended"]))
    def refuses(self, name: str, refusal: str | None) -> None:
        self.nodes[name].refusal = refusal

    @rule(name=names, serves=st.booleans())
    def is_withdrawn_or_placed_again(self, name: str, serves: bool) -> None:
        self.nodes[name].serves = serves

    @rule()
    def moves(self) -> None:
        self.live += 1

    @rule(names=st.sets(names, min_size=3))
    def moves_and_some_hear_of_it(self, names: set[str]) -> None:
        self.live += 1
        for name in names:
            self.nodes[name].held = self.live

    @rule(name=names)
    def hears_of_the_move(self, name: str) -> None:
        self.nodes[name].held = self.live
        if all(node.held == self.live for node in self.nodes.values()):
            self.flipped = self.live

    @rule(number=gateways)
    def is_told(self, number: int) -> None:
        gateway = self.gateways[number]
        gateway.told = self.live
        gateway.serving = tuple(name for name in NODES if self.nodes[name].serves)

    @rule(seconds=st.floats(0.01, 2 * LONGEST_REST_S))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=gateways)
    def callers_give_up(self, number: int) -> None:
        gateway = self.gateways[number]
        for name in gateway.owed:
            gateway.health[name].give_back()
        gateway.owed.clear()

    # ---- one request -------------------------------------------------------------------------------------------

    @rule(number=gateways, prompt=st.binary(max_size=4))
    def is_asked(self, number: int, prompt: bytes) -> None:
        gateway, flipped = self.gateways[number], self.flipped
        order = ranked(
            {name: self.levels[name] for name in gateway.serving},
            {name: gateway.health[name].under_way for name in NODES},
            [name for name in NODES if gateway.health[name].is_avoided(self.now)],
            prompt,
        )
        tried, begun, refusal = list[str](), 0, None
        while (name := next_node(order, tried, refusal=refusal, begun=bool(begun))) is not None:
            assert name not in tried
            tried.append(name)
            assert len(tried) <= TRIES
            answered, refusal = self._ask(gateway, name)
            begun += answered
            if answered:
                assert self.nodes[name].held >= flipped, "a left release has answered after its move had flipped"
            if refusal == "not_here":
                order = followed(order, [other for other in NODES if self.nodes[other].serves], NODES)
            if gateway.owed and gateway.owed[-1] == name:
                return  # it may yet answer, so nobody else is asked
        assert begun <= 1
        willing = [n for n in order if self._would(gateway, n)]
        assert begun or not willing or len(tried) == TRIES or refusal not in (None, *RETRIED)

    def _would(self, gateway: Gateway, name: str) -> bool:
        node = self.nodes[name]
        return node.up and node.serves and node.refusal is None and (1, node.held) >= gateway.sent

    def _ask(self, gateway: Gateway, name: str) -> tuple[bool, str | None]:
        """Whether the node has begun to answer, and its refusal."""
        node, health = self.nodes[name], gateway.health[name]
        sent = highest((1, gateway.told), 1, gateway.shown)
        assert sent is not None
        assert sent >= gateway.sent, "the fence that a gateway sends has fallen"
        gateway.sent = sent
        health.take(self.now)
        if node.hangs and node.up:
            gateway.owed.append(name)
            return False, None
        health.give_back()
        if not node.up:
            health.failed(self.now)
            return False, None
        health.heard(self.now)
        if not node.serves:
            return False, "not_here"
        if standing((1, node.held), sent, 1.0) is FenceVerdict.BEHIND:
            return False, "behind"
        if node.refusal is not None:
            return False, node.refusal
        gateway.shown.add((1, node.held))
        gateway.sent = max(gateway.sent, (1, node.held))
        return True, None

    # ---- always ------------------------------------------------------------------------------------------------

    @invariant()
    def rests_and_debts_are_bounded(self) -> None:
        for gateway in self.gateways:
            for name, health in gateway.health.items():
                assert 0 <= health.rest_s(self.now) <= LONGEST_REST_S
                assert health.under_way == gateway.owed.count(name)


Choices.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestChoices = Choices.TestCase


def test_the_only_node_that_is_nearest_is_told_of_a_coming_request_where_the_release_lies_on_its_disk_alone() -> None:
    disk, host, absent = AckLevel.DISK, AckLevel.HOST, AckLevel.ABSENT
    assert told_ahead({"n0": disk, "n1": absent}, ()) == "n0"
    assert told_ahead({"n0": disk, "n1": host}, ()) is None, "it is in memory elsewhere"
    assert told_ahead({"n0": disk, "n1": host}, ("n1",)) == "n0", "which is asked last"
    assert told_ahead({"n0": disk, "n1": disk}, ()) is None, "the prompt decides"
    assert told_ahead({"n0": absent}, ()) is None, "it would be fetched for a guess"
    assert told_ahead({}, ()) is None
