"""A node with one replica that does what the hub says, over a real link: enough for a command to have something to
move. What it serves with is tested elsewhere.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, unix_connect

from loradeck.schemas.attestation import CanaryItem, EngineBuild
from loradeck.schemas.counts import Traffic
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import RECIPES, JobAssignment, Scheduled
from loradeck.schemas.link import (
    Ack,
    CanaryAnswers,
    CanaryAsk,
    Desired,
    Hello,
    JobCancel,
    JobEvent,
    JobMessage,
    NodeOrder,
    Replica,
    Report,
    SampleAsk,
    SampleRows,
    down_adapter,
)
from loradeck.schemas.log import GENESIS
from loradeck.schemas.protocol import SUPPORTED
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.schemas.table import Pin, TableEntry
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck.schemas.trace import Sample

BUILD = EngineBuild(engine="small", device="cpu", dtype="float32")


def canary_items(ask: CanaryAsk) -> dict[str, CanaryItem]:
    """Answers that tell the first release from the others by prompts that hold 'telling', and by no other prompt."""
    own, *others = [ref.id for ref in ask.releases]
    apart = "telling" in ask.messages[-1]["content"]
    prompt = digest_of({"messages": ask.messages})
    tokens = {own: 1} | dict.fromkeys(others, 2 if apart else 1)
    return {release: CanaryItem(prompt=prompt, tokens=(token,), margins=(2.25,)) for release, token in tokens.items()}


class SmallNode:
    """Acknowledges every entry as flipped, then as proven, unless told to be silent; finishes every job."""

    def __init__(self, name: str, socket: Path, token: Path, base: str) -> None:
        self.name = name
        self.obey()
        self.entries: dict[tuple[str, str], TableEntry] = {}
        self.orders: list[NodeOrder] = []
        self.pins: tuple[Pin, ...] = ()
        self.samples: tuple[Sample, ...] = ()
        self.traffic: tuple[Traffic, ...] = ()
        self._base = base
        self._socket = socket
        self._token = token
        self._loaded: set[str] = set()
        self._given: dict[str, JobAssignment] = {}
        self._connection: ClientConnection | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.ready = threading.Event()

    def obey(self) -> None:
        """Do everything that is asked, as at the start."""
        self.silent = False
        self.proves: AckState | None = AckState.PROVEN
        """What it says after a flip, if anything."""
        self.prepares = True
        self.gpus: tuple[Gpu, ...] = ()
        self.host: Host | None = None
        self.jobs_fail = False
        self.jobs_wait = False
        self.scheduled: tuple[tuple[str, int, Scheduled], ...] = ()
        self.trouble = ""
        """Why it says to have no samples."""
        self.says_loaded = True
        self.slots = 1000
        self.result: dict[str, Any] | None = None
        """What the next job that finishes is said to have made."""

    def start(self) -> None:
        self._thread.start()
        assert self.ready.wait(60), "the small node got no table"

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _replica(self) -> Replica:
        return Replica(
            replica=self.name,
            state=EngineState.UP,
            boot="b",
            base=self._base,
            build=BUILD,
            slots=self.slots,
            loaded=tuple(sorted(self._loaded)) if self.says_loaded else (),
        )

    def _report(self) -> Report:
        return Report(
            replicas=(self._replica(),),
            router_boot="r",
            traffic=self.traffic,
            gpus=self.gpus,
            host=self.host,
            nvml=NvmlState.OK if self.gpus else NvmlState.NO_GPU,
            pins=self.pins,
            rev=0,
            epoch=0,
            scheduled=self.scheduled,
        )

    def _run(self) -> None:
        headers = {"authorization": f"Bearer {self._token.read_text().strip()}"}
        uri = "ws://hub/v1/link"
        with (
            contextlib.suppress(ConnectionClosed),  # how a test ends it
            unix_connect(
                str(self._socket), uri, additional_headers=headers, compression=None, ping_interval=None
            ) as connection,
        ):
            self._connection = connection
            self._say(
                Hello(
                    node=self.name,
                    boot="b",
                    version="1",
                    epoch=0,
                    rev=0,
                    hash=GENESIS,
                    replicas=(self._replica(),),
                    features=tuple(SUPPORTED),
                    jobs_as_agent=True,
                    recipes=RECIPES,
                )
            )
            heard = 0.0
            while True:
                with contextlib.suppress(TimeoutError):
                    self._take(down_adapter.validate_json(connection.recv(timeout=0.2)))
                if time.monotonic() - heard > 1.0:
                    heard = time.monotonic()
                    self._say(self._report())

    def _take(self, message: Any) -> None:
        match message:
            case Desired():
                for entry in message.entries:
                    self.entries[entry.key] = entry
                    self._flip(entry)
                self.pins = tuple(pin for pin in self.pins if (pin.tenant, pin.route) not in message.unpin)
                self.ready.set()
            case JobMessage():
                self._work(message.job)
            case JobCancel():
                given = self._given.get(message.job)  # a prepare that was never begun needs no end
                if given is not None:
                    self._event(given, 3, ExecutorEventType.PREEMPTED)
            case CanaryAsk():
                self._say(CanaryAnswers(ask=message.ask, items=canary_items(message)))
            case SampleAsk():
                mine = tuple(one for one in self.samples if one.tenant == message.tenant)
                self._say(SampleRows(ask=message.ask, samples=mine, kept=len(mine), trouble=self.trouble))
            case NodeOrder():
                self.orders.append(message)
            case _:
                pass

    def _flip(self, entry: TableEntry) -> None:
        if self.silent or entry.current is None:
            return
        self._loaded |= {ref.id for ref in (entry.current, *entry.beneath)}
        self._say(self._report())
        for state in (AckState.FLIPPED, self.proves):
            if state is None:
                continue
            self._say(
                Ack(
                    tenant=entry.tenant,
                    route=entry.route,
                    epoch=entry.epoch,
                    generation=entry.generation,
                    release=entry.current.id,
                    replica=self.name,
                    state=state,
                    code="not_distinct" if state is AckState.LISTED else None,
                    detail="the base alone answers the canaries alike" if state is AckState.LISTED else "",
                    at_ms=int(time.time() * 1000),
                )
            )

    def _work(self, job: JobAssignment) -> None:
        if job.spec.kind == "prepare" and not self.prepares:
            return
        self._given[job.id] = job
        self._event(job, 1, ExecutorEventType.STARTED)
        if job.spec.kind != "prepare":
            self._event(job, 2, ExecutorEventType.PROGRESS, step=20, of=40, metrics={"loss": 0.5})
            if self.jobs_wait:
                return
            if self.jobs_fail:
                self._event(job, 3, ExecutorEventType.FAILED, code="diverged", message="loss is not finite")
                return
        self._event(job, 3, ExecutorEventType.FINISHED)

    def _event(self, job: JobAssignment, seq: int, type_: ExecutorEventType, **fields: Any) -> None:
        event = ExecutorEvent(run=job.id, attempt=job.attempt, seq=seq, ts=time.time(), type=type_, **fields)
        result = self.result if type_ is ExecutorEventType.FINISHED else None
        self._say(JobEvent(job=job.id, lease=job.lease, attempt=job.attempt, event=event, result=result))

    def _say(self, message: BaseModel) -> None:
        assert self._connection is not None
        self._connection.send(message.model_dump_json())
