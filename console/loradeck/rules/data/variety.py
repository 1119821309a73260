"""How various texts are, and how much of what is rare among people's texts is left in those of a model.

Models that are taught by models lose the tails first and then the variety (Shumailov et al., Nature 631 (2024) 755).
Texts come as lists of words.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from loradeck.rules.quality.statistics import ALPHA, fisher
from loradeck.schemas.generation import Share

Words = Sequence[str]

RARE = 20
"""A word is rare that stands in at most one of so many texts."""

COMPARED = 200
"""Most texts that self-BLEU compares with each other."""

_LONGEST = 4
_NONE = 0.1
"""What counts for an n-gram length without any match (smoothing 1 of Chen and Cherry, WMT 2014)."""


def cut_to(texts: Iterable[Words], most: int) -> list[Words]:
    """Texts in equal steps that have `most` words together; the last one may be cut: distinct-n falls with size."""
    whole, found = list(texts), list[Words]()
    step = max(1, sum(map(len, whole)) // max(1, most))
    for text in (text for start in range(step) for text in whole[start::step]):
        if most <= 0:
            break
        found.append(text[:most])
        most -= len(found[-1])
    return found


def distinct(texts: Iterable[Words], length: int) -> int:
    """Different runs of `length` words. Over the number of words it is distinct-n (Li et al., arXiv:1510.03055)."""
    return len({run for text in texts for run in _runs(text, length)})


def self_bleus(texts: Sequence[Words]) -> list[float]:
    """The BLEU-4 of each text against all others, 0 to 1: 1 where all are the same. Their mean is self-BLEU.

    Of more than COMPARED texts, so many are taken in equal steps; fewer than two are like nothing. Zhu et al.,
    arXiv:1802.01886.
    """
    step = max(1, math.ceil(len(texts) / COMPARED))
    taken = [text for text in texts[::step] if text]
    if len(taken) < 2:
        return []
    counts = [[Counter(_runs(text, length)) for text in taken] for length in range(1, _LONGEST + 1)]
    best = [_two_largest(of) for of in counts]
    lengths = sorted(map(len, taken))
    return [_bleu(at, text, counts, best, lengths) for at, text in enumerate(taken)]


def rare(texts: Sequence[Words]) -> frozenset[str]:
    """The words that stand in at most one of RARE texts, and in one at least."""
    seen = Counter(word for text in texts for word in set(text))
    most = max(1, len(texts) // RARE)
    return frozenset(word for word, number in seen.items() if number <= most)


def covered(tail: Iterable[str], texts: Iterable[Words]) -> tuple[int, int]:
    """Counts the words of `tail` that stand in the texts, and all of them."""
    words, wanted = {word for text in texts for word in text}, set(tail)
    return len(wanted & words), len(wanted)


def tails(ours: Sequence[Words], theirs: Sequence[Words]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Counts how many rare words of one half of people's texts occur in ours, and how many in their other half.

    Both are cut to equally many words. Each count comes with the number of rare words.
    """
    tail, other = rare(theirs[::2]), theirs[1::2]
    words = min(sum(map(len, ours)), sum(map(len, other)))
    return covered(tail, cut_to(ours, words)), covered(tail, cut_to(other, words))


def tail_is_lost(found: Share, people: Share) -> bool:
    """Tells whether texts have surely less of a tail than people (Fisher's test). Older reports have two tails: no."""
    return found.n == people.n and fisher(found.k, found.n, people.k, people.n) < ALPHA


def _runs(text: Words, length: int) -> list[tuple[str, ...]]:
    return [tuple(text[at : at + length]) for at in range(len(text) - length + 1)]


def _two_largest(of: list[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Run -> (its largest count in a text, that text, its second largest count)."""
    best = dict[tuple[str, ...], tuple[int, int, int]]()
    for at, counts in enumerate(of):
        for run, count in counts.items():
            first, whose, second = best.get(run, (0, -1, 0))
            best[run] = (count, at, first) if count > first else (first, whose, max(second, count))
    return best


def _bleu(
    at: int,
    text: Words,
    counts: list[list[Counter[tuple[str, ...]]]],
    best: list[dict[tuple[str, ...], tuple[int, int, int]]],
    lengths: list[int],
) -> float:
    logs, orders = 0.0, 0
    for of, known in zip(counts, best, strict=True):
        total = of[at].total()
        if total == 0:
            break
        matched = 0
        for run, count in of[at].items():
            first, whose, second = known[run]
            matched += min(count, second if whose == at else first)
        logs, orders = logs + math.log((matched or _NONE) / total), orders + 1
    others = lengths.copy()
    others.remove(len(text))
    closest = min(others, key=lambda other: (abs(other - len(text)), other))
    brevity = min(1.0, math.exp(1 - closest / len(text)))
    return brevity * math.exp(logs / orders)
