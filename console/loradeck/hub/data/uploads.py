"""Uploads of nodes: files that a job makes, under its lease, and no more bytes than a job could mean."""

from loradeck.rules.errors import Refused

MOST_BYTES = 1 << 40
"""Bytes that a node may send under the leases that it holds: some checkpoints of the largest weights."""


class Uploads:
    """The bytes that each node has sent since it last held none of its present leases."""

    def __init__(self) -> None:
        self._sent: dict[str, tuple[frozenset[str], int]] = {}

    def take(self, node: str, leases: frozenset[str], size: int) -> None:
        """Counts bytes that a node is sending, and checks that they are for a job whose lease it holds.

        Raises: Refused: `forbidden`: it holds none; `too_large`: these are more than a job could mean.
        """
        if not leases:
            self._sent.pop(node, None)
            raise Refused("forbidden", f"{node} holds no job's lease: a node sends only what a job makes")
        before, sent = self._sent.get(node, (leases, 0))
        sent = (0 if leases.isdisjoint(before) else sent) + size
        if sent > MOST_BYTES:
            raise Refused(
                "too_large", f"{node} has sent {MOST_BYTES >> 30} GiB for its jobs already", fix="cancel them"
            )
        self._sent[node] = (leases, sent)
