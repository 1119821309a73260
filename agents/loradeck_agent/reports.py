"""The node's reports about itself: the hello, the report of each second, and the file for `status`."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path

import loradeck_agent
from loradeck.rules.serving.link_bounds import MESSAGE_BYTES
from loradeck.schemas.counts import Traffic
from loradeck.schemas.jobs import RECIPES
from loradeck.schemas.link import HERE, PINS, STORED_FIRST, STORED_STEP, Hello, JobsBackend, Report
from loradeck.schemas.protocol import PROTOCOL
from loradeck.schemas.table import Pin
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.identity import Cosigner
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.host.training_versions import training_versions
from loradeck_agent.jobs.node_jobs import Jobs
from loradeck_agent.router.wire import RouterStats
from loradeck_agent.serving.engine_lifecycle import EngineLife
from loradeck_agent.serving.router_sync import RouterSync
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.telemetry.sampler_watch import Telemetry
from loradeck_agent.uplink.desired_table import DesiredTable
from loradeck_agent.uplink.link import HubLinks

log = logging.getLogger(__name__)

REPORT_S = 1.0
ROUTER_ANSWERS_S = 2.0
"""Seconds that an answer of the router to the agent may take."""

ROUTER_SILENCES = 2
"""Answers that are missing in a row after which a router that runs does not answer. A dead one refuses at once."""


def texts(report: Report) -> list[str]:
    """A report as messages that are no longer than a hub reads: parts of its counters, and the last has all else."""
    text = report.model_dump_json()
    if len(text.encode()) <= MESSAGE_BYTES:
        return [text]
    return [*_parts(report, report.traffic), report.model_copy(update={"traffic": ()}).model_dump_json()]


def _parts(report: Report, rows: tuple[Traffic, ...]) -> list[str]:
    part = Report(
        replicas=(),
        router_boot=report.router_boot,
        traffic=rows,
        nvml=report.nvml,
        rev=report.rev,
        epoch=report.epoch,
        more=True,
    )
    text = part.model_dump_json()
    if len(rows) < 2 or len(text.encode()) <= MESSAGE_BYTES:
        return [text]
    middle = len(rows) // 2
    return [*_parts(report, rows[:middle]), *_parts(report, rows[middle:])]


@dataclass(eq=False)
class Reports:
    """Puts together hellos and reports for the hub, and the status file. `boot` is the agent's boot id."""

    boot: str
    _: KW_ONLY
    config: AgentConfig
    folder: StateFolder
    table: DesiredTable
    sync: RouterSync
    lives: tuple[EngineLife, ...]
    jobs: Jobs
    store: ReleaseStore
    telemetry: Telemetry
    cosigner: Cosigner
    bases: Mapping[str, Path]
    _stored_sent: frozenset[str] = field(default_factory=frozenset, init=False)
    """What was named since the latest hello, to whichever hub that was."""
    _stored_known: frozenset[str] = field(default_factory=frozenset, init=False)
    """What any hub was told of and may believe to be here."""
    _backend_sent: JobsBackend | None = field(default=None, init=False)

    async def hello(self) -> Hello:
        """The first message of a link. Cursor and pins are the router's, read from its file where none answers."""
        await self.sync.read_file()
        self._stored_sent = frozenset(sorted(self._stored())[:STORED_FIRST])
        self._stored_known |= self._stored_sent
        return Hello(
            node=self.config.node,
            boot=self.boot,
            version=loradeck_agent.__version__,
            labels=self.config.labels,
            **vars(self.sync.durable),
            replicas=tuple(life.report(self.telemetry.snapshot().gpus) for life in self.lives),
            pins=self._pins(),
            jobs=self.jobs.reporting(),
            stored=tuple(sorted(self._stored_sent)),
            memory_gb=self.config.memory_gb,
            protocol=PROTOCOL,
            features=self.sync.features,
            cosigned=self.cosigner.newest(),
            address=self.config.router.address or "",
            jobs_as_agent=self.config.jobs.user is None and self.config.slurm is None,
            recipes=RECIPES,
            training=training_versions(),
            backend=self._backend(),  # also to a hub that only stands by: a report says it all the same
        )

    def _backend(self) -> JobsBackend | None:
        if not self.config.job_bases:
            return None
        slurm, bases = self.config.slurm, tuple(self.bases)
        if slurm is not None:
            return JobsBackend(system="slurm", at_once=slurm.at_once, bases=bases)
        return JobsBackend(system=HERE, at_once=self.config.jobs.at_once, bases=bases)

    def _stored(self) -> frozenset[str]:
        """Digests of what lies in this node's folders: adapters, and weights that were merged here."""
        return self.store.stored | self.folder.merged_here()

    async def run(self, link: HubLinks) -> None:
        """Sends a report each second while there is a link, for ever, and shows `status` that the agent lives."""
        silences = 0
        while True:
            await asyncio.sleep(REPORT_S)
            with contextlib.suppress(OSError):  # not written yet: there is no age to show either
                os.utime(self.folder.status)
            if not link.connected:
                continue
            stats = RouterStats()
            try:
                stats = await self.sync.router.stats(timeout=ROUTER_ANSWERS_S)
                self.sync.boot, silences = stats.boot, 0
            except Unreachable as error:
                log.debug("no traffic figures: %s", error)
                silences += 1 if error.silent else ROUTER_SILENCES
            except AgentError as error:
                log.debug("no traffic figures: %s", error)
                silences += 1
            report = self._report(stats, silences)
            for text in texts(report) if link.takes_parts else [report.model_dump_json()]:
                await link.send_text(text)

    def _report(self, stats: RouterStats, silences: int) -> Report:
        unreached = ""
        if silences >= ROUTER_SILENCES:
            unreached = f"the router does not answer; its log is {self.folder.router_log}"
        seen, stored = self.telemetry.snapshot(), self._stored()
        came = tuple(sorted(stored - self._stored_sent)[:STORED_STEP])
        gone = tuple(sorted(self._stored_known - stored)[:STORED_STEP])
        self._stored_sent = self._stored_sent.union(came).difference(gone)
        self._stored_known = self._stored_known.union(came).difference(gone)
        before, self._backend_sent = self._backend_sent, self._backend()
        return Report(
            replicas=tuple(life.report(seen.gpus, unreached, stats.trouble) for life in self.lives),
            router_boot=self.sync.boot,
            traffic=stats.traffic,
            host=seen.host,
            gpus=seen.gpus,
            nvml=seen.nvml,
            pins=self._pins(),
            rev=self.sync.durable.rev,
            epoch=self.sync.durable.epoch,
            stored_added=came,
            stored_gone=gone,
            cold=stats.cold,
            scheduled=self.jobs.scheduled(),
            room=self.jobs.room.report(),
            backend=self._backend_sent if self._backend_sent != before else None,
        )

    def _pins(self) -> tuple[Pin, ...]:
        """The pins that are reported: all, but for somebody who has pinned by the hundred."""
        return tuple(self.table.pins.values())[:PINS]

    def write_status(self, link: HubLinks) -> None:
        """Writes the state of the link for `loradeck-agent status`. Lost with the machine, so it is not synced."""
        document = {"pid": os.getpid(), "boot": self.boot, "hub": link.hub, **asdict(link.status)}
        staging = self.folder.status.with_suffix(".new")
        try:
            staging.write_text(json.dumps(document))
            staging.replace(self.folder.status)
        except OSError as error:
            log.warning("%s cannot be written: %s", self.folder.status, error)
