"""Signatures: of exactly these files, by exactly this key, with a key that nobody else may read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.signing import key_id, new_key, sign, sign_weights, verify, verify_weights_apart
from loradeck.schemas.attestation import Signature
from loradeck.schemas.manifest import BaseManifest, FileEntry

SUBJECT = "5" * 64


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_key(tmp_path / "k", tmp_path / "k.pub")
    return tmp_path / "k"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
    (made / "adapter_config.json").write_text("{}")
    return made


def signed(folder: Path, key: Path) -> Signature:
    return sign(folder, SUBJECT, key, key.with_name("k.pub"))


def one_byte(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)


def one_more(folder: Path) -> None:
    (folder / "more.json").write_text("{}")


def one_less(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def renamed(folder: Path) -> None:
    (folder / "adapter_config.json").rename(folder / "config.json")


@pytest.mark.parametrize("edit", [one_byte, one_more, one_less, renamed])
def test_an_edit_of_a_signed_folder_is_caught(folder: Path, key: Path, edit: Callable[[Path], None]) -> None:
    signature = signed(folder, key)
    verify(folder, signature)
    edit(folder)
    with pytest.raises(BadArtifact) as bad:
        verify(folder, signature)
    assert bad.value.code == "bad_signature"


def test_a_signature_under_another_key_does_not_hold(folder: Path, key: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "other", tmp_path / "other.pub")
    signature = signed(folder, key)
    forged = signature.model_copy(update={"public_key": (tmp_path / "other.pub").read_text().strip()})
    for wrong in (forged, signature.model_copy(update={"bundle": "{}"})):
        with pytest.raises(BadArtifact) as bad:
            verify(folder, wrong)
        assert bad.value.code == "bad_signature"


def test_halves_of_two_keys_sign_nothing(folder: Path, key: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "other", tmp_path / "other.pub")
    with pytest.raises(BadArtifact) as bad:
        sign(folder, SUBJECT, key, tmp_path / "other.pub")
    assert bad.value.code == "bad_signature"


def test_a_private_key_is_its_owners_and_is_never_overwritten(folder: Path, key: Path, tmp_path: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    with pytest.raises(BadArtifact) as bad:
        new_key(key, tmp_path / "new.pub")
    assert (bad.value.code, key.read_bytes(), (tmp_path / "new.pub").exists()) == ("key_exists", before, False)
    key.chmod(0o640)
    with pytest.raises(BadArtifact) as bad:
        signed(folder, key)
    assert bad.value.code == "key_exposed"
    key.chmod(0o600)
    key.write_text("no key")
    with pytest.raises(BadArtifact) as bad:
        signed(folder, key)
    assert bad.value.code == "bad_key"


def test_space_around_a_public_key_makes_no_other_key() -> None:
    assert key_id("-----BEGIN\nx\n") == key_id("\n-----BEGIN\nx")


async def test_merged_weights_are_signed_by_their_files_and_whatever_they_are_called(key: Path) -> None:
    files = (FileEntry(path="model.safetensors", size=9, sha256="a" * 64),)
    weights = BaseManifest(model_id="acme/support", revision="v1 merged", files=files)
    signature = sign_weights(weights, key, key.with_name("k.pub"))
    assert signature.subject == weights.digest
    await verify_weights_apart(weights.model_copy(update={"model_id": "-", "revision": "-"}), signature)
    other = files[0].model_copy(update={"sha256": "b" * 64})
    with pytest.raises(BadArtifact) as bad:
        await verify_weights_apart(weights.model_copy(update={"files": (other,)}), signature)
    assert bad.value.code == "bad_signature"
