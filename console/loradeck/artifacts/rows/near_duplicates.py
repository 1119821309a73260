"""Near-duplicate rows: those that nearly repeat an earlier one.

Estimated by datasketch's MinHash with locality-sensitive hashing, as the share of word triples two texts have in common
(Jaccard). It shows which rows deserve a look and misses a few: two texts that share exactly SHARE of their triples are
found about every second time. Rows that hold items of a suite are found by `contamination`.
"""

import importlib.util
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from loradeck.artifacts.rows.contamination import folded_words

SHARE = 0.9
"""Share of word triples (Jaccard) from which two texts count as near duplicates."""

PERMUTATIONS = 128


def available() -> bool:
    """Tells whether datasketch is installed (the extra `data`)."""
    return importlib.util.find_spec("datasketch") is not None


def triples(text: str) -> set[str]:
    """Returns the runs of three words of a text; of a shorter one, the whole."""
    words = folded_words(text)
    return {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


class Likeness:
    """Knows some texts by their triples, and finds those that share `SHARE` with one of them, counted exactly."""

    def __init__(self, known: Iterable[set[str]]) -> None:
        self._sizes, self._holding = list[int](), defaultdict[str, list[int]](list)
        for number, own in enumerate(known):
            self._sizes.append(len(own))
            for triple in own:
                self._holding[triple].append(number)

    def holds(self, own: set[str]) -> bool:
        """Tells whether a text with these triples is nearly the same as a known one."""
        shared = Counter(number for triple in own for number in self._holding.get(triple, ()))
        return any(n >= SHARE * (len(own) + self._sizes[number] - n) for number, n in shared.items())


def doubles(texts: Sequence[str]) -> list[int]:
    """Returns the places, from 0, of texts that nearly repeat an earlier one, in one pass, a few thousand a second."""
    from datasketch import MinHash, MinHashLSH

    def sketch(text: str) -> MinHash:
        made = MinHash(num_perm=PERMUTATIONS)
        made.update_batch([triple.encode() for triple in triples(text)])
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
