"""Who may do what: roles, tokens, the own socket and nodes' tokens."""

from __future__ import annotations

import getpass
import hashlib
import os
import stat

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, Deck, feed, key, to_the_end
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from loradeck.hub.access.auth import LOCAL, Tokens
from loradeck.hub.listeners import tcp_socket
from loradeck.rules.errors import Refused
from loradeck.schemas.feed import FeedReset
from loradeck.schemas.ids import Role
from loradeck.schemas.jobs import JobRequest, TrainSpec
from loradeck.schemas.manifest import DecisionRecord
from loradeck.schemas.tenant import TokenCreate

ROUTE = "tenants/acme/routes/production"

LEAST = [
    (Role.VIEWER, "GET", "state"),
    (Role.VIEWER, "GET", ROUTE),
    (Role.VIEWER, "GET", "tenants"),
    (Role.VIEWER, "GET", "events"),
    (Role.VIEWER, "GET", "nodes"),
    (Role.VIEWER, "GET", "jobs"),
    (Role.VIEWER, "GET", "audit/verify"),
    (Role.VIEWER, "GET", f"moves/{'0' * 16}"),
    (Role.OPERATOR, "POST", f"{ROUTE}/rollback"),
    (Role.OPERATOR, "POST", f"{ROUTE}/fallback"),
    (Role.OPERATOR, "POST", f"{ROUTE}/undo"),
    (Role.OPERATOR, "POST", f"{ROUTE}/hold"),
    (Role.OPERATOR, "POST", f"{ROUTE}/unpin"),
    (Role.OPERATOR, "POST", f"{ROUTE}/annotate"),
    (Role.OPERATOR, "POST", "undo"),
    (Role.OPERATOR, "POST", "rewind"),
    (Role.OPERATOR, "POST", "nodes/n1/drain"),
    (Role.OPERATOR, "POST", "nodes/n1/forget"),
    (Role.OPERATOR, "POST", "jobs/j1/cancel"),
    (Role.RELEASER, "POST", f"{ROUTE}/promote"),
    (Role.RELEASER, "POST", f"{ROUTE}/lift"),
    (Role.RELEASER, "POST", "tenants"),
    (Role.RELEASER, "POST", "tenants/acme/suspend"),
    (Role.RELEASER, "POST", "tenants/acme/keys"),
    (Role.RELEASER, "PUT", ROUTE),
    (Role.RELEASER, "POST", "bases"),
    (Role.RELEASER, "POST", "datasets"),
    (Role.RELEASER, "POST", "suites"),
    (Role.RELEASER, "POST", "jobs"),
]


async def test_every_call_needs_its_role_and_lesser_ones_are_refused(deck: Deck) -> None:
    await deck.tenant()
    ladder = [Role.VIEWER, Role.OPERATOR, Role.RELEASER]
    clients = {role: await deck.as_role(role) for role in ladder}
    agent = await deck.as_role("agent", "n1")
    for least, method, path in LEAST:
        for role in ladder[: ladder.index(least)]:
            await deck.refused(403, "forbidden", method, path, {}, clients[role])
        await deck.refused(403, "forbidden", method, path, {}, agent)
        answer = await clients[least].request(method, path, json={})
        assert answer.status_code not in (401, 403), (method, path, answer.text)


async def test_without_a_token_tcp_answers_nothing_but_401(deck: Deck) -> None:
    for wrong in ("", "ld_0_0", "x" * 80, "ld__", "ld_a_b_c"):
        client = deck.with_token(wrong or "none")
        problem = await deck.refused(401, "unauthenticated", "GET", "state", client=client)
        assert wrong == "" or wrong not in problem.model_dump_json()
    here = f"http://127.0.0.1:{deck.port}"
    for path in ("/healthz", "/readyz", "/openapi.json", "/metrics", "/docs", "/redoc", "/", "/v1/tenants/"):
        assert (await deck.with_token("none").get(here + path)).status_code == 401, path
    for path in ("/docs", "/redoc", "/"):
        assert (await (await deck.as_role("viewer")).get(here + path)).status_code == 404, path


async def test_another_secret_under_a_known_id_is_no_token(deck: Deck) -> None:
    token = await deck.token("viewer")
    forged = f"{token[:-1]}{'0' if token[-1] != '0' else '1'}"
    await deck.refused(401, "unauthenticated", "GET", "state", client=deck.with_token(forged))


async def test_only_the_hash_of_a_token_is_kept(deck: Deck) -> None:
    token = await deck.token("operator")
    (record,) = await deck.ok("GET", "tokens")
    assert record["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    secret = token.rpartition("_")[2].encode()
    for path in deck.data.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path


async def test_tokens_and_recover_are_for_the_own_socket_alone(deck: Deck) -> None:
    releaser = await deck.as_role("releaser")
    body = {"name": "x", "role": "releaser"}
    await deck.refused(403, "local_only", "POST", "tokens", body, releaser)
    await deck.refused(403, "local_only", "GET", "tokens", client=releaser)
    await deck.refused(403, "local_only", "DELETE", "tokens/x", client=releaser)
    await deck.refused(403, "local_only", "POST", "recover", {"idempotency_key": key()}, releaser)


async def test_a_token_for_a_node_is_an_agents_and_no_others(deck: Deck) -> None:
    await deck.refused(422, "invalid_request", "POST", "tokens", {"name": "x", "role": "agent"})
    await deck.refused(422, "invalid_request", "POST", "tokens", {"name": "x", "role": "viewer", "node": "n1"})
    await deck.refused(422, "invalid_request", "POST", "tokens", {"name": "x", "role": "root"})


async def test_a_revoked_token_ends_its_calls_its_feed_and_its_link(deck: Deck, join: Join) -> None:
    viewer = await deck.token("viewer")
    agent = await join("n1")
    async with connect(
        f"ws://127.0.0.1:{deck.port}/v1/feed?since=0:0", additional_headers={"authorization": f"Bearer {viewer}"}
    ) as socket:
        for record in await deck.ok("GET", "tokens"):
            await deck.ok("DELETE", f"tokens/{record['id']}")
        messages, closed = await to_the_end(socket)
    assert messages[-1] == FeedReset(why="the token was withdrawn")
    assert closed == 4410
    await deck.refused(401, "unauthenticated", "GET", "state", client=deck.with_token(viewer))
    await until(lambda: agent.closed, "the link ended")
    assert agent.closed == (4401, "unauthenticated")
    await deck.refused(404, "unknown_token", "DELETE", "tokens/nothing")


async def test_the_actor_is_the_tokens_name_or_the_login_name(deck: Deck) -> None:
    await deck.tenant("acme")
    await deck.ok("POST", "tenants", {"name": "bolt"}, await deck.as_role("releaser"))
    events = await deck.ok("GET", "events?limit=10")
    by = {e["tenant"]: e["actor"] for e in events if e["kind"] == "tenant_create"}
    assert by == {"acme": getpass.getuser(), "bolt": "releaser"}
    assert (await deck.ok("GET", "state"))["me"] == {"actor": getpass.getuser(), "role": "releaser", "local": True}


async def test_the_own_socket_is_0600_in_a_0700_folder_and_so_is_the_database(deck: Deck) -> None:
    assert stat.S_IMODE(os.stat(deck.data).st_mode) == 0o700
    for name in ("hub.sock", "hub.db"):
        assert stat.S_IMODE(os.stat(deck.data / name).st_mode) & 0o077 == 0, name


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:7400", "[::]:0", "hub.example:7400"])
def test_tcp_beyond_loopback_is_refused_without_tls(listen: str) -> None:
    with pytest.raises(Refused, match="invalid_request") as refused:
        tcp_socket(listen, tls=False)
    assert "TLS" in refused.value.title


@pytest.mark.parametrize("listen", ["", "7400", "127.0.0.1", "127.0.0.1:x", ":7400", "127.0.0.1:70000"])
def test_a_listen_that_is_no_host_and_port_is_refused(listen: str) -> None:
    with pytest.raises(Refused, match="invalid_request"):
        tcp_socket(listen, tls=True)


async def test_a_hello_for_another_node_is_refused_and_changes_nothing(deck: Deck) -> None:
    token = await deck.token("agent", "n1")
    before = deck.fingerprint()
    agent = await LinkedAgent(deck, "n2").join(token)
    await until(lambda: agent.closed, "the link ended")
    assert agent.closed == (4403, "wrong_node")
    assert agent.welcome is None
    assert deck.hub.fleet.nodes == {}
    assert deck.fingerprint() == before
    await agent.leave()


async def test_an_ack_for_another_nodes_replica_is_refused_and_counts_for_nothing(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release = await deck.release()
    honest, liar = await join("n1"), await join("n2")
    honest.flips = False
    await deck.promote(release, wait="committed")
    await until(lambda: ("acme", "production") in honest.entries and honest.entry.current, "n1 has the entry")
    from loradeck.schemas.replica_state import AckState

    await liar.ack(honest.entry, AckState.FLIPPED, replica="n1")
    await until(lambda: liar.closed, "the link ended")
    assert liar.closed == (4403, "wrong_node")
    row = await deck.row()
    assert {r.replica: r.state for r in row.replicas}["n1"] is None


async def test_a_hello_with_another_nodes_replica_is_refused(deck: Deck) -> None:
    agent = LinkedAgent(deck, "n1")
    agent.replica = agent.replica.model_copy(update={"replica": "n10"})
    await agent.join()
    await until(lambda: agent.closed, "the link ended")
    assert agent.closed == (4403, "wrong_node")
    assert deck.hub.fleet.nodes == {}
    await agent.leave()


@pytest.mark.parametrize("role", ["viewer", "operator", "releaser"])
async def test_only_an_agents_token_opens_a_link(deck: Deck, role: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await LinkedAgent(deck, "n1").join(await deck.token(role))
    assert refused.value.response.status_code == 403
    assert b'"forbidden"' in (refused.value.response.body or b"")


async def test_an_agents_token_opens_no_feed(deck: Deck) -> None:
    headers = {"authorization": f"Bearer {await deck.token('agent', 'n1')}"}
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://127.0.0.1:{deck.port}/v1/feed?since=0:0", additional_headers=headers):
            pass
    assert refused.value.response.status_code == 403


async def test_an_agent_registers_only_what_a_job_on_its_node_has_made(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    manifest = (await deck.adapter_manifest()).model_dump(mode="json")
    agent = await deck.as_role("agent", "n1")
    path = "adapters/acme/support/versions"
    await deck.refused(403, "forbidden", "POST", path, manifest, agent)
    await join("n1")
    spec = TrainSpec(
        tenant="acme",
        name="support",
        base=BASE.digest,
        datasets=(await deck.dataset(),),
        decision=DecisionRecord(why_weights="a test"),
    )
    await deck.ok("POST", "jobs", JobRequest(spec=spec).model_dump(mode="json"))
    assert (await deck.ok("POST", path, manifest, agent))["version"] == 1
    other = await deck.as_role("agent", "n2")
    await deck.refused(403, "forbidden", "POST", path, manifest, other)


async def test_an_agent_states_canaries_but_not_what_the_hub_saw_or_a_releaser_decides(deck: Deck) -> None:
    await deck.tenant()
    release = await deck.release()
    node = await LinkedAgent(deck, "n1").join()
    await deck.promote(release)
    await node.leave()
    agent = await deck.as_role("agent", "n1")
    for kind in ("attested", "soaked", "breached", "gate", "revocation", "evaluation"):
        body = {"kind": kind, "subject": release, "tenant": "acme", "body": {}, "by": "n1"}
        await deck.refused(403, "forbidden", "POST", "attestations", body, agent)
    canary = {
        "release": release,
        "build": {"engine": "fake", "device": "cpu", "dtype": "float32"},
        "items": [{"prompt": "a" * 64, "tokens": [1], "margins": [2.0]}],
    }
    body = {"kind": "canary", "subject": release, "tenant": "acme", "body": canary, "by": "somebody"}
    written = await deck.ok("POST", "attestations", body, agent)
    assert written["by"] == "n1"
    assert (await deck.ok("POST", "attestations", body, agent))["seq"] == written["seq"]
    bad = body | {"body": {"release": release}}
    await deck.refused(422, "invalid_request", "POST", "attestations", bad, agent)
    other = body | {"subject": "f" * 64}
    await deck.refused(404, "unknown_release", "POST", "attestations", other, agent)


async def test_a_feed_over_the_own_socket_needs_no_token(deck: Deck) -> None:
    async with feed(deck, "0:0") as socket:
        assert await socket.recv()


def test_a_scope_without_the_doors_mark_is_never_local() -> None:
    from starlette.requests import HTTPConnection

    from loradeck.hub.access.auth import caller_of

    bare = HTTPConnection({"type": "http", "headers": [], "client": ("root", 0)})
    with pytest.raises(Refused, match="unauthenticated"):
        caller_of(bare, Tokens([]).caller)
    marked = HTTPConnection({"type": "http", "headers": [], "client": ("root", 0), LOCAL: True})
    assert caller_of(marked, Tokens([]).caller).local
    record, token = Tokens([]).create(TokenCreate(name="v", role="viewer"), "root")
    with_token = HTTPConnection(
        {"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())], LOCAL: True}
    )
    assert not caller_of(with_token, Tokens([record]).caller).local
