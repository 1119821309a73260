"""docs/hardware.md: on what training was proven, by `loradeck node prove-training`, and how old that is.

    python -m scripts.hardware [RECORD.json ...]

A record is what `loradeck node show NODE --json` prints. The newest of each device is kept in docs/hardware.json.
Without a record the table is written anew, with what is STALE by today.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from loradeck.rules.serving.training_proof import faults, standing
from loradeck.schemas.training import TrainingProof

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "hardware.json"
DOCUMENT = ROOT / "docs" / "hardware.md"
BEGIN, END = "<!-- proven: written by python -m scripts.hardware -->", "<!-- /proven -->"


def read(document: Any) -> TrainingProof:
    """The record in a file's JSON. Raises: SystemExit: there is none, or it has no time."""
    proof = TrainingProof.model_validate(document.get("proof", document) or {})
    if not proof.at_ms:
        raise SystemExit("the record has no time (at_ms): take it from `loradeck node show NODE --json`")
    return proof


def newest(proofs: Iterable[TrainingProof]) -> list[TrainingProof]:
    """The newest record of each device, by its name."""
    found = {proof.device: proof for proof in sorted(proofs, key=lambda proof: proof.at_ms)}
    return [found[device] for device in sorted(found)]


HEAD = """| device | | two runs, one resumed | bf16 from fp32 | peak, of the plan | tokens/s | steps | versions |
|---|---|---|---|---|---|---|---|"""


def table(proofs: Sequence[TrainingProof], today: date) -> str:
    """The table of these records as of the end of a day."""
    now_ms = int(datetime.combine(today, time.max, UTC).timestamp() * 1000)
    rows = []
    for proof in proofs:
        cells = (
            proof.device,
            standing(proof, proof.versions, (), now_ms),
            "equal" if proof.straight and proof.resumed else "**not equal**",
            "fp32 does not fit" if proof.apart is None else f"{proof.apart:.1%}",
            f"{proof.peak_bytes / 1e9:.2f} of {proof.planned_bytes / 1e9:.2f} GB",
            f"{proof.tokens_per_second:,.0f}",
            str(proof.steps),
            ", ".join(f"{name} {version}" for name, version in sorted(proof.versions.items())),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"As of {today}:", "", HEAD, *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", type=Path)
    kept = [TrainingProof.model_validate(one) for one in json.loads(RECORDS.read_text())] if RECORDS.exists() else []
    new = [read(json.loads(path.read_text())) for path in parser.parse_args().records]
    for proof in new:
        if wrong := faults(proof):
            raise SystemExit(f"training on {proof.device} is not proven: {'; '.join(wrong)}")
    proofs = newest([*kept, *new])
    RECORDS.write_text(json.dumps([proof.model_dump(mode="json") for proof in proofs], indent=1) + "\n")
    head, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(f"{head}{BEGIN}\n{table(proofs, datetime.now(UTC).date())}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
