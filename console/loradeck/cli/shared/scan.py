"""The hub's scans of rows and items, and registering them in spite of findings."""

from __future__ import annotations

import click

from loradeck.cli.shared.session import Session
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.dataset_ledger import ScanReport
from loradeck.schemas.ids import Digest

accept_option = click.option(
    "--accept-findings", "accept", default="", metavar="WHY", help="Register them in spite of findings; WHY is kept."
)


async def print_scan(s: Session, digest: Digest) -> None:
    """Prints the scans of a dataset or suite: findings, and the kinds that were and were not looked for."""
    for found in await s.api.attestations(kind=AttestationKind.SCAN, subject=digest):
        scan = ScanReport.model_validate(found.body)
        what = "; ".join(f"{f.kind} in {f.rows} rows" for f in scan.findings) or "nothing"
        s.out.say(f" found: {what}; {scan.duplicates} rows stand in it twice")
        s.out.say(f" looked for {', '.join(scan.looked_for)}; secrets: {scan.secrets}")
        s.out.say(f" not looked for: {', '.join(scan.not_looked_for)}")
