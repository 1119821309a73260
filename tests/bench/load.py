"""Flips under load: nobody is answered by the left release after an acknowledgement, fails, or loses a stream.

Callers send 50 requests a second, every third one streamed, while the pointer is moved back and forth. Who answered
is told by the answer's tokens; when a request was admitted, and when the router swapped, by the router's own clock.
"""

from __future__ import annotations

import asyncio
import bisect
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.rows import Row, quantile
from tests.fakes.word_model import reference_answers
from tests.fleets.processes.fleet import PROMPTS, TENANT, Material, fleet_at, lay, make_material

from incident.fleet import Fleet
from incident.traffic import Answer, Callers, Prompt
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.log import Event
from loradeck.schemas.moves import MoveResult, UndoRequest
from loradeck.schemas.trace import TraceRow

ROUTE = "production"
NODE = "gpu-01"
FLIPS = 1000
PROOFS = 30
RATE = 50
"""Requests a second."""

PACE_S = 0.1
"""From one flip to the next."""

PROVEN = 3.0
"""The most that a proof may take at p95, in multiples of an answer to a caller meanwhile."""

TOKENS = 4
TRACED = 10_000
"""Requests that a router's trace holds."""


@dataclass(frozen=True)
class Flip:
    """A router's swap, on its CLOCK_MONOTONIC in nanoseconds: from then on only `to` may answer."""

    at_ns: int
    to: str


@dataclass(frozen=True)
class Verdict:
    """What became of the requests."""

    judged: int
    late: int
    undecided: int
    failed: int
    streams: int
    cut: int
    unseen: int


def judge(
    answers: Sequence[Answer],
    streamed: Collection[int],
    flips: Sequence[Flip],
    first: str,
    trace: Mapping[str, TraceRow],
) -> Verdict:
    """Each answer against the release in force when its request was admitted.

    Args:
        streamed: indexes of the answers that were asked for as streams.
        flips: in order. `first` is in force before them.
        trace: the router's, by request. A request that it does not hold is `unseen`, and not judged.
    """
    times = [flip.at_ns for flip in flips]
    judged = late = undecided = failed = cut = unseen = 0
    for index, answer in enumerate(answers):
        if not answer.ok:
            if answer.status == 200 and index in streamed:
                cut += 1
            else:
                failed += 1
            continue
        row = trace.get(answer.id)
        if row is None:
            unseen += 1
            continue
        judged += 1
        past = bisect.bisect_left(times, row.admitted_mono_ns)
        in_force = flips[past - 1].to if past else first
        undecided += answer.by is None
        late += answer.by is not None and answer.by != in_force
    return Verdict(judged, late, undecided, failed, len(streamed), cut, unseen)


def measure(*, flips: int = FLIPS, proofs: int = PROOFS) -> list[Row]:
    """About three minutes on two free cores."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        material = make_material(Path(folder))
        answers = reference_answers(material.base, list(material.adapters), PROMPTS, tokens=TOKENS)
        with fleet_at(material.base, names=(NODE,)) as fleet:
            cast, key = lay(fleet, material)
            releases = list(cast.releases.values())
            prompts = _prompts(material, answers, releases)
            run = _Run(fleet, key, prompts, first=releases[1])
            asyncio.run(run.run(flips, proofs))
            trace = {row.request: row for row in map(TraceRow.model_validate, fleet.agent_cli(fleet.nodes[0], "trace"))}
    verdict = judge(run.answers, run.streamed, run.flips, releases[1], trace)
    n = len(run.answers)
    assert n <= TRACED, f"{n} requests are more than a trace holds: fewer flips"
    flipped = [result.flipped_ms or 0.0 for result in run.results]
    proven = [((r.proven_ms or 0.0) - (r.flipped_ms or 0.0)) / 1000 for r in run.proofs]
    waited = [(answer.done_ns - answer.sent_ns) / 1e6 for answer in run.answers[run.proving :] if answer.status == 200]
    moves = len(run.results) + len(run.proofs)
    lost = sum(result.reached not in ("flipped", "listed", "proven") for result in (*run.results, *run.proofs))
    return [
        Row(
            f"answers by the left release after the acknowledgement, {moves:,} flips",
            verdict.late,
            "answers",
            verdict.judged,
            0,
            unwaivable=True,
            how=f"{run.rate:.0f} requests/s on the embedded engine, each answer's tokens against the release that the "
            "router had acknowledged when it admitted the request",
        ),
        Row("requests that failed meanwhile", verdict.failed, "requests", n, 0, unwaivable=True),
        Row(
            "streams that did not end as complete ones do", verdict.cut, "streams", verdict.streams, 0, unwaivable=True
        ),
        Row("moves that were lost, or not flipped in 10 s", lost, "moves", moves, 0, unwaivable=True),
        Row("answers whose tokens are no release's", verdict.undecided, "answers", verdict.judged, 0, unwaivable=True),
        Row("answers that could not be judged", verdict.unseen, "answers", n, 0, unwaivable=True),
        Row("requests sent meanwhile", run.rate, "requests/s", n, how="sent on time whatever has been answered"),
        Row(
            "commit to flipped under that load: p50",
            quantile(flipped, 50),
            "ms",
            len(flipped),
            how="by the hub's monotonic clock",
        ),
        Row("commit to flipped under that load: p99", quantile(flipped, 99), "ms", len(flipped)),
        Row(
            "flipped to proven under that load (embedded, CPU): p95",
            quantile(proven, 95),
            "s",
            len(proven),
            how="the release's canaries, asked through the router behind the callers' requests",
        ),
        Row("floor: an answer to these callers meanwhile: p95", quantile(waited, 95), "ms", len(waited)),
        Row(
            "flipped to proven under that load against that floor: p95 / p95",
            quantile(proven, 95) * 1000 / quantile(waited, 95),
            "x",
            len(proven),
            PROVEN,
            reference="floor",
        ),
    ]


def _prompts(material: Material, answers: list[list[str]], releases: list[str]) -> list[Prompt]:
    """Those whose short answers tell the two releases apart."""
    prompts = [
        Prompt(
            id=f"p{n}",
            messages=[{"role": "user", "content": text}],
            answers={release: answers[k][n] for k, release in enumerate(releases)},
        )
        for n, text in enumerate(PROMPTS)
    ]
    telling = [prompt for prompt in prompts if prompt.separates(releases[0], releases[1])]
    assert len(telling) >= 3, "too few prompts tell the releases apart"
    return telling


class _Run:
    """Callers and moves side by side."""

    def __init__(self, fleet: Fleet, key: str, prompts: Sequence[Prompt], *, first: str) -> None:
        self._fleet = fleet
        self._key = key
        self._prompts = prompts
        self._first = first
        self.answers: list[Answer] = []
        self.streamed: set[int] = set()
        self.flips: list[Flip] = []
        self.results: list[MoveResult] = []
        self.proofs: list[MoveResult] = []
        self.rate = 0.0
        self.proving = 0
        """The first request that was sent while moves were proven."""

    async def run(self, flips: int, proofs: int) -> None:
        node = self._fleet.nodes[0]
        async with (
            HubApi.to(Context(name="bench", socket=self._fleet.socket)) as api,
            Callers({node.name: node.url}, {TENANT: self._key}, max_tokens=TOKENS) as callers,
        ):
            asked: list[asyncio.Task[Answer]] = []
            began = time.monotonic()
            sender = asyncio.create_task(self._send(callers, asked))
            try:
                last: Event | None = None
                for _ in range(flips):
                    due = time.monotonic() + PACE_S
                    result = await self._move(api, last, "flipped")
                    self.results.append(result)
                    last = None if last is not None else result.events[0]
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.proving = len(asked)
                for _ in range(proofs):
                    result = await self._move(api, last, "proven")
                    self.proofs.append(result)
                    last = None if last is not None else result.events[0]
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
            took = time.monotonic() - began
            self.answers = await asyncio.gather(*asked)
            self.rate = len(asked) / took

    async def _send(self, callers: Callers, asked: list[asyncio.Task[Answer]]) -> None:
        due = time.monotonic()
        while len(asked) < TRACED - 100:
            prompt, stream = self._prompts[len(asked) % len(self._prompts)], len(asked) % 3 == 2
            if stream:
                self.streamed.add(len(asked))
            asked.append(asyncio.create_task(callers.ask(NODE, TENANT, prompt, stream=stream)))
            due += 1 / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        raise AssertionError("the run took longer than its requests lasted")

    async def _move(self, api: HubApi, last: Event | None, wait: str) -> MoveResult:
        """R, or the undo of the R before. The router's clock at its swap is kept."""
        if last is not None:
            undo = UndoRequest(event=last.id, confirmed=True, idempotency_key=new_key())
            result = await api.send(TENANT, ROUTE, undo, wait="proven" if wait == "proven" else "flipped", timeout=10)
        else:
            row = await api.row(TENANT, ROUTE)
            back = rollback_request(row.preview, key=new_key(), reason="bench")
            result = await api.send(TENANT, ROUTE, back, wait="proven" if wait == "proven" else "flipped", timeout=10)
        row = await api.row(TENANT, ROUTE)
        (replica,) = row.replicas
        assert replica.flipped_mono_ns is not None, replica
        assert row.pointer.release is not None
        self.flips.append(Flip(replica.flipped_mono_ns, row.pointer.release))
        return result
