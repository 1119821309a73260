"""Training freezes: which of them hold a train job, and until when."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.data.policy import freezes_of_training
from loradeck.schemas.dataset_ledger import DataPolicy, LedgerEntry
from loradeck.schemas.freshness import TrainingFreeze
from loradeck.schemas.incident import Incident, IncidentPointer
from loradeck.schemas.tenant import TenantState

NOW = 1_800_000_000_000


def tenant(**freeze: Any) -> TenantState:
    one = TrainingFreeze.model_validate({"from_ms": NOW, "reason": "peak week"} | freeze)
    return TenantState(name="acme", data=DataPolicy(training_freezes=(one,)))


def entry(*sources: str, distinct: int | None = None) -> LedgerEntry:
    counts = {"rows": 1, "human": 1, "program": 0, "model": 0, "deepest": 0, "generators": (), "retention_days": None}
    told = {"dataset": "d" * 64, "licence_classes": (), "consents": (), "tiers": (), "purposes": ("train",)}
    named = {"sources": sources, "distinct_sources": distinct or len(sources)}
    return LedgerEntry.model_validate(counts | told | named)


def held(of: TenantState, at_ms: int = NOW, incident: Incident | None = None, **datasets: LedgerEntry) -> str:
    refused = next(freezes_of_training(of, datasets.items(), incident, at_ms), None)
    assert refused is None or refused.code == "training_frozen"
    return "" if refused is None else f"{refused}"


def test_a_freeze_holds_from_its_beginning_up_to_its_end() -> None:
    week = tenant(until_ms=NOW + 1000)
    assert held(week, NOW - 1) == ""
    assert "until 2027-01-15 08:00 UTC" in held(week)
    assert held(week, NOW + 1000) == ""


def test_a_freeze_without_an_end_says_that_it_is_to_be_lifted() -> None:
    assert "until it is lifted" in held(tenant(), NOW + 10**12)


def test_a_source_that_is_held_stops_the_jobs_that_read_rows_of_it_and_no_others() -> None:
    hold = tenant(source="CRM*")
    assert "tickets has rows of crm-2025" in held(hold, tickets=entry("crm-2025"))
    assert held(hold, tickets=entry("chat")) == ""


def test_an_older_version_of_a_dataset_is_held_beside_the_newer_one_of_its_name() -> None:
    both = (("tickets", entry("crm")), ("tickets", entry("chat")))
    assert list(freezes_of_training(tenant(source="crm"), both, None, NOW))


def test_only_a_star_stands_for_more_than_itself() -> None:
    bracketed = tenant(source="CRM [old]*")
    assert held(bracketed, tickets=entry("crm [old] 2025"))
    assert held(bracketed, tickets=entry("crm o")) == ""
    assert held(tenant(source="cr?"), tickets=entry("crm")) == ""


def test_a_dataset_of_more_sources_than_the_ledger_names_may_have_the_one_that_is_held() -> None:
    assert "may be among them" in held(tenant(source="crm"), tickets=entry("chat", distinct=35))


def test_an_open_incident_freezes_until_it_is_closed() -> None:
    at = IncidentPointer(tenant="acme", route="production", added_ms=NOW)
    incident = Incident(id="INC-7", title="31 % bad", by="op", opened_ms=NOW, pointers=(at,))
    assert "until incident INC-7 is closed" in held(TenantState(name="acme"), incident=incident)


def test_a_freeze_that_ends_before_it_begins_is_none() -> None:
    with pytest.raises(ValueError, match="ends after it begins"):
        TrainingFreeze(from_ms=2, until_ms=2, reason="x")
