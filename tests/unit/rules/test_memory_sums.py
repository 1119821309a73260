"""The sums of memory planning are whole numbers, and nothing divides by nothing."""

from __future__ import annotations

from loradeck.rules.serving.vram import Room, slots, vllm_bytes

SHAPES = {"q_proj": (3, 4)}
ROOM = Room(total=1000.0, weights=100.0, cache=100.0, share=0.9)


def test_an_adapter_of_no_size_has_no_slots_to_count() -> None:
    assert slots(ROOM, 0) == 0
    assert (slots(ROOM, 700), slots(ROOM, 701), slots(ROOM, 350)) == (1, 0, 2)


def test_bytes_on_each_gpu_are_whole() -> None:
    reserved = vllm_bytes(SHAPES, 2, max_loras=1, max_rank=1, parallel=2)
    assert (reserved, type(reserved)) == (2 * (4 + 1), int)


def test_what_tensor_parallelism_cannot_divide_evenly_is_rounded_down_on_either_side() -> None:
    reserved = vllm_bytes({"o_proj": (3, 5), "q_proj": (3, 5)}, 2, max_loras=1, max_rank=1, parallel=2)
    assert (reserved, type(reserved)) == (2 * ((5 // 2 + 3) + (5 + 3 // 2)), int)
