"""The process: how it starts, how it ends, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, running
from tests.fleets.waiting import PATIENCE_S, until
from tests.integration.hub.conftest import Join

from loradeck.hub.access.authority import Authority
from loradeck.hub.server import serve
from loradeck.rules.errors import Refused
from loradeck.schemas.log import Draft
from loradeck.schemas.moves import MoveResult, PromoteRequest
from loradeck.store.interface import Committed, OutcomeUnknown

ROUTE = "tenants/acme/routes/production"
ACME = ("acme", "production")

MAIN = """
import sys
from pathlib import Path
from loradeck.hub.server import serve
data, listen, *tls = sys.argv[1:]
serve(Path(data), listen or None, "test", tls_cert=Path(tls[0]) if tls else None, tls_key=Path(tls[1]) if tls else None)
"""


@contextlib.asynccontextmanager
async def process(data: Path, *args: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`serve` in a process of its own, and its ready line."""
    hub = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAIN, str(data), *args, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert hub.stderr is not None
    try:
        async with asyncio.timeout(60):
            yield hub, (await hub.stderr.readline()).decode()
    finally:
        if hub.returncode is None:
            hub.kill()
        await hub.wait()


def local(data: Path) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(data / "hub.sock"), verify=False)
    return httpx.AsyncClient(transport=transport, base_url="http://hub/v1/", timeout=PATIENCE_S)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_and_a_signal_ends_it_cleanly(data: Path, how: signal.Signals) -> None:
    async with process(data, "127.0.0.1:0") as (hub, ready):
        assert ready.startswith(f"loradeck hub ready unix:{data}/hub.sock http://127.0.0.1:")
        async with local(data) as client:
            assert (await client.post("tenants", json={"name": "acme"})).status_code == 200
        hub.send_signal(how)
        out, err = await hub.communicate()
    assert (hub.returncode, out) == (0, b"")
    assert b"Traceback" not in err
    assert {"hub.sock", "hub.db-wal"}.isdisjoint(os.listdir(data))


async def test_a_hub_that_was_killed_leaves_a_folder_that_the_next_one_takes_over(data: Path) -> None:
    async with process(data, "") as (hub, _):
        async with local(data) as client:
            assert (await client.post("tenants", json={"name": "acme"})).status_code == 200
        hub.send_signal(signal.SIGKILL)
        await hub.wait()
    assert (data / "hub.sock").exists()
    async with process(data, "") as (_, ready):
        assert ready == f"loradeck hub ready unix:{data}/hub.sock\n"
        async with local(data) as client:
            state = (await client.get("state")).json()
            assert state["status"]["epoch"] == 2
            assert [t["name"] for t in (await client.get("tenants")).json()] == ["acme"]


async def test_its_log_has_one_line_an_entry_and_no_secret(data: Path) -> None:
    async with process(data, "127.0.0.1:0") as (hub, ready):
        port = ready.rpartition(":")[2].strip()
        async with local(data) as client:
            token = (await client.post("tokens", json={"name": "v", "role": "viewer"})).json()["token"]
            await client.post("tenants", json={"name": "acme"})
            sk = (await client.post("tenants/acme/keys")).json()["key"]
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}) as client:
            await client.get(f"http://127.0.0.1:{port}/v1/state?token={token}")
        hub.terminate()
        _, err = await hub.communicate()
    text = err.decode()
    assert token not in text
    assert sk not in text
    for line in text.splitlines():
        assert line[:2] == "20", line
        assert line[23] == "Z", line


def test_a_certificate_without_its_key_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="invalid_request"):
        serve(tmp_path / "data", "127.0.0.1:0", tls_cert=tmp_path / "c.pem")
    with pytest.raises(Refused, match="invalid_request"):
        serve(tmp_path / "data", "0.0.0.0:0")
    assert not (tmp_path / "data").exists()


def test_a_folder_whose_path_is_too_long_for_a_socket_is_refused_with_its_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 110)
    with pytest.raises(Refused, match="invalid_request") as refused:
        serve(deep)
    assert str(deep) in refused.value.detail


async def test_beyond_loopback_it_speaks_tls_and_nothing_else(data: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.fail("no openssl on PATH: no certificate can be made to serve with; install it")
    cert, private = data / "cert.pem", data / "key.pem"
    made = await asyncio.create_subprocess_exec(
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(private),
        "-out",
        str(cert),
        stderr=subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    async with process(data, "0.0.0.0:0", str(cert), str(private)) as (_, ready):
        port = ready.rpartition(":")[2].strip()
        assert f"https://0.0.0.0:{port}" in ready
        trust = ssl.create_default_context(cafile=str(cert))
        async with httpx.AsyncClient(verify=trust) as client:
            answer = await client.get(f"https://127.0.0.1:{port}/v1/state")
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
            with pytest.raises(httpx.HTTPError):
                await client.get(f"http://127.0.0.1:{port}/v1/state")


async def test_served_totals_outlive_the_hub_and_nothing_is_counted_twice(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        release = await deck.release()
        await deck.promote(release)
        await agent.report(agent.served(admitted=10, finished=10, checked=10, bad=1))
        await until(lambda: deck.hub.counts.total(ACME, release).counts.finished == 10, "counted")
        token = await deck.token("agent", "n1")
        await agent.leave()
    async with running(data) as deck:
        assert deck.hub.counts.total(ACME, release).counts.finished == 10
        agent.deck = deck
        await agent.join(token)
        await agent.report(agent.served(admitted=12, finished=12, checked=12, bad=2))
        await until(lambda: deck.hub.health.served(ACME, release)[1] == 12, "the router's own count is believed")
        await agent.report(agent.served(admitted=15, finished=15, checked=15, bad=2))
        await until(lambda: deck.hub.health.served(ACME, release)[1] == 15, "counted on")
        assert deck.hub.counts.total(ACME, release).counts.finished == 13  # 10, and the 3 of the second report
        await agent.report(agent.served(admitted=2, finished=2, checked=2, bad=0), router_boot="r2")
        await until(
            lambda: deck.hub.counts.total(ACME, release).counts.finished == 15, "a new router counts from nought"
        )
        await agent.leave()


async def test_a_release_that_passes_the_routes_limit_is_breached_and_r_skips_it(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two, three = [await deck.release(seed=s) for s in (1, 2, 3)]
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    await agent.report(agent.served(admitted=19, finished=19, checked=19, bad=1))
    await until(lambda: deck.hub.counts.total(ACME, two).counts.checked == 19, "counted")
    assert "BAD" not in (await deck.row()).flags
    await agent.report(agent.served_badly(one, admitted=40, finished=40, checked=40, bad=22))
    await until(lambda: deck.hub.facts.is_breached(deck.hub.log.state.pointers[ACME], two), "breached")
    row = await deck.row()
    assert "BAD" in row.flags
    assert row.bad_now == pytest.approx(22 / 40)
    await deck.promote(three)
    row = await deck.row()
    assert row.preview.target is not None
    assert row.preview.target.id == one
    assert [(s.release.id, s.reason) for s in row.preview.skipped] == [(two, "breached: bad 55.0% of 40, by n1 alone")]
    assert row.bad_before == pytest.approx(22 / 40)
    assert row.left_answered == 40
    assert row.preview.skipped[0].liftable


async def test_requests_that_a_router_admits_too_late_are_counted(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    old = agent.served(admitted=5, finished=5, last_admitted_ms=0, last_token_ms=7)
    await deck.promote(two)
    await agent.report(old)
    await until(lambda: list(deck.hub.counts.counters(ACME)), "counted")
    row = await deck.row()
    assert row.replicas[0].admitted_left == 0
    assert (row.left_answered, row.last_left_ms) == (5, 7)
    await agent.report(old.model_copy(update={"admitted": 8, "last_admitted_ms": 50}))
    await until(lambda: next(iter(deck.hub.counts.counters(ACME))).admitted == 8, "counted")
    assert (await deck.row()).replicas[0].admitted_left == 3


# ---- a disk that fails -----------------------------------------------------------------------------------


async def test_a_full_disk_refuses_the_move_and_changes_nothing(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    body = await deck.rollback_body(reason="x" * 500)

    def pages(store: Any, limit: int | None) -> None:
        connection = store.database._ready()
        (now,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {now if limit is None else limit}")

    deck.hub.store.now(lambda s: pages(s, None))
    for _ in range(30):  # until what room the last page had is used up
        answer = await deck.local.post(
            f"{ROUTE}/annotate",
            json={"event": deck.hub.log.recent[-1].id, "reason": "x" * 500, "idempotency_key": key()},
        )
        if answer.status_code == 507:
            break
        await asyncio.sleep(0)
    problem = await deck.refused(507, "disk_full", "POST", f"{ROUTE}/rollback", body)
    assert "free space" in problem.fix
    assert (await deck.row()).pointer.release == two
    deck.hub.store.now(lambda s: pages(s, 1_000_000))
    await until(lambda: deck.hub.moves_allowed.refusing is None, "the hub has taken its reserve back")
    result = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", body))
    assert result.events[0].to_release == one


async def test_a_commit_whose_answer_was_lost_is_found_by_its_key(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    store = deck.hub.store._store
    commit = store.commit

    def lost(drafts: Sequence[Draft], *, key: str, **more: Any) -> Committed:
        commit(drafts, key=key, **more)
        raise OutcomeUnknown("fsync failed")

    monkeypatch.setattr(store, "commit", lost)
    result = await deck.rollback(wait="flipped")
    monkeypatch.undo()
    assert result.events[0].to_release == one
    assert deck.hub.log.state.pointers[ACME].release == one
    assert agent.entry.current is not None
    assert agent.entry.current.id == one
    assert (await deck.ok("GET", "audit/verify"))["ok"]


async def test_a_commit_of_which_nothing_is_found_is_never_called_not_applied(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deck.tenant()

    def lost(drafts: Sequence[Draft], *, key: str, **more: Any) -> Committed:
        raise OutcomeUnknown("fsync failed")

    monkeypatch.setattr(deck.hub.store._store, "commit", lost)
    problem = await deck.refused(503, "outcome_unknown", "POST", "tenants", {"name": "bolt"})
    assert "GET /v1/moves/" in problem.fix
    monkeypatch.undo()
    await deck.ok("POST", "tenants", {"name": "bolt"})


async def test_what_turns_out_to_be_durable_later_is_folded_before_the_next_move(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deck.tenant()
    store = deck.hub.store._store
    commit, since = store.commit, store.since
    broken = True

    def lost(drafts: Sequence[Draft], *, key: str, **more: Any) -> Committed:
        nonlocal broken
        if broken:
            commit(drafts, key=key, **more)
            raise OutcomeUnknown("fsync failed")
        return commit(drafts, key=key)

    def unreadable(rev: int, limit: int = 1000) -> Any:
        if broken:
            raise OutcomeUnknown("the disk still fails")
        return since(rev, limit)

    monkeypatch.setattr(store, "commit", lost)
    monkeypatch.setattr(store, "since", unreadable)
    await deck.refused(503, "outcome_unknown", "POST", "tenants", {"name": "bolt"})
    broken = False
    await deck.ok("POST", "tenants", {"name": "cedar"})
    assert sorted(deck.hub.log.state.tenants) == ["acme", "bolt", "cedar"]
    assert (await deck.ok("GET", "audit/verify"))["ok"]


async def test_a_hub_whose_lease_was_taken_moves_nothing_more(deck: Deck) -> None:
    await deck.tenant()

    def taken(store: Any) -> None:
        connection = store.database._ready()
        connection.execute("UPDATE head SET epoch = epoch + 1, holder = 'another'")

    deck.hub.store.now(taken)
    await deck.refused(503, "not_active", "POST", "tenants", {"name": "bolt"})
    assert (await deck.ok("GET", "state"))["status"]["refusing"] == "not_active"
    await deck.refused(503, "not_active", "POST", "tenants", {"name": "bolt"})


async def test_a_promote_under_way_when_the_hub_stops_is_answered_and_moves_nothing(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        agent.prepares = "hold"
        release = await deck.release()
        body = PromoteRequest(release=release, expected_generation=0, idempotency_key=key()).model_dump(mode="json")
        async with local(data) as client:
            promote = asyncio.create_task(client.post(f"{ROUTE}/promote", json=body))
            await until(lambda: agent.jobs, "the prepare is at the node")
            deck.hub.promotions.stop()
            answer = await promote
        assert (answer.status_code, answer.json()["code"]) == (503, "hub_stopping")
        assert deck.hub.log.state.pointers[ACME].generation == 0
        await agent.leave()


def test_the_hub_never_imports_what_only_nodes_need() -> None:
    code = "import sys, loradeck.hub.server; print([m for m in ('torch', 'pynvml', 'textual') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True)
    assert out.stdout.strip() == "[]"


async def test_beyond_loopback_it_has_its_own_authoritys_certificate_and_a_rotation_needs_no_restart(
    data: Path,
) -> None:
    authority = Authority.make(data, ["hub.example.com"], time.time_ns() // 1_000_000)
    trust = ssl.create_default_context(cafile=str(authority.certificates))
    async with process(data, "0.0.0.0:0") as (_, ready):
        port = int(ready.rpartition(":")[2])
        assert f"https://0.0.0.0:{port}" in ready
        async with local(data) as client:
            body = {"name": "mary", "role": "viewer"}
            token = (await client.post("tokens", json=body)).json()["token"]
        ask = f"GET /v1/state HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {token}\r\n\r\n".encode()

        async def serial() -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
            shown = writer.get_extra_info("peercert")["serialNumber"]
            return shown, reader, writer

        first, reader, writer = await serial()
        authority.serve(authority.served().hosts, time.time_ns() // 1_000_000)
        async with asyncio.timeout(60):
            while (found := await serial())[0] == first:
                found[2].close()
                await asyncio.sleep(0.1)
        found[2].close()
        writer.write(ask)
        assert b" 200 " in await reader.readline()
        writer.close()
