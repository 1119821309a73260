-- The schema on PostgreSQL, which began with SQLite's migration 7: the same tables and columns. A later change is a file
-- of one number in both folders. The comments on tables and columns are in SQLite's files.

-- The database's wall clock. `now()` is when a transaction began, and a lease may have run out since.
CREATE FUNCTION clock_ms() RETURNS bigint LANGUAGE sql VOLATILE
AS 'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint';

CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN RAISE EXCEPTION ''% never changes: %'', TG_TABLE_NAME, TG_ARGV[0]; END';

CREATE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN PERFORM pg_notify(''loradeck'', ''''); RETURN NULL; END';

-- The next number of a table whose rows never go. There is one writer at a time, and no gap: a sequence would leave some.
CREATE FUNCTION next_attestation() RETURNS bigint LANGUAGE plpgsql
AS 'BEGIN RETURN (SELECT coalesce(max(seq), 0) + 1 FROM attestations); END';
CREATE FUNCTION next_job() RETURNS bigint LANGUAGE plpgsql
AS 'BEGIN RETURN (SELECT coalesce(max(seq), 0) + 1 FROM jobs); END';
CREATE FUNCTION next_token() RETURNS bigint LANGUAGE plpgsql
AS 'BEGIN RETURN (SELECT coalesce(max(rowid), 0) + 1 FROM tokens); END';

-- PostgreSQL reads no JSON that holds an escaped NUL, as a reason may: it is read under another escape, which no body has.
CREATE FUNCTION json_text(body text, VARIADIC path text[]) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT replace(body, '\u0000', '\uE000')::json #>> path $$;
CREATE FUNCTION json_part(body text, name text) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT replace((replace(body, '\u0000', '\uE000')::json -> name)::text, '\uE000', '\u0000') $$;
CREATE OPERATOR -> (LEFTARG = text, RIGHTARG = text, FUNCTION = json_part);

CREATE TABLE events (
    rev        bigint PRIMARY KEY,
    body       text NOT NULL,
    id         text NOT NULL GENERATED ALWAYS AS (json_text(body, 'id')) STORED,
    tenant     text NOT NULL GENERATED ALWAYS AS (json_text(body, 'tenant')) STORED,
    route      text GENERATED ALWAYS AS (json_text(body, 'route')) STORED,
    generation bigint GENERATED ALWAYS AS (json_text(body, 'pointer', 'generation')::bigint) STORED,
    at_ms      bigint NOT NULL GENERATED ALWAYS AS (json_text(body, 'at_ms')::bigint) STORED
);
CREATE UNIQUE INDEX events_by_id ON events (id);
CREATE INDEX events_by_tenant ON events (tenant, rev);
CREATE INDEX events_by_pointer ON events (tenant, route, rev, generation);
CREATE INDEX events_by_time ON events (at_ms, rev);
CREATE TRIGGER events_never_change BEFORE UPDATE OR DELETE ON events
FOR EACH ROW EXECUTE FUNCTION never('the log is append-only');

CREATE TABLE keys (
    key       text PRIMARY KEY,
    txn       text NOT NULL UNIQUE,
    first_rev bigint NOT NULL,
    last_rev  bigint NOT NULL
);

CREATE TABLE pointers (
    tenant text NOT NULL,
    route  text NOT NULL,
    body   text NOT NULL,
    PRIMARY KEY (tenant, route)
);
CREATE TABLE tenants (
    name text PRIMARY KEY,
    body text NOT NULL
);

CREATE TABLE head (
    one         integer PRIMARY KEY CHECK (one = 1),
    log         text NOT NULL,
    epoch       bigint NOT NULL,
    incarnation text NOT NULL,
    holder      text NOT NULL,
    name        text NOT NULL,
    rev         bigint NOT NULL,
    hash        text NOT NULL,
    address     text NOT NULL DEFAULT '',
    expires_ms  bigint,
    at_ms       bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO head VALUES (1, replace(gen_random_uuid()::text, '-', ''), 0, '', '', '', 0, repeat('0', 64));
-- For hubs that wait: what they listen to is a hint, and they read this row to know.
CREATE TRIGGER head_moved AFTER UPDATE OF rev, holder ON head FOR EACH STATEMENT EXECUTE FUNCTION announce();

CREATE TABLE incarnations (
    epoch       bigint PRIMARY KEY,
    incarnation text NOT NULL UNIQUE,
    rev         bigint NOT NULL
);

CREATE TABLE documents (
    kind       text NOT NULL,
    digest     text NOT NULL,
    serial     bigint NOT NULL,
    tenant     text,
    name       text,
    version    bigint,
    created_ms bigint NOT NULL,
    created_by text NOT NULL,
    body       text NOT NULL,
    PRIMARY KEY (kind, digest)
);
CREATE UNIQUE INDEX documents_by_serial ON documents (kind, serial);
CREATE UNIQUE INDEX documents_by_version ON documents (tenant, name, version) WHERE version IS NOT NULL;
CREATE INDEX documents_by_tenant ON documents (kind, tenant, serial);
CREATE TRIGGER documents_never_change BEFORE UPDATE ON documents
FOR EACH ROW EXECUTE FUNCTION never('documents are immutable');

CREATE TABLE attestations (
    seq     bigint DEFAULT next_attestation() PRIMARY KEY,
    kind    text NOT NULL,
    subject text NOT NULL,
    tenant  text NOT NULL,
    route   text,
    body    text NOT NULL,
    "by"    text NOT NULL,
    at_ms   bigint NOT NULL
);
CREATE INDEX attestations_by_subject ON attestations (subject, seq);
CREATE INDEX attestations_by_pointer ON attestations (tenant, route, seq);

CREATE TABLE served (
    tenant   text NOT NULL,
    route    text NOT NULL,
    release  text NOT NULL,
    seconds  double precision NOT NULL,
    finished bigint NOT NULL,
    failed   bigint NOT NULL,
    checked  bigint NOT NULL,
    bad      bigint NOT NULL,
    refused  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, route, release)
);

CREATE TABLE jobs (
    seq      bigint DEFAULT next_job() PRIMARY KEY,
    id       text NOT NULL UNIQUE,
    finished integer NOT NULL,
    body     text NOT NULL
);
CREATE INDEX jobs_by_finished ON jobs (finished, seq);

CREATE TABLE tokens (
    rowid bigint DEFAULT next_token() UNIQUE,
    id    text PRIMARY KEY,
    body  text NOT NULL
);

CREATE TABLE meta (
    name  text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE nodes (
    name text PRIMARY KEY,
    body text NOT NULL
);

CREATE TABLE withdrawals (
    node           text NOT NULL,
    tenant         text NOT NULL,
    route          text NOT NULL,
    rev            bigint NOT NULL,
    refuse_after_s double precision,
    PRIMARY KEY (node, tenant, route)
);

CREATE TABLE audit (
    seq  bigint PRIMARY KEY,
    body text NOT NULL
);
CREATE TRIGGER audit_never_changes BEFORE UPDATE OR DELETE ON audit
FOR EACH ROW EXECUTE FUNCTION never('the audit trail is append-only');
