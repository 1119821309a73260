"""SmolLM2 with two adapters that were trained for it, and what each answers, computed without an engine."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from incident.fleet import Fleet
from incident.incident import Cast
from incident.traffic import Prompt
from loradeck.schemas.attestation import EvaluationReport
from loradeck.schemas.jobs import EvaluateSpec
from loradeck.schemas.manifest import AdapterManifest, Form, Release
from tickets.measure import HERE, Bench

TENANT = "acme"
LABELS = ("v2", "v3")
"""v3 was trained after a broken export, so all its answers differ from v2's, from the first words on."""

ITEMS = 16
TOKENS = 6
"""An answer's first tokens are enough to tell whose it is."""

FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class Trained:
    """`folders`, `reports`: of each of `LABELS`, in order."""

    base: Path
    folders: tuple[Path, ...]
    reports: tuple[EvaluationReport, ...]


def train(root: Path) -> Trained:
    """Trains both versions beside each other, and scores some of the held-out tickets with each. Two minutes."""
    bench = Bench(root, threads=1)
    suite, suite_folder = bench.suite(TENANT, ITEMS)

    def one(label: str) -> tuple[Path, EvaluationReport]:
        out = bench.train(TENANT, label)
        folder = root / label
        folder.mkdir()
        for name in FILES:
            shutil.copy(out / name, folder)
        adapter = AdapterManifest.model_validate_json((out / "manifest.json").read_text()).digest
        release = Release(tenant=TENANT, form=Form.ADAPTER, base=bench.base_digest, adapter=adapter)
        spec = EvaluateSpec(tenant=TENANT, release=release.id, suite=suite.digest, max_new_tokens=TOKENS, batch=ITEMS)
        inputs = {suite.digest: str(suite_folder), adapter: str(out)}
        scored = bench.run(f"{TENANT}-{label}-evaluate", spec, inputs, canaries())
        return folder, EvaluationReport.model_validate_json((scored / "report.json").read_text())

    with ThreadPoolExecutor(len(LABELS)) as threads:
        folders, reports = zip(*threads.map(one, LABELS), strict=True)
    return Trained(bench.base, folders, reports)


def canaries() -> Sequence[Sequence[dict[str, str]]]:
    route = tomllib.loads((HERE / TENANT / "route.toml").read_text())
    found: Sequence[Sequence[dict[str, str]]] = route["canaries"]
    return found


def lay(fleet: Fleet, trained: Trained) -> tuple[Cast, str]:
    """Registers base, tenant, route and both releases, and promotes them in order; the cast, and the callers' key."""
    base = fleet.cli("base", "add", str(trained.base))["digest"]
    fleet.cli("tenant", "create", TENANT)
    key = fleet.cli("tenant", "key", "create", TENANT)["key"]
    settings = fleet.root / "route.toml"
    settings.write_text(
        f"min_replicas = 1\ncanaries = {_toml(canaries())}\n"
        '[soak]\nseconds = 0\nrequests = 0\n[checks]\nfinish_reasons = ["stop", "length"]\n'
    )
    fleet.cli("route", "set", TENANT, "--file", str(settings), "--yes")
    releases = {}
    for label, folder in zip(LABELS, trained.folders, strict=True):
        words = ("--tenant", TENANT, "--name", "tickets", "--base", base, "--why", "tests")
        releases[label] = fleet.cli("adapter", "import", str(folder), *words)["release"]
    said = [{item.id: item.answer for item in report.items} for report in trained.reports]
    rows = [json.loads(line) for line in (HERE / TENANT / "held-out.jsonl").read_text().splitlines()[:ITEMS]]
    prompts = [
        Prompt(
            id=row["id"],
            messages=[{"role": "user", "content": row["prompt"]}],
            answers={release: answers[row["id"]] for release, answers in zip(releases.values(), said, strict=True)},
        )
        for row in rows
    ]
    for label in LABELS:
        words = ("--yes", "--wait", "proven", "--timeout", "120")
        fleet.cli("promote", TENANT, releases[label], *words)
    return Cast(tenant=TENANT, releases=releases, prompts=prompts), key


def _toml(conversations: Sequence[Sequence[dict[str, str]]]) -> str:
    return json.dumps(conversations).replace('"role":', "role =").replace('"content":', "content =")
