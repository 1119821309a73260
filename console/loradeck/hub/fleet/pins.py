"""Pins: what somebody chose on a node over the hub, as the log tells it, until an unpin ends it.

A node says its pins with every hello and report. Each is written to the log once, when this hub may write and
hears of it, so that the log says who, why, from, to and when also of what was done without the hub. An unpin
ends the pins of a node that were made until a time of that node's own clock, and is said again for as long as
the node still has one of them.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from loradeck.rules.errors import Refused
from loradeck.rules.moves import pins_and_notes
from loradeck.schemas.ids import PointerKey, digest_of
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.table import Pin
from loradeck.store.interface import StoreError

if TYPE_CHECKING:
    from loradeck.hub.fleet.nodes import Node
    from loradeck.hub.hub import Hub

log = logging.getLogger("loradeck.hub.fleet.pins")


Place = tuple[str, str, str]
"""(tenant, route, node)."""

AT_MOST, WITHIN_S = 5, 60.0
"""So many pins of a pointer are written for each node in this time: a node must not fill the log."""


class Pins:
    def __init__(self, hub: Hub, kept: Iterable[tuple[str, str, str, int]], recent: Iterable[Event]) -> None:
        """`kept` is what `ended` said in the last life of the hub; `recent` are newer events, oldest first."""
        self._hub = hub
        self._until: dict[Place, int] = {(t, r, n): until for t, r, n, until in kept}
        self._recorded: dict[Place, str] = {}
        """Key of the newest pin that is in the log, or on its way there."""
        self._written: dict[Place, deque[float]] = defaultdict(lambda: deque(maxlen=AT_MOST))
        for event in recent:
            if event.kind is EventKind.UNPIN:
                self._end(event)

    # ---- heard ---------------------------------------------------------------------------------------------

    def heard(self, node: Node) -> None:
        """A node has said its pins: what the log does not have yet is written, as soon as this hub may write."""
        if self._hub.refusing is not None:
            return
        for pin in node.pins:
            place, name = (pin.tenant, pin.route, node.name), _name(node.name, pin)
            if self._recorded.get(place) == name or not self._is_ours(pin):
                continue
            now, written = self._hub.clock(), self._written[place]
            if len(written) == AT_MOST and now - written[0] < WITHIN_S:
                continue  # with a later report
            written.append(now)
            self._recorded[place] = name
            self._hub.spawn(self._record(place, name, pin))

    def _is_ours(self, pin: Pin) -> bool:
        """Whether this log knows the pointer; one that was restored from an older copy may not yet."""
        ref, tenant = pin.release, self._hub.ledger.tenants.get(pin.tenant)
        whole = ref.release.id == ref.id and ref.release.tenant == pin.tenant
        return whole and tenant is not None and pin.route in tenant.routes

    async def _record(self, place: Place, name: str, pin: Pin) -> None:
        """Writes a pin under a key made of it, so that a hub which has forgotten that it did writes none twice."""
        hub = self._hub
        try:
            async with hub.moving:
                hub.check_moves()
                committed = await hub.commit([pins_and_notes.pinned(pin, place[2])], name)
        except (Refused, StoreError) as error:  # it is heard again with the next report
            log.warning("pin not written node=%s pointer=%s/%s: %s", place[2], pin.tenant, pin.route, error)
            self._recorded.pop(place, None)
            return
        if not committed.replayed:
            log.warning("pinned node=%s pointer=%s/%s to=%s", place[2], pin.tenant, pin.route, pin.release.id[:6])

    # ---- ended ---------------------------------------------------------------------------------------------

    def known(self, node: Node, key: PointerKey) -> Pin:
        """The pin of a pointer that a node was last heard to have.

        Raises: Refused `not_pinned`.
        """
        for pin in node.pins:
            if (pin.tenant, pin.route) == key and not self.is_over(node.name, pin):
                return pin
        age = self._hub.fleet.heard_age(node)
        heard = "not since this hub started" if age is None else f"{age:.0f} s ago"
        raise Refused(
            "not_pinned",
            f"{node.name} has no pin of {key[0]}/{key[1]} that this hub knows of",
            detail=f"{node.name} was last heard from: {heard}",
            fix="a pin that was made without the hub is known, and can be ended, once its node is linked again",
        )

    def ended(self, event: Event) -> None:
        """An unpin was committed: its node is told, now or with its next hello."""
        key, name = self._end(event)
        node = self._hub.fleet.nodes.get(name)
        if node is not None and node.link is not None and node.link.steered:
            node.link.put_unpin(key)

    def _end(self, event: Event) -> tuple[PointerKey, str]:
        key, node = (event.tenant, str(event.route)), str(event.payload["node"])
        self._until[(*key, node)] = int(event.payload.get("until_ms", event.at_ms))
        return key, node

    def is_over(self, node: str, pin: Pin) -> bool:
        """Whether somebody has ended this pin, though its node may not know yet."""
        until = self._until.get((pin.tenant, pin.route, node))
        return until is not None and until >= pin.at_ms

    def kept(self) -> list[list[Any]]:
        """What outlives the hub."""
        return [[*place, until] for place, until in sorted(self._until.items())]


def _name(node: str, pin: Pin) -> str:
    """Idempotency key of a pin's event, equal for one pin in every run of every hub."""
    what = {"node": node, "pointer": f"{pin.tenant}/{pin.route}", "at_ms": pin.at_ms, "to": pin.release.id}
    return f"pin-{digest_of(what)[:32]}"
