"""The agent beside a router whose disk is full or whose table was lost: nothing counts too early, no pin is lost."""

from __future__ import annotations

import asyncio
import errno
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, Bookmark, Desired
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.protocol import PROTOCOL
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry, table_digest
from loradeck_agent.daemon import Agent
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.router.admission import Admission
from loradeck_agent.router.cold_queue import ColdQueue
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.engine_pools import Replicas
from loradeck_agent.router.hub_silence import HubSilence
from loradeck_agent.router.switch import Switch, Unacceptable
from loradeck_agent.router.table import Table, TableFault, read_contents
from loradeck_agent.router.wire import Acks, Cursor, EngineAt, RouterState, TableUpdate

BASE = Release(tenant="acme", form=Form.BASE, base="b" * 64)
REF = ReleaseRef(id=BASE.id, release=BASE)
KEY = ("acme", "production")
PIN = Pin(tenant="acme", route="production", release=REF, over=(1, 1), actor="ann", reason="night shift", at_ms=5)
NEWER = PIN.model_copy(update={"actor": "bob", "reason": "day shift", "at_ms": 99})
HASH = "c" * 64


def entry(generation: int) -> TableEntry:
    return TableEntry(tenant="acme", route="production", epoch=1, generation=generation, current=REF)


def directive(rev: int, *entries: TableEntry) -> Desired:
    return Desired(epoch=1, rev=rev, prev_rev=rev - 1, hash=HASH, entries=entries, table=table_digest(entries))


class Router:
    """The real switch on the real table, called without a socket. It has no engines."""

    def __init__(self, agent: Agent) -> None:
        self.table_ = Table(agent.folder.router)
        self.switch = Switch(self.table_, Admission(HubSilence(self.table_), Stats(), ColdQueue()), Replicas())
        self.switch.start()
        self.refuses_pins = False
        self.protocol = PROTOCOL
        agent.sync.router = agent.reconciler.at_router.router = self  # type: ignore[assignment]

    @property
    def pins(self) -> dict[PointerKey, Pin]:
        return self.table_.contents.pins

    def close(self) -> None: ...

    async def state(self) -> RouterState:
        held = self.table_.contents
        at, entries, pins = held.cursor, tuple(held.entries.values()), tuple(held.pins.values())
        where = {"epoch": at.epoch, "rev": at.rev, "hash": at.hash}
        return RouterState(pid=1, boot="b", **where, entries=entries, pins=pins, protocol=self.protocol)

    async def table(self, update: TableUpdate) -> Acks:
        return self.switch.directive(update.cursor, update.entries)

    async def engines(self, engines: tuple[EngineAt, ...]) -> tuple[Ack, ...]:
        return tuple(self.switch.engines(engines))

    async def pin(self, pin: Pin) -> tuple[Ack, ...]:
        if self.refuses_pins:
            raise AgentError("disk_full", "The table could not be written; nothing changed.")
        try:
            return tuple(self.switch.pin(pin))
        except Unacceptable as refused:
            raise AgentError(refused.code, refused.title) from refused

    async def unpin(self, key: PointerKey) -> tuple[Ack, ...]:
        return tuple(self.switch.unpin(key))


# ---- what the disk refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [directive(2, entry(2)), directive(2), Bookmark(epoch=1, rev=2, hash=HASH)], ids=lambda m: m.type
)
async def test_what_a_full_disk_refused_is_not_durable_where_no_acknowledgement_carries_it(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, message: Desired | Bookmark
) -> None:
    """No engine runs, so no acknowledgement is there to fail."""
    router = Router(agent)
    await agent._handle(directive(1, entry(1)))
    assert agent.sync.durable == Cursor(1, 1)

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("loradeck_agent.router.table.os.fdatasync", refuse)
        await agent._handle(message)
    assert agent.sync.durable == read_contents(agent.folder.router).cursor == Cursor(1, 1)
    assert agent.sync._behind.is_set(), "it is tried again"
    await agent.sync.push()
    assert agent.sync.durable == read_contents(agent.folder.router).cursor == Cursor(1, 2)
    assert not agent.sync._behind.is_set()
    assert router.table_.contents.entries == agent.table.entries


async def test_a_directive_that_comes_while_everything_is_given_again_is_not_taken_for_given(agent: Agent) -> None:
    """It is given under the old position, which is all that the router then has on its disk."""
    router = Router(agent)
    await agent._handle(directive(1, entry(1)))
    agent.sync.missed()
    answers, given = asyncio.Event(), router.table

    async def slowly(update: TableUpdate) -> Acks:
        await answers.wait()
        return await given(update)

    router.table = slowly  # type: ignore[method-assign]
    push = asyncio.create_task(agent.sync.push())
    await asyncio.sleep(0)
    coming = asyncio.create_task(agent._handle(directive(2, entry(2))))
    await asyncio.sleep(0)
    answers.set()
    await asyncio.gather(push, coming)
    assert agent.sync.durable == read_contents(agent.folder.router).cursor == Cursor(1, 1)
    assert agent.sync._behind.is_set(), "it is given again"
    await agent.sync.push()
    assert agent.sync.durable == read_contents(agent.folder.router).cursor == Cursor(1, 2)


# ---- pins ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def pinned(agent: Agent) -> Agent:
    """An agent that knows a pin, and whose router has ended."""
    router = Router(agent)
    await agent._handle(directive(1, entry(1)))
    router.switch.pin(PIN)
    await agent.sync.up("b")
    await agent._handle(directive(2, entry(2)))
    assert agent.table.pins == {KEY: PIN}
    router.table_.close()
    await agent.sync.down()
    return agent


@pytest.mark.parametrize("before", ["nothing", "a directive", "a push", "a read of the pins"])
async def test_a_pin_of_a_lost_table_is_put_back_whatever_reaches_the_new_router_first(
    pinned: Agent, before: str
) -> None:
    (pinned.folder.router / "table.jsonl").unlink()
    router = Router(pinned)
    match before:
        case "a directive":
            await pinned._handle(directive(3, entry(3)))
        case "a push":
            await pinned.sync.push()
        case "a read of the pins":
            await pinned.sync.read_pins()
    await pinned.sync.up("b")
    assert router.pins == pinned.table.pins == {KEY: PIN}


async def test_a_pin_that_a_damaged_table_no_longer_shows_is_remembered(pinned: Agent) -> None:
    path = pinned.folder.router / "table.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(b"x" + line[1:] if b"night shift" in line else line for line in lines))
    assert (read_contents(pinned.folder.router).cursor, read_contents(pinned.folder.router).pins) == (Cursor(1, 2), {})
    with pytest.raises(TableFault):
        Router(pinned)
    assert (await pinned.reports.hello()).pins == (PIN,)
    path.rename(path.with_name("table.damaged"))
    router = Router(pinned)
    await pinned.sync.up("b")
    assert router.pins == {KEY: PIN}


async def test_a_pin_that_a_damaged_table_still_shows_does_not_replace_a_newer_one(pinned: Agent) -> None:
    pinned.table.pins[KEY] = NEWER
    assert (await pinned.reports.hello()).pins == (NEWER,)


async def test_a_pin_that_was_ended_while_no_router_answered_is_not_put_back(pinned: Agent) -> None:
    async def gone(key: PointerKey) -> tuple[Ack, ...]:
        raise AgentError("unreachable", "no answer")

    pinned.sync.router.unpin = gone  # type: ignore[method-assign]
    with pytest.raises(AgentError):
        await pinned.sync.unpin(KEY)
    (pinned.folder.router / "table.jsonl").unlink()
    router = Router(pinned)
    await pinned.sync.read_pins()
    await pinned._handle(directive(3, entry(3)))
    assert router.pins == pinned.table.pins == {}
    await pinned.sync.up("b")
    assert router.pins == pinned.table.pins == {}


@pytest.mark.parametrize("read", [True, False], ids=["read by the agent", "not read yet"])
async def test_a_pin_that_was_made_meanwhile_is_not_replaced_by_the_one_to_be_put_back(
    pinned: Agent, read: bool
) -> None:
    (pinned.folder.router / "table.jsonl").unlink()
    router = Router(pinned)
    router.refuses_pins = True
    await pinned.sync.up("b")
    assert router.pins == {}
    router.refuses_pins = False
    router.switch.pin(NEWER)
    if read:
        await pinned.sync.read_pins()
    await pinned._handle(directive(3, entry(3)))
    assert router.pins == pinned.table.pins == {KEY: NEWER}


async def test_pins_that_cannot_be_compared_cost_a_directive_nothing(
    pinned: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pinned.folder.router / "table.jsonl").unlink()
    router = Router(pinned)
    router.refuses_pins = True
    await pinned.sync.up("b")
    router.refuses_pins = False

    async def silent() -> RouterState:
        raise AgentError("unreachable", "no answer")

    with monkeypatch.context() as patched:
        patched.setattr(router, "state", silent)
        await pinned._handle(directive(3, entry(3)))
    assert (pinned.sync.durable, router.pins) == (Cursor(1, 3), {})
    await pinned._handle(directive(4, entry(4)))
    assert router.pins == {KEY: PIN}


async def test_the_tables_position_does_not_pass_what_its_disk_refused(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next directive is written, and says nothing of the one before it: a recover would believe the position."""
    router = Router(agent)
    await agent._handle(directive(1, entry(1)))

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("loradeck_agent.router.table.os.fdatasync", refuse)
        await agent._handle(directive(2, entry(2)))
    await agent._handle(directive(3))
    assert router.table_.contents.entries[KEY] == entry(1)
    assert read_contents(agent.folder.router).cursor == Cursor(1, 1)
    await agent.sync.push()
    assert router.table_.contents.entries[KEY] == entry(2)
    assert read_contents(agent.folder.router).cursor == agent.sync.durable == Cursor(1, 3)


# ---- what a whole table no longer names --------------------------------------------------------------------------


def whole(rev: int, *entries: TableEntry) -> Desired:
    return directive(rev, *entries).model_copy(update={"full": True})


async def test_what_a_whole_table_no_longer_names_is_withdrawn_at_the_router(agent: Agent) -> None:
    """The hub forgets tombstones with its process, and makes none where a placement first names a label."""
    router = Router(agent)
    await agent._handle(directive(1, entry(1)))
    await agent._handle(whole(2))
    held = router.table_.contents.entries[KEY]
    assert (held.current, held.fence) == (None, (1, 1))
    assert agent.sync.durable == Cursor(1, 2)
    await agent._handle(whole(3, entry(1)))
    assert router.table_.contents.entries[KEY] == entry(1), "it is placed there again, without having moved"


async def test_a_router_that_was_away_is_given_the_withdrawal_later(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = Router(agent)
    await agent._handle(directive(1, entry(1)))

    async def unreachable(update: TableUpdate) -> Acks:
        raise AgentError("unreachable", "no answer")

    with monkeypatch.context() as patched:
        patched.setattr(router, "table", unreachable)
        await agent._handle(whole(2))
    assert router.table_.contents.entries[KEY] == entry(1)
    await agent.sync.push()
    assert router.table_.contents.entries[KEY].current is None


async def test_acknowledgements_whose_answer_was_lost_are_asked_for_again(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router that was stopped for longer than a call may take carries it out when it goes on."""
    router, lost = Router(agent), 1

    async def engines(engines: tuple[EngineAt, ...]) -> tuple[Ack, ...]:
        nonlocal lost
        acks = tuple(router.switch.engines(engines))
        if lost:
            lost -= 1
            raise Unreachable("router", "no answer for 10 s")
        return acks

    monkeypatch.setattr(router, "engines", engines)
    engine = SimpleNamespace(
        name="gpu-01",
        slot=lambda: EngineAt(replica="gpu-01", socket="/e", base=REF.release.base),
        began=asyncio.Event(),
    )
    engine.began.set()
    agent.reconciler.at_router.engines = (engine,)  # type: ignore[assignment]
    agent.reconciler.at_router.up.set()
    await agent._handle(directive(1, entry(1)))
    await agent.reconciler.at_router.push()
    assert router.table_.contents.in_force[KEY].generation == 1
    assert agent.acks.flips == {}, "its answer was lost"
    assert agent.sync._behind.is_set(), "it is tried again"
    await agent.sync.push()
    assert not agent.sync._behind.is_set()
    assert [ack.state for ack in agent.acks.flips.values()] == [AckState.FLIPPED]


# ---- a directive that was missed ---------------------------------------------------------------------------------


async def test_no_bookmark_moves_the_position_past_a_directive_that_was_missed(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    Router(agent)
    asked: list[str] = []

    async def send(message: BaseModel) -> bool:
        asked.append(message.type)  # type: ignore[attr-defined]
        return True

    monkeypatch.setattr(agent.sync, "send", send)
    await agent._handle(directive(1, entry(1)))
    await agent._handle(directive(3))
    await agent._handle(Bookmark(epoch=1, rev=3, hash=HASH))
    assert agent.sync.durable == Cursor(1, 1)
    assert asked == ["resync"], "and not again within ten seconds"
    agent.sync._resync_at = 0
    await agent._handle(Bookmark(epoch=1, rev=3, hash=HASH))
    assert asked == ["resync", "resync"], "the answer was lost as well"
    await agent._handle(whole(3, entry(2)))
    await agent._handle(Bookmark(epoch=1, rev=4, hash=HASH))
    assert agent.sync.durable == Cursor(1, 4)
