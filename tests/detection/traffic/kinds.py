"""What requests ask, and the numbers of their bodies."""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

BITS_OF_KIND, BITS_OF_STREAM, BITS_OF_POSITION = 3, 1, 32
"""A body's number is, from its end: its kind, whether its answer is streamed, and its place (fresh: from 2^32)."""

TEMPLATES_OF_A_CALLER = 8


class Kind(enum.IntEnum):
    """Shapes of a request. NEW: a question of a kind that nobody asked before a change."""

    PLAIN = 0
    TOOLS = 1
    SCHEMA = 2
    CONVERSATION = 3
    TRANSACTION = 4
    NEW = 5


KINDS = (
    (Kind.PLAIN, 0.35),
    (Kind.TOOLS, 0.2),
    (Kind.SCHEMA, 0.15),
    (Kind.CONVERSATION, 0.15),
    (Kind.TRANSACTION, 0.15),
)
"""Share of each kind in the requests."""


def fresh_bodies(slice_number: int, kind: NDArray[np.int64], is_streamed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers of bodies that no other request of the route has."""
    return _numbers(np.int64(slice_number + 1 << BITS_OF_POSITION) + np.arange(len(kind)), kind, is_streamed)


def template_bodies(
    caller: NDArray[np.int64], kind: NDArray[np.int64], is_streamed: NDArray[np.bool_], uniform: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Numbers of bodies that their caller sends again and again: one of eight of each kind, by a uniform number."""
    template = np.minimum((uniform * TEMPLATES_OF_A_CALLER).astype(np.int64), TEMPLATES_OF_A_CALLER - 1)
    return _numbers(caller * TEMPLATES_OF_A_CALLER + template, kind, is_streamed)


def _numbers(place: NDArray[np.int64], kind: NDArray[np.int64], is_streamed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The parts of bodies' numbers put together."""
    return place << BITS_OF_KIND + BITS_OF_STREAM | is_streamed.astype(np.int64) << BITS_OF_KIND | kind


def kind_of(body: NDArray[np.int64]) -> NDArray[np.int64]:
    """The kind of each body."""
    return body & (1 << BITS_OF_KIND) - 1


def is_template(body: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a body is one that its caller sends again and again."""
    return body >> BITS_OF_KIND + BITS_OF_STREAM < 1 << BITS_OF_POSITION
