"""Which rows the freshness of a release is judged by, without a hub."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from loradeck.hub.views.freshness import FreshnessView
from loradeck.rules.data.policy import DatedEntry
from loradeck.rules.quality.reference_days import Stay
from loradeck.schemas.backlog import SOURCE

OLD, NEW = "1" * 64, "2" * 64


def test_two_datasets_of_one_name_both_count() -> None:
    entry: Any = None
    ledger = {OLD: DatedEntry(entry=entry, at_ms=1), NEW: DatedEntry(entry=entry, at_ms=2)}
    parts: dict[str, Any] = dict.fromkeys(("log", "store", "attestations", "jobs", "incidents", "clock", "replays"))
    named = dict.fromkeys(ledger, SimpleNamespace(name="tickets"))
    parts |= {"catalogue": SimpleNamespace(datasets=named), "facts": SimpleNamespace(ledger=ledger)}
    version: Any = SimpleNamespace(manifest=SimpleNamespace(datasets=(OLD, NEW)))
    assert [one.at_ms for _, one in FreshnessView(**parts)._dated(version)] == [1, 2]


def test_the_newest_dataset_of_the_backlog_is_one_of_which_no_row_was_erased() -> None:
    made = SimpleNamespace(tenant="acme", provenance=SimpleNamespace(source=SOURCE))
    catalogue = SimpleNamespace(datasets={OLD: made, NEW: made})
    parts: dict[str, Any] = dict.fromkeys(
        ("log", "store", "attestations", "jobs", "incidents", "clock", "replays"), None
    )
    parts |= {"catalogue": catalogue, "facts": SimpleNamespace(erased={}, erased_elsewhere={})}
    assert FreshnessView(**parts)._built("acme") == NEW
    assert FreshnessView(**parts)._built("bolt") is None
    parts["facts"] = SimpleNamespace(erased={NEW: {"row"}}, erased_elsewhere={})
    assert FreshnessView(**parts)._built("acme") == OLD
    parts["facts"] = SimpleNamespace(erased={NEW: {"row"}}, erased_elsewhere={OLD: {"row"}})
    assert FreshnessView(**parts)._built("acme") is None


def test_where_nothing_is_known_of_the_rows_of_what_is_live_those_of_what_was_before_it_count() -> None:
    def version(*datasets: str) -> SimpleNamespace:
        return SimpleNamespace(manifest=SimpleNamespace(datasets=datasets))

    versions = {"v1": version(OLD), "v2": version(OLD, NEW), "elsewhere": version("3" * 64), "base": None}
    catalogue = SimpleNamespace(
        datasets=dict.fromkeys((OLD, NEW), SimpleNamespace(name="tickets")),
        release=lambda name, _: name if name in versions else None,
        version_of=versions.__getitem__,
    )
    entry: Any = None
    ledger = {OLD: DatedEntry(entry=entry, at_ms=1), NEW: DatedEntry(entry=entry, at_ms=2)}
    parts: dict[str, Any] = dict.fromkeys(("log", "store", "attestations", "jobs", "incidents", "clock", "replays"))
    view = FreshnessView(**parts | {"catalogue": catalogue, "facts": SimpleNamespace(ledger=ledger)})

    def came_in(*live: str) -> int | None:
        return view._rows_ms([Stay(name, at) for at, name in enumerate(live)], "acme")

    assert [came_in("v1"), came_in("v1", "v2"), came_in("v1", "v2", "v1")] == [1, 2, 1]
    assert [came_in("v2", name) for name in ("base", "elsewhere", "unknown")] == [2, 2, 2]
    assert came_in("base") is None
