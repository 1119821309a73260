"""A candidate's sampled answers: looked at one by one, signed for with y, and never without a look at each."""

from __future__ import annotations

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Stage, notice, pane, stage

from loradeck.client.errors import ApiError
from loradeck.schemas.attestation import CheckResult, GateResult
from loradeck.schemas.feed import FeedStatus
from loradeck.schemas.ids import Role
from loradeck.schemas.problem import Problem
from loradeck.schemas.review import Review
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.screens.pages import ReviewScreen


def judged(review: Review) -> GateResult:
    check = CheckResult(
        name="review",
        passed=False,
        value=0,
        threshold=2,
        n=4,
        low=0,
        high=0,
        note="op1 found 1 of 4 bad",
        unit="people",
    )
    return GateResult(release=review.release, against=None, suite=review.suite, passed=False, checks=(check,))


async def look(on: Stage) -> ReviewScreen:
    """The first gate result's answers."""
    await on.press("4")
    await on.half_second()
    await on.half_second()
    await on.press("g", "enter")
    await on.pause()
    page = on.deck.screen
    assert isinstance(page, ReviewScreen)
    return page


async def test_a_review_is_signed_with_y_and_with_the_verdicts_that_were_given() -> None:
    async with stage() as on:
        on.hub.judges = judged
        page = await look(on)
        await on.press("+", "+", "-", "+")
        assert "4 of 4 judged, 1 bad" in page.body.text
        await on.press("V")
        await on.half_second()
        assert on.hub.signed == []
        said = " ".join(pane(on).split())
        assert "V sign acme/production v9/B2 as op1: 1 of 4 answers bad, at most 0 may be" in said
        assert "bad ticket-0160: Sure! Here is how you change it." in said
        await on.press("y")
        await on.half_second()
        (review,) = on.hub.signed
        assert [item.good for item in review.items] == [True, True, False, True]
        assert review.answers == seed.review_sheet("acme", "production", review.release).answers
        assert "gate FAILED, review: op1 found 1 of 4 bad" in " ".join(pane(on).split())


async def test_esc_signs_nothing_and_verdicts_are_kept_for_a_second_look() -> None:
    async with stage() as on:
        await look(on)
        await on.press("+", "-", "escape")
        await on.pause()
        await on.press("V")
        assert "V off: 2 answers of 4 without a verdict" in notice(on)
        page = await look(on)
        assert "2 of 4 judged, 1 bad" in page.body.text
        assert on.hub.signed == []


async def test_a_signature_without_a_look_is_refused() -> None:
    async with stage() as on:
        await on.press("4")
        await on.half_second()
        await on.half_second()
        await on.press("V")
        assert "V off: look at the sampled answers first: enter" in notice(on)
        assert on.hub.signed == []


async def test_read_only_leak_a_signature_says_why_it_is_off() -> None:
    async with stage(read_only="--read-only") as on:
        await look(on)
        await on.press("+", "+", "+", "+", "V")
        await on.half_second()
        assert "V off: read-only (--read-only)" in notice(on)
        await on.press("y")
        assert on.hub.signed == []


async def test_a_viewer_cannot_sign() -> None:
    async with stage(seed.hub_state(role=Role.VIEWER)) as on:
        await look(on)
        await on.press("+", "+", "+", "+", "V")
        await on.half_second()
        assert "V off: it needs the role operator" in notice(on)
        assert on.hub.signed == []


async def test_a_question_is_dropped_when_a_verdict_has_changed() -> None:
    async with stage() as on:
        page = await look(on)
        await on.press("+", "+", "+", "+", "V")
        await on.half_second()
        assert on.deck.moves.question is not None
        page.reviewing.judge(False)
        on.deck._tick()
        assert on.deck.moves.question is None
        assert "the answers or the verdicts are others by now" in notice(on)


async def test_a_bad_answer_is_signed_with_what_is_wrong_with_it() -> None:
    async with stage() as on:
        on.hub.judges = judged
        page = await look(on)
        await on.press("+", "+", "n", *"not json+", "enter")
        assert page.reviewing.at == 3
        await on.press("k")
        assert "ticket-0160   scored as wrong   BAD" in page.body.text
        assert "wrong    not json+" in page.body.text
        await on.press("j", "+", "V")
        await on.half_second()
        assert 'bad ticket-0160: "not json+" Sure!' in " ".join(pane(on).split())
        await on.press("y")
        await on.half_second()
        (review,) = on.hub.signed
        assert [(item.good, item.note) for item in review.items] == [
            (True, ""),
            (True, ""),
            (False, "not json+"),
            (True, ""),
        ]


async def test_what_is_wrong_is_dropped_with_esc_and_with_another_verdict() -> None:
    async with stage() as on:
        page = await look(on)
        await on.press("n", *"oh", "escape")
        assert on.deck.screen is page
        assert page.reviewing.verdicts == {}
        await on.press("n", *"oh", "enter", "k", "+")
        assert page.reviewing.notes == {}
        assert "+ good" in page.bar.text


async def test_where_answers_are_to_be_looked_at_the_pane_names_the_key() -> None:
    async with stage(size=(80, 24)) as on:
        await on.press("4")
        await on.half_second()
        await on.half_second()
        await on.press("g")
        assert "0 of 2 signed   enter: the answers" in pane(on)
        await on.press("G")
        assert "enter" not in pane(on)


@pytest.mark.parametrize("key", ["+", "-", "n", "V"])
async def test_keys_that_come_at_once_are_no_verdicts(key: str) -> None:
    async with stage() as on:
        page = await look(on)
        page._judge(key, 2)
        assert "2 keys came at once" in page.bar.text
        assert page.reviewing.verdicts == {}
        assert on.deck.screen is page


async def test_a_route_without_a_review_says_so() -> None:
    async with stage() as on:

        async def none(tenant: str, route: str, release: str) -> None:
            raise ApiError(
                Problem(
                    status=409, code="no_review", title="this route's gate asks for no review", fix="loradeck gate set"
                )
            )

        on.hub.review_sheet = none  # type: ignore[method-assign, assignment]
        page = await look(on)
        assert "this route's gate asks for no review" in page.body.text
        await on.press("+", "V")
        await on.half_second()
        assert "look at the sampled answers first" in notice(on)


async def test_a_refused_signature_is_told_and_the_outcome_of_a_lost_answer_is_unknown() -> None:
    async with stage() as on:
        await look(on)
        await on.press("+", "+", "+", "+", "V")
        await on.half_second()
        await on.press("y")
        await on.half_second()
        assert "OUTCOME UNKNOWN V sign acme/production v9/B2" in pane(on)

        def stale(review: Review) -> GateResult | None:
            raise ApiError(
                Problem(status=409, code="stale_review", title="the sampled answers have changed since the review")
            )

        on.hub.judges = stale
        await on.press("V")
        await on.half_second()
        await on.press("y")
        await on.half_second()
        assert "REFUSED V sign acme/production v9/B2" in pane(on)


async def test_a_hub_that_refuses_moves_takes_a_signature() -> None:
    async with stage() as on:
        on.hub.judges = judged
        status = on.hub.seed.status.model_copy(update={"refusing": "log_behind"})
        await on.says(FeedStatus(status=status))
        await look(on)
        await on.press("+", "+", "+", "+", "V")
        await on.half_second()
        await on.press("y")
        await on.half_second()
        assert len(on.hub.signed) == 1


def test_other_answers_take_the_verdicts_with_them() -> None:
    sheet = seed.review_sheet("acme", "production", seed.view("acme", "v9").id)
    reviewing = Reviewing(("acme", "production", sheet.release))
    reviewing.update(sheet)
    reviewing.judge(True)
    reviewing.update(sheet)
    assert reviewing.left == 3
    reviewing.update(sheet.model_copy(update={"answers": seed.digest("others")}))
    assert (reviewing.left, reviewing.at) == (4, 0)
