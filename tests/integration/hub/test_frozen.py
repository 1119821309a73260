"""A hub that does not run for a while (a stopped process, a snapshot of its machine), and a clock that is set."""

from __future__ import annotations

import time
from typing import cast

from tests.fakes.leaping_loop import leap
from tests.fleets.linked.hub import Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_jobs import train

from loradeck.hub.log.clock import AwakeClock
from loradeck.schemas.log import Event
from loradeck.schemas.replica_state import LINK_TTL_S


async def test_a_hub_that_was_stopped_for_longer_than_the_ttl_loses_no_node_and_takes_no_job_away(
    deck: Deck, join: Join
) -> None:
    """A process that was stopped finds all its clocks further on between two of its steps, and so does this one."""
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    given = await train(deck)
    await until(lambda: given["id"] in agent.jobs, "the job is given")
    clock, ticks = cast(AwakeClock, deck.hub.clock.monotonic), deck.hub.changes._ticks
    clock._monotonic = lambda: time.monotonic() + LINK_TTL_S + 1
    leap(LINK_TTL_S + 1)
    await until(lambda: deck.hub.changes._ticks > ticks + 10, "the hub has looked at its nodes again and again")
    (node,) = (await deck.ok("GET", "state"))["nodes"]
    job = await deck.ok("GET", f"jobs/{given['id']}")
    assert (node["lost"], job["attempt"], job["node"]) == (False, 1, "n1")


async def test_after_the_clock_was_set_back_a_time_still_means_what_was_there_then(deck: Deck) -> None:
    def events() -> list[Event]:
        return list(deck.hub.log.recent)

    await deck.tenant()
    before = events()[-1]
    store, now = deck.hub.store, deck.hub.clock.now_ms
    deck.hub.clock.now_ms = lambda: now() - 3_600_000
    await store(lambda s: s.database._ready().create_function("clock_ms", 0, deck.hub.clock.now_ms))  # type: ignore[attr-defined]
    await deck.ok("POST", "tenants", {"name": "bolt"})
    assert events()[-1].at_ms >= before.at_ms
    assert await store(lambda s: s.rev_at(before.at_ms - 1)) < before.rev

    def told() -> list[str]:
        return [text for _, text in store.now(lambda s: s.audit_texts(0, 1000)) if '"clock"' in text]

    (said,) = await until(told, "the step is in the audit trail", 60)
    assert "set back by 3600 s" in said
    behind = [line for line in (await deck.local.get("http://hub/metrics")).text.splitlines() if "clock_behind" in line]
    assert float(behind[-1].split()[1]) > 3500
