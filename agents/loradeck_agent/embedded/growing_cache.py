"""A cache of keys and values that has room for the next tokens, so that a step writes only its own.

transformers' `DynamicCache` copies everything it holds for each token: a fifth of a step of thirty rows.
"""

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

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
