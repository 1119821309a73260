"""The connections of a listener that have shown a key, and which of them ends where there is room for no more.

That is the one that was idle for longest, of the tenant that holds most of all and of the key that holds most of its.
So who opens thousands takes them from nobody else (as Envoy and Kong count connections by consumer).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

log = logging.getLogger(__name__)

SHOWN_S = 60.0
"""Seconds for which it is said whose connections were ended; as often it is logged."""


MOST_SHOWN = 20
"""Tenants of which it is shown how many connections they hold: those that hold most."""


class Owner(NamedTuple):
    """Whose key a connection has shown first.

    `tenant`: at a hub who a token is for, which may be a node or a person. `key`: its digest, or the id of the token.
    """

    tenant: str
    key: str


@dataclass(slots=True)
class _Held:
    owner: Owner
    transport: asyncio.Transport


class Connections:
    """All such connections of one listener, by the protocol that serves each."""

    def __init__(self) -> None:
        self._held: dict[asyncio.BaseProtocol, _Held] = {}
        self._idle: dict[Owner, OrderedDict[asyncio.BaseProtocol, None]] = defaultdict(OrderedDict)
        """The connections of each owner on which no request is under way that has come as a whole, the idlest first."""
        self._of_tenant: Counter[str] = Counter()
        self._keys: dict[str, Counter[str]] = defaultdict(Counter)
        self._most: list[tuple[int, str]] = []
        """A heap of what tenants held, negative, and their names; what is not so any more is passed over."""
        self.ended = 0
        """How many were ended to make room, since this listener began."""
        self._ended_of = Owner("", "")
        self._ended_at = -SHOWN_S
        self._logged_at = -SHOWN_S

    def __len__(self) -> int:
        return len(self._held)

    def joins(self, connection: asyncio.BaseProtocol, transport: asyncio.Transport, owner: Owner) -> None:
        """Counts a connection that has just shown a key."""
        self._held[connection] = _Held(owner, transport)
        self._idle[owner][connection] = None
        self._of_tenant[owner.tenant] += 1
        self._keys[owner.tenant][owner.key] += 1
        heapq.heappush(self._most, (-self._of_tenant[owner.tenant], owner.tenant))
        if len(self._most) > 64 + 4 * len(self._of_tenant):
            self._most = [(-count, tenant) for tenant, count in self._of_tenant.items()]
            heapq.heapify(self._most)

    def leaves(self, connection: asyncio.BaseProtocol) -> None:
        """Counts a connection no more: it is over."""
        held = self._held.pop(connection, None)
        if held is None:
            return
        tenant, key = held.owner
        idle, keys = self._idle[held.owner], self._keys[tenant]
        idle.pop(connection, None)
        self._of_tenant[tenant] -= 1
        keys[key] -= 1
        if not keys[key]:
            del keys[key], self._idle[held.owner]
        if self._of_tenant[tenant]:
            heapq.heappush(self._most, (-self._of_tenant[tenant], tenant))
        else:
            del self._of_tenant[tenant], self._keys[tenant]

    def begins(self, connection: asyncio.BaseProtocol) -> None:
        """A request is under way on a connection."""
        held = self._held.get(connection)
        if held is not None:
            self._idle[held.owner].pop(connection, None)

    def rests(self, connection: asyncio.BaseProtocol) -> None:
        """No request is under way on a connection: it is over, or more of it has come and not all."""
        held = self._held.get(connection)
        if held is not None:
            idle = self._idle[held.owner]
            idle[connection] = None
            idle.move_to_end(connection)

    def most(self) -> list[tuple[str, int]]:
        """The tenants that hold most, at most `MOST_SHOWN` of them, and how many each holds."""
        return self._of_tenant.most_common(MOST_SHOWN)

    def make_room(self) -> bool:
        """Ends one connection. False: all have a request under way, or there is none."""
        passed_over = list[tuple[int, str]]()
        found: Owner | None = None
        while self._most and found is None:
            count, tenant = self._most[0]
            if -count != self._of_tenant.get(tenant, 0):
                heapq.heappop(self._most)
                continue
            idle = [key for key in self._keys[tenant] if self._idle[Owner(tenant, key)]]
            if idle:
                found = Owner(tenant, max(idle, key=self._keys[tenant].__getitem__))
            else:
                passed_over.append(heapq.heappop(self._most))
        for entry in passed_over:
            heapq.heappush(self._most, entry)
        if found is None:
            return False
        self._end(found)
        return True

    def _end(self, owner: Owner) -> None:
        connection = next(iter(self._idle[owner]))
        transport = self._held[connection].transport
        self.ended, self._ended_of, self._ended_at = self.ended + 1, owner, time.monotonic()
        if self._ended_at - self._logged_at >= SHOWN_S:
            self._logged_at = self._ended_at
            log.warning("%s", self.trouble)
        self.leaves(connection)
        transport.close()  # nothing is under way on it

    @property
    def trouble(self) -> str:
        """Whose connections were ended of late, for an on-call engineer; empty where nobody's were."""
        if time.monotonic() - self._ended_at >= SHOWN_S:
            return ""
        tenant, key = self._ended_of
        held, of_key = self._of_tenant.get(tenant, 0), self._keys.get(tenant, Counter())[key]
        return (
            f"there is no room for more connections: {tenant} holds {held} of {len(self)}, {of_key} of them by the key "
            f"{key[:12]}…, and its idlest are ended"
        )
