"""Takes canaries and judges them, on an idle engine at a load and, later, through the router; and keeps their records.

A record is the greedy tokens that a release answers its canaries with, by engine build. The hub keeps them as
attestations, and `rules.serving.canaries` says which count. A copy of what was used is kept here, so that proof
goes on without the hub.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from loradeck.rules.serving.canaries import Agreed, Stated, agreed, alike, is_wanted
from loradeck.rules.serving.proof import Judgement, Level, judge
from loradeck.schemas.attestation import Attestation, AttestationKind, CanaryItem, CanaryRecord, EngineBuild
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import Form
from loradeck.schemas.table import ReleaseRef, TableEntry
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.serving.engine_api import Canaries, Conversation, prompt_digest
from loradeck_agent.serving.replica import EngineReplica
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


SAID_S = 60.0
"""How long what a base has said is taken for other tenants too: many are loaded one after the other."""

DISPUTED = "canary_disputed"
"""Code of a judgement: nodes recorded answers that contradict each other, and none counts."""


def canaries_of(entries: Iterable[TableEntry], release: str) -> Canaries:
    """Lists the canaries of every entry that names a release, each once."""
    found: dict[str, tuple[dict[str, str], ...]] = {}
    for entry in entries:
        if any(ref.id == release for ref in entry.refs):
            found.update({prompt_digest(messages): messages for messages in entry.canaries})
    return tuple(found.values())


def near(entries: Iterable[TableEntry], release: str) -> list[ReleaseRef]:
    """Lists other releases of the pointers that name a release: what a load that went wrong would most likely be."""
    found: dict[str, ReleaseRef] = {}
    for entry in entries:
        if any(ref.id == release for ref in entry.refs):
            found.update({ref.id: ref for ref in entry.refs if ref.id != release})
    return list(found.values())


def _of(asked: Sequence[str], record: CanaryRecord | None) -> CanaryRecord | None:
    """A record of the prompts that were asked; None without any. Those of other prompts say nothing about them."""
    items = tuple(item for item in record.items if item.prompt in asked) if record is not None else ()
    return record.model_copy(update={"items": items}) if record is not None and items else None


async def take(engine: EngineReplica, model: str, canaries: Sequence[Conversation]) -> tuple[CanaryItem, ...]:
    """Asks an engine on its own socket for the greedy tokens of each canary, all at once."""
    return tuple(await asyncio.gather(*(engine.api.canary(model, messages) for messages in canaries)))


async def recorded_base(
    engine: EngineReplica, records: CanaryRecords, tenant: str, canaries: Canaries
) -> CanaryRecord | None:
    """Finds the base's own record for some canaries, and takes it now where nobody has recorded it.

    The base answers each tenant alike: what it was asked for one in this lifetime of the engine is not asked again for
    another, for `SAID_S` seconds: the record may be withdrawn. What is missing once more for a tenant was withdrawn, or
    is disputed, and is asked anew.
    """
    build = engine.build
    ref = ReleaseRef.of_base(tenant, build.base)
    record = await records.find(ref.id, build.build, map(prompt_digest, canaries))
    have = {item.prompt for item in record.items} if record else set()
    missing = [messages for messages in canaries if prompt_digest(messages) not in have]
    if not missing:
        return record
    said = engine.said_by_base  # of this lifetime: another one begins with another dict
    asked = {prompt_digest(messages): messages for messages in missing}
    now = time.monotonic()
    kept = {prompt for prompt, (_, at, of) in said.items() if ref.id not in of and now - at < SAID_S}
    unasked = [messages for prompt, messages in asked.items() if prompt not in kept]
    said.update((item.prompt, (item, now, set[str]())) for item in await take(engine, build.base_name, unasked))
    for prompt in asked:
        said[prompt][2].add(ref.id)
    return await records.add(ref, build.build, [said[prompt][0] for prompt in asked])


async def verify_idle(
    engine: EngineReplica, records: CanaryRecords, ref: ReleaseRef, canaries: Canaries, near: Sequence[ReleaseRef]
) -> Judgement:
    """Judges a release that was just loaded and serves nobody yet, and adds the records that are missing.

    `near`: the other releases of its pointers. Tokens that are the base's or one of theirs are not recorded:
    this may be a load that went wrong, and a later right one would then be called wrong.
    """
    build = engine.build
    base = await recorded_base(engine, records, ref.release.tenant, canaries)
    items = await take(engine, ref.engine_name or build.base_name, canaries)
    await records.find(ref.id, build.build, [item.prompt for item in items])
    if ref.release.form is Form.BASE and items:
        await records.add(ref, build.build, items)  # its files were compared by digest when the engine started
    elif ref.release.form is Form.ADAPTER and items:
        own = CanaryRecord(release=ref.id, build=build.build, items=tuple(items))
        asked = [item.prompt for item in items]
        known = [base, *(_of(asked, records.known(other.id, build.build)) for other in near)]
        others = {other.release: other for other in known if other is not None}
        if judge(items, own, others, is_base=False).level is Level.PROVEN:
            await records.add(ref, build.build, items)
    return await judge_items(engine, records, ref, items, left=None, near=near)


async def judge_items(
    engine: EngineReplica,
    records: CanaryRecords,
    ref: ReleaseRef,
    items: Sequence[CanaryItem],
    *,
    left: ReleaseRef | None,
    near: Sequence[ReleaseRef],
) -> Judgement:
    """Judges tokens against the records of the release, of the base, and of releases they could be instead.

    Tokens that differ from a record are judged once more if the hub has another one by now.

    Args:
        left: the release that the pointer came from: where nobody has its record, it cannot be ruled out.
        near: releases that are ruled out where their records are known here.
    """
    build = engine.build
    asked = [item.prompt for item in items]
    if not asked:
        return Judgement(level=Level.LISTED, code="no_canaries", detail="the route has no canaries")
    # Merged weights are known by what their engine's own base answers: there is nothing else in it.
    known_by = ReleaseRef.of_base(ref.release.tenant, build.base) if ref.release.form is Form.MERGED else ref
    verdict = await _judged(engine, records, ref, known_by, items, left, near)
    if verdict.code == "canary_mismatch" and await records.changed(known_by.id, build.build):
        verdict = await _judged(engine, records, ref, known_by, items, left, near)
    return verdict


async def _judged(
    engine: EngineReplica,
    records: CanaryRecords,
    ref: ReleaseRef,
    known_by: ReleaseRef,
    items: Sequence[CanaryItem],
    left: ReleaseRef | None,
    near: Sequence[ReleaseRef],
) -> Judgement:
    build, asked = engine.build, [item.prompt for item in items]
    record = _of(asked, await records.find(known_by.id, build.build, asked))
    names = records.disputed(known_by.id, build.build, asked)
    if names and record is None:
        return Judgement(level=Level.LISTED, code=DISPUTED, detail=f"{', '.join(names)} contradict each other")
    if ref.release.form is Form.BASE:
        return judge(items, record, {}, is_base=True)
    others: dict[str, CanaryRecord | None] = {}
    rivals = [ReleaseRef.of_base(ref.release.tenant, ref.release.base), *([left] if left else [])]
    called = {other.id: other.label or short(other.id) for other in (*near, *rivals)}
    called[rivals[0].id] = "the base alone"
    for rival in rivals:
        known = _of(asked, await records.find(rival.id, build.build, asked))
        # An engine of this base cannot answer as a release of another: that one is ruled out where it is known.
        if rival.id != ref.id and (known is not None or rival.release.served_base == build.base):
            others[rival.id] = known
    for other in near:
        known = _of(asked, records.known(other.id, build.build))
        if known is not None and other.id != ref.id:
            others[other.id] = known
    is_base = ref.release.form is Form.MERGED and not others
    return judge(items, record, others, is_base=is_base, called=called)


def undisputed(verdict: Judgement, ref: ReleaseRef) -> Judgement:
    """Returns a judgement about which nodes agree: a way back may be loaded all the same, nothing new is promoted.

    Raises: AgentError: `canary_disputed`: they contradict each other.
    """
    if verdict.code != DISPUTED:
        return verdict
    name = f"{ref.release.tenant} {ref.label or ref.id[:6]}"
    fix = f"see loradeck canary ls {name}, and withdraw the wrong one"
    raise AgentError(DISPUTED, "nodes recorded different answers of the release", verdict.detail, fix)


def wrong_answers(verdict: Judgement) -> AgentError:
    """Makes the error of a judgement that has failed."""
    title = "the engine does not answer the canaries as recorded"
    return AgentError(verdict.code or "canary_mismatch", title, verdict.detail)
