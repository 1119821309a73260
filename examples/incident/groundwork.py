"""Makes what the incident needs before it can happen: a base, a pool, three tenants, data, trained and judged adapters.

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
from incident.progress import Board
from incident.traffic import Prompt
from loradeck.client.api import HubApi
from loradeck.schemas.attestation import AttestationKind, EvaluationReport
from loradeck.schemas.jobs import Job, JobState
from tickets.generate import PARENTS

TICKETS = Path(__file__).resolve().parent.parent / "tickets"
SUITE = "short"
"""Held-out items: all about fraud, which tells v2 from v1, and few others."""

ADAPTER = "tickets"
ANSWER_TOKENS = 16
"""Longest answer, in tokens, when a release is scored and when its callers ask it. A right one has 13 and an end."""

TENANT = "acme"
"""The tenant that the incident happens to: its releases pass a gate, so they are scored on held-out items."""

VERSIONS: Mapping[str, Sequence[str]] = {TENANT: ("v1", "v2", "v3"), "cedar": ("v1",), "bolt": ("v1",)}
"""Tenant -> its adapter versions, in the order they are trained. v3 learns from corrupted labels."""

ORDER = ((TENANT, "v1"), ("cedar", "v1"), (TENANT, "v2"), (TENANT, "v3"), ("bolt", "v1"))
"""The order in which trainings are submitted. TENANT's follow on one another, as versions are numbered, and each is
scored: they take longest, so bolt's comes last and fills the node on which v3 is not scored."""

FIRST = ("--priority", "1")
"""Of the incident's tenant: its versions are trained and scored one after the other, so they must not wait."""

FOLLOW_S = 0.5
"""How often a job's state is read."""

ROUTE_FLAGS = ("--soak-seconds", "3", "--soak-requests", "5")
"""A short soak, so that minutes suffice; the console says so on the row."""

ON_DEMAND = "bolt"
"""The tenant whose route shares slots; the others' are `always`: what is live, and where R goes, stays resident."""

POOL = "shared"
POOL_LABEL = "site=demo"
POOLED = ("cedar", "bolt")
"""A pool of both nodes, by a label that they carry, and the tenants whose routes are placed in it, on one node each.
TENANT's is placed by labels, on every node."""

GATE_FLAGS = (
    "--gate-suite",
    SUITE,
    "--min-valid",
    "0.8",
    "--min-exact",
    "0.35",
    "--max-drop",
    "0.25",
    "--no-bound-drop",
)
"""v1, which is trained for half a minute, passes; 23 items suffice to see a drop of a quarter."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """`releases`: tenant -> version -> release id. `prompts`: tenant -> held-out items with each release's answer."""

    releases: Mapping[str, Mapping[str, str]]
    prompts: Mapping[str, Sequence[Prompt]]
    reports: Mapping[str, EvaluationReport]


def make_pool(fleet: Fleet, *, new: bool) -> None:
    """Makes the pool, unless it is not new."""
    if new:
        fleet.cli("pool", "set", POOL, "--label", POOL_LABEL, "--reason", "tenants that need no node of their own")


def register(fleet: Fleet, tenant: str, *, new: bool) -> None:
    """Registers a tenant's data, suite, key and route. A tenant that is not new has its data already."""
    folder = TICKETS / tenant
    gated = tenant == TENANT
    if new:
        fleet.cli("tenant", "create", tenant)
        for rows in sorted(folder.glob("tickets-v*.jsonl")):
            fleet.cli("dataset", "add", str(rows), "--tenant", tenant, "--name", rows.stem)
        if gated:
            schema = ("--answer-schema", str(folder / "answer.schema.json"))
            fleet.cli("suite", "add", str(folder / f"{SUITE}.jsonl"), "--tenant", tenant, "--name", SUITE, *schema)
    key = fleet.root / f"{tenant}.key"
    if not key.exists():
        fleet.cli("tenant", "key", "create", tenant, "--out", str(key))
    residency = "on-demand" if tenant == ON_DEMAND else "always"
    placed = ("--pool", POOL, "--replicas", "1", "--min-replicas", "1") if tenant in POOLED else ("--min-replicas", "2")
    flags = (*placed, *ROUTE_FLAGS, "--residency", residency, *(GATE_FLAGS if gated else ()))
    fleet.cli("route", "set", tenant, "--file", str(folder / "route.toml"), *flags, "--yes")


def keys(fleet: Fleet) -> dict[str, str]:
    """Tenant -> the bearer key of its callers, once they are registered."""
    return {tenant: (fleet.root / f"{tenant}.key").read_text().strip() for tenant in VERSIONS}


class Work:
    """Trains the versions that are missing and scores TENANT's, as jobs of the fleet. None is done twice."""

    def __init__(self, fleet: Fleet, api: HubApi, board: Board) -> None:
        self._fleet = fleet
        self._api = api
        self._board = board
        self._submitted = {one: asyncio.Event() for one in ORDER}
        self._fit = {(tenant, one): asyncio.Event() for tenant, versions in VERSIONS.items() for one in versions}

    async def run(self) -> None:
        """Does all of it.

        Raises:
            NotReady: a job failed; the message holds its code and last words.
        """
        async with asyncio.TaskGroup() as tasks:
            for tenant in VERSIONS:
                tasks.create_task(self._tenant(tenant))

    async def promotable(self, tenant: str, version: str) -> str:
        """Waits until a version is trained and, where its route has a gate, scored. Returns its release id."""
        await self._fit[tenant, version].wait()
        return (await self.released(tenant))[version]

    async def released(self, tenant: str) -> dict[str, str]:
        """Version -> release id, of the adapter versions there are."""
        return {f"v{v.version}": v.release for v in await self._api.adapter_versions(tenant, ADAPTER)}

    async def ground(self) -> Ground:
        """The releases and reports that there are by now."""
        reports = await _reports(self._api)
        releases = {tenant: await self.released(tenant) for tenant in VERSIONS}
        return Ground(
            releases=releases,
            prompts={tenant: _prompts(tenant, releases[tenant], reports) for tenant in VERSIONS},
            reports=reports,
        )

    async def _tenant(self, tenant: str) -> None:
        """Trains the versions one after the other, by which they are numbered; scores them meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            for version in VERSIONS[tenant]:
                for before in ORDER[: ORDER.index((tenant, version))]:
                    await self._submitted[before].wait()
                job = None if version in await self.released(tenant) else await self._train(tenant, version)
                self._submitted[tenant, version].set()
                if job is not None:
                    await self._follow(job, f"{tenant} {version} trains")
                if tenant == TENANT:
                    tasks.create_task(self._score(version))
                else:
                    self._fit[tenant, version].set()

    async def _train(self, tenant: str, version: str) -> Job:
        recipe = TICKETS / tenant / f"train-{version}.toml"
        parent = PARENTS.get(f"{tenant} {version}")
        if parent is not None:
            (digest,) = (
                v.digest for v in await self._api.adapter_versions(tenant, ADAPTER) if f"v{v.version}" == parent
            )
            text = f'parent = "{digest}"\n{recipe.read_text()}'
            recipe = self._fleet.root / recipe.name
            recipe.write_text(text)
        priority = FIRST if tenant == TENANT else ()
        return Job.model_validate(await asyncio.to_thread(self._fleet.cli, "job", "train", str(recipe), *priority))

    async def _evaluate(self, version: str) -> Job | None:
        release = (await self.released(TENANT))[version]
        if release in await _reports(self._api):
            return None
        words = ("job", "evaluate", TENANT, version, "--suite", SUITE, "--batch", "24", *FIRST)
        longest = ("--max-new-tokens", str(ANSWER_TOKENS))
        return Job.model_validate(await asyncio.to_thread(self._fleet.cli, *words, *longest))

    async def _score(self, version: str) -> None:
        job = await self._evaluate(version)
        if job is not None:
            await self._follow(job, f"{TENANT} {version} is scored")
        self._fit[TENANT, version].set()

    async def _follow(self, job: Job, what: str) -> None:
        while job.state not in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
            self._board.show(what, f"{job.step}/{job.of}" if job.of else f"({job.state.value})")
            await asyncio.sleep(FOLLOW_S)
            job = await self._api.job(job.id)
        self._board.drop(what)
        if job.state is not JobState.DONE:
            raise NotReady(f"job {job.id} ({what}) {job.state.value}: {job.code or ''} {job.message}")


async def _reports(api: HubApi) -> dict[str, EvaluationReport]:
    """Release id -> its newest evaluation."""
    found = await api.attestations(kind=AttestationKind.EVALUATION)
    return {one.subject: EvaluationReport.model_validate(one.body) for one in found}


def _prompts(tenant: str, releases: Mapping[str, str], reports: Mapping[str, EvaluationReport]) -> list[Prompt]:
    """The tenant's held-out items as its callers send them, with the answer each release gave when it was scored."""
    scored = [release for release in releases.values() if release in reports]
    answers = {release: {item.id: item.answer for item in reports[release].items} for release in scored}
    lines = (TICKETS / tenant / f"{SUITE}.jsonl").read_text().splitlines()
    return [
        Prompt(
            id=row["id"],
            messages=[{"role": "user", "content": row["prompt"]}],
            answers={release: found[row["id"]] for release, found in answers.items()},
        )
        for row in map(json.loads, lines)
    ]
