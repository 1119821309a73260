"""The audit trail in the store in SQL: lines that are only ever added, and the tree over them."""

from collections.abc import Sequence

from loradeck.rules.merkle import Frontier
from loradeck.schemas.audit import AuditDraft, AuditLine
from loradeck.schemas.audit_head import AuditHead
from loradeck.schemas.ids import canonical_json
from loradeck.store.sql_database import Connection
from loradeck.store.sql_records import SqlRecords, read_meta, write_meta

FRONTIER = "audit_frontier"
"""The setting that holds the tree's frontier, written with each line."""


class SqlAudit(SqlRecords):
    """The part of the store in SQL that holds the audit trail."""

    def append_audit(self, drafts: Sequence[AuditDraft]) -> AuditHead:
        """Adds lines to the audit trail, with their numbers and the store's time, and returns its new head."""
        with self._writing() as (connection, head):
            before = _frontier(connection)
            numbered = [
                (seq, canonical_json(AuditLine(**draft.model_dump(), seq=seq, at_ms=head.now_ms)))
                for seq, draft in enumerate(drafts, before.size + 1)
            ]
            rows = [(seq, line.decode()) for seq, line in numbered]
            connection.executemany("INSERT INTO audit (seq, body) VALUES (?, ?)", rows)
            after = before.extended(line for _, line in numbered)
            write_meta(connection, FRONTIER, after.as_text())
        return after.head

    def audit_head(self) -> AuditHead:
        """The number of lines of the audit trail, and the root of the tree over them, as last written."""
        with self.database.reading() as connection:
            return _frontier(connection).head

    def audit_texts(self, after: int, limit: int) -> list[tuple[int, str]]:
        """(seq, text) of the lines after `after`, oldest first, at most `limit`. The text is what the tree hashes."""
        rows = self._read("SELECT seq, body FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        return [(int(seq), str(body)) for seq, body in rows]


def _frontier(connection: Connection) -> Frontier:
    text = read_meta(connection, FRONTIER)
    return Frontier.of_text(text) if text else Frontier()
