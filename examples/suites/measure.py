"""Scores the base and a trained version of acme on the suites, judges it as the gate does, and prints the table.

    cd examples && python -m suites.measure [--version v1] [--threads N] [--keep DIR]

The executors themselves do it, without a hub; the base stands for the live release. docs/gates.md holds the table.
"""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from pathlib import Path

from loradeck.artifacts import scan
from loradeck.rules.quality.gates import GateRecords, judge
from loradeck.schemas.attestation import CheckResult, EvaluationReport
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.jobs import EvaluateSpec
from loradeck.schemas.manifest import AdapterManifest, Form, Release, SuiteManifest
from suites.generate import SUITES
from tickets.measure import Bench

HERE = Path(__file__).parent
TENANT = "acme"
OWN = "held-out"


def suite(root: Path, name: str) -> tuple[SuiteManifest, Path]:
    """A suite of this folder as `loradeck suite add` registers it, and the folder it lies in."""
    folder = root / f"suite-{name}"
    folder.mkdir(parents=True)
    items = (HERE / f"{name}.jsonl").read_text()
    (folder / f"{name}.jsonl").write_text(items)
    manifest = SuiteManifest(
        tenant=TENANT,
        name=name,
        items=len(items.splitlines()),
        files=scan(folder),
        provenance=tomllib.loads((HERE / f"{name}.toml").read_text()),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return manifest, folder


def gate(digests: dict[str, str]) -> GateConfig:
    """The gate of this folder, with the suites' digests in the place of their names."""
    fields = tomllib.loads((HERE / "gate.toml").read_text())
    for part in (fields, *fields["also"]):
        part["suite"] = digests[part["suite"]]
    return GateConfig.model_validate(fields)


def row(name: str, before: EvaluationReport, after: EvaluationReport, drop: CheckResult) -> str:
    """A line of the table."""
    shares = f"{before.exact / before.n:.0%} | {after.exact / after.n:.0%}"
    interval = f"{drop.value:+.0%} ({drop.low:+.0%} to {drop.high:+.0%})"
    return f"| {name} | {after.n} | {shares} | {interval} | {'passes' if drop.passed else 'fails'} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default="v1", help="of acme's recipes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="keep everything in this new folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args.keep or Path(scratch), args.threads)
        suites = {OWN: bench.suite(TENANT), **{name: suite(bench.root, name) for name in SUITES}}
        trained = bench.train(TENANT, args.version)
        adapter = AdapterManifest.model_validate_json((trained / "manifest.json").read_text()).digest
        base = Release(tenant=TENANT, form=Form.BASE, base=bench.base_digest)
        version = Release(tenant=TENANT, form=Form.ADAPTER, base=bench.base_digest, adapter=adapter)
        reports: dict[str, dict[str, EvaluationReport]] = {base.id: {}, version.id: {}}
        for name, (manifest, folder) in suites.items():
            for label, release, more in (("base", base, {}), (args.version, version, {adapter: str(trained)})):
                spec = EvaluateSpec(tenant=TENANT, release=release.id, suite=manifest.digest)
                out = bench.run(f"{label}-{name}", spec, {manifest.digest: str(folder), **more})
                report = EvaluationReport.model_validate_json((out / "report.json").read_text())
                reports[release.id][manifest.digest] = report
        config = gate({name: manifest.digest for name, (manifest, _) in suites.items()})
        result = judge(version.id, base.id, config, GateRecords(reports=reports[version.id], live=reports[base.id]))
        drops = {check.suite: check for check in result.checks if check.name == "drop"}
        print(f"| suite | items | base | {TENANT} {args.version} | lost (95 %) | at most 15 % lost |")
        print("|---|---|---|---|---|---|")
        for name, (manifest, _) in suites.items():
            digest = manifest.digest
            print(row(name, reports[base.id][digest], reports[version.id][digest], drops[digest]))


if __name__ == "__main__":
    main()
