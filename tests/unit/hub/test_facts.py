"""The attested facts in memory, which decide where R may go: each kind, by pointer and by subject."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.hub.log.attestations import Facts
from loradeck.schemas.attestation import Attestation, AttestationKind, GateResult
from loradeck.schemas.dataset_ledger import LedgerEntry
from loradeck.schemas.flag import FlagCause, FlagRecord, FlagState
from loradeck.schemas.log import Lifted, PointerState

KEY, OTHER = ("acme", "production"), ("acme", "staging")
V1, V2 = "1" * 64, "2" * 64
BREACH = {"what": "bad", "share": 0.31, "n": 2310}


def of(kind: AttestationKind, subject: str, body: dict[str, Any], seq: int = 0, **more: Any) -> Attestation:
    more = {"tenant": "acme", "route": "production", "by": "hub", **more}
    return Attestation(seq=seq, kind=kind, subject=subject, body=body, **more)


def attested(subject: str, seq: int, generation: int = 1, n: int = 2, m: int = 3) -> Attestation:
    return of(AttestationKind.ATTESTED, subject, {"generation": generation, "n": n, "m": m}, seq)


@pytest.fixture
def facts() -> Facts:
    return Facts()


def test_attested_releases_are_in_the_order_of_their_newest_attestation(facts: Facts) -> None:
    facts.add(attested(V1, 1, generation=1))
    facts.add(attested(V2, 2, generation=2))
    assert facts.of(KEY).attested == (V2, V1)
    facts.add(attested(V1, 3, generation=3, n=1, m=1))
    assert facts.of(KEY).attested == (V1, V2)
    assert facts.of(OTHER).attested == ()
    assert facts.attested_generation(KEY, 2) == (2, 3)
    assert facts.attested_generation(KEY, 3) == (1, 1)
    assert facts.attested_generation(KEY, 4) is None
    assert facts.attested_generation(OTHER, 2) is None


def test_what_became_live_is_known_by_when_it_was_attested(facts: Facts) -> None:
    moves = ((V1, 10), (V1, 20), (V2, 30), (V1, 40))
    for seq, (release, at_ms) in enumerate(moves, start=1):
        facts.add(attested(release, seq, generation=seq).model_copy(update={"at_ms": at_ms}))
    pointer = PointerState(tenant="acme", route="production", generation=4, release=V1)
    assert facts.stays(pointer, 38) == ((V1, 10), (V2, 30), (V1, 38))
    assert facts.stays(pointer.model_copy(update={"release": V2}), 50) == ((V1, 10), (V2, 30), (V1, 40), (V2, 50))
    assert facts.stays(pointer.model_copy(update={"route": "staging"}), 50) == ((V1, 50),)


def test_a_release_soaks_on_one_pointer(facts: Facts) -> None:
    facts.add(of(AttestationKind.SOAKED, V1, {}))
    assert facts.is_soaked(KEY, V1)
    assert not facts.is_soaked(KEY, V2)
    assert not facts.is_soaked(OTHER, V1)
    assert (facts.of(KEY).soaked, facts.of(OTHER).soaked) == (frozenset({V1}), frozenset())


def test_a_breach_counts_until_it_is_lifted_and_a_later_one_counts_anew(facts: Facts) -> None:
    pointer = PointerState(tenant="acme", route="production", generation=4, release=V1)
    assert not facts.is_breached(pointer, V1)
    facts.add(of(AttestationKind.BREACHED, V1, BREACH, 7))
    assert facts.is_breached(pointer, V1)
    assert not facts.is_breached(pointer, V2)
    assert not facts.is_breached(pointer.model_copy(update={"route": "staging"}), V1)
    assert facts.of(KEY).breached == {V1: "bad 31.0% of 2310"}
    assert facts.of(KEY).breaches == {V1: 7}
    lifted = pointer.model_copy(update={"lifted": (Lifted(release=V1, breach=7, generation=4),)})
    assert not facts.is_breached(lifted, V1)
    facts.add(of(AttestationKind.BREACHED, V1, BREACH, 9))
    assert facts.is_breached(lifted, V1)


def flag(state: FlagState, cause: FlagCause, raised_ms: int) -> dict[str, object]:
    return FlagRecord(
        state=state, figure="bad", bad=31, n=100, since_ms=raised_ms, raised_ms=raised_ms, cause=cause
    ).model_dump(mode="json")


def test_what_a_flag_has_ruled_out_stays_so_until_that_flag_is_anothers_doing_or_is_cleared(facts: Facts) -> None:
    pointer = PointerState(tenant="acme", route="production", generation=4, release=V1)
    facts.add(of(AttestationKind.FLAG, V1, flag(FlagState.RAISED, FlagCause.RELEASE, 1000), 1))
    assert facts.is_breached(pointer, V1)
    later = [(FlagState.RAISED, FlagCause.UNKNOWN, 1000), (FlagState.ENDED, FlagCause.UNKNOWN, 5000)]
    later += [(FlagState.RAISED, FlagCause.NODE, 9000), (FlagState.ENDED, FlagCause.NODE, 9000)]
    for seq, (state, cause, raised_ms) in enumerate(later, 2):
        facts.add(of(AttestationKind.FLAG, V1, flag(state, cause, raised_ms), seq))
        assert facts.is_breached(pointer, V1), (state, cause, raised_ms)
    facts.add(of(AttestationKind.FLAG, V1, flag(FlagState.RAISED, FlagCause.NODE, 1000), 7))
    assert not facts.is_breached(pointer, V1), "it was the node's doing all the time"
    facts.add(of(AttestationKind.FLAG, V1, flag(FlagState.RAISED, FlagCause.RELEASE, 20_000), 8))
    facts.add(of(AttestationKind.FLAG, V1, flag(FlagState.CLEARED, FlagCause.RELEASE, 20_000), 9))
    assert not facts.is_breached(pointer, V1)
    assert (facts.of(KEY).breached, facts.of(KEY).doubted) == ({}, {})


def test_a_release_that_was_bad_for_a_cause_that_nobody_knows_is_doubted_and_not_breached(facts: Facts) -> None:
    facts.add(of(AttestationKind.FLAG, V1, flag(FlagState.ENDED, FlagCause.UNKNOWN, 1000), 1))
    assert facts.of(KEY).breached == {}
    assert facts.of(KEY).doubted == {V1: "bad 31.0% of 100, cause unknown"}


def test_a_revocation_binds_every_pointer_of_every_tenant(facts: Facts) -> None:
    facts.add(of(AttestationKind.REVOCATION, V1, {"reason": "leaks a name"}, route=None))
    facts.add(of(AttestationKind.REVOCATION, V2, {}, route=None))
    assert facts.revoked == {V1: "leaks a name", V2: ""}
    assert facts.of(KEY).revoked == facts.of(OTHER).revoked == facts.revoked


def test_the_newest_result_of_a_gate_counts_on_its_pointer(facts: Facts) -> None:
    for passed in (False, True):
        result = GateResult(release=V1, against=None, suite="5" * 64, passed=passed, checks=())
        facts.add(of(AttestationKind.GATE, V1, result.model_dump(mode="json")))
        assert facts.gate(KEY, V1) == result
    assert facts.gate(KEY, V2) is None
    assert facts.gate(OTHER, V1) is None


def test_only_a_signature_that_was_verified_counts(facts: Facts) -> None:
    facts.add(of(AttestationKind.SIGNATURE, V1, {"public_key": "pem 1", "bundle": "b"}, route=None))
    facts.add(of(AttestationKind.SIGNATURE, V1, {"public_key": "pem 2", "bundle": "b"}, route=None))
    facts.add(of(AttestationKind.SIGNATURE, V2, {"public_key": "pem 3"}, route=None))
    assert dict(facts.signed) == {V1: {"pem 1", "pem 2"}}


def test_a_deprecation_is_kept_by_its_adapter(facts: Facts) -> None:
    facts.add(of(AttestationKind.DEPRECATION, V1, {"from_ms": 7, "reason": "old"}, route=None))
    assert (facts.deprecated[V1].from_ms, facts.deprecated[V1].reason) == (7, "old")


def test_the_first_ledger_entry_of_a_dataset_counts_since_retention_runs_from_it(facts: Facts) -> None:
    entry = LedgerEntry(
        dataset=V1,
        rows=4,
        human=4,
        program=0,
        model=0,
        deepest=0,
        sources=("a test",),
        distinct_sources=1,
        licence_classes=("CC0-1.0",),
        consents=("own",),
        tiers=(),
        purposes=("train",),
        retention_days=30,
        generators=(),
    )
    for at_ms in (5, 6):
        facts.add(of(AttestationKind.LEDGER, V1, entry.model_dump(mode="json"), route=None, at_ms=at_ms))
    assert (facts.ledger[V1].entry, facts.ledger[V1].at_ms) == (entry, 5)


def test_erased_rows_are_kept_by_dataset_and_by_tenant(facts: Facts) -> None:
    rows = ["a" * 64, "b" * 64, "c" * 64]
    for dataset, erased in ((V1, rows[:1]), (V1, rows[1:2]), (V2, rows[2:])):
        body = {"rows": erased, "retired": False, "reason": "asked for", "request": "d" * 64}
        facts.add(of(AttestationKind.ERASURE, dataset, body, route=None))
    assert dict(facts.erased) == {V1: set(rows[:2]), V2: set(rows[2:])}
    assert dict(facts.erased_of) == {"acme": set(rows)}


def test_a_restarted_hub_has_every_fact_that_decides(facts: Facts) -> None:
    kept = [
        attested(V1, 1),
        of(AttestationKind.SOAKED, V1, {}),
        of(AttestationKind.BREACHED, V1, BREACH, 3),
        of(AttestationKind.REVOCATION, V2, {"reason": "leaks"}, route=None),
    ]

    class Store:
        def attestations(self, *, kind: AttestationKind) -> list[Attestation]:
            return [one for one in kept if one.kind is kind]

    loaded = Facts.load(Store())  # type: ignore[arg-type]
    for one in kept:
        facts.add(one)
    assert loaded.of(KEY) == facts.of(KEY)
    assert loaded.revoked == {V2: "leaks"}
    assert loaded.attested_generation(KEY, 1) == (2, 3)
