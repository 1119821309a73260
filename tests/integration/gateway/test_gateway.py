"""A gateway before two nodes: who answers, who is refused, and what it goes on by."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.fleets.host import free_port
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, Refusal, data_folder, restore, running
from tests.fleets.linked.member import Member
from tests.fleets.linked.serving_node import RunningGateway, ServingNode, gateway
from tests.fleets.waiting import until
from tests.integration.gateway.conftest import ROUTE, Fleet
from tests.integration.router.running import Answer
from yarl import URL

from loradeck.schemas.link import Desired, Serving
from loradeck.schemas.replica_state import LINK_TTL_S, AckLevel
from loradeck_agent.cli import gateway_status
from loradeck_agent.router.callers_api import HINT, HINT_PATH
from loradeck_agent.router.wire import ColdAsk

ACME = ("acme", "production")


def said(answer: Answer) -> str:
    """The release that has answered, by the engine's own words: its name of the release begins with `ld-`."""
    assert answer.status == 200, answer.raw
    return answer.text.partition(":")[2]


def name_of(fleet: Fleet, release: str) -> str:
    """The engine's name of a release."""
    found = fleet.nodes[0].releases[release].engine_name
    assert found is not None
    return found


async def test_a_request_is_answered_by_the_live_release_as_the_node_answers_it(fleet: Fleet) -> None:
    whole = await fleet.gateway.ask(fleet.key)
    assert (said(whole), whole.headers["x-loradeck-release"]) == (name_of(fleet, fleet.v1), fleet.v1)
    stream = await fleet.gateway.ask(fleet.key, stream=True)
    assert said(stream) == name_of(fleet, fleet.v1)
    assert stream.raw.endswith(b"data: [DONE]\n\n")
    failed = await fleet.gateway.ask(fleet.key, status=400)
    assert (failed.status, json.loads(failed.raw)) == (400, {"error": {"message": "asked for"}})
    models = json.loads((await fleet.gateway.get("/v1/models", fleet.key)).raw)
    assert [model["id"] for model in models["data"]] == ["acme", "acme/production"]
    assert (await fleet.gateway.get("/healthz")).status == 200


async def test_strangers_and_others_reach_nothing(fleet: Fleet) -> None:
    seen = sum(len(node.engine.seen) for node in fleet.nodes)
    for key in (None, "sk-guessed"):
        answer = await fleet.gateway.ask(key)
        assert (answer.status, answer.code) == (401, "bad_key")
    assert (await fleet.gateway.get("/v1/models")).status == 401
    await fleet.deck.tenant("other", **ROUTE)
    others = (await fleet.deck.ok("POST", "tenants/other/keys"))["key"]
    assert fleet.gateway.gateway is not None
    await until(lambda: fleet.gateway.gateway.routes.tenants_of(others), "the key is known")
    assert (await fleet.gateway.ask(others)).code == "unknown_route"
    assert json.loads((await fleet.gateway.get("/v1/models", others)).raw)["data"] == []  # theirs has no release yet
    assert sum(len(node.engine.seen) for node in fleet.nodes) == seen


async def test_a_node_hears_of_a_request_whose_body_is_yet_to_come_from_a_gateway_and_from_nobody_else(
    fleet: Fleet,
) -> None:
    node, here, front = fleet.nodes[0], fleet.nodes[0].router.here, fleet.gateway.gateway
    assert here is not None
    assert front is not None
    cold, whole = here._cold, asyncio.Event()
    cold.awaits(ACME, fleet.v1)
    front.routes._served[ACME] = {"n1": AckLevel.DISK}
    url, headers = f"https://{node.address}{HINT_PATH}", {"Authorization": f"Bearer {fleet.key}", HINT: "acme"}
    for member, bearer, status in ((node, fleet.key, 404), (fleet.gateway.member, "sk-guessed", 401)):
        mine = ssl.create_default_context(cafile=str(node.identity.authority))
        mine.load_cert_chain(member.identity.certificate)
        shown = headers | {"Authorization": f"Bearer {bearer}"}
        async with aiohttp.ClientSession() as session, session.post(url, headers=shown, ssl=mine) as reply:
            assert reply.status == status
    assert (await cold.wanted(ColdAsk(times=-1))).hinted == ()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"model": "acme", "messages": [{"role": "user", '
        await whole.wait()
        yield b'"content": "hello"}]}'

    where = f"http://127.0.0.1:{fleet.gateway.port}/v1/chat/completions"
    asked = asyncio.create_task(fleet.gateway.callers.post(where, data=body(), headers=headers))
    await until(lambda: cold._hinted != (), "the node is told")
    wanted = await cold.wanted(ColdAsk(times=-1))
    assert (wanted.releases, wanted.hinted) == ((), ((*ACME, fleet.v1),)), "it has not come yet"
    whole.set()
    await until(lambda: cold._named != (), "it waits")
    wanted = await cold.wanted(ColdAsk(times=-1))
    assert (wanted.releases, wanted.hinted) == (((*ACME, fleet.v1),), ())
    cold.awaits(ACME, None)
    async with await asked as answer:
        assert answer.status == 200
    assert front.proxy.hints == 1


async def test_feedback_reaches_a_node_that_serves_the_route_even_where_another_is_gone(fleet: Fleet) -> None:
    await fleet.nodes[0].die()
    body = {"model": "acme", "request": "r-1", "kind": "thumb", "value": "up"}
    url, headers = f"http://127.0.0.1:{fleet.gateway.port}/v1/feedback", {"Authorization": f"Bearer {fleet.key}"}
    async with fleet.gateway.callers.post(url, json=body, headers=headers) as answer:
        assert answer.status == 202
    assert len(list((fleet.nodes[1].router.state / "feedback").iterdir())) == 1
    async with fleet.gateway.callers.post(url, json=body | {"value": "sideways"}, headers=headers) as answer:
        assert answer.status == 400


async def test_the_hub_knows_it_as_a_gateway_and_counts_it_nowhere(fleet: Fleet) -> None:
    rows = {row["node"]: row.get("gateway", False) for row in await fleet.deck.ok("GET", "nodes")}
    assert rows == {"gw": True, "n1": False, "n2": False}
    row = await fleet.deck.row()
    assert (row.placed, row.proven) == (2, 2)
    assert (await fleet.deck.promote(fleet.v2)).reached == "proven"


async def test_no_answer_of_a_left_release_begins_after_a_move_has_flipped(fleet: Fleet) -> None:
    """Two gateways under traffic: judged by the engine's words, for requests that began after the hub said FLIPPED."""
    began: list[tuple[int, Answer]] = []
    moves = 0
    async with gateway(fleet.deck, fleet.folder, "gw2") as second:
        await second.knows("n1", "n2")
        over = asyncio.Event()

        async def calls(number: int) -> None:
            while not over.is_set():
                at = moves
                one = (fleet.gateway, second)[number % 2]
                began.append((at, await one.ask(fleet.key, prompt=f"{number}", stream=number % 3 == 0)))

        callers = [asyncio.create_task(calls(number)) for number in range(8)]
        live = [fleet.v1]
        for release in (fleet.v2, fleet.v1, fleet.v2, fleet.v1):
            assert (await fleet.deck.promote(release)).reached == "proven"
            live.append(release)
            moves += 1
            enough = len(began) + 40
            await until(lambda enough=enough: len(began) >= enough, "traffic goes on")
        over.set()
        await asyncio.gather(*callers)
    names = [name_of(fleet, release) for release in live]
    for at, answer in began:
        assert said(answer) in names[at : at + 2], (at, answer.raw)  # the one that was live, or one move later


async def test_a_dead_nodes_tenants_answer_elsewhere_and_no_stream_of_another_is_cut(fleet: Fleet) -> None:
    dying, other = fleet.nodes
    streams = [
        asyncio.create_task(fleet.gateway.ask(fleet.key, stream=True, prompt=f"{n}", events=20, delay=0.05))
        for n in range(12)
    ]
    await until(lambda: dying.engine.seen and other.engine.seen, "both answer")
    await until(lambda: len(dying.engine.seen) + len(other.engine.seen) >= 12, "all have begun")
    expected = len(other.engine.seen)
    await dying.die()
    for number in range(20):
        assert said(await fleet.gateway.ask(fleet.key, prompt=f"after {number}")) == name_of(fleet, fleet.v1)
    done = [stream.exception() is None for stream in (await asyncio.wait(streams))[0]]
    assert sum(done) >= expected


async def test_a_gateway_that_hears_of_no_move_asks_no_node_that_missed_it_once_another_has_shown_it(
    fleet: Fleet,
) -> None:
    """Its own link is cut, and one of its nodes is cut off too."""
    made = fleet.gateway.gateway
    assert made is not None
    moved, cut_off = fleet.nodes
    made.link._links[made.link.hub]._handle = _nothing  # it hears of nothing any more
    cut_off.obeys = False
    await fleet.deck.promote(fleet.v2, wait="committed")
    await until(lambda: fleet.v2 in moved.releases, "one node has the move")
    answers = [await fleet.gateway.ask(fleet.key, prompt=f"{n}") for n in range(10)]
    first = next(n for n, answer in enumerate(answers) if answer.headers["x-loradeck-release"] == fleet.v2)
    assert {answer.headers["x-loradeck-release"] for answer in answers[first:]} == {fleet.v2}


async def test_the_caller_gets_the_nodes_own_refusal_where_all_refuse_and_no_node_where_none_is_there(
    fleet: Fleet,
) -> None:
    made = fleet.gateway.gateway
    assert made is not None
    entry = made.routes.entry(ACME)
    assert entry is not None
    made.routes.show(entry, (entry.epoch, entry.generation + 1), "n1")
    refused = await fleet.gateway.ask(fleet.key)
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "behind", "1")
    for node in fleet.nodes:
        await node.die()
    assert (await fleet.gateway.ask(fleet.key)).code == "no_node"


async def test_nodes_that_the_hub_has_lost_are_asked_last_and_revoked_ones_not_at_all(fleet: Fleet) -> None:
    """The hub may be the one that is cut off from them."""
    made = fleet.gateway.gateway
    assert made is not None
    hub = fleet.deck.hub.fleet
    for node in fleet.nodes:
        await node.stop()
        await until(lambda node=node: hub.nodes[node.name].link is None, "its link is down")
        hub.nodes[node.name].heard = hub.clock() - LINK_TTL_S - 1
    hub.started -= LINK_TTL_S + 1
    await until(lambda: made.routes.lost == ("n1", "n2"), "the hub has lost both", 60)
    assert said(await fleet.gateway.ask(fleet.key)) == name_of(fleet, fleet.v1)
    await fleet.deck.ok("POST", "nodes/n1/revoke")
    await fleet.gateway.knows("n2")
    answers = [await fleet.gateway.ask(fleet.key, prompt=f"{n}") for n in range(4)]
    assert {answer.headers["x-loradeck-replica"] for answer in answers} == {"n2"}


async def _nothing(message: object) -> None:
    pass


async def test_without_a_hub_it_goes_on_and_another_process_of_it_too(fleet: Fleet) -> None:
    made = fleet.gateway.gateway
    assert made is not None
    file = fleet.gateway.config.state / "gateway.json"
    await until(lambda: file.exists() and fleet.v1 in file.read_text() and "n2" in file.read_text(), "saved")
    assert file.stat().st_mode & 0o777 == 0o600
    await until(lambda: '"device"' in file.read_text(), "saved with levels")
    made.nodes.by_name["n2"].failed("a test")
    told = await gateway_status.collect(fleet.gateway.config)
    shown = gateway_status.lines(told, "linked")
    assert (told["pid"], shown[0]) == (os.getpid(), f"gateway gw: pid {os.getpid()}, linked")
    assert f"node    n1 at {fleet.nodes[0].address}: 0 under way" in shown
    rests = "FAILED 1 times in a row, asked last for 0."
    assert [rests in line for line in shown if line.startswith("node")] == [False, True]
    assert shown[-1].endswith("on n1 device, n2 device")
    await fleet.gateway.stop()
    kept = await gateway_status.collect(fleet.gateway.config)
    assert (kept["pid"], kept["routes"], kept["table"]) == (None, told["routes"], told["table"])
    assert "does not run" in gateway_status.lines(kept, "no link")[0]
    fleet.gateway.config = fleet.gateway.config.model_copy(update={"hubs": ("https://127.0.0.1:1",)})
    await fleet.gateway.start()
    assert said(await fleet.gateway.ask(fleet.key)) == name_of(fleet, fleet.v1)
    await fleet.deck.promote(fleet.v2)
    assert said(await fleet.gateway.ask(fleet.key)) == name_of(fleet, fleet.v2)


async def test_a_gateway_with_an_old_table_and_no_hub_is_told_by_a_node_who_serves_a_tenant_that_moved(
    deck: Deck, folder: Path
) -> None:
    await deck.tenant(placement={"site": "a"}, **ROUTE)
    nodes = [ServingNode(deck, folder, name) for name in ("n1", "n2")]
    try:
        for node, site in zip(nodes, "ab", strict=True):
            node.labels = {"site": site}
            await node.start()
        key = (await deck.ok("POST", "tenants/acme/keys"))["key"]
        await deck.promote(await deck.release(seed=1))
        async with gateway(deck, folder) as made:
            await made.knows("n1", "n2")
            file = made.config.state / "gateway.json"
            await until(lambda: file.exists() and '"n1":"device"' in file.read_text(), "its table is saved")
            await made.stop()
            made.config = made.config.model_copy(update={"hubs": ("https://127.0.0.1:1",)})
            started = await made.start()
            assert (await made.ask(key)).headers["x-loradeck-replica"] == "n1"
            await deck.tenant(placement={"site": "b"}, **ROUTE)
            for _ in range(3000):
                moved = await made.ask(key)
                if moved.headers.get("x-loradeck-replica") == "n2":
                    break
                await asyncio.sleep(0.02)
            followed = started.proxy.retries
            assert followed >= 1
            answers = [await made.ask(key, prompt=f"{n}") for n in range(4)]
            assert {answer.headers["x-loradeck-replica"] for answer in answers} == {"n2"}
            assert started.proxy.retries == followed  # it remembers where
    finally:
        for node in nodes:
            await node.close()


async def test_a_hub_that_lost_a_move_learns_of_it_from_a_gateway(folder: Path) -> None:
    async with data_folder() as data:
        async with running(data, nodes=True) as deck:
            await deck.tenant(**ROUTE)
            agent = await LinkedAgent(deck, "n1").join()
            await deck.promote(await deck.release(seed=1))
            backup = data / "backup.db"
            deck.hub.store.now(lambda store: store.backup(str(backup)))
            made = await RunningGateway(deck, folder, "gw").join()
            before = await made.start()
            moved = await deck.release(seed=2)
            await deck.promote(moved)

            def live() -> str | None:
                entry = before.routes.entry(ACME)
                return entry.current.id if entry is not None and entry.current is not None else None

            await until(lambda: live() == moved, "the gateway has the move")
            await made.stop()
            await agent.leave()
        restore(data, backup)
        async with running(data, nodes=True) as deck:
            made.config = made.config.model_copy(update={"hubs": (f"https://127.0.0.1:{deck.nodes_port}",)})
            after = await made.start()
            try:
                await until(lambda: deck.hub.witnesses.holding(ACME) == ["gw"], "the pointer is held back")
                await until(lambda: not deck.hub.witnesses.unknown("gw"), "its table is known")
                await deck.recover("a backup was restored")
                assert deck.hub.log.state.pointers[ACME].release == moved
                epoch = deck.hub.log.state.epoch
                await until(lambda: after.routes.table.cursor.epoch == epoch, "it follows the hub")
            finally:
                await made.close()


async def test_the_nearest_node_is_asked(fleet: Fleet) -> None:
    made = fleet.gateway.gateway
    assert made is not None
    fleet.nodes[0].level = AckLevel.DISK
    await fleet.deck.promote(fleet.v2)
    nearest = {"n1": AckLevel.DISK, "n2": AckLevel.DEVICE}
    await until(lambda: made.routes.served(ACME) == nearest, "it knows the levels")
    answers = [await fleet.gateway.ask(fleet.key, prompt=f"{n}") for n in range(8)]
    assert {answer.headers["x-loradeck-replica"] for answer in answers} == {"n2"}


async def test_a_node_names_no_address_but_its_own(deck: Deck, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = ServingNode(deck, folder, "n1")
    node.address = "internal.example.com:80"
    try:
        await node.start()
        assert deck.hub.fleet.nodes["n1"].address == ""
        assert "address not believed node=n1" in caplog.text
    finally:
        await node.close()


async def test_a_node_fills_no_gateways_memory_with_one_answer(fleet: Fleet) -> None:
    """What is more than an answer's usual bytes is passed on as it comes, with the length that the node said."""
    made, told = fleet.gateway.gateway, asyncio.Event()
    assert made is not None

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000000\r\n\r\nhere")
        await told.wait()
        writer.close()

    async with await asyncio.start_server(node, "127.0.0.1", 0) as hostile:
        port = hostile.sockets[0].getsockname()[1]
        for pool in made.nodes.by_name.values():
            pool.urls = {path: URL(f"http://127.0.0.1:{port}{path}") for path in pool.urls}
        url, body = f"http://127.0.0.1:{fleet.gateway.port}/v1/chat/completions", {"model": "acme", "messages": []}
        headers = {"Authorization": f"Bearer {fleet.key}"}
        async with asyncio.timeout(60), fleet.gateway.callers.post(url, json=body, headers=headers) as answer:
            assert (answer.status, answer.content_length) == (200, 10**12)
            assert await answer.content.readexactly(4) == b"here"
            told.set()
            with pytest.raises(aiohttp.ClientPayloadError):  # and the caller is not told that it has all of it
                await answer.read()


async def test_a_key_that_a_node_has_not_heard_of_is_answered_elsewhere_however_often_it_asks(fleet: Fleet) -> None:
    """A node counts unknown keys against the gateway's address, and soon says 429 instead of 401."""
    made, cut_off = fleet.gateway.gateway, fleet.nodes[0]
    assert made is not None
    cut_off.obeys = False
    new = (await fleet.deck.ok("POST", "tenants/acme/keys"))["key"]
    await until(lambda: made.routes.tenants_of(new) is not None, "the gateway knows the key")
    answers = [await fleet.gateway.ask(new, prompt=f"{n}") for n in range(60)]
    assert {answer.status for answer in answers} == {200}
    assert made.proxy.retries > 20


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ("x-loradeck-fence: 99.99\r\nConnection: close, x-request-id\r\nx-request-id: mine\r\n", 200),
        ("Content-Length: 3\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", 400),
        ("x-loradeck-conversation: a\x01b\r\n", 400),
    ],
)
async def test_nothing_that_a_caller_puts_in_the_head_is_a_second_request_or_a_fence_at_a_node(
    fleet: Fleet, more: str, status: int
) -> None:
    body = b'{"model": "acme", "messages": []}'
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.gateway.port)
    seen = sum(len(node.engine.seen) for node in fleet.nodes)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {fleet.key}\r\n"
        f"Content-Length: {len(body)}\r\n{more}\r\n"
    )
    writer.write(head.encode() + body)
    async with asyncio.timeout(60):
        assert int((await reader.readline()).split()[1]) == status
    writer.close()
    assert sum(len(node.engine.seen) for node in fleet.nodes) == seen + (status == 200)


async def test_only_a_person_makes_a_gateway(deck: Deck, folder: Path) -> None:
    """A node that carries no label of a tenant's placement hears nothing of it, whatever it says."""
    await deck.tenant("far", placement={"site": "far"}, **ROUTE)
    with pytest.raises(Refusal, match="no host's name"):
        await deck.ok("POST", "join-tokens", {"node": "n1", "hosts": ["gateway.loradeck"]})
    node = Member(deck, folder)
    await node.join()
    async with node.linked():
        await until(lambda: any(isinstance(message, Desired) for message in node.received), "its table has come")
    told = [entry.tenant for message in node.received if isinstance(message, Desired) for entry in message.entries]
    assert "far" not in told
    assert not any(isinstance(message, Serving) for message in node.received)
    real = Member(deck, folder, "gw")
    await real.join(await real.invited(gateway=True))
    async with real.linked():
        await until(lambda: any(isinstance(message, Serving) for message in real.received), "it is told")
    assert "far" in [e.tenant for m in real.received if isinstance(m, Desired) for e in m.entries]


async def test_the_command_joins_serves_and_ends_cleanly_on_ctrl_c(fleet: Fleet) -> None:
    port, metrics = free_port(), free_port()
    token = fleet.folder / "token"
    made = await fleet.deck.ok("POST", "join-tokens", {"node": "gw2", "hosts": ["127.0.0.1"], "gateway": True})
    token.write_text(made["token"])
    token.chmod(0o600)
    config = fleet.folder / "gateway.toml"
    config.write_text(
        f'node = "gw2"\nhub = "https://127.0.0.1:{fleet.deck.nodes_port}"\ntoken = "token"\nstate = "gw2"\n'
        f'[router]\nlisten = "127.0.0.1:{port}"\ntls = true\n'
    )
    log = (fleet.folder / "log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from loradeck_agent.cli import main; main()",
        "gateway",
        "--config",
        str(config),
        "--metrics",
        f"127.0.0.1:{metrics}",
        stderr=log,
    )
    trust = ssl.create_default_context(cafile=str(fleet.deck.data / "tls" / "authority.pem"))
    try:
        await until(
            lambda: fleet.deck.hub.fleet.nodes.get("gw2") and fleet.deck.hub.fleet.nodes["gw2"].linked, "linked"
        )
        body = {"model": "acme", "messages": [{"role": "user", "content": "hello"}]}
        headers, url = {"Authorization": f"Bearer {fleet.key}"}, f"https://127.0.0.1:{port}/v1/chat/completions"

        async def asked() -> int:
            async with fleet.gateway.callers.post(url, json=body, headers=headers, ssl=trust) as answer:
                return answer.status

        for _ in range(1200):  # its table comes with the link
            if await asked() == 200:
                break
            await asyncio.sleep(0.05)
        async with fleet.gateway.callers.get(f"http://127.0.0.1:{metrics}/metrics") as answer:
            assert 'loradeck_gateway_requests_total{code="200"} 1' in await answer.text()
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
        assert "Traceback" not in (fleet.folder / "log").read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        log.close()
