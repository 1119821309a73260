"""A real hub on a real SQLite file in this process, and what most tests ask of it. `LinkedAgent` gives it nodes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn.server
from tests.fakes.lora_files import lora_files
from tests.fleets.host import short_folder
from tests.fleets.waiting import until
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed

from loradeck.hub.access.authority import Authority
from loradeck.hub.hub import Hub
from loradeck.hub.listeners import own_socket, tcp_socket
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.process import HubProcess
from loradeck.hub.server import Sockets, serving
from loradeck.rules.moves.lost_tail import Fold
from loradeck.schemas.feed import FeedMessage, feed_adapter
from loradeck.schemas.manifest import (
    AdapterManifest,
    BaseManifest,
    DatasetManifest,
    DecisionRecord,
    FileEntry,
    Origin,
    Provenance,
    SuiteManifest,
    Tier,
)
from loradeck.schemas.moves import MoveResult, PromoteRequest, RecoverRequest, RecoveryPlan, RollbackRequest
from loradeck.schemas.problem import Problem
from loradeck.schemas.state import TenantRow
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.protocol import StrangerLimits

BASE = BaseManifest(
    model_id="tiny", revision="1", files=(FileEntry(path="model.safetensors", size=1, sha256="b" * 64),)
)
OTHER_BASE = BaseManifest(
    model_id="tiny", revision="2", files=(FileEntry(path="model.safetensors", size=1, sha256="c" * 64),)
)
PROVENANCE = Provenance(
    source="a test",
    tier=Tier.PUBLIC,
    origin=Origin.HUMAN,
    consent="own",
    licence_class="CC0-1.0",
    purpose=("train", "evaluate"),
)
SOON = {"soak": {"seconds": 0, "requests": 0}}
"""Settings of a route whose releases have soaked as soon as they are live."""


async def _soon(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.002))


# At its end uvicorn sleeps, and then looks at its connections, by tenths of a second: longer than most tests take.
uvicorn.server.asyncio = SimpleNamespace(**vars(asyncio) | {"sleep": _soon})  # type: ignore[assignment]


def key() -> str:
    return secrets.token_hex(8)


class Refusal(AssertionError):
    """The hub refused something that a test did not expect it to refuse."""


class Deck:
    """A running hub, seen from outside. `local` is its own socket; `as_role` gives a client over TCP."""

    def __init__(self, data: Path, hub: Hub, port: int, nodes_port: int = 0) -> None:
        self.data = data
        self.hub = hub
        self.port = port
        self.nodes_port = nodes_port
        self.local = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(data / "hub.sock"), verify=False),
            base_url="http://hub/v1/",
            timeout=90,
        )
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._tokens: dict[str, str] = {}

    async def close(self) -> None:
        for client in (self.local, *self._clients.values()):
            await client.aclose()

    async def token(self, role: str, node: str | None = None) -> str:
        name = node or role
        if name not in self._tokens:
            body = {"name": name, "role": role, "node": node}
            for known in (await self.local.get("tokens")).json():  # of this hub before it was started again
                if known["name"] == name and not known["revoked"]:
                    await self.local.delete(f"tokens/{known['id']}")
            answer = await self.local.post("tokens", json=body)
            if answer.status_code == 409:  # from an earlier run over this folder
                answer = await self.local.post("tokens", json=body | {"name": f"{name}-{secrets.token_hex(4)}"})
            assert answer.status_code == 200, answer.text
            self._tokens[name] = answer.json()["token"]
        return self._tokens[name]

    def with_token(self, token: str) -> httpx.AsyncClient:
        if token not in self._clients:
            self._clients[token] = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{self.port}/v1/",
                headers={"authorization": f"Bearer {token}"},
                timeout=90,
                verify=False,  # loading authorities takes longer than most tests
            )
        return self._clients[token]

    async def as_role(self, role: str, node: str | None = None) -> httpx.AsyncClient:
        return self.with_token(await self.token(role, node))

    async def client_of(self, role: str, *tenants: str, **more: Any) -> httpx.AsyncClient:
        """A client whose token has a role at some tenants alone."""
        body = {"name": key(), "role": role, "tenants": dict.fromkeys(tenants, role), **more}
        return self.with_token((await self.ok("POST", "tokens", body))["token"])

    async def ok(self, method: str, path: str, body: Any = None, client: httpx.AsyncClient | None = None) -> Any:
        answer = await (client or self.local).request(method, path, json=body)
        if not answer.is_success:
            raise Refusal(f"{method} {path}: {answer.text}")
        return answer.json() if answer.content else None

    async def plan_of_recover(self, *, unproven: bool = False) -> RecoveryPlan:
        """What a recover would do now."""
        request = RecoverRequest(idempotency_key=secrets.token_hex(16), unproven=unproven)
        return RecoveryPlan.model_validate(await self.ok("POST", "recover", request.model_dump()))

    async def recover(self, reason: str, *, key: str | None = None, unproven: bool = False) -> dict[str, Any]:
        """`loradeck hub recover`: the plan, and then what it says."""
        plan = await self.plan_of_recover(unproven=unproven)
        body = {"idempotency_key": key or secrets.token_hex(16), "reason": reason, "unproven": unproven}
        found: dict[str, Any] = await self.ok("POST", "recover", {**body, "dry_run": False, "plan": plan.digest})
        return found

    async def refused(
        self, status: int, code: str, method: str, path: str, body: Any = None, client: httpx.AsyncClient | None = None
    ) -> Problem:
        """The problem document of a call that must be refused with exactly this code, and change nothing."""
        before = self.fingerprint()
        answer = await (client or self.local).request(method, path, json=body)
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        problem = Problem.model_validate_json(answer.content)
        assert (answer.status_code, problem.code) == (status, code), answer.text
        assert problem.status == status
        assert problem.title
        assert self.fingerprint() == before
        return problem

    def fingerprint(self) -> tuple[Any, ...]:
        """What a refusal must leave as it is."""
        state, hub = self.hub.log.state, self.hub
        return (
            state.epoch,
            state.rev,
            state.hash,
            dict(state.pointers),
            dict(state.tenants),
            {k: e.model_dump_json() for k, e in hub.tables.entries.items()},
            sorted(hub.catalogue.adapters),
            sorted(hub.catalogue.releases),
            sorted(hub.catalogue.datasets),
            sorted(hub.facts.ledger),
            {digest: sorted(rows) for digest, rows in hub.facts.erased.items()},
            dict(hub.facts.revoked),
            {(job.id, job.state) for job in hub.jobs.newest()},
            [(t.id, t.revoked) for t in hub.tokens.all()],
        )

    # ---- what most tests begin with ------------------------------------------------------------------------

    async def tenant(self, name: str = "acme", route: str = "production", **settings: Any) -> None:
        if name not in self.hub.log.state.tenants:
            await self.ok("POST", "tenants", {"name": name})
        await self.ok("PUT", f"tenants/{name}/routes/{route}", {**SOON, **settings})

    async def base(self, manifest: BaseManifest = BASE) -> str:
        digest: str = (await self.ok("POST", "bases", manifest.model_dump(mode="json")))["digest"]
        return digest

    async def blob(self, content: bytes) -> FileEntry:
        digest = hashlib.sha256(content).hexdigest()
        answer = await self.local.put(f"blobs/{digest}", content=content)
        assert answer.status_code == 200, answer.text
        return FileEntry(path="file", size=len(content), sha256=digest)

    async def adapter_manifest(
        self,
        tenant: str = "acme",
        name: str = "support",
        seed: int = 1,
        base: BaseManifest = BASE,
        *,
        dora: bool = False,
    ) -> AdapterManifest:
        """A manifest whose files are at the hub."""
        files = []
        for path, content in lora_files(seed, dora=dora).items():
            files.append((await self.blob(content)).model_copy(update={"path": path}))
        return AdapterManifest(
            tenant=tenant,
            name=name,
            base=base.digest,
            files=tuple(files),
            rank=2,
            alpha=4,
            target_modules=("q_proj",),
            dora=dora,
            config_hash=hashlib.sha256(str(seed).encode()).hexdigest(),
            decision=DecisionRecord(why_weights="a test"),
        )

    async def release(
        self, tenant: str = "acme", seed: int = 1, name: str = "support", base: BaseManifest = BASE
    ) -> str:
        """A registered adapter version's release."""
        await self.base(base)
        manifest = await self.adapter_manifest(tenant, name, seed, base)
        version = await self.ok("POST", f"adapters/{tenant}/{name}/versions", manifest.model_dump(mode="json"))
        release: str = version["release"]
        return release

    async def suite(self, tenant: str = "acme", items: int = 20) -> str:
        rows = [{"id": f"i{n}", "prompt": f"p{n}", "answer": f"a{n}"} for n in range(items)]
        entry = await self.blob("\n".join(json.dumps(r) for r in rows).encode())
        manifest = SuiteManifest(tenant=tenant, name="held-out", items=items, files=(entry,), provenance=PROVENANCE)
        digest: str = (await self.ok("POST", "suites", manifest.model_dump(mode="json")))["digest"]
        return digest

    async def dataset(self, tenant: str = "acme") -> str:
        entry = await self.blob(b'{"prompt": "p", "answer": "a"}\n')
        manifest = DatasetManifest(tenant=tenant, name="tickets", rows=1, files=(entry,), provenance=PROVENANCE)
        digest: str = (await self.ok("POST", "datasets", manifest.model_dump(mode="json")))["digest"]
        return digest

    async def row(self, tenant: str = "acme", route: str = "production") -> TenantRow:
        return TenantRow.model_validate(await self.ok("GET", f"tenants/{tenant}/routes/{route}"))

    async def promote(
        self, release: str, tenant: str = "acme", wait: str = "proven", timeout: float = 60, **more: Any
    ) -> MoveResult:
        pointer = self.hub.log.state.route(tenant, "production")[2]
        body = PromoteRequest(
            release=release, expected_generation=pointer.generation, idempotency_key=key(), **more
        ).model_dump(mode="json")
        path = f"tenants/{tenant}/routes/production/promote?wait={wait}&timeout={timeout}"
        result = MoveResult.model_validate(await self.ok("POST", path, body))
        if wait == "proven":
            await self.settled(tenant)
        return result

    async def rollback(self, tenant: str = "acme", wait: str = "proven", **more: Any) -> MoveResult:
        path = f"tenants/{tenant}/routes/production/rollback?wait={wait}&timeout=60"
        result = MoveResult.model_validate(await self.ok("POST", path, await self.rollback_body(tenant, **more)))
        if wait == "proven":
            await self.settled(tenant)
        return result

    async def rollback_body(self, tenant: str = "acme", **more: Any) -> dict[str, Any]:
        """R as a console would send it: what the row's preview says."""
        preview = (await self.row(tenant)).preview
        fields: dict[str, Any] = {
            "expected_generation": preview.generation,
            "to": preview.target.id if preview.target else None,
            "cancels": preview.prepare,
            "idempotency_key": key(),
        }
        return RollbackRequest(**(fields | more)).model_dump(mode="json")

    async def settled(self, tenant: str = "acme", route: str = "production") -> None:
        """Until the pointer's generation is attested and its release counts as soaked."""
        hub, name = self.hub, (tenant, route)

        def attested() -> bool:
            pointer = hub.log.state.pointers[name]
            assert pointer.release is not None
            seen = hub.facts.attested_generation(name, pointer.generation) is not None
            return seen and hub.facts.is_soaked(name, pointer.release)

        await until(attested, f"{tenant}/{route} attested and soaked")


class Time:
    """Seconds that have passed at a hub, beside those that pass by themselves: a test adds to `passed`."""

    def __init__(self, deck: Deck, patch: pytest.MonkeyPatch) -> None:
        self.passed = 0
        clock = deck.hub.clock
        monotonic, now_ms = clock.monotonic, clock.now_ms
        patch.setattr(clock, "monotonic", lambda: monotonic() + self.passed)
        patch.setattr(clock, "now_ms", lambda: now_ms() + 1000 * self.passed)
        patch.setattr(deck.hub.fleet, "clock", clock.monotonic)


def open_hub(data: Path, *, proofs: Sequence[Fold] = (), **options: Any) -> tuple[Hub, StoreThread]:
    """The active hub over `data/hub.db`; `options` as `HubProcess` takes them. The caller closes the store thread.

    `proofs`: what this process had folded before.
    """
    process = HubProcess(data, **options)
    process.standby.proofs = tuple(proofs)
    try:
        return process.active(process.standby.take()), process.store
    except BaseException:
        process.store.close()
        raise


@asynccontextmanager
async def running(
    data: Path,
    *,
    limits: StrangerLimits | None = None,
    cert: Path | None = None,
    private: Path | None = None,
    nodes: bool = False,
    **options: Any,
) -> AsyncIterator[Deck]:
    """A hub over `data` until the block ends, perhaps with a listener for nodes that join.

    The same folder may be run again afterwards.
    """
    if nodes and not (data / "tls").exists():
        Authority.make(data, [], time.time_ns() // 1_000_000)
    for_nodes = tcp_socket("127.0.0.1:0", tls=True) if nodes else None
    hub, store = open_hub(data, name="test", **options)
    tcp = tcp_socket("127.0.0.1:0", tls=False)
    port = tcp.getsockname()[1]
    try:
        tls = ServerCertificate(cert, private) if cert else None
        async with serving(hub, Sockets(own_socket(data / "hub.sock"), tcp, tls, for_nodes), limits):
            deck = Deck(data, hub, port, for_nodes.getsockname()[1] if for_nodes else 0)
            try:
                yield deck
            finally:
                await deck.close()
    finally:
        store.close()


@asynccontextmanager
async def data_folder() -> AsyncIterator[Path]:
    """A folder for a hub's data."""
    with short_folder() as path:
        yield path


@asynccontextmanager
async def feed(deck: Deck, since: str) -> AsyncIterator[ClientConnection]:
    """A console's feed over the own socket."""
    async with unix_connect(
        str(deck.data / "hub.sock"), f"ws://hub/v1/feed?since={since}", compression=None, ping_interval=None
    ) as socket:
        yield socket


async def to_the_end(socket: ClientConnection) -> tuple[list[FeedMessage], int]:
    """All messages of a feed until the hub closes it, and its close code."""
    messages: list[FeedMessage] = []
    try:
        async with asyncio.timeout(60):
            while True:
                messages.append(feed_adapter.validate_json(await socket.recv()))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else 1006


async def watch(socket: ClientConnection, enough: Callable[[list[FeedMessage]], Any]) -> list[FeedMessage]:
    """Messages of a feed until they are enough."""
    messages: list[FeedMessage] = []
    async with asyncio.timeout(60):
        while not enough(messages):
            messages.append(feed_adapter.validate_json(await socket.recv()))
    return messages


def lose(data: Path) -> None:
    """The database of a hub that is not running is gone."""
    for left in data.glob("hub.db*"):
        left.unlink()


def restore(data: Path, backup: Path) -> None:
    """A hub that is not running gets back an older copy of its database."""
    lose(data)
    backup.rename(data / "hub.db")
