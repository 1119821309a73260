"""GGUF files of whole weights, checked without a library: which weights one names, and that its tensors fill it.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), version 3, little-endian: a magic, the version,
how many tensors and keys there are; each key with its value; each tensor's name, shape, type and offset; and, padded to
32 bytes each, the tensors' bytes.
"""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.tensors import MAX_HEADER

WEIGHTS = "loradeck.weights"
"""The key under which `loradeck-agent gguf` writes the base digest of the weights that it read."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Number of a value's type -> its code in `struct`. A string has 8, an array 9."""

_TENSORS = {0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 8: ("q8_0", 32, 34), 30: ("bf16", 1, 2)}
"""Number of a tensor's type -> its name, values of a block, and its bytes."""

_FILES = {0: "f32", 1: "f16", 2: "q4_0", 7: "q8_0", 32: "bf16"}
"""Value of general.file_type -> the type of most matrices; other tensors are F16 or F32."""

_KEYS, _SIDES = 4096, 4
"""How many keys a header may have, of which a model's has some dozens, and a tensor sides, by the format's own rule."""


def read_gguf(path: Path) -> tuple[str, str]:
    """Checks a file that `loradeck-agent gguf` wrote of whole weights; returns their digest and its matrices' type.

    Raises: BadArtifact: `bad_gguf`: it is none, or bytes of it belong to nothing.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except (ValueError, KeyError, TypeError) as error:
        raise BadArtifact("bad_gguf", "no GGUF of whole weights", f"{path.name}: {error}", "write it anew") from None


def _read(file: BinaryIO, size: int) -> tuple[str, str]:
    def take(count: int) -> bytes:
        if file.tell() + count > min(size, MAX_HEADER):
            raise ValueError("it ends in its header, or this is too long")
        return file.read(count)

    def number(code: str) -> Any:
        return struct.unpack(f"<{code}", take(struct.calcsize(f"<{code}")))[0]

    def value(kind: int) -> Any:
        if kind == 8:
            return take(number("Q")).decode()
        if kind != 9:
            return number(_SCALARS[kind])
        kind, count = number("I"), number("Q")
        if kind != 8:
            take(count * struct.calcsize(_SCALARS[kind]))
            return None  # no list is asked for, and one of short strings takes far more memory than the file has
        for _ in range(count):
            take(number("Q"))
        return None

    if take(4) != b"GGUF" or number("I") != 3:
        raise ValueError("it is no GGUF of version 3")
    tensors, keys = number("Q"), number("Q")
    if keys > _KEYS:
        raise ValueError(f"it has {keys} keys, more than {_KEYS}")
    said = {value(8): value(number("I")) for _ in range(keys)}
    if len(said) < keys or said["general.type"] != "model":
        raise ValueError("it has a key twice, or is of an adapter")
    if (apart := said.get("general.alignment", 32)) != 32:
        raise ValueError(f"general.alignment is {apart}, and 32 is what is written")
    end, of, types = 0, _FILES[said["general.file_type"]], set[str]()
    for _ in range(tensors):
        name, sides = value(8), number("I")
        if sides > _SIDES:
            raise ValueError(f"the tensor {name} has {sides} sides, more than {_SIDES}")
        shape = [number("Q") for _ in range(sides)]
        kind, offset = number("I"), number("Q")
        type_, block, length = _TENSORS[kind]
        if offset != end:
            raise ValueError(f"the tensor {name} is not where it should be")
        end += _padded(math.prod(shape) // block * length)
        types.add(type_)
    if _padded(file.tell()) + end != size or not types <= {of, "f16", "f32"}:
        raise ValueError(f"it has {size} bytes, of which {end} are tensors, of {', '.join(sorted(types))}")
    return str(said[WEIGHTS]), of


def _padded(size: int) -> int:
    return -(-size // 32) * 32
