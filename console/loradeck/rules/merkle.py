"""The Merkle tree over the lines of the audit trail: RFC 9162, section 2.1, with SHA-256.

Its root names all lines in their order. Unlike the head of a chain of hashes it is what transparency logs exchange, so
that a foreign witness can follow the trail without reading it. The answer ledger has small trees of its own, over the
segments of an hour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loradeck.schemas.position import AuditHead


def leaf_hash(line: bytes) -> bytes:
    """The hash of one line."""
    return hashlib.sha256(b"\x00" + line).digest()


def _above(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """All that is needed of a tree to add to it: its size, and the roots of its full subtrees, the largest first."""

    size: int = 0
    roots: tuple[bytes, ...] = ()

    def extended(self, lines: Iterable[bytes]) -> Frontier:
        """The tree with more lines at its end."""
        size, roots = self.size, list(self.roots)
        for line in lines:
            node, at = leaf_hash(line), size
            while at & 1:  # a full subtree of the same size stands to the left
                node, at = _above(roots.pop(), node), at >> 1
            roots.append(node)
            size += 1
        return Frontier(size, tuple(roots))

    @property
    def head(self) -> AuditHead:
        """The size and the root."""
        if not self.roots:
            return AuditHead()
        node = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            node = _above(left, node)
        return AuditHead(size=self.size, root=node.hex())

    def full(self, first: int) -> str:
        """The root of the full subtree that begins with a line, counted from 0, in hexadecimal.

        Raises: KeyError: none begins there.
        """
        at = 0
        for root, size in zip(self.roots, _bits(self.size), strict=True):
            if at == first:
                return root.hex()
            at += size
        raise KeyError(first)

    def as_text(self) -> str:
        """The frontier as text: the size, then the roots in hexadecimal."""
        return " ".join([str(self.size), *(root.hex() for root in self.roots)])

    @classmethod
    def of_text(cls, text: str) -> Frontier:
        """The frontier of a text that `as_text` wrote. Raises: ValueError: it is none."""
        size, *roots = text.split(" ")
        if len(roots) != int(size).bit_count():
            raise ValueError(f"a tree of {size} lines does not have {len(roots)} full subtrees")
        return cls(int(size), tuple(bytes.fromhex(root) for root in roots))


def _bits(size: int) -> list[int]:
    return [1 << bit for bit in reversed(range(size.bit_length())) if size >> bit & 1]


def proof_of(old: int, new: int) -> list[tuple[int, int]]:
    """The subtrees whose roots prove that a tree of `new` lines goes on from one of `old`, in order: RFC 9162, 2.1.4.1.

    `old`: at least 1, and at most `new`.

    Returns: the first line of each, counted from 0, and the one after its last. They lie before line `old` or after it.
    """

    def part(size: int, first: int, last: int, whole: bool) -> list[tuple[int, int]]:
        if first + size == last:
            return [] if whole else [(first, last)]
        left = 1 << (last - first - 1).bit_length() - 1
        middle = first + left
        if size > left:
            return [*part(size - left, middle, last, False), (first, middle)]
        return [*part(size, first, middle, whole), (middle, last)]

    return part(old, 0, new, True)


def goes_on(old: AuditHead, new: AuditHead, proof: Sequence[str]) -> bool:
    """Tells whether a proof shows that the tree of `new` begins with the lines of `old`: RFC 9162, 2.1.4.2."""
    if old.size > new.size:
        return False
    if old.size in (0, new.size):
        return not proof and (old.size == 0 or old.root == new.root)
    nodes = [bytes.fromhex(node) for node in proof]
    if old.size.bit_count() == 1:
        nodes.insert(0, bytes.fromhex(old.root))
    at, last = old.size - 1, new.size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    if not nodes:
        return False
    before = after = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = _above(node, before), _above(node, after)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            after = _above(after, node)
        at, last = at >> 1, last >> 1
    return last == 0 and (before.hex(), after.hex()) == (old.root, new.root)


def path_of(lines: Sequence[bytes], at: int) -> list[str]:
    """The hashes that show that one line, counted from 0, is in the tree of these: RFC 9162, 2.1.3.1."""
    if len(lines) == 1:
        return []
    left = 1 << (len(lines) - 1).bit_length() - 1
    if at < left:
        return [*path_of(lines[:left], at), Frontier().extended(lines[left:]).head.root]
    return [*path_of(lines[left:], at - left), Frontier().extended(lines[:left]).head.root]


def is_in(line: bytes, at: int, head: AuditHead, path: Sequence[str]) -> bool:
    """Tells whether a path shows that the tree of a head has a line at a place: RFC 9162, 2.1.3.2."""
    last, node = head.size - 1, leaf_hash(line)
    if not 0 <= at <= last:
        return False
    for other in map(bytes.fromhex, path):
        if last == 0:
            return False
        if at & 1 or at == last:
            node = _above(other, node)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            node = _above(node, other)
        at, last = at >> 1, last >> 1
    return last == 0 and node.hex() == head.root
