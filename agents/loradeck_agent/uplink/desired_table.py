"""The table that the hub wants on this node, and what is acknowledged of it.

Which of the hub's messages count, and the entries after them, is decided without I/O. The router decides entry by entry
whether it flips; here it is decided whether a message counts at all, and whether one was missed.

Acknowledgements go up as they happen. The board keeps the newest, so that a hub which was away gets the state again: it
counts only acknowledgements that it has received.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from loradeck.artifacts.ed25519 import is_signed
from loradeck.rules.moves import steering
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, Bookmark, Desired, Welcome
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import Pin, TableEntry, table_digest
from loradeck_agent.router.wire import Cursor


class DirectiveVerdict(StrEnum):
    """What becomes of a `desired` message."""

    APPLY = "apply"
    GAP = "gap"  # something before it was missed: ask for everything
    STALE = "stale"  # of an older hub or already known: changes nothing
    REFUSED = "refused"  # of a hub that lacks our log: changes nothing


@dataclass
class DesiredTable:
    """Entries by (tenant, route), and the cursor up to which they are complete."""

    cursor: Cursor = field(default_factory=Cursor)
    entries: dict[PointerKey, TableEntry] = field(default_factory=dict)
    orphans: dict[PointerKey, TableEntry] = field(default_factory=dict)
    """Tombstones of the entries that the hub no longer places here."""
    pins: dict[PointerKey, Pin] = field(default_factory=dict)
    """Pins in force on this node, as last read from its router."""
    refused: Welcome | None = None
    """The welcome of a hub that lacks our log. It is not obeyed until it is back with a higher epoch."""

    keys: tuple[str, ...] = ()
    """Public keys of the log's hubs, as the present one named them; (): it is of version 1, which signs nothing."""
    verify: Callable[[bytes, str, tuple[str, ...]], bool] = is_signed
    """Whether one of the keys signed these bytes."""

    missed: bool = False
    """Whether a directive was missed, or a link has just begun: the position goes on once the whole table has come."""

    def welcome(self, message: Welcome) -> None:
        """Takes note of whether the hub steers this node, and of its keys. A hub whose log is behind is not obeyed."""
        self.refused = message if message.refuse is not None else None
        self.missed = True  # a hub sends the whole table first: nothing else tells what it has without an event
        self.keys = message.keys

    def forged(self, message: Desired) -> list[TableEntry]:
        """The entries of a message that no hub of the log has signed.

        What is held here with its signed text was verified when it came, so a whole table that is sent again costs
        nothing.
        """
        return [entry for entry in message.entries if self.keys and not self._genuine(entry)]

    def _genuine(self, entry: TableEntry) -> bool:
        held, text = self.entries.get(entry.key), entry.signed
        if text is None:
            return False
        return (held is not None and held.signed == text) or self.verify(text.signed_bytes(), text.signature, self.keys)

    def flaw(self, message: Desired | Bookmark) -> str:
        """Why the position of a message cannot be followed; '' if it can be. Signed ones are verified once."""
        if not self.keys:
            return ""
        position = message.position
        why = steering.flaw(message, self.cursor.witness)
        if not why and position is not None and position != self.cursor.witness:
            genuine = self.verify(position.signed_bytes(), position.signature, self.keys)
            why = "" if genuine else "no hub of this log has signed its position"
        if not why and isinstance(message, Desired) and (keys := steering.foreign(message.entries, position)):
            why = f"the entry of {'/'.join(keys[0])} is not of the log of its position"
        return why

    def judge(self, message: Desired) -> DirectiveVerdict:
        """Tells whether to apply a message. Changes nothing, except that a recovered hub is obeyed again."""
        if self.refused is not None:
            # `loradeck hub recover` raises the epoch and then sends everything.
            if not (message.full and message.epoch > max(self.refused.epoch, self.cursor.epoch)):
                return DirectiveVerdict.REFUSED
            self.refused = None
        if message.epoch < self.cursor.epoch:
            return DirectiveVerdict.STALE
        if message.full:
            if message.epoch == self.cursor.epoch and message.rev < self.cursor.rev:
                return DirectiveVerdict.STALE
            return DirectiveVerdict.APPLY
        if message.prev_rev > self.cursor.rev:
            return DirectiveVerdict.GAP
        if message.rev < self.cursor.rev:
            return DirectiveVerdict.STALE
        return DirectiveVerdict.APPLY

    def withdrawn(self, message: Desired) -> tuple[TableEntry, ...]:
        """Tombstones of what a whole table no longer names: its hub has all that is known here in its log.

        A hub forgets its own tombstones with its process, and a node may have been away when one was sent.
        """
        if not message.full:
            return ()
        named = {entry.key for entry in message.entries}
        return tuple(entry.tombstone() for key, entry in self.entries.items() if key not in named)

    def apply(self, message: Desired) -> bool:
        """Applies a message's entries, each by its own fence. False: the table differs from the hub's (ask for all)."""
        self.take(message)
        return self.is_whole(message)

    def is_whole(self, message: Desired) -> bool:
        """Tells whether the table is as the hub's was after a message."""
        return table_digest(self.entries.values()) == message.table

    def take(self, message: Desired) -> None:
        """Applies a message's entries, each by its own fence."""
        named = set()
        for entry in message.entries:
            named.add(entry.key)
            known = self.entries.get(entry.key)
            if known is None or entry.fence >= known.fence:
                if known is None or entry.fence > known.fence:
                    self.entries.pop(entry.key, None)  # moved: to the end, which is the newest
                self.entries[entry.key] = entry
        self.missed = self.missed and not message.full
        for tombstone in self.withdrawn(message):
            self.orphans[tombstone.key] = tombstone
            del self.entries[tombstone.key]
        for key in named & self.orphans.keys():
            del self.orphans[key]
        self.cursor = Cursor(message.epoch, message.rev, message.hash, message.position)

    def named(self) -> tuple[TableEntry, ...]:
        """Every entry whose releases must stay: the hub's first, the newest move at the front."""
        return (*reversed(self.entries.values()), *self.orphans.values())

    def bookmark(self, message: Bookmark) -> bool:
        """Moves the cursor to the hub's newest rev. False: this hub is not followed, or something was missed."""
        there = Cursor(message.epoch, message.rev, message.hash, message.position)
        if self.refused is not None or self.missed or there < self.cursor:
            return False
        self.cursor = there
        return True


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
