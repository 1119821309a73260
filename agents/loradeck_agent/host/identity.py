"""The node's identity, the login with it, and the signatures that rest on it.

The identity is the key that the node made when it joined, and the certificate of the hub's authority for that key. A
login is what a connection to the hub is opened with; files that change are read again.

Heads of the hub's audit trail are signed with a key (Ed25519) that is derived from that of the node, so that there is
one secret to keep, and a node that joins again has another one. What was signed is remembered.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from nacl.signing import SigningKey

from loradeck.artifacts.ed25519 import is_signed, public_half, sign
from loradeck.artifacts.notes import cosigned_bytes, text_of
from loradeck.rules.certificates import Validity
from loradeck.rules.cosigning import refusal
from loradeck.schemas.link import Countersign, Countersigned
from loradeck.schemas.membership import HUB_NAME, Joined
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError, ConfigError
from loradeck_agent.host.secret_file import check_mode
from loradeck_agent.host.state_folder import make_private, write_durably

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.DOTALL)
_KEY = re.compile(r"-----BEGIN PRIVATE KEY-----.+?-----END PRIVATE KEY-----\n", re.DOTALL)


class Identity:
    """The identity in the folder `identity` of an agent's state; files 0600.

    The certificate lies with its key in one file, so that whoever reads it never finds two that do not belong together.
    """

    def __init__(self, state: Path) -> None:
        self.folder = state / "identity"
        self.certificate = self.folder / "node.pem"
        self.authority = self.folder / "authority.pem"
        self._validity = self.folder / "validity.json"

    @property
    def exists(self) -> bool:
        """Whether the node has joined."""
        return self.certificate.exists()

    def roots(self) -> tuple[str, ...]:
        """The SHA-256 of the authorities that it was given, in their order."""
        try:
            found = _CERTIFICATE.findall(self.authority.read_text())
            return tuple(hashlib.sha256(ssl.PEM_cert_to_DER_cert(one)).hexdigest() for one in found)
        except (OSError, ValueError):
            return ()

    def secret(self) -> bytes:
        """The node's private key (PEM), from which others are derived; empty where it has not joined."""
        try:
            found = _KEY.search(self.certificate.read_text())
        except OSError:
            return b""
        return found[0].encode() if found else b""

    def validity(self) -> Validity:
        """From when and until when its certificate counts. What cannot be read counts as over: it will be renewed."""
        try:
            return Validity(**json.loads(self._validity.read_text()))
        except (OSError, ValueError, TypeError):
            return Validity(0, 0)

    def keep(self, joined: Joined, key: str | None = None) -> None:
        """Keeps a certificate. `key` is its key (PEM); None: the one that is here.

        Raises:
            AgentError: `bad_certificate`: it is not for this key; nothing has changed.
            OSError: the folder cannot be written.
        """
        make_private(self.folder)
        if key is None:
            key = self.secret().decode()
        offered = self.folder / "offered.pem"
        write_durably(offered, (key + joined.certificate).encode())
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(offered)
        except ssl.SSLError as error:
            offered.unlink()
            raise AgentError(
                "bad_certificate", "the hub's certificate is not for this node's key", str(error)
            ) from error
        write_durably(self.authority, joined.authority.encode())
        offered.replace(self.certificate)
        write_durably(self._validity, json.dumps({"from_ms": joined.from_ms, "until_ms": joined.until_ms}).encode())


def is_join_token(token: str) -> bool:
    """Tells whether a token is a join token, which a node uses once to get its certificate."""
    return token.startswith("ldj_")


@dataclass(frozen=True)
class Login:
    """The credentials and TLS settings with which a connection to the hub is opened.

    `server` is the name that the hub's certificate must have; None: that of its URL's host.
    """

    headers: Mapping[str, str]
    tls: ssl.SSLContext | None
    server: str | None = None

    @classmethod
    def of_token(cls, token: str, tls: ssl.SSLContext | None = None) -> Login:
        """The login of a node that has a token."""
        return cls({"authorization": f"Bearer {token}"}, tls)


class HubLogin:
    """A node that has joined shows its certificate to an https hub; any other, a token."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._identity = Identity(config.state)
        self._seen: tuple[object, ...] = ()
        self._login: Login | None = None

    def now(self) -> Login:
        """The login as its files are now: the same object until one of them changes.

        Raises: ConfigError: a file is absent, unusable, or readable by others.
        """
        files = (self._identity.certificate, self._identity.authority, self._config.token, self._config.ca)
        seen = tuple(_version(path) for path in files)
        if self._login is None or seen != self._seen:
            self._login, self._seen = self._read(), seen
        return self._login

    @property
    def may_join(self) -> bool:
        """Tells whether this node has to join with its join token. Raises: ConfigError: it has no token at all."""
        secure = self._config.hub.startswith("https")
        return secure and not self._identity.exists and is_join_token(self._config.read_token())

    def _read(self) -> Login:
        config, identity = self._config, self._identity
        secure = config.hub.startswith("https")
        try:
            if secure and identity.exists:
                check_mode(identity.certificate, "certificate")
                tls = ssl.create_default_context(cafile=str(identity.authority))
                tls.load_cert_chain(identity.certificate)
                return Login({}, tls, HUB_NAME)
            trusted = str(config.ca) if config.ca else None
            return Login.of_token(config.read_token(), ssl.create_default_context(cafile=trusted) if secure else None)
        except OSError as error:
            raise ConfigError(
                "certificate_unusable",
                "a certificate that this agent needs cannot be used",
                f"{error.filename or config.ca or identity.folder}: {error}",
                "correct `ca` in agent.toml, or join again with a new join token",
            ) from error


def _version(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found else None


LOGS = 8
"""Logs whose heads a node remembers: those of hubs that it had before its present one."""


class Cosigner:
    """Signs heads of audit trails for a node that has joined; any other signs none."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._file = identity.folder / "cosigned.json"
        self._one_at_a_time = threading.Lock()

    def newest(self) -> Countersigned | None:
        """The newest head that this node has signed, of size 0 where it has signed none.

        None: it signs nothing. It has not joined, or what it has signed cannot be read.
        """
        key = self._key()
        try:
            return (*self._signed(public_half(key)), Countersigned(key=public_half(key)))[0] if key else None
        except (OSError, ValueError, TypeError):
            return None

    def countersign(self, ask: Countersign, hubs: Collection[str]) -> Countersigned | None:
        """Signs a head, or says why not. What it signs is durable before it is said; blocking.

        `hubs`: public keys of the log's hubs.

        Returns: None where this node signs nothing.
        """
        key = self._key()
        if key is None:
            return None
        with self._one_at_a_time:
            return self._countersign(ask, hubs, key)

    def _countersign(self, ask: Countersign, hubs: Collection[str], key: SigningKey) -> Countersigned:
        public = public_half(key)
        blank = Countersigned(key=public, log=ask.log)
        try:
            kept = self._signed(public)
            known = next((one for one in kept if one.log == ask.log), blank)
            text = text_of(ask.log, ask.head)
            if not is_signed(text.encode(), ask.signature, hubs):
                return known.model_copy(update={"refuses": "no hub of this log has signed this head"})
            if why := refusal(known.head, ask.head, ask.old, ask.proof):
                return known.model_copy(update={"refuses": why})
            at_s = int(time.time())
            made = blank.model_copy(
                update={**ask.head.model_dump(), "at_s": at_s, "signature": sign(key, cosigned_bytes(text, at_s))}
            )
            others = [one for one in kept if one.log != ask.log]
            document = [one.model_dump(mode="json") for one in (made, *others)[:LOGS]]
            write_durably(self._file, json.dumps(document).encode())
        except (OSError, ValueError, TypeError) as error:
            return blank.model_copy(update={"refuses": f"what it has signed cannot be read or written: {error}"})
        return made

    def _key(self) -> SigningKey | None:
        secret = self._identity.secret()
        return SigningKey(hashlib.sha256(b"loradeck/cosigner/1\n" + secret).digest()) if secret else None

    def _signed(self, public: str) -> tuple[Countersigned, ...]:
        """Reads what was signed with the present key, the newest first.

        Raises: OSError, ValueError, TypeError: it cannot be read.
        """
        try:
            found = [Countersigned.model_validate(one) for one in json.loads(self._file.read_bytes())]
        except FileNotFoundError:
            return ()
        return tuple(one for one in found if one.key == public)
