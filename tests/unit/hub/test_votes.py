"""Votes of several routers, and what they say together of a live release."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from loradeck.hub.progress.votes import Raised, Votes
from loradeck.rules.quality.detection import HORIZON_S, Limits
from loradeck.rules.quality.guard import Control
from loradeck.schemas.counts import NO_COUNTS, AskedAgain, Counts, SecondOfVotes, Traffic

KEY, RELEASE = ("acme", "production"), "a" * 64
STINT = (1, RELEASE)
PROMISED = Limits(0.02, 0.02)


def row_of(node: str, **fields: Any) -> Traffic:
    """A row of the report of a node's router on the stint."""
    where = {"tenant": KEY[0], "route": KEY[1], "generation": 1, "release": RELEASE, "replica": f"{node}.e0"}
    return Traffic.model_validate({**where, **fields})


@dataclass
class Fleet:
    """Two nodes whose routers' clocks begin at different times."""

    now: float = 500.0
    limits: Limits = PROMISED
    lift: int = 0
    nodes: tuple[str, ...] = ("one", "two")
    begun: dict[str, int] = field(default_factory=lambda: {"one": 0, "two": 4_000_000})

    def __post_init__(self) -> None:
        self.votes = Votes(lambda key: self.limits, lambda: self.now)
        self.said: dict[str, dict[int, SecondOfVotes]] = {}

    def second(self, node: str, units: int, bad: int, *, failed: int = 0, late: int = 0) -> None:
        """A router says how many units it admitted a while ago (`late` seconds), and how many of them were bad."""
        at = self.begun[node] + int(self.now) - late
        said = self.said.setdefault(node, {})
        said[at] = (at, units, failed, units, bad)
        self.report(node)

    def report(
        self,
        node: str,
        callers: int = 30,
        growth: Counts = NO_COUNTS,
        ttft: tuple[int, ...] = (),
        pace: tuple[int, ...] = (),
        language: int | None = None,
        judge: tuple[int, int] | None = None,
    ) -> None:
        """A router reports the seconds that it has. `language`: so many of each second's are in another language.
        `judge`: of each second's, it was asked of so many, and fails so many.
        """
        said = self.said.get(node, {})
        row = row_of(
            node,
            votes=tuple(said.values()) if callers else (),
            callers=callers,
            noticed_votes={} if language is None else {"language": tuple((at, language) for at in said)},
            asked_votes={} if judge is None else {"judge": tuple((at, *judge) for at in said)},
        )
        self.votes.counted(node, f"boot of {node}", [row])(row, growth, ttft, pace)

    def raised(self, *, stands: bool = False) -> Raised | None:
        return self.votes.raised(KEY, STINT, self.lift, stands=stands)

    def figure(self) -> str:
        raised = self.raised()
        return raised.figure if raised is not None else ""


def test_a_release_that_is_bad_on_all_its_nodes_is_breached_within_seconds() -> None:
    fleet, seconds = Fleet(), 0
    while (raised := fleet.raised()) is None:
        fleet.second("one", 20, 6)
        fleet.second("two", 20, 6)
        fleet.now += 1
        seconds += 1
    assert seconds <= 6
    assert (raised.figure, raised.since) == ("bad", 500)
    by_node = fleet.votes.by_node(KEY, STINT, "bad", raised.since)
    assert by_node == {"one": (6 * seconds, 20 * seconds), "two": (6 * seconds, 20 * seconds)}


def test_a_flag_ends_once_what_has_raised_it_is_gone_and_not_with_the_first_good_answers() -> None:
    fleet, standing = Fleet(), 0
    for _ in range(10):
        for node in fleet.nodes:
            fleet.second(node, 20, 6)
        fleet.now += 1
    while fleet.raised(stands=True) is not None:
        for node in fleet.nodes:
            fleet.said.clear()
            fleet.second(node, 20, 0)
        fleet.now += 1
        standing += 1
        assert standing <= HORIZON_S + 20, "what is awaited no longer has been good for a while"
    assert standing > 10


def test_failed_requests_breach_a_release_as_well() -> None:
    fleet = Fleet()
    for _ in range(10):
        fleet.second("one", 20, 0, failed=10)
        fleet.second("two", 20, 0, failed=10)
        fleet.now += 1
    assert fleet.figure() == "errors"


@pytest.mark.parametrize("figure", ["bad", "errors"])
def test_answers_that_end_after_their_second_was_reported_count_as_those_that_end_in_it(figure: str) -> None:
    def run(takes: int) -> tuple[Raised | None, dict[str, tuple[int, int]], float]:
        fleet = Fleet()
        for at in range(12):
            for node in fleet.nodes:
                fleet.second(node, 20, 0)
                if at >= takes:
                    fleet.second(node, 20, 6 * (figure == "bad"), failed=6 * (figure == "errors"), late=takes)
            fleet.now += 1
        evidence = fleet.votes.since_move(KEY, STINT, None, lambda: fleet.nodes)
        assert evidence is not None, "guard sees it"
        return fleet.raised(), fleet.votes.by_node(KEY, STINT, figure, 500), evidence.votes[0] / evidence.votes[1]

    assert run(0) == (Raised(figure, 0.04, 500), {"one": (72, 240), "two": (72, 240)}, 0.3)
    raised, by_node, share = run(2)
    assert raised is not None
    assert raised.figure == figure
    assert by_node == {"one": (60, 240), "two": (60, 240)}, "two seconds have not ended"
    assert share == 0.25


def test_a_second_that_is_reported_again_counts_once() -> None:
    fleet = Fleet()
    fleet.second("one", 10, 2)
    for _ in range(20):
        fleet.report("one")
    fleet.now += 1
    assert fleet.raised() is None


def test_votes_from_before_a_lift_do_not_count() -> None:
    fleet = Fleet()
    for _ in range(10):
        fleet.second("one", 20, 10)
        fleet.second("two", 20, 10)
        fleet.now += 1
    assert fleet.raised() is not None
    fleet.lift = 7
    fleet.raised()
    for _ in range(10):
        fleet.second("one", 20, 0)
        fleet.second("two", 20, 0)
        fleet.now += 1
    assert fleet.raised() is None


def test_answers_from_before_a_lift_that_turn_out_to_be_bad_after_it_do_not_count_either() -> None:
    """Answers are checked after they were given: seconds later on a busy machine."""
    fleet = Fleet()
    for node in fleet.nodes:
        fleet.second(node, 20, 0)
    fleet.lift = 7
    assert fleet.raised() is None
    for node in fleet.nodes:
        fleet.second(node, 20, 20, failed=20)
    fleet.now += 1
    assert fleet.raised() is None
    assert fleet.votes.last_minute(KEY, STINT, "bad") == {}


def test_a_figure_that_cannot_be_is_passed_over() -> None:
    fleet = Fleet()
    at = int(fleet.now)
    for impossible in ((at, 1, 0, 1, 50), (at, 1, 5, 1, 0), (at, 1, 0, 9, 5), (at - 600, 9, 9, 9, 9)):
        fleet.said = {"one": {at: (at, 20, 0, 20, 0), 1: impossible}}
        fleet.report("one")
    fleet.now += 1
    assert fleet.raised() is None


def test_a_router_that_sends_no_votes_is_judged_by_what_has_ended() -> None:
    fleet = Fleet()
    for _ in range(10):
        for node in fleet.nodes:
            fleet.report(node, callers=0, growth=Counts.over(finished=20, checked=20, bad=8))
        fleet.now += 1
    assert fleet.figure() == "bad"


def test_a_release_whose_tokens_come_late_is_slow_where_its_route_promises_their_time() -> None:
    in_time, late = (0, 0, 0, 0, 40), (0, 0, 0, 0, 10, 0, 0, 30)
    for limits, ttft, slow in (
        (Limits(0.02, 0.02, 200), late, ("first tokens",)),
        (Limits(0.02, 0.02, 200), in_time, ()),
        (Limits(0.02, 0.02), late, ()),
        (Limits(0.02, 0.02, 2000), late, ()),
        (Limits(0.02, 0.02, 200, 50), late, ("first tokens", "further tokens")),
        (Limits(0.02, 0.02, None, 50), in_time, ()),
    ):
        fleet = Fleet(limits=limits)
        for _ in range(5):
            fleet.report("one", ttft=ttft, pace=ttft)
            fleet.now += 1
        assert fleet.votes.slow(KEY, STINT) == slow, (limits, ttft)


WATCHED = Limits(0.02, 0.02, noticed=0.02, watched=("language",))


@pytest.mark.parametrize(
    ("limits", "noticed", "drift"),
    [
        (WATCHED, {"one": 6, "two": 6}, ("language 30.0% of 400",)),
        (WATCHED, {"one": 0, "two": 1}, ()),
        (WATCHED, {"one": 0, "two": 20}, ("language, by two alone",)),
        (WATCHED._replace(watched=("long",)), {"one": 6, "two": 6}, ()),
        (WATCHED._replace(noticed=0.4), {"one": 6, "two": 6}, ()),
    ],
)
def test_checks_that_only_alert_say_so_when_they_notice_more_than_they_may(
    limits: Limits, noticed: dict[str, int], drift: tuple[str, ...]
) -> None:
    fleet = Fleet(limits=limits)
    for _ in range(10):
        for node, n in noticed.items():
            fleet.second(node, 20, 0)
            fleet.report(node, language=n)
            fleet.report(node, language=n)  # said again, it counts once
        fleet.now += 1
    assert fleet.votes.drift(KEY, STINT, lambda: fleet.nodes) == drift
    assert fleet.raised() is None
    assert fleet.votes.since_move(KEY, STINT, None, lambda: fleet.nodes) is None


@pytest.mark.parametrize("second", [(10, 0, 5, 10), (10, 0, 11, 10), (10, 11, 10, 0), (-10, -10, 0, 0)])
def test_a_second_whose_parts_are_more_than_the_whole_counts_nowhere(second: tuple[int, int, int, int]) -> None:
    fleet = Fleet(nodes=("one",))
    for _ in range(30):
        at = int(fleet.now)
        fleet.said["one"] = {at: (at, *second)}
        fleet.report("one")
        fleet.now += 1
    assert fleet.raised() is None
    assert fleet.votes._stints[KEY][STINT].totals == {"bad": {}, "errors": {}, "overdue": {}}


JUDGED = Limits(0.02, 0.02, watched=("judge",))


@pytest.mark.parametrize(
    ("limits", "said", "drift"),
    [
        (JUDGED, {"one": (2, 1), "two": (2, 1)}, ("judge 50.0% of 80",)),  # of 800 that were checked
        (JUDGED._replace(judged=0.4), {"one": (2, 1), "two": (2, 1)}, ()),
        (JUDGED, {"one": (2, 0), "two": (2, 2)}, ("judge, by two alone",)),
        (JUDGED, {"one": (2, 3), "two": (2, 3)}, ()),  # more than it was asked of
        (JUDGED, {"one": (21, 20), "two": (21, 20)}, ()),  # of more than were checked
        (JUDGED, {"one": (0, 0), "two": (0, 0)}, ()),
    ],
)
def test_what_a_judge_fails_is_a_share_of_what_it_was_asked_of(
    limits: Limits, said: dict[str, tuple[int, int]], drift: tuple[str, ...]
) -> None:
    fleet = Fleet(limits=limits)
    for _ in range(20):
        for node, judge in said.items():
            fleet.second(node, 20, 0)
            fleet.report(node, judge=(judge[0], 0))  # it is asked first, and says so later
            fleet.report(node, judge=judge)
            fleet.report(node, judge=judge)
        fleet.now += 1
    assert fleet.votes.drift(KEY, STINT, lambda: fleet.nodes) == drift
    assert fleet.raised() is None
    assert fleet.votes.since_move(KEY, STINT, None, lambda: fleet.nodes) is None


def test_a_judge_of_a_router_that_does_not_say_what_it_was_asked_of_is_no_drift() -> None:
    fleet = Fleet(limits=JUDGED)
    for _ in range(20):
        fleet.second("one", 20, 0)
        fleet.report("one")
        fleet.now += 1
    assert fleet.votes.drift(KEY, STINT, lambda: ("one",)) == ()


def test_more_noticed_than_were_checked_is_passed_over() -> None:
    fleet = Fleet(limits=WATCHED)
    for _ in range(10):
        fleet.second("one", 20, 0)
        fleet.report("one", language=21)
        fleet.now += 1
    assert fleet.votes.drift(KEY, STINT, lambda: fleet.nodes) == ()


def test_one_node_alone_is_named_in_the_evidence_that_guard_gets() -> None:
    fleet = Fleet()
    for _ in range(20):
        fleet.second("one", 10, 0)
        fleet.second("two", 10, 10)
        fleet.now += 1
    evidence = fleet.votes.since_move(KEY, STINT, None, lambda: fleet.nodes)
    assert evidence is not None
    assert (evidence.alone, evidence.votes, evidence.control) == ("two", (200, 400), None)


@pytest.mark.parametrize(
    ("nodes", "said", "callers"),
    [(("one",), {"one": 24}, 24), (("one", "two"), {"one": 2, "two": 100}, 2), (("one", "two"), {"one": 24}, 0)],
)
def test_the_number_of_callers_is_no_one_nodes_word_where_others_serve(
    nodes: tuple[str, ...], said: dict[str, int], callers: int
) -> None:
    fleet = Fleet(nodes=nodes)
    for _ in range(10):
        for node, seen in said.items():
            fleet.second(node, 20, 10)
            fleet.report(node, callers=seen)
        fleet.now += 1
    evidence = fleet.votes.since_move(KEY, STINT, None, lambda: fleet.nodes)
    assert evidence is not None
    assert evidence.callers == callers


PRIOR, OLDER = "b" * 64, "c" * 64


def again(node: str, pairs: int, given: int, beneath: int, *, release: str = PRIOR, admitted: int = 1000) -> Traffic:
    """A router's row: so many pairs, and how many answers of each release were bad."""
    asked = AskedAgain(release=release, asked=pairs, pairs=pairs, checked=pairs, bad=(given, beneath))
    return row_of(
        node,
        attempted=admitted,
        admitted=admitted,
        again=asked,
    )


def control(fleet: Fleet, beneath: str = PRIOR) -> Control | None:
    """What the release is compared with, once its own votes are bad enough."""
    for _ in range(10):
        for node in fleet.nodes:
            fleet.second(node, 20, 8)
        fleet.now += 1
    evidence = fleet.votes.since_move(KEY, STINT, None, lambda: fleet.nodes, beneath=lambda: beneath)
    assert evidence is not None
    return evidence.control


def say(fleet: Fleet, *rows: Traffic, boot: str = "a boot") -> None:
    for row in rows:
        fleet.votes.counted(row.replica.partition(".")[0], boot, [row])(row, NO_COUNTS, (), ())


def test_a_release_is_compared_with_the_one_beneath_on_the_same_units() -> None:
    fleet = Fleet()
    say(fleet, again("one", 60, 24, 0), again("two", 60, 24, 1))
    assert control(fleet) == Control(given=(48, 120), beside=(1, 120), worse=True, is_paired=True)


def test_a_release_that_is_as_bad_as_the_one_beneath_is_not_worse() -> None:
    fleet = Fleet()
    say(fleet, again("one", 60, 24, 22), again("two", 60, 24, 25))
    found = control(fleet)
    assert found is not None
    assert not found.worse


def test_pairs_with_a_release_to_which_r_does_not_go_are_no_control() -> None:
    fleet = Fleet()
    say(fleet, again("one", 60, 24, 0, release=OLDER), again("two", 60, 24, 0, release=OLDER))
    assert control(fleet) is None


def test_pairs_of_a_router_that_starts_again_are_added_to_those_before() -> None:
    fleet = Fleet()
    say(fleet, again("one", 60, 24, 0))
    say(fleet, again("one", 10, 4, 0), boot="another boot")
    found = fleet.votes.asked_again(KEY, STINT, PRIOR)
    assert found is not None
    assert (found.asked, found.bad) == (70, (28, 0))


def test_pairs_whose_answers_overlap_count_also_when_fewer_of_them_are_under_way_than_before() -> None:
    """Answers of four seconds at forty a second: after the peak fewer are asked in a second than end in it."""
    fleet = Fleet()
    asked_by_second = [40] * 10 + [10] * 10
    for second in range(len(asked_by_second)):
        ended = sum(asked_by_second[: max(0, second - 3)])
        bad = 3 * ended // 10
        counts = AskedAgain(
            release=PRIOR, asked=sum(asked_by_second[: second + 1]), pairs=ended, checked=ended, bad=(bad, 0)
        )
        say(fleet, row_of("one", attempted=1000, admitted=1000, again=counts))
    counted = fleet.votes.asked_again(KEY, STINT, PRIOR)
    assert counted is not None
    assert (counted.asked, counted.pairs, counted.bad) == (500, 460, (138, 0))


def test_pairs_that_cannot_be_are_passed_over() -> None:
    fleet = Fleet()
    for row in (
        again("one", 60, 61, 0),  # more bad ones than pairs
        again("one", 60, 24, 0, admitted=59),  # more than it was asked
        again("one", -60, -24, 0),
    ):
        say(fleet, row)
    say(fleet, again("one", 50, 20, 5), again("one", 60, 24, 0), again("one", 40, 20, 5))  # some that were bad are not
    found = fleet.votes.asked_again(KEY, STINT, PRIOR)
    assert found is not None
    assert (found.pairs, found.bad) == (50, (20, 5))


def test_votes_that_nobody_asks_about_take_no_more_memory_with_the_hours() -> None:
    fleet = Fleet()
    fleet.raised()
    sizes = []
    for second in range(3000):
        fleet.said.clear()  # a router says the seconds that have changed
        fleet.second("one", 20, second % 2)
        fleet.now += 1
        sizes.append(_entries(fleet.votes))
    assert max(sizes[200:]) <= max(sizes[:200])


def _entries(votes: Votes) -> int:
    """Numbers that are held somewhere in the votes."""
    seen, found, left = set[int](), 0, list[object]([votes])
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        if isinstance(one, int | float):
            found += 1
        elif isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set):
            left += one
        else:
            names = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
            left += [getattr(one, name) for name in names if hasattr(one, name)]
            left += vars(one).values() if hasattr(one, "__dict__") else ()
    return found


def test_callers_who_correct_more_than_is_promised_are_drift_and_change_no_other_verdict() -> None:
    fleet = Fleet(limits=PROMISED._replace(corrected=0.2))
    fleet.second("one", 20, 0)
    fleet.second("two", 20, 0)
    for second in range(40):
        for node in fleet.nodes:
            fleet.votes.add_feedback(KEY, STINT, node, corrected=second % 5 == 0)
        fleet.now += 1
    assert fleet.votes.drift(KEY, STINT, lambda: fleet.nodes) == ()
    for _ in range(40):
        for node in fleet.nodes:
            fleet.votes.add_feedback(KEY, STINT, node, corrected=True)
        fleet.now += 1
    (said,) = fleet.votes.drift(KEY, STINT, lambda: fleet.nodes)
    assert said.startswith("corrected ")
    assert fleet.raised() is None


def test_what_callers_say_counts_nowhere_where_nothing_is_promised() -> None:
    fleet = Fleet()
    fleet.second("one", 20, 0)
    for _ in range(100):
        fleet.votes.add_feedback(KEY, STINT, "one", corrected=True)
    assert fleet.votes.drift(KEY, STINT, lambda: fleet.nodes) == ()


# ---- two clocks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [2, 20])
def test_a_first_report_that_comes_late_does_not_put_off_what_is_seen_after_it(late: int) -> None:
    fleet, seconds = Fleet(), 0
    for node in fleet.nodes:
        fleet.second(node, 20, 0, late=late)
    while fleet.raised() is None:
        fleet.now += 1
        seconds += 1
        fleet.second("one", 20, 6)
        fleet.second("two", 20, 6)
        assert seconds <= 8, "the votes after a late report count nowhere"
    assert fleet.votes.dropped == {}


@pytest.mark.parametrize("drift", [-1, 1])
def test_routers_whose_clocks_go_wrong_by_minutes_over_the_weeks_are_still_heard(drift: int) -> None:
    fleet, seconds = Fleet(), 0
    for step in range(200):  # a second of drift in each of them, an hour apart
        fleet.said.clear()
        fleet.begun = {node: begun + drift for node, begun in fleet.begun.items()}
        fleet.now += 3600
        for node in fleet.nodes:
            fleet.second(node, 20, 0)
        assert fleet.votes.dropped == {}, f"after {step} hours"
    while fleet.raised() is None:
        fleet.now += 1
        seconds += 1
        fleet.second("one", 20, 6)
        fleet.second("two", 20, 6)
        assert seconds <= 8


def test_a_second_that_is_said_again_after_the_clocks_were_compared_anew_counts_once() -> None:
    fleet = Fleet()
    fleet.second("one", 100, 0, late=10)
    fleet.now += 1
    fleet.second("one", 10, 2)  # it comes at once: the first one was late by ten seconds
    for _ in range(3):
        fleet.now += 1
        fleet.report("one")
    assert fleet.votes.last_minute(KEY, STINT, "bad") == {"one": (2, 110)}


def test_votes_that_come_too_late_to_count_are_counted_by_node() -> None:
    fleet = Fleet()
    fleet.second("one", 20, 0)
    fleet.now += 200
    fleet.said.clear()
    fleet.second("one", 20, 0)
    fleet.second("one", 7, 7, late=70)
    for _ in range(3):
        fleet.report("one")
    assert fleet.votes.dropped == {"one": 7}
    assert fleet.votes.last_minute(KEY, STINT, "bad") == {"one": (0, 20)}


# ---- what has not ended, and what ends late ------------------------------------------------------------------------


def test_answers_that_run_on_flag_a_release_before_any_of_them_has_ended() -> None:
    fleet, decided = Fleet(), 0
    while fleet.figure() != "overdue":
        decided += 1
        fleet.now += 1
        for node in fleet.nodes:
            at = fleet.begun[node] + int(fleet.now)
            row = row_of(
                node,
                votes=((at, 20, 0, 20, 0),),
                overdue_votes=((at, 20, 6),),
                callers=30,
            )
            fleet.votes.counted(node, f"boot of {node}", [row])(row, NO_COUNTS, (), ())
        assert decided <= 6
    raised = fleet.raised()
    assert raised is not None
    by_node = fleet.votes.by_node(KEY, STINT, "overdue", raised.since)
    assert by_node == {"one": (6 * decided, 20 * decided), "two": (6 * decided, 20 * decided)}


def test_answers_that_turn_out_to_be_bad_minutes_after_their_admission_count_when_that_is_known() -> None:
    fleet = Fleet()
    for _ in range(100):
        for node in fleet.nodes:
            fleet.said[node] = {}
            fleet.second(node, 20, 0)
        fleet.now += 1
    assert fleet.raised() is None
    for second in range(20):  # what was admitted in the first of these seconds ends now, and is bad
        for node in fleet.nodes:
            at = fleet.begun[node] + 500 + second
            fleet.said[node] = {at: (at, 20, 0, 20, 0)}
            fleet.report(node)  # the first report of a second that was forgotten tells what it had
            fleet.said[node] = {at: (at, 20, 0, 20, 6)}
            fleet.second(node, 20, 0)
        fleet.now += 1
    assert fleet.figure() == "bad"
    assert fleet.votes.dropped == {}


def overdue(fleet: Fleet, *seconds: tuple[int, int, int], votes: bool = False) -> Traffic:
    at = fleet.begun["one"] + int(fleet.now)
    row = row_of(
        "one",
        votes=((at, 20, 0, 20, 0),) if votes else (),
        overdue_votes=seconds,
        callers=30,
    )
    fleet.votes.counted("one", "boot of one", [row])(row, NO_COUNTS, (), ())
    return row


def test_overdue_answers_count_where_nothing_else_happens_any_more() -> None:
    fleet = Fleet(nodes=("one",))
    overdue(fleet, votes=True)
    for _ in range(20):
        fleet.now += 1
        at = fleet.begun["one"] + int(fleet.now)
        overdue(fleet, (at, 10, 10))
    assert fleet.figure() == "overdue", "all callers wait, and none asks anew"


def test_seconds_that_no_router_can_speak_of_take_no_memory_and_hide_nothing() -> None:
    fleet = Fleet(nodes=("one",))
    overdue(fleet, votes=True)
    for turn in range(100):
        overdue(fleet, (2**60, 5, 5), *((10**6 + 128 * turn + n, 5, 5) for n in range(100)))
    (reports,) = fleet.votes._stints[KEY][STINT].reports.values()
    assert len(reports.overdue) <= 2
    for _ in range(10):
        fleet.second("one", 20, 0, failed=10)
        fleet.now += 1
    assert fleet.figure() == "errors"
    assert fleet.votes.by_node(KEY, STINT, "errors", 0) != {}


def test_units_that_turn_out_to_be_overdue_after_they_were_forgotten_are_never_more_than_there_were() -> None:
    fleet = Fleet(nodes=("one",))
    overdue(fleet, (500, 5000, 0), votes=True)
    fleet.now += 1300
    overdue(fleet, (500, 5000, 5000), votes=True)
    overdue(fleet, (1800, 300, 0), votes=True)
    for bad, n in fleet.votes.by_node(KEY, STINT, "overdue", 0).values():
        assert bad <= n


def test_units_of_which_nobody_speaks_any_more_are_over_after_ten_minutes() -> None:
    fleet = Fleet()
    for _ in range(10):
        for node in fleet.nodes:
            fleet.second(node, 20, 10)
        fleet.now += 1
    fleet.now += 86_400
    assert fleet.votes.by_node(KEY, STINT, "bad", 0) == {}
    fleet.votes.begin_anew(KEY, STINT)
    assert fleet.raised(stands=True) is None


def test_one_key_that_asks_everything_leaves_no_others_in_the_steps_of_which_its_units_are_named() -> None:
    """A router names no caller in ten seconds without a bad answer, so these say nothing about others either."""
    fleet = Fleet(nodes=("one",))
    for second in range(60):
        at = fleet.begun["one"] + int(fleet.now)
        bad = second // 10 % 2
        named = ((at // 10, 7, 20 * (second % 10 + 1), 0, 20 * (second % 10 + 1), second % 10 + 1),) if bad else ()
        row = row_of(
            "one",
            votes=((at, 20, 0, 20, bad),),
            caller_votes=named,
            callers=1,
        )
        fleet.votes.counted("one", "boot of one", [row])(row, NO_COUNTS, (), ())
        fleet.now += 1
    share = fleet.votes.callers(KEY, STINT, "bad", 500)
    assert share is not None
    assert share.by_bin == {7: (30, 600)}
    assert share.all == (30, 600)
