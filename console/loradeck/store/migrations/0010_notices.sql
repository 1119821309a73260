-- What people are told outside the console, and the channels that have yet to be given it. `next_ms` NULL: given up.
CREATE TABLE notices (
    seq   INTEGER PRIMARY KEY,
    id    TEXT NOT NULL UNIQUE,
    at_ms INTEGER NOT NULL,
    body  TEXT NOT NULL
) STRICT;
CREATE TABLE deliveries (
    seq      INTEGER NOT NULL,
    channel  TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_ms  INTEGER,
    error    TEXT NOT NULL,
    PRIMARY KEY (seq, channel)
) STRICT, WITHOUT ROWID;
