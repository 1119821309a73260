"""Guard on one tenant's route goes on working whatever one other tenant's callers do, and whatever one node says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, Deck, key
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.schemas.counts import AskedAgain, Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Event, EventKind, PointerState

ACME = ("acme", "production")
SECONDS = range(100, 110)


def pointer(deck: Deck, of: PointerKey = ACME) -> PointerState:
    return deck.hub.log.state.pointers[of]


async def moved_forward(deck: Deck, seed: int, of: PointerKey = ACME, **settings: Any) -> None:
    """A route that has just been promoted from one release to another."""
    tenant, route = of
    await deck.tenant(tenant, route, **settings)
    for release in [await deck.release(tenant, seed=2 * seed + n) for n in (0, 1)]:
        generation = deck.hub.log.state.route(*of)[2].generation
        asked = {"release": release, "expected_generation": generation, "idempotency_key": key()}
        await deck.ok("POST", f"tenants/{tenant}/routes/{route}/promote?wait=proven&timeout=60", asked)
        await deck.settled(tenant, route)


def answers(
    deck: Deck, agent: LinkedAgent, of: PointerKey = ACME, *, bad: int, units: int = 20, beneath: int | None = None
) -> Traffic:
    """What a node counts of a live release: so many units in each of ten seconds, and bad ones among them.

    `beneath`: the bad ones of a hundred requests that the release beneath was asked again, where the live release has
    the same share of bad ones as elsewhere; None: it was asked nothing.
    """
    now = pointer(deck, of)
    again = None
    if beneath is not None:
        given = round(100 * bad / units)
        again = AskedAgain(release=now.beneath[0], asked=100, pairs=100, checked=100, bad=(given, beneath))
    n = units * len(SECONDS)
    return Traffic(
        tenant=of[0],
        route=of[1],
        generation=now.generation,
        release=now.release or "",
        replica=agent.replica.replica,
        **dict.fromkeys(("attempted", "admitted", "finished", "checked"), n),
        bad=bad * len(SECONDS),
        votes=tuple((second, units, 0, units, bad) for second in SECONDS),
        callers=24,
        again=again,
    )


def moves(deck: Deck) -> list[Event]:
    """The moves that guard has made."""
    return [e for e in deck.hub.log.recent if e.actor == "guard" and e.kind is EventKind.ROLLBACK]


async def rolled_back(deck: Deck, of: PointerKey = ACME) -> None:
    """Until guard has taken the live release out; fails once it has decided to do less."""
    said = deck.hub.guard.said

    def is_moved() -> bool:
        return any(event.pointer is not None and event.pointer.key == of for event in moves(deck))

    def has_decided() -> bool:
        return is_moved() or not said.get(of, ": rollback").endswith(": rollback")

    await until(has_decided, "guard has decided")
    assert is_moved(), said.get(of)


async def heard(deck: Deck, of: PointerKey) -> None:
    """Until the hub has counted what was reported of a route's live release."""
    now = pointer(deck, of)
    await until(lambda: deck.hub.counts.live_total(of, now.generation, now.release or "").checked, "it has been heard")


async def test_a_neighbour_that_floods_with_bad_answers_stops_no_rollback(deck: Deck, join: Join) -> None:
    agent = await join("n1", slots=16)
    await moved_forward(deck, 1, guard="rollback")
    await moved_forward(deck, 2, ("beta", "production"))
    flood = answers(deck, agent, ("beta", "production"), bad=300, units=300)
    await agent.report(flood)
    await heard(deck, ("beta", "production"))
    await agent.report(flood, answers(deck, agent, bad=8, beneath=1))
    await rolled_back(deck)


async def test_a_node_that_reports_a_bad_neighbour_stops_no_rollback(deck: Deck, join: Join) -> None:
    agents = [await join(name, slots=16) for name in ("n1", "n2", "n3")]
    await moved_forward(deck, 1, guard="rollback")
    others: Sequence[PointerKey] = [(name, "production") for name in ("beta", "gamma", "delta")]
    for number, other in enumerate(others):
        await moved_forward(deck, 2 + number, other)
    lies = [answers(deck, agents[2], other, bad=1000, units=1000) for other in others]
    await agents[2].report(*lies)
    await heard(deck, others[-1])
    for agent in agents[:2]:
        true = [answers(deck, agent, other, bad=0) for other in others]
        await agent.report(*true, answers(deck, agent, bad=8, beneath=1))
    await rolled_back(deck)


async def test_lies_of_a_node_about_its_own_tenants_leave_the_guard_of_others_working(deck: Deck, join: Join) -> None:
    liar = await join("n9", slots=16, site="far")
    honest = [await join(name, slots=16, site="here") for name in ("n1", "n2")]
    own: Sequence[PointerKey] = [(name, "production") for name in ("beta", "gamma", "delta")]
    for number, of in enumerate(own):
        await moved_forward(deck, 2 + number, of, guard="rollback", placement={"site": "far"})
    await moved_forward(deck, 1, guard="rollback", placement={"site": "here"})
    await liar.report(*[answers(deck, liar, of, bad=20, beneath=0) for of in own])
    for of in own:
        await rolled_back(deck, of)
    for agent in honest:
        await agent.report(answers(deck, agent, bad=8, beneath=1))
    await rolled_back(deck)
    assert [event.payload["budget"]["node"] for event in moves(deck)] == ["n9", "n9", "n9", ""]
    assert {event.payload["budget"]["cause"] for event in moves(deck)} == {f"bad answers on base {BASE.digest[:12]}"}
    made = list(deck.hub.guard._made)
    deck.hub.guard._made.clear()
    deck.hub.guard.load()
    assert list(deck.hub.guard._made) == made, "a hub that starts again knows them by its log"


async def test_routes_of_one_tenant_leave_the_guard_of_another_working(deck: Deck, join: Join) -> None:
    agent = await join("n1", slots=16)
    own: Sequence[PointerKey] = [("beta", f"route-{number}") for number in range(4)]
    for number, of in enumerate(own):
        await moved_forward(deck, 2 + number, of, guard="rollback")
    await moved_forward(deck, 1, guard="rollback")
    rows = []
    for of in own[:3]:
        rows.append(answers(deck, agent, of, bad=20, beneath=0))
        await agent.report(*rows)
        await rolled_back(deck, of)
    rows.append(answers(deck, agent, own[3], bad=20, beneath=0))
    await agent.report(*rows)
    await until(lambda: pointer(deck, own[3]).held, "guard holds the fourth of its routes")
    assert "guard has moved 3 pointers of beta within the hour" in deck.hub.guard.said[own[3]]
    await agent.report(*rows, answers(deck, agent, bad=8, beneath=1))
    await rolled_back(deck)


@pytest.mark.parametrize("beneath", [39, None])
async def test_where_all_neighbours_are_as_bad_guard_holds_and_says_so(
    deck: Deck, join: Join, beneath: int | None
) -> None:
    """Their base has broken: the release beneath is as bad on the same requests, if it was asked at all."""
    agents = [await join(name, slots=16) for name in ("n1", "n2")]
    everybody: Sequence[PointerKey] = [(name, "production") for name in ("acme", "beta", "gamma", "delta")]
    for number, of in enumerate(everybody):
        await moved_forward(deck, 1 + number, of, guard="rollback" if of == ACME else "off")
    live = pointer(deck).release
    for agent in agents:
        await agent.report(*[answers(deck, agent, of, bad=8) for of in everybody[1:]])
    await heard(deck, everybody[-1])
    for agent in agents:
        others = [answers(deck, agent, of, bad=8) for of in everybody[1:]]
        await agent.report(*others, answers(deck, agent, bad=8, beneath=beneath))
    await until(lambda: pointer(deck).held, "guard holds")
    assert pointer(deck).release == live
    assert "its neighbours are as bad: their base" in deck.hub.guard.said[ACME]
