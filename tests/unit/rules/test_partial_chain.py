"""The part of a log that a console holds is hashed again, in any order and with gaps."""

from __future__ import annotations

from tests.fakes import console_fleet as seed

from loradeck.rules.moves.chain import ChainCheck, event_hash, seal
from loradeck.schemas.ids import Role
from loradeck.schemas.log import GENESIS, Draft, Event, EventKind


def events() -> list[Event]:
    return list(seed.hub_state().events)


def test_a_real_chain_holds_in_any_order() -> None:
    check = ChainCheck()
    log = events()
    check.add(log[10:])
    check.add(reversed(log[:10]))
    assert check.broken is None


def test_a_changed_reason_is_found() -> None:
    log = events()
    log[4] = log[4].model_copy(update={"reason": "nothing to see"})
    check = ChainCheck()
    check.add(log)
    assert check.broken == f"rev {log[4].rev} does not have its own hash"


def test_a_left_out_event_put_back_differently_is_found() -> None:
    log = events()
    other = seed.Log(rev=log[4].rev - 1)
    assert log[4].pointer is not None
    forged = other.add(log[4].kind, log[4].pointer, None, actor="op9", at_ms=log[4].at_ms)
    check = ChainCheck()
    check.add([*log[:4], forged, *log[5:]])
    assert check.broken == f"between rev {log[3].rev} and {forged.rev}"


def test_a_gap_is_no_fault() -> None:
    log = events()
    check = ChainCheck()
    check.add([*log[:4], *log[6:]])
    assert check.broken is None


def test_a_first_event_that_does_not_begin_a_log_is_found() -> None:
    created = Draft(kind=EventKind.TENANT_CREATE, tenant="acme", actor="rel1", role=Role.RELEASER)
    first = seal(created, rev=1, id="e" * 32, txn="t" * 32, epoch=1, at_ms=1, prev_hash=GENESIS)
    forged = seal(created, rev=1, id="e" * 32, txn="t" * 32, epoch=1, at_ms=1, prev_hash="f" * 64)
    second = seal(created, rev=2, id="d" * 32, txn="t" * 32, epoch=1, at_ms=1, prev_hash="f" * 64)
    for event, broken in ((first, None), (forged, "between rev 0 and 1"), (second, None)):
        check = ChainCheck()
        check.add([event])
        assert check.broken == broken


def test_an_event_that_arrives_before_the_one_that_it_does_not_follow_is_found_when_that_comes() -> None:
    log = events()
    other = log[4].model_copy(update={"reason": "nothing to see"})
    other = other.model_copy(update={"hash": event_hash(other)})
    check = ChainCheck()
    check.add([log[5]])
    assert check.broken is None
    check.add([other])
    assert check.broken == f"between rev {other.rev} and {log[5].rev}"


def test_an_event_that_is_held_already_does_not_end_the_check_of_those_after_it() -> None:
    log = events()
    check = ChainCheck()
    check.add(log[:4])
    check.add([log[3], log[4].model_copy(update={"reason": "nothing to see"})])
    assert check.broken == f"rev {log[4].rev} does not have its own hash"


def test_the_first_fault_is_the_one_that_is_named() -> None:
    log = events()
    check = ChainCheck()
    check.add([*log[:4], log[4].model_copy(update={"reason": "one"}), log[5].model_copy(update={"reason": "two"})])
    assert check.broken == f"rev {log[4].rev} does not have its own hash"
