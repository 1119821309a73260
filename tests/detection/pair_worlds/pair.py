"""A pair, what a rule about pairs looks like, and the conversation's minute."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Pair:
    """One request and how its two answers were judged.

    `at_s`: seconds since the move. `conversation`: names it among those of its caller. `node`: answered both.
    """

    at_s: float
    caller: int
    conversation: Hashable
    node: str
    live_bad: bool
    prior_bad: bool


class PairsRule(Protocol):
    """Says whether a release is moved back, from its pairs in order of time."""

    def add(self, pair: Pair) -> None:
        """Takes the next pair."""

    def decides(self) -> bool:
        """Whether the release is moved back after the pairs so far. Asked after each one."""


def first_of_minutes(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The first pair in each minute since the move of each conversation of a caller, however it was judged."""
    newest: dict[tuple[int, Hashable], int] = {}
    for pair in pairs:
        key, minute = (pair.caller, pair.conversation), int(pair.at_s // MINUTE_S)
        if newest.get(key) != minute:
            newest[key] = minute
            yield pair
