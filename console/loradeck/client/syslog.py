"""Delivery of messages to a syslog receiver, confirmed: RFC 5424 over TLS (RFC 5425) or a UNIX stream socket.

Syslog has no acknowledgements: what a sender has written may lie in a buffer of a receiver that dies. So each batch
gets a connection of its own, which the sender ends first, and it counts as delivered once the receiver has answered
that end with its own, which it does after it has read everything. Otherwise all is sent again: at least once.
"""

import datetime
import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0
"""Seconds that a receiver has to accept, to take what is written, and to end its side."""

AUDIT = 13
"""The facility: log audit."""

_SEVERITIES = {1: 6, 2: 5, 3: 4}
"""OCSF's severity -> syslog's: informational, notice, warning."""


class NotConfirmed(OSError):
    """The receiver did not confirm that it has read everything."""


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """A receiver: `path` of a UNIX stream socket, or `host` and `port` under `tls`.

    `trusting`: a connection that ends without TLS's own end (close_notify) counts as confirmed, too. Some receivers
    send none; then whoever can cut the network could make lines count as delivered.
    """

    path: Path | None = None
    host: str = ""
    port: int = 6514
    tls: ssl.SSLContext | None = None
    trusting: bool = False

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"tls://{self.host}:{self.port}"

    def deliver(self, messages: Sequence[bytes]) -> None:
        """Sends messages, and returns once the receiver has read them all. Blocking.

        Raises: OSError: it is away, or did not confirm: what has arrived is not known.
        """
        framed = b"".join(b"%d %b" % (len(message), message) for message in messages)
        with self._connected() as connection:
            connection.sendall(framed)
            if isinstance(connection, ssl.SSLSocket):
                try:
                    connection.unwrap()
                except ssl.SSLEOFError as error:
                    if not self.trusting:
                        raise NotConfirmed("it ended the connection without TLS's close_notify") from error
                    return
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):  # a reset: it has ended first, and left lines unread
                pass

    def _connected(self) -> socket.socket:
        if self.path is not None:
            local = socket.socket(socket.AF_UNIX)
            try:
                local.settimeout(PATIENCE_S)
                local.connect(str(self.path))
            except BaseException:
                local.close()
                raise
            return local
        assert self.tls is not None
        plain = socket.create_connection((self.host, self.port), PATIENCE_S)
        try:
            return self.tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


def message(event: dict[str, Any], hub: str) -> bytes:
    """An OCSF event as a message of RFC 5424, without its frame. `hub`: the hub's name, which stands as the host's."""
    seconds = datetime.datetime.fromtimestamp(event["time"] / 1000, datetime.UTC)
    host = "".join(char if "!" <= char <= "~" else "_" for char in hub)[:255] or "-"
    priority = AUDIT * 8 + _SEVERITIES[event["severity_id"]]
    head = f"<{priority}>1 {seconds:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + f"Z {host} loradeck - audit - "
    return (head + json.dumps(event, separators=(",", ":"))).encode("ascii")
