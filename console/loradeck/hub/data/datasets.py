"""Datasets and their ledger: every row is read when a dataset comes in, and asked about when it is trained on. The
items of suites are read and scanned as rows are.

Rows are read by a child process, so that a move never waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter

from loradeck.artifacts import child_process, dataset_rows, verify_suite
from loradeck.artifacts.dataset_rows import Held, Task
from loradeck.rules.data import policy
from loradeck.rules.data.descent import NOTHING, Descent, descent
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.dataset_ledger import LedgerEntry, Place, Reading, ScanReport
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import DatasetManifest, SuiteManifest
from loradeck.store.interface import Doc

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub

_places = TypeAdapter(list[Place])


async def register(hub: Hub, manifest: DatasetManifest, by: str, *, accept: str = "") -> LedgerEntry:
    """A dataset whose files are here, with its ledger entry. The same one again is answered with the first entry.

    Args:
        accept: why it is taken in although personal data or secrets were found in it.

    Raises:
        BadArtifact: `bad_rows`, `ledger_incomplete`, `erased_row`.
        Refused: `licence_forbidden`, `sensitive_rows`. Nothing was registered.
    """
    digest, tenant = manifest.digest, manifest.tenant
    kept = hub.facts.ledger.get(digest)
    if kept is not None and digest in hub.catalogue.datasets:
        return kept.entry
    task = Task(do="read", datasets=(_held(hub, manifest),), rows=tuple(sorted(hub.facts.erased_of.get(tenant, ()))))
    reading = Reading.model_validate(await child_process.ask(dataset_rows.__name__, task))
    policy.check_licences(reading.entry, hub.tenant(tenant).data, called(manifest))
    scan = _accepted(reading.scan, accept)
    await hub.register(Doc.DATASET, digest, manifest.model_dump(mode="json"), tenant=tenant, by=by)

    def stated(kind: AttestationKind, body: BaseModel) -> Attestation:
        data = body.model_dump(mode="json")
        return Attestation(kind=kind, subject=digest, tenant=tenant, body=data, by=by, at_ms=hub.now_ms())

    await hub.attest_all([stated(AttestationKind.LEDGER, reading.entry), stated(AttestationKind.SCAN, scan)])
    return reading.entry


async def register_suite(hub: Hub, manifest: SuiteManifest, by: str, *, accept: str = "") -> None:
    """A suite whose files are here. The same one again changes nothing.

    Args:
        accept: why it is taken in although personal data or secrets were found in it.

    Raises:
        BadArtifact: `bad_rows`, `manifest_mismatch`, `erased_row`.
        Refused: `sensitive_rows`. Nothing was registered.
    """
    digest, tenant = manifest.digest, manifest.tenant
    if digest in hub.catalogue.suites:
        return
    held = _held(hub, manifest)
    await asyncio.to_thread(verify_suite, manifest, held.paths)
    task = Task(do="scan", datasets=(held,), rows=tuple(sorted(hub.facts.erased_of.get(tenant, ()))))
    scan = _accepted(ScanReport.model_validate(await child_process.ask(dataset_rows.__name__, task)), accept)
    body, kind, now = scan.model_dump(mode="json"), AttestationKind.SCAN, hub.now_ms()
    await hub.attest_all([Attestation(kind=kind, subject=digest, tenant=tenant, body=body, by=by, at_ms=now)])
    await hub.register(Doc.SUITE, digest, manifest.model_dump(mode="json"), tenant=tenant, by=by)


def _accepted(scan: ScanReport, accept: str) -> ScanReport:
    """A scan as it is attested: without findings, or with the reason why they may stay.

    Raises:
        Refused: `sensitive_rows`.
    """
    if not scan.findings:
        return scan
    if not accept:
        told = (f"{f.kind} in {f.rows} rows ({', '.join(f.where[:3])})" for f in scan.findings)
        raise Refused(
            "sensitive_rows",
            "rows hold what looks like personal data or secrets",
            detail="; ".join(told),
            fix="take it out, or say why it may stay (--accept-findings WHY)",
            context={"scan": scan.model_dump(mode="json")},
        )
    return scan.model_copy(update={"accepted": accept})


def check_training(hub: Hub, tenant: str, datasets: Iterable[str]) -> None:
    """Whether a tenant may train on these datasets together.

    Raises:
        Refused: `unknown_dataset`, and what `rules.ledger.check_training` raises.
    """
    wanted = tuple(dict.fromkeys(datasets))
    for digest in wanted:
        found = hub.catalogue.datasets.get(digest)
        if found is None or found.tenant != tenant:
            raise Refused("unknown_dataset", "this tenant has no such dataset", detail=digest)
    check_descent(hub, wanted)
    policy.check_training(
        wanted,
        hub.facts.ledger,
        hub.tenant(tenant).data,
        now_ms=hub.now_ms(),
        names={digest: called(hub.catalogue.datasets[digest]) for digest in wanted},
    )


def erased_descent(hub: Hub) -> Descent:
    """Everything that descends from rows that were erased."""
    if not hub.facts.erased:
        return NOTHING
    catalogue = hub.catalogue
    return descent(
        hub.facts.erased,
        adapters=catalogue.adapters.values(),
        releases=catalogue.releases,
        ledger=hub.facts.ledger,
    )


def check_descent(
    hub: Hub, datasets: Iterable[str] = (), *, parent: str | None = None, release: str | None = None
) -> None:
    """Nothing goes forward that descends from erased rows: no training, no new version, no promote.

    Raises:
        Refused: `erased_row`.
    """
    erased = erased_descent(hub)
    for digest in datasets:
        if digest in erased.datasets and digest not in hub.facts.erased:
            manifest = hub.catalogue.datasets.get(digest)
            raise Refused(
                "erased_row",
                "a release that descends from erased rows wrote rows of the dataset",
                detail=called(manifest) if manifest else digest,
                fix="register it anew without the rows of that release",
            )
        if digest in hub.facts.erased:
            gone = sorted(hub.facts.erased[digest])
            manifest = hub.catalogue.datasets.get(digest)
            raise Refused(
                "erased_row",
                "rows of the dataset were erased: it may not be trained on any more",
                detail=f"{called(manifest) if manifest else digest}: {', '.join(short(row) for row in gone)}",
                fix="register it anew without them",
                context={"rows": gone},
            )
    if parent in erased.adapters or release in erased.releases:
        raise Refused(
            "erased_row",
            f"{hub.called(release) if release else 'the parent adapter'} descends from erased rows",
            detail=release or parent or "",
            fix="train it again from its base on a dataset without them",
        )


async def find(
    hub: Hub, among: Sequence[DatasetManifest | SuiteManifest], wanted: Sequence[str], containing: str | None
) -> list[Place]:
    """Where rows stand, by their digests or a text in them, in datasets and suites whose files are here.

    Raises:
        BadArtifact: `bad_rows`.
    """
    held = tuple(_held(hub, one) for one in among)
    task = Task(do="find", datasets=held, rows=tuple(wanted), containing=containing)
    return _places.validate_python(await child_process.ask(dataset_rows.__name__, task))


def called(manifest: DatasetManifest | SuiteManifest) -> str:
    return f"{manifest.tenant}/{manifest.name}"


def _held(hub: Hub, one: DatasetManifest | SuiteManifest) -> Held:
    manifest = one if isinstance(one, DatasetManifest) else None
    paths = {file.path: hub.blobs.path(file.sha256) for file in one.files}
    return Held(digest=one.digest, manifest=manifest, paths=paths)
