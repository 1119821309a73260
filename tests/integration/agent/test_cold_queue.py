"""More on-demand routes than slots: every request is answered by its own release, which is loaded for it."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter

import aiohttp
import httpx
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, CALLER_KEY, Node

from loradeck.schemas.replica_state import AckLevel
from loradeck.schemas.table import Gap, RouteResidency, TableEntry


def on_demand(adapter: Adapter, route: str, generation: int = 1) -> TableEntry:
    made = entry(adapter.ref, generation, route=route, keys=(CALLER_HASH,))
    how = {"residency": RouteResidency.ON_DEMAND, "needs": ("on_demand",), "gap": Gap.REFUSE}
    return made.model_copy(update=how)


async def test_three_routes_share_one_slot_and_each_release_answers_its_canaries_once(
    stopped: Node, hub: FakeHub, v1: Adapter, v2: Adapter, v3: Adapter
) -> None:
    stopped.config.write_text(stopped.config.read_text().replace("slots = 4", "slots = 1"))
    stopped.start()
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))
    routes = {"one": v1, "two": v2, "three": v3}
    entries = [on_demand(adapter, route) for route, adapter in routes.items()]
    await hub.desire(*entries)
    for made in entries:
        await hub.ack(made, "flipped")
    for _ in range(2):
        answers = await asyncio.gather(*(stopped.ask("hello", f"acme/{route}") for route in routes))
        assert [(status, tokens) for status, tokens, _ in answers] == [
            (200, adapter.tokens("hello")) for adapter in routes.values()
        ]
    calls = Counter(call for call in stopped.engine_calls() if not call.endswith("hello"))
    for name in (adapter.ref.engine_name for adapter in routes.values()):
        asked = {call: n for call, n in calls.items() if call.startswith(f"chat {name} ")}
        assert max(asked.values()) <= calls[f"load {name}"] + 1, "at its first load, and for each proof of a move"
    report = await hub.report(lambda report: report.cold is not None and report.cold.cold >= 5)
    assert (report.cold.waiting, report.cold.refused) == (0, 0)


async def test_a_slot_whose_release_answers_without_a_pause_is_given_to_a_request_that_waits(
    stopped: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    stopped.config.write_text(stopped.config.read_text().replace("slots = 4", "slots = 1"))
    stopped.start()
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))
    await hub.desire(on_demand(v1, "one"), on_demand(v2, "two"))
    await hub.ack(on_demand(v1, "one"), "flipped")
    await hub.ack(on_demand(v2, "two"), "flipped")
    stop, counts = asyncio.Event(), Counter[int]()

    async def flood() -> None:
        while not stop.is_set():
            counts[(await stopped.ask("slow 0.2", "acme/one"))[0]] += 1

    floods = [asyncio.create_task(flood()) for _ in range(4)]
    await until(lambda: counts[200] >= 2, "the flood is answered")
    status, tokens, _ = await stopped.ask("hello", "acme/two")
    stop.set()
    await asyncio.gather(*floods)
    assert (status, tokens) == (200, v2.tokens("hello"))
    assert set(counts) == {200}, "and nobody of the flood failed for it"


async def test_what_does_not_fit_the_queue_is_refused_as_openai_says_it_with_a_time_to_come_back(
    stopped: Node, hub: FakeHub, v1: Adapter
) -> None:
    queue = "[router.queue]\nwaiting = 0\n[[engine]]"
    stopped.config.write_text(stopped.config.read_text().replace("[[engine]]", queue))
    stopped.start()
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))
    hub.giving.clear()
    await hub.desire(on_demand(v1, "one"))
    await hub.ack(on_demand(v1, "one"), "flipped")
    body = {"model": "acme/one", "messages": [{"role": "user", "content": "hello"}]}
    url = f"http://127.0.0.1:{stopped.port}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {CALLER_KEY}"}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as reply:
        error = json.loads(await reply.read())["error"]
        assert (reply.status, error["code"], error["type"]) == (503, "cold_queue_full", "cold_queue_full")
        assert 1 <= int(reply.headers["Retry-After"]) <= 60
    hub.giving.set()


async def test_a_request_that_no_slot_can_come_free_for_is_refused_at_once_and_told_why(
    stopped: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    written = stopped.config.read_text().replace("slots = 4", "slots = 1")
    stopped.config.write_text(written.replace("[[engine]]", "[router.queue]\nseconds = 600\n[[engine]]"))
    stopped.start()
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))
    held = entry(v1.ref, 1, route="one", keys=(CALLER_HASH,))
    await hub.desire(held, on_demand(v2, "two"))
    await hub.ack(held, "proven")
    body = {"model": "acme/two", "messages": [{"role": "user", "content": "hello"}]}
    url = f"http://127.0.0.1:{stopped.port}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {CALLER_KEY}"}
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with asyncio.timeout(120), session.post(url, json=body, headers=headers) as reply:
                error = json.loads(await reply.read())["error"]
                assert (reply.status, error["code"], error["type"]) == (503, "no_slot", "no_slot")
                assert "acme/two" in error["message"]
                assert 1 <= int(reply.headers["Retry-After"]) <= 60
    report = await hub.report(lambda report: report.cold is not None and report.cold.refused >= 2)
    assert (report.cold.waiting, report.cold.refused) == (0, 2)


async def test_r_to_a_release_that_was_turned_out_is_flipped_before_anything_is_loaded(
    stopped: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    stopped.config.write_text(stopped.config.read_text().replace("slots = 4", "slots = 1"))
    stopped.start()
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))
    first = on_demand(v1, "one")
    second = on_demand(v2, "one", 2).model_copy(update={"beneath": (v1.ref,)})
    for made in (first, second):
        await hub.desire(made)
        await hub.ack(made, "proven")
    held = stopped.state.engine("e0") / "held_models"
    os.mkfifo(held)  # the engine says to nobody what it holds, and nothing is loaded before it does
    loads = [call for call in stopped.engine_calls() if call.startswith("load ")]
    back = on_demand(v1, "one", 3)
    await hub.desire(back)
    flipped = await hub.ack(back, "flipped")
    assert (flipped.code, flipped.level) == ("not_ready", AckLevel.DISK)
    assert [call for call in stopped.engine_calls() if call.startswith("load ")] == loads
    waits = asyncio.create_task(stopped.ask("hello", "acme/one"))
    await until(lambda: "models held" in stopped.engine_calls(), "the engine is asked")
    release = await asyncio.to_thread(held.open, "wb")
    held.unlink()
    release.close()
    assert (await waits)[:2] == (200, v1.tokens("hello")), "the first answer after R is by its target"
    await hub.ack(back, "proven")


async def test_a_request_for_a_release_that_the_engine_has_lost_waits_until_it_is_loaded_again(
    stopped: Node, hub: FakeHub, v1: Adapter
) -> None:
    stopped.start()
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))
    made = on_demand(v1, "one")
    await hub.desire(made)
    await hub.ack(made, "proven")
    transport = httpx.AsyncHTTPTransport(uds=str(stopped.state.engine_socket("e0")))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as engine:
        gone = await engine.post("/v1/unload_lora_adapter", json={"lora_name": v1.ref.engine_name})
        assert gone.status_code == 200
        answers = await asyncio.gather(*(stopped.ask("hello", "acme/one") for _ in range(4)))
    assert [answer[:2] for answer in answers] == [(200, v1.tokens("hello"))] * 4
    report = await hub.report(lambda report: any(row.release == v1.ref.id for row in report.traffic))
    assert [(row.errors, row.finished) for row in report.traffic if row.route == "one"] == [(0, 4)]
