"""The hub's end of the link and the few HTTP calls an agent makes, in the test's own process.

It keeps what the agent says, and sends what a test tells it to: also what no real hub would (gaps, old epochs).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from aiohttp import WSMsgType, web
from pydantic import BaseModel

from loradeck.schemas.attestation import Attestation
from loradeck.schemas.executor import TERMINAL
from loradeck.schemas.ids import canonical_json
from loradeck.schemas.jobs import RECIPES, JobAssignment
from loradeck.schemas.link import (
    Ack,
    Bookmark,
    Desired,
    Hello,
    JobCancel,
    JobEvent,
    JobMessage,
    JobNoted,
    NodeOrder,
    Report,
    Resync,
    TableAsk,
    TableState,
    Welcome,
    up_adapter,
)
from loradeck.schemas.log import GENESIS
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, DatasetManifest, Form, Release, SuiteManifest
from loradeck.schemas.problem import MEDIA_TYPE, Problem
from loradeck.schemas.protocol import SIGNED_URLS
from loradeck.schemas.table import TableEntry, table_digest

M = TypeVar("M", bound=BaseModel)
DEADLINE_S = 60.0


def hash_at(rev: int) -> str:
    return hashlib.sha256(f"rev {rev}".encode()).hexdigest() if rev else GENESIS


class FakeHub:
    def __init__(self, token: str, node: str) -> None:
        self.token = token
        self.node = node
        self.epoch = 1
        self.rev = 0
        self.entries: dict[tuple[str, str], TableEntry] = {}
        self.refuse: str | None = None
        self.recipes = RECIPES
        self.send_full = True
        self.beating = True
        self.heard: list[BaseModel] = []
        self.releases: dict[str, tuple[Release, AdapterManifest | None]] = {}
        self.blobs: dict[str, bytes] = {}
        self.elsewhere: str | None = None
        """An object store's URL that those who can follow are sent to."""
        self.giving = asyncio.Event()
        """While it is clear, whoever asks for a blob waits."""
        self.giving.set()
        self.datasets: list[DatasetManifest] = []
        self.suites: list[SuiteManifest] = []
        self.attestations: list[Attestation] = []
        self.versions: list[AdapterVersion] = []
        self.calls: list[str] = []
        self.notes = True
        """Whether it says that it took in the events of jobs."""
        self.drops: Callable[[JobEvent], bool] = lambda event: False
        """Events of jobs that are lost on their way, as in a hub that is just dying."""
        self.links = 0
        self.socket: web.WebSocketResponse | None = None
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # ---- life ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20, middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/v1/link", self._link),
                web.get("/v1/releases/{id}", self._release),
                web.get("/v1/blobs/{sha}", self._blob),
                web.put("/v1/blobs/{sha}", self._put_blob),
                web.get("/v1/attestations", self._get_attestations),
                web.post("/v1/attestations", self._post_attestation),
                web.get("/v1/datasets", self._get_datasets),
                web.get("/v1/suites", self._get_suites),
                web.get("/v1/adapters/{tenant}/{name}/versions", self._get_versions),
                web.post("/v1/adapters/{tenant}/{name}/versions", self._post_version),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self.socket is not None:
            await self.socket.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    def forget(self) -> None:
        """Forgets what it heard and what it was given, and takes in what it hears again."""
        for kept in (self.heard, self.calls, self.datasets, self.suites, self.attestations, self.versions):
            kept.clear()
        self.releases.clear()
        self.blobs.clear()
        self.notes = True
        self.drops = lambda event: False

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append(f"{request.method} {request.path}")
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            problem = Problem(
                status=403,
                code="wrong_node",
                title="this token belongs to another node",
                detail="the token is of gpu-99",
                fix="give each node a token of its own",
            )
            return web.Response(status=403, body=problem.model_dump_json(), content_type=MEDIA_TYPE)
        return await handler(request)

    # ---- the link ------------------------------------------------------------------------------------------

    async def _link(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=0)
        await socket.prepare(request)
        self.links += 1
        beat = asyncio.create_task(self._beat(socket))
        try:
            async for raw in socket:
                if raw.type is not WSMsgType.TEXT:
                    break
                message = up_adapter.validate_json(raw.data)
                if isinstance(message, JobEvent) and self.drops(message):
                    continue
                if isinstance(message, Hello):
                    await self._greet(socket, message)
                async with self._news:
                    self.heard.append(message)
                    self._news.notify_all()
                if isinstance(message, Resync):
                    await self.send_table(full=True)
                if isinstance(message, JobEvent) and self.notes and message.event.type not in TERMINAL:
                    await self.send(JobNoted(job=message.job, lease=message.lease, seq=message.event.seq))
        finally:
            beat.cancel()
            if self.socket is socket:
                self.socket = None
        return socket

    async def _greet(self, socket: web.WebSocketResponse, hello: Hello) -> None:
        self.socket = socket
        at, reads = hash_at(self.rev), self.recipes
        await self.send(Welcome(epoch=self.epoch, rev=self.rev, hash=at, refuse=self.refuse, recipes=reads))
        if self.refuse is None and self.send_full:
            await self.send_table(full=True)

    async def _beat(self, socket: web.WebSocketResponse) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self.beating and self.socket is socket:
                await self.send(Bookmark(epoch=self.epoch, rev=self.rev, hash=hash_at(self.rev)))

    async def send(self, message: BaseModel) -> None:
        assert self.socket is not None, "the agent is not linked"
        await self.socket.send_str(message.model_dump_json())

    async def send_table(
        self,
        entries: Iterable[TableEntry] = (),
        *,
        full: bool = False,
        prev_rev: int | None = None,
        epoch: int | None = None,
        rev: int | None = None,
        unpin: tuple[tuple[str, str], ...] = (),
    ) -> None:
        await self.send(
            Desired(
                epoch=self.epoch if epoch is None else epoch,
                rev=self.rev if rev is None else rev,
                prev_rev=self.rev if prev_rev is None else prev_rev,
                hash=hash_at(self.rev if rev is None else rev),
                entries=tuple(self.entries.values()) if full else tuple(entries),
                full=full,
                table=table_digest(self.entries.values()),
                unpin=unpin,
            )
        )

    async def desire(self, *entries: TableEntry) -> None:
        """Commits entries and sends them down, as after one move."""
        before = self.rev
        for entry in entries:
            self.entries[entry.key] = entry
        self.rev += 1
        if self.socket is not None:
            await self.send_table(entries, prev_rev=before)

    async def give(self, job: JobAssignment) -> None:
        await self.send(JobMessage(job=job))

    async def cancel(self, job: str, lease: int) -> None:
        await self.send(JobCancel(job=job, lease=lease))

    async def order(self, *, drained: bool) -> None:
        await self.send(NodeOrder(cordoned=drained, drained=drained))

    async def ask_table(self) -> TableState:
        await self.send(TableAsk())
        return await self.wait(TableState)

    # ---- waiting -------------------------------------------------------------------------------------------

    def of(self, kind: type[M]) -> list[M]:
        return [message for message in self.heard if isinstance(message, kind)]

    @property
    def stored(self) -> set[str]:
        """The adapters on the node's disk, by what its hello and its reports have named."""
        stored: set[str] = set()
        for message in self.heard:
            if isinstance(message, (Hello, Report)):
                stored = stored if message.stored is None else set(message.stored)
            if isinstance(message, Report):
                stored = (stored | set(message.stored_added)) - set(message.stored_gone)
        return stored

    async def wait(
        self, kind: type[M], where: Callable[[M], bool] = lambda _: True, *, after: int = 0, timeout: float = DEADLINE_S
    ) -> M:
        """The first message of a kind that fits, among those from index `after` on or still to come."""
        async with asyncio.timeout(timeout), self._news:
            while True:
                for message in self.heard[after:]:
                    if isinstance(message, kind) and where(message):
                        return message
                await self._news.wait()

    async def ack(self, entry: TableEntry, state: str, *, after: int = 0, timeout: float = DEADLINE_S) -> Ack:
        def fits(ack: Ack) -> bool:
            return (
                (ack.tenant, ack.route) == entry.key
                and (ack.epoch, ack.generation) == entry.fence
                and (ack.state.value == state)
            )

        try:
            return await self.wait(Ack, fits, after=after, timeout=timeout)
        except TimeoutError:
            said = [f"{a.tenant} g{a.generation} {a.state.value} {a.code} {a.detail}" for a in self.of(Ack)]
            raise AssertionError(f"no {state} for generation {entry.generation}; heard: {said}") from None

    async def job_end(self, job: str, timeout: float = DEADLINE_S) -> JobEvent:
        return await self.wait(
            JobEvent,
            lambda e: e.job == job and e.event.type.value in ("finished", "failed", "preempted"),
            timeout=timeout,
        )

    async def report(self, where: Callable[[Report], bool]) -> Report:
        return await self.wait(Report, where, after=len(self.heard))

    # ---- HTTP ----------------------------------------------------------------------------------------------

    def add_release(self, release: Release, manifest: AdapterManifest | None, files: dict[str, bytes]) -> None:
        self.releases[release.id] = (release, manifest)
        if release.form is Form.ADAPTER and manifest is not None:
            by_path = {entry.path: entry.sha256 for entry in manifest.files}
            for path, data in files.items():
                self.blobs[by_path[path]] = data

    async def _release(self, request: web.Request) -> web.Response:
        found = self.releases.get(request.match_info["id"])
        if found is None:
            return _problem(404, "unknown_release")
        release, manifest = found
        return _json(
            {"release": release.model_dump(mode="json"), "manifest": manifest and manifest.model_dump(mode="json")}
        )

    async def _blob(self, request: web.Request) -> web.Response:
        await self.giving.wait()
        if self.elsewhere is not None and SIGNED_URLS in request.headers:
            raise web.HTTPTemporaryRedirect(f"{self.elsewhere}/{request.match_info['sha']}?signature=secret")
        data = self.blobs.get(request.match_info["sha"])
        return web.Response(body=data) if data is not None else _problem(404, "unknown_blob")

    async def _put_blob(self, request: web.Request) -> web.Response:
        data = await request.read()
        if hashlib.sha256(data).hexdigest() != request.match_info["sha"]:
            return _problem(422, "digest_mismatch")
        self.blobs[request.match_info["sha"]] = data
        return _json({})

    async def _get_attestations(self, request: web.Request) -> web.Response:
        kind, subject = request.query.get("kind"), request.query.get("subject")
        found = [a for a in self.attestations if a.kind.value == kind and subject in (None, a.subject)]
        return _json([a.model_dump(mode="json") for a in found])

    async def _post_attestation(self, request: web.Request) -> web.Response:
        attestation = Attestation.model_validate_json(await request.read())
        attestation = attestation.model_copy(update={"seq": len(self.attestations) + 1})
        self.attestations.append(attestation)
        return _json(attestation.model_dump(mode="json"))

    async def _get_datasets(self, _: web.Request) -> web.Response:
        return _json([{"digest": m.digest, "manifest": m.model_dump(mode="json")} for m in self.datasets])

    async def _get_suites(self, _: web.Request) -> web.Response:
        return _json([{"digest": m.digest, "manifest": m.model_dump(mode="json")} for m in self.suites])

    async def _get_versions(self, _: web.Request) -> web.Response:
        return _json([v.model_dump(mode="json") for v in self.versions])

    async def _post_version(self, request: web.Request) -> web.Response:
        manifest = AdapterManifest.model_validate_json(await request.read())
        missing = [f.path for f in manifest.files if f.sha256 not in self.blobs]
        if missing:
            return _problem(422, "unknown_blob")
        release = Release(tenant=manifest.tenant, form=Form.ADAPTER, base=manifest.base, adapter=manifest.digest)
        version = AdapterVersion(
            manifest=manifest,
            digest=manifest.digest,
            version=len(self.versions) + 1,
            release=release.id,
            created_ms=0,
            created_by=self.node,
        )
        self.versions.append(version)
        return _json(version.model_dump(mode="json"))


def _json(document: object) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), content_type="application/json")


def _problem(status: int, code: str) -> web.Response:
    problem = Problem(status=status, code=code, title=code.replace("_", " "))
    return web.Response(status=status, body=canonical_json(problem), content_type=MEDIA_TYPE)
