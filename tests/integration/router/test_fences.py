"""Requests that come through a gateway: a router that holds less than the gateway has seen does not answer."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from tests.fleets.waiting import until
from tests.integration.router.running import Running, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.rules.serving.router_handover import Stage

ACME = ("acme", "production")
V1, V2 = release("v1"), release("v2")


@pytest.fixture
async def served(router: Running, engine: Upstream) -> Running:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    return router


@pytest.mark.parametrize("seen", ["1.1", "1.0", "0.9"])
async def test_a_router_that_holds_as_much_answers_and_says_what_it_holds(served: Running, seen: str) -> None:
    answer = await served.ask(also={"x-loradeck-fence": seen})
    assert (answer.status, answer.headers["x-loradeck-fence"]) == (200, "1.1")


async def test_a_router_that_holds_less_waits_for_the_entry(served: Running) -> None:
    asked = asyncio.create_task(served.ask(also={"x-loradeck-fence": "1.2"}))
    assert (await served.ask()).text == f"e0:{V1.engine_name}"  # others are answered meanwhile
    assert not asked.done()
    await served.table(entry(V2, 2))
    assert (await asked).text == f"e0:{V2.engine_name}"


async def test_a_router_that_stays_behind_refuses(served: Running) -> None:
    answer = await served.ask(also={"x-loradeck-fence": "2.1"})
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "behind", "1")
    assert (await served.ask()).status == 200


async def test_a_request_that_waits_while_another_router_takes_over_is_judged_by_that_one(served: Running) -> None:
    """The move that it waits for may be what the other one has been told meanwhile."""
    assert served.here is not None
    admission, passed = served.here._admission, list[str]()

    async def other(request: web.BaseRequest) -> web.Response:
        passed.append(request.headers["x-loradeck-fence"])
        return web.json_response({})

    site = web.ServerRunner(web.Server(other))
    await site.setup()
    path = served.state / "after.sock"
    await web.UnixSite(site, str(path)).start()
    served.here._successor.path = path
    asked = asyncio.create_task(served.ask(also={"x-loradeck-fence": "1.2"}))
    await until(lambda: bool(admission._fences._waiting[ACME]))
    admission.stage = Stage.DRAINING
    try:
        assert (await asked).status == 200
        assert passed == ["1.2"]
    finally:
        admission.stage = Stage.SERVING
        await site.cleanup()


async def test_a_route_that_is_not_here_does_not_wait(served: Running) -> None:
    answer = await served.ask("acme/other", also={"x-loradeck-fence": "2.1"})
    assert answer.code == "unknown_route"


@pytest.mark.parametrize("seen", ["", "2", "1.2.3", "-1.2", "１.２", "9" * 17 + ".1"])
async def test_what_is_no_fence_is_refused(served: Running, seen: str) -> None:
    answer = await served.ask(also={"x-loradeck-fence": seen})
    assert (answer.status, answer.code) == (400, "bad_fence")
