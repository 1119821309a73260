"""The journal of an earlier version of the agent: nothing of it is lost, and it is taken over once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, Desired
from loradeck.schemas.release import Form, Release
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry, table_digest
from loradeck_agent.daemon import Agent
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.router.wire import Acks, Cursor, EngineAt, RouterState, TableUpdate
from loradeck_agent.serving.earlier_journal import EarlierJournal
from loradeck_agent.serving.ready_releases import ReadyFile, ReadyReleases

BASE = Release(tenant="acme", form=Form.BASE, base="b" * 64)
REF = ReleaseRef(id=BASE.id, release=BASE)
KEY = ("acme", "production")
ENTRY = TableEntry(tenant="acme", route="production", epoch=1, generation=2, current=REF)
PIN = Pin(tenant="acme", route="production", release=REF, over=(1, 2), actor="ann", reason="night shift", at_ms=5)
R1, R2, M1 = "1" * 64, "2" * 64, "3" * 64

LINES = (
    '{"t":"cursor","epoch":1,"rev":7,"hash":"' + "c" * 64 + '"}',
    json.dumps({"t": "pin", "pin": PIN.model_dump(mode="json")}),
    json.dumps({"t": "engine", "replica": "gpu-01", "boot": "boot1", "releases": [R1, R2], "let_in": [M1]}),
)
"""As version 0.1 wrote them."""


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


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


def agent_with(folder: Path, router: Router, *lines: str) -> Agent:
    """An agent that is not run, on a state folder with this journal."""
    path = folder / "agent.toml"
    path.write_text(
        'node = "gpu-01"\nhub = "http://127.0.0.1:1"\ntoken = "t"\nstate = "s"\n[router]\nlisten = "127.0.0.1:1"\n'
        f'[[engine]]\nname = "e0"\nbase = "{folder}"\nslots = 1\n'
    )
    (folder / "s").mkdir(exist_ok=True)
    if lines:
        written(folder / "s" / "journal.jsonl", *lines)
    made = Agent(AgentConfig.load(path), "secret")
    made.sync.router = made.reconciler.router = router  # type: ignore[assignment]
    return made


def test_everything_is_read(tmp_path: Path) -> None:
    journal = EarlierJournal.read(written(tmp_path / "j", *LINES))
    assert (journal.cursor, journal.cursor.hash, journal.pins) == (Cursor(1, 7), "c" * 64, {KEY: PIN})
    assert journal.ready == {"gpu-01": ReadyReleases(boot="boot1", loaded=(R1, R2), merged=(M1,))}


def test_the_last_line_of_a_kind_wins_and_the_cursor_never_goes_back(tmp_path: Path) -> None:
    back = LINES[0].replace('"rev":7', '"rev":4')
    unpin = '{"t":"unpin","tenant":"acme","route":"production"}'
    journal = EarlierJournal.read(written(tmp_path / "j", *LINES, back, unpin))
    assert (journal.cursor, journal.pins) == (Cursor(1, 7), {})


def test_a_line_torn_at_any_byte_costs_only_itself(tmp_path: Path) -> None:
    whole, both = len(LINES[0]) + 1, written(tmp_path / "j", *LINES[:2]).read_bytes()
    for cut in range(whole, len(both), 11):
        (tmp_path / "j").write_bytes(both[:cut])
        journal = EarlierJournal.read(tmp_path / "j")
        assert (journal.cursor, journal.pins) == (Cursor(1, 7), {})


def test_a_damaged_line_in_the_middle_is_refused_with_its_number(tmp_path: Path) -> None:
    path = written(tmp_path / "j", "{torn", LINES[1])
    with pytest.raises(AgentError, match="line 1 of"):
        EarlierJournal.read(path)


def test_a_pin_that_has_ended_is_not_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "j", *LINES)
    path.write_bytes(path.read_bytes() + b'{"t":"pi')  # torn: what follows must not be glued to it
    EarlierJournal.read(path).end_pin(KEY)
    assert EarlierJournal.read(path).pins == {}
    assert EarlierJournal.read(path).cursor == Cursor(1, 7)


async def test_until_a_router_has_taken_it_over_the_hello_says_what_it_holds(tmp_path: Path) -> None:
    agent = agent_with(tmp_path, Router(Cursor()), *LINES)
    hello = await agent.reports.hello()
    assert (hello.epoch, hello.rev, hello.hash, hello.pins) == (1, 7, "c" * 64, (PIN,))
    assert agent.folder.earlier_journal.exists()
    await agent._close()


async def test_the_router_is_given_what_its_table_lacks_and_the_journal_goes(tmp_path: Path) -> None:
    router = Router(Cursor(1, 5, "a" * 64), (ENTRY,))
    agent = agent_with(tmp_path, router, *LINES)
    await agent.sync.up("b1")
    assert (router.cursor, router.cursor.hash, router.pins) == (Cursor(1, 7), "c" * 64, {KEY: PIN})
    assert not agent.folder.earlier_journal.exists()
    assert agent.table.pins == {KEY: PIN}
    await agent._close()


async def test_the_journal_stays_while_the_router_cannot_take_all_of_it(tmp_path: Path) -> None:
    """Its table was lost: the pin's route is here only once the hub has sent it."""
    router = Router(Cursor())
    agent = agent_with(tmp_path, router, *LINES)
    await agent.sync.up("b1")
    assert router.pins == {}
    assert agent.folder.earlier_journal.exists()
    entries = (ENTRY,)
    await agent._handle(
        Desired(epoch=1, rev=8, prev_rev=7, hash="d" * 64, entries=entries, full=True, table=table_digest(entries))
    )
    assert router.pins == {KEY: PIN}
    await agent.sync.push()
    assert not agent.folder.earlier_journal.exists()
    await agent._close()


async def test_an_unpin_counts_also_for_the_journal(tmp_path: Path) -> None:
    router = Router(Cursor())
    agent = agent_with(tmp_path, router, *LINES)
    await agent.sync.up("b1")
    await agent.sync.unpin(KEY)
    await agent._close()
    assert EarlierJournal.read(agent.folder.earlier_journal).pins == {}
    again = agent_with(tmp_path, Router(Cursor(1, 7, "c" * 64), (ENTRY,)))
    await again.sync.up("b1")
    assert again.table.pins == {}
    await again._close()


async def test_a_router_whose_table_was_lost_gets_entries_and_pins_back(tmp_path: Path) -> None:
    agent = agent_with(tmp_path, Router(Cursor(1, 7, "c" * 64), (ENTRY,), (PIN,)))
    await agent.sync.up("b1")
    await agent.sync.down()
    fresh = Router(Cursor())
    agent.sync.router = agent.reconciler.router = fresh  # type: ignore[assignment]
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


async def test_what_was_ready_on_an_engine_has_a_file_of_its_own_then(tmp_path: Path) -> None:
    agent = agent_with(tmp_path, Router(Cursor()), *LINES)
    await agent._close()
    kept = ReadyFile(agent.folder.engine_ready("e0"))
    assert kept.of("boot1") == ReadyReleases(boot="boot1", loaded=(R1, R2), merged=(M1,))
    assert kept.of("boot2") is None
    kept.write(ReadyReleases(boot="boot2", loaded=(R2,)))
    again = agent_with(tmp_path, Router(Cursor()))
    assert again.engines[0].record.of("boot2") == ReadyReleases(boot="boot2", loaded=(R2,)), "the journal is older"
    await again._close()


def test_a_damaged_file_of_an_engine_says_that_nothing_is_ready(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text('{"boot":"boot1","loaded":["')
    assert ReadyFile(path).of("boot1") is None
    ReadyFile(path).write(ReadyReleases(boot="boot2"))
    assert ReadyFile(path).of("boot2") == ReadyReleases(boot="boot2")
