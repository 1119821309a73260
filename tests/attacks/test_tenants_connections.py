"""Connections that a key or a token keeps open: however many one tenant has, there is always room for another's.

Router and hub run in processes of their own, under a limit of 256 open files.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from tests.attacks.raw import Raw, connected, get, post
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.processes.hub import HubProcess, hub_with_a_tenant
from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Running, release, sha
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

MOST_FILES = 256
FLOOD = 300
"""More connections than there can be."""
FEW = 60
KINDS = ("idle", "half a head", "a slow body")
"""What a tenant's connections wait for: another request, the rest of its head, the rest of a body."""

OK = b"HTTP/1.1 200 OK\r\n"


def bearer(key: str) -> str:
    return f"authorization: Bearer {key}"


async def hold(stack: AsyncExitStack, port: int, request: bytes, then: bytes = b"") -> tuple[Raw, bytes]:
    """A connection that stays open after its first request, and the first line of what that was answered with.

    `then`: what is sent next: the beginning of a request. `request` may be one whose body does not come: it has no
    answer, and the line is empty.
    """
    raw = await stack.enter_async_context(connected(port, request))
    if b"content-length" in request:
        return raw, b""
    line = await raw.first_line()
    if line == OK and then:
        await raw.send(then)
    return raw, line


async def asked(port: int, path: str, key: str) -> bytes:
    """The first line of the answer on a connection of its own."""
    async with connected(port, get(path, bearer(key))) as raw:
        return await raw.first_line()


# ---- a router ----------------------------------------------------------------------------------------------------

KEYS = {"one key": (KEY,), "three keys": (KEY, "second-key", "third-key")}
NEIGHBOUR = "globex-key"
MODELS = "/v1/models"


@pytest.fixture
async def router(folder: Path) -> AsyncIterator[Running]:
    """A router with two tenants, of which acme has three keys."""
    engine, router = Upstream("e0", str(folder / "e0.sock")), Running(folder)
    await engine.start()
    await router.spawn(most_files=MOST_FILES)
    await router.until_up()
    acme, globex = release("v1"), release("v1", tenant="globex")
    await router.post("/control/hub", {"connected": True})
    await router.engines(("e0", engine.socket, [acme, globex]))
    await router.table(entry(acme, keys=tuple(map(sha, KEYS["three keys"]))), entry(globex, tenant="globex"))
    yield router
    await router.close()
    await engine.stop()


def kept(kind: str, key: str) -> tuple[bytes, bytes]:
    """What a connection of this kind sends at a router, and what it sends once that is answered."""
    if kind == "a slow body":
        return post("/v1/chat/completions", bearer(key), body=b"{", length=1000), b""
    return get(MODELS, bearer(key)), b"GET /v1/mod" if kind == "half a head" else b""


async def filled(stack: AsyncExitStack, router: Running, kind: str, *keys: str, number: int = FLOOD) -> list[bytes]:
    """Acme's connections are opened; what a neighbour is answered on a new one after each twenty of them."""
    answers = []
    for n in range(number):
        await hold(stack, router.port, *kept(kind, keys[n % len(keys)]))
        if n % 20 == 19:
            answers.append(await asked(router.port, MODELS, NEIGHBOUR))
    return answers


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_neighbour_gets_a_new_connection_of_a_router_whatever_a_tenant_keeps_open(
    router: Running, kind: str, keys: str
) -> None:
    async with AsyncExitStack() as stack:
        before, line = await hold(stack, router.port, get(MODELS, bearer(NEIGHBOUR)))
        answers = await filled(stack, router, kind, *KEYS[keys])
        assert [line, *answers] == [OK] * (1 + FLOOD // 20)
        await before.send(get(MODELS, bearer(NEIGHBOUR)))
        await before._reader.readuntil(OK)  # the connection that it had is still its own


@pytest.mark.parametrize("kind", ["idle", "half a head"])
async def test_connections_below_the_limit_stay_open_and_are_served(router: Running, kind: str) -> None:
    async with AsyncExitStack() as stack:
        assert await filled(stack, router, kind, KEY, number=FEW) == [OK] * (FEW // 20)
        assert await asked(router.port, MODELS, KEY) == OK


async def test_the_idlest_connection_of_whoever_holds_most_ends_and_its_newest_is_served(router: Running) -> None:
    async with AsyncExitStack() as stack:
        first, _ = await hold(stack, router.port, *kept("idle", KEY))
        await filled(stack, router, "idle", KEY)
        assert await asked(router.port, MODELS, KEY) == OK
        await first.until_closed()


async def test_a_routers_log_names_once_who_holds_most_connections(router: Running) -> None:
    async with AsyncExitStack() as stack:
        await filled(stack, router, "idle", KEY)
    lines = [line for line in router.errors.read_text().splitlines() if "connection" in line]
    assert len([line for line in lines if "acme" in line]) == 1
    assert not [line for line in lines if "globex" in line]


async def test_what_a_router_reports_says_how_many_connections_a_tenant_holds(router: Running) -> None:
    async with AsyncExitStack() as stack:
        await filled(stack, router, "idle", KEY, number=FEW)
        said = json.dumps(await router.get("/control/stats"))
    assert re.search(r'"\w*connections\w*": .*acme', said), "the agent makes its report of this"


# ---- a hub -------------------------------------------------------------------------------------------------------

TOKENS = {"one token": 1, "three tokens": 3}
HEALTH = "/healthz"


class Tenants:
    """A hub in a process, with tokens of two tenants."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        hub.local("POST", "tenants", {"name": "bolt"})
        self.acme = {role: [self._token("acme", role, n) for n in range(3)] for role in ("viewer", "operator")}
        self.bolt = self._token("bolt", "viewer", 0)

    def _token(self, tenant: str, role: str, number: int) -> str:
        body = {"name": f"{tenant}-{role}-{number}", "role": role, "tenants": {tenant: role}}
        token: str = self.hub.local("POST", "tokens", body)["token"]
        return token

    def kept(self, kind: str, n: int) -> tuple[bytes, bytes]:
        """What the n-th connection of this kind sends, and what it sends once that is answered."""
        if kind == "a slow body":
            return post("/v1/rewind", bearer(self.acme["operator"][n]), body=b"{", length=1000), b""
        return get(HEALTH, bearer(self.acme["viewer"][n])), b"GET /heal" if kind == "half a head" else b""

    async def filled(self, stack: AsyncExitStack, kind: str, tokens: int, number: int = FLOOD) -> list[bytes]:
        """Acme's connections are opened; what bolt is answered on a new one after each twenty of them."""
        answers = []
        for n in range(number):
            await hold(stack, self.hub.port, *self.kept(kind, n % tokens))
            if n % 20 == 19:
                answers.append(await asked(self.hub.port, HEALTH, self.bolt))
        return answers

    def counted(self) -> list[float]:
        """How many connections the metrics say that acme holds."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.hub.socket), verify=False), timeout=60) as client:
            text = client.get("http://hub/metrics").text
        return [float(n) for n in re.findall(r"^loradeck_\w*connections\w*\{.*acme.*\} (\S+)$", text, re.M)]


@pytest.fixture(scope="module")
def tenants() -> Iterator[Tenants]:
    with hub_with_a_tenant(most_files=MOST_FILES) as hub:
        yield Tenants(hub)


@pytest.fixture
def untouched() -> Iterator[Tenants]:
    """A hub that nobody else has called."""
    with hub_with_a_tenant(most_files=MOST_FILES) as hub:
        yield Tenants(hub)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_neighbour_gets_a_new_connection_of_a_hub_whatever_a_tenant_keeps_open(
    tenants: Tenants, kind: str, tokens: str
) -> None:
    async with AsyncExitStack() as stack:
        assert await tenants.filled(stack, kind, TOKENS[tokens]) == [OK] * (FLOOD // 20)


async def test_a_node_links_to_a_hub_whatever_a_tenants_tokens_keep_open(tenants: Tenants) -> None:
    token = tenants.hub.token("agent")
    async with AsyncExitStack() as stack:
        await tenants.filled(stack, "idle", 1)
        agent = await LinkedAgent(None, "n1").join(token, tenants.hub.port)
        await agent.leave()


async def test_connections_below_a_hubs_limit_stay_open_and_are_served(tenants: Tenants) -> None:
    async with AsyncExitStack() as stack:
        assert await tenants.filled(stack, "idle", 1, number=FEW) == [OK] * (FEW // 20)
        assert await asked(tenants.hub.port, HEALTH, tenants.acme["viewer"][0]) == OK


async def test_a_hubs_log_names_once_who_holds_most_connections(untouched: Tenants) -> None:
    async with AsyncExitStack() as stack:
        await untouched.filled(stack, "idle", 1)
    lines = [line for line in untouched.hub.log().splitlines() if "connection" in line]
    assert len([line for line in lines if "acme" in line]) == 1
    assert not [line for line in lines if "bolt" in line]


async def test_a_hubs_metrics_say_who_holds_how_many_connections(tenants: Tenants) -> None:
    async with AsyncExitStack() as stack:
        await tenants.filled(stack, "idle", 1, number=FEW)
        await until(lambda: FEW in tenants.counted(), "those of the tests before are over")
