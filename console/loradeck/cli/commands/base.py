"""Commands on bases: models whose files stay on the nodes, while the hub gets only their manifests."""

import asyncio
from pathlib import Path

import click

from loradeck.artifacts import base_manifest
from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.files import checked, json_of
from loradeck.cli.shared.naming import base_named
from loradeck.cli.shared.options import reason_option
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import BaseManifest

base = Noun("base")


@base.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model-id", help="Such as org/model; from DIR.manifest.json by default.")
@click.option("--revision", help="Revision of the model; from DIR.manifest.json by default.")
@click.option("--tenant", help="Only for this tenant. Without: for all, unless a tenant's job made it.")
@writes
async def add(s: Session, folder: Path, model_id: str | None, revision: str | None, tenant: str | None) -> None:
    """Register a base model by the digest of its files. They are read here and not sent."""
    manifest = await asyncio.to_thread(_described, folder, model_id, revision)
    registered = await s.api.register_base(manifest, tenant)
    s.out.json(registered)
    size = sum(entry.size for entry in manifest.files)
    s.out.say(
        f"base {registered.label} {short(registered.digest)}: {manifest.model_id} {manifest.revision}, "
        f"{len(manifest.files)} files, {size / 1e6:,.0f} MB"
    )


@base.command("ls")
@hub_command
async def ls(s: Session) -> None:
    """List bases."""
    s.out.listed(
        await s.api.bases(),
        ("BASE", "DIGEST", "MODEL", "REVISION", "MB", "FOR"),
        lambda b: (
            b.label,
            b.digest[:12],
            b.manifest.model_id,
            b.manifest.revision,
            f"{sum(f.size for f in b.manifest.files) / 1e6:,.0f}",
            ", ".join(b.tenants) or "all tenants",
        ),
        empty="no bases; loradeck base add DIR",
    )


@base.command()
@click.argument("name", metavar="BASE")
@reason_option(required=True)
@writes
async def share(s: Session, name: str, reason: str) -> None:
    """Let all tenants use a base that a tenant's job made, where its rows allow `improve-shared`. It is not undone."""
    found = await base_named(s.api, name)
    made = next(iter(found.made), None)
    if made is None:
        raise misused(f"no job has made {name}", where=found.digest, fix="loradeck base ls says for whom each base is")
    kind, body = AttestationKind.SHARED, {"reason": reason}
    done = await s.api.attest(Attestation(kind=kind, subject=found.digest, tenant=made.tenant, body=body, by=""))
    s.out.answer(done, f"base {name} is for all tenants")


def _described(folder: Path, model_id: str | None, revision: str | None) -> BaseManifest:
    """Hashes the files that make up the base and builds its manifest.

    Raises:
        CliError: the model is not named, or the files differ from the manifest beside them.
        BadArtifact: the folder holds no base.
    """
    beside = folder.with_name(folder.name + ".manifest.json")
    known = checked(BaseManifest, json_of(beside), where=str(beside)) if beside.is_file() else None
    model_id = model_id or (known.model_id if known else None)
    revision = revision or (known.revision if known else None)
    if model_id is None or revision is None:
        raise misused("which model is it?", where=str(folder), fix="give --model-id and --revision")
    manifest = base_manifest(folder, model_id, revision)
    if known is not None and known.digest != manifest.digest:
        raise misused(
            "the files differ from the manifest beside them",
            where=f"{beside}: {short(known.digest)}, files: {short(manifest.digest)}",
            fix="restore the files, or remove the manifest if they were changed on purpose",
        )
    return manifest
