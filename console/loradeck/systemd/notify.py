"""What a service tells systemd: that it is ready, that it lives, that it ends. The protocol of sd_notify(3)."""

import asyncio
import logging
import os
import socket
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

FED_EACH = 3
"""The watchdog is fed so many times in the time that it waits."""


class Service:
    """This process as a service. Where systemd did not start it, everything here does nothing.

    The processes that it starts are not told of systemd: they could speak for it.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = usec.isdigit() and pid in ("", str(os.getpid()))
        self.watchdog_s = int(usec) / 1e6 if watched and self._address else None
        """How long systemd waits for a sign of life; None: it waits for none."""
        self._ready = False

    def ready(self) -> None:
        """It serves. Said once."""
        if not self._ready:
            self._ready = True
            self._say("READY=1")

    def stopping(self) -> None:
        """It is about to end."""
        self._say("STOPPING=1")

    async def feed(self) -> None:
        """Feeds the watchdog for ever, from the event loop: one that hangs feeds it no more, and systemd ends it."""
        while self.watchdog_s is not None:
            self._say("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / FED_EACH)

    def _say(self, what: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.sendto(what.encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            log.warning("systemd is not told %s: %s", what, error)
