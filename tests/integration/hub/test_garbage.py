"""Collection: what nothing can go back to goes; no root does, and nothing an engine lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_erasure import execution, plan, row_digest
from tests.integration.hub.test_ledger import dataset, row

from loradeck.hub.data import garbage
from loradeck.schemas.dataset_ledger import CollectPlan
from loradeck.schemas.gate import GateConfig
from loradeck.store.sql_log import Store


async def collected(deck: Deck, **request: Any) -> CollectPlan:
    return CollectPlan.model_validate(await deck.ok("POST", "collect", {"older_than_days": 0, **request}))


def on_disk(deck: Deck, release: str) -> bool:
    version = deck.hub.catalogue.version_of(deck.hub.catalogue.releases[release])
    assert version is not None
    return all(deck.hub.blobs.has(f.sha256) for f in version.manifest.files if "safetensors" in f.path)


async def test_no_root_goes_and_nothing_that_an_engine_lists(deck: Deck, join: Join) -> None:
    await deck.tenant()
    releases = [await deck.release(seed=n) for n in range(9)]
    agent = await join()
    for release in releases[:7]:
        await deck.promote(release)
    await deck.rollback()
    stray, listed = releases[7:]
    agent.replica = agent.replica.model_copy(update={"loaded": (listed,)})
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].replicas[0].loaded == (listed,), "the hub knows what is listed")
    assert (await collected(deck, older_than_days=1)).adapters == ()
    found = await collected(deck)
    assert [r.id for r in found.releases] == [stray]
    assert [r.id for r in found.listed] == [listed]
    before = dict(deck.hub.log.state.pointers)
    await deck.refused(422, "plan_required", "POST", "collect", {"dry_run": False})
    await deck.refused(409, "plan_changed", "POST", "collect", {"dry_run": False, "plan": "0" * 64})
    done = await collected(deck, dry_run=False, plan=found.digest)
    assert (done.done, on_disk(deck, stray), deck.hub.log.state.pointers) == (True, False, before)
    assert all(on_disk(deck, release) for release in (*releases[:7], listed))
    assert "collected" in deck.hub.facts.revoked[stray]
    assert (await collected(deck)).files == 0
    remote = await deck.as_role("releaser")
    await deck.refused(403, "local_only", "POST", "collect", {}, client=remote)


async def test_the_log_is_read_in_pieces_and_behind_every_move(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R does not wait for the nightly collection of ten thousand pointers."""
    await join()
    tenants = ("acme", "bolt", "cedar")
    for tenant in tenants:
        await deck.tenant(tenant)
        for seed in (1, 2):
            await deck.promote(await deck.release(tenant, seed=seed), tenant)
    stray = await deck.release("acme", seed=3)
    store = deck.hub.store
    reads: list[tuple[bool, bool]] = []

    async def watched(call: Callable[[Store], Any], *, background: bool = False) -> Any:
        if getattr(call, "func", None) is garbage._earlier:
            reads.append((background, deck.hub.log.moving.locked()))
        return await store(call, background=background)

    monkeypatch.setattr(deck.hub.garbage, "store", watched)
    monkeypatch.setattr(garbage, "PIECE", 1)
    found = await collected(deck)
    assert [r.id for r in found.releases] == [stray]
    await collected(deck, dry_run=False, plan=found.digest)
    assert reads == [(True, False)] * 2 * len(tenants), "each in the background, none while moves wait"


async def test_the_anchor_of_a_gate_stays_though_it_serves_nowhere(deck: Deck) -> None:
    await deck.tenant()
    anchor, stray = [await deck.release(seed=seed) for seed in (1, 2)]
    gate = GateConfig(suite=await deck.suite(), max_drop=0.35, bound_drop=True, anchor=anchor)
    await deck.tenant(gate=gate.model_dump(mode="json"))
    assert [r.id for r in (await collected(deck)).releases] == [stray]


async def test_a_file_that_something_else_names_stays(deck: Deck) -> None:
    await deck.tenant()
    kept, gone = [row(1)], [row(2)]
    first, twin = await dataset(deck, kept, name="one"), await dataset(deck, kept, name="two")
    erased = await dataset(deck, gone)
    files = {d: deck.hub.catalogue.datasets[d].files[0].sha256 for d in (first, twin, erased)}
    assert files[first] == files[twin]
    await deck.ok("POST", "erasures", execution(await plan(deck, rows=[row_digest(row(2))])))
    assert not deck.hub.blobs.has(files[erased])
    assert deck.hub.blobs.has(files[first])
    await deck.ok("POST", "erasures", execution(await plan(deck, rows=[row_digest(row(1))], tenants=["acme"])))
    assert not deck.hub.blobs.has(files[first])


async def test_while_a_node_was_not_heard_from_nothing_goes(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        release = await deck.release()
        agent = await LinkedAgent(deck, "n1").join()
        await deck.promote(await deck.release(seed=2))
        await agent.leave()
    async with running(data) as deck:
        found = await collected(deck)
        assert ([r.id for r in found.releases], found.unheard) == ([release], ("n1",))
        body = {"older_than_days": 0, "dry_run": False, "plan": found.digest}
        await deck.refused(409, "node_unheard", "POST", "collect", body)
        assert on_disk(deck, release)
