"""The table that the hub wants on this node: which of its messages count, and the entries after them.

Pure: no I/O. The router decides entry by entry whether it flips; here it is decided whether a message counts at
all, and whether one was missed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from loradeck.artifacts.ed25519 import is_signed
from loradeck.rules.moves import steering
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Bookmark, Desired, Welcome
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
