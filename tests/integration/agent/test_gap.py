"""R goes to a release that this node does not hold yet: the gap policy holds until it is loaded, then it flips.

Who answered is decided by the answer's tokens.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_engine import tokens_of
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import Gap, TableEntry

KEYS = (CALLER_HASH,)
PROMPT = "hello"


def under(made: TableEntry, gap: Gap) -> TableEntry:
    return made.model_copy(update={"gap": gap})


async def rolled_back(hub: FakeHub, left: Adapter, to: Adapter, gap: Gap) -> TableEntry:
    """`left` is served and proven; then the hub goes to `to`, whose files it does not give out yet."""
    first = under(entry(left.ref, 1, keys=KEYS), gap)
    await hub.desire(first)
    await hub.ack(first, "proven")
    hub.giving.clear()
    second = under(entry(to.ref, 2, keys=KEYS), gap)
    await hub.desire(second)
    return second


@pytest.mark.parametrize(
    ("gap", "says"),
    [
        (Gap.LEFT, "gap policy left: v2 answers"),
        (Gap.BASE, "gap policy base: the base alone answers"),
        (Gap.REFUSE, "gap policy refuse: nothing answers"),
    ],
)
async def test_the_policy_holds_until_the_prior_is_loaded_and_says_who_answers(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter, base_digest: str, gap: Gap, says: str
) -> None:
    second = await rolled_back(hub, v2, v1, gap)
    waiting = await hub.ack(second, "waiting")
    assert (waiting.code, waiting.detail) == ("not_ready", says)
    for _ in range(5):
        status, tokens, _ = await node.ask(PROMPT)
        match gap:
            case Gap.LEFT:
                assert tokens == v2.tokens(PROMPT)
            case Gap.BASE:
                assert tokens == tokens_of(base_digest, PROMPT, len(tokens))
            case Gap.REFUSE:
                assert (status, tokens) == (503, [])
    hub.giving.set()
    await hub.ack(second, "flipped")
    assert await node.tokens(PROMPT) == v1.tokens(PROMPT)
    await hub.ack(second, "proven")


async def test_where_policy_refuses_no_request_is_answered_by_the_left_release_once_it_was_told(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    """Asked without a pause from before the move until after the flip: v2, then nothing, then v1."""
    told = asyncio.Event()
    asked_before: list[list[int]] = []
    asked_after: list[list[int]] = []

    async def asking() -> None:
        while True:
            answers = asked_after if told.is_set() else asked_before
            answers.append((await node.ask(PROMPT))[1])

    callers = [asyncio.create_task(asking()) for _ in range(3)]
    second = await rolled_back(hub, v2, v1, Gap.REFUSE)
    await hub.ack(second, "waiting")
    told.set()
    await until(lambda: len(asked_after) > 30, "requests in the gap")
    hub.giving.set()
    await hub.ack(second, "flipped")
    await until(lambda: asked_after[-1] == v1.tokens(PROMPT), "the prior answers")
    for task in callers:
        task.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert v2.tokens(PROMPT) in asked_before
    assert v2.tokens(PROMPT) not in asked_after
    assert [] in asked_after


async def test_a_prior_that_cannot_be_loaded_is_failed_with_its_reason_and_with_who_answers(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    (weights,) = (file for file in v1.manifest.files if file.path.endswith(".safetensors"))
    del hub.blobs[weights.sha256]
    second = await rolled_back(hub, v2, v1, Gap.LEFT)
    hub.giving.set()
    failed = await hub.ack(second, "failed")
    assert failed.state is AckState.FAILED
    assert failed.code == "unknown_blob"
    assert failed.detail.startswith("gap policy left: v2 answers; ")
    assert await node.tokens(PROMPT) == v2.tokens(PROMPT)
