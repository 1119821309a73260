"""Commands on feedback: what callers say of the answers that they got."""

from collections.abc import AsyncIterator
from pathlib import Path

import click

from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.files import checked, rows_of
from loradeck.cli.shared.naming import moment
from loradeck.cli.shared.options import yes_option
from loradeck.cli.shared.output import cut, utc
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.rules.data.feedback import flaw_of
from loradeck.schemas.feedback import (
    BATCH,
    Feedback,
    FeedbackErase,
    FeedbackErased,
    FeedbackRow,
    FeedbackRows,
    FeedbackTaken,
)
from loradeck.schemas.ids import short

WIDTH = 60
"""Characters of a text that a list shows."""

feedback = Noun("feedback")


@feedback.command("ls")
@click.argument("tenant")
@click.option("--waiting", is_flag=True, help="What nothing vouches for yet, instead of what counts.")
@click.option("--since", metavar="TIME", help="Only what was given since: 14:05Z, '2d ago'.")
@hub_command
async def ls(s: Session, tenant: str, waiting: bool, since: str | None) -> None:
    """List a tenant's feedback, oldest first. Each reading is recorded in the audit trail."""
    since_ms = moment(since, interactive=s.interactive) if since is not None else 0
    s.out.listed(
        [row async for row in feedback_of(s, tenant, waiting=waiting) if row.at_ms >= since_ms],
        ("GIVEN", "REQUEST", "ROUTE", "KIND", "SAYS", "RELEASE", "CHECKS", "CONSENT"),
        lambda f: (
            utc(f.at_ms),
            f.request,
            f.route,
            f.kind.value,
            cut(f.value or f.text, WIDTH),
            short(f.release) if f.release else "-",
            {True: "bad", False: "passed", None: "-"}[f.bad],
            f.consent or "-",
        ),
        empty="no feedback waits" if waiting else "no feedback",
    )


@feedback.command("import")
@click.argument("tenant")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--route", default="", help="The route, for rows that name none.")
@writes
async def import_(s: Session, tenant: str, file: Path, route: str) -> None:
    """Import feedback: one JSON object a line, with `request`, `kind` (thumb, correction, label, outcome), `value` or
    `text`, and perhaps `route`, `consent` and `at_ms`.

    A row whose request the answer ledger does not have waits for a day, and is then dropped. Exit 1 where rows are
    refused; the others are kept, and importing the file again changes nothing.
    """
    rows = _rows(file, route)
    total = FeedbackTaken()
    for at in range(0, len(rows), BATCH):
        taken = await s.api.give_feedback(tenant, FeedbackRows(rows=tuple(rows[at : at + BATCH])))
        total = FeedbackTaken(
            kept=total.kept + taken.kept, waiting=total.waiting + taken.waiting, refused=total.refused + taken.refused
        )
        if len(rows) > BATCH:
            s.out.say(f"{min(at + BATCH, len(rows)):,} of {len(rows):,} rows")
    s.out.answer(total, f"{total.kept} rows are kept, {total.waiting} of them wait for the answer ledger")
    if total.refused:
        named = "; ".join(f"{request}: {why}" for request, why in total.refused[:5])
        more = f"; and {len(total.refused) - 5} more" if len(total.refused) > 5 else ""
        raise refused(f"{len(total.refused)} rows are refused", code="feedback_refused", where=f"{named}{more}")


@feedback.command()
@click.argument("tenant")
@click.option("--request", "request_", metavar="ID", help="The x-request-id of the answer.")
@click.option("--containing", metavar="TEXT", help="All whose words contain this, in whichever case.")
@yes_option
@writes
async def erase(s: Session, tenant: str, request_: str | None, containing: str | None, yes: bool) -> None:
    """Remove feedback of a tenant for good: on one request, or whose words contain a text."""
    if (request_ is None) == (containing is None):
        raise misused("which feedback?", fix="give --request ID or --containing TEXT")
    s.confirm(f"Remove feedback of {tenant} for good?", yes=yes)
    gone: FeedbackErased = await s.api.erase_feedback(tenant, FeedbackErase(request=request_, containing=containing))
    s.out.answer(gone, f"{gone.removed} rows are removed")


async def feedback_of(s: Session, tenant: str, *, waiting: bool = False) -> AsyncIterator[Feedback]:
    """Yields a tenant's feedback, oldest first. `waiting`: what nothing vouches for yet, instead of what counts."""
    after: int | None = 0
    while after is not None:
        page = await s.api.feedback(tenant, after=after, waiting=waiting, limit=500)
        after = page.after
        for row in page.rows:
            yield row


def _rows(file: Path, route: str) -> list[FeedbackRow]:
    found, given = list[FeedbackRow](), {"route": route, "at_ms": int(file.stat().st_mtime * 1000)}
    for number, row in enumerate(rows_of(file, ("request", "kind")), start=1):
        where = f"{file}, row {number}"
        found.append(checked(FeedbackRow, given | row, where=where, fix="nothing was imported"))
        if (flaw := flaw_of(found[-1])) is not None:
            raise misused(flaw, where=where, fix="nothing was imported")
    return found
