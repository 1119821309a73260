"""What the routers' counters say of the last minute."""

from __future__ import annotations

import pytest

from loradeck.hub.progress.request_counts import MOST_NEIGHBOURS, MOST_NODES, MOST_ROUTES, RequestCounts
from loradeck.schemas.counts import FAULTS, Traffic

KEY = ("acme", "production")
RELEASE = "a" * 64


def counted(finished: int, bad: int = 0) -> Traffic:
    return Traffic(
        tenant=KEY[0],
        route=KEY[1],
        generation=1,
        release=RELEASE,
        replica="gpu-01",
        finished=finished,
        checked=finished,
        bad=bad,
    )


def test_what_a_router_counted_without_a_link_counts_in_full_and_is_no_burst_of_the_last_minute() -> None:
    counts = RequestCounts((), {}, started=0.0)
    counts.report("gpu-01", "r1", [counted(0)], now=100.0)
    counts.report("gpu-01", "r1", [counted(1200, bad=600)], now=700.0)  # ten minutes at two a second
    recent = counts.recent(KEY, 1, RELEASE, 700.0)
    assert recent.counts.attempted / recent.seconds == pytest.approx(2.0)
    assert recent.counts.bad / recent.counts.checked == pytest.approx(0.5)
    others = counts.others(("bolt", "production"), ["gpu-01"], 700.0)
    assert others.attempted == recent.counts.attempted
    assert counts.total(KEY, RELEASE).counts.attempted == 1200


def test_a_report_that_is_seconds_late_loses_nothing() -> None:
    counts = RequestCounts((), {}, started=0.0)
    counts.report("gpu-01", "r1", [counted(0)], now=100.0)
    counts.report("gpu-01", "r1", [counted(30)], now=130.0)
    assert counts.recent(KEY, 1, RELEASE, 130.0).counts.attempted == 30


def test_what_a_router_reports_of_a_release_that_was_left_long_ago_is_not_counted_again() -> None:
    counts = RequestCounts((), {}, started=0.0)
    counts.report("gpu-01", "r1", [counted(100)], now=100.0)
    for keep in (1, 2, 3):
        counts.left(KEY, RELEASE, 100.0, keep)
    counts.report("gpu-01", "r1", [counted(100)], now=800.0)
    counts.left(KEY, RELEASE, 100.0, 4)
    counts.report("gpu-01", "r1", [counted(101)], now=801.0)
    assert counts.total(KEY, RELEASE).counts.attempted == 101


def test_what_no_router_reports_any_more_is_forgotten() -> None:
    counts = RequestCounts((), {}, started=0.0)
    counts.report("gpu-01", "r1", [counted(100)], now=100.0)
    counts.report("gpu-01", "r1", [], now=101.0)
    counts.left(KEY, RELEASE, 1.0, 2)
    assert list(counts.counters(KEY)) == []
    assert counts.recent(KEY, 1, RELEASE, 102.0).counts.attempted == 100  # its last minute goes on
    counts.left(KEY, RELEASE, 1.0, 3)
    assert counts.total(KEY, RELEASE).counts.attempted == 100


def test_the_last_minute_of_a_pointer_is_the_sum_over_its_replicas_and_ends() -> None:
    counts = RequestCounts((), {}, started=0.0)
    for node, at in (("gpu-01", 100.0), ("gpu-02", 100.2), ("gpu-03", 130.0)):
        row = counted(10, bad=5).model_copy(update={"replica": node, "ttft_ms": (1, 2)})
        counts.report(node, "r1", [row], now=at)
    recent = counts.recent(KEY, 1, RELEASE, 140.0)
    assert (recent.counts.attempted, recent.counts.bad, recent.ttft[:3]) == (30, 15, [3, 6, 0])
    assert counts.recent(KEY, 1, RELEASE, 170.0).counts.attempted == 10
    assert counts.recent(KEY, 1, RELEASE, 191.0).counts.attempted == 0
    assert counts.recent(KEY, 2, RELEASE, 140.0).counts.attempted == 0


def test_what_others_had_on_a_replica_leaves_the_pointers_own_share_out() -> None:
    counts = RequestCounts((), {}, started=0.0)
    other = counted(7).model_copy(update={"tenant": "bolt"})
    counts.report("gpu-01", "r1", [counted(10, bad=5), other], now=100.0)
    assert counts.others(KEY, ["gpu-01", "gpu-02"], 101.0).attempted == 7
    assert counts.others(KEY, ["gpu-01"], 161.0).attempted == 0


def test_neighbours_are_other_tenants_of_the_last_minute_by_node() -> None:
    counts = RequestCounts((), {}, started=0.0)

    def report(node: str, now: float, **tenants: int) -> None:
        at = [name.split("_") for name in tenants]
        rows = [
            counted(n).model_copy(update={"tenant": tenant, "route": route, "replica": replica.replace("9", ".e9")})
            for (tenant, route, replica), n in zip(at, tenants.values(), strict=True)
        ]
        counts.report(node, "r1", rows, now)

    report("n1", 100.0, acme_a_n1=5, acme_b_n1=6, bolt_a_n1=10, bolt_b_n1=1, bolt_a_n19=3, coil_a_n1=20)
    report("n2", 130.0, bolt_a_n2=7)
    placed = [("n1", "n1"), ("n1", "n1.e9"), ("n2", "n2"), ("n3", "n3")]

    def seen(tenant: str, now: float) -> dict[str, dict[str, int]]:
        by_node = counts.neighbours(tenant, placed, "errors", now)
        return {node: {name: n for name, (_, n) in tenants.items()} for node, tenants in by_node.items()}

    assert seen("acme", 131.0) == {"n1": {"bolt": 14, "coil": 20}, "n2": {"bolt": 7}, "n3": {}}
    assert seen("bolt", 131.0) == {"n1": {"acme": 11, "coil": 20}, "n2": {}, "n3": {}}
    assert seen("acme", 170.0) == {"n1": {}, "n2": {"bolt": 7}, "n3": {}}
    assert counts.others(("acme", "a"), ["n1", "n2"], 170.0).finished == 7


def test_of_many_neighbours_a_bounded_number_is_read_however_many_routes_one_has() -> None:
    counts = RequestCounts((), {}, started=0.0)
    for node in range(MOST_NODES + 2):
        rows = [
            counted(10).model_copy(update={"tenant": tenant, "route": route, "replica": f"n{node}"})
            for tenant, route in (
                *(("wide", f"r{number}") for number in range(3 * MOST_NEIGHBOURS)),
                *((f"t{number}", "production") for number in range(3 * MOST_NEIGHBOURS)),
            )
        ]
        counts.report(f"n{node}", "r1", rows, 100.0)
    by_node = counts.neighbours("acme", ((f"n{node}", f"n{node}") for node in range(MOST_NODES + 2)), "bad", 101.0)
    assert [len(tenants) for tenants in by_node.values()] == [MOST_NEIGHBOURS] * MOST_NODES
    assert by_node["n0"]["wide"] == (0, 10 * MOST_ROUTES)


def test_the_checks_that_bad_answers_failed_are_added_up_over_replicas_and_restarts_of_routers() -> None:
    counts = RequestCounts((), {}, started=0.0)

    def failed(bad: int, boot: str, now: float, replica: str = "gpu-01", **faults: int) -> None:
        row = counted(40, bad=bad).model_copy(update={"faults": faults, "replica": replica})
        counts.report(replica, boot, [row], now=now)

    failed(3, "r1", 100.0, schema=3)
    failed(31, "r1", 101.0, schema=28, empty=3)
    failed(5, "r2", 102.0, empty=5)
    failed(1, "r9", 103.0, "gpu-02", schema=1)

    faults, noticed, *_ = counts.faults(KEY, 1, RELEASE)
    assert list(faults.items()) == [("schema", 29), ("empty", 8)]
    assert noticed == {}
    assert counts.faults(KEY, 2, RELEASE) == ({}, {}, {}, {})


def test_checks_that_make_no_answer_bad_are_added_up_beside_the_others() -> None:
    counts = RequestCounts((), {}, started=0.0)
    for at, n in ((100.0, 3), (101.0, 7)):
        row = counted(40, bad=2).model_copy(update={"faults": {"schema": 2}, "noticed": {"language": n, "canary": 1}})
        counts.report("gpu-01", "r1", [row], now=at)
    assert counts.faults(KEY, 1, RELEASE) == ({"schema": 2}, {"language": 7, "canary": 1}, {}, {})


def test_what_came_of_asking_a_judge_is_added_up_and_is_of_checked_answers_alone() -> None:
    counts = RequestCounts((), {}, started=0.0)
    for at, said in ((100.0, {"passed": 3}), (101.0, {"passed": 5, "failed": 2}), (102.0, {"passed": 39, "shed": 2})):
        counts.report("gpu-01", "r1", [counted(40).model_copy(update={"judged": said})], now=at)
    assert counts.faults(KEY, 1, RELEASE).judged == {"passed": 5, "failed": 2}
    assert "to be judged" in counts.fault("gpu-01")


def test_a_node_that_makes_up_checks_takes_no_more_memory_with_the_hours() -> None:
    counts = RequestCounts((), {}, started=0.0)
    for at in range(10):
        made_up = {f"check-{at}-{n}": 0 for n in range(FAULTS)}
        rows = [
            counted(40).model_copy(update={"faults": made_up, "noticed": made_up, "judged": made_up, "asked": made_up})
        ]
        counts.report("gpu-01", f"r{at}", rows, now=100.0 + at)
    (counter,) = counts.counters(KEY)
    assert [len(sums) for sums in (counter.faults, counter.noticed, counter.judged, counter.asked)] == [FAULTS] * 4


def test_checks_that_do_not_add_up_to_the_bad_answers_hold_the_figures_back() -> None:
    counts = RequestCounts((), {}, started=0.0)
    for bad, faults in ((3, {"schema": 4}), (3, {"schema": 5, "empty": -2})):
        counts.report("gpu-01", "r1", [counted(40, bad=bad).model_copy(update={"faults": faults})], now=100.0)
        assert "do not add up" in counts.fault("gpu-01")
    for more in ("noticed", "asked"):
        counts.report("gpu-01", "r1", [counted(40).model_copy(update={more: {"language": 41}})], now=100.0)
        assert "do not add up" in counts.fault("gpu-01")
        counts.report("gpu-01", "r1", [], now=100.0)
    assert counts.faults(KEY, 1, RELEASE) == ({}, {}, {}, {})


def test_how_soon_a_replica_begins_to_answer_is_of_all_its_pointers_and_of_the_last_minute() -> None:
    counts = RequestCounts((), {}, started=0.0)
    assert counts.first_token_s("gpu-01") is None
    for n, ttft in enumerate(((90,), (90, 0, 0, 0, 10))):
        row = counted(100).model_copy(update={"tenant": f"t{n}", "replica": "gpu-01", "ttft_ms": ttft})
        counts.report("gpu-01", "r1", [row], 100.0 + n)
        assert counts.first_token_s("gpu-01") == (0.005, 0.1)[n]
    counts.report("gpu-01", "r1", [], 200.0)
    assert counts.first_token_s("gpu-01") is None


def test_of_10_000_replicas_that_come_and_go_the_last_minutes_alone_are_kept() -> None:
    counts = RequestCounts((), {}, started=0.0)
    for number in range(10_000):  # one in each second
        row = counted(10).model_copy(update={"replica": f"gpu-01.e{number}", "ttft_ms": (1, 2)})
        counts.report("gpu-01", "r1", [row], now=100.0 + number)
        assert counts.first_token_s(row.replica) is not None
        assert max(len(counts._replicas), len(counts._shares), len(counts._first_tokens)) <= 125
    newest = [f"gpu-01.e{number}" for number in range(9_990, 10_000)]
    assert counts.others(("bolt", "production"), newest, 10_099.0).attempted == 100
