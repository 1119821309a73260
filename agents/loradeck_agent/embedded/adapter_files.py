"""Reading a peft LoRA adapter, and refusing every one that would not do what its files say.

Other engines accept adapters whose keys match nothing and then serve the bare base under the adapter's name.
Here the set of tensors must be exactly what the configuration promises for this very model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from loradeck.artifacts.adapters import CONFIG, UNSUPPORTED, WEIGHTS, target_of

PREFIX = "base_model.model."
"""What peft puts before a module's name in a saved adapter."""


class AdapterFault(Exception):
    """The adapter's files are at fault; nothing was loaded. The message names what and where."""


@dataclass(frozen=True)
class AdapterWeights:
    """A LoRA adapter in memory: module name -> (A `[rank, in]`, B `[out, rank]`, already times alpha / rank)."""

    rank: int
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def linear_shapes(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer that an adapter may target: all but the output head."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def expected_shapes(config: Mapping[str, Any], linears: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Shape of every tensor that an adapter with this configuration must hold, by its key in the file."""
    rank, shapes = config["r"], {}
    for name, (out_features, in_features) in linears.items():
        if target_of(name, config["target_modules"]) is not None:
            shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, in_features)
            shapes[f"{PREFIX}{name}.lora_B.weight"] = (out_features, rank)
    return shapes


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration, checked for what this engine can serve.

    Raises: AdapterFault: it is unreadable, or asks for something that plain LoRA is not.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise AdapterFault(f"{CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterFault(f"{CONFIG}: peft_type is {_get(config, 'peft_type')!r}, only LORA is served")
    wrong = sorted(name for name in UNSUPPORTED if config.get(name))
    if wrong or config.get("bias", "none") != "none":
        raise AdapterFault(f"{CONFIG} asks for {', '.join(wrong) or 'bias'}, which this engine does not serve")
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if type(rank) is not int or not 1 <= rank <= 512:
        raise AdapterFault(f"{CONFIG}: r is {rank!r}, not a rank of 1 to 512")
    if not isinstance(alpha, (int, float)) or not alpha > 0:
        raise AdapterFault(f"{CONFIG}: lora_alpha is {alpha!r}, not a positive number")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) and t for t in targets):
        raise AdapterFault(f"{CONFIG}: target_modules must be a list of module names")
    return config


def check_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, int]]) -> None:
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
    config = read_config(folder)
    expected = expected_shapes(config, linears)
    if not expected:
        raise AdapterFault(f"{CONFIG}: target_modules {config['target_modules']} match no module of this base")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").exists()
        raise AdapterFault(f"{WEIGHTS} is missing" + ("; pickled weights are never read" if pickled else ""))
    try:
        found = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise AdapterFault(f"{WEIGHTS} cannot be read: {error}") from error
    check_tensors(found, expected)
    scaling = config["lora_alpha"] / config["r"]
    modules = {}
    for key in expected:
        if key.endswith(".lora_A.weight"):
            name = key[len(PREFIX) : -len(".lora_A.weight")]
            b = found[f"{PREFIX}{name}.lora_B.weight"].float() * scaling
            modules[name] = (found[key].to(dtype), b.to(dtype))
    return AdapterWeights(rank=config["r"], modules=modules)


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
