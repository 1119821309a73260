"""While no router answers, its table's file says how far the node is and what is pinned."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from loradeck.schemas.link import Ack, Desired
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry, table_digest
from loradeck_agent.daemon import Agent
from loradeck_agent.host.errors import Unreachable
from loradeck_agent.router import table as table_module
from loradeck_agent.router.table import Change, Table, read_contents
from loradeck_agent.router.wire import Acks, Cursor, EngineAt, RouterState, TableUpdate

BASE = Release(tenant="acme", form=Form.BASE, base="b" * 64)
REF = ReleaseRef(id=BASE.id, release=BASE)
KEY = ("acme", "production")
PIN = Pin(tenant="acme", route="production", release=REF, over=(1, 1), actor="ann", reason="night shift", at_ms=5)


def entry(generation: int) -> TableEntry:
    return TableEntry(tenant="acme", route="production", epoch=1, generation=generation, current=REF)


def directive(rev: int) -> Desired:
    made = entry(rev)
    return Desired(epoch=1, rev=rev, prev_rev=rev - 1, hash="c" * 64, entries=(made,), table=table_digest([made]))


def held(rev: int, *pins: Pin) -> Change:
    return Change(at_ms=1, position=(1, rev, "c" * 64), entries=(entry(rev),), pins=pins)


def killed(folder: Path, *changes: Change) -> None:
    """A router that was killed after it had made these changes durable, and before it acted on the last."""
    table = Table(folder)
    for change in changes:
        table.append(change)
    table.close()


class Dying:
    """A router that makes one more directive durable and is killed before it acknowledges it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def close(self) -> None: ...

    async def table(self, update: TableUpdate) -> Acks:
        killed(self.folder, held(update.rev))
        raise Unreachable("router.sock", "reset")


class Back:
    """The next one, on what the file holds."""

    def __init__(self, folder: Path) -> None:
        self.table_ = Table(folder)

    def close(self) -> None:
        self.table_.close()

    async def state(self) -> RouterState:
        contents = self.table_.contents
        at, pins = contents.cursor, tuple(contents.pins.values())
        entries = tuple(contents.entries.values())
        return RouterState(pid=1, boot="b2", epoch=at.epoch, rev=at.rev, hash=at.hash, entries=entries, pins=pins)

    async def engines(self, engines: tuple[EngineAt, ...]) -> tuple[Ack, ...]:
        return ()

    async def table(self, update: TableUpdate) -> Acks:
        acks = tuple(
            Ack(
                tenant=e.tenant,
                route=e.route,
                epoch=e.epoch,
                generation=e.generation,
                release=REF.id,
                replica="gpu-01",
                state=AckState.FLIPPED,
                at_ms=0,
            )
            for e in update.entries
        )
        return Acks(acks=acks, durable=True)


async def test_the_hello_says_what_the_file_holds(agent: Agent) -> None:
    killed(agent.folder.router, held(1), held(2, PIN))
    hello = await agent.reports.hello()
    assert (hello.epoch, hello.rev, hello.hash, hello.pins) == (1, 2, "c" * 64, (PIN,))
    assert agent.table.cursor == Cursor(1, 2), "an older directive is stale also before a router runs"
    assert agent.table.entries == {KEY: entry(2)}


async def test_a_router_that_was_killed_between_append_and_acknowledgement_loses_neither(agent: Agent) -> None:
    sent: list[Ack] = []

    async def send(ack: Ack) -> bool:
        sent.append(ack)
        return True

    agent.acks.send = send
    agent.sync.router = Dying(agent.folder.router)  # type: ignore[assignment]
    await agent._handle(directive(1))
    assert sent == []
    assert (await agent.reports.hello()).rev == 1, "it is durable"
    agent.sync.router = agent.reconciler.at_router.router = Back(agent.folder.router)  # type: ignore[assignment]
    await agent.sync.up("b2")
    assert [(ack.generation, ack.state) for ack in sent] == [(1, AckState.FLIPPED)]
    assert (await agent.reports.hello()).rev == 1


async def test_a_pin_made_just_before_the_router_ended_is_in_the_next_hello(agent: Agent) -> None:
    """The agent had read the router's pins before."""
    folder = agent.folder.router
    killed(folder, held(1))
    agent.sync.router = agent.reconciler.at_router.router = back = Back(folder)  # type: ignore[assignment]
    await agent.sync.up("b2")
    back.table_.append(Change(at_ms=2, pins=(PIN,)))
    back.close()
    assert (await agent.reports.hello()).pins == ()
    agent.sync.router = Dying(folder)  # type: ignore[assignment]
    await agent.sync.down()
    assert (await agent.reports.hello()).pins == (PIN,)


async def test_a_file_that_cannot_be_read_takes_nothing_from_what_is_known(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(agent.folder.router, held(2, PIN))
    await agent.reports.hello()

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(table_module.os, "fdatasync", broken)
    hello = await agent.reports.hello()
    assert (hello.rev, hello.pins) == (2, (PIN,))


async def test_a_file_that_is_gone_takes_nothing_from_what_is_known(agent: Agent) -> None:
    killed(agent.folder.router, held(2, PIN))
    await agent.reports.hello()
    (agent.folder.router / "table.jsonl").unlink()
    hello = await agent.reports.hello()
    assert (hello.rev, hello.pins) == (2, (PIN,))


def test_reading_changes_nothing_and_passes_over_what_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "router"
    killed(folder, held(1), held(2, PIN))
    path = folder / "table.jsonl"
    whole = path.read_bytes()
    for raw, rev in ((whole + b"0bad", 2), (b"damaged\n" + whole, 2), (whole[: whole.rindex(b"\n", 0, -1) + 9], 1)):
        path.write_bytes(raw)
        assert read_contents(folder).cursor == Cursor(1, rev)
        assert path.read_bytes() == raw
    assert read_contents(tmp_path / "nowhere").cursor == Cursor()


def test_it_is_read_while_a_router_holds_and_writes_it(tmp_path: Path) -> None:
    table = Table(tmp_path)
    for rev in range(1, 6):
        table.append(held(rev))
        table.contents.apply(held(rev))
        if rev == 3:
            table.compact()
        assert read_contents(tmp_path).cursor == Cursor(1, rev)
    table.close()


def test_a_file_of_version_0_1_is_read(tmp_path: Path) -> None:
    release = {
        "id": REF.id,
        "release": {
            "tenant": "acme",
            "form": "base",
            "base": "b" * 64,
            "adapter": None,
            "merged": None,
            "label": "",
        },
        "label": "",
    }
    pointer = {"tenant": "acme", "route": "production", "epoch": 1, "generation": 2}
    line = json.dumps(
        {
            "at_ms": 1,
            "position": [1, 7, "c" * 64],
            "entries": [{**pointer, "current": release, "beneath": [], "gap": "left", "keys": []}],
            "pins": [
                {
                    "tenant": "acme",
                    "route": "production",
                    "release": release,
                    "over": [1, 1],
                    "actor": "ann",
                    "reason": "night shift",
                    "at_ms": 5,
                    "left": None,
                }
            ],
            "unpins": [],
            "in_force": [{**pointer, "release": release, "pinned": True}],
            "engines": [
                {
                    "replica": "gpu-01",
                    "socket": "/run/e.sock",
                    "url": "",
                    "key": "",
                    "base": "b" * 64,
                    "base_name": "base",
                    "ready": ["1" * 64],
                }
            ],
        }
    ).encode()
    (tmp_path / "table.jsonl").write_bytes(b"%08x %s\n" % (zlib.crc32(line), line))
    read = read_contents(tmp_path)
    table = Table(tmp_path)
    assert read == table.contents
    assert (read.cursor, read.cursor.hash, read.pins) == (Cursor(1, 7), "c" * 64, {KEY: PIN})
    assert read.in_force[KEY].is_of(entry(2), REF)
    assert read.engines == (EngineAt(replica="gpu-01", socket="/run/e.sock", base="b" * 64, ready=("1" * 64,)),)
    table.close()
