"""Folders as lists of files, and what makes a base."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from tests.fakes.handmade_adapters import write_base

from loradeck.artifacts import BadArtifact, base_digest, base_manifest, manifests, scan, verify_folder
from loradeck.artifacts.hash_checks import differences
from loradeck.schemas.manifest import FileEntry


def test_a_scan_lists_every_file_with_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "two").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"")
    assert scan(tmp_path) == (
        FileEntry(path="a", size=0, sha256=hashlib.sha256(b"").hexdigest()),
        FileEntry(path="b/c/two", size=3, sha256=hashlib.sha256(b"two").hexdigest()),
    )


def test_a_scan_refuses_a_link_and_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(BadArtifact, match="link is a link") as caught:
        scan(tmp_path)
    assert caught.value.code == "path_traversal"
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadArtifact, match="pipe is not a plain file"):
        scan(tmp_path)


def test_a_folder_that_is_not_there_is_an_error_and_no_empty_list(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", "a\\b", "", "."])
def test_a_manifest_cannot_name_a_file_outside_its_folder(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|at least 1"):
        FileEntry(path=path, size=0, sha256="a" * 64)


def test_every_difference_is_named_exactly(tmp_path: Path) -> None:
    for name in ("same", "longer", "changed", "extra"):
        (tmp_path / name).write_bytes(name.encode())
    sha = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("same", "longer", "changed")}
    files = [
        FileEntry(path="same", size=4, sha256=sha["same"]),
        FileEntry(path="longer", size=3, sha256=sha["longer"]),
        FileEntry(path="changed", size=7, sha256="d" * 64),
        FileEntry(path="gone", size=1, sha256="e" * 64),
    ]
    found = differences(files, tmp_path)
    assert found == [
        f"changed: digest (sha256 {sha['changed']}, not {'d' * 64})",
        "extra: extra",
        "gone: missing",
        "longer: size (6 bytes, not 3)",
    ]
    with pytest.raises(BadArtifact) as caught:
        verify_folder(files, tmp_path)
    assert caught.value.code == "manifest_mismatch"
    assert caught.value.detail == "; ".join(map(str, found))
    assert differences(files[:1], tmp_path, beside={"longer", "changed", "extra"}) == []


def test_a_base_is_what_decides_its_tokens_and_nothing_else(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    digest = base_manifest(base, "some/model", "r1").digest
    for name in ("README.md", "pytorch_model.bin", "flax_model.msgpack", ".gitattributes"):
        (base / name).write_text("x")
    (base / "original").mkdir()
    (base / "original" / "consolidated.pth").write_text("x")
    manifest = base_manifest(base, "other/name", "r2")
    assert [entry.path for entry in manifest.files] == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert manifest.digest == digest


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja",
        "tokenizer.json",
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "vocab.json",
        "special_tokens_map.json",
        "model.safetensors.index.json",
    ],
)
def test_a_change_of_any_deciding_file_is_another_base(name: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    digest = base_manifest(base, "some/model", "r1").digest
    with (base / name).open("ab") as file:
        file.write(b" ")
    assert base_manifest(base, "some/model", "r1").digest != digest


def test_a_model_cache_made_of_links_is_the_same_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (tmp_path / "snapshot").mkdir()
    for path in base.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert base_manifest(tmp_path / "snapshot", "m", "r").digest == base_manifest(base, "m", "r").digest


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_folder_without_weights_or_configuration_is_no_base(gone: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / gone).unlink()
    with pytest.raises(BadArtifact) as caught:
        base_manifest(base, "m", "r")
    assert (caught.value.code, str(base) in caught.value.detail) == ("bad_artifact", True)


def test_a_bases_digest_is_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, cache = write_base(tmp_path / "base"), tmp_path / "cache" / "digests.json"
    read: list[str] = []
    real = manifests.sha256_of
    monkeypatch.setattr(manifests, "sha256_of", lambda path: read.append(path.name) or real(path))
    monkeypatch.setattr(manifests, "RACY_NS", -1)  # the files of this test are young
    digest = base_digest(base, cache=cache)
    assert digest == base_manifest(base, "m", "r").digest
    assert cache.stat().st_mode & 0o777 == 0o600
    read.clear()
    assert (base_digest(base, cache=cache), read) == (digest, [])
    (base / "tokenizer.json").write_text("[]")
    assert base_digest(base, cache=cache) != digest
    assert read == ["tokenizer.json"]


def test_an_edit_that_puts_the_old_time_back_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, cache = write_base(tmp_path / "base"), tmp_path / "digests.json"
    monkeypatch.setattr(manifests, "RACY_NS", -1)
    digest = base_digest(base, cache=cache)
    times = (base / "tokenizer.json").stat()
    (base / "tokenizer.json").write_text("[]")
    os.utime(base / "tokenizer.json", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert base_digest(base, cache=cache) != digest


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    base, cache = write_base(tmp_path / "base"), tmp_path / "digests.json"
    base_digest(base, cache=cache)
    assert not cache.exists()


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_damaged_memory_of_digests_is_not_believed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, cache = write_base(tmp_path / "base"), tmp_path / "digests.json"
    monkeypatch.setattr(manifests, "RACY_NS", -1)
    cache.write_bytes(text.encode("latin-1"))
    assert base_digest(base, cache=cache) == base_manifest(base, "m", "r").digest
    assert base_digest(base, cache=cache) == base_manifest(base, "m", "r").digest
