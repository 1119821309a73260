"""Canary records: what counts of what nodes recorded, and the hub is not needed for what is known."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from loradeck.schemas.attestation import Attestation, AttestationKind, CanaryItem, CanaryRecord, EngineBuild
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import Unreachable
from loradeck_agent.serving import canaries
from loradeck_agent.serving.canaries import SAID_S, CanaryRecords, recorded_base
from loradeck_agent.serving.engine_api import prompt_digest
from loradeck_agent.serving.replica import EngineReplica

BUILD = EngineBuild(engine="fake 1", device="cpu", dtype="float32")
OTHER = EngineBuild(engine="fake 2", device="cpu", dtype="float32")
RELEASE = Release(tenant="acme", form=Form.ADAPTER, base="b" * 64, adapter="a" * 64)
REF = ReleaseRef(id=RELEASE.id, release=RELEASE)


def item(prompt: str, *tokens: int) -> CanaryItem:
    return CanaryItem(prompt=prompt * 64, tokens=tokens, margins=(2.0,) * len(tokens))


def damage(folder: Path) -> None:
    (kept,) = folder.iterdir()
    kept.write_text("{")


class HubDouble:
    def __init__(self) -> None:
        self.attestations: list[Attestation] = []
        self.down = False
        self.asked = 0

    async def canary_records(self, release: str) -> tuple[Attestation, ...]:
        self.asked += 1
        if self.down:
            raise Unreachable("hub", "refused")
        return tuple(a for a in self.attestations if a.subject == release)

    async def attest(self, attestation: Attestation) -> None:
        if self.down:
            raise Unreachable("hub", "refused")
        self.attestations.append(attestation.model_copy(update={"seq": len(self.attestations) + 1, "by": "me"}))

    def hold(self, *items: CanaryItem, build: EngineBuild = BUILD, by: str = "x", **more: Any) -> None:
        record = CanaryRecord(release=RELEASE.id, build=build, items=items, **more)
        self.attestations.append(
            Attestation(
                seq=len(self.attestations) + 1,
                kind=AttestationKind.CANARY,
                subject=RELEASE.id,
                tenant="acme",
                body=record.model_dump(mode="json"),
                by=by,
            )
        )


def records(folder: Path, hub: HubDouble) -> CanaryRecords:
    return CanaryRecords(folder, hub, "me")  # type: ignore[arg-type]


ONE = "1" * 64


def tokens(record: CanaryRecord | None) -> dict[str, tuple[int, ...]]:
    return {i.prompt[0]: i.tokens for i in (record.items if record else ())}


async def test_records_of_several_nodes_add_up(tmp_path: Path) -> None:
    hub = HubDouble()
    hub.hold(item("1", 1, 2))
    hub.hold(item("1", 1, 2), item("2", 3), by="y")
    assert tokens(await records(tmp_path, hub).find(RELEASE.id, BUILD, [ONE, "2" * 64])) == {"1": (1, 2), "2": (3,)}


async def test_a_false_record_is_contradicted_and_counts_no_more_once_two_nodes_say_so(tmp_path: Path) -> None:
    hub = HubDouble()
    hub.hold(item("1", 9), by="liar")
    mine = records(tmp_path, hub)
    assert tokens(await mine.find(RELEASE.id, BUILD, [ONE])) == {"1": (9,)}
    assert tokens(await mine.add(REF, BUILD, [item("1", 1)])) == {}
    assert mine.disputed(RELEASE.id, BUILD, [ONE]) == ("liar", "me")
    hub.hold(item("1", 1), by="third")
    assert await mine.changed(RELEASE.id, BUILD)
    assert tokens(mine.known(RELEASE.id, BUILD)) == {"1": (1,)}
    assert mine.disputed(RELEASE.id, BUILD, [ONE]) == ()
    assert tokens(records(tmp_path, hub).known(RELEASE.id, BUILD)) == {"1": (1,)}, "on the disk too"


async def test_what_a_person_withdraws_or_records_with_a_reason_counts(tmp_path: Path) -> None:
    hub = HubDouble()
    hub.hold(item("1", 9), by="liar")
    mine = records(tmp_path, hub)
    await mine.add(REF, BUILD, [item("1", 1)])
    hub.hold(by="anna", withdraws=(1,), reason="that node is not ours")
    assert await mine.changed(RELEASE.id, BUILD)
    assert tokens(mine.known(RELEASE.id, BUILD)) == {"1": (1,)}
    hub.hold(item("1", 5), by="anna", reason="measured by hand")
    assert await mine.changed(RELEASE.id, BUILD)
    assert tokens(mine.known(RELEASE.id, BUILD)) == {"1": (5,)}


async def test_a_node_records_once_and_only_while_few_have(tmp_path: Path) -> None:
    hub = HubDouble()
    mine = records(tmp_path, hub)
    for _ in range(2):
        await mine.find(RELEASE.id, BUILD, [ONE])
        await mine.add(REF, BUILD, [item("1", 1)])
    assert len(hub.attestations) == 1
    full = HubDouble()
    for by in ("a", "b", "c"):
        full.hold(item("1", 1), by=by)
    other = records(tmp_path / "other", full)
    await other.find(RELEASE.id, BUILD, [ONE])
    await other.add(REF, BUILD, [item("1", 1)])
    assert len(full.attestations) == 3


async def test_another_builds_record_says_nothing(tmp_path: Path) -> None:
    hub = HubDouble()
    hub.hold(item("1", 1), build=OTHER)
    assert await records(tmp_path, hub).find(RELEASE.id, BUILD, ["1" * 64]) is None


async def test_what_was_used_once_is_known_without_the_hub(tmp_path: Path) -> None:
    hub = HubDouble()
    hub.hold(item("1", 1))
    await records(tmp_path, hub).find(RELEASE.id, BUILD, ["1" * 64])
    hub.down = True
    again = records(tmp_path, hub)
    found = await again.find(RELEASE.id, BUILD, ["1" * 64])
    assert found is not None
    assert hub.asked == 1, "the second time nobody is asked"


async def test_a_record_made_without_the_hub_is_uploaded_when_it_is_back(tmp_path: Path) -> None:
    hub = HubDouble()
    hub.down = True
    mine = records(tmp_path, hub)
    await mine.add(REF, BUILD, [item("1", 1)])
    assert mine.known(RELEASE.id, BUILD) is not None
    hub.down = False
    await mine.send_kept_back()
    assert [a.body["items"][0]["tokens"] for a in hub.attestations] == [[1]]
    await mine.send_kept_back()
    assert len(hub.attestations) == 1


async def test_a_damaged_copy_is_asked_for_again(tmp_path: Path) -> None:
    hub = HubDouble()
    hub.hold(item("1", 1))
    await records(tmp_path, hub).find(RELEASE.id, BUILD, ["1" * 64])
    damage(tmp_path)
    assert await records(tmp_path, hub).find(RELEASE.id, BUILD, ["1" * 64]) is not None
    assert hub.asked == 2


async def test_an_attestation_that_is_no_record_is_passed_over(tmp_path: Path) -> None:
    hub = HubDouble()
    hub.attestations.append(
        Attestation(kind=AttestationKind.CANARY, subject=RELEASE.id, tenant="acme", body={"x": 1}, by="x")
    )
    hub.hold(item("1", 1))
    assert await records(tmp_path, hub).find(RELEASE.id, BUILD, ["1" * 64]) is not None


async def test_what_a_base_said_is_kept_for_other_tenants_until_it_is_withdrawn_or_the_engine_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, asked, answer = HubDouble(), list[str](), 1
    mine, messages = records(tmp_path, hub), ({"role": "user", "content": "hello"},)
    prompt = prompt_digest(messages)

    async def canary(model: str, messages: Any) -> CanaryItem:
        asked.append(model)
        return CanaryItem(prompt=prompt, tokens=(answer,), margins=(2.0,))

    engine: Any = SimpleNamespace(
        build=SimpleNamespace(base="b" * 64, build=BUILD, boot="boot", base_name="base"),
        api=SimpleNamespace(canary=canary),
        said_by_base={},
    )

    async def said(tenant: str) -> tuple[int, ...]:
        record = await recorded_base(engine, mine, tenant, (messages,))
        return record.items[0].tokens if record is not None and record.items else ()

    assert [await said("acme"), await said("bolt"), asked] == [(1,), (1,), ["base"]]
    answer, base = 2, ReleaseRef.of_base("acme", "b" * 64).id
    withdrawn = CanaryRecord(release=base, build=BUILD, items=(), withdraws=(1,), reason="it was faulty")
    body = withdrawn.model_dump(mode="json")
    hub.attestations.append(
        Attestation(seq=3, kind=AttestationKind.CANARY, subject=base, tenant="acme", body=body, by="anna")
    )
    assert await mine.changed(base, BUILD)
    assert (await said("acme"), len(asked)) == ((2,), 2), "the faulty answer is not recorded again"
    assert (await said("core"), len(asked)) == ((2,), 2)
    answer = 3
    later = time.monotonic() + SAID_S
    monkeypatch.setattr(canaries, "time", SimpleNamespace(monotonic=lambda: later))
    assert (await said("dune"), len(asked)) == ((3,), 3), "it may have been withdrawn meanwhile at another tenant"
    nothing: Any = MagicMock()
    replica = EngineReplica("gpu-01", nothing, nothing, nothing, nothing, said_by_base=engine.said_by_base)
    replica.went_down()
    assert replica.said_by_base == {}
