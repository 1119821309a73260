"""The agent of one node: it joins the link, the router, the engines, the proofs and the jobs.

The path of a flip is `_directive`: message in, router's control socket, acknowledgement out. Everything else
(journal, loads, proof) comes after it or runs beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import loradeck_agent
from loradeck.artifacts import BadArtifact, base_digest
from loradeck.schemas.link import (
    Ack,
    AckState,
    Bookmark,
    Desired,
    DownMessage,
    Hello,
    JobCancel,
    JobMessage,
    JobNoted,
    NodeOrder,
    Report,
    Resync,
    TableAsk,
    TableState,
    TraceAsk,
    TraceRows,
    Traffic,
    Welcome,
)
from loradeck.schemas.table import Pin
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.durations import Measured
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import StateFolder, locked
from loradeck_agent.host.supervisor import Program, Supervised
from loradeck_agent.jobs.jobs import Jobs
from loradeck_agent.router.client import RouterControl, TableUpdate
from loradeck_agent.serving.canary_records import CanaryRecords
from loradeck_agent.serving.engine_lifecycle import EngineLife
from loradeck_agent.serving.engine_schedule import Upkeep
from loradeck_agent.serving.garbage import Collector
from loradeck_agent.serving.proof import Prover
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.serving.replica import EngineReplica, open_api
from loradeck_agent.store.checkpoints import CheckpointStore
from loradeck_agent.store.inputs import InputStore
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.telemetry.sampler_watch import Telemetry
from loradeck_agent.uplink.acknowledgements import AckBoard
from loradeck_agent.uplink.desired_table import DesiredTable, Heard
from loradeck_agent.uplink.hub_api import HubApi
from loradeck_agent.uplink.journal import Cursor, Journal
from loradeck_agent.uplink.link import Link

log = logging.getLogger(__name__)

REPORT_S = 1.0
PINS_S = 30.0
ROUTER_READY_S = 30.0
TABLE_RETRY_S = 2.0
ROUTER_SILENCES = 3
"""After so many reports without a word of the router it is an alarm: one that is started again is back by then."""

RESYNC_S = 10.0
"""At most one request for the whole table in this time: a difference that stays must not become a storm."""

_DISK = frozenset({"disk_full", "table_write_failed"})


class Agent:
    """The daemon. `run` returns when `stop` is called; router, engines and executors go on."""

    def __init__(self, config: AgentConfig, token: str) -> None:
        self.config = config
        self.boot = uuid.uuid4().hex
        self.folder = StateFolder(config.state)
        self.folder.make()
        self.journal = Journal.open(self.folder.journal)
        self.table = DesiredTable(cursor=self.journal.cursor)
        self.router = RouterControl(self.folder)
        self.hub = HubApi(config, token)
        measured = Measured(self.folder.measured)
        self.engines = tuple(
            EngineReplica(config.replica_of(engine), engine, open_api(engine, self.folder), measured)
            for engine in config.engine
        )
        self.link = Link(
            config, token, hello=self._hello, handle=self._handle, changed=self._link_changed, noted=self._write_status
        )
        self.acks = AckBoard(self.link.send)
        self.records = CanaryRecords(self.folder.canaries, self.hub)
        self.store = ReleaseStore(self.folder, self.hub)
        self.inputs = InputStore(self.folder, self.hub, self.store)
        self.reconciler = Reconciler(
            table=self.table,
            engines=self.engines,
            router=self.router,
            store=self.store,
            records=self.records,
            acks=self.acks,
            acked=self._acked,
            note_passed=self._note_passed,
        )
        self.prover = Prover(
            self.table, {engine.name: engine for engine in self.engines}, self.router, self.records, self.acks
        )
        self.lives = tuple(self._life_of(engine) for engine in self.engines)
        self.upkeep = Upkeep(
            self.lives,
            table=self.table,
            reconciler=self.reconciler,
            memory_gb=config.memory_gb,
            hold_prior_s=config.hold_prior_s,
            known=self._all_known,
        )
        checkpoints = CheckpointStore(self.folder.checkpoints, self.hub)
        self.jobs = Jobs(
            folder=self.folder,
            engines=self.engines,
            hub=self.hub,
            store=self.store,
            inputs=self.inputs,
            checkpoints=checkpoints,
            reconciler=self.reconciler,
            upkeep=self.upkeep,
            send=self.link.send,
            threads=config.jobs.threads,
        )
        self.collector = Collector(
            self.folder, self.store, self.hub, self.engines, self.reconciler.names, self._may_name_more
        )
        self.telemetry = Telemetry()
        self.pins: dict[tuple[str, str], Pin] = {}
        self.order = NodeOrder()
        self._durable = self.journal.cursor
        self._journal_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._router_known = asyncio.Event()
        self._bases_known = asyncio.Event()
        self._pins_changed = asyncio.Event()
        self._table_behind = asyncio.Event()
        self._stop = asyncio.Event()
        self._router_boot = ""
        self._unpins: set[tuple[str, str]] = set()
        self._pinning = asyncio.Lock()
        """Held while pins are read or ended: one that was read before its end must not be noted after it."""
        self._resync_at = 0.0
        self._stored_said: frozenset[str] = frozenset()
        self._background: set[asyncio.Task[None]] = set()

    # ---- life ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        self._stop.set()

    def look_at_pins(self) -> None:
        """The command line changed a pin behind our back."""
        self._pins_changed.set()

    async def run(self) -> None:
        """Until `stop`.

        Raises:
            AgentError: `already_running`.
        """
        with locked(self.folder.lock, "agent"):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(task) for task in self._parts()]
                    await self._stop.wait()
                    log.info("the agent ends; router, engines and executors go on")
                    for task in tasks:
                        task.cancel()
            finally:
                await self._close()

    def _parts(self) -> list[Coroutine[None, None, None]]:
        return [
            self._supervised_router().run(),
            self._know_bases(),
            *(life.run() for life in self.lives),
            self.upkeep.run(),
            *(self.reconciler.keep(engine) for engine in self.engines),
            self.reconciler.first_look(),
            self._linked(),
            self._report(),
            self._watch_pins(),
            self._push_behind(),
            self.jobs.run(),
            self.inputs.run(),
            self.collector.run(),
            self.telemetry.run(),
        ]

    async def _know_bases(self) -> None:
        """What lies in each base's folder, before its engine says so: a replica counts from the agent's start on."""
        for engine in self.engines:
            try:
                engine.files = await asyncio.to_thread(base_digest, engine.config.base, cache=self.folder.digests)
            except (BadArtifact, OSError) as error:
                log.error("the base of engine %s cannot be read: %s", engine.config.name, error)
        self._bases_known.set()

    async def _all_known(self) -> None:
        """Until the table (the router's, at first) and the bases of the engines are known."""
        await self._router_known.wait()
        await self._bases_known.wait()

    def _may_name_more(self) -> bool:
        """Whether releases may be needed here that neither table nor pins name."""
        return not self._router_known.is_set() or bool(self.jobs.running())

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.prover.close()
        self.router.close()
        self.hub.close()
        for engine in self.engines:
            engine.api.close()
        self._journal_thread.shutdown(wait=True)

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        """Runs something beside the caller, who must not wait for it. Its failure is logged."""
        task = asyncio.get_running_loop().create_task(_logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _note(self, write: Callable[[], None]) -> bool:
        """Writes to the journal in its thread, in order. False: the disk refused."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._journal_thread, write)
        except OSError as error:
            log.error("the journal cannot be written: %s", error)
            return False
        return True

    # ---- the hub -------------------------------------------------------------------------------------------

    async def _linked(self) -> None:
        """Connects once the router has said how far it is, or when it keeps silent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUTER_READY_S):
                await self._router_known.wait()
        await self.link.run()

    async def _hello(self) -> Hello:
        return Hello(
            node=self.config.node,
            boot=self.boot,
            version=loradeck_agent.__version__,
            labels=self.config.labels,
            epoch=self._durable.epoch,
            rev=self._durable.rev,
            hash=self._durable.hash,
            replicas=tuple(life.report(self.telemetry.snapshot().gpus) for life in self.lives),
            pins=tuple(self.pins.values()),
            jobs=self.jobs.running(),
            stored=tuple(sorted(self._say_stored())),
            memory_gb=self.config.memory_gb,
        )

    def _say_stored(self) -> frozenset[str]:
        self._stored_said = self.store.stored
        return self._stored_said

    async def _handle(self, message: DownMessage) -> None:
        try:
            await self._carry_out(message)
        except AgentError as error:
            log.error("a %s message of the hub could not be carried out: %s", message.type, error)

    async def _carry_out(self, message: DownMessage) -> None:
        match message:
            case Desired():
                await self._directive(message)
            case Bookmark():
                if self.table.bookmark(message):
                    self._advance(self.table.cursor)
            case Welcome():
                self.table.welcome(message)
                if message.refuse is not None:
                    log.error("the hub does not steer this node: %s; what was served is served on", message.refuse)
            case JobMessage():
                self.jobs.assign(message.job)
            case JobCancel():
                self.jobs.cancel(message.job, message.lease)
            case JobNoted():
                self.jobs.noted(message.job, message.lease, message.seq)
            case TableAsk():
                await self._send_table()
            case TraceAsk():
                self._aside(self._send_trace(message))
            case NodeOrder():
                self._order(message)

    def _order(self, order: NodeOrder) -> None:
        """A drained node lets go of its jobs and of the driver, so that its GPUs can be reset or taken out."""
        before, self.order = self.order, order
        if order.drained:
            self.jobs.preempt()
        if order.drained and not before.drained:
            self._aside(self._quiesce())
        elif before.drained and not order.drained:
            self.telemetry.resume()

    async def _quiesce(self) -> None:
        if not await self.telemetry.quiesce():
            log.error("the sampler is stuck in the driver: do not reset the GPUs")

    async def _directive(self, message: Desired) -> None:
        """Hands what changed to the router and sends its acknowledgements on. Nothing stands before this."""
        heard = self.table.hear(message)
        if heard is Heard.APPLY:
            acks: tuple[Ack, ...] | None = None
            try:
                acks = await self.router.table(
                    TableUpdate(
                        epoch=message.epoch,
                        rev=message.rev,
                        hash=message.hash,
                        entries=message.entries,
                        full=message.full,
                    )
                )
                for ack in acks:
                    await self.acks.post(ack)
            except AgentError as error:
                log.error("the router did not take revision %d: %s", message.rev, error)
            await self._after_directive(message, acks)
        elif heard is Heard.GAP:
            await self._resync(f"revisions {self.table.cursor.rev} to {message.prev_rev} were not heard")
        else:
            log.warning(
                "ignored: epoch %d revision %d is %s; this node is at epoch %d revision %d",
                *(message.epoch, message.rev, heard.value, self.table.cursor.epoch, self.table.cursor.rev),
            )

    async def _after_directive(self, message: Desired, acks: tuple[Ack, ...] | None) -> None:
        complete = self.table.apply(message)
        self.link.status.refused = None
        for ack in acks or ():
            self.prover.flipped(ack)
        if acks is None or any(ack.state is AckState.FAILED and ack.code in _DISK for ack in acks):
            self._table_behind.set()
        else:
            self._advance(self.table.cursor)
        self.reconciler.wake()
        self.upkeep.wake()
        if not complete:
            await self._resync(f"the table differs from the hub's at revision {message.rev}")
        for tenant, route in message.unpin:
            await self._unpin(tenant, route)

    def _advance(self, cursor: Cursor) -> None:
        """Notes how far the router durably is. The next hello says it."""
        if self._table_behind.is_set():
            return
        self._durable = max(self._durable, cursor)
        if cursor > self.journal.cursor:
            self._aside_note(partial(self.journal.advance, cursor))

    def _aside_note(self, write: Callable[[], None]) -> None:
        async def note() -> None:
            await self._note(write)

        self._aside(note())

    async def _resync(self, why: str) -> None:
        now = time.monotonic()
        if now < self._resync_at:
            return
        self._resync_at = now + RESYNC_S
        log.warning("the whole table is asked for: %s", why)
        await self.link.send(Resync(why=why))

    async def _unpin(self, tenant: str, route: str) -> None:
        async with self._pinning:
            # First the journal: a pin that it still held would be put back at the next start.
            await self._note(partial(self.journal.unpin, tenant, route))
            self._unpins.add((tenant, route))
            await self._acked(await self.router.unpin(tenant, route))
            self._unpins.discard((tenant, route))
            self.pins.pop((tenant, route), None)
            self.reconciler.pins = dict(self.pins)

    async def _send_table(self) -> None:
        try:
            state = await self.router.state()
        except AgentError as error:
            log.error("the hub asked for the table and the router did not answer: %s", error)
            return
        await self.link.send(TableState(epoch=state.epoch, rev=state.rev, hash=state.hash, entries=state.entries))

    async def _send_trace(self, ask: TraceAsk) -> None:
        try:
            answer = await self.router.newest(ask)
        except AgentError as error:
            answer = TraceRows(ask=ask.ask, rows=(), trouble=f"its router does not answer: {error}"[:200])
        await self.link.send(answer)

    async def _link_changed(self, connected: bool) -> None:
        self._aside(self._after_link_change(connected))

    async def _say_hub(self, connected: bool) -> None:
        """Starts or stops the router's clock of `refuse_after_s`, from when the hub was last heard."""
        await self.router.hub(connected=connected and self.table.refused is None, silent_s=self.link.silent_s)

    async def _after_link_change(self, connected: bool) -> None:
        await self._say_hub(connected)
        self.jobs.linked(connected)
        if connected:
            await self.acks.replay()
            self.reconciler.retry_now()
            await self.records.send_kept_back()

    # ---- the router ----------------------------------------------------------------------------------------

    def _supervised_router(self) -> Supervised:
        argv: tuple[str, ...] = (
            *(sys.executable, "-m", "loradeck_agent.router"),
            *("--state", str(self.folder.router), "--listen", self.config.router.listen),
        )
        if self.config.router.tls_cert is not None:
            argv += ("--tls-cert", str(self.config.router.tls_cert), "--tls-key", str(self.config.router.tls_key))
        program = Program("router", argv, self.folder.router_lock, self.folder.router_log, ROUTER_READY_S)
        return Supervised(program, probe=self._probe_router, came_up=self._router_up, went_down=self._router_down)

    async def _probe_router(self) -> str | None:
        try:
            return (await self.router.state()).boot
        except Unreachable:
            return None
        except AgentError as error:
            log.error("the router does not say how it is: %s", error)
            return None

    async def _router_up(self, boot: str, adopted: bool) -> None:
        """Takes over what the router holds, and tells it what it missed."""
        async with self._pinning:
            state = await self.router.state()
            self._router_boot = boot
            for entry in state.entries:
                known = self.table.entries.get(entry.key) or self.table.orphans.get(entry.key)
                if known is None or entry.fence > known.fence:
                    self.table.entries[entry.key] = entry
            there = Cursor(state.epoch, state.rev, state.hash)
            self._durable = max(self._durable, there)
            self.table.cursor = max(self.table.cursor, there)
            self.pins = {(pin.tenant, pin.route): pin for pin in state.pins}
            for key, pin in list(self.journal.pins.items()):
                if key not in self.pins:
                    await self._pin_again(pin)
        for tenant, route in sorted(self._unpins):
            await self._unpin(tenant, route)
        self.reconciler.pins = dict(self.pins)
        self.reconciler.router_up(True)
        await self.reconciler.tell_router()
        try:
            await self._push_table()
        except Unreachable:
            raise
        except AgentError as error:
            log.error("the router is behind: %s", error)
            self._table_behind.set()
        await self._say_hub(self.link.connected)
        self._router_known.set()

    async def _router_down(self) -> None:
        self.reconciler.router_up(False)
        self.router.close()

    async def _pin_again(self, pin: Pin) -> None:
        """Puts a pin of the journal back that the router does not hold."""
        try:
            await self._acked(await self.router.pin(pin))
            self.pins[(pin.tenant, pin.route)] = pin
        except AgentError as error:
            log.error("the pin of %s/%s cannot be put back: %s", pin.tenant, pin.route, error)

    async def _push_table(self) -> None:
        """Gives the router every entry again: those it has change nothing, and it answers how each one stands."""
        cursor = self.table.cursor
        update = TableUpdate(
            epoch=cursor.epoch, rev=cursor.rev, hash=cursor.hash, entries=tuple(self.table.entries.values())
        )
        acks = await self.router.table(update)
        await self._acked(acks)
        if any(ack.state is AckState.FAILED and ack.code in _DISK for ack in acks):
            raise AgentError("disk_full", "the router cannot write its table")
        self._table_behind.clear()
        self._advance(cursor)

    async def _push_behind(self) -> None:
        """Tries again what the router could not take (it was down, or its disk was full)."""
        while True:
            await self._table_behind.wait()
            await asyncio.sleep(TABLE_RETRY_S)
            try:
                await self._push_table()
            except AgentError as error:
                log.warning("the router is still behind: %s", error)

    async def _acked(self, acks: tuple[Ack, ...]) -> None:
        for ack in acks:
            if await self.acks.post(ack):
                self.prover.flipped(ack)

    # ---- engines -------------------------------------------------------------------------------------------

    def _life_of(self, engine: EngineReplica) -> EngineLife:
        return EngineLife(
            engine,
            folder=self.folder,
            journal=self.journal,
            table=self.table,
            reconciler=self.reconciler,
            prover=self.prover,
            acks=self.acks,
            note_passed=self._note_passed,
        )

    async def _note_passed(self, engine: EngineReplica) -> None:
        boot = engine.version.boot if engine.version else ""
        await self._note(
            partial(self.journal.engine, engine.name, boot, tuple(sorted(engine.ready)), tuple(sorted(engine.let_in)))
        )

    # ---- reports -------------------------------------------------------------------------------------------

    async def _report(self) -> None:
        """Once a second while there is a link."""
        silences = 0
        while True:
            await asyncio.sleep(REPORT_S)
            with contextlib.suppress(OSError):  # not written yet: there is no age to show either
                os.utime(self.folder.status)
            if not self.link.connected:
                continue
            traffic: tuple[Traffic, ...] = ()
            try:
                stats = await self.router.stats()
                self._router_boot, traffic = stats.boot, stats.traffic
                silences = 0
            except AgentError as error:
                log.debug("no traffic figures: %s", error)
                silences += 1
            unreached = ""
            if silences >= ROUTER_SILENCES:
                unreached = f"the router does not answer; its log is {self.folder.router_log}"
            seen = self.telemetry.snapshot()
            await self.link.send(
                Report(
                    replicas=tuple(life.report(seen.gpus, unreached) for life in self.lives),
                    router_boot=self._router_boot,
                    traffic=traffic,
                    host=seen.host,
                    gpus=seen.gpus,
                    nvml=seen.nvml,
                    pins=tuple(self.pins.values()),
                    rev=self._durable.rev,
                    epoch=self._durable.epoch,
                    stored=tuple(sorted(self._say_stored())) if self.store.stored != self._stored_said else None,
                )
            )

    async def _watch_pins(self) -> None:
        """Pins are made on the router by the command line, with or without this agent."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PINS_S):
                    await self._pins_changed.wait()
            self._pins_changed.clear()
            try:
                await self._read_pins()
            except AgentError as error:
                log.debug("pins cannot be read: %s", error)
                continue
            self.reconciler.wake()
            self.upkeep.wake()

    async def _read_pins(self) -> None:
        async with self._pinning:
            state = await self.router.state()
            self.pins = {(pin.tenant, pin.route): pin for pin in state.pins}
            self.reconciler.pins = dict(self.pins)
            for pin in state.pins:
                await self._note(partial(self.journal.pin, pin))

    def _write_status(self) -> None:
        """For `loradeck-agent status`. Lost with the machine, so it is not synced."""
        status = self.link.status
        document = {
            "pid": os.getpid(),
            "boot": self.boot,
            "hub": self.config.hub,
            "connected": status.connected,
            "since_ms": status.since_ms,
            "refused": status.refused,
            "error": status.error,
        }
        staging = self.folder.status.with_suffix(".new")
        try:
            staging.write_text(json.dumps(document))
            staging.replace(self.folder.status)
        except OSError as error:
            log.warning("%s cannot be written: %s", self.folder.status, error)


async def _logged(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except AgentError as error:
        log.warning("%s", error)
    except Exception:
        log.exception("something beside the agent's main path broke")


async def serve(config: AgentConfig, token: str) -> None:
    """Runs an agent until SIGTERM or SIGINT."""
    agent = Agent(config, token)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    loop.add_signal_handler(signal.SIGUSR1, agent.look_at_pins)
    await agent.run()
