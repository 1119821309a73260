"""Small real artifacts for the agent's tests: a base folder and adapters that fit it, without torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tests.fakes.lora_files import lora_files
from tests.integration.agent.fake_engine import base_digest, tokens_of

from loradeck.schemas.ids import digest_of
from loradeck.schemas.manifest import AdapterManifest, DecisionRecord, FileEntry, Form, Release
from loradeck.schemas.table import ReleaseRef, ResponseChecks, TableEntry

HIDDEN, INNER, LAYERS, VOCAB = 16, 32, 2, 64
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "tie_word_embeddings": True,
}
TARGETS = ("q_proj", "v_proj")
CANARIES = (
    ({"role": "user", "content": "canary one"},),
    ({"role": "user", "content": "canary two"},),
)


def make_base(folder: Path, seed: int = 0) -> str:
    """A two-layer Llama's files with random weights. Returns the base's digest."""
    folder.mkdir()
    rng = np.random.default_rng(seed)

    def weight(rows: int, columns: int) -> np.ndarray:
        return rng.normal(0, 0.1, (rows, columns)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": weight(VOCAB, HIDDEN), "model.norm.weight": np.ones(HIDDEN, np.float32)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{at}.self_attn.{name}.weight"] = weight(HIDDEN, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            tensors[f"{at}.mlp.{name}.weight"] = weight(INNER, HIDDEN)
        tensors[f"{at}.mlp.down_proj.weight"] = weight(HIDDEN, INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{name}.weight"] = np.ones(HIDDEN, np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return base_digest(folder)


@dataclass(frozen=True)
class Adapter:
    """An adapter's files, its manifest, and the release that serves it."""

    files: dict[str, bytes]
    manifest: AdapterManifest
    release: Release
    label: str

    @property
    def ref(self) -> ReleaseRef:
        return ReleaseRef(id=self.release.id, release=self.release, label=self.label)

    @property
    def weights(self) -> str:
        return hashlib.sha256(self.files["adapter_model.safetensors"]).hexdigest()

    def tokens(self, prompt: str, n: int = 8) -> list[int]:
        """What the fake engine answers with this adapter."""
        return tokens_of(self.weights, prompt, n)


def make_adapter(
    base: str,
    seed: int,
    *,
    tenant: str = "acme",
    rank: int = 4,
    files: dict[str, bytes] | None = None,
    manifest_base: str | None = None,
) -> Adapter:
    """An adapter that fits the base of `make_base`; `files` and `manifest_base` spoil it."""
    good = lora_files(seed, rank=rank, hidden=HIDDEN, layers=LAYERS, targets=TARGETS)
    held = files if files is not None else good
    manifest = AdapterManifest(
        tenant=tenant,
        name="support",
        base=manifest_base or base,
        files=tuple(
            FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in sorted(held.items())
        ),
        rank=rank,
        alpha=2 * rank,
        target_modules=TARGETS,
        config_hash=digest_of({"seed": seed}),
        decision=DecisionRecord(why_weights="the test needs weights"),
    )
    release = Release(tenant=tenant, form=Form.ADAPTER, base=manifest.base, adapter=manifest.digest, label=f"v{seed}")
    return Adapter(held, manifest, release, f"v{seed}")


def base_release(base: str, tenant: str = "acme") -> ReleaseRef:
    release = Release(tenant=tenant, form=Form.BASE, base=base, label="base")
    return ReleaseRef(id=release.id, release=release, label="base")


def entry(
    current: ReleaseRef | None,
    generation: int,
    *,
    epoch: int = 1,
    beneath: tuple[ReleaseRef, ...] = (),
    preparing: ReleaseRef | None = None,
    tenant: str = "acme",
    route: str = "production",
    keys: tuple[str, ...] = (),
    canaries: tuple[tuple[dict[str, str], ...], ...] = CANARIES,
) -> TableEntry:
    """An entry whose route has no answer checked: its router starts no child for that."""
    return TableEntry(
        tenant=tenant,
        route=route,
        epoch=epoch,
        generation=generation,
        current=current,
        beneath=beneath,
        preparing=preparing,
        canaries=canaries,
        keys=keys,
        checks=ResponseChecks(sample=0),
    )
