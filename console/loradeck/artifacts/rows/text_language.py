"""The language that a text is probably in, by its script and by common words, without a model.

It knows nineteen (`schemas.content_checks.LANGUAGES`), and says nothing of a text that is short, mixed, or mostly code.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

COMMON_WORDS: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "en": "the of and to in is that it was for with as on be at by this are have from you not or an which can will",
        "de": "der die und das ist nicht ein eine zu den mit sich auf für des im von dem sie wird auch als werden sind",
        "fr": "le la les des et est une que dans pour pas sur au avec ce il sont du vous nous par plus cette qui aux",
        "es": "el los las y que del una es por con para se su no al más como pero sus esta está ha son muy puede",
        "it": "il di che è la per un una non sono con del della si le dei nel alla più questo anche come gli ha può",
        "pt": "o os as e que do da em um uma para com não é por mais dos das ao você se como mas são foi está pode",
        "nl": "de het een van en is dat op te niet zijn voor met die aan er ook als bij naar wordt maar deze kan",
        "sv": "och att det som en på är av för med till den har inte om ett han men var jag sig från vi kan eller så",
        "pl": "i w na się nie do jest to że z o jak ale po od za przez co dla być może są tego tym oraz który",
        "tr": "ve bir bu için ile de da çok olarak daha var gibi olan ne kadar sonra ben ama en değil mi her olduğu",
    }.items()
}
"""Language -> words by which a text in it is recognised."""

SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x0400, 0x04FF, "ru"),
    (0x0370, 0x03FF, "el"),
    (0x0590, 0x05FF, "he"),
    (0x0600, 0x06FF, "ar"),
    (0x0E00, 0x0E7F, "th"),
    (0x0900, 0x097F, "hi"),
    (0x3040, 0x30FF, "ja"),
    (0x4E00, 0x9FFF, "zh"),
    (0xAC00, 0xD7AF, "ko"),
)
"""First and last letter of a script, and the language that a text in it is taken for."""

_LETTERS = 40
"""Letters from which on a text's language is guessed."""

_SCRIPT_SHARE = 0.5
_WORD_SHARE = 0.08
_AHEAD = 1.5


def language(text: str) -> str | None:
    """Guesses the language of a text; None: it cannot be told."""
    letters = [c for c in text if c.isalpha()]
    if len(letters) < _LETTERS:
        return None
    scripts = Counter(filter(None, map(_script, letters)))
    for name, count in scripts.most_common(1):
        if count > _SCRIPT_SHARE * len(letters):
            return "ja" if name == "zh" and scripts["ja"] > 0.1 * len(letters) else name
    return _by_words(text)


@lru_cache(maxsize=8192)
def _script(letter: str) -> str | None:
    """The language that a letter's script is taken for; None: several are written in it."""
    at = ord(letter)
    return next((name for first, last, name in SCRIPTS if first <= at <= last), None)


def _by_words(text: str) -> str | None:
    words = [word.strip(".,;:!?\"'()[]«»„“”") for word in text.casefold().split()]
    words = [word for word in words if word.isalpha()]
    found = Counter({name: sum(word in common for word in words) for name, common in COMMON_WORDS.items()})
    (best, most), (_, second) = found.most_common(2)
    if most < max(3, _WORD_SHARE * len(words)) or most < _AHEAD * second:
        return None
    return best
