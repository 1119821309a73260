"""Every screen of the console as JSON: what a person sees there, a program gets here."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, TypeAdapter
from tests.integration.cli.conftest import Desk

from loradeck.schemas.attestation import Attestation
from loradeck.schemas.campaign import Campaign
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.freshness import LoopRow
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import Event
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.responses import DatasetEntry, SuiteEntry
from loradeck.schemas.state import NodeRow, TenantRow
from loradeck.tui.keys.action import Screen
from loradeck.tui.lines.help_text import TWINS

KINDS: dict[str, type[BaseModel]] = {
    "route ls": TenantRow,
    "node ls": NodeRow,
    "job ls": Job,
    "gate ls": Attestation,
    "adapter ls": AdapterVersion,
    "event ls": Event,
    "dataset ls": DatasetEntry,
    "suite ls": SuiteEntry,
    "capacity ls": CapacityRow,
    "loop": LoopRow,
    "campaign ls": Campaign,
}
"""What stands in a line of each."""


def test_every_screen_has_a_twin() -> None:
    assert set(TWINS) == set(Screen)
    assert {twin for twins in TWINS.values() for twin in twins} == set(KINDS)


@pytest.mark.parametrize("twin", KINDS)
def test_a_twin_lists_what_the_screen_does(desk: Desk, tenant: str, twin: str) -> None:
    rows = TypeAdapter(list[KINDS[twin]]).validate_python(desk.json(*twin.split()))  # type: ignore[misc]
    if twin in ("route ls", "node ls", "adapter ls", "event ls"):
        assert rows
    told = desk.process(*twin.split())
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip()


def test_routes_are_listed_as_the_first_screen_has_them(desk: Desk, tenant: str) -> None:
    rows = [TenantRow.model_validate(row) for row in desk.json("route", "ls")]
    state = desk.json("--once")
    assert {row.key for row in rows} == {(row["tenant"], row["route"]) for row in state["tenants"]}
    (mine,) = desk.json("route", "ls", tenant)
    assert (mine["tenant"], mine["preview"]["action"]) == (tenant, "rollback")
    assert desk.json("route", "ls", "nobody") == []
