"""Adapters: read from peft's files, and many of them in memory beside one model.

Other engines accept adapters whose keys match nothing and then serve the bare base under the adapter's name. Here the
set of tensors must be exactly what the configuration promises for this very model, or the adapter is refused.

A forward pass has rows that each use their own. peft's `adapter_names` does the same by one small matrix product per
adapter and layer, and adding an adapter to it rebuilds modules for 120-700 ms while nothing is answered. Here the
matrices of the adapters of a batch are stacked along their rank, so that a layer costs two more products however many
adapters a batch mixes. An adapter that is not stacked is stacked at its next request, in the place of the one that was
used least recently, by one concatenation. A row's columns of every *other* adapter are set to zero between the two
products: what another tenant's adapter computes, infinities included, never reaches it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional
from torch.nn.functional import pad

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.adapters import WEIGHTS
from loradeck.artifacts.lora_config import CONFIG, LoraSettings, read_lora

PREFIX = "base_model.model."
"""The prefix of modules' names in an adapter that peft has saved."""


class AdapterFault(Exception):
    """The adapter's files are at fault; nothing was loaded. The message names what and where."""


@dataclass(frozen=True)
class AdapterWeights:
    """A LoRA adapter in memory: module name -> (A `[rank, in]`, B `[out, rank]`, already times the module's factor)."""

    rank: int
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def linear_shapes(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer that an adapter may target: all but the output head."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def expected_shapes(lora: LoraSettings, linears: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that an adapter with this configuration must hold, by its key in the file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out_features, in_features) in linears.items():
        if lora.changes(name):
            rank, _ = lora.of(name)
            shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, in_features)
            shapes[f"{PREFIX}{name}.lora_B.weight"] = (out_features, rank)
            if lora.use_dora:
                shapes[f"{PREFIX}{name}.lora_magnitude_vector"] = (out_features,)
    return shapes


def read_config(folder: Path) -> LoraSettings:
    """The adapter's configuration. Raises: AdapterFault: it is unreadable, or asks for more than a LoRA."""
    try:
        return read_lora(folder / CONFIG)
    except (OSError, BadArtifact) as error:
        raise AdapterFault(str(error)) from error


def check_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Exactly the expected keys, shapes and finite floats.

    Raises: AdapterFault: a key is missing or too many, a shape differs, or a value is not finite.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        what = [
            f"{len(keys)} {word}, first {keys[0]}" for word, keys in (("missing", missing), ("extra", extra)) if keys
        ]
        raise AdapterFault(f"{WEIGHTS} does not fit this base: tensors {'; '.join(what)}")
    for key, tensor in found.items():
        if tuple(tensor.shape) != expected[key]:
            raise AdapterFault(
                f"{WEIGHTS}: {key} has shape {list(tensor.shape)}, this base needs {list(expected[key])}"
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise AdapterFault(f"{WEIGHTS}: {key} holds values that are not finite numbers")


def read_adapter(folder: Path, linears: Mapping[str, tuple[int, int]], dtype: torch.dtype) -> AdapterWeights:
    """Reads and checks an adapter for a model with these linear layers.

    Raises:
        FileNotFoundError: there is no such folder.
        AdapterFault: see `read_config` and `check_tensors`; also for a truncated file, for pickled weights, and
            when no module of the base is targeted.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    lora = read_config(folder)
    if lora.use_dora:
        raise AdapterFault(f"{CONFIG} asks for use_dora, which no engine serves: merge it into its base")
    expected = expected_shapes(lora, linears)
    if not expected:
        raise AdapterFault(f"{CONFIG}: target_modules match no module of this base")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").exists()
        raise AdapterFault(f"{WEIGHTS} is missing" + ("; pickled weights are never read" if pickled else ""))
    try:
        found = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise AdapterFault(f"{WEIGHTS} cannot be read: {error}") from error
    check_tensors(found, expected)
    modules = {}
    for name in linears:
        if (key := f"{PREFIX}{name}.lora_A.weight") in expected:
            rank, factor = lora.of(name)
            b = found[f"{PREFIX}{name}.lora_B.weight"].float() * factor
            more = lora.largest - rank  # a batch stacks adapters along one rank, whatever a module's own is
            modules[name] = (pad(found[key], (0, 0, 0, more)).to(dtype), pad(b, (0, more)).to(dtype))
    return AdapterWeights(rank=lora.largest, modules=modules)


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
