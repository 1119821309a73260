"""One router, put together: table, switch, the callers' listener and the control socket."""

import asyncio
import fcntl
import logging
import os
import secrets
import socket
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from loradeck.rules.quality.sampling import Consent, ModelTime
from loradeck.rules.serving.router_handover import may_admit, may_give_back, stage
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import ColdQueueLimits, KeyLimits, NodeLimits
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.connections import Connections
from loradeck.strangers.protocol import StrangerLimits, Strangers
from loradeck_agent.host.body_reader import BodyReader
from loradeck_agent.host.listening import BACKLOG, Giver
from loradeck_agent.host.state_folder import FEEDBACK, INPUTS, open_lock, spare_address
from loradeck_agent.router.admission import Admission
from loradeck_agent.router.asked_again import AskAgain, RequestFaults
from loradeck_agent.router.caller_limits import CallerLimits
from loradeck_agent.router.callers_api import server_of, strangers
from loradeck_agent.router.cold_queue import ColdQueue
from loradeck_agent.router.control import Control
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.engine_pools import EngineRoom, Replicas
from loradeck_agent.router.feedback import FeedbackFiles, InputCounter
from loradeck_agent.router.handover import DRAIN_LOCK, DRAIN_SOCKET, Predecessor, Successor, ask_to_hand_over
from loradeck_agent.router.hub_silence import HubSilence
from loradeck_agent.router.judges import Judges
from loradeck_agent.router.ledger_files import FOLDER, LedgerFiles
from loradeck_agent.router.proxy import Proxy
from loradeck_agent.router.request_body import read
from loradeck_agent.router.response_checks import Checks
from loradeck_agent.router.samples import FOLDER as SAMPLES
from loradeck_agent.router.samples import Samples
from loradeck_agent.router.switch import Switch, Unacceptable
from loradeck_agent.router.table import Table, TableFault
from loradeck_agent.router.trace import Trace
from loradeck_agent.router.wire import HandOver

log = logging.getLogger(__name__)

DRAIN_S = 10.0
"""How long answers under way may go on after SIGTERM."""

LINGER_S = 6.0
"""How long a router that has handed over waits at least for requests over connections that callers kept: longer than
clients keep idle ones that they would still use (httpx, and so OpenAI's: 5 s)."""

LONGEST_S = 900.0
"""How long it ends what it has admitted, at most."""

ENDING_S = 1.0
"""How long the lock of a router that does not answer is waited for: it may be about to end."""

_LOOK_S = 0.1
_PASSED_ON = "passed-on.sock"
"""Where a router takes the requests that still come in at the one before it."""

LISTENING = "listening.sock"
"""Where a router gives its listening sockets to the agent."""


class Router:
    """One router on its folder. It has the right to admit from `start` on, until it hands over or is stopped."""

    def __init__(
        self,
        state: Path,
        key_limits: KeyLimits | None = None,
        untold: Collection[PointerKey] = (),
        *,
        queue: ColdQueueLimits | None = None,
        build: str = "",
        takes_over: bool = False,
    ) -> None:
        """Takes the folder, or with `takes_over` reads its table: the router that runs is then asked by `start`.

        Args:
            key_limits: of each caller's key, where a route sets none.
            untold: as in `Switch.start`.
            queue: limits of the requests that wait for a load.
            build: which build of Loradeck this is.

        Raises: TableFault: another router runs here, or the table is damaged.
        """
        self._untold, self._takes_over = untold, takes_over
        self.boot = secrets.token_hex(8)
        self._state = state
        self._table = Table(state, ahead=takes_over)
        self._stats = Stats()
        self._ledger = LedgerFiles(state / FOLDER, self.boot)
        self._trace = Trace(follower=self._ledger.add)
        self._model_time = ModelTime(time.monotonic())
        self._checks = Checks(self._model_time.charge)
        self._samples = Samples(state / SAMPLES, self._checks, self._sampled)
        self._inputs = InputCounter(state / INPUTS, self._checks, self.boot)
        room = EngineRoom()
        self._again = AskAgain(self._checks, room)
        self._bodies = BodyReader(read)
        self._limits = CallerLimits(key_limits or NodeLimits())
        self._faults = RequestFaults()
        self._hub_silence = HubSilence(self._table)
        self._replicas = Replicas()
        self._judges = Judges(self._checks, room, self._replicas, self._model_time)
        self._passed_on = state / _PASSED_ON
        self._successor = Successor(self._passed_on)
        self._cold = ColdQueue(queue)
        self._admission = Admission(self._hub_silence, self._stats, self._cold)
        self._admission.draw_models = self._judges.draw
        self._admission.other_left = self._again.end
        self._admission.stage = stage(locked=not takes_over, read=not takes_over, gave_back=False)
        self.switch = Switch(self._table, self._admission, self._replicas)
        self.switch.consent_changed = self._samples.consent_changed
        self._admission.lost = self.switch.lost
        self.connections = Connections()
        """Those of callers who have shown a key."""
        self.control = Control(
            connections=self.connections,
            boot=self.boot,
            contents=self._table.contents,
            switch=self.switch,
            admission=self._admission,
            hub_silence=self._hub_silence,
            stats=self._stats,
            trace=self._trace,
            samples=self._samples,
            cold=self._cold,
            hands_over=self.hand_over,
            build=build,
        )
        self._runners: list[web.BaseRunner] = []
        self._listening: list[asyncio.Server] = []
        self._strangers: Strangers | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._drain_lock = -1
        self._address: Path | None = None
        """The control socket, once it is this router's."""
        self.drained = asyncio.Event()
        """Set when it has handed over and has nothing more to do."""

    async def start(
        self,
        host: str,
        port: int,
        tls: ServerCertificate | None = None,
        limits: StrangerLimits | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """Serves the table as it stands, once no other router does, and opens the control socket.

        Args:
            limits: those of strangers.
            sockets: what it listens on for callers; none: what it binds itself.

        Raises:
            OSError: an address cannot be bound.
            AgentError: the router that runs does not hand over.
            TableFault: it does not let the lock go.
        """
        self.switch.start(self._untold)
        self._checks.start()
        self._ledger.start()
        self.proxy = Proxy(
            admission=self._admission,
            bodies=self._bodies,
            limits=self._limits,
            checks=self._checks,
            trace=self._trace,
            faults=self._faults,
            again=self._again,
            samples=self._samples,
            inputs=self._inputs,
            judges=self._judges,
            successor=self._successor,
            feedback_files=FeedbackFiles(self._state / FEEDBACK, self.boot),
            cold=self._cold,
        )
        server = server_of(self.proxy.handle, self.connections)
        callers = web.ServerRunner(server, shutdown_timeout=DRAIN_S)
        await callers.setup()
        self._runners.append(callers)
        outside = self._strangers = strangers(self._tenants_of, self.connections, limits, tls)
        agent = web.AppRunner(self.control.app(), access_log=None, shutdown_timeout=1.0)
        await agent.setup()
        self._runners.append(agent)

        await self._admit()
        self._samples.start()
        self._inputs.start()
        loop = asyncio.get_running_loop()
        if sockets:
            for sock in sockets:
                made = await loop.create_server(lambda: outside.protocol(server), sock=sock, backlog=BACKLOG)
                self._listening.append(made)
        else:
            made = await loop.create_server(lambda: outside.protocol(server), host, port, backlog=BACKLOG)
            self._listening.append(made)
        if (predecessor := self._found_draining()) is not None:
            self._tasks.append(asyncio.create_task(self._attend(predecessor, server)))
        try:
            files = [sock.fileno() for made in self._listening for sock in made.sockets]
            giver = await loop.create_unix_server(lambda: Giver(files), sock=_bound(self._state / LISTENING))
            self._listening.append(giver)
            self._address = self._state / "router.sock"
            await web.SockSite(agent, _bound(self._address)).start()
        except OSError as fault:
            log.error("the disk takes no control socket, the agent finds its spare address: %s", fault)
            self.control.asks_user = True
            await web.UnixSite(agent, spare_address(self._state / "router.lock")[0]).start()

    async def stop(self) -> None:
        """Accepts nothing more, lets answers finish for up to DRAIN_S, and gives the folder back."""
        self._accept_no_more()
        if self._strangers is not None:
            self._strangers.close()
        for task in self._tasks:
            task.cancel()
        for runner in self._runners:
            await runner.cleanup()
        if self.control.predecessor is not None:
            self.control.predecessor.close()
        await self._again.close()
        await self._judges.close()
        await self._checks.close()
        await self._samples.close()
        await self._inputs.close()
        await self._ledger.close()
        await self._bodies.close()
        await self._faults.close()
        await self._replicas.close()
        await self._successor.close()
        if self._address is not None:
            with suppress(OSError):
                self._address.unlink()
        self._table.close()
        if self._drain_lock >= 0:
            os.close(self._drain_lock)

    def _tenants_of(self, bearer: str) -> set[str] | None:
        """The tenants that may use a key; None: nobody knows it.

        Once handed over, the router that has the right to admit judges it.
        """
        tenants = self._admission.tenants_of(bearer)
        return tenants if may_admit(self._admission.stage) else tenants or set()

    def _sampled(self) -> dict[PointerKey, Consent]:
        """The routes of which samples are kept, and for how long."""
        entries = self._table.contents.entries.values()
        return {
            entry.key: Consent(entry.sample_hours, entry.samples_from_ms)
            for entry in entries
            if entry.sample_hours and entry.current is not None
        }

    def _accept_no_more(self) -> None:
        for server in self._listening:
            server.close()
        self._listening.clear()

    # ---- two routers ---------------------------------------------------------------------------------------

    async def _admit(self) -> None:
        """Gets the right to admit, from the router that runs where this one takes over."""
        if self._takes_over:
            read = self._table.contents.copy()
            await ask_to_hand_over(self._state)
            await self._take_table()
            self._hub_silence.start()
            self.switch.catch_up(read)
        self._admission.stage = stage(locked=True, read=True, gave_back=False)
        self._tasks.append(asyncio.create_task(self.switch.keep_mending()))

    async def _take_table(self) -> None:
        """Takes the table, also from a router that is ending: the kernel cuts its connections before its locks."""
        until = time.monotonic() + ENDING_S
        while True:
            try:
                return self._table.take()
            except TableFault as held:
                if held.code != "router_running" or time.monotonic() > until:
                    raise
            await asyncio.sleep(_LOOK_S)

    def _found_draining(self) -> Predecessor | None:
        """The router before this one, where it drains: it is told what to cut before anything is acknowledged.

        That is more than what is cut from here on: one between the two may have ended before it said so.
        """
        predecessor = Predecessor.find(self._state)
        if predecessor is not None:
            self.control.predecessor, self._admission.cuts = predecessor, {}
            self.switch.cut_again()
        return predecessor

    async def _attend(self, predecessor: Predecessor, callers: web.Server) -> None:
        """Takes what the router that drains passes on, until its end."""
        try:
            async with await asyncio.get_running_loop().create_unix_server(callers, sock=_bound(self._passed_on)):
                await predecessor.ended.wait()
        except OSError as fault:
            log.error("what the router that drains passes on cannot be taken: %s", fault)
            await predecessor.ended.wait()
        self._forget(predecessor)

    def _forget(self, predecessor: Predecessor) -> None:
        log.info("the router before this one (pid %d) has ended", predecessor.pid)
        self.control.predecessor = self._admission.cuts = None
        predecessor.close()

    def hand_over(self, asked: HandOver) -> None:
        """Gives up the right to admit, for the router that asks: nothing is admitted or accepted here any more.

        What was admitted is answered to its end, and what still comes in over callers' connections is passed on. It
        does not await: no request is between this router and the next one.

        Raises: Unacceptable: `not_handed_over`; nothing has changed.
        """
        if time.monotonic_ns() > asked.until_ns:
            raise _not_now("the router that asked has given up", "start another one")
        if not may_give_back(self._admission.stage, self._table.volatile) or self._table.trouble:
            raise _not_now(f"what is in memory alone cannot be handed over: {self._table.trouble}", "repair the disk")
        lock = open_lock(self._state / DRAIN_LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            drain = self._state / DRAIN_SOCKET
            drain.unlink(missing_ok=True)
            os.link(self._state / "router.sock", drain)
            self._address = drain
        except OSError as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise _not_now("the router before this one still ends what it admitted", "wait for its end") from error
            raise _not_now(f"the disk: {error.strerror}", "repair the disk") from error
        self._drain_lock = lock
        self._admission.stage = stage(locked=False, read=True, gave_back=True)
        self._again.end_all()  # from here on this router is told of no move
        self._judges.hand_over()
        self._samples.hand_over()  # nor of the end of a consent
        self._cold.end()
        self._accept_no_more()
        for task in self._tasks:
            task.cancel()
        self._table.close()
        log.info("handed over; what was admitted is answered to its end")
        self._tasks.append(asyncio.create_task(self._drain()))

    async def _drain(self) -> None:
        began = time.monotonic()
        while (for_s := time.monotonic() - began) < LONGEST_S:
            if for_s > LINGER_S and not self.proxy.under_way:
                break
            await asyncio.sleep(_LOOK_S)
        self.drained.set()


def _not_now(detail: str, fix: str) -> Unacceptable:
    return Unacceptable(409, "not_handed_over", "This router does not hand over.", f"{detail}.", f"{fix}.".capitalize())


def _bound(path: Path) -> socket.socket:
    """A socket for this user alone that takes the place of the one at a path: calls find the one or the other."""
    staged = path.with_suffix(".new")
    staged.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        made.bind(str(staged))
        made.listen(BACKLOG)
        staged.rename(path)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    return made
