"""A route's gate as people write it: TOML that names suites by name."""

from datetime import datetime
from typing import Any

from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.naming import owned_named, release_named
from loradeck.client.api import HubApi
from loradeck.schemas.gate import GateConfig

MAX_AGE_DAYS = 90
"""Days for which evaluations count in a new gate that does not say."""

MAX_DROP = 0.05
"""Largest drop of a new gate that names none; docs/gates.md."""


async def gate_settings(api: HubApi, tenant: str, gate: dict[str, Any], before: GateConfig | None) -> dict[str, Any]:
    """Replaces the names of what is the tenant's in a gate's settings by digests, and puts in what is left out.

    A new gate bounds its drops (`bound_drop`), by MAX_DROP where it names no `max_drop`, counts evaluations of the last
    MAX_AGE_DAYS, and draws half of a review at the edges. Where a gate stands, one that does not say asks what that one
    asks.

    Raises: CliError: the tenant has no such suite, or `also` is not a list of tables.
    """
    also = gate.get("also", [])
    if not isinstance(also, list) or not all(isinstance(part, dict) for part in also):
        raise misused("`also` is not a list of tables", where="gate", fix="write [[also]], one for each further suite")
    known = await api.suites()

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        name = part.get("suite")
        named = part | {"suite": owned_named("suite", name, tenant, known)} if isinstance(name, str) else part
        asked = {one.suite: one.bound_drop for one in before.suites} if before is not None else {}
        bound = asked.get(str(named.get("suite")), before.bound_drop if before is not None else True)
        if not bound or "bound_drop" in part or part.get("max_drop") in (0, 1):
            return named
        return {"max_drop": MAX_DROP} | named | {"bound_drop": True}

    judge = gate.get("judge")
    if isinstance(judge, dict):
        judge = dict(judge)
        if isinstance(judge.get("suite"), str):
            judge["suite"] = owned_named("suite", judge["suite"], tenant, known)
        if isinstance(judge.get("release"), str):
            judge["release"] = (await release_named(api, tenant, judge["release"])).id
        if isinstance(judge.get("people"), list):
            datasets = await api.datasets()
            judge["people"] = [owned_named("dataset", str(name), tenant, datasets) for name in judge["people"]]
        gate = gate | {"judge": judge}
    review = gate.get("review")
    if isinstance(review, dict) and "edges" not in review:
        stands = before.review if before is not None else None
        gate = gate | {"review": review | {"edges": stands.edges if stands is not None else True}}
    age = {"max_age_days": before.max_age_days if before is not None else MAX_AGE_DAYS}
    return age | resolved(gate) | ({"also": [resolved(part) for part in also]} if also else {})


def freeze_of(windows: Any) -> tuple[tuple[int, int], ...]:
    """Reads freeze windows from TOML: `[[freeze]]` with `from` and `until`, times with a zone.

    Returns (start, end) of each in milliseconds since 1970 UTC.

    Raises: CliError: another form, a time without a zone, or a window that ends before it begins.
    """
    if not isinstance(windows, list) or not all(isinstance(one, dict) for one in windows):
        raise misused("`freeze` is not a list of tables", where="freeze", fix="write [[freeze]], one for each window")
    found = []
    for number, one in enumerate(windows, start=1):
        where = f"freeze, window {number}"
        if set(one) != {"from", "until"}:
            raise misused("a freeze window has `from` and `until`", where=where, fix="from = 2026-12-24T18:00:00Z")
        start, end = (_millis(one[key], f"{where}: {key}") for key in ("from", "until"))
        if start >= end:
            raise misused("a freeze window ends before it begins", where=where, fix="give the earlier time first")
        found.append((start, end))
    return tuple(found)


def _millis(value: Any, where: str) -> int:
    if not isinstance(value, datetime):
        raise misused("this is not a date and time", where=where, fix="write 2026-12-24T18:00:00Z, without quotes")
    if value.tzinfo is None:
        raise misused("a time without a zone", where=where, fix=f"write {value.isoformat()}Z for UTC", code="no_zone")
    return int(value.timestamp() * 1000)
