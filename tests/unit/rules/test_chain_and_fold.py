"""The chain, and the log folded into pointers and tenants."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.in_process.log import RELEASER, Acme, SimulatedLog, digest

from loradeck.rules.errors import Refused
from loradeck.rules.moves import chain, tenants
from loradeck.rules.moves.fold import FoldedLog, LogGap
from loradeck.schemas.counts import Counts
from loradeck.schemas.feed import FeedEvents
from loradeck.schemas.ids import digest_of
from loradeck.schemas.log import GENESIS, Draft, Event, EventKind, Lifted, PointerState
from loradeck.schemas.route import RouteConfig, Soak
from loradeck.schemas.tenant import CallerKey, TenantState


@pytest.fixture
def events(acme: Acme) -> list[Event]:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    acme.rollback()
    acme.hold(False)
    return acme.log.events


def test_an_untouched_log_is_whole(events: list[Event]) -> None:
    assert chain.verify(events) is None
    assert chain.verify(events[2:], prev_hash=events[1].hash, first_rev=3) is None
    assert chain.verify([]) is None


EDITS: dict[str, Callable[[Event], dict[str, Any]]] = {
    "reason": lambda e: {"reason": "another reason"},
    "actor": lambda e: {"actor": "op2"},
    "time": lambda e: {"at_ms": e.at_ms + 1},
    "override": lambda e: {"override": not e.override},
    "payload": lambda e: {"payload": {"x": 1}},
    "undoes": lambda e: {"undoes": ("0" * 32,)},
    "pointer": lambda e: {"pointer": None},
    "generation": lambda e: {"pointer": e.pointer.model_copy(update={"generation": 99}) if e.pointer else None},
    "epoch": lambda e: {"epoch": e.epoch + 1},
    "id": lambda e: {"id": "f" * 32},
}


@pytest.mark.parametrize("field", EDITS)
def test_a_changed_event_is_found_at_its_rev(events: list[Event], field: str) -> None:
    events[2] = events[2].model_copy(update=EDITS[field](events[2]))
    found = chain.verify(events)
    assert found is not None
    assert found.rev == 3
    assert "changed" in found.why


def test_a_changed_event_with_its_hash_made_to_fit_is_found_at_the_next(events: list[Event]) -> None:
    forged = events[2].model_copy(update={"reason": "another reason"})
    events[2] = forged.model_copy(update={"hash": chain.event_hash(forged)})
    found = chain.verify(events)
    assert found is not None
    assert (found.rev, found.why) == (4, "rev 4 does not follow the event before it")


def test_a_missing_a_repeated_and_a_swapped_event_are_found(events: list[Event]) -> None:
    for broken, rev in (
        (events[:2] + events[3:], 3),
        (events[:3] + events[2:], 4),
        ([events[1], events[0], *events[2:]], 1),
    ):
        found = chain.verify(broken)
        assert found is not None
        assert found.rev == rev


def test_an_epoch_that_goes_back_is_found() -> None:
    log = SimulatedLog()
    log.epoch = 2
    log.commit(tenants.create({}, "acme", RELEASER))
    log.epoch = 1
    log.commit(tenants.create({}, "bolt", RELEASER))
    found = chain.verify(log.events)
    assert found is not None
    assert (found.rev, found.why) == (2, "rev 2 was committed under epoch 1, after epoch 2")


def test_the_hash_of_an_event_is_the_same_in_every_version() -> None:
    """Computed once and written down: a log of today verifies with the program of tomorrow."""
    golden = Path(__file__).parents[2] / "contract" / "wire" / "golden" / "feed" / "events.json"
    events = FeedEvents.model_validate_json(golden.read_bytes()).events
    assert len(events) == 2
    assert [chain.event_hash(e) for e in events] == [e.hash for e in events]


def test_fields_at_their_default_are_not_hashed_so_that_one_can_be_added() -> None:
    draft = Draft(
        kind=EventKind.ROUTE,
        tenant="acme",
        route="production",
        pointer=PointerState(tenant="acme", route="production"),
        actor="op1",
        role=RELEASER.role,
    )
    event = chain.seal(draft, rev=1, id="1" * 32, txn="2" * 32, epoch=1, at_ms=0, prev_hash=GENESIS)
    assert event.hash == digest_of(
        {
            "rev": 1,
            "id": "1" * 32,
            "txn": "2" * 32,
            "epoch": 1,
            "kind": "route",
            "tenant": "acme",
            "route": "production",
            "pointer": {"tenant": "acme", "route": "production"},
            "from_release": None,
            "actor": "op1",
            "role": "releaser",
            "reason": "",
            "incident": None,
            "override": False,
            "undoes": [],
            "payload": {},
            "at_ms": 0,
            "prev_hash": GENESIS,
        }
    )


def test_sealing_writes_the_id_where_the_draft_could_not(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    acme.log.epoch = 7
    event = acme.rollback()
    assert event.pointer is not None
    assert (event.pointer.last_move, event.pointer.moved_ms, event.pointer.moved_epoch) == (event.id, event.at_ms, 7)
    assert [q.event for q in event.pointer.quarantined] == [event.id]
    held = acme.hold(False)
    assert held.pointer is not None
    assert held.pointer.last_move == event.id
    assert held.pointer.moved_ms == event.at_ms


# ---- the fold --------------------------------------------------------------------------------------------


def test_folding_from_a_snapshot_goes_on_where_it_ended(events: list[Event]) -> None:
    whole, half = FoldedLog(), FoldedLog()
    whole.extend(events)
    half.extend(events[:2])
    rest = FoldedLog.of(
        epoch=half.epoch,
        rev=half.rev,
        hash=half.hash,
        pointers=half.pointers.values(),
        tenants=half.tenants.values(),
        pools=half.pools,
    )
    rest.extend(events[2:])
    assert vars(rest) == vars(whole)


@pytest.mark.parametrize("which", ["gap", "again", "another log"])
def test_an_event_that_does_not_follow_is_refused_and_changes_nothing(events: list[Event], which: str) -> None:
    ledger = FoldedLog()
    ledger.extend(events[:2])
    before = copy.deepcopy(vars(ledger))
    wrong = {
        "gap": events[3],
        "again": events[1],
        "another log": events[2].model_copy(update={"prev_hash": digest("another log")}),
    }[which]
    with pytest.raises(LogGap):
        ledger.apply(wrong)
    assert vars(ledger) == before


def test_tenants_are_what_their_events_made_of_them() -> None:
    log = SimulatedLog()
    tenant: Callable[[], TenantState] = lambda: log.ledger.tenants["acme"]  # noqa: E731
    log.commit(tenants.create(log.ledger.tenants, "acme", RELEASER))
    config = RouteConfig(soak=Soak(seconds=5, requests=20), placement={"site": "eu-1"})
    log.commit(tenants.set_route(tenant(), "production", config, RELEASER, pointer=None))
    assert tenant().routes == {"production": config}
    assert log.ledger.pointers == {("acme", "production"): PointerState(tenant="acme", route="production")}
    key = CallerKey(id="k1", sha256=digest("key"))
    log.commit(tenants.add_key(tenant(), key, RELEASER))
    log.commit(tenants.add_key(tenant(), CallerKey(id="k2", sha256=digest("key 2")), RELEASER))
    log.commit(tenants.remove_key(tenant(), "k2", RELEASER))
    assert tenant().keys == (key,)
    log.commit(tenants.suspend(tenant(), RELEASER))
    assert tenant().suspended
    log.commit(tenants.resume(tenant(), RELEASER))
    assert not tenant().suspended
    log.commit(tenants.offboard(tenant(), RELEASER, reason="contract ended"))
    assert (tenant().offboarded, tenant().keys) == (True, ())
    assert chain.verify(log.events) is None


def test_new_settings_of_a_route_leave_its_pointer_alone(acme: Acme) -> None:
    acme.log.commit(tenants.create({}, "acme", RELEASER))
    acme.promote("v1")
    before = acme.pointer
    state = acme.log.ledger.tenants["acme"]
    acme.log.commit(tenants.set_route(state, "production", RouteConfig(min_replicas=2), RELEASER, pointer=acme.pointer))
    assert acme.pointer == before
    assert acme.log.ledger.tenants["acme"].routes["production"].min_replicas == 2


ACME = TenantState(name="acme", keys=(CallerKey(id="k1", sha256=digest("key")),))
GONE = ACME.model_copy(update={"offboarded": True})


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda: tenants.create({"acme": ACME}, "acme", RELEASER), "exists"),
        (lambda: tenants.create({"acme": GONE}, "acme", RELEASER), "exists"),
        (lambda: tenants.resume(ACME, RELEASER), "no_change"),
        (lambda: tenants.suspend(ACME.model_copy(update={"suspended": True}), RELEASER), "no_change"),
        (lambda: tenants.add_key(ACME, ACME.keys[0], RELEASER), "exists"),
        (lambda: tenants.remove_key(ACME, "k9", RELEASER), "unknown_key"),
        (lambda: tenants.suspend(GONE, RELEASER), "offboarded"),
        (lambda: tenants.offboard(GONE, RELEASER), "offboarded"),
        (lambda: tenants.add_key(GONE, ACME.keys[0], RELEASER), "offboarded"),
        (lambda: tenants.set_route(GONE, "production", RouteConfig(), RELEASER, pointer=None), "offboarded"),
    ],
)
def test_what_does_not_fit_a_tenant_is_refused(ask: Callable[[], Draft], code: str) -> None:
    with pytest.raises(Refused) as refusal:
        ask()
    assert refusal.value.code == code


def test_an_event_of_a_tenant_that_was_never_created_is_an_error() -> None:
    with pytest.raises(KeyError):
        SimulatedLog().commit(tenants.suspend(ACME, RELEASER))


def test_the_hash_of_a_lift_that_version_0_1_0_committed_is_what_it_was() -> None:
    lifted = {"release": "a" * 64, "breach": 7, "generation": 2}
    lifted |= {"live": {"requests": 10, "errors": 0, "checked": 4, "bad": 1}}
    read = Lifted.model_validate(lifted | {"total": dict.fromkeys(("requests", "errors", "checked", "bad"), 0)})
    assert (read.live, read.total) == (Counts.over(finished=10, checked=4, bad=1), Counts())
    hashed = read.model_dump(mode="json", exclude_defaults=True)
    assert hashed == lifted | {"live": {"requests": 10, "checked": 4, "bad": 1}}
    now = read.model_copy(update={"live": Counts.over(refused=3, finished=10)})
    assert Lifted.model_validate_json(now.model_dump_json()) == now
