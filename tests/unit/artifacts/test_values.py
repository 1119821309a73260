"""An adapter's values: one that is not a number would spoil other tenants' answers, so no engine sees it."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
from tests.fakes.handmade_adapters import config, manifest_of, shapes, write_adapter, write_base

from loradeck.artifacts import BadArtifact, verify_adapter
from loradeck.artifacts.tensors import BOUND, read_header


def stored(value: float, dtype: str) -> bytes:
    """A value as safetensors stores it."""
    if dtype == "F16":
        return struct.pack("<e", value)
    return struct.pack("<f", value)[-2:] if dtype == "BF16" else struct.pack("<f", value)


def with_value(folder: Path, value: float, dtype: str, at: int) -> None:
    """A whole adapter all of whose values are 1.5 but one: the `at`-th of its third tensor."""
    header, data = {}, b""
    for number, (name, shape) in enumerate(shapes().items()):
        values = [stored(1.5, dtype)] * math.prod(shape)
        if number == 2:
            values[at] = stored(value, dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(b"".join(values))]}
        data += b"".join(values)
    raw = json.dumps(header).encode()
    write_adapter(folder, weights=len(raw).to_bytes(8, "little") + raw + data)


@pytest.mark.parametrize("at", [0, -1])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, BOUND, -BOUND, 60_000.0])
def test_a_value_that_is_not_finite_or_too_large_is_refused(value: float, dtype: str, at: int, tmp_path: Path) -> None:
    with_value(tmp_path / "a", value, dtype, at)
    base = write_base(tmp_path / "base")
    with pytest.raises(BadArtifact) as caught:
        verify_adapter(tmp_path / "a", manifest_of(tmp_path / "a"), base)
    assert caught.value.code == "bad_values"
    assert list(shapes())[2] in caught.value.detail


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        *((value, dtype) for value in (0.0, -0.0, 1e-7, -100.0) for dtype in ("F32", "F16", "BF16")),
        *((sign * value, "F32") for value in (127.99999, 5e-324, 1e-40) for sign in (1, -1)),
        (127.9375, "F16"),
        (-127.5, "BF16"),
    ],
)
def test_values_that_training_yields_pass(value: float, dtype: str, tmp_path: Path) -> None:
    assert abs(value) < BOUND
    with_value(tmp_path / "a", value, dtype, 3)
    verify_adapter(tmp_path / "a", manifest_of(tmp_path / "a"), write_base(tmp_path / "base"))


def test_a_value_beyond_the_first_piece_that_is_read_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradeck.artifacts.tensors._CHUNK", 8)
    with_value(tmp_path / "a", math.nan, "F32", 100)
    with pytest.raises(BadArtifact) as caught:
        verify_adapter(tmp_path / "a", manifest_of(tmp_path / "a"))
    assert caught.value.code == "bad_values"


def test_an_alpha_that_makes_small_values_overflow_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", settings=config(lora_alpha=10**9))
    with pytest.raises(BadArtifact) as caught:
        verify_adapter(tmp_path / "a", manifest_of(tmp_path / "a", alpha=10**9))
    assert caught.value.code == "unsupported_adapter"
    assert "alpha" in caught.value.detail


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_whose_length_begins_as_a_pickle_does_is_read(tmp_path: Path, length: int) -> None:
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    room = length - len(json.dumps({"a": tensor, "__metadata__": {"note": ""}}))
    header = json.dumps({"a": tensor, "__metadata__": {"note": "x" * room}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert list(read_header(path)) == ["a"]
