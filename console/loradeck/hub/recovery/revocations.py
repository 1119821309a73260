"""The list of revoked tokens and keys, beside the keys of rows and in no backup: an older database revives nobody.

It holds digests alone. A join token that was used is revoked too. Where rows lie under no keys there is no such list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from pathlib import Path

from pydantic import TypeAdapter

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.blobs.row_keys import RowKeys
from loradeck.artifacts.staging import replace_durably
from loradeck.hub.access.auth import Tokens
from loradeck.hub.log.store_thread import StoreThread
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.recovery.revocations")

_digests = TypeAdapter(frozenset[str])


@dataclass(eq=False)
class Revocations:
    """The list that one hub keeps. `_keys`: None where rows lie under no keys; then there is no list.

    `_ended` is called with the id of a token that is revoked again, so that links and feeds of it end.
    """

    _keys: RowKeys | None
    _tokens: Tokens
    _store: StoreThread
    _ended: Callable[[str], None]
    _is_read: bool = field(default=False, init=False)
    _trouble: str = field(default="", init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def settle(self) -> None:
        """Makes list and database agree, unless they do. What fails is logged once, and is tried again."""
        async with self._turn:
            try:
                await self._list()
                await self._revoke_again()
                self._trouble = ""
            except (OSError, ValueError, BadArtifact, StoreError) as error:
                if self._trouble != str(error):
                    self._trouble = str(error)
                    log.error("revocations are in the database alone, or in their list alone: %s", error)

    async def _list(self) -> None:
        revoked = {record.sha256 for record in self._tokens.all() if record.revoked}
        if self._keys is None or (self._is_read and revoked <= self._tokens.revoked):
            return
        remembered = partial(remember, self._keys.revoked, revoked)
        self._tokens.revoked = await asyncio.to_thread(self._keys.do, remembered)
        self._is_read = True

    async def _revoke_again(self) -> None:
        """Revokes what only the list has: this database is older than that."""
        listed = self._tokens.revoked
        again = [record for record in self._tokens.all() if record.sha256 in listed and not record.revoked]
        for record in again:
            revoked = record.model_copy(update={"revoked": True})
            await self._store(methodcaller("put_token", revoked))
            self._tokens.put(revoked)
            self._ended(revoked.id)
        if again:
            names = ", ".join(record.name for record in again[:8])
            log.warning("%d tokens and keys were revoked after this database was copied: again (%s)", len(again), names)


def remember(path: Path, revoked: Set[str]) -> frozenset[str]:
    """Adds digests to the list, durably, and returns all that it has. Raises: OSError; ValueError: it is damaged."""
    listed = _digests.validate_json(path.read_bytes()) if path.exists() else frozenset()
    if revoked - listed:
        replace_durably(path, _digests.dump_json(listed | revoked))
    return listed | revoked
