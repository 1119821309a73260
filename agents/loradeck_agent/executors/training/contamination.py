"""Whether training rows hold what the evaluation will ask.

An item is contaminated when its question stands in a row, but for case, punctuation and space; or when at least
half of its runs of thirteen words stand in rows. Thirteen words is what published decontaminations use: shorter
runs are shared by rows that merely have the same form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

RUN = 13
SHARE = 0.5

_WORD = re.compile(r"\w+")


def contaminated(questions: Iterable[str], items: Mapping[str, str]) -> dict[str, str]:
    """Items (id -> question) that the rows' questions give away: id -> how."""
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
