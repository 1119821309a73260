"""The plugin for vLLM: its routes and its calls on workers, with what they touch of vLLM faked."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.fakes import fake_vllm

import loradeck_vllm
from loradeck.schemas.ids import canonical_json
from loradeck.schemas.manifest import AdapterManifest, DecisionRecord, FileEntry
from loradeck.schemas.replica_state import AckLevel
from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import Reply
from loradeck_agent.serving.engine_api import EngineAddress
from loradeck_agent.serving.vllm.api import VllmApi, VllmPlugin
from loradeck_vllm import routes, worker
from loradeck_vllm.routes import AdapterRoutes, unfit
from loradeck_vllm.worker import WrongFiles, check_unchanged, verify


def stored(folder: Path, weights: bytes = b"weights") -> Path:
    """An adapter as an agent keeps it: its folder, named by the digest of the manifest beside it."""
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": weights}
    manifest = AdapterManifest(
        tenant="acme",
        name="words",
        base="b" * 64,
        files=tuple(FileEntry(path=name, size=len(raw), sha256=sha256(raw).hexdigest()) for name, raw in files.items()),
        rank=4,
        alpha=8,
        target_modules=("q_proj",),
        config_hash="c" * 64,
        decision=DecisionRecord(why_weights="größer"),
    )
    kept = folder / manifest.digest
    kept.mkdir(parents=True)
    for name, raw in files.items():
        (kept / name).write_bytes(raw)
    kept.with_name(f"{manifest.digest}.json").write_text(manifest.model_dump_json())
    assert sha256(canonical_json(manifest)).hexdigest() == kept.name
    return kept


class Bridge:
    """The agent's client of HTTP, over the server in this process."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http, self.got = http, list[str]()

    async def get(self, path: str, *, timeout: float) -> Reply:
        self.got.append(path)
        reply = await self._http.get(path)
        return Reply(reply.status_code, reply.headers, reply.content)

    async def post(self, path: str, document: Any, *, timeout: float) -> Reply:
        reply = await self._http.post(path, json=document)
        return Reply(reply.status_code, reply.headers, reply.content)


class Server:
    def __init__(self, http: httpx.AsyncClient, engine: fake_vllm.Engine, models: Any) -> None:
        self.http, self.engine, self.models = http, engine, models

    async def post(self, call: str, **body: Any) -> tuple[int, str]:
        reply = await self.http.post(f"/v1/loradeck/{call}", json=body)
        return reply.status_code, reply.json().get("code", "")

    async def load(self, name: str, folder: Path) -> tuple[int, str]:
        return await self.post("load", name=name, path=str(folder))

    async def held(self) -> list[tuple[str | None, str, bool]]:
        rows = (await self.http.get("/v1/loradeck/residency")).json()["adapters"]
        return [(row["name"], row["level"], row["pinned"]) for row in rows]

    def agent(self, state: Path) -> VllmApi:
        """The agent's side, connected to this server, after it has found the plugin there."""
        config = VllmEngine.model_construct(name="e0", key=None)
        api = VllmApi(EngineAddress(socket="s"), config, state / "digests.json")
        http: Any = Bridge(self.http)
        api._http, api._plugin, api._plugged = http, VllmPlugin(http), True
        return api

    def step(self, name: str) -> None:
        for one in self.engine.workers:
            one.asked(self.models.lora_requests[name])


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """Two workers with one slot on the device and three in memory."""
    fake_vllm.install(monkeypatch)
    app, plugin = FastAPI(), AdapterRoutes(enabled=True)
    app.state.args = fake_vllm.arguments()
    plugin.attach_router(app)
    engine = fake_vllm.Engine(*(fake_vllm.Worker(device=1, host=3) for _ in range(2)))
    models = fake_vllm.models()

    async def listed() -> dict[str, Any]:
        rows = [{"id": name, "root": one.lora_path, "parent": "base"} for name, one in models.lora_requests.items()]
        return {"data": [{"id": "base", "root": "/base"}, *rows]}

    app.add_api_route("/v1/models", listed)
    await plugin.init_state(engine, SimpleNamespace(openai_serving_models=models), app.state.args)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as http:
        yield Server(http, engine, models)
    for one in engine.workers:
        if (adapters := getattr(one.manager, worker.NAME, None)) is not None:
            vars(adapters.server)["_BaseServer__shutdown_request"] = True
            await _connected(adapters.server.server_address)  # else it looks again in half a second
            adapters.server.shutdown()
            adapters.server.server_close()


async def _connected(path: str) -> None:
    """Wakes a server that waits for somebody."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()


async def test_a_load_reads_beside_the_loop_and_ends_in_memory_and_in_the_list(server: Server, tmp_path: Path) -> None:
    folder = stored(tmp_path)
    assert await server.load("v1", folder) == (200, "")
    assert server.models.lora_requests["v1"].lora_path == str(folder)
    assert await server.held() == [("v1", "host", False)]
    server.step("v1")
    assert await server.held() == [("v1", "device", False)]
    assert (await server.http.get("/v1/loradeck/residency")).json()["read_in_loop"] == 0
    assert [one.packed for one in server.engine.workers] == [[1], [1]]


async def test_what_one_worker_alone_has_on_its_device_is_in_memory(server: Server, tmp_path: Path) -> None:
    await server.load("v1", stored(tmp_path))
    server.engine.workers[0].asked(server.models.lora_requests["v1"])
    assert await server.held() == [("v1", "host", False)]


async def test_a_name_that_was_evicted_is_loaded_again_under_its_number(server: Server, tmp_path: Path) -> None:
    for number in range(4):
        assert await server.load(f"v{number}", stored(tmp_path, b"%d" % number)) == (200, "")
    assert [row[0] for row in await server.held()] == ["v1", "v2", "v3"]
    request = server.models.lora_requests["v0"]
    assert await server.load("v0", Path(request.lora_path)) == (200, "")
    assert server.models.lora_requests["v0"] is request
    assert [row[0] for row in await server.held()] == ["v2", "v3", "v0"]


async def test_a_load_waits_for_no_step_and_what_was_read_is_inserted_by_the_step_that_needs_it(
    server: Server, tmp_path: Path
) -> None:
    assert await server.load("v1", stored(tmp_path)) == (200, "")
    assert server.engine.calls == ["loradeck_socket"], "once in an engine's lifetime"
    assert [list(one.registered.order) for one in server.engine.workers] == [[], []]
    server.step("v1")
    assert await server.held() == [("v1", "device", False)]
    assert [one.packed for one in server.engine.workers] == [[1], [1]]


async def test_all_workers_insert_what_was_read_in_one_order_and_by_one_call(server: Server, tmp_path: Path) -> None:
    for number in range(3):
        await server.load(f"v{number}", stored(tmp_path, b"%d" % number))
    first, second = server.engine.workers
    server.step("v1")
    assert list(first.registered.order) == list(second.registered.order) == [2]
    assert [row[0] for row in await server.held()] == ["v1", "v0", "v2"]
    assert list(first.registered.order) == list(second.registered.order)


async def test_a_load_in_place_of_another_takes_that_off_the_list_and_out_of_memory(
    server: Server, tmp_path: Path
) -> None:
    for number in range(3):
        await server.load(f"v{number}", stored(tmp_path, b"%d" % number))
    server.step("v0")
    server.step("v2")
    status, _ = await server.post("load", name="v3", path=str(stored(tmp_path, b"3")), instead=["v2", "nobody"])
    assert (status, "v2" in server.models.lora_requests) == (200, False)
    server.step("v3")
    assert [row[0] for row in await server.held()] == ["v0", "v3", "v1"], "and not the one that was used least lately"


async def test_what_a_load_was_to_replace_goes_also_where_it_fails_or_was_held_before(
    server: Server, tmp_path: Path
) -> None:
    folders = [stored(tmp_path, b"%d" % number) for number in range(3)]
    for number, folder in enumerate(folders):
        await server.load(f"v{number}", folder)
    await server.held()
    status, code = await server.post("load", name="v9", path=str(tmp_path / "nowhere"), instead=["v0"])
    assert (status, code) == (404, "files_missing")
    assert [row[0] for row in await server.held()] == ["v1", "v2"]
    assert await server.post("load", name="v1", path=str(folders[1]), instead=["v2"]) == (200, "")
    assert [row[0] for row in await server.held()] == ["v1"]


async def test_what_a_load_was_to_replace_goes_with_it_where_it_is_replaced_itself(
    server: Server, tmp_path: Path
) -> None:
    await server.load("x", stored(tmp_path, b"x"))
    await server.load("y", stored(tmp_path, b"y"))
    assert [row[0] for row in await server.held()] == ["x", "y"]
    await server.post("load", name="a", path=str(stored(tmp_path, b"a")), instead=["x"])
    await server.post("load", name="b", path=str(stored(tmp_path, b"b")), instead=["a"])
    server.step("b")
    assert [row[0] for row in await server.held()] == ["y", "b"]


async def test_what_one_worker_refuses_is_held_by_none(server: Server, tmp_path: Path) -> None:
    def refuse(request: Any) -> Any:
        raise ValueError("rank 64 is over 8")

    server.engine.workers[1].manager._load_adapter = refuse
    assert await server.load("v1", stored(tmp_path)) == (400, "load_refused")
    assert server.models.lora_requests == {}
    assert await server.held() == []
    assert [getattr(one.manager, worker.NAME)._read for one in server.engine.workers] == [{}, {}]


async def test_what_nobody_waits_for_any_more_when_it_was_read_is_dropped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fast, one), go = server.engine.workers, threading.Event()
    await server.held()
    adapters = getattr(one.manager, worker.NAME)
    read, dropped = adapters._read_by_vllm, threading.Event()

    def slow(request: Any) -> Any:
        go.wait(60)
        return read(request)

    monkeypatch.setattr(adapters, "_read_by_vllm", slow)
    monkeypatch.setattr(adapters.server, "_gone", lambda number: (adapters.forget(number), dropped.set()))
    monkeypatch.setattr(routes, "READ_S", 0.3)
    assert await server.load("v1", stored(tmp_path)) == (504, "read_timeout")
    go.set()
    assert await asyncio.to_thread(dropped.wait, 60)
    assert (adapters._read, getattr(fast.manager, worker.NAME)._read) == ({}, {})


async def test_workers_of_another_host_have_no_routes_for_the_agent(server: Server, tmp_path: Path) -> None:
    await server.held()
    for one in server.engine.workers:
        getattr(one.manager, worker.NAME).server.path = "/nowhere/read.sock"
    assert (await server.http.get("/v1/loradeck/residency")).status_code == 200, "they were found"
    fresh = AdapterRoutes(enabled=True)
    await fresh.init_state(server.engine, SimpleNamespace(openai_serving_models=server.models), None)  # type: ignore[arg-type]
    with pytest.raises(routes.Refused, match="another host"):
        await fresh.residency()
    assert routes.STATUS["workers_elsewhere"] == 404, "which the agent takes for a vLLM without the plugin"


async def test_a_line_that_cannot_be_read_ends_its_own_connection(server: Server, tmp_path: Path) -> None:
    await server.held()
    path = getattr(server.engine.workers[0].manager, worker.NAME).server.path
    assert Path(path).parent.stat().st_mode & 0o077 == 0, "for this user alone"
    for line in (b"\xff\n", b"[]\n", b"{}\n", b"x" * 70_000):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
    assert await server.load("v1", stored(tmp_path)) == (200, "")


async def test_what_is_held_already_is_not_read_again(server: Server, tmp_path: Path) -> None:
    folder = stored(tmp_path)
    await server.load("v1", folder)
    assert await server.load("v1", folder) == (200, "")
    assert [one.packed for one in server.engine.workers] == [[1], [1]]


async def test_a_file_that_is_not_the_digests_is_refused_and_nothing_is_listed_or_held(
    server: Server, tmp_path: Path
) -> None:
    folder = stored(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"weighty")
    assert await server.load("v1", folder) == (409, "wrong_digest")
    assert server.models.lora_requests == {}
    assert await server.held() == []


async def test_folders_that_are_not_there_names_of_the_base_and_names_of_others_are_refused(
    server: Server, tmp_path: Path
) -> None:
    folder = stored(tmp_path)
    assert await server.load("v1", tmp_path / "nowhere") == (404, "files_missing")
    assert await server.load("base", folder) == (409, "name_taken")
    assert await server.load("v1", folder) == (200, "")
    assert await server.load("v1", stored(tmp_path / "other")) == (409, "name_taken")
    assert await server.post("unload", name="v2") == (404, "not_listed")
    assert (await server.http.post("/v1/loradeck/load", json={"name": "v", "path": "here"})).status_code == 422


async def test_an_unload_takes_an_adapter_off_the_list_and_out_of_memory(server: Server, tmp_path: Path) -> None:
    await server.load("v1", stored(tmp_path))
    assert await server.post("unload", name="v1") == (200, "")
    assert server.models.lora_requests == {}
    assert await server.held() == []


async def test_what_others_took_off_the_list_is_held_without_a_name(server: Server, tmp_path: Path) -> None:
    await server.load("v1", stored(tmp_path))
    del server.models.lora_requests["v1"]
    assert await server.held() == [(None, "host", False)]


async def test_pins_hold_against_others_and_are_those_that_were_last_named(server: Server, tmp_path: Path) -> None:
    for number in range(2):
        await server.load(f"v{number}", stored(tmp_path, b"%d" % number))
    assert await server.post("pins", names=["v0", "nobody"]) == (200, "")
    for number in range(2, 6):
        await server.load(f"v{number}", stored(tmp_path, b"%d" % number))
    assert [row[0] for row in await server.held()] == ["v0", "v4", "v5"]
    assert await server.post("pins", names=["v4"]) == (200, "")
    assert [row for row in await server.held() if row[2]] == [("v4", "host", True)]


async def test_pins_leave_a_step_the_places_that_it_may_need(server: Server, tmp_path: Path) -> None:
    for number in range(3):
        await server.load(f"v{number}", stored(tmp_path, b"%d" % number))
    assert await server.post("pins", names=["v0", "v1", "v2"]) == (409, "pins_full")
    assert await server.post("pins", names=["v0", "v1"]) == (200, "")


async def test_what_vllm_reads_in_its_loop_is_counted_and_its_digest_compared(server: Server, tmp_path: Path) -> None:
    for number in range(4):
        await server.load(f"v{number}", stored(tmp_path, b"%d" % number))
    assert "v0" not in [row[0] for row in await server.held()]
    server.step("v0")
    assert (await server.http.get("/v1/loradeck/residency")).json()["read_in_loop"] == 2
    (Path(server.models.lora_requests["v1"].lora_path) / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(WrongFiles):
        server.step("v1")


def test_a_file_that_changes_after_it_was_compared_is_noticed(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    stamps = verify(folder)
    check_unchanged(stamps)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(b"weights")
    os.utime(path, ns=(1, 1))
    with pytest.raises(WrongFiles, match="was changed"):
        check_unchanged(stamps)


@pytest.mark.parametrize("name", ["adapter_model.bin", "deep/er"])
def test_a_file_that_the_manifest_does_not_name_is_refused(tmp_path: Path, name: str) -> None:
    folder = stored(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(WrongFiles, match=name):
        verify(folder)


def test_a_manifest_of_another_digest_is_refused(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    beside = folder.with_name(f"{folder.name}.json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"rank": 8}))
    with pytest.raises(WrongFiles, match="another digest"):
        verify(folder)
    beside.write_text("[]")
    with pytest.raises(WrongFiles, match="cannot be read"):
        verify(folder)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"enable_lora": False}, "serves no adapters"),
        ({"uds": None}, "anybody could call"),
        ({"api_server_count": 2}, "several"),
        ({"data_parallel_size": 2}, "several"),
        ({"uds": None, "api_key": ["k"]}, ""),
    ],
)
def test_a_server_that_may_not_have_the_routes_gets_none(changed: dict[str, Any], says: str) -> None:
    args = fake_vllm.arguments(**changed)
    assert says in unfit(args, {})
    assert bool(unfit(args, {})) == bool(says)
    app = FastAPI()
    app.state.args = args
    AdapterRoutes(enabled=True).attach_router(app)
    assert any("loradeck" in getattr(route, "path", "") for route in app.routes) is not bool(says)


def test_a_key_from_the_environment_is_one() -> None:
    assert unfit(fake_vllm.arguments(uds=None), {"VLLM_API_KEY": "k"}) == ""


@pytest.mark.parametrize(("version", "known"), [("0.32.0", True), ("0.32.1+cu128", True), ("0.33.0", False)])
def test_on_a_version_that_was_not_tried_nothing_is_added_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str, known: bool
) -> None:
    fake_vllm.install(monkeypatch, version)
    loradeck_vllm.register_worker()
    added = vars(sys.modules["vllm.v1.worker.worker_base"].WorkerBase)  # type: ignore[attr-defined]
    assert (worker.CALLS.keys() <= added.keys()) is known
    app = FastAPI()
    app.state.args = fake_vllm.arguments()
    loradeck_vllm.endpoint().attach_router(app)
    assert any("loradeck" in getattr(route, "path", "") for route in app.routes) is known
    assert (f"adds nothing to vLLM {version}" in caplog.text) is not known


def test_it_imports_vllm_what_vllms_server_is_made_of_and_the_standard_library() -> None:
    folder = Path(loradeck_vllm.__file__).parent
    imported = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
    assert imported - sys.stdlib_module_names == {"vllm", "fastapi", "pydantic", "loradeck_vllm"}


# -- the agent's side -----------------------------------------------------------------------------------------


async def test_the_agent_lists_what_is_held_and_says_how_near(server: Server, tmp_path: Path) -> None:
    api, folders = server.agent(tmp_path), [stored(tmp_path, b"%d" % number) for number in range(4)]
    for number, folder in enumerate(folders):
        await api.load(f"v{number}", folder)
    await api.levels()
    server.step("v3")
    assert await api.models() == {f"v{number}": str(folders[number]) for number in (1, 2, 3)}
    assert await api.levels() == {"v1": AckLevel.HOST, "v2": AckLevel.HOST, "v3": AckLevel.DEVICE}
    await api.load("v0", folders[0])  # it was pushed out, and is listed
    assert (await api.models()).keys() == {"v2", "v3", "v0"}
    await api.unload("v0")
    await api.unload("v0")
    assert (await api.models()).keys() == {"v2", "v3"}


async def test_the_agent_pins_anew_only_where_something_has_changed(server: Server, tmp_path: Path) -> None:
    api, folder = server.agent(tmp_path), stored(tmp_path)
    await api.load("v0", folder)
    await api.pin(["v0"])
    await api.pin(["v0"])
    assert server.engine.calls.count("loradeck_pin") == 1
    await api.load("v1", stored(tmp_path, b"1"))
    await api.pin(["v0"])
    assert server.engine.calls.count("loradeck_pin") == 1, "each call waits for the end of a step"
    await api.unload("v0")
    await api.load("v0", folder)
    await api.pin(["v0"])
    assert server.engine.calls.count("loradeck_pin") == 2, "its pin went with it"
    assert [row for row in await server.held() if row[2]] == [("v0", "host", True)]


async def test_after_a_load_the_agent_asks_no_worker_once_more_what_it_holds(server: Server, tmp_path: Path) -> None:
    api, folder = server.agent(tmp_path), stored(tmp_path)
    await api.load("v0", folder)
    http: Any = api._http
    before, http.got = len(server.engine.calls), []
    assert await api.root_of("v0") == str(folder)
    assert http.got == [], "the load said it"
    await api.unload("v0")
    assert [await api.root_of(name) for name in ("v0", "v1")] == [None, None]
    assert (len(http.got), len(server.engine.calls)) == (2, before + 1)


async def test_pins_that_do_not_fit_are_said_and_stop_nothing(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = server.agent(tmp_path)
    for number in range(3):
        await api.load(f"v{number}", stored(tmp_path, b"%d" % number))
    await api.pin(["v0", "v1", "v2"])
    await api.pin(["v0", "v1", "v2"])
    assert caplog.text.count("give it a larger --max-cpu-loras") == 1


async def test_the_agent_passes_on_why_a_load_is_refused(server: Server, tmp_path: Path) -> None:
    folder = stored(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"weighty")
    with pytest.raises(AgentError) as refused:
        await server.agent(tmp_path).load("v0", folder)
    assert refused.value.code == "wrong_digest"
    assert "is not the file of its manifest" in str(refused.value)


@pytest.mark.parametrize("said", [b"<html>", b"[1]"])
async def test_a_load_whose_answer_cannot_be_read_has_failed(server: Server, tmp_path: Path, said: bytes) -> None:
    async def post(path: str, document: Any, *, timeout: float) -> Reply:
        return Reply(200, {}, said)

    api = server.agent(tmp_path)
    api._http.post = post  # type: ignore[method-assign, assignment]
    with pytest.raises(AgentError, match="cannot be read") as refused:
        await api.load("v0", stored(tmp_path), ["v1"])
    assert refused.value.code == "engine_error"


async def test_a_vllm_without_the_plugin_has_no_levels(server: Server, tmp_path: Path) -> None:
    api = server.agent(tmp_path)
    api._plugged = False
    assert await api.levels() is None
    await api.pin(["v0"])
    assert server.engine.calls == []


async def test_why_a_plugin_adds_nothing_is_logged_once_and_a_vllm_without_one_has_nothing_to_say(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = [b'{"detail":"Not Found"}', b"<html>"]
    said += [b'{"code":"workers_elsewhere","detail":"a worker is on another host, or has another /tmp"}'] * 2

    async def get(path: str, *, timeout: float) -> Reply:
        return Reply(404, {}, said.pop(0))

    http: Any = SimpleNamespace(get=get)
    plugin = VllmPlugin(http)
    for _ in range(4):
        assert await plugin.memory() is None
    (line,) = caplog.messages
    assert "adds nothing" in line
    assert "on another host" in line
