"""The list of revoked tokens and keys: what it and a database know is in both afterwards."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loradeck.artifacts.blobs.row_keys import RowKeys
from loradeck.hub.access.auth import Tokens
from loradeck.hub.recovery.revocations import Revocations, remember
from loradeck.schemas.ids import Role
from loradeck.schemas.tenant import TokenRecord


def token(name: str, *, revoked: bool = False) -> TokenRecord:
    return TokenRecord(
        id=name, name=name, role=Role.VIEWER, sha256=name * 64, created_ms=1, created_by="ann", revoked=revoked
    )


class Database:
    """A hub's store, of which only tokens are written."""

    def __init__(self) -> None:
        self.put: list[str] = []

    async def __call__(self, write: Callable[[Any], None]) -> None:
        write(SimpleNamespace(put_token=lambda record: self.put.append(record.id)))


def revocations(folder: Path, *records: TokenRecord) -> tuple[Revocations, Tokens, Database, list[str]]:
    tokens, database, ended = Tokens(records), Database(), list[str]()
    made = Revocations(RowKeys(folder, own=True), tokens, cast(Any, database), ended.append)
    return made, tokens, database, ended


async def test_what_was_revoked_is_revoked_again_in_an_older_database(tmp_path: Path) -> None:
    newer, *_ = revocations(tmp_path, token("a", revoked=True), token("b"))
    await newer.settle()
    older, tokens, database, ended = revocations(tmp_path, token("a"), token("b"))
    await older.settle()
    assert (database.put, ended) == (["a"], ["a"])
    assert [record.id for record in tokens.all() if tokens.is_valid(record)] == ["b"]
    await older.settle()
    assert database.put == ["a"], "once"


async def test_a_revocation_while_the_hub_runs_is_listed(tmp_path: Path) -> None:
    made, tokens, *_ = revocations(tmp_path, token("a"))
    await made.settle()
    tokens.put(token("a", revoked=True))
    await made.settle()
    path = tmp_path / "revoked.json"
    assert remember(path, set()) == {"a" * 64}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("damaged", [b"", b'["aaa'])
async def test_a_list_that_is_damaged_or_half_copied_is_left_as_it_is_and_read_once_it_is_whole(
    tmp_path: Path, damaged: bytes
) -> None:
    made, tokens, database, _ = revocations(tmp_path, token("a"), token("b", revoked=True))
    path = tmp_path / "revoked.json"
    path.write_bytes(damaged)
    await made.settle()
    assert path.read_bytes() == damaged
    assert database.put == []
    path.write_bytes(b'["' + b"a" * 64 + b'"]')
    await made.settle()
    assert database.put == ["a"]
    assert tokens.revoked == remember(path, set()) == {"a" * 64, "b" * 64}


async def test_without_keys_of_rows_there_is_no_list() -> None:
    tokens = Tokens([token("a", revoked=True)])
    await Revocations(None, tokens, cast(Any, Database()), lambda _: None).settle()
    assert tokens.revoked == frozenset()
