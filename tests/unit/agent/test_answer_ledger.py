"""A node's answer ledger: rows become files, files become chained segments, and the hub gets each of them once."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows import ledger_rows
from loradeck.artifacts.rows.ledger_rows import head_of, rows_of, sealed
from loradeck.schemas.answer_ledger import LedgerRow, SegmentHead
from loradeck.schemas.ids import GENESIS
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.router import ledger_files
from loradeck_agent.router.ledger_files import LedgerFiles
from loradeck_agent.router.trace import Row
from loradeck_agent.uplink import router_files
from loradeck_agent.uplink.router_files import LedgerSegments, waiting_and_lost

NOW = 1_790_000_000_000


def row(request: str, tenant: str = "acme", **fields: object) -> Row:
    told = {
        "route": "production",
        "release": "a" * 64,
        "generation": 3,
        "replica": "n1/e0",
        "streamed": False,
        "admitted_ns": 10**9,
        "admitted_ms": NOW,
        "finished_ns": 3 * 10**9,
        "status": 200,
        "epoch": 2,
    }
    return Row(request=request, tenant=tenant, **(told | fields))  # type: ignore[arg-type]


class Hub:
    """Takes segments, or refuses them with a code."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, bytes]] = []
        self.refuses: dict[str, str] = {}
        self.took = asyncio.Event()

    async def put_segment(self, tenant: str, sha256: str, segment: bytes) -> bool:
        if tenant in self.refuses:
            raise AgentError(self.refuses[tenant], "no")
        self.taken.append((tenant, sha256, segment))
        self.took.set()
        return True


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    made = StateFolder(tmp_path / "state")
    made.make()
    return made


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def segments(folder: StateFolder, hub: Hub) -> LedgerSegments:
    return LedgerSegments(folder, hub, "n1", lambda: {"n1/e0": "fake|cpu"})  # type: ignore[arg-type]


async def write(folder: StateFolder, *rows: Row, boot: str = "b1") -> None:
    files = LedgerFiles(folder.ledger_rows, boot)
    for one in rows:
        files.add(one)
    await files.close()


def test_a_row_reads_as_the_schema_has_it() -> None:
    told = LedgerRow.model_validate_json(
        row(
            "r-1",
            streamed=True,
            first_token_ns=2 * 10**9,
            checked=True,
            fault="schema",
            parameters={"temperature": 0.2, "seed": 7, "response_format": "text"},
        ).ledger_line()
    )

    assert (told.request, told.generation, told.epoch, told.replica) == ("r-1", 3, 2, "n1/e0")
    assert (told.first_token_ms, told.finished_ms) == (NOW + 1000, NOW + 2000)
    assert (told.streamed, told.checked, told.bad, told.fault) == (True, True, True, "schema")
    assert told.parameters == {"temperature": 0.2, "seed": 7, "response_format": "text"}
    assert LedgerRow.model_validate_json(row("r-2").ledger_line()).first_token_ms is None


async def test_a_row_costs_the_way_of_its_request_no_more_than_a_note(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    files = LedgerFiles(folder.ledger_rows, "b1")
    monkeypatch.setattr(files, "_write", lambda data: bool(written.append(data)) or True)
    for n in range(1000):
        files.add(row(f"r-{n}"))
    assert written == []
    turns = 0

    async def callers() -> None:
        nonlocal turns
        while not written:
            turns += 1
            await asyncio.sleep(0)

    await asyncio.gather(callers(), files.close())

    assert turns >= 1000 // ledger_files._AT_ONCE, "callers are served between the rows that are put into words"
    assert written[0].count(b"\n") == 1000


async def test_rows_that_find_no_room_in_memory_are_counted_in_the_next_segment(
    folder: StateFolder, segments: LedgerSegments, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_files, "WAITING", 2)

    await write(folder, *(row(f"r-{n}") for n in range(5)))
    segments.seal()
    await segments.send()

    head = head_of(hub.taken[0][2])
    assert (head.rows, head.lost) == (2, 3)


async def test_each_tenant_has_segments_of_its_own_and_each_names_the_one_before_it(
    folder: StateFolder, segments: LedgerSegments, hub: Hub
) -> None:
    await write(folder, row("r-1"), row("r-2", "globex", admitted_ms=NOW + 5), row("r-3", admitted_ms=NOW - 5))
    segments.seal()
    await write(folder, row("r-4"), boot="b2")
    segments.seal()
    await segments.send()

    heads = [head_of(made) for _, _, made in hub.taken]
    assert [(h.tenant, h.seq, h.rows, h.first_ms, h.last_ms) for h in heads] == [
        ("acme", 1, 2, NOW - 5, NOW),
        ("globex", 1, 1, NOW + 5, NOW + 5),
        ("acme", 2, 1, NOW, NOW),
    ]
    assert [h.prev for h in heads] == [GENESIS, GENESIS, hub.taken[0][1]]
    assert len({h.chain for h in heads}) == 1
    assert all(hashlib.sha256(made).hexdigest() == sha256 for _, sha256, made in hub.taken)
    assert heads[0].builds == {"n1/e0": "fake|cpu"}
    assert [r.request for r in rows_of([hub.taken[0][2]], ("r-3",))] == ["r-3"]
    assert list(folder.ledger_rows.iterdir()) == []
    assert [path.name for path in folder.ledger.iterdir()] == ["chain.json"]


async def test_the_file_of_a_router_that_runs_is_left_and_of_one_that_was_killed_is_taken(
    folder: StateFolder, segments: LedgerSegments
) -> None:
    files = LedgerFiles(folder.ledger_rows, "b1")
    files.add(row("r-1"))
    await files._flush()

    assert segments.seal() == 0

    (opened,) = folder.ledger_rows.iterdir()
    with opened.open("ab") as file:  # it was killed in the middle of a line, and what is written has no lock
        file.write(b"acme\t17")
    left = opened.with_name("0000000000001-b0.open")
    left.write_bytes(opened.read_bytes())

    assert segments.seal() == 1
    (made,) = folder.ledger.glob("*.segment")
    assert head_of(made.read_bytes()).rows == 1
    assert not left.exists()
    assert opened.exists()
    await files.close()


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4])
async def test_an_agent_that_is_killed_while_it_seals_seals_every_row_once(
    folder: StateFolder, segments: LedgerSegments, hub: Hub, dies_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(folder, row("r-1"), row("r-2", "globex"))
    steps = 0

    class Killed(BaseException):
        pass

    def dying(path: Path, data: bytes) -> None:
        nonlocal steps
        steps += 1
        if steps == dies_at:
            raise Killed
        wrote(path, data)

    wrote = router_files.write_durably
    monkeypatch.setattr(router_files, "write_durably", dying)
    with pytest.raises(Killed):
        segments.seal()
    monkeypatch.setattr(router_files, "write_durably", wrote)

    segments.seal()
    await segments.send()

    assert [(tenant, head_of(made).seq, head_of(made).rows) for tenant, _, made in hub.taken] == [
        ("acme", 1, 1),
        ("globex", 1, 1),
    ]


async def test_an_agent_that_is_killed_before_the_sealed_file_is_gone_does_not_seal_it_again(
    folder: StateFolder, segments: LedgerSegments, hub: Hub
) -> None:
    await write(folder, row("r-1"))
    (path,) = folder.ledger_rows.iterdir()
    kept = path.read_bytes()
    segments.seal()
    path.write_bytes(kept)

    segments.seal()
    await segments.send()

    assert len(hub.taken) == 1
    assert not path.exists()


async def test_a_segment_waits_for_a_hub_and_one_that_no_hub_will_take_does_not_hold_the_others_up(
    folder: StateFolder, segments: LedgerSegments, hub: Hub
) -> None:
    await write(folder, row("r-1"), row("r-2", "globex"), row("r-3", "initech"), row("r-4", "umbrella"))
    segments.seal()
    hub.refuses = {"acme": "bad_segment", "globex": "unknown_tenant", "initech": "store_unavailable"}

    await segments.send()
    assert hub.taken == []
    assert [path.name.split(".")[1] for path in sorted(folder.ledger.glob("*.segment"))] == [
        "globex",
        "initech",
        "umbrella",
    ]

    hub.refuses = {"globex": "unknown_tenant"}
    await segments.send()
    assert [tenant for tenant, _, _ in hub.taken] == ["initech", "umbrella"]

    hub.refuses = {}
    await segments.send()
    assert [tenant for tenant, _, _ in hub.taken] == ["initech", "umbrella", "globex"]


async def test_the_oldest_segment_goes_where_no_hub_takes_them_and_its_rows_are_counted(
    folder: StateFolder, segments: LedgerSegments, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(folder, row("r-1"), row("r-2"))
    segments.seal()
    assert waiting_and_lost(folder) == (1, 0)
    monkeypatch.setattr(router_files, "FOLDER_BYTES", 1)
    await write(folder, row("r-3"), boot="b2")
    segments.seal()
    assert waiting_and_lost(folder) == (0, 3)
    monkeypatch.setattr(router_files, "FOLDER_BYTES", 1 << 20)
    await write(folder, row("r-4"), boot="b3")
    segments.seal()
    await segments.send()

    (head,) = [head_of(made) for _, _, made in hub.taken]
    assert (head.seq, head.lost) == (3, 3)


def test_what_is_no_segment_is_refused_with_the_reason() -> None:
    head = SegmentHead(node="n1", tenant="acme", chain="c" * 32, seq=1, first_ms=1, last_ms=2, rows=1)
    whole = sealed(head, [row("r-1").ledger_line().encode()])

    assert head_of(whole) == head
    for broken in (b"", b"no", whole[:20], sealed(head, [])[:-9]):
        with pytest.raises(BadArtifact, match="no segment"):
            list(rows_of([broken], ("r-1",)))
    with pytest.raises(BadArtifact, match="no segment"):
        head_of(b"no")
    with pytest.raises(BadArtifact, match="no segment"):
        list(rows_of([sealed(head, [b'{"request": "r-1"}'])], ("r-1",)))


def test_a_segment_that_unpacks_to_more_than_a_node_ever_writes_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    head = SegmentHead(node="n1", tenant="acme", chain="c" * 32, seq=1, first_ms=1, last_ms=2, rows=1)
    bomb = sealed(head, [b" " * 100_000] * 100)
    assert len(bomb) < 100_000
    monkeypatch.setattr(ledger_rows, "TEXT_BYTES", 1_000_000)
    with pytest.raises(BadArtifact, match="no segment"):
        list(rows_of([bomb], ("r-1",)))


async def test_rows_from_before_and_after_the_clock_was_set_are_in_segments_of_their_own(
    folder: StateFolder, segments: LedgerSegments, hub: Hub
) -> None:
    month = 30 * 86_400_000
    await write(folder, row("r-1"), row("r-2", admitted_ms=NOW - month), row("r-3"))
    segments.seal()
    await segments.send()

    heads = [head_of(made) for _, _, made in hub.taken]
    assert [(h.seq, h.rows, h.first_ms, h.last_ms) for h in heads] == [
        (1, 1, NOW - month, NOW - month),
        (2, 2, NOW, NOW),
    ]


async def test_what_is_damaged_on_the_disk_is_counted_and_holds_nothing_up(
    folder: StateFolder, segments: LedgerSegments, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(folder, row("r-1"))
    (path,) = folder.ledger_rows.iterdir()
    lines = (b"acme\t-5\t{}\n", b"acme\tno\t{}\n", b"../up\t5\t{}\n", b"\xff\t5\t{}\n", b"\tmany\n", b"\n", b"acme")
    path.write_bytes(path.read_bytes() + b"".join(lines))
    segments.seal()
    (made,) = folder.ledger.glob("*.segment")
    assert (head_of(made.read_bytes()).rows, head_of(made.read_bytes()).lost) == (1, 6)
    made.write_bytes(b"damaged")
    hub.refuses = {"acme": "bad_segment"}

    await segments.send()
    assert list(folder.ledger.glob("*.segment")) == []
    hub.refuses = {}
    await write(folder, row("r-2"), boot="b2")
    monkeypatch.setattr(router_files, "FOLDER_BYTES", 0)
    segments.seal()
    (folder.ledger / "000000000099.acme.9.segment").write_bytes(b"damaged")
    await write(folder, row("r-3"), boot="b3")
    segments.seal()
    assert list(folder.ledger.glob("*.segment")) == []


async def test_a_fault_of_the_disk_holds_the_ledger_up_until_the_next_look_and_ends_nothing(
    folder: StateFolder, segments: LedgerSegments, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_files, "LOOK_S", 0.001)
    monkeypatch.setattr(router_files, "SPREAD_S", 0.0)
    await write(folder, row("r-1"))
    wrote, faults = router_files.write_durably, iter([OSError(28, "full"), BadArtifact("bad_segment", "damaged")])

    def failing(path: Path, data: bytes) -> None:
        if (fault := next(faults, None)) is not None:
            raise fault
        wrote(path, data)

    monkeypatch.setattr(router_files, "write_durably", failing)
    running = asyncio.create_task(segments.run())
    async with asyncio.timeout(60):
        await hub.took.wait()
    running.cancel()

    assert [head_of(made).rows for _, _, made in hub.taken] == [1]


async def test_what_is_sealed_is_sent_though_the_disk_takes_no_more(
    folder: StateFolder, segments: LedgerSegments, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what makes room. A file that was sealed in part is left to be sealed whole, and no part of it is sent."""
    monkeypatch.setattr(router_files, "LOOK_S", 0.001)
    await write(folder, row("r-1"))
    segments.seal()
    await write(folder, row("r-2"), row("r-3", "globex"), boot="b2")
    wrote = router_files.write_durably

    def full(path: Path, data: bytes) -> None:
        if ".globex." in path.name:
            raise OSError(28, "full")
        wrote(path, data)

    monkeypatch.setattr(router_files, "write_durably", full)
    running = asyncio.create_task(segments.run())
    async with asyncio.timeout(60):
        await hub.took.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert [(tenant, head_of(made).seq) for tenant, _, made in hub.taken] == [("acme", 1)]
    assert len(list(folder.ledger_rows.glob("*.rows"))) == 1


async def test_a_disk_that_completes_no_file_ends_no_router_and_keeps_no_file_locked(
    folder: StateFolder, segments: LedgerSegments, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, target: Path) -> Path:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "rename", read_only)
        await write(folder, row("r-1"))
    assert segments.seal() == 1
    await segments.send()
    assert [head_of(made).rows for _, _, made in hub.taken] == [1]


async def test_the_files_of_killed_routers_count_against_the_room_of_the_folder(folder: StateFolder) -> None:
    """A router that is killed again and again, beside an agent that is down, would fill the disk with them."""
    rows = folder.ledger_rows
    running = LedgerFiles(rows, "b9")
    running.add(row("r-9"))
    await running._flush()
    for n in range(3):
        (rows / f"000000000000{n}-b{n}.open").write_bytes(b"a line\n" * 10)

    assert ledger_files.give_up_oldest(rows, 100) == 20
    assert [path.name.partition("-")[2] for path in sorted(rows.iterdir())] == ["b2.open", "b9.open"]
    assert ledger_files.give_up_oldest(rows, 0) == 10
    assert [path.name.partition("-")[2] for path in sorted(rows.iterdir())] == ["b9.open"]
    await running.close()
