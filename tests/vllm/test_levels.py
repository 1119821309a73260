"""What vLLM holds of the adapters that it lists: facts of vLLM alone, and what its plugin of ours makes of them.

One server for all, with two slots on its device and room for five adapters in memory. The plugin tells what is held; in
the first part everything is done by vLLM's own calls. A file that is a pipe makes a read last until the test ends it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests import vllm_server
from tests.fakes.word_model import write_adapter
from tests.fleets.processes.fleet import PROMPTS, TENANT, Material
from tests.vllm.attached import KEY, attached, keep
from tests.vllm.conftest import WORKER_CALLS, Expendable
from tests.vllm_server import Server

from incident.fleet import wait_for
from loradeck.schemas.replica_state import AckLevel
from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.host.errors import AgentError
from loradeck_agent.serving.engine_api import EngineAddress
from loradeck_agent.serving.vllm.api import VllmApi
from loradeck_agent.serving.vllm.command import BASE_ALONE

pytestmark = pytest.mark.drawn(seconds=150)

DEVICE, HOST = 2, 5
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
BLOCKED_S = 2.0
"""How long an answer of some milliseconds is waited for, before it counts as held up."""


@pytest.fixture(scope="session")
def plugged(material: Material) -> Iterator[Server]:
    env = WORKER_CALLS | {"VLLM_PLUGINS": "loradeck"}
    with vllm_server.running(material.base, slots=DEVICE, cpu_slots=HOST, key=KEY, env=env) as server:
        yield server


@pytest.fixture
def engine(plugged: Server) -> Server:
    """The server, with nothing listed and nothing held."""
    for name in plugged.listed():
        plugged.unload(name)
    for one in memory(plugged)["adapters"]:
        worker_call(plugged, "remove_lora", one["id"]).raise_for_status()
    assert held(plugged) == []
    return plugged


@pytest.fixture(scope="session")
def kept(material: Material, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven adapters as an agent keeps them, the first three those of the material."""
    made = tmp_path_factory.mktemp("made")
    more = [write_adapter(made / str(seed), material.base, seed=seed) for seed in range(11, 15)]
    return [keep(folder, made / "releases") for folder in (*material.adapters, *more)]


def keep_copy(folder: Path, to: Path) -> Path:
    if not to.exists():
        shutil.copytree(folder, to)
    return to


def memory(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get("/v1/loradeck/residency").raise_for_status().json()
    return found


def held(server: Server) -> list[tuple[str | None, str]]:
    """What is held and how near, the least recently used first."""
    return [(one["name"], one["level"]) for one in memory(server)["adapters"]]


def post(server: Server, call: str, **body: Any) -> httpx.Response:
    return server.http.post(f"/v1/loradeck/{call}", json=body)


def worker_call(server: Server, method: str, *args: Any) -> httpx.Response:
    """A call of vLLM's workers by its development route, which only these tests' servers have."""
    return server.http.post("/collective_rpc", json={"method": method, "args": list(args)})


class Pipe:
    """A file that is a pipe for a while: whoever reads it waits until it is fed."""

    def __init__(self, path: Path) -> None:
        self._path, self._content = path, path.read_bytes()
        self._beside = path.rename(path.with_suffix(".kept"))
        os.mkfifo(path)
        self._end: int | None = None
        self._fed = False

    def wait_for_reader(self) -> None:
        while self._end is None:
            with suppress(OSError):  # nobody has opened it to read
                self._end = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)

    def feed(self) -> None:
        assert self._end is not None
        os.write(self._end, self._content)
        os.close(self._end)
        self._fed = True

    def close(self) -> None:
        if self._end is not None and not self._fed:
            self.feed()
        self._beside.replace(self._path)


def held_up(answer: Future[httpx.Response]) -> bool:
    try:
        answer.result(BLOCKED_S)
    except TimeoutError:
        return True
    return False


# -- vLLM alone -----------------------------------------------------------------------------------------------


def test_it_lists_any_number_and_holds_the_last_ones(engine: Server, material: Material, kept: list[Path]) -> None:
    for number, folder in enumerate(kept):
        assert engine.load(f"a{number}", folder).status_code == 200
    assert engine.listed().keys() == {f"a{number}" for number in range(len(kept))}
    # A load takes a slot of the device at once, from those that answer callers too.
    assert held(engine) == [("a2", "host"), ("a3", "host"), ("a4", "host"), ("a5", "device"), ("a6", "device")]
    before = memory(engine)["read_in_loop"]
    assert engine.text("a0", PROMPTS[0]) == material.answers[0][0]
    assert memory(engine)["read_in_loop"] == before + 1
    assert held(engine) == [("a3", "host"), ("a4", "host"), ("a5", "host"), ("a6", "device"), ("a0", "device")]


def test_a_request_for_an_evicted_adapter_reads_it_while_all_others_wait(engine: Server, kept: list[Path]) -> None:
    folder = keep_copy(kept[0], kept[0].parent / "copy")
    engine.load("evicted", folder)
    for number in range(HOST):
        engine.load(f"a{number}", kept[number])
    with ThreadPoolExecutor(2) as pool, closing(Pipe(folder / CONFIG)) as slow:
        cold = pool.submit(engine.ask, "evicted", "w1")
        slow.wait_for_reader()
        other = pool.submit(engine.ask, "a3", "w2")
        assert held_up(other)
        assert not cold.done()
        slow.feed()
        assert other.result(60).status_code == cold.result(60).status_code == 200


def test_a_load_by_its_own_call_holds_up_all_others(engine: Server, kept: list[Path]) -> None:
    folder = keep_copy(kept[1], kept[1].parent / "copy1")
    engine.load("a", kept[0])
    with ThreadPoolExecutor(2) as pool, closing(Pipe(folder / CONFIG)) as slow:
        load = pool.submit(engine.load, "slow", folder)
        slow.wait_for_reader()
        other = pool.submit(engine.ask, "a", "w2")
        assert held_up(other)
        assert not load.done()
        slow.feed()
        assert other.result(60).status_code == load.result(60).status_code == 200


def test_its_unload_leaves_the_adapter_in_memory_and_a_load_adds_a_second_copy(
    engine: Server, kept: list[Path]
) -> None:
    engine.load("a", kept[0])
    engine.unload("a")
    assert held(engine) == [(None, "device")]
    engine.load("a", kept[0])
    assert held(engine) == [(None, "device"), ("a", "device")]
    for number in range(1, HOST):  # what it unloaded goes as all goes: when it was used least recently
        engine.load(f"a{number}", kept[number])
    assert None not in dict(held(engine))


def test_a_request_beyond_the_devices_slots_waits_while_later_ones_for_busy_adapters_pass(
    engine: Server, kept: list[Path]
) -> None:
    for number in range(3):
        engine.load(f"a{number}", kept[number])
    ends: list[str] = []

    def ask(name: str, tokens: int) -> None:
        assert engine.ask(name, "w1", tokens).status_code == 200
        ends.append(name if tokens > 1 else f"{name} later")

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(ask, f"a{number}", 480) for number in range(2)]
        wait_for_running(engine, 2)
        waiting = pool.submit(ask, "a2", 2)
        wait_for_waiting(engine, 1)
        for _ in range(3):
            ask("a0", 1)
        assert not waiting.done()
        assert not any(one.done() for one in running)
    assert ends[:3] == ["a0 later"] * 3
    assert ends.index("a2") > min(ends.index("a0"), ends.index("a1"))


def wait_until(what: Callable[[], bool]) -> None:
    for _ in range(2000):
        if what():
            return
    raise AssertionError("it did not come about")


def wait_for_running(server: Server, number: int) -> None:
    wait_until(lambda: server.gauge("num_requests_running") == number)


def wait_for_waiting(server: Server, number: int) -> None:
    wait_until(lambda: server.gauge("num_requests_waiting") == number)


def test_its_own_pin_takes_a_slot_of_the_device_too_and_lasts_until_the_adapter_is_removed(
    engine: Server, kept: list[Path]
) -> None:
    for number in range(3):
        engine.load(f"a{number}", kept[number])
    first = memory(engine)["adapters"][0]
    assert (first["name"], first["level"]) == ("a0", "host")
    assert worker_call(engine, "pin_lora", first["id"]).status_code == 200
    for other in range(3, 7):
        engine.load(f"a{other}", kept[other])
    assert held(engine)[0] == ("a0", "device")
    assert [one["name"] for one in memory(engine)["adapters"] if one["pinned"]] == ["a0"]
    paths = engine.http.get("/openapi.json").json()["paths"]
    assert [path for path in paths if {"pin", "pins", "pin_lora"} & set(path.split("/"))] == ["/v1/loradeck/pins"]


def test_pins_of_its_own_on_every_slot_end_the_engine_at_the_next_adapter(
    expendable: Expendable, material: Material
) -> None:
    server = expendable.anew()
    for name, folder in zip(("pinned", "other"), material.adapters, strict=False):
        server.load(name, folder)
    assert worker_call(server, "pin_lora", 1).status_code == 200
    with suppress(httpx.TransportError):
        assert server.ask("other", PROMPTS[0]).status_code == 500
    assert server.process.wait(60) is not None


# -- with the plugin ------------------------------------------------------------------------------------------


def loaded(server: Server, name: str, folder: Path) -> tuple[int, str]:
    reply = post(server, "load", name=name, path=str(folder))
    return reply.status_code, reply.json().get("code", "")


def test_the_plugin_loads_into_memory_and_the_first_request_reads_nothing_in_the_loop(
    engine: Server, material: Material, kept: list[Path]
) -> None:
    before = memory(engine)["read_in_loop"]
    for number in range(3):
        assert loaded(engine, f"a{number}", kept[number]) == (200, "")
    assert held(engine) == [("a0", "host"), ("a1", "host"), ("a2", "host")]
    for number in range(3):
        assert engine.text(f"a{number}", PROMPTS[1]) == material.answers[number][1]
    assert held(engine) == [("a0", "host"), ("a1", "device"), ("a2", "device")]
    for number in range(3, HOST + 1):  # a0 goes
        assert loaded(engine, f"a{number}", kept[number]) == (200, "")
    assert "a0" in engine.listed()
    assert "a0" not in dict(held(engine))
    assert loaded(engine, "a0", kept[0]) == (200, "")
    assert engine.text("a0", PROMPTS[0]) == material.answers[0][0]
    assert memory(engine)["read_in_loop"] == before


def test_a_read_that_does_not_end_holds_up_nobody(engine: Server, kept: list[Path]) -> None:
    loaded(engine, "a0", kept[0])
    manifest = kept[1].with_name(f"{kept[1].name}.json")
    with ThreadPoolExecutor(1) as pool, closing(Pipe(manifest)) as slow:
        load = pool.submit(post, engine, "load", name="a1", path=str(kept[1]))
        slow.wait_for_reader()
        for text in PROMPTS[:3]:
            assert engine.ask("a0", text).status_code == 200
        assert "a1" not in engine.listed()
        assert not load.done()
        slow.feed()
        assert load.result(60).status_code == 200
    assert dict(held(engine))["a1"] == "host"


def test_an_unload_of_the_plugins_frees_memory_and_slot(engine: Server, kept: list[Path]) -> None:
    loaded(engine, "a0", kept[0])
    engine.text("a0", "w1")
    assert held(engine) == [("a0", "device")]
    assert post(engine, "unload", name="a0").status_code == 200
    assert held(engine) == []
    assert engine.ask("a0", "w1").status_code == 404


def test_pins_of_the_plugins_survive_a_flood_of_other_adapters(
    engine: Server, material: Material, kept: list[Path]
) -> None:
    for number in range(2):
        loaded(engine, f"a{number}", kept[number])
    assert post(engine, "pins", names=["a0", "a1"]).json()["pinned"] == ["a0", "a1"]
    for number in range(2, 7):
        engine.load(f"a{number}", kept[number]).raise_for_status()  # by vLLM's own call, as anybody could
        engine.text(f"a{number}", "w1")
    assert held(engine)[:2] == [("a0", "host"), ("a1", "host")]
    before = memory(engine)["read_in_loop"]
    assert engine.text("a0", PROMPTS[0]) == material.answers[0][0]
    assert memory(engine)["read_in_loop"] == before
    assert loaded(engine, "a2", kept[2]) == (200, "")
    assert post(engine, "pins", names=["a0", "a1", "a2"]).status_code == 200
    assert post(engine, "pins", names=["a0", "a1", "a2", "a6"]).json()["code"] == "pins_full"


def test_files_of_another_digest_are_refused_by_the_plugin(engine: Server, kept: list[Path], tmp_path: Path) -> None:
    folder = keep_copy(kept[0], tmp_path / kept[0].name)
    shutil.copy(kept[0].with_name(f"{kept[0].name}.json"), tmp_path)
    shutil.copy(kept[1] / WEIGHTS, folder)
    assert loaded(engine, "a0", folder) == (409, "wrong_digest")
    assert held(engine) == []
    assert engine.listed() == {}


def test_the_plugins_routes_ask_for_vllms_key(engine: Server, kept: list[Path]) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(engine.socket)), base_url="http://engine") as stranger:
        assert stranger.get("/v1/loradeck/residency").status_code == 401
        for call in ("load", "unload", "pins"):
            body = {"name": "a0", "path": str(kept[0]), "names": []}
            assert stranger.post(f"/v1/loradeck/{call}", json=body).status_code == 401


# -- the agent ------------------------------------------------------------------------------------------------


async def test_the_agent_loads_pins_and_sees_levels_through_the_plugin(
    engine: Server, material: Material, kept: list[Path], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(KEY)
    config = VllmEngine(name="e0", kind="vllm", base=material.base, socket=engine.socket, key=key, slots=8)
    api = VllmApi(EngineAddress(socket=str(engine.socket)), config, tmp_path / "digests.json")
    before = memory(engine)["read_in_loop"]
    try:
        assert (await api.version()).slots == HOST
        await api.load("v1", kept[0])
        await api.load("v2", kept[1])
        engine.text("v2", "w1")
        assert await api.levels() == {"v1": AckLevel.HOST, "v2": AckLevel.DEVICE}
        await api.pin(["v1"])
        for number in range(2, 6):
            engine.load(f"a{number}", kept[number])
        assert (await api.models()).keys() == {"v1", "a2", "a3", "a4", "a5"}, "v2 is listed, and not held"
        await api.unload("v1")
        await api.load("v2", kept[1])
        assert await api.levels() == {name: level for name, level in held(engine) if name != "v1"}
        assert memory(engine)["read_in_loop"] == before + 4, "those of vLLM's own call"
        with pytest.raises(AgentError) as refused:
            await api.load("v3", material.adapters[2])
        assert refused.value.code == "files_missing"
    finally:
        api.close()


def test_what_r_goes_to_stays_in_memory_whatever_others_load_and_nothing_is_read_when_r_is_pressed(
    engine: Server, material: Material, kept: list[Path]
) -> None:
    with attached(engine, material) as tenant:
        ours = {f"{TENANT}-{tenant.cast.releases[label]}" for label in ("v1", "v2")}

        def pinned() -> set[str]:
            return {one["name"] for one in memory(engine)["adapters"] if one["pinned"]}

        wait_for("pinned", lambda: pinned() == ours | {BASE_ALONE}, 60)
        for number in range(7):
            engine.load(f"a{number}", kept[number]).raise_for_status()
        assert ours < dict(held(engine)).keys()
        before = memory(engine)["read_in_loop"]
        tenant.move("rollback", TENANT, "--yes")
        assert tenant.answers() == {tenant.cast.releases["v1"]}
        (replica,) = tenant.row()["replicas"]
        assert replica["level"] in ("device", "host")
        assert memory(engine)["read_in_loop"] == before
        (node,) = tenant.fleet.cli("node", "ls")
        assert node["replicas"][0].get("levels_known", True)
