"""Adapter versions: import a trained adapter, list, show."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from loradeck.cli.base import named_bases
from loradeck.cli.exits import misused, refused
from loradeck.cli.files import checked, entries_of, json_of, upload_all
from loradeck.cli.naming import one_named
from loradeck.cli.output import utc
from loradeck.cli.session import Session, hub_command, writes
from loradeck.schemas.ids import digest_of, short
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, DecisionRecord

_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What peft writes and an engine reads; anything else in the folder is left out."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@click.group()
def adapter() -> None:
    """Import, list and show adapter versions."""


@adapter.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--tenant", required=True)
@click.option("--name", required=True)
@click.option("--base", required=True, metavar="BASE", help="Label, digest or model id of the base it was trained on.")
@click.option("--why", required=True, help="Why this behaviour is in weights and not in a prompt.")
@click.option("--dataset", "datasets", multiple=True, metavar="DIGEST", help="Full digest; may be repeated.")
@writes
async def import_(
    s: Session, folder: Path, tenant: str, name: str, base: str, why: str, datasets: tuple[str, ...]
) -> None:
    """Register a peft LoRA adapter from a folder, as the tenant's next version."""
    described = await asyncio.to_thread(_described, folder)
    chosen = one_named("base", base, await named_bases(s.api))
    fields = {
        **described,
        "tenant": tenant,
        "name": name,
        "base": chosen.digest,
        "datasets": datasets,
        "decision": DecisionRecord(why_weights=why),
    }
    manifest = checked(AdapterManifest, fields, where=str(folder))
    await upload_all(s.api, folder, manifest.files)
    version = await s.api.register_adapter(manifest)
    s.out.json(version)
    s.out.say(
        f"{tenant}/{name} v{version.version} {short(version.digest)} on {chosen.value.label}: "
        f"release {short(version.release)}"
    )


@adapter.command("ls")
@click.argument("tenant")
@click.argument("name")
@hub_command
async def ls(s: Session, tenant: str, name: str) -> None:
    """List the versions of an adapter."""
    versions = await s.api.adapter_versions(tenant, name)
    s.out.json(versions)
    s.out.table(
        ("VERSION", "ADAPTER", "RELEASE", "BASE", "RANK", "DATASETS", "CREATED", "BY"),
        [
            (
                f"v{v.version}",
                v.digest[:12],
                v.release[:12],
                short(v.manifest.base),
                v.manifest.rank,
                len(v.manifest.datasets),
                utc(v.created_ms),
                v.created_by,
            )
            for v in versions
        ],
        empty=f"{tenant} has no adapter {name}",
    )


@adapter.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("version")
@hub_command
async def show(s: Session, tenant: str, name: str, version: str) -> None:
    """Show one version (v7, 7, or the beginning of its digest)."""
    found = _version(await s.api.adapter_versions(tenant, name), version)
    s.out.json(found)
    manifest = found.manifest
    s.out.heading(f"{tenant}/{name} v{found.version}  {found.digest}")
    for label, value in (
        ("release", found.release),
        ("base", manifest.base),
        ("rank, alpha", f"{manifest.rank}, {manifest.alpha}"),
        ("modules", " ".join(manifest.target_modules)),
        ("datasets", " ".join(manifest.datasets) or "-"),
        ("parent", manifest.parent or "-"),
        ("why weights", manifest.decision.why_weights),
        ("alternatives", manifest.decision.alternatives or "-"),
        ("cost", manifest.decision.cost or "-"),
        ("created", f"{utc(found.created_ms)} by {found.created_by}"),
    ):
        s.out.say(f"{label:13} {value}")
    s.out.table(("FILE", "BYTES", "SHA-256"), [(f.path, f.size, f.sha256) for f in manifest.files], empty="no files")


def _version(versions: list[AdapterVersion], text: str) -> AdapterVersion:
    number = text.removeprefix("v")
    found = [v for v in versions if str(v.version) == number or (len(text) >= 4 and v.digest.startswith(text))]
    if len(found) != 1:
        raise refused(
            f"{len(found)} versions are called {text!r}", fix="loradeck adapter ls", code="unknown_adapter_version"
        )
    return found[0]


def _described(folder: Path) -> dict[str, Any]:
    """What an adapter's folder says of it. The base is never taken from there.

    Raises:
        CliError: pickled weights, a missing file, or a kind of adapter that is not supported.
    """
    entries = {entry.path: entry for entry in entries_of(folder)}
    pickled = sorted(path for path in entries if path.lower().endswith(_PICKLES))
    if pickled:
        raise misused(
            "the folder holds pickled weights, which run code when they are read",
            where=str(folder / pickled[0]),
            fix="save the adapter as safetensors and leave the pickle out",
            code="pickle",
        )
    missing = [name for name in _FILES if name not in entries]
    if missing:
        raise misused(f"{missing[0]} is missing", where=str(folder), fix="name the folder that peft saved")
    config = json_of(folder / _FILES[0])
    where = str(folder / _FILES[0])
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise misused("this is no LoRA adapter", where=where, fix="only LoRA adapters are served")
    for setting in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(setting):
            raise misused(f"{setting} is not supported", where=where, fix="train the adapter without it")
    modules = config.get("target_modules")
    if not isinstance(modules, list) or not modules:
        raise misused("target_modules is no list", where=where, fix="list the modules by name")
    # What identifies the recipe is everything the trainer chose, without the paths of the machine it ran on.
    recipe = {key: value for key, value in config.items() if key not in ("base_model_name_or_path", "revision")}
    return {
        "files": [entries[name] for name in _FILES],
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "target_modules": sorted(modules),
        "config_hash": digest_of(recipe),
    }
