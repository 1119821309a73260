"""A thousand tenants for the density benchmark: adapters of random numbers, a hub's log that has them, a node's disk.

Adapters lie in the cache folder and are made once. A node that served them for days is laid out: their verified files
on its disk, and a log in which each tenant was promoted, half of them twice. Nothing of that is what is measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from platformdirs import user_cache_path
from tests.bench.written_log import WrittenLog, attested, draft, now_ms, promote, route
from tests.fakes.word_model import MODULES

from base_model import read_manifest
from loradeck.artifacts import scan
from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.log import EventKind
from loradeck.schemas.manifest import AdapterManifest, DecisionRecord, FileEntry, Form, Release
from loradeck.schemas.route import RouteConfig, Soak
from loradeck.schemas.table import Gap, RouteResidency
from loradeck.schemas.tenant import CallerKey
from loradeck_agent.host.state_folder import StateFolder

RANK, ALPHA, SPREAD = 8, 16, 0.2
"""Of the adapters: with numbers so large, nearly each one answers with words of its own."""

FRESH = 50
"""Tenants that have moved within a day, and so keep their prior; the others that have one moved two days ago."""

CANARY = ({"role": "user", "content": "Where is my order?"},)


def write_weights(folder: Path, base: Path, count: int) -> list[Path]:
    """So many adapters of rank 8 on all linear layers, in bf16; those that are there already are kept."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(AutoConfig.from_pretrained(base))
    layers = [(name, m) for name, m in model.named_modules() if name.rpartition(".")[2] in MODULES]
    pool = torch.randn(1 << 23, generator=torch.Generator().manual_seed(7))
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0}
    config |= {"target_modules": list(MODULES), "bias": "none", "base_model_name_or_path": str(base)}
    found = []
    for number in range(count):
        found.append(made := folder / f"t{number:04}")
        if (made / "adapter_config.json").exists():
            continue
        made.mkdir(parents=True, exist_ok=True)
        at, tensors = number * 7919, {}
        for name, module in layers:
            for part, shape, scale in (
                ("A", (RANK, module.in_features), module.in_features**-0.5),
                ("B", (module.out_features, RANK), SPREAD),
            ):
                size = shape[0] * shape[1]
                at = (at + size) % (len(pool) - (1 << 16))
                numbers = pool[at : at + size].view(shape) * scale
                tensors[f"base_model.model.{name}.lora_{part}.weight"] = numbers.to(torch.bfloat16)
        save_file(tensors, made / "adapter_model.safetensors")
        (made / "adapter_config.json").write_text(json.dumps(config))  # last: a folder that has it is whole
    return found


@dataclass(frozen=True)
class Material:
    """The tenants `t0000`, ..., the most asked first. `weights`: the folder of each one's adapter."""

    base: Path
    weights: Sequence[Path]

    @classmethod
    def make(cls, base: Path, tenants: int) -> Material:
        return cls(base, write_weights(Path(user_cache_path("loradeck")) / "density", base, tenants))

    @property
    def host(self) -> int:
        """Host slots of the engine: 128, and for fewer tenants in a look fewer as well."""
        return min(128, len(self.weights) // 4)

    @property
    def tenants(self) -> list[str]:
        return [folder.name for folder in self.weights]

    @cached_property
    def base_digest(self) -> str:
        found = read_manifest(self.base)
        assert found is not None
        return found.digest

    @cached_property
    def _files(self) -> list[tuple[FileEntry, ...]]:
        return [scan(folder) for folder in self.weights]

    @cached_property
    def fresh(self) -> list[int]:
        """Numbers of the tenants that moved a moment ago: spread from the most asked one to the least."""
        every = max(2, len(self.weights) // FRESH)
        return list(range(0, len(self.weights), every))

    @cached_property
    def with_prior(self) -> list[int]:
        """Numbers of the tenants with a release beneath: those that moved a moment ago, and others up to a half."""
        fresh = self.fresh
        others = [number for number in range(len(self.weights)) if number not in set(fresh)]
        return others[: len(self.weights) // 2 - len(fresh)] + fresh

    def manifest(self, number: int, version: int) -> AdapterManifest:
        """What a tenant's version is. Its first one has the numbers of the next tenant's second."""
        return AdapterManifest(
            tenant=self.tenants[number],
            name="words",
            base=self.base_digest,
            files=self._files[(number + 2 - version) % len(self._files)],
            rank=RANK,
            alpha=ALPHA,
            target_modules=MODULES,
            config_hash="c" * 64,
            decision=DecisionRecord(why_weights="density"),
        )

    def release(self, number: int, version: int) -> Release:
        digest = self.manifest(number, version).digest
        tenant = self.tenants[number]
        return Release(tenant=tenant, form=Form.ADAPTER, base=self.base_digest, adapter=digest, label=f"v{version}")

    # ---- a node's disk -------------------------------------------------------------------------------------

    def lay_disk(self, state: Path) -> None:
        """Puts the verified files of all versions where an agent keeps them, as links to the weights."""
        folder = StateFolder(state)
        folder.make()
        prior = set(self.with_prior)
        for number in range(len(self.weights)):
            for version in (1, 2) if number in prior else (2,):
                manifest = self.manifest(number, version)
                kept, weights = (
                    folder.release(manifest.digest),
                    self.weights[(number + 2 - version) % len(self.weights)],
                )
                kept.mkdir()
                for file in manifest.files:
                    os.link(weights / file.path, kept / file.path)
                kept.with_name(f"{kept.name}.json").write_text(manifest.model_dump_json())

    # ---- a hub's log ---------------------------------------------------------------------------------------

    def key(self, number: int) -> str:
        """The key of a tenant's callers."""
        return f"sk-density-{self.tenants[number]}"

    def write_log(self, data: Path) -> None:
        """Writes the log: tenants, keys, routes on demand; half of them with a version 1 below 2, 50 moved just now."""
        base = read_manifest(self.base)
        assert base is not None
        clock = [now_ms() - 2 * DAY_MS]
        log = WrittenLog(data, base, lambda: clock[0])
        first = {number: self.release(number, 1) for number in self.with_prior}
        second = [self.release(number, 2) for number in range(len(self.weights))]
        log.register([*first.values(), *second])
        log.commit([draft(EventKind.TENANT_CREATE, name) for name in self.tenants])
        keys = [CallerKey(id="k1", sha256=sha256(self.key(n).encode()).hexdigest()) for n in range(len(second))]
        added = [{"add": key.model_dump(mode="json")} for key in keys]
        log.commit([draft(EventKind.KEY, name, payload=key) for name, key in zip(self.tenants, added, strict=True)])
        config = RouteConfig(
            soak=Soak(seconds=0, requests=0),
            residency=RouteResidency.ON_DEMAND,
            gap=Gap.REFUSE,
            canaries=(CANARY,),
        )
        log.commit([route(name, config) for name in self.tenants])
        log.commit([promote(release) for release in first.values()])
        log.store.attest_all([attested(release, 1) for release in first.values()])
        late = set(self.fresh)
        moves = [promote(release, first.get(number)) for number, release in enumerate(second)]
        log.commit([moves[number] for number in reversed(range(len(moves))) if number not in late])
        clock[0] = now_ms()
        log.commit([moves[number] for number in reversed(self.fresh)])
        log.store.close()
