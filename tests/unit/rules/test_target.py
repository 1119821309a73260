"""Where R goes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fleets.in_process.log import facts, rid

from loradeck.rules.moves.rollback_target import PointerFacts, Target, rollback_target, ways_back
from loradeck.schemas.log import PointerState, Quarantine
from loradeck.schemas.state import PreviewAction

FIT = ("v4", "v3", "v2", "v1")


def pointer(*beneath: str, live: str | None = "v4", quarantined: tuple[str, ...] = ()) -> PointerState:
    return PointerState(
        tenant="acme",
        route="production",
        generation=9,
        release=rid(live) if live else None,
        beneath=tuple(rid(b) for b in beneath),
        quarantined=tuple(Quarantine(release=rid(q), event="e" * 32) for q in quarantined),
    )


def target(state: PointerState, known: PointerFacts, **changes: Any) -> Target:
    asked: dict[str, Any] = {"fallback_allowed": True, "live_is_base": False, "pending_prepare": None}
    return rollback_target(state, known, **{**asked, **changes})


def test_the_target_is_the_first_that_is_attested_and_soaked() -> None:
    assert target(pointer("v3", "v2", "v1"), facts(*FIT)) == Target(action=PreviewAction.ROLLBACK, release=rid("v3"))


def test_what_is_skipped_is_listed_with_its_reason_newest_first() -> None:
    state = pointer("v9", "v3", "v2", "v8", "v7", "v1", quarantined=("v2",))
    known = facts("v9", "v3", "v2", "v8", "v1", unsoaked=["v9"], breached=["v3"], revoked=["v8"])
    found = target(state, known)
    assert (found.release, found.asks) == (rid("v1"), None)
    assert found.skipped == (
        (rid("v9"), "not soaked"),
        (rid("v3"), "breached: bad 31.0% of 2310"),
        (rid("v2"), "quarantined"),
        (rid("v8"), "revoked: leaks a customer's name"),
        (rid("v7"), "never attested here"),
    )


def test_a_soaked_one_further_down_goes_before_an_unsoaked_one_above_it() -> None:
    found = target(pointer("v3", "v2"), facts(*FIT, unsoaked=["v3"]))
    assert (found.release, found.asks, found.skipped) == (rid("v2"), None, ((rid("v3"), "not soaked"),))


def test_where_none_has_soaked_the_newest_attested_one_is_offered_and_asks() -> None:
    found = target(pointer("v3", "v2", "v1"), facts("v4", "v2", "v1", unsoaked=["v4", "v2", "v1"]))
    assert (found.action, found.release, found.asks) == (PreviewAction.ROLLBACK, rid("v2"), "not soaked")
    assert found.skipped == ((rid("v3"), "never attested here"), (rid("v1"), "not soaked"))


@pytest.mark.parametrize(
    ("fallback_allowed", "live_is_base", "action", "refused"),
    [
        (True, False, PreviewAction.FALLBACK, "no earlier release is fit to go back to"),
        (
            False,
            False,
            PreviewAction.NONE,
            "no earlier release is fit to go back to, and this route allows no fallback to the base alone",
        ),
        (True, True, PreviewAction.NONE, "no earlier release is fit to go back to, and the base alone is live"),
    ],
)
def test_where_none_is_fit_the_reason_is_said(
    fallback_allowed: bool, live_is_base: bool, action: PreviewAction, refused: str
) -> None:
    known = facts(*FIT, revoked=["v3"])
    found = target(pointer("v3"), known, fallback_allowed=fallback_allowed, live_is_base=live_is_base)
    assert (found.action, found.release, found.refused) == (action, None, refused)
    assert found.skipped == ((rid("v3"), "revoked: leaks a customer's name"),)


BREACHED, UNATTESTED = "breached: bad 31.0% of 2310", "never attested here"


@pytest.mark.parametrize(
    ("release", "asks"), [("v3", "not soaked"), ("v2", BREACHED), ("v1", UNATTESTED), ("v0", "quarantined")]
)
def test_figures_of_nodes_make_r_ask_and_never_impossible(release: str, asks: str) -> None:
    """Of four releases beneath each has something against it. The better ones are revoked, one more in each case."""
    order = ["v3", "v2", "v1", "v0"]
    known = facts("v3", "v2", "v0", unsoaked=["v3"], breached=["v2"], revoked=order[: order.index(release)])
    found = target(pointer("v0", "v1", "v2", "v3", quarantined=("v0",)), known)
    assert (found.action, found.release, found.asks) == (PreviewAction.ROLLBACK, rid(release), asks)
    assert {r for r, _ in found.skipped} == {rid(other) for other in order if other != release}


LABELS = ["v0", "v1", "v2", "v3", "v4"]
some = st.sets(st.sampled_from(LABELS))


@given(
    beneath=st.lists(st.sampled_from(LABELS), unique=True),
    attested=some,
    unsoaked=some,
    breached=some,
    revoked=some,
    quarantined=some,
)
def test_r_is_reachable_whatever_is_said_of_releases_that_nobody_revoked(
    beneath: list[str], attested: set[str], unsoaked: set[str], breached: set[str], revoked: set[str], **more: set[str]
) -> None:
    state = pointer(*beneath, quarantined=tuple(more["quarantined"]))
    known = facts(*sorted(attested), unsoaked=unsoaked, breached=breached, revoked=revoked)
    found = target(state, known)
    left = [rid(label) for label in beneath if label not in {*revoked, "v4"}]
    assert (found.action is PreviewAction.ROLLBACK) == bool(left)
    assert found.release in left or found.release is None
    order = ways_back(state, known)
    assert sorted(order) == sorted(left)
    assert order[:1] == ((found.release,) if found.release is not None else ())
    well = attested - unsoaked - breached - revoked - more["quarantined"]
    assert (found.asks is None) == (not left or found.release in {rid(label) for label in well})


def test_an_empty_stack_is_told_from_one_without_a_fit_release() -> None:
    assert target(pointer(), facts(*FIT)).refused == "no earlier release to go back to"


def test_the_live_release_further_down_is_not_gone_back_to() -> None:
    assert target(pointer("v4", "v3"), facts(*FIT)).release == rid("v3")


def test_a_pending_prepare_makes_r_its_cancel_whatever_lies_beneath() -> None:
    for state in (pointer("v3"), pointer(), pointer(live=None)):
        found = target(state, facts(*FIT), pending_prepare="job-7")
        assert found == Target(action=PreviewAction.CANCEL_PREPARE, prepare="job-7")


def test_a_hold_has_no_say_in_where_r_goes() -> None:
    state = pointer("v3").model_copy(update={"held": True})
    assert target(state, facts(*FIT)).release == rid("v3")


def test_the_first_way_back_is_where_r_goes_though_it_lies_deeper() -> None:
    state = pointer("v3", "v2", "v1", quarantined=("v1",))
    assert ways_back(state, facts(*FIT, unsoaked=["v3"])) == (rid("v2"), rid("v3"), rid("v1"))
    assert ways_back(state, facts(*FIT)) == (rid("v3"), rid("v2"), rid("v1"))


def test_a_release_that_was_never_attested_is_a_way_back_only_behind_those_that_were() -> None:
    assert ways_back(pointer("v3", "v2"), facts("v4", "v2")) == (rid("v2"), rid("v3"))
    assert ways_back(pointer(), facts(*FIT)) == ()
