"""The oracle: its own record of what was acknowledged and answered, and the invariants checked against it.

It watches from outside: commits at the database, acknowledgements where the router's switch returns them, answers where
requests are admitted. It takes no figure from the parts it judges.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fleets.in_process.simulated.event_loop import Process, Scheduler
from tests.fleets.in_process.simulated.gateway_wire import Asked
from tests.fleets.in_process.simulated.hub_process import BASE, LABELS
from tests.simulation.bad_releases import GuardOracle
from tests.simulation.campaign_oracle import CampaignOracle
from tests.simulation.candidate_oracle import CandidateOracle

from loradeck.hub.hub import Hub
from loradeck.hub.recovery.recover import UNPROVEN
from loradeck.rules.moves import witness
from loradeck.rules.moves.tickets import TICKETED
from loradeck.rules.quality.guard import FORWARD
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.ids import Fence, PointerKey
from loradeck.schemas.log import MOVES, Event, EventKind
from loradeck.schemas.replica_state import LINK_TTL_S, AckState
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.table import Gap, Streams
from loradeck_agent.router.admission import Admitted, base_alone

SUCCEEDED_S = 4.0
"""Simulated seconds in which a hub notices that another one has taken its lease, and its nodes read that."""


CONTESTED_S = 8.0
"""Simulated seconds in which a hub finds that two agents are one node, where nothing else is wrong."""


FOLLOWED_S = 3.0
"""Simulated seconds in which an agent that a newer hub has welcomed turns to it, where its router answers slowly."""


TAKEN_OVER_S = 5.0
"""Simulated seconds without a hub that is active, where another one stands by (DESIGN 10.8)."""


PLACED_S = 4.0
"""Simulated seconds in which a pooled route that has lost its last live node is assigned to another."""


class Violation(Exception):
    """An invariant does not hold."""


@dataclass(eq=False)
class Oracle:
    """What happened, by those whom it happened to."""

    scheduler: Scheduler
    canary_records: dict[tuple[str, str], Any] = field(default_factory=dict)
    committers: dict[tuple[str, int], str] = field(default_factory=dict)
    """(database, epoch) -> the process that committed in it."""
    events: dict[str, Event] = field(default_factory=dict)
    acknowledged: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    """Idempotency key -> the events of a move that was answered as committed."""
    flips: dict[tuple[str, PointerKey], set[tuple[Fence, str | None]]] = field(default_factory=lambda: defaultdict(set))
    """(node, pointer) -> every (fence, release) that its router has acknowledged as flipped."""
    newest_flip: dict[tuple[str, PointerKey], tuple[Fence, str | None]] = field(default_factory=dict)
    placed: dict[tuple[str, PointerKey], bool] = field(default_factory=dict)
    """Whether the newest order that a node's router was given of a pointer places it there, acknowledged or not."""
    pinned: set[tuple[str, PointerKey]] = field(default_factory=set)
    """Pins that were acknowledged and may be in force."""
    dropped: set[str] = field(default_factory=set)
    """Events that a restored copy of the database lacks."""
    witnessed: set[str] = field(default_factory=set)
    """Events of logs that a node durably followed when the hub's database was replaced."""
    incarnations: dict[tuple[str, PointerKey, int], str] = field(default_factory=dict)
    """(node, pointer, epoch) -> the hold of the lease whose entries of that epoch the node has taken."""
    violation: Violation | None = None
    answering: dict[tuple[str, PointerKey], tuple[int, str]] = field(default_factory=dict)
    """(node, pointer) -> (generation, release) that answered its newest caller; nothing where none was answered."""
    unaccountable: set[str] = field(default_factory=set)
    """Nodes that no hub can know about: their disk was put back, or they were forgotten while they ran."""
    forgotten: set[str] = field(default_factory=set)
    """Nodes that a person had forgotten while they were off."""
    by_hash: dict[str, Event] = field(default_factory=dict)
    seen: dict[tuple[PointerKey, Fence, str | None], Event] = field(default_factory=dict)
    """Every move that was ever committed, in whichever copy of the log."""
    nodes: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    elsewhere: dict[str, float] = field(default_factory=dict)
    """Nodes that follow another hub than the newest, though they have a link to it -> since when."""
    liars: set[str] = field(default_factory=set)
    """Nodes that have reported what they liked."""
    copies: dict[str, Any] = field(default_factory=dict)
    """Host -> a second agent that links as one of the nodes."""
    doubled: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Nodes as which several agents run, with nothing else wrong -> how many, and since when."""
    unserved: dict[PointerKey, float] = field(default_factory=dict)
    """Routes of pools that no live node is assigned -> since when."""
    vacant: tuple[float, int] | None = None
    """Since when none of several hubs is active, though one could be, and the epoch of the last one."""
    turn: int = 0
    """How often callers have asked."""

    def __post_init__(self) -> None:
        self.candidates = CandidateOracle(self.fail)
        self.guard = GuardOracle(self.fail, self.by_hash, counts=self.counts)
        self.campaigns = CampaignOracle(self.fail, self.by_hash, counts=self.counts)

    def fail(self, invariant: str, *why: object) -> None:
        """Ends the run.

        Raises: Violation.
        """
        text = f"{invariant}: " + " ".join(map(str, why))
        self.scheduler.note("VIOLATION", text)
        self.violation = self.violation or Violation(text)
        raise self.violation  # where the product catches it, the run ends by the record

    # ---- hubs ----------------------------------------------------------------------------------------------

    def hub_started(self, hub_process: Any, process: Process, hub: Hub, store: Any) -> None:
        """Watches what a hub commits."""
        inner, image = store._store, hub_process.host.image
        name = f"{process.name}.{process.pid}"
        for event in hub.log.recent:  # a hub that ended at a commit has told nobody
            if event.id not in self.events:
                self._note(event)

        inner.active = hub
        self.campaigns.watch_drains(hub)
        if "commit" in vars(inner):
            return  # it has been active before, and is watched
        commit, adopt = inner.commit, inner.adopt

        def watched(made: Any, call: Any, *args: Any, **kwargs: Any) -> Any:
            committed = call(*args, **kwargs)
            if not committed.replayed:
                for event in committed.events:
                    self._committed(image.name, name, event)
                if made == "commit":
                    for event in committed.events:
                        self.guard.commit(inner.active, event)
                        self._check_ticket(event)
                        self.campaigns.commit(inner.active, event)
                    self._check_witnessed(inner.active, committed.events)
                    self._check_copies(image.alone_since, committed.events)
            return committed

        def read(*args: Any, **kwargs: Any) -> Sequence[Event]:
            events: Sequence[Event] = since(*args, **kwargs)
            for event in events:  # a commit whose answer was lost is known when the hub has read it
                if event.id not in self.events:
                    self._note(event)
            return events

        since, inner.since = inner.since, read
        inner.commit = lambda *args, **kwargs: watched("commit", commit, *args, **kwargs)
        inner.adopt = lambda *args, **kwargs: watched("adopt", adopt, *args, **kwargs)

    def _committed(self, database: str, process: str, event: Event) -> None:
        self.scheduler.note("commit", database, process, event.rev, event.epoch, event.kind, _brief(event))
        self._note(event)
        other = self.committers.setdefault((database, event.epoch), process)
        if other != process:
            self.fail("two committers in one epoch", other, process, event.epoch)

    def _note(self, event: Event) -> None:
        if event.kind is EventKind.ASSIGN:
            self.counts[f"routes assigned{' since a node is lost' if 'is lost' in event.reason else ''}"] += 1
        self.events[event.id] = self.by_hash[event.hash] = event
        if event.kind in MOVES:
            self.seen[_move(event)] = event
        self.candidates.commit(event)
        self.counts["moves and steps of the hub's own"] += event.actor == "steps"

    def _check_ticket(self, event: Event) -> None:
        """No move stands in the log without a word of its ticket, and nobody moves forward without one."""
        if event.kind not in TICKETED:
            return
        forward = event.kind in (EventKind.PROMOTE, EventKind.CANDIDATE_START, EventKind.CANDIDATE_FINISH)
        if not (event.ticket or (event.wants_ticket and not forward)):
            self.fail("a move without a ticket", _brief(event))
        self.counts["moves that want a ticket"] += event.wants_ticket

    def _check_copies(self, alone_since: float | None, events: Sequence[Event]) -> None:
        """With one copy nobody moves forward, and what goes back says so. A commit decided before may still come."""
        if alone_since is None or self.scheduler.now - alone_since < 1:
            return
        for event in events:
            self.counts["events with one copy"] += 1
            if event.kind in (EventKind.PROMOTE, EventKind.UNDO, EventKind.CANDIDATE_START):
                self.fail("a forward move with one copy", _brief(event))
            elif event.kind in MOVES and not event.one_copy:
                self.fail("a way back does not say that it is on one server", _brief(event))

    def _check_witnessed(self, hub: Hub, events: Sequence[Event]) -> None:
        """Nobody moves a pointer that a node, which the hub has greeted, has seen moved by events that were lost."""
        for event in events if self.dropped else ():
            if event.kind not in MOVES or event.pointer is None:
                continue
            told, earlier = set[tuple[PointerKey, Fence, str | None]](), self.by_hash.get(event.prev_hash)
            while earlier is not None:
                told.update(witness.moves_of(earlier))
                earlier = self.by_hash.get(earlier.prev_hash)
            for name, node in self.nodes.items():
                linked = hub.fleet.nodes.get(name)
                entry = node.router.table.contents.entries.get(event.pointer.key) if node.router is not None else None
                if linked is None or linked.behind in (None, UNPROVEN) or entry is None or entry.current is None:
                    continue  # of clones that made a key each, neither believes what the other has signed
                seen = self.seen.get((event.pointer.key, entry.fence, entry.current.id))
                if seen is not None and seen.id in self.dropped and _move(seen) not in told:
                    self.fail("moved over what a node has seen", name, _brief(event), "over", _brief(seen))

    def restored(self, newest: str, nodes: dict[str, Any]) -> None:
        """The hub's database was replaced by a copy whose newest event has this hash."""
        kept, event = set[str](), self.by_hash.get(newest)
        while event is not None:
            kept.add(event.id)
            event = self.by_hash.get(event.prev_hash)
        self.dropped |= self.events.keys() - kept
        for node in nodes.values():
            event = self.by_hash.get(node.host.table_hash())
            while event is not None:
                self.witnessed.add(event.id)
                event = self.by_hash.get(event.prev_hash)

    def moved(self, key: str, events: tuple[Event, ...]) -> None:
        """A person was answered that a move is committed."""
        if events:
            self.acknowledged.setdefault(key, events)
            self.counts["moves acknowledged"] += 1

    # ---- routers -------------------------------------------------------------------------------------------

    def router_started(self, node: Any, router: Any) -> None:
        """Watches what a router's switch acknowledges."""
        switch = router.switch
        for name in ("directive", "engines", "pin", "unpin"):
            setattr(switch, name, self._watched(node, name, getattr(switch, name), router.table.contents))

    def _watched(self, process: Any, name: str, call: Any, held: Any) -> Any:
        node = process.name

        def wrapped(*args: Any) -> Any:
            if name == "directive":
                fresh = args[0] > held.cursor
                self.placed.update({(node, e.key): e.current is not None for e in args[1] if fresh})
            answer = call(*args)
            for ack in answer if isinstance(answer, list) else answer.acks:
                key = (ack.tenant, ack.route)
                if ack.state is AckState.FLIPPED:
                    self.flips[process.identity, key].add(((ack.epoch, ack.generation), ack.release))
                    self._flipped(node, key, (ack.epoch, ack.generation), ack.release)
            if name == "directive":
                self._check_position(node, held)
            if name == "pin":
                self.pinned.add((node, (args[0].tenant, args[0].route)))
            return answer

        return wrapped

    def _flipped(self, node: str, key: PointerKey, fence: Fence, release: str | None) -> None:
        if (fence, release) not in self.flips[node, key]:
            self.flips[node, key].add((fence, release))
            self.scheduler.note("flipped", node, "/".join(key), fence, LABELS.get(release or "", release))
        if (node, key) not in self.newest_flip or fence >= self.newest_flip[node, key][0]:
            self.newest_flip[node, key] = (fence, release)

    def check_cut(self, node: Any, router: Any) -> None:
        """Where a flip that cuts has been acknowledged, no router of the node goes on answering by what it has left."""
        held = router.table.contents
        for key, entry in held.entries.items():
            if entry.streams is not Streams.CUT or entry.current is None or (node.name, key) in self.pinned:
                continue
            if self.newest_flip.get((node.name, key)) != (entry.fence, entry.current.id):
                continue
            self.counts["looks at a flip that cuts"] += 1
            stay = {entry.current.id, base_alone(key[0], BASE.digest).id}
            if entry.candidate is not None:
                stay.add(entry.candidate.release.id)
            for other in node.routers:
                for number, answer in other.answers.items() if other.process.alive else ():
                    row, cut = other.begun[number].row, other.begun[number].cut
                    if not (answer.done() or cut or row.release in stay) and (row.tenant, row.route) == key:
                        left = LABELS.get(row.release, row.release)
                        self.fail("an answer goes on that was to be cut", f"{node.name}: {'/'.join(key)} by {left}")

    def disk_restored(self, node: str) -> None:
        """A machine got back an older copy of its disk: what it acknowledged since is gone."""
        self.unaccountable.add(node)
        for name, key in list(self.newest_flip):
            if name == node:
                del self.newest_flip[name, key]
        for where in [where for where in self.incarnations if where[0] == node]:
            del self.incarnations[where]

    def refused(self, node: str, key: PointerKey) -> None:
        """A caller was not answered."""
        self.answering.pop((node, key), None)

    def answered(self, node: str, router: Any, key: PointerKey, admitted: Admitted, user: str) -> None:
        """A user was answered by a release."""
        self.counts["answers"] += 1
        self.answering[node, key] = (admitted.row.generation, admitted.row.release)
        by_candidate = self.candidates.answered(router, key, admitted, user)
        self.counts["answers by candidates"] += by_candidate
        self._check_asked_again(router, key, admitted)
        acknowledged = self.newest_flip.get((node, key))
        if acknowledged is None or (node, key) in self.pinned:
            return
        (_, generation), release = acknowledged
        if release is None and self.placed.get((node, key)):
            return  # placed here again by a later order, which its router has on the disk and died before it said so
        row, entry = admitted.row, router.table.contents.entries[key]
        stands_in = entry.gap is Gap.BASE and row.release == base_alone(key[0], BASE.digest).id
        if row.generation < generation or (
            row.generation == generation and row.release != release and not by_candidate and not stands_in
        ):
            self.fail(
                "answered by a left release",
                f"{node} answered {'/'.join(key)} with {LABELS.get(row.release, row.release)} of generation",
                f"{row.generation}; it had acknowledged {LABELS.get(release or '', release)} of {generation}",
            )

    def _check_asked_again(self, router: Any, key: PointerKey, admitted: Admitted) -> None:
        """What is asked again is so under the move that is in force, which went forward: of a release beneath it, or of
        its candidate that is a shadow.
        """
        other, entry = admitted.target.other, admitted.plan.entry
        if other is None:
            return
        assert entry.current is not None
        out = entry.candidate
        self.counts["answers that a shadow may be asked" if out is not None else "answers that may be asked again"] += 1
        moves = [
            e for (k, (_, g), to), e in self.seen.items() if (k, g, to) == (key, entry.generation, entry.current.id)
        ]
        forward = [e.pointer for e in moves if e.kind in FORWARD and e.pointer is not None]
        is_shadow = out is not None and out.shadow and (out.release.id, out.permille) == (other.release, other.permille)
        if (
            not (is_shadow if out is not None else any(other.release in pointer.beneath for pointer in forward))
            or (admitted.row.generation, admitted.row.release) != (entry.generation, entry.current.id)
            or key in router.table.contents.pins
        ):
            name = LABELS.get(other.release, other.release)
            self.fail("asked again of neither what is beneath nor a shadow", "/".join(key), name, admitted.row)

    def passed_on(self, node: str, router: Any, admitted: Admitted, asked: Asked) -> None:
        """A caller of a gateway is answered by a release: by an entry as late as any that the gateway has seen."""
        held = router.table.contents.entries[asked.key].fence
        if asked.least is not None and held < asked.least:
            self.fail(
                "answered by less than a gateway has seen",
                f"{node} holds {held} of {'/'.join(asked.key)}; {asked.gateway} has seen {asked.least}",
            )
        self.answered(node, router, asked.key, admitted, asked.user)

    # ---- counts --------------------------------------------------------------------------------------------

    def check_counts(self, hub: Hub, nodes: dict[str, Any]) -> None:
        """Compares what a hub counts as flipped and proven with what the replicas did."""
        for key, entry in hub.tables.entries.items():
            current = entry.current.id if entry.current else None
            for replica, record in hub.replicas.acks(key).items():
                if record.is_flipped and (entry.fence, current) not in self.flips[replica, key]:
                    self.fail("flipped where it was not", replica, "/".join(key), entry.fence)
                if record.state is AckState.PROVEN and (entry.fence, current) not in self.flips[replica, key]:
                    self.fail("proven where it was not flipped", replica, "/".join(key), entry.fence)
            progress = hub.replicas.progress(key)
            acks = hub.replicas.acks(key)
            flipped = sum(
                not node.lost and placed.answers and placed.replica in acks and acks[placed.replica].is_flipped
                for node, placed in hub.replicas.placed(key)
            )
            if progress.flipped != flipped:
                self.fail("the count differs from the acknowledgements", "/".join(key), progress.flipped, flipped)
            if progress.reached.covers(Reached.FLIPPED):
                self._check_all_flipped(hub, key)

    def _check_all_flipped(self, hub: Hub, key: PointerKey) -> None:
        """Where a count says that all replicas have flipped, no router answers with a left release, counted or not."""
        entry = hub.tables.entries[key]
        for (name, pointer), (generation, release) in self.answering.items():
            if pointer != key or name in self.unaccountable or (name, key) in self.pinned:
                continue
            node = hub.fleet.nodes.get(name)
            if node is None and name in self.forgotten:
                continue  # it is on again, and has not linked yet: whoever had it forgotten has answered for that
            if self.dropped and (node is None or node.heard is None or node.behind is not None):
                continue  # a copy of the database does not know what was placed there since
            if generation < entry.generation:
                self.fail(
                    "all flipped while a left release answers",
                    f"{name} answers {'/'.join(key)} with {LABELS.get(release, release)} of {generation};",
                    f"the hub counts generation {entry.generation} as flipped everywhere",
                )

    def _check_position(self, node: str, held: Any) -> None:
        """A router's position is never ahead of its entries: a recover takes both at their word.

        An entry of a move that is not in the log of the position is of another one: a node that is ahead holds it back.
        """
        for key, entry in held.entries.items():
            if not entry.incarnation:  # from a hub of the version before
                continue
            first = self.incarnations.setdefault((node, key, entry.epoch), entry.incarnation)
            if first != entry.incarnation:
                self.fail("followed two committers in one epoch", node, "/".join(key), entry.fence)
        moves, newest = set(), dict[PointerKey, Event]()
        event = self.by_hash.get(held.cursor.hash)
        while event is not None:
            moves.update(witness.moves_of(event))
            if event.pointer is not None and event.kind in MOVES:
                newest.setdefault(event.pointer.key, event)
            event = self.by_hash.get(event.prev_hash)
        known = witness.known_to(moves)
        for key, event in newest.items():
            entry = held.entries.get(key)
            if entry is None or entry.current is None or entry.generation >= (event.generation or 0):
                continue
            if known(key, entry.fence, entry.current.id):
                self.fail(
                    "a position is ahead of the entries",
                    f"{node} at rev {held.cursor.rev} holds generation {entry.generation} of {event.tenant}:",
                    f"rev {event.rev} moved it to {event.generation}",
                )

    def check_reachable(self, hub_process: Any, now: float) -> None:
        """R is possible whenever a hub is up for a TTL, on every pointer that no node has seen moved farther."""
        hub: Hub = hub_process.hub
        if not hub_process.host.rivals:  # what two clones lack of each other is known when one of them has ended
            self._check_held(hub)
        self._check_targets(hub)
        self._check_breaches(hub)
        refusing = hub.moves_allowed.refusing
        if refusing is None or refusing == "not_active":
            return
        if refusing == "settling" and now - hub_process.started_at < LINK_TTL_S + 2.5:
            return
        self.fail("R is not possible", refusing, f"{now - hub_process.started_at:.1f} s after the start")

    def _check_targets(self, hub: Hub) -> None:
        """R has a target wherever something lies beneath: nothing here is ever revoked, and the rest only asks."""
        for key, pointer in hub.log.state.pointers.items():
            out = pointer.candidate.release if pointer.candidate is not None else None
            beneath = [release for release in pointer.beneath if release not in (pointer.release, out)]
            target = hub.targets.of(pointer)
            if beneath and target.action in (PreviewAction.NONE, PreviewAction.FALLBACK):
                self.fail("R has no target", "/".join(key), f"of {len(beneath)} releases beneath")
            self.counts["looks at a target that asks"] += target.asks is not None

    def _check_breaches(self, hub: Hub) -> None:
        """Nobody answers badly here: a breach is the word of nodes that lie, and one that lies alone is named in it."""
        for key in hub.log.state.pointers:
            for release, why in hub.facts.of(key).breached.items():
                self.counts["looks at a breach"] += 1
                if len(self.liars) < 2 and not any(why.endswith(f"by {name} alone") for name in self.liars):
                    self.fail("breached by the word of one node", "/".join(key), LABELS.get(release), why)

    def check_succeeded(self, hub_process: Any, now: float) -> None:
        """A hub whose lease another one has taken steers nobody any more, a few seconds later."""
        if not hub_process.running or hub_process.process.paused:
            return
        if hub_process.succeeded_at is None:
            hub_process.succeeded_at = now
        steered = [link.node.name for link in hub_process.hub.links if link.steered and link.node is not None]
        if steered and now - hub_process.succeeded_at > SUCCEEDED_S:
            self.fail("a hub that was succeeded steers nodes", hub_process.name, *steered)

    def check_taken_over(self, hubs: Sequence[Any], now: float) -> None:
        """Where a hub stands by and could be active, one is, within the budget for a hub that was killed."""
        able = [
            hub.hub is not None
            for hub in hubs
            if hub.process is not None
            and hub.process.alive
            and not hub.process.paused
            and not hub.host.image.full
            and hub.host.name not in hub.host.image.cut
        ]
        if len(hubs) < 2 or not able or any(able):
            self.vacant = None
            return
        (epoch,) = hubs[0].host.image.connection.execute("SELECT epoch FROM head").fetchone()
        if self.vacant is None or self.vacant[1] != epoch:  # one that took the lease may have been killed since
            self.vacant = now, epoch
        elif now - self.vacant[0] > TAKEN_OVER_S:
            self.fail("nobody takes over", f"for {now - self.vacant[0]:.1f} s")

    def check_followed(self, hub_process: Any, nodes: dict[str, Any], now: float) -> None:
        """A node that the newest hub has welcomed follows it, and no hub that it has a link to from before."""
        url = f"http://{hub_process.host.name}:1"
        for name, node in nodes.items():
            links = node.agent.link if node.agent is not None and node.agent_process.alive else None
            offer = links._offers.get(url) if links is not None else None
            if (
                links is None
                or offer is None
                or not offer.active
                or not links._links[url].connected
                or links.hub == url
            ):
                self.elsewhere.pop(name, None)
            elif now - self.elsewhere.setdefault(name, now) > FOLLOWED_S:
                self.fail("follows a hub that was succeeded", name, links.hub, "and not", url)

    def check_pooled(self, hub_process: Any, now: float) -> None:
        """A route of a pool has a live node soon after it has lost its last one, as far as the pool has one."""
        hub: Hub = hub_process.hub
        able = hub.moves_allowed.forward and not hub.log.moving.locked() and not hub_process.host.image.full
        live = {name for name, node in hub.fleet.nodes.items() if not (node.lost or node.drained or node.cordoned)}
        for key, tenant in ((key, hub.log.state.tenants[key[0]]) for key in hub.tables.entries):
            config = hub.log.state.config(key)
            assigned = tenant.assigned.get(key[1], ())
            served = any(name in hub.fleet.nodes and not hub.fleet.nodes[name].lost for name in assigned)
            if config.pool is None or served or not able or not live:
                self.unserved.pop(key, None)
            elif now - self.unserved.setdefault(key, now) > PLACED_S:
                self.fail("no live node serves a pooled route", "/".join(key), assigned, "live:", *sorted(live))

    def check_doubled(self, hub_process: Any, nodes: dict[str, Any], now: float, *, undisturbed: bool) -> None:
        """Where two agents run as one node neither counts, and both are told."""
        for name in {copy.identity for copy in self.copies.values()} | self.doubled.keys():
            run = [one.agent for one in (nodes[name], *self.copies.values()) if one.identity == name and one.runs]
            found, since = self.doubled.get(name, (0, now))
            if len(run) < 2 or not undisturbed:
                self.doubled.pop(name, None)
            elif found != len(run):
                self.doubled[name] = (len(run), now)
            elif now - since > CONTESTED_S:
                self.counts["looks at a node that is contested"] += 1
                node = hub_process.hub.fleet.nodes[name]
                told = all(agent.order.contested for agent in run)
                if not (node.contested and node.lost and told):
                    self.fail("two agents are one node, and it counts", name, node.contested, told)

    def _check_held(self, hub: Hub) -> None:
        """No pointer is held back for longer than a look at a table takes, unless something of it was lost."""
        lost = {(event.tenant, str(event.route)) for event in self.events.values() if event.id in self.dropped}
        settings = {tenant for tenant, _ in lost}
        for key in hub.tables.entries:
            nodes = hub.witnesses.holding(key)
            if nodes:
                self.counts["looks at a pointer that is held back"] += 1
            if key[0] not in settings and any(not hub.witnesses.unknown(name) for name in nodes):
                self.fail("held back though nothing of it was lost", "/".join(key), *nodes)

    # ---- the end -------------------------------------------------------------------------------------------

    def check_log(self, hub: Hub) -> None:
        """Every acknowledged move stands in the log, in one chain."""
        recent = {event.id: event for event in hub.log.recent}
        told = self._told(hub)
        recovered = {(event.tenant, event.route) for event in hub.log.recent if event.kind is EventKind.RECOVER}
        for key, events in self.acknowledged.items():
            for event in events:
                found = recent.get(event.id)
                if found is None:
                    if event.id in self.dropped and (
                        event.kind not in MOVES
                        or event.id not in self.witnessed
                        or (event.tenant, event.route) in recovered
                        or _move(event) in told
                    ):
                        continue
                    self.fail("an acknowledged move is lost", key, _brief(event))
                elif found.hash != event.hash:
                    self.fail("an acknowledged move was changed", key, _brief(event))
        revs = [event.rev for event in hub.log.recent]
        if revs != list(range(revs[0], revs[0] + len(revs))):
            self.fail("the log has a gap", revs)

    def _told(self, hub: Hub) -> set[tuple[PointerKey, Fence, str | None]]:
        """The moves of which the log tells. A dropped one tells of those of its pointer before it in its own history.

        Nodes hold the newest move of a pointer, so nobody knows of an earlier one when a recover decides.
        """
        told = {move for event in hub.log.recent for move in witness.moves_of(event)}
        for move in list(told):
            event = self.seen.get(move)
            while event is not None and event.id in self.dropped:
                if event.kind in MOVES and (event.tenant, str(event.route)) == move[0]:
                    told.add(_move(event))
                event = self.by_hash.get(event.prev_hash)
        return told

    def recover_due(self, hub: Hub) -> bool:
        """Whether a node has seen moves that the hub's log lacks."""
        return bool(hub.witnesses.ahead) or any(node.behind for node in hub.fleet.nodes.values())

    def unsettled(self, hub: Hub, nodes: dict[str, Any], gateways: Sequence[Any]) -> str:
        """What is not yet as the hub wants it; empty once everything is."""
        if self.recover_due(hub):
            return "a recover is due"
        for key, entry in hub.tables.entries.items():
            if entry.current is None:
                continue
            if key in hub.pooled_routes.under_way:
                return f"{'/'.join(key)} is being placed"
            site = hub.log.state.site(key)
            placed = {name: node for name, node in nodes.items() if site.holds(name, {"zone": node.zone})}
            for name, node in nodes.items():
                router = node.router
                if name not in placed:
                    if isinstance(node.admit(key), Admitted):
                        return f"{name} still answers {'/'.join(key)}, which is not placed there"
                    continue
                if router is None or not router.serving or not router.process.alive:
                    return f"{name} has no router"
                if name not in hub.fleet.nodes:
                    return f"{name} has not said hello to the hub"
                held = router.table.contents
                mine = held.entries.get(key)
                # A hub that starts gives its entries the rev at which it started: one that lost it has the same entry.
                given = entry.for_router(hub.fleet.nodes[name].features)
                if mine is not None and not mine.log:  # it came from a hub of the version before, without a position
                    given = given.model_copy(update={"log": "", "incarnation": "", "rev": 0})
                if mine is None or mine.unsigned() != given:
                    return f"{name} holds {mine.fence if mine else None} of {'/'.join(key)}, not {entry.fence}"
                force = held.in_force.get(key)
                pin = held.pins.get(key)
                if pin is None and (force is None or not force.is_of(entry, entry.current)):
                    return f"{name} has not flipped {'/'.join(key)} to {entry.fence}"
                out = entry.candidate
                if out is not None and not any(replica.serves(out.release) for replica in router.replicas):
                    return f"{name} has not loaded the candidate of {'/'.join(key)}"
            progress = hub.replicas.progress(key)
            pinned = sum(key in node.router.table.contents.pins for node in placed.values())
            if progress.flipped + pinned < len(placed):
                return f"the hub counts {progress.flipped} of {len(placed)} flipped for {'/'.join(key)}"
            if progress.proven + progress.listed + pinned < len(placed):
                return f"the hub counts {progress.proven}+{progress.listed} proven for {'/'.join(key)}"
            for gateway in gateways if placed else ():
                if gateway.answered.get(key) != entry.fence:
                    answered = gateway.answered.get(key)
                    return f"{gateway.process.name} was answered by {answered} of {'/'.join(key)}, not {entry.fence}"
        return ""


def _move(event: Event) -> tuple[PointerKey, Fence, str | None]:
    return (event.tenant, str(event.route)), (event.epoch, event.generation or 0), event.to_release


def _brief(event: Event) -> str:
    pointer = event.pointer
    if pointer is None or event.kind not in MOVES:
        return f"{event.tenant}"
    return f"{event.tenant} {event.kind.value} to {LABELS.get(pointer.release or '', 'base')} gen {pointer.generation}"
