"""The files of LoRA adapters with random weights, as peft would save them, made without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy
from safetensors.numpy import save


def lora_files(
    seed: int,
    *,
    rank: int = 2,
    hidden: int = 8,
    layers: int = 1,
    targets: Sequence[str] = ("q_proj",),
    dora: bool = False,
) -> dict[str, bytes]:
    """Name of a file -> its bytes, the weights first, for attention modules that are `hidden` wide on both sides."""
    random = numpy.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for target in targets:
            module = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            tensors[f"{module}.lora_A.weight"] = random.normal(0, 0.1, (rank, hidden)).astype("float32")
            tensors[f"{module}.lora_B.weight"] = random.normal(0, 0.1, (hidden, rank)).astype("float32")
            if dora:
                tensors[f"{module}.lora_magnitude_vector"] = numpy.ones(hidden, "float32")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": dora,
        "target_modules": list(targets),
        "inference_mode": True,
    }
    return {
        "adapter_model.safetensors": save(tensors, {"format": "pt"}),
        "adapter_config.json": json.dumps(config).encode(),
    }
