"""A hub whose database does not hold what it had folded: what waits, what goes on, and what a person decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.fakes.postgres_server import servers
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, restore, running
from tests.fleets.linked.turns import taking_turns
from tests.fleets.waiting import until

from loradeck.cli.commands.hub import _recovery as printed
from loradeck.hub.process import HubProcess
from loradeck.rules.moves.lost_tail import Fold
from loradeck.schemas.ids import short
from loradeck.schemas.moves import MoveResult, RecoveryPlan
from loradeck.schemas.state import LeaseStatus

ACME = ("acme", "production")


@dataclass
class Lost:
    """A folder whose database is older than what its hub had folded, and no node that has seen more."""

    agent: LinkedAgent
    token: str
    older: str
    newer: str
    fold: Fold
    kept_rev: int

    async def link(self, deck: Deck) -> None:
        self.agent.deck = deck
        await self.agent.join(self.token)


async def a_lost_tail(data: Path, *, registered: bool = True) -> Lost:
    """R of acme, a hold of it and a new tenant are lost. Not `registered`: so is a promote to an unknown release."""
    async with running(data) as deck:
        for tenant in ("acme", "bolt"):
            await deck.tenant(tenant)
        agent = await LinkedAgent(deck, "n1").join()
        older, newer = await deck.release(seed=1), await deck.release(seed=2)
        for release in (older, newer):
            await deck.promote(release)
        for seed in (3, 4):
            await deck.promote(await deck.release("bolt", seed=seed), "bolt")
        token = await deck.token("agent", "n1")
        copy, kept_rev = data / "copy.db", deck.hub.log.state.rev
        deck.hub.store.now(lambda s: s.backup(str(copy)))
        if not registered:
            await deck.promote(await deck.release(seed=5))
        # The node does not hear of what follows, and so is no witness of it.
        table, position = dict(agent.entries), (agent.epoch, agent.rev, agent.hash, agent.witness)
        await agent.leave()
        await deck.rollback(wait="committed", reason="bad answers")
        await deck.ok("POST", "tenants", {"name": "late"})
        assert (table, position) == (agent.entries, (agent.epoch, agent.rev, agent.hash, agent.witness))
        fold = deck.hub.log.fold("test")
    restore(data, copy)
    return Lost(agent, token, older, newer, fold, kept_rev)


async def test_a_lost_tail_that_no_node_has_seen_waits_for_a_person_and_r_elsewhere_works(data: Path) -> None:
    lost = await a_lost_tail(data)
    async with running(data, proofs=[lost.fold]) as deck:
        await lost.link(deck)
        assert lost.agent.welcome is not None
        assert lost.agent.welcome.refuse is None, "the node has seen nothing that the database lacks"
        status = (await deck.ok("GET", "state"))["status"]
        revs = [{"hub": "test", "rev": lost.fold.state.rev, "kept_rev": lost.kept_rev}]
        assert (status["refusing"], status["waiting"], status["lost"]) == (None, "log_behind", revs)
        assert (await deck.ok("GET", "lease"))["lost"] == revs
        await deck.refused(503, "log_behind", "POST", "tenants", {"name": "new"})
        row = await deck.row()
        assert (row.held_back, "AHEAD" in row.flags, row.preview.action) == (("the hub test",), True, "none")
        body = {"expected_generation": 2, "to": lost.older, "idempotency_key": key()}
        path = "tenants/acme/routes/production/rollback"
        problem = await deck.refused(503, "log_behind", "POST", path, body)
        assert problem.context["nodes"] == ["the hub test"]
        await deck.rollback("bolt")
        plan = await deck.plan_of_recover()
        (tail,) = plan.lost
        said = [(event.kind, event.tenant, event.reason) for event in tail.events]
        assert said == [("rollback", "acme", "bad answers"), ("tenant_create", "late", "")]
        assert {event.actor for event in tail.events} == {"root"}
        missing, promoted, created, *_ = printed(plan)
        kept = f"up to rev {lost.kept_rev}"
        assert missing.startswith(f"the hub test has seen the log up to rev {lost.fold.state.rev}; the database holds")
        assert kept in missing
        assert promoted.endswith(f"rollback acme/production to {short(lost.older)} by root: bad answers")
        assert created.endswith("tenant_create late by root")
        (step,) = plan.steps
        assert step.adopted is not None
        assert (step.tenant, step.adopted.release, step.adopted.nodes) == ("acme", lost.older, ("the hub test",))

        result = MoveResult.model_validate(await deck.recover("the standby lacked them"))
        assert [event.kind for event in result.events] == ["recover"]
        assert deck.hub.log.state.pointers[ACME].release == lost.older
        status = (await deck.ok("GET", "state"))["status"]
        assert (status["waiting"], "lost" in status) == (None, False)
        await deck.ok("POST", "tenants", {"name": "late"})
        await lost.agent.leave()
    async with running(data, proofs=[lost.fold]) as deck:
        assert deck.hub.moves_allowed.waiting is None, "a person has decided"


async def test_a_lost_tail_is_kept_by_the_database_for_the_hub_that_comes_next(data: Path) -> None:
    lost = await a_lost_tail(data)
    for proofs in ([lost.fold], [], [lost.fold]):
        async with running(data, proofs=proofs) as deck:
            assert [revs.rev for revs in deck.hub.status.now().lost] == [lost.fold.state.rev]
            assert deck.hub.moves_allowed.waiting == "log_behind"


async def test_a_lost_move_to_a_release_that_was_lost_with_it_is_dropped_by_name_where_no_node_holds_it(
    data: Path,
) -> None:
    lost = await a_lost_tail(data, registered=False)
    async with running(data, proofs=[lost.fold]) as deck:
        (step,) = (await deck.plan_of_recover()).steps
        released = {move.release for move in (*step.dropped, *filter(None, [step.adopted]))}
        assert len(step.dropped) + (step.adopted is not None) == 2, "the promote and R"
        assert lost.newer in released, "where R went"
        await deck.recover("it is gone")
        assert deck.hub.moves_allowed.waiting is None


async def test_a_hub_that_follows_its_own_fold_has_lost_nothing(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        fold = deck.hub.log.fold("test")
    async with running(data, proofs=[fold]) as deck:
        assert deck.hub.moves_allowed.waiting is None
        assert deck.hub.status.now().lost == ()


async def active(clients: Sequence[httpx.AsyncClient], after: int = 0) -> tuple[httpx.AsyncClient, LeaseStatus]:
    """The hub that is active under a later epoch than `after`, and what it says of the lease."""

    async def look() -> tuple[httpx.AsyncClient, LeaseStatus] | None:
        for client in clients:
            try:
                answer = await client.get("/v1/lease")
            except httpx.TransportError:  # it changes from one to the other
                continue
            found = LeaseStatus.model_validate(answer.json()) if answer.status_code == 200 else None
            if found is not None and found.active and found.epoch > after:
                return client, found
        return None

    found = await until(look, "a hub is active", 60)
    assert found is not None
    return found


async def test_hubs_of_a_database_whose_asynchronous_standby_was_promoted_say_which_moves_it_lacks(data: Path) -> None:
    with servers(2) as (primary, standby):
        primary.start()
        standby.copy_of(primary, "s1")
        standby.start()
        url = primary.url + f",{standby.folder}"
        first, second = HubProcess(data / "a", name="a", database=url), HubProcess(data / "b", name="b", database=url)
        async with (
            taking_turns(first, data / "a") as (_, client),
            taking_turns(second, data / "b") as (_, other),
        ):
            _, began = await active([client, other])
            hub = (client, other)["ab".index(began.hub)]
            answer = await hub.post("/v1/tenants", json={"name": "acme"})
            assert answer.status_code == 200, answer.text
            position = primary.execute("SELECT pg_current_wal_lsn()::text")[0][0]
            caught_up = f"SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"
            await until(lambda: standby.execute(caught_up) == [(True,)], "the standby has it", 60)
            standby.kill()
            assert (await hub.post("/v1/tenants", json={"name": "bolt"})).status_code == 200
            newest = (await hub.get("/readyz")).json()["rev"]
            waiting = (other, client)["ab".index(began.hub)]

            async def folded() -> bool:
                return int((await waiting.get("/v1/lease")).json()["rev"]) == newest

            await until(folded, "the other hub has folded it", 60)
            primary.kill()
            standby.start()
            standby.promote()

            taken, again = await active([client, other], began.epoch)
            (revs,) = again.lost
            assert revs.rev >= newest
            assert revs.kept_rev is not None
            assert revs.kept_rev < newest
            assert (await taken.get("/readyz")).json()["waiting"] == "log_behind"
            assert (await taken.post("/v1/tenants", json={"name": "late"})).json()["code"] == "log_behind"
            request = {"idempotency_key": key(), "reason": "", "dry_run": True}
            plan = RecoveryPlan.model_validate((await taken.post("/v1/recover", json=request)).json())
            assert "bolt" in {event.tenant for tail in plan.lost for event in tail.events}
