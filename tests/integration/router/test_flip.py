"""Directives and what callers get: flips, gaps, fences, pins."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from tests.fleets.waiting import until
from tests.integration.router.running import OTHER_BASE, Running, pin, release, sha
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.table import Gap, ReleaseRef, ResponseChecks

V1, V2, V3 = release("v1"), release("v2"), release("v3")
BASE_ALONE = release("base")


def said(acks: list[dict[str, Any]]) -> list[tuple[str, str, str | None, int, str | None]]:
    return [(a["replica"], a["state"], a["code"], a["generation"], a["release"]) for a in acks]


async def test_a_flip_is_acknowledged_and_the_next_answer_is_the_new_releases(
    router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    assert (await router.ask()).text == f"e0:{V1.engine_name}"
    assert said(await router.table(entry(V2, 2))) == [("e0", "flipped", None, 2, V2.id)]
    answer = await router.ask()
    assert answer.text == f"e0:{V2.engine_name}"
    assert answer.headers["x-loradeck-release"] == V2.id
    assert answer.headers["x-loradeck-base"] == V2.release.base
    assert answer.headers["x-loradeck-adapter"] == V2.release.adapter
    assert answer.headers["x-loradeck-generation"] == "2"
    assert answer.headers["x-loradeck-replica"] == "e0"


async def test_a_stale_generation_is_answered_stale_and_changes_nothing(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V2, 5, epoch=2), epoch=2)
    before = await router.get("/control/state")
    for stale in (entry(V1, 4, epoch=2), entry(V1, 9, epoch=1), entry(V1, 5, epoch=2)):
        assert said(await router.table(stale, epoch=2, rev=1)) == [("e0", "failed", "stale", stale.generation, V1.id)]
    assert await router.get("/control/state") == before
    assert (await router.ask()).text == f"e0:{V2.engine_name}"


async def test_settings_under_an_equal_fence_are_taken_from_a_newer_rev_only(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1), rev=7)
    more = entry(V1, keys=(sha("acme-key"), sha("second")))
    assert said(await router.table(more, rev=6)) == [("e0", "failed", "stale", 1, V1.id)]
    assert (await router.ask(key="second")).status == 401
    assert said(await router.table(more, rev=8)) == [("e0", "flipped", None, 1, V1.id)]
    assert (await router.ask(key="second")).status == 200
    await router.table(entry(V1), rev=9)
    assert (await router.ask(key="second")).status == 401
    assert (await router.ask()).status == 200


async def test_a_repeated_directive_is_acknowledged_again_with_the_time_of_its_swap(
    router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    first = await router.table(entry(V1))
    size = (router.state / "table.jsonl").stat().st_size
    assert await router.table(entry(V1), rev=1) == first
    assert (router.state / "table.jsonl").stat().st_size == size


async def test_engines_that_were_sent_before_those_in_use_replace_nothing(router: Running, engine: Upstream) -> None:
    def sent(at_ns: int, *ready: ReleaseRef) -> dict[str, Any]:
        at = {"replica": "e0", "socket": engine.socket, "base": V1.release.base, "base_name": "base"}
        return {"replicas": [at | {"ready": [ref.id for ref in ready]}], "at_ns": at_ns}

    await router.table(entry(V2))
    assert said((await router.post("/control/engines", sent(20, V1, V2)))["acks"]) == [
        ("e0", "flipped", None, 1, V2.id)
    ]
    assert (await router.post("/control/engines", sent(10, V1)))["acks"] == []
    assert (await router.ask()).text == f"e0:{V2.engine_name}"
    await router.post("/control/engines", sent(30, V1))
    assert (await router.ask()).status == 503
    await router.post("/control/engines", sent(0, V1, V2))  # of an agent of the version before
    assert (await router.ask()).text == f"e0:{V2.engine_name}"


async def test_an_entry_that_is_not_ready_flips_when_it_becomes_ready(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    assert said(await router.table(entry(V2, 2))) == [("e0", "waiting", "not_ready", 2, V2.id)]
    answer = await router.ask()
    assert (answer.text, answer.headers["x-loradeck-generation"]) == (f"e0:{V1.engine_name}", "1")
    assert await router.engines(("e0", engine.socket, [V1])) == []
    assert said(await router.engines(("e0", engine.socket, [V1, V2]))) == [("e0", "flipped", None, 2, V2.id)]
    assert (await router.ask()).text == f"e0:{V2.engine_name}"


async def test_gap_policy_base_answers_with_the_base_alone(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, gap=Gap.BASE))
    await router.table(entry(V2, 2, gap=Gap.BASE))
    answer = await router.ask()
    assert answer.text == "e0:base"
    assert answer.headers["x-loradeck-release"] == BASE_ALONE.id
    assert answer.headers["x-loradeck-adapter"] == "none"


async def test_gap_policy_refuse_answers_503_with_retry_after(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, gap=Gap.REFUSE))
    await router.table(entry(V2, 2, gap=Gap.REFUSE))
    answer = await router.ask()
    assert (answer.status, answer.code) == (503, "not_ready")
    assert int(answer.headers["retry-after"]) > 0
    assert engine.seen == []


async def test_a_first_entry_that_is_not_ready_has_no_left_release_to_go_on_with(
    router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, []))
    await router.table(entry(V1))
    assert (await router.ask()).code == "not_ready"


async def test_once_flipped_an_engine_that_loses_the_release_never_brings_the_left_one_back(
    router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    await router.table(entry(V2, 2))
    assert said(await router.engines(("e0", engine.socket, [V1]))) == [("e0", "waiting", "not_ready", 2, V2.id)]
    assert (await router.ask()).code == "not_ready"
    assert said(await router.engines(("e0", engine.socket, [V1, V2]))) == [("e0", "flipped", None, 2, V2.id)]
    assert (await router.ask()).text == f"e0:{V2.engine_name}"


async def test_a_rollback_while_its_successor_waits_goes_back_at_once(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    await router.table(entry(V2, 2))
    assert said(await router.table(entry(V1, 3))) == [("e0", "flipped", None, 3, V1.id)]
    assert await router.engines(("e0", engine.socket, [V1, V2])) == []
    answer = await router.ask()
    assert (answer.text, answer.headers["x-loradeck-generation"]) == (f"e0:{V1.engine_name}", "3")


async def test_one_of_two_engines_ready_serves_alone_and_the_other_is_not_counted(
    router: Running, engine: Upstream
) -> None:
    second = Upstream("e1", engine.socket.replace("e0", "e1"))
    await second.start()
    try:
        await router.engines(("e0", engine.socket, [V1, V2]), ("e1", second.socket, [V1]))
        await router.table(entry(V1))
        assert {(await router.ask()).text for _ in range(8)} == {
            f"e0:{V1.engine_name}",
            f"e1:{V1.engine_name}",
        }
        assert said(await router.table(entry(V2, 2))) == [
            ("e0", "flipped", None, 2, V2.id),
            ("e1", "waiting", "not_ready", 2, V2.id),
        ]
        assert {(await router.ask()).text for _ in range(8)} == {f"e0:{V2.engine_name}"}
        acks = await router.engines(("e0", engine.socket, [V1, V2]), ("e1", second.socket, [V1, V2]))
        assert said(acks) == [("e1", "flipped", None, 2, V2.id)]
    finally:
        await second.stop()


async def test_an_entry_of_a_base_that_no_engine_here_runs_is_held_without_acknowledgement(
    router: Running, engine: Upstream
) -> None:
    other = release("v9", base=OTHER_BASE)
    await router.engines(("e0", engine.socket, [V1]))
    assert await router.table(entry(other)) == []
    assert (await router.get("/control/state"))["entries"][0]["current"]["id"] == other.id
    assert (await router.ask()).code == "not_ready"


async def test_a_release_listed_as_ready_by_an_engine_of_another_base_is_not_served(
    router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1]), base=OTHER_BASE)
    assert await router.table(entry(V1)) == []
    assert (await router.ask()).code == "not_ready"
    assert engine.seen == []


async def test_merged_weights_are_served_under_their_engines_own_name(router: Running, engine: Upstream) -> None:
    made = Release(tenant="acme", form=Form.MERGED, base=V1.release.base, adapter=V1.release.adapter, merged=OTHER_BASE)
    ref = ReleaseRef(id=made.id, release=made)
    await router.engines(("e0", engine.socket, []), base=OTHER_BASE)
    assert said(await router.table(entry(ref))) == [("e0", "waiting", "not_ready", 1, made.id)], "not let in yet"
    acks = await router.engines(("e0", engine.socket, [ref]), base=OTHER_BASE)
    assert said(acks) == [("e0", "flipped", None, 1, made.id)]
    answer = await router.ask()
    assert (answer.text, answer.headers["x-loradeck-base"]) == ("e0:base", OTHER_BASE)


async def test_a_tombstone_refuses_and_what_was_before_it_does_not_come_back(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1), entry(V1, route="staging"))
    assert said(await router.table(entry(None, 2, keys=()))) == [("e0", "flipped", None, 2, None)]
    answer = await router.ask()
    assert (answer.status, answer.code) == (404, "removed")
    assert said(await router.table(entry(V1, 1))) == [("e0", "failed", "stale", 1, V1.id)]
    await router.table(entry(V2, 3))
    assert (await router.ask()).code == "not_ready"  # not V1, though the gap policy is `left`
    assert (await router.ask("acme/staging")).text == f"e0:{V1.engine_name}"


async def test_a_route_that_is_withdrawn_from_a_node_and_placed_there_again_is_served_again(
    router: Running, engine: Upstream
) -> None:
    """Its pointer has not moved meanwhile: what is told is the same release under the same fence."""
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    assert said(await router.table(entry(None))) == [("e0", "flipped", None, 1, None)]
    assert (await router.ask()).code == "removed"
    assert said(await router.table(entry(V1), rev=1)) == [("e0", "failed", "stale", 1, V1.id)], "said before that"
    assert (await router.ask()).code == "removed"
    assert said(await router.table(entry(V1), rev=3)) == [("e0", "flipped", None, 1, V1.id)]
    assert (await router.ask()).text == f"e0:{V1.engine_name}"
    assert said(await router.table(entry(V2), rev=4)) == [("e0", "failed", "stale", 1, V2.id)], "another release"


async def test_a_tombstone_takes_its_tenants_keys_with_it(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    await router.table(entry(None, 2, keys=()))
    assert (await router.ask()).status == 401


async def test_a_suspended_tenant_is_refused_and_resumed_where_it_was(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    await router.table(entry(V1, suspended=True))
    answer = await router.ask()
    assert (answer.status, answer.code, len(engine.seen)) == (403, "suspended", 0)
    await router.table(entry(V1))
    assert (await router.ask()).text == f"e0:{V1.engine_name}"


@pytest.mark.parametrize("fault", ["another tenant's release", "a release that is not its digest"])
async def test_a_bad_entry_is_refused_and_the_good_ones_beside_it_are_taken(
    router: Running, engine: Upstream, fault: str
) -> None:
    bad = release("v1", tenant="globex") if fault.startswith("another") else V1.model_copy(update={"id": V2.id})
    good = release("v1", tenant="initech")
    await router.engines(("e0", engine.socket, [V1, V2, bad, good]))
    acks = await router.table(entry(bad), entry(good, tenant="initech"))
    assert said(acks) == [("e0", "failed", "bad_entry", 1, bad.id), ("e0", "flipped", None, 1, good.id)]
    assert [e["tenant"] for e in (await router.get("/control/state"))["entries"]] == ["initech"]


async def test_a_pin_overrides_the_hub_until_it_is_unpinned(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1, V2, V3]))
    await router.table(entry(V1))
    pinned = (await router.post("/control/pin", pin(V2).model_dump(mode="json")))["acks"]
    assert said(pinned) == [("e0", "waiting", "pinned", 1, V1.id)]
    assert (await router.ask()).text == f"e0:{V2.engine_name}"
    assert said(await router.table(entry(V3, 2))) == [("e0", "waiting", "pinned", 2, V3.id)]
    assert (await router.ask()).text == f"e0:{V2.engine_name}"
    unpinned = (await router.post("/control/unpin", {"tenant": "acme", "route": "production"}))["acks"]
    assert said(unpinned) == [("e0", "flipped", None, 2, V3.id)]
    assert (await router.ask()).text == f"e0:{V3.engine_name}"


async def test_a_pin_names_the_user_whose_process_made_it_whatever_it_says(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    await router.post("/control/pin", pin(V2).model_dump(mode="json"))
    (kept,) = (await router.get("/control/state"))["pins"]
    assert (kept["actor"], kept["uid"]) == ("ann", os.getuid())


async def test_a_pin_to_the_hubs_own_release_counts_as_flipped(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    assert said((await router.post("/control/pin", pin(V1).model_dump(mode="json")))["acks"]) == [
        ("e0", "flipped", None, 1, V1.id)
    ]


async def test_a_stale_generation_is_refused_under_a_pin_as_well(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1, V2, V3]))
    await router.table(entry(V1, 4))
    await router.post("/control/pin", pin(V2).model_dump(mode="json"))
    assert said(await router.table(entry(V3, 3))) == [("e0", "failed", "stale", 3, V3.id)]
    more = entry(V1, 4, checks=ResponseChecks(min_chars=5))
    assert said(await router.table(more)) == [("e0", "waiting", "pinned", 4, V1.id)]


async def test_a_pin_of_an_unknown_route_or_another_tenants_release_changes_nothing(
    router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    assert (await router.call("/control/pin", pin(V1).model_dump(mode="json")))[1]["code"] == "unknown_route"
    await router.table(entry(V1))
    foreign = pin(release("v1", tenant="globex")).model_dump(mode="json")
    status, problem = await router.call("/control/pin", foreign)
    assert (status, problem["code"]) == (400, "bad_release")
    assert (await router.get("/control/state"))["pins"] == []


async def test_a_proof_goes_through_the_look_up_and_only_for_the_generation_in_force(
    router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    ask = {
        "tenant": "acme",
        "route": "production",
        "epoch": 1,
        "generation": 1,
        "replica": "e0",
        "body": {"messages": [], "max_tokens": 8},
    }
    status, answer = await router.call("/control/proof", ask)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, f"e0:{V1.engine_name}")
    assert engine.seen[-1]["max_tokens"] == 8
    assert await router.stats() == []  # a proof is no caller's request
    await router.table(entry(V2, 2))
    for wrong in ({}, {"generation": 2, "replica": "e1"}, {"generation": 2, "epoch": 2}):
        status, problem = await router.call("/control/proof", ask | wrong)
        assert (status, problem["code"]) == (409, "not_current")
    assert (await router.call("/control/proof", ask | {"generation": 2}))[0] == 200
    await router.post("/control/pin", pin(V1).model_dump(mode="json"))
    assert (await router.call("/control/proof", ask | {"generation": 2}))[0] == 409


async def test_a_proof_during_which_the_release_was_left_proves_nothing(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    ask = {"tenant": "acme", "route": "production", "epoch": 1, "generation": 1, "replica": "e0"}
    ask["body"] = {"messages": []}
    engine.going.clear()
    proof = asyncio.create_task(router.call("/control/proof", ask))
    await until(lambda: bool(engine.seen))
    assert (await router.get("/control/use"))["answering"] == {"e0": [V1.id]}, "so that nobody unloads it meanwhile"
    assert (await router.get("/control/use?attempted=0"))["answering"] == {"e0": [V1.id]}
    await router.table(entry(V2, 2))
    engine.going.set()
    status, problem = await proof
    assert (await router.get("/control/use"))["answering"] == {}
    assert ["acme", "production"] in [at[:2] for at in (await router.get("/control/use"))["attempted"]]
    assert (await router.get("/control/use?attempted=0"))["attempted"] == []
    assert (status, problem["code"]) == (409, "not_current")
