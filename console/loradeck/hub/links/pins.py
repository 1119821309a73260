"""Pins: releases that somebody chose on a node without the hub, as the log has them, until an unpin ends them.

A node reports its pins with every hello and report. Each is written to the log once, as soon as this hub may write, so
that the log has who, why, from, to and when for what was done without the hub as well. An unpin ends the pins of a node
that were made until a time of that node's own clock, and is sent again for as long as the node still has one of them.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import InitVar, dataclass, field
from typing import Any

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.background import Background
from loradeck.hub.log.log import Log, Published
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.errors import Refused
from loradeck.rules.moves import records
from loradeck.schemas.ids import PointerKey, digest_of
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.table import Pin
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.links.pins")

Place = tuple[str, str, str]
"""(tenant, route, node)."""

AT_MOST, WITHIN_S = 5, 60.0
"""At most so many pins of a pointer are written for each node in this many seconds: a node must not fill the log."""


@dataclass(eq=False)
class Pins:
    """The pins that are in the log, and those that were ended.

    `saved`: (tenant, route, node, until when) of ended pins, from the hub's last run. `_clock`: monotonic seconds.
    """

    _log: Log
    _fleet: Fleet
    _moves_allowed: MovesAllowed
    _background: Background
    _clock: Callable[[], float]
    saved: InitVar[Iterable[tuple[str, str, str, int]]]
    _recorded: dict[Place, str] = field(default_factory=dict, init=False)
    """The idempotency key of the newest pin that is in the log, or on its way there."""
    _written: dict[Place, deque[float]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=AT_MOST)), init=False
    )

    def __post_init__(self, saved: Iterable[tuple[str, str, str, int]]) -> None:
        self._until: dict[Place, int] = {(t, r, n): until for t, r, n, until in saved}
        for event in self._log.recent:
            if event.kind is EventKind.UNPIN:
                self._end(event)

    # ---- reported ------------------------------------------------------------------------------------------

    def reported(self, node: Node) -> None:
        """Writes the pins of a node that the log does not have yet, as soon as this hub may write."""
        if self._moves_allowed.refusing is not None:
            return
        for pin in node.pins:
            place, name = (pin.tenant, pin.route, node.name), _name(node.name, pin)
            if self._recorded.get(place) == name or not self._is_ours(pin):
                continue
            now, written = self._clock(), self._written[place]
            if len(written) == AT_MOST and now - written[0] < WITHIN_S:
                continue  # with a later report
            written.append(now)
            self._recorded[place] = name
            self._background.spawn(self._record(place, name, pin))

    def _is_ours(self, pin: Pin) -> bool:
        """Tells whether this log knows the pointer; one that was restored from an older copy may not yet."""
        ref, tenant = pin.release, self._log.state.tenants.get(pin.tenant)
        whole = ref.release.id == ref.id and ref.release.tenant == pin.tenant
        return whole and tenant is not None and pin.route in tenant.routes

    async def _record(self, place: Place, name: str, pin: Pin) -> None:
        """Writes a pin under a key made from it, so that a hub which has forgotten it writes none twice."""
        try:
            async with self._log.moving:
                self._moves_allowed.check()
                committed = await self._log.commit([records.pinned(pin, place[2])], name)
        except (Refused, StoreError) as error:  # it comes again with the next report
            log.warning("pin not written node=%s pointer=%s/%s: %s", place[2], pin.tenant, pin.route, error)
            self._recorded.pop(place, None)
            return
        if not committed.replayed:
            log.warning("pinned node=%s pointer=%s/%s to=%s", place[2], pin.tenant, pin.route, pin.release.id[:6])

    # ---- ended ---------------------------------------------------------------------------------------------

    def known(self, node: Node, key: PointerKey) -> Pin:
        """The pin of a pointer that a node last reported. Raises: Refused `not_pinned`."""
        for pin in node.pins:
            if (pin.tenant, pin.route) == key and not self.is_over(node.name, pin):
                return pin
        age = self._fleet.heard_age(node)
        heard = "not since this hub started" if age is None else f"{age:.0f} s ago"
        raise Refused(
            "not_pinned",
            f"{node.name} has no pin of {key[0]}/{key[1]} that this hub knows of",
            detail=f"{node.name} was last heard from: {heard}",
            fix="a pin that was made without the hub is known, and can be ended, once its node is linked again",
        )

    def committed(self, published: Published) -> None:
        """Sends committed unpins to their nodes, now or with their next hello; a follower of the log."""
        for event in published.events:
            if event.kind is EventKind.UNPIN:
                key, name = self._end(event)
                node = self._fleet.nodes.get(name)
                if node is not None and node.link is not None and node.link.steered:
                    node.link.put_unpin(key)

    def _end(self, event: Event) -> tuple[PointerKey, str]:
        key, node = (event.tenant, str(event.route)), str(event.payload["node"])
        self._until[(*key, node)] = int(event.payload.get("until_ms", event.at_ms))
        return key, node

    def is_over(self, node: str, pin: Pin) -> bool:
        """Tells whether somebody has ended this pin, though its node may not know yet."""
        until = self._until.get((pin.tenant, pin.route, node))
        return until is not None and until >= pin.at_ms

    def kept(self) -> list[list[Any]]:
        """The ended pins, as they are saved: (tenant, route, node, until when)."""
        return [[*place, until] for place, until in sorted(self._until.items())]


def _name(node: str, pin: Pin) -> str:
    """The idempotency key of a pin: equal for equal pins, after every restart."""
    what = {"node": node, "pointer": f"{pin.tenant}/{pin.route}", "at_ms": pin.at_ms, "to": pin.release.id}
    return f"pin-{digest_of(what)[:32]}"
