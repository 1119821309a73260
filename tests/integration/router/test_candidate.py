"""A pointer with a candidate: which arm answers which caller, and what ends it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.fleets.waiting import until
from tests.integration.router.running import BASE, OTHER_BASE, Running, entry, pin, release, sha
from tests.integration.router.upstream import Upstream

from loradeck.rules.serving.arms import place, seat
from loradeck.schemas.table import CandidateRef, CohortUnit, Streams, TableEntry

V1, V2, V3 = release("v1"), release("v2"), release("v3")
SALT = "a-salt-of-16-chr"
USERS = [f"user-{n}" for n in range(60)]


def split(permille: int = 0, *, generation: int = 2, step: int = 0, **fields: Any) -> TableEntry:
    fields.setdefault("unit", CohortUnit.USER)
    live, streams = fields.pop("live", V1), fields.pop("streams", Streams.FINISH)
    ref = fields.pop("ref", V2)
    candidate = CandidateRef(release=ref, generation=generation, step=step, permille=permille, salt=SALT, **fields)
    return entry(live, generation, candidate=candidate, needs=("candidate",), streams=streams)


def by_share(permille: int) -> set[str]:
    return {user for user in USERS if place(SALT, user) < permille}


async def exposed(router: Running) -> set[str]:
    """The users that the candidate answers."""
    answers = [(user, await router.ask(also={"user": user})) for user in USERS]
    return {user for user, answer in answers if answer.headers["x-loradeck-release"] == V2.id}


@pytest.fixture
async def served(router: Running, engine: Upstream) -> Running:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    await router.post("/control/hub", {"connected": True})
    return router


async def test_a_share_of_the_users_gets_the_candidate_and_a_wider_one_takes_nobody_out(served: Running) -> None:
    acks = await served.table(split(300))
    assert [(a["state"], a["generation"], a["release"]) for a in acks] == [("flipped", 2, V1.id)]
    first = await exposed(served)
    assert first == by_share(300)
    assert 0 < len(first) < len(USERS)
    assert (await served.ask(also={"user": min(first)})).headers["x-loradeck-generation"] == "2"

    await served.table(split(600, step=1))
    second = await exposed(served)
    assert second == by_share(600) > first
    await served.table(split(300, step=0), rev=served.rev)
    assert await exposed(served) == second, "an earlier share comes too late"
    await served.table(split(0, step=2))
    assert await exposed(served) == set()

    counts = {c["release"]: c for c in await served.stats() if c["generation"] == 2}
    assert counts[V2.id]["admitted"] == len(first) + 1 + 2 * len(second)
    assert counts[V1.id]["admitted"] + counts[V2.id]["admitted"] == 4 * len(USERS) + 1
    assert counts[V2.id]["keys"] == len({place(SALT, user) for user in USERS})


async def test_a_candidate_of_another_base_is_answered_by_the_engine_of_that_base(
    served: Running, engine: Upstream
) -> None:
    other = release("v9", base=OTHER_BASE)
    engines = [
        {"replica": name, "socket": engine.socket, "base": base, "base_name": "base", "ready": [ref.id]}
        for name, base, ref in (("e0", BASE, V1), ("e1", OTHER_BASE, other))
    ]
    await served.post("/control/engines", {"replicas": engines})
    (ack, *_) = await served.table(split(500, ref=other))
    assert (ack["state"], ack["release"]) == ("flipped", V1.id)
    said = set()
    for user in USERS:
        headers = (await served.ask(also={"user": user})).headers
        said.add((user in by_share(500), *(headers[f"x-loradeck-{what}"] for what in ("release", "base", "replica"))))
    assert said == {(True, other.id, OTHER_BASE, "e1"), (False, V1.id, BASE, "e0")}
    await served.post("/control/engines", {"replicas": engines[:1]})
    answers = [(await served.ask(also={"user": user})).headers["x-loradeck-release"] for user in USERS]
    assert set(answers) == {V1.id}, "where its engine is gone nobody is exposed"


async def test_outcomes_are_counted_by_bins_of_keys_in_each_arm_and_anew_after_each_step(
    served: Running, engine: Upstream
) -> None:
    await served.table(split(300))
    given = await exposed(served)

    def of(release: str, stats: list[dict[str, Any]]) -> dict[str, Any]:
        (counter,) = [c for c in stats if (c["generation"], c["release"]) == (2, release)]
        return dict(counter["arm"])

    for answered_by, users in ((V2.id, given), (V1.id, set(USERS) - given)):
        arm = of(answered_by, await served.stats())
        counted = Counter(seat(SALT, user)[1] for user in users)
        assert {at: sums[0] for at, sums in arm["bins"]} == counted
        assert (arm["step"], arm["keys"]) == (0, len({place(SALT, user) for user in users}))
    await served.table(split(400, step=1, named=("user-0",)))
    await served.ask(also={"user": "user-0"})  # named: chance did not choose it
    await served.ask(also={"user": min(given - {"user-0"})}, status=500)
    arm = of(V2.id, await served.stats())
    assert (arm["step"], arm["keys"]) == (1, 1)
    assert [sums for _, sums in arm["bins"]] == [[1, 1, sums[2], 0] for _, sums in arm["bins"]]


@pytest.mark.parametrize("unit", list(CohortUnit))
async def test_the_unit_says_which_part_of_a_request_is_its_key(served: Running, unit: CohortUnit) -> None:
    keys = {CohortUnit.CALLER: sha("acme-key"), CohortUnit.USER: "ann", CohortUnit.CONVERSATION: "c-1"}
    await served.table(split(unit=unit, named=(keys[unit],)))
    for asked in ({}, {"user": "ann"}, {"x-loradeck-conversation": "c-1"}, {"user": ""}, {"user": "n" * 513}):
        got = (await served.ask(also=asked)).headers["x-loradeck-release"]
        named = unit is CohortUnit.CALLER or keys[unit] in asked.values()
        assert got == (V2.id if named else V1.id), asked


async def test_where_the_candidate_is_not_loaded_everybody_gets_the_live_release(
    served: Running, engine: Upstream
) -> None:
    await served.engines(("e0", engine.socket, [V1]))
    await served.table(split(1000))
    assert await exposed(served) == set()
    assert await served.engines(("e0", engine.socket, [V1, V2])) == [], "the flip was to the live release"
    assert await exposed(served) == set(USERS)
    await served.engines(("e0", engine.socket, [V1]))
    assert await exposed(served) == set()


async def test_a_router_that_hears_no_hub_for_the_lease_gives_the_candidate_to_nobody(served: Running) -> None:
    await served.table(split(1000, lease_s=60))
    await served.post("/control/hub", {"connected": False, "silent_s": 59})
    assert await exposed(served) == set(USERS)
    await served.post("/control/hub", {"connected": True})
    await served.post("/control/hub", {"connected": False, "silent_s": 60})
    assert await exposed(served) == set()
    await served.post("/control/hub", {"connected": True})
    assert await exposed(served) == set(USERS)


async def test_a_pin_covers_both_arms(served: Running, engine: Upstream) -> None:
    await served.engines(("e0", engine.socket, [V1, V2, V3]))
    await served.table(split(1000))
    await served.post("/control/pin", pin(V3, over=(1, 2)).model_dump(mode="json"))
    assert {(await served.ask(also={"user": user})).headers["x-loradeck-release"] for user in USERS} == {V3.id}
    await served.post("/control/unpin", {"tenant": "acme", "route": "production"})
    assert await exposed(served) == set(USERS)


@pytest.mark.parametrize("goes", ["candidate", "live"])
async def test_under_policy_cut_only_the_streams_of_the_arm_that_goes_are_cut(
    served: Running, engine: Upstream, goes: str
) -> None:
    await served.table(split(0, named=("ann",), streams=Streams.CUT))
    long = {"stream": True, "events": 8, "paced": True}
    asked = [asyncio.create_task(served.ask(also={"user": user}, **long)) for user in ("ann", "bob")]
    await until(lambda: len(engine.seen) == 2)
    await served.table(split(500, step=1, named=("ann",), streams=Streams.CUT))
    after = entry(V1 if goes == "candidate" else V2, 3, streams=Streams.CUT)
    await served.table(after)
    for _ in range(2 * 8):
        engine.read.release()
    ann, bob = await asyncio.gather(*asked, return_exceptions=True)
    whole = [answer for answer in (ann, bob) if not isinstance(answer, BaseException)]
    assert [answer.text for answer in whole if b"[DONE]" in answer.raw][:1]
    got = {c["release"]: c for c in await served.stats() if c["generation"] == 2}
    left, stayed = (V2.id, V1.id) if goes == "candidate" else (V1.id, V2.id)
    assert (got[left]["finished"], got[left]["refused"]) == (0, 1)
    assert (got[stayed]["finished"], got[stayed]["refused"]) == (1, 0)


async def test_a_candidate_of_another_tenant_makes_the_entry_bad(served: Running) -> None:
    stolen = split(1000)
    assert stolen.candidate is not None
    ref = release("v2", tenant="globex")
    bad = stolen.model_copy(update={"candidate": stolen.candidate.model_copy(update={"release": ref})})
    (ack,) = await served.table(bad)
    assert (ack["state"], ack["code"]) == ("failed", "bad_entry")


async def test_a_router_that_starts_again_divides_as_before(stopped: Running, engine: Upstream) -> None:
    await stopped.start()
    await stopped.engines(("e0", engine.socket, [V1, V2]))
    await stopped.table(split(400))
    before = await exposed(stopped)
    await stopped.kill()
    await stopped.start()
    assert await exposed(stopped) == before == by_share(400)
