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
