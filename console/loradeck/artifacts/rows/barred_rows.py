"""Rows that may not come in: erased ones, those of regulated sources, and those with regulated columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loradeck.artifacts.errors import BadArtifact
from loradeck.schemas.dataset_ledger import fits
from loradeck.schemas.ids import Digest, Strict, digest_of

_ASIDE = frozenset({"id", "provenance"})


def row_digest(row: Mapping[str, Any]) -> str:
    """Identity of a row across datasets: the digest of its content, without `id` and `provenance`."""
    return digest_of(content_of(row))


def content_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a row: all but `id` and `provenance`."""
    return {key: value for key, value in row.items() if key not in _ASIDE}


class Barred(Strict):
    """What may not come in at a tenant.

    `rows`: digests of erased rows. `sources` and `columns`: patterns of what the tenant's policy calls regulated;
    `assessed`: patterns of sources that somebody has signed for.
    """

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
            yield name
            yield from _columns(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _columns(inner)
