"""The agent of one node: it joins the link, the router, the engines, the proofs and the jobs."""

import asyncio
import logging
import signal
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TypeVar

from loradeck.artifacts import BadArtifact, base_digest
from loradeck.rules.moves import steering
from loradeck.schemas.link import (
    Ack,
    Bookmark,
    CanaryAsk,
    Countersign,
    Desired,
    DownMessage,
    JobCancel,
    JobMessage,
    JobNoted,
    NodeOrder,
    Order,
    SampleAsk,
    SampleRows,
    TableAsk,
    TableState,
    TraceAsk,
    TraceRows,
    TrustRoots,
    Welcome,
)
from loradeck.schemas.manifest import AdapterManifest
from loradeck.systemd.notify import Service
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.identity import Cosigner, Identity, Login
from loradeck_agent.host.job_user import JobUser
from loradeck_agent.host.state_folder import locked
from loradeck_agent.jobs.launch import Launcher, backend_of
from loradeck_agent.jobs.node_jobs import Jobs
from loradeck_agent.jobs.results import Results
from loradeck_agent.jobs.room import Room
from loradeck_agent.reports import Reports
from loradeck_agent.router.client import RouterControl
from loradeck_agent.serving.canaries import CanaryRecords
from loradeck_agent.serving.engine_lifecycle import EngineLife, EngineSchedule
from loradeck_agent.serving.engine_relay import canary_answers
from loradeck_agent.serving.engines_at_router import ColdLoads, EnginesAtRouter
from loradeck_agent.serving.garbage import Collector
from loradeck_agent.serving.liveness import Liveness
from loradeck_agent.serving.proof import Prover
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.serving.replica import EngineReplica, Measured, ReadyFile, open_api
from loradeck_agent.serving.router_sync import RouterSync
from loradeck_agent.store.checkpoints import CheckpointStore
from loradeck_agent.store.inputs import InputStore
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.telemetry.sampler_watch import Telemetry
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable
from loradeck_agent.uplink.hub_api import HubApi
from loradeck_agent.uplink.link import HubLinks
from loradeck_agent.uplink.membership import Renewal
from loradeck_agent.uplink.router_files import FeedbackSender, LedgerSegments

log = logging.getLogger(__name__)

Rows = TypeVar("Rows", TraceRows, SampleRows)


class Agent:
    """The daemon of one node. `run` returns when `stop` is called; router, engines and executors go on."""

    def __init__(self, config: AgentConfig, login: Callable[[], Login]) -> None:
        self.config = config
        self.boot = uuid.uuid4().hex
        self.folder = config.folder()
        self.user = JobUser.of(config.jobs.user)
        self.folder.make(self.user)
        self.table = DesiredTable()
        router = RouterControl(self.folder)
        self.hub = HubApi(config, login)
        identity = Identity(config.state)
        self.renewal, self.cosigner = Renewal(identity, self.hub), Cosigner(identity)
        measured = Measured(self.folder.measured)
        self.engines = tuple(
            EngineReplica(
                config.replica_of(engine),
                engine,
                open_api(engine, self.folder),
                measured,
                ReadyFile(self.folder.engine_ready(engine.name)),
            )
            for engine in config.engine
        )
        self.link = HubLinks(
            config,
            login,
            chose=self.hub.use,
            hello=lambda: self.reports.hello(),
            handle=self._handle,
            changed=self._link_changed,
            noted=lambda: self.reports.write_status(self.link),
        )
        named = {engine.name: engine for engine in self.engines}
        self.acks = AckBoard(
            self.link.send,
            frozenset(named),
            lambda ack: named[ack.replica].acknowledging(ack, self._is_stored(ack)) if ack.replica in named else ack,
        )
        self.records = CanaryRecords(self.folder.canaries, self.hub, config.node)
        self.store = ReleaseStore(self.folder, self.hub, config.read_signers())
        self.inputs = InputStore(self.folder, self.hub, self.store)
        at_router = EnginesAtRouter(
            engines=self.engines,
            router=router,
            acked=lambda acks: self.sync.post(acks),
            missed=lambda: self.sync.missed(),
        )
        self.reconciler = Reconciler(
            table=self.table,
            engines=self.engines,
            at_router=at_router,
            store=self.store,
            records=self.records,
            acks=self.acks,
        )
        self.cold_loads = ColdLoads(
            at_router=at_router,
            demand=self.reconciler.demand,
            failing=self.reconciler.failing,
            without_room=self.reconciler.without_room,
            load_s=self._load_s,
            changed=self.reconciler.wake,
        )
        self.prover = Prover(self.table, named, router, self.records, self.acks)
        self.sync = RouterSync(
            folder=self.folder,
            router=router,
            table=self.table,
            acks=self.acks,
            prover=self.prover,
            reconciler=self.reconciler,
            send=self.link.send,
            changed=self._table_changed,
        )
        self.lives = tuple(
            EngineLife(engine, self.folder, self.table, self.reconciler, self.prover, self.acks)
            for engine in self.engines
        )
        self.schedule = EngineSchedule(
            self.lives,
            table=self.table,
            reconciler=self.reconciler,
            memory_gb=config.memory_gb,
            hold_prior_s=config.hold_prior_s,
            known=self._all_known,
        )
        self.bases: dict[str, Path] = {}
        """Folders of the bases that jobs alone read, by digest, once they are known."""
        self._all_hashed = asyncio.Event()
        checkpoints = CheckpointStore(self.folder.checkpoints, self.hub, self.user)
        self.telemetry = Telemetry()
        self.room = (
            Room(config.slurm.at_once)
            if config.slurm is not None
            else Room(config.jobs.at_once, self.telemetry, config.engine, config.jobs.gpus)
        )
        self.jobs = Jobs(
            folder=self.folder,
            engines=self.engines,
            checkpoints=checkpoints,
            reconciler=self.reconciler,
            schedule=self.schedule,
            launcher=Launcher(
                engines=self.engines,
                store=self.store,
                inputs=self.inputs,
                checkpoints=checkpoints,
                threads=config.jobs.threads,
                user=self.user,
                judges={judge.name: judge for judge in config.judge},
                harnesses={name: (str(one.python), str(one.tasks)) for name, one in config.harness.items()},
                bases=self.bases,
                closed=config.private if config.jobs.confined is not False else (),
                confined=config.jobs.confined is True,
            ),
            results=Results(self.hub, self.engines, self.folder.merged, self.bases, self._all_hashed),
            send=self.link.send,
            backend=backend_of(config),
            room=self.room,
            tracked=config.mlflow is not None,
        )
        self.collector = Collector(
            self.folder, self.store, self.hub, self.engines, self.reconciler.names, self._may_name_more
        )
        self.ledger = LedgerSegments(self.folder, self.hub, config.node, self._builds)
        self.feedback = FeedbackSender(self.folder.feedback, self.hub, self.folder.input_counts)
        self.reports = Reports(
            self.boot,
            config=config,
            folder=self.folder,
            table=self.table,
            sync=self.sync,
            lives=self.lives,
            jobs=self.jobs,
            store=self.store,
            telemetry=self.telemetry,
            cosigner=self.cosigner,
            bases=self.bases,
        )
        self.service = Service()
        self.order = NodeOrder()
        self._bases_known = asyncio.Event()
        self._stop = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    # ---- life ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Makes `run` return. Router, engines and executors go on."""
        self._stop.set()

    async def run(self) -> None:
        """Runs every part of the agent until `stop`. Raises: AgentError: `already_running`."""
        with locked(self.folder.lock, "agent"):
            if self.user is None and self.config.slurm is None:
                log.warning(
                    "jobs run as this agent's own user and could read its token or key: run the agent as root, and "
                    "name a user without rights of its own as `user` under [jobs] in agent.toml"
                )
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(task) for task in self._parts()]
                    self.service.ready()
                    await self._stop.wait()
                    self.service.stopping()
                    log.info("the agent ends; router, engines and executors go on")
                    for task in tasks:
                        task.cancel()
            finally:
                await self._close()

    def _parts(self) -> list[Coroutine[None, None, None]]:
        return [
            self.sync.supervised(self.config.router, came_up=self._router_up).run(),
            self._know_bases(),
            *(life.run() for life in self.lives),
            *(Liveness(engine, self.reconciler.at_router.router).run() for engine in self.engines),
            self.schedule.run(),
            *(self.reconciler.keep(engine) for engine in self.engines),
            self.reconciler.at_router.first_look(),
            self.cold_loads.run(),
            self._linked(),
            self.renewal.run(),
            self.reports.run(self.link),
            self.sync.watch_pins(),
            self.sync.push_behind(),
            self.jobs.run(),
            *self._tracking(),
            self.inputs.run(),
            self.collector.run(),
            self.ledger.run(),
            self.feedback.run(),
            self.telemetry.run(),
            self.service.feed(),
        ]

    def _tracking(self) -> list[Coroutine[None, None, None]]:
        config = self.config
        if config.mlflow is None:
            return []
        from loradeck_agent.jobs import tracking  # few nodes have such a server

        return [tracking.run(config.mlflow, self.folder.jobs, config.node, config.jobs.user)]

    async def _know_bases(self) -> None:
        """Hashes each base's folder, so that a replica's base is known before its engine runs. Jobs' come last."""
        for engine in self.engines:
            try:
                engine.files = await asyncio.to_thread(base_digest, engine.config.base, cache=self.folder.digests)
            except (BadArtifact, OSError) as error:
                log.error("the base of engine %s cannot be read: %s", engine.config.name, error)
        self._bases_known.set()
        for base in self.config.job_bases:
            try:
                self.bases[await asyncio.to_thread(base_digest, base, cache=self.folder.digests)] = base
            except (BadArtifact, OSError) as error:
                log.error("the base %s cannot be read: no job is done on it: %s", base, error)
        self._all_hashed.set()

    def _builds(self) -> dict[str, str]:
        """Replica -> the build of its engine, as it runs or ran last."""
        return {engine.name: engine.version.build.key[:200] for engine in self.engines if engine.version is not None}

    def _load_s(self) -> float | None:
        """Returns how long a load takes on the slowest of the engines; None: none was measured."""
        took = (engine.measured.of(engine.base).load_s for engine in self.engines)
        return max((seconds for seconds in took if seconds is not None), default=None)

    async def _all_known(self) -> None:
        """Returns once the router's table and the bases of the engines are known."""
        await self.sync.known.wait()
        await self._bases_known.wait()

    def _may_name_more(self) -> bool:
        """Tells whether releases may be needed here that neither table nor pins name."""
        return not self.sync.known.is_set() or bool(self.jobs.running())

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.prover.close()
        self.sync.router.close()
        self.hub.close()
        for engine in self.engines:
            engine.api.close()

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        """Runs work in the background, for a caller who must not wait for it. Its failure is logged."""
        task = asyncio.get_running_loop().create_task(_logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _is_stored(self, ack: Ack) -> bool:
        """Tells whether the verified files of an acknowledged release are on this node."""
        entry = self.table.entries.get((ack.tenant, ack.route))
        refs = entry.refs if entry is not None else ()  # the flip is acknowledged before its entry is the table's
        return any(ref.id == ack.release and ref.release.adapter in self.store.stored for ref in refs)

    # ---- the hub -------------------------------------------------------------------------------------------

    async def _linked(self) -> None:
        """Connects once the router's table is known, or when no router answers."""
        await self.sync.until_known()
        await self.link.run()

    async def _handle(self, message: DownMessage) -> None:
        try:
            await self._carry_out(message)
        except AgentError as error:
            log.error("a %s message of the hub could not be carried out: %s", message.type, error)

    async def _carry_out(self, message: DownMessage) -> None:
        if isinstance(message, Order) and not steering.obeys(message.epoch, self.table.cursor.epoch):
            log.warning(
                "dropped: a %s of epoch %d; this node is at %d", message.type, message.epoch, self.table.cursor.epoch
            )
            return
        match message:
            case Desired():
                waited = self.table.refused is not None
                await self.sync.directive(message)
                if self.table.refused is None:
                    self.link.status.refused = None
                    if waited:
                        await self._push_hub_link(True)
            case Bookmark():
                await self.sync.bookmark(message)
            case Welcome():
                self.table.welcome(message)
                self.jobs.hub_reads = message.recipes
                if message.refuse is not None:
                    log.error("the hub does not steer this node: %s; what was served is served on", message.refuse)
            case JobMessage():
                self.jobs.assign(message.job)
            case JobCancel():
                self.jobs.cancel(message.job, message.lease)
            case JobNoted():
                self.jobs.noted(message.job, message.lease, message.seq)
            case TableAsk():
                await self._send_table(message)
            case TraceAsk():
                self._aside(
                    self._send_kept(self.sync.router.newest(message), partial(TraceRows, ask=message.ask, rows=()))
                )
            case SampleAsk():
                self._aside(self._send_kept(self.sync.router.samples(message), partial(SampleRows, ask=message.ask)))
            case CanaryAsk():
                self._aside(self._send_canary_answers(message))
            case NodeOrder():
                self._order(message)
            case TrustRoots():
                self.renewal.told(message.roots)
            case Countersign():
                self._aside(self._countersign(message))

    def _order(self, order: NodeOrder) -> None:
        """Obeys cordon and drain: a drained node gives up its jobs and closes the driver, so that GPUs can be reset."""
        before, self.order = self.order, order
        self.link.status.contested = order.contested
        if order.contested != before.contested:
            self.reports.write_status(self.link)
        if order.contested and not before.contested:
            log.error("another agent is linked as %s: neither counts; see `loradeck node show`", self.config.node)
        if order.drained:
            self.jobs.preempt()
        if order.drained and not before.drained:
            self._aside(self._quiesce())
        elif before.drained and not order.drained:
            self.telemetry.resume()

    async def _quiesce(self) -> None:
        if not await self.telemetry.quiesce():
            log.error("the sampler is stuck in the driver: do not reset the GPUs")

    def _table_changed(self) -> None:
        self.reconciler.wake()
        self.schedule.wake()

    async def _send_table(self, ask: TableAsk) -> None:
        try:
            state = await self.sync.router.state()
        except AgentError as error:
            log.error("the hub asked for the table and the router did not answer: %s", error)
            return
        # A hub that names no keys is of version 1, which cannot read signed texts.
        entries = state.entries if self.table.keys else tuple(entry.unsigned() for entry in state.entries)
        adapters = self.store.manifests(ask.adapters)
        await self.link.send(
            TableState(epoch=state.epoch, rev=state.rev, hash=state.hash, entries=entries, adapters=adapters)
        )
        if adapters:
            self._aside(self._give_back(adapters))

    async def _give_back(self, adapters: tuple[AdapterManifest, ...]) -> None:
        """Uploads the files of adapters that the hub has lost."""
        for manifest in adapters:
            try:
                await self.hub.upload(self.folder.release(manifest.digest), manifest.files)
            except (AgentError, OSError) as error:
                log.error("%s cannot be given back to the hub: %s", manifest.digest[:12], error)

    async def _send_kept(self, kept: Awaitable[Rows], none: Callable[..., Rows]) -> None:
        """Sends what the router has kept of a pointer's requests. `none`: makes the answer where it says nothing."""
        try:
            answer = await kept
        except AgentError as error:
            answer = none(trouble=f"its router does not answer: {error}"[:200])
        await self.link.send(answer)

    async def _send_canary_answers(self, ask: CanaryAsk) -> None:
        await self.link.send(await canary_answers(self.engines, self.reconciler, ask))

    async def _countersign(self, ask: Countersign) -> None:
        answer = await asyncio.to_thread(self.cosigner.countersign, ask, self.table.keys)
        if answer is None:
            return
        if answer.refuses:
            log.error("a head of the hub's audit trail is not signed: %s", answer.refuses)
        await self.link.send(answer)

    async def _link_changed(self, connected: bool) -> None:
        self._aside(self._after_link_change(connected))

    async def _push_hub_link(self, connected: bool) -> None:
        """Starts or stops the router's clock of `refuse_after_s`, which counts from the hub's last message."""
        await self.sync.router.hub(connected=connected and self.table.refused is None, silent_s=self.link.silent_s)

    async def _after_link_change(self, connected: bool) -> None:
        await self._push_hub_link(connected)
        self.jobs.linked(connected)
        if connected:
            await self.acks.replay()
            self.reconciler.retry_now()
            await self.records.send_kept_back()

    async def _router_up(self) -> None:
        await self._push_hub_link(self.link.connected)


async def _logged(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except AgentError as error:
        log.warning("%s", error)
    except Exception:
        log.exception("background work of the agent failed")


async def serve(config: AgentConfig, login: Callable[[], Login]) -> None:
    """Runs an agent until SIGTERM or SIGINT."""
    agent = Agent(config, login)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    loop.add_signal_handler(signal.SIGUSR1, agent.sync.look_at_pins)
    loop.add_signal_handler(signal.SIGUSR2, agent.sync.replace_router)
    await agent.run()
