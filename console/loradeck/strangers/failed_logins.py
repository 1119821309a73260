"""Failed logins: counted by address, told to the log in few lines, and slowed down."""

import math
from collections.abc import Callable

A_MINUTE = 20
"""Failed logins of one address in a minute before it is told to wait."""

ADDRESSES = 1000
"""Addresses that are counted apart in one minute. Failures of further ones are counted together."""

OTHERS = "other addresses"


class FailedLogins:
    """Failed logins of the running minute. A valid key is never slowed down: many callers may share one address.

    `say` writes a line to the log: the first failure of each address in a minute, and how many more there were.
    """

    def __init__(self, clock: Callable[[], float], say: Callable[[str], None]) -> None:
        self._clock = clock
        self._say = say
        self._counts: dict[str, int] = {}
        self._ends = 0.0

    def failed(self, address: str, what: str) -> int | None:
        """Counts one. Returns None, or the seconds that this address is to wait because it failed too often."""
        now = self._clock()
        if now >= self._ends:
            self._over()
            self._ends = now + 60
        if address not in self._counts and len(self._counts) >= ADDRESSES:
            address = OTHERS
        count = self._counts[address] = self._counts.get(address, 0) + 1
        if count == 1:
            plain = what.encode("unicode_escape").decode()  # a stranger wrote it, and it is read on a terminal
            self._say(f"failed login from {address}: {plain}")
        return math.ceil(self._ends - now) if count > A_MINUTE else None

    def _over(self) -> None:
        for address, count in self._counts.items():
            if count > 1:
                self._say(f"failed logins from {address}: {count - 1} more in that minute")
        self._counts.clear()
