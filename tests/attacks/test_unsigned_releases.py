"""Releases without a signature, where a route or a node asks for one: by a promote, and by a pin."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, Deck, data_folder, key, running
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, base_release, entry, make_adapter, make_base
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.artifacts.signing import new_key, sign_weights
from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.table import Pin


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    async with data_folder() as data, running(data) as deck:
        yield deck


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A signer's public key; the private one is beside it."""
    new_key(tmp_path / "k", tmp_path / "k.pub")
    return tmp_path / "k.pub"


@pytest.fixture
def signer(public: Path) -> str:
    return public.read_text()


@dataclass
class Place:
    """A node whose agent the test starts, its hub, and an adapter that nobody has signed."""

    node: Node
    hub: FakeHub
    adapter: Adapter
    base: str


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    base, hub = tmp_path / "base", FakeHub("token-of-gpu-01", "gpu-01")
    digest = make_base(base)
    await hub.start()
    adapter = make_adapter(digest, 1)
    hub.add_release(adapter.release, adapter.manifest, adapter.files)
    async with data_folder() as short:
        node = Node(short, base, hub.url, "token-of-gpu-01")
        yield Place(node, hub, adapter, digest)
        node.close()
    await hub.stop()


async def test_a_base_alone_is_promoted_under_a_signature_and_f_still_goes_to_the_live_releases_base(
    deck: Deck, public: Path, signer: str
) -> None:
    """The attack: on a route with signers a releaser promotes a base that nobody has signed."""
    await deck.tenant()
    await deck.base()
    agent = await LinkedAgent(deck, "n1").join()
    live = await deck.release()
    await deck.promote(live)
    await deck.tenant(signers=[signer])
    alone = deck.hub.catalogue.base_alone_id("acme", BASE.digest)
    request = PromoteRequest(
        release=alone, expected_generation=1, idempotency_key=key(), override=True, reason="please"
    ).model_dump(mode="json")
    path = "tenants/acme/routes/production"
    problem = await deck.refused(409, "unsigned", "POST", f"{path}/promote", request)
    assert problem.fix == "loradeck release sign TENANT RELEASE --key FILE"
    body = sign_weights(BASE, public.with_suffix(""), public).model_dump(mode="json")
    stated = {"kind": "signature", "subject": BASE.digest, "tenant": "acme", "by": "", "body": body}
    fallback = {"expected_generation": 1, "idempotency_key": key()}
    moved = await deck.ok("POST", f"{path}/fallback", fallback)
    assert moved["events"][0]["pointer"]["release"] == alone
    await deck.ok(
        "POST", f"{path}/undo", {"event": moved["events"][0]["id"], "confirmed": True, "idempotency_key": key()}
    )
    await deck.ok("POST", "attestations", stated)
    await deck.promote(alone, wait="committed")
    await agent.leave()


async def test_a_pin_to_a_release_that_no_signer_signed_loads_nothing(place: Place, signer: str) -> None:
    """The attack: on a route with signers, a pin to the router's socket had an unsigned release fetched and served."""
    node, hub, ref = place.node, place.hub, place.adapter.ref
    node.start()
    first = entry(base_release(place.base), 1, keys=(CALLER_HASH,))
    await hub.desire(first.model_copy(update={"signers": (signer,)}))
    await hub.ack(first, "flipped")
    pin = Pin(tenant="acme", route="production", release=ref, over=(1, 1), actor="x", reason="x", at_ms=1)
    await node.router.pin(pin)
    assert node.process is not None
    node.process.send_signal(signal.SIGUSR1)  # look at the pins now, as the command says
    await until(lambda: "unsigned" in node.log.read_text(), "the agent says why it does not load it")
    assert f"load {ref.engine_name}" not in node.engine_calls()
    assert not await node.router_has(ref.id)


async def test_a_node_with_signers_of_its_own_loads_nothing_that_none_of_them_signed(
    place: Place, public: Path
) -> None:
    """The attack: whoever has the hub takes the signers off the route."""
    node, hub, ref = place.node, place.hub, place.adapter.ref
    text = node.config.read_text()
    node.config.write_text(text.replace("[labels]", f'signers = ["{public}"]\n[labels]', 1))
    node.start()
    served = entry(ref, 1, keys=(CALLER_HASH,))
    await hub.desire(served)
    failed = await hub.ack(served, "failed")
    assert failed.code == "unsigned"
    assert f"load {ref.engine_name}" not in node.engine_calls()
