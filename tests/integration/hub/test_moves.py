"""Promote, R, fallback, undo and what is said of them: what happens, and what every refusal leaves as it is."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.leaping_loop import leap
from tests.fleets.linked.hub import BASE, Deck, key
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.hub.fleet.link_socket import LinkSocket
from loradeck.hub.log.log import Published
from loradeck.schemas.jobs import JobState
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import MoveResult, PromoteRequest
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.state import PreviewAction, Readiness

ROUTE = "tenants/acme/routes/production"


async def two_releases(deck: Deck, join: Join) -> tuple[str, str]:
    """acme on v2, with v1 attested and soaked under it, on one node."""
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    return one, two


async def test_a_promote_is_prepared_on_every_placed_replica_then_committed_flipped_and_proven(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    release = await deck.release()
    agents = [await join("n1"), await join("n2")]
    result = await deck.promote(release)
    assert [e.kind for e in result.events] == [EventKind.PROMOTE]
    assert result.reached == "proven"
    assert result.commit_ms is not None
    assert result.flipped_ms is not None
    assert result.proven_ms is not None
    row = await deck.row()
    assert (row.flipped, row.proven, row.placed) == (2, 2, 2)
    assert row.attested == (2, 2)
    assert row.live is not None
    assert (row.live.label, row.live.base_label) == ("v1", "B1")
    for agent in agents:
        assert [job.spec.kind for job in agent.jobs.values()] == ["prepare"]
        assert agent.entry.current is not None
        assert agent.entry.current.id == release
        assert agent.entry.preparing is None


async def test_nodes_are_sent_a_move_before_the_hub_does_anything_else_with_it(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_releases(deck, join)
    await join("n2")
    seen: list[str] = []
    write, follow = LinkSocket.write_frame, deck.hub.progress.committed

    def written(socket: LinkSocket, frame: bytes) -> bool:
        seen.append("directive" if b'"type":"desired"' in frame else "other")
        return write(socket, frame)

    def followed(published: Published) -> None:
        seen.append("progress")
        follow(published)

    monkeypatch.setattr(LinkSocket, "write_frame", written)
    deck.hub.log.followers[deck.hub.log.followers.index(follow)] = followed
    await deck.rollback()
    at = seen.index("progress")
    assert seen[:at].count("directive") == 2
    assert seen[at:].count("directive") == 0
    assert deck.hub.log.followers[-1] == deck.hub.changes.committed, "consoles come last: a row is computed from all"


async def test_r_goes_where_the_preview_said_and_holds_the_pointer(deck: Deck, join: Join) -> None:
    one, two = await two_releases(deck, join)
    before = await deck.row()
    assert before.preview.action is PreviewAction.ROLLBACK
    assert before.preview.target is not None
    assert before.preview.target.id == one
    assert before.preview.asks is None
    result = await deck.rollback()
    assert result.reached == "proven"
    (event,) = result.events
    assert event.kind is EventKind.ROLLBACK
    assert event.pointer is not None
    assert event.pointer.release == one
    assert event.pointer.held
    assert [q.release for q in event.pointer.quarantined] == [two]
    after = await deck.row()
    assert after.live is not None
    assert after.live.id == one
    assert "HELD" in after.flags
    assert "NOPRIOR" in after.flags
    assert after.preview.action is PreviewAction.FALLBACK
    assert after.last_event == event


async def test_the_preview_says_how_near_the_target_is_on_every_replica(deck: Deck, join: Join) -> None:
    await two_releases(deck, join)
    preview = (await deck.row()).preview
    assert (preview.ready, preview.placed) == (0, 1)
    assert preview.readiness is Readiness.ABSENT  # loaded is what a report says, and none came yet
    agent = deck.hub.fleet.nodes["n1"]
    await until(lambda: agent.link, "n1 linked")


async def test_a_report_that_lists_the_target_makes_it_resident(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].replicas[0].loaded == (one, two), "the report is in")
    preview = (await deck.row()).preview
    assert (preview.readiness, preview.ready, preview.placed) == (Readiness.RESIDENT, 1, 1)
    assert preview.estimate_ms is not None


async def test_a_stale_generation_is_refused_with_the_winner_and_changes_nothing(deck: Deck, join: Join) -> None:
    await two_releases(deck, join)
    body = await deck.rollback_body()
    winner = (await deck.rollback()).events[0]
    body["idempotency_key"] = key()
    problem = await deck.refused(409, "moved", "POST", f"{ROUTE}/rollback", body)
    assert problem.context["winner"]["id"] == winner.id
    assert problem.context["generation"] == winner.generation


async def test_a_changed_target_is_refused_and_changes_nothing(deck: Deck, join: Join) -> None:
    _, two = await two_releases(deck, join)
    body = await deck.rollback_body(to=two)
    problem = await deck.refused(409, "target_changed", "POST", f"{ROUTE}/rollback", body)
    assert problem.context["to"] != two


async def test_of_two_operators_who_press_r_at_once_one_wins_and_the_other_is_told_who(deck: Deck, join: Join) -> None:
    await two_releases(deck, join)
    bodies = [await deck.rollback_body() for _ in range(8)]
    answers = await asyncio.gather(*(deck.local.post(f"{ROUTE}/rollback", json=body) for body in bodies))
    won = [a for a in answers if a.status_code == 200]
    lost = [a for a in answers if a.status_code == 409]
    assert (len(won), len(lost)) == (1, 7)
    event = MoveResult.model_validate(won[0].json()).events[0]
    for answer in lost:
        assert answer.json()["code"] == "moved"
        assert answer.json()["context"]["winner"]["id"] == event.id


async def test_a_target_that_has_not_soaked_is_asked_about_first(deck: Deck, join: Join) -> None:
    await deck.tenant(soak={"seconds": 3600, "requests": 0})
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await join("n1")
    for release in (one, two):
        await deck.promote(release, wait="flipped")
        pointer = deck.hub.log.state.pointers["acme", "production"]
        await until(
            lambda g=pointer.generation: deck.hub.facts.attested_generation(("acme", "production"), g), "attested"
        )
    body = await deck.rollback_body()
    await deck.refused(409, "needs_confirmation", "POST", f"{ROUTE}/rollback", body)
    result = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", body | {"confirmed": True}))
    assert result.events[0].to_release == one


async def test_a_route_whose_soak_was_shortened_goes_back_by_what_releases_beneath_have_served(
    deck: Deck, join: Join
) -> None:
    await deck.tenant(soak={"seconds": 0, "requests": 5})
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one, wait="flipped")
    await until(lambda: one in deck.hub.facts.of(("acme", "production")).attested, "v1 is attested")
    await agent.report(agent.served(admitted=3, finished=3))
    await until(lambda: deck.hub.health.served(("acme", "production"), one)[1] == 3, "v1 has served")
    await deck.promote(two, wait="flipped")
    for requests, asks in ((5, "not soaked"), (4, "not soaked"), (3, None)):
        await deck.tenant(soak={"seconds": 0, "requests": requests})
        if asks is None:
            await until(lambda: deck.hub.facts.is_soaked(("acme", "production"), one), "v1 has soaked")
        preview = (await deck.row()).preview
        assert (preview.target and preview.target.id, preview.asks) == (one, asks)
    result = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", await deck.rollback_body()))
    assert result.events[0].to_release == one


async def test_the_same_key_moves_once_and_answers_the_same_again(deck: Deck, join: Join) -> None:
    await two_releases(deck, join)
    body = await deck.rollback_body()
    first = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", body))
    rev = deck.hub.log.state.rev
    again = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", body))
    assert again.replayed
    assert not first.replayed
    assert again.events == first.events
    assert deck.hub.log.state.rev == rev
    asked = MoveResult.model_validate(await deck.ok("GET", f"moves/{body['idempotency_key']}"))
    assert asked.events == first.events


async def test_a_key_that_never_moved_anything_is_unknown(deck: Deck) -> None:
    await deck.refused(404, "unknown_key", "GET", f"moves/{key()}")


async def test_a_promote_said_twice_with_one_key_is_one_promote(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release = await deck.release()
    await join("n1")
    body = PromoteRequest(release=release, expected_generation=0, idempotency_key=key()).model_dump(mode="json")
    answers = await asyncio.gather(*(deck.ok("POST", f"{ROUTE}/promote", body) for _ in range(3)))
    results = [MoveResult.model_validate(a) for a in answers]
    assert len({r.events[0].id for r in results}) == 1
    assert [e.kind for e in deck.hub.log.recent].count(EventKind.PROMOTE) == 1
    again = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/promote", body))
    assert again.events == results[0].events


async def test_a_promote_waits_for_its_prepare_and_r_cancels_it(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release = await deck.release()
    agent = await join("n1")
    agent.prepares = "hold"
    body = PromoteRequest(release=release, expected_generation=0, idempotency_key=key()).model_dump(mode="json")
    promote = asyncio.create_task(deck.local.post(f"{ROUTE}/promote", json=body))
    await until(lambda: agent.jobs, "the prepare is at the node")
    assert not promote.done()
    row = await deck.row()
    assert row.preview.action is PreviewAction.CANCEL_PREPARE
    assert "PREP" in row.flags
    assert row.preview.prepare is not None
    pending = MoveResult.model_validate(await deck.ok("GET", f"moves/{body['idempotency_key']}"))
    assert pending.pending == row.preview.prepare
    assert agent.entry.preparing is not None
    assert agent.entry.preparing.id == release
    await deck.refused(409, "prepare_pending", "POST", f"{ROUTE}/promote", body | {"idempotency_key": key()})

    rollback = await deck.rollback_body()
    cancelled = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", rollback))
    assert cancelled.cancelled == row.preview.prepare
    assert cancelled.events == ()
    answer = await promote
    assert (answer.status_code, answer.json()["code"]) == (409, "prepare_cancelled")
    await until(lambda: not agent.jobs, "the node was told to stop")
    await until(lambda: agent.entry.preparing is None, "the entry names no candidate")
    assert deck.hub.log.state.pointers["acme", "production"].generation == 0
    assert (await deck.ok("GET", f"jobs/{row.preview.prepare}"))["state"] == JobState.CANCELLED
    again = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", rollback))
    assert (again.cancelled, again.replayed) == (row.preview.prepare, True)
    await deck.refused(404, "unknown_key", "GET", f"moves/{body['idempotency_key']}")


async def test_a_wait_that_ends_before_the_prepare_names_it_and_the_promote_goes_on(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release = await deck.release()
    agent = await join("n1")
    agent.prepares = "hold"
    result = await deck.promote(release, wait="committed", timeout=0.05)
    assert result.events == ()
    assert result.pending is not None
    job = await deck.ok("GET", f"jobs/{result.pending}")
    assert (job["kind"], job["state"], job["step"], job["of"]) == ("prepare", "running", 0, 1)
    from loradeck.schemas.executor import ExecutorEventType

    await agent.say(agent.jobs[result.pending], ExecutorEventType.FINISHED)
    await until(lambda: deck.hub.log.state.pointers["acme", "production"].release == release, "committed")


async def test_a_prepare_says_where_it_still_loads(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release = await deck.release()
    agents = [await join("n1"), await join("n2")]
    for agent in agents:
        agent.prepares = "hold"
    pending = (await deck.promote(release, wait="committed", timeout=0.05)).pending
    assert pending is not None
    job = await deck.ok("GET", f"jobs/{pending}")
    assert (job["step"], job["of"], job["message"]) == (0, 2, "loading on n1, n2")
    from loradeck.schemas.executor import ExecutorEventType

    await agents[0].say(agents[0].jobs[pending], ExecutorEventType.FINISHED)
    await until(lambda: deck.hub.jobs.get(pending).step == 1, "one is ready")
    job = await deck.ok("GET", f"jobs/{pending}")
    assert (job["step"], job["of"], job["message"]) == (1, 2, "loading on n2")
    await agents[1].say(agents[1].jobs[pending], ExecutorEventType.FINISHED)
    await until(lambda: deck.hub.log.state.pointers["acme", "production"].release == release, "committed")
    job = await deck.ok("GET", f"jobs/{pending}")
    assert (job["state"], job["step"], job["message"]) == ("done", 2, "")


async def test_a_failed_prepare_fails_the_promote_and_moves_nothing(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release = await deck.release()
    agent = await join("n1")
    await join("n2")
    agent.prepares = "fail"
    body = PromoteRequest(release=release, expected_generation=0, idempotency_key=key()).model_dump(mode="json")
    answer = await deck.local.post(f"{ROUTE}/promote", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "prepare_failed")
    assert answer.json()["context"]["node"] == "n1"
    assert "boom" in answer.json()["detail"]
    assert answer.json()["fix"].endswith(f"loradeck job show {answer.json()['context']['prepare']}")
    assert deck.hub.log.state.pointers["acme", "production"].generation == 0
    await until(lambda: deck.hub.tables.entries["acme", "production"].preparing is None, "the entry names no candidate")


async def test_a_first_promote_that_no_slot_is_found_for_says_which_command_lets_routes_share_them(
    deck: Deck, join: Join
) -> None:
    from loradeck.schemas.executor import ExecutorEventType

    await deck.tenant()
    release, agent = await deck.release(), await join("n1")
    agent.prepares = "hold"
    body = PromoteRequest(release=release, expected_generation=0, idempotency_key=key()).model_dump(mode="json")
    answer = asyncio.create_task(deck.local.post(f"{ROUTE}/promote", json=body))
    await until(lambda: agent.jobs, "it is to be prepared")
    await agent.say(next(iter(agent.jobs.values())), ExecutorEventType.FAILED, code="no_slot")
    refused = (await answer).json()
    assert refused["code"] == "prepare_failed"
    assert "let other routes there share slots: loradeck route set TENANT ROUTE --residency on-demand" in refused["fix"]


async def test_a_failed_promote_needs_a_person_until_somebody_answers_it(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    agent.prepares = "fail"
    row = await deck.row()

    async def fail() -> None:
        body = {"release": two, "expected_generation": 1, "idempotency_key": key()}
        assert (await deck.local.post(f"{ROUTE}/promote", json=body)).json()["code"] == "prepare_failed"
        assert "FAILED" in (await deck.row()).flags

    assert "FAILED" not in row.flags
    await fail()
    note = {"event": row.pointer.last_move, "incident": "INC-7", "reason": "disk", "idempotency_key": key()}
    await deck.ok("POST", f"{ROUTE}/annotate", note)
    assert "FAILED" not in (await deck.row()).flags
    await fail()
    await deck.ok(
        "POST", f"{ROUTE}/hold", {"held": True, "expected_generation": 1, "idempotency_key": key(), "reason": "wait"}
    )
    assert "FAILED" not in (await deck.row()).flags
    await deck.ok("POST", f"{ROUTE}/hold", {"held": False, "expected_generation": 1, "idempotency_key": key()})
    await fail()
    agent.prepares = "finish"
    await deck.promote(two)
    assert "FAILED" not in (await deck.row()).flags


async def test_what_forbids_a_promote_is_checked_again_before_its_commit(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    agent.prepares = "hold"
    promote = asyncio.create_task(deck.local.post(f"{ROUTE}/promote", json=PromoteRequest(
        release=two, expected_generation=1, idempotency_key=key()).model_dump(mode="json")))  # fmt: skip
    await until(lambda: [j for j in agent.jobs.values() if j.release and j.release.id == two], "prepared")
    await deck.ok(
        "POST", f"{ROUTE}/hold", {"held": True, "expected_generation": 1, "idempotency_key": key(), "reason": "wait"}
    )
    from loradeck.schemas.executor import ExecutorEventType

    job = next(j for j in agent.jobs.values() if j.release and j.release.id == two)
    await agent.say(job, ExecutorEventType.FINISHED)
    answer = await promote
    assert (answer.status_code, answer.json()["code"]) == (409, "held")
    assert deck.hub.log.state.pointers["acme", "production"].release == one


async def test_a_fallback_that_is_refused_registers_no_release(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await join("n1")
    await deck.promote(await deck.release())
    before = await deck.ok("GET", "releases")
    await deck.refused(409, "moved", "POST", f"{ROUTE}/fallback", {"expected_generation": 7, "idempotency_key": key()})
    await deck.tenant(fallback=False)
    body = {"expected_generation": 1, "idempotency_key": key()}
    await deck.refused(409, "fallback_not_allowed", "POST", f"{ROUTE}/fallback", body)
    assert await deck.ok("GET", "releases") == before


async def test_fallback_serves_the_base_alone_and_r_leaves_it_again(deck: Deck, join: Join) -> None:
    _, two = await two_releases(deck, join)
    body = {"expected_generation": 2, "idempotency_key": key(), "reason": "everything is bad"}
    result = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/fallback?wait=proven&timeout=60", body))
    assert result.reached == "proven"
    await deck.settled()
    row = await deck.row()
    assert row.live is not None
    assert (row.live.label, row.live.form, row.live.base) == ("base", "base", BASE.digest)
    assert two in {q.release for q in row.pointer.quarantined}
    assert row.preview.action is PreviewAction.ROLLBACK
    back = await deck.rollback()
    assert not any(q.release == row.live.id for q in back.events[0].pointer.quarantined)  # type: ignore[union-attr]


async def test_base_alone_is_promoted_without_being_registered_first(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    await join("n1")
    (base,) = await deck.ok("GET", "releases?tenant=acme")
    assert base["form"] == "base"
    result = await deck.promote(base["id"])
    assert result.events[0].to_release == base["id"]
    assert (await deck.ok("GET", f"releases/{base['id']}"))["manifest"] is None


async def test_undo_puts_back_what_was_and_only_the_last_move(deck: Deck, join: Join) -> None:
    one, two = await two_releases(deck, join)
    rollback = (await deck.rollback()).events[0]
    undone = MoveResult.model_validate(
        await deck.ok("POST", f"{ROUTE}/undo", {"event": rollback.id, "confirmed": True, "idempotency_key": key()})
    )
    (event,) = undone.events
    assert event.kind is EventKind.UNDO
    assert event.pointer is not None
    assert event.pointer.release == two
    assert event.pointer.beneath == (one,)
    assert not event.pointer.held
    assert event.pointer.quarantined == ()
    again = {"event": rollback.id, "confirmed": True, "idempotency_key": key()}
    await deck.refused(409, "moved", "POST", f"{ROUTE}/undo", again)


async def test_rollbacks_of_several_pointers_are_undone_in_one_txn_or_not_at_all(deck: Deck, join: Join) -> None:
    await join("n1", slots=16)
    second, rolled = {}, {}
    for name in ("acme", "bolt"):
        await deck.tenant(name)
        first = await deck.release(name, seed=1)
        second[name] = await deck.release(name, seed=2)
        await deck.promote(first, name)
        await deck.promote(second[name], name)
        rolled[name] = (await deck.rollback(name)).events[0].id
    body = {"events": list(rolled.values()), "idempotency_key": key()}
    before = deck.fingerprint()
    refusal = await deck.refused(409, "needs_confirmation", "POST", "undo", body)
    assert "acme/production" in refusal.detail
    assert "quarantined, left by R" in refusal.detail
    unknown = {"events": [rolled["acme"], "0" * 32], "confirmed": True, "idempotency_key": key()}
    await deck.refused(404, "unknown_event", "POST", "undo", unknown)
    assert deck.fingerprint() == before
    undone = MoveResult.model_validate(await deck.ok("POST", "undo", body | {"confirmed": True}))
    assert {e.tenant: e.to_release for e in undone.events} == second
    assert len({e.txn for e in undone.events}) == 1


async def test_a_txn_is_undone_as_a_whole_by_its_id(deck: Deck, join: Join) -> None:
    await deck.tenant("acme")
    await deck.tenant("bolt")
    first = {name: await deck.release(name, seed=1) for name in ("acme", "bolt")}
    second = {name: await deck.release(name, seed=2) for name in ("acme", "bolt")}
    await join("n1")
    for name in first:
        await deck.promote(first[name], name)
    rev = deck.hub.log.state.rev
    for name in second:
        await deck.promote(second[name], name)
    plan = await deck.ok("POST", "rewind", {"to_rev": rev, "dry_run": True, "idempotency_key": key()})
    generations = {f"{s['tenant']}/{s['route']}": s["generation"] for s in plan["steps"]}
    rewound = MoveResult.model_validate(
        await deck.ok(
            "POST",
            "rewind",
            {"to_rev": rev, "dry_run": False, "generations": generations, "idempotency_key": key()},
        )
    )
    assert len(rewound.events) == 2
    assert {e.txn for e in rewound.events} == {rewound.events[0].txn}
    undone = MoveResult.model_validate(
        await deck.ok("POST", "undo", {"txn": rewound.events[0].txn, "confirmed": True, "idempotency_key": key()})
    )
    assert {e.tenant: e.to_release for e in undone.events} == second


async def test_a_pointer_is_held_lifted_and_annotated_without_moving(deck: Deck, join: Join) -> None:
    one, two = await two_releases(deck, join)
    rollback = (await deck.rollback()).events[0]
    generation = rollback.generation
    hold = {"held": False, "expected_generation": generation, "idempotency_key": key()}
    cleared = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/hold", hold))
    assert cleared.events[0].kind is EventKind.RELEASE_HOLD
    promote = PromoteRequest(release=two, expected_generation=generation or 0, idempotency_key=key())
    await deck.refused(409, "quarantined", "POST", f"{ROUTE}/promote", promote.model_dump(mode="json"))
    lift = {"release": two, "idempotency_key": key(), "reason": "it was the node"}
    assert MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/lift", lift)).events[0].kind is EventKind.LIFT
    note = {"event": rollback.id, "incident": "INC-7", "reason": "bad answers", "idempotency_key": key()}
    annotated = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/annotate", note))
    assert annotated.events[0].payload == {"event": rollback.id}
    pointer = deck.hub.log.state.pointers["acme", "production"]
    assert (pointer.generation, pointer.release, pointer.quarantined) == (generation, one, ())
    events = await deck.ok("GET", "events?tenant=acme&route=production&limit=3")
    assert [e["kind"] for e in events] == ["annotate", "lift", "release_hold"]
    verdict = await deck.ok("GET", "audit/verify")
    assert (verdict["ok"], verdict["rev"]) == (True, deck.hub.log.state.rev)


async def test_unknown_things_are_refused_by_name_and_change_nothing(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    await join("n1")
    body = PromoteRequest(release="a" * 64, expected_generation=0, idempotency_key=key()).model_dump(mode="json")
    await deck.refused(404, "unknown_tenant", "POST", "tenants/nobody/routes/production/promote", body)
    await deck.refused(404, "unknown_route", "POST", "tenants/acme/routes/staging/promote", body)
    await deck.refused(404, "unknown_release", "POST", f"{ROUTE}/promote", body)
    await deck.refused(404, "unknown_tenant", "GET", "tenants/nobody/routes/production")
    await deck.refused(404, "unknown_event", "POST", f"{ROUTE}/undo", {"event": "0" * 32, "idempotency_key": key()})
    await deck.refused(404, "unknown_node", "POST", f"{ROUTE}/unpin", {"node": "n9", "idempotency_key": key()})
    await deck.refused(404, "unknown_node", "POST", "nodes/n9/drain")
    await deck.refused(404, "unknown_job", "POST", "jobs/j1/cancel")
    await deck.refused(404, "not_found", "GET", "nothing")
    await deck.refused(405, "method_not_allowed", "DELETE", "state")


async def test_a_request_that_does_not_fit_names_the_field(deck: Deck) -> None:
    await deck.tenant()
    problem = await deck.refused(422, "invalid_request", "POST", f"{ROUTE}/rollback", {"expected_generation": "x"})
    assert "body.expected_generation" in problem.context["fields"]
    assert "body.idempotency_key" in problem.context["fields"]
    problem = await deck.refused(422, "invalid_request", "POST", "tenants", {"name": "No Spaces"})
    assert problem.context["fields"] == ["body.name"]
    await deck.refused(422, "invalid_request", "POST", f"{ROUTE}/rollback?wait=soon", {})


async def test_a_release_whose_base_no_placed_replica_runs_is_refused(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release = await deck.release()
    await join("n1", base="d" * 64)
    body = PromoteRequest(release=release, expected_generation=0, idempotency_key=key()).model_dump(mode="json")
    await deck.refused(409, "wrong_base", "POST", f"{ROUTE}/promote", body)


async def test_a_candidate_without_a_slot_beside_the_live_release_is_refused(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await join("n1", slots=1)
    await deck.promote(one)
    body = PromoteRequest(release=two, expected_generation=1, idempotency_key=key()).model_dump(mode="json")
    problem = await deck.refused(409, "no_slot", "POST", f"{ROUTE}/promote", body)
    assert "loradeck route set acme/production --residency on-demand" in problem.fix


@pytest.mark.parametrize(("slots", "asks"), [(1, "prior cold"), (2, None)])
async def test_a_promote_on_an_on_demand_route_asks_where_the_release_that_it_leaves_would_have_no_slot(
    deck: Deck, join: Join, slots: int, asks: str | None
) -> None:
    await deck.tenant(residency="on-demand")
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await join("n1", slots=slots)
    await deck.promote(one)
    assert (await deck.ok("GET", f"{ROUTE}?promote={two}")).get("promote_asks") == asks
    assert "promote_asks" not in await deck.ok("GET", ROUTE)
    await deck.promote(two)


async def test_a_first_promote_is_on_demand_where_not_all_fits_once_that_was_shown_and_no_later_one_is(
    deck: Deck, join: Join
) -> None:
    await deck.tenant("other", residency="on-demand")
    await join("n1", slots=2)
    await deck.promote(await deck.release("other"), tenant="other")
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    asked = await deck.ok("GET", f"{ROUTE}?promote={one}")
    assert (asked["promote_on_demand"], "goes on demand" in asked["promote_asks"]) == (True, True)
    done = await deck.promote(one, on_demand=True)
    assert [event.kind for event in done.events] == ["promote", "route"]  # whoever reads one reads the move
    assert deck.hub.log.state.config(("acme", "production")).residency == "on-demand"
    await deck.ok("PUT", ROUTE, {"residency": "always"})
    assert "promote_on_demand" not in await deck.ok("GET", f"{ROUTE}?promote={two}")


async def test_a_wait_for_flipped_ends_when_the_last_placed_replica_acknowledged(deck: Deck, join: Join) -> None:
    await two_releases(deck, join)
    second = await join("n2")
    await until(lambda: deck.hub.replicas.progress(("acme", "production")).flipped == 2, "n2 has caught up")
    second.flips = False
    move = asyncio.create_task(deck.rollback(wait="flipped"))
    await until(lambda: deck.hub.replicas.progress(("acme", "production")).flipped == 1, "n1 flipped")
    assert not move.done()
    row = await deck.row()
    assert [(r.replica, r.state is not None) for r in row.replicas] == [("n1", True), ("n2", False)]
    assert not row.settled
    second.flips = True
    await second.acknowledge(second.entry)
    result = await move
    assert result.reached in ("flipped", "proven")


async def test_a_wait_that_times_out_says_how_far_it_got(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release = await deck.release()
    agent = await join("n1")
    agent.proves = False
    path = f"{ROUTE}/promote?wait=proven&timeout=30"
    body = PromoteRequest(release=release, expected_generation=0, idempotency_key=key()).model_dump(mode="json")
    moving = asyncio.create_task(deck.ok("POST", path, body))
    await until(lambda: deck.hub.replicas.progress(("acme", "production")).flipped, "it is flipped")
    leap(30)
    result = MoveResult.model_validate(await moving)
    assert len(result.events) == 1
    assert result.reached == "flipped"
    assert result.proven_ms is None
    row = await deck.row()
    assert (row.flipped, row.proven, row.attested) == (1, 0, None)
    assert "UNPRVN" in row.flags


async def test_a_wait_for_proof_ends_at_once_where_a_replica_is_only_listed(deck: Deck, join: Join) -> None:
    one, _ = await two_releases(deck, join)
    second = await join("n2")
    await deck.settled()
    second.proof = AckState.LISTED
    result = await deck.rollback()
    assert result.events[0].to_release == one
    assert (result.reached, result.proven_ms) == ("listed", None)
    assert result.flipped_ms is not None
    row = await deck.row()
    assert (row.flipped, row.proven, row.listed, row.placed) == (2, 1, 1, 2)
    assert {r.replica: r.proven_ms is not None for r in row.replicas} == {"n1": True, "n2": False}
    assert row.settled
    assert row.attested == (2, 2)
    assert "UNPRVN" not in row.flags


async def test_the_first_way_back_that_a_node_is_told_is_where_r_goes(deck: Deck, join: Join) -> None:
    """The top of `beneath` has not soaked: R goes below it, so the slot beside the live release is for that one."""
    await deck.tenant(soak={"seconds": 0, "requests": 5})
    one, two, three = [await deck.release(seed=seed) for seed in (1, 2, 3)]
    agent = await join("n1")
    for release in (one, two, three):
        await deck.promote(release, wait="flipped")
        await until(lambda r=release: r in deck.hub.facts.of(("acme", "production")).attested, "attested")
        if release == one:
            await agent.report(agent.served(admitted=5, finished=5))
            await until(lambda: deck.hub.facts.is_soaked(("acme", "production"), one), "v1 has soaked")
    row = await deck.row()
    assert row.preview.target is not None
    assert row.preview.target.id == one
    assert [ref.id for ref in agent.entry.beneath] == [one, two]
