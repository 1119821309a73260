"""Witnesses: what a node's hello says about the log of the hub that it links to, and whether it is believed.

A node that was given a position which the log lacks shows that moves were lost, or that two hubs wrote to copies of one
log. Only a position that a hub of this log has signed counts for the fleet. What a node merely says holds back that
node and nobody else.

A database that waits for a standby has each commit on two servers before it is acknowledged. With its only standby gone
it waits in vain. The operator has chosen what happens then: every commit is refused, or ways back are committed on the
one server that is left, and say so. Those are lost if that server is lost before a standby is back.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from loradeck.schemas.ids import Fence, PointerKey
from loradeck.schemas.link import TableState
from loradeck.schemas.log import MOVES, Draft, Event, EventKind
from loradeck.schemas.position import Position
from loradeck.schemas.table import Split, TableEntry

KnowsMove = Callable[[PointerKey, Fence, str | None], bool]
"""Says whether the log knows a move of a pointer, by its fence and its release."""


SeenMove = tuple[PointerKey, Fence, str | None]
"""A move of a pointer: the pointer, the move's fence, and the release that is live after it; None: nothing is."""

MOST_EPOCH = 2**40
"""No hub begins so many epochs. A node that names a higher one is never believed: no epoch would be left above it."""


class LogStanding(StrEnum):
    """What a node's hello says about this hub's log."""

    FOLLOWS = "follows"
    """The log holds what the node has seen, or the node is new."""
    LOST_TAIL = "lost_tail"
    """A hub of this log signed a position that the log lacks, or in a hold of the lease that it does not know of: an
    older copy was restored, and moves may be missing.
    """
    FORK = "fork"
    """A hub of this log signed it under an epoch that this log gave to another hub: two copies were both written to."""
    UNPROVEN = "unproven"
    """The node says that it has seen what the log lacks, and shows no signature of a hub of this log."""

    @property
    def is_ahead(self) -> bool:
        """Whether the log may lack moves: pointers of this node and forward moves wait, and not only this node."""
        return self in (LogStanding.LOST_TAIL, LogStanding.FORK)


def lacks(*, epoch: int, rev: int, hub_epoch: int, has_hash: bool) -> bool:
    """Tells whether an agent's hello shows that this hub's log lacks events which the agent has seen.

    Args:
        epoch: epoch that the agent durably holds.
        rev: rev that the agent durably holds; 0 for a new agent.
        hub_epoch: the hub's own epoch, raised when it took its lease; an agent with a higher one would drop every
            message from this hub, even where the logs agree.
        has_hash: this log holds the agent's hash at its rev.
    """
    return epoch > hub_epoch or (rev > 0 and not has_hash)


def judge(
    *,
    epoch: int,
    rev: int,
    has_hash: bool,
    hub_epoch: int,
    hub_rev: int,
    log: str,
    incarnations: Mapping[int, str],
    witnessed: Position | None,
) -> LogStanding:
    """Judges a hello.

    Args:
        epoch: epoch that the node durably holds.
        rev: rev that the node durably holds; 0 for a new node.
        has_hash: this log holds the node's hash at its rev.
        hub_epoch: the hub's own epoch, raised when it took its lease; a node with a higher one would drop every message
            of this hub, even where the logs agree.
        hub_rev: the hub's newest rev. An empty log has nothing to lose, so it waits for a recover on anybody's word.
        log: id of this log.
        incarnations: epoch -> incarnation, of every hold of the lease that this log knows.
        witnessed: the node's newest position, if its signature is of a key that this hub trusts; None otherwise.
    """
    if epoch > MOST_EPOCH:
        return LogStanding.UNPROVEN
    proven = witnessed is not None and witnessed.log == log and (witnessed.epoch, witnessed.rev) == (epoch, rev)
    if proven and witnessed is not None and incarnations.get(epoch, witnessed.incarnation) != witnessed.incarnation:
        return LogStanding.FORK  # also where nothing was committed yet under the epoch that two hubs have
    if proven and epoch not in incarnations:
        return LogStanding.LOST_TAIL  # also where it has all events: what it may hold back was lost with that hold
    if not lacks(epoch=epoch, rev=rev, hub_epoch=hub_epoch, has_hash=has_hash):
        return LogStanding.FOLLOWS
    return LogStanding.LOST_TAIL if proven or hub_rev == 0 else LogStanding.UNPROVEN


def is_bounded(table: TableState) -> bool:
    """Tells whether a node's table names no epoch that no hub has reached."""
    return max((table.epoch, *(entry.epoch for entry in table.entries))) <= MOST_EPOCH


# ---- what waits ----------------------------------------------------------------------------------------------

BACKWARD = frozenset(
    {EventKind.ROLLBACK, EventKind.FALLBACK, EventKind.REWIND, EventKind.HOLD, EventKind.CANDIDATE_ABORT}
)
"""What is done in an incident: it works while a node is ahead of the log, on every pointer that is not held back."""

RECORDS = frozenset({EventKind.PIN, EventKind.UNPIN, EventKind.ANNOTATE})
"""Events that say what was done elsewhere or before, and change nothing that a recover adopts."""


def waits(kind: EventKind, *, ahead: bool, held: bool) -> bool:
    """Tells whether an event waits for a recover.

    Args:
        ahead: a node is ahead of the log.
        held: such a node has seen a move of the event's pointer that the log lacks.
    """
    return kind not in RECORDS and (held or (ahead and kind not in BACKWARD))


def held_back(
    entries: Iterable[TableEntry],
    log: Mapping[PointerKey, TableEntry],
    known: KnowsMove,
    genuine: Callable[[TableEntry], bool] = lambda entry: True,
) -> tuple[TableEntry, ...]:
    """The entries of a node that is ahead whose pointers wait for a recover; of all others the log knows as much.

    Those are entries of a move that the log lacks, and entries whose settings, keys or suspension differ from its own:
    a caller's key that was withdrawn in the lost part must not come back.

    Args:
        log: the log's own entries.
        genuine: says whether a hub of this log has made an entry; one that none has made holds nothing back.
    """
    return tuple(entry for entry in entries if genuine(entry) and _is_ahead(entry, log.get(entry.key), known))


def _is_ahead(entry: TableEntry, own: TableEntry | None, known: KnowsMove) -> bool:
    if own is None or not known(*move_of(entry)):
        return True
    if entry.fence != own.fence or entry.current is None:
        return False
    newer = step(entry.candidate) > step(own.candidate)
    return newer or _settings(entry) != _settings(own)


def step(split: Split | None) -> int:
    """The step of a candidate; -1 if there is none."""
    return split.step if split is not None else -1


def _settings(entry: TableEntry) -> tuple[object, ...]:
    return (frozenset(entry.keys), entry.suspended, *route_settings(entry).values())


def route_settings(entry: TableEntry) -> dict[str, object]:
    """The settings of a route that a table carries."""
    return {
        "gap": entry.gap,
        "streams": entry.streams,
        "checks": entry.checks.with_content(entry.content, entry.judge),
        "canaries": entry.canaries,
        "refuse_after_s": entry.refuse_after_s,
        "callers": entry.callers,
    }


# ---- what nodes have seen ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Witnessed:
    """A move that nodes hold in their tables. `release` is None where nothing is live after it."""

    key: PointerKey
    fence: Fence
    release: str | None
    nodes: tuple[str, ...]


def move_of(entry: TableEntry) -> SeenMove:
    """The move that a table entry is of."""
    return entry.key, entry.fence, entry.current.id if entry.current is not None else None


def lacking(
    tables: Mapping[str, Iterable[TableEntry]],
    known: KnowsMove,
    *,
    moves: Mapping[str, Iterable[SeenMove]] | None = None,
) -> list[Witnessed]:
    """The moves that nodes hold and the log does not know, sorted by pointer, the newest first.

    A tombstone beside an entry of its fence is of a node from which the pointer was withdrawn, and no move of its own.

    Args:
        tables: node -> the entries of its table.
        known: tells which moves the log knows.
        moves: who -> moves that it has seen beside those of its table.
    """
    found: dict[tuple[PointerKey, Fence], dict[str | None, dict[str, None]]] = {}
    seen = {node: list(map(move_of, entries)) for node, entries in tables.items()}
    for witness, others in (moves or {}).items():
        seen.setdefault(witness, []).extend(others)
    for witness, of_witness in sorted(seen.items()):
        for key, fence, release in of_witness:
            found.setdefault((key, fence), {}).setdefault(release, {})[witness] = None
    witnessed = []
    for (key, fence), releases in found.items():
        if len(releases) > 1:
            releases.pop(None, None)
        witnessed += [
            Witnessed(key=key, fence=fence, release=release, nodes=tuple(nodes))
            for release, nodes in releases.items()
            if not known(key, fence, release)
        ]
    return sorted(witnessed, key=lambda move: (move.key, [-part for part in move.fence], move.release or ""))


def moves_of(event: Event) -> list[SeenMove]:
    """The moves that an event makes, adopts or drops, each as (pointer, fence, release).

    A move that a recover adopts stands in the log under a new fence, and in the event's payload under its own.
    """
    key, release = (event.tenant, str(event.route)), event.to_release
    moves = [(key, (event.epoch, event.generation or 0), release)] if event.kind in MOVES else []
    if event.kind in (EventKind.RECOVER, EventKind.DROPPED):
        moves.append((key, (int(event.payload["epoch"]), int(event.payload["generation"])), release))
    return moves


def known_to(moves: Collection[SeenMove]) -> KnowsMove:
    """The predicate `KnowsMove` of a log that tells of these moves. It knows the tombstone of each of them."""
    fences = {(key, fence) for key, fence, _ in moves}

    def known(key: PointerKey, fence: Fence, release: str | None) -> bool:
        return (key, fence, release) in moves or (release is None and (key, fence) in fences)

    return known


ONE_COPY = "one_copy"
"""The problem code of what waits until a standby is back."""


class WithoutStandby(StrEnum):
    """What a hub does when its database waits for a standby in vain."""

    REFUSE = "refuse"
    DEGRADE = "degrade"


def waits_for_standby(kind: EventKind, *, one_copy: bool) -> bool:
    """Tells whether an event waits until a standby is back. `one_copy`: commits are on one server alone now."""
    return one_copy and kind not in BACKWARD | RECORDS


def marked(drafts: Sequence[Draft], *, one_copy: bool) -> Sequence[Draft]:
    """The drafts as they are committed: those that go back say for ever that one server alone had them."""
    if not one_copy:
        return drafts
    return [
        draft.model_copy(update={"payload": {**draft.payload, "copies": 1}}) if draft.kind in BACKWARD else draft
        for draft in drafts
    ]
