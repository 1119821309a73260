"""A report as messages: none is longer than a hub reads, and together they say all of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from loradeck.rules.serving.link_bounds import MESSAGE_BYTES, has_too_many_rows
from loradeck.schemas.counts import SECONDS_OF_VOTES, Traffic
from loradeck.schemas.link import PINS, STORED_FIRST, STORED_STEP, Report
from loradeck.schemas.telemetry import NvmlState
from loradeck_agent import reports as module
from loradeck_agent.reports import Reports, texts
from loradeck_agent.router.wire import RouterStats

LONG_S = 2_000_000
"""A second of the clock of a host that runs for weeks."""


def row(number: int, seconds: int) -> Traffic:
    return Traffic(
        tenant=f"tenant-{number:04d}",
        route="production",
        generation=300,
        release=f"{number:064x}",
        replica="gpu-01.e0",
        admitted=1_000_000,
        votes=tuple((LONG_S + second, 40, 3, 40, 2) for second in range(seconds)),
        overdue_votes=tuple((LONG_S + second, 40, 3) for second in range(seconds)),
    )


def report(tenants: int, seconds: int) -> Report:
    rows = tuple(row(number, seconds) for number in range(tenants))
    return Report(
        replicas=(), traffic=rows, nvml=NvmlState.OK, rev=1, epoch=1, stored_added=("a" * 64,), stored_gone=("b" * 64,)
    )


@pytest.mark.parametrize(("tenants", "seconds"), [(0, 0), (1_000, 2), (1_000, SECONDS_OF_VOTES)])
def test_no_message_is_longer_than_a_hub_reads_and_together_they_have_every_row(tenants: int, seconds: int) -> None:
    whole = report(tenants, seconds)
    messages = texts(whole)
    assert all(len(text) <= MESSAGE_BYTES for text in messages)
    assert not any(has_too_many_rows(text.encode()) for text in messages)
    read = [Report.model_validate_json(text) for text in messages]
    assert tuple(row for one in read for row in one.traffic) == whole.traffic
    assert [one.more for one in read] == [*[True] * (len(read) - 1), False]
    assert [one.stored_added for one in read] == [*[()] * (len(read) - 1), ("a" * 64,)]
    assert [one.stored_gone for one in read] == [*[()] * (len(read) - 1), ("b" * 64,)]
    assert (len(messages) > 1) is (len(whole.model_dump_json()) > MESSAGE_BYTES)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Reports:
    """The reports of a node without engines and jobs. Its folder is `node.store`."""

    async def nothing() -> None:
        pass

    monkeypatch.setattr(module, "training_versions", dict)
    made = Reports.__new__(Reports)
    made.boot, made.lives, made.bases = "b", (), {}
    made.config = cast(Any, SimpleNamespace(node="n1", labels={}, job_bases=(), slurm=None, memory_gb=None))
    made.config.jobs, made.config.router = SimpleNamespace(user=None, at_once=1), SimpleNamespace(address=None)  # type: ignore[misc]
    durable = {"epoch": 0, "rev": 0, "hash": "0" * 64, "witness": None}
    made.sync = cast(Any, SimpleNamespace(read_file=nothing, durable=SimpleNamespace(**durable), features=(), boot="r"))
    made.table = cast(Any, SimpleNamespace(pins={}))
    made.cosigner = cast(Any, SimpleNamespace(newest=lambda: None))
    made.jobs = cast(Any, SimpleNamespace(reporting=tuple, scheduled=tuple, room=SimpleNamespace(report=lambda: None)))
    made.store = cast(Any, SimpleNamespace(stored=frozenset()))
    made.folder = cast(Any, SimpleNamespace(merged_here=frozenset))
    seen = SimpleNamespace(gpus=(), host=None, nvml=NvmlState.NO_GPU)
    made.telemetry = cast(Any, SimpleNamespace(snapshot=lambda: seen))
    made._stored_sent = made._stored_known = frozenset()
    made._backend_sent = None
    return made


def digests(n: int, first: int = 0) -> frozenset[str]:
    return frozenset(f"{number:064x}" for number in range(first, first + n))


def heard(node: Reports, stored: frozenset[str], seconds: int) -> frozenset[str]:
    """What a hub believes to lie on the node after some seconds."""
    for _ in range(seconds):
        made = node._report(RouterStats(), 0)
        stored = stored.union(made.stored_added).difference(made.stored_gone)
    return stored


async def test_a_hub_hears_of_all_that_a_node_has_in_its_folder_and_of_what_comes_and_goes(node: Reports) -> None:
    cast(Any, node.store).stored = digests(STORED_FIRST + 2 * STORED_STEP)
    hello = await node.hello()
    assert len(hello.stored) == STORED_FIRST
    believed = heard(node, frozenset(hello.stored), 2)
    assert believed == node.store.stored
    cast(Any, node.store).stored = digests(STORED_FIRST, first=STORED_STEP)
    assert heard(node, believed, 2) == node.store.stored
    quiet = node._report(RouterStats(), 0)
    assert (quiet.stored_added, quiet.stored_gone, quiet.stored) == ((), (), None)


async def test_a_hello_to_a_hub_that_stands_by_keeps_nothing_that_went_from_the_other(node: Reports) -> None:
    cast(Any, node.store).stored = digests(10)
    believed = frozenset((await node.hello()).stored)
    cast(Any, node.store).stored = digests(4)
    await node.hello()
    assert heard(node, believed, 1) == node.store.stored


async def test_more_pins_than_a_report_has_room_for_are_no_reason_to_lose_the_link(node: Reports) -> None:
    pins = {("acme", f"r{number}"): number for number in range(PINS + 50)}
    node.table = cast(Any, SimpleNamespace(pins=pins))
    assert node._pins() == tuple(range(PINS))
