"""A fleet in which one of five nodes is hostile: it says at random what a node's token lets it say, and worse.

Run as a program it plays for some minutes: `python -m tests.attacks.hostile_node --seconds 600 --seed 7`. A person
presses R and undoes it again, on two tenants, and a console follows. Whatever the node does, no move is lost, R has its
target, the honest nodes follow, and the console hears of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.attacks.lies import LIES, Router
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, data_folder, feed, key, running
from tests.fleets.waiting import until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from loradeck.rules.moves import chain
from loradeck.schemas.feed import FeedTenants, feed_adapter
from loradeck.schemas.link import Ack, Resync, TableState
from loradeck.schemas.log import Event
from loradeck.schemas.moves import MoveResult
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.table import Pin

TENANTS = {"acme": {}, "bolt": {"site": "eu"}}
"""Tenant -> where it is placed: one everywhere, one where the hostile node only says to be."""

HONEST = ("n1", "n2", "n3", "n4")


class HostileNode(LinkedAgent):
    """n5, with a token of its own and no good will. `done` counts what it has tried."""

    deck: Deck

    def __init__(self, deck: Deck, draw: random.Random) -> None:
        super().__init__(deck, "n5", site="us")
        self.draw = draw
        self.done: Counter[str] = Counter()
        self.releases: list[str] = []
        self._lie = ""
        """The hello that it says in place of its own."""

    def hello(self) -> Any:
        return self._lie or super().hello()

    async def go_on(self, until_s: float) -> None:
        """Tries one thing after the other until a monotonic time."""
        tricks: dict[str, Callable[[], Awaitable[Any]]] = {
            name.removeprefix("_try_"): getattr(self, name) for name in dir(self) if name.startswith("_try_")
        }
        while time.monotonic() < until_s:
            name = self.draw.choice(sorted(tricks))
            self.done[name] += 1
            with contextlib.suppress(ConnectionClosed, InvalidStatus, AssertionError, TimeoutError, OSError):
                async with asyncio.timeout(3):
                    if self.closed is not None or self._socket is None:
                        await self._link_anew()
                    await tricks[name]()
            await asyncio.sleep(self.draw.uniform(0, 0.05))

    async def _link_anew(self) -> None:
        await self.leave()
        await self.join()

    def _number(self) -> int:
        return self.draw.choice([-1, 0, 1, 7, 10**9, 2**53 - 1, 2**53, 2**63, 2**64, 2**70])

    def _text(self) -> str:
        return self.draw.choice(["", "x", "\x1b]52;c;eA==\x07", "é" * 3000, "x" * 100_000, "[red]\n"])

    def _release(self) -> str:
        return self.draw.choice([*self.releases, "f" * 64])

    def _tenant(self) -> str:
        return self.draw.choice([*TENANTS, "nobody"])

    async def _try_figures(self) -> None:
        n = self.draw.choice([60, 10_000, 2**60])
        row = {"tenant": self._tenant(), "route": "production", "generation": self.draw.choice([1, 2, 3, 4, 2**40])}
        row |= {"release": self._release(), "replica": self.draw.choice(["n5", "n1", "n5.e", "zz"])}
        row |= dict.fromkeys(("attempted", "admitted", "finished", "checked", "bad"), n)
        said = {"type": "report", "replicas": [self._replica()], "router_boot": self._text()[:9], "traffic": [row]}
        await self.send(json.dumps({**said, "nvml": "no_gpu", "rev": 0, "epoch": 0}))

    async def _try_lie(self) -> None:
        """A second of its router, with a lie of `tests.attacks.lies`: a neighbour's flood is one of them."""
        replica = self.replica
        try:
            await Router(self, LIES[self.draw.choice(sorted(LIES))]).report(int(time.monotonic()), {})
        finally:
            self.replica = replica

    def _replica(self) -> dict[str, Any]:
        replica: dict[str, Any] = json.loads(self.replica.model_dump_json())
        return replica | {"alarm": self._text(), "slots": self._number(), "loaded": [self._release()]}

    async def _try_hello(self) -> None:
        hello = json.loads(self.hello().model_dump_json())
        for field in self.draw.sample(["epoch", "rev", "protocol", "memory_gb"], 2):
            hello[field] = self._number()
        hello |= {"version": self._text(), "labels": {"site": self.draw.choice(["eu", "us", "x" * 300])}}
        self._lie = json.dumps(hello)
        try:
            await self._link_anew()
        finally:
            self._lie = ""

    async def _try_label(self) -> None:
        self.labels = {"site": self.draw.choice(["eu", "us"])}
        await self._link_anew()

    async def _try_second_link(self) -> None:
        twin = LinkedAgent(self.deck, "n5", site="us")
        await twin.join()
        await twin.leave()

    async def _try_other_node(self) -> None:
        twin = LinkedAgent(self.deck, "n1", site="eu")
        await twin.join(await self.deck.token("agent", "n5"))
        await twin.leave()

    async def _try_canary(self) -> None:
        release, more = self._release(), self.draw.choice([{}, {"reason": "x"}, {"withdraws": [1, 2, 3]}])
        item = {"prompt": "f" * 64, "tokens": [self.draw.randrange(9)], "margins": [3.0]}
        build = {"engine": "fake", "device": "cpu", "dtype": "float32"}
        body = {"release": release, "build": build, "items": [item], **more}
        said = {"kind": self.draw.choice(["canary", "revocation", "breached"]), "subject": release, "body": body}
        client = await self.deck.as_role("agent", "n5")
        await client.post("attestations", json={**said, "tenant": self._tenant(), "by": "?"})

    async def _try_blob(self) -> None:
        content = self.draw.randbytes(1000)
        client = await self.deck.as_role("agent", "n5")
        await client.put(f"blobs/{hashlib.sha256(content).hexdigest()}", content=content)

    async def _try_order(self) -> None:
        client = await self.deck.as_role("agent", "n5")
        path = self.draw.choice(
            ["nodes/n1/drain", "nodes/n5/relabel", "tenants/acme/routes/production/rollback", "tokens"]
        )
        await client.post(path, json={"labels": {"site": "eu"}})

    async def _try_pin(self) -> None:
        entry = next(iter(self.entries.values()), None)
        if entry is not None and entry.current is not None:
            made = {"tenant": entry.tenant, "route": entry.route, "release": entry.current, "over": entry.fence}
            self.pins = (Pin(**made, actor=f"root{self._text()}", reason=self._text(), at_ms=1),)
            await self.report()
            self.pins = ()

    async def _try_acks(self) -> None:
        for entry in list(self.entries.values()):
            state = self.draw.choice(list(AckState))
            update = {"replica": self.draw.choice(["n5", "n5", "n1"]), "detail": self._text()}
            await self.ack(entry, state, **update)
        ack = Ack(
            tenant="bolt", route="production", epoch=1, generation=self.draw.randrange(9), release=self._release(),
            replica="n5", state=AckState.FLIPPED, at_ms=0, rev=2**40,
        )  # fmt: skip
        await self.send(ack)

    async def _try_unasked(self) -> None:
        state = TableState(epoch=2**40, rev=2**40, hash="0" * 64, entries=tuple(self.entries.values()))
        await self.send(self.draw.choice([state, Resync(why=self._text())]))

    async def _try_job(self) -> None:
        event = {"run": "x", "attempt": 1, "seq": self._number(), "ts": 0, "type": "finished", "message": self._text()}
        said = {"type": "job_event", "job": self.draw.choice([*self.jobs, "job-1"]), "lease": 1, "attempt": 1}
        await self.send(json.dumps({**said, "event": event, "result": {"x": self._text()}}))

    async def _try_noise(self) -> None:
        await self.send(self.draw.choice(["{", "[]", '{"type":"hello"}', '{"type":"report"}', "null", "1e999"]))


class Console:
    """What a console hears: it must stay connected, understand every message, and hear of every move."""

    def __init__(self) -> None:
        self.generations: dict[str, int] = {}
        self.largest = 0

    async def follow(self, deck: Deck) -> None:
        """Follows the feed; it never ends by itself."""
        async with feed(deck, "0:0") as socket:
            while True:
                text = await socket.recv()
                self.largest = max(self.largest, len(text))
                message = feed_adapter.validate_json(text)
                if isinstance(message, FeedTenants):
                    self.generations |= {row.tenant: row.pointer.generation for row in message.rows}


async def _press(deck: Deck, tenant: str, targets: dict[str, str], moves: list[Event]) -> None:
    """R, seen to arrive on every honest node, and its undo."""
    row = await deck.row(tenant)
    preview = row.preview
    assert preview.action is PreviewAction.ROLLBACK, (tenant, preview.refused)
    assert preview.target is not None
    assert preview.target.id == targets[tenant]
    path = f"tenants/{tenant}/routes/production"
    body = {
        "expected_generation": preview.generation,
        "to": targets[tenant],
        "confirmed": True,
        "idempotency_key": key(),
    }
    back = MoveResult.model_validate(await deck.ok("POST", f"{path}/rollback", body)).events[0]
    undo = {"event": back.id, "confirmed": True, "idempotency_key": key()}
    moves += [back, MoveResult.model_validate(await deck.ok("POST", f"{path}/undo", undo)).events[0]]


def _followed(honest: list[LinkedAgent], console: Console, move: Event) -> bool:
    """Whether every honest node holds a move, and the console has heard of it."""
    at, generation = (move.tenant, str(move.route)), move.generation
    held = [agent.entries[at].generation for agent in honest]
    return {*held, console.generations.get(move.tenant)} == {generation}


async def play(seconds: float, seed: int, data: Path) -> Counter[str]:
    """Plays for some seconds. Returns what the hostile node tried, by name, and how many moves there were."""
    draw = random.Random(seed)
    async with running(data) as deck:
        honest = [await LinkedAgent(deck, name, site="eu").join() for name in HONEST]
        targets: dict[str, str] = {}
        hostile = HostileNode(deck, draw)
        await hostile.join()
        for tenant, placement in TENANTS.items():
            await deck.tenant(tenant, placement=placement)
            first, second = await deck.release(tenant, seed=1), await deck.release(tenant, seed=2)
            for release in (first, second):
                await deck.promote(release, tenant)
            targets[tenant] = first
            hostile.releases += [first, second]
        console, end, moves = Console(), time.monotonic() + seconds, list[Event]()
        followed, tried = asyncio.create_task(console.follow(deck)), asyncio.create_task(hostile.go_on(end))
        while time.monotonic() < end:
            for tenant in TENANTS:
                await _press(deck, tenant, targets, moves)
                await until(partial(_followed, honest, console, moves[-1]), f"{tenant} has gone back everywhere")
            assert not followed.done(), followed
            assert not tried.done() or time.monotonic() >= end, tried
            await asyncio.sleep(0.2)
        await tried
        followed.cancel()
        logged = await deck.hub.store(lambda s: s.since(0, 1_000_000))
        assert chain.verify(logged) is None
        assert {event.id for event in moves} <= {event.id for event in logged}
        assert all(one.closed is None for one in honest)
        assert not deck.hub.facts.revoked
        assert console.largest < 16 << 20
        await hostile.leave()
        for one in honest:
            await one.leave()
        return hostile.done + Counter(moves=len(moves))


async def main() -> None:
    """Plays as the arguments say, and prints what was tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    async with data_folder() as data:
        for what, times in sorted((await play(given.seconds, given.seed, data)).items()):
            print(f"{times:7d} {what}")


if __name__ == "__main__":
    asyncio.run(main())
