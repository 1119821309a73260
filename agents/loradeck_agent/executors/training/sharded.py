"""A base that one GPU does not hold, divided over the processes of a run by torch's `fully_shard` (FSDP2).

Each process keeps a part of every layer and gathers a layer while it computes with it. The adapter is no part of that:
it is whole in each process, as its gradients, optimiser and checkpoints are, so that a run may go on with another
number of processes. A head outside the decoder stays whole too, as does an embedding that shares its weights.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import safe_open
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM

from loradeck.schemas.training import Precision
from loradeck_agent.executors.protocol import BadSpec
from loradeck_agent.executors.training.process_group import World


def read_sharded(folder: Path, precision: Precision, world: World, device: torch.device | None) -> Any:
    """Loads the model of a folder whose files the caller has checked, a layer at a time, and divides it.

    No process ever holds more than its parts and one whole layer.

    Raises: BadSpec: `bad_spec`: the base's files name its weights otherwise than its model does.
    """
    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    model.tie_weights()
    model.eval().requires_grad_(False)
    device, files = device or torch.device("cpu"), _files_of(folder)

    def fill(names: Iterable[str]) -> None:
        for name in names:
            if name not in files:
                raise BadSpec("bad_spec", f"the base's files have no {name}: it cannot be read by layers (sharded)")
            with safe_open(files[name], "pt") as file:
                set_module_tensor_to_device(model, name, device, value=file.get_tensor(name), dtype=dtype)

    mesh, decoder = init_device_mesh(device.type, (world.size,)), model.get_decoder()
    for prefix, layer in [(n, m) for n, m in model.named_modules() if m in set(decoder.layers)]:
        fill(f"{prefix}.{name}" for name, _ in layer.named_parameters())
        fully_shard(layer, mesh=mesh)
    fill([name for name, parameter in model.named_parameters() if parameter.is_meta])
    model.tie_weights()
    for name, buffer in model.named_buffers():
        set_module_tensor_to_device(model, name, device, value=buffer)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    fully_shard(decoder, mesh=mesh, ignored_params={embedding} if head is embedding else None)
    return model.requires_grad_(False)


def _files_of(folder: Path) -> dict[str, Path]:
    """The file of each weight."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found
