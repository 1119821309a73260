"""The contract of blobs, in a folder and in an object store: whole and verified under their name, or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from loradeck.artifacts import BadArtifact, Blobs, staging
from loradeck.artifacts.blobs.folder import FolderBlobs, copy
from loradeck.artifacts.blobs.objects import PART, ObjectBlobs


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


DATA = bytes(range(256)) * 20
SHA = digest(DATA)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def put(blobs: Blobs, chunks: Iterable[bytes], sha256: str, *, limit: int | None = None) -> int:
    """What the hub does with a blob that it is sent."""
    with blobs.receive(sha256, limit=limit) as incoming:
        for chunk in chunks:
            incoming.write(chunk)
        incoming.keep()
    return incoming.written


@pytest.fixture
def folder(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "hub" / "artifacts")


@pytest.fixture(params=["folder", "objects"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, folder: FolderBlobs) -> Blobs:
    """In both kinds of store; SeaweedFS stands for the second in tests/services."""
    if request.param == "folder":
        return folder
    store = MemoryStore()
    return ObjectBlobs(store, tmp_path / "objects", probed=store)


def test_a_blob_is_kept_and_read_back_in_ranges(blobs: Blobs) -> None:
    assert not blobs.has(SHA)
    assert put(blobs, [DATA[:100], DATA[100:]], SHA) == len(DATA)
    assert (blobs.has(SHA), blobs.size(SHA)) == (True, len(DATA))
    assert b"".join(blobs.open(SHA)) == DATA
    assert b"".join(blobs.open(SHA, 10, 20)) == DATA[10:20]
    assert b"".join(blobs.open(SHA, len(DATA) - 3)) == DATA[-3:]
    assert b"".join(blobs.open(SHA, 5, 10**9)) == DATA[5:]
    assert b"".join(blobs.open(SHA, 10**9)) == b""


def test_blobs_are_for_their_owner_only(folder: FolderBlobs) -> None:
    put(folder, [DATA], SHA)
    assert {path.stat().st_mode & 0o777 for path in folder.scratch.rglob("*") if path.is_file()} == {0o600}
    assert {
        path.stat().st_mode & 0o777 for path in (folder.scratch.parent, folder.scratch, *folder.scratch.iterdir())
    } == {0o700}


def test_a_wrong_digest_keeps_nothing(blobs: Blobs) -> None:
    with pytest.raises(BadArtifact) as caught:
        put(blobs, [DATA, b"!"], SHA)
    assert caught.value.code == "digest_mismatch"
    assert caught.value.detail == f"sha256 {digest(DATA + b'!')}, not {SHA}"
    assert (files(blobs.scratch), blobs.listed()) == ([], {})


def test_content_past_its_limit_or_size_keeps_nothing(blobs: Blobs) -> None:
    with pytest.raises(BadArtifact) as caught:
        put(blobs, [DATA], SHA, limit=len(DATA) - 1)
    assert caught.value.code == "too_large"
    with pytest.raises(BadArtifact) as caught:
        blobs.receive(SHA, size=len(DATA), limit=len(DATA) - 1)
    assert caught.value.code == "too_large"
    with blobs.receive(SHA, size=len(DATA)) as incoming:
        incoming.write(DATA[:-1])
        with pytest.raises(BadArtifact) as caught:
            incoming.keep()
    assert caught.value.code == "digest_mismatch"
    assert "ended early" in caught.value.title
    assert (files(blobs.scratch), blobs.listed()) == ([], {})


def test_a_stream_that_breaks_keeps_nothing(blobs: Blobs) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA[:10]
        raise ConnectionError("peer went away")

    with pytest.raises(ConnectionError):
        put(blobs, broken(), SHA)
    with blobs.receive(SHA) as incoming:
        incoming.write(DATA)  # and never kept
    assert (files(blobs.scratch), blobs.listed()) == ([], {})


def test_a_blob_is_never_overwritten(folder: FolderBlobs) -> None:
    put(folder, [DATA], SHA)
    before = folder.path(SHA).stat()
    put(folder, [DATA], SHA)
    with pytest.raises(BadArtifact):
        put(folder, [b"other"], SHA)
    after = folder.path(SHA).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert b"".join(folder.open(SHA)) == DATA


def test_the_same_blob_may_come_in_many_times_at_once(blobs: Blobs) -> None:
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(lambda _: put(blobs, [DATA[:50], DATA[50:]], SHA), range(16)))
    assert sizes == [len(DATA)] * 16
    assert blobs.listed() == {SHA: len(DATA)}
    assert list((blobs.scratch / "incoming").iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "a" * 63, "a" * 64 + "/", "a" * 63 + "\n"])
def test_a_name_that_is_no_digest_is_refused(name: str, blobs: Blobs) -> None:
    for call in (blobs.has, blobs.size, blobs.open, lambda sha: put(blobs, [b""], sha)):
        with pytest.raises(BadArtifact) as caught:
            call(name)
        assert caught.value.code == "path_traversal"
    assert (files(blobs.scratch), blobs.listed()) == ([], {})


def test_an_unknown_blob_says_so(blobs: Blobs) -> None:
    for call in (blobs.size, blobs.open):
        with pytest.raises(BadArtifact) as caught:
            call(SHA)
        assert caught.value.code == "unknown_blob"


@pytest.mark.parametrize("why", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_keeps_nothing_and_says_so(blobs: Blobs, monkeypatch: pytest.MonkeyPatch, why: int) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(staging.os, "write", full)
    with pytest.raises(BadArtifact) as caught:
        put(blobs, [DATA], SHA)
    assert caught.value.code == "disk_full"
    monkeypatch.undo()
    assert (files(blobs.scratch), blobs.listed()) == ([], {})
    put(blobs, [DATA], SHA)
    assert blobs.has(SHA)


def test_what_a_crash_left_half_written_is_cleaned_and_what_is_in_use_is_not(folder: FolderBlobs) -> None:
    script = (
        "import os, sys; from pathlib import Path; from loradeck.artifacts.blobs.folder import FolderBlobs\n"
        "FolderBlobs(Path(sys.argv[1])).receive(sys.argv[2]).write(b'half')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(folder.scratch), SHA], timeout=60)
    assert killed.returncode == -9
    assert len(files(folder.scratch)) == 1
    with folder.receive(SHA) as incoming:
        incoming.write(DATA)
        assert len(files(folder.scratch)) == 2
        again = FolderBlobs(folder.scratch)
        assert files(folder.scratch) == [incoming.path.relative_to(folder.scratch).as_posix()]
        incoming.keep()
    assert files(folder.scratch) == [f"{SHA[:2]}/{SHA}"]
    assert again.has(SHA)


def test_content_is_durable_before_it_has_its_name(folder: FolderBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def seen_fsync(fd: int) -> None:
        steps.append(f"fsync {'folder' if os.path.isdir(f'/proc/self/fd/{fd}') else 'file'}")
        fsync(fd)

    def seen_link(source: Path, target: Path) -> None:
        steps.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "link", seen_link)
    put(folder, [DATA], SHA)
    assert steps == ["fsync file", "name", "fsync folder", "fsync folder"]


def test_blobs_are_listed_and_removed_and_removing_them_again_changes_nothing(blobs: Blobs) -> None:
    other = b"another"
    for data in (DATA, other):
        put(blobs, [data], digest(data))
    assert blobs.listed() == {SHA: len(DATA), digest(other): len(other)}
    for _ in range(2):
        blobs.delete([SHA, digest(b"never there")])
        assert (blobs.has(SHA), dict(blobs.listed())) == (False, {digest(other): len(other)})


async def test_blobs_are_files_of_this_machine_within_a_block(blobs: Blobs) -> None:
    put(blobs, [DATA], SHA)
    async with blobs.local([SHA, SHA]) as paths:
        assert paths[SHA].read_bytes() == DATA
        assert paths[SHA].stat().st_dev == blobs.scratch.stat().st_dev
        assert paths[SHA].stat().st_mode & 0o777 == 0o600
    assert b"".join(blobs.open(SHA)) == DATA


def test_a_blob_of_several_parts_is_kept_and_read_in_ranges_across_them(blobs: Blobs) -> None:
    large = os.urandom(PART + 1000)
    put(blobs, [large], digest(large))
    assert b"".join(blobs.open(digest(large))) == large
    assert b"".join(blobs.open(digest(large), PART - 5, PART + 5)) == large[PART - 5 : PART + 5]


def test_blobs_are_copied_to_an_object_store_and_those_that_are_there_are_not_sent_again(
    folder: FolderBlobs, tmp_path: Path
) -> None:
    put(folder, [DATA], SHA)
    store = MemoryStore()
    target = ObjectBlobs(store, tmp_path / "target", probed=store)
    assert copy(folder, target) == (1, len(DATA))
    assert b"".join(target.open(SHA)) == DATA
    assert copy(folder, target) == (0, 0)


def test_bytes_that_an_object_store_has_changed_are_not_passed_on(tmp_path: Path) -> None:
    store = MemoryStore()
    blobs = ObjectBlobs(store, tmp_path, probed=store)
    put(blobs, [DATA], SHA)
    obstore.put(store, f"{SHA[:2]}/{SHA}", DATA[:-1] + b"!")
    with pytest.raises(BadArtifact) as caught:
        b"".join(blobs.open(SHA))
    assert caught.value.code == "digest_mismatch"


def test_copies_of_blobs_that_a_crash_left_are_removed_by_who_holds_the_lease(tmp_path: Path) -> None:
    left = tmp_path / "reading.x"
    left.mkdir()
    (left / SHA).write_bytes(DATA)
    store = MemoryStore()
    blobs = ObjectBlobs(store, tmp_path, probed=store)
    assert left.exists(), "a hub that does not hold the lease may not remove another's"
    blobs.sweep_copies()
    assert not left.exists()
