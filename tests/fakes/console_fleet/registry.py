"""What the made-up fleet has beside its rows: gates, reviews, adapters, datasets, related releases and traces."""

from __future__ import annotations

import json

from tests.fakes.console_fleet.pointers import DAY, HOUR, MINUTE, NOW_MS, digest, view

from loradeck.schemas.attestation import Attestation, AttestationKind, CheckResult, EvaluationReport, GateResult
from loradeck.schemas.campaign import Campaign, CampaignUnit
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.freshness import LoopRow
from loradeck.schemas.incident import RelatedRelease, RelatedReleases, Shared, Tie
from loradeck.schemas.manifest import (
    AdapterManifest,
    AdapterVersion,
    DatasetManifest,
    DecisionRecord,
    FileEntry,
    Form,
    Origin,
    Provenance,
    Release,
    SuiteManifest,
    Tier,
)
from loradeck.schemas.responses import DatasetEntry, ReleaseDetail, SuiteEntry
from loradeck.schemas.review import ReviewSheet, SampledItem, SignedReview
from loradeck.schemas.state import (
    HubState,
)
from loradeck.schemas.trace import NodeTraced, Traced, TraceRow


def _check(name: str, value: float, threshold: float, n: int, *, note: str = "") -> CheckResult:
    passed = value <= threshold if name == "drop" else value >= threshold
    return CheckResult(
        name=name, passed=passed, value=value, threshold=threshold, n=n, low=max(0.0, value - 0.04),
        high=min(1.0, value + 0.04), note=note,
    )  # fmt: skip


def gates() -> list[Attestation]:
    """Gate results on record, oldest first: acme's v9 failed and went out past it."""

    def gate(seq: int, tenant: str, label: str, against: str, age_ms: int, *checks: CheckResult) -> Attestation:
        result = GateResult(
            release=view(tenant, label).id, against=view(tenant, against).id, suite=digest(f"{tenant} suite"),
            passed=all(check.passed for check in checks), checks=checks,
        )  # fmt: skip
        return Attestation(
            seq=seq, kind=AttestationKind.GATE, subject=result.release, tenant=tenant, route="production",
            body=result.model_dump(mode="json"), by="ci-bot", at_ms=NOW_MS - age_ms,
        )  # fmt: skip

    return [
        gate(11, "acme", "v7", "v6", 14 * DAY, _check("valid", 0.99, 0.95, 246), _check("exact", 0.91, 0.85, 246)),
        gate(
            19, "bolt", "v5", "v4", 31 * MINUTE,
            _check("valid", 0.98, 0.95, 300), _check("exact", 0.90, 0.85, 300),
            _check("drop", 0.01, 0.03, 300, note="9 items lost, 6 won"),
        ),
        gate(
            20, "acme", "v9", "v8", 16 * MINUTE,
            _check("valid", 0.71, 0.95, 246), _check("exact", 0.66, 0.85, 246),
            _check("drop", 0.22, 0.03, 246, note="58 items lost, 4 won"),
            CheckResult(
                name="review", passed=False, value=0, threshold=2, n=4, low=0, high=0, unit="people",
                note="nobody has looked at these answers yet",
            ),
        ),
    ]  # fmt: skip


ANSWERED = (
    ("ticket-0131", "I was charged twice for March.", "refund", "refund"),
    ("ticket-0148", "The app closes when I open a report.", "bug", "bug"),
    ("ticket-0160", "Where do I change my\ninvoice address?", "billing", "Sure! Here is how you change it."),
    ("ticket-0177", "Please delete my account.", "account", "account"),
)
"""Sampled items: id, what was asked, what is wanted, what was answered."""


def review_sheet(tenant: str, route: str, release: str) -> ReviewSheet:
    """What acme's gate wants looked at; somebody has signed an earlier evaluation's answers."""
    return ReviewSheet(
        tenant=tenant, route=route, release=release, suite=digest(f"{tenant} suite"), answers=digest("answers"),
        people=2, max_bad=0,
        items=tuple(
            SampledItem(
                id=id_, prompt=({"role": "system", "content": "Sort the ticket."}, {"role": "user", "content": asked}),
                wanted=json.dumps({"category": wanted}),
                answer=json.dumps({"category": said}) if said == wanted else said, exact=said == wanted,
            )
            for id_, asked, wanted, said in ANSWERED
        ),
        signed=(SignedReview(by="op2", at_ms=NOW_MS - DAY, bad=0, n=4, current=False),),
    )  # fmt: skip


def capacity() -> list[CapacityRow]:
    """Two pools and four nodes. One engine does not say what its batch holds, and one node is lost."""
    nobody = dict.fromkeys(
        ("device", "host", "disk", "asked", "cold", "refused", "minute", "waiting", "evictions", "load_s")
    )
    busy = {"asked": 21_400, "cold": 390, "refused": 2, "minute": 9, "waiting": 3, "evictions": 207, "load_s": 0.31}
    calm = {"asked": 19_800, "cold": 598, "refused": 0, "minute": 5, "waiting": 0, "evictions": 205, "load_s": 0.27}
    both = {"asked": 41_200, "cold": 988, "refused": 2, "minute": 14, "waiting": 3, "evictions": 412, "load_s": 0.31}

    def row(name: str, nodes: tuple[int, int], routes: int, **more: object) -> CapacityRow:
        fields = {"name": name, "pool": False, "nodes": nodes, "routes": routes}
        return CapacityRow.model_validate({**fields, **nobody, **more})

    return [
        row("eu-shared", (2, 2), 640, pool=True, device=(14, 16), host=(256, 256), disk=811, **both),
        row("us-shared", (1, 2), 118, pool=True, host=(41, 128), disk=130, evictions=0),
        row("gpu-01", (1, 1), 322, device=(8, 8), host=(128, 128), disk=407, **busy),
        row("gpu-02", (1, 1), 318, device=(6, 8), host=(128, 128), disk=404, **calm),
        row("gpu-03", (1, 1), 118, host=(41, 128), disk=130, evictions=0),
        row("gpu-04", (0, 1), 0, of="lost", host=(12, 128), disk=98, evictions=3, load_s=0.4),
    ]


def loop() -> list[LoopRow]:
    """acme's labels are trained on, bolt's version is a candidate, cedar is frozen with a signal, delta has none."""

    def row(tenant: str, label: str, **more: object) -> LoopRow:
        calm = {"signals": (), "remedy": "nothing", "wrong": 0, "loop": None}
        fields = {"tenant": tenant, "route": "production", "label": label, "at_ms": NOW_MS - 40_000}
        return LoopRow.model_validate({**fields, **calm, **more})

    def built(rows: int, step: str, by: str, gate: bool | None = None) -> dict[str, object]:
        return {"dataset": digest(f"{by} labels"), "name": "labels", "rows": rows, "step": step, "by": by, "gate": gate}

    asked = {"signals": ("corrected", "bad"), "remedy": "train"}
    frozen = "training of cedar is frozen until incident INC-2210 is closed: answers are empty"
    return [
        row("acme", "v9", **asked, wrong=12, loop=built(420, "training", "j-0306")),
        row(
            "bolt", "v5", **asked, wrong=3, loop=built(96, "candidate", "support v6", True), candidate="v6", permille=50
        ),
        row("cedar", "v3", **(asked | {"signals": ("bad",)}), wrong=214, frozen=frozen, replayed=28),
        row("delta", "v9"),
    ]


def campaigns() -> list[Campaign]:
    """One under way: two have moved, one is held, one failed and one was left aside; and one that has stopped."""

    def unit(tenant: str, stage: str, wave: int = 0, label: str = "", **more: object) -> CampaignUnit:
        release = view(tenant, label).id if label else None
        fields = {"tenant": tenant, "route": "production", "stage": stage, "wave": wave, "release": release}
        return CampaignUnit.model_validate({**fields, **more})

    waits = {"why": "acme/production is frozen until incident INC-2210 is closed", "resumes": "gating"}
    units = [
        unit("bolt", "moved", 1, "v5", gpu_hours=3.1),
        unit("delta", "moved", 1, "v9", gpu_hours=2.8),
        unit("acme", "held", 2, "v10", gpu_hours=3.4, **waits),
        unit("cedar", "aside", 2, why="somebody else has moved it: promote by op1 the July prices"),
        unit("elm", "training", 2, gpu_hours=2.9),
        unit("fir", "failed", 2, why="gate: exact", gpu_hours=3.0),
        *(unit(name, "waiting", gpu_hours=3.0) for name in ("gale", "hill", "iris")),
    ]
    plan = {"base": digest("B2"), "wave": 4, "gpu_hours": 40, "tolerated": 0.1}
    begun = {"by": "op1", "started_ms": NOW_MS - 5 * HOUR, "plan": plan, "units": {one.name: one for one in units}}
    nodes = [unit("fleet", "failed", 1, why="not what is recorded: acme/production", route=f"gpu-0{n}") for n in (1, 2)]
    nodes += [unit("fleet", "waiting", route=f"gpu-0{n}") for n in (3, 4)]
    over = {
        "state": "stopped",
        "why": "2 of 2 routes have failed: surely more than 10 %",
        "started_ms": NOW_MS - 2 * DAY,
    }
    of_nodes = {"plan": {"engine": "0.33", "wave": 2}, "units": {one.name: one for one in nodes}}
    return [
        Campaign.model_validate({"campaign": "to-b2", "rev": 900, **begun}),
        Campaign.model_validate({"campaign": "vllm-033", "rev": 800, "by": "op2", **over, **of_nodes}),
    ]


def adapters() -> list[AdapterVersion]:
    """acme's versions, each trained on from the one before, and one of bolt's."""
    made: list[AdapterVersion] = []
    for number, (tenant, version, days) in enumerate([("acme", 7, 14), ("acme", 8, 1), ("acme", 9, 0), ("bolt", 5, 0)]):
        manifest = AdapterManifest(
            tenant=tenant,
            name="support",
            base=digest("B2"),
            files=(FileEntry(path="adapter_model.safetensors", size=83_886_080, sha256=digest(f"file {number}")),),
            rank=16,
            alpha=32,
            target_modules=("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
            config_hash=digest(f"recipe {number}"),
            datasets=(digest(f"{tenant} tickets"),),
            parent=made[-1].digest if made and made[-1].manifest.tenant == tenant else None,
            decision=DecisionRecord(
                why_weights="Answers must follow the house's JSON without 900 tokens of instructions in each prompt.",
                alternatives="A prompt with the schema: 94 % valid, 3x the tokens.",
                cost="40 GPU minutes; 84 MB to store and serve.",
            ),
        )
        made.append(
            AdapterVersion(
                manifest=manifest,
                digest=manifest.digest,
                version=version,
                release=view(tenant, f"v{version}").id,
                created_ms=NOW_MS - days * DAY - HOUR,
                created_by="gpu-03",
            )
        )
    return made


def scores(release: str) -> list[Attestation]:
    """The evaluations of acme's live release; nothing of others."""
    if release != view("acme", "v9").id:
        return []
    report = EvaluationReport(
        release=release, suite=digest("acme suite"), n=246, exact=162, valid=175, items=(), seconds=81.0
    )
    return [
        Attestation(
            seq=18, kind=AttestationKind.EVALUATION, subject=release, tenant="acme",
            body=report.model_dump(mode="json"), by="gpu-03", at_ms=NOW_MS - 18 * MINUTE,
        )
    ]  # fmt: skip


def related(tenant: str, route: str, state: HubState) -> RelatedReleases:
    """What other live releases share with a row's: acme's rows are in two others', bolt went out beside it."""
    rows = {row.key: row for row in state.tenants}
    asked = rows.get((tenant, route))
    if asked is None:
        raise KeyError((tenant, route))
    ties = {
        "elm": Tie(what=Shared.DATASET, name="acme/tickets-0302"),
        "aspen": Tie(what=Shared.DATASET, name="acme/tickets-0302"),
        "bolt": Tie(what=Shared.BATCH, name="ci-bot"),
    }
    found = tuple(
        RelatedRelease(tenant=name, route="production", live=row.live, ties=(tie,), flags=row.flags)
        for name, tie in ties.items()
        if (row := rows.get((name, "production"))) is not None and row.live is not None and tenant == "acme"
    )
    return RelatedReleases(
        tenant=tenant, route=route, generation=asked.pointer.generation, total=len(found), companions=found
    )


def traces(tenant: str, route: str, release: str | None) -> Traced:
    """Three requests of a row, the first under the release before; one router does not answer."""
    served = [(view(tenant, "v8"), 40, False), (view(tenant, "v9"), 41, True), (view(tenant, "v9"), 41, False)]
    rows = tuple(
        TraceRow(
            seq=n + 1, request=f"req-{tenant}-{n + 1}", tenant=tenant, route=route, release=one.id,
            generation=generation, replica="gpu-01", admitted_mono_ns=n, admitted_ms=NOW_MS - (15 - 6 * n) * MINUTE,
            finished_ms=NOW_MS - (15 - 6 * n) * MINUTE + 900 + n, status=200, checked=True, bad=bad,
        )
        for n, (one, generation, bad) in enumerate(served)
        if release in (None, one.id)
    )  # fmt: skip
    return Traced(
        tenant=tenant, route=route, release=release, at_ms=NOW_MS, rows=rows,
        counted=4_310 if release is not None else None,
        nodes=(NodeTraced(node="gpu-01", rows=len(rows), complete=True, since_ms=NOW_MS - DAY),
               NodeTraced(node="gpu-04", why="not linked")),
    )  # fmt: skip


def release_detail(release: str) -> ReleaseDetail:
    """acme's releases with their manifests. Raises: StopIteration for any other."""
    version = next(one for one in adapters() if one.release == release)
    manifest = version.manifest
    made = Release(
        tenant=manifest.tenant, form=Form.ADAPTER, base=manifest.base,
        adapter=digest(f"{manifest.tenant} v{version.version}"), label=f"v{version.version}",
    )  # fmt: skip
    return ReleaseDetail(release=made, manifest=manifest)


def data() -> tuple[list[DatasetEntry], list[SuiteEntry]]:
    """A human dataset, a mixed one, and acme's suite."""

    def files(name: str) -> tuple[FileEntry, ...]:
        return (FileEntry(path=f"{name}.jsonl", size=1_200_000, sha256=digest(f"{name} rows")),)

    human = Provenance(
        source="ticket export", tier=Tier.CONFIDENTIAL,
        origin=Origin.HUMAN, verifier="two raters, disagreements dropped", rater_ids=("r-04", "r-11"),
        consent="contract", licence_class="customer-owned", retention_days=365, purpose=("train", "evaluate"),
    )  # fmt: skip
    mixed = human.model_copy(
        update={"origin": Origin.MIXED, "synthetic_depth": 2, "rater_ids": (), "verifier": "a judge model"}
    )
    datasets = [
        DatasetManifest(tenant="acme", name="tickets-0302", rows=8_412, files=files("acme"), provenance=mixed),
        DatasetManifest(tenant="bolt", name="parcels-0214", rows=2_950, files=files("bolt"), provenance=human),
    ]
    suite = SuiteManifest(tenant="acme", name="held-out", items=246, files=files("suite"), provenance=human)
    return (
        [DatasetEntry(digest=digest(f"{one.tenant} tickets"), manifest=one) for one in datasets],
        [SuiteEntry(digest=digest("acme suite"), manifest=suite)],
    )
