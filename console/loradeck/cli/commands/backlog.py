"""Commands on the backlog: which answers are to be labelled, tasks for Label Studio, and datasets of the labels."""

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from loradeck.cli.shared.backlog_sources import (
    CONTAMINATED,
    Aside,
    gathered,
    held_out,
    recorded_in,
    said_of,
    samples_of,
    withdrawn_of,
)
from loradeck.cli.shared.exits import refused
from loradeck.cli.shared.files import checked, json_of, write_new
from loradeck.cli.shared.options import together
from loradeck.cli.shared.output import cut, utc
from loradeck.cli.shared.registered_rows import accept_option, labelled_options, provenance_of, register
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.rules.data import uses
from loradeck.rules.data.backlog import WITHDRAWN, labelled, summary
from loradeck.schemas.backlog import LABELLING, SOURCE, Backlog, LabelledTasks
from loradeck.schemas.dataset_ledger import Use
from loradeck.schemas.manifest import Origin

WIDTH = 60
"""Characters of a question that a list shows."""

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
    terms = uses.terms(await s.api.tenant(tenant), Use.LABELLING)
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
        row = labelled(
            *(task, tenant, said.get(key, ()), samples.get(key), state.keeps),
            consents=consents,
            sample_basis=sample_basis,
            recorded=key[1] in recorded,
            now_ms=now_ms,
        )
        if key in withdrawn and not isinstance(row, str):
            row = WITHDRAWN
        if isinstance(row, str) or at in held:
            aside[row if isinstance(row, str) else CONTAMINATED].append(task.data.request)
        elif rows.setdefault(task.data.request, row) is not row:
            aside["twice: another task has the same request"].append(task.data.request)
    out = summary(aside)
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
                *(utc(row.at_ms), row.request, row.route, row.chosen.value if row.chosen else "-"),
                *(row.wrong, row.right, cut(row.question, WIDTH), cut(row.proposed, WIDTH) or "-"),
            )
            for row in found.rows
        ],
        empty="no answer is to be labelled",
    )
    for one in found.left_out:
        s.out.say(f" left out: {one.words}")
