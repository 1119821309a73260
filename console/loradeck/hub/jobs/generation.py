"""Generate jobs at the hub: whether one may be queued, and the dataset that comes of one.

The hub alone says where rows come from, how deep they are and what they may be used for; a node says what it wrote.
"""

from dataclasses import dataclass
from typing import Any

from loradeck.artifacts.rows.personal_data import ILLNESS, NAME
from loradeck.hub.data.datasets import Datasets
from loradeck.hub.data.lineage import Lineage
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.rules.data import synthetic
from loradeck.rules.data.policy import check_teacher
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.dataset_ledger import LedgerEntry
from loradeck.schemas.generation import ROWS, GenerateSpec, GenerationReport
from loradeck.schemas.jobs import Job
from loradeck.schemas.manifest import DatasetManifest, FileEntry, Provenance

_TOLERATED = frozenset({ILLNESS, NAME})
"""Kinds of personal data that a generated dataset may hold: generate jobs leave out answers with any other kind."""


@dataclass(eq=False)
class Generation:
    """Checks generate jobs, and registers what they have written."""

    _state: FoldedLog
    _catalogue: Catalogue
    _attestations: Attestations
    _datasets: Datasets
    _lineage: Lineage
    _clock: Clock

    def check(self, spec: GenerateSpec, job: str = "-") -> Provenance:
        """Checks that a tenant may have rows written so, and returns their provenance.

        Raises: Refused: `unknown_release`, `wrong_base`, `wrong_tenant`, `erased_row`, `licence_forbidden`,
        `terms_not_accepted`, `no_depth`, `no_human_rows`, and what training on the datasets beside refuses.
        """
        tenant, catalogue = self._state.tenant(spec.tenant), self._catalogue
        for release_id, base in spec.asked.items():
            release = catalogue.known(spec.tenant, release_id)
            if release.served_base != base:
                raise Refused("wrong_base", "the release is served on another base", detail=f"{release_id}: {base}")
            self._lineage.check_use(spec.tenant, base)
            self._datasets.check_descent(base=base, release=release_id)
        learnt = set[str]()
        for source in spec.sources:
            check_teacher(source.licence, tenant.data)
            synthetic.check_terms(source, catalogue.called(source.release))
            learnt |= synthetic.trained_on(
                catalogue.known(spec.tenant, source.release),
                adapters=catalogue.adapters,
                releases=self._lineage.releases().values(),
                made=self._attestations.facts.made,
            )
        self._datasets.check_training(spec.tenant, spec.beside)
        ledger = self._attestations.facts.ledger
        return synthetic.provenance(spec, learnt, ledger, job=job, now_ms=self._clock.now_ms())

    async def written(self, job: Job, spec: GenerateSpec, result: dict[str, Any]) -> dict[str, Any]:
        """Registers the dataset that a job has written, with its report. Returns what is kept with the job.

        Raises:
            Refused: `bad_report`, and whatever `check` and the registration of a dataset refuse.
            BadArtifact: `bad_rows`, `ledger_incomplete`, `erased_row`.
        """
        report, file = (
            GenerationReport.model_validate(result.get("report")),
            FileEntry.model_validate(result.get("file")),
        )
        provenance = self.check(spec, job.id)
        if wrong := synthetic.disagreement(report, spec, job.id):
            raise Refused("bad_report", "the report is not of this job, or its counts disagree", detail=wrong)
        fields = {"tenant": spec.tenant, "name": spec.name, "rows": report.rows, "provenance": provenance}
        manifest = DatasetManifest.model_validate({**fields, "files": [file.model_copy(update={"path": ROWS})]})

        def as_written(entry: LedgerEntry) -> None:
            if wrong := synthetic.claims(entry, spec, provenance):
                raise Refused("bad_report", "rows say of themselves what the job did not make", detail=wrong)

        by = f"job {job.id}"
        await self._datasets.register(manifest, by, check=as_written, tolerated=_TOLERATED)
        await self._attestations.state(AttestationKind.GENERATION, manifest.digest, spec.tenant, report, by)
        passed = report.passed
        rate = {"passed": passed.k, "verified": passed.n, "low": passed.low / 1000, "high": passed.high / 1000}
        depth = provenance.synthetic_depth
        return {"dataset": manifest.digest, "name": spec.name, "rows": report.rows, "depth": depth, **rate}
