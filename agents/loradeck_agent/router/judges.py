"""The judges of routes: a model on this node that is asked of some answers whether they do what a rubric says.

It is asked after the answer's checks, behind all callers and within a budget. Its word is counted and makes no answer
bad, and a reply that is not the one word it was asked for is none.
"""

import asyncio
import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import aiohttp

from loradeck.rules.quality.judge import MINUTE_S, may_judge, verdict_of
from loradeck.rules.quality.sampling import ASKED_AGAIN, ModelTime
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.judge import JUDGE, REPLY_TOKENS, Judge, Judgement, asked_of_answer
from loradeck_agent.router.admission import Admitted, Plan
from loradeck_agent.router.engine_pools import EnginePool, EngineRoom, Replicas
from loradeck_agent.router.response_checks import Checks, Texts
from loradeck_agent.router.trace import Row

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""The judge is not asked of an answer for which there is no room on its engine for so long."""

AT_ONCE = 2
"""Answers of this node that are being judged, or wait for it, at most."""

_PATH = "/v1/chat/completions"


@dataclass(eq=False)
class Judges:
    """Asks judges, and counts what they say with the release that gave the answer.

    `_time`: the processor time that they and plug-ins have on this node.
    """

    _checks: Checks
    _room: EngineRoom
    _replicas: Replicas
    _time: ModelTime
    _draw: Callable[[], float] = random.random
    _asked: dict[PointerKey, deque[float]] = field(default_factory=dict, init=False)
    _under_way: int = field(default=0, init=False)
    _takes: bool = field(default=True, init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def draw(self, plan: Plan, row: Row) -> None:
        """Decides which models are to look at the answer of a request that is admitted now, within their budgets.

        Before anybody knows what it will be: of answers as they end, the short ones would be asked of first.
        """
        content, now = plan.checks.content, time.monotonic()
        row.plugins = bool(content.plugins) and self._time.take(now)
        if row.plugins:
            row.asked = tuple(name for name in content.plugins if name in content.alert_only)
        judge = plan.entry.judge
        if judge is None or not self._takes:
            return
        asked = self._asked.setdefault((row.tenant, row.route), deque())
        while asked and now - asked[0] >= MINUTE_S:
            asked.popleft()
        if may_judge(judge.sample, self._draw(), judge.per_minute, asked, now) and self._time.has_room(now):
            asked.append(now)
            row.asked = (*row.asked, JUDGE)

    def plugins_over(self, row: Row) -> None:
        """Gives back the time that was held for an answer's plug-ins, once its checks are over or are not made."""
        if row.plugins:
            self._time.over()

    def offer(self, admitted: Admitted, question: bytes, answer: bytes) -> None:
        """Has an answer judged, if it was drawn, that its checks have seen. `question`: the request's body."""
        judge, row = admitted.plan.entry.judge, admitted.row
        if judge is None or JUDGE not in row.asked or not self._takes:
            return
        if self._under_way >= AT_ONCE or admitted.stale_s is not None:
            _count(admitted, Judgement.SHED)
            return
        self._under_way += 1
        done = partial(self._begin, admitted, judge)
        self._checks.texts(question, answer, streamed=row.streamed, redacted=False, done=done)

    def hand_over(self) -> None:
        """Ends what is being judged, which is in no count, and takes nothing more: another router does."""
        self._takes = False
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Ends everything, and waits for it."""
        self.hand_over()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, admitted: Admitted, judge: Judge, texts: Texts | None) -> None:
        if texts is None or not self._takes:
            self._under_way -= 1
            _count(admitted, Judgement.UNCLEAR)
            return
        task = asyncio.get_running_loop().create_task(self._judge(admitted, judge, *texts))
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._under_way -= 1
        self._tasks.discard(task)

    async def _judge(self, admitted: Admitted, judge: Judge, question: str, answer: str) -> None:
        found = self._engine(admitted)
        until_s = time.monotonic() + PATIENCE_S
        if found is None or not await self._room.take(found[0], until_s=until_s, share=ASKED_AGAIN):
            _count(admitted, Judgement.SHED)
            return
        replica, model = found
        body = {"model": model, "messages": asked_of_answer(judge.rubric, question, answer)}
        try:
            reply = await _reply(replica, {**body, "temperature": 0, "max_tokens": REPLY_TOKENS}, judge.timeout_s)
        finally:
            replica.again -= 1
        passes = verdict_of(reply) if reply is not None else None
        _count(
            admitted,
            Judgement.UNCLEAR if passes is None else Judgement.PASSED if passes else Judgement.FAILED,
        )

    def _engine(self, admitted: Admitted) -> tuple[EnginePool, str] | None:
        """The engine that is asked, and by which name; None: none here holds what judges."""
        ref = admitted.plan.entry.judge_release
        if ref is None:
            replica = self._replicas.get(admitted.target.replica.name)
            return (replica, replica.at.base_name) if replica is not None else None
        return next(((one, one.model_name(ref)) for one in self._replicas if one.serves(ref)), None)


async def _reply(replica: EnginePool, body: dict[str, object], timeout_s: float) -> str | None:
    """The text that an engine answers with; None: it gives none in time."""
    try:
        async with (
            asyncio.timeout(timeout_s),
            replica.session.post(replica.urls[_PATH], json=body, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                return None
            said = json.loads(await answer.read())["choices"][0]["message"]["content"]
    except (TimeoutError, aiohttp.ClientError, RuntimeError, ValueError, LookupError, TypeError) as error:
        log.debug("%s gives no verdict: %s", replica.name, error)  # RuntimeError: its connections were closed meanwhile
        return None
    return said if isinstance(said, str) else None


def _count(admitted: Admitted, what: Judgement) -> None:
    admitted.target.counter.judge_said(admitted.row, what)
