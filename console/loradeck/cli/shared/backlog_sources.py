"""Gathers a tenant's backlog: feedback and samples from the hub, and questions from the customer's own records.

Every reading of feedback and of samples stands in the hub's audit trail, and takes the role releaser at the tenant.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

from loradeck.artifacts.rows.contamination import folded_words, found_in
from loradeck.cli.shared.files import checked, rows_of
from loradeck.cli.shared.registered_rows import almost_same, built_rows, suite_questions
from loradeck.cli.shared.session import Session
from loradeck.rules.data import backlog as rules
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.backlog import SOURCE, Backlog, BacklogRow, Recorded
from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.feedback import Feedback, Withdrawn
from loradeck.schemas.sample import SAMPLES, Sample

MOST = 5_000
"""Most questions that are compared with each other: those with a proposed answer first, then the newest."""

CONTAMINATED = "contaminated: it holds an item of the tenant's suites"

Request = tuple[str, str]
"""A route, and the id of a request on it: callers may use an id twice."""


Aside = defaultdict[str, list[str]]
"""What is left out: why -> the request ids."""


async def feedback_of(s: Session, tenant: str, *, waiting: bool = False) -> AsyncIterator[Feedback]:
    """Yields a tenant's feedback, oldest first. `waiting`: what nothing vouches for yet, instead of what counts."""
    after: int | None = 0
    while after is not None:
        page = await s.api.feedback(tenant, after=after, waiting=waiting, limit=500)
        after = page.after
        for row in page.rows:
            yield row


async def said_of(s: Session, tenant: str) -> dict[Request, list[Feedback]]:
    """Returns the feedback that counts, by request."""
    found = defaultdict[Request, list[Feedback]](list)
    async for row in feedback_of(s, tenant):
        found[row.route, row.request].append(row)
    return found


async def withdrawn_of(s: Session, tenant: str) -> set[Request]:
    """Returns the requests of which feedback was erased, ever."""
    found = await s.api.attestations(kind=AttestationKind.WITHDRAWN, tenant=tenant)
    return {key for one in found for key in Withdrawn.model_validate(one.body).requests}


def recorded_in(file: Path | None) -> dict[str, Recorded]:
    """Reads the customer's own records of what was asked. Raises: CliError: with the row that is wrong."""
    rows = enumerate(rows_of(file, ("request", "question")) if file is not None else (), start=1)
    return {row["request"]: checked(Recorded, row, where=f"{file}, row {number}") for number, row in rows}


async def gathered(
    s: Session,
    tenant: str,
    *,
    routes: Sequence[str],
    questions: Path | None,
    consents: Collection[str],
    sample_basis: str,
    most: int,
) -> Backlog:
    """Joins what is said of a tenant's answers with what was asked and answered, and chooses what is labelled first.

    The rows ask different things, and none holds an item of the tenant's suites. What may not be used is left out.

    Args:
        questions: the customer's own records; what they do not have is read from samples.
        consents, sample_basis: as of `rules.data.backlog.standing`.
    """
    recorded, state, aside = recorded_in(questions), await s.api.tenant(tenant), Aside(list)
    policy, routes = state.keeps, routes or sorted(state.routes)
    all_said, samples = await said_of(s, tenant), await samples_of(s, tenant, routes, policy)
    withdrawn, built = await withdrawn_of(s, tenant), await built_rows(s, tenant, SOURCE)
    labelled = {tuple(folded_words(question)) for question in built.values()} - {()}
    rows, now_ms = list[BacklogRow](), int(time.time() * 1000)
    for key in sorted(key for key in all_said.keys() | samples.keys() if key[0] in routes):
        said, own = all_said.get(key, []), recorded.get(key[1])
        sample = rules.same_release(samples.get(key), said)
        if not rules.asks(said, sample.fault if sample is not None else ""):
            continue
        sample_ms = sample.at_ms if sample is not None and (own is None or not said) else None
        at = rules.standing(said, sample_ms, policy, consents=consents, sample_basis=sample_basis, now_ms=now_ms)
        row = at.why_not or (rules.WITHDRAWN if key in withdrawn else _row(tenant, key, at, own, sample, sample_ms))
        if isinstance(row, str):
            aside[row].append(key[1])
        elif row.request in built or tuple(folded_words(f"{row.system} {row.question}")) in labelled:
            aside["labelled already: a dataset that was built of the backlog has it, or asks the same"].append(key[1])
        elif not rules.asks(at.counting, row.fault):
            aside[rules.NO_CONSENT].append(key[1])
        else:
            rows.append(row)
    rows = await _different(s, tenant, rows, aside)
    words = [frozenset(folded_words(row.question)) for row in rows]
    return Backlog(tenant=tenant, rows=tuple(rules.choose(rows, words, most)), left_out=rules.summary(aside))


def _row(
    tenant: str, key: Request, at: rules.Standing, own: Recorded | None, sample: Sample | None, sample_ms: int | None
) -> BacklogRow | str:
    """The row of a request, or why there is none."""
    if own is None:
        if sample is None:
            return "no question: it has no sample, and --questions does not have it"
        asked = rules.conversation(sample)
        if isinstance(asked, str):
            return asked
        own = Recorded.model_construct(request=key[1], system=asked[0], question=asked[1], answered=sample.answer)
    if not own.question.strip():
        return "no question: it is empty"
    fault = sample.fault if sample is not None else ""
    wrong, right = rules.votes(at.counting, fault)
    releases = [one.release for one in at.counting] + [sample.release if sample is not None else None]
    return BacklogRow(
        **{**own.model_dump(), "tenant": tenant, "route": key[0], "consent": at.consent},
        at_ms=at.counting[-1].at_ms if at.counting else sample_ms or 0,
        proposed=rules.proposed(at.counting),
        release=next(filter(None, releases), None),
        fault=fault,
        alone=not at.counting,
        sample_ms=sample_ms,
        kept_until_ms=at.until_ms,
        wrong=wrong,
        right=right,
    )


async def _different(s: Session, tenant: str, rows: Sequence[BacklogRow], aside: Aside) -> list[BacklogRow]:
    """Leaves out rows that ask what another one asks, and rows that hold an item of one of the tenant's suites."""
    apart = rules.once(rows, folded_words)
    apart.sort(key=lambda row: (not row.proposed, -row.at_ms, row.request))
    too_many = f"too many: {MOST:,} questions are compared, those with a proposed answer first, then the newest"
    for row in apart[MOST:]:
        aside[too_many].append(row.request)
    del apart[MOST:]
    questions = [row.question for row in apart]
    held = await held_out(s, tenant, questions)
    alike = await almost_same(s, questions, "questions")
    for at, row in enumerate(apart):
        if at in held:
            aside[CONTAMINATED].append(row.request)
        elif at in alike:
            aside["asked already: another row asks almost the same"].append(row.request)
    return [row for at, row in enumerate(apart) if at not in held | alike]


async def held_out(s: Session, tenant: str, questions: Sequence[str]) -> set[int]:
    """Returns the places, from 0, of questions that hold an item of one of the tenant's suites."""
    items = await suite_questions(s, tenant)
    return {line - 1 for line, *_ in await asyncio.to_thread(list, found_in(questions, items))}


async def samples_of(s: Session, tenant: str, routes: Sequence[str], policy: DataPolicy) -> dict[Request, Sample]:
    """Returns the samples of bad answers that nodes keep now; none where the tenant has none kept."""
    found: dict[Request, Sample] = {}
    for route in routes if policy.sample_hours else ():
        sampled = await s.api.samples(tenant, route, release=None, last=SAMPLES)
        found |= {(route, row.request): row for row in sampled.rows}
        for node in sampled.nodes:
            if node.why:
                s.out.say(f" not all samples of {route}: {node.node}: {node.why}")
    return found
