"""GGUF files: llama.cpp answers with them as transformers does, and what it would answer otherwise is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from tests.conftest import CHAT_TEMPLATE, TARGETS, MakeAdapter
from tests.fakes import peft_adapters
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from loradeck.artifacts import BadArtifact, base_manifest
from loradeck.artifacts.gguf_file import read_gguf
from loradeck_agent.cli import main
from loradeck_agent.executors.merging.gguf_export import _CUTS, export_adapter, export_weights
from loradeck_agent.executors.merging.gguf_export import main as export_main
from loradeck_agent.executors.merging.merge_weights import merge_weights

xllamacpp = pytest.importorskip("xllamacpp")

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = "It's 1234 past noon in Łódź;  the hour is 7:\n\n  'we' don't know 汉字 yet."
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WAYS = {
    "gpt-2": BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    **{
        name: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cut), "isolated"), PLAIN])
        for cut, name in _CUTS.items()
    },
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def write_base(folder: Path, kind: Callable[..., Any] = LlamaConfig, way: str = "gpt-2", **changes: Any) -> Path:
    """A random two-layer model whose tokenizer cuts text in a way that llama.cpp has a name for."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = WAYS[way]
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT * 3], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    torch.manual_seed(7)
    fields: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size() + 5,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "eos_token_id": 2,
    }
    model = AutoModelForCausalLM.from_config(kind(**fields | changes))
    for name, weight in model.named_parameters():
        if "bias" in name or "_norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def by_llama_cpp(path: Path, prompts: Sequence[str | Sequence[int]], adapter: Path | None = None) -> list[Any]:
    """The replies of llama.cpp, one token each, with the five likeliest."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_gpu_layers, params.n_parallel = str(path), 256, 0, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.verbosity = False, -1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if adapter is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        params.lora_adapters = [lora]
    server = xllamacpp.Server(params)
    return [
        server.handle_completions({"prompt": one, "n_predict": 1, "temperature": 0, "logprobs": 5}) for one in prompts
    ]


def same(model: Any, path: Path, adapter: Path | None = None) -> bool:
    """Whether llama.cpp finds the same five tokens likeliest after each of some texts, and as likely (0.03 nats)."""
    found = 0
    prompts = [[(step * n) % 290 + 3 for n in range(30)] for step in range(1, 31)]
    for prompt, reply in zip(prompts, by_llama_cpp(path, prompts, adapter), strict=True):
        said = (reply["choices"][0]["logprobs"] or {}).get("content")
        if not said:  # a part of a character, which it keeps to itself
            continue
        top = {one["id"]: one["logprob"] for one in said[0]["top_logprobs"]}
        with torch.no_grad():
            wanted = torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1], -1)
        if any(abs(float(wanted[token]) - log) > 0.03 for token, log in top.items()):
            return False
        found += 1
    assert found >= 5
    return True


def model_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["patterns, rank-stabilised", "a rank and an alpha for each module"])
def test_an_adapter_whose_modules_differ_in_rank_and_alpha_answers_as_peft_does(tmp_path: Path, kind: str) -> None:
    base = write_base(tmp_path / "base")
    adapted = peft_adapters.save(base, tmp_path / "adapter", **peft_adapters.SERVED[kind])
    export_weights(base, tmp_path / "base.gguf", "f32")
    export_adapter(base, tmp_path / "adapter", tmp_path / "adapter.gguf")
    assert same(adapted, tmp_path / "base.gguf", tmp_path / "adapter.gguf")


def test_dora_is_refused_with_the_way_round(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    peft_adapters.save(base, tmp_path / "adapter", **peft_adapters.DORA)
    with pytest.raises(BadArtifact) as bad:
        export_adapter(base, tmp_path / "adapter", tmp_path / "adapter.gguf")
    assert "export the merged weights" in bad.value.detail
    assert not (tmp_path / "adapter.gguf").exists()


@pytest.mark.parametrize(
    ("kind", "way", "changes"),
    [
        (LlamaConfig, "smollm", {}),
        (LlamaConfig, "llama-bpe", {"tie_word_embeddings": False, "rope_parameters": SCALED, "head_dim": 24}),
        (Qwen2Config, "qwen2", {}),
        (Qwen3Config, "gpt-2", {"head_dim": 32}),
    ],
)
def test_llama_cpp_reads_and_answers_as_transformers_does(
    tmp_path: Path, kind: Callable[..., Any], way: str, changes: dict[str, Any]
) -> None:
    base = write_base(tmp_path / "base", kind, way, **changes)
    out = tmp_path / "base.gguf"
    export_weights(base, out, "f32")
    ids = AutoTokenizer.from_pretrained(base)(TEXT)["input_ids"]
    (reply,) = by_llama_cpp(out, [TEXT])
    assert reply["usage"]["prompt_tokens"] == len(ids)
    assert same(model_of(base), out)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["base.gguf"]


def test_an_adapter_beside_its_base_and_merged_into_it_answer_as_peft_does(
    tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    base = write_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", targets=TARGETS, scale=0.15)
    adapted = PeftModel.from_pretrained(model_of(base), adapter)
    export_weights(base, tmp_path / "base.gguf", "f32")
    assert export_adapter(base, adapter, tmp_path / "adapter.gguf") == 2 * 2 * len(TARGETS)
    assert same(adapted, tmp_path / "base.gguf", tmp_path / "adapter.gguf")
    assert not same(adapted, tmp_path / "base.gguf")
    (tmp_path / "merged").mkdir()
    merge_weights(base, adapter, tmp_path / "merged")
    export_weights(tmp_path / "merged", tmp_path / "merged.gguf", "f32")
    assert same(adapted, tmp_path / "merged.gguf")


def test_quantised_weights_are_smaller_and_read_back_near_what_they_were(tmp_path: Path) -> None:
    import gguf

    base = write_base(tmp_path / "base")
    sizes, far = {}, {}
    for type_ in ("f32", "bf16", "q8_0", "q4_0"):
        out = tmp_path / f"{type_}.gguf"
        export_weights(base, out, type_)
        assert read_gguf(out) == (base_manifest(base, "-", "-").digest, type_), "and it names what it was written from"
        tensors = {one.name: one for one in gguf.GGUFReader(out).tensors}
        up = tensors["blk.0.ffn_up.weight"]
        weight = model_of(base).state_dict()["model.layers.0.mlp.up_proj.weight"].numpy()
        far[type_] = float(abs(gguf.quants.dequantize(up.data, up.tensor_type) - weight).max())
        sizes[type_] = out.stat().st_size
        assert tensors["output_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    assert sizes["f32"] > sizes["bf16"] > sizes["q8_0"] > sizes["q4_0"]
    assert 0 == far["f32"] < far["bf16"] < far["q8_0"] < far["q4_0"] < 0.2
    assert all(reply["choices"] for reply in by_llama_cpp(tmp_path / "q4_0.gguf", [TEXT]))


def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")

    def refused(file: str, change: Callable[[dict[str, Any]], object], said: str) -> None:
        path = base / file
        before = path.read_text()
        document = json.loads(before)
        change(document)
        path.write_text(json.dumps(document))
        with pytest.raises(BadArtifact, match=said) as error:
            export_weights(base, tmp_path / "out.gguf", "f16")
        assert error.value.code == "unsupported_base"
        path.write_text(before)

    refused("config.json", lambda c: c.update(architectures=["GemmaForCausalLM"]), "cannot be written as GGUF")
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 64}
    refused("config.json", lambda c: c.update(mistral), "cannot be written as GGUF")
    refused("tokenizer.json", lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "cannot be written as GGUF")
    assert not list(tmp_path.glob("*gguf*"))


def test_the_command_writes_a_file_and_says_what_it_holds(
    tmp_path: Path, make_adapter: MakeAdapter, capfd: pytest.CaptureFixture[str]
) -> None:
    base, out = write_base(tmp_path / "base"), tmp_path / "b.gguf"
    done = CliRunner().invoke(main, ["gguf", str(base), str(out), "--type", "q8_0"])
    assert (done.exit_code, out.exists()) == (0, True)
    assert "b.gguf: 20 tensors, " in capfd.readouterr().out
    assert out.stat().st_mode & 0o777 == 0o600
    again = CliRunner().invoke(main, ["gguf", str(base), str(out)])
    assert again.exit_code == 1
    assert "is there already" in again.output
    other = make_adapter(write_base(tmp_path / "other", num_hidden_layers=3), tmp_path / "adapter")
    assert export_main([str(base), str(tmp_path / "a.gguf"), "f32", str(other)]) == 1
    assert "error: wrong_base: " in capfd.readouterr().err
