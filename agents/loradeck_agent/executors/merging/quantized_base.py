"""How a base's tensors are stored, and its files once those that bitsandbytes has quantized are BF16."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.adapters import read_base_config
from loradeck.artifacts.tensors import ITEM_BYTES, Tensor

DTYPES: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INDEX = "model.safetensors.index.json"

_STATES = (".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4")
_PARTS = (*_STATES, *(f".weight.{name}" for name in ("absmax", "quant_map", "nested_absmax", "nested_quant_map")))
"""Ends of the names of tensors that describe how a weight was quantized to four bits; a module's name is before."""

_DAMAGED = (ValueError, KeyError, TypeError, AttributeError)
"""Exceptions that come of a damaged description of how a weight was quantized."""


class StoredBase:
    """How a base's tensors are stored.

    Attributes:
        form: how weights are quantized; empty: none is.
        parts: name of a quantized weight -> the names of the tensors that say how it is.
        tensors: those that merged weights have too, as they are there.

    Raises: BadArtifact: `unsupported_base`: they are quantized in a way that is not known, or by config.json alone.
    """

    def __init__(self, base: Path, headers: Mapping[Path, Mapping[str, Tensor]]) -> None:
        self._files = {name: path for path, header in headers.items() for name in header}
        self.tensors = {name: tensor for header in headers.values() for name, tensor in header.items()}
        self.parts: dict[str, list[str]] = {}
        self.form = _form(read_base_config(base).get("quantization_config"))
        for state in [name for name in self.tensors if self.form and name.endswith(_STATES)]:
            module = state.rpartition(".weight.")[0]
            try:
                shape = tuple(int(side) for side in json.loads(bytes(self._read(state).tolist()))["shape"])
            except _DAMAGED as error:
                raise _unreadable(f"{module}.weight", error) from None
            self.tensors[f"{module}.weight"] = Tensor("BF16", shape, 0, 0)
            self.parts[f"{module}.weight"] = [part for each in _PARTS if (part := module + each) in self.tensors]
            for part in self.parts[f"{module}.weight"]:
                del self.tensors[part]
        if self.form and not self.parts:
            raise unsupported_base(f"config.json says {self.form}, and no weight is stored so: engines may differ")
        if odd := sorted(name for name, tensor in self.tensors.items() if self.form and tensor.dtype not in DTYPES):
            raise unsupported_base(f"nothing says what {odd[0]} is worth, stored as {self.tensors[odd[0]].dtype}")

    def values(self, name: str, data: bytearray) -> torch.Tensor:
        """Returns what a weight is worth by its stored bytes: by bitsandbytes' own function, as an engine sees it."""
        if name not in self.parts:
            return torch.frombuffer(data, dtype=DTYPES[self.tensors[name].dtype])
        library: Any = import_module("bitsandbytes.functional")
        said = {part.removeprefix(f"{name}."): self._read(part) for part in self.parts[name]}
        packed = torch.frombuffer(data, dtype=torch.uint8).reshape(-1, 1)
        try:
            state = library.QuantState.from_dict(said, torch.device("cpu"))
            return library.dequantize_4bit(packed, state)  # type: ignore[no-any-return]
        except (*_DAMAGED, RuntimeError, AssertionError) as error:
            raise _unreadable(name, error) from None

    def beginning(self, path: Path, ordered: Sequence[str]) -> bytes | None:
        """Returns what replaces the header of a weight file, or all of another file; None: nothing does.

        `ordered`: names of the tensors in the file, by their place.
        """
        if not self.form or not (ordered or path.name in ("config.json", INDEX)):
            return None
        if not ordered:
            document = json.loads(path.read_bytes())
            if path.name == INDEX:
                document["metadata"] = {"total_size": sum(map(_size, self.tensors.values()))}
                document["weight_map"] = {k: v for k, v in document["weight_map"].items() if k in self.tensors}
            else:
                del document["quantization_config"]
                document |= dict.fromkeys(document.keys() & {"dtype", "torch_dtype"} or {"dtype"}, "bfloat16")
            return json.dumps(document, indent=2).encode()
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in filter(self.tensors.__contains__, ordered):
            tensor, begin = self.tensors[name], end
            end += _size(tensor)
            header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _read(self, name: str) -> torch.Tensor:
        with safe_open(self._files[name], "pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]


def _form(settings: Mapping[str, Any] | None) -> str:
    if settings is None:
        return ""
    if settings.get("quant_method") != "bitsandbytes" or not settings.get("load_in_4bit"):
        known = "merged into are unquantized weights, and four bits of bitsandbytes (nf4, fp4)"
        raise unsupported_base(f"config.json says that {settings.get('quant_method')} has quantized it; {known}")
    if not transformers.utils.is_bitsandbytes_available():
        raise unsupported_base("it needs bitsandbytes on this node; run: pip install 'loradeck[nf4]'")
    return f"bitsandbytes {settings.get('bnb_4bit_quant_type')}"


def unsupported_base(detail: str) -> BadArtifact:
    """Returns the refusal of a base that nothing can be merged into."""
    return BadArtifact("unsupported_base", "nothing can be merged into this base", detail, "use unquantized weights")


def _unreadable(name: str, error: Exception) -> BadArtifact:
    return unsupported_base(f"how {name} is quantized cannot be read: {error!r}")


def _size(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
