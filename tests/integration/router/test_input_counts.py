"""What is asked, counted on the node: no text of it is written, and the agent gives the counts to the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fleets.waiting import until
from tests.integration.router.running import Running, entry, release
from tests.integration.router.upstream import Upstream

from loradeck.schemas.counts import CLASSES, LENGTHS, WORDS, InputCounts
from loradeck_agent.host.errors import AgentError
from loradeck_agent.router import feedback
from loradeck_agent.router.feedback import DayCounts, InputCounter
from loradeck_agent.router.response_checks import Checks
from loradeck_agent.router.trace import Row
from loradeck_agent.uplink.router_files import FeedbackSender

V1, THEIRS = release("v1"), release("v1", tenant="bolt.eu")


class Hub:
    """A hub's call, and what it was given."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, InputCounts]] = []
        self.refuses: AgentError | None = None
        self.refused = ("acme", "bolt.eu")

    async def give_inputs(self, tenant: str, counts: bytes) -> None:
        if self.refuses is not None and tenant in self.refused:
            raise self.refuses
        self.taken.append((tenant, InputCounts.model_validate_json(counts)))


def files(router: Running) -> list[Path]:
    return inside(router.state / "input-counts")


def inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def test_answered_requests_of_tenants_that_agreed_are_counted_and_sent(
    router: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "EVERY_S", 0.0)
    monkeypatch.setattr(feedback, "NODE_EVERY_S", 0.0)
    await router.engines(("e0", engine.socket, [V1, THEIRS]))
    await router.table(entry(V1), entry(THEIRS, tenant="bolt.eu", count_inputs=True))
    assert router.here is not None
    counter = router.here._inputs
    for answer in ("yes", "Yes", "no\nand more"):
        await router.ask("bolt.eu", answer=answer, key="bolt.eu-key")
        await router.ask(answer=answer)
    await until(lambda: sum(of.requests for of in counter._counts.values()) == 3)
    await counter.write()

    (path,) = files(router)
    assert path.stat().st_mode & 0o777 == 0o600
    hub, sender_folder = Hub(), router.state / "input-counts"
    sender = FeedbackSender(router.state / "feedback", hub, sender_folder)  # type: ignore[arg-type]
    hub.refuses = AgentError("unreachable", "the hub is away")
    with pytest.raises(AgentError):
        await sender.send_counts()
    hub.refuses = None
    await sender.send_counts()
    ((tenant, counts),) = hub.taken
    assert (tenant, counts.route, counts.requests) == ("bolt.eu", "production", 3)
    assert (sorted(counts.classes)[-2:], sum(counts.lengths)) == ([0, 2], 3)  # the third has two lines
    assert max(counts.words) == 3
    assert files(router) == []


async def test_all_routes_of_a_node_share_what_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "NODE_EVERY_S", 1000.0)
    checks = Checks()  # its child is not started, so nothing leaves the queue
    counter = InputCounter(tmp_path, checks, "b1")
    for number in range(3):
        row = Row("r", "acme", f"route-{number}", "acme/v1", 1, "e0", streamed=False, admitted_ns=0, admitted_ms=0)
        counter.offer(row, b"{}", b"")
    assert len(checks._pending) == 1
    await checks.close()


async def test_what_a_hub_will_never_take_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "b1-0.acme.inputs").write_bytes(b"{}")
    hub = Hub()
    hub.refuses = AgentError("inputs_off", "acme has nothing counted")
    await FeedbackSender(tmp_path / "none", hub, tmp_path).send_counts()  # type: ignore[arg-type]
    assert inside(tmp_path) == []


async def test_counts_that_the_hub_cannot_take_hold_up_no_others(tmp_path: Path) -> None:
    none = InputCounts(
        route="production", day=1, requests=0, words=(0,) * WORDS, lengths=(0,) * LENGTHS, classes=(0,) * CLASSES
    )
    for name in ("b1-0.acme.inputs", "b1-1.bolt.eu.inputs"):
        (tmp_path / name).write_text(none.model_dump_json())
    hub = Hub()
    hub.refuses, hub.refused = AgentError("internal", "the hub failed"), ("acme",)
    with pytest.raises(AgentError, match="the hub failed"):
        await FeedbackSender(tmp_path / "none", hub, tmp_path).send_counts()  # type: ignore[arg-type]
    assert hub.taken == [("bolt.eu", none)]
    assert [path.name for path in inside(tmp_path)] == ["b1-0.acme.inputs"]


def test_a_word_counts_once_in_a_request_and_case_does_not_matter() -> None:
    counts = DayCounts()
    counts.add("Refund refund REFUND", "", 20)
    counts.add("refund", "x" * 41, 6)
    assert sorted(counts.words)[-2:] == [0, 2]
    assert counts.requests == 2
    assert sum(counts.classes) == 0
