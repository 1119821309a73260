"""Commands on bundles: an adapter version, and perhaps its merged weights, as one file, where no network reaches."""

import asyncio
import os
import tempfile
from pathlib import Path

import click

from loradeck.artifacts import BadArtifact, signing, verify_adapter
from loradeck.artifacts.bundle import read_bundle, write_bundle
from loradeck.artifacts.gguf_file import read_gguf
from loradeck.artifacts.staging import fsync_folder
from loradeck.cli.shared.exits import refused
from loradeck.cli.shared.naming import release_named
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.api import HubApi
from loradeck.client.blobs import download, sha256_of, upload
from loradeck.schemas.attestation import Attestation, AttestationKind, Signature
from loradeck.schemas.bundle import BundledGguf, BundleManifest
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, Form

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False, writable=True)

bundle = Noun("bundle")


@bundle.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--datasets", is_flag=True, help="Carry the rows it was trained on too; the other hub must know them.")
@click.option("--gguf", "ggufs", multiple=True, type=_FILE, help="Carry this too, which `loradeck-agent gguf` wrote.")
@hub_command
async def export(s: Session, tenant: str, name: str, target: Path, datasets: bool, ggufs: tuple[Path, ...]) -> None:
    """Write an adapter's release as one file: its files, its ancestors', manifests, digests, signatures.

    The base is named and not carried. A hub that does not know the datasets accepts the adapter only with --datasets,
    which puts their rows into the file. Evaluations, gates and proofs are not carried: the other hub makes its own.
    With --gguf its merged weights go along: the file has to say that it was written from those of a merged release of
    this adapter (`job merge`, `loradeck-agent gguf`).
    """
    view = await release_named(s.api, tenant, name)
    if view.form is not Form.ADAPTER:
        raise refused(
            f"{view.label} is of form {view.form.value}",
            where="a bundle carries an adapter",
            fix="export the adapter's release; merge it again there: loradeck job merge",
            code="unknown_adapter",
        )
    manifest = await _described(s.api, tenant, str(view.adapter), datasets=datasets)
    whole = [await _gguf(s.api, manifest.adapter, path) for path in ggufs]
    at = {one.file.sha256: path for one, path in zip(whole, ggufs, strict=True)}
    with tempfile.TemporaryDirectory(prefix="ld-bundle") as folder:
        for entry in manifest.files:
            at[entry.sha256] = Path(folder) / entry.sha256
            await download(s.api, entry.sha256, at[entry.sha256])
        manifest = BundleManifest.model_validate(dict(manifest) | {"gguf": tuple(whole)})
        size = await asyncio.to_thread(write_bundle, target, manifest, at.__getitem__)
    s.out.json({"file": str(target), "digest": manifest.digest, "bytes": size})
    s.out.say(
        f"{target}: {tenant} {view.label} {short(view.id)} on {view.base_label}, {len(manifest.adapters)} adapters, "
        f"{len(manifest.datasets)} datasets, {len(manifest.gguf)} GGUF files, {size / 1e6:,.1f} MB"
    )
    s.out.say(f"digest {manifest.digest}")


@bundle.command("import")
@click.argument("file", type=_FILE)
@click.option("--digest", "expected", help="Digest that `bundle export` printed; another bundle is refused.")
@click.option("--gguf", "kept", type=_FOLDER, help="Folder for the GGUF files that it carries.")
@writes
async def import_(s: Session, file: Path, expected: str | None, kept: Path | None) -> None:
    """Register the adapter version in a bundle, after checking all of it on this machine.

    The base, the tenant and the datasets must be known to this hub (or carried). Registering it again changes nothing.
    """
    with tempfile.TemporaryDirectory(prefix=".ld-bundle", dir=kept) as name:
        folder = Path(name)
        manifest = await asyncio.to_thread(_checked, file, folder)
        if expected is not None and manifest.digest != expected:
            raise refused(
                "the bundle has another digest than --digest",
                where=f"digest {manifest.digest}",
                fix="copy it again",
                code="digest_mismatch",
            )
        await _must_fit(s.api, manifest)
        if kept is not None:
            await asyncio.to_thread(_keep, manifest, folder, kept)
        of_rows = {file.sha256 for dataset in manifest.datasets for file in dataset.files}
        for entry in manifest.model_copy(update={"gguf": ()}).files:
            await upload(s.api, folder / entry.sha256, rows=entry.sha256 in of_rows)
    for dataset in manifest.datasets:
        await s.api.register_dataset(dataset)
    version: AdapterVersion | None = None
    for adapter in manifest.adapters:
        version = await s.api.register_adapter(adapter)
    assert version is not None
    owners = {adapter.digest: adapter.tenant for adapter in manifest.adapters}
    for signature in manifest.signatures:
        subject = signature.subject
        await s.api.attest(Attestation.of(AttestationKind.SIGNATURE, subject, owners[subject], signature))
    s.out.json(version)
    s.out.say(
        f"{version.manifest.tenant}/{version.manifest.name} v{version.version} {short(version.digest)} on base "
        f"{short(version.manifest.base)}: release {short(version.release)}"
    )
    for one in manifest.gguf:
        s.out.say(f"{kept / one.file.path}" if kept else f"{one.file.path} was checked and not kept: --gguf FOLDER")


async def _described(api: HubApi, tenant: str, adapter: str, *, datasets: bool) -> BundleManifest:
    """Collects a bundle's contents: the adapter after its ancestors, their datasets if asked for, and signatures."""
    versions = {version.digest: version for version in await api.adapters(tenant)}
    line: list[AdapterVersion] = []
    at: str | None = adapter
    while at is not None:
        line.insert(0, versions[at])
        at = line[0].manifest.parent
    bases = {base.digest: base.manifest for base in await api.bases()}
    wanted = {digest for version in line for digest in version.manifest.datasets} if datasets else set()
    rows = [entry.manifest for entry in await api.datasets() if entry.digest in wanted]
    signatures = [
        Signature.model_validate(stated.body)
        for version in line
        for stated in await api.attestations(kind=AttestationKind.SIGNATURE, subject=version.digest)
    ]
    return BundleManifest(
        base=bases[line[-1].manifest.base],
        adapters=tuple(version.manifest for version in line),
        datasets=tuple(rows),
        signatures=tuple(signatures),
    )


async def _gguf(api: HubApi, adapter: AdapterManifest, path: Path) -> BundledGguf:
    """Describes a GGUF file of an adapter's merged weights. Raises: BadArtifact: `bad_gguf`; CliError: `not_merged`."""
    merged, type_ = await asyncio.to_thread(read_gguf, path)
    views = [one for one in await api.releases(adapter.tenant) if one.form is Form.MERGED]
    label = next((one.label for one in views if (one.adapter, one.base) == (adapter.digest, merged)), None)
    if label is None:
        have = ", ".join(f"{one.label} {short(one.base)}" for one in views) or "none"
        title = f"{path.name} was written from {merged[:12]}, which is no merged release of this adapter"
        fix = "loradeck job merge, then loradeck-agent gguf with the folder that the job names"
        raise refused(title, where=f"merged releases: {have}", fix=fix, code="not_merged")
    jobs = [made.job for base in await api.bases() if base.digest == merged for made in base.made]
    sha256, size = await asyncio.to_thread(sha256_of, path)
    parts = {"tenant": adapter.tenant, "form": "merged", "base": adapter.base, "adapter": adapter.digest}
    release = parts | {"merged": merged, "label": label}
    file = {"path": f"{adapter.tenant}-{label}-{type_}.gguf", "size": size, "sha256": sha256}
    return BundledGguf.model_validate({"file": file, "type": type_, "release": release, "job": "".join(jobs[-1:])})


def _keep(manifest: BundleManifest, folder: Path, kept: Path) -> None:
    """Puts a checked bundle's GGUF files (0600) into a folder, all or none, durably. Raises: BadArtifact: `exists`."""
    new = [one.file for one in manifest.gguf if not os.path.lexists(kept / one.file.path)]
    for file in (one.file for one in manifest.gguf if one.file not in new):
        if not (target := kept / file.path).is_file() or sha256_of(target)[0] != file.sha256:
            raise BadArtifact("exists", "another file has this name already", str(target), "move it away")
    for entry in new:
        with (folder / entry.sha256).open("rb") as source:
            os.fsync(source.fileno())
        os.link(folder / entry.sha256, kept / entry.path)  # what an adapter or dataset has too is still to be sent
    fsync_folder(kept)


def _checked(file: Path, folder: Path) -> BundleManifest:
    """Reads a bundle and verifies all of it: digests, GGUF files, adapters against their manifests, signatures.

    Raises: BadArtifact: see `read_bundle`, `read_gguf`, `verify_adapter` and `signing.verify`.
    """
    manifest = read_bundle(file, folder)
    for one in manifest.gguf:
        if read_gguf(folder / one.file.sha256) != (one.release.merged, one.type):
            raise BadArtifact("bad_gguf", "a GGUF file is not what the bundle says", one.file.path, "export it again")
    for adapter in manifest.adapters:
        with tempfile.TemporaryDirectory(prefix="adapter", dir=folder) as name:
            for entry in adapter.files:
                path = Path(name, entry.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / entry.sha256, path)
            verify_adapter(Path(name), adapter)
            for signature in manifest.signatures:
                if signature.subject == adapter.digest:
                    signing.verify(Path(name), signature)
    return manifest


async def _must_fit(api: HubApi, manifest: BundleManifest) -> None:
    """Checks everything that this hub would refuse later, so that nothing is registered by halves.

    Raises:
        CliError: `wrong_base`, `unknown_dataset`.
        ApiError: `unknown_tenant`.
    """
    bases = await api.bases()
    if manifest.base.digest not in {base.digest for base in bases}:
        have = ", ".join(f"{base.label} {base.manifest.model_id} {short(base.digest)}" for base in bases) or "none"
        raise refused(
            f"this hub has no base {short(manifest.base.digest)} ({manifest.base.model_id} {manifest.base.revision})",
            where=f"it has: {have}",
            fix="register that very base first: loradeck base add DIR",
            code="wrong_base",
        )
    tenants: set[str] = {adapter.tenant for adapter in manifest.adapters}
    for tenant in sorted(tenants | {dataset.tenant for dataset in manifest.datasets}):
        await api.tenant(tenant)
    known = {entry.digest for entry in await api.datasets()} | {dataset.digest for dataset in manifest.datasets}
    missing = sorted({digest for adapter in manifest.adapters for digest in adapter.datasets} - known)
    if missing:
        raise refused(
            f"{len(missing)} datasets that the adapter was trained on are not known to this hub",
            where=", ".join(digest[:12] for digest in missing),
            fix="export with --datasets, or register them first: loradeck dataset add",
            code="unknown_dataset",
        )
