"""What counts, as which level, and until when."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.serving.counting import flip_counts, is_cold, is_resting, leaves_at, share, sources
from loradeck.schemas.replica_state import LINK_TTL_S, AckLevel, AckState
from loradeck.schemas.state import ReplicaRow, TenantRow

states = st.sampled_from([None, *AckState])


@given(state=states, flipped=st.booleans(), pinned=st.booleans())
def test_a_lost_node_is_neither_flipped_nor_proven_nor_listed_and_owes_nothing(
    state: AckState | None, flipped: bool, pinned: bool
) -> None:
    reachable, *counts = share(silent=True, state=state, flipped=flipped, pinned=pinned, rests=True)
    is_flipped, proven, listed, _, owing_flip, owing_proof, resting = counts
    assert not any((reachable, is_flipped, proven, listed, owing_flip, owing_proof, resting))


@pytest.mark.parametrize(
    ("refuse_after", "leaves"),
    [
        (None, math.inf),  # it serves on without a hub, however long
        (30.0, 100.0 + 30.0 + LINK_TTL_S),  # the hub's last message may have been one TTL on its way
        (0.0, 100.0 + LINK_TTL_S),
    ],
)
def test_a_lost_replica_leaves_the_count_by_its_refuse_after_only(refuse_after: float | None, leaves: float) -> None:
    assert leaves_at(refuse_after, addressed=100.0) == leaves


def test_a_release_on_the_disk_only_or_absent_is_cold() -> None:
    cold = {level for level in (None, *AckLevel) if is_cold(level)}
    assert cold == {AckLevel.DISK, AckLevel.ABSENT}


@pytest.mark.parametrize(("cold", "reads"), [(False, "FLIPPED 1/2"), (True, "FLIPPED cold 1/2")])
def test_a_flip_whose_release_is_yet_to_be_loaded_reads_otherwise(cold: bool, reads: str) -> None:
    replicas = (ReplicaRow.model_construct(cold=cold), ReplicaRow.model_construct(cold=False))
    assert flip_counts(TenantRow.model_construct(flipped=1, placed=2, replicas=replicas)) == reads


def replica(
    node: str, state: AckState | None, heard: float | None, proof: float | None = None, *, lost: bool = False
) -> ReplicaRow:
    return ReplicaRow.model_construct(node=node, state=state, heard_age_s=heard, proof_age_s=proof, lost=lost)


def said(*replicas: ReplicaRow) -> dict[str, tuple[str, str, float]]:
    return {one.count: (one.by, one.node, one.age_s) for one in sources(replicas)}


def test_a_count_names_the_oldest_word_that_is_counted_in_it() -> None:
    proven, listed = replica("n1", AckState.PROVEN, 1.0, 40.0), replica("n2", AckState.LISTED, 3.0, 90.0)
    assert said(proven, listed, replica("n3", AckState.PROVEN, 2.0, 10.0)) == {
        "flipped": ("acknowledgement", "n2", 3.0),
        "proven": ("probe", "n1", 40.0),
        "minute": ("report", "n2", 3.0),
    }


def test_what_is_not_counted_is_no_source_of_a_count() -> None:
    lost, unflipped = replica("n2", AckState.PROVEN, 30.0, 300.0, lost=True), replica("n3", None, 9.0)
    assert said(replica("n1", AckState.PROVEN, 1.0, 40.0), lost, unflipped) == {
        "flipped": ("acknowledgement", "n1", 1.0),
        "proven": ("probe", "n1", 40.0),
        "minute": ("report", "n3", 9.0),
    }
    assert said(replica("n1", AckState.FAILED, 1.0, 2.0), replica("n2", None, None)) == {
        "minute": ("report", "n1", 1.0)
    }
    assert said(lost) == {}


def test_a_replica_that_is_heard_owes_what_it_has_not_acknowledged_yet() -> None:
    owing = {
        (state, flipped): share(silent=False, state=state, flipped=flipped, pinned=False)[5:7]
        for state, flipped in (
            (None, False),
            (AckState.WAITING, False),
            (AckState.FLIPPED, True),
            (AckState.LISTED, True),
            (AckState.PROVEN, True),
            (AckState.FAILED, False),
        )
    }
    assert owing == {
        (None, False): (True, True),
        (AckState.WAITING, False): (True, True),
        (AckState.FLIPPED, True): (False, True),
        (AckState.LISTED, True): (False, False),
        (AckState.PROVEN, True): (False, False),
        (AckState.FAILED, False): (False, False),
    }


@pytest.mark.parametrize(
    ("level", "boot", "checked_boot", "rests"),
    [
        (AckLevel.DISK, "a", None, True),  # it answers nobody before its canaries were answered
        (AckLevel.HOST, "a", "a", True),  # loaded again, in the lifetime in which it was proven
        (AckLevel.HOST, "b", "a", False),  # the engine has started anew
        (AckLevel.HOST, "", "", False),  # an agent that names no boot
        (AckLevel.HOST, "a", None, False),  # its first load, or a proof that went wrong
        (None, "a", None, False),
    ],
)
def test_a_flipped_replica_rests_while_it_is_cold_or_was_proven_in_this_lifetime_of_its_engine(
    level: AckLevel | None, boot: str, checked_boot: str | None, rests: bool
) -> None:
    assert is_resting(level=level, boot=boot, checked_boot=checked_boot) is rests


def test_only_what_has_flipped_and_not_failed_rests() -> None:
    resting = {
        (state, flipped)
        for state in (None, *AckState)
        for flipped in (True, False)
        if share(silent=False, state=state, flipped=flipped, pinned=False, rests=True)[7]
    }
    assert resting == {(AckState.FLIPPED, True)}
