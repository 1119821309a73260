"""What a link writes to a node that reads slowly, or not at all."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from loradeck.hub.access.auth import Caller
from loradeck.hub.links import node_link as links
from loradeck.hub.links.node_link import Link, LinkOutbox
from loradeck.schemas.ids import Role

A, B = ("acme", "production"), ("bolt", "production")


class _Wire:
    """A socket whose peer reads only while `writable` is set."""

    def __init__(self) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.frames: list[bytes] = []

    def write_frame(self, frame: bytes) -> bool:
        if not self.writable.is_set():
            return False
        self.frames.append(frame)
        return True


class _Hub:
    """The parts of the hub that a link uses. A directive's frame names its entries, and revs before and after."""

    def __init__(self) -> None:
        self.log = SimpleNamespace(state=SimpleNamespace(epoch=1, rev=0, hash="h"), position=lambda: None)
        self.tables: Any = SimpleNamespace(
            version=0, table=lambda labels, node: None, withdraw=lambda table, keys: None, desired=self.desired
        )
        self.withdrawals: Any = SimpleNamespace(on=lambda node: frozenset())
        self.fleet = SimpleNamespace(clock=lambda: 0.0)
        self.outbox = LinkOutbox()

    def desired(self, table: Any, *, rev: int, prev_rev: int, keys: Any, **_: Any) -> bytes:
        named = "all" if keys is None else ",".join(sorted(key[0] for key in keys))
        return f"{prev_rev}-{rev} {named}".encode()

    def bookmark(self) -> bytes:
        return b"bookmark"


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> _Wire:
    wire = _Wire()
    monkeypatch.setattr(links, "link_socket", lambda socket: wire)
    return wire


@pytest.fixture
def hub() -> _Hub:
    return _Hub()


@pytest.fixture
def link(wire: _Wire, hub: _Hub) -> Link:
    caller = Caller(actor="n1", role=Role.AGENT, node="n1")
    link = Link(hub, SimpleNamespace(), caller)  # type: ignore[arg-type]
    link.node = SimpleNamespace(name="n1", labels={}, features=frozenset(), gateway=False)  # type: ignore[assignment]
    link.steered = True
    return link


async def turn() -> None:
    """One turn of the event loop, at whose end the outbox writes."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_changes_of_one_turn_are_one_frame(link: Link, hub: _Hub, wire: _Wire) -> None:
    hub.log.state.rev = 1
    link.put([A])
    link.put([B])
    assert wire.frames == []
    await turn()
    assert wire.frames == [b"0-1 acme,bolt"]


async def test_a_node_that_does_not_read_is_owed_one_frame_however_many_moves_there_were(
    link: Link, hub: _Hub, wire: _Wire
) -> None:
    wire.writable.clear()
    for rev in range(1, 101):
        hub.log.state.rev = rev
        link.put([A])
        link.put_bookmark()
        await turn()
    assert wire.frames == []
    wire.writable.set()
    link._on_writable()
    await turn()
    assert wire.frames == [b"0-100 acme", b"bookmark"]


async def test_the_next_directive_follows_the_rev_that_was_last_written(link: Link, hub: _Hub, wire: _Wire) -> None:
    for rev in (1, 2):
        hub.log.state.rev = rev
        link.put([A])
        await turn()
    hub.log.state.rev = 5  # nothing in between concerned this node
    link.put_bookmark()
    await turn()
    assert wire.frames == [b"0-1 acme", b"1-2 acme", b"2-5 ", b"bookmark"]


async def test_a_link_whose_directive_cannot_be_built_is_closed(link: Link, hub: _Hub, wire: _Wire) -> None:
    def broken(*_: Any, **__: Any) -> bytes:
        raise KeyError("an entry")

    hub.tables.desired = broken
    link.put([A])
    await turn()
    assert link.closing
    assert wire.frames == []
