"""From a directive to flipped and proven, through the real router."""

from __future__ import annotations

import asyncio

from tests.fleets.waiting import until
from tests.integration.agent.artifacts import CANARIES, Adapter, base_release, entry
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.attestation import AttestationKind, CanaryRecord
from loradeck.schemas.link import Ack
from loradeck.schemas.replica_state import AckLevel
from loradeck.schemas.table import RouteResidency

KEYS = (CALLER_HASH,)


async def test_a_directive_is_flipped_then_proven_and_callers_get_the_release(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    assert await node.tokens("hello") == v1.tokens("hello")

    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)
    await hub.ack(second, "proven")
    assert await node.tokens("hello") == v2.tokens("hello")


async def test_going_back_to_a_resident_release_loads_nothing_and_is_acknowledged_in_order(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    on_v1 = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(on_v1)
    await hub.ack(on_v1, "proven")
    on_v2 = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(on_v2)
    await hub.ack(on_v2, "proven")
    loads = [call for call in node.engine_calls() if call.startswith("load")]

    back = entry(v1.ref, 3, keys=KEYS)
    await hub.desire(back)
    await hub.ack(back, "flipped")
    assert await node.tokens("hello") == v1.tokens("hello")
    await hub.ack(back, "proven")
    assert [call for call in node.engine_calls() if call.startswith("load")] == loads
    assert [ack.state.value for ack in hub.of(Ack) if ack.generation == 3] == ["flipped", "proven"]


async def test_a_release_that_is_not_ready_waits_and_the_left_one_goes_on(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    blobs, hub.blobs = hub.blobs, {}
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)
    failed = await hub.ack(second, "failed")
    assert failed.code == "unknown_blob"
    assert await node.tokens("hello") == v1.tokens("hello")

    hub.blobs = blobs
    await hub.ack(second, "flipped")
    await hub.ack(second, "proven")
    assert await node.tokens("hello") == v2.tokens("hello")


async def test_an_on_demand_route_flips_cold_serves_nobody_what_it_left_and_is_proven_once_loaded(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    on_demand = {"residency": RouteResidency.ON_DEMAND, "needs": ("on_demand",)}
    first = entry(v1.ref, 1, keys=KEYS).model_copy(update=on_demand)
    await hub.desire(first)
    await hub.ack(first, "proven")
    blobs, hub.blobs = hub.blobs, {}
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS).model_copy(update=on_demand)
    await hub.desire(second)
    cold = await hub.ack(second, "flipped")
    assert (cold.code, cold.level) == ("not_ready", AckLevel.ABSENT)
    assert (await node.ask("hello"))[0] == 503, "the gap policy is `left`, and means a refusal"
    failed = await hub.ack(second, "failed")
    assert failed.code == "unknown_blob", "a failed load is red"

    hub.blobs = blobs
    proven = await hub.ack(second, "proven")
    assert proven.level is AckLevel.DEVICE
    assert [ack.code for ack in hub.of(Ack) if ack.generation == 2 and ack.state.value == "flipped"] == [
        "not_ready",
        None,
    ]
    assert await node.tokens("hello") == v2.tokens("hello")


async def test_the_first_idle_load_records_canaries_of_release_and_base(
    node: Node, hub: FakeHub, v1: Adapter, base_digest: str
) -> None:
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    records = [CanaryRecord.model_validate(a.body) for a in hub.attestations if a.kind is AttestationKind.CANARY]
    by_release = {record.release: record for record in records}
    assert by_release.keys() == {v1.release.id, base_release(base_digest).id}
    expected = [tuple(v1.tokens(messages[-1]["content"])) for messages in CANARIES]
    assert [item.tokens for item in by_release[v1.release.id].items] == expected


async def test_the_base_alone_is_served_and_proven(node: Node, hub: FakeHub, v1: Adapter, base_digest: str) -> None:
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    fallback = entry(base_release(base_digest), 2, keys=KEYS)
    await hub.desire(fallback)
    await hub.ack(fallback, "proven")
    status, tokens, release = await node.ask("hello")
    assert (status, release) == (200, base_release(base_digest).id)
    assert tokens != v1.tokens("hello")


async def test_a_route_without_canaries_is_listed(node: Node, hub: FakeHub, v1: Adapter) -> None:
    first = entry(v1.ref, 1, keys=KEYS, canaries=())
    await hub.desire(first)
    assert (await hub.ack(first, "listed")).code == "no_canaries"


async def test_a_removed_entry_is_refused_at_once(node: Node, hub: FakeHub, v1: Adapter) -> None:
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    gone = entry(None, 2, keys=KEYS)
    await hub.desire(gone)
    await hub.ack(gone, "flipped")
    status, _, _ = await node.ask("hello")
    assert status >= 400


async def test_a_route_that_is_placed_on_the_node_again_is_flipped_and_proven_though_it_has_not_moved(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    here, withdrawn = entry(v1.ref, 1, keys=KEYS), entry(None, 1, keys=KEYS)
    await hub.desire(here)
    await hub.ack(here, "proven")
    heard = len(hub.heard)
    await hub.desire(withdrawn)
    await hub.wait(Ack, lambda ack: ack.release is None and ack.state == "flipped", after=heard)
    assert (await node.ask("hello"))[0] >= 400
    heard = len(hub.heard)
    await hub.desire(here)
    await hub.ack(here, "proven", after=heard)
    assert await node.tokens("hello") == v1.tokens("hello")


async def test_what_no_entry_names_is_unloaded_only_for_room_and_not_while_it_answers(
    stopped: Node, hub: FakeHub, v1: Adapter, v2: Adapter, v3: Adapter
) -> None:
    stopped.config.write_text(stopped.config.read_text().replace("slots = 4", "slots = 2"))
    stopped.start()
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.report(lambda report: report.replicas[0].state.value == "up")
    await hub.desire(first)
    await hub.ack(first, "proven")
    slow = asyncio.create_task(stopped.ask("slow 1.0"))
    await until(lambda: any("slow" in call for call in stopped.engine_calls()), "the slow answer is under way")
    second = entry(v2.ref, 2, keys=KEYS)
    await hub.desire(second)
    await hub.ack(second, "proven")
    third = entry(v3.ref, 3, keys=KEYS)
    await hub.desire(third)
    assert (await slow)[1] == v1.tokens("slow 1.0"), "the answer under way is of the release it was admitted to"
    await hub.ack(third, "proven")
    changes = [call for call in stopped.engine_calls() if call.startswith(("load", "unload"))]
    assert changes == [
        f"load {v1.ref.engine_name}",
        f"load {v2.ref.engine_name}",
        f"unload {v1.ref.engine_name}",
        f"load {v3.ref.engine_name}",
    ]
