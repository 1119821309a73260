"""Proof: after a flip, the router is asked for the release's canaries on that very generation and replica.

The look-up is a caller's own, so the answers that are judged are those that tenants get. A newer generation ends a
running proof. Every pointer is proven again at a bounded rate, and again after its engine was restarted.
"""

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from loradeck.rules.serving.proof import Judgement, Level, what_to_do
from loradeck.schemas.attestation import CanaryItem
from loradeck.schemas.ids import Fence, PointerKey, short
from loradeck.schemas.link import Ack
from loradeck.schemas.manifest import Form
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import ReleaseRef, TableEntry
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.router.client import RouterControl
from loradeck_agent.router.wire import ProofRequest, ack_about
from loradeck_agent.serving.canaries import CanaryRecords, judge_items, near, verify_idle
from loradeck_agent.serving.engine_api import Conversation, canary_body, canary_item, prompt_digest
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable

log = logging.getLogger(__name__)

REPEAT_S = 60.0
"""Each pointer is proven again on each replica about this often."""

RETRY_S = 2.0
"""Pause after a proof that could not be made."""

TRIES = 5
"""Proofs that may get no answer of router or engine before the replica counts as failed."""

PACE_S = 1.0
"""Between two repeated proofs on one engine, however many pointers it has: engines are there for callers."""

PACE_SHARE = 0.1
"""Largest part of the time that repeated proofs take on one engine: a slow one makes fewer of them."""

AT_ONCE = 4
"""Proofs that run beside each other on one engine. One that hangs must not keep those of another from being made."""

_STATE = {Level.PROVEN: AckState.PROVEN, Level.LISTED: AckState.LISTED, Level.FAILED: AckState.FAILED}


class Superseded(Exception):
    """Says that a generation is no longer in force, so that there is nothing to prove."""


@dataclass
class _Proving:
    entry: TableEntry
    task: asyncio.Task[None]
    again: bool = False
    """A flip was acknowledged while a proof was under way, which a pin that has ended since may have refused."""


@dataclass
class Prover:
    """Proves the current generation of each pointer on each replica, again and again: one task for each."""

    table: DesiredTable
    engines: dict[str, EngineReplica]
    router: RouterControl
    records: CanaryRecords
    acks: AckBoard
    _tasks: dict[tuple[str, str, str], _Proving] = field(default_factory=dict)
    _in_force: dict[tuple[str, str, str], ReleaseRef] = field(default_factory=dict)
    _left: dict[tuple[str, str, str], ReleaseRef] = field(default_factory=dict)
    """What a replica served of a pointer before: what it serves now must differ from that to be proven."""
    _looked_for: set[tuple[str, str, tuple[str, ...]]] = field(default_factory=set)
    """Canaries whose records were looked for: (release, boot of the engine, digests of the prompts)."""
    _passed: dict[tuple[str, str, str], tuple[Fence, str]] = field(default_factory=dict)
    """The generation that the newest proof of a pointer on a replica was of, and the lifetime of its engine."""
    _took: dict[str, float] = field(default_factory=dict)
    """Seconds that the newest proof on a replica took."""
    _pace: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _rooms: dict[str, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
    )

    def flipped(self, ack: Ack) -> None:
        """Starts the proof of a generation that a router has flipped to, and ends that of an older one."""
        key = (ack.tenant, ack.route, ack.replica)
        entry = self.table.entries.get((ack.tenant, ack.route))
        if entry is None or entry.fence != (ack.epoch, ack.generation) or ack.replica not in self.engines:
            return
        if ack.state is not AckState.FLIPPED or entry.current is None:
            self.stop(key)
            return
        before = self._in_force.get(key)
        if before is not None and before.id != entry.current.id:
            self._left[key] = before
        self._in_force[key] = entry.current
        if ack.code is not None:  # a cold flip: there is nothing to prove until the release is loaded
            self.stop(key)
            return
        running = self._tasks.get(key)
        same = running is not None and (running.entry.fence, running.entry.canaries) == (entry.fence, entry.canaries)
        if running is not None and same and not running.task.done():
            running.again = True
            return  # one that is done found a pin in force: with the pin gone there is something to prove again
        self.stop(key)
        task = asyncio.get_running_loop().create_task(self._keep_proving(entry.key, entry.fence, ack.replica))
        self._tasks[key] = _Proving(entry, task)

    def stop(self, key: tuple[str, str, str]) -> None:
        """Ends the proof of one pointer on one replica."""
        proving = self._tasks.pop(key, None)
        if key[:2] not in self.table.entries:
            self._passed.pop(key, None)
        if proving is not None:
            proving.task.cancel()

    def stop_replica(self, replica: str) -> None:
        """Ends the proofs on a replica whose engine ended; the next flip there starts them again."""
        for key in [key for key in self._tasks if key[2] == replica]:
            self.stop(key)

    async def close(self) -> None:
        """Ends all proofs and waits for them."""
        tasks = [proving.task for proving in self._tasks.values()]
        for key in list(self._tasks):
            self.stop(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_proving(self, pointer: PointerKey, fence: Fence, replica: str) -> None:
        key = (*pointer, replica)
        # A release that was loaded again is no news: it was proven in this lifetime, and its files are compared.
        unanswered, repeated = 0, self._passed.get(key) == (fence, self._boot(replica))
        while True:
            if repeated:
                await self._turn(replica)
            # Read again each time: a route's canaries may change while its generation stays.
            entry = self.table.entries.get(pointer)
            if entry is None or entry.fence != fence:
                return
            pause = REPEAT_S * random.uniform(0.8, 1.2)
            began = time.monotonic()
            try:
                async with self._rooms[replica]:
                    began = time.monotonic()
                    verdict = await self._prove(entry, self.engines[replica])
            except Superseded:
                proving = self._tasks.get((*pointer, replica))
                if proving is None or not proving.again:
                    return
                proving.again = False
                continue
            except Unreachable as error:
                unanswered += 1
                log.info("%s/%s on %s is not proven yet: %s", entry.tenant, entry.route, replica, error)
                pause = RETRY_S
                if unanswered == TRIES:
                    await self._acknowledge(entry, replica, AckState.FAILED, "canary_unanswered", error.detail)
            except AgentError as error:
                await self._acknowledge(entry, replica, AckState.FAILED, error.code, f"{error.title}; {error.detail}")
                pause = RETRY_S
            except Exception:
                log.exception("proof of %s/%s on %s broke", entry.tenant, entry.route, replica)
                await self._acknowledge(
                    entry, replica, AckState.FAILED, "proof_broke", "the agent's log has the traceback"
                )
            else:
                unanswered, repeated, self._took[replica] = 0, True, time.monotonic() - began
                self._passed[key] = (fence, self._boot(replica))
                if verdict.level is Level.FAILED:
                    del self._passed[key]
                detail = verdict.detail
                if verdict.level is Level.LISTED and entry.current is not None and entry.current.engine_name:
                    release = entry.current.label or short(entry.current.id)
                    detail += f"; {what_to_do(entry.tenant, entry.route, release)}"
                await self._acknowledge(entry, replica, _STATE[verdict.level], verdict.code, detail)
            await asyncio.sleep(pause)

    async def _turn(self, replica: str) -> None:
        """Returns when one more repeated proof may be made on a replica: its own last one was long enough ago."""
        async with self._pace[replica]:
            await asyncio.sleep(min(REPEAT_S, max(PACE_S, self._took.get(replica, 0.0) / PACE_SHARE)))

    def _boot(self, replica: str) -> str:
        version = self.engines[replica].version
        return version.boot if version is not None else ""

    async def _acknowledge(
        self, entry: TableEntry, replica: str, state: AckState, code: str | None, detail: str
    ) -> None:
        if state is AckState.FAILED:
            log.error("%s/%s generation %d on %s: %s %s", *entry.key, entry.generation, replica, code, detail)
        await self.acks.post(ack_about(entry, replica, state, code, detail))

    async def _prove(self, entry: TableEntry, engine: EngineReplica) -> Judgement:
        """Takes an entry's canaries through the router and judges them.

        Raises:
            Superseded: another generation, or a pin, is in force.
            Unreachable: the router did not answer.
            AgentError: the engine did not answer a canary.
        """
        ref = entry.current
        assert ref is not None
        if not entry.canaries and ref.engine_name is not None and ref.engine_name not in await engine.api.models():
            raise AgentError("not_listed", "the engine does not list the release", ref.engine_name)
        items = await asyncio.gather(*(self._ask(entry, engine.name, messages) for messages in entry.canaries))
        left = self._left.get((*entry.key, engine.name))
        await self._record_new(entry, (ref, *([left] if left else [])), engine)
        return await judge_items(
            engine, self.records, ref, items, left=left, near=entry.beneath[:1] if not left else ()
        )

    async def _record_new(self, entry: TableEntry, refs: Sequence[ReleaseRef], engine: EngineReplica) -> None:
        """Records canaries that the route was given after its releases were loaded, as at a load: asked of the engine.

        What came through the router is then compared with them like any later answer.
        """
        prompts = tuple(map(prompt_digest, entry.canaries))
        for ref in (*refs, *near([entry], refs[0].id)):
            looked_for = (ref.id, engine.build.boot, prompts)
            if ref.id not in engine.ready or ref.release.form is not Form.ADAPTER or looked_for in self._looked_for:
                continue
            record = await self.records.find(ref.id, engine.build.build, prompts)
            if not set(prompts) <= {item.prompt for item in (record.items if record else ())}:
                await verify_idle(engine, self.records, ref, entry.canaries, near(self.table.named(), ref.id))
            self._looked_for.add(looked_for)

    async def _ask(self, entry: TableEntry, replica: str, messages: Conversation) -> CanaryItem:
        reply = await self.router.proof(
            ProofRequest(
                tenant=entry.tenant,
                route=entry.route,
                epoch=entry.epoch,
                generation=entry.generation,
                replica=replica,
                body=canary_body(messages),
            )
        )
        if reply.status == 409:
            raise Superseded
        if reply.status in (502, 503, 504):
            raise Unreachable(replica, f"the canary was answered {reply.status}: {reply.text[:200]}")
        return canary_item(messages, reply)
