"""Worksheets at a hub: made from jobs, kept, required where a tenant asks, and counted by no gate."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_jobs import FINISHED, job, report
from tests.integration.hub.test_ledger import dataset, row, training

from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.decision import Worksheet
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import EvaluateSpec, JobRequest
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.suite import Arm

PRICES = {"gpu_hour": 2.0}


@pytest.fixture
async def agent(deck: Deck, join: Join) -> LinkedAgent:
    await deck.tenant()
    await deck.base()
    return await join("n1")


async def measured(deck: Deck, agent: LinkedAgent, release: str, suite: str, exact: int, batch: int = 8) -> str:
    """An arm that was scored, by a fake executor."""
    spec = EvaluateSpec(tenant="acme", release=release, suite=suite, batch=batch, arm=Arm(system="Be brief."))
    submitted = await deck.ok("POST", "jobs", JobRequest(spec=spec).model_dump(mode="json"))
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    assert assigned.spec.arm == Arm(system="Be brief.")
    said = report(release, suite, exact)
    said["items"] = [one | {"ms": 50.0 + n % 2, "tokens": [100, 9 + n % 3]} for n, one in enumerate(said["items"])]
    await agent.say(assigned, FINISHED, {"report": said})
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    assert (await job(deck, submitted["id"]))["state"] == "done"
    return str(submitted["id"])


async def decided(deck: Deck, agent: LinkedAgent, prompt: int, adapter: int, batch: int = 8) -> dict[str, Any]:
    suite, release = await deck.suite(), await deck.release()
    alone = Release(tenant="acme", form=Form.BASE, base=BASE.digest).id
    jobs = {"prompt": await measured(deck, agent, alone, suite, prompt, batch)}
    jobs["adapter"] = await measured(deck, agent, release, suite, adapter)
    body = {"prices": PRICES, "requests_a_month": 50_000}
    body |= {"arms": [{"name": name, "job": of} for name, of in jobs.items()]}
    made: dict[str, Any] = await deck.ok("POST", "tenants/acme/decisions", body)
    assert (await deck.ok("POST", "tenants/acme/decisions", body))["digest"] == made["digest"]
    return made


async def test_a_worksheet_says_no_where_a_prompt_does_as_well(deck: Deck, agent: LinkedAgent) -> None:
    made = await decided(deck, agent, prompt=19, adapter=19)
    sheet = made["worksheet"]
    assert (sheet["weights"], sheet["choice"]) == (False, "prompt")
    prompt, adapter = sheet["arms"]
    assert (prompt["tokens_in"], prompt["tokens_out"], prompt["weights"], prompt["bytes"]) == (100, 9.95, False, 0)
    asked, answered, paid = *prompt["tokens"], prompt["cost_of"]
    assert (asked["low"], asked["high"], asked["n"]) == (100, 100, 20)
    assert answered["low"] < 9.95 < answered["high"]
    assert paid["low"] < prompt["cost"] < paid["high"]
    assert (adapter["weights"], adapter["bytes"] > 0, adapter["right"]["n"]) == (True, True, 20)
    assert prompt["cost"] == pytest.approx(1000 * 0.0505 / 8 / 3600 * 2)
    kept = await deck.ok("GET", f"attestations?kind=decision&subject={made['digest']}")
    assert len(kept) == 1
    forged = kept[0] | {"body": kept[0]["body"] | {"weights": True}}
    await deck.refused(403, "forbidden", "POST", "attestations", forged)


async def test_no_more_is_asked_at_once_than_the_suite_has(deck: Deck, agent: LinkedAgent) -> None:
    made = await decided(deck, agent, prompt=19, adapter=19, batch=1000)
    assert made["worksheet"]["arms"][0]["cost"] == pytest.approx(1000 * 0.0505 / 20 / 3600 * 2)


async def test_freshness_says_what_a_prompt_wins_over_the_live_release(deck: Deck, agent: LinkedAgent) -> None:
    sheet = Worksheet.model_validate((await decided(deck, agent, prompt=19, adapter=5))["worksheet"])
    alone = sheet.model_copy(update={"arms": tuple(a.model_copy(update={"prompt_gain": None}) for a in sheet.arms)})
    stated, body = deck.hub.attestations, alone.model_dump(mode="json")
    await stated.add(stated.draft(AttestationKind.DECISION, digest_of(alone), "acme", body, "jo"))
    await deck.promote(await deck.release())
    found = await deck.hub.freshness._prompt(("acme", "production"))
    assert found is not None
    assert (found.mean, found.n, found.low > 0) == (0.7, 20, True)


async def test_no_gate_counts_what_an_arm_scored(deck: Deck, agent: LinkedAgent) -> None:
    await decided(deck, agent, prompt=2, adapter=20)
    assert await deck.ok("GET", f"attestations?kind={AttestationKind.EVALUATION.value}") == []
    assert len(await deck.ok("GET", "attestations?kind=arm")) == 2


async def test_where_a_tenant_asks_for_worksheets_recipes_name_one_of_its_own(deck: Deck, agent: LinkedAgent) -> None:
    made = await decided(deck, agent, prompt=2, adapter=20)
    assert made["worksheet"]["weights"]
    await deck.ok("PUT", "tenants/acme/data-policy", {"worksheet_required": True})
    wanted = training(await dataset(deck, [row(1)]))
    await deck.refused(409, "no_worksheet", "POST", "jobs", wanted)
    wanted["spec"]["decision"]["worksheet"] = "f" * 64
    await deck.refused(409, "no_worksheet", "POST", "jobs", wanted)
    wanted["spec"]["decision"]["worksheet"] = made["digest"]
    await deck.ok("POST", "jobs", wanted)


async def test_what_is_no_arm_that_was_measured_makes_no_worksheet(deck: Deck, agent: LinkedAgent) -> None:
    suite, release = await deck.suite(), await deck.release()
    plain = await deck.ok(
        "POST",
        "jobs",
        JobRequest(spec=EvaluateSpec(tenant="acme", release=release, suite=suite)).model_dump(mode="json"),
    )
    body = {"prices": PRICES, "requests_a_month": 50_000}
    body["arms"] = [{"name": name, "job": plain["id"]} for name in ("a", "b")]
    await deck.refused(409, "no_arms", "POST", "tenants/acme/decisions", body)
