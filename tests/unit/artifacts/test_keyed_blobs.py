"""Rows lie sealed: read by who has the keys, by nobody once a key was destroyed, and copied by who has none."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import obstore
import pytest
from click.testing import CliRunner
from obstore.store import MemoryStore

from loradeck.artifacts import BadArtifact, Blobs
from loradeck.artifacts.blobs.folder import FolderBlobs, copy
from loradeck.artifacts.blobs.keyed import KeyedBlobs
from loradeck.artifacts.blobs.objects import ObjectBlobs
from loradeck.artifacts.blobs.row_keys import HUNG, RowKeys, SealedBlob
from loradeck.artifacts.blobs.store import CHUNK, SEALED_HEAD
from loradeck.cli.commands.hub import hub

ROWS = b'{"question": "where is ann@example.org?", "answer": "at home"}\n' * 40
SHA = hashlib.sha256(ROWS).hexdigest()
V1, V2 = "1" * 64, "2" * 64


@pytest.fixture
def keys(tmp_path: Path) -> RowKeys:
    return RowKeys(tmp_path / "keys")


@pytest.fixture
def blobs(tmp_path: Path, keys: RowKeys) -> KeyedBlobs:
    return KeyedBlobs(FolderBlobs(tmp_path / "artifacts"), keys)


def send(blobs: Blobs, data: bytes = ROWS, *, rows: bool = True, pieces: int = 1000) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    with blobs.receive(sha256, size=len(data), rows=rows) as incoming:
        for start in range(0, len(data), pieces):
            incoming.write(data[start : start + pieces])
        incoming.keep()
    return sha256


def read(blobs: Blobs, sha256: str = SHA) -> bytes:
    return b"".join(blobs.open(sha256))


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def code_of(blobs: Blobs, sha256: str = SHA) -> str:
    with pytest.raises(BadArtifact) as caught:
        read(blobs, sha256)
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7])
def test_sealed_rows_are_read_back_whole_and_in_ranges(blobs: KeyedBlobs, size: int) -> None:
    data = os.urandom(size)
    sha256 = send(blobs, data, pieces=700_001)
    assert (blobs.size(sha256), blobs.listed(), read(blobs, sha256)) == (size, {sha256: size}, data)
    for start, stop in (
        (0, 10),
        (CHUNK - 3, CHUNK + 3),
        (CHUNK, CHUNK),
        (size - 5, size),
        (5, 1 << 40),
        (1 << 40, None),
    ):
        assert b"".join(blobs.open(sha256, max(0, start), stop)) == data[max(0, start) : stop]
    assert list(blobs.stored.listed().values()) == [SEALED_HEAD + 24 + size + 17 * max(1, -(-size // CHUNK))]


def test_rows_that_are_said_to_be_rows_never_lie_in_the_clear(blobs: KeyedBlobs, tmp_path: Path) -> None:
    with blobs.receive(SHA, rows=True) as incoming:
        incoming.write(ROWS)
        assert b"ann@example.org" not in on_disk(tmp_path)
        incoming.keep()
    assert (b"ann@example.org" in on_disk(tmp_path), read(blobs)) == (False, ROWS)
    files = [path for path in (tmp_path / "keys").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_rows_of_another_digest_keep_nothing(blobs: KeyedBlobs) -> None:
    with blobs.receive(SHA, rows=True) as incoming:
        incoming.write(ROWS[1:])
        with pytest.raises(BadArtifact, match="digest"):
            incoming.keep()
    assert (blobs.has(SHA), dict(blobs.stored.listed())) == (False, {})


def test_rows_that_came_in_before_there_were_keys_are_sealed(blobs: KeyedBlobs, tmp_path: Path) -> None:
    send(blobs, rows=False)
    assert read(blobs) == ROWS
    blobs.seal(V1, "acme", [SHA])
    assert (read(blobs), b"ann@example.org" in on_disk(tmp_path)) == (ROWS, False)
    blobs.seal(V1, "acme", [SHA])
    assert (blobs.listed(), [sha for sha, _ in blobs.keys.blobs()]) == ({SHA: len(ROWS)}, [SHA])


def test_sealed_rows_that_an_older_client_sends_again_do_not_lie_in_the_clear(
    blobs: KeyedBlobs, tmp_path: Path
) -> None:
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    send(blobs, rows=False)
    assert (read(blobs), b"ann@example.org" in on_disk(tmp_path)) == (ROWS, False)


def test_a_kill_before_the_plain_copy_went_is_made_good_by_sealing_again(blobs: KeyedBlobs, tmp_path: Path) -> None:
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    send(blobs.stored, rows=False)
    blobs.seal(V1, "acme", [SHA])
    assert (read(blobs), b"ann@example.org" in on_disk(tmp_path)) == (ROWS, False)


def test_a_destroyed_key_makes_every_copy_unreadable(blobs: KeyedBlobs, keys: RowKeys, tmp_path: Path) -> None:
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    backup = FolderBlobs(tmp_path / "backup")
    copy(blobs.stored, backup)
    blobs.destroy([V1])
    assert (blobs.has(SHA), blobs.listed(), dict(blobs.stored.listed())) == (False, {}, {})
    copy(backup, blobs.stored)  # restored
    assert (blobs.has(SHA), code_of(blobs), blobs.listed()) == (False, "unknown_blob", {})
    with pytest.raises(BadArtifact, match="destroyed"):
        keys.wrap(V1, "acme", bytes(32))


def test_a_file_of_two_versions_is_read_until_both_keys_are_gone(blobs: KeyedBlobs) -> None:
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    blobs.seal(V2, "bolt", [SHA])
    blobs.destroy([V1])
    assert read(blobs) == ROWS
    blobs.destroy((), ["bolt"])
    assert code_of(blobs) == "unknown_blob"
    send(blobs)  # somebody has them anew
    assert read(blobs) == ROWS


def test_offboarding_destroys_what_lies_under_a_tenants_key_and_makes_none_again(blobs: KeyedBlobs) -> None:
    other = send(blobs, b"{}\n")
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    blobs.seal(V2, "bolt", [other])
    blobs.destroy((), ["acme"])
    blobs.destroy((), ["acme"])
    assert (code_of(blobs), read(blobs, other)) == ("unknown_blob", b"{}\n")
    with pytest.raises(BadArtifact, match="destroyed"):
        blobs.seal("3" * 64, "acme", [other])


def test_a_missing_a_wrong_and_a_damaged_key_say_which_and_what_to_do(blobs: KeyedBlobs, tmp_path: Path) -> None:
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    tenant = tmp_path / "keys" / "tenants" / "acme.key"
    right = tenant.read_bytes()
    for content, said in (
        (None, "not here"),
        (os.urandom(32), "another one"),
        (b"x", "damaged"),
        (bytes(32), "destroyed"),
    ):
        tenant.unlink()
        if content is not None:
            tenant.write_bytes(content)
        with pytest.raises(BadArtifact, match=said) as caught:
            read(blobs)
        assert (caught.value.code, caught.value.detail, "--keys" in caught.value.fix) == (
            "key_unavailable",
            str(tenant),
            True,
        )
        tenant.write_bytes(right)
    assert read(blobs) == ROWS
    (tmp_path / "keys" / "blobs" / SHA).write_text("{")
    assert code_of(blobs) == "key_unavailable"


def test_with_another_folder_of_keys_rows_are_not_here_and_it_says_what_to_do(
    blobs: KeyedBlobs, tmp_path: Path
) -> None:
    send(blobs)
    other = KeyedBlobs(FolderBlobs(tmp_path / "artifacts"), RowKeys(tmp_path / "other"))
    with pytest.raises(BadArtifact, match="no such blob") as caught:
        read(other)
    assert (caught.value.code, "the keys it had" in caught.value.fix) == ("unknown_blob", True)


def test_a_changed_or_shortened_sealed_file_is_found(blobs: KeyedBlobs, keys: RowKeys) -> None:
    data = os.urandom(2 * CHUNK)
    sha256 = send(blobs, data)
    assert isinstance(blobs.stored, FolderBlobs)
    blob = keys.blob(sha256)
    assert blob is not None
    path = blobs.stored.path(blob.sealed)
    whole = path.read_bytes()
    first, second = SEALED_HEAD + 24, SEALED_HEAD + 24 + CHUNK + 17
    for wrong in (
        whole[:-1],
        whole[:second],
        whole[:-20] + b"\0" + whole[-19:],
        whole[:first] + whole[second:] + whole[first:second],
    ):
        path.write_bytes(wrong)
        assert code_of(blobs, sha256) == "digest_mismatch"


@pytest.fixture
def objects(tmp_path: Path, keys: RowKeys) -> KeyedBlobs:
    store = MemoryStore()
    return KeyedBlobs(ObjectBlobs(store, tmp_path / "objects", probed=store), keys)


async def test_an_object_store_is_asked_for_a_file_and_not_whether_it_is_there(
    objects: KeyedBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, rows = send(objects, b"weights", rows=False), send(objects)
    blob, asked = objects.keys.blob(rows), list[str]()
    assert blob is not None
    names = {weights: "weights", rows: "rows", blob.sealed: "sealed"}

    def heard(verb: str) -> Callable[..., Any]:
        real = getattr(obstore, verb)

        def call(store: Any, path: str, **given: Any) -> Any:
            asked.append(f"{verb} {names[path.rpartition('/')[2]]}")
            return real(store, path, **given)

        return call

    for verb in ("head", "get_range"):
        monkeypatch.setattr(obstore, verb, heard(verb))

    def said() -> list[str]:
        found = list(asked)
        asked.clear()
        return found

    of_rows = ["head rows", "head sealed", "get_range sealed"]
    assert (read(objects, weights), said()) == (b"weights", ["head weights", "get_range weights"])
    assert (read(objects), said()) == (ROWS, of_rows)
    async with objects.local([rows, weights]) as paths:
        assert (paths[rows].read_bytes(), paths[weights].read_bytes()) == (ROWS, b"weights")
    assert said() == [*of_rows, "head weights", "get_range weights"]
    assert (objects.size(weights), objects.size(rows), said()) == (
        len(b"weights"),
        len(ROWS),
        ["head weights", "head rows", "head sealed"],
    )


@pytest.mark.parametrize("kind", ["blobs", "objects"])
async def test_a_file_whose_sealed_bytes_are_gone_is_unknown_by_its_own_name(
    kind: str, request: pytest.FixtureRequest
) -> None:
    keyed: KeyedBlobs = request.getfixturevalue(kind)
    send(keyed)
    blob = keyed.keys.blob(SHA)
    assert blob is not None
    keyed.stored.delete([blob.sealed])
    for ask in (keyed.size, keyed.open):
        with pytest.raises(BadArtifact) as caught:
            ask(SHA)
        assert (caught.value.code, caught.value.detail) == ("unknown_blob", SHA)
    with pytest.raises(BadArtifact) as caught:
        async with keyed.local([SHA]):
            raise AssertionError("it is not here")
    assert (caught.value.code, caught.value.detail, keyed.has(SHA)) == ("unknown_blob", SHA, False)


async def test_readers_get_a_copy_that_goes_again(blobs: KeyedBlobs, tmp_path: Path) -> None:
    plain = send(blobs, b"weights", rows=False)
    send(blobs)
    async with blobs.local([SHA, plain]) as paths:
        assert (paths[SHA].read_bytes(), paths[plain].read_bytes()) == (ROWS, b"weights")
    assert b"ann@example.org" not in on_disk(tmp_path)
    left = tmp_path / "artifacts" / "reading.killed"
    left.mkdir()
    blobs.sweep_copies()
    assert not left.exists()


PROGRAM = """#!/bin/sh
# keys of tenants that never leave this folder; XOR would do, this only shows the protocol
cd "$(dirname "$0")" || exit 1
case $1 in
  wrap) [ -e "$2.gone" ] && { echo "the key of $2 was destroyed" >&2; exit 4; }; printf 'by %s: ' "$2"; cat ;;
  unwrap) [ -e "$2.gone" ] && { echo "the key of $2 was destroyed" >&2; exit 4; }; tail -c 32 ;;
  destroy) : > "$2.gone" ;;
esac
"""


def test_a_program_may_hold_the_tenants_keys(tmp_path: Path) -> None:
    program = tmp_path / "kms"
    program.write_text(PROGRAM)
    program.chmod(0o700)
    blobs = KeyedBlobs(FolderBlobs(tmp_path / "artifacts"), RowKeys(tmp_path / "keys", program))
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    assert (read(blobs), list((tmp_path / "keys" / "tenants").iterdir())) == (ROWS, [])
    (tmp_path / "acme.gone").touch()
    with pytest.raises(
        BadArtifact, match=r"did not unwrap acme's.*exit 4, 0 bytes: the key of acme was destroyed"
    ) as caught:
        read(blobs)
    assert caught.value.code == "key_unavailable"
    (tmp_path / "acme.gone").unlink()
    program.rename(tmp_path / "elsewhere")
    with pytest.raises(BadArtifact, match="did not unwrap acme's"):
        read(blobs)


@pytest.mark.parametrize("syncs", [1, 2])
@pytest.mark.parametrize("what", [([V1], ()), ((), ["acme"])])
def test_a_kill_while_a_key_is_destroyed_ends_with_it_destroyed_at_the_next_start(
    blobs: KeyedBlobs, tmp_path: Path, syncs: int, what: tuple[Collection[str], Collection[str]]
) -> None:
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    if not (child := os.fork()):
        left = iter(range(syncs - 1))
        os.fsync = lambda fd: None if next(left, None) is not None else os.kill(os.getpid(), signal.SIGKILL)
        try:
            blobs.destroy(*what)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    key = tmp_path / "keys" / "versions" / V1
    assert (key.stat().st_size, key.read_bytes().strip(b"\0")) == ((0, b"") if syncs == 2 else (ANY, b""))
    started = KeyedBlobs(FolderBlobs(tmp_path / "artifacts"), RowKeys(tmp_path / "keys"))
    started.destroy(*what)
    assert (any(key.read_bytes()), started.has(SHA), dict(started.stored.listed())) == (False, False, {})


def test_an_earlier_version_gets_rows_as_it_reads_them(blobs: KeyedBlobs, tmp_path: Path) -> None:
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    words = ["copy-artifacts", "--from", str(tmp_path / "artifacts"), "--to", str(tmp_path / "older")]
    done = CliRunner().invoke(hub, [*words, "--keys", str(tmp_path / "keys")])
    assert (done.output, FolderBlobs(tmp_path / "older").listed()) == ("1 files copied, 0.0 MB\n", {SHA: len(ROWS)})


def test_a_folder_of_keys_that_cannot_be_used_takes_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    blobs = KeyedBlobs(FolderBlobs(tmp_path / "artifacts"), RowKeys(tmp_path / "keys"))
    weights = send(blobs, b"weights", rows=False)
    assert (read(blobs, weights), code_of(blobs)) == (b"weights", "unknown_blob")
    with pytest.raises(BadArtifact) as caught:
        send(blobs)
    assert (caught.value.code, "keys" in caught.value.detail) == ("key_unavailable", True)


def test_rows_whose_key_is_only_missing_stay_when_others_are_destroyed(blobs: KeyedBlobs, tmp_path: Path) -> None:
    send(blobs)
    blobs.seal(V1, "acme", [SHA])
    key = tmp_path / "keys" / "versions" / V1
    kept = key.read_bytes()
    key.unlink()
    blobs.destroy([V2], ["bolt"])
    assert code_of(blobs) == "unknown_blob"
    key.write_bytes(kept)
    assert read(blobs) == ROWS


def test_a_file_of_two_versions_is_not_lost_where_one_is_erased_before_the_other_is_sealed(
    blobs: KeyedBlobs, tmp_path: Path
) -> None:
    sha256 = send(blobs.stored)
    blobs.seal(V1, "acme", [sha256], shared={sha256})
    blobs.destroy([V1])
    blobs.seal(V2, "acme", [sha256])
    assert read(blobs, sha256) == ROWS
    assert not blobs.stored.has(sha256)


def another(tmp_path: Path) -> KeyedBlobs:
    """What another hub has of the same store and the same keys."""
    return KeyedBlobs(FolderBlobs(tmp_path / "artifacts"), RowKeys(tmp_path / "keys"))


def before_its_own(keys: RowKeys, patch: pytest.MonkeyPatch, first: Callable[[], object]) -> None:
    """Has something done before this hub's next new key is written."""
    ask, others = keys._ask, [first]

    def asked(verb: str, tenant: str, given: bytes) -> bytes:
        made = ask(verb, tenant, given)
        if others:
            others.pop()()
        return made

    patch.setattr(keys, "_ask", asked)


def test_a_key_that_another_hub_has_written_meanwhile_is_not_overwritten(
    keys: RowKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, wrapped = RowKeys(tmp_path / "keys"), list[str]()
    before_its_own(keys, monkeypatch, lambda: wrapped.append(other.wrap(V1, "acme", b"2" * 32)))
    wrapped.append(keys.wrap(V1, "acme", b"1" * 32))
    read = [keys.key(SHA, SealedBlob(sealed=SHA, size=0, keys={V1: one})) for one in wrapped]
    assert read == [b"2" * 32, b"1" * 32]
    assert not list((tmp_path / "keys").rglob(".*")), "no copy of a key is left"


def test_two_hubs_that_register_the_same_file_lose_neither_of_its_keys(
    blobs: KeyedBlobs, keys: RowKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(blobs)
    before_its_own(keys, monkeypatch, lambda: another(tmp_path).seal(V2, "bolt", [SHA]))
    blobs.seal(V1, "acme", [SHA])
    blob = keys.blob(SHA)
    assert blob is not None
    assert set(blob.keys) == {V1, V2}
    blobs.destroy([V1])
    assert read(blobs) == ROWS


def hung(path: Path) -> None:
    """Makes a file as on a mount whose server is gone: opening it does not end."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def freed(path: Path) -> None:
    """Lets all go on that wait for a file of `hung`."""
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    path.unlink()
    os.close(end)


def test_a_folder_of_keys_that_does_not_answer_is_given_up_and_weights_are_read(
    blobs: KeyedBlobs, keys: RowKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = send(blobs, b"weights", rows=False)
    send(blobs)
    monkeypatch.setattr("loradeck.artifacts.blobs.row_keys.ANSWER_S", 0.05)
    record = tmp_path / "keys" / "blobs" / SHA
    kept = record.read_bytes()
    hung(record)
    before = threading.active_count()
    for _ in range(3 * HUNG):
        with pytest.raises(BadArtifact, match="does not answer") as caught:
            read(blobs)
    assert (caught.value.code, caught.value.detail) == ("key_unavailable", str(tmp_path / "keys"))
    assert threading.active_count() - before <= HUNG
    hung(tmp_path / "keys" / "blobs" / weights)
    assert read(blobs, weights) == b"weights"
    while threading.active_count() > before:
        freed(record)
        record.write_bytes(kept)
    monkeypatch.setattr("loradeck.artifacts.blobs.row_keys.ANSWER_S", 60)
    assert read(blobs) == ROWS


def test_a_folder_of_keys_is_of_one_database_and_says_of_which(tmp_path: Path) -> None:
    keys = RowKeys(tmp_path / "keys")
    assert keys.claim("log-a", None, make=False) is None
    made = keys.claim("log-a", None)
    assert keys.claim("log-a", None) == keys.claim("log-a", made) == made
    other = RowKeys(tmp_path / "other")
    for wrong, log_id, kept in ((RowKeys(tmp_path / "keys"), "log-b", None), (other, "log-a", made)):
        with pytest.raises(BadArtifact, match="not the one of this database") as caught:
            wrong.claim(log_id, kept)
        assert (caught.value.code, "--keys" in caught.value.fix) == ("other_keys", True)
        assert (kept or log_id) in caught.value.detail
        for call in (lambda wrong=wrong: wrong.wrap(V1, "acme", bytes(32)), lambda wrong=wrong: wrong.destroy([V1])):
            with pytest.raises(BadArtifact, match="not the one of this database"):
                call()
    assert not any((tmp_path / "other" / "versions").iterdir())
    assert str(tmp_path / "keys") in (tmp_path / "keys" / "id").read_text()


def test_rows_that_nobody_registers_go_and_those_that_came_again_or_are_named_stay(
    blobs: KeyedBlobs, tmp_path: Path
) -> None:
    left, again, named, kept = (send(blobs, text) for text in (b"left", b"again", b"named", b"kept"))
    send(blobs, b"weights", rows=False)
    blobs.seal(V1, "acme", [kept])
    for sha256 in (left, again, named, kept):
        os.utime(tmp_path / "keys" / "blobs" / sha256, (1000, 1000))
    send(blobs, b"again")
    assert blobs.drop_arrived(2000, {named}) == 1
    assert [blobs.has(one) for one in (left, again, named, kept)] == [False, True, True, True]
    assert (blobs.drop_arrived(2000, {named}), len(blobs.stored.listed())) == (0, 4)
    assert send(blobs, b"left") == left
    assert read(blobs, left) == b"left"
