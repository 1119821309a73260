"""Nodes join a hub: a key of their own, a certificate for it, its renewal, and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fleets.linked.hub import Deck, data_folder, running
from tests.fleets.linked.member import Member
from tests.fleets.waiting import PATIENCE_S, until

from loradeck.rules.clocks import DAY_MS
from loradeck_agent.host.errors import AgentError
from loradeck_agent.uplink import membership

pytestmark = pytest.mark.usefixtures("forked_children")


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    async with data_folder() as data, running(data, nodes=True) as made:
        await made.tenant()
        yield made


@contextmanager
def earlier(deck: Deck, days: int) -> Iterator[None]:
    """Certificates that are made meanwhile are so many days old."""
    members = deck.hub.membership
    assert members is not None
    kept = members._now_ms
    members._now_ms = lambda: kept() - days * DAY_MS
    yield
    members._now_ms = kept


async def test_a_node_that_joined_links_and_calls_with_its_certificate_alone(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path)
    await node.join(await node.invited(hosts=["gpu-01.example.com"]))
    assert {path.name: path.stat().st_mode & 0o777 for path in node.identity.folder.iterdir()} == {
        "node.pem": 0o600,
        "authority.pem": 0o600,
        "validity.json": 0o600,
    }
    async with node.linked():
        assert deck.hub.fleet.nodes["n1"].linked
        assert deck.hub.membership is not None
        validity = node.identity.validity()
        assert deck.hub.membership.until_ms == {"n1": validity.until_ms}
        assert await node.hub.versions("acme", "support") == ()
    keys = [record for record in deck.hub.tokens.of_node("n1") if record.kind == "key"]
    assert [record.revoked for record in keys] == [False]


async def test_it_may_do_what_an_agents_token_may_and_nothing_else(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path)
    await node.join()
    for method, path in (("GET", "/v1/events"), ("POST", "/v1/nodes/n1/drain"), ("GET", "/v1/tokens")):
        assert (await node.hub._http.call(method, path, timeout=PATIENCE_S)).status == 403


async def test_a_token_for_another_node_is_refused_and_still_good(deck: Deck, tmp_path: Path) -> None:
    right, wrong = Member(deck, tmp_path, "n1"), Member(deck, tmp_path, "n2")
    token = await right.invited()
    with pytest.raises(AgentError, match="wrong_node"):
        await wrong.join(token)
    assert not wrong.identity.exists
    await right.join(token)


async def test_who_joins_again_has_a_new_key_and_the_one_before_ends(deck: Deck, tmp_path: Path) -> None:
    old, new = Member(deck, tmp_path / "old"), Member(deck, tmp_path / "new")
    await old.join()
    async with old.linked() as link:
        await new.join()
        await until(lambda: link.status.error and "certificate_revoked" in link.status.error, "the old key is refused")
    async with new.linked():
        pass


async def test_a_node_that_was_off_for_a_year_may_only_renew_and_is_back(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path)
    with earlier(deck, 365):
        await node.join()
    assert node.identity.validity().until_ms < time.time() * 1000
    with pytest.raises(AgentError, match="certificate_expired"):
        await node.hub.versions("acme", "support")
    before = node.identity.certificate.read_text()
    await node.renewal.look()
    after = node.identity.certificate.read_text()
    assert before.partition("-----END PRIVATE KEY")[0] == after.partition("-----END PRIVATE KEY")[0]
    async with node.linked():
        assert await node.hub.versions("acme", "support") == ()


async def test_a_certificate_is_renewed_once_a_third_of_its_life_is_over(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path)
    with earlier(deck, 29):
        await node.join()
    first = node.identity.certificate.read_text()
    await node.renewal.look()
    assert node.identity.certificate.read_text() == first
    with earlier(deck, 31):
        node.identity.keep(await node.hub.renew())
    async with node.linked() as link:
        before, since = node.identity.certificate.read_text(), link.status.since_ms
        await node.renewal.look()
        assert node.identity.certificate.read_text() != before
        assert await node.hub.versions("acme", "support") == ()
        assert (link.connected, link.status.since_ms) == (True, since)


async def test_a_renewal_that_fails_leaves_the_certificate_and_is_tried_again(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path)
    with earlier(deck, 365):
        await node.join()
    before = node.identity.certificate.read_text()
    away = Member(deck, tmp_path, port=1)
    assert await away.renewal.look() < 60
    assert node.identity.certificate.read_text() == before


async def test_a_revoked_node_loses_its_link_at_once_and_learns_the_way_back(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path)
    await node.join()
    async with node.linked() as link:
        assert (await deck.ok("POST", "nodes/n1/revoke"))["node"] == "n1"
        await until(lambda: link.status.error and "certificate_revoked" in link.status.error, "refused")
        assert "loradeck node token n1" in (link.status.error or "")
        with pytest.raises(AgentError, match="certificate_revoked"):
            await node.hub.renew()
        await node.join()
        await until(lambda: link.connected, "linked with its new key")
    await deck.refused(404, "unknown_node", "POST", "nodes/n7/revoke")


async def test_a_hub_restored_from_before_the_join_takes_the_key_on_record(tmp_path: Path) -> None:
    async with data_folder() as data:
        async with running(data, nodes=True) as deck:
            node = Member(deck, tmp_path)
            await node.join()
        for left in data.glob("hub.db*"):
            left.unlink()
        async with running(data, nodes=True) as deck:
            again = Member(deck, tmp_path)
            async with again.linked() as link:
                await deck.ok("POST", "nodes/n1/revoke")
                await until(lambda: not link.connected, "revoked")
            assert (await deck.ok("GET", "audit/verify"))["ok"]


async def test_the_audit_trail_knows_who_was_let_in_and_notices_a_key_that_comes_back(tmp_path: Path) -> None:
    async with data_folder() as data:
        async with running(data, nodes=True) as deck:
            node = Member(deck, tmp_path)
            await node.join()
            await node.join()
            await deck.ok("POST", "nodes/n1/revoke")
            await node.join()
            assert (await deck.ok("GET", "audit/verify"))["ok"]
            kept = deck.hub.tokens.of_node("n1")
        for record in kept:
            if record.revoked:
                async with running(data, nodes=True) as deck:
                    revived = record.model_copy(update={"revoked": False})
                    await deck.hub.store(lambda s, revived=revived: s.put_token(revived))
                    found = await deck.ok("GET", "audit/verify")
                    assert not found["ok"], record
                    assert record.id in str(found)
                    await deck.hub.store(lambda s, record=record: s.put_token(record))


async def test_a_token_file_and_a_rotation_of_the_hubs_certificate_are_noticed(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path)
    await node.join()
    members = deck.hub.membership
    assert members is not None
    members.authority.serve([], time.time_ns() // 1_000_000)
    async with node.linked():
        pass


async def test_a_name_that_is_the_hubs_is_given_to_no_node(deck: Deck) -> None:
    for host in ("hub.loradeck", "HUB.loradeck", "a b"):
        body = {"node": "n1", "hosts": [host]}
        await deck.refused(422, "invalid_request", "POST", "join-tokens", body)


async def test_the_authority_is_replaced_while_nodes_are_linked_and_none_is_left_outside_unasked(
    deck: Deck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "SPREAD_S", 0.0)
    monkeypatch.setattr(membership, "RETRY_S", 0.1)
    node, away = Member(deck, tmp_path), Member(deck, tmp_path, "n2")
    await node.join()
    await away.join()
    (first,), old = node.identity.roots(), node.identity.certificate.read_bytes()
    members = deck.hub.membership
    assert members is not None
    async with node.linked() as link:
        since, renewing = link.status.since_ms, asyncio.create_task(node.renewal.run())
        roots = []
        for stage in ("trusted", "signs", "alone"):
            state = await deck.ok("POST", "authority/rotate")
            assert (state["stage"], state["behind"]) == (stage, ["n1", "n2"])
            roots.append(tuple(state["roots"]))
            await until(lambda: node.identity.roots() == roots[-1], "the linked node has renewed")
            if stage == "trusted":
                problem = await deck.refused(409, "nodes_behind", "POST", "authority/rotate")
                assert problem.detail == "n2"
            away.identity.keep(await away.hub.renew())
            assert members.behind() == ()
        second = roots[-1][0]
        assert roots == [(first, second), (second, first), (second,)]
        assert (link.connected, link.status.since_ms) == (True, since)
        renewing.cancel()
    for one in (node, away):
        async with one.linked():
            assert await one.hub.versions("acme", "support") == ()
    node.identity.certificate.write_bytes(old)

    async def answered() -> None:
        async with asyncio.timeout(60):
            while True:  # the listener looks at its files once a second
                await Member(deck, tmp_path).hub.versions("acme", "support")
                await asyncio.sleep(0.05)

    with pytest.raises(AgentError, match="unreachable"):
        await answered()
