"""Verification of a LoRA adapter's folder against its manifest and against the base it was trained on.

Engines do not check: vLLM serves an adapter of another base with equal shapes, serves the bare base under the adapter's
name when no key matches, and lets values that are not finite spoil other tenants' answers. So all of it is checked
here, before an engine sees the folder.
"""

import json
import os
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.hash_checks import plain_files, verify_folder
from loradeck.artifacts.tensors import Tensor, check_values, read_header
from loradeck.schemas.manifest import AdapterManifest

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

ALLOWED = frozenset({WEIGHTS, CONFIG, "README.md"})

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".py", ".pyc"})
"""Endings of files that can run code when they are read."""

PLAIN_LORA: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
"""The values allowed for each setting. Other ways to initialise an adapter change the base's weights under it."""

UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "layers_to_transform",
    "layers_pattern",
    "layer_replication",
    "exclude_modules",
    "target_parameters",
    "trainable_token_indices",
    "lora_bias",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
)
"""Settings that must be absent or empty: engines and the merge handle plain LoRA only."""

STRONGEST = 64
"""The largest alpha per rank. A hundred times more, and values that are each small overflow together."""

_KEY = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")
_LAYER = re.compile(r"(?P<before>.*\blayers)\.(?P<layer>\d+)\.(?P<rest>.+)")
_FLOATS = frozenset({"F32", "F16", "BF16"})

_DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "granite", "olmo2"})
"""Model types whose linear layers have the names and shapes that `base_modules` computes."""


def verify_adapter(
    folder: Path, manifest: AdapterManifest, base: Path | None = None, *, beside: Collection[str] = ()
) -> None:
    """Checks an adapter's folder against its manifest, and its tensors against its configuration and base.

    Args:
        base: folder of the base it will be used with; None if no base is at hand.
        beside: paths that may lie in the folder without being part of the adapter.

    Raises:
        BadArtifact: `pickle_in_adapter`, `path_traversal`, `truncated_safetensors`, `bad_safetensors`,
            `manifest_mismatch`, `unsupported_adapter`, `wrong_base`, `bad_values`.
    """
    names = {path.relative_to(folder).as_posix() for path in plain_files(folder)} - set(beside)
    _refuse_pickles(names | {entry.path for entry in manifest.files})
    listed = {entry.path for entry in manifest.files}
    if not {WEIGHTS, CONFIG} <= listed <= ALLOWED:
        raise _unsupported(
            f"the manifest lists {', '.join(sorted(listed))}", f"an adapter is {WEIGHTS} and {CONFIG}, nothing else"
        )
    # First, so that a file cut short is reported as such and not as a wrong digest.
    tensors = read_header(folder / WEIGHTS) if WEIGHTS in names else {}
    verify_folder(manifest.files, folder, beside=beside)
    check_config(read_config(folder / CONFIG), manifest)
    check_tensors(tensors, manifest, read_base_config(base) if base else None)
    check_values(folder / WEIGHTS, tensors)


def read_config(path: Path) -> dict[str, Any]:
    """Reads an `adapter_config.json`. Raises: BadArtifact: `unsupported_adapter`: it is not a JSON object."""
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _unsupported(f"{path.name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise _unsupported(f"{path.name} is not a JSON object")
    return config


def read_base_config(folder: Path) -> dict[str, Any]:
    """Reads the `config.json` of a base's folder.

    Raises: BadArtifact: `wrong_base`: it cannot be read, or is not a JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong_base(f"the base's config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise _wrong_base("the base's config.json is not a JSON object")
    return config


def check_plain(config: Mapping[str, Any]) -> None:
    """Checks that a configuration is plain LoRA: no DoRA, no rank or alpha per module, no module saved whole, and so
    on.

    Raises: BadArtifact: `unsupported_adapter`.
    """
    for name, allowed in PLAIN_LORA.items():
        if not any(config.get(name) is value or config.get(name) == value for value in allowed):
            raise _unsupported(f"{CONFIG}: {name} is {config.get(name)!r}")
    if used := [name for name in UNSUPPORTED if config.get(name)]:
        raise _unsupported(f"{CONFIG} sets {', '.join(used)}", "train a plain LoRA")


def check_config(config: Mapping[str, Any], manifest: AdapterManifest) -> None:
    """Checks that a configuration is plain LoRA with the manifest's rank, alpha and target modules.

    The base it names is a path of the machine that trained it and is never used.

    Raises: BadArtifact: `unsupported_adapter`; `manifest_mismatch`.
    """
    check_plain(config)
    if manifest.alpha > STRONGEST * manifest.rank:
        raise _unsupported(f"alpha {manifest.alpha} is more than {STRONGEST} times its rank {manifest.rank}")
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise _unsupported(f"{CONFIG}: target_modules must be a list of names, not {targets!r}")
    stated = {
        "rank": (config.get("r"), manifest.rank),
        "alpha": (config.get("lora_alpha"), manifest.alpha),
        "target modules": (sorted(set(targets)), sorted(set(manifest.target_modules))),
    }
    wrong = [f"{what} {there!r}, the manifest says {here!r}" for what, (there, here) in stated.items() if there != here]
    if wrong:
        raise BadArtifact(
            "manifest_mismatch", "the configuration differs from the manifest", f"{CONFIG}: {'; '.join(wrong)}"
        )


def check_tensors(
    tensors: Mapping[str, Tensor], manifest: AdapterManifest, base_config: Mapping[str, Any] | None = None
) -> None:
    """Checks that the file holds exactly an A and a B for every target module of every layer, shaped for rank and base.

    Without `base_config`, or for a model type that is not known, the layers are only compared with each other.

    Raises:
        BadArtifact: `unsupported_adapter`: keys or shapes that no base could take; `wrong_base`: they do not fit this
            base.
    """
    pairs = lora_pairs(tensors, manifest.rank)
    targets = {module: target_of(module, manifest.target_modules) for module in pairs}
    if strange := sorted(module for module, target in targets.items() if target is None):
        raise _unsupported(f"tensors for {strange[0]}, which is not a target module ({len(strange)} such)")
    if unused := sorted(set(manifest.target_modules) - set(targets.values())):
        raise _unsupported(f"no tensors for the target module {unused[0]}")
    expected = base_modules(base_config) if base_config is not None else None
    if expected is None:
        _same_layers(pairs)
        return
    wanted = {module: shape for module, shape in expected.items() if target_of(module, manifest.target_modules)}
    if missing := sorted(wanted.keys() - pairs.keys()):
        raise _wrong_base(f"the base has {missing[0]}, the adapter has no tensors for it ({len(missing)} such)")
    if extra := sorted(pairs.keys() - wanted.keys()):
        raise _wrong_base(f"the adapter has tensors for {extra[0]}, which the base lacks ({len(extra)} such)")
    for module, shape in sorted(pairs.items()):
        if shape != wanted[module]:
            raise _wrong_base(
                f"{module} maps {shape[1]} to {shape[0]} in the adapter, {wanted[module][1]} to "
                f"{wanted[module][0]} in the base"
            )


def base_modules(config: Mapping[str, Any]) -> dict[str, tuple[int, int]] | None:
    """Shape (out, in) of every linear layer of a base, by module name; None for a model type that is not known.

    Raises: BadArtifact: `wrong_base`: its config.json lacks a dimension.
    """
    if config.get("model_type") not in _DECODERS:
        return None
    try:
        hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
        heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        head = int(config.get("head_dim") or hidden // heads)
        keys = int(config.get("num_key_value_heads") or heads) * head
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _wrong_base(f"the base's config.json lacks a dimension: {error!r}") from error
    shapes = {
        "self_attn.q_proj": (heads * head, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, heads * head),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {f"model.layers.{layer}.{name}": shape for layer in range(layers) for name, shape in shapes.items()}


def embedding_modules(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Shape (out, in) of a base's embedding and, unless they share their weights, of its head, by module name.

    Raises: BadArtifact: `wrong_base`: its config.json lacks a dimension.
    """
    try:
        hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong_base(f"the base's config.json lacks a dimension: {error!r}") from error
    tied = bool(config.get("tie_word_embeddings", False))
    return {"model.embed_tokens": (hidden, vocabulary)} | ({} if tied else {"lm_head": (vocabulary, hidden)})


def lora_pairs(tensors: Mapping[str, Tensor], rank: int) -> dict[str, tuple[int, int]]:
    """Shape (out, in) of every module that has both an A and a B.

    Raises: BadArtifact: `unsupported_adapter`: a tensor of another name, type or shape, or one side without the other.
    """
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise _unsupported(f"{WEIGHTS} holds {key!r}, which is not a LoRA tensor")
        if tensor.dtype not in _FLOATS or len(tensor.shape) != 2:
            raise _unsupported(f"{key} is {tensor.dtype} {list(tensor.shape)}, not a matrix of F32, F16 or BF16")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    pairs = {}
    for module, pair in sides.items():
        if len(pair) != 2:
            raise _unsupported(f"{module} has lora_{next(iter(pair))} only")
        a, b = pair["A"].shape, pair["B"].shape
        if a[0] != rank or b[1] != rank:
            raise _unsupported(f"{module} has A {list(a)} and B {list(b)}, which is not rank {rank}")
        pairs[module] = (b[0], a[1])
    return pairs


def target_of(module: str, targets: Collection[str]) -> str | None:
    """The target module that a module matches by peft's rule (equal, or ending in `.target`); None if there is none."""
    return next((target for target in targets if module == target or module.endswith(f".{target}")), None)


def _same_layers(pairs: Mapping[str, tuple[int, int]]) -> None:
    """Checks, without the base, that every module occurs in every layer, with one shape."""
    layers: dict[str, set[int]] = {}
    shapes: dict[str, set[tuple[int, int]]] = {}
    for module, shape in pairs.items():
        match = _LAYER.fullmatch(module)
        if match is None:
            raise _unsupported(f"{module} is in no layer")
        place = f"{match['before']}.*.{match['rest']}"
        layers.setdefault(place, set()).add(int(match["layer"]))
        shapes.setdefault(place, set()).add(shape)
    every = set(range(1 + max((max(found) for found in layers.values()), default=-1)))
    for place, found in sorted(layers.items()):
        if found != every:
            raise _unsupported(f"{place} has no tensors in layer {min(every - found)}")
        if len(shapes[place]) > 1:
            raise _unsupported(f"{place} has not the same shape in every layer")


def _refuse_pickles(names: Collection[str]) -> None:
    if found := sorted(name for name in names if Path(name).suffix.lower() in PICKLES):
        raise BadArtifact(
            "pickle_in_adapter",
            "an adapter holds no file that can run code when it is read",
            ", ".join(found),
            f"save the weights as {WEIGHTS} (save_pretrained does) and leave the others out",
        )


def _unsupported(detail: str, fix: str = "") -> BadArtifact:
    return BadArtifact("unsupported_adapter", "not an adapter that can be served", detail, fix)


def _wrong_base(detail: str) -> BadArtifact:
    return BadArtifact(
        "wrong_base", "the adapter does not fit this base", detail, "serve it on the base it was trained on"
    )


def verify_blobs(paths: Mapping[str, Path], beside: Path, manifest: AdapterManifest) -> None:
    """Verifies an adapter whose files are blobs as a folder, without copying them.

    `paths` of its files, by digest, are on the file system of `beside`. Raises: BadArtifact.
    """
    with tempfile.TemporaryDirectory(prefix="checking.", dir=beside) as name:
        folder = Path(name)
        for entry in manifest.files:
            path = folder / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(paths[entry.sha256], path)
        verify_adapter(folder, manifest)
