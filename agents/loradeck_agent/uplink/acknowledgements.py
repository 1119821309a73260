"""The newest acknowledgements of each pointer on each replica.

Acknowledgements go up as they happen. The board keeps the newest, so that a hub which was away gets the state again:
it counts only acknowledgements that it has received.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from loradeck.schemas.link import Ack
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import TableEntry

ReplicaPointer = tuple[str, str, str]
"""(tenant, route, replica): a pointer on one replica."""

_PROOF = (AckState.PROVEN, AckState.LISTED, AckState.FAILED)


@dataclass
class AckBoard:
    """Newest flip and newest proof of every (tenant, route, replica).

    Only the node's own `replicas` are acknowledged: a router that ran on while the agent's settings changed answers for
    those that it was given before.
    """

    send: Callable[[Ack], Awaitable[bool]]
    replicas: frozenset[str]
    of_engine: Callable[[Ack], Ack] = lambda ack: ack
    """Adds what the agent knows of the engine that an acknowledgement speaks of."""
    flips: dict[ReplicaPointer, Ack] = field(default_factory=dict)
    proofs: dict[ReplicaPointer, Ack] = field(default_factory=dict)

    async def post(self, ack: Ack) -> bool:
        """Notes an acknowledgement and sends it.

        False: it was older than what is known, or of a replica that the node does not have, and was not sent.
        """
        if ack.replica not in self.replicas:
            return False
        ack = self.of_engine(ack)
        key = (ack.tenant, ack.route, ack.replica)
        fence = (ack.epoch, ack.generation)
        flip, proof = self.flips.get(key), self.proofs.get(key)
        for known in (flip, proof):
            if known is not None and (known.epoch, known.generation) > fence:
                return False
        if ack.state in _PROOF:
            self.proofs[key] = ack
        else:
            fails = proof is not None and (proof.epoch, proof.generation) == fence and proof.state is AckState.FAILED
            if ack.state is AckState.WAITING and fails:
                return False  # the hub has the reason already
            if proof is not None and ((proof.epoch, proof.generation) < fence or proof.release != ack.release):
                del self.proofs[key]  # a tombstone, or the entry after it, is under the same fence
            if ack.state is AckState.FLIPPED and ack.code is not None and proof is not None:
                self.proofs.pop(key, None)  # cold: what was proven is not loaded any more
            self.flips[key] = ack
        await self.send(ack)
        proof = self.proofs.get(key)
        if ack.state is AckState.FLIPPED and proof is not None and (proof.epoch, proof.generation) == fence:
            await self.send(proof)  # it still holds: a repeated flip takes nothing back
        return True

    def forget(self, replica: str) -> None:
        """Drops the acknowledgements of a replica whose engine ended: they do not hold for its next lifetime."""
        for board in (self.flips, self.proofs):
            for key in [key for key in board if key[2] == replica]:
                del board[key]

    async def replay(self) -> None:
        """Sends everything on the board again, flips before proofs."""
        for ack in [*self.flips.values(), *self.proofs.values()]:
            await self.send(ack)

    def proven(self, entry: TableEntry, replica: str) -> bool:
        """Tells whether this generation passed a proof on this replica."""
        proof = self.proofs.get((entry.tenant, entry.route, replica))
        return proof is not None and (proof.epoch, proof.generation) == entry.fence and proof.state in _PROOF[:2]
