"""Datasets: rows to train on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from loradeck.cli.exits import misused
from loradeck.cli.files import checked, entry_of, rows_of
from loradeck.cli.noun import Noun
from loradeck.cli.provenance import provenance_of, provenance_options
from loradeck.cli.session import Session, hub_command, writes
from loradeck.client.blobs import upload
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import DatasetManifest


@click.group(cls=Noun)
def dataset() -> None:
    """Register and list datasets."""


@dataset.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tenant", required=True, help="Whose it is.")
@click.option("--name", required=True, help="What it is called; the same name may have many digests.")
@provenance_options
@writes
async def add(s: Session, /, file: Path, tenant: str, name: str, sidecar: Path | None, **given: Any) -> None:
    """Register rows {"prompt", "answer"}, one JSON object a line."""
    manifest = await asyncio.to_thread(_described, file, tenant, name, sidecar, given)
    await upload(s.api, file)
    registered = await s.api.register_dataset(manifest)
    s.out.json(registered)
    s.out.say(f"dataset {tenant}/{name} {short(registered.digest)}: {manifest.rows:,} rows")


@dataset.command("ls")
@click.option("--tenant", help="Only this tenant's.")
@hub_command
async def ls(s: Session, tenant: str | None) -> None:
    """List datasets."""
    entries = [e for e in await s.api.datasets() if tenant in (None, e.manifest.tenant)]
    s.out.json(entries)
    s.out.table(
        ("DATASET", "DIGEST", "ROWS", "ORIGIN", "CONSENT", "LICENCE", "PURPOSE"),
        [
            (
                f"{e.manifest.tenant}/{e.manifest.name}",
                e.digest[:12],
                e.manifest.rows,
                e.manifest.provenance.origin.value,
                e.manifest.provenance.consent,
                e.manifest.provenance.licence_class,
                " ".join(e.manifest.provenance.purpose),
            )
            for e in entries
        ],
        empty="no datasets; loradeck dataset add FILE.jsonl",
    )


def _described(file: Path, tenant: str, name: str, sidecar: Path | None, given: dict[str, Any]) -> DatasetManifest:
    """Reads every row before anything is sent. Raises: CliError."""
    provenance = provenance_of(file, sidecar, given)
    rows = sum(1 for _ in rows_of(file, ("prompt", "answer")))
    if rows == 0:
        raise misused("the file has no rows", where=str(file), fix="one JSON object a line")
    fields = {"tenant": tenant, "name": name, "rows": rows, "files": [entry_of(file)], "provenance": provenance}
    return checked(DatasetManifest, fields, where=str(file))
