"""Notices in the store in SQL, and the channels that have yet to be given them."""

from collections.abc import Sequence

from loradeck.schemas.notice import Delivery, Notice, NoticeRow
from loradeck.store.interface import NOTICES_KEPT
from loradeck.store.sql_database import named
from loradeck.store.sql_records import SqlRecords


class SqlNotices(SqlRecords):
    """The part of the store in SQL that holds notices."""

    def add_notices(self, notices: Sequence[tuple[Notice, Sequence[str]]]) -> list[tuple[Notice, Delivery]]:
        """Writes notices, each with the channels that are to be given it, and returns what there is to deliver. One
        whose id is known is left out. NOTICES_KEPT are kept, and those that are yet to be delivered.
        """
        out: list[tuple[Notice, Delivery]] = []
        with self._writing() as (connection, _):
            (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM notices").fetchone()
            for notice, channels in notices:
                if connection.execute("SELECT 1 FROM notices WHERE id = ?", (notice.id,)).fetchone():
                    continue
                last += 1
                row = (last, notice.id, notice.at_ms, notice.model_dump_json())
                connection.execute("INSERT INTO notices (seq, id, at_ms, body) VALUES (?, ?, ?, ?)", row)
                out += ((notice, Delivery(seq=last, channel=channel)) for channel in channels)
            connection.executemany(
                "INSERT INTO deliveries (seq, channel, attempts, next_ms, error) VALUES (?, ?, 0, 0, '')",
                [(delivery.seq, delivery.channel) for _, delivery in out],
            )
            connection.execute(
                "DELETE FROM notices WHERE seq <= ? AND seq NOT IN (SELECT seq FROM deliveries)", (last - NOTICES_KEPT,)
            )
        return out

    def notices(self, limit: int) -> list[NoticeRow]:
        """The newest notices, newest first, and with them what is yet to be delivered."""
        with self.database.reading() as connection:
            rows = named(connection.execute("SELECT seq, body FROM notices ORDER BY seq DESC LIMIT ?", (limit,)))
            waiting = named(connection.execute("SELECT * FROM deliveries ORDER BY seq, channel"))
        by_seq: dict[int, list[Delivery]] = {}
        for one in waiting:
            by_seq.setdefault(one["seq"], []).append(Delivery.model_validate(one))
        return [
            NoticeRow(
                seq=row["seq"],
                notice=Notice.model_validate_json(row["body"]),
                waiting=tuple(by_seq.get(row["seq"], ())),
            )
            for row in rows
        ]

    def deliveries(self) -> list[tuple[Notice, Delivery]]:
        """Lists what is yet to be delivered or was given up, in the order in which it was written."""
        asked = "SELECT d.*, n.body FROM deliveries d JOIN notices n ON n.seq = d.seq ORDER BY d.seq, d.channel"
        rows = self._read_named(asked)
        return [(Notice.model_validate_json(row.pop("body")), Delivery.model_validate(row)) for row in rows]

    def record_delivery(self, delivery: Delivery, *, given: bool) -> None:
        """Writes a delivery's failed attempt, or removes one that was given."""
        key = (delivery.seq, delivery.channel)
        with self._writing() as (connection, _):
            if given:
                connection.execute("DELETE FROM deliveries WHERE seq = ? AND channel = ?", key)
            else:
                connection.execute(
                    "UPDATE deliveries SET attempts = ?, next_ms = ?, error = ? WHERE seq = ? AND channel = ?",
                    (delivery.attempts, delivery.next_ms, delivery.error, *key),
                )
