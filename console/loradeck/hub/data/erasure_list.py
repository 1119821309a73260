"""The list of erasures and offboardings, beside the keys of rows and in no backup: an older log gets them again.

Until it and the log agree, as after a start, nothing is promoted or trained, and no rows come in: what a restored log
has forgotten would be used again. What goes back works.
"""

import asyncio
import logging
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.blobs.row_keys import RowKeys, unavailable
from loradeck.artifacts.staging import replace_durably
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.clocks import HOUR_MS
from loradeck.rules.errors import Refused
from loradeck.rules.moves import tenants
from loradeck.rules.moves.draft import Actor
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.feedback import Withdrawn
from loradeck.schemas.ids import Role, digest_of
from loradeck.store.interface import StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.data.erasure_list")

RETIRED = "descends from erased rows"
"""How the reason begins for which an erasure revokes a release."""

KEYS = "row_keys"
"""The store's setting that holds the id of the folder of keys."""

TAKEOVER_S, START_S = 0.25, 2.0
"""Seconds for which a takeover, and the start of a hub alone, wait for a folder that does not answer."""

ACTOR = Actor(name="erasures", role=Role.RELEASER, automation=True)

Files = tuple[tuple[int, int, int] | None, ...]
"""Node, size and time of change of each file of the list; None: there is no such file."""

_names = TypeAdapter(frozenset[str])


@dataclass(eq=False)
class ErasureList:
    """The list of erasures that one hub keeps. `_keys`: None where rows lie under no keys; then there is no list."""

    _keys: RowKeys | None
    _log: Log
    _store: StoreThread
    _attestations: Attestations
    _allowed: MovesAllowed
    _trouble: str = field(default="it was not read yet", init=False)
    """Why the list and the log may not agree; empty once they do."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _gone: frozenset[str] = field(default=frozenset(), init=False)
    """The tenants that the list has as offboarded."""
    _damaged: Files | None = field(default=None, init=False)
    """What the files were like when they could not be read, or when they had changed since; None: they were read."""

    def check(self) -> None:
        """Does nothing while list and log agree. Raises: Refused: `erasures_unread`."""
        why = self._trouble or "".join(f"{name} was offboarded, and is not yet again" for name in self._back()[:1])
        if self._keys is not None and why:
            title = "list and log of erasures do not agree yet: what a restored log has forgotten would come back"
            fix = (
                "bring the folder of keys back, or a copy of a damaged list; the hub looks again, and R works meanwhile"
            )
            raise Refused("erasures_unread", title, detail=f"{self._keys.erasures}: {why}", fix=fix)

    def _back(self) -> list[str]:
        """The offboarded tenants that the log has as if they were not: it was restored, or recovered from nodes."""
        known = self._log.state.tenants
        return sorted(name for name in self._gone if name in known and not known[name].offboarded)

    async def settle(self) -> None:
        """Makes list and log agree, unless they do; what fails is logged, and is tried again by the next call."""
        try:
            if self._trouble:
                await self.agree()
            for name in self._back():
                async with self._log.moving:
                    why = "the log was older than its offboarding"
                    draft = tenants.offboard(self._log.state.tenant(name), ACTOR, reason=why)
                    self._allowed.check_all([draft])
                    await self._log.commit([draft], f"offboard {name} {self._log.state.rev}")
        except (Refused, StoreError) as error:
            log.error("erasures and offboardings wait: %s %s", error, getattr(error, "detail", ""))

    async def agree(self) -> None:
        """States in the log what only the list has, and lists what only the log has.

        Raises: Refused: `erasures_unread`; StoreError.
        """
        if (keys := self._keys) is None:
            return
        async with self._turn:
            kept, id_, stated = await self._store(lambda s: (s.meta(KEYS), s.read_head().log, statements(s)))
            gone = {name for name, tenant in self._log.state.tenants.items() if tenant.offboarded}

            def read() -> tuple[str | None, list[Attestation], frozenset[str]]:
                before = self._damaged
                self._damaged = keys.do(lambda: look(keys))
                if before not in (None, self._damaged):
                    # An empty file, or half of one, reads like a list that is short: copying begins with it.
                    raise unavailable("it is being put back, and is read once it has settled", keys.folder)
                claimed = keys.claim(id_, kept)
                lacking = keys.do(lambda: remember(keys.erasures, stated))
                offboarded = keys.do(lambda: remember_offboarded(keys.offboarded, gone))
                self._damaged = None
                return claimed, lacking, offboarded

            try:
                claimed, lacking, self._gone = await asyncio.to_thread(read)
            except (OSError, ValueError, BadArtifact) as error:
                self._trouble = str(error)
                return self.check()
            if claimed is not None and claimed != kept:
                await self._store(lambda s: s.set_meta(KEYS, claimed))
            if lacking:
                await self._store(partial(_withdraw, lacking))
                await self._attestations.add_all(lacking)
                log.warning("%d statements of erasures were not in this log: they are made again", len(lacking))
            self._trouble = ""


def look(keys: RowKeys) -> Files:
    """Tells files that somebody is still writing from those that lie as they did at the last look."""
    found = [path.stat() if path.exists() else None for path in (keys.erasures, keys.offboarded)]
    return tuple(stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in found)


def remember(path: Path, stated: Iterable[Attestation]) -> list[Attestation]:
    """Adds statements of erasures to the list, durably, and returns those that only the list has."""
    # Only a line feed ends a line: a reason may hold other characters at which Python would split.
    lines = list(filter(None, path.read_bytes().decode().split("\n"))) if path.exists() else []
    listed = {_key(one): one for one in map(Attestation.model_validate_json, lines)}
    given = {_key(one): one for one in stated}
    if added := [given[key].model_dump_json() for key in given.keys() - listed.keys()]:
        replace_durably(path, "\n".join([*lines, *sorted(added)]).encode())
    return [one for key, one in listed.items() if key not in given]


def remember_offboarded(path: Path, stated: Set[str]) -> frozenset[str]:
    """Adds the names of offboarded tenants to the list, durably, and returns all that it has."""
    listed = _names.validate_json(path.read_bytes()) if path.exists() else frozenset()
    if stated - listed:
        replace_durably(path, _names.dump_json(listed | stated))
    return listed | stated


def statements(store: Store) -> list[Attestation]:
    """Reads all statements that belong to erasures from the log."""
    revoked = store.attestations(kind=AttestationKind.REVOCATION)
    return [
        *store.attestations(kind=AttestationKind.ERASURE),
        *store.attestations(kind=AttestationKind.ERASED_ELSEWHERE),
        *store.attestations(kind=AttestationKind.WITHDRAWN),
        *(one for one in revoked if str(one.body.get("reason", "")).startswith(RETIRED)),
    ]


def _withdraw(stated: Iterable[Attestation], store: Store) -> None:
    """Drops the feedback that withdrawals are about; it is taken from up to an hour ahead."""
    for one in stated:
        if one.kind is AttestationKind.WITHDRAWN:
            requests = [request for _, request in Withdrawn.model_validate(one.body).requests]
            store.withdraw_feedback(one.tenant, requests, one.at_ms + HOUR_MS)


def _key(statement: Attestation) -> tuple[str, str, str, int, str]:
    return statement.kind, statement.subject, statement.tenant, statement.at_ms, digest_of(statement.body)
