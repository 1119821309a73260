"""LoRA adapters of the kinds that peft makes and vLLM 0.32 serves, as peft saves them, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SERVED: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"use_rslora": True},
    "a rank and an alpha for each module": {
        "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"],
        "rank_pattern": {r"layers.0.self_attn.q_proj": 2, "down_proj": 8},
        "alpha_pattern": {r"^model.layers.[01].self_attn.(k|v)_proj": 3.5, "down_proj": 6},
    },
    "patterns, rank-stabilised": {"use_rslora": True, "rank_pattern": {"q_proj": 7}, "alpha_pattern": {"o_proj": 1}},
    "an expression for modules": {"target_modules": r".*\.layers\.(?:0|[1-9])\.(?:self_attn\.[qv]|mlp\.up)_proj"},
    "an expression that leaves a layer out": {"target_modules": r"model\.layers\.1\.mlp\..*?(up|down)_proj"},
    "all linear layers": {"target_modules": "all-linear"},
    "one layer": {"target_modules": ["q_proj", "gate_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "without some": {"target_modules": ["q_proj", "v_proj", "o_proj"], "exclude_modules": ["0.self_attn.v_proj"]},
    "a fractional alpha": {"lora_alpha": 10.5},
}
"""Kind -> settings of its peft configuration, beside rank 4, alpha 8 and q, k, v and o."""

DORA = {"use_dora": True, "rank_pattern": {"v_proj": 2}, "lora_alpha": 6.5}
"""Settings of an adapter that no engine serves, and that can be merged."""


def save(base: Path, folder: Path, **settings: Any) -> Any:
    """Saves an adapter for `base` into `folder`; returns peft's model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    fields = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]} | settings
    config = LoraConfig(**fields, task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= torch.linspace(0.8, 1.2, len(parameter))  # trained ones are not those of the base
    model.save_pretrained(folder)
    return model
