"""A whole Loradeck fleet on one machine: a hub, nodes with a router and an engine each, and perhaps a gateway.

Everything is started and spoken to with the commands a person would type (`loradeck hub`, `loradeck node token`,
`loradeck-agent run`), as separate processes on loopback. The demo and the end-to-end tests share it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from base_model import read_manifest
from incident import leftovers

BIN = Path(sys.executable).parent
"""Where the commands of this environment are."""

STOP_S = 90.0
"""How long `loradeck-agent stop` may take: a job that trains ends after its step and saves a checkpoint."""


class CommandFailed(Exception):
    """A command left with another status than 0. `status` is its exit status, `error` what it wrote to stderr."""

    def __init__(self, command: Sequence[str], status: int, error: str) -> None:
        super().__init__(f"{' '.join(command)} left with {status}: {error.strip()}")
        self.status = status
        self.error = error.strip()


class NotReady(Exception):
    """Something did not come up in time; the message says what and where its log is."""


class NotStopped(Exception):
    """Parts of a fleet did not end in order, one line each. All of it was stopped or killed nevertheless."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(
    what: str, ready: Any, seconds: float, *, every: float = 0.05, interrupted: threading.Event | None = None
) -> Any:
    """Calls `ready` until it returns something true, and returns that.

    Raises:
        NotReady: it did not within `seconds`, or it was interrupted.
    """
    deadline = time.monotonic() + seconds
    pause = interrupted or threading.Event()
    while True:
        value = ready()
        if value:
            return value
        if time.monotonic() > deadline:
            raise NotReady(f"{what}: not within {seconds:g} s")
        if pause.wait(every):
            raise NotReady(f"{what}: interrupted")


END_S = 15.0
FOLLOW_S = 5.0
"""How long what agents and the hub started may outlive them, before it is killed."""


@dataclass
class Node:
    """One GPU host, as far as its processes go. `program` is the agent's command, replaced by negative controls."""

    name: str
    root: Path
    port: int
    program: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    tls: bool = False

    @property
    def config(self) -> Path:
        return self.root / f"{self.name}.toml"

    @property
    def state(self) -> Path:
        return self.root / self.name

    @property
    def router_socket(self) -> Path:
        """The router's control socket."""
        return self.state / "router" / "router.sock"

    @property
    def log(self) -> Path:
        """What its agent prints."""
        return self.root / f"{self.name}.log"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"


@dataclass
class Fleet:
    """`root` keeps everything between runs: it must be short, since it holds Unix sockets (107 bytes a path).

    `temporary`: `root` is removed, too, if this process is killed while the fleet runs. `joins`: nodes join, and link
    with mutual TLS; otherwise they show a token over HTTP. `tls`: routers show callers the certificate of their node.
    `gateway`: the name of a gateway before the nodes, which needs both of these; '': there is none.
    """

    root: Path
    base: Path
    names: Sequence[str] = ("gpu-01", "gpu-02")
    program: Sequence[str] = (str(BIN / "loradeck-agent"),)
    hub_program: Sequence[str] = (str(BIN / "loradeck"),)
    hub_options: Sequence[str] = ()
    slots: int = 6
    threads: int = 1
    jobs_at_once: int = 1
    hub_port: int = 0
    temporary: bool = False
    joins: bool = True
    tls: bool = False
    gateway: str = ""
    front: Node | None = None
    nodes: list[Node] = field(default_factory=list)
    hub: subprocess.Popen[bytes] | None = None
    _interrupted: threading.Event = field(default_factory=threading.Event, repr=False)
    _commands: set[subprocess.Popen[str]] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A resumed fleet keeps its ports: callers and adopted routers know them.
        ports = self._ports()
        self.hub_port = ports["hub"]
        self.nodes = [Node(name, self.root, ports[name], self.program, tls=self.tls) for name in self.names]
        if self.gateway:
            self.front = Node(self.gateway, self.root, ports[self.gateway], self.program, tls=self.tls)

    def _ports(self) -> dict[str, int]:
        path = self.root / "ports.json"
        ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        missing = {"hub", *self.names, *filter(None, [self.gateway])} - ports.keys()
        if missing:
            ports |= {name: free_port() for name in missing}
            path.write_text(json.dumps(ports))
        return ports

    # -- the hub ---------------------------------------------------------------------------------------

    @property
    def data(self) -> Path:
        return self.root / "hub"

    @property
    def socket(self) -> Path:
        return self.data / "hub.sock"

    @property
    def authority(self) -> Path | None:
        """The certificate by which callers know the routers; None: those have none."""
        return self.data / "tls" / "authority.pem" if self.tls else None

    def start_hub(self) -> None:
        """`loradeck hub`, until it answers on its own socket."""
        command = [*self.hub_program, "hub", "--data", str(self.data), "--name", "demo"]
        command += ["--nodes" if self.joins else "--listen", f"127.0.0.1:{self.hub_port}", *self.hub_options]
        self.hub = _spawn(command, self.root / "hub.log")
        wait_for(f"hub (log: {self.root / 'hub.log'})", self._hub_is_up, 60, interrupted=self._interrupted)

    def _hub_is_up(self) -> bool:
        if self.hub is not None and self.hub.poll() is not None:
            raise NotReady(f"the hub ended with {self.hub.returncode}: {_tail(self.root / 'hub.log')}")
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
        except OSError:
            return False
        return True

    def stop_hub(self) -> None:
        _end(self.hub)
        self.hub = None

    def kill_hub(self) -> None:
        if self.hub is not None:
            self.hub.kill()
            self.hub.wait()
        self.hub = None

    # -- nodes -----------------------------------------------------------------------------------------

    def write_configs(self) -> None:
        """One token and one agent.toml a node, where there is none yet."""
        for node in self.nodes:
            words = (
                ("node", "token", node.name, "--host", "127.0.0.1")
                if self.joins
                else ("token", "create", "--role", "agent", "--name", node.name, "--node", node.name)
            )
            token = self._token(node, *words)
            tls = "tls = true\n" if self.tls else ""
            tls += f'address = "127.0.0.1:{node.port}"\n' if self.gateway else ""
            jobs = f"[jobs]\nat_once = {self.jobs_at_once}\n\n" if self.jobs_at_once != 1 else ""
            node.config.write_text(
                f'node = "{node.name}"\n'
                f'hub = "{"https" if self.joins else "http"}://127.0.0.1:{self.hub_port}"\n'
                f"token = {json.dumps(str(token))}\n"
                f"state = {json.dumps(str(node.state))}\n\n"
                f'[labels]\nsite = "demo"\nhost = "{node.name}"\n\n'
                f"{jobs}"
                f'[router]\nlisten = "127.0.0.1:{node.port}"\n{tls}\n{self.engine_tables(node)}'
            )

    def _token(self, node: Node, *words: str) -> Path:
        """The file of a node's token, which these words make where there is none yet."""
        token = self.root / f"{node.name}.{'join' if self.joins else 'token'}"
        if not token.exists():
            self.cli(*words, "--out", str(token))
        return token

    def engine_tables(self, node: Node) -> str:
        """The `[[engine]]` tables of a node's agent.toml: one embedded engine."""
        return self.engine_table("e0", self.base)

    def engine_table(self, name: str, base: Path) -> str:
        """One embedded engine, as TOML."""
        return (
            f'[[engine]]\nname = "{name}"\nkind = "embedded"\nbase = {json.dumps(str(base))}\n'
            f"slots = {self.slots}\nthreads = {self.threads}\n"
        )

    def start_agent(self, node: Node) -> None:
        """`loradeck-agent run`; returns at once, see `wait_until_up`."""
        node.process = _spawn([*node.program, "run", "--config", str(node.config)], node.log)

    def start_gateway(self) -> None:
        """`loradeck-agent gateway`; returns at once, see `wait_until_up`."""
        front = self.front
        assert front is not None
        token = self._token(front, "node", "token", front.name, "--gateway", "--host", "127.0.0.1")
        front.config.write_text(
            f'node = "{front.name}"\nhub = "https://127.0.0.1:{self.hub_port}"\ntoken = {json.dumps(str(token))}\n'
            f"state = {json.dumps(str(front.state))}\n\n"
            f'[router]\nlisten = "127.0.0.1:{front.port}"\n{"tls = true" if self.tls else ""}\n'
        )
        front.process = _spawn([*front.program, "gateway", "--config", str(front.config)], front.log)

    def wait_until_asked_for(self, tenants: Collection[str], seconds: float = 30) -> None:
        """Until the gateway knows of each tenant's production route a node that may answer.

        Raises:
            NotReady: it does not in time.
        """

        def known() -> bool:
            assert self.front is not None
            try:
                with _over(self.front.state / "gateway.sock") as client:
                    routes = client.get("http://gateway/status").raise_for_status().json()["routes"]
            except httpx.TransportError:
                return False
            near = {one["tenant"] for one in routes if set(one["nodes"].values()) - {"absent"}}
            return near.issuperset(tenants)

        wait_for(f"{self.gateway} to know who is where", known, seconds, every=0.1, interrupted=self._interrupted)

    def wait_until_up(self, seconds: float = 90) -> None:
        """Until the gateway and every node are linked, and each engine is up, or stopped because nothing wants it.

        Raises:
            NotReady: with the last lines of the log of a node that is not.
        """

        def up() -> bool:
            for node in (*self.nodes, *filter(None, [self.front])):
                if node.process is not None and node.process.poll() is not None:
                    raise NotReady(f"agent of {node.name} ended with {node.process.returncode}: {_tail(node.log)}")
            rows = {row["node"]: row for row in self.ask("nodes")}
            if self.front is not None and not rows.get(self.front.name, {"linked": False})["linked"]:
                return False
            return all(
                (row := rows.get(node.name)) is not None
                and row["linked"]
                and row["replicas"]
                and all(replica["state"] in ("up", "stopped") for replica in row["replicas"])
                for node in self.nodes
            )

        try:
            wait_for("nodes", up, seconds, every=0.3, interrupted=self._interrupted)
        except NotReady as error:
            logs = "\n".join(f"{node.name}: {_tail(node.log)}" for node in self.nodes)
            raise NotReady(f"{error}\n{logs}") from None

    def kill_agent(self, node: Node) -> None:
        """kill -9: its router and engine live on."""
        if node.process is not None:
            node.process.kill()
            node.process.wait()
        node.process = None

    def stop_node(self, node: Node) -> None:
        """`loradeck-agent stop`: the agent, its router, its engines and its jobs.

        Raises:
            NotStopped: the command failed or took too long.
        """
        try:
            if node.config.exists():
                command = [str(BIN / "loradeck-agent"), "stop", "--config", str(node.config)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=STOP_S, check=False)
                if done.returncode != 0:
                    raise NotStopped(
                        f"{node.name}: loradeck-agent stop left with {done.returncode}: {done.stderr.strip()}"
                    )
        except subprocess.TimeoutExpired:
            raise NotStopped(f"{node.name}: loradeck-agent stop did not end within {STOP_S:.0f} s") from None
        finally:
            _end(node.process)
            node.process = None

    # -- all of it -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the hub and every agent; returns before the nodes are up, see `wait_until_up`."""
        self.start_hub()
        self.start_agents()

    def start_agents(self) -> None:
        """Starts every agent, and the gateway; returns before the nodes are up, see `wait_until_up`."""
        self.write_configs()
        for node in self.nodes:
            self.start_agent(node)
        if self.front is not None:
            self.start_gateway()

    def stop(self) -> None:
        """Ends every process of the fleet, whichever of them resist. Safe to call at any time, and more than once.

        The gateway is stopped first, then nodes at the same time, then the hub; what still runs is killed.

        Raises:
            NotStopped: something did not end in order. It is raised when everything has ended.
        """
        problems: list[str] = []

        def attempt(stop: Callable[[], None]) -> None:
            try:
                stop()
            except (NotStopped, OSError) as error:
                problems.append(str(error))

        if self.front is not None:
            _end(self.front.process)
            self.front.process = None
        with ThreadPoolExecutor(max_workers=max(1, len(self.nodes))) as threads:
            for node in self.nodes:
                threads.submit(attempt, lambda node=node: self.stop_node(node))  # type: ignore[misc]
        attempt(self.stop_hub)
        with contextlib.suppress(NotReady):  # what those started may take a moment to follow them
            wait_for("the end", lambda: not leftovers.processes(self.root), FOLLOW_S)
        problems += [f"killed: {command}" for command in leftovers.sweep(self.root)]
        if problems:
            raise NotStopped("\n".join(problems))

    def interrupt(self) -> None:
        """Ends the waits and commands of other threads, with NotReady or CommandFailed there. For an end by signal."""
        self._interrupted.set()
        for process in list(self._commands):
            process.terminate()

    @contextlib.contextmanager
    def running(self) -> Iterator[Fleet]:
        """The fleet, up for the length of the block. Its folder is swept even if this process is killed meanwhile."""
        with leftovers.guard(self.root, remove=self.temporary):
            try:
                self.start()
                self.wait_until_up()
                yield self
            finally:
                self.stop()

    def cli(self, *words: str, check: bool = True, seconds: float = 300) -> Any:
        """`loradeck … --json` over the hub's own socket, as the person who started it; its JSON.

        Raises:
            CommandFailed: it left with another status than 0 (and `check`).
        """
        written = self.said(*words, "--json", check=check, seconds=seconds)
        return json.loads(written) if written.strip() else None

    def said(self, *words: str, check: bool = True, seconds: float = 300) -> str:
        """`loradeck …` as `cli` runs it, and what it says for people.

        Raises:
            CommandFailed: it left with another status than 0 (and `check`).
        """
        command = [str(BIN / "loradeck"), "--hub", f"unix:{self.socket}", *words]
        status, written, error = self._run(command, seconds)
        if status != 0 and check:
            raise CommandFailed(["loradeck", *words], status, error)
        return written

    def provide_base(self) -> None:
        """Converts the base model, if that was not done before, in a process of its own: it needs torch, and 20 s.

        Raises:
            CommandFailed: it could not be provided; the error says what is missing and what to do.
        """
        if read_manifest(self.base) is None:
            command = [sys.executable, "-m", "base_model", "--out", str(self.base.parent)]
            status, _, error = self._run(command)
            if status != 0:
                raise CommandFailed(command[1:3], status, error)

    def _run(self, command: Sequence[str], seconds: float = 300) -> tuple[int, str, str]:
        """Runs a command that `interrupt` ends; its exit status, and what it wrote to stdout and stderr."""
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            self._commands.add(process)
            try:
                written, error = process.communicate(timeout=seconds)
            finally:
                process.kill()
                self._commands.discard(process)
        return process.returncode, written, error

    def ask(self, path: str) -> Any:
        """What the hub answers to GET /v1/`path` over its own socket: for what is asked again and again."""
        with _over(self.socket) as client:
            answer = client.get(f"http://hub/v1/{path}").raise_for_status()
        return answer.json()

    def trace(self, node: Node, after: int) -> list[dict[str, Any]]:
        """The rows of a router's trace that were completed after row `after`, oldest first."""
        with _over(node.router_socket) as client:
            answer = client.get("http://router/control/trace", params={"after": after}).raise_for_status()
        rows: list[dict[str, Any]] = answer.json()["rows"]
        return rows

    def agent_cli(self, node: Node, *words: str) -> Any:
        """`loradeck-agent … --config … --json` on a node."""
        command = [str(BIN / "loradeck-agent"), *words, "--config", str(node.config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise CommandFailed(["loradeck-agent", *words], done.returncode, done.stderr)
        return json.loads(done.stdout)


def _over(path: Path) -> httpx.Client:
    """A client over a Unix socket. It loads no certificates, which would take longer than most calls."""
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path), verify=False), timeout=30)


def _spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        # A session of its own: Ctrl-C in the terminal reaches the demo, which then stops things in order.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=os.environ
        )


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path, lines: int = 12) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"
