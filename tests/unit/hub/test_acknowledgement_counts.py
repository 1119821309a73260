"""Counts that are kept up with each acknowledgement are those that counting over gives, whatever happened before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from loradeck.hub.fleet.node_tables import Placing
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.progress.acknowledgements import AckEffect, PlacedReplicas, ReplicaCounts
from loradeck.rules.serving.placement import Site
from loradeck.schemas.link import Ack, Hello, Replica, Report
from loradeck.schemas.log import GENESIS
from loradeck.schemas.replica_state import LINK_TTL_S, AckState, EngineState
from loradeck.schemas.telemetry import NvmlState

BASES = ("b" * 64, "c" * 64)
NODES = ("n1", "n2", "n3", "n4")
KEY = ("acme", "production")
PLACEMENT = {"site": "eu"}
SITE = Site(PLACEMENT)
REFUSE_AFTER_S = 12.0


class _Fleet:
    """A fleet, and one pointer placed on the nodes of one site."""

    def __init__(self) -> None:
        self.now = 0.0
        self.fleet = Fleet(lambda: self.now)
        self.entries: dict[tuple[str, str], Any] = {}
        self.generation = 0
        self.move()
        state: Any = SimpleNamespace(site=lambda key: SITE)
        tables: Any = SimpleNamespace(
            entries=self.entries, placing=lambda key: Placing(SITE, BASES[0], REFUSE_AFTER_S, 0)
        )
        self.replicas = PlacedReplicas(state, self.fleet, tables, Withdrawals(state, self.fleet))

    def counts(self, node: Any) -> bool:
        """Whether its refuse-after has not run out; the hub has never addressed it."""
        return not node.lost or self.now < REFUSE_AFTER_S + LINK_TTL_S

    def move(self) -> None:
        self.generation += 1
        release = SimpleNamespace(served_base=BASES[0])
        current = SimpleNamespace(id="a" * 64, release=release)
        self.entries[KEY] = SimpleNamespace(current=current, fence=(1, self.generation))

    def replica(self, node: str, base: int, state: EngineState, boot: str) -> Replica:
        return Replica(replica=node, state=state, boot=boot, base=BASES[base], slots=4)

    # ---- what happens ----------------------------------------------------------------------------------------

    def hello(self, node: str, site: str, base: int, boot: str) -> None:
        replica = self.replica(node, base, EngineState.UP, boot)
        labels = {"site": site}
        hello = Hello(
            node=node, boot="a", version="1", labels=labels, epoch=0, rev=0, hash=GENESIS, replicas=(replica,)
        )
        self.fleet.hello(hello, SimpleNamespace())  # type: ignore[arg-type]

    def report(self, node: str, base: int, state: EngineState) -> None:
        if node in self.fleet.nodes:
            replicas = (self.replica(node, base, state, "1"),)
            self.fleet.report(self.fleet.nodes[node], Report(replicas=replicas, nvml=NvmlState.NO_GPU, rev=0, epoch=0))

    def ack(self, node: str, state: AckState, release: str) -> AckEffect:
        if node not in self.fleet.nodes:
            return AckEffect.IGNORED
        self.fleet.heard(self.fleet.nodes[node])
        fence = self.entries[KEY].fence
        return self.replicas.acknowledge(
            self.fleet.nodes[node],
            Ack(
                tenant=KEY[0],
                route=KEY[1],
                epoch=fence[0],
                generation=fence[1],
                release=release * 64,
                replica=node,
                state=state,
                at_ms=0,
            ),
        )

    def silence(self, node: str) -> None:
        """Everybody but this node is heard from until it is lost."""
        self.now += LINK_TTL_S + 1
        for other in self.fleet.nodes.values():
            if other.name != node:
                self.fleet.heard(other)
        self.fleet.newly_lost()

    def drain(self, node: str, drained: bool) -> None:
        if node in self.fleet.nodes:
            self.fleet.order(self.fleet.nodes[node], cordoned=False, drained=drained)


_node = st.sampled_from(NODES)
_base = st.sampled_from((0, 0, 0, 1))
_happening = st.one_of(
    st.tuples(st.just("hello"), _node, st.sampled_from(("eu", "eu", "us")), _base, st.sampled_from("12")),
    st.tuples(st.just("report"), _node, _base, st.sampled_from(EngineState)),
    st.tuples(st.just("ack"), _node, st.sampled_from(AckState), st.sampled_from("aaad")),
    st.tuples(st.just("silence"), _node),
    st.tuples(st.just("drain"), _node, st.booleans()),
    st.tuples(st.just("move")),
)


_OTHER_BASE_FOR_A_WHILE = [
    ("hello", "n1", "us", 0, "1"),
    ("hello", "n1", "eu", 1, "1"),  # now the counts are not kept up to date
    ("ack", "n2", AckState.FLIPPED, "a"),
    ("hello", "n1", "us", 0, "1"),
]


@settings(max_examples=200)
@example(_OTHER_BASE_FOR_A_WHILE)
@given(st.lists(_happening, max_size=40))
def test_what_is_kept_is_what_counting_over_gives(happenings: list[tuple[Any, ...]]) -> None:
    deck = _Fleet()
    for name in NODES:
        deck.hello(name, "eu", 0, "1")
    for what, *arguments in happenings:
        deck.now += 1
        getattr(deck, what)(*arguments)
        kept = deck.replicas.progress(KEY)
        over = ReplicaCounts(_counted_over(deck), deck.replicas.acks(KEY)).progress()
        assert _comparable(kept) == _comparable(over), (what, arguments)


@settings(max_examples=200)
@given(st.lists(_happening, max_size=40))
def test_the_last_acknowledgement_that_is_owed_says_so_since_somebody_may_wait_for_it(
    happenings: list[tuple[Any, ...]],
) -> None:
    deck = _Fleet()
    for name in NODES:
        deck.hello(name, "eu", 0, "1")
    for what, *arguments in happenings:
        deck.now += 1
        before = deck.replicas.progress(KEY)
        counted = getattr(deck, what)(*arguments)
        after = deck.replicas.progress(KEY)
        last = (before.owing_flip and not after.owing_flip) or (before.owing_proof and not after.owing_proof)
        if what == "ack" and last:
            assert counted in (AckEffect.COMPLETE, AckEffect.STALE), (arguments, counted)


def _counted_over(deck: _Fleet) -> list[Any]:
    """Placed replicas without any of the fleet's indexes."""
    base = BASES[0]
    placed = [
        (node, replica)
        for node in deck.fleet.nodes.values()
        if node.labels == PLACEMENT and deck.counts(node)
        for replica in node.replicas
        if replica.base == base
    ]
    behind = deck.fleet.left_behind(KEY, deck.entries[KEY].fence, SITE, base)
    return [*placed, *(found for found in behind if deck.counts(found[0]))]


def _comparable(progress: Any) -> Any:
    """All of it but the times: those of what was taken back may stay behind in the kept ones, before any that count."""
    names = [name for name in progress.__slots__ if not name.endswith("_at")]
    times = (progress.flipped_at is None, progress.proven_at is None)
    return {name: getattr(progress, name) for name in names}, times


def test_the_time_of_the_last_flip_is_that_of_the_replica_that_came_last() -> None:
    deck = _Fleet()
    for name in NODES[:2]:
        deck.hello(name, "eu", 0, "1")
    deck.now = 5.0
    deck.ack("n1", AckState.FLIPPED, "a")
    assert deck.replicas.progress(KEY).flipped_at is None
    deck.now = 7.0
    deck.ack("n2", AckState.FLIPPED, "a")
    assert deck.replicas.progress(KEY).flipped_at == 7.0
    deck.now = 8.0
    deck.ack("n1", AckState.WAITING, "a")
    deck.now = 9.0
    deck.ack("n1", AckState.FLIPPED, "a")
    assert deck.replicas.progress(KEY).flipped_at == 9.0


def test_what_an_engine_that_restarted_had_acknowledged_is_not_counted() -> None:
    deck = _Fleet()
    for name in NODES[:2]:
        deck.hello(name, "eu", 0, "1")
        deck.ack(name, AckState.FLIPPED, "a")
    assert deck.replicas.progress(KEY).flipped == 2
    deck.hello("n1", "eu", 0, "2")
    assert deck.replicas.progress(KEY).flipped == 1
