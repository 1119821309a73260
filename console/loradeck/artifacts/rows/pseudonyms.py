"""Pseudonyms in rows: what has the form of personal data is replaced alike wherever it stands, by a tenant's key.

They are keyed digests: whoever has the key makes the same ones again, and can tell by a guess who stands behind one.
Nobody else can. Under another key, or at another tenant, a person has another pseudonym.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from loradeck.artifacts.rows.personal_data import ILLNESS, NAME, Span, illnesses, one_form, redacted, replaced

_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijkmnpqr")
"""Digits of a pseudonym as letters, so that no detector takes it for a number."""

_LENGTH = 12
"""Letters of a pseudonym: among a million people some two share one in one of 560 cases."""

Names = Mapping[str, Sequence[Span]]

NO_NAMES: Names = {}


@dataclass
class Pseudonyms:
    """Replaces what is personal at one tenant, but for kinds in `keep`. `made` counts the replaced places by kind."""

    _key: bytes
    _tenant: str
    keep: Set[str] = frozenset()
    made: dict[str, int] = field(default_factory=dict)

    def row(self, row: Mapping[str, Any], names: Names = NO_NAMES) -> dict[str, Any]:
        """Returns a row with pseudonyms in every text and whole number, but in no provenance and no names of fields.

        `names`: text in one form -> the places of people's names in it, as `name_search` finds them.
        """
        return {key: value if key == "provenance" else self._replaced(value, names) for key, value in row.items()}

    def _replaced(self, value: Any, names: Names) -> Any:
        if isinstance(value, str | int):
            before = sum(self.made.values())
            text = one_form(str(value))
            text = replaced(text, names.get(text, ()), partial(self._named, NAME))
            text = replaced(text, illnesses(text), partial(self._named, ILLNESS))
            text = redacted(text, self._named)
            return text if sum(self.made.values()) > before else value  # as it was written, where nothing stands in it
        if isinstance(value, dict):
            return {key: self._replaced(inner, names) for key, inner in value.items()}
        return [self._replaced(inner, names) for inner in value] if isinstance(value, list) else value

    def _named(self, kind: str, found: str) -> str:
        if kind in self.keep:
            return found
        self.made[kind] = self.made.get(kind, 0) + 1
        plain = "".join(char for char in found.casefold() if char.isalnum() or char == "@")
        digest = hmac.new(self._key, f"{self._tenant}\0{kind}\0{plain}".encode(), hashlib.sha256).hexdigest()
        return f"[{kind} {digest[:_LENGTH].translate(_LETTERS)}]"
