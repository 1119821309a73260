"""The console recomputes the chain of what it holds."""

from __future__ import annotations

from scripts import console_seed as seed

from loradeck.client.chain import ChainCheck
from loradeck.schemas.log import Event


def events() -> list[Event]:
    return list(seed.hub_state().events)


def test_a_real_chain_holds_in_any_order() -> None:
    check = ChainCheck()
    log = events()
    check.take(log[10:])
    check.take(reversed(log[:10]))
    assert check.broken is None


def test_a_changed_reason_is_found() -> None:
    log = events()
    log[4] = log[4].model_copy(update={"reason": "nothing to see"})
    check = ChainCheck()
    check.take(log)
    assert check.broken == f"rev {log[4].rev} does not have its own hash"


def test_a_left_out_event_put_back_differently_is_found() -> None:
    log = events()
    other = seed.Log(rev=log[4].rev - 1)
    assert log[4].pointer is not None
    forged = other.add(log[4].kind, log[4].pointer, None, actor="op9", at_ms=log[4].at_ms)
    check = ChainCheck()
    check.take([*log[:4], forged, *log[5:]])
    assert check.broken == f"between rev {log[3].rev} and {forged.rev}"


def test_a_gap_is_no_fault() -> None:
    log = events()
    check = ChainCheck()
    check.take([*log[:4], *log[6:]])
    assert check.broken is None


def test_the_hash_is_the_one_the_hub_takes() -> None:
    from loradeck.rules.moves.chain import event_hash

    for event in events():
        assert event.hash == event_hash(event)
