"""Bundles: one file that carries an adapter version into a network that nothing can reach from outside.

A bundle is an uncompressed tar, always in this order, so that equal parts give equal bytes:

    bundle.json       a BundleManifest
    blobs/SHA256      each of its files, named by its digest
    SHA256SUMS        the digests of all of the above, in the format of sha256sum

Above 8 GiB, which the plain header of a tar cannot say, a file's size stands in a header of pax before it.

A reader trusts nothing in it: members are read by the manifest's list and never under a name that the file chose, each
is hashed, and nothing may be missing, added, or stand after the end.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from loradeck.artifacts.adapters import PICKLES
from loradeck.artifacts.errors import BadArtifact, room_on
from loradeck.artifacts.staging import fsync_folder
from loradeck.schemas.bundle import BundleManifest
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.ids import canonical_json

MANIFEST = "bundle.json"
SUMS = "SHA256SUMS"
FORMAT = tarfile.PAX_FORMAT
MANIFEST_LIMIT = 16 << 20
PIECE = 1 << 20
EXTENSION_LIMIT = 4096
_EXTENSIONS = (b"x", b"g", b"X", b"L", b"K")
"""Types of headers that say more of the one after them."""


def write_bundle(target: Path, manifest: BundleManifest, blob: Callable[[str], Path]) -> int:
    """Writes a bundle (mode 0600), atomically and durably, and returns its size in bytes.

    `blob`: gives the path of the content with a digest; the caller has verified it.

    Raises:
        BadArtifact: `exists`: the target file exists; `pickle_in_adapter`: a file of it could run code; `disk_full`.
    """
    if odd := [e.path for e in manifest.files if Path(e.path).suffix.lower() in PICKLES]:
        raise BadArtifact("pickle_in_adapter", "a bundle must not hold files that can run code", ", ".join(odd))
    if target.exists():
        raise BadArtifact("exists", "the file exists already", str(target), "choose another file name")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    content = canonical_json(manifest)
    sums = [(hashlib.sha256(content).hexdigest(), MANIFEST)]
    try:
        with room_on(target), os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=FORMAT) as tar:
                tar.addfile(_member(MANIFEST, len(content)), io.BytesIO(content))
                for entry in manifest.files:
                    name = f"blobs/{entry.sha256}"
                    with blob(entry.sha256).open("rb") as source:
                        tar.addfile(_member(name, entry.size), source)
                    sums.append((entry.sha256, name))
                listed = "".join(f"{digest}  {name}\n" for digest, name in sums).encode()
                tar.addfile(_member(SUMS, len(listed)), io.BytesIO(listed))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        part.rename(target)
        fsync_folder(target.parent)
        return size
    finally:
        part.unlink(missing_ok=True)


def read_bundle(path: Path, folder: Path) -> BundleManifest:
    """Verifies a whole bundle and writes its files into `folder`, each under its digest.

    Raises: BadArtifact: `truncated_bundle`: it ends early; `digest_mismatch`: a file or the manifest does not match its
    digest; `path_traversal`: a name that leads elsewhere, or a link; `wrong_base`: an adapter of another base than the
    bundle's; `bad_bundle`: anything else. Files already written must be thrown away.
    """
    try:
        with path.open("rb") as file, _Tar(fileobj=file, mode="r") as tar:
            content = _take(tar, MANIFEST, MANIFEST_LIMIT)
            manifest = _manifest(content)
            sums = [(hashlib.sha256(content).hexdigest(), MANIFEST)]
            for entry in manifest.files:
                name = f"blobs/{entry.sha256}"
                member = _next(tar, name)
                if member.size != entry.size:
                    raise _mismatch(entry.path, f"{member.size} bytes, the manifest says {entry.size}")
                found = _lay(_reader(tar, member), folder / entry.sha256, entry.size)
                if found != entry.sha256:
                    raise _mismatch(entry.path, f"sha256 {found}, the manifest says {entry.sha256}")
                sums.append((entry.sha256, name))
            listed = "".join(f"{digest}  {name}\n" for digest, name in sums).encode()
            if _take(tar, SUMS, MANIFEST_LIMIT) != listed:
                raise _mismatch(SUMS, "its digests are not those of what lies before it")
            if (extra := tar.next()) is not None:
                raise _bad(f"{extra.name!r} comes after {SUMS}")
            return manifest
    except tarfile.ReadError as error:
        if path.stat().st_size < 2 * tarfile.BLOCKSIZE or "unexpected end" in str(error):
            raise _truncated(str(error)) from error
        raise _bad(str(error)) from error
    except tarfile.TarError as error:
        raise _bad(str(error)) from error


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, 0
    return member


class _Tar(tarfile.TarFile):
    """A tar whose members have one short header before their own at most: Python reads all, each within the other."""

    def next(self) -> tarfile.TarInfo | None:
        """See tarfile. Raises: BadArtifact: `bad_bundle`."""
        file, at = self.fileobj, self.offset
        assert file is not None
        before, last = file.tell(), None
        while (head := _head(file, at)) is not None and head.type in _EXTENSIONS:
            if last is not None or head.size > EXTENSION_LIMIT:
                raise _bad(f"a header of {head.size} bytes before that of a file")
            at, last = at + tarfile.BLOCKSIZE * (1 + -(-head.size // tarfile.BLOCKSIZE)), head
        file.seek(before)
        return super().next()


def _head(file: Any, at: int) -> tarfile.TarInfo | None:
    file.seek(at)
    try:
        return tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def _next(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    """Reads the next member, which must be the plain file of this name.

    Raises: BadArtifact: `truncated_bundle`, `path_traversal`, `bad_bundle`.
    """
    member = tar.next()
    if member is None:
        raise _truncated(f"{name} is missing")
    if member.name.startswith("/") or ".." in member.name.split("/") or not member.isreg() or member.issparse():
        raise BadArtifact(
            "path_traversal",
            "a bundle holds only plain files under fixed names",
            repr(member.name),
            "do not import it: this was not made by loradeck bundle export",
        )
    if member.name != name:
        raise _bad(f"{member.name!r} where {name} should be")
    return member


def _reader(tar: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    source = tar.extractfile(member)
    assert source is not None, "a plain file has content"
    return source  # type: ignore[return-value]


def _take(tar: tarfile.TarFile, name: str, limit: int) -> bytes:
    member = _next(tar, name)
    if member.size > limit:
        raise _bad(f"{name} is {member.size} bytes long")
    data = _reader(tar, member).read()
    if len(data) < member.size:
        raise _truncated(f"it ends in {name}")
    return data


def _lay(source: BinaryIO, target: Path, size: int) -> str:
    """Lays content into a new file (0600); returns its digest. Raises: BadArtifact: `truncated_bundle`, `disk_full`."""
    digest, written = hashlib.sha256(), 0
    with room_on(target), os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while piece := source.read(PIECE):
            digest.update(piece)
            written += len(piece)
            file.write(piece)
    if written < size:
        raise _truncated(f"it ends in blobs/{target.name}")
    return digest.hexdigest()


def _manifest(content: bytes) -> BundleManifest:
    try:
        manifest = BundleManifest.model_validate_json(content)
    except ValidationError as error:
        detail = first_wrong(error, root=MANIFEST)
        if "leaves the artifact's folder" in detail:
            raise BadArtifact("path_traversal", "a file's path leaves its folder", detail) from None
        if "not of the bundle's" in detail:
            raise BadArtifact("wrong_base", "an adapter of the bundle is of another base", detail) from None
        raise _bad(detail) from None
    if canonical_json(manifest) != content:
        raise _mismatch(MANIFEST, "it is not in the canonical JSON that its digest is computed from")
    return manifest


def _truncated(detail: str) -> BadArtifact:
    return BadArtifact("truncated_bundle", "the bundle ends early", detail, "copy it again")


def _mismatch(name: str, detail: str) -> BadArtifact:
    return BadArtifact(
        "digest_mismatch", "the bundle was altered", f"{name}: {detail}", "copy it again, or export anew"
    )


def _bad(detail: str) -> BadArtifact:
    return BadArtifact("bad_bundle", "not a Loradeck bundle", detail, "make one with loradeck bundle export")
