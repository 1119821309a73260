"""The callers' API: who may ask, for what, and what comes back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Answer, Running, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.schemas.table import BODY_CAP, RouteResidency, Streams
from loradeck_agent.router import proxy

V1, V2 = release("v1"), release("v2")
GLOBEX = release("v1", tenant="globex")


@pytest.fixture
async def served(router: Running, engine: Upstream) -> Running:
    """acme at v1 with v2 ready, and a second tenant."""
    await router.post("/control/hub", {"connected": True})
    await router.engines(("e0", engine.socket, [V1, V2, GLOBEX]))
    await router.table(entry(V1), entry(V1, route="staging"), entry(GLOBEX, tenant="globex"))
    return router


@pytest.mark.parametrize("key", [None, "wrong", ""])
async def test_without_a_tenants_key_the_answer_is_401_and_no_engine_is_asked(
    served: Running, engine: Upstream, key: str | None
) -> None:
    answer = await served.ask(key=key)
    assert (answer.status, answer.code, engine.seen) == (401, "bad_key", [])


@pytest.mark.parametrize("route", ["", "/production", "/staging", "/nowhere"])
async def test_another_tenants_model_is_answered_as_one_that_does_not_exist(
    served: Running, engine: Upstream, route: str
) -> None:
    """Otherwise one tenant's key tells which other tenants there are."""
    others, nobodys = await served.ask(f"acme{route}", key="globex-key"), await served.ask(f"nobody{route}")
    assert (others.status, others.code, engine.seen) == (404, "unknown_route", [])
    assert _without_id(others, "acme") == _without_id(nobodys, "nobody")


def _without_id(answer: Answer, tenant: str) -> tuple[set[str], bytes]:
    """An answer's header names and its body, with the tenant's name taken out."""
    return set(answer.headers), answer.raw.replace(tenant.encode(), b"TENANT")


@pytest.mark.parametrize("model", ["nobody", "acme/other", "acme/production/x", "", "/", V1.engine_name, "base"])
async def test_an_unknown_model_is_answered_404(served: Running, engine: Upstream, model: str) -> None:
    answer = await served.ask(model)
    assert (answer.status, answer.code, engine.seen) == (404, "unknown_route", [])


async def test_models_lists_the_routes_of_the_keys_tenant_alone(served: Running) -> None:
    async with served.callers.get(served.url + "/v1/models", headers={"Authorization": f"Bearer {KEY}"}) as answer:
        assert [model["id"] for model in (await answer.json())["data"]] == ["acme", "acme/production", "acme/staging"]
    async with served.callers.get(served.url + "/v1/models") as answer:
        assert answer.status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/v1//chat/completions"),
        ("POST", "/v1/chat/completions/../../load_lora_adapter"),
        ("POST", "/v1/chat/completions/%2e%2e/x"),
        ("POST", "/invocations"),
        ("POST", "/adapters"),
        ("DELETE", "/adapters/x"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/metrics"),
        ("GET", "/version"),
        ("GET", "/health"),
        ("GET", "/docs"),
        ("GET", "/control/state"),
        ("POST", "/control/table"),
        ("PUT", "/v1/models"),
    ],
)
async def test_only_the_named_paths_are_reachable(served: Running, engine: Upstream, method: str, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    body = json.dumps({"model": "acme"}).encode()
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
    writer.close()
    assert engine.seen == []


async def test_healthz_is_open_and_says_nothing_else(served: Running) -> None:
    async with served.callers.get(served.url + "/healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(("path"), ["/v1/chat/completions", "/v1/completions"])
async def test_the_engine_gets_the_releases_name_and_never_the_callers_key(
    served: Running, engine: Upstream, path: str
) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "x-request-id": "case-7", "Cookie": "a=b"}
    body = {"model": "acme/staging", "temperature": 0.25, "prompt": "ünïcode ☃", "user": "u"}
    async with served.callers.post(served.url + path, json=body, headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["x-request-id"] == "case-7"
    assert engine.seen == [{**body, "model": V1.engine_name}]
    sent = {name.lower(): value for name, value in engine.headers[0].items()}
    assert sent["x-request-id"] == "case-7"
    assert not {"authorization", "cookie"} & sent.keys()


async def test_a_request_id_that_is_none_is_replaced(served: Running) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "x-request-id": "a b" * 100}
    body = {"model": "acme"}
    async with served.callers.post(served.url + "/v1/completions", json=body, headers=headers) as answer:
        assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "bad_json"),
        (b"[]", "no_model"),
        (b"{}", "no_model"),
        (b'{"model": 3}', "no_model"),
        (b"", "bad_json"),
        (b"\xff", "bad_json"),
        (b"[" * 200_000, "bad_json"),
        (b'{"model": "acme", "n": ' + b"9" * 5000 + b"}", "bad_json"),
        (b'{"model": "acme", "seed": 1180591620717411303424}', "bad_number"),
        (b'{"model": "acme", "max_tokens": -1180591620717411303424}', "bad_number"),
        (b'{"model": "acme", "temperature": 1e999}', "bad_number"),
        (b'{"model": "acme", "temperature": NaN}', "bad_number"),
    ],
)
async def test_a_body_that_cannot_be_routed_is_answered_400(
    served: Running, engine: Upstream, body: bytes, code: str
) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with served.callers.post(served.url + "/v1/completions", data=body, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, code)
    assert engine.seen == []


async def test_a_body_over_the_limit_is_answered_413(served: Running, engine: Upstream) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    data = json.dumps({"model": "acme", "prompt": "x" * BODY_CAP}).encode()
    async with served.callers.post(served.url + "/v1/completions", data=data, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (413, "body_too_large")
    assert engine.seen == []
    under = json.dumps({"model": "acme", "prompt": "x" * (BODY_CAP - 100)}).encode()
    async with served.callers.post(served.url + "/v1/completions", data=under, headers=headers) as answer:
        assert answer.status == 200


async def test_a_strangers_body_is_not_read(served: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_a_key_that_is_no_text_is_answered_401(served: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nContent-Length: 0\r\n\r\n"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_a_caller_that_waits_to_be_told_to_go_on_is_told_once_its_key_is_known(served: Running) -> None:
    body = json.dumps({"model": "acme"}).encode()
    for key, first in ((KEY, b"HTTP/1.1 100 "), ("wrong", b"HTTP/1.1 401 ")):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        assert (await reader.readline()).startswith(first)
        if key == KEY:
            assert await reader.readline() == b"\r\n"
            writer.write(body)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_stream_is_passed_on_event_by_event(served: Running, engine: Upstream) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"model": "acme", "stream": True, "test": {"events": 5, "paced": True}}
    parts: list[bytes] = []
    async with (
        asyncio.timeout(60),
        served.callers.post(served.url + "/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        assert answer.headers["x-loradeck-release"] == V1.id
        assert answer.content_type == "text/event-stream"
        async for part in answer.content.iter_any():
            parts.append(part)
            engine.read.release()
    assert len(parts) >= 5  # not held back and sent in one piece
    assert parts[-1].endswith(b"data: [DONE]\n\n")


async def test_a_caller_that_leaves_ends_its_request_in_the_engine(served: Running, engine: Upstream) -> None:
    readers = [asyncio.create_task(served.ask(stream=stream, delay=30)) for stream in (False, True)]
    await until(lambda: len(engine.seen) == 2)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await until(lambda: engine.dropped == 2)
    (counter,) = await served.stats()
    assert (counter["admitted"], counter["finished"], counter["errors"], counter["streams"]) == (2, 2, 0, 0)
    assert [row["status"] for row in await served.trace(2)] == [499, 499]


async def test_a_caller_that_leaves_after_it_waited_for_longer_than_callers_do_was_not_answered(
    served: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "PATIENCE_S", 0.0)
    reader = asyncio.create_task(served.ask(delay=30))
    await until(lambda: len(engine.seen) == 1)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    await until(lambda: engine.dropped == 1)
    assert await six(served) == {"attempted": 1, "refused": 0, "errors": 1, "finished": 0}


async def test_requests_that_are_refused_are_counted_where_they_were_meant_to_go(
    served: Running, engine: Upstream
) -> None:
    assert (await served.ask()).status == 200
    await served.engines()  # the only engine is gone
    for _ in range(110):
        assert (await served.ask()).code == "not_ready"
    assert await six(served) == {"attempted": 111, "refused": 110, "errors": 0, "finished": 1}
    await served.engines(("e0", engine.socket, [V1]))
    await served.table(entry(V1, suspended=True))
    assert (await served.ask()).code == "suspended"
    assert (await served.ask("acme/nowhere")).code == "unknown_route"
    assert await six(served) == {"attempted": 112, "refused": 111, "errors": 0, "finished": 1}


async def test_what_is_refused_before_an_engine_is_known_is_counted_once_one_is(
    router: Running, engine: Upstream
) -> None:
    await router.table(entry(V1))
    assert (await router.ask()).code == "not_ready"
    assert await router.stats() == []
    await router.engines(("e0", engine.socket, [V1]))
    assert (await router.ask()).status == 200
    assert await six(router) == {"attempted": 2, "refused": 1, "errors": 0, "finished": 1}


async def six(running: Running) -> dict[str, int]:
    """The counts of the only counter but the two of checks, which are counted later."""
    (counter,) = await running.stats()
    return {name: counter[name] for name in ("attempted", "refused", "errors", "finished")}


async def _broken_off(answer: aiohttp.ClientResponse) -> bytes:
    """What came of an answer that did not end as one should."""
    raw = b""
    try:
        async for part in answer.content.iter_any():
            raw += part
    except aiohttp.ClientPayloadError:
        return raw
    raise AssertionError(f"the answer ended as if it were whole: {raw!r}")


async def test_the_engines_refusal_of_a_request_reaches_the_caller(served: Running) -> None:
    answer = await served.ask(status=400)
    assert (answer.status, json.loads(answer.raw)["error"]["message"]) == (400, "asked for")
    (counter,) = await served.stats()
    assert (counter["finished"], counter["errors"]) == (1, 0)


@pytest.mark.parametrize("status", [500, 503, 401, 405])
async def test_an_engines_own_fault_is_an_error_and_not_passed_on(served: Running, status: int) -> None:
    answer = await served.ask(status=status)
    assert (answer.status, answer.code, answer.headers["x-loradeck-release"]) == (502, "engine_error", V1.id)
    (counter,) = await served.stats()
    assert (counter["finished"], counter["errors"], counter["checked"]) == (0, 1, 0)


async def test_a_release_that_its_engine_lost_is_an_error_of_that_engine(served: Running, engine: Upstream) -> None:
    assert V1.engine_name is not None
    engine.unloaded.add(V1.engine_name)
    answer = await served.ask()
    assert (answer.status, answer.code) == (502, "release_not_on_engine")


async def test_a_request_for_an_on_demand_release_that_its_engine_lost_waits_for_the_agents_next_word(
    served: Running, engine: Upstream
) -> None:
    await served.table(entry(V1, residency=RouteResidency.ON_DEMAND))
    assert V1.engine_name is not None
    engine.unloaded.add(V1.engine_name)
    asked = [asyncio.create_task(served.ask(stream=stream)) for stream in (False, True)]
    body: dict[str, Any] = {"times": -1, "failing": [], "load_s": None}
    async with asyncio.timeout(60):
        while not (wanted := await served.post("/control/cold", body))["releases"]:
            body["times"] = wanted["times"]
    assert wanted["releases"] == [["acme", "production", V1.id]]
    engine.unloaded.clear()
    assert await served.engines(("e0", engine.socket, [V1, V2, GLOBEX])) == [], "it was flipped all the time"
    assert [(await answer).text for answer in asked] == [f"e0:{V1.engine_name}"] * 2
    (counter,) = [row for row in await served.stats() if row["release"] == V1.id]
    assert (counter["finished"], counter["errors"]) == (2, 0)


async def test_an_engine_that_is_gone_is_answered_502_and_counted(served: Running, engine: Upstream) -> None:
    await engine.stop()
    answer = await served.ask()
    assert (answer.status, answer.code) == (502, "engine_unreachable")
    (counter,) = await served.stats()
    assert counter["errors"] == counter["admitted"] > 0
    await engine.start()
    assert (await served.ask()).status == 200


async def test_a_lost_engine_before_the_first_byte_is_looked_up_again(served: Running, engine: Upstream) -> None:
    second = Upstream("e1", engine.socket.replace("e0", "e1"))
    await served.engines(("e0", engine.socket, [V1]), ("e1", second.socket, [V1]))  # nobody listens on the second
    for _ in range(6):
        assert (await served.ask()).text == f"e0:{V1.engine_name}"
    by_replica = {c["replica"]: (c["finished"], c["errors"]) for c in await served.stats()}
    assert by_replica["e0"] == (6, 0)
    finished, errors = by_replica["e1"]
    assert finished == 0
    assert errors > 0


async def test_a_stream_that_dies_is_said_to_be_broken_and_not_ended(served: Running) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"model": "acme", "stream": True, "test": {"events": 5, "die_after": 2, "delay": 0.02}}
    async with served.callers.post(served.url + "/v1/chat/completions", json=body, headers=headers) as answer:
        raw = await _broken_off(answer)
    assert b"[DONE]" not in raw
    assert b'"code": "engine_lost"' in raw
    (counter,) = await served.stats()
    assert (counter["finished"], counter["errors"], counter["checked"]) == (0, 1, 0)


async def test_streams_of_the_left_release_finish(served: Running, engine: Upstream) -> None:
    body = {"model": "acme", "stream": True, "test": {"events": 6, "paced": True}}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with served.callers.post(served.url + "/v1/chat/completions", json=body, headers=headers) as stream:
        raw = await stream.content.readany()
        engine.going.clear()
        whole = asyncio.create_task(served.ask())
        await until(lambda: len(engine.seen) == 2)
        await served.table(entry(V2, 2))
        engine.going.set()
        for _ in range(6):
            engine.read.release()
        raw += await stream.read()
    streamed = Answer(stream.status, dict(stream.headers), raw)
    assert streamed.text == (await whole).text == f"e0:{V1.engine_name}"
    left = next(c for c in await served.stats() if c["release"] == V1.id)
    assert (left["admitted"], left["finished"], left["errors"]) == (2, 2, 0)


async def test_under_policy_cut_a_stream_ends_and_an_unsent_answer_comes_from_the_new_release(
    served: Running, engine: Upstream
) -> None:
    await served.table(entry(V1, streams=Streams.CUT))
    body = {"model": "acme", "stream": True, "test": {"events": 50, "paced": True}}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with served.callers.post(served.url + "/v1/chat/completions", json=body, headers=headers) as answer:
        raw = await answer.content.readany()
        engine.going.clear()
        whole = asyncio.create_task(served.ask())
        await until(lambda: len(engine.seen) == 2)
        rest = asyncio.create_task(_broken_off(answer))  # what lies unread when a connection ends is lost
        await served.table(entry(V2, 2, streams=Streams.CUT))
        await until(lambda: engine.dropped == 2)
        engine.going.set()
        raw += await rest
    assert b'"code": "release_left"' in raw
    assert b"[DONE]" not in raw
    assert (await whole).text == f"e0:{V2.engine_name}"
    by_release = {c["release"]: (c["finished"], c["errors"], c["streams"]) for c in await served.stats()}
    assert by_release == {V1.id: (0, 0, 0), V2.id: (1, 0, 0)}


async def test_an_on_demand_move_cuts_what_it_leaves_though_its_own_release_is_yet_to_be_loaded(
    served: Running, engine: Upstream
) -> None:
    how: dict[str, Any] = {"streams": Streams.CUT, "residency": RouteResidency.ON_DEMAND}
    await served.table(entry(V1, **how))
    body = {"model": "acme", "stream": True, "test": {"events": 50, "paced": True}}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with served.callers.post(served.url + "/v1/chat/completions", json=body, headers=headers) as answer:
        raw = await answer.content.readany()
        rest = asyncio.create_task(_broken_off(answer))
        await served.table(entry(release("not loaded"), 2, **how))
        raw += await rest
    assert b'"code": "release_left"' in raw
    await until(lambda: engine.dropped == 1)


async def test_the_trace_says_who_was_served_by_which_release(served: Running) -> None:
    first = await served.ask()
    await served.table(entry(V2, 2))
    second = await served.ask(stream=True)
    third = await served.ask("globex", key="globex-key")

    by_id = {row["request"]: row for row in await served.trace(3)}
    ids = [answer.headers["x-request-id"] for answer in (first, second, third)]
    assert [by_id[i]["release"] for i in ids] == [V1.id, V2.id, GLOBEX.id]
    assert [by_id[i]["generation"] for i in ids] == [1, 2, 1]
    assert [by_id[i]["first_token_ms"] is not None for i in ids] == [False, True, False]
    assert {row["status"] for row in by_id.values()} == {200}
    assert [row["seq"] for row in (await served.get("/control/trace?after=1"))["rows"]] == [2, 3]
    assert [row["tenant"] for row in (await served.get("/control/trace?tenant=globex"))["rows"]] == ["globex"]

    newest = "/control/trace/newest?tenant=acme&route=production&last=1"
    page = await served.get(newest)
    assert ([row["request"] for row in page["rows"]], page["more"], page["turned_over"]) == ([ids[1]], True, False)
    page = await served.get(f"{newest}&before=2")
    assert ([row["request"] for row in page["rows"]], page["more"]) == ([ids[0]], False)
    assert (await served.get(f"{newest}&release={V1.id}"))["rows"][0]["request"] == ids[0]
    assert page["since_ms"] <= by_id[ids[0]]["admitted_ms"]


async def test_answers_carry_no_stale_mark_while_the_hub_is_there_and_its_age_when_it_is_not(served: Running) -> None:
    assert "x-loradeck-stale" not in (await served.ask()).headers
    await served.post("/control/hub", {"connected": False})
    ages = [float((await served.ask(delay=0.1)).headers["x-loradeck-stale"]) for _ in range(3)]
    assert ages == sorted(ages)
    assert ages[2] > ages[0]


async def test_a_tenant_that_refuses_after_hub_loss_is_refused_then_and_served_again(
    served: Running, engine: Upstream
) -> None:
    await served.table(entry(V1, refuse_after_s=0.2))
    assert (await served.ask()).status == 200
    await served.post("/control/hub", {"connected": False})
    refused = await served.ask()
    while refused.status == 200:
        refused = await served.ask(delay=0.02)
    assert (refused.status, refused.code) == (503, "hub_lost")
    assert int(refused.headers["retry-after"]) > 0
    assert (await served.ask("globex", key="globex-key")).status == 200  # its policy is to serve on
    await served.post("/control/hub", {"connected": True})
    assert (await served.ask()).status == 200


async def test_the_control_socket_is_for_this_user_alone(served: Running, folder: Path) -> None:
    assert (served.state.stat().st_mode & 0o777) == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in served.state.iterdir()}
    assert modes == dict.fromkeys(("router.sock", "listening.sock", "router.lock", "table.jsonl"), 0o600)


@pytest.mark.parametrize("path", ["table", "engines", "pin", "unpin", "hub", "proof"])
async def test_a_body_that_does_not_fit_the_call_changes_nothing(served: Running, path: str) -> None:
    before = await served.get("/control/state")
    status, problem = await served.call(f"/control/{path}", {"surprise": 1})
    assert (status, problem["code"]) == (400, "bad_body")
    assert await served.get("/control/state") == before


async def test_the_clock_of_a_lost_hub_starts_with_its_last_word_not_with_the_agents_notice(served: Running) -> None:
    """A link that swallows what is sent is given up only after its TTL."""
    await served.table(entry(V1, refuse_after_s=3600))
    await served.post("/control/hub", {"connected": False, "silent_s": 1800})
    assert float((await served.ask()).headers["x-loradeck-stale"]) >= 1800
    await served.post("/control/hub", {"connected": False, "silent_s": 7200})
    assert (await served.ask()).status == 200, "what was said once is not said over"
    await served.post("/control/hub", {"connected": True})
    assert "x-loradeck-stale" not in (await served.ask()).headers
    await served.post("/control/hub", {"connected": False, "silent_s": 3601})
    answer = await served.ask()
    assert (answer.status, answer.code, "retry-after" in answer.headers) == (503, "hub_lost", True)
