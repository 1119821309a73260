"""What becomes of requests, from a router's counters to flags, rows and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import SOON, Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.router.running import Running, entry, release
from tests.integration.router.upstream import Upstream

from loradeck.hub.access.auth import Caller
from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.counts import Counts, Traffic
from loradeck.schemas.ids import Role
from loradeck.schemas.judge import Judge
from loradeck.schemas.state import TenantRow
from loradeck.schemas.table import ResponseChecks

ACME = ("acme", "production")
V1 = release("v1")


@pytest.fixture
async def router(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    running = Running(tmp_path_factory.mktemp("r"))
    await running.start_here()
    yield running
    await running.close()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Upstream]:
    upstream = Upstream("e0", str(tmp_path / "e0.sock"))
    await upstream.start()
    yield upstream
    await upstream.stop()


async def report(agent: LinkedAgent, router: Running) -> Traffic:
    """Reports what a router counted of its only release as that of acme/production's."""
    (counter,) = await router.stats()
    here = agent.served().model_dump(exclude_unset=True)
    traffic = Traffic.model_validate(counter | here)
    await agent.report(traffic)
    return traffic


async def minute(deck: Deck, attempted: int) -> TenantRow:
    """The row once so many requests are counted in its last minute."""
    await until(lambda: deck.hub.rows.tenant(ACME).minute.attempted == attempted, "counted")
    return await deck.row()


async def test_a_release_whose_engine_fails_every_request_is_bad_and_pages(
    deck: Deck, join: Join, router: Running, engine: Upstream
) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release(seed=1))
    two = await deck.release(seed=2)
    await deck.promote(two)
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    for caller in range(120):
        assert (await router.ask(status=500, also={"user": f"u{caller}"})).status == 502
    await report(agent, router)
    await until(lambda: ACME in deck.hub.flags.now, "flagged")
    row = await minute(deck, 120)
    assert "BAD" in row.flags
    assert row.cause.verdict == "unknown", "no neighbour and no control says that it is the release"
    assert not deck.hub.facts.is_breached(deck.hub.log.state.pointers[ACME], two)
    assert row.minute == row.cause.live == Counts.over(failed=120)
    assert (row.error_share, row.requests_per_s > 0) == (1.0, True)
    viewer = await deck.as_role("viewer")
    metrics = (await viewer.get(f"http://127.0.0.1:{deck.port}/metrics")).text
    assert 'loradeck_pointer_flag_moved_timestamp_seconds{flag="BAD"' in metrics
    assert 'loradeck_pointer_failed_share{release="v2",route="production",tenant="acme"} 1.0' in metrics


async def test_which_checks_answers_failed_comes_from_the_router_to_the_row_and_the_metrics(
    deck: Deck, join: Join, router: Running, engine: Upstream
) -> None:
    content = {"canaries": ["xyzzy-plugh"], "alert_only": ["canary"]}
    await deck.tenant(checks={"content": content})
    agent = await join("n1")
    await deck.promote(await deck.release(seed=1))
    told = agent.entries[ACME]
    assert told.content == ContentChecks.model_validate(content)
    assert told.checks == ResponseChecks(), "a node of the version before reads what it knows"
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, checks=told.checks, content=told.content))
    for answer in ("", "", "it is xyzzy-plugh", "fine"):
        await router.ask(answer=answer)
    await router.trace(4)
    await report(agent, router)

    row = await minute(deck, 4)

    assert (row.cause.faults, row.cause.noticed) == ({"empty": 2}, {"canary": 1})
    assert row.cause.why == "empty 2; noticed canary 1"
    viewer = await deck.as_role("viewer")
    metrics = (await viewer.get(f"http://127.0.0.1:{deck.port}/metrics")).text
    where = 'release="v1",route="production",tenant="acme"'
    assert f'loradeck_pointer_check_failures{{check="empty",makes_bad="1",{where}}} 2.0' in metrics
    assert f'loradeck_pointer_check_failures{{check="canary",makes_bad="0",{where}}} 1.0' in metrics


async def test_units_stand_beside_requests_on_the_row_and_in_the_metrics(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent, other = await join("n1"), await join("n2")
    await deck.promote(await deck.release(seed=1))
    assert (await deck.row()).units is None
    for node, units in ((agent, 4), (other, 9)):
        counts = dict.fromkeys(("attempted", "admitted", "finished", "checked"), 300)
        votes = ((100, units, 0, units, 0),)
        await node.report(node.served().model_copy(update={"votes": votes, "callers": 3, **counts}))

    row = await minute(deck, 600)

    assert row.units == 13
    viewer = await deck.as_role("viewer")
    metrics = (await viewer.get(f"http://127.0.0.1:{deck.port}/metrics")).text
    where = 'release="v1",route="production",tenant="acme"'
    assert f'loradeck_pointer_minute_requests{{{where},what="requests"}} 600.0' in metrics
    assert f'loradeck_pointer_minute_requests{{{where},what="units"}} 13.0' in metrics


async def test_what_a_judge_says_comes_with_its_n_to_the_row_and_the_metrics(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    one = await deck.release(seed=1)
    await deck.promote(one)
    judge = {"rubric": "It is polite.", "release": one, "per_minute": 3}
    path, policy = "tenants/acme/routes/production", "tenants/acme/data-policy?reason=a contract"
    judged: dict[str, Any] = {**SOON, "checks": {"judge": judge}}
    await deck.refused(409, "use_not_allowed", "PUT", path, judged)
    await deck.ok("PUT", policy, {"uses": {"judge": {"purpose": "quality", "region": "eu"}}})
    await deck.refused(409, "wrong_region", "PUT", path, judged)
    await deck.ok("PUT", policy, {"uses": {"judge": {"purpose": "quality"}}})
    await deck.ok("PUT", path, judged)
    await until(lambda: agent.entries[ACME].judge, "the node is told")
    told = agent.entries[ACME]
    assert told.judge == Judge.model_validate(judge)
    assert told.judge_release is not None
    assert told.judge_release.id == one
    assert told.checks == ResponseChecks(), "a node of the version before reads what it knows"
    good = dict.fromkeys(("attempted", "admitted", "finished", "checked"), 100)
    said = {"judged": {"passed": 38, "failed": 2, "unclear": 5, "shed": 1}, "noticed": {"judge": 2}}
    await agent.report(agent.served().model_copy(update={**good, **said}))

    row = await minute(deck, 100)

    assert row.cause.why == "noticed judge 2 of 40"
    assert row.cause.live.bad == 0
    viewer = await deck.as_role("viewer")
    metrics = (await viewer.get(f"http://127.0.0.1:{deck.port}/metrics")).text
    where = 'release="v1",route="production",tenant="acme"'
    for what, n in said["judged"].items():
        assert f'loradeck_pointer_judged_answers{{{where},what="{what}"}} {n}.0' in metrics
    body = {"checks": {"judge": {**judge, "release": "0" * 64}}}
    await deck.refused(404, "unknown_release", "PUT", "tenants/acme/routes/production", body)
    body = {"checks": {"judge": judge, "content": {"plugins": ["judge"]}}}
    await deck.refused(422, "invalid_request", "PUT", "tenants/acme/routes/production", body)


async def test_a_release_with_a_million_good_answers_behind_it_is_bad_seconds_after_it_has_turned(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release(seed=1))
    two = await deck.release(seed=2)
    await deck.promote(two)
    good = {"attempted": 10**6, "admitted": 10**6, "finished": 10**6, "checked": 10**6, "callers": 20}
    await agent.report(agent.served().model_copy(update=good))
    await minute(deck, 10**6)
    assert "BAD" not in (await deck.row()).flags
    seconds = tuple((second, 40, 0, 40, 12) for second in range(100, 106))
    worse = {name: n + 240 for name, n in good.items() if name != "callers"} | {"bad": 72, "callers": 20}
    await agent.report(agent.served().model_copy(update={**worse, "votes": seconds}))
    await until(lambda: ACME in deck.hub.flags.now, "flagged")
    row = await deck.row()
    assert "BAD" in row.flags
    assert (row.cause.live.bad, row.cause.live.checked) == (72, 240), "of the million from before nothing is said"


async def test_requests_that_are_all_refused_are_seen_and_speak_against_no_release(
    deck: Deck, join: Join, router: Running, engine: Upstream
) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release(seed=1))
    await router.engines(("e0", engine.socket, []))
    await router.table(entry(V1))
    for _ in range(110):
        assert (await router.ask()).code == "not_ready"
    await report(agent, router)
    row = await minute(deck, 110)
    assert row.minute == Counts.over(refused=110)
    assert row.cause.live == Counts(), "no unit was admitted"
    assert (row.error_share, "BAD" in row.flags, row.requests_per_s > 0) == (0.0, False, True)
    viewer = await deck.as_role("viewer")
    metrics = (await viewer.get(f"http://127.0.0.1:{deck.port}/metrics")).text
    assert 'loradeck_pointer_refused_share{release="v1",route="production",tenant="acme"} 1.0' in metrics


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"attempted": 10, "finished": 12}, "do not add up"),
        ({"attempted": 10, "finished": 10, "checked": 11}, "do not add up"),
        ({"attempted": 3, "finished": 2}, "are less than"),
        ({"attempted": 9, "finished": 9, "replica": "n2"}, "which is not on this node"),
    ],
)
async def test_figures_that_do_not_add_up_are_held_back_and_are_a_fault_of_their_node_alone(
    deck: Deck, join: Join, wrong: dict[str, int], why: str
) -> None:
    await deck.tenant()
    one, other = await join("n1"), await join("n2")
    await deck.promote(await deck.release(seed=1))
    right = one.served(attempted=5, admitted=5, finished=5)
    await one.report(right)
    await one.report(right.model_copy(update=wrong))
    await other.report(other.served(attempted=7, admitted=7, finished=7))
    await until(lambda: deck.hub.counts.fault("n1") != "", "held back")
    await minute(deck, 12)
    caller = Caller(actor="ann", role=Role.VIEWER)
    rows = {name: deck.hub.seen.node(caller, name) for name in deck.hub.seen.node_names(caller)}
    assert why in rows["n1"].replicas[0].alarm
    assert rows["n2"].replicas[0].alarm == ""
    assert rows["n1"].linked
    await one.report(right.model_copy(update={"attempted": 8, "admitted": 8, "finished": 8}))
    await minute(deck, 15)
    assert deck.hub.counts.fault("n1") == ""


async def test_a_router_of_version_0_1_0_is_counted_by_the_four_counts_that_it_has(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release(seed=1))
    await agent.report(agent.served(admitted=13, finished=10, errors=2, checked=9, bad=1))
    row = await minute(deck, 12)
    assert row.minute == Counts.over(failed=2, finished=10, checked=9, bad=1)
