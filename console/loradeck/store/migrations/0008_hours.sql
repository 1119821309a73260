-- Requests of each route by the hour in which they were over, for what is usual there. `hour`: hours since 1970.
CREATE TABLE hours (
    tenant   TEXT NOT NULL,
    route    TEXT NOT NULL,
    hour     INTEGER NOT NULL,
    refused  INTEGER NOT NULL,
    failed   INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    checked  INTEGER NOT NULL,
    bad      INTEGER NOT NULL,
    PRIMARY KEY (tenant, route, hour)
) STRICT, WITHOUT ROWID;
