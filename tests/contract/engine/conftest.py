"""Engines under the contract, each in its own process on the tiny base."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests import vllm_server
from tests.contract.engine.running import START, Engine, Load, wait_for_health

HEAD = 32
"""The smallest head that vLLM's attention on CPU takes."""


@pytest.fixture(scope="session")
def tiny_base(make_base: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random Llama that every engine under the contract can run."""
    return make_base(tmp_path_factory.mktemp("base") / "tiny", head_dim=HEAD)


@pytest.fixture(scope="session", params=sorted(START))
def engine(request: pytest.FixtureRequest, tiny_base: Path) -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    log = folder / "engine.log"
    process = START[request.param](folder / "s", tiny_base, log)
    try:
        socket = folder / "s" / "engine.sock"
        wait_for_health(socket, process, log)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://engine", timeout=60) as http:
            yield Engine(request.param, socket, tiny_base, http)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        if request.param == "embedded":
            assert not socket.exists()
    finally:
        vllm_server.end(process)
        shutil.rmtree(folder)


@pytest.fixture
def load(engine: Engine) -> Iterator[Load]:
    """`load(name, folder)`: loads an adapter; whatever a test leaves loaded is unloaded after it."""

    def call(name: str, folder: Path | str) -> httpx.Response:
        return engine.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})

    yield call
    for name in engine.names():
        if name != "base":
            engine.http.post("/v1/unload_lora_adapter", json={"lora_name": name})


@pytest.fixture(scope="session")
def adapters(
    tiny_base: Path, make_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Three different adapters for the engine's base; the last has another rank and fewer targets."""
    root = tmp_path_factory.mktemp("adapters")
    return [
        make_adapter(tiny_base, root / "one", seed=1),
        make_adapter(tiny_base, root / "two", seed=2),
        make_adapter(tiny_base, root / "three", seed=3, rank=8, targets=("q_proj", "down_proj")),
    ]
