"""Rows and items to be registered: their provenance, from options or a TOML file beside them, and the hub's scans."""

from pathlib import Path
from typing import Any

import click

from loradeck.cli.shared.files import checked, toml_of
from loradeck.cli.shared.options import together
from loradeck.cli.shared.session import Session
from loradeck.rules.data.policy import toxic_in_words
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.dataset_ledger import ScanReport
from loradeck.schemas.ids import Digest
from loradeck.schemas.manifest import Origin, Provenance, QualityTier, Tier

_given = (
    click.option("--purpose", multiple=True, help="Allowed use; may be repeated."),
    click.option(
        "--retention-days",
        type=int,
        help="Days from registration for which it may be trained on; no limit if left out. Nothing deletes it then.",
    ),
    click.option("--licence", "licence_class", help="SPDX id, or a house class such as customer-owned."),
    click.option("--rater", "rater_ids", multiple=True, help="Pseudonymous id of a person who labelled; repeatable."),
    click.option("--verifier", help="Checker of synthetic rows: a program, a judge, a person."),
    click.option("--synthetic-depth", type=int, help="0: no model wrote them; 1: a model did; ... (docs/data.md)."),
    click.option("--generator-release", help="Release that wrote the synthetic rows."),
    click.option("--quality", type=click.Choice([one.value for one in QualityTier]), help="How well they were made."),
    click.option("--known-biases", metavar="TEXT", help="What they show too much or too little of; the card says it."),
    click.option("--tier", type=click.Choice([tier.value for tier in Tier]), help="How confidential the rows are."),
    click.option(
        "--provenance",
        "sidecar",
        type=click.Path(path_type=Path),
        help="TOML file with these settings; FILE.toml beside the rows by default.",
    ),
)

labelled_options = together(*_given)
"""Adds the options of provenance that say what rows do not say themselves which people have labelled."""

provenance_options = together(
    *_given,
    click.option("--consent", help="Basis of use: contract, consent, public, own."),
    click.option("--source", help="System, export or address the rows came from."),
    click.option("--origin", type=click.Choice([origin.value for origin in Origin]), help="Who wrote the rows."),
)
"""Adds --origin, --consent and the other options of provenance, which override the TOML file."""


def provenance_of(rows: Path, sidecar: Path | None, given: dict[str, Any]) -> Provenance:
    """The provenance of a file of rows, from its TOML file and the options in `given`.

    Raises: CliError: a field is missing or wrong; the message names it.
    """
    beside = rows.with_suffix(".toml")
    source = sidecar or (beside if beside.is_file() else None)
    settings = toml_of(source) if source is not None else {}
    settings.update({key: value for key, value in given.items() if value not in (None, ())})
    return checked(Provenance, settings, where=f"provenance of {rows}" + (f" ({source})" if source else ""))


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
        s.out.say(f" toxic: {toxic_in_words(scan)}")
