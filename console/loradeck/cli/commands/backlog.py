"""Commands on the backlog: which answers are to be labelled, tasks for Label Studio, and datasets of the labels."""

import asyncio
import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click

from loradeck.artifacts.rows.contamination import folded_words, found_in
from loradeck.cli.commands.feedback import WIDTH, feedback_of
from loradeck.cli.shared.exits import refused
from loradeck.cli.shared.files import checked, json_of, rows_of, write_new
from loradeck.cli.shared.options import together
from loradeck.cli.shared.output import cut, utc
from loradeck.cli.shared.registered_rows import (
    accept_option,
    almost_same,
    built_rows,
    labelled_options,
    provenance_of,
    register,
    suite_questions,
)
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.rules.data import backlog as rules
from loradeck.rules.data import policy
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.backlog import LABELLING, SOURCE, Backlog, BacklogRow, LabelledTasks, Recorded
from loradeck.schemas.dataset_ledger import DataPolicy, Use
from loradeck.schemas.feedback import Feedback, Withdrawn
from loradeck.schemas.manifest import Origin
from loradeck.schemas.trace import SAMPLES, Sample

MOST = 5_000
"""Most questions that are compared with each other: those with a proposed answer first, then the newest."""

CONTAMINATED = "contaminated: it holds an item of the tenant's suites"

Request = tuple[str, str]
"""A route, and the id of a request on it: callers may use an id twice."""

Aside = defaultdict[str, list[str]]
"""What is left out: why -> the request ids."""

_allowed = together(
    click.option(
        "--questions",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Your own records: one JSON object a line, with `request`, `question`, and perhaps `system`, `answered`.",
    ),
    click.option(
        "--consent", "consents", multiple=True, metavar="CLASS", help="Callers' consent to training; may be repeated."
    ),
    click.option(
        "--sample-consent",
        "sample_basis",
        default="",
        metavar="BASIS",
        help="Also samples of bad answers of which nobody said anything, on this basis of use.",
    ),
)
_options = together(
    click.option("--route", "routes", multiple=True, help="Only this route; may be repeated."),
    _allowed,
    click.option("--rows", "most", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most rows."),
)

backlog = Noun("backlog")


@backlog.command("ls")
@click.argument("tenant")
@_options
@hub_command
async def ls(s: Session, /, tenant: str, **which: Any) -> None:
    """List the answers that a tenant should have labelled first, why each was chosen, and what is left out and why.

    Each reading of feedback and samples is recorded in the audit trail.
    """
    found = await gathered(s, tenant, **which)
    s.out.json(found)
    _print(s, found)


@backlog.command()
@click.argument("tenant")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_options
@hub_command
async def export(s: Session, /, tenant: str, file: Path, **which: Any) -> None:
    """Write the answers that are to be labelled first into FILE, as tasks for Label Studio (JSON).

    FILE.xml beside it is the labelling configuration of their project. Only you can read the two. The tenant has to
    have stated a purpose (`tenant data --use labelling=PURPOSE`). A caller's correction stands in the answer's field of
    its task, to be accepted or mended.
    """
    found = await gathered(s, tenant, **which)
    if not found.rows:
        where = "; ".join(one.words for one in found.left_out)
        raise refused(
            "no answer is to be labelled", where=where, fix="docs/backlog.md says what counts", code="no_backlog"
        )
    terms = policy.terms_of_use(await s.api.tenant(tenant), Use.LABELLING)
    if not (config := file.with_suffix(".xml")).exists():  # it is the same for every file
        write_new(config, LABELLING)
    write_new(file, json.dumps(found.tasks(), ensure_ascii=False, indent=1) + "\n")
    s.out.json(found)
    _print(s, found)
    s.out.say(f"{len(found.rows)} tasks are in {file}; the labelling configuration is in {config}")
    s.out.say(f"{tenant} allows labelling for {terms.purpose}{f', in {terms.region} alone' if terms.region else ''}")


@backlog.command()
@click.argument("tenant")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="The dataset's name; one name may have many digests.")
@click.option("--leave-out", is_flag=True, help="Build it of the other rows, where some may not be used.")
@_allowed
@accept_option
@labelled_options
@writes
async def build(
    s: Session,
    /,
    tenant: str,
    file: Path,
    name: str,
    leave_out: bool,
    questions: Path | None,
    consents: tuple[str, ...],
    sample_basis: str,
    accept: str,
    sidecar: Path | None,
    **given: Any,
) -> None:
    """Build a version of a dataset of the tasks that people have labelled: FILE as Label Studio exports it (JSON).

    Each row has its own provenance: route, the caller's consent, who labelled it, and the days for which it may still
    be kept. Consent, samples and retention are asked of the hub, and not believed of FILE; so give --questions and what
    is allowed as for the export. Where a row may not be used, nothing is registered without --leave-out.
    """
    tasks = checked(LabelledTasks, {"tasks": json_of(file)}, where=str(file), fix="export it from Label Studio as JSON")
    recorded, state, aside = recorded_in(questions), await s.api.tenant(tenant), Aside(list)
    said, samples = await said_of(s, tenant), await samples_of(s, tenant, sorted(state.routes), state.keeps)
    withdrawn = await withdrawn_of(s, tenant)
    rows, now_ms = dict[str, dict[str, Any]](), int(time.time() * 1000)
    held = await held_out(s, tenant, [task.data.question for task in tasks.tasks])
    for at, task in enumerate(tasks.tasks):
        key = task.data.route, task.data.request
        row = rules.labelled(
            task,
            tenant,
            said.get(key, ()),
            samples.get(key),
            state.keeps,
            consents=consents,
            sample_basis=sample_basis,
            recorded=key[1] in recorded,
            now_ms=now_ms,
        )
        if key in withdrawn and not isinstance(row, str):
            row = rules.WITHDRAWN
        if isinstance(row, str) or at in held:
            aside[row if isinstance(row, str) else CONTAMINATED].append(task.data.request)
        elif rows.setdefault(task.data.request, row) is not row:
            aside["twice: another task has the same request"].append(task.data.request)
    out = rules.summary(aside)
    if not rows or (out and not leave_out):
        where = "; ".join(one.words for one in out)
        fix = "label or remove these tasks, or build it of the other rows (--leave-out)"
        raise refused(
            f"{sum(one.rows for one in out)} rows may not be used", where=where, fix=fix, code="backlog_refused"
        )
    given |= {"origin": Origin.HUMAN, "source": SOURCE}
    given["consent"] = ", ".join(sorted({row["provenance"]["consent"] for row in rows.values()}))
    provenance = provenance_of(file, sidecar, given)
    for row in rows.values():
        row["provenance"]["retention_days"] = min(
            provenance.retention_days or math.inf, row["provenance"]["retention_days"]
        )
    with tempfile.TemporaryDirectory(prefix="loradeck-") as folder:
        made = Path(folder, "backlog.jsonl")
        write_new(made, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()))
        s.out.json(await register(s, made, tenant, name, provenance, accept))
    for one in out:
        s.out.say(f" left out: {one.words}")


def _print(s: Session, found: Backlog) -> None:
    s.out.table(
        ("GIVEN", "REQUEST", "ROUTE", "CHOSEN", "WRONG", "RIGHT", "ASKED", "PROPOSED"),
        [
            (
                utc(row.at_ms),
                row.request,
                row.route,
                row.chosen.value if row.chosen else "-",
                row.wrong,
                row.right,
                cut(row.question, WIDTH),
                cut(row.proposed, WIDTH) or "-",
            )
            for row in found.rows
        ],
        empty="no answer is to be labelled",
    )
    for one in found.left_out:
        s.out.say(f" left out: {one.words}")


# ---- what is labelled first ---------------------------------------------------------------------------------
# Every reading of feedback and of samples stands in the audit trail, and takes the role releaser at the tenant.


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
