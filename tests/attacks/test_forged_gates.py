"""Evaluations that no job made, reviews by the author, and signers and gates that somebody drops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes.sign_in_provider import fake_provider
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import PROVENANCE, SOON, Deck, data_folder, key, running
from tests.fleets.waiting import until
from tests.integration.hub.test_candidates import call
from tests.integration.hub.test_jobs import evaluate, report
from tests.integration.hub.test_reviews import signed

from loradeck.artifacts.signing import new_key
from loradeck.schemas.attestation import Attestation, AttestationKind, GateResult
from loradeck.schemas.gate import GateConfig, ReviewGate
from loradeck.schemas.jobs import Job, JobState, TrainSpec
from loradeck.schemas.manifest import DecisionRecord, SuiteManifest, SuiteUse
from loradeck.schemas.moves import PromoteRequest
from loradeck.store.interface import Doc

ROUTE = "tenants/acme/routes/production"


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    async with data_folder() as data, running(data) as deck:
        await deck.tenant()
        yield deck


@pytest.fixture
async def agent(deck: Deck) -> AsyncIterator[LinkedAgent]:
    await deck.base()
    agent = await LinkedAgent(deck, "n1").join()
    yield agent
    await agent.leave()


def promote(deck: Deck, release: str, **more: Any) -> dict[str, Any]:
    generation = deck.hub.log.state.pointer(("acme", "production")).generation
    request = PromoteRequest(release=release, expected_generation=generation, idempotency_key=key(), **more)
    return request.model_dump(mode="json")


async def imported(deck: Deck, release: str, suite: str, exact: int) -> None:
    """A releaser sends a report of its own making."""
    body = report(release, suite, exact)
    stated = {"kind": "evaluation", "subject": release, "tenant": "acme", "body": body, "by": "job j1"}
    await deck.ok("POST", "attestations", stated, await deck.as_role("releaser"))


async def test_a_report_that_somebody_sent_opens_no_gate_without_a_reason_in_the_event(
    deck: Deck, agent: LinkedAgent
) -> None:
    """The attack: 600 invented items in one call, and a promote passed the gate with no OVERRIDE and no reason."""
    release, suite = await deck.release(), await deck.suite()
    await deck.tenant(gate=GateConfig(suite=suite, min_exact=0.9).model_dump(mode="json"))
    await imported(deck, release, suite, 20)
    releaser = await deck.as_role("releaser")
    await deck.refused(409, "gate_imported", "POST", f"{ROUTE}/promote", promote(deck, release), releaser)
    body = promote(deck, release, reason="the laboratory's own harness, ticket 7")
    (event,) = (await deck.ok("POST", f"{ROUTE}/promote?wait=flipped", body, releaser))["events"]
    assert event["payload"]["overridden"] == ["gate_imported"]
    assert event["reason"] == body["reason"]
    assert not event["override"]


async def test_a_report_that_somebody_sent_does_not_stand_in_for_a_jobs(deck: Deck, agent: LinkedAgent) -> None:
    """The attack: a job said 10 of 20, and a later report by hand says 20 of 20."""
    release, suite = await deck.release(), await deck.suite()
    await deck.tenant(gate=GateConfig(suite=suite, min_exact=0.9).model_dump(mode="json"))
    await evaluate(deck, agent, release, suite, 10)
    await imported(deck, release, suite, 20)
    body = promote(deck, release, reason="please")
    await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/promote", body)


async def test_a_bad_report_of_the_live_release_makes_no_other_look_better_unseen(
    deck: Deck, agent: LinkedAgent
) -> None:
    """The attack: the live release is made to look worse by hand, so that a drop from it is none."""
    live, release, suite = await deck.release(), await deck.release(seed=2), await deck.suite()
    await deck.promote(live)
    await deck.tenant(gate=GateConfig(suite=suite, max_drop=0.0).model_dump(mode="json"))
    await imported(deck, live, suite, 1)
    await evaluate(deck, agent, release, suite, 10)
    await deck.refused(409, "gate_imported", "POST", f"{ROUTE}/promote", promote(deck, release))


async def test_who_had_a_release_made_does_not_pass_its_review_alone(deck: Deck, agent: LinkedAgent) -> None:
    """The attack: one person trains, looks at the answers, signs, and promotes."""
    release, suite = await deck.release(), await deck.suite()
    version = deck.hub.catalogue.version_of(deck.hub.catalogue.releases[release])
    assert version is not None
    ann = await deck.as_role("releaser")
    spec = TrainSpec(
        tenant="acme",
        name="support",
        base=version.manifest.base,
        datasets=(await deck.dataset(),),
        decision=DecisionRecord(why_weights="a test"),
    )
    made = {"adapter": version.digest, "release": release}
    job = Job(
        id="j1", kind="train", tenant="acme", spec=spec, state=JobState.DONE, created_ms=1, by="releaser", result=made
    )
    await deck.hub.jobs.add(job)
    await deck.tenant(gate=GateConfig(suite=suite, review=ReviewGate(items=5)).model_dump(mode="json"))
    await evaluate(deck, agent, release, suite, 20)
    sheet = await deck.ok("GET", f"{ROUTE}/reviews/{release}")
    assert not (await deck.ok("POST", f"{ROUTE}/reviews", signed(sheet), ann))["passed"]
    problem = await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/promote", promote(deck, release), ann)
    assert problem.detail == "signed off by releaser, who had it made; somebody else must sign, too"
    assert (await deck.ok("POST", f"{ROUTE}/reviews", signed(sheet), await deck.as_role("operator")))["passed"]
    await deck.promote(release)


async def test_a_gate_and_signers_are_loosened_with_a_reason_that_the_event_keeps(deck: Deck, tmp_path: Path) -> None:
    """The attack: a releaser drops `signers`, 200."""
    for name in ("a", "b"):
        new_key(tmp_path / name, tmp_path / f"{name}.pub")
    first, second = [(tmp_path / f"{name}.pub").read_text() for name in ("a", "b")]
    suite = await deck.suite()
    strict = SOON | {"signers": [first], "gate": GateConfig(suite=suite, min_exact=0.9).model_dump(mode="json")}
    await deck.ok("PUT", ROUTE, strict)
    loose_gate = GateConfig(suite=suite, min_exact=0.8).model_dump(mode="json")
    for change in ({"signers": []}, {"signers": [second]}, {"gate": None}, {"gate": loose_gate}):
        await deck.refused(422, "reason_required", "PUT", ROUTE, strict | change)
        await deck.ok("PUT", f"{ROUTE}?reason=the key was lost", strict | change)
        assert deck.hub.log.recent[-1].reason == "the key was lost"
        assert deck.hub.log.recent[-1].payload["loosened"]
        await deck.ok("PUT", f"{ROUTE}?reason=back", strict)
    await deck.ok("PUT", ROUTE, strict | {"min_replicas": 2})


async def test_copies_of_one_prompt_make_no_suite_larger(deck: Deck, agent: LinkedAgent) -> None:
    """The attack: a suite of 300 lines that ask one thing, for a gate that needs 246."""
    rows = [{"id": f"i{n}", "prompt": "p" + " " * n, "answer": "a"} for n in range(300)]
    entry = await deck.blob("\n".join(json.dumps(row) for row in rows).encode())
    manifest = SuiteManifest(tenant="acme", name="copies", items=300, files=(entry,), provenance=PROVENANCE)
    problem = await deck.refused(422, "bad_rows", "POST", "suites", manifest.model_dump(mode="json"))
    assert problem.title == "299 of 300 items ask what an earlier one asks"
    document = manifest.model_dump(mode="json")  # registered by a hub of an earlier version
    await deck.hub.registry.register(Doc.SUITE, manifest.digest, document, tenant="acme", by="ann")
    gate = GateConfig(suite=manifest.digest, max_drop=0.05).model_dump(mode="json")
    small = await deck.refused(409, "suite_too_small", "PUT", ROUTE, SOON | {"gate": gate})
    assert small.context["items"] == 1


async def test_a_candidate_that_is_the_best_of_many_on_the_gates_suite_is_seen_to_be(
    deck: Deck, agent: LinkedAgent
) -> None:
    """The attack: checkpoints are tried on the gate's own suite until one passes."""
    suite, releases = await deck.suite(), [await deck.release(seed=seed) for seed in range(1, 5)]
    await evaluate(deck, agent, releases[0], suite, 12)  # before the gate asks for it
    await deck.tenant(gate=GateConfig(suite=suite, min_exact=0.9).model_dump(mode="json"))
    looks = []
    for release, exact in zip(releases[1:], (13, 14, 19), strict=True):
        await evaluate(deck, agent, release, suite, exact)
        result = deck.hub.facts.gate(("acme", "production"), release)
        assert result is not None
        looks.append((result.passed, result.looks))
    assert looks == [(False, 2), (False, 3), (True, 4)]


async def test_the_best_of_several_tries_is_judged_at_a_level_that_pays_for_them_until_one_is_live() -> None:
    """The attack: candidates are tried on the gate's own suite until one passes by luck."""
    production, limit = ("acme", "production"), {"max_drop": 0.3, "bound_drop": True}

    async def tried(deck: Deck, agent: LinkedAgent, release: str, exact: int) -> tuple[bool, str]:
        await evaluate(deck, agent, release, suite, exact)
        return outcome(deck.hub.facts.gate(production, release))

    def outcome(result: GateResult | None) -> tuple[bool, str]:
        assert result is not None
        return result.passed, next(check.tries for check in result.checks if check.name == "drop")

    async with data_folder() as data:
        async with running(data) as deck:
            await deck.tenant()
            await deck.base()
            agent = await LinkedAgent(deck, "n1").join()
            suite, releases = await deck.suite(), [await deck.release(seed=seed) for seed in range(1, 7)]
            await deck.tenant(gate=GateConfig(suite=suite, **limit).model_dump(mode="json"))
            await evaluate(deck, agent, releases[0], suite, 20)
            await deck.promote(releases[0])
            found = [await tried(deck, agent, *one) for one in zip(releases[1:4], (10, 11, 18), strict=True)]
            assert [passed for passed, _ in found] == [False] * 3, (
                "18 of 20 passed as a third try, as it does as a first"
            )
            assert [words for _, words in found] == [
                "",
                "second try on this suite; judged at 0.5 %",
                "third try on this suite; judged at 0.17 %",
            ]
            refused = await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/promote", promote(deck, releases[3]))
            assert "third try on this suite; judged at 0.17 %" in refused.detail
            assert "loradeck suite add --for selection" in refused.fix
            await agent.leave()
        async with running(data) as deck:
            assert outcome(await deck.hub.gates.judge(production, releases[3])) == found[2], (
                "a restart forgot the tries"
            )
            assert outcome(await deck.hub.gates.judge(production, releases[1])) == found[0]
            agent = await LinkedAgent(deck, "n1").join()
            assert await tried(deck, agent, releases[2], 20) == (True, "second try on this suite; judged at 0.5 %")
            await deck.promote(releases[2])
            judged = outcome(await deck.hub.gates.judge(production, releases[3]))
            assert judged == (True, ""), "nothing was tried beside the new live release"
            assert await tried(deck, agent, releases[4], 10) == (False, "second try on this suite; judged at 0.5 %")
            await agent.leave()


async def test_tries_are_counted_since_the_release_is_live_whatever_candidates_came_and_went(
    deck: Deck, agent: LinkedAgent
) -> None:
    """The attack: a candidate is started and ended, which moves the pointer, so that tries are forgotten."""
    suite, releases = await deck.suite(), [await deck.release(seed=seed) for seed in range(1, 5)]
    await deck.promote(releases[0])
    for release, exact in zip(releases[1:3], (17, 18), strict=True):
        await evaluate(deck, agent, release, suite, exact)  # before a gate asks for it
    await call(deck, "start", release=releases[1])
    await call(deck, "abort")
    gate = GateConfig(suite=suite, max_drop=0.3, bound_drop=True)
    await deck.tenant(gate=gate.model_dump(mode="json"))
    await evaluate(deck, agent, releases[0], suite, 20)
    await evaluate(deck, agent, releases[3], suite, 18)
    result = await deck.hub.gates.judge(("acme", "production"), releases[3])
    assert result is not None
    assert [c.tries for c in result.checks if c.name == "drop"] == ["third try on this suite; judged at 0.17 %"]
    assert not result.passed


async def test_no_gate_asks_what_releases_were_selected_by(deck: Deck) -> None:
    async def suite(name: str, prompts: range, use: str) -> dict[str, Any]:
        rows = [{"id": f"{name}{n}", "prompt": f"p{n}", "answer": "a"} for n in prompts]
        entry = await deck.blob("\n".join(json.dumps(row) for row in rows).encode())
        manifest = SuiteManifest(
            tenant="acme", name=name, items=len(rows), files=(entry,), provenance=PROVENANCE, use=SuiteUse(use)
        )
        return manifest.model_dump(mode="json")

    def gate(digest: str) -> dict[str, Any]:
        return SOON | {"gate": GateConfig(suite=digest).model_dump(mode="json")}

    dev = (await deck.ok("POST", "suites", await suite("dev", range(10), "selection")))["digest"]
    await deck.refused(409, "selection_suite", "PUT", ROUTE, gate(dev))
    held = (await deck.ok("POST", "suites", await suite("held", range(9, 20), "gate")))["digest"]
    problem = await deck.refused(409, "selection_suite", "PUT", ROUTE, gate(held))
    assert problem.detail == "held9"
    other = (await deck.ok("POST", "suites", await suite("other", range(10, 20), "gate")))["digest"]
    await deck.ok("PUT", ROUTE, gate(other))
    problem = await deck.refused(
        409, "selection_suite", "POST", "suites", await suite("more", range(19, 25), "selection")
    )
    assert problem.detail == "other19"
    await deck.ok("POST", "suites", await suite("more", range(20, 25), "selection"))


async def test_an_evaluation_expires(deck: Deck, agent: LinkedAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    release, suite = await deck.release(), await deck.suite()
    gate = GateConfig(suite=suite, min_exact=0.9, max_age_days=90)
    await deck.tenant(gate=gate.model_dump(mode="json"))
    await evaluate(deck, agent, release, suite, 20)
    later = deck.hub.clock.now_ms() + 91 * 86_400_000
    monkeypatch.setattr(deck.hub.gates, "clock", SimpleNamespace(now_ms=lambda: later))
    problem = await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/promote", promote(deck, release))
    assert "evaluated more than 90 days ago" in problem.detail
    monkeypatch.undo()
    await deck.promote(release)


async def test_small_drops_do_not_add_up_and_nobody_moves_the_anchor_alone(deck: Deck, agent: LinkedAgent) -> None:
    """The attack: each release is a little worse than the one before, and the anchor follows them."""
    suite = await deck.suite()
    first, second, third = [await deck.release(seed=seed) for seed in (1, 2, 3)]
    bounding = GateConfig(suite=suite, max_drop=0.35, bound_drop=True)
    gated = SOON | {"gate": bounding.model_dump(mode="json")}
    await deck.ok("PUT", ROUTE, gated)
    for release, exact in ((first, 20), (second, 17), (third, 14)):
        await evaluate(deck, agent, release, suite, exact)
    await deck.promote(first)
    await deck.promote(second)
    assert deck.hub.gates.anchor(("acme", "production")) == first, "the first that was attested"
    problem = await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/promote", promote(deck, third))
    assert problem.title.endswith("failed its gate: drop from anchor")

    moved = SOON | {"gate": bounding.model_copy(update={"anchor": second}).model_dump(mode="json")}
    ann = await deck.as_role("releaser")
    bob = deck.with_token((await deck.ok("POST", "tokens", {"name": "bob", "role": "releaser"}))["token"])
    for change in (moved, SOON | {"gate": None}):
        await deck.refused(422, "reason_required", "PUT", ROUTE, change, ann)
        for _ in range(2):
            await deck.refused(409, "second_person", "PUT", f"{ROUTE}?reason=why not", change, ann)
    kept = await deck.ok("PUT", ROUTE, gated, ann)
    assert kept["gate"]["anchor"] == first, "settings without an anchor leave the one that stands"
    await deck.refused(409, "second_person", "PUT", f"{ROUTE}?reason=a new base", moved, ann)
    await deck.ok("PUT", f"{ROUTE}?reason=a new base", moved, bob)
    event = deck.hub.log.recent[-1]
    assert event.payload["loosened"] == [f"gate with the anchor {second[:6]} in place of {first[:6]}"]
    assert (event.payload["agreed"], event.payload["config"]["gate"]["anchor"]) == ("releaser", second)
    await deck.promote(third)


async def test_an_anchor_is_the_attested_live_release_and_has_to_be_evaluated_like_it(
    deck: Deck, agent: LinkedAgent
) -> None:
    first, second, third = [await deck.release(seed=seed) for seed in (1, 2, 3)]
    await deck.promote(first)
    old = await deck.suite()
    bounding = GateConfig(suite=old, max_drop=0.35, bound_drop=True)
    kept = await deck.ok("PUT", ROUTE, SOON | {"gate": bounding.model_dump(mode="json")})
    assert kept["gate"]["anchor"] == first
    for release in (first, second):
        await evaluate(deck, agent, release, old, 20)
    await deck.promote(second)
    new = await deck.suite(items=24)
    gate = kept["gate"] | {"suite": new, "anchor": None}
    await deck.ok("PUT", f"{ROUTE}?reason=new items", SOON | {"gate": gate})
    for release in (second, third):
        await evaluate(deck, agent, release, new, 20)
    problem = await deck.refused(409, "gate_missing", "POST", f"{ROUTE}/promote", promote(deck, third))
    assert "anchor" in problem.title
    await evaluate(deck, agent, first, new, 20)
    await deck.promote(third)
    stranger = bounding.model_copy(update={"anchor": "e" * 64}).model_dump(mode="json")
    await deck.refused(404, "unknown_release", "PUT", f"{ROUTE}?reason=x", SOON | {"gate": stranger})


async def test_where_a_route_asks_for_two_people_nobody_loosens_it_alone(deck: Deck) -> None:
    suite = await deck.suite()
    review = ReviewGate(items=5, people=2)
    strict = SOON | {"gate": GateConfig(suite=suite, review=review).model_dump(mode="json")}
    await deck.ok("PUT", ROUTE, strict)
    ann = await deck.as_role("releaser")
    bob = deck.with_token((await deck.ok("POST", "tokens", {"name": "bob", "role": "releaser"}))["token"])
    path, loose = f"{ROUTE}?reason=an emergency", strict | {"gate": None}
    for who in (ann, ann):
        await deck.refused(409, "second_person", "PUT", path, loose, who)
    await deck.refused(409, "second_person", "PUT", path, loose | {"min_replicas": 2}, bob)  # something else
    await deck.refused(409, "second_person", "PUT", path, loose, ann)
    await deck.ok("PUT", path, loose, bob)
    event = deck.hub.log.recent[-1]
    assert (event.actor, event.payload["agreed"], event.payload["loosened"]) == ("bob", "releaser", ["no gate"])


async def test_where_a_route_asks_for_two_people_nobody_overrides_its_gate_alone(
    deck: Deck, agent: LinkedAgent
) -> None:
    """The attack: `promote --override --reason x`, by one person."""
    suite = await deck.suite()
    one = await deck.release(seed=1)
    await deck.promote(one)
    gate = GateConfig(suite=suite, review=ReviewGate(items=5, people=2))
    await deck.ok("PUT", ROUTE, SOON | {"gate": gate.model_dump(mode="json")})
    two = await deck.release(seed=2)
    ann = await deck.as_role("releaser")
    bob = deck.with_token((await deck.ok("POST", "tokens", {"name": "bob", "role": "releaser"}))["token"])
    asked = {"override": True, "reason": "an emergency"}
    for _ in range(2):
        await deck.refused(409, "second_person", "POST", f"{ROUTE}/promote", promote(deck, two, **asked), client=ann)
    await deck.ok("POST", f"{ROUTE}/promote?wait=proven", promote(deck, two, **asked), client=bob)
    event = next(event for event in reversed(deck.hub.log.recent) if event.to_release == two)
    assert (event.actor, event.payload["agreed"], event.payload["overridden"]) == ("bob", "releaser", ["gate_missing"])


async def test_where_people_sign_in_no_machine_is_one_of_two_people() -> None:
    async with data_folder() as data, fake_provider() as provider, running(data, oidc=provider.settings()) as deck:
        await deck.tenant()
        agent, release = await LinkedAgent(deck, "n1").join(), await deck.release()
        await until(lambda: deck.hub.provider._keys, "the hub has the provider's keys")
        suite = await deck.suite()
        strict = SOON | {"gate": GateConfig(suite=suite, review=ReviewGate(items=5, people=2)).model_dump(mode="json")}
        await deck.ok("PUT", ROUTE, strict)
        machine = await deck.as_role("releaser")
        tokens = [provider.token(groups=["admins"], iat=provider.claims()["iat"] - n) for n in range(2)]
        ann, ann_again = map(deck.with_token, tokens)
        bob = deck.with_token(provider.token(groups=["admins"], sub="s-2", name="Bob"))

        await evaluate(deck, agent, release, suite, 20)
        sheet = await deck.ok("GET", f"{ROUTE}/reviews/{release}")
        for nobody in (machine, deck.local):
            await deck.refused(403, "person_required", "POST", f"{ROUTE}/reviews", signed(sheet), nobody)
        for who in (ann, ann_again):
            assert not (await deck.ok("POST", f"{ROUTE}/reviews", signed(sheet), who))["passed"]
        assert (await deck.ok("POST", f"{ROUTE}/reviews", signed(sheet), bob))["passed"]

        path, loose = f"{ROUTE}?reason=an emergency", strict | {"gate": None}
        for nobody in (machine, deck.local):
            await deck.refused(403, "person_required", "PUT", path, loose, nobody)
        for who in (ann, ann_again):
            await deck.refused(409, "second_person", "PUT", path, loose, who)
        await deck.ok("PUT", path, loose, bob)
        assert deck.hub.log.recent[-1].payload["agreed"] == "Ann"
        await agent.leave()


def test_no_name_of_a_person_is_a_jobs() -> None:
    stated = {"kind": AttestationKind.EVALUATION, "subject": "a" * 64, "tenant": "acme", "body": {}}
    assert Attestation(**stated, by="job j1").is_from_a_job
    assert not Attestation(**stated, by="job").is_from_a_job
