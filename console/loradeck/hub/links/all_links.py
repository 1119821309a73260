"""All links of a hub: how one is opened and ends, its heartbeats, and which of them get a changed table entry."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect

from loradeck.hub.access.auth import authenticated
from loradeck.hub.access.problems import problem_of, problem_response
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables, Placing
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.links.challenges import Challenges
from loradeck.hub.links.node_link import BAD_MESSAGE, PARTS, SILENT, SUCCEEDED, WRONG_NODE, Link, LinkOutbox, Uplink
from loradeck.hub.log.attestations import CHANGES_TARGET
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.log import Log, Published
from loradeck.hub.progress.target_lookup import Prepares
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import tenant_after
from loradeck.rules.serving.placement import site_of
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.log import Draft, EventKind
from loradeck.schemas.replica_state import HEARTBEAT_S, LINK_TTL_S
from loradeck.schemas.tenant import TenantState
from loradeck.store.interface import FleetChange

log = logging.getLogger("loradeck.hub.links.all_links")

THRESHOLDS = (20_000, 50, 100)
"""Arguments of `gc.set_threshold`. A fleet that answers at once has thousands of messages under way: with the usual 700
objects the collector would go through the same ones again and again."""

FEW = 100
"""Links that may open and end before a full collection is worth its time; in a large fleet a tenth of the links."""


class GcTuning:
    """Has full collections of garbage run after nodes have linked or left, not while they stay.

    One with thousands of linked nodes takes longer than a move may wait, and finds nothing as long as none of them
    leaves: messages have no cycles. Objects that survive it are frozen: the collector does not look at them until the
    next one.
    """

    def __init__(self) -> None:
        self._changed = self._before = 0

    def freeze(self) -> None:
        """Freezes all objects there are: once everything is loaded."""
        gc.set_threshold(*THRESHOLDS)
        gc.freeze()

    def changed(self) -> None:
        """A link was opened or has ended."""
        self._changed += 1

    def tick(self, links: int) -> None:
        """Runs a full collection once links no longer change; called once a second with the number of links."""
        quiet, self._before = self._changed == self._before, self._changed
        if not quiet or self._changed < max(FEW, links // 10):
            return
        self._changed = self._before = 0
        began = time.monotonic()
        gc.unfreeze()  # what links that have ended left behind is in there too
        found = gc.collect()
        gc.freeze()
        log.info("collected objects=%d links=%d ms=%.0f", found, links, (time.monotonic() - began) * 1000)


PATH = "/v1/link"


class Links:
    """The open links. `gc` is notified when one opens or ends."""

    def __init__(self, fleet: Fleet, gc: GcTuning, challenges: Challenges) -> None:
        self.outbox = LinkOutbox()
        self._links: set[Link] = set()
        self._fleet = fleet
        self._gc = gc
        self._challenges = challenges
        self._beats = Heartbeats(fleet.clock())

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links)

    def put(self, keys: Sequence[PointerKey]) -> None:
        """Puts changed table entries on the links of the nodes that they concern."""
        if not keys:
            return
        changed, concerned = frozenset(keys), dict[int, frozenset[PointerKey]]()
        for link in self._links:
            if not link.steered:
                continue
            table = link.table
            mine = concerned.get(id(table))
            if mine is None:
                mine = concerned[id(table)] = changed & table.members
            if mine:
                link.put(mine)

    def revoked(self, token_id: str) -> None:
        """Closes the links that were opened with a token which was withdrawn."""
        for link in self._links:
            if link.caller.token == token_id:
                link.revoked()

    def succeeded(self) -> None:
        """Closes every link: another hub has taken the lease, and nodes are to link to that one."""
        for link in self._links:
            link.close(SUCCEEDED, "not_active")

    # ---- one link ------------------------------------------------------------------------------------------

    async def accept(self, socket: WebSocket, hub: Uplink, unlinked: Callable[[Node, Link], None]) -> None:
        """Serves a connection to `/v1/link` from its handshake to its end. `unlinked` is called at the end."""
        caller = authenticated(socket)
        if caller.role is not Role.AGENT:
            refused = Refused(
                "forbidden", "only an agent's token opens a link", fix="loradeck token create --role agent --node NAME"
            )
            await socket.send_denial_response(problem_response(problem_of(refused)))
            return
        await socket.accept()
        socket.scope["headers"].clear()  # nobody reads them again, and they would be held as long as the link
        await self._serve(Link(hub, socket, caller), unlinked)

    async def _serve(self, link: Link, unlinked: Callable[[Node, Link], None]) -> None:
        name = link.caller.node
        self._links.add(link)
        self._gc.changed()
        try:
            await link.serve()
        except WebSocketDisconnect:
            pass
        except asyncio.CancelledError:
            if not link.closing:
                raise
        except Refused as error:
            log.warning("link refused node=%s code=%s %s %s", name, error.code, error.title, error.detail)
            link.close(WRONG_NODE if error.code == "wrong_node" else BAD_MESSAGE, error.code)
            await link.closed()
        except Exception:
            log.exception("link failed node=%s", name)
        finally:
            self._links.discard(link)
            self._gc.changed()
            if link.node is not None:
                unlinked(link.node, link)
            if name is not None:
                self._challenges.left(name, link)

    # ---- heartbeats ----------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Sends the heartbeats that are due now."""
        self.beat_parts(self._beats.due(self._fleet.clock()))

    def beat_parts(self, parts: Collection[int] = range(PARTS)) -> None:
        """Closes links that are silent for longer than the TTL, and puts a heartbeat on the others.

        In parts, because thousands of links that are written to at once keep moves waiting.
        """
        now = self._fleet.clock()
        for link in list(self._links):
            if link.node is None or link.part not in parts:
                continue
            if not link.counts:
                self._challenges.again(link.node.name, link)
                link.put_bookmark()
            elif link.node.heard is not None and now - link.node.heard > LINK_TTL_S:
                link.close(SILENT, "silent")
            else:
                link.put_bookmark()


class Heartbeats:
    """When each part of the links is due for its heartbeat: once in `HEARTBEAT_S`, however late `due` is called."""

    def __init__(self, now: float) -> None:
        self._done = self._step(now)

    def due(self, now: float) -> frozenset[int]:
        """The parts whose time came since the last call; `now` is monotonic seconds."""
        step = self._step(now)
        first = max(self._done, step - PARTS) + 1
        self._done = step
        return frozenset(n % PARTS for n in range(first, step + 1))

    def _step(self, now: float) -> int:
        return int(now / (HEARTBEAT_S / PARTS))


@dataclass(eq=False)
class TableSender:
    """Computes table entries from the log, and sends those that changed."""

    _log: Log
    _catalogue: Catalogue
    _tables: NodeTables
    _withdrawals: Withdrawals
    _fleet: Fleet
    _links: Links
    _prepares: Prepares
    _changes: Changes

    def load(self) -> None:
        """Computes the entries of all pointers; nobody is linked yet."""
        for key in self._log.state.routes():
            self._refresh(key)
        self._tables.loaded(self._log.state.rev)

    def committed(self, published: Published) -> None:
        """Sends the entries that committed events changed; the first follower of the log."""
        self._tables.forget_messages()
        before = {key: self._tables.placing(key) for key in published.touched}
        for event in published.events:
            if event.kind is EventKind.ROUTE and event.route is not None:
                self._tables.settings_set((event.tenant, event.route), event.rev)
        changed = [key for key in published.touched if self._refresh(key)]
        for key in changed:
            was, now = before[key], self._tables.placing(key)
            self._withdrawals.placed_otherwise(key, was, now)
            if was is not None and now is not None and now.site.nodes is not None:
                self._fleet.joins(key, now.site.nodes - self._withdrawals.names(was))
        self._links.put(changed)
        self._links.outbox.flush()  # nodes have work to do with it, and need not wait for the hub's other followers
        for event in published.events:
            if event.kind is EventKind.NODE_FORGET:
                self._forgotten(str(event.payload["node"]))

    def _forgotten(self, name: str) -> None:
        """Takes a forgotten node out of the fleet. One that has linked meanwhile is an ordinary node, and is kept."""
        node = self._fleet.nodes.get(name)
        if node is None:
            return
        if node.linked:
            node.saved = None
            self._fleet.unsaved.add(name)
            self._withdrawals.keep(name)
            return
        table = self._tables.table(node.labels, name, own=False)
        keys = table.members | self._withdrawals.on(name)
        self._withdrawals.forgotten(name)
        self._fleet.forget(node)
        self._changes.node(name)
        self._changes.soon_for_all(keys)

    def changes_fleet(self, drafts: Sequence[Draft]) -> FleetChange:
        """The nodes that drafts forget and the withdrawals that they cause, to be committed with them."""
        forgotten = [str(draft.payload["node"]) for draft in drafts if draft.kind is EventKind.NODE_FORGET]
        ended = {(name, key): None for name in forgotten for key in self._withdrawals.on(name)}
        before: dict[PointerKey, Placing] = {}
        after: dict[PointerKey, Placing] = {}
        tenants: dict[str, TenantState] = {}
        for draft in drafts:
            key = (draft.tenant, draft.route or "")
            placing = after.get(key) or self._tables.placing(key)
            if placing is None:
                continue
            site, base = placing.where
            if draft.kind in (EventKind.ROUTE, EventKind.ASSIGN):
                known = tenants.get(draft.tenant) or self._log.state.tenants[draft.tenant]
                tenants[draft.tenant] = tenant = tenant_after(known, draft) or known
                site = site_of(tenant, key[1])
            if draft.pointer is not None and draft.pointer.release is not None:
                release = self._catalogue.releases.get(draft.pointer.release)
                base = release.served_base if release is not None else base
            if (site, base) != placing.where:
                before.setdefault(key, placing)
                after[key] = placing._replace(site=site, base=base)
        rev = self._log.state.rev + len(drafts)
        caused = [one for key in after for one in self._withdrawals.caused(key, before[key], after[key], rev)]
        begun = {(one.node, one.key): one for one in caused}
        return FleetChange(nodes=dict.fromkeys(forgotten), withdrawals={**ended, **begun})

    def attested(self, attestation: Attestation, keys: Sequence[PointerKey]) -> None:
        """Sends the entries that an attestation changed: where R goes may be another release now."""
        if attestation.kind in CHANGES_TARGET:
            self.refresh(keys)
        elif attestation.kind in (AttestationKind.ERASURE, AttestationKind.DEPRECATION):
            # Samples of before go with the rows; who calls what is deprecated is told so.
            self.refresh(key for key in self._log.state.routes() if key[0] == attestation.tenant)

    def refresh(self, keys: Iterable[PointerKey]) -> None:
        """Sends the entries that something beside the log changed, such as a prepare, and shows their rows."""
        changed = [key for key in keys if key[0] in self._log.state.tenants and self._refresh(key)]
        self._links.put(changed)
        self._changes.now(changed)

    def _refresh(self, key: PointerKey) -> bool:
        pointer = self._log.state.pointer(key)
        return self._tables.refresh(
            pointer,
            self._log.state.tenants[key[0]],
            self._log.last_rev(key),
            self._prepares.preparing(key),
            self._log.last_move(pointer),
        )
