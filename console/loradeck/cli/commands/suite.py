"""Commands on suites: register and list held-out items to score releases on."""

import asyncio
from pathlib import Path
from typing import Any

import click

from loradeck.artifacts.rows.suite_items import harness_in, items_in, verify_suite
from loradeck.cli.shared.files import checked, entry_of, json_of, text_of
from loradeck.cli.shared.registered_rows import accept_option, print_scan, provenance_of, provenance_options
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.blobs import upload
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import SuiteManifest, SuiteUse

suite = Noun("suite")


@suite.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tenant", required=True, help="Tenant that owns it.")
@click.option("--name", required=True, help="Its name; one name may have many digests.")
@click.option("--answer-schema", type=click.Path(path_type=Path), help="JSON Schema that an answer must satisfy.")
@click.option(
    "--for",
    "use",
    type=click.Choice([use.value for use in SuiteUse]),
    default=SuiteUse.GATE.value,
    show_default=True,
    help="To judge candidates, or to choose among checkpoints before a gate sees one; no gate names one for selection.",
)
@click.option("--canary", "canaries", multiple=True, metavar="ID", help="Item whose tokens fingerprint a release.")
@accept_option
@provenance_options
@writes
async def add(
    s: Session,
    /,
    file: Path,
    tenant: str,
    name: str,
    accept: str,
    answer_schema: Path | None,
    canaries: tuple[str, ...],
    use: str,
    sidecar: Path | None,
    **given: Any,
) -> None:
    """Register items, one JSON object a line: {"id", "prompt", "answer"}, or with the "kind" json, tool_call, refusal
    or choice and its fields (docs/gates.md). An item with a missing field is refused with its line. Or one
    row that names a task of lm-eval or inspect-ai: {"harness", "task", "metric", "items"}.

    The hub looks in every item for personal data and secrets of a known form.
    """
    named = {"tenant": tenant, "name": name, "canaries": canaries, "use": use}
    manifest = await asyncio.to_thread(_manifest, file, answer_schema, sidecar, given, named)
    await upload(s.api, file, rows=True)
    registered = await s.api.register_suite(manifest, accept=accept)
    s.out.answer(registered, f"suite {tenant}/{name} {short(registered.digest)}: {manifest.items:,} items")
    await print_scan(s, registered.digest)


@suite.command("ls")
@click.option("--tenant", help="Only this tenant's.")
@hub_command
async def ls(s: Session, tenant: str | None) -> None:
    """List suites."""
    s.out.listed(
        [e for e in await s.api.suites() if tenant in (None, e.manifest.tenant)],
        ("SUITE", "DIGEST", "FOR", "ITEMS", "CANARIES", "ANSWER SCHEMA"),
        lambda e: (
            f"{e.manifest.tenant}/{e.manifest.name}",
            e.digest[:12],
            e.manifest.use.value,
            e.manifest.items,
            len(e.manifest.canaries),
            "yes" if e.manifest.answer_schema else "no",
        ),
        empty="no suites; loradeck suite add FILE.jsonl",
    )


def _manifest(
    file: Path, answer_schema: Path | None, sidecar: Path | None, given: dict[str, Any], named: dict[str, Any]
) -> SuiteManifest:
    """Reads every item before anything is sent, and builds the suite's manifest.

    Raises:
        CliError: the provenance is incomplete.
        BadArtifact: an item is wrong, with its line.
    """
    provenance = provenance_of(file, sidecar, given)
    schema = None
    if answer_schema is not None:
        json_of(answer_schema)
        schema = text_of(answer_schema)
    paths = {file.name: file}
    items = task.items if (task := harness_in(paths)) is not None else len(items_in(paths))
    fields = {"items": items, "files": [entry_of(file)], "provenance": provenance}
    manifest = checked(SuiteManifest, {**named, **fields, "answer_schema": schema}, where=str(file))
    verify_suite(manifest, {file.name: file})
    return manifest
