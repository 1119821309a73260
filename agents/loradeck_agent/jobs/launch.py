"""Starts a job's executor: its inputs are brought onto this node, then a process is started with its spec."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from loradeck.schemas.executor import EngineDoor, ExecutorSpec
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.jobs import EvaluateSpec, JobAssignment, JudgeSpec, LeakSpec, MergeSpec, ProveSpec, TrainSpec
from loradeck.schemas.manifest import Form
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.engine_config import JudgeAddress
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.job_user import JobUser
from loradeck_agent.jobs.backend import Backend
from loradeck_agent.jobs.executor import Executor
from loradeck_agent.jobs.local_processes import LocalProcesses
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.store.checkpoints import CheckpointStore
from loradeck_agent.store.fetch import as_agent_error
from loradeck_agent.store.inputs import InputStore
from loradeck_agent.store.releases import ReleaseStore


def base_of(engines: tuple[EngineReplica, ...], digest: str, own: Mapping[str, Path] = {}) -> Path:
    """Finds the folder of a base on this node: that of the engine that has it, or among those that jobs alone read.

    Raises: AgentError: `unknown_base`.
    """
    for engine in engines:
        if engine.base == digest:
            return engine.config.base
    if digest in own:
        return own[digest]
    raise AgentError("unknown_base", "no engine of this node has the job's base", digest)


def backend_of(config: AgentConfig) -> Backend:
    """Chooses what runs the jobs of a node that is configured so."""
    if config.slurm is None:
        return LocalProcesses
    from loradeck_agent.jobs.slurm import SlurmJob  # for submit hosts, which are few

    return partial(SlurmJob, config=config.slurm, turn=asyncio.Lock())


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Starts executors, each with `threads` threads and as `user`; None: as the agent's own."""

    engines: tuple[EngineReplica, ...]
    store: ReleaseStore
    inputs: InputStore
    checkpoints: CheckpointStore
    threads: int
    user: JobUser | None = None
    judges: Mapping[str, JudgeAddress] = field(default_factory=dict)
    """Addresses of models elsewhere that judge, by the names that gates call them."""
    harnesses: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The Python and the folder of tasks of each harness that this node has."""
    bases: Mapping[str, Path] = field(default_factory=dict)
    """Folders of the bases that jobs alone read, by digest."""
    closed: tuple[str, ...] = ()
    """The agent's folders and secrets, which executors are kept out of but for what their job reads and writes."""
    confined: bool = False
    """Executors fail where the kernel cannot keep them out."""

    async def launch(
        self,
        job: JobAssignment,
        executor: Executor,
        devices: str | None,
        doors: dict[str, EngineDoor],
    ) -> None:
        """Fetches what the job reads, by digest, and starts its executor.

        `devices`: UUIDs of the GPUs that it sees, with commas; None: any. `doors`: where it asks engines, by name.

        Raises: AgentError: `unknown_base`, `bad_job`, or why an input could not be had.
        """
        executor.folder.write(executor.attempt)
        spec, folder = job.spec, executor.folder
        inputs: dict[str, str] = {}
        datasets, suites = tuple[str, ...](), tuple[str, ...]()
        if isinstance(spec, TrainSpec):
            base = spec.base
            at = base_of(self.engines, base, self.bases)
            datasets, suites = spec.reads, job.held_out
            if spec.distillation is not None:
                teacher = spec.distillation.teacher
                inputs[teacher] = str(base_of(self.engines, teacher, self.bases))
            if job.checkpoint is not None:
                await self.checkpoints.have(job.id, job.checkpoint)
            if spec.parent is not None:
                inputs[spec.parent] = str(await self.inputs.adapter(spec.tenant, spec.name, spec.parent, at))
        elif isinstance(spec, EvaluateSpec | LeakSpec | MergeSpec):
            if job.release is None:
                raise AgentError("bad_job", "the job names no release", job.id)
            release = job.release.release
            evaluates = not isinstance(spec, MergeSpec)
            base = release.served_base if evaluates else release.base
            at = base_of(self.engines, base, self.bases)
            datasets = spec.datasets if isinstance(spec, LeakSpec) else ()
            suites = (spec.suite,) if isinstance(spec, EvaluateSpec) else ()
            if release.adapter is not None and not (evaluates and release.form is Form.MERGED):
                inputs[release.adapter] = str(await self.store.ensure(job.release, base, at))
        elif isinstance(spec, ProveSpec):
            base = spec.base
            at = base_of(self.engines, base, self.bases)
        elif isinstance(spec, JudgeSpec):
            if not job.asked:
                raise AgentError("bad_job", "the job names no release", job.id)
            base = job.asked[0].release.served_base
            at = base_of(self.engines, base)
            datasets, suites = spec.judge.people, (spec.judge.suite,)
        elif isinstance(spec, GenerateSpec):
            datasets, suites = spec.beside, job.held_out
            for base in spec.asked.values():
                at = base_of(self.engines, base)
                inputs[base] = str(at)
        else:
            raise AgentError("bad_job", f"{spec.kind} has no executor", job.id)
        inputs |= {digest: str(await self.inputs.dataset(digest)) for digest in datasets}
        inputs |= {digest: str(await self.inputs.suite(digest)) for digest in suites}
        if self.user is not None:
            own = Path(self.inputs.root)
            base_here = (at,) if at.is_relative_to(own) else ()
            with as_agent_error(folder.path):
                for path in (*map(Path, inputs.values()), *base_here):
                    await asyncio.to_thread(self.user.may_read, path)
        await asyncio.to_thread(self.checkpoints.begin, job.id)
        await executor.start(
            spec.kind,
            ExecutorSpec(
                run=job.id,
                attempt=job.attempt,
                spec=spec,
                base=str(at),
                base_digest=base,
                inputs=inputs,
                release=job.release.release if job.release is not None else None,
                engine=doors.get("engine"),
                teacher=doors.get("teacher"),
                doors={name: door for name, door in doors.items() if name not in ("engine", "teacher")},
                harnesses=dict(self.harnesses) if isinstance(spec, EvaluateSpec) else {},
                canaries=job.canaries,
                out=str(folder.out),
                events=str(folder.events),
                error=str(folder.error),
                checkpoints=str(self.checkpoints.folder(job.id)),
                held_out=job.held_out,
                threads=self.threads,
                processes=len(devices.split(",")) if devices else None,
                closed=self.closed,
                confined=self.confined,
            ),
            devices,
        )
