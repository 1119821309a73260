"""The part of a log that a console holds is hashed again, in any order and with gaps."""

from __future__ import annotations

from tests.fakes import console_fleet as seed

from loradeck.rules.moves.chain import ChainCheck
from loradeck.schemas.log import Event


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
