-- The nodes that the hub has known, one row each: they were one JSON document in `meta`.
CREATE TABLE nodes (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO nodes
SELECT saved.key, saved.value FROM meta, json_each(meta.value) AS saved WHERE meta.name = 'nodes';
DELETE FROM meta WHERE name = 'nodes';

-- Pointers that were withdrawn from a node at a rev, and whose tombstone the node has not acknowledged: it may answer.
-- `refuse_after_s` is that of the entry that the node holds; NULL: it serves on without a hub.
CREATE TABLE withdrawals (
    node           TEXT NOT NULL,
    tenant         TEXT NOT NULL,
    route          TEXT NOT NULL,
    rev            INTEGER NOT NULL,
    refuse_after_s REAL,
    PRIMARY KEY (node, tenant, route)
) STRICT, WITHOUT ROWID;
