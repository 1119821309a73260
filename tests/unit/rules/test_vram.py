"""What adapters take on an engine: vLLM's layout against figures that were measured, ours against its own tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loradeck.artifacts.adapters import base_modules, embedding_modules, read_base_config
from loradeck.rules.serving import vram

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
}
MIB = 1 << 20


def shapes(config: dict[str, Any] = LLAMA_8B) -> vram.Shapes:
    found = base_modules(config)
    assert found is not None
    return found


def test_vllm_lays_out_the_layers_of_llama_8b_as_it_was_measured() -> None:
    assert vram.rank_bytes(shapes(), 2) == 5_242_880
    assert vram.vllm_bytes(shapes(), 2, max_loras=1, max_rank=16) == 80 * MIB
    assert vram.vllm_bytes(shapes(), 2, max_loras=1, max_rank=64) == 320 * MIB


@pytest.mark.parametrize(("parallel", "gigabytes"), [(1, 2.96), (2, 2.08), (4, 1.65), (8, 1.43)])
def test_tensor_parallelism_divides_half_of_each_pair_and_neither_embedding_nor_head(
    parallel: int, gigabytes: float
) -> None:
    """Against sums over the shapes that vLLM 0.32's own source allocates for Llama 3 8B, rank 64, 8 adapters."""
    whole = embedding_modules(LLAMA_8B | {"vocab_size": 128_256})
    reserved = vram.vllm_bytes(shapes(), 2, max_loras=8, max_rank=64, parallel=parallel, whole=whole)
    assert reserved / 1e9 == pytest.approx(gigabytes, abs=0.006)


def test_embedding_and_head_are_laid_out_by_the_kind_of_model_and_where_they_share_weights_too() -> None:
    config = {"hidden_size": 4, "vocab_size": 10, "tie_word_embeddings": True}
    embedding, head = {"model.embed_tokens": (4, 10)}, {"lm_head": (10, 4)}
    for kind in ("llama", "qwen3", "granite"):
        assert embedding_modules(config | {"model_type": kind}) == embedding | head
    for kind in ("smollm3", "olmo2"):
        assert embedding_modules(config | {"model_type": kind}) == embedding
    for kind in ("mistral", "qwen2", "gemma", "gemma2"):
        assert embedding_modules(config | {"model_type": kind}) == {}


def test_each_gpu_has_a_key_head_though_there_are_fewer_of_them() -> None:
    two_heads = {"k_proj": (128, 100), "v_proj": (128, 100), "q_proj": (256, 100)}
    for parallel, keys in ((1, 128), (2, 64), (4, 64)):
        planned = vram.vllm_bytes(two_heads, 2, max_loras=1, max_rank=1, parallel=parallel, head=64)
        assert planned == 2 * (3 * 100 + 2 * keys + 256 // parallel)


def test_only_targeted_modules_count() -> None:
    some = vram.targeted(shapes(), ("q_proj", "v_proj"))
    assert len(some) == 64
    assert vram.rank_bytes(some, 2) == 32 * 2 * (4096 + 4096 + 4096 + 1024)
    assert vram.targeted(shapes(), ()) == shapes()


def test_slots_are_what_is_left_beside_base_and_cache() -> None:
    token = vram.token_bytes(32, 8, 128, 2)
    assert token == 131_072
    room = vram.Room(total=24e9, weights=16.06e9, cache=16_384 * token)
    one = vram.vllm_bytes(shapes(), 2, max_loras=1, max_rank=16)
    count = vram.slots(room, one)
    assert count == int((24e9 * 0.9 - 16.06e9 - 16_384 * token) // (80 * MIB)) == 40
    assert vram.slots(vram.Room(total=16e9, weights=16.06e9, cache=0), one) == 0


@pytest.mark.parametrize("ranks", [(4,), (4, 8), (2, 16, 2)])
def test_the_embedded_engine_holds_what_the_formula_says(
    tiny_base: Path, make_adapter: Any, tmp_path: Path, ranks: tuple[int, ...]
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    from loradeck_agent.embedded.adapter_bank import AdapterBank, read_adapter

    bank = AdapterBank(LlamaForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16))
    for handle, rank in enumerate(ranks):
        folder = make_adapter(tiny_base, tmp_path / str(handle), seed=handle, rank=rank)
        bank.add(handle, read_adapter(folder, bank.shapes, torch.bfloat16))
    held = [t for layer in bank._layers.values() for t in (layer.a, layer.b) if t is not None]
    held += [t for weights in bank._resident.values() for pair in weights.modules.values() for t in pair]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    planned = base_modules(read_base_config(tiny_base))
    assert planned is not None
    assert sum(storages.values()) == vram.embedded_bytes(planned, 2, ranks)
