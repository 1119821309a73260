"""One link a name: which of the links that are open under a node's name counts. The rule of DESIGN 10.2.

A second link means that an agent came back before its old connection was known to be dead, or that two agents have one
node's credential. So the links that were there are challenged. One that does not answer is dead. If two are alive,
nobody can say which is the node: neither counts, and both are steered on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loradeck.schemas.replica_state import LINK_TTL_S

CHALLENGE_S = 2.0
"""Seconds that a link has to answer its first challenge. One that has answered before has the TTL of any link."""


@dataclass(frozen=True, slots=True)
class Linked:
    """One of the links under a name.

    Attributes:
        boot: of the agent that opened it.
        asked: since when it owes the answer to a challenge, in seconds; None: it owes none. A hello is an answer too.
        proved: it has answered a challenge before.
    """

    boot: str
    asked: float | None = None
    proved: bool = False

    @property
    def patience_s(self) -> float:
        """How long its answer may take."""
        return LINK_TTL_S if self.proved else CHALLENGE_S


class LinkChoice(NamedTuple):
    """Which link counts, by its place; None: two are alive, and neither does. `dead` ones are to be closed."""

    counts: int | None
    dead: frozenset[int]


def who_counts(links: Sequence[Linked], present: int | None, now: float) -> LinkChoice:
    """Which of the links under a name counts.

    Args:
        links: the oldest first; at least one.
        present: the one that has counted until now; None: neither did.
        now: seconds of the clock of `asked`.
    """
    dead = frozenset(
        place for place, link in enumerate(links) if link.asked is not None and now - link.asked >= link.patience_s
    )
    left = [place for place in range(len(links)) if place not in dead]
    alive = [place for place in left if links[place].asked is None]
    if len(alive) > 1 or not left:
        return LinkChoice(None, dead)
    if len(left) == 1:
        return LinkChoice(left[0], dead)
    newest = left[-1]
    if alive == [newest] and {links[place].boot for place in left} == {links[newest].boot}:
        return LinkChoice(newest, dead)  # an agent knows best which of its connections is the last: it does not wait
    return LinkChoice(present if present in left else None, dead)
