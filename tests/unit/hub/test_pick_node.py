"""Which node a queued job goes to, without a hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from loradeck.hub.fleet.node import Node
from loradeck.hub.jobs.queue import pick_node, why_waits
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.jobs import (
    LATER,
    RECIPES,
    EvaluateSpec,
    Job,
    JobSpec,
    JobState,
    LeakSpec,
    MergeSpec,
    ProveSpec,
    TrainSpec,
    level_of,
)
from loradeck.schemas.link import JobRoom, JobsBackend, Replica
from loradeck.schemas.manifest import DecisionRecord
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.telemetry import Gpu, Host

BASE = "b" * 64


def node(name: str, *, base: str = BASE, state: EngineState = EngineState.UP, **more: Any) -> Node:
    return Node(name, replicas=(Replica(replica=name, state=state, base=base, slots=4),), **more)


def job(**more: Any) -> Job:
    spec = EvaluateSpec(tenant="acme", route="production", release="a" * 64, suite="d" * 64)
    return Job(
        id="j1", kind="evaluate", tenant="acme", spec=spec, state=JobState.QUEUED, created_ms=1, by="ops", **more
    )


def picked(job: Job, *nodes: Node, busy: Sequence[str] = (), before: str | None = None) -> str | None:
    given = {name: [job.model_copy(update={"id": f"{name}-{n}"}) for n in range(busy.count(name))] for name in busy}
    found = pick_node(job, BASE, nodes, given, before)
    return found.name if found else None


def test_the_first_node_by_name_runs_a_job_unless_its_checkpoints_lie_on_another() -> None:
    nodes = node("n2"), node("n1"), node("n3")
    assert picked(job(), *nodes) == "n1"
    assert picked(job(), *nodes, before="n3") == "n3"
    assert picked(job(), *nodes, before="n3", busy=["n3"]) == "n1"


@pytest.mark.parametrize(
    "unfit",
    [
        node("n1", cordoned=True),
        node("n1", drained=True),
        node("n1", behind="log_behind"),
        node("n1", base="c" * 64),
        node("n1", state=EngineState.DOWN),
    ],
)
def test_a_node_that_takes_no_work_or_runs_no_such_engine_gets_none(unfit: Node) -> None:
    assert picked(job(), unfit) is None


def test_a_job_waits_for_the_labels_and_the_memory_that_it_asks_for() -> None:
    assert picked(job(labels={"gpu": "h100"}), node("n1"), node("n2", labels={"gpu": "h100"})) == "n2"
    small, large = (Host(cpu_percent=0, memory_used=0, memory_total=gb * 10**9, load1=0) for gb in (32, 64))
    assert picked(job(memory_gb=40), node("n1"), node("n2", host=small), node("n3", host=large)) == "n3"


def test_a_submit_host_takes_so_many_jobs_at_once_of_the_bases_that_it_names_and_none_that_asks_an_engine() -> None:
    host = Node("login", recipes=RECIPES, backend=JobsBackend(system="slurm", at_once=2, bases=(BASE, "c" * 64)))
    fields: dict[str, Any] = {"tenant": "acme", "release": "a" * 64, "suite": "d" * 64, "offline": True}
    offline = job(memory_gb=400).model_copy(update={"spec": EvaluateSpec(**fields)})
    assert picked(offline, host) == "login"
    assert picked(offline, host, busy=["login"]) == "login"
    assert picked(offline, host, busy=["login", "login"]) is None
    assert picked(job(), host) is None, "it asks an engine"
    assert pick_node(offline, "e" * 64, [host], {}, None) is None
    distils: dict[str, Any] = {"tenant": "acme", "name": "n", "base": BASE, "datasets": ("d" * 64,), "method": "distil"}
    for teacher, way, to in (("c", "logits", "login"), ("e", "logits", None), ("c", "top", None)):
        settings = {"teacher": teacher * 64, "licence": "MIT", "way": way}
        spec = TrainSpec(**distils, distillation=settings, decision=DecisionRecord(why_weights="it has to be"))  # type: ignore[arg-type]
        assert picked(job().model_copy(update={"spec": spec}), host) == to


def test_a_node_without_an_engine_gets_jobs_on_the_bases_that_it_names_beside_each_other() -> None:
    here = Node("trainer", recipes=RECIPES, backend=JobsBackend(system="node", at_once=1, bases=(BASE,)))
    spec = TrainSpec.model_validate(
        {"tenant": "acme", "name": "n", "base": BASE, "datasets": ["d" * 64], "decision": {"why_weights": "x"}}
    )
    trains = job().model_copy(update={"spec": spec, "kind": "train"})
    assert picked(trains, here) == "trainer"
    assert picked(trains, here, busy=["trainer"]) is None, "it has not said what room it has"
    here.room = JobRoom(at_once=2)
    assert picked(trains, here, busy=["trainer"]) == "trainer"
    assert picked(trains, here, busy=["trainer"] * 2) is None
    assert picked(job(), here) is None, "it asks an engine"
    assert pick_node(trains, "e" * 64, [here], {}, None) is None
    proves = job().model_copy(update={"spec": ProveSpec(node="trainer", base=BASE), "kind": "prove"})
    assert picked(proves, here) == "trainer"


def test_a_job_says_what_holds_the_gpus_that_it_waits_for_where_that_is_no_other_job() -> None:
    gpu = Gpu(index=0, uuid="GPU-0", name="H100", memory_used=0, memory_total=80)
    full = node("n1", recipes=RECIPES, room=JobRoom(taken="GPU-0: engine e0"))
    full.gpus_json = TypeAdapter(tuple[Gpu, ...]).dump_json((gpu,))
    waiting = job().model_copy(update={"spec": ProveSpec(node="n1", base=BASE), "kind": "prove"})
    assert picked(waiting, full) is None
    assert why_waits(waiting, BASE, [full], {}) == "waits: n1: 0 of 1 GPUs are free; GPU-0: engine e0"
    assert why_waits(waiting, BASE, [full], {"n1": [waiting]}) == "", "it waits for that one"


def test_a_trial_of_training_goes_to_its_own_node_also_where_that_is_cordoned_until_it_is_proven() -> None:
    trial = job().model_copy(update={"spec": ProveSpec(node="n2", base=BASE), "kind": "prove"})
    assert picked(trial, node("n1", recipes=RECIPES), node("n2", recipes=RECIPES, cordoned=True)) == "n2"
    assert picked(trial, node("n1", recipes=RECIPES), node("n2", recipes=RECIPES, drained=True)) is None


def test_a_recipe_goes_to_a_node_whose_agent_can_read_it() -> None:
    fields = {
        "tenant": "acme",
        "name": "tickets",
        "base": BASE,
        "datasets": ("d" * 64,),
        "decision": {"why_weights": "x"},
    }
    plain, later = (TrainSpec.model_validate(fields | more) for more in ({}, {"turns": "all"}))
    nodes = node("n1"), node("n2", recipes=RECIPES)
    assert picked(job().model_copy(update={"spec": plain}), *nodes) == "n1"
    assert picked(job().model_copy(update={"spec": later}), *nodes) == "n2"
    distilled: dict[str, Any] = fields | {"method": "distil", "distillation": {"teacher": "e" * 64, "licence": "MIT"}}
    with_teacher = Replica(replica="n3.t", state=EngineState.DOWN, base="e" * 64, slots=4)
    n3 = node("n3", recipes=RECIPES)
    waiting = job().model_copy(update={"spec": TrainSpec.model_validate(distilled)})
    assert picked(waiting, *nodes, n3) is None, "no node has the teacher"
    n3.replicas = (*n3.replicas, with_teacher)
    assert picked(waiting, *nodes, n3) == "n3"
    by_top = distilled | {"distillation": {**distilled["distillation"], "way": "top"}}
    served = job().model_copy(update={"spec": TrainSpec.model_validate(by_top)})
    assert picked(served, *nodes, n3) is None, "its engine is asked, and is not up"
    assert level_of(served.spec) == RECIPES
    assert "turns" not in plain.model_dump(), "an agent of the version before reads it, and its digest is what it was"


@pytest.mark.parametrize(
    "more",
    [
        {"decision": {"why_weights": "x", "worksheet": "c" * 64}},
        {"validation": {}, "safety": {"dataset": "e" * 64, "rise": 0.1}},
        {"validation": {}, "safety": {"dataset": "e" * 64, "toxic": {"name": "list", "words": ["bad"]}}},
        {"validation": {"suite": "e" * 64}},
        {"method": "distil", "distillation": {"teacher": "e" * 64, "licence": "MIT", "top": 5}},
        {"method": "distil", "distillation": {"teacher": "e" * 64, "licence": "MIT", "way": "top"}},
        {"thoughts": "strip"},
    ],
)
def test_a_recipe_with_a_field_that_agents_of_the_version_before_refuse_is_of_this_level(more: dict[str, Any]) -> None:
    fields = {"tenant": "acme", "name": "t", "base": BASE, "datasets": ("d" * 64,), "decision": {"why_weights": "x"}}
    assert level_of(TrainSpec.model_validate(fields | more)) == RECIPES


def test_patterns_of_ranks_are_of_this_level_and_name_target_modules() -> None:
    fields = {"tenant": "acme", "name": "t", "base": BASE, "datasets": ("d" * 64,), "decision": {"why_weights": "x"}}
    own = TrainSpec.model_validate(fields | {"rank_pattern": {"0.attn.q_proj": 32}, "alpha_pattern": {"v_proj": 4}})
    assert (level_of(own), own.largest_rank) == (RECIPES, 32)
    for wrong in ({"rank_pattern": {"qproj": 4}}, {"rank_pattern": {"q_proj": 4}, "weights": "full"}):
        with pytest.raises(ValidationError, match="name ends of target_modules"):
            TrainSpec.model_validate(fields | wrong)
    with pytest.raises(ValidationError, match="rank_pattern"):
        TrainSpec.model_validate(fields | {"rank_pattern": {"(q)*_proj": 4}})


def test_every_field_that_a_recipe_got_later_has_a_level() -> None:
    added = set[str]()
    for name, field in TrainSpec.model_fields.items():
        added |= {name} if field.exclude_if else set()
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                added |= {f"{name}.{inner}" for inner, of in part.model_fields.items() if of.exclude_if}
    assert added - {"validation.worse"} == LATER, "worse is of a suite"


GENERATES = GenerateSpec.model_validate(
    {
        "tenant": "acme",
        "name": "more",
        "sources": [{"release": "a" * 64, "base": BASE, "licence": "MIT"}],
        "templates": [{"prompt": "?"}],
        "verifier": {"form": "text"},
        "beside": ["d" * 64],
    }
)


@pytest.mark.parametrize(
    ("spec", "level"),
    [
        (LeakSpec(tenant="acme", release="a" * 64, datasets=("d" * 64,)), 1),
        (GENERATES, 1),
        (EvaluateSpec(tenant="acme", release="a" * 64, suite="d" * 64, offline=True), 1),
        (EvaluateSpec(tenant="acme", release="a" * 64, suite="d" * 64), 0),
        (MergeSpec(tenant="acme", release="a" * 64), 0),
    ],
)
def test_a_job_that_an_older_agent_cannot_read_waits_for_a_newer_one_and_says_so(spec: JobSpec, level: int) -> None:
    waiting = job().model_copy(update={"spec": spec, "kind": spec.kind})
    old, older, new = node("n1"), node("n2"), node("n3", recipes=RECIPES)
    assert picked(waiting, old, new) == ("n3" if level else "n1")
    assert picked(waiting, old, older) == (None if level else "n1")
    said = "waits for a newer agent: those of n1, n2 cannot read it"
    assert why_waits(waiting, BASE, [older, old, node("n4", cordoned=True)], {}) == (said if level else "")
    assert why_waits(waiting, BASE, [old, new], {"n3": [job()]}) == "", "it waits for n3, which is busy"
