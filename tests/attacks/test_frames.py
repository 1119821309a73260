"""One node's messages that are long, or full of nothing: its link ends, and everybody else goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, data_folder, running
from tests.fleets.waiting import until
from websockets.exceptions import InvalidStatus

from loradeck.hub.fleet.link_socket import LinkSocket
from loradeck.rules.serving.link_bounds import MESSAGE_BYTES
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.link import JobEvent

Join = Callable[..., Awaitable[LinkedAgent]]

REPORT = '{"type":"report","rev":0,"epoch":0,"nvml":"ok","replicas":[],"%s":%s}'
WHOLE = MESSAGE_BYTES - 200


def members(member: str) -> str:
    return f"[{','.join([member] * (WHOLE // (len(member) + 1)))}]"


FULL = {
    "empty rows": REPORT % ("traffic", members("{}")),
    "empty lists": REPORT % ("traffic", members("[]")),
    "numbers": REPORT % ("traffic", members("1")),
    "rows of one key": REPORT % ("traffic", members('{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":1}')),
    "keys": REPORT % ("traffic", json.dumps([{f"{n:06x}": 1 for n in range(WHOLE // 14)}])),
    "labels": json.dumps({"type": "hello", "labels": {f"{n:06x}": {} for n in range(WHOLE // 16)}}),
    "a nest": REPORT % ("traffic", "[" * 5_000 + "]" * 5_000),
    "a number": REPORT % ("traffic", "9" * WHOLE),
    "pins": REPORT % ("pins", members('{"tenant":"acme","route":"production","release":{}}')),
}

CHILD = """
import sys
from loradeck.hub.links.node_link import _parsed
from loradeck.rules.errors import Refused
def most_mb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
_parsed(b'{"type":"heartbeat"}', frozenset())
data, before = sys.stdin.buffer.read(), most_mb()
try:
    _parsed(data, frozenset())
except Refused as refused:
    print(refused.code, most_mb() - before)
"""


@pytest.mark.parametrize("name", FULL)
def test_a_message_that_is_refused_takes_no_more_than_some_times_its_bytes(name: str) -> None:
    child = subprocess.run([sys.executable, "-c", CHILD], input=FULL[name].encode(), capture_output=True, check=True)
    code, grown_mb = child.stdout.split()
    assert code == b"invalid_request"
    assert float(grown_mb) < 64


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    """A running hub with one tenant, which moves in these tests."""
    async with data_folder() as data, running(data) as deck:
        await deck.tenant("acme", placement={"site": "eu"})
        yield deck


@pytest.fixture
async def join(deck: Deck) -> AsyncIterator[Join]:
    """`await join("n1")`: a node that links."""
    agents: list[LinkedAgent] = []

    async def joined(node: str, **labels: str) -> LinkedAgent:
        agents.append(LinkedAgent(deck, node, **labels))
        return await agents[-1].join()

    yield joined
    for agent in agents:
        await agent.leave()


async def beside(deck: Deck, join: Join) -> tuple[LinkedAgent, str]:
    """Acme on an honest node, and a release to go back to."""
    honest = await join("n1", site="eu")
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    for release in (one, two):
        await deck.promote(release)
    return honest, one


@pytest.mark.parametrize("name", FULL)
async def test_it_ends_the_link_of_its_node_and_r_works(deck: Deck, join: Join, name: str) -> None:
    honest, one = await beside(deck, join)
    hostile = await join("n2")
    await hostile.send(FULL[name])
    assert (await deck.rollback()).events[0].to_release == one
    await until(lambda: hostile.closed, "its link has ended")
    assert hostile.closed == (4400, "invalid_request")
    assert honest.closed is None


LONG = {
    "a report": REPORT % ("x", json.dumps("y" * 2 * MESSAGE_BYTES)),
    "a table that nobody asked for": json.dumps({"type": "table_state", "x": "y" * 2 * MESSAGE_BYTES}),
    "an event of no job": json.dumps({"type": "job_event", "x": "y" * 2 * MESSAGE_BYTES}),
}


@pytest.mark.parametrize("name", LONG)
async def test_a_long_message_that_nobody_asked_for_ends_its_link_unread(deck: Deck, join: Join, name: str) -> None:
    honest, one = await beside(deck, join)
    hostile = await join("n2")
    await hostile.send(LONG[name])
    await until(lambda: hostile.closed, "its link has ended")
    assert hostile.closed is not None
    assert hostile.closed[0] in (1009, 4400)
    assert (await deck.rollback()).events[0].to_release == one
    assert honest.closed is None


async def test_a_node_whose_messages_are_refused_again_and_again_gets_no_link_for_a_while_and_is_counted(
    deck: Deck, join: Join
) -> None:
    honest, one = await beside(deck, join)
    hostile = LinkedAgent(deck, "n2")
    token = await deck.token("agent", "n2")
    for _ in range(3):
        await hostile.join(token)
        await hostile.send(FULL["empty rows"])
        await until(lambda: hostile.closed, "its link has ended")
    with pytest.raises(InvalidStatus) as barred:
        await hostile.join(token)
    assert barred.value.response.status_code == 429
    assert b"refused_messages" in (barred.value.response.body or b"")
    scraped: httpx.Response = await deck.local.get("http://hub/metrics")
    assert 'loradeck_node_messages_refused{node="n2"} 3.0' in scraped.text
    assert honest.closed is None
    assert (await deck.rollback()).events[0].to_release == one


async def test_a_node_that_sends_without_end_waits_and_nobody_else(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, one = await beside(deck, join)
    hostile = await join("n2")
    waits: list[float] = []
    pause = LinkSocket.pause_reading_for

    def waited(wire: LinkSocket, seconds: float) -> None:
        waits.append(seconds)
        pause(wire, seconds)

    monkeypatch.setattr(LinkSocket, "pause_reading_for", waited)
    report = REPORT % ("x", json.dumps("y" * (MESSAGE_BYTES // 2)))
    (link,) = [link for link in deck.hub.links if link.caller.node == "n2"]
    link._allowance.left = 0.0
    for _ in range(4):
        await hostile.send(report)
    await until(lambda: waits, "it is read no further")
    assert (await deck.rollback()).events[0].to_release == one
    assert (honest.closed, hostile.closed) == (None, None)


async def test_an_event_of_a_job_that_a_node_says_it_runs_may_be_long(deck: Deck) -> None:
    node = LinkedAgent(deck, "n2")
    hello = node.hello().model_copy(update={"jobs": (("j1", 1),)})
    node.hello = lambda: hello  # type: ignore[method-assign]
    await node.join()
    event = ExecutorEvent(run="j1", attempt=1, seq=1, ts=1.0, type=ExecutorEventType.FINISHED)
    report = {"items": "y" * 2 * MESSAGE_BYTES}
    await node.send(JobEvent(job="j1", lease=1, attempt=1, event=event, result=report))
    await node.report()
    await until(lambda: deck.hub.fleet.nodes["n2"].nvml is not None, "the report after it is read")
    assert node.closed is None
    await node.leave()
