"""Somebody between a node and its hub, or with a part of what a node has: none of it opens anything."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, data_folder, running
from tests.fleets.linked.member import Member
from tests.fleets.waiting import until

from loradeck.hub.access.authority import Authority
from loradeck.rules.clocks import DAY_MS
from loradeck_agent.host.errors import AgentError, ConfigError, Unreachable


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    async with data_folder() as data, running(data, nodes=True) as made:
        await made.tenant()
        yield made


class Proxy:
    """Terminates TLS with a certificate of its own, passes everything on to the hub, and keeps what it reads."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.to_hub, self.to_node = bytearray(), bytearray()

    @property
    def read(self) -> bytes:
        return bytes(self.to_hub + self.to_node)


@asynccontextmanager
async def between(deck: Deck, server: Path) -> AsyncIterator[Proxy]:
    """A proxy that shows the certificate in `server` (with its key)."""
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(server)
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                kept += data
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", deck.nodes_port, ssl=blind)
        for pair in ((reader, up_writer, proxy.to_hub), (up_reader, writer, proxy.to_node)):
            tasks.add(asyncio.create_task(pump(*pair)))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=shown)
    proxy = Proxy(listening.sockets[0].getsockname()[1])
    try:
        yield proxy
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def own_server(folder: Path) -> Path:
    """A certificate with all of a hub's names, of an authority that looks like the hub's and is another."""
    return Authority.make(folder, ["hub.example.com"], time.time_ns() // 1_000_000).server


async def test_a_man_in_the_middle_hears_no_join_token(deck: Deck, tmp_path: Path) -> None:
    async with between(deck, own_server(tmp_path / "evil")) as proxy:
        node = Member(deck, tmp_path, port=proxy.port)
        token, before = await node.invited(), deck.fingerprint()
        with pytest.raises(Unreachable, match="certificate"):  # the hub's authority comes through, and then it matters
            await node.join(token)
    assert not node.identity.exists
    assert token.split("_")[2].encode() not in proxy.read
    assert deck.fingerprint() == before


async def test_one_with_an_authority_of_its_own_hears_no_join_token_either(deck: Deck, tmp_path: Path) -> None:
    async with data_folder() as data, running(data, nodes=True) as evil:
        node = Member(deck, tmp_path, port=evil.nodes_port)
        token = await node.invited()
        with pytest.raises(AgentError, match="wrong_authority"):
            await node.join(token)
        assert evil.hub.metrics.registry.get_sample_value("loradeck_refused_total", {"code": "unauthenticated"}) is None
    assert not node.identity.exists


async def test_a_man_in_the_middle_sees_no_table_and_no_message_of_a_node_that_has_joined(
    deck: Deck, tmp_path: Path
) -> None:
    await Member(deck, tmp_path).join()
    async with between(deck, own_server(tmp_path / "evil")) as proxy:
        node = Member(deck, tmp_path, port=proxy.port)
        link = node.link()
        task = asyncio.create_task(link.run())
        try:
            await until(lambda: link.status.error, "the link fails")
            with pytest.raises(Unreachable, match="certificate"):
                await node.hub.versions("acme", "support")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert "certificate" in (link.status.error or "")
        assert proxy.read == b""
        assert node.received == []
    assert not deck.hub.fleet.nodes


async def test_another_nodes_certificate_makes_nobody_the_hub(deck: Deck, tmp_path: Path) -> None:
    evil, node = Member(deck, tmp_path, "n2"), Member(deck, tmp_path, "n1")
    await evil.join(await evil.invited(hosts=["127.0.0.1", "localhost"]))
    async with between(deck, evil.identity.certificate) as proxy:
        node = Member(deck, tmp_path, port=proxy.port)
        token = await node.invited()
        with pytest.raises(Unreachable, match="certificate"):
            await node.join(token)
        assert token.split("_")[2].encode() not in proxy.read


async def test_a_join_token_is_good_once_and_a_replay_is_refused(deck: Deck, tmp_path: Path) -> None:
    node, thief = Member(deck, tmp_path), Member(deck, tmp_path / "thief")
    token = await node.invited()
    both = await asyncio.gather(node.join(token), thief.join(token), return_exceptions=True)
    assert sorted(type(one).__name__ for one in both) == ["AgentError", "NoneType"]
    before = deck.fingerprint()
    with pytest.raises(AgentError, match="join_token_used"):
        await Member(deck, tmp_path / "later").join(token)
    assert deck.fingerprint() == before


async def test_a_join_token_that_has_expired_or_is_altered_opens_nothing(deck: Deck, tmp_path: Path) -> None:
    members, node = deck.hub.membership, Member(deck, tmp_path)
    assert members is not None
    now = members._now_ms
    members._now_ms = lambda: now() - 2 * DAY_MS
    old = await node.invited()
    members._now_ms = now
    with pytest.raises(AgentError, match="join_token_expired"):
        await node.join(old)
    prefix, id_, secret, authority = (await node.invited()).split("_")
    with pytest.raises(AgentError, match="unauthenticated"):
        await node.join("_".join((prefix, id_, secret[:-1] + ("0" if secret[-1] != "0" else "1"), authority)))
    assert not node.identity.exists


async def test_a_join_token_opens_neither_the_link_nor_any_other_call(deck: Deck, tmp_path: Path) -> None:
    token = await Member(deck, tmp_path).invited()
    client = deck.with_token(token)
    for path in ("datasets", "state", "join"):
        await deck.refused(401, "unauthenticated", "GET", path, client=client)
    with pytest.raises(Exception, match="401"):
        await LinkedAgent(deck).join(token)
    assert not deck.hub.fleet.nodes


async def test_a_persons_token_opens_nothing_on_the_nodes_listener(deck: Deck) -> None:
    members = deck.hub.membership
    assert members is not None
    trust = ssl.create_default_context(cadata=members.authority.pem)
    token = await deck.token("releaser")
    for path in ("/v1/state", "/v1/join", "/v1/link", "/v1/renew"):
        reader, writer = await asyncio.open_connection("127.0.0.1", deck.nodes_port, ssl=trust)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\n\r\n".encode())
        assert b" 401 " in await reader.readline()
        writer.close()


async def test_a_stolen_certificate_without_its_key_is_nothing(deck: Deck, tmp_path: Path) -> None:
    node, thief = Member(deck, tmp_path / "node"), Member(deck, tmp_path / "thief")
    await node.join()
    shutil.copytree(node.identity.folder, thief.identity.folder)
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = node.identity.certificate.read_bytes().partition(b"-----BEGIN CERTIFICATE")
    thief.identity.certificate.write_bytes(key + certificate[1] + certificate[2])
    with pytest.raises(ConfigError, match="certificate_unusable"):
        await thief.hub.versions("acme", "support")


async def test_a_certificate_that_somebody_else_signed_for_the_name_is_nothing(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path)
    await node.join()
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    evil = Authority.make(tmp_path / "evil", [], time.time_ns() // 1_000_000)
    shown = evil.sign_request(
        csr.public_bytes(serialization.Encoding.PEM).decode(), "n1", [], time.time_ns() // 1_000_000
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    node.identity.certificate.write_bytes(pem + shown.certificate.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(Unreachable):
        await node.hub.versions("acme", "support")
    assert not deck.hub.fleet.nodes


async def test_a_node_speaks_for_no_other_over_its_certificate(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path, "n1")
    await node.join()
    object.__setattr__(node.config, "node", "n2")
    link = node.link()
    task = asyncio.create_task(link.run())
    await until(lambda: link.status.error and "wrong_node" in link.status.error, "refused")
    task.cancel()
    assert not deck.hub.fleet.nodes


async def test_a_revoked_node_is_cut_off_while_it_is_linked_and_gets_nothing_more(deck: Deck, tmp_path: Path) -> None:
    node = Member(deck, tmp_path)
    await node.join()
    async with node.linked() as link:
        await node.hub.canary_records("0" * 64)  # a connection that stays open
        await deck.ok("POST", "nodes/n1/revoke")
        await until(lambda: not link.connected, "the link has ended")
        seen = len(node.received)
        with pytest.raises(AgentError, match="certificate_revoked"):
            await node.hub.canary_records("0" * 64)
        await until(lambda: "certificate_revoked" in (link.status.error or ""), "refused")
        assert len(node.received) == seen
