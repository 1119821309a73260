"""Acknowledgements are counted by the fleet itself, which trusts no caller to have compared their fence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from loradeck.hub.fleet.nodes import Change, Fleet
from loradeck.schemas.link import Ack, Hello, JobsBackend, Replica, Report
from loradeck.schemas.log import GENESIS
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.schemas.telemetry import Gpu, NvmlState

KEY = ("acme", "production")
V1, V2 = "1" * 64, "2" * 64


def ack(generation: int, release: str, state: AckState, epoch: int = 1) -> Ack:
    return Ack(
        tenant=KEY[0],
        route=KEY[1],
        epoch=epoch,
        generation=generation,
        release=release,
        replica="n1",
        state=state,
        at_ms=0,
    )


@pytest.fixture
def fleet() -> Fleet:
    fleet = Fleet(lambda: 1.0)
    replica = Replica(replica="n1", state=EngineState.UP, base="b" * 64, slots=4)
    hello = Hello(node="n1", boot="a", version="1", epoch=0, rev=0, hash=GENESIS, replicas=(replica,))
    fleet.hello(hello, cast("Any", SimpleNamespace()))
    return fleet


@pytest.mark.parametrize(
    "late", [ack(1, V1, AckState.WAITING), ack(1, V1, AckState.PROVEN), ack(2, V1, AckState.FAILED, epoch=0)]
)
def test_an_acknowledgement_of_another_fence_changes_nothing(fleet: Fleet, late: Ack) -> None:
    assert fleet.ack(ack(1, V1, AckState.PROVEN), (1, 1), V1) is not None
    now = fleet.ack(ack(2, V2, AckState.PROVEN), (1, 2), V2)
    assert now is not None
    before = (now.fence, now.state, now.flipped, now.proven)
    assert fleet.ack(late, (1, 2), V2) is None
    assert fleet.acks(KEY, (1, 2)) == {"n1": now}
    assert (now.fence, now.state, now.flipped, now.proven) == before


def test_an_acknowledgement_of_the_fence_that_is_current_is_counted(fleet: Fleet) -> None:
    record = fleet.ack(ack(2, V2, AckState.FLIPPED), (1, 2), V2)
    assert record is not None
    assert record.is_flipped
    assert record.state is not AckState.PROVEN


def worn(errors: int, uuid: str = "GPU-1") -> Gpu:
    return Gpu(index=0, uuid=uuid, name="H100", ecc_uncorrected=errors)


def test_a_node_whose_faults_a_person_has_seen_stays_in_through_hangs_restarts_and_more_of_the_same(
    fleet: Fleet,
) -> None:
    node = fleet.nodes["n1"]
    assert fleet.cordon_failing(node, [worn(1)], NvmlState.OK) == {"GPU-1: uncorrected memory errors"}
    fleet.order(node, cordoned=False, drained=None)
    for state, gpus in (
        (NvmlState.HUNG, [Gpu(index=0, uuid="GPU-1", name="H100")]),
        (NvmlState.STARTING, []),
        (NvmlState.OK, [worn(1)]),
        (NvmlState.OK, [worn(3)]),
    ):
        assert not fleet.cordon_failing(node, gpus, state)
    assert not node.cordoned
    assert fleet.cordon_failing(node, [Gpu(index=0, uuid="GPU-2", name="H100", xids=(79,))], NvmlState.LOST)
    assert node.cordoned_for == {"GPU-2: XID 79"}
    assert not fleet.cordon_failing(node, [worn(0)], NvmlState.OK), "they are well"
    assert fleet.cordon_failing(node, [worn(1)], NvmlState.OK), "and fail again"


def test_a_node_that_names_a_gpu_as_guard_would_does_not_pass_for_one_that_guard_has_cordoned(fleet: Fleet) -> None:
    node = fleet.nodes["n1"]
    fleet.cordon_failing(node, [Gpu(index=0, uuid="guard: x", name="H100", xids=(79,))], NvmlState.OK)
    assert node.cordoned
    assert not fleet.cordoned_by_guard()
    fleet.cordon_bad(node, "bad 40.0% of 200", 1)
    fleet.cordon_failing(node, [], NvmlState.OK)
    assert fleet.cordoned_by_guard() == ["n1"], "also once its GPUs are well"
    fleet.order(node, cordoned=False, drained=None)
    assert not fleet.cordoned_by_guard()


@pytest.mark.parametrize("state", NvmlState)
def test_a_node_that_names_other_gpus_in_each_report_takes_no_more_memory(fleet: Fleet, state: NvmlState) -> None:
    node = fleet.nodes["n1"]
    for n in range(20):
        gpus = [worn(1, f"{19 - n:02}{card:02}" + "x" * 1996) for card in range(64)]
        fleet.cordon_failing(node, gpus, state)
        assert sum(map(len, node.failing | node.cordoned_for)) < 10_000
    assert node.cordoned


def test_the_bases_of_a_nodes_jobs_are_those_that_it_has_said_last() -> None:
    fleet = Fleet(lambda: 1.0)
    said = [JobsBackend(system="node", at_once=1, bases=bases) for bases in ((), ("b" * 64,))]
    hello = Hello(node="n1", boot="a", version="1", epoch=0, rev=0, hash=GENESIS, replicas=(), backend=said[0])
    node = fleet.hello(hello, cast("Any", SimpleNamespace()))
    for report, known, change in ((said[1], said[1], Change.SHOWN), (None, said[1], Change.NOTHING)):
        changed = fleet.report(node, Report(replicas=(), nvml=NvmlState.NO_GPU, rev=0, epoch=0, backend=report))
        assert (node.backend, changed) == (known, change)
    assert node.bases == {"b" * 64}
