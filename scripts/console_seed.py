"""A believable fleet for the console's tests and screenshots, built from the real wire types.

Names and figures are invented. One fixed moment, so that what is drawn of it never changes.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from loradeck.client.responses import DatasetEntry, ReleaseDetail, SuiteEntry
from loradeck.rules.moves.chain import event_hash
from loradeck.schemas.attestation import Attestation, AttestationKind, CheckResult, EvaluationReport, GateResult
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import Role
from loradeck.schemas.jobs import (
    EvaluateSpec,
    ExecutorEvent,
    ExecutorEventType,
    Job,
    JobLogLine,
    JobState,
    PrepareSpec,
    TrainSpec,
)
from loradeck.schemas.link import AckState, EngineState
from loradeck.schemas.log import GENESIS, Event, EventKind, PointerState, Quarantine
from loradeck.schemas.manifest import (
    AdapterManifest,
    AdapterVersion,
    DatasetManifest,
    DecisionRecord,
    FileEntry,
    Origin,
    Provenance,
    SuiteManifest,
    Tier,
)
from loradeck.schemas.related import RelatedRelease, RelatedReleases, Shared, Tie
from loradeck.schemas.release import Form, Release
from loradeck.schemas.review import ReviewSheet, SampledItem, SignedReview
from loradeck.schemas.state import (
    Cause,
    HubState,
    HubStatus,
    Me,
    NodeReplica,
    NodeRow,
    Preview,
    PreviewAction,
    Readiness,
    ReleaseView,
    ReplicaRow,
    Skipped,
    TenantRow,
)
from loradeck.schemas.table import Pin, ReleaseRef
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck.schemas.trace import NodeTraced, Traced, TraceRow

NOW_MS = 1_772_593_964_000
"""2026-03-04 03:12:44Z."""

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def digest(text: str) -> str:
    """A digest that depends on nothing but the text."""
    return hashlib.sha256(text.encode()).hexdigest()


BASES = {"B1": digest("base one"), "B2": digest("base two")}


def view(tenant: str, label: str, base: str = "B2") -> ReleaseView:
    """A release as rows show it; 'base' is the base alone."""
    alone = label == "base"
    release = Release(
        tenant=tenant,
        form=Form.BASE if alone else Form.ADAPTER,
        base=BASES[base],
        adapter=None if alone else digest(f"{tenant} {label}"),
        label=label,
    )
    return ReleaseView(
        id=release.id, form=release.form, label=label, base=BASES[base], base_label=base, adapter=release.adapter
    )


def ref(tenant: str, label: str, base: str = "B2") -> ReleaseRef:
    """A release as pins and table entries carry it."""
    release = Release(
        tenant=tenant, form=Form.ADAPTER, base=BASES[base], adapter=digest(f"{tenant} {label}"), label=label
    )
    return ReleaseRef(id=release.id, release=release, label=label)


class Log:
    """An event log whose chain holds."""

    def __init__(self, rev: int = 88_400) -> None:
        self.rev = rev
        self.prev = digest(f"the event before {rev + 1}")
        self.events: list[Event] = []

    def add(
        self,
        kind: EventKind,
        pointer: PointerState,
        left: ReleaseView | None,
        *,
        actor: str,
        at_ms: int,
        reason: str = "",
        override: bool = False,
        incident: str | None = None,
        role: Role = Role.RELEASER,
    ) -> Event:
        """Append an event; `pointer` is the state it leaves."""
        self.rev += 1
        event_id = digest(f"event {self.rev}")[:32]
        body: dict[str, Any] = {
            "rev": self.rev,
            "id": event_id,
            "txn": digest(f"txn {self.rev}")[:32],
            "epoch": 3,
            "kind": kind.value,
            "tenant": pointer.tenant,
            "route": pointer.route,
            "pointer": pointer.model_copy(update={"last_move": event_id, "moved_ms": at_ms}).model_dump(mode="json"),
            "from_release": left.id if left else None,
            "actor": actor,
            "role": role.value,
            "reason": reason,
            "incident": incident,
            "override": override,
            "undoes": (),
            "payload": {},
            "at_ms": at_ms,
            "prev_hash": self.prev or GENESIS,
        }
        draft = Event.model_validate({**body, "hash": GENESIS})
        event = draft.model_copy(update={"hash": event_hash(draft)})
        self.prev = event.hash
        self.events.append(event)
        return event


def replicas(
    count: int, *, proven: int | None = None, first: int = 1, proof_age: float = 3.0
) -> tuple[ReplicaRow, ...]:
    """Replicas gpu-01 and on; the first `proven` of them proven, the rest flipped and being checked."""
    proven = count if proven is None else proven
    return tuple(
        ReplicaRow(
            node=f"gpu-{first + i:02d}",
            replica=f"gpu-{first + i:02d}",
            state=AckState.PROVEN if i < proven else AckState.FLIPPED,
            flipped_ms=6 + i % 2,
            proven_ms=1800 + 100 * i if i < proven else None,
            proof_age_s=proof_age - i / 4 if i < proven else None,
            heard_age_s=0.2 + i / 10,
            linked=True,
            admitted_left=0,
        )
        for i in range(count)
    )


def row(
    log: Log,
    tenant: str,
    live: ReleaseView | None,
    target: ReleaseView | None,
    *,
    route: str = "production",
    generation: int = 12,
    age_ms: int = DAY,
    flags: tuple[str, ...] = (),
    placed: int = 2,
    proven: int | None = None,
    first: int = 1,
    rate: float = 4.0,
    bad_before: float | None = 0.002,
    bad_now: float | None = 0.002,
    bad_n: int = 400,
    ttft: float | None = 180,
    cause: Cause | None = None,
    readiness: Readiness = Readiness.RESIDENT,
    asks: str | None = None,
    refused: str | None = None,
    skipped: tuple[Skipped, ...] = (),
    prepare: str | None = None,
    actor: str = "ci-bot",
    reason: str = "",
    override: bool = False,
    came_from: ReleaseView | None = None,
    gate: GateResult | None = None,
    held: bool = False,
    streams: int = 0,
    soak: tuple[float, int] = (600, 200),
    served: tuple[float, int] | None = (47_000, 4_100_000),
    estimate_ms: float | None = 6,
) -> TenantRow:
    """One settled pointer that was last moved by a promote."""
    at_ms = NOW_MS - age_ms
    pointer = PointerState(
        tenant=tenant,
        route=route,
        generation=generation,
        release=live.id if live else None,
        beneath=(target.id,) if target else (),
        held=held,
    )
    event = log.add(
        EventKind.PROMOTE,
        pointer,
        came_from or target,
        actor=actor,
        at_ms=at_ms,
        reason=reason,
        override=override,
    )
    assert event.pointer is not None
    action = PreviewAction.ROLLBACK if target else PreviewAction.FALLBACK
    if prepare:
        action = PreviewAction.CANCEL_PREPARE
    rows = replicas(placed, proven=proven, first=first, proof_age=600)
    good = sum(replica.state is AckState.PROVEN for replica in rows)
    return TenantRow(
        tenant=tenant,
        route=route,
        pointer=event.pointer,
        epoch=3,
        live=live,
        flags=flags,
        preview=Preview(
            action=action,
            generation=generation,
            target=target,
            asks=asks,
            refused=refused,
            skipped=skipped,
            prepare=prepare,
            readiness=readiness if target else Readiness.UNKNOWN,
            ready=placed if readiness is Readiness.RESIDENT and target else 0,
            placed=placed,
            estimate_ms=estimate_ms if target else None,
            served_s=served[0] if served and target else None,
            served_requests=served[1] if served and target else 0,
            streams=streams,
        ),
        replicas=rows,
        flipped=placed,
        proven=good,
        listed=0,
        placed=placed,
        attested=(placed, placed) if good == placed else None,
        settled=good == placed,
        cause=cause
        or Cause(
            live=Counts(requests=int(rate * 7200), checked=4200, bad=9),
            prior=Counts(checked=180_000, bad=400) if target else None,
            others=Counts(checked=52_000, bad=210),
            base=None,
            verdict="fine",
        ),
        requests_per_s=rate,
        error_share=0.001,
        bad_before=bad_before,
        bad_now=bad_now,
        bad_n=bad_n,
        ttft95_ms=ttft,
        gate=gate,
        last_event=event,
        soak=soak,
    )


_NAMES = (
    "elm", "fjord", "gale", "harbor", "iris", "juniper", "kestrel", "larch", "meadow", "nimbus", "orchid", "pine",
    "quarry", "reef", "sable", "tundra", "umber", "vale", "willow", "xenon", "yarrow", "zephyr",
)  # fmt: skip


def acme(log: Log) -> TenantRow:
    """The tenant of the incident: v9 was promoted over a failed gate and answers badly."""
    v9, v8, v7 = view("acme", "v9"), view("acme", "v8"), view("acme", "v7")
    return row(
        log,
        "acme",
        v9,
        v7,
        generation=41,
        age_ms=14 * MINUTE,
        flags=("BAD", "OVR"),
        placed=4,
        rate=41.2,
        bad_before=0.004,
        bad_now=0.31,
        bad_n=2310,
        came_from=v8,
        reason="hotfix for v8",
        override=True,
        streams=12,
        gate=GateResult(
            release=v9.id,
            against=v8.id,
            suite=digest("suite"),
            passed=False,
            checks=(
                CheckResult(name="exact", passed=True, value=0.91, threshold=0.9, n=400, low=0.88, high=0.94),
                CheckResult(name="json", passed=False, value=0.71, threshold=0.95, n=400, low=0.66, high=0.75),
            ),
        ),
        skipped=(Skipped(release=v8, reason="breached (bad 18% in 17 min)"),),
        cause=Cause(
            live=Counts(requests=34_600, checked=2310, bad=716),
            prior=Counts(checked=273_000, bad=1090),
            by_replica={f"gpu-{i:02d}": Counts(checked=570 + i, bad=175 + i) for i in range(1, 5)},
            others=Counts(checked=88_000, bad=350),
            base=Counts(checked=1200, bad=11),
            verdict="release",
        ),
    )


def tenants(log: Log) -> list[TenantRow]:
    """The rows, with their events in the log in the order of time, and a few more around the incident."""
    rows = {made.key: made for made in _rows(Log())}
    told: dict[tuple[str, str], TenantRow] = {}
    plan = [(made.pointer.moved_ms or 0, made, False) for made in rows.values()]
    plan += [(NOW_MS - 31 * MINUTE, rows["acme", "production"], True)]
    plan += [(NOW_MS - 109 * MINUTE, rows["bolt", "production"], True)]
    for at_ms, made, earlier in sorted(plan, key=lambda step: (step[0], step[1].tenant != "bolt")):
        first = made.last_event
        assert first is not None
        assert first.pointer is not None
        if earlier:
            _before(log, made, at_ms)
            continue
        event = log.add(
            first.kind, first.pointer, _left(made), actor=first.actor, at_ms=at_ms, reason=first.reason,
            override=first.override,
        )  # fmt: skip
        told[made.key] = made.model_copy(update={"pointer": event.pointer, "last_event": event})
    return list(told.values())


def _left(made: TenantRow) -> ReleaseView | None:
    """The release that a row's last promote left."""
    if made.tenant == "acme":
        return view("acme", "v8")
    return made.preview.target


def _before(log: Log, made: TenantRow, at_ms: int) -> None:
    """What happened on acme and bolt earlier that night."""
    older = made.pointer.model_copy(update={"generation": made.pointer.generation - 1, "beneath": ()})
    if made.tenant == "acme":
        v8, v7 = view("acme", "v8"), view("acme", "v7")
        log.add(
            EventKind.PROMOTE, older.model_copy(update={"release": v8.id, "beneath": (v7.id,)}), v7, actor="ci-bot",
            at_ms=at_ms, reason="nightly retrain",
        )  # fmt: skip
    else:
        v3 = view("bolt", "v3", "B1")
        log.add(
            EventKind.ROLLBACK, older.model_copy(update={"release": view("bolt", "v4", "B1").id}), v3, actor="op2",
            at_ms=at_ms, reason="refusals up", incident="INC-2210", role=Role.OPERATOR,
        )  # fmt: skip


def _rows(log: Log) -> list[TenantRow]:
    """Every kind of row: bad, unproven, no way back, asking, preparing, held, and many that are fine."""
    rows = [
        row(
            log, name, view(name, f"v{3 + i % 5}", "B1" if i % 3 == 0 else "B2"),
            view(name, f"v{2 + i % 5}", "B1" if i % 3 == 0 else "B2"),
            generation=5 + i, age_ms=(i + 2) * 31 * HOUR, placed=2 + i % 3, first=1 + i % 8,
            rate=0.8 + (i * 7 % 23), bad_before=0.001 * (i % 5), bad_now=0.001 * (i % 4), ttft=150 + i * 7 % 90,
        )
        for i, name in enumerate(_NAMES)
    ]  # fmt: skip
    rows.append(
        row(
            log, "delta", view("delta", "v9"), view("delta", "v8"), generation=9, age_ms=41 * DAY, placed=6,
            rate=88.0, bad_before=0.003, bad_now=0.003, ttft=160,
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "cedar", view("cedar", "v3", "B1"), None, generation=3, age_ms=2 * DAY + 11 * HOUR,
            flags=("NOPRIOR",), rate=3.1, refused="v3 is its first release", ttft=210,
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "birch", view("birch", "v4"), view("birch", "v3"), route="staging", generation=7, age_ms=5 * HOUR,
            rate=0.4, asks="not soaked", soak=(5, 5), served=(3, 4), placed=1, first=3,
            readiness=Readiness.WARM, ttft=None, bad_before=None, bad_now=None, estimate_ms=None,
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "aspen", view("aspen", "v6"), view("aspen", "v5"), generation=18, age_ms=40 * MINUTE, rate=12.5,
            flags=("HELD",), held=True, actor="op2",
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "cove", view("cove", "v2"), view("cove", "v1"), generation=4, age_ms=3 * HOUR, rate=6.1,
            flags=("PREP",), prepare="job-5f2a91c0",
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "bolt", view("bolt", "v5"), view("bolt", "v4", "B1"), generation=22, age_ms=14 * MINUTE, placed=4,
            proven=3, flags=("UNPRVN",), rate=9.8, bad_before=0.006, bad_now=0.006, ttft=190,
            readiness=Readiness.WARM, estimate_ms=None,
        )
    )  # fmt: skip
    rows.append(acme(log))
    return rows


def gpu(index: int, *, busy: int, hot: int, **more: Any) -> Gpu:
    """An 80 GB card under load."""
    return Gpu(
        index=index,
        uuid=f"GPU-{digest(str(index))[:8]}",
        name="NVIDIA H100 80GB HBM3",
        utilisation=busy,
        memory_used=(38 + busy // 4) * 2**30,
        memory_total=80 * 2**30,
        power_w=120 + busy * 5.0,
        power_limit_w=700,
        temperature_c=hot,
        clock_sm_mhz=1980 - busy,
        clock_mem_mhz=2619,
        **more,
    )


def nodes() -> list[NodeRow]:
    """Twelve nodes: with GPUs, one that slows down, one without any, one lost with a pin, one cordoned."""
    made: list[NodeRow] = []
    for i in range(1, 13):
        name = f"gpu-{i:02d}"
        gpus = tuple(gpu(k, busy=(i * 17 + k * 29) % 97, hot=48 + (i * 5 + k * 7) % 30) for k in range(2))
        made.append(
            NodeRow(
                node=name,
                version="0.1.0",
                labels={"site": "eu-1", "pool": "chat" if i % 2 else "tools"},
                linked=True,
                heard_age_s=0.1 * i,
                lost=False,
                replicas=(
                    NodeReplica(
                        replica=name,
                        state=EngineState.UP,
                        base=BASES["B2"],
                        base_label="B2",
                        build="embedded",
                        slots=8,
                        loaded=(view("acme", "v9"), view("acme", "v7"), view("bolt", "v5"))[: 1 + i % 3],
                        gpus=(i % 2,),
                    ),
                ),
                host=Host(cpu_percent=20 + i * 3, memory_used=(90 + i) * 2**30, memory_total=512 * 2**30, load1=3.1),
                gpus=gpus,
                nvml=NvmlState.OK,
            )
        )
    lost = made[3]
    made[3] = lost.model_copy(
        update={
            "linked": False,
            "lost": True,
            "heard_age_s": 14.0,
            "pins": (
                Pin(
                    tenant="acme",
                    route="production",
                    release=ref("acme", "v7"),
                    over=(3, 41),
                    actor="op1",
                    reason="node cut off",
                    at_ms=NOW_MS - 5 * MINUTE,
                ),
            ),
        }
    )
    made[5] = made[5].model_copy(
        update={
            "gpus": (
                gpu(0, busy=97, hot=89, throttle=("hw_thermal_slowdown",), xids=(63,), remapped_rows=1),
                gpu(1, busy=94, hot=71),
            )
        }
    )
    made[6] = made[6].model_copy(update={"cordoned": True})
    made[11] = made[11].model_copy(
        update={
            "node": "cpu-12",
            "nvml": NvmlState.NO_GPU,
            "gpus": (),
            "replicas": tuple(one.model_copy(update={"gpus": ()}) for one in made[11].replicas),
            "host": Host(cpu_percent=61, memory_used=13 * 2**30, memory_total=24 * 2**30, load1=1.7),
        }
    )
    return made


def at_work(node: NodeRow, slot: int) -> NodeRow:
    """A node's row as it would report it a while earlier or later: its load comes and goes in waves."""
    if node.lost:
        return node

    def wave(index: int) -> float:
        return 0.5 + 0.5 * math.sin((slot + 7 * index + sum(map(ord, node.node))) / 5)

    gpus = tuple(
        one.model_copy(
            update={
                "utilisation": round((one.utilisation or 0) * wave(one.index)),
                "power_w": round(120 + 5 * (one.utilisation or 0) * wave(one.index)),
                "temperature_c": round((one.temperature_c or 0) - 12 * (1 - wave(one.index))),
            }
        )
        for one in node.gpus
    )
    if slot >= 47:
        gpus = node.gpus  # the last report is the seeded one
    return node.model_copy(update={"gpus": gpus, "heard_age_s": 0.4})


_DECISION = DecisionRecord(why_weights="The format has to hold without a prompt.")


def jobs() -> list[Job]:
    """A training run half-way, an evaluation, a prepare, one queued, one done, one failed."""
    train = TrainSpec(
        tenant="acme", name="support", base=BASES["B2"], datasets=(digest("data"),), decision=_DECISION, steps=40
    )
    return [
        Job(
            id="job-7be10c44", kind="train", tenant="acme", spec=train, state=JobState.RUNNING, node="gpu-02",
            attempt=1, created_ms=NOW_MS - 3 * MINUTE, started_ms=NOW_MS - 2 * MINUTE, by="ci-bot", step=26, of=40,
            metrics={"loss": 0.412, "grad_norm": 1.31, "tokens_per_second": 164.0}, message="step 26 of 40",
        ),
        Job(
            id="job-5f2a91c0", kind="prepare", tenant="cove", state=JobState.RUNNING, node="gpu-05", attempt=1,
            spec=PrepareSpec(tenant="cove", route="production", release=view("cove", "v3").id, expected_generation=4),
            created_ms=NOW_MS - 9_000, started_ms=NOW_MS - 8_000, by="ci-bot", step=2, of=3,
            message="loading on gpu-05",
        ),
        Job(
            id="job-90d1f2aa", kind="evaluate", tenant="bolt", state=JobState.RUNNING, node="gpu-03", attempt=1,
            spec=EvaluateSpec(tenant="bolt", release=view("bolt", "v5").id, suite=digest("suite")),
            created_ms=NOW_MS - 70_000, started_ms=NOW_MS - 60_000, by="ci-bot", step=120, of=400,
            metrics={"exact": 0.93, "valid": 0.98}, message="120 of 400 items",
        ),
        Job(
            id="job-c31f0b72", kind="train", tenant="elm", spec=train.model_copy(update={"tenant": "elm"}),
            state=JobState.QUEUED, created_ms=NOW_MS - 20_000, by="ana",
        ),
        Job(
            id="job-11aa03de", kind="train", tenant="fjord", spec=train.model_copy(update={"tenant": "fjord"}),
            state=JobState.FAILED, node="gpu-01", attempt=1, created_ms=NOW_MS - HOUR,
            started_ms=NOW_MS - 58 * MINUTE, ended_ms=NOW_MS - 55 * MINUTE, by="ana", step=11, of=40,
            metrics={"loss": 9.81, "grad_norm": 412.0}, code="diverged",
            message="loss is not finite at step 12; the last finite one was 9.81",
        ),
        Job(
            id="job-0c77e1b9", kind="evaluate", tenant="acme", state=JobState.DONE, node="gpu-03", attempt=1,
            spec=EvaluateSpec(tenant="acme", release=view("acme", "v9").id, suite=digest("suite")),
            created_ms=NOW_MS - 30 * MINUTE, started_ms=NOW_MS - 29 * MINUTE, ended_ms=NOW_MS - 21 * MINUTE,
            by="ci-bot", step=400, of=400, metrics={"exact": 0.91, "valid": 0.71}, message="report stored",
            result={"passed": False, "exact": 364, "valid": 284, "n": 400},
        ),
    ]  # fmt: skip


def job_events(job: str) -> list[ExecutorEvent]:
    """What an executor reported: of the training run its 26 steps, of which the console missed three."""
    found = next(one for one in jobs() if one.id == job)
    if found.kind != "train" or found.started_ms is None:
        return []
    began, kind = found.started_ms / 1000, ExecutorEventType
    made = [_said(job, 0, began, kind.STARTED), _said(job, 1, began + 2, kind.HEARTBEAT, message="loading the base")]
    for step in range(1, (found.step or 0) + 1):
        if 12 <= step <= 14:
            continue
        metrics = {
            "loss": 2.4 * math.exp(-step / 11) + 0.17 + 0.05 * math.sin(step * 2.1),
            "grad_norm": 1.3 + 1.8 * math.exp(-step / 6) + 0.3 * math.sin(step * 1.3),
            "tokens_per_second": 150 + 10 * math.sin(step),
        }
        if step == found.step:
            metrics = found.metrics
        ts = began + 5 + 4 * step
        made.append(_said(job, len(made), ts, kind.PROGRESS, step=step, of=40, metrics=metrics))
        if step == 20:
            made.append(_said(job, len(made), ts, kind.CHECKPOINT, step=20, of=40, message="whole, synced and named"))
    return made


def _said(job: str, seq: int, ts: float, type_: ExecutorEventType, **more: Any) -> ExecutorEvent:
    return ExecutorEvent(run=job, attempt=1, seq=seq, ts=ts, type=type_, **more)


def job_log(job: str) -> list[JobLogLine]:
    """What the training run printed."""
    if job != "job-7be10c44":
        return []
    texts = ["base 4ed2e5: 32 layers, 8.03 B parameters", "320 rows, longest 212 tokens; padding 11 %"]
    texts += [f"batch {step}: {180 + step * 7 % 31} tokens of answers" for step in range(1, 27)]
    return [JobLogLine(attempt=1, number=i + 1, text=text) for i, text in enumerate(texts)]


def hub_state(*, role: Role = Role.RELEASER, production: bool = True, at_ms: int = NOW_MS) -> HubState:
    """The whole fleet at 03:12:44Z."""
    log = Log()
    rows = tenants(log)
    head = log.events[-1]
    return HubState(
        status=HubStatus(
            hub="eu-1",
            production=production,
            version="0.1.0",
            epoch=3,
            rev=head.rev,
            hash=head.hash,
            at_ms=at_ms,
            started_ms=at_ms - 3 * DAY,
            sqlite="3.53.4",
        ),
        me=Me(actor="op1", role=role, local=False),
        tenants=tuple(rows),
        nodes=tuple(nodes()),
        jobs=tuple(jobs()),
        events=tuple(log.events),
    )


def rolled_back(
    before: TenantRow, log: Log, *, actor: str = "op1", at_ms: int = NOW_MS, acks: int = 0, proofs: int = 0
) -> tuple[Event, TenantRow]:
    """The event and the row after R on a row: `acks` replicas flipped, `proofs` of them proven."""
    target, left = before.preview.target, before.live
    assert target is not None
    assert left is not None
    pointer = before.pointer.model_copy(
        update={
            "generation": before.pointer.generation + 1,
            "release": target.id,
            "beneath": (),
            "held": True,
            "quarantined": (Quarantine(release=left.id, event="e"),),
        }
    )
    event = log.add(EventKind.ROLLBACK, pointer, left, actor=actor, at_ms=at_ms, role=Role.OPERATOR)
    rows = tuple(
        replica.model_copy(
            update={
                "state": AckState.PROVEN if i < proofs else AckState.FLIPPED if i < acks else None,
                "flipped_ms": 6.0 + i % 2 if i < acks else None,
                "proven_ms": 1800.0 + 100 * i if i < proofs else None,
                "proof_age_s": 3.0 if i < proofs else None,
                "admitted_left": 0 if i < acks else None,
            }
        )
        for i, replica in enumerate(before.replicas)
    )
    further = view(before.tenant, "v6")
    return event, before.model_copy(
        update={
            "pointer": event.pointer,
            "live": target,
            "preview": before.preview.model_copy(
                update={"generation": pointer.generation, "target": further, "skipped": ()}
            ),
            "replicas": rows,
            "flipped": acks,
            "proven": proofs,
            "settled": proofs == before.placed,
            "attested": (proofs, before.placed) if proofs == before.placed else None,
            "flags": ("HELD",) if proofs == before.placed else ("UNPRVN", "HELD"),
            "cause": before.cause.model_copy(
                update={
                    "live": Counts(requests=6_180, checked=412, bad=2) if proofs else Counts(),
                    "by_replica": {replica.replica: Counts(checked=103, bad=i % 2) for i, replica in enumerate(rows)}
                    if proofs
                    else {},
                    "verdict": "fine" if proofs else "too_few",
                }
            ),
            "bad_before": before.bad_now,
            "bad_now": 0.004 if proofs else None,
            "bad_n": 412 if proofs else 0,
            "gate": None,
            "last_event": event,
            "left_answered": 35_118,
            "last_left_ms": at_ms + 2_000 if proofs == before.placed else None,
        }
    )


# ---- what the feed does not carry ----------------------------------------------------------------------------


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


def company(tenant: str, route: str, state: HubState) -> RelatedReleases:
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
