"""Backups by the clock: the database in steps, and the blobs that are new, into one folder."""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from loradeck.artifacts import BadArtifact, Blobs
from loradeck.artifacts.blobs.folder import FolderBlobs
from loradeck.artifacts.blobs.keyed import KeyedBlobs
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.store_thread import StoreThread
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.recovery.backups")

EVERY_S = 6 * 3600.0
"""Seconds between two backups, where nobody says otherwise."""

KEPT = 7
"""Copies of the database that are kept. A blob is kept for as long as its folder."""

RETRY_S = 60.0
"""Pause after a backup that failed, seconds."""


@dataclass(eq=False)
class Backups:
    """Makes a backup every `every_s` seconds. In `folder` lie `hub-TIME.db`, the newest ones, and `artifacts/`."""

    _store: StoreThread
    _blobs: Blobs
    _clock: Clock
    folder: Path
    every_s: float
    last_ms: int | None = field(default=None, init=False)
    """When the newest one was made; None: there is none."""

    def __post_init__(self) -> None:
        self._began_ms = self._clock.now_ms()
        if made := self._made():
            self.last_ms = int(made[-1].stat().st_mtime * 1000)

    def _made(self) -> list[Path]:
        return sorted(self.folder.glob("hub-*.db"))

    @property
    def late(self) -> bool:
        """Whether two are overdue."""
        return self._clock.now_ms() - (self.last_ms or self._began_ms) > 2000 * self.every_s

    async def run(self) -> None:
        """Makes backups until cancelled. One that fails is logged and tried again."""
        while True:
            due_s = (self.last_ms or 0) / 1000 + self.every_s - self._clock.now_ms() / 1000
            await asyncio.sleep(min(max(0.0, due_s), self.every_s))
            try:
                await self.make()
            except (StoreError, OSError, BadArtifact) as error:
                log.error("no backup could be made in %s: %s", self.folder, error)
                await asyncio.sleep(min(RETRY_S, self.every_s))

    async def make(self) -> Path:
        """Makes one: the database, then each blob that it names. Raises: StoreError, OSError, BadArtifact."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        now_ms = self._clock.now_ms()
        path = self.folder / f"hub-{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%S.%fZ}.db"
        await self._store.long(lambda store, between: store.backup(str(path), between))
        copied = await asyncio.to_thread(self._copy_blobs)
        self.last_ms = now_ms
        for old in self._made()[:-KEPT]:
            old.unlink()
        log.info("backup %s, %d new blobs", path, copied)
        return path

    def _copy_blobs(self) -> int:
        """Copies what lies in the store, rows sealed, and removes copies of what is sealed by now."""
        target, stored, copied = FolderBlobs(self.folder / "artifacts"), self._blobs.stored, 0
        there, lying = target.listed(), stored.listed()
        if isinstance(self._blobs, KeyedBlobs):
            sealed = {sha256 for sha256, _ in self._blobs.keys.blobs()}
            target.delete(sealed & there.keys() - lying.keys())
        for sha256, size in lying.items():
            if sha256 not in there:
                with target.receive(sha256, size=size) as incoming:
                    for chunk in stored.open(sha256):
                        incoming.write(chunk)
                    incoming.keep()
                copied += 1
        return copied
