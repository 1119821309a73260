"""Texts of feedback under keys at a hub: sealed before they are written, unreadable once their keys are destroyed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.fleets.linked.hub import Deck, running
from tests.fleets.waiting import until
from tests.integration.hub.test_answer_ledger import now
from tests.integration.hub.test_feedback import PATH, allow, give, given, kept
from tests.integration.hub.test_row_keys import holding, restored
from tests.unit.artifacts.test_keyed_blobs import PROGRAM

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.blobs.row_keys import RowKeys
from loradeck.cli.commands.hub import hub
from loradeck.rules.clocks import DAY_MS

WAITING = "?waiting=true"
SECRET = "Ask Ann Example"


def corrected(request: str, text: str = SECRET, **fields: Any) -> dict[str, Any]:
    return given(request, kind="correction", value="", text=text, **fields)


async def tenant(deck: Deck, days: int = 30) -> None:
    await deck.tenant()
    await allow(deck, days)


async def imported(deck: Deck, *rows: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return await give(deck, *rows, role="releaser")


async def texts(deck: Deck) -> dict[str, str]:
    return {row["request"]: row["text"] or row["value"] for row in await kept(deck, WAITING)}


async def erase(deck: Deck, **which: str) -> int:
    return int((await deck.ok("POST", f"{PATH}/erase", which, client=await deck.as_role("releaser")))["removed"])


async def test_what_callers_wrote_lies_sealed_is_listed_and_searched_and_an_erasure_reaches_backups(
    data: Path, tmp_path: Path
) -> None:
    async with running(data, backup_to=tmp_path / "backup", backup_every_s=3600) as deck:
        await tenant(deck)
        said = corrected("r-1"), corrected("r-2", "It takes five days"), given("r-3", kind="label", value="Refund")
        await imported(deck, *said, given("r-4"))
        told = {"r-1": SECRET, "r-2": "It takes five days", "r-3": "Refund", "r-4": "down"}
        assert await texts(deck) == told
        backups = deck.hub.backups
        assert backups is not None
        await until(lambda: backups.last_ms, "the first one is made at once")
        made = await backups.make()
        for text in (b"Ann Example", b"five days", b"Refund"):
            assert holding(data, text) == holding(tmp_path / "backup", text) == []
        assert await erase(deck, containing="ann EXAMPLE") == await erase(deck, request="r-4") == 1
    restored(made, data)
    (data / "keys" / "erasures.jsonl").rename(tmp_path / "list")  # as if it were lost: the text is gone all the same
    async with running(data) as deck:
        assert await texts(deck) == {name: text for name, text in told.items() if name != "r-1"}
    (tmp_path / "list").rename(data / "keys" / "erasures.jsonl")
    async with running(data) as deck:
        assert await texts(deck) == {name: text for name, text in told.items() if name not in ("r-1", "r-4")}
        stated = await deck.ok("GET", "attestations?kind=withdrawn")
        assert [one["body"]["requests"] for one in stated] == [[["production", "r-1"]], [["production", "r-4"]]]


async def test_what_a_caller_has_replaced_is_read_in_no_copy(data: Path, tmp_path: Path) -> None:
    async with running(data, backup_to=tmp_path / "backup", backup_every_s=3600) as deck:
        await tenant(deck)
        await imported(deck, corrected("r-1"))
        assert deck.hub.backups is not None
        made = await deck.hub.backups.make()
        await imported(deck, corrected("r-1", "Ask us"))
        assert await texts(deck) == {"r-1": "Ask us"}
    restored(made, data)
    async with running(data) as deck:
        assert await texts(deck) == {}


async def test_offboarding_and_the_end_of_a_day_s_retention_destroy_the_keys(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def living() -> list[str]:
        return [path.name.split(".")[1] for path in (data / "keys" / "versions").glob("texts.*") if path.stat().st_size]

    async with running(data, backup_to=tmp_path / "backup", backup_every_s=3600) as deck:
        await tenant(deck, days=2)
        await deck.tenant("bolt")
        policy = (await deck.ok("GET", "tenants/bolt"))["data"] | {"feedback_days": 30}
        await deck.ok("PUT", "tenants/bolt/data-policy?reason=asked", policy)
        await imported(deck, corrected("r-1"))
        bolt = {"rows": [corrected("r-2")]}
        await deck.ok("POST", "tenants/bolt/feedback", bolt, client=await deck.as_role("releaser"))
        assert deck.hub.backups is not None
        made = await deck.hub.backups.make()
        assert sorted(living()) == ["acme", "bolt"]
        await deck.ok("POST", "tenants/bolt/offboard?reason=left")
        assert living() == ["acme"]
        later = now() + 4 * DAY_MS
        monkeypatch.setattr(deck.hub.clock, "now_ms", lambda: later)
        await deck.hub.feedback.keep()
        assert living() == []
        monkeypatch.undo()
        assert (await imported(deck, corrected("r-3")))[0] == 200, "today's key was destroyed, and there is another"
        assert await texts(deck) == {"r-3": SECRET}
    restored(made, data)
    async with running(data) as deck:
        assert await texts(deck) == {}
        bolt = await deck.ok("GET", f"tenants/bolt/feedback{WAITING}", client=await deck.as_role("releaser"))
        assert bolt["rows"] == []


async def test_texts_from_before_there_were_keys_are_sealed_at_the_start_once_their_tenants_keys_are_here(
    data: Path,
) -> None:
    async with running(data) as deck:
        deck.hub.feedback.keys = None
        await tenant(deck)
        await imported(deck, corrected("r-1"), given("r-2", value="up"))
    assert "hub.db" in " ".join(holding(data, b"Ann Example"))
    key = data / "keys" / "tenants" / "acme.key"
    key.write_bytes(b"damaged")
    async with running(data) as deck:
        with pytest.raises(BadArtifact, match="damaged"):
            await deck.hub.feedback.seal_all()
        assert await texts(deck) == {"r-1": SECRET, "r-2": "up"}, "nothing is lost"
    key.unlink()
    async with running(data) as deck:
        await until(lambda: list((data / "keys" / "versions").glob("texts.*")), "by itself")
        await deck.hub.feedback.seal_all()
        assert await texts(deck) == {"r-1": SECRET, "r-2": "up"}
    assert holding(data, b"Ann Example") == []


async def test_without_the_keys_it_says_so_and_nothing_is_lost(data: Path, tmp_path: Path) -> None:
    async with running(data) as deck:
        await tenant(deck)
        await imported(deck, corrected("r-1"), given("r-2"))
    tenants = data / "keys" / "tenants"
    tenants.rename(tmp_path / "tenants")
    async with running(data) as deck:
        releaser = await deck.as_role("releaser")
        for answer in (
            await releaser.get(f"{PATH}{WAITING}"),
            await releaser.post(PATH, json={"rows": [corrected("r-3")]}),
            await releaser.post(f"{PATH}/erase", json={"containing": "ann"}),
        ):
            said = answer.json()
            assert (answer.status_code, said["code"], "--keys" in said["fix"]) == (503, "key_unavailable", True)
        assert (await imported(deck, given("r-4")))[0] == 200, "a thumb needs no key"
        tenants.rmdir()
        (tmp_path / "tenants").rename(tenants)
        assert await texts(deck) == {"r-1": SECRET, "r-2": "down", "r-4": "down"}


async def test_an_older_loradeck_gets_texts_back_only_with_the_keys(data: Path, tmp_path: Path) -> None:
    async with running(data) as deck:
        await tenant(deck)
        await imported(deck, corrected("r-1"), corrected("r-2", "gone"), given("r-3"))
        (two,) = [
            row for _, row in await deck.hub.store(lambda s: s.texts(sealed=True, limit=9)) if row.request == "r-2"
        ]
        RowKeys(data / "keys").destroy_texts([two.sealed])
    words = ["migrate", "--from", str(data / "hub.db"), "--down", "0013_input_days", "--yes"]
    done = CliRunner().invoke(hub, words)
    assert (done.exit_code != 0, "--keys" in done.output) == (True, True)
    copy = tmp_path / "keys"
    shutil.copytree(data / "keys", copy)
    (copy / "tenants" / "acme.key").unlink()
    refused = CliRunner().invoke(hub, [*words, "--keys", str(copy)])
    assert (refused.exit_code != 0, "acme.key" in refused.output) == (True, True)
    done = CliRunner().invoke(hub, [*words, "--keys", str(data / "keys")])
    assert (done.exit_code, "taken back: 0014" in done.output) == (0, True), done.output
    connection = sqlite3.connect(data / "hub.db")
    bodies = dict(connection.execute("SELECT request, body FROM feedback").fetchall())
    connection.close()
    assert sorted(bodies) == ["r-1", "r-3"]
    assert SECRET in bodies["r-1"]


def test_two_hubs_seal_in_one_folder_and_each_reads_what_the_other_has_sealed(tmp_path: Path) -> None:
    first, second = (RowKeys(tmp_path / "keys") for _ in range(2))
    lying = [*first.seal_texts("acme", 7, ["a", "b"]), *second.seal_texts("acme", 7, ["c"])]
    lying += first.seal_texts("acme", 7, ["d"])
    assert list(first.open_texts(lying).values()) == list(second.open_texts(lying).values()) == ["a", "b", "c", "d"]
    second.destroy_texts(lying[1:2])
    assert list(first.open_texts(lying).values()) == ["a", "c", "d"]
    first.expire_texts({"acme": 8})
    assert second.open_texts(lying) == {}
    assert list(first.open_texts(first.seal_texts("acme", 7, ["e"])).values()) == ["e"], "kept for longer from now on"


def test_a_file_of_keys_that_a_full_disk_cut_off_mid_key_goes_on_after_it(tmp_path: Path) -> None:
    keys = RowKeys(tmp_path / "keys")
    lying = keys.seal_texts("acme", 7, ["a"])
    (path,) = (tmp_path / "keys" / "versions").iterdir()
    with path.open("ab") as file:
        file.write(b"x" * 5)
    lying += keys.seal_texts("acme", 7, ["b"])
    assert list(keys.open_texts(lying).values()) == ["a", "b"]


def test_an_older_copy_of_the_folder_of_keys_says_that_newer_keys_are_missing_and_not_destroyed(tmp_path: Path) -> None:
    keys = RowKeys(tmp_path / "keys")
    lying = keys.seal_texts("acme", 7, ["a"])
    shutil.copytree(tmp_path / "keys", tmp_path / "copy")
    lying += keys.seal_texts("acme", 7, ["b"])
    copy = RowKeys(tmp_path / "copy")
    assert list(copy.open_texts(lying[:1]).values()) == ["a"]
    with pytest.raises(BadArtifact, match="not here"):
        copy.open_texts(lying)
    (tmp_path / "copy" / "tenants" / "acme.key").unlink()
    with pytest.raises(BadArtifact, match="not here"):  # nor is another key of the tenant's made in its place
        copy.seal_texts("acme", 8, ["c"])


async def test_a_row_that_was_removed_is_in_no_page_of_the_database(data: Path) -> None:
    async with running(data) as deck:
        deck.hub.feedback.keys = None
        await tenant(deck)
        await imported(deck, *(corrected(f"r-{n}") for n in range(50)))
        assert await erase(deck, containing="Ann") == 50
    assert holding(data, b"Ann Example") == []


def test_a_program_that_holds_the_tenants_keys_is_asked_once_a_batch_and_ends_all_texts_of_a_tenant(
    tmp_path: Path,
) -> None:
    program, asked = tmp_path / "kms", tmp_path / "asked"
    program.write_text(PROGRAM.replace("case $1", f'echo "$1 $2" >> {asked}\ncase $1'))
    program.chmod(0o700)
    keys = RowKeys(tmp_path / "keys", program)
    lying = keys.seal_texts("acme", 7, ["a", "b", "c"])
    assert asked.read_text().splitlines() == ["wrap acme", "unwrap acme"]
    assert list(keys.open_texts(lying).values()) == ["a", "b", "c"]
    assert asked.read_text().splitlines()[2:] == ["unwrap acme"]
    keys.destroy([], ["acme"])
    assert (keys.open_texts(lying), (tmp_path / "acme.gone").exists()) == ({}, True)
    with pytest.raises(BadArtifact, match="destroyed"):
        keys.seal_texts("acme", 8, ["d"])
