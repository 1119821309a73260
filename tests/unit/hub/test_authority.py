"""The hub's authority: what it signs, and what it refuses to."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from loradeck.hub.access.authority import Authority, Stage, pem_of, read_shown
from loradeck.rules.certificates import LIFETIME_MS, Validity
from loradeck.rules.errors import Refused
from loradeck.strangers.certificates import ServerCertificate

NOW = 1_900_000_000_000


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *hosts: str) -> str:
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    made = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_a_node_gets_the_name_and_the_hosts_that_it_was_given_and_none_that_it_asks_for(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, ["hub.example.com"], NOW)
    csr = request(ec.generate_private_key(ec.SECP256R1()), "hub.example.com")
    shown = authority.sign_request(csr, "gpu-01", ["gpu-01.example.com", "10.0.0.5"], NOW)
    assert (shown.node, shown.hosts) == ("gpu-01", ("gpu-01.example.com", "10.0.0.5"))
    assert shown.validity == Validity.beginning(NOW)
    again = read_shown(shown.certificate.public_bytes(serialization.Encoding.DER))
    assert again == shown
    assert pem_of(shown).startswith("-----BEGIN CERTIFICATE-----")


def test_a_renewed_certificate_has_the_same_key_name_and_hosts(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, [], NOW)
    first = authority.sign_request(request(ec.generate_private_key(ec.SECP256R1())), "gpu-01", ["gpu-01"], NOW)
    later = NOW + 2 * LIFETIME_MS
    second = authority.renew(first, later)
    assert (second.node, second.key, second.hosts) == (first.node, first.key, first.hosts)
    assert second.validity == Validity.beginning(later)
    assert second.certificate.serial_number != first.certificate.serial_number


@pytest.mark.parametrize("what", ["nothing", "an rsa key", "a signature of another key"])
def test_what_is_no_request_of_its_own_key_is_refused(tmp_path: Path, what: str) -> None:
    authority = Authority.make(tmp_path, [], NOW)
    text = "nothing"
    if what == "an rsa key":
        text = request(rsa.generate_private_key(65537, 2048))
    elif what == "a signature of another key":
        good = x509.load_pem_x509_csr(request(ec.generate_private_key(ec.SECP256R1())).encode())
        other = x509.load_pem_x509_csr(request(ec.generate_private_key(ec.SECP256R1())).encode())
        der = good.public_bytes(serialization.Encoding.DER).replace(good.signature[-30:], other.signature[-30:])
        text = ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    with pytest.raises(Refused, match="invalid_request"):
        authority.sign_request(text, "gpu-01", [], NOW)


def test_secrets_are_the_owners_alone_and_a_second_authority_is_refused(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, ["hub"], NOW)
    folder = tmp_path / "tls"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(Refused, match="exists"):
        Authority.make(tmp_path, [], NOW)
    assert Authority(tmp_path).fingerprint == authority.fingerprint


@pytest.mark.parametrize("host", ["", "a b", "-x", "http://hub", "hub:7400", "ü"])
def test_what_is_no_host_is_refused_before_anything_is_made(tmp_path: Path, host: str) -> None:
    with pytest.raises(Refused, match="no name of a host"):
        Authority.make(tmp_path, [host], NOW)
    assert not (tmp_path / "tls").exists()


def test_the_hubs_own_certificate_is_renewed_when_it_is_due_and_keeps_its_names(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, ["hub.example.com"], NOW)
    before = authority.served()
    assert not authority.renew_server(before.validity.renew_ms - 1)
    assert authority.served() == before
    assert authority.renew_server(before.validity.renew_ms)
    after = authority.served()
    assert after.hosts == before.hosts == ("hub.example.com", "hub.loradeck", "localhost", "127.0.0.1", "::1")
    assert after.key != before.key


def test_a_listener_reads_a_new_certificate_and_keeps_the_old_one_where_that_is_broken(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, [], NOW)
    now = [0.0]
    shown = ServerCertificate(authority.server, clients=authority.certificates, clock=lambda: now[0])
    first = shown.context()
    good = authority.server.read_bytes()
    authority.server.write_text("broken")
    now[0] = 2.0
    assert shown.context() is first
    authority.server.write_bytes(good)
    assert shown.context() is first  # it has just looked
    now[0] = 4.0
    second = shown.context()
    assert second is not first
    assert second.verify_mode is ssl.CERT_OPTIONAL
    now[0] = 6.0
    assert shown.context() is second


def test_an_authority_is_replaced_in_three_steps_and_a_step_that_was_cut_short_is_taken(tmp_path: Path) -> None:
    old = Authority.make(tmp_path, ["hub.example.com"], NOW)
    first, pem, csr = old.fingerprint, old.pem, request(ec.generate_private_key(ec.SECP256R1()))
    old.rotate(NOW)
    assert (old.stage, old.roots[0], len(old.roots)) == (Stage.TRUSTED, first, 2)
    second = old.roots[1]
    assert Authority(tmp_path).sign_request(csr, "n1", [], NOW).certificate.issuer == _read(pem).subject

    certificates, served = old.certificates.read_bytes(), old.served()
    old.rotate(NOW)
    assert (old.stage, old.roots) == (Stage.SIGNS, (second, first))
    assert old.served().hosts == served.hosts
    old.served().certificate.verify_directly_issued_by(_read(old.signer_pem))
    key = (tmp_path / "tls/authority.key").read_bytes()

    (tmp_path / "tls/successor.key").write_bytes(key)  # as if it had been cut off after the certificates
    (tmp_path / "tls/authority.key").write_bytes(_other_key())
    again = Authority(tmp_path)
    assert (again.stage, again.roots) == (Stage.SIGNS, (second, first))
    assert (tmp_path / "tls/authority.key").read_bytes() == key
    assert certificates != again.certificates.read_bytes()

    again.rotate(NOW)
    assert (again.stage, again.roots) == (Stage.ALONE, (second,))
    again.sign_request(csr, "n1", [], NOW).certificate.verify_directly_issued_by(_read(again.pem))


def _read(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _other_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
