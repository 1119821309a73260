"""The command `loradeck loop`: where each tenant stands between a signal and new weights."""

import click

from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Session, hub_command
from loradeck.client import loop_words as words
from loradeck.schemas.freshness import LoopRow


@click.command()
@click.argument("tenant", required=False)
@hub_command
async def loop(s: Session, tenant: str | None) -> None:
    """Show where each tenant stands between a signal and new weights, and what is next.

    TENANT alone is looked at now. WRONG are answers that feedback or a check calls wrong, since the newest
    dataset of the backlog was built. With many tenants the rows are some minutes old.
    """
    s.out.listed(
        await s.api.loop(tenant),
        ("ROUTE", "LIVE", "AS OF", "SIGNALS", "ADVICE", "WRONG", "LABELLED", "STEP", "GATE", "CANDIDATE", "NEXT"),
        _cells,
        empty="nothing is live",
    )


def _cells(row: LoopRow) -> tuple[object, ...]:
    frozen = f"; {row.frozen}" if row.frozen else ""
    return (
        f"{row.tenant}/{row.route}",
        row.label,
        utc(row.at_ms),
        words.signals(row),
        row.remedy.value,
        row.wrong,
        words.labelled(row),
        words.step(row),
        words.gate(row),
        words.candidate(row),
        f"{words.next_step(row)}{frozen}",
    )
