"""The processes of one run (one, or several started by torchrun) and the division of a step's rows between them.

Gradients are summed, not averaged: each process divides by the whole step's tokens, which all of them know because all
draw identical rows. So two processes compute the step that one would, but for the order of additions.

A base that one GPU does not hold is divided over them by torch's `fully_shard` (FSDP2). Each process keeps a part of
every layer and gathers a layer while it computes with it. The adapter is no part of that: it is whole in each process,
as its gradients, optimiser and checkpoints are, so that a run may go on with another number of processes. A head
outside the decoder stays whole too, as does an embedding that shares its weights.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import safe_open
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM

from loradeck.schemas.training import Precision
from loradeck_agent.executors.protocol import BadSpec

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run; `rank` is this one's number, `size` their count."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes results and checkpoints."""
        return self.rank == 0

    def share(self, rows: Sequence[T], pieces: int) -> list[tuple[int, Sequence[T]]]:
        """Returns this process's pieces of a step, with their numbers; the pieces are alike for any world."""
        return [(piece, rows[piece::pieces]) for piece in range(self.rank, pieces, self.size)]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums a tensor over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Tells whether the flag is set in any process; all get one answer."""
        if self.size == 1:
            return flag
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        return bool(self.sum(torch.tensor([float(flag)], device=device)).item() > 0)

    def same(self, value: int) -> bool:
        """Tells whether all processes have this value, which is from 0 up to 2 ** 62; all get one answer."""
        if self.size == 1:
            return True
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        ends = torch.tensor([value, -value], device=device)
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
        return bool(ends[0] == -ends[1])

    def wait(self) -> None:
        """Waits until all processes have arrived here."""
        if self.size > 1:
            distributed.barrier()


def own_device() -> torch.device | None:
    """The GPU of this process among those it may see; None on a host without one."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else None


@contextmanager
def joined(processes: int) -> Iterator[World]:
    """Joins the processes that torchrun started: gloo on a CPU, nccl on GPUs. Alone, it joins nothing.

    Raises: BadSpec: `bad_spec`: another number of processes was started than is told.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != processes:
        raise BadSpec(
            "bad_spec", f"the recipe is for {processes} processes, {size} were started (torchrun --nproc-per-node)"
        )
    if size == 1:
        yield World()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(own_device())  # what nccl, and "cuda" without a number, then mean in this process
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield World(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


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
