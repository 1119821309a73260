"""Candidates at a hub: what each call commits, what nodes are sent, and what is refused and changes nothing."""

from __future__ import annotations

from typing import Any

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_moves import ROUTE

from loradeck.rules.moves import candidate as rules
from loradeck.rules.moves.draft import Actor
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft, Event, EventKind, PointerState
from loradeck.schemas.moves import CandidateAbortRequest, CandidateFinishRequest, MoveResult
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.table import CohortUnit

SCHEDULE = Actor(name="schedule", role=Role.RELEASER, automation=True)


def pointer(deck: Deck) -> PointerState:
    return deck.hub.log.state.pointers["acme", "production"]


def body(deck: Deck, **more: Any) -> dict[str, Any]:
    seen = {"expected_generation": pointer(deck).generation, "idempotency_key": key()}
    return seen | more


async def call(deck: Deck, what: str, wait: str = "proven", **more: Any) -> MoveResult:
    path = f"{ROUTE}/candidate/{what}?wait={wait}&timeout=60"
    return MoveResult.model_validate(await deck.ok("POST", path, body(deck, **more)))


async def step(deck: Deck, permille: int, **more: Any) -> MoveResult:
    out = pointer(deck).candidate
    assert out is not None
    return await call(deck, "step", permille=permille, expected_step=out.step, **more)


async def as_automation(deck: Deck, draft: Draft) -> Event:
    async with deck.hub.log.moving:
        (event,) = (await deck.hub.log.commit([draft], key())).events
    return event


async def three(deck: Deck, join: Join) -> tuple[LinkedAgent, str, str, str]:
    """acme on v2 over v1, on one node, and v3 registered."""
    await deck.tenant()
    one, two, other = [await deck.release(seed=seed) for seed in (1, 2, 3)]
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    return agent, one, two, other


async def test_a_start_is_prepared_then_the_entry_names_the_candidate_and_the_live_release_stays(
    deck: Deck, join: Join
) -> None:
    agent, one, two, other = await three(deck, join)
    before = pointer(deck).generation
    result = await call(deck, "start", release=other, unit="user", named=["ann"], reason="a try")
    (event,) = result.events
    assert (event.kind, event.generation, event.reason) == (EventKind.CANDIDATE_START, before + 1, "a try")
    assert result.reached == "proven"
    assert [job.spec.kind for job in agent.jobs.values()] == ["prepare"] * 3
    entry = agent.entry
    assert entry.current is not None
    assert entry.candidate is not None
    assert (entry.current.id, entry.candidate.release.id, entry.preparing, entry.needs) == (
        two,
        other,
        None,
        ("candidate",),
    )
    assert (entry.candidate.unit, entry.candidate.named, entry.candidate.permille) == (CohortUnit.USER, ("ann",), 0)
    row = await deck.row()
    assert row.live is not None
    assert row.candidate is not None
    assert (row.live.id, row.candidate.release.id, row.preview.target and row.preview.target.id) == (two, other, two)
    assert (entry.left, row.pointer.beneath) == (None, (one,))


async def test_a_key_that_has_started_a_candidate_starts_no_second_one(deck: Deck, join: Join) -> None:
    *_, other = await three(deck, join)
    request = body(deck, release=other)
    first = await deck.ok("POST", f"{ROUTE}/candidate/start", request)
    again = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/candidate/start", request))
    assert [event.model_dump(mode="json") for event in again.events] == first["events"]
    for what in ("abort", "finish"):
        sent = body(deck, **({"release": other} if what == "finish" else {}))
        done = await deck.ok("POST", f"{ROUTE}/candidate/{what}", sent)
        assert (await deck.ok("POST", f"{ROUTE}/candidate/{what}", sent))["events"] == done["events"]
        if what == "abort":
            await call(deck, "start", release=other)


async def test_a_wider_share_needs_keys_that_were_seen_and_leaves_the_generation(deck: Deck, join: Join) -> None:
    agent, *_, other = await three(deck, join)
    refused = await deck.refused(
        409, "too_few_keys", "POST", f"{ROUTE}/candidate/start", body(deck, release=other, permille=50, unit="user")
    )
    assert "start without a share" in refused.fix
    await call(deck, "start", release=other, unit="user")
    started = pointer(deck)
    await deck.refused(409, "too_few_keys", "POST", f"{ROUTE}/candidate/step", body(deck, permille=50, expected_step=0))
    await agent.report(agent.served().model_copy(update={"release": other, "keys": 50}))
    await until(lambda: deck.hub.cohorts.keys(started.key, started.candidate) == 50, "the keys are counted")
    result = await step(deck, 50)
    assert [e.kind for e in result.events] == [EventKind.CANDIDATE_STEP]
    assert (pointer(deck).generation, pointer(deck).last_move) == (started.generation, started.last_move)
    await until(lambda: agent.entry.candidate is not None and agent.entry.candidate.permille == 50, "it is sent")
    late = body(deck, permille=100, expected_step=0)
    await deck.refused(409, "moved", "POST", f"{ROUTE}/candidate/step", late)


async def test_of_callers_the_tenants_keys_count_and_are_named_by_their_ids(deck: Deck, join: Join) -> None:
    agent, *_, other = await three(deck, join)
    made = await deck.ok("POST", "tenants/acme/keys")
    unknown = body(deck, release=other, named=["nobody"])
    await deck.refused(404, "unknown_caller", "POST", f"{ROUTE}/candidate/start", unknown)
    await call(deck, "start", release=other, named=[made["id"]], permille=100)
    digests = {k.id: k.sha256 for k in deck.hub.log.state.tenants["acme"].keys}
    assert agent.entry.candidate is not None
    assert agent.entry.candidate.named == (digests[made["id"]],)


async def test_what_binds_a_promote_binds_a_start_and_a_finish(deck: Deck, join: Join) -> None:
    *_, two, other = await three(deck, join)
    start, finish = f"{ROUTE}/candidate/start", f"{ROUTE}/candidate/finish"
    await deck.refused(409, "already_live", "POST", start, body(deck, release=two))
    await deck.refused(409, "no_candidate", "POST", finish, body(deck, release=other))
    far = 4_000_000_000_000
    await deck.ok("PUT", ROUTE, {"freeze": [[0, far]]})
    await deck.refused(409, "frozen", "POST", start, body(deck, release=other))
    await deck.ok("PUT", ROUTE, {})
    await call(deck, "start", release=other)
    await deck.refused(409, "candidate_out", "POST", start, body(deck, release=other))
    await deck.refused(409, "candidate_out", "POST", f"{ROUTE}/promote", body(deck, release=other))
    await deck.ok("PUT", ROUTE, {"freeze": [[0, far]]})
    await deck.refused(409, "frozen", "POST", finish, body(deck, release=other))
    result = await call(deck, "finish", release=other, override=True, reason="it mends the outage")
    assert result.events[0].payload["overridden"] == ["frozen"]
    await deck.ok("PUT", ROUTE, {})
    await call(deck, "start", release=two)
    await deck.ok("POST", f"{ROUTE}/hold", body(deck, held=True))
    await deck.refused(409, "held", "POST", finish, body(deck, release=two))
    await call(deck, "abort")


async def test_a_gate_that_was_not_passed_refuses_a_start(deck: Deck, join: Join) -> None:
    *_, other = await three(deck, join)
    gate = GateConfig(suite=await deck.suite())
    await deck.ok("PUT", ROUTE, {"gate": gate.model_dump(mode="json")})
    await deck.refused(409, "gate_missing", "POST", f"{ROUTE}/candidate/start", body(deck, release=other))


async def test_no_start_while_a_placed_router_lacks_the_feature(deck: Deck, join: Join) -> None:
    *_, other = await three(deck, join)
    old = LinkedAgent(deck, "n2")
    old.features = ()
    await old.join()
    refused = await deck.refused(409, "feature_missing", "POST", f"{ROUTE}/candidate/start", body(deck, release=other))
    assert refused.context["nodes"] == ["n2"]
    await old.leave()


async def test_a_router_that_comes_later_and_lacks_the_feature_gets_the_live_release_alone_and_the_row_says_so(
    deck: Deck, join: Join
) -> None:
    agent, _, two, other = await three(deck, join)
    await call(deck, "start", release=other, named=[], permille=0)
    old = LinkedAgent(deck, "n2")
    old.features = ()
    await old.join()
    await until(lambda: old.entries, "it has its table")
    assert old.entry.current is not None
    assert (old.entry.candidate, old.entry.needs, old.entry.current.id) == (None, (), two)
    assert old.entry.fence == agent.entry.fence
    await until(lambda: deck.hub.replicas.progress(pointer(deck).key).flipped == 2, "it counts")
    rows = {replica.node: replica for replica in (await deck.row()).replicas}
    assert (rows["n1"].code, rows["n2"].code) == (None, "unknown_feature")
    assert rows["n2"].detail == "its router lacks candidate: all its callers get the live release"
    await old.leave()


async def test_finish_makes_it_live_over_the_one_before(deck: Deck, join: Join) -> None:
    agent, one, two, other = await three(deck, join)
    await call(deck, "start", release=other)
    wrong = body(deck, release=one)
    await deck.refused(409, "no_candidate", "POST", f"{ROUTE}/candidate/finish", wrong)
    result = await call(deck, "finish", release=other)
    assert [e.kind for e in result.events] == [EventKind.CANDIDATE_FINISH]
    assert (pointer(deck).release, pointer(deck).beneath, pointer(deck).candidate) == (other, (two, one), None)
    assert agent.entry.candidate is None
    assert agent.entry.left is not None
    assert agent.entry.left.id == two


async def test_r_takes_the_candidate_out_and_undo_does_not_bring_it_back(deck: Deck, join: Join) -> None:
    agent, one, two, other = await three(deck, join)
    await call(deck, "start", release=other)
    preview = (await deck.row()).preview
    assert (preview.action, preview.target and preview.target.id) == (PreviewAction.ROLLBACK, two)
    result = await deck.rollback()
    after = pointer(deck)
    assert (after.release, after.candidate, after.held, after.beneath) == (two, None, True, (one,))
    assert [q.release for q in after.quarantined] == [other]
    assert agent.entry.left is not None
    assert agent.entry.left.id == other, "what R took from callers"
    await deck.ok("POST", f"{ROUTE}/undo", {"event": result.events[0].id, "confirmed": True, "idempotency_key": key()})
    assert (pointer(deck).release, pointer(deck).candidate) == (two, None)


async def test_who_may_only_operate_may_narrow_and_abort_and_not_widen(deck: Deck, join: Join) -> None:
    *_, other = await three(deck, join)
    operator = await deck.as_role("operator")
    start = body(deck, release=other)
    await deck.refused(403, "forbidden", "POST", f"{ROUTE}/candidate/start", start, client=operator)
    made = await deck.ok("POST", "tenants/acme/keys")
    await call(deck, "start", release=other, named=[made["id"]], permille=100)
    wider = body(deck, permille=200, expected_step=0)
    await deck.refused(403, "forbidden", "POST", f"{ROUTE}/candidate/step", wider, client=operator)
    narrower = body(deck, permille=50, expected_step=0)
    await deck.ok("POST", f"{ROUTE}/candidate/step", narrower, client=operator)
    finish = body(deck, release=other)
    await deck.refused(403, "forbidden", "POST", f"{ROUTE}/candidate/finish", finish, client=operator)
    await deck.ok("POST", f"{ROUTE}/candidate/abort", body(deck), client=operator)


# ---- R and what the hub does by itself ------------------------------------------------------------------------------


async def test_steps_never_make_a_press_of_r_stale(deck: Deck, join: Join) -> None:
    *_, two, other = await three(deck, join)
    await call(deck, "start", release=other, named=[(await deck.ok("POST", "tenants/acme/keys"))["id"]])
    pressed = await deck.rollback_body()
    await step(deck, 300)
    result = await deck.ok("POST", f"{ROUTE}/rollback", pressed)
    assert result["events"][0]["pointer"]["release"] == two


async def test_a_press_that_was_decided_before_the_hubs_own_move_stands_where_its_target_is_the_same(
    deck: Deck, join: Join
) -> None:
    *_, two, other = await three(deck, join)
    await call(deck, "start", release=other)
    pressed = await deck.rollback_body()
    now = pointer(deck)
    request = CandidateFinishRequest(release=other, **body(deck))
    finished = rules.finish(now, deck.hub.facts.of(now.key), request, SCHEDULE)
    await as_automation(deck, finished)
    result = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", pressed))
    assert result.events[0].kind is EventKind.ROLLBACK
    assert (pointer(deck).release, [q.release for q in pointer(deck).quarantined]) == (two, [other])


async def test_where_the_hub_was_first_r_has_succeeded_says_by_which_move_and_goes_no_further(
    deck: Deck, join: Join
) -> None:
    *_, two, other = await three(deck, join)
    await call(deck, "start", release=other)
    pressed = await deck.rollback_body()
    ended = await as_automation(deck, rules.abort(pointer(deck), CandidateAbortRequest(**body(deck)), SCHEDULE))
    result = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", pressed))
    assert (result.events, result.already) == ((), ended)
    assert (pointer(deck).release, pointer(deck).generation) == (two, ended.generation)


async def test_a_press_that_was_decided_before_a_persons_move_is_refused_and_told_who_was_faster(
    deck: Deck, join: Join
) -> None:
    *_, other = await three(deck, join)
    await call(deck, "start", release=other)
    pressed = await deck.rollback_body()
    aborted = (await call(deck, "abort")).events[0]
    refused = await deck.refused(409, "moved", "POST", f"{ROUTE}/rollback", pressed)
    assert refused.context["winner"]["id"] == aborted.id
