"""A safetensors file read without torch: its header, checked, and whether its values can be served.

The format (https://github.com/huggingface/safetensors): eight bytes, the length of a JSON header; the header, tensor
name -> dtype, shape and the offsets of its bytes; then the bytes, which the tensors must cover without a gap or an
overlap.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradeck.artifacts.errors import BadArtifact

MAX_HEADER = 100_000_000
"""The format's own limit on the header, in bytes."""

ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


BOUND = 128.0
"""Magnitude that a value must stay below. A trained adapter is far below; larger finite values overflow in use."""

_TOP_BYTE = {"F32": 66, "BF16": 66, "F16": 87}
"""The largest top byte, its sign bit aside, of a value whose magnitude is below BOUND."""

_CHUNK = 1 << 20

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How torch's zip files and pickles of protocols 2 to 5 begin."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header describes it. `begin` and `end` are offsets of its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """Reads and checks the header of a safetensors file; returns its tensors by name.

    Raises: BadArtifact: `truncated_safetensors`: the file ends before its last tensor; `pickle_in_adapter`: it is a
    pickle under this name; `bad_safetensors`: it is malformed otherwise.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start, first = file.read(8), file.read(1)
        # The length of one header in 2,048 begins as a pickle does; but then a header follows.
        if first != b"{" and start.startswith(_PICKLES):
            raise BadArtifact(
                "pickle_in_adapter",
                "a pickle, which can run any code when it is read, under a safetensors name",
                path.name,
                "save the adapter with safetensors",
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or (length <= MAX_HEADER and 8 + length > size):
            raise _truncated(path, f"{size} bytes, the header alone ends at byte {8 + length}")
        if length > MAX_HEADER:
            raise _malformed(path, f"its header would be {length} bytes long")
        raw = first + file.read(length - 1)
    try:
        header = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _malformed(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    spans = []
    tensors = {}
    for name, entry in header.items():
        tensors[name] = tensor = _tensor(path, name, entry, 8 + length)
        spans.append((tensor.begin - 8 - length, tensor.end - 8 - length, name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise _malformed(path, f"tensor {name} begins at byte {begin} of the data, not at {at}")
        at = end
    if 8 + length + at > size:
        raise _truncated(path, f"{size} bytes of {8 + length + at}")
    if 8 + length + at < size:
        raise _malformed(path, f"{size - 8 - length - at} bytes belong to no tensor")
    return tensors


def check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Checks that every value is finite and of a magnitude that training yields (below BOUND). Takes a second a
    gigabyte.

    Engines load other values without complaint. What a request under such an adapter leaves in the engine's cache is
    not a number either, and later requests of any tenant are answered from it.

    Raises: BadArtifact: `bad_values`.
    """
    with path.open("rb") as file:
        for name, tensor in tensors.items():
            item, top = ITEM_BYTES[tensor.dtype], _TOP_BYTE[tensor.dtype]
            small = bytes(range(top + 1)) + bytes(range(128, 128 + top + 1))
            file.seek(tensor.begin)
            left = tensor.end - tensor.begin
            while left:
                data = file.read(min(_CHUNK, left))
                if not data:
                    raise _truncated(path, f"it ends in tensor {name}")
                left -= len(data)
                # Little-endian: the last byte of each value holds its sign and most of its exponent.
                if data[item - 1 :: item].translate(None, small):
                    raise BadArtifact(
                        "bad_values",
                        "the adapter holds values that cannot be served",
                        f"{path.name}: {name} has one that is not finite, or not below {BOUND:g}",
                        "train it again, at a lower learning rate",
                    )


def _tensor(path: Path, name: str, entry: Any, data: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        item = ITEM_BYTES[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(path, f"the entry of tensor {name} is unreadable: {error!r}") from error
    if not whole or end - begin != math.prod(shape) * item:
        raise _malformed(path, f"tensor {name}, {dtype} {shape}, cannot have the bytes {begin} to {end}")
    return Tensor(dtype, tuple(shape), data + begin, data + end)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a JSON object of its pairs: a hook for `json.loads`. Raises: ValueError: it has a name twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("it contains a name twice")
    return result


def _truncated(path: Path, detail: str) -> BadArtifact:
    return BadArtifact(
        "truncated_safetensors", "a safetensors file ends early", f"{path.name}: {detail}", "fetch or save it again"
    )


def _malformed(path: Path, detail: str) -> BadArtifact:
    return BadArtifact("bad_safetensors", "not a valid safetensors file", f"{path.name}: {detail}", "save it again")
