"""Flags at a hub: whose doing bad answers are, what that rules out, and when a flag is over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, Time
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.schemas.counts import Traffic
from loradeck.schemas.flag import FlagCause, FlagState
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.state import PreviewAction

ACME = ("acme", "production")
NEIGHBOURS = ("birch", "cedar", "elm")


class Served:
    """What one node's router reports: every second so many units of each tenant, by callers who have as many each."""

    def __init__(self, agent: LinkedAgent, time: Time) -> None:
        self.agent, self.time = agent, time
        self.rows: dict[PointerKey, Traffic] = {}

    async def report(
        self, bad: Callable[[str, int], bool], *, failed: bool = False, callers: int = 20, units: int = 40
    ) -> None:
        """Reports the second that runs. `bad`: tenant and caller -> whether that caller's answers are."""
        await self.agent.report(*(self._row(key, bad, failed, callers, units) for key in list(self.agent.entries)))

    def _row(self, key: PointerKey, bad: Callable[[str, int], bool], failed: bool, callers: int, units: int) -> Traffic:
        at = 100 + self.time.passed
        entry = self.agent.entries[key]
        assert entry.current is not None
        each = units // callers
        wrong = {caller: each for caller in range(callers) if bad(key[0], caller)}
        k = sum(wrong.values())
        second = (at, units, k if failed else 0, units, 0 if failed else k)
        by_caller = tuple(
            (at // 10, caller, n, n if failed else 0, n, 0 if failed else n) for caller, n in wrong.items()
        )
        known = self.rows.get(key)
        fresh = known is None or (known.generation, known.release) != (entry.generation, entry.current.id)
        counts = {"admitted": units, "checked": units - k if failed else units, "errors": k if failed else 0}
        counts |= {"attempted": units, "finished": units - k if failed else units, "bad": 0 if failed else k}
        if not fresh:
            assert known is not None
            counts = {name: n + getattr(known, name) for name, n in counts.items()}
            by_caller = _joined(known.caller_votes, by_caller)
        row = Traffic(
            tenant=key[0],
            route=key[1],
            generation=entry.generation,
            release=entry.current.id,
            replica=self.agent.replica.replica,
            votes=(second,),
            callers=callers,
            caller_votes=by_caller,
            **counts,
        )
        self.rows[key] = row
        return row


def _joined(
    known: tuple[tuple[int, int, int, int, int, int], ...], new: tuple[tuple[int, int, int, int, int, int], ...]
) -> tuple[tuple[int, int, int, int, int, int], ...]:
    sums = {(step, caller): (step, caller, *rest) for step, caller, *rest in known}
    for step, caller, *rest in new:
        before = sums.get((step, caller), (step, caller, 0, 0, 0, 0))[2:]
        sums[step, caller] = (step, caller, *(a + b for a, b in zip(before, rest, strict=True)))
    newest = max((step for step, _ in sums), default=0)
    return tuple(row for (step, _), row in sums.items() if step >= newest - 1)  # type: ignore[misc]


async def fleet(deck: Deck, join: Join, time: Time, *, callers: int = 20) -> tuple[Routers, str, str]:
    """Two nodes that serve acme and three neighbours. Returns their routers, and acme's v1 and v2, which is live."""
    routers = Routers(deck, [Served(await join(name, slots=16), time) for name in ("n1", "n2")], time, callers)
    await deck.tenant()
    for tenant in NEIGHBOURS:
        await deck.tenant(tenant)
        await deck.promote(await deck.release(tenant, seed=7), tenant)
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await routers.seconds(2, nobody)
    await deck.promote(two)
    return routers, one, two


class Routers:
    """Routers that report every second, each a moment after the other."""

    def __init__(self, deck: Deck, routers: list[Served], time: Time, callers: int) -> None:
        self._deck, self.all, self._time, self._callers = deck, routers, time, callers

    async def seconds(self, n: int, bad: Callable[[str, int], bool], *, failed: bool = False, units: int = 40) -> None:
        for _ in range(n):
            self._time.passed += 1
            for router in self.all:
                await router.report(bad, failed=failed, callers=self._callers, units=units)
                await until(partial(self._is_counted, router), "counted")

    def _is_counted(self, router: Served) -> bool:
        counted = {(c.replica, c.generation): c.admitted for c in self._deck.hub.counts.counters(ACME)}
        row = router.rows[ACME]
        return counted.get((row.replica, row.generation)) == row.admitted


def nobody(tenant: str, caller: int) -> bool:
    return False


def a_third(tenant: str, caller: int) -> bool:
    return caller % 3 == 0


def acmes_third(tenant: str, caller: int) -> bool:
    return tenant == "acme" and caller % 3 == 0


def cause(deck: Deck) -> FlagCause | None:
    flag = deck.hub.flags.now.get(ACME)
    return flag.verdict.cause if flag is not None else None


async def test_a_release_that_turns_bad_right_after_its_promote_is_ruled_out_by_its_neighbours(
    deck: Deck, join: Join, time: Time
) -> None:
    routers, one, two = await fleet(deck, join, time)
    await routers.seconds(10, acmes_third)
    await until(lambda: deck.hub.facts.is_breached(deck.hub.log.state.pointers[ACME], two), "breached")
    row = await deck.row()
    assert ("BAD" in row.flags, row.cause.verdict, row.cause.tenants) == (True, "release", 3)
    assert row.cause.others is not None
    assert row.cause.others.bad == 0
    await deck.promote(await deck.release(seed=3))
    preview = (await deck.row()).preview
    assert (preview.target and preview.target.id, [s.release.id for s in preview.skipped]) == (one, [two])


async def test_one_caller_whose_answers_are_all_bad_is_named_and_rules_nothing_out(
    deck: Deck, join: Join, time: Time
) -> None:
    routers, _, two = await fleet(deck, join, time, callers=8)
    await routers.seconds(10, lambda tenant, caller: tenant == "acme" and caller == 4)
    await until(lambda: cause(deck) is FlagCause.CALLERS, "one caller is named")
    row = await deck.row()
    assert row.cause.verdict == "callers"
    assert row.cause.who.startswith("one caller makes 100% of ")
    assert not deck.hub.facts.is_breached(deck.hub.log.state.pointers[ACME], two)


async def test_what_all_tenants_on_the_nodes_suffer_is_the_bases_doing(deck: Deck, join: Join, time: Time) -> None:
    routers, _, two = await fleet(deck, join, time)
    await routers.seconds(10, a_third)
    await until(lambda: cause(deck) is FlagCause.BASE, "the base is named")
    assert not deck.hub.facts.is_breached(deck.hub.log.state.pointers[ACME], two)


async def test_engines_that_were_away_are_named_for_the_requests_that_failed_then_and_r_goes_on_as_before(
    deck: Deck, join: Join, time: Time
) -> None:
    routers, _, two = await fleet(deck, join, time)
    await routers.seconds(3, nobody)
    for router in routers.all:
        router.agent.replica = router.agent.replica.model_copy(update={"boot": "another"})
    await routers.seconds(3, lambda tenant, caller: tenant == "acme", failed=True)
    await until(lambda: cause(deck) is FlagCause.ENGINE, "the engines are named")
    await deck.promote(await deck.release(seed=3))
    preview = (await deck.row()).preview
    assert (preview.action, preview.target and preview.target.id) == (PreviewAction.ROLLBACK, two)
    assert preview.asks in (None, "not soaked"), "nothing is held against the release that its engines let down"


async def test_a_release_that_is_bad_for_a_cause_that_nobody_knows_makes_r_ask_and_go_no_further_back(
    deck: Deck, join: Join, time: Time
) -> None:
    routers, _, two = await fleet(deck, join, time, callers=1)
    await routers.seconds(10, lambda tenant, caller: tenant == "acme")
    await until(lambda: cause(deck) is FlagCause.UNKNOWN, "flagged")
    await deck.promote(await deck.release(seed=3))
    await until(lambda: deck.hub.facts.flag(ACME, two), "recorded")
    preview = (await deck.row()).preview
    assert preview.target is not None
    assert preview.target.id == two
    assert preview.asks is not None
    assert preview.asks.startswith("its answers were bad: bad 100.0% of ")
    assert preview.skipped == ()


async def test_a_flag_ends_with_its_evidence_and_enough_good_answers_clear_its_release(
    deck: Deck, join: Join, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    routers, _, two = await fleet(deck, join, time)
    await routers.seconds(10, acmes_third)
    await until(lambda: deck.hub.facts.is_breached(deck.hub.log.state.pointers[ACME], two), "breached")
    with caplog.at_level(logging.WARNING, logger="loradeck.hub.progress.flags"):
        await routers.seconds(90, nobody)
        await until(lambda: ACME not in deck.hub.flags.now, "the flag is over")
        assert "BAD" not in (await deck.row()).flags
        assert "flag ended tenant=acme route=production bad 0 of" in caplog.text
        record = deck.hub.facts.flag(ACME, two)
        assert record is not None
        await routers.seconds(30, nobody)
        await until(lambda: not deck.hub.facts.is_breached(deck.hub.log.state.pointers[ACME], two), "cleared")
    record = deck.hub.facts.flag(ACME, two)
    assert record is not None
    assert (record.state, record.why.startswith("bad 0 of ")) == (FlagState.CLEARED, True)
    assert (await deck.row()).cause.against == ""
