"""What the hub makes of acknowledgements: flipped, proven, failed, taken back, and the counts that a move waits for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import AckRecord, Fleet
from loradeck.hub.progress.acknowledgements import Progress, ReplicaCounts, share
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.link import Ack, Hello, Replica
from loradeck.schemas.log import GENESIS
from loradeck.schemas.replica_state import LINK_TTL_S, LOST_S, AckLevel, AckState, EngineState

KEY = ("acme", "production")
BASE = "b" * 64
V1, V2 = "1" * 64, "2" * 64
FENCE = (1, 2)
DONE = (AckState.FLIPPED, AckState.PROVEN, AckState.LISTED)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    fleet = Fleet(clock)
    hello(fleet)
    return fleet


def hello(fleet: Fleet, node: str = "n1", boot: str = "1", state: EngineState = EngineState.UP) -> Node:
    replica = Replica(replica=node, state=state, boot=boot, base=BASE, slots=4)
    greeting = Hello(node=node, boot="a", version="1", epoch=0, rev=0, hash=GENESIS, replicas=(replica,))
    return fleet.hello(greeting, cast("Any", SimpleNamespace()))


def ack(state: AckState, release: str | None = V2, generation: int = 2, **more: Any) -> Ack:
    more = {"replica": "n1", "at_ms": 17, "mono_ns": 18, **more}
    return Ack(tenant=KEY[0], route=KEY[1], epoch=1, generation=generation, release=release, state=state, **more)


def counted(fleet: Fleet, made: Ack, wanted: str | None = V2) -> AckRecord:
    record = fleet.ack(made, FENCE, wanted)
    assert record is not None
    return record


# ---- one replica -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", DONE)
def test_a_flip_is_kept_with_the_times_of_hub_and_node(fleet: Fleet, clock: Clock, state: AckState) -> None:
    record = counted(fleet, ack(state))
    assert (record.fence, record.release, record.state, record.code, record.detail) == (FENCE, V2, state, None, "")
    assert (record.flipped, record.flipped_node_ms, record.flipped_mono_ns) == (100.0, 17, 18)
    proven = 100.0 if state is AckState.PROVEN else None
    checked = 100.0 if state is not AckState.FLIPPED else None
    assert (record.proven, record.checked) == (proven, checked)
    assert (record.is_flipped, record.state is AckState.PROVEN, record.is_pinned) == (True, proven is not None, False)


def test_a_replica_that_is_only_listed_any_more_is_not_proven(fleet: Fleet, clock: Clock) -> None:
    counted(fleet, ack(AckState.PROVEN))
    clock.now = 101.0
    record = counted(fleet, ack(AckState.LISTED, code="not_distinct"))
    assert (record.state, record.flipped, record.proven, record.checked) == (AckState.LISTED, 100.0, None, 101.0)
    assert record.state is not AckState.PROVEN


def test_the_times_are_those_of_the_first_flip_and_the_first_proof(fleet: Fleet, clock: Clock) -> None:
    counted(fleet, ack(AckState.FLIPPED))
    clock.now = 101.0
    counted(fleet, ack(AckState.FLIPPED, at_ms=27, mono_ns=28))
    clock.now = 102.0
    counted(fleet, ack(AckState.PROVEN, at_ms=37, mono_ns=38))
    clock.now = 103.0
    record = counted(fleet, ack(AckState.PROVEN, at_ms=47, mono_ns=48))
    assert (record.flipped, record.flipped_node_ms, record.flipped_mono_ns) == (100.0, 17, 18)
    assert (record.proven, record.checked) == (102.0, 103.0)


def test_a_flip_that_is_sent_again_takes_nothing_back_from_a_proof(fleet: Fleet) -> None:
    counted(fleet, ack(AckState.PROVEN))
    record = counted(fleet, ack(AckState.FLIPPED))
    assert (record.state, record.state is AckState.PROVEN) == (AckState.PROVEN, True)


def test_a_replica_that_waits_again_has_neither_flipped_nor_proven(fleet: Fleet, clock: Clock) -> None:
    counted(fleet, ack(AckState.PROVEN))
    record = counted(fleet, ack(AckState.WAITING, code="not_ready", detail="v1 answers"))
    assert (record.state, record.code, record.detail) == (AckState.WAITING, "not_ready", "v1 answers")
    assert (record.flipped, record.proven, record.is_flipped, record.state is AckState.PROVEN) == (
        None,
        None,
        False,
        False,
    )
    clock.now = 105.0
    assert counted(fleet, ack(AckState.FLIPPED)).flipped == 105.0


def test_the_time_of_a_generations_first_flip_outlives_an_engine_and_a_flip_that_is_sent_again(
    fleet: Fleet, clock: Clock
) -> None:
    counted(fleet, ack(AckState.FLIPPED))
    clock.now = 190.0
    hello(fleet, state=EngineState.STARTING)  # an agent that has just started has not looked at its engine yet
    record = counted(fleet, ack(AckState.FLIPPED, at_ms=27, mono_ns=28))
    assert (record.first_flipped, record.flipped_mono_ns) == (100.0, 18)
    assert (record.flipped, record.flipped_node_ms) == (190.0, 27), "since when it serves the release without a break"
    clock.now = 200.0
    anew = fleet.ack(ack(AckState.FLIPPED, generation=3), (1, 3), V2)
    assert anew is not None
    assert anew.first_flipped == 200.0


def test_a_failed_proof_keeps_the_flip_and_ends_the_proof(fleet: Fleet, clock: Clock) -> None:
    counted(fleet, ack(AckState.PROVEN))
    clock.now = 101.0
    record = counted(fleet, ack(AckState.FAILED, code="canary_mismatch", detail="position 3"))
    assert (record.state, record.code, record.detail) == (AckState.FAILED, "canary_mismatch", "position 3")
    assert (record.flipped, record.proven, record.checked) == (100.0, None, 101.0)
    assert record.state is not AckState.PROVEN


@pytest.mark.parametrize("state", DONE)
def test_a_flip_to_another_release_than_the_wanted_one_is_a_failure_and_no_flip(fleet: Fleet, state: AckState) -> None:
    record = counted(fleet, ack(state, V1))
    assert (record.state, record.code, record.is_flipped) == (AckState.FAILED, "wrong_release", False)
    assert record.detail == f"acknowledged {V1}, not {V2}"


def test_a_replica_that_waits_or_fails_with_another_release_is_taken_at_its_word(fleet: Fleet) -> None:
    assert counted(fleet, ack(AckState.WAITING, V1, code="not_ready")).code == "not_ready"
    assert counted(fleet, ack(AckState.FAILED, V1, code="disk_full")).code == "disk_full"
    assert counted(fleet, ack(AckState.FLIPPED, None), None).is_flipped, "a tombstone"


def test_a_wrong_release_after_a_right_one_is_no_flip_any_more(fleet: Fleet) -> None:
    counted(fleet, ack(AckState.PROVEN))
    record = counted(fleet, ack(AckState.PROVEN, V1))
    assert (record.is_flipped, record.state is AckState.PROVEN, record.release) == (False, False, V1)


@pytest.mark.parametrize("late", [(0, 2), (2, 2), (1, 1), (1, 3)])
def test_only_the_current_epoch_and_generation_count(fleet: Fleet, late: tuple[int, int]) -> None:
    record = counted(fleet, ack(AckState.FLIPPED))
    made = ack(AckState.WAITING).model_copy(update={"epoch": late[0], "generation": late[1]})
    assert fleet.ack(made, FENCE, V2) is None
    assert record.is_flipped
    assert fleet.acks(KEY, FENCE) == {"n1": record}
    assert fleet.acks(KEY, late) == {}
    assert fleet.ack_of(KEY, "n1", FENCE) is record
    assert fleet.ack_of(KEY, "n1", late) is None
    assert fleet.ack_of(KEY, "n2", FENCE) is None
    assert fleet.ack_of(("acme", "staging"), "n1", FENCE) is None


def test_a_new_generation_begins_anew(fleet: Fleet, clock: Clock) -> None:
    assert fleet.ack(ack(AckState.PROVEN, V1, 1), (1, 1), V1) is not None
    clock.now = 101.0
    record = counted(fleet, ack(AckState.FLIPPED))
    assert (record.fence, record.flipped, record.proven) == (FENCE, 101.0, None)
    assert fleet.acks(KEY, (1, 1)) == {}


@pytest.mark.parametrize(
    ("state", "code", "pinned"),
    [(AckState.WAITING, "pinned", True), (AckState.WAITING, "not_ready", False), (AckState.FAILED, "pinned", False)],
)
def test_a_replica_is_pinned_while_it_waits_for_its_pin(fleet: Fleet, state: AckState, code: str, pinned: bool) -> None:
    assert counted(fleet, ack(state, code=code)).is_pinned is pinned


# ---- engines that ended ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boot", "state", "voided"),
    [("1", EngineState.UP, False), ("2", EngineState.UP, True), ("1", EngineState.DOWN, True)],
)
def test_what_was_acknowledged_on_an_engine_ends_with_it(
    fleet: Fleet, boot: str, state: EngineState, voided: bool
) -> None:
    record = counted(fleet, ack(AckState.PROVEN, detail="all canaries"))
    other = counted(fleet, ack(AckState.PROVEN, replica="n2"))
    hello(fleet, boot=boot, state=state)
    assert (record.flipped is None, record.proven is None, fleet.voids) == (voided, voided, int(voided))
    if voided:
        assert (record.state, record.code, record.detail) == (AckState.WAITING, "engine_down", "")
    assert other.state is AckState.PROVEN, "another node's engine runs on"


# ---- lost nodes ------------------------------------------------------------------------------------------------


def test_a_node_is_lost_once_when_its_ttl_has_passed_and_found_when_it_is_heard(fleet: Fleet, clock: Clock) -> None:
    node = fleet.nodes["n1"]
    fleet.unsaved.clear()
    clock.now = 100.0 + LOST_S
    assert (fleet.newly_lost(), fleet.heard_age(node)) == ([], LOST_S)
    clock.now += 0.001
    assert (fleet.newly_lost(), node.lost) == ([node], True)
    assert fleet.newly_lost() == []
    assert fleet.unsaved == {"n1"}
    fleet.unsaved.clear()
    fleet.heard(node)
    assert (node.lost, node.heard, fleet.unsaved) == (False, clock.now, {"n1"})
    fleet.unsaved.clear()
    fleet.heard(node)
    assert not fleet.unsaved


def test_a_node_that_is_only_saved_has_one_ttl_from_the_hubs_start(clock: Clock) -> None:
    saved = Node("n9")
    early = Node("n8", heard=3.0)
    fleet = Fleet(clock, (saved, early))
    assert fleet.heard_age(saved) is None
    clock.now = 100.0 + LINK_TTL_S
    assert fleet.newly_lost() == []
    clock.now += 0.001
    assert fleet.newly_lost() == [saved, early]


def test_only_the_current_link_of_a_node_ends_its_link(fleet: Fleet) -> None:
    node = fleet.nodes["n1"]
    first = node.link
    assert first is not None
    hello(fleet)
    second = node.link
    assert (fleet.unlinked(node, first), node.linked, list(fleet.linked())) == (False, True, [node])
    assert second is not None
    assert (fleet.unlinked(node, second), node.linked, list(fleet.linked())) == (True, False, [])


# ---- counts ----------------------------------------------------------------------------------------------------


def record(state: AckState, code: str | None = None, *, flipped: float | None = None) -> AckRecord:
    return AckRecord(FENCE, V2, state, code, flipped=flipped, proven=flipped if state is AckState.PROVEN else None)


@pytest.mark.parametrize(
    ("made", "counts"),
    [  # reachable, flipped, proven, listed, failed, owing a flip, a proof, resting
        (None, (1, 0, 0, 0, 0, 1, 1, 0)),
        (record(AckState.WAITING, "not_ready"), (1, 0, 0, 0, 0, 1, 1, 0)),
        (record(AckState.WAITING, "pinned"), (1, 0, 0, 0, 0, 0, 0, 0)),
        (record(AckState.FLIPPED, flipped=5.0), (1, 1, 0, 0, 0, 0, 1, 0)),
        (record(AckState.PROVEN, flipped=5.0), (1, 1, 1, 0, 0, 0, 0, 0)),
        (record(AckState.LISTED, flipped=5.0), (1, 1, 0, 1, 0, 0, 0, 0)),
        (record(AckState.FAILED, "disk_full"), (1, 0, 0, 0, 1, 0, 0, 0)),
        (record(AckState.FAILED, "canary_mismatch", flipped=5.0), (1, 1, 0, 0, 1, 0, 0, 0)),
    ],
)
def test_the_share_of_a_replica_in_the_counts(made: AckRecord | None, counts: tuple[int, ...]) -> None:
    assert tuple(map(int, share(Node("n1"), "n1", made))) == counts
    failed = counts[4]
    assert tuple(map(int, share(Node("n1", lost=True), "n1", made))) == (0, 0, 0, 0, failed, 0, 0, 0)


def placed(*names: str, lost: str = "") -> list[tuple[Node, Replica]]:
    return [
        (Node(name, lost=name == lost), Replica(replica=name, state=EngineState.UP, base=BASE, slots=4))
        for name in names
    ]


def test_a_move_is_flipped_and_proven_when_its_last_replica_is() -> None:
    replicas = placed("n1", "n2")
    acks = {"n1": record(AckState.PROVEN, flipped=5.0), "n2": record(AckState.FLIPPED, flipped=7.0)}
    counts = ReplicaCounts(replicas, acks)
    progress = counts.progress()
    assert (progress.placed, progress.flipped, progress.flipped_at, progress.proven_at) == (2, 2, 7.0, None)
    assert (progress.reached, progress.settled) == (Reached.FLIPPED, False)
    before = share(replicas[1][0], "n2", acks["n2"])
    acks["n2"] = AckRecord(FENCE, V2, AckState.LISTED, flipped=7.0)
    counts.change(replicas[1][0], "n2", before, acks["n2"])
    progress = counts.progress()
    assert (progress.proven, progress.listed, progress.flipped_at, progress.proven_at) == (1, 1, 7.0, None)
    assert (progress.reached, progress.settled) == (Reached.LISTED, True)
    assert progress == ReplicaCounts(replicas, acks).progress()
    before = share(replicas[1][0], "n2", acks["n2"])
    acks["n2"] = AckRecord(FENCE, V2, AckState.PROVEN, flipped=7.0, proven=9.0)
    counts.change(replicas[1][0], "n2", before, acks["n2"])
    progress = counts.progress()
    assert (progress.proven, progress.listed, progress.proven_at) == (2, 0, 9.0)
    assert (progress.reached, progress.settled) == (Reached.PROVEN, True)


def test_a_replica_that_its_node_finds_silent_counts_as_neither_until_it_answers() -> None:
    (n1, n2), acks = placed("n1", "n2"), {name: record(AckState.PROVEN, flipped=5.0) for name in ("n1", "n2")}
    n2[0].silent = frozenset({"n2"})
    progress = ReplicaCounts((n1, n2), acks).progress()
    assert (progress.placed, progress.reachable, progress.flipped, progress.proven) == (2, 1, 1, 1)
    assert progress.reached is not Reached.PROVEN
    n2[0].silent = frozenset()
    assert ReplicaCounts((n1, n2), acks).progress().proven == 2


def test_a_lost_node_counts_as_neither_flipped_nor_proven() -> None:
    replicas = placed("n1", "n2", lost="n2")
    acks = {"n1": record(AckState.PROVEN, flipped=5.0), "n2": record(AckState.PROVEN, flipped=9.0)}
    progress = ReplicaCounts(replicas, acks).progress()
    assert (progress.placed, progress.reachable, progress.flipped, progress.proven) == (2, 1, 1, 1)
    assert (progress.flipped_at, progress.proven_at) == (None, None)
    assert (progress.reached, progress.settled) == (Reached.COMMITTED, True)


def test_nothing_placed_is_neither_flipped_nor_proven_and_owes_nothing() -> None:
    progress = ReplicaCounts([], {}).progress()
    assert (progress.reached, progress.settled) == (Reached.COMMITTED, True)
    assert (progress.flipped_at, progress.proven_at) == (None, None)


@pytest.mark.parametrize(
    ("flipped", "proven", "owing", "at", "hopeless"),
    [
        (0, 0, (2, 2), {"committed"}, set()),
        (2, 0, (0, 2), {"committed", "flipped"}, {"flipped"}),
        (2, 2, (0, 0), {"committed", "flipped", "proven"}, {"flipped", "proven"}),
        (1, 0, (0, 1), {"committed"}, {"flipped"}),
        (1, 0, (1, 0), {"committed"}, {"proven"}),
    ],
)
def test_a_level_is_reached_by_all_and_hopeless_when_nobody_owes_it(
    flipped: int, proven: int, owing: tuple[int, int], at: set[str], hopeless: set[str]
) -> None:
    progress = Progress(
        placed=2,
        reachable=2,
        flipped=flipped,
        proven=proven,
        listed=0,
        failed=0,
        owing_flip=owing[0],
        owing_proof=owing[1],
        resting=0,
        flipped_at=None,
        proven_at=None,
    )
    assert {level for level in ("committed", "flipped", "proven") if progress.reached.covers(level)} == at
    assert {level for level in ("flipped", "proven") if progress.hopeless(level)} == hopeless


def unproven(fleet: Fleet, record: AckRecord) -> bool:
    node = fleet.nodes["n1"]
    return ReplicaCounts([(node, node.replicas[0])], {"n1": record}).progress().is_unproven


def test_a_release_that_gave_its_slot_away_is_no_cause_to_page_and_one_that_fails_when_it_is_loaded_again_is(
    fleet: Fleet,
) -> None:
    record = counted(fleet, ack(AckState.FLIPPED, level=AckLevel.HOST, boot="e1", load=1))
    assert unproven(fleet, record), "nobody has seen yet what it answers"
    counted(fleet, ack(AckState.PROVEN, level=AckLevel.HOST, boot="e1", load=1))
    assert not unproven(fleet, record)
    counted(fleet, ack(AckState.FLIPPED, level=AckLevel.DISK, boot="e1", code="not_ready"))
    assert (record.state is AckState.PROVEN, unproven(fleet, record)) == (False, False)
    counted(fleet, ack(AckState.FLIPPED, level=AckLevel.HOST, boot="e1", load=2))
    assert (record.state is AckState.PROVEN, unproven(fleet, record)) == (False, False), "proven at the load before"
    counted(fleet, ack(AckState.FAILED, code="canary_mismatch", boot="e1"))
    assert unproven(fleet, record)
    counted(fleet, ack(AckState.FLIPPED, level=AckLevel.DISK, boot="e1", code="not_ready"))
    counted(fleet, ack(AckState.FLIPPED, level=AckLevel.HOST, boot="e1", load=3))
    assert unproven(fleet, record), "its newest proof was bad"


def test_a_proof_ends_with_the_lifetime_of_its_engine(fleet: Fleet) -> None:
    record = counted(fleet, ack(AckState.PROVEN, level=AckLevel.HOST, boot="e1", load=1))
    counted(fleet, ack(AckState.FLIPPED, level=AckLevel.DISK, boot="e2", code="not_ready"))
    counted(fleet, ack(AckState.FLIPPED, level=AckLevel.HOST, boot="e2", load=1))
    assert unproven(fleet, record)
