"""A simulated node: the whole agent, the router's own parts, and an engine that answers by the adapter it is asked for.

The agent is `loradeck_agent.daemon.Agent`. Behind it only the clock, the disk, sockets, child processes, the files of
releases and the GPUs are made up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from tests.fleets.in_process.simulated.disk import SimPath
from tests.fleets.in_process.simulated.event_loop import Process, current
from tests.fleets.in_process.simulated.gateway_wire import Asked, Began
from tests.fleets.in_process.simulated.hub_process import BASE, HUBS, token_of, zone_of
from tests.fleets.in_process.simulated.network import Host, Server

from loradeck.rules.serving.router_handover import may_admit
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.table import ColdQueueLimits, ReleaseRef
from loradeck.schemas.telemetry import NvmlState
from loradeck_agent.daemon import Agent
from loradeck_agent.host.config import AgentConfig, JobsConfig, RouterConfig
from loradeck_agent.host.engine_config import EmbeddedEngine
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.http_client import Reply
from loradeck_agent.host.identity import Login
from loradeck_agent.router.admission import Admitted, Caller, Refusal
from loradeck_agent.router.counters import End
from loradeck_agent.router.engine_pools import Replicas
from loradeck_agent.router.fences import FENCE
from loradeck_agent.router.handover import Predecessor
from loradeck_agent.router.serve import Router
from loradeck_agent.router.table import Table, TableFault
from loradeck_agent.serving.engine_api import EngineVersion
from loradeck_agent.serving.router_sync import TAKE_OVER

SLOTS = 6
BUILD = EngineBuild(engine="simulated", device="none", dtype="none")
NEXT_BUILD = BUILD.model_copy(update={"engine": "simulated 2"})
STATE = SimPath("/state")
QUEUE = ColdQueueLimits(waiting=3, tenant=2, seconds=3.0, loads=1)


class NodeProcesses:
    """A node: its agent, its router and its engine, each of which may end and start again by itself."""

    def __init__(self, host: Host, oracle: Any, identity: str = "") -> None:
        self.host = host
        self.name = host.name
        self.identity = identity or host.name
        """The node that it links as: a copy on another host has that of the original."""
        self.oracle = oracle
        self.agent_process: Process | None = None
        self.agent: Agent | None = None
        self.router: RouterProcess | None = None
        """The one that serves, or that served last."""
        self.routers: list[RouterProcess] = []
        """All that may live: one that is to take over, and one that drains, too."""
        self.answered_by: RouterProcess | None = None
        """The one that admitted a caller last."""
        self.engine: EngineProcess | None = None
        self.zone = zone_of(self.identity)
        """The label that its agent has the next time that it starts."""
        self.load_fails = 0
        """So many loads of the engine fail from now on."""
        self.build = BUILD
        """That of its engine, the next time that it starts."""
        host.node = self  # type: ignore[attr-defined]

    @property
    def runs(self) -> bool:
        """Whether its agent does."""
        return self.agent is not None and self.agent_process is not None and self.agent_process.alive

    # ---- the agent -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the agent, unless it runs."""
        if self.agent_process is not None and self.agent_process.alive:
            return
        process = self.agent_process = Process(self.oracle.scheduler, self.host, f"{self.name}/agent")
        self.agent = None
        self.oracle.scheduler.note("starts", process.name)
        process.start(self._run_agent())

    async def _run_agent(self) -> None:
        engine = EmbeddedEngine.model_construct(name="e0", base=SimPath("/base"), slots=SLOTS)
        config = AgentConfig.model_construct(
            node=self.identity,
            hubs=tuple(f"http://{hub}:1" for hub in HUBS),
            token=SimPath("/token"),
            state=STATE,
            labels={"zone": self.zone},
            router=RouterConfig(listen="127.0.0.1:1"),
            jobs=JobsConfig(),
            engine=(engine,),
        )
        login = Login.of_token(token_of(self.identity))
        agent = Agent(config, lambda: login)
        self.agent = agent
        await agent.run()

    # ---- child processes -----------------------------------------------------------------------------------

    def spawn(self, argv: tuple[str, ...]) -> Process:
        """Starts what a command line of the agent's says."""
        module = argv[2]
        if module == "loradeck_agent.router":
            process = Process(self.oracle.scheduler, self.host, f"{self.name}/router")
            router = RouterProcess(self, process, takes_over=TAKE_OVER[0] in argv)
            self.routers = [*(other for other in self.routers if other.process.alive), router]
            if self.router is None or not self.router.process.alive:
                self.router = router
            process.start(router.main())
        else:
            assert module == "loradeck_agent.embedded.serve", module
            process = Process(self.oracle.scheduler, self.host, f"{self.name}/engine")
            self.engine = EngineProcess(self, process)
            process.start(self.engine.main())
        self.oracle.scheduler.note("starts", process.name)
        return process

    def processes(self) -> list[Process]:
        """Those that live."""
        found = [
            self.agent_process,
            *(router.process for router in self.routers),
            self.engine.process if self.engine else None,
        ]
        return [process for process in found if process is not None and process.alive]

    def power_cut(self) -> None:
        """The machine is off; what was not synced is gone."""
        self.host.up = False
        for process in self.processes():
            process.kill("power cut")
        self.host.disk.power_cut()

    def power_on(self) -> None:
        """The machine is on again, and starts its agent."""
        self.host.up = True
        self.start()

    # ---- pins ----------------------------------------------------------------------------------------------

    def admit(self, key: tuple[str, str], user: str | None = None) -> Admitted | Refusal | None:
        """A caller's request at this node's router, answered at once; None: no router answers."""
        router = self.router
        kept = [other for other in self.routers if other is not router and other.serving and other.process.alive]
        if kept and self.oracle.turn % 3 == 0:
            router = kept[0]  # over a connection that the caller has kept
        return router.admit(key, user) if router is not None and router.answers_now else None

    def let_wait(self, key: tuple[str, str], user: str) -> bool:
        """Has a caller's request wait, where it has a load to wait for. Returns whether it does."""
        router = self.router
        if router is None or not router.answers_now or not router.waits(key):
            return False
        router.process.create_task(router.admit_once_loaded(key, user))
        return True

    def end_a_router(self, which: int) -> None:
        """Ends one of the routers that live: 0 the oldest, -1 the newest."""
        alive = [router.process for router in self.routers if router.process.alive]
        if alive:
            alive[which].kill("in a hand-over")

    def process_of(self, pid: int) -> Process | None:
        """The router's process of this id, if it lives."""
        return next((r.process for r in self.routers if r.process.pid == pid and r.process.alive), None)


class Popen:
    """Stands in for `subprocess.Popen`."""

    def __init__(self, argv: tuple[str, ...], **unused: Any) -> None:
        process = current()
        assert process is not None
        self.process = process.host.node.spawn(argv)
        self.pid = self.process.pid

    def wait(self) -> int:
        """The exit status of a process that has ended."""
        return -9


# ---- the router -----------------------------------------------------------------------------------------------


class _Request:
    transport = None
    """Nobody knows whose process calls."""

    def __init__(self, path: str, body: bytes | None, query: dict[str, str]) -> None:
        self.path = path
        self._body = body or b""
        self.query = query

    async def read(self) -> bytes:
        return self._body


class _Router(Router):
    """The product's router without HTTP: who may admit, its table, and what it does with the router before it."""

    async def serve(self, under_way: Any) -> None:
        """Serves once it has the right to admit."""
        self.proxy = under_way
        self.switch.start()
        await self._admit()
        if (before := self._found_draining()) is not None:
            self._tasks.append(asyncio.create_task(self._until_it_ends(before)))

    async def _until_it_ends(self, before: Predecessor) -> None:
        await before.ended.wait()
        self._forget(before)


class RouterProcess:
    """A router: its table, switch, admission and control calls, without HTTP.

    `serving`: it has had the right to admit; `router` has handed it over if its admission says so.
    """

    def __init__(self, node: NodeProcesses, process: Process, *, takes_over: bool) -> None:
        self.node = node
        self.process = process
        self.serving = False
        self.table: Table | None = None
        self._takes_over = takes_over
        self.answers: dict[tuple[int, int], asyncio.Task[None]] = {}
        self.begun: dict[tuple[int, int], Admitted] = {}
        """What each of these answers was admitted to."""

    @property
    def answers_now(self) -> bool:
        """Whether it can be asked."""
        return self.serving and self.process.alive and not self.process.paused

    @property
    def under_way(self) -> int:
        """Answers that have begun and not ended."""
        return sum(not answer.done() for answer in self.answers.values())

    @property
    def replicas(self) -> Replicas:
        """The engines that it knows."""
        return self._router._replicas

    async def main(self) -> None:
        """Opens the table, and answers until it is killed, or has handed over and has nothing more to do."""
        draw = self.process.scheduler.random
        await asyncio.sleep(draw.uniform(0.05, 0.4))
        try:
            router = self._router = _Router(STATE / "router", queue=QUEUE, takes_over=self._takes_over)  # type: ignore[arg-type]
            self.table, self.admission, self.switch = router._table, router._admission, router.switch
            self.node.oracle.router_started(self.node, self)
            await router.serve(self)
        except (AgentError, TableFault, OSError) as fault:
            self.process.scheduler.note("router", self.node.name, "cannot start", fault)
            return
        control: Any = router.control
        self._calls: dict[str, Callable[[Any], Any]] = {
            "/control/state": control._state,
            "/control/stats": control._get_stats,
            "/control/use": control._use,
            "/control/cold": control._wanted,
            "/control/trace/newest": control._get_newest,
            "/control/table": control._table,
            "/control/engines": control._engines,
            "/control/pin": control._pin,
            "/control/unpin": control._unpin,
            "/control/hub": control._hub,
            "/control/proof": control._proof,
            "/control/hand-over": control._hand_over,
            "/control/drain/stats": control._get_drain_stats,
            "/control/drain/cut": control._cut,
        }
        self.serving = True
        before, self.node.router = self.node.router, self
        servers, rivals = self.process.host.servers, self.process.host.rivals
        servers[str(STATE / "router" / "router.sock")] = Server(self.process, handle=self._handle)
        if before is not None and before.process.alive and before is not self:
            rivals["router"] = Server(before.process, handle=before._pass_on)
            self.node.oracle.counts["hand-overs"] += 1
        servers["router"] = servers["passed on"] = Server(self.process, handle=self._pass_on)
        await router.drained.wait()

    async def _handle(self, method: str, path: str, body: Any) -> Reply:
        path, _, query = path.partition("?")
        request = _Request(path, body, dict(part.split("=", 1) for part in query.split("&") if part))
        control: Any = self._router.control
        answer = await control._answer_problems(request, self._calls[path])
        if answer.status == 200 and path in ("/control/table", "/control/engines"):
            self.node.oracle.check_cut(self.node, self)
        return Reply(answer.status, answer.headers, answer.body)

    async def _pass_on(self, method: str, path: str, body: Any) -> Began:
        """A request that comes through a gateway: the beginning of its answer, and then the rest."""
        if method == "HINT":
            self._router._cold.hint(body)
            return Began()
        if method == "REST":
            of_all = {number: answer for router in self.node.routers for number, answer in router.answers.items()}
            rest = of_all.get(body)
            if rest is None or self.node.process_of(body[0]) is None:
                raise Unreachable("router", "connection reset")
            await asyncio.wait([rest])
            return Began()
        if not may_admit(self.admission.stage):
            network = self.process.host.network
            return await network.call(self.node.name, "passed on", method, path, body, timeout=30)  # type: ignore[no-any-return]
        asked: Asked = body
        refusal = await self.admission.behind(asked.key, asked.header)
        if refusal is not None:
            return Began(refusal.code)
        if (full := await self._loaded(asked.key)) is not None:
            return Began(full.code)
        if not may_admit(self.admission.stage):
            return await self._pass_on(method, path, body)
        admitted = self.admission.admit(
            asked.key, "g", Caller("", lambda unit: asked.user, repeats=False), streamed=True, passed_by=None
        )
        if isinstance(admitted, Refusal):
            return Began(admitted.code)
        self.node.oracle.passed_on(self.node.name, self, admitted, asked)
        number = (self.process.pid, len(self.answers))
        self.answers[number] = admitted.task = self.process.create_task(self._answer(admitted))
        self.begun[number] = admitted
        return Began(None, admitted.target.headers[FENCE], number)

    async def _answer(self, admitted: Admitted) -> None:
        end: End = "given_up"
        try:
            await asyncio.sleep(self.process.scheduler.random.uniform(0.005, 0.3))
            end = "answered"
        finally:
            self.admission.left(admitted, 200, end)

    def waits(self, key: tuple[str, str]) -> bool:
        """Whether a request for this pointer has a load to wait for."""
        return key in self._router._cold.awaited

    async def _loaded(self, key: tuple[str, str]) -> Refusal | None:
        """Waits for a load, as the proxy does. Returns why a request may not wait."""
        if not self.waits(key):
            return None
        self.node.oracle.counts["requests that wait for a load"] += 1
        cold = self._router._cold
        retry_s = await cold.wait(key)
        return self.admission.refuse(key, retry_s, full=cold.is_full(key)) if retry_s is not None else None

    async def admit_once_loaded(self, key: tuple[str, str], user: str) -> None:
        """A request of a user that waits for a load first."""
        oracle = self.node.oracle
        if await self._loaded(key) is not None or not may_admit(self.admission.stage):
            return
        caller = Caller("", lambda unit: user, repeats=False)
        admitted = self.admission.admit(key, "w", caller, streamed=False, passed_by=None)
        if isinstance(admitted, Admitted):
            oracle.counts["answers after a load"] += 1
            self.admission.left(admitted, 200, "answered")
            oracle.answered(self.node.name, self, key, admitted, user)

    def admit(self, key: tuple[str, str], user: str | None = None) -> Admitted | Refusal | None:
        """Admits one request of a user, which is answered at once. None: it has handed over, and nobody serves yet."""
        if not may_admit(self.admission.stage):
            now = self.node.router
            return now.admit(key, user) if now is not None and now is not self and now.answers_now else None
        asyncio.events._set_running_loop(self.process)
        try:
            admitted = self.admission.admit(
                key, "r", Caller("", lambda unit: user, repeats=False), streamed=False, passed_by=None
            )
            if isinstance(admitted, Admitted):
                self.node.answered_by = self
                self.admission.left(admitted, 200, "answered")
            return admitted
        finally:
            asyncio.events._set_running_loop(None)


# ---- the engine -----------------------------------------------------------------------------------------------


class EngineProcess:
    """An engine: adapters by name, loads that take time and may fail, answers that carry the adapter's own tokens."""

    def __init__(self, node: NodeProcesses, process: Process) -> None:
        self.node = node
        self.process = process
        self.adapters: dict[str, str] = {}
        self.build = node.build

    async def main(self) -> None:
        """Starts slowly, and answers until it is killed."""
        draw = self.process.scheduler.random
        await asyncio.sleep(draw.uniform(0.2, 2.0))
        disk, folder = self.process.host.disk, STATE / "engines" / "e0"
        lock = disk.files.get(str(folder / "engine.lock"))
        if lock is not None and lock.locked_by is not None and lock.locked_by.alive:
            return
        from tests.fleets.in_process.simulated.disk import Inode

        disk.files[str(folder / "engine.lock")] = Inode(locked_by=self.process)
        self.process.host.servers[str(folder / "engine.sock")] = Server(self.process, handle=self._handle)
        await self.process.create_future()

    async def _handle(self, method: str, path: str, body: Any) -> Reply:
        draw = self.process.scheduler.random
        match path:
            case "/health":
                return _json(200, {})
            case "/version":
                version = EngineVersion(
                    boot=str(self.process.pid), build=self.build, base=BASE.digest, base_name="base", slots=SLOTS
                )
                return Reply(200, {}, version.model_dump_json().encode())
            case "/v1/models":
                rows = [{"id": name, "root": root, "parent": "base"} for name, root in self.adapters.items()]
                return _json(200, {"data": rows})
            case "/v1/load_lora_adapter":
                await asyncio.sleep(draw.uniform(0.01, 0.5))
                if self.node.load_fails:
                    self.node.load_fails -= 1
                    return _json(500, {"detail": "out of memory"})
                if len(self.adapters) >= SLOTS:
                    return _json(500, {"detail": "no slot"})
                self.adapters[body["lora_name"]] = body["lora_path"]
                return _json(200, {})
            case "/v1/unload_lora_adapter":
                gone = self.adapters.pop(body["lora_name"], None)
                return _json(200 if gone else 404, {})
            case _:
                await asyncio.sleep(draw.uniform(0.005, 0.05))
                model = body["model"]
                if model != "base" and model not in self.adapters:
                    return _json(404, {"detail": f"no model {model}"})
                return _json(200, _completion(model))


def _completion(model: str) -> dict[str, Any]:
    """Eight greedy tokens that only this model answers with."""
    content = []
    for position in range(8):
        token = (hash_of(model) >> (position * 7)) & 127
        top = [{"logprob": -0.1}, {"logprob": -3.0}]
        content.append({"token": f"token_id:{token}", "top_logprobs": top})
    return {"choices": [{"logprobs": {"content": content}}]}


def hash_of(text: str) -> int:
    """A number that is the same in every run."""
    import zlib

    return zlib.crc32(text.encode()) * 2654435761


def _json(status: int, document: dict[str, Any]) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(document).encode())


# ---- stand-ins for what the agent has beside the protocol ------------------------------------------------------


class ReleaseStore:
    """The files of releases: a fetch takes a moment, and the first time it needs the hub."""

    def __init__(self, folder: Any, hub: Any, signers: frozenset[str]) -> None:
        process = current()
        assert process is not None
        self.signers = signers
        self._network, self._hub = process.host.network, hub
        self.stored: set[str] = set()

    async def ensure(self, ref: ReleaseRef, base: str, *unused: Any) -> PurePosixPath:
        """The folder of a release, fetched if it is not here."""
        adapter = ref.release.adapter
        assert adapter is not None
        if adapter not in self.stored:
            await self._network.call(urlsplit(self._hub.url).hostname, "http", "GET", "/v1/blobs", _exists, timeout=15)
            self.stored.add(adapter)
        return STATE / "releases" / adapter

    def signed(self, subject: str, signers: Any) -> bool:
        """Yes: no route of a run asks for signers."""
        return True

    def manifests(self, digests: Any) -> tuple[Any, ...]:
        """None: no hub of a run loses its artifacts."""
        return ()


async def _exists(hub: Any) -> None: ...


class CanaryRecords:
    """Records of canaries that the whole fleet shares: one for each release and build, the first that was made."""

    def __init__(self, folder: Any, hub: Any, node: str) -> None:
        process = current()
        assert process is not None
        self._known: dict[tuple[str, str], Any] = process.host.node.oracle.canary_records

    def known(self, release: str, build: EngineBuild) -> Any:
        """The record of a release."""
        return self._known.get((release, build.key))

    def disputed(self, release: str, build: EngineBuild, prompts: Any) -> tuple[str, ...]:
        """Nobody is contradicted here."""
        return ()

    async def changed(self, release: str, build: EngineBuild) -> bool:
        """What was recorded stays."""
        return False

    async def find(self, release: str, build: EngineBuild, prompts: Any) -> Any:
        """The record of a release."""
        return self._known.get((release, build.key))

    async def add(self, ref: ReleaseRef, build: EngineBuild, items: Any) -> Any:
        """Records the first tokens of a release."""
        from loradeck.schemas.attestation import CanaryRecord

        record = CanaryRecord(release=ref.id, build=build, items=tuple(items))
        return self._known.setdefault((ref.id, build.key), record)

    async def send_kept_back(self) -> None: ...


class Listening:
    """The callers' sockets of a node, which outlive each router: its host keeps who listens."""

    def __init__(self, *unused: Any) -> None: ...

    def files(self) -> tuple[int, ...]:
        """None that has a number here."""
        return ()

    async def adopt(self) -> None: ...

    def close(self) -> None: ...


class Telemetry:
    """A host without GPUs."""

    def snapshot(self) -> Any:
        return SimpleNamespace(gpus=(), host=None, nvml=NvmlState.NO_GPU)

    def current(self) -> tuple[NvmlState, tuple[Any, ...]]:
        return NvmlState.NO_GPU, ()

    async def run(self) -> None: ...

    async def quiesce(self) -> bool:
        return True

    def resume(self) -> None: ...


class Idle:
    """A part of the agent that has nothing to do with moves."""

    def __init__(self, *unused: Any) -> None:
        self._known: Any = None

    async def run(self) -> None: ...

    def close(self) -> None: ...

    def sweep(self) -> None: ...


class HttpSession:
    """The router's connections to an engine, as far as proofs use them."""

    def post(self, url: Any, *, json: Any, **unused: Any) -> _Answer:
        return _Answer(str(url), json)

    async def close(self) -> None: ...


class _Answer:
    def __init__(self, url: str, body: Any) -> None:
        self._url, self._body = url, body
        self.status, self.headers = 0, {"Content-Type": "application/json"}
        self._read = b""

    async def __aenter__(self) -> _Answer:
        import aiohttp

        process = current()
        assert process is not None
        path = "/v1/completions"
        address = str(STATE / "engines" / "e0" / "engine.sock")
        try:
            reply = await process.host.network.call(process.host.name, address, "POST", path, self._body, timeout=60)
        except AgentError as lost:
            raise aiohttp.ClientError(str(lost)) from lost
        self.status, self._read = reply.status, reply.body
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def read(self) -> bytes:
        return self._read
