-- What callers ask on a route by the day (days since 1970 UTC), without text. `body`: schemas.input_counts.InputCounts, zlib.
CREATE TABLE input_days (
    tenant TEXT NOT NULL,
    route  TEXT NOT NULL,
    day    INTEGER NOT NULL,
    body   BLOB NOT NULL,
    PRIMARY KEY (tenant, route, day)
) STRICT;
