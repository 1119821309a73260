"""The hub's certificate authority: it signs the hub's own certificate and those of the nodes that have joined.

Its files lie in the folder `tls` of the hub's data: `authority.pem`, which everybody may read who is to trust this hub,
`authority.key`, and `server.pem`, the hub's certificate with its key; `server-earlier.pem` is the one before. While the
authority is replaced, `authority.pem` holds the old and the new one, the one that signs first, and `successor.key` the
new one's key until it signs.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from loradeck.artifacts.staging import private_folder, replace_durably
from loradeck.rules.certificates import BACKDATED_MS, Renewal, Validity, renewal
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.schemas.membership import GATEWAY_NAME, HUB_NAME

AUTHORITY_MS = 3650 * DAY_MS
"""How long an authority lives."""

HERE = (HUB_NAME, "localhost", "127.0.0.1", "::1")
"""Names that a hub's certificate always has."""

_SERVER = "loradeck hub"

_DNS_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


class Stage(StrEnum):
    """A step of an authority's replacement."""

    ALONE = "alone"  # there is one authority
    TRUSTED = "trusted"  # its successor is trusted as well, and signs nothing yet
    SIGNS = "signs"  # the successor signs, and the old one is still trusted


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A certificate of this authority as somebody shows it. `key` is the SHA-256 of its public key, hexadecimal."""

    node: str
    key: str
    validity: Validity
    hosts: tuple[str, ...]
    certificate: x509.Certificate


class Authority:
    """The authority in a hub's data folder. Raises: Refused `no_authority`: there is none."""

    def __init__(self, data: Path) -> None:
        folder = data / "tls"
        self.certificates = folder / "authority.pem"
        self.server, self._earlier = folder / "server.pem", folder / "server-earlier.pem"
        self._key_file, self._successor_file = folder / "authority.key", folder / "successor.key"
        try:
            self._read()
        except FileNotFoundError:
            raise Refused(
                "no_authority",
                "this hub has no authority for certificates",
                detail=str(folder),
                fix="make one with `loradeck hub init --host NAME`",
            ) from None

    def _read(self) -> None:
        pem = self.certificates.read_bytes()
        self._roots = x509.load_pem_x509_certificates(pem)
        self.pem = pem.decode()
        self._key = _key_in(self._key_file)
        if self._certificate.public_key() != self._key.public_key():  # a switch to the successor was cut short
            self._key = _key_in(self._successor_file)
            self._successor_file.replace(self._key_file)

    @property
    def _certificate(self) -> x509.Certificate:
        return self._roots[0]

    @classmethod
    def make(cls, data: Path, hosts: Sequence[str], now_ms: int) -> Authority:
        """Makes an authority, and the hub's certificate for these host names and addresses.

        Raises: Refused `exists`; `invalid_request` for a name that is none.
        """
        folder = data / "tls"
        if (folder / "authority.pem").exists():
            raise Refused(
                "exists", "this hub has an authority", detail=str(folder), fix="`loradeck hub rotate` renews its own"
            )
        check_hosts(hosts)
        private_folder(folder)
        key, made = _new_root("loradeck-authority", now_ms)
        replace_durably(folder / "authority.key", _private(key))
        replace_durably(folder / "authority.pem", made)
        authority = cls(data)
        authority.serve(hosts, now_ms)
        return authority

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of its certificate, hexadecimal: what a join token carries."""
        return self.roots[0]

    @property
    def roots(self) -> tuple[str, ...]:
        """The fingerprints of all authorities that are trusted now, the one that signs first."""
        return tuple(hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest() for root in self._roots)

    @property
    def until_ms(self) -> int:
        """When the certificate of the authority that signs ends, in milliseconds since 1970."""
        return int(self._certificate.not_valid_after_utc.timestamp() * 1000)

    @property
    def signer_pem(self) -> str:
        """The certificate of the authority that signs."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    # ---- its successor ---------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """The stage of this authority's rotation: no successor, successor trusted, or successor signing."""
        if len(self._roots) == 1:
            return Stage.ALONE
        return Stage.TRUSTED if self._successor_file.exists() else Stage.SIGNS

    def rotate(self, now_ms: int) -> None:
        """Takes the next step of its replacement. Cut short, it is done or not begun when the files are read again."""
        pems = [root.public_bytes(Encoding.PEM) for root in self._roots]
        stage = self.stage
        if stage is Stage.ALONE:
            key, made = _new_root(f"loradeck-authority {secrets.token_hex(4)}", now_ms)
            replace_durably(self._successor_file, _private(key))
            pems.append(made)
        else:
            pems = pems[::-1] if stage is Stage.TRUSTED else pems[:1]
        replace_durably(self.certificates, b"".join(pems))
        self._read()
        if stage is Stage.TRUSTED:
            self.serve(self.served().hosts, now_ms)

    # ---- the hub's own certificate ---------------------------------------------------------------------------

    def serve(self, hosts: Iterable[str], now_ms: int) -> None:
        """Writes a new certificate of the hub, with a new key. A running hub shows it at the next connection."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = tuple(dict.fromkeys((*hosts, *HERE)))
        made = self._sign(key.public_key(), _SERVER, names, Validity.beginning(now_ms), client=False)
        if self.server.exists():
            replace_durably(self._earlier, self.server.read_bytes())
        replace_durably(self.server, _private(key) + made.public_bytes(Encoding.PEM))

    def served(self) -> Shown:
        """The hub's own certificate."""
        return _shown(x509.load_pem_x509_certificate(self.server.read_bytes()))

    def renew_server(self, now_ms: int) -> bool:
        """Renews the hub's certificate if it is due, or shows the one before again. Returns whether it is another."""
        served = self.served()
        earlier = self._replaced_by(served)
        match renewal(served.validity, earlier.validity if earlier is not None else None, now_ms):
            case Renewal.KEEP:
                return False
            case Renewal.NEW:
                self.serve(served.hosts, now_ms)
            case Renewal.EARLIER:
                replace_durably(self.server, self._earlier.read_bytes())
        return True

    def _replaced_by(self, served: Shown) -> Shown | None:
        """The certificate before this one, if it could be shown in its place: for all its hosts, by the same signer."""
        if not self._earlier.exists():
            return None
        earlier = _shown(x509.load_pem_x509_certificate(self._earlier.read_bytes()))
        is_same = earlier.certificate.issuer == served.certificate.issuer and {*served.hosts} <= {*earlier.hosts}
        return earlier if is_same else None

    # ---- nodes -----------------------------------------------------------------------------------------------

    def sign_request(self, request: str, node: str, hosts: Sequence[str], now_ms: int) -> Shown:
        """A node's first certificate, for the key that signed a certificate request (PEM). Nothing else in it counts.

        Raises: Refused `invalid_request`: it is no request, or its key did not sign it.
        """
        try:
            read = x509.load_pem_x509_csr(request.encode())
            valid = read.is_signature_valid
            key = read.public_key()
        except (ValueError, InvalidSignature, TypeError):
            valid, key = False, None
        if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Refused(
                "invalid_request",
                "this is no certificate request of a P-256 key",
                fix="let `loradeck-agent join` make it",
            )
        return _shown(self._sign(key, node, hosts, Validity.beginning(now_ms), client=True))

    def renew(self, shown: Shown, now_ms: int) -> Shown:
        """A new certificate for the same node, key and hosts."""
        key = shown.certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return _shown(self._sign(key, shown.node, shown.hosts, Validity.beginning(now_ms), client=True))

    def _sign(
        self, key: ec.EllipticCurvePublicKey, name: str, hosts: Iterable[str], validity: Validity, *, client: bool
    ) -> x509.Certificate:
        uses = [ExtendedKeyUsageOID.SERVER_AUTH] + ([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternatives = _alternatives(hosts)
        builder = (
            _builder(subject, self._certificate.subject, key, validity)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def check_hosts(hosts: Iterable[str]) -> None:
    """Raises Refused `invalid_request` for a host that is no name and no address, or a name that no host can have."""
    kept = {str(name.value) for name in _alternatives(host.lower() for host in hosts)} & {HUB_NAME, GATEWAY_NAME}
    if kept:
        fix = "leave it out; `loradeck node token --gateway` makes a gateway"
        raise Refused("invalid_request", f"{min(kept)} is no host's name", fix=fix)


def read_shown(der: bytes) -> Shown:
    """Parses a certificate that a handshake has verified."""
    return _shown(x509.load_der_x509_certificate(der))


def ends_ms(file: Path) -> int:
    """Reads when the first certificate of a PEM file ends, in milliseconds since 1970. Raises: OSError, ValueError."""
    return int(x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp() * 1000)


def pem_of(shown: Shown) -> str:
    """Writes a certificate as PEM."""
    return shown.certificate.public_bytes(Encoding.PEM).decode()


def _shown(certificate: x509.Certificate) -> Shown:
    name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = tuple(str(alternative.value) for alternative in found)
    except x509.ExtensionNotFound:
        hosts = ()
    return Shown(
        node=str(name),
        key=hashlib.sha256(public).hexdigest(),
        validity=Validity(int(begins.timestamp() * 1000), int(ends.timestamp() * 1000)),
        hosts=hosts,
        certificate=certificate,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: Validity
) -> x509.CertificateBuilder:
    begins, ends = (datetime.fromtimestamp(at // 1000, UTC) for at in (validity.from_ms, validity.until_ms))
    return x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), begins, ends).add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key), critical=False
    )


def _usage(**given: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})


def _alternatives(hosts: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in hosts:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _DNS_NAME.fullmatch(host):
                fix = "a DNS name in ASCII, or an IP address"
                raise Refused("invalid_request", f"{host!r} is no name of a host", fix=fix) from None
            found.append(x509.DNSName(host))
    return found


def _new_root(name: str, now_ms: int) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A new authority: its key, and its certificate (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        _builder(subject, subject, key.public_key(), Validity(now_ms - BACKDATED_MS, now_ms + AUTHORITY_MS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, made.public_bytes(Encoding.PEM)


def _key_in(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
