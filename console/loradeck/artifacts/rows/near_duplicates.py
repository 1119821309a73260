"""Near-duplicate rows: those that nearly repeat an earlier one.

Estimated by datasketch's MinHash with locality-sensitive hashing, as the share of word triples two texts have in common
(Jaccard). It shows which rows deserve a look and misses a few: two texts that share exactly SHARE of their triples are
found about every second time. Rows that hold items of a suite are found by `contamination`.
"""

import importlib.util
from collections.abc import Sequence

from loradeck.artifacts.rows.contamination import folded_words

SHARE = 0.9
"""Share of word triples (Jaccard) from which two texts count as near duplicates."""

PERMUTATIONS = 128


def available() -> bool:
    """Tells whether datasketch is installed (the extra `data`)."""
    return importlib.util.find_spec("datasketch") is not None


def doubles(texts: Sequence[str]) -> list[int]:
    """Returns the places, from 0, of texts that nearly repeat an earlier one, in one pass, a few thousand a second."""
    from datasketch import MinHash, MinHashLSH

    def sketch(text: str) -> MinHash:
        words = folded_words(text)
        triples = {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
        made = MinHash(num_perm=PERMUTATIONS)
        made.update_batch([triple.encode() for triple in triples])
        return made

    before = MinHashLSH(threshold=SHARE, num_perm=PERMUTATIONS)
    earlier: dict[int, MinHash] = {}
    found = []
    for line, text in enumerate(texts):
        made = sketch(text)
        # The index also returns texts somewhat below the share, so each one is compared.
        if any(made.jaccard(earlier[other]) >= SHARE for other in before.query(made)):
            found.append(line)
        before.insert(line, made)
        earlier[line] = made
    return found
