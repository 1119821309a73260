"""Generate jobs on a running hub: which are refused, and the dataset that comes of one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, OTHER_BASE, Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_erasure import execution, plan
from tests.integration.hub.test_ledger import HUMAN, MODEL, dataset, frozen, row, training

from loradeck.artifacts.rows.barred_rows import row_digest
from loradeck.rules.data.synthetic import share
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.generation import GenerationReport
from loradeck.schemas.link import Replica
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import EngineState

ALONE = Release(tenant="acme", form=Form.BASE, base=BASE.digest).id
OTHER = Release(tenant="acme", form=Form.BASE, base=OTHER_BASE.digest).id
VARIETY = {"texts": 3, "words": 9, "distinct_1": 5, "distinct_2": 6, "self_bleu": 200}

Spec = dict[str, Any]


@pytest.fixture
async def acme(deck: Deck) -> Deck:
    await deck.tenant()
    await deck.base()
    return deck


def recipe(people: str, *sources: Spec, **changes: Any) -> Spec:
    teacher = {"release": ALONE, "base": BASE.digest, "licence": "MIT", "terms": "ann read them, 2026-11-30"}
    fields: Spec = {
        "kind": "generate",
        "tenant": "acme",
        "name": "more",
        "sources": list(sources) or [teacher],
        "templates": [{"prompt": "Say {{word}}."}],
        "slots": {"word": ["one", "two", "three"]},
        "verifier": {"form": "text"},
        "beside": [people],
    }
    return fields | changes


async def adapter(deck: Deck, *datasets: str, seed: int = 1) -> Spec:
    """A source that was trained on these."""
    manifest = (await deck.adapter_manifest(seed=seed)).model_copy(update={"datasets": datasets})
    version = await deck.ok("POST", "adapters/acme/support/versions", manifest.model_dump(mode="json"))
    return {"release": version["release"], "base": BASE.digest, "licence": "own", "terms": "the base is Apache-2.0"}


def wrote(by: str, spec: Spec, **changes: Any) -> Spec:
    """The report of a job that asked eight and got three rows."""
    sources = [{"release": one["release"], "passed": share(0, 0).model_dump()} for one in spec["sources"]]
    sources[0]["passed"] = share(3, 6).model_dump()
    fields: Spec = {
        "job": by,
        "asked": 6,
        "unfinished": 0,
        "sensitive": 0,
        "passed": share(3, 6).model_dump(),
        "sources": sources,
        "copies": 0,
        "near": None,
        "contaminated": 0,
        "rows": 3,
        "beside": spec["beside"],
        "variety": VARIETY,
        "people": VARIETY,
        "tail": share(1, 4).model_dump(),
        "tail_of_people": share(2, 4).model_dump(),
    }
    return fields | changes


def rows(spec: Spec, **own: Any) -> list[Spec]:
    source = spec["sources"][0]
    said = {"generator_release": source["release"], "licence_class": source["licence"], **own}
    return [{"prompt": f"q{n}", "answer": f"a{n}", "provenance": said} for n in range(3)]


async def ends(deck: Deck, agent: LinkedAgent, spec: Spec, written: list[Spec], **report: Any) -> Any:
    """Submits a job, has its node say that it wrote these rows, and returns the job when it is over."""
    submitted = await deck.ok("POST", "jobs", {"spec": spec})
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    assert [ref.id for ref in assigned.asked] == [source["release"] for source in spec["sources"]]
    file = await deck.blob("".join(json.dumps(one) + "\n" for one in written).encode())
    result = {"report": wrote(assigned.id, spec, **report), "file": file.model_dump(mode="json")}
    await agent.say(assigned, ExecutorEventType.FINISHED, result)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    return await deck.ok("GET", f"jobs/{submitted['id']}")


async def test_what_a_job_wrote_becomes_a_dataset_one_deeper_than_what_its_source_learnt(
    acme: Deck, join: Join
) -> None:
    people = await dataset(acme, [row(n) for n in range(4)], name="people")
    made = await dataset(acme, [row(10, tier="restricted")], MODEL, name="made")
    source, agent = await adapter(acme, people, made), await join("n1")
    spec = recipe(people, source)
    first, *others = rows(spec)
    done = await ends(acme, agent, spec, [first | {"answer": "Asthma."}, *others])
    assert done["state"] == "done", done
    result = done["result"]
    assert (result["rows"], result["depth"], result["passed"], result["verified"]) == (3, 2, 3, 6)
    assert (result["low"], result["high"]) == (0.188, 0.812)
    kept = acme.hub.facts.ledger[result["dataset"]].entry
    assert (kept.model, kept.deepest, kept.by_depth, kept.generators) == (3, 2, (0, 3), (source["release"],))
    assert (kept.licence_classes, kept.sources) == (("own",), (f"job {done['id']}",))
    manifest = acme.hub.catalogue.datasets[result["dataset"]]
    assert (manifest.provenance.tier, manifest.provenance.verifier) == ("restricted", "text, by a program")
    (stated,) = await acme.ok("GET", f"attestations?kind=generation&subject={result['dataset']}")
    assert GenerationReport.model_validate(stated["body"]).passed == share(3, 6)
    body = stated | {"by": "me"}
    await acme.refused(403, "forbidden", "POST", "attestations", body)


async def test_rows_of_a_job_are_trained_beside_those_of_people_and_never_in_their_place(
    acme: Deck, join: Join
) -> None:
    people = await dataset(acme, [row(n) for n in range(4)], name="people")
    made = await dataset(acme, [row(10)], MODEL, name="made")
    spec = recipe(people, await adapter(acme, people, made))
    wrote = (await ends(acme, await join("n1"), spec, rows(spec)))["result"]["dataset"]
    await acme.refused(409, "synthetic_share", "POST", "jobs", training(wrote))
    await acme.ok("PUT", "tenants/acme/data-policy", {"synthetic_cap": 1})
    await acme.refused(409, "synthetic_depth", "POST", "jobs", training(wrote))
    await acme.ok("PUT", "tenants/acme/data-policy", {"synthetic_cap": 1, "depth_caps": [0.4]})
    problem = await acme.refused(409, "synthetic_share", "POST", "jobs", training(people, wrote))
    assert problem.context == {"model": 3, "rows": 7, "cap": 0.4, "depth": 2}
    await acme.ok("PUT", "tenants/acme/data-policy", {"synthetic_cap": 1, "depth_caps": [0.5]})
    await acme.ok("POST", "jobs", training(people, wrote))


async def test_a_job_is_refused_without_depth_terms_licence_or_rows_of_people(acme: Deck) -> None:
    people = await dataset(acme, [row(1)], name="people")
    made = await dataset(acme, [row(2)], MODEL, name="made")
    teacher = recipe(people)["sources"][0]

    async def refused(status: int, code: str, spec: Spec) -> None:
        await acme.refused(status, code, "POST", "jobs", {"spec": spec})

    await refused(409, "no_depth", recipe(people, await adapter(acme)))
    await refused(409, "terms_not_accepted", recipe(people, teacher | {"terms": ""}))
    await refused(409, "licence_forbidden", recipe(people, teacher | {"licence": "NOASSERTION"}))
    await acme.ok("PUT", "tenants/acme/data-policy", {"synthetic_cap": 1})
    await refused(409, "no_human_rows", recipe(made))
    learnt = await adapter(acme, people, made, seed=2)
    found = await plan(acme, rows=[row_digest(row(2))])
    await acme.ok("POST", "erasures", execution(found))
    await refused(409, "erased_row", recipe(people, learnt))
    await refused(404, "unknown_dataset", recipe("d" * 64))
    await refused(404, "unknown_release", recipe(people, teacher | {"release": "9" * 64}))
    await refused(409, "wrong_base", recipe(people, teacher | {"base": OTHER_BASE.digest}))
    await acme.tenant("bolt")
    await refused(404, "unknown_dataset", recipe(await dataset(acme, [row(3)], tenant="bolt")))


@pytest.mark.parametrize(
    ("own", "report", "code"),
    [
        ({"origin": "human", "synthetic_depth": 0, "generator_release": None}, {}, "bad_report"),
        ({}, {"job": "another"}, "bad_report"),
        ({}, {"rows": 2, "copies": 1}, "bad_rows"),
    ],
)
async def test_a_node_that_says_what_it_did_not_do_gets_no_dataset(
    acme: Deck, join: Join, own: Spec, report: Spec, code: str
) -> None:
    people = await dataset(acme, [row(1, consent="contract")], HUMAN, name="people")
    spec, before = recipe(people), len(acme.hub.catalogue.datasets)
    failed = await ends(acme, await join("n1"), spec, rows(spec, **own), **report)
    assert (failed["state"], failed["code"]) == ("failed", code), failed["message"]
    assert len(acme.hub.catalogue.datasets) == before
    assert await acme.ok("GET", f"attestations?kind={AttestationKind.GENERATION.value}") == []


async def test_a_job_waits_for_a_node_that_serves_all_of_its_sources(acme: Deck, join: Join) -> None:
    await acme.base(OTHER_BASE)
    people = await dataset(acme, [row(1)], name="people")
    teacher = recipe(people)["sources"][0]
    spec = recipe(people, teacher, teacher | {"release": OTHER, "base": OTHER_BASE.digest})
    agent = await join("n1")
    submitted = await acme.ok("POST", "jobs", {"spec": spec})
    assert (await acme.ok("GET", f"jobs/{submitted['id']}"))["state"] == "queued"
    both = Replica(replica="n2.t", state=EngineState.UP, base=OTHER_BASE.digest, slots=4)
    second = LinkedAgent(acme, "n2")
    second.others = (both,)
    await second.join()
    assigned = await until(lambda: second.jobs.get(submitted["id"]), "assigned")
    assert ({ref.id for ref in assigned.asked}, agent.jobs) == ({ALONE, OTHER}, {})
    await second.leave()


async def test_a_freeze_of_training_holds_the_rows_that_are_to_be_trained_on_too(acme: Deck, join: Join) -> None:
    people = await dataset(acme, [row(1, source="crm")], name="people")
    await frozen(acme, {"from_ms": 0, "source": "crm", "reason": "legal hold"})
    asked = {"spec": recipe(people)}
    problem = await acme.refused(409, "training_frozen", "POST", "jobs", asked)
    assert problem.detail == "legal hold"
    job = await acme.ok("POST", "jobs", asked | {"override": "the court has agreed"})
    assert job["override"] == "the court has agreed"
