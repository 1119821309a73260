"""The specs of train, evaluate and merge jobs: whether one may be queued, and the assignment that a node is sent."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from loradeck.hub.data.datasets import Datasets, called
from loradeck.hub.data.lineage import Lineage
from loradeck.hub.jobs.generation import Generation
from loradeck.hub.jobs.merging import Merging
from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.incidents import Incidents
from loradeck.rules.data import quotas
from loradeck.rules.data.policy import check_teacher, freezes_of_training
from loradeck.rules.data.preferences import check_rated
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.ids import digest_of, short
from loradeck.schemas.jobs import (
    RECIPES,
    EvaluateSpec,
    Job,
    JobAssignment,
    JobRequest,
    JobSpec,
    JudgeSpec,
    LeakSpec,
    MergeSpec,
    PrepareSpec,
    ProveSpec,
    TrainSpec,
    rows_level,
)
from loradeck.schemas.manifest import SuiteUse
from loradeck.schemas.table import ReleaseRef
from loradeck.schemas.training import PAIRS, Weights


@dataclass(eq=False, kw_only=True)
class JobSpecs:
    """Checks specs, and completes them from the registry and the settings of routes."""

    state: FoldedLog
    catalogue: Catalogue
    datasets: Datasets
    lineage: Lineage
    merging: Merging
    generation: Generation
    incidents: Incidents
    facts: Facts
    clock: Clock

    def frozen(self, spec: JobSpec) -> dict[str, Refused]:
        """Returns what holds a job now, training freezes and impact assessments that have ended since it was queued:
        digest of what it is -> the refusal of the job.
        """
        if not isinstance(spec, TrainSpec | GenerateSpec):
            return {}
        named = [
            (called(manifest), self.facts.ledger[digest].entry)
            for digest in (spec.reads if isinstance(spec, TrainSpec) else spec.beside)
            if digest in self.facts.ledger and (manifest := self.catalogue.datasets.get(digest)) is not None
        ]
        tenant = self.state.tenant(spec.tenant)
        held = list(freezes_of_training(tenant, named, self.incidents.on(tenant.name), self.clock.now_ms()))
        try:
            trained = spec.datasets if isinstance(spec, TrainSpec) else spec.beside
            self.datasets.check_assessed(spec.tenant, [digest for digest in trained if digest in self.facts.ledger])
        except Refused as lacking:
            held.append(lacking)
        return {digest_of(refused.context): refused for refused in held}

    def check(
        self, request: JobRequest, served: Collection[str | None] = (), *, unfinished: Iterable[JobSpec] = ()
    ) -> None:
        """Tells whether a job may be queued now.

        Args:
            served: the bases of the node that it names, if it names one.
            unfinished: the specs of all jobs that are not over.

        Raises: Refused, for everything that its spec names and that is not registered, or may not be used.
        """
        catalogue, spec = self.catalogue, request.spec
        if isinstance(spec, ProveSpec):
            if spec.base not in catalogue.bases and spec.base not in served:
                raise Refused("unknown_base", f"no engine of {spec.node} has such a base", detail=spec.base)
            return
        tenant = self.state.tenant(spec.tenant)
        if tenant.offboarded:
            raise Refused("offboarded", f"{tenant.name} is offboarded")
        match spec:
            case PrepareSpec():
                raise Refused("invalid_request", "prepares are made by promotes", detail="spec.kind")
            case TrainSpec():
                catalogue.check_base(spec.base)
                self.datasets.check_training(spec.tenant, spec.datasets, spec.quality)
                if spec.method in PAIRS and not tenant.data.unrated_pairs:
                    check_rated((called(catalogue.datasets[d]), self.facts.judged.get(d)) for d in spec.datasets)
                sheet = spec.decision.worksheet
                if sheet is None and tenant.data.worksheet_required:
                    fix = f"loradeck decide {tenant.name} FILE makes one; the recipe names it: decision.worksheet"
                    raise Refused("no_worksheet", f"{tenant.name} asks for a worksheet before it trains", fix=fix)
                if sheet is not None and tenant.name not in self.facts.decided.get(sheet, ()):
                    raise Refused("no_worksheet", "this tenant has no such worksheet", detail=sheet)
                if spec.safety:
                    catalogue.dataset(spec.tenant, spec.safety.dataset)
                self._check_selection(spec)
                self.lineage.check_use(spec.tenant, spec.base)
                if spec.distillation is not None:
                    if spec.distillation.teacher not in catalogue.bases:
                        raise Refused(
                            "unknown_base", "the teacher is no registered base", detail=spec.distillation.teacher
                        )
                    check_teacher(spec.distillation.licence, tenant.data)
                    self.lineage.check_use(spec.tenant, spec.distillation.teacher)
                    self.datasets.check_descent(base=spec.distillation.teacher, parent=None)
                self.datasets.check_descent(base=spec.base, parent=spec.parent)
                parent = catalogue.adapter(spec.tenant, spec.parent) if spec.parent else None
                if parent is not None and parent.manifest.base != spec.base:
                    raise Refused("wrong_base", "the parent adapter was trained on another base", detail=spec.base)
            case EvaluateSpec():
                catalogue.known(spec.tenant, spec.release)
                self.catalogue.suite(spec.tenant, spec.suite)
            case LeakSpec():
                version = catalogue.version_of(catalogue.known(spec.tenant, spec.release))
                trained = version.manifest.datasets if version is not None else ()
                if not trained or set(trained) != set(spec.datasets):
                    raise Refused(
                        "unknown_dataset",
                        "these are not the datasets that the release was trained on",
                        detail=f"its adapter names {', '.join(map(short, trained)) or 'none'}",
                    )
            case JudgeSpec():
                for release in spec.asked:
                    catalogue.known(spec.tenant, release)
                self.catalogue.suite(spec.tenant, spec.judge.suite)
                for digest in spec.judge.people:
                    catalogue.dataset(spec.tenant, digest)
            case GenerateSpec():
                self.generation.check(spec)
            case MergeSpec():
                self.merging.mergeable(spec.tenant, spec.release)
        made = self._base_of_weights(spec)
        if made is not None:
            own = (self._base_of_weights(spec) for spec in unfinished if spec.tenant == tenant.name)
            coming = [catalogue.bases[base] for base in own if base is not None]
            kept = [*catalogue.weights(tenant.name, self.facts.revoked), *coming]
            quotas.check_weights(tenant, kept, catalogue.bases[made])

    def _base_of_weights(self, spec: JobSpec) -> str | None:
        """The base of which a job makes whole weights; None: it makes none."""
        if isinstance(spec, MergeSpec):
            return self.catalogue.known(spec.tenant, spec.release).base
        return spec.base if isinstance(spec, TrainSpec) and spec.weights is Weights.FULL else None

    def _check_selection(self, spec: TrainSpec) -> None:
        """Checks that checkpoints are chosen by a suite that no gate judges by."""
        chosen_by = spec.validation.suite if spec.validation is not None else None
        if (
            chosen_by is not None
            and (suite := self.catalogue.suite(spec.tenant, chosen_by)).use is not SuiteUse.SELECTION
        ):
            raise Refused(
                "selection_suite",
                f"the suite {suite.name} is for gates: the best of several checkpoints on it looks better than it is",
                detail=chosen_by,
                fix="name one of other items, registered with loradeck suite add --for selection",
            )

    def base(self, job: Job) -> str | None:
        """The base that the job's node must run; None where its release is not registered."""
        if isinstance(job.spec, TrainSpec | ProveSpec):
            return job.spec.base
        if isinstance(job.spec, GenerateSpec):
            return job.spec.sources[0].base
        release = self.catalogue.release(job.spec.release, job.tenant)
        if release is None:
            return None
        return release.served_base if isinstance(job.spec, EvaluateSpec | LeakSpec | JudgeSpec) else release.base

    def inputs(self, job: Job) -> frozenset[str]:
        """The datasets and suites whose rows the job's node reads."""
        match job.spec:
            case TrainSpec():
                return frozenset(job.spec.reads + self._held_out(job))
            case GenerateSpec():
                return frozenset(job.spec.beside + self._held_out(job))
            case EvaluateSpec():
                return frozenset((job.spec.suite,))
            case LeakSpec():
                return frozenset(job.spec.datasets)
            case JudgeSpec():
                return frozenset((job.spec.judge.suite, *job.spec.judge.people))
            case _:
                return frozenset()

    def unread(self, job: Job, recipes: int) -> list[str]:
        """Names the datasets and suites of a job that an agent of this level does not read, and is not told of."""
        if recipes >= RECIPES:
            return []
        datasets, suites = self.catalogue.datasets, self.catalogue.suites
        read = (datasets.get(digest) or suites.get(digest) for digest in self.inputs(job))
        return sorted(called(one) for one in read if one is not None and rows_level(one.provenance) > recipes)

    def _held_out(self, job: Job) -> tuple[str, ...]:
        """The suites whose items must not be among the rows that the job trains on, or writes."""
        if not isinstance(job.spec, TrainSpec | GenerateSpec):
            return ()
        return tuple(digest for digest, suite in self.catalogue.suites.items() if suite.tenant == job.tenant)

    def assignment(self, job: Job) -> JobAssignment:
        """The assignment that a node is sent, with all that it needs to run the job."""
        ref: ReleaseRef | None = None
        canaries: tuple[tuple[dict[str, str], ...], ...] = ()
        asked = job.spec.asked if isinstance(job.spec, GenerateSpec | JudgeSpec) else ()
        if isinstance(job.spec, EvaluateSpec | LeakSpec | MergeSpec):
            release = self.catalogue.known(job.tenant, job.spec.release)
            ref = ReleaseRef(id=release.id, release=release, label=release.label)
        if isinstance(job.spec, EvaluateSpec | MergeSpec):
            canaries = self.state.config((job.tenant, job.spec.route)).canaries
        if isinstance(job.spec, TrainSpec):
            canaries = self.state.config((job.tenant, "production")).canaries
        return JobAssignment(
            id=job.id,
            lease=job.lease,
            attempt=job.attempt,
            spec=job.spec,
            release=ref,
            canaries=canaries,
            held_out=self._held_out(job),
            checkpoint=job.checkpoint,
            asked=tuple(
                ReleaseRef(id=release.id, release=release, label=release.label)
                for release in (self.catalogue.known(job.tenant, digest) for digest in asked)
            ),
        )
