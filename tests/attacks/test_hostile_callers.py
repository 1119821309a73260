"""What a tenant's own caller can do to a release, to the router and to other callers: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.fakes import held_bodies
from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Running, pin, release, sha
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.schemas.table import BODY_CAP, Callers, NodeLimits
from loradeck_agent.host import body_reader
from loradeck_agent.router.request_body import read

TEST = Callers(parameters=("test",))
V1, V2 = release("v1"), release("v2")
GLOBEX = release("v1", tenant="globex")


class Attacked:
    """A router that serves acme and globex from one engine. Its table is the same after every attack."""

    def __init__(self, router: Running, engine: Upstream) -> None:
        self.router = router
        self.engine = engine
        self.before = ""

    async def post(self, body: bytes | dict[str, Any], key: str = KEY) -> tuple[int, str | None, dict[str, str]]:
        """Status, the error's code, and the headers of an answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{self.router.url}/v1/completions"
        async with self.router.callers.post(url, data=data, headers=headers) as answer:
            document = json.loads(await answer.read())
            error = document.get("error", {})
            if error:
                assert {"message", "type", "param", "code"} <= error.keys(), "OpenAI's error shape"
            return answer.status, error.get("code"), dict(answer.headers)

    async def allow(self, generation: int = 2, **callers: Any) -> None:
        """Gives acme's route other settings for its callers; its table counts from here."""
        given = {"parameters": ("test",), **callers}
        await self.router.table(entry(V1, generation, callers=Callers(**given)))
        self.before = await self.table()

    async def table(self) -> str:
        """What the router serves, and since which generation."""
        state = await self.router.get("/control/state")
        return json.dumps({name: state[name] for name in ("entries", "in_force", "pins")}, sort_keys=True)

    @property
    def under_way(self) -> bool:
        """Whether any key has a request under way, as the router counts it."""
        assert self.router.here is not None
        return bool(self.router.here.proxy.limits._under_way)

    async def counted(self, tenant: str = "acme") -> tuple[int, int, int]:
        """Attempted, refused and failed requests of a tenant."""
        rows = [row for row in await self.router.stats() if row["tenant"] == tenant]
        return tuple(sum(row[name] for row in rows) for name in ("attempted", "refused", "errors"))


@pytest.fixture
async def attacked(folder: Path) -> AsyncIterator[Attacked]:
    engine, router = Upstream("e0", str(folder / "e0.sock")), Running(folder)
    await engine.start()
    await router.start_here()
    await router.post("/control/hub", {"connected": True})
    await router.engines(("e0", engine.socket, [V1, V2, GLOBEX]))
    await router.table(entry(V1), entry(GLOBEX, tenant="globex"))
    assert router.here is not None
    router.here.proxy.faults._clock = lambda: 0.0  # what was found out holds until a test moves the clock on
    made = Attacked(router, engine)
    made.before = await made.table()
    yield made
    assert await made.table() == made.before
    await router.close()
    await engine.stop()


def nested(depth: int) -> bytes:
    """A request with lists in each other, `depth` deep with the request itself."""
    return b'{"model": "acme", "prompt": "x", "stop": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("depth", [65, 900, *range(960, 1000, 3), 100_000])
async def test_json_that_is_nested_deep_is_its_callers_mistake(attacked: Attacked, depth: int) -> None:
    assert (await attacked.post(nested(depth)))[:2] == (400, "bad_json")
    assert attacked.engine.seen == []
    assert await attacked.counted() == (0, 0, 0)


async def test_json_that_is_nested_as_deep_as_tools_need_passes(attacked: Attacked) -> None:
    assert (await attacked.post(nested(64)))[0] == 200


async def test_small_requests_are_served_while_a_large_body_is_read(
    attacked: Attacked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child that reads large bodies opens a pipe that nobody has opened yet, and so stands still."""
    monkeypatch.setattr(body_reader, "DEADLINE_S", held_bodies.PATIENCE_S)
    assert attacked.router.here is not None
    attacked.router.here.proxy.bodies._read = held_bodies.router_body
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    order: list[str] = []

    async def ask(who: str, body: dict[str, Any], key: str) -> int:
        status = (await attacked.post(body, key))[0]
        order.append(who)
        return status

    large = {"model": "acme", "prompt": "x" * 2**20, "user": str(gate)}
    first = asyncio.create_task(ask("large", large, KEY))
    begun = await held_bodies.held(gate, first)
    assert [await ask("small", {"model": "globex"}, "globex-key") for _ in range(5)] == [200] * 5
    assert [await ask("own", {"model": "acme"}, KEY) for _ in range(5)] == [200] * 5
    assert not first.done()
    os.close(begun)
    assert await first == 200
    assert order == ["small"] * 5 + ["own"] * 5 + ["large"]


async def test_a_body_that_ends_its_reader_harms_nobody_else(attacked: Attacked) -> None:
    assert attacked.router.here is not None
    attacked.router.here.proxy.bodies._read = ends
    large = {"model": "acme", "prompt": "x" * 2**20}
    assert (await attacked.post(large | {"user": "kill"}))[:2] == (400, "body_unreadable")
    assert (await attacked.post({"model": "globex"}, "globex-key"))[0] == 200
    assert (await attacked.post(large))[0] == 200
    assert await attacked.counted() == (1, 0, 0)


def ends(raw: bytes) -> bytes:
    """Ends the child over one body, as the kernel does where memory is short."""
    if json.loads(raw).get("user") == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(raw)


@pytest.mark.parametrize(
    "name",
    ["chat_template", "priority", "kv_transfer_params", "cache_salt", "logits_processors", "prompt_logprobs", "zz", ""],
)
async def test_parameters_that_reach_beyond_a_request_are_refused_by_name(attacked: Attacked, name: str) -> None:
    assert (await attacked.post({"model": "acme", "prompt": "x", name: 1}))[:2] == (400, "unknown_parameter")
    assert attacked.engine.seen == []
    assert await attacked.counted() == (0, 0, 0)


@pytest.mark.parametrize("logprobs", [0, 1])
async def test_the_two_parameters_that_are_a_refused_one_together_are_refused(
    attacked: Attacked, logprobs: int
) -> None:
    """vLLM answers an echo with log-probabilities by `prompt_logprobs`."""
    asked = {"model": "acme", "prompt": "x", "logprobs": logprobs, "echo": True}
    assert (await attacked.post(asked))[:2] == (400, "unknown_parameter")
    assert attacked.engine.seen == []
    assert (
        (await attacked.post(asked | {"echo": False}))[0]
        == (await attacked.post({"model": "acme", "prompt": "x", "echo": True}))[0]
        == 200
    )


async def test_a_route_may_let_more_parameters_pass_and_another_route_does_not(attacked: Attacked) -> None:
    await attacked.allow(parameters=("priority",))
    assert (await attacked.post({"model": "acme", "priority": 1}))[0] == 200
    assert (await attacked.post({"model": "acme", "chat_template": "x"}))[:2] == (400, "unknown_parameter")
    assert (await attacked.post({"model": "globex", "priority": 1}, "globex-key"))[:2] == (400, "unknown_parameter")
    assert [one.get("priority") for one in attacked.engine.seen] == [1]


async def test_parameters_by_the_thousand_are_refused(attacked: Attacked) -> None:
    asked = {"model": "acme", **{f"p{number}": 0 for number in range(5000)}}
    assert (await attacked.post(asked))[:2] == (400, "unknown_parameter")
    assert attacked.engine.seen == []


async def test_bodies_that_are_held_back_fill_no_memory(attacked: Attacked) -> None:
    """Five requests announce 4 MB each and never send them."""
    await attacked.allow(body_bytes=3 * BODY_CAP)
    held = []
    answers = []
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", attacked.router.port)
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            f"Expect: 100-continue\r\nContent-Length: {BODY_CAP}\r\n\r\n".encode()
        )
        answers.append((await reader.readline()).split()[1])
        held.append(writer)
    assert answers == [b"100", b"100", b"100", b"429", b"429"]
    status, code, headers = await attacked.post({"model": "acme"})
    assert (status, code, int(headers["Retry-After"]) >= 1) == (429, "rate_limit_exceeded", True)
    assert (await attacked.post({"model": "globex"}, "globex-key"))[0] == 200
    for writer in held:
        writer.close()
    await until(lambda: not attacked.under_way)
    assert (await attacked.post({"model": "acme"}))[0] == 200
    assert await attacked.counted() == (1, 0, 0)


async def test_one_key_does_not_take_every_place(attacked: Attacked) -> None:
    await attacked.allow(concurrent=3)
    slow = {"model": "acme", "test": {"delay": 30}}
    waiting = [asyncio.create_task(attacked.post(slow)) for _ in range(3)]
    await until(lambda: len(attacked.engine.seen) == 3)
    status, code, headers = await attacked.post({"model": "acme"})
    assert (status, code, headers["Retry-After"]) == (429, "rate_limit_exceeded", "1")
    assert (await attacked.post({"model": "acme", "prompt": "x" * 4_000_000}))[0] == 429, "told, and not reset"
    assert (await attacked.post({"model": "globex"}, "globex-key"))[0] == 200
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await until(lambda: not attacked.under_way)
    assert (await attacked.post({"model": "acme"}))[0] == 200
    assert await attacked.counted() == (4, 0, 0), "what a key may not ask for is no refusal of its release"


async def test_requests_beyond_a_routes_number_a_minute_are_told_when_to_come_back(
    attacked: Attacked, caplog: pytest.LogCaptureFixture
) -> None:
    await attacked.allow(requests_per_minute=5)
    answers = [await attacked.post({"model": "acme"}) for _ in range(8)]
    assert [status for status, _, _ in answers] == [200] * 5 + [429] * 3
    assert [1 <= int(headers["Retry-After"]) <= 12 for _, _, headers in answers[5:]] == [True] * 3
    assert (await attacked.post({"model": "globex"}, "globex-key"))[0] == 200
    assert len([one for one in attacked.engine.seen if one["model"] == V1.engine_name]) == 5
    assert await attacked.counted() == (5, 0, 0)
    told = [record.getMessage() for record in caplog.records if "is refused" in record.getMessage()]
    assert told == [
        f"the key {sha(KEY)[:12]}… is refused: This key may ask for 5 requests of acme/production a minute on "
        "this node."
    ]


@pytest.mark.parametrize(
    "asked",
    [{"max_tokens": 1000}, {"max_completion_tokens": 500, "n": 2}, {"prompt": "x" * 4000, "max_tokens": 1}],
    ids=["one answer", "two answers", "a long prompt"],
)
async def test_tokens_beyond_a_routes_number_a_minute_are_told_when_to_come_back(
    attacked: Attacked, asked: dict[str, Any]
) -> None:
    await attacked.allow(tokens_per_minute=2600)
    answers = [await attacked.post({"model": "acme", **asked}) for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    assert 1 <= int(answers[2][2]["Retry-After"]) <= 60
    assert (await attacked.post({"model": "acme", "prompt": "x", "max_tokens": 10}))[0] == 200
    assert len(attacked.engine.seen) == 3


async def test_a_nodes_own_limits_hold_where_a_route_sets_none(attacked: Attacked) -> None:
    assert attacked.router.here is not None
    attacked.router.here.proxy.limits.node = NodeLimits(requests_per_minute=2)
    await attacked.allow(requests_per_minute=4)
    assert [(await attacked.post({"model": "acme"}))[0] for _ in range(5)] == [200] * 4 + [429]
    asked = {"model": "globex"}
    assert [(await attacked.post(asked, "globex-key"))[0] for _ in range(3)] == [200, 200, 429]


HOSTILE = {"model": "acme", "test": {"hostile": 500}}
BROKEN = {"model": "acme", "test": {"status": 500}}
"""A request that only the release fails; the base answers it."""


async def test_requests_that_any_release_fails_do_not_count_against_the_one_that_serves(attacked: Attacked) -> None:
    """As many as a breach takes, and at once."""
    answers = await asyncio.gather(*(attacked.post(HOSTILE) for _ in range(75)))
    assert {(status, code) for status, code, _ in answers} == {(502, "engine_error")}
    assert await attacked.counted() == (75, 0, 0)
    asked_again = [one for one in attacked.engine.seen if one["model"] == "base"]
    assert [one["max_tokens"] for one in asked_again] == [1, 1], "the same request, and a harmless one, once for all"


async def test_streams_that_any_release_ends_with_an_error_do_not_count(attacked: Attacked) -> None:
    body = {"model": "acme", "stream": True, "stream_options": {}, "test": {"error": 2}}
    url, headers = f"{attacked.router.url}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
    with pytest.raises(aiohttp.ClientPayloadError):  # no ending that a client takes for success
        async with attacked.router.callers.post(url, json=body, headers=headers) as answer:
            await answer.read()
    await until(lambda: not attacked.under_way)
    assert await attacked.counted() == (1, 0, 0)
    assert "stream" not in attacked.engine.seen[1]


async def test_failures_of_the_release_count_whoever_else_sends_what_nobody_answers(attacked: Attacked) -> None:
    assert (await attacked.post(BROKEN))[0] == 502
    assert await attacked.counted() == (1, 0, 1)
    await attacked.router.table(entry(V1, 2, keys=(sha(KEY), sha("second-key")), callers=TEST))
    attacked.before = await attacked.table()
    assert [(await attacked.post(HOSTILE, "second-key"))[0] for _ in range(3)] == [502] * 3
    assert [(await attacked.post(BROKEN))[0] for _ in range(3)] == [502] * 3
    assert await attacked.counted() == (7, 0, 4)


async def test_what_was_found_out_about_a_caller_holds_for_a_second(attacked: Attacked) -> None:
    assert attacked.router.here is not None
    now = 0.0
    attacked.router.here.proxy.faults._clock = lambda: now
    failed = []
    for request, later in ((HOSTILE, 0.5), (BROKEN, 1.0), (BROKEN, 0.5), (HOSTILE, 1.0), (HOSTILE, 0.0)):
        await attacked.post(request)
        failed.append((await attacked.counted())[2])
        now += later
    assert failed == [0, 0, 1, 2, 2]


async def test_an_engine_that_fails_everything_counts_as_failing(attacked: Attacked) -> None:
    """Its harmless request fails too: that every release fails there must not hide that nobody is answered."""
    attacked.engine.ill = 500
    assert [(await attacked.post({"model": "acme"}))[0] for _ in range(5)] == [502] * 5
    assert await attacked.counted() == (5, 0, 5)


async def test_the_prior_stands_in_where_the_release_is_a_base(attacked: Attacked) -> None:
    alone = release("base")
    await attacked.router.table(entry(alone, 2, beneath=(V2,), callers=TEST))
    attacked.before = await attacked.table()
    assert (await attacked.post(HOSTILE))[0] == 502
    assert [one["model"] for one in attacked.engine.seen] == ["base", V2.engine_name, V2.engine_name]
    assert attacked.router.here is not None
    attacked.router.here.proxy.faults._clock = lambda: 2.0
    await attacked.router.table(entry(alone, 3, callers=TEST))
    attacked.before = await attacked.table()
    assert (await attacked.post(HOSTILE))[0] == 502
    assert await attacked.counted() == (2, 0, 1), "with nothing to compare with it is the release's"


async def test_a_pinned_release_is_compared_too_where_the_hub_serves_nothing(attacked: Attacked) -> None:
    await attacked.router.post("/control/pin", pin(V2).model_dump(mode="json"))
    await attacked.router.table(entry(None, 2, callers=TEST))
    attacked.before = await attacked.table()
    assert (await attacked.post(HOSTILE))[0] == 502
    assert [one["model"] for one in attacked.engine.seen] == [V2.engine_name, "base", "base"]
    assert (await attacked.counted())[2] == 0
    assert not attacked.under_way
