"""Commands on adapter versions: import, list, show, compare, sign, verify, deprecate."""

import asyncio
import functools
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from loradeck.artifacts import signing, verify_adapter
from loradeck.artifacts.adapters import ALLOWED, MANIFEST, PICKLES, WEIGHTS, modules_of
from loradeck.artifacts.hash_checks import plain_files
from loradeck.artifacts.lora_config import CONFIG, read_config, read_lora
from loradeck.artifacts.tensors import read_header
from loradeck.cli.shared import deprecating
from loradeck.cli.shared import model_card as cards
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.files import checked, entry_of, json_of, upload_all
from loradeck.cli.shared.naming import base_named
from loradeck.cli.shared.options import expected_errors, json_option, reason_option, wants_json
from loradeck.cli.shared.output import Output, utc
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.blobs import download
from loradeck.client.lineage import ancestors
from loradeck.schemas.attestation import Attestation, AttestationKind, Signature
from loradeck.schemas.ids import digest_of, short
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion

"""The manifest that the train executor leaves beside an adapter's files."""


def _on_version(body: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Gives a command the adapter version that its arguments TENANT NAME VERSION name."""

    @functools.wraps(body)
    async def named(s: Session, /, *args: Any, tenant: str, name: str, version: str, **options: Any) -> None:
        await body(s, _version(await s.api.adapter_versions(tenant, name), version), *args, **options)

    for argument in ("version", "name", "tenant"):
        named = click.argument(argument)(named)
    return named


adapter = Noun("adapter")


@adapter.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--tenant", required=True, help="Tenant that owns it.")
@click.option("--name", required=True, help="Name of the adapter; its versions are numbered.")
@click.option("--base", metavar="BASE", help="Label, digest or model id of the base it was trained on.")
@click.option("--why", help="Why this behaviour is in weights and not in a prompt.")
@click.option("--limitations", default="", help="With --why: what it is known not to do well.")
@click.option("--dataset", "datasets", multiple=True, metavar="DIGEST", help="Full digest; may be repeated.")
@writes
async def import_(
    s: Session,
    folder: Path,
    tenant: str,
    name: str,
    base: str | None,
    why: str | None,
    limitations: str,
    datasets: tuple[str, ...],
) -> None:
    """Register a peft LoRA adapter from a folder, as the tenant's next version.

    A manifest.json in the folder, as the train executor leaves it, gives base, datasets and why; without it, --base and
    --why are needed. rsLoRA, ranks and alphas for each module, expressions for modules, chosen layers and fractional
    alphas are taken as peft and vLLM take them. DoRA is registered to be merged: no engine serves it. What a Trainer
    leaves beside an adapter is left out, and named.
    """
    digest = (await base_named(s.api, base)).digest if base is not None else None
    decision = {"why_weights": why, "limitations": limitations} if why else None
    given = {"base": digest, "datasets": datasets or None, "decision": decision}
    given = {key: value for key, value in given.items() if value is not None}
    manifest = await asyncio.to_thread(described, folder, {"tenant": tenant, "name": name, **given})
    if left := sorted(filter(_TRAINERS.fullmatch, os.listdir(folder))):
        s.out.say(f"left out, since no adapter needs it: {', '.join(left)}")
    await upload_all(s.api, folder, manifest.files)
    version = await s.api.register_adapter(manifest)
    s.out.json(version)
    s.out.say(
        f"{tenant}/{name} v{version.version} {short(version.digest)} on base {short(manifest.base)}: "
        f"release {short(version.release)}"
    )
    if manifest.dora:
        merge = f"loradeck job merge {tenant} v{version.version}"
        s.out.say(f"no engine serves DoRA: {merge}, and promote v{version.version}m")


@adapter.command("ls")
@click.argument("tenant", required=False)
@click.argument("name", required=False)
@hub_command
async def ls(s: Session, tenant: str | None, name: str | None) -> None:
    """List adapter versions: all, a tenant's, or those of one adapter."""
    s.out.listed(
        [v for v in await s.api.adapters(tenant) if name in (None, v.manifest.name)],
        ("NAME", "VERSION", "ADAPTER", "RELEASE", "BASE", "RANK", "DATASETS", "CREATED", "BY"),
        lambda v: (
            f"{v.manifest.tenant}/{v.manifest.name}",
            f"v{v.version}",
            v.digest[:12],
            v.release[:12],
            short(v.manifest.base),
            v.manifest.rank,
            len(v.manifest.datasets),
            utc(v.created_ms),
            v.created_by,
        ),
        empty="no adapter versions; loradeck job train, or loradeck adapter import",
    )


@adapter.command()
@hub_command
@_on_version
async def show(s: Session, found: AdapterVersion) -> None:
    """Show one version (v7, 7, or the beginning of its digest)."""
    s.out.json(found)
    manifest = found.manifest
    s.out.heading(f"{_name(found)}  {found.digest}")
    for label, value in (
        ("release", found.release),
        ("base", manifest.base),
        ("rank, alpha", f"{manifest.rank}, {manifest.alpha}{' (DoRA: to be merged)' if manifest.dora else ''}"),
        ("modules", " ".join(manifest.target_modules)),
        ("datasets", " ".join(manifest.datasets) or "-"),
        ("parent", manifest.parent or "-"),
        ("why weights", manifest.decision.why_weights),
        ("alternatives", manifest.decision.alternatives or "-"),
        ("cost", manifest.decision.cost or "-"),
        ("limitations", manifest.decision.limitations or "-"),
        ("created", f"{utc(found.created_ms)} by {found.created_by}"),
    ):
        s.out.say(f"{label:13} {value}")
    s.out.table(("FILE", "BYTES", "SHA-256"), [(f.path, f.size, f.sha256) for f in manifest.files], empty="no files")


@adapter.command()
@hub_command
@_on_version
async def card(s: Session, found: AdapterVersion) -> None:
    """Print a version's model card, as Markdown, from the hub's records."""
    known = await cards.record(s.api, found)
    s.out.json(cards.facts(known))
    for line in cards.markdown(known).splitlines():
        s.out.say(line)


@adapter.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("before")
@click.argument("after")
@hub_command
async def diff(s: Session, tenant: str, name: str, before: str, after: str) -> None:
    """Compare the model cards of two versions."""
    versions = await s.api.adapter_versions(tenant, name)
    old, new = [await cards.record(s.api, _version(versions, text)) for text in (before, after)]
    found = cards.differences(old, new)
    s.out.json({"differences": [{"what": what, "before": a, "after": b} for what, a, b in found]})
    cards.print_differences(s.out, found)


@adapter.command()
@deprecating.from_option
@deprecating.until_option
@reason_option(required=True)
@writes
@_on_version
async def deprecate(s: Session, found: AdapterVersion, day: datetime, until: datetime | None, reason: str) -> None:
    """Deprecate a version: from a day on it is not promoted any more. Shows the pointers that still use it.

    Routes that serve it go on serving it. The day that was set last counts.
    """
    tenant, digest, release = found.manifest.tenant, found.digest, found.release
    await deprecating.deprecate(
        s, tenant, _name(found), subject=digest, release=release, day=day, until=until, reason=reason
    )


@adapter.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def key(ctx: click.Context, file: Path) -> None:
    """Make a key pair to sign with: FILE (0600, keep it) and FILE.pub, for `route set --signer`."""
    with expected_errors(as_json=wants_json(ctx)):
        public = file.with_name(f"{file.name}.pub")
        made, out = signing.new_key(file, public), Output(as_json=wants_json(ctx))
        out.json({"key": made, "private": str(file), "public": str(public)})
        out.say(f"key {made[:12]}: {file}, and {public} for `loradeck route set TENANT --signer {public}`")


@adapter.command()
@click.option(
    "--key", "key_file", required=True, type=click.Path(path_type=Path), help="Private key; KEY.pub beside it."
)
@writes
@_on_version
async def sign(s: Session, found: AdapterVersion, key_file: Path) -> None:
    """Sign a version's files; the hub stores the signature once it has verified it."""
    async with _files_of(s, found) as folder:
        public = key_file.with_name(f"{key_file.name}.pub")
        signature = await asyncio.to_thread(signing.sign, folder, found.digest, key_file, public)
    about = found.digest, found.manifest.tenant
    stated = await s.api.attest(Attestation.of(AttestationKind.SIGNATURE, *about, signature))
    s.out.answer(stated, f"{_name(found)} is signed by {signing.key_id(signature.public_key)[:12]}")


@adapter.command()
@hub_command
@_on_version
async def verify(s: Session, found: AdapterVersion) -> None:
    """Fetch a version's files and verify every signature on them on this machine."""
    stated = await s.api.attestations(kind=AttestationKind.SIGNATURE, subject=found.digest)
    signatures = [Signature.model_validate(one.body) for one in stated]
    if not signatures:
        raise refused(
            "nobody has signed this version", where=f"{_name(found)}", fix="loradeck adapter sign", code="unsigned"
        )
    async with _files_of(s, found) as folder:
        for signature in signatures:
            await asyncio.to_thread(signing.verify, folder, signature)
    s.out.json(stated)
    for one, signature in zip(stated, signatures, strict=True):
        s.out.say(f"holds: key {signing.key_id(signature.public_key)[:12]}, by {one.by}, {utc(one.at_ms)}")


@asynccontextmanager
async def _files_of(s: Session, version: AdapterVersion) -> AsyncIterator[Path]:
    """Downloads a version's files into a temporary folder, each verified by its digest."""
    with tempfile.TemporaryDirectory(prefix="loradeck-") as name:
        for entry in version.manifest.files:
            path = Path(name, entry.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            await download(s.api, entry.sha256, path)
        yield Path(name)


@adapter.command()
@hub_command
@_on_version
async def lineage(s: Session, found: AdapterVersion) -> None:
    """Show a version's ancestors, back to fresh weights, with data, evaluations and gate results."""
    known = {one.digest: one for one in await s.api.adapters(found.manifest.tenant)}
    chain = [found, *ancestors(found, known)]
    document = []
    for one in chain:
        about = [
            record
            for kind in (AttestationKind.EVALUATION, AttestationKind.GATE)
            for record in await s.api.attestations(kind=kind, subject=one.release)
        ]
        bodies = [{**record.model_dump(mode="json"), "body": _brief(record.body)} for record in about]
        document.append({"version": one.model_dump(mode="json"), "attestations": bodies})
        data = " ".join(short(digest) for digest in one.manifest.datasets) or "no dataset on record"
        s.out.heading(f"{_name(one)}  {short(one.digest)}  {utc(one.created_ms)}")
        s.out.say(f"  data {data}   recipe {short(one.manifest.config_hash)}   base {short(one.manifest.base)}")
        for record in about:
            s.out.say(f"  {record.kind.value} {record.route or '-'} {utc(record.at_ms)}: {_summary(record.body)}")
        if not about:
            s.out.say("  never evaluated")
    root = chain[-1].manifest
    s.out.json({"lineage": document, "complete": root.parent is None})
    s.out.say("from fresh weights" if root.parent is None else f"its parent {short(root.parent)} is not on record")


def _name(version: AdapterVersion) -> str:
    return f"{version.manifest.tenant}/{version.manifest.name} v{version.version}"


def _brief(body: dict[str, Any]) -> dict[str, Any]:
    """An attestation's body without the items of an evaluation, which may be many."""
    return {key: value for key, value in body.items() if key != "items"}


def _summary(body: dict[str, Any]) -> str:
    """An evaluation or a gate result in one line."""
    if "passed" in body:
        failed = [str(check.get("name")) for check in body.get("checks", ()) if not check.get("passed")]
        return "passed" if body["passed"] else f"FAILED {', '.join(failed)}"
    return f"exact {body.get('exact')}/{body.get('n')}, valid {body.get('valid')}/{body.get('n')}"


def _version(versions: list[AdapterVersion], text: str) -> AdapterVersion:
    number = text.removeprefix("v")
    found = [v for v in versions if str(v.version) == number or (len(text) >= 4 and v.digest.startswith(text))]
    if len(found) != 1:
        raise refused(f"{len(found)} versions are called {text!r}", fix="loradeck adapter ls", code="unknown_adapter")
    return found[0]


_TRAINERS = re.compile(r"training_args\.bin|(optimizer|scheduler|scaler)\.pt|rng_state\w*\.pth")
"""What transformers' Trainer leaves beside an adapter, pickles all of it: none is imported."""


def described(folder: Path, given: dict[str, Any]) -> AdapterManifest:
    """Builds the adapter's manifest, with every check that is possible here. The base is never taken from peft's file.

    Raises:
        CliError: base or reason is missing; an option contradicts manifest.json.
        BadArtifact: pickled weights, a missing or damaged file, or an unsupported kind of adapter.
    """
    if not folder.is_dir():
        raise misused("the folder does not exist", where=str(folder), fix="name the folder that peft saved")
    names = [path.relative_to(folder).as_posix() for path in plain_files(folder)]
    if MANIFEST in names:
        where = str(folder / MANIFEST)
        manifest = checked(AdapterManifest, json_of(folder / MANIFEST), where=where)
        for key, value in manifest.model_dump(mode="json").items():
            if key in given and key != "decision" and (list(given[key]) if key == "datasets" else given[key]) != value:
                raise misused(
                    f"manifest.json says another {key}",
                    where=f"{where}: {value}",
                    fix=f"leave the option out, or remove {MANIFEST} to describe the adapter anew",
                )
    else:
        lacking = [option for option, key in (("--base", "base"), ("--why", "decision")) if key not in given]
        if lacking:
            raise misused(f"{' and '.join(lacking)} is needed", where=f"no {MANIFEST} in {folder}", fix="give it")
        if CONFIG not in names:
            raise misused(f"{CONFIG} is missing", where=str(folder), fix="name the folder that peft saved")
        lora, config = read_lora(folder / CONFIG), read_config(folder / CONFIG)
        modules = modules_of(read_header(folder / WEIGHTS)) if WEIGHTS in names else ()
        # The recipe is identified by the trainer's choices, without the paths of the machine it ran on.
        recipe = {key: value for key, value in config.items() if key not in ("base_model_name_or_path", "revision")}
        fields = {
            **given,
            "files": [entry_of(folder / name, name) for name in names if name in ALLOWED],
            "rank": lora.largest,
            "alpha": lora.lora_alpha,
            "target_modules": lora.named(modules),
            "dora": bool(lora.use_dora),
            "config_hash": digest_of(recipe),
        }
        manifest = checked(AdapterManifest, fields, where=str(folder / CONFIG))
    listed = {entry.path for entry in manifest.files}
    pickled = {name for name in names if Path(name).suffix.lower() in PICKLES} - {
        name for name in names if _TRAINERS.fullmatch(name)
    }
    verify_adapter(folder, manifest, beside=set(names) - listed - pickled)
    return manifest
