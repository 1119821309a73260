"""What the incident needs before it can happen: a base, three tenants, data, trained and judged adapters.

Everything is done with `loradeck` commands, and the work by the fleet's own executors. On a fleet that has all of
it from an earlier run, nothing is done twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from incident.fleet import Fleet, NotReady
from incident.progress import Progress
from incident.traffic import Prompt
from loradeck.client.api import HubApi
from loradeck.schemas.attestation import AttestationKind, EvaluationReport
from loradeck.schemas.jobs import Job, JobState

TICKETS = Path(__file__).resolve().parent.parent / "tickets"
SUITE = "held-out"
ADAPTER = "tickets"

VERSIONS: Mapping[str, Sequence[str]] = {"acme": ("v1", "v2", "v3"), "bolt": ("v1",), "cedar": ("v1",)}
"""Tenant -> its adapter versions, in the order they are trained. acme's v3 learns from corrupted labels."""

TRAINS_ON = {"acme": "gpu-01", "bolt": "gpu-02", "cedar": "gpu-02"}
SCORES_ON = "gpu-02"
"""Where jobs run: acme's three versions are trained one after the other, so all else is the other node's work. Only a
tenant's last version is scored where it was trained, which has nothing else to do then."""

ROUTE_FLAGS = (
    *("--min-replicas", "2", "--soak-seconds", "5", "--soak-requests", "5"),
    *("--gate-suite", SUITE, "--min-valid", "0.8", "--min-exact", "0.75", "--max-drop", "0.15"),
    *("--breach-bad", "0.2", "--breach-n", "20"),
)
"""A short soak, so that eight minutes suffice; the console says so on the row."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """`releases`: tenant -> version -> release id. `prompts`: tenant -> held-out items with each release's answer."""

    keys: Mapping[str, str]
    releases: Mapping[str, Mapping[str, str]]
    prompts: Mapping[str, Sequence[Prompt]]
    reports: Mapping[str, EvaluationReport]


async def lay(fleet: Fleet, api: HubApi, progress: Progress) -> Ground:
    """Register, train and evaluate whatever is missing.

    Raises:
        NotReady: a job failed; the message holds its code and last words.
    """
    done = {state.name for state in await api.tenants()}
    with progress.step("registering the base, tenants, data and routes") as step:
        await asyncio.to_thread(_register, fleet, step, done)
    with progress.step("training 5 adapters and scoring them on held-out tickets") as step:
        work = _Work(fleet, api, step)
        async with asyncio.TaskGroup() as tasks:
            for tenant in VERSIONS:
                tasks.create_task(work.tenant(tenant))
    reports = await _reports(api)
    releases = {tenant: await work.released(tenant) for tenant in VERSIONS}
    return Ground(
        keys={tenant: (fleet.root / f"{tenant}.key").read_text().strip() for tenant in VERSIONS},
        releases=releases,
        prompts={tenant: _prompts(tenant, releases[tenant], reports) for tenant in VERSIONS},
        reports=reports,
    )


def _register(fleet: Fleet, step: Progress, done: set[str]) -> None:
    if not done:
        fleet.cli("base", "add", str(fleet.base))
    for tenant in VERSIONS:
        step.update(tenant)
        folder = TICKETS / tenant
        if tenant not in done:
            fleet.cli("tenant", "create", tenant)
            for rows in sorted(folder.glob("tickets-v*.jsonl")):
                fleet.cli("dataset", "add", str(rows), "--tenant", tenant, "--name", rows.stem)
            schema = ("--answer-schema", str(folder / "answer.schema.json"))
            fleet.cli("suite", "add", str(folder / f"{SUITE}.jsonl"), "--tenant", tenant, "--name", SUITE, *schema)
        key = fleet.root / f"{tenant}.key"
        if not key.exists():
            fleet.cli("tenant", "key", "create", tenant, "--out", str(key))
        fleet.cli("route", "set", tenant, "--file", str(folder / "route.toml"), *ROUTE_FLAGS, "--yes")


class _Work:
    """Trains and evaluates what a tenant is still missing, in order."""

    def __init__(self, fleet: Fleet, api: HubApi, step: Progress) -> None:
        self._fleet = fleet
        self._api = api
        self._step = step
        self._said: dict[str, str] = {}

    async def tenant(self, tenant: str) -> None:
        evaluations: list[asyncio.Task[None]] = []
        for version in VERSIONS[tenant]:
            if version not in await self.released(tenant):
                recipe = str(TICKETS / tenant / f"train-{version}.toml")
                host = ("--label", f"host={TRAINS_ON[tenant]}")
                job = await asyncio.to_thread(self._fleet.cli, "job", "train", recipe, *host)
                await self._follow(Job.model_validate(job), f"{tenant} {version} trains")
            evaluations.append(asyncio.create_task(self._evaluate(tenant, version)))
        await asyncio.gather(*evaluations)

    async def released(self, tenant: str) -> dict[str, str]:
        """Version -> release id, of the adapter versions there are."""
        return {f"v{v.version}": v.release for v in await self._api.adapter_versions(tenant, ADAPTER)}

    async def _evaluate(self, tenant: str, version: str) -> None:
        release = (await self.released(tenant))[version]
        if release in await _reports(self._api):
            return
        words = ("job", "evaluate", tenant, version, "--suite", SUITE, "--max-new-tokens", "24", "--batch", "20")
        last = version == VERSIONS[tenant][-1]
        host = ("--label", f"host={TRAINS_ON[tenant] if last else SCORES_ON}")
        job = await asyncio.to_thread(self._fleet.cli, *words, *host)
        await self._follow(Job.model_validate(job), f"{tenant} {version} is scored")

    async def _follow(self, job: Job, what: str) -> None:
        while job.state not in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
            await asyncio.sleep(0.5)
            job = await self._api.job(job.id)
            self._said[job.id] = f"{what} {job.step}/{job.of}" if job.of else f"{what} ({job.state.value})"
            self._step.update(", ".join(self._said.values()))
        self._said.pop(job.id, None)
        if job.state is not JobState.DONE:
            raise NotReady(f"job {job.id} ({what}) {job.state.value}: {job.code or ''} {job.message}")


async def _reports(api: HubApi) -> dict[str, EvaluationReport]:
    """Release id -> its newest evaluation."""
    found = await api.attestations(kind=AttestationKind.EVALUATION)
    return {one.subject: EvaluationReport.model_validate(one.body) for one in found}


def _prompts(tenant: str, releases: Mapping[str, str], reports: Mapping[str, EvaluationReport]) -> list[Prompt]:
    """The tenant's held-out items as its callers send them, with the answer each release gave when it was scored."""
    answers = {release: {item.id: item.answer for item in reports[release].items} for release in releases.values()}
    lines = (TICKETS / tenant / f"{SUITE}.jsonl").read_text().splitlines()
    return [
        Prompt(
            id=row["id"],
            messages=[{"role": "user", "content": row["prompt"]}],
            answers={release: found[row["id"]] for release, found in answers.items()},
        )
        for row in map(json.loads, lines)
    ]
