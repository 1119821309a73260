"""Canary records: the greedy tokens that a release answers its canaries with, by engine build.

The hub keeps them as attestations; the first that was recorded for a prompt counts for ever. A copy of every
record that was used is kept here, so that proof goes on without the hub.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from loradeck.schemas.attestation import Attestation, AttestationKind, CanaryItem, CanaryRecord, EngineBuild
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)


@dataclass
class CanaryRecords:
    """Records by (release, build), from the folder and from the hub."""

    folder: Path
    hub: HubApi
    _known: dict[tuple[str, str], dict[str, CanaryItem]] = field(default_factory=dict)
    _kept_back: list[Attestation] = field(default_factory=list)

    def known(self, release: str, build: EngineBuild) -> CanaryRecord | None:
        """The record that is kept on this node; the hub is not asked."""
        items = self._items(release, build)
        return CanaryRecord(release=release, build=build, items=tuple(items.values())) if items else None

    async def find(self, release: str, build: EngineBuild, prompts: Iterable[str]) -> CanaryRecord | None:
        """The record with these prompts (digests) as far as anybody recorded them; the hub is asked for gaps.

        A hub that cannot be asked is no error: what is kept here is the answer.
        """
        if not set(prompts) <= self._items(release, build).keys():
            try:
                await self._fetch(release, build)
            except AgentError as error:
                log.info("canary records of %s cannot be fetched: %s", release[:6], error)
        return self.known(release, build)

    async def add(self, ref: ReleaseRef, build: EngineBuild, items: Iterable[CanaryItem]) -> CanaryRecord:
        """Records items whose prompts have no record yet. Returns the record that counts from now on.

        Another node's record may have come first at the hub: then that one is returned, and the caller's own
        tokens have to match it.
        """
        new = tuple(item for item in items if item.prompt not in self._items(ref.id, build))
        if new:
            record = CanaryRecord(release=ref.id, build=build, items=new)
            attestation = Attestation(
                kind=AttestationKind.CANARY,
                subject=ref.id,
                tenant=ref.release.tenant,
                body=record.model_dump(mode="json"),
                by="agent",
            )
            try:
                await self.hub.attest(attestation)
                await self._fetch(ref.id, build)
            except AgentError as error:
                log.warning("the canary record of %s stays on this node for now: %s", ref.id[:6], error)
                if isinstance(error, Unreachable):
                    self._kept_back.append(attestation)
            await self._keep(ref.id, build, new)
        held = self.known(ref.id, build)
        return held or CanaryRecord(release=ref.id, build=build, items=())

    async def send_kept_back(self) -> None:
        """Uploads records that could not be uploaded when they were made."""
        while self._kept_back:
            await self.hub.attest(self._kept_back[0])
            self._kept_back.pop(0)

    async def _fetch(self, release: str, build: EngineBuild) -> None:
        for attestation in await self.hub.canary_records(release):
            try:
                record = CanaryRecord.model_validate(attestation.body)
            except ValidationError as error:
                log.warning("attestation %d is no canary record: %s", attestation.seq, error.errors()[0]["msg"])
                continue
            if record.release == release and record.build.key == build.key:
                await self._keep(release, build, record.items)

    async def _keep(self, release: str, build: EngineBuild, items: Iterable[CanaryItem]) -> None:
        """Adds items for prompts that have none yet: the first recorded counts."""
        held = self._items(release, build)
        new = {item.prompt: item for item in items if item.prompt not in held}
        if not new:
            return
        held.update(new)
        record = CanaryRecord(release=release, build=build, items=tuple(held.values()))
        try:
            await asyncio.to_thread(write_durably, self._path(release, build), record.model_dump_json().encode())
        except OSError as error:
            log.warning("a canary record is kept in memory only: %s", error)

    def _items(self, release: str, build: EngineBuild) -> dict[str, CanaryItem]:
        key = (release, build.key)
        if key not in self._known:
            self._known[key] = self._read(release, build)
        return self._known[key]

    def _read(self, release: str, build: EngineBuild) -> dict[str, CanaryItem]:
        try:
            record = CanaryRecord.model_validate_json(self._path(release, build).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            log.warning("a kept canary record cannot be read, the hub is asked: %s", error)
            return {}
        return {item.prompt: item for item in record.items}

    def _path(self, release: str, build: EngineBuild) -> Path:
        return self.folder / f"{release}-{hashlib.sha256(build.key.encode()).hexdigest()[:16]}.json"
