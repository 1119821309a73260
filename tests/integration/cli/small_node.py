"""A node with one replica that does what the hub says, in a thread: enough for a command to have something to move."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.processes.hub import HubProcess
from websockets.exceptions import ConnectionClosed

from loradeck.schemas.attestation import CanaryItem
from loradeck.schemas.counts import Traffic
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import JobAssignment
from loradeck.schemas.link import (
    CanaryAnswers,
    CanaryAsk,
    Desired,
    DownMessage,
    Hello,
    JobCancel,
    NodeOrder,
    SampleAsk,
    SampleRows,
)
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import TableEntry
from loradeck.schemas.trace import Sample


def canary_items(ask: CanaryAsk) -> dict[str, CanaryItem]:
    """Answers that tell the first release from the others by prompts that hold 'telling', and by no other prompt."""
    own, *others = [ref.id for ref in ask.releases]
    apart = "telling" in ask.messages[-1]["content"]
    prompt = digest_of({"messages": ask.messages})
    tokens = {own: 1} | dict.fromkeys(others, 2 if apart else 1)
    return {release: CanaryItem(prompt=prompt, tokens=(token,), margins=(2.25,)) for release, token in tokens.items()}


class SmallNode(LinkedAgent):
    """Reports every second, and does every job: it trains a step of forty."""

    def __init__(self, name: str, hub: HubProcess, token: str, base: str) -> None:
        super().__init__(None, name, base=base)
        self.samples: tuple[Sample, ...] = ()
        self.traffic: tuple[Traffic, ...] = ()
        self.canaries = lambda ask: CanaryAnswers(ask=ask.ask, items=canary_items(ask))
        self.sampled = self._samples_of
        self.obey()
        self._hub = hub
        self._token = token
        self._loaded: set[str] = set()
        self._begun: set[str] = set()
        self._over = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)

    def obey(self) -> None:
        """Do everything that is asked, as at the start."""
        self.acknowledges = self.proves = True
        self.proof = AckState.PROVEN
        self.prepares = "finish"
        self.gpus, self.host, self.scheduled = (), None, ()
        self.jobs_fail = False
        self.jobs_wait = False
        self.trouble = ""
        """Why it says to have no samples."""
        self.says_loaded = True
        self.slots = 1000
        self.result: dict[str, Any] | None = None
        """What the next job that finishes is said to have made."""

    @property
    def orders(self) -> list[NodeOrder]:
        return [message for message in self.received if isinstance(message, NodeOrder)]

    # ---- its life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(60), "the small node got no table"

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    async def _live(self) -> None:
        await self.join(self._token, self._hub.port)
        self._ready.set()
        due = 0.0
        while not self._over.is_set():
            if time.monotonic() > due:
                due = time.monotonic() + 1.0
                with suppress(ConnectionClosed):  # a test has ended its hub
                    await self.report(*self.traffic)
            await asyncio.sleep(0.05)
        await self.leave()

    # ---- what it says ------------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        self._describe()
        return super().hello().model_copy(update={"jobs_as_agent": True})

    async def report(self, *traffic: Traffic, router_boot: str = "r") -> None:
        self._describe()
        await super().report(*traffic, router_boot=router_boot)

    def _describe(self) -> None:
        loaded = tuple(sorted(self._loaded)) if self.says_loaded else ()
        self.replica = self.replica.model_copy(update={"slots": self.slots, "loaded": loaded})

    def _samples_of(self, ask: SampleAsk) -> SampleRows:
        mine = tuple(one for one in self.samples if one.tenant == ask.tenant)
        return SampleRows(ask=ask.ask, samples=mine, kept=len(mine), trouble=self.trouble)

    # ---- what it does ------------------------------------------------------------------------------------------

    async def take(self, message: DownMessage) -> None:
        if isinstance(message, Desired):
            self.pins = tuple(pin for pin in self.pins if (pin.tenant, pin.route) not in message.unpin)
        if isinstance(message, JobCancel) and message.job in self._begun:  # one that was never begun needs no end
            await self.say(self.jobs[message.job], ExecutorEventType.PREEMPTED, seq=3, ts=time.time())
        await super().take(message)

    async def acknowledge(self, entry: TableEntry) -> None:
        if not self.acknowledges or entry.current is None:
            return
        self._loaded |= {ref.id for ref in (entry.current, *entry.beneath)}
        await self.report(*self.traffic)
        now_ms = int(time.time() * 1000)
        await self.ack(entry, AckState.FLIPPED, at_ms=now_ms)
        if self.proves:
            listed = {"code": "not_distinct", "detail": "the base alone answers the canaries alike"}
            await self.ack(entry, self.proof, at_ms=now_ms, **(listed if self.proof is AckState.LISTED else {}))

    async def work(self, job: JobAssignment) -> None:
        prepare = job.spec.kind == "prepare"
        if prepare and self.prepares == "hold":
            return
        self._begun.add(job.id)
        await self.say(job, ExecutorEventType.STARTED, seq=1, ts=time.time())
        if not prepare:
            loss = {"metrics": {"loss": 0.5}}
            await self.say(job, ExecutorEventType.PROGRESS, seq=2, ts=time.time(), step=20, of=40, **loss)
            if self.jobs_wait:
                return
            if self.jobs_fail:
                why = {"code": "diverged", "message": "loss is not finite"}
                await self.say(job, ExecutorEventType.FAILED, seq=3, ts=time.time(), **why)
                return
        await self.say(job, ExecutorEventType.FINISHED, self.result, seq=3, ts=time.time())
