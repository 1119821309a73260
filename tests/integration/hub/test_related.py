"""Who shares something with a live release, from a real deck."""

from __future__ import annotations

from tests.fleets.linked.hub import Deck
from tests.integration.hub.conftest import Join

from loradeck.schemas.incident import RelatedReleases, Shared


async def test_promotes_of_one_actor_and_a_shared_recipe_are_named_with_their_health(deck: Deck, join: Join) -> None:
    await join()
    for tenant in ("acme", "bolt", "cedar"):
        await deck.tenant(tenant)
    for tenant, seed in (("acme", 1), ("bolt", 1), ("cedar", 2)):
        await deck.promote(await deck.release(tenant, seed=seed), tenant)
    found = RelatedReleases.model_validate(await deck.ok("GET", "tenants/acme/routes/production/company"))
    assert (found.generation, found.total) == (1, 2)
    assert [one.tenant for one in found.companions] == ["bolt", "cedar"]
    ties = {one.tenant: {tie.what for tie in one.ties} for one in found.companions}
    assert Shared.BATCH in ties["bolt"] & ties["cedar"]
    assert all("NOPRIOR" in one.flags for one in found.companions)


async def test_a_pointer_that_serves_nothing_shares_nothing(deck: Deck) -> None:
    await deck.tenant("acme")
    found = RelatedReleases.model_validate(await deck.ok("GET", "tenants/acme/routes/production/company"))
    assert (found.generation, found.companions) == (0, ())


async def test_a_route_that_does_not_exist_is_refused(deck: Deck) -> None:
    answer = await deck.local.get("tenants/nobody/routes/production/company")
    assert answer.status_code == 404
