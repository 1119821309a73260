-- Segments of the answer ledger that the hub has under their digests. `last_ms` ends a segment's time; none spans more
-- than a day. `body`: schemas.answer_ledger.Segment.
CREATE TABLE ledger_segments (
    n        INTEGER PRIMARY KEY,
    sha256   TEXT NOT NULL UNIQUE,
    tenant   TEXT NOT NULL,
    chain    TEXT NOT NULL,
    seq      INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    anchored INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX ledger_segments_time ON ledger_segments (tenant, last_ms);
CREATE INDEX ledger_segments_chain ON ledger_segments (chain, tenant, seq);
CREATE INDEX ledger_segments_new ON ledger_segments (n) WHERE anchored = 0;
