"""Detection of personal data and secrets in rows, as far as they have a recognisable form.

Every report lists the kinds that were looked for. Most personal data has no form (names, addresses, illnesses), so a
report without findings does not prove that rows hold none.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import Any

PERSONAL = ("e-mail", "phone", "payment card", "IBAN", "US social security number")

NOT_LOOKED_FOR = (
    "names",
    "postal addresses",
    "dates of birth",
    "national ids but the US social security number",
    "phone numbers without + or the North American form",
    "health and other facts in free text",
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

    It takes more than `personal` finds, since a text loses little by it: whatever stands around an @, every number of
    nine digits and more but for a day, and every run of 32 letters and digits. Characters that look alike are made one
    (Unicode's NFKC), and those that nobody sees are left out, so that they hide nothing.
    """
    folded = unicodedata.normalize("NFKC", text)
    folded = "".join(char for char in folded if unicodedata.category(char) != "Cf")
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
        return {secret.type for line in text.splitlines() for secret in scan_line(line)}

    version = metadata.version("detect-secrets")
    return (
        transient_settings({"plugins_used": plugins}),
        detect,
        f"detect-secrets {version}, {len(plugins)} known forms",
    )


def kinds_in(texts: Iterator[str], detect: Detect | None) -> set[str]:
    """Kinds of personal data and secrets that the texts of one row contain."""
    found = set[str]()
    for text in texts:
        found |= personal(text)
        if detect is not None:
            found |= detect(text)
    return found
