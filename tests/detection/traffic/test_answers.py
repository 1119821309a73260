"""How answers turn out, what clients send again, and what changes do."""

from dataclasses import replace

import numpy as np
import pytest
from tests.detection.traffic import durations, outcomes
from tests.detection.traffic.generator import JITTER, RETRIES, Requests, requests
from tests.detection.traffic.kinds import is_template
from tests.detection.traffic.route import DAY, HOUR, Change, Effect, Route, Spread, Why

WANDERING = Route(rate=2, sigma_quarter=0.5, sigma_hours=0.3, sigma_own=0.4, largest=0.6, integrations_a_month=0)


def interval(share: float, count: int) -> float:
    """Four standard errors of a share of independent answers."""
    return 4 * np.sqrt(share * (1 - share) / count)


def test_callers_differ_and_make_the_routes_share_together() -> None:
    days = [requests(Route(rate=2, tenant=t, integrations_a_month=0, errors=0), 0, DAY) for t in range(2)]
    bad = np.concatenate([day.bad for day in days])
    assert bad.mean() == pytest.approx(0.01, abs=interval(0.01, len(bad)) * 1.2)
    assert np.log(outcomes.means(Route(rate=2))).std() == pytest.approx(0.7, abs=0.15)


def test_a_wandering_share_stays_the_routes_on_the_average() -> None:
    times = np.arange(0, 100 * DAY, 600.0)
    asker = np.random.default_rng(0).choice(200, size=len(times), p=np.r_[0.6, np.full(199, 0.4 / 199)])
    route = replace(WANDERING, sigma_callers=0.0)
    assert outcomes.shares(route, times, asker).mean() == pytest.approx(0.01, rel=0.06)


def test_bad_answers_come_together_for_a_quarter_of_an_hour() -> None:
    route = Route(rate=2, share=0.1, sigma_quarter=1.0, errors=0, integrations_a_month=0, incidents_a_month=0)
    part = requests(route, 0, 3 * DAY)
    minutes = (part.time // 60).astype(int)
    shares = np.bincount(minutes, part.bad) / np.maximum(np.bincount(minutes), 1)
    near, far = (np.corrcoef(shares[lag:], shares[:-lag])[0, 1] for lag in (5, 240))
    drift = np.concatenate([outcomes.logistic(outcomes.base(route) + outcomes.drift(route, day)) for day in range(3)])
    assert np.corrcoef(shares, drift)[0, 1] > 0.5
    assert near > 0.25 > 0.1 > far
    assert np.mean(part.why[part.bad] == Why.DRIFT) > 0.1


def test_an_integration_breaks_about_once_a_month_for_an_hour() -> None:
    route = Route(rate=1, largest=0.6, errors=0, incidents_a_month=0)
    events = [event for day in range(3000) for event in outcomes.integrations(route, day)]
    assert len(events) == pytest.approx(100, abs=40)
    broken = next(event for event in events if event.target == 0)
    part = requests(route, broken.begin, broken.end)
    own = part.caller == 0
    assert part.bad[own].mean() == pytest.approx(0.9, abs=interval(0.9, own.sum()))
    assert np.mean(part.why[own & part.bad] == Why.CALLER) > 0.9
    assert part.bad[~own].mean() < 0.05


def incident(route: Route) -> tuple[Requests, outcomes.Event]:
    """The first incident of a route that lasts a minute, with a minute before and after."""
    events = (event for day in range(1000) for event in outcomes.incidents(route, day))
    event = next(event for event in events if event.end - event.begin > 60 and event.begin % DAY > 60)
    return requests(route, event.begin - 60, event.end + 60), event


def test_retries_have_the_body_of_what_failed_and_are_two_at_most() -> None:
    part, _ = incident(Route(rate=20, nodes=2))
    assert part.attempt.max() == RETRIES == 2
    fresh = part[~is_template(part.body)]
    order = np.lexsort((fresh.attempt, fresh.body))
    ordered = fresh[order]
    again = np.flatnonzero(ordered.attempt[1:] > 0) + 1
    again = again[ordered.time[again] > part.time[0] + durations.REFUSAL_LIMIT_S * 2]
    before = again - 1
    assert len(again) > 100
    assert np.all(ordered.body[again] == ordered.body[before])
    assert np.all(ordered.caller[again] == ordered.caller[before])
    assert np.all(ordered.attempt[again] == ordered.attempt[before] + 1)
    assert np.all(ordered.failed[before])
    assert not np.any(ordered.bad[before])
    waits = ordered.time[again] - ordered.time[before] - ordered.duration[before]
    full = 0.5 * 2.0 ** ordered.attempt[before]
    assert np.all((waits >= full * (1 - JITTER) - 1e-6) & (waits <= full + 1e-6))


def test_an_incident_fails_on_one_node_and_brings_retries() -> None:
    part, event = incident(Route(rate=20, nodes=2))
    during = (part.time >= event.begin) & (part.time < event.end)
    on_node = during & (part.node == event.target)
    assert part.failed[on_node].mean() == pytest.approx(0.8, abs=interval(0.8, on_node.sum()))
    assert part.failed[during & ~on_node].mean() < 0.05
    assert np.mean(part.attempt[during] > 0) > 0.2
    assert np.mean(part.why[on_node & part.failed] == Why.NODE) > 0.95


def test_templates_are_the_same_body_of_the_same_caller_again() -> None:
    part = requests(Route(rate=2, templates=0.3, errors=0, incidents_a_month=0), 0, 6 * HOUR)
    template = is_template(part.body)
    assert template.mean() == pytest.approx(0.3, abs=interval(0.3, len(part)))
    assert len(np.unique(part.body[~template])) == np.sum(~template)
    pairs = np.unique(np.stack([part.body[template], part.caller[template]]), axis=1)
    assert pairs.shape[1] == len(np.unique(part.body[template])) < template.sum() / 2


@pytest.mark.parametrize("index", [1.8, 2.2])
def test_durations_have_the_tail_of_their_index(index: float) -> None:
    spread = Spread(median=4.0, sigma=0.8, tail=0.02, index=index)
    generator = np.random.default_rng(0)
    values = durations.seconds(spread, generator.standard_normal(400_000), generator.random(400_000))
    tail = values[values > durations.threshold(spread)]
    assert np.median(values) == pytest.approx(4.0, rel=0.02)
    assert len(tail) / len(values) == pytest.approx(0.02, rel=0.05)
    hill = 1 / np.log(tail / durations.threshold(spread)).mean()
    assert hill == pytest.approx(index, rel=0.05)


def test_streamed_answers_begin_before_they_end_and_whole_ones_do_not() -> None:
    part = requests(Route(rate=20), 12 * HOUR, 13 * HOUR)
    good = part[~part.failed]
    assert np.all(good.first[~good.streamed] == good.duration[~good.streamed])
    assert np.mean(good.first[good.streamed] < good.duration[good.streamed]) > 0.999
    assert np.median(good.first[good.streamed]) == pytest.approx(0.3, rel=0.15)
    assert good.duration.max() <= durations.LIMIT_S


AT = 12 * HOUR + 600.0


def split(route: Route) -> tuple[Requests, Requests]:
    """Ten minutes before a change, and 50 after it."""
    part = requests(route, 12 * HOUR, 13 * HOUR)
    return part[part.time < AT], part[part.time >= AT]


@pytest.mark.parametrize(("usual", "to"), [(0.01, 0.3), (0.02, 0.06), (0.01, 0.12)])
def test_a_release_turns_bad_for_everybody(usual: float, to: float) -> None:
    route = Route(
        rate=20, share=usual, sigma_callers=0, integrations_a_month=0, errors=0, incidents_a_month=0,
        changes=(Change(at=AT, effect=Effect.BAD, to=to),),
    )  # fmt: skip
    before, after = split(route)
    assert before.bad.mean() == pytest.approx(usual, abs=interval(usual, len(before)))
    assert after.bad.mean() == pytest.approx(to, abs=interval(to, len(after)))
    assert np.mean(after.why == Why.RELEASE) == pytest.approx((to - usual), rel=0.1)


def test_what_turns_bad_can_take_longer() -> None:
    plain = Route(rate=20, errors=0, incidents_a_month=0)
    _, usual = split(plain)
    _, slow = split(replace(plain, changes=(Change(at=AT, effect=Effect.BAD, pace=2.0),)))
    turned = slow.why == Why.RELEASE
    assert np.median(slow.duration[turned] / usual.duration[turned]) == pytest.approx(2)
    assert np.array_equal(slow.duration[~turned], usual.duration[~turned])


@pytest.mark.parametrize(("cause", "target", "field"), [(Why.CALLER, 0, "caller"), (Why.NODE, 2, "node")])
def test_one_caller_or_one_node_alone_turns_bad(cause: Why, target: int, field: str) -> None:
    change = Change(at=AT, effect=Effect.BAD, cause=cause, target=target, to=0.3)
    _, after = split(Route(rate=20, nodes=4, errors=0, incidents_a_month=0, sigma_callers=0, changes=(change,)))
    own = getattr(after, field) == target
    assert after.bad[own].mean() == pytest.approx(0.3, abs=interval(0.3, own.sum()))
    assert after.bad[~own].mean() < 0.02
    assert set(after.why[~own]) <= {Why.NONE, Why.DRIFT, Why.CALLER} - ({cause} if cause is Why.CALLER else set())


def test_new_questions_turn_answers_bad_from_many_callers() -> None:
    change = Change(at=AT, effect=Effect.BAD, cause=Why.ASKED, to=0.3)
    _, after = split(Route(rate=20, errors=0, incidents_a_month=0, sigma_callers=0, changes=(change,)))
    assert after.bad.mean() == pytest.approx(0.3, abs=interval(0.3, len(after)))
    assert len(np.unique(after.caller[after.why == Why.ASKED])) > 50


def test_runaway_answers_take_two_minutes_and_tokens_three_times_as_long() -> None:
    plain = Route(rate=20, errors=0, incidents_a_month=0)
    _, usual = split(plain)
    _, runaway = split(replace(plain, changes=(Change(at=AT, effect=Effect.RUNAWAY),)))
    chosen = runaway.why == Why.RELEASE
    assert chosen.mean() == pytest.approx(0.3, abs=interval(0.3, len(chosen)))
    assert np.all(runaway.bad[chosen])
    assert np.median(runaway.duration[chosen]) == pytest.approx(120, rel=0.05)
    _, longer = split(replace(plain, changes=(Change(at=AT, effect=Effect.TOKENS),)))
    assert np.median(longer.duration / usual.duration) == pytest.approx(3, rel=0.1)
    assert np.array_equal(longer.first[longer.streamed], usual.first[usual.streamed])


def test_nothing_ends_after_an_engine_has_hung() -> None:
    change = Change(at=AT, effect=Effect.HUNG, cause=Why.NODE, target=1)
    part = requests(Route(rate=20, nodes=2, errors=0.05, changes=(change,)), 12 * HOUR, 13 * HOUR)
    hung = part.node == 1
    ends = part.time + part.duration
    assert not np.any(np.isfinite(ends[hung]) & (ends[hung] > AT))
    assert np.all(np.isinf(part.first[hung & (part.time >= AT)]))
    begun = hung & part.streamed & (part.time < AT) & np.isinf(part.duration) & np.isfinite(part.first)
    assert begun.sum() > 10
    assert np.all(np.isfinite(part.duration[~hung]))
    assert not np.any(part.failed & np.isinf(part.duration))


def test_changes_that_mean_nothing_are_refused() -> None:
    for change in (
        Change(at=0, effect=Effect.BAD, cause=Why.NODE, target=1),
        Change(at=0, effect=Effect.BAD, cause=Why.CALLER, target=500),
        Change(at=0, effect=Effect.BAD, to=0.001),
        Change(at=0, effect=Effect.BAD, cause=Why.ASKED, to=0.9),
    ):
        with pytest.raises(ValueError, match=r"."):
            Route(rate=1, changes=(change,))
