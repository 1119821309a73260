"""Which GPUs a training job gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loradeck.rules.scheduling import (
    MEMORY_ERRORS,
    Holders,
    NoFreeGpu,
    failing,
    gpu_faults,
    links_fail,
    reserved,
    world_sizes,
)
from loradeck.schemas.telemetry import Gpu, GpuProcess, NvLink

GIB = 1 << 30


def gpu(name: str, used: int = 0, pids: tuple[int, ...] = (), **more: object) -> Gpu:
    processes = tuple(GpuProcess(pid=pid, memory_bytes=None) for pid in pids)
    fields = {"index": 0, "uuid": name, "name": "H100", "memory_used": used, "memory_total": 80, "processes": processes}
    return Gpu.model_validate(fields | more)


def test_a_job_gets_the_emptiest_gpus_that_nothing_uses() -> None:
    gpus = [gpu("a", 5), gpu("b", 1), gpu("c", 3)]
    assert reserved(gpus, (1,), Holders({}, ())) == ("b",)
    assert reserved(gpus, (2,), Holders({"b": "vllm"}, ())) == ("c", "a")


def test_an_engine_and_a_job_share_a_gpu_only_where_the_node_says_so() -> None:
    gpus = [gpu("a", 70, pids=(7,)), gpu("b", 60, pids=(8,)), gpu("c")]
    found = Holders({"c": "vllm"}, (7, 8))
    with pytest.raises(NoFreeGpu, match="0 of 1 GPUs are free; a: process 7; b: process 8; c: engine vllm"):
        reserved(gpus, (1,), found)
    assert reserved(gpus, (1,), replace(found, shared=("a", "b"))) == ("b",)
    with pytest.raises(NoFreeGpu, match="c: not given to jobs"):
        reserved(gpus, (3,), replace(found, shared=("a", "b")))


def test_a_process_that_has_ended_since_holds_nothing() -> None:
    assert reserved([gpu("a", pids=(7,))], (1,), Holders({}, ())) == ("a",)


def test_memory_that_no_listed_process_accounts_for_keeps_a_gpu_from_jobs_until_it_is_let_go() -> None:
    """As where the driver refuses the list, or the process is in a container that this node does not see into."""
    unseen = gpu("a", 60 * GIB, memory_total=80 * GIB)
    with pytest.raises(NoFreeGpu, match=r"a: 60\.0 GiB in use by processes that are not seen here") as refused:
        reserved([unseen], (1,), Holders({}, ()))
    assert refused.value.soon, "of a process that has just ended, the next sample shows it let go"
    assert not refused.value.later, "no job has it, so nothing says that it ever is"
    with pytest.raises(NoFreeGpu, match="engine vllm") as refused:
        reserved([unseen], (1,), Holders({"a": "vllm"}, ()))
    assert not refused.value.soon
    assert reserved([unseen], (1,), Holders({}, (), ("a",))) == ("a",)
    assert reserved([gpu("a", GIB, memory_total=80 * GIB)], (1,), Holders({}, ())) == ("a",)  # of the driver itself


@pytest.mark.parametrize("memory", [60 * GIB, None])
def test_memory_of_a_listed_process_that_has_ended_since_is_no_other_ones(memory: int | None) -> None:
    processes = (GpuProcess(pid=7, memory_bytes=memory),)
    assert reserved([gpu("a", 60 * GIB, memory_total=80 * GIB, processes=processes)], (1,), Holders({}, ())) == ("a",)


@pytest.mark.parametrize(
    ("fault", "says"), [({"xids": (13, 79)}, "XID 79"), ({"ecc_uncorrected": 2}, "2 uncorrected memory errors")]
)
def test_a_gpu_that_fails_gets_no_job_even_where_the_node_gives_it_to_jobs(fault: dict[str, object], says: str) -> None:
    broken = gpu("a", **fault)
    assert failing(broken) == says
    with pytest.raises(NoFreeGpu, match=says):
        reserved([broken], (1,), Holders({}, (), ("a",)))
    assert reserved([broken, gpu("b", 70)], (1,), Holders({}, ())) == ("b",)


def test_a_fault_is_the_same_one_however_often_it_came() -> None:
    assert gpu_faults(gpu("a", xids=(79, 13, 63, 79), ecc_uncorrected=3)) == ("XID 63", "XID 79", MEMORY_ERRORS)


def test_faults_of_a_program_are_none_of_the_gpu() -> None:
    assert failing(gpu("a", xids=(13, 31, 43), ecc_uncorrected=0)) is None


def test_a_run_that_goes_on_takes_fewer_gpus_than_its_recipe_where_they_share_its_pieces_evenly() -> None:
    assert world_sizes(4, 4, resumed=False) == (4,)
    assert world_sizes(4, 4, resumed=True) == (4, 2, 1)
    assert world_sizes(3, 6, resumed=True) == (3, 2, 1)
    gpus = [gpu("a"), gpu("b", 1), gpu("c", 2)]
    assert reserved(gpus, (4, 2, 1), Holders({}, ())) == ("a", "b")
    with pytest.raises(NoFreeGpu, match="3 of 4 GPUs are free"):
        reserved(gpus, (4,), Holders({}, ()))


def test_a_gpu_is_one_jobs_until_it_ends_also_where_jobs_share_it_with_an_engine() -> None:
    gpus = [gpu("a", 5, pids=(7,)), gpu("b", 1), gpu("c", xids=(79,))]
    held = Holders({"a": "vllm"}, (7,), ("a", "b", "c"), {"b": "j1"})
    assert reserved(gpus, (1,), held) == ("a",)
    with pytest.raises(NoFreeGpu, match="1 of 2 GPUs are free; b: job j1; c: XID 79") as waits:
        reserved(gpus, (2,), held)
    assert waits.value.later, "j1 will end"
    with pytest.raises(NoFreeGpu) as never:
        reserved(gpus, (3,), held)
    assert not never.value.later, "c fails"


def test_a_gpu_that_mig_divides_is_given_to_no_job_not_even_where_the_node_gives_it_to_jobs() -> None:
    divided = gpu("a", mig=True)
    for shared in ((), ("a",)):
        with pytest.raises(NoFreeGpu, match="0 of 1 GPUs are free; a: in MIG mode") as never:
            reserved([divided], (1,), Holders({}, (), shared))
        assert not never.value.later
    assert reserved([divided, gpu("b", 70), gpu("c", 75, mig=False)], (2,), Holders({}, ())) == ("b", "c")


@pytest.mark.parametrize(
    ("links", "mig", "fail"),
    [
        (None, None, False),
        (NvLink(links=12, up=12, down=0), None, False),
        (NvLink(links=12, up=0, down=0), False, False),
        (NvLink(links=12, up=11, down=0), False, False),
        (NvLink(links=12, up=11, down=1), None, True),
        (NvLink(links=12, up=12, down=0, errors={"replay": 0, "CRC": 3}), False, True),
        (NvLink(links=12, up=0, down=12), True, False),
    ],
)
def test_links_fail_that_are_down_or_count_errors_and_not_those_of_which_it_is_not_known(
    links: NvLink | None, mig: bool | None, fail: bool
) -> None:
    card = gpu("a", nvlink=links, mig=mig)
    assert links_fail(card) is fail
    assert (failing(card), gpu_faults(card)) == (None, ()), "it is shown, and keeps no work away"
