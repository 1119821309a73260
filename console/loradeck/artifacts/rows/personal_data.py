"""Detection of personal data and secrets in rows, as far as they have a recognisable form or are listed words.

Every report lists the kinds that were looked for. Much personal data has no form, so a report without findings does not
prove that rows hold none. `personal` is by form and check digits alone, because it judges live answers, too; rows are
also searched for dates of birth, addresses and illnesses. Names take a model (`names_model`).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from importlib import metadata, resources
from typing import Any

from loradeck.artifacts.rows.contamination import WORD, folded_words

PERSONAL = ("e-mail", "phone", "payment card", "IBAN", "US social security number")

BIRTH, ADDRESS, ILLNESS, NAME = "date of birth", "postal address", "illness", "name"
"""Kinds that rows are searched for and live answers are not."""

DESCRIBED = (
    f"{BIRTH} beside a word for birth",
    f"{ADDRESS} with street and number",
    f"{ILLNESS} of a list in six languages",
)

NOT_LOOKED_FOR = (
    "postal addresses and dates of birth in other forms",
    "national ids but the US social security number",
    "phone numbers without + or the North American form",
    "illnesses that are not listed, and other facts in free text",
    "passwords and keys without a known form",
)

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])")
_PHONE = re.compile(r"(?<![\w+])(?:\+\d[\d ().-]{6,18}\d|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4})(?![\w-])")
_CARD = re.compile(r"(?<![\d-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\d-])")
_NETWORKS = re.compile(r"4\d{12}(\d{3}){0,2}|(5[1-5]|2[2-7])\d{14}|3[47]\d{13}|(6011|64[4-9]\d|65\d\d)\d{12}|35\d{14}")
"""Card numbers of the large networks, by prefix and length; one random number in ten passes the check digit."""

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")

_NOISY = frozenset({"Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector", "IPPublicDetector"})
"""Detectors of detect-secrets that report ordinary text as a secret."""

_STEP = 4096
"""Secrets are looked for in pieces of a line twice as long, each half of which the next one has: time grows with the
square of a piece, and what has so many characters stands whole in one."""

Detect = Callable[[str], set[str]]
"""Returns the kinds of secrets in a text."""


def personal(text: str) -> set[str]:
    """Kinds of PERSONAL that a text contains."""
    found = set()
    if _EMAIL.search(text):
        found.add("e-mail")
    if any(luhn(card) and _NETWORKS.fullmatch(re.sub("[ -]", "", card)) for card in _CARD.findall(text)):
        found.add("payment card")
    if any(8 <= sum(c.isdigit() for c in phone) <= 15 for phone in _PHONE.findall(text)):
        found.add("phone")
    if any(iban(candidate) for candidate in _IBAN.findall(text)):
        found.add("IBAN")
    if _SSN.search(text):
        found.add("US social security number")
    return found


def luhn(number: str) -> bool:
    """Tells whether 13 to 19 digits end in a valid check digit (ISO/IEC 7812); spaces and dashes do not count."""
    digits = [int(c) for c in number if c.isdigit()]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def iban(text: str) -> bool:
    """Tells whether a text starts with a valid IBAN (check digits of ISO 13616, mod 97).

    The text may run on into what follows the IBAN, so every length from the shortest (15) to the longest (34) is tried.
    """
    compact = text.replace(" ", "")
    return any(_mod97(compact[:length]) for length in range(15, min(len(compact), 34) + 1))


def _mod97(text: str) -> bool:
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


_BORN = (
    r"born|date of birth|birth ?date|birthday|d\.?o\.?b\.?|geboren|geb\.|geburtsdatum|geburtstag|née?|naissance"
    r"|nac(?:id[oa]|ió|í|imiento)|urodz(?:ony|ona|enia|ił(?:a|em|am)?)|ur\."
)
_BORN_SIGNS = "生年月日|誕生日|生まれ"
_DATE = (
    r"\d{1,2} ?[./-] ?\d{1,2} ?[./-] ?\d{2,4}|\d{4}[./-]\d{1,2}[./-]\d{1,2}"
    r"|(?:\d{4}|(?:昭和|平成|令和)\d{1,2})年\d{1,2}月\d{1,2}日"
    r"|\d{1,2}(?:st|nd|rd|th|er|\.)? (?:of |de )?[^\W\d_]{3,12}\.?,? (?:de )?\d{4}"
    r"|[^\W\d_]{3,12}\.? \d{1,2}(?:st|nd|rd|th)?,? \d{4}"
)
_BIRTHS = (
    re.compile(
        rf"(?:(?<!\w)(?:{_BORN})(?!\w)|{_BORN_SIGNS})[^\n\[\]]{{0,30}}?(?<!\d)(?P<it>{_DATE})(?!\d)", re.IGNORECASE
    ),
    re.compile(
        rf"(?<!\d)(?P<it>{_DATE})(?!\d)[^\n\d\[\]]{{0,12}}?(?:(?<!\w)(?:{_BORN})(?!\w)|{_BORN_SIGNS})", re.IGNORECASE
    ),
)
"""A day beside a word for birth, in the six languages of docs/data.md. A day alone may be any day."""

_BIG = r"[^\W\d_a-zß-öø-ÿ][\w'’.-]{1,30}"
_PART = _BIG.replace(".-]", ".]")
"""Ends where a dash does, or each way to part `A-A-A` would be tried."""
_SOME = r" ?[^\n\d,;\[\]]{2,40}?"
_ROAD = "(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Court|Boulevard|Blvd|Terrace|Crescent|Close)"
_BRITISH, _AMERICAN = r"[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}", r"[A-Z]{2} \d{5}(?:-\d{4})?"
_STREETS = tuple(
    re.compile(rf"(?:(?<!\w)|(?=[\u4e00-\u9fff])){pattern}")
    for pattern in (
        # where English is spoken; then any number before a British postcode
        rf"\d{{1,5}}[a-zA-Z]?,? (?:{_BIG} ){{1,4}}{_ROAD}(?!\w)"
        rf"(?:(?:\.?,? {_BIG}){{0,3}}?,? (?:{_BRITISH}|{_AMERICAN})(?!\w))?",
        rf"\d{{1,4}}[a-z]?,? (?:{_BIG},? ){{1,6}}{_BRITISH}(?!\w)",
        # German
        rf"(?:{_PART}[ -]){{0,3}}[A-ZÄÖÜ][\wß.-]{{0,30}}(?:[Ss]traße|[Ss]trasse|[Ss]tr\.|allee|gasse)"
        rf" ?\d{{1,4}} ?[a-z]?(?!\w)(?:,? \d{{4,5}} {_BIG})?",
        rf"{_BIG}(?: [\wß.-]{{2,30}}){{0,2}} \d{{1,4}}[a-z]?, ?(?:D-|A-|CH-)?\d{{4,5}} {_BIG}",
        # French
        rf"\d{{1,4}}(?: ?bis| ?ter)?,? (?:rue|avenue|boulevard|impasse|quai|allée|chemin|place) {_SOME}"
        rf"(?:,? \d{{4,5}} {_BIG}|(?=[.,;\n]|$))",
        # Spanish
        rf"(?:Calle|C/|Avenida|Avda\.?|Paseo|Plaza|Camino){_SOME},? (?:n\.?º ?)?\d{{1,4}}(?!\w)(?:,? \d{{5}} {_BIG})?",
        # Polish
        rf"(?:ul\.|al\.|os\.|ulica|aleja){_SOME} \d{{1,4}}[a-z]?(?:/\d{{1,4}})?(?!\w)(?:,? \d{{2}}-\d{{3}} {_BIG})?",
        # Japanese
        r"(?:〒?\d{3}-\d{4} ?)?[\u4e00-\u9fff]{2,3}[都道府県][^\s\d、。\[\]]{1,20}"
        r"\d{1,4}(?:丁目|番地?|号|-\d)[\d丁目番地号-]{0,12}",
    )
)
"""Street and number as they are written in some countries, with the postcode and place behind it."""

Span = tuple[int, int]
"""First character of something in a text, and the one behind it."""


def one_form(text: str) -> str:
    """A text whose characters are in one form (Unicode's NFKC), without those that nobody sees, which hide things."""
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")


def births(text: str) -> list[Span]:
    """Finds dates that stand beside a word for birth."""
    return [found.span("it") for pattern in _BIRTHS for found in pattern.finditer(text)] if _has_digit(text) else []


def addresses(text: str) -> list[Span]:
    """Finds streets with a number, in the forms that are known."""
    return [found.span() for pattern in _STREETS for found in pattern.finditer(text)] if _has_digit(text) else []


_has_digit = re.compile(r"\d").search


@cache
def _illnesses() -> dict[str, list[tuple[str, ...]]]:
    """First word of a listed illness -> its words; a word that ends in * stands for all that begin like it."""
    found: dict[str, list[tuple[str, ...]]] = {}
    text = resources.files("loradeck.artifacts.rows").joinpath("illnesses.txt").read_text("utf-8")
    for line in text.splitlines():
        for term in line.split(":", 1)[1].split(",") if ":" in line and not line.startswith("#") else ():
            words = tuple(folded + "*" * said.endswith("*") for said in term.split() for folded in folded_words(said))
            found.setdefault(words[0], []).append(words)
    return found


_folded = lru_cache(maxsize=65_536)(folded_words)
_SHORTEST_STEM, _LONGEST_STEM = 3, 20


def illnesses(text: str) -> list[Span]:
    """Finds words of the list of illnesses, in any case and with any accents."""
    words = [(word.span(), folded) for word in WORD.finditer(text) for folded in _folded(word[0])]
    listed, found = _illnesses(), []
    for at, (_, word) in enumerate(words):
        stems = (f"{word[:length]}*" for length in range(_SHORTEST_STEM, min(len(word), _LONGEST_STEM) + 1))
        for term in (term for first in (word, *stems) for term in listed.get(first, ())):
            there = words[at : at + len(term)]
            if len(there) == len(term) and all(map(_is, (folded for _, folded in there), term)):
                found.append((there[0][0][0], there[-1][0][1]))
    return found


def _is(word: str, listed: str) -> bool:
    return word.startswith(listed[:-1]) if listed.endswith("*") else word == listed


def replaced(text: str, spans: Iterable[Span], name: Callable[[str], str]) -> str:
    """A text with what stands at some places replaced by what `name` makes of it. Of places that overlap it is one."""
    begun, parts = 0, []
    for start, end in _apart(spans):
        parts += [text[begun:start], name(text[start:end])]
        begun = end
    return "".join((*parts, text[begun:]))


def _apart(spans: Iterable[Span]) -> list[Span]:
    apart: list[Span] = []
    for start, end in sorted(spans):
        if apart and start < apart[-1][1]:
            apart[-1] = apart[-1][0], max(end, apart[-1][1])
        else:
            apart.append((start, end))
    return apart


_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)"
    r"|(?<![A-Za-z0-9])(?:(?:sk|pk|rk)[-_]|gh[pousr]_|github_pat_|glpat-|xox[a-z]-|hf_|AKIA|ASIA|AIza|eyJ)[\w.-]{10,}"
    r"|(?<![A-Za-z0-9])(?i:bearer)\s{1,3}[\w.~+/=-]{8,}",
    re.DOTALL,
)
"""Keys that begin in a known way: of OpenAI's, Stripe's and our own callers, GitHub, GitLab, Slack, Hugging Face, AWS,
Google, JSON Web Tokens, and what follows `Bearer`."""

_NAMED_SECRET = re.compile(
    r"\b(?i:(pass(?:word|wd|phrase|code)?|secret|token|api[_ -]?key|pin|cvv|cvc))\b"
    r"""["']?\s{0,3}(?:[:=]|\bis\b)\s{0,3}["']?(?!\[key(?: [a-z]+)?\])[^\s"']{3,200}"""
)
_LONG_RUN = re.compile(r"[A-Za-z0-9+/_=-]{32,}")
_ADDRESS = re.compile(r"""[^\s@<>"',;:()\[\]]{1,64}@[^\s@<>"',;:()\[\]]{2,}""")
_LONG_NUMBER = re.compile(r"\+?\(?\d(?:[ ().\-/]{0,2}\d){8,}")
_DAY = re.compile(r"(?:19|20)\d\d-\d\d-\d\d(?: \d\d)?")


Name = Callable[[str, str], str]
"""Returns what stands in the place of something: its kind in brackets, by its kind and by what it was."""


def _by_kind(kind: str, found: str) -> str:
    return f"[{kind}]"


def redacted(text: str, name: Name = _by_kind) -> str:
    """A text with what has the form of personal data or of a key replaced by its kind in brackets, or as `name` says.

    Names and illnesses stay. It takes more than `personal` finds, since a text loses little by it: dates of birth and
    addresses, whatever stands around an @, every number of nine digits and more but for a day, and every run of 32
    letters and digits. Characters are as `one_form` has them.
    """
    folded = one_form(text)
    folded = replaced(folded, births(folded), lambda day: name(BIRTH, day))
    folded = replaced(folded, addresses(folded), lambda place: name(ADDRESS, place))
    folded = _KEY.sub(lambda key: name("key", key[0]), folded)
    folded = _NAMED_SECRET.sub(lambda secret: f"{secret[1]} {name('secret', secret[0])}", folded)
    folded = _LONG_RUN.sub(lambda run: name("key", run[0]) if any(map(str.isdigit, run[0])) else run[0], folded)
    folded = _ADDRESS.sub(lambda address: name("e-mail", address[0]), folded)
    folded = _IBAN.sub(lambda iban: name("IBAN", iban[0]), folded)
    return _LONG_NUMBER.sub(lambda n: n[0] if _DAY.fullmatch(n[0]) else name("number", n[0]), folded)


def secrets() -> tuple[AbstractContextManager[Any], Detect | None, str]:
    """The detector of secrets, as (context to use it in, detector, description for reports).

    The detector is None without the package detect-secrets.
    """
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
        from detect_secrets.core.scan import scan_line
        from detect_secrets.settings import transient_settings
    except ModuleNotFoundError:
        return nullcontext(), None, "not looked for: pip install 'loradeck[data]'"
    names = sorted(kind.__name__ for kind in get_mapping_from_secret_type_to_class().values())
    plugins = [{"name": name} for name in names if name not in _NOISY]

    def detect(text: str) -> set[str]:
        lines = ((line, at) for line in text.splitlines() for at in range(0, len(line), _STEP))
        return {secret.type for line, at in lines for secret in scan_line(line[at : at + 2 * _STEP])}

    version = metadata.version("detect-secrets")
    return (
        transient_settings({"plugins_used": plugins}),
        detect,
        f"detect-secrets {version}, {len(plugins)} known forms",
    )


def kinds_in(texts: Iterator[str], detect: Detect | None) -> set[str]:
    """Kinds of personal data and secrets that the texts of one row contain, but for names."""
    found = set[str]()
    for text in texts:
        found |= personal(text)
        folded = one_form(text)
        for kind, where in ((BIRTH, births), (ADDRESS, addresses), (ILLNESS, illnesses)):
            if where(folded):
                found.add(kind)
        if detect is not None:
            found |= detect(text)
    return found
