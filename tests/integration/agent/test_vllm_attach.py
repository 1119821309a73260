"""A vLLM that somebody else runs: attached to over a socket or a URL, watched, and never touched."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fleets.waiting import PATIENCE_S, until
from tests.integration.agent.artifacts import Adapter, entry, make_adapter
from tests.integration.agent.conftest import TOKEN
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, CALLER_KEY, Node

ROOT = Path(__file__).parents[3]
KEYS = (CALLER_HASH,)
ENGINE_KEY = "key-of-the-engine"


class Vllm:
    """A vLLM-shaped server of somebody else's, in a folder of its own."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self.base = base
        self.socket = folder / "e.sock"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, tcp: bool = False, runtime_loading: bool = True) -> None:
        folder = self.folder
        self.socket.unlink(missing_ok=True)
        listen = ("--port", str(self.port)) if tcp else ("--uds", str(self.socket))
        env = os.environ | {"PYTHONPATH": str(ROOT), "VLLM_ALLOW_RUNTIME_LORA_UPDATING": str(runtime_loading)}
        command = [sys.executable, "-m", "tests.integration.agent.vllm_shaped", "--model", str(self.base)]
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--enable-lora", *listen, *flags], cwd=folder, stdout=log, stderr=log, env=env
            )

    def kill(self) -> None:
        """Its core with it, as vLLM's goes."""
        if self.process is not None:
            launch = self.folder / "launch.json"
            if launch.exists():
                os.kill(json.loads(launch.read_text())["core"], signal.SIGKILL)
                launch.unlink()
            self.process.kill()
            self.process.wait()
        self.process = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self, what: str) -> list[str]:
        return [call for call in self.lines("calls.log") if call.startswith(what)]

    def http(self) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://engine", timeout=PATIENCE_S
        )

    def load(self, name: str, adapter: Adapter) -> None:
        """As somebody else, from a folder of theirs."""
        folder = self.folder / f"of-{name}"
        folder.mkdir(exist_ok=True)
        for path, data in adapter.files.items():
            (folder / path).write_bytes(data)
        with self.http() as http:
            assert http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)}).is_success

    def unload(self, name: str) -> None:
        with self.http() as http:
            assert http.post("/v1/unload_lora_adapter", json={"lora_name": name}).is_success

    def listed(self) -> set[str]:
        with self.http() as http:
            return {row["id"] for row in http.get("/v1/models").json()["data"] if row["parent"]}


@pytest.fixture
def vllm(folder: Path, base: Path) -> Iterator[Vllm]:
    home = folder / "v"
    home.mkdir(mode=0o700)
    made = Vllm(home, base)
    yield made
    made.kill()


@pytest.fixture
def nodes(folder: Path, base: Path, hub: FakeHub) -> Iterator[Any]:
    made: list[Node] = []

    def attach(engine: str, slots: int = 4) -> Node:
        node = Node(folder, base, hub.url, TOKEN, slots=slots, engine=f'kind = "vllm"\n{engine}')
        made.append(node)
        node.start()
        return node

    yield attach
    for node in made:
        node.close()


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def up(hub: FakeHub) -> None:
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))


async def test_a_vllm_on_a_socket_serves_flips_and_proves(
    vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    vllm.start()
    node = nodes(f'socket = "{vllm.socket}"')
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)
    await hub.ack(second, "proven")
    assert await node.tokens("hello") == v2.tokens("hello")
    loads = vllm.calls("load")
    back = entry(v1.ref, 3, keys=KEYS)
    await hub.desire(back)
    await hub.ack(back, "proven")
    assert await node.tokens("hello") == v1.tokens("hello")
    assert vllm.calls("load") == loads, "going back loads nothing"
    report = await hub.report(lambda report: bool(report.replicas))
    assert report.replicas[0].build is not None
    assert report.replicas[0].build.key == "vllm 0.32.0|cuda|auto|tp1"


async def test_it_has_no_more_slots_than_it_was_started_with(vllm: Vllm, nodes: Any, hub: FakeHub) -> None:
    vllm.start("--max-loras", "2")
    nodes(f'socket = "{vllm.socket}"', slots=8)
    report = await hub.report(lambda report: report.replicas[0].state.value == "up")
    assert report.replicas[0].slots == 2


async def test_the_agents_end_and_stop_leave_it_running(vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter) -> None:
    vllm.start()
    node = nodes(f'socket = "{vllm.socket}"')
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    stopped = node.command("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert "router" in stopped.stdout
    assert "engine" not in stopped.stdout
    assert vllm.alive
    assert vllm.listed() == {v1.ref.engine_name}


async def test_the_next_agent_finds_what_passed_and_loads_nothing(
    vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter
) -> None:
    vllm.start()
    node = nodes(f'socket = "{vllm.socket}"')
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    await node.end_agent(signal.SIGKILL)
    heard = len(hub.heard)
    node.start()
    await hub.ack(first, "proven", after=heard)
    assert len(vllm.calls("load")) == 1
    assert not vllm.calls("unload")


async def test_a_url_with_a_key_is_asked_with_it_and_with_no_callers_key(
    vllm: Vllm, nodes: Any, hub: FakeHub, folder: Path, v1: Adapter
) -> None:
    vllm.start("--api-key", ENGINE_KEY, tcp=True)
    (folder / "vllm.key").touch(mode=0o600)
    (folder / "vllm.key").write_text(ENGINE_KEY + "\n")
    node = nodes(f'url = "http://127.0.0.1:{vllm.port}"\nkey = "vllm.key"')
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    assert await node.tokens("hello") == v1.tokens("hello")
    answered = [line for line in vllm.lines("asked.log") if line.endswith("/v1/chat/completions")]
    assert answered
    assert {line.split(" /")[0] for line in vllm.lines("asked.log")} == {f"Bearer {ENGINE_KEY}"}
    assert CALLER_KEY not in "".join(vllm.lines("asked.log"))
    written = [path for path in (folder / "s").rglob("*") if path.is_file()] + [node.log]
    assert len(written) > 5
    for path in written:
        assert ENGINE_KEY not in path.read_text(errors="replace"), f"{path} holds the key"
    for process in (node.process.pid, node.router_pid):
        assert ENGINE_KEY not in command_of(process)


async def test_a_key_that_it_does_not_take_is_named_as_the_fault(vllm: Vllm, nodes: Any, folder: Path) -> None:
    vllm.start("--api-key", ENGINE_KEY, tcp=True)
    (folder / "vllm.key").touch(mode=0o600)
    (folder / "vllm.key").write_text("another")
    node = nodes(f'url = "http://127.0.0.1:{vllm.port}"\nkey = "vllm.key"')
    await until(lambda: "key_refused" in node.log_text(), "the refusal is logged")
    assert "another" not in node.log_text()


async def test_adapters_of_others_take_slots_and_are_never_unloaded(
    vllm: Vllm, nodes: Any, hub: FakeHub, base_digest: str, v1: Adapter, v2: Adapter, v3: Adapter
) -> None:
    vllm.start()
    await until(lambda: vllm.socket.exists(), "the server listens")
    vllm.load("theirs", make_adapter(base_digest, 9))
    nodes(f'socket = "{vllm.socket}"', slots=3)
    await up(hub)
    await hub.report(lambda report: report.replicas[0].slots == 2)
    for generation, adapter in enumerate((v1, v2, v3), 1):
        # Two slots are left to us: the third release takes the one of the first, which no entry names any more.
        latest = entry(adapter.ref, generation, keys=KEYS)
        await hub.desire(latest)
        await hub.ack(latest, "proven")
    assert vllm.listed() == {"theirs", v2.ref.engine_name, v3.ref.engine_name}
    assert [call.split()[1] for call in vllm.calls("unload")] == [v1.ref.engine_name]

    vllm.unload("theirs")
    await hub.report(lambda report: report.replicas[0].slots == 3)


async def test_what_is_listed_stays_resident_when_what_was_unloaded_lingers_in_the_cache(
    vllm: Vllm, nodes: Any, hub: FakeHub, base_digest: str, v1: Adapter
) -> None:
    vllm.start("--max-loras", "3")
    nodes(f'socket = "{vllm.socket}"', slots=3)
    await up(hub)
    beneath: tuple[Any, ...] = ()
    for generation in range(1, 7):
        adapter = v1 if generation == 1 else make_adapter(base_digest, generation)
        hub.add_release(adapter.release, adapter.manifest, adapter.files)
        # The first stays where R goes: from then on nobody asks for it.
        latest = entry(adapter.ref, generation, beneath=beneath, keys=KEYS)
        await hub.desire(latest)
        await hub.ack(latest, "proven")
        beneath = (v1.ref,)
    evicted = [call.split()[1] for call in vllm.calls("evict")]
    assert len(evicted) >= 3
    assert set(evicted) == {"unloaded"}


async def test_another_process_on_its_socket_is_noticed_and_everything_is_loaded_and_verified_anew(
    vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter
) -> None:
    vllm.start()
    node = nodes(f'socket = "{vllm.socket}"')
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")

    heard, calls = len(hub.heard), len(vllm.lines("calls.log"))
    vllm.kill()
    void = await hub.ack(first, "waiting", after=heard)
    assert void.code == "engine_down"
    assert (await node.ask("hello"))[0] in (502, 503)
    vllm.start()
    await hub.ack(first, "flipped", after=heard)
    await hub.ack(first, "proven", after=heard)
    assert await node.tokens("hello") == v1.tokens("hello")
    anew = vllm.lines("calls.log")[calls:]
    loaded = anew.index(f"load {v1.ref.engine_name}")
    served = next(i for i, call in enumerate(anew) if call.endswith("hello"))
    canaries = [call for call in anew[loaded:served] if call.startswith(f"chat {v1.ref.engine_name} canary")]
    assert len(canaries) >= 2, f"no caller is served before the canaries were answered: {anew}"


async def test_a_restart_that_no_look_saw_is_told_by_the_new_start_time(
    vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter
) -> None:
    vllm.start()
    node = nodes(f'socket = "{vllm.socket}"')
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    heard = len(hub.heard)
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        vllm.kill()
        vllm.start()
        await until(lambda: vllm.socket.exists(), "the new process listens")
    finally:
        node.process.send_signal(signal.SIGCONT)
    await hub.ack(first, "waiting", after=heard)
    # Its list, which lacks the release now, may be looked at before its start time is.
    await until(
        lambda: any(told in node.log_text() for told in ("was started again", "is gone")), "the restart is told"
    )
    await hub.ack(first, "proven", after=heard)
    assert vllm.listed() == {v1.ref.engine_name}


async def test_a_release_that_others_unload_is_taken_from_the_router_and_loaded_again(
    vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter
) -> None:
    vllm.start()
    node = nodes(f'socket = "{vllm.socket}"')
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    heard = len(hub.heard)
    assert v1.ref.engine_name is not None
    vllm.unload(v1.ref.engine_name)
    await hub.ack(first, "waiting", after=heard)
    await hub.ack(first, "proven", after=heard)
    assert await node.tokens("hello") == v1.tokens("hello")
    assert len(vllm.calls("load")) == 2


async def test_a_vllm_on_another_base_is_not_used(
    vllm: Vllm, nodes: Any, hub: FakeHub, folder: Path, v1: Adapter
) -> None:
    vllm.start("--root", str(folder))
    node = nodes(f'socket = "{vllm.socket}"')
    await until(lambda: "wrong_base" in node.log_text(), "the refusal is logged")
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    report = await hub.report(lambda report: bool(report.replicas))
    assert report.replicas[0].state.value != "up"
    assert "wrong_base" in report.replicas[0].alarm
    assert (await node.ask("hello"))[0] == 503
    assert not vllm.lines("calls.log"), "nothing was loaded into it and nothing asked of it"
    assert node.log_text().count("wrong_base") == 1, "it is said once, not at every look"

    vllm.kill()
    vllm.start()
    await hub.ack(first, "proven")


async def test_a_base_served_under_a_releases_name_is_not_used(vllm: Vllm, nodes: Any, v1: Adapter) -> None:
    assert v1.ref.engine_name is not None
    vllm.start("--served-model-name", v1.ref.engine_name)
    node = nodes(f'socket = "{vllm.socket}"')
    await until(lambda: "base_name_taken" in node.log_text(), "the refusal is logged")
    assert not vllm.lines("calls.log")


async def test_a_rank_above_the_servers_is_refused_before_it_sees_the_adapter(
    vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter
) -> None:
    vllm.start()
    nodes(f'socket = "{vllm.socket}"\nmax_rank = 1')
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    failed = await hub.ack(first, "failed")
    assert failed.code == "rank_too_high"
    assert "rank 4, the engine takes up to 1" in failed.detail
    assert not vllm.calls("load")


async def test_a_vllm_without_runtime_loading_is_told_from_one_without_the_files(
    vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter
) -> None:
    vllm.start(runtime_loading=False)
    node = nodes(f'socket = "{vllm.socket}"')
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    failed = await hub.ack(first, "failed")
    assert failed.code == "no_runtime_loading"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in failed.detail
    assert (await node.ask("hello"))[0] == 503


async def test_a_way_back_without_a_slot_is_an_alarm(
    vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    vllm.start()
    node = nodes(f'socket = "{vllm.socket}"', slots=1)
    await up(hub)
    await hub.desire(entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS))
    report = await hub.report(lambda report: bool(report.replicas[0].alarm))
    assert report.replicas[0].alarm == "no slot for acme v1, where R goes for acme/production"
    assert node.log_text().count("no slot for acme v1") == 1
    await hub.desire(entry(v2.ref, 3, keys=KEYS))
    await hub.report(lambda report: not report.replicas[0].alarm)


async def test_its_absence_at_the_agents_start_is_said_and_its_coming_noticed(
    vllm: Vllm, nodes: Any, hub: FakeHub, v1: Adapter
) -> None:
    nodes(f'socket = "{vllm.socket}"')
    await hub.report(lambda report: report.replicas[0].state.value == "down")
    vllm.start()
    await up(hub)
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
