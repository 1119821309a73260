"""What the oracle holds of campaigns: they move forward while they are open, what nobody else has moved, and go back to
what was before; and they drain no node that alone answers for a route."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from loradeck.hub.hub import Hub
from loradeck.schemas.campaign import UNDER_WAY, CampaignState, CampaignUnit
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.replica_state import AckState

OPEN = (CampaignState.RUNNING, CampaignState.PAUSED)
FORWARD = (EventKind.PROMOTE, EventKind.CANDIDATE_START)


def name_of(event: Event) -> str:
    """The campaign that has made a move."""
    return event.actor.removeprefix("campaign ")


@dataclass(eq=False)
class CampaignOracle:
    """Checks what a hub commits for a campaign against the log before it.

    Args:
        fail: ends the run.
        by_hash: the events that were committed.
    """

    fail: Callable[..., None]
    by_hash: dict[str, Event]
    counts: Counter[str] = field(default_factory=Counter)

    def commit(self, hub: Hub, event: Event) -> None:
        """A hub has committed an event and has not read it back: its campaigns are those before."""
        name = str(event.payload.get("campaign", ""))
        if event.kind is EventKind.REWIND and name:
            self._goes_back(name, event)
        elif event.kind is EventKind.CAMPAIGN and "unit" in event.payload:
            self.counts[f"campaign: {event.payload['unit'].get('stage', 'waiting')}"] += 1
            self._begins_in_its_wave(hub, name, event)
        elif event.actor.startswith("campaign ") and event.pointer is not None:
            campaign = hub.campaigns.get(name_of(event))
            unit = campaign.units[f"{event.tenant}/{event.route}"]
            out = event.pointer.candidate.release if event.pointer.candidate is not None else event.pointer.release
            if event.kind in FORWARD and (campaign.state not in OPEN or out != unit.release):
                self.fail("a campaign that is over moves forward, or to another release", event.where, campaign.state)
            if event.kind not in (*FORWARD, EventKind.CANDIDATE_ABORT):
                self.fail("a campaign does what none may", event.where, event.kind.value)
            if event.kind in FORWARD and (event.from_release or "") != self._was(name_of(event), unit.name, event):
                self.fail("a campaign replaces what somebody else has put live", event.where)

    def _begins_in_its_wave(self, hub: Hub, name: str, event: Event) -> None:
        campaign = hub.campaigns.get(name)
        if "node" in event.payload:
            return
        unit = campaign.units[f"{event.tenant}/{event.route}"]
        if unit.wave or not event.payload["unit"].get("wave"):
            return
        if campaign.state is not CampaignState.RUNNING:
            self.fail("a campaign that does not run begins a wave", event.where, campaign.state)
        earlier = self._before(event)
        ended = {
            f"{one.tenant}/{one.route}"
            for one in earlier
            if one.txn == event.txn and one.kind is EventKind.CAMPAIGN and "unit" in one.payload
        }
        left = [one.name for one in campaign.units.values() if one.stage in UNDER_WAY and one.name not in ended]
        if left:
            self.fail("a wave begins before the last one is over", event.where, *left)

    def _goes_back(self, name: str, event: Event) -> None:
        """It goes back to what was live at one of the campaign's own starts on that pointer; a retry is another one."""
        self.counts["campaign: put back"] += 1
        here = [
            one
            for one in self._before(event)
            if (one.tenant, one.route) == (event.tenant, event.route) and one.pointer is not None
        ]
        begun = (i for i, one in enumerate(here) if one.actor == f"campaign {name}" and one.kind in FORWARD)
        before = {one.pointer.release for i in begun for one in here[i + 1 : i + 2] if one.pointer is not None}
        if event.pointer is None or event.pointer.release not in before:
            self.fail("a campaign puts back something else than was there before", event.where)

    def _was(self, name: str, unit: str, event: Event) -> str | None:
        """What was live on a route by the event that began a campaign."""
        begun = (one.payload["begun"] for one in self._before(event) if one.payload.get("begun"))
        found = next((one for one in begun if one["campaign"] == name), None)
        return found["units"][unit].get("was") if found is not None else event.from_release or ""

    def watch_drains(self, hub: Hub) -> None:
        """Looks at each node that a campaign drains, and at who else answers for its routes by then."""
        order, own = hub.campaigns._order, hub.campaigns

        def watched(unit: CampaignUnit, *, drain: bool) -> None:
            node = hub.fleet.nodes.get(unit.route)
            if drain and node is not None and not node.drained:
                self.counts["campaign: nodes drained"] += 1
                for key in hub.tables.entries:
                    there = {name for name in self._answer(hub, key) if not hub.fleet.nodes[name].drained}
                    if there == {unit.route} and not self._may_go_elsewhere(hub, key, unit.route):
                        self.fail("a campaign drains the last node that answers", unit.route, "/".join(key))
            order(unit, drain=drain)

        own._order = watched  # type: ignore[method-assign]

    @staticmethod
    def _answer(hub: Hub, key: PointerKey) -> set[str]:
        """The nodes that are heard of and have shown that they answer with a pointer's newest release."""
        acks = hub.replicas.acks(key).items()
        proven = {hub.fleet.node_of(one) for one, ack in acks if ack.state in (AckState.PROVEN, AckState.LISTED)}
        there = {node.name: node for node, one in hub.replicas.serving(key) if one.replica not in node.silent}
        return {name for name, node in there.items() if name in proven and not node.lost}

    @staticmethod
    def _may_go_elsewhere(hub: Hub, key: PointerKey, node: str) -> bool:
        nodes = (one for one in hub.fleet.nodes.values() if one.name != node)
        return hub.tables.is_assigned(key) and any(not (one.lost or one.drained or one.cordoned) for one in nodes)

    def _before(self, event: Event) -> list[Event]:
        """The events before one, the newest first."""
        found, earlier = list[Event](), self.by_hash.get(event.prev_hash)
        while earlier is not None:
            found.append(earlier)
            earlier = self.by_hash.get(earlier.prev_hash)
        return found
