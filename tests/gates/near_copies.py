"""Suites of which some items are near copies of each other, and candidates whose outcomes are alike on these.

The shape is that of a critique of the gates: of the items 30 % are near copies, in clusters of one size. A candidate
has the same outcome on all items of a cluster, or on an item of it with probability `alike` and else one of its own.
Nothing here reads how the gates find or count near copies.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NEAR = 0.3
"""Share of a suite's items that are near copies."""

_SOUNDS = [a + b for a in "bdfglmnprstvz" for b in "aeiou"]


@dataclass(frozen=True)
class Shape:
    """How many items a suite has, and how many of them a cluster of near copies has."""

    items: int
    size: int

    @property
    def clusters(self) -> int:
        """Number of clusters of near copies."""
        return round(NEAR * self.items / self.size)

    @property
    def places(self) -> NDArray[np.int64]:
        """The number of each item's question: near copies have one, and each other item has its own."""
        copies = np.repeat(np.arange(self.clusters), self.size)
        return np.concatenate([copies, self.clusters + np.arange(self.items - len(copies))])

    @property
    def questions(self) -> int:
        """Number of different questions."""
        return int(self.places[-1]) + 1


def write_suite(path: Path, shape: Shape, seed: int) -> None:
    """Writes a suite whose near copies differ from each other in one word of 25; `path`: of the file."""
    draw, rows = random.Random(seed), list[dict[str, str]]()
    texts = [[_word(draw) for _ in range(25)] for _ in range(shape.questions)]
    for number, place in enumerate(shape.places):
        words = list(texts[place])
        if place < shape.clusters:
            words[20] = _word(draw)
        rows.append({"id": f"i{number}", "prompt": f"{' '.join(words)}?", "answer": "yes"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _word(draw: random.Random) -> str:
    return "".join(draw.choices(_SOUNDS, k=3))


def outcomes(
    shape: Shape, draws: int, *, drop: float, differ: float, alike: float, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Draws which items a candidate loses and wins: one row a draw, one column an item.

    `drop`: net share of items that it truly loses. `differ`: share of items on which it differs from the live release.
    """
    draw = np.random.default_rng(seed)
    shared = draw.random((draws, shape.questions))[:, shape.places]
    own = draw.random((draws, shape.items))
    at = np.where(draw.random((draws, shape.items)) < alike, shared, own)
    lost, won = (differ + drop) / 2, (differ - drop) / 2
    return at < lost, (at >= lost) & (at < lost + won)
