"""Trains and scores every release of the tenants with the executors themselves, without a hub, and prints the table.

    cd examples && python -m tickets.measure [--threads N] [--keep DIR] [--tenants acme,bolt,cedar]

It takes about five minutes on two cores. The table in the README beside this file was printed by it.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base_model import ensure_base
from loradeck.artifacts import base_manifest, scan
from loradeck.schemas.attestation import CanaryRecord, EvaluationReport
from loradeck.schemas.executor import ExecutorSpec
from loradeck.schemas.jobs import EvaluateSpec, JobSpec, TrainSpec
from loradeck.schemas.manifest import AdapterManifest, DatasetManifest, Form, Release, SuiteManifest
from tickets.generate import PARENTS

HERE = Path(__file__).parent
TENANTS = ("acme", "bolt", "cedar")
CLEAR = 0.5
"""Nats: positions from the first smaller margin on prove nothing (DESIGN: proof)."""


@dataclass
class Measured:
    """One release, scored. `seconds`: processor time of its training, imports included; 0 for the base."""

    tenant: str
    label: str
    report: EvaluationReport
    canary: CanaryRecord
    seconds: float


class Bench:
    """Runs executors in folders of its own."""

    def __init__(self, root: Path, threads: int) -> None:
        self.root = root
        self.threads = threads
        self.base = ensure_base(progress=lambda line: print(line, file=sys.stderr))
        self.base_digest = base_manifest(self.base, "-", "-").digest

    def run(self, name: str, spec: JobSpec, inputs: dict[str, str], canaries: Any = ()) -> Path:
        """Runs one executor to its end and returns the folder with its results."""
        folder = self.root / name
        folder.mkdir(parents=True)
        full = ExecutorSpec(
            run=name,
            attempt=1,
            spec=spec,
            base=str(self.base),
            base_digest=self.base_digest,
            inputs=inputs,
            canaries=canaries,
            out=str(folder / "out"),
            events=str(folder / "events.jsonl"),
            error=str(folder / "error.txt"),
            threads=self.threads,
        )
        (folder / "spec.json").write_text(full.model_dump_json())
        command = [sys.executable, "-m", "loradeck_agent.executors", spec.kind, "--spec", str(folder / "spec.json")]
        with (folder / "log.txt").open("wb") as log:
            status = subprocess.run(command, stdout=log, stderr=log).returncode
        if status != 0:
            raise SystemExit(f"{name} left with {status}; see {folder}")
        return folder / "out"

    def measure(self, tenant: str, versions: Sequence[str]) -> Iterator[Measured]:
        """The base and these versions of one tenant, trained and scored."""
        suite, suite_folder = self.suite(tenant)
        canaries = tomllib.loads((HERE / tenant / "route.toml").read_text())["canaries"]

        def score(label: str, release: Release, adapter: dict[str, str], seconds: float) -> Measured:
            spec = EvaluateSpec(tenant=tenant, release=release.id, suite=suite.digest)
            inputs = {suite.digest: str(suite_folder), **adapter}
            out = self.run(f"{tenant}-{label}-evaluate", spec, inputs, canaries)
            report = EvaluationReport.model_validate_json((out / "report.json").read_text())
            canary = CanaryRecord.model_validate_json((out / "canary.json").read_text())
            return Measured(tenant, label, report, canary, seconds)

        yield score("base", Release(tenant=tenant, form=Form.BASE, base=self.base_digest), {}, 0)
        made: dict[str, tuple[str, Path]] = {}
        for version in versions:
            before = _children_seconds()
            out = self.train(tenant, version, made.get(PARENTS.get(f"{tenant} {version}", "")))
            seconds = _children_seconds() - before
            adapter = AdapterManifest.model_validate_json((out / "manifest.json").read_text()).digest
            made[version] = (adapter, out)
            release = Release(tenant=tenant, form=Form.ADAPTER, base=self.base_digest, adapter=adapter)
            yield score(version, release, {adapter: str(out)}, seconds)

    def train(self, tenant: str, version: str, parent: tuple[str, Path] | None = None) -> Path:
        """Trains one version, from the parent's adapter (digest and folder) if there is one. Returns its folder."""
        rows = HERE / tenant / f"tickets-{version}.jsonl"
        dataset = DatasetManifest(
            tenant=tenant,
            name=rows.stem,
            rows=len(rows.read_text().splitlines()),
            files=tuple(entry for entry in scan(rows.parent) if entry.path == rows.name),
            provenance=tomllib.loads(rows.with_suffix(".toml").read_text()),
        )
        recipe = tomllib.loads((HERE / tenant / f"train-{version}.toml").read_text())
        fields = {**recipe, "base": self.base_digest, "datasets": [dataset.digest]}
        inputs = {dataset.digest: str(rows)}
        if parent is not None:
            fields["parent"], inputs[parent[0]] = parent[0], str(parent[1])
        return self.run(f"{tenant}-{version}-train", TrainSpec.model_validate(fields), inputs)

    def suite(self, tenant: str, items_at_most: int | None = None) -> tuple[SuiteManifest, Path]:
        """A tenant's held-out items, or the first of them, and the folder they lie in."""
        source = HERE / tenant
        folder = self.root / f"{tenant}-suite"
        folder.mkdir(parents=True)
        items = "".join((source / "held-out.jsonl").read_text().splitlines(keepends=True)[:items_at_most])
        (folder / "held-out.jsonl").write_text(items)
        manifest = SuiteManifest(
            tenant=tenant,
            name="held-out",
            items=len(items.splitlines()),
            files=scan(folder),
            answer_schema=(source / "answer.schema.json").read_text(),
            provenance=tomllib.loads((source / "held-out.toml").read_text()),
        )
        (folder / "manifest.json").write_text(manifest.model_dump_json())
        return manifest, folder


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def apart(one: CanaryRecord, other: CanaryRecord) -> int:
    """How many canaries tell two releases apart at a position that counts for both."""
    found = 0
    for a, b in zip(one.items, other.items, strict=True):
        for x, y, m, n in zip(a.tokens, b.tokens, a.margins, b.margins, strict=False):
            if min(m, n) < CLEAR:
                break
            if x != y:
                found += 1
                break
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="keep everything in this new folder")
    parser.add_argument("--tenants", default=",".join(TENANTS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args.keep or Path(scratch), args.threads)
        print("| release | n | exact | valid JSON | train, CPU s | evaluate, s | canaries apart from the others |")
        print("|---|---|---|---|---|---|---|")
        for tenant in args.tenants.split(","):
            versions = sorted(path.stem.removeprefix("train-") for path in (HERE / tenant).glob("train-*.toml"))
            done = list(bench.measure(tenant, versions))
            for one in done:
                others = [
                    f"{apart(one.canary, o.canary)} of {len(one.canary.items)} {o.label}" for o in done if o is not one
                ]
                print(
                    f"| {tenant} {one.label} | {one.report.n} | {one.report.exact} | {one.report.valid} "
                    f"| {one.seconds:.0f} | {one.report.seconds:.0f} | {', '.join(others)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
