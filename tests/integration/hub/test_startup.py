"""The moments after a start over a log that nodes have followed: nothing moves before it is known to be complete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, restore, running
from tests.fleets.waiting import until

from loradeck.hub.recovery import startup
from loradeck.hub.recovery.startup import Startup
from loradeck.schemas.manifest import Form
from loradeck.schemas.moves import MoveResult
from loradeck.schemas.replica_state import LINK_TTL_S

ROUTE = "tenants/acme/routes/production"


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No start is over because a test is slow: its clock stands, and a move waits for the nodes as long as it takes."""
    begin = Startup.__init__

    def made(self: Startup, nodes: Collection[str], clock: Callable[[], float], changed: Callable[[], None]) -> None:
        now = clock()
        begin(self, nodes, lambda: now, changed)

    monkeypatch.setattr(Startup, "__init__", made)
    monkeypatch.setattr(startup, "HOLD_S", 60.0)


@pytest.fixture
def refuses_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A move does not wait long before it is refused."""
    monkeypatch.setattr(startup, "HOLD_S", 0.1)


@asynccontextmanager
async def lived_in(data: Path, *nodes: str) -> AsyncIterator[dict[str, tuple[LinkedAgent, str]]]:
    """v1 beneath v2 on some nodes, in a hub that has ended since: agents and their tokens, by node."""
    async with running(data) as deck:
        await deck.tenant()
        agents = [await LinkedAgent(deck, node).join() for node in nodes]
        for seed in (1, 2):
            await deck.promote(await deck.release(seed=seed))
        tokens = [await deck.token("agent", node) for node in nodes]
        for agent in agents:
            await agent.leave()
    yield {agent.name: (agent, token) for agent, token in zip(agents, tokens, strict=True)}


async def back(deck: Deck, agent: LinkedAgent, token: str) -> None:
    agent.deck = deck
    await agent.join(token)


@pytest.mark.usefixtures("refuses_soon")
async def test_nothing_moves_until_half_of_the_nodes_are_back_and_the_refusal_says_for_whom_it_waits(
    data: Path,
) -> None:
    async with lived_in(data, "n1", "n2", "n3") as nodes, running(data) as deck:
        body = await deck.rollback_body()
        problem = await deck.refused(503, "settling", "POST", f"{ROUTE}/rollback", body)
        assert problem.context["nodes"] == ["n1", "n2", "n3"]
        assert 0 < problem.context["seconds"] <= LINK_TTL_S
        assert "n1, n2, n3" in problem.detail
        assert "s at most" in problem.detail
        await deck.refused(503, "settling", "GET", f"moves/{body['idempotency_key']}")
        assert (await deck.ok("GET", "state"))["status"]["refusing"] == "settling"
        await back(deck, *nodes["n1"])
        problem = await deck.refused(503, "settling", "POST", f"{ROUTE}/rollback", body)
        assert problem.context["nodes"] == ["n2", "n3"]
        await back(deck, *nodes["n3"])
        assert (await deck.ok("GET", "state"))["status"]["refusing"] is None
        result = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", body))
        assert not result.replayed
        for agent, _ in nodes.values():
            await agent.leave()


async def test_a_move_that_comes_just_before_the_nodes_waits_for_them_and_is_made(data: Path) -> None:
    async with lived_in(data, "n1") as nodes, running(data) as deck:
        rolling = asyncio.create_task(deck.ok("POST", f"{ROUTE}/rollback?wait=flipped", await deck.rollback_body()))
        await until(lambda: deck.hub.startup._over._waiters, "it waits")
        rev = deck.hub.log.state.rev
        await back(deck, *nodes["n1"])
        result = MoveResult.model_validate(await rolling)
        assert (result.events[0].rev, result.reached) in ((rev + 1, "flipped"), (rev + 1, "proven"))
        await nodes["n1"][0].leave()


async def test_an_f_that_waits_for_the_nodes_serves_the_base_and_not_nothing(data: Path) -> None:
    async with lived_in(data, "n1") as nodes, running(data) as deck:
        generation = deck.hub.log.state.pointer(("acme", "production")).generation
        body = {"expected_generation": generation, "idempotency_key": "fall-back-1", "reason": "it is bad"}
        falling = asyncio.create_task(deck.ok("POST", f"{ROUTE}/fallback?wait=flipped", body))
        await until(lambda: deck.hub.startup._over._waiters, "it waits")
        await back(deck, *nodes["n1"])
        await falling
        agent = nodes["n1"][0]
        assert agent.entry.current is not None
        assert agent.entry.current.release.form is Form.BASE
        await agent.leave()


@pytest.mark.usefixtures("refuses_soon")
async def test_nobody_waits_longer_than_a_ttl_and_for_nobody_that_was_lost(data: Path) -> None:
    async with lived_in(data, "n1", "n2"), running(data) as deck:
        await deck.refused(503, "settling", "POST", f"{ROUTE}/rollback", await deck.rollback_body())
        deck.hub.startup._began -= LINK_TTL_S  # as if it had started so much earlier
        deck.hub.fleet.started -= LINK_TTL_S
        await until(lambda: deck.hub.moves_allowed.refusing is None, "the TTL has passed")
        await until(lambda: deck.hub.fleet.nodes["n1"].lost, "the nodes are lost")
        await deck.rollback(wait="committed")
    async with running(data) as deck:
        assert deck.hub.moves_allowed.refusing is None, "whoever was lost is not waited for"


async def test_a_first_start_and_one_that_no_node_has_ever_linked_to_wait_for_nobody(data: Path) -> None:
    for _ in range(2):
        async with running(data) as deck:
            assert deck.hub.moves_allowed.refusing is None
            await deck.tenant()


async def test_a_restored_hub_moves_nothing_in_the_moments_before_its_first_node_is_back(
    data: Path, tmp_path: Path
) -> None:
    """What was found: it took moves until the first hello, and so pulled its nodes back."""
    copy = tmp_path / "hub.db"
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        token = await deck.token("agent", "n1")
        for seed in (1, 2):
            await deck.promote(await deck.release(seed=seed))
        await deck.hub.flush()
        await deck.ok("POST", "backup", {"path": str(copy)})
        await deck.promote(await deck.release(seed=3))
        await agent.leave()
    restore(data, copy)
    async with running(data) as deck:
        rolling = asyncio.create_task(deck.local.post(f"{ROUTE}/rollback", json=await deck.rollback_body(), timeout=90))
        await until(lambda: deck.hub.startup._over._waiters, "it waits")
        await back(deck, agent, token)
        answer = await rolling
        assert (answer.status_code, answer.json()["code"]) == (503, "log_behind")
        await until(lambda: not deck.hub.witnesses.unknown("n1"), "its table is known")
        await deck.refused(503, "log_behind", "POST", f"{ROUTE}/rollback", await deck.rollback_body())
        recovered = MoveResult.model_validate(await deck.recover("restored"))
        assert [event.kind.value for event in recovered.events] == ["recover"]
        assert deck.hub.moves_allowed.refusing is None
        await agent.leave()


@pytest.mark.usefixtures("refuses_soon")
@pytest.mark.parametrize("path", ["tenants/acme/routes/production/fallback", "tenants/acme/routes/production/hold"])
async def test_other_moves_wait_too_and_leave_nothing_behind(data: Path, path: str) -> None:
    async with lived_in(data, "n1"), running(data) as deck:
        generation = deck.hub.log.state.pointers["acme", "production"].generation
        body = {"expected_generation": generation, "idempotency_key": key(), "held": True}
        if path.endswith("fallback"):
            del body["held"]
        await deck.refused(503, "settling", "POST", path, body)
