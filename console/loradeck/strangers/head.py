"""The head of a connection's first request: whether it is whole, whether it is too large, and the key that it shows.

It is only looked at as far as a stranger is worth it. Who passes is parsed, and asked for the key, by the server.
"""

import re
from dataclasses import dataclass

from loradeck.schemas.fault import Fault

HEAD_BYTES = 16 * 1024
"""Bytes of a request's line and headers together."""

HEAD_LINES = 100
"""Headers of one request."""

LINE_BYTES = 8000
"""Bytes of one header. The WebSocket library stops reading at 8,192."""

_END = re.compile(rb"\n\r?\n")
_BEARER = re.compile(rb"\nauthorization:[ \t]*bearer[ \t]+([^\r\n]*)", re.IGNORECASE)


@dataclass(frozen=True)
class RequestHead:
    """A whole head. `bearer` is None where it shows no key; `target` is as it was sent, never longer than a line."""

    method: str
    target: str
    bearer: str | None


class BadHead(Fault):
    """A head that is refused with an HTTP status."""

    def __init__(self, status: int, code: str, title: str, fix: str) -> None:
        super().__init__(code, title, fix=fix)
        self.status = status


def read_head(data: bytes | bytearray, seen: int = 0) -> RequestHead | None:
    """The head at the beginning of what was received; None: more of it has to come.

    `seen`: how many bytes were looked at before.

    Raises: BadHead: too large, or no HTTP/1.
    """
    if data and not data[:1].isalpha():
        raise BadHead(400, "not_http", "this is not HTTP/1.1", "use https:// only where the server has TLS")
    end = _END.search(data, max(0, seen - 3))
    if (end.end() if end else len(data)) > HEAD_BYTES:
        raise _too_large(f"{HEAD_BYTES} bytes together")
    if end is None:
        return None
    head = bytes(data[: end.end()])
    lines = head.split(b"\n")[:-2]
    if len(lines) - 1 > HEAD_LINES:
        raise _too_large(f"{HEAD_LINES} headers")
    if max(map(len, lines)) > LINE_BYTES:
        raise _too_large(f"{LINE_BYTES} bytes in one header")
    method, _, rest = lines[0].decode("latin-1").partition(" ")
    found = _BEARER.search(head)
    return RequestHead(method, rest.partition(" ")[0], found[1].strip().decode("latin-1") if found else None)


def _too_large(most: str) -> BadHead:
    return BadHead(431, "header_too_large", f"a request's headers have at most {most}", "send fewer or shorter headers")
