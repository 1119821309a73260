"""A real agent, with its router and engine, linked to a real hub: what each makes of the other's changes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest
from tests.fleets.linked.hub import Deck, data_folder, running
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import CANARIES, make_adapter
from tests.integration.agent.node import Node

from loradeck.artifacts import base_manifest
from loradeck.schemas.answer_ledger import Explained

ACME = ("acme", "production")
T = TypeVar("T")


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    async with data_folder() as data, running(data) as deck:
        await deck.tenant(canaries=[[dict(turn) for turn in turns] for turns in CANARIES])
        yield deck


@pytest.fixture
async def linked(deck: Deck, folder: Path, base: Path) -> AsyncIterator[Node]:
    node = Node(folder, base, f"http://127.0.0.1:{deck.port}", await deck.token("agent", "gpu-01"))
    node.start()
    await up(deck, 1)
    yield node
    node.close()


async def up(deck: Deck, engines: int) -> None:
    def look() -> bool:
        node = deck.hub.fleet.nodes.get("gpu-01")
        return node is not None and node.linked and [r.state.value for r in node.replicas] == ["up"] * engines

    await until(look, f"{engines} engines are up", 60)


async def registered(deck: Deck, base: Path, seed: int) -> str:
    """A release of an adapter that fits the node's base."""
    manifest = base_manifest(base, "tiny", "r1")
    await deck.base(manifest)
    adapter = make_adapter(manifest.digest, seed)
    for content in adapter.files.values():
        await deck.blob(content)
    body = adapter.manifest.model_dump(mode="json")
    made = await deck.ok("POST", f"adapters/acme/{adapter.manifest.name}/versions", body)
    release: str = made["release"]
    return release


async def test_a_second_engine_renames_the_replica_and_the_link_stands(
    deck: Deck, linked: Node, folder: Path, base: Path
) -> None:
    """An acknowledgement under the old name ended the link, and was sent again two seconds later."""
    one, two = [await registered(deck, base, seed) for seed in (1, 2)]
    assert (await deck.promote(one, timeout=60)).reached == "proven"
    assert [r.replica for r in (await deck.row()).replicas] == ["gpu-01"]
    await linked.end_agent()
    other = folder / "other"
    shutil.copytree(base, other)
    (other / "extra.json").write_text("{}")
    with linked.config.open("a") as config:
        config.write(f'[[engine]]\nname = "e1"\nbase = "{other}"\nslots = 4\n')
    linked.start()
    await up(deck, 2)
    link = deck.hub.fleet.nodes["gpu-01"].link
    await until(lambda: deck.hub.replicas.progress(ACME).proven, "the renamed replica is proven", 60)
    assert (await deck.promote(two, timeout=60)).reached == "proven"
    row = await deck.row()
    assert [(r.replica, r.state) for r in row.replicas] == [("gpu-01.e0", "proven")]
    assert (row.flipped, row.proven, row.placed) == (1, 1, 1)
    assert deck.hub.fleet.nodes["gpu-01"].link is link
    rolled = await deck.rollback()
    assert (rolled.reached, deck.hub.fleet.nodes["gpu-01"].link is link) == ("proven", True)


async def test_a_lost_node_is_not_counted_as_flipped_until_it_is_back_and_its_times_stay(
    deck: Deck, linked: Node, base: Path
) -> None:
    assert (await deck.promote(await registered(deck, base, 1), timeout=60)).reached == "proven"
    (before,) = (await deck.row()).replicas
    await linked.end_agent()
    node = deck.hub.fleet.nodes["gpu-01"]
    await until(lambda: not node.linked, "the agent has left")
    deck.hub.fleet.lose(node)
    row = await deck.row()
    assert (row.flipped, row.proven, row.placed) == (0, 0, 1)
    assert "UNPRVN" in row.flags
    linked.start()
    await until(lambda: deck.hub.replicas.progress(ACME).proven, "the node is back", 60)
    row = await deck.row()
    (now,) = row.replicas
    assert (row.flipped, row.placed) == (1, 1)
    assert (now.flipped_ms, now.proven_ms) == (before.flipped_ms, before.proven_ms)


async def again(call: Callable[[], Awaitable[T | None]]) -> T:
    """The first answer of a call that there is."""
    for _ in range(600):
        if (found := await call()) is not None:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("it did not come within a minute")


async def test_an_answer_is_explained_after_its_router_was_killed_and_its_node_is_gone(
    deck: Deck, linked: Node, base: Path
) -> None:
    await deck.promote(await registered(deck, base, 1), timeout=60)
    key = (await deck.ok("POST", "tenants/acme/keys"))["key"]
    body = {"model": "acme", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
    url, headers = f"http://127.0.0.1:{linked.port}/v1/chat/completions", {"Authorization": f"Bearer {key}"}

    async def asked() -> str | None:
        async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
            return answer.headers["x-request-id"] if answer.status == 200 else None

    async def explained() -> Explained | None:
        found = Explained.model_validate(await deck.ok("GET", f"requests/{request}?tenant=acme"))
        return found if found.rows and found.rows[0].segment is not None else None

    request = await again(asked)  # the key is on its way
    rows = linked.state.ledger_rows
    await until(lambda: any(request.encode() in path.read_bytes() for path in rows.glob("*")), "the row is written")
    router = linked.router_pid
    assert router is not None
    os.kill(router, signal.SIGKILL)
    await again(explained)
    linked.close()
    await deck.hub.ledger.keep()

    (one,) = (await again(explained)).rows
    assert one.doubts == ()
    assert (one.weights.label, one.row.status, one.row.parameters) == ("v1", 200, {"temperature": 0})
    assert one.put_there is not None
    assert one.build.startswith("fake")
