"""A fleet under traffic whose active hub is killed, stopped and ended in the middle of moves: another one takes over.

By the own lists of movers and callers no acknowledged move is lost, and nobody is answered by a release that was left.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from tests.fakes.postgres_server import servers
from tests.faults.record import Found, seed
from tests.faults.test_kill_loop import Moved, _listens, _move_under, _settled
from tests.fleet import TENANT, Material, lay

from incident.fleet import Fleet, _end, _spawn, free_port, wait_for
from incident.traffic import Callers
from loradeck.client.api import HubApi
from loradeck.client.config import Context

ROUNDS = 6
STOPPED_S = 9.0


@dataclass
class FleetOfHubs(Fleet):
    """Two hubs over one PostgreSQL database, which all agents know. `active` is the index of the one that serves."""

    database: str = ""
    active: int = 0
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))
    hubs: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def folder(self, number: int) -> Path:
        return self.data if number == 0 else self.root / "hub2"

    @property
    def urls(self) -> tuple[str, str]:
        first, second = (f"http://127.0.0.1:{port}" for port in self.ports)
        return first, second

    def database_of(self, number: int) -> str:
        """The URL by which a hub reaches the database."""
        return self.database

    def start_hub(self) -> None:
        for number in (0, 1):
            self.start_one(number)

    def start_one(self, number: int) -> None:
        folder = self.folder(number)
        folder.mkdir(exist_ok=True, mode=0o700)
        if number == 1 and not (folder / "artifacts").exists():
            (folder / "artifacts").symlink_to(self.data / "artifacts")
        command = [*self.hub_program, "hub", "--data", str(folder), "--name", f"hub{number}"]
        command += ["--listen", f"127.0.0.1:{self.ports[number]}", "--address", self.urls[number]]
        command += ["--store", self.database_of(number)]
        self.hubs[number] = _spawn(command, self.root / f"hub{number}.log")
        wait_for(f"hub {number}", lambda: (folder / "hub.sock").exists(), 60)

    def stop_hub(self) -> None:
        for process in self.hubs.values():
            process.send_signal(signal.SIGCONT)
            _end(process)

    def write_configs(self) -> None:
        super().write_configs()
        for node in self.nodes:
            one = f'hub = "http://127.0.0.1:{self.hub_port}"'
            named = ", ".join(f'"{url}"' for url in self.urls)
            node.config.write_text(node.config.read_text().replace(one, f"hub = [{named}]"))

    def fail(self, how: str) -> None:
        """Makes the active hub fail, and has it back as one that stands by."""
        number, process = self.active, self.hubs[self.active]
        self.active = 1 - number
        if how == "stopped":
            process.send_signal(signal.SIGSTOP)
            threading.Timer(STOPPED_S, process.send_signal, (signal.SIGCONT,)).start()
            return
        process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
        process.wait()
        (self.folder(number) / "hub.sock").unlink(missing_ok=True)
        self.start_one(number)


@contextmanager
def fleet_of_hubs(material: Material) -> Iterator[FleetOfHubs]:
    root = Path(tempfile.mkdtemp(prefix="ld"))
    try:
        with servers() as (server,):
            server.start()
            fleet = FleetOfHubs(root=root, base=material.base, temporary=True, joins=False, database=server.url)
            with fleet.running():
                yield fleet
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.timeout(600)
async def test_no_failover_loses_an_acknowledged_move_or_lets_a_left_release_answer(material: Material) -> None:
    chance = random.Random(seed())
    with fleet_of_hubs(material) as fleet:
        cast, key = lay(fleet, material)
        token = fleet.root / "mover.token"
        fleet.cli("token", "create", "--role", "releaser", "--name", "mover", "--out", str(token))
        moved: list[Moved] = []
        acknowledged: set[str] = set()
        context = Context(name="tests", url=fleet.urls[0], others=fleet.urls[1:], token_file=token)
        async with (
            HubApi.to(context) as api,
            Callers({node.name: node.url for node in fleet.nodes}, {TENANT: key}, max_tokens=12) as callers,
        ):
            callers.start({TENANT: cast.prompts}, every_s=0.02)
            for number in range(ROUNDS):
                how = ("killed", "stopped", "ended")[number % 3]
                began = time.monotonic()
                left, to, result, flipped_ns = await _move_under(
                    api, cast, partial(fleet.fail, how), chance.uniform(0, 0.06)
                )
                took = time.monotonic() - began
                row = await _settled(api, fleet, f"round {number}: the active hub was {how}")
                print(
                    f"{how}: the move was answered after {took:.2f} s, proven everywhere after "
                    f"{time.monotonic() - began:.2f} s"
                )
                if result is not None:
                    acknowledged.update(event.id for event in result.events)
                    assert row.pointer.release == to, f"round {number}: an acknowledged move is gone"
                    if result.reached not in (None, "committed"):
                        moved.append(Moved(left=left, to=to, flipped_ns=flipped_ns, until_ns=time.monotonic_ns()))
                for node in fleet.nodes:
                    await _listens(callers, node, cast)
                if how == "stopped":  # its timer wakes it, and then it learns that it has been succeeded
                    await asyncio.sleep(max(0.0, began + STOPPED_S + 2 - time.monotonic()))
            await callers.stop()
            late = [
                (move, answer)
                for move in moved
                for answer in callers.answers
                if move.flipped_ns < answer.sent_ns < move.until_ns and answer.by == move.left
            ]
            kept = {event.id for event in await api.events(tenant=TENANT, limit=1000)}
            print(
                f"{len(acknowledged)} moves acknowledged, {len(acknowledged - kept)} lost; "
                f"{len(callers.answers)} answers, {len(late)} by a left release"
            )
            lost = len(acknowledged - kept)
            Found(moves=len(acknowledged), lost=lost, answers=len(callers.answers), late=len(late)).keep()
            assert late == []
            assert acknowledged <= kept
            assert len(acknowledged) >= ROUNDS // 2
            assert (await api.verify_audit()).ok
            assert sum(answer.ok for answer in callers.answers) > 50
