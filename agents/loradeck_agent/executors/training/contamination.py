"""Detection of training rows that contain questions of the evaluation.

An item counts as contaminated when a row asks its question, ignoring case, punctuation and space, or when at least half
of its runs of thirteen words occur in rows. Published decontaminations use thirteen words (GPT-3, arXiv:2005.14165,
appendix C): rows that merely have one form share shorter runs.
"""

import re
from collections.abc import Iterable, Mapping

RUN = 13
"""Words in a row that are compared."""
SHARE = 0.5
"""Smallest share of an item's runs, found in rows, that makes it contaminated."""

_WORD = re.compile(r"\w+")


def contaminated(questions: Iterable[str], items: Mapping[str, str]) -> dict[str, str]:
    """Finds the items (id to question) that the rows' questions contain; returns id to reason."""
    rows = [_words(question) for question in questions]
    whole = {" ".join(words) for words in rows}
    runs = {run for words in rows for run in _runs(words)}
    found = {}
    for item, question in items.items():
        words = _words(question)
        own = _runs(words)
        known = sum(run in runs for run in own)
        if " ".join(words) in whole:
            found[item] = "the same question"
        elif own and known >= SHARE * len(own):
            found[item] = f"{known} of {len(own)} runs of {RUN} words"
    return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: list[str]) -> list[str]:
    return [" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
