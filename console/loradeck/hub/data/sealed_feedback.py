"""Feedback as it lies in the database: what callers wrote is under keys, and what is counted of it is not: thumbs,
routes, classes of consent, who and when.
"""

from collections import defaultdict
from collections.abc import Sequence

from loradeck.artifacts.blobs.row_keys import RowKeys, unavailable
from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.feedback import Feedback, FeedbackKind
from loradeck.store.sql_log import Store

PIECE = 500
"""Rows that are read at a time."""

_PLACE = {FeedbackKind.CORRECTION: "text"}  # of other kinds it is the value: `rules.data.feedback.flaw_of`


def sealed(keys: RowKeys | None, rows: Sequence[Feedback]) -> list[Feedback]:
    """Seals what callers wrote, where there are keys. Raises: BadArtifact: `key_unavailable`."""
    done, by_day = list(rows), defaultdict[tuple[str, int], list[int]](list)
    if keys is None:
        return done
    for at, row in enumerate(rows):
        if row.kind is not FeedbackKind.THUMB:
            by_day[row.tenant, row.at_ms // DAY_MS].append(at)
    for (tenant, day), places in by_day.items():
        texts = keys.seal_texts(tenant, day, [rows[at].value or rows[at].text for at in places])
        for at, text in zip(places, texts, strict=True):
            done[at] = rows[at].model_copy(update={"value": "", "text": "", "sealed": text})
    return done


def opened(keys: RowKeys | None, rows: Sequence[Feedback]) -> list[Feedback]:
    """Puts back what callers wrote. Rows whose keys were destroyed are left out.

    Raises: BadArtifact: `key_unavailable`.
    """
    under = [row.sealed for row in rows if row.sealed]
    if keys is None and under:
        raise unavailable("feedback is sealed, and this hub has no keys", rows[0].tenant)
    texts = {"": ""} | (keys.open_texts(under) if keys is not None else {})
    return [
        row.model_copy(update={_PLACE.get(row.kind, "value"): texts[row.sealed]} if row.sealed else None)
        for row in rows
        if row.sealed in texts
    ]


def unseal_all(keys: RowKeys, store: Store) -> None:
    """Puts all texts back into a database that no hub has open, as an older Loradeck reads them.

    Raises: BadArtifact: `key_unavailable`: some are still sealed, and nothing is lost.
    """
    after = 0
    while found := store.texts(sealed=True, after=after, limit=PIECE):
        after, number = found[-1][0], {row.sealed: n for n, row in found}
        plain = [(row.model_dump_json(), number[row.sealed]) for row in opened(keys, [row for _, row in found])]
        with store.database.transaction() as connection:
            connection.executemany("UPDATE feedback SET body = ?, sealed = '' WHERE n = ?", plain)
