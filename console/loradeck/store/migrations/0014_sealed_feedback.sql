-- What callers wrote, under a key (artifacts.blobs.row_keys); empty: it stands in `body`, or there is nothing.
ALTER TABLE feedback ADD COLUMN sealed TEXT NOT NULL DEFAULT '';
CREATE INDEX feedback_plain ON feedback (n) WHERE sealed = '' AND kind <> 'thumb';
