"""What vLLM allocates for adapters, asked of vLLM, and what the planner says of the same base."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import vllm_server

from loradeck.artifacts.adapters import base_modules, embedding_modules
from loradeck.rules.serving.vram import vllm_bytes

SCRIPT = Path(__file__).with_name("lora_bytes.py")
LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
LLAMA_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8}
SMALL = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_hidden_layers": 2,
    "vocab_size": 8192,
    "tie_word_embeddings": True,
}
TYPES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "smollm3": "SmolLM3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "granite": "Granite",
    "olmo2": "Olmo2",
}
_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128_256}
_REST = {"max_position_embeddings": 1024, "pad_token_id": 1}
FAKED: dict[str, dict[str, Any]] = {
    "Llama 3 8B": {**_LLAMA, **_REST, "num_hidden_layers": 32, **LLAMA_8B},
    "Llama 3 70B": {**_LLAMA, **_REST, "num_hidden_layers": 80, **LLAMA_70B},
    **{
        f"a small {kind}": {"model_type": kind, "architectures": [f"{name}ForCausalLM"], **_REST, **SMALL}
        for kind, name in TYPES.items()
    },
}
"""Configurations of bases; those of the small ones share the weights of embedding and head."""


def asked(base: Path, parallel: int, loras: int, rank: int) -> list[int]:
    """Bytes on each worker of a vLLM."""
    return _said([str(base), str(parallel), str(loras), str(rank)])


def asked_without_workers(
    folder: Path, configs: Mapping[str, dict[str, Any]], parallels: tuple[int, ...], loras: int, rank: int
) -> list[list[int]]:
    """Bytes on the first of each number of workers, for each of these bases."""
    bases = []
    for number, config in enumerate(configs.values()):
        bases.append(folder / str(number))
        bases[-1].mkdir()
        (bases[-1] / "config.json").write_text(json.dumps(config))
    counts = ",".join(map(str, parallels))
    return _said([os.pathsep.join(map(str, bases)), counts, str(loras), str(rank), "faked"])


def _said(words: list[str]) -> list[Any]:
    env = os.environ | vllm_server.ENV
    command = [vllm_server.PYTHON or "", str(SCRIPT), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("allocated: ")]
    found: list[Any] = json.loads(line.partition(" ")[2])
    return found


def planned(config: Mapping[str, Any], loras: int, rank: int, parallel: int) -> int:
    shapes, whole = base_modules(config), embedding_modules(config)
    assert shapes is not None
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return vllm_bytes(shapes, 2, max_loras=loras, max_rank=rank, parallel=parallel, whole=whole, head=head)
