"""Rows that were erased come back by no door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, OTHER_BASE, Deck, data_folder, running
from tests.fleets.waiting import until
from tests.integration.hub.test_erasure import DIGEST, ROW, execution, plan, version
from tests.integration.hub.test_ledger import dataset, row, training

from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.manifest import BaseManifest, FileEntry

THIRD_BASE = BaseManifest(
    model_id="tiny", revision="3", files=(FileEntry(path="model.safetensors", size=1, sha256="d" * 64),)
)


@pytest.fixture
async def data() -> AsyncIterator[Path]:
    async with data_folder() as path:
        yield path


@pytest.fixture
async def deck(data: Path) -> AsyncIterator[Deck]:
    async with running(data) as deck:
        await deck.tenant()
        await deck.base()
        yield deck


def rows_of(deck: Deck, digest: str) -> str:
    return deck.hub.catalogue.datasets[digest].files[0].sha256


async def test_the_bytes_of_erased_rows_are_gone_at_once_and_do_not_come_back(deck: Deck) -> None:
    """The attack: a releaser reads an erased row until somebody runs `hub collect`, and sends the file again."""
    sha256 = rows_of(deck, await dataset(deck, [ROW]))
    content = (await deck.local.get(f"blobs/{sha256}")).content
    found = await plan(deck, rows=[DIGEST])
    await deck.ok("POST", "erasures", execution(found))
    assert not deck.hub.blobs.stored.listed()
    assert (await deck.local.get(f"blobs/{sha256}")).status_code == 404
    answer = await deck.local.put(f"blobs/{sha256}", content=content)
    assert (answer.status_code, answer.json()["code"]) == (409, "erased_row")
    assert not deck.hub.blobs.has(sha256)
    again = await deck.ok("POST", "erasures", execution(found))
    assert (again["done"], again["digest"]) == (True, found.digest)


async def test_a_hub_that_ended_before_the_bytes_were_gone_removes_them_when_it_starts(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        sha256 = rows_of(deck, await dataset(deck, [ROW]))
        deck.hub.erasures.drop_erased = AsyncMock()
        await deck.ok("POST", "erasures", execution(await plan(deck, rows=[DIGEST])))
        assert deck.hub.blobs.has(sha256)
    async with running(data) as deck:
        await until(lambda: not deck.hub.blobs.has(sha256), "removed")


async def test_the_plan_of_an_erasure_shows_all_doors_by_which_rows_come_back(deck: Deck) -> None:
    """The attack: by a full fine-tune, by an adapter on merged weights, and through another tenant."""
    await deck.tenant("bolt")
    holding = await dataset(deck, [ROW])
    theirs = await dataset(deck, [row(1), ROW], tenant="bolt")
    agent = await LinkedAgent(deck, "n1").join()
    spec = training(holding)
    spec["spec"]["weights"] = "full"
    submitted = (await deck.ok("POST", "jobs", spec))["id"]
    assigned = await until(lambda: agent.jobs.get(submitted), "assigned")
    await agent.say(assigned, ExecutorEventType.FINISHED, {"base": OTHER_BASE.digest, "folder": "/out"})
    await until(lambda: deck.hub.jobs.get(submitted).ended_ms, "over")  # type: ignore[union-attr]
    await agent.leave()
    await deck.base(OTHER_BASE)
    one = await version(deck, 1, holding)
    await deck.base(THIRD_BASE)
    merged = {"tenant": "acme", "adapter": one["release"], "merged": THIRD_BASE.digest}
    merged_id = (await deck.ok("POST", "releases", merged))["id"]

    async def on(base: BaseManifest, seed: int) -> dict[str, Any]:
        made = (await deck.adapter_manifest(seed=seed, base=base)).model_dump(mode="json")
        found: dict[str, Any] = await deck.ok("POST", "adapters/acme/support/versions", made)
        return found

    on_full, on_merged = await on(OTHER_BASE, 2), await on(THIRD_BASE, 3)
    found = await plan(deck, rows=[DIGEST], tenants=["acme"], retire=True)
    assert {base.id for base in found.bases} == {OTHER_BASE.digest, THIRD_BASE.digest}
    served = {merged_id, *(made["release"] for made in (one, on_full, on_merged))}
    assert served <= {release.id for release in found.releases}
    assert [place.id for place in found.elsewhere] == [theirs]
    await deck.ok("POST", "erasures", execution(found, tenants=["acme"]))
    assert served <= deck.hub.facts.revoked.keys()
    for late in (training(holding), training(theirs, tenant="bolt")):
        await deck.refused(409, "erased_row", "POST", "jobs", late)
    spec = training(theirs, tenant="bolt")
    spec["spec"]["base"] = OTHER_BASE.digest
    assert (await deck.local.post("jobs", json=spec)).status_code in (409, 422)
    assert BASE.digest not in {base.id for base in found.bases}
