"""The hub of one process over a folder: it stands by, and is active whenever it holds the lease of its database."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.blobs.folder import open_blobs
from loradeck.artifacts.blobs.keyed import KeyedBlobs
from loradeck.artifacts.blobs.row_keys import RowKeys
from loradeck.hub.access.auth import Tokens
from loradeck.hub.access.people import SIGN_INS, people
from loradeck.hub.access.sign_ins import KnownCallers
from loradeck.hub.data.erasure_list import KEYS
from loradeck.hub.hub import Hub
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.disk_reserve import DiskReserve
from loradeck.hub.log.signing import private_key
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.log.takeover import Standby, TakenLease
from loradeck.hub.recovery.backups import EVERY_S
from loradeck.hub.standby import StandbyHub
from loradeck.rules.moves.witness import WithoutStandby
from loradeck.schemas.dataset_ledger import NameModels
from loradeck.schemas.sign_in import OidcSettings
from loradeck.schemas.tenant import TokenRecord
from loradeck.store.opening import SQLITE, open_store

if TYPE_CHECKING:
    from loradeck.hub.access.membership import Membership

log = logging.getLogger("loradeck.hub.process")


class HubProcess:
    """The store, and the hub over it: one that stands by, or the active one. The caller closes the store thread.

    `address` is where callers elsewhere reach this hub, `database` the URL of a PostgreSQL database in the place of the
    file in `data`, `artifacts` that of an object store in the place of the folder in it. While it is active it makes a
    backup in `backup_to` every `backup_every_s` seconds, and tells people on the channels of the file `notices`. Rows
    lie under keys in the folder `keys`: without a `database` one in `data`, else none, as each hub has to have them.
    The models `names` look for names in rows that come in.

    Raises: StoreError (`store_unusable`, `disk_full`), or as `open_blobs`: nothing was changed.
    """

    def __init__(
        self,
        data: Path,
        *,
        name: str,
        production: bool = False,
        oidc: OidcSettings | None = None,
        address: str = "",
        database: str | None = None,
        backup_to: Path | None = None,
        backup_every_s: float = EVERY_S,
        artifacts: str | None = None,
        notices: Path | None = None,
        names: NameModels | None = None,
        without_standby: WithoutStandby = WithoutStandby.REFUSE,
        keys: Path | None = None,
        key_program: Path | None = None,
    ) -> None:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.chmod(0o700)
        self._blobs = open_blobs(artifacts, data / "artifacts")
        self._keys: RowKeys | None = None
        if keys is not None or database is None:
            self._keys = RowKeys(keys or data / "keys", key_program, own=keys is None)
            self._blobs = KeyedBlobs(self._blobs, self._keys)
        where, degrades = database or str(data / "hub.db"), without_standby is WithoutStandby.DEGRADE
        reserve = None if database else DiskReserve(data / "reserve")
        self.store = StoreThread(lambda: open_store(where, degrades=degrades), reserve)
        self._sqlite = "" if database else SQLITE
        if self._keys is not None:
            self._check_keys(self._keys)
        self.standby = Standby(self.store, name, address)
        self._data, self._address = data, address
        self._name, self._production, self._oidc = name, production, oidc
        self._backups = (backup_to, backup_every_s) if backup_to is not None else None
        self._notices, self._names = notices, names
        self._hub: Hub | None = None
        saved, tokens = self.store.now(lambda s: (s.meta(SIGN_INS), s.tokens()))
        provider, sign_ins = people(oidc, saved, Clock().now_ms)
        self._callers = KnownCallers(Tokens(tokens), sign_ins), provider
        """Whom it lets in while it stands by, also where the database cannot be read then."""

    def _check_keys(self, keys: RowKeys) -> None:
        """Refuses another database's folder of keys at the start; one that cannot be read is looked at again later."""
        log_id, kept = self.store.now(lambda s: (s.read_head().log, s.meta(KEYS)))
        try:
            keys.claim(log_id, kept, make=False)
        except (OSError, BadArtifact) as error:
            if keys.refused is not None:
                self.store.close()
                raise
            log.error("whose the folder of keys is was not read yet: %s", error)

    def active(self, hold: TakenLease) -> Hub:
        """The active hub. Blocking."""
        if self._hub is None:
            self._blobs.sweep_copies()  # whoever used this folder before is gone
        self._hub = hub = Hub(
            self.store,
            self._blobs,
            hold=hold,
            name=self._name,
            key=private_key(self._data / "hub.key"),
            production=self._production,
            sqlite=self._sqlite,
            oidc=self._oidc,
        )

        members = self._membership(hub.tokens, lambda record: self.store(lambda s: s.put_token(record)))
        hub.membership = hub.dated.membership = members
        if self._backups is not None:
            hub.keep_backups(*self._backups)
        hub.datasets.names = self._names
        if self._notices is not None:
            hub.keep_notices(self._notices)
        return hub

    def standing_by(self) -> StandbyHub:
        """The hub that stands by. It lets in whom the active one of this process knew last."""
        if self._hub is not None:  # the log is read anew: whatever is left of that hub cannot touch it
            self._callers = self._hub.known, self._hub.provider
            folds = (*self.standby.proofs, self._hub.log.fold(self._name))
            proofs = tuple(fold for fold in folds if not self._hub.lost.is_decided(fold.state.hash))
            self.standby = Standby(self.store, self._name, self._address, proofs=proofs)
        known, provider = self._callers
        waits = StandbyHub(self.store, self.standby, known, provider, name=self._name)

        async def save(record: TokenRecord) -> None:
            """Only the active hub writes."""

        waits.membership = self._membership(known.tokens, save)
        return waits

    def _membership(self, tokens: Tokens, save: Callable[[TokenRecord], Awaitable[None]]) -> Membership | None:
        """The nodes that a hub with an authority lets in. The hub's own certificate is renewed if it is due."""
        if not (self._data / "tls").exists():
            return None
        from loradeck.hub.access.authority import Authority  # with what it imports 10 MB of memory
        from loradeck.hub.access.membership import Membership

        authority = Authority(self._data)
        authority.renew_server(time.time_ns() // 1_000_000)
        return Membership(authority, tokens, save, Clock().now_ms)
