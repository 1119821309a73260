DROP TABLE ledger_segments;
-- An older Loradeck reads the notices when it starts, and knows none of these kinds.
DELETE FROM deliveries WHERE seq IN (SELECT seq FROM notices WHERE body LIKE '%"kind":"drift"%'
    OR body LIKE '%"kind":"certificate_ends"%' OR body LIKE '%"kind":"retention_ends"%'
    OR body LIKE '%"kind":"deprecated"%');
DELETE FROM notices WHERE body LIKE '%"kind":"drift"%' OR body LIKE '%"kind":"certificate_ends"%'
    OR body LIKE '%"kind":"retention_ends"%' OR body LIKE '%"kind":"deprecated"%';
