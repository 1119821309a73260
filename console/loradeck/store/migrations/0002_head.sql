-- The head of the log and who may extend it, in one row. Every write of a hub is an update of this row by its holder,
-- so that of two hubs on one database at most one can commit.
-- `log` names this history for ever: a restored copy has the same, another hub another.
CREATE TABLE head (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    log         TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    incarnation TEXT NOT NULL,
    holder      TEXT NOT NULL,
    name        TEXT NOT NULL,
    rev         INTEGER NOT NULL,
    hash        TEXT NOT NULL
) STRICT;
INSERT INTO head
SELECT 1, lower(hex(randomblob(16))), epoch, '', '', holder,
       coalesce((SELECT max(rev) FROM events), 0),
       coalesce((SELECT body ->> '$.hash' FROM events ORDER BY rev DESC LIMIT 1), printf('%064d', 0))
FROM lease;
DROP TABLE lease;

-- Every hold of the lease. `incarnation` is random: copies of one database that were both written to share an epoch and
-- differ in it, which tells a fork of the log from a tail that was lost. `rev` is the head when the hold began.
CREATE TABLE incarnations (
    epoch       INTEGER PRIMARY KEY,
    incarnation TEXT NOT NULL UNIQUE,
    rev         INTEGER NOT NULL
) STRICT;
