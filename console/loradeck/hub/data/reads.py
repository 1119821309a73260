"""Reads of rows: who was given a file of a dataset or suite, attested before its first byte is sent."""

from __future__ import annotations

from dataclasses import dataclass, field

from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.schemas.attestation import AttestationKind

ONCE_MS = 3_600_000
"""Reads of one file by one reader within so many milliseconds are attested once: it is read in pieces."""


@dataclass(eq=False)
class Reads:
    """Attests reads. What was attested lately is in memory."""

    _catalogue: Catalogue
    _attestations: Attestations
    _clock: Clock
    _noted: dict[tuple[str, str, str | None], int] = field(default_factory=dict, init=False)

    async def note(self, sha256: str, by: str, token: str | None) -> None:
        """Attests of every dataset and suite that names a file that somebody reads it."""
        named, now = self._catalogue.rows_in.get(sha256), self._clock.now_ms()
        if not named or now - self._noted.get((sha256, by, token), 0) < ONCE_MS:
            return
        tenants = {
            digest: (self._catalogue.datasets.get(digest) or self._catalogue.suites[digest]).tenant for digest in named
        }
        body = {"sha256": sha256, "token": token}
        draft = self._attestations.draft
        await self._attestations.add_all(
            [draft(AttestationKind.READ, digest, tenants[digest], body, by) for digest in sorted(named)]
        )
        self._noted = {key: at for key, at in self._noted.items() if now - at < ONCE_MS} | {(sha256, by, token): now}
