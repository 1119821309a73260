-- Counts of requests that are over. How many were attempted is the sum of the first three.
ALTER TABLE served RENAME COLUMN requests TO finished;
ALTER TABLE served RENAME COLUMN errors TO failed;
ALTER TABLE served ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
