"""Commands on the backlog: which answers are to be labelled, and their tasks for Label Studio."""

import json
import time
from pathlib import Path
from typing import Any

import click

from loradeck.artifacts.rows.contamination import folded_words
from loradeck.cli.shared.backlog_sources import gathered, recorded_in
from loradeck.cli.shared.exits import refused
from loradeck.cli.shared.files import write_new
from loradeck.cli.shared.options import together
from loradeck.cli.shared.output import cut, utc
from loradeck.cli.shared.session import Noun, Session, hub_command
from loradeck.rules.data.backlog import choose
from loradeck.schemas.backlog import LABELLING, Backlog

WIDTH = 60
"""Characters of a question that a list shows."""

_options = together(
    click.option("--route", "routes", multiple=True, help="Only this route; may be repeated."),
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
    click.option("--rows", "most", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most rows."),
)


@click.group(cls=Noun)
def backlog() -> None:
    """List and export the answers that are to be labelled."""


@backlog.command("ls")
@click.argument("tenant")
@_options
@hub_command
async def ls(s: Session, /, tenant: str, **which: Any) -> None:
    """List the answers that a tenant should have labelled first, why each was chosen, and what is left out and why.

    Each reading of feedback and samples is recorded in the audit trail.
    """
    found = await _backlog(s, tenant, **which)
    s.out.json(found)
    _print(s, found)


@backlog.command()
@click.argument("tenant")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_options
@hub_command
async def export(s: Session, /, tenant: str, file: Path, **which: Any) -> None:
    """Write the answers that are to be labelled first into FILE, as tasks for Label Studio (JSON).

    FILE.xml beside it is the labelling configuration of their project. Only you can read the two. A caller's correction
    stands in the answer's field of its task, to be accepted or mended.
    """
    found = await _backlog(s, tenant, **which)
    if not found.rows:
        where = "; ".join(f"{one.rows} rows: {one.why}" for one in found.left_out[:5])
        raise refused(
            "no answer is to be labelled", where=where, fix="docs/backlog.md says what counts", code="no_backlog"
        )
    write_new(file, json.dumps(found.tasks(), ensure_ascii=False, indent=1) + "\n")
    write_new(file.with_suffix(".xml"), LABELLING)
    s.out.json(found)
    _print(s, found)
    s.out.say(f"{len(found.rows)} tasks are in {file}; the labelling configuration is in {file.with_suffix('.xml')}")


async def _backlog(
    s: Session,
    tenant: str,
    *,
    routes: tuple[str, ...],
    questions: Path | None,
    consents: tuple[str, ...],
    sample_basis: str,
    most: int,
) -> Backlog:
    recorded, state = recorded_in(questions), await s.api.tenant(tenant)
    rows, aside = await gathered(
        s,
        tenant,
        routes or sorted(state.routes),
        recorded,
        consents=consents,
        sample_basis=sample_basis,
        now_ms=int(time.time() * 1000),
    )
    chosen = choose(rows, [frozenset(folded_words(row.question)) for row in rows], most)
    return Backlog(tenant=tenant, rows=tuple(chosen), left_out=aside.summary())


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
        more = f" and {one.rows - len(one.requests)} more" if one.rows > len(one.requests) else ""
        s.out.say(f" left out: {one.rows} rows, {one.why} ({', '.join(one.requests)}{more})")
