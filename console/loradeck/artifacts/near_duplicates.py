"""Texts that are almost the same: rows among themselves, and rows that are almost items of a suite.

By datasketch's MinHash with locality-sensitive hashing: the share of word triples two texts have in common, estimated.
It says which rows deserve a look, and misses a few: two texts that share exactly SHARE of their triples are found about
every second time. A job compares word by word once more before it trains.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHARE = 0.9
"""Share of word triples (Jaccard) from which two texts count as almost the same."""

PERMUTATIONS = 128

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Alike:
    """`doubles`: texts almost like one before them. `items`: (line of a text, counted from 1; id of the item)."""

    doubles: int
    items: tuple[tuple[int, str], ...]


def available() -> bool:
    """Whether datasketch is installed (the extra `data`)."""
    return importlib.util.find_spec("datasketch") is not None


def find(texts: Sequence[str], items: Mapping[str, str]) -> Alike:
    """Looks at every text once; a few thousand a second.

    Args:
        items: id -> text that must not be among them.
    """
    from datasketch import MinHash, MinHashLSH

    def sketch(text: str) -> MinHash:
        words = _WORD.findall(text.casefold())
        triples = {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
        made = MinHash(num_perm=PERMUTATIONS)
        made.update_batch([triple.encode() for triple in triples])
        return made

    known = MinHashLSH(threshold=SHARE, num_perm=PERMUTATIONS)
    sketches = {item: sketch(text) for item, text in items.items()}
    for item, made in sketches.items():
        known.insert(item, made)
    before = MinHashLSH(threshold=SHARE, num_perm=PERMUTATIONS)
    earlier: dict[int, MinHash] = {}
    doubles, found = 0, []
    for line, text in enumerate(texts, start=1):
        made = sketch(text)
        # The index also answers with texts somewhat below the share: what it names is compared.
        found += [(line, item) for item in sorted(known.query(made)) if made.jaccard(sketches[item]) >= SHARE]
        doubles += any(made.jaccard(earlier[other]) >= SHARE for other in before.query(made))
        before.insert(line, made)
        earlier[line] = made
    return Alike(doubles, tuple(found))
