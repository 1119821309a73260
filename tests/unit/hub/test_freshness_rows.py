"""Which rows the freshness of a release is judged by, without a hub."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from loradeck.hub.views.freshness import FreshnessView
from loradeck.rules.data.policy import DatedEntry

OLD, NEW = "1" * 64, "2" * 64


def test_two_datasets_of_one_name_both_count() -> None:
    entry: Any = None
    ledger = {OLD: DatedEntry(entry=entry, at_ms=1), NEW: DatedEntry(entry=entry, at_ms=2)}
    parts: dict[str, Any] = dict.fromkeys(
        ("_log", "_store", "_attestations", "_jobs", "_incidents", "_clock", "_replays")
    )
    named = dict.fromkeys(ledger, SimpleNamespace(name="tickets"))
    parts |= {"_catalogue": SimpleNamespace(datasets=named), "_facts": SimpleNamespace(ledger=ledger)}
    version: Any = SimpleNamespace(manifest=SimpleNamespace(datasets=(OLD, NEW)))
    assert [one.at_ms for _, one in FreshnessView(**parts)._dated(version)] == [1, 2]
