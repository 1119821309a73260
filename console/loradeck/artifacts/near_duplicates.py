"""Near-duplicate texts: rows that nearly repeat each other, and rows that nearly repeat items of a suite.

Estimated by datasketch's MinHash with locality-sensitive hashing, as the share of word triples two texts have in common
(Jaccard). It shows which rows deserve a look and misses a few: two texts that share exactly SHARE of their triples are
found about every second time. A train job compares word by word once more before it trains.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHARE = 0.9
"""Share of word triples (Jaccard) from which two texts count as near duplicates."""

PERMUTATIONS = 128

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Alike:
    """Near duplicates found: `doubles` counts texts that nearly repeat an earlier one.

    `items`: (line of a text, counted from 1; id of the item it nearly repeats).
    """

    doubles: int
    items: tuple[tuple[int, str], ...]


def available() -> bool:
    """Tells whether datasketch is installed (the extra `data`)."""
    return importlib.util.find_spec("datasketch") is not None


def find(texts: Sequence[str], items: Mapping[str, str]) -> Alike:
    """Finds near duplicates in one pass over the texts, a few thousand a second.

    `items`: id -> text of the suite items that must not be among the texts.
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
        # The index also returns texts somewhat below the share, so each one is compared.
        found += [(line, item) for item in sorted(known.query(made)) if made.jaccard(sketches[item]) >= SHARE]
        doubles += any(made.jaccard(earlier[other]) >= SHARE for other in before.query(made))
        before.insert(line, made)
        earlier[line] = made
    return Alike(doubles, tuple(found))
