"""Adapters and bases made by hand, byte by byte, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loradeck.artifacts.manifests import scan
from loradeck.schemas.manifest import AdapterManifest, DecisionRecord

RANK, ALPHA = 4, 8
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE_CONFIG = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}


def shapes(config: Mapping[str, Any] = BASE_CONFIG, rank: int = RANK) -> dict[str, tuple[int, int]]:
    """Every tensor of a LoRA over all linear layers, written out for a small Llama."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    out_in = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    result = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (out, into) in out_in.items():
            key = f"base_model.model.model.layers.{layer}.{module}"
            result[f"{key}.lora_A.weight"] = (rank, into)
            result[f"{key}.lora_B.weight"] = (out, rank)
    return result


def safetensors(tensors: Mapping[str, tuple[int, ...]], dtype: str = "F32", item: int = 4, *, fill: int = 0) -> bytes:
    """A file of such tensors; each of their bytes is `fill`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors.items():
        end = at + math.prod(shape) * item
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return framed(header, bytes([fill]) * at)


def framed(header: object, data: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def config(**changes: Any) -> dict[str, Any]:
    """An adapter_config.json as peft writes it, abridged."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "/somewhere/else",
        "revision": None,
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": sorted(TARGETS),
        "bias": "none",
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "layer_replication": None,
        "inference_mode": True,
    } | changes


def write_adapter(
    folder: Path, *, weights: bytes | None = None, settings: Mapping[str, Any] | None = None
) -> AdapterManifest:
    """A whole adapter in a folder, and the manifest that fits it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(shapes()) if weights is None else weights)
    (folder / "adapter_config.json").write_text(json.dumps(config() if settings is None else settings))
    return manifest_of(folder)


def manifest_of(folder: Path, **changes: Any) -> AdapterManifest:
    fields: dict[str, Any] = {
        "tenant": "acme",
        "name": "support",
        "base": "b" * 64,
        "files": scan(folder),
        "rank": RANK,
        "alpha": ALPHA,
        "target_modules": TARGETS,
        "config_hash": "c" * 64,
        "decision": DecisionRecord(why_weights="the format must be exact"),
    }
    return AdapterManifest(**(fields | changes))


def write_base(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(BASE_CONFIG | changes))
    (folder / "model.safetensors").write_bytes(safetensors({"model.embed_tokens.weight": (4, 8)}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder
