"""Canary records: the greedy tokens that a release answers its canaries with, by engine build.

The hub keeps them as attestations, and `rules.serving.canaries` says which count. A copy of what was used is
kept here, so that proof goes on without the hub.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from loradeck.rules.serving.canaries import Agreed, Stated, agreed, alike, is_wanted
from loradeck.schemas.attestation import Attestation, AttestationKind, CanaryItem, CanaryRecord, EngineBuild
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)


@dataclass
class CanaryRecords:
    """Canary records by (release, build), from the folder and the hub, where this node's voice goes by its name."""

    folder: Path
    hub: HubApi
    node: str
    _known: dict[tuple[str, str], dict[str, CanaryItem]] = field(default_factory=dict)
    _stated: dict[tuple[str, str], list[Stated]] = field(default_factory=dict)
    """(Release, build) -> the records that the hub has, of those that it was asked for since the agent started."""
    _disputed: dict[tuple[str, str], Agreed] = field(default_factory=dict)
    _kept_back: list[Attestation] = field(default_factory=list)

    def known(self, release: str, build: EngineBuild) -> CanaryRecord | None:
        """Reads the canary record of a release that is kept on this node, without asking the hub."""
        items = self._items(release, build)
        return CanaryRecord(release=release, build=build, items=tuple(items.values())) if items else None

    def disputed(self, release: str, build: EngineBuild, prompts: Iterable[str]) -> tuple[str, ...]:
        """Names nodes that contradict each other about one of some prompts; () if none do, as far as is known here."""
        found = self._disputed.get((release, build.key), Agreed()).disputed
        return next((found[prompt] for prompt in prompts if prompt in found), ())

    async def find(self, release: str, build: EngineBuild, prompts: Iterable[str]) -> CanaryRecord | None:
        """Finds the record of a release with some prompts (digests), and asks the hub for those that are missing here.

        A hub that cannot be asked is no error: what is kept here is the answer.
        """
        if not set(prompts) <= self._items(release, build).keys():
            await self._refresh(release, build)
        return self.known(release, build)

    async def changed(self, release: str, build: EngineBuild) -> bool:
        """Asks the hub for the record of a release again, and tells whether it is another than was kept here."""
        before = self._items(release, build)
        await self._refresh(release, build)
        return self._items(release, build) != before

    async def add(self, ref: ReleaseRef, build: EngineBuild, items: Iterable[CanaryItem]) -> CanaryRecord:
        """Records what this node's engine answers, where that is news or one of the first voices.

        Returns the record that counts from now on. It may be other nodes': then the caller's own tokens have to match
        theirs.
        """
        key, said, held = (ref.id, build.key), tuple(items), self._items(ref.id, build)
        if any(item.prompt in held and not alike(item, held[item.prompt]) for item in said):
            await self._refresh(ref.id, build)  # withdrawn or replaced since, or this node is the first to notice
        known = self._stated.get(key)
        new = tuple(i for i in said if (is_wanted(i, self.node, known) if known is not None else i.prompt not in held))
        if new:
            record = CanaryRecord(release=ref.id, build=build, items=new)
            attestation = Attestation.of(AttestationKind.CANARY, ref.id, ref.release.tenant, record)
            try:
                await self.hub.attest(attestation)
            except AgentError as error:
                log.warning("the canary record of %s stays on this node for now: %s", ref.id[:6], error)
                if isinstance(error, Unreachable):
                    self._kept_back.append(attestation)
            else:
                await self._refresh(ref.id, build)
            unknown = {item.prompt: item for item in new if not self.disputed(ref.id, build, [item.prompt])}
            await self._keep(ref.id, build, unknown | self._items(ref.id, build))
        return self.known(ref.id, build) or CanaryRecord(release=ref.id, build=build, items=())

    async def send_kept_back(self) -> None:
        """Uploads records that could not be uploaded when they were made."""
        while self._kept_back:
            await self.hub.attest(self._kept_back[0])
            self._kept_back.pop(0)

    async def _refresh(self, release: str, build: EngineBuild) -> None:
        """Asks the hub for what counts now; it may have none of the records that were made without it."""
        try:
            found = await self.hub.canary_records(release)
        except AgentError as error:
            log.info("canary records of %s cannot be fetched: %s", release[:6], error)
            return
        stated = []
        for attestation in found:
            try:
                record = CanaryRecord.model_validate(attestation.body)
            except ValidationError as error:
                log.warning("attestation %d is no canary record: %s", attestation.seq, error.errors()[0]["msg"])
                continue
            if record.release == release and record.build.key == build.key:
                stated.append(Stated(attestation.seq, attestation.by, record))
        now = agreed(stated)
        self._stated[release, build.key], self._disputed[release, build.key] = stated, now
        named = {item.prompt for one in stated for item in one.record.items}
        own = {prompt: item for prompt, item in self._items(release, build).items() if prompt not in named}
        await self._keep(release, build, own | dict(now.items))

    async def _keep(self, release: str, build: EngineBuild, items: dict[str, CanaryItem]) -> None:
        """Keeps what counts from now on, on the disk too."""
        if items == self._items(release, build):
            return
        self._known[release, build.key] = items
        record = CanaryRecord(release=release, build=build, items=tuple(items.values()))
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
