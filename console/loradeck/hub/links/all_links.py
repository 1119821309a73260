"""All links of a hub: how one is opened and ends, its heartbeats, and which of them get a changed table entry."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.frames import CloseCode

from loradeck.hub.access.auth import authenticated
from loradeck.hub.access.problems import problem_of, problem_response
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.links.challenges import Challenges
from loradeck.hub.links.gc_tuning import GcTuning
from loradeck.hub.links.node_link import BAD_MESSAGE, PARTS, SILENT, SUCCEEDED, WRONG_NODE, Link, LinkOutbox, Uplink
from loradeck.rules.errors import Refused
from loradeck.rules.serving.link_bounds import LONGEST_BAR_S, bar_s
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.replica_state import HEARTBEAT_S, LINK_TTL_S

log = logging.getLogger("loradeck.hub.links.all_links")

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
        self.refusals: dict[str, int] = {}
        """Node -> links of its that ended by a message that was refused, since this hub began."""
        self._in_a_row: dict[str, int] = {}
        self._barred_until: dict[str, float] = {}

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
        if self._fleet.clock() < self._barred_until.get(caller.node or "", 0.0):
            refused = Refused(
                "refused_messages",
                f"the last links of {caller.node} ended by messages that were refused: it gets none for a while",
                fix="bring its agent to the hub's version; if it is, revoke the node",
            )
            await socket.send_denial_response(problem_response(problem_of(refused)))
            return
        await socket.accept()
        socket.scope["headers"].clear()  # nobody reads them again, and they would be held as long as the link
        await self._serve(Link(hub, socket, caller), unlinked)

    async def _serve(self, link: Link, unlinked: Callable[[Node, Link], None]) -> None:
        name, began = link.caller.node, self._fleet.clock()
        self._links.add(link)
        self._gc.changed()
        try:
            await link.serve()
        except WebSocketDisconnect as gone:
            if gone.code == CloseCode.MESSAGE_TOO_BIG and name is not None:
                log.warning("link refused node=%s: a message that is too long", name)
                self._bar(name, began)
            elif gone.code == CloseCode.POLICY_VIOLATION and name is not None:  # for its frames, which was logged
                self._bar(name, began)
        except asyncio.CancelledError:
            if not link.closing:
                raise
        except Refused as error:
            log.warning("link refused node=%s code=%s %s %s", name, error.code, error.title, error.detail)
            link.close(WRONG_NODE if error.code == "wrong_node" else BAD_MESSAGE, error.code)
            if error.code == "invalid_request" and name is not None:
                self._bar(name, began)
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

    def _bar(self, node: str, began: float) -> None:
        """Counts a link that ended by a refused message, and bars its node for longer each time in a row."""
        now = self._fleet.clock()
        in_a_row = 1 if now - began > LONGEST_BAR_S else self._in_a_row.get(node, 0) + 1
        self.refusals[node] = self.refusals.get(node, 0) + 1
        self._in_a_row[node] = in_a_row
        self._barred_until[node] = now + bar_s(in_a_row)

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
