"""The node's identity: the key that it made when it joined, and the certificate of the hub's authority for that key."""

import hashlib
import json
import re
import ssl
from pathlib import Path

from loradeck.rules.certificates import Validity
from loradeck.schemas.membership import Joined
from loradeck_agent.host.errors import AgentError
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
