"""Which heads of an audit trail a node signs."""

from __future__ import annotations

import pytest

from loradeck.rules.cosigning import refusal
from loradeck.rules.merkle import Frontier, proof_of
from loradeck.schemas.position import AuditHead

LINES = [str(n).encode() for n in range(9)]
FIVE, NINE = Frontier().extended(LINES[:5]), Frontier().extended(LINES).head
PROOF = tuple(
    FIVE.full(first) if first < 5 else Frontier().extended(LINES[first:last]).head.root
    for first, last in proof_of(5, 9)
)


def test_a_head_that_goes_on_from_the_last_one_is_signed_and_so_is_the_first_one_and_the_same_one() -> None:
    assert refusal(FIVE.head, NINE, 5, PROOF) == ""
    assert refusal(AuditHead(), NINE, 0, ()) == ""
    assert refusal(AuditHead(), NINE, 5, PROOF) == ""
    assert refusal(NINE, NINE, 9, ()) == ""


@pytest.mark.parametrize(
    ("signed", "asked", "old", "proof", "why"),
    [
        (NINE, FIVE.head, 9, (), "it has signed a head of 9 lines, and this one has 5"),
        (NINE, AuditHead(size=9, root="a" * 64), 9, (), "it has signed another head of 9 lines"),
        (FIVE.head, NINE, 4, PROOF, "it has signed a head of 5 lines, and the proof begins with 4"),
        (FIVE.head, NINE, 5, (), "the trail of 9 lines does not go on from the 5 that it has signed"),
        (
            AuditHead(size=5, root="a" * 64),
            NINE,
            5,
            PROOF,
            "the trail of 9 lines does not go on from the 5 that it has signed",
        ),
    ],
)
def test_a_head_that_contradicts_what_was_signed_is_not(
    signed: AuditHead, asked: AuditHead, old: int, proof: tuple[str, ...], why: str
) -> None:
    assert refusal(signed, asked, old, proof) == why
