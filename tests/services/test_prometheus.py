"""The alerts of docs/alerts.yml in Debian's Prometheus and Alertmanager, and the hub's own notices beside them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from tests.fakes.prometheus_servers import watching
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, data_folder, key, running
from tests.fleets.waiting import until

SECRET = "whsec_" + "A" * 43 + "="


@dataclass
class Receiver:
    """Somebody who is told by both."""

    port: int = 0
    alerts: list[dict[str, Any]] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)

    async def alerted(self, request: web.Request) -> web.Response:
        self.alerts += (await request.json())["alerts"]
        return web.Response()

    async def told(self, request: web.Request) -> web.Response:
        self.notices.append(json.loads(await request.read())["data"])
        return web.Response()

    def states(self, name: str) -> list[str]:
        return [alert["status"] for alert in self.alerts if alert["labels"]["alertname"] == name]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/alerts", found.alerted)
    app.router.add_post("/notices", found.told)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    yield found
    await runner.cleanup()


async def failed_promote(deck: Deck, agent: LinkedAgent, release: str) -> None:
    agent.prepares = "fail"
    body = {"release": release, "expected_generation": 0, "idempotency_key": key()}
    answer = await deck.local.post("tenants/acme/routes/production/promote", json=body)
    assert answer.json()["code"] == "prepare_failed"
    agent.prepares = "finish"


async def test_what_prometheus_alerts_on_the_hub_tells_and_both_say_when_it_is_over(
    tmp_path: Path, receiver: Receiver
) -> None:
    channels = tmp_path / "channels.toml"
    channels.touch(0o600)
    at = f"http://127.0.0.1:{receiver.port}"
    channels.write_text(f'[[channel]]\nname = "us"\nkind = "webhook"\nurl = "{at}/notices"\nsecret = "{SECRET}"\n')
    async with data_folder() as data, running(data, notices=channels) as deck:
        token = await deck.token("viewer")
        with watching(deck.port, token, f"{at}/alerts") as prometheus:
            await deck.tenant()
            agent = await LinkedAgent(deck, "n1").join()
            release = await deck.release(seed=1)
            await failed_promote(deck, agent, release)
            await until(lambda: receiver.notices, "the hub tells")
            await until(lambda: receiver.states("LoradeckPromoteFailed"), "Prometheus alerts", 15)
            (notice,), (alert, *_) = receiver.notices, receiver.alerts
            assert (notice["kind"], notice["tenant"], notice["route"]) == ("promote_failed", "acme", "production")
            assert (alert["labels"]["tenant"], alert["labels"]["severity"]) == ("acme", notice["severity"])
            assert alert["annotations"]["command"].startswith(notice["command"])
            await deck.promote(release)
            await until(lambda: len(receiver.notices) == 2, "the hub tells that it is over")
            assert receiver.notices[1]["over"]
            await until(lambda: "resolved" in receiver.states("LoradeckPromoteFailed"), "and so does Prometheus", 60)
            async with httpx.AsyncClient() as http:
                rules = (await http.get(f"http://127.0.0.1:{prometheus}/api/v1/rules")).json()["data"]["groups"][0]
            assert {rule["health"] for rule in rules["rules"]} == {"ok"}
            await agent.leave()
