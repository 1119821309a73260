"""How far a pointer is over its placed replicas, counted once and then kept up with each acknowledgement.

A fleet answers a move all at once. Counting over again with every answer would make a move to a thousand nodes
a million steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loradeck.hub.fleet.nodes import AckRecord, Node
from loradeck.schemas.link import AckState, Replica

_ENDS = (AckState.PROVEN, AckState.LISTED, AckState.FAILED)

Share = tuple[int, int, int, int, int, int, int, int]
"""What one replica adds: reachable, flipped, proven, listed, failed, and what it owes: flip, proof, an end."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pointer's current generation is over its placed replicas.

    `reachable` ones were heard from within the TTL, and only these count as `proven` or `listed`: what a lost
    node answers with now is not known. A flip is durable where it was made and stays counted. `owing_*` are the
    reachable ones that have neither got there nor failed. `flipped_at` and `proven_at` are when the last one got
    there, on the hub's monotonic clock; None while one is missing. One that is pinned to another release owes nothing:
    it goes nowhere until its pin has ended.
    """

    placed: int
    reachable: int
    flipped: int
    proven: int
    listed: int
    failed: int
    owing_flip: int
    owing_proof: int
    owing_end: int
    flipped_at: float | None
    proven_at: float | None

    @property
    def all_flipped(self) -> bool:
        return self.placed > 0 and self.flipped == self.placed

    @property
    def all_proven(self) -> bool:
        return self.placed > 0 and self.proven + self.listed == self.placed

    @property
    def settled(self) -> bool:
        """No reachable replica still owes an answer: each is proven, listed, failed or pinned elsewhere."""
        return self.owing_end == 0

    def at(self, level: str) -> bool:
        return {"flipped": self.all_flipped, "proven": self.all_proven}.get(level, True)

    def hopeless(self, level: str) -> bool:
        """Every replica that is not lost has got there, failed or is pinned, so waiting longer brings nothing."""
        return (self.owing_proof if level == "proven" else self.owing_flip) == 0


def share(node: Node, ack: AckRecord | None) -> Share:
    """What a replica of a node adds, by what it has acknowledged of the current generation."""
    reached = not node.lost
    if ack is None:
        return (reached, 0, 0, 0, 0, reached, reached, reached)
    failed = ack.state is AckState.FAILED
    final = failed or ack.is_pinned  # nothing more is to be expected of it
    return (
        reached,
        ack.is_flipped,
        reached and ack.state is AckState.PROVEN,
        reached and ack.state is AckState.LISTED,
        failed,
        reached and not final and not ack.is_flipped,
        reached and not final and not ack.is_proven,
        reached and not final and ack.state not in _ENDS,
    )


class Tally:
    """The sums, and the latest flip and proof."""

    __slots__ = ("_flipped_at", "_placed", "_proven_at", "_sums")

    def __init__(self, placed: Iterable[tuple[Node, Replica]], acks: Mapping[str, AckRecord]) -> None:
        self._sums = [0] * 8
        self._placed = 0
        self._flipped_at = self._proven_at = 0.0
        for node, replica in placed:
            self._placed += 1
            ack = acks.get(replica.replica)
            for index, part in enumerate(share(node, ack)):
                self._sums[index] += part
            if ack is not None:
                self._note(node, ack)

    def change(self, node: Node, before: Share, ack: AckRecord) -> None:
        """A placed replica, whose share was `before`, has acknowledged something."""
        for index, (old, new) in enumerate(zip(before, share(node, ack), strict=True)):
            self._sums[index] += new - old
        self._note(node, ack)

    def _note(self, node: Node, ack: AckRecord) -> None:
        # What is taken back leaves a time behind that is too early to matter: who gets there again does so later.
        if ack.flipped is not None:
            self._flipped_at = max(self._flipped_at, ack.flipped)
        if ack.proven is not None and not node.lost:
            self._proven_at = max(self._proven_at, ack.proven)

    def progress(self) -> Progress:
        n = self._placed
        reachable, flipped, proven, listed, failed, owing_flip, owing_proof, owing_end = self._sums
        return Progress(
            placed=n,
            reachable=reachable,
            flipped=flipped,
            proven=proven,
            listed=listed,
            failed=failed,
            owing_flip=owing_flip,
            owing_proof=owing_proof,
            owing_end=owing_end,
            flipped_at=self._flipped_at if n and flipped == n else None,
            proven_at=self._proven_at if n and proven + listed == n else None,
        )
