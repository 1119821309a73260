"""The command line and the variables of a launched vLLM. `launcher` is the program that runs it."""

import sys
from collections.abc import Mapping
from pathlib import Path

from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.serving import base_alone

BASE_NAME = "base"

_UNLOADED = 64
"""Unloaded adapters for which the CPU cache has room at most, beside the ones in use."""


def cpu_slots(config: VllmEngine) -> int:
    """Adapters that a launched engine keeps in its memory, unloaded ones too: they stay until they are pushed out."""
    return config.slots + _spare(config) + min(config.slots + _spare(config), _UNLOADED)


def _spare(config: VllmEngine) -> int:
    return base_alone.SLOTS if config.device == "cpu" else 0


def vllm_argv(config: VllmEngine, folder: Path) -> tuple[str, ...]:
    """The command line that launches an engine in its folder."""
    return (
        *(sys.executable, "-m", "loradeck_agent.serving.vllm.launcher", "--state", str(folder), "--"),
        *(str(config.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(config.base), "--served-model-name", BASE_NAME),
        *("--uds", str(folder / "engine.sock")),
        *("--enable-lora", "--max-loras", str(config.mixed + _spare(config)), "--max-lora-rank", str(config.max_rank)),
        *("--max-cpu-loras", str(cpu_slots(config))),
        *("--dtype", config.dtype, "--tensor-parallel-size", str(config.tensor_parallel)),
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
