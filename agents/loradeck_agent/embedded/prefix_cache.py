"""The cache of keys and values: with room for the next tokens, and with beginnings that prompts have in common.

transformers' `DynamicCache` copies everything it holds for each token: a fifth of a step of thirty rows. Here a step
writes only its own.

A tenant's prompts start alike (the chat template's system part, the instruction), and some come again and again
(canaries): the keys and values of the last prompts are kept per adapter, and the next prompt under that adapter
starts from the longest beginning it shares with one of them. They are found by the adapter's handle, which is never
used twice: nothing is ever shared between adapters, between an adapter and the one that later has its name, or
between the tenants that the base alone stands in for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from loradeck_agent.embedded.adapter_bank import BASE

ROOM = 32
"""Columns that are added at a time, beyond what is needed at once."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values `[rows, heads, columns, size]`, as the beginnings of larger tensors.

    Whoever puts other tensors in their place need not know about that: the next update takes room anew.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rooms: tuple[torch.Tensor, torch.Tensor] | None = None
        self._filled: tuple[Any, Any] = (None, None)
        """The keys and values that lie in `_rooms`."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds columns; returns all keys and all values, as views that the next update does not change."""
        before = self.get_seq_length()
        columns = before + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        ours = self._filled[0] is self.keys and self._filled[1] is self.values
        if self._rooms is None or not ours or self._rooms[0].shape[-2] < columns:
            self._rooms = _room(self.keys, key_states, columns), _room(self.values, value_states, columns)
        keys, values = self._rooms
        keys[:, :, before:columns] = key_states
        values[:, :, before:columns] = value_states
        self.keys, self.values = self._filled = keys[:, :, :columns], values[:, :, :columns]
        return self.keys, self.values


def _room(held: torch.Tensor, added: torch.Tensor, columns: int) -> torch.Tensor:
    """Room for `columns` and more of the shape of `added`, with what is held already at its beginning."""
    rows, heads, _, size = added.shape
    room = added.new_empty(rows, heads, columns + ROOM, size)
    if held.numel():
        room[:, :, : held.shape[-2]] = held
    return room


def growing_cache() -> Cache:
    """An empty cache whose layers have room for the next tokens."""
    return Cache(layer_class_to_replicate=GrowingLayer)


LEAST = 8
"""Tokens that must be shared to be worth it."""

KEPT_TOKENS = 1024
"""Tokens of prompts kept per adapter (46 kB each for SmolLM2-135M in fp32); the last prompt is kept whatever it has."""

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values `[heads, tokens, size]` of every layer."""


@dataclass(frozen=True)
class Shared:
    """The `count` leading tokens of a prompt that need not be computed again, and where they are."""

    count: int = 0
    layers: Layers | None = None


class Prefixes:
    """Keys and values of the last prompts under each adapter. Used from the inference thread only."""

    def __init__(self) -> None:
        self._held: dict[int, dict[tuple[int, ...], Layers]] = {}  # prompts in order of their last use

    def find(self, adapter: int, prompt: Sequence[int]) -> Shared:
        """The longest beginning that is kept; a prompt's last token is always computed."""
        best = Shared()
        for held, layers in self._held.get(adapter, {}).items():
            most = min(len(held), len(prompt) - 1)
            if most <= best.count or held[best.count] != prompt[best.count]:
                continue
            same = next((i for i in range(most) if held[i] != prompt[i]), most)
            if same > best.count:
                best = Shared(same, layers)
        return best if best.count >= LEAST else Shared()

    def start(self, rows: Sequence[Shared]) -> Cache:
        """A cache that holds each row's shared beginning, padded on the left to the longest."""
        cache = growing_cache()
        width = max(row.count for row in rows)
        some = next((row.layers for row in rows if row.layers), None)
        for number, pair in enumerate(some or ()):
            both = []
            for side, like in enumerate(pair):
                padded = like.new_zeros(len(rows), like.shape[0], width, like.shape[2])
                for i, row in enumerate(rows):
                    if row.layers:
                        padded[i, :, width - row.count :] = row.layers[number][side][:, : row.count]
                both.append(padded)
            cache.update(both[0], both[1], number)
        return cache

    def keep(self, adapter: int, prompt: Sequence[int], cache: Cache, row: int, mask: torch.Tensor) -> None:
        """Keeps a prompt that was just computed. `mask`: 1 where a column of the cache is the row's own."""
        if adapter == BASE:
            return
        held = self._held.setdefault(adapter, {})
        key = tuple(prompt)
        layers = held.pop(key, None)
        if layers is None:
            columns = mask.nonzero().squeeze(-1)
            layers = [(layer.keys[row][:, columns], layer.values[row][:, columns]) for layer in cache.layers]
        held[key] = layers
        kept = sum(map(len, held))
        while kept > KEPT_TOKENS and len(held) > 1:
            oldest = next(iter(held))
            kept -= len(oldest)
            del held[oldest]

    def drop(self, adapter: int) -> None:
        """Forgets what an adapter computed."""
        self._held.pop(adapter, None)
