"""A router that asks its callers for certificates: a tenant's key alone, from anywhere else, opens nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.attacks.raw import post
from tests.fleets.linked.hub import data_folder
from tests.fleets.waiting import PATIENCE_S
from tests.integration.router.running import KEY, Running, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.hub.access.authority import Authority
from loradeck.strangers.certificates import ServerCertificate

BODY = json.dumps({"model": "acme", "messages": [{"role": "user", "content": "hello"}]}).encode()
ASK = post("/v1/chat/completions", f"authorization: Bearer {KEY}", body=BODY)
NOW = dt.datetime.now(dt.UTC)

SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class CallersAuthority:
    """An authority of a company's own, and the certificates that it makes for callers."""

    def __init__(self, path: Path, name: str) -> None:
        path.mkdir()
        self._path, self._key, self.pem = path, ec.generate_private_key(ec.SECP256R1()), path / "ca.pem"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._write(self.pem, self._made(self._name, self._key, ca=True))

    def caller(self, name: str, days: int = 1) -> Path:
        """A caller's certificate with its key; it counts until so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        path = self._path / f"{name}.pem"
        self._write(path, self._made(subject, key, days=days), key)
        return path

    def _made(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False, days: int = 1
    ) -> x509.Certificate:
        end = NOW + dt.timedelta(days=days)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(min(NOW, end) - dt.timedelta(days=2)).not_valid_after(end)
        # From Python 3.13 on only what RFC 5280 asks for counts: section 4.2.1.1 to 4.2.1.3.
        authority = self._key.public_key()
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        if ca:
            builder = builder.add_extension(SIGNS, critical=True)
        return builder.add_extension(x509.BasicConstraints(ca, None), critical=True).sign(self._key, hashes.SHA256())

    @staticmethod
    def _write(path: Path, made: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        pem = serialization.Encoding.PEM
        private = (
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) if key else b""
        )
        path.write_bytes(made.public_bytes(pem) + private)


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[tuple[Running, Authority, CallersAuthority]]:
    """A router that serves acme to callers of one authority."""
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(data_folder())
        authority = Authority.make(tmp_path / "hub", [], time.time_ns() // 1_000_000)
        callers = CallersAuthority(tmp_path / "callers", "our callers")
        router = Running(path)
        stack.push_async_callback(router.close)
        await router.start_here(tls=ServerCertificate(authority.server, None, callers.pem, required=True))
        engine = Upstream("e0", str(path / "e0.sock"))
        await engine.start()
        stack.push_async_callback(engine.stop)
        await router.post("/control/hub", {"connected": True})
        await router.engines(("e0", str(path / "e0.sock"), [release("v1")]))
        await router.table(entry(release("v1")))
        yield router, authority, callers


async def answer(router: Running, authority: Authority, certificate: Path | None) -> bytes:
    """The first line that a caller with acme's key gets; empty where the connection ends instead."""
    trust = ssl.create_default_context(cafile=str(authority.certificates))
    if certificate is not None:
        trust.load_cert_chain(certificate)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port, ssl=trust)
            writer.write(ASK)
            return await reader.readline()
    except OSError:  # of TLS too
        return b""
    finally:
        if writer is not None:
            writer.transport.abort()


async def test_a_key_without_a_certificate_of_our_callers_gets_no_answer(
    router: tuple[Running, Authority, CallersAuthority], tmp_path: Path
) -> None:
    running, authority, callers = router
    before = await running.get("/control/stats")
    strangers = CallersAuthority(tmp_path / "strangers", "our callers")
    for shown in (None, strangers.caller("app"), callers.caller("late", days=-1)):
        assert await answer(running, authority, shown) == b""
    assert await running.get("/control/stats") == before
    assert (await answer(running, authority, callers.caller("app"))).startswith(b"HTTP/1.1 200")
