"""The router's table on its own: what is durable when, what a failing disk leaves, and who may open it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.disks import fill, small_disk, take_inodes
from tests.integration.router.running import BASE, entry, pin, release

from loradeck.schemas.table import RouteResidency
from loradeck_agent.router.table import Change, Contents, Table, TableFault, read_contents
from loradeck_agent.router.wire import Cursor, EngineAt, InForce

RELEASES = [release(f"v{n}") for n in range(60)]
V1, V2 = RELEASES[1:3]
KEY = ("acme", "production")
ENGINE = EngineAt(replica="e0", socket="/e0.sock", base=BASE, ready=(V1.id,))


def change(n: int) -> Change:
    tenant = f"t{n % 3}"
    ref = release(f"v{n}", tenant=tenant)
    force = InForce(tenant=tenant, route="production", epoch=1, generation=n, release=ref)
    return Change(at_ms=n, position=(1, n, "0" * 64), entries=(entry(ref, n, tenant=tenant),), in_force=(force,))


def line(body: bytes, crc: int | None = None) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(body) if crc is None else crc, body)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "router"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def written(folder: Path, *changes: Change) -> Path:
    """A closed table with these changes, each on its own line after the one that opening wrote."""
    table = Table(folder)
    for made in changes:
        table.append(made)
    table.close()
    return folder / "table.jsonl"


# ---- contents --------------------------------------------------------------------------------------------------


def test_a_change_replaces_what_it_names_and_leaves_the_rest() -> None:
    contents = Contents()
    first, other = entry(V1), entry(V1, route="staging")
    force = InForce(tenant="acme", route="production", epoch=1, generation=1, release=V1)
    contents.apply(
        Change(
            at_ms=1,
            position=(1, 7, "a" * 64),
            entries=(first, other),
            pins=(pin(V2),),
            in_force=(force,),
            engines=(ENGINE,),
        )
    )
    assert (contents.cursor.epoch, contents.cursor.rev, contents.cursor.hash) == (1, 7, "a" * 64)
    assert contents.entries == {KEY: first, ("acme", "staging"): other}
    assert contents.pins == {KEY: pin(V2)}
    assert contents.in_force == {KEY: force}
    assert contents.engines == (ENGINE,)
    contents.apply(Change(at_ms=2, entries=(entry(V2, 2),), unpins=(KEY, ("acme", "never-pinned"))))
    assert (contents.cursor, contents.engines, contents.pins) == (Cursor(1, 7, "a" * 64), (ENGINE,), {})
    assert contents.entries == {KEY: entry(V2, 2), ("acme", "staging"): other}
    contents.apply(Change(at_ms=3, engines=()))
    assert contents.engines == ()


def test_what_pointers_rest_on_is_found_once_after_a_change_of_them() -> None:
    contents, on_demand = Contents(), {"residency": RouteResidency.ON_DEMAND}
    first, other = entry(V1), entry(V2, route="staging", **on_demand)
    forces = [InForce(tenant="acme", route=e.route, epoch=1, generation=1, release=e.current) for e in (first, other)]
    contents.apply(Change(at_ms=1, entries=(first, other), in_force=tuple(forces)))
    index = contents.index
    assert (index.resting[V1.id], index.resting[V2.id], index.held) == ([KEY], [other.key], (V1.id,))
    assert index.resting[BASE] == [KEY, other.key]
    contents.apply(Change(at_ms=2, engines=(ENGINE,)))
    assert contents.index is index, "engines are not what a pointer rests on"
    contents.apply(Change(at_ms=3, pins=(pin(V2),)))
    assert (contents.index.resting[V2.id], contents.index.held) == ([KEY, other.key], (V1.id,))
    contents.become(Contents())
    assert contents.index.resting == {}


# ---- reading ---------------------------------------------------------------------------------------------------


def test_a_last_line_torn_at_any_byte_is_dropped(folder: Path) -> None:
    path = written(folder, *(Change(at_ms=n, position=(1, n, "0" * 64), entries=(entry(V1, n),)) for n in (1, 2)))
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for cut in (*range(last, last + 12), *range(last + 12, len(whole) - 4, 41), *range(len(whole) - 4, len(whole) - 1)):
        for tail in (b"", b"\0" * 7):
            path.write_bytes(whole[:cut] + tail)
            table = Table(folder)
            assert (table.contents.cursor.rev, table.contents.entries[KEY].generation) == (1, 1)
            table.close()
            assert path.read_bytes().count(b"\n") == 1  # compacted: what was torn is gone from the file too
    path.write_bytes(whole)
    table = Table(folder)
    assert table.contents.entries[KEY].generation == 2
    table.close()


def test_a_damaged_line_with_whole_ones_after_it_is_not_passed_over(folder: Path) -> None:
    path = written(folder, *(Change(at_ms=n, entries=(entry(V1, n),)) for n in (1, 2)))
    damaged = path.read_bytes().replace(b'"generation":1', b'"generation":3', 1)
    path.write_bytes(damaged)
    with pytest.raises(TableFault) as fault:
        Table(folder)
    assert fault.value.code == "table_corrupt"
    assert path.read_bytes() == damaged


def test_the_first_damaged_line_is_named_and_the_folder_is_given_back(folder: Path) -> None:
    path = written(folder, change(1), change(2))
    opened, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(opened + b"\n" + b"damaged\n" + b"damaged too\n" + b"".join(rest))
    with pytest.raises(TableFault, match=f"^table_corrupt: {path}: line 3 is damaged and whole lines follow it"):
        Table(folder)
    path.unlink()
    Table(folder).close()


def test_damaged_lines_at_the_end_are_dropped_however_many(folder: Path) -> None:
    path = written(folder, change(1))
    path.write_bytes(path.read_bytes() + b"damaged\n" + b"damaged too\n")
    table = Table(folder)
    assert table.contents.cursor.rev == 1
    table.close()


@pytest.mark.parametrize(
    "damaged",
    [
        line(change(2).model_dump_json().encode(), crc=1),
        line(change(2).model_dump_json().encode())[1:],
        b"0" + line(change(2).model_dump_json().encode()),
        b"notahexa " + change(2).model_dump_json().encode() + b"\n",
        line(b'{"at_ms": "no number"}'),
        line(b"{"),
    ],
    ids=["another checksum", "seven digits", "nine digits", "no digits", "not a change", "not JSON"],
)
def test_a_line_counts_only_if_its_checksum_and_its_form_are_right(folder: Path, damaged: bytes) -> None:
    path = written(folder, change(1))
    path.write_bytes(path.read_bytes() + damaged)
    assert read_contents(folder).cursor.rev == 1
    table = Table(folder)
    assert table.contents.cursor.rev == 1
    table.close()


def test_a_line_whose_text_has_spaces_is_read_whole(folder: Path) -> None:
    noted = pin(V2).model_copy(update={"reason": "the hub is gone, ann decided"})
    written(folder, Change(at_ms=1, pins=(noted,)))
    assert read_contents(folder).pins == {KEY: noted}
    table = Table(folder)
    assert table.contents.pins == {KEY: noted}
    table.close()


def test_compaction_keeps_everything_and_one_line(folder: Path) -> None:
    table = Table(folder)
    for n in range(1, 30):
        table.append(made := change(n))
        table.contents.apply(made)
    table.append(made := Change(at_ms=1, pins=(pin(V2),), unpins=(), engines=(ENGINE,)))
    table.contents.apply(made)
    held = table.contents
    table.close()
    opened_ms = now_ms()
    again = Table(folder)
    assert again.contents == held
    assert again.contents.cursor.hash == held.cursor.hash
    assert len(again.contents.entries) == 30 // 10
    raw = (folder / "table.jsonl").read_bytes()
    assert raw.count(b"\n") == 1
    assert opened_ms <= Change.model_validate_json(raw[9:]).at_ms <= now_ms()
    again.close()


def test_without_a_router_the_table_is_read_without_its_lock_and_nothing_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(folder)
    table.append(change(1))
    path = folder / "table.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\ndamaged\n", 1))
    before = path.read_bytes()
    synced: list[int] = []
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: (synced.append(os.fstat(file).st_ino), sync(file))[1])
    contents = read_contents(folder)
    assert (contents.cursor.rev, list(contents.entries)) == (1, [("t1", "production")])
    assert synced == [path.stat().st_ino], "what is returned is on the disk"
    assert path.read_bytes() == before
    table.close()


def test_a_line_that_is_appended_after_the_sync_is_not_returned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that runs and does not answer may append; a power failure would take that line back."""
    path = written(folder, change(1))
    sync = os.fdatasync

    def append(file: int) -> None:
        sync(file)
        path.write_bytes(path.read_bytes() + line(change(2).model_dump_json().encode()))

    monkeypatch.setattr(os, "fdatasync", append)
    assert read_contents(folder).cursor.rev == 1


def test_an_absent_table_reads_as_an_empty_one_and_is_not_made(folder: Path) -> None:
    assert read_contents(folder) == Contents()
    assert not folder.exists()


# ---- opening ---------------------------------------------------------------------------------------------------


def test_one_router_at_a_time_and_the_lock_ends_with_it(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    (folder / "router.lock").write_text("a very long line of an earlier version\n")
    first = Table(folder)
    assert (folder / "router.lock").read_text() == f"{os.getpid()}\n"
    for _ in range(2):
        with pytest.raises(TableFault) as refused:
            Table(folder)
        assert refused.value.code == "router_running"
        assert refused.value.title == "The table is in use."
        assert str(folder / "router.lock") in refused.value.detail
        assert "stop it first" in refused.value.fix
    first.close()
    Table(folder).close()


def test_only_its_owner_may_read_the_table(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    table = Table(folder)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"router": 0o700, "router.lock": 0o600, "table.jsonl": 0o600}
    table.close()


def test_opening_and_closing_leaves_no_descriptor_open(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    table = Table(folder)
    table.compact()
    table.compact()
    assert len(os.listdir("/proc/self/fd")) == before + 2, "the file and the lock"
    with pytest.raises(TableFault):
        Table(folder)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    table.close()
    path = folder / "table.jsonl"
    path.write_bytes(b"damaged\n" + path.read_bytes())
    with pytest.raises(TableFault):
        Table(folder)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_child_process_inherits_neither_the_lock_nor_the_file(folder: Path) -> None:
    """Else an engine that outlives its router would hold the router's lock."""
    table = Table(folder)
    assert not os.get_inheritable(table._lock)
    assert not os.get_inheritable(table._file)
    table.close()


def test_the_files_age_is_the_hubs_silence_and_opening_keeps_it(folder: Path) -> None:
    path = written(folder, change(1))
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))
    for _ in range(2):
        table = Table(folder)
        assert table.hub_silent_s > 3599
        assert 1000 * (hour_ago + table.hub_silent_s) <= now_ms() + 1
        table.close()
    assert abs(path.stat().st_mtime - hour_ago) < 1
    table = Table(folder)
    table.mark_hub_seen()
    table.close()
    assert path.stat().st_mtime > hour_ago + 3599
    os.utime(path, (hour_ago + 7200, hour_ago + 7200))
    table = Table(folder)
    assert table.hub_silent_s == 0.0, "a clock that was put back"
    table.close()


def test_a_table_without_a_file_has_just_heard_its_hub(folder: Path) -> None:
    made_ms = now_ms()
    table = Table(folder)
    assert made_ms <= made_ms + 1000 * table.hub_silent_s <= now_ms() + 1
    assert (folder / "table.jsonl").stat().st_mtime > made_ms / 1000 - 1, "the kernel stamps files by its last tick"
    table.close()


# ---- writing ---------------------------------------------------------------------------------------------------


class Calls:
    """The calls on the disk, in order; the ones that are named fail, each once."""

    NAMES = ("write", "fdatasync", "fsync", "rename", "ftruncate")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.failing: dict[str, int] = {}
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Any) -> Any:
        def call(*args: Any) -> Any:
            self.made.append(name)
            if (code := self.failing.pop(name, None)) is not None:
                raise OSError(code, os.strerror(code))
            return real(*args)

        return call


@pytest.fixture
def opened(folder: Path) -> Table:
    return Table(folder)


def test_an_append_is_on_the_disk_when_it_returns(opened: Table, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    opened.append(change(1))
    opened.append(change(2))
    assert calls.made == ["write", "fdatasync"] * 2
    assert read_contents(folder).cursor.rev == 2
    assert opened.contents == Contents(), "the caller applies it, once it is durable"
    opened.close()


def test_a_write_that_comes_back_short_is_gone_on_with(
    opened: Table, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:7]))
    opened.append(change(1))
    assert read_contents(folder).cursor.rev == 1
    opened.close()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EFBIG, "disk_full"),
        (errno.EIO, "table_write_failed"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_refused_append_leaves_the_file_as_it_was(
    opened: Table, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, told: str
) -> None:
    opened.append(change(1))
    path = folder / "table.jsonl"
    before = path.read_bytes()
    calls = Calls(monkeypatch)
    calls.failing = {call: code}
    with pytest.raises(TableFault, match=f"^{told}: {path}: {os.strerror(code)}") as fault:
        opened.append(change(2))
    assert fault.value.code == told
    assert "nothing changed" in fault.value.title
    assert "repair the disk" in fault.value.fix
    assert calls.made[-2:] == ["ftruncate", "fdatasync"]
    assert path.read_bytes() == before
    opened.append(change(3))
    assert read_contents(folder).cursor.rev == 3
    opened.close()


def test_what_a_refused_append_could_not_cut_back_the_next_one_does(
    opened: Table, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.append(change(1))
    calls = Calls(monkeypatch)
    calls.failing = {"fdatasync": errno.EIO, "ftruncate": errno.EIO}
    with pytest.raises(TableFault):
        opened.append(change(2))
    calls.made.clear()
    opened.append(change(3))
    assert calls.made == ["ftruncate", "write", "fdatasync"]
    opened.append(change(4))
    opened.close()
    held = Table(folder)
    assert {e.tenant: e.generation for e in held.contents.entries.values()} == {"t0": 3, "t1": 4}
    assert held.contents.cursor.rev == 4
    held.close()


def test_a_compaction_is_synced_before_it_replaces_the_file_and_its_folder_after(
    opened: Table, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.append(made := change(1))
    opened.contents.apply(made)
    opened.append(change(2))
    calls = Calls(monkeypatch)
    opened.compact()
    assert calls.made == ["write", "fsync", "rename", "fsync"]
    assert read_contents(folder).cursor.rev == 1, "only what was applied"
    calls.made.clear()
    opened.append(change(3))
    assert calls.made == ["write", "fdatasync"], "the new file's end is known"
    assert read_contents(folder).cursor.rev == 3
    opened.close()


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_compaction_that_fails_leaves_the_old_file_in_use(
    opened: Table, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    opened.append(change(1))
    before = len(os.listdir("/proc/self/fd"))
    calls = Calls(monkeypatch)
    calls.failing = {call: errno.EIO}
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        opened.compact()
    assert len(os.listdir("/proc/self/fd")) == before
    opened.append(change(2))
    assert read_contents(folder).cursor.rev == 2
    opened.contents.apply(change(2))
    opened.compact()
    assert read_contents(folder).cursor.rev == 2, "what the failed one left beside it is written over"
    opened.close()


def test_a_compaction_whose_name_is_not_durable_is_gone_on_with_and_the_next_append_makes_it_so(
    opened: Table, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr("loradeck_agent.router.table.fsync_folder", broken)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            opened.compact()
        with pytest.raises(TableFault, match=r"^table_write_failed: "):
            opened.append(change(1))
    assert len(os.listdir("/proc/self/fd")) == before
    calls = Calls(monkeypatch)
    opened.append(change(2))
    opened.append(change(3))
    assert calls.made == ["fsync", "write", "fdatasync", "write", "fdatasync"]
    assert read_contents(folder).cursor.rev == 3, "the file that has the name is the one that is written"
    opened.close()


def test_a_table_whose_name_cannot_be_made_durable_is_read_and_made_so_before_anything_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    written(folder, change(1))
    with monkeypatch.context() as patched:
        patched.setattr("loradeck_agent.router.table.fsync_folder", broken)
        table = Table(folder)
        assert table.contents.cursor.rev == 1
        assert os.strerror(errno.EIO) in table.trouble
        with pytest.raises(TableFault, match=r"^table_write_failed: "):
            table.append(change(2))
        table.mend()
        assert table.trouble
    table.append(change(2))
    table.mend()
    assert (table.trouble, read_contents(folder).cursor.rev) == ("", 1), "compacted to what was applied"
    table.close()


# ---- full disks ------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as made:
        yield made


@pytest.mark.parametrize("take", [fill, take_inodes])
def test_a_table_on_a_full_disk_is_read_and_mends_by_itself(disk: Path, take: Callable[[Path], Path]) -> None:
    folder = disk / "router"
    written(folder, change(1), change(2))
    taken = take(disk)
    table = Table(folder)
    assert (table.contents.cursor.rev, len(table.contents.entries)) == (2, 2)
    assert os.strerror(errno.ENOSPC) in table.trouble
    assert not (folder / "table.new").exists()
    table.append(made := change(3))  # out of its reserve
    table.contents.apply(made)
    table.mend()
    assert table.trouble
    shutil.rmtree(taken) if taken.is_dir() else taken.unlink()
    table.mend()
    assert table.trouble == ""
    table.close()
    assert read_contents(folder).cursor.rev == 3
    assert (folder / "table.jsonl").read_bytes().count(b"\n") == 1


def test_moves_have_room_on_a_full_disk_and_a_restart_keeps_the_reserve(disk: Path) -> None:
    folder = disk / "router"
    written(folder, change(1))
    fill(disk)
    for n in range(2, 102):
        if n % 25 == 0:
            fill(disk)  # whatever came free is somebody else's
        table = Table(folder)
        table.append(change(n))
        table.close()
    assert read_contents(folder).cursor.rev == 101


def test_a_table_without_room_for_a_reserve_is_one_without(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        written(disk / "router", change(1))
        taken = fill(disk)
        table = Table(disk / "router")
        with suppress(TableFault):
            for n in range(2, 200):
                table.append(change(n))
        assert read_contents(disk / "router").cursor.rev < 199
        assert os.strerror(errno.ENOSPC) in table.trouble
        taken.unlink()
        table.append(change(200))
        assert read_contents(disk / "router").cursor.rev == 200
        table.close()


def test_a_torn_line_is_written_over_where_the_file_cannot_be_made_anew(disk: Path) -> None:
    path = written(disk / "router", change(1), change(2))
    path.write_bytes(path.read_bytes()[:-7])
    fill(disk)
    table = Table(disk / "router")
    assert (table.contents.cursor.rev, bool(table.trouble)) == (1, True)
    table.append(change(3))
    table.close()
    again = Table(disk / "router")
    assert again.contents.cursor.rev == 3
    again.close()


@pytest.mark.parametrize(
    ("size", "compacted", "bloated"),
    [
        (4 * 2**20, 1, False),
        (4 * 2**20 + 1, 1, True),
        (4 * 2**20 + 1, 2**20, True),
        (4 * 2**20 + 1, 2**20 + 1, False),
    ],
)
def test_a_file_is_bloated_beyond_4_mib_and_four_times_its_contents(
    opened: Table, size: int, compacted: int, bloated: bool
) -> None:
    opened._end, opened._compacted_to = size, compacted
    assert opened.bloated is bloated
    opened.close()


def test_the_size_that_counts_as_bloated_is_that_of_the_lines(opened: Table, folder: Path) -> None:
    size = (folder / "table.jsonl").stat().st_size
    assert (opened._end, opened._compacted_to) == (size, size)
    opened.append(change(1))
    assert opened._end == (folder / "table.jsonl").stat().st_size > size
    assert opened._compacted_to == size
    opened.close()
