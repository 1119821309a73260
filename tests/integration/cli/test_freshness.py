"""`loradeck freshness` and training freezes against a real hub."""

from __future__ import annotations

from pathlib import Path

from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode


def test_meters_and_freezes_of_a_tenant_are_told(desk: Desk, tenant: str, node: SmallNode, tmp_path: Path) -> None:
    done = desk.run("tenant", "freeze", tenant, "--until", "2099-01-01T00:00Z", "--reason", "peak week")
    assert done.returncode == 0, done.stderr
    told = desk.run("freshness", tenant).stdout
    assert f"training of {tenant} is frozen until 2099-01-01 00:00 UTC" in told
    assert "checked answers that are bad: 0 of 14 first days have 50 and more" in told
    assert "recommended: nothing" in told
    (route,) = desk.json("freshness", tenant)["routes"]
    assert {meter["kind"] for meter in route["meters"]} >= {"corrected", "bad", "refused", "inputs", "terms", "classes"}
    assert desk.run("tenant", "expect", tenant, "--on", "2099-01-01T00:00Z", "--what", "tax codes").returncode == 0
    assert "from 2099-01-01 00:00:00Z: tax codes" in desk.run("tenant", "data", tenant).stdout
    assert desk.run("tenant", "thaw", tenant, "--reason", "over").returncode == 0
    assert "frozen" not in desk.run("freshness", tenant).stdout
    days = tmp_path / "days.jsonl"
    days.touch()
    assert desk.refused(2, "usage", "route", "replay", tenant, "--file", days, "--reason", "r")["detail"] == str(days)
    days.write_text('{"replayed": true, "day": "2026-01-02", "checked": 60, "bad": 3}\n')
    done = desk.run("route", "replay", tenant, "--file", str(days), "--reason", "rehearsal")
    assert done.returncode == 0, done.stderr
    assert "1 days were replayed (2026-01-02 to 2026-01-02)" in desk.run("freshness", tenant).stdout
    told = desk.run("loop", tenant).stdout
    assert "replayed: -" in told
    assert f"{tenant}/production" in told
    assert "nothing" in told
