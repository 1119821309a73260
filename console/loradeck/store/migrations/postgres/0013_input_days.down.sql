DROP TABLE input_days;
-- An older Loradeck reads the notices when it starts, and knows none of these kinds.
DELETE FROM deliveries WHERE seq IN (SELECT seq FROM notices WHERE body LIKE '%"kind":"refused"%'
    OR body LIKE '%"kind":"burning"%'
    OR body LIKE '%"kind":"acted_alone"%'
    OR body LIKE '%"kind":"gate_passed"%'
    OR body LIKE '%"kind":"expected"%');
DELETE FROM notices WHERE body LIKE '%"kind":"refused"%'
    OR body LIKE '%"kind":"burning"%'
    OR body LIKE '%"kind":"acted_alone"%'
    OR body LIKE '%"kind":"gate_passed"%'
    OR body LIKE '%"kind":"expected"%';
