-- Where the holder of the lease can be reached, and until when it holds it by the database's clock; NULL: until another
-- hub takes it. `at_ms` is the stamp of the newest event.
ALTER TABLE head ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE head ADD COLUMN expires_ms INTEGER;
ALTER TABLE head ADD COLUMN at_ms INTEGER NOT NULL DEFAULT 0;
UPDATE head SET at_ms = coalesce((SELECT body ->> '$.at_ms' FROM events ORDER BY rev DESC LIMIT 1), 0);
