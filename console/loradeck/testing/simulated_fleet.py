"""A simulated fleet: tenants and releases on a real hub, and nodes that link to it with the agents' own code."""

import asyncio
import json
import signal
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click

from loradeck.cli.shared.exits import CliError, Exit, misused, refused
from loradeck.cli.shared.session import Noun, Session, writes
from loradeck.client.api import HubApi
from loradeck.client.blobs import upload
from loradeck.client.connect import endpoint
from loradeck.client.errors import ClientError
from loradeck.client.idempotency import new_key
from loradeck.client.transport import Transport, http_client
from loradeck.schemas.ids import Wire, digest_of
from loradeck.schemas.manifest import AdapterManifest, BaseManifest, DecisionRecord, FileEntry
from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.route import RouteConfig, Soak
from loradeck.schemas.tenant import TenantCreate, TokenCreate

ROUTE = "production"
EVERYWHERE = "sim-everywhere"
"""The tenant that is placed on every node."""

FLEET = {"fleet": "sim"}
RACK = 2
"""Nodes that share a label, and with it their tenants: the number of a tenant's replicas."""

AT_ONCE = 64
"""Requests under way at the hub while the fleet is set up; those of promotes wait there for their proofs."""

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


class SimState(Wire):
    """A line of `loradeck sim fleet --json`.

    `live`: tenants whose second release is live and proven; `error`: an error of one of the nodes that are not linked.
    """

    phase: str
    nodes: int
    linked: int
    tenants: int
    live: int
    reports: int
    error: str = ""


@click.group(cls=Noun)
def sim() -> None:
    """Simulate a fleet, to try a hub and a console with one."""


@sim.command()
@click.option("--nodes", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="Nodes to link.")
@click.option(
    "--tenants",
    type=click.IntRange(0, 20_000),
    default=100,
    show_default=True,
    help=f"Tenants on {RACK} nodes each; one more is on all nodes.",
)
@click.option(
    "--link",
    metavar="URL",
    default="http://127.0.0.1:7400",
    show_default=True,
    help="The hub's TCP address, which agents link to.",
)
@click.option("--ca", type=click.Path(path_type=Path), help="Authority of an https:// hub, PEM.")
@click.option(
    "--report-every",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between a node's reports.",
)
@writes
async def fleet(s: Session, nodes: int, tenants: int, link: str, ca: Path | None, report_every: float) -> None:
    """Link simulated nodes to a hub on this machine until interrupted.

    Each node is the agent's own link, table and acknowledgements; there is no router, no engine and no GPU behind
    it, and its figures are invented. The hub is a real one and keeps these tenants: give it a data folder of its
    own (`loradeck hub --data FOLDER --listen HOST:PORT`). Tenants are called sim-0001 and so on, each with two
    releases proven, so that R has somewhere to go. The nodes' tokens are revoked at the end.
    """
    if s.context.socket is None:
        raise misused(
            "tokens for the nodes are made only over the hub's own socket",
            where=s.api.where,
            fix="run it on the hub's host: loradeck --hub unix:DATA/hub.sock sim fleet",
        )
    state = await s.api.state()
    if state.status.production:
        raise refused(
            "a simulated fleet has no place on a production hub",
            where=state.status.hub,
            fix="start another hub, without --production, in a data folder of its own",
            code="production",
        )
    point = endpoint(s.context)
    api = HubApi(Transport(point, http_client(point, connections=AT_ONCE)))
    run = _Fleet(s, api, nodes=nodes, tenants=tenants, link=link, ca=ca, report_every=report_every)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    work, stopped = asyncio.create_task(run.run()), asyncio.create_task(stop.wait())
    await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not work.done():
        work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        s.out.say("the simulated fleet is gone; its tenants and the names of its nodes stay in the hub's log")
    finally:
        await api.aclose()


class _Fleet:
    """One run of a simulated fleet. What was started or created for it ends with `run`, however that ends."""

    def __init__(
        self, s: Session, api: HubApi, *, nodes: int, tenants: int, link: str, ca: Path | None, report_every: float
    ) -> None:
        self._s = s
        self._api = api
        self._names = [f"sim-{n:04}" for n in range(1, nodes + 1)]
        self._racks = max(1, nodes // RACK)
        self._tenants = [EVERYWHERE, *(f"sim-{n:04}" for n in range(1, tenants + 1))]
        self._link = link
        self._ca = ca
        self._report_every = report_every
        self._linked = asyncio.Event()
        self._state = SimState(phase="", nodes=nodes, linked=0, tenants=len(self._tenants), live=0, reports=0)

    async def run(self) -> None:
        """Runs the fleet until cancelled.

        Raises:
            CliError: the nodes' process ended by itself.
            ClientError: the hub refused something or went away before the fleet was set up.
        """
        base, releases = await self._registered()
        async with self._tokens() as tokens, self._nodes(base, tokens) as process:
            reader = asyncio.create_task(self._follow(process))
            promoting = asyncio.create_task(self._promoted(releases))
            try:
                await asyncio.wait((reader, promoting), return_when=asyncio.FIRST_COMPLETED)
                if not reader.done():
                    await promoting
                    self._say("standing", f"R has somewhere to go on {self._state.live} tenants; Ctrl-C ends it")
                await reader
            finally:
                for task in (reader, promoting):
                    task.cancel()
                await asyncio.gather(reader, promoting, return_exceptions=True)

    # ---- registration ----------------------------------------------------------------------------------------

    async def _registered(self) -> tuple[str, dict[str, tuple[str, str]]]:
        """Registers base, tenants and releases, or finds them. Returns the base's digest and the releases."""
        weights = FileEntry(path="simulated.safetensors", size=0, sha256=digest_of({"simulated": "base"}))
        manifest = BaseManifest(model_id="simulated/base", revision="1", files=(weights,))
        base = (await self._api.register_base(manifest)).digest
        files = [await self._uploaded(value) for value in (1.0, 2.0)]
        known = {tenant.name for tenant in await self._api.tenants()}
        releases: dict[str, tuple[str, str]] = {}

        async def register(tenant: str) -> None:
            if tenant not in known:
                await self._api.create_tenant(TenantCreate(name=tenant))
            await self._api.set_route(tenant, ROUTE, self._route(tenant))
            made = [await self._api.register_adapter(_manifest(tenant, base, own)) for own in files]
            releases[tenant] = (made[0].release, made[1].release)

        await self._each("registering tenants", self._tenants, register)
        return base, releases

    def _route(self, tenant: str) -> RouteConfig:
        number = self._tenants.index(tenant)
        placement = {"rack": f"r{number % self._racks:04}"} if number else FLEET
        return RouteConfig(placement=placement, soak=Soak(seconds=0, requests=0))

    async def _uploaded(self, value: float) -> tuple[FileEntry, ...]:
        """Uploads the smallest adapter that the hub accepts; another value gives another adapter."""
        made = []
        with tempfile.TemporaryDirectory(prefix="loradeck-sim") as folder:
            for name, content in _adapter_files(value).items():
                path = Path(folder) / name
                path.write_bytes(content)
                sha256, size = await upload(self._api, path)
                made.append(FileEntry(path=name, size=size, sha256=sha256))
        return tuple(made)

    # ---- nodes -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _tokens(self) -> AsyncIterator[dict[str, str]]:
        """Creates a token for each node, and revokes them at the end."""
        ids: list[str] = []
        tokens: dict[str, str] = {}

        async def create(name: str) -> None:
            made = await self._api.create_token(TokenCreate(name=name, role="agent", node=name))
            ids.append(made.id)
            tokens[name] = made.token

        try:
            await self._each("making tokens", self._names, create)
            yield tokens
        finally:
            try:
                await self._each("revoking tokens", ids, self._api.revoke_token)
            except ClientError as error:
                self._s.out.alarm(f"tokens of the simulated nodes are not all revoked: {error.title}")

    @asynccontextmanager
    async def _nodes(self, base: str, tokens: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
        """Starts the process that plays the nodes."""
        command = [sys.executable, "-m", "loradeck_agent.testing.simulated_nodes", "--hub", self._link, "--base", base]
        command += ["--report-every", str(self._report_every)]
        if self._ca is not None:
            command += ["--ca", str(self._ca)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        try:
            listed = [
                {"node": name, "token": tokens[name], "labels": {**FLEET, "rack": f"r{n // RACK % self._racks:04}"}}
                for n, name in enumerate(self._names)
            ]
            process.stdin.write(json.dumps(listed).encode())
            await process.stdin.drain()
            process.stdin.close()
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        """Follows the reports of the nodes' process. Raises: CliError: it ended."""
        assert process.stdout is not None
        linked = -1
        while line := await process.stdout.readline():
            self._state = self._state.model_copy(update=json.loads(line))
            self._s.out.json_line(self._state)
            if self._state.linked == self._state.nodes:
                self._linked.set()
            if self._state.linked != linked:
                linked = self._state.linked
                self._s.out.say(f"linked {linked}/{self._state.nodes} {self._state.error}".rstrip())
        raise CliError(
            "the process that plays the nodes has ended",
            where=f"exit status {await process.wait()}; its messages are above",
            fix="is the package installed with its agent extra, and is --link the hub's TCP address?",
            code="sim_ended",
            exit=Exit.UNREACHABLE,
        )

    # ---- releases --------------------------------------------------------------------------------------------

    async def _promoted(self, releases: dict[str, tuple[str, str]]) -> None:
        """Promotes the first release of every tenant, then each second one: a rev in between can be rewound to."""
        await self._linked.wait()
        for turn, what in enumerate(("first", "second")):

            async def promote(tenant: str, turn: int = turn) -> None:
                await self._promote(tenant, releases[tenant][turn], turn)

            await self._each(f"promoting the {what} releases", self._tenants, promote)

    async def _promote(self, tenant: str, release: str, generation: int) -> None:
        """Promotes a release and waits for its proof, unless an earlier run has.

        Raises: CliError: `sim_slow`: it was not proven in time.
        """
        row = await self._api.row(tenant, ROUTE)
        if row.pointer.generation == generation:
            request = PromoteRequest(
                release=release, expected_generation=generation, idempotency_key=new_key(), reason="sim fleet"
            )
            result = await self._api.send(tenant, ROUTE, request, wait="proven", timeout=120)
            if result.reached != "proven":
                raise CliError(
                    "a promote was not proven in 120 s",
                    where=f"{tenant}: {result.reached or 'still preparing'}",
                    fix="fewer nodes, or a machine with more cores",
                    code="sim_slow",
                    exit=Exit.NOT_IN_TIME,
                )
        self._state = self._state.model_copy(update={"live": self._state.live + generation})

    # ---- shared ----------------------------------------------------------------------------------------------

    async def _each(self, what: str, items: Iterable[str], work: Callable[[str], Awaitable[object]]) -> None:
        """Does `work` for every item, `AT_ONCE` of them at a time, and reports progress."""
        waiting: Sequence[str] = list(items)
        self._say(what, f"{what}: {len(waiting)}")
        left = iter(waiting)
        done = 0

        async def worker() -> None:
            nonlocal done
            for item in left:
                await work(item)
                done += 1
                if done % 500 == 0:
                    self._say(what, f"{what}: {done}/{len(waiting)}")

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(waiting))):
                    group.create_task(worker())
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            raise first from None

    def _say(self, phase: str, line: str) -> None:
        self._state = self._state.model_copy(update={"phase": phase})
        self._s.out.json_line(self._state)
        self._s.out.say(line)


def _manifest(tenant: str, base: str, files: tuple[FileEntry, ...]) -> AdapterManifest:
    return AdapterManifest(
        tenant=tenant,
        name="simulated",
        base=base,
        files=files,
        rank=1,
        alpha=1,
        target_modules=("q_proj",),
        config_hash=digest_of({"simulated": "adapter"}),
        decision=DecisionRecord(why_weights="a simulated fleet"),
    )


def _adapter_files(value: float) -> dict[str, bytes]:
    """An adapter of rank 1 on one module of eight features, in safetensors."""
    side = struct.pack("<8f", *([value] * 8))
    header = json.dumps(
        {
            f"{MODULE}.lora_A.weight": {"dtype": "F32", "shape": [1, 8], "data_offsets": [0, len(side)]},
            f"{MODULE}.lora_B.weight": {"dtype": "F32", "shape": [8, 1], "data_offsets": [len(side), 2 * len(side)]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    return {
        "adapter_model.safetensors": struct.pack("<Q", len(header)) + header + side + side,
        "adapter_config.json": json.dumps(config).encode(),
    }
