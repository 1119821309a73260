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
SMALL = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2}
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
FAKED: dict[str, dict[str, Any]] = {
    "Llama 3 8B": {"model_type": "llama", "num_hidden_layers": 32, "vocab_size": 128_256, **LLAMA_8B},
    "Llama 3 70B": {"model_type": "llama", "num_hidden_layers": 80, "vocab_size": 128_256, **LLAMA_70B},
    **{
        f"a small {kind}": {
            "model_type": kind,
            "head_dim": 64,
            "vocab_size": 8192,
            "tie_word_embeddings": True,
            **SMALL,
        }
        for kind in TYPES
    },
}


def asked(base: Path, parallel: str, loras: int, rank: int, *way: str) -> list[int]:
    """Bytes on each worker; with `"faked"`, on the first of each number of workers in the list `parallel`."""
    command = [vllm_server.PYTHON or "", str(SCRIPT), str(base), parallel, str(loras), str(rank), *way]
    env = os.environ | vllm_server.ENV
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("allocated: ")]
    found: list[int] = json.loads(line.partition(" ")[2])
    return found


def planned(config: Mapping[str, Any], loras: int, rank: int, parallel: int) -> int:
    shapes, whole = base_modules(config), embedding_modules(config)
    assert shapes is not None
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return vllm_bytes(shapes, 2, max_loras=loras, max_rank=rank, parallel=parallel, whole=whole, head=head)
