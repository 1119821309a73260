"""A hub restored from an older copy of its database, under nodes that have seen more."""

from __future__ import annotations

from pathlib import Path

import pytest
from nacl.signing import SigningKey
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, lose, open_hub, restore, running
from tests.fleets.waiting import until

from loradeck.hub.log.signing import Signing
from loradeck.hub.recovery import recover
from loradeck.schemas.link import Desired, DownMessage, Hello, TableAsk
from loradeck.schemas.moves import MoveResult
from loradeck_agent.daemon import Agent
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.router.table import Change, Table

ACME = ("acme", "production")
ROUTE = "tenants/acme/routes/production"


@pytest.fixture
def ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that ends does not wait long for the answer of a node that gives none."""
    monkeypatch.setattr("loradeck.hub.log.background.END_S", 0.1)


def copy_of(deck: Deck, name: str) -> Path:
    """A consistent copy of the hub's database, as a backup would keep it."""
    target = deck.data / name
    deck.hub.store.now(lambda s: s.backup(str(target)))
    return target


async def hello_without_a_router(data: Path, known: LinkedAgent) -> Hello:
    """The hello of a real agent that is started on what `known`'s router left, and that finds no router."""
    config = data / "agent.toml"
    config.write_text(
        f'node = "{known.name}"\nhub = "http://127.0.0.1:1"\ntoken = "t"\nstate = "node"\n'
        '[router]\nlisten = "127.0.0.1:1"\n'
    )
    agent = Agent(AgentConfig.load(config), "secret")
    table = Table(agent.folder.router)
    position = (known.epoch, known.rev, known.hash)
    entries = tuple(known.entries.values())
    table.append(Change(at_ms=1, position=position, witness=known.witness, entries=entries))
    table.close()
    try:
        return await agent.reports.hello()
    finally:
        await agent._close()


async def ahead(deck: Deck, agent: LinkedAgent, token: str) -> None:
    """Links a node that is ahead of the log, and waits until the hub knows what it has seen."""
    await agent.join(token)
    assert agent.welcome is not None
    assert agent.welcome.refuse == "log_behind"
    await until(lambda: not deck.hub.witnesses.unknown(agent.name), "its table is known")
    await until(lambda: agent.epoch == deck.hub.log.state.epoch, "it follows the log in everything else")


async def restored(data: Path) -> tuple[LinkedAgent, str, str, str]:
    """A folder whose database is older than what a node serves: (node, its token, older release, newer one)."""
    async with running(data) as deck:
        await deck.tenant()
        one = await deck.release(seed=1)
        agent = await LinkedAgent(deck, "n1").join()
        await deck.promote(one)
        backup = copy_of(deck, "backup.db")
        two = await deck.release(seed=2)
        await deck.promote(two)
        token = await deck.token("agent", "n1")
        await agent.leave()
    restore(data, backup)
    return agent, token, one, two


@pytest.mark.usefixtures("ends_soon")
async def test_a_restored_hub_knows_that_its_log_is_behind_from_a_node_whose_router_is_dead(data: Path) -> None:
    agent, token, _, _ = await restored(data)
    hello = await hello_without_a_router(data, agent)
    assert (hello.epoch, hello.rev, hello.hash) == (agent.epoch, agent.rev, agent.hash)
    async with running(data) as deck:
        agent.deck, agent.hello = deck, lambda: hello  # type: ignore[method-assign]
        await agent.join(token)
        assert agent.welcome is not None
        assert agent.welcome.refuse == "log_behind"
        assert (await deck.ok("GET", "state"))["status"]["waiting"] == "log_behind"
        await agent.leave()


async def test_a_restored_hub_moves_no_pointer_that_a_node_has_seen_moved_farther_and_pulls_no_router_back(
    data: Path,
) -> None:
    agent, token, one, two = await restored(data)
    served, generation = agent.entry, agent.entry.generation
    async with running(data) as deck:
        assert deck.hub.log.state.pointers[ACME].release == one
        agent.deck, fences = deck, len(agent.fences)
        await ahead(deck, agent, token)
        status = (await deck.ok("GET", "state"))["status"]
        assert (status["refusing"], status["waiting"]) == (None, "log_behind")
        body = {"expected_generation": 1, "to": one, "idempotency_key": key()}
        problem = await deck.refused(503, "log_behind", "POST", f"{ROUTE}/rollback", body)
        assert problem.context["nodes"] == ["n1"]
        await deck.refused(503, "log_behind", "POST", "tenants", {"name": "bolt"})
        promote = {"release": one, "expected_generation": 1, "idempotency_key": key()}
        await deck.refused(503, "log_behind", "POST", f"{ROUTE}/promote", promote)
        await deck.refused(503, "log_behind", "GET", f"moves/{key()}")  # it may be a move that was lost
        ready = await deck.local.get("http://hub/readyz")
        assert (ready.status_code, ready.json()["waiting"]) == (200, "log_behind")
        assert [n["behind"] for n in await deck.ok("GET", "nodes")] == ["log_behind"]
        row = await deck.row()
        assert (row.held_back, "AHEAD" in row.flags, row.preview.action) == (("n1",), True, "none")
        assert "loradeck hub recover" in str(row.preview.refused)
        assert agent.entry == served

        result = MoveResult.model_validate(await deck.recover("restored from the backup"))
        (event,) = result.events
        assert event.kind == "recover"
        pointer = deck.hub.log.state.pointers[ACME]
        assert pointer.release == two
        assert pointer.generation > generation
        assert deck.hub.log.state.epoch > served.epoch
        await until(lambda: agent.entry.fence > served.fence, "the node has the recovered entry")
        assert agent.entry.current is not None
        assert agent.entry.current.id == two
        for _, epoch, number in agent.fences[fences:]:
            assert (epoch, number) >= served.fence
        await until(lambda: deck.hub.replicas.progress(ACME).proven == 1, "the node is proven again")
        assert (await deck.ok("GET", "state"))["status"]["waiting"] is None
        assert (await deck.row()).held_back == ()
        assert (await deck.ok("GET", "audit/verify"))["ok"]
        await agent.leave()


async def two_tenants(data: Path) -> tuple[LinkedAgent, str]:
    """A folder whose database lacks the newest move of acme, and of bolt none: (their node, its token)."""
    async with running(data) as deck:
        for name in ("acme", "bolt"):
            await deck.tenant(name)
        agent = await LinkedAgent(deck, "n1").join()
        for name in ("acme", "bolt"):
            for seed in (1, 2):
                await deck.promote(await deck.release(name, seed=seed), name)
        backup = copy_of(deck, "backup.db")
        await deck.promote(await deck.release("acme", seed=3), "acme")
        token = await deck.token("agent", "n1")
        await agent.leave()
    restore(data, backup)
    return agent, token


async def test_r_works_on_every_pointer_of_which_no_node_has_seen_more_and_forward_moves_wait(data: Path) -> None:
    agent, token = await two_tenants(data)
    served, bolt = agent.entry, ("bolt", "production")
    async with running(data) as deck:
        agent.deck = deck
        await ahead(deck, agent, token)
        assert deck.hub.log.state.epoch > served.epoch, "a new epoch has begun at once"
        back = await deck.rollback("bolt")
        assert back.events[0].epoch > served.epoch
        assert deck.hub.replicas.progress(bolt).flipped == 1, "on the node that is ahead of the log"
        assert agent.entries[bolt].generation == 3
        hold = {"held": True, "expected_generation": 3, "idempotency_key": key()}
        await deck.refused(409, "no_change", "POST", "tenants/bolt/routes/production/hold", hold)

        promote = {"release": back.events[0].from_release, "expected_generation": 3, "idempotency_key": key()}
        problem = await deck.refused(503, "log_behind", "POST", "tenants/bolt/routes/production/promote", promote)
        assert problem.title.startswith("forward moves wait")
        first = next(event for event in deck.hub.log.recent if event.tenant == "acme" and event.generation == 1)
        rewind = {"to_rev": first.rev, "dry_run": False, "idempotency_key": key(), "tenants": ["acme"]}
        rewind["generations"] = {"acme/production": deck.hub.log.state.pointers[ACME].generation}
        await deck.refused(503, "log_behind", "POST", "rewind", rewind)
        undo = {"event": back.events[0].id, "idempotency_key": key(), "confirmed": True}
        await deck.refused(503, "log_behind", "POST", "tenants/bolt/routes/production/undo", undo)
        await deck.refused(503, "log_behind", "POST", "tenants/bolt/keys")
        problem = await deck.refused(503, "log_behind", "POST", f"{ROUTE}/fallback", {
            "expected_generation": 2, "idempotency_key": key(),
        })  # fmt: skip
        assert "acme/production" in problem.title
        assert agent.entry == served
        await agent.leave()
    async with running(data) as deck:  # the hub is started again: the node follows, and its pointer is still held back
        agent.deck = deck
        await agent.join(token)
        assert agent.welcome is not None
        assert agent.welcome.refuse is None
        assert (await deck.row("acme")).held_back == ("n1",)
        assert (await deck.row("bolt")).held_back == ()
        assert agent.entry == served
        await agent.leave()
        plan = await deck.plan_of_recover()
        assert [(node.node, node.state) for node in plan.nodes] == [("n1", "known")]
        assert [(step.tenant, step.adopted is not None) for step in plan.steps] == [("acme", True)]
        await deck.recover("restored, and n1 is away")
        await agent.join(token)
        assert agent.entry.fence > served.fence
        assert agent.entry.current == served.current
        assert (await deck.row("acme")).held_back == ()
        await agent.leave()


async def test_a_node_that_has_only_seen_a_later_epoch_holds_nothing_back(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        await deck.promote(await deck.release(seed=1))
        token = await deck.token("agent", "n1")
        backup = copy_of(deck, "backup.db")
        await agent.leave()
    for _ in range(2):
        async with running(data) as deck:
            agent.deck = deck
            await agent.join(token)
            await agent.leave()
    restore(data, backup)
    async with running(data) as deck:
        agent.deck = deck
        assert agent.epoch > deck.hub.log.state.epoch
        await agent.join(token)
        await until(lambda: not deck.hub.witnesses.ahead, "the log lacks none of its moves")
        assert [node["behind"] for node in await deck.ok("GET", "nodes")] == [None]
        await until(lambda: agent.epoch == deck.hub.log.state.epoch, "it follows")
        await deck.ok("POST", "tenants", {"name": "bolt"})
        await agent.leave()


async def test_after_recover_the_same_node_rejoins_and_moves_go_on(data: Path) -> None:
    agent, token, one, _ = await restored(data)
    async with running(data) as deck:
        agent.deck = deck
        await agent.join(token)
        name = key()
        first = await deck.recover("", key=name)
        assert (await deck.recover("", key=name))["events"] == first["events"]
        await until(lambda: agent.rev == deck.hub.log.state.rev, "the node follows")
        await agent.leave()
        await agent.join(token)
        assert agent.welcome is not None
        assert agent.welcome.refuse is None
        pointer = deck.hub.log.state.pointers[ACME]
        hold = {"held": False, "expected_generation": pointer.generation, "idempotency_key": key()}
        await deck.ok("POST", f"{ROUTE}/hold", hold)
        assert await deck.promote(one)
        await agent.leave()


async def test_a_node_that_missed_the_recover_holds_back_itself_and_nobody_else(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        one = await deck.release(seed=1)
        agents = [await LinkedAgent(deck, "n1").join(), await LinkedAgent(deck, "n2").join()]
        await deck.promote(one)
        tokens = [await deck.token("agent", agent.name) for agent in agents]
        backup = copy_of(deck, "backup.db")
        two = await deck.release(seed=2)
        await deck.promote(two)
        for agent in agents:
            await agent.leave()
    restore(data, backup)
    here, away = agents
    async with running(data) as deck:
        here.deck = away.deck = deck
        await ahead(deck, here, tokens[0])
        await deck.refused(503, "log_behind", "POST", "tenants", {"name": "bolt"})
        await deck.recover("restored")
        await deck.ok("POST", "tenants/acme/keys")
    served = away.entry
    async with running(data) as deck:  # it is known after a restart as well
        here.deck = away.deck = deck
        await here.join(tokens[0])
        seen = len(away.received)
        await away.join(tokens[1])
        assert away.welcome is not None
        assert away.welcome.refuse == "log_behind"
        assert (await deck.ok("GET", "state"))["status"]["refusing"] is None
        assert {n["node"]: n["behind"] for n in await deck.ok("GET", "nodes")} == {"n1": None, "n2": "log_behind"}
        pointer = deck.hub.log.state.pointers[ACME]
        hold = {"held": False, "expected_generation": pointer.generation, "idempotency_key": key()}
        await deck.ok("POST", f"{ROUTE}/hold", hold)
        assert not any(isinstance(m, Desired) for m in away.received[seen:])
        assert away.entry == served
        assert deck.hub.replicas.progress(ACME).flipped == 1

        keys = deck.hub.log.state.tenants["acme"].keys
        result = await deck.recover("n2 is back")
        assert result["events"] == [], "what n2 knows was taken over from n1 before"
        assert deck.hub.log.state.tenants["acme"].keys == keys, "a key made since the recover stays"
        await until(lambda: deck.hub.replicas.progress(ACME).proven == 2, "n2 follows")
        assert away.entry.fence > served.fence
        for agent in agents:
            await agent.leave()


async def test_a_log_that_is_restored_again_after_a_recover_stops_every_move_again(data: Path) -> None:
    agent, token, one, _ = await restored(data)
    async with running(data) as deck:
        agent.deck = deck
        await ahead(deck, agent, token)
        await deck.recover("restored")
        await until(lambda: agent.rev == deck.hub.log.state.rev, "the node follows")
        backup = copy_of(deck, "second.db")
        pointer = deck.hub.log.state.pointers[ACME]
        hold = {"held": False, "expected_generation": pointer.generation, "idempotency_key": key()}
        await deck.ok("POST", f"{ROUTE}/hold", hold)
        assert await deck.promote(one)
        await agent.leave()
    restore(data, backup)
    async with running(data) as deck:
        agent.deck = deck
        await ahead(deck, agent, token)
        await deck.refused(503, "log_behind", "POST", "tenants", {"name": "bolt"})
        await agent.leave()


async def test_that_the_log_is_behind_outlives_another_restart(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradeck.hub.recovery.startup.HOLD_S", 0.1)
    agent, token, one, _ = await restored(data)
    async with running(data) as deck:
        agent.deck = deck
        await ahead(deck, agent, token)
        await agent.leave()
    async with running(data) as deck:
        body = {"expected_generation": 1, "to": one, "idempotency_key": key()}
        await deck.refused(503, "log_behind", "POST", f"{ROUTE}/rollback", body)


@pytest.mark.parametrize("forged", ["nothing", "another hub's", "an altered one"])
@pytest.mark.parametrize(("epoch", "rev"), [(10**9, 1), (1, 10**9), (1, 1)])
async def test_a_node_that_cannot_prove_what_it_says_is_held_back_alone(
    data: Path, forged: str, epoch: int, rev: int
) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = LinkedAgent(deck, "n1")
        agent.epoch, agent.rev, agent.hash = epoch, rev, "f" * 64
        if forged == "another hub's":
            signing = Signing(deck.hub.log.signing.log, {epoch: "1" * 32}, (), SigningKey.generate())
            agent.witness = signing.position(epoch, rev, agent.hash)
        elif forged == "an altered one":
            change = {"epoch": epoch, "rev": rev, "hash": agent.hash}
            agent.witness = deck.hub.log.position().model_copy(update=change)
        await agent.join()
        assert agent.welcome is not None
        assert agent.welcome.refuse == "log_unproven"
        assert (await deck.ok("GET", "state"))["status"]["refusing"] is None
        await deck.ok("POST", "tenants", {"name": "bolt"})
        assert not any(isinstance(m, Desired) for m in agent.received), "it is not steered"

        # A recover does not believe it, unless a person says so.
        await deck.recover("not needed")
        assert deck.hub.log.state.epoch < 10**9
        assert [n["behind"] for n in await deck.ok("GET", "nodes")] == ["log_unproven"]
        await deck.recover("I know this node", unproven=True)
        assert deck.hub.log.state.epoch > epoch
        await until(lambda: any(isinstance(m, Desired) for m in agent.received), "it is steered now")
        await agent.leave()


async def test_no_node_takes_the_epochs_from_a_hub_by_naming_the_last_one(data: Path) -> None:
    """What was found: a recover that believed it left the hub without an epoch that it could say."""
    async with running(data) as deck:
        await deck.tenant()
        agent = LinkedAgent(deck, "n1")
        agent.epoch, agent.rev, agent.hash = 2**53 - 1, 1, "f" * 64
        await agent.join()
        assert agent.welcome is not None
        assert agent.welcome.refuse == "log_unproven"
        plan = await deck.plan_of_recover(unproven=True)
        assert [(node.node, node.state) for node in plan.nodes] == [("n1", "unproven")]
        await deck.recover("I know this node", unproven=True)
        assert deck.hub.log.state.epoch < 10
        await agent.leave()


async def test_a_witness_of_a_hub_whose_key_was_lost_is_believed(data: Path) -> None:
    agent, token, _, _ = await restored(data)
    (data / "hub.key").unlink()
    async with running(data) as deck:
        agent.deck = deck
        await agent.join(token)
        assert agent.welcome is not None
        assert agent.welcome.refuse == "log_behind"
        assert (data / "hub.key").stat().st_mode & 0o777 == 0o600
        await agent.leave()


async def test_the_private_key_is_in_no_backup(data: Path) -> None:
    async with running(data) as deck:
        secret = (data / "hub.key").read_bytes()
        backup = copy_of(deck, "backup.db").read_bytes()
        assert secret not in backup
        assert secret.hex().encode() not in backup


@pytest.mark.usefixtures("ends_soon")
async def test_a_plan_names_a_linked_node_that_does_not_answer_and_a_recover_leaves_it_as_it_is(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, token, _, _ = await restored(data)
    async with running(data) as deck:
        agent.deck = deck
        take = agent.take

        async def silent(message: DownMessage) -> None:
            if not isinstance(message, TableAsk):
                await take(message)

        agent.take = silent  # type: ignore[method-assign]
        await agent.join(token)
        row = await deck.row()
        assert (row.held_back, row.preview.action) == (("n1",), "none"), "what is placed there, while it is not known"
        monkeypatch.setattr(recover, "ANSWER_S", 0.2)
        plan = await deck.plan_of_recover()
        assert [(node.node, node.state, node.behind) for node in plan.nodes] == [("n1", "silent", "log_behind")]
        assert (plan.steps, plan.further) == ((), ())
        assert (await deck.recover("its disk is dead"))["events"] == []
        assert [n["behind"] for n in await deck.ok("GET", "nodes")] == ["log_behind"], "it is not pulled back"
        assert deck.hub.moves_allowed.refusing is None
        await agent.leave()


async def restored_and_moved_on(deck: Deck, agents: tuple[LinkedAgent, LinkedAgent], tokens: list[str]) -> str:
    """What a restored hub is moved to while only the second node is back; then the first one links as well."""
    for agent in agents:
        agent.deck = deck
    await agents[1].join(tokens[1])
    back = await deck.rollback(wait="committed")
    await ahead(deck, agents[0], tokens[0])
    return str(back.events[0].to_release)


async def forked(data: Path) -> tuple[tuple[LinkedAgent, LinkedAgent], list[str], str]:
    """A folder whose database lacks two moves that its first of two nodes has seen: (nodes, tokens, release served)."""
    async with running(data) as deck:
        await deck.tenant()
        agents = (await LinkedAgent(deck, "n1").join(), await LinkedAgent(deck, "n2").join())
        tokens = [await deck.token("agent", agent.name) for agent in agents]
        for seed in (1, 2, 3):
            await deck.promote(await deck.release(seed=seed))
        backup = copy_of(deck, "backup.db")
        await agents[1].leave()
        for _ in range(2):
            back = await deck.rollback(wait="committed", confirmed=True)
        last = back.events[0]
        await until(lambda: agents[0].entry.fence == (last.epoch, last.generation), "n1 has it")
        await agents[0].leave()
    restore(data, backup)
    return agents, tokens, str(last.to_release)


async def test_a_plan_says_what_the_log_has_what_a_node_has_seen_and_what_is_dropped_and_changes_nothing(
    data: Path,
) -> None:
    agents, tokens, served = await forked(data)
    async with running(data) as deck:
        ours = await restored_and_moved_on(deck, agents, tokens)
        before = deck.fingerprint()
        plan = await deck.plan_of_recover()
        assert deck.fingerprint() == before
        (step,) = plan.steps
        assert (step.tenant, step.route, step.release, step.label) == (*ACME, ours, "v2")
        assert step.adopted is None
        (move,) = step.dropped
        assert (move.release, move.nodes, move.why) == (served, ("n1",), "the log has moved since")
        assert (move.epoch, move.generation) == agents[0].entry.fence < (step.epoch, step.generation)
        assert [(node.node, node.state) for node in plan.nodes] == [("n1", "answered"), ("n2", "answered")]
        for agent in agents:
            await agent.leave()


async def test_an_acknowledged_move_that_a_recover_drops_stands_in_the_log_as_dropped(data: Path) -> None:
    agents, tokens, served = await forked(data)
    async with running(data) as deck:
        ours = await restored_and_moved_on(deck, agents, tokens)
        fence = agents[0].entry.fence
        result = MoveResult.model_validate(await deck.recover("n1 was away"))
        (event,) = result.events
        assert (event.kind, event.tenant, event.route) == ("dropped", *ACME)
        assert (event.actor, event.reason, event.to_release) == ("root", "n1 was away", served)
        assert event.payload == {"epoch": fence[0], "generation": fence[1], "release": served, "nodes": ["n1"]}
        assert deck.hub.log.state.pointers[ACME].release == ours
        await until(lambda: agents[0].entry.fence > fence, "n1 follows the log again")
        assert (await deck.recover("once more"))["events"] == [], "it is said once"
        assert (await deck.ok("GET", "audit/verify"))["ok"]
        for agent in agents:
            await agent.leave()


async def test_a_recover_without_a_plan_or_with_one_that_no_longer_fits_changes_nothing(data: Path) -> None:
    agents, tokens, _ = await forked(data)
    async with running(data) as deck:
        await restored_and_moved_on(deck, agents, tokens)
        body = {"idempotency_key": key(), "reason": "restored", "dry_run": False}
        await deck.refused(422, "plan_required", "POST", "recover", body)
        plan = await deck.plan_of_recover()
        await deck.recover("n1 was away")
        problem = await deck.refused(409, "plan_changed", "POST", "recover", {**body, "plan": plan.digest})
        assert problem.context["plan"]["digest"] != plan.digest
        for agent in agents:
            await agent.leave()


async def test_a_hub_that_lost_everything_takes_tenants_releases_and_pointers_from_its_nodes(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        one = await deck.release(seed=1)
        await deck.promote(one)
        await agent.leave()
    lose(data)
    async with running(data) as deck:
        agent.deck = deck
        await agent.join()
        assert agent.welcome is not None
        assert agent.welcome.refuse == "log_behind"
        await deck.recover("the disk was lost")
        pointer = deck.hub.log.state.pointers[ACME]
        assert pointer.release == one
        assert deck.hub.catalogue.releases[one].tenant == "acme"
        await until(lambda: deck.hub.replicas.progress(ACME).proven == 1, "the node is proven")
        await agent.leave()


def test_a_second_hub_on_the_same_folder_is_refused(data: Path) -> None:
    import pytest

    from loradeck.store.interface import Unusable

    _, store = open_hub(data, name="one")
    reading = data / "artifacts" / "reading.search"
    reading.mkdir(parents=True)
    try:
        with pytest.raises(Unusable):
            open_hub(data, name="two")
        assert reading.exists(), "what the running hub reads stays"
    finally:
        store.close()
    _, store = open_hub(data, name="three")
    store.close()
    assert not reading.exists(), "what a hub left that is gone does not"
