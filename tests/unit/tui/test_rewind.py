"""W: the plan is on the screen before anything is sent, and what is sent is the plan."""

from __future__ import annotations

from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Stage, notice, pane, stage

from loradeck.schemas.feed import FeedEvents, FeedTenants
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import MoveResult, RewindPlan, RewindRequest, RewindStep, UndoRequest
from loradeck.tui.keys.action import Action

ACME = ("acme", "production")


def step(tenant: str, generation: int, skipped: str | None = None) -> RewindStep:
    return RewindStep(
        tenant=tenant,
        route="production",
        generation=generation,
        from_release=seed.digest(f"{tenant} now"),
        to_release=seed.digest(f"{tenant} then"),
        from_label="v9/B2",
        to_label="v7/B2",
        skipped=skipped,
    )


def plan(*steps: RewindStep) -> RewindPlan:
    return RewindPlan(to_rev=88000, at_ms=seed.NOW_MS - 20 * 60_000, steps=steps)


async def typed(on: Stage, text: str) -> None:
    await on.half_second()
    await on.press("W")
    await on.press(*text, "enter")
    await on.half_second()


async def test_W_shows_what_moves_and_what_stays_and_only_y_sends_the_plan() -> None:
    async with stage() as on:
        on.hub.plan = plan(step("acme", 41), step("bolt", 12), step("cedar", 3, "quarantined"))
        await typed(on, "20m ago")
        (asked,) = on.hub.planned
        now = on.deck.state.hub_now_ms
        assert asked.time_ms is not None
        assert now is not None
        assert abs(now - 20 * 60_000 - asked.time_ms) < 2000
        assert (asked.tenants, asked.dry_run) == ((), True)
        text = pane(on)
        assert "W 2 pointers back to rev 88000, committed " in text
        assert "20m ago); 1 stay" in text
        assert "moves  acme/production: v9/B2 > v7/B2" in text
        assert "stays  cedar/production: quarantined" in text
        assert on.hub.sent == []
        await on.press("y")
        (move,) = on.hub.sent
        assert move.kind is Action.REWIND
        assert isinstance(move.request, RewindRequest)
        assert move.request.to_rev == 88000
        assert move.request.time_ms is None
        assert move.request.generations == {"acme/production": 41, "bolt/production": 12}
        assert move.request.idempotency_key == asked.idempotency_key


async def test_a_rewind_is_told_pointer_by_pointer_until_all_are_proven() -> None:
    async with stage() as on:
        row = on.deck.state.tenants[ACME]
        pointer = row.pointer.model_copy(update={"generation": 42, "release": seed.digest("then")})
        event = seed.Log(88_499).add(EventKind.REWIND, pointer, row.live, actor="op1", at_ms=seed.NOW_MS)
        on.hub.answer = lambda _: MoveResult(
            events=(event,), rev=88500, epoch=3, commit_ms=3.2, skipped=(step("cedar", 3, "quarantined"),)
        )
        on.hub.plan = plan(step("acme", 41), step("cedar", 3, "quarantined"))
        await typed(on, "88000")
        assert on.hub.planned[0].to_rev == 88000
        await on.press("y")
        await on.half_second()
        tell = on.deck.state.tell
        assert tell is not None
        assert "W 1 pointer > rev 88000 PROVEN 0/1 FLIPPED 0/1, 1 stayed COMMITTED rev 88500 +3ms" in tell.text
        assert on.deck.state.unfinished
        assert ACME in on.deck.sender.watched


async def test_with_marks_only_their_tenants_go_back() -> None:
    async with stage() as on:
        on.hub.plan = plan(step("acme", 41))
        await on.press("space", "space")
        marked = [tenant for tenant, _ in on.deck.state.marks]
        await typed(on, "14:05Z")
        assert list(on.hub.planned[0].tenants) == marked
        assert len(marked) == 2


async def test_what_is_no_time_is_refused_and_typing_goes_on() -> None:
    async with stage() as on:
        await typed(on, "yesterday")
        assert "this is not a time" in notice(on)
        assert on.deck.front is not None
        assert on.deck.front.prompt.value == "yesterday"
        assert on.hub.planned == []


async def test_a_plan_that_moves_nothing_asks_nothing() -> None:
    async with stage() as on:
        on.hub.plan = plan(step("acme", 41, "already there"))
        await typed(on, "1h ago")
        assert "no pointer would move back to rev 88000" in notice(on)
        assert "already there" in notice(on)
        assert on.deck.moves.question is None


async def test_a_hub_that_does_not_answer_moves_nothing() -> None:
    async with stage() as on:
        await typed(on, "1h ago")
        assert "W off: the hub cannot be reached" in notice(on)
        assert on.deck.moves.question is None


async def test_a_long_plan_is_scrolled_in_a_higher_pane_and_the_question_stays() -> None:
    async with stage(size=(80, 24)) as on:
        on.hub.plan = plan(*(step(f"t{number:03}", number) for number in range(200)))
        await typed(on, "1h ago")
        await on.half_second()
        assert on.deck.front is not None
        assert on.deck.front.pane.size.height == 16
        assert "moves  t000/production" in pane(on)
        assert "of 200 rows: j and k scroll" in pane(on)
        await on.press("j")
        assert "t000/" not in pane(on)
        await on.press("G")
        assert "moves  t199/production" in pane(on)
        await on.press("pageup", "g")
        assert "moves  t000/production" in pane(on)
        assert on.deck.moves.question is not None
        await on.press("escape")
        await on.half_second()
        assert on.deck.moves.question is None
        assert on.deck.front.pane.size.height == 10
        assert on.hub.sent == []


async def test_read_only_says_why_at_the_key() -> None:
    async with stage(read_only="--read-only") as on:
        await on.half_second()
        await on.press("W")
        assert "W off: read-only (--read-only)" in notice(on)
        assert on.deck.front is not None
        assert on.deck.front.prompt.asking is None


async def test_u_undoes_the_whole_rewind_after_y() -> None:
    async with stage() as on:
        log = seed.Log()
        rows = [on.deck.state.tenants[tenant, "production"] for tenant in ("acme", "bolt")]
        moved = []
        for row in rows:
            pointer = row.pointer.model_copy(update={"generation": row.pointer.generation + 1})
            event = log.add(EventKind.REWIND, pointer, row.live, actor="op2", at_ms=seed.NOW_MS, reason="bad deploy")
            event = event.model_copy(update={"txn": "t-1"})
            pointer = pointer.model_copy(update={"last_move": event.id})
            moved.append(row.model_copy(update={"pointer": pointer, "last_event": event}))
        await on.says(FeedEvents(events=tuple(row.last_event for row in moved if row.last_event)))
        await on.says(FeedTenants(rows=tuple(moved)))
        await on.half_second()
        on.deck.state.tenant_list.choose(ACME)
        await on.press("u")
        assert 'u 2 pointers of one rewind: undoes all of it, by op2 "bad deploy"' in pane(on)
        assert "bolt/production" in pane(on)
        assert on.hub.sent == []
        await on.press("y")
        (move,) = on.hub.sent
        assert isinstance(move.request, UndoRequest)
        assert (move.request.txn, move.request.event) == ("t-1", None)


async def test_a_rewind_of_which_a_row_has_moved_since_is_not_undone() -> None:
    async with stage() as on:
        log = seed.Log()
        rows = [on.deck.state.tenants[tenant, "production"] for tenant in ("acme", "bolt")]
        events = [
            log.add(EventKind.REWIND, row.pointer, row.live, actor="op2", at_ms=seed.NOW_MS).model_copy(
                update={"txn": "t-1"}
            )
            for row in rows
        ]
        first = rows[0].pointer.model_copy(update={"last_move": events[0].id})
        await on.says(FeedEvents(events=tuple(events)))
        await on.says(FeedTenants(rows=(rows[0].model_copy(update={"pointer": first, "last_event": events[0]}),)))
        await on.half_second()
        on.deck.state.tenant_list.choose(ACME)
        await on.press("u")
        assert "u off: bolt/production has moved since that rewind of 2 pointers" in notice(on)
        assert on.deck.moves.question is None
