"""Questions to the engine that serves which are no caller's: an executor's over a socket, and the hub's about canaries.

An executor asks for one release's answers, or how the engine reads conversations. It may run as a user that reaches no
engine, and an engine's own socket also loads and unloads. So the agent asks for it, under the name by which the router
asks for the release. The release is made ready as for a promote, and keeps its slot where nothing that is served or
prepared needs it.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from loradeck.schemas.attestation import CanaryItem
from loradeck.schemas.jobs import AT_ONCE
from loradeck.schemas.link import CanaryAnswers, CanaryAsk
from loradeck.schemas.manifest import Form
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.job_user import JobUser
from loradeck_agent.serving.engine_api import Canaries, EngineApi
from loradeck_agent.serving.engine_questions import LONGEST_LINE, EngineAnswer, EngineQuestion
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.serving.replica import EngineReplica

SLOT_S = 600.0
"""How long an evaluation waits for a slot of the engine."""

SLOT_RETRY_S = 5.0


@dataclass(frozen=True)
class EngineRelay:
    """Passes questions about one release on to one engine. Without a release: about the tokens of conversations."""

    engine: EngineReplica
    ref: ReleaseRef | None
    canaries: Canaries
    reconciler: Reconciler

    @asynccontextmanager
    async def listening(self, address: Path, user: JobUser | None) -> AsyncIterator[None]:
        """Makes the release ready and answers on a new socket, which only the executor's user reaches.

        Raises: AgentError: why the release cannot be made ready.
        """
        with contextlib.nullcontext() if self.ref is None else self.reconciler.evaluating(self.ref):
            if self.ref is not None:
                await self._until_ready(self.ref)
            async with answering(address, user, self._answer):
                yield

    async def _until_ready(self, ref: ReleaseRef) -> None:
        """Makes the release ready; waits a while for a slot where all are needed by what is served."""
        until = time.monotonic() + SLOT_S
        while True:
            try:
                await self.reconciler.make_ready(self.engine, ref, self.canaries, keep=False)
            except AgentError as error:
                if error.code != "no_slot" or time.monotonic() > until:
                    raise
                await asyncio.sleep(SLOT_RETRY_S)
            else:
                return

    async def _answer(self, question: EngineQuestion) -> EngineAnswer:
        engine, ref = self.engine, self.ref
        if question.messages:
            return EngineAnswer(ids=await engine.api.tokens(engine.build.base_name, question.messages, question.tools))
        if ref is None or not (question.prompt or question.body):
            return EngineAnswer(error="nothing that may be asked here")
        if ref.release.form is Form.ADAPTER and ref.id not in engine.ready:
            await self.reconciler.make_ready(engine, ref, self.canaries, keep=False)
        name = (None if question.base else ref.engine_name) or engine.build.base_name
        began = time.monotonic()
        answer = await _asked(engine.api, name, question)
        return answer.model_copy(update={"ms": (time.monotonic() - began) * 1000})


async def _asked(api: EngineApi, name: str, question: EngineQuestion) -> EngineAnswer:
    """A model's answer, by its name in the engine."""
    if question.body is not None:
        return EngineAnswer(body=await api.openai(name, question.body))
    if question.top:
        return EngineAnswer(top=await api.likeliest(name, question.prompt, question.last, question.top))
    if question.last:
        return EngineAnswer(logprob=await api.log_likelihood(name, question.prompt, question.last))
    text, tokens = await api.complete(
        name, question.prompt, question.max_tokens, temperature=question.temperature, seed=question.seed
    )
    return EngineAnswer(text=text, tokens=tokens)


@asynccontextmanager
async def address_relay(api: EngineApi, model: str, socket: Path, user: JobUser | None) -> AsyncIterator[None]:
    """Lets an executor ask a model behind an OpenAI-compatible address, whose key it does not see, by bodies alone."""

    async def answer(question: EngineQuestion) -> EngineAnswer:
        if question.body is None or "messages" not in question.body:
            return EngineAnswer(error="nothing that may be asked here")
        began = time.monotonic()
        said = await _asked(api, model, question)
        return said.model_copy(update={"ms": (time.monotonic() - began) * 1000})

    async with answering(socket, user, answer):
        yield


@asynccontextmanager
async def answering(
    address: Path, user: JobUser | None, answer: Callable[[EngineQuestion], Awaitable[EngineAnswer]]
) -> AsyncIterator[None]:
    """Answers the questions that an executor asks on a new socket, which only its user reaches."""
    room = asyncio.Semaphore(AT_ONCE)
    asking: set[asyncio.Task[None]] = set()

    async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        asking.add(task)
        try:
            with contextlib.suppress(ConnectionError, ValueError):  # it went away, or a line is too long
                while line := await reader.readline():
                    async with room:
                        said = await _said(line, answer)
                    writer.write(said.model_dump_json().encode() + b"\n")
                    await writer.drain()
        finally:
            asking.discard(task)
            writer.close()

    server = await asyncio.start_unix_server(asked, sock=_bound(address, user), limit=LONGEST_LINE)
    try:
        yield
    finally:
        server.close()
        _gone(address)
        for task in asking:
            task.cancel()


async def _said(line: bytes, answer: Callable[[EngineQuestion], Awaitable[EngineAnswer]]) -> EngineAnswer:
    try:
        return await answer(EngineQuestion.model_validate_json(line))
    except ValidationError as error:
        return EngineAnswer(error=f"the question cannot be read: {error.errors()[0]['msg']}")
    except AgentError as error:
        again = isinstance(error, Unreachable) or error.code in ("engine_down", "engine_busy", "no_slot")
        return EngineAnswer(error=error.sentence[:1000], again=again)


def _gone(address: Path) -> None:
    address.unlink(missing_ok=True)


def _bound(address: Path, user: JobUser | None) -> socket.socket:
    """A socket at an address that only the agent's user reaches, or this one. What lies there is of an earlier job."""
    _gone(address)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(address))
    address.chmod(0o600)
    if user is not None:
        os.chown(address, user.uid, user.gid)
    return made


async def canary_answers(engines: Sequence[EngineReplica], reconciler: Reconciler, ask: CanaryAsk) -> CanaryAnswers:
    """Each release's greedy answer to one prompt of the hub's; `trouble` says why there is none of a release.

    Callers may not be served the releases yet. What is not loaded is loaded first.
    """
    engine = next((engine for engine in engines if engine.name == ask.replica), None)

    async def answer(ref: ReleaseRef) -> CanaryItem | str:
        if engine is None or not engine.up:
            return f"engine {ask.replica} is not up here"
        try:
            if ref.release.form is Form.ADAPTER and ref.id not in engine.ready:
                await reconciler.make_ready(engine, ref, ())
            return await engine.api.canary(ref.engine_name or engine.build.base_name, ask.messages)
        except AgentError as error:
            return error.sentence[:300]

    found = await asyncio.gather(*map(answer, ask.releases))
    by_release = {ref.id: said for ref, said in zip(ask.releases, found, strict=True)}
    return CanaryAnswers(
        ask=ask.ask,
        items={release: said for release, said in by_release.items() if isinstance(said, CanaryItem)},
        trouble={release: said for release, said in by_release.items() if isinstance(said, str)},
    )
