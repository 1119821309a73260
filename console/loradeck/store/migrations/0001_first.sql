-- The log. `body` is the event in canonical JSON and its only copy: every other column is computed from it,
-- so that an index can never tell another story than the chain.
CREATE TABLE events (
    rev        INTEGER PRIMARY KEY,
    body       TEXT NOT NULL,
    id         TEXT NOT NULL AS (body ->> '$.id') VIRTUAL,
    tenant     TEXT NOT NULL AS (body ->> '$.tenant') VIRTUAL,
    route      TEXT AS (body ->> '$.route') VIRTUAL,
    generation INTEGER AS (body ->> '$.pointer.generation') VIRTUAL,
    at_ms      INTEGER NOT NULL AS (body ->> '$.at_ms') VIRTUAL
) STRICT;
CREATE UNIQUE INDEX events_by_id ON events (id);
CREATE INDEX events_by_tenant ON events (tenant, rev);
CREATE INDEX events_by_pointer ON events (tenant, route, rev, generation);
CREATE INDEX events_by_time ON events (at_ms, rev);

CREATE TRIGGER events_never_change BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER events_never_go BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;

-- What an idempotency key committed: revs first_rev to last_rev, or nothing where first_rev > last_rev.
CREATE TABLE keys (
    key       TEXT PRIMARY KEY,
    txn       TEXT NOT NULL UNIQUE,
    first_rev INTEGER NOT NULL,
    last_rev  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The log folded up to its last event.
CREATE TABLE pointers (
    tenant TEXT NOT NULL,
    route  TEXT NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (tenant, route)
) STRICT, WITHOUT ROWID;
CREATE TABLE tenants (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Who is the active hub. One row.
CREATE TABLE lease (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    epoch  INTEGER NOT NULL,
    holder TEXT NOT NULL
) STRICT;
INSERT INTO lease (one, epoch, holder) VALUES (1, 0, '');

-- The registry: immutable documents by digest. `name` and `version` are an adapter version's.
CREATE TABLE documents (
    kind       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    serial     INTEGER NOT NULL,
    tenant     TEXT,
    name       TEXT,
    version    INTEGER,
    created_ms INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    body       TEXT NOT NULL,
    PRIMARY KEY (kind, digest)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX documents_by_serial ON documents (kind, serial);
CREATE UNIQUE INDEX documents_by_version ON documents (tenant, name, version) WHERE version IS NOT NULL;
CREATE INDEX documents_by_tenant ON documents (kind, tenant, serial);

CREATE TRIGGER documents_never_change BEFORE UPDATE ON documents
BEGIN SELECT RAISE(ABORT, 'documents are immutable'); END;

CREATE TABLE attestations (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    tenant  TEXT NOT NULL,
    route   TEXT,
    body    TEXT NOT NULL,
    "by"    TEXT NOT NULL,
    at_ms   INTEGER NOT NULL
) STRICT;
CREATE INDEX attestations_by_subject ON attestations (subject, seq);
CREATE INDEX attestations_by_pointer ON attestations (tenant, route, seq);

CREATE TABLE served (
    tenant   TEXT NOT NULL,
    route    TEXT NOT NULL,
    release  TEXT NOT NULL,
    seconds  REAL NOT NULL,
    requests INTEGER NOT NULL,
    errors   INTEGER NOT NULL,
    checked  INTEGER NOT NULL,
    bad      INTEGER NOT NULL,
    PRIMARY KEY (tenant, route, release)
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL UNIQUE,
    finished INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_finished ON jobs (finished, seq);

CREATE TABLE tokens (
    id   TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
