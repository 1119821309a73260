"""A gateway before a node with the real agent, from the address in its configuration to an answer of its engine."""

from __future__ import annotations

from pathlib import Path

from tests.fleets.linked.hub import Deck
from tests.fleets.linked.serving_node import gateway
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import CANARIES, make_adapter, make_base
from tests.integration.agent.node import Node

from loradeck.artifacts import base_manifest
from loradeck.schemas.replica_state import AckLevel

ACME = ("acme", "production")


async def test_a_node_that_names_its_address_is_found_and_its_level_known(deck: Deck, folder: Path) -> None:
    await deck.tenant(canaries=[[dict(turn) for turn in turns] for turns in CANARIES])
    base = folder / "base"
    make_base(base)
    invited = await deck.ok("POST", "join-tokens", {"node": "gpu-01", "hosts": ["127.0.0.1"]})
    node = Node(folder, base, f"https://127.0.0.1:{deck.nodes_port}", invited["token"])
    router = f'listen = "127.0.0.1:{node.port}"\n'
    more = f'tls = true\naddress = "127.0.0.1:{node.port}"\nclient_ca = "s/identity/authority.pem"\n'
    node.config.write_text(node.config.read_text().replace(router, router + more))
    try:
        node.start()
        await until(lambda: "gpu-01" in deck.hub.fleet.nodes, "the agent has joined and linked", 60)
        found = deck.hub.fleet.nodes["gpu-01"]
        assert found.address == f"127.0.0.1:{node.port}"
        await until(lambda: [one.state.value for one in found.replicas] == ["up"], "its engine is up", 60)
        manifest = base_manifest(base, "tiny", "r1")
        await deck.base(manifest)
        adapter = make_adapter(manifest.digest, 1)
        for content in adapter.files.values():
            await deck.blob(content)
        body = adapter.manifest.model_dump(mode="json")
        release = (await deck.ok("POST", f"adapters/acme/{adapter.manifest.name}/versions", body))["release"]
        key = (await deck.ok("POST", "tenants/acme/keys"))["key"]
        assert (await deck.promote(release, timeout=60)).reached == "proven"
        async with gateway(deck, folder) as made:
            await made.knows("gpu-01")
            assert made.gateway is not None
            routes = made.gateway.routes
            await until(lambda: routes.served(ACME).get("gpu-01") in (AckLevel.DEVICE, AckLevel.HOST), "it is near")
            answer = await made.ask(key)
            assert (answer.status, answer.headers["x-loradeck-release"]) == (200, release)
    finally:
        node.close()
