-- Segments of the answer ledger that the hub has under their digests. `last_ms` ends a segment's time; none spans more
-- than a day. `body`: schemas.answer_ledger.Segment.
CREATE TABLE ledger_segments (
    n        bigint PRIMARY KEY,
    sha256   text NOT NULL UNIQUE,
    tenant   text NOT NULL,
    chain    text NOT NULL,
    seq      bigint NOT NULL,
    last_ms  bigint NOT NULL,
    anchored bigint NOT NULL,
    body     text NOT NULL
);
CREATE INDEX ledger_segments_time ON ledger_segments (tenant, last_ms);
CREATE INDEX ledger_segments_chain ON ledger_segments (chain, tenant, seq);
CREATE INDEX ledger_segments_new ON ledger_segments (n) WHERE anchored = 0;
