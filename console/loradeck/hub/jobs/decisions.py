"""Worksheets of `loradeck decide`, made from the reports of evaluate jobs."""

from dataclasses import dataclass
from statistics import fmean

from loradeck.hub.jobs.gates import Gates
from loradeck.hub.jobs.job_records import JobRecords
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.rules.errors import Refused
from loradeck.rules.quality import decision as rules
from loradeck.rules.quality.freshness import figure
from loradeck.schemas.attestation import AttestationKind, EvaluationReport
from loradeck.schemas.decision import ArmFigures, DecideRequest, Worksheet
from loradeck.schemas.freshness import Figure
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import AT_ONCE, EvaluateSpec, JobQuery, JobState
from loradeck.schemas.manifest import Form
from loradeck.schemas.suite import Arm

_NONE = Figure(mean=0.0, low=0.0, high=1.0, n=0)


@dataclass(eq=False)
class Decisions:
    """Makes worksheets, and keeps each as an attestation about its own digest."""

    _catalogue: Catalogue
    _attestations: Attestations
    _jobs: JobRecords
    _gates: Gates

    async def decide(self, tenant: str, request: DecideRequest, by: str) -> tuple[str, Worksheet]:
        """Makes a worksheet of a tenant's jobs; returns the digest and the worksheet.

        Raises: Refused: `unknown_job`, `no_arms`: a job is no arm that is done, or they are on several suites.
        """
        reports, suites = dict[str, tuple[EvaluateSpec, EvaluationReport]](), set[str]()
        for asked in request.arms:
            job = await self._jobs.known(asked.job, lambda of: of == tenant)
            if not isinstance(job.spec, EvaluateSpec) or job.spec.arm is None or job.state is not JobState.DONE:
                raise Refused("no_arms", "the job is no arm that was measured", detail=f"{asked.name}: {job.id}")
            stated = await self._attestations.find(kind=AttestationKind.ARM, subject=job.spec.release, tenant=tenant)
            found = [one for one in stated if one.seq == (job.result or {}).get("report")]
            for one in found:
                reports[asked.name] = job.spec, EvaluationReport.model_validate(one.body)
            suites.add(job.spec.suite)
        if len(suites) > 1 or len(reports) < len(request.arms):
            raise Refused("no_arms", "arms have a name each, and are measured on one suite")
        suite, trained = suites.pop(), await self._trained(tenant)
        changed = (await self._gates.groups(suite)).changed
        arms = [self._figures(name, *of, request, changed, trained) for name, of in reports.items()]
        right = {name: {item.id: item.exact for item in report.items} for name, (_, report) in reports.items()}
        best, many = rules.best_of(arms, weights=False), sum(not arm.weights for arm in arms)
        if best is not None:
            arms = [
                arm.model_copy(update={"prompt_gain": rules.gained(right[best.name], right[arm.name], many)})
                if arm.weights
                else arm
                for arm in arms
            ]
        verdict = rules.decide(arms, right, changed, request.requests_a_month)
        made = Worksheet(tenant=tenant, suite=suite, request=request, arms=tuple(arms), **verdict._asdict())
        digest = digest_of(made)
        if tenant not in self._attestations.facts.decided.get(digest, ()):
            await self._attestations.state(AttestationKind.DECISION, digest, tenant, made, by)
        return digest, made

    def _figures(
        self,
        name: str,
        spec: EvaluateSpec,
        report: EvaluationReport,
        request: DecideRequest,
        changed: frozenset[str],
        trained: dict[str, float],
    ) -> ArmFigures:
        release = self._catalogue.known(spec.tenant, spec.release)
        version, base = self._catalogue.version_of(release), self._catalogue.bases.get(release.served_base)
        own = version.manifest.files if version is not None else base.files if base is not None else ()
        weights = release.form is not Form.BASE
        ledger = self._attestations.facts.ledger
        datasets = version.manifest.datasets if version is not None else ()
        size = sum(file.size for file in own) if weights else 0
        times = [item.ms for item in report.items if item.ms is not None]
        tokens = [item.tokens or (0, 0) for item in report.items]
        used = [figure([one[side] for one in tokens]) for side in (0, 1)]
        into, out = (fmean(one[side] for one in tokens) for side in (0, 1))
        mean_ms = fmean(times or [0.0])
        room = spec.batch if report.engine is None else min(spec.batch, AT_ONCE)
        hours = trained.get(version.digest if version is not None else release.served_base)

        def cost(a_request: tuple[float, float], ms: float) -> float:
            return rules.cost(
                request.prices,
                request.requests_a_month,
                tokens=a_request,
                seconds=ms / 1000 / min(room, len(report.items) or 1),
                hours=(hours or 0.0) / request.months,
                gb=size / 1e9,
            )

        paid = [mean_ms if item.ms is None else item.ms for item in report.items]
        return ArmFigures(
            name=name,
            release=release.id,
            label=self._catalogue.view(release.id, spec.tenant).label,
            weights=weights,
            arm=digest_of(spec.arm or Arm()),
            contexts=spec.arm is not None and spec.arm.contexts,
            right=rules.share([item.exact for item in report.items]) or _NONE,
            changed=rules.share([item.exact for item in report.items if item.id in changed]),
            cited=rules.share([item.cited for item in report.items if item.cited is not None]),
            tokens_in=round(into, 3),
            tokens_out=round(out, 3),
            tokens=(used[0], used[1]) if used[0] and used[1] else None,
            p95_ms=rules.p95(times),
            engine=report.engine.key if report.engine is not None else "in process, fp32",
            rows=sum(ledger[one].entry.human for one in datasets if one in ledger),
            train_hours=hours,
            bytes=size,
            cost=cost((into, out), mean_ms),
            cost_of=figure([cost(one, ms) for one, ms in zip(tokens, paid, strict=True)]),
        )

    async def _trained(self, tenant: str) -> dict[str, float]:
        """GPU hours of the jobs that made a tenant's adapters and weights, by digest."""
        query = JobQuery(tenant=tenant, state=JobState.DONE, kind="train", limit=500)
        found = {}
        for job in await self._jobs.find(query, lambda of: of == tenant):
            if job.gpu_hours is not None:
                made = (job.result or {}).get("adapter") or (job.result or {}).get("base")
                found[str(made)] = job.gpu_hours
        return found
