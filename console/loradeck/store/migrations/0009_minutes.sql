-- Requests of each route by the minute, an hour in a row, for a week. `hour`: hours since 1970; first in the key, since
-- all rows of the running hour are written together. `counts`: see loradeck.store.minutes.
CREATE TABLE minutes (
    hour   INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    route  TEXT NOT NULL,
    counts BLOB NOT NULL,
    PRIMARY KEY (hour, tenant, route)
) STRICT, WITHOUT ROWID;
