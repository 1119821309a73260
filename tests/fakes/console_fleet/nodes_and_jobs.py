"""The nodes of the made-up fleet, with their GPUs and engines, and its jobs with what they report."""

from __future__ import annotations

import math
from typing import Any

from tests.fakes.console_fleet.pointers import BASES, HOUR, MINUTE, NOW_MS, digest, ref, view

from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.jobs import EvaluateSpec, Job, JobLogLine, JobState, PrepareSpec, TrainSpec
from loradeck.schemas.manifest import (
    DecisionRecord,
)
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.state import (
    NodeReplica,
    NodeRow,
)
from loradeck.schemas.table import Pin
from loradeck.schemas.telemetry import Gpu, Host, NvLink, NvmlState


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
        nvlink=NvLink(links=18, up=18, down=0, speed_mbps=26562, errors={"replay": 0, "recovery": 0, "CRC": 0}),
        mig=False,
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
