"""A real hub, started as `loradeck hub`, and the `loradeck` executable to talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.fakes.handmade_adapters import safetensors
from tests.fleets.host import short_folder
from tests.fleets.processes.hub import LORADECK, HubProcess
from tests.integration.cli.small_node import SmallNode

from loradeck.artifacts import scan
from loradeck.cli import main
from loradeck.client.api import HubApi
from loradeck.client.blobs import upload
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.schemas.manifest import AdapterManifest, DecisionRecord
from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.route import RouteConfig, Soak
from loradeck.schemas.state import TenantRow
from loradeck.schemas.tenant import TenantCreate

MODULES = ("q_proj", "v_proj")
_numbers = itertools.count(1)


@dataclass(kw_only=True)
class Desk:
    """A hub in a folder of its own, and somebody at a shell beside it."""

    root: Path
    hub: HubProcess = field(init=False)

    def __post_init__(self) -> None:
        data = self.root / "state" / "loradeck" / "hub"
        self.hub = HubProcess(data, "--name", "lab", env=self.env, log=self.root / "hub.log")

    @property
    def socket(self) -> Path:
        return self.hub.socket

    @property
    def url(self) -> str:
        return self.hub.url

    @property
    def env(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("LORADECK_")}
        return kept | {
            "XDG_STATE_HOME": str(self.root / "state"),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
        }

    def start_hub(self) -> None:
        self.hub.start()

    def stop_hub(self) -> int:
        return self.hub.end(signal.SIGTERM)

    def process(self, *words: object) -> subprocess.CompletedProcess[str]:
        """The executable, as a process without a terminal."""
        return subprocess.run(
            [LORADECK, *map(str, words)],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def run(self, *words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """What the executable runs, in this process: the same without a third of a second for imports."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.env | (env or {}), clear=True),
            mock.patch.object(sys, "stdin", io.StringIO()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main([str(word) for word in words])
        status = int(ended.value.code or 0)
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    def json(self, *words: object) -> Any:
        """What a command that succeeds prints with --json."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, status: int, code: str, *words: object, process: bool = False) -> dict[str, Any]:
        """The problem of a command that ends with a status; nothing is on stdout."""
        done = (self.process if process else self.run)(*words, "--json")
        assert done.returncode == status, (done.stdout, done.stderr)
        assert done.stdout == ""
        problem: dict[str, Any] = json.loads(done.stderr)
        assert problem["code"] == code, problem
        assert problem["title"]
        return problem

    def api(self) -> HubApi:
        """The hub without a command between."""
        return HubApi.to(Context(name="lab", socket=self.socket))

    def row(self, tenant: str) -> TenantRow:
        async def ask() -> TenantRow:
            async with self.api() as api:
                return await api.row(tenant, "production")

        return asyncio.run(ask())

    def token(self, role: str, *more: str) -> Path:
        """A token file."""
        path = self.root / f"{role}{next(_numbers)}.token"
        name = f"{role}-{next(_numbers)}"
        self.json("token", "create", "--role", role, "--name", name, "--out", path, *more)
        return path


def write_adapter(folder: Path, fill: int = 1) -> Path:
    """The files of a small plain LoRA adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for layer in range(2):
        for module in MODULES:
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{prefix}.lora_A.weight"] = (4, 8)
            tensors[f"{prefix}.lora_B.weight"] = (8, 4)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors, fill=fill))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": list(MODULES),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def write_base(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(safetensors({"w": (2, 2)}, fill=3))
    return folder


@contextlib.contextmanager
def running() -> Iterator[Desk]:
    """A hub with a folder of its own."""
    with short_folder() as root:
        desk = Desk(root=root)
        try:
            desk.start_hub()
            yield desk
        finally:
            desk.stop_hub()


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """One hub a module; each test takes a tenant of its own."""
    with running() as desk:
        yield desk


@pytest.fixture
def far() -> Iterator[Desk]:
    """Another hub, which knows nothing of the first."""
    with running() as desk:
        yield desk


@pytest.fixture(scope="module")
def base(desk: Desk) -> str:
    """Digest of the hub's one base."""
    folder = write_base(desk.root / "base")
    digest: str = desk.json("base", "add", folder, "--model-id", "tests/tiny", "--revision", "1")["digest"]
    return digest


@pytest.fixture(scope="module")
def linked(desk: Desk, base: str) -> Iterator[SmallNode]:
    node = SmallNode("n1", desk.hub, desk.hub.token("agent"), base)
    node.start()
    yield node
    node.stop()


@pytest.fixture
def node(linked: SmallNode) -> SmallNode:
    """The module's one node, doing what it is told until a test says otherwise."""
    linked.obey()
    return linked


@pytest.fixture
async def tenant(desk: Desk, node: SmallNode, base: str, tmp_path: Path) -> str:
    """A tenant with v1, v2 and v3 registered; v1, then v2 promoted and attested. No soak, so that R acts at once."""
    name = f"t{next(_numbers)}"
    async with desk.api() as api:
        await api.create_tenant(TenantCreate(name=name))
        await api.set_route(name, "production", RouteConfig(soak=Soak(seconds=0, requests=0)))
        releases = []
        for fill in (1, 2, 3):
            folder = write_adapter(tmp_path / f"a{fill}", fill)
            files = scan(folder)
            for entry in files:
                await upload(api, folder / entry.path)
            manifest = AdapterManifest(
                tenant=name,
                name="words",
                base=base,
                files=files,
                rank=4,
                alpha=8,
                target_modules=MODULES,
                config_hash="0" * 64,
                decision=DecisionRecord(why_weights="tests"),
            )
            releases.append((await api.register_adapter(manifest)).release)
        for generation, release in enumerate(releases[:2]):
            request = PromoteRequest(release=release, expected_generation=generation, idempotency_key=new_key())
            result = await api.send(name, "production", request, wait="proven", timeout=60)
            assert result.reached == "proven"
            deadline = time.monotonic() + 60
            while (await api.row(name, "production")).attested is None:
                assert time.monotonic() < deadline, "not attested within a minute"
                await asyncio.sleep(0.02)
    return name
