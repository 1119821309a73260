"""Deprecated releases at a hub: their nodes are told, and the row says who still calls them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import running
from tests.fleets.waiting import until


async def test_nodes_are_told_and_the_row_says_which_keys_still_call_it_over_a_restart(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        made = [await deck.ok("POST", "tenants/acme/keys") for _ in range(2)]
        digests = [sha256(one["key"].encode()).hexdigest()[:16] for one in made]
        agent = await LinkedAgent(deck, "n1").join()
        release, other = await deck.release(seed=1), await deck.release(seed=2)
        await deck.promote(release)
        assert (await deck.row()).deprecated is None
        now = deck.hub.clock.now_ms()
        stated = {"from_ms": now, "until_ms": now + 86_400_000, "reason": "v2 is out"}
        adapter = deck.hub.catalogue.releases[release].adapter
        of = {"kind": "deprecation", "tenant": "acme", "subject": adapter, "by": ""}
        await deck.refused(422, "invalid_request", "POST", "attestations", {**of, "body": {**stated, "until_ms": 1}})
        await deck.ok("POST", "attestations", {**of, "body": stated})
        await until(lambda: agent.entry.deprecated, "its node is told")
        (told,) = agent.entry.deprecated
        assert (told.release, told.from_ms, told.until_ms) == (release, now, now + 86_400_000)
        calls = {digests[0]: now - 120_000, digests[1]: now + 10**9, "f" * 16: now}
        row = agent.served(attempted=3, admitted=3, finished=3).model_copy(update={"called_by": calls})
        await agent.report(row, row.model_copy(update={"release": other}))
        await until(lambda: deck.hub.deprecated_callers.of(("acme", "production"), release), "heard")
        found = (await deck.row()).deprecated
        assert found is not None
        assert (found.from_ms, found.until_ms, found.reason) == (now, now + 86_400_000, "v2 is out")
        assert [one.key for one in found.callers] == [made[1]["id"], made[0]["id"]], (
            "the last one first, and no key that nobody has"
        )
        assert found.callers[0].last_ms <= deck.hub.clock.now_ms(), "nobody has called in the future"
        assert found.callers[1].last_ms == now - 120_000
        assert deck.hub.deprecated_callers.of(("acme", "production"), other) == ()
        await deck.hub.flush()
        await agent.leave()
    async with running(data) as deck:
        again = (await deck.row()).deprecated
        assert again == found
