"""Judges how an executor ended, verifies its result and hands it to the hub.

Whole weights that were trained or merged on this node stay on it, as bases do; only their manifest goes to the hub.

    merged/DIGEST/                 the files: configure an engine with this folder as its `base`
    merged/DIGEST.manifest.json    their BaseManifest, as `loradeck base add` reads it
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from loradeck.artifacts import BadArtifact, base_manifest, scan
from loradeck.artifacts.adapters import MANIFEST
from loradeck.schemas.attestation import CanaryRecord, EvaluationReport, MergeReport
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.generation import ROWS, GenerateSpec, GenerationReport
from loradeck.schemas.jobs import JobAssignment, JudgeSpec, LeakSpec, MergeSpec, ProveSpec, TrainSpec
from loradeck.schemas.manifest import AdapterManifest, BaseManifest
from loradeck.schemas.training import Weights
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import fsync_folder, write_durably
from loradeck_agent.jobs.backend import Standing
from loradeck_agent.jobs.events import failure, job_event
from loradeck_agent.jobs.executor import EXIT_CODES, Executor, read_json
from loradeck_agent.jobs.launch import base_of
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.store.fetch import as_agent_error
from loradeck_agent.store.releases import verify_adapter
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)

Result = TypeVar("Result")

WEIGHTS = "weights"
"""Folder in which the merge executor leaves the weights, beside WEIGHTS.manifest.json and report.json."""

RETRY_S = 1.0
REACH_S = 600.0
"""How long a finished job tries to reach the hub with its results before it is given up."""


@dataclass(eq=False)
class Results:
    """Verifies results and hands them over. `merged` is the folder where whole weights stay.

    `bases`: folders of the bases that jobs alone read, by digest; `hashed` is set once these are all that there are.
    """

    _hub: HubApi
    _engines: tuple[EngineReplica, ...]
    _merged: Path
    _bases: Mapping[str, Path]
    _hashed: asyncio.Event

    async def outcome(
        self, job: JobAssignment, executor: Executor, terminal: ExecutorEvent | None
    ) -> tuple[ExecutorEvent, dict[str, Any] | None]:
        """The terminal event of an ended process, and its result.

        It is FINISHED only with a clean exit, a terminal event that says so, and a verified result.
        """
        standing, seq = executor.workload.look(), executor.top + 1
        status = standing.status
        clean = terminal is not None and terminal.type is ExecutorEventType.FINISHED and status in (0, None)
        if executor.attempt.cancelled and not clean:
            at = terminal.seq if terminal else seq
            return job_event(job, at, ExecutorEventType.PREEMPTED, "cancelled", code="cancelled"), None
        if terminal is not None and terminal.type is not ExecutorEventType.FINISHED:
            return terminal, None
        if terminal is None or status not in (0, None):
            return self._ended_badly(job, executor, terminal.seq if terminal else seq, standing), None
        try:
            async with asyncio.timeout(REACH_S):
                return terminal, {**terminal.data, **await self._result(job, executor)}
        except TimeoutError:
            return failure(job, terminal.seq, AgentError("unreachable", "the hub did not accept the result")), None
        except AgentError as error:
            return failure(job, terminal.seq, error), None

    def _ended_badly(self, job: JobAssignment, executor: Executor, seq: int, standing: Standing) -> ExecutorEvent:
        status, said = standing.status, standing.scheduled
        by = f"; {said.words}" if said is not None else ""
        where = (executor.folder.first_error() or f"see {executor.folder.log.name} in the job's folder") + by
        if status == 0:
            return failure(
                job, seq, AgentError("no_terminal_event", "the executor ended without a terminal event", where)
            )
        if status is None:
            return failure(
                job, seq, AgentError("executor_lost", "the executor ended, its exit status is unknown", where)
            )
        if EXIT_CODES.get(status) == "preempted":
            return job_event(job, seq, ExecutorEventType.PREEMPTED, f"stopped on request{by}", code="preempted")
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        code = EXIT_CODES.get(status, "killed" if status < 0 else "executor_failed")
        return failure(job, seq, AgentError(code, f"the executor ended {how}", where))

    async def _result(self, job: JobAssignment, executor: Executor) -> dict[str, Any]:
        """Verifies a result and hands it to the hub. Raises: AgentError: it is not its manifest's, or was refused."""
        out = await asyncio.to_thread(executor.folder.take_result)
        try:
            if isinstance(job.spec, TrainSpec) and job.spec.weights is Weights.FULL:
                return await asyncio.to_thread(keep_trained, out, self._merged)
            if isinstance(job.spec, TrainSpec):
                return await self._trained(out, job.spec)
            if isinstance(job.spec, MergeSpec):
                return await asyncio.to_thread(keep_merged, out, self._merged)
            # These are seldom asked for, and an agent without them is smaller.
            if isinstance(job.spec, LeakSpec):
                from loradeck.schemas.attestation import LeakReport

                return {"report": LeakReport.model_validate(read_json(out / "report.json")).model_dump(mode="json")}
            if isinstance(job.spec, JudgeSpec):
                from loradeck.schemas.judge_report import JudgeReport

                return {"report": JudgeReport.model_validate(read_json(out / "report.json")).model_dump(mode="json")}
            if isinstance(job.spec, GenerateSpec):
                return await self._generated(out)
            if isinstance(job.spec, ProveSpec):
                from loradeck.schemas.training import TrainingProof

                return {"proof": TrainingProof.model_validate(read_json(out / "proof.json")).model_dump(mode="json")}
            report = EvaluationReport.model_validate(read_json(out / "report.json"))
            recorded = (out / "canary.json").exists()  # else the engine's were recorded as the release was made ready
            record = CanaryRecord.model_validate(read_json(out / "canary.json")) if recorded else None
        except ValidationError as error:
            raise AgentError("result_unreadable", "the executor's result does not fit", first_wrong(error)) from error
        canary = {"canary": record.model_dump(mode="json")} if record else {}  # a hub of before takes no null here
        return {"report": report.model_dump(mode="json"), **canary}

    async def _trained(self, out: Path, spec: TrainSpec) -> dict[str, Any]:
        """Registers a trained adapter: its files first, so that no version is ever without them."""
        manifest = AdapterManifest.model_validate(read_json(out / MANIFEST))
        _fits(manifest, spec)
        await self._hashed.wait()  # of a job that an earlier agent began
        base = base_of(self._engines, manifest.base, self._bases)
        await asyncio.to_thread(verify_adapter, out, manifest, base, beside=(MANIFEST,))
        await self._until_reached(lambda: self._hub.upload(out, manifest.files))
        version = await self._until_reached(lambda: self._hub.register(manifest))
        return {"adapter": version.digest, "version": version.version, "release": version.release}

    async def _generated(self, out: Path) -> dict[str, Any]:
        """Sends the rows that a generate job wrote; the hub makes the dataset's manifest."""
        report = GenerationReport.model_validate(read_json(out / "report.json"))
        files = {entry.path: entry for entry in await asyncio.to_thread(scan, out)}
        if (file := files.get(ROWS)) is None:
            raise AgentError("result_missing", "the executor left no rows", ROWS)
        await self._until_reached(lambda: self._hub.upload(out, (file,), rows=True))
        return {"report": report.model_dump(mode="json"), "file": file.model_dump(mode="json")}

    async def _until_reached(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Makes a call to the hub until there is an answer; a result must not be lost to a hub that restarts."""
        while True:
            try:
                return await call()
            except Unreachable as error:
                log.info("the hub does not accept a result yet: %s", error)
                await asyncio.sleep(RETRY_S)


def keep_trained(out: Path, weights: Path) -> dict[str, Any]:
    """Verifies a base that a full training left in `out` and moves its files to `weights/DIGEST`. Blocks.

    Raises: AgentError: `manifest_mismatch`; or the disk refused.
    """
    manifest = BaseManifest.model_validate(read_json(out / MANIFEST))
    place, made = weights / manifest.digest, out / WEIGHTS
    if place.exists():
        made = place
    else:
        with as_agent_error(made):
            made.mkdir(exist_ok=True)
            for entry in manifest.files:  # an agent before this one may have moved some
                if (out / entry.path).exists():
                    (out / entry.path).replace(made / entry.path)
    _keep(made, place, manifest)
    return {"base": manifest.digest, "folder": str(place), "manifest": manifest.model_dump(mode="json")}


def keep_merged(out: Path, merged: Path) -> dict[str, Any]:
    """Verifies the weights that a merge left in `out` and moves them to `merged/DIGEST`. Blocks: call it in a thread.

    Weights that lie there already under this digest stay. Returns the job's result for the hub.

    Raises: AgentError: `manifest_mismatch`, the files are not those of the manifest and report; or the disk refused.
    """
    manifest = BaseManifest.model_validate(read_json(out / f"{WEIGHTS}.manifest.json"))
    report = MergeReport.model_validate(read_json(out / "report.json"))
    place = merged / manifest.digest
    made = out / WEIGHTS if (out / WEIGHTS).is_dir() else place  # an agent before this one came that far
    if manifest.digest != report.merged:
        where = f"manifest {manifest.digest}, report {report.merged}"
        raise AgentError("manifest_mismatch", "the report is on other weights than the manifest", where)
    _keep(made, place, manifest)
    return {
        "files": [entry.model_dump(mode="json") for entry in manifest.files],
        "report": report.model_dump(mode="json"),
        "folder": str(place),
    }


def _keep(made: Path, place: Path, manifest: BaseManifest) -> None:
    """Verifies weights and gives them their place, with their manifest beside it. What lies there already stays."""
    with as_agent_error(made):
        found = base_manifest(made, "-", "-").digest
        if found != manifest.digest:
            raise BadArtifact(
                "manifest_mismatch",
                "the weights are not those of their manifest",
                f"digest {found}, manifest {manifest.digest}",
            )
        if not place.exists():
            write_durably(place.with_name(f"{place.name}.manifest.json"), manifest.model_dump_json(indent=1).encode())
            made.rename(place)
            fsync_folder(place.parent)


def _fits(manifest: AdapterManifest, spec: TrainSpec) -> None:
    """Raises AgentError `manifest_mismatch` when an adapter is not what the job was to make."""
    pairs = {
        "tenant": (manifest.tenant, spec.tenant),
        "name": (manifest.name, spec.name),
        "base": (manifest.base, spec.base),
        "datasets": (manifest.datasets, spec.datasets),
        "parent": (manifest.parent, spec.parent),
    }
    for what, (found, asked) in pairs.items():
        if found != asked:
            raise AgentError("manifest_mismatch", f"the adapter's {what} is not the job's", f"{found}, not {asked}")
