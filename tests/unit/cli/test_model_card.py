"""The model card of a release, from records that are made here."""

from __future__ import annotations

from typing import Any

from loradeck.cli.shared.model_card import Record, markdown
from loradeck.rules.quality import gates
from loradeck.rules.quality.gates import GateRecords
from loradeck.schemas.attestation import Attestation, AttestationKind, EvaluationReport, ItemResult
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.manifest import BaseManifest, FileEntry
from loradeck.schemas.responses import BaseEntry
from loradeck.schemas.suite import Groups

RELEASE, LIVE, SUITE, WEIGHTS = ("c" * 64, "d" * 64, "e" * 64, "f" * 64)


def report(release: str, wrong: int) -> EvaluationReport:
    items = tuple(ItemResult(id=f"i{n}", answer="", exact=n >= wrong, valid=True) for n in range(100))
    counts: dict[str, Any] = {"n": 100, "exact": 100 - wrong, "valid": 100, "seconds": 1.0}
    return EvaluationReport(release=release, suite=SUITE, items=items, **counts)


def test_the_card_says_which_look_at_the_gate_this_was_how_many_items_count_and_which_slice_is_the_worst() -> None:
    slices = {f"i{n}": "german" if n < 50 else "english" for n in range(100)}
    records = GateRecords(
        reports={SUITE: report(RELEASE, wrong=12)},
        live={SUITE: report(LIVE, wrong=0)},
        groups={SUITE: Groups(slices=slices, near={f"i{n}": "i90" for n in range(91, 100)})},
        looks=7,
        tried={SUITE: 3},
    )
    result = gates.judge(RELEASE, LIVE, GateConfig(suite=SUITE, max_drop=0.2, bound_drop=True, min_slice=40), records)
    stated = Attestation(
        kind=AttestationKind.GATE,
        subject=RELEASE,
        tenant="acme",
        route="production",
        body=result.model_dump(mode="json"),
        by="hub",
    )
    files = (FileEntry(path="w", size=1, sha256="0" * 64),)
    weights = BaseEntry(digest=WEIGHTS, label="B2", manifest=BaseManifest(model_id="m", revision="1", files=files))
    known = Record(
        title="acme v2",
        tenant="acme",
        release=RELEASE,
        digest=WEIGHTS,
        trained_on=(),
        version=None,
        weights=weights,
        base="m",
        datasets={},
        suites={},
        stated=[stated],
        run=None,
        rows=[],
    )
    (line,) = [line for line in markdown(known).splitlines() if line.startswith("- gate of production: FAILED")]
    assert "worst of 2 slices: german, 12 lost and 0 won of 50" in line
    assert "7 different releases were evaluated on its suite" in line
    assert (
        "drop 13.2% (6.6% to 20.9%, n = 100, effectively 91) FAILED (third try on this suite; judged at 0.17 %)" in line
    )
