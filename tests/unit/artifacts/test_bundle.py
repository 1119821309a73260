"""A bundle is read as it was written, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tests.fakes.handmade_adapters import manifest_of, write_adapter
from tests.fakes.handmade_gguf import write_gguf

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.bundle import FORMAT, MANIFEST, SUMS, read_bundle, write_bundle
from loradeck.artifacts.manifests import scan
from loradeck.schemas.bundle import BundledGguf, BundleManifest
from loradeck.schemas.ids import canonical_json
from loradeck.schemas.manifest import BaseManifest, FileEntry, Form, Release

BASE = BaseManifest(
    model_id="tiny", revision="1", files=(FileEntry(path="model.safetensors", size=1, sha256="b" * 64),)
)
Members = list[tuple[tarfile.TarInfo, bytes]]


def contents(folder: Path) -> dict[str, Path]:
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in folder.iterdir()}


@pytest.fixture
def manifest(tmp_path: Path) -> BundleManifest:
    write_adapter(tmp_path / "v1")
    adapter = manifest_of(tmp_path / "v1", base=BASE.digest)
    child = manifest_of(tmp_path / "v1", base=BASE.digest, parent=adapter.digest, config_hash="d" * 64)
    return BundleManifest(base=BASE, adapters=(adapter, child))


@pytest.fixture
def file(manifest: BundleManifest, tmp_path: Path) -> Path:
    target = tmp_path / "v1.bundle"
    assert write_bundle(target, manifest, contents(tmp_path / "v1").__getitem__) == target.stat().st_size
    return target


def refused(file: Path, tmp_path: Path) -> BadArtifact:
    folder = tmp_path / "read"
    folder.mkdir()
    with pytest.raises(BadArtifact) as caught:
        read_bundle(file, folder)
    assert not [path for path in tmp_path.iterdir() if path.name not in {"read", "v1", file.name}], "nothing elsewhere"
    return caught.value


def members(file: Path) -> Members:
    with tarfile.open(file) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def rewrite(file: Path, made: Iterable[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in made:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def test_a_bundle_is_read_as_it_was_written_and_the_same_parts_give_the_same_bytes(
    file: Path, manifest: BundleManifest, tmp_path: Path
) -> None:
    folder = tmp_path / "read"
    folder.mkdir()
    assert read_bundle(file, folder) == manifest
    assert {path.name for path in folder.iterdir()} == {entry.sha256 for entry in manifest.files}
    again = tmp_path / "again"
    write_bundle(again, manifest, contents(tmp_path / "v1").__getitem__)
    assert again.read_bytes() == file.read_bytes()
    assert len(manifest.files) == 2, "what both adapters hold is carried once"
    assert file.stat().st_mode & 0o777 == 0o600


def test_sha256sum_itself_can_check_what_it_holds(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xf", file, "-C", out], check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=out, check=True)


def test_a_bundle_that_is_there_is_not_written_over(file: Path, manifest: BundleManifest, tmp_path: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(BadArtifact, match="the file exists already") as caught:
        write_bundle(file, manifest, contents(tmp_path / "v1").__getitem__)
    assert caught.value.code == "exists"
    assert file.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 300, 700, 4000, -3000, -10240])
def test_a_bundle_that_ends_early_is_told_as_that(file: Path, tmp_path: Path, kept: int) -> None:
    whole = file.read_bytes()
    body = len(whole.rstrip(b"\0"))
    file.write_bytes(whole[: kept if kept >= 0 else body + kept])
    assert refused(file, tmp_path).code == "truncated_bundle"


def test_a_byte_that_was_altered_anywhere_is_noticed(file: Path, manifest: BundleManifest, tmp_path: Path) -> None:
    whole = bytearray(file.read_bytes())
    weights = max(manifest.files, key=lambda entry: entry.size)
    name = f"blobs/{weights.sha256}".encode()
    whole[whole.index(name) + 512 + 4000] ^= 1
    file.write_bytes(whole)
    error = refused(file, tmp_path)
    assert error.code == "digest_mismatch"
    assert weights.path in error.detail


def test_a_manifest_that_was_altered_is_noticed(file: Path, tmp_path: Path) -> None:
    made = members(file)
    content = made[0][1].replace(b'"revision":"1"', b'"revision":"2"')
    assert content != made[0][1]
    rewrite(file, [(made[0][0], content), *made[1:]])
    error = refused(file, tmp_path)
    assert (error.code, error.detail.split(":")[0]) == ("digest_mismatch", SUMS)


def swap(made: Members, at: int, member: tarfile.TarInfo, data: bytes = b"x") -> Members:
    return [*made[:at], (member, data), *made[at + 1 :]]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda made: swap(made, 1, named("../../escaped")), "path_traversal"),
        (lambda made: swap(made, 1, named("/tmp/escaped")), "path_traversal"),
        (lambda made: swap(made, 1, named(made[1][0].name, tarfile.SYMTYPE, "/etc/passwd"), b""), "path_traversal"),
        (lambda made: swap(made, 1, named(made[1][0].name, tarfile.LNKTYPE, MANIFEST), b""), "path_traversal"),
        (lambda made: [made[0], made[2], made[1], made[3]], "bad_bundle"),
        (lambda made: [*made, (named("more"), b"x")], "bad_bundle"),
        (lambda made: made[1:], "bad_bundle"),
        (lambda made: swap(made, 0, named(MANIFEST), b"{}"), "bad_bundle"),
    ],
)
def test_members_that_lead_elsewhere_or_do_not_belong_are_refused(
    file: Path, tmp_path: Path, change: Callable[[Members], Members], code: str
) -> None:
    rewrite(file, change(members(file)))
    assert refused(file, tmp_path).code == code
    assert not Path("/tmp/escaped").exists()


def test_a_file_of_an_adapter_that_would_leave_its_folder_is_refused(file: Path, tmp_path: Path) -> None:
    made = members(file)
    content = made[0][1].replace(b'"path":"adapter_config.json"', b'"path":"../adapter_config.js"')
    rewrite(file, [(made[0][0], content), *made[1:]])
    assert refused(file, tmp_path).code == "path_traversal"


def test_an_adapter_of_another_base_is_refused(file: Path, manifest: BundleManifest, tmp_path: Path) -> None:
    made = members(file)
    other = BASE.model_copy(update={"files": (FileEntry(path="model.safetensors", size=1, sha256="c" * 64),)})
    content = canonical_json(manifest.model_copy(update={"base": other}))
    rewrite(file, [(made[0][0], content), *made[1:]])
    assert refused(file, tmp_path).code == "wrong_base"


def test_what_is_no_tar_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    file = tmp_path / "x.bundle"
    file.write_bytes(b"\x80\x02" + b"pickle" * 1000)
    assert refused(file, tmp_path).code == "bad_bundle"


MERGED = "e" * 64


def with_gguf(manifest: BundleManifest, folder: Path, **changes: str) -> BundleManifest:
    """The bundle with a GGUF file in `folder` of what its adapter was merged to; `changes` are to the release."""
    write_gguf(folder / "acme-v1m-q8_0.gguf", MERGED)
    (entry,) = [entry for entry in scan(folder) if entry.path.endswith(".gguf")]
    adapter = manifest.adapter
    parts = {"tenant": adapter.tenant, "base": adapter.base, "adapter": adapter.digest, "merged": MERGED} | changes
    release = Release.model_validate(parts | {"form": Form.MERGED})
    one = BundledGguf(file=entry, type="q8_0", release=release, job="j1")
    return BundleManifest.model_validate(dict(manifest) | {"gguf": (one,)})


def test_merged_weights_travel_as_gguf_and_a_bundle_without_has_the_bytes_it_always_had(
    manifest: BundleManifest, tmp_path: Path
) -> None:
    assert b"gguf" not in canonical_json(manifest)
    whole = with_gguf(manifest, tmp_path / "v1")
    target, folder = tmp_path / "v1.bundle", tmp_path / "read"
    write_bundle(target, whole, contents(tmp_path / "v1").__getitem__)
    folder.mkdir()
    assert read_bundle(target, folder) == whole
    (carried,) = whole.gguf
    assert (folder / carried.file.sha256).read_bytes() == (tmp_path / "v1" / carried.file.path).read_bytes()
    assert whole.files[-1] == carried.file
    data = bytearray(target.read_bytes())
    data[data.index(b"GGUF") + 300] ^= 1
    target.write_bytes(data)
    (tmp_path / "again").mkdir()
    error = refused(target, tmp_path / "again")
    assert (error.code, error.detail.split(":")[0]) == ("digest_mismatch", carried.file.path)


@pytest.mark.parametrize(
    "changes", [{"tenant": "other"}, {"base": "0" * 64}, {"adapter": "1" * 64}], ids=lambda changes: next(iter(changes))
)
def test_a_gguf_of_another_release_than_the_adapters_is_in_no_bundle(
    manifest: BundleManifest, tmp_path: Path, changes: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="is no GGUF file of what the bundle's adapter was merged to"):
        with_gguf(manifest, tmp_path / "v1", **changes)


@pytest.mark.parametrize("path", ["adapter_model.bin", "run.py", "folder/v1.gguf", "v1.gguf.pkl"])
def test_nothing_but_a_gguf_travels_as_one(manifest: BundleManifest, tmp_path: Path, path: str) -> None:
    whole = with_gguf(manifest, tmp_path / "v1")
    (one,) = whole.gguf
    named = one.model_copy(update={"file": one.file.model_copy(update={"path": path})})
    made = canonical_json(whole.model_copy(update={"gguf": (named,)}))
    with pytest.raises(ValueError, match="is no GGUF file"):
        BundleManifest.model_validate_json(made)


def test_two_gguf_files_of_one_name_or_one_content_are_in_no_bundle(manifest: BundleManifest, tmp_path: Path) -> None:
    whole = with_gguf(manifest, tmp_path / "v1")
    (one,) = whole.gguf
    for change in ({"sha256": "0" * 64}, {"path": "another.gguf"}):
        other = one.model_copy(update={"file": one.file.model_copy(update=change)})
        with pytest.raises(ValueError, match="twice"):
            BundleManifest.model_validate(dict(whole) | {"gguf": (one, other)})


def test_what_is_read_from_a_bundle_is_readable_by_its_owner_alone(manifest: BundleManifest, tmp_path: Path) -> None:
    target, folder = tmp_path / "v1.bundle", tmp_path / "read"
    write_bundle(target, manifest, contents(tmp_path / "v1").__getitem__)
    folder.mkdir()
    read_bundle(target, folder)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def extension(size: int, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A header of a tar that says more of the member after it, in the next `size` bytes."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, size
    return header.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_headers_are_refused_unread(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "x.bundle"
    path.write_bytes((extension(14, kind) + b"14 comment=ab\n".ljust(512, b"\0")) * 2000)
    assert "header" in refused(path, tmp_path).detail, "one within the other, deeper than Python may call"


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_long_header_of_a_header_is_refused_unread(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "x.bundle"
    path.write_bytes(extension(8 << 20, kind))
    os.truncate(path, 10 << 20)
    assert "8388608 bytes" in refused(path, tmp_path).detail, "all of it would be read into memory"


def test_a_file_of_nine_gigabytes_has_a_place_in_a_bundle(tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    large = tarfile.TarInfo("blobs/" + "a" * 64)
    large.size = 9 << 30
    path.write_bytes(large.tobuf(FORMAT))
    with tarfile.open(path, "r:") as tar:
        read = tar.next()
    assert read is not None
    assert (read.name, read.size, read.isreg(), read.issparse()) == (large.name, 9 << 30, True, False)
