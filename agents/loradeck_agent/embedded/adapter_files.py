"""Reading a peft LoRA adapter, and refusing every one that would not do what its files say.

Other engines accept adapters whose keys match nothing and then serve the bare base under the adapter's name.
Here the set of tensors must be exactly what the configuration promises for this very model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import pad

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.adapters import WEIGHTS
from loradeck.artifacts.lora_config import CONFIG, LoraSettings, read_lora

PREFIX = "base_model.model."
"""What peft puts before a module's name in a saved adapter."""


class AdapterFault(Exception):
    """The adapter's files are at fault; nothing was loaded. The message names what and where."""


@dataclass(frozen=True)
class AdapterWeights:
    """A LoRA adapter in memory: module name -> (A `[rank, in]`, B `[out, rank]`, already times the module's factor)."""

    rank: int
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def linear_shapes(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer that an adapter may target: all but the output head."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def expected_shapes(lora: LoraSettings, linears: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that an adapter with this configuration must hold, by its key in the file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out_features, in_features) in linears.items():
        if lora.changes(name):
            rank, _ = lora.of(name)
            shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, in_features)
            shapes[f"{PREFIX}{name}.lora_B.weight"] = (out_features, rank)
            if lora.use_dora:
                shapes[f"{PREFIX}{name}.lora_magnitude_vector"] = (out_features,)
    return shapes


def read_config(folder: Path) -> LoraSettings:
    """The adapter's configuration. Raises: AdapterFault: it is unreadable, or asks for more than a LoRA."""
    try:
        return read_lora(folder / CONFIG)
    except (OSError, BadArtifact) as error:
        raise AdapterFault(str(error)) from error


def check_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Exactly the expected keys, shapes and finite floats.

    Raises: AdapterFault: a key is missing or too many, a shape differs, or a value is not finite.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        what = [
            f"{len(keys)} {word}, first {keys[0]}" for word, keys in (("missing", missing), ("extra", extra)) if keys
        ]
        raise AdapterFault(f"{WEIGHTS} does not fit this base: tensors {'; '.join(what)}")
    for key, tensor in found.items():
        if tuple(tensor.shape) != expected[key]:
            raise AdapterFault(
                f"{WEIGHTS}: {key} has shape {list(tensor.shape)}, this base needs {list(expected[key])}"
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise AdapterFault(f"{WEIGHTS}: {key} holds values that are not finite numbers")


def read_adapter(folder: Path, linears: Mapping[str, tuple[int, int]], dtype: torch.dtype) -> AdapterWeights:
    """Reads and checks an adapter for a model with these linear layers.

    Raises:
        FileNotFoundError: there is no such folder.
        AdapterFault: see `read_config` and `check_tensors`; also for a truncated file, for pickled weights, and
            when no module of the base is targeted.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    lora = read_config(folder)
    if lora.use_dora:
        raise AdapterFault(f"{CONFIG} asks for use_dora, which no engine serves: merge it into its base")
    expected = expected_shapes(lora, linears)
    if not expected:
        raise AdapterFault(f"{CONFIG}: target_modules match no module of this base")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").exists()
        raise AdapterFault(f"{WEIGHTS} is missing" + ("; pickled weights are never read" if pickled else ""))
    try:
        found = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise AdapterFault(f"{WEIGHTS} cannot be read: {error}") from error
    check_tensors(found, expected)
    modules = {}
    for name in linears:
        if (key := f"{PREFIX}{name}.lora_A.weight") in expected:
            rank, factor = lora.of(name)
            b = found[f"{PREFIX}{name}.lora_B.weight"].float() * factor
            more = lora.largest - rank  # a batch stacks adapters along one rank, whatever a module's own is
            modules[name] = (pad(found[key], (0, 0, 0, more)).to(dtype), pad(b, (0, more)).to(dtype))
    return AdapterWeights(rank=lora.largest, modules=modules)
