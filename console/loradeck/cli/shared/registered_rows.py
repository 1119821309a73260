"""Makes rows a dataset: their provenance, checks here, comparison with the suites, registration, the hub's scans."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from loradeck.artifacts.rows import near_duplicates
from loradeck.artifacts.rows.contamination import found_in
from loradeck.artifacts.rows.suite_items import items_in
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.files import Needed, checked, entry_of, rows_of, toml_of
from loradeck.cli.shared.options import together
from loradeck.cli.shared.session import Session
from loradeck.client.blobs import download, has_blob, upload
from loradeck.rules.data.policy import toxic_in_words
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.dataset_ledger import ScanReport
from loradeck.schemas.ids import Digest, short
from loradeck.schemas.manifest import DatasetManifest, Origin, Provenance, QualityTier, SuiteManifest, Tier
from loradeck.schemas.preference import PreferenceBuild, PreferenceDataset
from loradeck.schemas.responses import Registered

M = TypeVar("M", DatasetManifest, SuiteManifest)


async def register(
    s: Session,
    rows: Path,
    tenant: str,
    name: str,
    provenance: Provenance,
    accept: str,
    *,
    needed: Needed | None = None,
    build: PreferenceBuild | None = None,
) -> Registered:
    """Checks a file of rows of ours, sends it, registers it as a dataset and prints the scan.

    Args:
        accept: why rows may stay that hold items of suites, or that the hub's scan finds; empty: they are refused.
        needed: fields that a row needs; None: those of a row that is trained on.
        build: how the rows were made of judgements; None: they were not.

    Raises: CliError: a row is wrong, or `contaminated`. ApiError: the hub refuses it.
    """
    manifest = await asyncio.to_thread(
        _described, rows, tenant, name, provenance, _needed if needed is None else needed
    )
    await _alike(s, rows, tenant, accept)
    await upload(s.api, rows, rows=True)
    if build is None:
        registered = await s.api.register_dataset(manifest, accept=accept)
    else:
        registered = await s.api.register_preferences(PreferenceDataset(manifest=manifest, build=build), accept=accept)
    s.out.say(f"dataset {tenant}/{name} {short(registered.digest)}: {manifest.rows:,} rows")
    await print_scan(s, registered.digest)
    return registered


async def suite_questions(s: Session, tenant: str) -> dict[str, str]:
    """Returns the questions of a tenant's suites: the suite's name and the item's id -> question."""
    items: dict[str, str] = {}
    async for manifest, path in _files([e.manifest for e in await s.api.suites() if e.manifest.tenant == tenant], s):
        for item in items_in({manifest.name: path}):
            said = "\n".join(message["content"] for message in item.prompt if message["role"] == "user")
            items[f"{manifest.name} {item.id}"] = said
    return items


async def almost_same(s: Session, texts: Sequence[str], what: str) -> set[int]:
    """Returns the places, from 0, of texts that are almost the same as one before them.

    Where the library that finds them is not installed, it prints that `what` was not looked through, and returns none.
    """
    if not near_duplicates.available():
        s.out.say(f" {what} that are almost the same were not looked for: pip install 'loradeck[data]'")
        return set()
    return set(await asyncio.to_thread(near_duplicates.doubles, texts))


async def built_rows(s: Session, tenant: str, source: str) -> dict[str, str]:
    """The questions of a tenant's rows of a source, by their ids, without rows whose files are gone."""
    datasets = [e.manifest for e in await s.api.datasets() if e.manifest.tenant == tenant]
    found = dict[str, str]()
    async for _, path in _files([one for one in datasets if one.provenance.source == source], s):
        found |= {str(row["id"]): _question(row) for row in rows_of(path, ("id",))}
    return found


async def _files(manifests: Sequence[M], s: Session) -> AsyncIterator[tuple[M, Path]]:
    """Yields every file of datasets or suites that the hub still has, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="loradeck-") as folder:
        for manifest in manifests:
            for entry in manifest.files:
                path = Path(folder, entry.sha256)
                if await has_blob(s.api, entry.sha256):
                    await download(s.api, entry.sha256, path)
                    yield manifest, path


async def _alike(s: Session, file: Path, tenant: str, accept: str) -> None:
    """Looks for rows that hold an item of one of the tenant's suites, and for near-duplicate rows.

    Raises: CliError: `contaminated`, unless that was accepted.
    """
    items = await suite_questions(s, tenant)
    questions = [_question(row) for row in rows_of(file, ())]
    if doubles := await almost_same(s, list(filter(None, questions)), "rows"):
        s.out.say(f" {len(doubles)} rows are almost the same as one before them")
    found = await asyncio.to_thread(lambda: list(found_in(questions, items)))
    if found:
        places = ", ".join(f"line {line}: {item} ({how})" for line, item, how in found[:5])
        if not accept:
            raise refused(
                f"{len({line for line, *_ in found})} rows hold items of the tenant's suites",
                where=places,
                fix="take them out, or give the reason why they may stay (--accept-findings WHY)",
                code="contaminated",
            )
        s.out.alarm(f" {len({line for line, *_ in found})} rows hold items of the tenant's suites: {places}")


def _needed(row: dict[str, Any]) -> Sequence[str]:
    """Fields that a row needs: a conversation, a pair of answers to compare, or a prompt with its answer."""
    if "messages" in row:
        return ("messages",)
    return ("prompt", "chosen", "rejected") if "chosen" in row else ("prompt", "answer")


def _question(row: dict[str, Any]) -> str:
    """The question of a row: its prompt, or its conversation up to the answer."""
    if "messages" in row and isinstance(row["messages"], list):
        return " ".join(str(turn.get("content")) for turn in row["messages"][:-1] if isinstance(turn, dict))
    return str(row.get("prompt", ""))


def _described(file: Path, tenant: str, name: str, provenance: Provenance, needed: Needed) -> DatasetManifest:
    """Reads every row before anything is sent; builds the manifest. Raises: CliError: a row is wrong, with its line."""
    rows = sum(1 for _ in rows_of(file, needed))
    if rows == 0:
        raise misused("the file has no rows", where=str(file), fix="one JSON object a line")
    fields = {"tenant": tenant, "name": name, "rows": rows, "files": [entry_of(file)], "provenance": provenance}
    return checked(DatasetManifest, fields, where=str(file))


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
