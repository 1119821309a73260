"""The tenants' own callers. They send requests to routers or a gateway and read answers; they know nothing else.

Which release answered is decided here by the answer's tokens: every prompt they send has a known greedy
answer under each release, taken from the evaluation reports, and the prompts used to judge a move are those
whose answers differ. A header is never believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

KEEPALIVE_S = 60.0
"""How long a connection that a burst has used stays open for the next one."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """`answers`: release id -> the greedy answer of that release, from its evaluation report."""

    id: str
    messages: Sequence[Mapping[str, str]]
    answers: Mapping[str, str] = field(default_factory=dict)

    def who(self, text: str) -> str | None:
        """The one release that answers so; None where none or several do."""
        found = [release for release, answer in self.answers.items() if answer == text.strip()]
        return found[0] if len(found) == 1 else None

    def separates(self, one: str, other: str) -> bool:
        """Whether the answer to this prompt tells these two releases, and no third, apart."""
        return all(self.who(self.answers.get(release, "")) == release for release in (one, other))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a caller saw. Times are CLOCK_MONOTONIC nanoseconds, comparable between processes of one host."""

    id: str
    node: str
    tenant: str
    prompt: Prompt
    sent_ns: int
    done_ns: int
    status: int
    text: str
    complete: bool = True
    user: str | None = None

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.complete

    @property
    def by(self) -> str | None:
        """The release that gave this answer, by its tokens."""
        return self.prompt.who(self.text) if self.ok else None


class Callers:
    """Clients of tenants, who ask routers or gateways. Use as an async context manager."""

    def __init__(
        self,
        routers: Mapping[str, str],
        keys: Mapping[str, str],
        *,
        gateways: Mapping[str, str] | None = None,
        max_tokens: int = 24,
        ca: Path | None = None,
    ) -> None:
        """`routers`, `gateways`: name -> URL; `keys`: tenant -> its callers' bearer key; `ca`: their authority."""
        self._tls = ssl.create_default_context(cafile=ca) if ca is not None else True
        self._max_tokens = max_tokens
        self._routers = routers
        self._urls = {**routers, **(gateways or {})}
        self._keys = keys
        self._plan: dict[str, Sequence[Prompt]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._asked: set[asyncio.Task[Answer]] = set()
        self.answers: deque[Answer] = deque(maxlen=20_000)

    async def __aenter__(self) -> Callers:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=120),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        await self._session.close()

    async def ask(
        self, node: str, tenant: str, prompt: Prompt, *, stream: bool = False, user: str | None = None
    ) -> Answer:
        """One chat completion through a router, or a gateway. A failed connection is an answer with status 0."""
        body = {
            "model": tenant,
            "messages": list(prompt.messages),
            "temperature": 0,
            "max_tokens": self._max_tokens,
            "stream": stream,
        } | ({} if user is None else {"user": user})
        headers = {"authorization": f"Bearer {self._keys[tenant]}"}
        sent = time.monotonic_ns()
        status, text, complete, request_id = 0, "", False, ""
        try:
            url = f"{self._urls[node]}/v1/chat/completions"
            async with self._session.post(url, json=body, headers=headers) as response:
                status, request_id = response.status, response.headers.get("x-request-id", "")
                if status == 200 and stream:
                    text, complete = await _read_stream(response)
                elif status == 200:
                    text, complete = (await response.json())["choices"][0]["message"]["content"], True
                else:
                    text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            text = f"{type(error).__name__}: {error}"
        answer = Answer(
            id=request_id,
            node=node,
            tenant=tenant,
            prompt=prompt,
            sent_ns=sent,
            done_ns=time.monotonic_ns(),
            status=status,
            text=text,
            complete=complete,
            user=user,
        )
        self.answers.append(answer)
        return answer

    # -- steady traffic --------------------------------------------------------------------------------

    def start(
        self, plan: Mapping[str, Sequence[Prompt]], *, every_s: float, through: Collection[str] | None = None
    ) -> None:
        """Asks round and round: each tenant's prompts in turn, on each router, every third answer streamed.

        A caller waits for its last answer before it asks again, as a browser would, so a slow engine is not
        buried. `every_s`: pause between the requests of one tenant on one router. `through`: whom they ask, in place
        of each router. Further tenants may join later.
        """
        self._plan |= plan
        for node, tenant in itertools.product(self._routers if through is None else through, plan):
            self._background.append(asyncio.create_task(self._one(node, tenant, every_s)))

    async def stop(self) -> None:
        """Ends the steady traffic."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._background.clear()

    async def _one(self, node: str, tenant: str, every_s: float) -> None:
        for turn in itertools.count():
            prompts = self._plan[tenant]
            await self.ask(node, tenant, prompts[turn % len(prompts)], stream=turn % 3 == 2)
            await asyncio.sleep(every_s)

    # -- bursts ----------------------------------------------------------------------------------------

    async def connect(self, tenant: str, count: int) -> None:
        """Opens `count` connections to each router, which requests of a burst then find open."""
        await asyncio.gather(*(self._knock(url, tenant) for url in self._routers.values() for _ in range(count)))

    async def _knock(self, url: str, tenant: str) -> None:
        """Shows the tenant's key: a router ends the connection of whoever shows none with its first answer."""
        headers = {"authorization": f"Bearer {self._keys[tenant]}"}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # a request that fails as well is reported
            async with self._session.get(f"{url}/v1/models", headers=headers) as response:
                await response.read()

    def burst(self, tenant: str, prompts: Sequence[Prompt], count: int) -> list[asyncio.Task[Answer]]:
        """Starts `count` requests to each router at once, without waiting for their answers."""
        return [task for turn in range(count) for task in self._turn(tenant, prompts, turn)]

    async def stream(
        self, tenant: str, prompts: Sequence[Prompt], pace_s: float, *, at_most: int
    ) -> AsyncIterator[list[asyncio.Task[Answer]]]:
        """Starts one request to each router every `pace_s`, `at_most` times, and yields them.

        The pace holds over the whole: on a busy machine that wakes this up late, those that are due start together.
        """
        began = time.monotonic()
        for turn in range(at_most):
            await asyncio.sleep(max(0.0, began + turn * pace_s - time.monotonic()))
            yield list(self._turn(tenant, prompts, turn))

    def _turn(self, tenant: str, prompts: Sequence[Prompt], turn: int) -> Iterator[asyncio.Task[Answer]]:
        for node in self._routers:
            task = asyncio.create_task(self.ask(node, tenant, prompts[turn % len(prompts)]))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
            yield task


async def _read_stream(response: aiohttp.ClientResponse) -> tuple[str, bool]:
    """The text of a server-sent stream, and whether it ended as a complete one does."""
    text, complete = "", False
    async for raw in response.content:
        line = raw.decode().strip()
        if line == "data: [DONE]":
            complete = True
        elif line.startswith("data: "):
            for choice in json.loads(line[6:])["choices"]:
                text += choice.get("delta", {}).get("content") or ""
    return text, complete
