"""The beginning that an adapter's prompts have in common, computed once.

A tenant's prompts start alike (the chat template's system part, the instruction), so the keys and values of the last
prompt are kept per adapter, and the next prompt under that adapter starts from what both share. They are found by
the adapter's handle, which is never used twice: nothing is ever shared between adapters, between an adapter and the
one that later has its name, or between the tenants that the base alone stands in for.
"""

from __future__ import annotations

import torch
from transformers import DynamicCache

from loradeck_agent.engines.bank import BASE

LEAST = 8
"""Tokens that must be shared to be worth it."""

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values `[heads, tokens, size]` of every layer."""


class Prefixes:
    """Keys and values of the last prompt under each adapter. Used from the inference thread only."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[list[int], Layers]] = {}

    def shared(self, adapter: int, prompt: list[int]) -> int:
        """How many leading tokens of a prompt need not be computed again; at least its last one always is."""
        held = self._held.get(adapter)
        if held is None:
            return 0
        most = min(len(held[0]), len(prompt) - 1)
        same = next((i for i in range(most) if held[0][i] != prompt[i]), most)
        return same if same >= LEAST else 0

    def start(self, adapters: list[int], counts: list[int]) -> DynamicCache:
        """A cache that holds each row's shared beginning, padded on the left to the longest."""
        cache = DynamicCache()
        width = max(counts)
        if width:
            own = [self._held[adapter][1] if count else None for adapter, count in zip(adapters, counts, strict=True)]
            some = next(layers for layers in own if layers)
            for number, pair in enumerate(some):
                both = []
                for side, like in enumerate(pair):
                    rows = like.new_zeros(len(counts), like.shape[0], width, like.shape[2])
                    for row, (layers, count) in enumerate(zip(own, counts, strict=True)):
                        if layers:
                            rows[row, :, width - count :] = layers[number][side][:, :count]
                    both.append(rows)
                cache.update(both[0], both[1], number)
        return cache

    def keep(self, adapter: int, prompt: list[int], cache: DynamicCache, row: int, mask: torch.Tensor) -> None:
        """Keeps a prompt that was just computed. `mask`: 1 where a column of the cache is the row's own."""
        if adapter == BASE:
            return
        columns = mask.nonzero().squeeze(-1)
        layers = [(layer.keys[row][:, columns], layer.values[row][:, columns]) for layer in cache.layers]
        self._held[adapter] = (list(prompt), layers)

    def drop(self, adapter: int) -> None:
        """Forgets what an adapter computed."""
        self._held.pop(adapter, None)
