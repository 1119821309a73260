"""What a router's or an agent's restart must not lose: entries and pins, unpins, and what is ready on an engine."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry
from loradeck_agent.daemon import Agent
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.router.wire import Acks, Cursor, EngineAt, RouterState, TableUpdate
from loradeck_agent.serving.replica import ReadyFile, ReadyReleases

BASE = Release(tenant="acme", form=Form.BASE, base="b" * 64)
REF = ReleaseRef(id=BASE.id, release=BASE)
KEY = ("acme", "production")
ENTRY = TableEntry(tenant="acme", route="production", epoch=1, generation=2, current=REF)
PIN = Pin(tenant="acme", route="production", release=REF, over=(1, 2), actor="ann", reason="night shift", at_ms=5)
R1, R2, M1 = "1" * 64, "2" * 64, "3" * 64


class Router:
    """A router with a table in memory, which refuses pins of routes that it does not have."""

    def __init__(self, cursor: Cursor, entries: tuple[TableEntry, ...] = (), pins: tuple[Pin, ...] = ()) -> None:
        self.cursor = cursor
        self.entries = {entry.key: entry for entry in entries}
        self.pins = {(pin.tenant, pin.route): pin for pin in pins}
        self.down = False

    def close(self) -> None: ...

    async def state(self) -> RouterState:
        if self.down:
            raise Unreachable("router.sock", "refused")
        return RouterState(
            pid=1,
            boot="b1",
            epoch=self.cursor.epoch,
            rev=self.cursor.rev,
            hash=self.cursor.hash,
            entries=tuple(self.entries.values()),
            pins=tuple(self.pins.values()),
        )

    async def table(self, update: TableUpdate) -> Acks:
        if self.down:
            raise Unreachable("router.sock", "refused")
        self.cursor = max(self.cursor, Cursor(update.epoch, update.rev, update.hash))
        self.entries |= {entry.key: entry for entry in update.entries}
        return Acks(durable=True)

    async def engines(self, engines: tuple[EngineAt, ...]) -> tuple[Ack, ...]:
        return ()

    async def pin(self, pin: Pin) -> tuple[Ack, ...]:
        if (pin.tenant, pin.route) not in self.entries:
            raise AgentError("unknown_route", "There is no such route here.")
        self.pins[pin.tenant, pin.route] = pin
        return ()

    async def unpin(self, key: PointerKey) -> tuple[Ack, ...]:
        self.pins.pop(key, None)
        return ()


def agent_with(folder: Path, router: Router) -> Agent:
    """An agent that is not run, beside this router."""
    path = folder / "agent.toml"
    path.write_text(
        'node = "gpu-01"\nhub = "http://127.0.0.1:1"\ntoken = "t"\nstate = "s"\n[router]\nlisten = "127.0.0.1:1"\n'
        f'[[engine]]\nname = "e0"\nbase = "{folder}"\nslots = 1\n'
    )
    made = Agent(AgentConfig.load(path), "secret")
    made.sync.router = made.reconciler.at_router.router = router  # type: ignore[assignment]
    return made


async def test_a_router_whose_table_was_lost_gets_entries_and_pins_back(tmp_path: Path) -> None:
    agent = agent_with(tmp_path, Router(Cursor(1, 7, "c" * 64), (ENTRY,), (PIN,)))
    await agent.sync.up("b1")
    await agent.sync.down()
    fresh = Router(Cursor())
    agent.sync.router = agent.reconciler.at_router.router = fresh  # type: ignore[assignment]
    await agent.sync.up("b2")
    assert (fresh.cursor, fresh.entries, fresh.pins) == (Cursor(1, 7), {KEY: ENTRY}, {KEY: PIN})
    await agent._close()


async def test_an_unpin_without_a_router_is_made_when_it_is_back(tmp_path: Path) -> None:
    router = Router(Cursor(1, 7, "c" * 64), (ENTRY,), (PIN,))
    agent = agent_with(tmp_path, router)
    await agent.sync.up("b1")

    async def gone(key: PointerKey) -> tuple[Ack, ...]:
        raise Unreachable("router.sock", "refused")

    back, router.unpin = router.unpin, gone  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        await agent.sync.unpin(KEY)
    assert agent.table.pins == {KEY: PIN}, "it is still in force"
    router.unpin = back  # type: ignore[method-assign]
    await agent.sync.up("b2")
    assert (router.pins, agent.table.pins) == ({}, {})
    await agent._close()


async def test_what_was_ready_on_an_engine_has_a_file_of_its_own(tmp_path: Path) -> None:
    agent = agent_with(tmp_path, Router(Cursor()))
    kept = ReadyFile(agent.folder.engine_ready("e0"))
    kept.write(ReadyReleases(boot="boot1", loaded=(R1, R2), merged=(M1,)))
    assert kept.of("boot1") == ReadyReleases(boot="boot1", loaded=(R1, R2), merged=(M1,))
    assert kept.of("boot2") is None
    kept.write(ReadyReleases(boot="boot2", loaded=(R2,)))
    await agent._close()
    again = agent_with(tmp_path, Router(Cursor()))
    assert again.engines[0].record.of("boot2") == ReadyReleases(boot="boot2", loaded=(R2,))
    await again._close()


async def test_a_write_that_is_given_up_ends_before_what_is_ready_then_is_written(tmp_path: Path) -> None:
    agent = agent_with(tmp_path, Router(Cursor()))
    engine, began, go_on = agent.engines[0], threading.Event(), threading.Event()
    write = engine.record.write

    def slowly(releases: ReadyReleases) -> None:
        if not began.is_set():
            began.set()
            go_on.wait(60)
        write(releases)

    engine.record.write = slowly  # type: ignore[method-assign]
    engine.ready = {R1, R2}
    given_up = asyncio.create_task(engine.keep_ready())
    await asyncio.to_thread(began.wait, 60)
    given_up.cancel()  # as a prepare job that is cancelled
    engine.ready = {R2}
    after = asyncio.create_task(engine.keep_ready())
    for _ in range(10):
        await asyncio.sleep(0)
    if given_up.done():
        await after  # it overtakes the thread of the other one
    go_on.set()
    await asyncio.gather(given_up, after, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()
    assert given_up.cancelled()
    await agent._close()
    assert ReadyReleases.model_validate_json(agent.folder.engine_ready("e0").read_bytes()).loaded == (R2,)


def test_a_damaged_file_of_an_engine_says_that_nothing_is_ready(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text('{"boot":"boot1","loaded":["')
    assert ReadyFile(path).of("boot1") is None
    ReadyFile(path).write(ReadyReleases(boot="boot2"))
    assert ReadyFile(path).of("boot2") == ReadyReleases(boot="boot2")
