"""From directive to acknowledgement: nothing slow may stand in between."""

from __future__ import annotations

import asyncio
import threading

import pytest
from pydantic import BaseModel

from loradeck.schemas.link import Ack, AckState, Desired
from loradeck.schemas.release import Form, Release
from loradeck.schemas.table import ReleaseRef, TableEntry, table_digest
from loradeck_agent.daemon import Agent
from loradeck_agent.host.errors import Unreachable
from loradeck_agent.router.client import TableUpdate
from loradeck_agent.uplink.journal import Cursor


class RouterDouble:
    """Answers a directive at once, or not at all."""

    def __init__(self) -> None:
        self.updates: list[TableUpdate] = []
        self.down = False
        self.code: str | None = None

    def close(self) -> None:
        pass

    async def table(self, update: TableUpdate) -> tuple[Ack, ...]:
        if self.down:
            raise Unreachable("router.sock", "refused")
        self.updates.append(update)
        state = AckState.FLIPPED if self.code is None else AckState.FAILED
        return tuple(
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


@pytest.fixture
def agent(agent: Agent) -> Agent:
    agent.router = RouterDouble()  # type: ignore[assignment]
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


async def test_the_acknowledgement_leaves_before_the_journal_has_synced(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[BaseModel] = []
    synced, may_sync = threading.Event(), threading.Event()
    advance = agent.journal.advance

    def slow_disk(cursor: Cursor) -> None:
        may_sync.wait(10)
        advance(cursor)
        synced.set()

    async def send(message: BaseModel) -> bool:
        sent.append(message)
        return True

    monkeypatch.setattr(agent.journal, "advance", slow_disk)
    agent.acks.send = send  # type: ignore[assignment]
    await agent._handle(directive(1, 1))
    assert [ack.state for ack in sent if isinstance(ack, Ack)] == [AckState.FLIPPED]
    assert not synced.is_set()
    assert (await agent._hello()).rev == 1, "the router holds it durably, so the hello may say so"
    may_sync.set()
    await asyncio.to_thread(synced.wait, 10)
    await agent._note(lambda: None)
    assert agent.journal.cursor == Cursor(1, 1)


async def test_what_no_router_took_is_neither_acknowledged_nor_said_in_a_hello(agent: Agent) -> None:
    sent: list[BaseModel] = []

    async def send(message: BaseModel) -> bool:
        sent.append(message)
        return True

    agent.acks.send = send  # type: ignore[assignment]
    agent.router.down = True  # type: ignore[attr-defined]
    await agent._handle(directive(1, 1))
    assert sent == []
    assert (await agent._hello()).rev == 0
    agent.router.down = False  # type: ignore[attr-defined]
    await agent._push_table()
    assert [ack.state for ack in sent if isinstance(ack, Ack)] == [AckState.FLIPPED]
    assert (await agent._hello()).rev == 1


async def test_a_router_whose_disk_is_full_is_told_again_and_the_cursor_waits(agent: Agent) -> None:
    agent.router.code = "disk_full"  # type: ignore[attr-defined]
    await agent._handle(directive(1, 1))
    assert agent._table_behind.is_set()
    assert (await agent._hello()).rev == 0
    agent.router.code = None  # type: ignore[attr-defined]
    await agent._push_table()
    assert not agent._table_behind.is_set()
    assert (await agent._hello()).rev == 1
