"""A GGUF file says of which weights it is, and whatever is not wholly such a file is refused."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.handmade_adapters import write_adapter
from tests.fakes.handmade_gguf import NUMBERS, write_gguf

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.gguf_file import read_gguf

WEIGHTS = "a" * 64


def refused(path: Path) -> str:
    with pytest.raises(BadArtifact) as caught:
        read_gguf(path)
    assert caught.value.code == "bad_gguf"
    assert path.name in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize("type_", NUMBERS)
def test_a_file_of_the_library_is_read_with_its_weights_and_type(tmp_path: Path, type_: str) -> None:
    assert read_gguf(write_gguf(tmp_path / "a.gguf", WEIGHTS, type_)) == (WEIGHTS, type_)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data + b"\0", "bytes, of which"),
        (lambda data: data + b"\0" * 32, "bytes, of which"),
        (lambda data: data[:-32], "bytes, of which"),
        (lambda data: data[:200], "ends in its header"),
        (lambda data: b"", "ends in its header"),
        (lambda data: b"GGML" + data[4:], "no GGUF of version 3"),
        (lambda data: data[:4] + struct.pack("<I", 2) + data[8:], "no GGUF of version 3"),
        (lambda data: data[:16] + struct.pack("<Q", 1 << 60) + data[24:], "bad"),
        (lambda data: data[:8] + struct.pack("<Q", 3) + data[16:], "bad"),
        (lambda data: data.replace(b"loradeck.weights", b"loradeck.heights"), "loradeck.weights"),
        (lambda data: data.replace(b"general.file_type", b"general.architect"), "general.file_type"),
        (lambda data: pickle.dumps({"a": 1}), "no GGUF of version 3"),
    ],
)
def test_what_is_cut_added_to_or_of_another_kind_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    path = write_gguf(tmp_path / "bad.gguf", WEIGHTS)
    path.write_bytes(change(path.read_bytes()))
    assert said in refused(path)


def test_a_key_that_stands_twice_is_refused_since_readers_differ_in_which_one_counts(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "twice.gguf", WEIGHTS)
    whole = path.read_bytes()
    same = struct.pack("<Q", 12) + b"general.type"
    key = same + struct.pack("<I", 8) + struct.pack("<Q", 5) + b"model"
    assert key in whole
    path.write_bytes(whole[:16] + struct.pack("<Q", struct.unpack("<Q", whole[16:24])[0] + 1) + key + whole[24:])
    assert "twice" in refused(path)


def test_an_adapters_file_and_matrices_of_another_type_than_it_says_are_refused(tmp_path: Path) -> None:
    assert "adapter" in refused(write_gguf(tmp_path / "lora.gguf", WEIGHTS, "f32", kind="adapter"))
    assert "of f32, q8_0" in refused(write_gguf(tmp_path / "other.gguf", WEIGHTS, "q4_0", stored="q8_0"))
    assert read_gguf(write_gguf(tmp_path / "narrow.gguf", WEIGHTS, "q4_0", stored="f16")) == (WEIGHTS, "q4_0")


def test_safetensors_under_the_name_of_a_gguf_are_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "v1")
    path = (tmp_path / "v1" / "adapter_model.safetensors").rename(tmp_path / "v1.gguf")
    assert "no GGUF of version 3" in refused(path)


def said(name: str, value: bytes) -> bytes:
    """A key of a header; `value` begins with its type."""
    return struct.pack("<Q", len(name)) + name.encode() + value


def handmade(path: Path, *, keys: bytes = b"", count: int = 0, sides: tuple[int, ...] = (4,)) -> Path:
    """A file of one tensor of F32, with more keys than such a file has."""
    text = struct.pack("<IQ", 8, len(WEIGHTS)) + WEIGHTS.encode()
    known = said("general.type", struct.pack("<IQ", 8, 5) + b"model") + said("loradeck.weights", text)
    known += said("general.file_type", struct.pack("<II", 4, 0)) + keys
    tensor = said("x", struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, 0, 0))
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 3 + count) + known + tensor
    path.write_bytes(header + b"\0" * (-len(header) % 32) + b"\0" * 32)
    return path


def test_tensors_have_four_sides_at_most_since_a_product_of_a_million_takes_days(tmp_path: Path) -> None:
    assert read_gguf(handmade(tmp_path / "four.gguf", sides=(4, 1, 1, 1))) == (WEIGHTS, "f32")
    assert "5 sides" in refused(handmade(tmp_path / "five.gguf", sides=(4, 1, 1, 1, 1)))


def test_a_file_that_places_its_tensors_by_another_alignment_is_refused(tmp_path: Path) -> None:
    for alignment in (0, 64):
        key = said("general.alignment", struct.pack("<II", 4, alignment))
        assert "general.alignment" in refused(handmade(tmp_path / "far.gguf", keys=key, count=1))
    key = said("general.alignment", struct.pack("<II", 4, 32))
    assert read_gguf(handmade(tmp_path / "same.gguf", keys=key, count=1)) == (WEIGHTS, "f32")


def test_more_keys_than_any_model_has_are_refused_before_memory_holds_them(tmp_path: Path) -> None:
    keys = b"".join(said(f"k{number}", struct.pack("<IB", 0, 1)) for number in range(5000))
    assert "5003 keys" in refused(handmade(tmp_path / "many.gguf", keys=keys, count=5000))
