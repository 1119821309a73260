"""Keeps the router at what the hub wants of this node, and the agent at what the router's table holds.

The path of a flip is `RouterSync.directive`: entries in, router's control socket, acknowledgements out. Everything
else comes after it or runs beside it. The router's table is the one durable owner of entries, cursor and pins; the
agent keeps copies of them and reads the table's file while no router answers.
"""

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

from loradeck.client.build import build
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, Bookmark, Desired, Resync
from loradeck.schemas.protocol import PROTOCOL, SUPPORTED
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import Pin, TableEntry
from loradeck_agent.host.config import RouterConfig
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.identity import Identity
from loradeck_agent.host.listening import Listening
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.host.supervisor import Program, Supervised
from loradeck_agent.router.client import RouterControl
from loradeck_agent.router.table import read_contents
from loradeck_agent.router.wire import VOLATILE, Acks, Cursor, RouterState, TableUpdate, ack_about
from loradeck_agent.serving.proof import Prover
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable, DirectiveVerdict

log = logging.getLogger(__name__)

PINS_S = 30.0
"""How often the router's pins are read where no signal says that one was made."""

TAKE_OVER = ("--take-over",)

READY_S = 30.0
"""How long a router may take until it answers."""

LINK_ANYWAY_S = 30.0
"""How long the agent waits for its router before it links to the hub without one."""

RETRY_S = 2.0
"""Between two attempts to give the router what it could not take."""

RESYNC_S = 10.0
"""At most one request for the whole table in this time: a difference that stays must not become a storm."""

_REFUSED = "the pin of %s/%s cannot be put back: %s"


@dataclass(eq=False, kw_only=True)
class RouterSync:
    """The router's process, its table and its pins, as the agent sees them.

    Attributes:
        router: client of the control socket.
        send: the link's: sends one message to the hub, and returns False without a link.
        changed: called when the table or the pins have changed.
        boot: boot id of the router, empty before it first answered.
        durable: how far this node follows the hub's log, on the disk: what a router has answered for, or what the file
            of its table was read to hold.
        known: set once the router's table was read.
        features: what the router acts on in entries; where none runs, what this program's router does.
    """

    folder: StateFolder
    router: RouterControl
    table: DesiredTable
    acks: AckBoard
    prover: Prover
    reconciler: Reconciler
    send: Callable[[BaseModel], Awaitable[bool]]
    changed: Callable[[], None]
    boot: str = ""
    durable: Cursor = field(default_factory=Cursor)
    known: asyncio.Event = field(default_factory=asyncio.Event)
    features: tuple[str, ...] = tuple(sorted(SUPPORTED))
    volatile: set[PointerKey] = field(default_factory=set)
    """Pointers of which the router has more in memory than on its read-only disk: the next one is told so."""
    process: Supervised | None = None
    """The router's process, once it is supervised."""
    _protocol: int = 1
    """Version of the wire that the router speaks."""
    _up: bool = False
    _behind: asyncio.Event = field(default_factory=asyncio.Event)
    _look_at_pins: asyncio.Event = field(default_factory=asyncio.Event)
    _missing: dict[PointerKey, Pin] = field(default_factory=dict)  # pins that the router's table has to be given
    _refused: set[PointerKey] = field(default_factory=set)  # those of them whose refusal was logged
    _ending: set[PointerKey] = field(default_factory=set)  # unpins that no router has taken yet
    # Pins that were read before one of them ended must not be kept after its end.
    _pins_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _resync_at: float = 0.0
    _applied: int = 0  # directives, since the agent's start

    # ---- the hub's messages --------------------------------------------------------------------------------

    async def directive(self, message: Desired) -> None:
        """Hands what changed to the router and sends its acknowledgements on. Nothing stands before this."""
        verdict = self.table.judge(message)
        if verdict is DirectiveVerdict.APPLY and (flaw := self.table.flaw(message)):
            await self._refuse(message, message.entries, "bad_position", flaw)
        elif verdict is DirectiveVerdict.APPLY and (forged := self.table.forged(message)):
            await self._refuse(message, forged, "bad_signature", "no hub of this log has signed the entry")
        elif verdict is DirectiveVerdict.APPLY:
            answer, behind = Acks(), self._behind.is_set()
            cursor = Cursor(message.epoch, message.rev, message.hash, message.position)
            try:
                entries = (*message.entries, *self.table.withdrawn(message))
                position = self.durable if behind else cursor
                answer = await self._give(position, entries)
                self._note_volatile(answer.acks)
                for ack in answer.acks:
                    await self.acks.post(ack)
            except AgentError as error:
                log.error("the router did not take revision %d: %s", message.rev, error)
            await self._after_directive(message, answer, behind)
        elif verdict is DirectiveVerdict.GAP:
            self.table.missed = True
            await self._resync(f"revisions {self.table.cursor.rev} to {message.prev_rev} were missed")
        else:
            log.warning(
                "ignored: epoch %d revision %d is %s; this node is at epoch %d revision %d",
                message.epoch,
                message.rev,
                verdict.value,
                self.table.cursor.epoch,
                self.table.cursor.rev,
            )

    async def _refuse(self, message: Desired, entries: Sequence[TableEntry], code: str, why: str) -> None:
        """Leaves everything as it is, since the message is not what a hub of the log signed, and says so."""
        named = ", ".join("/".join(entry.key) for entry in entries[:3])
        log.error("refused: revision %d with %d entries (%s): %s", message.rev, len(entries), named, why)
        for entry in entries:
            for replica in self.acks.replicas:
                await self.acks.post(ack_about(entry, replica, AckState.FAILED, code, why))
        self.table.missed = True
        await self._resync(f"revision {message.rev} was refused: {why}")

    async def _after_directive(self, message: Desired, answer: Acks, behind: bool) -> None:
        """`behind`: it was given under an older position, so the router may have refused a part of it as stale."""
        complete = self.table.apply(message)
        self._applied += 1
        for ack in answer.acks:
            self.prover.flipped(ack)
        if answer.durable and not behind:
            self._advance(self.table.cursor)
        else:
            self._behind.set()
        self.changed()
        if not complete:
            await self._resync(f"the table differs from the hub's at revision {message.rev}")
        if self._missing and answer.durable:
            await self._restore_pins()
        for key in message.unpin:
            await self.unpin(key)

    async def bookmark(self, message: Bookmark) -> None:
        """Moves on how far the hub's log is known here, in the router's table too, so that it outlives this agent."""
        if flaw := self.table.flaw(message):
            log.error("passed over: the bookmark of epoch %d revision %d: %s", message.epoch, message.rev, flaw)
            return
        if self.table.missed:
            await self._resync("a directive was missed, and the whole table has not come")
        if not self.table.bookmark(message) or self._behind.is_set() or self.table.cursor <= self.durable:
            return
        cursor = self.table.cursor
        answer = Acks()
        try:
            answer = await self.router.table(self._update(cursor, ()))
        except AgentError as error:
            log.warning("the router did not take revision %d: %s", cursor.rev, error)
        if answer.durable:
            self._advance(cursor)
        else:
            self._behind.set()

    async def unpin(self, key: PointerKey) -> None:
        """Ends a pin; where no router answers, once one does. Raises: AgentError: the router did not end it yet."""
        async with self._pins_lock:
            self._ending.add(key)
            self._missing.pop(key, None)
            await self.post(await self.router.unpin(key))
            self._ending.discard(key)
            self.table.pins.pop(key, None)

    async def _resync(self, why: str) -> None:
        now = time.monotonic()
        if now < self._resync_at:
            return
        self._resync_at = now + RESYNC_S
        log.warning("the whole table is asked for: %s", why)
        await self.send(Resync(why=why))

    # ---- the router's process ------------------------------------------------------------------------------

    def supervised(self, config: RouterConfig, came_up: Callable[[], Awaitable[None]]) -> Supervised:
        """The router's process, to be run. `came_up` is called when a router was brought up to date."""
        argv: tuple[str, ...] = (
            sys.executable,
            "-m",
            "loradeck_agent.router",
            "--state",
            str(self.folder.router),
            "--listen",
            config.listen,
            "--limits",
            config.limits.model_dump_json(),
            "--queue",
            config.queue.model_dump_json(),
        )
        if config.tls:
            argv += ("--tls-cert", str(Identity(self.folder.root).certificate))
        elif config.tls_cert is not None:
            argv += ("--tls-cert", str(config.tls_cert), "--tls-key", str(config.tls_key))
        if config.client_ca is not None:
            argv += ("--client-ca", str(config.client_ca))

        listening, ours = Listening(config.listen, self.folder.router_listening), build()

        def more() -> tuple[str, ...]:
            sockets = (str(file) for file in listening.files())
            return ("--sockets", *sockets, "--build", build(), *self._untold())

        async def up(boot: str, adopted: bool) -> None:
            theirs = await self.up(boot)
            await listening.adopt()
            await came_up()
            self.known.set()
            if adopted and theirs not in ("", ours):
                log.info("the router is build %s, and this agent is %s: another router takes over", theirs, ours)
                supervised.replace()

        async def down() -> None:
            if not self._up:
                listening.close()  # it never came up: better that callers are refused than that they wait
            await self.down()

        program = Program("router", argv, self.folder.router_lock, self.folder.router_log, READY_S)
        supervised = self.process = Supervised(
            program, probe=self._probe, came_up=up, went_down=down, more=more, files=listening.files, succeed=TAKE_OVER
        )
        return supervised

    def replace_router(self) -> None:
        """Puts another router in the place of the one that runs, as the command line asks."""
        if self.process is not None:
            self.process.replace()

    async def _probe(self) -> str | None:
        try:
            return (await self.router.state()).boot
        except Unreachable:
            return None
        except AgentError as error:
            log.error("the router does not say how it is: %s", error)
            return None

    async def until_known(self) -> None:
        """Returns once the router's table was read, or after `LINK_ANYWAY_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINK_ANYWAY_S):
                await self.known.wait()

    async def up(self, boot: str) -> str:
        """Takes over what the table of a router that came up holds, and gives it what it missed. Returns its build.

        Raises: AgentError: it does not answer.
        """
        async with self._pins_lock:
            state = await self.router.state()
            self.boot, self._up, self.features, self._protocol = boot, True, state.features, state.protocol
            self.volatile.update(state.volatile)
            self._take_over(state.entries, state.cursor)
            self._compare_pins(state)
        for key in sorted(self._ending):
            await self.unpin(key)
        self.reconciler.router_up(True)
        try:
            await self.push()
        except Unreachable:
            raise
        except AgentError as error:
            log.error("the router is behind: %s", error)
            self._behind.set()
        return state.build

    async def down(self) -> None:
        """Notes that the router's process has ended."""
        self._up = False
        self.reconciler.router_up(False)
        self.router.close()

    async def read_file(self) -> None:
        """Reads the table's file where no router answers, so that a hello has the durable cursor and pins."""
        if self._up:
            return
        async with self._pins_lock:
            try:
                contents = await asyncio.to_thread(read_contents, self.folder.router)
            except OSError as error:
                log.error("the router does not run and its table cannot be read: %s", error)
                return
            if self._up or contents.cursor == Cursor():
                return
            self._take_over(contents.entries.values(), contents.cursor)
            known = self._missing | self.table.pins
            newer = {k: pin for k, pin in contents.pins.items() if k not in known or pin.at_ms >= known[k].at_ms}
            self.table.pins = known | newer  # a damaged file may have lost a pin, or the newer one of two

    def _take_over(self, entries: Iterable[TableEntry], cursor: Cursor) -> None:
        """Entries and cursor of the router's table, where they are newer than what is known here."""
        for entry in entries:
            known = self.table.entries.get(entry.key) or self.table.orphans.get(entry.key)
            if known is None or entry.fence > known.fence:
                self.table.entries[entry.key] = entry
        self.durable = max(self.durable, cursor)
        self.table.cursor = max(self.table.cursor, cursor)

    # ---- what the router missed ----------------------------------------------------------------------------

    async def push(self) -> None:
        """Gives the router its engines and every entry again: it answers how each one stands.

        Raises: AgentError: it did not take all of them.
        """
        if not await self.reconciler.at_router.push():
            raise AgentError("router_silent", "the router gave no answer about its engines")
        cursor, applied = self.table.cursor, self._applied
        entries = (*self.table.entries.values(), *self.table.orphans.values())
        answer = await self._give(cursor, entries)
        await self.post(answer.acks)
        if not answer.durable:
            raise AgentError("disk_full", "the router cannot write its table")
        if applied == self._applied:  # nothing has come meanwhile that these entries lack
            self._behind.clear()
            self._advance(cursor)
        await self._restore_pins()

    def missed(self) -> None:
        """Has everything given to the router again, because a call to it had no answer."""
        self._behind.set()

    async def push_behind(self) -> None:
        """Tries again what the router could not take (it was down, or its disk was full), for ever."""
        while True:
            await self._behind.wait()
            await asyncio.sleep(RETRY_S)
            try:
                await self.push()
            except AgentError as error:
                log.warning("the router is still behind: %s", error)

    async def post(self, acks: tuple[Ack, ...]) -> None:
        """Sends the router's acknowledgements on, and starts the proofs that follow from them."""
        self._note_volatile(acks)
        for ack in acks:
            if await self.acks.post(ack):
                self.prover.flipped(ack)

    def _note_volatile(self, acks: Iterable[Ack]) -> None:
        for ack in acks:
            if ack.code == VOLATILE:
                self.volatile.add((ack.tenant, ack.route))
            elif ack.state is AckState.FLIPPED:
                self.volatile.discard((ack.tenant, ack.route))

    def _untold(self) -> tuple[str, ...]:
        return ("--untold", *("/".join(key) for key in sorted(self.volatile))) if self.volatile else ()

    def _advance(self, cursor: Cursor) -> None:
        """The router's table has everything up to here."""
        if not self._behind.is_set():
            self.durable = max(self.durable, cursor)

    async def _give(self, cursor: Cursor, entries: tuple[TableEntry, ...]) -> Acks:
        """Gives the router entries. Its answer acknowledges tombstones for engines too that it does not have now."""
        answer = await self.router.table(self._update(cursor, entries))
        said, withdrawn = {(ack.tenant, ack.route, ack.replica) for ack in answer.acks}, set(answer.withdrawn)
        more = [
            ack_about(entry, replica, AckState.FLIPPED, rev=cursor.rev)
            for entry in entries
            if entry.key in withdrawn
            for replica in sorted(self.acks.replicas)
            if (*entry.key, replica) not in said
        ]
        return answer.model_copy(update={"acks": (*answer.acks, *more)}) if more else answer

    def _update(self, cursor: Cursor, entries: tuple[TableEntry, ...]) -> TableUpdate:
        if self._protocol < PROTOCOL:
            entries = tuple(entry.unsigned() for entry in entries)
        return TableUpdate(**vars(cursor), entries=entries)

    # ---- pins ----------------------------------------------------------------------------------------------

    def look_at_pins(self) -> None:
        """Has the router's pins read, because the command line has made one."""
        self._look_at_pins.set()

    async def watch_pins(self) -> None:
        """Reads the router's pins now and then, for ever: the command line makes them, with or without this agent."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PINS_S):
                    await self._look_at_pins.wait()
            self._look_at_pins.clear()
            try:
                await self.read_pins()
            except AgentError as error:
                log.debug("pins cannot be read: %s", error)
                continue
            self.changed()

    async def read_pins(self) -> None:
        """Reads the router's pins. Raises AgentError where it does not answer."""
        async with self._pins_lock:
            self._compare_pins(await self.router.state())

    def _compare_pins(self, state: RouterState) -> None:
        """Takes over the router's pins. Only an unpin ends one: what is known beside them, its table has lost."""
        pins = {(pin.tenant, pin.route): pin for pin in state.pins}
        known = self._missing | self.table.pins
        self._missing = {key: pin for key, pin in known.items() if key not in pins and key not in self._ending}
        self.table.pins = pins

    async def _restore_pins(self) -> None:
        """Gives the router the pins that its table should have: those of a lost table. One that it refuses
        (its route is not here yet) is tried again after the next directive.

        Called when the router has just answered that it holds the cursor durably."""
        async with self._pins_lock:
            try:
                if self._missing:  # a newer pin may have been made meanwhile
                    self._compare_pins(await self.router.state())
            except AgentError as error:
                log.error("pins cannot be put back: the router does not say which it has: %s", error)
                return
            for key, pin in list(self._missing.items()):
                try:
                    await self.post(await self.router.pin(pin))
                except AgentError as error:
                    log.log(logging.DEBUG if key in self._refused else logging.ERROR, _REFUSED, *key, error)
                    self._refused.add(key)
                    continue
                self._missing.pop(key, None)
                self.table.pins[key] = pin
