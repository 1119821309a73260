"""What a test of faults counts of its own, kept for the table of docs/faults.md where `make faults` runs it."""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path

RECORD = "LORADECK_FAULT_RECORD"
"""Names the file that records are added to."""

SEED = "LORADECK_FAULT_SEED"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Moves that were acknowledged to the test, those of them that were gone afterwards, answers that it judged, and
    those of them that a left release gave to a request sent after the acknowledgement."""

    moves: int
    lost: int
    answers: int
    late: int

    def keep(self) -> None:
        """Adds it to the record, if one is kept."""
        if RECORD in os.environ:
            with open(os.environ[RECORD], "a") as record:
                record.write(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, record: Path) -> list[Found]:
        """All that was kept."""
        return [cls(**json.loads(line)) for line in record.read_text().splitlines()] if record.exists() else []


def seed() -> int:
    """Seed of this run: the one that is given, or a new one."""
    return int(os.environ.get(SEED, random.SystemRandom().randrange(2**32)))
