"""The Merkle tree over the lines of the audit trail: RFC 9162, section 2.1, with SHA-256.

Its root names all lines in their order. Unlike the head of a chain of hashes it is what transparency logs exchange, so
that a foreign witness can follow the trail without reading it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from loradeck.schemas.audit import AuditHead


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

    def as_text(self) -> str:
        """The frontier as text: the size, then the roots in hexadecimal."""
        return " ".join([str(self.size), *(root.hex() for root in self.roots)])

    @classmethod
    def of_text(cls, text: str) -> Frontier:
        """The frontier of a text that `as_text` wrote.

        Raises:
            ValueError: it is none.
        """
        size, *roots = text.split(" ")
        if len(roots) != int(size).bit_count():
            raise ValueError(f"a tree of {size} lines does not have {len(roots)} full subtrees")
        return cls(int(size), tuple(bytes.fromhex(root) for root in roots))
