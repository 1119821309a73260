"""The tree over the audit trail, against RFC 9162's definition and Certificate Transparency's own test vectors."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.merkle import Frontier, goes_on, proof_of
from loradeck.schemas.position import EMPTY_ROOT, AuditHead

# The leaves and roots that certificate-transparency-go tests its tree with.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def as_defined(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, as it is written there."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + as_defined(leaves[:k]) + as_defined(leaves[k:])).digest()


@pytest.mark.parametrize("size", range(1, 9))
def test_the_root_is_that_of_certificate_transparency(size: int) -> None:
    head = Frontier().extended(LEAVES[:size]).head
    assert (head.size, head.root) == (size, ROOTS[size - 1])


def test_a_tree_without_leaves_has_the_hash_of_nothing() -> None:
    assert Frontier().head.root == EMPTY_ROOT == as_defined([]).hex()


@given(st.lists(st.binary(max_size=8), max_size=70), st.integers(0, 70))
def test_lines_may_be_added_in_parts(leaves: list[bytes], cut: int) -> None:
    begun = Frontier.of_text(Frontier().extended(leaves[:cut]).as_text())
    whole = begun.extended(leaves[cut:])
    assert (whole.size, whole.head.root) == (len(leaves), as_defined(leaves).hex())


@pytest.mark.parametrize("text", ["", "x", "3 00", "1 zz", "-1"])
def test_what_is_no_frontier_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(a tree of|invalid literal|non-hexadecimal)"):
        Frontier.of_text(text)


def proof_as_defined(size: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 9162, 2.1.4.1, as it is written there."""
    if size == len(leaves):
        return [] if whole else [as_defined(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if size <= k:
        return [*proof_as_defined(size, leaves[:k], whole), as_defined(leaves[k:])]
    return [*proof_as_defined(size - k, leaves[k:], False), as_defined(leaves[:k])]


MANY = [str(n).encode() for n in range(40)]


def proven(lines: list[bytes], old: int) -> tuple[str, ...]:
    """The proof that all these lines go on from the first of them, from what the first add up to and the others."""
    before = Frontier().extended(lines[:old])
    return tuple(
        before.full(first) if first < old else Frontier().extended(lines[first:last]).head.root
        for first, last in proof_of(old, len(lines))
    )


def test_a_proof_is_that_of_the_definition_and_shows_that_a_trail_goes_on() -> None:
    for old in range(1, len(MANY)):
        before = Frontier().extended(MANY[:old])
        for new in range(old, len(MANY)):
            proof, after = proven(MANY[:new], old), Frontier().extended(MANY[:new]).head
            assert list(proof) == [node.hex() for node in proof_as_defined(old, MANY[:new])]
            assert goes_on(before.head, after, proof)
    assert goes_on(AuditHead(), Frontier().extended(MANY).head, ())


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_no_proof_shows_that_a_trail_goes_on_from_another_one(old: int, more: int, data: st.DataObject) -> None:
    lines = [str(n).encode() for n in range(old + more)]
    before, after = Frontier().extended(lines[:old]), Frontier().extended(lines).head
    proof = proven(lines, old)
    changed = data.draw(st.integers(0, old - 1))
    other = Frontier().extended([*lines[:changed], b"another", *lines[changed + 1 :]]).head
    assert not goes_on(before.head, other, proof)
    at = data.draw(st.integers(0, len(proof) - 1))
    for wrong in (proof[:at] + proof[at + 1 :], (*proof[:at], "0" * 64, *proof[at + 1 :]), (*proof, "0" * 64), ()):
        assert not goes_on(before.head, after, wrong)
    assert not goes_on(after, before.head, proof)
