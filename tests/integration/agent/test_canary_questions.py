"""The hub's questions about canaries are answered by the engine that serves, embedded or a vLLM of somebody else's."""

from __future__ import annotations

from typing import Any

from tests.integration.agent.artifacts import Adapter, base_release, entry
from tests.integration.agent.fake_engine import tokens_of
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node
from tests.integration.agent.test_vllm_attach import Vllm, nodes, up, vllm  # noqa: F401 - fixtures

from loradeck.rules.serving.canaries import margins, smallest
from loradeck.schemas.link import CanaryAnswers, CanaryAsk
from loradeck.schemas.table import ReleaseRef

MESSAGES = ({"role": "user", "content": "one of the rows"},)


async def answers(hub: FakeHub, *releases: ReleaseRef, replica: str = "gpu-01") -> CanaryAnswers:
    await hub.send(CanaryAsk(ask="q1", replica=replica, releases=releases, messages=MESSAGES))
    return await hub.wait(CanaryAnswers, after=len(hub.heard))


async def test_a_release_its_base_and_its_prior_answer_one_prompt(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter, base_digest: str
) -> None:
    first = entry(v1.ref, 1, keys=(CALLER_HASH,))
    await hub.desire(first)
    await hub.ack(first, "proven")
    base = base_release(base_digest)
    found = await answers(hub, v2.ref, base, v1.ref)
    assert found.trouble == {}
    assert list(found.items[v2.ref.id].tokens) == v2.tokens("one of the rows"), "loaded for it, and served to nobody"
    assert list(found.items[v1.ref.id].tokens) == v1.tokens("one of the rows")
    own = margins(found.items[v2.ref.id], {one.id: found.items[one.id] for one in (base, v1.ref)})
    assert smallest(own) is not None
    assert await node.tokens("hello") == v1.tokens("hello")
    assert v2.ref.id not in {attestation.subject for attestation in hub.attestations}, "nothing is recorded"


async def test_what_cannot_be_asked_for_is_named_with_the_reason(node: Node, hub: FakeHub, v1: Adapter) -> None:
    blobs, hub.blobs = hub.blobs, {}
    found = await answers(hub, v1.ref)
    assert found.items == {}
    assert found.trouble[v1.ref.id]
    hub.blobs = blobs
    assert "e9 is not up here" in (await answers(hub, v1.ref, replica="e9")).trouble[v1.ref.id]


async def test_an_attached_vllm_answers_them_as_well(
    vllm: Vllm,  # noqa: F811
    nodes: Any,  # noqa: F811
    hub: FakeHub,
    v1: Adapter,
    base_digest: str,
) -> None:
    vllm.start()
    nodes(f'socket = "{vllm.socket}"')
    await up(hub)
    base = base_release(base_digest)
    found = await answers(hub, v1.ref, base)
    assert found.trouble == {}
    assert list(found.items[v1.ref.id].tokens) == v1.tokens("one of the rows")
    assert list(found.items[base.id].tokens) != v1.tokens("one of the rows")
    assert all(margin > 0.5 for item in found.items.values() for margin in item.margins)
    assert len(found.items[base.id].tokens) == len(tokens_of("w", "p", 8))
