"""The sockets on which a router listens for callers. The agent holds them too, so that they outlive each router.

While no router accepts, the kernel queues connections and refuses none. Where systemd has the sockets it gives them to
the agent (sd_listen_fds(3)). An agent that finds a router running gets them from it: SCM_RIGHTS of unix(7).
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

BACKLOG = 1024
_FIRST = 3
"""The first file that systemd gives a process: SD_LISTEN_FDS_START."""
_MOST = 16
_GIVEN_S = 2.0


class Listening:
    """The callers' sockets of one node.

    Args:
        listen: HOST:PORT, where they are bound if nobody gives them.
        giver: the socket on which a router that runs gives its own.
    """

    def __init__(self, listen: str, giver: Path) -> None:
        self._listen = listen
        self._giver = giver
        self._sockets = from_systemd()
        self._kept = bool(self._sockets)

    def files(self) -> tuple[int, ...]:
        """The numbers of the sockets' files, bound now where there are none for the address.

        Raises: OSError: the address cannot be bound.
        """
        if not self._kept and not _names(self._sockets) <= {at[1] for at in _addresses(self._listen)}:
            self.close()  # the configuration names another address now
        self._sockets = self._sockets or bind(self._listen)
        return tuple(held.fileno() for held in self._sockets)

    async def adopt(self) -> None:
        """Gets the sockets of the router that runs, where none are held."""
        if self._sockets:
            return
        try:
            self._sockets = await asyncio.to_thread(_given, self._giver)
        except OSError as error:
            log.warning("the router's sockets are its own, and end with it: %s: %s", self._giver, error)

    def close(self) -> None:
        """Lets the sockets go, but for those of systemd: connections are refused then, unless a router has them too."""
        if not self._kept:
            for held in self._sockets:
                held.close()
            self._sockets = []


class Giver(asyncio.Protocol):
    """Gives whoever connects these sockets, and hangs up. For the agent alone: the address is its user's own."""

    def __init__(self, files: Sequence[int]) -> None:
        self._files = files

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Gives them."""
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as line:
            socket.send_fds(line, [b"\n"], list(self._files))
        transport.close()


def from_systemd() -> list[socket.socket]:
    """The sockets that a service manager has given this process; the processes that it starts are not told of them."""
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    return [_taken(file) for file in range(_FIRST, _FIRST + int(count))]


def bind(listen: str) -> list[socket.socket]:
    """Sockets that listen at HOST:PORT, one for each address that the host has.

    Raises: OSError: one cannot be bound, but for an address that this machine does not have beside one that it has.
    """
    made: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in _addresses(listen):
            bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            made.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                bound.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                missing = error
                made.pop().close()
                continue
            bound.listen(BACKLOG)
            bound.setblocking(False)
        if missing is not None and not made:
            raise missing
    except BaseException:
        for bound in made:
            bound.close()
        raise
    return made


def _addresses(listen: str) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    host, _, port = listen.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, (str(at[0]), int(at[1]))) for family, _, _, _, at in found))


def _names(sockets: Sequence[socket.socket]) -> set[tuple[str, int]]:
    return {held.getsockname()[:2] for held in sockets}


def _given(giver: Path) -> list[socket.socket]:
    """The sockets that the router that runs has. Blocks. Raises OSError: it does not give them."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_GIVEN_S)
        line.connect(str(giver))
        _, files, _, _ = socket.recv_fds(line, 1, _MOST)
    if not files:
        raise ConnectionError(errno.ECONNRESET, "it hung up")
    return [_taken(file) for file in files]


def _taken(file: int) -> socket.socket:
    """A socket of this process, which its children do not inherit."""
    os.set_inheritable(file, False)
    return socket.socket(fileno=file)
