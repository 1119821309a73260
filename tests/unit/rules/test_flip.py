"""What a router does with an entry, and whom it admits to in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fleets.in_process.log import entry, ref, rid

from loradeck.rules.serving.flip import RETRY_AFTER_S, AdmissionDecision, Verdict, decide, gap_after_flip, in_force
from loradeck.schemas.table import Gap, Pin, RouteResidency, TableEntry

PIN = Pin(tenant="acme", route="production", release=ref("v7"), over=(1, 4), actor="op1", reason="hub gone", at_ms=0)
NOW = entry("v2", 4)
ALL = {rid(v) for v in ("v1", "v2", "v7")}


@pytest.mark.parametrize(
    ("current", "wanted", "ready", "pin", "verdict"),
    [
        (None, entry("v1", 1), True, None, Verdict.FLIP),
        (None, entry("v1", 1), False, None, Verdict.WAIT),
        (NOW, entry("v1", 5), True, None, Verdict.FLIP),
        (NOW, entry("v1", 5), False, None, Verdict.WAIT),
        (NOW, entry("v1", 1, epoch=2), True, None, Verdict.FLIP),
        (NOW, entry("v1", 3), True, None, Verdict.STALE),
        (NOW, entry("v1", 4), True, None, Verdict.STALE),
        (entry("v2", 1, epoch=2), entry("v1", 9), True, None, Verdict.STALE),
        (NOW, NOW, True, None, Verdict.SAME),
        (NOW, NOW, False, None, Verdict.SAME),
        (NOW, entry("v1", 5), True, PIN, Verdict.PINNED),
        (NOW, entry("v1", 3), True, PIN, Verdict.STALE),
        (NOW, entry(None, 5), False, None, Verdict.TOMBSTONE),
        (NOW, entry(None, 4), False, None, Verdict.TOMBSTONE),
        (NOW, entry(None, 3), False, None, Verdict.STALE),
        (entry(None, 4), NOW, True, None, Verdict.FLIP),
        (entry(None, 4), NOW, False, None, Verdict.WAIT),
        (entry(None, 4), entry("v2", 3), True, None, Verdict.STALE),
        (entry(None, 4), entry("v2", 5), True, None, Verdict.FLIP),
    ],
)
def test_an_entry_is_judged_by_its_fence_then_by_pin_removal_and_readiness(
    current: TableEntry | None, wanted: TableEntry, ready: bool, pin: Pin | None, verdict: Verdict
) -> None:
    assert decide(current, wanted, ready, pin) is verdict


def test_what_waits_is_compared_with_too() -> None:
    waiting = entry("v1", 6)
    assert decide(NOW, entry("v3", 5), True, None, waiting=waiting) is Verdict.STALE
    assert decide(NOW, waiting, False, None, waiting=waiting) is Verdict.WAIT
    assert decide(NOW, waiting, True, None, waiting=waiting) is Verdict.FLIP
    assert decide(NOW, entry("v3", 7), True, None, waiting=waiting) is Verdict.FLIP


def test_the_ready_release_is_admitted_to() -> None:
    assert in_force(NOW, None, ALL) == AdmissionDecision(release=ref("v2"), generation=4)


@pytest.mark.parametrize(
    ("gap", "admission"),
    [
        (Gap.LEFT, AdmissionDecision(release=ref("v2"), generation=4, gap=True)),
        (Gap.BASE, AdmissionDecision(base=True, generation=5, gap=True)),
        (Gap.REFUSE, AdmissionDecision(generation=5, code="not_ready", retry_after_s=RETRY_AFTER_S, gap=True)),
    ],
)
def test_until_the_release_is_ready_the_gap_policy_holds(gap: Gap, admission: AdmissionDecision) -> None:
    wanted = entry("v1", 5).model_copy(update={"gap": gap})
    assert in_force(wanted, None, {rid("v2")}, left=NOW) == admission
    assert in_force(wanted, None, {rid("v1"), rid("v2")}, left=NOW).release == ref("v1")


def test_the_left_release_stands_in_only_while_it_is_ready_itself() -> None:
    for left in (None, NOW, entry(None, 4)):
        assert in_force(entry("v1", 5), None, set(), left=left).code == "not_ready"


def test_a_pin_says_which_release_and_the_tenants_policies_say_whether() -> None:
    assert in_force(NOW, PIN, ALL) == AdmissionDecision(release=ref("v7"), generation=4, pinned=True)
    assert in_force(entry(None, 4), PIN, ALL).release == ref("v7")
    assert in_force(NOW.model_copy(update={"suspended": True}), PIN, ALL).code == "suspended"
    assert in_force(NOW.model_copy(update={"refuse_after_s": 5.0}), PIN, ALL, hub_lost_s=6.0).code == "hub_lost"


def test_nobody_is_admitted_where_nothing_is_routed() -> None:
    assert in_force(None, None, ALL).code == "unknown_route"
    assert in_force(entry(None, 4), None, ALL).code == "removed"
    assert in_force(NOW.tombstone(("n2",)), None, ALL).code == "not_here"
    assert in_force(entry(None, 4), None, ALL).code == "removed"
    assert in_force(NOW.model_copy(update={"suspended": True}), None, ALL).code == "suspended"


@pytest.mark.parametrize(
    ("refuse_after_s", "lost_s", "code"),
    [(None, 1e9, None), (30.0, None, None), (30.0, 29.9, None), (30.0, 30.0, "hub_lost"), (0.0, 0.0, "hub_lost")],
)
def test_without_a_hub_the_last_table_is_served_for_as_long_as_the_tenant_says(
    refuse_after_s: float | None, lost_s: float | None, code: str | None
) -> None:
    held = NOW.model_copy(update={"refuse_after_s": refuse_after_s})
    assert in_force(held, None, ALL, hub_lost_s=lost_s).code == code


def test_a_refusal_carries_the_generation_and_when_to_come_back() -> None:
    suspended = NOW.model_copy(update={"suspended": True})
    lost = NOW.model_copy(update={"refuse_after_s": 5.0})
    assert in_force(suspended, None, ALL) == AdmissionDecision(generation=4, code="suspended")
    assert in_force(entry(None, 4), None, ALL) == AdmissionDecision(generation=4, code="removed")
    assert in_force(lost, None, ALL, hub_lost_s=6.0) == AdmissionDecision(
        generation=4, code="hub_lost", retry_after_s=RETRY_AFTER_S
    )


ON_DEMAND = {"residency": RouteResidency.ON_DEMAND}


@given(
    gap=st.sampled_from(Gap),
    ready=st.sets(st.sampled_from(sorted(ALL))),
    current=st.none() | st.builds(entry, st.sampled_from(("v1", "v2", None)), st.integers(1, 6)),
    wanted=st.builds(entry, st.sampled_from(("v1", "v2", None)), st.integers(1, 6)),
)
def test_an_on_demand_route_never_waits_and_answers_nobody_with_what_it_left(
    gap: Gap, ready: set[str], current: TableEntry | None, wanted: TableEntry
) -> None:
    wanted = wanted.model_copy(update={**ON_DEMAND, "gap": gap})
    loaded = wanted.current is not None and wanted.current.id in ready
    assert decide(current, wanted, loaded, None) is not Verdict.WAIT
    admission = in_force(wanted, None, ready, left=current)
    assert admission.release in (None, wanted.current)
    assert (admission.release is not None) == loaded
    assert admission.base == (gap is Gap.BASE and wanted.current is not None and not loaded)


@pytest.mark.parametrize("gap", Gap)
def test_a_stored_gap_of_left_means_refuse_on_demand(gap: Gap) -> None:
    assert gap_after_flip(gap, RouteResidency.ALWAYS) is gap
    assert gap_after_flip(gap, RouteResidency.ON_DEMAND) is (Gap.REFUSE if gap is Gap.LEFT else gap)


def test_an_on_demand_route_waits_where_no_engine_could_load_its_release() -> None:
    wanted = entry("v1", 5).model_copy(update=ON_DEMAND)
    assert decide(NOW, wanted, False, None, engine=False) is Verdict.WAIT
    assert decide(NOW, wanted, False, None, engine=True) is Verdict.FLIP
