"""Takes canaries and judges them, on an idle engine at a load and, later, through the router."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from loradeck.rules.serving.proof import Judgement, Level, judge
from loradeck.schemas.attestation import CanaryItem, CanaryRecord
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import Form
from loradeck.schemas.table import ReleaseRef, TableEntry
from loradeck_agent.host.errors import AgentError
from loradeck_agent.serving.canary_records import CanaryRecords
from loradeck_agent.serving.engine_api import Canaries, Conversation, prompt_digest
from loradeck_agent.serving.replica import EngineReplica

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
