"""docs/hardware.md is what its script makes of the records beside it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest
from scripts.hardware import BEGIN, DOCUMENT, END, RECORDS, newest, read, table

from loradeck.rules.serving.training_proof import STALE_DAYS, faults
from loradeck.schemas.training import TrainingProof

PROOFS = [TrainingProof.model_validate(one) for one in json.loads(RECORDS.read_text())]


def day(proof: TrainingProof, later: int = 0) -> date:
    return datetime.fromtimestamp(proof.at_ms / 1000, UTC).date() + timedelta(days=later)


def test_the_table_is_that_of_the_records() -> None:
    written = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    dated = date.fromisoformat(written.split()[2].rstrip(":"))
    assert written == "\n" + table(PROOFS, dated)
    assert all(faults(proof) == () for proof in PROOFS)


def test_a_record_is_stale_by_its_age_and_gives_way_to_a_newer_one_of_its_device() -> None:
    (first, *_) = PROOFS
    later = first.model_copy(update={"at_ms": first.at_ms + 1, "steps": 99})
    assert newest([later, first]) == [later]
    assert "proven today" in table([first], day(first))
    assert "STALE" not in table([first], day(first, STALE_DAYS))
    assert "STALE" in table([first], day(first, STALE_DAYS + 1))


def test_a_record_is_read_from_what_the_command_prints_and_needs_its_time() -> None:
    (first, *_) = PROOFS
    printed = {"node": "n1", "proof": first.model_dump(mode="json")}
    assert read(printed) == read(printed["proof"]) == first
    with pytest.raises(SystemExit, match="no time"):
        read({**first.model_dump(mode="json"), "at_ms": 0})
