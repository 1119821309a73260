"""The tree over the audit trail, against RFC 9162's definition and Certificate Transparency's own test vectors."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.merkle import Frontier
from loradeck.schemas.audit import EMPTY_ROOT

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
