"""Fleets whose engine is vLLM; and a tenant on a node attached to one which somebody else started."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.fleets.host import short_folder
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay
from tests.vllm_server import START_S, Server, asked

from incident.fleet import CommandFailed, Fleet, wait_for
from incident.incident import Cast
from loradeck.artifacts import scan
from loradeck.schemas.manifest import AdapterManifest, DecisionRecord, Form, Release
from loradeck.schemas.table import ReleaseRef

KEY = "key-of-the-attached-engine"
SLOTS = 8


def described(folder: Path, base: str) -> tuple[AdapterManifest, ReleaseRef]:
    """The manifest that lists a folder as it is, and the release it makes: nobody changed it on the way."""
    config = json.loads((folder / "adapter_config.json").read_text())
    manifest = AdapterManifest(
        tenant=TENANT,
        name="words",
        base=base,
        files=scan(folder),
        rank=config["r"],
        alpha=config["lora_alpha"],
        target_modules=tuple(config["target_modules"]),
        config_hash="c" * 64,
        decision=DecisionRecord(why_weights="tests"),
    )
    release = Release(tenant=TENANT, form=Form.ADAPTER, base=base, adapter=manifest.digest)
    return manifest, ReleaseRef(id=release.id, release=release, label="v9")


def keep(folder: Path, releases: Path) -> Path:
    """An adapter as an agent keeps it: in a folder that its manifest's digest names, the manifest beside it."""
    manifest, _ = described(folder, "b" * 64)
    shutil.copytree(folder, releases / manifest.digest)
    (releases / f"{manifest.digest}.json").write_text(manifest.model_dump_json())
    return releases / manifest.digest


@dataclass
class VllmFleet(Fleet):
    """A fleet whose nodes have the given `[[engine]]` table."""

    engine: Mapping[str, Any] = field(default_factory=dict)

    def write_configs(self) -> None:
        super().write_configs()
        for node in self.nodes:
            head, _, _ = node.config.read_text().partition("[[engine]]")
            lines = (f"{name} = {json.dumps(value)}\n" for name, value in self.engine.items() if name != "env")
            variables = (f"{name} = {json.dumps(value)}\n" for name, value in self.engine.get("env", {}).items())
            node.config.write_text(f"{head}[[engine]]\n{''.join(lines)}[engine.env]\n{''.join(variables)}")

    def wait_until_up(self, seconds: float = START_S) -> None:
        super().wait_until_up(seconds)


@dataclass(frozen=True)
class Attached:
    """The fleet, its tenant's releases and prompts, and a caller of the tenant's."""

    fleet: Fleet
    material: Material
    cast: Cast
    http: httpx.Client
    server: Server

    @property
    def store(self) -> Path:
        """Where the node keeps adapters."""
        return self.fleet.nodes[0].state / "releases"

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = self.fleet.cli("route", "show", TENANT)
        return row

    def text(self, text: str, tokens: int = 12) -> str:
        """A caller's answer, through the router."""
        reply = self.http.post("/v1/chat/completions", json=asked(TENANT, text, tokens))
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["message"]["content"]).strip()

    def answers(self) -> set[str | None]:
        """The releases that answer the tenant's callers, by their tokens."""
        return {prompt.who(self.text(prompt.messages[0]["content"])) for prompt in self.cast.prompts}

    def seen(self) -> dict[str, Any]:
        """What a tenant has: its pointer, who answers, and what the engine lists for it."""
        pointer = self.row()["pointer"]
        listed = {name: root for name, root in self.server.listed().items() if name.startswith(TENANT)}
        return {"generation": pointer["generation"], "answers": self.answers(), "listed": listed}

    def refused(self, *words: str) -> str:
        """What a command that has to be refused says."""
        try:
            self.fleet.cli(*words)
        except CommandFailed as error:
            return error.error
        raise AssertionError(f"loradeck {' '.join(words)} was not refused")

    def move(self, *words: str) -> None:
        """A move of the tenant's pointer, until it is proven on every replica and attested."""
        self.fleet.cli(*words, "--wait", "proven", "--timeout", "120")
        wait_for("attested", lambda: self.row()["attested"], 60)


@contextmanager
def attached(server: Server, material: Material) -> Iterator[Attached]:
    """A running fleet of one node in a folder of its own. The server is still there afterwards."""
    with short_folder() as folder:
        key = folder / "engine.key"
        key.touch(mode=0o600)
        key.write_text(KEY)
        table = {
            "name": "e0",
            "kind": "vllm",
            "base": str(material.base),
            "socket": str(server.socket),
            "key": str(key),
            "slots": SLOTS,
            "max_rank": 8,
            "device": "cpu",
            "dtype": "float32",
        }
        with fleet_at(material.base, VllmFleet, names=("gpu-01",), engine=table) as fleet:
            cast, caller = lay(fleet, material)
            headers = {"authorization": f"Bearer {caller}"}
            with httpx.Client(base_url=fleet.nodes[0].url, headers=headers, timeout=60) as http:
                yield Attached(fleet, material, cast, http, server)
        assert server.process.poll() is None, "the node ended an engine that is not its own"
