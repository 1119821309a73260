"""Jobs: which goes first, where it fits, and what is tried again."""

from __future__ import annotations

import pytest

from loradeck.rules.scheduling import ATTEMPTS, counts, has_memory, in_order, tried_again
from loradeck.schemas.jobs import EvaluateSpec, Job, JobState
from loradeck.schemas.telemetry import Gpu, Host

HOST = Host(cpu_percent=1.0, memory_used=6 * 10**9, memory_total=16 * 10**9, load1=0.1)


def job(name: str, priority: int, created_ms: int) -> Job:
    spec = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)
    fields = {"kind": "evaluate", "tenant": "acme", "spec": spec, "state": JobState.QUEUED, "by": "me"}
    return Job(id=name, priority=priority, created_ms=created_ms, **fields)


def gpu(index: int, used: float, total: float | None) -> Gpu:
    memory = None if total is None else round(total * 1e9)
    return Gpu(index=index, uuid=f"g{index}", name="g", memory_used=round(used * 1e9), memory_total=memory)


def test_the_highest_priority_goes_first_and_of_the_same_the_oldest() -> None:
    jobs = [job("late", 5, 30), job("low", -1, 1), job("old", 0, 10), job("high", 5, 20), job("new", 0, 40)]
    assert [each.id for each in in_order(jobs)] == ["high", "late", "old", "new", "low"]


@pytest.mark.parametrize(
    ("need", "host", "gpus", "fits"),
    [
        (None, None, (), True),
        (10.0, HOST, (), True),
        (10.1, HOST, (), False),
        (1.0, None, (), False),
        (1.0, HOST, (gpu(0, 79.5, 80),), False),
        (20.0, HOST, (gpu(0, 79, 80), gpu(1, 55, 80)), True),
        (26.0, HOST, (gpu(0, 55, 80), gpu(1, 55, 80)), False),
        (5.0, HOST, (gpu(0, 0, None),), True),
    ],
)
def test_what_a_job_needs_must_be_free_on_one_gpu_or_on_a_host_without(
    need: float | None, host: Host | None, gpus: tuple[Gpu, ...], fits: bool
) -> None:
    assert has_memory(need, host, gpus) is fits


@pytest.mark.parametrize("code", ["preempted", "node_lost", "job_lost", "killed", "executor_failed", "executor_lost"])
def test_what_was_taken_away_or_crashed_is_tried_again_so_many_times(code: str) -> None:
    assert [tried_again(code, attempt) for attempt in range(1, ATTEMPTS + 1)] == [True] * (ATTEMPTS - 1) + [False]
    assert tried_again(code, 7, counted_from=5)
    assert not tried_again(code, 8, counted_from=5)


def test_a_preempted_attempt_counts_where_it_got_no_further_and_its_node_was_not_drained() -> None:
    assert counts(drained=False, began=0, reached=0)
    assert counts(drained=False, began=40, reached=40)
    assert not counts(drained=False, began=40, reached=60)
    assert not counts(drained=True, began=40, reached=40)


@pytest.mark.parametrize("code", ["bad_data", "bad_spec", "wrong_base", "diverged", "out_of_memory", "disk_full"])
def test_what_would_end_the_same_way_is_not(code: str) -> None:
    assert not tried_again(code, 1)
