-- What callers ask on a route by the day (days since 1970 UTC), without text. `body`: schemas.input_counts.InputCounts, zlib.
CREATE TABLE input_days (
    tenant text NOT NULL,
    route  text NOT NULL,
    day    bigint NOT NULL,
    body   bytea NOT NULL,
    PRIMARY KEY (tenant, route, day)
);
