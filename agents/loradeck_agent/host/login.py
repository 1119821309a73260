"""The credentials of an agent, and the authority by which it knows its hub; files that change are read again."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loradeck.schemas.membership import HUB_NAME
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.host.identity import Identity
from loradeck_agent.host.secret_file import check_mode


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
