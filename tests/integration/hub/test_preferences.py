"""Datasets made of judgements on a running hub: what is registered, what trains, who reads them, what descends."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.judgements import RUBRIC, Line, item, judgement, lines
from tests.fleets.linked.hub import Deck
from tests.integration.hub.test_erasure import execution, plan, version
from tests.integration.hub.test_ledger import HUMAN, dataset, manifest, training
from tests.unit.rules.test_preferences import campaign

from loradeck.artifacts.rows.barred_rows import row_digest
from loradeck.artifacts.rows.contamination import folded_words
from loradeck.rules.data import preferences as rules
from loradeck.schemas.attestation import Attestation
from loradeck.schemas.preference import PreferenceBuild, PreferenceReport


@pytest.fixture
async def acme(deck: Deck) -> Deck:
    await deck.tenant()
    await deck.base()
    return deck


async def built(deck: Deck, rows: list[Line], judgements: str, whole: Line = HUMAN, **more: Any) -> Line:
    """What registers the dataset that these judgements make, as a client sends it."""
    build = PreferenceBuild.model_validate({"judgements": judgements, "rubric": RUBRIC, **more})
    stated = [Attestation.model_validate(one) for one in await deck.ok("GET", "attestations?kind=adjudication")]
    made = rules.built(campaign(rows), build, stated, folded_words)
    sent = await manifest(deck, made.rows, whole, name="pairs")
    return {"manifest": sent.model_dump(mode="json"), "build": build.model_dump(mode="json")}


def dpo(*datasets: str) -> Line:
    return training(*datasets, method="dpo")


async def test_pairs_train_where_the_hub_has_seen_agreement_and_descend_from_what_raters_chose(
    acme: Deck,
) -> None:
    rows = lines()
    judgements = await dataset(acme, rows, name="judged")
    body = await built(acme, rows, judgements)
    made = (await acme.ok("POST", "preferences", body))["digest"]
    assert (await acme.ok("POST", "preferences", body))["digest"] == made
    (stated,) = await acme.ok("GET", f"attestations?kind=agreement&subject={made}")
    report = PreferenceReport.model_validate(stated["body"])
    assert (report.rows, report.agreement.n, report.build.judgements) == (64, 64, judgements)
    await acme.ok("POST", "jobs", dpo(made))
    bare = await dataset(acme, [{"prompt": "p", "chosen": "a", "rejected": "b"}], name="bare")
    problem = await acme.refused(409, "no_agreement", "POST", "jobs", dpo(made, bare))
    assert problem.detail == "acme/bare"
    await acme.ok("PUT", "tenants/acme/data-policy", {"unrated_pairs": "a public set, ticket 12"})
    await acme.ok("POST", "jobs", dpo(bare))

    release = (await version(acme, 1, made))["release"]
    own = sorted({row_digest(one) for one in rows if one.get("rater") == "r2" and "choice" in one})
    found = await plan(acme, rows=own, tenants=["acme"])
    assert ([one.id for one in found.datasets], [one.id for one in found.written]) == ([judgements], [made])
    assert [one.id for one in found.releases] == [release]
    await acme.ok("POST", "erasures", execution(found, tenants=["acme"]))
    await acme.refused(409, "erased_row", "POST", "jobs", dpo(made))
    again = (await manifest(acme, rows[::-1], name="again")).model_dump(mode="json")
    await acme.refused(409, "erased_row", "POST", "datasets", again)


async def test_what_its_judgements_do_not_allow_or_agree_on_is_not_registered(acme: Deck) -> None:
    rows = lines()
    judgements = await dataset(acme, rows, {**HUMAN, "retention_days": 9}, name="judged")
    kept = {**HUMAN, "retention_days": 8}
    for laxer in (HUMAN, {**HUMAN, "retention_days": 10}, {**kept, "consent": "public"}):
        body = await built(acme, rows, judgements, laxer)
        await acme.refused(422, "manifest_mismatch", "POST", "preferences", body)
    await acme.ok("POST", "preferences", await built(acme, rows, judgements, kept))
    few = lines(pairs=40)
    body = await built(acme, few, await dataset(acme, few, name="few"))
    problem = await acme.refused(409, "agreement_low", "POST", "preferences", body)
    assert "40 items were judged twice or more, 60 are needed" in problem.detail
    assert "agreement" not in {one["kind"] for one in await acme.ok("GET", f"attestations?subject={judgements}")}


async def test_below_the_policys_share_of_rows_that_two_persons_judged_nothing_is_built_or_trains(acme: Deck) -> None:
    policy = "tenants/acme/data-policy"
    rows = [row for row in lines() if (row.get("rater"), row.get("item")) != ("r2", "p0")]
    rows += [item(99, "extra"), *(judgement(99, one, name="extra") for one in ("r1", "r2"))]
    body = await built(acme, rows, await dataset(acme, rows, name="judged"), each=1)
    asked = {"rated_twice": 1.0}
    await acme.ok("PUT", policy, asked)
    problem = await acme.refused(409, "rated_once", "POST", "preferences", body)
    assert problem.detail == "acme/pairs: 64 of 65 rows, and 65 are needed"
    for less in ({}, {"rated_twice": 0.5}, {**asked, "rated_by": "adjuster"}):
        await acme.refused(422, "reason_required", "PUT", policy, less)
    await acme.ok("PUT", f"{policy}?reason=law", {"rated_twice": 0.5})
    made = (await acme.ok("POST", "preferences", body))["digest"]
    await acme.ok("PUT", policy, asked)
    await acme.refused(409, "rated_once", "POST", "jobs", dpo(made))
    await acme.ok("PUT", f"{policy}?reason=law", {"rated_twice": 0.5})
    await acme.ok("POST", "jobs", dpo(made))


async def test_an_adjudication_is_by_whoever_is_signed_in_and_another_tenants_token_reads_nothing(acme: Deck) -> None:
    rows = lines(disputed=[2])
    judgements = await dataset(acme, rows, name="judged")
    body = {"rubric": RUBRIC, "choice": "a", "reason": "it names the days"}
    said = {"kind": "adjudication", "subject": campaign(rows).digests["p2"], "tenant": "acme", "body": body, "by": "me"}
    await acme.refused(422, "invalid_request", "POST", "attestations", {**said, "body": {**body, "reason": " "}})
    operator = await acme.as_role("operator")
    await acme.refused(403, "forbidden", "POST", "attestations", said, client=operator)
    before = await built(acme, rows, judgements)
    stated = await acme.ok("POST", "attestations", said, await acme.as_role("releaser"))
    assert stated["by"] != "me"
    await acme.refused(409, "not_as_built", "POST", "preferences", before)
    made = await acme.ok("POST", "preferences", await built(acme, rows, judgements))
    (agreed,) = await acme.ok("GET", f"attestations?kind=agreement&subject={made['digest']}")
    assert (agreed["body"]["rows"], agreed["body"]["adjudicated"]) == (64, 1)
    await acme.refused(403, "forbidden", "POST", "attestations", agreed)

    await acme.tenant("bolt")
    bolt = await acme.client_of("releaser", "bolt")
    (sent,) = (await manifest(acme, rows)).files
    assert (await bolt.get(f"blobs/{sent.sha256}")).status_code in (403, 404)
    assert await acme.ok("GET", "datasets", client=bolt) == []
    for kind in ("agreement", "adjudication"):
        assert await acme.ok("GET", f"attestations?kind={kind}", client=bolt) == []
    await acme.refused(403, "forbidden", "POST", "attestations", said, client=bolt)
    await acme.refused(403, "forbidden", "POST", "preferences", before, client=bolt)
    before["manifest"] |= {"tenant": "bolt"}
    await acme.refused(404, "unknown_dataset", "POST", "preferences", before, client=bolt)
