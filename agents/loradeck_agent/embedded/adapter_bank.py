"""Many adapters in memory beside one model, and a forward pass whose rows each use their own.

peft's `adapter_names` does the same by one small matrix product per adapter and layer, and adding an adapter
to it rebuilds modules for 120-700 ms while nothing is answered. Here the matrices of the adapters of a batch are
stacked along their rank, so that a layer costs two more products however many adapters a batch mixes. An adapter
that is not stacked is stacked at its next request, in the place of the one that was used least recently, by one
concatenation. A row's columns of every *other* adapter are set to zero between the two products: what
another tenant's adapter computes, infinities included, never reaches it.
"""

from dataclasses import dataclass, field

import torch
from torch.nn import functional

from loradeck_agent.embedded.adapter_files import AdapterWeights, linear_shapes

BASE = -1
"""Handle of the base alone."""


@dataclass
class _Selection:
    """Shared by all layers: True where a rank column is not the row's own, `[batch, 1, columns]`; None: base alone."""

    others: torch.Tensor | None = None


class _StackedLora(torch.nn.Module):
    """A linear layer with the LoRA matrices of all resident adapters beside it."""

    def __init__(self, linear: torch.nn.Linear, selection: _Selection) -> None:
        super().__init__()
        self.linear = linear
        self.selection = selection
        self.a: torch.Tensor | None = None  # [columns, in]
        self.b: torch.Tensor | None = None  # [out, columns]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x)
        others = self.selection.others
        if others is None or self.a is None or self.b is None:
            return y
        narrow = functional.linear(x, self.a).masked_fill_(others, 0.0)
        return y.add_(functional.linear(narrow, self.b))


@dataclass
class AdapterBank:
    """The adapters in memory beside `model`. Not thread-safe: only the inference thread may change or use it.

    `mixed`: adapters that are stacked, and so may be rows' of one batch, at most. `shapes` gives the (out, in) of
    every layer that an adapter may target.
    """

    model: torch.nn.Module
    mixed: int = 64
    shapes: dict[str, tuple[int, int]] = field(init=False)
    _layers: dict[str, _StackedLora] = field(default_factory=dict, init=False)
    _selection: _Selection = field(default_factory=_Selection, init=False)
    _resident: dict[int, AdapterWeights] = field(default_factory=dict, init=False)
    _stacked: list[int] = field(default_factory=list, init=False)  # in the order of the columns
    _used: dict[int, None] = field(default_factory=dict, init=False)  # those that are stacked, the least recent first
    _owner: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._owner = torch.empty(0, dtype=torch.long)
        self.shapes = linear_shapes(self.model)
        for name in self.shapes:
            parent, _, leaf = name.rpartition(".")
            layer = _StackedLora(self.model.get_submodule(name), self._selection)  # type: ignore[arg-type]
            setattr(self.model.get_submodule(parent), leaf, layer)
            self._layers[name] = layer

    @property
    def stacked(self) -> frozenset[int]:
        """Handles of the adapters that the next batch may use as they are."""
        return frozenset(self._stacked)

    @property
    def resident(self) -> frozenset[int]:
        """Handles of the adapters that are loaded."""
        return frozenset(self._resident)

    def add(self, handle: int, weights: AdapterWeights) -> None:
        """Makes an adapter usable under `handle`, a number never used before."""
        assert handle >= 0
        assert handle not in self._resident
        self._resident[handle] = weights
        if len(self._stacked) < self.mixed:
            self._stack([*self._stacked, handle])

    def remove(self, handle: int) -> None:
        """Frees an adapter that no row uses any more."""
        del self._resident[handle]
        if handle in self._stacked:
            self._stack([other for other in self._stacked if other != handle])

    def select(self, handles: list[int]) -> None:
        """Chooses the adapter of each row of the next forward passes; `BASE` for none.

        Raises: KeyError: one is not in memory, or they are more than may be mixed.
        """
        wanted = dict.fromkeys(handle for handle in handles if handle != BASE)
        if not wanted:
            self._selection.others = None
            return
        if wanted.keys() - self._resident.keys() or len(wanted) > self.mixed:
            raise KeyError(f"adapters {sorted(wanted)} cannot be mixed: not in memory, or more than {self.mixed}")
        if missing := [handle for handle in wanted if handle not in self._stacked]:
            stay = [handle for handle in self._used if handle not in wanted]
            gone = set(stay[: max(0, len(self._stacked) + len(missing) - self.mixed)])
            self._stack([*(handle for handle in self._stacked if handle not in gone), *missing])
        for handle in wanted:
            self._used.pop(handle, None)
            self._used[handle] = None
        rows = torch.tensor(handles)
        self._selection.others = (self._owner[None, :] != rows[:, None])[:, None, :]

    def _stack(self, handles: list[int]) -> None:
        """Puts the matrices of these adapters, and of no others, beside the model's."""
        self._selection.others = None
        self._stacked = handles
        self._used = dict.fromkeys((*(h for h in self._used if h in handles), *handles))
        stacked = {handle: self._resident[handle] for handle in handles}
        self._owner = torch.tensor([h for h, w in stacked.items() for _ in range(w.rank)], dtype=torch.long)
        for name, layer in self._layers.items():
            if not any(name in weights.modules for weights in stacked.values()):
                layer.a = layer.b = None
                continue
            out_features, in_features = layer.linear.weight.shape
            dtype = layer.linear.weight.dtype
            a, b = [], []
            for weights in stacked.values():
                # An adapter that leaves this layer alone still has its columns here, so that they line up everywhere.
                none = (torch.zeros(weights.rank, in_features, dtype=dtype), torch.zeros(out_features, weights.rank))
                pair = weights.modules.get(name, none)
                a.append(pair[0])
                b.append(pair[1].to(dtype))
            layer.a, layer.b = torch.cat(a, 0), torch.cat(b, 1)
