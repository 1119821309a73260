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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.hash_checks import plain_files, verify_folder
from loradeck.artifacts.lora_config import CONFIG, MATCHES, MODULES, LoraSettings, endings, read_lora, unsupported
from loradeck.artifacts.tensors import Tensor, check_values, read_header
from loradeck.schemas.manifest import AdapterManifest

WEIGHTS, MANIFEST = "adapter_model.safetensors", "manifest.json"

ALLOWED = frozenset({WEIGHTS, CONFIG, "README.md"})

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".py", ".pyc"})
"""Endings of files that can run code when they are read."""

STRONGEST = 64
"""The largest factor of a pair. A hundred times more, and values that are each small overflow together."""

LONGEST_KEY = 300
"""Characters of a tensor's name: the time in which it is matched grows faster than they do."""

_KEY = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.(?P<part>lora_[AB](?=\.weight)|lora_magnitude_vector)(\.weight)?"
)
_LAYER = re.compile(r"(?P<before>.*\blayers)\.(?P<layer>\d{1,5})\.(?P<rest>.+)")
_FLOATS = frozenset({"F32", "F16", "BF16"})

_DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "granite", "olmo2"})
"""Model types whose linear layers have the names and shapes that `base_modules` computes."""

_EMBEDDINGS = {
    **dict.fromkeys(("llama", "qwen3", "granite"), ("model.embed_tokens", "lm_head")),
    **dict.fromkeys(("smollm3", "olmo2"), ("model.embed_tokens",)),  # run by vLLM's class for transformers' own models
}


@dataclass(frozen=True)
class Pair:
    """The tensors by which an adapter changes one module: `factor` times B `[out, rank]` times A `[rank, in]` is added.

    Under DoRA (`magnitude`, `[out]`) each row of the sum is then scaled to that length.
    """

    a: Tensor
    b: Tensor
    factor: float
    magnitude: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The module's (out, in)."""
        return self.b.shape[0], self.a.shape[1]


def verify_adapter(
    folder: Path, manifest: AdapterManifest, base: Path | None = None, *, beside: Collection[str] = ()
) -> None:
    """Checks an adapter's folder against its manifest, and its tensors against its configuration and base.

    Args:
        base: folder of the base it will be used with; None if no base is at hand.
        beside: paths that may lie in the folder without being part of the adapter.

    Raises: BadArtifact: `pickle_in_adapter`, `path_traversal`, `truncated_safetensors`, `bad_safetensors`,
    `manifest_mismatch`, `unsupported_adapter`, `wrong_base`, `bad_values`.
    """
    names = {path.relative_to(folder).as_posix() for path in plain_files(folder)} - set(beside)
    _refuse_pickles(names | {entry.path for entry in manifest.files})
    listed = {entry.path for entry in manifest.files}
    if not {WEIGHTS, CONFIG} <= listed <= ALLOWED:
        raise unsupported(
            f"the manifest lists {', '.join(sorted(listed))}", f"an adapter is {WEIGHTS} and {CONFIG}, nothing else"
        )
    # First, so that a file cut short is reported as such and not as a wrong digest.
    tensors = read_header(folder / WEIGHTS) if WEIGHTS in names else {}
    verify_folder(manifest.files, folder, beside=beside)
    lora = read_lora(folder / CONFIG)
    check_manifest(lora, modules_of(tensors), manifest)
    check_modules(lora_pairs(tensors, lora), lora, base_modules(read_base_config(base)) if base else None)
    check_values(folder / WEIGHTS, tensors)


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


def modules_of(tensors: Collection[str]) -> frozenset[str]:
    """The names of the modules that tensors with these keys change."""
    return frozenset(match["module"] for match in map(_KEY.fullmatch, tensors) if match)


def check_manifest(lora: LoraSettings, modules: Collection[str], manifest: AdapterManifest) -> None:
    """Checks that a manifest says the largest rank, the alpha, the target modules and the method of a configuration.

    The base that the configuration names is a path of the machine that trained it and is never used.

    Raises: BadArtifact: `manifest_mismatch`.
    """
    stated = {
        "rank": (lora.largest, manifest.rank),
        "alpha": (lora.lora_alpha, manifest.alpha),
        "target modules": (list(lora.named(modules)), sorted(set(manifest.target_modules))),
        "DoRA": (bool(lora.use_dora), manifest.dora),
    }
    wrong = [f"{what} {there!r}, the manifest says {here!r}" for what, (there, here) in stated.items() if there != here]
    if wrong:
        raise BadArtifact(
            "manifest_mismatch", "the configuration differs from the manifest", f"{CONFIG}: {'; '.join(wrong)}"
        )


def check_modules(
    pairs: Mapping[str, Pair], lora: LoraSettings, expected: Mapping[str, tuple[int, ...]] | None = None
) -> None:
    """Checks that there is exactly a pair for every module that the configuration targets, shaped for the base.

    `expected`: shape (out, in) of the base's linear layers, by module name; None, for a base that is not at hand or a
    model type that is not known: the layers are only compared with each other.

    Raises:
        BadArtifact: `unsupported_adapter`: modules that no base could have; `wrong_base`: they do not fit this base.
    """
    if strange := sorted(module for module in pairs if not lora.changes(module)):
        raise unsupported(f"tensors for {strange[0]}, which is not a target module ({len(strange)} such)")
    targets = frozenset() if isinstance(lora.target_modules, str) else lora.target_modules
    if unused := sorted(targets.difference(*map(endings, pairs))):
        raise unsupported(f"no tensors for the target module {unused[0]}")
    if not pairs:
        raise unsupported(f"{WEIGHTS} holds no tensors")
    if expected is None:
        _same_layers(pairs, lora)
        return
    wanted = {module: shape for module, shape in expected.items() if lora.changes(module)}
    if missing := sorted(wanted.keys() - pairs.keys()):
        raise _wrong_base(f"the base has {missing[0]}, the adapter has no tensors for it ({len(missing)} such)")
    if extra := sorted(pairs.keys() - wanted.keys()):
        raise _wrong_base(f"the adapter has tensors for {extra[0]}, which the base lacks ({len(extra)} such)")
    for module, pair in sorted(pairs.items()):
        if pair.shape != wanted[module]:
            raise _wrong_base(
                f"{module} maps {pair.shape[1]} to {pair.shape[0]} in the adapter, {wanted[module][1]} to "
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
    """Shape (out, in) of a base's embedding and head, as far as vLLM 0.32 lays out adapters for them, by module name.

    It does so by its class of the model (`embedding_modules` there), and for a head that shares its weights too.

    Raises: BadArtifact: `wrong_base`: its config.json lacks a dimension.
    """
    try:
        hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong_base(f"the base's config.json lacks a dimension: {error!r}") from error
    both = {"model.embed_tokens": (hidden, vocabulary), "lm_head": (vocabulary, hidden)}
    laid_out = _EMBEDDINGS.get(str(config.get("model_type")), ())
    return {name: shape for name, shape in both.items() if name in laid_out}


def lora_pairs(tensors: Mapping[str, Tensor], lora: LoraSettings) -> dict[str, Pair]:
    """The tensors of every module that an adapter changes, by the module's name, with the module's own rank and factor.

    Raises: BadArtifact: `unsupported_adapter`: a tensor of another name, type or shape, a part twice or without the
        others, more modules than `MODULES` or `MATCHES` allow, or a factor above `STRONGEST`.
    """
    if len(tensors) > 3 * MODULES:
        raise unsupported(f"{WEIGHTS} holds {len(tensors):,} tensors, more than {MODULES:,} modules can have")
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if len(key) > LONGEST_KEY:
            raise unsupported(f"a tensor's name has {len(key):,} characters, more than {LONGEST_KEY}: {key[:100]}...")
        match = _KEY.fullmatch(key)
        if match is None or (match["part"] == "lora_magnitude_vector" and not lora.use_dora):
            raise unsupported(f"{WEIGHTS} holds {key!r}, which is not a LoRA tensor")
        matrix = match["part"] != "lora_magnitude_vector"
        if tensor.dtype not in _FLOATS or len(tensor.shape) != 1 + matrix:
            what = "a matrix" if matrix else "a vector"
            raise unsupported(f"{key} is {tensor.dtype} {list(tensor.shape)}, not {what} of F32, F16 or BF16")
        parts = found.setdefault(match["module"], {})
        if match["part"] in parts:
            raise unsupported(f"{match['module']} has {match['part']} twice")
        parts[match["part"]] = tensor
    if (keys := len(lora.rank_pattern or ()) + len(lora.alpha_pattern or ())) * len(found) > MATCHES:
        raise unsupported(f"{keys:,} keys of patterns for {len(found):,} modules, which takes too long to match")
    pairs = {}
    for module, parts in found.items():
        if len(parts) != 2 + bool(lora.use_dora):
            raise unsupported(f"{module} has {', '.join(sorted(parts))} only")
        (rank, factor), magnitude = lora.of(module), parts.get("lora_magnitude_vector")
        a, b = parts["lora_A"].shape, parts["lora_B"].shape
        if a[0] != rank or b[1] != rank:
            raise unsupported(f"{module} has A {list(a)} and B {list(b)}, which is not rank {rank}")
        if magnitude is not None and magnitude.shape != b[:1]:
            raise unsupported(f"{module} has a magnitude for {magnitude.shape[0]} rows of its {b[0]}")
        if factor > STRONGEST:
            raise unsupported(f"{module}: alpha multiplies by {factor:g}, more than {STRONGEST}")
        pairs[module] = Pair(parts["lora_A"], parts["lora_B"], factor, magnitude)
    return pairs


def _same_layers(pairs: Mapping[str, Pair], lora: LoraSettings) -> None:
    """Checks, without the base, that every module occurs in every layer where it is targeted, with one shape."""
    layers: dict[tuple[str, str], dict[int, tuple[int, int]]] = {}
    for module, pair in pairs.items():
        match = _LAYER.fullmatch(module)
        if match is None:
            raise unsupported(f"{module} is in no layer")
        layers.setdefault((match["before"], match["rest"]), {})[int(match["layer"])] = pair.shape
    every = range(1 + max(max(found) for found in layers.values()))
    if len(every) * len(layers) > 4 * MODULES:
        raise unsupported(f"{len(layers):,} modules in each of {len(every):,} layers, more than any model has")
    for (before, rest), found in sorted(layers.items()):
        place = f"{before}.*.{rest}"
        lacking = next((n for n in every if n not in found and lora.changes(f"{before}.{n}.{rest}")), None)
        if lacking is not None:
            raise unsupported(f"{place} has no tensors in layer {lacking}")
        if len(set(found.values())) > 1:
            raise unsupported(f"{place} has not the same shape in every layer")


def _refuse_pickles(names: Collection[str]) -> None:
    if found := sorted(name for name in names if Path(name).suffix.lower() in PICKLES):
        raise BadArtifact(
            "pickle_in_adapter",
            "an adapter holds no file that can run code when it is read",
            ", ".join(found),
            f"save the weights as {WEIGHTS} (save_pretrained does) and leave the others out",
        )


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
