"""Gate results on record."""

from __future__ import annotations

import click

from loradeck.cli.noun import Noun
from loradeck.cli.output import utc
from loradeck.cli.session import Session, hub_command
from loradeck.schemas.attestation import AttestationKind, GateResult
from loradeck.schemas.ids import short


@click.group(cls=Noun)
def gate() -> None:
    """List gate results."""


@gate.command("ls")
@click.argument("tenant", required=False)
@click.option("--route", help="Only of this route.")
@hub_command
async def ls(s: Session, tenant: str | None, route: str | None) -> None:
    """List gate results, oldest first: a candidate against what was live when it was judged."""
    found = await s.api.attestations(kind=AttestationKind.GATE, tenant=tenant, route=route)
    s.out.json(found)
    names = {view.id: f"{view.label}/{view.base_label}" for view in await s.api.releases()}
    results = [(one, GateResult.model_validate(one.body)) for one in found]
    s.out.table(
        ("TIME", "POINTER", "CANDIDATE", "AGAINST", "RESULT", "CHECKS"),
        [
            (
                utc(one.at_ms),
                f"{one.tenant}/{one.route}",
                names.get(result.release, short(result.release)),
                names.get(result.against or "", short(result.against)),
                "passed" if result.passed else "FAILED",
                ", ".join(
                    f"{check.name} {check.value:.1%} {'ok' if check.passed else 'FAILED'} "
                    f"({'at most' if check.name == 'drop' else 'at least'} {check.threshold:.1%}, n {check.n})"
                    for check in result.checks
                ),
            )
            for one, result in results
        ],
        empty="no gate results; loradeck job evaluate TENANT RELEASE --suite SUITE",
    )
