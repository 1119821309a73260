"""What hubs had folded of this log and the database does not hold, until a person decides.

It is one more witness beside the nodes (`recovery.recover`): the pointers that the missing events concern wait, and
forward moves do. It is written into the database at once, so that whichever hub is active next knows of it.
"""

import logging
from collections.abc import Iterator, Sequence

from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.signing import Signing
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.moves.lost_tail import LostPart
from loradeck.rules.moves.witness import SeenMove
from loradeck.schemas.ids import Digest, PointerKey, Wire
from loradeck.schemas.log import MOVES
from loradeck.schemas.lost_tail import LostRevs, LostTail
from loradeck.schemas.table import EntryOnWire, TableEntry

log = logging.getLogger("loradeck.hub.recovery.lost_tails")

LOST = "lost_tails"
"""The store's key for what hubs had folded and the database does not hold."""


class KeptTail(Wire):
    """A lost tail as the database keeps it.

    `entries` are those of the pointers that it concerns, as far as the releases that they name are registered here.
    """

    tail: LostTail
    hashes: tuple[Digest, ...]
    pointers: tuple[PointerKey, ...]
    entries: tuple[EntryOnWire, ...]

    @property
    def witness(self) -> str:
        """Who has seen it, as plans and refusals name it. No node's name has a blank."""
        return f"the hub {self.tail.hub}"

    @property
    def moves(self) -> Iterator[SeenMove]:
        """The moves in it."""
        for event in self.tail.events:
            if event.kind in MOVES and event.route is not None:
                yield (event.tenant, event.route), (event.epoch, event.generation or 0), event.release


class KeptTails(Wire):
    """All lost tails of a log. `decided` are the hashes of the events of which a person has decided what becomes."""

    undecided: tuple[KeptTail, ...] = ()
    decided: tuple[Digest, ...] = ()


class LostTails:
    """The lost tails that wait for a person.

    `parts` is what this hub has found when it took the lease. Raises: StoreError.
    """

    def __init__(
        self, store: StoreThread, catalogue: Catalogue, facts: Facts, signing: Signing, parts: Sequence[LostPart]
    ) -> None:
        """Reads those that are known, and writes the new ones down. Blocking."""
        self._store = store
        self._kept = KeptTails.model_validate_json(store.now(lambda s: s.meta(LOST)) or "{}")
        known = {*self._kept.decided, *(digest for kept in self._kept.undecided for digest in kept.hashes)}
        new = [
            KeptTail(
                tail=part.tail,
                hashes=part.hashes,
                pointers=part.pointers,
                entries=tuple(_entries(part, catalogue, facts, signing)),
            )
            for part in parts
            if part.fold.state.hash not in known
        ]
        if new:
            self._kept = self._kept.model_copy(update={"undecided": (*self._kept.undecided, *new)})
            text = self._kept.model_dump_json()
            store.now(lambda s: s.set_meta(LOST, text))
        for kept in self.undecided:
            log.error("%s: these pointers and forward moves wait until `loradeck hub recover`", kept.tail.words)

    @property
    def undecided(self) -> tuple[KeptTail, ...]:
        """Those that wait for a person, the first that was found first."""
        return self._kept.undecided

    @property
    def revs(self) -> tuple[LostRevs, ...]:
        """How far each reaches, and what of it the database holds."""
        return tuple(kept.tail.revs for kept in self.undecided)

    def is_decided(self, digest: Digest) -> bool:
        """Tells whether a person has decided what becomes of the event with this hash."""
        return digest in self._kept.decided

    def holding(self, key: PointerKey) -> list[str]:
        """The hubs that have seen events of a pointer that the log lacks."""
        return [kept.witness for kept in self.undecided if key in kept.pointers]

    async def decide(self) -> None:
        """Writes down that a person has decided what becomes of all of them. Raises: StoreError."""
        if not self.undecided:
            return
        decided = (*self._kept.decided, *(digest for kept in self.undecided for digest in kept.hashes))
        kept = KeptTails(decided=tuple(dict.fromkeys(decided)))
        text = kept.model_dump_json()
        await self._store(lambda s: s.set_meta(LOST, text))
        self._kept = kept


def _entries(part: LostPart, catalogue: Catalogue, facts: Facts, signing: Signing) -> Iterator[TableEntry]:
    """The entries that nodes had of these pointers, or would have got."""
    state, tables = part.fold.state, NodeTables(catalogue, facts, signing)
    for key in part.pointers:
        pointer, tenant = state.pointers.get(key), state.tenants.get(key[0])
        if pointer is None or tenant is None or (pointer.release and catalogue.ref(pointer.release) is None):
            continue  # without the release, the entry would say that nothing is live
        tables.refresh(pointer, tenant, state.rev, None)
        yield tables.entries[key]
