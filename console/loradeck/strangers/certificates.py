"""The certificate that a listener shows, read again when its file changes: nobody has to be restarted for a new one."""

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How long a look at the files is good for."""

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the `ssl` module does not name."""


class ServerCertificate:
    """The TLS of a listener. Connections that are open keep what they were opened with.

    Args:
        cert: PEM file of the certificate and those above it.
        key: PEM file of its key; None: it stands in `cert`.
        clients: PEM file of the authority whose certificates callers may show. Whether one has expired is left to
            who reads it: an expired one may be good for a renewal.
        required: callers must show one, and none that has expired.

    Raises: OSError: a file cannot be read, or is no certificate with its key (ssl.SSLError).
    """

    def __init__(
        self,
        cert: Path,
        key: Path | None = None,
        clients: Path | None = None,
        *,
        required: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cert, self._key, self._clients, self._clock = cert, key, clients, clock
        self._required = required
        self._seen = self._look()
        self._looked = clock()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """Returns what the next connection is opened with. New files that cannot be used are logged and left."""
        now = self._clock()
        if now - self._looked >= LOOK_S:
            self._looked = now
            try:
                seen = self._look()
                if seen != self._seen:
                    self._context, self._seen = self._load(), seen
                    log.info("the certificate in %s is used from now on", self.cert)
            except OSError as error:
                log.error("the certificate in %s cannot be used; the one before is kept: %s", self.cert, error)
        return self._context

    def _look(self) -> tuple[tuple[int, int], ...]:
        found = [path.stat() for path in (self.cert, self._key, self._clients) if path is not None]
        return tuple((stat.st_ino, stat.st_mtime_ns) for stat in found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self._key)
        if self._clients is not None:
            context.load_verify_locations(self._clients)
            context.verify_mode = ssl.CERT_REQUIRED if self._required else ssl.CERT_OPTIONAL
            if not self._required:
                context.verify_flags |= NO_CHECK_TIME
        return context
