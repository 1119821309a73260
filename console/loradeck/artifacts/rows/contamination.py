"""Rows that hold questions of a suite: the same, in other words around them, in other characters, or nearly the same.

Texts are compared by their words, folded: in one form of characters (Unicode's NFKC), without case, punctuation, marks
and characters that nobody sees, and with letters of other alphabets that look like Latin ones as those. An item is
found in a row

- whose question is the same;
- that contains the item's words one after another: where the item has `WORDS` words or more, or four and makes up a
  third of the row;
- that holds at least `SHARE` of the item's own runs of three words, whatever else it holds;

or if `SPREAD` of its own runs of thirteen words occur in rows, in whichever. A run that `COMMON` items or more share is
their form, such as an instruction before each question, and no item's own. Published decontaminations use thirteen
words (GPT-3, arXiv:2005.14165, appendix C): rows that merely have one form share shorter runs. docs/data.md has a table
of what is found and what is not: nothing here knows a paraphrase or a translation.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

WORDS = 8
"""Words from which an item that a row contains is found, however long the row is."""

SHARE = 0.75
"""Share of an item's own runs of three words, in one row, that makes it contaminated; of six runs or more."""

COMMON = 5
"""Different items from which a run of three words that they share is their form."""

RUN = 13
"""Words of the runs that are counted over all rows."""

SPREAD = 0.5
"""Share of an item's runs of thirteen words, over all rows, that makes it contaminated."""

_SHORT = 4
_SIGN = "\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{_SIGN}]|[^\W_{_SIGN}]+")
"""A word; in Chinese and Japanese, which put no space between words, a character."""

_UNSEEN = {"Cf", "Mn", "Me"}
_LATIN = str.maketrans("аеорсухіјѕԁԛԝһкмтвнαορντικυχεη", "aeopcyxijsdqwhkmtbhaopvtikuxen")
"""Small Cyrillic and Greek letters -> the Latin ones that they look like (of Unicode's UTS 39, confusables)."""


def folded_words(text: str) -> list[str]:
    """Returns the words of a text as they are compared."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
        text = "".join(one for one in parts if unicodedata.category(one) not in _UNSEEN)
    return WORD.findall(text.casefold().translate(_LATIN))


def holding(phrases: Iterable[str]) -> Callable[[str], bool]:
    """Returns what tells whether a text holds one of these words or phrases, as whole words, folded; signs anywhere."""
    known = {phrase.strip(): _between_spaces(phrase) for phrase in phrases}
    listed = [said for said in known.values() if said.strip()]
    signs = [phrase for phrase, said in known.items() if not said.strip()]

    def holds(text: str) -> bool:
        said = _between_spaces(text)
        return any(phrase in said for phrase in listed) or any(sign in text for sign in signs)

    return holds


def _between_spaces(text: str) -> str:
    return f" {' '.join(folded_words(text))} "


def found_in(questions: Iterable[str], items: Mapping[str, str]) -> Iterator[tuple[int, str, str]]:
    """Yields (line, from 1; item; how) for each item that a row's question holds. `items`: id -> question."""
    words = {item: folded_words(question) for item, question in items.items()}
    same: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item, own in words.items():
        if own:
            same[tuple(own)].append(item)
    runs = {item: _runs(own, 3) for item, own in words.items() if len(own) >= WORDS}
    holding: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item, its in runs.items():
        for run in its:
            holding[run].append(item)
    form = _form(same, 3)
    lengths = sorted({len(own) for own in words.values() if _SHORT <= len(own) < WORDS})
    own_runs = {item: its - form for item, its in runs.items()}
    for line, question in enumerate(questions, start=1):
        row = folded_words(question)
        how = dict.fromkeys(same.get(tuple(row), ()), "the same question")
        for length in lengths:
            if 3 * length >= len(row):
                for run in _runs(row, length):
                    how |= {item: "the question, with other words" for item in same.get(run, ()) if item not in how}
        held = _runs(row, 3)
        for item, known in Counter(item for run in held for item in holding.get(run, ())).items():
            if item in how or known < SHARE * len(own_runs[item]):
                continue
            if known == len(runs[item]):
                how[item] = "the question, with other words"
            elif len(own_runs[item]) >= WORDS - 2:
                own_known = len(own_runs[item] & held)
                if own_known >= SHARE * len(own_runs[item]):
                    how[item] = f"{own_known} of {len(own_runs[item])} runs of 3 words"
        yield from ((line, item, how[item]) for item in sorted(how))


def contaminated(questions: Sequence[str], items: Mapping[str, str]) -> dict[str, str]:
    """Returns the items that the rows' questions hold, in one row or over all of them: id -> how."""
    found: dict[str, str] = {}
    for _, item, how in found_in(questions, items):
        found.setdefault(item, how)
    runs = {run for question in questions for run in _runs(folded_words(question), RUN)}
    words = {item: tuple(folded_words(question)) for item, question in items.items()}
    form = _form(set(words.values()), RUN)
    for item in items:
        own = _runs(words[item], RUN) - form
        known = len(own & runs)
        if item not in found and own and known >= SPREAD * len(own):
            found[item] = f"{known} of {len(own)} runs of {RUN} words"
    return found


def _form(questions: Iterable[Sequence[str]], length: int) -> set[tuple[str, ...]]:
    """The runs that several of these different questions share."""
    asking = Counter(run for question in questions for run in _runs(question, length))
    return {run for run, number in asking.items() if number >= COMMON}


def _runs(words: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}
