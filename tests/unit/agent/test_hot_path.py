"""From directive to acknowledgement: nothing slow may stand in between."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from loradeck.schemas.link import Ack, Bookmark, Desired
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import ReleaseRef, TableEntry, table_digest
from loradeck_agent.daemon import Agent
from loradeck_agent.host.errors import Unreachable
from loradeck_agent.router.wire import Acks, TableUpdate


class RouterDouble:
    """Answers a directive at once, or not at all."""

    def __init__(self) -> None:
        self.updates: list[TableUpdate] = []
        self.down = False
        self.code: str | None = None

    def close(self) -> None:
        pass

    async def table(self, update: TableUpdate) -> Acks:
        if self.down:
            raise Unreachable("router.sock", "refused")
        self.updates.append(update)
        state = AckState.FLIPPED if self.code is None else AckState.FAILED
        acks = tuple(
            Ack(
                tenant=e.tenant,
                route=e.route,
                epoch=e.epoch,
                generation=e.generation,
                release=e.current.id if e.current else None,
                replica="gpu-01",
                state=state,
                code=self.code,
                at_ms=0,
            )
            for e in update.entries
        )
        return Acks(acks=acks, durable=self.code is None)


@pytest.fixture
def agent(agent: Agent) -> Agent:
    agent.sync.router = RouterDouble()  # type: ignore[assignment]
    return agent


def directive(generation: int, rev: int) -> Desired:
    release = Release(tenant="acme", form=Form.BASE, base="b" * 64)
    entry = TableEntry(
        tenant="acme",
        route="production",
        epoch=1,
        generation=generation,
        current=ReleaseRef(id=release.id, release=release),
    )
    return Desired(epoch=1, rev=rev, prev_rev=rev - 1, hash="c" * 64, entries=(entry,), table=table_digest([entry]))


async def test_the_acknowledgement_leaves_as_soon_as_the_router_has_given_it(agent: Agent) -> None:
    order: list[str] = []

    async def send(message: BaseModel) -> bool:
        order.append(message.state.value if isinstance(message, Ack) else type(message).__name__)
        return True

    agent.acks.send = send  # type: ignore[assignment]
    agent.sync.changed = lambda: order.append("the rest of the agent")
    await agent._handle(directive(1, 1))
    assert order == ["flipped", "the rest of the agent"]
    assert (await agent.reports.hello()).rev == 1, "the router holds it durably, so the hello may say so"


async def test_a_bookmark_is_durable_before_a_hello_says_it(agent: Agent) -> None:
    router = agent.sync.router
    await agent._handle(directive(1, 1))
    router.down = True  # type: ignore[attr-defined]
    await agent._handle(Bookmark(epoch=1, rev=5, hash="c" * 64))
    assert (await agent.reports.hello()).rev == 1
    router.down = False  # type: ignore[attr-defined]
    await agent.sync.push()
    assert (await agent.reports.hello()).rev == 5
    await agent._handle(Bookmark(epoch=1, rev=7, hash="d" * 64))
    assert (await agent.reports.hello()).rev == 7
    update = router.updates[-1]  # type: ignore[attr-defined]
    assert (update.rev, update.hash, update.entries) == (7, "d" * 64, ())


async def test_what_no_router_took_is_neither_acknowledged_nor_said_in_a_hello(agent: Agent) -> None:
    sent: list[BaseModel] = []

    async def send(message: BaseModel) -> bool:
        sent.append(message)
        return True

    agent.acks.send = send  # type: ignore[assignment]
    agent.sync.router.down = True  # type: ignore[attr-defined]
    await agent._handle(directive(1, 1))
    assert sent == []
    assert (await agent.reports.hello()).rev == 0
    agent.sync.router.down = False  # type: ignore[attr-defined]
    await agent.sync.push()
    assert [ack.state for ack in sent if isinstance(ack, Ack)] == [AckState.FLIPPED]
    assert (await agent.reports.hello()).rev == 1


async def test_a_router_whose_disk_is_full_is_told_again_and_the_cursor_waits(agent: Agent) -> None:
    agent.sync.router.code = "disk_full"  # type: ignore[attr-defined]
    await agent._handle(directive(1, 1))
    assert agent.sync._behind.is_set()
    assert (await agent.reports.hello()).rev == 0
    agent.sync.router.code = None  # type: ignore[attr-defined]
    await agent.sync.push()
    assert not agent.sync._behind.is_set()
    assert (await agent.reports.hello()).rev == 1
