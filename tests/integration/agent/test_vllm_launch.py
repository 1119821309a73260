"""A vLLM that the agent launches: its flags and variables, and that all of its processes end, and only then."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.conftest import TOKEN
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck_agent.host.state_folder import start_time

ROOT = Path(__file__).parents[3]
KEYS = (CALLER_HASH,)


class Launched(Node):
    """A node whose agent launches the vLLM-shaped server from an environment of its own."""

    def __init__(self, folder: Path, base: Path, hub_url: str) -> None:
        python = folder / "python"
        python.write_text(
            f'#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {sys.executable} -m tests.integration.agent.vllm_shaped "$@"\n'
        )
        python.chmod(0o700)
        engine = (
            f'kind = "vllm"\npython = "{python}"\nmax_rank = 8\ndtype = "bfloat16"\ntensor_parallel = 2\n'
            'args = ["--enforce-eager", "--max-model-len", "512"]\nenv = {VLLM_CPU_KVCACHE_SPACE = "1"}\n'
        )
        super().__init__(folder, base, hub_url, TOKEN, slots=3, engine=engine)
        self.home = self.state.engine("e0")

    def launch(self) -> dict[str, Any]:
        """What the server that was started last says of its start."""
        document: dict[str, Any] = json.loads((self.home / "launch.json").read_text())
        return document

    def close(self) -> None:
        launched = self.launch() if (self.home / "launch.json").exists() else {}
        super().close()
        for pid in (launched.get("pid"), launched.get("core")):
            if pid is not None and alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    return start_time(pid) is not None


@pytest.fixture
async def launched(folder: Path, base: Path, hub: FakeHub) -> Any:
    node = Launched(folder, base, hub.url)
    node.start(VIRTUAL_ENV="/somewhere/else")
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))
    yield node
    node.close()


async def serving(hub: FakeHub, v1: Adapter) -> Any:
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    return first


async def test_it_is_started_with_our_flags_and_variables_and_serves(
    launched: Launched, hub: FakeHub, base: Path, v1: Adapter
) -> None:
    await serving(hub, v1)
    assert await launched.tokens("hello") == v1.tokens("hello")
    launch = launched.launch()
    socket = launched.state.engine_socket("e0")
    assert launch["argv"] == [
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(base),
        "--served-model-name",
        "base",
        "--uds",
        str(socket),
        "--enable-lora",
        "--max-loras",
        "3",
        "--max-lora-rank",
        "8",
        "--max-cpu-loras",
        "6",
        "--dtype",
        "bfloat16",
        "--tensor-parallel-size",
        "2",
        "--enforce-eager",
        "--max-model-len",
        "512",
    ]
    env = launch["env"]
    assert {name: env.get(name) for name in ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "HF_HUB_OFFLINE")} == {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "HF_HUB_OFFLINE": "1",
    }
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert stat.S_IMODE(socket.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(launched.home.stat().st_mode) == 0o700
    report = await hub.report(lambda report: bool(report.replicas[0].loaded))
    assert report.replicas[0].build is not None
    assert report.replicas[0].build.key == "vllm 0.32.0|cuda|bfloat16|tp2"


async def test_stop_ends_all_of_its_processes(launched: Launched, hub: FakeHub) -> None:
    launch = launched.launch()
    assert alive(launch["pid"])
    assert alive(launch["core"])
    done = launched.command("stop")
    assert done.returncode == 0, done.stderr
    assert "engine e0" in done.stdout
    assert not alive(launch["pid"])
    assert not alive(launch["core"])
    assert not launched.state.engine_socket("e0").exists()


async def test_an_agent_that_was_killed_leaves_it_running_and_the_next_adopts_it(
    launched: Launched, hub: FakeHub, v1: Adapter
) -> None:
    first = await serving(hub, v1)
    before = launched.launch()
    await launched.end_agent(signal.SIGKILL)
    assert alive(before["pid"])
    heard = len(hub.heard)
    launched.start()
    await hub.ack(first, "proven", after=heard)
    assert launched.launch()["pid"] == before["pid"]
    assert "adopted" in launched.log_text()
    assert [call for call in launched.engine_calls() if call.startswith("load")] == [f"load {v1.ref.engine_name}"]


@pytest.mark.parametrize("victim", ["server", "launcher"])
async def test_when_a_part_of_it_is_killed_the_rest_is_ended_and_it_is_started_anew(
    launched: Launched, hub: FakeHub, v1: Adapter, victim: str
) -> None:
    first = await serving(hub, v1)
    before, heard = launched.launch(), len(hub.heard)
    pid = before["pid"] if victim == "server" else launched.engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await hub.ack(first, "waiting", after=heard)
    await hub.ack(first, "proven", after=heard)
    after = launched.launch()
    assert after["pid"] != before["pid"]
    assert not alive(before["pid"])
    assert not alive(before["core"]), "a core that was left would hold the accelerator's memory"
    assert await launched.tokens("hello") == v1.tokens("hello")


async def test_what_is_left_while_no_agent_ran_is_ended_before_another_server_starts(
    launched: Launched, hub: FakeHub
) -> None:
    before = launched.launch()
    await launched.end_agent(signal.SIGKILL)
    launcher = launched.engine_pid
    assert launcher is not None
    os.kill(launcher, signal.SIGSTOP)  # so that it cannot end what its server leaves
    os.kill(before["pid"], signal.SIGKILL)
    os.kill(launcher, signal.SIGKILL)
    await until(lambda: launched.engine_pid is None, "the launcher is gone")
    assert alive(before["core"])
    launched.start()
    await until(lambda: launched.launch()["pid"] != before["pid"], "another server was started")
    assert not alive(before["pid"])
    assert not alive(before["core"])


@pytest.fixture
def bystander(launched: Launched) -> Iterator[subprocess.Popen[bytes]]:
    """An operator's shell in the engine's folder, looking at its log."""
    made = subprocess.Popen(["sleep", "3600"], cwd=launched.home, start_new_session=True)
    yield made
    made.kill()
    made.wait()


async def test_a_process_of_others_in_its_folder_is_left_alone(
    launched: Launched, bystander: subprocess.Popen[bytes]
) -> None:
    assert launched.command("stop").returncode == 0
    assert bystander.poll() is None
    launched.start()
    await until(lambda: launched.engine_pid, "it is started again")
    assert bystander.poll() is None
