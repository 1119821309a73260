"""The same bad release once more, this time to half of the callers and with a guard: nobody touches a key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import count

from incident.fleet import NotReady
from incident.incident import ROUTE, Cast, clear_the_way, promotion
from incident.progress import Progress
from incident.report import Report
from incident.stage import waited
from incident.traffic import Answer, Callers
from loradeck.client.api import HubApi
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.candidate import FEWEST_KEYS
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import CandidateStartRequest, CandidateStepRequest
from loradeck.schemas.route import Guard
from loradeck.schemas.state import TenantRow
from loradeck.schemas.table import CohortUnit

USERS = 56
HALF = 500

PATIENCE_S = 60.0
"""Seconds within which the candidate has to be out."""

ENOUGH = 40
"""Answers by v3 after which guard must have acted: it needs seven where all are bad and none beside them is."""

_AT_ONCE = 8
"""Users who ask at the same time."""

_TURNS = USERS // _AT_ONCE
"""Turns in which each user asks once."""


async def play(
    api: HubApi, callers: Callers, cast: Cast, nodes: Sequence[str], report: Report, progress: Progress, *, reason: str
) -> None:
    """Starts v3 as a candidate for half of the users, asks as each of them, and claims what became of it.

    Args:
        reason: why v3 goes out although its gate has failed.
    """
    bad, live = cast.releases["v3"], (await api.row(cast.tenant, ROUTE)).pointer.release or ""
    with progress.step(f"v3 to half of {USERS} users, with a guard") as step:
        await _guard(api, cast.tenant, Guard.ROLLBACK)
        await _half(api, callers, cast, nodes[0], bad, reason, step)
        began, asked = time.monotonic(), list[Answer]()
        for turn in count(_TURNS):
            asked += await _ask(callers, cast, nodes, bad, live, turn)
            row = await api.row(cast.tenant, ROUTE)
            if row.pointer.candidate is None or time.monotonic() - began > PATIENCE_S:
                break
            step.update(f"{_met(asked, bad)} users met it")
        took = time.monotonic() - began
        row = await waited(api, cast.tenant, _unflipped, step.update)
        later = [answer for turn in range(4) for answer in await _ask(callers, cast, nodes, bad, live, turn)]
        await _guard(api, cast.tenant, Guard.OFF)
    event, met = row.last_event, _by(asked, bad)
    acted = event is not None and event.kind is EventKind.ROLLBACK and event.actor == "guard"
    left = f"v3 was still out after {met} answers in {took:.0f} s: {row.guard or 'guard has found nothing'}"
    report.claim(
        "a guard took v3 from half of the users, with nobody touching a key",
        f"{_met(asked, bad)} of {USERS} users met it, in {met} answers and {took:.1f} s; after a promote all do. "
        f"{event.reason if event is not None and acted else ''}",
        against=[left] if not acted and met >= ENOUGH else [],
        missing=[] if acted else [left],
    )
    report.claim(
        "after that no user is answered by v3 (decided by tokens)",
        f"{_by(later, bad)} of {len(later)}",
        against=[f"{answer.node} {answer.text}" for answer in later if answer.by == bad] if acted else [],
        missing=[] if acted and later else ["v3 was not taken out"],
    )


async def _guard(api: HubApi, tenant: str, guard: Guard) -> None:
    config = (await api.tenant(tenant)).routes[ROUTE]
    await api.set_route(tenant, ROUTE, config.model_copy(update={"guard": guard}))


async def _half(api: HubApi, callers: Callers, cast: Cast, node: str, bad: str, reason: str, step: Progress) -> None:
    """The candidate is out, first without a share: routers count its users from then on. Then it gets half of them."""
    row = await clear_the_way(api, cast.tenant, bad)
    start = promotion(row, bad, override=reason).model_dump() | {"unit": CohortUnit.USER}
    await api.send(cast.tenant, ROUTE, CandidateStartRequest(**start), wait="proven", timeout=60)
    step.update("each user asks once")
    for turn in range(_TURNS):
        await _ask(callers, cast, (node,), bad, row.pointer.release or "", turn)
    row = await waited(api, cast.tenant, _uncounted, step.update)
    if (missing := _uncounted(row)) is not None:
        raise NotReady(missing)
    out = row.pointer.candidate
    assert out is not None
    wider = CandidateStepRequest(
        expected_generation=row.pointer.generation,
        expected_step=out.step,
        permille=HALF,
        idempotency_key=new_key(),
        reason=reason,
        override=True,  # as its start: an incident about a related release may be open by now
    )
    await api.send(cast.tenant, ROUTE, wider)


async def _ask(callers: Callers, cast: Cast, nodes: Sequence[str], bad: str, live: str, turn: int) -> list[Answer]:
    """The next few users ask one question each; each asks another one in the next round, since the same is no vote."""
    prompts, first = cast.telling(bad, live), turn * _AT_ONCE
    return await asyncio.gather(
        *(
            callers.ask(
                nodes[user % len(nodes)],
                cast.tenant,
                prompts[(user + user // USERS) % len(prompts)],
                user=f"u{user % USERS}",
            )
            for user in range(first, first + _AT_ONCE)
        )
    )


def _unflipped(row: TenantRow) -> str | None:
    return None if row.flipped == row.placed else f"flipped {row.flipped}/{row.placed}"


def _uncounted(row: TenantRow) -> str | None:
    keys = row.candidate.keys if row.candidate is not None else 0
    return None if keys >= FEWEST_KEYS else f"routers have seen {keys} of {FEWEST_KEYS} users"


def _by(answers: Sequence[Answer], release: str) -> int:
    return sum(answer.by == release for answer in answers)


def _met(answers: Sequence[Answer], release: str) -> int:
    return len({answer.user for answer in answers if answer.by == release})
