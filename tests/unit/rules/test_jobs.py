"""Jobs: which goes first, where it fits, and what is tried again."""

from __future__ import annotations

import pytest

from loradeck.rules.scheduling import ATTEMPTS, KEPT_AFTER_MS, counts, in_order, kept_node, shortage, tried_again
from loradeck.schemas.jobs import EvaluateSpec, Job, JobState, TrainSpec
from loradeck.schemas.link import JobHold, JobRoom
from loradeck.schemas.manifest import DecisionRecord
from loradeck.schemas.telemetry import Gpu, Host
from loradeck.schemas.training import QualityWeights

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


TRAINS = TrainSpec(
    tenant="acme", name="n", base="b" * 64, datasets=("d" * 64,), decision=DecisionRecord(why_weights="it has to be")
)


def trains(name: str = "j", *, processes: int = 1, gb: float | None = None) -> Job:
    spec = TrainSpec.model_validate({**TRAINS.model_dump(), "processes": processes, "batch": processes})
    return job(name, 0, 1).model_copy(update={"spec": spec, "kind": "train", "memory_gb": gb})


def evaluates(name: str = "j", gb: float | None = None) -> Job:
    return job(name, 0, 1).model_copy(update={"memory_gb": gb})


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
def test_what_a_job_needs_must_be_free_on_its_gpu_or_on_a_host_without(
    need: float | None, host: Host | None, gpus: tuple[Gpu, ...], fits: bool
) -> None:
    assert (shortage(trains(gb=need), (), None, host, gpus) == "") is fits
    ample = JobRoom(gpus=tuple(gpu.uuid for gpu in gpus))
    assert (shortage(trains(gb=need), (), ample, host, gpus) == "") is fits


def test_what_computes_on_no_gpu_needs_its_memory_on_the_host() -> None:
    assert shortage(evaluates(gb=8), (), None, HOST, (gpu(0, 79.5, 80),)) == ""
    assert shortage(evaluates(gb=12), (), None, HOST, (gpu(0, 0, 80),)) == "12 GB of memory are not free"


def test_a_node_whose_gpus_all_fail_gets_no_job_and_one_that_fails_is_not_counted() -> None:
    broken = gpu(0, 0, 80).model_copy(update={"xids": (79,)})
    assert shortage(evaluates(), (), None, HOST, (broken,)) == "all of its GPUs fail"
    assert shortage(trains(gb=30), (), None, HOST, (broken, gpu(1, 40, 80))) == ""
    assert shortage(trains(gb=50), (), None, HOST, (broken, gpu(1, 40, 80))) != ""


def test_a_gpu_that_mig_divides_is_not_counted_and_what_needs_none_runs_beside_it() -> None:
    divided = gpu(0, 0, 80).model_copy(update={"mig": True})
    assert shortage(trains(), (), None, HOST, (divided,)) == "0 of 1 GPUs are free"
    assert shortage(trains(), (), JobRoom(taken="g0: in MIG mode"), HOST, (divided,)) == (
        "0 of 1 GPUs are free; g0: in MIG mode"
    )
    assert shortage(evaluates(), (), None, HOST, (divided,)) == ""
    assert shortage(trains(gb=30), (), None, HOST, (divided, gpu(1, 40, 80))) == ""


def test_an_agent_that_says_nothing_of_its_room_runs_one_job_at_a_time() -> None:
    assert shortage(trains(), [evaluates("other")], None, HOST, (gpu(0, 0, 80), gpu(1, 0, 80))) != ""


def test_jobs_run_beside_each_other_as_far_as_gpus_reach_and_those_without_by_their_number() -> None:
    gpus = tuple(gpu(n, 0, 80) for n in range(3))
    room = JobRoom(gpus=("g0", "g1", "g2"))
    assert shortage(trains("b", processes=2), [trains("a")], room, HOST, gpus) == ""
    two = [trains("a"), trains("b", processes=2)]
    assert shortage(trains("c"), two, room, HOST, gpus) == "0 of 1 GPUs are free"
    holds = JobHold(job="a", gpus=("g0",)), JobHold(job="b", gpus=("g1", "g2"))
    begun = JobRoom(taken="g0: job a", held=holds)
    assert shortage(trains("c"), two, begun, HOST, gpus) == "0 of 1 GPUs are free; g0: job a"
    freed = begun.model_copy(update={"gpus": ("g0",), "held": begun.held[1:]})
    assert shortage(trains("c"), two[1:], freed, HOST, gpus) == "", "b holds its two already"
    assert shortage(evaluates("c"), two, begun, HOST, gpus) == ""
    assert shortage(evaluates("d"), [*two, evaluates("c")], begun, HOST, gpus) == "no more than 1 such at once"
    assert shortage(evaluates("d"), [*two, evaluates("c")], begun.model_copy(update={"at_once": 2}), HOST, gpus) == ""
    assert shortage(trains("b"), [trains("a")], JobRoom(at_once=2), HOST, ()) == "", (
        "there are no GPUs: by their number"
    )
    assert shortage(trains("c"), [trains("a"), trains("b")], JobRoom(at_once=2), HOST, ()) != ""


def test_memory_that_a_job_is_yet_to_take_is_not_given_twice() -> None:
    room = JobRoom(at_once=9)
    assert shortage(evaluates("b", gb=5), [evaluates("a", gb=5)], room, HOST, ()) == ""
    assert shortage(evaluates("b", gb=6), [evaluates("a", gb=5)], room, HOST, ()) != "", "10 of 16 GB are free"
    grown = room.model_copy(update={"held": (JobHold(job="a", memory_bytes=4 * 10**9),)})
    assert shortage(evaluates("b", gb=9), [evaluates("a", gb=5)], grown, HOST, ()) == "", "a has 4 of its 5"
    gpus = gpu(0, 0, 80), gpu(1, 50, 80)
    both = JobRoom(gpus=("g0", "g1"))
    assert shortage(trains("b", gb=40), [trains("a", gb=40)], both, HOST, gpus) != "", "a takes the one with the most"
    assert shortage(trains("b", gb=30), [trains("a", gb=40)], both, HOST, gpus) == ""


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


def test_a_weight_so_small_that_its_rows_come_in_no_pass_is_refused() -> None:
    assert QualityWeights(scraped=0.001).of(None) == 0.001
    with pytest.raises(ValueError, match="at least"):
        QualityWeights(gold=0.0004, curated=0, scraped=0)  # no pass would have a row, and drawing would never end


LONG = KEPT_AFTER_MS + 1
"""A time at which a job of `trains` has waited long enough."""


def holds(*gpus: str) -> JobHold:
    return JobHold(job="-".join(gpus), gpus=gpus)


@pytest.mark.parametrize(
    ("waits", "now_ms", "kept"),
    [
        (trains(processes=2), LONG, "most"),
        (trains(processes=2), LONG - 1, None),
        (trains(), LONG, None),
        (evaluates(), LONG, None),
        (trains(processes=4), LONG, "four"),
        (trains(processes=5), LONG, None),
        (trains(processes=2, gb=70), LONG, "most"),
        (trains(processes=2, gb=79.5), LONG, "four"),
        (trains(processes=2, gb=100), LONG, None),
    ],
)
def test_the_gpus_of_the_node_that_is_nearest_to_enough_are_kept_for_a_job_that_has_waited_for_several(
    waits: Job, now_ms: int, kept: str | None
) -> None:
    pair, four = (gpu(0, 0, 80), gpu(1, 0, 80)), tuple(gpu(n, 0, 80) for n in range(4))
    broken = gpu(1, 0, 80).model_copy(update={"xids": (79,)})
    nodes = {
        "four": (JobRoom(held=(holds("g0", "g1"), holds("g2", "g3"))), four),
        "most": (JobRoom(gpus=("g0",), held=(holds("g1"),)), (gpu(0, 1, 80), gpu(1, 60, 80))),
        "engine": (JobRoom(gpus=("g0",), taken="g1: engine e0"), pair),
        "broken": (JobRoom(gpus=("g0",), held=(holds("g1"),)), (gpu(0, 0, 80), broken)),
    }
    assert kept_node(waits, now_ms, nodes) == kept


def test_what_is_kept_ends_no_sooner_where_another_node_has_as_many_free() -> None:
    """Of two that are alike it is always the same one, and not now this one and now that."""
    pair = (gpu(0, 0, 80), gpu(1, 0, 80))
    alike = {name: (JobRoom(gpus=("g0",), held=(holds("g1"),)), pair) for name in ("n2", "n1")}
    assert kept_node(trains(processes=2), LONG, alike) == "n1"
