"""A fleet of two hubs over PostgreSQL, either of which may fail, and with it the primary of the database."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.fakes.postgres_server import PostgresServer, fail_over
from tests.faults.wire import Wire
from tests.fleets.host import free_port
from tests.fleets.processes.fleet import Material, fleet_at

from incident.fleet import Fleet, _end, _over, _spawn, wait_for

PASSING = {"not_active", "settling", "outcome_unknown", "store_unreachable", "lease_held"}
"""What a hub answers while its database or another hub takes over."""

BUDGETS = {"killed": 5.0, "hung": 15.0, "cut off": 12.0, "primary killed": 15.0}
"""What fails -> seconds to the next acknowledged R (DESIGN 10.8).

The primary's, with the promotion of a standby, which is another tool's work, is that of a hub that hangs.
"""


@dataclass
class FleetOfHubs(Fleet):
    """Two hubs over one database, which all agents know.

    `servers`: the primary and its standbys. `fronts` and `backs`: wires by which a hub is reached, and by which it
    reaches each server; they can swallow what goes over them. `active`: the index of the hub that failed last.
    """

    servers: Sequence[PostgresServer] = ()
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))
    fronts: Sequence[Wire] = ()
    backs: Sequence[Sequence[Wire]] = ()
    active: int = 0
    hubs: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def folder(self, number: int) -> Path:
        return self.data if number == 0 else self.root / "hub2"

    @property
    def urls(self) -> tuple[str, str]:
        first, second = (wire.port for wire in self.fronts) if self.fronts else self.ports
        return f"http://127.0.0.1:{first}", f"http://127.0.0.1:{second}"

    def database_of(self, number: int) -> str:
        """The URL by which a hub reaches the database."""
        if not self.backs:
            return self.servers[0].url
        ports = [str(wire.port) for wire in self.backs[number]]
        hosts = ",".join("127.0.0.1" for _ in ports)
        return f"postgresql://postgres@/postgres?host={hosts}&port={','.join(ports)}"

    # ---- their processes ---------------------------------------------------------------------------------------

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

    # ---- which of them is active -------------------------------------------------------------------------------

    def is_active(self, number: int) -> bool | None:
        """Whether a hub says that it is active; None: it does not answer."""
        with contextlib.suppress(httpx.HTTPError), _over(self.folder(number) / "hub.sock") as client:
            answer = client.get("http://hub/v1/lease", timeout=1.0)
            return bool(answer.json()["active"]) if answer.is_success else None
        return None

    def active_socket(self) -> Path:
        """The own socket of the active hub."""
        (number,) = [number for number in (0, 1) if self.is_active(number)]
        return self.folder(number) / "hub.sock"

    # ---- how they fail -----------------------------------------------------------------------------------------

    def fail(self, how: str) -> float:
        """Makes the active hub fail, or the primary, whose place a standby takes. Returns when, monotonic seconds.

        `how`: killed, ended (SIGTERM), hung, cut off, or primary killed.
        """
        (self.active,) = [number for number in (0, 1) if self.is_active(number)]
        process = self.hubs[self.active]
        if how in ("killed", "ended"):
            process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
            process.wait()
        elif how == "hung":
            process.send_signal(signal.SIGSTOP)
        elif how == "cut off":
            for wire in self._wires():
                wire.swallow()
        else:
            self.servers[0].kill()
        at = time.monotonic()
        if how == "primary killed":
            fail_over(list(self.servers))
        return at

    def mend(self, how: str) -> None:
        """Has the hub back that failed, as one that stands by."""
        number = self.active
        if how == "primary killed":
            return
        if how in ("killed", "ended"):
            (self.folder(number) / "hub.sock").unlink(missing_ok=True)
            self.start_one(number)
        elif how == "hung":
            self.hubs[number].send_signal(signal.SIGCONT)
        else:
            for wire in self._wires():
                wire.heal()
        wait_for(f"the hub that was {how} stands by", lambda: self.is_active(number) is False, 60)

    def _wires(self) -> list[Wire]:
        return [self.fronts[self.active], *self.backs[self.active]]


@contextmanager
def fleet_of_hubs(
    material: Material, servers: Sequence[PostgresServer], *, wired: bool = False
) -> Iterator[FleetOfHubs]:
    """A running fleet over a primary and its standbys. `wired`: all that a hub gets and sends goes over wires."""
    ports = free_port(), free_port()
    with ExitStack() as stack:
        fronts = [stack.enter_context(Wire(port)) for port in ports if wired]
        backs = [[stack.enter_context(Wire(server.socket)) for server in servers] for _ in fronts]
        over = {"servers": servers, "ports": ports, "fronts": fronts, "backs": backs}
        fleet = stack.enter_context(fleet_at(material.base, FleetOfHubs, joins=False, **over))
        assert isinstance(fleet, FleetOfHubs)
        yield fleet
