"""The command line and the variables of a launched vLLM, and its adapter for the base alone.

`launcher` is the program that runs the command line.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from loradeck.artifacts.adapters import WEIGHTS, base_modules, read_base_config
from loradeck.artifacts.lora_config import CONFIG
from loradeck.artifacts.staging import private_folder
from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.host.state_folder import write_durably

BASE_ALONE = "loradeck-base-alone"
"""Name of an adapter of zeros, through which the base alone is asked on a vLLM that computes on CPU.

There vLLM's kernels look a request without an adapter up at index -1 of the engine's slots, which is the last one.
Asked beside an adapter, the base would answer as whatever was loaded there, even after its unload. A request under an
adapter has an index of its own; adding zeros is exact. No tenant's release can have it: theirs end with a digest."""

BASE_ALONE_SLOTS = 1
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


BASE_NAME = "base"

_UNLOADED = 64
"""Unloaded adapters for which the CPU cache has room at most, beside the ones in use."""


def cpu_slots(config: VllmEngine) -> int:
    """Adapters that a launched engine keeps in its memory, unloaded ones too: they stay until they are pushed out."""
    return config.slots + _spare(config) + min(config.slots + _spare(config), _UNLOADED)


def _spare(config: VllmEngine) -> int:
    return BASE_ALONE_SLOTS if config.device == "cpu" else 0


def vllm_argv(config: VllmEngine, folder: Path) -> tuple[str, ...]:
    """The command line that launches an engine in its folder."""
    return (
        sys.executable,
        "-m",
        "loradeck_agent.serving.vllm.launcher",
        "--state",
        str(folder),
        "--",
        str(config.python),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(config.base),
        "--served-model-name",
        BASE_NAME,
        "--uds",
        str(folder / "engine.sock"),
        "--enable-lora",
        "--max-loras",
        str(config.mixed + _spare(config)),
        "--max-lora-rank",
        str(config.max_rank),
        "--max-cpu-loras",
        str(cpu_slots(config)),
        "--dtype",
        config.dtype,
        "--tensor-parallel-size",
        str(config.tensor_parallel),
        *config.args,
    )


def vllm_environment(config: VllmEngine) -> Mapping[str, str]:
    """Variables that a launched engine gets beside the agent's own."""
    ours = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",  # from a socket that only this user reaches
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if config.gpus:
        ours["CUDA_VISIBLE_DEVICES"] = ",".join(config.gpus)
    return ours | config.env
