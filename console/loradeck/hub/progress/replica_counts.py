"""Counts of the placed replicas of a pointer that have flipped, proven or failed, updated with each acknowledgement.

A fleet answers a move all at once. Counting anew with every acknowledgement would make a move to a thousand nodes a
million steps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import AckRecord
from loradeck.rules.serving import counting, proof
from loradeck.rules.serving.counting import Share
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.link import Replica


@dataclass(slots=True)
class Progress:
    """The number of placed replicas at each stage of a pointer's current generation. Never changed in place; it is not
    frozen because that doubles what making one takes.

    `reachable` replicas are those whose node was heard within the TTL and says that they answer. Only these count as
    `flipped`, `proven` or `listed`: nobody knows what the others answer with now. `owing_flip` and `owing_proof` are
    the reachable replicas that may still flip, or be proven, listed or failed; one that is pinned to another release
    owes nothing until its pin has ended. `resting` ones have flipped and are not proven now, and that is as it should
    be (`counting.is_resting`).
    `flipped_at` and `proven_at` are when the last one got there, on the hub's monotonic clock; None while one is
    missing.
    """

    placed: int
    reachable: int
    flipped: int
    proven: int
    listed: int
    failed: int
    owing_flip: int
    owing_proof: int
    resting: int
    flipped_at: float | None
    proven_at: float | None

    @property
    def reached(self) -> Reached:
        """How far the generation has come on all its placed replicas."""
        return proof.reached(placed=self.placed, flipped=self.flipped, proven=self.proven, listed=self.listed)

    @property
    def is_unproven(self) -> bool:
        """Whether some placed replica is neither proven nor listed nor resting: it may answer with another release."""
        return self.proven + self.listed + self.resting < max(1, self.placed)

    @property
    def settled(self) -> bool:
        """Whether every reachable replica is proven, listed, failed or pinned elsewhere: no acknowledgement is owed."""
        return self.owing_proof == 0

    def hopeless(self, level: str) -> bool:
        """Tells whether waiting for a level is of no use: every reachable replica has got as far as it can."""
        return (self.owing_proof if level == "proven" else self.owing_flip) == 0


def share(node: Node, replica: str, ack: AckRecord | None) -> Share:
    """The part of a node's replica in the counts, by its newest acknowledgement of the current generation."""
    silent = node.lost or replica in node.silent
    if ack is None:
        return counting.share(silent=silent, state=None, flipped=False, pinned=False)
    return counting.share(
        silent=silent, state=ack.state, flipped=ack.is_flipped, pinned=ack.is_pinned, rests=ack.is_resting
    )


_OWING = (5, 6)
"""Where a share says that a flip, and a proof, is owed."""


class ReplicaCounts:
    """The counts of one pointer over its placed replicas, and when the latest flip and proof came."""

    __slots__ = ("_flipped_at", "_placed", "_proven_at", "_sums")

    def __init__(self, placed: Iterable[tuple[Node, Replica]], acks: Mapping[str, AckRecord]) -> None:
        self._sums = [0] * 8
        self._placed = 0
        self._flipped_at = self._proven_at = 0.0
        for node, replica in placed:
            self._placed += 1
            ack = acks.get(replica.replica)
            for index, part in enumerate(share(node, replica.replica, ack)):
                self._sums[index] += part
            if ack is not None:
                self._note(node, replica.replica, ack)

    def change(self, node: Node, replica: str, before: Share, ack: AckRecord) -> bool:
        """Counts an acknowledgement of a placed replica, whose share was `before`.

        Returns whether it was the last that owed a flip, or a proof.
        """
        after, sums = share(node, replica, ack), self._sums
        if after != before:
            for index, part in enumerate(after):
                sums[index] += part - before[index]
        self._note(node, replica, ack)
        return any(before[owing] and not after[owing] and not sums[owing] for owing in _OWING)

    def _note(self, node: Node, replica: str, ack: AckRecord) -> None:
        # What is taken back leaves a time behind that is too early to matter: who gets there again does so later.
        if node.lost or replica in node.silent:
            return
        if ack.flipped is not None and ack.flipped > self._flipped_at:
            self._flipped_at = ack.flipped
        if ack.proven is not None and ack.proven > self._proven_at:
            self._proven_at = ack.proven

    def progress(self) -> Progress:
        """The counts as they are now."""
        n = self._placed
        reachable, flipped, proven, listed, failed, owing_flip, owing_proof, resting = self._sums
        return Progress(
            placed=n,
            reachable=reachable,
            flipped=flipped,
            proven=proven,
            listed=listed,
            failed=failed,
            owing_flip=owing_flip,
            owing_proof=owing_proof,
            resting=resting,
            flipped_at=self._flipped_at if n and flipped == n else None,
            proven_at=self._proven_at if n and proven == n else None,
        )
