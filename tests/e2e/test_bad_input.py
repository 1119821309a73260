"""Bad input to a real fleet: its exact error, from the command and from the hub itself; and nothing changes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import pickle
import resource
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.word_model import write_adapter, write_base
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, told
from tests.fleets.processes.served import Table, answered_by, tables
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from incident.fleet import BIN, Fleet, Node, free_port, wait_for
from incident.incident import ROUTE, Cast
from incident.traffic import Callers
from loradeck.artifacts import scan
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.schemas.ids import short
from loradeck.schemas.link import Ack, Hello, Replica
from loradeck.schemas.manifest import DecisionRecord
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.schemas.state import TenantRow
from loradeck_agent.host.state_folder import StateFolder

PAGE = f"tenants/{TENANT}/routes/{ROUTE}"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = {"adapter_config.json", WEIGHTS}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A fleet that serves v2, with v1 beneath, and somebody at a shell of the hub's host."""

    fleet: Fleet
    cast: Cast
    key: str
    base: str
    material: Material
    tokens: dict[str, Path]

    def release(self, label: str) -> str:
        return self.cast.releases[label]

    async def command(self, *words: object, token: str | None = None) -> subprocess.CompletedProcess[str]:
        """`loradeck … --json`, over the own socket, or over TCP with a token."""
        where = ["--hub", f"unix:{self.fleet.socket}"]
        if token is not None:
            where = ["--hub", f"http://127.0.0.1:{self.fleet.hub_port}", "--token-file", str(self.tokens[token])]
        command = [str(BIN / "loradeck"), *where, *map(str, words), "--json"]
        return await asyncio.to_thread(
            subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )

    async def refused(self, exit_: int, code: str, *words: object, token: str | None = None) -> dict[str, Any]:
        """The problem of a command that must end so; nothing is on stdout."""
        done = await self.command(*words, token=token)
        assert done.returncode == exit_, (done.stdout, done.stderr)
        assert done.stdout == ""
        problem: dict[str, Any] = json.loads(done.stderr)
        assert problem["code"] == code, problem
        assert problem["title"]
        return problem

    @contextlib.asynccontextmanager
    async def http(self, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
        """The hub without a command before it: its own socket, or TCP with a token ('' for none)."""
        if token is None:
            transport = httpx.AsyncHTTPTransport(uds=str(self.fleet.socket), verify=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://hub/v1/", timeout=120)
        else:
            headers = {"authorization": f"Bearer {self.tokens[token].read_text().strip()}"} if token else {}
            url = f"http://127.0.0.1:{self.fleet.hub_port}/v1/"
            client = httpx.AsyncClient(base_url=url, headers=headers, timeout=120, verify=False, trust_env=False)
        async with client:
            yield client

    async def raw(
        self, status: int, code: str, method: str, path: str, *, token: str | None = None, **body: Any
    ) -> dict[str, Any]:
        """The problem document of a request that the hub itself must refuse."""
        async with self.http(token) as client:
            answer = await client.request(method, path, **body)
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        problem: dict[str, Any] = answer.json()
        assert (answer.status_code, problem["code"]) == (status, code), answer.text
        assert problem["status"] == status
        return problem

    async def row(self) -> TenantRow:
        async with HubApi.to(Context(name="tests", socket=self.fleet.socket)) as api:
            return await api.row(TENANT, ROUTE)

    def seen(self, row: TenantRow, **more: Any) -> dict[str, Any]:
        """What a console sends of what was on its screen."""
        return {"expected_generation": row.pointer.generation, "idempotency_key": new_key(), **more}

    async def put(self, content: bytes) -> str:
        """Content at the hub, whatever it is; its digest."""
        digest = hashlib.sha256(content).hexdigest()
        async with self.http() as client:
            assert (await client.put(f"blobs/{digest}", content=content)).status_code == 200
        return digest

    async def manifest(self, folder: Path, **update: Any) -> dict[str, Any]:
        """An honest manifest of a folder's files, which are at the hub; `update` is what is not honest."""
        files = []
        for entry in scan(folder):
            await self.put((folder / entry.path).read_bytes())
            files.append(entry.model_dump())
        config = json.loads((self.material.adapters[0] / "adapter_config.json").read_text())
        fields = {
            "tenant": TENANT,
            "name": "words",
            "base": self.base,
            "files": files,
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "target_modules": config["target_modules"],
            "config_hash": "0" * 64,
            "decision": DecisionRecord(why_weights="tests").model_dump(),
        }
        return fields | update


@pytest.fixture(scope="module")
def stage(material: Material) -> Iterator[Stage]:
    with fleet_at(material.base, joins=False) as fleet:
        cast, key = lay(fleet, material)
        tokens = {node.name: fleet.root / f"{node.name}.token" for node in fleet.nodes}
        for role in ("viewer", "operator", "releaser"):
            tokens[role] = fleet.root / f"{role}.token"
            fleet.cli("token", "create", "--role", role, "--name", role, "--out", str(tokens[role]))
        (base,) = fleet.cli("base", "ls")
        yield Stage(fleet=fleet, cast=cast, key=key, base=base["digest"], material=material, tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a refusal must leave as it is. `epoch` is not part of it: a hub that starts again has another.

    Nor are anchors of the audit trail: what was refused is in it.
    """

    rev: int
    hash: str
    tenants: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    releases: list[str]
    tokens: list[str]


async def kept(stage: Stage) -> Kept:
    async with HubApi.to(Context(name="tests", socket=stage.fleet.socket)) as api:
        state = await api.state()
        newest = state.events[-1]
        return Kept(
            rev=newest.rev,
            hash=newest.hash,
            tenants=[tenant.model_dump(mode="json") for tenant in await api.tenants()],
            rows=[
                row.pointer.model_dump(mode="json")
                | {"flipped": row.flipped, "proven": row.proven, "placed": row.placed, "attested": row.attested}
                for row in state.tenants
            ],
            releases=[release.id for release in await api.releases()],
            tokens=[token.id for token in await api.tokens() if not token.revoked],
        )


@contextlib.asynccontextmanager
async def nothing_changes(stage: Stage) -> AsyncIterator[str]:
    """Log, pointers, registry and both routers' tables are the same afterwards, and v2's tokens answer throughout.

    Yields the release that is served.
    """
    routers = {node.name: node.url for node in stage.fleet.nodes}
    async with Callers(routers, {TENANT: stage.key}, max_tokens=12) as callers:
        before, held = await kept(stage), await tables(stage.fleet)
        (served,) = {table.admits_to for table in held.values()}
        assert served is not None
        others = [release for release in stage.cast.releases.values() if release != served]
        prompts = [p for p in stage.cast.prompts if all(p.separates(served, other) for other in others)][:3]
        assert len(prompts) == 3
        assert await answered_by(stage.fleet, callers, prompts) == [served] * 6
        callers.start({TENANT: prompts}, every_s=0.1)
        yield served
        await callers.stop()
        assert await answered_by(stage.fleet, callers, prompts) == [served] * 6
        assert [answer for answer in callers.answers if answer.by != served] == []
        await the_same(stage, before, held)


async def the_same(stage: Stage, before: Kept, held: dict[str, Table]) -> None:
    """At once in the log; at the nodes as soon as a prepare that failed is cleared away."""
    after = await kept(stage)
    assert (after.rev, after.hash, after.releases, after.tokens) == (
        before.rev,
        before.hash,
        before.releases,
        before.tokens,
    )
    deadline = time.monotonic() + 60
    while (now := (await kept(stage), await tables(stage.fleet))) != (before, held):
        assert time.monotonic() < deadline, f"{now}\nis not\n{before, held}\n{told(stage.fleet)}"
        await asyncio.sleep(0.05)


# ---- what was seen is not what is ----------------------------------------------------------------------------


async def test_an_unknown_tenant(stage: Stage) -> None:
    row = await stage.row()
    async with nothing_changes(stage):
        problem = await stage.refused(1, "unknown_tenant", "rollback", "nobody", "--yes")
        assert (problem["title"], problem["fix"]) == ("there is no tenant 'nobody'", "loradeck tenant ls")
        await stage.refused(1, "unknown_tenant", "promote", "nobody", "v1", "--yes")
        for move, body in (
            ("rollback", {"to": stage.release("v1")}),
            ("promote", {"release": stage.release("v1")}),
            ("fallback", {}),
            ("hold", {"held": True}),
        ):
            path = f"tenants/nobody/routes/production/{move}"
            await stage.raw(404, "unknown_tenant", "POST", path, json=stage.seen(row, **body))
        await stage.raw(404, "unknown_tenant", "PUT", "tenants/nobody/routes/production", json={})
        await stage.raw(404, "unknown_tenant", "POST", "tenants/nobody/suspend")
        problem = await stage.raw(
            404, "unknown_route", "POST", f"tenants/{TENANT}/routes/prod/rollback", json=stage.seen(row)
        )
        assert problem["detail"] == "it has: production"
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {stage.key}"}, trust_env=False) as caller:
            body = {"model": "nobody", "messages": [{"role": "user", "content": "w1"}]}
            for node in stage.fleet.nodes:
                answer = await caller.post(f"{node.url}/v1/chat/completions", json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_route")


async def test_a_stale_generation(stage: Stage) -> None:
    row = await stage.row()
    events = await asyncio.to_thread(stage.fleet.cli, "event", "ls", TENANT, ROUTE)
    first = next(event for event in events if event["kind"] == "promote" and event["from_release"] is None)
    async with nothing_changes(stage):
        # A command always reads the row first; an undo names the event that somebody saw.
        problem = await stage.refused(1, "moved", "undo", TENANT, "--event", first["id"], "--yes")
        assert problem["title"] == f"{TENANT}/{ROUTE} has moved since"
        assert problem["context"]["generation"] == row.pointer.generation
        for stale in (row.pointer.generation - 1, row.pointer.generation + 1):
            seen = {"expected_generation": stale}
            for move, body in (
                ("rollback", {"to": stage.release("v1"), "confirmed": True}),
                ("promote", {"release": stage.release("v3")}),
                ("fallback", {}),
                ("hold", {"held": True}),
            ):
                problem = await stage.raw(409, "moved", "POST", f"{PAGE}/{move}", json=stage.seen(row, **body) | seen)
                assert problem["detail"] == f"the request expected generation {stale}"
                assert problem["context"]["generation"] == row.pointer.generation
                assert problem["context"]["winner"]["id"] == row.pointer.last_move


async def test_a_changed_target(stage: Stage) -> None:
    row = await stage.row()
    assert row.preview.target is not None
    target = row.preview.target
    async with nothing_changes(stage):
        for to in (stage.release("v3"), row.pointer.release, "f" * 64, None):
            seen = stage.seen(row, to=to, confirmed=True)
            problem = await stage.raw(409, "target_changed", "POST", f"{PAGE}/rollback", json=seen)
            assert f"R now goes to {target.label} ({short(target.id)})" in problem["title"] + problem["detail"], problem
        # Whoever saw a pending promote meant to cancel that, and not to roll back.
        seen = stage.seen(row, cancels="p0123456789abcdef")
        problem = await stage.raw(409, "target_changed", "POST", f"{PAGE}/rollback", json=seen)
        assert "is not pending any more" in problem["title"] + problem["detail"], problem


async def test_a_wrong_base(stage: Stage, tmp_path: Path) -> None:
    # Another base of the same shapes: everything would load, and serve rubbish.
    other = write_base(tmp_path / "base", seed=7)
    fleet, words = stage.fleet, ("--tenant", TENANT, "--name", "other", "--why", "tests")
    base = await asyncio.to_thread(fleet.cli, "base", "add", str(other), "--model-id", "t/o", "--revision", "1")
    folder = write_adapter(tmp_path / "other", other, seed=7)
    theirs = await asyncio.to_thread(fleet.cli, "adapter", "import", str(folder), *words, "--base", base["digest"])
    # An adapter that claims our base, and has other shapes than it.
    claims = write_adapter(tmp_path / "claims", stage.material.base, seed=8)
    widen(claims / WEIGHTS)
    ours = await asyncio.to_thread(fleet.cli, "adapter", "import", str(claims), *words, "--base", stage.base)
    child = write_adapter(tmp_path / "child", stage.material.base, seed=9)
    row = await stage.row()
    async with nothing_changes(stage):
        problem = await stage.refused(1, "wrong_base", "promote", TENANT, theirs["release"], "--yes")
        named = f"v1 ({short(theirs['release'])})"
        assert problem["title"] == f"no replica placed for {TENANT}/{ROUTE} runs the base of {named}"
        assert problem["detail"] == f"base {short(base['digest'])}"
        seen = stage.seen(row, release=theirs["release"], override=True, reason="never mind")
        await stage.raw(409, "wrong_base", "POST", f"{PAGE}/promote", json=seen)

        problem = await stage.refused(1, "prepare_failed", "promote", TENANT, ours["release"], "--yes")
        assert problem["context"]["code"] == "wrong_base"
        assert "the adapter does not fit this base" in problem["detail"]
        seen = stage.seen(row, release=ours["release"])
        problem = await stage.raw(409, "prepare_failed", "POST", f"{PAGE}/promote", json=seen)
        assert problem["context"]["code"] == "wrong_base"
        for node in fleet.nodes:
            assert not StateFolder(node.state).release(ours["digest"]).exists()

        manifest = await stage.manifest(child, parent=theirs["digest"])
        await stage.raw(409, "wrong_base", "POST", f"adapters/{TENANT}/words/versions", json=manifest)
        manifest = await stage.manifest(child, base="f" * 64)
        await stage.raw(404, "unknown_base", "POST", f"adapters/{TENANT}/words/versions", json=manifest)


def widen(weights: Path) -> None:
    """Every layer's up projection gets twice the rows its base has."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    wide = {name: torch.cat([t, t]) if name.endswith("up_proj.lora_B.weight") else t for name, t in tensors.items()}
    save_file(wide, weights)


# ---- artifacts that are not what they say --------------------------------------------------------------------


@pytest.fixture
def folder(stage: Stage, tmp_path: Path) -> Path:
    """An adapter that nobody has registered, to be spoilt."""
    return write_adapter(tmp_path / "adapter", stage.material.base, seed=11)


def imported(stage: Stage, folder: Path) -> tuple[object, ...]:
    words = ("--tenant", TENANT, "--name", "words", "--base", stage.base, "--why", "tests")
    return ("adapter", "import", folder, *words)


VERSIONS = f"adapters/{TENANT}/words/versions"


class Payload:
    """Its unpickling would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (self.mark,))  # type: ignore[return-value]


async def test_a_pickle_in_an_adapter(stage: Stage, folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    content = pickle.dumps(Payload(mark))
    async with nothing_changes(stage):
        (folder / "adapter_model.bin").write_bytes(content)
        problem = await stage.refused(2, "pickle_in_adapter", *imported(stage, folder))
        assert problem["detail"] == "adapter_model.bin"
        assert f"save the weights as {WEIGHTS}" in problem["fix"]
        await stage.raw(422, "pickle_in_adapter", "POST", VERSIONS, json=await stage.manifest(folder))

        (folder / "adapter_model.bin").unlink()
        (folder / WEIGHTS).write_bytes(content)
        problem = await stage.refused(2, "pickle_in_adapter", *imported(stage, folder))
        assert "under a safetensors name" in problem["title"]
        problem = await stage.raw(422, "pickle_in_adapter", "POST", VERSIONS, json=await stage.manifest(folder))
        assert "under a safetensors name" in problem["title"]
    assert not mark.exists()


async def test_a_truncated_safetensors(stage: Stage, folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    async with nothing_changes(stage):
        for left in (0, 7, 100, len(whole) - 1):
            (folder / WEIGHTS).write_bytes(whole[:left])
            if left in (0, len(whole) - 1):
                problem = await stage.refused(2, "truncated_safetensors", *imported(stage, folder))
                assert problem["title"] == "a safetensors file ends early"
                assert problem["detail"].startswith(f"{WEIGHTS}: {left} bytes")
            manifest = await stage.manifest(folder)
            problem = await stage.raw(422, "truncated_safetensors", "POST", VERSIONS, json=manifest)
            assert problem["detail"].startswith(f"{WEIGHTS}: {left} bytes")


async def test_a_manifest_that_does_not_match(stage: Stage, folder: Path) -> None:
    honest = await stage.manifest(folder)
    config, weights = honest["files"]
    assert {config["path"], weights["path"]} == ADAPTER_FILES
    lies = {
        "rank": (honest | {"rank": 8}, "rank 4, the manifest says 8"),
        "modules": (honest | {"target_modules": ["q_proj"]}, "target modules"),
    }
    async with nothing_changes(stage):
        for lie, detail in lies.values():
            (folder / "manifest.json").write_text(json.dumps(lie))
            problem = await stage.refused(
                2, "manifest_mismatch", "adapter", "import", folder, "--tenant", TENANT, "--name", "words"
            )
            assert detail in problem["detail"]
            problem = await stage.raw(422, "manifest_mismatch", "POST", VERSIONS, json=lie)
            assert detail in problem["detail"]

        flipped = bytearray((folder / WEIGHTS).read_bytes())
        flipped[-1] ^= 1
        (folder / WEIGHTS).write_bytes(flipped)
        (folder / "manifest.json").write_text(json.dumps(honest))
        problem = await stage.refused(
            2, "manifest_mismatch", "adapter", "import", folder, "--tenant", TENANT, "--name", "words"
        )
        assert problem["detail"].startswith(f"{WEIGHTS}: digest (sha256 ")

        short_of = [config, weights | {"size": weights["size"] - 1}]
        problem = await stage.raw(422, "manifest_mismatch", "POST", VERSIONS, json=honest | {"files": short_of})
        assert f"{weights['size']} bytes, the manifest says {weights['size'] - 1}" in problem["detail"]
        swapped = [config | {"path": WEIGHTS}, weights | {"path": "adapter_config.json"}]
        async with stage.http() as client:
            answer = await client.post(VERSIONS, json=honest | {"files": swapped})
        assert (answer.status_code, answer.json()["code"]) in {(422, "truncated_safetensors"), (422, "bad_safetensors")}
        problem = await stage.raw(422, "manifest_mismatch", "POST", f"adapters/{TENANT}/other/versions", json=honest)
        assert problem["detail"] == f"address {TENANT}/other, manifest {TENANT}/words"
        absent = [config, weights | {"sha256": "e" * 64}]
        await stage.raw(404, "unknown_blob", "POST", VERSIONS, json=honest | {"files": absent})
        # Content under another digest than its own is not kept at all.
        await stage.raw(422, "digest_mismatch", "PUT", f"blobs/{'d' * 64}", content=bytes(flipped))
        await stage.raw(404, "unknown_blob", "GET", f"blobs/{'d' * 64}")


async def test_a_path_that_leaves_its_folder(stage: Stage, folder: Path, tmp_path: Path) -> None:
    honest = await stage.manifest(folder)
    outside = tmp_path / "escaped"
    async with nothing_changes(stage):
        for path in ("../escaped", "a/../../escaped", str(outside), "a\\..\\b", "./a", "a//b", ""):
            lie = honest | {"files": [honest["files"][0], honest["files"][1] | {"path": path}]}
            code = "path_traversal" if path else "invalid_request"
            problem = await stage.raw(422, code, "POST", VERSIONS, json=lie)
            assert problem["context"]["fields"] == ["body.files.1.path"], problem
        (folder / "manifest.json").write_text(
            json.dumps(honest | {"files": [honest["files"][0], honest["files"][1] | {"path": "../escaped"}]})
        )
        words = ("adapter", "import", folder, "--tenant", TENANT, "--name", "words")
        problem = await stage.refused(2, "path_traversal", *words)
        assert "path '../escaped' leaves the artifact's folder" in problem["title"]

        # A link is followed to nowhere.
        (folder / "manifest.json").unlink()
        outside.write_bytes((folder / WEIGHTS).read_bytes())
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).symlink_to(outside)
        await stage.refused(2, "path_traversal", *imported(stage, folder))

        secret = f"{'.' * 2}%2f{'.' * 2}%2fhub.db"
        await stage.raw(404, "not_found", "GET", f"blobs/{secret}")
        await stage.raw(422, "path_traversal", "GET", "blobs/hub.db")
        await stage.raw(422, "path_traversal", "PUT", "blobs/..hub.db", content=b"x")
        await stage.raw(422, "invalid_request", "POST", "tenants", json={"name": "../escaped"})
        await stage.raw(422, "invalid_request", "POST", f"adapters/{TENANT}/..%5cwords/versions", json=honest)
    assert not list(stage.fleet.root.rglob("escaped"))


# ---- who asks ------------------------------------------------------------------------------------------------


async def test_a_wrong_role(stage: Stage, tmp_path: Path) -> None:
    row = await stage.row()
    back = {"to": stage.release("v1"), "confirmed": True}
    forward = {"release": stage.release("v3")}
    async with nothing_changes(stage):
        problem = await stage.refused(6, "forbidden", "rollback", TENANT, "--yes", token="viewer")
        assert (problem["title"], problem["detail"]) == ("this needs the role operator", "viewer is viewer")
        problem = await stage.refused(6, "forbidden", "promote", TENANT, "v3", "--yes", token="operator")
        assert (problem["title"], problem["detail"]) == ("this needs the role releaser", "operator is operator")
        new = ("token", "create", "--role", "releaser", "--name", "me", "--out", tmp_path / "new")
        await stage.refused(6, "local_only", *new, token="releaser")
        assert not (tmp_path / "new").exists()

        for token, path, body in (
            ("viewer", f"{PAGE}/rollback", stage.seen(row, **back)),
            ("viewer", f"{PAGE}/hold", stage.seen(row, held=True)),
            ("viewer", f"{PAGE}/fallback", stage.seen(row)),
            ("viewer", "nodes/gpu-01/drain", None),
            ("operator", f"{PAGE}/promote", stage.seen(row, **forward)),
            ("operator", "tenants", {"name": "mine"}),
            ("operator", f"tenants/{TENANT}/keys", None),
            ("operator", f"tenants/{TENANT}/offboard", None),
            ("gpu-01", f"{PAGE}/rollback", stage.seen(row, **back)),
            ("gpu-01", f"{PAGE}/promote", stage.seen(row, **forward)),
            ("gpu-01", "tenants", {"name": "mine"}),
        ):
            await stage.raw(403, "forbidden", "POST", path, token=token, json=body)
        # An agent registers what a job on its node has made, and nothing else.
        manifest = await stage.manifest(stage.material.adapters[2], config_hash="1" * 64)
        await stage.raw(403, "forbidden", "POST", VERSIONS, token="gpu-01", json=manifest)
        for path, asked in (
            ("tokens", {"name": "me", "role": "releaser"}),
            ("recover", {"idempotency_key": new_key(), "reason": "mine"}),
            ("backup", {"path": str(tmp_path / "copy.db")}),
        ):
            await stage.raw(403, "local_only", "POST", path, token="releaser", json=asked)
        assert not (tmp_path / "copy.db").exists()
        await stage.raw(401, "unauthenticated", "POST", f"{PAGE}/rollback", token="", json=stage.seen(row, **back))
        await stage.raw(401, "unauthenticated", "GET", "state", token="")


async def test_another_nodes_token(stage: Stage, tmp_path: Path) -> None:
    fleet = stage.fleet
    row = await stage.row()
    own = fleet.root / "gpu-03.token"
    if not own.exists():
        words = ("token", "create", "--role", "agent", "--name", "gpu-03", "--node", "gpu-03", "--out", str(own))
        await asyncio.to_thread(fleet.cli, *words)
    replica = row.replicas[0].replica
    false = Ack(
        tenant=TENANT,
        route=ROUTE,
        epoch=row.epoch,
        generation=row.pointer.generation,
        release=row.pointer.release,
        replica=replica,
        state=AckState.FAILED,
        code="invented",
        at_ms=0,
    )
    stolen = Replica(replica=replica, state=EngineState.DOWN, base=stage.base, slots=4)
    async with nothing_changes(stage):
        # gpu-02's token says it is gpu-01; gpu-03 speaks for gpu-01's replica, at once and later.
        assert await link(stage, fleet.root / "gpu-02.token", hello("gpu-01")) == (4403, "wrong_node")
        assert await link(stage, own, hello("gpu-03", stolen)) == (4403, "wrong_node")
        assert await link(stage, own, hello("gpu-03"), false) == (4403, "wrong_node")
        async with stage.http("viewer") as client:
            viewer = client.headers["authorization"]
        with pytest.raises(Exception, match="HTTP 403"):
            await linked(stage, {"authorization": viewer})
        with pytest.raises(Exception, match="HTTP 401"):
            await linked(stage, {})

        # A whole agent with the token of another node says so, and serves nothing.
        impostor = Node("gpu-04", fleet.root, free_port(), fleet.program)
        impostor.config.write_text(
            f'node = "gpu-04"\nhub = "http://127.0.0.1:{fleet.hub_port}"\n'
            f"token = {json.dumps(str(fleet.root / 'gpu-02.token'))}\nstate = {json.dumps(str(impostor.state))}\n\n"
            f'[router]\nlisten = "127.0.0.1:{impostor.port}"\n'
        )
        fleet.start_agent(impostor)
        try:
            said = "the link to the hub was lost: wrong_node"
            await asyncio.to_thread(wait_for, said, lambda: said in impostor.log.read_text(), 30)
        finally:
            await asyncio.to_thread(fleet.stop_node, impostor)
        nodes = {node["node"]: node for node in await asyncio.to_thread(fleet.cli, "node", "ls")}
        assert "gpu-04" not in nodes
        assert all(nodes[node.name]["linked"] for node in fleet.nodes)


def hello(node: str, *replicas: Replica) -> Hello:
    return Hello(node=node, boot="b", version="0", labels={}, epoch=0, rev=0, hash="0" * 64, replicas=replicas)


def linked(stage: Stage, headers: dict[str, str]) -> connect:
    url = f"ws://127.0.0.1:{stage.fleet.hub_port}/v1/link"
    return connect(url, additional_headers=headers, compression=None, ping_interval=None, proxy=None)


async def link(stage: Stage, token: Path, *messages: Hello | Ack) -> tuple[int, str]:
    """How the hub ends a link on which these messages were said."""
    bearer = await asyncio.to_thread(token.read_text)
    async with asyncio.timeout(60), linked(stage, {"authorization": f"Bearer {bearer.strip()}"}) as socket:
        for message in messages:
            await socket.send(message.model_dump_json())
        with pytest.raises(ConnectionClosed) as closed:
            await _listen(socket)
    ended = closed.value.rcvd
    assert ended is not None
    return ended.code, ended.reason


async def _listen(socket: ClientConnection) -> None:
    while True:
        await socket.recv()


# ---- what cannot be done now ---------------------------------------------------------------------------------


async def test_the_hub_is_down(stage: Stage) -> None:
    fleet = stage.fleet
    async with nothing_changes(stage):
        held = await tables(fleet)
        await asyncio.to_thread(fleet.stop_hub)
        try:
            problem = await stage.refused(3, "hub_unreachable", "rollback", TENANT, "--yes")
            assert str(fleet.socket) in problem["detail"]
            problem = await stage.refused(3, "hub_unreachable", "rollback", TENANT, "--yes", token="operator")
            assert str(fleet.hub_port) in problem["detail"]
            with pytest.raises(httpx.ConnectError):
                async with stage.http() as client:
                    await client.get("state")
            assert await tables(fleet) == held, "nodes go on with what they have"
        finally:
            await asyncio.to_thread(fleet.start_hub)
            await asyncio.to_thread(fleet.wait_until_up)
        deadline = time.monotonic() + 60
        while not (row := await stage.row()).settled or row.proven < row.placed:
            assert time.monotonic() < deadline, row
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def files_end_at(pid: int, size: int) -> Iterator[None]:
    """No file of a process may grow past so many bytes: to it, that is a full disk."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_on_a_node(stage: Stage, tmp_path: Path) -> None:
    fleet, node = stage.fleet, stage.fleet.nodes[0]
    big = write_adapter(tmp_path / "big", stage.material.base, seed=12, rank=64)
    size = (big / WEIGHTS).stat().st_size
    version = await asyncio.to_thread(fleet.cli, *map(str, imported(stage, big)))
    assert node.process is not None
    row = await stage.row()
    async with nothing_changes(stage):
        with files_end_at(node.process.pid, size // 2):
            problem = await stage.refused(1, "prepare_failed", "promote", TENANT, version["release"], "--yes")
            assert problem["title"] == f"the prepare failed on {node.name}"
            assert problem["context"]["code"] == "disk_full"
            assert "there is no room" in problem["detail"]
            seen = stage.seen(row, release=version["release"])
            problem = await stage.raw(409, "prepare_failed", "POST", f"{PAGE}/promote", json=seen)
            assert problem["context"] | {"prepare": None} == {
                "node": node.name,
                "code": "disk_full",
                "prepare": None,
            }
        folder = StateFolder(node.state)
        assert not folder.release(version["digest"]).exists()

        def cleared() -> bool:
            return not any(path.name.startswith(".") for path in folder.releases.iterdir())

        # The node may be fetching once more, for an entry that named the release while it was prepared.
        await asyncio.to_thread(wait_for, "what was fetched is gone", cleared, 30)


async def test_a_full_disk_on_the_hub(stage: Stage, tmp_path: Path) -> None:
    fleet = stage.fleet
    big = write_adapter(tmp_path / "big", stage.material.base, seed=13, rank=64)
    content = (big / WEIGHTS).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    row = await stage.row()
    assert fleet.hub is not None
    assert row.preview.target is not None
    async with nothing_changes(stage):
        with files_end_at(fleet.hub.pid, len(content) // 2):
            problem = await stage.refused(1, "disk_full", *imported(stage, big))
            assert problem["title"] == "there is no room for the artifact"
            assert problem["status"] == 507
            await stage.raw(507, "disk_full", "PUT", f"blobs/{digest}", content=content)
        await stage.raw(404, "unknown_blob", "GET", f"blobs/{digest}")
        assert list((fleet.data / "artifacts" / "incoming").iterdir()) == []

        # A log that cannot be written to: whether a move was made is not known until the key settles it.
        seen = stage.seen(row, to=row.preview.target.id, confirmed=True)
        with files_end_at(fleet.hub.pid, 1):
            await stage.raw(503, "outcome_unknown", "POST", f"{PAGE}/rollback", json=seen)
        await stage.raw(404, "unknown_key", "GET", f"moves/{seen['idempotency_key']}")
    # With room again it goes on where it was.
    note = {"event": row.pointer.last_move, "reason": "the disk was full", "idempotency_key": new_key()}
    async with stage.http() as client:
        assert (await client.post(f"{PAGE}/annotate", json=note)).status_code == 200
        assert (await client.get("audit/verify")).json()["ok"]
