"""The cache that has room for the next tokens holds what transformers' own cache would, whatever is done to both."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from loradeck_agent.embedded.prefix_cache import ROOM, GrowingLayer

HEADS, SIZE = 2, 4

OPERATIONS = st.one_of(
    st.tuples(st.just("update"), st.sampled_from((1, 1, 1, 2, 7, ROOM + 3))),
    st.tuples(st.just("drop row"), st.integers(0, 3)),
    st.tuples(st.just("drop columns"), st.integers(1, 3)),
    st.tuples(st.just("crop"), st.integers(1, 3)),
    st.tuples(st.just("join"), st.integers(1, 2)),
)


def _change(layer: DynamicLayer, operation: str, number: int, noise: torch.Generator) -> None:
    """One thing that a batch does to a layer."""
    rows, columns = layer.keys.shape[0], layer.keys.shape[2]
    if operation == "update":
        layer.update(*(torch.randn(rows, HEADS, number, SIZE, generator=noise) for _ in range(2)))
    elif operation == "drop row" and rows > 1:
        index = torch.tensor([row for row in range(rows) if row != number % rows])
        layer.keys, layer.values = layer.keys[index], layer.values[index]
    elif operation == "drop columns" and columns > number:
        layer.keys, layer.values = layer.keys[:, :, number:], layer.values[:, :, number:]
    elif operation == "crop" and columns > number:
        layer.keys, layer.values = layer.keys[:, :, :-number], layer.values[:, :, :-number]
    elif operation == "join":
        more = [torch.randn(number, HEADS, columns, SIZE, generator=noise) for _ in range(2)]
        layer.keys, layer.values = torch.cat([layer.keys, more[0]]), torch.cat([layer.values, more[1]])


@given(operations=st.lists(OPERATIONS, max_size=30), rows=st.integers(1, 4), seed=st.integers(0, 9))
def test_it_holds_what_transformers_own_cache_holds_and_changes_nothing_that_it_gave_out(
    operations: list[tuple[str, int]], rows: int, seed: int
) -> None:
    layers = DynamicLayer(), GrowingLayer()
    noises = [torch.Generator().manual_seed(seed) for _ in layers]
    for layer, noise in zip(layers, noises, strict=True):
        layer.update(*(torch.randn(rows, HEADS, 3, SIZE, generator=noise) for _ in range(2)))
    given_out: list[tuple[torch.Tensor, torch.Tensor]] = []
    for operation, number in operations:
        given_out.append((layers[1].keys, layers[1].keys.clone()))
        for layer, noise in zip(layers, noises, strict=True):
            _change(layer, operation, number, noise)
        assert torch.equal(layers[0].keys, layers[1].keys)
        assert torch.equal(layers[0].values, layers[1].values)
        assert layers[0].get_seq_length() == layers[1].get_seq_length()
    assert all(torch.equal(now, then) for now, then in given_out)


def test_a_token_is_added_without_copying_what_is_held() -> None:
    layer = GrowingLayer()
    layer.update(torch.zeros(2, HEADS, 3, SIZE), torch.zeros(2, HEADS, 3, SIZE))
    places = set()
    for _ in range(ROOM):
        keys, _ = layer.update(torch.ones(2, HEADS, 1, SIZE), torch.ones(2, HEADS, 1, SIZE))
        places.add(keys.data_ptr())
    assert len(places) == 1
