"""Jobs that a hub gives to a node, and the rows that they are about."""

from __future__ import annotations

from tests.integration.agent.artifacts import CANARIES, Adapter
from tests.integration.agent.fake_hub import FakeHub

from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import (
    EvaluateSpec,
    JobAssignment,
    MergeSpec,
    PrepareSpec,
    TrainSpec,
)
from loradeck.schemas.link import JobEvent
from loradeck.schemas.manifest import (
    DatasetManifest,
    DecisionRecord,
    Origin,
    Provenance,
    SuiteManifest,
)

ROWS = b'{"id": "i1", "prompt": "hello", "answer": "x"}\n'
OWN = Provenance(origin=Origin.HUMAN, consent="own", licence_class="customer-owned", purpose=("train",))


def train(base: str, dataset: DatasetManifest, name: str, *, job: str = "j1", lease: int = 1) -> JobAssignment:
    spec = TrainSpec(
        tenant="acme",
        name=name,
        base=base,
        datasets=(dataset.digest,),
        decision=DecisionRecord(why_weights="the test needs weights"),
    )
    return JobAssignment(id=job, lease=lease, attempt=lease, spec=spec)


async def started(hub: FakeHub, job: str = "j1") -> JobEvent:
    """The first step of a job."""
    return await hub.wait(JobEvent, lambda e: e.job == job and e.event.type is ExecutorEventType.PROGRESS)


def evaluate(adapter: Adapter, suite: SuiteManifest, *, job: str = "e1", offline: bool = False) -> JobAssignment:
    spec = EvaluateSpec(tenant="acme", release=adapter.release.id, suite=suite.digest, offline=offline)
    return JobAssignment(id=job, lease=1, attempt=1, spec=spec, release=adapter.ref, canaries=CANARIES)


def merge(adapter: Adapter, route: str = "production", *, job: str = "m1") -> JobAssignment:
    spec = MergeSpec(tenant="acme", release=adapter.release.id, route=route)
    return JobAssignment(id=job, lease=1, attempt=1, spec=spec, release=adapter.ref, canaries=CANARIES)


def prepare(adapter: Adapter, job: str = "p1", lease: int = 1) -> JobAssignment:
    spec = PrepareSpec(tenant="acme", route="production", release=adapter.release.id, expected_generation=1)
    return JobAssignment(id=job, lease=lease, attempt=lease, spec=spec, release=adapter.ref, canaries=CANARIES)
