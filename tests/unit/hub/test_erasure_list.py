"""The list of erasures: what it and a log know is in both afterwards, and a hub may lack the datasets that it names."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from loradeck.hub.data.datasets import Datasets
from loradeck.hub.data.erasure_list import ErasureList, remember
from loradeck.hub.data.garbage import Garbage
from loradeck.schemas.attestation import Attestation, AttestationKind


def erasure(subject: str, seq: int = 0) -> Attestation:
    body = {"rows": ["0" * 64], "retired": False, "reason": "request 12", "request": "1" * 64}
    kind, by = AttestationKind.ERASURE, "token:ann"
    return Attestation(seq=seq, kind=kind, subject=subject * 64, tenant="acme", body=body, by=by, at_ms=5)


def test_what_only_the_list_has_is_given_back_and_what_only_the_log_has_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "erasures.jsonl"
    assert remember(path, [erasure("a", seq=7)]) == []
    assert [one.subject[0] for one in remember(path, [erasure("b")])] == ["a"]
    assert [one.subject[0] for one in remember(path, [erasure("a", seq=9)])] == ["b"]
    assert remember(path, [erasure("a"), erasure("b")]) == []
    assert (len(path.read_text().splitlines()), stat.S_IMODE(path.stat().st_mode)) == (2, 0o600)


def test_an_erasure_of_a_dataset_that_came_after_the_backup_removes_nothing(tmp_path: Path) -> None:
    nothing = SimpleNamespace(adapters={}, datasets={}, suites={})
    others = ("log", "store", "attestations", "fleet", "prepares", "blobs", "clock", "jobs", "erasure_list")
    parts: dict[str, Any] = dict.fromkeys(others)
    assert Garbage(catalogue=nothing, **parts)._files(set(), {"a" * 64}) == set()


def test_an_erasure_elsewhere_of_a_dataset_that_came_after_the_backup_is_lifted_by_nobody() -> None:
    facts = SimpleNamespace(erased={}, erased_elsewhere={"a" * 64: {"0" * 64}})
    registry = SimpleNamespace(catalogue=SimpleNamespace(datasets={}))
    without_keys: list[Any] = [None] * 5
    parts: list[Any] = [None, registry, SimpleNamespace(facts=facts), *[None] * 3, ErasureList(*without_keys)]
    assert Datasets(*parts)._blocked() == {"a" * 64: {"0" * 64}}
