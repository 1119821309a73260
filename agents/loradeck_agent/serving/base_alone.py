"""An adapter of zeros, through which the base alone is asked on a vLLM that computes on CPU.

There vLLM's kernels look a request without an adapter up at index -1 of the engine's slots, which is the last
one. Asked beside an adapter, the base would answer as whatever was loaded there, even after its unload. A request
under an adapter has an index of its own; adding zeros is exact.
"""

import json
from pathlib import Path

from loradeck.artifacts.adapters import WEIGHTS, base_modules, read_base_config
from loradeck.artifacts.lora_config import CONFIG
from loradeck.artifacts.staging import private_folder
from loradeck_agent.host.state_folder import write_durably

NAME = "loradeck-base-alone"
"""Name of the adapter in the engine. No tenant's release can have it: theirs end with a digest."""

SLOTS = 1
"""Slots of the engine that the adapter takes beside those of the tenants."""

_TARGET = "q_proj"


def write_zeros(folder: Path, base: Path) -> bool:
    """Writes the adapter for a base into a folder. False: the base is of a kind whose layers are not known here.

    Raises:
        BadArtifact: `wrong_base`, the base's config.json cannot be used.
        OSError: it cannot be written.
    """
    modules = base_modules(read_base_config(base))
    if modules is None:
        return False
    header: dict[str, object] = {}
    size = 0
    for module, (out, into) in modules.items():
        if module.endswith(f".{_TARGET}"):
            for side, shape in (("A", (1, into)), ("B", (out, 1))):
                end = size + 4 * shape[0] * shape[1]
                name = f"base_model.model.{module}.lora_{side}.weight"
                header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (size, end)}
                size = end
    raw = json.dumps(header).encode()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "target_modules": [_TARGET]}
    private_folder(folder)
    write_durably(folder / WEIGHTS, len(raw).to_bytes(8, "little") + raw + bytes(size))
    write_durably(folder / CONFIG, json.dumps(config | {"bias": "none", "lora_dropout": 0.0}).encode())
    return True
