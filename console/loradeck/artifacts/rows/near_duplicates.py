"""Near-duplicate rows: those that nearly repeat an earlier one, by the share of word triples in common (Jaccard).

For rows it is estimated by datasketch's MinHash with locality-sensitive hashing. That shows which rows deserve a look
and misses a few: two texts that share exactly SHARE of their triples are found about every second time. For the items
of a suite, which are thousands at most, it is counted exactly: a gate's verdict depends on it, and must not depend on
a library that a hub may lack. Rows that hold items of a suite are found by `contamination`.
"""

import importlib.util
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from loradeck.artifacts.rows.contamination import folded_words

SHARE = 0.9
"""Share of word triples (Jaccard) from which two texts count as near duplicates."""

NEAR_COPY = 0.7
"""Share of word triples from which two items of a suite count as near copies.

It is lower than that of rows: what is overlooked here passes a release, and what is found too much asks for more items.
"""

OWN = 8
"""Triples beside the suite's form by which an item is compared; with fewer of its own it is compared whole."""

MOST = 100
"""Texts that are looked at for one triple, the first ones: a suite of one text over and over takes no hours."""

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


def clusters(texts: Sequence[str], share: float = NEAR_COPY) -> list[int]:
    """Returns for each text the place, from 0, of the first one that it is connected with by near copies.

    A triple that half of the texts have is their form, such as an instruction before each question. Pairs are found by
    their rarest triples alone: two sets that share so much have one in common among the first `n - ceil(share n) + 1`
    of either, in any order that is the same for both (Bayardo, Ma and Srikant, "Scaling Up All Pairs Similarity
    Search", WWW 2007, section 3). Of a triple that more than `MOST` texts have among these, the first ones are looked
    at, through which near copies are connected all the same.
    """
    sets = [triples(text) for text in texts]
    holding = Counter(triple for own in sets for triple in own)
    form = {triple for triple, number in holding.items() if number > 1 and 2 * number >= len(texts)}
    sets = [own - form if len(own - form) >= OWN else own for own in sets]
    first, known = list(range(len(texts))), defaultdict[str, list[int]](list)

    def lead(place: int) -> int:
        while first[place] != place:
            place = first[place]
        return place

    for place, own in enumerate(sets):
        rarest = sorted(own, key=lambda triple: (holding[triple], triple))
        found = rarest[: len(own) - math.ceil(share * len(own)) + 1]
        for other in {other for triple in found for other in known[triple]}:
            one, two = lead(place), lead(other)
            if one != two and len(own & sets[other]) >= share * len(own | sets[other]):
                first[max(one, two)] = min(one, two)
        for triple in found:
            if len(known[triple]) < MOST:
                known[triple].append(place)
    return [lead(place) for place in range(len(texts))]
