"""Rows that may not come in: erased ones, of people who opted out, of regulated sources, with regulated columns."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.contamination import folded_words
from loradeck.schemas.dataset_ledger import LISTED, OptedOut, fits
from loradeck.schemas.ids import Digest, Strict, digest_of

SHORTEST = 5
"""Fewest letters and digits of what a person is known by on an opt-out list."""

_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|([bfnrt])|(["\\/]))')

NESTED = 4
"""Levels of JSON in strings of JSON that are read, such as the arguments of a call of a tool in an answer."""

_ASIDE = frozenset({"id", "provenance"})


def row_digest(row: Mapping[str, Any]) -> str:
    """Identity of a row across datasets: the digest of its content, without `id` and `provenance`."""
    return digest_of(content_of(row))


def content_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a row: all but `id` and `provenance`."""
    return {key: value for key, value in row.items() if key not in _ASIDE}


def texts_in(value: Any) -> Iterator[str]:
    """Yields every string and number in a row, at any depth, as text; what has escapes of JSON also without them."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)
    elif value is not None and not isinstance(value, bool):
        yield from _as_read(str(value))


def _as_read(text: str) -> Iterator[str]:
    """Yields a text, and what escapes of JSON in it stand for, level by level."""
    for _ in range(NESTED):
        yield text
        read = (
            _ESCAPE.sub(lambda one: chr(int(one[1], 16)) if one[1] else one[3] or " ", text) if "\\" in text else text
        )
        if read == text:
            return
        # Two halves of a character are one; half of one is none.
        text = read.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    yield text


def opted_out(tenant: str, said: str) -> OptedOut:
    """Returns the entry of an opt-out list for what a person is known by: a digest of its folded words at a tenant.

    Raises: ValueError: it has so few characters that it would stand in other people's rows.
    """
    words = folded_words(said)
    if sum(map(len, words)) < SHORTEST:
        raise ValueError(f"it needs {SHORTEST} letters and digits, or it stands in other people's rows")
    return OptedOut(words=len(words), digest=_digest(tenant, words))


def _digest(tenant: str, words: Sequence[str]) -> str:
    return hashlib.sha256(f"{tenant}\0{' '.join(words)}".encode()).hexdigest()


class Barred(Strict):
    """The rows that a `tenant` refuses to take in: erased ones, opted-out people's, and what its policy regulates.

    `people`: its opt-out list. `rows`: digests of erased rows. `sources` and `columns`: patterns of what its policy
    calls regulated; `assessed`: patterns of sources that somebody has signed for.
    """

    tenant: str = ""
    people: frozenset[OptedOut] = frozenset()
    rows: frozenset[Digest] = frozenset()
    sources: tuple[str, ...] = ()
    assessed: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def check(self, row: Mapping[str, Any], where: str) -> None:
        """Checks a row, whose place is `where`. Raises: BadArtifact: `erased_row`, `regulated_column`."""
        if self.rows and row_digest(row) in self.rows:
            raise BadArtifact(
                "erased_row",
                "the row was erased and must not return",
                where,
                "leave it out; if another tenant had it erased, the data policy can lift that, with a reason: "
                "loradeck tenant data TENANT --lift-erasures WHY",
            )
        if self.columns:
            for column in _columns(content_of(row)):
                if any(fits(pattern, column) for pattern in self.columns):
                    raise BadArtifact(
                        "regulated_column",
                        f"rows with a column {column[:100]!r} may not come in",
                        where,
                        "leave it out",
                    )

    @cached_property
    def by_length(self) -> dict[int, set[str]]:
        """The opt-out list: number of words -> digests of so many."""
        found = defaultdict[int, set[str]](set)
        for one in self.people:
            found[one.words].add(one.digest)
        return found

    def opted_out(self, row: Mapping[str, Any]) -> bool:
        """Tells whether somebody of the opt-out list stands in a row, in its id or in a name of a field."""
        said = {**row, "provenance": None} if self.people else {}
        for text in (*texts_in(said), *_columns(said)):
            words = folded_words(text)
            for length, known in self.by_length.items():
                runs = (words[at : at + length] for at in range(len(words) - length + 1))
                if any(_digest(self.tenant, run) in known for run in runs):
                    return True
        return False

    def refuse(self, opted_out: Sequence[str]) -> None:
        """Refuses rows by the places where people stand who have opted out. Raises: BadArtifact: `opted_out`."""
        if opted_out:
            raise BadArtifact(
                "opted_out",
                f"people who have opted out stand in {len(opted_out)} rows",
                "; ".join(opted_out[:LISTED]),
                "leave those rows out",
            )

    def check_source(self, source: str, where: str) -> None:
        """Checks the source of a row. Raises: BadArtifact: `regulated_source`."""
        if any(fits(one, source) for one in self.sources) and not any(fits(one, source) for one in self.assessed):
            raise BadArtifact(
                "regulated_source",
                f"{source} is regulated, and nobody has signed an impact assessment for it",
                where,
                "leave such rows out, or have it signed: loradeck tenant assess TENANT --source SOURCE",
            )


def _columns(value: Any) -> Iterator[str]:
    """Yields the names of fields in a row, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _as_read(name)
            yield from _columns(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _columns(inner)
