"""GGUF files of whole weights and of adapters, for llama.cpp and what is built on it.

Tensors are read, turned and written one by one, so that memory holds one of them. A matrix is stored in the type that
is asked for where its rows are whole blocks of it, else in F16; vectors are F32. Nothing is merged here. Names are from
gguf's own table; what it does not know is refused, and so is a tokenizer whose way to cut text llama.cpp has no name
for: its answers would be another model's.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import quant_shape_to_byte_shape, quantize
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.adapters import Pair
from loradeck.artifacts.gguf_file import WEIGHTS
from loradeck.artifacts.manifests import base_files, base_manifest
from loradeck_agent.executors.base import turn_end
from loradeck_agent.executors.merging.merge_weights import adapter_of_base, read_side
from loradeck_agent.host.state_folder import fsync_folder

TYPES = {name.lower(): gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0")}
"""The value of `--type` -> the GGUF type in which matrices are then stored."""

_FILES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}

_ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CUTS = {_CONTRACTIONS + r"\p{N}" + _REST: "qwen2", _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe"}
"""The expression by which a tokenizer cuts text before it looks for tokens -> llama.cpp's name for it."""


@dataclass(frozen=True)
class _Part:
    """A tensor of the file: its name and shape there, and how to make its values (fp32)."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], torch.Tensor]


def export_weights(folder: Path, out: Path, type_: str) -> int:
    """Writes the base or the merged weights in `folder` as a GGUF file, and returns the number of tensors.

    The file names the base digest of the folder, by which a bundle finds the release that it is of. `type_`: a name of
    `TYPES`.

    Raises:
        BadArtifact: `unsupported_base`: weights, tokenizer or configuration that cannot be written alike.
        OSError: the disk refused; a file that lay there stays.
    """
    config = AutoConfig.from_pretrained(folder)
    arch, weights = _architecture(config), base_manifest(folder, "-", "-").digest

    def described(writer: gguf.GGUFWriter) -> None:
        writer.add_string(WEIGHTS, weights)
        _describe(writer, config, type_)
        _describe_tokens(writer, AutoTokenizer.from_pretrained(folder), config.vocab_size)

    return _write(out, arch, described, [*_rope(config), *_weights(folder, config, arch)], type_)


def export_adapter(base: Path, adapter: Path, out: Path) -> int:
    """Writes a LoRA adapter as a GGUF file of F32, for llama.cpp's `--lora`, and returns the number of tensors.

    Raises:
        BadArtifact: as of `merge_weights`, and `unsupported_base`.
        OSError: the disk refused; a file that lay there stays.
    """
    config = AutoConfig.from_pretrained(base)
    arch, lora = _architecture(config), adapter_of_base(base, adapter)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    parts = []
    for weight, pair in sorted(lora.pairs.items()):
        if pair.magnitude is not None:
            raise _unsupported("llama.cpp knows no DoRA: merge the adapter, and export the merged weights")
        called, turned = _called(names, weight), _turned(weight, config, arch)
        more = pair.factor * pair.a.shape[0] / lora.alpha  # llama.cpp multiplies by the one alpha over the pair's rank

        def b(pair: Pair = pair, more: float = more, turned: Any = turned) -> torch.Tensor:
            return turned(read_side(lora.path, pair.b) * more)  # type: ignore[no-any-return]

        parts.append(_Part(f"{called}.lora_a", pair.a.shape, partial(read_side, lora.path, pair.a)))
        parts.append(_Part(f"{called}.lora_b", pair.b.shape, b))

    def described(writer: gguf.GGUFWriter) -> None:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.alpha)

    return _write(out, arch, described, parts, "f32")


def _write(
    out: Path, arch: gguf.MODEL_ARCH, describe: Callable[[gguf.GGUFWriter], None], parts: list[_Part], type_: str
) -> int:
    """Writes a file beside its place and then puts it there, durably."""
    part = out.with_name(f".{out.name}.part")
    writer = gguf.GGUFWriter(part, gguf.MODEL_ARCH_NAMES[arch])
    try:
        describe(writer)
        stored = [_stored(one.shape, TYPES[type_]) for one in parts]
        for one, kind in zip(parts, stored, strict=True):
            shape = quant_shape_to_byte_shape(one.shape, kind)
            writer.add_tensor_info(one.name, shape, np.dtype(np.uint8), int(np.prod(shape)), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one, kind in zip(parts, stored, strict=True):
            writer.write_tensor_data(quantize(one.values().float().contiguous().numpy(), kind))
        for file in writer.fout or ():
            file.flush()
            os.fsync(file.fileno())
        writer.close()
        part.replace(out)
        fsync_folder(out.parent)
    finally:
        part.unlink(missing_ok=True)
    return len(parts)


def _stored(shape: tuple[int, ...], wanted: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    if len(shape) < 2:
        return gguf.GGMLQuantizationType.F32
    return wanted if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else gguf.GGMLQuantizationType.F16


def _architecture(config: Any) -> gguf.MODEL_ARCH:
    names = config.architectures or ["none"]
    arch = _ARCHITECTURES.get(names[0])
    rope = getattr(config, "rope_parameters", None) or {}
    if arch is None:
        raise _unsupported(f"it is a {names[0]}; known are {', '.join(_ARCHITECTURES)}")
    layers = getattr(config, "layer_types", None)  # Mistral's has none: its window is every layer's
    if "sliding_attention" in layers if layers else getattr(config, "sliding_window", None):
        raise _unsupported("some of its layers look at a window only")
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        raise _unsupported(f"its positions are scaled by {rope['rope_type']}")
    return arch


def _weights(folder: Path, config: Any, arch: gguf.MODEL_ARCH) -> Iterator[_Part]:
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for path in base_files(folder):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings):
                    continue
                turned, shape = _turned(name, config, arch), tuple(file.get_slice(name).get_shape())

                def values(path: Path = path, name: str = name, turned: Any = turned) -> torch.Tensor:
                    with safe_open(path, "pt") as file:
                        return turned(file.get_tensor(name))  # type: ignore[no-any-return]

                yield _Part(_called(names, name), shape, values)


def _called(names: gguf.TensorNameMap, name: str) -> str:
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise _unsupported(f"gguf has no name for its tensor {name}")
    return str(found)


def _turned(name: str, config: Any, arch: gguf.MODEL_ARCH) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns what puts a tensor's rows in llama.cpp's order: it rotates neighbouring values, transformers halves."""
    side = name.split(".")[-2] if "." in name else ""
    if arch is not gguf.MODEL_ARCH.LLAMA or side not in ("q_proj", "k_proj"):
        return lambda values: values
    heads = config.num_attention_heads if side == "q_proj" else config.num_key_value_heads
    return lambda v: v.reshape(heads, 2, v.shape[0] // heads // 2, *v.shape[1:]).swapaxes(1, 2).reshape(v.shape)


def _rope(config: Any) -> list[_Part]:
    """Returns the divisors by which Llama 3.1 scales its frequencies, as a tensor; empty for a base without."""
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") == "default":
        return []
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = _head(config)
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2).float() / size)
    return [_Part("rope_freqs.weight", (size // 2,), lambda: plain / scaled)]


def _head(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _describe(writer: gguf.GGUFWriter, config: Any, type_: str) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(gguf.LlamaFileType[_FILES[type_]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head(config))
    writer.add_value_length(_head(config))
    writer.add_rope_dimension_count(_head(config))
    writer.add_rope_freq_base((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _describe_tokens(writer: gguf.GGUFWriter, tokenizer: Any, size: int) -> None:
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    model = written["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _unsupported(f"its tokenizer is no byte-level BPE but {model['type']}")
    tokens = [f"[PAD{i}]" for i in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    for token, number in model["vocab"].items():
        tokens[number], kinds[number] = token, gguf.TokenType.NORMAL
    for added in written["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], kind
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(written.get("pre_tokenizer") or {}))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_eot_token_id(turn_end(tokenizer))
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id])
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _cut(pre: Mapping[str, Any]) -> str:
    """Returns llama.cpp's name for the way in which a tokenizer cuts text. Raises: BadArtifact: `unsupported_base`."""
    steps = list(pre.get("pretokenizers", [pre]))
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex") in _CUTS:
        return _CUTS[steps[0]["pattern"]["Regex"]]
    raise _unsupported("llama.cpp has no name for how its tokenizer cuts text")


def main(words: Sequence[str]) -> int:
    """Writes a file as `loradeck-agent gguf` asks: FOLDER, OUT, TYPE, and an adapter's folder. Returns the status."""
    folder, out = Path(words[0]), Path(words[1])
    try:
        count = export_adapter(folder, Path(words[3]), out) if words[3:] else export_weights(folder, out, words[2])
    except BadArtifact as bad:
        sys.stderr.write(f"error: {bad.code}: {bad.title}\n  {bad.detail}\n  -> {bad.fix}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: os_error: {out} cannot be written: {error}\n")
        return 1
    sys.stdout.write(f"{out}: {count} tensors, {out.stat().st_size:,} bytes\n")
    return 0


def _unsupported(detail: str) -> BadArtifact:
    return BadArtifact("unsupported_base", "this base cannot be written as GGUF", detail, "serve it by vLLM")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
