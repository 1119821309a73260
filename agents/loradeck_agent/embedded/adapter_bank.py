"""Several adapters resident in one model, and a forward pass whose rows each use their own.

peft's `adapter_names` does the same by one small matrix product per adapter and layer, and adding an adapter
to it rebuilds modules for 120-700 ms while nothing is answered. Here the matrices of all resident adapters are
stacked along their rank, so that a layer costs two more products however many adapters a batch mixes, and a load
is one concatenation. A row's columns of every *other* adapter are set to zero between the two products: what
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
    """The adapters resident in `model`. Not thread-safe: only the inference thread may change or use it.

    `shapes` gives the (out, in) of every layer that an adapter may target.
    """

    model: torch.nn.Module
    shapes: dict[str, tuple[int, int]] = field(init=False)
    _layers: dict[str, _StackedLora] = field(default_factory=dict, init=False)
    _selection: _Selection = field(default_factory=_Selection, init=False)
    _resident: dict[int, AdapterWeights] = field(default_factory=dict, init=False)
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
    def resident(self) -> frozenset[int]:
        """Handles of the adapters that are loaded."""
        return frozenset(self._resident)

    def add(self, handle: int, weights: AdapterWeights) -> None:
        """Makes an adapter usable under `handle`, a number never used before."""
        assert handle >= 0
        assert handle not in self._resident
        self._resident[handle] = weights
        self._stack()

    def remove(self, handle: int) -> None:
        """Frees an adapter that no row uses any more."""
        del self._resident[handle]
        self._stack()

    def select(self, handles: list[int]) -> None:
        """Chooses the adapter of each row of the next forward passes; `BASE` for none."""
        if all(handle == BASE for handle in handles):
            self._selection.others = None
            return
        unknown = set(handles) - self._resident.keys() - {BASE}
        if unknown:
            raise KeyError(f"adapters {sorted(unknown)} are not resident")
        rows = torch.tensor(handles)
        self._selection.others = (self._owner[None, :] != rows[:, None])[:, None, :]

    def _stack(self) -> None:
        self._selection.others = None
        self._owner = torch.tensor([h for h, w in self._resident.items() for _ in range(w.rank)], dtype=torch.long)
        for name, layer in self._layers.items():
            if not any(name in weights.modules for weights in self._resident.values()):
                layer.a = layer.b = None
                continue
            out_features, in_features = layer.linear.weight.shape
            dtype = layer.linear.weight.dtype
            a, b = [], []
            for weights in self._resident.values():
                # An adapter that leaves this layer alone still has its columns here, so that they line up everywhere.
                none = (torch.zeros(weights.rank, in_features, dtype=dtype), torch.zeros(out_features, weights.rank))
                pair = weights.modules.get(name, none)
                a.append(pair[0])
                b.append(pair[1].to(dtype))
            layer.a, layer.b = torch.cat(a, 0), torch.cat(b, 1)
