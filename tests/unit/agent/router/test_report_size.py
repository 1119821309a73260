"""How long a report of a router is."""

from __future__ import annotations

import zlib

import pytest

from loradeck.schemas.counts import BINS, CALLERS_OF_STEP, STEP_S
from loradeck.schemas.link import Report
from loradeck.schemas.telemetry import NvmlState
from loradeck_agent.router.counters import Counter, Stats
from loradeck_agent.router.trace import Row
from loradeck_agent.router.votes import REPORTED_S

TENANTS = 1_000
BYTES = 1_000
"""Most bytes of a tenant's row, so that a thousand of them are less than a MiB."""

S = 10**9


def test_a_report_has_at_most_1000_bytes_for_each_of_1000_tenants_whose_64_callers_all_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each row has the six seconds and two steps of late, with eight bins of callers each, and what is overdue.

    It is the second after a step has begun, in which most is reported. What every row has is among it: the counts, and
    the times to the first token.
    """
    now_ns = 2_000_004 * S  # a node that runs for weeks
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns)
    callers = list({zlib.crc32(name.encode()) % BINS: name for name in map(str, range(2000))}.values())
    stats = Stats()

    def admit(counter: Counter, caller: str) -> Row:
        place = (counter.tenant, counter.route, counter.release, counter.generation, counter.replica)
        row = Row("r", *place, True, now_ns, 1_767_225_600_000, sampled=True, voter=True)
        counter.admit(row, caller)
        return row

    counters = [stats.counter(f"tenant-{n:04d}", "production", 300, f"{n:064x}", "gpu-01.e0") for n in range(TENANTS)]
    for counter in counters:
        counter.durations.streamed.overdue_after_ns = S
    for number in range(REPORTED_S + 2):
        now_ns += S
        for counter in counters:
            for caller in callers[number % 2 :: 2]:
                row = admit(counter, caller)
                row.finished_ns = now_ns
                counter.leave(row, "failed")
    assert now_ns // S % STEP_S == 1
    rows = tuple(stats.traffic())
    assert {len(row.votes) for row in rows} == {REPORTED_S + 1}
    assert {len(row.caller_votes) for row in rows} == {2 * CALLERS_OF_STEP}
    assert {len(row.overdue_votes) for row in rows} == {REPORTED_S + 1}
    report = Report(replicas=(), router_boot="r00t", traffic=rows, nvml=NvmlState.OK, rev=1, epoch=1)
    assert len(report.model_dump_json()) <= BYTES * TENANTS < 2**20
